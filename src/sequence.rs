//! One sequence: an id, a batch, and the bounded wait for them when none is in memory.
//!
//! What always holds: a request that is refused gets no id, and one that is answered gets each id to itself. Waiting is
//! bounded in time and in number.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::buffer::{Buffer, Dry, Refused, Snapshot};
use crate::metrics::{Metrics, SequenceSample};
use crate::segment::{Block, Taken, push_joined};
use crate::store::{ErrorKind, SequenceName};

/// The longest runway that is told, in seconds.
const DAY: f64 = 86_400.0;

/// Why a request got no id.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TakeError {
    /// None came in time.
    #[error("no id within {} ms: {why}", waited.as_millis())]
    TimedOut {
        /// How long it waited.
        waited: Duration,
        /// What the refill last failed with.
        why: String,
    },
    /// Too many wait already.
    #[error("{limit} requests wait for ids already (limits.waiters): {why}")]
    TooManyWaiters {
        /// `limits.waiters`.
        limit: u64,
        /// What the refill last failed with.
        why: String,
    },
    /// More at once than this node ever holds.
    #[error("{asked} ids are more than this node can hold of the sequence: ask for at most {most} at once")]
    TooMany {
        /// How many were asked for.
        asked: u64,
        /// How many may be asked for.
        most: u64,
    },
    /// The sequence has no more ids; trying again does not help.
    #[error("{0}")]
    Exhausted(String),
    /// The node is shutting down.
    #[error("this node is shutting down: ask another one")]
    Draining,
}

/// What a request may ask for, how long it waits, and how many wait.
#[derive(Clone, Copy, Debug)]
pub struct TakeLimits {
    /// The most ids at once: as many as are ever held, for more could never come in time and would be lost.
    pub ids: u64,
    /// How long one waits.
    pub time: Duration,
    /// How many wait at once.
    pub waiters: u64,
}

/// How the refill of a sequence fares: what readiness and errors print.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// Whether a lease ever worked.
    pub has_leased: bool,
    /// The failure that the last lease ended in.
    pub failure: Option<Failure>,
}

/// A refill that fails.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Since when.
    pub since: Instant,
    /// What the last lease failed with.
    pub error: String,
    /// The kind of it; `None` for a panic.
    pub kind: Option<ErrorKind>,
}

/// A sequence of this node.
#[derive(Debug)]
pub struct Sequence {
    name: SequenceName,
    buffer: Buffer,
    /// Wakes the refill.
    refill_due: Notify,
    limits: TakeLimits,
    /// Requests that wait, and the ids that they still want. Relaxed: a bound and a hint; no data is behind them.
    waiters: AtomicU64,
    wanted: AtomicU64,
    /// The bits of floats that the refill measures, for people: ids a second, and how much of all ids is leased.
    /// Relaxed: each stands for itself.
    rate: AtomicU64,
    capacity_used: AtomicU64,
    /// The largest block end leased, also before a restart. Relaxed: for people.
    high_water_mark: AtomicU64,
    /// Held by the batch that is gathering its ids.
    gathering: tokio::sync::Mutex<()>,
    health: Mutex<Health>,
    metrics: Arc<Metrics>,
}

impl Sequence {
    /// A sequence that holds nothing yet. `threshold` is `refill.threshold`; `high_water_mark` is the largest block end
    /// that this node leased of it before (exclusive; 0 for none).
    pub fn new(
        name: SequenceName,
        threshold: f64,
        limits: TakeLimits,
        high_water_mark: u64,
        metrics: Arc<Metrics>,
    ) -> Self {
        metrics.announce(name.as_str());
        Self {
            name,
            buffer: Buffer::new(threshold),
            refill_due: Notify::new(),
            limits,
            waiters: AtomicU64::new(0),
            wanted: AtomicU64::new(0),
            rate: AtomicU64::new(0),
            capacity_used: AtomicU64::new(0),
            high_water_mark: AtomicU64::new(high_water_mark),
            gathering: tokio::sync::Mutex::new(()),
            health: Mutex::default(),
            metrics,
        }
    }

    /// Its name.
    pub fn name(&self) -> &SequenceName {
        &self.name
    }

    /// One id. From memory without a wait, a lock or a system call; waits only when there is none.
    #[inline]
    pub async fn next(&self) -> Result<u64, TakeError> {
        match self.buffer.take_one() {
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

    /// `count` ids (1 to 2^32), in rising blocks. Takes what is there and goes on with what comes; if not all come in
    /// time, those taken are lost.
    pub async fn take(&self, count: u64) -> Result<Vec<Block>, TakeError> {
        if count > self.limits.ids {
            return Err(TakeError::TooMany { asked: count, most: self.limits.ids });
        }
        let mut batch = Batch::new(self);
        let (mut left, mut dry) = (count, Dry::Empty);
        // Where not all of it is there, it waits for its turn with empty hands.
        let mut is_there = self.buffer.snapshot().held() >= count;
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
            self.refill_due.notify_one();
        }
    }

    /// Adds `want` more ids to `batch`, waiting for them within the limits. `dry` is what the last take said.
    async fn wait_for(&self, dry: Dry, batch: &mut Batch<'_>, want: u64) -> Result<(), TakeError> {
        if dry != Dry::Empty {
            return Err(self.refusal(dry));
        }
        let Some(mut waiting) = Waiting::enter(self, want) else {
            return Err(TakeError::TooManyWaiters { limit: self.limits.waiters, why: self.why_dry() });
        };
        self.refill_due.notify_one();
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
        match timeout(self.limits.time, all).await {
            Ok(done) => done.map_err(|dry| self.refusal(dry)),
            Err(_) => Err(TakeError::TimedOut { waited: self.limits.time, why: self.why_dry() }),
        }
    }

    fn refusal(&self, dry: Dry) -> TakeError {
        match dry {
            Dry::Sealed => TakeError::Draining,
            Dry::Exhausted => TakeError::Exhausted(self.why_dry()),
            Dry::Empty => TakeError::TimedOut { waited: Duration::ZERO, why: self.why_dry() },
        }
    }

    fn why_dry(&self) -> String {
        match &self.health().failure {
            Some(failure) => failure.error.clone(),
            None => "ids are asked for faster than they can be leased".to_owned(),
        }
    }

    /// How the refill fares.
    pub fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is held.
    pub fn snapshot(&self) -> Snapshot {
        self.buffer.snapshot()
    }

    /// Requests that wait, and the ids that they want.
    pub fn waiting(&self) -> (u64, u64) {
        (self.waiters.load(Ordering::Relaxed), self.wanted.load(Ordering::Relaxed))
    }

    /// How many seconds what is held lasts at the rate that the refill last measured; at most a day, and 0 without ids.
    #[allow(clippy::cast_precision_loss)]
    pub fn runway_seconds(&self) -> f64 {
        let rate = f64::from_bits(self.rate.load(Ordering::Relaxed));
        match self.snapshot().held() {
            0 => 0.0,
            held => (held as f64 / rate).min(DAY),
        }
    }

    /// What a scrape finds.
    pub fn sample(&self) -> SequenceSample {
        let snapshot = self.snapshot();
        SequenceSample {
            sequence: self.name.as_str().to_owned(),
            handed_out: snapshot.handed_out,
            held: snapshot.held(),
            runway_seconds: self.runway_seconds(),
            block_size: snapshot.current_size,
            waiters: self.waiting().0,
            capacity_used: f64::from_bits(self.capacity_used.load(Ordering::Relaxed)),
            high_water_mark: self.high_water_mark.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn set_rate(&self, rate: f64) {
        self.rate.store(rate.to_bits(), Ordering::Relaxed);
    }

    pub(crate) fn set_capacity_used(&self, used: f64) {
        self.capacity_used.store(used.to_bits(), Ordering::Relaxed);
    }

    /// Ends when the refill should look: a threshold was passed, a block promoted, or a request waits.
    pub(crate) async fn refill_due(&self) {
        self.refill_due.notified().await;
    }

    /// Takes in leased blocks.
    pub(crate) fn append(&self, blocks: &[Block]) {
        {
            let mut health = self.health();
            health.has_leased = true;
            health.failure = None;
        }
        for block in blocks {
            self.high_water_mark.fetch_max(block.end(), Ordering::Relaxed);
            match self.buffer.append(*block) {
                Ok(()) => {}
                Err(Refused::Sealed) => self.metrics.lost(self.name.as_str(), "shutdown", block.len()),
                Err(refused) => {
                    tracing::error!("sequence {}: the leased block {block:?} is discarded: {refused:?}", self.name);
                    self.metrics.lost(self.name.as_str(), "discarded", block.len());
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
        self.buffer.set_exhausted(kind == Some(ErrorKind::Exhausted));
        since.elapsed()
    }

    /// Ends the handing out. How many ids are lost.
    pub(crate) fn seal(&self) -> u64 {
        let ids = self.buffer.seal().iter().map(|block| block.len()).sum();
        self.metrics.lost(self.name.as_str(), "shutdown", ids);
        ids
    }
}

/// The blocks of one answer. Dropped before [`finish`](Self::finish) (a time-out, or the client left), they are lost.
struct Batch<'a> {
    blocks: Vec<Block>,
    sequence: &'a Sequence,
}

impl<'a> Batch<'a> {
    fn new(sequence: &'a Sequence) -> Self {
        Self { blocks: Vec::new(), sequence }
    }

    /// Adds a block; how many ids it has.
    fn add(&mut self, block: Block) -> u64 {
        push_joined(&mut self.blocks, block);
        block.len()
    }

    fn finish(mut self) -> Vec<Block> {
        std::mem::take(&mut self.blocks)
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        let ids: u64 = self.blocks.iter().map(|block| block.len()).sum();
        if ids > 0 {
            self.sequence.metrics.lost(self.sequence.name.as_str(), "batch_timeout", ids);
        }
    }
}

/// One request's place among the waiters; given back when dropped.
struct Waiting<'a> {
    sequence: &'a Sequence,
    wanted: u64,
}

impl<'a> Waiting<'a> {
    fn enter(sequence: &'a Sequence, wanted: u64) -> Option<Self> {
        let before = sequence.waiters.fetch_add(1, Ordering::Relaxed);
        if before >= sequence.limits.waiters {
            sequence.waiters.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        sequence.wanted.fetch_add(wanted, Ordering::Relaxed);
        Some(Self { sequence, wanted })
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
    }
}

#[cfg(test)]
mod tests;
