//! The embedded store: counter rows in one SQLite file, which several local processes may share.
//!
//! What always holds: a lease is one transaction that takes the write lock first (`BEGIN IMMEDIATE`), and its commit is
//! on the disk before the block is published (WAL with `synchronous=FULL`, read back after setting). A *copied* file
//! can't be told from the original: both then hand out the same ids.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params, params_from_iter};

use super::counter::{Row, Verdict, stale};
use super::finding::{Expected, Finding, Pruned};
use super::guard::REGRESSED;
use super::{BlockStore, Catalog, Definition, Edit, ErrorKind, Leased, Migration, Script, StoreError, Terms};
use crate::config::{NewSequence, Step};
use crate::faults::{self, Guard as Switch};
use crate::name::SequenceName;
use crate::node::Node;
use crate::segment::Block;

mod examine;

const FILE: &str = "seqsvr.db";

/// How long another process may hold the file: far longer than a commit takes, shorter than a lease may.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The layout below; a file with another number was written by another version.
const SCHEMA_VERSION: i64 = 2;

// STRICT: without it a counter near 2^63 turns into a float.
const SCHEMA: &str = "
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
";

/// A file has no server whose identity could change.
const NO_SERVER: &str = "";

/// The columns of [`row`].
const COLUMNS: &str = "name, next_id, step, max_id, server, incarnation, deleted_at IS NOT NULL, description";

/// The embedded store.
pub struct Sqlite {
    inner: Arc<Inner>,
    turn: Arc<tokio::sync::Mutex<()>>,
}

struct Inner {
    file: PathBuf,
    /// `default`, as it is in a new file.
    default: NewSequence,
    may_make: bool,
    node: Arc<Node>,
    /// Opened by whoever comes first, and again after an error.
    connection: Mutex<Option<Connection>>,
}

impl Sqlite {
    /// The file in `dir`; nothing is opened yet. `may_make`: where there is none, it is made.
    pub fn new(dir: &Path, default: NewSequence, may_make: bool, node: Arc<Node>) -> Self {
        let inner = Inner { file: dir.join(FILE), default, may_make, node, connection: Mutex::new(None) };
        Self { inner: Arc::new(inner), turn: Arc::default() }
    }

    /// Runs `work` in a transaction, on a thread that may block: SQLite waits for the disk and for other processes.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner, &Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = self.inner.clone();
        // The turn goes with the thread, so that what was given up does not leave more and more threads behind.
        let turn = self.turn.clone().lock_owned().await;
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            inner.run(work)
        });
        match done.await {
            Ok(outcome) => outcome,
            Err(error) => Err(self.inner.failed(ErrorKind::Unavailable, &error)),
        }
    }
}

#[async_trait]
impl BlockStore for Sqlite {
    async fn lease(&self, sequence: &SequenceName, terms: Terms, want: NonZeroU64) -> Result<Leased, StoreError> {
        let name = sequence.clone();
        let leased = self.run(move |inner, transaction| inner.lease(transaction, &name, terms, want)).await?;
        if matches!(&leased, Err(StoreError { kind: ErrorKind::Regressed, .. })) {
            // The file may be put back under us: the next lease opens it anew.
            self.close().await;
        }
        leased
    }

    async fn give_back(&self, sequence: &SequenceName, terms: Terms, tail: Block) -> Result<bool, StoreError> {
        let name = sequence.clone();
        self.run(move |inner, transaction| {
            transaction
                .execute(
                    "UPDATE seqsvr_sequence SET next_id = ?1 WHERE name = ?2 AND next_id = ?3 AND incarnation = ?4 \
                     AND server = ?5 AND deleted_at IS NULL",
                    params![
                        tail.start().cast_signed(),
                        name.as_str(),
                        tail.end().cast_signed(),
                        terms.incarnation,
                        NO_SERVER
                    ],
                )
                .map(|rows| rows == 1)
                .map_err(|error| inner.unavailable(&error))
        })
        .await
    }

    async fn find(&self, names: &[SequenceName]) -> Result<Vec<Definition>, StoreError> {
        let names = names.to_vec();
        self.run(move |inner, transaction| {
            let places = vec!["?"; names.len()].join(",");
            let sql = format!("SELECT {COLUMNS} FROM seqsvr_sequence WHERE name IN ({places})");
            inner.definitions(transaction, &sql, params_from_iter(names.iter().map(SequenceName::as_str)))
        })
        .await
    }

    async fn revision(&self) -> Result<u64, StoreError> {
        self.run(|inner, transaction| {
            transaction
                .query_row("SELECT revision FROM seqsvr_meta", [], |row| row.get::<_, i64>(0))
                .map(i64::cast_unsigned)
                .map_err(|error| inner.unavailable(&error))
        })
        .await
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }

    async fn close(&self) {
        let inner = self.inner.clone();
        // Closing the last connection writes the log back into the file. Nothing is lost where it fails.
        let _ = tokio::task::spawn_blocking(move || {
            drop(inner.connection.lock().unwrap_or_else(PoisonError::into_inner).take());
        })
        .await;
    }
}

#[async_trait]
impl Catalog for Sqlite {
    async fn list(&self, after: Option<&SequenceName>, most: u32) -> Result<Vec<Definition>, StoreError> {
        let after = after.map_or_else(String::new, |after| after.as_str().to_owned());
        self.run(move |inner, transaction| {
            let sql = format!("SELECT {COLUMNS} FROM seqsvr_sequence WHERE name > ?1 ORDER BY name LIMIT ?2");
            inner.definitions(transaction, &sql, params![after, most])
        })
        .await
    }

    async fn edit(&self, name: &SequenceName, edit: &Edit, script: &mut Script) -> Result<bool, StoreError> {
        let (name, edit, is_dry_run) = (name.clone(), edit.clone(), script.is_dry_run);
        let (has_moved, statements) = self
            .run(move |inner, transaction| {
                let mut script = Script { is_dry_run, ..Script::default() };
                Ok((inner.edit(transaction, &name, &edit, &mut script)?, script.statements))
            })
            .await?;
        script.statements.extend(statements);
        Ok(has_moved)
    }

    async fn migrate(&self, _: Migration, _: &mut Script) -> Result<String, StoreError> {
        Err(StoreError::new(
            ErrorKind::Refused,
            "the embedded store has the counter layout alone: nothing is to be moved",
        ))
    }

    /// On this thread: nothing else waits for it.
    async fn examine(&self, expected: Expected<'_>) -> Vec<Finding> {
        examine::examine(&self.inner.file, expected)
    }

    async fn prune(&self, _dry_run: bool) -> Result<Pruned, StoreError> {
        Err(StoreError::new(ErrorKind::Refused, "the embedded store keeps no rows of nodes: nothing is to be pruned"))
    }
}

impl Inner {
    fn run<T>(&self, work: impl FnOnce(&Self, &Transaction<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        // A panic in between leaves at most a connection whose transaction is rolled back.
        let mut slot = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let mut connection = match slot.take() {
            Some(connection) => connection,
            None => self.open()?,
        };
        let outcome = {
            let transaction = connection
                .transaction_with_behavior(TransactionBehavior::Immediate)
                .map_err(|error| self.unavailable(&error))?;
            let outcome = work(self, &transaction);
            if outcome.is_ok() {
                faults::point("sqlite-commits");
                let done = if faults::is_off(Switch::Commit) { transaction.rollback() } else { transaction.commit() };
                done.map_err(|error| self.unavailable(&error))?;
                faults::point("sqlite-committed");
            }
            outcome
        };
        // After an error it is opened anew, and looked at, unless it was only a no.
        if matches!(&outcome, Ok(_) | Err(StoreError { kind: ErrorKind::Refused, .. })) {
            *slot = Some(connection);
        }
        outcome
    }

    /// The lease, or why the row says no: what is recorded with that is committed too.
    fn lease(
        &self,
        transaction: &Transaction<'_>,
        name: &SequenceName,
        terms: Terms,
        want: NonZeroU64,
    ) -> Result<Result<Leased, StoreError>, StoreError> {
        let mark = self.node.high_water_mark(name.as_str());
        let Some(before) = self.row(transaction, name)? else { return Ok(Err(stale(name, &self.describe()))) };
        let set = |next_id: u64, server: &str| {
            transaction
                .prepare_cached("UPDATE seqsvr_sequence SET next_id = ?2, server = ?4 WHERE name = ?1 AND next_id = ?3")
                .and_then(|mut update| {
                    let (next_id, before) = (next_id.cast_signed(), before.next_id.cast_signed());
                    update.execute(params![name.as_str(), next_id, before, server])
                })
                .and_then(|rows| if rows == 1 { Ok(()) } else { Err(rusqlite::Error::StatementChangedRows(rows)) })
                .map_err(|error| self.unavailable(&error))
        };
        match before.verdict(terms, NO_SERVER, mark, want) {
            Verdict::Lease(block) => {
                set(block.end(), NO_SERVER)?;
                Ok(Ok(Leased {
                    blocks: vec![block],
                    capacity_used: Row::capacity_used(block.end(), before.max_id),
                    mark: 0,
                }))
            }
            Verdict::Exhausted => Ok(Err(before.exhausted(name, &self.describe()))),
            Verdict::Refused(breach) => {
                // Processes that remember nothing must refuse too.
                if before.next_id < mark && !before.is_deleted {
                    set(mark, REGRESSED)?;
                }
                Ok(Err(before.refusal(breach, name, &self.describe(), NO_SERVER, mark)))
            }
        }
    }

    fn edit(
        &self,
        transaction: &Transaction<'_>,
        name: &SequenceName,
        edit: &Edit,
        script: &mut Script,
    ) -> Result<bool, StoreError> {
        let before = self.row(transaction, name)?;
        let after = edit.apply(name, before.as_ref(), NO_SERVER)?;
        if before.as_ref() == Some(&after) {
            return Ok(false);
        }
        let has_moved = before.as_ref().is_none_or(|before| after.next_id > before.next_id);
        if !script.runs(|| after.shown(name, before.is_some())) {
            return Ok(has_moved);
        }
        transaction
            .execute(
                "INSERT INTO seqsvr_sequence (name, next_id, step, max_id, server, incarnation, deleted_at, description) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, IIF(?7, CURRENT_TIMESTAMP, NULL), ?8) \
                 ON CONFLICT (name) DO UPDATE SET next_id = ?2, step = ?3, max_id = ?4, server = ?5, incarnation = ?6, \
                 deleted_at = excluded.deleted_at, description = ?8",
                params![
                    name.as_str(),
                    after.next_id.cast_signed(),
                    after.step.get().cast_signed(),
                    after.max_id.cast_signed(),
                    after.server,
                    after.incarnation,
                    after.is_deleted,
                    after.description
                ],
            )
            .and_then(|_| transaction.execute("UPDATE seqsvr_meta SET revision = revision + 1", []))
            .map_err(|error| self.unavailable(&error))?;
        Ok(has_moved)
    }

    fn row(&self, transaction: &Transaction<'_>, name: &SequenceName) -> Result<Option<Row>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM seqsvr_sequence WHERE name = ?1");
        transaction
            .prepare_cached(&sql)
            .and_then(|mut select| select.query_row([name.as_str()], row).optional())
            .map(|found| found.map(|(_, row)| row))
            .map_err(|error| self.unavailable(&error))
    }

    fn definitions(
        &self,
        transaction: &Transaction<'_>,
        sql: &str,
        values: impl rusqlite::Params,
    ) -> Result<Vec<Definition>, StoreError> {
        transaction
            .prepare_cached(sql)
            .and_then(|mut select| select.query_map(values, row)?.collect::<rusqlite::Result<Vec<_>>>())
            .map(|rows| rows.into_iter().map(|(name, row)| row.definition(name)).collect())
            .map_err(|error| self.unavailable(&error))
    }

    fn describe(&self) -> String {
        format!("the embedded store {}", self.file.display())
    }

    fn open(&self) -> Result<Connection, StoreError> {
        let is_new = !self.file.exists();
        if is_new && !self.may_make {
            let what = format!("there is no {} yet. Start a server, or make a sequence", self.file.display());
            return Err(StoreError::new(ErrorKind::Misconfigured, what));
        }
        if is_new {
            self.node.check_store(None).map_err(|error| StoreError::new(ErrorKind::OtherStore, error.to_string()))?;
        }
        let mut connection = Connection::open(&self.file).map_err(|error| self.unavailable(&error))?;
        let store_id = self.prepare(&mut connection).map_err(|error| self.unavailable(&error))?;
        let Some(store_id) = store_id else {
            return Err(StoreError::new(
                ErrorKind::Misconfigured,
                format!(
                    "{} was written by another version of seqsvr: use that, or another data_dir",
                    self.file.display()
                ),
            ));
        };
        self.node
            .check_store(Some(&store_id))
            .map_err(|error| StoreError::new(ErrorKind::OtherStore, error.to_string()))?;
        self.node.remember_store(&store_id);
        if is_new {
            // The file's own entry must last as well as what is in it.
            let synced = self.file.parent().map_or(Ok(()), |dir| std::fs::File::open(dir)?.sync_all());
            synced.map_err(|error| self.failed(ErrorKind::Unavailable, &error))?;
            tracing::warn!(
                "made a new embedded store, {}: the ids begin at {}. If there was one before, stop and put it back",
                self.file.display(),
                self.default.first_id
            );
        }
        Ok(connection)
    }

    /// Sets the connection up and makes the tables where they are missing. The store's identity, or `None` where the
    /// file is of another version.
    fn prepare(&self, connection: &mut Connection) -> rusqlite::Result<Option<String>> {
        connection.busy_timeout(BUSY_TIMEOUT)?;
        let journal: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        // In KiB: a lease touches one row.
        connection.pragma_update(None, "cache_size", -256)?;
        let synchronous: i64 = connection.pragma_query_value(None, "synchronous", |row| row.get(0))?;
        if !journal.eq_ignore_ascii_case("wal") || synchronous != 2 {
            let what = format!("it does not keep what is durable: journal_mode={journal}, synchronous={synchronous}");
            return Err(rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ERROR),
                Some(what),
            ));
        }
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let version: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if version == 0 {
            transaction.execute_batch(SCHEMA)?;
            transaction
                .execute("INSERT INTO seqsvr_meta (store_id) VALUES (?1)", [uuid::Uuid::new_v4().to_string()])?;
            let new = &self.default;
            transaction.execute(
                "INSERT INTO seqsvr_sequence (name, next_id, step, max_id, description) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![
                    new.name.as_str(),
                    new.first_id.cast_signed(),
                    new.step.get().cast_signed(),
                    new.max_id.cast_signed(),
                    new.description
                ],
            )?;
            transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        } else if version != SCHEMA_VERSION {
            return Ok(None);
        }
        let store_id = transaction.query_row("SELECT store_id FROM seqsvr_meta", [], |row| row.get(0))?;
        transaction.commit()?;
        Ok(Some(store_id))
    }

    fn unavailable(&self, error: &rusqlite::Error) -> StoreError {
        let kind = match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt) => ErrorKind::Misconfigured,
            _ => ErrorKind::Unavailable,
        };
        self.failed(kind, error)
    }

    fn failed(&self, kind: ErrorKind, error: &dyn std::fmt::Display) -> StoreError {
        StoreError::new(kind, format!("the embedded store {}: {error}", self.file.display()))
    }
}

/// A row of [`COLUMNS`]. What is out of range was not written by us.
fn row(columns: &rusqlite::Row<'_>) -> rusqlite::Result<(SequenceName, Row)> {
    let broken = |column: usize, what: &str| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Integer, format!("seqsvr_sequence: {what}").into())
    };
    let id =
        |column: usize| u64::try_from(columns.get::<_, i64>(column)?).map_err(|_| broken(column, "an id is below 0"));
    let name: String = columns.get(0)?;
    let name = name.parse().map_err(|allowed| broken(0, allowed))?;
    Ok((
        name,
        Row {
            next_id: id(1)?,
            // 0 would be edited by hand.
            step: Step::new(id(2)?).unwrap_or(Step::of(1)),
            max_id: id(3)?,
            server: columns.get(4)?,
            incarnation: columns.get(5)?,
            is_deleted: columns.get(6)?,
            description: columns.get(7)?,
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: Terms = Terms { step: Step::of(100), max_id: crate::config::DEFAULT_MAX_ID, incarnation: 1 };

    fn default_sequence() -> NewSequence {
        NewSequence::new(SequenceName::default(), TERMS.step)
    }

    fn store(dir: &Path) -> Sqlite {
        Sqlite::new(dir, default_sequence(), true, Arc::new(Node::forgetful()))
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
        let first = Sqlite::new(dir.path(), default_sequence(), true, node.clone());
        lease(&first, 1).unwrap();
        let second = Sqlite::new(other.path(), default_sequence(), true, node);
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
}
