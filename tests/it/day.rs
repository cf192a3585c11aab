//! An operator's day: two nodes are started from the image's files, asked for ids without a pause, lose their database, fail over
//! to its replica, are restarted one after the other, and stopped. No id comes twice, no request fails, and what fires of
//! deploy/prometheus/alerts.yml is just what should.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use crate::alerts::hurried;
use crate::operations;
use crate::support::balancer::{Balancer, LEAD, NODES};
use crate::support::checker::Checker;
use crate::support::database::Flavor;
use crate::support::http::{load_during, load_of};
use crate::support::prometheus::{Alert, Prometheus, Scraping};
use crate::support::replica::Pair;
use crate::support::server::{Server, Setup, eventually, steady_ports};
use crate::support::sql;

mod image;

/// How long the database is away, at least.
const OUTAGE: Duration = Duration::from_secs(30);

/// `refill.runway`: three times as long, for the database has to start and the machine may be busy.
const RUNWAY: Duration = Duration::from_secs(90);

/// Behind each answer, so that the clients ask as much at all times and the runway lasts.
const PAUSE: Duration = Duration::from_millis(20);

/// Seconds in place of minutes, but more of them than a restart takes, Prometheus' own start, or a node from one lease that
/// fails to the next. The thresholds are as they are.
const HURRY: [(&str, &str); 6] = [
    ("for: 1m\n", "for: 10s\n"),
    ("for: 2m\n", "for: 5s\n"),
    ("for: 5m\n", "for: 10s\n"),
    ("[2m]", "[8s]"),
    ("[5m]", "[8s]"),
    ("[6h:5m]", "[20s:1s]"),
];

/// What fires that day, all of it while the database is away. The second one because such a runway is less than a quarter of
/// an hour.
const ALERTS: [(&str, &str); 2] = [("SeqsvrLeaseFailing", "warning"), ("SeqsvrRunwayShort", "critical")];

struct Day {
    pair: Pair,
    setups: [Setup; 2],
    nodes: [Server; 2],
    balancer: Balancer,
    prometheus: Prometheus,
    /// Beside what the clients got.
    taken: Checker,
}

impl Day {
    /// Starts it all, and answers where clients ask.
    fn begin() -> (Self, u16) {
        let pair = Pair::start(Flavor::MySql9);
        let hosts = [&pair.primary, &pair.replica].map(|host| format!("tcp(127.0.0.1:{})", host.port())).join(",");
        let setup = || image::lay_out(operations::PASSWORD).patient().env("SEQSVR_MYSQL__HOST", &hosts);

        sql(&pair.primary, &operations::blocks()[0]);
        let mut maker = setup().env("SEQSVR_MYSQL__USER", "seqsvr_admin").start();
        maker.wait_until_ready();
        assert_eq!(maker.stop().code(), Some(0), "{}", maker.log());

        let [port, ports @ ..]: [u16; 3] = steady_ports();
        let setups = ports.map(|port| {
            setup()
                .at(port)
                .env("SEQSVR_SHUTDOWN__LEAD", LEAD)
                .env("SEQSVR_REFILL__RUNWAY", &format!("{}s", RUNWAY.as_secs()))
                .env("SEQSVR_MYSQL__FAILOVER_SKIP", "10000000")
        });
        let nodes = setups.each_ref().map(Setup::start);
        for (node, setup) in nodes.iter().zip(&setups) {
            node.wait_until_ready();
            let (code, said) = setup.run(&["healthcheck", "--ready"]);
            assert_eq!(code, 0, "{said}");
            assert!(setup.folder().join("data/node.json").exists(), "what it remembers is in the volume");
        }
        let balancer = Balancer::start(port, ports);
        let rules = hurried(&HURRY);
        let prometheus = Prometheus::start(&Scraping { targets: &ports, rules: &rules, ..Scraping::default() });
        (Self { pair, setups, nodes, balancer, prometheus, taken: Checker::default() }, port)
    }

    /// Waits until each node holds what outlasts twice the outage, at the rate of just now.
    fn fill(&self) {
        for node in &self.nodes {
            eventually("the runway is there", || {
                let (before, since) = (of_default(node, "ids_total"), Instant::now());
                thread::sleep(Duration::from_secs(1));
                let rate = (of_default(node, "ids_total") - before) / since.elapsed().as_secs_f64();
                let needed = rate * 2.0 * OUTAGE.as_secs_f64();
                (needed > 0.0 && of_default(node, "ids_held") > needed).then_some(())
            });
        }
    }

    fn lose_the_database_for_a_while(&mut self) {
        self.pair.primary.kill();
        let lost = Instant::now();
        self.prometheus.wait("all that should fire does", || (), |firing| *firing == alerts());
        thread::sleep(OUTAGE.saturating_sub(lost.elapsed()));
        self.pair.primary.restart();
        self.fill();
        self.pair.wait_until_caught_up();
        self.prometheus.wait("it is over", || (), BTreeSet::is_empty);
    }

    /// Some leases are lost to the replica, for it does not follow any more.
    fn fail_over(&mut self) {
        self.pair.stop_replication();
        self.have_them_lease();
        // Then none is about to lease by itself.
        self.fill();
        self.pair.primary.kill();
        self.pair.promote();
        self.have_them_lease();
        self.take_what_they_hold();
        let logs = self.nodes.each_ref().map(Server::log).concat();
        assert_eq!(logs.matches("moved on by mysql.failover_skip").count(), 1, "one of them has fenced: {logs}");
    }

    /// Takes ids of each node until it leases. First of the one that leased less: it does not know what a failover lost of the
    /// other's.
    fn have_them_lease(&mut self) {
        let mut nodes = self.nodes.each_ref();
        nodes.sort_by(|a, b| of_default(a, "high_water_mark_ids").total_cmp(&of_default(b, "high_water_mark_ids")));
        for node in nodes {
            let leases = || node.metric("seqsvr_leases_total{outcome=\"ok\",sequence=\"default\"");
            let before = leases();
            eventually("it leases", || {
                self.taken.merge(load_of("/new?count=100", &[node.port()], 1, 1));
                (leases() > before).then_some(())
            });
        }
    }

    /// What was leased before the failover, and after it: were anything in both, it would come twice.
    fn take_what_they_hold(&mut self) {
        for node in &self.nodes {
            let all = of_default(node, "ids_total") + of_default(node, "ids_held");
            eventually("all of it is handed out", || {
                self.taken.merge(load_of("/new?count=1000", &[node.port()], 1, 1));
                (of_default(node, "ids_total") >= all).then_some(())
            });
        }
    }

    fn restart_the_nodes(&mut self) {
        for ((name, node), setup) in NODES.iter().zip(&mut self.nodes).zip(&self.setups) {
            self.balancer.restart(name, node, setup);
        }
    }

    fn end(mut self) {
        self.nodes.iter().for_each(|node| node.signal("TERM"));
        for node in &mut self.nodes {
            assert_eq!(node.wait().code(), Some(0), "{}", node.log());
        }
    }
}

fn of_default(node: &Server, metric: &str) -> f64 {
    node.metric(&format!("seqsvr_{metric}{{sequence=\"default\""))
}

fn alerts() -> BTreeSet<Alert> {
    ALERTS.map(|(name, severity)| (name.to_owned(), severity.to_owned())).into()
}

#[test]
fn no_id_comes_twice_no_request_fails_and_what_should_be_told_is() {
    let (mut day, port) = Day::begin();
    let mut answered = load_during(port, PAUSE, || {
        day.fill();
        day.lose_the_database_for_a_while();
        day.fail_over();
        day.restart_the_nodes();
        day.fill();
        day.prometheus.wait("nothing fires at the end", || (), BTreeSet::is_empty);
    });
    answered.merge(std::mem::take(&mut day.taken));
    answered.assert_clean(answered.ids().len());
    assert_eq!(day.prometheus.fired(), alerts());
    day.end();
}
