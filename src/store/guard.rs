//! The one place that every lease of every store passes: what comes out of here may be handed out.
//!
//! A lease must lie past this node's high-water mark, and its blocks must rise and be few. Else it is discarded, which
//! leaves a gap, and an alarm says so. What only a store can know (its recorded step, its server, its first ticket) the
//! store has checked before.

use std::num::NonZeroU64;
use std::sync::Arc;

use super::{BlockStore, ErrorKind, Leased, MAX_BLOCKS_PER_LEASE, StoreError, Terms};
use crate::name::SequenceName;
use crate::node::Node;
use crate::segment::Block;

/// A store behind its guard.
pub struct Guard {
    store: Arc<dyn BlockStore>,
    node: Arc<Node>,
}

impl Guard {
    /// Guards `store` with what `node` remembers.
    pub fn new(store: Arc<dyn BlockStore>, node: Arc<Node>) -> Self {
        Self { store, node }
    }

    /// As [`BlockStore::lease`]; the blocks lie past everything that this node ever leased of the sequence.
    pub async fn lease(&self, sequence: &SequenceName, terms: Terms, want: NonZeroU64) -> Result<Leased, StoreError> {
        let leased = self.store.lease(sequence, terms, want).await?;
        // Read now: opening another store, where that is allowed, forgets the marks of the old one.
        let mark = self.node.high_water_mark(sequence.as_str());
        let end = check(&leased.blocks, mark).map_err(|what| {
            StoreError::new(
                ErrorKind::Unsafe,
                format!(
                    "{what} of sequence {sequence} from {}: discarded, for this node leased up to {mark} before. The store's \
                     counter went back (a restored backup, a lowered counter, a failover that lost commits), so ids could \
                     be repeated. Set the counter past the highest id that any node has leased",
                    self.store.describe(),
                ),
            )
        })?;
        self.node.raise_high_water_mark(sequence, end);
        Ok(Leased { mark, ..leased })
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
    async fn what_was_leased_raises_the_mark_and_is_not_let_through_again() {
        let (name, node) = (SequenceName::default(), Arc::new(Node::forgetful()));
        node.raise_high_water_mark(&name, 101);
        let guard = Guard::new(Arc::new(Stuck(Block::new(101, 201).unwrap())), node.clone());
        let (terms, want) = (Terms::unknown(Step::of(100)), NonZeroU64::new(100).unwrap());
        let leased = guard.lease(&name, terms, want).await.unwrap();
        assert_eq!((leased.blocks, leased.mark), (vec![Block::new(101, 201).unwrap()], 101));
        assert_eq!(node.high_water_mark("default"), 201);
        let error = guard.lease(&name, terms, want).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unsafe);
        for part in ["[101, 201) of sequence default", "up to 201 before", "a stuck store"] {
            assert!(error.what.contains(part), "{part}: {}", error.what);
        }
        assert_eq!(node.high_water_mark("default"), 201);
    }
}
