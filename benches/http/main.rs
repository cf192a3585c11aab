//! What an id costs over HTTP, side by side with what one would pick in seqsvr's place.
//!
//! ```text
//! make bench                           everything, in about 20 minutes; writes benches/RESULTS.md and results.svg
//! make bench ONLY="new pipelined"      some scenarios; prints, and writes nothing
//! SEQSVR_BENCH_QUICK=1 make bench      all of it, much too short to say anything; writes nothing
//! SEQSVR_BASE=path make bench ONLY=new with another build of seqsvr beside this one
//! SEQSVR_BENCH_THREADS=1 make bench    with so many threads of the load generator
//! ```
//!
//! It starts everything itself. All that is compared is measured in shuffled rounds (`rounds`), by a load generator of
//! its own (`load`), which speaks the protocol of each contestant (`protocol`, `servers`) and checks every id (`ids`).
//! It wants the machine for itself, and says by an A/A pair how far from that it was.
//!
//! Ends with 1 if an id came twice or an answer was an error; with `--strict` also if a bound was missed.

// What is counted fits; what is measured needs no more digits.
#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]

#[allow(dead_code)] // it is shared with tests/it, which uses the rest
#[path = "../../tests/support/mod.rs"]
mod support;

#[path = "../at_once.rs"]
mod at_once;
mod bench;
#[path = "../../tests/support/filled.rs"]
mod filled;
mod ids;
mod load;
mod plot;
mod process;
mod protocol;
mod reference;
mod report;
mod rounds;
mod scenarios;
mod selftest;
mod servers;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use bench::Bench;
use scenarios::SCENARIOS;

/// As seqsvr itself has it: the reference server on actix is not to be slower by its allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const RESULTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/RESULTS.md");
const PLOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/results.svg");

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some((reference::ARGUMENT, which)) = arguments.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        reference::serve(which);
        return ExitCode::SUCCESS;
    }
    // Cargo passes `--bench`.
    let (flags, wanted): (Vec<String>, Vec<String>) =
        arguments.into_iter().filter(|argument| argument != "--bench").partition(|argument| argument.starts_with("--"));
    let is_known = |name: &String| SCENARIOS.iter().any(|(known, _)| known == name);
    let unknown = wanted.iter().find(|name| !is_known(name));
    let unknown = unknown.or_else(|| flags.iter().find(|flag| *flag != "--strict" && *flag != "--self-test"));
    if let Some(unknown) = unknown {
        eprintln!(
            "{unknown} is unknown; the scenarios: {}; the flags: --strict --self-test",
            SCENARIOS.map(|(name, _)| name).join(" ")
        );
        return ExitCode::from(2);
    }
    selftest::run();
    println!("the load generator finds repeats, errors, closed connections and stalls");
    if flags.iter().any(|flag| flag == "--self-test") {
        return ExitCode::SUCCESS;
    }
    let is_quick = std::env::var_os("SEQSVR_BENCH_QUICK").is_some_and(|value| !value.is_empty());
    if is_quick {
        println!("SEQSVR_BENCH_QUICK: everything is short; the figures say nothing");
    }
    let bench = measure(is_quick, &wanted);
    println!("\n{}", report::bounds(&bench));
    let (ids, repeats, errors) = bench.verdict();
    println!("{ids} different ids, {repeats} repeats, {errors} errors. {}", report::disturbance(&bench));
    if wanted.is_empty() && !is_quick {
        std::fs::write(RESULTS, report::results(&bench)).expect("benches/RESULTS.md can be written");
        plot::draw(&bench.panels, PLOT).expect("benches/results.svg can be written");
        println!("benches/RESULTS.md and benches/results.svg are written");
    }
    let is_missed = bench.bounds.iter().any(|bound| bound.is_kept == Some(false));
    let is_strict = flags.iter().any(|flag| flag == "--strict");
    if repeats > 0 || errors > 0 || (is_strict && is_missed) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Runs the scenarios that are `wanted`, or all.
fn measure(is_quick: bool, wanted: &[String]) -> Bench {
    let mut bench = Bench::new(is_quick);
    for (name, scenario) in SCENARIOS {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            let began = Instant::now();
            // A scenario that can't be run must not keep the others from being measured.
            if catch_unwind(AssertUnwindSafe(|| scenario(&mut bench))).is_err() {
                bench.failed(name, 1, "it did not run to its end, see above");
            }
            println!("\n({name} took {:.0} s)", began.elapsed().as_secs_f64());
        }
    }
    bench
}
