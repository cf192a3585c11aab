//! How often a request allocates memory, beside what actix-http itself needs for one.

use std::convert::Infallible;

use actix_http::{HttpService, KeepAlive, Request, Response};
use actix_service::fn_service;
use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use actix_web::web::Bytes;

#[path = "support/filled.rs"]
mod filled;
#[path = "support/pipe.rs"]
mod pipe;
use pipe::Connection;

const REQUEST: &str = "GET /new HTTP/1.1\r\nHost: localhost:8000\r\nUser-Agent: curl/8.0\r\nAccept: */*\r\n\r\n";

/// What buffers and pools need is then there, and what they need now and then shows.
const REQUESTS: u64 = 10_000;

/// A bare service of actix-http: the same headers, and a body that is there already.
fn bare() -> Connection {
    const BODY: &str = r#"{"code":0,"msg":"ok","data":{"id":1000}}"#;
    let service = || {
        HttpService::build().keep_alive(KeepAlive::Os).finish(fn_service(|_: Request| async {
            let mut response = Response::with_body(StatusCode::OK, Bytes::from_static(BODY.as_bytes()));
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            Ok::<_, Infallible>(response)
        }))
    };
    Connection::to(service, REQUEST)
}

/// The allocations of so many requests, when the first thousand are answered.
fn allocations(mut connection: Connection) -> u64 {
    let answer = connection.ask(1000);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("\"id\":1000}}"), "{answer}");
    allocation_counter::measure(|| drop(connection.ask(REQUESTS))).count_total
}

#[test]
fn a_request_allocates_its_body_and_what_actix_http_needs() {
    let (ours, bare) = (allocations(Connection::open(REQUEST)), allocations(bare()));
    println!("{REQUESTS} requests: {ours} allocations, {bare} of them actix-http's");
    // The answer that `ask` returns is a copy.
    assert!(ours <= bare + REQUESTS + 1, "{ours} allocations; actix-http needs {bare}, the bodies {REQUESTS}");
}

#[test]
fn what_is_allocated_is_counted() {
    assert_eq!(allocation_counter::measure(|| drop(std::hint::black_box(vec![1_u8; 40]))).count_total, 1);
}
