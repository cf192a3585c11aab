//! Ways to a database, and what a lease does there that the seed's server did not.

use crate::seed::SEED_TABLE;
use crate::support::database::{Database, Flavor};
use crate::support::http::load;
use crate::support::server::{Server, Setup, eventually};
use crate::support::{sql, sql_value};

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
    let refusal = setup.start().get("/new");
    assert!(refusal.status == 503 && refusal.body.contains("UnknownIssuer"), "{refusal:?}");

    // Its certificate is not for 127.0.0.1.
    setup = setup.env("SEQSVR_MYSQL__SSL_CA", ca.to_str().unwrap());
    let refusal = setup.start().get("/new");
    assert!(refusal.status == 503 && refusal.body.contains("127.0.0.1"), "{refusal:?}");
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
    let servers = [&one, &two].map(|database| Setup::seed(database).start());
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
        let setups = [Setup::seed(&database), Setup::seed(&database)];
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
        let database = Database::start(flavor);
        sql(&database, &format!("USE sequence; {SEED_TABLE} ALTER TABLE generator_table AUTO_INCREMENT = 2147483646"));
        let setup = Setup::seed(&database);
        let server = setup.start();
        let ids = load(&[server.port()], 1, 200);
        ids.assert_clean(200);
        assert_eq!(ids.ids().first(), Some(&214_748_364_601), "{flavor:?}");
        assert_eq!(ids.ids().last(), Some(&214_748_364_800), "{flavor:?}: the last id of the last ticket");
        let exhausted = eventually("it is exhausted", || {
            let response = server.get("/new");
            (response.status == 507).then_some(response)
        });
        assert!(exhausted.body.contains("ALTER TABLE generator_table MODIFY id BIGINT"), "{exhausted:?}");
        assert_eq!(exhausted.header("retry-after"), None, "no retry helps");
        assert!(server.log().contains("% used"), "{}", server.log());
        assert_eq!(server.get("/readyz").status, 200, "another node could not help");

        // And it goes on by itself once the column is wider.
        sql(&database, "ALTER TABLE sequence.generator_table MODIFY id BIGINT NOT NULL AUTO_INCREMENT");
        let id = eventually("it goes on", || {
            let response = server.get("/new");
            (response.status == 200).then(|| response.id())
        });
        assert!(id > 214_748_364_800, "{flavor:?}: {id}");
    }
}

#[test]
fn a_counter_that_went_back_under_load() {
    for flavor in [Flavor::MariaDb, Flavor::MySql9] {
        let database = Database::start(flavor);
        let setup = Setup::seed(&database).env("SEQSVR_REFILL__MAX_BLOCK", "1000").env("SEQSVR_LIMITS__WAIT", "5ms");
        let server = setup.start();
        let mut all = load(&[server.port()], 4, 5_000);

        // A restored backup: no rows, and the counter where it was long ago.
        sql(&database, "DELETE FROM sequence.generator_table; ALTER TABLE sequence.generator_table AUTO_INCREMENT = 5");
        let after = load(&[server.port()], 4, 4_000);
        assert!(after.verdict().errors > 0, "it refuses once its memory is used up");
        all.merge(after);
        assert_eq!(all.verdict().repeats, 0);
        let refusal = server.get("/new");
        assert_eq!(refusal.status, 503);
        assert!(refusal.body.contains("went back") && refusal.body.contains("first_ticket"), "{refusal:?}");
        assert_eq!(server.get("/readyz").status, 503);
        assert!(server.metric("seqsvr_leases_total{outcome=\"regressed\"") > 0.0);
        let tickets: u64 = sql_value(&database, "SELECT MAX(id) FROM sequence.generator_table").parse().unwrap();
        assert!(tickets < 30, "it does not creep up to its mark: {tickets}");

        // Across a restart it knows as much.
        drop(server);
        let server = setup.start();
        assert_eq!(server.get("/new").status, 503, "{}", server.log());

        // A person sets the counter past every id, as the message says.
        let ticket = all.ids().iter().max().unwrap() / 100 + 100;
        sql(
            &database,
            &format!(
                "USE sequence; INSERT INTO generator_table (id, uuid) VALUES ({ticket}, UUID()); \
                 UPDATE seqsvr_meta SET first_ticket = {ticket} + 1 WHERE id = 1;"
            ),
        );
        server.wait_until_ready();
        all.merge(load(&[server.port()], 4, 5_000));
        assert_eq!(all.verdict().repeats, 0);
    }
}

#[test]
fn another_server_than_the_counter_was_fenced_for() {
    let database = Database::start(Flavor::MariaDb);
    let setup = Setup::seed(&database);
    let server = setup.start();
    assert_eq!(server.next(), 101);
    sql(&database, "UPDATE sequence.seqsvr_meta SET server = 'the old primary'");
    let (mut answered, mut refusal) = (1, None);
    while refusal.is_none() && answered < 10_000 {
        let response = server.get("/new");
        answered += 1;
        refusal = (response.status != 200).then_some(response);
    }
    let refusal = refusal.expect("it refuses");
    assert!(refusal.body.contains("the old primary") && refusal.body.contains("failover"), "{refusal:?}");
    drop(server);
    // A restart does not help, and does not end: a person may be at it.
    let server = setup.start();
    assert_eq!(server.get("/readyz").status, 503);
    let me = sql_value(&database, "SELECT @@server_uid");
    sql(&database, &format!("UPDATE sequence.seqsvr_meta SET server = '{me}'"));
    server.wait_until_ready();
}
