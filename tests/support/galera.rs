//! A Galera cluster of three `MariaDB` nodes. It is up in some ten seconds: each node copies the first one's data with rsync.

// Every test file that has this module compiles it anew, and few use all of it.
#![allow(dead_code)]

use std::env;
use std::ffi::OsString;
use std::iter;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::database::{Database, Flavor};
use super::process::unpacked;
use super::server::{eventually, eventually_within, steady_ports};
use super::{sql, try_sql};

const NODES: usize = 3;

/// Only the node that makes the cluster has it, the first time.
const NEW_CLUSTER: &str = "--wsrep-new-cluster";

/// Three nodes; all are writable.
pub struct Cluster {
    nodes: Vec<Database>,
}

impl Cluster {
    /// Starts all nodes; when it returns, they are one cluster.
    pub fn start() -> Self {
        let ports: [u16; NODES] = steady_ports();
        let members: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let address = format!("--wsrep-cluster-address=gcomm://{}", members.join(","));
        let mut cluster = Self { nodes: Vec::new() };
        for (i, port) in ports.into_iter().enumerate() {
            let node = start_node(i, port, &address);
            cluster.nodes.push(node);
            cluster.wait_until_synced(i);
        }
        cluster.nodes[0].forget_arg(NEW_CLUSTER);
        cluster
    }

    /// Node `i`, from 0.
    pub fn node(&self, i: usize) -> &Database {
        &self.nodes[i]
    }

    /// All nodes, in order.
    pub fn all(&self) -> [&Database; NODES] {
        std::array::from_fn(|i| &self.nodes[i])
    }

    /// Cuts node `i` off from the others, not from its clients. When it returns, both sides know: the node refuses writes
    /// (1047), and the others take them.
    pub fn isolate(&self, i: usize) {
        self.set_isolated(i, true);
        eventually("the node knows that it is alone", || (self.status(i, "cluster_status") != "Primary").then_some(()));
        for other in (0..NODES).filter(|other| *other != i) {
            let sees_it_gone = || {
                let is_smaller = self.status(other, "cluster_size") == (NODES - 1).to_string();
                (is_smaller && self.status(other, "ready") == "ON").then_some(())
            };
            eventually("the others go on", sees_it_gone);
        }
    }

    /// Ends [`Cluster::isolate`]; when it returns, the node has all that the others have.
    pub fn heal(&self, i: usize) {
        self.set_isolated(i, false);
        self.wait_until_synced(i);
    }

    /// Ends node `i` as a crash would.
    pub fn kill(&mut self, i: usize) {
        self.nodes[i].kill();
    }

    /// Starts node `i` again, which copies what it lacks from the others.
    pub fn rejoin(&mut self, i: usize) {
        self.nodes[i].restart();
        self.wait_until_synced(i);
    }

    /// Ends node `i` and starts it again with a new copy of what the others have.
    pub fn rejoin_with_new_data(&mut self, i: usize) {
        self.nodes[i].kill();
        std::fs::remove_file(self.saved_state(i)).expect("a node has a saved state");
        // By the last view that it saved, a node that was alone goes on alone.
        let _ = std::fs::remove_file(self.nodes[i].data_dir().join("gvwstate.dat"));
        // With the data comes the log of the last transactions, and a member that left by isolation must not be among them: the
        // new node would end with "Unsupported CC action version".
        let fill = "FOR n IN 1..500 DO REPLACE INTO filler.t VALUES (n); END FOR";
        let table = "CREATE DATABASE IF NOT EXISTS filler; CREATE TABLE IF NOT EXISTS filler.t (n INT PRIMARY KEY)";
        let mut others = (0..NODES).filter(|other| *other != i).map(|other| &self.nodes[other]);
        let running = others.find(|other| try_sql(other, "SELECT 1").is_some()).expect("another node runs");
        sql(running, &format!("{table}; BEGIN NOT ATOMIC {fill}; END"));
        self.rejoin(i);
    }

    /// Makes node `i`, which was killed, a cluster of its own that has the old cluster's UUID: `galera_new_cluster` does so
    /// on the node that it is run on.
    pub fn bootstrap(&mut self, i: usize) {
        let log = self.nodes[i].run_once("--wsrep-recover");
        let position = log.lines().find_map(|line| line.split_once("Recovered position: ")).expect("a position").1;
        let state = std::fs::read_to_string(self.saved_state(i)).expect("a node has a saved state");
        std::fs::write(self.saved_state(i), state.replace("safe_to_bootstrap: 0", "safe_to_bootstrap: 1"))
            .expect("the saved state is written");
        let arguments = [NEW_CLUSTER, &format!("--wsrep-start-position={position}")];
        for arg in arguments {
            self.nodes[i].add_arg(arg);
        }
        self.rejoin(i);
        for arg in arguments {
            self.nodes[i].forget_arg(arg);
        }
    }

    /// Makes node `i`, which is isolated, a cluster of its own.
    pub fn make_primary(&self, i: usize) {
        self.set_option(i, "pc.bootstrap=1");
        self.wait_until_synced(i);
    }

    /// From now on the nodes take writes however few of them are connected. Without a quorum to wait for, the parts of a cluster
    /// that is cut apart all go on.
    pub fn ignore_quorum(&self) {
        (0..NODES).for_each(|i| self.set_option(i, "pc.ignore_quorum=true"));
    }

    /// From now on these nodes take writes too where exactly half of the cluster is connected. Both halves go on then.
    pub fn ignore_split_brain(&self, nodes: &[usize]) {
        for i in nodes {
            self.set_option(*i, "pc.ignore_sb=true");
        }
    }

    /// Like [`Cluster::isolate`] while quorum or split brain is ignored; when it returns, the node is a cluster of its own.
    pub fn split_off(&self, i: usize) {
        self.set_isolated(i, true);
        eventually("the node is alone", || (self.status(i, "cluster_size") == "1").then_some(()));
        self.wait_until_synced(i);
    }

    /// Whether what node `i` commits on new connections goes to the others. Its connections are closed.
    pub fn replicate(&self, i: usize, is_on: bool) {
        sql(&self.nodes[i], &format!("SET GLOBAL wsrep_on = {is_on}"));
        let connections = "SELECT id FROM information_schema.processlist WHERE db = 'sequence'";
        for id in sql(&self.nodes[i], connections).concat() {
            // A connection may have ended by itself.
            sql(
                &self.nodes[i],
                &format!("BEGIN NOT ATOMIC DECLARE CONTINUE HANDLER FOR 1094 BEGIN END; KILL {id}; END"),
            );
        }
    }

    /// The file that says whether and where node `i` ended.
    fn saved_state(&self, i: usize) -> PathBuf {
        self.nodes[i].data_dir().join("grastate.dat")
    }

    fn set_option(&self, i: usize, option: &str) {
        sql(&self.nodes[i], &format!("SET GLOBAL wsrep_provider_options = '{option}'"));
    }

    fn set_isolated(&self, i: usize, is_isolated: bool) {
        self.set_option(i, &format!("gmcast.isolate={}", u8::from(is_isolated)));
    }

    fn wait_until_synced(&self, i: usize) {
        // It may close connections while it takes another node's data.
        let status = |name: &str| {
            let rows = try_sql(&self.nodes[i], &format!("SHOW STATUS LIKE 'wsrep_{name}'"))?;
            rows.concat().into_iter().nth(1)
        };
        // The state transfer is by programs that share the machine with other tests.
        eventually_within(Duration::from_secs(60), "the node is synced", || {
            let is_synced = status("local_state_comment")? == "Synced";
            (is_synced && status("ready")? == "ON").then_some(())
        });
    }

    /// One of the node's wsrep_ variables.
    fn status(&self, i: usize, name: &str) -> String {
        sql(&self.nodes[i], &format!("SHOW STATUS LIKE 'wsrep_{name}'")).concat().swap_remove(1)
    }
}

fn start_node(i: usize, port: u16, cluster_address: &str) -> Database {
    let galera = unpacked("galera");
    let provider = format!("--wsrep-provider={}", galera.join("lib/libgalera_smm.so").display());
    // Two that differ: of ports that are merely free the kernel may name one twice.
    let [for_writes, for_all] = steady_ports();
    // The cache of writes would be 128 MB a node.
    let options = format!(
        "--wsrep-provider-options=gmcast.listen_addr=tcp://127.0.0.1:{port};ist.recv_addr=127.0.0.1:{for_writes};gcache.size=16M"
    );
    let receive = format!("--wsrep-sst-receive-address=127.0.0.1:{for_all}");
    let id = format!("--server-id={}", i + 1);
    let mut args = vec![
        "--wsrep-on=ON",
        "--wsrep-cluster-name=seqsvr",
        "--wsrep-node-address=127.0.0.1",
        "--wsrep-sst-method=rsync",
        "--binlog-format=ROW",
        "--innodb-autoinc-lock-mode=2",
        cluster_address,
        &provider,
        &options,
        &receive,
        &id,
    ];
    if i == 0 {
        args.push(NEW_CLUSTER);
    }
    Database::start_in(Flavor::MariaDb, &args, Some(path_with(&galera.join("bin"))))
}

/// The PATH on which the server finds the scripts that copy data, and these the system's programs.
fn path_with(folder: &Path) -> OsString {
    let known = env::var_os("PATH").unwrap_or_default();
    let folders = iter::once(folder.to_owned()).chain(env::split_paths(&known)).chain(["/usr/sbin".into()]);
    env::join_paths(folders).expect("no folder has a colon in its name")
}

#[test]
fn a_cluster_goes_on_without_one_node_and_takes_it_back() {
    let mut cluster = Cluster::start();
    let ids = |node: &Database| sql(node, "SET wsrep_sync_wait = 7; SELECT id FROM sequence.t ORDER BY id").concat();
    let insert = |node: &Database, id: u32| sql(node, &format!("INSERT INTO sequence.t VALUES ({id})"));
    sql(cluster.node(0), "CREATE TABLE sequence.t (id INT PRIMARY KEY)");
    insert(cluster.node(1), 1);
    for i in 0..NODES {
        assert_eq!(ids(cluster.node(i)), ["1"], "node {i}");
    }

    cluster.isolate(2);
    let refused = std::panic::catch_unwind(|| insert(cluster.node(2), 2)).expect_err("it is alone");
    let refused = refused.downcast_ref::<String>().expect("the server's message");
    assert!(refused.contains("1047"), "{refused}");
    insert(cluster.node(0), 3);
    assert_eq!(ids(cluster.node(1)), ["1", "3"]);

    cluster.heal(2);
    assert_eq!(ids(cluster.node(2)), ["1", "3"]);

    cluster.kill(0);
    insert(cluster.node(2), 4);
    cluster.rejoin(0);
    assert_eq!(ids(cluster.node(0)), ["1", "3", "4"]);
}

#[test]
fn a_node_can_become_a_cluster_of_its_own() {
    let mut cluster = Cluster::start();
    let uuid = |cluster: &Cluster, i| cluster.status(i, "cluster_state_uuid");
    let assert_alone = |cluster: &Cluster, how: &str| {
        assert_eq!(uuid(cluster, 2), uuid(cluster, 0), "{how}");
        sql(cluster.node(2), "INSERT INTO sequence.t VALUES (2)");
        assert!(sql(cluster.node(0), "SELECT id FROM sequence.t").is_empty(), "{how}");
    };
    sql(cluster.node(0), "CREATE TABLE sequence.t (id INT PRIMARY KEY)");
    cluster.replicate(2, false);
    assert_alone(&cluster, "replication is off");

    cluster.rejoin_with_new_data(2);
    assert!(sql(cluster.node(2), "SELECT id FROM sequence.t").is_empty());
    cluster.isolate(2);
    cluster.make_primary(2);
    assert_alone(&cluster, "made primary");
    sql(cluster.node(2), "DELETE FROM sequence.t");
    cluster.kill(2);
    cluster.bootstrap(2);
    assert_alone(&cluster, "bootstrapped");

    cluster.rejoin_with_new_data(2);
    cluster.ignore_quorum();
    cluster.split_off(2);
    assert_alone(&cluster, "no quorum is needed");
}
