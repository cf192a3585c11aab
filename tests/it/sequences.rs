//! Named sequences: the counter layout on both makes of database and on the embedded store, and what people do to them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::seed::SEED_TABLE;
use crate::support::checker::Checker;
use crate::support::database::{Database, Flavor};
use crate::support::http::{Client, Response, get, load, load_of, load_of_until_gone};
use crate::support::server::{Server, Setup, eventually};
use crate::support::{sql, sql_value};

const DECLARED: &str = "sequences: {orders: {step: 10, description: \"it's ours\"}, users: }";

/// Those that are made, changed and deleted all the time.
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

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

/// Everything that the command line does, and a running node that follows.
fn managed_by_the_command_line(setup: Setup) {
    // What is held is bounded, so that the requests below use it up.
    let setup = &setup.env("SEQSVR_REFILL__MAX_BLOCK", "50");
    let server = setup.start();
    let followed = |what: &str, is_so: &dyn Fn(&Response) -> bool| {
        let since = Instant::now();
        eventually(what, || is_so(&server.get("/new/orders")).then_some(()));
        // At most 5 s, says the README; sequences/tests.rs holds that, for here it depends on the machine.
        println!("{what} after {:.1} s", since.elapsed().as_secs_f64());
    };
    assert_eq!(server.get("/new/orders").status, 404);
    assert!(run(setup, "sequence create orders --step 10 --first-id 500").contains("from id 500"));
    followed("it is made", &|answer| answer.status == 200 && answer.id() >= 500);

    let told = refused(setup, "sequence create orders");
    assert!(told.contains("there is a sequence orders already"), "{told}");
    for (arguments, wanted) in [
        ("sequence show nothing", "there is no sequence nothing"),
        ("sequence alter nothing --step 5", "there is no sequence nothing"),
        ("sequence advance nothing --to 5", "there is no sequence nothing"),
        ("sequence delete nothing --yes", "there is no sequence nothing"),
        ("sequence delete orders", "add --yes"),
        ("sequence alter orders --max-id 400", "leased up to"),
        ("sequence advance orders --to 9007199254740992", "can't be 9007199254740992"),
    ] {
        let told = refused(setup, arguments);
        assert!(told.contains(wanted), "{arguments}: {told}");
    }
    for arguments in [
        "sequence create a/b",
        "sequence create a --step 0",
        "sequence alter orders",
        "sequence advance orders --to 0",
        "sequence alter orders --max-id 9223372036854775807",
    ] {
        assert_eq!(setup.run(&arguments.split(' ').collect::<Vec<_>>()).0, 78, "{arguments}");
    }

    // Advanced: what is held from before is dropped.
    assert!(run(setup, "sequence advance orders --to 100000").contains("goes on from id 100000"));
    followed("it is advanced", &|answer| answer.id() >= 100_000);
    assert!(run(setup, "sequence advance orders --to 7").contains("stays there"));
    assert!(server.metric("seqsvr_ids_lost_total{reason=\"advanced\",sequence=\"orders\"}") > 0.0);

    // Altered: the largest id is leased, and then it is used up, until that is raised.
    let next: u64 =
        serde_json::from_str::<serde_json::Value>(&run(setup, "sequence show orders --json")).unwrap()["next_id"]
            .as_u64()
            .unwrap();
    run(setup, &format!("sequence alter orders --max-id {} --step 3", next + 4));
    followed("it is used up", &|answer| answer.status == 507 && answer.body.contains("--max-id"));
    assert_eq!(server.get("/readyz").status, 200, "a named sequence is no reason");
    run(setup, "sequence alter orders --max-id 9000000000000000000");
    followed("it goes on", &|answer| answer.status == 200 && answer.id() > next + 4);

    // Deleted, and made again: it goes on from where it was.
    let last = server.get("/new/orders").id();
    run(setup, "sequence delete orders --yes");
    followed("it is deleted", &|answer| answer.status == 404);
    assert!(!run(setup, "sequence list").contains("orders"));
    assert!(run(setup, "sequence list --all").contains("(deleted)"));
    run(setup, "sequence create orders --step 5");
    followed("it is made again", &|answer| answer.status == 200 && answer.id() > last);

    let listed = run(setup, "sequence list");
    let names: Vec<&str> = listed.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(names, ["NAME", "default", "orders"], "{listed}");
    assert!(refused(setup, "sequence delete default --yes").contains("default"));
    assert_eq!(server.get("/new").status, 200);
}

#[test]
fn managed_on_the_embedded_store() {
    managed_by_the_command_line(Setup::embedded());
}

#[test]
fn managed_on_mariadb() {
    managed_by_the_command_line(Setup::seed(&Database::start(Flavor::MariaDb)));
}

#[test]
fn managed_on_mysql_9() {
    managed_by_the_command_line(Setup::on(&Database::start(Flavor::MySql9), COUNTER));
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
        "USE sequence; INSERT INTO seqsvr_sequence (name, next_id, step, server) \
         SELECT CONCAT('s', seq), 1, 100, server FROM seq_1_to_100000, seqsvr_sequence WHERE name = 'orders'",
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
fn default_moves_to_the_counter_layout_under_load() {
    for flavor in BOTH {
        let database = Database::start(flavor);
        sql(&database, &format!("USE sequence; {SEED_TABLE}"));
        // Small blocks, so that many leases are under way.
        let setup = || Setup::seed(&database).patient().env("SEQSVR_STEP", "2").env("SEQSVR_REFILL__MAX_BLOCK", "200");
        let setups = [setup(), setup()];
        let nodes = setups.each_ref().map(Setup::start);
        let ports = nodes.each_ref().map(Server::port);
        let undeclared = Setup::on(&database, COUNTER).env("SEQSVR_STEP", "2");
        let (code, output) = undeclared.run(&[]);
        assert!(code == 78 && output.contains("seqsvr migrate --counter"), "{output}");

        // The nodes go in, so that a panic ends them, and with them the load.
        let (setups, undeclared) = (&setups, &undeclared);
        let all = std::thread::scope(move |scope| {
            let mut nodes = nodes;
            let load = scope.spawn(move || load_of_until_gone("/new", &ports, 8));
            std::thread::sleep(Duration::from_millis(500));
            assert!(refused(&setups[0], "migrate --counter").contains("--yes"));
            let told = run(undeclared, "migrate --counter --yes");
            assert!(told.contains("goes on from id") && told.contains("generator_table_moved"), "{told}");
            let moved: u64 =
                told.split("from id ").nth(1).and_then(|rest| rest.split(';').next()).unwrap().parse().unwrap();
            for node in &nodes {
                eventually("it follows", || (node.next() >= moved).then_some(()));
            }
            std::thread::sleep(Duration::from_millis(500));
            nodes.iter_mut().for_each(Server::kill);
            load.join().expect("the load's thread")
        });
        let verdict = all.verdict();
        println!("{flavor:?}: {verdict}");
        assert_eq!((verdict.repeats, verdict.errors, &verdict.first_error), (0, 0, &None));
        assert!(verdict.ids > 1_000, "{verdict}");
        assert!(refused(&setups[0], "migrate --counter --yes").contains("already"));
        // Ended before its last step, it is run again.
        sql(&database, "RENAME TABLE sequence.generator_table_moved TO sequence.generator_table");
        assert!(run(&setups[0], "migrate --counter --yes").contains("generator_table_moved"));
        // The table that a Go server would lease from is not there.
        assert!(sql(&database, "SHOW TABLES FROM sequence LIKE 'generator_table'").is_empty());
        let mut more = all;
        more.merge(load(&[setups[0].start().port(), undeclared.start().port()], 8, 2_000));
        assert_eq!((more.verdict().repeats, more.verdict().errors), (0, 0));
    }
}

#[test]
fn a_move_that_was_interrupted_is_run_again() {
    let database = Database::start(Flavor::MariaDb);
    let setup = Setup::seed(&database);
    let server = setup.start();
    let last = server.next();
    sql(&database, "UPDATE sequence.seqsvr_meta SET state = 'migrating'");
    let ids = load(&[server.port()], 1, 150);
    assert!(ids.verdict().errors > 0, "nobody leases in between");
    run(&setup, "migrate --counter --yes");
    server.wait_until_ready();
    assert!(server.next() > ids.ids().iter().copied().max().unwrap().max(last));
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
fn a_restored_row_of_an_earlier_incarnation_is_refused_by_all() {
    let database = Database::start(Flavor::MariaDb);
    let setups = [(); 2].map(|()| Setup::on(&database, COUNTER));
    let server = setups[0].start();
    assert_eq!(server.next(), 11);
    run(&setups[0], "sequence advance default --to 5000");
    eventually("it follows", || (server.next() >= 5_000).then_some(()));
    sql(&database, "UPDATE sequence.seqsvr_sequence SET next_id = 21, incarnation = 1");
    let ids = load(&[server.port()], 1, 40);
    assert!(ids.verdict().errors > 0);
    let refusal = setups[1].start().get("/new");
    assert!(refusal.status == 503 && refusal.body.contains("went back"), "one that remembers nothing: {refusal:?}");
}

#[test]
fn a_rewind_is_found_where_the_tail_did_not_go_back() {
    let database = Database::start(Flavor::MariaDb);
    let setups = [(); 2].map(|()| Setup::on(&database, COUNTER));
    let mut first = setups[0].start();
    assert_eq!(first.next(), 11);
    let second = setups[1].start();
    assert_eq!(second.next(), 21);
    assert!(first.stop().success());
    assert!(first.log().contains("given_back=0"), "somebody leased behind it: {}", first.log());
    drop(second);
    sql(&database, "UPDATE sequence.seqsvr_sequence SET next_id = 15");
    let refusal = setups[0].start().get("/new");
    assert!(refusal.status == 503 && refusal.body.contains("went back"), "{refusal:?}");
}

#[test]
fn another_database_behind_the_same_name_gets_no_lease() {
    let (database, other) = (Database::start(Flavor::MariaDb), Database::start(Flavor::MariaDb));
    assert_eq!(Setup::on(&other, COUNTER).start().next(), 11);
    let server = Setup::on(&database, COUNTER).start();
    assert_eq!(server.next(), 11);
    // As if the name of the server led elsewhere now, while nothing failed: the same server by its identity, another store.
    let theirs = sql_value(&other, "SELECT store_id FROM sequence.seqsvr_meta");
    let ours = sql_value(&database, "SELECT store_id FROM sequence.seqsvr_meta");
    sql(&database, &format!("UPDATE sequence.seqsvr_sequence SET server = REPLACE(server, '{ours}', '{theirs}')"));
    assert!(row(&database, "server", "default").ends_with(&theirs), "the store is a part of it");
    let ids = load(&[server.port()], 1, 40);
    assert!(ids.verdict().errors > 0, "{}", ids.verdict());
}

#[test]
fn a_lost_table_is_not_made_anew() {
    for (lost, wanted) in
        [("seqsvr_sequence", "seqsvr_sequence is gone"), ("seqsvr_meta", "seqsvr_meta, or its row, is gone")]
    {
        let database = Database::start(Flavor::MariaDb);
        assert_eq!(Setup::on(&database, COUNTER).start().next(), 11);
        sql(&database, &format!("DROP TABLE sequence.{lost}"));
        // One that remembers nothing.
        let (code, output) = Setup::on(&database, COUNTER).run(&[]);
        assert!(code == 78 && output.contains(wanted), "{lost}: {code}, {output}");
    }
    let database = Database::start(Flavor::MariaDb);
    let setup = Setup::on(&database, DECLARED);
    assert_eq!(setup.start().get("/new/orders").id(), 1);
    sql(&database, "DROP TABLE sequence.seqsvr_sequence");
    let server = Setup::on(&database, DECLARED).start();
    let refusal = server.get("/new/orders");
    assert!(refusal.status == 503 && refusal.body.contains("seqsvr_sequence is gone"), "{refusal:?}");
    assert_eq!(server.get("/new").status, 200, "default is elsewhere");
}

#[test]
fn looking_makes_nothing() {
    let setup = Setup::embedded();
    let (code, output) = setup.run(&["sequence", "list"]);
    assert!(code == 78 && output.contains("there is no data/seqsvr.db yet"), "{output}");
    assert!(!setup.folder().join("data").exists());
    let database = Database::start(Flavor::MySql9);
    let (code, output) = Setup::seed(&database).run(&["sequence", "list"]);
    assert!(code == 78 && output.contains("no seqsvr has used this database yet"), "{output}");
    assert!(sql(&database, "SHOW TABLES FROM sequence").is_empty());
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
fn a_counter_that_went_back_is_refused_by_all() {
    for flavor in BOTH {
        let database = Database::start(flavor);
        let setups = [(); 2].map(|()| Setup::on(&database, COUNTER).patient().env("SEQSVR_REFILL__MAX_BLOCK", "2000"));
        let busy = setups[0].start();
        let mut all = load(&[busy.port()], 4, 5_000);
        sql(&database, "UPDATE sequence.seqsvr_sequence SET next_id = 50");
        let ready = eventually("it finds out", || {
            all.merge(load(&[busy.port()], 4, 100));
            let ready = busy.get("/readyz");
            ready.body.contains("went back").then_some(ready)
        });
        assert!(busy.metric("seqsvr_leases_total{outcome=\"regressed\"") > 0.0);
        // One that remembers nothing.
        let new = setups[1].start();
        let refusal = new.get("/new");
        assert!(refusal.status == 503 && refusal.body.contains("went back"), "{refusal:?}");
        crate::mysql::fence(&setups[0], &ready.body, crate::mysql::highest_leased(&ready.body));
        new.wait_until_ready();
        eventually("the busy one goes on too", || {
            all.merge(load(&[busy.port()], 4, 100));
            (!busy.get("/readyz").body.contains("leasing fails")).then_some(())
        });
        all.merge(load(&[busy.port(), new.port()], 4, 2_000));
        assert_eq!(all.verdict().repeats, 0, "{:?}", all.verdict());
    }
}

#[test]
fn a_counter_of_another_server_is_refused() {
    let database = Database::start(Flavor::MySql9);
    let setup = Setup::on(&database, COUNTER);
    let server = setup.start();
    assert_eq!(server.next(), 11);
    sql(&database, "UPDATE sequence.seqsvr_sequence SET server = 'the old primary'");
    let rest = load(&[server.port()], 1, 40);
    assert_eq!((rest.verdict().repeats, rest.verdict().errors > 0), (0, true));
    let refusal = server.get("/new");
    assert!(refusal.body.contains("the old primary") && refusal.body.contains("seqsvr fence default"), "{refusal:?}");
    crate::mysql::fence(&setup, &refusal.body, 999);
    server.wait_until_ready();
    assert_eq!(server.next(), 1_000);
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
    assert_eq!(server.next(), 11);
    sql(&database, "SET GLOBAL read_only = 1");
    let ids = load(&[server.port()], 1, 60);
    assert!(ids.verdict().errors > 0);
    assert!(server.get("/new").body.contains("read-only"), "{:?}", server.get("/new"));
    sql(&database, "SET GLOBAL read_only = 0");
    server.wait_until_ready();
    assert!(server.next() > *ids.ids().last().unwrap());
}

#[test]
fn an_account_that_may_not_create_is_told_what_to_run() {
    let database = Database::start(Flavor::MySql9);
    assert_eq!(Setup::seed(&database).start().next(), 101);
    sql(&database, "CREATE USER 'ids'@'%'; GRANT SELECT, INSERT, UPDATE, DELETE ON sequence.* TO 'ids'@'%'");
    let setup = Setup::seed(&database).env("SEQSVR_MYSQL__USER", "ids");
    let (code, output) = setup.run(&["sequence", "create", "orders"]);
    assert!(code == 78 && output.contains("CREATE TABLE IF NOT EXISTS seqsvr_sequence"), "{output}");
    let server = setup.start();
    assert_eq!(server.get("/new/orders").status, 404, "no table, no sequence");
    // What an administrator runs as it is printed is enough, for the counter layout of a new database too.
    sql(&database, "DROP DATABASE sequence; CREATE DATABASE sequence");
    let setup = Setup::on(&database, COUNTER).env("SEQSVR_MYSQL__USER", "ids");
    let (code, output) = setup.run(&[]);
    let (_, ddl) = output.rsplit_once("run:\n").unwrap_or_else(|| panic!("{output}"));
    assert_eq!(code, 78);
    sql(&database, &format!("USE sequence; {ddl}"));
    assert_eq!(setup.start().next(), 11);
    assert_eq!(setup.start().get("/new").status, 200);
}

#[test]
fn two_nodes_and_the_command_line_at_once() {
    for flavor in BOTH {
        let database = Database::start(flavor);
        let setups = [(); 2].map(|()| Setup::on(&database, COUNTER).patient());
        let nodes = setups.each_ref().map(Setup::start);
        let ports = nodes.each_ref().map(Server::port);
        let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
        let by_name = std::thread::scope(|scope| {
            let stopping = StopAtEnd(&stop);
            for offset in 0..3 {
                let (setup, stop, done) = (&setups[offset % 2], &stop, &done);
                scope.spawn(move || {
                    for n in 0.. {
                        let name = NAMES[(n + offset) % NAMES.len()];
                        let size = 1 + (n * 7 + offset) % 50;
                        let arguments = match (n + 2 * offset) % 4 {
                            0 | 1 => format!("sequence create {name} --step {size}"),
                            2 => format!("sequence alter {name} --step {size}"),
                            _ => format!("sequence delete {name} --yes"),
                        };
                        let (code, told) = setup.run(&arguments.split(' ').collect::<Vec<_>>());
                        let is_conflict = told.contains("already") || told.contains("there is no sequence");
                        assert!(code == 0 || (code == 1 && is_conflict), "{arguments}: {code}, {told}");
                        done.fetch_add(1, Ordering::Relaxed);
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                    }
                });
            }
            let loads: Vec<_> = NAMES
                .iter()
                .map(|name| {
                    let stop = &stop;
                    scope.spawn(move || {
                        let mut clients = ports.map(Client::connect);
                        let mut all = Checker::default();
                        while !stop.load(Ordering::Relaxed) {
                            for client in &mut clients {
                                let answer = client.get(&format!("/new/{name}"));
                                match answer.status {
                                    200 => all.add([answer.id()]),
                                    404 => std::thread::sleep(Duration::from_millis(1)),
                                    _ => all.error(format!("{answer:?}")),
                                }
                            }
                        }
                        all
                    })
                })
                .collect();
            eventually("enough was changed", || (done.load(Ordering::Relaxed) > 60).then_some(()));
            drop(stopping);
            loads.into_iter().map(|load| load.join().expect("a load's thread")).collect::<Vec<_>>()
        });
        for all in by_name {
            let verdict = all.verdict();
            println!("{flavor:?}: {verdict}");
            assert_eq!((verdict.repeats, verdict.errors, &verdict.first_error), (0, 0, &None));
        }
    }
}
