//! What a connection sends, and how an answer is read: one protocol for each kind of contestant.
//!
//! All are read at the least cost to the generator, which shares the processors with what it measures: what it spends is
//! missing there. Where a protocol has a cheaper way (prepared statements, binary rows), the peer gets it.

use std::io;
use std::net::TcpStream;
use std::ops::Range;

pub mod http;
mod mysql;
mod postgres;
mod redis;

/// How a contestant is spoken to.
#[derive(Clone, Debug)]
pub enum Protocol {
    Http(http::Http),
    /// `INCR` of one key.
    Redis,
    /// A prepared statement, again and again.
    Mysql(&'static str),
    Postgres(&'static str),
}

/// What was found at the beginning of what came. Lengths are in bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// The rest of an answer is not there yet.
    Part,
    Answer {
        length: usize,
    },
    /// An answer, but not with an id.
    Refusal {
        length: usize,
    },
}

/// The state of one connection's protocol.
#[derive(Debug)]
pub enum Dialogue {
    Http(http::Reader),
    Redis,
    Mysql(mysql::Dialogue),
    Postgres,
}

impl Protocol {
    /// Logs in on `stream`, which blocks still; what one request is from then on, and the state to read its answers with.
    /// What was asked for on the way adds to `ids`.
    pub fn begin(&self, stream: &mut TcpStream, ids: &mut Vec<Range<u64>>) -> io::Result<(Vec<u8>, Dialogue)> {
        Ok(match self {
            Self::Http(http) => (http.request(), Dialogue::Http(http.begin(stream, ids)?)),
            Self::Redis => (redis::REQUEST.to_vec(), Dialogue::Redis),
            Self::Mysql(statement) => {
                let (request, dialogue) = mysql::begin(stream, statement)?;
                (request, Dialogue::Mysql(dialogue))
            }
            Self::Postgres(statement) => (postgres::begin(stream, statement)?, Dialogue::Postgres),
        })
    }
}

impl Dialogue {
    /// Reads the answer that `bytes` begin with, and adds its ids to `ids`, half-open.
    #[inline]
    pub fn read(&mut self, bytes: &[u8], ids: &mut Vec<Range<u64>>) -> Found {
        match self {
            Self::Http(reader) => reader.read(bytes, ids),
            Self::Redis => redis::read(bytes, ids),
            Self::Mysql(dialogue) => dialogue.read(bytes, ids),
            Self::Postgres => postgres::read(bytes, ids),
        }
    }
}

/// The number that `bytes` begin with, and how many digits it has; `None` if there are none, or more than an id may have.
#[inline]
fn number(bytes: &[u8]) -> Option<(u64, usize)> {
    const MOST_DIGITS: usize = 19; // of 2^63
    let mut value = 0_u64;
    let mut digits = 0;
    for byte in bytes {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            break;
        }
        value = value.wrapping_mul(10).wrapping_add(u64::from(digit));
        digits += 1;
    }
    (1..=MOST_DIGITS).contains(&digits).then_some((value, digits))
}

fn unexpected(what: &str, bytes: &[u8]) -> io::Error {
    io::Error::other(format!("{what}: {}", String::from_utf8_lossy(bytes)))
}
