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
use super::answer::{self, Wanted};
use crate::metrics::Route;

/// What is read at once of a connection; a longer request is actix's.
const MOST_BYTES: usize = 4096;

/// As many headers as a client sends that wants no more than an id.
const MOST_HEADERS: usize = 24;

/// Headers that say more about a request than the lane knows of: all those that actix reads, but `Host` and `Connection`.
const NOT_HERE: [&str; 4] = ["content-length", "expect", "transfer-encoding", "upgrade"];

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
        Self { worker, scratch: RefCell::new(vec![0; MOST_BYTES].into_boxed_slice()) }
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
            } else if is("accept") && accept.is_none() {
                accept = Some(std::str::from_utf8(header.value).ok().filter(|accept| accept.is_ascii())?);
            } else if is("connection") && !header.value.eq_ignore_ascii_case(b"keep-alive")
                || NOT_HERE.into_iter().any(is)
            {
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
