//! Several nodes on one database: one is stopped, and sequences are made and deleted while they are asked for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::load::{Ids, Load, NO_ANSWER, Outcome, Pace, Phase, Plan, Requests, only_one, round};
use crate::report::{Bound, Spread, Table, heading, short};
use crate::rig::{Layout, Random, create, mariadb, metric_sum, names, node, path, seconds, start, times};
use crate::support::server::{Server, Setup};

/// How many lines of a stopped node's log are shown.
const LINES: usize = 12;

pub fn give_back() -> Vec<Bound> {
    const CONNECTIONS: usize = 48;
    let (before, after) = (seconds(20, 3), seconds(5, 2));
    heading(
        "give_back",
        &format!(
            "three nodes on one database, closed loop, {CONNECTIONS} connections over all; after {} s one is sent SIGTERM",
            before.as_secs(),
        ),
    );
    let database = mariadb();
    let setups: Vec<Setup> = (0..3).map(|_| node(database.port(), Layout::Counter)).collect();
    let mut servers: Vec<Server> = setups.iter().map(start).collect();
    let ports: Vec<u16> = servers.iter().map(Server::port).collect();
    let requests = Requests::new(["/new"]);
    let plan = Plan {
        ports: &ports,
        connections: CONNECTIONS,
        pace: Pace::Closed,
        requests: &requests,
        choose: &only_one,
        phases: 2,
    };
    let load = Load::start(&plan);
    load.run_phase(before);
    let mut stopped = servers.remove(0);
    let metrics = stopped.get("/metrics").body;
    let asked = Instant::now();
    let status = stopped.stop();
    let took = asked.elapsed();
    load.run_phase(after);
    let Outcome { phases, mut ids, texts } = load.finish();

    println!("\njust before, its metrics said:");
    for beginning in ["seqsvr_ids_leased_total", "seqsvr_ids_total", "seqsvr_ids_held", "seqsvr_ids_lost_total"] {
        metrics.lines().filter(|line| line.starts_with(beginning)).for_each(|line| println!("  {line}"));
    }
    println!("it stopped in {} s ({status}), and its log ended:", short(took.as_secs_f64()));
    let log = stopped.log();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].iter().for_each(|line| println!("  {line}"));
    let mut table = Table::new(&["phase", "ids/s", "answers by status"]);
    for (name, phase) in ["three nodes", "one stopped"].iter().zip(&phases) {
        table.row(&[name, &short(phase.ids_per_second()), &statuses(phase)]);
    }
    table.print();
    texts.print();
    drop(servers);

    let lost = restarts(times(10, 5), &mut ids);
    println!(
        "\nids lost in a restart, of a node that was asked for 10: median (smallest..largest) {}",
        Spread::of(lost)
    );
    vec![Bound::no_repeats("give_back", &mut ids)]
}

/// Starts a node again and again, asks for 10 ids each time, and stops it; the ids that each restart lost. They are on a
/// database of their own, and recorded as those of another sequence.
fn restarts(rounds: usize, ids: &mut Ids) -> Vec<f64> {
    let database = mariadb();
    let setup = node(database.port(), Layout::Counter);
    let mut lost = Vec::new();
    let mut next = None;
    for _ in 0..=rounds {
        let mut server = start(&setup);
        for _ in 0..10 {
            let id = server.next();
            ids.add(1, id);
            if let Some(last) = next.take() {
                lost.push(id as f64 - last as f64);
            }
        }
        assert_eq!(server.stop().code(), Some(0), "{}", server.log());
        next = ids.last().map(|id| id + 1);
    }
    lost
}

fn statuses(phase: &Phase) -> String {
    let text = |(status, count): (&u16, &u64)| match *status {
        NO_ANSWER => format!("none: {count}"),
        status => format!("{status}: {count}"),
    };
    phase.statuses.iter().map(text).collect::<Vec<_>>().join(", ")
}

const FOUGHT: usize = 20;

/// What a command that failed may say, without names: others were faster.
const CONFLICTS: [&str; 2] = ["there is a sequence NAME already", "there is no sequence NAME"];

/// How commands ended: the command, its exit code and what it said, without names and numbers; how often.
type Endings = BTreeMap<(&'static str, i32, String), u64>;

pub fn contention() -> Vec<Bound> {
    const CONNECTIONS: usize = 16;
    const LOOPS: usize = 3;
    let length = seconds(30, 5);
    heading(
        "contention",
        &format!(
            "two nodes serve {FOUGHT} sequences (closed loop, {CONNECTIONS} connections) while {LOOPS} command lines create, \
             alter and delete them at random for {} s",
            length.as_secs(),
        ),
    );
    let database = mariadb();
    let setups = [(); 3].map(|()| node(database.port(), Layout::Counter));
    let names = names("fought", FOUGHT);
    for name in &names {
        create(&setups[2], name);
    }
    let servers = [start(&setups[0]), start(&setups[1])];
    let ports = servers.each_ref().map(Server::port);
    let requests = Requests::new(names.iter().map(path));
    let mut random = Random::new(1);
    let drawn: Vec<u32> = (0..1 << 16).map(|_| u32::try_from(random.below(FOUGHT)).expect("not so many")).collect();
    let drawn = Arc::new(drawn);
    let choose = |connection| round(&drawn, connection);
    let plan = Plan {
        ports: &ports,
        connections: CONNECTIONS,
        pace: Pace::Closed,
        requests: &requests,
        choose: &choose,
        phases: 1,
    };
    let load = Load::start(&plan);
    let endings = Mutex::new(Endings::new());
    std::thread::scope(|scope| {
        for seed in 0..LOOPS {
            let (setup, names, endings) = (&setups[2], &names, &endings);
            scope.spawn(move || {
                let (mut random, began) = (Random::new(2 + seed as u64), Instant::now());
                while began.elapsed() < length {
                    let name = &names[random.below(FOUGHT)];
                    let ending = command(setup, name, &mut random);
                    *endings.lock().expect("no panic while it is held").entry(ending).or_default() += 1;
                }
            });
        }
    });
    // What the last command did has to be noticed by both nodes.
    sleep(Duration::from_secs(2));
    let Outcome { phases, mut ids, texts } = load.finish();

    let endings = endings.into_inner().expect("no panic while it is held");
    let mut table = Table::new(&["command", "exit code", "times", "said"]);
    for ((command, code, said), count) in &endings {
        table.row(&[command, code, count, said]);
    }
    table.print();
    println!("\nHTTP answers by status: {}", statuses(&phases[0]));
    texts.print();
    for (number, server) in servers.iter().enumerate() {
        let metrics = server.get("/metrics").body;
        println!(
            "node {}: {} leases, {} ids lost",
            number + 1,
            metric_sum(&metrics, "seqsvr_leases_total{outcome=\"ok\""),
            metric_sum(&metrics, "seqsvr_ids_lost_total"),
        );
    }
    let unclear =
        |(_, code, said): &(&str, i32, String)| *code != 0 && !CONFLICTS.iter().any(|known| said.contains(known));
    let unclear = endings.iter().filter(|(ending, _)| unclear(ending)).map(|(_, count)| count).sum();
    let others = phases[0].statuses.iter().filter(|(status, _)| ![200, 404].contains(*status));
    vec![
        Bound::no_repeats("contention", &mut ids),
        Bound::none("contention: HTTP answers other than 200 and 404", others.map(|(_, count)| count).sum()),
        Bound::none("contention: commands that failed without a clear conflict", unclear),
    ]
}

/// Runs one command on a sequence, chosen at random; how it ended.
fn command(setup: &Setup, name: &str, random: &mut Random) -> (&'static str, i32, String) {
    let step = (1 + random.below(1_000)).to_string();
    let (command, rest) = match random.below(3) {
        0 => ("create", vec!["--step", &step]),
        1 => ("alter", vec!["--step", &step]),
        _ => ("delete", vec!["--yes"]),
    };
    let (code, output) = setup.run(&[&["sequence", command, name], &rest[..]].concat());
    // The error, wherever it stands; else the beginning.
    let error = output.lines().find(|line| line.starts_with("seqsvr:") || line.starts_with("error:"));
    let line = error.or_else(|| output.lines().find(|line| !line.trim().is_empty())).unwrap_or("");
    // Without names and numbers, so that like ones are counted together; the first words tell which they are.
    let mut said = line.replace(name, "NAME").replace(|c: char| c.is_ascii_digit(), "#");
    while said.contains("##") {
        said = said.replace("##", "#");
    }
    (command, code, said.split_whitespace().take(14).collect::<Vec<_>>().join(" "))
}
