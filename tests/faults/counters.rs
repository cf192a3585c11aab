//! Counters that are not where they should be.

use std::time::Duration;

use crate::rig::{FLAVORS, LAYOUTS, Layout, Outcome, Run, command, mark};
use crate::support::checker::Checker;
use crate::support::database::{Database, Flavor};
use crate::support::http::{load, load_of, load_until_gone};
use crate::support::server::{Server, eventually};
use crate::support::sql;

/// Ids alone: that it refuses is what a guard is for.
pub fn ids(checker: &Checker) -> Checker {
    let mut only = Checker::default();
    only.add(checker.ids().iter().copied());
    only
}

/// A restored backup under running nodes, again and again; in between a person does what the nodes ask for.
pub fn rewind_under_load(run: &Run) -> Outcome {
    let mut outcome = Outcome::default();
    for flavor in FLAVORS {
        for layout in LAYOUTS {
            let database = Database::start(flavor);
            let node = || run.node_on(&database, layout).env("SEQSVR_LIMITS__WAIT", "1s");
            let setups = [node(), node()];
            let nodes = setups.each_ref().map(super::rig::start);
            let ports = nodes.each_ref().map(Server::port);
            // What each database counts is its own.
            let mut all = load(&ports, 8, 20_000);
            for _ in 0..run.rounds(5, 1) {
                outcome.rounds += 1;
                sql(&database, layout.rewind());
                if !run.is_guarded() {
                    all.merge(load(&ports, 8, 40_000));
                    continue;
                }
                // So many that what is held is soon used up.
                let use_up = || ids(&load_of("/new?count=200", &ports, 8, 40));
                eventually("they find out", || {
                    all.merge(use_up());
                    nodes.iter().all(|node| node.get("/readyz").body.contains("went back")).then_some(())
                });
                let past = nodes.iter().map(mark).max().expect("there are nodes");
                command(&setups[0], &format!("fence default --past {past} --yes"));
                eventually("they go on", || {
                    all.merge(use_up());
                    nodes.iter().all(|node| !node.get("/readyz").body.contains("leasing fails")).then_some(())
                });
                all.merge(load(&ports, 8, 10_000));
            }
            outcome.take_in(all);
        }
    }
    outcome
}

/// A restored backup while a node that remembers is down.
pub fn rewind_across_a_restart(run: &Run) -> Outcome {
    let mut outcome = Outcome::default();
    for layout in LAYOUTS {
        let database = Database::start(Flavor::MariaDb);
        let setup = run.node_on(&database, layout);
        let mut all = Checker::default();
        for _ in 0..run.rounds(5, 1) {
            outcome.rounds += 1;
            let server = super::rig::start(&setup);
            all.merge(load(&[server.port()], 4, 5_000));
            // Its memory is written once a second, and it may lease for a while.
            std::thread::sleep(Duration::from_millis(2_500));
            let past = mark(&server);
            drop(server);
            sql(&database, layout.rewind());
            let server = setup.start();
            if run.is_guarded() {
                eventually("it finds out", || server.get("/readyz").body.contains("went back").then_some(()));
                command(&setup, &format!("fence default --past {past} --yes"));
            }
            server.wait_until_ready();
            all.merge(load(&[server.port()], 4, 5_000));
        }
        outcome.take_in(all);
    }
    outcome
}

/// A node with another step beside one that leases.
pub fn another_step(run: &Run) -> Outcome {
    let mut outcome = Outcome { rounds: 1, ..Outcome::default() };
    let database = Database::start(Flavor::MariaDb);
    let setups = [run.node_on(&database, Layout::Ticket), run.node_on(&database, Layout::Ticket)];
    let one = super::rig::start(&setups[0]);
    let mut all = load(&[one.port()], 4, 20_000);
    let [_, other] = setups;
    let other = other.env("SEQSVR_STEP", "10");
    if run.is_guarded() {
        let (code, output) = other.run(&[]);
        assert_eq!(code, 78, "{output}");
        assert!(output.contains("step 100") && output.contains("says step 10"), "both values are named: {output}");
        all.merge(load(&[one.port()], 4, 5_000));
    } else {
        let other = super::rig::start(&other);
        all.merge(load(&[one.port(), other.port()], 8, 20_000));
    }
    outcome.take_in(all);
    outcome
}

/// The step is migrated to and fro, while nodes with the one and with the other lease.
pub fn migrations_under_load(run: &Run) -> Outcome {
    let database = Database::start(Flavor::MariaDb);
    migrate_to_and_fro(run, &[database.port()], run.rounds(100, 8))
}

/// On the database at `ports`, which are those of its servers.
pub fn migrate_to_and_fro(run: &Run, ports: &[u16], rounds: u64) -> Outcome {
    const STEPS: [u64; 2] = [100, 90];
    // Each INSERT comes a while after the look before it, so that migrations fall in between.
    let node = |number: usize| {
        run.node(ports[number % ports.len()], Layout::Ticket)
            .env("SEQSVR_STEP", &STEPS[number % 2].to_string())
            .env("SEQSVR_REFILL__MAX_BLOCK", "1000")
            .env("SEQSVR_LIMITS__WAIT", "100ms")
            .env("FAILPOINTS", "ticket-inserts=sleep(20)")
    };
    let setups = [0, 1, 2, 3].map(node);
    let migrate = |number: usize| command(&setups[0], &format!("migrate --step {} --yes", STEPS[number % 2]));
    let mut servers = Vec::new();
    for (number, setup) in setups.iter().enumerate() {
        if number > 0 {
            // A node with another step ends before its first lease.
            migrate(number);
        }
        servers.push(super::rig::start(setup));
    }
    let ports: Vec<u16> = servers.iter().map(Server::port).collect();
    let all = std::thread::scope(|scope| {
        let load = scope.spawn(|| load_until_gone(&ports, 8));
        for round in 0..rounds {
            migrate(usize::from(round % 2 == 1));
            std::thread::sleep(Duration::from_millis(100));
        }
        servers.iter_mut().for_each(Server::kill);
        load.join().expect("the load's thread")
    });
    let mut outcome = Outcome { rounds, ..Outcome::default() };
    outcome.take_in(ids(&all));
    outcome
}

/// A lease that matches no row, for no id is left, right after one of another sequence on the same connection.
pub fn a_row_that_does_not_match(run: &Run) -> Outcome {
    let mut outcome = Outcome::default();
    for flavor in FLAVORS {
        let database = Database::start(flavor);
        let node = || {
            let node = run.node_on(&database, Layout::Counter).env("SEQSVR_REFILL__MAX_BLOCK", "50");
            // Without the guard most requests are refused in the end.
            if run.is_guarded() { node } else { node.env("SEQSVR_LIMITS__WAIT", "20ms") }
        };
        let setups = [node(), node()];
        let nodes = setups.each_ref().map(super::rig::start);
        let ports = nodes.each_ref().map(Server::port);
        for round in 0..run.rounds(20, 3) {
            outcome.rounds += 1;
            let (long, short) = (format!("long{round}"), format!("short{round}"));
            command(&setups[0], &format!("sequence create {long} --step 10"));
            command(&setups[0], &format!("sequence create {short} --step 10 --max-id 5"));
            let path = format!("/new/{short}");
            let mut all = Checker::default();
            for _ in 0..10 {
                load_of(&format!("/new/{long}"), &ports[..1], 1, 40);
                all.merge(ids(&load_of(&path, &ports[..1], 1, 5)));
            }
            if run.is_guarded() {
                assert_eq!((all.ids().len(), nodes[0].get(&path).status), (5, 507), "{flavor:?}");
            }
            // What it was handed then is another sequence's, and comes a second time.
            command(&setups[0], &format!("sequence alter {short} --max-id 1000"));
            all.merge(ids(&load_of(&path, &ports[1..], 1, 600)));
            outcome.take_in(all);
        }
    }
    outcome
}

/// A sequence is deleted and created again, while another node holds ids of it.
pub fn deleted_and_created_again(run: &Run) -> Outcome {
    let mut outcome = Outcome::default();
    for flavor in FLAVORS {
        let database = Database::start(flavor);
        let setups = [(); 3].map(|()| run.node_on(&database, Layout::Counter));
        let nodes = [super::rig::start(&setups[0]), super::rig::start(&setups[1])];
        command(&setups[0], "sequence create orders --step 100");
        let mut all = Checker::default();
        for _ in 0..run.rounds(20, 3) {
            outcome.rounds += 1;
            for node in &nodes {
                all.merge(ids(&load_of("/new/orders", &[node.port()], 2, 500)));
            }
            // The switch is in the process that writes the row.
            command(&setups[0], "sequence delete orders --yes");
            command(&setups[0], "sequence create orders --step 100");
            // One that remembers nothing leases too.
            let new = super::rig::start(&setups[2]);
            all.merge(ids(&load_of("/new/orders", &[new.port()], 2, 500)));
            let ports = nodes.each_ref().map(Server::port);
            all.merge(ids(&load_of("/new/orders", &ports, 4, 500)));
            eventually("they know it again", || {
                nodes.iter().all(|node| node.get("/new/orders").status == 200).then_some(())
            });
        }
        outcome.take_in(all);
    }
    outcome
}

/// Commands are killed before or after each of their statements, one after the other, and run again, while nodes lease.
pub fn interrupted_commands(run: &Run) -> Outcome {
    let mut outcome = Outcome::default();
    let database = Database::start(Flavor::MariaDb);
    let node =
        |step| run.node_on(&database, Layout::Ticket).env("SEQSVR_STEP", step).env("SEQSVR_LIMITS__WAIT", "500ms");
    let setups = [node("100"), node("90")];
    let one = super::rig::start(&setups[0]);
    command(&setups[0], "migrate --step 90 --yes");
    let nodes = [one, super::rig::start(&setups[1])];
    let ports = nodes.each_ref().map(Server::port);
    let mut all = Checker::default();
    // Few requests, for a node may refuse, but many ids, so that it leases.
    let use_up = |all: &mut Checker| all.merge(ids(&load_of("/new?count=100", &ports, 4, 8)));
    // Each time with something to do: the step goes to and fro.
    for lines in [
        ["migrate --step 100 --yes", "migrate --step 90 --yes"],
        ["fence default --skip 1000 --yes", "fence default --skip 1000 --yes"],
        ["migrate --counter --yes", "migrate --counter --yes"],
    ] {
        for (round, statement) in (0..).step_by(if run.is_full { 1 } else { 5 }).enumerate() {
            outcome.rounds += 1;
            let line = lines[round % 2];
            let point = if round % 4 < 2 { "statement-begins" } else { "statement-ended" };
            let mut interrupted = setups[0].command();
            interrupted.env("FAILPOINTS", format!("{point}={statement}*off->return")).args(line.split(' '));
            // It ended by itself.
            let is_through = interrupted.output().expect("it starts").status.code().is_some();
            use_up(&mut all);
            // There is no way back from the counter layout: it is interrupted again and again, until it is through.
            if !line.contains("counter") {
                command(&setups[0], line);
                use_up(&mut all);
            }
            if is_through {
                assert!(statement > 4, "{line} was never interrupted");
                break;
            }
        }
        eventually("somebody leases again", || {
            use_up(&mut all);
            nodes.iter().any(|node| !node.get("/readyz").body.contains("leasing fails")).then_some(())
        });
    }
    outcome.take_in(all);
    outcome
}

/// Two nodes meet a new database at once: one of them is held up before each of its first statements.
pub fn first_starts_at_once(run: &Run) -> Outcome {
    let mut outcome = Outcome::default();
    for layout in LAYOUTS {
        let database = Database::start(Flavor::MariaDb);
        for statement in (0..14).step_by(if run.is_full { 1 } else { 3 }) {
            outcome.rounds += 1;
            let held_up = run
                .node_on(&database, layout)
                .env("FAILPOINTS", &format!("statement-begins={statement}*off->1*sleep(700)->off"));
            let other = run.node_on(&database, layout);
            let nodes = std::thread::scope(|scope| {
                let late = scope.spawn(|| super::rig::start(&held_up));
                std::thread::sleep(Duration::from_millis(150));
                [super::rig::start(&other), late.join().expect("it starts")]
            });
            outcome.take_in(load(&nodes.each_ref().map(Server::port), 4, 1_000));
            drop(nodes);
            sql(&database, "DROP DATABASE sequence; CREATE DATABASE sequence");
        }
    }
    outcome
}
