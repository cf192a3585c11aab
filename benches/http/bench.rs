//! A run of the bench: what the scenarios share, and what they leave behind for the results.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::Duration;

use crate::ids::Seen;
use crate::load;
use crate::plot::Panel;
use crate::report::{Bound, Report};
use crate::support::figures::{Random, Spread};

/// Before each measurement the same load runs for so long without being measured.
const WARM_UP: f64 = 0.5;

/// A quick run takes so much of each time, and so many rounds at most.
const QUICK: f64 = 0.15;
const QUICK_ROUNDS: usize = 2;

/// By which factor two equal servers differed within a round, at most: 1 and more. Nothing smaller says anything.
#[derive(Clone, Copy, Debug)]
pub struct Aa {
    pub cpu: f64,
    pub requests: f64,
    pub tail: f64,
}

pub struct Bench {
    pub report: Report,
    pub bounds: Vec<Bound>,
    pub panels: Vec<Panel>,
    pub random: Random,
    /// Of the load generator.
    pub threads: usize,
    pub is_quick: bool,
    /// What took no part, each with the reason.
    pub absent: BTreeSet<String>,
    /// What two equal servers differed by, once it is known.
    pub aa: Option<Aa>,
    /// For each measurement, how many processors were others'.
    others: Vec<f64>,
    ids: u64,
    repeats: u64,
    errors: u64,
}

/// Of the load generator: `SEQSVR_BENCH_THREADS`, or what disturbs least.
fn threads() -> usize {
    let wanted = std::env::var("SEQSVR_BENCH_THREADS").ok().filter(|wanted| !wanted.is_empty());
    wanted.map_or_else(load::default_threads, |wanted| wanted.parse().expect("SEQSVR_BENCH_THREADS is a number"))
}

impl Bench {
    pub fn new(is_quick: bool) -> Self {
        Self {
            report: Report::default(),
            bounds: Vec::new(),
            panels: Vec::new(),
            random: Random::new(1),
            threads: threads(),
            is_quick,
            absent: BTreeSet::new(),
            aa: None,
            others: Vec::new(),
            ids: 0,
            repeats: 0,
            errors: 0,
        }
    }

    pub fn seconds(&self, full: f64) -> Duration {
        Duration::from_secs_f64(if self.is_quick { full * QUICK } else { full })
    }

    pub fn rounds(&self, full: usize) -> usize {
        if self.is_quick { full.min(QUICK_ROUNDS) } else { full }
    }

    pub fn warm_up(&self) -> Duration {
        self.seconds(WARM_UP)
    }

    /// Remembers how many processors were neither the server's nor the generator's.
    pub fn disturbed(&mut self, processors: f64) {
        self.others.push(processors.max(0.0));
    }

    /// How many that were over all measurements, if there were any.
    pub fn others(&self) -> Option<Spread> {
        (!self.others.is_empty()).then(|| Spread::of(self.others.iter().copied()))
    }

    /// Remembers, and tells at once, that answers of `name` were errors.
    pub fn failed(&mut self, name: &str, errors: u64, first: &str) {
        println!("ERRORS of {name}: {errors}, the first: {first}");
        self.errors += errors;
    }

    /// Adds the ids of one measurement to those that a server has answered before.
    pub fn count(&mut self, name: &str, seen: &RefCell<Seen>, new: Seen) {
        let mut seen = seen.borrow_mut();
        let (known, before) = (seen.count(), seen.repeats().0);
        seen.merge(new);
        let (repeats, first) = seen.repeats();
        self.ids += seen.count() - known;
        if repeats > before {
            println!("REPEATS of {name}: {} ids, for example {first:?}", repeats - before);
            self.repeats += repeats - before;
        }
    }

    /// Different ids, repeats and errors of all answers.
    pub fn verdict(&self) -> (u64, u64, u64) {
        (self.ids, self.repeats, self.errors)
    }
}
