//! How a sequence fares: what readiness, errors and metrics show.

use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Sequence;
use crate::metrics::SequenceSample;
use crate::store::ErrorKind;

/// The longest runway that is told, in seconds.
pub(super) const DAY: f64 = 86_400.0;

/// How the refill of a sequence fares: what readiness and errors print.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// Whether a lease ever worked.
    pub has_leased: bool,
    /// The failure that the last lease ended in.
    pub failure: Option<Failure>,
    /// How fast the store leases, seen when a lease brought less than was asked for.
    pub speed: Option<Speed>,
}

/// How fast a store leases.
#[derive(Clone, Copy, Debug)]
pub struct Speed {
    /// Ids of one lease.
    pub ids: u64,
    /// How long it took.
    pub took: Duration,
    /// When it ended.
    pub at: Instant,
}

impl Speed {
    /// How many ids are leased in `time`: as many leases as end in it, one at least.
    pub fn ids_in(&self, time: Duration) -> u64 {
        let leases = time.as_nanos() / self.took.as_nanos().max(1);
        self.ids.saturating_mul(u64::try_from(leases).unwrap_or(u64::MAX).max(1))
    }
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

impl Sequence {
    /// How the refill fares.
    pub fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
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
}
