//! The sequences of a node, by name.
//!
//! A look-up of a known name takes no lock and makes no copy of it. A name that is asked for the first time goes to the
//! [`finder`], which asks the store; one that the store does not know is remembered for a moment, so that a flood of them
//! does not reach the store.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::metrics::Metrics;
use crate::name::SequenceName;
use crate::sequence::{Sequence, Shared};

pub mod finder;
use finder::Asked;

/// How long a name that the store does not know is remembered: a sequence made by others shows after this.
const UNKNOWN_FOR: Duration = Duration::from_secs(2);

/// So many unknown names are remembered; past that all are forgotten.
const MOST_UNKNOWN: usize = 10_000;

/// Why there is no sequence to a name.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum FindError {
    /// No sequence can have that name.
    #[error("{0}")]
    BadName(&'static str),
    /// There is none.
    #[error(
        "there is no sequence {0}: make it with `seqsvr sequence create {0}`, or declare it in the configuration's sequences"
    )]
    Unknown(SequenceName),
    /// Too many are being looked up.
    #[error("the sequence {0} can't be looked up: too many names are asked for at once (limits.waiters). Try again")]
    TooMany(SequenceName),
    /// The node is shutting down.
    #[error("this node is shutting down: ask another one")]
    Draining,
    /// The store could not be asked, or not in time. The text is for clients: what the store says is in `failure`.
    #[error(
        "the sequence {name} can't be looked up in the store now (the log says why). Try again, or ask another node"
    )]
    Unavailable {
        /// The name.
        name: SequenceName,
        /// What failed; `None` if the store did not answer within `limits.wait`.
        failure: Option<String>,
    },
}

/// All sequences of this node that were asked for.
#[derive(Debug)]
pub struct Sequences {
    by_name: papaya::HashMap<SequenceName, Arc<Sequence>>,
    default: Arc<Sequence>,
    unknown: Mutex<HashMap<SequenceName, Instant>>,
    asked: mpsc::Sender<Asked>,
    shared: Arc<Shared>,
}

impl Sequences {
    /// The sequences of a node: `default`, and those that the finder at the other end of `asked` finds.
    pub fn new(default: Arc<Sequence>, asked: mpsc::Sender<Asked>, shared: Arc<Shared>) -> Arc<Self> {
        let by_name = papaya::HashMap::new();
        by_name.pin().insert(default.name().clone(), default.clone());
        Arc::new(Self { by_name, default, unknown: Mutex::default(), asked, shared })
    }

    /// The one that `/new` uses.
    #[inline]
    pub fn default_sequence(&self) -> &Arc<Sequence> {
        &self.default
    }

    /// The one with that name, if it was found before.
    #[inline]
    fn known(&self, name: &str) -> Option<Arc<Sequence>> {
        self.by_name.pin().get(name).cloned()
    }

    /// One id of the sequence with that name out of memory; `None` if it was not found yet, or has none there.
    #[inline]
    pub fn try_next(&self, name: &str) -> Option<u64> {
        self.by_name.pin().get(name)?.try_next()
    }

    /// The one with that name. The first time the store is asked, for at most `limits.wait`.
    pub async fn get(&self, name: &str) -> Result<Arc<Sequence>, FindError> {
        match self.known(name) {
            Some(sequence) => Ok(sequence),
            None => self.find(name).await,
        }
    }

    #[cold]
    async fn find(&self, name: &str) -> Result<Arc<Sequence>, FindError> {
        let name: SequenceName = name.parse().map_err(FindError::BadName)?;
        if self.unknown().get(&name).is_some_and(|since| since.elapsed() < UNKNOWN_FOR) {
            return Err(FindError::Unknown(name));
        }
        let (reply, found) = oneshot::channel();
        match self.asked.try_send(Asked { name: name.clone(), reply }) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(FindError::TooMany(name)),
            Err(TrySendError::Closed(_)) => return Err(FindError::Draining),
        }
        match timeout(self.shared.limits.time, found).await {
            Ok(Ok(Ok(true))) => self.known(name.as_str()).ok_or(FindError::Unknown(name)),
            Ok(Ok(Ok(false))) => Err(FindError::Unknown(name)),
            Ok(Ok(Err(failure))) => Err(FindError::Unavailable { name, failure: Some(failure) }),
            Ok(Err(_)) => Err(FindError::Draining),
            Err(_) => Err(FindError::Unavailable { name, failure: None }),
        }
    }

    fn unknown(&self) -> std::sync::MutexGuard<'_, HashMap<SequenceName, Instant>> {
        self.unknown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember_unknown(&self, name: SequenceName) {
        let mut unknown = self.unknown();
        if unknown.len() >= MOST_UNKNOWN {
            unknown.clear();
        }
        unknown.insert(name, Instant::now());
    }

    /// All that were asked for, `default` among them.
    pub fn all(&self) -> Vec<Arc<Sequence>> {
        self.by_name.pin().values().cloned().collect()
    }

    /// The text that Prometheus reads.
    pub fn render(&self, metrics: &Metrics, is_ready: bool) -> Vec<u8> {
        metrics.render(self.by_name.pin().values().map(|sequence| sequence.sample()), is_ready)
    }
}

#[cfg(test)]
mod tests;
