//! A proxy that splits reads from writes, as `ProxySQL` and `MaxScale` are set up to do: plain SELECTs go to a replica, and all
//! else, with everything in a transaction, to the primary. It knows accounts without a password only.

// Each test binary compiles this module, and few use all of it.
#![allow(dead_code)]

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

const QUERY: u8 = 3;

/// A running proxy. Its connections end with those of its servers and clients.
pub struct Splitter {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    primary: u16,
    replica: u16,
    is_closed: AtomicBool,
    /// How many statements went to the replica.
    reads: AtomicU64,
}

impl Splitter {
    /// Starts one for the servers at these ports of 127.0.0.1.
    pub fn start(primary: u16, replica: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("it is bound").port();
        let shared = Arc::new(Shared { primary, replica, is_closed: AtomicBool::new(false), reads: AtomicU64::new(0) });
        let of_acceptor = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if of_acceptor.is_closed.load(Ordering::Relaxed) {
                    break;
                }
                let shared = of_acceptor.clone();
                // An error is the end of a connection.
                thread::spawn(move || serve(client, &shared));
            }
        });
        Self { port, shared }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many statements went to the replica.
    pub fn reads(&self) -> u64 {
        self.shared.reads.load(Ordering::Relaxed)
    }
}

impl Drop for Splitter {
    fn drop(&mut self) {
        self.shared.is_closed.store(true, Ordering::Relaxed);
        // It waits for the next connection.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

fn serve(mut client: TcpStream, shared: &Shared) -> io::Result<()> {
    let mut primary = TcpStream::connect((Ipv4Addr::LOCALHOST, shared.primary))?;
    let mut replica = TcpStream::connect((Ipv4Addr::LOCALHOST, shared.replica))?;
    // Without a password the answer to one server's greeting is as good for the other's.
    let greeting = packet(&mut primary)?;
    packet(&mut replica)?;
    client.write_all(&greeting)?;
    let response = packet(&mut client)?;
    for server in [&mut primary, &mut replica] {
        server.write_all(&response)?;
    }
    let accepted = packet(&mut primary)?;
    packet(&mut replica)?;
    client.write_all(&accepted)?;
    for server in [&primary, &replica] {
        let (mut from, mut to) = (server.try_clone()?, client.try_clone()?);
        thread::spawn(move || io::copy(&mut from, &mut to));
    }
    let mut is_in_transaction = false;
    let outcome = loop {
        let command = match packet(&mut client) {
            Ok(command) => command,
            Err(error) => break Err(error),
        };
        let text = String::from_utf8_lossy(&command[5..]).to_uppercase();
        let is_query = command[4] == QUERY;
        let is_read = is_query && text.starts_with("SELECT") && !text.contains("FOR UPDATE") && !is_in_transaction;
        is_in_transaction = is_query && (is_in_transaction || text.starts_with("START TRANSACTION"));
        is_in_transaction &= !["COMMIT", "ROLLBACK"].iter().any(|end| text.starts_with(end));
        shared.reads.fetch_add(u64::from(is_read), Ordering::Relaxed);
        let server = if is_read { &mut replica } else { &mut primary };
        if let Err(error) = server.write_all(&command) {
            break Err(error);
        }
    };
    // The other ends notice.
    for stream in [&client, &primary, &replica] {
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }
    outcome
}

/// A packet of the protocol: three bytes of length, one of sequence, and that many bytes.
fn packet(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut packet = vec![0; 4];
    stream.read_exact(&mut packet)?;
    let length = usize::from(packet[0]) | usize::from(packet[1]) << 8 | usize::from(packet[2]) << 16;
    packet.resize(4 + length, 0);
    stream.read_exact(&mut packet[4..])?;
    Ok(packet)
}
