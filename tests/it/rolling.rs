//! A rolling restart: two nodes behind `HAProxy`, which runs on the file that docs/operations.md recommends.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;

use crate::support::checker::Checker;
use crate::support::database::{Database, Flavor};
use crate::support::http::Client;
use crate::support::server::{Setup, eventually};

/// The names that deploy/haproxy.cfg gives the nodes.
const NODES: [&str; 2] = ["a", "b"];

/// What docs/operations.md says, for the checks of deploy/haproxy.cfg.
const LEAD: &str = "5s";

const CONNECTIONS: usize = 8;

/// The ways in which clients ask, by turns.
const WAYS: [(&str, &str, &str); 4] = [
    ("GET", "/new", ""),
    ("GET", "/new?count=5", ""),
    ("POST", "/new", "Content-Length: 0\r\n"),
    ("GET", "/new/default", "Accept: text/plain\r\n"),
];

/// Ports that stay free while a node is down: they are below those that the kernel hands out by itself.
fn steady_ports<const N: usize>() -> [u16; N] {
    let first = 10_000 + u16::try_from(std::process::id() % 15_000).expect("small");
    let mut free = (first..first + 5_000).filter_map(|port| TcpListener::bind(("127.0.0.1", port)).ok());
    // All are held until each is found, or one would be found twice.
    let held: [TcpListener; N] = std::array::from_fn(|_| free.next().expect("a free port"));
    held.map(|listener| listener.local_addr().expect("it is bound").port())
}

/// `HAProxy` on deploy/haproxy.cfg.
struct Balancer {
    folder: TempDir,
    process: Child,
}

impl Balancer {
    fn start(port: u16, nodes: [u16; 2]) -> Self {
        // In /tmp even where TMPDIR says otherwise: a socket's path has at most 107 bytes.
        let folder = tempfile::Builder::new().prefix("seqsvr-lb-").tempdir_in("/tmp").expect("a temporary folder");
        let log = File::create(folder.path().join("log")).expect("a log");
        let path = format!("{}:/usr/local/sbin:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
        // It ends with this process, however that ends.
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "haproxy", "-db", "-f"])
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/haproxy.cfg"))
            .env("PATH", path)
            .env("IDS_LISTEN", format!("127.0.0.1:{port}"))
            .env("IDS_NODE_A", format!("127.0.0.1:{}", nodes[0]))
            .env("IDS_NODE_B", format!("127.0.0.1:{}", nodes[1]))
            .env("IDS_SOCKET", folder.path().join("socket"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("setpriv runs");
        let mut balancer = Self { folder, process };
        eventually("HAProxy listens", || {
            if let Some(status) = balancer.process.try_wait().expect("a child can be waited for") {
                panic!("haproxy (make test-deps) ended with {status}: {}", balancer.log());
            }
            Client::try_connect(port).ok()
        });
        balancer
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// A field of what `show stat` says of a node, by its name in the first line.
    fn stat(&self, node: &str, field: &str) -> String {
        let mut socket = UnixStream::connect(self.folder.path().join("socket")).expect("HAProxy's socket");
        socket.write_all(b"show stat\n").expect("it is asked");
        let mut table = String::new();
        socket.read_to_string(&mut table).expect("it answers");
        let column = table.lines().next().and_then(|names| names.split(',').position(|name| name == field));
        let row = table.lines().find(|line| line.starts_with(&format!("nodes,{node},")));
        let value = row.zip(column).and_then(|(row, column)| row.split(',').nth(column));
        value.unwrap_or_else(|| panic!("no {field} of {node} in\n{table}")).to_owned()
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

/// Sets it when dropped, so that a failed test ends its load too.
struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Asks until `is_over`, over a new connection every `requests` times. All but an answer with ids is an error.
fn ask_until(is_over: &AtomicBool, port: u16, requests: usize) -> Checker {
    let mut checker = Checker::default();
    while !is_over.load(Ordering::Relaxed) {
        let mut client = match Client::try_connect(port) {
            Ok(client) => client,
            Err(error) => {
                checker.error(format!("no connection: {error}"));
                continue;
            }
        };
        for (method, path, headers) in WAYS.iter().cycle().take(requests) {
            match client.try_request(method, path, headers) {
                Ok(response) if response.status == 200 => checker.add(client.last_ids()),
                Ok(response) => checker.error(format!("{method} {path}: {response:?}")),
                Err(error) => {
                    checker.add(client.last_ids());
                    checker.error(format!("{method} {path}: {error}"));
                    break;
                }
            }
        }
    }
    checker
}

#[test]
fn nodes_are_restarted_in_turn_under_load_and_no_request_fails() {
    let database = Database::start(Flavor::MariaDb);
    let [port, ports @ ..]: [u16; 3] = steady_ports();
    let setups = ports.map(|port| {
        let setup = Setup::seed(&database).patient().env("SEQSVR_SHUTDOWN__LEAD", LEAD);
        setup.env("SEQSVR_PORT", &format!("127.0.0.1:{port}"))
    });
    let mut nodes = setups.each_ref().map(Setup::start);
    let balancer = Balancer::start(port, ports);
    for name in NODES {
        balancer.wait_for(name, "check_status", "L7OK");
    }

    let is_over = AtomicBool::new(false);
    let answered = std::thread::scope(|scope| {
        let over = SetAtEnd(&is_over);
        let clients: [_; CONNECTIONS] = std::array::from_fn(|n| {
            let is_over = &is_over;
            scope.spawn(move || ask_until(is_over, port, 10 * (n + 1) * (n + 1)))
        });
        for (n, name) in NODES.iter().enumerate() {
            nodes[n].signal("TERM");
            // It is seen to go while it is there: had it gone first, the check would find nobody (L4CON).
            balancer.wait_for(name, "check_status", "L7STS");
            balancer.wait_for(name, "status", "DOWN");
            assert_eq!(nodes[n].wait().code(), Some(0), "{}", nodes[n].log());
            nodes[n] = setups[n].start();
            balancer.wait_for(name, "status", "UP");
            eventually("it serves", || (nodes[n].metric("seqsvr_ids_total") > 0.0).then_some(()));
        }
        drop(over);
        let mut all = Checker::default();
        for client in clients {
            all.merge(client.join().expect("a client's thread"));
        }
        all
    });
    println!("HAProxy repeated {} and {} requests", balancer.stat("a", "wretr"), balancer.stat("b", "wretr"));
    answered.assert_clean(answered.ids().len());
}
