//! The lane in front of actix: whatever comes in whatever pieces, each request is answered once, in its order.

use std::cell::Cell;
use std::rc::Rc;
use std::task::Poll;

use fast_path::{Connection, Script, answers, assert_as_router};
use proptest::prelude::*;
use seqsvr::config::Limits;
use tokio::time::sleep;

#[path = "../fuzz/properties/fast_path.rs"]
mod fast_path;
#[path = "support/filled.rs"]
mod filled;
#[allow(dead_code)] // its connection is for measuring
#[path = "support/pipe.rs"]
mod pipe;
#[path = "support/seeds.rs"]
mod seeds;

/// What a client may send on one connection, and what the answer to it must have in it.
const REQUESTS: [(&str, &str); 10] = [
    ("GET /new HTTP/1.1\r\nHost: x\r\n\r\n", "{\"id\":"),
    ("GET /new HTTP/1.1\r\nHost: x\r\nAccept: */*\r\nUser-Agent: a\r\n\r\n", "{\"id\":"),
    ("GET /new/default HTTP/1.1\r\nHost: x\r\n\r\n", "{\"id\":"),
    ("GET /new HTTP/1.1\r\nConnection: Keep-Alive, Upgrade\r\nUpgrade: h2c\r\nHost: x\r\n\r\n", "{\"id\":"),
    ("GET /new?count=2 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", "{\"ids\":["),
    ("POST /new HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nGET", "\"code\":-400"),
    ("GET /new HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n", "{\"id\":"),
    ("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", "alive"),
    ("GET /new/no%20name HTTP/1.1\r\nHost: x\r\n\r\n", "\"code\":-400"),
    ("DELETE /new HTTP/1.1\r\nHost: x\r\n\r\n", "\"code\":-405"),
];

/// The bodies of so many answers; panics if there are more, or fewer and none of them said that it is the last. (actix
/// ends a connection whose next request has a body that has not come yet.)
fn bodies(mut answers: &str, count: usize) -> Vec<&str> {
    let (mut bodies, mut is_closing) = (Vec::new(), false);
    while !answers.is_empty() {
        if let Some(rest) = answers.strip_prefix("HTTP/1.1 100 Continue\r\n\r\n") {
            answers = rest;
            continue;
        }
        assert!(answers.starts_with("HTTP/1.1 "), "{answers}");
        let (head, rest) = answers.split_once("\r\n\r\n").expect("a head has an end");
        is_closing |= head.contains("\r\nconnection: close");
        let length = head.split("\r\n").find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
        let (body, rest) = rest.split_at(length.parse().expect("a number"));
        bodies.push(body);
        answers = rest;
    }
    assert!(bodies.len() == count || (bodies.len() < count && is_closing), "{count}: {bodies:?}");
    bodies
}

fn ids(body: &str) -> Vec<u64> {
    let Some((_, ids)) = body.split_once("\"data\":{\"id") else { return Vec::new() };
    let digits = ids.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    digits.map(|digits| digits.parse().expect("a number")).collect()
}

/// The beginnings of requests, and lines that may follow: some right, some wrong, some odd.
const FIRST_LINES: [&str; 14] = [
    "GET /new HTTP/1.1",
    "GET /new/default HTTP/1.1",
    "GET /new HTTP/1.0",
    "GET /new HTTP/1.2",
    "GET  /new HTTP/1.1",
    "get /new HTTP/1.1",
    "GET /new/ HTTP/1.1",
    "GET /newer HTTP/1.1",
    "GET //new HTTP/1.1",
    "GET /new#x HTTP/1.1",
    "GET /new/default# HTTP/1.1",
    "GET http://x/new HTTP/1.1",
    "GET /new?strings HTTP/1.1",
    "\r\nGET /new HTTP/1.1",
];
const LINES: [&str; 29] = [
    "Host: x",
    "HOST: x",
    "Host:",
    "Host : x",
    "Accept: text/plain",
    "Accept: */*",
    "accept:text/plain;q=0.5,application/json",
    "Accept: \u{e9}, text/plain",
    "User-Agent: curl/8.0",
    "X-Forwarded-For: 1.2.3.4",
    "Connection: keep-alive",
    "Connection: close",
    "Connection: Upgrade",
    "Connection: keep-alive, close",
    "Upgrade: websocket",
    "Upgrade: h2c",
    "Connection: keep-alive, Upgrade, HTTP2-Settings",
    "Accept: text/plain, */*",
    "Accept: text/plain;q=0.5, application/json;q=0.6",
    "Accept: text/plain",
    "Content-Length: 0",
    "Content-Length: 1",
    "Content-Length: +1",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: identity",
    "Expect: 100-continue",
    " folded: yes",
    "no colon",
    "X: a\rb",
];

/// The inputs that fuzzing begins with, and those that it once broke something with.
#[test]
fn the_seeds_of_fuzzing() {
    seeds::each("fast_path", fast_path::check);
}

#[test]
fn what_is_too_much_for_the_lane_is_not_for_the_server() {
    for headers in [23, 24, 25, 95, 96, 97] {
        let request = format!("GET /new HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: y\r\n".repeat(headers - 1));
        assert_as_router(&[request.as_bytes()]);
    }
    let good = REQUESTS[0].0.as_bytes();
    for length in 4094..4100 {
        let head = "GET /new HTTP/1.1\r\nHost: x\r\nX: ";
        let request = format!("{head}{}\r\n\r\n", "y".repeat(length - head.len() - 4)).into_bytes();
        assert_eq!(request.len(), length);
        let (begin, rest) = request.split_at(4000);
        for pieces in [&[&request[..]][..], &[begin, rest], &[&[good, begin].concat(), rest, good], &[&request, b""]] {
            assert_as_router(pieces);
        }
    }
}

#[test]
fn odd_requests_and_what_follows_them() {
    let with = |line: &[u8]| [b"GET /new HTTP/1.1\r\nHost: x\r\n", line, b"\r\n\r\n"].concat();
    let to = |path: &[u8]| [b"GET ", path, b" HTTP/1.1\r\nHost: x\r\n\r\n"].concat();
    let good = REQUESTS[0].0.as_bytes();
    let requests = [
        with(b"Accept: \xff"),
        with(b"Accept: \xff\r\nAccept: text/plain"),
        with(b"Accept: text/plain\r\nAccept: */*"),
        with(b"Accept:\ttext/plain\t"),
        with(b"Accept:"),
        with(b"Connection:"),
        with(b"Connection: \xff, close"),
        with(b"Connection: keep-alive\r\nConnection: keep-alive"),
        with(b"Connection: keep-alive\r\nConnection: close"),
        with(b"X: \0"),
        with(b": y"),
        to(b"/new/\xff"),
        to("/new/\u{e9}".as_bytes()),
        to(b"/new/%64efault"),
        to(b"/%6eew"),
        to(b"/new/default/"),
        to(b"/new/../new"),
        to(b"/new;a"),
        [b"\r\n\n\r\n", good].concat(),
        [b"\r", good].concat(),
        [b" ", good].concat(),
    ];
    for request in requests {
        for behind in [&b""[..], b"\r\n", b"G", b"\0", b"garbage\r\n\r\n"] {
            let all = [&request[..], behind].concat();
            for pieces in [&[&all[..]][..], &[&all, b""], &[good, &all], &[&[good, &all].concat(), b""]] {
                assert_as_router(pieces);
            }
        }
    }
}

#[test]
fn wherever_it_is_cut() {
    let all = [0, 2, 7, 0, 8, 1].map(|number| REQUESTS[number].0).concat().into_bytes();
    for (begin, rest) in (1..all.len()).map(|place| all.split_at(place)) {
        for pieces in [&[begin, rest][..], &[begin, rest, b""], &[begin, b""]] {
            assert_as_router(pieces);
        }
    }
}

/// What a client sends whose second request does not end.
const AND_A_BODY_THAT_DOES_NOT_COME: &str =
    "GET /new HTTP/1.1\r\nHost: x\r\n\r\nPOST /new HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n";

#[test]
fn an_answer_does_not_wait_for_the_next_request() {
    // The kernel takes it at once, or bit by bit.
    for takes in [vec![], vec![0, 10, 0, 20]] {
        let answers = answers(vec![AND_A_BODY_THAT_DOES_NOT_COME.into()], takes);
        assert_eq!(bodies(&answers, 1).len(), 1);
    }
}

#[test]
fn while_answers_are_not_taken_no_requests_are_read() {
    const PIECES: usize = 50;
    // The fast path does not answer them.
    let piece = REQUESTS[7].0.repeat(100).into_bytes();
    let script = Script::new(vec![piece; PIECES], vec![0; 1_000]);
    let (theirs, service) = (script.clone(), pipe::service());
    actix_web::rt::System::new().block_on(async move {
        assert!(!Connection::open(theirs, service).await.is_closed_in(200));
    });
    let left = script.0.borrow().reads.len();
    assert!(left > PIECES - 10, "only {left} of {PIECES} are not read yet");
}

#[test]
fn a_request_behind_what_the_lane_answers_has_no_more_time_than_others() {
    // What a request may take, too.
    let most = Limits::default().keep_alive.get();
    let system = actix_web::rt::System::with_tokio_rt(|| {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().start_paused(true).build().expect("a runtime")
    });
    let script = Script::new(vec![AND_A_BODY_THAT_DOES_NOT_COME.into()], Vec::new());
    let service = pipe::service();
    system.block_on(async {
        let mut connection = Connection::open(script.clone(), service).await;
        assert!(!connection.is_closed_in(10));
        assert_eq!(bodies(&script.answers(), 1).len(), 1);
        sleep(most / 10 * 9).await;
        script.0.borrow_mut().reads.push_back(b"x".to_vec());
        assert!(!connection.is_closed_in(10), "it has some time yet");
        sleep(most / 5).await;
        assert!(connection.is_closed_in(10), "its time was over");
    });
}

#[test]
fn at_the_end_of_the_server_what_was_answered_is_sent() {
    let good = REQUESTS[0].0;
    // It takes 10 bytes, and for some time no more.
    let takes = [vec![10], vec![0; 20]].concat();
    let script = Script::new(vec![[good, good, "GET /n"].concat().into_bytes()], takes);
    let (theirs, service, is_over) = (script.clone(), pipe::service(), Rc::new(Cell::new(false)));
    actix_web::rt::System::new().block_on(async {
        let over = is_over.clone();
        let stop = move || {
            let over = over.clone();
            std::future::poll_fn(move |_| if over.get() { Poll::Ready(()) } else { Poll::Pending })
        };
        let mut connection = Connection::open_until(stop, theirs, service.clone()).await;
        assert!(!connection.is_closed_in(5));
        service.drain();
        is_over.set(true);
        assert_eq!(script.answers().len(), 10);
        assert!(connection.is_closed_in(50));
    });
    assert_eq!(bodies(&script.answers(), 2).len(), 2);
}

fn odd_byte() -> impl Strategy<Value = Option<u8>> {
    prop::option::of(prop_oneof![any::<u8>(), prop::sample::select(&b"\r\n :,/%?#\t\0"[..])])
}

proptest! {
    #[test]
    fn the_lane_answers_nothing_that_actix_would_answer_in_another_way(
        first in 0..FIRST_LINES.len(),
        has_host in prop::bool::weighted(0.8),
        lines in proptest::collection::vec(0..LINES.len(), 0..4),
        ends in prop::sample::select(vec!["\r\n", "\r\n", "\r\n", "\n"]),
        is_end in prop::bool::ANY,
    ) {
        let mut request = FIRST_LINES[first].to_owned();
        let host = has_host.then_some("Host: x");
        for line in host.into_iter().chain(lines.iter().map(|&number| LINES[number])) {
            request = request + ends + line;
        }
        request = request + ends + ends;
        let pieces = [request.as_bytes(), b""];
        assert_as_router(&pieces[..=usize::from(is_end)]);
    }

    #[test]
    fn the_lane_reads_bytes_as_actix_does(
        number in 0..4_usize,
        // Where, how many bytes are gone there, and what is there then.
        changes in proptest::collection::vec((any::<prop::sample::Index>(), 0..3_usize, odd_byte()), 1..4),
        is_end in prop::bool::ANY,
    ) {
        let mut request = REQUESTS[number].0.as_bytes().to_vec();
        for (place, gone, byte) in changes {
            let place = place.index(request.len());
            request.splice(place..(place + gone).min(request.len()), byte);
        }
        let pieces = [&request[..], b""];
        assert_as_router(&pieces[..=usize::from(is_end)]);
    }

    #[test]
    fn each_request_is_answered_once_and_in_its_order(
        // Most of the first ones are the lane's.
        plain in proptest::collection::vec(0..4_usize, 0..20),
        mixed in proptest::collection::vec(0..REQUESTS.len(), 0..6),
        pieces in proptest::collection::vec(1..200_usize, 1..60),
        takes in proptest::collection::vec(prop_oneof![Just(0_usize), 1..300_usize], 0..60),
        is_end in prop::bool::ANY,
    ) {
        let sent: Vec<usize> = plain.into_iter().chain(mixed).collect();
        let mut bytes: Vec<u8> = sent.iter().flat_map(|&number| REQUESTS[number].0.bytes()).collect();
        let mut cut = Vec::new();
        for length in pieces.into_iter().cycle() {
            if bytes.is_empty() {
                break;
            }
            let rest = bytes.split_off(length.min(bytes.len()));
            cut.push(std::mem::replace(&mut bytes, rest));
        }
        if is_end {
            cut.push(Vec::new());
        }
        let answers = answers(cut, takes);
        let bodies = bodies(&answers, sent.len());
        for (&number, body) in sent.iter().zip(&bodies) {
            prop_assert!(body.contains(REQUESTS[number].1), "{:?} was answered by {body}", REQUESTS[number].0);
        }
        let ids: Vec<u64> = bodies.iter().flat_map(|body| ids(body)).collect();
        prop_assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
    }
}
