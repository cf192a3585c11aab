//! The bounded wait of a request for which not enough is in memory.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::{Sequence, TakeError};
use crate::buffer::Dry;
use crate::segment::{Block, push_joined};

/// For how long a measured speed says how fast the store leases. Then a large batch may try it again.
const SPEED_HOLDS: Duration = Duration::from_secs(10);

impl Sequence {
    /// Adds `want` more ids to `batch`, waiting for them within the limits. `dry` is what the last take said.
    pub(super) async fn wait_for(&self, dry: Dry, batch: &mut Batch<'_>, want: u64) -> Result<(), TakeError> {
        if dry != Dry::Empty {
            return Err(self.refusal(dry));
        }
        let Some(mut waiting) = Waiting::enter(self, want) else {
            return Err(TakeError::TooManyWaiters { limit: self.shared.limits.waiters, failure: self.failure() });
        };
        self.wake_refill();
        let all = async {
            // One batch gathers at a time, first come first served: else each takes a part and none gets all of it. A
            // single id is no part of anything.
            let _turn = if want > 1 { Some(self.gathering.lock().await) } else { None };
            while waiting.wanted > 0 {
                let taken = self.buffer.take_or_wait(waiting.wanted).await?;
                self.after(taken);
                waiting.got(batch.add(taken.ids));
            }
            Ok(())
        };
        let time = self.shared.limits.time;
        match timeout(time, all).await {
            Ok(done) => done.map_err(|dry| self.refusal(dry)),
            Err(_) => Err(TakeError::TimedOut { waited: time, failure: self.failure() }),
        }
    }

    fn refusal(&self, dry: Dry) -> TakeError {
        match dry {
            Dry::Sealed => TakeError::Draining,
            Dry::Exhausted => TakeError::Exhausted(self.failure().unwrap_or_default()),
            Dry::Gone => TakeError::Gone(self.name.clone()),
            Dry::Empty => TakeError::TimedOut { waited: Duration::ZERO, failure: self.failure() },
        }
    }

    fn failure(&self) -> Option<String> {
        self.health().failure.as_ref().map(|failure| failure.error.clone())
    }

    /// Refuses `count` ids, of which `held` are in memory, if the store was just seen to lease too slowly for them.
    #[cold]
    pub(super) fn check_speed(&self, count: u64, held: u64) -> Result<(), TakeError> {
        let wait = self.shared.limits.time;
        let speed = self.health().speed;
        match speed
            .filter(|speed| speed.at.elapsed() < SPEED_HOLDS)
            .map(|speed| held.saturating_add(speed.ids_in(wait)))
        {
            Some(max) if count > max => Err(TakeError::TooManyInTime { asked: count, max: max.max(1), wait }),
            _ => Ok(()),
        }
    }
}

/// The blocks of one answer. Dropped before [`finish`](Self::finish) (a time-out, or the client left), they are lost.
pub(super) struct Batch<'a> {
    blocks: Vec<Block>,
    sequence: &'a Sequence,
}

impl<'a> Batch<'a> {
    pub(super) fn new(sequence: &'a Sequence) -> Self {
        Self { blocks: Vec::new(), sequence }
    }

    /// Adds a block; how many ids it has.
    pub(super) fn add(&mut self, block: Block) -> u64 {
        push_joined(&mut self.blocks, block);
        block.len()
    }

    pub(super) fn finish(mut self) -> Vec<Block> {
        std::mem::take(&mut self.blocks)
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        let ids: u64 = self.blocks.iter().map(|block| block.len()).sum();
        if ids > 0 {
            self.sequence.shared.metrics.lost(&self.sequence.label, "batch_timeout", ids);
        }
    }
}

/// One request's place among the waiters; given back, and its time counted, when dropped.
struct Waiting<'a> {
    sequence: &'a Sequence,
    wanted: u64,
    since: Instant,
}

impl<'a> Waiting<'a> {
    fn enter(sequence: &'a Sequence, wanted: u64) -> Option<Self> {
        let before = sequence.waiters.fetch_add(1, Ordering::Relaxed);
        if before >= sequence.shared.limits.waiters {
            sequence.waiters.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        sequence.wanted.fetch_add(wanted, Ordering::Relaxed);
        Some(Self { sequence, wanted, since: Instant::now() })
    }

    fn got(&mut self, ids: u64) {
        self.wanted -= ids;
        self.sequence.wanted.fetch_sub(ids, Ordering::Relaxed);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.sequence.waiters.fetch_sub(1, Ordering::Relaxed);
        self.sequence.wanted.fetch_sub(self.wanted, Ordering::Relaxed);
        self.sequence.shared.metrics.waited(&self.sequence.label, self.since.elapsed());
    }
}
