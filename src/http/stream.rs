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

use super::lane::Lane;

/// The most bytes that actix reads from a connection before it parses them. It keeps about 8 KiB for each request that it
/// has parsed. Without this limit actix-http 3.20 reads 128 KiB at once, which may be 4,000 requests.
const MAX_BYTES_AT_ONCE: usize = 16 << 10;

/// How often it is looked for connections that take too long, and how exactly their time is known.
const TICK: Duration = Duration::from_secs(1);

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

    /// Watches `io` for as long as it lives.
    pub fn stream<T>(self: &Rc<Self>, io: T, lane: Rc<Lane>) -> Stream<T> {
        let turn = Rc::new(Turn {
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
            lane: Some(lane),
            unsent: Vec::new(),
            unread: Vec::new(),
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
        let limit = |turn: &Turn| if turn.is_servers.get() { self.limits.request } else { self.limits.idle };
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
    is_servers: Cell<bool>,
    since: Cell<u64>,
    is_overdue: Cell<bool>,
    task: RefCell<Option<Waker>>,
}

/// A connection that ends with [`io::ErrorKind::TimedOut`] once a turn takes too long. What the [`Lane`] can answer never
/// comes to who reads from it.
pub struct Stream<T> {
    io: T,
    turn: Rc<Turn>,
    watch: Rc<Watch>,
    /// As long as the lane has answered all that came. Then the connection is actix's for good, for only it knows
    /// what it still has to answer.
    lane: Option<Rc<Lane>>,
    /// What the lane has answered and the kernel has not taken yet: it goes before all else. Nothing is read until it is
    /// sent, so that it is at most the answers to what is read at once, about 32 KiB.
    unsent: Vec<u8>,
    /// The beginning of a request; once the lane is left, what comes before all that is read.
    unread: Vec<u8>,
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
    /// Sends what the lane has answered.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(context, &self.unsent))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unsent.drain(..written);
            if self.unsent.is_empty() {
                // Where the next request has begun, its time begins. With one that is not the lane's, the lane was left.
                self.turn(self.lane.is_none() || !self.unread.is_empty());
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads and answers, until something comes that is not `lane`'s to answer. It is in `unread` then, and the lane left.
    fn poll_lane(&mut self, context: &mut Context<'_>, lane: &Lane) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_send(context))?;
            let mut scratch = lane.scratch.borrow_mut();
            let mut read = ReadBuf::new(&mut scratch[..]);
            read.put_slice(&self.unread);
            ready!(Pin::new(&mut self.io).poll_read(context, &mut read))?;
            let came = read.filled();
            let is_end = came.len() == self.unread.len();
            if !self.turn.is_servers.get() && !is_end {
                self.turn(true);
            }
            let (answered, is_left) = lane.answer_all(came, &mut self.unsent, &self.watch.date.borrow());
            self.unread.clear();
            self.unread.extend_from_slice(&came[answered..]);
            if is_left || is_end {
                self.lane = None;
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(lane) = this.lane.clone() {
            ready!(this.poll_lane(context, &lane))?;
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
        if !this.unread.is_empty() {
            let part = this.unread.len().min(buffer.remaining());
            buffer.put_slice(&this.unread[..part]);
            this.unread.drain(..part);
            this.read_at_once += part;
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
        let sent = match self.poll_send(context)? {
            Poll::Ready(()) => Pin::new(&mut self.io).poll_write(context, bytes)?,
            Poll::Pending => Poll::Pending,
        };
        let Poll::Ready(written) = sent else {
            self.is_write_blocked = true;
            self.check(context)?;
            return Poll::Pending;
        };
        // A part of an answer, which is all that a slow reader takes, gives it no more time.
        if written == bytes.len() {
            self.turn(false);
            // actix reads before it writes, so it must be polled again to read.
            if mem::take(&mut self.is_write_blocked) {
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
