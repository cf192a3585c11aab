//! TLS to the database: which certificates of the server are taken, and this side's own.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use tempfile::TempDir;

use crate::support::database::{Database, Flavor};
use crate::support::server::{Server, Setup, eventually};
use crate::support::sql;

/// An authority, and the files of what it signs.
struct Authority {
    folder: TempDir,
    params: CertificateParams,
    key: KeyPair,
}

/// What is right or wrong with a certificate.
#[derive(Clone, Copy)]
struct Certificate {
    host: &'static str,
    has_expired: bool,
    is_self_signed: bool,
}

const GOOD: Certificate = Certificate { host: "127.0.0.1", has_expired: false, is_self_signed: false };

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority");
        let authority = Self { folder: tempfile::tempdir().unwrap(), params, key: KeyPair::generate().unwrap() };
        let certificate = authority.params.self_signed(&authority.key).unwrap();
        fs::write(authority.file("ca.pem"), certificate.pem()).unwrap();
        authority
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes `certificate` as that of `name`, with its key.
    fn write(&self, name: &str, certificate: Certificate) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([certificate.host.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        if certificate.has_expired {
            (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        }
        let signed = if certificate.is_self_signed {
            params.self_signed(&key)
        } else {
            params.signed_by(&key, &Issuer::from_params(&self.params, &self.key))
        };
        fs::write(self.file(&format!("{name}.pem")), signed.unwrap().pem()).unwrap();
        fs::write(self.file(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

/// A server with a certificate of the authority's, and an account that must encrypt.
fn start(flavor: Flavor, authority: &Authority) -> (Database, Setup) {
    authority.write("server", GOOD);
    let argument = |name: &str, file: &str| format!("--ssl-{name}={}", authority.file(file).display());
    let arguments = [argument("ca", "ca.pem"), argument("cert", "server.pem"), argument("key", "server.key")];
    let database = Database::start_with(flavor, &arguments.each_ref().map(String::as_str));
    sql(&database, "CREATE USER 'ids'@'%' IDENTIFIED BY 'pass' REQUIRE SSL; GRANT ALL ON sequence.* TO 'ids'@'%'");
    let setup = trusting(node(&database, "verify_identity"), &authority.file("ca.pem"));
    (database, setup)
}

fn node(database: &Database, ssl_mode: &str) -> Setup {
    Setup::seed(database)
        .env("SEQSVR_MYSQL__USER", "ids")
        .env("SEQSVR_MYSQL__PASSWORD", "pass")
        .env("SEQSVR_MYSQL__SSL_MODE", ssl_mode)
}

fn trusting(setup: Setup, ca: &Path) -> Setup {
    setup.env("SEQSVR_MYSQL__SSL_CA", ca.to_str().unwrap())
}

/// With a certificate of its own.
fn showing(setup: Setup, authority: &Authority, name: &str) -> Setup {
    let file = |kind: &str| authority.file(&format!("{name}.{kind}")).to_str().unwrap().to_owned();
    setup.env("SEQSVR_MYSQL__SSL_CERT", &file("pem")).env("SEQSVR_MYSQL__SSL_KEY", &file("key"))
}

/// It runs, has no ids, and says why.
fn assert_refused(server: &Server, why: &str) {
    eventually(why, || {
        let answer = server.get("/readyz");
        (answer.status == 503 && answer.body.contains("connecting") && answer.body.contains(why)).then_some(())
    });
}

#[test]
fn certificates_of_the_server() {
    for flavor in [Flavor::MariaDb, Flavor::MySql9] {
        let authority = Authority::new();
        let (mut database, setup) = start(flavor, &authority);
        assert_eq!(setup.start().next(), 101, "{flavor:?}");
        for (bad, why) in [
            (Certificate { has_expired: true, ..GOOD }, "certificate expired"),
            (Certificate { host: "db.example", ..GOOD }, "not valid for name"),
            (Certificate { is_self_signed: true, ..GOOD }, "UnknownIssuer"),
        ] {
            authority.write("server", bad);
            database.restart();
            let server = setup.start();
            assert_refused(&server, why);
            assert_refused(&server, "mysql.ssl_mode: verify_identity refuses it");
            // Who does not ask does not notice.
            node(&database, "required").start().wait_until_ready();
            // And who asked goes on once it is put right.
            authority.write("server", GOOD);
            database.restart();
            server.wait_until_ready();
        }
        // The right name, of an authority that is not trusted.
        let stranger = Authority::new();
        assert_refused(&trusting(setup, &stranger.file("ca.pem")).start(), "invalid peer certificate");
    }
}

/// The driver gets an address that was looked up here. It must check the name all the same.
#[test]
fn a_name_with_several_addresses() {
    let authority = Authority::new();
    let (mut database, setup) = start(Flavor::MariaDb, &authority);
    let _silent = TcpListener::bind(("::1", database.port())).unwrap();
    let setup = setup
        .env("SEQSVR_MYSQL__HOST", &format!("db.test:{}", database.port()))
        .with_hosts("::1 db.test\n127.0.0.1 db.test\n");
    assert_refused(&setup.start(), "not valid for name");
    authority.write("server", Certificate { host: "db.test", ..GOOD });
    database.restart();
    assert_eq!(setup.start().next(), 101);
}

#[test]
fn a_certificate_of_its_own() {
    for flavor in [Flavor::MariaDb, Flavor::MySql9] {
        let authority = Authority::new();
        let (mut database, setup) = start(flavor, &authority);
        sql(&database, "ALTER USER 'ids'@'%' REQUIRE SUBJECT '/CN=node'");
        let (code, output) = setup.run(&[]);
        assert!(code == 78 && output.contains("1045"), "{flavor:?}: without one: {output}");

        authority.write("node", GOOD);
        authority.write("other", GOOD);
        let setup = showing(setup, &authority, "other");
        let (code, output) = setup.run(&[]);
        assert!(code == 78 && output.contains("1045"), "{flavor:?}: another's: {output}");

        // First one of another authority; then, without a restart, the right one.
        let setup = showing(setup, &authority, "node");
        let stranger = Authority::new();
        stranger.write("node", GOOD);
        let files = ["node.pem", "node.key"];
        let right = files.map(|name| fs::read(authority.file(name)).unwrap());
        for name in files {
            fs::copy(stranger.file(name), authority.file(name)).unwrap();
        }
        let server = setup.start();
        assert_refused(&server, "connecting");
        for (name, bytes) in files.into_iter().zip(right) {
            fs::write(authority.file(name), bytes).unwrap();
        }
        server.wait_until_ready();
        assert_eq!(server.next(), 101, "{flavor:?}");

        // Another's again, while it runs.
        let put = |name: &str| {
            for kind in ["pem", "key"] {
                fs::copy(authority.file(&format!("{name}.{kind}")), authority.file(&format!("node.{kind}"))).unwrap();
            }
        };
        fs::rename(authority.file("node.pem"), authority.file("right.pem")).unwrap();
        fs::rename(authority.file("node.key"), authority.file("right.key")).unwrap();
        let ask_until = |log: &str| {
            let times = || server.log().matches(log).count();
            let before = times();
            eventually(log, || {
                server.get("/new?count=50");
                (times() > before).then_some(())
            });
        };
        database.kill();
        ask_until("Connection refused");
        put("other");
        database.restart();
        ask_until("error 1045");
        put("right");
        ask_until("works again");

        // A key that is not the certificate's does not become right by itself.
        fs::copy(authority.file("other.key"), authority.file("node.key")).unwrap();
        let (code, output) = setup.run(&[]);
        assert!(code == 78 && output.contains("ssl_key"), "{flavor:?}: {output}");
    }
}
