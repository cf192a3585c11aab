//! Leases, changes and refusals, each test on a file of its own.

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
