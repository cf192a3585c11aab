//! The bounded wait, batches, and refusals, in paused time.
#![allow(clippy::float_cmp)] // exact results

use super::*;

const LIMITS: TakeLimits = TakeLimits { ids: 1_000, time: Duration::from_millis(500), waiters: 2 };

fn sequence() -> Arc<Sequence> {
    Arc::new(Sequence::new(SequenceName::default(), 0.5, LIMITS, 0, Arc::new(Metrics::new())))
}

fn block(start: u64, end: u64) -> Block {
    Block::new(start, end).unwrap()
}

fn lost(sequence: &Sequence) -> String {
    let text = String::from_utf8(sequence.metrics.render(&[], true)).unwrap();
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
    sequence.append(&[block(101, 201)]);
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
async fn a_batch_goes_over_blocks_and_a_late_one_is_lost_and_counted() {
    let sequence = sequence();
    sequence.append(&[block(10, 13), block(20, 22)]);
    assert_eq!(sequence.take(4).await, Ok(vec![block(10, 13), block(20, 21)]));
    let error = sequence.take(3).await.unwrap_err();
    assert!(matches!(error, TakeError::TimedOut { .. }), "{error}");
    assert_eq!(lost(&sequence), "1");
    sequence.append(&[block(30, 40)]);
    assert_eq!(sequence.next().await, Ok(30), "the lost id is not given to anybody");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_frees_its_place() {
    let sequence = sequence();
    sequence.append(&[block(10, 11)]);
    let task = tokio::spawn({
        let sequence = sequence.clone();
        async move { sequence.take(5).await }
    });
    tokio::task::yield_now().await;
    assert_eq!(sequence.waiting(), (1, 4));
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    assert_eq!(sequence.waiting(), (0, 0));
    assert_eq!(lost(&sequence), "1");
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
    sequence.append(&[block(10, 13)]);
    assert_eq!(sequence.next().await, Ok(10), "the column was widened");
    assert_eq!(sequence.seal(), 2);
    assert_eq!(sequence.next().await, Err(TakeError::Draining));
}

#[tokio::test(start_paused = true)]
async fn more_than_is_ever_held_is_refused_at_once_and_costs_nothing() {
    let sequence = sequence();
    sequence.append(&[block(1, 2_000)]);
    assert_eq!(sequence.take(1_001).await, Err(TakeError::TooMany { asked: 1_001, most: 1_000 }));
    assert_eq!(sequence.take(1_000).await, Ok(vec![block(1, 1_001)]));
}

#[test]
fn the_runway_is_none_without_ids_whatever_the_rate() {
    let sequence = sequence();
    assert_eq!(sequence.sample().runway_seconds, 0.0);
    sequence.append(&[block(1, 101)]);
    assert_eq!(sequence.sample().runway_seconds, DAY, "idle");
    sequence.set_rate(10.0);
    assert_eq!(sequence.sample().runway_seconds, 10.0);
    assert_eq!(sequence.sample().high_water_mark, 101);
}
