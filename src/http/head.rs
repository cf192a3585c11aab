//! The head of a request (its first line and headers) before actix reads it.
//!
//! A client that offers another protocol (`Connection: Upgrade`, as Java's `HttpClient` and `curl --http2` do for each request)
//! must be answered as if it had not. actix repeats the offer in its answer, and then closes the connection. So the offer is
//! blanked out. No byte changes its place.

use std::mem::MaybeUninit;
use std::ops::Range;

use httparse::{Request, Status};

/// As many headers as actix reads.
const MAX_HEADERS: usize = 96;

/// What `bytes` begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// A part of a head.
    Partial,
    /// A whole head.
    Complete {
        /// The bytes of the head.
        length: usize,
        /// The bytes of the body behind it; `None` if they are not known.
        body: Option<u64>,
    },
    /// Bytes that can't be read as a head.
    Malformed,
}

/// Whether `option` of a `Connection` header only offers another protocol.
pub fn is_offer(option: &[u8]) -> bool {
    [&b"upgrade"[..], b"http2-settings"].into_iter().any(|offer| option.trim_ascii().eq_ignore_ascii_case(offer))
}

/// Blanks out what the head at the beginning of `bytes` offers, if it is complete.
pub fn remove_offers(bytes: &mut [u8]) -> Head {
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut request = Request::new(&mut []);
    let length = match request.parse_with_uninit_headers(bytes, &mut headers) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) => return Head::Partial,
        Err(_) => return Head::Malformed,
    };
    let place = |part: &[u8]| {
        let start = part.as_ptr().addr() - bytes.as_ptr().addr();
        start..start + part.len()
    };
    let (mut body, mut lengths) = (Some(0), 0);
    let mut offers: Vec<Range<usize>> = Vec::new();
    for header in request.headers.iter() {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        if is("content-length") {
            lengths += 1;
            // Without a plus sign, which `parse` alone would take.
            let digits = std::str::from_utf8(header.value).ok().map(str::trim).filter(|text| !text.starts_with('+'));
            body = body.and(digits.filter(|_| lengths == 1).and_then(|digits| digits.parse().ok()));
        } else if is("transfer-encoding") || is("expect") {
            body = None;
        } else if is("connection") {
            offers.extend(header.value.split(|byte| *byte == b',').filter(|option| is_offer(option)).map(place));
        } else if is("upgrade") {
            offers.push(place(header.value));
        }
    }
    for offer in offers {
        bytes[offer].fill(b' ');
    }
    Head::Complete { length, body }
}

/// Makes the request at the beginning of `bytes` the last of its connection.
pub fn add_close(bytes: &mut Vec<u8>) {
    // Empty lines may come before the first one.
    let start = bytes.len() - bytes.trim_ascii_start().len();
    if let Some(end) = bytes[start..].iter().position(|byte| *byte == b'\n') {
        let after = start + end + 1;
        bytes.splice(after..after, *b"connection: close\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_are_blanked_out() {
        for (offered, left) in [
            ("Connection: Upgrade, HTTP2-Settings", "Connection:        ,               "),
            ("Connection: keep-alive,upgrade", "Connection: keep-alive,       "),
            ("connection: close, UPGRADE", "connection: close,        "),
            ("Upgrade: h2c", "Upgrade:    "),
            ("UPGRADE:websocket", "UPGRADE:         "),
            ("Connection: not-upgrade", "Connection: not-upgrade"),
            ("X-Upgrade: websocket", "X-Upgrade: websocket"),
        ] {
            let head = |line: &str| format!("GET /new?count=2 HTTP/1.1\r\nHost: x\r\n{line}\r\n\r\nupgrade: h2c");
            let mut bytes = head(offered).into_bytes();
            let length = bytes.len() - "upgrade: h2c".len();
            assert_eq!(remove_offers(&mut bytes), Head::Complete { length, body: Some(0) }, "{offered}");
            assert_eq!(String::from_utf8(bytes).unwrap(), head(left));
        }
    }

    #[test]
    fn bodies_are_measured() {
        for (lines, expected) in [
            ("", Some(0)),
            ("Content-Length: 0\r\n", Some(0)),
            ("content-length:  12 \r\n", Some(12)),
            ("Content-Length: +1\r\n", None),
            ("Content-Length: x\r\n", None),
            ("Content-Length: 1\r\nContent-Length: 1\r\n", None),
            ("Transfer-Encoding: chunked\r\n", None),
            ("Expect: 100-continue\r\nContent-Length: 1\r\n", None),
        ] {
            let mut bytes = format!("POST /new HTTP/1.1\r\n{lines}\r\n").into_bytes();
            let length = bytes.len();
            assert_eq!(remove_offers(&mut bytes), Head::Complete { length, body: expected }, "{lines}");
            assert_eq!(remove_offers(&mut bytes[..length - 1]), Head::Partial, "{lines}");
        }
        assert_eq!(remove_offers(&mut b"GET /new HTTP/1.1\r\nno colon\r\n".to_vec()), Head::Malformed);
    }
}
