//! One sequence: an id, a batch, and the bounded wait for them when none is in memory (`wait`). `upkeep` is the refill's
//! side of it; `health` is what people are shown.
//!
//! What always holds: a request that is refused gets no id, and one that is answered gets each id to itself. Waiting is
//! bounded in time and in number.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{Notify, mpsc};

use crate::buffer::{self, Buffer, Dry, Snapshot};
use crate::metrics::{Label, Metrics};
use crate::name::SequenceName;
use crate::refill::policy::{Pace, Policy};
use crate::segment::{Block, Taken};
use crate::store::Terms;

mod health;
mod upkeep;
mod wait;
pub use health::{Failure, Health};
use upkeep::Announced;
pub(crate) use upkeep::Unused;
use wait::Batch;

/// Why a request got no id. The texts are for clients. What the store says (its host, its account, its tables) is for
/// operators: the fields have it, and `/readyz` and the log show it.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TakeError {
    /// None came in time.
    #[error("no id within {} ms: {}", waited.as_millis(), reason(failure.as_ref()))]
    TimedOut {
        /// How long it waited.
        waited: Duration,
        /// What the last lease failed with, if it did.
        failure: Option<String>,
    },
    /// Too many wait already.
    #[error("{limit} requests wait for ids already (limits.waiters): {}", reason(failure.as_ref()))]
    TooManyWaiters {
        /// `limits.waiters`.
        limit: u64,
        /// What the last lease failed with, if it did.
        failure: Option<String>,
    },
    /// More at once than this node ever holds.
    #[error("{asked} ids are more than this node can hold of the sequence: ask for at most {max} at once")]
    TooMany {
        /// How many were asked for.
        asked: u64,
        /// How many may be asked for.
        max: u64,
    },
    /// More at once than the store leases in the time that a request waits.
    #[error(
        "{asked} ids are more than can be leased within {} ms (limits.wait): ask for at most {max} at once", wait.as_millis()
    )]
    TooManyInTime {
        /// How many were asked for.
        asked: u64,
        /// How many may be asked for now.
        max: u64,
        /// `limits.wait`.
        wait: Duration,
    },
    /// The sequence has no more ids, and what the lease failed with; trying again does not help.
    #[error("the sequence has no more ids, and only an operator can give it more (the log says how)")]
    Exhausted(String),
    /// The sequence was deleted.
    #[error("there is no sequence {0} any more: it was deleted")]
    Gone(SequenceName),
    /// The node is shutting down.
    #[error("this node is shutting down: ask another one")]
    Draining,
}

fn reason(failure: Option<&String>) -> &'static str {
    match failure {
        Some(_) => "the store can't be leased from now (/readyz and the log say why). Try again, or ask another node",
        None => "ids are asked for faster than they can be leased. Try again",
    }
}

/// How long a request waits, and how many wait for one sequence.
#[derive(Clone, Copy, Debug)]
pub struct WaitLimits {
    /// How long one waits.
    pub time: Duration,
    /// How many wait at once.
    pub waiters: u64,
}

/// What all sequences of a node share.
#[derive(Debug)]
pub struct Shared {
    /// `refill.threshold`.
    pub threshold: f64,
    /// When and how much is leased.
    pub policy: Policy,
    /// The bounds of waiting.
    pub limits: WaitLimits,
    /// Where all is counted.
    pub metrics: Arc<Metrics>,
    /// To the refill: a sequence is in there at most once.
    pub due: mpsc::UnboundedSender<Arc<Sequence>>,
}

/// A sequence of this node.
#[derive(Debug)]
pub struct Sequence {
    name: SequenceName,
    label: Label,
    buffer: Buffer,
    shared: Arc<Shared>,
    /// For the refill's queue.
    me: Weak<Self>,
    /// Wakes the refill's task of this sequence, where there is one.
    refill_due: Notify,
    /// Whether the refill has it in its queue or has a task for it. Both sides change it by a `swap` that acquires and
    /// releases: whoever wakes has changed something before, and either its `swap` comes first, and the task that gives up
    /// sees that change after its own; or it comes later, finds `false`, and queues it.
    is_tended: AtomicBool,
    /// Requests that wait, and the ids that they still want. Relaxed: a bound and a hint; no data is behind them.
    waiters: AtomicU64,
    wanted: AtomicU64,
    /// The most ids that are held, and so the most at once: more could never come in time and would be lost. Relaxed.
    most_held: AtomicU64,
    /// The bits of floats that the refill measures, for people: ids a second, and how much of all ids is leased.
    /// Relaxed: each stands for itself.
    rate: AtomicU64,
    capacity_used: AtomicU64,
    /// The largest block end leased, also before a restart. Relaxed: for people.
    high_water_mark: AtomicU64,
    /// The one before the first lease: below it this node may have handed ids out in an earlier life. Relaxed: read at the
    /// end, by who has stopped the refill.
    first_mark: AtomicU64,
    /// Held by the batch that is gathering its ids.
    gathering: tokio::sync::Mutex<()>,
    announced: Mutex<Announced>,
    /// What the refill remembers of it between two looks.
    pub(crate) pace: Mutex<Pace>,
    health: Mutex<Health>,
}

impl Sequence {
    /// A sequence that holds nothing yet. `high_water_mark` is the largest block end that this node leased of it before
    /// (exclusive; 0 for none), `most_held` the most ids that should be held at once.
    pub fn new(
        name: SequenceName,
        terms: Terms,
        most_held: u64,
        high_water_mark: u64,
        shared: Arc<Shared>,
    ) -> Arc<Self> {
        let label = shared.metrics.label(&name);
        Arc::new_cyclic(|me| Self {
            name,
            label,
            buffer: Buffer::new(shared.threshold),
            me: me.clone(),
            refill_due: Notify::new(),
            is_tended: AtomicBool::new(false),
            waiters: AtomicU64::new(0),
            wanted: AtomicU64::new(0),
            most_held: AtomicU64::new(most_held),
            rate: AtomicU64::new(0),
            capacity_used: AtomicU64::new(0),
            high_water_mark: AtomicU64::new(high_water_mark),
            first_mark: AtomicU64::new(high_water_mark),
            gathering: tokio::sync::Mutex::new(()),
            announced: Mutex::new(Announced { terms, is_deleted: false, is_new: false }),
            pace: Mutex::new(Pace { incarnation: terms.incarnation, ..Pace::default() }),
            health: Mutex::default(),
            shared,
        })
    }

    /// Its name.
    pub fn name(&self) -> &SequenceName {
        &self.name
    }

    pub(crate) fn label(&self) -> &Label {
        &self.label
    }

    /// What is held.
    pub fn snapshot(&self) -> Snapshot {
        self.buffer.snapshot()
    }

    /// One id out of memory, without a wait, a lock or a system call; `None` if there is none, or no more:
    /// [`next`](Self::next) waits for one, or says why not.
    #[inline]
    pub fn try_next(&self) -> Option<u64> {
        let taken = self.buffer.take_one().ok()?;
        self.after(taken);
        Some(taken.ids.start())
    }

    /// One id; waits only when there is none in memory.
    pub async fn next(&self) -> Result<u64, TakeError> {
        // It looks first: who comes here may have been at `try_next` before.
        match self.buffer.take(1) {
            Ok(taken) => {
                self.after(taken);
                Ok(taken.ids.start())
            }
            Err(dry) => self.wait_for_one(dry).await,
        }
    }

    #[cold]
    async fn wait_for_one(&self, dry: Dry) -> Result<u64, TakeError> {
        let mut batch = Batch::new(self);
        self.wait_for(dry, &mut batch, 1).await?;
        Ok(batch.finish()[0].start())
    }

    /// `count` ids (1 to 2^32), in rising blocks. Takes none before all are in memory, so that nothing is lost if they do not come
    /// in time. Only if they are in too many blocks to be held together, those taken of a batch that fails are lost.
    pub async fn take(&self, count: u64) -> Result<Vec<Block>, TakeError> {
        let max = self.most_held.load(Ordering::Relaxed);
        if count > max {
            return Err(TakeError::TooMany { asked: count, max });
        }
        let held = self.buffer.snapshot().held();
        if count > held {
            self.check_speed(count, held)?;
        }
        let mut batch = Batch::new(self);
        let (mut left, mut dry) = (count, Dry::Empty);
        // If not all of it is there, it waits for its turn with empty hands.
        let mut is_there = held >= count;
        while is_there && left > 0 {
            match self.buffer.take(left) {
                Ok(taken) => {
                    self.after(taken);
                    left -= batch.add(taken.ids);
                }
                Err(why) => {
                    dry = why;
                    is_there = false;
                }
            }
        }
        if left > 0 {
            self.wait_for(dry, &mut batch, left).await?;
        }
        Ok(batch.finish())
    }

    #[inline]
    fn after(&self, taken: Taken) {
        if taken.refill_due {
            self.wake_refill();
        }
    }

    /// Makes the refill look at this sequence.
    #[cold]
    pub fn wake_refill(&self) {
        self.refill_due.notify_one();
        if !self.is_tended.swap(true, Ordering::AcqRel)
            && let Some(me) = self.me.upgrade()
        {
            // Only at the end of the process nobody is there to receive it.
            let _ = self.shared.due.send(me);
        }
    }
}

/// A sequence as one worker sees it: ids out of memory at the cost of the add alone.
#[derive(Debug)]
pub struct Cached {
    sequence: Arc<Sequence>,
    held: buffer::Cached,
}

impl Cached {
    /// The view of a worker, which keeps it.
    pub fn new(sequence: Arc<Sequence>) -> Self {
        let held = sequence.buffer.cached();
        Self { sequence, held }
    }

    /// As [`Sequence::try_next`].
    #[inline]
    pub fn try_next(&mut self) -> Option<u64> {
        let taken = self.sequence.buffer.take_one_by(&mut self.held).ok()?;
        self.sequence.after(taken);
        Some(taken.ids.start())
    }
}

#[cfg(test)]
mod tests;
