//! Where blocks come from: the trait that every store implements, and the errors that its callers branch on.
//!
//! A store never sees a request, and no one but [`guard::Guard`] calls one.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use thiserror::Error;

use crate::config::{Config, Store};
use crate::node::Node;
use crate::segment::Block;

pub mod guard;
mod mysql;
mod sqlite;

/// The sequence that `/new` uses.
pub const DEFAULT_SEQUENCE: &str = "default";

/// The most blocks that one lease returns, so that *ready* (`buffer::MAX_READY`) has room for them when it is at most
/// half full.
pub const MAX_BLOCKS_PER_LEASE: usize = crate::buffer::MAX_READY / 2;

/// The largest id of a sequence where nothing else is set: 2^53 - 1, the last whole number that a JSON reader with
/// floating point numbers (JavaScript's) tells from its neighbours.
pub const DEFAULT_MAX_ID: u64 = (1 << 53) - 1;

/// The name of a sequence: 1 to 128 of `A-Z a-z 0-9 . _ : -`, case-sensitive.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceName(Arc<str>);

impl SequenceName {
    /// The name as a text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for SequenceName {
    fn default() -> Self {
        Self(DEFAULT_SEQUENCE.into())
    }
}

impl FromStr for SequenceName {
    type Err = &'static str;
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let allowed = |c: u8| c.is_ascii_alphanumeric() || b"._:-".contains(&c);
        if (1..=128).contains(&name.len()) && name.bytes().all(allowed) {
            Ok(Self(name.into()))
        } else {
            Err("a sequence's name has 1 to 128 characters out of A-Z a-z 0-9 . _ : -")
        }
    }
}

impl fmt::Display for SequenceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a lease gave nothing: the kind is for who must decide what to do, the text for people.
#[derive(Debug, Error)]
#[error("{what}")]
pub struct StoreError {
    /// What to do about it.
    pub kind: ErrorKind,
    /// What happened, where, and what to do.
    pub what: String,
}

/// The kinds of [`StoreError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Lost against another transaction: the whole lease again, at once.
    Conflict,
    /// The store is away, slow, full or read-only: again, with growing pauses.
    Unavailable,
    /// The configuration or the database must be changed by a person: a wrong password, a missing database or
    /// privilege, another step, another store.
    Misconfigured,
    /// A guard can't rule out that the ids were handed out before.
    Unsafe,
    /// The sequence has no more ids.
    Exhausted,
}

impl StoreError {
    pub(crate) fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into() }
    }
}

impl ErrorKind {
    /// The value of the metric label `outcome`.
    pub const fn outcome(self) -> &'static str {
        match self {
            Self::Conflict => "conflict",
            Self::Unavailable => "unavailable",
            Self::Misconfigured => "misconfigured",
            Self::Unsafe => "regressed",
            Self::Exhausted => "exhausted",
        }
    }
}

/// Sets blocks aside, durably, each at most once in the life of the store.
#[async_trait]
pub trait BlockStore: Send + Sync {
    /// Leases about `want` ids of `sequence`: one block, or several where the store can't give them in one piece; at
    /// most [`MAX_BLOCKS_PER_LEASE`], not empty, rising, none below the node's high-water mark. They are committed when
    /// this returns. Opens the store where that is due: connects, makes what is missing, checks what is there. Dropping the
    /// future leaves at most a gap.
    ///
    /// A counter below the mark went back: [`ErrorKind::Unsafe`], again and again, until a person has set it right. It
    /// must not creep up to the mark by leasing, for what lies between may be in the hands of other nodes.
    async fn lease(&self, sequence: &SequenceName, want: NonZeroU64) -> Result<Vec<Block>, StoreError>;

    /// Does what may wait until the blocks of a lease are handed out, such as removing the traces of older leases. What
    /// fails is left for the next time.
    async fn tidy(&self) {}

    /// The most ids of `sequence` that should be held at once; `u64::MAX` where the store does not mind.
    fn most_held(&self) -> u64 {
        u64::MAX
    }

    /// How much of the ids that the sequence can ever have is leased, 0 to 1, as the last lease found it.
    fn capacity_used(&self) -> f64;

    /// What it is and where, for people: `MySQL at tcp(localhost:3306), database sequence`.
    fn describe(&self) -> String;

    /// Closes the connections. What is leased stays leased.
    async fn close(&self);
}

/// The store that the configuration selects; nothing is opened yet.
pub fn select(config: &Config, node: Arc<Node>) -> Arc<dyn BlockStore> {
    match &config.store {
        Store::Embedded => Arc::new(sqlite::Sqlite::new(&config.data_dir, config.step, node)),
        Store::MySql(mysql) => Arc::new(mysql::ticket::Tickets::new(mysql, config.step, node)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["default", "a", "Orders.eu-1:x_2", &"x".repeat(128)] {
            assert_eq!(good.parse::<SequenceName>().unwrap().as_str(), good);
        }
        for bad in ["", "a b", "a/b", "é", "a\0", &"x".repeat(129)] {
            assert!(bad.parse::<SequenceName>().is_err(), "{bad}");
        }
    }
}
