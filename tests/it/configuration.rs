//! Configuration where operators have it: variables alone, a file that a variable names, secrets that are rotated, a `data_dir`
//! that is somebody else's.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use serde_json::Value;

use crate::support::database::{Database, Flavor};
use crate::support::http::load_until_refused;
use crate::support::server::{SEED_CONFIG, Setup, eventually};
use crate::support::sql;

/// `EX_CONFIG` of sysexits.h.
const CONFIGURATION: i32 = 78;

/// A user that owns nothing.
const NOBODY: u32 = 65_534;

fn by_nobody(setup: Setup) -> Setup {
    setup.by(&["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"])
}

#[test]
fn by_variables_alone() {
    assert_eq!(Setup::new("").env("SEQSVR_STORE", "embedded").start().next(), 101);
    let database = Database::start(Flavor::MariaDb);
    let host = format!("127.0.0.1:{}", database.port());
    // In place of the image's file, which says embedded.
    for file in ["", "store: embedded\n"] {
        let setup = Setup::new(file)
            .env("SEQSVR_MYSQL__HOST", &host)
            .env("SEQSVR_MYSQL__USER", "root")
            .env("SEQSVR_MYSQL__DATABASE", "sequence");
        assert!(setup.start().next() > 100);
        let (code, output) = setup.run(&["sequence", "list"]);
        assert!(code == 0 && output.contains("default"), "{output}");
        assert!(!setup.folder().join("data/seqsvr.db").exists());
    }
}

#[test]
fn by_a_file_that_a_variable_names() {
    let setup = Setup::new("store: embedded\nstep: 7\n").env("SEQSVR_CONFIG", "other.yml");
    let (code, output) = setup.run(&["check"]);
    assert!(
        code == CONFIGURATION && output.contains("other.yml: there is no such file (SEQSVR_CONFIG names it)"),
        "{output}"
    );
    fs::write(setup.folder().join("other.yml"), "store: embedded\nstep: 9\n").unwrap();
    assert_eq!(setup.start().next(), 10);
}

#[test]
fn check_prints_each_setting_and_where_it_comes_from() {
    let setup = Setup::new(&format!("{SEED_CONFIG}limits: {{batch: 7}}\n"))
        .env("SEQSVR_MYSQL__PASSWORD", "hunter2")
        .env("SEQSVR_LIMITS__WAIT", "1s");
    let (code, output) = setup.run(&["check"]);
    assert_eq!(code, 0, "{output}");
    let line = |key: &str| {
        let line = output.lines().find(|line| line.split_whitespace().next() == Some(key));
        line.unwrap_or_else(|| panic!("no {key} in: {output}")).split_whitespace().skip(1).collect::<Vec<_>>()
    };
    assert_eq!(line("limits.wait"), ["1s", "SEQSVR_LIMITS__WAIT"]);
    assert_eq!(line("limits.batch"), ["7", "config.yml"]);
    assert_eq!(line("limits.range"), ["1000000", "default"]);
    assert_eq!(line("mysql.password"), ["(set)", "SEQSVR_MYSQL__PASSWORD"]);
    assert!(output.ends_with("config.yml is valid\n") && !output.contains("hunter2"), "{output}");

    let (code, output) = setup.run(&["check", "--json"]);
    assert!(code == 0 && !output.contains("hunter2"), "{output}");
    let settings: Value = serde_json::from_str(&output).unwrap();
    let wanted = serde_json::json!({"key": "limits.wait", "value": "1s", "source": "SEQSVR_LIMITS__WAIT"});
    assert!(settings["settings"].as_array().unwrap().contains(&wanted), "{settings}");
    assert!(!setup.folder().join("data").exists(), "it leaves nothing behind");
}

#[test]
fn check_tries_data_dir() {
    let setup = by_nobody(Setup::embedded().env("SEQSVR_LIMITS__WAIT", "1s"));
    let (code, output) = setup.run(&["check"]);
    // The test's folder is root's.
    assert!(code == CONFIGURATION && output.contains("data_dir data"), "{output}");
    assert!(output.contains("belongs to user 0, and this process is user 65534"), "{output}");
    chown(setup.folder(), Some(NOBODY), Some(NOBODY)).unwrap();
    let (code, output) = setup.run(&["check"]);
    assert_eq!(code, 0, "{output}");
    let file = Setup::embedded().env("SEQSVR_DATA_DIR", "config.yml/data");
    fs::write(file.folder().join("config.yml"), "store: embedded\n").unwrap();
    let (code, output) = file.run(&["check"]);
    assert!(code == CONFIGURATION && output.contains("Not a directory"), "{output}");
}

#[test]
fn files_of_root_do_not_lock_the_service_out() {
    for command in [&["adopt"][..], &["sequence", "create", "orders"], &["fence", "--skip", "1", "--yes"]] {
        let setup = Setup::embedded();
        let data = setup.folder().join("data");
        fs::create_dir(&data).unwrap();
        chown(&data, Some(NOBODY), Some(NOBODY)).unwrap();
        // The folder of a test is only for its owner.
        fs::set_permissions(setup.folder(), fs::Permissions::from_mode(0o755)).unwrap();
        // As root, which may have set that nobody else reads what it makes.
        let by_root = Setup::embedded();
        let script = "umask 077 && cd \"$1\" && shift && exec \"$@\"";
        let folder = setup.folder().to_str().unwrap();
        let (code, output) = by_root.by(&["sh", "-c", script, "sh", folder]).run(command);
        // There is nothing to adopt or to fence yet.
        assert!(code == 0 || !output.contains("panicked"), "{command:?}: {output}");
        for file in fs::read_dir(&data).unwrap() {
            let file = file.unwrap();
            assert_eq!(file.metadata().unwrap().uid(), NOBODY, "{command:?}: {:?}", file.path());
        }
        assert!(by_nobody(setup).start().next() > 0, "{command:?}");
    }
}

#[test]
fn a_file_of_somebody_else_is_named_with_its_owner() {
    let setup = Setup::embedded();
    drop(setup.start());
    fs::set_permissions(setup.folder(), fs::Permissions::from_mode(0o777)).unwrap();
    for (file, what) in [("data/node.lock", "data/node.lock"), ("data/seqsvr.db", "data/seqsvr.db")] {
        let data = setup.folder().join("data");
        for entry in fs::read_dir(&data).unwrap() {
            chown(entry.unwrap().path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        chown(&data, Some(NOBODY), Some(NOBODY)).unwrap();
        let file = setup.folder().join(file);
        chown(&file, Some(0), Some(0)).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let again = by_nobody(Setup::embedded().env("SEQSVR_DATA_DIR", data.to_str().unwrap()));
        fs::set_permissions(again.folder(), fs::Permissions::from_mode(0o755)).unwrap();
        let (code, output) = again.run(&[]);
        assert_eq!(code, CONFIGURATION, "{output}");
        assert!(output.contains(what), "{output}");
        assert!(output.contains("belongs to user 0, and this process is user 65534"), "{output}");
    }
}

#[test]
fn a_rotated_password_is_read_again() {
    for flavor in [Flavor::MariaDb, Flavor::MySql9] {
        let database = Database::start(flavor);
        sql(&database, "CREATE USER 'ids'@'%' IDENTIFIED BY 'old'; GRANT ALL ON sequence.* TO 'ids'@'%'");
        let setup = Setup::seed(&database).env("SEQSVR_MYSQL__USER", "ids").env("SEQSVR_LIMITS__WAIT", "100ms");
        let secret = setup.folder().join("secret");
        fs::write(&secret, "old\n").unwrap();
        let setup = setup.env("SEQSVR_MYSQL__PASSWORD_FILE", secret.to_str().unwrap());
        let server = setup.start();
        assert_eq!(server.next(), 101);
        fs::write(&secret, "new\n").unwrap();
        sql(&database, "ALTER USER 'ids'@'%' IDENTIFIED BY 'new'");
        for id in sql(&database, "SELECT id FROM information_schema.processlist WHERE user = 'ids'").concat() {
            // It may have ended.
            crate::support::try_sql(&database, &format!("KILL {id}"));
        }
        let before = server.metric("seqsvr_leases_total{outcome=\"ok\"");
        eventually("it leases by the new one", || {
            let _ = server.get("/new?count=100");
            (server.metric("seqsvr_leases_total{outcome=\"ok\"") > before + 1.0).then_some(())
        });
        // And where the file comes second, as with a secret that Kubernetes takes a minute to change.
        sql(&database, "ALTER USER 'ids'@'%' IDENTIFIED BY 'newest'");
        for id in sql(&database, "SELECT id FROM information_schema.processlist WHERE user = 'ids'").concat() {
            crate::support::try_sql(&database, &format!("KILL {id}"));
        }
        load_until_refused(server.port());
        server.says_why("1045");
        fs::write(&secret, "newest\n").unwrap();
        eventually("it issues again", || (server.get("/new").status == 200).then_some(()));
    }
}

#[test]
fn a_damaged_embedded_store_says_what_to_do() {
    let setup = Setup::embedded();
    fs::create_dir(setup.folder().join("data")).unwrap();
    fs::write(setup.folder().join("data/seqsvr.db"), "no database".repeat(1_000)).unwrap();
    let (code, output) = setup.run(&[]);
    assert!(code == CONFIGURATION && output.contains("data/seqsvr.db: file is not a database"), "{output}");
    assert!(output.contains("restore it from a backup and run `seqsvr fence --skip IDS --yes`"), "{output}");
}
