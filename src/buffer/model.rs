//! The allocator under loom: every interleaving of two or three threads on blocks of two or three ids, with the
//! memory reorderings that the chosen orderings allow. Run by `make test-loom`.
//!
//! Each model checks that no id is given twice, that one thread's ids rise, and what its name says.

use loom::future::block_on;
use loom::thread;

use super::*;

fn block(start: u64, end: u64) -> Block {
    Block::new(start, end).unwrap()
}

fn buffer(blocks: &[(u64, u64)]) -> Arc<Buffer> {
    let buffer = Buffer::new(0.5);
    for &(start, end) in blocks {
        buffer.append(block(start, end)).unwrap();
    }
    Arc::new(buffer)
}

/// The ids of up to `calls` takes of up to `want`, until the buffer is dry; asserts that they rise.
fn take(buffer: &Buffer, calls: usize, want: u64) -> Vec<u64> {
    take_by(|| if want == 1 { buffer.take_one() } else { buffer.take(want) }, calls)
}

/// As `take`, one at a time, by a pointer that may be from before.
fn take_cached(buffer: &Buffer, cached: &mut Cached, calls: usize) -> Vec<u64> {
    take_by(|| buffer.take_one_by(cached), calls)
}

fn take_by(mut call: impl FnMut() -> Result<Taken, Dry>, calls: usize) -> Vec<u64> {
    let mut ids = Vec::new();
    for _ in 0..calls {
        let Ok(taken) = call() else { break };
        ids.extend(taken.ids.start()..taken.ids.end());
    }
    assert!(ids.is_sorted_by(|a, b| a < b), "not rising: {ids:?}");
    ids
}

fn assert_each_once(mut ids: Vec<u64>, expected: impl IntoIterator<Item = u64>) {
    ids.sort_unstable();
    assert_eq!(ids, expected.into_iter().collect::<Vec<_>>());
}

/// All interleavings, or those with at most so many preemptions where all would take hours; loom's advice is two or three.
fn model(preemptions: Option<usize>, f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(f);
}

#[test]
fn two_takers_cross_a_promotion() {
    model(Some(4), || {
        let buffer = buffer(&[(10, 12), (20, 22)]);
        let other = buffer.clone();
        let thread = thread::spawn(move || take(&other, 2, 1));
        let mut ids = take(&buffer, 2, 1);
        ids.extend(thread.join().unwrap());
        assert_each_once(ids, [10, 11, 20, 21]);
        assert_eq!(buffer.snapshot().handed_out, 4);
    });
}

#[test]
fn two_cached_takers_cross_a_promotion() {
    model(Some(3), || {
        let buffer = buffer(&[(10, 12), (20, 22)]);
        let other = buffer.clone();
        let thread = thread::spawn(move || take_cached(&other, &mut other.cached(), 2));
        let mut ids = take_cached(&buffer, &mut buffer.cached(), 2);
        ids.extend(thread.join().unwrap());
        assert_each_once(ids, [10, 11, 20, 21]);
    });
}

#[test]
fn three_takers_and_not_enough() {
    model(Some(2), || {
        let buffer = buffer(&[(10, 12), (20, 21)]);
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let buffer = buffer.clone();
                thread::spawn(move || take(&buffer, 2, 1))
            })
            .collect();
        let mut ids = take(&buffer, 2, 1);
        for thread in threads {
            ids.extend(thread.join().unwrap());
        }
        assert_each_once(ids, [10, 11, 20]);
    });
}

#[test]
fn a_batch_beside_a_taker() {
    model(Some(3), || {
        let buffer = buffer(&[(10, 13), (20, 22)]);
        let other = buffer.clone();
        let thread = thread::spawn(move || take(&other, 2, 2));
        let mut ids = take(&buffer, 2, 1);
        ids.extend(thread.join().unwrap());
        ids.extend(take(&buffer, 9, 1));
        assert_each_once(ids, [10, 11, 12, 20, 21]);
    });
}

#[test]
fn appends_beside_promotions() {
    model(Some(3), || {
        let buffer = buffer(&[(10, 11), (20, 21)]);
        let other = buffer.clone();
        let thread = thread::spawn(move || {
            other.append(block(30, 31)).unwrap();
            other.append(block(31, 32)).unwrap();
        });
        let mut ids = take(&buffer, 3, 1);
        thread.join().unwrap();
        ids.extend(take(&buffer, 9, 1));
        assert_each_once(ids, [10, 20, 30, 31]);
    });
}

#[test]
fn an_id_asked_for_after_anothers_answer_is_greater() {
    model(Some(3), || {
        let buffer = buffer(&[(10, 11), (20, 22)]);
        let answered = Arc::new(loom::sync::atomic::AtomicU64::new(0));
        let (other, theirs) = (buffer.clone(), answered.clone());
        let thread = thread::spawn(move || {
            for id in take(&other, 2, 1) {
                // The answer is sent ...
                theirs.store(id, loom::sync::atomic::Ordering::Release);
            }
        });
        // ... and only then this is asked for.
        let before = answered.load(loom::sync::atomic::Ordering::Acquire);
        for id in take(&buffer, 1, 1) {
            assert!(id > before, "{id} after {before}");
        }
        thread.join().unwrap();
    });
}

#[test]
fn so_it_is_by_a_pointer_of_before() {
    model(Some(3), || {
        let buffer = buffer(&[(10, 11), (20, 22)]);
        let mut cached = buffer.cached();
        let answered = Arc::new(loom::sync::atomic::AtomicU64::new(0));
        let (other, theirs) = (buffer.clone(), answered.clone());
        let thread = thread::spawn(move || {
            for id in take_cached(&other, &mut other.cached(), 2) {
                theirs.store(id, loom::sync::atomic::Ordering::Release);
            }
        });
        let before = answered.load(loom::sync::atomic::Ordering::Acquire);
        for id in take_cached(&buffer, &mut cached, 1) {
            assert!(id > before, "{id} after {before}");
        }
        thread.join().unwrap();
    });
}

#[test]
fn the_mark_of_a_segment_fires_exactly_once() {
    model(None, || {
        let buffer = buffer(&[(10, 13)]);
        buffer.take_one().unwrap(); // promotes, which is due too
        let other = buffer.clone();
        let thread = thread::spawn(move || other.take_one().unwrap().refill_due);
        let due = [buffer.take_one().unwrap().refill_due, thread.join().unwrap()];
        assert_eq!(due.iter().filter(|due| **due).count(), 1);
    });
}

#[test]
fn sealing_and_taking_share_the_ids_between_them() {
    model(Some(3), || {
        let buffer = buffer(&[(10, 12), (20, 22)]);
        let other = buffer.clone();
        let thread = thread::spawn(move || take(&other, 3, 1));
        let tail = buffer.seal();
        let mut ids = thread.join().unwrap();
        assert_eq!(buffer.take_one(), Err(Dry::Sealed));
        assert_eq!(buffer.append(block(30, 31)), Err(Refused::Sealed));
        ids.extend(tail.iter().flat_map(|tail| tail.start()..tail.end()));
        assert_each_once(ids, [10, 11, 20, 21]);
    });
}

#[test]
fn clearing_and_taking_share_the_ids_between_them_and_it_goes_on() {
    model(Some(3), || {
        let buffer = buffer(&[(10, 12), (20, 21)]);
        let other = buffer.clone();
        let thread = thread::spawn(move || take(&other, 3, 1));
        let dropped = buffer.clear();
        buffer.append(block(30, 32)).unwrap();
        let mut ids = thread.join().unwrap();
        ids.extend(take(&buffer, 9, 1));
        assert_eq!(buffer.snapshot().handed_out, ids.len() as u64);
        ids.extend(dropped.iter().flat_map(|block| block.start()..block.end()));
        assert_each_once(ids, [10, 11, 20, 30, 31]);
    });
}

#[test]
fn clearing_beside_a_pointer_of_before() {
    model(Some(3), || {
        let buffer = buffer(&[(10, 12), (20, 21)]);
        let other = buffer.clone();
        let mut cached = other.cached();
        let thread = thread::spawn(move || take_cached(&other, &mut cached, 3));
        let dropped = buffer.clear();
        buffer.append(block(30, 32)).unwrap();
        let mut ids = thread.join().unwrap();
        ids.extend(take(&buffer, 9, 1));
        ids.extend(dropped.iter().flat_map(|block| block.start()..block.end()));
        assert_each_once(ids, [10, 11, 20, 30, 31]);
    });
}

#[test]
fn one_of_two_sealers_gets_the_tail() {
    model(None, || {
        let buffer = buffer(&[(10, 12)]);
        let other = buffer.clone();
        let thread = thread::spawn(move || other.seal());
        let mut tails = buffer.seal();
        tails.extend(thread.join().unwrap());
        assert_eq!(tails, [block(10, 12)]);
    });
}

// A lost wake-up would leave a thread blocked for ever, which loom reports as a deadlock.

#[test]
fn an_append_wakes_who_waits() {
    model(None, || {
        let buffer = buffer(&[]);
        let other = buffer.clone();
        let thread = thread::spawn(move || block_on(other.take_or_wait(1)).unwrap().ids.start());
        buffer.append(block(10, 12)).unwrap();
        assert_eq!(thread.join().unwrap(), 10);
    });
}

#[test]
fn an_append_wakes_all_who_wait() {
    model(Some(2), || {
        let buffer = buffer(&[]);
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let buffer = buffer.clone();
                thread::spawn(move || block_on(buffer.take_or_wait(1)).unwrap().ids.start())
            })
            .collect();
        buffer.append(block(10, 12)).unwrap();
        let ids = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert_each_once(ids, [10, 11]);
    });
}

#[test]
fn a_seal_or_an_exhausted_store_ends_the_waiting() {
    for (end, expected) in [
        ((|buffer| drop(buffer.seal())) as fn(&Buffer), Dry::Sealed),
        ((|buffer| buffer.set_supply(Supply::Exhausted)) as fn(&Buffer), Dry::Exhausted),
        ((|buffer| buffer.set_supply(Supply::Gone)) as fn(&Buffer), Dry::Gone),
    ] {
        model(None, move || {
            let buffer = buffer(&[]);
            let other = buffer.clone();
            let thread = thread::spawn(move || block_on(other.take_or_wait(1)));
            end(&buffer);
            assert_eq!(thread.join().unwrap(), Err(expected));
        });
    }
}
