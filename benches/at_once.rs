//! Calls from several threads at once, timed: for what costs more when others do the same.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

/// How long the slowest of so many threads takes for `calls` calls of what `way` makes for it; all begin together.
pub fn at_once<C: FnMut() -> T, T>(threads: usize, calls: u64, way: &(impl Fn() -> C + Sync)) -> Duration {
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
