//! What a fault's run is given, and what comes of it.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::counters::ids;
use crate::support::checker::Checker;
use crate::support::database::{Database, Flavor};
use crate::support::http::{load, load_of};
use crate::support::server::{SEED_CONFIG, Server, Setup, eventually};

/// A fault of docs/guarantees.md, as a thing that can be done to running servers.
pub struct Fault {
    pub name: &'static str,
    /// The switches (src/faults.rs) of the guards against it, with commas between; empty where nothing can be switched off.
    pub guards: &'static str,
    pub run: fn(&Run) -> Outcome,
}

/// How a fault is run.
pub struct Run {
    /// As often as `make torture` does it.
    pub is_full: bool,
    /// The guards that are off.
    pub off: &'static str,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    pub rounds: u64,
    /// Every id of every answer, and what was no id where one must have come.
    pub checker: Checker,
    /// Leased and never handed out, where that was counted.
    pub lost: Option<u64>,
    /// How many stores were taken in.
    pub stores: u64,
}

impl Outcome {
    /// Takes in what was answered from one store. Each store counts for itself: its ids, which are below 2^53, are moved to a
    /// range of their own.
    pub fn take_in(&mut self, store: Checker) {
        self.stores += 1;
        self.checker.merge(store.moved_by(self.stores << 54));
    }
}

impl Run {
    /// So many rounds, or in a short run so many.
    pub fn rounds(&self, full: u64, short: u64) -> u64 {
        if self.is_full { full } else { short }
    }

    /// So many seconds, or in a short run so many.
    pub fn seconds(&self, full: u64, short: u64) -> Duration {
        Duration::from_secs(self.rounds(full, short))
    }

    pub fn is_guarded(&self) -> bool {
        self.off.is_empty()
    }

    /// `setup` with the guards off that are to be off.
    pub fn setup(&self, setup: Setup) -> Setup {
        if self.off.is_empty() { setup } else { setup.env("FAULTS_OFF", self.off) }
    }

    /// A node on the database at `port`. It holds few ids, so that it leases often, and waits for long for them; where a guard
    /// is off others may refuse, and nobody waits for long.
    pub fn node(&self, port: u16, layout: Layout) -> Setup {
        self.node_of(&format!("tcp(127.0.0.1:{port})"), layout.sequences())
    }

    /// As [`Run::node`], with these hosts and this line of the configuration.
    pub fn node_of(&self, hosts: &str, sequences: &str) -> Setup {
        let setup = self
            .setup(Setup::new(&format!("{SEED_CONFIG}\n{sequences}\n")))
            .env("SEQSVR_MYSQL__HOST", hosts)
            .env("SEQSVR_REFILL__MAX_BLOCK", "5000");
        if self.is_guarded() { setup.patient() } else { setup }
    }

    pub fn node_on(&self, database: &Database, layout: Layout) -> Setup {
        self.node(database.port(), layout)
    }

    /// A node that knows several servers, in this order.
    pub fn node_on_all(&self, databases: &[&Database], layout: Layout) -> Setup {
        let hosts: Vec<String> = databases.iter().map(|database| database.address()).collect();
        self.node_on(databases[0], layout).env("SEQSVR_MYSQL__HOST", &hosts.join(","))
    }

    /// What clients got: all of it, or the IDs alone if a guard is off. Nodes may refuse then.
    pub fn ids_or_all(&self, checker: Checker) -> Checker {
        if self.is_guarded() { checker } else { ids(&checker) }
    }

    /// Every make and layout in a full run; in a short run, each of them once.
    pub fn places(&self) -> Vec<(Flavor, Layout)> {
        let all = FLAVORS.map(|flavor| LAYOUTS.map(|layout| (flavor, layout))).concat();
        if self.is_full { all } else { vec![all[0], all[3]] }
    }
}

const DEFAULT: &str = "default";

/// `default`, in the layout that a node is set up with, and one more, which is a counter.
pub const SEQUENCES: [&str; 2] = [DEFAULT, "orders"];

pub const FLAVORS: [Flavor; 2] = [Flavor::MariaDb, Flavor::MySql9];

/// Where `default` is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// In `seqsvr_sequence`.
    Counter,
    /// In `generator_table`.
    Ticket,
}

pub const LAYOUTS: [Layout; 2] = [Layout::Ticket, Layout::Counter];

impl Layout {
    fn sequences(self) -> &'static str {
        match self {
            Self::Counter => "sequences: {default: {step: 100}}",
            Self::Ticket => "",
        }
    }

    /// Locks what a node records a regression in, in a transaction that stays open.
    pub fn lock(self) -> &'static str {
        match self {
            Self::Counter => "BEGIN; SELECT next_id FROM seqsvr_sequence FOR UPDATE",
            Self::Ticket => "BEGIN; SELECT step FROM seqsvr_meta FOR UPDATE",
        }
    }

    /// The database as a restored backup has it: the counter is where it was long ago.
    pub fn rewind(self) -> &'static str {
        match self {
            Self::Counter => "UPDATE sequence.seqsvr_sequence SET next_id = 50",
            // In one: behind a row that comes between a DELETE and an ALTER nothing goes back.
            Self::Ticket => "TRUNCATE TABLE sequence.generator_table",
        }
    }
}

/// The largest block end (exclusive) that a node leased.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub fn mark(server: &Server) -> u64 {
    server.metric("seqsvr_high_water_mark_ids{sequence=\"default\"") as u64
}

/// Runs a command that must work.
pub fn command(setup: &Setup, line: &str) -> String {
    let (code, output) = setup.run(&line.split(' ').collect::<Vec<_>>());
    assert_eq!(code, 0, "{line}: {output}");
    output
}

/// Starts a node and waits until it has ids.
pub fn start(setup: &Setup) -> Server {
    let server = setup.start();
    server.wait_until_ready();
    server
}

/// `requests` for `count` IDs of a sequence, `default` or one more, whose IDs are told apart.
pub fn ask(sequence: &str, count: u32, ports: &[u16], requests: i64) -> Checker {
    let all = load_of(&format!("/new/{sequence}?count={count}"), ports, 4, requests);
    if sequence == DEFAULT { all } else { all.moved_by(1 << 53) }
}

/// Waits until a lease of `server` has ended with `outcome`.
pub fn wait_for_outcome(server: &Server, outcome: &str) {
    let series = format!("seqsvr_leases_total{{outcome=\"{outcome}\"");
    eventually(&format!("a lease ends with {outcome}: {}", server.log()), || {
        let metrics = server.get("/metrics").body;
        metrics.lines().any(|line| line.starts_with(&series) && !line.ends_with(" 0")).then_some(())
    });
}

/// Checks that a node refuses to lease and names each of `words`: it ends with exit code 78, or `/readyz` says so.
pub fn assert_refused(setup: &Setup, words: &[&str]) {
    let mut server = setup.spawn();
    eventually(&format!("the node refuses and names {words:?}"), || {
        if let Some(status) = server.ended() {
            let log = server.log();
            assert!(
                status.code() == Some(78) && words.iter().all(|word| log.contains(word)),
                "{status}, {words:?}: {log}"
            );
            return Some(());
        }
        let refusal = server.refusal()?;
        words.iter().all(|word| refusal.contains(word)).then_some(())
    });
}

/// Runs `load` again and again while `during` runs, however that ends; what they came to.
pub fn under_load<T>(load: impl Fn() -> Checker + Sync, during: impl FnOnce() -> T) -> (Checker, T) {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let loads = scope.spawn(|| {
            let mut all = load();
            while !is_over.load(Ordering::Relaxed) {
                all.merge(load());
            }
            all
        });
        // A panic must not leave the load going on for ever.
        let done = catch_unwind(AssertUnwindSafe(during));
        is_over.store(true, Ordering::Relaxed);
        let all = loads.join().expect("the load's thread");
        (all, done.unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

/// Loads a node until it holds more than `least` ids: it holds many only when it sees for a second that many are asked for.
pub fn fill(server: &Server, least: f64) -> Checker {
    let mut all = Checker::default();
    eventually("the runway is there", || {
        all.merge(load(&[server.port()], 8, 1_000));
        (server.metric("seqsvr_ids_held") > least).then_some(())
    });
    all
}
