//! The rows of `generator_table`: whose they are, and which can go.
//!
//! Only the row with MAX(id) guards anything: a node that finds none as high as its own last ticket says that the counter went
//! back. Any other row is a trace. So to delete those of a node that lives but is idle is harmless too: its next lease
//! inserts fresh ones.

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

/// What was found.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// `id` and `uuid` of the rows within the last [`DEAD_AFTER`] tickets.
    recent: Answer<Vec<Line>>,
    /// Of those before, at most one more than [`MOST_OLD`].
    old: Answer<Vec<Line>>,
    /// What this node's rows begin with.
    own: Option<String>,
}

impl Facts {
    pub(super) async fn ask(
        session: &mut Session<'_>,
        increment: u64,
        expected: Expected<'_>,
    ) -> Result<Self, StoreError> {
        let max = first(ask(session, "SELECT COALESCE(MAX(id), 0) AS max FROM generator_table").await?);
        let bound = oldest_alive(max.ok().flatten().and_then(|line| number(&line, "max")).unwrap_or(0), increment);
        let recent =
            format!("SELECT id, uuid FROM generator_table WHERE id >= {bound} ORDER BY id DESC LIMIT {MOST_OLD}");
        let old = format!("SELECT id, uuid FROM generator_table WHERE id < {bound} ORDER BY id LIMIT {}", MOST_OLD + 1);
        Ok(Self {
            recent: ask(session, &recent).await?,
            old: ask(session, &old).await?,
            own: expected.node.map(|node| node.id().to_string()[..NODE_CHARACTERS].to_owned()),
        })
    }

    pub(super) fn judge(&self) -> Vec<Finding> {
        let (recent, old) = match (&self.recent, &self.old) {
            (Ok(recent), Ok(old)) => (recent, old),
            (Err(why), _) | (_, Err(why)) => {
                return vec![Finding::unreadable("rows", why, "GRANT SELECT on generator_table")];
            }
        };
        vec![self.rows(recent, old), foreign(recent)]
    }

    fn rows(&self, recent: &[Line], old: &[Line]) -> Finding {
        const WHAT: &str = "rows";
        let alive: BTreeSet<&str> = recent.iter().filter(|line| is_ours(line)).map(node_of).collect();
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
        let count = if old.len() > MOST_OLD { format!("over {MOST_OLD}") } else { old.len().to_string() };
        let dead: BTreeSet<&str> = old.iter().map(node_of).filter(|node| !alive.contains(node)).collect();
        let dead: Vec<&str> = dead.into_iter().collect();
        let _ = write!(found, "; {count} older than the last {DEAD_AFTER} tickets");
        if !dead.is_empty() {
            let _ = write!(found, ", of {} nodes that ended or are idle ({})", dead.len(), some_of(&dead));
        }
        Finding::warn(WHAT, found, "they are harmless traces. To delete them: seqsvr doctor --prune, then with --yes")
    }
}

fn foreign(recent: &[Line]) -> Finding {
    const WHAT: &str = "foreign rows";
    let foreign: Vec<&str> = recent.iter().filter(|line| !is_ours(line)).map(|line| text(line, "uuid")).collect();
    if foreign.is_empty() {
        return Finding::ok(WHAT, "none");
    }
    Finding::warn(
        WHAT,
        format!("{} recent rows are not of seqsvr: {}", foreign.len(), some_of(&foreign)),
        "a Go server may still run on this table: stop it, for it hands out ids past its own blocks. (A counter that was set by \
         hand leaves such a row too.)",
    )
}

/// Rows below it are of nodes that count as dead, or left over.
fn oldest_alive(max: u64, increment: u64) -> u64 {
    max.saturating_sub(DEAD_AFTER.saturating_mul(increment.max(1)))
}

/// Ours end with a counter of 48 bits that stays small; those of the Go server are random.
fn is_ours(line: &Line) -> bool {
    text(line, "uuid").get(NODE_CHARACTERS..).is_some_and(|counter| counter.starts_with("0000"))
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
        let rows: Vec<(u64, String)> = session
            .rows(&format!(
                "SELECT CAST(id AS UNSIGNED), COALESCE(uuid, '') FROM generator_table WHERE id > {last} AND id < {bound} ORDER BY id LIMIT {BATCH}"
            ))
            .await?;
        let Some((newest, _)) = rows.last() else { break };
        last = *newest;
        if !dry_run {
            let ids: Vec<String> = rows.iter().map(|(id, _)| id.to_string()).collect();
            session.execute(&format!("DELETE FROM generator_table WHERE id IN ({})", ids.join(","))).await?;
        }
        pruned.rows += rows.len() as u64;
        for (_, uuid) in &rows {
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

    fn judge(recent: &[&str], old: &[&str]) -> Vec<Finding> {
        Facts { recent: Ok(lines(recent)), old: Ok(lines(old)), own: Some(ME.to_owned()) }.judge()
    }

    #[test]
    fn whose_rows_they_are() {
        let own = &format!("{ME}000000000abc");
        let other = "7ba7b810-9dad-11d1-80b4-000000000001";
        let go = "8ba7b810-9dad-11d1-80b4-00c04fd430c8";
        let healthy = judge(&[own, other], &[]);
        assert_eq!(healthy[0].found, "2 of nodes that leased lately: this node, 1 others (7ba7b810-9dad-11d1-80b4-)");
        assert!(healthy.iter().all(|finding| finding.verdict == Verdict::Ok), "{healthy:#?}");

        let dead = &judge(&[own], &[own, other])[0];
        assert!(dead.found.contains("2 older than the last 1000 tickets, of 1 nodes that ended"), "{dead:?}");
        assert!(dead.verdict == Verdict::Warn && dead.advice.as_ref().unwrap().contains("--prune"), "{dead:?}");
        let left_over = &judge(&[own], &[own])[0];
        assert!(left_over.found.ends_with("; 1 older than the last 1000 tickets"), "{left_over:?}");

        let foreign = &judge(&[own, go], &[])[1];
        assert!(foreign.verdict == Verdict::Warn && foreign.found.contains(go), "{foreign:?}");
        assert_eq!(judge(&[own, ""], &[])[1].verdict, Verdict::Warn, "whatever it is");
    }

    #[test]
    fn the_highest_row_is_never_old() {
        for (max, increment, bound) in [(0, 1, 0), (1_000, 1, 0), (1_001, 1, 1), (5_000, 3, 2_000), (5_000, 0, 4_000)] {
            assert_eq!(oldest_alive(max, increment), bound);
            assert!(bound <= max);
        }
    }
}
