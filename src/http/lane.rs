//! The shortest way to an id: plain `GET /new` and `GET /new/NAME` are answered where their bytes come in, before actix.
//!
//! What it answers it answers byte for byte as the router does (`tests/it/http.rs`), and it reads with actix's own parser.
//! Whatever may mean more than "one id, and the connection goes on" is not for it: other methods, queries, HTTP/1.0, bodies,
//! headers about the connection, names that are not known yet, ids that are not in memory, a node that shuts down.

use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::sync::atomic::Ordering;

use actix_web::http::StatusCode;
use actix_web::web::Data;
use httparse::{Request, Status};

use super::Worker;
use super::answer::{self, Refusal, Wanted};
use super::head::is_offer;
use super::malformed::Malformed;
use super::stream::MAX_HEAD_BYTES;
use crate::metrics::Route;

/// As many headers as a client sends that wants no more than an id.
const MOST_HEADERS: usize = 24;

/// Headers that say more about a request than the lane knows of: all those that actix reads, but `Host`, `Connection` and
/// `Upgrade`, which is an offer.
const NOT_HERE: [&str; 3] = ["content-length", "expect", "transfer-encoding"];

/// The paths that are answered on a connection that is one too many.
const PROBES: [&[u8]; 3] = [b"/livez", b"/readyz", b"/metrics"];

/// A worker's lane.
pub struct Lane {
    worker: Data<Worker>,
    /// Where all connections of the worker are read into.
    pub scratch: RefCell<Box<[u8]>>,
}

/// What the bytes that came are.
enum Came {
    /// So many of them are a request, and it is answered.
    Answered(usize),
    /// The beginning of one.
    Part,
    /// Not for the lane.
    Other,
}

impl Lane {
    /// The lane of `worker`.
    pub fn new(worker: Data<Worker>) -> Self {
        Self { worker, scratch: RefCell::new(vec![0; MAX_HEAD_BYTES].into_boxed_slice()) }
    }

    /// Answers the requests that `bytes` begin with, as of `date`, behind what is in `answers`. How many bytes that were, and
    /// whether the connection leaves the lane: because of what follows them, or of what the node is about.
    pub fn answer_all(&self, bytes: &[u8], answers: &mut Vec<u8>, date: &str) -> (usize, bool) {
        let mut answered = 0;
        // actix tells the clients of a node that shuts down to go.
        if self.worker.service.is_draining.load(Ordering::Relaxed) {
            return (answered, true);
        }
        while answered < bytes.len() {
            match self.answer(&bytes[answered..], answers, date) {
                Came::Answered(length) => answered += length,
                Came::Part => return (answered, false),
                Came::Other => return (answered, true),
            }
        }
        (answered, false)
    }

    /// Whether the head at the beginning of `bytes` is that of a probe.
    pub fn is_probe(bytes: &[u8]) -> bool {
        bytes.trim_ascii_start().split(|byte| *byte == b' ').nth(1).is_some_and(|path| PROBES.contains(&path))
    }

    /// Puts the answer to a connection that is one too many behind `answers`, as of `date`.
    pub fn refuse(&self, answers: &mut Vec<u8>, date: &str) {
        let connections = &self.worker.service.connections;
        connections.refused();
        let what = format!(
            "this node has as many connections as it serves, {} (limits.connections): try again, or ask another node",
            connections.max()
        );
        self.put_refusal(answers, &Refusal { status: StatusCode::SERVICE_UNAVAILABLE, what }, date);
    }

    /// Puts the answer to what is no request behind `answers`, as of `date`.
    pub fn refuse_malformed(&self, malformed: Malformed, answers: &mut Vec<u8>, date: &str) {
        self.worker.service.metrics.malformed(malformed.label());
        self.put_refusal(answers, &Refusal { status: malformed.status(), what: malformed.message().to_owned() }, date);
    }

    fn put_refusal(&self, answers: &mut Vec<u8>, refusal: &Refusal, date: &str) {
        self.worker.counts.count(Route::Other, refusal.status.as_u16());
        answer::put_last_refusal(answers, refusal, date);
    }

    fn answer(&self, bytes: &[u8], answers: &mut Vec<u8>, date: &str) -> Came {
        let mut headers = [const { MaybeUninit::uninit() }; MOST_HEADERS];
        let mut request = Request::new(&mut []);
        let length = match request.parse_with_uninit_headers(bytes, &mut headers) {
            Ok(Status::Complete(length)) => length,
            Ok(Status::Partial) => return Came::Part,
            // actix says what is wrong with it.
            Err(_) => return Came::Other,
        };
        match self.take(&request) {
            Some((id, wanted)) => {
                answer::put_one(answers, id, wanted, date);
                Came::Answered(length)
            }
            None => Came::Other,
        }
    }

    /// The id that `request` asks for, and how; nothing is spent unless there is one.
    fn take(&self, request: &Request<'_, '_>) -> Option<(u64, Wanted)> {
        if request.method != Some("GET") || request.version != Some(1) {
            return None;
        }
        let path = request.path?.strip_prefix("/new")?;
        let (mut hosts, mut accept) = (0, None);
        for header in request.headers.iter() {
            let is = |name: &str| header.name.eq_ignore_ascii_case(name);
            if is("host") {
                hosts += 1;
            } else if is("accept") {
                let value = std::str::from_utf8(header.value).ok().filter(|value| value.is_ascii())?;
                if accept.replace(value).is_some() {
                    return None;
                }
            } else if is("connection") {
                let is_known =
                    |option: &[u8]| option.trim_ascii().eq_ignore_ascii_case(b"keep-alive") || is_offer(option);
                if !header.value.split(|byte| *byte == b',').all(is_known) {
                    return None;
                }
            } else if NOT_HERE.into_iter().any(is) {
                return None;
            }
        }
        if hosts != 1 {
            return None;
        }
        let (route, id) = match path.strip_prefix('/') {
            None if path.is_empty() => (Route::New, self.worker.default.borrow_mut().try_next()?),
            // No name has a character that a query or a percent sign would bring.
            Some(name) => (Route::NewSequence, self.worker.service.sequences.try_next(name)?),
            None => return None,
        };
        self.worker.counts.count(route, StatusCode::OK.as_u16());
        Some((id, Wanted::one(accept)))
    }
}
