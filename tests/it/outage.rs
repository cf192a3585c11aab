//! The database away: at the start, and while ids are handed out. How fast leasing resumes is held by `make torture`.

use std::cell::RefCell;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::database::{Database, Flavor};
use crate::support::group::Group;
use crate::support::http::{Client, load};
use crate::support::proxy::Proxy;
use crate::support::server::{PATIENCE, SEED_CONFIG, Setup, eventually, eventually_within};
use crate::support::{sql, sql_value};

#[test]
fn down_at_the_start_and_up_later() {
    for flavor in [Flavor::MariaDb, Flavor::MySql9] {
        let mut database = Database::start(flavor);
        database.kill();
        let setup = Setup::seed(&database);
        let server = setup.start();
        assert_eq!(server.get("/livez").status, 200);
        let ready = server.get("/readyz");
        assert_eq!(ready.status, 503);
        assert!(ready.body.contains("nothing was leased since the start"), "{ready:?}");
        assert!(ready.body.contains(&format!("127.0.0.1:{}", database.port())), "it says from where: {ready:?}");
        let refused = server.get("/new");
        assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
        let (code, output) = setup.run_healthcheck(server.port(), &["--ready"]);
        assert_eq!(code, 1, "{output}");
        let (code, output) = setup.run_healthcheck(server.port(), &[]);
        assert_eq!(code, 0, "it lives, and a restart would not help: {output}");

        database.restart();
        server.wait_until_ready();
        assert_eq!(server.next(), 101);
        assert!(server.log().contains("works again"), "{}", server.log());
        assert_eq!(setup.run_healthcheck(server.port(), &["--ready"]).0, 0);
    }
}

#[test]
fn away_while_ids_are_in_memory() {
    for flavor in [Flavor::MariaDb, Flavor::MySql9] {
        let mut database = Database::start(flavor);
        // What it may hold is bounded, so that on a machine of any speed the load below calls for a lease.
        let setup = Setup::seed(&database).patient().env("SEQSVR_REFILL__MAX_BLOCK", "100000");
        let server = setup.start();
        // Busy for long enough that it holds what lasts for a while.
        let mut all = load(&[server.port()], 4, 50_000);
        eventually("the runway is there", || (server.metric("seqsvr_ids_held") > 50_000.0).then_some(()));
        database.kill();
        all.merge(load(&[server.port()], 4, 30_000));
        all.assert_clean(80_000);
        let ready = server.get("/readyz");
        assert_eq!(ready.status, 200, "{ready:?}");

        database.restart();
        let ok = || server.metric("seqsvr_leases_total{outcome=\"ok\"");
        let before = ok();
        // While ids go out, that is: it leases only what it needs.
        eventually("it leases again", || {
            assert_eq!(server.get("/new?count=100&ranges").status, 200);
            (ok() > before).then_some(())
        });
        // Used up to the end, and beyond: it leases again.
        let mut client = Client::connect(server.port());
        let held = server.metric("seqsvr_ids_held");
        let mut taken = 0.0;
        while taken < held + 1_000.0 {
            let response = client.get("/new?count=1000&ranges");
            assert_eq!(response.status, 200, "{response:?}, {}", server.log());
            taken += 1_000.0;
        }
    }
}

#[test]
fn away_until_the_memory_is_used_up() {
    let mut database = Database::start(Flavor::MariaDb);
    let setup = Setup::seed(&database).env("SEQSVR_LIMITS__WAIT", "50ms");
    let server = setup.start();
    server.wait_until_ready();
    database.kill();
    let all = load(&[server.port()], 1, 150);
    assert_eq!(all.verdict().repeats, 0);
    assert_eq!(all.ids().len(), 100, "all that was leased is handed out");
    assert_eq!(server.get("/new").status, 503);
    let ready = server.get("/readyz");
    assert!(ready.status == 503 && ready.body.contains("no id is left"), "{ready:?}");
    assert_eq!(server.get("/livez").status, 200);
    let lines = server.log().matches("leasing of sequence default fails").count();
    assert_eq!(lines, 1, "one line for one outage: {}", server.log());
    database.restart();
    server.wait_until_ready();
    assert!(server.next() > 200);
}

#[test]
fn a_database_that_takes_connections_and_never_answers() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let setup = Setup::new(SEED_CONFIG).env("SEQSVR_MYSQL__HOST", &address);
    let mut server = setup.start();
    assert_eq!(server.get("/livez").status, 200);
    eventually("it says so", || server.get("/readyz").body.contains("took longer than 2 s").then_some(()));
    // Each attempt is closed before the next one: they do not pile up.
    silent.set_nonblocking(true).unwrap();
    let connections: Vec<_> = silent.incoming().map_while(Result::ok).collect();
    let open = connections.iter().filter(|connection| is_open(connection)).count();
    assert!(open <= 2, "{open} of {} connections are open", connections.len());
    assert_eq!(server.stop().code(), Some(0), "{}", server.log());
}

#[test]
fn many_sequences_wait_for_a_database_that_does_not_answer() {
    let database = Database::start(Flavor::MariaDb);
    let proxy = Proxy::start(database.port());
    let names: Vec<String> = (0..8).map(|number| format!("s{number}")).collect();
    let setup = Setup::on(&database, &format!("sequences: {{{}: {{}}}}", names.join(": {}, ")))
        .env("SEQSVR_MYSQL__HOST", &format!("tcp(127.0.0.1:{})", proxy.port()));
    let server = setup.start();
    server.wait_until_ready();
    for name in &names {
        server.get(&format!("/new/{name}")).id();
    }
    proxy.set_black_hole(true);
    let began = Instant::now();
    let mut most = 0;
    thread::scope(|scope| {
        for name in &names {
            let path = format!("/new/{name}?count=60");
            let server = &server;
            scope.spawn(move || {
                while began.elapsed() < Duration::from_secs(16) {
                    let body = server.get(&path).body;
                    // What is wrong is the database, and not what became of an attempt before.
                    assert!(!body.contains("isconnected"), "{body}");
                }
            });
        }
        // The connections of before are given up by then.
        thread::sleep(Duration::from_secs(9));
        while began.elapsed() < Duration::from_secs(16) {
            thread::sleep(Duration::from_millis(20));
            // A new one may come before the end of the one that it follows is seen.
            let open = proxy.connections();
            thread::sleep(Duration::from_millis(200));
            most = most.max(open.min(proxy.connections()));
        }
    });
    assert!(most <= 2, "{most} connections: {}", server.log());
}

/// Ends it as Ctrl-C does.
fn end(mut child: Child) {
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(status.expect("kill runs").success());
    child.wait().expect("it ends");
}

fn is_open(mut connection: &TcpStream) -> bool {
    connection.set_nonblocking(true).unwrap();
    !matches!(connection.read(&mut [0; 64]), Ok(0))
}

/// The commits of `database` hang from `hang` to `resume`: meanwhile a node has few sessions there, and it goes on by itself.
/// A commit keeps its session and its locks on the server, whatever its client does.
fn commits_that_hang(database: &Database, hang: impl FnOnce(), resume: impl FnOnce()) {
    let names: Vec<String> = (0..12).map(|number| format!("s{number}")).collect();
    let setup = Setup::on(database, &format!("sequences: {{{}: {{step: 10}}}}", names.join(": {step: 10}, ")))
        .env("SEQSVR_LIMITS__WAIT", "100ms");
    let server = setup.start();
    server.wait_until_ready();
    let ask = |name: &String| server.get(&format!("/new/{name}?count=10"));
    for name in &names {
        eventually(name, || (ask(name).status == 200).then_some(()));
    }
    hang();
    let began = Instant::now();
    let mut most = 0;
    while began.elapsed() < Duration::from_secs(25) {
        // Each sequence asks for more than is held.
        for name in &names {
            ask(name);
        }
        let sessions =
            "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE DB = 'sequence' AND ID <> CONNECTION_ID()";
        most = most.max(sql_value(database, sessions).parse::<u32>().expect("a count"));
    }
    assert!((2..=10).contains(&most), "{most} sessions: {}", server.log());
    eventually("it says why", || {
        for name in &names {
            ask(name);
        }
        let why = server.get("/readyz").body + &server.log();
        why.contains("statements of this node hang there").then_some(())
    });
    let (_, doctor) = setup.run(&["doctor"]);
    assert!(doctor.contains("run in this database, the longest for"), "{doctor}");
    resume();
    for name in &names {
        // A server that waits for room on its disk looks once a minute.
        let patience = 2 * PATIENCE;
        eventually_within(patience, &format!("{name} is leased again"), || (ask(name).status == 200).then_some(()));
    }
}

#[test]
fn commits_that_hang_keep_few_sessions() {
    for (flavor, plugin, name) in [
        (Flavor::MariaDb, "", "rpl_semi_sync_master"),
        (Flavor::MySql9, "--plugin-load-add=semisync_source.so", "rpl_semi_sync_source"),
    ] {
        let mut args = vec!["--log-bin=binlog", "--binlog-format=ROW", "--server-id=1", "--max-connections=20"];
        args.extend((!plugin.is_empty()).then_some(plugin));
        let database = Database::start_with(flavor, &args);
        let set = |values: &str| drop(sql(&database, &values.replace("NAME", &format!("GLOBAL {name}"))));
        commits_that_hang(
            &database,
            || set("SET NAME_timeout = 3600000; SET NAME_enabled = ON"),
            || set("SET NAME_enabled = OFF"),
        );
    }
}

#[test]
fn commits_without_room_for_the_binlog_keep_few_sessions() {
    for flavor in [Flavor::MariaDb, Flavor::MySql9] {
        let database = Database::start_with(flavor, &["--log-bin=binlog", "--server-id=1", "--max-connections=20"]);
        let names = sql(&database, "SHOW BINARY LOGS");
        let file = database.data_dir().join(&names.last().expect("there is a binlog")[0]);
        let full = RefCell::new(None);
        let (pid, file) = (database.pid().to_string(), file.to_str().expect("a plain path"));
        let hang = || {
            let fault = ["-e", "trace=write,pwrite64", "-e", "inject=write,pwrite64:error=ENOSPC"];
            let mut strace = Command::new("strace");
            strace.args(["-f", "-q", "-o", "/dev/null", "-p", &pid, "-P", file]).args(fault);
            full.replace(Some(strace.spawn().expect("strace starts")));
            // strace does not print that it is attached.
            eventually("it is attached", || {
                let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the database runs");
                (!status.contains("TracerPid:\t0\n")).then_some(())
            });
        };
        // On SIGINT strace detaches from the server.
        commits_that_hang(&database, hang, || end(full.take().expect("it runs")));
    }
}

#[test]
fn commits_without_a_majority_keep_few_sessions() {
    let group = Group::start();
    let others = |signal: &str| [1, 2].into_iter().for_each(|member| group.member(member).signal(signal));
    commits_that_hang(group.member(0), || others("STOP"), || others("CONT"));
}
