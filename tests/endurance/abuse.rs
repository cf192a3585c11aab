//! Clients that mean harm beside clients that behave well, and these are not to notice.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::load::{Load, Pace, Phase, Plan, Requests, only_one};
use crate::report::{Bound, Spread, Table, heading};
use crate::rig::{Layout, mariadb, node, seconds, start, times};

/// What the well-behaved ask for a second, over so many connections: far from all that the machine can do, for what is
/// measured is whether they are held up, not how processors are shared.
const RATE: f64 = 2_000.0;
const CONNECTIONS: usize = 16;

/// Connections that send a good request and then one byte; each is made anew once it is closed.
const HELD: usize = 500;

/// Connections that ask and never read; each is made anew once it is closed. They ask for what has a long answer, and
/// slowly: else it would be measured what those answers cost.
const UNREAD: usize = 5;

/// Malformed requests, one each so often, on a connection of its own.
const MALFORMED_EVERY: Duration = Duration::from_millis(10);

/// How often the attackers look at their connections.
const LOOK: Duration = Duration::from_millis(20);

/// The pause behind each connection that they make, so that they don't all come at once.
const MADE_EVERY: Duration = Duration::from_millis(2);

/// The most p99 under attack, of p99 without.
const MOST_P99: f64 = 2.0;

/// The most resident memory.
const MOST_MEMORY_MIB: f64 = 128.0;

pub fn abuse() -> Vec<Bound> {
    let (warm_up, measured, rounds) = (seconds(10, 3), seconds(10, 6), times(5, 2));
    heading(
        "abuse",
        &format!(
            "open loop, {RATE} GET /new a second; {rounds} rounds of {} s without and with {HELD} connections that send \
             a good request and one byte, {UNREAD} that never read, and a malformed request every {} ms; keep_alive 2 s",
            measured.as_secs(),
            MALFORMED_EVERY.as_millis(),
        ),
    );
    let database = mariadb();
    let setup = node(database.port(), Layout::Counter)
        .env("SEQSVR_LIMITS__KEEP_ALIVE", "2s")
        .env("SEQSVR_LIMITS__REQUEST", "2s");
    let server = start(&setup);
    let requests = Requests::new(["/new"]);
    let plan = Plan {
        ports: &[server.port()],
        connections: CONNECTIONS,
        pace: Pace::Open(RATE),
        requests: &requests,
        choose: &only_one,
        phases: 1 + 2 * rounds,
    };
    let load = Load::start(&plan);
    load.run_phase(warm_up);
    let (mut attacks, mut most_memory) = (Attacks::default(), 0);
    for _ in 0..rounds {
        load.run_phase(measured);
        let attack = Attack::start(server.port());
        load.run_phase(measured);
        most_memory = most_memory.max(server.resident());
        attacks.add(&attack.end());
    }
    let mut outcome = load.finish();

    let (quiet, attacked): (Vec<_>, Vec<_>) = outcome.phases[1..].chunks(2).map(|round| (&round[0], &round[1])).unzip();
    let mut table = Table::new(&["", "errors", "p50 ms", "p99 ms", "max ms", "own lateness p99 ms"]);
    let of = |phases: &[&Phase], what: &dyn Fn(&Phase) -> f64| Spread::of(phases.iter().map(|phase| what(phase)));
    let errors = |phases: &[&Phase]| phases.iter().map(|phase| phase.errors()).sum::<u64>();
    for (name, phases) in [("without", &quiet), ("under attack", &attacked)] {
        table.row(&[
            &name,
            &errors(phases),
            &of(phases, &|phase| phase.ms(0.5)),
            &of(phases, &|phase| phase.ms(0.99)),
            &of(phases, &|phase| phase.max_ms()),
            &of(phases, &|phase| phase.lateness_ms(0.99)),
        ]);
    }
    table.print();
    outcome.texts.print();
    println!("attacks: {attacks:?}; {} MiB resident at most", most_memory >> 20);
    // Each attack against the quiet just before it: a machine changes over minutes.
    let p99 = Spread::of(quiet.iter().zip(&attacked).map(|(quiet, attacked)| attacked.ms(0.99) / quiet.ms(0.99)));
    println!("p99 under attack, of p99 without, a round: {p99}");
    vec![
        Bound::none("abuse: errors of the others", errors(&quiet) + errors(&attacked)),
        Bound::at_most("abuse: p99 of the others, of p99 without", p99.median, MOST_P99, ""),
        Bound::at_most("abuse: resident memory", (most_memory >> 20) as f64, MOST_MEMORY_MIB, "MiB"),
        Bound::at_least("abuse: connections held and closed", attacks.held as f64, (rounds * HELD / 2) as f64, ""),
        Bound::at_least("abuse: malformed requests refused", attacks.refused as f64, rounds as f64, ""),
        Bound::none("abuse: malformed requests answered otherwise", attacks.not_refused),
        Bound::no_repeats("abuse", &mut outcome.ids),
    ]
}

/// What the attackers did.
#[derive(Debug, Default)]
struct Attacks {
    held: u64,
    unread: u64,
    refused: u64,
    not_refused: u64,
}

impl Attacks {
    fn add(&mut self, other: &Self) {
        self.held += other.held;
        self.unread += other.unread;
        self.refused += other.refused;
        self.not_refused += other.not_refused;
    }
}

/// An attack under way: a thread for each kind.
struct Attack {
    is_over: Arc<AtomicBool>,
    threads: [JoinHandle<Attacks>; 3],
}

impl Attack {
    fn start(port: u16) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let start = |attack: fn(u16, &AtomicBool) -> Attacks| {
            let is_over = is_over.clone();
            thread::spawn(move || attack(port, &is_over))
        };
        Self { threads: [start(hold), start(never_read), start(send_malformed)], is_over }
    }

    fn end(self) -> Attacks {
        self.is_over.store(true, Ordering::Relaxed);
        let mut all = Attacks::default();
        for thread in self.threads {
            all.add(&thread.join().expect("an attacker's thread"));
        }
        all
    }
}

fn connect(port: u16) -> std::io::Result<TcpStream> {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port))
}

/// Keeps `count` connections, each made by `make` and again once `is_closed`; how often they were closed.
fn keep(
    count: usize,
    is_over: &AtomicBool,
    make: impl Fn() -> std::io::Result<TcpStream>,
    is_closed: impl Fn(&mut TcpStream) -> bool,
) -> u64 {
    let mut connections: Vec<Option<TcpStream>> = (0..count).map(|_| None).collect();
    let mut closed = 0;
    while !is_over.load(Ordering::Relaxed) {
        for connection in &mut connections {
            if connection.as_mut().is_some_and(&is_closed) {
                closed += 1;
                *connection = None;
            }
            if connection.is_none() {
                *connection = make().ok();
                thread::sleep(MADE_EVERY);
            }
        }
        thread::sleep(LOOK);
    }
    closed
}

fn is_pending(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::WouldBlock
}

fn hold(port: u16, is_over: &AtomicBool) -> Attacks {
    let make = || {
        let mut stream = connect(port)?;
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: torture\r\n\r\n")?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    };
    let is_closed = |stream: &mut TcpStream| match stream.read(&mut [0; 1024]) {
        // The answer: now the one byte.
        Ok(1..) => stream.write_all(b"G").is_err(),
        Ok(0) => true,
        Err(error) => !is_pending(&error),
    };
    Attacks { held: keep(HELD, is_over, make, is_closed), ..Attacks::default() }
}

fn never_read(port: u16, is_over: &AtomicBool) -> Attacks {
    let make = || {
        let stream = connect(port)?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    };
    let some = b"GET /metrics HTTP/1.1\r\nHost: torture\r\n\r\n".repeat(3);
    let is_closed = |stream: &mut TcpStream| stream.write(&some).is_err_and(|error| !is_pending(&error));
    Attacks { unread: keep(UNREAD, is_over, make, is_closed), ..Attacks::default() }
}

fn send_malformed(port: u16, is_over: &AtomicBool) -> Attacks {
    let kinds = [
        b"\x16\x03\x01\x02\x00\x01\xfc\x03\x03".repeat(1_000),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        format!("GET /{} HTTP/1.1\r\nHost: torture\r\n\r\n", "x".repeat(200 << 10)).into_bytes(),
        format!("GET /new HTTP/1.1\r\nHost: torture\r\n{}\r\n", "X: y\r\n".repeat(100)).into_bytes(),
        b"GET /new HTTP/1.1\r\nHost: torture\r\nHost: other\r\n\r\n".to_vec(),
        b"POST /new HTTP/1.1\r\nHost: torture\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            .to_vec(),
    ];
    let mut attacks = Attacks::default();
    let mut due = Instant::now();
    for bytes in kinds.iter().cycle().take_while(|_| !is_over.load(Ordering::Relaxed)) {
        let mut answer = Vec::new();
        if let Ok(mut stream) = connect(port) {
            // Both fail where the server closes before it has read all.
            let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
            let _ = stream.write_all(bytes).and_then(|()| stream.read_to_end(&mut answer));
        }
        if answer.is_empty() || answer.starts_with(b"HTTP/1.1 4") {
            attacks.refused += 1;
        } else {
            attacks.not_refused += 1;
        }
        due += MALFORMED_EVERY;
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    attacks
}
