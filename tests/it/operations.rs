//! The accounts of docs/operations.md: its very statements, on real servers, and what may be done with each.

use crate::support::database::{Database, Flavor};
use crate::support::server::Setup;
use crate::support::sql;

const PAGE: &str = include_str!("../../docs/operations.md");

pub const PASSWORD: &str = "wonderful";

/// The chapter's blocks of SQL, with this machine's address and a password in place of the examples'.
pub fn blocks() -> Vec<String> {
    let (_, chapter) = PAGE.split_once("\n## Accounts\n").expect("the chapter");
    let (chapter, _) = chapter.split_once("\n## ").expect("the next one");
    let blocks = chapter.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default());
    blocks.map(|block| block.replace("10.0.%", "127.0.0.1").replace("'...'", &format!("'{PASSWORD}'"))).collect()
}

fn run(setup: &Setup, line: &str) -> (i32, String) {
    setup.run(&line.split(' ').collect::<Vec<_>>())
}

/// What must work, works.
fn done(setup: &Setup, line: &str) {
    let (code, output) = run(setup, line);
    assert_eq!(code, 0, "{line}: {output}");
}

/// What needs an administrator is refused, and told so.
fn denied(setup: &Setup, line: &str) {
    let (code, output) = run(setup, line);
    assert!(code != 0 && output.contains("command denied"), "{line}: {code}: {output}");
}

fn serves(setup: &Setup) {
    let mut server = setup.start();
    assert!(server.next() > 100);
    assert!(server.get("/new/orders").id() > 0);
    assert!(server.stop().success(), "{}", server.log());
    assert!(!server.log().contains("denied"), "{}", server.log());
}

fn accounts(flavor: Flavor) {
    let database = Database::start(flavor);
    let blocks = blocks();
    let [accounts, by_table, cluster, replication] = &blocks[..] else { panic!("four blocks of SQL: {blocks:?}") };
    sql(&database, accounts);
    let by = |user: &str, step: &str| {
        let setup = Setup::on(&database, "sequences: {orders: {}}").env("SEQSVR_STEP", step);
        setup.env("SEQSVR_MYSQL__USER", user).env("SEQSVR_MYSQL__PASSWORD", PASSWORD)
    };
    let (node, admin) = (by("seqsvr", "100"), by("seqsvr_admin", "100"));

    // A node may not make tables, and prints what an administrator has to.
    let (code, output) = run(&node, "serve");
    assert!(code == 78 && output.contains("CREATE TABLE"), "{output}");
    serves(&admin);
    serves(&node);
    for line in ["sequence create users", "sequence alter users --step 7", "fence --skip 1000 --yes", "doctor --prune"]
    {
        done(&node, line);
    }
    denied(&node, "migrate --widen --yes");
    done(&admin, "migrate --widen --yes");

    // Table by table.
    sql(&database, "REVOKE ALL PRIVILEGES, GRANT OPTION FROM 'seqsvr'@'127.0.0.1'");
    sql(&database, by_table);
    serves(&node);
    done(&node, "migrate --step 1000 --yes");
    serves(&by("seqsvr", "1000"));

    // The line of this make; each is an error on the other.
    let grant = replication.lines().find(|line| line.contains("-- MySQL") == (flavor == Flavor::MySql9));
    let grant = grant.and_then(|line| line.split("--").next()).expect("a line for each make");
    let (_, output) = run(&node, "doctor");
    assert!(output.contains("info  role") && output.contains("could not be read"), "{output}");
    sql(&database, grant);
    let (_, output) = run(&node, "doctor");
    assert!(!output.contains("could not be read") && !output.contains("lacks"), "{output}");

    // Galera's table is there only in a cluster.
    if flavor == Flavor::MySql9 {
        let lines: Vec<&str> = cluster.lines().filter(|line| line.contains("-- Group Replication")).collect();
        assert_eq!(lines.len(), 2, "{cluster}");
        sql(&database, &lines.join("\n"));
    }

    // It may do all of it but the last step, after which nobody else can lease from the table.
    let (code, output) = run(&node, "migrate --counter --yes");
    assert!(code == 1 && output.contains("could not be renamed") && output.contains("ALTER and DROP"), "{output}");
    done(&admin, "migrate --counter --yes");
    serves(&node);
}

#[test]
fn the_accounts_are_enough_on_mariadb() {
    accounts(Flavor::MariaDb);
}

#[test]
fn the_accounts_are_enough_on_mysql_9() {
    accounts(Flavor::MySql9);
}
