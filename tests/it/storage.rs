//! Tables that are not stored as they must be: refused by name at the start, and by `seqsvr doctor` in the same words.

use serde_json::Value;

use crate::seed::SEED_TABLE;
use crate::support::database::{Database, Flavor};
use crate::support::server::Setup;
use crate::support::{sql, sql_value};

const FLAVORS: [Flavor; 2] = [Flavor::MariaDb, Flavor::MySql9];

const TABLES: [&str; 3] = ["generator_table", "seqsvr_meta", "seqsvr_sequence"];

/// Engines without transactions that can hold each of the tables.
fn engines(flavor: Flavor) -> &'static [&'static str] {
    match flavor {
        Flavor::MariaDb => &["MyISAM", "Aria", "MEMORY"],
        Flavor::MySql9 => &["MyISAM", "MEMORY"],
    }
}

/// A start ends with `EX_CONFIG`, and the doctor fails, both with `words`.
fn refused(setup: &Setup, table: &str, words: &[&str]) {
    let (code, output) = setup.run(&[]);
    assert_eq!(code, 78, "{output}");
    let (_, json) = setup.run(&["doctor", "--json", "--sample", "0s"]);
    let json: Value = serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json}"));
    let rows = json["findings"].as_array().expect("findings");
    let row = rows.iter().find(|row| row["what"] == format!("table {table}")).unwrap_or_else(|| panic!("{json:#}"));
    assert_eq!(row["verdict"], "fail", "{row}");
    for word in [table].iter().chain(words) {
        assert!(output.contains(word), "no '{word}' in: {output}");
        assert!(row.to_string().contains(word), "no '{word}' in: {row}");
    }
}

#[test]
fn engines_without_transactions() {
    for flavor in FLAVORS {
        let database = Database::start(flavor);
        let setup = Setup::on(&database, "sequences: {orders: {}}");
        let alter =
            |table: &str, engine: &str| sql(&database, &format!("ALTER TABLE sequence.{table} ENGINE={engine}"));

        // As it is found: nothing is made beside it.
        sql(&database, &format!("USE sequence; {SEED_TABLE}"));
        alter("generator_table", "MyISAM");
        refused(&setup, "generator_table", &["its engine is MyISAM", "ALTER TABLE generator_table ENGINE=InnoDB"]);
        assert_eq!(sql(&database, "SHOW TABLES IN sequence"), [["generator_table"]], "{flavor:?}");
        alter("generator_table", "InnoDB");

        let mut last = 100;
        let mut serves = || {
            let mut server = setup.start();
            server.wait_until_ready();
            let id = server.next();
            assert!(id > last, "{id} after {last}");
            last = id;
            assert!(server.get("/new/orders").id() > 0);
            assert!(server.stop().success());
        };
        serves();
        for table in TABLES {
            for engine in engines(flavor) {
                alter(table, engine);
                let advice = format!("ALTER TABLE {table} ENGINE=InnoDB");
                refused(&setup, table, &[&format!("its engine is {engine}"), "no transactions", &advice]);
                // The advice is all it takes.
                sql(&database, &format!("USE sequence; {advice}"));
                serves();
            }
        }
    }
}

#[test]
fn an_engine_that_keeps_nothing() {
    let database = Database::start(Flavor::MySql9);
    sql(&database, &format!("USE sequence; {}", SEED_TABLE.replace("InnoDB", "BLACKHOLE")));
    refused(&Setup::seed(&database), "generator_table", &["its engine is BLACKHOLE", "no transactions"]);
}

#[test]
fn a_view_in_place_of_a_table() {
    for flavor in FLAVORS {
        let database = Database::start(flavor);
        let setup = Setup::on(&database, "sequences: {orders: {}}");
        assert!(setup.start().get("/new/orders").id() > 0);
        for table in TABLES {
            let (before, hidden) = (sql_value(&database, &format!("SELECT COUNT(*) FROM sequence.{table}")), "hidden");
            sql(
                &database,
                &format!(
                    "USE sequence; RENAME TABLE {table} TO {hidden}; CREATE VIEW {table} AS SELECT * FROM {hidden}"
                ),
            );
            refused(&setup, table, &["it is a view, not a base table", "base table of InnoDB"]);
            sql(&database, &format!("USE sequence; DROP VIEW {table}; RENAME TABLE {hidden} TO {table}"));
            assert_eq!(sql_value(&database, &format!("SELECT COUNT(*) FROM sequence.{table}")), before);
        }
        setup.start().wait_until_ready();
    }
}
