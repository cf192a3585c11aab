//! For each alert a fault of the real thing that fires it in a real Prometheus, and the fault's end, which clears it.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::{alerts, read};
use crate::support::database::{Database, Flavor};
use crate::support::http::Client;
use crate::support::server::{Setup, eventually};
use crate::support::sql;

/// An alert fires, or is over, within this; on an idle machine it takes some seconds.
const PATIENCE: Duration = Duration::from_secs(120);

/// So many free ports are tried: between being found free and being bound, one can go to another process.
const PORT_TRIES: usize = 5;

/// A real Prometheus that scrapes one server; ended when dropped.
struct Prometheus {
    child: Child,
    port: u16,
    folder: TempDir,
}

/// An alert's name and severity.
type Key = (String, String);

impl Prometheus {
    /// With `rules`, and a job `seqsvr` of the server at `target`.
    fn start(rules: &str, target: u16) -> Self {
        let config = format!(
            "global: {{scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}}\nrule_files: [alerts.yml]\n\
             scrape_configs:\n- job_name: seqsvr\n  static_configs: [{{targets: ['127.0.0.1:{target}']}}]\n"
        );
        let mut log = String::new();
        for _ in 0..PORT_TRIES {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("alerts.yml"), rules).unwrap();
            fs::write(folder.path().join("prometheus.yml"), &config).unwrap();
            let port = free_port();
            let child = Command::new("prometheus")
                .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
                .arg(format!("--web.listen-address=127.0.0.1:{port}"))
                .current_dir(folder.path())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(fs::File::create(folder.path().join("log")).unwrap())
                .spawn()
                .expect("prometheus starts: scripts/test-deps.sh installs it");
            let mut prometheus = Self { child, port, folder };
            if prometheus.becomes_ready() {
                return prometheus;
            }
            log = fs::read_to_string(prometheus.folder.path().join("log")).unwrap_or_default();
        }
        panic!("Prometheus does not get ready: {log}");
    }

    fn becomes_ready(&mut self) -> bool {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until && self.child.try_wait().expect("a child can be waited for").is_none() {
            if self.get("/-/ready").is_ok_and(|answer| answer.starts_with("HTTP/1.0 200")) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        false
    }

    /// The whole answer. By HTTP/1.0, which knows no chunks.
    fn get(&self, path: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: test\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    fn api(&self, path: &str) -> Value {
        let answer = self.get(path).expect("Prometheus answers");
        let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
        let value: Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(value["status"], "success", "{path}: {value}");
        value["data"].clone()
    }

    /// How often the server was scraped, successfully or not.
    fn scrapes(&self) -> u64 {
        let found = self.api("/api/v1/query?query=count_over_time(up[1h])");
        found["result"][0]["value"][1].as_str().and_then(|count| count.parse().ok()).unwrap_or(0)
    }

    /// The alerts that fire; their texts must be complete.
    fn firing(&self) -> BTreeSet<Key> {
        let data = self.api("/api/v1/alerts");
        let all = data["alerts"].as_array().expect("alerts").iter();
        all.filter(|alert| alert["state"] == "firing")
            .map(|alert| {
                let text = |value: &Value| value.as_str().expect("a text").to_owned();
                for what in ["summary", "description"] {
                    let what = text(&alert["annotations"][what]);
                    assert!(
                        !what.contains("{{") && !what.contains("no value") && !what.contains("error expanding"),
                        "{what}"
                    );
                }
                (text(&alert["labels"]["alertname"]), text(&alert["labels"]["severity"]))
            })
            .collect()
    }

    /// Does `step` again and again until `is_so` of what fires.
    fn wait(&self, what: &str, mut step: impl FnMut(), is_so: impl Fn(&BTreeSet<Key>) -> bool) {
        let until = Instant::now() + PATIENCE;
        loop {
            step();
            let firing = self.firing();
            if is_so(&firing) {
                return;
            }
            assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}; there fire {firing:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr()).expect("a free port").port()
}

/// The rules with seconds in place of minutes; the thresholds are as they are.
fn hurried(rules: &str) -> String {
    let mut hurried = rules.to_owned();
    for (from, to) in [
        ("for: 1m\n", "for: 1s\n"),
        ("for: 2m\n", "for: 1s\n"),
        ("for: 5m\n", "for: 1s\n"),
        ("[2m]", "[5s]"),
        ("[5m]", "[5s]"),
        ("[6h:5m]", "[20s:1s]"),
    ] {
        assert!(rules.contains(from), "no {from}");
        hurried = hurried.replace(from, to);
    }
    hurried
}

/// What fires by faults, and is over with them.
struct Faults {
    prometheus: Prometheus,
    fired: BTreeSet<Key>,
}

impl Faults {
    /// `during` is done again and again until all of `expected` fire; then `end`, and `after` again and again until none does.
    fn fire(&mut self, expected: &[(&str, &str)], during: impl FnMut(), end: impl FnOnce(), after: impl FnMut()) {
        let expected: BTreeSet<Key> =
            expected.iter().map(|(name, severity)| ((*name).to_owned(), (*severity).to_owned())).collect();
        self.prometheus.wait(&format!("{expected:?} fire"), during, |firing| firing.is_superset(&expected));
        end();
        self.prometheus.wait(&format!("{expected:?} are over"), after, |firing| firing.is_disjoint(&expected));
        self.fired.extend(expected);
    }
}

/// A request whose answer does not matter.
fn ask(port: u16, path: &str) {
    if let Ok(mut client) = Client::try_connect(port) {
        let _ = client.try_request("GET", path, "");
    }
}

#[test]
fn each_alert_is_fired_by_a_fault_and_cleared_by_its_end() {
    let mut database = Database::start(Flavor::MariaDb);
    let port = free_port();
    let setup = |max_block: &str| {
        Setup::on(&database, "sequences: {orders: {step: 10}, small: {step: 10, max_id: 100}}")
            .env("SEQSVR_PORT", &format!("127.0.0.1:{port}"))
            .env("SEQSVR_LIMITS__WAIT", "100ms")
            .env("SEQSVR_REFILL__MAX_BLOCK", max_block)
    };
    // What the tight one holds does not last for long at 20 ids a request.
    let (tight, roomy) = (setup("100"), setup("1000000"));
    let mut server = tight.start();
    for path in ["/new/orders", "/new/small"] {
        eventually(path, || (server.get(path).status == 200).then_some(()));
    }
    let prometheus = Prometheus::start(&hurried(&read("deploy/prometheus/alerts.yml")), port);
    let mut faults = Faults { prometheus, fired: BTreeSet::new() };
    let (some, nothing) = (|| ask(port, "/new?count=20"), || ());

    // All is well, and nothing fires.
    let begun = faults.prometheus.scrapes();
    while faults.prometheus.scrapes() < begun + 12 {
        ask(port, "/new");
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(faults.prometheus.firing(), BTreeSet::new());

    // A counter goes back, and is fenced.
    sql(&database, "UPDATE sequence.seqsvr_sequence SET next_id = 1 WHERE name = 'orders'");
    let orders = || ask(port, "/new/orders?count=10");
    let fence = || assert_eq!(tight.run(&["fence", "orders", "--past", "100000", "--yes"]).0, 0);
    faults.fire(&[("SeqsvrLeaseRegressed", "critical")], orders, fence, nothing);

    // A sequence is used up, and gets room.
    let small = || ask(port, "/new/small");
    let widen = || assert_eq!(tight.run(&["sequence", "alter", "small", "--max-id", "1000000"]).0, 0);
    faults.fire(&[("SeqsvrCapacityLow", "warning"), ("SeqsvrCapacityLow", "critical")], small, widen, small);

    // Too little is held for the rate, and more may be.
    let raise = || {
        server.kill();
        server = roomy.start();
    };
    faults.fire(&[("SeqsvrRunwayShort", "warning")], some, raise, some);

    // The database is away until memory is used up, and comes back. A batch that is too large takes nothing.
    let all_of_it =
        || ["5000", "500", "50", "5", "1"].iter().for_each(|count| ask(port, &format!("/new?count={count}")));
    database.kill();
    faults.fire(
        &[
            ("SeqsvrLeaseFailing", "warning"),
            ("SeqsvrRunwayShort", "critical"),
            ("SeqsvrNotReady", "warning"),
            ("SeqsvrNotReady", "critical"),
            ("SeqsvrErrorRate", "critical"),
        ],
        all_of_it,
        || database.restart(),
        some,
    );

    // The node ends, and is started again.
    server.kill();
    let start = || server = roomy.start();
    faults.fire(&[("SeqsvrDown", "warning"), ("SeqsvrDown", "critical")], nothing, start, nothing);

    faults.prometheus.wait("all are over", some, BTreeSet::is_empty);
    let all: BTreeSet<Key> = alerts().into_iter().map(|alert| (alert.name, alert.severity)).collect();
    assert_eq!(faults.fired, all, "each alert has its fault here");
}
