//! Opening the ticket layout: what is looked at, and made where it is missing, before the first lease and after an error.

use super::super::{Identity, Session};
use super::{ErrorKind, Opened, State, StoreError, Tickets, row_uuid};

/// The seed's DDL, word for word.
const CREATE_GENERATOR_TABLE: &str = "CREATE TABLE IF NOT EXISTS `generator_table` (
  `id` int(11) NOT NULL AUTO_INCREMENT,
  `uuid` char(36) NOT NULL COMMENT 'Machine identification',
  PRIMARY KEY (`id`),
  UNIQUE KEY `id_UNIQUE` (`id`),
  UNIQUE KEY `stub_UNIQUE` (`uuid`) USING BTREE
) ENGINE=InnoDB DEFAULT CHARSET=utf8 COLLATE=utf8_unicode_ci";

/// One row, made by the first node.
const CREATE_META: &str = "CREATE TABLE IF NOT EXISTS seqsvr_meta (
  id           TINYINT UNSIGNED NOT NULL PRIMARY KEY,  -- always 1
  step         INT UNSIGNED     NOT NULL,              -- ids per ticket
  first_ticket BIGINT UNSIGNED  NOT NULL,              -- tickets below it are not handed out
  state        VARCHAR(16)  CHARACTER SET ascii COLLATE ascii_bin NOT NULL,  -- ok, regressed, migrating
  server       VARCHAR(128) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,  -- the server that the counter was last fenced for
  store_id     CHAR(36)     CHARACTER SET ascii COLLATE ascii_bin NOT NULL
) ENGINE=InnoDB";

impl Tickets {
    /// Connects nothing, leases nothing: looks, and makes what is missing.
    pub(super) async fn open(&self, session: &mut Session<'_>, state: &mut State) -> Result<Opened, StoreError> {
        let identity = Identity::of(session).await?;
        let tables: Vec<String> = session
            .rows(
                "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() \
                 AND TABLE_NAME IN ('generator_table', 'seqsvr_meta')",
            )
            .await?;
        let has = |name: &str| tables.iter().any(|table| table == name);
        let found = if has("seqsvr_meta") { self.store_id(session).await? } else { None };
        if found.is_none() {
            // Before anything is made: this may be another database than the one the node leased from.
            self.check_store(None)?;
        }
        if found.is_some() && !has("generator_table") {
            // Made anew, its counter would begin at 1.
            return Err(StoreError::new(
                ErrorKind::Misconfigured,
                format!(
                    "{}: generator_table is gone, though seqsvr_meta tells of it: the counter was in it. Put it back from a \
                     backup, with its rows",
                    self.server.described
                ),
            ));
        }
        let missing: Vec<&str> = [("generator_table", CREATE_GENERATOR_TABLE), ("seqsvr_meta", CREATE_META)]
            .into_iter()
            .filter_map(|(name, ddl)| (!has(name)).then_some(ddl))
            .collect();
        self.create(session, &missing).await?;
        let column = column_type(session).await?;
        let last_ticket = largest(&column).ok_or_else(|| {
            StoreError::new(
                ErrorKind::Misconfigured,
                format!(
                    "{}: generator_table.id is '{column}', not an auto-increment whole number. The table must be: \
                     {CREATE_GENERATOR_TABLE};",
                    self.server.described
                ),
            )
        })?;
        let store_id = match found {
            Some(store_id) => store_id,
            None => self.make_meta_row(session, &identity).await?,
        };
        self.check_store(Some(&store_id))?;

        // From here on the marks are of this store, and of no other.
        self.node.remember_store(&store_id);
        let opened = Opened { identity, store_id, last_ticket, column_type: column };
        self.find_own_rows(session, state).await?;
        Ok(opened)
    }

    fn check_store(&self, found: Option<&str>) -> Result<(), StoreError> {
        self.node
            .check_store(found)
            .map_err(|error| StoreError::new(ErrorKind::Misconfigured, format!("{}: {error}", self.server.described)))
    }

    /// The `store_id`, where there is a meta row.
    async fn store_id(&self, session: &mut Session<'_>) -> Result<Option<String>, StoreError> {
        let ids: Vec<String> = session.rows("SELECT store_id FROM seqsvr_meta WHERE id = 1").await?;
        Ok(ids.into_iter().next())
    }

    /// Makes the meta row; the `store_id` of whoever was first.
    async fn make_meta_row(&self, session: &mut Session<'_>, identity: &Identity) -> Result<String, StoreError> {
        // The step is the one of our configuration: the seed recorded none. Tickets of before are not ours to hand out.
        let sql = format!(
            "INSERT IGNORE INTO seqsvr_meta (id, step, first_ticket, state, server, store_id) VALUES (1, {}, \
             (SELECT COALESCE(MAX(id), 0) + 1 FROM generator_table), 'ok', {}, '{}')",
            self.step,
            identity.expression,
            uuid::Uuid::new_v4()
        );
        if session.execute(&sql).await?.affected_rows == 1 {
            tracing::warn!(
                "{}: recorded step {} in seqsvr_meta: every node must have the same, and so must those have had that used \
                 generator_table before",
                self.server.described,
                self.step
            );
        }
        self.store_id(session).await?.ok_or_else(|| {
            StoreError::new(ErrorKind::Unavailable, format!("{}: seqsvr_meta has no row", self.server.described))
        })
    }

    /// Makes what is missing; where the account may not, the error says what an administrator has to run.
    async fn create(&self, session: &mut Session<'_>, missing: &[&str]) -> Result<(), StoreError> {
        for ddl in missing {
            match session.execute(ddl).await {
                Ok(_) => {
                    let table = ddl.split_whitespace().nth(5).unwrap_or_default();
                    tracing::warn!("{}: made the table {table}, which was missing", self.server.described);
                }
                Err(failed) if matches!(failed.server.as_ref().map(|server| server.code), Some(1044 | 1142)) => {
                    let account: Vec<(String, String)> = session.rows("SELECT CURRENT_USER(), DATABASE()").await?;
                    let (user, database) = account.into_iter().next().unwrap_or_default();
                    let (name, host) = user.rsplit_once('@').unwrap_or((&user, "%"));
                    return Err(StoreError::new(
                        ErrorKind::Misconfigured,
                        format!(
                            "{}: tables are missing and this account may not make them. As an administrator, in the \
                             database {database}, run:\n{};\nGRANT SELECT, INSERT, UPDATE, DELETE ON `{database}`.* TO \
                             '{name}'@'{host}';",
                            self.server.described,
                            missing.join(";\n"),
                        ),
                    ));
                }
                Err(failed) => return Err(failed.error),
            }
        }
        Ok(())
    }

    /// The rows that this node left behind when it last ended; the counter goes on past them.
    async fn find_own_rows(&self, session: &mut Session<'_>, state: &mut State) -> Result<(), StoreError> {
        let prefix = row_uuid(self.node.id(), 0)[..24].to_owned();
        let rows: Vec<(u64, String)> = session
            .rows(&format!("SELECT id, uuid FROM generator_table WHERE uuid LIKE '{prefix}%' ORDER BY id"))
            .await?;
        state.own_rows = rows.iter().map(|(id, _)| *id).collect();
        let newest = rows.last().and_then(|(_, uuid)| u64::from_str_radix(&uuid[24..], 16).ok());
        state.counter = newest.unwrap_or(state.counter);
        Ok(())
    }
}

/// `id`'s column type, such as `int(11)`; with a remark where it is not an auto-increment.
async fn column_type(session: &mut Session<'_>) -> Result<String, StoreError> {
    let rows: Vec<(String, String)> = session
        .rows(
            "SELECT COLUMN_TYPE, EXTRA FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = DATABASE() \
             AND TABLE_NAME = 'generator_table' AND COLUMN_NAME = 'id'",
        )
        .await?;
    let (column, extra) = rows.into_iter().next().unwrap_or_default();
    let is_auto = extra.to_ascii_lowercase().contains("auto_increment");
    Ok(if is_auto { column } else { format!("{column} without AUTO_INCREMENT") })
}

/// The largest value of an auto-increment column of a type such as `int(11)` or `bigint unsigned`.
fn largest(column_type: &str) -> Option<u64> {
    let lower = column_type.to_ascii_lowercase();
    if lower.contains("without") {
        return None;
    }
    let bits = match lower.split(['(', ' ']).next()? {
        "tinyint" => 8,
        "smallint" => 16,
        "mediumint" => 24,
        "int" | "integer" => 32,
        "bigint" => 64,
        _ => return None,
    };
    let bits = if lower.contains("unsigned") { bits } else { bits - 1 };
    Some(u64::MAX >> (64 - bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_ends_where_its_type_does() {
        for (column, last) in [
            ("int(11)", Some(2_147_483_647)),
            ("int", Some(2_147_483_647)),
            ("int(10) unsigned", Some(4_294_967_295)),
            ("bigint(20)", Some(i64::MAX.cast_unsigned())),
            ("bigint unsigned", Some(u64::MAX)),
            ("tinyint(4)", Some(127)),
            ("int(11) without AUTO_INCREMENT", None),
            ("varchar(36)", None),
            ("", None),
        ] {
            assert_eq!(largest(column), last, "{column}");
        }
    }
}
