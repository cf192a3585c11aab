//! The driver's side of MySQL and MariaDB: the pool, time-outs, errors, and who the server is.
//!
//! What always holds: every await on the database has a time-out, and a connection is used with `autocommit` on, so
//! that a statement whose OK has come is committed.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use mysql_async::prelude::{FromRow, Queryable};
use mysql_async::{Conn, Opts, OptsBuilder, Params, Pool, PoolConstraints, PoolOpts, SslOpts, Transaction, TxOpts};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::super::{ErrorKind, StoreError};
use crate::config::{self, DatabaseHost, SslMode};
use crate::faults::{self, Guard as Switch};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);

/// So many characters of a statement are told where it fails: that of a lease has up to a thousand rows.
const STATEMENT_TOLD: usize = 80;

/// For the leases that run side by side (`refill`: 6, and 2 of sequences that fail), one look for names and one for changes.
/// They are opened when they are needed: with one sequence two work.
const MOST_CONNECTIONS: usize = 10;

/// An idle connection is not used again after this: firewalls forget connections, without a word.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// What each new connection is set to.
/// - `autocommit`: a server's `init_connect` may have turned it off.
/// - `sql_mode`: a number past the column's end must be an error, not a silently smaller number.
/// - The lock waits end before our statement time-out, so that no statement is left behind on the server.
const SESSION: &str =
    "SET SESSION autocommit = 1, sql_mode = 'STRICT_ALL_TABLES', innodb_lock_wait_timeout = 1, lock_wait_timeout = 4";

/// On a Galera node each statement waits for what the cluster has committed before it, so that a look after an INSERT can't
/// miss a migration that another node began. Not every server knows it.
const GALERA_SESSION: &str = "SET SESSION wsrep_sync_wait = 7";

/// While the database does not answer, so many connections are tried at once: more would only hang beside each other.
const ATTEMPTS_WHILE_AWAY: usize = 2;

/// The connections to one server.
pub(super) struct Server {
    options: Opts,
    /// Replaced when the database goes away: what is idle in it may hang as well.
    pool: Mutex<Pool>,
    /// The last connection or statement had no answer. Relaxed: who misses it for a moment only tries once more.
    is_away: AtomicBool,
    attempts: Semaphore,
    /// It is a node of a Galera cluster. Relaxed: who finds out sets its own session by itself.
    is_galera: AtomicBool,
    /// For people: `MySQL at tcp(localhost:3306), database sequence`. Without the password.
    pub(super) described: String,
    requires_durable: bool,
}

impl Server {
    pub(super) fn new(config: &config::MySql) -> Self {
        let constraints = PoolConstraints::new(1, MOST_CONNECTIONS).expect("1 is not above it");
        let options = OptsBuilder::default()
            .user(Some(&config.user))
            .pass((!config.password.expose().is_empty()).then(|| config.password.expose()))
            .db_name(Some(&config.database))
            // On, it moves a TCP connection to the socket of whatever server runs on this machine.
            .prefer_socket(faults::is_off(Switch::ConfiguredServer))
            .conn_ttl(IDLE_TIMEOUT)
            .ssl_opts(ssl(config))
            .init(vec![SESSION])
            // Two settings that the driver would else ask the server for, one round trip each.
            .max_allowed_packet(Some(4 << 20))
            .wait_timeout(Some(28_800))
            // A reset costs a round trip, and nothing here leaves a state behind in the session.
            .pool_opts(
                PoolOpts::default()
                    .with_constraints(constraints)
                    // Else all but one are closed at once, and a far database is four round trips away from the next.
                    .with_inactive_connection_ttl(IDLE_TIMEOUT)
                    .with_reset_connection(false),
            );
        let options = match &config.host {
            DatabaseHost::Tcp { host, port } => options.ip_or_hostname(host).tcp_port(*port),
            DatabaseHost::Unix(path) => options.socket(path.to_str()),
        };
        let options = Opts::from(options);
        Self {
            pool: Mutex::new(Pool::new(options.clone())),
            options,
            is_away: AtomicBool::new(false),
            attempts: Semaphore::new(ATTEMPTS_WHILE_AWAY),
            is_galera: AtomicBool::new(false),
            described: format!("MySQL at {}, database {}", config.host, config.database),
            requires_durable: config.require_durable.0,
        }
    }

    /// A connection of the pool, or a new one.
    pub(super) async fn connect(&self) -> Result<Session<'_>, StoreError> {
        self.session(async |pool: Pool| pool.get_conn().await).await
    }

    /// A connection with an open transaction; it is rolled back where it is dropped without
    /// [`commit`](Session::commit).
    pub(super) async fn transaction(&self) -> Result<Session<'_, Transaction<'static>>, StoreError> {
        self.session(async |pool: Pool| pool.start_transaction(TxOpts::default()).await).await
    }

    async fn session<C: Queryable>(
        &self,
        connect: impl AsyncFnOnce(Pool) -> mysql_async::Result<C>,
    ) -> Result<Session<'_, C>, StoreError> {
        let attempt = async {
            let turn = if self.is_away.load(Ordering::Relaxed) { self.attempts.acquire().await.ok() } else { None };
            let mut conn = connect(self.pool()).await;
            if self.is_galera.load(Ordering::Relaxed)
                && let Ok(found) = &mut conn
                && let Err(error) = found.query_drop(GALERA_SESSION).await
            {
                conn = Err(error);
            }
            (turn, conn)
        };
        match timeout(CONNECT_TIMEOUT, attempt).await {
            Ok((turn, Ok(conn))) => Ok(Session { conn, server: self, is_useless: false, _turn: turn }),
            Ok((_, Err(error))) => {
                self.heard(!is_without_answer(&error));
                Err(self.failed("connecting", &error))
            }
            Err(_) => {
                self.heard(false);
                Err(self.timed_out("connecting", CONNECT_TIMEOUT))
            }
        }
    }

    fn pool(&self) -> Pool {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes in whether there was an answer. With the first that fails to come, what is idle is closed: a connection that
    /// hangs looks like one that does not, and would cost a time-out when it is taken.
    fn heard(&self, is_answer: bool) {
        if !self.is_away.swap(!is_answer, Ordering::Relaxed) && !is_answer {
            self.renew();
        }
    }

    /// Makes the pool anew: no connection of now is used again.
    pub(super) fn renew(&self) {
        let new = Pool::new(self.options.clone());
        let old = std::mem::replace(&mut *self.pool.lock().unwrap_or_else(PoisonError::into_inner), new);
        // Who still uses one of its connections goes on; it is closed when it is given back.
        tokio::spawn(async move { timeout(CONNECT_TIMEOUT, old.disconnect()).await });
    }

    pub(super) async fn close(&self) {
        // Best effort: the server closes what we don't.
        let _ = timeout(CONNECT_TIMEOUT, self.pool().disconnect()).await;
    }

    fn timed_out(&self, doing: &str, after: Duration) -> StoreError {
        StoreError::new(
            ErrorKind::Unavailable,
            format!("{}: {doing} took longer than {} s", self.described, after.as_secs()),
        )
    }

    fn failed(&self, doing: &str, error: &mysql_async::Error) -> StoreError {
        let (kind, why, hint) = match error {
            mysql_async::Error::Server(error) => {
                let (kind, hint) = classify(error.code);
                (kind, format!("error {}: {}", error.code, error.message), hint)
            }
            mysql_async::Error::Io(mysql_async::IoError::Io(error)) => {
                let is_refused = error.kind() == std::io::ErrorKind::ConnectionRefused;
                let hint = if is_refused { ". Is the database running, and is mysql.host right?" } else { "" };
                (ErrorKind::Unavailable, error.to_string(), hint)
            }
            mysql_async::Error::Driver(mysql_async::DriverError::NoClientSslFlagFromServer) => (
                ErrorKind::Misconfigured,
                "the server has no TLS, which mysql.ssl_mode asks for".to_owned(),
                ". Set it up there, or set ssl_mode: disabled",
            ),
            other => (ErrorKind::Unavailable, other.to_string(), ""),
        };
        StoreError::new(kind, format!("{}: {doing}: {why}{hint}", self.described))
    }
}

/// Whether the error says that nobody answered.
fn is_without_answer(error: &mysql_async::Error) -> bool {
    matches!(error, mysql_async::Error::Io(_))
}

/// The codes of a server, or a transaction, that may not write.
const READ_ONLY: [u16; 3] = [1290, 1792, 1836];

/// What a server's error code means for a lease, and what to add to its message.
fn classify(code: u16) -> (ErrorKind, &'static str) {
    match code {
        // Lock wait time-out, deadlock (also Galera's certification failure, which comes at COMMIT too), Group Replication's
        // certification failure.
        1205 | 1213 | 3101 => (ErrorKind::Conflict, ""),
        1045 | 1698 => {
            (ErrorKind::Misconfigured, ". Check mysql.user and mysql.password, and from where the account may log in")
        }
        1049 => (ErrorKind::Misconfigured, ". Check mysql.database, or create it: CREATE DATABASE"),
        1044 | 1142 | 1143 => (ErrorKind::Misconfigured, ". The account lacks a privilege: GRANT it"),
        _ => (ErrorKind::Unavailable, ""),
    }
}

fn ssl(config: &config::MySql) -> Option<SslOpts> {
    match (config.ssl_mode, &config.ssl_ca) {
        (SslMode::Disabled, _) => None,
        (SslMode::Required, _) => Some(SslOpts::default().with_danger_accept_invalid_certs(true)),
        (SslMode::VerifyIdentity, None) => Some(SslOpts::default()),
        (SslMode::VerifyIdentity, Some(ca)) => {
            Some(SslOpts::default().with_root_certs(vec![ca.clone().into()]).with_disable_built_in_roots(true))
        }
    }
}

/// A connection in use. Dropped in mid-statement, it is closed and not used again.
pub(super) struct Session<'a, C = Conn> {
    conn: C,
    pub(super) server: &'a Server,
    /// The server refused something that a new connection may be allowed: a privilege that was granted counts for new ones
    /// only, and behind the name of a writer that became read-only there may be another server now.
    is_useless: bool,
    /// Its turn, while the database is away.
    _turn: Option<SemaphorePermit<'a>>,
}

/// What a statement's own OK packet says.
pub(super) struct Done {
    pub(super) affected_rows: u64,
    pub(super) last_insert_id: Option<NonZeroU64>,
}

/// A statement that failed: with the server's code, where it was the server that refused it.
pub(super) struct Failed {
    pub(super) server: Option<mysql_async::ServerError>,
    pub(super) error: StoreError,
}

impl From<Failed> for StoreError {
    fn from(failed: Failed) -> Self {
        failed.error
    }
}

impl Session<'_> {
    /// Closes the connection where it is of no use any more; to be called after what may have failed.
    pub(super) async fn close_if_useless(self) {
        if self.is_useless {
            // Best effort: the pool notices a broken one.
            let _ = timeout(CONNECT_TIMEOUT, self.conn.disconnect()).await;
        }
    }
}

impl Session<'_, Transaction<'static>> {
    /// Ends the transaction; what it did is durable.
    pub(super) async fn commit(self) -> Result<(), StoreError> {
        let outcome = timeout(STATEMENT_TIMEOUT, self.conn.commit()).await;
        Ok(self.server.finished("COMMIT", outcome)?)
    }
}

impl<C: Queryable> Session<'_, C> {
    /// Runs a statement with values in the place of its `?`s.
    pub(super) async fn execute_with(&mut self, sql: &str, values: Params) -> Result<(), Failed> {
        faults::point("statement-begins");
        let outcome = timeout(STATEMENT_TIMEOUT, self.conn.exec_drop(sql, values)).await;
        self.finished(sql, outcome)
    }

    /// Runs a statement without a result.
    pub(super) async fn execute(&mut self, sql: &str) -> Result<Done, Failed> {
        faults::point("statement-begins");
        let run = async {
            let result = self.conn.query_iter(sql).await?;
            let done = Done {
                affected_rows: result.affected_rows(),
                last_insert_id: result.last_insert_id().and_then(NonZeroU64::new),
            };
            result.drop_result().await?;
            Ok(done)
        };
        let outcome = timeout(STATEMENT_TIMEOUT, run).await;
        self.finished(sql, outcome)
    }

    /// Runs a query; its rows.
    pub(super) async fn rows<R: FromRow + Send + 'static>(&mut self, sql: &str) -> Result<Vec<R>, Failed> {
        faults::point("statement-begins");
        let outcome = timeout(STATEMENT_TIMEOUT, self.conn.query(sql)).await;
        self.finished(sql, outcome)
    }

    fn finished<T>(
        &mut self,
        sql: &str,
        outcome: Result<mysql_async::Result<T>, tokio::time::error::Elapsed>,
    ) -> Result<T, Failed> {
        faults::point("statement-ended");
        let finished = self.server.finished(sql, outcome);
        if let Err(Failed { server: Some(server), error }) = &finished {
            self.is_useless |= error.kind == ErrorKind::Misconfigured || READ_ONLY.contains(&server.code);
        }
        finished
    }
}

impl Server {
    fn finished<T>(
        &self,
        sql: &str,
        outcome: Result<mysql_async::Result<T>, tokio::time::error::Elapsed>,
    ) -> Result<T, Failed> {
        // The first words are enough to know the statement by.
        let words: Vec<&str> = sql.split_whitespace().take(6).collect();
        let doing: String = words.join(" ").chars().take(STATEMENT_TOLD).collect();
        match outcome {
            Ok(Ok(value)) => {
                self.heard(true);
                Ok(value)
            }
            Ok(Err(error)) => {
                self.heard(!is_without_answer(&error));
                let failed = self.failed(&doing, &error);
                let server = if let mysql_async::Error::Server(server) = error { Some(server) } else { None };
                Err(Failed { server, error: failed })
            }
            Err(_) => {
                self.heard(false);
                Err(Failed { server: None, error: self.timed_out(&doing, STATEMENT_TIMEOUT) })
            }
        }
    }
}

/// Who a server is, in SQL that every lease asks anew: the connection may have moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// An expression whose value is the identity: a cluster's own where there is one, for its nodes share the counter.
    pub(super) expression: String,
    /// The make and version of a server that caches auto-increments: unique, but not rising. No tickets can be had from it.
    pub(super) caches: Option<String>,
}

/// The variables that tell which expression there is.
const IDENTITY_VARIABLES: &str = "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('version', 'version_comment', \
     'server_uuid', 'wsrep_on', 'group_replication_group_name', 'innodb_flush_log_at_trx_commit', 'log_bin', 'sync_binlog')";

impl Identity {
    /// Chooses the expression. Where that is asked for, refuses servers that may lose what they have acknowledged.
    pub(super) async fn of(session: &mut Session<'_>) -> Result<Self, StoreError> {
        let variables: Vec<(String, String)> = session.rows(IDENTITY_VARIABLES).await?;
        let value = |name: &str| {
            variables.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value.as_str())
        };
        let version = format!("{} {}", value("version"), value("version_comment"));
        let caches = ["TiDB", "Vitess"]
            .into_iter()
            .find(|make| version.to_ascii_lowercase().contains(&make.to_ascii_lowercase()))
            .map(|make| format!("{make} ({version})"));
        if session.server.requires_durable {
            let is_logged = value("log_bin").eq_ignore_ascii_case("ON");
            let lossy = [("innodb_flush_log_at_trx_commit", true), ("sync_binlog", is_logged)]
                .into_iter()
                .find(|(name, matters)| *matters && value(name) != "1");
            if let Some((name, _)) = lossy {
                return Err(StoreError::new(
                    ErrorKind::NotDurable,
                    format!(
                        "{}: {name} is {}, so that a crash of the database may lose leases that it has acknowledged, and \
                         mysql.require_durable is set. Set it to 1 there (SET GLOBAL {name} = 1, and in its configuration)",
                        session.server.described,
                        value(name)
                    ),
                ));
            }
        }
        // `@@server_uuid` does not exist on MariaDB. Its `@@server_uid` is no identity: tried on 10.11, two servers with
        // data of their own had the same on the same port, and one server another on another port.
        let is_galera = value("wsrep_on").eq_ignore_ascii_case("ON");
        session.server.is_galera.store(is_galera, Ordering::Relaxed);
        if is_galera {
            session.execute(GALERA_SESSION).await?;
        }
        let expression = if is_galera {
            "(SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS \
              WHERE VARIABLE_NAME = 'WSREP_CLUSTER_STATE_UUID')"
        } else if !value("group_replication_group_name").is_empty() {
            "@@group_replication_group_name"
        } else if !value("server_uuid").is_empty() {
            "@@server_uuid"
        } else {
            "CONCAT(@@hostname, ':', @@port, ':', @@server_id)"
        };
        Ok(Self { expression: expression.to_owned(), caches })
    }
}
