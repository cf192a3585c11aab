//! More than one database server: a replica that is promoted, a cluster that is cut apart.

use crate::counters::{ids, migrate_to_and_fro};
use crate::rig::{LAYOUTS, Layout, Outcome, Run, command, start};
use crate::support::checker::Checker;
use crate::support::database::Flavor;
use crate::support::galera::Cluster;
use crate::support::http::load;
use crate::support::proxy::Proxy;
use crate::support::replica::Pair;
use crate::support::server::{Server, Setup, eventually};
use crate::support::sql;

/// A primary that is killed before its replica got what it acknowledged last.
struct Failover {
    pair: Pair,
    proxy: Proxy,
    setups: [Setup; 3],
    /// One that is busy all the time, and one that is idle since before.
    nodes: [Server; 2],
    all: Checker,
}

impl Failover {
    fn new(run: &Run, flavor: Flavor, layout: Layout, skip: &str) -> Self {
        let pair = Pair::start(flavor);
        let proxy = Proxy::start(pair.primary.port());
        // Three: the third is new when the primary is gone.
        let setups = [(); 3].map(|()| run.node(proxy.port(), layout).env("SEQSVR_MYSQL__FAILOVER_SKIP", skip));
        let nodes = [start(&setups[0]), start(&setups[1])];
        let mut all = load(&nodes.each_ref().map(Server::port), 4, 4_000);
        pair.wait_until_caught_up();
        pair.stop_replication();
        all.merge(load(&[nodes[0].port()], 4, 20_000));
        Self { pair, proxy, setups, nodes, all }
    }

    /// The nodes are held up meanwhile, so that whoever is started then comes first.
    fn fail_over(&mut self) {
        let before = self.proxy.bytes();
        assert!(before > 0, "the nodes lease through the proxy");
        self.nodes.iter().for_each(|node| node.signal("STOP"));
        self.pair.primary.kill();
        self.pair.promote();
        self.proxy.set_target(self.pair.replica.port());
    }

    fn go_on(&self) {
        self.nodes.iter().for_each(|node| node.signal("CONT"));
    }
}

fn combinations(run: &Run) -> Vec<(Flavor, Layout)> {
    let all = [Flavor::MariaDb, Flavor::MySql9].map(|flavor| LAYOUTS.map(|layout| (flavor, layout))).concat();
    // Each make and each layout once, or all of them.
    if run.is_full { all } else { vec![all[0], all[3]] }
}

/// Where repeats are looked for, the nodes that remember may well find out, and refuse.
fn ids_or_all(run: &Run, checker: Checker) -> Checker {
    if run.is_guarded() { checker } else { ids(&checker) }
}

/// With `mysql.failover_skip`: whoever comes first fences.
pub fn failover(run: &Run) -> Outcome {
    let mut outcome = Outcome::default();
    for (flavor, layout) in combinations(run) {
        outcome.rounds += 1;
        let mut failover = Failover::new(run, flavor, layout, "1000000");
        failover.fail_over();
        // The one that knows nothing comes first, then the one that knows little.
        let new = start(&failover.setups[2]);
        failover.all.merge(load(&[new.port()], 4, 20_000));
        failover.go_on();
        failover.all.merge(ids_or_all(
            run,
            load(&[failover.nodes[1].port()], 4, if run.is_guarded() { 20_000 } else { 2_000 }),
        ));
        let ports = [new.port(), failover.nodes[0].port(), failover.nodes[1].port()];
        failover.all.merge(ids_or_all(run, load(&ports, 9, if run.is_guarded() { 30_000 } else { 500 })));
        if run.is_guarded() {
            let fenced = new.log().matches("moved on by mysql.failover_skip").count();
            assert_eq!(fenced, 1, "{flavor:?} {layout:?}: once, and by the one that came first: {}", new.log());
        }
        outcome.take_in(failover.all);
    }
    outcome
}

/// Without it: all refuse, until a person fences.
pub fn failover_fenced_by_hand(run: &Run) -> Outcome {
    let mut outcome = Outcome::default();
    for (flavor, layout) in combinations(run) {
        outcome.rounds += 1;
        let mut failover = Failover::new(run, flavor, layout, "0");
        failover.fail_over();
        let new = failover.setups[2].start();
        failover.go_on();
        eventually("a new node refuses", || new.get("/readyz").body.contains("last fenced in epoch").then_some(()));
        assert!(new.metric("seqsvr_leases_total{outcome=\"not_fenced\"") > 0.0);
        let dry = command(&failover.setups[2], "fence --skip 1000000 --dry-run");
        assert!(dry.contains("UPDATE seqsvr_") && new.get("/readyz").status == 503, "nothing is changed by {dry}");
        command(&failover.setups[2], "fence --skip 1000000 --yes");
        new.wait_until_ready();
        let ports = [new.port(), failover.nodes[0].port(), failover.nodes[1].port()];
        failover.all.merge(load(&ports, 9, 30_000));
        outcome.take_in(failover.all);
    }
    outcome
}

/// The old primary comes back, with its old rows and taking writes, beside the one that nodes lease from since.
pub fn a_primary_that_comes_back(run: &Run) -> Outcome {
    let mut outcome = Outcome::default();
    for (flavor, layout) in combinations(run) {
        outcome.rounds += 1;
        let mut pair = Pair::start(flavor);
        let hosts = [&pair.primary, &pair.replica].map(|host| format!("127.0.0.1:{}", host.port())).join(",");
        // Past what the failover loses, and no further than what the old primary may count on to.
        let node = || {
            let node = run.node_on(&pair.primary, layout).env("SEQSVR_MYSQL__FAILOVER_SKIP", "50000");
            node.env("SEQSVR_MYSQL__HOST", &hosts)
        };
        let (old, new) = (node(), node());
        let old = start(&old);
        let mut all = load(&[old.port()], 4, 4_000);
        pair.wait_until_caught_up();
        pair.stop_replication();
        all.merge(load(&[old.port()], 4, 20_000));
        pair.primary.kill();
        pair.promote();
        all.merge(load(&[old.port()], 4, 20_000));
        pair.primary.restart();

        let new = new.start();
        if run.is_guarded() {
            eventually("a new node refuses", || new.get("/readyz").body.contains("takes writes too").then_some(()));
            assert!(new.metric("seqsvr_leases_total{outcome=\"two_writers\"") > 0.0);
            // Who leased before goes on, and the other one once a person has decided.
            all.merge(load(&[old.port()], 4, 10_000));
            sql(&pair.primary, "SET GLOBAL read_only = 1");
            new.wait_until_ready();
            all.merge(load(&[old.port(), new.port()], 8, 20_000));
        } else {
            new.wait_until_ready();
            all.merge(ids(&load(&[new.port()], 4, 100_000)));
        }
        outcome.take_in(all);
    }
    outcome
}

/// One of three nodes of a cluster is cut off, and comes back.
pub fn cluster_partition(run: &Run) -> Outcome {
    let mut outcome = Outcome::default();
    let cluster = Cluster::start();
    for layout in LAYOUTS {
        let node = |i| run.node_on(cluster.node(i), layout).env("SEQSVR_REFILL__MAX_BLOCK", "500");
        // The one that is cut off is to say no before long; the others wait as long as a slow machine takes.
        let setups = [node(0), node(1), node(2).env("SEQSVR_LIMITS__WAIT", "1s")];
        let nodes = setups.each_ref().map(start);
        let ports = nodes.each_ref().map(Server::port);
        let mut all = load(&ports, 9, 10_000);
        for _ in 0..run.rounds(3, 1) {
            outcome.rounds += 1;
            cluster.isolate(2);
            all.merge(load(&ports[..2], 8, 10_000));
            // It hands out what it holds, and then says no.
            eventually("the node that is cut off says no", || {
                all.merge(ids(&load(&ports[2..], 8, 40)));
                (nodes[2].get("/readyz").status == 503).then_some(())
            });
            cluster.heal(2);
            nodes[2].wait_until_ready();
            all.merge(load(&ports, 9, 10_000));
        }
        drop(nodes);
        outcome.take_in(all);
        // The next layout begins with nothing.
        sql(cluster.node(0), "DROP DATABASE sequence; CREATE DATABASE sequence");
    }
    outcome
}

/// The step is migrated on one node of the cluster, while servers lease from all.
pub fn migrations_on_a_cluster(run: &Run) -> Outcome {
    let cluster = Cluster::start();
    let ports = [0, 1, 2].map(|i| cluster.node(i).port());
    migrate_to_and_fro(run, &ports, run.rounds(30, 3))
}
