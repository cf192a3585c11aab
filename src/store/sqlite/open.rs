//! Opening the file: it is made where it may be, set to be durable, and looked at.

use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior, params};

use super::super::{ErrorKind, Purpose, StoreError};
use super::Inner;

/// How long another process may hold the file: far longer than a commit takes, shorter than a lease may.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The layout below; a file with another number was written by another version.
pub(super) const SCHEMA_VERSION: i64 = 2;

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

impl Inner {
    pub(super) fn open(&self) -> Result<Connection, StoreError> {
        let is_new = !self.file.exists();
        if is_new && self.purpose != Purpose::Serve {
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
}
