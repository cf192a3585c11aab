//! For each alert a fault of the real thing that fires it in a real Prometheus, and the fault's end, which clears it.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{alerts, hurried};
use crate::support::database::{Database, Flavor};
use crate::support::http::Client;
use crate::support::prometheus::{Alert, Prometheus, Scraping};
use crate::support::server::{Setup, eventually, steady_ports};
use crate::support::sql;

/// Seconds in place of minutes; the thresholds are as they are. On a busy machine a scrape or two may be late: not three.
const HURRY: [(&str, &str); 6] = [
    ("for: 1m\n", "for: 3s\n"),
    ("for: 2m\n", "for: 3s\n"),
    ("for: 5m\n", "for: 3s\n"),
    ("[2m]", "[5s]"),
    ("[5m]", "[5s]"),
    ("[6h:5m]", "[20s:1s]"),
];

/// What fires by faults, and is over with them.
struct Faults {
    prometheus: Prometheus,
    fired: BTreeSet<Alert>,
}

impl Faults {
    /// `during` is done again and again until all of `expected` fire; then `end`, and `after` again and again until none does.
    fn fire(&mut self, expected: &[(&str, &str)], during: impl FnMut(), end: impl FnOnce(), after: impl FnMut()) {
        let expected: BTreeSet<Alert> =
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
    let [port] = steady_ports();
    let setup = |max_block: &str| {
        Setup::on(&database, "sequences: {orders: {step: 10}}")
            .at(port)
            .env("SEQSVR_LIMITS__WAIT", "100ms")
            .env("SEQSVR_REFILL__MAX_BLOCK", max_block)
    };
    // What the tight one holds does not last for long at 20 ids a request.
    let (tight, roomy) = (setup("200"), setup("1000000"));
    let mut server = tight.start();
    eventually("it has ids of orders", || (server.get("/new/orders").status == 200).then_some(()));
    // Who had to wait for the first ids seemed to want many a second.
    eventually("the runway is there", || {
        let runway = |name| server.metric(&format!("seqsvr_runway_seconds{{sequence=\"{name}\""));
        ["default", "orders"].iter().all(|name| runway(name) > 60.0).then_some(())
    });
    let prometheus = Prometheus::start(&Scraping { targets: &[port], rules: &hurried(&HURRY), ..Scraping::default() });
    let mut faults = Faults { prometheus, fired: BTreeSet::new() };
    let (some, nothing) = (|| ask(port, "/new?count=20"), || ());

    // All is well, and nothing fires: 2 ids a second, and 200 are held.
    let begun = faults.prometheus.scrapes();
    while faults.prometheus.scrapes() < begun + 12.0 {
        ask(port, "/new");
        std::thread::sleep(Duration::from_millis(500));
    }
    assert_eq!(faults.prometheus.firing(), BTreeSet::new());

    // A counter goes back, and is fenced.
    sql(&database, "UPDATE sequence.seqsvr_sequence SET next_id = 1 WHERE name = 'orders'");
    let orders = || ask(port, "/new/orders?count=10");
    let fence = || assert_eq!(tight.run(&["fence", "orders", "--past", "100000", "--yes"]).0, 0);
    faults.fire(&[("SeqsvrLeaseRegressed", "critical")], orders, fence, nothing);

    // A sequence is used up, and gets room. Its first lease alone is so much of it that it would not last.
    assert_eq!(tight.run(&["sequence", "create", "small", "--step", "10", "--max-id", "100"]).0, 0);
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
    let all: BTreeSet<Alert> = alerts().into_iter().map(|alert| (alert.name, alert.severity)).collect();
    assert_eq!(faults.fired, all, "each alert has its fault here");
}
