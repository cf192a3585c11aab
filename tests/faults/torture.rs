//! Every fault of docs/guarantees.md in full, and each that has a guard a second time with the guard off: then the checker
//! must find a repeat, or the fault was none.
//!
//! ```text
//! make torture                    all
//! make torture ONLY="rewind kill" those whose names have one of these in them
//! ```
//!
//! Ends with 1 if an id came twice, if an answer was an error that should have been an id, or if a guard that is off was not
//! missed.

#[allow(dead_code)] // it is shared with tests/it, which uses the rest
#[path = "../support/mod.rs"]
mod support;

mod all;
mod clock;
mod clusters;
mod counters;
mod database;
mod failback;
mod kills;
mod memory;
mod network;
mod nodes;
mod replication;
mod rig;
mod stores;
mod strays;
mod tables;

use std::process::ExitCode;
use std::time::Instant;

use rig::{Fault, Outcome, Run};
use support::checker::Checker;

/// A guard that is off is given so many runs to be missed: some faults need a race.
const RUNS_WITHOUT: u32 = 5;

fn main() -> ExitCode {
    find_planted_repeats();
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let is_wanted = |fault: &&Fault| wanted.is_empty() || wanted.iter().any(|part| fault.name.contains(part.as_str()));
    let faults: Vec<&Fault> = all::ALL.iter().filter(is_wanted).collect();
    if faults.is_empty() {
        eprintln!("no fault has that in its name; there are:");
        for fault in all::ALL {
            eprintln!("  {}", fault.name);
        }
        return ExitCode::from(2);
    }
    let began = Instant::now();
    let mut lines = vec![[
        "fault".to_owned(),
        "guard".into(),
        "rounds".into(),
        "ids checked".into(),
        "repeats".into(),
        "errors".into(),
        "ids lost".into(),
        "s".into(),
        String::new(),
    ]];
    for fault in faults {
        lines.push(line(fault, "", |tried| tried.is_some_and(|tried| tried.repeats == 0 && tried.errors == 0)));
        if !fault.guards.is_empty() {
            lines.push(line(fault, fault.guards, |tried| tried.is_some_and(|tried| tried.repeats > 0)));
        }
    }
    print(&lines);
    let failed = lines.iter().filter(|line| line[8] == "FAILED").count();
    println!("\n{} s in all, {failed} failed", began.elapsed().as_secs());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What of an outcome is judged.
struct Tried {
    repeats: usize,
    errors: usize,
}

/// Runs a fault; its line of the table.
fn line(fault: &Fault, off: &'static str, is_good: impl Fn(Option<Tried>) -> bool) -> [String; 9] {
    let began = Instant::now();
    let guard = match (fault.guards, off) {
        ("", _) => "-".to_owned(),
        (_, "") => "on".to_owned(),
        (_, off) => format!("{off} off"),
    };
    println!("\n== {}, guard {guard}", fault.name);
    let run = Run { is_full: off.is_empty(), off };
    let runs = if off.is_empty() { 1 } else { RUNS_WITHOUT };
    let mut all: Option<Outcome> = None;
    for _ in 0..runs {
        // A fault that can't be done must not keep the others from being done.
        let Ok(outcome) = std::panic::catch_unwind(|| (fault.run)(&run)) else {
            all = None;
            break;
        };
        all = Some(outcome);
        if all.as_ref().is_some_and(|outcome| outcome.checker.verdict().repeats > 0) {
            break;
        }
    }
    let seconds = began.elapsed().as_secs().to_string();
    let Some(outcome) = all else {
        let none = || "-".to_owned();
        return [fault.name.to_owned(), guard, none(), none(), none(), none(), none(), seconds, "FAILED".to_owned()];
    };
    let verdict = outcome.checker.verdict();
    println!("{verdict:?}");
    let is_good =
        verdict.ids > 0 && is_good(Some(Tried { repeats: verdict.repeats + verdict.outside, errors: verdict.errors }));
    [
        fault.name.to_owned(),
        guard,
        outcome.rounds.to_string(),
        verdict.ids.to_string(),
        verdict.repeats.to_string(),
        verdict.errors.to_string(),
        outcome.lost.map_or_else(|| "-".to_owned(), |lost| lost.to_string()),
        seconds,
        if is_good { "ok" } else { "FAILED" }.to_owned(),
    ]
}

/// As a table that is one in Markdown too.
fn print(lines: &[[String; 9]]) {
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..9).map(width).collect();
    println!();
    for (number, line) in lines.iter().enumerate() {
        let cells = line.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
            if (2..8).contains(&column) { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        println!("| {} |", cells.collect::<Vec<_>>().join(" | "));
        if number == 0 {
            let rule = |(column, &width): (usize, &usize)| {
                if (2..8).contains(&column) { format!("{}:", "-".repeat(width + 1)) } else { "-".repeat(width + 2) }
            };
            println!("|{}|", widths.iter().enumerate().map(rule).collect::<Vec<_>>().join("|"));
        }
    }
}

/// Who never finds a repeat must be seen to find one.
fn find_planted_repeats() {
    let mut checker = Checker::default();
    checker.add([7, 8, 9, 7, 7]);
    assert_eq!(checker.verdict().repeats, 2, "7 came three times");
}
