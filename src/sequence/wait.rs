//! The bounded wait of a request for which not enough is in memory.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use super::{Sequence, TakeError};
use crate::buffer::Dry;
use crate::segment::{Block, push_joined};

/// How often a batch looks whether leasing works again.
const FAILING_POLL: Duration = Duration::from_millis(10);

impl Sequence {
    /// Adds `want` more ids to `batch`, waiting for them within the limits. `dry` is what the last take said.
    pub(super) async fn wait_for(&self, dry: Dry, batch: &mut Batch<'_>, want: u64) -> Result<(), TakeError> {
        if dry != Dry::Empty {
            return Err(self.refusal(dry));
        }
        let Some(mut waiting) = Waiting::enter(self, want) else {
            return Err(TakeError::TooManyWaiters { limit: self.shared.limits.waiters, why: self.why_dry() });
        };
        self.wake_refill();
        let all = async {
            // One batch gathers at a time, first come first served: else each takes a part and none gets all of it. A
            // single id is no part of anything.
            let _turn = if want > 1 { Some(self.gathering.lock().await) } else { None };
            // While leasing fails the rest will hardly come: it must not take what others could still be answered with.
            while want > 1 && self.health().failure.is_some() && self.snapshot().held() < waiting.wanted {
                match self.buffer.when_dry() {
                    Dry::Empty => sleep(FAILING_POLL).await,
                    for_good => return Err(for_good),
                }
            }
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
            Err(_) => Err(TakeError::TimedOut { waited: time, why: self.why_dry() }),
        }
    }

    fn refusal(&self, dry: Dry) -> TakeError {
        match dry {
            Dry::Sealed => TakeError::Draining,
            Dry::Exhausted => TakeError::Exhausted(self.why_dry()),
            Dry::Gone => TakeError::Gone(self.name.clone()),
            Dry::Empty => TakeError::TimedOut { waited: Duration::ZERO, why: self.why_dry() },
        }
    }

    fn why_dry(&self) -> String {
        match &self.health().failure {
            Some(failure) => failure.error.clone(),
            None => "ids are asked for faster than they can be leased".to_owned(),
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
