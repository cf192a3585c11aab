//! Looking names up, against a store that counts how often it is asked, in paused time.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use async_trait::async_trait;

use super::finder::Finder;
use super::*;
use crate::config::{NewSequence, Step};
use crate::metrics::Metrics;
use crate::node::Node;
use crate::refill::policy::Policy;
use crate::segment::Block;
use crate::sequence::WaitLimits;
use crate::store::finding::{Expected, Finding, Pruned};
use crate::store::{BlockStore, Catalog, Definition, Edit, ErrorKind, Leased, Migration, Script, StoreError, Terms};

#[derive(Default)]
struct Counting {
    rows: Mutex<BTreeMap<SequenceName, Definition>>,
    asked: Mutex<Vec<usize>>,
    is_away: Mutex<bool>,
    revision: Mutex<u64>,
}

impl Counting {
    fn put(&self, name: &str, incarnation: u32, is_deleted: bool) {
        let name: SequenceName = name.parse().unwrap();
        let terms = Terms { incarnation, ..Terms::unknown(Step::of(10)) };
        let definition =
            Definition { name: name.clone(), terms, next_id: None, is_deleted, description: String::new() };
        self.rows.lock().unwrap().insert(name, definition);
        *self.revision.lock().unwrap() += 1;
    }

    fn queries(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

#[async_trait]
impl BlockStore for Counting {
    async fn lease(&self, _: &SequenceName, _: Terms, _: NonZeroU64) -> Result<Leased, StoreError> {
        unreachable!("nobody leases here")
    }
    async fn give_back(&self, _: &SequenceName, _: Terms, _: Block) -> Result<bool, StoreError> {
        unreachable!("nobody gives back here")
    }
    async fn find(&self, names: &[SequenceName]) -> Result<Vec<Definition>, StoreError> {
        self.asked.lock().unwrap().push(names.len());
        tokio::time::sleep(Duration::from_millis(50)).await;
        if *self.is_away.lock().unwrap() {
            return Err(StoreError::new(ErrorKind::Unavailable, "it is away"));
        }
        let rows = self.rows.lock().unwrap();
        Ok(names.iter().filter_map(|name| rows.get(name).cloned()).collect())
    }
    async fn revision(&self) -> Result<u64, StoreError> {
        Ok(*self.revision.lock().unwrap())
    }
    fn describe(&self) -> String {
        "a count".into()
    }
    async fn close(&self) {}
}

#[async_trait]
impl Catalog for Counting {
    async fn list(&self, _: Option<&SequenceName>, _: u32) -> Result<Vec<Definition>, StoreError> {
        unreachable!("nobody lists here")
    }
    async fn edit(&self, name: &SequenceName, edit: &Edit, _: &mut Script) -> Result<bool, StoreError> {
        assert!(matches!(edit, Edit::Declare(_)), "nobody does anything else here");
        self.put(name.as_str(), 1, false);
        Ok(true)
    }
    async fn migrate(&self, _: Migration, _: &mut Script) -> Result<String, StoreError> {
        unreachable!("nobody migrates here")
    }
    async fn examine(&self, _: Expected<'_>) -> Vec<Finding> {
        unreachable!("nobody examines here")
    }
    async fn prune(&self, _: bool) -> Result<Pruned, StoreError> {
        unreachable!("nobody prunes here")
    }
}

struct Rig {
    sequences: Arc<Sequences>,
    store: Arc<Counting>,
    _due: mpsc::UnboundedReceiver<Arc<Sequence>>,
}

fn rig(declared: &[&str]) -> Rig {
    let metrics = Arc::new(Metrics::new());
    let policy = Policy { max_block: 1_000, runway: Duration::from_secs(60) };
    let limits = WaitLimits { time: Duration::from_millis(500), waiters: 100 };
    let (due, queue) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared { threshold: 0.5, policy, limits, metrics: metrics.clone(), due });
    let default = Sequence::new(SequenceName::default(), Terms::unknown(Step::of(10)), 1_000, 0, shared.clone());
    let (asked, names) = mpsc::channel(100);
    let sequences = Sequences::new(default, asked, shared.clone());
    let store = Arc::new(Counting::default());
    store.put("default", 0, false);
    let finder = Arc::new(Finder {
        sequences: sequences.clone(),
        store: store.clone(),
        declared: declared.iter().map(|name| NewSequence::new(name.parse().unwrap(), Step::of(10))).collect(),
        policy,
        shared,
        node: Arc::new(Node::forgetful()),
        metrics,
    });
    tokio::spawn(finder.clone().look_up(names));
    tokio::spawn(finder.look_for_changes());
    Rig { sequences, store, _due: queue }
}

async fn get(rig: &Rig, name: &str) -> Result<String, FindError> {
    rig.sequences.get(name).await.map(|sequence| sequence.name().to_string())
}

#[tokio::test(start_paused = true)]
async fn a_name_is_looked_up_once() {
    let rig = rig(&[]);
    rig.store.put("orders", 1, false);
    assert_eq!(get(&rig, "orders").await.as_deref(), Ok("orders"));
    let queries = rig.store.queries();
    for _ in 0..100 {
        assert!(get(&rig, "orders").await.is_ok());
    }
    assert_eq!(rig.store.queries(), queries);
    assert_eq!(rig.sequences.all().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_crowd_that_asks_for_a_new_name_waits_for_one_query() {
    let rig = rig(&[]);
    tokio::time::sleep(Duration::from_millis(100)).await;
    rig.store.put("orders", 1, false);
    let queries = rig.store.queries();
    let ask = || {
        let sequences = rig.sequences.clone();
        tokio::spawn(async move { sequences.get("orders").await.is_ok() })
    };
    let mut crowd = vec![ask()];
    // The rest comes while the query for the first one is under way.
    tokio::time::sleep(Duration::from_millis(10)).await;
    crowd.extend((0..90).map(|_| ask()));
    for one in crowd {
        assert!(one.await.unwrap());
    }
    assert_eq!(rig.store.queries(), queries + 1);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_unknown_names_does_not_reach_the_store() {
    let rig = rig(&[]);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(matches!(get(&rig, "nothing").await, Err(FindError::Unknown(_))));
    let queries = rig.store.queries();
    for _ in 0..1_000 {
        assert!(matches!(get(&rig, "nothing").await, Err(FindError::Unknown(_))));
    }
    assert_eq!(rig.store.queries(), queries, "the same one");
    // Different ones, all at once: many a query, and what is too many is told so.
    let asked: Vec<_> = (0..1_000)
        .map(|n| {
            let sequences = rig.sequences.clone();
            tokio::spawn(async move { sequences.get(&format!("n{n}")).await.map(drop) })
        })
        .collect();
    let mut refused = 0;
    for asked in asked {
        match asked.await.unwrap() {
            Err(FindError::Unknown(_)) => {}
            Err(FindError::TooMany(_)) => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(rig.store.queries() - queries < 20, "{:?}", rig.store.asked.lock().unwrap());
    assert!(refused < 1_000);
    assert!(rig.sequences.unknown().len() <= MOST_UNKNOWN);
}

#[tokio::test(start_paused = true)]
async fn what_others_make_and_delete_shows() {
    let rig = rig(&[]);
    assert!(get(&rig, "orders").await.is_err());
    rig.store.put("orders", 1, false);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let orders = rig.sequences.get("orders").await.unwrap();
    rig.store.put("orders", 1, true);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(orders.is_deleted());
    rig.store.put("orders", 2, false);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!orders.is_deleted() && orders.terms().incarnation == 2);
}

#[tokio::test(start_paused = true)]
async fn declared_ones_are_made_but_not_against_a_tombstone() {
    let rig = rig(&["users", "gone"]);
    rig.store.put("gone", 1, true);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(rig.store.rows.lock().unwrap().contains_key("users"));
    assert_eq!(get(&rig, "users").await.as_deref(), Ok("users"));
    assert!(matches!(get(&rig, "gone").await, Err(FindError::Unknown(_))));
    assert!(rig.store.rows.lock().unwrap()["gone"].is_deleted);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_is_no_404() {
    let rig = rig(&[]);
    *rig.store.is_away.lock().unwrap() = true;
    let error = get(&rig, "orders").await.unwrap_err();
    assert!(matches!(&error, FindError::Unavailable { failure: Some(why), .. } if why == "it is away"), "{error}");
    assert!(!error.to_string().contains("away"), "what the store says is not for clients: {error}");
    *rig.store.is_away.lock().unwrap() = false;
    rig.store.put("orders", 1, false);
    assert!(get(&rig, "orders").await.is_ok(), "nothing was remembered of it");
    assert_eq!(
        get(&rig, "a b").await,
        Err(FindError::BadName("a sequence's name has 1 to 128 characters out of A-Z a-z 0-9 . _ : -"))
    );
}
