//! What people do to sequences by the command line, while nodes run.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::{BOTH, COUNTER, StopAtEnd, refused, run};
use crate::seed::SEED_TABLE;
use crate::support::checker::Checker;
use crate::support::database::{Database, Flavor};
use crate::support::http::{Client, Response, load, load_of_until_gone, load_until_refused};
use crate::support::server::{Server, Setup, eventually};
use crate::support::sql;

/// Those that are made, changed and deleted all the time.
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

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
    eventually("it holds IDs", || (server.metric("seqsvr_ids_held{sequence=\"orders\"}") > 0.0).then_some(()));
    assert!(run(setup, "sequence advance orders --to 100000").contains("goes on from id 100000"));
    // Before a request uses it up.
    let dropped = || server.metric("seqsvr_ids_lost_total{reason=\"advanced\",sequence=\"orders\"}");
    eventually("it drops what it holds", || (dropped() > 0.0).then_some(()));
    followed("it is advanced", &|answer| answer.id() >= 100_000);
    assert!(run(setup, "sequence advance orders --to 7").contains("stays there"));

    // Altered: the largest id is leased, and then it is used up, until that is raised.
    let next: u64 =
        serde_json::from_str::<serde_json::Value>(&run(setup, "sequence show orders --json")).unwrap()["next_id"]
            .as_u64()
            .unwrap();
    run(setup, &format!("sequence alter orders --max-id {} --step 3", next + 4));
    followed("it is used up", &|answer| answer.status == 507);
    server.says_why("--max-id");
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
    // Nobody leases in between.
    let ids = load_until_refused(server.port());
    run(&setup, "migrate --counter --yes");
    server.wait_until_ready();
    assert!(server.next() > ids.ids().iter().copied().max().unwrap().max(last));
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
