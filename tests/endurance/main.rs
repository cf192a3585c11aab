//! Bounds on speed and loss while the database is slow, away, or fought for, or clients mean harm: the built binary
//! under load, one scenario after another. It takes half an hour and wants the machine for itself.
//!
//! ```text
//! make endurance                           all scenarios
//! make endurance ONLY="latency zipf"       some
//! SEQSVR_ENDURANCE_QUICK=1 make endurance    with short phases, to try the scenarios themselves
//! ```
//!
//! Ends with 1 if a bound is missed or an id came twice.

// What is counted fits; what is measured needs no more digits.
#![allow(clippy::cast_precision_loss)]

#[allow(dead_code)] // it is shared with tests/it, which uses the rest
#[path = "../support/mod.rs"]
mod support;

mod abuse;
mod latency;
mod load;
mod many;
mod nodes;
mod outage;
mod report;
mod rig;

use std::process::ExitCode;
use std::time::Instant;

use report::{Bound, Table};
use rig::{Layout, is_quick};

/// A scenario returns its bounds with what it measured.
type Scenario = fn() -> Vec<Bound>;

const SCENARIOS: [(&str, Scenario); 10] = [
    ("outage", || outage::outage(Layout::Counter)),
    ("outage_ticket", || outage::outage(Layout::Ticket)),
    ("latency", || latency::latency(Layout::Counter)),
    ("latency_ticket", || latency::latency(Layout::Ticket)),
    ("cold", latency::cold),
    ("zipf", many::zipf),
    ("memory", many::memory),
    ("give_back", nodes::give_back),
    ("contention", nodes::contention),
    ("abuse", abuse::abuse),
];

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let is_known = |name: &String| SCENARIOS.iter().any(|(known, _)| known == name);
    if let Some(unknown) = wanted.iter().find(|name| !is_known(name)) {
        eprintln!("no scenario {unknown}; there are: {}", SCENARIOS.map(|(name, _)| name).join(" "));
        return ExitCode::from(2);
    }
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    println!("{processors} processors, shared by servers, databases and the load");
    if is_quick() {
        println!("SEQSVR_ENDURANCE_QUICK: the long phases are short; the bounds then say little");
    }
    find_planted_repeats();
    let mut bounds = Vec::new();
    for (name, scenario) in SCENARIOS {
        if !wanted.is_empty() && !wanted.iter().any(|wanted| wanted == name) {
            continue;
        }
        let began = Instant::now();
        // A scenario that can't be run must not keep the others from being measured.
        match std::panic::catch_unwind(scenario) {
            Ok(kept) => bounds.extend(kept),
            Err(_) => bounds.push(Bound {
                name: format!("{name}: runs to its end"),
                measured: "failed, see above".into(),
                allowed: "does".into(),
                is_kept: false,
            }),
        }
        println!("\n({name} took {:.0} s)", began.elapsed().as_secs_f64());
    }
    summary(&bounds)
}

/// Who never finds a repeat must be seen to find one.
fn find_planted_repeats() {
    let mut ids = load::Ids::default();
    for (sequence, id) in [(0, 7), (1, 7), (0, 8), (1, 9), (0, 7), (0, 7)] {
        ids.add(sequence, id);
    }
    assert_eq!(ids.repeats(), 2, "7 of the first sequence came three times");
}

fn summary(bounds: &[Bound]) -> ExitCode {
    report::heading("bounds", if is_quick() { "of a quick run" } else { "what was measured" });
    let mut table = Table::new(&["bound", "measured", "allowed", ""]);
    for bound in bounds {
        table.row(&[&bound.name, &bound.measured, &bound.allowed, &if bound.is_kept { "ok" } else { "MISSED" }]);
    }
    table.print();
    if bounds.iter().all(|bound| bound.is_kept) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
