//! `seqsvr doctor` on the embedded store: looks at the file by itself, for opening the store ends at the first finding, and
//! changes nothing.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};

use super::super::capacity::{self, Counter, Fences};
use super::super::finding::{self, Expected, Finding};
use super::PRESENT;
use super::open::{BUSY_TIMEOUT, SCHEMA_VERSION};
use crate::config::LARGEST_MAX_ID;

/// So many sequences are looked at.
const MOST: usize = 100_000;

/// What the file says, or why it says nothing.
type Answer<T> = Result<T, String>;

/// What was found in the file.
#[derive(Clone, Debug)]
struct Facts {
    found: String,
    is_read_only: bool,
    journal_mode: Answer<String>,
    synchronous: Answer<i64>,
    check: Answer<String>,
    version: Answer<i64>,
    store_id: Answer<String>,
}

/// A row of `seqsvr_sequence`.
struct Row {
    name: String,
    next_id: u64,
    max_id: u64,
    server: String,
    age: Option<u64>,
}

/// All that is found. Blocks on the disk.
pub(super) fn examine(file: &Path, expected: Expected<'_>) -> Vec<Finding> {
    let Ok(metadata) = file.metadata() else {
        let what = format!("there is no {} yet", file.display());
        let mut findings =
            vec![Finding::warn("file", what, "the first start makes it; if there was one before, put it back")];
        if let Some(remembered) = expected.node.and_then(|node| node.check_store(None).err()) {
            findings.push(Finding::fail("store_id", "this node leased from a store before", remembered.to_string()));
        }
        return findings;
    };
    let connection = match open(file) {
        Ok(connection) => connection,
        Err(error) => {
            let what = format!("{}: {error}", file.display());
            return vec![Finding::fail(
                "file",
                what,
                "make it readable and writable for this user, or name another data_dir",
            )];
        }
    };
    let facts = Facts::ask(&connection, format!("{}, {} bytes", file.display(), metadata.len()));
    let mut findings = facts.judge(expected);
    if facts.version == Ok(SCHEMA_VERSION) {
        findings.extend(sequences(&connection, expected));
    }
    findings
}

/// For writing, as a server does, or what is in the log beside the file could not be read; but nothing is written.
fn open(file: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "query_only", true)?;
    // It belongs to the connection: set as a server does, and read back.
    connection.pragma_update(None, "synchronous", "FULL")?;
    Ok(connection)
}

impl Facts {
    fn ask(connection: &Connection, found: String) -> Self {
        let number = |name| connection.pragma_query_value(None, name, |row| row.get(0)).map_err(|e| e.to_string());
        let words = |sql| connection.query_row(sql, [], |row| row.get(0)).map_err(|error| error.to_string());
        Self {
            found,
            is_read_only: connection.is_readonly("main").unwrap_or(false),
            journal_mode: words("PRAGMA journal_mode"),
            synchronous: number("synchronous"),
            check: words("PRAGMA quick_check(1)"),
            version: number("user_version"),
            store_id: words("SELECT store_id FROM seqsvr_meta"),
        }
    }

    fn judge(&self, expected: Expected<'_>) -> Vec<Finding> {
        const RESTORE: &str = "stop all that use it, and put it back from a backup; then seqsvr sequence advance past all that was leased";
        let mut findings = vec![if self.is_read_only {
            Finding::fail(
                "file",
                format!("{}, read-only", self.found),
                "make it writable for this user: nothing can be leased",
            )
        } else {
            Finding::ok("file", self.found.as_str())
        }];
        findings.push(match &self.check {
            Ok(check) if check == "ok" => Finding::ok("quick_check", "ok"),
            Ok(check) | Err(check) => Finding::fail("quick_check", check.as_str(), RESTORE),
        });
        findings.push(match &self.version {
            Ok(SCHEMA_VERSION) => Finding::ok("schema version", SCHEMA_VERSION.to_string()),
            Ok(0) => Finding::warn(
                "schema version",
                "0: nothing is in the file yet",
                "the first start makes what is missing",
            ),
            Ok(other) => Finding::fail(
                "schema version",
                format!("{other}, not {SCHEMA_VERSION}"),
                "it was written by another version of seqsvr: use that, or another data_dir",
            ),
            Err(why) => Finding::fail("schema version", why.as_str(), RESTORE),
        });
        findings.push(match &self.journal_mode {
            Ok(mode) if mode.eq_ignore_ascii_case("wal") => Finding::ok("journal_mode", mode.as_str()),
            Ok(mode) => Finding::warn(
                "journal_mode",
                mode.as_str(),
                "a server sets it to wal when it starts, and refuses where that is not possible, as on a network's disk",
            ),
            Err(why) => Finding::unreadable("journal_mode", why, RESTORE),
        });
        findings.push(match &self.synchronous {
            Ok(2) => Finding::ok("synchronous", "full"),
            Ok(other) => Finding::fail(
                "synchronous",
                other.to_string(),
                "it can't be set to full (2): leases would not be durable",
            ),
            Err(why) => Finding::unreadable("synchronous", why, RESTORE),
        });
        if self.version == Ok(SCHEMA_VERSION) {
            findings.push(match &self.store_id {
                Ok(store_id) => finding::store_id(store_id, expected.node),
                Err(why) => Finding::fail("store_id", why.as_str(), RESTORE),
            });
        }
        findings
    }
}

fn sequences(connection: &Connection, expected: Expected<'_>) -> Vec<Finding> {
    let begun = Instant::now();
    let before = read(connection);
    std::thread::sleep(expected.sample);
    let watched = begun.elapsed();
    let (before, after) = match (before, read(connection)) {
        (Ok(before), Ok(after)) => (before, after),
        (Err(why), _) | (_, Err(why)) => {
            let advice = "rows were edited by hand: next_id and max_id must be whole numbers from 1 on";
            return vec![Finding::unreadable("counters", &why.to_string(), advice)];
        }
    };
    let earlier: std::collections::HashMap<&str, u64> =
        before.iter().map(|row| (row.name.as_str(), row.next_id)).collect();
    let mut fences = Fences::default();
    let mut counters = Vec::new();
    for Row { name, next_id, max_id, server, age } in after {
        let mark = expected.node.map_or(0, |node| node.high_water_mark(&name));
        fences.add(&name, next_id, (&server, PRESENT.epoch), PRESENT, mark);
        counters.push(Counter {
            before: earlier.get(name.as_str()).copied().unwrap_or(next_id),
            remedy: format!(
                "seqsvr sequence alter {name} --max-id N, up to {LARGEST_MAX_ID}, or go over to a new sequence"
            ),
            name,
            next_id,
            max_id,
            watched,
            age: age.map(Duration::from_secs),
            since: "created_at",
        });
    }
    let mut findings = vec![fences.judge()];
    findings.extend(capacity::judge(counters));
    findings
}

fn read(connection: &Connection) -> rusqlite::Result<Vec<Row>> {
    let sql = format!(
        "SELECT name, next_id, max_id, server, unixepoch() - unixepoch(created_at) FROM seqsvr_sequence \
         WHERE deleted_at IS NULL ORDER BY name LIMIT {MOST}"
    );
    let mut select = connection.prepare(&sql)?;
    // What is below 0 was not written by us.
    let whole = |number: i64| u64::try_from(number).unwrap_or(0);
    let rows = select.query_map([], |row| {
        Ok(Row {
            name: row.get(0)?,
            next_id: whole(row.get(1)?),
            max_id: whole(row.get(2)?),
            server: row.get(3)?,
            age: row.get::<_, Option<i64>>(4)?.and_then(|age| u64::try_from(age).ok()),
        })
    })?;
    rows.collect()
}
