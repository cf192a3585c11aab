//! What happens between nodes, and between a node and its clients.

use std::fs;
use std::process::{Child, Command, Stdio};

use crate::rig::{LAYOUTS, Layout, Outcome, Run, mark, start};
use crate::support::checker::Checker;
use crate::support::database::{Database, Flavor};
use crate::support::http::load;
use crate::support::server::{Server, Setup, eventually};

/// A node stops while another leases behind it; then a new one comes, which remembers nothing.
pub fn given_back_behind_others(run: &Run) -> Outcome {
    let mut outcome = Outcome::default();
    for flavor in [Flavor::MariaDb, Flavor::MySql9] {
        let database = Database::start(flavor);
        let setups = [(); 3].map(|()| run.node_on(&database, Layout::Counter));
        let mut all = Checker::default();
        for _ in 0..run.rounds(10, 2) {
            outcome.rounds += 1;
            let mut nodes = [start(&setups[0]), start(&setups[1])];
            let ports = nodes.each_ref().map(Server::port);
            all.merge(load(&ports, 8, 6_000));
            // Somebody is behind it by then, or it is behind the other.
            assert_eq!(nodes[0].stop().code(), Some(0));
            let new = start(&setups[2]);
            all.merge(load(&[nodes[1].port(), new.port()], 8, 6_000));
        }
        outcome.take_in(all);
    }
    outcome
}

/// A process is stopped for a long time, while others go on and the counter is fenced; then it continues.
pub fn stopped_and_continued(run: &Run) -> Outcome {
    let mut outcome = Outcome::default();
    for layout in LAYOUTS {
        let database = Database::start(Flavor::MariaDb);
        let setups = [run.node_on(&database, layout), run.node_on(&database, layout)];
        let nodes = setups.each_ref().map(start);
        let ports = nodes.each_ref().map(Server::port);
        let mut all = load(&ports, 8, 10_000);
        for _ in 0..run.rounds(3, 1) {
            outcome.rounds += 1;
            nodes[0].signal("STOP");
            let until = std::time::Instant::now() + run.seconds(30, 2);
            while std::time::Instant::now() < until {
                all.merge(load(&ports[1..], 8, 5_000));
            }
            let past = mark(&nodes[1]) + 10_000;
            crate::rig::command(&setups[1], &format!("fence default --past {past} --yes"));
            nodes[0].signal("CONT");
            all.merge(load(&ports, 8, 20_000));
        }
        outcome.take_in(all);
    }
    outcome
}

/// Many connections at once, on a step that is soon used up: the seed repeats 484 of 100,000 ids so.
pub fn many_at_once(run: &Run) -> Outcome {
    let setup = run.setup(Setup::embedded().env("SEQSVR_REFILL__MAX_BLOCK", "1000").patient());
    let server = start(&setup);
    let mut outcome = Outcome { rounds: 1, ..Outcome::default() };
    outcome.take_in(load(&[server.port()], 64, if run.is_full { 1_000_000 } else { 100_000 }));
    outcome
}

/// nginx in front of a node, told to cache whatever may be cached.
struct Cache {
    folder: tempfile::TempDir,
    process: Child,
}

impl Cache {
    fn start(node: u16) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at = folder.path().display();
        let user = if fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0) {
            "user root;"
        } else {
            ""
        };
        let config = format!(
            "daemon off; {user} pid {at}/pid; error_log stderr; worker_processes 1;
             events {{ worker_connections 256; }}
             http {{
                 access_log off;
                 client_body_temp_path {at}/body; proxy_temp_path {at}/proxy; fastcgi_temp_path {at}/fastcgi;
                 uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi;
                 proxy_cache_path {at}/cache keys_zone=ids:1m;
                 server {{
                     listen unix:{at}/socket;
                     location / {{
                         proxy_pass http://127.0.0.1:{node};
                         proxy_cache ids;
                         proxy_cache_valid any 1m;
                     }}
                 }}
             }}"
        );
        fs::write(folder.path().join("nginx.conf"), config).expect("the configuration is written");
        let path = format!("{}:/usr/local/sbin:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
        // It ends with this process, however that ends.
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "nginx", "-e", "stderr", "-p"])
            .arg(folder.path())
            .args(["-c", "nginx.conf"])
            .env("PATH", path)
            .stdin(Stdio::null())
            .spawn()
            .expect("nginx runs: make test-deps");
        let cache = Self { folder, process };
        eventually("nginx listens", || cache.get().ok());
        cache
    }

    /// The body of the answer to `GET /new`.
    fn get(&self) -> std::io::Result<String> {
        use std::io::{Read, Write};
        let mut stream = std::os::unix::net::UnixStream::connect(self.folder.path().join("socket"))?;
        stream.write_all(b"GET /new HTTP/1.1\r\nHost: ids\r\nAccept: text/plain\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        Ok(body.to_owned())
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.process.id().to_string()).status();
        let _ = self.process.wait();
    }
}

pub fn a_cache_in_front(run: &Run) -> Outcome {
    let server = start(&run.setup(Setup::embedded()));
    let cache = Cache::start(server.port());
    let mut all = Checker::default();
    for _ in 0..run.rounds(2_000, 200) {
        let body = cache.get().expect("nginx answers");
        match body.trim().trim_end_matches(|c: char| !c.is_ascii_digit()).parse() {
            Ok(id) => all.add([id]),
            // With chunks around it.
            Err(_) => match body.lines().map(str::trim).filter_map(|line| line.parse().ok()).find(|id| *id > 100) {
                Some(id) => all.add([id]),
                None => all.error(body),
            },
        }
    }
    let mut outcome = Outcome { rounds: 1, ..Outcome::default() };
    outcome.take_in(all);
    outcome
}
