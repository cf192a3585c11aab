//! What an id costs in memory, layer by layer: `cargo bench --bench next`.
//!
//! The bare `fetch_add` is what no allocator of this kind can go below; what the layers above it add is what there is to
//! win. A figure is the time of one call as its thread sees it; with several threads (the last number of a name), while the
//! others do the same.

use std::future::Future;
use std::hint::black_box;
use std::pin::pin;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use crossbeam_utils::CachePadded;
use seqsvr::buffer::Buffer;
use seqsvr::segment::Segment;
use seqsvr::sequence::{Cached, Sequence};

#[path = "../tests/support/filled.rs"]
mod filled;
use filled::{THRESHOLD, block, filled_sequence};

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

/// How long the slowest of so many threads takes for `calls` calls; all begin together.
fn at_once<C: FnMut() -> T, T>(threads: usize, calls: u64, way: &(impl Fn() -> C + Sync)) -> Duration {
    let barrier = Barrier::new(threads);
    let run = || {
        let mut call = way();
        barrier.wait();
        let started = Instant::now();
        for _ in 0..calls {
            black_box(call());
        }
        started.elapsed()
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        threads.into_iter().map(|thread| thread.join().expect("a call does not panic")).max().unwrap_or_default()
    })
}

/// One id, which must be there at the first poll.
fn next(sequence: &Sequence) -> u64 {
    match pin!(sequence.next()).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(id)) => id,
        other => panic!("ids are in memory, and yet: {other:?}"),
    }
}

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

criterion_group! {
    name = next_id;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = segment, sequence
}
criterion_main!(next_id);
