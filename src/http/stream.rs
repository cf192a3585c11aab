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
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use actix_web::rt;
use actix_web::rt::net::TcpStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::sleep;

/// How often it is looked for connections that take too long, and how exactly their time is known.
const TICK: Duration = Duration::from_secs(1);

/// One worker's connections. All of this stays in the worker's thread.
pub struct Watch {
    /// In ticks. A late one makes nobody overdue too early.
    now: Cell<u64>,
    limits: Limits<u64>,
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
        let watch = Rc::new(Self { now: Cell::new(0), limits, turns: RefCell::default() });
        let ticking = watch.clone();
        rt::spawn(async move {
            loop {
                sleep(TICK).await;
                ticking.tick();
            }
        });
        watch
    }

    /// Watches `tcp` for as long as it lives.
    pub fn stream(self: &Rc<Self>, tcp: TcpStream) -> Stream {
        let turn = Rc::new(Turn {
            is_servers: Cell::new(false),
            since: Cell::new(self.now.get()),
            is_overdue: Cell::new(false),
            task: RefCell::default(),
        });
        self.turns.borrow_mut().push(turn.clone());
        Stream { tcp, turn, watch: self.clone() }
    }

    fn tick(&self) {
        self.now.set(self.now.get() + 1);
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

/// Whose turn it is on a connection.
struct Turn {
    is_servers: Cell<bool>,
    since: Cell<u64>,
    is_overdue: Cell<bool>,
    task: RefCell<Option<Waker>>,
}

/// A connection that ends with [`io::ErrorKind::TimedOut`] once a turn takes too long.
pub struct Stream {
    tcp: TcpStream,
    turn: Rc<Turn>,
    watch: Rc<Watch>,
}

impl Stream {
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

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.tcp).poll_read(context, buffer))?;
        // Later bytes of a request give it no more time.
        if !self.turn.is_servers.get() && buffer.filled().len() > before {
            self.turn(true);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Poll::Ready(written) = Pin::new(&mut self.tcp).poll_write(context, bytes)? else {
            self.check(context)?;
            return Poll::Pending;
        };
        // A part of an answer, which is all that a slow reader takes, gives it no more time.
        if written == bytes.len() {
            self.turn(false);
        }
        Poll::Ready(Ok(written))
    }

    /// actix flushes whenever it looks at a connection, whatever it is doing, unless a write is pending.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.tcp).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(context)
    }
}
