//! The ticket layout: the seed's `generator_table`, where a ticket is an auto-increment value worth one block.
//!
//! Ticket `b` is the ids `[b * step + 1, (b + 1) * step + 1)`: with step 100 the first id of a new table is 101.
//!
//! A lease is statements on their own, each committed when its OK comes:
//! - read MAX(id) and `seqsvr_meta`, and refuse before anything is spent;
//! - INSERT k fresh rows, whose ids are the tickets;
//! - read `seqsvr_meta` again, *after* the INSERT's OK;
//! - and, when its blocks can be handed out already, DELETE this node's older rows.
//!
//! The tickets count only if the meta row is as expected, and they lie past MAX(id) and past `first_ticket`; else they
//! are a gap. The seed's `REPLACE` is not used: with several nodes at full speed it deadlocks, and one onto another
//! node's row deletes that silently.

use std::fmt::Write;
use std::num::NonZeroU64;
use std::sync::Arc;

use tokio::sync::Mutex;
use uuid::Uuid;

use super::super::guard::{self, Breach};
use super::super::{Definition, ErrorKind, Leased, MAX_BLOCKS_PER_LEASE, Script, StoreError, Terms};
use super::database::{self, CREATE_GENERATOR_TABLE, Opened};
use super::{Connection, Done, Server, Session};
use crate::config::{DEFAULT_MAX_ID, Step};
use crate::faults::{self, Guard as Switch};
use crate::name::{DEFAULT_SEQUENCE, SequenceName};
use crate::node::Node;
use crate::segment::{Block, push_joined};

mod meta;

pub(super) use meta::MIGRATING;
use meta::Seen;

/// The most tickets of one INSERT: 1000 take 8 to 18 ms.
const MOST_TICKETS_PER_LEASE: u64 = 1_000;

/// The most tickets held: the auto-increment column is finite (2^31 - 1 in the seed's table).
const MOST_TICKETS_HELD: u64 = 100_000;

/// A lease of more tickets than this means that the step is too small for the rate.
const MANY_TICKETS: u64 = 100;

/// From here on each start and each lease that crosses it warns that the column ends.
const WARN_CAPACITY: f64 = 0.8;

/// The 48 bits of a row's uuid that are its counter.
const COUNTER_MASK: u64 = (1 << 48) - 1;

/// A counter begins below this: that the first 16 of its bits are 0, for centuries, tells our rows from those of others.
const COUNTER_START: u64 = 1 << 31;

const WIDEN: &str = "ALTER TABLE generator_table MODIFY id BIGINT NOT NULL AUTO_INCREMENT";

/// The most rows of this node that wait to be deleted: 8 bytes each.
const MOST_ROWS_REMEMBERED: usize = 100_000;

/// Rows whose ids are deleted by one statement.
const MOST_ROWS_PER_DELETE: usize = 1_000;

/// The layout of the sequence `default`.
pub(super) struct Tickets {
    server: Arc<Server>,
    step: Step,
    /// How far the tickets are moved, in ids, where they were last fenced for another server; 0: nothing is leased then.
    failover_skip: u64,
    node: Arc<Node>,
    /// Held during a lease: a node has one in flight.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What was found of the table; `None` before, and after an error, so that it is looked at again.
    table: Option<Table>,
    /// Of the last row's uuid: the 48 bits that make this node's rows differ.
    counter: u64,
    /// The ids of this node's rows that are not deleted yet, rising; the newest stays.
    own_rows: Vec<u64>,
    /// The counter was found to have gone back, and that is not recorded yet.
    behind: Option<Behind>,
    warned_of: Warned,
}

/// How it was found that the counter went back.
struct Behind {
    /// The server and the first ticket that were recorded then. If they are others now, an operator or another node has fenced.
    recorded: (String, u64),
    /// By tickets that this node allocated. Rows that it only read may have been out of date.
    is_certain: bool,
}

impl Behind {
    /// Whether an operator, or another node, has fenced since. What another node records looks the same, and does no harm: the
    /// state then says that the counter went back.
    fn is_fenced(&self, seen: &Seen) -> bool {
        (self.recorded.0.as_str(), self.recorded.1) != (&*seen.server, seen.first_ticket)
    }
}

/// What was told once and needs no second line.
#[derive(Default)]
struct Warned {
    rows: bool,
    step: bool,
    capacity: bool,
}

/// `generator_table`, and the database that it is in.
struct Table {
    database: Arc<database::Opened>,
    /// The largest value of the auto-increment column.
    last_ticket: u64,
    column_type: String,
}

impl Tickets {
    pub(super) fn new(server: Arc<Server>, step: Step, failover_skip: u64, node: Arc<Node>) -> Self {
        Self { server, step, failover_skip, node, state: Mutex::default() }
    }

    pub(super) async fn lease(
        &self,
        session: &mut Session<'_>,
        database: &Arc<database::Opened>,
        want: NonZeroU64,
    ) -> Result<Leased, StoreError> {
        let mut state = self.state.lock().await;
        // Taken out: whatever fails or is dropped in between, the next lease looks at the table again.
        let table = match state.table.take() {
            Some(table) if Arc::ptr_eq(&table.database, database) => table,
            _ => self.open(session, database, &mut state).await?,
        };
        let leased = self.lease_on(session, &table, &mut state, want.get()).await;
        if leased.as_ref().map_or_else(|error| error.kind.is_passing(), |_| true) {
            state.table = Some(table);
        }
        leased
    }

    /// `default`, as it is in this layout.
    pub(super) fn definition(&self) -> Definition {
        Definition {
            name: SequenceName::default(),
            terms: Terms::unknown(self.step),
            next_id: None,
            is_deleted: false,
            description: "ticket layout (generator_table)".to_owned(),
        }
    }

    /// Looks at the table before the first lease.
    async fn open(
        &self,
        session: &mut Session<'_>,
        database: &Arc<database::Opened>,
        state: &mut State,
    ) -> Result<Table, StoreError> {
        let column_type = column_type(session).await?;
        let last_ticket = largest(&column_type).ok_or_else(|| {
            StoreError::new(
                ErrorKind::Misconfigured,
                format!(
                    "{}: generator_table.id is '{column_type}', not an auto-increment whole number. The table must be: \
                     {CREATE_GENERATOR_TABLE};",
                    session.at()
                ),
            )
        })?;
        self.find_own_rows(session, state).await?;
        Ok(Table { database: database.clone(), last_ticket, column_type })
    }

    /// The rows that this node left behind when it last ended; the counter goes on past them.
    async fn find_own_rows(&self, session: &mut Session<'_>, state: &mut State) -> Result<(), StoreError> {
        let prefix = row_uuid(self.node.id(), 0)[..24].to_owned();
        let rows: Vec<(u64, String)> = session
            .rows(&format!("SELECT id, uuid FROM generator_table WHERE uuid LIKE '{prefix}%' ORDER BY id"))
            .await?;
        state.own_rows = rows.iter().map(|(id, _)| *id).collect();
        let newest = rows.last().and_then(|(_, uuid)| u64::from_str_radix(&uuid[24..], 16).ok());
        state.counter = newest.unwrap_or(state.counter);
        Ok(())
    }

    /// Deletes this node's older rows, on the host where they were found.
    pub(super) async fn tidy(&self) {
        let mut state = self.state.lock().await;
        let Some(host) = state.table.as_ref().map(|table| table.database.host) else { return };
        if state.own_rows.len() < 2 {
            return;
        }
        let deleted = match self.server.connect().await {
            // The next lease finds its own rows there.
            Ok(session) if session.origin.host != host => return,
            Ok(mut session) => {
                let deleted = delete_older_rows(&mut session, &mut state.own_rows).await;
                session.close_if_useless().await;
                deleted
            }
            Err(error) => Err(error),
        };
        match deleted {
            Ok(()) => state.warned_of.rows = false,
            Err(error) => {
                if !std::mem::replace(&mut state.warned_of.rows, true) {
                    tracing::warn!(
                        "older rows of this node stay in generator_table until they can be deleted: {error}"
                    );
                }
                // Those forgotten here are found again at the next opening, by their uuid.
                let excess = state.own_rows.len().saturating_sub(MOST_ROWS_REMEMBERED);
                state.own_rows.drain(..excess);
            }
        }
    }

    /// The most ids that should be held at once.
    pub(super) fn most_held(&self) -> u64 {
        MOST_TICKETS_HELD.saturating_mul(self.step.get())
    }

    async fn lease_on(
        &self,
        session: &mut Session<'_>,
        table: &Table,
        state: &mut State,
        want: u64,
    ) -> Result<Leased, StoreError> {
        faults::point("ticket-looks");
        let before = self.look(session, table).await?;
        state.behind.take_if(|behind| behind.is_fenced(&before));
        if state.behind.is_some() && self.record_regression(state, table, &before, false).await? {
            return Err(self.refusal(Breach::Regressed, &before, table, "as it showed before"));
        }
        if let Err(breach) = guard::judge(&self.facts(&before, table)) {
            return Err(self.refuse(session, table, state, &before, breach).await?);
        }
        // A refused INSERT of several rows uses up its values all the same: never ask for more than there are.
        let beyond = last_legal_ticket(table.last_ticket, self.step()).saturating_sub(before.max);
        if beyond == 0 {
            return Err(self.exhausted(table));
        }
        // And the last one alone: MySQL 9 refuses several rows that end with the column, and uses a value up (tried).
        let left = (beyond / before.increment).saturating_sub(1).max(1);
        // Where the increment is not 1, each ticket is a block of its own.
        let most = if before.increment == 1 { MOST_TICKETS_PER_LEASE } else { MAX_BLOCKS_PER_LEASE as u64 };
        let needed = want.div_ceil(self.step());
        faults::point("ticket-inserts");
        let (uuids, first) = self.insert(session, table, state, needed.clamp(1, most.min(left))).await?;

        faults::point("ticket-inserted");
        let after = self.look(session, table).await?;
        faults::point("ticket-looked");
        let tickets = if uuids.len() == 1 || (before.increment == 1 && after.increment == 1) {
            (first..).take(uuids.len()).collect()
        } else {
            read_back(session, &uuids).await?
        };
        state.own_rows.extend(&tickets);
        let judged = if faults::is_off(Switch::State) { &before } else { &after };
        if let Err(breach) = guard::judge(&self.facts(judged, table)) {
            if breach == Breach::Regressed {
                self.record_regression(state, table, judged, true).await?;
            }
            return Err(self.refusal(breach, judged, table, "as seqsvr_meta says"));
        }
        if let Some(ticket) = tickets.iter().find(|&&ticket| ticket < judged.first_ticket)
            && before.first_ticket < judged.first_ticket
        {
            // A gap, and no alarm: the next lease shows whether the counter is where it should be.
            let what = format!(
                "{}: ticket {ticket} of generator_table is discarded, for the tickets were moved on to {} in between",
                session.at(),
                judged.first_ticket
            );
            return Err(StoreError::new(ErrorKind::Fenced, what));
        }
        let blocks = self.blocks(&tickets, table)?;
        if let Some(behind) = self.is_behind(&before, judged, &tickets, &blocks) {
            self.record_regression(state, table, judged, true).await?;
            return Err(self.refusal(Breach::Regressed, judged, table, &behind));
        }
        let capacity_used = self.report(table, state, &tickets, needed);
        Ok(Leased { blocks, capacity_used, mark: 0 })
    }

    /// What follows from a breach before a ticket was allocated. Where the tickets can't be trusted, nodes that remember
    /// nothing must refuse too.
    async fn refuse(
        &self,
        session: &mut Session<'_>,
        table: &Table,
        state: &mut State,
        before: &Seen,
        breach: Breach,
    ) -> Result<StoreError, StoreError> {
        let mut how = String::new();
        match breach {
            Breach::NotFenced if self.failover_skip > 0 => return self.fence_after_failover(&table.database).await,
            Breach::NotFenced => self.raise_first_ticket(session, table).await,
            Breach::Regressed => {
                // Each node's newest row stays: without it the table has lost rows, and its counter may have gone back with
                // them.
                let needed = self.facts(before, table).mark.saturating_sub(1);
                how = if before.max < needed {
                    format!("its highest row is {}, but ticket {needed} was leased", before.max)
                } else {
                    "as seqsvr_meta.state says".to_owned()
                };
                if !self.record_regression(state, table, before, false).await? {
                    let what = format!("{}: generator_table was looked at while it changed", session.at());
                    return Err(StoreError::new(ErrorKind::Conflict, what));
                }
            }
            _ => {}
        }
        Ok(self.refusal(breach, before, table, &how))
    }

    /// How it shows that the counter went back, if it does.
    fn is_behind(&self, before: &Seen, after: &Seen, tickets: &[u64], blocks: &[Block]) -> Option<String> {
        if faults::is_off(Switch::Mark) {
            return None;
        }
        let first_free = after.first_ticket.max(before.max.saturating_add(1));
        if let Some(ticket) = tickets.iter().find(|&&ticket| ticket < first_free) {
            return Some(format!("ticket {ticket} is below {first_free}, the first free one"));
        }
        let mark = self.node.high_water_mark(DEFAULT_SEQUENCE);
        let below = blocks.iter().find(|block| block.start() < mark)?;
        Some(format!("the leased block {below:?} is below {mark}, up to where this node leased before"))
    }

    /// Allocates a ticket that nobody hands out: the highest there ever was. Where the column is used up, that is its end.
    pub(super) async fn allocate(&self, session: &mut Session<'_>, script: &mut Script) -> Result<u64, StoreError> {
        let last_ticket = self.end_of_column(session).await?.unwrap_or(0);
        let sql = format!("INSERT INTO generator_table (uuid) VALUES ('{}')", row_uuid(Uuid::new_v4(), 0));
        if !script.runs(|| sql.clone()) {
            // It would be at least that.
            let max: Vec<Option<u64>> = session.rows("SELECT MAX(id) FROM generator_table").await?;
            return Ok(max.into_iter().flatten().next().unwrap_or(0_u64).saturating_add(1));
        }
        match session.execute(&sql).await {
            Ok(Done { affected_rows: 1, last_insert_id: Some(ticket) }) => Ok(ticket.get()),
            Ok(_) => {
                Err(StoreError::new(ErrorKind::Unavailable, format!("{}: an INSERT reported no ticket", session.at())))
            }
            Err(failed) => match failed.server {
                Some(server) if is_past_the_end(&server, last_ticket) => Ok(last_ticket),
                _ => Err(failed.error),
            },
        }
    }

    /// The largest value of the column.
    pub(super) async fn end_of_column(&self, session: &mut Session<'_>) -> Result<Option<u64>, StoreError> {
        Ok(largest(&column_type(session).await?))
    }

    /// Makes the tickets go on behind `ticket`.
    pub(super) async fn raise(
        &self,
        session: &mut Session<'_, impl Connection>,
        ticket: u64,
        script: &mut Script,
    ) -> Result<(), StoreError> {
        // A row with an explicit id raises AUTO_INCREMENT, on both makes and on Galera (tried). 0 would be the next one.
        let sql = format!(
            "INSERT INTO generator_table (id, uuid) VALUES ({}, '{}') ON DUPLICATE KEY UPDATE id = id",
            ticket.max(1),
            row_uuid(Uuid::new_v4(), 0)
        );
        if script.runs(|| sql.clone()) {
            session.execute(&sql).await?;
        }
        Ok(())
    }

    /// Makes the column as wide as it can be.
    pub(super) async fn widen(
        &self,
        session: &mut Session<'_>,
        opened: &Opened,
        script: &mut Script,
    ) -> Result<String, StoreError> {
        let at = &session.at();
        if opened.layout == super::Layout::Counter {
            return Err(StoreError::new(
                ErrorKind::Refused,
                format!("{at}: default is not in generator_table any more"),
            ));
        }
        let column = column_type(session).await?;
        if largest(&column).is_some_and(|largest| largest >= i64::MAX.cast_unsigned()) {
            return Ok(format!("generator_table.id is '{column}' already"));
        }
        // It copies the table, which has a row a node: nodes wait for it for milliseconds.
        if script.runs(|| WIDEN.to_owned()) {
            session.execute(WIDEN).await?;
        }
        Ok(format!("generator_table.id is BIGINT now, and was '{column}'"))
    }

    /// Inserts `count` fresh rows of this node. Their uuids, and the first one's ticket from the statement's own OK.
    async fn insert(
        &self,
        session: &mut Session<'_>,
        table: &Table,
        state: &mut State,
        mut count: u64,
    ) -> Result<(Vec<String>, u64), StoreError> {
        loop {
            let node = self.node.id();
            let mut next = || {
                state.counter = (state.counter + 1) & COUNTER_MASK;
                row_uuid(node, state.counter)
            };
            let uuids: Vec<String> = (0..count).map(|_| next()).collect();
            let mut sql = String::from("INSERT INTO generator_table (uuid) VALUES ");
            for (n, uuid) in uuids.iter().enumerate() {
                let comma = if n == 0 { "" } else { "," };
                write!(sql, "{comma}('{uuid}')").expect("writing to a String");
            }
            match session.execute(&sql).await {
                Ok(Done { affected_rows, last_insert_id: Some(first) }) if affected_rows == count => {
                    return Ok((uuids, first.get()));
                }
                Ok(_) => {
                    return Err(StoreError::new(
                        ErrorKind::Unavailable,
                        format!(
                            "{}: an INSERT of {count} rows reported another number of rows or no id; discarded",
                            session.at()
                        ),
                    ));
                }
                Err(failed) => match failed.server {
                    // Near the end several rows may not fit where one does.
                    Some(server) if is_past_the_end(&server, table.last_ticket) && count > 1 => count = 1,
                    Some(server) if is_past_the_end(&server, table.last_ticket) => return Err(self.exhausted(table)),
                    // A uuid of ours is taken, by a row of before: go on behind it.
                    Some(server) if server.code == 1062 => {
                        state.counter = Uuid::new_v4().as_u64_pair().0 % COUNTER_START;
                        return Err(StoreError { kind: ErrorKind::Conflict, ..failed.error });
                    }
                    _ => return Err(failed.error),
                },
            }
        }
    }

    /// The blocks of rising tickets, adjacent ones as one; at most [`MAX_BLOCKS_PER_LEASE`], and none past the largest id.
    fn blocks(&self, tickets: &[u64], table: &Table) -> Result<Vec<Block>, StoreError> {
        let mut blocks: Vec<Block> = Vec::new();
        for block in tickets.iter().map_while(|&ticket| ticket_block(ticket, self.step())) {
            push_joined(&mut blocks, block);
        }
        blocks.truncate(MAX_BLOCKS_PER_LEASE);
        if blocks.is_empty() { Err(self.exhausted(table)) } else { Ok(blocks) }
    }

    fn exhausted(&self, table: &Table) -> StoreError {
        let remedy = if last_legal_ticket(table.last_ticket, self.step()) == table.last_ticket {
            format!(
                "its column id ({}) ends at {}. Widen it: seqsvr migrate --widen, or ALTER TABLE generator_table MODIFY id \
                 BIGINT NOT NULL AUTO_INCREMENT;",
                table.column_type, table.last_ticket
            )
        } else {
            format!("ids end at {DEFAULT_MAX_ID}, for JSON readers would mix up larger ones. Go over to another table")
        };
        StoreError::new(
            ErrorKind::Exhausted,
            format!("{}: generator_table is used up: {remedy}", self.server.at_host(table.database.host)),
        )
    }

    /// How much of the column is used; warns where that, or the step, calls for a person.
    fn report(&self, table: &Table, state: &mut State, tickets: &[u64], needed: u64) -> f64 {
        let newest = tickets.last().copied().unwrap_or(0);
        #[allow(clippy::cast_precision_loss)]
        let used = newest as f64 / last_legal_ticket(table.last_ticket, self.step()).max(1) as f64;
        if used >= WARN_CAPACITY && !std::mem::replace(&mut state.warned_of.capacity, true) {
            tracing::warn!(
                "generator_table is {:.0} % used: its column id ({}) ends at {}. Widen it before that, while nodes go on: \
                 seqsvr migrate --widen --yes",
                used * 100.0,
                table.column_type,
                table.last_ticket
            );
        }
        if needed > MANY_TICKETS && !std::mem::replace(&mut state.warned_of.step, true) {
            tracing::warn!(
                "a lease wants {needed} tickets of step {}: the step is too small for this rate, which uses the column id \
                 up, costs the database rows, and keeps the runway short. Step {} would do",
                self.step(),
                (needed * self.step()).next_multiple_of(1000)
            );
        }
        used
    }

    fn step(&self) -> u64 {
        self.step.get()
    }
}

/// `[ticket * step + 1, (ticket + 1) * step + 1)`; `None` past the largest id.
pub(super) fn ticket_block(ticket: u64, step: u64) -> Option<Block> {
    let start = ticket.checked_mul(step)?.checked_add(1)?;
    let end = start.checked_add(step)?;
    if end - 1 > DEFAULT_MAX_ID { None } else { Block::new(start, end) }
}

/// The last ticket whose ids may be handed out, where the column ends at `last_ticket`.
pub(super) fn last_legal_ticket(last_ticket: u64, step: u64) -> u64 {
    last_ticket.min((DEFAULT_MAX_ID / step).saturating_sub(1))
}

/// The uuid of a row: the first 24 characters of the node's own and 12 of the counter, so that a node's rows differ, lie
/// together in the index, and still tell whose they are.
fn row_uuid(node: Uuid, counter: u64) -> String {
    Uuid::from_u64_pair(node.as_u64_pair().0, node.as_u64_pair().1 & !COUNTER_MASK | counter).to_string()
}

/// Whether the server refused an INSERT because the auto-increment column has no more values. Tried: MariaDB 10.11
/// answers 167 (`Out of range value`), MySQL 9 answers 1062 for one row and 1467 for several.
fn is_past_the_end(error: &mysql_async::ServerError, last_ticket: u64) -> bool {
    match error.code {
        167 | 1264 | 1467 => true,
        // Duplicate entry '2147483647' for key 'generator_table.PRIMARY': only there it means the end.
        1062 => error.message.split('\'').nth(1).and_then(|entry| entry.parse().ok()) == Some(last_ticket),
        _ => false,
    }
}

/// The tickets of our own rows, where they can't be counted up from the first.
async fn read_back(session: &mut Session<'_>, uuids: &[String]) -> Result<Vec<u64>, StoreError> {
    let sql = format!("SELECT id FROM generator_table WHERE uuid IN ('{}') ORDER BY id", uuids.join("','"));
    let tickets: Vec<u64> = session.rows(&sql).await?;
    if tickets.len() == uuids.len() {
        Ok(tickets)
    } else {
        Err(StoreError::new(ErrorKind::Unavailable, "rows that were just inserted are not all there; discarded"))
    }
}

/// The last rows that are not of seqsvr: ours end with a counter, which is small (see [`COUNTER_START`]).
pub(super) async fn foreign_rows(session: &mut Session<'_>) -> Result<Vec<String>, StoreError> {
    let sql = "SELECT id, uuid FROM generator_table WHERE uuid NOT LIKE '%-0000________' ORDER BY id DESC LIMIT 10";
    let rows: Vec<(u64, String)> = session.rows(sql).await?;
    Ok(rows.into_iter().map(|(id, uuid)| format!("{id} ({uuid})")).collect())
}

/// Deletes all of `own_rows` but the newest. What can't be deleted stays in the list, for the next time: the lease itself
/// is good.
async fn delete_older_rows(session: &mut Session<'_>, own_rows: &mut Vec<u64>) -> Result<(), StoreError> {
    while own_rows.len() > 1 {
        let count = (own_rows.len() - 1).min(MOST_ROWS_PER_DELETE);
        let ids: Vec<String> = own_rows[..count].iter().map(u64::to_string).collect();
        session.execute(&format!("DELETE FROM generator_table WHERE id IN ({})", ids.join(","))).await?;
        own_rows.drain(..count);
    }
    Ok(())
}

/// `id`'s column type, such as `int(11)`; with a remark where it is not an auto-increment.
async fn column_type(session: &mut Session<'_, impl Connection>) -> Result<String, StoreError> {
    let rows: Vec<(String, String)> = session
        .rows(
            "SELECT COLUMN_TYPE, EXTRA FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = DATABASE() \
             AND TABLE_NAME = 'generator_table' AND COLUMN_NAME = 'id'",
        )
        .await?;
    let (column, extra) = rows.into_iter().next().unwrap_or_default();
    let is_auto = extra.to_ascii_lowercase().contains("auto_increment");
    Ok(if is_auto { column } else { format!("{column} without AUTO_INCREMENT") })
}

/// The largest value of an auto-increment column of a type such as `int(11)` or `bigint unsigned`.
pub(super) fn largest(column_type: &str) -> Option<u64> {
    let lower = column_type.to_ascii_lowercase();
    if lower.contains("without") {
        return None;
    }
    let bits = match lower.split(['(', ' ']).next()? {
        "tinyint" => 8,
        "smallint" => 16,
        "mediumint" => 24,
        "int" | "integer" => 32,
        "bigint" => 64,
        _ => return None,
    };
    let bits = if lower.contains("unsigned") { bits } else { bits - 1 };
    Some(u64::MAX >> (64 - bits))
}

#[cfg(test)]
mod tests;
