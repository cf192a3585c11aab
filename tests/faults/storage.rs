//! Tables that forget what was acknowledged.

use crate::rig::{Layout, Outcome, Run, start};
use crate::support::database::{Database, Flavor};
use crate::support::http::load;
use crate::support::sql;

/// The tickets are in a table without transactions, and the database restarts. A new node comes then.
pub fn storage_without_transactions(run: &Run) -> Outcome {
    let mut outcome = Outcome::default();
    for flavor in [Flavor::MariaDb, Flavor::MySql9] {
        let mut database = Database::start(flavor);
        let mut server = start(&run.node_on(&database, Layout::Ticket));
        let mut all = load(&[server.port()], 4, 5_000);
        assert!(server.stop().success());
        sql(&database, "ALTER TABLE sequence.generator_table ENGINE=MEMORY");
        outcome.rounds += 1;
        let new = run.node_on(&database, Layout::Ticket);
        if run.is_guarded() {
            let (code, output) = new.run(&[]);
            assert!(code == 78 && output.contains("its engine is MEMORY"), "{output}");
            sql(&database, "ALTER TABLE sequence.generator_table ENGINE=InnoDB");
        }
        database.kill();
        database.restart();
        all.merge(load(&[start(&new).port()], 4, 5_000));
        outcome.take_in(all);
    }
    outcome
}
