//! The end of a graceful stop: what was leased and not handed out goes back to the store, where that is safe.
//!
//! In this order, so that no id can come twice: all is sealed, so that nothing of it is handed out any more; the node's
//! marks are lowered and written, so that the lowered counter does not look as if it had gone back; then each tail is sent
//! once and never again, for a lost reply may have been a yes.
//!
//! A mark goes down to the end of what the node has handed out, not only to the start of its tail: another node may lease
//! what went back right behind a block of its own, and give both back. What nobody handed out is then above every mark.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{SAVE_TIMEOUT, save};
use crate::name::SequenceName;
use crate::node::Node;
use crate::segment::Block;
use crate::sequence::Unused;
use crate::sequences::Sequences;
use crate::store::Terms;
use crate::store::guard::Guard;

/// For all sequences together; what did not go back by then is a gap.
const GIVE_BACK_TIMEOUT: Duration = Duration::from_secs(3);

/// So many tails go back side by side.
const AT_ONCE: usize = 6;

/// What became of the ids that were leased and not handed out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Somebody else hands them out.
    pub given_back: u64,
    /// A gap: others leased behind them, or the layout has no way back.
    pub behind_others: u64,
    /// A gap, or given back: the store failed or did not answer in time.
    pub unanswered: u64,
}

/// A tail, and what it was leased by.
struct Tail {
    name: SequenceName,
    terms: Terms,
    block: Block,
}

/// Ends the handing out of all sequences and gives back what can go back.
pub async fn all(sequences: &Sequences, guard: &Arc<Guard>, node: &Arc<Node>) -> Counts {
    let mut unused = Counts::default();
    let mut tails = Vec::new();
    for sequence in sequences.all() {
        let Unused { tail, before: mut lost, handed_to } = sequence.seal();
        if let Some(block) = tail {
            // The mark is elsewhere only if somebody else raised it: then this is not what was leased last.
            if guard.store().takes_back(sequence.name())
                && node.lower_high_water_mark(sequence.name().as_str(), block.end(), handed_to)
            {
                tails.push(Tail { name: sequence.name().clone(), terms: sequence.held_terms(), block });
            } else {
                lost.push(block);
            }
        }
        unused.behind_others += lost.iter().map(|block| block.len()).sum::<u64>();
    }
    let is_saved = timeout(SAVE_TIMEOUT, save(node)).await.unwrap_or_else(|_| {
        tracing::warn!("data_dir does not answer: what this node remembers there may be out of date");
        false
    });
    if !is_saved {
        // At the next start the counter would be below the mark that is written there.
        unused.unanswered += tails.iter().map(|tail| tail.block.len()).sum::<u64>();
        return unused;
    }
    unused.unanswered = tails.iter().map(|tail| tail.block.len()).sum();
    let (left, counts) = (Arc::new(Mutex::new(tails)), Arc::new(Mutex::new(unused)));
    let mut workers = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (guard, node, left, counts) = (guard.clone(), node.clone(), left.clone(), counts.clone());
        workers.spawn(async move {
            loop {
                let next = left.lock().unwrap_or_else(PoisonError::into_inner).pop();
                let Some(Tail { name, terms, block }) = next else { return };
                let answer = guard.store().give_back(&name, terms, block).await;
                let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
                let count = match answer {
                    Ok(true) => &mut counts.given_back,
                    Ok(false) => {
                        // It did not go back: the guard is as strict as it was.
                        node.raise_high_water_mark(&name, block.end());
                        &mut counts.behind_others
                    }
                    Err(error) => {
                        tracing::debug!("{} ids of sequence {name} did not go back: {error}", block.len());
                        continue;
                    }
                };
                *count += block.len();
                counts.unanswered -= block.len();
            }
        });
    }
    let _ = timeout(GIVE_BACK_TIMEOUT, async { while workers.join_next().await.is_some() {} }).await;
    // Ends those that still wait for an answer.
    drop(workers);
    node.make_marks_exact();
    // What did not go back. If this is not written, it costs a guard, never an ID: the marks stay ahead.
    let _ = timeout(SAVE_TIMEOUT, save(node)).await;
    *counts.lock().unwrap_or_else(PoisonError::into_inner)
}
