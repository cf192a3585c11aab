//! The embedded store: counter rows in one SQLite file, which several local processes may share.
//!
//! What always holds: a lease is one transaction that takes the write lock first (`BEGIN IMMEDIATE`), and its commit is on
//! the disk before the block is published (WAL with `synchronous=FULL`, read back after setting). A file that was copied or
//! restored, or lost its `-wal`, begins a new epoch: nothing is leased from it until an operator has fenced it.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use rusqlite::types::Type;
use rusqlite::{OptionalExtension, Transaction, TransactionBehavior, params, params_from_iter};

use super::counter::{Present, Row, Verdict, stale};
use super::finding::{Expected, Finding, Pruned};
use super::guard::{Breach, REGRESSED};
use super::{
    BlockStore, Catalog, Definition, Edit, ErrorKind, Fence, Leased, Migration, Purpose, Script, StoreError, Terms,
};
use crate::config::{NewSequence, Step};
use crate::faults::{self, Guard as Switch};
use crate::name::SequenceName;
use crate::node::Node;
use crate::segment::Block;

mod examine;
mod file;
mod open;

use self::open::{Meta, Opened};

const FILE: &str = "seqsvr.db";

/// A counter's `server`, unless it is [`REGRESSED`]. The identity of the file is recorded once, for all counters.
const NO_SERVER: &str = "";

/// The epoch of a file that was never copied or restored.
const FIRST_EPOCH: u32 = 1;

/// The largest skip: a sum of two stays within SQLite's integers.
const MOST_SKIPPED: u64 = 1 << 61;

const ANOTHER_FILE: &str = "this is not the file that was leased from: it was copied, restored from a backup, or moved to another \
                            file system or machine";

const NO_WAL: &str = "its -wal is missing, and with it the last leases";

/// What to do with a file that was copied or restored.
const FENCE_FILE: &str = "Make sure that the original never serves again. Then run once, for all sequences: seqsvr fence --skip \
                          IDS --yes. IDS must be more than any sequence can have leased since the copy was made: its rate times \
                          the age of the copy, times ten, for gaps cost nothing";

/// The columns of [`row`].
const COLUMNS: &str = "name, next_id, step, max_id, server, epoch, incarnation, deleted_at IS NOT NULL, description";

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
    opened: Mutex<Option<Opened>>,
}

impl Sqlite {
    /// The file in `dir`; nothing is opened yet.
    pub fn new(dir: &Path, default: NewSequence, purpose: Purpose, node: Arc<Node>) -> Self {
        let inner = Inner { file: dir.join(FILE), default, purpose, node, opened: Mutex::new(None) };
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

    /// Writes the `-wal` into the file, so that a file which loses it lacks leases, but no sequence and no fence. A concurrent
    /// reader may prevent that.
    async fn write_back(&self) {
        let inner = self.inner.clone();
        let turn = self.turn.clone().lock_owned().await;
        let _ = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            inner.slot().as_ref().map(|opened| open::write_back(&opened.connection))
        })
        .await;
    }
}

#[async_trait]
impl BlockStore for Sqlite {
    async fn lease(&self, sequence: &SequenceName, terms: Terms, want: NonZeroU64) -> Result<Leased, StoreError> {
        let name = sequence.clone();
        let leased = self.run(move |inner, transaction| inner.lease(transaction, &name, terms, want)).await?;
        if matches!(&leased, Err(StoreError { kind: ErrorKind::Regressed, .. })) {
            // The file may be put back under us: the next lease opens it anew.
            drop(self.inner.slot().take());
        }
        leased
    }

    async fn give_back(&self, sequence: &SequenceName, terms: Terms, tail: Block) -> Result<bool, StoreError> {
        let name = sequence.clone();
        self.run(move |inner, transaction| {
            transaction
                .execute(
                    "UPDATE seqsvr_sequence SET next_id = ?1 WHERE name = ?2 AND next_id = ?3 AND incarnation = ?4 \
                     AND server = ?5 AND epoch = (SELECT epoch FROM seqsvr_meta) AND deleted_at IS NULL",
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
        // Nothing is lost if it fails: then the -wal stays.
        let _ = tokio::task::spawn_blocking(move || {
            let opened = inner.slot().take();
            opened.map(|opened| inner.close(opened))
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
        if !is_dry_run {
            self.write_back().await;
        }
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
        let mut slot = self.slot();
        // A connection to a replaced file is closed first: connections of one process share what they know of the -wal.
        let kept = slot.take().filter(|opened| opened.is_in_place(&self.file));
        let mut opened = kept.map_or_else(|| self.open(), Ok)?;
        let outcome = {
            let transaction = opened
                .connection
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
            *slot = Some(opened);
        }
        outcome
    }

    fn slot(&self) -> MutexGuard<'_, Option<Opened>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
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
        let meta = Meta::read(transaction).map_err(|error| self.unavailable(&error))?;
        if !meta.is_of(&self.identity()?) {
            // This error drops the connection, and opening the file again begins a new epoch.
            return Err(self.failed(ErrorKind::Moved, &"another file was recorded while this process had it open"));
        }
        let present = Present { server: NO_SERVER, epoch: meta.epoch };
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
        match before.verdict(terms, present, mark, want) {
            Verdict::Lease(block) => {
                set(block.end(), NO_SERVER)?;
                Ok(Ok(Leased {
                    blocks: vec![block],
                    capacity_used: Row::capacity_used(block.end(), before.max_id),
                    mark: 0,
                }))
            }
            Verdict::Exhausted => Ok(Err(before.exhausted(name, &self.describe()))),
            Verdict::Refused(Breach::NotFenced) => Ok(Err(self.not_fenced(&format!(
                "the counter of sequence {name} was last fenced in epoch {}, this is epoch {}",
                before.epoch, meta.epoch
            )))),
            Verdict::Refused(breach) => {
                // Processes that remember nothing must refuse too.
                if before.next_id < mark && !before.is_deleted {
                    set(mark, REGRESSED)?;
                }
                Ok(Err(before.refusal(breach, name, (&self.describe(), ""), present, mark)))
            }
        }
    }

    fn not_fenced(&self, what: &str) -> StoreError {
        self.failed(
            ErrorKind::NotFenced,
            &format!(
                "{what}: the file was copied, restored from a backup, moved to another file system or machine, or lost its -wal. \
                 IDs could be repeated, so nothing is leased, and sequences that were created recently may be missing. If the \
                 original still serves, do not use this copy. {FENCE_FILE}"
            ),
        )
    }

    fn edit(
        &self,
        transaction: &Transaction<'_>,
        name: &SequenceName,
        edit: &Edit,
        script: &mut Script,
    ) -> Result<bool, StoreError> {
        let meta = self.enter(transaction, script)?;
        let before = self.row(transaction, name)?;
        let present = Present { server: NO_SERVER, epoch: meta.epoch };
        let after = match edit {
            Edit::Create(new) | Edit::Declare(new) if before.is_none() => {
                let first_id = self.first_id(transaction, &meta, new, matches!(edit, Edit::Declare(_)))?;
                Edit::Create(NewSequence { first_id, ..new.clone() }).apply(name, None, present)?
            }
            _ => edit.apply(name, before.as_ref(), present)?,
        };
        if let &Edit::Fence(Fence::Skip(ids)) = edit {
            let sql = format!("UPDATE seqsvr_meta SET skip = MAX(skip, {})", ids.min(MOST_SKIPPED));
            if script.runs(|| sql.clone()) {
                transaction.execute(&sql, []).map_err(|error| self.unavailable(&error))?;
            }
        }
        if before.as_ref() == Some(&after) {
            return Ok(false);
        }
        let has_moved = before.as_ref().is_none_or(|before| after.next_id > before.next_id);
        if !script.runs(|| after.shown(name, before.is_some())) {
            return Ok(has_moved);
        }
        transaction
            .execute(
                "INSERT INTO seqsvr_sequence (name, next_id, step, max_id, server, incarnation, deleted_at, description, epoch) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, IIF(?7, CURRENT_TIMESTAMP, NULL), ?8, ?9) \
                 ON CONFLICT (name) DO UPDATE SET next_id = ?2, step = ?3, max_id = ?4, server = ?5, incarnation = ?6, \
                 deleted_at = excluded.deleted_at, description = ?8, epoch = ?9",
                params![
                    name.as_str(),
                    after.next_id.cast_signed(),
                    after.step.get().cast_signed(),
                    after.max_id.cast_signed(),
                    after.server,
                    after.incarnation,
                    after.is_deleted,
                    after.description,
                    after.epoch
                ],
            )
            .and_then(|_| transaction.execute("UPDATE seqsvr_meta SET revision = revision + 1", []))
            .map_err(|error| self.unavailable(&error))?;
        Ok(has_moved)
    }

    /// Where a sequence that is not in the file begins. A copied or restored file may lack sequences that were created
    /// recently. One that is created again must not repeat their IDs, so it begins past as many as any sequence can have lost.
    /// An operator may choose another first ID with `--first-id`.
    fn first_id(
        &self,
        transaction: &Transaction<'_>,
        meta: &Meta,
        new: &NewSequence,
        is_declared: bool,
    ) -> Result<u64, StoreError> {
        let NewSequence { name, first_id, .. } = new;
        if meta.epoch == FIRST_EPOCH || (*first_id > 1 && !is_declared) {
            return Ok(*first_id);
        }
        let is_fenced: bool = transaction
            .query_row("SELECT NOT EXISTS (SELECT 1 FROM seqsvr_sequence WHERE epoch <> ?1)", [meta.epoch], |row| {
                row.get(0)
            })
            .map_err(|error| self.unavailable(&error))?;
        if is_fenced && meta.skip > 0 {
            return Ok(first_id.saturating_add(meta.skipped));
        }
        let mut error =
            self.not_fenced(&format!("the sequence {name} is not in the file, and not all of it is fenced"));
        error.what.push_str(". Or create it past all its IDs: seqsvr sequence create NAME --first-id ID");
        Err(error)
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
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt) => {
                let what = format!(
                    "{error}. The file is damaged, or no database: restore it from a backup and run `seqsvr fence --skip IDS --yes`, \
                     or name another data_dir"
                );
                self.failed(ErrorKind::Misconfigured, &what)
            }
            _ => self.failed(ErrorKind::Unavailable, error),
        }
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
            epoch: columns.get(5)?,
            incarnation: columns.get(6)?,
            is_deleted: columns.get(7)?,
            description: columns.get(8)?,
        },
    ))
}

#[cfg(test)]
mod tests;
