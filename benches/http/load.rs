//! The load generator: a few threads, each an epoll loop over its share of non-blocking connections.
//!
//! Two modes. In a *closed loop* each connection sends its next requests as soon as the last are answered: that shows how
//! much a server can do. In an *open loop* requests are due at a fixed rate, whatever the answers, and are timed from when
//! they were due: a stall is seen by all the requests that it held up, also by those that could not be sent because
//! their connection was busy.
//!
//! With a depth of 16 a connection sends 16 requests in one write, and the next 16 once all of them are answered; in an
//! open loop they are due together.
//!
//! How many threads: as many as processors, as the servers have. A request costs the generator about what it costs the
//! fastest of them, so one thread on two processors would be what ends at its limit: whatever is asked, about 100,000
//! requests a second. Threads sleep when there is nothing to do, and what a server uses is its own process's.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::ids::Seen;
use crate::protocol::Protocol;
use crate::support::proxy::sleep_until;

mod driver;

use driver::{Driver, Line};

/// Longer than any answer may take, at a login too.
const TIMEOUT: Duration = Duration::from_secs(20);

/// From the connections' making to the first request, so that all threads are there by then.
const START: Duration = Duration::from_millis(20);

/// Files that this process has open besides the load's connections.
const OTHER_FILES: usize = 200;

/// When requests are sent.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// At once after the last answers.
    Closed,
    /// So many requests a second, all connections together.
    Open(f64),
}

/// A load to be run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub port: u16,
    pub protocol: Protocol,
    pub connections: usize,
    pub threads: usize,
    /// How many requests a connection sends at a time.
    pub depth: usize,
    pub pace: Pace,
    pub warm_up: Duration,
    pub measured: Duration,
}

/// What happened in the measured time; ids and errors of the warm-up too.
#[derive(Debug)]
pub struct Outcome {
    pub took: Duration,
    /// Requests whose answer came in the measured time.
    pub answered: u64,
    /// Ids in those answers.
    pub ids: u64,
    /// Answers without an id, connections that broke, and requests that were never answered.
    pub errors: u64,
    pub first_error: Option<String>,
    /// In nanoseconds, of the requests due in the measured time; in a closed loop of those sent in it.
    pub latency: Histogram<u64>,
    /// By how many nanoseconds the generator itself was late: the connection was free, the requests due, and the thread
    /// not yet there.
    pub lateness: Histogram<u64>,
    /// All ids that were answered.
    pub seen: Seen,
}

impl Outcome {
    fn new() -> Self {
        // Up to two minutes, so that nothing is cut off; to a thousandth.
        let histogram = Histogram::new_with_bounds(1_000, 120_000_000_000, 3).expect("the bounds are allowed");
        Self {
            took: Duration::ZERO,
            answered: 0,
            ids: 0,
            errors: 0,
            first_error: None,
            latency: histogram.clone(),
            lateness: histogram,
            seen: Seen::default(),
        }
    }

    fn error(&mut self, what: impl FnOnce() -> String) {
        self.errors += 1;
        self.first_error.get_or_insert_with(what);
    }

    fn merge(&mut self, other: Self) {
        self.answered += other.answered;
        self.ids += other.ids;
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
        self.latency.add(&other.latency).expect("the same bounds");
        self.lateness.add(&other.lateness).expect("the same bounds");
        self.seen.merge(other.seen);
    }

    pub fn requests_per_second(&self) -> f64 {
        self.answered as f64 / self.took.as_secs_f64()
    }

    pub fn ids_per_second(&self) -> f64 {
        self.ids as f64 / self.took.as_secs_f64()
    }

    /// The latency in milliseconds below which the share `quantile` lies.
    pub fn ms(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1e6
    }

    pub fn lateness_ms(&self, quantile: f64) -> f64 {
        self.lateness.value_at_quantile(quantile) as f64 / 1e6
    }
}

/// When all threads begin, and the measured time: nanoseconds since the beginning.
#[derive(Clone, Debug)]
struct Clock {
    start: Instant,
    measured: Range<u64>,
}

impl Clock {
    /// Zero before the beginning.
    fn now(&self) -> u64 {
        nanoseconds(self.start.elapsed())
    }
}

/// A moment of the measured time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    Begin,
    End,
}

/// Runs `plan`. `look` is called when the measured time begins and when it ends, in this thread, and its results are
/// returned with the outcome: it looks at the processor time that the server has used.
///
/// # Panics
/// If the server does not accept connections, or the login fails.
pub fn run<T>(plan: &Plan, look: impl Fn(Moment) -> T) -> (Outcome, T, T) {
    let mut ids = Vec::new();
    let mut lines: Vec<Vec<Line>> = (0..plan.threads).map(|_| Vec::new()).collect();
    for number in 0..plan.connections {
        let line =
            Line::open(plan, &mut ids).unwrap_or_else(|error| panic!("connection {number} to {}: {error}", plan.port));
        lines[number % plan.threads].push(line);
    }
    let warm_up = nanoseconds(plan.warm_up);
    let clock = Clock { start: Instant::now() + START, measured: warm_up..warm_up + nanoseconds(plan.measured) };
    let threads: Vec<_> = (0_usize..)
        .zip(lines)
        .filter(|(_, lines)| !lines.is_empty())
        .map(|(number, lines)| {
            let driver = Driver::new(plan, clock.clone(), lines, number).expect("epoll and a timer");
            thread::spawn(move || driver.run())
        })
        .collect();
    sleep_until(clock.start + plan.warm_up);
    let before = look(Moment::Begin);
    sleep_until(clock.start + plan.warm_up + plan.measured);
    let after = look(Moment::End);
    let mut outcome = Outcome::new();
    outcome.seen.add(ids);
    for thread in threads {
        outcome.merge(thread.join().expect("a thread of the generator"));
    }
    outcome.took = plan.measured;
    (outcome, before, after)
}

/// As many as there are processors.
pub fn default_threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// The most connections that this process may have; see `ulimit -n`.
pub fn most_connections() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    soft.unwrap_or(1024).saturating_sub(OTHER_FILES)
}

pub fn connect(port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).expect("less than centuries")
}
