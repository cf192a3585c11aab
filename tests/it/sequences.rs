//! Named sequences: the counter layout on both makes of database and on the embedded store. `commands`: what people do to
//! them; `refusals`: what is not leased from.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::checker::Checker;
use crate::support::database::{Database, Flavor};
use crate::support::http::{Client, get, load, load_of, load_until_refused};
use crate::support::server::{Setup, eventually};
use crate::support::{sql, sql_value};

mod commands;
mod refusals;

const DECLARED: &str = "sequences: {orders: {step: 10, description: \"it's ours\"}, users: }";

const BOTH: [Flavor; 2] = [Flavor::MariaDb, Flavor::MySql9];

/// `default` in the counter layout.
const COUNTER: &str = "sequences: {default: {step: 10}}";

/// Tells threads to end when it is dropped, by a panic too.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn row(database: &Database, column: &str, name: &str) -> String {
    sql_value(database, &format!("SELECT {column} FROM sequence.seqsvr_sequence WHERE name = '{name}'"))
}

/// Runs `seqsvr ...`; its output. It must work.
fn run(setup: &Setup, arguments: &str) -> String {
    let (code, output) = setup.run(&arguments.split(' ').collect::<Vec<_>>());
    assert_eq!(code, 0, "{arguments}: {output}");
    output
}

/// As [`run`], but it must end with exit code 1.
fn refused(setup: &Setup, arguments: &str) -> String {
    let (code, output) = setup.run(&arguments.split(' ').collect::<Vec<_>>());
    assert_eq!(code, 1, "{arguments}: {output}");
    output
}

fn first_answers(setup: &Setup) {
    let server = setup.start();
    let mut client = Client::connect(server.port());
    for (path, body) in [
        ("/new/orders", r#"{"code":0,"msg":"ok","data":{"id":1}}"#),
        ("/new/orders?count=3", r#"{"code":0,"msg":"ok","data":{"ids":[2,3,4]}}"#),
        ("/new/orders?count=1000&ranges", r#"{"code":0,"msg":"ok","data":{"ranges":[{"first":5,"last":1004}]}}"#),
        ("/new/users", r#"{"code":0,"msg":"ok","data":{"id":1}}"#),
        ("/new", r#"{"code":0,"msg":"ok","data":{"id":101}}"#),
        ("/new/default", r#"{"code":0,"msg":"ok","data":{"id":102}}"#),
    ] {
        assert_eq!(client.get(path).body, body, "{path}, {}", server.log());
    }
    let unknown = client.get("/new/Orders");
    assert_eq!(unknown.status, 404, "names are case-sensitive");
    assert!(unknown.body.contains("seqsvr sequence create Orders"), "{unknown:?}");
    assert_eq!(server.metric("seqsvr_ids_total{sequence=\"orders\"}"), 1_004.0);
}

#[test]
fn declared_ones_are_there_on_every_store() {
    first_answers(&Setup::new(&format!("store: embedded\n{DECLARED}\n")).patient());
    for flavor in BOTH {
        let database = Database::start(flavor);
        first_answers(&Setup::on(&database, DECLARED).patient());
        assert_eq!(row(&database, "step", "orders"), "10");
        assert_eq!(row(&database, "description", "orders"), "it's ours");
        assert_eq!(row(&database, "step", "users"), "100");
    }
}

#[test]
fn a_flood_of_unknown_names_does_not_reach_the_database() {
    let database = Database::start(Flavor::MariaDb);
    let server = Setup::on(&database, DECLARED).start();
    assert_eq!(server.get("/new/orders").status, 200);
    let queries = || -> u64 { sql(&database, "SHOW GLOBAL STATUS LIKE 'Com_select'")[0][1].parse().unwrap() };
    let (before, since) = (queries(), Instant::now());
    let mut client = Client::connect(server.port());
    for n in 0..5_000 {
        assert_eq!(client.get("/new/nothing").status, 404, "{n}");
    }
    let after = queries();
    // Nothing but the looks for changes, and one in two seconds for the name.
    let most = 30 + 5 * since.elapsed().as_secs();
    assert!(after - before < most, "{} queries", after - before);
    assert_eq!(get(server.port(), "/new/orders").status, 200);
}

#[test]
fn the_start_reads_no_table_of_sequences() {
    let database = Database::start(Flavor::MariaDb);
    let setup = Setup::on(&database, DECLARED);
    assert_eq!(setup.start().get("/new/orders").status, 200);
    sql(
        &database,
        "USE sequence; INSERT INTO seqsvr_sequence (name, next_id, step, server, epoch) \
         SELECT CONCAT('s', seq), 1, 100, server, epoch FROM seq_1_to_100000, seqsvr_sequence WHERE name = 'orders'",
    );
    let read = || -> u64 {
        sql(&database, "SHOW GLOBAL STATUS LIKE 'Handler_read%'").iter().map(|row| row[1].parse::<u64>().unwrap()).sum()
    };
    let before = read();
    let server = setup.start();
    assert_eq!(server.get("/new/s77777").id(), 1);
    let rows = read() - before;
    assert!(rows < 5_000, "{rows} of 100000 rows were read");
    assert_eq!(server.metric("seqsvr_ids_total{sequence=\"s77777\"}"), 1.0);
}

#[test]
fn default_begins_in_the_counter_layout_where_it_is_declared() {
    for flavor in BOTH {
        let database = Database::start(flavor);
        let setup = Setup::on(&database, COUNTER).patient();
        let server = setup.start();
        assert_eq!(server.next(), 11);
        load(&[server.port()], 8, 5_000).assert_clean(5_000);
        let tables = sql(&database, "SHOW TABLES FROM sequence LIKE 'generator%'");
        assert!(tables.is_empty(), "{tables:?}");
        // Another node finds it so, declared or not.
        assert!(Setup::seed(&database).start().next() > 5_000);
    }
}

#[test]
fn two_nodes_and_a_tail_that_goes_back() {
    for flavor in BOTH {
        let database = Database::start(flavor);
        let setups = [(); 2].map(|()| Setup::on(&database, COUNTER).patient());
        // Alone: nothing is lost.
        for expected in 11..16 {
            let mut server = setups[0].start();
            assert_eq!(server.next(), expected);
            assert!(server.stop().success());
            assert!(server.log().contains("lost_behind_others=0 lost_unanswered=0"), "{}", server.log());
        }
        // With another one that leases all the time: no id twice.
        let other = setups[1].start();
        let port = other.port();
        let stop = AtomicBool::new(false);
        let all = std::thread::scope(|scope| {
            let stopping = StopAtEnd(&stop);
            let beside = scope.spawn(|| {
                let mut all = Checker::default();
                while !stop.load(Ordering::Relaxed) {
                    all.merge(load(&[port], 2, 500));
                }
                all
            });
            let mut all = Checker::default();
            for round in 0..8 {
                let mut server = setups[0].start();
                all.merge(load(&[server.port()], 4, 200 + 13 * round));
                assert!(server.stop().success(), "{}", server.log());
                println!("{}", server.log().lines().last().unwrap_or_default());
            }
            drop(stopping);
            all.merge(beside.join().expect("the load's thread"));
            all
        });
        let verdict = all.verdict();
        assert_eq!((verdict.repeats, verdict.errors), (0, 0), "{verdict}");
        // A restart after a tail went back is no false alarm.
        assert!(setups[0].start().next() > 0);
    }
}

#[test]
fn whoever_stops_first_and_starts_first_nobody_is_alarmed() {
    let database = Database::start(Flavor::MariaDb);
    let setups = [(); 2].map(|()| Setup::on(&database, COUNTER).patient());
    let mut all = Checker::default();
    for round in 0..4 {
        let mut first = setups[0].start();
        all.add([first.next()]);
        // The second one gives a block back of which it handed out nothing ...
        assert!(setups[1].start().stop().success());
        // ... which the first one leases right behind its own, and gives parts of both back.
        all.merge(load(&[first.port()], 1, 6));
        eventually("it leases", || {
            (first.metric("seqsvr_ids_leased_total{sequence=\"default\"") >= 20.0).then_some(())
        });
        assert!(first.stop().success());
        let second = setups[1].start();
        assert_eq!(second.metric("seqsvr_leases_total{outcome=\"regressed\""), 0.0, "{round}: {}", second.log());
        all.add([second.next()]);
    }
    assert_eq!((all.verdict().repeats, all.verdict().errors), (0, 0));
}

#[test]
fn a_tail_does_not_go_back_to_a_sequence_that_was_made_again() {
    let setup = Setup::embedded();
    run(&setup, "sequence create orders --step 10");
    let mut server = setup.start();
    assert_eq!(server.get("/new/orders").id(), 1);
    run(&setup, "sequence delete orders --yes");
    run(&setup, "sequence create orders --step 10");
    // Before the node notices.
    assert!(server.stop().success());
    // What it held is a gap: [2, 11), and what it may have leased in the seconds since.
    let next = setup.start().get("/new/orders").id();
    assert!(next >= 11, "{next} was held when the sequence was deleted");
}

#[test]
fn one_that_is_locked_does_not_hold_up_the_others() {
    let database = Database::start(Flavor::MariaDb);
    let names = ["a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8", "b"];
    let declared: Vec<String> = names.iter().map(|name| format!("{name}: {{step: 5}}")).collect();
    let declared = format!("sequences: {{{}}}\nrefill: {{max_block: 50}}", declared.join(", "));
    let server = Setup::on(&database, &declared).patient().start();
    for name in names {
        assert_eq!(server.get(&format!("/new/{name}")).id(), 1);
    }
    std::thread::scope(|scope| {
        // More than there are leases side by side.
        let locked = scope.spawn(|| {
            // One by one: a range, or a scan, would lock b too.
            let lock = |name: &&str| format!("SELECT * FROM seqsvr_sequence WHERE name = '{name}' FOR UPDATE");
            let rows = names[..8].iter().map(lock).collect::<Vec<_>>().join("; ");
            sql(&database, &format!("USE sequence; START TRANSACTION; {rows}; SELECT SLEEP(15); COMMIT"));
        });
        std::thread::sleep(Duration::from_millis(500));
        let server = &server;
        let waiting: Vec<_> = names[..8]
            .iter()
            .map(|name| scope.spawn(move || load_of(&format!("/new/{name}"), &[server.port()], 1, 30)))
            .collect();
        // As long as they are locked: each round is several leases.
        let mut rounds = 0;
        while !locked.is_finished() {
            load_of("/new/b", &[server.port()], 4, 200).assert_clean(200);
            rounds += 1;
        }
        assert!(rounds > 3, "b was served {rounds} times while the others were locked");
        for waiting in waiting {
            assert_eq!(waiting.join().unwrap().verdict().repeats, 0);
        }
    });
    eventually("they go on", || {
        names.iter().all(|name| server.get(&format!("/new/{name}")).status == 200).then_some(())
    });
}

#[test]
fn a_database_that_was_read_only_is_found_writable_again() {
    let database = Database::start(Flavor::MariaDb);
    sql(&database, "CREATE USER 'ids'@'%'; GRANT ALL ON sequence.* TO 'ids'@'%'");
    // root may write to a read-only server.
    let setup = Setup::on(&database, COUNTER).env("SEQSVR_MYSQL__USER", "ids").env("SEQSVR_LIMITS__WAIT", "50ms");
    let server = setup.start();
    server.wait_until_ready();
    assert_eq!(server.next(), 11);
    sql(&database, "SET GLOBAL read_only = 1");
    let ids = load_until_refused(server.port());
    server.says_why("read-only");
    sql(&database, "SET GLOBAL read_only = 0");
    server.wait_until_ready();
    assert!(server.next() > *ids.ids().last().unwrap());
}
