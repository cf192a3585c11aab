//! Whatever a MySQL server answers, a node never leases an ID twice, does not panic, and goes on when the server tells
//! the truth again, or refuses for good.

use std::num::NonZeroU64;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use seqsvr::config::{Config, Sources, Step};
use seqsvr::name::SequenceName;
use seqsvr::node::Node;
use seqsvr::store::guard::Guard;
use seqsvr::store::{self, ErrorKind, Leased, Purpose, StoreError, Terms};
use tokio::time::{sleep, timeout};

use super::database::{Database, Flavor};
use super::liar::{Liar, Lie};

/// Longer than any step of a lease may take.
const PATIENCE: Duration = Duration::from_secs(30);

const MAX_LIES: usize = 4;
const LEASES: usize = 4;
const STEP: u64 = 10;

/// One server for all inputs, one at a time.
fn database() -> &'static Mutex<Database> {
    static DATABASE: OnceLock<Mutex<Database>> = OnceLock::new();
    // It keeps nothing that matters.
    let fast = ["--innodb-flush-log-at-trx-commit=0", "--skip-innodb-doublewrite"];
    DATABASE.get_or_init(|| {
        let database = Database::start_with(Flavor::MariaDb, &fast);
        remove_when_this_process_ends(database.data_dir().parent().expect("it is in a folder of its own"));
        Mutex::new(database)
    })
}

/// libFuzzer ends the process without drops, and a static is never dropped.
fn remove_when_this_process_ends(folder: &Path) {
    let mut shell = Command::new("sh");
    // The shell's input ends with this process.
    let shell = shell.args(["-c", "cat; rm -rf \"$0\""]).arg(folder).stdin(Stdio::piped()).spawn();
    std::mem::forget(shell.expect("sh starts"));
}

/// The first byte of `input` selects the layout and whether the tables exist. Each eleven bytes behind it are a lie.
pub fn check(input: &[u8]) {
    let Some((&start, lies)) = input.split_first() else { return };
    let lies = lies.as_chunks().0.iter().take(MAX_LIES).map(|lie| Lie::read(*lie));
    let database = database().lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let is_counter = start & 1 != 0;
        database.query("DROP DATABASE IF EXISTS sequence; CREATE DATABASE sequence").await;
        if start & 2 != 0 {
            let mut honest = Client::new(database.port(), is_counter);
            honest.lease_or_be_refused().await;
            assert!(honest.mark > 0, "nothing is wrong yet");
        }
        let liar = Liar::start(database.port(), lies);
        let mut client = Client::new(liar.port(), is_counter);
        for _ in 0..LEASES {
            let _ = client.lease().await;
        }
        liar.stop_lying();
        client.lease_or_be_refused().await;
    });
}

/// A node, without its background work.
struct Client {
    guard: Guard,
    name: SequenceName,
    terms: Terms,
    /// Its high-water mark: the end (exclusive) of what it has leased.
    mark: u64,
}

impl Client {
    fn new(port: u16, is_counter: bool) -> Self {
        let declared = if is_counter { "sequences: {default: }" } else { "" };
        let text =
            format!("step: {STEP}\n{declared}\nmysql: {{user: root, host: '127.0.0.1:{port}', database: sequence}}\n");
        let sources = Sources { file: Some("config.yml".into()), ..Sources::default() };
        let (config, _) = Config::load_with(&sources, &|_| Ok(text.clone())).expect("it is valid");
        let node = Arc::new(Node::forgetful());
        let store = store::select(&config, Purpose::Serve, node.clone());
        let terms = Terms::unknown(Step::of(STEP));
        Self { guard: Guard::new(store, node), name: SequenceName::default(), terms, mark: 0 }
    }

    /// As the refill does it: if the terms are stale, they are asked for.
    async fn lease(&mut self) -> Result<(), StoreError> {
        let want = NonZeroU64::new(STEP * 3).expect("not 0");
        let lease = timeout(PATIENCE, self.guard.lease(&self.name, self.terms, want));
        match lease.await.expect("a lease ends") {
            Ok(leased) => {
                self.take_in(&leased);
                Ok(())
            }
            Err(error) if error.kind == ErrorKind::Stale => {
                let names = [self.name.clone()];
                let found = timeout(PATIENCE, self.guard.store().find(&names)).await.expect("a look ends");
                if let Ok([found]) = found.as_deref() {
                    self.terms = found.terms;
                }
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    fn take_in(&mut self, leased: &Leased) {
        assert!(!leased.blocks.is_empty());
        for block in &leased.blocks {
            assert!(block.start() >= self.mark, "{block:?} again, up to {} is leased", self.mark);
            self.mark = block.end();
        }
    }

    /// Leases from a server that tells the truth, unless what happened before needs an operator.
    async fn lease_or_be_refused(&mut self) {
        for _ in 0..50 {
            match self.lease().await {
                Err(error) if error.kind.is_passing() => {}
                Err(error) if matches!(error.kind, ErrorKind::Unavailable | ErrorKind::Stale) => {
                    sleep(Duration::from_millis(20)).await;
                }
                Ok(()) | Err(_) => return,
            }
        }
        let last = self.lease().await;
        assert!(last.is_ok(), "the server tells the truth: {last:?}");
    }
}
