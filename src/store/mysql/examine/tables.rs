//! The tables: whether they are there, are as their DDL says, and what the account may do with them.

use super::super::super::finding::Finding;
use super::super::database::{CREATE_GENERATOR_TABLE, CREATE_META, CREATE_SEQUENCE};
use super::super::engines::{Fault, Stored};
use super::super::ticket::largest;
use super::super::{Session, StoreError};
use super::{Answer, Line, ask, first, text};

pub(super) const GENERATOR: &str = "generator_table";
pub(super) const META: &str = "seqsvr_meta";
pub(super) const SEQUENCE: &str = "seqsvr_sequence";

/// A privilege, a statement that needs it, and whether a node leases nothing without.
type Need = (&'static str, &'static str, bool);

/// The tables: what makes them, and what a node does with them.
const TABLES: [(&str, &str, &[Need]); 3] = [
    (
        GENERATOR,
        CREATE_GENERATOR_TABLE,
        &[
            ("SELECT", "SELECT id FROM generator_table WHERE id = 0", true),
            ("INSERT", "INSERT INTO generator_table (uuid) VALUES ('')", true),
            ("UPDATE", "UPDATE generator_table SET id = id WHERE id = 0", false),
            ("DELETE", "DELETE FROM generator_table WHERE id = 0", false),
        ],
    ),
    (
        META,
        CREATE_META,
        &[
            ("SELECT", "SELECT id FROM seqsvr_meta WHERE id = 0", true),
            ("INSERT", "INSERT INTO seqsvr_meta (id) VALUES (0)", false),
            ("UPDATE", "UPDATE seqsvr_meta SET id = id WHERE id = 0", false),
        ],
    ),
    (
        SEQUENCE,
        CREATE_SEQUENCE,
        &[
            ("SELECT", "SELECT name FROM seqsvr_sequence WHERE name = ''", true),
            ("INSERT", "INSERT INTO seqsvr_sequence (name) VALUES ('')", false),
            ("UPDATE", "UPDATE seqsvr_sequence SET name = name WHERE name = ''", true),
        ],
    ),
];

/// The columns that must tell rows apart, each alone.
const UNIQUE: [(&str, &str); 4] = [(GENERATOR, "id"), (GENERATOR, "uuid"), (META, "id"), (SEQUENCE, "name")];

/// What was found.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// `CURRENT_USER()` and `DATABASE()`.
    account: (String, String),
    /// `TABLE_NAME`, `TABLE_TYPE`, `ENGINE`, `TRANSACTIONS` of the engine, and `age`: the seconds since the table was made.
    tables: Answer<Vec<Line>>,
    /// As `information_schema.COLUMNS` has them.
    columns: Answer<Vec<Line>>,
    /// Of indexes: the unique ones of a single column, `TABLE_NAME` and `COLUMN_NAME`.
    unique: Answer<Vec<Line>>,
    /// The triggers that the account may see: `TRIGGER_NAME` and the `TABLE_NAME` that it is on.
    triggers: Answer<Vec<Line>>,
    /// What the account may not do: the table, the privilege, and whether a lease needs it.
    denied: Vec<(&'static str, &'static str, bool)>,
    /// Why it could not be found out whether it may.
    unknown: Option<String>,
}

const OF_OURS: &str = "WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME IN ('generator_table', 'seqsvr_meta', \
     'seqsvr_sequence', 'generator_table_moved')";

impl Facts {
    pub(super) async fn ask(session: &mut Session<'_>) -> Result<Self, StoreError> {
        let account = first(ask(session, "SELECT CURRENT_USER() AS user, DATABASE() AS db").await?);
        let account = account.ok().flatten().unwrap_or_default();
        let tables = format!(
            "SELECT TABLE_NAME AS table_name, TABLE_TYPE AS table_type, t.ENGINE AS engine, TRANSACTIONS AS transactions, \
             TIMESTAMPDIFF(SECOND, CREATE_TIME, NOW()) AS age FROM information_schema.TABLES t \
             LEFT JOIN information_schema.ENGINES e ON e.ENGINE = t.ENGINE {OF_OURS}"
        );
        let columns = format!(
            "SELECT TABLE_NAME AS table_name, COLUMN_NAME AS column_name, COLUMN_TYPE AS column_type, EXTRA AS extra, \
             COLLATION_NAME AS collation_name FROM information_schema.COLUMNS {OF_OURS}"
        );
        let unique = format!(
            "SELECT TABLE_NAME AS table_name, MIN(COLUMN_NAME) AS column_name FROM information_schema.STATISTICS \
             {OF_OURS} AND NON_UNIQUE = 0 GROUP BY TABLE_NAME, INDEX_NAME HAVING COUNT(*) = 1"
        );
        let triggers = "SELECT EVENT_OBJECT_TABLE AS table_name, TRIGGER_NAME AS trigger_name FROM information_schema.TRIGGERS \
             WHERE EVENT_OBJECT_SCHEMA = DATABASE() AND EVENT_OBJECT_TABLE IN ('generator_table', 'seqsvr_meta', \
             'seqsvr_sequence')";
        let mut facts = Self {
            account: (text(&account, "user").to_owned(), text(&account, "db").to_owned()),
            tables: ask(session, &tables).await?,
            columns: ask(session, &columns).await?,
            unique: ask(session, &unique).await?,
            triggers: ask(session, triggers).await?,
            denied: Vec::new(),
            unknown: None,
        };
        for (table, _, statements) in TABLES {
            for (privilege, statement, is_needed) in statements {
                // EXPLAIN asks for what the statement would, and does not run it.
                match ask(session, &format!("EXPLAIN {statement}")).await? {
                    Err(why) if why.starts_with("error 1142:") || why.starts_with("error 1143:") => {
                        facts.denied.push((table, privilege, *is_needed));
                    }
                    // No such table or column: other rows tell.
                    Err(why) if why.starts_with("error 1146:") || why.starts_with("error 1054:") => {}
                    Err(why) => facts.unknown = Some(why),
                    Ok(_) => {}
                }
            }
        }
        Ok(facts)
    }

    /// Whether the table is there; one that can't be seen is not.
    pub(super) fn has(&self, table: &str) -> bool {
        self.table(table).is_some()
    }

    fn table(&self, name: &str) -> Option<&Line> {
        self.tables.as_ref().ok()?.iter().find(|line| text(line, "table_name") == name)
    }

    /// The seconds since the table was made.
    pub(super) fn age(&self, table: &str) -> Option<u64> {
        super::number(self.table(table)?, "age")
    }

    fn column(&self, table: &str, column: &str) -> Option<&Line> {
        let columns = self.columns.as_ref().ok()?;
        columns.iter().find(|line| text(line, "table_name") == table && text(line, "column_name") == column)
    }

    /// The largest value of `generator_table.id`.
    pub(super) fn last_ticket(&self) -> Option<u64> {
        largest(text(self.column(GENERATOR, "id")?, "column_type"))
    }

    pub(super) fn judge(&self) -> Vec<Finding> {
        let mut findings = vec![self.privileges()];
        for (what, answer) in [("tables", &self.tables), ("columns", &self.columns), ("indexes", &self.unique)] {
            if let Err(why) = answer {
                findings.push(Finding::unreadable(what, why, "the definitions were not looked at"));
                return findings;
            }
        }
        // What is missing, the state tells.
        let there = TABLES.iter().filter(|(table, ..)| self.has(table));
        findings.extend(there.map(|(table, ddl, _)| self.definition(table, ddl)));
        findings.extend(self.triggers.iter().flatten().map(trigger));
        findings
    }

    fn privileges(&self) -> Finding {
        const WHAT: &str = "privileges";
        let (user, database) = &self.account;
        if let Some(why) = &self.unknown {
            return Finding::unreadable(WHAT, why, "what the account may do could not be found out");
        }
        if self.denied.is_empty() {
            return Finding::ok(WHAT, format!("{user} may do all that is needed"));
        }
        let missing: Vec<String> =
            self.denied.iter().map(|(table, privilege, _)| format!("{privilege} on {table}")).collect();
        let (name, host) = user.rsplit_once('@').unwrap_or((user, "%"));
        let advice = format!(
            "as an administrator: GRANT SELECT, INSERT, UPDATE, DELETE ON `{database}`.* TO '{name}'@'{host}';"
        );
        let found = format!("{user} lacks {}", missing.join(", "));
        // A table that is not there yet, like that of named sequences, is not to be seen either.
        if self.denied.iter().any(|(table, _, is_needed)| *is_needed && (self.has(table) || *table != SEQUENCE)) {
            Finding::fail(WHAT, found, advice)
        } else {
            Finding::warn(WHAT, found, advice)
        }
    }

    fn definition(&self, table: &str, ddl: &str) -> Finding {
        let what = format!("table {table}");
        let mut wrong = Vec::new();
        let line = self.table(table).cloned().unwrap_or_default();
        let stored = Stored {
            table,
            kind: text(&line, "table_type"),
            engine: text(&line, "engine"),
            transactions: text(&line, "transactions"),
        };
        if let Some(Fault { found, advice }) = stored.fault() {
            return Finding::fail(&what, found, advice);
        }
        for (column, wanted) in columns(ddl) {
            let Some(line) = self.column(table, column) else {
                wrong.push(format!("the column {column} {wanted} is missing"));
                continue;
            };
            let found = text(line, "column_type");
            if !holds(found, &wanted) {
                wrong.push(format!("the column {column} is {found}, not {wanted}"));
            }
            if (table, column) == (SEQUENCE, "name") && !text(line, "collation_name").ends_with("_bin") {
                wrong.push("the column name takes upper and lower case for the same: it must be ascii_bin".to_owned());
            }
            if (table, column) == (GENERATOR, "id") && !text(line, "extra").to_lowercase().contains("auto_increment") {
                wrong.push("the column id has no AUTO_INCREMENT".to_owned());
            }
        }
        let unique = self.unique.as_ref().map_or(&[][..], Vec::as_slice);
        let is_unique = |column: &str| {
            unique.iter().any(|line| text(line, "table_name") == table && text(line, "column_name") == column)
        };
        let twice = UNIQUE.iter().filter(|(of, column)| *of == table && !is_unique(column));
        wrong.extend(twice.map(|(_, column)| format!("the column {column} has no unique index")));
        if wrong.is_empty() && !stored.is_innodb() {
            let found = format!("its engine is {}, whose durability is not checked", stored.engine);
            Finding::warn(&what, found, format!("ALTER TABLE {table} ENGINE=InnoDB"))
        } else if wrong.is_empty() {
            Finding::ok(&what, "as it should be")
        } else {
            Finding::fail(&what, wrong.join("; "), format!("ALTER TABLE {table}, to be as: {}", on_one_line(ddl)))
        }
    }
}

/// A trigger on one of our tables. Leases work, but an UPDATE that runs it reports no ID.
fn trigger(line: &Line) -> Finding {
    let (table, name) = (text(line, "table_name"), text(line, "trigger_name"));
    let found = format!("{name} runs with each lease; one on {SEQUENCE} makes a lease four statements instead of one");
    Finding::warn(&format!("trigger on {table}"), found, format!("DROP TRIGGER {name}, and restart the nodes"))
}

/// The columns of a DDL of ours: the name, and the type in lower case.
fn columns(ddl: &str) -> impl Iterator<Item = (&str, String)> {
    ddl.lines().filter(|line| line.starts_with("  ")).filter_map(|line| {
        let mut words = line.split_whitespace();
        let (name, kind) = (words.next()?.trim_matches('`'), words.next()?.to_ascii_lowercase());
        let is_unsigned = words.next().is_some_and(|word| word.eq_ignore_ascii_case("unsigned"));
        let is_key = ["PRIMARY", "UNIQUE", "KEY"].contains(&name);
        (!is_key).then(|| (name, if is_unsigned { kind + " unsigned" } else { kind }))
    })
}

/// Whether a column of the type `found` takes all that one of `wanted` does.
fn holds(found: &str, wanted: &str) -> bool {
    let texts = |kind: &str| {
        let (name, length) = kind.split_once('(')?;
        let length: u32 = length.split(')').next()?.parse().ok()?;
        ["char", "varchar"].contains(&name).then_some(length)
    };
    match (largest(wanted), texts(wanted)) {
        // `int(11)` is a text's length to nobody.
        (Some(wanted), _) => largest(found).is_some_and(|found| found >= wanted),
        (_, Some(wanted)) => texts(found).is_some_and(|found| found >= wanted),
        _ => found.split('(').next() == Some(wanted),
    }
}

/// Without the comments.
fn on_one_line(ddl: &str) -> String {
    let lines = ddl.lines().map(|line| line.split("-- ").next().unwrap_or_default().trim());
    lines.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::super::super::finding::Verdict;
    use super::*;

    fn lines(rows: &[&[(&str, &str)]]) -> Vec<Line> {
        let line = |row: &&[(&str, &str)]| row.iter().map(|(name, text)| ((*name).into(), (*text).into())).collect();
        rows.iter().map(line).collect()
    }

    /// What a database has whose tables were made by our DDL.
    fn healthy() -> Facts {
        let mut columns_found = Vec::new();
        for (table, ddl, _) in TABLES {
            for (column, kind) in columns(ddl) {
                let row: &[(&str, &str)] = &[
                    ("table_name", table),
                    ("column_name", column),
                    ("column_type", &kind),
                    ("collation_name", "ascii_bin"),
                    ("extra", if column == "id" { "auto_increment" } else { "" }),
                ];
                columns_found.extend(lines(&[row]));
            }
        }
        let tables = TABLES.map(|(table, ..)| {
            let stored = [("table_type", "BASE TABLE"), ("engine", "InnoDB"), ("transactions", "YES")];
            [("table_name", table), ("age", "60"), stored[0], stored[1], stored[2]]
        });
        let unique = UNIQUE.map(|(table, column)| [("table_name", table), ("column_name", column)]);
        Facts {
            account: ("ids@%".into(), "sequence".into()),
            tables: Ok(lines(&tables.each_ref().map(<[_; 5]>::as_slice))),
            columns: Ok(columns_found),
            unique: Ok(lines(&unique.each_ref().map(<[_; 2]>::as_slice))),
            triggers: Ok(Vec::new()),
            denied: Vec::new(),
            unknown: None,
        }
    }

    fn row(facts: &Facts, what: &str) -> Finding {
        facts.judge().into_iter().find(|finding| finding.what == what).unwrap()
    }

    #[test]
    fn the_ddl_tells_the_columns() {
        let of = |ddl| columns(ddl).map(|(name, kind)| format!("{name} {kind}")).collect::<Vec<_>>();
        assert_eq!(of(CREATE_GENERATOR_TABLE), ["id int(11)", "uuid char(36)"]);
        assert!(of(CREATE_META).contains(&"first_ticket bigint unsigned".to_owned()));
        assert!(of(CREATE_SEQUENCE).contains(&"deleted_at timestamp".to_owned()));
        assert!(!on_one_line(CREATE_META).contains("--"));
    }

    #[test]
    fn tables_as_they_are_made_are_ok() {
        let findings = healthy().judge();
        assert_eq!(findings.len(), 4);
        assert!(findings.iter().all(|finding| finding.verdict == Verdict::Ok), "{findings:#?}");
    }

    #[test]
    fn each_fault_of_a_definition_is_named() {
        for (table, column, name, value, told) in [
            (GENERATOR, "id", "column_type", "varchar(36)", "the column id is varchar(36), not int(11)"),
            (GENERATOR, "id", "column_type", "mediumint(8) unsigned", "the column id is mediumint"),
            (GENERATOR, "id", "extra", "", "no AUTO_INCREMENT"),
            (GENERATOR, "uuid", "column_type", "char(20)", "the column uuid is char(20), not char(36)"),
            (META, "first_ticket", "column_type", "int(10) unsigned", "not bigint unsigned"),
            (SEQUENCE, "next_id", "column_type", "double", "the column next_id is double"),
            (SEQUENCE, "name", "collation_name", "utf8mb4_general_ci", "ascii_bin"),
            (SEQUENCE, "step", "column_name", "steps", "the column step int unsigned is missing"),
        ] {
            let mut facts = healthy();
            let line = facts.columns.as_mut().unwrap().iter_mut();
            let mut line = line.filter(|line| text(line, "table_name") == table && text(line, "column_name") == column);
            line.next().unwrap().insert(name.to_owned(), value.to_owned());
            drop(line);
            let found = row(&facts, &format!("table {table}"));
            assert!(found.verdict == Verdict::Fail && found.found.contains(told), "{told}: {found:?}");
        }
        let mut facts = healthy();
        facts.unique.as_mut().unwrap().retain(|line| text(line, "column_name") != "uuid");
        assert!(row(&facts, "table generator_table").found.contains("uuid has no unique index"));
        let set = |name: &str, value: &str| {
            let mut facts = healthy();
            facts.tables.as_mut().unwrap()[0].insert(name.into(), value.into());
            row(&facts, "table generator_table")
        };
        assert_eq!(set("transactions", "NO").verdict, Verdict::Fail);
        assert_eq!(set("table_type", "VIEW").verdict, Verdict::Fail);
        let other = set("engine", "ROCKSDB");
        assert!(other.verdict == Verdict::Warn && other.found.contains("not checked"), "{other:?}");
    }

    #[test]
    fn a_wider_column_is_no_fault() {
        for (found, wanted) in [
            ("bigint(20)", "int(11)"),
            ("bigint(20) unsigned", "bigint unsigned"),
            ("int unsigned", "int(11)"),
            ("varchar(36)", "char(36)"),
            ("timestamp(6)", "timestamp"),
        ] {
            assert!(holds(found, wanted), "{found} for {wanted}");
        }
        for (found, wanted) in [("int", "bigint unsigned"), ("bigint", "bigint unsigned"), ("datetime", "timestamp")] {
            assert!(!holds(found, wanted), "{found} for {wanted}");
        }
    }

    #[test]
    fn what_the_account_lacks_is_named_with_the_grant() {
        let with = |denied| row(&Facts { denied, ..healthy() }, "privileges");
        let no_delete = with(vec![(GENERATOR, "DELETE", false)]);
        assert_eq!((no_delete.verdict, &*no_delete.found), (Verdict::Warn, "ids@% lacks DELETE on generator_table"));
        assert!(no_delete.advice.unwrap().contains("ON `sequence`.* TO 'ids'@'%'"));
        assert_eq!(with(vec![(SEQUENCE, "UPDATE", true)]).verdict, Verdict::Fail);
        let unknown = row(&Facts { unknown: Some("error 1290".into()), ..healthy() }, "privileges");
        assert_eq!(unknown.verdict, Verdict::Warn);
    }
}
