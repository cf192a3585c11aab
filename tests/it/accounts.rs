//! Accounts that a server refuses, and the plugins that check passwords. A refusal ends the start of a node with advice. It
//! does not end a node that runs.

use mysql_async::{Conn, OptsBuilder};

use crate::support::database::{Database, Flavor};
use crate::support::server::{Setup, eventually};
use crate::support::{scripted, sql, try_sql};

/// `EX_CONFIG` of sysexits.h.
const CONFIGURATION: i32 = 78;

const FLAVORS: [Flavor; 2] = [Flavor::MariaDb, Flavor::MySql9];

/// A server, and a node that uses its account `ids`.
fn start(flavor: Flavor) -> (Database, Setup) {
    let database = Database::start(flavor);
    let setup = node(&database);
    (database, setup)
}

fn node(database: &Database) -> Setup {
    sql(database, "CREATE USER 'ids'@'%' IDENTIFIED BY 'pass'; GRANT ALL ON sequence.* TO 'ids'@'%'");
    Setup::seed(database).env("SEQSVR_MYSQL__USER", "ids").env("SEQSVR_MYSQL__PASSWORD", "pass")
}

fn assert_refused(setup: &Setup, wanted: &[&str]) {
    let (code, output) = setup.run(&[]);
    for wanted in wanted {
        assert!(output.contains(wanted), "'{wanted}' is not in: {output}");
    }
    assert!(code == CONFIGURATION && !output.contains("panicked"), "{wanted:?}: {code}: {output}");
}

/// Statements that make the server refuse the account, statements that undo them, and what the node says.
type Refusal = (&'static str, &'static str, &'static [&'static str]);

fn each_refusal_ends_the_start(flavor: Flavor, refusals: &[Refusal]) {
    let (database, setup) = start(flavor);
    for (refuse, undo, wanted) in refusals {
        sql(&database, refuse);
        assert_refused(&setup, wanted);
        sql(&database, undo);
    }
    assert_eq!(setup.start().next(), 101);
    sql(&database, "RENAME USER 'ids'@'%' TO 'ids'@'192.0.2.1'; DROP USER root@'127.0.0.1'; FLUSH PRIVILEGES");
    assert_refused(&setup, &["error 1130", "No account may connect from this machine"]);
}

const REQUIRE_SSL: Refusal = (
    "ALTER USER 'ids'@'%' REQUIRE SSL",
    "ALTER USER 'ids'@'%' REQUIRE NONE",
    &["error 1045", "mysql.password", "mysql.ssl_mode"],
);

#[test]
fn a_refused_account_ends_the_start_on_mariadb() {
    each_refusal_ends_the_start(
        Flavor::MariaDb,
        &[
            REQUIRE_SSL,
            (
                "ALTER USER 'ids'@'%' ACCOUNT LOCK",
                "ALTER USER 'ids'@'%' ACCOUNT UNLOCK",
                &["error 4151", "ACCOUNT UNLOCK"],
            ),
            (
                "SET GLOBAL disconnect_on_expired_password = 1; ALTER USER 'ids'@'%' PASSWORD EXPIRE",
                "ALTER USER 'ids'@'%' IDENTIFIED BY 'pass'",
                &["error 1862", "ALTER USER", "mysql.password"],
            ),
            (
                "SET GLOBAL disconnect_on_expired_password = 0; ALTER USER 'ids'@'%' PASSWORD EXPIRE",
                "ALTER USER 'ids'@'%' IDENTIFIED BY 'pass'",
                &["error 1820", "ALTER USER", "mysql.password"],
            ),
            (
                "SET GLOBAL require_secure_transport = 1",
                "SET GLOBAL require_secure_transport = 0",
                &["error 1045", "mysql.ssl_mode"],
            ),
            (
                "ALTER USER 'ids'@'%' IDENTIFIED VIA unix_socket",
                "ALTER USER 'ids'@'%' IDENTIFIED BY 'pass'",
                &["error 1698", "unix_socket", "unix("],
            ),
            // Only what is attempted after a wrong password is refused for it.
            (
                "SET GLOBAL max_password_errors = 1; ALTER USER 'ids'@'%' IDENTIFIED BY 'new'",
                "DO 0",
                &["mysql.password"],
            ),
            (
                "DO 0",
                "SET GLOBAL max_password_errors = 1000; ALTER USER 'ids'@'%' IDENTIFIED BY 'pass'; FLUSH PRIVILEGES",
                &["error 4150", "FLUSH PRIVILEGES"],
            ),
        ],
    );
}

#[test]
fn a_refused_account_ends_the_start_on_mysql_9() {
    each_refusal_ends_the_start(
        Flavor::MySql9,
        &[
            REQUIRE_SSL,
            (
                "ALTER USER 'ids'@'%' ACCOUNT LOCK",
                "ALTER USER 'ids'@'%' ACCOUNT UNLOCK",
                &["error 3118", "ACCOUNT UNLOCK"],
            ),
            (
                "ALTER USER 'ids'@'%' PASSWORD EXPIRE",
                "ALTER USER 'ids'@'%' IDENTIFIED BY 'pass'",
                &["error 1862", "ALTER USER", "mysql.password"],
            ),
            (
                "SET GLOBAL require_secure_transport = 1",
                "SET GLOBAL require_secure_transport = 0",
                &["error 3159", "mysql.ssl_mode"],
            ),
            (
                "ALTER USER 'ids'@'%' IDENTIFIED WITH sha256_password BY 'pass'",
                "ALTER USER 'ids'@'%' IDENTIFIED WITH caching_sha2_password BY 'pass'",
                &["sha256_password", "caching_sha2_password"],
            ),
            (
                "UPDATE mysql.user SET plugin = 'mysql_native_password' WHERE user = 'ids'; FLUSH PRIVILEGES",
                "UPDATE mysql.user SET plugin = 'caching_sha2_password' WHERE user = 'ids'; FLUSH PRIVILEGES;
                 ALTER USER 'ids'@'%' IDENTIFIED BY 'pass'",
                &["error 1524", "mysql_native_password", "ALTER USER", "caching_sha2_password"],
            ),
            (
                "ALTER USER 'ids'@'%' FAILED_LOGIN_ATTEMPTS 1 PASSWORD_LOCK_TIME 1; ALTER USER 'ids'@'%' IDENTIFIED BY 'new'",
                "ALTER USER 'ids'@'%' IDENTIFIED BY 'pass' ACCOUNT UNLOCK FAILED_LOGIN_ATTEMPTS 0",
                &["error 3955", "ACCOUNT UNLOCK"],
            ),
        ],
    );
}

#[test]
fn an_account_with_ed25519() {
    let ed25519 = Database::ed25519_plugin();
    let arguments = [format!("--plugin-dir={}", ed25519.display()), "--plugin-load-add=auth_ed25519".to_owned()];
    let database = Database::start_with(Flavor::MariaDb, &arguments.each_ref().map(String::as_str));
    let setup = node(&database);
    let identify = |how: &str| sql(&database, &format!("ALTER USER 'ids'@'%' IDENTIFIED {how}"));

    identify("VIA ed25519 USING PASSWORD('pass')");
    assert_eq!(setup.start().next(), 101);
    identify("VIA ed25519 USING PASSWORD('other')");
    assert_refused(&setup, &["error 1045", "mysql.password"]);
}

#[test]
fn a_plugin_that_is_not_supported_is_named() {
    for plugin in ["auth_gssapi_client", "mysql_clear_password", "mysql_old_password"] {
        let port = scripted::start_with_plugin(plugin);
        let setup = Setup::new("mysql: {user: ids, password: pass, host: h, database: sequence}\n")
            .env("SEQSVR_MYSQL__HOST", &format!("127.0.0.1:{port}"));
        assert_refused(&setup, &[plugin, "ALTER USER", "caching_sha2_password", "ed25519"]);
    }
}

#[test]
fn a_limit_of_connections_is_waited_for() {
    for flavor in FLAVORS {
        let (database, setup) = start(flavor);
        sql(&database, "ALTER USER 'ids'@'%' WITH MAX_USER_CONNECTIONS 1");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let options = OptsBuilder::default().tcp_port(database.port()).user(Some("ids")).pass(Some("pass"));
        let other = runtime.block_on(Conn::new(options.prefer_socket(false))).unwrap();
        let server = setup.start();
        eventually("the limit is named", || {
            let answer = server.get("/readyz");
            (answer.status == 503 && answer.body.contains("MAX_USER_CONNECTIONS")).then_some(())
        });
        runtime.block_on(other.disconnect()).unwrap();
        server.wait_until_ready();
    }
}

#[test]
fn a_node_that_runs_outlives_its_account() {
    for flavor in FLAVORS {
        let (database, setup) = start(flavor);
        let mut server = setup.start();
        server.next();
        sql(&database, "ALTER USER 'ids'@'%' ACCOUNT LOCK");
        for id in sql(&database, "SELECT id FROM information_schema.processlist WHERE user = 'ids'").concat() {
            // It may have ended.
            try_sql(&database, &format!("KILL {id}"));
        }
        // The first failures may be those of the connections that were killed.
        eventually("no ID is left, and it says why", || {
            let answer = server.get("/new?count=50");
            (answer.status == 503 && server.get("/readyz").body.contains("ACCOUNT UNLOCK")).then_some(())
        });
        assert!(server.ended().is_none() && server.get("/livez").status == 200, "{}", server.log());
        sql(&database, "ALTER USER 'ids'@'%' ACCOUNT UNLOCK");
        eventually("it leases again", || (server.get("/new?count=50").status == 200).then_some(()));
    }
}
