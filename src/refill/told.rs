//! What the log is told of the refill: that leasing fails, or works again, and that a runway is short. Few lines, whatever
//! happens.

use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use super::policy::Facts;
use super::{CONFLICT_PATIENCE, Refill, pace};
use crate::sequence::Sequence;
use crate::store::ErrorKind;

/// So many sequences have lines of their own in the log while they fail.
const MOST_TOLD: usize = 20;

/// That leasing of a sequence fails is told at most once in this time: a store that comes and goes would fill the log.
const TOLD_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// A runway that is short for longer than this is told: growing takes a second or two.
const SHORT_PATIENCE: Duration = Duration::from_secs(10);

/// What the log was told of failures, to keep it short.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Sequences that fail and had a line of their own.
    sequences: usize,
    /// That there are more.
    is_rest: bool,
}

impl Refill {
    /// One line when it begins to fail, and one when it fails in another way; not each time where that goes to and fro.
    /// Where many sequences fail, it is the store: then not each has lines of its own.
    pub(super) fn report(&self, sequence: &Sequence, what: &str, kind: Option<ErrorKind>) {
        let failing_for = sequence.fail(what, kind);
        let is_passing = kind.is_some_and(ErrorKind::is_passing) && failing_for < CONFLICT_PATIENCE;
        // Misconfigured from the start on ends the process, which says so itself.
        let is_final = kind.is_some_and(ErrorKind::is_misconfigured)
            && sequence.name().is_default()
            && !sequence.health().has_leased;
        let outcome = kind.map_or("panic", ErrorKind::outcome);
        let now = self.started.elapsed();
        let mut pace = pace(sequence);
        let is_told = pace.told_at.is_some_and(|at| now.saturating_sub(at) < TOLD_AGAIN_AFTER);
        if is_passing || is_final || is_told || pace.reported == Some(outcome) {
            return;
        }
        if pace.reported.is_none() {
            let mut told = self.told();
            if told.sequences == MOST_TOLD {
                if !std::mem::replace(&mut told.is_rest, true) {
                    tracing::error!(
                        "leasing of more than {MOST_TOLD} sequences fails: the others are not told one by one"
                    );
                }
                return;
            }
            told.sequences += 1;
        }
        pace.reported = Some(outcome);
        pace.told_at = Some(now);
        tracing::error!("leasing of sequence {} fails, and is tried again: {what}", sequence.name());
    }

    pub(super) fn recovered(&self, sequence: &Sequence) {
        let since = sequence.health().failure.as_ref().map(|failure| failure.since);
        if self.is_told_no_more(sequence)
            && let Some(since) = since
        {
            let seconds = since.elapsed().as_secs_f64();
            tracing::info!("leasing of sequence {} works again, after {seconds:.1} s", sequence.name());
        }
    }

    /// Whether the failure of the sequence was told; that is over.
    pub(super) fn is_told_no_more(&self, sequence: &Sequence) -> bool {
        if pace(sequence).reported.take().is_none() {
            return false;
        }
        let mut told = self.told();
        told.sequences -= 1;
        told.is_rest &= told.sequences > 0;
        true
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One line when the runway is short for a while, and one when it is there again; of those sequences that have metrics of
    /// their own.
    pub(super) fn tell_of_runway(&self, sequence: &Sequence, facts: &Facts) {
        if **sequence.label() != *sequence.name().as_str() {
            return;
        }
        let now = self.started.elapsed();
        let mut pace = pace(sequence);
        if !self.policy.is_short(facts) {
            pace.short_since = None;
            if std::mem::take(&mut pace.is_short_told) {
                tracing::info!(
                    "the runway of sequence {} is there again: {} ids are held",
                    sequence.name(),
                    facts.held
                );
            }
            return;
        }
        let since = *pace.short_since.get_or_insert(now);
        if now.saturating_sub(since) >= SHORT_PATIENCE && !std::mem::replace(&mut pace.is_short_told, true) {
            let wanted = self.policy.runway.as_secs_f64();
            #[allow(clippy::cast_precision_loss)]
            let runway = facts.held as f64 / facts.rate;
            let most = self.policy.max_held(facts.step, facts.most_held);
            let why = if facts.is_failing {
                "leasing fails".to_owned()
            } else {
                format!(
                    "at {:.0} ids a second, {most} is the most that is held (refill.max_block, or the step)",
                    facts.rate
                )
            };
            tracing::warn!(
                "the runway of sequence {} is short: {} ids last {runway:.0} s of {wanted:.0} s without the store: {why}",
                sequence.name(),
                facts.held
            );
        }
    }
}
