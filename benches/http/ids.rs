//! All ids that a server has answered over its life, and how many of them twice.
//!
//! Ids are dense, whoever asked for them: sorted and joined, those of a round are a few ranges. Only what a thread was
//! answered in one round is kept singly, for that long, and no thread keeps more than [`MOST_PIECES`].

use std::ops::Range;

/// 64 MiB of them. Beyond, a thread sorts and joins while it measures, which takes it some tenths of a second: no round
/// here comes near.
pub const MOST_PIECES: usize = 4 << 20;

/// Disjoint half-open ranges in their order; those that touch are one.
#[derive(Debug, Default)]
pub struct Seen {
    ranges: Vec<Range<u64>>,
    repeats: u64,
    first_repeat: Option<u64>,
}

impl Seen {
    /// Takes in what was answered, in any order.
    pub fn add(&mut self, mut pieces: Vec<Range<u64>>) {
        pieces.append(&mut self.ranges);
        pieces.sort_unstable_by_key(|piece| piece.start);
        let mut joined: Vec<Range<u64>> = Vec::new();
        for piece in pieces {
            match joined.last_mut() {
                Some(last) if piece.start < last.end => {
                    self.repeats += piece.end.min(last.end) - piece.start;
                    self.first_repeat.get_or_insert(piece.start);
                    last.end = last.end.max(piece.end);
                }
                Some(last) if piece.start == last.end => last.end = piece.end,
                _ => joined.push(piece),
            }
        }
        self.ranges = joined;
    }

    /// What another one has seen of the same server.
    pub fn merge(&mut self, other: Self) {
        self.repeats += other.repeats;
        self.first_repeat = self.first_repeat.or(other.first_repeat);
        self.add(other.ranges);
    }

    /// How many different ids there were.
    pub fn count(&self) -> u64 {
        self.ranges.iter().map(|range| range.end - range.start).sum()
    }

    /// How many ids were answered again, counted each time, and the first of them.
    pub fn repeats(&self) -> (u64, Option<u64>) {
        (self.repeats, self.first_repeat)
    }
}
