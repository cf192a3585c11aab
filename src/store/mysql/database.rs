//! The database as a whole: who serves it, whose ids are in it, and in which layout `default` is. It is looked at, and what
//! is missing is made, before the first lease and after an error.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mysql_async::Transaction;
use tokio::time::sleep;

use super::super::guard::{FENCE_ALL, REGRESSED};
use super::counter::NO_SUCH_TABLE;
use super::engines;
use super::identity::{ONE_IS_TO_WRITE, Role, quoted, statement_format};
use super::members::Members;
use super::{Connection, ErrorKind, Identity, Purpose, Script, Server, Session, StoreError};
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
  revision     BIGINT UNSIGNED  NOT NULL DEFAULT 1,    -- +1 whenever a sequence is created, altered, advanced or deleted
  owner        VARCHAR(128) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT '',  -- the server or cluster that has the database
  epoch        INT UNSIGNED     NOT NULL DEFAULT 0,    -- +1 whenever another one has it
  ticket_epoch INT UNSIGNED     NOT NULL DEFAULT 0,    -- the epoch in which the tickets were last fenced
  members      VARCHAR(1024) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT '',  -- of the cluster that has it
  token        CHAR(36)     CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT ''    -- by which its nodes show that they are one
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
  updated_at  TIMESTAMP       NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
  epoch       INT UNSIGNED    NOT NULL DEFAULT 0             -- the epoch in which it was last fenced
) ENGINE=InnoDB";

/// Adds the columns that tables of the first builds lack, by table.
const UPGRADES: [(&str, &str); 2] = [
    (
        "seqsvr_meta",
        "ALTER TABLE seqsvr_meta ADD COLUMN owner VARCHAR(128) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT '', \
         ADD COLUMN epoch INT UNSIGNED NOT NULL DEFAULT 0, ADD COLUMN ticket_epoch INT UNSIGNED NOT NULL \
         DEFAULT 0, ADD COLUMN members VARCHAR(1024) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT '', ADD COLUMN token \
         CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT ''",
    ),
    ("seqsvr_sequence", "ALTER TABLE seqsvr_sequence ADD COLUMN epoch INT UNSIGNED NOT NULL DEFAULT 0"),
];

/// There is no such column.
const NO_SUCH_COLUMN: u16 = 1054;

/// The column exists already: another node was faster.
const DUPLICATE_COLUMN: u16 = 1060;

/// The `state` of `seqsvr_meta` that says that `default` is in the counter layout.
pub(super) const MOVED: &str = "moved";

/// How often to read and record the server, if other nodes record it at the same time.
const MOST_TRIES: u32 = 5;

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
    /// The members that were recorded when it was opened.
    pub(super) members: Members,
}

impl Opened {
    /// What a fence records in a counter's row: the connected server, and the store.
    pub(super) fn fence(&self) -> String {
        format!("{} {}", self.identity.server, self.store_id)
    }

    /// SQL that is true if this is the store that was opened, and the connected server or cluster has it and logs rows.
    pub(super) fn owned(&self) -> String {
        let Identity { name, proof, is_row_logged, .. } = &self.identity;
        let is_owner = if are_on(&[Switch::Epoch, Switch::Fence]) {
            format!("owner = {} AND ", quoted(name))
        } else {
            String::new()
        };
        format!("store_id = '{}' AND {is_owner}{proof} AND {is_row_logged}", self.store_id)
    }

    /// SQL for what `seqsvr_meta` must say for a lease: as [`owned`](Self::owned), with the members of when the database was
    /// opened. Each part of a cluster that was split has a record of its own, and only one of them has these.
    pub(super) fn demand(&self) -> String {
        let owned = self.owned();
        if faults::is_off(Switch::Evidence) {
            return format!("id = 1 AND {owned}");
        }
        format!("id = 1 AND members = {} AND {owned}", quoted(&self.members.recorded()))
    }

    /// SQL for what a counter must be to be leased from: fenced in the present epoch, for this server and store. A row without an
    /// epoch, of an earlier build, counts as fenced in the first one.
    pub(super) fn fenced(&self) -> String {
        let (server, is_there) =
            (quoted(&self.fence()), format!("SELECT epoch FROM seqsvr_meta WHERE {}", self.demand()));
        if faults::is_off(Switch::Fence) {
            format!("EXISTS ({is_there})")
        } else if faults::is_off(Switch::Epoch) {
            format!("server = {server} AND EXISTS ({is_there})")
        } else {
            format!("server = {server} AND GREATEST(epoch, 1) = ({is_there})")
        }
    }

    /// The database's present epoch; an error if the server, members or store changed since it was opened.
    pub(super) async fn epoch(&self, session: &mut Session<'_, impl Connection>) -> Result<u32, StoreError> {
        let recorded = self.recorded(session, "").await?;
        let is_owner = recorded.owner == self.identity.name || !are_on(&[Switch::Epoch, Switch::Fence]);
        let has_members = recorded.members == self.members || faults::is_off(Switch::Evidence);
        if is_owner && has_members { Ok(recorded.epoch) } else { Err(self.moved(&session.at())) }
    }

    /// What `seqsvr_meta` records, if this is the server and the store that was opened.
    async fn recorded(&self, session: &mut Session<'_, impl Connection>, lock: &str) -> Result<Recorded, StoreError> {
        let Identity { proof, is_row_logged, .. } = &self.identity;
        let sql = format!(
            "SELECT epoch, owner, members, store_id, COALESCE({proof}, FALSE), {is_row_logged} FROM seqsvr_meta WHERE id = 1 {lock}"
        );
        let rows: Vec<(u32, String, String, String, bool, bool)> = session.rows(&sql).await?;
        let Some((epoch, owner, members, store_id, is_proven, is_row_logged)) = rows.into_iter().next() else {
            let what = format!("{}: the row of seqsvr_meta is gone. Put it back from a backup", session.at());
            return Err(StoreError::new(ErrorKind::Misconfigured, what));
        };
        if store_id != self.store_id {
            let what =
                format!("{}: the store_id changed to {store_id}: another database, or a restored one", session.at());
            return Err(StoreError::new(ErrorKind::OtherStore, what));
        }
        if !is_row_logged {
            // This session is older than the change, and keeps the old format.
            session.is_useless = true;
            return Err(statement_format(&session.at()));
        }
        if !is_proven {
            return Err(self.moved(&session.at()));
        }
        Ok(Recorded { epoch, owner, members: Members::parse(&members) })
    }

    /// The error if the server, or its cluster, is no longer the one that was opened.
    pub(super) fn moved(&self, at: &str) -> StoreError {
        let what = format!("{at}: this is not '{}' any more, or the cluster's members changed", self.identity.name);
        StoreError::new(ErrorKind::Moved, what)
    }

    /// Locks the row of `seqsvr_meta` until the transaction of `session` ends. Records there which server has the database, if
    /// that changed. Returns the present epoch.
    pub(super) async fn enter(
        &self,
        session: &mut Session<'_, impl Connection>,
        script: &mut Script,
    ) -> Result<u32, StoreError> {
        let recorded = self.recorded(session, "FOR UPDATE").await?;
        if !are_on(&[Switch::Epoch]) || self.is_up_to_date(&recorded) {
            return Ok(recorded.epoch);
        }
        let sql = self.record(&recorded);
        if script.runs(|| sql.clone()) {
            session.execute(&sql).await?;
        }
        Ok(self.next_epoch(&recorded))
    }

    /// Whether nothing is to be recorded.
    fn is_up_to_date(&self, recorded: &Recorded) -> bool {
        recorded.owner == self.identity.name && recorded.members == self.identity.members
    }

    /// The epoch once the connected server is recorded.
    fn next_epoch(&self, recorded: &Recorded) -> u32 {
        recorded.epoch + u32::from(!self.is_recorded(recorded))
    }

    /// Whether the connected server is the recorded one. A cluster's members may differ from the recorded ones, as long as
    /// they include a majority of them.
    fn is_recorded(&self, recorded: &Recorded) -> bool {
        let Identity { name, members, .. } = &self.identity;
        recorded.owner == *name && (members.is_majority_of(&recorded.members) || faults::is_off(Switch::Evidence))
    }

    /// The statement that records the connected server, in a new epoch unless it is the recorded one.
    fn record(&self, recorded: &Recorded) -> String {
        let Identity { name, members, proof, .. } = &self.identity;
        let Recorded { epoch, owner: before, members: members_before } = recorded;
        format!(
            "UPDATE seqsvr_meta SET epoch = {}, owner = {}, members = {} WHERE id = 1 AND epoch = {epoch} AND owner = {} \
             AND members = {} AND {proof}",
            self.next_epoch(recorded),
            quoted(name),
            quoted(&members.recorded()),
            quoted(before),
            quoted(&members_before.recorded()),
        )
    }
}

/// Whether no test has switched off any of `guards`.
pub(super) fn are_on(guards: &[Switch]) -> bool {
    !guards.iter().any(|guard| faults::is_off(*guard))
}

/// Which server has the database, as recorded there.
struct Recorded {
    epoch: u32,
    owner: String,
    members: Members,
}

/// The row of `seqsvr_meta`, as far as it matters here.
struct Meta {
    store_id: String,
    layout: Layout,
    revision: u64,
    recorded: Recorded,
}

pub(super) struct Database {
    server: Arc<Server>,
    /// The tickets', by the configuration.
    step: Step,
    /// `default`, as it is made in the counter layout.
    default: NewSequence,
    /// The configuration declares `default` as a sequence of the counter layout.
    default_is_counter: bool,
    purpose: Purpose,
    /// An operator fences, and no host sees a majority of the recorded members. Relaxed: one command runs alone.
    takes_parts: AtomicBool,
    node: Arc<Node>,
    opened: Mutex<Option<Arc<Opened>>>,
}

impl Database {
    pub(super) fn new(
        server: Arc<Server>,
        step: Step,
        default: NewSequence,
        default_is_counter: bool,
        purpose: Purpose,
        node: Arc<Node>,
    ) -> Self {
        Self {
            server,
            step,
            default,
            default_is_counter,
            purpose,
            takes_parts: AtomicBool::new(false),
            node,
            opened: Mutex::default(),
        }
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

    /// From now on a part of a cluster is taken for the whole.
    pub(super) fn take_parts(&self) {
        self.takes_parts.store(true, Ordering::Relaxed);
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

    /// The revision of the definitions. Forgets what was found if `default` moved since, or the cluster's members changed.
    pub(super) async fn revision(&self, session: &mut Session<'_>, opened: &Opened) -> Result<u64, StoreError> {
        let sql = format!("SELECT revision, state, COALESCE({}, FALSE) FROM seqsvr_meta WHERE id = 1", opened.demand());
        let rows: Vec<(u64, String, bool)> = session.rows(&sql).await?;
        let (revision, state, is_proven) = rows.into_iter().next().ok_or_else(|| self.no_meta())?;
        // Each change of members is recorded before the next one, even while nobody leases.
        if layout_of(&state) != opened.layout || !is_proven {
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

    /// Looks, and creates what is missing; leases nothing. Looks twice for what seems to be gone: another node, or another
    /// session of this one, may be creating tables and rows just now.
    async fn open(&self, session: &mut Session<'_>) -> Result<Opened, StoreError> {
        match self.look_and_make(session).await {
            Err(error) if matches!(error.kind, ErrorKind::Misconfigured | ErrorKind::OtherStore) => {
                sleep(PAUSE_BEFORE_LOOK).await;
                self.look_and_make(session).await
            }
            outcome => outcome,
        }
    }

    async fn look_and_make(&self, session: &mut Session<'_>) -> Result<Opened, StoreError> {
        self.server.check_split(session).await?;
        let identity = Identity::of(session).await?;
        engines::check(session).await?;
        let tables: Vec<String> = session
            .rows(
                "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() \
                 AND TABLE_NAME IN ('generator_table', 'generator_table_moved', 'seqsvr_meta', 'seqsvr_sequence')",
            )
            .await?;
        let has = |name: &str| tables.iter().any(|table| table == name);
        self.upgrade(session, has).await?;
        let mut found = if has("seqsvr_meta") { meta(session).await? } else { None };
        self.check_members(session, &identity, found.as_ref())?;
        self.check_only_writer(session, &identity, found.is_some()).await?;
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
            if self.purpose != Purpose::Serve {
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
            if identity.is_cluster() {
                self.check_only_writer(session, &identity, true).await?;
            }
        } else if !has("generator_table") && found.as_ref().is_some_and(|meta| meta.layout == Layout::Tickets) {
            // Made anew, its counter would begin at 1.
            return Err(self.gone("generator_table", "seqsvr_meta"));
        }
        let Meta { store_id, layout, revision, recorded } = found.ok_or_else(|| self.no_meta())?;
        if layout == Layout::Tickets {
            self.check_rising(session, &identity, true).await?;
        }
        self.check_store(Some(&store_id))?;
        // From here on the marks are of this store, and of no other.
        self.node.remember_store(&store_id);
        let members = recorded.members.clone();
        let mut opened = Opened { host: session.origin.host, identity, store_id, layout, members };
        let recorded = self.settle(session, &opened, recorded).await?;
        let epoch = recorded.epoch;
        opened.members = recorded.members;
        if layout == Layout::Counter && revision == NEVER_USED {
            self.make_default(session, &opened, epoch).await?;
        }
        Ok(opened)
    }

    /// Fails if the present members are not a majority of the recorded ones, unless an operator fences.
    fn check_members(
        &self,
        session: &Session<'_>,
        identity: &Identity,
        found: Option<&Meta>,
    ) -> Result<(), StoreError> {
        let Some(Meta { recorded, .. }) = found else { return Ok(()) };
        if identity.members.is_majority_of(&recorded.members)
            || self.takes_parts.load(Ordering::Relaxed)
            || faults::is_off(Switch::Evidence)
        {
            return Ok(());
        }
        let at = session.at();
        Err(StoreError::new(
            ErrorKind::Stray,
            format!(
                "{at}: the database belongs to the cluster '{}', of which this server sees {}: it was cut off or started apart from \
                 it, and IDs that the other part leased could be repeated, so nothing is leased. If the other part serves, let this \
                 server join it. If all of the cluster was down, or this part is to go on without the other one, make sure that no \
                 other part ever takes writes again. Then: {FENCE_ALL}",
                recorded.owner,
                identity.members.share_of(&recorded.members),
            ),
        ))
    }

    /// Ensures that `seqsvr_meta` records which server has the database. Returns the present epoch.
    async fn settle(
        &self,
        session: &mut Session<'_>,
        opened: &Opened,
        mut recorded: Recorded,
    ) -> Result<Recorded, StoreError> {
        for _ in 0..MOST_TRIES {
            if recorded.epoch == 0 {
                self.take_over(opened).await?;
            } else if opened.is_up_to_date(&recorded) || self.purpose != Purpose::Serve || !are_on(&[Switch::Epoch]) {
                return Ok(recorded);
            } else if session.execute(&opened.record(&recorded)).await?.affected_rows == 1
                && !opened.is_recorded(&recorded)
            {
                tracing::warn!(
                    "{}: '{}' has the database now; it was '{}'. Each sequence must be fenced (epoch {})",
                    session.at(),
                    opened.identity.name,
                    recorded.owner,
                    recorded.epoch + 1
                );
            }
            recorded = opened.recorded(session, "").await?;
        }
        Err(opened.moved(&session.at()))
    }

    /// Begins the epochs of a database that an early build has used. Its counters count as fenced if there is no sign of a
    /// failover: all of them, and the tickets, name the connected server.
    async fn take_over(&self, opened: &Opened) -> Result<(), StoreError> {
        let mut session = self.server.transaction(opened.host).await?;
        let sql = "SELECT epoch, server, state FROM seqsvr_meta WHERE id = 1 FOR UPDATE";
        let rows: Vec<(u32, String, String)> = session.rows(sql).await?;
        let Some((0, server, state)) = rows.into_iter().next() else { return Ok(()) };
        let fence = quoted(&opened.fence());
        let others = format!("SELECT 1 FROM seqsvr_sequence WHERE server NOT IN ({fence}, '{REGRESSED}') LIMIT 1");
        let is_known = match session.rows::<u64>(&others).await {
            Ok(others) => others.is_empty(),
            Err(failed) if failed.is(&[NO_SUCH_TABLE]) => true,
            Err(failed) => return Err(failed.error),
        };
        let is_fenced = is_known && (layout_of(&state) == Layout::Counter || server == opened.identity.server);
        // Rows without an epoch count as fenced in the first one.
        self.begin_epochs(session, opened, if is_fenced { (1, 1) } else { (2, 0) }).await
    }

    async fn begin_epochs(
        &self,
        mut session: Session<'_, Transaction<'static>>,
        opened: &Opened,
        (epoch, ticket_epoch): (u32, u32),
    ) -> Result<(), StoreError> {
        let Identity { name, members, proof, .. } = &opened.identity;
        let sql = format!(
            "UPDATE seqsvr_meta SET epoch = {epoch}, ticket_epoch = {ticket_epoch}, owner = {}, members = {} WHERE id = 1 AND {proof}",
            quoted(name),
            quoted(&members.recorded())
        );
        if session.execute(&sql).await?.affected_rows != 1 {
            return Err(opened.moved(&session.at()));
        }
        session.commit().await
    }

    /// Refuses if another one of several hosts takes writes too. The connected one may be an old primary that came back after
    /// a failover, whose counters know nothing of what was leased since. A host that does not answer is no reason to refuse: it
    /// may be that old primary.
    async fn check_only_writer(
        &self,
        session: &mut Session<'_>,
        identity: &Identity,
        has_meta: bool,
    ) -> Result<(), StoreError> {
        if faults::is_off(Switch::OneWriter) {
            return Ok(());
        }
        for (other, role) in identity.roles_of_others(&self.server, session, has_meta).await? {
            match role {
                Role::Writer => {
                    return Err(StoreError::new(
                        ErrorKind::TwoWriters,
                        format!(
                            "{}: {other} takes writes too, and is not shown to be the same server or cluster, so that the same IDs \
                             could be leased from both. {ONE_IS_TO_WRITE}",
                            session.at()
                        ),
                    ));
                }
                Role::Stray(why) => {
                    tracing::warn!("{}: {other} takes writes but is not used: {why}", session.at());
                }
                Role::Same | Role::StandIn | Role::Away(_) => {}
            }
        }
        Ok(())
    }

    /// Adds the columns that tables of the first builds lack.
    async fn upgrade(&self, session: &mut Session<'_>, has: impl Fn(&str) -> bool) -> Result<(), StoreError> {
        let at = session.at();
        let mut old = Vec::new();
        for (table, ddl) in UPGRADES.iter().filter(|(table, _)| has(table)) {
            match session.rows::<u64>(&format!("SELECT epoch FROM {table} LIMIT 0")).await {
                Ok(_) => {}
                Err(failed) if failed.is(&[NO_SUCH_COLUMN]) => old.push(*ddl),
                Err(failed) => return Err(failed.error),
            }
        }
        if self.purpose == Purpose::Use && !old.is_empty() {
            return Err(self.misconfigured("the tables are of an earlier version. Start a node of this version first"));
        }
        for ddl in &old {
            match session.execute(ddl).await {
                Ok(_) => tracing::warn!("{at}: upgraded a table: {ddl}"),
                Err(failed) if failed.is(&[DUPLICATE_COLUMN]) => {}
                Err(failed) if failed.is(&[1044, 1142]) => {
                    return Err(StoreError::new(
                        ErrorKind::Misconfigured,
                        format!(
                            "{at}: the tables are of an earlier version and this account may not alter them. As an administrator run:\n{};",
                            old.join(";\n")
                        ),
                    ));
                }
                Err(failed) => return Err(failed.error),
            }
        }
        Ok(())
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
            "INSERT IGNORE INTO seqsvr_meta (id, step, first_ticket, state, server, store_id, owner, epoch, ticket_epoch, \
             members) VALUES (1, {}, {first_ticket}, '{state}', {}, '{}', {}, 1, 1, {})",
            self.step.get(),
            quoted(&identity.server),
            uuid::Uuid::new_v4(),
            quoted(&identity.name),
            quoted(&identity.members.recorded())
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
    async fn make_default(&self, session: &mut Session<'_>, opened: &Opened, epoch: u32) -> Result<(), StoreError> {
        let NewSequence { name, step, first_id, max_id, description } = &self.default;
        let sql = format!(
            "INSERT IGNORE INTO seqsvr_sequence (name, next_id, step, max_id, server, epoch, description) \
             VALUES ('{name}', {first_id}, {}, {max_id}, {}, {epoch}, ?)",
            step.get(),
            quoted(&opened.fence())
        );
        session.execute_with(&sql, (description,).into()).await?;
        let sql = format!("UPDATE seqsvr_meta SET revision = revision + 1 WHERE id = 1 AND revision = {NEVER_USED}");
        Ok(session.execute(&sql).await.map(drop)?)
    }
}

/// The revision of a database in which no counter was ever made.
const NEVER_USED: u64 = 1;

/// What `generator_table` is called once `default` has moved, so that a server which knows only it gets an error and no ids.
pub(super) const RETIRED: &str = "generator_table_moved";

/// For who finds no table `seqsvr_sequence`: an error if counters were in it.
pub(super) async fn check_never_used(session: &mut Session<'_, impl Connection>) -> Result<(), StoreError> {
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
    let sql = "SELECT store_id, state, revision, epoch, owner, members FROM seqsvr_meta WHERE id = 1";
    let rows: Vec<(String, String, u64, u32, String, String)> = session.rows(sql).await?;
    Ok(rows.into_iter().next().map(|(store_id, state, revision, epoch, owner, members)| Meta {
        store_id,
        layout: layout_of(&state),
        revision,
        recorded: Recorded { epoch, owner, members: Members::parse(&members) },
    }))
}

/// Makes what is missing; where the account may not, the error says what an administrator has to run.
pub(super) async fn create(session: &mut Session<'_, impl Connection>, missing: &[&str]) -> Result<(), StoreError> {
    let at = &session.at();
    for ddl in missing {
        match session.execute(ddl).await {
            Ok(_) => {
                let table = ddl.split_whitespace().nth(5).unwrap_or_default();
                tracing::warn!("{at}: made the table {table}, which was missing");
            }
            Err(failed) if failed.is(&[1044, 1142]) => {
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
    // A server without InnoDB creates them with another engine, and only warns.
    engines::check(session).await
}
