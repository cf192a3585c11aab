//! The server: what it is, its part in a replication or cluster, and whether what it acknowledges is durable.

use super::super::super::finding::Finding;
use super::super::{Session, StoreError};
use super::{Answer, Line, ask, text};

/// What the server says of itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// Variables and status by their names in lower case.
    settings: Line,
    /// Where a list could not be read.
    unread: Vec<(&'static str, String)>,
    /// The servers that it replicates from.
    sources: Option<Answer<Vec<String>>>,
    /// How many servers replicate from it; `None` where that is not to be asked.
    replicas: Option<Answer<u64>>,
    /// Group Replication's members; `is_me` is 1 in its own row.
    members: Option<Answer<Vec<Line>>>,
}

const VARIABLES: &str = "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('version', 'version_comment', 'hostname', 'port', \
     'read_only', 'super_read_only', 'innodb_read_only', 'innodb_flush_log_at_trx_commit', 'sync_binlog', 'log_bin', \
     'innodb_doublewrite', 'auto_increment_increment', 'auto_increment_offset', 'wsrep_on', 'wsrep_provider_options', 'binlog_format', \
     'group_replication_group_name', 'group_replication_single_primary_mode', 'group_replication_start_on_boot', \
     'group_replication_bootstrap_group')";

const STATUS: &str = "SHOW GLOBAL STATUS WHERE Variable_name IN ('slaves_connected', 'wsrep_cluster_size', \
     'wsrep_cluster_status', 'wsrep_local_state_comment', 'wsrep_ready', 'rpl_semi_sync_master_status', \
     'rpl_semi_sync_master_clients', 'rpl_semi_sync_source_status', 'rpl_semi_sync_source_clients')";

const MEMBERS: &str = "SELECT MEMBER_ID = @@server_uuid AS is_me, MEMBER_STATE AS state, MEMBER_ROLE AS role \
     FROM performance_schema.replication_group_members";

/// What is to be done where the account may not ask.
const MAY_ASK: &str = "for this look alone: GRANT REPLICATION CLIENT, REPLICATION SLAVE ON *.* (MariaDB: GRANT SLAVE MONITOR \
                       ON *.*) to the account, or run this as an administrator";

impl Facts {
    pub(super) async fn ask(session: &mut Session<'_>) -> Result<Self, StoreError> {
        let mut facts = Self::default();
        for (what, sql) in [("variables", VARIABLES), ("status", STATUS)] {
            match ask(session, sql).await? {
                Ok(lines) => facts.settings.extend(
                    lines.iter().map(|l| (text(l, "variable_name").to_ascii_lowercase(), text(l, "value").to_owned())),
                ),
                Err(why) => facts.unread.push((what, why)),
            }
        }
        if facts.is_on("wsrep_on") {
            return Ok(facts);
        }
        if !facts.value("group_replication_group_name").is_empty() {
            facts.members = Some(ask(session, MEMBERS).await?);
            return Ok(facts);
        }
        // The second is for MySQL before 8.0.22.
        let mut sources = ask(session, "SHOW REPLICA STATUS").await?;
        if sources.as_ref().is_err_and(|why| is_syntax(why)) {
            sources = ask(session, "SHOW SLAVE STATUS").await?;
        }
        let source = |line: &Line| [text(line, "source_host"), text(line, "master_host")].concat();
        facts.sources = Some(sources.map(|lines| lines.iter().map(source).collect()));
        facts.replicas = match facts.number("slaves_connected") {
            // MariaDB's, which needs no privilege.
            Some(connected) => Some(Ok(connected)),
            None if !facts.is_on("log_bin") => Some(Ok(0)),
            None => {
                let mut replicas = ask(session, "SHOW REPLICAS").await?;
                if replicas.as_ref().is_err_and(|why| is_syntax(why)) {
                    replicas = ask(session, "SHOW SLAVE HOSTS").await?;
                }
                Some(replicas.map(|lines| lines.len() as u64))
            }
        };
        Ok(facts)
    }

    fn value(&self, name: &str) -> &str {
        text(&self.settings, name)
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.value(name).parse().ok()
    }

    fn is_on(&self, name: &str) -> bool {
        matches!(self.value(name).to_ascii_uppercase().as_str(), "ON" | "1" | "YES")
    }

    fn is_cluster(&self) -> bool {
        self.is_on("wsrep_on") || !self.value("group_replication_group_name").is_empty()
    }

    pub(super) fn judge(&self) -> Vec<Finding> {
        let make = if self.value("version").contains("MariaDB") { "MariaDB" } else { "MySQL" };
        let found = format!(
            "{make} {} ({}) on {}:{}",
            self.value("version"),
            self.value("version_comment"),
            self.value("hostname"),
            self.value("port")
        );
        let mut findings = vec![Finding::ok("server", found)];
        for (what, why) in &self.unread {
            findings.push(Finding::unreadable(what, why, "what depends on it was not looked at"));
        }
        if self.unread.iter().any(|(what, _)| *what == "variables") {
            return findings;
        }
        findings.push(self.role());
        findings.extend(self.host_name());
        findings.extend(self.cluster_settings());
        findings.extend(self.binlog_format());
        findings.extend(self.durability());
        findings.push(self.auto_increment());
        findings
    }

    /// MariaDB is known by its host name, among others, and a container has a new one each time it is made.
    fn host_name(&self) -> Option<Finding> {
        let name = self.value("hostname");
        let is_of_container = name.len() == 12 && name.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c));
        let is_known_by_it = self.value("version").contains("MariaDB") && !self.is_cluster();
        (is_known_by_it && is_of_container).then(|| {
            Finding::warn(
                "host name",
                format!("{name} looks like a container's ID: a new container has another, and counts as another server"),
                "give the container a host name that stays: hostname: in Compose, --hostname of docker run, a StatefulSet",
            )
        })
    }

    fn role(&self) -> Finding {
        const WHAT: &str = "role";
        let read_only = ["innodb_read_only", "super_read_only", "read_only"].into_iter().find(|name| self.is_on(name));
        if self.is_on("wsrep_on") {
            return self.galera();
        }
        if let Some(members) = &self.members {
            return self.group_replication(members);
        }
        let sources = self.sources.as_ref().and_then(|sources| sources.as_ref().ok());
        let source = sources.filter(|sources| !sources.is_empty()).map(|sources| sources.join(", "));
        if let Some(name) = read_only {
            let found = match source {
                Some(source) => format!("read-only replica of {source} ({name} is on)"),
                None => format!("read-only ({name} is on)"),
            };
            return Finding::fail(
                WHAT,
                found,
                "nothing can be leased here: let mysql.host name the primary; if this is the primary, turn it off there",
            );
        }
        if let Some(source) = source {
            return Finding::warn(
                WHAT,
                format!("replica of {source} that takes writes"),
                "if this is the new primary after a failover: STOP REPLICA; RESET REPLICA ALL. Else let mysql.host name the \
                 primary: what is leased here is unknown there",
            );
        }
        match (&self.sources, &self.replicas) {
            (Some(Err(why)), _) | (_, Some(Err(why))) => {
                Finding::info(WHAT, format!("could not be read: {why}"), MAY_ASK)
            }
            (_, Some(Ok(replicas @ 1..))) => self.primary(*replicas),
            _ => Finding::ok(WHAT, "standalone, no replica connected"),
        }
    }

    fn primary(&self, replicas: u64) -> Finding {
        let is_semi = |name: &str| {
            self.is_on(&format!("rpl_semi_sync_{name}_status"))
                && self.number(&format!("rpl_semi_sync_{name}_clients")).is_some_and(|clients| clients > 0)
        };
        if is_semi("source") || is_semi("master") {
            return Finding::ok("role", format!("primary, replicas: {replicas}, semi-synchronous"));
        }
        Finding::warn(
            "role",
            format!("primary, replicas: {replicas}, asynchronous"),
            "a failover may lose leases that were acknowledged; nodes then refuse until a person has set the counter. Use \
             semi-synchronous replication, and set mysql.failover_skip to more than can be lost to go on without a person",
        )
    }

    fn galera(&self) -> Finding {
        let (size, status) = (self.number("wsrep_cluster_size").unwrap_or(0), self.value("wsrep_cluster_status"));
        let state = self.value("wsrep_local_state_comment");
        let found = format!("Galera cluster of {size}, {status}, {state}");
        if !status.eq_ignore_ascii_case("primary") || !self.is_on("wsrep_ready") {
            Finding::fail(
                "role",
                found,
                "this node is cut off or not ready and refuses writes: let mysql.host name another",
            )
        } else if state != "Synced" {
            Finding::warn(
                "role",
                found,
                "this node lags behind or serves another one's start: wait, or use another node",
            )
        } else if size < 3 {
            Finding::warn(
                "role",
                found,
                "with fewer than 3 nodes the end of one can stop the cluster: add one, or garbd. If there should be more, see that \
                 this is not a part that was split off",
            )
        } else {
            Finding::ok("role", found)
        }
    }

    fn group_replication(&self, members: &Answer<Vec<Line>>) -> Finding {
        const WHAT: &str = "role";
        let members = match members {
            Ok(found) => found,
            Err(why) => {
                let advice = "nothing is leased before it may be read: GRANT SELECT ON \
                              performance_schema.replication_group_members, and SELECT ON \
                              performance_schema.replication_group_member_stats to the account";
                return Finding::fail(WHAT, format!("could not be read: {why}"), advice);
            }
        };
        let count = |state: &str| members.iter().filter(|line| text(line, "state") == state).count();
        let online = count("ONLINE");
        let own = members.iter().find(|line| text(line, "is_me") == "1");
        let (state, role) = own.map_or(("OFFLINE", ""), |line| (text(line, "state"), text(line, "role")));
        let is_multi = self.value("group_replication_single_primary_mode").eq_ignore_ascii_case("OFF");
        let mode = if is_multi { ", multi-primary" } else { "" };
        let found = format!("Group Replication{mode}, {online} of {} online, this one {state} {role}", members.len());
        if state != "ONLINE" && !self.is_on("read_only") {
            return Finding::fail(
                WHAT,
                format!("{found}, and it takes writes"),
                "it is outside of its group: what the group leased since is unknown here. START GROUP_REPLICATION, or shut it \
                 down; and set group_replication_start_on_boot = ON",
            );
        }
        if state != "ONLINE" || role != "PRIMARY" {
            return Finding::fail(
                WHAT,
                found,
                "this member takes no writes: let mysql.host name the primary, or a router",
            );
        }
        if 2 * online <= members.len() {
            return Finding::fail(
                WHAT,
                found,
                "the group has no majority, so every commit waits: bring the other members back",
            );
        }
        if online < 3 {
            return Finding::warn(WHAT, found, "with fewer than 3 members the end of one can stop the group: add one");
        }
        Finding::ok(WHAT, found)
    }

    /// What lets a part of a cluster go on by itself.
    fn cluster_settings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        if self.members.is_some() {
            if self.is_on("group_replication_bootstrap_group") {
                findings.push(Finding::fail(
                    "group_replication_bootstrap_group",
                    "ON",
                    "after a restart this member makes a second group of the same name: SET GLOBAL \
                     group_replication_bootstrap_group = OFF, and in its configuration",
                ));
            }
            if !self.is_on("group_replication_start_on_boot") {
                findings.push(Finding::warn(
                    "group_replication_start_on_boot",
                    "OFF",
                    "after a restart this member takes writes outside of its group, until somebody starts it: SET PERSIST \
                     group_replication_start_on_boot = ON, or super_read_only = ON in its configuration",
                ));
            }
        }
        if self.is_on("wsrep_on") {
            let options = self.value("wsrep_provider_options");
            let is_set = |name: &str| {
                let value =
                    options.split(';').find_map(|option| option.trim().strip_prefix(name)?.trim().strip_prefix('='));
                value.is_some_and(|value| {
                    matches!(value.trim().to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on")
                })
            };
            for name in ["pc.ignore_quorum", "pc.ignore_sb"].into_iter().filter(|name| is_set(name)) {
                findings.push(Finding::fail(
                    name,
                    "on",
                    "a cluster that is cut in two goes on in both parts; nodes lease only from the one with most of the recorded \
                     members. Turn it off in wsrep_provider_options",
                ));
            }
        }
        findings
    }

    fn binlog_format(&self) -> Option<Finding> {
        const WHAT: &str = "binlog_format";
        if !self.is_on("log_bin") {
            return None;
        }
        let value = self.value(WHAT);
        Some(if value.eq_ignore_ascii_case("STATEMENT") {
            Finding::fail(
                WHAT,
                value,
                "replicas would not have the leases, and nothing is leased. SET GLOBAL binlog_format = 'ROW', and in its \
                 configuration; then rebuild the replicas",
            )
        } else {
            Finding::ok(WHAT, value)
        })
    }

    fn durability(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        // A cluster's other nodes have what one of them lost.
        let lost = |what: &str, found: String, advice: &str| {
            if self.is_cluster() {
                let advice = format!("{advice}. The cluster's other nodes have it, unless all lose power at once");
                Finding::warn(what, found, advice)
            } else {
                Finding::fail(what, found, format!("{advice}; mysql.require_durable makes nodes insist on it"))
            }
        };
        let what = "innodb_flush_log_at_trx_commit";
        findings.push(match self.value(what) {
            "1" => Finding::ok(what, "1"),
            other => lost(
                what,
                other.to_owned(),
                "a crash loses leases that were acknowledged, and ids are repeated. SET GLOBAL \
                 innodb_flush_log_at_trx_commit = 1, and in the server's configuration",
            ),
        });
        let what = "sync_binlog";
        findings.push(match (self.is_on("log_bin"), self.value(what)) {
            (false, value) => Finding::ok(what, format!("{value}; there is no binary log")),
            (true, "1") => Finding::ok(what, "1"),
            (true, other) => lost(
                what,
                other.to_owned(),
                "a power failure loses the end of the binary log, and with it leases that were acknowledged. SET GLOBAL \
                 sync_binlog = 1, and in the server's configuration",
            ),
        });
        let what = "innodb_doublewrite";
        let value = self.value(what);
        findings.push(if matches!(value.to_ascii_uppercase().as_str(), "OFF" | "0" | "FALSE" | "DETECT_ONLY") {
            Finding::warn(
                what,
                value,
                "a power failure can leave a half-written page that nothing repairs, unless the disk writes pages whole. \
                 Turn it on in the server's configuration",
            )
        } else {
            Finding::ok(what, value)
        });
        findings
    }

    fn auto_increment(&self) -> Finding {
        let increment = self.number("auto_increment_increment").unwrap_or(1);
        let found = format!("increment {increment}, offset {}", self.value("auto_increment_offset"));
        if increment == 1 || self.is_cluster() {
            return Finding::ok("auto_increment", found);
        }
        Finding::warn(
            "auto_increment",
            found,
            "tickets of generator_table are not consecutive: they use its column up faster, and a lease is at most 32 of \
             them. SET GLOBAL auto_increment_increment = 1, unless another primary needs it; the counter layout does not \
             mind (seqsvr migrate --counter)",
        )
    }
}

fn is_syntax(why: &str) -> bool {
    why.starts_with("error 1064:")
}

#[cfg(test)]
mod tests {
    use super::super::super::super::finding::Verdict;
    use super::*;

    /// A healthy server of its own, but for `changes`.
    fn facts(changes: &[(&str, &str)]) -> Facts {
        let healthy = [
            ("version", "9.7.0"),
            ("innodb_flush_log_at_trx_commit", "1"),
            ("sync_binlog", "1"),
            ("log_bin", "ON"),
            ("innodb_doublewrite", "ON"),
            ("auto_increment_increment", "1"),
            ("auto_increment_offset", "1"),
            ("read_only", "OFF"),
        ];
        let settings = healthy.iter().chain(changes).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Facts { settings: settings.collect(), sources: Some(Ok(Vec::new())), replicas: Some(Ok(0)), ..Facts::default() }
    }

    fn row(facts: &Facts, what: &str) -> (Verdict, String) {
        let finding = facts.judge().into_iter().find(|finding| finding.what == what).unwrap();
        assert_eq!(finding.advice.is_some(), finding.verdict != Verdict::Ok, "{finding:?}");
        (finding.verdict, format!("{} -> {}", finding.found, finding.advice.unwrap_or_default()))
    }

    #[test]
    fn a_healthy_server_has_nothing_but_ok() {
        let findings = facts(&[]).judge();
        assert!(findings.iter().all(|finding| finding.verdict == Verdict::Ok), "{findings:#?}");
    }

    #[test]
    fn what_is_not_durable_is_told() {
        for (changes, what, verdict) in [
            (&[("innodb_flush_log_at_trx_commit", "2")] as &[_], "innodb_flush_log_at_trx_commit", Verdict::Fail),
            (
                &[("innodb_flush_log_at_trx_commit", "0"), ("wsrep_on", "ON")],
                "innodb_flush_log_at_trx_commit",
                Verdict::Warn,
            ),
            (&[("sync_binlog", "0")], "sync_binlog", Verdict::Fail),
            (&[("sync_binlog", "100")], "sync_binlog", Verdict::Fail),
            (&[("sync_binlog", "0"), ("log_bin", "OFF")], "sync_binlog", Verdict::Ok),
            (&[("innodb_doublewrite", "OFF")], "innodb_doublewrite", Verdict::Warn),
            (&[("innodb_doublewrite", "DETECT_ONLY")], "innodb_doublewrite", Verdict::Warn),
            (&[("innodb_doublewrite", "DETECT_AND_RECOVER")], "innodb_doublewrite", Verdict::Ok),
            (&[("auto_increment_increment", "3")], "auto_increment", Verdict::Warn),
            (&[("auto_increment_increment", "3"), ("wsrep_on", "ON")], "auto_increment", Verdict::Ok),
        ] {
            assert_eq!(row(&facts(changes), what).0, verdict, "{changes:?}");
        }
    }

    #[test]
    fn a_host_name_that_a_new_container_changes_is_told() {
        let judged = |name: &str, version: &str| {
            let findings = facts(&[("hostname", name), ("version", version)]).judge();
            findings.into_iter().find(|finding| finding.what == "host name").map(|finding| finding.verdict)
        };
        assert_eq!(judged("3f2a9c1b7d10", "10.11.19-MariaDB"), Some(Verdict::Warn));
        assert_eq!(judged("3f2a9c1b7d10", "9.7.4"), None, "MySQL is known by its server_uuid");
        assert_eq!(judged("database-one", "10.11.19-MariaDB"), None);
    }

    #[test]
    fn the_part_in_a_replication_or_cluster() {
        let source = Some(Ok(vec!["db1".to_owned()]));
        let galera = |size, status, state, ready| {
            facts(&[
                ("wsrep_on", "ON"),
                ("wsrep_cluster_size", size),
                ("wsrep_cluster_status", status),
                ("wsrep_local_state_comment", state),
                ("wsrep_ready", ready),
            ])
        };
        let group = |state: &str, role: &str, others: &[&str], read_only: &str| {
            let line = |state: &str, role: &str, is_me: &str| {
                let line = [("state", state), ("role", role), ("is_me", is_me)];
                Line::from(line.map(|(name, value)| (name.to_owned(), value.to_owned())))
            };
            let mut members = vec![line(state, role, "1")];
            members.extend(others.iter().map(|state| line(state, "SECONDARY", "0")));
            let settings = [("group_replication_group_name", "g"), ("read_only", read_only)];
            Facts { members: Some(Ok(members)), ..facts(&settings) }
        };
        let member = |state: &str, role: &str, online: usize| group(state, role, &vec!["ONLINE"; online - 1], "ON");
        let semi = [("rpl_semi_sync_source_status", "ON"), ("rpl_semi_sync_source_clients", "1")];
        let denied = || "error 1227: Access denied".to_owned();
        for (facts, verdict, words) in [
            (facts(&[]), Verdict::Ok, "standalone"),
            (facts(&[("read_only", "ON")]), Verdict::Fail, "read-only (read_only is on) -> nothing can be leased"),
            (
                Facts { sources: source.clone(), ..facts(&[("super_read_only", "1")]) },
                Verdict::Fail,
                "replica of db1 (super",
            ),
            (Facts { sources: source, ..facts(&[]) }, Verdict::Warn, "replica of db1 that takes writes"),
            (Facts { replicas: Some(Ok(2)), ..facts(&[]) }, Verdict::Warn, "mysql.failover_skip"),
            (Facts { replicas: Some(Ok(2)), ..facts(&semi) }, Verdict::Ok, "semi-synchronous"),
            (
                Facts { replicas: Some(Ok(2)), ..facts(&[semi[0], ("rpl_semi_sync_source_clients", "0")]) },
                Verdict::Warn,
                "asynchronous",
            ),
            (Facts { sources: Some(Err(denied())), ..facts(&[]) }, Verdict::Info, "could not be read: error 1227"),
            (Facts { replicas: Some(Err(denied())), ..facts(&[]) }, Verdict::Info, "GRANT REPL"),
            (galera("3", "Primary", "Synced", "ON"), Verdict::Ok, "cluster of 3"),
            (galera("2", "Primary", "Synced", "ON"), Verdict::Warn, "add one"),
            (galera("3", "Primary", "Donor/Desynced", "ON"), Verdict::Warn, "Donor"),
            (galera("1", "non-Primary", "Initialized", "OFF"), Verdict::Fail, "cut off"),
            (member("ONLINE", "PRIMARY", 3), Verdict::Ok, "3 of 3 online"),
            (
                group("ONLINE", "PRIMARY", &["UNREACHABLE"; 2], "OFF"),
                Verdict::Fail,
                "1 of 3 online, this one ONLINE PRIMARY -> the group has no majority",
            ),
            (group("OFFLINE", "", &[], "OFF"), Verdict::Fail, "takes writes -> it is outside of its group"),
            (member("ONLINE", "PRIMARY", 2), Verdict::Warn, "add one"),
            (member("ONLINE", "SECONDARY", 3), Verdict::Fail, "the primary"),
            (member("ERROR", "", 2), Verdict::Fail, "ERROR"),
            (Facts { members: Some(Err("error 1142".into())), ..facts(&[]) }, Verdict::Fail, "performance_schema"),
        ] {
            let (found, told) = row(&facts, "role");
            assert!(found == verdict && told.contains(words), "{verdict:?} {words}: {found:?} {told}");
        }
    }

    #[test]
    fn what_lets_a_part_of_a_cluster_go_on_is_told() {
        let group = |changes: &[(&str, &str)]| Facts { members: Some(Ok(Vec::new())), ..facts(changes) };
        for (facts, what, verdict) in [
            (group(&[("group_replication_bootstrap_group", "ON")]), "group_replication_bootstrap_group", Verdict::Fail),
            (group(&[]), "group_replication_start_on_boot", Verdict::Warn),
            (
                facts(&[
                    ("wsrep_on", "ON"),
                    ("wsrep_provider_options", "gcs.x = 1; pc.ignore_quorum = true; pc.y = 1"),
                ]),
                "pc.ignore_quorum",
                Verdict::Fail,
            ),
            (facts(&[("binlog_format", "STATEMENT")]), "binlog_format", Verdict::Fail),
            (facts(&[("binlog_format", "MIXED")]), "binlog_format", Verdict::Ok),
        ] {
            assert_eq!(row(&facts, what).0, verdict, "{what}");
        }
        let off =
            facts(&[("wsrep_on", "ON"), ("wsrep_provider_options", "pc.ignore_quorum = false; pc.ignore_sb = 0")]);
        assert!(off.judge().iter().all(|finding| !finding.what.starts_with("pc.")));
    }

    #[test]
    fn variables_that_can_not_be_read_are_not_judged() {
        let findings = Facts { unread: vec![("variables", "error 1".into())], ..Facts::default() }.judge();
        assert_eq!(findings.len(), 2);
        assert_eq!((findings[1].what.as_str(), findings[1].verdict), ("variables", Verdict::Warn));
    }
}
