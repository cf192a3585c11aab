//! A sequence that is filled once and for ever, without a database: what benches and tests measure inside of one process.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use seqsvr::config::Step;
use seqsvr::metrics::Metrics;
use seqsvr::name::SequenceName;
use seqsvr::node::Node;
use seqsvr::refill::policy::Policy;
use seqsvr::refill::{Progress, Refill};
use seqsvr::segment::Block;
use seqsvr::sequence::{Sequence, Shared, WaitLimits};
use seqsvr::store::guard::Guard;
use seqsvr::store::{BlockStore, Definition, Leased, StoreError, Terms};
use tokio::sync::{mpsc, watch};

/// More ids than any run takes, so that only the hot path is measured: no promotion, no refill.
const END: u64 = 1 << 62;

pub const THRESHOLD: f64 = 0.5;

pub fn block() -> Block {
    Block::new(1, END).expect("not empty, and below the limit")
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

/// What sequences share here; nobody waits.
fn shared() -> (Arc<Shared>, mpsc::UnboundedReceiver<Arc<Sequence>>) {
    let policy = Policy { max_block: 1, runway: Duration::ZERO };
    let limits = WaitLimits { time: Duration::ZERO, waiters: 0 };
    let (due, queue) = mpsc::unbounded_channel();
    let metrics = Arc::new(Metrics::new());
    (Arc::new(Shared { threshold: THRESHOLD, policy, limits, metrics, due }), queue)
}

/// `default`, which its refill has filled once.
pub fn filled_sequence() -> (Arc<Sequence>, Arc<Shared>) {
    let (shared, queue) = shared();
    let terms = Terms::unknown(Step::of(1));
    let sequence = Sequence::new(SequenceName::default(), terms, u64::MAX, 0, shared.clone());
    let store = Arc::new(Guard::new(Arc::new(Endless), Arc::new(Node::forgetful())));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let (report, mut progress) = watch::channel(Progress::Starting);
        let (_stop, stopped) = watch::channel(false);
        sequence.wake_refill();
        tokio::select! {
            () = Refill::new(store, shared.policy, shared.metrics.clone(), report).run(queue, stopped) => {}
            _ = progress.wait_for(|progress| *progress == Progress::Leased) => {}
        }
    });
    assert!(sequence.snapshot().held() > 0, "the refill has filled it");
    (sequence, shared)
}
