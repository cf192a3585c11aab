//! What a fault's run is given, and what comes of it.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::checker::Checker;
use crate::support::database::Database;
use crate::support::http::load;
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
}

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
