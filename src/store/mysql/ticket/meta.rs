//! `seqsvr_meta`: what is recorded of the table, and what must hold before a ticket is handed out.
//!
//! A counter that went back is recorded there too (`state` is `regressed`), so that every node refuses *before* it
//! inserts: rows of discarded leases would else push the counter through what other nodes hold. Only a person sets it
//! to `ok` again.

use super::super::Session;
use super::super::database::MOVED;
use super::{DEFAULT_SEQUENCE, ErrorKind, State, StoreError, Table, Tickets};

/// What one SELECT tells of the table, of the row of `seqsvr_meta`, and of the server.
pub(super) struct Seen {
    /// The highest row; 0 without any.
    pub(super) max: u64,
    pub(super) increment: u64,
    pub(super) first_ticket: u64,
    step: u64,
    state: String,
    server: String,
    store_id: String,
    connected_to: String,
}

/// The columns of [`Seen`], in its order.
type Row = (Option<u64>, u64, u64, u64, String, String, String, String);

impl Tickets {
    pub(super) async fn look(&self, session: &mut Session<'_>, table: &Table) -> Result<Seen, StoreError> {
        let sql = format!(
            "SELECT (SELECT MAX(id) FROM generator_table), @@auto_increment_increment, first_ticket, step, state, server, \
             store_id, {} FROM seqsvr_meta WHERE id = 1",
            table.database.identity.expression
        );
        let rows: Vec<Row> = session.rows(&sql).await?;
        let (max, increment, first_ticket, step, state, server, store_id, connected_to) =
            rows.into_iter().next().ok_or_else(|| {
                StoreError::new(
                    ErrorKind::Misconfigured,
                    format!("{}: the row of seqsvr_meta is gone. Put it back from a backup", self.server.described),
                )
            })?;
        let (max, increment) = (max.unwrap_or(0), increment.max(1));
        Ok(Seen { max, increment, first_ticket, step, state, server, store_id, connected_to })
    }

    /// What must hold before a ticket is asked for, and again before one that came is handed out.
    pub(super) fn check(&self, seen: &Seen, table: &Table) -> Result<(), StoreError> {
        let at = &self.server.described;
        let wrong = |kind, what: String| Err(StoreError::new(kind, format!("{at}: {what}")));
        if seen.store_id != table.database.store_id {
            return wrong(ErrorKind::Misconfigured, format!("the store_id changed to {} while we ran", seen.store_id));
        }
        if seen.step != self.step() {
            let what = format!(
                "the ids of this table are leased with step {}, the configuration says step {}. Two steps on one table \
                 hand ids out twice. Set step: {0} in the configuration",
                seen.step,
                self.step()
            );
            return wrong(ErrorKind::Misconfigured, what);
        }
        if seen.server != seen.connected_to {
            let what = format!(
                "this is server '{}', but the counter was last fenced for server '{}'. After a failover or a restore, \
                 commits that the old server acknowledged may be missing here, so ids could be repeated, and nothing is \
                 leased. {}",
                seen.connected_to,
                seen.server,
                self.fence(seen, &format!(", server = '{}'", seen.connected_to))
            );
            return wrong(ErrorKind::Unsafe, what);
        }
        match seen.state.as_str() {
            "ok" => Ok(()),
            MOVED => Err(StoreError::new(ErrorKind::Stale, format!("{at}: default moved to the counter layout"))),
            REGRESSED => Err(self.regressed(seen, "as seqsvr_meta.state says")),
            other => wrong(
                ErrorKind::Unavailable,
                format!("seqsvr_meta.state is '{other}': a migration is under way, or was interrupted"),
            ),
        }
    }

    /// The counter went back: records it for all nodes. Kept in memory until it is recorded, for nothing may be leased
    /// before a person was told.
    pub(super) async fn record_regression(&self, session: &mut Session<'_>, state: &mut State) {
        state.is_behind = true;
        let sql = format!("UPDATE seqsvr_meta SET state = '{REGRESSED}' WHERE id = 1 AND state = 'ok'");
        if session.execute(&sql).await.is_ok() {
            state.is_behind = false;
        }
    }

    /// Raises the first ticket, never lowers it, to this node's own mark: where the counter can't be trusted, nodes that
    /// remember nothing must not take what this one holds. Best effort; the state or the server make them refuse.
    pub(super) async fn raise_first_ticket(&self, session: &mut Session<'_>, table: &Table) {
        let needed = self.ticket_needed().min(table.last_ticket);
        let sql = format!("UPDATE seqsvr_meta SET first_ticket = {needed} WHERE id = 1 AND first_ticket < {needed}");
        if let Err(failed) = session.execute(&sql).await {
            tracing::debug!("first_ticket could not be raised to {needed}: {}", failed.error);
        }
    }

    pub(super) fn regressed(&self, seen: &Seen, what: &str) -> StoreError {
        StoreError::new(
            ErrorKind::Unsafe,
            format!(
                "{}: the counter of generator_table went back ({what}): a restored backup, or a lowered AUTO_INCREMENT. \
                 Ids could be repeated, so no node leases. {}",
                self.server.described,
                self.fence(seen, "")
            ),
        )
    }

    /// The first ticket that lies past all that this node ever leased.
    pub(super) fn ticket_needed(&self) -> u64 {
        let mark = self.node.high_water_mark(DEFAULT_SEQUENCE);
        mark.saturating_sub(1).div_ceil(self.step())
    }

    /// What a person has to do and to run; `more` is set besides.
    fn fence(&self, seen: &Seen, more: &str) -> String {
        format!(
            "TICKET must be past what any node has LEASED, not only handed out: each node's need is its metric \
             seqsvr_high_water_mark_ids (of a stopped one: data_dir/node.json) divided by step {} and rounded up, here {}; \
             stop a node that you can't ask. With the largest of them run: INSERT INTO generator_table (id, uuid) VALUES \
             (TICKET, UUID()) ON DUPLICATE KEY UPDATE id = id; UPDATE seqsvr_meta SET first_ticket = \
             GREATEST(first_ticket, TICKET + 1), state = 'ok'{more} WHERE id = 1;",
            self.step(),
            self.ticket_needed().max(seen.first_ticket).max(1)
        )
    }
}

/// The state that makes every node refuse.
const REGRESSED: &str = "regressed";
