//! What a person does where a guard says no: `fence`, `migrate`, `adopt`; what they print, and what a dry run leaves as it is.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::support::database::{Database, Flavor};
use crate::support::http::load;
use crate::support::server::{Setup, eventually};
use crate::support::{sql, sql_value};

fn run(setup: &Setup, line: &str) -> String {
    let (code, output) = setup.run(&line.split(' ').collect::<Vec<_>>());
    assert_eq!(code, 0, "{line}: {output}");
    output
}

fn refused(setup: &Setup, line: &str, wanted: &[&str]) {
    let (code, output) = setup.run(&line.split(' ').collect::<Vec<_>>());
    assert_eq!(code, 1, "{line}: {output}");
    for wanted in wanted {
        assert!(output.contains(wanted), "'{wanted}' is not in: {output}");
    }
}

#[test]
fn a_server_that_may_lose_what_it_acknowledged_is_refused_where_that_is_asked_for() {
    for flavor in [Flavor::MariaDb, Flavor::MySql9] {
        let database = Database::start_with(flavor, &["--innodb-flush-log-at-trx-commit=2"]);
        let setup = Setup::seed(&database);
        assert_eq!(setup.start().next(), 101);
        let strict = Setup::seed(&database).env("SEQSVR_MYSQL__REQUIRE_DURABLE", "true");
        let (code, output) = strict.run(&[]);
        assert!(code == 78 && output.contains("innodb_flush_log_at_trx_commit is 2"), "{output}");
        sql(&database, "SET GLOBAL innodb_flush_log_at_trx_commit = 1");
        assert!(strict.start().next() > 101, "{flavor:?}");
    }
}

#[test]
fn a_dry_run_prints_the_sql_and_changes_nothing() {
    let database = Database::start(Flavor::MariaDb);
    let setup = Setup::seed(&database);
    let server = setup.start();
    load(&[server.port()], 2, 500).assert_clean(500);
    drop(server);
    run(&setup, "sequence create orders");
    let dump = || {
        let tables = ["generator_table", "seqsvr_meta", "seqsvr_sequence"];
        tables.map(|table| sql(&database, &format!("SELECT * FROM sequence.{table} ORDER BY 1")))
    };
    let before = dump();
    for (line, wanted) in [
        ("fence --skip 5000 --dry-run", "INSERT INTO generator_table (id, uuid) VALUES ("),
        ("fence default --past 123456 --dry-run", "INSERT INTO generator_table (id, uuid) VALUES (1234, "),
        ("fence orders --past 41 --dry-run", "UPDATE seqsvr_sequence SET next_id = 42,"),
        ("migrate --step 7 --dry-run", "UPDATE seqsvr_meta SET step = 7, first_ticket = "),
        ("migrate --counter --dry-run", "RENAME TABLE generator_table TO generator_table_moved;"),
        ("migrate --widen --dry-run", "ALTER TABLE generator_table MODIFY id BIGINT NOT NULL AUTO_INCREMENT;"),
    ] {
        let output = run(&setup, line);
        assert!(output.contains(wanted), "{line}: {output}");
        assert_eq!(dump(), before, "{line}");
    }
    // Without --yes nothing is done either.
    refused(&setup, "fence --skip 5000", &["add --yes", "all counters"]);
    refused(&setup, "fence", &["how far?", "--past", "--skip"]);
    refused(&setup, "migrate --step 7", &["add --yes", "no rows of other servers"]);
    assert_eq!(dump(), before);

    let remembered = || std::fs::read(setup.folder().join("data/node.json")).unwrap();
    let before = remembered();
    assert!(run(&setup, "adopt --dry-run").contains("would accept"));
    assert_eq!(remembered(), before);
}

/// MariaDB 11.6 and later refuse a lock on a row that changed since the transaction began (error 1020).
#[test]
fn many_fences_at_once() {
    for arg in ["--innodb-snapshot-isolation=ON", "--innodb-snapshot-isolation=OFF"] {
        let database = Database::start_with(Flavor::MariaDb, &[arg]);
        // Small blocks, so that leases change the rows all the time.
        let setup =
            Setup::on(&database, "sequences: {orders: {step: 10}}").patient().env("SEQSVR_REFILL__MAX_BLOCK", "10");
        let server = setup.start();
        server.wait_until_ready();
        eventually("it has ids of orders", || (server.get("/new/orders").status == 200).then_some(()));
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    server.get("/new/orders?count=10");
                }
            });
            let fences: Vec<_> = (0..30)
                .map(|n| {
                    let line = ["fence orders --skip 1000 --yes", "fence --skip 1000 --yes"][n % 2];
                    let setup = &setup;
                    scope.spawn(move || run(setup, line))
                })
                .collect();
            let outcomes: Vec<_> = fences.into_iter().map(thread::ScopedJoinHandle::join).collect();
            is_over.store(true, Ordering::Relaxed);
            assert!(outcomes.iter().all(Result::is_ok), "{arg}: some are not fenced");
        });
        let next_id = sql_value(&database, "SELECT next_id FROM sequence.seqsvr_sequence WHERE name = 'orders'");
        assert!(next_id.parse::<u64>().unwrap() > 30_000, "{arg}: {next_id}");
    }
}

#[test]
fn rows_of_a_go_server_are_named_before_anything_is_migrated() {
    let database = Database::start(Flavor::MariaDb);
    let setup = Setup::seed(&database);
    assert_eq!(setup.start().next(), 101);
    let go = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";
    sql(&database, &format!("INSERT INTO sequence.generator_table (uuid) VALUES ('{go}')"));
    refused(&setup, "migrate --step 7", &[go, "Go server"]);
    refused(&setup, "migrate --counter", &[go]);
}

#[test]
fn the_step_and_the_column_change_while_a_node_goes_on() {
    for flavor in [Flavor::MariaDb, Flavor::MySql9] {
        let database = Database::start(flavor);
        let setup = Setup::seed(&database).patient().env("SEQSVR_REFILL__MAX_BLOCK", "2000");
        let server = setup.start();
        let mut all = load(&[server.port()], 4, 3_000);
        assert!(run(&setup, "migrate --widen --yes").contains("is BIGINT now"));
        assert!(run(&setup, "migrate --widen --yes").contains("already"));
        all.merge(load(&[server.port()], 4, 3_000));
        let column = "SELECT DATA_TYPE FROM information_schema.COLUMNS WHERE TABLE_NAME = 'generator_table' AND COLUMN_NAME = 'id'";
        assert_eq!(sql_value(&database, column), "bigint");

        assert!(run(&setup, "migrate --step 1000 --yes").contains("the step is 1000 now, and was 100"));
        assert!(run(&setup, "migrate --step 1000 --yes").contains("already"));
        // The one with the old step hands out what it holds, and says why it leases no more; it does not end.
        eventually("it says why", || {
            all.merge(load(&[server.port()], 1, 0));
            let _ = server.get("/new?count=1000");
            server.get("/readyz").body.contains("leased with step 1000, the configuration says step 100").then_some(())
        });
        assert!(server.metric("seqsvr_leases_total{outcome=\"other_step\"") > 0.0);
        let new = Setup::seed(&database).patient().env("SEQSVR_STEP", "1000").start();
        all.merge(load(&[new.port()], 4, 3_000));
        all.assert_clean(9_000);
    }
}

#[test]
fn a_step_that_does_not_fit_into_the_column_is_refused_and_nodes_go_on() {
    let database = Database::start(Flavor::MariaDb);
    let setup = Setup::seed(&database).patient().env("SEQSVR_STEP", "1000000");
    assert_eq!(setup.start().next(), 1_000_001);
    run(&setup, "fence default --past 3000000000000 --yes");
    refused(&setup, "migrate --step 1 --yes", &["past the column's end", "--widen"]);
    assert!(setup.start().next() > 3_000_000_000_000);
}

#[test]
fn the_embedded_store_is_fenced_too() {
    let setup = Setup::embedded();
    assert_eq!(setup.start().next(), 101);
    let dry = run(&setup, "fence default --past 5000 --dry-run");
    assert!(dry.contains("UPDATE seqsvr_sequence SET next_id = 5001,"), "{dry}");
    assert!(run(&setup, "fence default --past 5000 --yes").contains("goes on from id 5001"));
    assert!(run(&setup, "fence --skip 100 --yes").contains("goes on from id 5101"));
    assert_eq!(setup.start().next(), 5_101);
    refused(&setup, "migrate --widen --yes", &["nothing is to be moved"]);
    refused(&setup, "fence nothing --past 5 --yes", &["there is no sequence nothing"]);
}

#[test]
fn a_failover_amid_a_migration_can_be_mended() {
    let database = Database::start(Flavor::MariaDb);
    let setup = Setup::seed(&database).env("SEQSVR_MYSQL__FAILOVER_SKIP", "5000");
    assert_eq!(setup.start().next(), 101);
    let interrupt = "UPDATE sequence.seqsvr_meta SET state = 'migrating-3f9a2c', owner = 'the old primary'";
    sql(&database, interrupt);
    refused(&setup, "migrate --step 7 --yes", &["seqsvr fence"]);
    run(&setup, "fence default --past 10000 --yes");
    assert!(run(&setup, "migrate --step 7 --yes").contains("the step is 7 now"));
    let other = Setup::seed(&database).env("SEQSVR_STEP", "7").env("SEQSVR_MYSQL__FAILOVER_SKIP", "5000");
    let server = other.start();
    assert!(server.next() > 10_000);

    // Nodes fence by themselves, and then say what else is to be done.
    sql(&database, interrupt);
    let _ = load(&[server.port()], 4, 20);
    eventually("it names the migration", || {
        server.get("/readyz").body.contains("migration is under way, or was interrupted").then_some(())
    });
    run(&other, "migrate --step 7 --yes");
    server.wait_until_ready();
}

#[test]
fn a_migration_that_was_overtaken_fails() {
    let database = Database::start(Flavor::MariaDb);
    let setup = Setup::seed(&database);
    assert_eq!(setup.start().next(), 101);
    // Another one begins when this one allocates its ticket.
    sql(
        &database,
        "CREATE TRIGGER sequence.overtakes BEFORE INSERT ON sequence.generator_table FOR EACH ROW \
         UPDATE sequence.seqsvr_meta SET state = 'migrating-ffffff'",
    );
    refused(&setup, "migrate --step 7 --yes", &["somebody else migrates it just now"]);
    sql(&database, "DROP TRIGGER sequence.overtakes");
    assert_eq!(sql_value(&database, "SELECT step FROM sequence.seqsvr_meta"), "100");
    assert!(run(&setup, "migrate --step 7 --yes").contains("the step is 7 now"));
}

#[test]
fn a_change_that_a_failover_lost_does_not_keep_nodes_from_leasing() {
    let database = Database::start(Flavor::MariaDb);
    let setup = Setup::on(&database, "sequences: {default: {step: 10}}");
    let server = setup.start();
    run(&setup, "sequence advance default --to 1000");
    eventually("it follows", || (server.next() >= 1_000).then_some(()));
    // As it was before, but past all that is out, as a fence makes it.
    sql(&database, "UPDATE sequence.seqsvr_sequence SET incarnation = 1, next_id = 50000 WHERE name = 'default'");
    eventually("it goes on", || {
        let answer = server.get("/new");
        (answer.status == 200 && answer.id() >= 50_000).then_some(())
    });
}

#[test]
fn what_would_leave_no_id_is_refused() {
    let database = Database::start(Flavor::MySql9);
    let setup = Setup::seed(&database);
    assert_eq!(setup.start().next(), 101);
    run(&setup, "fence default --past 300000000 --yes");
    refused(&setup, "migrate --step 4294967295 --yes", &["no id would be left"]);
    run(&setup, "migrate --widen --yes");
    refused(&setup, "fence default --past 9223372036854775806 --yes", &["no id of the ticket layout would be left"]);
    assert!(setup.start().next() > 300_000_000);
}

#[test]
fn one_that_can_not_be_fenced_does_not_keep_the_others_from_it() {
    let database = Database::start(Flavor::MariaDb);
    let setup = Setup::on(&database, "sequences: {default: {step: 10}}");
    drop(setup.start());
    run(&setup, "sequence create zebra");
    // A row that can't be written.
    sql(
        &database,
        "CREATE TRIGGER sequence.breaks BEFORE UPDATE ON sequence.seqsvr_sequence FOR EACH ROW \
         SET NEW.description = IF(OLD.name = 'default', REPEAT('x', 300), NEW.description)",
    );
    let wanted = ["default is not fenced", "fenced zebra", "not all are fenced: default"];
    refused(&setup, "fence --skip 100 --yes", &wanted);
}
