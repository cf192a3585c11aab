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
    /// Its own row of Group Replication's members, and how many are online.
    member: Option<Answer<(Line, usize)>>,
}

const VARIABLES: &str = "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('version', 'version_comment', 'hostname', 'port', \
     'read_only', 'super_read_only', 'innodb_read_only', 'innodb_flush_log_at_trx_commit', 'sync_binlog', 'log_bin', \
     'innodb_doublewrite', 'auto_increment_increment', 'auto_increment_offset', 'wsrep_on', 'group_replication_group_name')";

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
            let online = |lines: &[Line]| lines.iter().filter(|line| text(line, "state") == "ONLINE").count();
            let own = |lines: &[Line]| lines.iter().find(|line| text(line, "is_me") == "1").cloned();
            let members = ask(session, MEMBERS).await?;
            facts.member = Some(members.map(|lines| (own(&lines).unwrap_or_default(), online(&lines))));
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
        findings.extend(self.durability());
        findings.push(self.auto_increment());
        findings
    }

    fn role(&self) -> Finding {
        const WHAT: &str = "role";
        let read_only = ["innodb_read_only", "super_read_only", "read_only"].into_iter().find(|name| self.is_on(name));
        if self.is_on("wsrep_on") {
            return self.galera();
        }
        if let Some(member) = &self.member {
            return group_replication(member);
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
            (Some(Err(why)), _) | (_, Some(Err(why))) => Finding::unreadable(WHAT, why, MAY_ASK),
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
                "with fewer than 3 nodes the end of one can stop the cluster: add one, or garbd",
            )
        } else {
            Finding::ok("role", found)
        }
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

fn group_replication(member: &Answer<(Line, usize)>) -> Finding {
    let (line, online) = match member {
        Ok(found) => found,
        Err(why) => {
            let advice =
                "for this look alone: GRANT SELECT ON performance_schema.replication_group_members to the account";
            return Finding::unreadable("role", why, advice);
        }
    };
    let (state, role) = (text(line, "state"), text(line, "role"));
    let found = format!("Group Replication, {online} online, this one {state} {role}");
    if state != "ONLINE" || role != "PRIMARY" {
        return Finding::fail(
            "role",
            found,
            "this member takes no writes: let mysql.host name the primary, or a router",
        );
    }
    if *online < 3 {
        return Finding::warn("role", found, "with fewer than 3 members the end of one can stop the group: add one");
    }
    Finding::ok("role", found)
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
        let member = |state: &str, role: &str, online| {
            let line = [("state", state), ("role", role)].map(|(name, value)| (name.to_owned(), value.to_owned()));
            Facts {
                member: Some(Ok((Line::from(line), online))),
                ..facts(&[("group_replication_group_name", "g"), ("super_read_only", "ON")])
            }
        };
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
            (Facts { sources: Some(Err(denied())), ..facts(&[]) }, Verdict::Warn, "could not be read: error 1227"),
            (Facts { replicas: Some(Err(denied())), ..facts(&[]) }, Verdict::Warn, "GRANT REPL"),
            (galera("3", "Primary", "Synced", "ON"), Verdict::Ok, "cluster of 3"),
            (galera("2", "Primary", "Synced", "ON"), Verdict::Warn, "add one"),
            (galera("3", "Primary", "Donor/Desynced", "ON"), Verdict::Warn, "Donor"),
            (galera("1", "non-Primary", "Initialized", "OFF"), Verdict::Fail, "cut off"),
            (member("ONLINE", "PRIMARY", 3), Verdict::Ok, "3 online"),
            (member("ONLINE", "PRIMARY", 2), Verdict::Warn, "add one"),
            (member("ONLINE", "SECONDARY", 3), Verdict::Fail, "the primary"),
            (member("ERROR", "", 2), Verdict::Fail, "ERROR"),
            (Facts { member: Some(Err("error 1142".into())), ..facts(&[]) }, Verdict::Warn, "performance_schema"),
        ] {
            let (found, told) = row(&facts, "role");
            assert!(found == verdict && told.contains(words), "{verdict:?} {words}: {found:?} {told}");
        }
    }

    #[test]
    fn variables_that_can_not_be_read_are_not_judged() {
        let findings = Facts { unread: vec![("variables", "error 1".into())], ..Facts::default() }.judge();
        assert_eq!(findings.len(), 2);
        assert_eq!((findings[1].what.as_str(), findings[1].verdict), ("variables", Verdict::Warn));
    }
}
