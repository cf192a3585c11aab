//! Counters that are not what they were: whatever was restored, lost or swapped, nobody leases from it.

use super::{BOTH, COUNTER, DECLARED, row, run};
use crate::support::database::{Database, Flavor};
use crate::support::http::{load, load_until_refused};
use crate::support::server::{Setup, eventually};
use crate::support::{sql, sql_value};

#[test]
fn a_restored_row_of_an_earlier_incarnation_is_refused_by_all() {
    let database = Database::start(Flavor::MariaDb);
    let setups = [(); 2].map(|()| Setup::on(&database, COUNTER));
    let server = setups[0].start();
    assert_eq!(server.next(), 11);
    run(&setups[0], "sequence advance default --to 5000");
    eventually("it follows", || (server.next() >= 5_000).then_some(()));
    sql(&database, "UPDATE sequence.seqsvr_sequence SET next_id = 21, incarnation = 1");
    assert_eq!(load_until_refused(server.port()).verdict().repeats, 0);
    let new = setups[1].start();
    assert_eq!(new.get("/new").status, 503, "one that remembers nothing");
    new.says_why("went back");
}

#[test]
fn a_rewind_is_found_where_the_tail_did_not_go_back() {
    let database = Database::start(Flavor::MariaDb);
    let setups = [(); 2].map(|()| Setup::on(&database, COUNTER));
    let mut first = setups[0].start();
    assert_eq!(first.next(), 11);
    let second = setups[1].start();
    assert_eq!(second.next(), 21);
    assert!(first.stop().success());
    assert!(first.log().contains("given_back=0"), "somebody leased behind it: {}", first.log());
    drop(second);
    sql(&database, "UPDATE sequence.seqsvr_sequence SET next_id = 15");
    let first = setups[0].start();
    assert_eq!(first.get("/new").status, 503);
    first.says_why("went back");
}

#[test]
fn another_database_behind_the_same_name_gets_no_lease() {
    let (database, other) = (Database::start(Flavor::MariaDb), Database::start(Flavor::MariaDb));
    assert_eq!(Setup::on(&other, COUNTER).start().next(), 11);
    let server = Setup::on(&database, COUNTER).start();
    assert_eq!(server.next(), 11);
    // As if the name of the server led elsewhere now, while nothing failed: the same server by its identity, another store.
    let theirs = sql_value(&other, "SELECT store_id FROM sequence.seqsvr_meta");
    let ours = sql_value(&database, "SELECT store_id FROM sequence.seqsvr_meta");
    sql(&database, &format!("UPDATE sequence.seqsvr_sequence SET server = REPLACE(server, '{ours}', '{theirs}')"));
    assert!(row(&database, "server", "default").ends_with(&theirs), "the store is a part of it");
    assert_eq!(load_until_refused(server.port()).verdict().repeats, 0);
}

#[test]
fn a_lost_table_is_not_made_anew() {
    for (lost, wanted) in
        [("seqsvr_sequence", "seqsvr_sequence is gone"), ("seqsvr_meta", "seqsvr_meta, or its row, is gone")]
    {
        let database = Database::start(Flavor::MariaDb);
        assert_eq!(Setup::on(&database, COUNTER).start().next(), 11);
        sql(&database, &format!("DROP TABLE sequence.{lost}"));
        // One that remembers nothing.
        let (code, output) = Setup::on(&database, COUNTER).run(&[]);
        assert!(code == 78 && output.contains(wanted), "{lost}: {code}, {output}");
    }
    let database = Database::start(Flavor::MariaDb);
    let setup = Setup::on(&database, DECLARED);
    assert_eq!(setup.start().get("/new/orders").id(), 1);
    sql(&database, "DROP TABLE sequence.seqsvr_sequence");
    let server = Setup::on(&database, DECLARED).start();
    assert_eq!(server.get("/new/orders").status, 503);
    server.says_why("seqsvr_sequence is gone");
    assert_eq!(server.get("/new").status, 200, "default is elsewhere");
}

#[test]
fn a_counter_that_went_back_is_refused_by_all() {
    for flavor in BOTH {
        let database = Database::start(flavor);
        let setups = [(); 2].map(|()| Setup::on(&database, COUNTER).patient().env("SEQSVR_REFILL__MAX_BLOCK", "2000"));
        let busy = setups[0].start();
        let mut all = load(&[busy.port()], 4, 5_000);
        sql(&database, "UPDATE sequence.seqsvr_sequence SET next_id = 50");
        let ready = eventually("it finds out", || {
            all.merge(load(&[busy.port()], 4, 100));
            let ready = busy.get("/readyz");
            ready.body.contains("went back").then_some(ready)
        });
        assert!(busy.metric("seqsvr_leases_total{outcome=\"regressed\"") > 0.0);
        // One that remembers nothing.
        let new = setups[1].start();
        assert_eq!(new.get("/new").status, 503);
        new.says_why("went back");
        crate::mysql::fence(&setups[0], &ready.body, crate::mysql::highest_leased(&ready.body));
        new.wait_until_ready();
        eventually("the busy one goes on too", || {
            all.merge(load(&[busy.port()], 4, 100));
            (!busy.get("/readyz").body.contains("leasing fails")).then_some(())
        });
        all.merge(load(&[busy.port(), new.port()], 4, 2_000));
        assert_eq!(all.verdict().repeats, 0, "{:?}", all.verdict());
    }
}

#[test]
fn a_counter_of_another_server_is_refused() {
    let database = Database::start(Flavor::MySql9);
    let setup = Setup::on(&database, COUNTER);
    let server = setup.start();
    assert_eq!(server.next(), 11);
    sql(&database, "UPDATE sequence.seqsvr_sequence SET server = 'the old primary'");
    assert_eq!(load_until_refused(server.port()).verdict().repeats, 0);
    for words in ["the old primary", "seqsvr fence --skip IDS --yes"] {
        server.says_why(words);
    }
    let (code, output) = setup.run(&["fence", "default", "--past", "999", "--yes"]);
    assert!(code == 0 && output.starts_with("fenced default"), "{output}");
    server.wait_until_ready();
    assert_eq!(server.next(), 1_000);
}
