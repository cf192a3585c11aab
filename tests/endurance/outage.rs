//! The database is killed for a minute, and no client is to notice.

use std::time::{Duration, Instant};

use crate::load::{Load, Outcome, Pace, Phase, Plan, Requests, only_one};
use crate::report::{Bound, Spread, Table, heading, short};
use crate::rig::{Layout, mariadb, node, runway, seconds, start};

/// Ids a second, if the machine has twice as many in it.
const RATE: f64 = 20_000.0;

const MINUTES: usize = 5;

/// How long the warm-up is, in seconds; a quick run's ends when the ids in memory last for a minute.
const WARM_UP: u64 = 70;
const RUNWAY: f64 = 60.0;

/// A generator that is later than this in one request of a hundred measures itself.
const LATENESS_MS: f64 = 1.0;

/// What is asked for, by how many.
struct Offered {
    rate: f64,
    connections: usize,
}

pub fn outage(layout: Layout) -> Vec<Bound> {
    let minute = seconds(60, 10);
    heading(
        &format!("outage, {layout:?}"),
        &format!(
            "open loop, GET /new for single ids, {MINUTES} undisturbed minutes, then the database is killed for one \
             (a minute here: {} s)",
            minute.as_secs()
        ),
    );
    let offered = offered(layout);
    let mut outcome = run(layout, &offered, minute);

    let names = ["warm-up", "minute 1", "minute 2", "minute 3", "minute 4", "minute 5", "outage minute", "15 s after"];
    let mut table =
        Table::new(&["phase", "s", "ids/s", "errors", "p50 ms", "p99 ms", "p99.9 ms", "max ms", "own lateness p99 ms"]);
    for (name, phase) in names.iter().zip(&outcome.phases) {
        table.row(&[
            name,
            &short(phase.took.as_secs_f64()),
            &short(phase.ids_per_second()),
            &phase.errors(),
            &short(phase.ms(0.5)),
            &short(phase.ms(0.99)),
            &short(phase.ms(0.999)),
            &short(phase.max_ms()),
            &short(phase.lateness_ms(0.99)),
        ]);
    }
    table.print();
    outcome.texts.print();
    verdict(layout, &mut outcome)
}

fn verdict(layout: Layout, outcome: &mut Outcome) -> Vec<Bound> {
    let name = format!("outage {layout:?}");
    let errors = |phases: &[Phase]| phases.iter().map(Phase::errors).sum();
    let minutes = &outcome.phases[1..=MINUTES];
    let (during, after) = (&outcome.phases[MINUTES + 1], &outcome.phases[MINUTES + 2]);
    let p99 = Spread::of(minutes.iter().map(|phase| phase.ms(0.99)));
    println!(
        "\np99 of the minutes {} to {} ms, median {} ms; the outage minute's must be no more than the largest and the \
         spread ({} ms) on top",
        short(p99.min),
        short(p99.max),
        short(p99.median),
        short(p99.max - p99.min),
    );
    vec![
        Bound::none(format!("{name}: errors, undisturbed"), errors(minutes)),
        Bound::none(format!("{name}: errors, outage minute"), during.errors()),
        Bound::none(format!("{name}: errors, 15 s after"), after.errors()),
        Bound::at_most(
            format!("{name}: p99 of the outage minute (largest of the {MINUTES} + spread)"),
            during.ms(0.99),
            p99.max + (p99.max - p99.min),
            "ms",
        ),
        Bound::no_repeats(&name, &mut outcome.ids),
    ]
}

/// The load itself, with the database killed and started again.
fn run(layout: Layout, offered: &Offered, minute: Duration) -> Outcome {
    let mut database = mariadb();
    let setup = node(database.port(), layout);
    let server = start(&setup);
    let requests = Requests::new(["/new"]);
    let plan = Plan {
        ports: &[server.port()],
        connections: offered.connections,
        pace: Pace::Open(offered.rate),
        requests: &requests,
        choose: &only_one,
        phases: MINUTES + 3,
    };
    let load = Load::start(&plan);
    let began = Instant::now();
    std::thread::sleep(seconds(WARM_UP, 5));
    while runway(&server) < RUNWAY && began.elapsed() < Duration::from_secs(WARM_UP) {
        std::thread::sleep(Duration::from_secs(1));
    }
    load.end_phase();
    println!("after the warm-up the ids in memory last for {} s", short(runway(&server)));
    for _ in 0..MINUTES {
        load.run_phase(minute);
    }
    println!("before the outage the ids in memory last for {} s", short(runway(&server)));
    let killed = Instant::now();
    database.kill();
    load.run_phase(minute);
    println!("at the end of the outage minute the ids in memory last for {} s", short(runway(&server)));
    database.restart();
    println!("the database was away for {} s", short(killed.elapsed().as_secs_f64()));
    load.run_phase(Duration::from_secs(15));
    load.finish()
}

/// Tries what the machine can do, on servers of their own: what they hold afterwards would make the outage easy.
fn offered(layout: Layout) -> Offered {
    let phases = [Duration::from_secs(2), seconds(5, 3)];
    let try_out = |connections, pace| {
        let database = mariadb();
        let setup = node(database.port(), layout);
        let server = start(&setup);
        let requests = Requests::new(["/new"]);
        let ports = &[server.port()];
        let plan = Plan { ports, connections, pace, requests: &requests, choose: &only_one, phases: phases.len() };
        Load::run(&plan, &phases).phases.remove(1)
    };
    let capacity = try_out(64, Pace::Closed).ids_per_second();
    let rate = RATE.min(capacity / 2.0);
    println!("closed loop, 64 connections: {capacity:.0} ids/s; offered: {rate:.0} ids/s");
    let mut connections = 64;
    loop {
        let tried = try_out(connections, Pace::Open(rate));
        let (kept, lateness) = (tried.ids_per_second() / rate, tried.lateness_ms(0.99));
        println!(
            "open loop, {connections} connections: {:.1} % of the schedule, the generator's own lateness p50 {} p99 {} \
             p99.9 {} ms",
            kept * 100.0,
            short(tried.lateness_ms(0.5)),
            short(lateness),
            short(tried.lateness_ms(0.999)),
        );
        if (kept > 0.99 && lateness <= LATENESS_MS) || connections == 8 {
            return Offered { rate, connections };
        }
        connections /= 2;
    }
}
