//! `seqsvr_meta`: what is recorded of the table, and what must hold before a ticket is handed out.
//!
//! A counter that went back is recorded there too (`state` is `regressed`), so that every node refuses *before* it
//! inserts: rows of discarded leases would else push the counter through what other nodes hold. Only a person sets it
//! to `ok` again, by `seqsvr fence`.

use super::super::super::guard::{self, Breach, Facts, REGRESSED, State as Recorded};
use super::super::super::{Fence, Script};
use super::super::counter::{MOST_TRIES, unrecorded};
use super::super::database::{MOVED, Opened};
use super::super::identity::{quoted, statement_format, why_not_fenced};
use super::super::{Connection, Identity, Session};
use super::{
    Behind, DEFAULT_SEQUENCE, ErrorKind, SequenceName, State, StoreError, Table, Tickets, column_type, largest,
    ticket_block,
};
use crate::config::DEFAULT_MAX_ID;
use crate::faults::{self, Guard as Switch};

/// What one SELECT tells of the table, of the row of `seqsvr_meta`, and of the server.
pub(super) struct Seen {
    /// The highest row; 0 without any.
    pub(super) max: u64,
    pub(super) increment: u64,
    pub(super) first_ticket: u64,
    step: u64,
    state: String,
    pub(super) server: String,
    store_id: String,
    /// The epoch in which the tickets were last fenced, and the present one.
    pub(super) epoch: (u32, u32),
    /// What the database records of its server and members is what it did when it was opened.
    is_as_opened: bool,
}

/// The columns of [`Seen`], in its order; then whether the server is the one that was opened, and whether it logs rows.
type Row = (Option<u64>, u64, u64, u64, String, String, String, u32, u32, bool, bool, bool);

impl Tickets {
    pub(super) async fn look(&self, session: &mut Session<'_>, table: &Table) -> Result<Seen, StoreError> {
        let seen = self.look_at(session, &table.database, "").await?;
        if seen.is_as_opened { Ok(seen) } else { Err(table.database.moved(&session.at())) }
    }

    async fn look_at(
        &self,
        session: &mut Session<'_, impl Connection>,
        opened: &Opened,
        lock: &str,
    ) -> Result<Seen, StoreError> {
        let Identity { proof, is_row_logged, .. } = &opened.identity;
        let sql = format!(
            "SELECT (SELECT MAX(id) FROM generator_table), @@auto_increment_increment, first_ticket, step, state, server, \
             store_id, ticket_epoch, epoch, COALESCE({}, FALSE), COALESCE({proof}, FALSE), {is_row_logged} FROM seqsvr_meta \
             WHERE id = 1{lock}",
            opened.demand()
        );
        let rows: Vec<Row> = session.rows(&sql).await?;
        let (
            max,
            increment,
            first_ticket,
            step,
            state,
            server,
            store_id,
            ticket_epoch,
            epoch,
            as_opened,
            proven,
            row_logged,
        ) = rows.into_iter().next().ok_or_else(|| {
            StoreError::new(
                ErrorKind::Misconfigured,
                format!("{}: the row of seqsvr_meta is gone. Put it back from a backup", session.at()),
            )
        })?;
        if !row_logged {
            // This session is older than the change, and keeps the old format.
            session.is_useless = true;
            return Err(statement_format(&session.at()));
        }
        if !proven {
            return Err(opened.moved(&session.at()));
        }
        // Another store is another error.
        let is_as_opened = as_opened || store_id != opened.store_id;
        let (max, increment) = (max.unwrap_or(0), increment.max(1));
        Ok(Seen {
            max,
            increment,
            first_ticket,
            step,
            state,
            server,
            store_id,
            epoch: (ticket_epoch, epoch),
            is_as_opened,
        })
    }

    /// For the guard: `next` is the first ticket that may be allocated next.
    pub(super) fn facts<'a>(&self, seen: &'a Seen, table: &'a Table) -> Facts<'a> {
        let state = match &*seen.state {
            "ok" => Recorded::Ok,
            MOVED => Recorded::Gone,
            REGRESSED => Recorded::Regressed,
            other => Recorded::Other(other),
        };
        Facts {
            store: (&seen.store_id, &table.database.store_id),
            step: (seen.step, self.step()),
            server: (&seen.server, &table.database.identity.server),
            epoch: seen.epoch,
            state,
            next: seen.max.saturating_add(1),
            mark: self.ticket_needed().max(seen.first_ticket),
            incarnation: (0, 0),
        }
    }

    pub(super) fn refusal(&self, breach: Breach, seen: &Seen, table: &Table, how: &str) -> StoreError {
        let past = self.ticket_needed().max(seen.first_ticket).saturating_mul(self.step());
        let (at, name) = (&self.server.at_host(table.database.host), &SequenceName::default());
        let moved = &why_not_fenced(&seen.server, &table.database.identity.server);
        guard::refusal(breach, &self.facts(seen, table), &guard::Refusal { at, name, past, how, moved })
    }

    /// Records for all nodes that the counter went back. Also raises the first ticket, never lowers it, to this node's own mark:
    /// nodes that remember nothing must not take what this one holds. The transaction looks again behind a lock, because the
    /// first look may be out of date: the tickets may have been fenced since. `Ok(false)` if it was. Fails if nothing could be recorded; the caller then tries again at
    /// once, because until then a new node may lease.
    pub(super) async fn record_regression(
        &self,
        state: &mut State,
        table: &Table,
        seen: &Seen,
        is_certain: bool,
    ) -> Result<bool, StoreError> {
        let is_certain = is_certain || state.behind.as_ref().is_some_and(|behind| behind.is_certain);
        let behind = state.behind.insert(Behind { recorded: (seen.server.clone(), seen.first_ticket), is_certain });
        let recorded = if faults::fails("regression-recorded") {
            Err("a fail point".to_owned())
        } else {
            self.try_to_record(table, behind).await.map_err(|error| error.what)
        };
        let is_behind = recorded.map_err(|why| unrecorded(&SequenceName::default(), &why))?;
        state.behind = None;
        Ok(is_behind)
    }

    async fn try_to_record(&self, table: &Table, behind: &Behind) -> Result<bool, StoreError> {
        let mut session = self.server.transaction(table.database.host).await?;
        let seen = self.look_at(&mut session, &table.database, " FOR UPDATE").await?;
        let needed = self.ticket_needed().min(table.last_ticket);
        let is_certain = behind.is_certain && !behind.is_fenced(&seen);
        let is_behind = is_certain || guard::judge(&self.facts(&seen, table)) == Err(Breach::Regressed);
        if is_behind {
            let sql = format!(
                "UPDATE seqsvr_meta SET state = IF(state = 'ok', '{REGRESSED}', state), first_ticket = GREATEST(first_ticket, \
                 {needed}) WHERE id = 1"
            );
            session.execute(&sql).await?;
        }
        session.commit().await?;
        Ok(is_behind)
    }

    /// Raises the first ticket, never lowers it, to this node's own mark, if the tickets are not fenced. Best effort, because
    /// the epoch makes all nodes refuse.
    pub(super) async fn raise_first_ticket(&self, session: &mut Session<'_>, table: &Table) {
        let needed = self.ticket_needed().min(table.last_ticket);
        let sql = format!("UPDATE seqsvr_meta SET first_ticket = {needed} WHERE id = 1 AND first_ticket < {needed}");
        if let Err(failed) = session.execute(&sql).await {
            tracing::debug!("first_ticket could not be raised to {needed}: {}", failed.error);
        }
    }

    /// The first ticket that lies past all that this node ever leased.
    pub(super) fn ticket_needed(&self) -> u64 {
        let mark = self.node.high_water_mark(DEFAULT_SEQUENCE);
        mark.saturating_sub(1).div_ceil(self.step())
    }

    /// Declares the tickets safe on the server that is connected, once they are moved past all that could be out; says
    /// whether they moved. In one transaction that locks the row of `seqsvr_meta`, so that nodes that race move them once.
    pub(in super::super) async fn fence(
        &self,
        opened: &Opened,
        fence: Fence,
        script: &mut Script,
    ) -> Result<bool, StoreError> {
        let needed = self.ticket_needed();
        let mut tries = 1;
        loop {
            match self.fence_if(opened, fence, script, |_| true, needed).await {
                Err(error) if error.kind == ErrorKind::Conflict && tries < MOST_TRIES => tries += 1,
                outcome => return outcome,
            }
        }
    }

    /// As [`fence`](Self::fence), by a node after a failover: where nobody else was faster.
    pub(super) async fn fence_after_failover(&self, opened: &Opened) -> Result<StoreError, StoreError> {
        faults::point("fence-begins");
        let needed = self.ticket_needed();
        let is_due = |seen: &Seen| (seen.state == "ok" || is_migrating(&seen.state)) && !is_fenced(seen, opened);
        let skip = Fence::Skip(self.failover_skip);
        let has_moved = self.fence_if(opened, skip, &mut Script::default(), is_due, needed).await?;
        faults::point("fence-ends");
        let at = &self.server.at_host(opened.host);
        let what = if has_moved {
            let what = format!(
                "{at}: the tickets of generator_table were last fenced in another epoch: moved on by mysql.failover_skip \
                 ({} ids), past what a failover may have lost",
                self.failover_skip
            );
            tracing::warn!("fenced by itself: {what}");
            what
        } else {
            format!("{at}: another node has fenced generator_table in between")
        };
        Ok(StoreError::new(ErrorKind::Fenced, what))
    }

    async fn fence_if(
        &self,
        opened: &Opened,
        fence: Fence,
        script: &mut Script,
        is_due: impl FnOnce(&Seen) -> bool,
        needed: u64,
    ) -> Result<bool, StoreError> {
        let mut session = self.server.transaction(opened.host).await?;
        let epoch = opened.enter(&mut session, script).await?;
        let mut seen = self.look_at(&mut session, opened, " FOR UPDATE").await?;
        // A dry run only says that it would increment the epoch.
        seen.epoch.1 = epoch;
        if !is_due(&seen) {
            return Ok(false);
        }
        // A migration that was interrupted goes on from there when it is run again.
        if !["ok", REGRESSED].contains(&&*seen.state) && !is_migrating(&seen.state) {
            return Err(StoreError::new(
                ErrorKind::Refused,
                format!("{}: seqsvr_meta.state is '{}', which is not to be fenced", session.at(), seen.state),
            ));
        }
        // The recorded one: of a command, the configuration's may be another.
        let step = seen.step.max(1);
        // The highest ticket that may be out; those behind it are handed out next.
        let known = seen.max.max(seen.first_ticket.saturating_sub(1));
        let last = match fence {
            Fence::Skip(ids) => known.max(needed.saturating_sub(1)).saturating_add(ids.div_ceil(step)),
            Fence::Past(id) => {
                let last = id.div_ceil(step).saturating_sub(1);
                if last < known && (seen.state == REGRESSED || !is_fenced(&seen, opened)) {
                    return Err(StoreError::new(
                        ErrorKind::Refused,
                        format!(
                            "{}: generator_table is not safe, and one of the nodes has leased up to {}: --past can't be below that",
                            session.at(),
                            known.saturating_add(1).saturating_mul(step)
                        ),
                    ));
                }
                last.max(known)
            }
        };
        // A node that has not recorded the regression yet knows by the first ticket that it was fenced: it always moves.
        let last = if seen.state == REGRESSED { last.max(seen.first_ticket) } else { last };
        if last > known && ticket_block(last.saturating_add(1), step).is_none() {
            return Err(StoreError::new(
                ErrorKind::Refused,
                format!(
                    "{}: behind ticket {last} no id of the ticket layout would be left: they end at {DEFAULT_MAX_ID}",
                    session.at()
                ),
            ));
        }
        let column = column_type(&mut session).await?;
        if largest(&column).is_none_or(|largest| last >= largest) {
            return Err(StoreError::new(
                ErrorKind::Refused,
                format!(
                    "{}: ticket {last} is past the end of generator_table.id ({column}). Widen it first: seqsvr migrate --widen",
                    session.at()
                ),
            ));
        }
        self.raise(&mut session, last, script).await?;
        let sql = format!(
            "UPDATE seqsvr_meta SET first_ticket = {}, state = IF(state LIKE '{MIGRATING}%', state, 'ok'), \
             ticket_epoch = {epoch}, server = {} WHERE id = 1",
            last.saturating_add(1),
            quoted(&opened.identity.server)
        );
        if script.runs(|| sql.clone()) {
            session.execute(&sql).await?;
        }
        if script.runs(|| "COMMIT".to_owned()) {
            session.commit().await?;
        }
        Ok(last > known)
    }
}

/// How the `state` begins while the tickets are migrated; behind it stands by which run of the command.
pub(in super::super) const MIGRATING: &str = "migrating";

/// Whether the tickets are safe to lease from in the present epoch.
fn is_fenced(seen: &Seen, opened: &Opened) -> bool {
    if faults::is_off(Switch::Epoch) { seen.server == opened.identity.server } else { seen.epoch.0 == seen.epoch.1 }
}

fn is_migrating(state: &str) -> bool {
    state.starts_with(MIGRATING)
}
