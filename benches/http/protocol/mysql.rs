//! MySQL's protocol, as far as a prepared statement needs it that has no parameters and gives one number: of its row, or of
//! the OK packet's `last_insert_id`.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::ops::Range;

use super::{Found, unexpected};

const CONNECT_WITH_DB: u32 = 1 << 3;
const PROTOCOL_41: u32 = 1 << 9;
const TRANSACTIONS: u32 = 1 << 13;
const SECURE_CONNECTION: u32 = 1 << 15;
const PLUGIN_AUTH: u32 = 1 << 19;
/// Saves the server a packet behind the columns.
const DEPRECATE_EOF: u32 = 1 << 24;
const CAPABILITIES: u32 =
    CONNECT_WITH_DB | PROTOCOL_41 | TRANSACTIONS | SECURE_CONNECTION | PLUGIN_AUTH | DEPRECATE_EOF;

const MOST_PACKET_BYTES: u32 = 1 << 24;
const UTF8MB4: u8 = 45;

const COM_STMT_PREPARE: u8 = 0x16;
const COM_STMT_EXECUTE: u8 = 0x17;

const OK: u8 = 0x00;
/// In place of an answer to the login: the server asks for another plugin's proof.
const SWITCH: u8 = 0xfe;
const ERROR: u8 = 0xff;

/// The header of a packet: three bytes of length, one that counts.
const HEADER: usize = 4;

/// What answers look like.
#[derive(Clone, Copy, Debug)]
pub struct Dialogue {
    has_row: bool,
}

/// Logs in as root without a password and prepares `statement`; the request that executes it.
pub fn begin(stream: &mut TcpStream, statement: &str) -> io::Result<(Vec<u8>, Dialogue)> {
    let _greeting = receive(stream)?;
    let mut login = Vec::new();
    login.extend(CAPABILITIES.to_le_bytes());
    login.extend(MOST_PACKET_BYTES.to_le_bytes());
    login.push(UTF8MB4);
    login.extend([0; 23]);
    // The user, no proof, the database, the plugin.
    login.extend(b"root\0\0sequence\0mysql_native_password\0");
    send(stream, 1, &login)?;
    let (number, mut answer) = receive(stream)?;
    if answer.first() == Some(&SWITCH) {
        // No password has no proof, whatever the plugin.
        send(stream, number.wrapping_add(1), b"")?;
        answer = receive(stream)?.1;
    }
    expect_ok("the login", &answer)?;

    send(stream, 0, &[&[COM_STMT_PREPARE], statement.as_bytes()].concat())?;
    let (_, prepared) = receive(stream)?;
    expect_ok("the statement", &prepared)?;
    let (id, columns) = (&prepared[1..5], u16::from_le_bytes([prepared[5], prepared[6]]));
    for _ in 0..columns {
        receive(stream)?;
    }
    // No cursor; the number of iterations is always 1.
    let execute = [&[COM_STMT_EXECUTE][..], id, &[0], &1_u32.to_le_bytes()].concat();
    Ok((packet(0, &execute), Dialogue { has_row: columns > 0 }))
}

fn expect_ok(what: &str, answer: &[u8]) -> io::Result<()> {
    if answer.first() == Some(&OK) { Ok(()) } else { Err(unexpected(what, answer)) }
}

fn packet(number: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short packet").to_le_bytes();
    [&length[..3], &[number], payload].concat()
}

fn send(stream: &mut TcpStream, number: u8, payload: &[u8]) -> io::Result<()> {
    stream.write_all(&packet(number, payload))
}

/// The next packet's number and payload.
fn receive(stream: &mut TcpStream) -> io::Result<(u8, Vec<u8>)> {
    let mut header = [0; HEADER];
    stream.read_exact(&mut header)?;
    let mut payload = vec![0; length(header)];
    stream.read_exact(&mut payload)?;
    Ok((header[3], payload))
}

fn length(header: [u8; HEADER]) -> usize {
    usize::from(header[0]) | usize::from(header[1]) << 8 | usize::from(header[2]) << 16
}

/// The payload of the packet at `from`, and where it ends.
#[inline]
fn payload(bytes: &[u8], from: usize) -> Option<(&[u8], usize)> {
    let header = bytes.get(from..from + HEADER)?.try_into().ok()?;
    let end = from + HEADER + length(header);
    Some((bytes.get(from + HEADER..end)?, end))
}

impl Dialogue {
    #[inline]
    pub fn read(self, bytes: &[u8], ids: &mut Vec<Range<u64>>) -> Found {
        let Some((first, end)) = payload(bytes, 0) else { return Found::Part };
        if first.first() == Some(&ERROR) {
            return Found::Refusal { length: end };
        }
        let (id, length) = if self.has_row {
            // The number of columns, the column, the row, the end.
            let Some((_, end)) = payload(bytes, end) else { return Found::Part };
            let Some((row, end)) = payload(bytes, end) else { return Found::Part };
            let length = if row.first() == Some(&ERROR) {
                end
            } else {
                let Some((_, end)) = payload(bytes, end) else { return Found::Part };
                end
            };
            // A zero and the map of nulls stand before the value.
            (row.get(2..10).and_then(|value| value.try_into().ok()).map(u64::from_le_bytes), length)
        } else {
            // Zero, the number of rows, the id.
            (first.get(2..).and_then(length_encoded), end)
        };
        match id {
            Some(id @ 1..) => {
                ids.push(id..id + 1);
                Found::Answer { length }
            }
            _ => Found::Refusal { length },
        }
    }
}

/// A number in the protocol's form of one to nine bytes.
fn length_encoded(bytes: &[u8]) -> Option<u64> {
    let size = match *bytes.first()? {
        small @ ..=0xfa => return Some(small.into()),
        0xfc => 2,
        0xfd => 3,
        0xfe => 8,
        _ => return None,
    };
    let mut value = [0; 8];
    value[..size].copy_from_slice(bytes.get(1..=size)?);
    Some(u64::from_le_bytes(value))
}
