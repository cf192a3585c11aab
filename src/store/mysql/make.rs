//! Servers whose auto-increment values are unique but do not rise: no tickets can be leased from them.
//!
//! They are recognised by their version strings. What each does with auto-increments is from its manual. None of them was
//! available for a test, so the tests use a scripted server.
//!
//! Not in the table, on purpose:
//! - NDB Cluster, Spider and `SequoiaDB` are storage engines: `engines.rs` looks at the table.
//! - MariaDB Xpand promises rising auto-increments; only its `AUTO_UNIQUE` columns do not rise.
//! - TDSQL does not promise rising values for a sharded table, but `generator_table` has no shard key. Its version is also that
//!   of Tencent's plain MySQL, so the two cannot be told apart.

/// A make of server.
#[derive(Debug, PartialEq, Eq)]
struct Make {
    name: &'static str,
    /// What its `version` or `version_comment` contains, in lower case; one of them is enough.
    signs: &'static [&'static str],
    /// Why its auto-increment values do not rise.
    why: &'static str,
    /// The option of `CREATE TABLE` that makes them rise, and how `SHOW CREATE TABLE` shows it: in upper case, no space around `=`.
    option: Option<(&'static str, &'static str)>,
}

static MAKES: [Make; 6] = [
    // Its manual, "AUTO_INCREMENT": 30,000 values are cached by each TiDB server, unless AUTO_ID_CACHE is 1 (since 6.4).
    Make {
        name: "TiDB",
        signs: &["tidb"],
        why: "each of its servers caches a range of them",
        option: Some(("AUTO_ID_CACHE 1", "AUTO_ID_CACHE=1")),
    },
    // Its manual, "Vitess Sequences": each vttablet caches a range; without a sequence each shard counts for itself.
    Make { name: "Vitess", signs: &["vitess"], why: "each of its tablets caches a range of them", option: None },
    // Its manual, "Define an auto-increment column": NOORDER is a cache of each server, ORDER a central one. ORDER is the
    // default since 4.0, and a setting of the tenant; `SHOW CREATE TABLE` says which one a table has.
    Make {
        name: "OceanBase",
        signs: &["oceanbase"],
        why: "in the mode NOORDER each of its servers caches a range of them",
        option: Some(("AUTO_INCREMENT_MODE = 'ORDER'", "AUTO_INCREMENT_MODE='ORDER'")),
    },
    // Its manual, "Sequence": a group sequence is cached by each compute node. The version says TDDL, as 5.7.25-TDDL-5.4.19;
    // the standard edition (X-Cluster) is one MySQL and says something else.
    Make { name: "PolarDB-X", signs: &["tddl"], why: "each of its compute nodes caches a range of them", option: None },
    // Its manual, "CREATE TABLE with an AUTO_INCREMENT column": not monotonic, for each aggregator has a range of its own.
    Make {
        name: "SingleStore",
        signs: &["singlestore", "memsql"],
        why: "each of its aggregators has a range of its own",
        option: None,
    },
    // Its manual, "Key generate algorithm". The proxy's version is that of the database with -ShardingSphere-Proxy behind it.
    Make {
        name: "ShardingSphere-Proxy",
        signs: &["shardingsphere"],
        why: "they come from its key generator or from each shard",
        option: None,
    },
];

/// A server whose auto-increment values do not rise, unless the table says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NotRising {
    make: &'static Make,
    /// The server's own words.
    version: String,
}

impl NotRising {
    /// Recognises a server by its variables `version` and `version_comment`.
    pub(super) fn recognise(version: &str, comment: &str) -> Option<Self> {
        let version = format!("{version} {comment}");
        let lower = version.to_ascii_lowercase();
        let make = MAKES.iter().find(|make| make.signs.iter().any(|sign| lower.contains(sign)))?;
        Some(Self { make, version })
    }

    /// Whether the values of a table rise all the same, by its `SHOW CREATE TABLE`.
    pub(super) fn rises_in(&self, ddl: &str) -> bool {
        let Some((_, shown)) = self.make.option else { return false };
        let ddl = ddl.to_ascii_uppercase().replace(" = ", "=");
        // AUTO_ID_CACHE=100 must not match AUTO_ID_CACHE=1.
        ddl.match_indices(shown).any(|(at, _)| !ddl[at + shown.len()..].starts_with(|next: char| next.is_ascii_digit()))
    }

    /// What is wrong with `generator_table` on this server, and what to do.
    pub(super) fn refusal(&self) -> String {
        let Make { name, why, option, .. } = self.make;
        let or_else = match option {
            Some((option, _)) => format!(", or create generator_table with {option}"),
            None => String::new(),
        };
        format!(
            "this is {name} ({}). Its auto-increment values are unique but not rising, because {why}, so no tickets of \
             generator_table can be leased. {COUNTER_LAYOUT}{or_else}",
            self.version
        )
    }
}

/// What to do wherever auto-increment values do not rise.
pub(super) const COUNTER_LAYOUT: &str = "Use the counter layout, which needs no auto-increment: on a new database, declare the \
     sequence default in the configuration (sequences: {default: {}})";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makes_are_recognised_by_what_they_say() {
        for (version, comment, name) in [
            ("8.0.11-TiDB-v7.5.0", "TiDB Server (Apache License 2.0) Community Edition", "TiDB"),
            ("5.7.25-TiDB-v6.1.0", "", "TiDB"),
            ("8.0.30-Vitess", "Version: 18.0.0", "Vitess"),
            ("8.0.30", "MySQL behind vitess", "Vitess"),
            ("5.7.25-OceanBase-v4.2.1.2", "OceanBase 4.2.1.2 (r102000042023120514)", "OceanBase"),
            ("5.7.25", "OceanBase_CE 4.0.0.0", "OceanBase"),
            ("5.7.25-TDDL-5.4.19-20251031", "Source distribution", "PolarDB-X"),
            ("5.6.29-TDDL-5.4.12-16327949", "", "PolarDB-X"),
            ("5.7.32", "SingleStoreDB source distribution (compatible; MySQL Enterprise)", "SingleStore"),
            ("5.5.58", "MemSQL source distribution (compatible; MySQL Enterprise)", "SingleStore"),
            ("5.7.22-ShardingSphere-Proxy 5.4.1", "Source distribution", "ShardingSphere-Proxy"),
        ] {
            let found = NotRising::recognise(version, comment).unwrap_or_else(|| panic!("{version} {comment}"));
            assert_eq!(found.make.name, name);
            let refusal = found.refusal();
            assert!(refusal.contains(name) && refusal.contains(version) && refusal.contains("not rising"), "{refusal}");
        }
    }

    #[test]
    fn servers_with_rising_values_are_no_such_make() {
        for (version, comment) in [
            ("10.11.14-MariaDB-0+deb12u2", "Debian 12"),
            ("10.6.16-11-MariaDB-enterprise-log", "MariaDB Enterprise Server"),
            ("9.7.0", "MySQL Community Server - GPL"),
            ("8.0.36-cluster", "MySQL Cluster Community Server - GPL"),
            ("8.0.35-27", "Percona Server (GPL), Release 27"),
            ("8.0.32-X-Cluster-8.4.20-20251017", "Source distribution"),
            ("8.0.28", "Source distribution"),
            ("", ""),
        ] {
            assert_eq!(NotRising::recognise(version, comment), None, "{version} {comment}");
        }
    }

    #[test]
    fn an_option_of_the_table_may_make_them_rise() {
        for (version, option, rises) in [
            ("8.0.11-TiDB-v7.5.0", "COLLATE=utf8mb4_bin /*T![auto_id_cache] AUTO_ID_CACHE=1 */", true),
            ("8.0.11-TiDB-v7.5.0", "/*T![auto_id_cache] AUTO_ID_CACHE=100 */", false),
            ("8.0.11-TiDB-v7.5.0", "AUTO_INCREMENT_MODE = 'ORDER'", false),
            ("8.0.11-TiDB-v7.5.0", "", false),
            (
                "5.7.25-OceanBase-v4.2.1.2",
                "AUTO_INCREMENT = 1 AUTO_INCREMENT_MODE = 'ORDER' ROW_FORMAT = DYNAMIC",
                true,
            ),
            ("5.7.25-OceanBase-v4.2.1.2", "AUTO_INCREMENT = 1 AUTO_INCREMENT_MODE = 'NOORDER'", false),
            ("5.7.25-OceanBase-v3.1.4", "AUTO_INCREMENT = 1", false),
            ("8.0.30-Vitess", "AUTO_ID_CACHE=1", false),
        ] {
            let make = NotRising::recognise(version, "").unwrap();
            let ddl = format!("CREATE TABLE `generator_table` (\n  `id` int(11) NOT NULL\n) ENGINE=InnoDB {option}");
            assert_eq!(make.rises_in(&ddl), rises, "{version} {option}");
        }
    }
}
