//! Tables whose engine is not transactional.

use crate::counters::ids;
use crate::rig::{FLAVORS, Layout, Outcome, Run, SEQUENCES, ask, assert_refused, command, start};
use crate::support::checker::Checker;
use crate::support::database::{Database, Flavor};
use crate::support::sql;

const TABLES: [&str; 2] = ["generator_table", "seqsvr_sequence"];

/// Somebody changed the engine of a table that is leased from.
pub fn tables_that_are_not_transactional(run: &Run) -> Outcome {
    let mut outcome = Outcome::default();
    for flavor in FLAVORS {
        outcome.rounds += 1;
        let mut database = Database::start(flavor);
        let setups = [(); 2].map(|()| run.node_on(&database, Layout::Ticket));
        let mut server = start(&setups[0]);
        let create = "sequence create orders --step 100";
        command(&setups[0], create);
        let ask_for_both = |port| {
            let mut all = Checker::default();
            for sequence in SEQUENCES {
                all.merge(ask(sequence, 1, &[port], 2_000));
            }
            all
        };
        let mut all = ask_for_both(server.port());
        server.kill();
        let set_engine =
            |table: &str, engine: &str| sql(&database, &format!("ALTER TABLE sequence.{table} ENGINE = {engine}"));
        if run.is_guarded() {
            let engines: &[&str] = match flavor {
                Flavor::MariaDb => &["MEMORY", "MyISAM", "Aria"],
                Flavor::MySql9 => &["MEMORY", "MyISAM"],
            };
            for engine in engines {
                for table in TABLES {
                    set_engine(table, engine);
                    assert_refused(&setups[0], &[table, engine]);
                    set_engine(table, "InnoDB");
                }
            }
            all.merge(ask_for_both(start(&setups[0]).port()));
        } else {
            for table in TABLES {
                set_engine(table, "MEMORY");
            }
            let mut server = start(&setups[0]);
            all.merge(ask_for_both(server.port()));
            server.kill();
            // What is in memory is gone.
            database.restart();
            let new = start(&setups[1]);
            command(&setups[1], create);
            all.merge(ids(&ask_for_both(new.port())));
            assert!(all.verdict().repeats > 0, "{flavor:?}: nothing guards against it");
        }
        println!("{flavor:?}: {}", all.verdict());
        outcome.take_in(all);
    }
    outcome
}
