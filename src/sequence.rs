//! One sequence: an id, a batch, and the bounded wait for them when none is in memory.
//!
//! What always holds: a request that is refused gets no id, and one that is answered gets each id to itself. Waiting is
//! bounded in time and in number.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};

use crate::buffer::{self, Buffer, Dry, Refused, Snapshot, Supply};
use crate::metrics::{Label, Metrics, SequenceSample};
use crate::name::SequenceName;
use crate::refill::policy::{Pace, Policy};
use crate::segment::{Block, Taken, push_joined};
use crate::store::{Definition, ErrorKind, Leased, Terms};

/// The longest runway that is told, in seconds.
const DAY: f64 = 86_400.0;

/// How often a batch looks whether leasing works again.
const FAILING_POLL: Duration = Duration::from_millis(10);

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
    /// The sequence was deleted.
    #[error("there is no sequence {0} any more: it was deleted")]
    Gone(SequenceName),
    /// The node is shutting down.
    #[error("this node is shutting down: ask another one")]
    Draining,
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

/// What the store says of a sequence; the refill takes it in between two leases.
#[derive(Clone, Copy, Debug)]
struct Announced {
    terms: Terms,
    is_deleted: bool,
    is_new: bool,
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

    /// `count` ids (1 to 2^32), in rising blocks. Takes what is there and goes on with what comes; if not all come in
    /// time, those taken are lost.
    pub async fn take(&self, count: u64) -> Result<Vec<Block>, TakeError> {
        let most = self.most_held.load(Ordering::Relaxed);
        if count > most {
            return Err(TakeError::TooMany { asked: count, most });
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

    /// The refill's task gives the sequence up. It must look once more after that, and go on if it finds something to do
    /// and [`tend_again`](Self::tend_again) says so.
    pub(crate) fn leave(&self) {
        self.is_tended.swap(false, Ordering::AcqRel);
    }

    /// Whether the task that left may go on; else another one has the sequence.
    pub(crate) fn tend_again(&self) -> bool {
        !self.is_tended.swap(true, Ordering::AcqRel)
    }

    /// Adds `want` more ids to `batch`, waiting for them within the limits. `dry` is what the last take said.
    async fn wait_for(&self, dry: Dry, batch: &mut Batch<'_>, want: u64) -> Result<(), TakeError> {
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
            // Nobody used it yet, or nobody can.
            0 if !self.name.is_default() && self.is_unused() => DAY,
            0 => 0.0,
            held => (held as f64 / rate).min(DAY),
        }
    }

    /// Whether it holds nothing because nobody needs it to.
    fn is_unused(&self) -> bool {
        let health = self.health();
        self.is_deleted() || (!health.has_leased && health.failure.is_none())
    }

    /// Where the runway is less than half of what it should be: how long it is, and should be, in seconds.
    pub fn short_runway(&self) -> Option<(f64, f64)> {
        let (runway, wanted) = (self.runway_seconds(), self.shared.policy.runway.as_secs_f64());
        (runway < wanted / 2.0).then_some((runway, wanted))
    }

    /// What a scrape finds.
    pub fn sample(&self) -> SequenceSample {
        let snapshot = self.snapshot();
        SequenceSample {
            label: self.label.clone(),
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

    pub(crate) fn label(&self) -> &Label {
        &self.label
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

#[cfg(test)]
mod tests;
