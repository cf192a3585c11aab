//! The counters of both layouts, read twice: whether they may be leased from, and how long they last.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use mysql_async::Value;
use tokio::time::sleep;

use super::super::super::capacity::{self, Counter, Fences};
use super::super::super::counter::Present;
use super::super::super::finding::{Expected, Finding};
use super::super::database::{Layout, Opened};
use super::super::ticket::last_legal_ticket;
use super::super::{Identity, Session, StoreError};
use super::state::Facts as State;
use super::tables::{Facts as Tables, GENERATOR, SEQUENCE};
use super::{Answer, Line, ask, first, number, text};
use crate::config::LARGEST_MAX_ID;
use crate::name::DEFAULT_SEQUENCE;

/// So many rows are read at a time ...
const PAGE: usize = 5_000;

/// ... and so many in all.
const MOST: usize = 100_000;

/// One look at all counters.
struct Look {
    at: Instant,
    /// Of `seqsvr_sequence`, without the deleted ones.
    lines: Answer<Vec<Line>>,
    /// The highest row of `generator_table`, where `default` is leased from it.
    ticket: Option<u64>,
}

pub(super) async fn examine(
    session: &mut Session<'_>,
    identity: &Identity,
    tables: &Tables,
    state: &State,
    expected: Expected<'_>,
) -> Result<Vec<Finding>, StoreError> {
    let Ok(Some(meta)) = &state.meta else { return Ok(Vec::new()) };
    let opened = Opened {
        host: session.origin.host,
        identity: identity.clone(),
        store_id: state.store_id().to_owned(),
        layout: if state.is_moved() { Layout::Counter } else { Layout::Tickets },
        members: identity.members.clone(),
    };
    let server = &opened.fence();
    let present = Present { server, epoch: state.epoch() };
    let before = look(session, tables, state).await?;
    sleep(expected.sample).await;
    let after = look(session, tables, state).await?;

    let mut findings = Vec::new();
    match &after.lines {
        Err(why) => findings.push(Finding::unreadable("counters", why, "GRANT SELECT on seqsvr_sequence")),
        // That `default` is there in the counter layout, the state has looked at.
        Ok(_) if !tables.has(SEQUENCE) && !state.is_moved() => {
            findings.push(if number(meta, "revision").is_some_and(|revision| revision > 1) {
                Finding::fail(
                    "counters",
                    "seqsvr_sequence is gone, though seqsvr_meta tells of it",
                    "counters were in it: put it back from a backup, with its rows",
                )
            } else {
                Finding::ok("counters", "no sequence was made yet")
            });
        }
        Ok(lines) => {
            let mut fences = Fences::default();
            for line in lines {
                let (name, next_id) = (text(line, "name"), number(line, "next_id").unwrap_or(0));
                let mark = expected.node.map_or(0, |node| node.high_water_mark(name));
                // An early build's tables have no epochs; the first node of this one adds them.
                let epoch = number(line, "epoch").and_then(|epoch| u32::try_from(epoch).ok()).unwrap_or(0);
                fences.add(name, next_id, (text(line, "server"), epoch), present, mark);
            }
            findings.push(fences.judge());
            if lines.len() >= MOST {
                let what = format!("the first {MOST} sequences were looked at");
                findings.push(Finding::warn("more counters", what, "the others are not in this table"));
            }
        }
    }
    findings.extend(capacity::judge(counters(before, after, tables, state)));
    Ok(findings)
}

async fn look(session: &mut Session<'_>, tables: &Tables, state: &State) -> Result<Look, StoreError> {
    let at = Instant::now();
    let ticket = if tables.has(GENERATOR) && !state.is_moved() {
        let max = first(ask(session, "SELECT COALESCE(MAX(id), 0) AS max FROM generator_table").await?);
        max.ok().flatten().and_then(|line| number(&line, "max"))
    } else {
        None
    };
    let lines = if tables.has(SEQUENCE) { read(session, state).await? } else { Ok(Vec::new()) };
    Ok(Look { at, lines, ticket })
}

async fn read(session: &mut Session<'_>, state: &State) -> Result<Answer<Vec<Line>>, StoreError> {
    let mut found: Vec<Line> = Vec::new();
    let mut after = String::new();
    while found.len() < MOST {
        // The name may have been edited by hand.
        let sql = format!(
            "SELECT *, deleted_at IS NOT NULL AS deleted, TIMESTAMPDIFF(SECOND, created_at, \
             CURRENT_TIMESTAMP) AS age FROM seqsvr_sequence WHERE name > {} ORDER BY name LIMIT {PAGE}",
            Value::from(&after).as_sql(false)
        );
        let page = match ask(session, &sql).await? {
            Ok(page) => page,
            Err(why) => return Ok(Err(why)),
        };
        let Some(last) = page.last() else { break };
        text(last, "name").clone_into(&mut after);
        let is_last = page.len() < PAGE;
        // A row of `default` may be left of a move that was given up.
        let counts =
            |line: &Line| text(line, "deleted") != "1" && (state.is_moved() || text(line, "name") != DEFAULT_SEQUENCE);
        found.extend(page.into_iter().filter(counts));
        if is_last {
            break;
        }
    }
    Ok(Ok(found))
}

fn counters(before: Look, after: Look, tables: &Tables, state: &State) -> Vec<Counter> {
    let watched = after.at - before.at;
    let mut counters: Vec<Counter> = ticket_counter(&before, &after, tables, state).into_iter().collect();
    let earlier = before.lines.unwrap_or_default();
    let earlier: HashMap<&str, u64> =
        earlier.iter().filter_map(|line| Some((text(line, "name"), number(line, "next_id")?))).collect();
    for line in after.lines.unwrap_or_default() {
        let name = text(&line, "name");
        let (Some(next_id), Some(max_id)) = (number(&line, "next_id"), number(&line, "max_id")) else { continue };
        let remedy = if max_id < LARGEST_MAX_ID {
            format!("seqsvr sequence alter {name} --max-id N, up to {LARGEST_MAX_ID}, or go over to a new sequence")
        } else {
            "go over to a new sequence".to_owned()
        };
        counters.push(Counter {
            before: earlier.get(name).copied().unwrap_or(next_id),
            name: name.to_owned(),
            next_id,
            max_id,
            watched,
            age: number(&line, "age").map(Duration::from_secs),
            since: "created_at",
            remedy,
        });
    }
    counters
}

/// `default` in the ticket layout, as if its tickets were ids.
fn ticket_counter(before: &Look, after: &Look, tables: &Tables, state: &State) -> Option<Counter> {
    let (step, last_ticket) = (state.step(), tables.last_ticket()?);
    if step == 0 {
        return None;
    }
    let last = last_legal_ticket(last_ticket, step);
    let next = |ticket: u64| (ticket.min(last) + 1) * step + 1;
    let remedy = if last == last_ticket {
        "its column ends there. Widen it: ALTER TABLE generator_table MODIFY id BIGINT NOT NULL AUTO_INCREMENT; or move to \
         the counter layout: seqsvr migrate --counter"
    } else {
        "ids end there, for JSON readers would mix up larger ones: go over to another sequence"
    };
    Some(Counter {
        name: DEFAULT_SEQUENCE.to_owned(),
        before: next(before.ticket?),
        next_id: next(after.ticket?),
        max_id: (last + 1) * step,
        watched: after.at - before.at,
        age: tables.age(GENERATOR).map(Duration::from_secs),
        since: "the table's CREATE_TIME",
        remedy: remedy.to_owned(),
    })
}
