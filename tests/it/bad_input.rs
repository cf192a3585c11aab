//! What a user gets wrong: each mistake a clear message that names the place and what is allowed, and the right exit
//! code.

use std::net::TcpListener;

use crate::support::database::{Database, Flavor};
use crate::support::server::{SEED_CONFIG, Setup};
use crate::support::{scripted, sql, sql_value};

/// `EX_CONFIG` of sysexits.h.
const CONFIGURATION: i32 = 78;

fn refused(setup: &Setup, code: i32, wanted: &[&str]) {
    let (found, output) = setup.run(&[]);
    for wanted in wanted {
        assert!(output.contains(wanted), "'{wanted}' is not in: {output}");
    }
    assert_eq!(found, code, "{output}");
    assert!(!output.contains("panicked"), "{output}");
}

#[test]
fn in_the_configuration_file() {
    for (config, wanted) in [
        ("step: 100\n", ["config.yml", "no store is chosen"]),
        ("store: embedded\nsteps: 100\n", ["config.yml", "unknown field `steps`"]),
        ("store: embedded\nstep: 0\n", ["step: 0 is not allowed", "line 2"]),
        ("store: embedded\nstep: 5000000000\n", ["from 1 to 4294967295", "line 2"]),
        ("store: embedded\nlimits:\n  wait: 1 year\n", ["limits.wait", "from 0s to 1m"]),
        ("store: redis\n", ["config.yml", "write embedded or mysql"]),
        (&*format!("{SEED_CONFIG}store: embedded\n"), ["two stores are chosen", "remove the other"]),
        (&*SEED_CONFIG.replace("tcp(localhost:3306)", "udp(localhost:3306)"), ["mysql.host", "write 'tcp(host:3306)'"]),
        ("port: [\n", ["config.yml", "line"]),
    ] {
        refused(&Setup::new(config), CONFIGURATION, &wanted);
    }
    let bad_port = Setup::new("store: embedded\nport: ':80000'\n");
    refused(&bad_port, CONFIGURATION, &["port: ':80000' is not a port", "from 0 to 65535", "line 2"]);
}

#[test]
fn files_that_are_not_there_or_not_readable() {
    refused(&Setup::new(""), CONFIGURATION, &["config.yml: there is no such file", "SEQSVR_CONFIG", "--embedded"]);
    let missing = Setup::new("").arg("--config").arg("elsewhere.yml");
    refused(&missing, CONFIGURATION, &["elsewhere.yml: there is no such file"]);
    // A folder can't be read as a file by anyone, root included.
    refused(&Setup::new("").arg("--config").arg("."), CONFIGURATION, &[".: it can't be read"]);
    let binary = Setup::new("store: embedded");
    std::fs::write(binary.folder().join("config.yml"), [0xff, 0xfe, 0x00]).unwrap();
    refused(&binary, CONFIGURATION, &["config.yml: it can't be read", "UTF-8"]);
    let file = Setup::embedded().env("SEQSVR_DATA_DIR", "/dev/null/data");
    refused(&file, CONFIGURATION, &["data_dir /dev/null/data"]);
    let secret = Setup::new(SEED_CONFIG).env("SEQSVR_MYSQL__PASSWORD_FILE", "/no/such");
    refused(&secret, CONFIGURATION, &["the file that it names can't be read"]);
}

#[test]
fn on_the_command_line_and_in_the_environment() {
    refused(&Setup::embedded().arg("--embeded"), CONFIGURATION, &["--embeded", "--embedded", "Usage"]);
    refused(&Setup::embedded().env("SEQSVR_STEP", "0"), CONFIGURATION, &["SEQSVR_STEP: '0' is not allowed"]);
    refused(&Setup::embedded().env("SEQSVR_PORT", ":80000"), CONFIGURATION, &["SEQSVR_PORT", "from 0 to 65535"]);
    let both = Setup::embedded() // by its argument
        .env("SEQSVR_MYSQL__USER", "u")
        .env("SEQSVR_MYSQL__HOST", "h")
        .env("SEQSVR_MYSQL__DATABASE", "d");
    refused(&both, CONFIGURATION, &["two stores are chosen"]);
}

#[test]
fn a_port_that_is_taken() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    refused(&Setup::embedded().env("SEQSVR_PORT", &address), 1, &[&address, "Address already in use", "another port"]);
    // TEST-NET-1 of RFC 5737: no machine has it.
    let elsewhere = Setup::embedded().env("SEQSVR_PORT", "192.0.2.1:8000");
    refused(&elsewhere, CONFIGURATION, &["192.0.2.1:8000", "an address of this machine"]);
}

#[test]
fn the_check_command_says_it_without_starting() {
    let (code, output) = Setup::new(SEED_CONFIG).env("SEQSVR_MYSQL__PASSWORD", "hunter2").run(&["check"]);
    assert_eq!(code, 0, "{output}");
    assert!(output.contains("tcp(localhost:3306)") && output.contains("(set)"), "{output}");
    assert!(!output.contains("hunter2"), "{output}");
    let (code, output) = Setup::new("store: embedded\nstep: 0").run(&["check"]);
    assert_eq!(code, CONFIGURATION);
    assert!(output.contains("line 2"), "{output}");
    assert!(!Setup::embedded().folder().join("data").exists());
}

#[test]
fn help_and_version_need_no_configuration() {
    let setup = Setup::new("");
    let (code, output) = setup.run(&["--version"]);
    let version = output.trim().strip_prefix(concat!("seqsvr ", env!("CARGO_PKG_VERSION"), " ("));
    let built = version.and_then(|version| version.strip_suffix(')')).unwrap_or_else(|| panic!("{output}"));
    let words: Vec<&str> = built.split(' ').collect();
    assert!(code == 0 && matches!(words[..], [commit, date] if commit.len() >= 7 && date.len() >= 7), "{output}");
    let (code, output) = setup.run(&["--help"]);
    assert_eq!(code, 0);
    for word in ["--embedded", "--config", "healthcheck", "check", "SEQSVR_", "78"] {
        assert!(output.contains(word), "{word} is not in: {output}");
    }
}

#[test]
fn a_database_that_refuses_for_good() {
    for flavor in [Flavor::MariaDb, Flavor::MySql9] {
        let database = Database::start(flavor);
        sql(&database, "CREATE USER 'ids'@'%' IDENTIFIED BY 'right'; GRANT SELECT ON sequence.* TO 'ids'@'%'");
        let setup = || Setup::seed(&database).env("SEQSVR_MYSQL__USER", "ids").env("SEQSVR_MYSQL__PASSWORD", "right");

        let wrong = setup().env("SEQSVR_MYSQL__PASSWORD", "secret-typo");
        let (code, output) = wrong.run(&[]);
        assert!(code == CONFIGURATION && output.contains("1045") && output.contains("mysql.password"), "{output}");
        assert!(!output.contains("secret-typo"), "{output}");

        let missing = Setup::seed(&database).env("SEQSVR_MYSQL__DATABASE", "nowhere");
        refused(&missing, CONFIGURATION, &["1049", "nowhere", "CREATE DATABASE"]);

        // It may not make the tables: the error prints what an administrator has to run, and then it works.
        let (code, output) = setup().run(&[]);
        assert_eq!(code, CONFIGURATION, "{output}");
        let (_, commands) = output.split_once("run:\n").expect("the SQL");
        sql(&database, &format!("USE sequence; {commands}"));
        assert_eq!(setup().start().next(), 101, "{flavor:?}");
    }
}

#[test]
fn a_database_whose_tickets_do_not_rise() {
    for (name, version, comment) in [
        ("TiDB", "8.0.11-TiDB-v7.5.0", "TiDB Server (Apache License 2.0) Community Edition, MySQL 8.0 compatible"),
        ("Vitess", "8.0.30-Vitess", "Version: 18.0.0"),
        ("Vitess", "8.0.30", "MySQL behind vitess"),
        ("OceanBase", "5.7.25-OceanBase-v4.2.1.2", "OceanBase_CE 4.2.1.2"),
        ("PolarDB-X", "5.7.25-TDDL-5.4.19-20251031", "Source distribution"),
        (
            "SingleStore",
            "5.7.32",
            "SingleStoreDB source distribution (compatible; MySQL Enterprise & MySQL Commercial)",
        ),
        ("ShardingSphere-Proxy", "5.7.22-ShardingSphere-Proxy 5.4.1", "Source distribution"),
    ] {
        let port = scripted::start(version, comment);
        let setup = Setup::new(SEED_CONFIG).env("SEQSVR_MYSQL__HOST", &format!("127.0.0.1:{port}"));
        refused(&setup, CONFIGURATION, &[name, version, "not rising", "generator_table", "counter layout"]);
    }
}

#[test]
fn another_step_than_the_recorded_one() {
    let database = Database::start(Flavor::MariaDb);
    let setup = Setup::seed(&database);
    drop(setup.start());
    let tickets = sql_value(&database, "SELECT MAX(id) FROM sequence.generator_table");
    let other = Setup::seed(&database).env("SEQSVR_STEP", "250");
    refused(&other, CONFIGURATION, &["step 100", "step 250", "twice"]);
    assert_eq!(sql_value(&database, "SELECT MAX(id) FROM sequence.generator_table"), tickets, "no ticket was spent");
}

#[test]
fn another_store_than_before() {
    let (one, two) = (Database::start(Flavor::MariaDb), Database::start(Flavor::MariaDb));
    let setup = Setup::seed(&one);
    assert_eq!(setup.start().next(), 101);
    let moved = setup.env("SEQSVR_MYSQL__HOST", &format!("127.0.0.1:{}", two.port()));
    refused(&moved, CONFIGURATION, &["another store", "seqsvr adopt"]);
    assert!(sql(&two, "SHOW TABLES IN sequence").is_empty(), "nothing was made there");
    let (code, output) = moved.run(&["adopt"]);
    assert_eq!(code, 0, "{output}");
    assert_eq!(moved.start().next(), 101, "as it was told");
    assert!(output.contains("store_id"), "{output}");
    // And from MySQL to the embedded store of the same folder.
    let config = moved.folder().join("config.yml");
    std::fs::write(config, "store: embedded\n").unwrap();
    let lost = ["SEQSVR_MYSQL__HOST"].iter().fold(moved.command(), |mut command, name| {
        command.env_remove(name);
        command
    });
    let output = { lost }.output().unwrap();
    assert_eq!(output.status.code(), Some(CONFIGURATION), "{}", String::from_utf8_lossy(&output.stderr));
}
