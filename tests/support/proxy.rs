//! A TCP proxy between a server under test and its database. It makes the database far away, slow, silent or cut off.
//!
//! What always holds:
//!
//! - Bytes come out as they went in, in their order, each way.
//! - What the client sends is handed on when its delay is over, counted from its arrival: chunks behind each other wait
//!   side by side, not one after the other.
//! - Each fault can be switched while connections are open, and holds for them too.
//! - Nothing is left running after the drop.

// Every test file that has this module compiles it anew, and few use all of it.
#![allow(dead_code)]

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

#[cfg(test)]
mod test;

/// How much is read at a time, and how many such chunks wait for their time on one connection; then the client's sending
/// is held up.
const CHUNK: usize = 16 << 10;
const CHUNKS_WAITING: usize = 1024;

/// A throttled direction hands on this many pieces a second, or one byte at a time.
const PIECES: u64 = 20;

/// Whose bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// From the client to the server.
    Client,
    /// From the server to the client.
    Server,
}

/// A running proxy.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    target: Mutex<SocketAddr>,
    /// In nanoseconds. Relaxed, like the others: nothing else is read through them.
    delay: AtomicU64,
    /// In bytes a second, 0 for no limit.
    rate: AtomicU64,
    client_bytes: AtomicU64,
    server_bytes: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    is_closed: bool,
    is_black_hole: bool,
    cut: Option<Cut>,
    is_cut: bool,
    made: u64,
    /// The connections that are open, so that the end can shut them.
    open: HashMap<u64, Arc<Line>>,
}

/// An armed cut.
struct Cut {
    from: Side,
    /// How many bytes may still pass.
    left: u64,
}

/// One connection.
struct Line {
    client: TcpStream,
    /// None where it was made into the black hole.
    server: Option<TcpStream>,
    /// It was there while the black hole was: nothing passes any more.
    is_silent: AtomicBool,
    /// What came last was the client's: its answer is still to come.
    is_waiting: AtomicBool,
}

/// What may happen to bytes that are next.
enum Passage {
    Free(usize),
    /// So many pass, then the connection is cut.
    Cut(usize),
    Swallowed,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1 and connects to `target_port` there, without a delay.
    pub fn start(target_port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let shared = Arc::new(Shared {
            target: Mutex::new((Ipv4Addr::LOCALHOST, target_port).into()),
            delay: AtomicU64::new(0),
            rate: AtomicU64::new(0),
            client_bytes: AtomicU64::new(0),
            server_bytes: AtomicU64::new(0),
            state: Mutex::default(),
        });
        let for_acceptor = shared.clone();
        let acceptor = thread::spawn(move || accept(&listener, &for_acceptor));
        Self { port, shared, acceptor: Some(acceptor) }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Connects to another port from the next connection on, as a name does that leads to another server after a failover.
    pub fn set_target(&self, port: u16) {
        *self.shared.target.lock().unwrap_or_else(PoisonError::into_inner) = (Ipv4Addr::LOCALHOST, port).into();
    }

    /// Makes each round trip longer by `delay`, from the next chunk on.
    pub fn set_delay(&self, delay: Duration) {
        let nanoseconds = u64::try_from(delay.as_nanos()).expect("less than centuries");
        self.shared.delay.store(nanoseconds, Ordering::Relaxed);
    }

    /// Swallows what either side sends: connections stay open and new ones are accepted, and nothing comes, not even the
    /// other side's end. Switched off again, *new* connections work; those that were there stay silent until their
    /// client closes them, for bytes of theirs are lost.
    pub fn set_black_hole(&self, is_on: bool) {
        let mut state = self.shared.state();
        state.is_black_hole = is_on;
        if is_on {
            state.open.values().for_each(|line| line.is_silent.store(true, Ordering::Relaxed));
        }
    }

    /// Arms one cut: counted from now on and over all connections, after exactly `bytes` more bytes of `from` were handed on,
    /// the connection that carried the last of them is closed, both ways, and nothing more of it passes. 0 is before the
    /// next byte. Then all is as before; an armed cut that has not happened is replaced.
    pub fn cut_after(&self, from: Side, bytes: u64) {
        let mut state = self.shared.state();
        state.cut = Some(Cut { from, left: bytes });
        state.is_cut = false;
    }

    /// Whether the cut that was armed last has happened.
    pub fn is_cut(&self) -> bool {
        self.shared.state().is_cut
    }

    /// Limits each direction of each connection.
    pub fn throttle(&self, bytes_per_second: Option<u64>) {
        assert_ne!(bytes_per_second, Some(0), "for nothing at all there is the black hole");
        self.shared.rate.store(bytes_per_second.unwrap_or(0), Ordering::Relaxed);
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        self.shared.state().open.len()
    }

    /// Whether the server has begun to answer everything that came from the clients of the connections that are open.
    pub fn is_answered(&self) -> bool {
        self.shared.state().open.values().all(|line| !line.is_waiting.load(Ordering::Relaxed))
    }

    /// How many bytes went through, both ways together.
    pub fn bytes(&self) -> u64 {
        let (client, server) = self.counted();
        client + server
    }

    /// How many bytes of the clients went through, and how many of the servers.
    pub fn counted(&self) -> (u64, u64) {
        let shared = &self.shared;
        (shared.client_bytes.load(Ordering::Relaxed), shared.server_bytes.load(Ordering::Relaxed))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        {
            let mut state = self.shared.state();
            state.is_closed = true;
            state.open.values().for_each(|line| line.shut());
        }
        // Wakes the acceptor, which then sees that it is over.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

impl Shared {
    fn target(&self) -> SocketAddr {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes on what comes from `client` until either side ends it.
    fn serve(&self, client: TcpStream) -> io::Result<()> {
        let is_black_hole = self.state().is_black_hole;
        // A database that is away: the client sees its connection closed.
        let server = (!is_black_hole).then(|| TcpStream::connect(self.target())).transpose()?;
        for stream in [Some(&client), server.as_ref()].into_iter().flatten() {
            stream.set_nodelay(true)?;
        }
        let line = Arc::new(Line {
            client,
            server,
            is_silent: AtomicBool::new(is_black_hole),
            is_waiting: AtomicBool::new(false),
        });
        let Some(number) = self.register(&line) else {
            return Ok(());
        };
        if let Some(server) = &line.server {
            let (chunks, due) = mpsc::sync_channel(CHUNKS_WAITING);
            thread::scope(|scope| {
                scope.spawn(|| self.receive(&line, chunks));
                scope.spawn(|| self.hand_on(due, &line, server));
                self.copy_back(&line, server);
            });
        } else {
            while let Ok(1..) = (&line.client).read(&mut [0; 1024]) {}
        }
        self.state().open.remove(&number);
        Ok(())
    }

    /// Notes an open connection; `None` if all is over.
    fn register(&self, line: &Arc<Line>) -> Option<u64> {
        let mut state = self.state();
        if state.is_closed {
            return None;
        }
        // It may have opened since this one was accepted.
        if state.is_black_hole {
            line.is_silent.store(true, Ordering::Relaxed);
        }
        state.made += 1;
        let number = state.made;
        state.open.insert(number, line.clone());
        Some(number)
    }

    /// Client to server, first half: notes when each chunk is due.
    fn receive(&self, line: &Line, chunks: SyncSender<(Instant, Vec<u8>)>) {
        let mut buffer = vec![0; CHUNK];
        while let Ok(read @ 1..) = (&line.client).read(&mut buffer) {
            line.is_waiting.store(true, Ordering::Relaxed);
            let due = Instant::now() + Duration::from_nanos(self.delay.load(Ordering::Relaxed));
            if chunks.send((due, buffer[..read].to_vec())).is_err() {
                break;
            }
        }
        // Tells the second half that this was all.
        drop(chunks);
    }

    /// Client to server, second half.
    fn hand_on(&self, chunks: Receiver<(Instant, Vec<u8>)>, line: &Line, server: &TcpStream) {
        sharpen_sleep();
        for (due, chunk) in chunks {
            sleep_until(due);
            if self.pass(line, Side::Client, &chunk, server).is_err() {
                break;
            }
        }
        if line.is_silent() {
            line.shut();
        } else {
            let _ = server.shutdown(Shutdown::Write);
        }
    }

    /// Server to client. When the server has ended, so does the connection, unless the client must not notice.
    fn copy_back(&self, line: &Line, mut server: &TcpStream) {
        let mut buffer = vec![0; CHUNK];
        while let Ok(read @ 1..) = server.read(&mut buffer) {
            if self.pass(line, Side::Server, &buffer[..read], &line.client).is_err() {
                break;
            }
        }
        if !line.is_silent() {
            line.shut();
        }
    }

    /// Hands `bytes` on as far as the faults let them; an error when that was the connection's end.
    fn pass(&self, line: &Line, from: Side, mut bytes: &[u8], mut to: &TcpStream) -> io::Result<()> {
        while !bytes.is_empty() {
            let rate = self.rate.load(Ordering::Relaxed);
            let piece = if rate == 0 { u64::MAX } else { (rate / PIECES).max(1) };
            let wanted = bytes.len().min(usize::try_from(piece).unwrap_or(usize::MAX));
            let passage = self.state().passage(line, from, wanted);
            let (Passage::Free(passing) | Passage::Cut(passing)) = passage else { return Ok(()) };
            let (passed, rest) = bytes.split_at(passing);
            if from == Side::Server {
                line.is_waiting.store(false, Ordering::Relaxed);
            }
            self.count(from, passing);
            to.write_all(passed)?;
            bytes = rest;
            if let Passage::Cut(_) = passage {
                line.shut();
                self.state().is_cut = true;
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            // The time that they take; none without a limit.
            if let Some(micros) = (passing as u64 * 1_000_000).checked_div(rate) {
                thread::sleep(Duration::from_micros(micros));
            }
        }
        Ok(())
    }

    /// Before they are sent: who got them finds them counted.
    fn count(&self, from: Side, bytes: usize) {
        let counter = match from {
            Side::Client => &self.client_bytes,
            Side::Server => &self.server_bytes,
        };
        counter.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl State {
    /// What happens to the next `wanted` bytes of `from`; counted as passed if it is that.
    fn passage(&mut self, line: &Line, from: Side, wanted: usize) -> Passage {
        if line.is_silent() {
            return Passage::Swallowed;
        }
        let Some(cut) = self.cut.as_mut().filter(|cut| cut.from == from) else {
            return Passage::Free(wanted);
        };
        let passing = wanted.min(usize::try_from(cut.left).unwrap_or(usize::MAX));
        cut.left -= passing as u64;
        if cut.left > 0 {
            return Passage::Free(passing);
        }
        self.cut = None;
        Passage::Cut(passing)
    }
}

impl Line {
    fn is_silent(&self) -> bool {
        self.is_silent.load(Ordering::Relaxed)
    }

    fn shut(&self) {
        for stream in [Some(&self.client), self.server.as_ref()].into_iter().flatten() {
            // It fails where the other side has gone already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    for client in listener.incoming() {
        if shared.state().is_closed {
            break;
        }
        threads.retain(|thread| !thread.is_finished());
        if let Ok(client) = client {
            let shared = shared.clone();
            // What fails here ends this connection, and both sides see that.
            threads.push(thread::spawn(move || drop(shared.serve(client))));
        }
    }
    for thread in threads {
        let _ = thread.join();
    }
}

/// Sleeps until `due`; not at all if that is past.
pub fn sleep_until(due: Instant) {
    let left = due.saturating_duration_since(Instant::now());
    if !left.is_zero() {
        thread::sleep(left);
    }
}

/// Lets this thread's sleeps end within microseconds: the kernel allows itself 50 of them else, to wake up less often.
pub fn sharpen_sleep() {
    let Ok(thread) = fs::read_link("/proc/thread-self") else { return };
    // "PID/task/TID". Where it can't be set, sleeps are a little longer.
    if let Some(id) = thread.file_name() {
        let _ = fs::write(std::path::Path::new("/proc").join(id).join("timerslack_ns"), "1");
    }
}
