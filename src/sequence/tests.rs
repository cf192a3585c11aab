//! The bounded wait, batches, and refusals, in paused time.
#![allow(clippy::float_cmp)] // exact results

use std::time::Instant;

use super::health::DAY;
use super::*;

use crate::buffer::Supply;
use crate::config::Step;
use crate::store::{Definition, ErrorKind, Leased};

const LIMITS: WaitLimits = WaitLimits { time: Duration::from_millis(500), waiters: 2 };

/// The sequence, and what it asks the refill for.
fn sequence_and_queue() -> (Arc<Sequence>, mpsc::UnboundedReceiver<Arc<Sequence>>) {
    let (due, queue) = mpsc::unbounded_channel();
    let policy = Policy { max_block: 1_000, runway: Duration::from_secs(60) };
    let shared = Shared { threshold: 0.5, policy, limits: LIMITS, metrics: Arc::new(Metrics::new()), due };
    let terms = Terms::unknown(Step::of(100));
    (Sequence::new(SequenceName::default(), terms, 1_000, 0, Arc::new(shared)), queue)
}

fn sequence() -> Arc<Sequence> {
    sequence_and_queue().0
}

fn block(start: u64, end: u64) -> Block {
    Block::new(start, end).unwrap()
}

fn leased(blocks: &[Block]) -> Leased {
    Leased { blocks: blocks.to_vec(), capacity_used: 0.0, mark: 0 }
}

/// What a store says of the sequence.
fn definition(terms: Terms, is_deleted: bool) -> Definition {
    Definition { name: SequenceName::default(), terms, next_id: None, is_deleted, description: String::new() }
}

fn lost(sequence: &Sequence) -> String {
    let text = String::from_utf8(sequence.shared.metrics.render([], true)).unwrap();
    let line = text.lines().find(|line| line.contains("reason=\"batch_timeout\"")).unwrap();
    line.rsplit(' ').next().unwrap().to_owned()
}

#[tokio::test(start_paused = true)]
async fn waits_for_the_refill_but_not_for_ever() {
    let sequence = sequence();
    let started = tokio::time::Instant::now();
    let error = sequence.next().await.unwrap_err();
    assert!(matches!(error, TakeError::TimedOut { .. }), "{error}");
    assert_eq!(started.elapsed(), LIMITS.time);

    let waiting = tokio::spawn({
        let sequence = sequence.clone();
        async move { sequence.next().await }
    });
    tokio::task::yield_now().await;
    assert_eq!(sequence.waiting(), (1, 1));
    sequence.append(&leased(&[block(101, 201)]));
    assert_eq!(waiting.await.unwrap(), Ok(101));
    assert_eq!(sequence.waiting(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn only_so_many_wait() {
    let sequence = sequence();
    let asked = |_| {
        let sequence = sequence.clone();
        tokio::spawn(async move { sequence.next().await })
    };
    let waiting: Vec<_> = (0..2).map(asked).collect();
    tokio::task::yield_now().await;
    let started = tokio::time::Instant::now();
    assert!(matches!(sequence.next().await, Err(TakeError::TooManyWaiters { limit: 2, .. })));
    assert_eq!(started.elapsed(), Duration::ZERO, "refused at once");
    for task in waiting {
        assert!(task.await.unwrap().is_err());
    }
    assert_eq!(sequence.waiting(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_batch_goes_over_blocks_and_one_that_does_not_come_costs_nothing() {
    let sequence = sequence();
    sequence.append(&leased(&[block(10, 13), block(20, 22)]));
    assert_eq!(sequence.take(4).await, Ok(vec![block(10, 13), block(20, 21)]));
    let error = sequence.take(3).await.unwrap_err();
    assert!(matches!(error, TakeError::TimedOut { .. }), "{error}");
    assert_eq!(lost(&sequence), "0");
    let waiting = tokio::spawn({
        let sequence = sequence.clone();
        async move { sequence.take(13).await }
    });
    for start in [30, 50, 70] {
        tokio::task::yield_now().await;
        assert_eq!(sequence.waiting(), (1, 13));
        sequence.append(&leased(&[block(start, start + 4)]));
    }
    assert_eq!(waiting.await.unwrap(), Ok(vec![block(21, 22), block(30, 34), block(50, 54), block(70, 74)]));
}

#[tokio::test(start_paused = true)]
async fn a_batch_in_too_many_blocks_to_be_held_gathers_them_and_a_late_one_is_lost_and_counted() {
    let sequence = sequence();
    let apart = |numbers: std::ops::Range<u64>| leased(&numbers.map(|n| block(10 * n, 10 * n + 1)).collect::<Vec<_>>());
    sequence.append(&apart(1..50));
    let waiting = tokio::spawn({
        let sequence = sequence.clone();
        async move { sequence.take(100).await }
    });
    for numbers in [50..76, 76..101] {
        tokio::task::yield_now().await;
        sequence.append(&apart(numbers));
    }
    assert_eq!(waiting.await.unwrap().map(|blocks| blocks.len()), Ok(100));
    sequence.append(&apart(101..151));
    let error = sequence.take(100).await.unwrap_err();
    assert!(matches!(error, TakeError::TimedOut { .. }), "{error}");
    let held = sequence.snapshot().held();
    assert!(held > 0 && held < 50, "{held}");
    assert_eq!(lost(&sequence), (50 - held).to_string());
    assert_eq!(sequence.next().await, Ok(10 * (151 - held)), "the lost ids are not given to anybody");
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_the_store_leases_too_slowly_is_refused_at_once() {
    let sequence = sequence();
    sequence.append(&leased(&[block(1, 101)]));
    sequence.saw_speed(100, Duration::from_millis(160));
    let started = tokio::time::Instant::now();
    let refused = Err(TakeError::TooManyInTime { asked: 401, max: 400, wait: LIMITS.time });
    assert_eq!(sequence.take(401).await, refused);
    assert_eq!((started.elapsed(), sequence.snapshot().held()), (Duration::ZERO, 100));
    assert!(matches!(sequence.take(400).await, Err(TakeError::TimedOut { .. })), "it is tried");
    // Slower than a request waits: one lease may still come.
    sequence.saw_speed(100, Duration::from_secs(1));
    assert!(matches!(sequence.take(201).await, Err(TakeError::TooManyInTime { max: 200, .. })));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_frees_its_place() {
    let sequence = sequence();
    sequence.append(&leased(&[block(10, 11)]));
    let task = tokio::spawn({
        let sequence = sequence.clone();
        async move { sequence.take(5).await }
    });
    tokio::task::yield_now().await;
    assert_eq!(sequence.waiting(), (1, 5));
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    assert_eq!(sequence.waiting(), (0, 0));
    assert_eq!(lost(&sequence), "0");
}

#[tokio::test(start_paused = true)]
async fn exhausted_and_draining_are_said_at_once() {
    let sequence = sequence();
    let waiting = tokio::spawn({
        let sequence = sequence.clone();
        async move { sequence.next().await }
    });
    tokio::task::yield_now().await;
    sequence.fail("used up", Some(ErrorKind::Exhausted));
    assert_eq!(waiting.await.unwrap(), Err(TakeError::Exhausted("used up".into())));
    assert_eq!(sequence.next().await, Err(TakeError::Exhausted("used up".into())));
    sequence.append(&leased(&[block(10, 13)]));
    assert_eq!(sequence.next().await, Ok(10), "the column was widened");
    assert_eq!(sequence.seal(), Unused { tail: Some(block(11, 13)), before: vec![], handed_to: 11 });
    assert_eq!(sequence.next().await, Err(TakeError::Draining));
}

#[tokio::test(start_paused = true)]
async fn more_than_is_ever_held_is_refused_at_once_and_costs_nothing() {
    let sequence = sequence();
    sequence.append(&leased(&[block(1, 2_000)]));
    assert_eq!(sequence.take(1_001).await, Err(TakeError::TooMany { asked: 1_001, max: 1_000 }));
    assert_eq!(sequence.take(1_000).await, Ok(vec![block(1, 1_001)]));
}

#[test]
fn the_runway_is_none_without_ids_whatever_the_rate() {
    let sequence = sequence();
    assert_eq!(sequence.sample().runway_seconds, 0.0);
    sequence.append(&leased(&[block(1, 101)]));
    assert_eq!(sequence.sample().runway_seconds, DAY, "idle");
    sequence.set_rate(10.0);
    assert_eq!(sequence.sample().runway_seconds, 10.0);
    assert_eq!(sequence.sample().high_water_mark, 101);
}

#[test]
fn a_sequence_is_in_the_queue_once_until_it_is_left() {
    let (sequence, mut queue) = sequence_and_queue();
    sequence.wake_refill();
    sequence.wake_refill();
    assert!(queue.try_recv().is_ok() && queue.try_recv().is_err());
    sequence.leave();
    sequence.wake_refill();
    assert!(queue.try_recv().is_ok());
    assert!(!sequence.tend_again(), "it is in the queue");
    sequence.leave();
    assert!(sequence.tend_again());
}

/// One thread makes work and wakes, the other does it as the refill's task would: all is done, whatever the order.
#[test]
fn no_wake_up_is_lost_when_the_task_leaves() {
    const ALL: u64 = 50_000;
    let (sequence, mut queue) = sequence_and_queue();
    let (made, done) = (Arc::new(AtomicU64::new(0)), AtomicU64::new(0));
    let maker = std::thread::spawn({
        let (sequence, made) = (sequence.clone(), made.clone());
        move || {
            for _ in 0..ALL {
                // As weak as the cursor's add.
                made.fetch_add(1, Ordering::Relaxed);
                sequence.wake_refill();
            }
        }
    });
    let until = Instant::now() + Duration::from_secs(60);
    while done.load(Ordering::Relaxed) < ALL {
        assert!(Instant::now() < until, "stuck at {done:?}");
        let Ok(tended) = queue.try_recv() else {
            std::thread::yield_now();
            continue;
        };
        loop {
            done.store(made.load(Ordering::Relaxed), Ordering::Relaxed);
            tended.leave();
            if made.load(Ordering::Relaxed) == done.load(Ordering::Relaxed) || !tended.tend_again() {
                break;
            }
        }
    }
    maker.join().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_deleted_sequence_says_so_and_a_new_one_goes_on() {
    let (sequence, mut queue) = sequence_and_queue();
    sequence.append(&leased(&[block(10, 20)]));
    assert_eq!(sequence.next().await, Ok(10));
    sequence.announce(None);
    assert!(queue.try_recv().is_ok(), "the refill is told");
    assert_eq!(sequence.news().map(|(_, is_deleted)| is_deleted), Some(true));
    sequence.drop_held("deleted");
    sequence.set_supply(Supply::Gone);
    assert_eq!(sequence.next().await, Err(TakeError::Gone(SequenceName::default())));
    assert_eq!(sequence.snapshot().handed_out, 1, "what was dropped was not handed out");
    let terms = Terms { incarnation: 2, ..sequence.terms() };
    sequence.announce(Some(&definition(terms, false)));
    assert_eq!(sequence.news(), Some((terms, false)));
    assert_eq!(sequence.news(), None);
    sequence.announce(Some(&definition(terms, false)));
    assert!(!sequence.has_news(), "nothing new");
    sequence.append(&leased(&[block(20, 30)]));
    assert_eq!(sequence.next().await, Ok(20));
}

#[tokio::test(start_paused = true)]
async fn the_tail_goes_over_leases_but_not_over_the_ids_of_others() {
    let sequence = sequence();
    sequence.append(&leased(&[block(101, 201)]));
    assert_eq!(sequence.take(100).await, Ok(vec![block(101, 201)]));
    for block in [block(301, 401), block(501, 601), block(601, 701)] {
        sequence.append(&leased(&[block]));
    }
    // Handed out up to 201: what was never touched counts for nothing.
    let expected = Unused { tail: Some(block(501, 701)), before: vec![block(301, 401)], handed_to: 201 };
    assert_eq!(sequence.seal(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_can_not_be_filled_takes_nothing() {
    let sequence = sequence();
    sequence.append(&leased(&[block(1, 901)]));
    sequence.fail("the store is away", Some(ErrorKind::Unavailable));
    let error = sequence.take(1_000).await.unwrap_err();
    assert!(matches!(&error, TakeError::TimedOut { failure: Some(why), .. } if why == "the store is away"), "{error}");
    assert!(!error.to_string().contains("away"), "what the store says is not for clients: {error}");
    assert_eq!(sequence.snapshot().held(), 900, "the others are still answered");
    sequence.fail("used up", Some(ErrorKind::Exhausted));
    assert_eq!(sequence.take(1_000).await, Err(TakeError::Exhausted("used up".into())));
    assert_eq!(sequence.take(900).await, Ok(vec![block(1, 901)]));
    sequence.set_supply(Supply::Gone);
    assert_eq!(sequence.take(10).await, Err(TakeError::Gone(SequenceName::default())), "whatever failed before");
}

#[test]
fn what_was_read_before_is_not_taken_for_news() {
    let sequence = sequence();
    let terms = |incarnation| Terms { incarnation, ..sequence.terms() };
    sequence.announce(Some(&definition(terms(2), false)));
    assert!(sequence.news().is_some());
    sequence.announce(Some(&definition(terms(1), false)));
    assert!(!sequence.has_news());
    sequence.announce(Some(&definition(terms(1), true)));
    assert!(!sequence.has_news(), "the tombstone of before it was made again");
}
