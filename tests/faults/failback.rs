//! A failover, and a planned return to the old primary after it was rebuilt.

use crate::counters::ids;
use crate::database::ACCOUNT;
use crate::rig::{FLAVORS, Layout, Outcome, Run, SEQUENCES, ask, command, start, wait_for_outcome};
use crate::support::checker::Checker;
use crate::support::database::Flavor;
use crate::support::replica::Pair;
use crate::support::server::{Server, Setup, eventually};
use crate::support::sql;

struct Case {
    flavor: Flavor,
    /// The value of `mysql.failover_skip`; with 0 an operator fences.
    skip: &'static str,
    /// The sequence that nobody leases from while the replica serves, and the other one.
    idle: &'static str,
    busy: &'static str,
}

impl Case {
    fn all(run: &Run) -> Vec<Self> {
        let mut all = Vec::new();
        for flavor in FLAVORS {
            for skip in ["100000", "0"] {
                for (idle, busy) in [(1, 0), (0, 1)] {
                    all.push(Self { flavor, skip, idle: SEQUENCES[idle], busy: SEQUENCES[busy] });
                }
            }
        }
        if !run.is_full {
            // Each value of each once.
            let last = all.pop().expect("a case");
            all.truncate(1);
            all.push(last);
        }
        all
    }

    fn is_by_hand(&self) -> bool {
        self.skip == "0"
    }
}

/// The nodes, by what they do.
struct Nodes {
    /// Leases what the failover loses, and is stopped until the old primary serves again.
    early: Server,
    /// Goes on all the time.
    busy: Server,
    /// Leased little, and comes first at the old primary.
    low: Server,
}

/// The old primary is rebuilt from the new one, keeps its identity, and serves again: A, B, A. A sequence that was idle at B
/// has the row that it had at A, without what the failover lost.
pub fn failback(run: &Run) -> Outcome {
    let mut outcome = Outcome::default();
    for case in Case::all(run) {
        outcome.rounds += 1;
        let all = there_and_back(run, &case);
        println!("{:?}, failover_skip {}, {} is idle: {}", case.flavor, case.skip, case.idle, all.verdict());
        outcome.take_in(all);
    }
    outcome
}

fn there_and_back(run: &Run, case: &Case) -> Checker {
    let mut pair = Pair::start(case.flavor);
    sql(&pair.primary, ACCOUNT);
    let node = || -> Setup {
        // The account may not write to a server that is read-only.
        let node = run.node_on_all(&[&pair.primary, &pair.replica], Layout::Ticket).env("SEQSVR_MYSQL__USER", "ids");
        node.env("SEQSVR_MYSQL__FAILOVER_SKIP", case.skip).env("SEQSVR_REFILL__MAX_BLOCK", "500")
    };
    let [early, busy, low, new] = [(); 4].map(|()| node());
    let nodes = Nodes { early: start(&early), busy: start(&busy), low: start(&low) };
    command(&new, "sequence create orders --step 100");
    let mut all = Checker::default();
    for sequence in SEQUENCES {
        all.merge(ask(sequence, 1, &ports(&[&nodes.early, &nodes.busy, &nodes.low]), 900));
    }
    pair.wait_until_caught_up();
    pair.stop_replication();
    for sequence in SEQUENCES {
        all.merge(ask(sequence, 1, &ports(&[&nodes.early]), 2_000));
    }
    nodes.early.signal("STOP");
    nodes.low.signal("STOP");

    pair.primary.kill();
    pair.promote();
    if case.is_by_hand() {
        // By its name, as the node that leases from it says.
        command(&new, &format!("fence {} --skip 100000 --yes", case.busy));
    }
    all.merge(ask(case.busy, 1, &ports(&[&nodes.busy]), 3_000));
    pair.rebuild_old_primary();
    pair.switch_over();

    nodes.low.signal("CONT");
    if !run.is_guarded() {
        all.merge(run.ids_or_all(ask(case.idle, 1, &ports(&[&nodes.low]), 1_500)));
        return all;
    }
    let new_node = new.start();
    if case.is_by_hand() {
        wait_for_outcome(&new_node, "not_fenced");
        assert_eq!(new_node.get("/readyz").status, 503);
        eventually("the idle sequence is refused too", || {
            let some = ask(case.idle, 100, &[nodes.low.port()], 4);
            let refuses = some.verdict().errors > 0;
            all.merge(ids(&some));
            refuses.then_some(())
        });
        // Once, for all sequences.
        command(&new, "fence --skip 100000 --yes");
    }
    new_node.wait_until_ready();
    all.merge(ask(case.idle, 1, &ports(&[&nodes.low]), 1_500));
    nodes.early.signal("CONT");
    for sequence in SEQUENCES {
        all.merge(ask(sequence, 1, &ports(&[&new_node, &nodes.early, &nodes.busy, &nodes.low]), 4_000));
    }
    all
}

fn ports(nodes: &[&Server]) -> Vec<u16> {
    nodes.iter().map(|node| node.port()).collect()
}
