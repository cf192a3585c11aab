//! The `mysql:` section: which hosts, by which account, over which kind of connection.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};

use super::ReadFile;
use super::typed::section;
use super::values::{DatabaseHosts, Flag, Number, Secret, SslMode};

section!(
    /// The `mysql:` section as it was typed.
    TypedMySql {
        user: String,
        password: Secret,
        password_file: PathBuf,
        host: DatabaseHosts,
        database: String,
        ssl_mode: SslMode,
        ssl_ca: PathBuf,
        ssl_cert: PathBuf,
        ssl_key: PathBuf,
        failover_skip: Number<0, { 1 << 53 }>,
        require_durable: Flag,
    }
);

impl TypedMySql {
    /// Forgets the password, in whatever form, if `over` has one in whatever form.
    pub(super) fn give_way(&mut self, over: &Self) {
        if over.password.is_some() || over.password_file.is_some() {
            (self.password, self.password_file) = (None, None);
        }
    }
}

/// The `mysql:` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MySql {
    /// The account.
    pub user: String,
    /// Its password, as it was at the start: [`password`](Self::password) has the present one.
    pub password: Secret,
    /// The file that has the password.
    pub password_file: Option<PathBuf>,
    /// The server; or several that stand in for each other, of which one takes writes, or the nodes of one cluster.
    pub host: DatabaseHosts,
    /// The database that has the tables.
    pub database: String,
    /// Whether the connection is encrypted, and what is checked.
    pub ssl_mode: SslMode,
    /// A PEM file of the authorities to trust; those that browsers trust where it is missing.
    pub ssl_ca: Option<PathBuf>,
    /// A PEM file of this client's certificate, and those that lead to its authority.
    pub ssl_cert: Option<PathBuf>,
    /// A PEM file of the key of `ssl_cert`.
    pub ssl_key: Option<PathBuf>,
    /// How many ids a counter is moved on where it was last fenced for another database server, as after a failover;
    /// 0: nothing is leased then, until `seqsvr fence` was run.
    pub failover_skip: Number<0, { 1 << 53 }>,
    /// Leases only from a server that does not lose what it has acknowledged when it crashes.
    pub require_durable: Flag,
}

/// A key, and what is wrong with its value.
pub(super) type Mistake = (&'static str, String);

impl MySql {
    /// Checks what was `typed`, and that the files that it names can be read.
    pub(super) fn new(typed: TypedMySql, read: &ReadFile<'_>) -> Result<Self, Mistake> {
        let needed = |key: &'static str, variable: &'static str| {
            move || (key, format!("it is missing. Add it to the 'mysql:' section, or set {variable}"))
        };
        let user = typed.user.ok_or_else(needed("mysql.user", "SEQSVR_MYSQL__USER"))?;
        let host = typed.host.ok_or_else(needed("mysql.host", "SEQSVR_MYSQL__HOST"))?;
        let database = typed.database.ok_or_else(needed("mysql.database", "SEQSVR_MYSQL__DATABASE"))?;
        let password = match (typed.password, &typed.password_file) {
            (Some(_), Some(_)) => {
                let what = "there is a mysql.password too: keep one of the two";
                return Err(("mysql.password_file", what.to_owned()));
            }
            // Not shown: whoever put the password itself here should not find it in the log.
            (None, Some(file)) => read_password(file, read)
                .map_err(|error| ("mysql.password_file", format!("the file that it names can't be read: {error}")))?,
            (password, None) => password.unwrap_or_default(),
        };
        let mysql = Self {
            user,
            password,
            password_file: typed.password_file,
            host,
            database,
            ssl_mode: typed.ssl_mode.unwrap_or_default(),
            ssl_ca: typed.ssl_ca,
            ssl_cert: typed.ssl_cert,
            ssl_key: typed.ssl_key,
            failover_skip: typed.failover_skip.unwrap_or(Number::of(0)),
            require_durable: typed.require_durable.unwrap_or_default(),
        };
        mysql.check(read)?;
        Ok(mysql)
    }

    /// The current password. [`password_file`](Self::password_file) may have been rotated; if it can't be read, the last one counts.
    pub fn password(&self) -> Secret {
        let read = |file: &Path| std::fs::read_to_string(file);
        let now = self.password_file.as_ref().and_then(|file| read_password(file, &read).ok());
        now.unwrap_or_else(|| self.password.clone())
    }

    /// What no single value can be checked for.
    fn check(&self, read: &ReadFile<'_>) -> Result<(), Mistake> {
        for (key, name, value) in [("mysql.user", "user", &self.user), ("mysql.database", "database", &self.database)] {
            if value.is_empty() {
                return Err((key, format!("it is empty. Name the {name}")));
            }
        }
        if self.ssl_ca.is_some() && self.ssl_mode != SslMode::VerifyIdentity {
            let what = "nothing is checked with it. Set ssl_mode: verify_identity, or remove it";
            return Err(("mysql.ssl_ca", what.to_owned()));
        }
        let own = [("mysql.ssl_cert", &self.ssl_cert), ("mysql.ssl_key", &self.ssl_key)];
        match own.map(|(key, file)| (key, file.is_some())) {
            [(key, true), (missing, false)] | [(missing, false), (key, true)] => {
                return Err((key, format!("it needs {missing} too. Name both files, or none")));
            }
            [(key, true), _] if self.ssl_mode == SslMode::Disabled => {
                let what = "nothing is encrypted. Set ssl_mode: verify_identity, or remove it";
                return Err((key, what.to_owned()));
            }
            _ => {}
        }
        let certificates = [("mysql.ssl_ca", &self.ssl_ca), own[0]].map(|(key, file)| (key, file, "CERTIFICATE"));
        for (key, file, what) in certificates.into_iter().chain([("mysql.ssl_key", &self.ssl_key, "PRIVATE KEY")]) {
            let Some(file) = file else { continue };
            // Whoever put the key itself here should not find it in the log.
            let shown =
                if file.to_string_lossy().contains("-----") { "(not a path)".into() } else { file.to_string_lossy() };
            check_pem(file, what, read).map_err(|why| (key, format!("'{shown}' {why}")))?;
        }
        Ok(())
    }
}

fn read_password(file: &Path, read: &ReadFile<'_>) -> std::io::Result<Secret> {
    read(file).map(|text| Secret::new(text.trim_end_matches(['\r', '\n'])))
}

#[cfg(test)]
impl<'de> Deserialize<'de> for MySql {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let typed = TypedMySql::deserialize(deserializer)?;
        Self::new(typed, &|file| std::fs::read_to_string(file))
            .map_err(|(key, what)| de::Error::custom(format!("{key}: {what}")))
    }
}

/// That `file` has a `what` in PEM form. Nothing of it is told: it may be a key.
pub(super) fn check_pem(file: &Path, what: &str, read: &ReadFile<'_>) -> Result<(), String> {
    let text = read(file).map_err(|error| format!("can't be read: {error}"))?;
    let begins = |line: &str| line.starts_with("-----BEGIN ") && line.trim_end().ends_with(&format!("{what}-----"));
    match text.lines().find(|line| begins(line)) {
        Some(line) if line.contains("ENCRYPTED") => {
            Err("is encrypted by a password, which can't be given here".to_owned())
        }
        Some(_) => Ok(()),
        None => Err(format!("has no {} in PEM form", what.to_lowercase())),
    }
}

/// The `mysql:` section. serde's own error for something else in its place would show it, password and all.
pub(super) fn section<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<TypedMySql>, D::Error> {
    struct Section;

    impl<'de> Visitor<'de> for Section {
        type Value = Option<TypedMySql>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a section with the keys user, password, host and database")
        }
        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            TypedMySql::deserialize(MapAccessDeserializer::new(map)).map(Some)
        }
        fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
        fn visit_str<E: de::Error>(self, _: &str) -> Result<Self::Value, E> {
            Err(E::custom("write a section with the keys user, password, host and database"))
        }
    }

    deserializer.deserialize_any(Section)
}
