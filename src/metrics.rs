//! All metrics and their help texts.
//!
//! What always holds: the hot path writes none of them but one counter of its own worker ([`ResponseCounts`]). What was
//! handed out and what is held is read from the cursors when somebody scrapes.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::core::Collector;
use prometheus::{
    Encoder, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::name::SequenceName;

mod responses;
use responses::STATUSES;
pub use responses::{ResponseCounts, Route};

/// From half a millisecond, a local database's commit, to the time-outs of a lease's statements. Waits are for leases.
const LEASE_SECONDS: [f64; 13] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// The values of the label `outcome` of a lease: `ok`, `panic`, and what `store::ErrorKind::outcome` says.
const OUTCOMES: [&str; 17] = [
    "ok",
    "conflict",
    "unavailable",
    "misconfigured",
    "regressed",
    "not_fenced",
    "moved",
    "fenced",
    "stray",
    "two_writers",
    "other_step",
    "other_store",
    "not_durable",
    "migrating",
    "exhausted",
    "stale",
    "panic",
];

/// The most sequences with a label of their own; the others are summed up as `(others)`.
pub const MOST_LABELS: usize = 100;

/// The label of those without one of their own. No sequence can be called so.
const OTHERS: &str = "(others)";

/// A sequence's value of the label `sequence`.
pub type Label = Arc<str>;

/// A sequence as a scrape finds it.
#[derive(Clone, Debug)]
pub struct SequenceSample {
    /// What it is counted under.
    pub label: Label,
    /// Ids handed out since the start.
    pub handed_out: u64,
    /// Ids in memory.
    pub held: u64,
    /// Seconds that they last at the rate of now.
    pub runway_seconds: f64,
    /// Ids in the current segment, when it became the current one.
    pub block_size: u64,
    /// Requests that wait for ids.
    pub waiters: u64,
    /// How much of the ids that the sequence can ever have is leased, 0 to 1.
    pub capacity_used: f64,
    /// The largest block end leased (exclusive), also before a restart.
    pub high_water_mark: u64,
}

/// The metrics of a process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    leases: IntCounterVec,
    lease_seconds: HistogramVec,
    wait_seconds: HistogramVec,
    last_lease: GaugeVec,
    leased_ids: IntCounterVec,
    lost_ids: IntCounterVec,
    look_ups: IntCounterVec,
    is_ready: IntGauge,
    connections: IntGauge,
    max_connections: IntGauge,
    refused_connections: IntCounter,
    malformed: IntCounterVec,
    labels: Mutex<Labels>,
    scraped: Mutex<Scraped>,
}

/// The labels that were given out.
#[derive(Debug)]
struct Labels {
    own: usize,
    others: Label,
}

/// What is filled in at a scrape; locked, so that two scrapes don't mix.
#[derive(Debug)]
struct Scraped {
    ids: IntCounterVec,
    held: IntGaugeVec,
    runway: GaugeVec,
    block_size: IntGaugeVec,
    waiters: IntGaugeVec,
    capacity_used: GaugeVec,
    high_water_mark: IntGaugeVec,
    responses: IntCounterVec,
    workers: Vec<Arc<ResponseCounts>>,
}

impl Metrics {
    /// Registers all metrics, those of the process among them.
    ///
    /// # Panics
    /// If a name or label below is not allowed or used twice: any test that makes one finds that.
    #[allow(clippy::too_many_lines)] // a list
    pub fn new() -> Self {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let vec = IntCounterVec::new(Opts::new(name, help), labels).expect("the name and labels are allowed");
            register(&registry, vec)
        };
        let gauges = |name: &str, help: &str| {
            let vec = GaugeVec::new(Opts::new(name, help), &["sequence"]).expect("the name and label are allowed");
            register(&registry, vec)
        };
        let int_gauges = |name: &str, help: &str, labels: &[&str]| {
            let vec = IntGaugeVec::new(Opts::new(name, help), labels).expect("the name and labels are allowed");
            register(&registry, vec)
        };
        int_gauges("seqsvr_build_info", "Always 1; the labels say which build runs.", &["version", "commit", "date"])
            .with_label_values(&[env!("CARGO_PKG_VERSION"), env!("BUILD_COMMIT"), env!("BUILD_DATE")])
            .set(1);
        let histograms = |name: &str, help: &str| {
            let options = HistogramOpts::new(name, help).buckets(LEASE_SECONDS.to_vec());
            let vec = HistogramVec::new(options, &["sequence"]).expect("the name and label are allowed");
            register(&registry, vec)
        };
        let look_ups = counters(
            "seqsvr_lookups_total",
            "Names of sequences that the store was asked for, by outcome: found, unknown, failed.",
            &["outcome"],
        );
        for outcome in ["found", "unknown", "failed"] {
            look_ups.with_label_values(&[outcome]);
        }
        let malformed = counters(
            "seqsvr_http_malformed_total",
            "What came to the port and is no HTTP/1.x request, by kind: tls, http2, too_long (headers), other.",
            &["kind"],
        );
        for kind in ["tls", "http2", "too_long", "other"] {
            malformed.with_label_values(&[kind]);
        }
        let refused_connections = counters(
            "seqsvr_http_connections_refused_total",
            "Connections that were closed because limits.connections were open, with a 503 or without an answer.",
            &[],
        )
        .with_label_values(&[] as &[&str]);
        #[cfg(target_os = "linux")]
        registry
            .register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))
            .expect("no name is used twice");
        Self {
            leases: counters(
                "seqsvr_leases_total",
                "Leases by outcome: ok; conflict (lost against another transaction, tried again at once); unavailable \
                 (database away, slow or read-only); misconfigured (a person must change something); regressed (the \
                 store's counter may have gone back: nothing is leased); not_fenced (another server has the database, and the \
                 counter was not fenced since: nothing is leased); fenced (the same, but moved past what a failover may have lost, \
                 and tried again at once); moved (the server or its cluster's members changed, tried again at once); stray (the \
                 server is outside of the cluster that the database belongs to: the next host is tried); two_writers (two of the \
                 database's hosts take writes: nothing is leased); other_step, other_store, not_durable (refused: see docs/guarantees.md); migrating (the tickets \
                 are moved just now); exhausted; stale (the sequence was changed in between, and is looked up again); \
                 panic.",
                &["sequence", "outcome"],
            ),
            lease_seconds: histograms(
                "seqsvr_lease_duration_seconds",
                "How long a lease took, from asking for a connection to the last reply, successful or not.",
            ),
            wait_seconds: histograms(
                "seqsvr_wait_duration_seconds",
                "How long a request waited that found too few ids in memory, answered in the end or not. The others wait for \
                 nothing and are not counted.",
            ),
            last_lease: gauges(
                "seqsvr_last_lease_timestamp_seconds",
                "When the last lease succeeded, in seconds since 1970 by this machine's clock.",
            ),
            leased_ids: counters(
                "seqsvr_ids_leased_total",
                "Ids that were leased from the store, handed out or not.",
                &["sequence"],
            ),
            lost_ids: counters(
                "seqsvr_ids_lost_total",
                "Leased ids that will never be handed out, by reason: batch_timeout (the first part of a batch whose \
                 rest did not come in time, or whose client left), shutdown, discarded (not fit to be appended), advanced \
                 and deleted (held when the sequence was).",
                &["sequence", "reason"],
            ),
            look_ups,
            labels: Mutex::new(Labels { own: 0, others: OTHERS.into() }),
            is_ready: int_gauges("seqsvr_ready", "1 while /readyz says ready, 0 while it does not.", &[])
                .with_label_values(&[] as &[&str]),
            connections: int_gauges("seqsvr_http_connections", "HTTP connections that are open.", &[])
                .with_label_values(&[] as &[&str]),
            max_connections: int_gauges(
                "seqsvr_http_connections_max",
                "How many HTTP connections are served at once: limits.connections, or fewer where the limit of open files is \
                 too low for them.",
                &[],
            )
            .with_label_values(&[] as &[&str]),
            refused_connections,
            malformed,
            scraped: Mutex::new(Scraped {
                ids: counters("seqsvr_ids_total", "Ids handed out, from the cursors.", &["sequence"]),
                held: int_gauges("seqsvr_ids_held", "Ids in memory, leased and not handed out.", &["sequence"]),
                runway: gauges(
                    "seqsvr_runway_seconds",
                    "How long the ids in memory last at the rate of now, without the database; 86400 (a day) stands for \
                     anything longer, 0 for no ids.",
                ),
                block_size: int_gauges(
                    "seqsvr_block_size_ids",
                    "Ids in the segment that is being handed out, when it became the current one.",
                    &["sequence"],
                ),
                waiters: int_gauges("seqsvr_waiters", "Requests that wait for ids just now.", &["sequence"]),
                capacity_used: gauges(
                    "seqsvr_capacity_used_ratio",
                    "How much of the ids that the sequence can ever have is leased (0 to 1); on generator_table the \
                     auto-increment column is what ends.",
                ),
                high_water_mark: int_gauges(
                    "seqsvr_high_water_mark_ids",
                    "Every id that this node has leased, also before a restart, is below this. After a restore or a \
                     failover the store's counter must be past the largest one of all nodes.",
                    &["sequence"],
                ),
                responses: counters(
                    "seqsvr_http_responses_total",
                    "HTTP responses by route and status.",
                    &["route", "status"],
                ),
                workers: Vec::new(),
            }),
            registry,
        }
    }

    /// The label of one more sequence. Its series appear at 0, so that the first increase is seen as one.
    pub fn label(&self, name: &SequenceName) -> Label {
        let label = {
            let mut labels = self.labels.lock().unwrap_or_else(PoisonError::into_inner);
            labels.own += 1;
            match labels.own {
                1..=MOST_LABELS => name.as_str().into(),
                n if n == MOST_LABELS + 1 => labels.others.clone(),
                _ => return labels.others.clone(),
            }
        };
        for outcome in OUTCOMES {
            self.leases.with_label_values(&[&*label, outcome]);
        }
        for reason in ["batch_timeout", "shutdown", "discarded", "advanced", "deleted"] {
            self.lost_ids.with_label_values(&[&*label, reason]);
        }
        self.leased_ids.with_label_values(&[&*label]);
        for histograms in [&self.lease_seconds, &self.wait_seconds] {
            histograms.with_label_values(&[&*label]);
        }
        label
    }

    /// Counts a lease that took `took`; of `ids` ids where it worked.
    pub fn lease(&self, sequence: &Label, outcome: &str, took: Duration, ids: u64) {
        self.leases.with_label_values(&[&**sequence, outcome]).inc();
        self.lease_seconds.with_label_values(&[&**sequence]).observe(took.as_secs_f64());
        if outcome == "ok" {
            self.leased_ids.with_label_values(&[&**sequence]).inc_by(ids);
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            self.last_lease.with_label_values(&[&**sequence]).set(now.as_secs_f64());
        }
    }

    /// Counts a request that waited for ids, until it was answered or gave up.
    pub fn waited(&self, sequence: &Label, time: Duration) {
        self.wait_seconds.with_label_values(&[&**sequence]).observe(time.as_secs_f64());
    }

    /// Counts leased ids that will never be handed out.
    pub fn lost(&self, sequence: &Label, reason: &str, ids: u64) {
        self.lost_ids.with_label_values(&[&**sequence, reason]).inc_by(ids);
    }

    /// Counts a name that was looked up.
    pub fn looked_up(&self, outcome: &str) {
        self.look_ups.with_label_values(&[outcome]).inc();
    }

    /// Sets how many connections are open.
    pub fn connections(&self, open: u64) {
        self.connections.set(gauge(open));
    }

    /// Sets how many connections are served at once.
    pub fn max_connections(&self, max: u64) {
        self.max_connections.set(gauge(max));
    }

    /// Counts a connection that was refused.
    pub fn connection_refused(&self) {
        self.refused_connections.inc();
    }

    /// Counts what was no request, by its kind.
    pub fn malformed(&self, kind: &str) {
        self.malformed.with_label_values(&[kind]).inc();
    }

    /// The counter of one more HTTP worker.
    pub fn worker(&self) -> Arc<ResponseCounts> {
        let counts = Arc::new(ResponseCounts::default());
        self.scraped.lock().unwrap_or_else(PoisonError::into_inner).workers.push(counts.clone());
        counts
    }

    /// The text that Prometheus reads.
    pub fn render(&self, samples: impl IntoIterator<Item = SequenceSample>, is_ready: bool) -> Vec<u8> {
        self.is_ready.set(is_ready.into());
        let scraped = self.scraped.lock().unwrap_or_else(PoisonError::into_inner);
        scraped.fill(samples);
        let mut text = Vec::with_capacity(16 << 10);
        TextEncoder::new().encode(&self.registry.gather(), &mut text).expect("writing to a Vec");
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Scraped {
    fn fill(&self, samples: impl IntoIterator<Item = SequenceSample>) {
        for sample in summed(samples) {
            let label = &[&*sample.label];
            set(&self.ids.with_label_values(label), sample.handed_out);
            self.held.with_label_values(label).set(gauge(sample.held));
            self.runway.with_label_values(label).set(sample.runway_seconds);
            self.block_size.with_label_values(label).set(gauge(sample.block_size));
            self.waiters.with_label_values(label).set(gauge(sample.waiters));
            self.capacity_used.with_label_values(label).set(sample.capacity_used);
            self.high_water_mark.with_label_values(label).set(gauge(sample.high_water_mark));
        }
        for (route, route_label) in Route::ALL {
            for (column, (_, status_label)) in STATUSES.iter().enumerate() {
                let sum =
                    self.workers.iter().map(|worker| worker.0[route as usize][column].load(Ordering::Relaxed)).sum();
                // Those of ids appear at 0, so that the first refusal is seen as an increase.
                if sum > 0 || matches!(route, Route::New | Route::NewSequence) {
                    set(&self.responses.with_label_values(&[route_label, status_label]), sum);
                }
            }
        }
    }
}

/// The samples, those of one label as one: counts are added, and the shortest runway and the fullest sequence stand for all.
fn summed(samples: impl IntoIterator<Item = SequenceSample>) -> impl Iterator<Item = SequenceSample> {
    let mut by_label: BTreeMap<Label, SequenceSample> = BTreeMap::new();
    for sample in samples {
        match by_label.get_mut(&sample.label) {
            Some(sum) => {
                sum.handed_out += sample.handed_out;
                sum.held += sample.held;
                sum.runway_seconds = sum.runway_seconds.min(sample.runway_seconds);
                sum.block_size = sum.block_size.max(sample.block_size);
                sum.waiters += sample.waiters;
                sum.capacity_used = sum.capacity_used.max(sample.capacity_used);
                sum.high_water_mark = sum.high_water_mark.max(sample.high_water_mark);
            }
            None => drop(by_label.insert(sample.label.clone(), sample)),
        }
    }
    by_label.into_values()
}

fn gauge(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Brings a counter up to a total that is kept elsewhere and never falls.
fn set(counter: &IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> C {
    registry.register(Box::new(collector.clone())).expect("no name is used twice");
    collector
}

#[cfg(test)]
mod tests;
