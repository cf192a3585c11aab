//! What there is before any load: an idle server, and its start.

use std::thread;
use std::time::{Duration, Instant};

use crate::bench::Bench;
use crate::process;
use crate::report::{Bound, figure, row};
use crate::servers::free_port;
use crate::support::figures::{Spread, short};
use crate::support::http::Client;
use crate::support::server::Setup;

const MOST_IDLE_MIB: f64 = 15.0;
const MOST_START_MS: f64 = 60.0;

/// How often it is looked whether a server answers.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Nobody waits for longer than that for a server's start.
const PATIENCE: Duration = Duration::from_secs(20);

/// From its start to the look at an idle server's memory.
const IDLE: f64 = 3.0;

/// From the start to the first id, on a new embedded store and on one that is there; and the memory of an idle server.
pub fn start(bench: &mut Bench) {
    let (mut new, mut existing) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds(15) {
        let setup = Setup::embedded();
        new.push(time_to_first_id(&setup));
        existing.push(time_to_first_id(&setup));
    }
    let server = Setup::embedded().start();
    server.wait_until_ready();
    thread::sleep(bench.seconds(IDLE));
    let idle = process::resident(server.pid()) as f64 / f64::from(1 << 20);

    let (new, existing) = (Spread::of(new), Spread::of(existing));
    bench.report.heading("Start, and an idle server");
    bench.report.paragraph(&format!(
        "From the process's start to the first answer of `/new` on the embedded store, {} times; looked at every millisecond.",
        bench.rounds(15)
    ));
    let rows = [
        row(&[&"first id, on a new store, ms", &figure(new)]),
        row(&[&"first id, on a store that is there, ms", &figure(existing)]),
        row(&[&"resident memory when idle, MiB", &short(idle)]),
    ];
    bench.report.table(&["", "median"], &rows);
    bench.bounds.extend([
        Bound::at_most("idle: resident memory", Spread::of([idle]), MOST_IDLE_MIB, " MiB"),
        Bound::at_most("start to first answer, new embedded store", new, MOST_START_MS, " ms"),
        Bound::at_most("start to first answer, embedded store that is there", existing, MOST_START_MS, " ms"),
    ]);
}

/// In milliseconds.
fn time_to_first_id(setup: &Setup) -> f64 {
    let port = free_port();
    let mut command = setup.command();
    command.env("SEQSVR_PORT", format!("127.0.0.1:{port}"));
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let began = Instant::now();
    let mut server = command.spawn().expect("the binary starts");
    let mut is_up = false;
    while !is_up && began.elapsed() < PATIENCE {
        let answer = Client::try_connect(port).and_then(|mut client| client.try_request("GET", "/new", ""));
        is_up = answer.is_ok_and(|answer| answer.status == 200);
        if !is_up {
            thread::sleep(LOOK_EVERY);
        }
    }
    let took = began.elapsed().as_secs_f64() * 1e3;
    let _ = server.kill();
    let _ = server.wait();
    assert!(is_up, "no id within {PATIENCE:?}");
    took
}
