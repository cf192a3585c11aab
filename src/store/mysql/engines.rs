//! How the tables are stored. A lease relies on two things: an acknowledged statement is durable, and the counter is in the
//! table. Both hold for base tables of a transactional engine whose rows are on the server that is asked.

use super::make::COUNTER_LAYOUT;
use super::{Connection, ErrorKind, Session, StoreError};
use crate::faults::{self, Guard as Switch};

/// Engines that keep their rows on another server, in upper case.
const REMOTE: [&str; 3] = ["SPIDER", "FEDERATED", "CONNECT"];

/// Transactional engines whose auto-increment values do not rise, in upper case. NDB: `ndb_autoincrement_prefetch_sz` of its manual;
/// each SQL node fetches at least 32 values at a time. `SequoiaDB`: each coordinator caches a range (`AcquireSize`).
const NOT_RISING: [&str; 3] = ["NDBCLUSTER", "NDB", "SEQUOIADB"];

/// A table as `information_schema.TABLES` and `ENGINES` describe it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored<'a> {
    pub(super) table: &'a str,
    /// `TABLE_TYPE`.
    pub(super) kind: &'a str,
    pub(super) engine: &'a str,
    /// `TRANSACTIONS` of its engine; empty if the server does not know the engine.
    pub(super) transactions: &'a str,
}

/// What is wrong with it, and what to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) found: String,
    pub(super) advice: String,
}

impl Stored<'_> {
    /// Why nothing may be leased from it; `None` if it is fine.
    pub(super) fn fault(&self) -> Option<Fault> {
        let Self { table, kind, engine, transactions } = *self;
        let is_one_of = |engines: &[&str]| engines.iter().any(|known| known.eq_ignore_ascii_case(engine));
        let convert = format!("ALTER TABLE {table} ENGINE=InnoDB");
        let (found, advice) = if !["BASE TABLE", "SYSTEM VERSIONED"].contains(&kind) {
            let found = format!("it is a {}, not a base table", kind.to_ascii_lowercase());
            (found, "replace it with a base table of InnoDB that has its rows".to_owned())
        } else if is_one_of(&REMOTE) {
            let found = format!("its engine is {engine}, which keeps the rows on another server");
            (found, "name that server in mysql.host".to_owned())
        } else if !transactions.eq_ignore_ascii_case("YES") {
            let engine = if engine.is_empty() { "unknown" } else { engine };
            let found = format!(
                "its engine is {engine}, which has no transactions: a crash may lose leases, and IDs would be repeated"
            );
            (found, convert)
        } else if table == "generator_table" && is_one_of(&NOT_RISING) {
            let found = format!("its engine is {engine}, whose auto-increment values are unique but not rising");
            (found, format!("{convert}, on one server for all nodes. Or: {COUNTER_LAYOUT}"))
        } else {
            return None;
        };
        Some(Fault { found, advice })
    }

    /// Whether `innodb_flush_log_at_trx_commit` says how durable it is.
    pub(super) fn is_innodb(&self) -> bool {
        self.engine.eq_ignore_ascii_case("InnoDB")
    }
}

/// Refuses tables from which nothing may be leased. With `mysql.require_durable`, also those whose durability is not checked.
pub(super) async fn check(session: &mut Session<'_, impl Connection>) -> Result<(), StoreError> {
    if faults::is_off(Switch::Engine) {
        return Ok(());
    }
    let tables: Vec<(String, String, String, String)> = session
        .rows(
            "SELECT TABLE_NAME, COALESCE(TABLE_TYPE, ''), COALESCE(t.ENGINE, ''), COALESCE(TRANSACTIONS, '') \
             FROM information_schema.TABLES t LEFT JOIN information_schema.ENGINES e ON e.ENGINE = t.ENGINE \
             WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME IN ('generator_table', 'seqsvr_meta', 'seqsvr_sequence')",
        )
        .await?;
    for (table, kind, engine, transactions) in &tables {
        let stored = Stored { table, kind, engine, transactions };
        if let Some(Fault { found, advice }) = stored.fault() {
            let what = format!("{}: the table {table} can't be used: {found}. To fix it: {advice}", session.at());
            return Err(StoreError::new(ErrorKind::Misconfigured, what));
        }
        if session.server.requires_durable() && !stored.is_innodb() {
            let what = format!(
                "{}: the table {table} has the engine {engine}. Only InnoDB's durability is checked, and mysql.require_durable is \
                 set. To fix it: ALTER TABLE {table} ENGINE=InnoDB",
                session.at()
            );
            return Err(StoreError::new(ErrorKind::NotDurable, what));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(table: &str, kind: &str, engine: &str, transactions: &str) -> Option<String> {
        let fault = Stored { table, kind, engine, transactions }.fault()?;
        Some(format!("{} -> {}", fault.found, fault.advice))
    }

    #[test]
    fn transactional_base_tables_are_fine() {
        for (table, kind, engine) in [
            ("generator_table", "BASE TABLE", "InnoDB"),
            ("generator_table", "SYSTEM VERSIONED", "InnoDB"),
            ("generator_table", "BASE TABLE", "ROCKSDB"),
            ("seqsvr_sequence", "BASE TABLE", "ndbcluster"),
        ] {
            assert_eq!(fault(table, kind, engine, "YES"), None, "{table} {kind} {engine}");
        }
    }

    #[test]
    fn each_fault_is_named_with_what_to_do() {
        let base = "BASE TABLE";
        for (table, kind, engine, transactions, words) in [
            ("generator_table", base, "MyISAM", "NO", &["MyISAM", "ALTER TABLE generator_table ENGINE=InnoDB"][..]),
            ("seqsvr_meta", base, "MEMORY", "NO", &["MEMORY", "ALTER TABLE seqsvr_meta ENGINE=InnoDB"]),
            ("seqsvr_sequence", base, "Aria", "NO", &["Aria", "no transactions"]),
            ("seqsvr_sequence", base, "BLACKHOLE", "NO", &["BLACKHOLE"]),
            ("seqsvr_sequence", base, "", "", &["unknown"]),
            ("seqsvr_sequence", base, "ROCKSDB", "", &["ROCKSDB", "no transactions"]),
            ("generator_table", "VIEW", "", "", &["it is a view", "base table of InnoDB"]),
            ("generator_table", "SEQUENCE", "InnoDB", "YES", &["it is a sequence"]),
            ("generator_table", base, "ndbcluster", "YES", &["not rising", "counter layout"]),
            ("generator_table", base, "SEQUOIADB", "YES", &["not rising"]),
            ("seqsvr_sequence", base, "SPIDER", "YES", &["another server", "mysql.host"]),
            ("seqsvr_meta", base, "FEDERATED", "YES", &["another server"]),
        ] {
            let told = fault(table, kind, engine, transactions).unwrap_or_else(|| panic!("{table} {kind} {engine}"));
            for word in words {
                assert!(told.contains(word), "no '{word}' in {told}");
            }
        }
    }
}
