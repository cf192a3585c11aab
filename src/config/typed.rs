//! What was typed, in the file or in variables: every key may be missing.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use super::mysql::{self, TypedMySql};
use super::values::{Fraction, Id, Listen, LogFormat, LogLevel, Number, Span, StoreName};
use super::{ConfigError, Limits, Refill, Shutdown, Step};
use crate::name::SequenceName;

/// A section whose keys may be missing. One section stands over another by `over`: its keys count if both have them.
macro_rules! section {
    ($(#[$meta:meta])* $name:ident { $($key:ident: $type:ty),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Default, serde::Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub(in crate::config) struct $name {
            $(pub(in crate::config) $key: Option<$type>,)+
        }

        impl $name {
            pub(in crate::config) fn over(self, under: Self) -> Self {
                Self { $($key: self.$key.or(under.$key),)+ }
            }
        }
    };
}
pub(super) use section;

section!(TypedRefill { threshold: Fraction, runway: Span<0, { 24 * 3_600_000 }>, max_block: Number<1, 1_000_000_000> });

section!(TypedLimits {
    wait: Span<0, 60_000>,
    waiters: Number<0, 1_000_000>,
    batch: Number<1, 1_000_000>,
    range: Number<1, 1_000_000_000>,
    connections: Number<1, 1_000_000>,
    keep_alive: Span<1_000, 3_600_000>,
    request: Span<1_000, 3_600_000>,
});

section!(TypedShutdown { lead: Span<0, 600_000>, grace: Span<0, 600_000> });

section!(TypedLog { level: LogLevel, format: LogFormat });

/// One of `sequences:`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Declared {
    pub(super) step: Option<Step>,
    pub(super) first_id: Option<Id>,
    pub(super) max_id: Option<Id>,
    pub(super) description: Option<String>,
}

/// All of it.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Typed {
    pub(super) port: Option<Listen>,
    pub(super) step: Option<Step>,
    pub(super) store: Option<StoreName>,
    pub(super) data_dir: Option<PathBuf>,
    #[serde(deserialize_with = "mysql::section")]
    pub(super) mysql: Option<TypedMySql>,
    pub(super) refill: Option<TypedRefill>,
    pub(super) sequences: Option<BTreeMap<SequenceName, Option<Declared>>>,
    pub(super) limits: Option<TypedLimits>,
    pub(super) shutdown: Option<TypedShutdown>,
    pub(super) log: Option<TypedLog>,
}

impl TypedRefill {
    pub(super) fn finish(self) -> Refill {
        let default = Refill::default();
        Refill {
            threshold: self.threshold.unwrap_or(default.threshold),
            runway: self.runway.unwrap_or(default.runway),
            max_block: self.max_block.unwrap_or(default.max_block),
        }
    }
}

impl TypedLimits {
    pub(super) fn finish(self) -> Limits {
        let default = Limits::default();
        Limits {
            wait: self.wait.unwrap_or(default.wait),
            waiters: self.waiters.unwrap_or(default.waiters),
            batch: self.batch.unwrap_or(default.batch),
            range: self.range.unwrap_or(default.range),
            connections: self.connections.unwrap_or(default.connections),
            keep_alive: self.keep_alive.unwrap_or(default.keep_alive),
            request: self.request.unwrap_or(default.request),
        }
    }
}

impl TypedShutdown {
    pub(super) fn finish(self) -> Shutdown {
        let default = Shutdown::default();
        Shutdown { lead: self.lead.unwrap_or(default.lead), grace: self.grace.unwrap_or(default.grace) }
    }
}

impl Typed {
    /// Reads the file `text` at `place`.
    pub(super) fn read(place: &str, text: &str) -> Result<Self, ConfigError> {
        let typed: Result<Option<Self>, _> = serde_yaml::from_str(text);
        typed.map(Option::unwrap_or_default).map_err(|error| ConfigError::new(place, with_line(text, &error)))
    }

    /// The store that it chooses; an error if it chooses two.
    pub(super) fn chosen(&self) -> Result<Option<StoreName>, ()> {
        match (self.store, self.mysql.is_some()) {
            (Some(StoreName::Embedded), true) => Err(()),
            (None, true) => Ok(Some(StoreName::Mysql)),
            (store, _) => Ok(store),
        }
    }

    /// Its keys count if `under` has them too.
    pub(super) fn over(self, under: Self) -> Self {
        fn both<T>(over: Option<T>, under: Option<T>, merge: impl FnOnce(T, T) -> T) -> Option<T> {
            match (over, under) {
                (Some(over), Some(under)) => Some(merge(over, under)),
                (over, under) => over.or(under),
            }
        }
        Self {
            port: self.port.or(under.port),
            step: self.step.or(under.step),
            store: self.store.or(under.store),
            data_dir: self.data_dir.or(under.data_dir),
            mysql: both(self.mysql, under.mysql, TypedMySql::over),
            refill: both(self.refill, under.refill, TypedRefill::over),
            sequences: self.sequences.or(under.sequences),
            limits: both(self.limits, under.limits, TypedLimits::over),
            shutdown: both(self.shutdown, under.shutdown, TypedShutdown::over),
            log: both(self.log, under.log, TypedLog::over),
        }
    }
}

/// `error` with the line that it is about. YAML's own errors have it, but for the names of keys at the top.
fn with_line(text: &str, error: &serde_yaml::Error) -> String {
    let said = error.to_string();
    if said.contains(" at line ") {
        return said;
    }
    let key = ["unknown field `", "duplicate field `"].into_iter().find_map(|what| said.split_once(what));
    let key = key.and_then(|(_, rest)| rest.split_once('`')).map(|(key, _)| key);
    let is_key = |line: &str| {
        key.is_some_and(|key| line.strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with(':')))
    };
    // Of a key that is there twice it is the second one.
    match text.lines().enumerate().filter(|(_, line)| is_key(line)).last() {
        Some((line, _)) => format!("{said} at line {}", line + 1),
        None => said,
    }
}
