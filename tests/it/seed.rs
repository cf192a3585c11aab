//! A drop-in for the seed's server: its table, its configuration, its answers, on real databases.

use crate::support::database::{Database, Flavor};
use crate::support::server::{SEED_CONFIG, Setup};
use crate::support::{sql, sql_value};

/// The seed's DDL, word for word.
pub const SEED_TABLE: &str = "CREATE TABLE `generator_table` (
  `id` int(11) NOT NULL AUTO_INCREMENT,
  `uuid` char(36) NOT NULL COMMENT 'Machine identification',
  PRIMARY KEY (`id`),
  UNIQUE KEY `id_UNIQUE` (`id`),
  UNIQUE KEY `stub_UNIQUE` (`uuid`) USING BTREE
) ENGINE=InnoDB DEFAULT CHARSET=utf8 COLLATE=utf8_unicode_ci;";

/// `SHOW CREATE TABLE` without the counter.
fn definition(database: &Database) -> String {
    let shown = &sql(database, "SHOW CREATE TABLE sequence.generator_table")[0][1];
    match shown.split_once(" AUTO_INCREMENT=") {
        Some((before, rest)) => format!("{before}{}", rest.trim_start_matches(|c: char| c.is_ascii_digit())),
        None => shown.clone(),
    }
}

fn rows(database: &Database) -> String {
    sql_value(database, "SELECT COUNT(*) FROM sequence.generator_table")
}

fn swap_in(flavor: Flavor) {
    let database = Database::start(flavor);
    println!("{flavor:?} {}", database.version());
    sql(&database, &format!("USE sequence; {SEED_TABLE}"));
    let before = definition(&database);

    let setup = Setup::seed(&database);
    let mut server = setup.start();
    assert_eq!(server.get("/new").body, r#"{"code":0,"msg":"ok","data":{"id":101}}"#);
    assert_eq!(definition(&database), before, "the table is as it was");
    assert_eq!(rows(&database), "1");

    // Ten restarts, by turns clean and by kill -9: ids rise, rows don't.
    let mut last = 101;
    for round in 0..10 {
        if round % 2 == 0 {
            assert!(server.stop().success(), "{}", server.log());
        } else {
            server.kill();
        }
        server = setup.start();
        let id = server.next();
        assert!(id > last, "{id} after {last}");
        assert_eq!(id % 100, 1, "a ticket's first id");
        last = id;
        assert_eq!(rows(&database), "1", "after restart {round}");
    }
    assert_eq!(definition(&database), before);

    // A second node: one row more.
    let other = Setup::seed(&database);
    let mut second = other.start();
    assert!(second.next() > last);
    assert_eq!(rows(&database), "2");
    assert!(second.stop().success());
}

#[test]
fn swapped_in_on_mariadb() {
    swap_in(Flavor::MariaDb);
}

#[test]
fn swapped_in_on_mysql_9() {
    swap_in(Flavor::MySql9);
}

#[test]
fn goes_on_behind_what_the_go_server_leased() {
    let database = Database::start(Flavor::MariaDb);
    sql(&database, &format!("USE sequence; {SEED_TABLE}"));
    for _ in 0..3 {
        sql(&database, "REPLACE INTO sequence.generator_table (uuid) VALUES ('a Go node')");
    }
    let server = Setup::seed(&database).start();
    assert_eq!(server.next(), 401, "its last ticket was 3");
    assert_eq!(sql_value(&database, "SELECT id FROM sequence.generator_table WHERE uuid = 'a Go node'"), "3");
    let meta = sql(&database, "SELECT step, first_ticket, state FROM sequence.seqsvr_meta");
    assert_eq!(meta, [["100", "4", "ok"]]);
}

#[test]
fn missing_tables_are_made_as_the_seed_defines_them() {
    for flavor in [Flavor::MariaDb, Flavor::MySql9] {
        let (database, theirs) = (Database::start(flavor), Database::start(flavor));
        sql(&theirs, &format!("USE sequence; {SEED_TABLE}"));
        let server = Setup::seed(&database).start();
        assert_eq!(server.next(), 101);
        assert_eq!(definition(&database), definition(&theirs));
    }
}

#[test]
fn the_readme_has_the_seeds_table_and_configuration() {
    let readme = include_str!("../../README.md");
    assert!(readme.contains(SEED_TABLE), "the DDL");
    assert!(readme.contains(SEED_CONFIG), "the configuration");
}
