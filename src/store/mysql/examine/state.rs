//! `seqsvr_meta`: whose ids these are, with which step, on which server, and whether they may be leased.

use super::super::super::finding::{self, Expected, Finding};
use super::super::super::guard::FENCE_ALL;
use super::super::database::{MOVED, RETIRED};
use super::super::members::Members;
use super::super::{Identity, Session, StoreError};
use super::tables::{self, GENERATOR, META, SEQUENCE};
use super::{Answer, Line, ask, first, number, text};
use crate::name::DEFAULT_SEQUENCE;

/// What was found.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// The row of `seqsvr_meta`; `None` where there is no row, or no table.
    pub(super) meta: Answer<Option<Line>>,
    /// The server that is connected, as `server` of the row must be.
    connected_to: String,
    /// The members of its cluster.
    members: Members,
    /// Which tables there are.
    tables: Tables,
    /// The highest row of `generator_table`.
    max: Option<u64>,
    /// Up to where this node has leased of `default`; 0 where it remembers nothing.
    mark: u64,
}

#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_excessive_bools)] // four tables, each there or not
struct Tables {
    generator: bool,
    retired: bool,
    meta: bool,
    sequence: bool,
}

impl Facts {
    pub(super) async fn ask(
        session: &mut Session<'_>,
        identity: &Identity,
        tables: &tables::Facts,
        expected: Expected<'_>,
    ) -> Result<Self, StoreError> {
        // All columns: a table of another version may lack some.
        let meta = if tables.has(META) {
            first(ask(session, "SELECT * FROM seqsvr_meta WHERE id = 1").await?)
        } else {
            Ok(None)
        };
        let max = if tables.has(GENERATOR) {
            first(ask(session, "SELECT MAX(id) AS max FROM generator_table").await?)
        } else {
            Ok(None)
        };
        Ok(Self {
            meta,
            connected_to: identity.name.clone(),
            members: identity.members.clone(),
            tables: Tables {
                generator: tables.has(GENERATOR),
                retired: tables.has(RETIRED),
                meta: tables.has(META),
                sequence: tables.has(SEQUENCE),
            },
            max: max.ok().flatten().and_then(|line| number(&line, "max")),
            mark: expected.node.map_or(0, |node| node.high_water_mark(DEFAULT_SEQUENCE)),
        })
    }

    fn row(&self) -> Option<&Line> {
        self.meta.as_ref().ok()?.as_ref()
    }

    /// Where `default` is in the counter layout.
    pub(super) fn is_moved(&self) -> bool {
        self.row().is_some_and(|meta| text(meta, "state") == MOVED)
    }

    pub(super) fn store_id(&self) -> &str {
        self.row().map_or("", |meta| text(meta, "store_id"))
    }

    /// The database's present epoch; 0 before the first node of a build with epochs.
    pub(super) fn epoch(&self) -> u32 {
        self.row().and_then(|meta| number(meta, "epoch")).and_then(|epoch| u32::try_from(epoch).ok()).unwrap_or(0)
    }

    fn recorded_members(&self) -> Members {
        Members::parse(self.row().map_or("", |meta| text(meta, "members")))
    }

    /// The recorded step; 0 where there is none.
    pub(super) fn step(&self) -> u64 {
        self.row().and_then(|meta| number(meta, "step")).unwrap_or(0)
    }

    pub(super) fn judge(&self, expected: Expected<'_>) -> Vec<Finding> {
        let meta = match &self.meta {
            Err(why) => {
                return vec![Finding::unreadable(
                    "state",
                    why,
                    "GRANT SELECT on seqsvr_meta, and see that its columns are right",
                )];
            }
            Ok(None) => return vec![self.without_meta()],
            Ok(Some(meta)) => meta,
        };
        let mut findings = vec![finding::store_id(self.store_id(), expected.node), self.identity(meta)];
        if !self.is_moved() {
            findings.push(step(self.step(), expected.step.get()));
        }
        findings.push(self.state(meta));
        findings
    }

    fn without_meta(&self) -> Finding {
        let Tables { generator, retired, meta, sequence } = self.tables;
        if retired || sequence || meta {
            let what = if meta { "the row of seqsvr_meta is gone" } else { "the table seqsvr_meta is gone" };
            return Finding::fail(
                "state",
                what,
                "counters were in this database, or what makes them safe: put it back from a backup, with its row",
            );
        }
        let found = if generator { "no seqsvr has used this generator_table yet" } else { "there are no tables yet" };
        Finding::warn(
            "state",
            found,
            "the first start makes what is missing, and records its step; the account needs CREATE for that, once",
        )
    }

    /// Compares the server with the one that had the database when it was last leased from.
    fn identity(&self, meta: &Line) -> Finding {
        const WHAT: &str = "identity";
        let (here, recorded) = (&self.connected_to, text(meta, "owner"));
        let epoch = self.epoch();
        if epoch == 0 {
            return Finding::warn(
                WHAT,
                format!("{here}; the tables are of an earlier version"),
                "the first node of this version adds epochs to them; the account needs ALTER for that, once",
            );
        }
        let members = self.recorded_members();
        if !self.members.is_majority_of(&members) {
            return Finding::fail(
                WHAT,
                format!(
                    "{here}, which sees {} of the cluster '{recorded}' that has the database",
                    self.members.share_of(&members)
                ),
                format!(
                    "it was cut off or started apart from its cluster, so no node leases from it: let it join again. If no other \
                     part ever takes writes again: {FENCE_ALL}"
                ),
            );
        }
        if recorded != here {
            return Finding::fail(
                WHAT,
                format!("this is '{here}', but '{recorded}' had the database last (epoch {epoch})"),
                format!(
                    "after a failover or a restore, commits that the old server acknowledged may be missing here, so no node \
                     leases. If the configuration names the wrong server, correct it. Else: {FENCE_ALL}. Or set \
                     mysql.failover_skip"
                ),
            );
        }
        // Counters have an epoch each.
        if !self.is_moved() && number(meta, "ticket_epoch") != Some(u64::from(epoch)) {
            return Finding::fail(
                WHAT,
                format!("{here}, but the tickets were not fenced since it has the database (epoch {epoch})"),
                format!("no node leases from generator_table. {FENCE_ALL}. Or set mysql.failover_skip"),
            );
        }
        let of = if members.is_empty() { String::new() } else { format!(", with {}", self.members.share_of(&members)) };
        Finding::ok(WHAT, format!("{here}, epoch {epoch}{of}"))
    }

    fn state(&self, meta: &Line) -> Finding {
        const WHAT: &str = "state";
        let state = text(meta, "state");
        let Tables { generator, retired, sequence, .. } = self.tables;
        if state == MOVED {
            return match (generator, sequence) {
                (_, false) => Finding::fail(
                    WHAT,
                    "moved, but seqsvr_sequence is gone",
                    "counters were in it: put it back from a backup, with its rows",
                ),
                (true, true) => Finding::warn(
                    WHAT,
                    "moved, but generator_table is still there",
                    format!(
                        "a server that leases from it would repeat ids: make sure that none does, and run: RENAME TABLE \
                         generator_table TO {RETIRED};"
                    ),
                ),
                (false, true) => Finding::ok(WHAT, "moved: default is in the counter layout"),
            };
        }
        if !generator {
            let renamed = if retired { "; there is a generator_table_moved" } else { "" };
            return Finding::fail(
                WHAT,
                format!("{state}, but generator_table is gone{renamed}"),
                "made anew it would count from 1: put it back from a backup, with its rows",
            );
        }
        let needed = self.mark.saturating_sub(1).div_ceil(self.step().max(1)).saturating_sub(1);
        let max = self.max.unwrap_or(0);
        match state {
            "ok" if max < needed => Finding::fail(
                WHAT,
                format!("the highest row of generator_table is {max}, but this node leased ticket {needed}"),
                "the counter went back: a restored backup, or rows that were deleted. What a node says on /readyz tells how to \
                 set it (seqsvr fence)",
            ),
            "ok" => Finding::ok(WHAT, "ok: default is in the ticket layout"),
            "regressed" => Finding::fail(
                WHAT,
                "regressed: a node found that the counter of generator_table went back",
                "no node leases, for ids could be repeated. What a node says on /readyz tells how to set the counter past all \
                 that was leased (seqsvr fence)",
            ),
            migrating if migrating.starts_with(super::super::ticket::MIGRATING) => Finding::fail(
                WHAT,
                "migrating: a migration is under way, or was interrupted",
                "no node leases meanwhile. If nobody runs it now, run it again: seqsvr migrate",
            ),
            other => Finding::fail(
                WHAT,
                format!("'{other}', which this version does not know"),
                "no node of this version leases: use the version that wrote it",
            ),
        }
    }
}

fn step(recorded: u64, configured: u64) -> Finding {
    if recorded == configured {
        return Finding::ok("step", format!("{recorded}, as configured"));
    }
    Finding::fail(
        "step",
        format!("{recorded} is recorded, {configured} is configured"),
        format!(
            "two steps on one table hand ids out twice, so this node refuses. Set step: {recorded} in the configuration"
        ),
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::super::super::finding::Verdict;
    use super::*;
    use crate::config::Step;
    use crate::node::Node;

    const ALL: Tables = Tables { generator: true, retired: false, meta: true, sequence: true };

    fn facts(changes: &[(&str, &str)]) -> Facts {
        let healthy = [
            ("step", "100"),
            ("state", "ok"),
            ("owner", "me"),
            ("store_id", "s"),
            ("epoch", "2"),
            ("ticket_epoch", "2"),
        ];
        let line = healthy.iter().chain(changes).map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        Facts {
            meta: Ok(Some(line.collect())),
            connected_to: "me".into(),
            members: Members::default(),
            tables: ALL,
            max: Some(5),
            mark: 0,
        }
    }

    fn judge(facts: &Facts, node: Option<&Node>) -> Vec<Finding> {
        facts.judge(Expected { step: Step::of(100), node, sample: Duration::ZERO })
    }

    #[test]
    fn all_is_well() {
        for facts in [facts(&[]), Facts { mark: 601, ..facts(&[]) }] {
            let findings = judge(&facts, None);
            assert_eq!(findings.len(), 4);
            assert!(findings.iter().all(|finding| finding.verdict == Verdict::Ok), "{findings:#?}");
        }
    }

    #[test]
    fn each_fault_has_its_row() {
        let moved = || facts(&[("state", "moved")]);
        let tables =
            |generator, meta, sequence, facts| Facts { tables: Tables { generator, meta, sequence, ..ALL }, ..facts };
        let none = || Facts { meta: Ok(None), ..facts(&[]) };
        for (facts, what, verdict, told) in [
            (facts(&[("step", "1000")]), "step", Verdict::Fail, "1000 is recorded, 100 is configured"),
            (facts(&[("owner", "old")]), "identity", Verdict::Fail, "'old' had the database last (epoch 2)"),
            (facts(&[("ticket_epoch", "1")]), "identity", Verdict::Fail, "the tickets were not fenced"),
            (facts(&[("epoch", "0")]), "identity", Verdict::Warn, "of an earlier version"),
            (facts(&[("members", "a b c")]), "identity", Verdict::Fail, "0 of the 3 recorded members"),
            (
                Facts { members: Members::parse("a b"), ..facts(&[("members", "a b c")]) },
                "identity",
                Verdict::Ok,
                "2 of the 3 recorded members",
            ),
            (facts(&[("state", "regressed")]), "state", Verdict::Fail, "regressed"),
            (facts(&[("state", "migrating-3f9a2c")]), "state", Verdict::Fail, "migrating"),
            (facts(&[("state", "x")]), "state", Verdict::Fail, "'x'"),
            (Facts { mark: 701, ..facts(&[]) }, "state", Verdict::Fail, "is 5, but this node leased ticket 6"),
            (tables(false, true, true, facts(&[])), "state", Verdict::Fail, "generator_table is gone"),
            (tables(false, true, true, moved()), "state", Verdict::Ok, "counter layout"),
            (tables(true, true, true, moved()), "state", Verdict::Warn, "still there"),
            (tables(false, true, false, moved()), "state", Verdict::Fail, "seqsvr_sequence is gone"),
            (tables(true, true, false, none()), "state", Verdict::Fail, "the row of seqsvr_meta is gone"),
            (tables(true, false, true, none()), "state", Verdict::Fail, "the table seqsvr_meta is gone"),
            (tables(true, false, false, none()), "state", Verdict::Warn, "no seqsvr has used"),
            (tables(false, false, false, none()), "state", Verdict::Warn, "no tables yet"),
            (Facts { meta: Err("error 1142".into()), ..facts(&[]) }, "state", Verdict::Warn, "could not be read"),
        ] {
            let findings = judge(&facts, None);
            let found = findings.iter().find(|finding| finding.what == what).unwrap();
            assert!(found.verdict == verdict && found.found.contains(told), "{told}: {found:?}");
            assert_eq!(found.advice.is_some(), verdict != Verdict::Ok);
        }
        // In the counter layout the tickets' step and epoch no longer matter.
        let findings =
            judge(&tables(false, true, true, facts(&[("state", "moved"), ("step", "7"), ("ticket_epoch", "1")])), None);
        assert!(findings.iter().all(|finding| finding.verdict == Verdict::Ok), "{findings:#?}");
    }

    #[test]
    fn another_store_than_this_node_remembers() {
        let node = Node::forgetful();
        node.remember_store("s");
        assert_eq!(judge(&facts(&[]), Some(&node))[0].verdict, Verdict::Ok);
        let other = &judge(&facts(&[("store_id", "t")]), Some(&node))[0];
        assert!(other.verdict == Verdict::Fail && other.advice.as_ref().unwrap().contains("seqsvr adopt"), "{other:?}");
    }
}
