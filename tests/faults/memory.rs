//! What a node remembers of its leases, and what it records of them in the database: too late is too little.

use std::path::Path;
use std::time::Duration;

use crate::counters::ids;
use crate::database::{ACCOUNT, Holder};
use crate::rig::{LAYOUTS, Layout, Outcome, Run, command, mark, start, under_load, wait_for_outcome};
use crate::support::checker::Checker;
use crate::support::database::{Database, Flavor};
use crate::support::http::{load, load_of};
use crate::support::replica::Pair;
use crate::support::server::{Server, eventually};
use crate::support::sql;

/// How a node is stopped without a chance to write down what it leased.
#[derive(Clone, Copy, Debug)]
enum End {
    Killed,
    Stopped,
}

/// Longer than a lease is valid for (src/store/guard.rs).
const HANGS: Duration = Duration::from_secs(6);

/// After a failover an operator fences past the mark that is in the `node.json` of a node that was killed, or hangs.
pub fn fenced_by_a_dead_nodes_memory(run: &Run) -> Outcome {
    let mut outcome = Outcome::default();
    let ends = [End::Killed, End::Stopped];
    for (number, (flavor, layout)) in run.places().into_iter().enumerate() {
        let ends = if run.is_full { &ends[..] } else { &ends[number % 2..][..1] };
        for &end in ends {
            outcome.rounds += 1;
            let all = fence_by_memory(run, flavor, layout, end);
            println!("{flavor:?}, {layout:?}, {end:?}: {}", all.verdict());
            outcome.take_in(all);
        }
    }
    outcome
}

fn fence_by_memory(run: &Run, flavor: Flavor, layout: Layout, end: End) -> Checker {
    let mut pair = Pair::start(flavor);
    let node = || run.node_on_all(&[&pair.primary, &pair.replica], layout).env("SEQSVR_REFILL__MAX_BLOCK", "500");
    let setups = [node(), node()];
    let mut dead = start(&setups[0]);
    let other = start(&setups[1]);
    let mut all = load(&[dead.port(), other.port()], 4, 1_000);
    // The largest mark that the operator sees.
    let known = || remembered(setups[0].folder()).max(mark(&other));
    pair.wait_until_caught_up();
    pair.stop_replication();
    eventually("its memory is written", || (known() >= mark(&dead)).then_some(()));
    // What is lost to the replica. Without the guard: until the file is behind what clients have.
    eventually("it has leased", || {
        let some = load(&[dead.port()], 4, 2_000);
        let (leased, highest) = (mark(&dead), some.ids().iter().copied().max().unwrap_or(0));
        all.merge(some);
        let remembered = remembered(setups[0].folder());
        assert!(!run.is_guarded() || remembered >= leased, "{flavor:?}: {remembered} is remembered, {leased} leased");
        (run.is_guarded() || known() <= highest).then_some(())
    });
    match end {
        End::Killed => dead.kill(),
        End::Stopped => {
            dead.signal("STOP");
            // So long the operator waits before the mark of a node that hangs counts as final: what it was leasing is then
            // discarded.
            std::thread::sleep(HANGS);
        }
    }
    let past = known();
    pair.primary.kill();
    pair.promote();
    command(&setups[1], &format!("fence default --past {past} --yes"));
    all.merge(run.ids_or_all(load(&[other.port()], 4, 5_000)));
    if matches!(end, End::Stopped) {
        dead.signal("CONT");
        all.merge(run.ids_or_all(load(&[dead.port(), other.port()], 4, 2_000)));
    }
    all
}

/// The mark of `default` in the `node.json` of a node.
fn remembered(folder: &Path) -> u64 {
    let text = std::fs::read_to_string(folder.join("data/node.json")).expect("the node has written its memory");
    let memory: serde_json::Value = serde_json::from_str(&text).expect("its memory is JSON");
    memory["high_water_marks"]["default"].as_u64().expect("a mark")
}

/// Why it takes long to record what was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Late {
    /// A transaction holds a lock on the row.
    Locked,
    /// The node is held up right before the statement.
    HeldUp,
    /// The statement fails several times.
    Fails,
    /// It is held up, and the counter goes back between the node's look and its INSERT: its own rows show it.
    HeldUpBehindAnInsert,
    /// As [`Late::HeldUpBehindAnInsert`], and an operator fences in between: another node has recorded the regression.
    UntilItIsFenced,
}

impl Late {
    fn is_behind_an_insert(self) -> bool {
        matches!(self, Self::HeldUpBehindAnInsert | Self::UntilItIsFenced)
    }
}

/// A node finds that the counter went back, and can't record that at once. Whoever reads that it says so may start a new
/// node, which remembers nothing, and must be refused.
pub fn a_regression_that_is_recorded_late(run: &Run) -> Outcome {
    let mut outcome = Outcome::default();
    for layout in LAYOUTS {
        for late in [Late::Locked, Late::HeldUp, Late::Fails, Late::HeldUpBehindAnInsert, Late::UntilItIsFenced] {
            if late.is_behind_an_insert() && layout == Layout::Counter {
                // One statement looks and leases.
                continue;
            }
            outcome.rounds += 1;
            let all = go_back(run, layout, late);
            println!("{layout:?}, {late:?}: {}", all.verdict());
            outcome.take_in(all);
        }
    }
    outcome
}

fn go_back(run: &Run, layout: Layout, late: Late) -> Checker {
    let database = Database::start(Flavor::MariaDb);
    sql(&database, ACCOUNT);
    let node = || run.node_on(&database, layout).env("SEQSVR_LIMITS__WAIT", "1s");
    let new = node();
    let busy = start(&match late {
        Late::Locked => node(),
        Late::HeldUp => node().env("FAILPOINTS", "regression-recorded=sleep(2000)"),
        Late::Fails => node().env("FAILPOINTS", "regression-recorded=5*return->off"),
        Late::HeldUpBehindAnInsert | Late::UntilItIsFenced => {
            node().env("FAILPOINTS", "ticket-inserts=sleep(300);regression-recorded=sleep(2000)")
        }
    });
    let mut all = load(&[busy.port()], 4, 20_000);
    if late == Late::UntilItIsFenced {
        let other = start(&node());
        let nodes = [&busy, &other];
        let use_up = || ids(&load_of("/new?count=200", &nodes.map(Server::port), 4, 16));
        let (some, ()) = under_load(use_up, || {
            std::thread::sleep(Duration::from_millis(500));
            sql(&database, layout.rewind());
            eventually("the other one says so", || other.get("/readyz").body.contains("went back").then_some(()));
            let past = nodes.map(mark).into_iter().max().expect("there are two");
            command(&new, &format!("fence default --past {past} --yes"));
            // By then the recording that was held up has gone on.
            std::thread::sleep(Duration::from_secs(3));
        });
        all.merge(some);
        for node in nodes {
            node.wait_until_ready();
        }
        all.merge(load(&nodes.map(Server::port), 4, 5_000));
        return all;
    }
    if late == Late::HeldUpBehindAnInsert {
        // It leases most of the time, and most of a lease is the pause before the INSERT.
        let use_up = || load_of("/new?count=200", &[busy.port()], 4, 8);
        let (some, new) = under_load(use_up, || {
            std::thread::sleep(Duration::from_millis(500));
            sql(&database, layout.rewind());
            eventually("it says so", || busy.get("/readyz").body.contains("went back").then_some(()));
            load_of("/new?count=20", &[new.start().port()], 4, 20)
        });
        all.merge(ids(&some));
        all.merge(ids(&new));
        return all;
    }
    busy.signal("STOP");
    sql(&database, layout.rewind());
    let mut lock = Holder::new();
    if matches!(late, Late::Locked) {
        lock.hold(&database, layout.lock()).expect("a lock");
    }
    busy.signal("CONT");

    let ready = || busy.get("/readyz").body;
    eventually("it fails to lease", || {
        all.merge(ids(&load_of("/new?count=200", &[busy.port()], 4, 8)));
        ready().contains("leasing fails").then_some(())
    });
    if !ready().contains("went back") {
        drop(lock);
        lock = Holder::new();
    }
    eventually("it says so", || ready().contains("went back").then_some(()));
    if late == Late::Fails {
        // It was tried again.
        wait_for_outcome(&busy, "conflict");
    }
    let new_node = new.start();
    drop(lock);
    all.merge(ids(&load_of("/new?count=20", &[new_node.port()], 4, 20)));
    assert_eq!(all.verdict().repeats, 0, "{layout:?}, {late:?}: {}", all.verdict());
    assert_eq!(new_node.get("/new").status, 503);
    new_node.says_why("went back");
    command(&new, &format!("fence default --past {} --yes", mark(&busy)));
    new_node.wait_until_ready();
    all.merge(load(&[new_node.port()], 4, 5_000));
    all
}
