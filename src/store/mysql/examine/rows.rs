//! The rows of `generator_table`: whose they are, and which can go.
//!
//! Only the row with MAX(id) guards anything: a node that finds none as high as its own last ticket says that the counter went
//! back. Any other row is a trace. So to delete those of a node that lives but is idle is harmless too: its next lease
//! inserts fresh ones, as that of a Go server does.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::super::super::finding::{Expected, Finding, Pruned, some_of};
use super::super::database::RETIRED;
use super::super::{Failed, Server, Session, StoreError};
use super::{Answer, Line, ask, first, number, text};

/// A node counts as dead when more tickets than this were allocated since its newest row.
const DEAD_AFTER: u64 = 1_000;

/// Old rows that are looked at; more are counted as more.
const MOST_OLD: usize = 10_000;

/// Rows whose ids are deleted by one statement.
const BATCH: usize = 1_000;

/// Nodes that are named.
const MOST_NODES: usize = 20;

/// So much of a row's uuid is the node's own.
const NODE_CHARACTERS: usize = 24;

/// SQL for whether seqsvr wrote a row: its uuid ends with a counter of 48 bits that stays small. Those of the Go server are
/// random.
const IS_OURS: &str = "COALESCE(uuid LIKE '%-0000________', FALSE)";

/// What was found.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// `id` and `uuid` of seqsvr's rows within the last [`DEAD_AFTER`] tickets.
    recent: Answer<Vec<Line>>,
    /// Of those before, at most one more than [`MOST_OLD`].
    old: Answer<Vec<Line>>,
    /// All rows that seqsvr did not write, the newest first; at most one more than [`MOST_OLD`].
    foreign: Answer<Vec<Line>>,
    /// The highest row when the examination began, and now.
    max: (u64, u64),
    increment: u64,
    /// What this node's rows begin with.
    own: Option<String>,
    /// Seqsvr has used the table before.
    is_in_use: bool,
}

/// The highest row; 0 if there is none.
pub(super) async fn highest(session: &mut Session<'_>) -> Result<u64, StoreError> {
    let max = first(ask(session, "SELECT COALESCE(MAX(id), 0) AS max FROM generator_table").await?);
    Ok(max.ok().flatten().and_then(|line| number(&line, "max")).unwrap_or(0))
}

impl Facts {
    /// Looks at the rows. `began_at` is the highest one when the examination began.
    pub(super) async fn ask(
        session: &mut Session<'_>,
        began_at: u64,
        increment: u64,
        is_in_use: bool,
        expected: Expected<'_>,
    ) -> Result<Self, StoreError> {
        let max = highest(session).await?;
        let bound = oldest_alive(max, increment);
        let rows = |which: &str, order: &str, limit: usize| {
            format!("SELECT id, uuid FROM generator_table WHERE {which} ORDER BY id {order} LIMIT {limit}")
        };
        let recent = rows(&format!("id >= {bound} AND {IS_OURS}"), "DESC", MOST_OLD);
        let old = rows(&format!("id < {bound} AND {IS_OURS}"), "", MOST_OLD + 1);
        let foreign = rows(&format!("NOT {IS_OURS}"), "DESC", MOST_OLD + 1);
        Ok(Self {
            recent: ask(session, &recent).await?,
            old: ask(session, &old).await?,
            foreign: ask(session, &foreign).await?,
            max: (began_at, max),
            increment,
            own: expected.node.map(|node| node.id().to_string()[..NODE_CHARACTERS].to_owned()),
            is_in_use,
        })
    }

    pub(super) fn judge(&self) -> Vec<Finding> {
        match (&self.recent, &self.old, &self.foreign) {
            (Ok(recent), Ok(old), Ok(foreign)) => vec![self.rows(recent, old), self.foreign(foreign)],
            (Err(why), ..) | (_, Err(why), _) | (.., Err(why)) => {
                vec![Finding::unreadable("rows", why, "GRANT SELECT on generator_table")]
            }
        }
    }

    fn rows(&self, recent: &[Line], old: &[Line]) -> Finding {
        const WHAT: &str = "rows";
        let alive: BTreeSet<&str> = recent.iter().map(node_of).collect();
        let own = self.own.as_deref();
        let others: Vec<&str> = alive.iter().copied().filter(|node| Some(*node) != own).collect();
        let this = if own.is_some_and(|own| alive.contains(own)) { "this node" } else { "not this node" };
        let mut found = format!("{} of nodes that leased lately: {this}", recent.len());
        if !others.is_empty() {
            let _ = write!(found, ", {} others ({})", others.len(), some_of(&others));
        }
        if old.is_empty() {
            return Finding::ok(WHAT, found);
        }
        let count = counted(old.len());
        let dead: BTreeSet<&str> = old.iter().map(node_of).filter(|node| !alive.contains(node)).collect();
        let dead: Vec<&str> = dead.into_iter().collect();
        let _ = write!(found, "; {count} older than the last {DEAD_AFTER} tickets");
        if !dead.is_empty() {
            let _ = write!(found, ", of {} nodes that ended or are idle ({})", dead.len(), some_of(&dead));
        }
        Finding::warn(WHAT, found, "they are harmless traces. To delete them: seqsvr doctor --prune, then with --yes")
    }

    /// The rows that seqsvr did not write, however old. A Go server that leases only now and then may be far behind: nodes can
    /// take thousands of tickets in one lease.
    fn foreign(&self, foreign: &[Line]) -> Finding {
        const WHAT: &str = "foreign rows";
        let Some(newest) = foreign.first() else { return Finding::ok(WHAT, "none") };
        let id = number(newest, "id").unwrap_or(0);
        let (began_at, max) = self.max;
        let behind = max.saturating_sub(id) / self.increment.max(1);
        let names: Vec<&str> = foreign.iter().map(|line| text(line, "uuid")).collect();
        let mut found = format!(
            "rows that are not of seqsvr: {} ({}); the newest is {behind} tickets behind",
            counted(foreign.len()),
            some_of(&names)
        );
        if id > began_at {
            found += ". It was added during this look: a Go server leases right now";
            // Until seqsvr uses the table, that is expected.
            return if self.is_in_use {
                Finding::fail(
                    WHAT,
                    found,
                    "stop the Go server: it issues IDs past its own blocks, which other nodes issue too",
                )
            } else {
                Finding::warn(WHAT, found, "stop the Go server before you start seqsvr")
            };
        }
        Finding::warn(
            WHAT,
            found,
            "a Go server may still run on this table: stop it, for it issues IDs past its own blocks. (A counter that was set by \
             hand leaves such a row too.) To find out: seqsvr doctor --prune --yes deletes rows that are over 1000 tickets \
             behind; a Go server that leases puts its row back",
        )
    }
}

/// How many rows there are, if at most one more than [`MOST_OLD`] was read.
fn counted(rows: usize) -> String {
    if rows > MOST_OLD { format!("over {MOST_OLD}") } else { rows.to_string() }
}

/// Rows below it are of nodes that count as dead, or left over.
fn oldest_alive(max: u64, increment: u64) -> u64 {
    max.saturating_sub(DEAD_AFTER.saturating_mul(increment.max(1)))
}

fn node_of(line: &Line) -> &str {
    let uuid = text(line, "uuid");
    uuid.get(..NODE_CHARACTERS).unwrap_or(uuid)
}

/// Deletes the rows of dead nodes and what is left over of others, never the one with MAX(id): they lie far below it. A dry
/// run only counts.
pub(in super::super) async fn prune(server: &Server, dry_run: bool) -> Result<Pruned, StoreError> {
    let mut session = server.connect().await?;
    let pruned = prune_on(&mut session, dry_run).await;
    session.close_if_useless().await;
    pruned
}

async fn prune_on(session: &mut Session<'_>, dry_run: bool) -> Result<Pruned, StoreError> {
    let tables = format!(
        "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = '{RETIRED}'"
    );
    let sql = "SELECT CAST(MAX(id) AS UNSIGNED), @@auto_increment_increment FROM generator_table";
    let (max, increment) = match session.rows::<(Option<u64>, u64)>(sql).await {
        Ok(rows) => rows.into_iter().next().unwrap_or_default(),
        // In the counter layout there is nothing to prune.
        Err(Failed { error, .. }) => {
            return if session.rows::<String>(&tables).await?.is_empty() { Err(error) } else { Ok(Pruned::default()) };
        }
    };
    let bound = oldest_alive(max.unwrap_or(0), increment);
    let mut pruned = Pruned { kept: max, ..Pruned::default() };
    let mut nodes: BTreeMap<String, u64> = BTreeMap::new();
    let mut last = 0;
    loop {
        let rows: Vec<(u64, String, bool)> = session
            .rows(&format!(
                "SELECT CAST(id AS UNSIGNED), COALESCE(uuid, ''), {IS_OURS} FROM generator_table WHERE id > {last} AND id < {bound} \
                 ORDER BY id LIMIT {BATCH}"
            ))
            .await?;
        let Some((newest, ..)) = rows.last() else { break };
        last = *newest;
        if !dry_run {
            let ids: Vec<String> = rows.iter().map(|(id, ..)| id.to_string()).collect();
            session.execute(&format!("DELETE FROM generator_table WHERE id IN ({})", ids.join(","))).await?;
        }
        pruned.rows += rows.len() as u64;
        for (_, uuid, is_ours) in &rows {
            if !is_ours {
                pruned.foreign_rows += 1;
                if pruned.foreign.len() < MOST_NODES {
                    pruned.foreign.push(uuid.clone());
                }
                continue;
            }
            let node = uuid.get(..NODE_CHARACTERS).unwrap_or(uuid);
            if let Some(count) = nodes.get_mut(node) {
                *count += 1;
            } else if nodes.len() < MOST_NODES {
                nodes.insert(node.to_owned(), 1);
            }
        }
    }
    pruned.nodes = nodes.into_iter().collect();
    Ok(pruned)
}

#[cfg(test)]
mod tests {
    use super::super::super::super::finding::Verdict;
    use super::*;

    const ME: &str = "6ba7b810-9dad-11d1-80b4-";

    fn lines(uuids: &[&str]) -> Vec<Line> {
        uuids.iter().map(|uuid| Line::from([("uuid".to_owned(), (*uuid).to_owned())])).collect()
    }

    fn facts(recent: &[&str], old: &[&str]) -> Facts {
        Facts {
            recent: Ok(lines(recent)),
            old: Ok(lines(old)),
            foreign: Ok(Vec::new()),
            max: (9_000, 9_000),
            increment: 1,
            own: Some(ME.to_owned()),
            is_in_use: true,
        }
    }

    fn judge(recent: &[&str], old: &[&str]) -> Vec<Finding> {
        facts(recent, old).judge()
    }

    #[test]
    fn whose_rows_they_are() {
        let own = &format!("{ME}000000000abc");
        let other = "7ba7b810-9dad-11d1-80b4-000000000001";
        let healthy = judge(&[own, other], &[]);
        assert_eq!(healthy[0].found, "2 of nodes that leased lately: this node, 1 others (7ba7b810-9dad-11d1-80b4-)");
        assert!(healthy.iter().all(|finding| finding.verdict == Verdict::Ok), "{healthy:#?}");

        let dead = &judge(&[own], &[own, other])[0];
        assert!(dead.found.contains("2 older than the last 1000 tickets, of 1 nodes that ended"), "{dead:?}");
        assert!(dead.verdict == Verdict::Warn && dead.advice.as_ref().unwrap().contains("--prune"), "{dead:?}");
        let left_over = &judge(&[own], &[own])[0];
        assert!(left_over.found.ends_with("; 1 older than the last 1000 tickets"), "{left_over:?}");
    }

    #[test]
    fn a_row_of_a_go_server_is_told_however_old_it_is() {
        let go = "8ba7b810-9dad-11d1-80b4-00c04fd430c8";
        let line = |id: u64| Line::from([("id".to_owned(), id.to_string()), ("uuid".to_owned(), go.to_owned())]);
        for (id, max, increment, is_in_use, verdict, words) in [
            (8_999, (9_000, 9_000), 1, true, Verdict::Warn, "is 1 tickets behind -> a Go server may still run"),
            (3_000, (9_000, 9_000), 1, true, Verdict::Warn, "is 6000 tickets behind -> "),
            (3_000, (9_000, 9_000), 3, true, Verdict::Warn, "is 2000 tickets behind -> "),
            (3_000, (2_999, 9_000), 1, true, Verdict::Fail, "leases right now -> stop the Go server: "),
            (3_000, (2_999, 9_000), 1, false, Verdict::Warn, "leases right now -> stop the Go server before"),
            // It came between two questions.
            (9_001, (9_000, 9_000), 1, true, Verdict::Fail, "is 0 tickets behind. It was added"),
        ] {
            let facts = Facts { foreign: Ok(vec![line(id)]), max, increment, is_in_use, ..facts(&[], &[]) };
            let found = &facts.judge()[1];
            let told = format!("{} -> {}", found.found, found.advice.as_ref().unwrap());
            assert!(found.verdict == verdict && told.contains(words) && told.contains(go), "{words}: {found:?}");
        }
    }

    #[test]
    fn the_highest_row_is_never_old() {
        for (max, increment, bound) in [(0, 1, 0), (1_000, 1, 0), (1_001, 1, 1), (5_000, 3, 2_000), (5_000, 0, 4_000)] {
            assert_eq!(oldest_alive(max, increment), bound);
            assert!(bound <= max);
        }
    }
}
