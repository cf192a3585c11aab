//! Postgres' protocol, as far as a prepared statement needs it that has no parameters and gives one `int8`.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::ops::Range;

use super::{Found, unexpected};

const VERSION: u32 = 3 << 16;

/// A letter and four bytes of length, which counts itself.
const HEADER: usize = 5;

/// Logs in, which the server trusts, and prepares `statement`; the request that executes it.
pub fn begin(stream: &mut TcpStream, statement: &str) -> io::Result<Vec<u8>> {
    let startup = [&VERSION.to_be_bytes()[..], b"user\0postgres\0database\0postgres\0\0"].concat();
    stream.write_all(&with_length(&startup))?;
    until_ready(stream)?;
    let parse = [b"id\0", statement.as_bytes(), b"\0", &[0, 0]].concat();
    stream.write_all(&[message(b'P', &parse), message(b'S', b"")].concat())?;
    until_ready(stream)?;
    // To the unnamed portal, the statement `id`; no formats, no values; one format of results: binary.
    let bind = [&b"\0id\0"[..], &[0, 0], &[0, 0], &[0, 1], &[0, 1]].concat();
    let execute = [&b"\0"[..], &[0; 4]].concat();
    Ok([message(b'B', &bind), message(b'E', &execute), message(b'S', b"")].concat())
}

fn with_length(payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len() + 4).expect("a short message").to_be_bytes();
    [&length[..], payload].concat()
}

fn message(letter: u8, payload: &[u8]) -> Vec<u8> {
    [&[letter][..], &with_length(payload)].concat()
}

/// Reads up to the server's word that it is ready.
fn until_ready(stream: &mut TcpStream) -> io::Result<()> {
    loop {
        let mut header = [0; HEADER];
        stream.read_exact(&mut header)?;
        let mut payload = vec![0; length(&header).saturating_sub(4)];
        stream.read_exact(&mut payload)?;
        match header[0] {
            b'Z' => return Ok(()),
            b'E' => return Err(unexpected("postgres", &payload)),
            _ => {}
        }
    }
}

fn length(header: &[u8]) -> usize {
    let bytes = header[1..HEADER].try_into().expect("four bytes");
    usize::try_from(u32::from_be_bytes(bytes)).expect("32 bits fit")
}

/// Messages up to `ReadyForQuery`; the row among them has the id.
#[inline]
pub fn read(bytes: &[u8], ids: &mut Vec<Range<u64>>) -> Found {
    let (mut from, mut id) = (0, None);
    loop {
        let Some(header) = bytes.get(from..from + HEADER) else { return Found::Part };
        let end = from + 1 + length(header);
        let Some(payload) = bytes.get(from + HEADER..end) else { return Found::Part };
        if header[0] == b'D' {
            // One column of eight bytes: both lengths stand before it.
            id = payload.get(6..14).and_then(|value| value.try_into().ok()).map(u64::from_be_bytes);
        }
        from = end;
        if header[0] == b'Z' {
            break;
        }
    }
    match id {
        Some(id) => {
            ids.push(id..id + 1);
            Found::Answer { length: from }
        }
        None => Found::Refusal { length: from },
    }
}
