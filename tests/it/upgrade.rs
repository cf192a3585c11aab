//! Databases that the builds before epochs have used.

use crate::support::database::{Database, Flavor};
use crate::support::server::{Server, Setup, eventually};
use crate::support::{sql, sql_value};

const STORE: &str = "9932c586-9c11-4c1d-b96f-cd0ba15414fe";
const TABLES: &str = include_str!("../fixtures/first_build_mysql.sql");

fn identity(database: &Database, flavor: Flavor) -> String {
    let expression = match flavor {
        Flavor::MariaDb => "CONCAT(@@hostname, ':', @@port, ':', @@server_id)",
        Flavor::MySql9 => "@@server_uuid",
    };
    sql_value(database, &format!("SELECT {expression}"))
}

/// A database with the tables of the first builds, last leased from on this server.
fn used(flavor: Flavor) -> Database {
    let database = Database::start(flavor);
    let tables = TABLES.replace("SERVER", &identity(&database, flavor)).replace("STORE", STORE);
    sql(&database, &format!("USE sequence; {tables}"));
    database
}

fn epochs(database: &Database) -> Vec<String> {
    sql(
        database,
        "SELECT CONCAT(name, ' ', epoch) FROM sequence.seqsvr_sequence ORDER BY name; \
         SELECT CONCAT_WS(' ', epoch, ticket_epoch) FROM sequence.seqsvr_meta",
    )
    .concat()
}

#[test]
fn a_database_without_a_failover_goes_on() {
    for flavor in [Flavor::MariaDb, Flavor::MySql9] {
        let database = used(flavor);
        let setup = Setup::seed(&database);
        let server = setup.start();
        assert_eq!(server.next(), 5_101, "{flavor:?}: ticket 51");
        assert_eq!(server.get("/new/orders").id(), 5_001);
        // Rows without an epoch count as fenced in the first one: an upgrade does not write to all of them.
        assert_eq!(epochs(&database), ["gone 0", "orders 0", "users 0", "1 1"], "{flavor:?}");
        assert_eq!(setup.run(&["sequence", "create", "gone"]).0, 0);
        assert_eq!(server.get("/new/gone").id(), 9_001);
    }
}

#[test]
fn one_whose_counters_name_several_servers_is_to_be_fenced() {
    for unsafe_one in [
        "UPDATE seqsvr_sequence SET server = 'the old primary 9932c586' WHERE name = 'users'",
        "UPDATE seqsvr_meta SET server = 'the old primary'",
    ] {
        let database = used(Flavor::MariaDb);
        sql(&database, &format!("USE sequence; {unsafe_one}"));
        let setup = Setup::seed(&database);
        let server = setup.start();
        for path in ["/new", "/new/orders", "/new/users"] {
            assert_eq!(server.get(path).status, 503, "{unsafe_one}: {path}");
        }
        server.says_why("seqsvr fence --skip");
        let (code, output) = setup.run(&["fence", "--skip", "1000", "--yes"]);
        assert_eq!(code, 0, "{output}");
        server.wait_until_ready();
        eventually("orders goes on", || (server.get("/new/orders").status == 200).then_some(()));
        assert!(server.get("/new/orders").id() > 6_000);
    }
}

#[test]
fn two_nodes_upgrade_at_once() {
    let database = used(Flavor::MySql9);
    let setups = [(); 3].map(|()| Setup::seed(&database).patient());
    let servers = setups.each_ref().map(Setup::spawn);
    drop(servers);
    let servers = setups.each_ref().map(Setup::start);
    let mut ids: Vec<u64> = servers.iter().map(Server::next).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 3);
}

#[test]
fn an_account_that_may_not_alter_is_told_what_to_run() {
    let database = used(Flavor::MariaDb);
    sql(&database, "CREATE USER 'ids'@'%'; GRANT SELECT, INSERT, UPDATE, DELETE ON sequence.* TO 'ids'@'%'");
    let setup = Setup::seed(&database).env("SEQSVR_MYSQL__USER", "ids");
    let (code, output) = setup.run(&[]);
    assert_eq!(code, 78, "{output}");
    let (_, commands) = output.split_once("run:\n").expect("the SQL");
    sql(&database, &format!("USE sequence; {}", commands.rsplit_once(';').expect("a statement").0));
    assert_eq!(setup.start().next(), 5_101);
}
