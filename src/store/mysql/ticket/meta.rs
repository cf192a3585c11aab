//! `seqsvr_meta`: what is recorded of the table, and what must hold before a ticket is handed out.

use super::super::Session;
use super::{ErrorKind, Opened, StoreError, Tickets};

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
                 commits that the old server acknowledged may be missing here, so ids could be repeated, and nothing is \
                 leased. {}, server = '{0}' WHERE id = 1;",
                meta.connected_to,
                meta.server,
                self.fence()
            );
            return wrong(ErrorKind::Unsafe, what);
        }
        Ok(())
    }

    /// Once the counter was found to have gone back, nothing is leased until a person has inserted the row `needed`:
    /// getting there by leasing on would run through what *other* nodes hold.
    pub(super) fn check_fenced(&self, max: u64, needed: u64) -> Result<(), StoreError> {
        if max >= needed {
            return Ok(());
        }
        Err(self.unfenced(&format!("its highest row is {max}, and must be at least {needed}")))
    }

    /// The counter went back, or this is another server: nothing is leased until a person has set the counter. Until
    /// then no *new* node may take what this one holds: the first ticket is raised, never lowered, to our own mark.
    pub(super) async fn raise_first_ticket(&self, session: &mut Session<'_>) {
        let needed = self.ticket_needed();
        let sql = format!("UPDATE seqsvr_meta SET first_ticket = {needed} WHERE id = 1 AND first_ticket < {needed}");
        if let Err(failed) = session.execute(&sql).await {
            tracing::warn!("first_ticket could not be raised to {needed}: {}", failed.error);
        }
    }

    pub(super) fn unfenced(&self, what: &str) -> StoreError {
        StoreError::new(
            ErrorKind::Unsafe,
            format!(
                "{}: the counter of generator_table went back ({what}): a restored backup, or a lowered AUTO_INCREMENT. \
                 Ids could be repeated, so nothing is leased. {} WHERE id = 1;",
                self.server.described,
                self.fence()
            ),
        )
    }

    /// The first ticket that lies past all that this node ever leased.
    pub(super) fn ticket_needed(&self) -> u64 {
        let mark = self.node.high_water_mark(super::super::super::DEFAULT_SEQUENCE);
        mark.saturating_sub(1).div_ceil(self.step)
    }

    /// What a person has to do and to run, up to the last column that is set.
    fn fence(&self) -> String {
        format!(
            "TICKET must be past what any node has LEASED, not only handed out: each node's need is its metric \
             seqsvr_high_water_mark_ids (of a stopped one: data_dir/node.json) divided by step {} and rounded up, here {}; \
             with the largest of them run: INSERT IGNORE INTO generator_table (id, uuid) VALUES (TICKET, UUID()); UPDATE seqsvr_meta SET \
             first_ticket = GREATEST(first_ticket, TICKET + 1)",
            self.step,
            self.ticket_needed()
        )
    }
}
