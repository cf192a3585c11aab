//! The embedded store: counter rows in one SQLite file, which several local processes may share.
//!
//! What always holds: a lease is one transaction that takes the write lock first (`BEGIN IMMEDIATE`), and its commit is
//! on the disk before the block is published (WAL with `synchronous=FULL`, read back after setting). A *copied* file
//! can't be told from the original: both then hand out the same ids.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params, params_from_iter};

use super::counter::{Present, Row, Verdict, stale};
use super::finding::{Expected, Finding, Pruned};
use super::guard::REGRESSED;
use super::{BlockStore, Catalog, Definition, Edit, ErrorKind, Leased, Migration, Purpose, Script, StoreError, Terms};
use crate::config::{NewSequence, Step};
use crate::faults::{self, Guard as Switch};
use crate::name::SequenceName;
use crate::node::Node;
use crate::segment::Block;

mod examine;
mod open;

const FILE: &str = "seqsvr.db";

/// A file has no server whose identity could change.
const NO_SERVER: &str = "";

/// A file has one epoch.
const PRESENT: Present<'static> = Present { server: NO_SERVER, epoch: 1 };

const MOVED: &str = "The file was copied or restored";

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
    purpose: Purpose,
    node: Arc<Node>,
    /// Opened by whoever comes first, and again after an error.
    connection: Mutex<Option<Connection>>,
}

impl Sqlite {
    /// The file in `dir`; nothing is opened yet.
    pub fn new(dir: &Path, default: NewSequence, purpose: Purpose, node: Arc<Node>) -> Self {
        let inner = Inner { file: dir.join(FILE), default, purpose, node, connection: Mutex::new(None) };
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
        match before.verdict(terms, PRESENT, mark, want) {
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
                Ok(Err(before.refusal(breach, name, (&self.describe(), MOVED), PRESENT, mark)))
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
        let after = edit.apply(name, before.as_ref(), PRESENT)?;
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
            epoch: PRESENT.epoch,
            incarnation: columns.get(5)?,
            is_deleted: columns.get(6)?,
            description: columns.get(7)?,
        },
    ))
}

#[cfg(test)]
mod tests;
