//! What every layout on MySQL and MariaDB shares: the pool, time-outs, errors, and who the server is.
//!
//! What always holds: every await on the database has a time-out, and a connection is used with `autocommit` on, so
//! that a statement whose OK has come is committed.

use std::num::NonZeroU64;
use std::time::Duration;

use std::sync::Arc;

use async_trait::async_trait;
use mysql_async::prelude::{FromRow, Queryable};
use mysql_async::{Conn, OptsBuilder, Params, Pool, PoolConstraints, PoolOpts, SslOpts, Transaction, TxOpts};
use tokio::time::timeout;

use super::counter::Edit;
use super::finding::{Expected, Finding, Pruned};
use super::{BlockStore, Catalog, Change, Definition, ErrorKind, Leased, StoreError, Terms};
use crate::config::{self, DatabaseHost, NewSequence, SslMode, Step};
use crate::name::SequenceName;
use crate::node::Node;
use crate::segment::Block;

mod counter;
mod database;
mod examine;
mod move_default;
mod ticket;

use counter::Counters;
use database::{Database, Layout};
use ticket::Tickets;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);

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

/// The connections to one server.
struct Server {
    pool: Pool,
    /// For people: `MySQL at tcp(localhost:3306), database sequence`. Without the password.
    described: String,
}

impl Server {
    fn new(config: &config::MySql) -> Self {
        let constraints = PoolConstraints::new(1, MOST_CONNECTIONS).expect("1 is not above it");
        let options = OptsBuilder::default()
            .user(Some(&config.user))
            .pass((!config.password.expose().is_empty()).then(|| config.password.expose()))
            .db_name(Some(&config.database))
            // On, it moves a TCP connection to the socket of whatever server runs on this machine.
            .prefer_socket(false)
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
        Self { pool: Pool::new(options), described: format!("MySQL at {}, database {}", config.host, config.database) }
    }

    /// A connection of the pool, or a new one.
    async fn connect(&self) -> Result<Session<'_>, StoreError> {
        let conn = timeout(CONNECT_TIMEOUT, self.pool.get_conn()).await;
        match conn {
            Ok(Ok(conn)) => Ok(Session { conn, server: self, is_useless: false }),
            Ok(Err(error)) => Err(self.failed("connecting", &error)),
            Err(_) => Err(self.timed_out("connecting", CONNECT_TIMEOUT)),
        }
    }

    /// A connection with an open transaction; it is rolled back where it is dropped without
    /// [`commit`](Session::commit).
    async fn transaction(&self) -> Result<Session<'_, Transaction<'static>>, StoreError> {
        match timeout(CONNECT_TIMEOUT, self.pool.start_transaction(TxOpts::default())).await {
            Ok(Ok(conn)) => Ok(Session { conn, server: self, is_useless: false }),
            Ok(Err(error)) => Err(self.failed("connecting", &error)),
            Err(_) => Err(self.timed_out("connecting", CONNECT_TIMEOUT)),
        }
    }

    async fn close(&self) {
        // Best effort: the server closes what we don't.
        let _ = timeout(CONNECT_TIMEOUT, self.pool.clone().disconnect()).await;
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
struct Session<'a, C = Conn> {
    conn: C,
    server: &'a Server,
    /// The server refused something that a new connection may be allowed: a privilege that was granted counts for new ones
    /// only, and behind the name of a writer that became read-only there may be another server now.
    is_useless: bool,
}

/// What a statement's own OK packet says.
struct Done {
    affected_rows: u64,
    last_insert_id: Option<NonZeroU64>,
}

/// A statement that failed: with the server's code, where it was the server that refused it.
struct Failed {
    server: Option<mysql_async::ServerError>,
    error: StoreError,
}

impl From<Failed> for StoreError {
    fn from(failed: Failed) -> Self {
        failed.error
    }
}

impl Session<'_> {
    /// Closes the connection where it is of no use any more; to be called after what may have failed.
    async fn close_if_useless(self) {
        if self.is_useless {
            // Best effort: the pool notices a broken one.
            let _ = timeout(CONNECT_TIMEOUT, self.conn.disconnect()).await;
        }
    }
}

impl Session<'_, Transaction<'static>> {
    /// Ends the transaction; what it did is durable.
    async fn commit(self) -> Result<(), StoreError> {
        let outcome = timeout(STATEMENT_TIMEOUT, self.conn.commit()).await;
        Ok(self.server.finished("COMMIT", outcome)?)
    }
}

impl<C: Queryable> Session<'_, C> {
    /// Runs a statement with values in the place of its `?`s.
    async fn execute_with(&mut self, sql: &str, values: Params) -> Result<(), Failed> {
        let outcome = timeout(STATEMENT_TIMEOUT, self.conn.exec_drop(sql, values)).await;
        self.finished(sql, outcome)
    }

    /// Runs a statement without a result.
    async fn execute(&mut self, sql: &str) -> Result<Done, Failed> {
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
    async fn rows<R: FromRow + Send + 'static>(&mut self, sql: &str) -> Result<Vec<R>, Failed> {
        let outcome = timeout(STATEMENT_TIMEOUT, self.conn.query(sql)).await;
        self.finished(sql, outcome)
    }

    fn finished<T>(
        &mut self,
        sql: &str,
        outcome: Result<mysql_async::Result<T>, tokio::time::error::Elapsed>,
    ) -> Result<T, Failed> {
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
        let doing: String = sql.split_whitespace().take(6).collect::<Vec<_>>().join(" ");
        match outcome {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                let failed = self.failed(&doing, &error);
                let server = if let mysql_async::Error::Server(server) = error { Some(server) } else { None };
                Err(Failed { server, error: failed })
            }
            Err(_) => Err(Failed { server: None, error: self.timed_out(&doing, STATEMENT_TIMEOUT) }),
        }
    }
}

/// Who a server is, in SQL that every lease asks anew: the connection may have moved.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Identity {
    /// An expression whose value is the identity: a cluster's own where there is one, for its nodes share the counter.
    expression: String,
}

/// The variables that tell which expression there is.
const IDENTITY_VARIABLES: &str = "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('version', 'version_comment', \
     'server_uuid', 'wsrep_on', 'group_replication_group_name')";

impl Identity {
    /// Chooses the expression. Refuses servers whose auto-increments do not rise.
    async fn of(session: &mut Session<'_>) -> Result<Self, StoreError> {
        let variables: Vec<(String, String)> = session.rows(IDENTITY_VARIABLES).await?;
        let value = |name: &str| {
            variables.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value.as_str())
        };
        let version = format!("{} {}", value("version"), value("version_comment"));
        for caching in ["TiDB", "Vitess"] {
            if version.to_ascii_lowercase().contains(&caching.to_ascii_lowercase()) {
                return Err(StoreError::new(
                    ErrorKind::Misconfigured,
                    format!(
                        "{}: this is {caching} ({version}), which caches auto-increment values per server: unique, but \
                         not rising. generator_table can't be used on it",
                        session.server.described
                    ),
                ));
            }
        }
        // `@@server_uuid` does not exist on MariaDB. Its `@@server_uid` is no identity: tried on 10.11, two servers with
        // data of their own had the same on the same port, and one server another on another port.
        let expression = if value("wsrep_on").eq_ignore_ascii_case("ON") {
            "(SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS \
              WHERE VARIABLE_NAME = 'WSREP_CLUSTER_STATE_UUID')"
        } else if !value("group_replication_group_name").is_empty() {
            "@@group_replication_group_name"
        } else if !value("server_uuid").is_empty() {
            "@@server_uuid"
        } else {
            "CONCAT(@@hostname, ':', @@port, ':', @@server_id)"
        };
        Ok(Self { expression: expression.to_owned() })
    }
}

/// The MySQL store: `default` in the layout that the database says, all others in the counter layout.
pub struct MySql {
    server: Arc<Server>,
    database: Database,
    tickets: Tickets,
    counters: Counters,
}

impl MySql {
    /// The store that `config` names; nothing is opened yet. `step` is the tickets'; `default_is_counter`: on a new database
    /// `default` begins in the counter layout; `may_make`: where there is nothing, it is made.
    pub fn new(
        config: &config::MySql,
        step: Step,
        default: NewSequence,
        default_is_counter: bool,
        may_make: bool,
        node: Arc<Node>,
    ) -> Self {
        let server = Arc::new(Server::new(config));
        Self {
            database: Database::new(server.clone(), step, default, default_is_counter, may_make, node.clone()),
            tickets: Tickets::new(server.clone(), step, node.clone()),
            counters: Counters::new(server.clone(), node),
            server,
        }
    }

    /// Whether `sequence` is in the ticket layout, by what is known of the database; unknown counts as yes for `default`.
    fn is_ticket(&self, sequence: &SequenceName) -> bool {
        sequence.is_default() && self.database.layout().is_none_or(|layout| layout == Layout::Tickets)
    }

    async fn edit(&self, name: &SequenceName, edit: Edit) -> Result<bool, StoreError> {
        let opened = self.database.opened(&mut self.server.connect().await?).await?;
        if name.is_default() && opened.layout == Layout::Tickets {
            return Err(StoreError::new(
                ErrorKind::Refused,
                "default is in the ticket layout (generator_table), where this can't be done. To move it to the counter \
                 layout: seqsvr migrate --counter",
            ));
        }
        self.counters.edit(&opened, name, &edit).await
    }

    /// To be called with what came of the work on `session`. What fails may have changed: it is looked at anew.
    async fn finish<T>(&self, session: Session<'_>, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
        let is_known = |kind| matches!(kind, ErrorKind::Conflict | ErrorKind::Exhausted | ErrorKind::Refused);
        if outcome.as_ref().is_err_and(|error| !is_known(error.kind)) {
            self.database.forget();
        }
        session.close_if_useless().await;
        outcome
    }
}

#[async_trait]
impl BlockStore for MySql {
    async fn lease(&self, sequence: &SequenceName, terms: Terms, want: NonZeroU64) -> Result<Leased, StoreError> {
        let mut session = self.server.connect().await?;
        let leased = async {
            let opened = self.database.opened(&mut session).await?;
            if sequence.is_default() && opened.layout == Layout::Tickets {
                self.database.check_layout()?;
                self.tickets.lease(&mut session, &opened, want).await
            } else {
                self.counters.lease(&mut session, &opened, sequence, terms, want).await
            }
        };
        let leased = leased.await;
        // Stale too: `default` may have moved to the other layout.
        self.finish(session, leased).await
    }

    async fn tidy(&self, sequence: &SequenceName) {
        if self.is_ticket(sequence) {
            self.tickets.tidy().await;
        }
    }

    /// A ticket is spent.
    fn takes_back(&self, sequence: &SequenceName) -> bool {
        !self.is_ticket(sequence)
    }

    async fn give_back(&self, sequence: &SequenceName, terms: Terms, tail: Block) -> Result<bool, StoreError> {
        let mut session = self.server.connect().await?;
        let given_back = async {
            let opened = self.database.opened(&mut session).await?;
            self.counters.give_back(&mut session, &opened, sequence, terms, tail).await
        };
        let given_back = given_back.await;
        self.finish(session, given_back).await
    }

    async fn find(&self, names: &[SequenceName]) -> Result<Vec<Definition>, StoreError> {
        let mut session = self.server.connect().await?;
        let found = async {
            let opened = self.database.opened(&mut session).await?;
            let mut found = self.counters.find(&mut session, names).await?;
            if opened.layout == Layout::Tickets && names.iter().any(SequenceName::is_default) {
                found.retain(|definition| !definition.name.is_default());
                found.push(self.tickets.definition());
            }
            Ok(found)
        };
        let found = found.await;
        self.finish(session, found).await
    }

    async fn revision(&self) -> Result<u64, StoreError> {
        let mut session = self.server.connect().await?;
        let revision = async {
            let opened = self.database.opened(&mut session).await?;
            self.database.revision(&mut session, &opened).await
        };
        let revision = revision.await;
        self.finish(session, revision).await
    }

    fn most_held(&self, sequence: &SequenceName, _terms: Terms) -> u64 {
        if self.is_ticket(sequence) { self.tickets.most_held() } else { u64::MAX }
    }

    fn describe(&self) -> String {
        self.server.described.clone()
    }

    async fn close(&self) {
        self.server.close().await;
    }
}

#[async_trait]
impl Catalog for MySql {
    async fn list(&self, after: Option<&SequenceName>, most: u32) -> Result<Vec<Definition>, StoreError> {
        let mut session = self.server.connect().await?;
        let opened = self.database.opened(&mut session).await?;
        let mut found = self.counters.list(&mut session, after, most).await?;
        if opened.layout == Layout::Tickets {
            let default = SequenceName::default();
            // A row of its name may be left of a move that was given up.
            found.retain(|definition| !definition.name.is_default());
            if after.is_none_or(|after| *after < default) {
                let at = found.partition_point(|definition| definition.name < default);
                // On a page that ends before it, it is not due yet.
                if at < found.len() || u32::try_from(found.len()).is_ok_and(|found| found < most) {
                    found.insert(at, self.tickets.definition());
                }
            }
        }
        Ok(found)
    }

    async fn create(&self, new: &NewSequence) -> Result<(), StoreError> {
        self.edit(&new.name, Edit::Create(new.clone())).await.map(drop)
    }

    async fn alter(&self, name: &SequenceName, change: &Change) -> Result<(), StoreError> {
        self.edit(name, Edit::Alter(change.clone())).await.map(drop)
    }

    async fn advance(&self, name: &SequenceName, next_id: u64) -> Result<bool, StoreError> {
        self.edit(name, Edit::Advance(next_id)).await
    }

    async fn delete(&self, name: &SequenceName) -> Result<(), StoreError> {
        self.edit(name, Edit::Delete).await.map(drop)
    }

    async fn move_default(&self) -> Result<String, StoreError> {
        let mut session = self.server.connect().await?;
        let opened = self.database.opened(&mut session).await?;
        let moved = self.move_default_on(&mut session, &opened).await;
        self.database.forget();
        moved
    }

    async fn examine(&self, expected: Expected<'_>) -> Vec<Finding> {
        examine::examine(&self.server, expected).await
    }

    async fn prune(&self, dry_run: bool) -> Result<Pruned, StoreError> {
        examine::prune(&self.server, dry_run).await
    }
}
