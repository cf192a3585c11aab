//! The embedded store: counter rows in one SQLite file, which several local processes may share.
//!
//! What always holds: a lease is one transaction that takes the write lock first (`BEGIN IMMEDIATE`), and its commit is
//! on the disk before the block is published (WAL with `synchronous=FULL`, read back after setting). A *copied* file
//! can't be told from the original: both then hand out the same ids.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use super::{BlockStore, DEFAULT_MAX_ID, ErrorKind, SequenceName, StoreError};
use crate::config::Step;
use crate::node::Node;
use crate::segment::Block;

const FILE: &str = "seqsvr.db";

/// How long another process may hold the file: far longer than a commit takes, shorter than a lease may.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The layout below; a file with another number was written by a later version.
const SCHEMA_VERSION: i64 = 1;

// STRICT: without it a counter near 2^63 turns into a float.
const SCHEMA: &str = "
CREATE TABLE seqsvr_meta (store_id TEXT NOT NULL) STRICT;
CREATE TABLE seqsvr_sequence (
  name    TEXT    NOT NULL PRIMARY KEY,
  next_id INTEGER NOT NULL,  -- the first id that no lease covers
  max_id  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
";

/// The embedded store.
pub struct Sqlite {
    inner: Arc<Inner>,
    turn: Arc<tokio::sync::Mutex<()>>,
}

struct Inner {
    file: PathBuf,
    step: Step,
    node: Arc<Node>,
    /// Opened by the first lease, and again after an error.
    connection: Mutex<Option<Connection>>,
    /// The bits of a float, for the metrics. Relaxed: nothing else is read through it.
    capacity_used: AtomicU64,
}

impl Sqlite {
    /// The file in `dir`; nothing is opened yet.
    pub fn new(dir: &Path, step: Step, node: Arc<Node>) -> Self {
        let inner =
            Inner { file: dir.join(FILE), step, node, connection: Mutex::new(None), capacity_used: AtomicU64::new(0) };
        Self { inner: Arc::new(inner), turn: Arc::default() }
    }
}

#[async_trait]
impl BlockStore for Sqlite {
    async fn lease(&self, sequence: &SequenceName, want: NonZeroU64) -> Result<Vec<Block>, StoreError> {
        let (inner, sequence) = (self.inner.clone(), sequence.clone());
        // SQLite blocks on the disk and on other processes; the turn goes with the thread, so that leases which were given
        // up do not leave more and more threads behind.
        let turn = self.turn.clone().lock_owned().await;
        let leased = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            inner.lease(&sequence, want.get())
        })
        .await;
        match leased {
            Ok(block) => block.map(|block| vec![block]),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(self.inner.failed(ErrorKind::Unavailable, &"the runtime is shutting down")),
            },
        }
    }

    fn capacity_used(&self) -> f64 {
        f64::from_bits(self.inner.capacity_used.load(Ordering::Relaxed))
    }

    fn describe(&self) -> String {
        format!("the embedded store {}", self.inner.file.display())
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

impl Inner {
    fn lease(&self, sequence: &SequenceName, want: u64) -> Result<Block, StoreError> {
        // A panic in mid-lease leaves at most a connection whose transaction is rolled back.
        let mut slot = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let mut connection = match slot.take() {
            Some(connection) => connection,
            None => self.open()?,
        };
        let block = self.lease_on(&mut connection, sequence, want)?;
        *slot = Some(connection);
        Ok(block)
    }

    fn lease_on(&self, connection: &mut Connection, sequence: &SequenceName, want: u64) -> Result<Block, StoreError> {
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(|error| self.unavailable(&error))?;
        let row = transaction
            .prepare_cached("SELECT next_id, max_id FROM seqsvr_sequence WHERE name = ?1")
            .and_then(|mut select| {
                select
                    .query_row([sequence.as_str()], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))
                    .optional()
            })
            .map_err(|error| self.unavailable(&error))?;
        let broken = || {
            StoreError::new(
                ErrorKind::Unsafe,
                format!("{}: the row of sequence {sequence} is missing or out of range", self.file.display()),
            )
        };
        let (next_id, max_id) = row.ok_or_else(broken)?;
        let next_id = u64::try_from(next_id).map_err(|_| broken())?;
        let max_id = u64::try_from(max_id).map_err(|_| broken())?;
        let mark = self.node.high_water_mark(sequence.as_str());
        if next_id < mark {
            return Err(StoreError::new(
                ErrorKind::Unsafe,
                format!(
                    "the counter of sequence {sequence} in {} went back to {next_id}, but this node leased up to {mark} \
                     before: a restored copy. Ids could be repeated, so nothing is leased. With NEXT at least {mark}, and \
                     the same of every other process on this file, run: UPDATE seqsvr_sequence SET next_id = NEXT WHERE \
                     name = '{sequence}';",
                    self.file.display()
                ),
            ));
        }
        // The last lease may be smaller.
        let end = next_id.saturating_add(want).min(max_id.saturating_add(1));
        let Some(block) = Block::new(next_id, end) else {
            return Err(StoreError::new(
                ErrorKind::Exhausted,
                format!(
                    "sequence {sequence} is used up: its largest id {max_id} is leased. Raise max_id in the table \
                     seqsvr_sequence of {}, or go over to a new sequence",
                    self.file.display()
                ),
            ));
        };
        transaction
            .prepare_cached("UPDATE seqsvr_sequence SET next_id = ?2 WHERE name = ?1 AND next_id = ?3")
            .and_then(|mut update| {
                update.execute(params![sequence.as_str(), block.end().cast_signed(), next_id.cast_signed()])
            })
            .and_then(
                |rows| if rows == 1 { transaction.commit() } else { Err(rusqlite::Error::StatementChangedRows(rows)) },
            )
            .map_err(|error| self.unavailable(&error))?;
        #[allow(clippy::cast_precision_loss)]
        let used = block.end() as f64 / max_id as f64;
        self.capacity_used.store(used.to_bits(), Ordering::Relaxed);
        Ok(block)
    }

    fn open(&self) -> Result<Connection, StoreError> {
        let is_new = !self.file.exists();
        if is_new {
            self.node
                .check_store(None)
                .map_err(|error| StoreError::new(ErrorKind::Misconfigured, error.to_string()))?;
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
            .map_err(|error| StoreError::new(ErrorKind::Misconfigured, error.to_string()))?;
        self.node.remember_store(&store_id);
        if is_new {
            // The file's own entry must last as well as what is in it.
            let synced = self.file.parent().map_or(Ok(()), |dir| std::fs::File::open(dir)?.sync_all());
            synced.map_err(|error| self.failed(ErrorKind::Unavailable, &error))?;
            tracing::warn!(
                "made a new embedded store, {}: the ids begin at {}. If there was one before, stop and put it back",
                self.file.display(),
                self.step.get() + 1
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
            // As on MySQL's generator_table, the first id is step + 1.
            let first = self.step.get() + 1;
            transaction.execute(
                "INSERT INTO seqsvr_sequence (name, next_id, max_id) VALUES (?1, ?2, ?3)",
                params![super::DEFAULT_SEQUENCE, first.cast_signed(), DEFAULT_MAX_ID.cast_signed()],
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

#[cfg(test)]
mod tests {
    use super::*;

    fn store(dir: &Path) -> Sqlite {
        Sqlite::new(dir, Step::of(100), Arc::new(Node::forgetful()))
    }

    fn lease(store: &Sqlite, want: u64) -> Result<(u64, u64), ErrorKind> {
        let leased = store.inner.lease(&SequenceName::default(), want);
        leased.map(|block| (block.start(), block.end())).map_err(|error| error.kind)
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
        let first = Sqlite::new(dir.path(), Step::of(100), node.clone());
        lease(&first, 1).unwrap();
        let second = Sqlite::new(other.path(), Step::of(100), node);
        assert_eq!(lease(&second, 1), Err(ErrorKind::Misconfigured));
        assert!(!other.path().join(FILE).exists(), "nothing is made where it is refused");
    }

    #[test]
    fn a_counter_that_went_back_leases_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        assert_eq!(lease(&store, 10), Ok((101, 111)));
        store.inner.node.raise_high_water_mark("default", 150);
        for _ in 0..20 {
            assert_eq!(lease(&store, 10), Err(ErrorKind::Unsafe), "and it does not creep up to the mark");
        }
    }

    #[test]
    fn what_is_not_a_database_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), "not a database at all, but long enough to be read as one").unwrap();
        let error = store(dir.path()).inner.lease(&SequenceName::default(), 1).unwrap_err();
        assert!(error.what.contains("seqsvr.db"), "{error}");
    }
}
