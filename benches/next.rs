//! What an id costs in memory, layer by layer: `cargo bench --bench next`.
//!
//! The bare `fetch_add` is what no allocator of this kind can go below; what the layers above it add is what there is to
//! win. A figure is the time of one call as its thread sees it; at 2 threads, while the other one does the same.

use std::future::Future;
use std::num::NonZeroU64;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use crossbeam_utils::CachePadded;
use seqsvr::buffer::Buffer;
use seqsvr::config::Step;
use seqsvr::metrics::Metrics;
use seqsvr::name::SequenceName;
use seqsvr::node::Node;
use seqsvr::refill::policy::Policy;
use seqsvr::refill::{Progress, Refill};
use seqsvr::segment::{Block, Segment};
use seqsvr::sequence::{Sequence, Shared, WaitLimits};
use seqsvr::store::guard::Guard;
use seqsvr::store::{BlockStore, Definition, Leased, StoreError, Terms};
use tokio::sync::{mpsc, watch};

/// More ids than any run takes, so that only the hot path is measured: no promotion, no refill.
const END: u64 = 1 << 62;

const THRESHOLD: f64 = 0.5;

fn block() -> Block {
    Block::new(1, END).expect("not empty, and below the limit")
}

/// Measures `call` on one thread, and on two at once where `is_shared`.
fn measure<T>(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, is_shared: bool, call: impl Fn() -> T + Sync) {
    group.throughput(Throughput::Elements(1));
    group.bench_function(BenchmarkId::new(name, "1 thread"), |b| b.iter(&call));
    if is_shared {
        group.throughput(Throughput::Elements(2));
        group.bench_function(BenchmarkId::new(name, "2 threads"), |b| {
            b.iter_custom(|calls| at_once::<2>(calls, &|| drop(std::hint::black_box(call()))));
        });
    }
}

/// How long the slowest of `THREADS` threads takes for `calls` calls; all begin together.
fn at_once<const THREADS: usize>(calls: u64, call: &(impl Fn() + Sync)) -> Duration {
    let barrier = Barrier::new(THREADS);
    let run = || {
        barrier.wait();
        let started = Instant::now();
        for _ in 0..calls {
            call();
        }
        started.elapsed()
    };
    thread::scope(|scope| {
        let threads = [(); THREADS].map(|()| scope.spawn(run));
        threads.map(|thread| thread.join().expect("a call does not panic")).into_iter().max().unwrap_or_default()
    })
}

/// A store whose first lease is all that a run needs.
struct Endless;

#[async_trait]
impl BlockStore for Endless {
    async fn lease(&self, _: &SequenceName, _: Terms, _: NonZeroU64) -> Result<Leased, StoreError> {
        Ok(Leased { blocks: vec![block()], capacity_used: 0.0, mark: 0 })
    }

    async fn give_back(&self, _: &SequenceName, _: Terms, _: Block) -> Result<bool, StoreError> {
        Ok(false)
    }

    async fn find(&self, _: &[SequenceName]) -> Result<Vec<Definition>, StoreError> {
        Ok(Vec::new())
    }

    async fn revision(&self) -> Result<u64, StoreError> {
        Ok(1)
    }

    fn describe(&self) -> String {
        "a store of endless blocks".to_owned()
    }

    async fn close(&self) {}
}

/// A sequence that its refill has filled once.
fn filled_sequence() -> Arc<Sequence> {
    let metrics = Arc::new(Metrics::new());
    let policy = Policy { max_block: 1, runway: Duration::ZERO };
    let limits = WaitLimits { time: Duration::ZERO, waiters: 0 };
    let (due, queue) = mpsc::unbounded_channel();
    let shared = Shared { threshold: THRESHOLD, policy, limits, metrics: metrics.clone(), due };
    let terms = Terms::unknown(Step::of(1));
    let sequence = Sequence::new(SequenceName::default(), terms, u64::MAX, 0, Arc::new(shared));
    let store = Arc::new(Guard::new(Arc::new(Endless), Arc::new(Node::forgetful())));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let (report, mut progress) = watch::channel(Progress::Starting);
        let (_stop, stopped) = watch::channel(false);
        sequence.wake_refill();
        tokio::select! {
            () = Refill::new(store, policy, metrics, report).run(queue, stopped) => {}
            _ = progress.wait_for(|progress| *progress == Progress::Leased) => {}
        }
    });
    assert!(sequence.snapshot().held() > 0, "the refill has filled it");
    sequence
}

/// One id, which must be there at the first poll.
fn next(sequence: &Sequence) -> u64 {
    match pin!(sequence.next()).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(id)) => id,
        other => panic!("ids are in memory, and yet: {other:?}"),
    }
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("next");
    let bare = CachePadded::new(AtomicU64::new(1));
    measure(&mut group, "fetch_add", true, || bare.fetch_add(1, Ordering::Relaxed));
    let segment = Segment::new(block(), THRESHOLD);
    measure(&mut group, "Segment::take_one", false, || segment.take_one());
    let buffer = Buffer::new(THRESHOLD);
    buffer.append(block()).expect("an empty buffer takes any block");
    measure(&mut group, "Buffer::take_one", true, || buffer.take_one());
    let sequence = filled_sequence();
    measure(&mut group, "Sequence::next", false, || next(&sequence));
}

criterion_group! {
    name = next_id;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = benches
}
criterion_main!(next_id);
