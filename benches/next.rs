//! What an id costs in memory, layer by layer: `cargo bench --bench next`.
//!
//! The bare `fetch_add` is what no allocator of this kind can go below; what the layers above it add is what there is to
//! win. A figure is the time of one call as its thread sees it; with several threads (the last number of a name), while the
//! others do the same.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use crossbeam_utils::CachePadded;
use seqsvr::buffer::Buffer;
use seqsvr::segment::Segment;
use seqsvr::sequence::{Cached, Sequence};

mod at_once;
#[path = "../tests/support/filled.rs"]
mod filled;
#[path = "../tests/support/pipe.rs"]
mod pipe;
use at_once::at_once;
use filled::{THRESHOLD, block, filled_sequence};
use pipe::Connection;

/// Measures what `way` makes for each thread: on one thread, and on as many at once as `threads` says.
fn measure<C: FnMut() -> T, T>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    threads: &[usize],
    way: impl Fn() -> C + Sync,
) {
    for &threads in threads {
        group.throughput(Throughput::Elements(threads as u64));
        group.bench_function(BenchmarkId::new(name, threads), |b| {
            b.iter_custom(|calls| at_once(threads, calls, &way));
        });
    }
}

/// One id, which must be there at the first poll.
fn next(sequence: &Sequence) -> u64 {
    match pin!(sequence.next()).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(id)) => id,
        other => panic!("ids are in memory, and yet: {other:?}"),
    }
}

/// As the server has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ONE: &[usize] = &[1];
const SOME: &[usize] = &[1, 2, 4];

fn segment(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("segment");
    let segment = Segment::new(block(), THRESHOLD);
    measure(&mut group, "take_one", ONE, || || segment.take_one());
    measure(&mut group, "take_1000", ONE, || || segment.take(1000));
    let buffer = Buffer::new(THRESHOLD);
    buffer.append(block()).expect("an empty buffer takes any block");
    measure(&mut group, "buffer_take_one", SOME, || || buffer.take_one());
}

/// The cost of an id: the bare add on a cache line of its own, and what a worker does for one.
fn sequence(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sequence");
    let bare = CachePadded::new(AtomicU64::new(1));
    measure(&mut group, "fetch_add", SOME, || || bare.fetch_add(1, Ordering::Relaxed));
    let (sequence, _) = filled_sequence();
    measure(&mut group, "try_next", SOME, || {
        let mut cached = Cached::new(sequence.clone());
        move || cached.try_next()
    });
    measure(&mut group, "next", ONE, || || next(&sequence));
}

/// A request and its answer without a socket: what is left of `/new` when the kernel is taken away.
fn request(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("request");
    group.throughput(Throughput::Elements(1));
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost:8000\r\n\r\n");
    let mut connections = [
        ("actix-http alone", Connection::to_bare_actix_http(&get("/new"))),
        ("new", Connection::open(&get("/new"))),
        // A query, be it empty, is the router's.
        ("new by the router", Connection::open(&get("/new?"))),
    ];
    for (name, connection) in &mut connections {
        group.bench_function(*name, |b| {
            b.iter_custom(|times| {
                let started = Instant::now();
                connection.ask(times);
                started.elapsed()
            });
        });
    }
}

criterion_group! {
    name = next_id;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = segment, sequence, request
}
criterion_main!(next_id);
