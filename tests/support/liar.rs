//! A database server that lies: a proxy in front of a real one that changes some of its answers.

// Several crates include this module, and each uses a part of it.
#![allow(dead_code)]

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// How long a client that was lied to may wait for more of an answer. Then its connection is closed.
const PATIENCE: Duration = Duration::from_millis(100);

const COM_QUIT: u8 = 1;
const COM_STMT_PREPARE: u8 = 0x16;
const COM_STMT_CLOSE: u8 = 0x19;
const OK: u8 = 0;
const ERR: u8 = 0xff;
const EOF: u8 = 0xfe;
const NULL: u8 = 0xfb;
const STATUS_AUTOCOMMIT: u8 = 2;
const STATUS_MORE_RESULTS: u8 = 8;
/// Bit 24 of the capabilities, in the highest byte. Without it, rows begin and end with an EOF packet.
const DEPRECATE_EOF: u8 = 1;

/// A change of one answer.
#[derive(Clone, Copy, Debug)]
pub struct Lie {
    /// The number of true answers before it, over all connections. The greeting and the answer to a login count.
    after: u8,
    kind: u8,
    place: u8,
    number: u64,
}

impl Lie {
    pub const BYTES: usize = 11;

    pub fn read([after, kind, place, number @ ..]: [u8; Self::BYTES]) -> Self {
        Self { after, kind, place, number: u64::from_le_bytes(number) }
    }

    /// The bytes to send instead of `answer`, and whether to close the connection after them.
    fn tell(self, mut answer: Vec<Packet>) -> (Vec<u8>, bool) {
        let place = usize::from(self.place);
        let first = answer[0].number;
        match self.kind % 8 {
            0 => {
                let id = [&[EOF][..], &self.number.to_le_bytes()].concat();
                answer = vec![Packet {
                    number: first,
                    payload: [&[OK, self.place % 251][..], &id, &[STATUS_AUTOCOMMIT, 0, 0, 0]].concat(),
                }];
            }
            1 => {
                let [low, high, ..] = self.number.to_le_bytes();
                answer = vec![Packet { number: first, payload: [&[ERR, low, high][..], b"#HY000a lie"].concat() }];
            }
            2 => {
                let count = answer.len();
                let payload = &mut answer[place % count].payload;
                if let Some(at) = usize::try_from(self.number >> 8).unwrap_or(0).checked_rem(payload.len()) {
                    payload[at] ^= self.number.to_le_bytes()[0];
                }
            }
            3 => replace(&mut answer, place, &text(&self.number.to_string())),
            4 => replace(&mut answer, place, &[NULL]),
            5 => answer.extend(answer.clone()),
            6 => {
                let rows = rows(&answer);
                answer.drain(rows);
            }
            _ => {
                let mut bytes = bytes(&answer);
                let length = usize::try_from(self.number).unwrap_or(0) % bytes.len();
                bytes.truncate(length);
                return (bytes, true);
            }
        }
        (bytes(&answer), false)
    }
}

/// A running proxy. Its connections end with those of the server and the clients.
pub struct Liar {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    target: u16,
    lies: Mutex<VecDeque<Lie>>,
    is_closed: AtomicBool,
}

impl Liar {
    /// Starts one for the server at port `target` of 127.0.0.1.
    pub fn start(target: u16, lies: impl IntoIterator<Item = Lie>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("it is bound").port();
        let lies = Mutex::new(lies.into_iter().collect());
        let shared = Arc::new(Shared { target, lies, is_closed: AtomicBool::new(false) });
        let of_acceptor = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if of_acceptor.is_closed.load(Ordering::Relaxed) {
                    break;
                }
                let shared = of_acceptor.clone();
                // An error is the end of a connection.
                thread::spawn(move || serve(&client, &shared));
            }
        });
        Self { port, shared }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Tells the truth from now on.
    pub fn stop_lying(&self) {
        self.shared.lies().clear();
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.shared.is_closed.store(true, Ordering::Relaxed);
        // It waits for the next connection.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

impl Shared {
    fn lies(&self) -> std::sync::MutexGuard<'_, VecDeque<Lie>> {
        self.lies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends `answer`, or a lie.
    fn tell(&self, mut client: &TcpStream, answer: Vec<Packet>) -> io::Result<()> {
        let mut lies = self.lies();
        let lie = match lies.front_mut() {
            Some(next) if next.after > 0 => {
                next.after -= 1;
                None
            }
            Some(_) => lies.pop_front(),
            None => None,
        };
        drop(lies);
        let Some(lie) = lie else { return client.write_all(&bytes(&answer)) };
        client.set_read_timeout(Some(PATIENCE))?;
        let (told, is_end) = lie.tell(answer);
        client.write_all(&told)?;
        if is_end { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }
}

fn serve(client: &TcpStream, shared: &Shared) {
    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, shared.target)) else { return };
    // An error is the end of both.
    let _ = talk(client, &server, shared);
    for stream in [client, &server] {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

fn talk(client: &TcpStream, server: &TcpStream, shared: &Shared) -> io::Result<()> {
    let mut greeting = Packet::read(server)?;
    let version = greeting.payload.iter().position(|byte| *byte == 0).unwrap_or(0);
    // Behind the version: the connection's number (4), a part of the salt (9), capabilities (2), character set (1), status (2).
    if let Some(highest) = greeting.payload.get_mut(version + 1 + 4 + 9 + 2 + 1 + 2 + 1) {
        *highest &= !DEPRECATE_EOF;
    }
    shared.tell(client, vec![greeting])?;
    loop {
        Packet::read(client)?.write(server)?;
        let answer = Packet::read(server)?;
        let is_over = matches!(answer.payload.first(), Some(&(OK | ERR)));
        shared.tell(client, vec![answer])?;
        if is_over {
            break;
        }
    }
    loop {
        let command = Packet::read(client)?;
        command.write(server)?;
        let answer = match command.payload.first() {
            Some(&COM_QUIT) => return Ok(()),
            Some(&COM_STMT_CLOSE) => continue,
            Some(&COM_STMT_PREPARE) => answer_to_prepare(server)?,
            _ => answer_to_query(server)?,
        };
        shared.tell(client, answer)?;
    }
}

/// All packets of an answer: OK, an error, or columns and rows, each with an EOF packet behind them.
fn answer_to_query(server: &TcpStream) -> io::Result<Vec<Packet>> {
    let mut packets: Vec<Packet> = Vec::new();
    loop {
        let first = Packet::read(server)?;
        let is_without_rows = matches!(first.payload.first(), Some(&(OK | ERR)));
        packets.push(first);
        let mut ends = if is_without_rows { 2 } else { 0 };
        while ends < 2 {
            let packet = Packet::read(server)?;
            ends += match packet.payload.first() {
                Some(&ERR) => 2,
                _ if packet.is_eof() => 1,
                _ => 0,
            };
            packets.push(packet);
        }
        if !packets.last().is_some_and(Packet::has_more_results) {
            return Ok(packets);
        }
    }
}

/// An error; or a packet with two numbers, and that many columns and parameters, each with an EOF packet behind them.
fn answer_to_prepare(server: &TcpStream) -> io::Result<Vec<Packet>> {
    let first = Packet::read(server)?;
    let mut ends = match first.payload[..] {
        // Behind the statement's number.
        [OK, _, _, _, _, columns, more_columns, params, more_params, ..] => {
            [[columns, more_columns], [params, more_params]].iter().filter(|count| **count != [0, 0]).count()
        }
        _ => 0,
    };
    let mut packets = vec![first];
    while ends > 0 {
        let packet = Packet::read(server)?;
        ends -= usize::from(packet.is_eof());
        packets.push(packet);
    }
    Ok(packets)
}

/// The rows of an answer, among its packets.
fn rows(answer: &[Packet]) -> std::ops::Range<usize> {
    let mut ends = answer.iter().enumerate().filter(|(_, packet)| packet.is_eof()).map(|(number, _)| number);
    match (ends.next(), ends.next()) {
        (Some(begin), Some(end)) => begin + 1..end,
        _ => 0..0,
    }
}

/// Puts `value` in place of one of the values of the first row.
fn replace(answer: &mut [Packet], place: usize, value: &[u8]) {
    let rows = rows(answer);
    let Some(row) = answer[rows].first_mut() else { return };
    let mut values: Vec<&[u8]> = Vec::new();
    let mut rest = &row.payload[..];
    while let Some(&length) = rest.first() {
        let length = match length {
            NULL => 1,
            // Longer ones have their length in several bytes.
            252.. => return,
            length => 1 + usize::from(length),
        };
        let Some((one, others)) = rest.split_at_checked(length) else { return };
        values.push(one);
        rest = others;
    }
    let Some(at) = place.checked_rem(values.len()) else { return };
    values[at] = value;
    row.payload = values.concat();
}

/// A short text with its length before it.
fn text(text: &str) -> Vec<u8> {
    [&[u8::try_from(text.len()).expect("a short text")], text.as_bytes()].concat()
}

fn bytes(packets: &[Packet]) -> Vec<u8> {
    packets.iter().flat_map(Packet::bytes).collect()
}

#[derive(Clone)]
struct Packet {
    number: u8,
    payload: Vec<u8>,
}

impl Packet {
    fn read(mut stream: &TcpStream) -> io::Result<Self> {
        let mut head = [0; 4];
        stream.read_exact(&mut head)?;
        let [low, middle, high, number] = head;
        let mut payload = vec![0; usize::from(low) | usize::from(middle) << 8 | usize::from(high) << 16];
        stream.read_exact(&mut payload)?;
        Ok(Self { number, payload })
    }

    fn bytes(&self) -> Vec<u8> {
        let [low, middle, high, ..] = self.payload.len().to_le_bytes();
        [&[low, middle, high, self.number], &self.payload[..]].concat()
    }

    fn write(&self, mut stream: &TcpStream) -> io::Result<()> {
        stream.write_all(&self.bytes())
    }

    fn is_eof(&self) -> bool {
        self.payload.first() == Some(&EOF) && self.payload.len() < 9
    }

    /// In the status of an EOF packet; an OK packet of a statement that changes at most 250 rows has it behind an id.
    fn has_more_results(&self) -> bool {
        self.is_eof() && self.payload.get(3).is_some_and(|status| status & STATUS_MORE_RESULTS != 0)
    }
}
