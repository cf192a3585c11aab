//! seqsvr against itself: what it does with many ids, many connections, small steps, names and metrics.

use super::open_table;
use crate::bench::Bench;
use crate::load::most_connections;
use crate::protocol::Protocol;
use crate::protocol::http::{Http, Ids};
use crate::report::{Bound, figure, row, thousands};
use crate::rounds::{self, CONNECTIONS, Entry, Rounds, Sample, deviation, half_load, ratio};
use crate::servers::{self, Answer};
use crate::support::figures::short;
use crate::support::server::Setup;

const LEAST_RANGED_IDS_PER_SECOND: f64 = 50e6;

/// The most p99.9 with a step of 100, of that with a step of a million.
const MOST_STEP_TAIL: f64 = 1.5;

const MANY_CONNECTIONS: usize = 10_000;

/// Files that the server may have open: the connections, and some. Not more than this process must be allowed.
const OPEN_FILES: u32 = 10_200;

const LEAST_OF_FEW: f64 = 0.75;
const MOST_MEMORY_MIB: f64 = 150.0;

const MOST_NAMED: f64 = 1.1;

fn cpu(sample: &Sample) -> f64 {
    sample.cpu
}

/// A thousand ids a request, as one or two ranges.
pub fn ranges(bench: &mut Bench) {
    let server = servers::seqsvr("seqsvr", servers::embedded());
    let mut entries = [Entry::of(&server).named("`/new?count=1000&ranges`")];
    entries[0].protocol = Protocol::Http(Http::get("/new?count=1000&ranges", Ids::Ranges));
    let plan = Rounds { count: bench.rounds(5), closed: bench.seconds(3.0), open: bench.seconds(1.0), rate: None };
    rounds::run(bench, &mut entries, plan);
    let [entry] = &entries;
    bench.report.heading("A thousand ids a request");
    bench.report.paragraph(&format!("{CONNECTIONS} connections in a closed loop; {} rounds.", plan.count));
    bench.report.table(
        &["", "ids/s", "requests/s", "us of processor time a request", "p99 ms"],
        &[row(&[
            &entry.name,
            &thousands(entry.of_closed(|sample| sample.ids_per_second)),
            &thousands(entry.of_closed(|sample| sample.requests_per_second)),
            &figure(entry.of_closed(cpu)),
            &figure(entry.of_closed(|sample| sample.p99_ms)),
        ])],
    );
    let millions = entry.of_closed(|sample| sample.ids_per_second / 1e6);
    bench.bounds.push(Bound::at_least(
        "`?count=1000&ranges`: ids/s",
        millions,
        LEAST_RANGED_IDS_PER_SECOND / 1e6,
        " million",
    ));
}

/// A small step against a large one: who leases more often must not be slower for it.
pub fn step(bench: &mut Bench) {
    let large = servers::seqsvr("step 1,000,000", servers::embedded().env("SEQSVR_STEP", "1000000"));
    let small = servers::seqsvr("step 100", servers::embedded().env("SEQSVR_STEP", "100"));
    let mut entries = [Entry::of(&large), Entry::of(&small)];
    let rate = half_load(bench, &entries);
    let plan =
        Rounds { count: bench.rounds(7), closed: bench.seconds(0.0), open: bench.seconds(5.0), rate: Some(rate) };
    rounds::run(bench, &mut entries, plan);
    let [large, small] = &entries;
    bench.report.heading("A small step against a large one");
    bench.report.paragraph(&format!(
        "Two servers on the embedded store at half load, {rate:.0} requests/s, {CONNECTIONS} connections; {} shuffled rounds.",
        plan.count
    ));
    open_table(bench, &entries);
    let tail = ratio(&small.open, &large.open, |sample| sample.p999_ms);
    let aa = bench.aa.map(|aa| aa.tail);
    bench
        .bounds
        .push(Bound::at_most("p99.9 at half load, step 100 of step 1,000,000", tail, MOST_STEP_TAIL, "x").beside(aa));
}

/// Many connections, of which each is seldom asked on.
pub fn connections(bench: &mut Bench) {
    let (what, memory) = ("10,000 connections: requests/s, of 64's", "10,000 connections: resident memory");
    if most_connections() < MANY_CONNECTIONS {
        let why = format!("`ulimit -n` allows this process {} connections", most_connections());
        println!("{why}: raise it for the scenario `connections`");
        bench.bounds.push(Bound::unknown(what, "at least 0.750x", &why));
        bench.bounds.push(Bound::unknown(memory, "at most 150 MiB", &why));
        return;
    }
    let limit = format!("--nofile={OPEN_FILES}:{OPEN_FILES}");
    let starter = [&["prlimit", &limit], &servers::GUARD[..]].concat();
    // Two servers: what the connections took is not given back at once, and must not be seen in the other's memory.
    let few = servers::seqsvr("seqsvr, 64 connections", servers::embedded());
    let many = servers::seqsvr("seqsvr, 10,000 connections", Setup::embedded().by(&starter));
    // What many connections cost anybody: the kernel's part, and the generator's.
    let raw = servers::raw(&Answer::of(&few));
    let mut entries = [
        Entry::of(&few),
        Entry::of(&many),
        Entry::of(&raw).named("raw, 64 connections"),
        Entry::of(&raw).named("raw, 10,000 connections"),
    ];
    for number in [1, 3] {
        entries[number].connections = MANY_CONNECTIONS;
    }
    let plan = Rounds { count: bench.rounds(5), closed: bench.seconds(4.0), open: bench.seconds(1.0), rate: None };
    rounds::run(bench, &mut entries, plan);
    let [few, many, raw_few, raw_many] = &entries;
    bench.report.heading("Many connections");
    bench.report.paragraph(&format!("All of them busy in a closed loop; {} shuffled rounds.", plan.count));
    let rows: Vec<Vec<String>> = entries
        .iter()
        .map(|entry| {
            row(&[
                &entry.name,
                &thousands(entry.of_closed(|sample| sample.requests_per_second)),
                &figure(entry.of_closed(cpu)),
                &figure(entry.of_closed(|sample| sample.p99_ms)),
                &figure(entry.of_closed(|sample| sample.resident_mib)),
                &short(entry.of_closed(|sample| sample.generator_cpu).median),
            ])
        })
        .collect();
    bench
        .report
        .table(&["", "requests/s", "us of processor time a request", "p99 ms", "MiB", "generator us a request"], &rows);
    let rate = |sample: &Sample| sample.requests_per_second;
    let raw_share = ratio(&raw_many.closed, &raw_few.closed, rate);
    bench
        .report
        .paragraph(&format!("raw with 10,000 connections against raw with 64: requests/s {}x", figure(raw_share)));
    let share = ratio(&many.closed, &few.closed, rate);
    bench.bounds.push(Bound::at_least(what, share, LEAST_OF_FEW, "x").beside(bench.aa.map(|aa| aa.requests)));
    let resident = many.of_closed(|sample| sample.resident_mib);
    bench.bounds.push(Bound::at_most(memory, resident, MOST_MEMORY_MIB, " MiB"));
}

/// A named sequence against `/new`, of one server.
pub fn named(bench: &mut Bench) {
    let setup = Setup::new("store: embedded\nsequences: {orders: {}}\n").by(&servers::GUARD);
    let server = servers::seqsvr("`/new`", setup);
    let orders = server.at("`/new/orders`", "/new/orders");
    let mut entries = [Entry::of(&server), Entry::of(&orders)];
    let rate = half_load(bench, &entries);
    let plan =
        Rounds { count: bench.rounds(7), closed: bench.seconds(0.0), open: bench.seconds(4.0), rate: Some(rate) };
    rounds::run(bench, &mut entries, plan);
    let [default, orders] = &entries;
    bench.report.heading("A named sequence");
    bench.report.paragraph(&format!(
        "One server at half load, {rate:.0} requests/s, {CONNECTIONS} connections; {} shuffled rounds.",
        plan.count
    ));
    open_table(bench, &entries);
    let cost = ratio(&orders.open, &default.open, cpu);
    let what = "`/new/orders`: processor time for a request, of `/new`'s";
    bench.bounds.push(Bound::at_most(what, cost, MOST_NAMED, "x").beside(bench.aa.map(|aa| aa.cpu)));
}

/// Metrics scraped once a second against never, twice: the difference between the two is that of nothing.
pub fn scraped(bench: &mut Bench) {
    let server = servers::seqsvr("seqsvr", servers::embedded());
    let mut entries = [
        Entry::of(&server).named("never scraped"),
        Entry::of(&server).named("never, again"),
        Entry::of(&server).named("scraped once a second"),
    ];
    entries[2].is_scraped = true;
    let rate = half_load(bench, &entries[..1]);
    let plan =
        Rounds { count: bench.rounds(7), closed: bench.seconds(0.0), open: bench.seconds(4.0), rate: Some(rate) };
    rounds::run(bench, &mut entries, plan);
    let [never, again, scraped] = &entries;
    bench.report.heading("Metrics that are scraped");
    bench.report.paragraph(&format!(
        "One server at half load, {rate:.0} requests/s, {CONNECTIONS} connections; {} shuffled rounds.",
        plan.count
    ));
    open_table(bench, &entries);
    let (aa, cost) = (ratio(&again.open, &never.open, cpu), ratio(&scraped.open, &never.open, cpu));
    bench.report.paragraph(&format!("never against never, the A/A pair: processor time {}", figure(aa)));
    bench.bounds.push(Bound::at_most(
        "metrics scraped once a second: processor time, of never; the A/A spread is allowed",
        cost,
        deviation(aa),
        "x",
    ));
}
