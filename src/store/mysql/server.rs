//! The driver's side of MySQL and MariaDB: the hosts, the pool, time-outs and errors.
//!
//! What always holds: every await on the database has a time-out, and a connection is used with `autocommit` on, so
//! that a statement whose OK has come is committed.

use std::io::ErrorKind as ErrorOfIo;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use mysql_async::prelude::{FromRow, Queryable};
use mysql_async::{
    ClientIdentity, Conn, DriverError, FromRowError, Opts, OptsBuilder, Pool, PoolConstraints, PoolOpts, Row, SslOpts,
    Transaction, TxOpts,
};
use tokio::sync::{OnceCell, Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use uuid::Uuid;

use super::addresses;
use super::identity::{HostStatus, Identity, Proof, READ_ONLY_QUERY, ReadOnly, TOKEN, is_writable};
use super::session::{STATEMENT_TIMEOUT, Session};
use super::{ErrorKind, StoreError};
use crate::config::{self, DatabaseHost, SslMode};
use crate::faults::{self, Guard as Switch};

pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// One for each lease that the refill runs at a time: 6, and 2 of sequences that fail. The looks for names and for changes share
/// them. They are opened when they are needed: with one sequence two work.
const MOST_CONNECTIONS: usize = 8;

/// While this many statements hang in the database, the node sends no more. At most [`MOST_CONNECTIONS`] can begin to hang at the
/// same time. [`ATTEMPTS_WHILE_AWAY`] more sessions check whether they ended, so a node has at most 10.
const MOST_HANGING: usize = 4;

/// The most hanging statements that are remembered, on all hosts together.
const MOST_HANGING_KNOWN: usize = 64;

/// An idle connection is not used again after this: firewalls forget connections, without a word.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// What the other hosts said holds for so long, where the host is stayed with. After a failover each sequence is fenced, and
/// all is looked at anew each time.
const ANSWERS_LAST: Duration = Duration::from_secs(5);

/// While connections work, a host name is looked up again after this: what it names may have changed.
const LOOK_UP_AGAIN: Duration = Duration::from_secs(10);

/// What each new connection is set to.
/// - `autocommit`: a server's `init_connect` may have turned it off.
/// - `sql_mode`: a number past the column's end must be an error, not a silently smaller number.
/// - The lock waits end before our statement time-out, so that no statement is left behind on the server.
/// - `wait_timeout`: a client that vanishes in a transaction must not keep the lock on `seqsvr_meta` for hours. Longer than a
///   connection is kept idle here, unless the server's own is shorter.
const SESSION: &str = "SET SESSION autocommit = 1, sql_mode = 'STRICT_ALL_TABLES', innodb_lock_wait_timeout = 1, lock_wait_timeout = 4, \
     wait_timeout = CAST(LEAST(@@global.wait_timeout, 120) AS UNSIGNED)";

/// The code of a server that does not know a variable.
const UNKNOWN_VARIABLE: u16 = 1193;

/// While the database does not answer, so many connections are tried at once: more would only hang beside each other.
const ATTEMPTS_WHILE_AWAY: usize = 2;

/// The connections to the database: to its only server, or to one of several hosts that stand in for each other.
///
/// Of several hosts one is used at a time, at first the first. It is left for the next one, and from the last for the first,
/// when it does not answer or takes no writes; else it is stayed with, whoever comes back meanwhile.
pub(super) struct Server {
    config: config::MySql,
    link: Mutex<Link>,
    /// The last connection or statement had no answer. Relaxed: who misses it for a moment only tries once more.
    is_away: AtomicBool,
    attempts: Semaphore,
    asked: tokio::sync::Mutex<Option<Asked>>,
    /// The statements that had no answer in time, and may still run.
    hanging: Mutex<Vec<Hanging>>,
    /// How many sessions there are. Relaxed: one more or less for a moment is not counted.
    in_use: AtomicUsize,
    /// The statement that also sets up each session, on a cluster.
    set_session: Mutex<Option<&'static str>>,
    /// Between this node and the database a proxy sends reads to another server than writes. Relaxed: who misses it for a moment
    /// reads from a replica once more, where its proof does not hold.
    is_split: AtomicBool,
    /// The name of the lock by which another host shows that it is the same server.
    lock: String,
}

/// What a session is opened for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// Statements that commit by themselves.
    Statements,
    /// A transaction, which has begun.
    Transaction,
}

/// A connection that the database did not answer in time. The server notices that it is closed only when its statement ends: a
/// commit that waits for a replica, or for room on the disk, keeps its session and locks.
struct Hanging {
    /// The place of its host in `mysql.host`.
    host: usize,
    /// By which the server knows it.
    id: u32,
    /// When the time-out was over: after the statement began.
    since: Instant,
}

/// Counts a session as long as it lives.
pub(super) struct InUse<'a>(&'a AtomicUsize);

impl<'a> InUse<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection, in a transaction or not.
#[async_trait]
pub(super) trait Connection: Queryable {
    /// By which the server knows it.
    fn id(&self) -> u32;

    /// Runs a query. Unlike [`Queryable::query`] it does not panic if a value is of another type than expected.
    async fn read<R: FromRow + Send + 'static>(&mut self, sql: &str) -> mysql_async::Result<Vec<R>> {
        let rows: Vec<Row> = self.query(sql).await?;
        let convert = |row| R::from_row_opt(row).map_err(|FromRowError(row)| DriverError::FromRow { row });
        Ok(rows.into_iter().map(convert).collect::<Result<_, _>>()?)
    }

    /// Runs a query in a transaction: a proxy that splits reads from writes sends that to the server that takes the writes.
    async fn query_in_transaction<R: FromRow + Send + 'static>(&mut self, sql: &str) -> mysql_async::Result<Vec<R>>;
}

#[async_trait]
impl Connection for Conn {
    fn id(&self) -> u32 {
        Self::id(self)
    }

    async fn query_in_transaction<R: FromRow + Send + 'static>(&mut self, sql: &str) -> mysql_async::Result<Vec<R>> {
        let mut transaction = self.start_transaction(TxOpts::default()).await?;
        let rows = transaction.read(sql).await?;
        transaction.commit().await?;
        Ok(rows)
    }
}

#[async_trait]
impl Connection for Transaction<'_> {
    fn id(&self) -> u32 {
        Conn::id(self)
    }

    async fn query_in_transaction<R: FromRow + Send + 'static>(&mut self, sql: &str) -> mysql_async::Result<Vec<R>> {
        self.read(sql).await
    }
}

/// The host that is used, and the idle connections to it.
struct Link {
    /// Of all that there were: who finds an older one of no use does not end this one.
    number: u64,
    /// Its place in `mysql.host`.
    host: usize,
    /// How often another host was gone to.
    moves: u64,
    /// Empty until the first session has looked up the host's name.
    pool: Arc<OnceCell<Reached>>,
    looked_up: Instant,
    /// Receives the addresses of the host's name, while they are looked up again.
    lookup: Option<oneshot::Receiver<Vec<IpAddr>>>,
    /// The host that was connected to last, for the log.
    last_connected: Option<usize>,
}

/// The pool of a host, all of whose connections lead to one address.
struct Reached {
    pool: Pool,
    /// `None` where no name was looked up.
    address: Option<IpAddr>,
}

/// What a host says of itself, or why it says nothing.
pub(super) type Answer = Result<HostStatus, String>;

/// What the hosts but one said when they were last asked, by their places; and how often was moved until then.
struct Asked {
    without: usize,
    moves: u64,
    /// The proof of who asked, which changes with the members of a cluster, and whether the tables were there.
    by: (String, bool),
    at: Instant,
    answers: Vec<(usize, Answer)>,
}

/// What a session remembers of the link that it came by.
#[derive(Clone, Copy)]
pub(super) struct Origin {
    number: u64,
    /// The place of its host in `mysql.host`.
    pub(super) host: usize,
}

impl Link {
    fn origin(&self) -> Origin {
        Origin { number: self.number, host: self.host }
    }

    /// Leads to `host`, which may be the same, by a new pool.
    fn lead_to(&mut self, host: usize) {
        self.number += 1;
        self.moves += u64::from(self.host != host);
        self.host = host;
        (self.lookup, self.looked_up) = (None, Instant::now());
        // The new pool is made with new options: only so are the files of the password and of certificates read again.
        let old = std::mem::take(&mut self.pool);
        if let Some(pool) = old.get().map(|reached| reached.pool.clone()) {
            // Who still uses one of its connections goes on; it is closed when it is given back.
            tokio::spawn(async move { timeout(CONNECT_TIMEOUT, pool.disconnect()).await });
        }
    }
}

impl Server {
    pub(super) fn new(config: &config::MySql) -> Self {
        let link = Link {
            number: 0,
            host: 0,
            moves: 0,
            pool: Arc::default(),
            looked_up: Instant::now(),
            lookup: None,
            last_connected: None,
        };
        Self {
            config: config.clone(),
            link: Mutex::new(link),
            is_away: AtomicBool::new(false),
            attempts: Semaphore::new(ATTEMPTS_WHILE_AWAY),
            asked: tokio::sync::Mutex::default(),
            hanging: Mutex::default(),
            in_use: AtomicUsize::new(0),
            set_session: Mutex::default(),
            is_split: AtomicBool::new(false),
            lock: format!("seqsvr-{}", Uuid::new_v4()),
        }
    }

    /// For people: `MySQL at tcp(localhost:3306), database sequence`. Without the password.
    pub(super) fn described(&self) -> String {
        format!("MySQL at {}, database {}", self.config.host, self.config.database)
    }

    /// The same of the host that is used now.
    pub(super) fn at(&self) -> String {
        self.at_host(self.link().host)
    }

    pub(super) fn at_host(&self, host: usize) -> String {
        format!("MySQL at {}, database {}", self.config.host.all()[host], self.config.database)
    }

    fn has_stand_ins(&self) -> bool {
        self.config.host.all().len() > 1
    }

    /// How many hosts there are.
    pub(super) fn hosts(&self) -> usize {
        self.config.host.all().len()
    }

    /// Whether a proxy sends reads to another server than writes.
    pub(super) fn is_split(&self) -> bool {
        self.is_split.load(Ordering::Relaxed)
    }

    /// Finds out whether a proxy sends reads to another server than writes: then the server says another name inside of a
    /// transaction than outside. Such a proxy may choose the reader at random, so it is asked twice.
    pub(super) async fn check_split(&self, session: &mut Session<'_>) -> Result<(), StoreError> {
        const NAME: &str = "SELECT CONCAT(@@hostname, ':', @@port, ':', @@global.server_id)";
        if self.is_split() {
            return Ok(());
        }
        let of_writer: Vec<String> = session.rows_in_transaction(NAME).await?;
        for _ in 0..2 {
            let of_reader: Vec<String> = session.rows(NAME).await?;
            if of_reader != of_writer && !self.is_split.swap(true, Ordering::Relaxed) {
                let (at, of_reader, of_writer) = (session.at(), of_reader.concat(), of_writer.concat());
                tracing::warn!(
                    "{at}: a proxy sends reads to {of_reader} and writes to {of_writer}. Each read is a transaction from now on, which \
                     costs two round trips. Let mysql.host lead to the server that takes writes"
                );
            }
        }
        Ok(())
    }

    pub(super) fn requires_durable(&self) -> bool {
        self.config.require_durable.0
    }

    /// From now on each session begins with this statement.
    pub(super) fn set_session(&self, sql: Option<&'static str>) {
        *self.set_session.lock().unwrap_or_else(PoisonError::into_inner) = sql;
    }

    /// A connection of the pool, or a new one.
    pub(super) async fn connect(&self) -> Result<Session<'_>, StoreError> {
        self.session(Use::Statements, |pool| async move { pool.get_conn().await }).await
    }

    /// A connection with an open transaction, to the host at the place `host`, whose tables were looked at; it is rolled back
    /// where it is dropped without [`commit`](Session::commit).
    pub(super) async fn transaction(&self, host: usize) -> Result<Session<'_, Transaction<'static>>, StoreError> {
        let begin = |pool: Pool| async move { pool.start_transaction(TxOpts::default()).await };
        let session = self.session(Use::Transaction, begin).await?;
        if session.origin.host != host {
            let what = format!("{}: it was {} a moment ago", self.at_host(session.origin.host), self.at_host(host));
            return Err(StoreError::new(ErrorKind::Conflict, what));
        }
        Ok(session)
    }

    /// Of the host that is used, or of the next one that can be: each is tried once, whatever other sessions try meanwhile.
    async fn session<C: Connection, F: Future<Output = mysql_async::Result<C>>>(
        &self,
        used_for: Use,
        connect: impl Fn(Pool) -> F,
    ) -> Result<Session<'_, C>, StoreError> {
        let mut turn = None;
        let mut errors = Vec::new();
        let mut tried = Vec::new();
        for _ in self.config.host.all() {
            if turn.is_none() && self.needs_turn() {
                let Ok(acquired) = timeout(CONNECT_TIMEOUT, self.attempts.acquire()).await else {
                    // It says nothing of the host, which is not left for it.
                    errors.push(self.timed_out(self.link().origin(), "waiting to connect", CONNECT_TIMEOUT));
                    break;
                };
                turn = acquired.ok();
            }
            let (origin, pool) = self.untried(&tried);
            tried.push(origin.host);
            match self.connect_to_one(used_for, origin, pool, &connect).await {
                Ok(conn) => {
                    let id = conn.id();
                    let turn = turn.filter(|_| self.needs_turn());
                    let in_use = InUse::new(&self.in_use);
                    let mut session =
                        Session { conn, id, server: self, origin, is_useless: false, _turn: turn, _in_use: in_use };
                    self.check_hanging(&mut session).await?;
                    return Ok(session);
                }
                Err(error) => errors.push(error),
            }
        }
        // One that is away may come back, whatever is wrong with the others.
        let passing = errors.iter().map(|error| error.kind).find(|kind| *kind == ErrorKind::Unavailable);
        let kind = passing.or(errors.first().map(|error| error.kind)).unwrap_or(ErrorKind::Unavailable);
        let what: Vec<String> = errors.into_iter().map(|error| error.what).collect();
        Err(StoreError::new(kind, what.join("; ")))
    }

    async fn connect_to_one<C: Connection, F: Future<Output = mysql_async::Result<C>>>(
        &self,
        used_for: Use,
        origin: Origin,
        pool: Arc<OnceCell<Reached>>,
        connect: impl Fn(Pool) -> F,
    ) -> Result<C, StoreError> {
        let attempt = async {
            let mut conn = self.take(origin.host, &pool, connect).await?;
            let set_session = *self.set_session.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(sql) = set_session {
                // Group Replication allows it outside of a transaction only.
                if used_for == Use::Transaction {
                    conn.query_drop("ROLLBACK").await?;
                }
                match conn.query_drop(sql).await {
                    // The stand-in of a cluster need not be one.
                    Err(mysql_async::Error::Server(error)) if error.code == UNKNOWN_VARIABLE => {}
                    outcome => outcome?,
                }
                if used_for == Use::Transaction {
                    conn.query_drop("START TRANSACTION").await?;
                }
            }
            // A stand-in is left alone until it is the primary, whatever the account may do there.
            let takes_writes = !self.has_stand_ins() || {
                let read_only: Vec<ReadOnly> = conn.read(READ_ONLY_QUERY).await?;
                // A proxy that splits reads from writes asks a replica.
                is_writable(read_only.first()) || is_writable(conn.query_in_transaction(READ_ONLY_QUERY).await?.first())
            };
            Ok((conn, takes_writes))
        };
        let error = match timeout(CONNECT_TIMEOUT, attempt).await {
            Ok(Ok((conn, true))) => {
                if self.has_stand_ins() {
                    self.heard(origin, true);
                }
                self.tell(origin);
                return Ok(conn);
            }
            Ok(Ok((_, false))) => {
                StoreError::new(ErrorKind::Unavailable, format!("{}: it is read-only", self.at_host(origin.host)))
            }
            Ok(Err(error)) => {
                self.heard(origin, !is_without_answer(&error));
                self.failed(origin, "connecting", &error)
            }
            Err(_) => {
                self.heard(origin, false);
                self.timed_out(origin, "connecting", CONNECT_TIMEOUT)
            }
        };
        // Of one host its account, or a certificate, may have been put right: only a new pool sees that.
        if self.has_stand_ins() || error.kind == ErrorKind::Misconfigured {
            self.leave(origin);
        }
        Err(error)
    }

    /// Takes a connection of the pool `reached`. The first caller makes the pool: of a name with several addresses, to the
    /// first that answers.
    async fn take<C, F: Future<Output = mysql_async::Result<C>>>(
        &self,
        host: usize,
        reached: &OnceCell<Reached>,
        connect: impl Fn(Pool) -> F,
    ) -> mysql_async::Result<C> {
        let host = &self.config.host.all()[host];
        let lead_to = |address| Reached { pool: Pool::new(options(&self.config, host, address)), address };
        let mut first = None;
        let reach = async || match &addresses_of(host).await?[..] {
            [] => Ok(lead_to(None)),
            [address] => Ok(lead_to(Some(*address))),
            several => {
                let connect = async |address| {
                    let reached = lead_to(Some(address));
                    Ok((connect(reached.pool.clone()).await?, reached))
                };
                let (conn, reached) = first_answer(several, connect).await?;
                first = Some(conn);
                Ok::<_, mysql_async::Error>(reached)
            }
        };
        let pool = &reached.get_or_try_init(reach).await?.pool;
        match first {
            Some(conn) => Ok(conn),
            None => connect(pool.clone()).await,
        }
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of another host than before.
    fn tell(&self, origin: Origin) {
        let before = self.link().last_connected.replace(origin.host);
        if let Some(before) = before.filter(|before| *before != origin.host) {
            tracing::warn!("{} is used now; it was {}", self.at_host(origin.host), self.config.host.all()[before]);
        }
    }

    /// Takes in whether there was an answer. Where none comes, what is idle is closed: a connection that hangs looks like one
    /// that does not, and would cost a time-out when it is taken.
    pub(super) fn heard(&self, origin: Origin, is_answer: bool) {
        // What comes late, from a link of before, says nothing of this one.
        if self.link().number != origin.number {
            return;
        }
        self.is_away.store(!is_answer, Ordering::Relaxed);
        if !is_answer {
            self.leave(origin);
        }
    }

    /// To the next host, which may be the same, if it is still the one of `origin`.
    pub(super) fn leave(&self, origin: Origin) {
        self.replace(origin, (origin.host + 1) % self.config.host.all().len());
    }

    /// Makes the pool anew: no connection of now is used again.
    pub(super) fn renew(&self, origin: Origin) {
        self.replace(origin, origin.host);
    }

    /// The host that is used, and its pool. Where others have gone back to one of the hosts that were `tried`, the next host that
    /// was not.
    fn untried(&self, tried: &[usize]) -> (Origin, Arc<OnceCell<Reached>>) {
        let mut link = self.link();
        let hosts = self.config.host.all().len();
        let untried = (0..hosts).map(|n| (link.host + n) % hosts).find(|host| !tried.contains(host));
        if let Some(host) = untried.filter(|host| *host != link.host) {
            link.lead_to(host);
        }
        self.follow_name(&mut link);
        (link.origin(), link.pool.clone())
    }

    /// Replaces the pool if the host's name does not have its address any more. The name is looked up beside the sessions, which
    /// go on if nobody answers that.
    fn follow_name(&self, link: &mut Link) {
        let Some(address) = link.pool.get().and_then(|reached| reached.address) else { return };
        if let Some(lookup) = &mut link.lookup {
            match lookup.try_recv() {
                Ok(addresses) if !addresses.is_empty() && !addresses.contains(&address) => {
                    link.lead_to(link.host);
                }
                Err(oneshot::error::TryRecvError::Empty) => {}
                _ => (link.lookup, link.looked_up) = (None, Instant::now()),
            }
        } else if link.looked_up.elapsed() >= LOOK_UP_AGAIN {
            let (found, lookup) = oneshot::channel();
            let host = self.config.host.all()[link.host].clone();
            tokio::spawn(async move {
                if let Ok(addresses) = addresses_of(&host).await {
                    // Nobody waits for it where another host is used by now.
                    let _ = found.send(addresses);
                }
            });
            link.lookup = Some(lookup);
        }
    }

    fn replace(&self, origin: Origin, host: usize) {
        let mut link = self.link();
        if link.number == origin.number {
            link.lead_to(host);
        }
    }

    /// The hosts other than that of `session`, which has `identity`, and what each says of itself, or why it says nothing.
    /// Callers at about the same time share one look: a host that hangs has one such connection, and is waited for once.
    pub(super) async fn others(
        self: &Arc<Self>,
        session: &mut Session<'_>,
        identity: &Identity,
        has_meta: bool,
    ) -> Result<Vec<(DatabaseHost, Answer)>, StoreError> {
        let (began, host) = (Instant::now(), session.origin.host);
        let all = self.config.host.all();
        if all.len() < 2 {
            return Ok(Vec::new());
        }
        let mut asked = self.asked.lock().await;
        let moves = self.link().moves;
        let by = (identity.proof.clone(), has_meta);
        let is_fresh = |asked: &Asked| {
            (asked.without, asked.moves, &asked.by) == (host, moves, &by) && asked.at + ANSWERS_LAST >= began
        };
        if !asked.as_ref().is_some_and(is_fresh) {
            if identity.is_shown_by_lock() {
                let _: Vec<Option<u64>> = session.rows(&format!("SELECT GET_LOCK('{}', 0)", self.lock)).await?;
            }
            let answers = self.ask_all(host, identity, has_meta).await;
            if identity.is_shown_by_lock() {
                let _: Vec<Option<u64>> = session.rows(&format!("SELECT RELEASE_LOCK('{}')", self.lock)).await?;
            }
            let answers = self.show_token(session, answers).await?;
            *asked = Some(Asked { without: host, moves, by, at: Instant::now(), answers });
        }
        let answers = asked.iter().flat_map(|asked| &asked.answers);
        Ok(answers.map(|(n, answer)| (all[*n].clone(), answer.clone())).collect())
    }

    /// What all hosts but the one with the index `host` say, side by side.
    async fn ask_all(self: &Arc<Self>, host: usize, identity: &Identity, has_meta: bool) -> Vec<(usize, Answer)> {
        let mut asking = JoinSet::new();
        for n in (0..self.config.host.all().len()).filter(|n| *n != host) {
            let (server, identity) = (self.clone(), identity.clone());
            asking.spawn(async move {
                let ask =
                    async |session: &mut Session<'_>| HostStatus::ask(session, &identity, &server.lock, has_meta).await;
                (n, server.ask(n, ask).await)
            });
        }
        let mut answers = asking.join_all().await;
        answers.sort_by_key(|(n, _)| *n);
        answers
    }

    /// Has the nodes of a Galera cluster show a token that is written here, once it is known which of them answer: other nodes
    /// may write theirs at any time, so this must be quick. One that is read here too, afterwards, is as good as ours.
    async fn show_token(
        self: &Arc<Self>,
        session: &mut Session<'_>,
        mut answers: Vec<(usize, Answer)>,
    ) -> Result<Vec<(usize, Answer)>, StoreError> {
        let is_due = |answer: &Answer| answer.as_ref().is_ok_and(|status| status.proof == Proof::ByToken);
        if !answers.iter().any(|(_, answer)| is_due(answer)) {
            return Ok(answers);
        }
        let own = Uuid::new_v4().to_string();
        session.execute(&format!("UPDATE seqsvr_meta SET token = '{own}' WHERE id = 1")).await?;
        let mut asking = JoinSet::new();
        for (place, (host, _)) in answers.iter().enumerate().filter(|(_, (_, answer))| is_due(answer)) {
            let (server, host) = (self.clone(), *host);
            asking.spawn(async move {
                let ask = async |session: &mut Session<'_>| Ok(session.rows::<String>(TOKEN).await?);
                (place, server.ask(host, ask).await)
            });
        }
        let shown = asking.join_all().await;
        let here: Vec<String> = session.rows(TOKEN).await?;
        for (place, tokens) in shown {
            let answer = &mut answers[place].1;
            match tokens {
                Err(why) => *answer = Err(why),
                Ok(tokens) if tokens.first() == Some(&own) || tokens == here => {
                    answer.as_mut().expect("it answered").proof = Proof::Shown;
                }
                Ok(_) if here.first() != Some(&own) => {
                    let what = format!("{}: another node looks at the hosts at the same time", session.at());
                    return Err(StoreError::new(ErrorKind::Conflict, what));
                }
                Ok(_) => answer.as_mut().expect("it answered").proof = Proof::Missing,
            }
        }
        Ok(answers)
    }

    /// Asks the host with the index `host` over a separate connection.
    async fn ask<T>(
        &self,
        host: usize,
        ask: impl AsyncFnOnce(&mut Session<'_>) -> Result<T, StoreError>,
    ) -> Result<T, String> {
        let answer = async {
            let conn = self.connect_apart(host).await.map_err(|error| error.to_string())?;
            // No link has this number: an error of this host must not affect the one that is used.
            let origin = Origin { number: u64::MAX, host };
            let id = conn.id();
            let in_use = InUse::new(&self.in_use);
            let mut session =
                Session { conn, id, server: self, origin, is_useless: true, _turn: None, _in_use: in_use };
            let answer = ask(&mut session).await;
            session.close_if_useless().await;
            answer.map_err(|error| error.what)
        };
        let late = |_| format!("no answer within {} s", CONNECT_TIMEOUT.as_secs());
        timeout(CONNECT_TIMEOUT, answer).await.map_err(late).and_then(|answer| answer)
    }

    /// Takes in that a statement had no answer in time.
    pub(super) fn hangs(&self, origin: Origin, id: u32) {
        let mut all = self.all_hanging();
        if all.len() < MOST_HANGING_KNOWN {
            all.push(Hanging { host: origin.host, id, since: Instant::now() });
        }
    }

    fn all_hanging(&self) -> MutexGuard<'_, Vec<Hanging>> {
        self.hanging.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether only [`ATTEMPTS_WHILE_AWAY`] sessions may begin at a time. What hangs on a host that was left does not slow down
    /// the one that is used.
    fn needs_turn(&self) -> bool {
        let host = self.link().host;
        self.is_away.load(Ordering::Relaxed) || self.all_hanging().iter().any(|hanging| hanging.host == host)
    }

    /// Fails while statements of this node hang in the database, and with those under way, which may hang too, there are
    /// [`MOST_HANGING`]. Each one more would keep a session there, up to the last one that the database allows, and use up a block.
    async fn check_hanging(&self, session: &mut Session<'_, impl Connection>) -> Result<(), StoreError> {
        let host = session.origin.host;
        let at_host = |all: &[Hanging]| -> Vec<(u32, Instant)> {
            all.iter().filter(|one| one.host == host).map(|one| (one.id, one.since)).collect()
        };
        let known = at_host(&self.all_hanging());
        if known.is_empty() {
            return Ok(());
        }
        let ids: Vec<String> = known.iter().map(|(id, _)| id.to_string()).collect();
        // After a restart of the server another connection may have the ID: its statement is younger.
        let sql = format!(
            "SELECT ID, TIME FROM information_schema.PROCESSLIST WHERE COMMAND <> 'Sleep' AND ID IN ({})",
            ids.join(",")
        );
        let running: Vec<(u32, i64)> = session.rows(&sql).await?;
        let hangs = |id: u32, since: Instant| {
            let age = i64::try_from(since.elapsed().as_secs()).unwrap_or(i64::MAX);
            running.iter().any(|(running, seconds)| *running == id && *seconds >= age)
        };
        let mut all = self.all_hanging();
        all.retain(|one| one.host != host || hangs(one.id, one.since) || !known.contains(&(one.id, one.since)));
        let hanging = at_host(&all);
        let others = self.in_use.load(Ordering::Relaxed).saturating_sub(1);
        match hanging.iter().map(|(_, since)| since.elapsed()).max() {
            Some(longest) if hanging.len() + others >= MOST_HANGING => Err(StoreError::new(
                ErrorKind::Unavailable,
                format!(
                    "{}: {} statements of this node hang there, the first for {} s, and no other is sent until one ends. Does it wait \
                     for a replica (semi-synchronous replication), for a majority of its group, or for room on its disk? See SHOW \
                     PROCESSLIST",
                    session.at(),
                    hanging.len(),
                    (longest + STATEMENT_TIMEOUT).as_secs()
                ),
            )),
            _ => Ok(()),
        }
    }

    /// A connection of no pool.
    async fn connect_apart(&self, host: usize) -> mysql_async::Result<Conn> {
        let host = &self.config.host.all()[host];
        let connect = async |address| Conn::new(options(&self.config, host, address)).await;
        match &addresses_of(host).await?[..] {
            [] => connect(None).await,
            addresses => first_answer(addresses, async |address| connect(Some(address)).await).await,
        }
    }

    pub(super) async fn close(&self) {
        let reached = self.link().pool.clone();
        if let Some(Reached { pool, .. }) = reached.get() {
            // Best effort: the server closes what we don't.
            let _ = timeout(CONNECT_TIMEOUT, pool.clone().disconnect()).await;
        }
    }

    pub(super) fn timed_out(&self, origin: Origin, doing: &str, after: Duration) -> StoreError {
        let at = self.at_host(origin.host);
        StoreError::new(ErrorKind::Unavailable, format!("{at}: {doing} took longer than {} s", after.as_secs()))
    }

    pub(super) fn failed(&self, origin: Origin, doing: &str, error: &mysql_async::Error) -> StoreError {
        let (kind, why, hint) = match error {
            mysql_async::Error::Server(error) => {
                let (kind, hint) = classify(error, &self.config);
                (kind, format!("error {}: {}", error.code, error.message), hint)
            }
            mysql_async::Error::Io(mysql_async::IoError::Io(error)) => {
                let why = error.to_string();
                let hint = match error.kind() {
                    ErrorOfIo::ConnectionRefused => ". Is the database running, and is mysql.host right?",
                    _ if why.contains(BAD_CERTIFICATE) => BAD_CERTIFICATE_HINT,
                    _ => "",
                };
                (ErrorKind::Unavailable, why, hint)
            }
            // Made of our own files, before anything is sent.
            mysql_async::Error::Io(mysql_async::IoError::Tls(error)) => (
                ErrorKind::Misconfigured,
                error.to_string(),
                ". Check the files that mysql.ssl_ca, ssl_cert and ssl_key name, and mysql.host",
            ),
            mysql_async::Error::Driver(DriverError::NoClientSslFlagFromServer) => (
                ErrorKind::Misconfigured,
                "the server has no TLS, which mysql.ssl_mode asks for".to_owned(),
                ". Set it up there, or set ssl_mode: disabled",
            ),
            other => match unsupported_plugin(other) {
                Some(plugin) => (
                    ErrorKind::Misconfigured,
                    format!("the account authenticates by {plugin}, which seqsvr does not support"),
                    OTHER_PLUGIN,
                ),
                None => (ErrorKind::Unavailable, other.to_string(), ""),
            },
        };
        StoreError::new(kind, format!("{}: {doing}: {why}{hint}", self.at_host(origin.host)))
    }
}

/// How rustls begins what it has against a server's certificate.
const BAD_CERTIFICATE: &str = "invalid peer certificate";

const BAD_CERTIFICATE_HINT: &str = ". mysql.ssl_mode: verify_identity refuses it: the certificate must be of an authority of \
                                    mysql.ssl_ca, for the name in mysql.host, and not expired";

const OTHER_PLUGIN: &str = ". Run ALTER USER to let it use caching_sha2_password (MySQL), or ed25519, parsec or \
                            mysql_native_password (MariaDB)";

/// The plugin that the server asked for, if it is the reason of `error`.
fn unsupported_plugin(error: &mysql_async::Error) -> Option<&str> {
    let mysql_async::Error::Driver(error) = error else { return None };
    match error {
        DriverError::UnknownAuthPlugin { name } => Some(name),
        DriverError::CleartextPluginDisabled => Some("mysql_clear_password"),
        DriverError::MysqlOldPasswordDisabled => Some("mysql_old_password"),
        _ => None,
    }
}

/// The addresses of `host` to choose from: none for a socket, or an address, which the driver connects to by itself.
async fn addresses_of(host: &DatabaseHost) -> std::io::Result<Vec<IpAddr>> {
    match host {
        DatabaseHost::Tcp { host, port } if host.parse::<IpAddr>().is_err() => addresses::look_up(host, *port).await,
        _ => Ok(Vec::new()),
    }
}

/// Connects to the first of `addresses` that answers, be it with an error.
async fn first_answer<T, F: Future<Output = mysql_async::Result<T>>>(
    addresses: &[IpAddr],
    connect: impl Fn(IpAddr) -> F,
) -> mysql_async::Result<T> {
    let is_answer = |error: &mysql_async::Error| match error {
        // rustls has something against the other side, or that against us.
        mysql_async::Error::Io(mysql_async::IoError::Io(error)) => error.kind() == ErrorOfIo::InvalidData,
        error => !is_without_answer(error),
    };
    let outcome = addresses::race(addresses, CONNECT_TIMEOUT, connect, is_answer).await;
    outcome.unwrap_or_else(|| Err(std::io::Error::from(ErrorOfIo::NotFound).into()))
}

/// Whether the error says that nobody answered.
pub(super) fn is_without_answer(error: &mysql_async::Error) -> bool {
    matches!(error, mysql_async::Error::Io(_))
}

/// The codes of a server, or a transaction, that may not write. 1047 is a Galera node that is cut off or not ready. 1036 and 1874
/// come from InnoDB if only the engine is read-only (`innodb_read_only`).
pub(super) const READ_ONLY: [u16; 6] = [1036, 1047, 1290, 1792, 1836, 1874];

/// What a server's error code means for a lease, and what to add to its message.
fn classify(error: &mysql_async::ServerError, config: &config::MySql) -> (ErrorKind, &'static str) {
    match error.code {
        // A deadlock at COMMIT, on several primaries of Group Replication.
        1180 if error.message.contains("149") => (ErrorKind::Conflict, ""),
        // Lock wait time-out, deadlock (also Galera's certification failure, which comes at COMMIT too), Group Replication's
        // certification failure; a record that changed since the last read, on MariaDB with innodb_snapshot_isolation.
        1020 | 1205 | 1213 | 3101 => (ErrorKind::Conflict, ""),
        1045 => (
            ErrorKind::Misconfigured,
            match (config.ssl_mode, &config.ssl_cert) {
                // The code is the same where it is TLS that is missing.
                (SslMode::Disabled, _) => {
                    ". Check mysql.user and mysql.password, and from where the account may log in. If it requires TLS \
                     (REQUIRE SSL), set mysql.ssl_mode"
                }
                (_, None) => {
                    ". Check mysql.user and mysql.password, and from where the account may log in. If it requires a \
                     certificate (REQUIRE X509), set mysql.ssl_cert and mysql.ssl_key"
                }
                (_, Some(_)) => {
                    ". Check mysql.user, mysql.password and mysql.ssl_cert, and from where the account may log in"
                }
            },
        ),
        1698 => (
            ErrorKind::Misconfigured,
            ". Check mysql.user. An account of the plugin unix_socket or auth_socket needs mysql.host: unix(/path), and a \
             process of the same name; or give it a password",
        ),
        3159 => (ErrorKind::Misconfigured, ". Set mysql.ssl_mode: required or verify_identity"),
        // MySQL's code, and MariaDB's.
        3118 | 4151 => (ErrorKind::Misconfigured, ". Run ALTER USER ... ACCOUNT UNLOCK"),
        1820 | 1862 => {
            (ErrorKind::Misconfigured, ". Set a new one with ALTER USER ... IDENTIFIED BY, and in mysql.password")
        }
        3955 => (ErrorKind::Misconfigured, ". Check mysql.password, then run ALTER USER ... ACCOUNT UNLOCK"),
        4150 => (ErrorKind::Misconfigured, ". Check mysql.password, then run FLUSH PRIVILEGES"),
        1130 => (
            ErrorKind::Misconfigured,
            ". No account may connect from this machine: create one for its address, as CREATE USER 'seqsvr'@'10.0.%'",
        ),
        1251 | 1524 => (ErrorKind::Misconfigured, OTHER_PLUGIN),
        1129 => (ErrorKind::Unavailable, ". Find out what breaks the connections, then run FLUSH HOSTS"),
        1040 => (ErrorKind::Unavailable, ". Raise max_connections there: a node has up to 10"),
        1203 | 1226 => (
            ErrorKind::Unavailable,
            ". The account has a limit, such as MAX_USER_CONNECTIONS: a node has up to 10 connections",
        ),
        1049 => (ErrorKind::Misconfigured, ". Check mysql.database, or create it: CREATE DATABASE"),
        1044 | 1142 | 1143 => (ErrorKind::Misconfigured, ". The account lacks a privilege: GRANT it"),
        _ => (ErrorKind::Unavailable, ""),
    }
}

/// How `host` is connected to, at `address` if its name was looked up. The certificate must be for the name in any case.
fn options(config: &config::MySql, host: &DatabaseHost, address: Option<IpAddr>) -> Opts {
    let constraints = PoolConstraints::new(1, MOST_CONNECTIONS).expect("1 is not above it");
    let password = config.password();
    let options = OptsBuilder::default()
        .user(Some(&config.user))
        .pass(Some(password.expose()).filter(|password| !password.is_empty()))
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
    let options = match host {
        DatabaseHost::Tcp { host, port } => {
            options.ip_or_hostname(host).tcp_port(*port).resolved_ips(address.map(|address| vec![address]))
        }
        DatabaseHost::Unix(path) => options.socket(path.to_str()),
    };
    Opts::from(options)
}

fn ssl(config: &config::MySql) -> Option<SslOpts> {
    let options = match (config.ssl_mode, &config.ssl_ca) {
        (SslMode::Disabled, _) => return None,
        (SslMode::Required, _) => SslOpts::default().with_danger_accept_invalid_certs(true),
        (SslMode::VerifyIdentity, None) => SslOpts::default(),
        (SslMode::VerifyIdentity, Some(ca)) => {
            SslOpts::default().with_root_certs(vec![ca.clone().into()]).with_disable_built_in_roots(true)
        }
    };
    let own = config.ssl_cert.clone().zip(config.ssl_key.clone());
    Some(options.with_client_identity(own.map(|(cert, key)| ClientIdentity::new(cert.into(), key.into()))))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn each_host_is_tried_by_each_of_several_sessions() {
        // Bound and not listening any more: connections are refused.
        let ports = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port());
        let hosts = ports.map(|port| format!("127.0.0.1:{port}"));
        let config = format!("{{user: root, database: sequence, host: '{}'}}", hosts.join(", "));
        for _ in 0..200 {
            let server = Server::new(&serde_yaml::from_str(&config).unwrap());
            let (one, two, three) = tokio::join!(server.connect(), server.connect(), server.connect());
            for session in [one, two, three] {
                let error = session.err().expect("nobody listens");
                for host in &hosts {
                    assert_eq!(error.what.matches(host).count(), 1, "{host}: {}", error.what);
                }
            }
        }
    }
}
