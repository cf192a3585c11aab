//! The embedded store, through the built binary.

use crate::support::http::load;
use crate::support::server::Setup;

#[test]
fn the_first_answer_is_the_seeds_and_ids_rise_across_kill_9() {
    let setup = Setup::embedded();
    let mut server = setup.start();
    let first = server.get("/new");
    assert_eq!(first.body, r#"{"code":0,"msg":"ok","data":{"id":101}}"#);
    assert!(server.log().contains("made a new embedded store"), "{}", server.log());
    let mut last = first.id();
    for _ in 0..3 {
        server.kill();
        server = setup.start();
        let id = server.next();
        assert!(id > last, "{id} after {last}");
        last = id;
        assert!(!server.log().contains("made a new embedded store"));
    }
}

#[test]
fn the_shipped_configuration_serves_from_the_embedded_store() {
    let setup = Setup::new(include_str!("../../config.yml"));
    let server = setup.start();
    assert_eq!(server.next(), 101);
    assert!(setup.folder().join("data/seqsvr.db").exists());
}

#[test]
fn two_processes_on_one_file_never_overlap() {
    let setup = Setup::embedded().env("SEQSVR_STEP", "2").env("SEQSVR_REFILL__MAX_BLOCK", "50");
    // So small blocks make them fight for the file, and SQLite is not fair to who waits.
    let setup = setup.patient();
    let (one, two) = (setup.start(), setup.start());
    assert!(two.log().contains("held by another process"), "{}", two.log());
    let checker = load(&[one.port(), two.port()], 16, 20_000);
    checker.assert_clean(20_000);
    for server in [&one, &two] {
        assert!(server.metric("seqsvr_ids_total") > 1_000.0, "both took part");
        assert!(server.metric("seqsvr_leases_total{outcome=\"ok\"") > 50.0, "in many leases");
    }
}

#[test]
fn adopting_the_same_store_forgets_no_mark() {
    let setup = Setup::embedded();
    assert_eq!(setup.start().next(), 101);
    std::thread::sleep(std::time::Duration::from_millis(10));
    let file = setup.folder().join("data/seqsvr.db");
    let rewind = || {
        let connection = rusqlite::Connection::open(&file).unwrap();
        connection.execute("UPDATE seqsvr_sequence SET next_id = 101", []).unwrap();
    };
    rewind();
    let refused = setup.start().get("/new");
    assert!(refused.status == 503 && refused.body.contains("went back"), "{refused:?}");
    let (code, output) = setup.run(&["adopt"]);
    assert_eq!(code, 0, "{output}");
    assert_eq!(setup.start().get("/new").status, 503, "it is the same store, and its ids were handed out");
}
