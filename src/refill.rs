//! The background work that leases blocks before the ones in memory run out.
//!
//! A sequence that is due (a threshold, a promotion, a request that waits, news from the store) comes through a queue and
//! gets a task, which leases until nothing more is to be done. A busy sequence keeps its task, which looks every second all
//! the same: a lost wake-up costs a second, not a stall. An idle one has none, and costs only its memory. One sequence has
//! at most one lease in flight; those of different ones run side by side, six at most. Whatever a lease
//! does, an error or a panic, its task goes on, with pauses that grow to two seconds.

use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::buffer::Supply;
use crate::faults;
use crate::metrics::Metrics;
use crate::sequence::{Failure, Sequence};
use crate::store::guard::Guard;
use crate::store::{ErrorKind, Leased, StoreError};

pub mod policy;
mod told;
use policy::{Facts, Pace, Policy};
use told::Told;

/// How often a busy sequence is looked at without being woken.
const TICK: Duration = Duration::from_secs(1);

/// No lease may take longer, whatever its store's own time-outs add up to.
const LEASE_TIMEOUT: Duration = Duration::from_secs(30);

/// So many leases run side by side ...
const LEASES_AT_ONCE: usize = 6;

/// ... and so many of sequences whose leases fail for a while: those that hang on a lock, say, must not hold up the others.
const FAILING_LEASES_AT_ONCE: usize = 2;

/// Conflicts are part of sharing a table; for longer than this, something holds a lock that a person should know of.
const CONFLICT_PATIENCE: Duration = Duration::from_secs(1);

/// The refill of all sequences.
pub struct Refill {
    store: Arc<Guard>,
    policy: Policy,
    metrics: Arc<Metrics>,
    leases: Semaphore,
    failing_leases: Semaphore,
    started: Instant,
    progress: watch::Sender<Progress>,
    told: Mutex<Told>,
}

/// A task's hold on a sequence: if it panics, the next who wakes the sequence gets it another one.
struct Tended<'a>(&'a Sequence);

impl Drop for Tended<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.leave();
        }
    }
}

/// How `default` stands, for who starts and stops the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// No lease has ended yet.
    Starting,
    /// The first lease worked.
    Leased,
    /// No lease has worked yet; this is what the last one failed with.
    Failing(ErrorKind, String),
}

/// Why a store's work has no result.
enum Broken {
    TimedOut,
    Panicked(tokio::task::JoinError),
}

/// Runs `work` as a task of its own, which catches a panic, with a time-out; it is given up with this future.
async fn guarded<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Result<T, Broken> {
    let mut task = tokio::task::JoinSet::new();
    task.spawn(tokio::time::timeout(LEASE_TIMEOUT, work));
    match task.join_next().await.expect("one task was spawned") {
        Ok(done) => done.map_err(|_| Broken::TimedOut),
        Err(panic) if panic.is_panic() => Err(Broken::Panicked(panic)),
        // Cancelled, as all tasks at the end of the process.
        Err(_) => std::future::pending().await,
    }
}

enum Outcome {
    Leased(Leased),
    Failed(StoreError),
    Panicked(String),
}

impl Refill {
    /// Leases from `store` by `policy`. Reports to `progress` until the first lease of `default` worked.
    pub fn new(
        store: Arc<Guard>,
        policy: Policy,
        metrics: Arc<Metrics>,
        progress: watch::Sender<Progress>,
    ) -> Arc<Self> {
        let (leases, failing_leases) = (Semaphore::new(LEASES_AT_ONCE), Semaphore::new(FAILING_LEASES_AT_ONCE));
        Arc::new(Self {
            store,
            policy,
            metrics,
            leases,
            failing_leases,
            started: Instant::now(),
            progress,
            told: Mutex::default(),
        })
    }

    /// Tends the sequences that come through `due`, until `stop` says so (or its sender is gone); leases in flight are
    /// then given up, which leaves gaps.
    pub async fn run(
        self: Arc<Self>,
        mut due: mpsc::UnboundedReceiver<Arc<Sequence>>,
        mut stop: watch::Receiver<bool>,
    ) {
        // Dropped with this future, it ends them all.
        let mut tasks = JoinSet::new();
        let tend_all = async {
            loop {
                tokio::select! {
                    Some(sequence) = due.recv() => { tasks.spawn(self.clone().tend(sequence)); }
                    Some(ended) = tasks.join_next() => {
                        // The end of the process cancels its tasks, which is no panic.
                        if let Err(panic) = ended
                            && panic.is_panic()
                        {
                            tracing::error!("the refill of a sequence panicked, which is a bug of seqsvr: {panic}");
                        }
                    }
                    else => std::future::pending().await,
                }
            }
        };
        tokio::select! {
            () = tend_all => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    async fn tend(self: Arc<Self>, sequence: Arc<Sequence>) {
        let _tended = Tended(&sequence);
        loop {
            self.take_in_news(&sequence);
            if let Some(want) = self.want(&sequence) {
                if let Some(pause) = self.lease_once(&sequence, want).await {
                    self.pause(&sequence, pause).await;
                }
                continue;
            }
            if self.is_busy(&sequence) {
                tokio::select! {
                    () = sequence.refill_due() => {}
                    () = sleep(TICK) => {}
                }
                continue;
            }
            sequence.leave();
            if !sequence.has_news() && self.want(&sequence).is_none() {
                // Nobody measures it any more.
                sequence.set_rate(0.0);
                return;
            }
            if !sequence.tend_again() {
                return;
            }
        }
    }

    /// Waits after a failure; not while there are news, for a sequence that fails may be deleted.
    async fn pause(&self, sequence: &Sequence, pause: Duration) {
        let mut over = std::pin::pin!(sleep(pause));
        while !sequence.has_news() {
            tokio::select! {
                () = &mut over => return,
                () = sequence.refill_due() => {}
            }
        }
    }

    /// Acts on what the store was heard to say of the sequence.
    fn take_in_news(&self, sequence: &Sequence) {
        let Some((terms, is_deleted)) = sequence.news() else { return };
        let held_from = std::mem::replace(&mut pace(sequence).incarnation, terms.incarnation);
        sequence.set_most_held(
            self.policy.max_held(terms.step.get(), self.store.store().most_held(sequence.name(), terms)),
        );
        if is_deleted {
            self.is_told_no_more(sequence);
            sequence.forget_failure();
            sequence.drop_held("deleted");
            sequence.set_supply(Supply::Gone);
            tracing::info!("sequence {} was deleted", sequence.name());
        } else {
            // 0: leased before the store was asked, or before `default` moved; both are good.
            if held_from != terms.incarnation && held_from != 0 {
                sequence.drop_held("advanced");
            }
            sequence.set_supply(Supply::Open);
        }
    }

    fn facts(&self, sequence: &Sequence) -> Facts {
        let held = sequence.snapshot();
        let (waiters, wanted) = sequence.waiting();
        let rate = pace(sequence).rate.observe(held.handed_out, self.started.elapsed(), waiters > 0);
        sequence.set_rate(rate);
        Facts {
            held: held.held(),
            ready_blocks: held.ready_blocks,
            is_past_mark: held.is_past_mark,
            rate,
            wanted,
            is_failing: sequence.health().failure.is_some(),
            step: sequence.terms().step.get(),
            most_held: sequence.most_held(),
        }
    }

    /// What the policy says of the sequence as it stands.
    fn want(&self, sequence: &Sequence) -> Option<NonZeroU64> {
        if sequence.is_deleted() {
            return None;
        }
        let facts = self.facts(sequence);
        self.tell_of_runway(sequence, &facts);
        self.policy.want(&facts)
    }

    fn is_busy(&self, sequence: &Sequence) -> bool {
        !sequence.is_deleted() && self.policy.is_busy(&self.facts(sequence))
    }

    /// One lease and what follows from it; how long to pause after a failure.
    async fn lease_once(&self, sequence: &Arc<Sequence>, want: NonZeroU64) -> Option<Duration> {
        match self.lease(sequence, want).await {
            Outcome::Leased(leased) => {
                self.recovered(sequence);
                sequence.append(&leased);
                faults::point("lease-published");
                self.tidy(sequence).await;
                pace(sequence).backoff.reset();
                if sequence.name().is_default() {
                    self.progress
                        .send_if_modified(|progress| std::mem::replace(progress, Progress::Leased) != Progress::Leased);
                }
                None
            }
            Outcome::Failed(error) if error.kind == ErrorKind::Stale => match self.find(sequence).await {
                Ok(()) if sequence.has_news() => None,
                // The store says what it said before: something else is wrong, or it changes all the time.
                Ok(()) => Some(self.failed(sequence, error)),
                Err(error) => Some(self.failed(sequence, error)),
            },
            Outcome::Failed(error) => Some(self.failed(sequence, error)),
            Outcome::Panicked(what) => {
                self.report(sequence, &what, None);
                Some(pace(sequence).backoff.pause(false, jitter()))
            }
        }
    }

    /// Asks the store for the terms of now.
    async fn find(&self, sequence: &Sequence) -> Result<(), StoreError> {
        let (store, names) = (self.store.clone(), [sequence.name().clone()]);
        match guarded(async move { store.store().find(&names).await }).await {
            Ok(found) => {
                sequence.announce_again(found?.first());
                Ok(())
            }
            Err(broken) => Err(self.broken(&broken)),
        }
    }

    /// Takes in a failure; how long to pause.
    fn failed(&self, sequence: &Sequence, error: StoreError) -> Duration {
        self.report(sequence, &error.what, Some(error.kind));
        if sequence.name().is_default() {
            self.progress.send_if_modified(|progress| {
                let is_first_time = *progress != Progress::Leased;
                if is_first_time {
                    *progress = Progress::Failing(error.kind, error.what);
                }
                is_first_time
            });
        }
        pace(sequence).backoff.pause(error.kind.is_passing(), jitter())
    }

    fn broken(&self, broken: &Broken) -> StoreError {
        let what = match broken {
            Broken::TimedOut => {
                format!("{}: no answer within {} s", self.store.store().describe(), LEASE_TIMEOUT.as_secs())
            }
            Broken::Panicked(panic) => format!("a look at the store panicked, which is a bug of seqsvr: {panic}"),
        };
        StoreError::new(ErrorKind::Unavailable, what)
    }

    async fn lease(&self, sequence: &Sequence, want: NonZeroU64) -> Outcome {
        let is_failing = |failure: &Failure| failure.since.elapsed() > CONFLICT_PATIENCE;
        let hangs = !sequence.name().is_default() && sequence.health().failure.as_ref().is_some_and(is_failing);
        let turns = if hangs { &self.failing_leases } else { &self.leases };
        let _permit = turns.acquire().await.expect("the semaphore is never closed");
        let (store, name, terms) = (self.store.clone(), sequence.name().clone(), sequence.terms());
        let started = Instant::now();
        let outcome = match guarded(async move { store.lease(&name, terms, want).await }).await {
            Ok(Ok(leased)) => Outcome::Leased(leased),
            Ok(Err(error)) => Outcome::Failed(error),
            Err(broken @ Broken::TimedOut) => Outcome::Failed(self.broken(&broken)),
            Err(Broken::Panicked(panic)) => {
                Outcome::Panicked(format!("a lease panicked, which is a bug of seqsvr: {panic}"))
            }
        };
        let (label, ids) = match &outcome {
            Outcome::Leased(leased) => {
                sequence.set_capacity_used(leased.capacity_used);
                let ids = leased.blocks.iter().map(|block| block.len()).sum();
                if ids < want.get() {
                    sequence.saw_speed(ids, started.elapsed());
                }
                ("ok", ids)
            }
            Outcome::Failed(error) => {
                if error.kind == ErrorKind::Exhausted {
                    sequence.set_capacity_used(1.0);
                }
                (error.kind.outcome(), 0)
            }
            Outcome::Panicked(_) => ("panic", 0),
        };
        self.metrics.lease(sequence.label(), label, started.elapsed(), ids);
        outcome
    }

    /// A failure costs nothing but a later try; it is not worth a line.
    async fn tidy(&self, sequence: &Sequence) {
        let (store, name) = (self.store.clone(), sequence.name().clone());
        let _ = guarded(async move { store.store().tidy(&name).await }).await;
    }
}

fn pace(sequence: &Sequence) -> MutexGuard<'_, Pace> {
    sequence.pace.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A random fraction, 0 to 1, from the standard library's seed of hash maps: good enough to spread the nodes.
fn jitter() -> f64 {
    f64::from(u32::try_from(RandomState::new().hash_one(0_u8) >> 32).unwrap_or_default()) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests;
