//! Shuffled rounds: in each, every entry of a comparison is measured once in each way, in an order of its own.
//!
//! So all of them see the same moods of the machine, and none is always the one behind the noisy one. A ratio is of
//! medians; its spread is that of the ratios within one round.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use crate::bench::Bench;
use crate::load::{self, Moment, Pace, Plan};
use crate::process;
use crate::protocol::Protocol;
use crate::servers::Contestant;
use crate::support::figures::Spread;
use crate::support::http::Client;

pub const CONNECTIONS: usize = 64;

/// How often metrics are asked for, where they are.
const SCRAPE_EVERY: Duration = Duration::from_secs(1);

/// What is compared: a server, asked in one way.
pub struct Entry<'a> {
    pub name: String,
    pub server: &'a Contestant,
    pub protocol: Protocol,
    pub connections: usize,
    pub depth: usize,
    /// Whether its metrics are scraped meanwhile.
    pub is_scraped: bool,
    /// Whether it is asked at the common rate too, and bears it.
    pub is_paced: bool,
    /// A sample for each round.
    pub closed: Vec<Sample>,
    pub open: Vec<Sample>,
}

/// What one measurement gave.
#[derive(Clone, Debug)]
pub struct Sample {
    pub requests_per_second: f64,
    pub ids_per_second: f64,
    /// Processor time of the server for each request, in microseconds; and of the generator.
    pub cpu: f64,
    pub generator_cpu: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub lateness_p99_ms: f64,
    pub resident_mib: f64,
}

impl<'a> Entry<'a> {
    pub fn of(server: &'a Contestant) -> Self {
        Self {
            name: server.name.clone(),
            server,
            protocol: server.protocol.clone(),
            connections: CONNECTIONS,
            depth: 1,
            is_scraped: false,
            is_paced: true,
            closed: Vec::new(),
            open: Vec::new(),
        }
    }

    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    pub fn deep(mut self, depth: usize) -> Self {
        self.depth = depth;
        self
    }

    /// In a closed loop only: it could not bear the rate of the others.
    pub fn unpaced(mut self) -> Self {
        self.is_paced = false;
        self
    }

    /// The spread of a figure over the closed loops of all rounds, or over the open ones.
    pub fn of_closed(&self, figure: impl Fn(&Sample) -> f64) -> Spread {
        Spread::of(self.closed.iter().map(figure))
    }

    pub fn of_open(&self, figure: impl Fn(&Sample) -> f64) -> Spread {
        Spread::of(self.open.iter().map(figure))
    }
}

/// The ratio of a figure's medians, and the ratios within the rounds.
pub fn ratio(ours: &[Sample], others: &[Sample], figure: impl Fn(&Sample) -> f64) -> Spread {
    let median = |samples: &[Sample]| Spread::of(samples.iter().map(&figure)).median;
    let rounds = Spread::of(ours.iter().zip(others).map(|(our, other)| figure(our) / figure(other)));
    Spread { median: median(ours) / median(others), ..rounds }
}

/// By which factor two equal ones differed within a round, at most: 1 and more.
pub fn deviation(ratio: Spread) -> f64 {
    ratio.max.max(1.0 / ratio.min)
}

/// How long each measurement takes, and how often.
#[derive(Clone, Copy, Debug)]
pub struct Rounds {
    pub count: usize,
    /// Of the closed loop; none where it is zero.
    pub closed: Duration,
    pub open: Duration,
    pub rate: Option<f64>,
}

/// Half of what the slowest of the paced `entries` can do: a rate that all bear. Of some tries the best counts, for what
/// a machine takes away for a moment is no limit of theirs.
pub fn half_load(bench: &mut Bench, entries: &[Entry<'_>]) -> f64 {
    let (tries, length) = (bench.rounds(3), bench.seconds(0.5));
    let mut best = vec![0.0_f64; entries.len()];
    for _ in 0..tries {
        for (entry, best) in entries.iter().zip(&mut best).filter(|(entry, _)| entry.is_paced) {
            *best = best.max(measure(bench, entry, Pace::Closed, length).requests_per_second);
        }
    }
    let half = best.into_iter().filter(|best| *best > 0.0).fold(f64::MAX, f64::min) / 2.0;
    // Two digits are enough of a number that is chosen.
    let unit = 10_f64.powf(half.log10().floor() - 1.0);
    (half / unit).floor() * unit
}

/// Runs all rounds.
pub fn run(bench: &mut Bench, entries: &mut [Entry<'_>], rounds: Rounds) {
    for _ in 0..rounds.count {
        let mut order: Vec<(usize, bool)> = Vec::new();
        for (number, entry) in entries.iter().enumerate() {
            if !rounds.closed.is_zero() {
                order.push((number, false));
            }
            if rounds.rate.is_some() && entry.is_paced {
                order.push((number, true));
            }
        }
        bench.random.shuffle(&mut order);
        for (number, is_open) in order {
            let entry = &mut entries[number];
            let pace = rounds.rate.filter(|_| is_open).map_or(Pace::Closed, Pace::Open);
            let sample = measure(bench, entry, pace, if is_open { rounds.open } else { rounds.closed });
            if is_open { &mut entry.open } else { &mut entry.closed }.push(sample);
        }
    }
}

/// Measures once. Errors and repeats are the bench's to remember.
pub fn measure(bench: &mut Bench, entry: &Entry<'_>, pace: Pace, measured: Duration) -> Sample {
    let plan = Plan {
        port: entry.server.port,
        protocol: entry.protocol.clone(),
        connections: entry.connections,
        threads: bench.threads,
        depth: entry.depth,
        pace,
        warm_up: bench.warm_up(),
        measured,
    };
    let (pid, port) = (entry.server.pid, entry.server.port);
    let look = |moment| {
        let used = [process::cpu(pid), process::own_cpu(), process::everyone()];
        (used, if moment == Moment::End { process::resident(pid) } else { 0 })
    };
    let (outcome, (before, _), (after, resident)) = thread::scope(|scope| {
        let (stop, stopped) = mpsc::channel::<()>();
        if entry.is_scraped {
            scope.spawn(move || scrape(port, &stopped));
        }
        let result = load::run(&plan, look);
        drop(stop);
        result
    });
    if outcome.answered == 0 || outcome.errors > 0 {
        bench.failed(&entry.name, outcome.errors.max(1), outcome.first_error.as_deref().unwrap_or("no answer"));
    }
    let requests = outcome.answered.max(1) as f64;
    let [server, generator, everyone] =
        [0, 1, 2].map(|number| after[number].saturating_sub(before[number]).as_secs_f64());
    bench.disturbed((everyone - server - generator) / measured.as_secs_f64());
    let sample = Sample {
        requests_per_second: outcome.requests_per_second(),
        ids_per_second: outcome.ids_per_second(),
        cpu: server * 1e6 / requests,
        generator_cpu: generator * 1e6 / requests,
        p50_ms: outcome.ms(0.5),
        p99_ms: outcome.ms(0.99),
        p999_ms: outcome.ms(0.999),
        lateness_p99_ms: outcome.lateness_ms(0.99),
        resident_mib: resident as f64 / f64::from(1 << 20),
    };
    bench.count(&entry.server.name, &entry.server.seen, outcome.seen);
    sample
}

/// Asks for the metrics, as a Prometheus does, until who holds the other end lets go.
fn scrape(port: u16, stopped: &mpsc::Receiver<()>) {
    let mut client = Client::connect(port);
    while stopped.recv_timeout(SCRAPE_EVERY).is_err_and(|error| error == RecvTimeoutError::Timeout) {
        let response = client.get("/metrics");
        assert_eq!(response.status, 200, "metrics are there to be scraped");
    }
}
