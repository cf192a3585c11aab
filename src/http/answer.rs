//! The bodies: what was asked for, the ids, the errors.
//!
//! `{"code":0,"msg":"ok","data":{"id":101}}`, with exactly these keys in this order, is the seed's. Whatever carries ids
//! is `no-store`: a cached answer would hand its ids out twice.

use actix_http::Response;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap, HeaderValue};
use actix_web::web::{Bytes, Query};
use actix_web::{HttpResponse, HttpResponseBuilder};

use crate::config::Limits;
use crate::faults;
use crate::segment::Block;
use crate::sequence::TakeError;
use crate::sequences::FindError;

/// What a request wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// How many ids, and in which shape.
    pub shape: Shape,
    /// As text, one a line, instead of JSON.
    pub is_text: bool,
    /// Each id as a JSON string.
    pub is_strings: bool,
}

/// How many ids, and how they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `{"id":101}`
    Id,
    /// `{"ids":[101,102]}`
    Ids(u64),
    /// `{"ranges":[{"first":101,"last":102}]}`, both inclusive.
    Ranges(u64),
}

/// A request that gets no id: its status, and what happened and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status.
    pub status: StatusCode,
    /// What happened, and what to do.
    pub what: String,
}

impl Refusal {
    /// A request that is wrong in itself.
    pub fn bad_request(what: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, what: what.into() }
    }

    /// The answer. `{"code":-<status>,"msg":"...","data":null}`
    pub fn respond(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status);
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.insert_header((header::RETRY_AFTER, HeaderValue::from_static("1")));
        }
        message(response, -i32::from(self.status.as_u16()), &self.what)
    }
}

impl From<TakeError> for Refusal {
    fn from(error: TakeError) -> Self {
        let status = match error {
            TakeError::TimedOut { .. } | TakeError::TooManyWaiters { .. } | TakeError::Draining => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            TakeError::TooMany { .. } | TakeError::TooManyInTime { .. } => StatusCode::BAD_REQUEST,
            TakeError::Gone(_) => StatusCode::NOT_FOUND,
            TakeError::Exhausted(_) => StatusCode::INSUFFICIENT_STORAGE,
        };
        Self { status, what: error.to_string() }
    }
}

impl From<FindError> for Refusal {
    fn from(error: FindError) -> Self {
        let status = match error {
            FindError::BadName(_) => StatusCode::BAD_REQUEST,
            FindError::Unknown(_) => StatusCode::NOT_FOUND,
            FindError::TooMany(_) | FindError::Draining | FindError::Unavailable { .. } => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        };
        Self { status, what: error.to_string() }
    }
}

/// An answer without ids: `{"code":0,"msg":"...","data":null}`.
pub fn message(mut status: HttpResponseBuilder, code: i32, what: &str) -> HttpResponse {
    let mut response = status.body(message_body(code, what));
    set_headers(response.headers_mut(), JSON);
    response
}

/// The order of the keys is the Go server's, so they are written one by one; `serde_json` escapes the text.
fn message_body(code: i32, what: &str) -> String {
    let what = serde_json::Value::from(what);
    format!("{{\"code\":{code},\"msg\":{what},\"data\":null}}")
}

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
const NO_STORE: &str = "no-store";

fn set_headers(headers: &mut HeaderMap, content_type: &'static str) {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    if !faults::is_off(faults::Guard::NoStore) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(NO_STORE));
    }
}

impl Wanted {
    /// What a request without a query wants: one id. `accept` are its `Accept` headers.
    pub fn one<'a>(accept: impl IntoIterator<Item = &'a str>) -> Self {
        Self { shape: Shape::Id, is_text: prefers_text(accept.into_iter()), is_strings: false }
    }

    /// Reads the query and the headers. A parameter that means nothing here is refused: its client would take the answer for
    /// what it asked for. Only `_` is passed over, by which browsers' libraries keep caches from answering.
    pub fn read(query: &str, headers: &HeaderMap, limits: &Limits) -> Result<Self, Refusal> {
        let (mut count, mut is_ranges, mut is_strings) = (None, false, false);
        if !query.is_empty() {
            let pairs = Query::<Vec<(String, String)>>::from_query(query)
                .map_err(|error| Refusal::bad_request(format!("the query can't be read: {error}")))?;
            for (key, value) in pairs.into_inner() {
                match key.as_str() {
                    "count" if count.is_some() => return Err(Refusal::bad_request("count is given twice: give one")),
                    "count" => count = Some(value),
                    "ranges" => is_ranges = flag("ranges", &value)?,
                    "strings" => is_strings = flag("strings", &value)?,
                    "_" => {}
                    _ => return Err(unknown_parameter(&key)),
                }
            }
        }
        let most = if is_ranges { limits.range.get() } else { limits.batch.get() };
        let count = count.map(|typed| parse_count(&typed, most, is_ranges)).transpose()?;
        let shape = match (count, is_ranges) {
            (None, false) => Shape::Id,
            (Some(count), false) => Shape::Ids(count),
            (count, true) => Shape::Ranges(count.unwrap_or(1)),
        };
        let accept = headers.get_all(header::ACCEPT).filter_map(|accept| accept.to_str().ok());
        Ok(Self { shape, is_strings, ..Self::one(accept) })
    }
}

fn unknown_parameter(key: &str) -> Refusal {
    // The start of it is enough to find it by.
    let key: String = key.chars().take(32).collect();
    Refusal::bad_request(format!("the parameter '{key}' is unknown: use count, ranges and strings, in lower case"))
}

/// Refuses a body that says more than nothing: its client would take the answer for what it asked for.
pub fn check_body(body: &[u8]) -> Result<(), Refusal> {
    // What HTTP libraries send where a program gives them nothing to send.
    match body.trim_ascii() {
        b"" | b"{}" | b"null" => Ok(()),
        _ => Err(Refusal::bad_request(
            "the body is not read: put count, ranges and strings into the query, as in /new?count=3",
        )),
    }
}

fn parse_count(typed: &str, most: u64, is_ranges: bool) -> Result<u64, Refusal> {
    // `parse` alone would take a plus sign.
    let digits = Some(typed).filter(|typed| typed.bytes().all(|byte| byte.is_ascii_digit()));
    match digits.unwrap_or_default().parse() {
        Ok(count) if (1..=most).contains(&count) => Ok(count),
        _ => {
            let more = if is_ranges { "" } else { "; for more ids at once, add &ranges" };
            // The start of what was typed is enough to find it by.
            let typed: String = typed.chars().take(32).collect();
            Err(Refusal::bad_request(format!(
                "count={typed} is not allowed: give a whole number from 1 to {most}{more}"
            )))
        }
    }
}

fn flag(key: &str, value: &str) -> Result<bool, Refusal> {
    let is = |other: &str| value.eq_ignore_ascii_case(other);
    match () {
        () if value.is_empty() || is("1") || is("true") => Ok(true),
        () if is("0") || is("false") => Ok(false),
        () => {
            let value: String = value.chars().take(32).collect();
            Err(Refusal::bad_request(format!("{key}={value} is not allowed: write &{key}, or true or false")))
        }
    }
}

/// Whether the `Accept` headers prefer text to JSON (RFC 9110, section 12.5.1). Where both are equally welcome, or neither is,
/// the answer is JSON, as the Go server's is.
fn prefers_text<'a>(headers: impl Iterator<Item = &'a str>) -> bool {
    // How specific the range is that counts, and its weight.
    let (mut json, mut text) = ((0, 0.0), (0, 0.0));
    for range in headers.flat_map(|header| header.split(',')) {
        let (name, parameters) = range.split_once(';').unwrap_or((range, ""));
        let name = name.trim();
        let quality = quality(parameters);
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        for (best, exact, group) in
            [(&mut json, "application/json", "application/*"), (&mut text, "text/plain", "text/*")]
        {
            let specificity = match () {
                () if is(exact) => 3,
                () if is(group) => 2,
                // Java's URLConnection sends a lone star.
                () if is("*/*") || is("*") => 1,
                () => continue,
            };
            if specificity > best.0 || specificity == best.0 && quality > best.1 {
                *best = (specificity, quality);
            }
        }
    }
    text.1 > json.1
}

/// The weight `q` among `parameters`; 1 where there is none, or none that is allowed.
fn quality(parameters: &str) -> f32 {
    let weights = parameters.split(';').filter_map(|parameter| parameter.split_once('='));
    let mut weights = weights.filter(|(key, _)| key.trim().eq_ignore_ascii_case("q"));
    let typed = weights.next().and_then(|(_, weight)| weight.trim().parse().ok());
    typed.filter(|weight| (0.0..=1.0).contains(weight)).unwrap_or(1.0)
}

/// What stands before and behind an id.
fn around(wanted: Wanted) -> (&'static str, &'static str) {
    match (wanted.is_text, wanted.is_strings) {
        (true, _) => ("", ""),
        (false, false) => ("{\"code\":0,\"msg\":\"ok\",\"data\":{\"id\":", "}}"),
        (false, true) => ("{\"code\":0,\"msg\":\"ok\",\"data\":{\"id\":\"", "\"}}"),
    }
}

/// The answer to `/new` itself, with the same bytes as [`ids`] writes.
pub fn one(id: u64, wanted: Wanted) -> Response<Bytes> {
    let (before, behind) = around(wanted);
    let mut number = itoa::Buffer::new();
    respond([before, number.format(id), behind].concat().into(), wanted.is_text)
}

/// Puts the answer of [`one`] behind `answers`, headers and all.
pub fn put_one(answers: &mut Vec<u8>, id: u64, wanted: Wanted, date: &str) {
    let (before, behind) = around(wanted);
    let (mut id_text, mut length_text) = (itoa::Buffer::new(), itoa::Buffer::new());
    let id = id_text.format(id);
    let length = length_text.format(before.len() + id.len() + behind.len());
    let content_type = if wanted.is_text { TEXT } else { JSON };
    let cache_control =
        if faults::is_off(faults::Guard::NoStore) { ["", ""] } else { ["\r\ncache-control: ", NO_STORE] };
    let head = ["HTTP/1.1 200 OK\r\ncontent-length: ", length, "\r\ncontent-type: ", content_type];
    let parts = [&head[..], &cache_control, &["\r\ndate: ", date, "\r\n\r\n", before, id, behind]];
    for part in parts.into_iter().flatten() {
        answers.extend_from_slice(part.as_bytes());
    }
}

/// Puts `refusal` behind `answers`, headers and all, as the last answer of its connection.
pub fn put_last_refusal(answers: &mut Vec<u8>, refusal: &Refusal, date: &str) {
    let (status, body) = (refusal.status, message_body(-i32::from(refusal.status.as_u16()), &refusal.what));
    let retry_after = if status == StatusCode::SERVICE_UNAVAILABLE { "retry-after: 1\r\n" } else { "" };
    let length = body.len();
    answers.extend_from_slice(
        format!(
            "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\ncontent-type: {JSON}\r\n\
             cache-control: {NO_STORE}\r\n{retry_after}date: {date}\r\n\r\n{body}"
        )
        .as_bytes(),
    );
}

/// The answer with many ids, or with ranges of them.
pub fn ids(blocks: &[Block], wanted: Wanted) -> Response<Bytes> {
    let is_ranges = matches!(wanted.shape, Shape::Ranges(_));
    let count: u64 = if is_ranges { blocks.len() as u64 } else { blocks.iter().map(|block| block.len()).sum() };
    // At most limits.batch ids; 20 digits and a few signs each.
    let mut body = Vec::with_capacity(64 + usize::try_from(count).unwrap_or(0) * if is_ranges { 64 } else { 24 });
    if wanted.is_text {
        put_lines(&mut body, blocks, is_ranges);
    } else {
        body.extend_from_slice(b"{\"code\":0,\"msg\":\"ok\",\"data\":{\"");
        body.extend_from_slice(if is_ranges { b"ranges\":[" } else { b"ids\":[" });
        let first = body.len();
        for block in blocks {
            if is_ranges {
                body.extend_from_slice(if body.len() == first { b"{\"first\":" } else { b",{\"first\":" });
                put_id(&mut body, block.start(), wanted.is_strings);
                body.extend_from_slice(b",\"last\":");
                put_id(&mut body, block.last(), wanted.is_strings);
                body.push(b'}');
            } else {
                for id in block.start()..block.end() {
                    if body.len() > first {
                        body.push(b',');
                    }
                    put_id(&mut body, id, wanted.is_strings);
                }
            }
        }
        body.extend_from_slice(b"]}}");
    }
    respond(body.into(), wanted.is_text)
}

fn put_lines(body: &mut Vec<u8>, blocks: &[Block], is_ranges: bool) {
    let mut number = itoa::Buffer::new();
    for block in blocks {
        if is_ranges {
            body.extend_from_slice(number.format(block.start()).as_bytes());
            body.push(b'-');
            body.extend_from_slice(number.format(block.last()).as_bytes());
            body.push(b'\n');
        } else {
            for id in block.start()..block.end() {
                body.extend_from_slice(number.format(id).as_bytes());
                body.push(b'\n');
            }
        }
    }
}

fn put_id(body: &mut Vec<u8>, id: u64, is_string: bool) {
    let mut number = itoa::Buffer::new();
    let digits = number.format(id).as_bytes();
    if is_string {
        body.push(b'"');
        body.extend_from_slice(digits);
        body.push(b'"');
    } else {
        body.extend_from_slice(digits);
    }
}

fn respond(body: Bytes, is_text: bool) -> Response<Bytes> {
    let mut response = Response::with_body(StatusCode::OK, body);
    set_headers(response.headers_mut(), if is_text { TEXT } else { JSON });
    response
}

#[cfg(test)]
mod tests {
    use actix_web::body::MessageBody;

    use super::*;

    fn wanted(query: &str) -> Result<Wanted, Refusal> {
        Wanted::read(query, &HeaderMap::new(), &Limits::default())
    }

    fn body<B: MessageBody>(response: impl Into<Response<B>>) -> String {
        let response = response.into();
        assert_eq!(response.headers().get(header::CACHE_CONTROL).unwrap(), "no-store");
        String::from_utf8(response.into_body().try_into_bytes().ok().unwrap().to_vec()).unwrap()
    }

    #[test]
    fn queries() {
        let plain = Wanted { shape: Shape::Id, is_text: false, is_strings: false };
        for (query, expected) in [
            ("", plain),
            ("_=1699999999", plain),
            ("strings=False", plain),
            ("ranges=True", Wanted { shape: Shape::Ranges(1), ..plain }),
            ("strings", Wanted { is_strings: true, ..plain }),
            ("count=1", Wanted { shape: Shape::Ids(1), ..plain }),
            ("count=10000&strings=true", Wanted { shape: Shape::Ids(10_000), is_strings: true, ..plain }),
            ("count=1000000&ranges", Wanted { shape: Shape::Ranges(1_000_000), ..plain }),
            ("ranges&count=5", Wanted { shape: Shape::Ranges(5), ..plain }),
            ("ranges", Wanted { shape: Shape::Ranges(1), ..plain }),
        ] {
            assert_eq!(wanted(query), Ok(expected), "{query}");
        }
        for query in [
            "count=0",
            "count=-1",
            "count=%2B5",
            "count=1000000000000",
            "count=abc",
            "count=",
            "count",
            "count=1.5",
            "count=10001",
        ] {
            let refusal = wanted(query).unwrap_err();
            assert_eq!(refusal.status, StatusCode::BAD_REQUEST, "{query}");
            assert!(refusal.what.contains("from 1 to 10000"), "{query} said: {}", refusal.what);
        }
        assert!(wanted("count=1000001&ranges").unwrap_err().what.contains("from 1 to 1000000"));
        assert!(wanted("count=1&count=2").unwrap_err().what.contains("twice"));
        assert!(wanted("count=1&ranges=maybe").unwrap_err().what.contains("ranges=maybe is not allowed"));
        for query in ["n=3", "Count=3", "count=3&x", "limit=5", "COUNT", "ids=3", "count[]=3"] {
            let refusal = wanted(query).unwrap_err();
            assert!(refusal.what.contains("is unknown: use count"), "{query} said: {}", refusal.what);
        }
    }

    #[test]
    fn bodies_that_say_something_are_refused() {
        for body in ["", " \r\n", "{}", "null", " {} "] {
            assert_eq!(check_body(body.as_bytes()), Ok(()), "{body}");
        }
        for body in ["{\"count\":5}", "count=5", "[]", "\0"] {
            assert_eq!(check_body(body.as_bytes()).unwrap_err().status, StatusCode::BAD_REQUEST, "{body}");
        }
    }

    #[test]
    fn text_is_answered_where_it_is_preferred() {
        for (accept, is_text) in [
            (&[][..], false),
            (&[""], false),
            (&["text/plain"], true),
            (&["Text/Plain"], true),
            (&["text/*"], true),
            (&["text/plain; charset=utf-8, */*;q=0.5"], true),
            (&["text/plain, application/json;q=0.9"], true),
            (&["application/json;q=0, */*"], true),
            (&["application/json;q=.5", "text/plain"], true),
            (&["text/plain", "application/json"], false),
            (&["*/*"], false),
            (&["image/png"], false),
            (&["text/plain;q=0"], false),
            (&["text/plain;q=0.9, application/json"], false),
            (&["text/plain; q=0.5, application/*;Q=0.6"], false),
            (&["text/plain;q=high, */*"], false),
            (&["text/plain;q=7, */*;q=-1"], false),
            (&["text/plain, application/json, */*"], false),
            (&["text/plain, */*"], false),
            (&["application/json, text/plain, */*"], false),
            (&["text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2"], false),
            (&["text/html,application/xhtml+xml,*/*;q=0.8"], false),
        ] {
            assert_eq!(prefers_text(accept.iter().copied()), is_text, "{accept:?}");
        }
    }

    #[test]
    fn bodies() {
        let json = wanted("").unwrap();
        assert_eq!(body(one(101, json)), r#"{"code":0,"msg":"ok","data":{"id":101}}"#);
        assert_eq!(
            body(one(9_007_199_254_740_993, wanted("strings").unwrap())),
            r#"{"code":0,"msg":"ok","data":{"id":"9007199254740993"}}"#
        );
        assert_eq!(body(one(101, Wanted { is_text: true, ..json })), "101");

        let blocks = [Block::new(101, 103).unwrap(), Block::new(301, 302).unwrap()];
        for (query, expected, text) in [
            ("count=3", r#"{"ids":[101,102,301]}"#, "101\n102\n301\n"),
            ("count=3&strings", r#"{"ids":["101","102","301"]}"#, "101\n102\n301\n"),
            (
                "count=3&ranges",
                r#"{"ranges":[{"first":101,"last":102},{"first":301,"last":301}]}"#,
                "101-102\n301-301\n",
            ),
            (
                "count=3&ranges&strings",
                r#"{"ranges":[{"first":"101","last":"102"},{"first":"301","last":"301"}]}"#,
                "101-102\n301-301\n",
            ),
        ] {
            let wanted = wanted(query).unwrap();
            assert_eq!(body(ids(&blocks, wanted)), format!(r#"{{"code":0,"msg":"ok","data":{expected}}}"#), "{query}");
            assert_eq!(body(ids(&blocks, Wanted { is_text: true, ..wanted })), text, "{query}");
        }
    }

    #[test]
    fn errors_have_the_same_keys_and_are_escaped() {
        let refusal = Refusal { status: StatusCode::SERVICE_UNAVAILABLE, what: "a \"b\"\n".into() };
        let response = refusal.respond();
        assert_eq!(response.headers().get(header::RETRY_AFTER).unwrap(), "1");
        assert_eq!(body(response), r#"{"code":-503,"msg":"a \"b\"\n","data":null}"#);
        let exhausted = Refusal::from(TakeError::Exhausted("used up".into())).respond();
        assert_eq!(exhausted.status(), 507);
        assert!(exhausted.headers().get(header::RETRY_AFTER).is_none(), "no retry helps");
    }
}
