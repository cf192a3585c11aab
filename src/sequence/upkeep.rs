//! What the refill does with a sequence, and is told of it: leases and failures taken in, what the store says, the end.

use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::health::Speed;
use super::{Failure, Sequence};
use crate::buffer::{Refused, Supply};
use crate::segment::{Block, push_joined};
use crate::store::{Definition, ErrorKind, Leased, Terms};

/// What the store says of a sequence; the refill takes it in between two leases.
#[derive(Clone, Copy, Debug)]
pub(super) struct Announced {
    pub(super) terms: Terms,
    pub(super) is_deleted: bool,
    pub(super) is_new: bool,
}

/// What a sequence holds at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unused {
    /// The last run of ids: the counter can only be where it ends.
    pub(crate) tail: Option<Block>,
    /// What lies before it, with ids of others between.
    pub(crate) before: Vec<Block>,
    /// No id from here on (inclusive) was ever handed out by this node.
    pub(crate) handed_to: u64,
}

impl Sequence {
    /// The refill's task gives the sequence up. It must look once more after that, and go on if it finds something to do
    /// and [`tend_again`](Self::tend_again) says so.
    pub(crate) fn leave(&self) {
        self.is_tended.swap(false, Ordering::AcqRel);
    }

    /// Whether the task that left may go on; else another one has the sequence.
    pub(crate) fn tend_again(&self) -> bool {
        !self.is_tended.swap(true, Ordering::AcqRel)
    }

    /// Ends when the refill should look: a threshold was passed, a block promoted, or a request waits.
    pub(crate) async fn refill_due(&self) {
        self.refill_due.notified().await;
    }

    pub(crate) fn set_rate(&self, rate: f64) {
        self.rate.store(rate.to_bits(), Ordering::Relaxed);
    }

    pub(crate) fn set_capacity_used(&self, used: f64) {
        self.capacity_used.store(used.to_bits(), Ordering::Relaxed);
    }

    /// What the store was last heard to say.
    pub fn terms(&self) -> Terms {
        self.announced().terms
    }

    /// Whether the sequence was deleted.
    pub(crate) fn is_deleted(&self) -> bool {
        self.announced().is_deleted
    }

    fn announced(&self) -> MutexGuard<'_, Announced> {
        self.announced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what the store says of it; `None` where the store has no such sequence. The refill acts on it.
    pub(crate) fn announce(&self, found: Option<&Definition>) {
        self.announce_if(found, |terms, before| {
            // Readings may overtake each other: what is older says nothing. (0 is not counted: `default` has it in the
            // ticket layout.)
            terms.incarnation >= before.incarnation || terms.incarnation == 0
        });
    }

    /// As [`announce`](Self::announce), also what looks older, by who was refused with what is newer: a failover may have lost
    /// a change. Taken wrongly, it costs the ids that are held.
    pub(crate) fn announce_again(&self, found: Option<&Definition>) {
        self.announce_if(found, |_, _| true);
    }

    fn announce_if(&self, found: Option<&Definition>, is_right: impl FnOnce(Terms, Terms) -> bool) {
        {
            let mut announced = self.announced();
            let terms = found.map_or(announced.terms, |found| found.terms);
            let is_deleted = found.is_none_or(|found| found.is_deleted);
            if !is_right(terms, announced.terms) || (announced.terms == terms && announced.is_deleted == is_deleted) {
                return;
            }
            *announced = Announced { terms, is_deleted, is_new: true };
        }
        self.wake_refill();
    }

    /// For the refill: what was announced since it last asked.
    pub(crate) fn news(&self) -> Option<(Terms, bool)> {
        let mut announced = self.announced();
        std::mem::take(&mut announced.is_new).then_some((announced.terms, announced.is_deleted))
    }

    /// Whether [`news`](Self::news) would have some.
    pub(crate) fn has_news(&self) -> bool {
        self.announced().is_new
    }

    /// Drops all that is held, for `reason`. To be called by who appends.
    pub(crate) fn drop_held(&self, reason: &str) {
        let ids = self.buffer.clear().iter().map(|block| block.len()).sum();
        self.shared.metrics.lost(&self.label, reason, ids);
    }

    pub(crate) fn set_supply(&self, supply: Supply) {
        self.buffer.set_supply(supply);
    }

    pub(crate) fn set_most_held(&self, most: u64) {
        self.most_held.store(most, Ordering::Relaxed);
    }

    pub(crate) fn most_held(&self) -> u64 {
        self.most_held.load(Ordering::Relaxed)
    }

    /// Takes in that a lease of `ids` ids, fewer than were asked for, took so long.
    pub(crate) fn saw_speed(&self, ids: u64, took: Duration) {
        self.health().speed = Some(Speed { ids, took, at: Instant::now() });
    }

    /// Takes in a lease.
    pub(crate) fn append(&self, leased: &Leased) {
        {
            let mut health = self.health();
            if !health.has_leased {
                // Not the one of the start: with another store, where that is allowed, the marks begin anew.
                self.first_mark.store(leased.mark, Ordering::Relaxed);
                self.high_water_mark.store(leased.mark, Ordering::Relaxed);
            }
            health.has_leased = true;
            health.failure = None;
        }
        for block in &leased.blocks {
            self.high_water_mark.fetch_max(block.end(), Ordering::Relaxed);
            match self.buffer.append(*block) {
                Ok(()) => {}
                Err(Refused::Sealed) => self.shared.metrics.lost(&self.label, "shutdown", block.len()),
                Err(refused) => {
                    tracing::error!("sequence {}: the leased block {block:?} is discarded: {refused:?}", self.name);
                    self.shared.metrics.lost(&self.label, "discarded", block.len());
                }
            }
        }
    }

    /// Takes in a failed lease; `None` for a panic. For how long leases have failed.
    pub(crate) fn fail(&self, error: &str, kind: Option<ErrorKind>) -> Duration {
        let since = {
            let mut health = self.health();
            let since = health.failure.as_ref().map_or_else(Instant::now, |failure| failure.since);
            health.failure = Some(Failure { since, error: error.to_owned(), kind });
            since
        };
        // After the reason is there to be read: this wakes who waits for it.
        self.buffer.set_supply(if kind == Some(ErrorKind::Exhausted) { Supply::Exhausted } else { Supply::Open });
        since.elapsed()
    }

    /// What failed before says nothing any more.
    pub(crate) fn forget_failure(&self) {
        self.health().failure = None;
    }

    /// Ends the handing out. What was not handed out.
    pub(crate) fn seal(&self) -> Unused {
        let sealed = self.buffer.seal();
        let mut blocks = Vec::new();
        for block in sealed {
            push_joined(&mut blocks, block);
        }
        let tail = blocks.pop();
        Unused { tail, before: blocks, handed_to: self.first_mark.load(Ordering::Relaxed).max(self.buffer.handed_to()) }
    }

    /// The incarnation of what is held.
    pub(crate) fn held_terms(&self) -> Terms {
        let incarnation = self.pace.lock().unwrap_or_else(PoisonError::into_inner).incarnation;
        Terms { incarnation, ..self.terms() }
    }
}
