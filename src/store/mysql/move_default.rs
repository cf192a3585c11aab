//! `seqsvr migrate --counter`: moves `default` from the ticket to the counter layout, while nodes go on leasing.
//!
//! Why no id can come twice: nodes hand a ticket out only if, *after* its INSERT was acknowledged, they read the state
//! `ok`. So once `migrating` is committed (1), a ticket that is allocated later than ours (2) is handed out by nobody, and
//! ours is above every ticket that is. The counter begins past ours (3). Interrupted anywhere, it stays `migrating`: nobody
//! leases, and to run it again begins with a new ticket of its own.

use super::super::counter::Row;
use super::database::{MOVED, Opened, RETIRED};
use super::{ErrorKind, Layout, MySql, Session, StoreError};
use crate::config::{DEFAULT_MAX_ID, Step};
use crate::name::SequenceName;

impl MySql {
    pub(super) async fn move_default_on(
        &self,
        session: &mut Session<'_>,
        opened: &Opened,
    ) -> Result<String, StoreError> {
        let refused = |what: String| Err(StoreError::new(ErrorKind::Refused, what));
        if opened.layout == Layout::Counter {
            // Ended before its last step?
            return match session.rows::<u64>("SELECT 1 FROM generator_table LIMIT 0").await {
                Ok(_) => Ok(format!("default is in the counter layout already. {}", retire(session).await)),
                Err(_) => refused("default is in the counter layout already".to_owned()),
            };
        }
        self.counters.make_table(session).await?;
        let identity = &opened.identity.expression;
        // 1. From here on nobody hands out a ticket that is allocated from here on.
        let sql =
            format!("UPDATE seqsvr_meta SET state = 'migrating' WHERE id = 1 AND state = 'ok' AND server = {identity}");
        session.execute(&sql).await?;
        let sql = format!("SELECT state, server = {identity}, step, first_ticket FROM seqsvr_meta WHERE id = 1");
        let rows: Vec<(String, bool, u64, u64)> = session.rows(&sql).await?;
        let Some((state, is_fenced, step, first_ticket)) = rows.into_iter().next() else {
            return refused("the row of seqsvr_meta is gone. Put it back from a backup".to_owned());
        };
        if state != "migrating" || !is_fenced {
            return refused(format!(
                "the counter of generator_table is not safe (state '{state}'{}). See what `/readyz` of a node says, and set \
                 the counter first",
                if is_fenced { "" } else { ", last fenced for another server" }
            ));
        }
        let step = Step::new(step)
            .ok_or_else(|| StoreError::new(ErrorKind::Misconfigured, "the step in seqsvr_meta is 0".to_owned()))?;
        // 2. The highest ticket ever.
        let ticket = self.tickets.allocate(session).await?;
        let past = ticket.max(first_ticket).saturating_add(1).saturating_mul(step.get()).saturating_add(1);
        // 3. The counter begins past it.
        let mut transaction = self.server.transaction().await?;
        let name = SequenceName::default();
        let before = self.counters.lock(&mut transaction, &name).await?;
        let server = opened.read_fence(&mut transaction).await?;
        let after = Row {
            next_id: before.as_ref().map_or(0, |row| row.next_id).max(past),
            step,
            max_id: before.as_ref().map_or(DEFAULT_MAX_ID, |row| row.max_id),
            server,
            incarnation: before.as_ref().map_or(0, |row| row.incarnation) + 1,
            is_deleted: false,
            description: String::new(),
        };
        self.counters.write(&mut transaction, &name, before.is_some(), &after).await?;
        let sql = format!(
            "UPDATE seqsvr_meta SET state = '{MOVED}', revision = revision + 1 WHERE id = 1 AND state = 'migrating'"
        );
        if transaction.execute(&sql).await?.affected_rows != 1 {
            return refused("somebody else moves it just now".to_owned());
        }
        transaction.commit().await?;
        Ok(format!(
            "default is in the counter layout, and goes on from id {}; running nodes follow within seconds. {}",
            after.next_id,
            retire(session).await
        ))
    }
}

/// 4. A server that knows only `generator_table`, like the Go server, must not lease from it any more. What came of it.
async fn retire(session: &mut Session<'_>) -> String {
    let rename = format!("RENAME TABLE generator_table TO {RETIRED}");
    match session.execute(&rename).await {
        Ok(_) => format!("generator_table is called {RETIRED} now, so that no other server leases from it"),
        Err(failed) => format!(
            "generator_table could not be renamed ({}). A server that leases from it would repeat ids: make sure that none \
             does, and run: {rename};",
            failed.error
        ),
    }
}
