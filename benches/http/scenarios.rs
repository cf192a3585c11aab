//! What is compared, and the bounds that belong to it. In the order of the results.

use crate::bench::Bench;
use crate::report::{figure, row};
use crate::rounds::Entry;
use crate::support::figures::short;

mod memory;
mod own;
mod side_by_side;
mod start;

/// A scenario measures, reports, and leaves its bounds.
pub type Scenario = fn(&mut Bench);

pub const SCENARIOS: [(&str, Scenario); 11] = [
    ("in_process", memory::in_process),
    ("new", side_by_side::new),
    ("pipelined", side_by_side::pipelined),
    ("peers", side_by_side::peers),
    ("ranges", own::ranges),
    ("step", own::step),
    ("connections", own::connections),
    ("named", own::named),
    ("scraped", own::scraped),
    ("start", start::start),
    ("wrk", side_by_side::wrk),
];

/// What the open loop found, of those that took part in it.
fn open_table(bench: &mut Bench, entries: &[Entry<'_>]) {
    let head = ["", "us of processor time a request", "p50 ms", "p99 ms", "p99.9 ms", "MiB", "generator late p99 ms"];
    let rows: Vec<Vec<String>> = entries
        .iter()
        .filter(|entry| !entry.open.is_empty())
        .map(|entry| {
            row(&[
                &entry.name,
                &figure(entry.of_open(|sample| sample.cpu)),
                &figure(entry.of_open(|sample| sample.p50_ms)),
                &figure(entry.of_open(|sample| sample.p99_ms)),
                &figure(entry.of_open(|sample| sample.p999_ms)),
                &short(entry.of_open(|sample| sample.resident_mib).median),
                &short(entry.of_open(|sample| sample.lateness_p99_ms).median),
            ])
        })
        .collect();
    bench.report.table(&head, &rows);
}
