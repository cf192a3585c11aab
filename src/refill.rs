//! The background work that leases blocks before the ones in memory run out.
//!
//! One task a sequence, so that it has at most one lease in flight. It is woken by thresholds, promotions and waiting
//! requests, and looks every second all the same: a lost wake-up costs a second, not a stall. Whatever a lease does, an
//! error or a panic, the task goes on, with pauses that grow to two seconds.

use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::metrics::Metrics;
use crate::segment::Block;
use crate::sequence::Sequence;
use crate::store::guard::Guard;
use crate::store::{ErrorKind, StoreError};

pub mod policy;
use policy::{Backoff, Facts, Policy, Rate};

/// How often it looks without being woken.
const TICK: Duration = Duration::from_secs(1);

/// No lease may take longer, whatever its store's own time-outs add up to.
const LEASE_TIMEOUT: Duration = Duration::from_secs(30);

/// Conflicts are part of sharing a table; for longer than this, something holds a lock that a person should know of.
const CONFLICT_PATIENCE: Duration = Duration::from_secs(1);

/// The refill of one sequence.
pub struct Refill {
    /// Whose ids it leases.
    pub sequence: Arc<Sequence>,
    /// From where.
    pub store: Arc<Guard>,
    /// When and how much.
    pub policy: Policy,
    /// Where leases are counted.
    pub metrics: Arc<Metrics>,
}

/// How the task stands, for who starts and stops the server.
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
        Err(panic) => Err(Broken::Panicked(panic)),
    }
}

enum Outcome {
    Leased(Vec<Block>),
    Failed(StoreError),
    Panicked(String),
}

impl Refill {
    /// Leases until `stop` says so (or its sender is gone); a lease in flight is then given up, which leaves a gap.
    /// Reports to `progress` until the first lease worked.
    pub async fn run(self, progress: watch::Sender<Progress>, mut stop: watch::Receiver<bool>) {
        tokio::select! {
            () = self.lease_for_ever(&progress) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    async fn lease_for_ever(&self, progress: &watch::Sender<Progress>) {
        let started = Instant::now();
        let (mut rate, mut backoff) = (Rate::default(), Backoff::default());
        let mut reported = None;
        loop {
            if let Some(want) = self.want(&mut rate, started.elapsed()) {
                match self.lease(want).await {
                    Outcome::Leased(blocks) => {
                        self.recovered(&mut reported);
                        self.sequence.append(&blocks);
                        self.tidy().await;
                        backoff.reset();
                        progress.send_if_modified(|progress| {
                            std::mem::replace(progress, Progress::Leased) != Progress::Leased
                        });
                    }
                    Outcome::Failed(error) => {
                        self.failed(&error.what, Some(error.kind), &mut reported);
                        progress.send_if_modified(|progress| {
                            let is_first_time = *progress != Progress::Leased;
                            if is_first_time {
                                *progress = Progress::Failing(error.kind, error.what);
                            }
                            is_first_time
                        });
                        sleep(backoff.pause(error.kind == ErrorKind::Conflict, jitter())).await;
                    }
                    Outcome::Panicked(what) => {
                        self.failed(&what, None, &mut reported);
                        sleep(backoff.pause(false, jitter())).await;
                    }
                }
                continue;
            }
            tokio::select! {
                () = self.sequence.refill_due() => {}
                () = sleep(TICK) => {}
            }
        }
    }

    /// What the policy says of the sequence as it stands.
    fn want(&self, rate: &mut Rate, at: Duration) -> Option<NonZeroU64> {
        let held = self.sequence.snapshot();
        let (waiters, wanted) = self.sequence.waiting();
        let rate = rate.observe(held.handed_out, at, waiters > 0);
        self.sequence.set_rate(rate);
        self.policy.want(&Facts {
            held: held.held(),
            ready_blocks: held.ready_blocks,
            is_past_mark: held.is_past_mark,
            rate,
            wanted,
        })
    }

    async fn lease(&self, want: NonZeroU64) -> Outcome {
        let (store, name) = (self.store.clone(), self.sequence.name().clone());
        let started = Instant::now();
        let outcome = match guarded(async move { store.lease(&name, want).await }).await {
            Ok(Ok(blocks)) => Outcome::Leased(blocks),
            Ok(Err(error)) => Outcome::Failed(error),
            Err(Broken::TimedOut) => Outcome::Failed(StoreError::new(
                ErrorKind::Unavailable,
                format!("{}: no lease within {} s", self.store.store().describe(), LEASE_TIMEOUT.as_secs()),
            )),
            Err(Broken::Panicked(panic)) => {
                Outcome::Panicked(format!("a lease panicked, which is a bug of seqsvr: {panic}"))
            }
        };
        let (label, ids) = match &outcome {
            Outcome::Leased(blocks) => ("ok", blocks.iter().map(|block| block.len()).sum()),
            Outcome::Failed(error) => (error.kind.outcome(), 0),
            Outcome::Panicked(_) => ("panic", 0),
        };
        self.metrics.lease(self.sequence.name().as_str(), label, started.elapsed(), ids);
        self.sequence.set_capacity_used(self.store.store().capacity_used());
        outcome
    }

    /// A failure costs nothing but a later try; it is not worth a line.
    async fn tidy(&self) {
        let store = self.store.clone();
        let _ = guarded(async move { store.store().tidy().await }).await;
    }

    /// One line when it begins to fail, and one when it fails in another way. `reported` is the outcome that the
    /// last line was about.
    fn failed(&self, what: &str, kind: Option<ErrorKind>, reported: &mut Option<&'static str>) {
        let failing_for = self.sequence.fail(what, kind);
        let is_passing = kind == Some(ErrorKind::Conflict) && failing_for < CONFLICT_PATIENCE;
        // Misconfigured from the start on ends the process, which says so itself.
        let is_final = kind == Some(ErrorKind::Misconfigured) && !self.sequence.health().has_leased;
        let outcome = kind.map_or("panic", ErrorKind::outcome);
        if !is_passing && !is_final && *reported != Some(outcome) {
            *reported = Some(outcome);
            tracing::error!("leasing of sequence {} fails, and is tried again: {what}", self.sequence.name());
        }
    }

    fn recovered(&self, reported: &mut Option<&'static str>) {
        let since = self.sequence.health().failure.as_ref().map(|failure| failure.since);
        if let (Some(_), Some(since)) = (reported.take(), since) {
            let seconds = since.elapsed().as_secs_f64();
            tracing::info!("leasing of sequence {} works again, after {seconds:.1} s", self.sequence.name());
        }
    }
}

/// A random fraction, 0 to 1, from the standard library's seed of hash maps: good enough to spread the nodes.
fn jitter() -> f64 {
    f64::from(u32::try_from(RandomState::new().hash_one(0_u8) >> 32).unwrap_or_default()) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests;
