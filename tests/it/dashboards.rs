//! grafana/: each query of the dashboard, asked of a real Prometheus that scrapes servers to which everything happens.

mod dashboard;
mod picture;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::support::database::{Database, Flavor};
use crate::support::http::{Client, SetAtEnd};
use crate::support::prometheus::{Prometheus, Scraping, now};
use crate::support::proxy::Proxy;
use crate::support::server::{Server, Setup, eventually};
use dashboard::{Chosen, Dashboard, choice, file, text};

/// The panels that show what goes wrong: each must be above 0 once it did.
const ERROR_PANELS: [&str; 7] =
    ["Failed requests", "Waits", "Waiters", "Wait time", "HTTP errors", "Failed refills", "Ids lost"];

/// Set, it is the file that the same data are drawn into, of a longer run: `make picture`.
const PICTURE: &str = "SEQSVR_PICTURE";

/// What the metric of the runway is stored under, to see that the checks find it missing.
const RENAMED: (&str, &str) = ("seqsvr_runway_seconds", "seqsvr_runway");

#[test]
fn every_panel_shows_what_happens() {
    let picture = std::env::var_os(PICTURE);
    // Only the picture is prettier for it.
    let spell = || thread::sleep(Duration::from_secs(if picture.is_some() { 15 } else { 0 }));

    let database = Database::start(Flavor::MariaDb);
    let proxy = Proxy::start(database.port());
    let setups = [(), ()].map(|()| {
        // So little that it can be used up, on a machine of any speed.
        Setup::on(&database, "sequences: {orders: {step: 1000}, users.eu: {}}")
            .env("SEQSVR_MYSQL__HOST", &format!("127.0.0.1:{}", proxy.port()))
            .env("SEQSVR_REFILL__MAX_BLOCK", "20000")
            .env("SEQSVR_LIMITS__WAIT", "200ms")
    });
    let nodes = setups.each_ref().map(Setup::start);
    let ports = nodes.each_ref().map(Server::port);
    nodes.iter().for_each(Server::wait_until_ready);
    let scraping = Scraping { targets: &ports, ..Scraping::default() };
    let from = now();
    let prometheus = Prometheus::start(&scraping);
    let renamed = Prometheus::start(&Scraping { renamed: Some(RENAMED), ..scraping });

    let sees = |query: &str| {
        eventually(query, || {
            let is_seen =
                |by: &Prometheus| by.query(query).is_ok_and(|found| found.iter().any(|one| one.points[0].1 > 0.0));
            [&prometheus, &renamed].into_iter().all(is_seen).then_some(())
        });
    };
    let is_over = &AtomicBool::new(false);
    thread::scope(|scope| {
        let _end = SetAtEnd(is_over);
        for port in ports {
            for path in ["/new", "/new/orders", "/new/users.eu?count=10"] {
                scope.spawn(move || ask_until(is_over, port, path, Duration::from_millis(5)));
            }
            for refused in ["/new/unknown", "/new?count=0"] {
                scope.spawn(move || ask_until(is_over, port, refused, Duration::from_millis(50)));
            }
        }
        sees("sum(rate(seqsvr_ids_total[4s]))");
        sees(r#"sum(rate(seqsvr_http_responses_total{status="404"}[4s]))"#);
        spell();

        // Advanced: both nodes drop what they hold.
        let (code, output) = setups[0].run(&["sequence", "advance", "orders", "--to", "1000000000"]);
        assert_eq!(code, 0, "{output}");
        sees(r#"sum(rate(seqsvr_ids_lost_total{reason="advanced"}[1m]))"#);

        // Slow: what is held is used up.
        proxy.set_delay(Duration::from_secs(1));
        ports.into_iter().for_each(use_up);
        sees(r#"sum(rate(seqsvr_http_responses_total{status="503"}[4s]))"#);
        proxy.set_delay(Duration::ZERO);
        spell();

        // Away.
        proxy.set_black_hole(true);
        ports.into_iter().for_each(use_up);
        sees(r#"sum(rate(seqsvr_http_responses_total{status="503"}[4s]))"#);
        sees(r#"sum(rate(seqsvr_leases_total{outcome="unavailable"}[4s]))"#);
        sees("sum(seqsvr_waiters)");
        spell();

        proxy.set_black_hole(false);
        sees(r#"sum(rate(seqsvr_leases_total{outcome="ok"}[4s]))"#);
        nodes.iter().for_each(Server::wait_until_ready);
        spell();
    });

    let dashboard = Dashboard::read();
    let during = (from, now());
    let variables = dashboard.variables(&prometheus).expect("all variables have values");
    assert_eq!(variables[0], ("job".to_owned(), vec!["seqsvr".to_owned()]));
    assert_eq!(variables[2].1, ["default", "orders", "users.eu"]);
    let mut chosen: Vec<Chosen> = variables.iter().map(|(name, values)| (name.clone(), choice(values))).collect();
    let answers = dashboard.ask(&prometheus, &chosen, during);
    if let Some(path) = picture {
        picture::draw(&dashboard, &answers, during, path.as_ref()).expect("the picture is drawn");
    }
    let fault = |answer: &dashboard::Answer<'_>| answer.fault(ERROR_PANELS.contains(&answer.title()));
    for answer in &answers {
        assert_eq!(fault(answer), None, "{answer:#?}");
    }
    let titles: BTreeSet<&str> = answers.iter().map(dashboard::Answer::title).collect();
    assert!(ERROR_PANELS.iter().all(|title| titles.contains(title)), "{titles:?}");

    // With one metric renamed just its panels have nothing to show.
    let of_renamed = dashboard.ask(&renamed, &chosen, during);
    let faults: Vec<_> = of_renamed.iter().filter_map(|answer| Some((answer.title(), fault(answer)?))).collect();
    assert_eq!(faults, [("Shortest runway", "no samples"), ("Runway", "no samples")]);

    // One sequence alone, of a name that is no plain text in a regular expression.
    chosen[2].1 = choice(&["users.eu".to_owned()]);
    let answers = dashboard.ask(&prometheus, &chosen, during);
    let of_one = answers.iter().find(|answer| answer.title() == "Allocation rate").expect("there is such a panel");
    let series = of_one.series.as_ref().expect("an answer");
    assert_eq!(series.iter().map(|one| of_one.legend(one)).collect::<Vec<_>>(), ["users.eu"]);
}

/// Takes more and more, until a batch is too large for what is left.
fn use_up(port: u16) {
    eventually("it is used up", || (Client::connect(port).get("/new?count=3001&ranges").status == 503).then_some(()));
}

/// Asks for `path` again and again, with a `pause` between, whatever the answer is, until it is over.
fn ask_until(is_over: &AtomicBool, port: u16, path: &str, pause: Duration) {
    let mut client = Client::connect(port);
    while !is_over.load(Ordering::Relaxed) {
        if client.try_request("GET", path, "").is_err() {
            client = Client::connect(port);
        }
        thread::sleep(pause);
    }
}

#[test]
fn every_panel_says_what_it_shows() {
    let dashboard = Dashboard::read();
    assert_eq!(text(&dashboard.0["uid"]), "seqsvr", "links lead to it");
    let mut seen = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for panel in dashboard.panels() {
        let title = text(&panel["title"]);
        assert!(seen.0.insert(panel["id"].as_u64().expect("a number")), "{title}: its id is used twice");
        assert!(seen.1.insert(title), "{title} is there twice");
        let [x, y, width, height] =
            ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().expect("a place in the grid"));
        assert!(x + width <= 24, "{title} is too wide");
        for cell in (y..y + height).flat_map(|y| (x..x + width).map(move |x| (x, y))) {
            assert!(seen.2.insert(cell), "{title} overlaps another panel at {cell:?}");
        }
        if panel["type"] == "row" {
            continue;
        }
        assert!(!text(&panel["description"]).is_empty(), "{title} has no description");
        // A heatmap has one for its axis.
        let units = [&panel["fieldConfig"]["defaults"]["unit"], &panel["options"]["yAxis"]["unit"]];
        assert!(units.into_iter().any(|unit| !text(unit).is_empty()), "{title} has no unit");
        assert_eq!(text(&panel["datasource"]["uid"]), "${datasource}", "{title}");
        for target in panel["targets"].as_array().expect("queries") {
            let query = text(&target["expr"]);
            assert!(query.contains(r#"job=~"$job", instance=~"$instance""#), "{title}: {query}");
            assert_eq!(query.matches('[').count(), query.matches("[$__rate_interval]").count(), "{title}: {query}");
        }
    }
}

#[test]
fn grafana_is_told_of_the_data_source_and_the_dashboard() {
    let yaml =
        |path: &str| -> Value { serde_yaml::from_str(&file(path)).unwrap_or_else(|error| panic!("{path}: {error}")) };
    let source = &yaml("grafana/provisioning/datasources/prometheus.yaml")["datasources"][0];
    assert_eq!((text(&source["type"]), &source["isDefault"]), ("prometheus", &Value::Bool(true)));
    assert!(source["jsonData"]["timeInterval"].is_string(), "$__rate_interval follows from it");
    let provider = &yaml("grafana/provisioning/dashboards/seqsvr.yaml")["providers"][0];
    let path = text(&provider["options"]["path"]);
    assert!(file("grafana/README.md").contains(&format!("seqsvr.json:{path}/seqsvr.json")), "how it gets there");
}
