//! `seqsvr_meta`: what is recorded of the table, and what must hold before a ticket is handed out.

use super::super::Session;
use super::{ErrorKind, Opened, State, StoreError, Tickets};

/// The row of `seqsvr_meta`, with the server's identity and auto-increment step.
pub(super) struct Meta {
    pub(super) step: u64,
    pub(super) first_ticket: u64,
    pub(super) state: String,
    pub(super) server: String,
    pub(super) store_id: String,
    pub(super) connected_to: String,
    pub(super) increment: u64,
}

impl Tickets {
    pub(super) async fn meta(&self, session: &mut Session<'_>, opened: &Opened) -> Result<Meta, StoreError> {
        let sql = format!(
            "SELECT step, first_ticket, state, server, store_id, {}, @@auto_increment_increment FROM seqsvr_meta \
             WHERE id = 1",
            opened.identity.expression
        );
        let rows: Vec<(u64, u64, String, String, String, String, u64)> = session.rows(&sql).await?;
        let (step, first_ticket, state, server, store_id, connected_to, increment) =
            rows.into_iter().next().ok_or_else(|| {
                StoreError::new(
                    ErrorKind::Misconfigured,
                    format!("{}: the row of seqsvr_meta is gone. Put it back from a backup", self.server.described),
                )
            })?;
        Ok(Meta { step, first_ticket, state, server, store_id, connected_to, increment })
    }

    /// What must hold before anything that was leased is handed out.
    pub(super) fn check_meta(&self, meta: &Meta, opened: &Opened) -> Result<(), StoreError> {
        let at = &self.server.described;
        let wrong = |kind, what: String| Err(StoreError::new(kind, format!("{at}: {what}")));
        if meta.store_id != opened.store_id {
            return wrong(ErrorKind::Misconfigured, format!("the store_id changed to {} while we ran", meta.store_id));
        }
        if meta.state != "ok" {
            let what = format!("seqsvr_meta.state is '{}': a migration is under way, or was interrupted", meta.state);
            return wrong(ErrorKind::Unavailable, what);
        }
        if meta.step != self.step {
            let what = format!(
                "the ids of this table are leased with step {}, the configuration says step {}. Two steps on one table \
                 hand ids out twice. Set step: {0} in the configuration",
                meta.step, self.step
            );
            return wrong(ErrorKind::Misconfigured, what);
        }
        if meta.server != meta.connected_to {
            let what = format!(
                "this is server '{}', but the counter was last fenced for server '{}'. After a failover or a restore, \
                 commits that the old server acknowledged may be missing here, so ids could be repeated. When all \
                 nodes' highest ids are known, with TICKET above each of them divided by step {}, run: INSERT INTO \
                 generator_table (id, uuid) VALUES (TICKET, UUID()); UPDATE seqsvr_meta SET first_ticket = TICKET + 1, \
                 server = '{0}' WHERE id = 1;",
                meta.connected_to, meta.server, self.step
            );
            return wrong(ErrorKind::Unsafe, what);
        }
        Ok(())
    }

    /// Once the counter was found to have gone back, nothing is leased until a person has raised `first_ticket` past
    /// what this node leased: passing our own mark by leasing on would run through what *other* nodes hold.
    pub(super) fn check_fenced(&self, meta: &Meta, floor_id: u64) -> Result<(), StoreError> {
        let needed = floor_id.saturating_sub(1).div_ceil(self.step);
        if meta.first_ticket >= needed {
            return Ok(());
        }
        Err(self.unfenced(&format!("seqsvr_meta.first_ticket is {}, and must be at least {needed}", meta.first_ticket)))
    }

    /// The counter went back: nothing is leased until a person has set it. Remembers that.
    pub(super) fn behind(&self, state: &mut State, what: &str) -> StoreError {
        state.is_behind = true;
        self.unfenced(what)
    }

    fn unfenced(&self, what: &str) -> StoreError {
        StoreError::new(
            ErrorKind::Unsafe,
            format!(
                "{}: the counter of generator_table went back ({what}): a restored backup, or a lowered AUTO_INCREMENT. \
                 Ids could be repeated, so nothing is leased. With TICKET above the highest id of all nodes divided by \
                 step {}, run: INSERT INTO generator_table (id, uuid) VALUES (TICKET, UUID()); UPDATE seqsvr_meta SET \
                 first_ticket = TICKET + 1 WHERE id = 1;",
                self.server.described, self.step
            ),
        )
    }
}
