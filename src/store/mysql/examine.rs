//! `seqsvr doctor` on MySQL and MariaDB: looks at the server, the tables, the counters and the rows, and changes nothing.
//!
//! It asks by itself, for opening the store ends at the first finding. Each question may be refused (a missing privilege,
//! variable or table): that is a row too. A connection that breaks ends it, with what was found before. Answers are read as
//! texts, for a column may be of any type here.

use std::collections::BTreeMap;
use std::sync::Arc;

use mysql_async::{Row, Value};

use super::super::finding::{Expected, Finding};
use super::identity::{ONE_IS_TO_WRITE, Role};
use super::{Connection, ErrorKind, Identity, Server, Session, StoreError};
use crate::config::DatabaseHost;

mod counters;
mod rows;
mod server;
mod state;
mod tables;

pub(super) use rows::prune;

/// What the server says, or why it says nothing.
type Answer<T> = Result<T, String>;

/// A row of an answer, by the names of its columns, which are in lower case.
type Line = BTreeMap<String, String>;

/// All that is found, the server first.
pub(super) async fn examine(server: &Arc<Server>, expected: Expected<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Err(error) = look(server, expected, &mut findings).await {
        findings.push(Finding::fail(
            "connection",
            error.what,
            "nothing more can be looked at: mend this, and run it again",
        ));
    }
    findings
}

async fn look(server: &Arc<Server>, expected: Expected<'_>, findings: &mut Vec<Finding>) -> Result<(), StoreError> {
    let mut session = server.connect().await?;
    server.check_split(&mut session).await?;
    if server.is_split() {
        findings.push(Finding::fail(
            "proxy",
            "it sends reads to another server than writes, so that each read costs a node two more round trips",
            "let mysql.host lead to the server that takes the writes: of ProxySQL by a rule that sends all of this account to the \
             writers, of MySQL Router by the port 6446, of MaxScale by a readconnroute service with router_options=master",
        ));
    }
    let facts = server::Facts::ask(&mut session).await?;
    findings.extend(facts.judge());
    findings.extend(long_statements(&mut session).await?);
    let tables = tables::Facts::ask(&mut session).await?;
    findings.extend(tables.judge());
    let identity = match Identity::of(&mut session).await {
        Ok(identity) => identity,
        Err(error) if matches!(error.kind, ErrorKind::Misconfigured | ErrorKind::NotDurable | ErrorKind::Stray) => {
            findings.push(Finding::fail("identity", error.what, "nothing is leased from this server"));
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let state = state::Facts::ask(&mut session, &identity, &tables, expected).await?;
    // Without the token of a Galera cluster: an examination writes nothing.
    let roles = identity.roles_of_others(server, &mut session, false).await?;
    findings.extend(roles.into_iter().map(host));
    let began_at = if tables.has(tables::GENERATOR) { rows::highest(&mut session).await? } else { 0 };
    findings.extend(state.judge(expected));
    findings.extend(counters::examine(&mut session, &identity, &tables, &state, expected).await?);
    if tables.has(tables::GENERATOR) {
        let increment = facts.number("auto_increment_increment").unwrap_or(1);
        let is_in_use = matches!(state.meta, Ok(Some(_)));
        findings.extend(rows::Facts::ask(&mut session, began_at, increment, is_in_use, expected).await?.judge());
    }
    session.close_if_useless().await;
    Ok(())
}

/// Statements that run for longer than a node waits for one. An account without the privilege `PROCESS` sees its own.
async fn long_statements(session: &mut Session<'_>) -> Result<Option<Finding>, StoreError> {
    const WHAT: &str = "statements";
    const QUERY: &str = "SELECT COUNT(*) AS count, MAX(TIME) AS seconds FROM information_schema.PROCESSLIST \
         WHERE DB = DATABASE() AND COMMAND <> 'Sleep' AND ID <> CONNECTION_ID() AND TIME >= 10";
    let found = match first(ask(session, QUERY).await?) {
        Ok(found) => found.unwrap_or_default(),
        Err(why) => return Ok(Some(Finding::unreadable(WHAT, &why, "SHOW PROCESSLIST shows the same"))),
    };
    let count = number(&found, "count").filter(|count| *count > 0);
    Ok(count.map(|count| {
        Finding::warn(
            WHAT,
            format!("{count} run in this database, the longest for {} s", text(&found, "seconds")),
            "if they are commits, does the server wait for a replica (semi-synchronous replication), for a majority of its group, or \
             for room on its disk? See SHOW PROCESSLIST",
        )
    }))
}

/// Another host of `mysql.host`.
fn host((host, role): (DatabaseHost, Role)) -> Finding {
    let what = &format!("host {host}");
    match role {
        Role::Same => Finding::ok(what, "of the same cluster, or the same server: it has shown that"),
        Role::Stray(why) => Finding::fail(
            what,
            format!("takes writes, but {why}"),
            "no node leases from it. Let it join its cluster again, or shut it down",
        ),
        Role::StandIn => Finding::ok(what, "read-only: it can stand in once it is promoted"),
        Role::Writer => {
            Finding::fail(what, "takes writes too, and is not shown to be the same server or cluster", ONE_IS_TO_WRITE)
        }
        Role::Away(why) => {
            Finding::warn(what, why, "it can't stand in: see that it runs and can be reached, or leave it out")
        }
    }
}

/// The rows of an answer. An error is a connection that is of no use any more.
async fn ask(session: &mut Session<'_, impl Connection>, sql: &str) -> Result<Answer<Vec<Line>>, StoreError> {
    match session.rows::<Row>(sql).await {
        Ok(rows) => Ok(Ok(rows.into_iter().map(line).collect())),
        Err(failed) => match failed.server {
            Some(server) => Ok(Err(format!("error {}: {}", server.code, server.message))),
            None => Err(failed.error),
        },
    }
}

/// NULL is left out.
fn line(row: Row) -> Line {
    let columns = row.columns();
    let named = columns.iter().zip(row.unwrap_raw()).filter_map(|(column, value)| {
        let text = match value? {
            Value::NULL => return None,
            Value::Bytes(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            other => other.as_sql(true),
        };
        Some((column.name_str().to_ascii_lowercase(), text))
    });
    named.collect()
}

/// The text of a column; empty where it is missing or NULL.
fn text<'a>(line: &'a Line, column: &str) -> &'a str {
    line.get(column).map_or("", String::as_str)
}

fn number(line: &Line, column: &str) -> Option<u64> {
    text(line, column).parse().ok()
}

/// The answer's only row; of several the first.
fn first(answer: Answer<Vec<Line>>) -> Answer<Option<Line>> {
    answer.map(|lines| lines.into_iter().next())
}
