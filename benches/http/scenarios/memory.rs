//! An id in memory, without a request.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_utils::CachePadded;
use seqsvr::sequence::Cached;

use crate::at_once::at_once;
use crate::bench::Bench;
use crate::filled::filled_sequence;
use crate::report::{Bound, figure, row};
use crate::support::figures::Spread;

const MOST_OF_BARE: f64 = 1.25;

const THREADS: [usize; 3] = [1, 2, 4];

/// Some 20 ms on one thread.
const CALLS: u64 = 4_000_000;

/// What a worker does for an id against a bare `fetch_add` on a cache line of its own.
pub fn in_process(bench: &mut Bench) {
    let bare = CachePadded::new(AtomicU64::new(1));
    let (sequence, _) = filled_sequence();
    let add = || || bare.fetch_add(1, Ordering::Relaxed);
    let next = || {
        let mut cached = Cached::new(sequence.clone());
        move || cached.try_next()
    };
    let mut rows = Vec::new();
    for threads in THREADS {
        let (mut adds, mut nexts) = (Vec::new(), Vec::new());
        for _ in 0..bench.rounds(25) {
            // In turn, and each first as often as the other.
            if bench.random.below(2) == 0 {
                adds.push(nanoseconds(at_once(threads, CALLS, &add)));
                nexts.push(nanoseconds(at_once(threads, CALLS, &next)));
            } else {
                nexts.push(nanoseconds(at_once(threads, CALLS, &next)));
                adds.push(nanoseconds(at_once(threads, CALLS, &add)));
            }
        }
        let rounds = Spread::of(nexts.iter().zip(&adds).map(|(next, add)| next / add));
        let (adds, nexts) = (Spread::of(adds), Spread::of(nexts));
        let ratio = Spread { median: nexts.median / adds.median, ..rounds };
        rows.push(row(&[&threads, &figure(adds), &figure(nexts), &figure(ratio)]));
        let what = format!("`next()` of a bare `fetch_add`'s time, {threads} thread(s)");
        bench.bounds.push(Bound::at_most(&what, ratio, MOST_OF_BARE, "x"));
    }
    bench.report.heading("In memory");
    bench
        .report
        .paragraph("Nanoseconds a call as one thread sees it, while the others do the same; 25 shuffled rounds.");
    bench.report.table(&["threads", "`fetch_add`", "`next()`", "ratio"], &rows);
}

/// Of one call.
fn nanoseconds(calls: Duration) -> f64 {
    calls.as_secs_f64() * 1e9 / CALLS as f64
}
