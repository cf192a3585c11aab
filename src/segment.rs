//! Blocks of ids, and the cursor that hands one out.
//!
//! What always holds:
//! - A [`Block`] is never empty and ends below 2^63.
//! - A [`Segment`]'s cursor only grows, by `fetch_add` or by the one `swap` of sealing. So no two calls get the same
//!   id, and once the cursor has reached the block's end the segment is closed for ever.
//! - No input or output, no waiting, no lock: methods return facts and their callers act on them.

use std::fmt;

use crossbeam_utils::CachePadded;

use crate::faults;
use crate::sync::{AtomicU64, Ordering};

/// The largest end (exclusive) that a block can have: 2^63 - 1. Half of the `u64` range stays free above it, so that
/// adds past the end of a closed segment can't wrap: it would take 2^63 of them.
pub const MAX_END: u64 = (1 << 63) - 1;

/// A non-empty half-open range of ids, `[start, end)`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block {
    start: u64,
    end: u64,
}

impl Block {
    /// `[start, end)`; `None` unless `start < end <= MAX_END`.
    pub const fn new(start: u64, end: u64) -> Option<Self> {
        if start < end && end <= MAX_END { Some(Self { start, end }) } else { None }
    }

    /// The first id.
    pub const fn start(self) -> u64 {
        self.start
    }

    /// The first id after the last one.
    pub const fn end(self) -> u64 {
        self.end
    }

    /// The last id (inclusive).
    pub const fn last(self) -> u64 {
        self.end - 1
    }

    /// How many ids; never 0.
    #[allow(clippy::len_without_is_empty)] // a block is never empty
    pub const fn len(self) -> u64 {
        self.end - self.start
    }
}

/// Puts `block` behind `blocks`, as a part of the last one where it begins at its end.
pub fn push_joined(blocks: &mut Vec<Block>, block: Block) {
    match blocks.last_mut() {
        Some(last) if last.end == block.start => last.end = block.end,
        _ => blocks.push(block),
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.start, self.end)
    }
}

/// What a take got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The ids, at least one and at most as many as were asked for.
    pub ids: Block,
    /// The refill should look: this take held the segment's threshold mark, or it promoted a block.
    pub refill_due: bool,
}

/// A block in memory with its cursor.
#[derive(Debug)]
pub struct Segment {
    start: u64,
    end: u64,
    /// The id whose taking fires the wake-up of the refill; at most `end - 1`, so that it fires before the end.
    mark: u64,
    /// How many ids sealing took out of it. Relaxed: only for counting, and written once.
    withdrawn: AtomicU64,
    /// The next id to hand out; at or past `end` when closed. On a cache line of its own: every worker writes it, and
    /// the fields above are read by all of them.
    ///
    /// Relaxed throughout. That no id is given twice follows from the atomicity of each read-modify-write alone, for
    /// those of one location are totally ordered. That ids rise follows from coherence: a take that happens before
    /// another (an answer was written, then a request was read) comes before it in that order. And nothing else is
    /// published through the cursor: blocks travel through the pointer in `buffer`, which acquires and releases.
    cursor: CachePadded<AtomicU64>,
}

impl Segment {
    /// Hands out `block`; the mark is where `threshold` (a fraction, 0 to 1) of it is used.
    pub fn new(block: Block, threshold: f64) -> Self {
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let used = (block.len() as f64 * threshold.clamp(0.0, 1.0)) as u64;
        Self {
            start: block.start,
            end: block.end,
            mark: block.start.saturating_add(used).min(block.last()),
            withdrawn: AtomicU64::new(0),
            cursor: CachePadded::new(AtomicU64::new(block.start)),
        }
    }

    /// A segment that is closed and never had an id: what a buffer starts with.
    pub fn closed() -> Self {
        Self { start: 0, end: 0, mark: 0, withdrawn: AtomicU64::new(0), cursor: CachePadded::new(AtomicU64::new(0)) }
    }

    /// Takes one id without looking first: the hot path. `None` once closed; a caller that got `None` comes back
    /// through [`take`](Self::take) only, so that each request adds at most once to a closed segment.
    #[inline]
    pub fn take_one(&self) -> Option<Taken> {
        self.taken(self.add(1), 1)
    }

    /// Takes up to `want` ids (1 to 2^32), looking first, so that a closed segment's cursor does not grow.
    pub fn take(&self, want: u64) -> Option<Taken> {
        debug_assert!((1..=1 << 32).contains(&want), "batches are capped long before");
        if self.cursor.load(Ordering::Relaxed) >= self.end {
            return None;
        }
        self.taken(self.add(want), want)
    }

    #[inline]
    fn add(&self, want: u64) -> u64 {
        if faults::is_off(faults::Guard::Cursor) {
            let at = self.cursor.load(Ordering::Relaxed);
            self.cursor.store(at + want, Ordering::Relaxed);
            return at;
        }
        self.cursor.fetch_add(want, Ordering::Relaxed)
    }

    #[inline]
    fn taken(&self, at: u64, want: u64) -> Option<Taken> {
        if at >= self.end {
            return None;
        }
        let end = self.end.min(at + want);
        Some(Taken { ids: Block { start: at, end }, refill_due: at <= self.mark && self.mark < end })
    }

    /// Closes the segment for ever and returns what was not handed out. A second call gets `None`.
    pub fn seal(&self) -> Option<Block> {
        let tail = Block::new(self.cursor.swap(self.end, Ordering::Relaxed), self.end)?;
        self.withdrawn.store(tail.len(), Ordering::Relaxed);
        Some(tail)
    }

    /// How many ids its block has; 0 only for [`closed`](Self::closed).
    pub fn size(&self) -> u64 {
        self.end - self.start
    }

    /// How many ids were handed out, at some moment during the call; while it is being sealed, the tail may count for a moment.
    pub fn handed_out(&self) -> u64 {
        self.size() - self.remaining() - self.withdrawn.load(Ordering::Relaxed)
    }

    /// The end (exclusive) of what was handed out; `None` if nothing was.
    pub fn handed_to(&self) -> Option<u64> {
        let handed_out = self.handed_out();
        (handed_out > 0).then_some(self.start + handed_out)
    }

    /// How many ids are left, at some moment during the call.
    pub fn remaining(&self) -> u64 {
        self.end.saturating_sub(self.cursor.load(Ordering::Relaxed))
    }

    /// Whether the id at the threshold mark is taken.
    pub fn is_past_mark(&self) -> bool {
        self.cursor.load(Ordering::Relaxed) > self.mark || self.size() == 0
    }
}

#[cfg(all(test, not(seqsvr_loom)))]
mod tests {
    use super::*;

    fn segment(start: u64, end: u64) -> Segment {
        Segment::new(Block::new(start, end).unwrap(), 0.5)
    }

    #[test]
    fn a_block_is_never_empty_nor_past_the_limit() {
        assert_eq!(MAX_END, 9_223_372_036_854_775_807);
        assert_eq!(format!("{:?}", Block::new(5, 7).unwrap()), "[5, 7)");
        assert_eq!(Block::new(5, 5), None);
        assert_eq!(Block::new(6, 5), None);
        assert_eq!(Block::new(5, MAX_END + 1), None);
        assert_eq!(Block::new(5, MAX_END).map(Block::last), Some(MAX_END - 1));
        let mut blocks = Vec::new();
        for (start, end) in [(1, 3), (3, 4), (5, 6)] {
            push_joined(&mut blocks, Block::new(start, end).unwrap());
        }
        assert_eq!(blocks, [Block::new(1, 4).unwrap(), Block::new(5, 6).unwrap()]);
    }

    #[test]
    fn hands_out_each_id_once_and_then_closes() {
        let segment = segment(7, 10);
        let ids: Vec<u64> = std::iter::from_fn(|| segment.take_one()).map(|t| t.ids.start()).collect();
        assert_eq!(ids, [7, 8, 9]);
        assert_eq!(segment.take(1), None);
        assert_eq!(segment.remaining(), 0);
    }

    #[test]
    fn a_batch_gets_what_is_left() {
        let segment = segment(7, 10);
        assert_eq!(segment.take(2).unwrap().ids, Block::new(7, 9).unwrap());
        assert_eq!(segment.take(5).unwrap().ids, Block::new(9, 10).unwrap());
        assert_eq!(segment.take(5), None);
    }

    #[test]
    fn the_mark_fires_once_whatever_takes_it() {
        for threshold in [0.0, 0.3, 0.5, 0.99, 1.0] {
            for size in 1..20 {
                for batch in 1..7 {
                    let segment = Segment::new(Block::new(100, 100 + size).unwrap(), threshold);
                    let due = std::iter::from_fn(|| segment.take(batch)).filter(|t| t.refill_due).count();
                    assert_eq!(due, 1, "threshold {threshold}, size {size}, batch {batch}");
                    assert!(segment.is_past_mark());
                }
            }
        }
    }

    #[test]
    fn tells_how_far_it_is() {
        let facts = |segment: &Segment| (segment.handed_out(), segment.handed_to(), segment.remaining());
        let segment = segment(10, 14);
        for (handed_to, facts_then, is_past_mark) in [
            (10, (0, None, 4), false),
            (11, (1, Some(11), 3), false),
            (12, (2, Some(12), 2), false),
            (13, (3, Some(13), 1), true),
            (14, (4, Some(14), 0), true),
        ] {
            assert_eq!((facts(&segment), segment.is_past_mark()), (facts_then, is_past_mark), "{handed_to}");
            segment.take_one();
        }
        assert_eq!((facts(&segment), segment.size()), ((4, Some(14), 0), 4), "one add too many");
        let closed = Segment::closed();
        assert_eq!((facts(&closed), closed.size()), ((0, None, 0), 0));
        assert!(closed.is_past_mark());
    }

    #[test]
    fn a_closed_segment_does_not_wrap_at_the_limit() {
        let segment = segment(MAX_END - 2, MAX_END);
        assert_eq!(segment.take(1 << 32).unwrap().ids.len(), 2);
        for _ in 0..10 {
            assert_eq!(segment.take_one(), None);
            assert_eq!(segment.take(1 << 32), None);
        }
    }

    #[test]
    fn sealing_returns_the_tail_once() {
        let fresh = segment(7, 10);
        fresh.take_one();
        assert_eq!(fresh.seal(), Block::new(8, 10));
        assert_eq!((fresh.handed_out(), fresh.handed_to(), fresh.remaining()), (1, Some(8), 0));
        assert_eq!(fresh.seal(), None);
        assert_eq!(fresh.take_one(), None);
        let used = segment(7, 8);
        used.take_one();
        used.take_one();
        assert_eq!(used.seal(), None);
    }
}
