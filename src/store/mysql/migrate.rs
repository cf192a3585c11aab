//! `seqsvr migrate`: moves the tickets to the counter layout, or to another step, while nodes go on leasing.
//!
//! Why no id can come twice: nodes hand a ticket out only if, *after* its INSERT was acknowledged, they read the state
//! `ok` and their own step. So once `migrating` is committed (1), a ticket that is allocated later than ours (2) is handed
//! out by nobody, and ours is above every ticket that is (MAX(id) is not: rows are deleted). What comes next begins past
//! ours (3). Interrupted anywhere, it stays `migrating`: nobody leases, and to run it again begins with a new ticket of its
//! own.

use super::super::Script;
use super::super::counter::Row;
use super::database::{MOVED, Opened, RETIRED};
use super::ticket::{MIGRATING, ticket_block};
use super::{ErrorKind, Layout, MySql, Session, StoreError};
use crate::config::{DEFAULT_MAX_ID, Step};
use crate::name::SequenceName;

/// What is recorded once nobody hands out a new ticket any more, and the highest one that there is.
struct Begun {
    step: Step,
    /// Nobody hands out this one, nor what is allocated after it.
    ticket: u64,
    /// The `state` that says that this run of the command is at it. One that begins later takes over, and this one fails:
    /// its numbers are old then.
    state: String,
}

impl MySql {
    /// 1 and 2.
    async fn begin(
        &self,
        session: &mut Session<'_>,
        opened: &Opened,
        script: &mut Script,
    ) -> Result<Begun, StoreError> {
        let refused = |what: String| Err(StoreError::new(ErrorKind::Refused, what));
        let is_fenced = format!("ticket_epoch = epoch AND {}", opened.owned());
        let begun = format!("{MIGRATING}-{:06x}", uuid::Uuid::new_v4().as_u64_pair().0 >> 40);
        let sql = format!(
            "UPDATE seqsvr_meta SET state = '{begun}' WHERE id = 1 AND (state = 'ok' OR state LIKE '{MIGRATING}%') \
             AND {is_fenced}"
        );
        if script.runs(|| sql.clone()) {
            session.execute(&sql).await?;
        }
        let sql =
            format!("SELECT state, COALESCE({is_fenced}, FALSE), step, first_ticket FROM seqsvr_meta WHERE id = 1");
        let rows: Vec<(String, bool, u64, u64)> = session.rows(&sql).await?;
        let Some((state, is_fenced, step, first_ticket)) = rows.into_iter().next() else {
            return refused("the row of seqsvr_meta is gone. Put it back from a backup".to_owned());
        };
        let is_begun = state == begun || (script.is_dry_run && (state == "ok" || state.starts_with(MIGRATING)));
        if !is_begun || !is_fenced {
            return refused(format!(
                "the counter of generator_table is not safe (state '{state}'{}). See what `seqsvr doctor` says, and run `seqsvr \
                 fence` first",
                if is_fenced { "" } else { ", not fenced since the database moved to another server" }
            ));
        }
        let step = Step::new(step)
            .ok_or_else(|| StoreError::new(ErrorKind::Misconfigured, "the step in seqsvr_meta is 0".to_owned()))?;
        let ticket = self.tickets.allocate(session, script).await?;
        Ok(Begun { step, ticket: ticket.max(first_ticket), state: begun })
    }

    /// To another step. What is handed out with it begins past the last id of the old one.
    pub(super) async fn change_step(
        &self,
        session: &mut Session<'_>,
        opened: &Opened,
        new: Step,
        script: &mut Script,
    ) -> Result<String, StoreError> {
        let refused = |what: String| Err(StoreError::new(ErrorKind::Refused, what));
        if opened.layout == Layout::Counter {
            return refused(
                "default is not in generator_table any more: seqsvr sequence alter default --step N".to_owned(),
            );
        }
        let rows: Vec<(u64, String)> = session.rows("SELECT step, state FROM seqsvr_meta WHERE id = 1").await?;
        if rows.first().is_some_and(|(step, state)| *step == new.get() && state == "ok") {
            return Ok(format!("the step is {} already", new.get()));
        }
        let Begun { step: old, ticket, state } = self.begin(session, opened, script).await?;
        let end = self.tickets.end_of_column(session).await?;
        let last = match last_before(ticket, old.get(), new.get()) {
            Some(last) if end.is_none_or(|end| last < end) && ticket_block(last + 1, new.get()).is_some() => last,
            last => {
                // Nothing is changed yet, so that nodes can go on as before.
                let sql = format!("UPDATE seqsvr_meta SET state = 'ok' WHERE id = 1 AND state = '{state}'");
                if script.runs(|| sql.clone()) {
                    session.execute(&sql).await?;
                }
                let is_past_ids = last.is_none_or(|last| ticket_block(last + 1, new.get()).is_none());
                let why = if is_past_ids {
                    format!("no id would be left, for those of the ticket layout end at {DEFAULT_MAX_ID}")
                } else {
                    "the next ticket would be past the column's end. Widen it first: seqsvr migrate --widen".to_owned()
                };
                return refused(format!("with step {} {why}", new.get()));
            }
        };
        self.tickets.raise(session, last, script).await?;
        // Not the revision: that tells of counters.
        let sql = format!(
            "UPDATE seqsvr_meta SET step = {}, first_ticket = {}, state = 'ok' WHERE id = 1 AND state = '{state}'",
            new.get(),
            last + 1
        );
        if script.runs(|| sql.clone()) && session.execute(&sql).await?.affected_rows != 1 {
            return refused("somebody else migrates it just now".to_owned());
        }
        Ok(format!(
            "the step is {} now, and was {}; the next id is at least {}. Nodes with the old one hand out what they hold and \
             lease no more: set step: {0} in their configuration and restart them",
            new.get(),
            old.get(),
            u128::from(last + 1) * u128::from(new.get()) + 1
        ))
    }

    /// To the counter layout.
    pub(super) async fn move_default_on(
        &self,
        session: &mut Session<'_>,
        opened: &Opened,
        script: &mut Script,
    ) -> Result<String, StoreError> {
        let refused = |what: String| Err(StoreError::new(ErrorKind::Refused, what));
        if opened.layout == Layout::Counter {
            // Ended before its last step?
            return match session.rows::<u64>("SELECT 1 FROM generator_table LIMIT 0").await {
                Ok(_) => Ok(format!(
                    "default is in the counter layout already. {}",
                    retire(session, script, "default is in the counter layout already").await?
                )),
                Err(_) => refused("default is in the counter layout already".to_owned()),
            };
        }
        if !script.is_dry_run {
            self.counters.make_table(session).await?;
        }
        let Begun { step, ticket, state } = self.begin(session, opened, script).await?;
        let past = ticket.saturating_add(1).saturating_mul(step.get()).saturating_add(1);
        // 3. The counter begins past it.
        let mut transaction = self.server.transaction(opened.host).await?;
        let epoch = opened.enter(&mut transaction, script).await?;
        let name = SequenceName::default();
        let before = self.counters.lock(&mut transaction, &name).await?;
        let after = Row {
            next_id: before.as_ref().map_or(0, |row| row.next_id).max(past),
            step,
            max_id: before.as_ref().map_or(DEFAULT_MAX_ID, |row| row.max_id),
            server: opened.fence(),
            epoch,
            incarnation: before.as_ref().map_or(0, |row| row.incarnation) + 1,
            is_deleted: false,
            description: String::new(),
        };
        if script.runs(|| after.shown(&name, before.is_some())) {
            self.counters.write(&mut transaction, &name, before.is_some(), &after).await?;
        }
        let sql = format!(
            "UPDATE seqsvr_meta SET state = '{MOVED}', revision = revision + 1 WHERE id = 1 AND state = '{state}'"
        );
        if script.runs(|| sql.clone()) && transaction.execute(&sql).await?.affected_rows != 1 {
            return refused("somebody else moves it just now".to_owned());
        }
        if script.runs(|| "COMMIT".to_owned()) {
            transaction.commit().await?;
        }
        let moved = format!(
            "default is in the counter layout, and goes on from id {}; running nodes follow within seconds",
            after.next_id
        );
        let retired = retire(session, script, &moved).await?;
        Ok(format!("{moved}. {retired}"))
    }
}

/// The last ticket of `new` ids that begins no later than the end of ticket `ticket` of `old` ids, and is past it: those
/// behind it have none of its ids. `None` past the end of all numbers.
fn last_before(ticket: u64, old: u64, new: u64) -> Option<u64> {
    let behind = u128::from(ticket) + 1;
    let last = (behind * u128::from(old)).div_ceil(u128::from(new)).max(behind);
    u64::try_from(last).ok().filter(|last| *last < u64::MAX)
}

/// Step 4: a server that knows only `generator_table`, like the Go server, must not lease from it any more. What came of it; an
/// error, behind what was `done` before, if the table is still there.
async fn retire(session: &mut Session<'_>, script: &mut Script, done: &str) -> Result<String, StoreError> {
    let rename = format!("RENAME TABLE generator_table TO {RETIRED}");
    if !script.runs(|| rename.clone()) {
        return Ok(format!("generator_table is called {RETIRED} then"));
    }
    match session.execute(&rename).await {
        Ok(_) => Ok(format!("generator_table is called {RETIRED} now, so that no other server leases from it")),
        Err(failed) => Err(StoreError::new(
            ErrorKind::Refused,
            format!(
                "{done}. But generator_table could not be renamed ({}), for which the account needs ALTER and DROP. A server that leases \
             from it would repeat ids: make sure that none does, and run: {rename};",
                failed.error
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_new_step_begins_past_the_old_ones_ids() {
        assert_eq!(last_before(10, 100, 100), Some(11));
        // Ticket 10 of 100 ends at 1100, ticket 111 of 10 begins at 1111.
        assert_eq!(last_before(10, 100, 10), Some(110));
        // Tickets count up, whatever they are worth.
        assert_eq!(last_before(10, 100, 1_000), Some(11));
        assert_eq!(last_before(u64::MAX, 2, 1), None);
    }

    proptest! {
        #[test]
        fn no_ticket_behind_has_an_id_of_one_before(ticket in 0..u64::from(u32::MAX), old in 1..100_000_u64, new in 1..100_000_u64) {
            let last = last_before(ticket, old, new).unwrap();
            prop_assert!(last > ticket);
            let last_old_id = u128::from(ticket + 1) * u128::from(old);
            let first_new_id = u128::from(last + 1) * u128::from(new) + 1;
            prop_assert!(first_new_id > last_old_id);
        }
    }
}
