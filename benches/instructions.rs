//! How many instructions an id costs: `make check-instructions` (callgrind, by the crate gungraun).
//!
//! Other than times, these are the same on a busy machine, so that they have bounds. A bound is a tenth above what was
//! measured when it was set: who makes it dearer must raise it, and say for what.

// What gungraun's macros make has none.
#![allow(missing_docs)]

use std::hint::black_box;
use std::sync::Arc;

use gungraun::{Callgrind, EventKind, LibraryBenchmarkConfig, library_benchmark, library_benchmark_group, main};
use seqsvr::sequence::{Cached, Sequence};

#[path = "../tests/support/filled.rs"]
mod filled;
#[path = "../tests/support/pipe.rs"]
mod pipe;
use filled::filled_sequence;
use pipe::Connection;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// So many are counted together; the figures are for all of them.
const TIMES: u64 = 1000;

/// At most so many instructions each.
fn at_most(instructions: u64) -> LibraryBenchmarkConfig {
    let mut callgrind = Callgrind::default();
    callgrind.hard_limits([(EventKind::Ir, instructions * TIMES)]);
    let mut config = LibraryBenchmarkConfig::default();
    config.tool(callgrind);
    config
}

fn cached() -> Cached {
    let mut cached = Cached::new(filled_sequence().0);
    cached.try_next();
    cached
}

fn sequence() -> Arc<Sequence> {
    let sequence = filled_sequence().0;
    sequence.try_next();
    sequence
}

#[library_benchmark(config = at_most(35))]
#[bench::cached(cached())]
fn next_cached(mut cached: Cached) -> Cached {
    for _ in 0..TIMES {
        black_box(cached.try_next());
    }
    cached
}

#[library_benchmark(config = at_most(95))]
#[bench::shared(sequence())]
fn next(sequence: Arc<Sequence>) -> Arc<Sequence> {
    for _ in 0..TIMES {
        black_box(sequence.try_next());
    }
    sequence
}

fn connection(open: impl FnOnce(&str) -> Connection, path: &str) -> Connection {
    let mut connection = open(&format!("GET {path} HTTP/1.1\r\nHost: localhost:8000\r\n\r\n"));
    assert!(connection.ask(100).starts_with("HTTP/1.1 200 OK"));
    connection
}

// More than half of it is one `memset` in actix-http's parser, of room for 96 headers: it is counted by the byte, and costs
// less than its count says (docs/performance.md).
#[library_benchmark]
#[bench::new(connection(Connection::to_bare_actix_http, "/new"))]
fn actix_http_alone(mut connection: Connection) -> Connection {
    connection.ask(TIMES);
    connection
}

#[library_benchmark(config = at_most(5_800))]
#[bench::new(connection(Connection::open, "/new"))]
fn request(mut connection: Connection) -> Connection {
    connection.ask(TIMES);
    connection
}

#[library_benchmark(config = at_most(15_700))]
#[bench::empty_query(connection(Connection::open, "/new?"))]
fn routed_request(mut connection: Connection) -> Connection {
    connection.ask(TIMES);
    connection
}

// Sixteen in one packet.
#[library_benchmark(config = at_most(27_000))]
#[bench::new(connection(|request| Connection::open(&request.repeat(16)), "/new"))]
fn pipelined_requests(mut connection: Connection) -> Connection {
    connection.ask(TIMES);
    connection
}

library_benchmark_group!(name = id; benchmarks = next_cached, next);
library_benchmark_group!(name = http; benchmarks = actix_http_alone, request, routed_request, pipelined_requests);
main!(library_benchmark_groups = id, http);
