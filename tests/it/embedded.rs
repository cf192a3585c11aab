//! The embedded store, through the built binary.

use std::collections::HashMap;
use std::fs;
use std::process::Command;

use crate::support::checker::Checker;
use crate::support::fuse::Fuse;
use crate::support::http::{Client, Response, load};
use crate::support::server::{Server, Setup, eventually};

#[test]
fn the_first_answer_is_the_seeds_and_ids_rise_across_kill_9() {
    let setup = Setup::embedded();
    let mut server = setup.start();
    let first = server.get("/new");
    assert_eq!(first.body, r#"{"code":0,"msg":"ok","data":{"id":101}}"#);
    assert!(server.log().contains("made a new embedded store"), "{}", server.log());
    let mut last = first.id();
    for _ in 0..3 {
        server.kill();
        server = setup.start();
        let id = server.next();
        assert!(id > last, "{id} after {last}");
        last = id;
        assert!(!server.log().contains("made a new embedded store"));
    }
}

#[test]
fn the_shipped_configuration_serves_from_the_embedded_store() {
    let setup = Setup::new(include_str!("../../config.yml"));
    let server = setup.start();
    assert_eq!(server.next(), 101);
    assert!(setup.folder().join("data/seqsvr.db").exists());
}

#[test]
fn two_processes_on_one_file_never_overlap() {
    let setup = Setup::embedded().env("SEQSVR_STEP", "2").env("SEQSVR_REFILL__MAX_BLOCK", "50");
    // So small blocks make them fight for the file, and SQLite is not fair to who waits.
    let setup = setup.patient();
    let (one, two) = (setup.start(), setup.start());
    assert!(two.log().contains("held by another process"), "{}", two.log());
    // Each has clients of its own: whoever comes off badly has the file for itself once the other's are done.
    let verdict = std::thread::scope(|scope| {
        let other = scope.spawn(|| load(&[two.port()], 8, 10_000));
        let mut all = load(&[one.port()], 8, 10_000);
        all.merge(other.join().expect("the load's thread"));
        all.verdict()
    });
    // On a disk that others keep busy, one that waits for the file may wait for too long: that is an answer too.
    assert_eq!((verdict.repeats, verdict.first_repeat), (0, None), "{verdict:?}");
    assert!(verdict.ids > 10_000, "{verdict:?}");
    for server in [&one, &two] {
        assert!(server.metric("seqsvr_ids_total") > 1_000.0, "both took part");
        assert!(server.metric("seqsvr_leases_total{outcome=\"ok\"") > 50.0, "in many leases");
    }
}

#[test]
fn adopting_the_same_store_forgets_no_mark() {
    let setup = Setup::embedded();
    assert_eq!(setup.start().next(), 101);
    std::thread::sleep(std::time::Duration::from_millis(10));
    let file = setup.folder().join("data/seqsvr.db");
    let rewind = || {
        let connection = rusqlite::Connection::open(&file).unwrap();
        // The server was killed: the -wal must stay.
        connection.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
        connection.execute("UPDATE seqsvr_sequence SET next_id = 101", []).unwrap();
    };
    rewind();
    let server = setup.start();
    assert_eq!(server.get("/new").status, 503);
    server.says_why("went back");
    drop(server);
    let (code, output) = setup.run(&["adopt"]);
    assert_eq!(code, 0, "{output}");
    assert_eq!(setup.start().get("/new").status, 503, "it is the same store, and its ids were handed out");
}

/// What strace saw of the database's log, in its order, up to the first answer with an id.
#[derive(Debug, PartialEq)]
enum Seen {
    Written,
    Synced,
    Answered,
}

fn seen_by_strace(trace: &str) -> Vec<Seen> {
    let mut begun = HashMap::new();
    let mut seen = Vec::new();
    for line in trace.lines() {
        let Some((thread, call)) = line.split_once(char::is_whitespace) else { continue };
        let call = call.trim_start();
        let is_log = call.contains("seqsvr.db-wal");
        if call.contains(r#"\"id\":"#) {
            seen.push(Seen::Answered);
            break;
        } else if is_log && call.starts_with("pwrite64(") {
            seen.push(Seen::Written);
        } else if is_log && call.starts_with("fdatasync(") || call.starts_with("fsync(") {
            if call.ends_with("<unfinished ...>") {
                begun.insert(thread, is_log);
            } else if is_log && call.ends_with(" = 0") {
                seen.push(Seen::Synced);
            }
        } else if call.contains("sync resumed>") && begun.remove(thread) == Some(true) && call.ends_with(" = 0") {
            seen.push(Seen::Synced);
        }
    }
    seen
}

#[test]
fn a_block_is_on_the_disk_before_its_first_id_is_answered() {
    // As a grandchild, so that the server has the process id that is ended.
    let strace = ["strace", "-D", "-f", "-y", "-s", "300", "-o", "trace"];
    let calls = ["-e", "trace=pwrite64,fsync,fdatasync,write,writev,sendto,sendmsg"];
    let setup = Setup::embedded().by(&[&strace[..], &calls].concat());
    let mut server = setup.start();
    assert_eq!(server.next(), 101);
    server.kill();
    let trace = fs::read_to_string(setup.folder().join("trace")).expect("strace has run");
    let seen = seen_by_strace(&trace);
    assert_eq!(seen.last(), Some(&Seen::Answered), "{trace}");
    let before = &seen[..seen.len() - 1];
    assert!(before.contains(&Seen::Written), "the lease is written to the log: {trace}");
    assert_eq!(before.last(), Some(&Seen::Synced), "nothing is written after the last sync: {trace}");
}

/// Lets files of the process grow to so many bytes.
fn limit_files(server: &Server, most: &str) {
    let limit = format!("--fsize={most}:unlimited");
    let status = Command::new("prlimit").args(["--pid", &server.pid().to_string(), &limit]).status();
    assert!(status.expect("prlimit runs").success());
}

/// Leases all the time, and does not let requests wait for long when that fails.
fn small_blocks() -> Setup {
    Setup::embedded().env("SEQSVR_REFILL__MAX_BLOCK", "100").env("SEQSVR_LIMITS__WAIT", "5s")
}

/// The first answer that is an error for another reason than a lease that takes long, which it may.
fn refusal(client: &mut Client, all: &mut Checker) -> Response {
    loop {
        let answer = client.get("/new");
        all.add(client.last_ids());
        if answer.status != 200 && !answer.body.contains("faster than they can be leased") {
            return answer;
        }
        assert!(all.ids().len() < 20_000, "no ID of a block that was not committed");
    }
}

#[test]
fn a_disk_that_is_full_for_a_while() {
    // A write past the limit is an error then, like one to a full disk, and not a signal that ends the process.
    let setup = small_blocks().by(&["env", "--ignore-signal=XFSZ"]);
    let server = setup.start();
    let mut client = Client::connect(server.port());
    let mut all = Checker::default();
    for _ in 0..3 {
        limit_files(&server, "1");
        let refused = refusal(&mut client, &mut all);
        assert_eq!(refused.status, 503, "{refused:?}");
        let ready = server.get("/readyz").body;
        assert!(ready.contains("data/seqsvr.db") && ready.contains("I/O error"), "{ready}");
        limit_files(&server, "unlimited");
        eventually("it goes on", || {
            let answer = client.get("/new");
            all.add(client.last_ids());
            (answer.status == 200).then_some(())
        });
        all.merge(load(&[server.port()], 2, 300));
    }
    let ids = all.ids().len();
    all.assert_clean(ids);
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

#[test]
fn a_full_disk_is_called_so() {
    // Each write to the database's log fails as it does on a full disk, from some on.
    let setup = small_blocks();
    let log = setup.folder().join("data/seqsvr.db-wal").display().to_string();
    let strace = ["strace", "-D", "-f", "-o", "trace", "-P", &log, "-e", "trace=pwrite64"];
    let fault = ["-e", "inject=pwrite64:error=ENOSPC:when=60+"];
    let setup = setup.by(&[&strace[..], &fault].concat());
    let mut server = setup.start();
    let mut client = Client::connect(server.port());
    let mut all = Checker::default();
    let refused = refusal(&mut client, &mut all);
    assert_eq!(refused.status, 503, "{refused:?}");
    server.says_why("full");
    assert_eq!(server.get("/livez").status, 200);
    assert!(!server.log().contains("panicked"), "{}", server.log());
    server.kill();
    // With room again.
    let setup = setup.by(&[]);
    all.merge(load(&[setup.start().port()], 2, 300));
    let ids = all.ids().len();
    all.assert_clean(ids);
}

/// What an operator may do to a file without making it another one.
#[test]
fn a_file_stays_itself() {
    let setup = Setup::embedded();
    let (data, moved) = (setup.folder().join("data"), setup.folder().join("moved"));
    let mut last = setup.start().next();
    let mut goes_on = |what: &str, how: &dyn Fn()| {
        how();
        let mut server = setup.start();
        let id = server.next();
        assert!(id > last, "{what}: {id} after {last}");
        assert!(!server.log().contains("fence"), "{what}: {}", server.log());
        last = id;
        // Every other time it ends as by kill -9.
        if id.is_multiple_of(2) {
            server.stop();
        }
    };
    let sql = |statement: &str| {
        let connection = rusqlite::Connection::open(data.join("seqsvr.db")).unwrap();
        connection.execute_batch(statement).unwrap();
    };
    for _ in 0..2 {
        goes_on("a restart", &|| {});
        goes_on("a command", &|| assert_eq!(setup.run(&["sequence", "list"]).0, 0));
        goes_on("doctor", &|| assert_eq!(setup.run(&["doctor", "--sample", "0s"]).0, 0));
        goes_on("a look, beside a running server", &|| {
            let mut server = setup.start();
            sql("SELECT * FROM seqsvr_sequence; PRAGMA wal_checkpoint(PASSIVE)");
            server.next();
            server.stop();
        });
        goes_on("VACUUM", &|| {
            setup.start().stop();
            sql("VACUUM");
        });
        goes_on("the folder is renamed", &|| {
            fs::rename(&data, &moved).unwrap();
            fs::rename(&moved, &data).unwrap();
        });
    }
}

#[test]
fn a_restored_backup_is_refused_until_it_is_fenced() {
    let setup = Setup::embedded();
    let file = |name: &str| setup.folder().join("data").join(name);
    let mut server = setup.start();
    server.next();
    let backup = setup.folder().join("backup.db");
    let connection = rusqlite::Connection::open(file("seqsvr.db")).unwrap();
    connection.execute("VACUUM INTO ?1", [backup.display().to_string()]).unwrap();
    drop(connection);
    let last = load(&[server.port()], 2, 2_000).ids().iter().copied().max().expect("ids");
    server.stop();
    fs::rename(&backup, file("seqsvr.db")).unwrap();
    // What the node remembers would tell too.
    fs::remove_file(file("node.json")).unwrap();
    let server = setup.start();
    assert_eq!(server.get("/new").status, 503);
    server.says_why("seqsvr fence --skip IDS --yes");
    // A command beside it, as the message says.
    let (code, output) = setup.run(&["fence", "--skip", "10000000", "--yes"]);
    assert_eq!(code, 0, "{output}");
    let id = eventually("it leases", || Some(server.get("/new")).filter(|answer| answer.status == 200)).id();
    assert!(id > last, "{id} after {last}");
}

#[test]
fn a_file_on_fuse_is_served_with_a_warning() {
    let setup = Setup::embedded();
    let (folder, at) = (setup.folder().join("behind"), setup.folder().join("data"));
    let _fuse = Fuse::mount(&folder, &at);
    let mut server = setup.start();
    assert_eq!(server.next(), 101);
    // It is opened more than once.
    assert_eq!(setup.run(&["sequence", "create", "orders"]).0, 0);
    assert_eq!(server.log().matches("data/seqsvr.db is on a FUSE file system").count(), 1, "{}", server.log());
    let (code, output) = setup.run(&["doctor", "--sample", "0s"]);
    assert!(code == 1 && output.contains("FUSE"), "{output}");
    assert_eq!(server.stop().code(), Some(0));
    assert!(folder.join("seqsvr.db").exists(), "it was there that it served from");
    let server = setup.start();
    assert!(server.next() > 101, "the same file on the same mount");
}
