//! The connections, and who holds them up: clients that ask for nothing more, that never end a request, or that never
//! read an answer.
//!
//! actix times the head of a connection's first request, and a connection between requests. It times neither a later
//! head, nor a body, nor an answer that nobody takes: one byte behind a good request would hold a connection for ever.
//! So neither of its timers is used: one between requests would be made, set and thrown away for each of them
//! (`docs/performance.md`), and that of the first answers 408 to who has not asked yet, as connection pools do.
//!
//! Here a connection goes back and forth between two *turns*: the client's, until a byte comes, and the server's, until
//! all that there is to write is written. A request is one turn from its first byte to its answer's last, however
//! slowly it comes. Each of the two may take so long and no longer.
//!
//! Requests pay next to nothing for this: no clock is read and no timer set for them. One task of each worker counts the
//! seconds, and looks at the worker's connections once in each.

use std::cell::{Cell, RefCell};
use std::io;
use std::mem;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, SystemTime};

use actix_web::rt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::sleep;

use super::connections::Place;
use super::head::{self, Head};
use super::lane::Lane;
use super::malformed::Malformed;

/// The most bytes that actix reads from a connection before it parses them. It keeps about 8 KiB for each request that it
/// has parsed. Without this limit actix-http 3.20 reads 128 KiB at once, which may be 4,000 requests.
const MAX_BYTES_AT_ONCE: usize = 16 << 10;

/// The longest head.
pub const MAX_HEAD_BYTES: usize = 16 << 10;

/// What actix writes before it reads a body that the client has announced.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// How often it is looked for connections that take too long, and how exactly their time is known.
const TICK: Duration = Duration::from_secs(1);

/// How long a turn may take on a connection that is one too many.
const SURPLUS_TICKS: u64 = 1;

/// One worker's connections. All of this stays in the worker's thread.
pub struct Watch {
    /// In ticks. A late one makes nobody overdue too early.
    now: Cell<u64>,
    limits: Limits<u64>,
    /// For the answers of the lane.
    date: RefCell<String>,
    turns: RefCell<Vec<Rc<Turn>>>,
}

/// How long a turn may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits<T> {
    /// The client's: how long a connection stays open without a request.
    pub idle: T,
    /// The server's: how long a request may take, from its first byte to its answer's last.
    pub request: T,
}

impl Watch {
    /// Closes what takes as long as `limits` say, within two ticks more. Must be called in the worker's thread.
    pub fn start(limits: Limits<Duration>) -> Rc<Self> {
        let ticks = |time: Duration| time.as_secs() + u64::from(time.subsec_nanos() > 0);
        let limits = Limits { idle: ticks(limits.idle), request: ticks(limits.request) };
        let watch = Rc::new(Self { now: Cell::new(0), limits, date: RefCell::new(date()), turns: RefCell::default() });
        let ticking = watch.clone();
        rt::spawn(async move {
            loop {
                sleep(TICK).await;
                ticking.tick();
            }
        });
        watch
    }

    /// Watches `io` for as long as it lives, which is short where it is one connection too many.
    pub fn stream<T>(self: &Rc<Self>, io: T, lane: Rc<Lane>, place: Place) -> Stream<T> {
        let turn = Rc::new(Turn {
            is_surplus: place.is_surplus(),
            is_servers: Cell::new(false),
            since: Cell::new(self.now.get()),
            is_overdue: Cell::new(false),
            task: RefCell::default(),
        });
        self.turns.borrow_mut().push(turn.clone());
        Stream {
            io,
            turn,
            watch: self.clone(),
            stage: if place.is_surplus() { Stage::Surplus } else { Stage::Lane },
            lane,
            _place: place,
            malformed: Malformed::Other,
            unsent: Vec::new(),
            unread: Vec::new(),
            is_ended: false,
            is_asked: false,
            given: 0,
            read_at_once: 0,
            is_write_blocked: false,
        }
    }

    fn tick(&self) {
        self.now.set(self.now.get() + 1);
        self.date.replace(date());
        let mut turns = self.turns.borrow_mut();
        // What only this list holds is closed.
        turns.retain(|turn| Rc::strong_count(turn) > 1);
        let limit = |turn: &Turn| match (turn.is_surplus, turn.is_servers.get()) {
            (true, _) => SURPLUS_TICKS,
            (false, true) => self.limits.request,
            (false, false) => self.limits.idle,
        };
        for turn in turns.iter().filter(|turn| self.now.get() - turn.since.get() > limit(turn)) {
            turn.is_overdue.set(true);
            if let Some(task) = turn.task.borrow().as_ref() {
                task.wake_by_ref();
            }
        }
    }
}

/// The time of now, as the header has it.
fn date() -> String {
    httpdate::fmt_http_date(SystemTime::now())
}

/// Whose turn it is on a connection.
struct Turn {
    is_surplus: bool,
    is_servers: Cell<bool>,
    since: Cell<u64>,
    is_overdue: Cell<bool>,
    task: RefCell<Option<Waker>>,
}

/// Who reads what a connection sends next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The lane, as long as it has answered all that came. Nothing leads back to it: only actix knows what it still has to
    /// answer.
    Lane,
    /// actix, one head after another.
    Heads,
    /// actix; this many bytes of a body, at least one, come before the next head.
    Body(u64),
    /// actix; where the next head begins is not known.
    Bytes,
    /// This stream: it is one connection too many.
    Surplus,
    /// Nobody. For actix it is the client's end.
    End,
}

impl Stage {
    /// The stage with `left` bytes of a body to come.
    fn of_body(left: u64) -> Self {
        if left == 0 { Self::Heads } else { Self::Body(left) }
    }
}

/// A connection that ends with [`io::ErrorKind::TimedOut`] once a turn takes too long. What the [`Lane`] can answer never
/// comes to who reads from it.
pub struct Stream<T> {
    io: T,
    turn: Rc<Turn>,
    watch: Rc<Watch>,
    lane: Rc<Lane>,
    stage: Stage,
    _place: Place,
    /// What came if actix can't read it.
    malformed: Malformed,
    /// What was answered here and the kernel has not taken yet: it goes before all else. Nothing is read until it is
    /// sent, so that it is at most the answers to what is read at once, about 128 KiB.
    unsent: Vec<u8>,
    /// What was read, and neither answered by the lane nor read by actix. At most what is read at once.
    unread: Vec<u8>,
    /// The client sends nothing more.
    is_ended: bool,
    /// actix has a request that it has not answered. It gets the next one only then: actix-http 3.20 answers by the HEAD, the version
    /// and the `Connection` of the request that it has read last (`h1/codec.rs`).
    is_asked: bool,
    /// How many of the first bytes of `unread` are for actix.
    given: usize,
    /// The bytes that actix has read since its last pause.
    read_at_once: usize,
    /// Whether the kernel takes no more answers. The connection reads nothing until it does. Otherwise a client that sends
    /// requests and reads no answers would fill the server's memory.
    is_write_blocked: bool,
}

impl<T> Stream<T> {
    /// Now it is the server's turn, or the client's.
    fn turn(&self, is_servers: bool) {
        self.turn.is_servers.set(is_servers);
        self.turn.since.set(self.watch.now.get());
        // Where a request came just in time.
        self.turn.is_overdue.set(false);
    }

    /// An error once a turn took too long; until then `context` is woken when one does.
    fn check(&self, context: &Context<'_>) -> io::Result<()> {
        if self.turn.is_overdue.get() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut task = self.turn.task.borrow_mut();
        if !task.as_ref().is_some_and(|task| task.will_wake(context.waker())) {
            *task = Some(context.waker().clone());
        }
        Ok(())
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream<T> {
    /// Sends what was answered here.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(context, &self.unsent))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unsent.drain(..written);
            if self.unsent.is_empty() {
                // Where the next request has begun, its time begins. With one that is not the lane's, the lane was left.
                self.turn(self.stage != Stage::Lane || !self.unread.is_empty());
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Whether `unread` is as long as a head may be.
    fn is_full(&self) -> bool {
        self.unread.len() >= MAX_HEAD_BYTES
    }

    /// Reads more, unless `unread` is full, and calls `sort` with `unread` and what came behind it. `sort` must put into `unread` what
    /// is still to be read.
    fn poll_fill(&mut self, context: &mut Context<'_>, sort: impl FnOnce(&mut Self, &[u8])) -> Poll<io::Result<()>> {
        let lane = self.lane.clone();
        let mut scratch = lane.scratch.borrow_mut();
        let mut read = ReadBuf::new(&mut scratch[..]);
        read.put_slice(&self.unread);
        ready!(Pin::new(&mut self.io).poll_read(context, &mut read))?;
        let came = read.filled();
        if came.len() == self.unread.len() {
            self.is_ended = true;
        } else if !self.turn.is_servers.get() {
            self.turn(true);
        }
        sort(self, came);
        Poll::Ready(Ok(()))
    }

    /// Puts what came into `unread`.
    fn keep(&mut self, came: &[u8]) {
        self.unread.clear();
        self.unread.extend_from_slice(came);
    }

    /// Answers `malformed`, as the last answer.
    fn refuse(&mut self, malformed: Malformed) {
        self.lane.refuse_malformed(malformed, &mut self.unsent, &self.watch.date.borrow());
        self.unread.clear();
        self.stage = Stage::End;
    }

    /// Reads and answers, until something comes that is not the lane's to answer. It is in `unread` then, and the lane left.
    fn poll_lane(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.stage == Stage::Lane {
            ready!(self.poll_send(context))?;
            if self.is_full() {
                self.stage = Stage::Heads;
                break;
            }
            let answer = |this: &mut Self, came: &[u8]| {
                let (answered, is_left) = this.lane.answer_all(came, &mut this.unsent, &this.watch.date.borrow());
                this.keep(&came[answered..]);
                if is_left || this.is_ended {
                    this.stage = Stage::Heads;
                }
            };
            ready!(self.poll_fill(context, answer))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads until there is something for actix, or the end.
    fn poll_heads(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            self.give();
            if self.given > 0 || self.stage == Stage::Bytes {
                return Poll::Ready(Ok(()));
            }
            if self.stage == Stage::End {
                return self.poll_send(context);
            }
            if self.is_ended && self.unread.is_empty() {
                return Poll::Ready(Ok(()));
            }
            // The answer, when it is written, wakes this task.
            if self.is_asked && (self.is_ended || self.is_full()) {
                return Poll::Pending;
            }
            ready!(self.poll_fill(context, Self::keep))?;
        }
    }

    /// Counts in `given` the bytes of `unread` that actix may read: one head, without its offers, and its body.
    fn give(&mut self) {
        while self.given < self.unread.len() {
            let rest = &mut self.unread[self.given..];
            let is_full = rest.len() >= MAX_HEAD_BYTES;
            match &mut self.stage {
                Stage::Heads if self.is_asked => return,
                Stage::Heads => match head::remove_offers(rest) {
                    Head::Complete { length, body } => {
                        self.given += length;
                        self.is_asked = true;
                        self.stage = body.map_or(Stage::Bytes, Stage::of_body);
                    }
                    Head::Partial if is_full => return self.refuse(Malformed::TooLong),
                    Head::Partial if !self.is_ended => return,
                    Head::Partial => self.stage = Stage::Bytes,
                    Head::Malformed => {
                        self.malformed = Malformed::of(rest);
                        self.stage = Stage::Bytes;
                    }
                },
                Stage::Body(left) => {
                    let part = rest.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    self.given += part;
                    self.stage = Stage::of_body(*left - part as u64);
                }
                _ => self.given = self.unread.len(),
            }
        }
    }

    /// Answers the only request of a connection that is one too many. A probe is left to actix, and nothing behind it.
    fn poll_surplus(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.stage == Stage::Surplus {
            match head::remove_offers(&mut self.unread) {
                Head::Complete { length, .. } if Lane::is_probe(&self.unread) => {
                    self.unread.truncate(length);
                    head::add_close(&mut self.unread);
                    self.given = self.unread.len();
                    self.stage = Stage::End;
                }
                Head::Malformed => self.refuse(Malformed::of(&self.unread)),
                Head::Partial if self.is_ended && self.unread.is_empty() => self.stage = Stage::End,
                Head::Partial if !self.is_ended && !self.is_full() => ready!(self.poll_fill(context, Self::keep))?,
                _ => {
                    self.lane.refuse(&mut self.unsent, &self.watch.date.borrow());
                    self.unread.clear();
                    self.stage = Stage::End;
                }
            }
        }
        self.poll_send(context)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        match this.stage {
            Stage::Lane => ready!(this.poll_lane(context))?,
            Stage::Surplus => ready!(this.poll_surplus(context))?,
            _ => {}
        }
        // The pending write wakes this task.
        if this.is_write_blocked {
            return Poll::Pending;
        }
        if this.read_at_once >= MAX_BYTES_AT_ONCE {
            this.read_at_once = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if this.given == 0 && matches!(this.stage, Stage::Heads | Stage::Body(_)) {
            let Poll::Ready(read) = this.poll_heads(context) else {
                this.read_at_once = 0;
                return Poll::Pending;
            };
            read?;
        }
        if this.given > 0 {
            let part = this.given.min(buffer.remaining());
            buffer.put_slice(&this.unread[..part]);
            this.unread.drain(..part);
            this.given -= part;
            this.read_at_once += part;
            return Poll::Ready(Ok(()));
        }
        if this.stage != Stage::Bytes {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let Poll::Ready(read) = Pin::new(&mut this.io).poll_read(context, buffer) else {
            this.read_at_once = 0;
            return Poll::Pending;
        };
        read?;
        this.read_at_once += buffer.filled().len() - before;
        // Later bytes of a request give it no more time.
        if !this.turn.is_servers.get() && buffer.filled().len() > before {
            this.turn(true);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let malformed = Malformed::find(bytes, this.malformed);
        let routers = malformed.map_or(bytes, |(place, _)| &bytes[..place]);
        if let (Some((_, malformed)), true) = (malformed, routers.is_empty()) {
            // It is sent by the flush that follows.
            this.lane.refuse_malformed(malformed, &mut this.unsent, &this.watch.date.borrow());
            return Poll::Ready(Ok(bytes.len()));
        }
        let sent = match this.poll_send(context)? {
            Poll::Ready(()) => Pin::new(&mut this.io).poll_write(context, routers)?,
            Poll::Pending => Poll::Pending,
        };
        let Poll::Ready(written) = sent else {
            this.is_write_blocked = true;
            this.check(context)?;
            return Poll::Pending;
        };
        // A part of an answer, which is all that a slow reader takes, gives it no more time.
        if written == bytes.len() {
            if bytes != CONTINUE {
                this.is_asked = false;
                // If the next request has begun, its time begins.
                this.turn(!this.unread.is_empty());
            }
            // actix reads before it writes, so it must be polled again to read.
            if mem::take(&mut this.is_write_blocked) || !this.unread.is_empty() {
                context.waker().wake_by_ref();
            }
        }
        Poll::Ready(Ok(written))
    }

    /// actix flushes whenever it looks at a connection, whatever it is doing, unless a write is pending.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        ready!(self.poll_send(context))?;
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(context))?;
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
