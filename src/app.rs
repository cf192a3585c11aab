//! Builds the server, runs it, and drains it.
//!
//! The main runtime has the refill, the store and the signals; actix's workers have threads of their own.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::config::{Config, EXIT_CONFIGURATION, Listen, Store};
use crate::http::{self, Service};
use crate::metrics::Metrics;
use crate::name::SequenceName;
use crate::node::{Node, NodeError};
use crate::refill::policy::Policy;
use crate::refill::{Progress, Refill};
use crate::sequence::{Sequence, Shared, WaitLimits};
use crate::sequences::Sequences;
use crate::sequences::finder::{Asked, Finder};
use crate::store::guard::Guard;
use crate::store::{self, Purpose, Terms};

mod give_back;
mod open_files;
mod signals;
mod systemd;
use signals::Signals;

/// How long the start waits for the first lease, so that the first answer is immediate. Then it goes on without.
const FIRST_LEASE_WAIT: Duration = Duration::from_secs(1);

/// How often the node's memory is written, if it changed.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);

/// How long the last writing of the node's memory may take: a disk that a database keeps busy takes seconds.
const SAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the store may take to close; nothing is lost where it does not.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the refill may take to notice the end; it has nothing to finish.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// Why the server did not start, or ended.
#[derive(Debug, Error)]
pub enum AppError {
    /// A person must change the configuration, or what it points to.
    #[error("{0}")]
    Misconfigured(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

impl AppError {
    /// The exit code that says so.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Misconfigured(_) => EXIT_CONFIGURATION,
            Self::Failed(_) => 1,
        }
    }
}

/// Runs the server until a signal ends it. Returns once it is drained.
pub async fn run(config: &Config) -> Result<(), AppError> {
    let mut signals = Signals::new().map_err(|error| AppError::Failed(format!("signals can't be caught: {error}")))?;
    let node = Arc::new(open_node(config)?);
    let listeners = http::bind(&config.port).map_err(|error| cannot_listen(config, &error))?;
    let addresses: std::io::Result<Vec<SocketAddr>> = listeners.iter().map(TcpListener::local_addr).collect();
    let addresses = addresses.map_err(|error| AppError::Failed(error.to_string()))?;

    let metrics = Arc::new(Metrics::new());
    let store = store::select(config, Purpose::Serve, node.clone());
    let guard = Arc::new(Guard::new(store.clone(), node.clone()));
    let policy = Policy { max_block: config.refill.max_block.get(), runway: config.refill.runway.get() };
    let (due, due_sequences) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared {
        threshold: config.refill.threshold.get(),
        policy,
        limits: WaitLimits { time: config.limits.wait.get(), waiters: config.limits.waiters.get() },
        metrics: metrics.clone(),
        due,
    });
    let default = default_sequence(config, &guard, &node, &shared);
    let (asked, asked_names) = mpsc::channel(usize::try_from(shared.limits.waiters.max(1)).unwrap_or(usize::MAX));
    let sequences = Sequences::new(default.clone(), asked, shared.clone());
    let finder = Arc::new(Finder {
        sequences: sequences.clone(),
        store,
        declared: config.sequences.clone(),
        policy,
        shared,
        node: node.clone(),
        metrics: metrics.clone(),
    });
    let (report, progress) = watch::channel(Progress::Starting);
    let refill = Refill::new(guard.clone(), policy, metrics.clone(), report);
    let mut background = Background::start(refill, due_sequences, finder, asked_names, node.clone(), progress);
    default.wake_refill();

    let max_connections = open_files::make_room(config.limits.connections.get());
    let service = Arc::new(Service::new(sequences.clone(), config.limits.clone(), max_connections, metrics.clone()));
    background.first_lease().await?;
    // Before the first id is out, or a kill -9 within the first second would make it forget the store.
    save(&node).await;
    let server = http::server(&service, listeners, config.shutdown.grace.get())
        .map_err(|error| AppError::Failed(format!("the HTTP server can't start: {error}")))?;
    tracing::info!(
        "seqsvr {} {} sequence {} from {}, step {}",
        env!("CARGO_PKG_VERSION"),
        if default.health().has_leased { "serves" } else { "can't lease yet, but will serve" },
        default.name(),
        guard.store().describe(),
        default.terms().step.get()
    );
    let urls: Vec<String> = addresses.iter().map(|address| format!("http://{address}")).collect();
    let urls = urls.join(" and ");
    // They have the same port, which may be a free one that the system chose.
    let bound = Listen { port: addresses[0].port(), ..config.port.clone() };
    tracing::info!("listening on {urls}: try curl http://{}/new", bound.reachable());

    let handle = server.handle();
    let mut serving = tokio::spawn(server);
    systemd::ready(&urls);
    let outcome = tokio::select! {
        ended = &mut serving => Err(AppError::Failed(format!("the HTTP server ended by itself: {ended:?}"))),
        error = background.misconfigured() => Err(error),
        name = signals.drain() => {
            tracing::info!("{name}: draining");
            Ok(())
        }
    };
    systemd::stopping();
    service.drain();
    let end = async {
        if outcome.is_ok() {
            sleep(config.shutdown.lead.get()).await;
        }
        handle.stop(true).await;
        background.stop().await;
        let unused = give_back::all(&sequences, &guard, &node).await;
        if timeout(CLOSE_TIMEOUT, guard.store().close()).await.is_err() {
            tracing::warn!("the store does not answer, and is left as it is");
        }
        unused
    };
    tokio::select! {
        unused = end => {
            tracing::info!(
                given_back = unused.given_back,
                lost_behind_others = unused.behind_others,
                lost_unanswered = unused.unanswered,
                "stopped; of the leased ids that were not handed out:"
            );
            outcome
        }
        name = signals.cut_off() => {
            let again = format!("{name} again: ended at once, requests in flight are cut off");
            // The reason to end was there before.
            outcome.and(Err(AppError::Failed(again)))
        }
    }
}

/// The sequence that `/new` uses. It is there before the store was asked for it, so that waiting for it is waiting for ids.
fn default_sequence(config: &Config, guard: &Guard, node: &Node, shared: &Arc<Shared>) -> Arc<Sequence> {
    let name = SequenceName::default();
    let terms = Terms::unknown(config.default_sequence().step);
    let most_held = shared.policy.max_held(terms.step.get(), guard.store().most_held(&name, terms));
    let mark = node.high_water_mark(name.as_str());
    Sequence::new(name, terms, most_held, mark, shared.clone())
}

fn cannot_listen(config: &Config, error: &std::io::Error) -> AppError {
    let port = &config.port;
    match error.kind() {
        ErrorKind::AddrInUse => AppError::Failed(format!(
            "port {port}: {error}. Another server is running there: stop it, or set another port"
        )),
        ErrorKind::PermissionDenied => {
            AppError::Failed(format!("port {port}: {error}. Ports below 1024 need a privilege: set another port"))
        }
        _ => AppError::Misconfigured(format!("port {port}: {error}. It must be an address of this machine")),
    }
}

/// Finds out whether the server could use `data_dir`, and leaves nothing behind.
pub fn try_data_dir(config: &Config) -> Result<(), AppError> {
    match (Node::try_dir(&config.data_dir), &config.store) {
        (Err(error @ NodeError::Unusable { .. }), Store::MySql(_)) => {
            eprintln!("seqsvr: warning: the server would go on without data_dir: {error}");
            Ok(())
        }
        (outcome, _) => outcome.map_err(|error| AppError::Misconfigured(error.to_string())),
    }
}

fn open_node(config: &Config) -> Result<Node, AppError> {
    let dir: &Path = &config.data_dir;
    let node = match (Node::open(dir), &config.store) {
        (Ok(node), _) => node,
        // On MySQL a data directory is optional: what is lost is a guard.
        (Err(error @ NodeError::Unusable { .. }), Store::MySql(_)) => {
            tracing::warn!(
                "going on without data_dir: this node forgets its identity when it ends, and leaves a row in generator_table \
                 behind: {error}"
            );
            return Ok(Node::forgetful());
        }
        (Err(error), _) => return Err(AppError::Misconfigured(error.to_string())),
    };
    if !node.is_remembered() {
        tracing::warn!(
            "data_dir {} is held by another process: this one goes on with an identity of its own",
            dir.display()
        );
    }
    Ok(node)
}

/// The tasks beside the HTTP server.
struct Background {
    refill: JoinHandle<()>,
    others: [JoinHandle<()>; 4],
    progress: watch::Receiver<Progress>,
    stop: watch::Sender<bool>,
}

impl Background {
    fn start(
        refill: Arc<Refill>,
        due: mpsc::UnboundedReceiver<Arc<Sequence>>,
        finder: Arc<Finder>,
        asked: mpsc::Receiver<Asked>,
        node: Arc<Node>,
        progress: watch::Receiver<Progress>,
    ) -> Self {
        let (stop, stopped) = watch::channel(false);
        let saver = tokio::spawn(async move {
            loop {
                sleep(SAVE_INTERVAL).await;
                save(&node).await;
            }
        });
        let others = [
            saver,
            tokio::spawn(finder.clone().look_up(asked)),
            tokio::spawn(finder.look_for_changes()),
            tokio::spawn(systemd::keep_alive()),
        ];
        Self { refill: tokio::spawn(refill.run(due, stopped)), others, progress, stop }
    }

    /// Waits a moment for the first lease. An error is one that only a person can mend.
    async fn first_lease(&mut self) -> Result<(), AppError> {
        let _ = timeout(FIRST_LEASE_WAIT, self.progress.wait_for(|progress| *progress != Progress::Starting)).await;
        match &*self.progress.borrow() {
            Progress::Failing(kind, what) if kind.is_misconfigured() => Err(AppError::Misconfigured(what.clone())),
            _ => Ok(()),
        }
    }

    /// Ends if, before the first lease worked, it turns out that only a person can make it work.
    async fn misconfigured(&mut self) -> AppError {
        let is_final = |progress: &Progress| matches!(progress, Progress::Failing(kind, _) if kind.is_misconfigured());
        match self.progress.wait_for(is_final).await.as_deref() {
            Ok(Progress::Failing(_, what)) => AppError::Misconfigured(what.clone()),
            // The refill ends only when it is stopped.
            _ => std::future::pending().await,
        }
    }

    async fn stop(self) {
        self.others.iter().for_each(JoinHandle::abort);
        let _ = self.stop.send(true);
        if timeout(STOP_TIMEOUT, self.refill).await.is_err() {
            tracing::warn!("the refill did not end in time; what it leases now is a gap");
        }
    }
}

/// Writes what the node remembers. Returns whether that worked.
async fn save(node: &Arc<Node>) -> bool {
    let node = node.clone();
    tokio::task::spawn_blocking(move || node.save_or_warn()).await.unwrap_or(false)
}
