//! `seqsvr doctor`: what is healthy is all ok, each fault has its row, and nothing is changed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::support::database::{Database, Flavor};
use crate::support::server::{Setup, eventually};
use crate::support::{sql, sql_value};

const FLAVORS: [Flavor; 2] = [Flavor::MariaDb, Flavor::MySql9];

/// What it found, and its exit code, which must be that of the worst row.
struct Report {
    code: i32,
    json: Value,
}

fn doctor(setup: &Setup) -> Report {
    doctor_for(setup, "0s")
}

fn doctor_for(setup: &Setup, sample: &str) -> Report {
    let (code, output) = setup.run(&["doctor", "--json", "--sample", sample]);
    let json: Value = serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"));
    let worst = match json["verdict"].as_str().unwrap() {
        "ok" | "info" => 0,
        "warn" => 1,
        "fail" => 2,
        other => panic!("{other}"),
    };
    assert_eq!(code, worst, "{output}");
    Report { code, json }
}

impl Report {
    fn rows(&self) -> &Vec<Value> {
        self.json["findings"].as_array().unwrap()
    }

    fn has(&self, what: &str, verdict: &str, words: &[&str]) {
        let row = self.rows().iter().find(|row| row["what"] == what);
        let row = row.unwrap_or_else(|| panic!("no row {what} in {:#}", self.json));
        let text = format!("{} -> {}", row["found"], row["advice"]);
        assert_eq!(row["verdict"], verdict, "{what}: {text}");
        for word in words {
            assert!(text.contains(word), "no '{word}' in {what}: {text}");
        }
    }

    fn is_all_ok(&self) {
        assert_eq!(self.code, 0, "{:#}", self.json);
        assert!(self.rows().iter().all(|row| row["verdict"] == "ok" && row["advice"].is_null()), "{:#}", self.json);
    }
}

/// A database that a node has leased from, tickets and a named sequence.
fn used(flavor: Flavor) -> (Database, Setup) {
    let database = Database::start(flavor);
    let setup = Setup::on(&database, "sequences: {orders: {}}");
    let mut server = setup.start();
    assert_eq!((server.next(), server.get("/new/orders").id()), (101, 1));
    // Not killed: what it asked for last would come after this.
    assert!(server.stop().success());
    (database, setup)
}

/// All that is in the database, its counters included.
fn contents(database: &Database) -> Vec<Vec<String>> {
    let tables =
        sql(database, "SELECT table_name FROM information_schema.tables WHERE table_schema = 'sequence' ORDER BY 1");
    let of = |table: &Vec<String>| {
        let name = &table[0];
        let mut rows = sql(database, &format!("SELECT * FROM sequence.{name} ORDER BY 1"));
        rows.extend(sql(database, &format!("SHOW CREATE TABLE sequence.{name}")));
        rows
    };
    tables.iter().flat_map(of).collect()
}

#[test]
fn a_healthy_store_is_all_ok_while_its_server_runs() {
    for flavor in FLAVORS {
        let database = Database::start(flavor);
        let setup = Setup::on(&database, "sequences: {orders: {}}");
        let server = setup.start();
        assert_eq!((server.next(), server.get("/new/orders").id()), (101, 1));
        let report = doctor(&setup);
        report.is_all_ok();
        report.has("server", "ok", &[if matches!(flavor, Flavor::MariaDb) { "MariaDB 1" } else { "MySQL 9" }]);
        report.has("store_id", "ok", &["as this node remembers"]);
        report.has("step", "ok", &["100, as configured"]);
        report.has("rows", "ok", &["of nodes that leased lately: this node"]);
        report.has("capacity of default", "ok", &["of 214748364800 used"]);
        report.has("capacity of orders", "ok", &["of 9007199254740991 used"]);

        // The table for people has the same rows.
        let (code, text) = setup.run(&["doctor", "--sample", "0s"]);
        assert_eq!(code, 0, "{text}");
        for row in report.rows() {
            let what = row["what"].as_str().unwrap();
            assert!(text.lines().any(|line| line.starts_with(&format!("ok    {what} "))), "no {what} in {text}");
        }
        assert_eq!(text.lines().count(), report.rows().len() + 2, "{text}");
    }
}

#[test]
fn each_fault_has_its_row() {
    for flavor in FLAVORS {
        let (database, setup) = used(flavor);
        let before = contents(&database);
        doctor(&setup).is_all_ok();
        assert_eq!(contents(&database), before, "{flavor:?}: it changed something");
        let row = |change: &str, what: &str, verdict: &str, words: &[&str]| {
            sql(&database, &format!("USE sequence; {change}"));
            doctor(&setup).has(what, verdict, words);
        };
        let flush = "innodb_flush_log_at_trx_commit";
        row(&format!("SET GLOBAL {flush} = 2"), flush, "fail", &["mysql.require_durable", "SET GLOBAL"]);
        sql(&database, &format!("SET GLOBAL {flush} = 1"));
        row("SET GLOBAL read_only = 1", "role", "fail", &["read-only", "primary"]);
        sql(&database, "SET GLOBAL read_only = 0");
        let regressed = "UPDATE seqsvr_meta SET state = 'regressed'";
        row(regressed, "state", "fail", &["regressed", "seqsvr fence"]);
        row("UPDATE seqsvr_meta SET state = 'migrating'", "state", "fail", &["migrating", "run it again"]);
        let server = sql_value(&database, "SELECT owner FROM sequence.seqsvr_meta");
        let elsewhere = "UPDATE seqsvr_meta SET state = 'ok', owner = 'old'";
        row(elsewhere, "identity", "fail", &["'old'", &server, "mysql.failover_skip"]);
        sql(&database, &format!("UPDATE sequence.seqsvr_meta SET owner = '{server}'"));
        let words =
            ["1 of 1 were not fenced since the database moved to another server: orders", "seqsvr fence --skip"];
        row("UPDATE seqsvr_sequence SET epoch = 2", "counters", "fail", &words);
        row("UPDATE seqsvr_sequence SET server = 'regressed'", "counters", "fail", &["1 of 1 went back: orders"]);
        let (code, output) = setup.run(&["sequence", "advance", "orders", "--to", "1000000"]);
        assert_eq!(code, 0, "{output}");
        doctor(&setup).has("capacity of orders", "ok", &["not in use now"]);
        let used_up = "UPDATE seqsvr_sequence SET max_id = next_id - 1";
        row(used_up, "capacity of orders", "fail", &["100.0 %", "--max-id"]);
        sql(&database, "UPDATE sequence.seqsvr_sequence SET max_id = 9007199254740991");
        doctor(&setup).is_all_ok();

        doctor(&used_elsewhere(&setup)).has("step", "fail", &["100 is recorded, 1000 is configured", "Set step: 100"]);
        let kind = "ALTER TABLE seqsvr_sequence MODIFY step VARCHAR(20) NOT NULL";
        row(kind, "table seqsvr_sequence", "fail", &["the column step is varchar(20), not int unsigned"]);
        sql(&database, "ALTER TABLE sequence.seqsvr_sequence MODIFY step INT UNSIGNED NOT NULL");
        let index = "ALTER TABLE generator_table DROP KEY stub_UNIQUE";
        row(index, "table generator_table", "fail", &["the column uuid has no unique index"]);
        sql(&database, "ALTER TABLE sequence.generator_table ADD UNIQUE KEY stub_UNIQUE (uuid)");
        row("DELETE FROM generator_table", "state", "fail", &["highest row of generator_table is 0", "went back"]);
        row("DROP TABLE generator_table", "state", "fail", &["generator_table is gone", "backup"]);
        row("DROP TABLE seqsvr_meta", "state", "fail", &["the table seqsvr_meta is gone"]);
    }
}

/// The same node with another step.
fn used_elsewhere(setup: &Setup) -> Setup {
    let config = std::fs::read_to_string(setup.folder().join("config.yml")).unwrap();
    let host = setup
        .command()
        .get_envs()
        .find_map(|(name, value)| (name == "SEQSVR_MYSQL__HOST").then(|| value.unwrap().to_str().unwrap().to_owned()));
    Setup::new(&config).env("SEQSVR_MYSQL__HOST", &host.unwrap()).env("SEQSVR_STEP", "1000")
}

#[test]
fn an_account_that_may_not_all() {
    for flavor in FLAVORS {
        let (database, setup) = used(flavor);
        sql(&database, "CREATE USER 'ids'@'%'; GRANT SELECT, INSERT, UPDATE ON sequence.* TO 'ids'@'%'");
        let setup = setup.env("SEQSVR_MYSQL__USER", "ids");
        let report = doctor(&setup);
        let grant = "GRANT SELECT, INSERT, UPDATE, DELETE ON `sequence`.* TO 'ids'@'%'";
        report.has("privileges", "warn", &["ids@% lacks DELETE on generator_table", grant]);
        report.has("role", "info", &["could not be read: error 1227", "GRANT REPLICATION CLIENT"]);
        assert_eq!(report.code, 1, "{:#}", report.json);
        sql(&database, "REVOKE INSERT ON sequence.* FROM 'ids'@'%'");
        doctor(&setup).has("privileges", "fail", &["INSERT on generator_table, DELETE on generator_table"]);
        sql(&database, "GRANT DELETE, INSERT ON sequence.* TO 'ids'@'%'");
        doctor(&setup).has("privileges", "ok", &[]);
        sql(&database, "GRANT REPLICATION CLIENT ON *.* TO 'ids'@'%'");
        if matches!(flavor, Flavor::MariaDb) {
            sql(&database, "GRANT SLAVE MONITOR ON *.* TO 'ids'@'%'");
        }
        doctor(&setup).is_all_ok();
    }
}

#[test]
fn rows_of_dead_nodes_and_of_others() {
    for flavor in FLAVORS {
        let (database, setup) = used(flavor);
        // Its own, whose last may not be tidied up yet.
        let old = 3 + sql_value(&database, "SELECT COUNT(*) FROM sequence.generator_table").parse::<u64>().unwrap();
        sql(
            &database,
            "USE sequence; INSERT INTO generator_table (id, uuid) VALUES (11, '11111111-1111-4111-8111-000000000001'), \
             (12, '11111111-1111-4111-8111-000000000002'), (13, '22222222-2222-4222-8222-0000000000ff'), \
             (9000, '33333333-3333-4333-8333-000000000001')",
        );
        let report = doctor(&setup);
        report.has(
            "rows",
            "warn",
            &[&format!("{old} older than the last 1000 tickets"), "11111111-1111-4111-8111-", "--prune"],
        );
        report.has("foreign rows", "ok", &["none"]);
        assert_eq!(report.code, 1);

        let before = contents(&database);
        for arguments in [&["doctor", "--prune"] as &[_], &["doctor", "--prune", "--dry-run"]] {
            let (code, output) = setup.run(arguments);
            assert!(
                code == 0 && output.contains(&format!("would delete {old} rows")) && output.contains("9000, stays"),
                "{output}"
            );
            assert!(output.contains("11111111-1111-4111-8111-...  2"), "{output}");
        }
        assert_eq!(contents(&database), before, "a dry run changes nothing");
        let (code, output) = setup.run(&["doctor", "--prune", "--yes"]);
        assert!(code == 0 && output.contains(&format!("deleted {old} rows")), "{output}");
        assert_eq!(sql(&database, "SELECT id FROM sequence.generator_table"), [["9000"]]);
        doctor(&setup).is_all_ok();
        let (_, output) = setup.run(&["doctor", "--prune", "--yes"]);
        assert!(output.contains("deleted 0 rows"), "{output}");

        // Thousands of rows, in batches; the highest one stays, and nodes go on past it.
        let digits = "(SELECT 0 d UNION SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 UNION SELECT 5 UNION SELECT 6 \
                      UNION SELECT 7 UNION SELECT 8 UNION SELECT 9)";
        let many = format!("SELECT UUID() FROM {digits} a, {digits} b, {digits} c, {digits} e");
        sql(&database, &format!("USE sequence; INSERT INTO generator_table (uuid) {many} LIMIT 4500"));
        let highest: u64 = sql_value(&database, "SELECT MAX(id) FROM sequence.generator_table").parse().unwrap();
        doctor(&setup).has(
            "foreign rows",
            "warn",
            &["rows that are not of seqsvr: 4500", "is 0 tickets behind", "a Go server may still run"],
        );
        setup.run(&["doctor", "--prune", "--yes"]);
        let left = "SELECT CONCAT(MIN(id), ' ', MAX(id)) FROM sequence.generator_table";
        assert_eq!(sql_value(&database, left), format!("{} {highest}", highest - 1000), "{flavor:?}");
        assert!(setup.start().next() > (highest + 1) * 100, "{flavor:?}");
    }
}

/// What a Go server does for a lease.
fn go_server_leases(database: &Database, uuid: &str) {
    sql(database, &format!("REPLACE INTO sequence.generator_table (uuid) VALUES ('{uuid}')"));
}

#[test]
fn a_go_server_beside_a_node_that_takes_thousands_of_tickets() {
    const GO: &str = "5e8b2c4d-1f3a-4b6c-9d7e-a1b2c3d4e5f6";
    for flavor in FLAVORS {
        let database = Database::start(flavor);
        // Before seqsvr uses the table, a Go server that leases is no failure.
        sql(&database, &format!("USE sequence; {}", crate::seed::SEED_TABLE));
        go_server_leases(&database, GO);
        let setup = Setup::seed(&database).env("SEQSVR_STEP", "1").patient();
        doctor(&setup).has("foreign rows", "warn", &[GO, "is 0 tickets behind", "a Go server may still run"]);

        let mut server = setup.start();
        server.wait_until_ready();
        // Each ticket is worth one ID.
        for _ in 0..2 {
            assert_eq!(server.get("/new?count=2000").status, 200, "{}", server.log());
        }
        let report = doctor(&setup);
        report.has("foreign rows", "warn", &["rows that are not of seqsvr: 1", GO, "--prune --yes"]);
        let row = report.rows().iter().find(|row| row["what"] == "foreign rows").unwrap();
        let behind = row["found"].as_str().unwrap().split(" is ").last().unwrap().split(' ').next().unwrap();
        assert!(behind.parse::<u64>().unwrap() > 2_000, "{flavor:?}: {row}");
        assert!(server.stop().success());
        let rows = doctor(&setup).rows().iter().find(|row| row["what"] == "rows").unwrap().to_string();
        assert!(!rows.contains(&GO[..24]), "it is no node of seqsvr: {rows}");

        // It leases while the doctor looks.
        let is_done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_done.load(Ordering::Relaxed) {
                    go_server_leases(&database, GO);
                    std::thread::sleep(Duration::from_millis(10));
                }
            });
            let reports = std::panic::catch_unwind(|| {
                eventually("it leases during a look", || {
                    let report = doctor_for(&setup, "1s");
                    report.json.to_string().contains("leases right now").then_some(report)
                })
            });
            is_done.store(true, Ordering::Relaxed);
            let report = reports.expect("the row moved");
            report.has("foreign rows", "fail", &[GO, "a Go server leases right now", "stop the Go server"]);
            assert_eq!(report.code, 2, "{:#}", report.json);
        });

        // Which of the old rows are a Go server's is told apart. The row comes back only if that server still leases.
        let past = "INSERT INTO sequence.generator_table (id, uuid) SELECT MAX(id) + 2000, \
                    '33333333-3333-4333-8333-000000000001' FROM sequence.generator_table";
        sql(&database, past);
        let (code, output) = setup.run(&["doctor", "--prune"]);
        assert!(code == 0 && output.contains(&format!("1 are not of seqsvr: {GO}")), "{output}");
        let (code, output) = setup.run(&["doctor", "--prune", "--yes"]);
        assert!(code == 0 && output.contains(&format!("1 are not of seqsvr: {GO}")), "{output}");
        doctor(&setup).has("foreign rows", "ok", &["none"]);
        go_server_leases(&database, GO);
        doctor(&setup).has("foreign rows", "warn", &[GO, "is 0 tickets behind"]);
    }
}

#[test]
fn what_can_not_be_reached_or_is_not_there_yet() {
    let away = Setup::new(crate::support::server::SEED_CONFIG).env("SEQSVR_MYSQL__HOST", "tcp(127.0.0.1:1)");
    let report = doctor(&away);
    report.has("connection", "fail", &["refused", "mysql.host"]);
    assert_eq!((report.code, report.rows().len()), (2, 1));
    let (code, output) = Setup::new("").run(&["doctor"]);
    assert_eq!(code, 78, "no configuration: {output}");
    for wrong in [&["doctor", "--yes"] as &[_], &["doctor", "--sample", "2m"], &["doctor", "--prune", "--json"]] {
        assert_eq!(away.run(wrong).0, 78, "{wrong:?}");
    }
    for flavor in FLAVORS {
        let database = Database::start(flavor);
        let setup = Setup::seed(&database);
        let report = doctor(&setup);
        report.has("state", "warn", &["there are no tables yet", "CREATE"]);
        assert_eq!(report.code, 1, "{:#}", report.json);
        assert!(contents(&database).is_empty(), "it makes no table");
        assert!(!setup.folder().join("data").exists(), "and no folder");
        sql(&database, "DROP DATABASE sequence");
        doctor(&setup).has("connection", "fail", &["1049", "CREATE DATABASE"]);
    }
}

#[test]
fn the_rate_is_what_the_counters_move_by() {
    for flavor in FLAVORS {
        let (database, setup) = used(flavor);
        let is_done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // As long as anything may take here, should the other thread fail.
                for _ in 0..400 {
                    if is_done.load(Ordering::Relaxed) {
                        break;
                    }
                    sql(&database, "UPDATE sequence.seqsvr_sequence SET next_id = next_id + 10");
                    sql(&database, "INSERT INTO sequence.generator_table (uuid) VALUES (UUID())");
                    // Faster, and the column would last for a month only, which is a warning.
                    std::thread::sleep(Duration::from_millis(50));
                }
            });
            let report = doctor_for(&setup, "1s");
            is_done.store(true, Ordering::Relaxed);
            report.has("capacity of orders", "ok", &["over 1000 years at the rate of the last"]);
            report.has("capacity of default", "ok", &["at the rate of the last"]);
        });
        // An average needs a day at least.
        sql(&database, "UPDATE sequence.seqsvr_sequence SET created_at = created_at - INTERVAL 100 DAY");
        doctor(&setup).has("capacity of orders", "ok", &["at the average since created_at"]);
    }
}

#[test]
fn a_primary_and_its_replica() {
    for flavor in FLAVORS {
        let start = |id: &str| Database::start_with(flavor, &["--log-bin=log", "--sync-binlog=1", id]);
        let (primary, replica) = (start("--server-id=1"), start("--server-id=2"));
        let setups = [&primary, &replica].map(Setup::seed);
        doctor(&setups[0]).has("role", "ok", &["standalone"]);
        doctor(&setups[0]).has("sync_binlog", "ok", &["1"]);
        let port = primary.port();
        let connect = match flavor {
            Flavor::MariaDb => format!(
                "CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = {port}, MASTER_USER = 'root'; START SLAVE"
            ),
            Flavor::MySql9 => format!(
                "CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = {port}, SOURCE_USER = 'root'; \
                 START REPLICA"
            ),
        };
        sql(&replica, &connect);
        eventually("the replica connects", || {
            let report = doctor(&setups[0]);
            let row = report.rows().iter().find(|row| row["what"] == "role").unwrap();
            (row["found"] == "primary, replicas: 1, asynchronous").then_some(())
        });
        doctor(&setups[0]).has(
            "role",
            "warn",
            &["a failover may lose leases", "mysql.failover_skip", "semi-synchronous"],
        );
        doctor(&setups[1]).has("role", "warn", &["replica of 127.0.0.1 that takes writes"]);
        sql(&replica, "SET GLOBAL read_only = 1");
        doctor(&setups[1]).has("role", "fail", &["read-only replica of 127.0.0.1", "name the primary"]);
        sql(&primary, "SET GLOBAL sync_binlog = 0");
        doctor(&setups[0]).has("sync_binlog", "fail", &["power failure", "SET GLOBAL sync_binlog = 1"]);
    }
}

#[test]
fn default_in_the_counter_layout() {
    let (database, setup) = used(Flavor::MariaDb);
    let (code, output) = setup.run(&["migrate", "--counter", "--yes"]);
    assert_eq!(code, 0, "{output}");
    let report = doctor(&setup);
    report.is_all_ok();
    report.has("state", "ok", &["counter layout"]);
    report.has("counters", "ok", &["2, none went back"]);
    let (code, output) = setup.run(&["doctor", "--prune"]);
    assert!(code == 0 && output.contains("nothing is to be deleted"), "{output}");
    sql(&database, "RENAME TABLE sequence.generator_table_moved TO sequence.generator_table");
    doctor(&setup).has("state", "warn", &["generator_table is still there", "RENAME TABLE"]);
}

#[test]
fn what_this_node_remembers() {
    let (database, setup) = used(Flavor::MariaDb);
    sql(&database, "UPDATE sequence.seqsvr_meta SET store_id = UUID()");
    doctor(&setup).has("store_id", "fail", &["but this node remembers", "seqsvr adopt"]);
    let memory = setup.folder().join("data/node.json");
    std::fs::write(&memory, "{").unwrap();
    doctor(&setup).has("data_dir", "warn", &["node.json"]);
    std::fs::remove_file(&memory).unwrap();
    doctor(&setup).has("store_id", "ok", &["no memory in data_dir yet"]);
    assert!(!memory.exists(), "it makes none");
}

#[test]
fn a_copy_of_the_embedded_store_and_one_without_its_wal() {
    let (original, copy) = (Setup::embedded(), Setup::embedded());
    let server = original.start();
    let data = |setup: &Setup| setup.folder().join("data");
    std::fs::create_dir(data(&copy)).unwrap();
    for file in ["seqsvr.db", "seqsvr.db-wal"] {
        std::fs::copy(data(&original).join(file), data(&copy).join(file)).unwrap();
    }
    drop(server);
    let told = ["seqsvr fence --skip IDS --yes", "never serves again"];
    for _ in 0..2 {
        let report = doctor(&copy);
        report.has("identity", "fail", &[&["copied, restored from a backup"], &told[..]].concat());
        report.has("-wal", "ok", &[]);
        report.has("counters", "ok", &["all fenced"]);
    }
    let server = copy.start();
    server.wait_for_log("is not the file that was leased from");
    let report = doctor(&copy);
    report.has("identity", "ok", &["epoch 2"]);
    report.has("counters", "fail", &[&["1 of 1 were not fenced since the file was copied"], &told[..]].concat());
    drop(server);

    doctor(&original).is_all_ok();
    let wal = data(&original).join("seqsvr.db-wal");
    assert!(wal.exists(), "doctor leaves it");
    std::fs::remove_file(&wal).unwrap();
    for _ in 0..2 {
        let report = doctor(&original);
        report.has("identity", "ok", &[]);
        report.has("-wal", "fail", &[&["the last leases", "put it back"], &told[..]].concat());
    }
}

#[test]
fn the_embedded_store() {
    let setup = Setup::embedded();
    let report = doctor(&setup);
    report.has("file", "warn", &["there is no data/seqsvr.db yet"]);
    assert!(!setup.folder().join("data").exists(), "it makes none");
    let mut server = setup.start();
    assert_eq!(server.next(), 101);
    let report = doctor(&setup);
    report.is_all_ok();
    report.has("file system", "ok", &["local"]);
    report.has("identity", "ok", &["epoch 1"]);
    report.has("-wal", "ok", &["nothing is missing"]);
    report.has("journal_mode", "ok", &["wal"]);
    report.has("synchronous", "ok", &["full"]);
    report.has("quick_check", "ok", &["ok"]);
    report.has("capacity of default", "ok", &["of 9007199254740991 used"]);
    server.stop();
    let (code, output) = setup.run(&["doctor", "--prune"]);
    assert!(code == 1 && output.contains("nothing is to be pruned"), "{output}");

    let file = setup.folder().join("data/seqsvr.db");
    let run = |change: &str| rusqlite::Connection::open(&file).unwrap().execute_batch(change).unwrap();
    run("UPDATE seqsvr_sequence SET next_id = 50");
    doctor(&setup).has("counters", "fail", &["1 of 1 went back: default", "seqsvr fence NAME --past"]);
    run("UPDATE seqsvr_sequence SET next_id = max_id + 1");
    doctor(&setup).has("capacity of default", "fail", &["100.0 %", "--max-id"]);
    run("UPDATE seqsvr_meta SET store_id = 'other'");
    doctor(&setup).has("store_id", "fail", &["other", "seqsvr adopt"]);
    run("PRAGMA user_version = 7");
    doctor(&setup).has("schema version", "fail", &["7, not 3", "another version"]);
    run("PRAGMA journal_mode = DELETE");
    doctor(&setup).has("journal_mode", "warn", &["delete"]);
    // Not the header, which an open looks at, but a page behind it.
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[4096..8192].fill(0x5a);
    std::fs::write(&file, bytes).unwrap();
    doctor(&setup).has("quick_check", "fail", &["backup"]);
    std::fs::write(
        &file,
        "this is no database, and it is longer than a header of SQLite, which has 100 bytes in all. So.",
    )
    .unwrap();
    doctor(&setup).has("file", "fail", &["not a database"]);
}
