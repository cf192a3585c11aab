//! Several hosts in `mysql.host`: which one is leased from, and when another one.

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use crate::support::database::{Database, Flavor};
use crate::support::galera::Cluster;
use crate::support::http::{load, load_of};
use crate::support::proxy::Proxy;
use crate::support::replica::Pair;
use crate::support::server::{Server, Setup, eventually, eventually_within};
use crate::support::splitter::Splitter;
use crate::support::{sql, sql_value};

const FLAVORS: [Flavor; 2] = [Flavor::MariaDb, Flavor::MySql9];

/// A node that is told of all `databases`. It holds little, so that it leases often, and waits for long.
fn on(databases: &[&Database]) -> Setup {
    let hosts: Vec<String> = databases.iter().map(|database| format!("tcp(127.0.0.1:{})", database.port())).collect();
    Setup::seed(databases[0])
        .env("SEQSVR_MYSQL__HOST", &hosts.join(", "))
        .env("SEQSVR_MYSQL__FAILOVER_SKIP", "1000000")
        .env("SEQSVR_REFILL__MAX_BLOCK", "1000")
        .patient()
}

fn start(setup: &Setup) -> Server {
    let server = setup.start();
    server.wait_until_ready();
    server
}

fn moves(server: &Server) -> usize {
    server.log().matches(" is used now; it was ").count()
}

fn leases(server: &Server, outcome: &str) -> f64 {
    server.metric(&format!("seqsvr_leases_total{{outcome=\"{outcome}\",sequence=\"default\""))
}

/// Whether the tickets of `database` were last fenced for itself.
fn is_leased_from(database: &Database, flavor: Flavor) -> bool {
    let me = match flavor {
        Flavor::MariaDb => "CONCAT(@@hostname, ':', @@port, ':', @@server_id)",
        Flavor::MySql9 => "@@server_uuid",
    };
    sql_value(database, &format!("SELECT server = {me} FROM sequence.seqsvr_meta")) == "1"
}

#[test]
fn the_first_that_answers() {
    let database = Database::start(Flavor::MariaDb);
    let mut gone = Database::start(Flavor::MariaDb);
    gone.kill();
    let setup = on(&[&gone, &database]);
    let server = start(&setup);
    assert_eq!(server.next(), 101);
    let both = format!("tcp(127.0.0.1:{}), tcp(127.0.0.1:{})", gone.port(), database.port());
    assert!(server.log().contains(&both), "{}", server.log());
    assert_eq!(setup.run(&["sequence", "create", "orders"]).0, 0, "commands try them all too");
    assert_eq!(server.get("/new/orders").id(), 1);
    let (_, doctor) = setup.run(&["doctor"]);
    assert!(doctor.contains("it can't stand in"), "{doctor}");
}

#[test]
fn all_are_away_and_each_is_told() {
    let (mut one, mut two) = (Database::start(Flavor::MariaDb), Database::start(Flavor::MariaDb));
    one.kill();
    two.kill();
    let server = on(&[&one, &two]).start();
    let said = eventually("it says why", || {
        Some(server.get("/readyz").body).filter(|body| body.contains("Connection refused"))
    });
    for database in [&one, &two] {
        assert!(said.contains(&format!("tcp(127.0.0.1:{})", database.port())), "{said}");
    }
    two.restart();
    server.wait_until_ready();
}

#[test]
fn a_stand_in_is_not_written_to_before_it_is_promoted() {
    for flavor in FLAVORS {
        let pair = Pair::start(flavor);
        // Root may write to a server that is only that.
        sql(&pair.replica, "SET GLOBAL read_only = 1");
        let server = start(&on(&[&pair.replica, &pair.primary]));
        load(&[server.port()], 4, 5_000).assert_clean(5_000);
        assert!(is_leased_from(&pair.primary, flavor), "{flavor:?}");
        pair.wait_until_caught_up();
        assert!(!is_leased_from(&pair.replica, flavor), "{flavor:?}");
        assert_eq!(leases(&server, "fenced"), 0.0, "{flavor:?}");
    }
}

/// Readers of Amazon Aurora are so: `read_only` is off there.
#[test]
fn a_stand_in_whose_engine_alone_is_read_only() {
    for flavor in FLAVORS {
        let primary = Database::start(flavor);
        let reader = Database::start_with(flavor, &["--innodb-read-only=ON"]);
        for hosts in [[&primary, &reader], [&reader, &primary]] {
            let server = start(&on(&hosts));
            load(&[server.port()], 4, 2_000).assert_clean(2_000);
            assert_eq!(leases(&server, "two_writers"), 0.0, "{flavor:?}: {}", server.log());
        }
    }
}

#[test]
fn a_failover_is_followed() {
    for flavor in FLAVORS {
        let mut pair = Pair::start(flavor);
        let server = start(&on(&[&pair.primary, &pair.replica]));
        let mut all = load(&[server.port()], 4, 5_000);
        pair.wait_until_caught_up();
        let is_planned = flavor == Flavor::MySql9;
        if is_planned {
            sql(&pair.primary, "SET GLOBAL super_read_only = 1");
            pair.wait_until_caught_up();
        } else {
            pair.primary.kill();
        }
        pair.promote();
        all.merge(load(&[server.port()], 4, 5_000));
        assert!(is_leased_from(&pair.replica, flavor), "{flavor:?}");
        assert_eq!((moves(&server), leases(&server, "fenced")), (1, 1.0), "{flavor:?}: {}", server.log());
        // It stays there, whoever comes back.
        if !is_planned {
            pair.primary.restart();
            sql(&pair.primary, "SET GLOBAL read_only = 1");
        }
        all.merge(load(&[server.port()], 4, 5_000));
        all.assert_clean(15_000);
        assert_eq!(moves(&server), 1, "{flavor:?}: {}", server.log());
    }
}

#[test]
fn many_sequences_leave_a_primary_that_hangs() {
    let pair = Pair::start(Flavor::MariaDb);
    let proxy = Proxy::start(pair.primary.port());
    let names: Vec<String> = (0..20).map(|number| format!("s{number}")).collect();
    let setup = Setup::on(&pair.primary, &format!("sequences: {{{}: {{}}}}", names.join(": {}, ")))
        .env("SEQSVR_MYSQL__HOST", &format!("127.0.0.1:{}, 127.0.0.1:{}", proxy.port(), pair.replica.port()))
        .env("SEQSVR_MYSQL__FAILOVER_SKIP", "1000000")
        .env("SEQSVR_LIMITS__WAIT", "30s");
    let server = setup.start();
    server.wait_until_ready();
    for name in &names {
        server.get(&format!("/new/{name}")).id();
    }
    pair.wait_until_caught_up();
    let through = proxy.bytes();
    assert!(through > 0, "the leases came through the proxy");
    proxy.set_black_hole(true);
    pair.promote();
    let began = Instant::now();
    let mut most = 0;
    thread::scope(|scope| {
        for name in &names {
            let server = &server;
            // More than it holds of them.
            scope.spawn(move || assert_eq!(server.get(&format!("/new/{name}?count=200")).status, 200));
        }
        // Those that hung when it went away are given up by then; whoever looks at the new one asks the old one too.
        thread::sleep(Duration::from_millis(2_500));
        while began.elapsed() < Duration::from_secs(10) {
            // A new one may come before the end of the one that it follows is seen, which a busy machine may see late.
            let of_a_second = (0..10).map(|_| {
                thread::sleep(Duration::from_millis(100));
                proxy.connections()
            });
            most = most.max(of_a_second.min().expect("ten of them"));
        }
    });
    assert_eq!(proxy.bytes(), through, "nothing came from the old one");
    let log = server.log();
    assert!(most <= 2, "{most} connections: {log}");
    assert!(moves(&server) == 1 && !log.contains("and is tried again"), "{log}");
    let new = format!("fenced by itself: MySQL at tcp(127.0.0.1:{})", pair.replica.port());
    assert_eq!(log.matches(&new).count(), names.len(), "{log}");
}

/// A replica of a cluster that is no node of one, and knows nothing of what is set for those.
#[test]
fn a_stand_in_of_another_kind_than_the_cluster() {
    let mut cluster = Cluster::start();
    let replica = Database::start(Flavor::MySql9);
    drop(start(&Setup::seed(&replica)));
    sql(&replica, "SET GLOBAL super_read_only = 1");
    let server = start(&on(&[cluster.node(0), &replica]));
    let mut all = load(&[server.port()], 4, 2_000);
    let store = sql_value(cluster.node(0), "SELECT store_id FROM sequence.seqsvr_meta");
    cluster.kill(0);
    sql(
        &replica,
        &format!(
            "SET GLOBAL read_only = 0; UPDATE sequence.seqsvr_meta SET store_id = '{store}', owner = 'the cluster'"
        ),
    );
    eventually("the stand-in is leased from", || {
        server.get("/new?count=1000&ranges");
        is_leased_from(&replica, Flavor::MySql9).then_some(())
    });
    all.merge(load(&[server.port()], 4, 2_000));
    all.assert_clean(4_000);
}

#[test]
fn two_that_take_writes_are_refused_by_whoever_starts() {
    for flavor in FLAVORS {
        let pair = Pair::start(flavor);
        let [old, new] = [(); 2].map(|()| on(&[&pair.primary, &pair.replica]));
        let old = start(&old);
        let mut all = load(&[old.port()], 4, 2_000);
        pair.wait_until_caught_up();
        pair.promote();
        // Who has leased from one of them goes on there.
        all.merge(load(&[old.port()], 4, 5_000));

        let refused = new.start();
        let refusal = eventually("it refuses", || {
            Some(refused.get("/readyz"))
                .filter(|answer| answer.status == 503 && answer.body.contains("takes writes too"))
        });
        assert!(refusal.body.contains("read_only"), "{refusal:?}");
        assert!(leases(&refused, "two_writers") > 0.0);
        let (code, doctor) = new.run(&["doctor"]);
        assert!(code == 2 && doctor.contains("takes writes too, and is not shown to be the same"), "{doctor}");
        let (code, output) = new.run(&["fence", "default", "--skip", "1000", "--yes"]);
        assert!(code != 0 && output.contains("takes writes too"), "{output}");

        // A person decides, and all go on by themselves.
        sql(&pair.replica, "SET GLOBAL read_only = 1");
        refused.wait_until_ready();
        let (_, doctor) = new.run(&["doctor"]);
        assert!(doctor.contains("it can stand in"), "{doctor}");
        all.merge(load(&[old.port(), refused.port()], 4, 5_000));
        all.assert_clean(12_000);
    }
}

#[test]
fn the_nodes_of_a_cluster() {
    let cluster = Cluster::start();
    let setup = on(&[0, 1, 2].map(|i| cluster.node(i)));
    let server = start(&setup);
    let mut all = load(&[server.port()], 4, 2_000);
    cluster.isolate(0);
    // The others stand still for seconds as well, so that it may try more than one of them.
    all.merge(load(&[server.port()], 4, 5_000));
    assert!(moves(&server) > 0, "{}", server.log());
    cluster.heal(0);
    all.assert_clean(7_000);
    assert_eq!(leases(&server, "fenced") + leases(&server, "two_writers"), 0.0, "{}", server.log());
    let (code, doctor) = setup.run(&["doctor"]);
    assert!(code < 2 && doctor.matches("of the same cluster").count() == 2, "{doctor}");
}

/// A proxy that splits reads from writes, as `ProxySQL` and `MaxScale` do.
#[test]
fn reads_that_a_proxy_sends_to_a_replica() {
    for flavor in FLAVORS {
        let pair = Pair::start(flavor);
        let splitter = Splitter::start(pair.primary.port(), pair.replica.port());
        let setup = Setup::on(&pair.primary, "sequences: {orders: {step: 100}}")
            .env("SEQSVR_MYSQL__HOST", &format!("tcp(127.0.0.1:{})", splitter.port()))
            .env("SEQSVR_REFILL__MAX_BLOCK", "1000")
            .patient();
        // What is read there is never up to date again.
        sql(&pair.replica, if flavor == Flavor::MariaDb { "STOP SLAVE" } else { "STOP REPLICA" });
        let server = start(&setup);
        assert!(splitter.reads() > 0, "{flavor:?}");
        for path in ["/new", "/new/orders"] {
            eventually("it has ids", || (server.get(path).status == 200).then_some(()));
            load_of(path, &[server.port()], 4, 5_000).assert_clean(5_000);
        }
        assert!(is_leased_from(&pair.primary, flavor), "{flavor:?}");
        assert!(server.log().contains("a proxy sends reads to"), "{flavor:?}: {}", server.log());
        let (code, doctor) = setup.run(&["doctor"]);
        assert!(code == 2 && doctor.contains("FAIL  proxy"), "{flavor:?}: {doctor}");
        // Commands too decide by what the primary says.
        assert_eq!(setup.run(&["fence", "--skip", "1000", "--yes"]).0, 0, "{flavor:?}");
        load_of("/new/orders", &[server.port()], 4, 2_000).assert_clean(2_000);
        drop(server);

        // Of several hosts each may be such a proxy.
        let second = Splitter::start(pair.primary.port(), pair.replica.port());
        let both = format!("127.0.0.1:{}, 127.0.0.1:{}", splitter.port(), second.port());
        let server = start(&setup.env("SEQSVR_MYSQL__HOST", &both));
        load_of("/new/orders", &[server.port()], 4, 2_000).assert_clean(2_000);
    }
}

/// Listens and never says a word.
fn silent(address: &str, port: u16) -> TcpListener {
    TcpListener::bind((address, port)).expect("the address is free")
}

/// A node on `db.test`, which has the addresses of `hosts`.
fn on_name(database: &Database, hosts: &str) -> Setup {
    Setup::seed(database)
        .env("SEQSVR_MYSQL__HOST", &format!("db.test:{}", database.port()))
        .env("SEQSVR_LIMITS__WAIT", "20s")
        .with_hosts(hosts)
}

#[test]
fn a_name_with_an_address_that_is_silent() {
    for flavor in FLAVORS {
        let database = Database::start(flavor);
        let _silent = ["::1", "127.0.0.2"].map(|address| silent(address, database.port()));
        let setup = on_name(&database, "::1 db.test\n127.0.0.2 db.test\n127.0.0.1 db.test\n");
        let server = setup.start();
        assert_eq!(server.next(), 101, "{flavor:?}");
        // A new pool, too.
        sql(&database, "SELECT 1");
        let (code, output) = setup.run(&["doctor"]);
        assert!(code < 2, "{output}");
    }
}

#[test]
fn a_stand_in_whose_name_has_an_address_that_is_silent() {
    let pair = Pair::start(Flavor::MariaDb);
    let _silent = silent("::1", pair.replica.port());
    let hosts = format!("{}, db.test:{}", pair.primary.address(), pair.replica.port());
    let setup =
        Setup::seed(&pair.primary).env("SEQSVR_MYSQL__HOST", &hosts).with_hosts("::1 db.test\n127.0.0.1 db.test\n");
    sql(&pair.replica, "SET GLOBAL read_only = 1");
    let (_, output) = setup.run(&["doctor"]);
    assert!(!output.contains("no answer within"), "{output}");
}

#[test]
fn a_name_that_moves_is_followed() {
    let database = Database::start(Flavor::MariaDb);
    let setup = on_name(&database, "127.0.0.1 db.test\n");
    let server = setup.start();
    server.next();
    // What comes to the new address is passed on to the same server.
    let through = Arc::new(AtomicBool::new(false));
    let (listener, seen, port) = (silent("127.0.0.2", database.port()), through.clone(), database.port());
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            seen.store(true, Ordering::Relaxed);
            let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
            for (mut from, mut to) in
                [(&client, &server), (&server, &client)].map(|(a, b)| (a.try_clone().unwrap(), b.try_clone().unwrap()))
            {
                thread::spawn(move || io::copy(&mut from, &mut to));
            }
        }
    });
    fs::write(setup.folder().join("hosts"), "127.0.0.2 db.test\n").unwrap();
    eventually_within(Duration::from_secs(60), "the name is looked up again", || {
        assert_eq!(server.get("/new?count=50").status, 200);
        through.load(Ordering::Relaxed).then_some(())
    });
    assert_eq!(server.get("/new?count=1000").status, 200);
}
