//! How often a request allocates memory.

#[path = "support/filled.rs"]
mod filled;
#[path = "support/pipe.rs"]
mod pipe;
use pipe::Connection;

const REQUEST: &str = "GET /new HTTP/1.1\r\nHost: localhost:8000\r\nUser-Agent: curl/8.0\r\nAccept: */*\r\n\r\n";

/// What buffers and pools need is then there, and what they need now and then shows.
const REQUESTS: u64 = 10_000;

/// The allocations of so many requests, when the first thousand are answered.
fn allocations(mut connection: Connection) -> u64 {
    let answer = connection.ask(1000);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("\"id\":1000}}"), "{answer}");
    allocation_counter::measure(|| drop(connection.ask(REQUESTS))).count_total
}

#[test]
fn a_request_allocates_nothing() {
    let (ours, bare) = (allocations(Connection::open(REQUEST)), allocations(Connection::to_bare_actix_http(REQUEST)));
    println!("{REQUESTS} requests: {ours} allocations; of actix-http alone: {bare}");
    // What `ask` returns is a copy of the last answer.
    assert!(ours <= 1, "{ours} allocations in {REQUESTS} requests");
    assert!(bare >= REQUESTS, "else it is not seen that allocations are counted: {bare}");
}

#[test]
fn what_is_allocated_is_counted() {
    assert_eq!(allocation_counter::measure(|| drop(std::hint::black_box(vec![1_u8; 40]))).count_total, 1);
}
