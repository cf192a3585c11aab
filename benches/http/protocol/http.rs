//! HTTP/1.1: one GET again and again.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::ops::Range;

use super::{Found, number, unexpected};

const END_OF_HEAD: &[u8] = b"\r\n\r\n";

/// What is asked for, and what is looked for in the answers.
#[derive(Clone, Debug)]
pub struct Http {
    pub path: String,
    pub ids: Ids,
}

/// How the ids stand in the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ids {
    /// `{"id":101}`
    One,
    /// `{"ranges":[{"first":101,"last":200}]}`
    Ranges,
    /// A constant is answered: only the status is looked at.
    Constant,
}

impl Http {
    pub fn get(path: &str, ids: Ids) -> Self {
        Self { path: path.to_owned(), ids }
    }

    /// As short as a request may be.
    pub fn request(&self) -> Vec<u8> {
        format!("GET {} HTTP/1.1\r\nHost: bench\r\n\r\n", self.path).into_bytes()
    }

    /// Asks once. So no server has more connections waiting than it has accepted, and none takes one for idle before the
    /// last of thousands is made.
    pub fn begin(&self, stream: &mut TcpStream, ids: &mut Vec<Range<u64>>) -> io::Result<Reader> {
        let (mut reader, mut bytes, mut buffer) = (self.reader(), Vec::new(), [0; 4096]);
        stream.write_all(&self.request())?;
        loop {
            match stream.read(&mut buffer)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => bytes.extend_from_slice(&buffer[..read]),
            }
            match reader.read(&bytes, ids) {
                Found::Part => {}
                Found::Answer { .. } => return Ok(reader),
                Found::Refusal { .. } => return Err(unexpected("the first request", &bytes)),
            }
        }
    }

    pub fn reader(&self) -> Reader {
        Reader { ids: self.ids, head: 0, length_at: 0..0, length: Vec::new(), body: 0 }
    }
}

/// Reads answers. Their heads are mostly as long as the last one's, with the same length of body: then nothing is
/// searched for.
#[derive(Debug)]
pub struct Reader {
    ids: Ids,
    /// Of the last answer: its head's length, where the body's length stood, as which digits, and the number.
    head: usize,
    length_at: Range<usize>,
    length: Vec<u8>,
    body: usize,
}

impl Reader {
    #[inline]
    pub fn read(&mut self, bytes: &[u8], ids: &mut Vec<Range<u64>>) -> Found {
        if !self.is_as_the_last(bytes) && !self.learn(bytes) {
            return Found::Part;
        }
        let length = self.head + self.body;
        let Some(body) = bytes.get(self.head..length) else { return Found::Part };
        let is_good = bytes.get(9..12) == Some(b"200")
            && match self.ids {
                Ids::One => one(body, ids),
                Ids::Ranges => ranges(body, ids),
                Ids::Constant => true,
            };
        if is_good { Found::Answer { length } } else { Found::Refusal { length } }
    }

    #[inline]
    fn is_as_the_last(&self, bytes: &[u8]) -> bool {
        self.head > 0
            && bytes.len() >= self.head
            && bytes[..self.head].ends_with(END_OF_HEAD)
            && bytes[self.length_at.clone()] == self.length
            && bytes[self.length_at.end] == b'\r'
    }

    /// Searches for the head's end and the length in it; false while they are not there.
    fn learn(&mut self, bytes: &[u8]) -> bool {
        const LENGTH: &[u8] = b"\r\ncontent-length: ";
        let Some(end) = bytes.windows(END_OF_HEAD.len()).position(|window| window == END_OF_HEAD) else { return false };
        let head = &bytes[..end + END_OF_HEAD.len()];
        let named = head.windows(LENGTH.len()).position(|window| window.eq_ignore_ascii_case(LENGTH));
        // Without a length there is no body, for chunks nobody here sends.
        let (at, body, digits) =
            match named.and_then(|at| Some((at + LENGTH.len(), number(&head[at + LENGTH.len()..])?))) {
                Some((at, (body, digits))) => (at, body, digits),
                None => (end, 0, 0),
            };
        self.head = head.len();
        self.length_at = at..at + digits;
        self.length = head[self.length_at.clone()].to_vec();
        self.body = usize::try_from(body).unwrap_or(usize::MAX / 2);
        true
    }
}

/// The id of a plain answer, which must be exactly that.
#[inline]
fn one(body: &[u8], ids: &mut Vec<Range<u64>>) -> bool {
    let Some(rest) = body.strip_prefix(br#"{"code":0,"msg":"ok","data":{"id":"#) else { return false };
    match number(rest) {
        Some((id, digits)) if &rest[digits..] == b"}}" => {
            ids.push(id..id + 1);
            true
        }
        _ => false,
    }
}

fn ranges(body: &[u8], ids: &mut Vec<Range<u64>>) -> bool {
    let Some(mut rest) = body.strip_prefix(br#"{"code":0,"msg":"ok","data":{"ranges":["#) else { return false };
    loop {
        let Some((first, after)) = field(rest, br#"{"first":"#) else { return false };
        let Some((last, after)) = field(after, br#","last":"#) else { return false };
        if last < first {
            return false;
        }
        ids.push(first..last + 1);
        match after {
            b"}]}}" => return true,
            _ => match after.strip_prefix(b"},") {
                Some(next) => rest = next,
                None => return false,
            },
        }
    }
}

fn field<'a>(bytes: &'a [u8], name: &[u8]) -> Option<(u64, &'a [u8])> {
    let rest = bytes.strip_prefix(name)?;
    let (value, digits) = number(rest)?;
    Some((value, &rest[digits..]))
}
