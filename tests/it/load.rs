//! Many connections, two nodes on one database, and a client that does what the Go server does beside them.

use std::collections::HashSet;

use mysql_async::prelude::Queryable;

use crate::seed::SEED_TABLE;
use crate::support::database::{Database, Flavor};
use crate::support::http::load_of;
use crate::support::server::{Server, Setup};
use crate::support::{sql, sql_value};

/// What the Go server does on its connection: a plain REPLACE of its own row, one ticket at a time. The tickets, and how
/// often it was told of a deadlock (which ends the Go server).
fn go_node(port: u16, tickets: usize) -> (Vec<u64>, usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let options = mysql_async::OptsBuilder::default()
            .ip_or_hostname("127.0.0.1")
            .tcp_port(port)
            .user(Some("root"))
            .db_name(Some("sequence"))
            .prefer_socket(false);
        let mut connection = mysql_async::Conn::new(options).await.expect("the database accepts connections");
        let (mut leased, mut deadlocks) = (Vec::new(), 0);
        while leased.len() < tickets {
            match connection.query_drop("REPLACE INTO generator_table (uuid) VALUES ('the Go node')").await {
                Ok(()) => leased.push(connection.last_insert_id().expect("a ticket")),
                Err(mysql_async::Error::Server(error)) if error.code == 1213 => deadlocks += 1,
                Err(error) => panic!("{error}"),
            }
        }
        connection.disconnect().await.expect("a clean end");
        (leased, deadlocks)
    })
}

struct Rig {
    database: Database,
    nodes: [Server; 2],
    _setups: [Setup; 2],
}

fn rig(flavor: Flavor, step: u64) -> Rig {
    let database = Database::start(flavor);
    sql(&database, &format!("USE sequence; {SEED_TABLE}"));
    let setup = || Setup::seed(&database).patient().env("SEQSVR_STEP", &step.to_string());
    let setups = [setup(), setup()];
    let nodes = setups.each_ref().map(Setup::start);
    Rig { database, nodes, _setups: setups }
}

impl Rig {
    fn ports(&self) -> [u16; 2] {
        self.nodes.each_ref().map(Server::port)
    }

    /// 64 connections over both nodes, each request for `count` ids: no repeat, no error, and few rows left.
    fn load(&self, requests: i64, count: i64) -> Vec<u64> {
        let path = if count == 1 { "/new" } else { &*format!("/new?count={count}") };
        let checker = load_of(path, &self.ports(), 64, requests);
        checker.assert_clean(usize::try_from(requests * count).unwrap());
        let rows: u64 = sql_value(&self.database, "SELECT COUNT(*) FROM sequence.generator_table").parse().unwrap();
        // One a node; while a lease is under way, those of its tickets.
        assert!(rows <= 3 + 2 * 1_000, "{rows} rows");
        for node in &self.nodes {
            assert_eq!(node.metric("seqsvr_leases_total{outcome=\"regressed\""), 0.0);
            println!("leases of a node: {}", node.metric("seqsvr_leases_total{outcome=\"ok\""));
        }
        checker.ids().to_vec()
    }
}

#[test]
fn step_2_with_many_tickets() {
    rig(Flavor::MariaDb, 2).load(50_000, 1);
}

#[test]
fn step_2_with_many_tickets_on_mysql_9() {
    rig(Flavor::MySql9, 2).load(50_000, 1);
}

#[test]
fn step_100_and_a_million_ids() {
    let rig = rig(Flavor::MariaDb, 100);
    let ids: HashSet<u64> = rig.load(100_000, 1).into_iter().chain(rig.load(90_000, 10)).collect();
    assert_eq!(ids.len(), 1_000_000);
}

/// No ticket is used by both, while a Go node leases `tickets` of them.
fn beside_a_go_node(flavor: Flavor, step: u64, [requests, count]: [i64; 2], tickets: usize) {
    let rig = rig(flavor, step);
    let port = rig.database.port();
    let go = std::thread::spawn(move || go_node(port, tickets));
    let ids = rig.load(requests, count);
    let (leased, deadlocks) = go.join().expect("the Go node's thread");
    println!("{flavor:?}, step {step}: {tickets} tickets of the Go node, {deadlocks} deadlocks told to it");
    let theirs: HashSet<u64> = leased.into_iter().collect();
    assert_eq!(theirs.len(), tickets);
    let ours: HashSet<u64> = ids.iter().map(|id| (id - 1) / step).collect();
    assert_eq!(ours.intersection(&theirs).count(), 0, "a ticket was used by both");
    assert!(ours.iter().max() > theirs.iter().min(), "they ran side by side");
}

#[test]
fn step_2_beside_a_go_node() {
    beside_a_go_node(Flavor::MariaDb, 2, [50_000, 1], 10_000);
}

#[test]
fn step_100_and_a_million_ids_beside_a_go_node() {
    beside_a_go_node(Flavor::MariaDb, 100, [100_000, 10], 10_000);
}

#[test]
fn step_2_beside_a_go_node_on_mysql_9() {
    beside_a_go_node(Flavor::MySql9, 2, [50_000, 1], 2_000);
}
