//! What comes to the port and is no HTTP/1.x request.
//!
//! actix answers it with an empty 400 (431 where a head is too long) and closes the connection. actix-http 3.20 has no hook for
//! another answer (`h1/dispatcher.rs`), so its answer is recognised on its way out and replaced.

use actix_web::http::StatusCode;

/// What came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// The beginning of a TLS connection.
    Tls,
    /// The beginning of an HTTP/2 connection.
    Http2,
    /// A head that is too long.
    TooLong,
    /// Anything else.
    Other,
}

/// The beginnings of actix's answers.
const ANSWERS: [(&[u8], Option<Malformed>); 4] = [
    (b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n", None),
    (b"HTTP/1.0 400 Bad Request\r\ncontent-length: 0\r\n", None),
    (b"HTTP/1.0 431 Request Header Fields Too Large\r\ncontent-length: 0\r\n", Some(Malformed::TooLong)),
    (b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\n", Some(Malformed::TooLong)),
];

/// Longer than the longest of actix's answers.
const MAX_ANSWER_BYTES: usize = 256;

impl Malformed {
    /// What `bytes` are, which can't be read as a request.
    pub fn of(bytes: &[u8]) -> Self {
        match bytes {
            // A TLS record of a handshake.
            [0x16, 0x03, ..] => Self::Tls,
            _ if bytes.starts_with(b"PRI * HTTP/2") => Self::Http2,
            _ => Self::Other,
        }
    }

    /// Finds actix's answer to `came` at the end of `bytes`: where it begins, and what it is to.
    ///
    /// No answer of the router is empty and has such a status, and no body has a line break of HTTP within.
    pub fn find(bytes: &[u8], came: Self) -> Option<(usize, Self)> {
        if !bytes.ends_with(b"\r\n\r\n") {
            return None;
        }
        let tail = bytes.len().saturating_sub(MAX_ANSWER_BYTES);
        ANSWERS.into_iter().find_map(|(begin, kind)| {
            let found = bytes[tail..].windows(begin.len()).rposition(|window| window == begin)?;
            Some((tail + found, kind.unwrap_or(came)))
        })
    }

    /// The value of the label `kind`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Http2 => "http2",
            Self::TooLong => "too_long",
            Self::Other => "other",
        }
    }

    /// The status of the answer.
    pub fn status(self) -> StatusCode {
        match self {
            Self::TooLong => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// What came, and what to do.
    pub fn message(self) -> &'static str {
        match self {
            Self::Tls => "this port speaks plain HTTP, and a TLS handshake came: use http:// instead of https://",
            Self::Http2 => "this port speaks HTTP/1.1, and HTTP/2 came: switch the client to HTTP/1.1",
            Self::TooLong => "the request's headers are too long: send at most 96 of them, and 16 KiB",
            Self::Other => "this is not a valid HTTP/1.1 request: check the request line and the headers",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actix_answers_are_found_behind_others() {
        let date = "date: Sat, 28 Nov 2026 08:00:00 GMT\r\n\r\n";
        let bad = format!("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n{date}");
        let long = format!("HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\n{date}");
        let good = format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n{date}ok").repeat(40);
        for before in ["", &good] {
            let found = |bytes: &str| Malformed::find([before, bytes].concat().as_bytes(), Malformed::Tls);
            assert_eq!(found(&bad), Some((before.len(), Malformed::Tls)));
            assert_eq!(found(&long), Some((before.len(), Malformed::TooLong)));
            assert_eq!(found(&bad[..bad.len() - 1]), None);
            assert_eq!(found(&bad.replace("content-length: 0", "content-length: 9")), None);
            assert_eq!(found(""), None);
        }
    }

    #[test]
    fn protocols_are_known_by_their_beginning() {
        for (bytes, expected) in [
            (&b"\x16\x03\x01\x02\x00"[..], Malformed::Tls),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Malformed::Http2),
            (b"\x16", Malformed::Other),
            (b"", Malformed::Other),
            (b"*1\r\n$4\r\nPING\r\n", Malformed::Other),
        ] {
            assert_eq!(Malformed::of(bytes), expected, "{bytes:?}");
        }
    }
}
