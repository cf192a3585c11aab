//! The fast path answers as the router does, whatever bytes come in whatever pieces.

// Several crates include this module, and each uses a part of it.
#![allow(dead_code)]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use actix_service::{Service as _, ServiceFactory as _};
use seqsvr::http::Service;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::pipe;

/// Ends a piece of the input, which the server reads at once. At the end of the input it is the client's end.
const END_OF_PIECE: u8 = 0x1e;

/// Sends the pieces of `input` to the fast path and to the router; both answer alike.
pub fn check(input: &[u8]) {
    let pieces: Vec<&[u8]> = input.split(|byte| *byte == END_OF_PIECE).collect();
    // An empty piece is the client's end, behind which nothing comes.
    let is_ended = input.last() == Some(&END_OF_PIECE);
    let mut pieces: Vec<&[u8]> = pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
    pieces.extend(is_ended.then_some(&b""[..]));
    assert_as_router(&pieces);
}

/// The server's end of a scripted connection. Reads give one piece each, with pauses. Writes take the scripted number of
/// bytes. An empty piece is the client's end.
#[derive(Clone)]
pub struct Script(pub Rc<RefCell<Lines>>);

pub struct Lines {
    pub reads: VecDeque<Vec<u8>>,
    takes: VecDeque<usize>,
    is_pause: bool,
    answers: Vec<u8>,
}

impl Script {
    pub fn new(pieces: Vec<Vec<u8>>, takes: Vec<usize>) -> Self {
        let lines = Lines { reads: pieces.into(), takes: takes.into(), is_pause: false, answers: Vec::new() };
        Self(Rc::new(RefCell::new(lines)))
    }

    /// What the server has written.
    pub fn answers(&self) -> String {
        String::from_utf8(self.0.borrow().answers.clone()).expect("answers are text")
    }
}

impl AsyncRead for Script {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut lines = self.0.borrow_mut();
        lines.is_pause = !lines.is_pause;
        if lines.is_pause {
            return Poll::Pending;
        }
        let Some(mut piece) = lines.reads.pop_front() else { return Poll::Pending };
        let is_end = piece.is_empty();
        let rest = piece.split_off(piece.len().min(buffer.remaining()));
        buffer.put_slice(&piece);
        if is_end || !rest.is_empty() {
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

/// The server at work on one connection; it ends where the server closes.
pub struct Connection(Pin<Box<dyn Future<Output = ()>>>);

impl Connection {
    pub async fn open(script: Script, service: Arc<Service>) -> Self {
        Self::open_until(std::future::pending, script, service).await
    }

    /// Until `stop` the server goes on.
    pub async fn open_until<Stop>(
        stop: impl Fn() -> Stop + Clone + 'static,
        script: Script,
        service: Arc<Service>,
    ) -> Self
    where
        Stop: Future<Output = ()> + 'static,
    {
        let worker = seqsvr::http::worker(service, stop);
        let Ok(worker) = worker.new_service(()).await else { panic!("it can be made") };
        Self(Box::pin(async move { drop(worker.call(script).await) }))
    }

    /// Whether the server closes it within `polls` polls.
    pub fn is_closed_in(&mut self, polls: usize) -> bool {
        (0..polls).any(|_| self.0.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready())
    }
}

/// All that the server writes if it reads `pieces` and its writes take `takes` bytes each, and whether it then closes.
pub fn outcome(pieces: Vec<Vec<u8>>, takes: Vec<usize>) -> (String, bool) {
    let system = actix_web::rt::System::new();
    let polls = 2 * (pieces.len() + takes.len()) + 200;
    let (script, service) = (Script::new(pieces, takes), pipe::service());
    let theirs = script.clone();
    let is_closed = system.block_on(async move { Connection::open(theirs, service).await.is_closed_in(polls) });
    (script.answers(), is_closed)
}

pub fn answers(pieces: Vec<Vec<u8>>, takes: Vec<usize>) -> String {
    outcome(pieces, takes).0
}

/// Answers without what differs from one to the next: the order of their headers, their dates, their ids' digits.
fn form(answers: &str) -> Vec<String> {
    let lines = answers.split("\r\n").filter(|line| !line.starts_with("date: "));
    let mut lines: Vec<String> = lines.map(|line| line.replace(|c: char| c.is_ascii_digit(), "#")).collect();
    lines.sort_unstable();
    lines
}

/// Sends `pieces` alone, and behind a request that the fast path leaves to the router. Both are answered alike.
pub fn assert_as_router(pieces: &[&[u8]]) {
    let pieces: Vec<Vec<u8>> = pieces.iter().map(|piece| piece.to_vec()).collect();
    let other = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n".to_vec();
    let before = answers(vec![other.clone()], Vec::new()).len();
    let (alone, behind) =
        (outcome(pieces.clone(), Vec::new()), outcome([vec![other], pieces.clone()].concat(), Vec::new()));
    let sent = String::from_utf8_lossy(&pieces.concat()).into_owned();
    assert_eq!(form(&alone.0), form(&behind.0[before..]), "{sent:?}");
    assert_eq!(alone.1, behind.1, "is it closed behind {sent:?}");
}
