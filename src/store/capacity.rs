//! How much of each sequence's ids is leased, and how long the rest lasts: pure, for every store.

use std::fmt::Write;
use std::time::Duration;

use super::counter::{Present, Row};
use super::finding::{Finding, some_of};
use super::guard::{FENCE_ALL, REGRESSED};

/// A sequence's counter, read twice.
#[derive(Clone, Debug)]
pub(super) struct Counter {
    pub(super) name: String,
    /// The first id that no lease covers, at the first look and at the second.
    pub(super) before: u64,
    pub(super) next_id: u64,
    /// The largest id (inclusive).
    pub(super) max_id: u64,
    /// Between the two looks.
    pub(super) watched: Duration,
    /// Since it was made; `None` where that is not known.
    pub(super) age: Option<Duration>,
    /// Since what its age counts: `created_at`.
    pub(super) since: &'static str,
    /// The largest id of the column or the sequence can't be raised by this: what to do when it ends.
    pub(super) remedy: String,
}

/// From here on it is time to do something.
const WARN_USED: f64 = 0.8;
const WARN_LASTS: Duration = Duration::from_secs(30 * DAY);

/// An average over less says nothing: the first id may be anywhere.
const LEAST_AGE: Duration = Duration::from_secs(DAY);

/// So many sequences have a row of their own, the worst ones.
const MOST_ROWS: usize = 20;

const DAY: u64 = 86_400;

impl Counter {
    fn used(&self) -> f64 {
        Row::capacity_used(self.next_id, self.max_id)
    }

    /// Ids a second, and of what time that is.
    fn rate(&self) -> Option<(f64, String)> {
        let share = |ids: u64, time: Duration| {
            #[allow(clippy::cast_precision_loss)]
            let rate = ids as f64 / time.as_secs_f64().max(0.001);
            (ids > 0).then_some(rate)
        };
        let sampled = share(self.next_id.saturating_sub(self.before), self.watched);
        let sampled = sampled.map(|rate| (rate, format!("the rate of the last {:.1} s", self.watched.as_secs_f64())));
        sampled.or_else(|| {
            let age = self.age.filter(|age| *age >= LEAST_AGE)?;
            Some((share(self.next_id.saturating_sub(1), age)?, format!("the average since {}", self.since)))
        })
    }

    fn lasts(&self) -> Option<(Duration, String)> {
        let (rate, of) = self.rate()?;
        #[allow(clippy::cast_precision_loss)]
        let left = self.max_id.saturating_add(1).saturating_sub(self.next_id) as f64;
        Some((Duration::try_from_secs_f64(left / rate).unwrap_or(Duration::MAX), of))
    }

    fn is_used_up(&self) -> bool {
        self.next_id > self.max_id
    }

    /// Its row; ok, if `lasts` is far away.
    fn finding(&self) -> Finding {
        let what = format!("capacity of {}", self.name);
        let mut found = format!("{:.1} % of {} used", self.used() * 100.0, self.max_id);
        let lasts = self.lasts();
        match &lasts {
            Some((time, of)) => {
                let _ = write!(found, ", the rest lasts {} at {of}", in_words(*time));
            }
            None => found += ", not in use now",
        }
        if self.is_used_up() {
            Finding::fail(&what, found, self.remedy.clone())
        } else if self.used() >= WARN_USED || lasts.is_some_and(|(time, _)| time < WARN_LASTS) {
            Finding::warn(&what, found, self.remedy.clone())
        } else {
            Finding::ok(&what, found)
        }
    }
}

/// The rows of `counters`, which is how many there are: all of a few, of many the worst ones.
pub(super) fn judge(mut counters: Vec<Counter>) -> Vec<Finding> {
    counters.sort_by(|a, b| {
        let time = |counter: &Counter| counter.lasts().map_or(Duration::MAX, |(time, _)| time);
        b.is_used_up().cmp(&a.is_used_up()).then(time(a).cmp(&time(b))).then(b.used().total_cmp(&a.used()))
    });
    let mut findings: Vec<Finding> = counters.iter().map(Counter::finding).collect();
    // The verdicts first: one that is nearly used up and idle must not be behind those in use.
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.verdict));
    if let Some(more @ 1..) = findings.len().checked_sub(MOST_ROWS) {
        let rest = findings.split_off(MOST_ROWS);
        let worst = rest.iter().map(|finding| finding.verdict).max().expect("there is one more");
        findings.push(Finding {
            what: "capacity of others".to_owned(),
            found: format!("{more} more sequences, none worse than these"),
            verdict: worst,
            advice: rest.into_iter().find_map(|finding| finding.advice),
        });
    }
    findings
}

/// A duration for who plans: one unit is enough.
fn in_words(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..120 => format!("{seconds} seconds"),
        120..7_200 => format!("{} minutes", seconds / 60),
        7_200..172_800 => format!("{} hours", seconds / 3_600),
        172_800..63_072_000 => format!("{} days", seconds / DAY),
        _ if seconds / (365 * DAY) > 1_000 => "over 1000 years".to_owned(),
        _ => format!("{} years", seconds / (365 * DAY)),
    }
}

/// What can be wrong with a counter before any lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fences {
    /// How many counters there are.
    pub(super) all: usize,
    /// Found to have gone back, or below what this node remembers.
    pub(super) regressed: Vec<String>,
    /// Not fenced since the database moved to another server.
    pub(super) not_fenced: Vec<String>,
}

impl Fences {
    /// Adds one counter. `server` and `epoch` are the row's; `mark` is the end of what this node has leased.
    pub(super) fn add(
        &mut self,
        name: &str,
        next_id: u64,
        (server, epoch): (&str, u32),
        present: Present<'_>,
        mark: u64,
    ) {
        self.all += 1;
        if server == REGRESSED || next_id < mark {
            self.regressed.push(name.to_owned());
        } else if epoch.max(1) != present.epoch || server != present.server {
            self.not_fenced.push(name.to_owned());
        }
    }

    pub(super) fn judge(&self) -> Finding {
        const WHAT: &str = "counters";
        const ADVICE: &str = "for each: seqsvr fence NAME --past ID --yes, with the highest ID that any node has LEASED: the \
                              largest metric seqsvr_high_water_mark_ids of all nodes (of one that is stopped or hangs, \
                              high_water_marks in data_dir/node.json)";
        let Self { all, regressed, not_fenced } = self;
        match (regressed.as_slice(), not_fenced.as_slice()) {
            ([], []) => Finding::ok(WHAT, format!("{all}, none went back, all fenced in the present epoch")),
            ([], others) => Finding::fail(
                WHAT,
                format!(
                    "{} of {all} were not fenced since the database moved to another server: {}",
                    others.len(),
                    some_of(others)
                ),
                format!("nothing is leased from them. {FENCE_ALL}. Or set mysql.failover_skip"),
            ),
            (back, []) => Finding::fail(WHAT, format!("{} of {all} went back: {}", back.len(), some_of(back)), ADVICE),
            (back, others) => Finding::fail(
                WHAT,
                format!(
                    "{} of {all} went back: {}; {} were not fenced since the database moved to another server: {}",
                    back.len(),
                    some_of(back),
                    others.len(),
                    some_of(others)
                ),
                ADVICE,
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    fn counter(before: u64, next_id: u64, max_id: u64, age_days: u64) -> Counter {
        Counter {
            name: "orders".into(),
            before,
            next_id,
            max_id,
            watched: Duration::from_secs(2),
            age: Some(Duration::from_secs(age_days * DAY)),
            since: "created_at",
            remedy: "raise it".into(),
        }
    }

    #[test]
    fn capacity_is_judged_by_what_is_used_and_by_how_long_the_rest_lasts() {
        let far = 9_007_199_254_740_991;
        for (counter, verdict, found) in [
            (counter(1, 1, far, 100), Verdict::Ok, "not in use now"),
            (counter(1, 201, far, 100), Verdict::Ok, "over 1000 years at the rate of the last 2.0 s"),
            (counter(801, 801, 1_000, 0), Verdict::Warn, "80.0 % of 1000 used, not in use now"),
            (counter(1_001, 1_001, 1_000, 0), Verdict::Fail, "100.0 % of 1000"),
            // 100 ids a second: 100 days of them, and 10.
            (counter(1, 201, 864_000_200, 100), Verdict::Ok, "100 days at the rate of"),
            (counter(1, 201, 86_400_200, 100), Verdict::Warn, "10 days at the rate of"),
            // Idle: 60 in 10 days leave 40.
            (counter(61, 61, 100, 10), Verdict::Warn, "6 days at the average since created_at"),
            // An average of an hour says nothing.
            (counter(61, 61, 100, 0), Verdict::Ok, "not in use now"),
        ] {
            let finding = counter.finding();
            assert_eq!(finding.verdict, verdict, "{finding:?}");
            assert!(finding.found.contains(found), "{finding:?}");
            assert_eq!(finding.advice.is_some(), verdict != Verdict::Ok, "{finding:?}");
        }
    }

    #[test]
    fn of_many_the_worst_are_shown() {
        let mut counters: Vec<Counter> = (0..100).map(|n| counter(1, 1 + n, 1 << 50, 1_000)).collect();
        counters.push(Counter { name: "full".into(), ..counter(11, 11, 10, 0) });
        counters.push(Counter { name: "nearly".into(), ..counter(10, 10, 10, 0) });
        let findings = judge(counters);
        assert_eq!(findings.len(), MOST_ROWS + 1);
        assert_eq!((findings[0].what.as_str(), findings[0].verdict), ("capacity of full", Verdict::Fail));
        assert_eq!((findings[1].what.as_str(), findings[1].verdict), ("capacity of nearly", Verdict::Warn));
        let last = &findings[MOST_ROWS];
        assert_eq!((last.found.as_str(), last.verdict), ("82 more sequences, none worse than these", Verdict::Ok));
        assert_eq!(judge((0..20).map(|_| counter(1, 1, 10, 0)).collect()).len(), 20, "no row of none");
    }

    #[test]
    fn counters_that_lease_nothing_are_counted_and_named() {
        let present = Present { server: "here s", epoch: 2 };
        let mut fences = Fences::default();
        fences.add("a", 10, ("here s", 2), present, 10);
        assert_eq!(fences.judge().verdict, Verdict::Ok);
        for n in 0..7 {
            fences.add(&format!("moved{n}"), 10, ("here s", 1), present, 0);
        }
        let moved = fences.judge();
        assert!(moved.found.starts_with("7 of 8 were not fenced since"), "{moved:?}");
        assert!(moved.found.ends_with("moved4 and 2 more") && moved.advice.unwrap().contains("failover_skip"));
        fences.add("copied", 10, ("here t", 2), present, 0);
        fences.add("b", 9, ("here s", 2), present, 10);
        fences.add("c", 10, (REGRESSED, 2), present, 0);
        let both = fences.judge();
        assert!(both.found.starts_with("2 of 11 went back: b, c; 8 were"), "{both:?}");
        assert_eq!(both.verdict, Verdict::Fail);
    }
}
