//! Ten thousand sequences: what they cost a request, and what they cost in memory.

use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::load::{Choice, Ids, Load, Outcome, Pace, Plan, Requests, Texts, only_one, round};
use crate::report::{Bound, Spread, Table, heading, short};
use crate::rig::{
    Layout, Random, create_many, create_many_embedded, mariadb, names, node, path, seconds, start, times,
    zipf as zipf_draws,
};
use crate::support::database::Database;
use crate::support::server::{Server, Setup};

const SEQUENCES: usize = 10_000;
const CONNECTIONS: usize = 64;
const PREFIX: &str = "many";

/// How many connections ask for each name the first time: few, as it is not this that is measured, and each such request
/// waits for a lease of its own.
const FIRST_CONNECTIONS: usize = 8;

/// The least that the Zipf mix must reach of one sequence's throughput.
const LEAST_THROUGHPUT: f64 = 0.8;

/// The most bytes that a sequence may cost once it was asked for an id.
const MOST_BYTES: f64 = 2048.0;

#[derive(Clone, Copy, Debug)]
enum Store {
    MariaDb,
    Embedded,
}

/// A node with many sequences; its database, if it has one, lives as long.
struct Rig {
    server: Server,
    _setup: Setup,
    _database: Option<Database>,
}

/// Makes `default` and `count` sequences, and starts a node.
fn rig(store: Store, count: usize) -> Rig {
    let (setup, database) = match store {
        Store::MariaDb => {
            let database = mariadb();
            let setup = node(database.port(), Layout::Counter);
            create_many(&database, &setup, PREFIX, count);
            (setup, Some(database))
        }
        Store::Embedded => {
            let setup = Setup::embedded();
            create_many_embedded(&setup, PREFIX, count);
            (setup, None)
        }
    };
    Rig { server: start(&setup), _setup: setup, _database: database }
}

/// `default` is number 0, the many come after it.
fn requests(count: usize) -> Requests {
    Requests::new(std::iter::once("/new/default".to_owned()).chain(names(PREFIX, count).iter().map(path)))
}

fn closed_loop(server: &Server, requests: &Requests, choose: &dyn Fn(usize) -> Choice, length: Duration) -> Outcome {
    let ports = &[server.port()];
    let plan = Plan { ports, connections: CONNECTIONS, pace: Pace::Closed, requests, choose, phases: 1 };
    Load::run(&plan, &[length])
}

/// Asks each of the sequences from number `begin` on once.
fn touch(server: &Server, requests: &Requests, begin: usize, count: usize) -> Outcome {
    let choose = move |connection: usize| -> Choice {
        let numbers = (begin + connection..begin + count).step_by(FIRST_CONNECTIONS);
        Box::new(numbers.map(|number| u32::try_from(number).expect("not so many")))
    };
    let ports = &[server.port()];
    let plan = Plan { ports, connections: FIRST_CONNECTIONS, pace: Pace::Closed, requests, choose: &choose, phases: 1 };
    let load = Load::start(&plan);
    let patience = Instant::now() + Duration::from_secs(120);
    while !load.is_over() && Instant::now() < patience {
        sleep(Duration::from_millis(10));
    }
    let outcome = load.finish();
    let asked: u64 = outcome.phases[0].statuses.values().sum();
    assert_eq!(asked, count as u64, "each was asked once");
    outcome
}

/// One of the two loads that are compared, a number for each round.
#[derive(Default)]
struct Row {
    errors: u64,
    ids_per_second: Vec<f64>,
    cpu_us: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
}

pub fn zipf() -> Vec<Bound> {
    let (warm_up, length, rounds) = (seconds(30, 3), seconds(10, 3), times(5, 2));
    heading(
        "zipf",
        &format!(
            "{SEQUENCES} sequences by Zipf's law (s = 1) against one, on one node: closed loop, {CONNECTIONS} connections, \
             step 100; each name asked once and {} s of the mix as warm-up, then {rounds} rounds of {} s each in turn; \
             medians (smallest..largest)",
            warm_up.as_secs(),
            length.as_secs(),
        ),
    );
    let draws: Vec<u32> = zipf_draws(&mut Random::new(1), u32::try_from(SEQUENCES).expect("not so many"), 1 << 20);
    // Behind `default`.
    let draws = Arc::new(draws.into_iter().map(|number| number + 1).collect::<Vec<_>>());
    let mix = |connection| round(&draws, connection);
    let requests = requests(SEQUENCES);
    let mut bounds = Vec::new();
    for store in [Store::MariaDb, Store::Embedded] {
        let rig = rig(store, SEQUENCES);
        let (mut ids, mut texts) = (Ids::default(), Texts::default());
        let mut take = |outcome: Outcome| {
            ids.merge(outcome.ids);
            texts.merge(outcome.texts);
            outcome.phases.into_iter().next().expect("one phase")
        };
        let touched = take(touch(&rig.server, &requests, 1, SEQUENCES));
        let warmed = take(closed_loop(&rig.server, &requests, &mix, warm_up));
        println!(
            "\n{store:?}: errors when each name was asked for the first time: {} of {SEQUENCES}, in {} s; in the warm-up: {}",
            touched.errors(),
            short(touched.took.as_secs_f64()),
            warmed.errors(),
        );
        let mut rows = [("one", Row::default()), ("zipf", Row::default())];
        for turn in 0..rounds {
            // Who is first changes, so that neither always follows the other.
            for number in [turn % 2, 1 - turn % 2] {
                let (name, row) = &mut rows[number];
                let before = rig.server.cpu();
                let outcome = if *name == "one" {
                    closed_loop(&rig.server, &requests, &only_one, length)
                } else {
                    closed_loop(&rig.server, &requests, &mix, length)
                };
                let used = rig.server.cpu().saturating_sub(before);
                let phase = take(outcome);
                row.errors += phase.errors();
                row.ids_per_second.push(phase.ids_per_second());
                row.cpu_us.push(used.as_secs_f64() * 1e6 / phase.answered().max(1) as f64);
                row.p50.push(phase.ms(0.5));
                row.p99.push(phase.ms(0.99));
            }
        }
        let mut table = Table::new(&["load", "errors", "ids/s", "server CPU us a request", "p50 ms", "p99 ms"]);
        let spread = |numbers: &Vec<f64>| Spread::of(numbers.iter().copied());
        for (name, row) in &rows {
            let cells = [&row.ids_per_second, &row.cpu_us, &row.p50, &row.p99].map(spread);
            table.row(&[name, &row.errors, &cells[0], &cells[1], &cells[2], &cells[3]]);
        }
        table.print();
        texts.print();
        let [(_, one), (_, zipf)] = &rows;
        let ratio = |of: fn(&Row) -> &Vec<f64>| spread(of(zipf)).median / spread(of(one)).median;
        let throughput = ratio(|row| &row.ids_per_second);
        println!(
            "zipf / one, medians: {} in ids/s, {} in server CPU a request",
            short(throughput),
            short(ratio(|row| &row.cpu_us)),
        );
        if let Store::MariaDb = store {
            bounds.push(Bound::at_least("zipf: ids/s of 10,000 sequences, of one", throughput, LEAST_THROUGHPUT, ""));
        }
        bounds.push(Bound::no_repeats(&format!("zipf {store:?}"), &mut ids));
    }
    bounds
}

pub fn memory() -> Vec<Bound> {
    let idle = seconds(10, 3);
    heading(
        "memory",
        &format!(
            "what a sequence costs that was asked for one id: resident memory before and after {SEQUENCES} were, {} s idle \
             before each look; the server warmed by a load on default",
            idle.as_secs(),
        ),
    );
    let mut table =
        Table::new(&["store", "asked before", "asked after", "errors", "before KiB", "after KiB", "bytes each"]);
    let mut bounds = Vec::new();
    for store in [Store::MariaDb, Store::Embedded] {
        for before in [0, 1_000] {
            let rig = rig(store, before + SEQUENCES);
            let requests = requests(before + SEQUENCES);
            let mut all = closed_loop(&rig.server, &requests, &only_one, Duration::from_secs(3));
            let look = |begin, count| {
                let outcome = touch(&rig.server, &requests, begin, count);
                sleep(idle);
                (outcome, rig.server.resident())
            };
            let (first, small) = look(1, before);
            let (second, large) = look(1 + before, SEQUENCES);
            let errors = first.phases[0].errors() + second.phases[0].errors();
            let bytes = (large as f64 - small as f64) / SEQUENCES as f64;
            table.row(&[
                &format!("{store:?}"),
                &before,
                &(before + SEQUENCES),
                &errors,
                &(small >> 10),
                &(large >> 10),
                &short(bytes),
            ]);
            let name = format!("memory {store:?}");
            let range = format!("{before} -> {}", before + SEQUENCES);
            // Who was refused an id may cost nothing.
            bounds.push(Bound::none(format!("{name}: errors, {range}"), errors));
            bounds.push(Bound::at_most(format!("{name}: bytes a sequence, {range}"), bytes, MOST_BYTES, ""));
            for outcome in [first, second] {
                all.ids.merge(outcome.ids);
                all.texts.merge(outcome.texts);
            }
            all.texts.print();
            bounds.push(Bound::no_repeats(&format!("{name}, {range}"), &mut all.ids));
        }
    }
    table.print();
    bounds
}
