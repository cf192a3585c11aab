//! What a node holds of one sequence: the current segment, and the ready blocks behind it.
//!
//! All of it is one immutable `Held` behind one pointer. Promotion (the first ready block becomes the current
//! segment), append and seal are each one compare-and-swap of that pointer; a loser loads it again. A queue beside the
//! pointer was modelled too and let one thread get 20 and then 11.
//!
//! What always holds:
//! - Blocks are appended in rising order only, and a segment is replaced only once it is closed. So ids rise across a
//!   promotion, and a stale pointer is harmless: its segment hands out nothing more.
//! - *ready* has at most [`MAX_READY`] blocks, so that copying it stays cheap.
//! - Once sealed, nothing is appended and nothing handed out.

use crate::segment::{Block, Segment, Taken, push_joined};
use crate::sync::{self, Arc, Loaded, Notify, Swap};

/// The most blocks that *ready* has, once adjacent ones are merged: 64 x 16 bytes are copied at each swap.
pub const MAX_READY: usize = 64;

/// Why a take got nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dry {
    /// All that was leased is handed out; more may come.
    Empty,
    /// All that was leased is handed out, and the store has no more.
    Exhausted,
    /// The sequence was deleted.
    Gone,
    /// The node is shutting down.
    Sealed,
}

/// Why a block was not appended. Its ids are a gap then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// *ready* has [`MAX_READY`] blocks.
    Full,
    /// The block begins below the end of what is held.
    OutOfOrder,
    /// The node is shutting down.
    Sealed,
}

/// Whether more blocks can come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Supply {
    /// They can.
    Open,
    /// The store has no more.
    Exhausted,
    /// The sequence was deleted.
    Gone,
    /// The node is shutting down; for ever.
    Sealed,
}

impl Supply {
    /// What a take is told that gets nothing.
    fn when_dry(self) -> Dry {
        match self {
            Self::Open => Dry::Empty,
            Self::Exhausted => Dry::Exhausted,
            Self::Gone => Dry::Gone,
            Self::Sealed => Dry::Sealed,
        }
    }
}

/// The immutable value behind the pointer.
#[derive(Debug)]
struct Held {
    current: Arc<Segment>,
    ready: Vec<Block>,
    /// The end (exclusive) of what was ever appended.
    end: u64,
    /// How many ids the segments before `current` handed out.
    retired: u64,
    /// The end (exclusive) of what they handed out.
    retired_to: u64,
    supply: Supply,
}

/// What is held, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// How many ids were handed out since the start.
    pub handed_out: u64,
    /// How many ids the current segment has left.
    pub current_ids: u64,
    /// How many ids wait behind it.
    pub ready_ids: u64,
    /// In how many blocks they are; at most [`MAX_READY`].
    pub ready_blocks: usize,
    /// How many ids the current segment had at first; 0 before the first one.
    pub current_size: u64,
    /// Whether the current segment's threshold mark is passed.
    pub is_past_mark: bool,
}

impl Snapshot {
    /// How many ids are in memory.
    pub fn held(&self) -> u64 {
        self.current_ids + self.ready_ids
    }
}

/// What a worker saw last behind a buffer's pointer; it keeps one segment and its ready blocks alive.
#[derive(Debug)]
pub struct Cached(sync::Cached<Held>);

/// The ids that a node holds of one sequence, shared by all workers.
#[derive(Debug)]
pub struct Buffer {
    held: Swap<Held>,
    /// Wakes all who wait, after each change that could end their waiting.
    changed: Notify,
    threshold: f64,
}

impl Buffer {
    /// An empty buffer whose segments call for a refill when `threshold` (a fraction, 0 to 1) of them is used.
    pub fn new(threshold: f64) -> Self {
        let held = Held {
            current: Arc::new(Segment::closed()),
            ready: Vec::new(),
            end: 0,
            retired: 0,
            retired_to: 0,
            supply: Supply::Open,
        };
        Self { held: Swap::new(held), changed: Notify::new(), threshold }
    }

    /// A worker's own way to it.
    pub fn cached(&self) -> Cached {
        Cached(self.held.cached())
    }

    /// Takes one id, by what the worker has `cached` of this buffer: the hot path, a comparison of two pointers and an add
    /// on the cursor. A pointer of before is as good: its segment is closed, or sealed, or the current one still.
    #[inline]
    pub fn take_one_by(&self, cached: &mut Cached) -> Result<Taken, Dry> {
        match cached.0.load().current.take_one() {
            Some(taken) => Ok(taken),
            None => self.take(1),
        }
    }

    /// Takes one id: a load of the pointer and an add on the cursor.
    #[inline]
    pub fn take_one(&self) -> Result<Taken, Dry> {
        let held = self.held.load();
        match held.current.take_one() {
            Some(taken) => Ok(taken),
            None => self.promote_and_take(held, 1),
        }
    }

    /// Takes up to `want` ids of one block, at least one.
    pub fn take(&self, want: u64) -> Result<Taken, Dry> {
        let held = self.held.load();
        match held.current.take(want) {
            Some(taken) => Ok(taken),
            None => self.promote_and_take(held, want),
        }
    }

    /// Waits until `want` ids are in memory, and takes as many of them as the first block has. If they never come, nothing is
    /// taken, and others get what there is. The caller bounds the wait; dropping the future loses nothing.
    pub async fn take_or_wait(&self, want: u64) -> Result<Taken, Dry> {
        loop {
            // Registered first, then looked: a change between the two is not missed.
            let changed = self.changed.notified();
            if want == 1 || self.is_there(want) {
                match self.take(want) {
                    Err(Dry::Empty) => {}
                    other => return other,
                }
            } else {
                match self.when_dry() {
                    Dry::Empty => {}
                    for_good => return Err(for_good),
                }
            }
            changed.await;
        }
    }

    /// Whether `want` ids are in memory, or as many blocks as leave no room for more.
    fn is_there(&self, want: u64) -> bool {
        let snapshot = self.snapshot();
        snapshot.held() >= want || snapshot.ready_blocks > MAX_READY / 2
    }

    /// `held.current` is closed. Lock-free: each round that gets nothing means that another thread got on.
    #[cold]
    fn promote_and_take(&self, mut held: Loaded<Held>, want: u64) -> Result<Taken, Dry> {
        let mut promoted = false;
        loop {
            let Some((&first, rest)) = held.ready.split_first() else {
                return Err(held.supply.when_dry());
            };
            let next = Held {
                current: Arc::new(Segment::new(first, self.threshold)),
                ready: rest.to_vec(),
                end: held.end,
                retired: held.retired + held.current.handed_out(),
                retired_to: held.current.handed_to().unwrap_or(held.retired_to),
                supply: held.supply,
            };
            promoted |= self.held.replace(&held, next);
            held = self.held.load();
            if let Some(mut taken) = held.current.take(want) {
                taken.refill_due |= promoted;
                return Ok(taken);
            }
        }
    }

    /// Puts `block` behind what is held, and wakes all who wait. The store has committed it before.
    pub fn append(&self, block: Block) -> Result<(), Refused> {
        loop {
            let held = self.held.load();
            if held.supply == Supply::Sealed {
                return Err(Refused::Sealed);
            }
            if block.start() < held.end {
                return Err(Refused::OutOfOrder);
            }
            let mut ready = held.ready.clone();
            push_joined(&mut ready, block);
            if ready.len() > MAX_READY {
                return Err(Refused::Full);
            }
            let (current, end) = (held.current.clone(), block.end());
            let was: &Held = &held;
            let next = Held { current, ready, end, supply: Supply::Open, ..*was };
            if self.held.replace(&held, next) {
                self.changed.notify_waiters();
                return Ok(());
            }
        }
    }

    /// Says whether more blocks can come; an append says so too. Who waits is told at once. Sealed is for ever.
    pub fn set_supply(&self, supply: Supply) {
        loop {
            let held = self.held.load();
            if held.supply == supply || held.supply == Supply::Sealed {
                return;
            }
            let (current, ready) = (held.current.clone(), held.ready.clone());
            let was: &Held = &held;
            let next = Held { current, ready, supply, ..*was };
            if self.held.replace(&held, next) {
                self.changed.notify_waiters();
                return;
            }
        }
    }

    /// What a take would be told if nothing were left.
    pub fn when_dry(&self) -> Dry {
        self.held.load().supply.when_dry()
    }

    /// Ends the handing out, and returns what was not handed out, rising. A second call gets nothing.
    pub fn seal(&self) -> Vec<Block> {
        self.withdraw(|_| Supply::Sealed)
    }

    /// Takes everything out, and returns what was not handed out, rising. What is appended later is handed out.
    pub fn clear(&self) -> Vec<Block> {
        self.withdraw(|supply| supply)
    }

    fn withdraw(&self, then: impl Fn(Supply) -> Supply) -> Vec<Block> {
        loop {
            let held = self.held.load();
            if held.supply == Supply::Sealed {
                return Vec::new();
            }
            // The ready blocks first: from here on there is none to promote. Only then is the current segment sealed, or a
            // promotion could slip in between and hand out what is returned here.
            let (was, current): (&Held, _) = (&held, held.current.clone());
            let next = Held { current, ready: Vec::new(), supply: then(held.supply), ..*was };
            if self.held.replace(&held, next) {
                let tail = held.current.seal();
                self.changed.notify_waiters();
                return tail.into_iter().chain(held.ready.iter().copied()).collect();
            }
        }
    }

    /// The end (exclusive) of what was handed out; 0 if nothing was.
    pub fn handed_to(&self) -> u64 {
        let held = self.held.load();
        held.current.handed_to().unwrap_or(held.retired_to)
    }

    /// What is held now.
    pub fn snapshot(&self) -> Snapshot {
        let held = self.held.load();
        let current_ids = held.current.remaining();
        Snapshot {
            handed_out: held.retired + held.current.handed_out(),
            current_ids,
            ready_ids: held.ready.iter().map(|block| block.len()).sum(),
            ready_blocks: held.ready.len(),
            current_size: held.current.size(),
            is_past_mark: held.current.is_past_mark(),
        }
    }
}

#[cfg(all(test, seqsvr_loom))]
mod model;
#[cfg(all(test, not(seqsvr_loom)))]
mod tests;
