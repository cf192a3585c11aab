//! The lane in front of actix: whatever comes in whatever pieces, each request is answered once, in its order.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use actix_service::{Service as _, ServiceFactory as _};
use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

#[path = "support/filled.rs"]
mod filled;
#[allow(dead_code)] // its connection is for measuring
#[path = "support/pipe.rs"]
mod pipe;

/// What a client may send on one connection, and what the answer to it must have in it.
const REQUESTS: [(&str, &str); 10] = [
    ("GET /new HTTP/1.1\r\nHost: x\r\n\r\n", "{\"id\":"),
    ("GET /new HTTP/1.1\r\nHost: x\r\nAccept: */*\r\nUser-Agent: a\r\n\r\n", "{\"id\":"),
    ("GET /new/default HTTP/1.1\r\nHost: x\r\n\r\n", "{\"id\":"),
    ("GET /new HTTP/1.1\r\nConnection: Keep-Alive\r\nHost: x\r\n\r\n", "{\"id\":"),
    ("GET /new?count=2 HTTP/1.1\r\nHost: x\r\n\r\n", "{\"ids\":["),
    ("POST /new HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nGET", "{\"id\":"),
    ("GET /new HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n", "{\"id\":"),
    ("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", "alive"),
    ("GET /new/no%20name HTTP/1.1\r\nHost: x\r\n\r\n", "\"code\":-400"),
    ("DELETE /new HTTP/1.1\r\nHost: x\r\n\r\n", "\"code\":-405"),
];

/// The server's end of a connection that does as it is told: gives what came in pieces, with pauses, and takes so many
/// bytes at once of what is written.
#[derive(Clone)]
struct Script(Rc<RefCell<Lines>>);

struct Lines {
    reads: VecDeque<Vec<u8>>,
    takes: VecDeque<usize>,
    is_pause: bool,
    answers: Vec<u8>,
}

impl AsyncRead for Script {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut lines = self.0.borrow_mut();
        lines.is_pause = !lines.is_pause;
        if lines.is_pause {
            return Poll::Pending;
        }
        let Some(mut piece) = lines.reads.pop_front() else { return Poll::Pending };
        let rest = piece.split_off(piece.len().min(buffer.remaining()));
        buffer.put_slice(&piece);
        if !rest.is_empty() {
            lines.reads.push_front(rest);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Script {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut lines = self.0.borrow_mut();
        let most = lines.takes.pop_front().unwrap_or(usize::MAX);
        if most == 0 {
            return Poll::Pending;
        }
        let taken = bytes.len().min(most);
        lines.answers.extend_from_slice(&bytes[..taken]);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// All that the server writes where `pieces` come and so many bytes are taken at once.
fn answers(pieces: Vec<Vec<u8>>, takes: Vec<usize>) -> String {
    let system = actix_web::rt::System::new();
    let polls = 2 * (pieces.len() + takes.len()) + 200;
    let lines = Lines { reads: pieces.into(), takes: takes.into(), is_pause: false, answers: Vec::new() };
    let script = Script(Rc::new(RefCell::new(lines)));
    let (theirs, service) = (script.clone(), pipe::service());
    system.block_on(async move {
        let worker = seqsvr::http::worker(service, std::future::pending);
        let Ok(worker) = worker.new_service(()).await else { panic!("it can be made") };
        let mut connection = Box::pin(async move { worker.call(theirs).await });
        for _ in 0..polls {
            if connection.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
                break;
            }
        }
    });
    let answers = script.0.borrow().answers.clone();
    String::from_utf8(answers).expect("answers are text")
}

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

/// An answer without what differs from one to the next: the order of its headers, its date, its id's digits. And without
/// what actix says of a connection only if its first request is none.
fn form(answers: &str) -> Vec<String> {
    let is_refusal = answers.starts_with("HTTP/1.1 400 ");
    let mut lines: Vec<String> = answers
        .split("\r\n")
        .filter(|line| !(line.starts_with("date: ") || is_refusal && *line == "connection: close"))
        .map(|line| line.replace(|c: char| c.is_ascii_digit(), "#"))
        .collect();
    lines.sort_unstable();
    lines
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
const LINES: [&str; 24] = [
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

proptest! {
    /// The same request is sent alone, and behind one that leaves the lane: then it is actix's.
    #[test]
    fn the_lane_answers_nothing_that_actix_would_answer_in_another_way(
        first in 0..FIRST_LINES.len(),
        has_host in prop::bool::weighted(0.8),
        lines in proptest::collection::vec(0..LINES.len(), 0..4),
        ends in prop::sample::select(vec!["\r\n", "\r\n", "\r\n", "\n"]),
    ) {
        let mut request = FIRST_LINES[first].to_owned();
        let host = has_host.then_some("Host: x");
        for line in host.into_iter().chain(lines.iter().map(|&number| LINES[number])) {
            request = request + ends + line;
        }
        request = request + ends + ends;
        let other = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";
        let alone = answers(vec![request.clone().into_bytes()], Vec::new());
        let both = answers(vec![other.as_bytes().to_vec(), request.clone().into_bytes()], Vec::new());
        let behind = &both[answers(vec![other.as_bytes().to_vec()], Vec::new()).len()..];
        prop_assert_eq!(form(&alone), form(behind), "{:?}", request);
    }

    #[test]
    fn each_request_is_answered_once_and_in_its_order(
        // Most of the first ones are the lane's.
        plain in proptest::collection::vec(0..4_usize, 0..20),
        mixed in proptest::collection::vec(0..REQUESTS.len(), 0..6),
        pieces in proptest::collection::vec(1..200_usize, 1..60),
        takes in proptest::collection::vec(prop_oneof![Just(0_usize), 1..300_usize], 0..60),
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
        let answers = answers(cut, takes);
        let bodies = bodies(&answers, sent.len());
        for (&number, body) in sent.iter().zip(&bodies) {
            prop_assert!(body.contains(REQUESTS[number].1), "{:?} was answered by {body}", REQUESTS[number].0);
        }
        let ids: Vec<u64> = bodies.iter().flat_map(|body| ids(body)).collect();
        prop_assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
    }
}
