//! The counter layout: one row a sequence in `seqsvr_sequence`, blocks of any size.
//!
//! A lease is one autocommit statement; its block is read from that statement's own OK packet and from nowhere else. What
//! it demands of the row stands in its WHERE, so that nothing is spent where a guard says no; then the row is looked at
//! to say why.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::sleep;

use super::super::counter::{Present, Row, Verdict, stale};
use super::super::guard::{Breach, REGRESSED};
use super::super::{Definition, Edit, ErrorKind, Leased, Script, StoreError, Terms};
use super::database::{self, Opened};
use super::identity::{quoted, why_not_fenced};
use super::{Connection, Done, Failed, Server, Session};
use crate::config::Step;
use crate::faults::{self, Guard as Switch};
use crate::name::SequenceName;
use crate::node::Node;
use crate::segment::Block;

/// No such table: nobody made a sequence yet.
pub(super) const NO_SUCH_TABLE: u16 = 1146;

/// A row of that name is there already.
const DUPLICATE: u16 = 1062;

/// So often an edit that lost against another one is tried.
pub(super) const MOST_TRIES: u32 = 10;

pub(super) struct Counters {
    server: Arc<Server>,
    /// How far a counter is moved, in ids, where it was last fenced for another server; 0: nothing is leased then.
    failover_skip: u64,
    node: Arc<Node>,
    /// A trigger on the table takes the ID out of the OK packet. Relaxed: a lease that misses it is discarded, and tried again.
    has_trigger: AtomicBool,
}

/// So many looks in a row that find the counter below this node's mark are an alarm ...
const LOOKS_BEFORE_ALARM: u32 = 3;

/// ... with this pause between.
const PAUSE_BEFORE_LOOK: Duration = Duration::from_millis(50);

/// The columns of [`Row`], behind the name.
const COLUMNS: &str = "name, next_id, step, max_id, server, epoch, incarnation, deleted_at IS NOT NULL, description";
type Columns = (String, u64, u64, u64, String, u32, u32, bool, String);

impl Counters {
    pub(super) fn new(server: Arc<Server>, failover_skip: u64, node: Arc<Node>) -> Self {
        Self { server, failover_skip, node, has_trigger: AtomicBool::new(false) }
    }

    pub(super) async fn lease(
        &self,
        session: &mut Session<'_>,
        opened: &Opened,
        name: &SequenceName,
        terms: Terms,
        want: NonZeroU64,
    ) -> Result<Leased, StoreError> {
        let mark = self.node.high_water_mark(name.as_str());
        let mut looks = 1;
        loop {
            if let Some(leased) = self.claim(session, opened, name, terms, mark, want).await? {
                return Ok(leased);
            }
            let Some((row, epoch)) = self.look(session, opened, name).await? else {
                return Err(stale(name, &session.at()));
            };
            let server = &opened.fence();
            let present = Present { server, epoch };
            match row.verdict(terms, present, mark, want) {
                // Fewer are left than were asked for.
                Verdict::Lease(block) if block.len() < want.get() => {
                    let rest = NonZeroU64::new(block.len()).expect("a block is not empty");
                    let leased = self.claim(session, opened, name, terms, mark, rest).await?;
                    return leased.ok_or_else(|| self.lost_a_race(name));
                }
                // It was set right in between.
                Verdict::Lease(_) => return Err(self.lost_a_race(name)),
                Verdict::Exhausted => return Err(row.exhausted(name, &session.at())),
                // A cluster's node may lag for a moment: a few looks before the alarm.
                Verdict::Refused(Breach::Regressed) if row.server != REGRESSED && looks < LOOKS_BEFORE_ALARM => {
                    looks += 1;
                    sleep(PAUSE_BEFORE_LOOK).await;
                }
                Verdict::Refused(Breach::NotFenced)
                    if self.failover_skip > 0 && present.is_of_this_store(&row.server) =>
                {
                    return Err(self.fence(session, opened, name, (&row, epoch), mark).await?);
                }
                Verdict::Refused(breach) => {
                    if matches!(breach, Breach::NotFenced | Breach::Regressed) {
                        self.raise(session, opened, name, mark).await?;
                    }
                    let why = why_not_fenced(&row.server, present.server);
                    return Err(row.refusal(breach, name, (&session.at(), &why), present, mark));
                }
            }
        }
    }

    /// Moves a counter that was last fenced in another epoch past what a failover may have lost; the lease is then tried
    /// again. Nodes that race add the skip once, for one of them finds the old epoch in the row.
    async fn fence(
        &self,
        session: &mut Session<'_>,
        opened: &Opened,
        name: &SequenceName,
        (row, epoch): (&Row, u32),
        mark: u64,
    ) -> Result<StoreError, StoreError> {
        let skip = self.failover_skip;
        faults::point("fence-begins");
        // This may pass the largest ID: the sequence is then used up, until an operator raises that.
        let sql = format!(
            "UPDATE seqsvr_sequence SET next_id = GREATEST(next_id, {mark}) + {skip}, server = {}, epoch = {epoch} \
             WHERE name = '{name}' AND epoch = {} AND server = {} \
             AND {epoch} = (SELECT epoch FROM seqsvr_meta WHERE {})",
            quoted(&opened.fence()),
            row.epoch,
            quoted(&row.server),
            opened.demand()
        );
        let at = &session.at();
        let what = if session.execute(&sql).await?.affected_rows == 1 {
            let what = format!(
                "{at}: the counter of sequence {name} was last fenced for '{}' (epoch {}), and this is epoch {epoch}: moved on by \
                 mysql.failover_skip ({skip} ids), past what a failover may have lost",
                row.server, row.epoch
            );
            tracing::warn!("fenced by itself: {what}");
            what
        } else {
            format!("{at}: another node has fenced the counter of sequence {name} in between")
        };
        faults::point("fence-ends");
        Ok(StoreError::new(ErrorKind::Fenced, what))
    }

    /// Sets the next `count` ids aside; `None` where the row says no.
    async fn claim(
        &self,
        session: &mut Session<'_>,
        opened: &Opened,
        name: &SequenceName,
        terms: Terms,
        mark: u64,
        count: NonZeroU64,
    ) -> Result<Option<Leased>, StoreError> {
        let mark = if faults::is_off(Switch::Mark) { 0 } else { mark };
        let demand = format!(
            "name = '{name}' AND deleted_at IS NULL AND incarnation = {} AND next_id >= {mark} \
             AND next_id + {count} <= max_id + 1 AND {}",
            terms.incarnation,
            opened.fenced()
        );
        faults::point("counter-claims");
        let done = if self.has_trigger.load(Ordering::Relaxed) {
            self.claim_beside_trigger(opened, &demand, count).await
        } else {
            let sql = format!("UPDATE seqsvr_sequence SET next_id = LAST_INSERT_ID(next_id + {count}) WHERE {demand}");
            session.execute(&sql).await
        };
        faults::point("counter-claimed");
        let done = self.unguarded(session, name, done).await;
        match done {
            Ok(Done { affected_rows: 1, last_insert_id: Some(end) }) => {
                let block = end.get().checked_sub(count.get()).and_then(|start| Block::new(start, end.get()));
                let block = block.ok_or_else(|| {
                    let what = format!("{}: the counter of sequence {name} is out of range: {end}", session.at());
                    StoreError::new(ErrorKind::Regressed, what)
                })?;
                // The members may have changed between the statement's WHERE and its commit.
                if opened.identity.is_cluster() {
                    opened.epoch(session).await?;
                }
                let capacity_used = Row::capacity_used(block.end(), terms.max_id);
                Ok(Some(Leased { blocks: vec![block], capacity_used, mark: 0 }))
            }
            Ok(Done { affected_rows: 0, .. }) => Ok(None),
            Ok(Done { affected_rows: 1, last_insert_id: None }) => Err(self.found_trigger(session, name, count)),
            Ok(_) => Err(StoreError::new(
                ErrorKind::Unavailable,
                format!("{}: a lease of sequence {name} reported several rows, or no id; discarded", session.at()),
            )),
            // The look says more.
            Err(failed) if is_missing_table(&failed) => Ok(None),
            Err(failed) => Err(failed.error),
        }
    }

    /// The error for a lease whose OK packet has no ID. From now on leases read the counter behind a lock.
    fn found_trigger(&self, session: &Session<'_>, name: &SequenceName, count: NonZeroU64) -> StoreError {
        let at = session.at();
        if !self.has_trigger.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "{at}: seqsvr_sequence has a trigger, which takes the ID out of the answer to a lease. Each lease is four statements \
                 from now on. Drop the trigger (SHOW TRIGGERS), then restart this node"
            );
        }
        let what = format!("{at}: a trigger hid which {count} IDs of sequence {name} were leased; they are discarded");
        StoreError::new(ErrorKind::Conflict, what)
    }

    /// As a lease's own statement. A transaction reads the counter behind a lock, because the OK packet of an UPDATE has no ID if a
    /// trigger runs. `LAST_INSERT_ID()` would have it, but a proxy may send that to another connection.
    async fn claim_beside_trigger(&self, opened: &Opened, demand: &str, count: NonZeroU64) -> Result<Done, Failed> {
        let mut session = self.server.transaction(opened.host).await?;
        let rows: Vec<u64> =
            session.rows(&format!("SELECT next_id FROM seqsvr_sequence WHERE {demand} FOR UPDATE")).await?;
        let Some(next_id) = rows.into_iter().next() else {
            return Ok(Done { affected_rows: 0, last_insert_id: None });
        };
        // `demand` bounds it: a server that says otherwise is not believed.
        let Some(end) = next_id.checked_add(count.get()) else {
            let what = format!("{}: the counter is out of range: {next_id}", session.at());
            return Err(StoreError::new(ErrorKind::Regressed, what).into());
        };
        let sql = format!("UPDATE seqsvr_sequence SET next_id = {end} WHERE {demand} AND next_id = {next_id}");
        let done = session.execute(&sql).await?;
        session.commit().await?;
        Ok(Done { last_insert_id: NonZeroU64::new(end), ..done })
    }

    /// What the statement itself said, and nothing else. Only where a test switched that off, what a careless server would
    /// take for it: a value that is asked for later, or what the row says after the reply was lost.
    async fn unguarded(
        &self,
        session: &mut Session<'_>,
        name: &SequenceName,
        done: Result<Done, Failed>,
    ) -> Result<Done, Failed> {
        let sql = match &done {
            Ok(_) if faults::is_off(Switch::OwnOk) => "SELECT LAST_INSERT_ID()".to_owned(),
            Err(Failed { server: None, .. }) if faults::is_off(Switch::UnknownOutcome) => {
                format!("SELECT next_id FROM seqsvr_sequence WHERE name = '{name}'")
            }
            _ => return done,
        };
        let end = match self.server.connect().await {
            Ok(mut again) if done.is_err() => again.rows::<u64>(&sql).await?,
            _ => session.rows::<u64>(&sql).await?,
        };
        match end.first().copied().and_then(NonZeroU64::new) {
            Some(end) => Ok(Done { affected_rows: 1, last_insert_id: Some(end) }),
            None => done,
        }
    }

    /// The row, and the present epoch.
    async fn look(
        &self,
        session: &mut Session<'_>,
        opened: &Opened,
        name: &SequenceName,
    ) -> Result<Option<(Row, u32)>, StoreError> {
        let epoch = opened.epoch(session).await?;
        let sql = format!("SELECT {COLUMNS} FROM seqsvr_sequence WHERE name = '{name}'");
        Ok(self.select(session, &sql).await?.into_iter().next().map(|(_, row)| (row, epoch)))
    }

    /// Where the counter can't be trusted: raises it to this node's own mark, never lowers it, and records that it went
    /// back, so that nodes which remember nothing refuse too. Fails if that could not be recorded: until it is, a new node
    /// may lease what this one holds, so the caller tries again at once.
    async fn raise(
        &self,
        session: &mut Session<'_>,
        opened: &Opened,
        name: &SequenceName,
        mark: u64,
    ) -> Result<(), StoreError> {
        let sql = format!(
            "UPDATE seqsvr_sequence SET server = IF({}, '{REGRESSED}', server), next_id = {mark} \
             WHERE name = '{name}' AND next_id < {mark} \
             AND EXISTS (SELECT 1 FROM seqsvr_meta WHERE id = 1 AND store_id = '{}')",
            opened.fenced(),
            opened.store_id
        );
        record_regression(session, name, &sql).await
    }

    /// As [`super::BlockStore::give_back`]: one statement, sent once.
    pub(super) async fn give_back(
        &self,
        session: &mut Session<'_>,
        opened: &Opened,
        name: &SequenceName,
        terms: Terms,
        tail: Block,
    ) -> Result<bool, StoreError> {
        let is_last = if faults::is_off(Switch::GiveBack) { ">=" } else { "=" };
        let sql = format!(
            "UPDATE seqsvr_sequence SET next_id = {} WHERE name = '{name}' AND next_id {is_last} {} AND incarnation = {} \
             AND deleted_at IS NULL AND {}",
            tail.start(),
            tail.end(),
            terms.incarnation,
            opened.fenced()
        );
        faults::point("give-back-begins");
        Ok(session.execute(&sql).await?.affected_rows == 1)
    }

    pub(super) async fn find(
        &self,
        session: &mut Session<'_>,
        names: &[SequenceName],
    ) -> Result<Vec<Definition>, StoreError> {
        let names: Vec<String> = names.iter().map(|name| format!("'{name}'")).collect();
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let sql = format!("SELECT {COLUMNS} FROM seqsvr_sequence WHERE name IN ({})", names.join(","));
        self.definitions(session, &sql).await
    }

    pub(super) async fn list(
        &self,
        session: &mut Session<'_>,
        after: Option<&SequenceName>,
        most: u32,
    ) -> Result<Vec<Definition>, StoreError> {
        let after = after.map_or("", SequenceName::as_str);
        let sql = format!("SELECT {COLUMNS} FROM seqsvr_sequence WHERE name > '{after}' ORDER BY name LIMIT {most}");
        self.definitions(session, &sql).await
    }

    async fn definitions(&self, session: &mut Session<'_>, sql: &str) -> Result<Vec<Definition>, StoreError> {
        Ok(self.select(session, sql).await?.into_iter().map(|(name, row)| row.definition(name)).collect())
    }

    /// Rows of [`COLUMNS`]; none where no sequence was ever made, and so no table.
    async fn select(
        &self,
        session: &mut Session<'_, impl Connection>,
        sql: &str,
    ) -> Result<Vec<(SequenceName, Row)>, StoreError> {
        /// Relaxed: it only keeps the log short.
        static IS_TOLD: AtomicBool = AtomicBool::new(false);
        let rows: Vec<Columns> = match session.rows(sql).await {
            Ok(rows) => rows,
            Err(failed) if is_missing_table(&failed) => {
                database::check_never_used(session).await?;
                return Ok(Vec::new());
            }
            Err(failed) => return Err(failed.error),
        };
        let read = |columns: Columns| {
            let (name, next_id, step, max_id, server, epoch, incarnation, is_deleted, description) = columns;
            let parsed = name.parse();
            if (parsed.is_err() || step == 0) && !IS_TOLD.swap(true, Ordering::Relaxed) {
                let at = &session.at();
                tracing::warn!(
                    "{at}: seqsvr_sequence has rows that were edited by hand: '{name}', step {step}. A name that is not allowed is \
                     passed over, a step of 0 counts as 1"
                );
            }
            let step = Step::new(step).unwrap_or(Step::of(1));
            Some((parsed.ok()?, Row { next_id, step, max_id, server, epoch, incarnation, is_deleted, description }))
        };
        Ok(rows.into_iter().filter_map(read).collect())
    }

    fn lost_a_race(&self, name: &SequenceName) -> StoreError {
        let what = format!("{}: the row of sequence {name} changed in between", self.server.at());
        StoreError::new(ErrorKind::Conflict, what)
    }

    /// Does what a person asks for; says whether the counter moved. Tried again where another edit was in the way.
    pub(super) async fn edit(
        &self,
        opened: &Opened,
        name: &SequenceName,
        edit: &Edit,
        script: &mut Script,
    ) -> Result<bool, StoreError> {
        let mut tries = 1;
        loop {
            match self.try_edit(opened, name, edit, script).await {
                Err(error) if error.kind == ErrorKind::Conflict && tries < MOST_TRIES => tries += 1,
                outcome => return outcome,
            }
        }
    }

    async fn try_edit(
        &self,
        opened: &Opened,
        name: &SequenceName,
        edit: &Edit,
        script: &mut Script,
    ) -> Result<bool, StoreError> {
        if matches!(edit, Edit::Create(_) | Edit::Declare(_)) {
            self.make_table(&mut self.server.connect().await?).await?;
        }
        let mut session = self.server.transaction(opened.host).await?;
        let epoch = opened.enter(&mut session, script).await?;
        let before = self.lock(&mut session, name).await?;
        let after = edit.apply(name, before.as_ref(), Present { server: &opened.fence(), epoch })?;
        if before.as_ref() == Some(&after) {
            return Ok(false);
        }
        let has_moved = before.as_ref().is_none_or(|before| after.next_id > before.next_id);
        if !script.runs(|| after.shown(name, before.is_some())) {
            return Ok(has_moved);
        }
        self.write(&mut session, name, before.is_some(), &after).await?;
        session.execute("UPDATE seqsvr_meta SET revision = revision + 1 WHERE id = 1").await?;
        session.commit().await?;
        Ok(has_moved)
    }

    /// Makes the table where it is missing; the first sequence brings it.
    pub(super) async fn make_table(&self, session: &mut Session<'_>) -> Result<(), StoreError> {
        match session.rows::<u64>("SELECT 1 FROM seqsvr_sequence LIMIT 0").await {
            Err(failed) if is_missing_table(&failed) => {
                database::check_never_used(session).await?;
                database::create(session, &[database::CREATE_SEQUENCE]).await
            }
            _ => Ok(()),
        }
    }

    /// Writes the whole row, which [`lock`](Self::lock) has found or not. A new one that somebody else made in between is a
    /// conflict: it must not be overwritten.
    pub(super) async fn write(
        &self,
        session: &mut Session<'_, impl Connection>,
        name: &SequenceName,
        is_there: bool,
        row: &Row,
    ) -> Result<(), StoreError> {
        let deleted_at = if row.is_deleted { "CURRENT_TIMESTAMP" } else { "NULL" };
        let (verb, by_name) = if is_there {
            ("UPDATE", format!("WHERE name = '{name}'"))
        } else {
            ("INSERT INTO", format!(", name = '{name}'"))
        };
        let sql = format!(
            "{verb} seqsvr_sequence SET next_id = {}, step = {}, max_id = {}, incarnation = {}, \
             deleted_at = {deleted_at}, server = ?, epoch = {}, description = ? {by_name}",
            row.next_id,
            row.step.get(),
            row.max_id,
            row.incarnation,
            row.epoch
        );
        match session.execute_with(&sql, (&row.server, &row.description).into()).await {
            Err(failed) if failed.is(&[DUPLICATE]) => Err(StoreError { kind: ErrorKind::Conflict, ..failed.error }),
            outcome => Ok(outcome?),
        }
    }

    /// The row of `name`, locked until the transaction of `session` ends.
    pub(super) async fn lock(
        &self,
        session: &mut Session<'_, impl Connection>,
        name: &SequenceName,
    ) -> Result<Option<Row>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM seqsvr_sequence WHERE name = '{name}' FOR UPDATE");
        Ok(self.select(session, &sql).await?.into_iter().next().map(|(_, row)| row))
    }
}

/// Records that a counter went back. A failure counts as a conflict, so that the node tries again at once.
async fn record_regression(session: &mut Session<'_>, name: &SequenceName, sql: &str) -> Result<(), StoreError> {
    let failed = if faults::fails("regression-recorded") {
        "a fail point".to_owned()
    } else {
        match session.execute(sql).await {
            Ok(_) => return Ok(()),
            Err(failed) => failed.error.what,
        }
    };
    Err(unrecorded(name, &failed))
}

/// The error for a regression that is not recorded yet.
pub(super) fn unrecorded(name: &SequenceName, why: &str) -> StoreError {
    let what =
        format!("the counter of sequence {name} is below what this node leased, which could not be recorded: {why}");
    StoreError::new(ErrorKind::Conflict, what)
}

fn is_missing_table(failed: &Failed) -> bool {
    failed.is(&[NO_SUCH_TABLE])
}
