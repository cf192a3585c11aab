//! seqsvr beside the reference servers and what a user would pick instead.

use std::process::Command;

use super::open_table;
use crate::bench::{Aa, Bench};
use crate::plot::Panel;
use crate::report::{Bound, figure, row, thousands};
use crate::rounds::{self, CONNECTIONS, Entry, Rounds, Sample, deviation, half_load, ratio};
use crate::servers::peers::{NEXTVAL, NGINX, POSTGRES, REDIS, UPDATE};
use crate::servers::{self, Answer, Contestant, peers, program};
use crate::support::figures::{Spread, short};

/// How many requests are in flight on each connection where they are pipelined.
const DEPTH: usize = 16;

const SEQSVR: &str = "seqsvr";
const AGAIN: &str = "seqsvr, again";
const RAW: &str = "raw";

/// The most of the raw server's processor time that a request may cost.
const MOST_CPU: f64 = 1.15;
const MOST_CPU_PIPELINED: f64 = 1.7;

const LEAST_OF_NGINX: f64 = 1.0;
const LEAST_OF_DATABASES: f64 = 1.8;
const LEAST_OF_REDIS: f64 = 0.9;

/// seqsvr twice, another build of it where one is named, and what answers a constant.
fn http_servers(bench: &mut Bench) -> Vec<Contestant> {
    let mut servers = vec![servers::seqsvr(SEQSVR, servers::embedded()), servers::seqsvr(AGAIN, servers::embedded())];
    let answer = Answer::of(&servers[0]);
    servers.extend(servers::base());
    servers.extend([servers::raw(&answer), servers::actix(&answer)]);
    servers.extend(present(bench, NGINX, peers::nginx(&answer)));
    servers
}

fn present<T>(bench: &mut Bench, name: &str, peer: Option<T>) -> Option<T> {
    if peer.is_none() {
        println!("{name} is not installed: make bench-peers");
        bench.absent.insert(name.to_owned());
    }
    peer
}

fn find<'a, 'b>(entries: &'a [Entry<'b>], name: &str) -> Option<&'a Entry<'b>> {
    entries.iter().find(|entry| entry.name == name)
}

/// The ratio of seqsvr's figure to that of `name`, if that took part.
fn against(entries: &[Entry<'_>], name: &str, open: bool, figure: impl Fn(&Sample) -> f64) -> Option<Spread> {
    let (ours, theirs) = (find(entries, SEQSVR)?, find(entries, name)?);
    let [ours, theirs] = [ours, theirs].map(|entry| if open { &entry.open } else { &entry.closed });
    Some(ratio(ours, theirs, figure))
}

/// `GET /new` on 64 connections, one request at a time on each.
pub fn new(bench: &mut Bench) {
    let servers = http_servers(bench);
    let mut entries: Vec<Entry<'_>> = servers.iter().map(Entry::of).collect();
    let rate = half_load(bench, &entries);
    let plan =
        Rounds { count: bench.rounds(7), closed: bench.seconds(3.0), open: bench.seconds(4.0), rate: Some(rate) };
    rounds::run(bench, &mut entries, plan);
    bench.report.heading(&format!("`GET /new`, {CONNECTIONS} connections"));
    describe_pace(bench, rate, plan.count, "Each connection has one request in flight.");
    open_table(bench, &entries);
    capacity_table(bench, &entries);

    let aa = a_against_a(bench, &entries);
    bench.aa = Some(aa);
    let cpu = |sample: &Sample| sample.cpu;
    if let Some(base) = against(&entries, "seqsvr (base)", true, cpu) {
        bench
            .report
            .paragraph(&format!("seqsvr against the other build (`SEQSVR_BASE`): processor time {}", figure(base)));
    }
    let raw = against(&entries, RAW, true, cpu).expect("both were measured");
    let what = "`GET /new`: processor time for a request, of raw fixed bytes'";
    bench.bounds.push(Bound::at_most(what, raw, MOST_CPU, "x").beside(Some(aa.cpu)));
    let what = "`GET /new`: requests/s, of nginx's `return 200`";
    bench.bounds.push(match against(&entries, NGINX, false, |sample| sample.requests_per_second) {
        Some(nginx) => Bound::at_least(what, nginx, LEAST_OF_NGINX, "x").beside(Some(aa.requests)),
        None => Bound::unknown(what, "at least 1.00x", "nginx is not installed"),
    });
    panels(bench, &entries, "64 connections");
}

/// The same with 16 requests in flight on each connection, in one write.
pub fn pipelined(bench: &mut Bench) {
    let servers = http_servers(bench);
    let redis = present(bench, REDIS, peers::redis());
    let mut entries: Vec<Entry<'_>> = servers
        .iter()
        // nginx takes ten times as long as the others for these: its rate would keep them idle.
        .map(|server| if server.name == NGINX { Entry::of(server).unpaced() } else { Entry::of(server) })
        .chain(redis.as_ref().map(Entry::of))
        .map(|entry| entry.deep(DEPTH))
        .collect();
    let rate = half_load(bench, &entries);
    let plan =
        Rounds { count: bench.rounds(5), closed: bench.seconds(3.0), open: bench.seconds(4.0), rate: Some(rate) };
    rounds::run(bench, &mut entries, plan);
    bench.report.heading(&format!("`GET /new`, {CONNECTIONS} connections, {DEPTH} requests deep"));
    describe_pace(
        bench,
        rate,
        plan.count,
        "Each connection sends 16 requests in one write, and the next once all are answered.",
    );
    open_table(bench, &entries);
    capacity_table(bench, &entries);

    let aa = a_against_a(bench, &entries);
    let raw = against(&entries, RAW, true, |sample| sample.cpu).expect("both were measured");
    bench.bounds.push(Bound::at_most("the same, 16 deep", raw, MOST_CPU_PIPELINED, "x").beside(Some(aa.cpu)));
    let what = "16 deep: ids/s, of Redis INCR's";
    bench.bounds.push(match against(&entries, REDIS, false, |sample| sample.ids_per_second) {
        Some(redis) => Bound::at_least(what, redis, LEAST_OF_REDIS, "x").beside(Some(aa.requests)),
        None => Bound::unknown(what, "at least 0.90x", "Redis is not installed"),
    });
    panels(bench, &entries, "64 connections, 16 deep");
}

/// What else hands out numbers, each over its own protocol.
pub fn peers(bench: &mut Bench) {
    let ours = servers::seqsvr(SEQSVR, servers::embedded());
    let redis = present(bench, REDIS, peers::redis());
    let mariadb = present(bench, "MariaDB", peers::mariadb());
    let postgres = present(bench, POSTGRES, peers::postgres());
    let others = redis.iter().chain(mariadb.iter().flatten()).chain(&postgres);
    let mut entries: Vec<Entry<'_>> = [&ours]
        .into_iter()
        .chain(others)
        // It waits for the disk at each id.
        .map(|server| if server.name == UPDATE { Entry::of(server).unpaced() } else { Entry::of(server) })
        .collect();
    let rate = half_load(bench, &entries);
    let plan =
        Rounds { count: bench.rounds(5), closed: bench.seconds(3.0), open: bench.seconds(3.0), rate: Some(rate) };
    rounds::run(bench, &mut entries, plan);
    bench.report.heading(&format!("Peers, {CONNECTIONS} connections"));
    describe_pace(
        bench,
        rate,
        plan.count,
        "Prepared statements; sequences with a cache of 1000. Redis keeps nothing on disk; `UPDATE ... LAST_INSERT_ID` waits for the \
         disk at each id, and takes part in the closed loop only.",
    );
    open_table(bench, &entries);
    capacity_table(bench, &entries);
    for (name, what) in [(NEXTVAL, "MariaDB's `NEXTVAL`"), (POSTGRES, "Postgres' `nextval`")] {
        let what = format!("`GET /new`: requests/s, of {what}");
        bench.bounds.push(match against(&entries, name, false, |sample| sample.requests_per_second) {
            Some(ratio) => {
                Bound::at_least(&what, ratio, LEAST_OF_DATABASES, "x").beside(bench.aa.map(|aa| aa.requests))
            }
            None => Bound::unknown(&what, "at least 1.80x", "not installed"),
        });
    }
    panels(bench, &entries, "against other sources of ids");
}

/// What the A/A pair says of this run.
fn a_against_a(bench: &mut Bench, entries: &[Entry<'_>]) -> Aa {
    let of = |open, what: &dyn Fn(&Sample) -> f64| against(entries, AGAIN, open, what).expect("both were measured");
    let (cpu, requests) = (of(true, &|sample| sample.cpu), of(false, &|sample| sample.requests_per_second));
    let tail = of(true, &|sample| sample.p999_ms);
    bench.report.paragraph(&format!(
        "seqsvr against seqsvr, the A/A pair: processor time {}, requests/s {}, p99.9 {}. Differences within these spreads say \
         nothing.",
        figure(cpu),
        figure(requests),
        figure(tail),
    ));
    Aa { cpu: deviation(cpu), requests: deviation(requests), tail: deviation(tail) }
}

fn describe_pace(bench: &mut Bench, rate: f64, count: usize, what: &str) {
    bench.report.paragraph(&format!(
        "{what} Medians of {count} shuffled rounds. At the same rate, {rate:.0} requests/s (half of what the slowest here can do), timed \
         from when each was due:"
    ));
}

fn capacity_table(bench: &mut Bench, entries: &[Entry<'_>]) {
    bench.report.paragraph("As many as it can, in a closed loop:");
    let head = ["", "requests/s", "us of processor time a request", "p50 ms", "p99 ms", "generator us a request"];
    let rows: Vec<Vec<String>> = entries
        .iter()
        .map(|entry| {
            row(&[
                &entry.name,
                &thousands(entry.of_closed(|sample| sample.requests_per_second)),
                &figure(entry.of_closed(|sample| sample.cpu)),
                &short(entry.of_closed(|sample| sample.p50_ms).median),
                &short(entry.of_closed(|sample| sample.p99_ms).median),
                &short(entry.of_closed(|sample| sample.generator_cpu).median),
            ])
        })
        .collect();
    bench.report.table(&head, &rows);
}

fn panels(bench: &mut Bench, entries: &[Entry<'_>], what: &str) {
    let bars = |figure: &dyn Fn(&Entry<'_>) -> Option<Spread>| {
        let shown = entries.iter().filter(|entry| entry.name != AGAIN);
        shown.filter_map(|entry| Some((entry.name.clone(), figure(entry)?))).collect::<Vec<_>>()
    };
    let cpu = bars(&|entry| (!entry.open.is_empty()).then(|| entry.of_open(|sample| sample.cpu)));
    let rate = bars(&|entry| Some(entry.of_closed(|sample| sample.requests_per_second)));
    bench.panels.push(Panel {
        title: format!("Processor time for a request, {what}"),
        unit: "us, less is better",
        bars: cpu,
    });
    bench.panels.push(Panel { title: format!("Requests a second, {what}"), unit: "/s, more is better", bars: rate });
}

/// As users will measure it.
pub fn wrk(bench: &mut Bench) {
    let Some(program) = program("wrk") else {
        present::<()>(bench, "wrk", None);
        return;
    };
    let servers: Vec<Contestant> =
        http_servers(bench).into_iter().filter(|server| server.name == SEQSVR || server.name == NGINX).collect();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/wrk.lua");
    let seconds = bench.seconds(5.0).as_secs().max(1);
    let mut found: Vec<Vec<[f64; 3]>> = vec![Vec::new(); servers.len()];
    for _ in 0..bench.rounds(3) {
        let mut order: Vec<usize> = (0..servers.len()).collect();
        bench.random.shuffle(&mut order);
        for number in order {
            let server = &servers[number];
            let mut command = Command::new(&program);
            command.args(["-t2", "-c64", &format!("-d{seconds}s"), "-s", script]);
            let output = command.arg(format!("http://127.0.0.1:{}/new", server.port)).output().expect("wrk runs");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let value = |name: &str| {
                let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
                line.unwrap_or_else(|| panic!("no {name} in\n{text}"))
            };
            found[number].push(["requests_per_second", "p50_ms", "p99_ms"].map(value));
            // Nothing but seqsvr promises not to repeat itself.
            let bad = ["errors", "repeats", "unchecked", "broken_connections", "timeouts"].map(value);
            if server.name == SEQSVR && (bad.iter().sum::<f64>() > 0.0 || !output.status.success()) {
                bench.failed("seqsvr under wrk", 1, &text);
            }
        }
    }
    bench.report.heading("wrk, as users will");
    bench.report.paragraph(&format!(
        "`wrk -t2 -c64 -d{seconds}s -s benches/wrk.lua`, which checks every id; medians of {} shuffled rounds.",
        found[0].len()
    ));
    let of = |rounds: &[[f64; 3]], column: usize| Spread::of(rounds.iter().map(|round| round[column]));
    let rows: Vec<Vec<String>> = servers
        .iter()
        .zip(&found)
        .map(|(server, rounds)| {
            row(&[&server.name, &thousands(of(rounds, 0)), &figure(of(rounds, 1)), &figure(of(rounds, 2))])
        })
        .collect();
    bench.report.table(&["", "requests/s", "p50 ms", "p99 ms"], &rows);
}
