//! The refill against a store that fails on command, in paused time.

use std::collections::VecDeque;
use std::sync::Mutex;

use async_trait::async_trait;

use super::*;
use crate::config::Step;
use crate::name::SequenceName;
use crate::node::Node;
use crate::segment::Block;
use crate::sequence::{Shared, TakeError, WaitLimits};
use crate::store::{BlockStore, Definition, Terms};

/// Leases from 101 on; before that does what it was told, one entry a lease.
struct Scripted {
    script: Mutex<VecDeque<Act>>,
    next: Mutex<u64>,
    leases: Mutex<Vec<(Instant, u64)>>,
    /// What it says of every sequence; `None` for one that was deleted.
    terms: Mutex<Option<Terms>>,
}

#[derive(Clone, Copy)]
enum Act {
    Fail(ErrorKind),
    Panic,
    Take(Duration),
    GoBack,
}

#[async_trait]
impl BlockStore for Scripted {
    async fn lease(&self, _: &SequenceName, terms: Terms, want: NonZeroU64) -> Result<Leased, StoreError> {
        if *self.terms.lock().unwrap() != Some(terms) {
            return Err(StoreError::new(ErrorKind::Stale, "as scripted"));
        }
        self.leases.lock().unwrap().push((Instant::now(), want.get()));
        let act = self.script.lock().unwrap().pop_front();
        match act {
            Some(Act::Fail(kind)) => return Err(StoreError::new(kind, "as scripted")),
            Some(Act::Panic) => panic!("as scripted"),
            Some(Act::Take(time)) => sleep(time).await,
            Some(Act::GoBack) => *self.next.lock().unwrap() = 101,
            None => {}
        }
        let mut next = self.next.lock().unwrap();
        let start = *next;
        *next += want.get();
        Ok(Leased { blocks: vec![Block::new(start, *next).unwrap()], capacity_used: 0.0, mark: 0 })
    }
    async fn give_back(&self, _: &SequenceName, _: Terms, _: Block) -> Result<bool, StoreError> {
        Ok(false)
    }
    async fn find(&self, names: &[SequenceName]) -> Result<Vec<Definition>, StoreError> {
        let terms = *self.terms.lock().unwrap();
        let definition = |name: &SequenceName| Definition {
            name: name.clone(),
            terms: terms.unwrap_or(TERMS),
            next_id: None,
            is_deleted: terms.is_none(),
            description: String::new(),
        };
        Ok(names.iter().map(definition).collect())
    }
    async fn revision(&self) -> Result<u64, StoreError> {
        Ok(1)
    }
    fn describe(&self) -> String {
        "a script".into()
    }
    async fn close(&self) {}
}

const TERMS: Terms = Terms { step: Step::of(100), max_id: 1 << 53, incarnation: 1 };

struct Rig {
    sequence: Arc<Sequence>,
    store: Arc<Scripted>,
    metrics: Arc<Metrics>,
    progress: watch::Receiver<Progress>,
    _stop: watch::Sender<bool>,
}

fn rig(script: impl IntoIterator<Item = Act>) -> Rig {
    let metrics = Arc::new(Metrics::new());
    let policy = Policy { max_block: 1_000_000, runway: Duration::from_secs(60) };
    let (due, queue) = mpsc::unbounded_channel();
    let limits = WaitLimits { time: Duration::from_millis(500), waiters: 100 };
    let shared = Shared { threshold: 0.5, policy, limits, metrics: metrics.clone(), due };
    let sequence = Sequence::new(SequenceName::default(), TERMS, 1_000_000, 0, Arc::new(shared));
    let store = Arc::new(Scripted {
        script: Mutex::new(script.into_iter().collect()),
        next: Mutex::new(101),
        leases: Mutex::default(),
        terms: Mutex::new(Some(TERMS)),
    });
    let guard = Arc::new(Guard::new(store.clone(), Arc::new(Node::forgetful())));
    let (reporter, progress) = watch::channel(Progress::Starting);
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(Refill::new(guard, policy, metrics.clone(), reporter).run(queue, stopped));
    sequence.wake_refill();
    Rig { sequence, store, metrics, progress, _stop: stop }
}

impl Rig {
    /// As if a look for changes had found it.
    fn announce(&self, terms: Terms) {
        let name = self.sequence.name().clone();
        let found = Definition { name, terms, next_id: None, is_deleted: false, description: String::new() };
        self.sequence.announce(Some(&found));
    }

    fn leases(&self) -> usize {
        self.store.leases.lock().unwrap().len()
    }

    fn counted(&self, outcome: &str) -> String {
        let text = String::from_utf8(self.metrics.render([], true)).unwrap();
        let series = format!("seqsvr_leases_total{{outcome=\"{outcome}\"");
        text.lines().find(|line| line.starts_with(&series)).unwrap().rsplit(' ').next().unwrap().to_owned()
    }
}

#[tokio::test(start_paused = true)]
async fn leases_at_start_and_then_only_past_the_threshold() {
    let mut rig = rig([]);
    rig.progress.wait_for(|progress| *progress == Progress::Leased).await.unwrap();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(rig.leases(), 1, "an idle sequence holds one step");
    for expected in 101..=150 {
        assert_eq!(rig.sequence.next().await, Ok(expected));
        sleep(Duration::from_secs(1)).await; // one a second: a minute of them is less than a step
    }
    assert_eq!(rig.leases(), 1);
    rig.sequence.next().await.unwrap();
    sleep(Duration::from_millis(1)).await;
    assert_eq!(rig.leases(), 2, "the mark is at half of the segment");
    assert_eq!(rig.sequence.next().await, Ok(152));
}

#[tokio::test(start_paused = true)]
async fn a_busy_sequence_gets_its_runway_in_few_leases() {
    let rig = rig([]);
    for _ in 0..20_000 {
        rig.sequence.next().await.unwrap();
        sleep(Duration::from_millis(1)).await;
    }
    let held = rig.sequence.snapshot().held();
    assert!((60_000..80_000).contains(&held), "1000 ids a second, a minute of them: {held}");
    assert!(rig.leases() < 60, "{} leases in 20 s", rig.leases());
}

#[tokio::test(start_paused = true)]
async fn a_failing_store_is_asked_with_growing_pauses_and_says_why() {
    let rig = rig(std::iter::repeat_n(Act::Fail(ErrorKind::Unavailable), 20));
    sleep(Duration::from_secs(10)).await;
    assert!((7..14).contains(&rig.leases()), "{} leases in 10 s", rig.leases());
    assert_eq!(*rig.progress.borrow(), Progress::Failing(ErrorKind::Unavailable, "as scripted".into()));
    let error = rig.sequence.next().await.unwrap_err();
    assert!(matches!(&error, TakeError::TimedOut { failure: Some(why), .. } if why == "as scripted"), "{error}");
    sleep(Duration::from_secs(60)).await;
    assert_eq!(rig.sequence.next().await, Ok(101), "and it recovers by itself");
    assert!(rig.sequence.health().failure.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_tried_again_at_once() {
    let started = Instant::now();
    let rig = rig(std::iter::repeat_n(Act::Fail(ErrorKind::Conflict), 10));
    assert_eq!(rig.sequence.next().await, Ok(101));
    assert!(started.elapsed() < Duration::from_millis(210), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_counted_and_does_not_end_the_refill() {
    let rig = rig([Act::Panic, Act::Panic]);
    assert_eq!(rig.sequence.next().await, Ok(101));
    assert_eq!(rig.counted("panic"), "2");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_hangs_is_given_up() {
    let rig = rig([Act::Take(Duration::from_secs(3600))]);
    sleep(LEASE_TIMEOUT + Duration::from_secs(1)).await;
    assert_eq!(rig.sequence.next().await, Ok(101));
    assert_eq!(rig.counted("unavailable"), "1");
}

#[tokio::test(start_paused = true)]
async fn a_counter_that_went_back_hands_nothing_out() {
    let rig = rig([]);
    let mut last = 100;
    for round in 0..300 {
        if round == 40 {
            rig.store.script.lock().unwrap().push_back(Act::GoBack);
        }
        let id = rig.sequence.next().await.unwrap();
        assert!(id > last, "{id} after {last}");
        last = id;
        sleep(Duration::from_secs(1)).await;
    }
    assert_ne!(rig.counted("regressed"), "0");
}

#[tokio::test(start_paused = true)]
async fn a_waiting_batch_gets_a_lease_of_its_size() {
    let rig = rig([]);
    let blocks = rig.sequence.take(5_000).await.unwrap();
    assert_eq!(blocks.iter().map(|block| block.len()).sum::<u64>(), 5_000);
    assert!(rig.leases() <= 3, "{:?}", rig.store.leases.lock().unwrap());
}

#[tokio::test(start_paused = true)]
async fn an_idle_sequence_has_no_task_and_gets_one_when_it_is_needed() {
    let rig = rig([]);
    sleep(Duration::from_secs(1)).await;
    assert!(rig.sequence.tend_again(), "nobody tends it");
    rig.sequence.leave();
    let blocks = rig.sequence.take(400).await.unwrap();
    assert_eq!(blocks.iter().map(|block| block.len()).sum::<u64>(), 400);
}

#[tokio::test(start_paused = true)]
async fn an_advanced_sequence_drops_what_it_holds_and_goes_on() {
    let rig = rig([]);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(rig.sequence.next().await, Ok(101));
    let terms = Terms { incarnation: 2, ..TERMS };
    *rig.store.terms.lock().unwrap() = Some(terms);
    *rig.store.next.lock().unwrap() = 5_001;
    rig.announce(terms);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(rig.sequence.next().await, Ok(5_001));
    let text = String::from_utf8(rig.metrics.render([], true)).unwrap();
    assert!(text.contains("seqsvr_ids_lost_total{reason=\"advanced\",sequence=\"default\"} 99\n"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_finds_the_sequence_changed_looks_it_up() {
    let rig = rig([]);
    sleep(Duration::from_secs(1)).await;
    *rig.store.terms.lock().unwrap() = None;
    let refused = rig.sequence.take(5_000).await;
    assert_eq!(refused, Err(crate::sequence::TakeError::Gone(SequenceName::default())));
    *rig.store.terms.lock().unwrap() = Some(Terms { incarnation: 2, ..TERMS });
    rig.announce(Terms { incarnation: 2, ..TERMS });
    sleep(Duration::from_millis(1)).await;
    assert!(rig.sequence.next().await.is_ok());
}
