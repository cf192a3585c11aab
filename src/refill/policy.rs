//! When to lease, how much, and how long to pause after a failure: pure functions of facts, without a clock.

use std::num::NonZeroU64;
use std::time::Duration;

use crate::buffer::MAX_READY;
use crate::store::MAX_BLOCKS_PER_LEASE;

/// What the policy is told.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Ids in memory.
    pub held: u64,
    /// Blocks behind the current segment.
    pub ready_blocks: usize,
    /// Whether the current segment's threshold mark is passed.
    pub is_past_mark: bool,
    /// Ids handed out a second.
    pub rate: f64,
    /// Ids that waiting requests still want.
    pub wanted: u64,
    /// Whether the last lease failed.
    pub is_failing: bool,
    /// The least that is leased, in ids.
    pub step: u64,
    /// The most that the store lets be held, in ids.
    pub most_held: u64,
}

/// How much is held ready, and leased at a time.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// The most that is leased at once and held, in ids.
    pub max_block: u64,
    /// How long what is held should last.
    pub runway: Duration,
}

impl Policy {
    /// The most ids of a sequence that are held, where the store allows `most_held`; at least a step.
    pub fn max_held(&self, step: u64, most_held: u64) -> u64 {
        self.max_block.min(most_held).max(step)
    }

    /// How many ids to hold: what lasts for the runway at the rate of now, and for an eighth more, in which leasing may come
    /// back after it; a step when idle.
    pub fn target(&self, facts: &Facts) -> u64 {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // saturates, and is clamped
        let needed = (facts.rate * self.runway.as_secs_f64() * 1.125) as u64;
        needed.clamp(facts.step, self.max_held(facts.step, facts.most_held))
    }

    /// Whether so much goes out that looking once in a while is called for: more than a step in a runway.
    pub fn is_busy(&self, facts: &Facts) -> bool {
        self.target(facts) > facts.step
    }

    /// Whether what is held lasts for less than half of the runway.
    #[allow(clippy::cast_precision_loss)]
    pub fn is_short(&self, facts: &Facts) -> bool {
        self.is_busy(facts) && (facts.held as f64) < facts.rate * self.runway.as_secs_f64() / 2.0
    }

    /// How many ids to lease now; `None` for nothing.
    ///
    /// Four things ask: requests that wait for more than is held; a current segment past its threshold mark with nothing
    /// behind it; on a busy sequence, less than the target in memory; and a lease that failed, so that it shows when
    /// leasing works again. A busy sequence asks for an eighth more than the target, and at least a step, so that it does
    /// not ask again at the next id.
    pub fn want(&self, facts: &Facts) -> Option<NonZeroU64> {
        let target = self.target(facts);
        let has_room = facts.ready_blocks + MAX_BLOCKS_PER_LEASE <= MAX_READY;
        let is_second_due = facts.is_past_mark && facts.ready_blocks == 0;
        let is_runway_short = self.is_busy(facts) && facts.held < target;
        // What waits is woken by an append, but may not have run yet: then it is held, and still wanted.
        let is_too_little = facts.wanted > facts.held;
        if !has_room || !(is_too_little || is_second_due || is_runway_short || facts.is_failing) {
            return None;
        }
        let reserve = if is_runway_short { (target / 8).max(facts.step) } else { 0 };
        // A few are served out of the target; many come on top of it.
        let wanted = if facts.wanted > target / 2 { facts.wanted } else { 0 };
        let short = target.saturating_add(reserve).saturating_add(wanted).saturating_sub(facts.held);
        NonZeroU64::new(short.clamp(facts.step, self.max_block.max(facts.step)))
    }
}

/// What the refill remembers of a sequence from one look to the next.
#[derive(Debug, Default)]
pub struct Pace {
    /// How fast ids go out.
    pub rate: Rate,
    /// The pauses after failures.
    pub backoff: Backoff,
    /// The outcome of the failure that the last line of the log was about; `None` once that is over.
    pub reported: Option<&'static str>,
    /// When the last line of the log was that it fails, by the refill's clock; also once that is over.
    pub told_at: Option<Duration>,
    /// Since when the runway is short, by the refill's clock.
    pub short_since: Option<Duration>,
    /// That was told.
    pub is_short_told: bool,
    /// The incarnation of what is held.
    pub incarnation: u32,
}

/// A rate is measured over at least this long, so that it does not jump with every request ...
const CALM_WINDOW: Duration = Duration::from_secs(1);
/// ... but when requests wait, growing must not wait too: then over this, or longer.
const STARVED_WINDOW: Duration = Duration::from_millis(50);
/// A rate that is no longer reached halves in this time.
const HALF_LIFE: Duration = Duration::from_secs(10);

/// How many ids a second are handed out: rises at once, falls slowly.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rate {
    per_second: f64,
    seen: u64,
    at: Duration,
}

impl Rate {
    /// Takes in that `handed_out` ids went out in the time `at` since the start; both never fall. `is_starved` says
    /// that requests are waiting. The rate of now.
    #[allow(clippy::cast_precision_loss)]
    pub fn observe(&mut self, handed_out: u64, at: Duration, is_starved: bool) -> f64 {
        let passed = at.saturating_sub(self.at);
        if passed < CALM_WINDOW && !is_starved {
            return self.per_second;
        }
        let now = handed_out.saturating_sub(self.seen) as f64 / passed.max(STARVED_WINDOW).as_secs_f64();
        let before = self.per_second * 0.5_f64.powf(passed.as_secs_f64() / HALF_LIFE.as_secs_f64());
        // Below one id in a hundred seconds it is idle.
        let rate = now.max(before);
        *self = Self { per_second: if rate < 0.01 { 0.0 } else { rate }, seen: handed_out, at };
        self.per_second
    }
}

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// So many conflicts in a row are answered at once; then it backs off like any other failure.
const MOST_CONFLICTS: u32 = 10;
const LONGEST_CONFLICT_PAUSE: Duration = Duration::from_millis(20);

/// The pauses after failed leases.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backoff {
    failures: u32,
    conflicts: u32,
}

impl Backoff {
    /// The pause after one more failure: doubles from 50 ms to 2 s; after a conflict 1 to 20 ms, ten times. `jitter`
    /// (0 to 1) spreads the nodes: half of a pause is fixed, half is drawn.
    pub fn pause(&mut self, is_conflict: bool, jitter: f64) -> Duration {
        if is_conflict && self.conflicts < MOST_CONFLICTS {
            self.conflicts += 1;
            return LONGEST_CONFLICT_PAUSE.mul_f64(jitter).max(Duration::from_millis(1));
        }
        let full = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16)).min(LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        full.mul_f64(0.5 + 0.5 * jitter)
    }

    /// A lease worked.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // these results are exact
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POLICY: Policy = Policy { max_block: 10_000_000, runway: Duration::from_secs(60) };

    const IDLE: Facts = Facts {
        held: 100,
        ready_blocks: 0,
        is_past_mark: false,
        rate: 0.0,
        wanted: 0,
        is_failing: false,
        step: 100,
        most_held: u64::MAX,
    };

    fn want(facts: Facts) -> u64 {
        POLICY.want(&facts).map_or(0, NonZeroU64::get)
    }

    #[test]
    fn asks_for_what_is_needed() {
        for (why, facts, expected) in [
            ("nothing was leased yet", Facts { held: 0, is_past_mark: true, ..IDLE }, 100),
            ("idle, the mark not passed", IDLE, 0),
            ("idle, the mark passed", Facts { held: 50, is_past_mark: true, ..IDLE }, 100),
            ("idle, the second block is there", Facts { held: 150, ready_blocks: 1, is_past_mark: true, ..IDLE }, 0),
            ("idle, and some are left", Facts { held: 50, ..IDLE }, 0),
            ("busy, short of the runway", Facts { held: 1_500, rate: 1_000.0, ..IDLE }, 67_500 + 8_437 - 1_500),
            ("busy, the runway is there", Facts { held: 67_500, rate: 1_000.0, ..IDLE }, 0),
            ("hardly busy: a step at least", Facts { held: 120, rate: 2.0, ..IDLE }, 115),
            ("the store lets less be held", Facts { held: 0, rate: 1_000.0, most_held: 500, ..IDLE }, 600),
            ("a failure that may have passed", Facts { is_failing: true, ..IDLE }, 100),
            ("so busy that max_block bounds it", Facts { held: 0, rate: 1e9, ..IDLE }, 10_000_000),
            ("a request waits", Facts { held: 0, wanted: 1, ..IDLE }, 100),
            ("half of the target waits", Facts { held: 0, wanted: 50, ..IDLE }, 100),
            ("what waits is there", Facts { wanted: 100, ..IDLE }, 0),
            ("many wait", Facts { held: 0, wanted: 64, ..IDLE }, 164),
            ("a batch waits", Facts { held: 0, wanted: 5_000, ..IDLE }, 5_100),
            ("a batch is woken and has not run yet", Facts { held: 5_100, wanted: 5_000, ..IDLE }, 0),
            ("a batch larger than max_block waits", Facts { held: 0, wanted: 1 << 40, ..IDLE }, 10_000_000),
            ("just room for more blocks", Facts { held: 32, ready_blocks: 32, wanted: 33, ..IDLE }, 100),
            ("no room for more blocks", Facts { held: 33, ready_blocks: 33, wanted: 1, rate: 1e9, ..IDLE }, 0),
        ] {
            assert_eq!(want(facts), expected, "{why}");
        }
    }

    #[test]
    fn a_step_above_max_block_is_still_a_step() {
        let policy = Policy { max_block: 100, ..POLICY };
        let facts = Facts { held: 0, is_past_mark: true, step: 500, ..IDLE };
        assert_eq!(policy.want(&facts).map(NonZeroU64::get), Some(500));
        assert_eq!(policy.max_held(500, 7), 500);
    }

    #[test]
    fn a_runway_is_short_below_half_of_it() {
        let facts = Facts { rate: 1_000.0, ..IDLE };
        assert!(POLICY.is_short(&Facts { held: 29_999, ..facts }));
        assert!(!POLICY.is_short(&Facts { held: 30_000, ..facts }));
        assert!(!POLICY.is_short(&Facts { held: 0, ..IDLE }), "nobody asks");
        assert!(POLICY.is_busy(&facts) && !POLICY.is_busy(&IDLE));
    }

    proptest! {
        /// Whatever the facts: what is asked for lies between step and `max_block`, and once it is there, nothing more
        /// is asked for. So the refill can't spin.
        #[test]
        fn what_is_leased_is_enough(
            held in 0..20_000_000u64, rate in 0.0..1e9f64, is_past_mark: bool, ready_blocks in 0..=MAX_READY,
        ) {
            let facts = Facts { held, ready_blocks, is_past_mark, rate, ..IDLE };
            if let Some(want) = POLICY.want(&facts) {
                prop_assert!((IDLE.step..=POLICY.max_block).contains(&want.get()));
                let after = Facts { held: held + want.get(), ready_blocks: ready_blocks + 1, ..facts };
                prop_assert_eq!(POLICY.want(&after), None);
            }
        }
    }

    #[test]
    fn the_rate_rises_at_once_and_falls_slowly() {
        let (mut rate, second) = (Rate::default(), Duration::from_secs(1));
        assert_eq!(rate.observe(0, second, false), 0.0);
        assert_eq!(rate.observe(1_000, second * 2, false), 1_000.0);
        assert_eq!(rate.observe(9_000, second * 2 + second / 2, false), 1_000.0, "half a second is too short");
        assert_eq!(rate.observe(9_000, second * 4, false), 4_000.0);
        let later = rate.observe(9_000, second * 14, false);
        assert!((1_999.0..2_001.0).contains(&later), "halved after ten seconds: {later}");
        assert_eq!(rate.observe(9_000, second * 1_000, false), 0.0);
        assert_eq!(Rate::default().observe(1, second * 100, false), 0.01, "not idle yet");
    }

    #[test]
    fn the_rate_of_a_starved_sequence_is_measured_at_once() {
        let mut rate = Rate::default();
        assert_eq!(rate.observe(100, Duration::from_millis(1), true), 2_000.0);
        assert_eq!(rate.observe(1_100, Duration::from_millis(101), true), 10_000.0);
    }

    #[test]
    fn pauses_double_up_to_two_seconds_and_conflicts_are_short() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u128> = (0..8).map(|_| backoff.pause(false, 1.0).as_millis()).collect();
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(backoff.pause(false, 0.0), Duration::from_secs(1));
        backoff.reset();
        for _ in 0..10 {
            assert!(backoff.pause(true, 1.0) <= Duration::from_millis(20));
        }
        assert_eq!(backoff.pause(true, 1.0), FIRST_PAUSE);
        assert!(Backoff::default().pause(true, 0.0) >= Duration::from_millis(1), "never a busy loop");
    }
}
