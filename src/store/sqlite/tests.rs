//! Leases, changes and refusals, each test on a file of its own.

use std::fs;

use rusqlite::Connection;

use super::*;

const TERMS: Terms = Terms { step: Step::of(100), max_id: crate::config::DEFAULT_MAX_ID, incarnation: 1 };

fn default_sequence() -> NewSequence {
    NewSequence::new(SequenceName::default(), TERMS.step)
}

fn store(dir: &Path) -> Sqlite {
    Sqlite::new(dir, default_sequence(), Purpose::Serve, Arc::new(Node::forgetful()))
}

fn run<T>(
    store: &Sqlite,
    work: impl FnOnce(&Inner, &Transaction<'_>) -> Result<T, StoreError>,
) -> Result<T, ErrorKind> {
    store.inner.run(work).map_err(|error| error.kind)
}

fn lease_of(store: &Sqlite, name: &str, terms: Terms, want: u64) -> Result<(u64, u64), ErrorKind> {
    let want = NonZeroU64::new(want).unwrap();
    let leased = run(store, |inner, transaction| inner.lease(transaction, &name.parse().unwrap(), terms, want))?;
    leased.map(|leased| (leased.blocks[0].start(), leased.blocks[0].end())).map_err(|error| error.kind)
}

fn lease(store: &Sqlite, want: u64) -> Result<(u64, u64), ErrorKind> {
    lease_of(store, "default", TERMS, want)
}

fn edit(store: &Sqlite, name: &str, edit: &Edit) -> Result<bool, String> {
    store
        .inner
        .run(|inner, transaction| inner.edit(transaction, &name.parse().unwrap(), edit, &mut Script::default()))
        .map_err(|error| error.what)
}

#[test]
fn begins_past_one_step_and_goes_on_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (store(dir.path()), store(dir.path()));
    assert_eq!(lease(&first, 100), Ok((101, 201)));
    assert_eq!(lease(&second, 50), Ok((201, 251)));
    assert_eq!(lease(&first, 1), Ok((251, 252)));
    drop((first, second));
    assert_eq!(lease(&store(dir.path()), 1), Ok((252, 253)));
}

#[test]
fn the_last_lease_is_smaller_and_then_it_is_exhausted() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    lease(&store, 1).unwrap();
    let set = |next: i64, max: i64| {
        let connection = Connection::open(dir.path().join(FILE)).unwrap();
        connection.execute("UPDATE seqsvr_sequence SET next_id = ?1, max_id = ?2", [next, max]).unwrap();
    };
    set(1000, 1004);
    assert_eq!(lease(&store, 100), Ok((1000, 1005)));
    assert_eq!(lease(&store, 100), Err(ErrorKind::Exhausted));
    // The counter stays exact up to the largest id that a sequence can have.
    let last = (1_i64 << 62) + ((1 << 62) - 2);
    set(last - 1, last);
    assert_eq!(lease(&store, u64::MAX), Ok((last.cast_unsigned() - 1, last.cast_unsigned() + 1)));
    assert_eq!(lease(&store, 1), Err(ErrorKind::Exhausted));
}

#[test]
fn threads_and_connections_never_overlap() {
    let dir = tempfile::tempdir().unwrap();
    let mut blocks: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let store = store(dir.path());
                scope.spawn(move || (0..50).map(|_| lease(&store, 3).unwrap()).collect::<Vec<_>>())
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    blocks.sort_unstable();
    assert!(blocks.windows(2).all(|pair| pair[0].1 == pair[1].0), "a gap or an overlap");
    assert_eq!((blocks[0].0, blocks.len()), (101, 200));
}

#[test]
fn another_file_than_before_is_refused() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    lease(&store(dir.path()), 1).unwrap();
    let node = Arc::new(Node::forgetful());
    let first = Sqlite::new(dir.path(), default_sequence(), Purpose::Serve, node.clone());
    lease(&first, 1).unwrap();
    let second = Sqlite::new(other.path(), default_sequence(), Purpose::Serve, node);
    assert_eq!(lease(&second, 1), Err(ErrorKind::OtherStore));
    assert!(!other.path().join(FILE).exists(), "nothing is made where it is refused");
}

#[test]
fn a_counter_that_went_back_leases_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    assert_eq!(lease(&store, 10), Ok((101, 111)));
    store.inner.node.raise_high_water_mark(&SequenceName::default(), 150);
    for _ in 0..20 {
        assert_eq!(lease(&store, 10), Err(ErrorKind::Regressed), "and it does not creep up to the mark");
    }
}

#[test]
fn what_is_not_a_database_is_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(FILE), "not a database at all, but long enough to be read as one").unwrap();
    let error = store(dir.path()).inner.run(|_, _| Ok(())).unwrap_err();
    assert!(error.what.contains("seqsvr.db"), "{error}");
}

#[test]
fn a_counter_that_went_back_is_refused_to_all_until_a_person_advances_it() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (store(dir.path()), store(dir.path()));
    lease(&one, 10).unwrap();
    one.inner.node.raise_high_water_mark(&SequenceName::default(), 150);
    assert_eq!(lease(&one, 10), Err(ErrorKind::Regressed));
    assert_eq!(lease(&two, 10), Err(ErrorKind::Regressed), "it remembers nothing, and is told by the row");
    assert_eq!(edit(&two, "default", &Edit::Advance(200)), Ok(true));
    assert_eq!(lease_of(&one, "default", Terms { incarnation: 2, ..TERMS }, 10), Ok((200, 210)));
}

#[test]
fn named_sequences_count_on_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let new = NewSequence { max_id: 500, ..NewSequence::new("orders".parse().unwrap(), Step::of(7)) };
    assert_eq!(edit(&store, "orders", &Edit::Create(new.clone())), Ok(true));
    assert_eq!(lease_of(&store, "orders", TERMS, 10), Ok((1, 11)));
    assert_eq!(lease(&store, 10), Ok((101, 111)));
    assert_eq!(lease_of(&store, "Orders", TERMS, 10), Err(ErrorKind::Stale), "names are case-sensitive");
    assert!(edit(&store, "orders", &Edit::Create(new.clone())).unwrap_err().contains("already"));
    assert_eq!(edit(&store, "orders", &Edit::Delete), Ok(false));
    assert_eq!(lease_of(&store, "orders", TERMS, 10), Err(ErrorKind::Stale));
    assert!(edit(&store, "orders", &Edit::Create(new)).is_ok());
    assert_eq!(lease_of(&store, "orders", TERMS, 10), Err(ErrorKind::Stale), "another incarnation");
    assert_eq!(lease_of(&store, "orders", Terms { incarnation: 2, ..TERMS }, 10), Ok((11, 21)));
}

#[tokio::test]
async fn a_tail_goes_back_once_and_only_where_it_was_the_last() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let name = SequenceName::default();
    assert_eq!(lease(&store, 100), Ok((101, 201)));
    let tail = Block::new(151, 201).unwrap();
    let other = Terms { incarnation: 2, ..TERMS };
    assert!(!store.give_back(&name, other, tail).await.unwrap(), "of another incarnation");
    assert!(store.give_back(&name, TERMS, tail).await.unwrap());
    assert!(!store.give_back(&name, TERMS, tail).await.unwrap(), "it is back already");
    assert_eq!(lease(&store, 10), Ok((151, 161)));
    assert!(!store.give_back(&name, TERMS, tail).await.unwrap(), "somebody leased behind it");
    assert!(!store.give_back(&name, TERMS, Block::new(101, 151).unwrap()).await.unwrap());
}

#[tokio::test]
async fn the_revision_changes_with_the_definitions_and_not_with_leases() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let before = store.revision().await.unwrap();
    lease(&store, 10).unwrap();
    assert_eq!(store.revision().await.unwrap(), before);
    for edit_of in [Edit::Create(NewSequence::new("a".parse().unwrap(), Step::of(1))), Edit::Delete] {
        let last = store.revision().await.unwrap();
        edit(&store, "a", &edit_of).unwrap();
        assert_ne!(store.revision().await.unwrap(), last);
    }
    let names: Vec<String> =
        store.list(None, 10).await.unwrap().into_iter().map(|found| found.name.to_string()).collect();
    assert_eq!(names, ["a", "default"]);
    assert_eq!(store.list(Some(&"a".parse().unwrap()), 10).await.unwrap().len(), 1);
}

/// A file as the build before epochs left it.
const VERSION_2: &str = "
PRAGMA journal_mode = WAL;
CREATE TABLE seqsvr_meta (
  store_id TEXT    NOT NULL,
  revision INTEGER NOT NULL DEFAULT 1  -- +1 whenever a sequence is created, altered, advanced or deleted
) STRICT;
CREATE TABLE seqsvr_sequence (
  name        TEXT    NOT NULL PRIMARY KEY,
  next_id     INTEGER NOT NULL,            -- the first id that no lease covers
  step        INTEGER NOT NULL,            -- ids of the smallest block
  max_id      INTEGER NOT NULL,            -- the largest id
  server      TEXT    NOT NULL DEFAULT '', -- 'regressed' where a process found next_id below what it had leased
  incarnation INTEGER NOT NULL DEFAULT 1,  -- +1 when it is advanced, or created again
  deleted_at  TEXT,                        -- a tombstone: created again, it goes on from next_id
  description TEXT    NOT NULL DEFAULT '',
  created_at  TEXT    NOT NULL DEFAULT CURRENT_TIMESTAMP
) STRICT, WITHOUT ROWID;
INSERT INTO seqsvr_meta VALUES ('d1c9a1f0-4a5e-4a0e-9d38-5b1f3c1f8a11', 3);
INSERT INTO seqsvr_sequence VALUES ('default', 501, 100, 9007199254740991, '', 1, NULL, '', '2026-01-31 12:00:00');
INSERT INTO seqsvr_sequence VALUES ('old', 41, 10, 9007199254740991, '', 1, '2026-01-31 12:00:00', '', '2026-01-31 12:00:00');
INSERT INTO seqsvr_sequence VALUES ('orders', 61, 10, 9007199254740991, 'regressed', 1, NULL, '', '2026-01-31 12:00:00');
PRAGMA user_version = 2;
";

/// The file and what SQLite has beside it, each copied as `cp` does it.
fn copy(from: &Path, to: &Path, endings: &[&str]) {
    for ending in endings {
        let name = format!("{FILE}{ending}");
        fs::copy(from.join(&name), to.join(&name)).unwrap();
    }
}

fn epoch(dir: &Path) -> u32 {
    // As another program would look, but the -wal stays.
    let connection = Connection::open(dir.join(FILE)).unwrap();
    connection.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    connection.query_row("SELECT epoch FROM seqsvr_meta", [], |row| row.get(0)).unwrap()
}

fn new(name: &str) -> NewSequence {
    NewSequence::new(name.parse().unwrap(), Step::of(10))
}

fn next_id(store: &Sqlite, name: &str) -> u64 {
    run(store, |inner, transaction| inner.row(transaction, &name.parse().unwrap())).unwrap().unwrap().next_id
}

#[tokio::test]
async fn a_file_of_version_2_is_upgraded_and_goes_on() {
    let (dir, copied) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    Connection::open(dir.path().join(FILE)).unwrap().execute_batch(VERSION_2).unwrap();
    let first = store(dir.path());
    assert_eq!(lease(&first, 10), Ok((501, 511)));
    assert_eq!(lease_of(&first, "orders", TERMS, 10), Err(ErrorKind::Regressed), "as it was");
    assert_eq!((epoch(dir.path()), first.revision().await.unwrap()), (1, 3));
    first.close().await;
    assert_eq!(lease(&store(dir.path()), 10), Ok((511, 521)));
    copy(dir.path(), copied.path(), &["", "-wal"]);
    assert_eq!(lease(&store(copied.path()), 10), Err(ErrorKind::NotFenced), "its identity was recorded");
}

#[test]
fn a_copy_leases_nothing_until_it_is_fenced() {
    let (dir, copied) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let original = store(dir.path());
    edit(&original, "orders", &Edit::Declare(new("orders"))).unwrap();
    edit(&original, "old", &Edit::Declare(new("old"))).unwrap();
    edit(&original, "old", &Edit::Delete).unwrap();
    lease(&original, 100).unwrap();
    copy(dir.path(), copied.path(), &["", "-wal"]);
    assert_eq!(lease(&original, 100), Ok((201, 301)), "the original goes on");

    let copy = store(copied.path());
    for name in ["default", "orders", "default"] {
        assert_eq!(lease_of(&copy, name, TERMS, 1), Err(ErrorKind::NotFenced));
    }
    let told = copy.inner.run(|inner, transaction| {
        inner.lease(transaction, &SequenceName::default(), TERMS, NonZeroU64::MIN).map(Result::unwrap_err)
    });
    let told = told.unwrap().what;
    for part in ["copied, restored from a backup", "seqsvr fence --skip IDS --yes", "never serves again"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    drop(copy);
    assert_eq!(lease(&store(copied.path()), 1), Err(ErrorKind::NotFenced), "also after a restart");
    assert_eq!(epoch(copied.path()), 2, "one epoch, however often it is opened");

    let copy = store(copied.path());
    for name in ["default", "old", "orders"] {
        edit(&copy, name, &Edit::Fence(Fence::Skip(1_000))).unwrap();
    }
    assert_eq!(lease(&copy, 100), Ok((1_201, 1_301)));
    assert_eq!(lease_of(&copy, "orders", TERMS, 10), Ok((1_001, 1_011)));
    edit(&copy, "old", &Edit::Declare(new("old"))).unwrap();
    assert_eq!(lease_of(&copy, "old", Terms { incarnation: 2, ..TERMS }, 10), Ok((1_001, 1_011)));
    drop(copy);
    assert_eq!(lease(&store(copied.path()), 100), Ok((1_301, 1_401)));
}

#[test]
fn what_a_copy_may_lack_is_not_created_from_its_beginning() {
    let (dir, copied) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let original = store(dir.path());
    lease(&original, 100).unwrap();
    copy(dir.path(), copied.path(), &["", "-wal"]);
    let copy = store(copied.path());
    for create in [Edit::Declare(new("orders")), Edit::Create(new("orders"))] {
        let told = edit(&copy, "orders", &create).unwrap_err();
        assert!(told.contains("--first-id ID") && told.contains("seqsvr fence --skip"), "{told}");
    }
    let far = |name| NewSequence { first_id: 9_001, ..new(name) };
    assert!(edit(&copy, "far", &Edit::Declare(far("far"))).is_err(), "that was its first ID at first, too");
    edit(&copy, "far", &Edit::Create(far("far"))).unwrap();
    assert_eq!(lease_of(&copy, "far", TERMS, 10), Ok((9_001, 9_011)), "an operator says so");
    // How far another one may have come, this does not say.
    edit(&copy, "default", &Edit::Fence(Fence::Past(5_000))).unwrap();
    assert!(edit(&copy, "orders", &Edit::Declare(new("orders"))).is_err());
    for name in ["default", "far"] {
        edit(&copy, name, &Edit::Fence(Fence::Skip(1_000))).unwrap();
    }
    edit(&copy, "orders", &Edit::Declare(new("orders"))).unwrap();
    assert_eq!(next_id(&copy, "orders"), 1_001, "once for all fences of an epoch");
    drop(copy);

    // And a copy of the copy.
    let again = tempfile::tempdir().unwrap();
    self::copy(copied.path(), again.path(), &["", "-wal"]);
    let copy = store(again.path());
    for name in ["default", "far", "orders"] {
        edit(&copy, name, &Edit::Fence(Fence::Skip(500))).unwrap();
    }
    edit(&copy, "users", &Edit::Declare(new("users"))).unwrap();
    assert_eq!(next_id(&copy, "users"), 1_501, "it may have begun at 1001");
}

#[tokio::test]
async fn a_file_without_its_wal_leases_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let wal = dir.path().join(format!("{FILE}-wal"));
    let first = store(dir.path());
    lease(&first, 10).unwrap();
    drop(first);
    assert_eq!(lease(&store(dir.path()), 10), Ok((111, 121)), "as after kill -9: it is there");
    fs::remove_file(&wal).unwrap();
    for _ in 0..2 {
        assert_eq!(lease(&store(dir.path()), 10), Err(ErrorKind::NotFenced));
    }
    assert_eq!(epoch(dir.path()), 2);
    let fenced = store(dir.path());
    edit(&fenced, "default", &Edit::Fence(Fence::Skip(1_000))).unwrap();
    lease(&fenced, 10).unwrap();
    // A command that only looks takes the evidence away no more than a server does.
    drop(fenced);
    fs::remove_file(&wal).unwrap();
    let looks = Sqlite::new(dir.path(), default_sequence(), Purpose::Use, Arc::new(Node::forgetful()));
    looks.list(None, 10).await.unwrap();
    looks.close().await;
    assert_eq!(lease(&store(dir.path()), 10), Err(ErrorKind::NotFenced));
    assert_eq!(epoch(dir.path()), 2, "the epoch of before, and its fence, were in the -wal");
}

#[tokio::test]
async fn an_edit_is_in_the_file_itself() {
    let dir = tempfile::tempdir().unwrap();
    let first = store(dir.path());
    let orders = "orders".parse().unwrap();
    first.edit(&orders, &Edit::Create(new("orders")), &mut Script::default()).await.unwrap();
    lease_of(&first, "orders", TERMS, 10).unwrap();
    drop(first);
    fs::remove_file(dir.path().join(format!("{FILE}-wal"))).unwrap();
    assert_eq!(lease_of(&store(dir.path()), "orders", TERMS, 10), Err(ErrorKind::NotFenced), "it is there");
}

#[test]
fn a_wal_that_is_taken_away_from_a_running_process_is_missed() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    lease(&store, 10).unwrap();
    fs::remove_file(dir.path().join(format!("{FILE}-wal"))).unwrap();
    assert_eq!(lease(&store, 10), Err(ErrorKind::NotFenced));
}

#[tokio::test]
async fn nothing_is_missing_after_a_clean_close() {
    let parent = tempfile::tempdir().unwrap();
    let (dir, renamed) = (parent.path().join("a"), parent.path().join("b"));
    fs::create_dir(&dir).unwrap();
    let (first, second) = (store(&dir), store(&dir));
    lease(&first, 10).unwrap();
    lease(&second, 10).unwrap();
    first.close().await;
    assert_eq!(lease(&second, 10), Ok((121, 131)), "the other one goes on");
    second.close().await;
    let wal = dir.join(format!("{FILE}-wal"));
    assert!(!wal.exists(), "the last one has written it back");
    // Another program may now do what it likes.
    let connection = Connection::open(dir.join(FILE)).unwrap();
    connection.execute_batch("VACUUM; PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    drop(connection);
    assert!(!wal.exists());
    fs::rename(&dir, &renamed).unwrap();
    assert_eq!(lease(&store(&renamed), 10), Ok((131, 141)));
    assert_eq!(epoch(&renamed), 1);
}

#[tokio::test]
async fn a_file_that_others_keep_open_is_not_marked_as_closed() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (store(dir.path()), store(dir.path()));
    lease(&first, 10).unwrap();
    lease(&second, 10).unwrap();
    first.close().await;
    lease(&second, 10).unwrap();
    drop(second);
    fs::remove_file(dir.path().join(format!("{FILE}-wal"))).unwrap();
    assert_eq!(lease(&store(dir.path()), 10), Err(ErrorKind::NotFenced));
}

#[test]
fn a_file_that_is_replaced_under_a_process_is_noticed() {
    let (dir, backup) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = store(dir.path());
    lease(&store, 10).unwrap();
    copy(dir.path(), backup.path(), &["", "-wal"]);
    lease(&store, 10).unwrap();
    for ending in ["", "-wal"] {
        let name = format!("{FILE}{ending}");
        fs::rename(backup.path().join(&name), dir.path().join(&name)).unwrap();
    }
    assert!(matches!(lease(&store, 10), Err(ErrorKind::NotFenced | ErrorKind::Regressed)));
}
