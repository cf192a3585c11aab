//! kill -9 under load: what was leased and not handed out is a gap, and nothing comes twice.

use std::time::Duration;

use crate::support::checker::Checker;
use crate::support::database::{Database, Flavor};
use crate::support::http::load_until_gone;
use crate::support::server::{Server, Setup, eventually};

const ROUNDS: u64 = 12;

/// Two nodes; one of them is killed under load, again and again, at moments that differ.
fn kill_again_and_again(setups: &[Setup; 2]) {
    let mut all = Checker::default();
    for round in 0..ROUNDS {
        let mut nodes = setups.each_ref().map(Setup::start);
        let ports = nodes.each_ref().map(Server::port);
        let ids = std::thread::scope(|scope| {
            let load = scope.spawn(move || load_until_gone(&ports, 16));
            // From amid the first leases to well into the running, which on a slow machine comes later.
            std::thread::sleep(Duration::from_millis(5 + 37 * round));
            if round >= ROUNDS / 2 {
                for node in &nodes {
                    let issued = || node.metric("seqsvr_ids_total{sequence=\"default\"");
                    eventually("it issues IDs", || (issued() > 1_000.0).then_some(()));
                }
            }
            nodes.iter_mut().for_each(Server::kill);
            load.join().expect("the load's thread")
        });
        all.merge(ids);
    }
    let verdict = all.verdict();
    println!("{ROUNDS} rounds: {verdict}");
    assert_eq!((verdict.repeats, verdict.first_repeat), (0, None));
    assert!(verdict.ids > 10_000, "{verdict}");
}

#[test]
fn on_the_embedded_store() {
    // Both on one file.
    let one = Setup::embedded().env("SEQSVR_STEP", "10");
    let file = one.folder().join("data").display().to_string();
    let two = Setup::embedded().env("SEQSVR_STEP", "10").env("SEQSVR_DATA_DIR", &file);
    kill_again_and_again(&[one, two]);
}

#[test]
fn on_mariadb_and_mysql_9() {
    for flavor in [Flavor::MariaDb, Flavor::MySql9] {
        let database = Database::start(flavor);
        let setup = || Setup::seed(&database).env("SEQSVR_STEP", "10");
        kill_again_and_again(&[setup(), setup()]);
    }
}

#[test]
fn of_the_database() {
    for flavor in [Flavor::MariaDb, Flavor::MySql9] {
        let mut database = Database::start(flavor);
        // However slow the machine is, this much is held soon.
        let setup = Setup::seed(&database).patient().env("SEQSVR_REFILL__RUNWAY", "10m");
        let mut server = setup.start();
        let port = server.port();
        let all = std::thread::scope(|scope| {
            let load = scope.spawn(move || load_until_gone(&[port], 8));
            for _ in 0..4 {
                // More than the load can take while the database is away.
                eventually("the runway is there", || (server.metric("seqsvr_ids_held") > 300_000.0).then_some(()));
                database.kill();
                std::thread::sleep(Duration::from_millis(200));
                database.restart();
            }
            std::thread::sleep(Duration::from_secs(3));
            assert!(server.metric("seqsvr_leases_total{outcome=\"ok\"") > 1.0, "it leases again");
            server.kill();
            load.join().expect("the load's thread")
        });
        let verdict = all.verdict();
        println!("{flavor:?}: {verdict}");
        assert_eq!(verdict.repeats, 0);
        assert_eq!(verdict.errors, 0, "it had ids in memory all the time: {:?}", verdict.first_error);
    }
}
