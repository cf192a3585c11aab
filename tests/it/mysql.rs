//! Ways to a database, and what a lease does there that the seed's server did not.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::seed::SEED_TABLE;
use crate::support::checker::Checker;
use crate::support::database::{Database, Flavor};
use crate::support::http::{load, load_until_refused};
use crate::support::server::{Server, Setup, eventually};
use crate::support::{sql, sql_value, try_sql};

/// An account with a password that must be proven without showing it.
const ACCOUNT: &str = "CREATE USER 'ids'@'%' IDENTIFIED BY 'pass'; GRANT ALL ON sequence.* TO 'ids'@'%'";

fn with_account(database: &Database) -> Setup {
    sql(database, ACCOUNT);
    Setup::seed(database).env("SEQSVR_MYSQL__USER", "ids").env("SEQSVR_MYSQL__PASSWORD", "pass")
}

#[test]
fn caching_sha2_password_without_tls() {
    let database = Database::start(Flavor::MySql9);
    let setup = with_account(&database);
    let plugin = sql_value(&database, "SELECT plugin FROM mysql.user WHERE user = 'ids'");
    assert_eq!(plugin, "caching_sha2_password");
    assert_eq!(setup.start().next(), 101, "the first login, by the server's RSA key");
    assert!(setup.start().next() > 101, "and one from the server's cache");
}

#[test]
fn caching_sha2_password_with_tls_and_every_ssl_mode() {
    let database = Database::start(Flavor::MySql9);
    let setup = with_account(&database);
    sql(&database, "ALTER USER 'ids'@'%' REQUIRE SSL");
    let (code, output) = setup.run(&[]);
    assert!(code == 78 && output.contains("1045"), "not without TLS: {output}");

    let mut setup = setup.env("SEQSVR_MYSQL__SSL_MODE", "required");
    assert_eq!(setup.start().next(), 101);

    // The server's own authority, which no one else trusts.
    let ca = database.socket().with_file_name("data").join("ca.pem");
    setup = setup.env("SEQSVR_MYSQL__SSL_MODE", "verify_identity");
    let server = setup.start();
    assert_eq!(server.get("/new").status, 503);
    server.says_why("UnknownIssuer");

    // Its certificate is not for 127.0.0.1.
    setup = setup.env("SEQSVR_MYSQL__SSL_CA", ca.to_str().unwrap());
    let server = setup.start();
    assert_eq!(server.get("/new").status, 503);
    server.says_why("not valid for name \"127.0.0.1\"");
}

#[test]
fn over_the_socket_and_only_there() {
    for flavor in [Flavor::MariaDb, Flavor::MySql9] {
        let database = Database::start_with(flavor, &["--skip-networking"]);
        let socket = format!("unix({})", database.socket().display());
        let setup = with_account(&database).env("SEQSVR_MYSQL__HOST", &socket);
        assert_eq!(setup.start().next(), 101, "{flavor:?}");
    }
}

#[test]
fn every_lease_lands_in_the_configured_one_of_two_servers() {
    let (one, two) = (Database::start(Flavor::MariaDb), Database::start(Flavor::MariaDb));
    let servers = [&one, &two].map(|database| Setup::seed(database).patient().start());
    load(&[servers[0].port()], 4, 5_000).assert_clean(5_000);
    let tickets =
        |database| sql_value(database, "SELECT MAX(id) FROM sequence.generator_table").parse::<u64>().unwrap();
    assert!(tickets(&one) > 40);
    assert_eq!(tickets(&two), 1);
}

#[test]
fn tickets_that_are_not_consecutive() {
    for flavor in [Flavor::MariaDb, Flavor::MySql9] {
        let database = Database::start_with(flavor, &["--auto-increment-increment=3", "--auto-increment-offset=2"]);
        let setups = [Setup::seed(&database).patient(), Setup::seed(&database).patient()];
        let servers = setups.each_ref().map(Setup::start);
        let first = servers[0].next();
        assert_eq!(first, 201, "the first ticket is the offset");
        let checker = load(&servers.each_ref().map(Server::port), 16, 20_000);
        checker.assert_clean(20_000);
        assert!(checker.ids().iter().all(|id| (id - 1) / 100 % 3 == 2), "only allocated tickets are used");
    }
}

#[test]
fn the_end_of_the_column() {
    for flavor in [Flavor::MariaDb, Flavor::MySql9] {
        let mut database = Database::start(flavor);
        sql(&database, &format!("USE sequence; {SEED_TABLE} ALTER TABLE generator_table AUTO_INCREMENT = 2147483646"));
        let setup = Setup::seed(&database).patient();
        let server = setup.start();
        let ids = load(&[server.port()], 1, 200);
        ids.assert_clean(200);
        assert_eq!(ids.ids().first(), Some(&214_748_364_601), "{flavor:?}");
        assert_eq!(ids.ids().last(), Some(&214_748_364_800), "{flavor:?}: the last id of the last ticket");
        let exhausted = eventually("it is exhausted", || {
            let response = server.get("/new");
            (response.status == 507).then_some(response)
        });
        server.says_why("ALTER TABLE generator_table MODIFY id BIGINT");
        assert_eq!(exhausted.header("retry-after"), None, "no retry helps");
        assert!(server.log().contains("% used"), "{}", server.log());
        assert_eq!(server.get("/readyz").status, 200, "another node could not help");

        // A database that is away is another reason, which a retry does help with.
        database.kill();
        let away = eventually("it notices", || {
            let response = server.get("/new");
            (response.status == 503).then_some(response)
        });
        assert!(away.header("retry-after").is_some(), "{away:?}");
        server.says_why("refused");
        database.restart();

        // And it goes on by itself once the column is wider.
        sql(&database, "ALTER TABLE sequence.generator_table MODIFY id BIGINT NOT NULL AUTO_INCREMENT");
        let id = eventually("it goes on", || {
            let response = server.get("/new");
            (response.status == 200).then(|| response.id())
        });
        assert!(id > 214_748_364_800, "{flavor:?}: {id}");
    }
}

/// A restored backup: no rows, and the counter where it was long ago.
const REWIND: &str = "USE sequence; DELETE FROM generator_table; ALTER TABLE generator_table AUTO_INCREMENT = 5";

const HIGHEST_ROW: &str = "SELECT COALESCE(MAX(id), 0) FROM sequence.generator_table";

/// Does what a message tells a person to do, with the highest id in the place of ID.
pub fn fence(setup: &Setup, message: &str, past: u64) {
    let (_, command) = message.split_once("run: seqsvr ").unwrap_or_else(|| panic!("no command in {message}"));
    let command = command.split_inclusive("--yes").next().unwrap().replace(" ID ", &format!(" {past} "));
    let (code, output) = setup.run(&command.split(' ').collect::<Vec<_>>());
    assert!(code == 0 && output.starts_with("fenced default"), "{command}: {output}");
}

/// The highest id that a node says it knows to be leased.
pub fn highest_leased(message: &str) -> u64 {
    let (_, rest) = message.split_once(", here ").unwrap_or_else(|| panic!("no ID in {message}"));
    rest.split(';').next().and_then(|id| id.parse().ok()).unwrap_or_else(|| panic!("no ID in {message}"))
}

#[test]
fn a_counter_that_went_back_while_nodes_hold_ids() {
    for flavor in [Flavor::MariaDb, Flavor::MySql9] {
        let database = Database::start(flavor);
        // What it may hold is bounded: else a fast machine's first load makes it hold more than the loops below can use.
        let setup = Setup::seed(&database).patient().env("SEQSVR_REFILL__MAX_BLOCK", "50000");
        let (busy, new) = (setup.start(), Setup::seed(&database).patient());
        let mut all = load(&[busy.port()], 4, 100_000);
        eventually("the runway is there", || (busy.metric("seqsvr_ids_held") > 20_000.0).then_some(()));
        sql(&database, REWIND);
        // It holds far more than it has handed out, and finds out at its next lease.
        let ready = eventually("it finds out", || {
            all.merge(load(&[busy.port()], 4, 2_000));
            let ready = busy.get("/readyz");
            ready.body.contains("went back").then_some(ready)
        });
        assert_eq!(ready.status, 200, "it still has ids");
        assert!(busy.metric("seqsvr_ids_held") > 1_000.0);
        assert!(busy.metric("seqsvr_leases_total{outcome=\"regressed\"") > 0.0);

        // A new node remembers nothing, but the busy one has said in the database what it holds.
        let other = new.start();
        assert_eq!(other.get("/new").status, 503);
        let refused = other.get("/readyz");
        assert!(
            refused.status == 503 && refused.body.contains("went back"),
            "{refused:?}, {:?}: {}\n{}\n{ready:?}",
            sql(&database, "SELECT * FROM sequence.seqsvr_meta; SELECT id FROM sequence.generator_table"),
            busy.log(),
            other.log()
        );
        // Nobody creeps up to what is held.
        std::thread::sleep(Duration::from_secs(3));
        let row: u64 = sql_value(&database, HIGHEST_ROW).parse().unwrap();
        let highest = [&ready, &refused].map(|message| highest_leased(&message.body));
        assert!(row < highest[0] / 100 / 2, "row {row}, and {highest:?} are needed");

        // Then a person does what the message says.
        fence(&setup, &ready.body, highest.into_iter().max().unwrap());
        other.wait_until_ready();
        // It finds out at its next lease, again: while ids go out.
        eventually("the busy one goes on too", || {
            all.merge(load(&[busy.port()], 4, 500));
            (!busy.get("/readyz").body.contains("leasing fails")).then_some(())
        });
        all.merge(load(&[busy.port(), other.port()], 8, 100_000));
        all.assert_clean(all.ids().len());
        assert!(busy.log().contains("works again"), "{}", busy.log());
    }
}

#[test]
fn a_counter_that_went_back_by_little_while_a_node_is_idle() {
    for flavor in [Flavor::MariaDb, Flavor::MySql9] {
        let database = Database::start(flavor);
        let setups = [(); 3].map(|()| Setup::seed(&database));
        // Each holds one ticket; the third one stays idle with its own.
        let nodes = setups.each_ref().map(Setup::start);
        sql(&database, "TRUNCATE TABLE sequence.generator_table");
        // Rows of refused leases must not look as if a person had set the counter.
        let mut all = load(&[nodes[0].port(), nodes[1].port()], 2, 220);
        assert!(all.verdict().errors > 0, "they refuse");
        std::thread::sleep(Duration::from_secs(3));
        all.merge(load(&[nodes[0].port(), nodes[1].port()], 2, 10));
        all.merge(load(&[nodes[2].port()], 1, 60));
        assert_eq!((all.verdict().repeats, all.verdict().first_repeat), (0, None), "{flavor:?}");
        let row: u64 = sql_value(&database, HIGHEST_ROW).parse().unwrap();
        assert!(row <= 2, "{flavor:?}: nobody goes on inserting: {row}");

        // With all marks known, a person sets it.
        let marks = nodes.each_ref().map(|node| node.metric("seqsvr_high_water_mark_ids"));
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        fence(&setups[0], &nodes[0].get("/readyz").body, marks.into_iter().fold(0.0, f64::max) as u64);
        nodes[0].wait_until_ready();
        nodes[1].wait_until_ready();
        let more = load(&nodes.each_ref().map(Server::port), 6, 5_000);
        more.assert_clean(5_000);
        all.merge(more);
        assert_eq!(all.verdict().repeats, 0, "{flavor:?}");
    }
}

#[test]
fn a_table_that_is_gone_is_not_made_anew() {
    let database = Database::start(Flavor::MariaDb);
    let setup = Setup::seed(&database);
    assert_eq!(setup.start().next(), 101);
    sql(&database, "DROP TABLE sequence.generator_table");
    for setup in [setup, Setup::seed(&database)] {
        let (code, output) = setup.run(&[]);
        assert!(code == 78 && output.contains("generator_table is gone"), "{output}");
    }
}

#[test]
fn a_counter_that_went_back_across_a_restart() {
    let database = Database::start(Flavor::MariaDb);
    let setup = Setup::seed(&database);
    let server = setup.start();
    let all = load(&[server.port()], 4, 5_000);
    // Its memory is written once a second.
    std::thread::sleep(Duration::from_millis(1_500));
    drop(server);
    sql(&database, REWIND);
    let server = setup.start();
    assert_eq!(server.get("/new").status, 503);
    let refused = server.get("/readyz");
    assert!(refused.status == 503 && refused.body.contains("went back"), "{refused:?}");
    fence(&setup, &refused.body, highest_leased(&refused.body));
    server.wait_until_ready();
    assert!(server.next() > *all.ids().iter().max().unwrap());
}

#[test]
fn a_lock_that_someone_holds_for_long_is_told() {
    let database = Database::start(Flavor::MariaDb);
    let setup = Setup::seed(&database);
    let server = setup.start();
    let holder = "SELECT ID FROM information_schema.PROCESSLIST WHERE INFO = 'SELECT SLEEP(600)'";
    std::thread::scope(|scope| {
        // Its end is an error: it is killed.
        scope.spawn(|| try_sql(&database, "LOCK TABLES sequence.generator_table WRITE; SELECT SLEEP(600)"));
        let id = eventually("it holds the lock", || Some(sql(&database, holder).first()?[0].clone()));
        load_until_refused(server.port());
        server.wait_for_log("leasing of sequence default fails");
        sql(&database, &format!("KILL {id}"));
    });
    server.wait_for_log("works again");
    let told = server.log().matches("leasing of sequence default fails").count();
    assert_eq!(told, 1, "{}", server.log());
}

#[test]
fn the_last_tickets_of_the_column_are_not_thrown_away() {
    for flavor in [Flavor::MariaDb, Flavor::MySql9] {
        let database = Database::start(flavor);
        sql(&database, &format!("USE sequence; {SEED_TABLE} ALTER TABLE generator_table AUTO_INCREMENT = 2147483600"));
        let setup = Setup::seed(&database).patient();
        let server = setup.start();
        // More in one go than is left: an INSERT of so many rows would be refused, and use the numbers up.
        let checker = load(&[server.port()], 16, 4_800);
        let verdict = checker.verdict();
        assert_eq!(verdict.repeats, 0, "{flavor:?}: {verdict:?}");
        let tickets: BTreeSet<u64> = checker.ids().iter().map(|id| (id - 1) / 100).collect();
        let missing: Vec<u64> = (2_147_483_600..=2_147_483_647).filter(|ticket| !tickets.contains(ticket)).collect();
        // MySQL 9 passes over the last but one itself, once in some ten runs, at an INSERT of a single row that no other
        // statement runs beside (seen in the log).
        let is_mysqls = flavor == Flavor::MySql9 && missing == [2_147_483_646];
        assert!(missing.is_empty() || is_mysqls, "{flavor:?}: {missing:?} are missing, {verdict:?}");
        assert_eq!(server.get("/new").status, 507, "{flavor:?}");
    }
}

#[test]
fn the_end_of_what_json_can_tell_apart() {
    let database = Database::start(Flavor::MariaDb);
    sql(
        &database,
        &format!(
            "USE sequence; {SEED_TABLE} ALTER TABLE generator_table MODIFY id BIGINT NOT NULL AUTO_INCREMENT, AUTO_INCREMENT = 90071992547405"
        ),
    );
    let setup = Setup::seed(&database).patient();
    let server = setup.start();
    let checker = load(&[server.port()], 4, 400);
    checker.assert_clean(400);
    assert!(checker.ids().iter().all(|id| *id < 1 << 53));
    let exhausted = server.get("/new");
    assert_eq!(exhausted.status, 507, "{exhausted:?}");
    server.says_why("JSON");
    std::thread::sleep(Duration::from_secs(3));
    let rows: u64 = sql_value(&database, "SELECT COUNT(*) FROM sequence.generator_table").parse().unwrap();
    assert!(rows <= 10, "it does not go on inserting: {rows} rows");
}

#[test]
fn an_account_that_may_not_delete_is_told_so() {
    let database = Database::start(Flavor::MariaDb);
    sql(&database, "CREATE USER 'ids'@'%'; GRANT SELECT, INSERT, UPDATE, CREATE ON sequence.* TO 'ids'@'%'");
    // What it may hold is bounded, so that the loads below call for leases.
    let bounded = Setup::seed(&database).patient().env("SEQSVR_REFILL__MAX_BLOCK", "5000");
    let setup = bounded.env("SEQSVR_MYSQL__USER", "ids");
    let server = setup.start();
    load(&[server.port()], 4, 1_000).assert_clean(1_000);
    server.wait_for_log("older rows of this node stay in generator_table");
    assert!(server.log().contains("GRANT"), "{}", server.log());
    assert_eq!(server.log().matches("older rows").count(), 1, "once");
    let rows = || sql_value(&database, "SELECT COUNT(*) FROM sequence.generator_table").parse::<u64>().unwrap();
    assert!(rows() > 1);
    sql(&database, "GRANT DELETE ON sequence.* TO 'ids'@'%'");
    eventually("they are deleted", || {
        load(&[server.port()], 4, 1_000);
        (rows() == 1).then_some(())
    });
}

#[test]
fn another_server_than_the_counter_was_fenced_for() {
    let database = Database::start(Flavor::MariaDb);
    let setup = Setup::seed(&database);
    let server = setup.start();
    assert_eq!(server.next(), 101);
    sql(&database, "UPDATE sequence.seqsvr_meta SET owner = 'the old primary'");
    // What was leased before is its own, and is handed out; then it refuses.
    let rest = load_until_refused(server.port());
    assert_eq!(rest.verdict().repeats, 0);
    let refusal = server.get("/readyz");
    assert!(refusal.body.contains("epoch 1, and another server had the database since"), "{refusal:?}");
    assert!(server.log().contains("it was 'the old primary'"), "{}", server.log());
    drop(server);
    // A restart does not help, and does not end: a person may be at it.
    let server = setup.start();
    assert_eq!(server.get("/readyz").status, 503);
    let me = sql_value(&database, "SELECT CONCAT(@@hostname, ':', @@port, ':', @@server_id)");
    assert!(refusal.body.contains(&me), "{refusal:?}");
    assert!(refusal.body.contains("seqsvr fence --skip IDS --yes"), "{refusal:?}");
    let (code, output) = setup.run(&["fence", "--skip", "1000", "--yes"]);
    assert!(code == 0 && output.starts_with("fenced default"), "{output}");
    server.wait_until_ready();
    assert!(server.next() > *rest.ids().iter().max().unwrap());
}

/// Connections of the pool keep the `server_id` that they began with; the node must not lease on by it.
#[test]
fn a_server_id_that_is_set_at_run_time_is_named() {
    let database = Database::start(Flavor::MariaDb);
    let setup = Setup::seed(&database);
    let server = setup.start();
    assert_eq!(server.next(), 101);
    sql(&database, "SET GLOBAL server_id = 4711");
    let mut all = Checker::default();
    eventually("it refuses", || {
        all.merge(load(&[server.port()], 1, 50));
        (server.get("/new").status == 503).then_some(())
    });
    server.says_why("Its server_id was 1 and is 4711.");
    let (code, output) = setup.run(&["fence", "--skip", "1", "--yes"]);
    assert_eq!(code, 0, "{output}");
    server.wait_until_ready();
    all.merge(load(&[server.port()], 1, 500));
    assert_eq!(all.verdict().repeats, 0, "{}", all.verdict());
}
