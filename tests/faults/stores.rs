//! Stores that are others than they seem, and stores that forget.

use std::time::Duration;

use crate::rig::{Layout, Outcome, Run, start};
use crate::support::checker::Checker;
use crate::support::database::{Database, Flavor};
use crate::support::http::{load, load_until_gone};
use crate::support::server::{Server, Setup};
use crate::support::sql;

/// The database is another one than before: made anew behind the same name.
pub fn another_store(run: &Run) -> Outcome {
    let mut outcome = Outcome::default();
    for layout in crate::rig::LAYOUTS {
        let database = Database::start(Flavor::MariaDb);
        let setup = run.node_on(&database, layout);
        let mut server = start(&setup);
        let mut all = load(&[server.port()], 4, 5_000);
        assert_eq!(server.stop().code(), Some(0));
        sql(&database, "DROP DATABASE sequence; CREATE DATABASE sequence");
        outcome.rounds += 1;
        if run.is_guarded() {
            let (code, output) = setup.run(&[]);
            assert!(code == 78 && output.contains("seqsvr adopt"), "{output}");
        } else {
            all.merge(load(&[start(&setup).port()], 4, 5_000));
        }
        outcome.take_in(all);
    }
    outcome
}

/// Where the configured server says that its socket is, another server listens.
pub fn the_socket_of_another_server(run: &Run) -> Outcome {
    let (configured, other) = (Database::start(Flavor::MariaDb), Database::start(Flavor::MariaDb));
    let aside = configured.socket().with_file_name("aside");
    std::fs::rename(configured.socket(), &aside).expect("the socket has a name");
    std::os::unix::fs::symlink(other.socket(), configured.socket()).expect("a free name");
    // One comes by TCP and could be moved; one comes by the socket that is really the configured server's.
    let moved = run.node_on(&configured, Layout::Counter);
    let stays =
        run.node_on(&configured, Layout::Counter).env("SEQSVR_MYSQL__HOST", &format!("unix({})", aside.display()));
    let servers = [start(&moved), start(&stays)];
    let mut outcome = Outcome { rounds: 1, ..Outcome::default() };
    outcome.take_in(load(&servers.each_ref().map(Server::port), 8, 20_000));
    outcome
}

/// kill -9 of processes that share a file, again and again.
pub fn killed_on_the_embedded_store(run: &Run) -> Outcome {
    let mut outcome = Outcome::default();
    let one = run.setup(Setup::embedded().env("SEQSVR_STEP", "10").env("SEQSVR_REFILL__MAX_BLOCK", "100").patient());
    let file = one.folder().join("data").display().to_string();
    let two = run
        .setup(Setup::embedded().env("SEQSVR_STEP", "10").env("SEQSVR_REFILL__MAX_BLOCK", "100").patient())
        .env("SEQSVR_DATA_DIR", &file);
    let mut all = Checker::default();
    for round in 0..run.rounds(40, 6) {
        outcome.rounds += 1;
        let mut nodes = [one.start(), two.start()];
        let ports = nodes.each_ref().map(Server::port);
        all.merge(std::thread::scope(|scope| {
            let load = scope.spawn(|| load_until_gone(&ports, 8));
            std::thread::sleep(Duration::from_millis(20 + 17 * (round % 20)));
            nodes.iter_mut().for_each(Server::kill);
            load.join().expect("the load's thread")
        }));
    }
    outcome.take_in(all);
    outcome
}
