//! How many connections are open, and what becomes of one too many.
//!
//! Beyond `limits.connections` a connection still gets one answer: a probe its own, so that nobody takes a full node for a dead one,
//! and any other request a 503. A flood of them is closed without an answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::metrics::Metrics;

/// The connections of this process.
#[derive(Debug)]
pub struct Connections {
    /// Relaxed: a bound; no data is behind it.
    open: AtomicU64,
    max: u64,
    metrics: Arc<Metrics>,
}

impl Connections {
    /// None is open. `max` are served.
    pub fn new(max: u64, metrics: Arc<Metrics>) -> Arc<Self> {
        metrics.max_connections(max);
        Arc::new(Self { open: AtomicU64::new(0), max, metrics })
    }

    /// How many are served.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// How many more than `max` get an answer at once: an eighth, 16 to 1,024.
    pub fn surplus(max: u64) -> u64 {
        (max / 8).clamp(16, 1_024)
    }

    /// How many are open.
    pub fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// A place for one more; `None` where there is not even one for its refusal.
    pub fn enter(self: &Arc<Self>) -> Option<Place> {
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        let place = Place { connections: self.clone(), is_surplus: before >= self.max };
        let is_there = before < self.max + Self::surplus(self.max);
        if !is_there {
            self.refused();
        }
        is_there.then_some(place)
    }

    /// Counts a connection that was refused.
    pub fn refused(&self) {
        self.metrics.connection_refused();
    }
}

/// The place of one connection, until it is dropped.
#[derive(Debug)]
pub struct Place {
    connections: Arc<Connections>,
    is_surplus: bool,
}

impl Place {
    /// Whether it is one too many.
    pub fn is_surplus(&self) -> bool {
        self.is_surplus
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.open.fetch_sub(1, Ordering::Relaxed);
    }
}
