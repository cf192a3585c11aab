//! Servers that pass for the right one: outside of their cluster, or in a part of it that should have stopped.

use crate::counters::ids;
use crate::database::{ACCOUNT, Holder};
use crate::rig::{Outcome, Run, command, start, under_load};
use crate::support::checker::Checker;
use crate::support::database::{Database, Flavor};
use crate::support::galera::Cluster;
use crate::support::group::Group;
use crate::support::http::load_of;
use crate::support::proxy::Proxy;
use crate::support::replica::Pair;
use crate::support::server::{Server, Setup, eventually};
use crate::support::{sql, sql_value, try_sql};

/// `default` is in `generator_table`, and this one is a counter.
const SEQUENCES: &str = "sequences: {orders: {step: 100}}";

/// The IDs of `orders` are moved here, for each sequence counts for itself.
const ORDERS: u64 = 1 << 53;

/// How many IDs of each sequence are leased in the cluster while a stray is there.
const BESIDE: i64 = 8_000;

/// How many a new node takes. At a stray it repeats them: it takes fewer than were leased beside the stray.
const OF_NEW: i64 = 1_000;

const IDS_A_REQUEST: i64 = 20;

/// A node that has these hosts, in this order.
fn node(run: &Run, hosts: &[&Database]) -> Setup {
    let hosts: Vec<String> = hosts.iter().map(|host| format!("127.0.0.1:{}", host.port())).collect();
    let setup = run.node_of(&hosts.join(","), SEQUENCES).env("SEQSVR_REFILL__MAX_BLOCK", "500");
    // On a busy machine a cluster takes more than ten seconds to go on without a member.
    if run.is_guarded() { setup.env("SEQSVR_LIMITS__WAIT", "40s") } else { setup }
}

/// Takes `count` IDs of each sequence.
fn take(node: &Server, count: i64) -> Checker {
    let take = |path: &str| load_of(&format!("{path}?count={IDS_A_REQUEST}"), &[node.port()], 4, count / IDS_A_REQUEST);
    let mut all = take("/new");
    all.merge(take("/new/orders").moved_by(ORDERS));
    all
}

/// `seqsvr doctor` fails, and says why.
fn doctor_fails(setup: &Setup, words: &str, row: &str) {
    let (code, output) = setup.run(&["doctor"]);
    assert!(code == 2 && output.contains(words), "{row}: {words}: {output}");
}

/// What was issued from one cluster.
struct Issued<'a> {
    run: &'a Run,
    all: Checker,
    rows: u64,
}

impl<'a> Issued<'a> {
    fn new(run: &'a Run) -> Self {
        Self { run, all: Checker::default(), rows: 0 }
    }

    fn take(&mut self, node: &Server, count: i64) {
        self.all.merge(take(node, count));
    }

    /// The same of a node that may refuse.
    fn try_take(&mut self, node: &Server, count: i64) {
        self.all.merge(ids(&take(node, count)));
    }

    /// A new node, which sees who is in the cluster now, takes some.
    fn take_from(&mut self, hosts: &[&Database]) -> Server {
        let node = start(&node(self.run, hosts));
        self.take(&node, OF_NEW);
        node
    }

    /// Takes in what was issued at a stray. With the guard off some of it must be a repeat.
    fn take_in(&mut self, row: &str, at_stray: &Checker) {
        let before = self.all.verdict().repeats;
        // Nodes that remember may refuse.
        self.all.merge(ids(at_stray));
        let repeats = self.all.verdict().repeats - before;
        println!("{row}: {repeats} of {} repeated", at_stray.ids().len());
        self.rows += 1;
        assert!(self.run.is_guarded() || repeats > 0, "{row}: nothing repeats with the guard off");
    }

    /// The node has no IDs, for its host is a stray. It may still hold some.
    fn refuses(&mut self, node: &Server, row: &str) {
        eventually(&format!("{row}: a node at the stray refuses"), || {
            self.try_take(node, 4 * IDS_A_REQUEST);
            let is_stray = leases(node, "stray") > 0.0;
            (is_stray && node.get("/readyz").status == 503).then_some(())
        });
    }

    /// `stray` takes writes beside the `others`. New nodes come: one that has only the stray, and those that have all hosts, in
    /// both orders.
    fn beside(&mut self, row: &str, stray: &Database, others: [&Database; 2]) {
        let busy = self.take_from(&others);
        self.take(&busy, BESIDE);
        let [one, two] = others;
        let alone = node(self.run, &[stray]);
        if self.run.is_guarded() {
            let setup = impatient(alone);
            let alone = setup.start();
            self.refuses(&alone, row);
            doctor_fails(&setup, "FAIL  identity", row);
            for hosts in [[stray, one, two], [one, two, stray]] {
                self.take_from(&hosts);
            }
            doctor_fails(&node(self.run, &[one, two, stray]), "takes writes, but", row);
            // Of a group only the primary takes writes.
            let writer = if sql_value(one, "SELECT @@global.read_only") == "0" { one } else { two };
            self.behind_one_name(row, writer, stray);
            self.refuses(&alone, row);
            self.rows += 1;
        } else {
            self.take_in(&format!("{row}, alone"), &take(&start(&alone), OF_NEW));
            let first = node(self.run, &[stray, one, two]);
            self.take_in(&format!("{row}, first of all"), &take(&start(&first), OF_NEW));
        }
    }

    /// One name leads to the cluster and later to the stray, as a balancer may: what a node found behind it holds no longer.
    fn behind_one_name(&mut self, row: &str, member: &Database, stray: &Database) {
        let proxy = Proxy::start(member.port());
        let name = format!("127.0.0.1:{}", proxy.port());
        let node = start(&impatient(self.run.node_of(&name, SEQUENCES).env("SEQSVR_REFILL__MAX_BLOCK", "500")));
        // Where a lease takes longer than the node waits, some requests are refused.
        self.try_take(&node, OF_NEW);
        assert!(proxy.bytes() > 0 && leases(&node, "ok") > 0.0, "it leases through the proxy");
        proxy.set_target(stray.port());
        for connection in sql(member, "SHOW PROCESSLIST") {
            // Those of nodes; one may end by itself.
            if connection[1] == "root" && connection[2].starts_with("127.0.0.1:") {
                let _ = try_sql(member, &format!("KILL {}", connection[0]));
            }
        }
        self.refuses(&node, row);
    }

    /// The third of `hosts` becomes a stray by `split`, while nodes lease from it.
    fn under_nodes(&mut self, row: &str, hosts: [&Database; 3], split: impl FnOnce()) {
        let [one, two, stray] = hosts;
        let at_stray = start(&impatient(node(self.run, &[stray])));
        let at_other = start(&node(self.run, &[one]));
        let of_all = start(&node(self.run, &[stray, one, two]));
        let nodes = [&at_stray, &at_other, &of_all];
        for node in nodes {
            self.try_take(node, OF_NEW);
        }
        split();
        if self.run.is_guarded() {
            self.refuses(&at_stray, row);
            self.take(&at_other, BESIDE);
            of_all.wait_until_ready();
            self.take(&of_all, BESIDE);
            self.refuses(&at_stray, row);
            self.rows += 1;
        } else {
            let first = take(&at_stray, BESIDE);
            self.try_take(&at_other, BESIDE);
            self.try_take(&of_all, BESIDE);
            self.take_in(row, &first);
        }
    }

    /// `kill` ends the primary of a group, which leaves no majority. `node` leased little, and long ago: nothing that it
    /// remembers tells it of the stray, the only one of its hosts that takes writes now.
    fn without_a_primary(&mut self, row: &str, node: &Server, kill: impl FnOnce()) {
        kill();
        if self.run.is_guarded() {
            self.refuses(node, row);
            self.rows += 1;
        } else {
            self.take_in(row, &take(node, OF_NEW));
        }
    }

    /// All but `older`, which lacks what they issued, are gone: an operator decides.
    fn after_an_outage(&mut self, row: &str, older: &Database) {
        let setup = impatient(node(self.run, &[older]));
        let new = setup.start();
        if self.run.is_guarded() {
            self.refuses(&new, row);
            command(&setup, "fence --skip 1000000 --yes");
            new.wait_until_ready();
            self.try_take(&new, OF_NEW);
            self.rows += 1;
        } else {
            new.wait_until_ready();
            self.take_in(row, &take(&new, OF_NEW));
        }
    }

    /// Which of the first two nodes of the cluster, the others being gone, is the first member that is recorded.
    fn first_member(&mut self, cluster: &Cluster) -> usize {
        let both = [cluster.node(0), cluster.node(1)];
        // It records who is left.
        self.take_from(&both);
        if !self.run.is_guarded() {
            return 0;
        }
        let recorded = sql_value(both[0], "SELECT SUBSTRING_INDEX(members, ' ', 1) FROM sequence.seqsvr_meta");
        let id = |i| sql(cluster.node(i), "SHOW STATUS LIKE 'wsrep_gcomm_uuid'").concat().swap_remove(1);
        (0..2).find(|i| id(*i) == recorded).expect("one of them is the first")
    }

    fn outcome(self) -> Outcome {
        let mut outcome = Outcome { rounds: self.rows, ..Outcome::default() };
        outcome.take_in(self.all);
        outcome
    }
}

/// How many leases of a node ended so.
fn leases(node: &Server, outcome: &str) -> f64 {
    let metrics = node.get("/metrics").body;
    let series = format!("seqsvr_leases_total{{outcome=\"{outcome}\"");
    let values = metrics.lines().filter(|line| line.starts_with(&series)).filter_map(|line| line.rsplit(' ').next());
    values.map(|value| value.parse::<f64>().expect("a count")).sum()
}

/// Requests that can't be answered get their 503 soon.
fn impatient(setup: Setup) -> Setup {
    setup.env("SEQSVR_LIMITS__WAIT", "200ms")
}

/// The primary of a group is killed, and later an operator makes it the primary again. No guard is concerned: nothing that was
/// acknowledged is lost.
pub fn group_failover(run: &Run) -> Outcome {
    let mut group = Group::start();
    let mut issued = Issued::new(run);
    let nodes = [[0, 1, 2], [2, 0, 1]].map(|hosts| issued.take_from(&hosts.map(|i| group.member(i))));
    let load = || {
        let mut all = Checker::default();
        for node in &nodes {
            all.merge(take(node, OF_NEW));
        }
        all
    };
    for _ in 0..run.rounds(3, 1) {
        // While nobody is elected, what the nodes hold may be used up.
        let (all, ()) = under_load(
            || ids(&load()),
            || {
                group.kill(0);
                group.wait_for_primary(&[1, 2]);
            },
        );
        issued.all.merge(all);
        nodes.iter().for_each(Server::wait_until_ready);
        issued.all.merge(load());
        group.restart(0);
        group.join(0);
        issued.all.merge(under_load(load, || group.switch_to(0)).0);
        issued.rows += 1;
    }
    issued.outcome()
}

/// Members of a group that take writes outside of it, and groups that are made again.
pub fn outside_of_its_group(run: &Run) -> Outcome {
    let mut group = Group::start();
    let mut issued = Issued::new(run);
    issued.take_from(&group.all());
    let idle = node(run, &group.all());
    let idle = start(&if run.is_guarded() { impatient(idle) } else { idle.patient() });
    issued.take(&idle, OF_NEW);

    // Nobody does more than start the server again.
    group.kill(0);
    group.restart(0);
    group.wait_for_primary(&[1, 2]);
    issued.beside("killed and restarted", group.member(0), [group.member(1), group.member(2)]);

    if run.is_guarded() {
        // It could not join if anything had been written to it.
        group.join(0);
        issued.take_from(&group.all());
    } else {
        group.kill(0);
    }
    group.leave_and_take_writes(2);
    issued.beside("left and made writable", group.member(2), [group.member(0), group.member(1)]);
    group.bootstrap(2);
    issued.beside("a second group of the name", group.member(2), [group.member(0), group.member(1)]);
    // Without the guard member 0 could not be taken back.
    let primary = group.wait_for_primary(if run.is_guarded() { &[0, 1] } else { &[1] });
    issued.without_a_primary("a stray and no primary", &idle, || group.kill(primary));

    (0..3).for_each(|i| group.kill(i));
    group.restart(2);
    group.bootstrap(2);
    issued.after_an_outage("made again from an older member", group.member(2));
    issued.outcome()
}

/// A part of a Galera cluster goes on that should have stopped.
pub fn a_part_of_a_galera_cluster(run: &Run) -> Outcome {
    let mut cluster = Cluster::start();
    let mut issued = Issued::new(run);
    let hosts = cluster.all();
    issued.under_nodes("wsrep_on=OFF", hosts, || cluster.replicate(2, false));

    cluster.rejoin_with_new_data(2);
    issued.take_from(&cluster.all());
    cluster.isolate(2);
    cluster.make_primary(2);
    issued.beside("isolated, pc.bootstrap", cluster.node(2), [cluster.node(0), cluster.node(1)]);

    cluster.kill(2);
    cluster.bootstrap(2);
    issued.beside("bootstrapped with its UUID", cluster.node(2), [cluster.node(0), cluster.node(1)]);

    cluster.rejoin_with_new_data(2);
    cluster.ignore_quorum();
    let hosts = cluster.all();
    issued.under_nodes("pc.ignore_quorum", hosts, || cluster.split_off(2));

    (0..3).for_each(|i| cluster.kill(i));
    cluster.bootstrap(2);
    issued.after_an_outage("bootstrapped from an older node", cluster.node(2));
    issued.outcome()
}

/// A Galera cluster of two is cut into halves, which both go on as `pc.ignore_sb` has it.
pub fn a_half_of_a_galera_cluster(run: &Run) -> Outcome {
    let mut cluster = Cluster::start();
    let mut issued = Issued::new(run);
    issued.take_from(&cluster.all());
    cluster.kill(2);
    cluster.ignore_split_brain(&[0, 1]);
    // The half with the first recorded member goes on.
    let first = issued.first_member(&cluster);
    let other = 1 - first;
    let hosts = [first, 2, other].map(|i| cluster.node(i));
    issued.under_nodes("pc.ignore_sb", hosts, || cluster.split_off(other));
    issued.outcome()
}

/// A failover of servers that say that they replicate by Galera, and have no provider for it.
pub fn galera_without_a_provider(run: &Run) -> Outcome {
    let mut pair = Pair::start_with_args(Flavor::MariaDb, &["--wsrep-on=ON", "--wsrep-provider=none"]);
    let mut issued = Issued::new(run);
    let busy = issued.take_from(&[&pair.primary]);
    pair.wait_until_caught_up();
    pair.stop_replication();
    issued.take(&busy, BESIDE);
    pair.primary.kill();
    pair.promote();
    let new = impatient(node(run, &[&pair.replica])).start();
    if run.is_guarded() {
        eventually("a new node refuses", || {
            let is_seen = leases(&new, "not_fenced") > 0.0;
            (is_seen && new.get("/readyz").status == 503).then_some(())
        });
        issued.rows += 1;
    } else {
        new.wait_until_ready();
        issued.take_in("wsrep_on=ON, no provider", &take(&new, OF_NEW));
    }
    issued.outcome()
}

/// A member of a multi-primary group takes writes, and has not applied yet what others committed.
pub fn a_member_that_lags(run: &Run) -> Outcome {
    let mut group = Group::start_multi_primary();
    let mut issued = Issued::new(run);
    let old = start(&impatient(node(run, &[group.member(0)])));
    issued.try_take(&old, OF_NEW);
    sql(group.member(0), &format!("{ACCOUNT}; CREATE TABLE sequence.blocker (i INT PRIMARY KEY)"));
    let lag = hold_up(&group, 1);

    // The step is migrated at a member that does not lag.
    let with_step = |hosts: &[&Database], step| node(run, hosts).env("SEQSVR_STEP", step);
    command(&with_step(&[group.member(1)], "100"), "migrate --step 10 --yes");
    let new = start(&with_step(&[group.member(1)], "10"));
    // It waits for the member, if it is guarded.
    issued.try_take(&old, if run.is_guarded() { OF_NEW } else { BESIDE });
    issued.take_in("migrate --step", &take(&new, BESIDE));
    drop(lag);
    if !run.is_guarded() {
        return issued.outcome();
    }
    eventually("it knows that the step is another one", || {
        issued.try_take(&old, 4 * IDS_A_REQUEST);
        (leases(&old, "other_step") > 0.0).then_some(())
    });
    drop((old, new));

    // A node moves to the member that lags. That is no counter that went back.
    let moves = start(&impatient(with_step(&[group.member(1), group.member(0)], "10")));
    let stays = start(&with_step(&[group.member(2)], "10"));
    let lag = hold_up(&group, 2);
    issued.try_take(&moves, BESIDE);
    group.kill(1);
    eventually("it waits for the member", || {
        issued.try_take(&moves, 4 * IDS_A_REQUEST);
        (leases(&moves, "unavailable") > 1.0).then_some(())
    });
    issued.take(&stays, OF_NEW);
    drop(lag);
    for node in [&moves, &stays] {
        node.wait_until_ready();
        issued.try_take(node, BESIDE);
        assert!(leases(node, "regressed") < 1.0, "{}", node.log());
    }
    issued.outcome()
}

/// Member 0 applies nothing that others commit, until what this returns is dropped.
fn hold_up(group: &Group, row: u32) -> Holder {
    group.wait_until_applied(0);
    let mut lag = Holder::new();
    lag.hold(group.member(0), "LOCK TABLES blocker READ").expect("the table is locked");
    group.wait_until_applied(1);
    sql(group.member(1), &format!("INSERT INTO sequence.blocker VALUES ({row})"));
    lag
}
