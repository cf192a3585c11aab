//! The allocator against a plain counter (proptest), and under stress on the real types.

use std::collections::VecDeque;
use std::sync::Barrier;
use std::sync::atomic::AtomicBool;

use proptest::prelude::*;

use super::*;
use crate::sync::Ordering;

fn block(start: u64, end: u64) -> Block {
    Block::new(start, end).unwrap()
}

#[derive(Clone, Debug)]
enum Step {
    TakeOne,
    /// By the pointer that was cached when this was last taken.
    TakeCached,
    Take(u64),
    /// Appends a block that begins so many ids after the end of what was appended before, of such a length.
    Append(u64, u64),
    AppendBehind,
    Exhaust(bool),
    Clear,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => Just(Step::TakeOne),
        2 => Just(Step::TakeCached),
        3 => (1..9u64).prop_map(Step::Take),
        4 => (0..3u64, 1..7u64).prop_map(|(gap, len)| Step::Append(gap, len)),
        1 => Just(Step::AppendBehind),
        1 => any::<bool>().prop_map(Step::Exhaust),
        1 => Just(Step::Clear),
    ];
    proptest::collection::vec(step, 1..300)
}

proptest! {
    /// The model is a queue of single ids: a take of n gets the first n of them that are in one block.
    #[test]
    fn behaves_as_a_plain_queue(steps in steps(), threshold in 0.0..=1.0f64) {
        let buffer = Buffer::new(threshold);
        let mut cached = buffer.cached();
        let (mut queue, mut end, mut handed_out, mut handed_to) = (VecDeque::new(), 1, 0, 0);
        let mut exhausted = false;
        for step in steps {
            match step {
                Step::TakeOne | Step::TakeCached | Step::Take(_) => {
                    let (want, got) = match step {
                        Step::Take(want) => (want, buffer.take(want)),
                        Step::TakeCached => (1, buffer.take_one_by(&mut cached)),
                        _ => (1, buffer.take_one()),
                    };
                    match got {
                        Ok(taken) => {
                            prop_assert!(taken.ids.len() <= want);
                            for id in taken.ids.start()..taken.ids.end() {
                                prop_assert_eq!(queue.pop_front(), Some(id));
                                handed_out += 1;
                                handed_to = id + 1;
                            }
                        }
                        Err(dry) => {
                            prop_assert_eq!(dry, if exhausted { Dry::Exhausted } else { Dry::Empty });
                            prop_assert!(queue.is_empty());
                        }
                    }
                }
                Step::Append(gap, len) => {
                    let new = block(end + gap, end + gap + len);
                    match buffer.append(new) {
                        Ok(()) => {
                            end = new.end();
                            queue.extend(new.start()..new.end());
                            exhausted = false;
                        }
                        Err(refused) => {
                            prop_assert_eq!(refused, Refused::Full);
                            prop_assert_eq!(buffer.snapshot().ready_blocks, MAX_READY);
                        }
                    }
                }
                Step::AppendBehind if end > 1 => {
                    prop_assert_eq!(buffer.append(block(end - 1, end + 5)), Err(Refused::OutOfOrder));
                }
                Step::AppendBehind => {}
                Step::Exhaust(is_exhausted) => {
                    buffer.set_supply(if is_exhausted { Supply::Exhausted } else { Supply::Open });
                    exhausted = is_exhausted;
                }
                Step::Clear => {
                    let dropped: Vec<u64> =
                        buffer.clear().iter().flat_map(|block| block.start()..block.end()).collect();
                    prop_assert_eq!(dropped, queue.drain(..).collect::<Vec<_>>());
                }
            }
            let seen = buffer.snapshot();
            prop_assert_eq!(seen.held(), queue.len() as u64);
            prop_assert_eq!((seen.handed_out, buffer.handed_to()), (handed_out, handed_to));
            prop_assert!(seen.ready_blocks <= MAX_READY);
        }
        let tail: Vec<u64> = buffer.seal().iter().flat_map(|block| block.start()..block.end()).collect();
        prop_assert_eq!(tail, Vec::from(queue));
        prop_assert_eq!(buffer.take(1), Err(Dry::Sealed));
        prop_assert_eq!(buffer.append(block(end, end + 1)), Err(Refused::Sealed));
    }
}

#[test]
fn merges_adjacent_blocks() {
    let buffer = Buffer::new(0.5);
    buffer.append(block(10, 20)).unwrap();
    for start in 100..300 {
        buffer.append(block(start, start + 1)).unwrap();
    }
    assert_eq!(buffer.snapshot().ready_blocks, 2);
    assert_eq!(buffer.snapshot().held(), 210);
}

#[test]
fn ready_has_so_many_blocks_and_no_more() {
    let buffer = Buffer::new(0.5);
    let most = MAX_READY as u64;
    for n in 1..=most {
        assert_eq!(buffer.append(block(10 * n, 10 * n + 5)), Ok(()), "block {n}");
    }
    assert_eq!(buffer.append(block(10 * most + 6, 10 * most + 7)), Err(Refused::Full));
    assert_eq!(buffer.append(block(10 * most + 5, 10 * most + 7)), Ok(()), "it joins the last one");
    assert_eq!(buffer.snapshot().ready_blocks, MAX_READY);
}

#[test]
fn a_promotion_calls_for_the_refill_and_so_does_the_mark() {
    let buffer = Buffer::new(0.5);
    buffer.append(block(10, 14)).unwrap();
    buffer.append(block(20, 24)).unwrap();
    let due: Vec<u64> = std::iter::from_fn(|| buffer.take_one().ok())
        .filter(|taken| taken.refill_due)
        .map(|taken| taken.ids.start())
        .collect();
    assert_eq!(due, [10, 12, 20, 22]);
}

#[test]
fn sealed_is_for_ever() {
    let buffer = Buffer::new(0.5);
    assert_eq!(buffer.when_dry(), Dry::Empty);
    buffer.seal();
    buffer.set_supply(Supply::Open);
    assert_eq!(buffer.when_dry(), Dry::Sealed);
}

/// One appender and several takers on blocks of one id, so that nearly every take promotes: each id exactly once,
/// each thread's ids rising. `batch` ids are asked for at a time.
fn stress(takers: usize, batch: u64, blocks: u64) {
    let buffer = Buffer::new(0.5);
    let (done, start) = (AtomicBool::new(false), Barrier::new(takers + 1));
    let taker = || {
        let (mut ids, mut cached) = (Vec::new(), buffer.cached());
        start.wait();
        loop {
            let was_done = done.load(Ordering::Acquire);
            // Every other id past the worker's own pointer, which is then from before.
            let taken = match batch {
                1 if ids.len() % 2 == 0 => buffer.take_one_by(&mut cached),
                1 => buffer.take_one(),
                _ => buffer.take(batch),
            };
            match taken {
                Ok(taken) => ids.extend(taken.ids.start()..taken.ids.end()),
                Err(_) if was_done => break,
                Err(_) => std::hint::spin_loop(),
            }
        }
        assert!(ids.is_sorted_by(|a, b| a < b), "not rising");
        ids
    };
    let mut all: Vec<u64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..takers).map(|_| scope.spawn(taker)).collect();
        start.wait();
        for n in 0..blocks {
            // Every other id, so that blocks never merge.
            while let Err(refused) = buffer.append(block(2 * n, 2 * n + 1)) {
                assert_eq!(refused, Refused::Full);
                std::thread::yield_now();
            }
        }
        done.store(true, Ordering::Release);
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    all.sort_unstable();
    assert!(all.iter().copied().eq((0..blocks).map(|n| 2 * n)), "an id is missing or was given twice");
    assert_eq!(buffer.snapshot().handed_out, blocks);
}

/// Enough for thousands of lost races on two cores, and for seconds, not minutes. Miri interprets: far fewer there.
const STRESS_BLOCKS: u64 = if cfg!(miri) { 200 } else { 300_000 };

#[test]
fn stress_with_blocks_of_one_id() {
    stress(4, 1, STRESS_BLOCKS);
}

#[test]
fn stress_with_batches_over_blocks_of_one_id() {
    stress(3, 5, STRESS_BLOCKS);
}

#[test]
fn stress_of_waiting_takers() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).build().unwrap();
    let total = STRESS_BLOCKS / 10;
    let buffer = Arc::new(Buffer::new(0.5));
    let mut all: Vec<u64> = runtime.block_on(async {
        let takers: Vec<_> = (0..8)
            .map(|_| {
                let buffer = buffer.clone();
                tokio::spawn(async move {
                    let mut ids = Vec::new();
                    while let Ok(taken) = buffer.take_or_wait(1).await {
                        ids.push(taken.ids.start());
                    }
                    ids
                })
            })
            .collect();
        for n in 0..total {
            while buffer.append(block(2 * n, 2 * n + 1)) == Err(Refused::Full) {
                tokio::task::yield_now().await;
            }
        }
        buffer.set_supply(Supply::Exhausted);
        let mut all = Vec::new();
        for taker in takers {
            all.extend(taker.await.unwrap());
        }
        all
    });
    all.sort_unstable();
    assert!(all.iter().copied().eq((0..total).map(|n| 2 * n)), "an id is missing or was given twice");
}
