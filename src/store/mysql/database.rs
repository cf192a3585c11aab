//! The database as a whole: who serves it, whose ids are in it, and in which layout `default` is. It is looked at, and what
//! is missing is made, before the first lease and after an error.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use tokio::time::sleep;

use super::engines;
use super::identity::{ONE_IS_TO_WRITE, Role};
use super::{ErrorKind, Identity, Server, Session, StoreError};
use crate::config::{NewSequence, Step};
use crate::faults::{self, Guard as Switch};
use crate::node::Node;

/// The seed's DDL, word for word.
pub(super) const CREATE_GENERATOR_TABLE: &str = "CREATE TABLE IF NOT EXISTS `generator_table` (
  `id` int(11) NOT NULL AUTO_INCREMENT,
  `uuid` char(36) NOT NULL COMMENT 'Machine identification',
  PRIMARY KEY (`id`),
  UNIQUE KEY `id_UNIQUE` (`id`),
  UNIQUE KEY `stub_UNIQUE` (`uuid`) USING BTREE
) ENGINE=InnoDB DEFAULT CHARSET=utf8 COLLATE=utf8_unicode_ci";

/// One row, made by the first node.
pub(super) const CREATE_META: &str = "CREATE TABLE IF NOT EXISTS seqsvr_meta (
  id           TINYINT UNSIGNED NOT NULL PRIMARY KEY,  -- always 1
  step         INT UNSIGNED     NOT NULL,              -- ids per ticket
  first_ticket BIGINT UNSIGNED  NOT NULL,              -- tickets below it are not handed out
  state        VARCHAR(16)  CHARACTER SET ascii COLLATE ascii_bin NOT NULL,  -- ok, regressed, migrating-..., moved
  server       VARCHAR(128) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,  -- the server that the tickets were last fenced for
  store_id     CHAR(36)     CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  revision     BIGINT UNSIGNED  NOT NULL DEFAULT 1     -- +1 whenever a sequence is created, altered, advanced or deleted
) ENGINE=InnoDB";

/// One row a sequence.
pub(super) const CREATE_SEQUENCE: &str = "CREATE TABLE IF NOT EXISTS seqsvr_sequence (
  name        VARCHAR(128) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
  next_id     BIGINT UNSIGNED NOT NULL,                      -- the first id that no lease covers
  step        INT UNSIGNED    NOT NULL,                      -- ids of the smallest block
  max_id      BIGINT UNSIGNED NOT NULL DEFAULT 9007199254740991,  -- the largest id, at most 2^63 - 2
  server      VARCHAR(192) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,  -- the server and store_id that next_id was last fenced for
  incarnation INT UNSIGNED    NOT NULL DEFAULT 1,            -- +1 when it is advanced, or created again
  deleted_at  TIMESTAMP       NULL DEFAULT NULL,             -- a tombstone: created again, it goes on from next_id
  description VARCHAR(255) CHARACTER SET utf8mb4 NOT NULL DEFAULT '',
  created_at  TIMESTAMP       NOT NULL DEFAULT CURRENT_TIMESTAMP,
  updated_at  TIMESTAMP       NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP
) ENGINE=InnoDB";

/// The `state` of `seqsvr_meta` that says that `default` is in the counter layout.
pub(super) const MOVED: &str = "moved";

/// So long the tables of a new database may take to be made by another node.
const PAUSE_BEFORE_LOOK: Duration = Duration::from_millis(200);

/// Where `default` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// In `generator_table`.
    Tickets,
    /// In `seqsvr_sequence`.
    Counter,
}

/// What was found.
#[derive(Debug)]
pub(super) struct Opened {
    /// The place in `mysql.host` of the host where it was found.
    pub(super) host: usize,
    pub(super) identity: Identity,
    pub(super) store_id: String,
    pub(super) layout: Layout,
}

impl Opened {
    /// SQL for what a counter's `server` must be: the server that is connected and the store. So a lease that lands in
    /// another database, whose counters are in order for themselves, gets nothing.
    pub(super) fn fence(&self) -> String {
        format!("CONCAT({}, ' {}')", self.identity.expression, self.store_id)
    }

    /// Whether `server`, of a row, is of this store: only then may it be another server after a failover. Else the row was
    /// copied from another database.
    pub(super) fn is_of_this_store(&self, server: &str) -> bool {
        server.rsplit_once(' ').is_some_and(|(_, store_id)| store_id == self.store_id)
    }

    /// The value of [`fence`](Self::fence) where `session` is connected.
    pub(super) async fn read_fence(&self, session: &mut Session<'_, impl Queryable>) -> Result<String, StoreError> {
        let rows: Vec<Option<String>> = session.rows(&format!("SELECT {}", self.fence())).await?;
        Ok(rows.into_iter().next().flatten().unwrap_or_default())
    }
}

/// The row of `seqsvr_meta`, as far as it matters here.
struct Meta {
    store_id: String,
    layout: Layout,
    revision: u64,
}

pub(super) struct Database {
    server: Arc<Server>,
    /// The tickets', by the configuration.
    step: Step,
    /// `default`, as it is made in the counter layout.
    default: NewSequence,
    /// The configuration declares `default` as a sequence of the counter layout.
    default_is_counter: bool,
    /// Where there is nothing, it is made.
    may_make: bool,
    node: Arc<Node>,
    opened: Mutex<Option<Arc<Opened>>>,
}

impl Database {
    pub(super) fn new(
        server: Arc<Server>,
        step: Step,
        default: NewSequence,
        default_is_counter: bool,
        may_make: bool,
        node: Arc<Node>,
    ) -> Self {
        Self { server, step, default, default_is_counter, may_make, node, opened: Mutex::default() }
    }

    /// What was found when it was last opened; opens it where that is due, as on another host. Two that open it at once both
    /// look: a look that hangs holds up nobody else.
    pub(super) async fn opened(&self, session: &mut Session<'_>) -> Result<Arc<Opened>, StoreError> {
        if let Some(opened) = self.slot().as_ref().filter(|opened| opened.host == session.origin.host) {
            return Ok(opened.clone());
        }
        let opened = Arc::new(self.open(session).await?);
        *self.slot() = Some(opened.clone());
        Ok(opened)
    }

    /// The next one who needs it looks anew.
    pub(super) fn forget(&self) {
        *self.slot() = None;
    }

    /// Where `default` is, if that is known.
    pub(super) fn layout(&self) -> Option<Layout> {
        self.slot().as_ref().map(|opened| opened.layout)
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Arc<Opened>>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The revision of the definitions. Forgets what was found if `default` moved since.
    pub(super) async fn revision(&self, session: &mut Session<'_>, opened: &Opened) -> Result<u64, StoreError> {
        let rows: Vec<(u64, String)> = session.rows("SELECT revision, state FROM seqsvr_meta WHERE id = 1").await?;
        let (revision, state) = rows.into_iter().next().ok_or_else(|| self.no_meta())?;
        if layout_of(&state) != opened.layout {
            self.forget();
        }
        Ok(revision)
    }

    /// Where `default` is in the ticket layout: the configuration must not say otherwise.
    pub(super) fn check_layout(&self) -> Result<(), StoreError> {
        if !self.default_is_counter {
            return Ok(());
        }
        Err(self.misconfigured(
            "the configuration declares the sequence default, but its ids are leased from generator_table here. Run \
             `seqsvr migrate --counter` to move it, or remove it from the configuration's sequences",
        ))
    }

    /// Leases nothing: looks, and makes what is missing. What seems to be gone is looked for twice: another node may make
    /// tables and rows just now, between one look and the next.
    async fn open(&self, session: &mut Session<'_>) -> Result<Opened, StoreError> {
        match self.look_and_make(session).await {
            Err(error) if error.kind == ErrorKind::Misconfigured => {
                sleep(PAUSE_BEFORE_LOOK).await;
                self.look_and_make(session).await
            }
            outcome => outcome,
        }
    }

    async fn look_and_make(&self, session: &mut Session<'_>) -> Result<Opened, StoreError> {
        let identity = Identity::of(session).await?;
        check_only_writer(session, &identity).await?;
        engines::check(session).await?;
        let tables: Vec<String> = session
            .rows(
                "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() \
                 AND TABLE_NAME IN ('generator_table', 'generator_table_moved', 'seqsvr_meta', 'seqsvr_sequence')",
            )
            .await?;
        let has = |name: &str| tables.iter().any(|table| table == name);
        let mut found = if has("seqsvr_meta") { meta(session).await? } else { None };
        if found.is_none() {
            // Before anything is made: this may be another database than the one the node leased from.
            self.check_store(None)?;
            // Taken for new, counters in them would begin anew.
            let is_used = has("seqsvr_sequence")
                && !session.rows::<u64>("SELECT 1 FROM seqsvr_sequence LIMIT 1").await?.is_empty();
            for (is_there, later) in [(is_used, "seqsvr_sequence"), (has(RETIRED), RETIRED)] {
                if is_there {
                    return Err(self.gone("seqsvr_meta, or its row,", later));
                }
            }
            if !self.may_make {
                return Err(self
                    .misconfigured("no seqsvr has used this database yet. Start a server on it, or make a sequence"));
            }
            let layout =
                if self.default_is_counter && !has("generator_table") { Layout::Counter } else { Layout::Tickets };
            let of_default = match layout {
                Layout::Tickets => ("generator_table", CREATE_GENERATOR_TABLE),
                Layout::Counter => ("seqsvr_sequence", CREATE_SEQUENCE),
            };
            if layout == Layout::Tickets {
                self.check_rising(session, &identity, has("generator_table")).await?;
            }
            let missing: Vec<&str> = [of_default, ("seqsvr_meta", CREATE_META)]
                .into_iter()
                .filter_map(|(name, ddl)| (!has(name)).then_some(ddl))
                .collect();
            create(session, &missing).await?;
            self.make_meta_row(session, &identity, layout).await?;
            found = meta(session).await?;
        } else if !has("generator_table") && found.as_ref().is_some_and(|meta| meta.layout == Layout::Tickets) {
            // Made anew, its counter would begin at 1.
            return Err(self.gone("generator_table", "seqsvr_meta"));
        }
        let Meta { store_id, layout, revision } = found.ok_or_else(|| self.no_meta())?;
        if layout == Layout::Tickets {
            self.check_rising(session, &identity, true).await?;
        }
        self.check_store(Some(&store_id))?;
        // From here on the marks are of this store, and of no other.
        self.node.remember_store(&store_id);
        let opened = Opened { host: session.origin.host, identity, store_id, layout };
        if layout == Layout::Counter && revision == NEVER_USED {
            self.make_default(session, &opened).await?;
        }
        Ok(opened)
    }

    /// Tickets must rise. On some makes of server they do so only if the table says so.
    async fn check_rising(
        &self,
        session: &mut Session<'_>,
        identity: &Identity,
        is_there: bool,
    ) -> Result<(), StoreError> {
        let Some(server) = &identity.not_rising else { return Ok(()) };
        if is_there {
            let rows: Vec<(String, String)> = session.rows("SHOW CREATE TABLE generator_table").await?;
            if rows.first().is_some_and(|(_, ddl)| server.rises_in(ddl)) {
                return Ok(());
            }
        }
        Err(self.misconfigured(&server.refusal()))
    }

    fn gone(&self, what: &str, told_by: &str) -> StoreError {
        self.misconfigured(&format!(
            "{what} is gone, though {told_by} tells of it: counters were in it, or what makes them safe. Put it back from a \
             backup, with its rows"
        ))
    }

    fn check_store(&self, found: Option<&str>) -> Result<(), StoreError> {
        self.node
            .check_store(found)
            .map_err(|error| StoreError::new(ErrorKind::OtherStore, format!("{}: {error}", self.server.at())))
    }

    fn misconfigured(&self, what: &str) -> StoreError {
        StoreError::new(ErrorKind::Misconfigured, format!("{}: {what}", self.server.at()))
    }

    fn no_meta(&self) -> StoreError {
        self.misconfigured("the row of seqsvr_meta is gone. Put it back from a backup")
    }

    /// Makes the meta row, if nobody else is faster.
    async fn make_meta_row(
        &self,
        session: &mut Session<'_>,
        identity: &Identity,
        layout: Layout,
    ) -> Result<(), StoreError> {
        // Tickets of before are not ours to hand out.
        let (first_ticket, state) = match layout {
            Layout::Tickets => ("(SELECT COALESCE(MAX(id), 0) + 1 FROM generator_table)", "ok"),
            Layout::Counter => ("1", MOVED),
        };
        // The step is the one of our configuration: the seed recorded none.
        let sql = format!(
            "INSERT IGNORE INTO seqsvr_meta (id, step, first_ticket, state, server, store_id) VALUES (1, {}, \
             {first_ticket}, '{state}', {}, '{}')",
            self.step.get(),
            identity.expression,
            uuid::Uuid::new_v4()
        );
        if session.execute(&sql).await?.affected_rows == 1 && layout == Layout::Tickets {
            tracing::warn!(
                "{}: recorded step {} in seqsvr_meta: every node must have the same, and so must those have had that used \
                 generator_table before",
                session.at(),
                self.step.get()
            );
        }
        Ok(())
    }

    /// Makes the row of `default` on a database whose counters were never used; the table was made with `seqsvr_meta`.
    async fn make_default(&self, session: &mut Session<'_>, opened: &Opened) -> Result<(), StoreError> {
        let NewSequence { name, step, first_id, max_id, description } = &self.default;
        let sql = format!(
            "INSERT IGNORE INTO seqsvr_sequence (name, next_id, step, max_id, server, description) \
             VALUES ('{name}', {first_id}, {}, {max_id}, {}, ?)",
            step.get(),
            opened.fence()
        );
        session.execute_with(&sql, (description,).into()).await?;
        let sql = format!("UPDATE seqsvr_meta SET revision = revision + 1 WHERE id = 1 AND revision = {NEVER_USED}");
        Ok(session.execute(&sql).await.map(drop)?)
    }
}

/// Of several hosts no other one may take writes too: the one that is connected may be a primary which was failed away from
/// and came back, whose counters know nothing of what was leased since. A host that does not answer says nothing: it may be
/// the one that was failed away from.
async fn check_only_writer(session: &mut Session<'_>, identity: &Identity) -> Result<(), StoreError> {
    let roles = if faults::is_off(Switch::OneWriter) { Vec::new() } else { identity.roles_of_others(session).await? };
    match roles.iter().find(|(_, role)| *role == Role::Writer) {
        None => Ok(()),
        Some((other, _)) => Err(StoreError::new(
            ErrorKind::TwoWriters,
            format!(
                "{}: {other} takes writes too and is another server, so that the same ids could be leased from both. \
                 {ONE_IS_TO_WRITE}",
                session.at()
            ),
        )),
    }
}

/// The revision of a database in which no counter was ever made.
const NEVER_USED: u64 = 1;

/// What `generator_table` is called once `default` has moved, so that a server which knows only it gets an error and no ids.
pub(super) const RETIRED: &str = "generator_table_moved";

/// For who finds no table `seqsvr_sequence`: an error if counters were in it.
pub(super) async fn check_never_used(session: &mut Session<'_, impl Queryable>) -> Result<(), StoreError> {
    match session.rows::<u64>("SELECT revision FROM seqsvr_meta WHERE id = 1").await?.first() {
        Some(&NEVER_USED) => Ok(()),
        _ => Err(StoreError::new(
            ErrorKind::Misconfigured,
            format!(
                "{}: seqsvr_sequence is gone, though seqsvr_meta tells of it: counters were in it. Put it back from a backup",
                session.at()
            ),
        )),
    }
}

fn layout_of(state: &str) -> Layout {
    if state == MOVED { Layout::Counter } else { Layout::Tickets }
}

async fn meta(session: &mut Session<'_>) -> Result<Option<Meta>, StoreError> {
    let sql = "SELECT store_id, state, revision FROM seqsvr_meta WHERE id = 1";
    let rows: Vec<(String, String, u64)> = session.rows(sql).await?;
    Ok(rows.into_iter().next().map(|(store_id, state, revision)| Meta {
        store_id,
        layout: layout_of(&state),
        revision,
    }))
}

/// Makes what is missing; where the account may not, the error says what an administrator has to run.
pub(super) async fn create(session: &mut Session<'_, impl Queryable>, missing: &[&str]) -> Result<(), StoreError> {
    let at = &session.at();
    for ddl in missing {
        match session.execute(ddl).await {
            Ok(_) => {
                let table = ddl.split_whitespace().nth(5).unwrap_or_default();
                tracing::warn!("{at}: made the table {table}, which was missing");
            }
            Err(failed) if matches!(failed.server.as_ref().map(|server| server.code), Some(1044 | 1142)) => {
                let account: Vec<(String, String)> = session.rows("SELECT CURRENT_USER(), DATABASE()").await?;
                let (user, database) = account.into_iter().next().unwrap_or_default();
                let (name, host) = user.rsplit_once('@').unwrap_or((&user, "%"));
                return Err(StoreError::new(
                    ErrorKind::Misconfigured,
                    format!(
                        "{at}: tables are missing and this account may not make them. As an administrator, in the \
                         database {database}, run:\n{};\nGRANT SELECT, INSERT, UPDATE, DELETE ON `{database}`.* TO \
                         '{name}'@'{host}';",
                        missing.join(";\n"),
                    ),
                ));
            }
            Err(failed) => return Err(failed.error),
        }
    }
    // A server without InnoDB makes them with another engine, and only warns.
    engines::check(session).await
}
