//! The network between a node and its database.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::rig::{Layout, Outcome, Run, fill, start, under_load};
use crate::support::checker::Checker;
use crate::support::database::{Database, Flavor};
use crate::support::http::{Client, get, load, load_of};
use crate::support::proxy::{Proxy, Side};
use crate::support::server::{PATIENCE, SEED_CONFIG, Server, Setup, eventually};

/// Connections that were open when the network went away are given up by then. The next lease comes within a second, and its
/// statement fails after 5 s; until then another one may be sent on another connection, which takes as long.
const GIVEN_UP: Duration = Duration::from_secs(12);

/// The proxy may see a new connection before the end of the one that it follows. An attempt to connect takes 2 s.
const MOMENT: Duration = Duration::from_millis(500);

/// The most connections to a database that does not answer.
const MOST_CONNECTIONS: usize = 2;

/// Leasing works again within this ...
const RECOVERY: Duration = Duration::from_secs(5);
/// ... or, where the machine may be busy with other tests, within this.
const PATIENT_RECOVERY: Duration = PATIENCE;

/// Sequences that are asked for in the dark beside `default`.
const NAMED: usize = 20;

fn leases(server: &Server) -> f64 {
    server.metric("seqsvr_leases_total{outcome=\"ok\"")
}

/// Packets are dropped for a minute, and no connection ends of it.
pub fn black_hole(run: &Run) -> Outcome {
    let mut outcome = Outcome { rounds: 1, ..Outcome::default() };
    let database = Database::start(Flavor::MariaDb);
    let proxy = Proxy::start(database.port());
    let names: Vec<String> = (0..NAMED).map(|number| format!("s{number}")).collect();
    let declared: Vec<String> = names.iter().map(|name| format!("{name}: {{}}")).collect();
    let setup = run
        .setup(Setup::new(&format!("{SEED_CONFIG}\nsequences: {{{}}}\n", declared.join(", "))))
        .env("SEQSVR_MYSQL__HOST", &format!("tcp(127.0.0.1:{})", proxy.port()))
        .env("SEQSVR_REFILL__MAX_BLOCK", "2000000")
        .env("SEQSVR_REFILL__RUNWAY", "30m")
        .patient();
    let server = start(&setup);
    let port = server.port();
    let mut all = fill(&server, 1_000_000.0);
    let through = proxy.bytes();
    assert!(through > 0, "the leases came through the proxy");

    proxy.set_black_hole(true);
    let (began, length) = (Instant::now(), run.seconds(60, 14));
    // Slow enough that what it holds lasts, on a machine of any speed.
    let paced = || {
        thread::sleep(Duration::from_millis(40));
        load(&[port], 8, 200)
    };
    // Nobody has ids of these but the first block, at most; that they wait is no error.
    let of_others = || {
        thread::scope(|scope| {
            for name in &names {
                scope.spawn(move || get(port, &format!("/new/{name}?count=60")));
            }
        });
        thread::sleep(Duration::from_millis(50));
        Checker::default()
    };
    let (ids, _) = under_load(paced, || {
        under_load(of_others, || {
            let (mut given_up, mut few) = (Duration::ZERO, Instant::now());
            while began.elapsed() < length {
                if proxy.connections() <= MOST_CONNECTIONS {
                    few = Instant::now();
                } else if few.elapsed() > MOMENT {
                    given_up = began.elapsed();
                }
                thread::sleep(Duration::from_millis(20));
            }
            if given_up > GIVEN_UP {
                all.error(format!(
                    "more than {MOST_CONNECTIONS} connections, {given_up:?} after the database's last answer"
                ));
            }
            assert_eq!(proxy.bytes(), through, "nothing went through a black hole");
            let before = leases(&server);
            proxy.set_black_hole(false);
            let back = Instant::now();
            let bound = if run.is_full { RECOVERY } else { PATIENT_RECOVERY };
            while leases(&server) <= before && back.elapsed() < bound {
                // Less is held than should be, so it has to lease.
                assert_eq!(get(port, "/readyz").status, 200);
                thread::sleep(Duration::from_millis(10));
            }
            println!(
                "{MOST_CONNECTIONS} connections at most after {given_up:?}; leases again after {:?}",
                back.elapsed()
            );
            if back.elapsed() >= bound {
                all.error(format!("no lease within {bound:?}: {}", server.log()));
            }
        })
    });
    all.merge(ids);
    outcome.take_in(all);
    outcome
}

/// Nodes with blocks so small that each request of [`WHOLE`] leases.
fn small(run: &Run, port: u16, layout: Layout) -> Setup {
    run.node(port, layout).env("SEQSVR_STEP", "100").env("SEQSVR_REFILL__MAX_BLOCK", "100")
}

/// As many as one lease brings.
const WHOLE: &str = "/new?count=100";

/// Waits until nothing has moved through `proxy` for a while, and no statement waits for its answer: one that waits for another
/// node's commit is silent for long.
fn quiet(proxy: &Proxy) -> (u64, u64) {
    eventually("it is quiet", || {
        let before = proxy.counted();
        thread::sleep(Duration::from_millis(10));
        (proxy.is_answered() && proxy.counted() == before).then_some(before)
    })
}

/// The bytes of one lease on a connection that is there, of either side: what most have.
fn bytes_of_a_lease(client: &mut Client, proxy: &Proxy, all: &mut Checker) -> (u64, u64) {
    let mut leases = [(); 7].map(|()| {
        let before = quiet(proxy);
        ask(client, all);
        eventually("the lease begins", || (proxy.counted() != before).then_some(()));
        let after = quiet(proxy);
        (after.0 - before.0, after.1 - before.1)
    });
    leases.sort_unstable();
    leases[leases.len() / 2]
}

fn ask(client: &mut Client, all: &mut Checker) {
    match client.try_request("GET", WHOLE, "") {
        Ok(response) if response.status == 200 => {}
        other => all.error(format!("{other:?}")),
    }
    all.add(client.last_ids());
}

/// Cuts the connection of a node after each byte of a lease, of both sides, while another node leases: what the lost reply
/// said is a gap, and the next lease works.
fn cut_at_every_byte(run: &Run, layout: Layout, flavors: &[Flavor]) -> Outcome {
    let mut outcome = Outcome::default();
    for flavor in flavors {
        let database = Database::start(*flavor);
        let other_setup = small(run, database.port(), layout);
        let other = start(&other_setup);
        let cuts = AtomicU64::new(0);
        let of_the_other = || load_of("/new?count=25", &[other.port()], 2, 40);
        let (mut all, nodes) = under_load(of_the_other, || {
            thread::scope(|scope| {
                let nodes = [0, 1, 2, 3].map(|number| {
                    let (database, cuts) = (&database, &cuts);
                    scope.spawn(move || cut_one_node(run, layout, database.port(), number, cuts))
                });
                nodes.map(|node| node.join().expect("a node's thread"))
            })
        });
        for node in nodes {
            all.merge(node);
        }
        let cuts = cuts.into_inner();
        println!("{flavor:?}, {layout:?}: {cuts} cuts");
        assert!(cuts >= run.rounds(200, 8), "{cuts} cuts");
        outcome.rounds += cuts;
        outcome.take_in(all);
    }
    outcome
}

/// One of four nodes: every fourth place of a lease, or fewer, from that of its `number` on.
fn cut_one_node(run: &Run, layout: Layout, database: u16, number: u64, cuts: &AtomicU64) -> Checker {
    let proxy = Proxy::start(database);
    let setup = small(run, proxy.port(), layout);
    let server = start(&setup);
    let mut client = Client::connect(server.port());
    let mut all = Checker::default();
    let (of_client, of_server) = bytes_of_a_lease(&mut client, &proxy, &mut all);
    assert!(of_client > 50 && of_server > 10, "a lease goes through the proxy: {of_client} and {of_server} bytes");
    let step = usize::try_from(run.rounds(4, 40)).expect("few");
    for (side, bytes) in [(Side::Client, of_client), (Side::Server, of_server)] {
        for after in (number * run.rounds(1, 10)..=bytes).step_by(step) {
            quiet(&proxy);
            proxy.cut_after(side, after);
            // The lease that is cut may be the one after the next: some ids are held.
            eventually(&format!("a cut after {after} bytes of the {side:?}"), || {
                ask(&mut client, &mut all);
                proxy.is_cut().then_some(())
            });
            cuts.fetch_add(1, Ordering::Relaxed);
            let (before, cut) = (leases(&server), Instant::now());
            while leases(&server) <= before {
                ask(&mut client, &mut all);
                assert!(
                    cut.elapsed() < PATIENT_RECOVERY,
                    "no lease after a cut after {after} bytes of the {side:?}: {:?}, {}",
                    all.verdict(),
                    server.log()
                );
            }
        }
    }
    all
}

pub fn cut_at_every_byte_of_a_ticket(run: &Run) -> Outcome {
    cut_at_every_byte(run, Layout::Ticket, &[Flavor::MariaDb])
}

pub fn cut_at_every_byte_of_a_counter(run: &Run) -> Outcome {
    cut_at_every_byte(
        run,
        Layout::Counter,
        if run.is_full { &[Flavor::MariaDb, Flavor::MySql9] } else { &[Flavor::MySql9] },
    )
}

/// A node gives its tail back when it stops, and the statement or its reply is cut, while another node leases.
pub fn cut_of_a_give_back(run: &Run) -> Outcome {
    let mut outcome = Outcome::default();
    let database = Database::start(Flavor::MariaDb);
    let proxy = Proxy::start(database.port());
    let (setup, other_setup) = (run.node(proxy.port(), Layout::Counter), run.node_on(&database, Layout::Counter));
    let other = start(&other_setup);
    let mut all = Checker::default();
    // What giving back takes where nothing is cut; the end of the connection is in it.
    let (of_client, of_server) = {
        let mut server = start(&setup);
        all.merge(load(&[server.port()], 2, 50));
        let before = quiet(&proxy);
        assert_eq!(server.stop().code(), Some(0));
        assert!(server.log().contains("stopped"), "{}", server.log());
        let after = proxy.counted();
        (after.0 - before.0, after.1 - before.1)
    };
    assert!(of_client > 100 && of_server > 5, "it goes through the proxy: {of_client} and {of_server} bytes");
    let places =
        (0..of_server).step_by(usize::try_from(run.rounds(1, 6)).expect("few")).map(|after| (Side::Server, after));
    let client_places =
        (0..of_client).step_by(usize::try_from(run.rounds(12, 120)).expect("few")).map(|after| (Side::Client, after));
    for (side, after) in places.chain(client_places) {
        outcome.rounds += 1;
        let mut server = start(&setup);
        all.merge(load(&[server.port()], 2, 150));
        quiet(&proxy);
        proxy.cut_after(side, after);
        server.signal("TERM");
        // At once, and beyond what it holds.
        let mut tails = thread::scope(|scope| {
            let others = scope.spawn(|| load(&[other.port()], 4, 2_000));
            assert_eq!(server.wait().code(), Some(0), "{}", server.log());
            others.join().expect("the load's thread")
        });
        assert!(proxy.is_cut(), "after {after} bytes of the {side:?}");
        // It has remembered what may have gone back.
        let again = start(&setup);
        tails.merge(load(&[again.port(), other.port()], 4, 500));
        all.merge(tails);
    }
    outcome.take_in(all);
    outcome
}
