//! The one place that every lease of every store passes: what comes out of here may be handed out.
//!
//! A store says what it found of a counter ([`Facts`]), and [`judge`] says whether something of it may be handed out. Counters
//! are judged by what the leasing statement demands too, for in between they may change; tickets are judged before
//! they are allocated and again after it. What was leased must then rise past this node's high-water mark ([`Guard`]), whatever
//! a store has overlooked. What breaks a rule is discarded, which leaves a gap, and an alarm says so.
//!
//! What each rule is for, and what no rule can know, is in docs/guarantees.md.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::{BlockStore, ErrorKind, Leased, MAX_BLOCKS_PER_LEASE, StoreError, Terms};
use crate::faults::{self, Guard as Switch};
use crate::name::SequenceName;
use crate::node::Node;
use crate::segment::Block;

/// The state of a counter that a node found below what it had leased. No server is named so.
pub const REGRESSED: &str = "regressed";

/// A counter as the store has it, and what the node expects of it. Equal where nothing is to be compared.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The store that is there, and the one that was opened.
    pub store: (&'a str, &'a str),
    /// The ids of a ticket: as recorded, and as configured.
    pub step: (u64, u64),
    /// The server that the counter was last fenced for, and the one that is connected: for the message.
    pub server: (&'a str, &'a str),
    /// The epoch in which the counter was last fenced, and the present one of the database.
    pub epoch: (u32, u32),
    /// What is recorded of the counter.
    pub state: State<'a>,
    /// The first id (or ticket) that no lease covers, as far as the store can tell.
    pub next: u64,
    /// What `next` can't be below: this node's high-water mark, or more where more is recorded.
    pub mark: u64,
    /// As the store has it, and as the node knows it.
    pub incarnation: (u32, u32),
}

/// What is recorded of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State<'a> {
    /// Nothing against leasing.
    Ok,
    /// It is not there any more: deleted, or moved.
    Gone,
    /// A node found it below what it had leased.
    Regressed,
    /// A migration is under way, or was interrupted; or what no version that we know writes.
    Other(&'a str),
}

/// Which rule is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breach {
    /// Another store than the one that was opened.
    OtherStore,
    /// Another sequence than the terms are of.
    Stale,
    /// Two steps on one table hand ids out twice.
    OtherStep,
    /// The counter was not fenced since the database moved to another server.
    NotFenced,
    /// The counter is below what was leased, or was found so.
    Regressed,
    /// A migration is under way.
    Migrating,
}

/// Whether something of the counter may be handed out.
pub fn judge(facts: &Facts<'_>) -> Result<(), Breach> {
    if facts.store.0 != facts.store.1 && !faults::is_off(Switch::Store) {
        Err(Breach::OtherStore)
    } else if facts.state == State::Gone {
        Err(Breach::Stale)
    } else if facts.step.0 != facts.step.1 && !faults::is_off(Switch::Step) {
        Err(Breach::OtherStep)
    } else if facts.state == State::Regressed && !faults::is_off(Switch::Mark) {
        Err(Breach::Regressed)
    } else if !is_fenced(facts) && !faults::is_off(Switch::Fence) {
        Err(Breach::NotFenced)
    } else if matches!(facts.state, State::Other(_)) {
        Err(Breach::Migrating)
    } else if facts.next < facts.mark && !faults::is_off(Switch::Mark) {
        // Before the incarnation: a restored row may have an earlier one.
        Err(Breach::Regressed)
    } else if facts.incarnation.0 != facts.incarnation.1 {
        Err(Breach::Stale)
    } else {
        Ok(())
    }
}

/// Whether the counter was fenced in the present epoch. The server alone is not enough: a counter that was idle while
/// another server had the database still names the server that comes back.
fn is_fenced(facts: &Facts<'_>) -> bool {
    if faults::is_off(Switch::Epoch) { facts.server.0 == facts.server.1 } else { facts.epoch.0 == facts.epoch.1 }
}

/// What the error for a refused counter says.
#[derive(Clone, Copy, Debug)]
pub struct Refusal<'a> {
    /// The store.
    pub at: &'a str,
    /// The sequence.
    pub name: &'a SequenceName,
    /// The highest ID that this node knows to be leased.
    pub past: u64,
    /// What shows that the counter went back.
    pub how: &'a str,
    /// Why IDs could be repeated if the counter is not fenced.
    pub moved: &'a str,
}

/// The error for a counter that breaks a rule.
pub fn refusal(breach: Breach, facts: &Facts<'_>, refusal: &Refusal<'_>) -> StoreError {
    let Refusal { at, name, past, how, moved } = refusal;
    let (kind, what) = match breach {
        Breach::OtherStore => (
            ErrorKind::OtherStore,
            format!("the store_id changed to {} while we ran: another database, or a restored one", facts.store.0),
        ),
        Breach::Stale => (ErrorKind::Stale, format!("sequence {name} was changed, moved or deleted")),
        Breach::OtherStep => (
            ErrorKind::OtherStep,
            format!(
                "the ids of this table are leased with step {}, the configuration says step {}. Two steps on one table hand \
                 ids out twice. Set step: {0} in the configuration, or migrate the table: seqsvr migrate --step {1}",
                facts.step.0, facts.step.1
            ),
        ),
        Breach::NotFenced => (
            ErrorKind::NotFenced,
            format!(
                "the counter of sequence {name} was last fenced in epoch {}{}, and another server had the database since: this is \
                 '{}', epoch {}. {moved}, so IDs could be repeated and nothing is leased. {FENCE_ALL}",
                facts.epoch.0,
                if facts.server.0 == facts.server.1 { String::new() } else { format!(" (for '{}')", facts.server.0) },
                facts.server.1,
                facts.epoch.1
            ),
        ),
        Breach::Regressed => (
            ErrorKind::Regressed,
            format!(
                "the counter of sequence {name} went back ({how}): a restored backup, a lowered counter, or a failover that \
                 lost commits. IDs could be repeated, so no node leases. ID must be the highest that any node has LEASED, not \
                 only issued: the largest metric seqsvr_high_water_mark_ids{{sequence=\"{name}\"}} of all nodes, here {past}; of a \
                 node that is stopped or hangs, high_water_marks in its data_dir/node.json. Then run: seqsvr fence {name} --past \
                 ID --yes"
            ),
        ),
        Breach::Migrating => {
            let state = if let State::Other(state) = facts.state { state } else { "" };
            (
                ErrorKind::Migrating,
                format!(
                    "seqsvr_meta.state is '{state}': a migration is under way, or was interrupted. If none runs, run the same \
                     seqsvr migrate again"
                ),
            )
        }
    };
    StoreError::new(kind, format!("{at}: {what}"))
}

/// What to do if the database moved: fence all sequences, once.
pub const FENCE_ALL: &str = "Run once, for all sequences: seqsvr fence --skip IDS --yes. IDS must be more than any sequence can \
                             have lost: its rate times the replication lag (or the age of the backup), times ten, for gaps cost \
                             nothing";

/// How old a lease may be when its block passes the mark on the disk; after that the block is discarded. If a node hangs for
/// longer, an operator may take it for dead, and its mark for final. This is as long as a statement may take.
const LEASE_VALID: Duration = Duration::from_secs(5);

/// How long a lease waits for the disk to take the node's mark.
const WRITE_AHEAD_TIMEOUT: Duration = Duration::from_secs(2);

/// A store behind its guard.
pub struct Guard {
    store: Arc<dyn BlockStore>,
    node: Arc<Node>,
    /// Held by the writer of the node's marks, even while the disk hangs.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// The disk did not take the marks in time. Until it does, no lease waits for it. Relaxed: it guards no other memory.
    is_late: Arc<AtomicBool>,
}

impl Guard {
    /// Guards `store` with what `node` remembers.
    pub fn new(store: Arc<dyn BlockStore>, node: Arc<Node>) -> Self {
        Self { store, node, turn: Arc::default(), is_late: Arc::default() }
    }

    /// As [`BlockStore::lease`]; the blocks lie past everything that this node ever leased of the sequence.
    pub async fn lease(&self, sequence: &SequenceName, terms: Terms, want: NonZeroU64) -> Result<Leased, StoreError> {
        faults::point("lease-begins");
        let began = Instant::now();
        let leased = self.store.lease(sequence, terms, want).await?;
        // Read now: opening another store, where that is allowed, forgets the marks of the old one.
        let mark = self.node.high_water_mark(sequence.as_str());
        let least = if faults::is_off(Switch::Mark) { 0 } else { mark };
        let end = check(&leased.blocks, least).map_err(|what| {
            StoreError::new(
                ErrorKind::Regressed,
                format!(
                    "{what} of sequence {sequence} from {}: discarded, for this node leased up to {mark} before. The store's \
                     counter went back (a restored backup, a lowered counter, a failover that lost commits), so ids could \
                     be repeated. Run: seqsvr fence {sequence} --past ID, with the highest id that any node has leased",
                    self.store.describe(),
                ),
            )
        })?;
        let size = leased.blocks.iter().map(|block| block.len()).sum();
        if began.elapsed() > LEASE_VALID && self.node.reserve(sequence, end, size, terms.max_id) {
            self.write_ahead().await;
            return Err(self.expired(sequence, began));
        }
        if self.node.raise_ahead(sequence, end, size, terms.max_id) {
            self.write_ahead().await;
            if began.elapsed() > LEASE_VALID {
                return Err(self.expired(sequence, began));
            }
        }
        for block in &leased.blocks {
            // Before an id of it is handed out: who looks for ids that came from nowhere compares with these lines.
            tracing::debug!(sequence = %sequence, start = block.start(), end = block.end(), "leased");
        }
        faults::point("lease-publishes");
        Ok(Leased { mark, ..leased })
    }

    /// The error for a block that came too late: the process was stopped, or the database hung. Meanwhile an operator may
    /// have fenced past this node's mark, which did not cover the block. The mark covers the next one.
    fn expired(&self, sequence: &SequenceName, began: Instant) -> StoreError {
        let what = format!(
            "{}: a lease of sequence {sequence} took {} s: discarded, because an operator may have fenced past this node's mark",
            self.store.describe(),
            began.elapsed().as_secs()
        );
        StoreError::new(ErrorKind::Conflict, what)
    }

    /// Writes the node's marks, after a lease has passed those on the disk. A lease does not depend on that: if `data_dir`
    /// does not take them, the log says so, and IDs are issued.
    async fn write_ahead(&self) {
        let (node, is_late) = (self.node.clone(), self.is_late.clone());
        let write = move |turn| {
            tokio::task::spawn_blocking(move || {
                // The thread owns it, so that a disk which hangs blocks one thread and no more.
                let _turn: tokio::sync::OwnedMutexGuard<()> = turn;
                if node.save_or_warn() && is_late.swap(false, Ordering::Relaxed) {
                    tracing::info!("data_dir answers again");
                }
            })
        };
        if self.is_late.load(Ordering::Relaxed) {
            if let Ok(turn) = self.turn.clone().try_lock_owned() {
                write(turn);
            }
            return;
        }
        let written = timeout(WRITE_AHEAD_TIMEOUT, async { write(self.turn.clone().lock_owned().await).await });
        if written.await.is_err() && !self.is_late.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "data_dir does not answer within {} s: until it does, the marks in node.json may be behind what is leased",
                WRITE_AHEAD_TIMEOUT.as_secs()
            );
        }
    }

    /// The store, for all that is not a lease.
    pub fn store(&self) -> &dyn BlockStore {
        &*self.store
    }
}

/// The end (exclusive) of the last block, if they rise from `mark` (the first id that may be leased) on.
fn check(blocks: &[Block], mark: u64) -> Result<u64, String> {
    if blocks.is_empty() || blocks.len() > MAX_BLOCKS_PER_LEASE {
        return Err(format!("a lease of {} blocks", blocks.len()));
    }
    blocks.iter().try_fold(mark, |end, block| {
        if block.start() >= end { Ok(block.end()) } else { Err(format!("the leased block {block:?}")) }
    })
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::super::Definition;
    use super::*;
    use crate::config::Step;

    const FACTS: Facts<'static> = Facts {
        store: ("s", "s"),
        step: (100, 100),
        server: ("here", "here"),
        epoch: (2, 2),
        state: State::Ok,
        next: 501,
        mark: 501,
        incarnation: (1, 1),
    };

    #[test]
    fn each_rule_has_its_breach() {
        assert_eq!(judge(&FACTS), Ok(()));
        assert_eq!(judge(&Facts { next: 502, ..FACTS }), Ok(()));
        for (why, facts, breach, kind) in [
            ("another store", Facts { store: ("t", "s"), ..FACTS }, Breach::OtherStore, ErrorKind::OtherStore),
            ("deleted, or moved", Facts { state: State::Gone, ..FACTS }, Breach::Stale, ErrorKind::Stale),
            ("another step", Facts { step: (7, 100), ..FACTS }, Breach::OtherStep, ErrorKind::OtherStep),
            (
                "idle while it was on another server",
                Facts { epoch: (1, 2), ..FACTS },
                Breach::NotFenced,
                ErrorKind::NotFenced,
            ),
            ("of an epoch that is lost", Facts { epoch: (3, 2), ..FACTS }, Breach::NotFenced, ErrorKind::NotFenced),
            ("found so before", Facts { state: State::Regressed, ..FACTS }, Breach::Regressed, ErrorKind::Regressed),
            ("below the mark", Facts { next: 500, ..FACTS }, Breach::Regressed, ErrorKind::Regressed),
            ("migrating", Facts { state: State::Other("migrating"), ..FACTS }, Breach::Migrating, ErrorKind::Migrating),
            ("another incarnation", Facts { incarnation: (2, 1), ..FACTS }, Breach::Stale, ErrorKind::Stale),
            // The first of several, for what a person has to do.
            (
                "restored, of an earlier incarnation",
                Facts { next: 500, incarnation: (0, 1), ..FACTS },
                Breach::Regressed,
                ErrorKind::Regressed,
            ),
            (
                "found so, then moved to another server",
                Facts { state: State::Regressed, epoch: (1, 2), ..FACTS },
                Breach::Regressed,
                ErrorKind::Regressed,
            ),
            (
                "deleted on another server",
                Facts { state: State::Gone, epoch: (1, 2), ..FACTS },
                Breach::Stale,
                ErrorKind::Stale,
            ),
        ] {
            assert_eq!(judge(&facts), Err(breach), "{why}");
            let name = "orders".parse().unwrap();
            let words = Refusal { at: "MySQL at here", name: &name, past: 500, how: "it is at 7", moved: "It moved" };
            let told = refusal(breach, &facts, &words);
            assert_eq!(told.kind, kind, "{why}");
            assert!(told.what.starts_with("MySQL at here: "), "{why}: {told}");
        }
    }

    #[test]
    fn a_refusal_says_what_to_run() {
        let name = "orders".parse().unwrap();
        let words = Refusal { at: "x", name: &name, past: 500, how: "it is at 7", moved: "It moved" };
        let told = |breach| refusal(breach, &FACTS, &words).what;
        let regressed = told(Breach::Regressed);
        assert!(regressed.contains("here 500;") && regressed.contains("seqsvr fence orders --past ID"), "{regressed}");
        let not_fenced = told(Breach::NotFenced);
        assert!(
            not_fenced.contains("It moved") && not_fenced.contains("seqsvr fence --skip IDS --yes"),
            "{not_fenced}"
        );
        assert!(told(Breach::OtherStep).contains("seqsvr migrate --step 100"));
        assert!(told(Breach::Regressed).contains("it is at 7"));
    }

    #[test]
    fn a_lease_must_rise_past_the_mark() {
        let blocks = |ranges: &[(u64, u64)]| ranges.iter().map(|&(s, e)| Block::new(s, e).unwrap()).collect::<Vec<_>>();
        assert_eq!(check(&blocks(&[(101, 201)]), 0), Ok(201));
        assert_eq!(check(&blocks(&[(101, 201), (301, 401)]), 101), Ok(401));
        let most: Vec<_> = (1..=MAX_BLOCKS_PER_LEASE as u64).map(|n| (2 * n, 2 * n + 1)).collect();
        assert_eq!(check(&blocks(&most), 0), Ok(2 * MAX_BLOCKS_PER_LEASE as u64 + 1), "as many as may be");
        assert!(check(&blocks(&[(101, 201)]), 102).is_err(), "one id below the mark");
        assert!(check(&blocks(&[(301, 401), (101, 201)]), 0).is_err(), "falling");
        assert!(check(&blocks(&[(101, 201), (200, 301)]), 0).is_err(), "overlapping");
        assert!(check(&[], 0).is_err());
        assert!(check(&vec![Block::new(1, 2).unwrap(); MAX_BLOCKS_PER_LEASE + 1], 0).is_err());
        let many: Vec<_> = (0..=MAX_BLOCKS_PER_LEASE as u64).map(|n| (2 * n, 2 * n + 1)).collect();
        assert!(check(&blocks(&many), 0).is_err(), "one too many");
    }

    /// Leases the same block again and again.
    struct Stuck(Block);

    #[async_trait]
    impl BlockStore for Stuck {
        async fn lease(&self, _: &SequenceName, _: Terms, _: NonZeroU64) -> Result<Leased, StoreError> {
            Ok(Leased { blocks: vec![self.0], capacity_used: 0.5, mark: 0 })
        }
        async fn give_back(&self, _: &SequenceName, _: Terms, _: Block) -> Result<bool, StoreError> {
            unreachable!()
        }
        async fn find(&self, _: &[SequenceName]) -> Result<Vec<Definition>, StoreError> {
            unreachable!()
        }
        async fn revision(&self) -> Result<u64, StoreError> {
            unreachable!()
        }
        fn describe(&self) -> String {
            "a stuck store".to_owned()
        }
        async fn close(&self) {}
    }

    #[tokio::test]
    async fn a_mark_is_written_ahead_of_a_lease_and_no_lease_depends_on_that() {
        let dir = tempfile::tempdir().unwrap();
        let (name, node) = (SequenceName::default(), Arc::new(Node::open(dir.path()).unwrap()));
        let lease = async |start, end| {
            let guard = Guard::new(Arc::new(Stuck(Block::new(start, end).unwrap())), node.clone());
            guard.lease(&name, Terms::unknown(Step::of(100)), NonZeroU64::MIN).await
        };
        lease(101, 201).await.unwrap();
        let json = std::fs::read(dir.path().join("node.json")).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!((&json["high_water_marks"]["default"], &json["leased_to"]["default"]), (&1_001.into(), &201.into()));
        // It can't be written any more.
        std::fs::remove_dir_all(dir.path()).unwrap();
        lease(5_001, 5_101).await.unwrap();
        assert_eq!(node.high_water_mark("default"), 5_101);
    }

    #[tokio::test]
    async fn what_was_leased_raises_the_mark_and_is_not_let_through_again() {
        let (name, node) = (SequenceName::default(), Arc::new(Node::forgetful()));
        node.raise_high_water_mark(&name, 101);
        let guard = Guard::new(Arc::new(Stuck(Block::new(101, 201).unwrap())), node.clone());
        let (terms, want) = (Terms::unknown(Step::of(100)), NonZeroU64::new(100).unwrap());
        let leased = guard.lease(&name, terms, want).await.unwrap();
        assert_eq!((leased.blocks, leased.mark), (vec![Block::new(101, 201).unwrap()], 101));
        assert_eq!(node.high_water_mark("default"), 201);
        let error = guard.lease(&name, terms, want).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Regressed);
        for part in ["[101, 201) of sequence default", "up to 201 before", "a stuck store"] {
            assert!(error.what.contains(part), "{part}: {}", error.what);
        }
        assert_eq!(node.high_water_mark("default"), 201);
    }
}
