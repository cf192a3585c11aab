//! Stores that are others than they seem, and stores that forget.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::rig::{Layout, Outcome, Run, command, start};
use crate::support::checker::Checker;
use crate::support::database::{Database, Flavor};
use crate::support::http::{load, load_of, load_until_gone};
use crate::support::server::{Server, Setup, eventually};
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

/// How an embedded store's folder comes to another place, or loses a part.
#[derive(Clone, Copy, Debug)]
enum Copying {
    /// `cp -a`, beside the running server.
    Cp,
    /// `rsync -a`, beside the running server.
    Rsync,
    /// A consistent backup of the file alone, put in place of the original.
    Restore,
    /// The file alone, beside the running server.
    FileAlone,
    /// The `-wal` is deleted after a crash; the file is the same one.
    NoWal,
}

impl Copying {
    const ALL: [Self; 5] = [Self::Cp, Self::Rsync, Self::Restore, Self::FileAlone, Self::NoWal];

    /// Makes the copy, while the original is in use.
    fn copy(self, from: &Path, to: &Path) {
        let run = |program: &str, arguments: &[&Path]| {
            let status = Command::new(program).args(["-a"]).args(arguments).status();
            assert!(status.expect("it runs").success(), "{program}");
        };
        match self {
            Self::Cp => run("cp", &[from, to]),
            Self::Rsync => run("rsync", &[&from.join(""), to]),
            Self::Restore => {
                let connection = rusqlite::Connection::open(from.join("seqsvr.db")).expect("the file");
                std::fs::create_dir(to).expect("a free name");
                let backup = to.join("seqsvr.db").display().to_string();
                connection.execute("VACUUM INTO ?1", [backup]).expect("a backup");
            }
            Self::FileAlone => {
                std::fs::create_dir(to).expect("a free name");
                run("cp", &[&from.join("seqsvr.db"), to]);
            }
            Self::NoWal => {}
        }
    }

    /// Does to the original, which is over, what is left to do; where the copy is.
    fn finish<'a>(self, from: &'a Path, to: &'a Path) -> &'a Path {
        let copy = match self {
            Self::Restore => {
                std::fs::remove_dir_all(from).expect("a folder");
                std::fs::rename(to, from).expect("it is gone");
                from
            }
            Self::NoWal => {
                std::fs::remove_file(from.join("seqsvr.db-wal")).expect("it is there after kill -9");
                from
            }
            _ => to,
        };
        // What the node remembers is another guard.
        let _ = std::fs::remove_file(copy.join("node.json"));
        copy
    }
}

/// The embedded store is copied, restored or loses its `-wal`, after which the original issued more.
pub fn copied_embedded_store(run: &Run) -> Outcome {
    let mut outcome = Outcome::default();
    for copying in Copying::ALL {
        let setup = run
            .setup(Setup::new("store: embedded\nsequences: {orders: {step: 10}}\n"))
            .env("SEQSVR_REFILL__MAX_BLOCK", "300")
            .patient();
        let (from, to) = (setup.folder().join("data"), setup.folder().join("copy"));
        let mut all = [Checker::default(), Checker::default()];
        let mut use_up = |server: &Server| {
            for (all, path) in all.iter_mut().zip(["/new", "/new/orders"]) {
                all.merge(load_of(path, &[server.port()], 4, 1_000));
            }
        };
        let mut original = start(&setup);
        use_up(&original);
        copying.copy(&from, &to);
        use_up(&original);
        original.kill();
        let data = copying.finish(&from, &to);
        let setup = setup.env("SEQSVR_DATA_DIR", &data.display().to_string());
        for round in 0..run.rounds(3, 1) {
            outcome.rounds += 1;
            let server = setup.start();
            if run.is_guarded() && round == 0 {
                let what = format!("{copying:?}: it refuses");
                eventually(&what, || server.get("/readyz").body.contains("fence --skip").then_some(()));
                command(&setup, "fence --skip 100000000 --yes");
            }
            for path in ["/new", "/new/orders"] {
                eventually("it goes on", || (server.get(path).status == 200).then_some(()));
            }
            use_up(&server);
        }
        println!("{copying:?}: {}, {}", all[0].verdict(), all[1].verdict());
        for all in all {
            outcome.take_in(all);
        }
    }
    outcome
}
