//! The sequences of a node, by name. So far there is one, `default`.

use std::sync::Arc;

use crate::metrics::SequenceSample;
use crate::sequence::Sequence;
use crate::store::SequenceName;

/// All sequences of this node.
#[derive(Debug)]
pub struct Sequences {
    default: Arc<Sequence>,
}

impl Sequences {
    /// The sequences of a node that serves `default` alone.
    pub fn new(default: Arc<Sequence>) -> Self {
        Self { default }
    }

    /// The one that `/new` uses.
    #[inline]
    pub fn default_sequence(&self) -> &Arc<Sequence> {
        &self.default
    }

    /// The one with that name; `None` if there is none.
    pub fn get(&self, name: &SequenceName) -> Option<&Arc<Sequence>> {
        (self.default.name() == name).then_some(&self.default)
    }

    /// What a scrape finds.
    pub fn samples(&self) -> Vec<SequenceSample> {
        vec![self.default.sample()]
    }
}
