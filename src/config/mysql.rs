//! The `mysql:` section: which hosts, by which account, over which kind of connection.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};

use super::ReadFile;
use super::values::{DatabaseHosts, Flag, Number, Secret};

/// The `mysql:` section.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MySql {
    /// The account.
    pub user: String,
    /// Its password.
    #[serde(default)]
    pub password: Secret,
    /// The server; or several that stand in for each other, of which one takes writes, or the nodes of one cluster.
    pub host: DatabaseHosts,
    /// The database that has the tables.
    pub database: String,
    /// Whether the connection is encrypted, and what is checked.
    #[serde(default)]
    pub ssl_mode: SslMode,
    /// A PEM file of the authorities to trust; those that browsers trust where it is missing.
    #[serde(default)]
    pub ssl_ca: Option<PathBuf>,
    /// A PEM file of this client's certificate, and those that lead to its authority.
    #[serde(default)]
    pub ssl_cert: Option<PathBuf>,
    /// A PEM file of the key of `ssl_cert`.
    #[serde(default)]
    pub ssl_key: Option<PathBuf>,
    /// How many ids a counter is moved on where it was last fenced for another database server, as after a failover;
    /// 0: nothing is leased then, until `seqsvr fence` was run.
    #[serde(default = "no_skip")]
    pub failover_skip: Number<0, { 1 << 53 }>,
    /// Leases only from a server that does not lose what it has acknowledged when it crashes.
    #[serde(default)]
    pub require_durable: Flag,
}

fn no_skip() -> Number<0, { 1 << 53 }> {
    Number::of(0)
}

impl MySql {
    /// What no single value can be checked for.
    pub(super) fn check(&self, read: &ReadFile<'_>) -> Result<(), String> {
        for (key, value) in [("user", &self.user), ("database", &self.database)] {
            if value.is_empty() {
                return Err(format!("mysql.{key}: it is empty. Name the {key}"));
            }
        }
        if self.ssl_ca.is_some() && self.ssl_mode != SslMode::VerifyIdentity {
            return Err(
                "mysql.ssl_ca: nothing is checked with it. Set ssl_mode: verify_identity, or remove it".to_owned()
            );
        }
        let own = [("ssl_cert", &self.ssl_cert), ("ssl_key", &self.ssl_key)];
        match own.map(|(key, file)| (key, file.is_some())) {
            [(key, true), (missing, false)] | [(missing, false), (key, true)] => {
                return Err(format!("mysql.{key}: it is of no use without mysql.{missing}. Name both files, or none"));
            }
            [(key, true), _] if self.ssl_mode == SslMode::Disabled => {
                return Err(format!("mysql.{key}: nothing is encrypted. Set ssl_mode: verify_identity, or remove it"));
            }
            _ => {}
        }
        let certificates = [("ssl_ca", &self.ssl_ca), own[0]].map(|(key, file)| (key, file, "CERTIFICATE"));
        for (key, file, what) in certificates.into_iter().chain([("ssl_key", &self.ssl_key, "PRIVATE KEY")]) {
            let Some(file) = file else { continue };
            check_pem(file, what, read).map_err(|why| format!("mysql.{key}: '{}' {why}", file.display()))?;
        }
        Ok(())
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

/// The names and meanings of MySQL's own `--ssl-mode`. `VERIFY_CA` is left out: mysql_async 0.37 can't do it with rustls
/// (it looks for another text in the error than rustls has), and `PREFERRED` gives way without a word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SslMode {
    /// Not encrypted.
    #[default]
    Disabled,
    /// Encrypted; the server's certificate is not checked.
    Required,
    /// Encrypted, by a certificate that an authority of `ssl_ca` signed for the host that was asked for.
    VerifyIdentity,
}

/// The `mysql:` section. serde's own error for something else in its place would show it, password and all.
pub(super) fn section<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<MySql>, D::Error> {
    struct Section;

    impl<'de> Visitor<'de> for Section {
        type Value = Option<MySql>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a section with the keys user, password, host and database")
        }
        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            MySql::deserialize(MapAccessDeserializer::new(map)).map(Some)
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
