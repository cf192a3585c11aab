//! What the log says: a line for each event worth one, as docs/logging.md lists them, and no more of them under faults.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::support::database::{Database, Flavor};
use crate::support::http::Client;
use crate::support::server::{Setup, eventually};
use crate::support::sql;

const LEVELS: [&str; 5] = ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"];

/// A level, and a message with `{}` for each part that differs.
type Event = (String, String);

/// `{...}` becomes `{}`.
fn fixed_parts(message: &str) -> String {
    let mut parts = message.split('{');
    let mut fixed = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        fixed.push_str("{}");
        fixed.push_str(part.split_once('}').map_or("", |(_, rest)| rest));
    }
    fixed
}

/// The events of a source: the first text behind each `tracing::level!(`.
fn logged(source: &str) -> Vec<Event> {
    let calls = source.split("tracing::").skip(1);
    let event = |call: &str| {
        let (level, rest) = call.split_once("!(")?;
        let level = level.to_uppercase();
        let (_, text) = LEVELS.contains(&level.as_str()).then(|| rest.split_once('"')).flatten()?;
        let mut message = String::new();
        let mut chars = text.chars().peekable();
        loop {
            match chars.next()? {
                '"' => return Some((level, fixed_parts(&message))),
                '\\' if chars.peek() == Some(&'\n') => while chars.next_if(|c| c.is_whitespace()).is_some() {},
                '\\' => message.push(chars.next()?),
                c => message.push(c),
            }
        }
    };
    calls.filter_map(event).collect()
}

/// The events of the page: the rows whose first column is a level.
fn listed(page: &str) -> Vec<Event> {
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| ")?.split(" | ");
        let level = cells.next().filter(|level| LEVELS.contains(level))?;
        let message = cells.next()?.trim().trim_matches('`').trim();
        Some((level.to_owned(), fixed_parts(message)))
    };
    page.lines().filter_map(row).collect()
}

fn sources(folder: &Path, found: &mut Vec<Event>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else {
            found.extend(logged(&fs::read_to_string(&path).unwrap()));
        }
    }
}

#[test]
fn the_page_lists_what_the_source_logs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    sources(&root.join("src"), &mut found);
    assert!(found.len() > 30, "{found:#?}");
    let found: BTreeSet<Event> = found.into_iter().collect();
    let listed: BTreeSet<Event> =
        listed(&fs::read_to_string(root.join("docs/logging.md")).unwrap()).into_iter().collect();
    let missing: Vec<_> = found.difference(&listed).collect();
    let stale: Vec<_> = listed.difference(&found).collect();
    assert!(
        missing.is_empty() && stale.is_empty(),
        "docs/logging.md lacks {missing:#?}, and has but the source has not {stale:#?}"
    );
}

#[test]
fn events_are_found_in_a_source_and_in_a_page() {
    let source = "tracing::warn!(\n    ids = 5,\n    \"{at}: a \\\"{name:?}\\\" \\\n     and {:.0} more\"\n);\nuse tracing::Level;";
    let event = ("WARN".to_owned(), "{}: a \"{}\" and {} more".to_owned());
    assert_eq!(logged(source), std::slice::from_ref(&event));
    assert_eq!(listed("| level | message |\n| WARN | `{store}: a \"{x}\" and {n} more` | when | |"), [event]);
    assert_eq!(listed("| INFO | ``with `code` `` | |"), [("INFO".to_owned(), "with `code`".to_owned())]);
}

#[test]
fn no_request_has_a_line() {
    let setup = Setup::embedded().patient();
    let mut server = setup.start();
    let mut client = Client::connect(server.port());
    for path in ["/new", "/new?count=10", "/new?count=0", "/new/unknown", "/nothing", "/readyz", "/metrics"] {
        for _ in 0..100 {
            client.get(path);
        }
    }
    for rubbish in ["rubbish\r\n\r\n", "GET /new HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "\u{1}\u{2}"] {
        Client::connect(server.port()).send_bytes(rubbish.as_bytes()).unwrap();
    }
    client.get("/new");
    server.stop();
    let log = server.log();
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines.len(), 5, "made, serves, listening, draining, stopped: {log}");
}

#[test]
fn why_it_ended_is_a_line_of_the_log() {
    for format in ["text", "json"] {
        let setup = Setup::embedded();
        let first = setup.start();
        let second = Setup::embedded().env("SEQSVR_PORT", &format!("127.0.0.1:{}", first.port()));
        let (code, output) = second.env("SEQSVR_LOG__FORMAT", format).run(&[]);
        assert_eq!(code, 1, "{output}");
        let last = output.lines().last().expect("a line");
        if format == "json" {
            let line: serde_json::Value = serde_json::from_str(last).expect(last);
            assert_eq!(line["level"], "ERROR", "{line}");
            assert!(line["message"].as_str().is_some_and(|message| message.starts_with("ended: port")), "{line}");
        } else {
            assert!(last.contains("ERROR ended: port 127.0.0.1"), "{output}");
        }
    }
}

#[test]
fn a_store_that_comes_and_goes_is_not_told_each_time() {
    let database = Database::start(Flavor::MariaDb);
    let setup = Setup::seed(&database).env("SEQSVR_LIMITS__WAIT", "50ms");
    let server = setup.start();
    let begun = Instant::now();
    let leases = |outcome: &str| server.metric(&format!("seqsvr_leases_total{{outcome=\"{outcome}\""));
    let table = |from: &str, to: &str| sql(&database, &format!("RENAME TABLE sequence.{from} TO sequence.{to}"));
    for _ in 0..6 {
        let (failed, ok) = (leases("misconfigured"), leases("ok"));
        table("generator_table", "elsewhere");
        eventually("it fails", || {
            server.get("/new?count=100");
            (leases("misconfigured") > failed).then_some(())
        });
        table("elsewhere", "generator_table");
        eventually("it leases", || (leases("ok") > ok).then_some(()));
    }
    let log = server.log();
    let told = log.matches("leasing of sequence default fails").count();
    let most = 1 + usize::try_from(begun.elapsed().as_secs() / 10).unwrap();
    assert!((1..=most).contains(&told), "{told} lines, at most {most}: {log}");
    assert!(log.matches("works again").count() <= told, "{log}");
}

#[test]
fn an_error_tells_how_a_statement_begins_and_not_all_of_its_rows() {
    let database = Database::start(Flavor::MariaDb);
    let setup = Setup::seed(&database).env("SEQSVR_LIMITS__WAIT", "1s");
    let server = setup.start();
    let refuse = "CREATE TRIGGER sequence.refuses BEFORE INSERT ON sequence.generator_table FOR EACH ROW SIGNAL SQLSTATE '45000'";
    sql(&database, refuse);
    // A hundred tickets.
    eventually("it fails", || (server.get("/new?count=10000").status == 503).then_some(()));
    server.wait_for_log("INSERT INTO generator_table (uuid) VALUES");
    let ready = server.get("/readyz").body;
    for line in server.log().lines().chain([ready.as_str()]) {
        assert!(line.len() < 500, "{line}");
    }
}

#[test]
fn declared_sequences_that_differ_are_told_once() {
    let config = "store: embedded\nsequences: {orders: {}, users: {}}\n";
    let setup = Setup::new(config);
    let mut server = setup.start();
    for path in ["/new/orders", "/new/users"] {
        eventually(path, || (server.get(path).status == 200).then_some(()));
    }
    server.stop();
    assert_eq!(setup.run(&["sequence", "delete", "users", "--yes"]).0, 0);
    // It can't be made, again and again: this node leased from it.
    let file = Connection::open(setup.folder().join("data/seqsvr.db")).unwrap();
    assert_eq!(file.execute("DELETE FROM seqsvr_sequence WHERE name = 'orders'", []).unwrap(), 1);
    let server = setup.start();
    server.wait_for_log("the declared sequences can't all be made");
    // Three more tries.
    std::thread::sleep(Duration::from_secs(7));
    let log = server.log();
    for line in ["the declared sequences can't all be made", "users, but it was deleted"] {
        assert_eq!(log.matches(line).count(), 1, "{line}: {log}");
    }
}
