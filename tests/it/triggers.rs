//! Triggers on our tables, as an audit or an online schema change makes them.

use crate::support::database::{Database, Flavor};
use crate::support::http::load_of;
use crate::support::server::{Setup, eventually};
use crate::support::sql;

/// An UPDATE that runs a trigger reports no ID. The account may not see triggers.
#[test]
fn leases_work_beside_them_and_the_doctor_names_them() {
    for flavor in [Flavor::MariaDb, Flavor::MySql9] {
        let database = Database::start(flavor);
        let setup =
            Setup::on(&database, "sequences: {orders: {step: 100}}").patient().env("SEQSVR_REFILL__MAX_BLOCK", "500");
        setup.start().wait_until_ready();
        sql(
            &database,
            "CREATE TABLE sequence.audit (id INT AUTO_INCREMENT PRIMARY KEY, what VARCHAR(99)); \
             INSERT INTO sequence.audit VALUES (7, ''); \
             CREATE TRIGGER sequence.rows_added AFTER INSERT ON sequence.generator_table FOR EACH ROW \
             INSERT INTO sequence.audit (what) VALUES (NEW.id); \
             CREATE TRIGGER sequence.rows_changed AFTER UPDATE ON sequence.seqsvr_sequence FOR EACH ROW \
             INSERT INTO sequence.audit (what) VALUES (LAST_INSERT_ID(NEW.next_id + 1000)); \
             CREATE USER ids@'%'; GRANT SELECT, INSERT, UPDATE, DELETE ON sequence.* TO ids@'%'",
        );
        let account = setup.env("SEQSVR_MYSQL__USER", "ids");
        let other = Setup::seed(&database).patient().env("SEQSVR_REFILL__MAX_BLOCK", "500");
        let nodes = [account.start(), other.start()];
        for node in &nodes {
            eventually("it has ids of orders", || (node.get("/new/orders").status == 200).then_some(()));
        }
        let ports = nodes.each_ref().map(crate::support::server::Server::port);
        load_of("/new", &ports, 4, 5_000).assert_clean(5_000);
        load_of("/new/orders", &ports, 4, 5_000).assert_clean(5_000);
        for node in &nodes {
            let discarded = node.metric("seqsvr_leases_total{outcome=\"conflict\",sequence=\"orders\"");
            assert!(discarded < 5.0, "{flavor:?}: {discarded} leases were discarded");
        }
        let log = nodes[0].log();
        assert_eq!(log.matches("seqsvr_sequence has a trigger").count(), 1, "{flavor:?}: {log}");
        let (_, doctor) = Setup::seed(&database).run(&["doctor"]);
        for name in ["rows_added", "rows_changed"] {
            assert!(doctor.contains(&format!("DROP TRIGGER {name}")), "{flavor:?}: {doctor}");
        }
    }
}
