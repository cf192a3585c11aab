//! Opening the file: it is created if that is allowed, set to be durable, checked to be the one that was leased from, and
//! closed so that the next opening knows that nothing is missing.
//!
//! The last leases are in the `-wal`. Without it the file is old but looks complete. So the file itself says whether there
//! must be one (`seqsvr_meta.wal`):
//!
//! - 0: closed cleanly, everything is in the file. Only a connection that has locked out all others writes a 0.
//! - 1: the `-wal` has begun. Nothing is leased yet.
//! - 2: a checkpoint has written the 1 into the file, so that a file with leases in its `-wal` never says 0.
//!
//! A connection that is only dropped leaves the `-wal` where it is.

use std::sync::Once;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior, params};

use super::super::{ErrorKind, Purpose, Script, StoreError};
use super::file::{self, FileSystem, Identity};
use super::{ANOTHER_FILE, Inner, MOST_SKIPPED, NO_WAL};
use crate::faults::{self, Guard as Switch};
use crate::node;

/// How long another process may hold the file: far longer than a commit takes, shorter than a lease may.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two tries of what SQLite does not wait for.
const PAUSE: Duration = Duration::from_millis(10);

/// The layout below; a file with another number was written by another version.
pub(super) const SCHEMA_VERSION: i64 = 3;

// STRICT: without it a counter near 2^63 turns into a float.
const SCHEMA: &str = "
CREATE TABLE seqsvr_meta (
  store_id TEXT    NOT NULL,
  revision INTEGER NOT NULL DEFAULT 1,  -- +1 whenever a sequence is created, altered, advanced or deleted
  server   TEXT    NOT NULL DEFAULT '', -- the identity of the file that was leased from; a copy has another one
  epoch    INTEGER NOT NULL DEFAULT 1,  -- +1 whenever the file is found to be another one, or without its -wal
  wal      INTEGER NOT NULL DEFAULT 0,  -- 0: closed cleanly; 1: the -wal has begun; 2: leases may be in the -wal
  skipped  INTEGER NOT NULL DEFAULT 0,  -- IDs that the fences of earlier epochs skipped
  skip     INTEGER NOT NULL DEFAULT 0   -- IDs that the fences of this epoch skipped; new sequences begin past both
) STRICT;
CREATE TABLE seqsvr_sequence (
  name        TEXT    NOT NULL PRIMARY KEY,
  next_id     INTEGER NOT NULL,            -- the first ID that no lease covers
  step        INTEGER NOT NULL,            -- IDs of the smallest block
  max_id      INTEGER NOT NULL,            -- the largest ID
  server      TEXT    NOT NULL DEFAULT '', -- 'regressed' if a process found next_id below what it had leased
  incarnation INTEGER NOT NULL DEFAULT 1,  -- +1 when it is advanced, or created again
  deleted_at  TEXT,                        -- a tombstone: created again, it goes on from next_id
  description TEXT    NOT NULL DEFAULT '',
  created_at  TEXT    NOT NULL DEFAULT CURRENT_TIMESTAMP,
  epoch       INTEGER NOT NULL DEFAULT 1   -- the epoch in which it was last fenced
) STRICT, WITHOUT ROWID;
";

/// From version 2, which did not recognise copies: the file counts as the one that was leased from.
const UPGRADE_2: &str = "
ALTER TABLE seqsvr_meta ADD COLUMN server TEXT NOT NULL DEFAULT '';
ALTER TABLE seqsvr_meta ADD COLUMN epoch INTEGER NOT NULL DEFAULT 1;
ALTER TABLE seqsvr_meta ADD COLUMN wal INTEGER NOT NULL DEFAULT 0;
ALTER TABLE seqsvr_meta ADD COLUMN skipped INTEGER NOT NULL DEFAULT 0;
ALTER TABLE seqsvr_meta ADD COLUMN skip INTEGER NOT NULL DEFAULT 0;
ALTER TABLE seqsvr_sequence ADD COLUMN epoch INTEGER NOT NULL DEFAULT 1;
";

/// The row of `seqsvr_meta`.
#[derive(Clone, Debug)]
pub(super) struct Meta {
    pub(super) store_id: String,
    /// The [`Identity`] of the file that was leased from.
    pub(super) server: String,
    pub(super) epoch: u32,
    wal: i64,
    /// How far new sequences begin past their first ID: one that is missing may have leased as much.
    pub(super) skipped: u64,
    /// The part of that which belongs to the present epoch.
    pub(super) skip: u64,
}

impl Meta {
    pub(super) fn read(connection: &Connection) -> rusqlite::Result<Self> {
        connection
            .prepare_cached("SELECT store_id, server, epoch, wal, skipped + skip, skip FROM seqsvr_meta")?
            .query_row([], |row| {
                Ok(Self {
                    store_id: row.get(0)?,
                    server: row.get(1)?,
                    epoch: row.get(2)?,
                    wal: row.get(3)?,
                    skipped: row.get::<_, i64>(4)?.cast_unsigned(),
                    skip: row.get::<_, i64>(5)?.cast_unsigned(),
                })
            })
    }

    /// Whether leases may be lost with a missing `-wal`. Call it in a transaction that has written nothing.
    pub(super) fn lacks_wal(&self, file: &std::path::Path) -> bool {
        self.wal > 0 && !file::is_wal_used(file) && !faults::is_off(Switch::File)
    }

    /// Whether `found` is the file that was leased from.
    pub(super) fn is_of(&self, found: &Identity) -> bool {
        found.is(&self.server) || faults::is_off(Switch::File)
    }
}

/// An open file.
pub(super) struct Opened {
    pub(super) connection: Connection,
    identity: Identity,
    wal: Option<u64>,
}

impl Opened {
    /// Whether the files are still those that were opened. SQLite would go on with files that were replaced or deleted.
    pub(super) fn is_in_place(&self, file: &std::path::Path) -> bool {
        let is_same = || Identity::of(file).as_ref() == Some(&self.identity) && file::wal_inode(file) == self.wal;
        faults::is_off(Switch::File) || is_same()
    }
}

impl Inner {
    pub(super) fn open(&self) -> Result<Opened, StoreError> {
        let is_new = !self.file.exists();
        if is_new && self.purpose != Purpose::Serve {
            let what = format!("there is no {} yet. Start a server, or make a sequence", self.file.display());
            return Err(StoreError::new(ErrorKind::Misconfigured, what));
        }
        self.check_file_system()?;
        if is_new {
            self.node.check_store(None).map_err(|error| StoreError::new(ErrorKind::OtherStore, error.to_string()))?;
        }
        self.check_access()?;
        let mut connection = Connection::open(&self.file).map_err(|error| self.unavailable(&error))?;
        if let Some(dir) = self.file.parent().filter(|_| is_new) {
            // SQLite gives the files beside it to the same owner.
            node::give_to_owner(dir, &self.file);
        }
        set_up(&connection).map_err(|error| self.unavailable(&error))?;
        let store_id = self.prepare(&mut connection)?;
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
        Ok(Opened { connection, identity: self.identity()?, wal: file::wal_inode(&self.file) })
    }

    /// Says whose the file is if it can't be read and written. It is not opened for that: its closing would drop the locks that
    /// another connection of this process holds on it.
    fn check_access(&self) -> Result<(), StoreError> {
        let access = rustix::fs::access(&self.file, rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK);
        match access.map_err(std::io::Error::from) {
            Err(why) if why.kind() == std::io::ErrorKind::PermissionDenied => {
                let what = format!(
                    "the embedded store {}: {why}{}. Make it writable for this user",
                    self.file.display(),
                    node::owners(&self.file, &why)
                );
                Err(StoreError::new(ErrorKind::Misconfigured, what))
            }
            _ => Ok(()),
        }
    }

    /// Refuses a network file system, and warns once about FUSE.
    fn check_file_system(&self) -> Result<(), StoreError> {
        static WARNED: Once = Once::new();
        let dir = self.file.parent().unwrap_or(&self.file);
        match FileSystem::of(dir) {
            Ok(FileSystem::Local) => Ok(()),
            Ok(FileSystem::Fuse) => {
                WARNED.call_once(|| {
                    tracing::warn!("{} is on a FUSE file system: {}", self.file.display(), file::ON_FUSE);
                });
                Ok(())
            }
            Ok(FileSystem::Network(name)) => {
                let what = format!("{} is on {name}: {}", self.file.display(), file::NO_NETWORK);
                Err(StoreError::new(ErrorKind::Misconfigured, what))
            }
            Err(error) => Err(self.failed(ErrorKind::Unavailable, &error)),
        }
    }

    /// The identity of the file that is there now.
    pub(super) fn identity(&self) -> Result<Identity, StoreError> {
        Identity::of(&self.file).ok_or_else(|| self.failed(ErrorKind::Unavailable, &"the file is gone"))
    }

    /// Creates or upgrades the tables, begins a new epoch if that is due, and prepares the `-wal` for leases. Returns the
    /// store's ID.
    fn prepare(&self, connection: &mut Connection) -> Result<String, StoreError> {
        let unavailable = |error| self.unavailable(&error);
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(unavailable)?;
        let version = transaction.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(unavailable)?;
        match version {
            0_i64 => self.create(&transaction)?,
            2 => self.upgrade(&transaction)?,
            SCHEMA_VERSION => {}
            _ => {
                let what = format!(
                    "{} was written by another version of seqsvr: use that, or another data_dir",
                    self.file.display()
                );
                return Err(StoreError::new(ErrorKind::Misconfigured, what));
            }
        }
        let mut meta = if self.purpose == Purpose::Serve {
            self.enter(&transaction, &mut Script::default())?
        } else {
            Meta::read(&transaction).map_err(unavailable)?
        };
        if meta.wal == 0 {
            transaction.execute("UPDATE seqsvr_meta SET wal = 1", []).map_err(unavailable)?;
            meta.wal = 1;
        }
        transaction.commit().map_err(unavailable)?;
        if meta.wal == 1 {
            checkpoint(connection).map_err(unavailable)?;
            connection.execute("UPDATE seqsvr_meta SET wal = 2 WHERE wal = 1", []).map_err(unavailable)?;
        }
        Ok(meta.store_id)
    }

    fn create(&self, transaction: &Transaction<'_>) -> Result<(), StoreError> {
        let identity = self.identity()?;
        let new = &self.default;
        transaction
            .execute_batch(SCHEMA)
            .and_then(|()| {
                let store_id = uuid::Uuid::new_v4().to_string();
                transaction
                    .execute("INSERT INTO seqsvr_meta (store_id, server) VALUES (?1, ?2)", [&store_id, identity.as_str()])
            })
            .and_then(|_| {
                transaction.execute(
                    "INSERT INTO seqsvr_sequence (name, next_id, step, max_id, description) VALUES (?1, ?2, ?3, ?4, ?5)",
                    params![
                        new.name.as_str(),
                        new.first_id.cast_signed(),
                        new.step.get().cast_signed(),
                        new.max_id.cast_signed(),
                        new.description
                    ],
                )
            })
            .and_then(|_| transaction.pragma_update(None, "user_version", SCHEMA_VERSION))
            .map_err(|error| self.unavailable(&error))
    }

    fn upgrade(&self, transaction: &Transaction<'_>) -> Result<(), StoreError> {
        let identity = self.identity()?;
        transaction
            .execute_batch(UPGRADE_2)
            .and_then(|()| transaction.execute("UPDATE seqsvr_meta SET server = ?1", [identity.as_str()]))
            .and_then(|_| transaction.pragma_update(None, "user_version", SCHEMA_VERSION))
            .map_err(|error| self.unavailable(&error))
    }

    /// Begins a new epoch if the file is not the one that was leased from, or lacks its `-wal`. Call it before `transaction`
    /// writes anything.
    pub(super) fn enter(&self, transaction: &Transaction<'_>, script: &mut Script) -> Result<Meta, StoreError> {
        let meta = Meta::read(transaction).map_err(|error| self.unavailable(&error))?;
        let identity = self.identity()?;
        let why = match (meta.is_of(&identity), meta.lacks_wal(&self.file)) {
            (true, false) => return Ok(meta),
            (false, _) => ANOTHER_FILE,
            (true, true) => NO_WAL,
        };
        let epoch = meta.epoch + 1;
        let sql = format!(
            "UPDATE seqsvr_meta SET epoch = {epoch}, server = '{}', skipped = MIN(skipped + skip, {MOST_SKIPPED}), skip = 0",
            identity.as_str()
        );
        if script.runs(|| sql.clone()) {
            transaction.execute(&sql, []).map_err(|error| self.unavailable(&error))?;
            tracing::warn!("{}: {why}. Each sequence must be fenced (epoch {epoch})", self.describe());
        }
        Ok(Meta { epoch, server: identity.as_str().to_owned(), skip: 0, ..meta })
    }

    /// Closes the file so that everything is in it, if no other process has it open.
    pub(super) fn close(&self, opened: Opened) -> rusqlite::Result<()> {
        if !opened.is_in_place(&self.file) {
            return Ok(());
        }
        let mut connection = opened.connection;
        connection.busy_timeout(Duration::ZERO)?;
        // The next transaction locks all others out, or fails.
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if Meta::read(&transaction)?.lacks_wal(&self.file) {
            return Ok(());
        }
        transaction.execute("UPDATE seqsvr_meta SET wal = 0", [])?;
        transaction.commit()?;
        // SQLite then writes the -wal into the file and deletes it.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
        connection.close().map_err(|(_, error)| error)
    }
}

/// Sets the connection up to be durable, and reads the settings back.
fn set_up(connection: &Connection) -> rusqlite::Result<()> {
    // If only a clean close deletes the -wal, a missing one shows that something was lost.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    let journal: String = patiently(|| connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // In KiB: a lease touches two rows.
    connection.pragma_update(None, "cache_size", -256)?;
    let synchronous: i64 = connection.pragma_query_value(None, "synchronous", |row| row.get(0))?;
    if !journal.eq_ignore_ascii_case("wal") || synchronous != 2 {
        let what = format!("it does not keep what is durable: journal_mode={journal}, synchronous={synchronous}");
        return Err(failure(rusqlite::ffi::SQLITE_ERROR, what));
    }
    Ok(())
}

/// Writes all of the `-wal` into the file.
fn checkpoint(connection: &Connection) -> rusqlite::Result<()> {
    patiently(|| {
        let is_busy: bool = connection.query_row("PRAGMA wal_checkpoint(FULL)", [], |row| row.get(0))?;
        let what = "another program reads it and keeps the -wal from being written back";
        if is_busy { Err(failure(rusqlite::ffi::SQLITE_BUSY, what.to_owned())) } else { Ok(()) }
    })
}

/// Tries again what SQLite does not wait for by itself: another one's checkpoint, or change of the journal mode.
fn patiently<T>(mut work: impl FnMut() -> rusqlite::Result<T>) -> rusqlite::Result<T> {
    let until = Instant::now() + BUSY_TIMEOUT;
    loop {
        match work() {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && Instant::now() < until => {
                std::thread::sleep(PAUSE);
            }
            outcome => return outcome,
        }
    }
}

/// Writes as much of the `-wal` into the file as others allow at once.
pub(super) fn write_back(connection: &Connection) -> rusqlite::Result<()> {
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
}

fn failure(code: i32, what: String) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), Some(what))
}
