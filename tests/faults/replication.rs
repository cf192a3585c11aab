//! Servers that are not what they seem to be: replicas whose rows differ, and two servers with one identity.

use crate::counters::ids;
use crate::database::{ACCOUNT, Holder};
use crate::rig::{Layout, Outcome, Run, SEQUENCES, ask, assert_refused, command, start, wait_for_outcome};
use crate::support::checker::Checker;
use crate::support::database::{Database, Flavor};
use crate::support::http::{load, load_of};
use crate::support::replica::{Format, Pair};
use crate::support::server::{Server, Setup, eventually};
use crate::support::sql;

/// The value of `mysql.failover_skip`: less than is leased before the failover.
const SKIP: &str = "10000";

/// The failover of a pair whose log has the statements of leases, or their rows.
pub fn statement_based_replication(run: &Run) -> Outcome {
    let mut outcome = Outcome::default();
    let formats: &[Format] =
        if run.is_guarded() { &[Format::Statement, Format::Mixed, Format::Row] } else { &[Format::Statement] };
    for (flavor, layout) in run.places() {
        for &format in formats {
            outcome.rounds += 1;
            let all = promote_one_that_logs(run, flavor, layout, format);
            println!("{flavor:?}, {layout:?}, {format:?}: {}", all.verdict());
            assert!(run.is_guarded() || all.verdict().repeats > 0, "{flavor:?} {layout:?}: nothing guards against it");
            outcome.take_in(all);
        }
    }
    outcome
}

fn promote_one_that_logs(run: &Run, flavor: Flavor, layout: Layout, format: Format) -> Checker {
    let mut pair = Pair::start_with(flavor, format);
    sql(&pair.primary, ACCOUNT);
    let node = |skip| {
        let node = run.node_on_all(&[&pair.primary, &pair.replica], layout).env("SEQSVR_MYSQL__USER", "ids");
        node.env("SEQSVR_MYSQL__FAILOVER_SKIP", skip)
    };
    let [first, by_hand, by_itself] = ["0", "0", SKIP].map(node);
    if run.is_guarded() && format == Format::Statement {
        assert_refused(&first, &["binlog_format"]);
        pair.set_format(Format::Row);
    }
    let mut server = start(&first);
    command(&first, "sequence create orders --step 100");
    let mut all = load(&[server.port()], 4, 2_000);
    for sequence in SEQUENCES {
        all.merge(ask(sequence, 100, &[server.port()], 300));
    }
    if run.is_guarded() {
        assert_rows_are_equal(&pair);
        all.merge(change_format_and_back(&pair, &server, &by_hand));
        assert_rows_are_equal(&pair);
    } else {
        // It remembers what it leased.
        server.kill();
    }
    pair.wait_until_caught_up();
    pair.primary.kill();
    pair.promote();

    let new = by_hand.start();
    if run.is_guarded() {
        wait_for_outcome(&new, "not_fenced");
    }
    let fencing = by_itself.start();
    if run.is_guarded() {
        fencing.wait_until_ready();
    }
    let mut ports = vec![new.port(), fencing.port()];
    if run.is_guarded() {
        ports.push(server.port());
    }
    for sequence in SEQUENCES {
        // One after the other, so that the node that fences comes before those that wait for it.
        all.merge(run.ids_or_all(ask(sequence, 100, &ports[1..2], 100)));
        all.merge(run.ids_or_all(ask(sequence, 100, &ports, 150)));
    }
    all
}

/// Statements are logged as text for a while: the node and a new one refuse to lease then, and the node goes on afterwards.
fn change_format_and_back(pair: &Pair, server: &Server, new: &Setup) -> Checker {
    let mut all = Checker::default();
    let set = |format| {
        pair.set_format(format);
        // Connections keep the format with which they were made.
        let mut holder = Holder::new();
        holder.hold(&pair.primary, "DO 0").expect("a connection");
        holder.end_the_others();
    };
    set(Format::Statement);
    eventually("it refuses", || {
        all.merge(ids(&load_of("/new?count=200", &[server.port()], 4, 4)));
        server.get("/readyz").body.contains("binlog_format").then_some(())
    });
    wait_for_outcome(server, "misconfigured");
    assert_refused(new, &["binlog_format"]);
    assert_rows_are_equal(pair);
    set(Format::Mixed);
    eventually("it leases again", || (!server.get("/readyz").body.contains("leasing fails")).then_some(()));
    all.merge(load_of("/new?count=200", &[server.port()], 4, 40));
    all
}

/// The replica gets the rows that the primary has.
fn assert_rows_are_equal(pair: &Pair) {
    eventually("the rows are equal", || {
        // The node may lease in between.
        let before = rows(&pair.primary);
        pair.wait_until_caught_up();
        (before == rows(&pair.replica)).then_some(())
    });
}

/// What is in all tables.
fn rows(database: &Database) -> Vec<Vec<Vec<String>>> {
    let tables =
        sql(database, "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'sequence' ORDER BY 1");
    assert!(tables.len() >= 2, "{tables:?}");
    tables.concat().iter().map(|table| sql(database, &format!("SELECT * FROM sequence.{table} ORDER BY 1"))).collect()
}

/// Both hosts of `mysql.host` have the same identity, and both take writes.
pub fn clones(run: &Run) -> Outcome {
    let mut outcome = Outcome::default();
    for (flavor, layout) in run.places() {
        outcome.rounds += 1;
        let mut original = Database::start(flavor);
        let old = start(&run.node_on(&original, layout));
        let mut all = load(&[old.port()], 4, 4_000);
        let clone = original.start_clone();
        all.merge(load(&[old.port()], 4, 20_000));
        let setups = [[&clone, &original], [&original, &clone]].map(|hosts| run.node_on_all(&hosts, layout));
        if run.is_guarded() {
            let nodes = setups.each_ref().map(Setup::start);
            for node in &nodes {
                wait_for_outcome(node, "two_writers");
                assert_eq!(node.get("/readyz").status, 503);
            }
            let (code, doctor) = setups[1].run(&["doctor"]);
            assert!(code == 2 && doctor.contains("is not shown to be the same"), "{doctor}");
            sql(&clone, "SET GLOBAL read_only = 1");
            nodes.iter().for_each(Server::wait_until_ready);
            all.merge(load(&[old.port(), nodes[0].port(), nodes[1].port()], 6, 12_000));
        } else {
            let node = start(&setups[0]);
            all.merge(ids(&load(&[node.port()], 4, 10_000)));
            assert!(all.verdict().repeats > 0, "{flavor:?} {layout:?}: nothing guards against it");
        }
        println!("{flavor:?}, {layout:?}: {}", all.verdict());
        outcome.take_in(all);
    }
    outcome
}
