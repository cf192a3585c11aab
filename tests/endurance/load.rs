//! The load: blocking keep-alive connections, a thread each, and the record of what they were answered.
//!
//! Two modes. In a *closed loop* each connection asks again as soon as it has its answer: that shows how much the server
//! can do. In an *open loop* requests are due at a fixed rate, whatever the answers, and are timed from when they were
//! due: a stall is seen by all the requests that it held up, not by one a connection.
//!
//! A run has phases (warm-up, measured, ...), which whoever started it ends one by one. A request belongs to the phase in
//! which it was due.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::support::proxy::{sharpen_sleep, sleep_until};

/// Longer than any answer may take.
const TIMEOUT: Duration = Duration::from_secs(20);

/// From the connections' making to the first request, so that all threads are there by then.
const START: Duration = Duration::from_millis(50);

/// So many failures of one connection in a row, and its thread gives up: the server is gone.
const MOST_FAILURES: u32 = 3;

/// How many errors of each status are kept as texts.
const TEXTS: usize = 3;

/// Stands for a status where there was no answer: the connection broke.
pub const NO_ANSWER: u16 = 0;

/// When requests are sent.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// At once after the last answer.
    Closed,
    /// So many a second, all connections together.
    Open(f64),
}

/// What may be asked for; the bytes of each request, made beforehand.
#[derive(Clone)]
pub struct Requests(Arc<Vec<Vec<u8>>>);

impl Requests {
    pub fn new(paths: impl IntoIterator<Item = impl fmt::Display>) -> Self {
        let request = |path| format!("GET {path} HTTP/1.1\r\nHost: torture\r\n\r\n").into_bytes();
        Self(Arc::new(paths.into_iter().map(request).collect()))
    }
}

/// Which of the requests one connection sends, in turn; where it ends, so does the connection.
pub type Choice = Box<dyn Iterator<Item = u32> + Send>;

/// A load to be started.
pub struct Plan<'a> {
    /// The servers; the connections go to them in turn.
    pub ports: &'a [u16],
    pub connections: usize,
    pub pace: Pace,
    pub requests: &'a Requests,
    /// The choice of each connection, by its number.
    pub choose: &'a dyn Fn(usize) -> Choice,
    pub phases: usize,
}

/// The first request for ever.
pub fn only_one(_connection: usize) -> Choice {
    Box::new(std::iter::repeat(0))
}

/// Goes round and round `drawn`; each connection begins at another place.
pub fn round(drawn: &Arc<Vec<u32>>, connection: usize) -> Choice {
    let (drawn, begin) = (drawn.clone(), connection * drawn.len() / 64);
    Box::new((begin..).map(move |at| drawn[at % drawn.len()]))
}

/// The ids of all answers, each with the number of what was asked for.
#[derive(Default)]
pub struct Ids(Vec<(u32, u64)>);

impl Ids {
    pub fn add(&mut self, target: u32, id: u64) {
        self.0.push((target, id));
    }

    pub fn merge(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The id that was added last.
    pub fn last(&self) -> Option<u64> {
        self.0.last().map(|(_, id)| *id)
    }

    /// How many ids of a sequence were answered again, counted each time.
    pub fn repeats(&mut self) -> usize {
        self.0.sort_unstable();
        self.0.windows(2).filter(|pair| pair[0] == pair[1]).count()
    }
}

/// The first errors of each status.
#[derive(Default)]
pub struct Texts(BTreeMap<u16, Vec<String>>);

impl Texts {
    fn add(&mut self, status: u16, text: impl FnOnce() -> String) {
        let texts = self.0.entry(status).or_default();
        if texts.len() < TEXTS {
            texts.push(text());
        }
    }

    pub fn merge(&mut self, other: Self) {
        for (status, texts) in other.0 {
            for text in texts {
                self.add(status, || text);
            }
        }
    }

    pub fn print(&self) {
        self.0.values().flatten().for_each(|text| println!("for example: {text}"));
    }
}

/// What happened in a phase.
#[derive(Clone)]
pub struct Phase {
    pub took: Duration,
    /// In nanoseconds, of all requests, whatever their answer.
    pub latency: Histogram<u64>,
    /// By how many nanoseconds the generator itself was late: the connection was free, the request due, and the thread
    /// not yet awake.
    pub lateness: Histogram<u64>,
    /// Answers by status; [`NO_ANSWER`] among them.
    pub statuses: BTreeMap<u16, u64>,
}

impl Phase {
    fn new() -> Self {
        // Up to two minutes, so that nothing is cut off; to a thousandth.
        let histogram = Histogram::new_with_bounds(1_000, 120_000_000_000, 3).expect("the bounds are allowed");
        Self { took: Duration::ZERO, latency: histogram.clone(), lateness: histogram, statuses: BTreeMap::new() }
    }

    fn merge(&mut self, other: &Self) {
        self.latency.add(&other.latency).expect("the same bounds");
        self.lateness.add(&other.lateness).expect("the same bounds");
        for (status, count) in &other.statuses {
            *self.statuses.entry(*status).or_default() += count;
        }
    }

    /// Answers with an id.
    pub fn answered(&self) -> u64 {
        self.statuses.get(&200).copied().unwrap_or(0)
    }

    /// All else.
    pub fn errors(&self) -> u64 {
        self.statuses.values().sum::<u64>() - self.answered()
    }

    pub fn ids_per_second(&self) -> f64 {
        self.answered() as f64 / self.took.as_secs_f64()
    }

    /// The latency in milliseconds below which the share `quantile` lies.
    pub fn ms(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1e6
    }

    pub fn max_ms(&self) -> f64 {
        self.latency.max() as f64 / 1e6
    }

    pub fn lateness_ms(&self, quantile: f64) -> f64 {
        self.lateness.value_at_quantile(quantile) as f64 / 1e6
    }
}

/// All of a load.
pub struct Outcome {
    pub phases: Vec<Phase>,
    pub ids: Ids,
    pub texts: Texts,
}

/// A running load. Dropped, it ends without being asked for its outcome.
pub struct Load {
    clock: Arc<Clock>,
    threads: Vec<JoinHandle<Record>>,
}

/// When the phases end, in nanoseconds since the start; `u64::MAX` while a phase has not.
struct Clock {
    start: Instant,
    ends: Vec<AtomicU64>,
}

impl Clock {
    fn since_start(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.start).as_nanos()).expect("less than centuries")
    }

    // Relaxed in both: a thread that sees an end a moment later has counted what was due before it.
    fn end(&self, phase: usize) -> u64 {
        self.ends[phase].load(Ordering::Relaxed)
    }

    /// Ends the phase that runs, if one does.
    fn end_phase(&self) {
        let now = self.since_start(Instant::now());
        if let Some(end) = self.ends.iter().find(|end| end.load(Ordering::Relaxed) == u64::MAX) {
            end.store(now, Ordering::Relaxed);
        }
    }
}

impl Load {
    /// Connects, then begins on all connections at once.
    ///
    /// # Panics
    /// If a server does not accept connections.
    pub fn start(plan: &Plan<'_>) -> Self {
        let connections: Vec<Connection> = plan
            .ports
            .iter()
            .cycle()
            .take(plan.connections)
            .map(|port| Connection::open(*port).expect("the server accepts connections"))
            .collect();
        let ends = (0..plan.phases).map(|_| AtomicU64::new(u64::MAX)).collect();
        let clock = Arc::new(Clock { start: Instant::now() + START, ends });
        let threads = connections.into_iter().enumerate().map(|(number, connection)| {
            let driver = Driver {
                connection,
                clock: clock.clone(),
                schedule: Schedule::new(plan, number, clock.start),
                requests: plan.requests.clone(),
                record: Record::new(plan.phases),
            };
            let choice = (plan.choose)(number);
            thread::Builder::new()
                .stack_size(256 << 10)
                .spawn(move || driver.run(choice))
                .expect("a thread can be started")
        });
        Self { threads: threads.collect(), clock }
    }

    /// Starts a load, ends each phase when its time is over, and waits for the last answers.
    pub fn run(plan: &Plan<'_>, phases: &[Duration]) -> Outcome {
        assert_eq!(plan.phases, phases.len());
        let load = Self::start(plan);
        for phase in phases {
            load.run_phase(*phase);
        }
        load.finish()
    }

    /// Lets the phase that runs take so long, then ends it.
    pub fn run_phase(&self, length: Duration) {
        let phase = self.clock.ends.iter().position(|end| end.load(Ordering::Relaxed) == u64::MAX);
        let begin = match phase.expect("a phase is left") {
            0 => self.clock.start,
            later => self.clock.start + Duration::from_nanos(self.clock.end(later - 1)),
        };
        sleep_until(begin + length);
        self.end_phase();
    }

    pub fn end_phase(&self) {
        self.clock.end_phase();
    }

    /// Whether no connection has anything left to do.
    pub fn is_over(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Ends the phases that are left, and waits for the last answers.
    pub fn finish(mut self) -> Outcome {
        self.end_all();
        let mut phases = vec![Phase::new(); self.clock.ends.len()];
        let (mut ids, mut texts) = (Ids::default(), Texts::default());
        for thread in std::mem::take(&mut self.threads) {
            let record = thread.join().expect("a connection's thread");
            for (phase, other) in phases.iter_mut().zip(&record.phases) {
                phase.merge(other);
            }
            ids.merge(record.ids);
            texts.merge(record.texts);
        }
        let mut begin = 0;
        for (number, phase) in phases.iter_mut().enumerate() {
            let end = self.clock.end(number);
            phase.took = Duration::from_nanos(end - begin);
            begin = end;
        }
        Outcome { phases, ids, texts }
    }

    fn end_all(&self) {
        for _ in &self.clock.ends {
            self.clock.end_phase();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end_all();
    }
}

/// When one connection's requests are due.
#[derive(Clone, Copy)]
struct Schedule {
    first: Instant,
    /// In seconds; `None` in a closed loop.
    interval: Option<f64>,
}

impl Schedule {
    /// Spreads the requests of all connections evenly.
    fn new(plan: &Plan<'_>, connection: usize, start: Instant) -> Self {
        match plan.pace {
            Pace::Closed => Self { first: start, interval: None },
            Pace::Open(rate) => Self {
                first: start + Duration::from_secs_f64(connection as f64 / rate),
                interval: Some(plan.connections as f64 / rate),
            },
        }
    }

    /// Waits until request `number` is due; when that was.
    fn wait(&self, number: u64) -> Instant {
        if let Some(interval) = self.interval {
            let due = self.first + Duration::from_secs_f64(interval * number as f64);
            sleep_until(due);
            due
        } else {
            sleep_until(self.first);
            Instant::now()
        }
    }
}

/// What one connection was answered.
struct Record {
    phases: Vec<Phase>,
    ids: Ids,
    texts: Texts,
}

impl Record {
    fn new(phases: usize) -> Self {
        Self { phases: vec![Phase::new(); phases], ids: Ids::default(), texts: Texts::default() }
    }
}

/// One connection's thread.
struct Driver {
    connection: Connection,
    clock: Arc<Clock>,
    schedule: Schedule,
    requests: Requests,
    record: Record,
}

impl Driver {
    fn run(mut self, choice: Choice) -> Record {
        sharpen_sleep();
        let (mut phase, mut failures) = (0, 0);
        let mut free_since = self.clock.start;
        for (number, target) in (0..).zip(choice) {
            let due = self.schedule.wait(number);
            while phase < self.record.phases.len() && self.clock.since_start(due) >= self.clock.end(phase) {
                phase += 1;
            }
            if phase == self.record.phases.len() {
                break;
            }
            let sent = Instant::now();
            let status = match self.connection.ask(&self.requests.0[target as usize]) {
                Ok(answer) => {
                    failures = 0;
                    match answer.id() {
                        Some(id) => self.record.ids.add(target, id),
                        None => self.record.texts.add(answer.status, || answer.to_string()),
                    }
                    answer.status
                }
                Err(error) => {
                    failures += 1;
                    self.record.texts.add(NO_ANSWER, || format!("no answer: {error}"));
                    NO_ANSWER
                }
            };
            let answered = Instant::now();
            let late = sent.saturating_duration_since(due.max(free_since));
            free_since = answered;
            let counts = &mut self.record.phases[phase];
            counts.latency.saturating_record(nanoseconds(answered - due));
            counts.lateness.saturating_record(nanoseconds(late));
            *counts.statuses.entry(status).or_default() += 1;
            if status == NO_ANSWER {
                let port = self.connection.port;
                match Connection::open(port) {
                    Ok(connection) if failures < MOST_FAILURES => self.connection = connection,
                    _ => break,
                }
            }
        }
        self.record
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).expect("less than centuries")
}

/// A connection with its buffer.
struct Connection {
    port: u16,
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// An answer, in the buffer.
struct Answer<'a> {
    status: u16,
    body: &'a [u8],
}

impl Answer<'_> {
    /// The id, if it is exactly the answer to a plain `/new`.
    fn id(&self) -> Option<u64> {
        let id = self.body.strip_prefix(br#"{"code":0,"msg":"ok","data":{"id":"#)?.strip_suffix(b"}}")?;
        std::str::from_utf8(id).ok()?.parse().ok()
    }
}

impl fmt::Display for Answer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.status, String::from_utf8_lossy(self.body))
    }
}

impl Connection {
    fn open(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_nodelay(true)?;
        Ok(Self { port, stream, buffer: vec![0; 16 << 10] })
    }

    /// One request and its answer. Nothing is left in the buffer, as only one request is under way at a time.
    fn ask(&mut self, request: &[u8]) -> io::Result<Answer<'_>> {
        self.stream.write_all(request)?;
        let mut filled = 0;
        loop {
            let read = self.stream.read(&mut self.buffer[filled..])?;
            if read == 0 {
                // The other side's end; or an answer longer than any that there should be.
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            filled += read;
            if let Some((status, body)) = parse(&self.buffer[..filled])? {
                return Ok(Answer { status, body: &self.buffer[body] });
            }
        }
    }
}

/// The status of an answer and where its body is; `None` while it is not complete.
fn parse(bytes: &[u8]) -> io::Result<Option<(u16, Range<usize>)>> {
    const END: &[u8] = b"\r\n\r\n";
    const LENGTH: &[u8] = b"\r\ncontent-length: ";
    let Some(end) = bytes.windows(END.len()).position(|window| window == END) else { return Ok(None) };
    let (head, start) = (&bytes[..end], end + END.len());
    let status = head.strip_prefix(b"HTTP/1.1 ").and_then(number);
    let length = head
        .windows(LENGTH.len())
        .position(|window| window.eq_ignore_ascii_case(LENGTH))
        .and_then(|at| number(&head[at + LENGTH.len()..]));
    let (Some(status), Some(length)) = (status.and_then(|status| status.try_into().ok()), length) else {
        return Err(io::Error::other(format!("no answer with a length: {}", String::from_utf8_lossy(head))));
    };
    Ok((bytes.len() >= start + length).then_some((status, start..start + length)))
}

/// The number that `bytes` begin with.
fn number(bytes: &[u8]) -> Option<usize> {
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&bytes[..digits]).ok()?.parse().ok()
}
