//! Where blocks come from: the trait that every store implements, and the errors that its callers branch on.
//!
//! A store never sees a request, and no one but [`guard::Guard`] leases from one.

use std::num::NonZeroU64;
use std::sync::Arc;

use async_trait::async_trait;
use thiserror::Error;

use self::finding::{Expected, Finding, Pruned};
use crate::config::{Config, DEFAULT_MAX_ID, NewSequence, Step, Store};
use crate::name::SequenceName;
use crate::node::Node;
use crate::segment::Block;

mod capacity;
mod counter;
pub mod finding;
pub mod guard;
mod mysql;
mod sqlite;

/// The most blocks that one lease returns, so that *ready* (`buffer::MAX_READY`) has room for them when it is at most
/// half full.
pub const MAX_BLOCKS_PER_LEASE: usize = crate::buffer::MAX_READY / 2;

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
    /// The counter is below what was leased of it: ids could be repeated.
    Regressed,
    /// The counter was last fenced for another server: ids could be repeated.
    NotFenced,
    /// The server, or its cluster's members, changed since the database was opened: retry the whole lease at once.
    Moved,
    /// The counter was fenced just now, past what a failover may have lost: the whole lease again, at once.
    Fenced,
    /// This server is outside of the cluster that the database belongs to, or cut off from it: try the next host.
    Stray,
    /// Two of the hosts take writes, and nobody knows which one has all leases: ids could be repeated.
    TwoWriters,
    /// The step of the tickets is another one than the configured one.
    OtherStep,
    /// Another store than the one that this node leased from.
    OtherStore,
    /// The database may lose what it has acknowledged, which the configuration does not allow.
    NotDurable,
    /// The tickets are moved to another step or layout just now.
    Migrating,
    /// The sequence has no more ids.
    Exhausted,
    /// The terms are not those of the store any more: the sequence was deleted, advanced or moved. Find it again.
    Stale,
    /// What the command line asked for can't be done: there is no such sequence, or there is one already.
    Refused,
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
            Self::Regressed => "regressed",
            Self::NotFenced => "not_fenced",
            Self::Moved => "moved",
            Self::Fenced => "fenced",
            Self::Stray => "stray",
            Self::TwoWriters => "two_writers",
            Self::OtherStep => "other_step",
            Self::OtherStore => "other_store",
            Self::NotDurable => "not_durable",
            Self::Migrating => "migrating",
            Self::Exhausted => "exhausted",
            Self::Stale => "stale",
            Self::Refused => "refused",
        }
    }

    /// Whether the configuration, or what it points to, must be changed by a person.
    pub const fn is_misconfigured(self) -> bool {
        matches!(self, Self::Misconfigured | Self::OtherStep | Self::OtherStore | Self::NotDurable)
    }

    /// Whether the same lease may work at once.
    pub const fn is_passing(self) -> bool {
        matches!(self, Self::Conflict | Self::Moved | Self::Fenced)
    }
}

/// What a node must know of a sequence to lease from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The smallest block, in ids.
    pub step: Step,
    /// The largest id (inclusive).
    pub max_id: u64,
    /// Blocks of an earlier incarnation are not handed out any more: it counts up when a sequence is advanced, and
    /// when a deleted one is created again. 0 where the store has not been asked yet, and in the ticket layout.
    pub incarnation: u32,
}

impl Terms {
    /// Of a sequence that the store was not asked for yet.
    pub fn unknown(step: Step) -> Self {
        Self { step, max_id: DEFAULT_MAX_ID, incarnation: 0 }
    }
}

/// A sequence as the store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// Its name.
    pub name: SequenceName,
    /// What a lease needs.
    pub terms: Terms,
    /// The first id that no lease covered when it was read; `None` in the ticket layout, which can't tell.
    pub next_id: Option<u64>,
    /// It was deleted: its counter is kept, so that one created again with its name goes on from there.
    pub is_deleted: bool,
    /// For people.
    pub description: String,
}

/// What a lease gave.
#[derive(Clone, Debug)]
pub struct Leased {
    /// One block, or several where the store can't give them in one piece.
    pub blocks: Vec<Block>,
    /// How much of the ids that the sequence can ever have is leased, 0 to 1.
    pub capacity_used: f64,
    /// The node's high-water mark before this lease, as the guard found it; a store says 0.
    pub mark: u64,
}

/// Sets blocks aside, durably, each at most once in the life of the store.
#[async_trait]
pub trait BlockStore: Send + Sync {
    /// Leases about `want` ids of `sequence`: one block, or several where the store can't give them in one piece; at
    /// most [`MAX_BLOCKS_PER_LEASE`], not empty, rising, none below the node's high-water mark. They are committed when
    /// this returns. Opens the store where that is due: connects, makes what is missing, checks what is there. Dropping the
    /// future leaves at most a gap.
    ///
    /// A counter below the mark went back: [`ErrorKind::Regressed`], again and again, until a person has set it right. It
    /// must not creep up to the mark by leasing, for what lies between may be in the hands of other nodes. Other terms
    /// than the store's: [`ErrorKind::Stale`], and nothing is leased.
    async fn lease(&self, sequence: &SequenceName, terms: Terms, want: NonZeroU64) -> Result<Leased, StoreError>;

    /// Does what may wait until the blocks of a lease are handed out, such as removing the traces of older leases. What
    /// fails is left for the next time.
    async fn tidy(&self, _sequence: &SequenceName) {}

    /// Whether [`give_back`](Self::give_back) can do anything for `sequence`.
    fn takes_back(&self, _sequence: &SequenceName) -> bool {
        true
    }

    /// Takes `tail`, which the node will not hand out, back, if nobody leased behind it since; says whether it did. To be
    /// called once for a tail, and never again, whatever comes of it: a lost reply may have been a yes. The node's
    /// high-water mark must not be above the end of what it has handed out any more.
    async fn give_back(&self, sequence: &SequenceName, terms: Terms, tail: Block) -> Result<bool, StoreError>;

    /// Those of `names` (at most [`MOST_NAMES`]) that there are, deleted ones among them.
    async fn find(&self, names: &[SequenceName]) -> Result<Vec<Definition>, StoreError>;

    /// A number that changes whenever the definition of a sequence does.
    async fn revision(&self) -> Result<u64, StoreError>;

    /// The most ids of `sequence` that should be held at once; `u64::MAX` where the store does not mind.
    fn most_held(&self, _sequence: &SequenceName, _terms: Terms) -> u64 {
        u64::MAX
    }

    /// What it is and where, for people: `MySQL at tcp(localhost:3306), database sequence`.
    fn describe(&self) -> String;

    /// Closes the connections. What is leased stays leased.
    async fn close(&self);
}

/// What is to be changed; `None` leaves it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// The smallest block, in ids.
    pub step: Option<Step>,
    /// The largest id (inclusive). Not below what is leased already.
    pub max_id: Option<u64>,
    /// For people.
    pub description: Option<String>,
}

/// How far a counter is moved when it is fenced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fence {
    /// So many ids past where it is.
    Skip(u64),
    /// Past this id, the highest that any node has leased.
    Past(u64),
}

/// What a person does to a sequence. What is not possible is [`ErrorKind::Refused`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Makes it; refused where there is one of that name. A deleted one is created again: it goes on from where it was, or
    /// from `first_id` if that is later.
    Create(NewSequence),
    /// As `Create`, for a sequence that the configuration declares: no operator checked whether there was one before.
    Declare(NewSequence),
    /// Changes it.
    Alter(Change),
    /// Moves the counter forward to this next id, never back; what nodes hold from before is dropped. Also declares the
    /// counter safe on the server that it is on now.
    Advance(u64),
    /// Deletes it; refused for `default`. Its counter is kept.
    Delete,
    /// Declares the counter safe on the server that it is on now, once it is moved past all that could be out. What nodes
    /// hold stays good, unless the counter was found to have gone back: then it may be held twice, and is dropped.
    Fence(Fence),
}

/// How the tickets are moved while nodes go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Migration {
    /// `default` to the counter layout.
    Counter,
    /// To another step.
    Step(Step),
    /// To a wider column.
    Widen,
}

/// The statements of a command: run, or only written down.
#[derive(Debug, Default)]
pub struct Script {
    /// Nothing is changed.
    pub is_dry_run: bool,
    /// What would be run, in order, where `is_dry_run`.
    pub statements: Vec<String>,
}

impl Script {
    /// Whether `statement` is to be run; else it is written down.
    pub fn runs(&mut self, statement: impl FnOnce() -> String) -> bool {
        if self.is_dry_run {
            self.statements.push(statement());
        }
        !self.is_dry_run
    }
}

/// What people do to the sequences of a store. Every change counts [`BlockStore::revision`] up, which is how running
/// nodes learn of it.
#[async_trait]
pub trait Catalog: BlockStore {
    /// The sequences whose names come after `after`, in the order of their names, at most `most`; the deleted ones too.
    async fn list(&self, after: Option<&SequenceName>, most: u32) -> Result<Vec<Definition>, StoreError>;

    /// Does `edit`; says whether the counter moved.
    async fn edit(&self, name: &SequenceName, edit: &Edit, script: &mut Script) -> Result<bool, StoreError>;

    /// Rows of `generator_table` that are not of seqsvr, by id and uuid, the last few: a Go server may still lease.
    async fn foreign_rows(&self) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }

    /// Migrates the tickets; what it has to tell a person about that. Interrupted anywhere, it can be run again.
    async fn migrate(&self, migration: Migration, script: &mut Script) -> Result<String, StoreError>;

    /// Looks at all that a person should know of the store, and changes nothing. What can't be reached, or read, is a
    /// finding too.
    async fn examine(&self, expected: Expected<'_>) -> Vec<Finding>;

    /// Deletes the traces that nodes left behind, where the layout has such; a dry run only counts them.
    async fn prune(&self, dry_run: bool) -> Result<Pruned, StoreError>;
}

/// The most names of one [`BlockStore::find`].
pub const MOST_NAMES: usize = 500;

/// What a store is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To lease, or to create a sequence: creates what is missing, and records a move to another server.
    Serve,
    /// To look, or to change what is there.
    Use,
    /// To fence: accepts a part of a cluster for the whole, because an operator says so.
    Fence,
}

/// The store that the configuration selects; nothing is opened yet.
pub fn select(config: &Config, purpose: Purpose, node: Arc<Node>) -> Arc<dyn Catalog> {
    let default = config.default_sequence();
    match &config.store {
        Store::Embedded => Arc::new(sqlite::Sqlite::new(&config.data_dir, default, purpose, node)),
        Store::MySql(mysql) => {
            let is_declared = config.sequences.iter().any(|new| new.name.is_default());
            Arc::new(mysql::MySql::new(mysql, config.step, default, is_declared, purpose, node))
        }
    }
}
