//! A TCP proxy between a server under test and its database. It makes the database far away.
//!
//! What always holds:
//!
//! - Bytes come out as they went in, in their order, each way.
//! - What the client sends is handed on when its delay is over, counted from its arrival: chunks behind each other wait
//!   side by side, not one after the other.
//! - Nothing is left running after the drop.

// Every test file that has this module compiles it anew, and few use all of it.
#![allow(dead_code)]

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How much is read at a time, and how many such chunks wait for their time on one connection; then the client's sending
/// is held up.
const CHUNK: usize = 16 << 10;
const CHUNKS_WAITING: usize = 1024;

/// A running proxy.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    target: SocketAddr,
    /// In nanoseconds. Relaxed, like the bytes: nothing else is read through them.
    delay: AtomicU64,
    bytes: AtomicU64,
    connections: Mutex<Connections>,
}

/// The connections that are open, so that the end can shut them.
#[derive(Default)]
struct Connections {
    is_closed: bool,
    made: u64,
    open: HashMap<u64, Pair>,
}

/// Both sides of one connection.
struct Pair {
    client: TcpStream,
    server: TcpStream,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1 and connects to `target_port` there, without a delay.
    pub fn start(target_port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let shared = Arc::new(Shared {
            target: (Ipv4Addr::LOCALHOST, target_port).into(),
            delay: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            connections: Mutex::default(),
        });
        let for_acceptor = shared.clone();
        let acceptor = thread::spawn(move || accept(&listener, &for_acceptor));
        Self { port, shared, acceptor: Some(acceptor) }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Makes each round trip longer by `delay`, from the next chunk on.
    pub fn set_delay(&self, delay: Duration) {
        let nanoseconds = u64::try_from(delay.as_nanos()).expect("less than centuries");
        self.shared.delay.store(nanoseconds, Ordering::Relaxed);
    }

    /// How many bytes went through, both ways together.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        {
            let mut connections = self.shared.connections();
            connections.is_closed = true;
            connections.open.values().for_each(Pair::shut);
        }
        // Wakes the acceptor, which then sees that it is over.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

impl Shared {
    fn connections(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes on what comes from `client` until either side ends it.
    fn serve(&self, client: &TcpStream) -> io::Result<()> {
        // A database that is away: the client sees its connection closed.
        let server = TcpStream::connect(self.target)?;
        for stream in [client, &server] {
            stream.set_nodelay(true)?;
        }
        let Some(number) = self.register(Pair { client: client.try_clone()?, server: server.try_clone()? }) else {
            return Ok(());
        };
        let (chunks, due) = mpsc::sync_channel(CHUNKS_WAITING);
        thread::scope(|scope| {
            scope.spawn(|| self.receive(client, chunks));
            scope.spawn(|| self.hand_on(due, &server));
            self.copy_back(&server, client);
        });
        self.connections().open.remove(&number);
        Ok(())
    }

    /// Notes an open connection; `None` if all is over.
    fn register(&self, pair: Pair) -> Option<u64> {
        let mut connections = self.connections();
        if connections.is_closed {
            return None;
        }
        connections.made += 1;
        let number = connections.made;
        connections.open.insert(number, pair);
        Some(number)
    }

    /// Client to server, first half: notes when each chunk is due.
    fn receive(&self, mut client: &TcpStream, chunks: SyncSender<(Instant, Vec<u8>)>) {
        let mut buffer = vec![0; CHUNK];
        while let Ok(read @ 1..) = client.read(&mut buffer) {
            let due = Instant::now() + Duration::from_nanos(self.delay.load(Ordering::Relaxed));
            if chunks.send((due, buffer[..read].to_vec())).is_err() {
                break;
            }
        }
        // Tells the second half that this was all.
        drop(chunks);
    }

    /// Client to server, second half.
    fn hand_on(&self, chunks: Receiver<(Instant, Vec<u8>)>, mut server: &TcpStream) {
        sharpen_sleep();
        for (due, chunk) in chunks {
            sleep_until(due);
            self.count(chunk.len());
            if server.write_all(&chunk).is_err() {
                break;
            }
        }
        let _ = server.shutdown(Shutdown::Write);
    }

    /// Server to client. When the server has ended, so does the connection.
    fn copy_back(&self, mut server: &TcpStream, mut client: &TcpStream) {
        let mut buffer = vec![0; CHUNK];
        while let Ok(read @ 1..) = server.read(&mut buffer) {
            self.count(read);
            if client.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        shut(client);
        shut(server);
    }

    /// Before they are sent: who got them finds them counted.
    fn count(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl Pair {
    fn shut(&self) {
        shut(&self.client);
        shut(&self.server);
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    for client in listener.incoming() {
        if shared.connections().is_closed {
            break;
        }
        threads.retain(|thread| !thread.is_finished());
        if let Ok(client) = client {
            let shared = shared.clone();
            // What fails here ends this connection, and both sides see that.
            threads.push(thread::spawn(move || drop(shared.serve(&client))));
        }
    }
    for thread in threads {
        let _ = thread.join();
    }
}

fn shut(stream: &TcpStream) {
    // It fails where the other side has gone already.
    let _ = stream.shutdown(Shutdown::Both);
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

/// A server that sends back what it gets, for one connection.
#[cfg(test)]
fn start_echo() -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let echo = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        let mut buffer = [0; 1024];
        while let Ok(read @ 1..) = stream.read(&mut buffer) {
            stream.write_all(&buffer[..read]).unwrap();
        }
    });
    (port, echo)
}

#[test]
fn a_round_trip_takes_longer_by_the_delay_and_chunks_keep_their_order() {
    let (port, echo) = start_echo();
    let proxy = Proxy::start(port);
    let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap();
    client.set_nodelay(true).unwrap();
    // The shortest of many, which a busy machine does not lengthen.
    let mut shortest = |delay: Duration| {
        proxy.set_delay(delay);
        let round_trip = || {
            let sent = Instant::now();
            client.write_all(b"x").unwrap();
            client.read_exact(&mut [0]).unwrap();
            sent.elapsed()
        };
        std::iter::repeat_with(round_trip).take(50).min().unwrap()
    };
    let near = shortest(Duration::ZERO);
    let delay = Duration::from_micros(100);
    let far = shortest(delay);
    assert!(far >= delay && far < near + delay * 2, "{far:?}, without the delay {near:?}");

    let (chunks, delay) = (20_u8, Duration::from_millis(100));
    proxy.set_delay(delay);
    let first = Instant::now();
    for chunk in 0..chunks {
        client.write_all(&[chunk]).unwrap();
        thread::sleep(Duration::from_millis(2));
    }
    let mut got = vec![0; chunks.into()];
    client.read_exact(&mut got).unwrap();
    assert_eq!(got, (0..chunks).collect::<Vec<_>>());
    let took = first.elapsed();
    assert!(took >= delay && took < delay * u32::from(chunks) / 2, "the delays add up: {took:?}");
    assert_eq!(proxy.bytes(), 2 * (2 * 50 + u64::from(chunks)));

    drop(proxy);
    assert!(matches!(client.read(&mut [0]), Ok(0) | Err(_)), "it ends with the proxy");
    echo.join().unwrap();
}
