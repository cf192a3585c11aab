//! Clients that mean harm, or know no better: each is answered 4xx or cut off within its time, whoever behaves well is
//! answered all the while, and the server neither panics nor grows.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::http::{Client, get};
use crate::support::server::{Server, Setup, eventually};

const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// Much longer than anything here may hold a connection, so that no busy machine fails a test.
const PATIENCE: Duration = Duration::from_secs(30);

const GOOD: &[u8] = b"GET /new HTTP/1.1\r\nHost: test\r\n\r\n";

const MIB: u64 = 1 << 20;

/// A server whose connections stay open for `keep_alive`, and whose requests may take as long.
fn setup(keep_alive: Duration) -> Setup {
    let time = format!("{}s", keep_alive.as_secs());
    Setup::embedded().env("SEQSVR_LIMITS__KEEP_ALIVE", &time).env("SEQSVR_LIMITS__REQUEST", &time)
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), PATIENCE).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// A connection on which one good request was answered.
fn connect_well(port: u16) -> TcpStream {
    let mut stream = connect(port);
    stream.write_all(GOOD).unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"}}") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("an answer");
        answer.push(byte[0]);
    }
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    stream
}

fn is_pending(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// What comes until the server closes; panics if it does not.
fn read_to_close(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert!(!is_pending(&error), "it is still open, after: {}", String::from_utf8_lossy(&answer));
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// Sends a byte of `bytes` every 50 ms until the server closes; panics if it does not.
fn drip(stream: &mut TcpStream, bytes: impl IntoIterator<Item = u8>) {
    let began = Instant::now();
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    for byte in bytes {
        if stream.write_all(&[byte]).is_err() {
            return;
        }
        match stream.read(&mut [0; 1024]) {
            Ok(1..) => {}
            Err(error) if is_pending(&error) => {}
            Ok(0) | Err(_) => return,
        }
        assert!(began.elapsed() < PATIENCE, "it is still open");
    }
    panic!("all was sent, and it is still open");
}

/// Sends `bytes` again and again and reads nothing, until the server closes; panics if it does not.
fn send_and_never_read(stream: &mut TcpStream, bytes: &[u8]) {
    stream.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
    let (mut is_full, mut began) = (false, Instant::now());
    loop {
        match stream.write(bytes) {
            Ok(_) => {}
            Err(error) if is_pending(&error) => {
                if !std::mem::replace(&mut is_full, true) {
                    began = Instant::now();
                }
            }
            Err(_) => break,
        }
        assert!(began.elapsed() < PATIENCE, "it is still open");
    }
    assert!(is_full, "it was closed while it still read");
}

/// Runs `attack` on a server, while a client that behaves well must get an id for each of its requests.
fn under(attack: impl FnOnce(u16)) {
    let setup = setup(KEEP_ALIVE);
    let server = setup.start();
    while_others_are_answered(&server, || attack(server.port()));
    assert_unharmed(&server, 64 * MIB);
}

fn while_others_are_answered(server: &Server, attack: impl FnOnce()) {
    let is_over = AtomicBool::new(false);
    let behave = || {
        let (mut client, mut last, mut answers) = (Client::connect(server.port()), Instant::now(), 0);
        while !is_over.load(Ordering::Relaxed) {
            // As clients do that know of keep-alive: on a connection that was idle for long one does not ask.
            if last.elapsed() > KEEP_ALIVE / 2 {
                client = Client::connect(server.port());
            }
            assert_eq!(client.get("/new").status, 200);
            (last, answers) = (Instant::now(), answers + 1);
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(answers > 0);
    };
    std::thread::scope(|scope| {
        let others = scope.spawn(behave);
        // Else the scope would wait for ever for the others, and the failure would not be seen.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(attack));
        is_over.store(true, Ordering::Relaxed);
        others.join().expect("the others are answered");
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
}

fn assert_unharmed(server: &Server, most_memory: u64) {
    assert_eq!(get(server.port(), "/new").status, 200, "a new connection is served");
    assert!(!server.log().contains("panicked"), "{}", server.log());
    let resident = server.resident();
    assert!(resident < most_memory, "{} MiB are resident", resident / MIB);
}

#[test]
fn one_good_request_and_then_one_byte() {
    under(|port| {
        let mut held: Vec<TcpStream> = (0..50).map(|_| connect_well(port)).collect();
        let sent = Instant::now();
        for stream in &mut held {
            stream.write_all(b"G").unwrap();
        }
        for stream in &mut held {
            assert_eq!(read_to_close(stream), "");
            assert!(sent.elapsed() >= KEEP_ALIVE, "whoever is slow has that time: {:?}", sent.elapsed());
        }
    });
}

#[test]
fn one_byte_in_the_packet_of_a_good_request() {
    under(|port| {
        let mut stream = connect(port);
        stream.write_all(&[GOOD, b"G"].concat()).unwrap();
        assert!(read_to_close(&mut stream).starts_with("HTTP/1.1 200"));
    });
}

#[test]
fn slow_headers() {
    let headers = || b"GET /new HTTP/1.1\r\nHost: test\r\nX: ".iter().copied().chain(std::iter::repeat(b'x'));
    under(|port| drip(&mut connect(port), headers()));
    under(|port| drip(&mut connect_well(port), headers()));
}

#[test]
fn slow_bodies() {
    let head = b"POST /new HTTP/1.1\r\nHost: test\r\nContent-Length: 10000\r\n\r\n";
    for connect in [connect, connect_well] {
        under(|port| {
            let mut stream = connect(port);
            stream.write_all(head).unwrap();
            drip(&mut stream, std::iter::repeat(b'x'));
        });
    }
}

#[test]
fn a_body_that_goes_on_behind_the_refusal() {
    // actix answers, and would then read the chunks for as long as they come, and wait for as long as they don't.
    let head = b"PUT /new HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n";
    under(|port| {
        let mut stream = connect(port);
        stream.write_all(head).unwrap();
        assert!(read_to_close(&mut stream).starts_with("HTTP/1.1 405"));
        let mut stream = connect(port);
        stream.write_all(head).unwrap();
        drip(&mut stream, b"1\r\nx\r\n".iter().copied().cycle());
    });
}

#[test]
fn answers_that_are_never_read() {
    // One by one, small ones would take longer to fill the kernel than a request may take.
    for requests in [&GOOD.repeat(1000)[..], b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n"] {
        under(|port| send_and_never_read(&mut connect(port), requests));
    }
}

#[test]
fn an_answer_that_is_read_slowly() {
    // 8 MB, which is more than the kernel takes for somebody who reads so little of it.
    let setup = setup(KEEP_ALIVE).env("SEQSVR_STEP", "1000000").env("SEQSVR_LIMITS__BATCH", "1000000");
    let server = setup.env("SEQSVR_LIMITS__WAIT", "2s").start();
    let mut stream = connect(server.port());
    stream.write_all(b"GET /new?count=1000000 HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    let mut answer = vec![0; 1024];
    stream.read_exact(&mut answer).expect("its beginning");
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    eventually("it is closed", || {
        let mut some = [0; 1024];
        stream.read_exact(&mut some).expect("more of it");
        answer.extend(some);
        std::thread::sleep(Duration::from_millis(20));
        // But for the one that asks.
        (server.metric("seqsvr_http_connections ") < 2.0).then_some(())
    });
    answer.extend(read_to_close(&mut stream).into_bytes());
    assert!(!answer.ends_with(b"}}"), "all of it was sent: {} bytes", answer.len());
    assert_unharmed(&server, 64 * MIB);
}

#[test]
fn connections_without_a_request() {
    under(|port| {
        // Nor is one that has not asked yet told anything: a pool would take that for the answer to what it asks.
        let connections = [connect(port), connect_well(port)];
        let since = Instant::now();
        for mut connection in connections {
            assert_eq!(connection.read(&mut [0]).expect("it is closed, not reset"), 0);
            assert!(since.elapsed() >= KEEP_ALIVE, "{:?}", since.elapsed());
        }
    });
}

/// It has an answer all the time, and is never between two requests.
#[test]
fn who_always_has_begun_the_next_request_is_not_slow() {
    let setup = setup(KEEP_ALIVE);
    let server = setup.start();
    let mut stream = connect(server.port());
    let (begin, rest) = GOOD.split_at(10);
    stream.write_all(begin).unwrap();
    let since = Instant::now();
    while since.elapsed() < 4 * KEEP_ALIVE {
        stream.write_all(&[rest, begin].concat()).unwrap();
        assert_ne!(stream.read(&mut [0; 1024]).expect("an answer"), 0, "closed after {:?}", since.elapsed());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn who_waits_for_ids_for_longer_than_a_connection_stays_idle_is_answered() {
    let setup = Setup::new(
        "mysql: {user: u, host: '127.0.0.1:1', database: d}\nlimits: {wait: 6s, keep_alive: 1s, request: 1s}\n",
    );
    let server = setup.start();
    let mut client = Client::connect(server.port());
    assert_eq!(client.get("/new").status, 503);
    assert_eq!(client.get("/new/other").status, 503, "and on the same connection again");
}

/// What must be refused before it costs an id. Each is sent alone, and behind a good request.
fn refusals() -> Vec<(&'static str, Vec<u8>)> {
    let with = |headers: &str| format!("GET /new HTTP/1.1\r\n{headers}\r\n").into_bytes();
    let posted =
        |headers: &str, body: &str| format!("POST /new HTTP/1.1\r\nHost: test\r\n{headers}\r\n{body}").into_bytes();
    // What somebody would smuggle through a proxy that believes the other length.
    let smuggled = "0\r\n\r\nGET /new HTTP/1.1\r\nHost: test\r\n\r\n";
    let mut random = 1_u32;
    let rubbish = std::iter::repeat_with(|| {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (random >> 24) as u8
    });
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
    vec![
        ("binary rubbish", rubbish.take(64 << 10).collect()),
        ("zeros", vec![0; 64 << 10]),
        ("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".repeat(50)),
        ("the preface of HTTP/2", preface.to_vec()),
        ("200 KiB of a path", format!("GET /{} HTTP/1.1\r\nHost: test\r\n\r\n", "x".repeat(200 << 10)).into_bytes()),
        (
            "200 KiB of a query",
            format!("GET /new?{} HTTP/1.1\r\nHost: test\r\n\r\n", "x".repeat(200 << 10)).into_bytes(),
        ),
        ("100 headers", with(&format!("Host: test\r\n{}", "X: y\r\n".repeat(100)))),
        ("200 KiB of one header", with(&format!("Host: test\r\nX: {}\r\n", "y".repeat(200 << 10)))),
        ("two hosts", with("Host: test\r\nHost: other\r\n")),
        ("no host", with("")),
        ("two lengths", posted("Content-Length: 5\r\nContent-Length: 46\r\n", smuggled)),
        ("two equal lengths", posted("Content-Length: 5\r\nContent-Length: 5\r\n", "a=123")),
        ("both lengths", posted("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", smuggled)),
        ("both lengths, the other way", posted("Transfer-Encoding: chunked\r\nContent-Length: 46\r\n", smuggled)),
        ("two encodings", posted("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", smuggled)),
        ("an unknown encoding", posted("Transfer-Encoding: xchunked\r\n", smuggled)),
        ("a blank before a colon", posted("Transfer-Encoding : chunked\r\n", smuggled)),
        ("a negative length", posted("Content-Length: -1\r\n", "")),
        ("a length that is none", posted("Content-Length: +5\r\n", "a=123")),
        ("a length beyond all", posted("Content-Length: 99999999999999999999\r\n", "")),
        ("a chunk beyond all", posted("Transfer-Encoding: chunked\r\n", "fffffffffffffffff\r\n")),
    ]
}

#[test]
fn what_is_no_request_is_refused_and_costs_no_id() {
    let setup = setup(KEEP_ALIVE);
    let server = setup.start();
    for (what, bytes) in refusals() {
        for connect in [connect, connect_well] {
            let mut stream = connect(server.port());
            let before = server.next();
            // It fails where the server closes before it has read all.
            let _ = stream.write_all(&bytes);
            let answer = read_to_close(&mut stream);
            println!("{what}: {:?}", answer.lines().next());
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{what}: {answer}");
            assert!(
                answer.matches("HTTP/1.1 4").count() <= 1 && !answer.contains("HTTP/1.1 2"),
                "{what}: what was smuggled is answered: {answer}"
            );
            assert_eq!(server.next(), before + 1, "{what} cost an id");
        }
    }
    assert_unharmed(&server, 64 * MIB);
}

#[test]
fn large_requests_that_never_end() {
    under(|port| {
        let mut held: Vec<TcpStream> = (0..50).map(|_| connect_well(port)).collect();
        for stream in &mut held {
            stream.write_all(format!("GET /new HTTP/1.1\r\nX: {}", "x".repeat(100 << 10)).as_bytes()).unwrap();
        }
        for stream in &mut held {
            read_to_close(stream);
        }
    });
}

/// Less than half a core, over a second. A loop that spins takes a whole one.
fn assert_no_spinning(server: &Server) {
    let (before, began) = (server.cpu(), Instant::now());
    std::thread::sleep(Duration::from_secs(1));
    let (used, took) = (server.cpu().saturating_sub(before), began.elapsed());
    assert!(used < took / 2, "{used:?} of the processor in {took:?}");
}

/// More connections than the server serves: the first `limit` are, probes get their answers on others, and each further client is
/// told so at once. It does not spin, and as connections end it serves others.
fn assert_full(server: &Server, limit: usize) {
    let port = server.port();
    let mut known = Client::connect(port);
    assert_eq!(known.get("/new").status, 200);
    let held: Vec<Client> = (1..limit)
        .map(|number| {
            let mut client = Client::connect(port);
            assert_eq!(client.get("/new").status, 200, "{number}");
            client
        })
        .collect();
    for path in ["/new", "/new?count=2", "/new/default", "/nothing", "/new"] {
        let refused = get(port, path);
        assert_eq!((refused.status, refused.header("connection")), (503, Some("close")), "{refused:?}");
        assert_eq!(refused.header("retry-after"), Some("1"));
        assert!(refused.body.contains(&format!("{limit} (limits.connections)")), "{refused:?}");
    }
    for path in ["/livez", "/readyz", "/metrics"] {
        let answered = get(port, path);
        assert_eq!((answered.status, answered.header("connection")), (200, Some("close")), "{path}");
    }
    let max = f64::from(u32::try_from(limit).unwrap());
    assert_eq!(server.metric("seqsvr_http_connections_max "), max);
    // And the one that asks.
    eventually("the others are closed", || (server.metric("seqsvr_http_connections ") == max + 1.0).then_some(()));
    assert_eq!(server.metric("seqsvr_http_connections_refused_total "), 5.0);
    // However a request is put, it is the only one, and gets no ID.
    let long = format!("GET /new?_={} HTTP/1.1\r\nHost: x\r\n\r\n", "y".repeat(5_000));
    let endless = format!("GET /new?_={}", "y".repeat(16 << 10));
    let pipelined = ["GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", "GET /new?count=2 HTTP/1.1\r\nHost: x\r\n\r\n"].concat();
    let late = "\r\nGET /livez HTTP/1.1\r\nHost: x\r\n\r\n";
    for (request, status) in [(long.as_str(), "503"), (&endless[..16 << 10], "503"), (&pipelined, "200"), (late, "200")]
    {
        let mut stream = connect(port);
        stream.write_all(request.as_bytes()).unwrap();
        let answer = read_to_close(&mut stream);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && !answer.contains("\"id"), "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");
    }
    // Those that ask for nothing are closed soon, and where there is no room for them, at once.
    let mut silent: Vec<TcpStream> = (0..200).map(|_| connect(port)).collect();
    for stream in &mut silent {
        read_to_close(stream);
    }
    assert_eq!(known.get("/new").status, 200);
    assert_no_spinning(server);
    drop((held, silent));
    eventually("others are served", || (server.metric("seqsvr_http_connections ") < 5.0).then_some(()));
    assert_eq!(get(port, "/new").status, 200);
    assert_unharmed(server, 64 * MIB);
}

#[test]
fn as_many_connections_as_are_allowed() {
    let setup = setup(PATIENCE).env("SEQSVR_LIMITS__CONNECTIONS", "20");
    assert_full(&setup.start(), 20);
}

#[test]
fn as_many_connections_as_there_are_file_descriptors() {
    let server = setup(PATIENCE).env("SEQSVR_LIMITS__CONNECTIONS", "1000").open_files(200).start();
    server.wait_for_log("with a limit of 200 open files this node serves at most 135 connections");
    assert_full(&server, 135);
}

#[test]
fn the_soft_limit_of_open_files_is_raised() {
    let server = setup(PATIENCE).by(&["prlimit", "--nofile=100:3000"]).start();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.pid())).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(files.split_whitespace().filter(|word| *word == "3000").count(), 2, "{files}");
}

#[test]
fn ten_thousand_connections() {
    const CONNECTIONS: usize = 10_000;
    // For this process, and so for the server. No more than the hard limit needs no privilege.
    let limit = ["--pid", &std::process::id().to_string(), "--nofile=12000:"];
    let raised = Command::new("prlimit").args(limit).output().expect("prlimit (of util-linux) runs");
    let why = String::from_utf8_lossy(&raised.stderr);
    assert!(raised.status.success(), "12,000 open files must be allowed (see ulimit -Hn): {why}");

    let setup = setup(Duration::from_secs(600));
    let server = setup.start();
    while_others_are_answered(&server, || {
        let mut held = Vec::with_capacity(CONNECTIONS);
        for number in 0..CONNECTIONS {
            let mut stream = connect_well(server.port());
            if number % 2 == 0 {
                stream.write_all(b"G").unwrap();
            }
            held.push(stream);
        }
        assert!(server.open_files() > CONNECTIONS);
        assert_unharmed(&server, 64 * MIB + CONNECTIONS as u64 * (32 << 10));
        println!("{} MiB for {CONNECTIONS} connections", server.resident() / MIB);
    });
    eventually("they are closed", || (server.open_files() < 500).then_some(()));
    assert_no_spinning(&server);
}
