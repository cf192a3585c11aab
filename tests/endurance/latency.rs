//! The database far away.

use std::time::Duration;

use crate::load::{Choice, Ids, Load, Outcome, Pace, Plan, Requests, Texts, only_one};
use crate::report::{Bound, Spread, Table, heading, short};
use crate::rig::{Layout, Random, create, mariadb, metric_sum, names, node, path, seconds, start, times};
use crate::support::proxy::Proxy;

const CONNECTIONS: usize = 64;

/// The distances of the database, in microseconds of a round trip. The proxy's own work comes on top, some tens of them.
const DISTANCES: [u64; 5] = [100, 1_000, 10_000, 50_000, 200_000];

/// The least of the fastest row's throughput, and the most of that row's p99.9, that each row must have.
const LEAST_THROUGHPUT: f64 = 0.9;
const MOST_P999: f64 = 2.0;

/// What was measured at one distance, a number for each round.
#[derive(Default)]
struct Row {
    warm_up_errors: u64,
    errors: u64,
    ids_per_second: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
    p999: Vec<f64>,
}

impl Row {
    fn add(&mut self, outcome: &Outcome) {
        let [warm_up, measured] = &outcome.phases[..] else { panic!("two phases") };
        self.warm_up_errors += warm_up.errors();
        self.errors += measured.errors();
        self.ids_per_second.push(measured.ids_per_second());
        self.p50.push(measured.ms(0.5));
        self.p99.push(measured.ms(0.99));
        self.p999.push(measured.ms(0.999));
    }
}

fn spread(numbers: &[f64]) -> Spread {
    Spread::of(numbers.iter().copied())
}

pub fn latency(layout: Layout) -> Vec<Bound> {
    let (warm_up, measured, rounds) = (seconds(10, 3), seconds(10, 3), times(3, 1));
    heading(
        &format!("latency, {layout:?}"),
        &format!(
            "closed loop, {CONNECTIONS} connections, GET /new, step 100; {} s of warm-up, then {} s measured; {rounds} \
             shuffled rounds, each with a fresh server and database; medians (smallest..largest)",
            warm_up.as_secs(),
            measured.as_secs(),
        ),
    );
    let (mut random, mut texts, mut ids, mut repeats) = (Random::new(1), Texts::default(), 0, 0);
    let mut rows: Vec<(u64, Row)> = DISTANCES.map(|distance| (distance, Row::default())).into();
    for _ in 0..rounds {
        let mut order: Vec<usize> = (0..rows.len()).collect();
        random.shuffle(&mut order);
        for number in order {
            let (distance, row) = &mut rows[number];
            let mut outcome = run(layout, Duration::from_micros(*distance), &[warm_up, measured]);
            row.add(&outcome);
            ids += outcome.ids.len();
            repeats += outcome.ids.repeats() as u64;
            texts.merge(outcome.texts);
        }
    }
    let (fastest, its_p999) = rows
        .iter()
        .map(|(_, row)| (spread(&row.ids_per_second).median, spread(&row.p999).median))
        .fold((0.0, 0.0), |fastest: (f64, f64), row| if row.0 > fastest.0 { row } else { fastest });

    let head = [
        "database away by ms",
        "errors in warm-up",
        "errors",
        "ids/s",
        "of fastest",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "of the fastest's",
    ];
    let mut table = Table::new(&head);
    let name = format!("latency {layout:?}");
    let mut bounds = vec![Bound::none(format!("{name}: repeats among {ids} ids"), repeats)];
    for (distance, row) in &rows {
        let distance = short(*distance as f64 / 1e3);
        let throughput = spread(&row.ids_per_second).median / fastest;
        let p999 = spread(&row.p999).median / its_p999;
        table.row(&[
            &distance,
            &row.warm_up_errors,
            &row.errors,
            &spread(&row.ids_per_second),
            &short(throughput),
            &spread(&row.p50),
            &spread(&row.p99),
            &spread(&row.p999),
            &short(p999),
        ]);
        if let Layout::Counter = layout {
            bounds.extend([
                Bound::none(format!("{name}: errors at {distance} ms"), row.errors),
                Bound::at_least(
                    format!("{name}: ids/s at {distance} ms, of the fastest"),
                    throughput,
                    LEAST_THROUGHPUT,
                    "",
                ),
                Bound::at_most(format!("{name}: p99.9 at {distance} ms, of the fastest row's"), p999, MOST_P999, ""),
            ]);
        }
    }
    table.print();
    texts.print();
    bounds
}

fn run(layout: Layout, distance: Duration, phases: &[Duration]) -> Outcome {
    let database = mariadb();
    let proxy = Proxy::start(database.port());
    proxy.set_delay(distance);
    let setup = node(proxy.port(), layout);
    let server = start(&setup);
    let requests = Requests::new(["/new"]);
    let plan = Plan {
        ports: &[server.port()],
        connections: CONNECTIONS,
        pace: Pace::Closed,
        requests: &requests,
        choose: &only_one,
        phases: phases.len(),
    };
    let outcome = Load::run(&plan, phases);
    assert!(proxy.bytes() > 0, "the proxy is in the path");
    outcome
}

/// How many sequences are called upon cold, and how far away the database is then.
const COLD: usize = 20;
const COLD_DISTANCE: Duration = Duration::from_millis(50);

/// What scheduling may add to two leases.
const COLD_SHARE: f64 = 1.2;
const COLD_MS: f64 = 20.0;

pub fn cold() -> Vec<Bound> {
    let (length, count) = (seconds(3, 1), times(COLD, 5));
    heading(
        "cold",
        &format!(
            "a sequence of which the node has leased nothing, under sudden load: closed loop, {CONNECTIONS} connections \
             at once for {} s, the database {} ms away; {count} sequences, one after another",
            length.as_secs(),
            COLD_DISTANCE.as_millis(),
        ),
    );
    let database = mariadb();
    let near = node(database.port(), Layout::Counter);
    let names = names("cold", count);
    for name in &names {
        create(&near, name);
    }
    let proxy = Proxy::start(database.port());
    proxy.set_delay(COLD_DISTANCE);
    let setup = node(proxy.port(), Layout::Counter);
    let server = start(&setup);
    for _ in 0..1_000 {
        server.next();
    }

    let requests = Requests::new(names.iter().map(path));
    let (mut ids, mut texts, mut errors) = (Ids::default(), Texts::default(), 0);
    let (mut longest, mut leases) = (Vec::new(), Vec::new());
    let mut table = Table::new(&["sequence", "ids/s", "errors", "longest wait ms", "leases", "mean lease ms"]);
    for (number, name) in (0..).zip(&names) {
        let choose = move |_| -> Choice { Box::new(std::iter::repeat(number)) };
        let plan = Plan {
            ports: &[server.port()],
            connections: CONNECTIONS,
            pace: Pace::Closed,
            requests: &requests,
            choose: &choose,
            phases: 1,
        };
        let outcome = Load::run(&plan, &[length]);
        let phase = &outcome.phases[0];
        let metrics = server.get("/metrics").body;
        let of =
            |what: &str| metric_sum(&metrics, &format!("seqsvr_lease_duration_seconds_{what}{{sequence=\"{name}\""));
        let lease_ms = of("sum") / of("count") * 1e3;
        table.row(&[
            name,
            &short(phase.ids_per_second()),
            &phase.errors(),
            &short(phase.max_ms()),
            &short(of("count")),
            &short(lease_ms),
        ]);
        longest.push(phase.max_ms());
        leases.push(lease_ms);
        errors += phase.errors();
        ids.merge(outcome.ids);
        texts.merge(outcome.texts);
    }
    table.print();
    texts.print();
    let (longest, leases) = (spread(&longest), spread(&leases));
    let bound = leases.median * 2.0 * COLD_SHARE + COLD_MS;
    println!(
        "\nlongest wait of any request: median of the sequences {} ms, worst {} ms; a lease: median {} ms (of the means of \
         the sequences, for the histogram's buckets are wide; by its buckets {} ms)",
        short(longest.median),
        short(longest.max),
        short(leases.median),
        short(bucket_median(&server.get("/metrics").body) * 1e3),
    );
    println!(
        "allowed: two leases, and for scheduling {:.0} % and {COLD_MS} ms: {} ms",
        (COLD_SHARE - 1.0) * 100.0,
        short(bound)
    );
    vec![
        Bound::none("cold: errors", errors),
        Bound::at_most("cold: longest wait of any request (two leases + 20 % + 20 ms)", longest.max, bound, "ms"),
        Bound::no_repeats("cold", &mut ids),
    ]
}

/// The median lease of all cold sequences by the histogram's buckets, in seconds, as Prometheus estimates it: as if the
/// leases were spread evenly in their bucket.
fn bucket_median(metrics: &str) -> f64 {
    let mut buckets: Vec<(f64, f64)> = Vec::new();
    for line in metrics.lines().filter(|line| line.starts_with("seqsvr_lease_duration_seconds_bucket{")) {
        let end = line.split_once("le=\"").and_then(|(_, rest)| rest.split('"').next()?.parse().ok());
        let count = line.rsplit(' ').next().and_then(|count| count.parse::<f64>().ok());
        let (Some(end), Some(count)) = (end, count) else { continue };
        if !line.contains("sequence=\"cold") {
            continue;
        }
        match buckets.iter_mut().find(|bucket| bucket.0.total_cmp(&end).is_eq()) {
            Some(bucket) => bucket.1 += count,
            None => buckets.push((end, count)),
        }
    }
    buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
    let half = buckets.last().map_or(0.0, |all| all.1 / 2.0);
    let (mut begin, mut below) = (0.0, 0.0);
    for (end, count) in buckets {
        if count >= half && count > below {
            return begin + (end - begin) * (half - below) / (count - below);
        }
        (begin, below) = (end, count);
    }
    0.0
}
