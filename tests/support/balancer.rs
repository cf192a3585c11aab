//! `HAProxy` in front of two nodes, on the file that docs/operations.md recommends.

// Every test file that has this module compiles it anew, and few use all of it.
#![allow(dead_code)]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Child;

use tempfile::TempDir;

use super::http::Client;
use super::process::{guarded, log_to, spawn, system_program};
use super::server::{Server, Setup, eventually};

/// The names that deploy/haproxy.cfg gives the nodes.
pub const NODES: [&str; 2] = ["a", "b"];

/// `shutdown.lead`, as docs/operations.md says for the checks of deploy/haproxy.cfg.
pub const LEAD: &str = "5s";

const SOCKET: &str = "socket";

/// `HAProxy` on deploy/haproxy.cfg.
pub struct Balancer {
    folder: TempDir,
    process: Child,
}

impl Balancer {
    pub fn start(port: u16, nodes: [u16; 2]) -> Self {
        // In /tmp even where TMPDIR says otherwise: a socket's path has at most 107 bytes.
        let folder = tempfile::Builder::new().prefix("seqsvr-lb-").tempdir_in("/tmp").expect("a temporary folder");
        let mut command = guarded(system_program("haproxy"));
        command
            .args(["-db", "-f", concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/haproxy.cfg")])
            .env("IDS_LISTEN", format!("127.0.0.1:{port}"))
            .env("IDS_NODE_A", format!("127.0.0.1:{}", nodes[0]))
            .env("IDS_NODE_B", format!("127.0.0.1:{}", nodes[1]))
            .env("IDS_SOCKET", folder.path().join(SOCKET));
        log_to(&mut command, &folder.path().join("log"));
        let process = spawn(command).expect("HAProxy starts");
        let mut balancer = Self { folder, process };
        eventually("HAProxy listens", || {
            if let Some(status) = balancer.process.try_wait().expect("a child can be waited for") {
                panic!("haproxy (make test-deps) ended with {status}: {}", balancer.log());
            }
            // Its socket gets its name last.
            Client::try_connect(port).ok().filter(|_| balancer.socket().exists())
        });
        for name in NODES {
            balancer.wait_for(name, "check_status", "L7OK");
        }
        balancer
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join(SOCKET)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// A field of what `show stat` says of a node, by its name in the first line.
    pub fn stat(&self, node: &str, field: &str) -> String {
        let mut socket = UnixStream::connect(self.socket()).expect("HAProxy's socket");
        socket.write_all(b"show stat\n").expect("it is asked");
        let mut table = String::new();
        socket.read_to_string(&mut table).expect("it answers");
        let column = table.lines().next().and_then(|names| names.split(',').position(|name| name == field));
        let row = table.lines().find(|line| line.starts_with(&format!("nodes,{node},")));
        let value = row.zip(column).and_then(|(row, column)| row.split(',').nth(column));
        value.unwrap_or_else(|| panic!("no {field} of {node} in\n{table}")).to_owned()
    }

    /// Restarts the node of that name, as docs/operations.md says.
    pub fn restart(&self, name: &str, node: &mut Server, setup: &Setup) {
        node.signal("TERM");
        // It is seen to go while it is there: had it gone first, the check would find nobody (L4CON).
        self.wait_for(name, "check_status", "L7STS");
        self.wait_for(name, "status", "DOWN");
        assert_eq!(node.wait().code(), Some(0), "{}", node.log());
        *node = setup.start();
        self.wait_for(name, "status", "UP");
        eventually("it serves", || (node.metric("seqsvr_ids_total") > 0.0).then_some(()));
    }

    fn wait_for(&self, node: &str, field: &str, wanted: &str) {
        eventually(&format!("{field} of {node} is {wanted}"), || (self.stat(node, field) == wanted).then_some(()));
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
