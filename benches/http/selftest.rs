//! The load generator is an instrument: before it measures, it is seen to find what it is to find.
//!
//! A server that misbehaves in one way, and what the generator must say of it. Takes about a second.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::ids::Seen;
use crate::load::{self, Outcome, Pace, Plan};
use crate::protocol::Protocol;
use crate::protocol::http::{Http, Ids};

const MEASURED: Duration = Duration::from_millis(300);

/// A stall much longer than anything that the machine does by itself, and the rate of requests meanwhile.
const STALL: Duration = Duration::from_millis(100);
const RATE: f64 = 2_000.0;

/// What is wrong with a server.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// Every tenth id is the one before it.
    Repeats,
    /// Every tenth answer is a 503.
    Refuses,
    /// One answer is late by [`STALL`], and holds up all others.
    Stalls,
    /// The connections are closed after ten answers.
    Closes,
}

/// Panics if the generator fails to see a fault, or sees one where none is.
pub fn run() {
    repeats_are_counted();
    for depth in [1, 16] {
        let good = load(Fault::None, Pace::Closed, depth);
        assert!(good.answered > 0, "{good:?}");
        assert_eq!((good.errors, good.seen.repeats()), (0, (0, None)), "nothing is wrong");
        assert!(good.ids == good.answered && good.seen.count() >= good.ids, "each answer has an id");

        let repeats = load(Fault::Repeats, Pace::Closed, depth);
        assert!(repeats.seen.repeats().0 > 0 && repeats.errors == 0, "repeats are found");

        let refuses = load(Fault::Refuses, Pace::Closed, depth);
        let text = refuses.first_error.unwrap_or_default();
        assert!(refuses.errors > 0 && text.contains(" 503 "), "an answer that is not 200 is an error: {text}");

        let closes = load(Fault::Closes, Pace::Closed, depth);
        assert!(closes.errors > 0, "a connection that is closed is an error");
    }
    let steady = load(Fault::None, Pace::Open(RATE), 1);
    let expected = RATE * MEASURED.as_secs_f64();
    assert!((steady.latency.len() as f64 - expected).abs() <= 2.0, "{} of {expected} requests", steady.latency.len());

    // All that were due in those 100 of 300 ms have waited, for half of it on average; a loop that waits for its answers
    // would have seen one slow request a connection.
    let stalls = load(Fault::Stalls, Pace::Open(RATE), 1);
    let (late, stall) = (stalls.ms(0.999), STALL.as_secs_f64() * 1e3);
    assert!(late > 0.8 * stall, "a stall of {stall} ms shows in p99.9: {late} ms");
    let half = stalls.latency.count_between(40_000_000, u64::MAX);
    assert!(half as f64 > 0.1 * expected, "{half} of {expected} requests were held up by 40 ms and more");
    assert_eq!(stalls.errors, 0, "late is not wrong");
}

fn repeats_are_counted() {
    let mut seen = Seen::default();
    seen.add(vec![5..6, 1..4, 4..5]);
    assert_eq!((seen.count(), seen.repeats()), (5, (0, None)));
    seen.add(vec![100..200, 3..4]);
    seen.add(vec![150..250, 150..151]);
    // 3; 150 to 199, and 150 once more.
    assert_eq!((seen.count(), seen.repeats()), (5 + 150, (52, Some(3))));
}

fn load(fault: Fault, pace: Pace, depth: usize) -> Outcome {
    let port = serve(fault);
    let plan = Plan {
        port,
        protocol: Protocol::Http(Http::get("/new", Ids::One)),
        connections: 4,
        threads: 1,
        depth,
        pace,
        warm_up: Duration::from_millis(20),
        measured: if matches!(pace, Pace::Open(_)) { MEASURED } else { MEASURED / 5 },
    };
    load::run(&plan, |_| ()).0
}

/// A server with a fault; it ends with its connections.
fn serve(fault: Fault) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    let (next, stall) = (Arc::new(AtomicU64::new(1)), Arc::new(AtomicBool::new(fault == Fault::Stalls)));
    thread::spawn(move || {
        for stream in listener.incoming().take(4).flatten() {
            let (next, stall) = (next.clone(), stall.clone());
            // What fails here, the generator must have seen.
            thread::spawn(move || drop(answer(&stream, fault, &next, &stall)));
        }
    });
    port
}

/// While one thread stalls, the others wait for it.
static STALLED: std::sync::RwLock<()> = std::sync::RwLock::new(());

fn answer(stream: &TcpStream, fault: Fault, next: &AtomicU64, stall: &AtomicBool) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut lines, mut line, mut answered) = (BufReader::new(stream), String::new(), 0_u64);
    loop {
        line.clear();
        if lines.read_line(&mut line)? == 0 {
            return Ok(());
        }
        if line != "\r\n" {
            continue;
        }
        answered += 1;
        if fault == Fault::Closes && answered > 10 {
            return Ok(());
        }
        // Behind the warm-up.
        if answered > 30 && stall.swap(false, Ordering::Relaxed) {
            let _all = STALLED.write();
            thread::sleep(STALL);
        }
        let _shared = (fault == Fault::Stalls).then(|| STALLED.read());
        let mut id = next.fetch_add(1, Ordering::Relaxed);
        let is_faulty = id.is_multiple_of(10);
        id -= u64::from(is_faulty && fault == Fault::Repeats);
        let body = format!(r#"{{"code":0,"msg":"ok","data":{{"id":{id}}}}}"#);
        let status = if is_faulty && fault == Fault::Refuses { "503 Service Unavailable" } else { "200 OK" };
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        (&*stream).write_all(answer.as_bytes())?;
    }
}
