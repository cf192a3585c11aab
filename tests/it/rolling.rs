//! A rolling restart: two nodes behind `HAProxy`, which runs on the file that docs/operations.md recommends.

use std::time::Duration;

use crate::support::balancer::{Balancer, LEAD, NODES};
use crate::support::database::{Database, Flavor};
use crate::support::http::load_during;
use crate::support::server::{Setup, steady_ports};

#[test]
fn nodes_are_restarted_in_turn_under_load_and_no_request_fails() {
    let database = Database::start(Flavor::MariaDb);
    let [port, ports @ ..]: [u16; 3] = steady_ports();
    let setups = ports.map(|port| Setup::seed(&database).patient().at(port).env("SEQSVR_SHUTDOWN__LEAD", LEAD));
    let mut nodes = setups.each_ref().map(Setup::start);
    let balancer = Balancer::start(port, ports);
    let answered = load_during(port, Duration::ZERO, || {
        for ((name, node), setup) in NODES.iter().zip(&mut nodes).zip(&setups) {
            balancer.restart(name, node, setup);
        }
    });
    println!("HAProxy repeated {} and {} requests", balancer.stat("a", "wretr"), balancer.stat("b", "wretr"));
    answered.assert_clean(answered.ids().len());
}
