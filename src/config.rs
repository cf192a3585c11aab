//! The configuration: the file, the environment over it, and the checked settings that come of both.
//!
//! The Go server's `config.yml` works as it is. What is allowed and what it does is said in the shipped `config.yml`; the
//! bounds are in the types of the fields here.
//!
//! What always holds: the store is never inferred. The file or the variables must choose it, for a production node that lost
//! its `mysql:` section would otherwise count from the start again.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::name::SequenceName;
use crate::segment::MAX_END;

mod environment;
mod mysql;
mod origins;
mod settings;
mod typed;
mod values;
use environment::Variables;
pub use mysql::MySql;
pub use origins::Origins;
use typed::{Declared, Typed};
use values::StoreName;
pub use values::{
    DatabaseHost, DatabaseHosts, Flag, Fraction, Id, Listen, LogFormat, LogLevel, Number, Secret, Span, SslMode,
};

/// The files that are looked for if none is named; the first one that is there is read.
pub const DEFAULT_FILES: [&str; 2] = ["config.yml", "/etc/seqsvr/config.yml"];

/// The variable that names the file, where `--config` does not.
pub const FILE_VARIABLE: &str = "SEQSVR_CONFIG";

/// The prefix of the environment variables that override the file: `SEQSVR_MYSQL__PASSWORD` is `mysql.password`.
pub const ENVIRONMENT_PREFIX: &str = "SEQSVR_";

/// The exit code of a configuration error: `EX_CONFIG` of sysexits.h.
pub const EXIT_CONFIGURATION: u8 = 78;

/// What is wrong with the configuration, where, and what to write instead.
#[derive(Debug, Error)]
#[error("{place}: {what}")]
pub struct ConfigError {
    /// The file or the environment variable.
    pub place: String,
    /// What is wrong and what is allowed.
    pub what: String,
}

impl ConfigError {
    fn new(place: impl Into<String>, what: impl fmt::Display) -> Self {
        Self { place: place.into(), what: what.to_string() }
    }
}

/// The checked settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen.
    pub port: Listen,
    /// The smallest block size, in ids.
    pub step: Step,
    /// Where the blocks come from.
    pub store: Store,
    /// The folder of the embedded store, and of what the node remembers.
    pub data_dir: PathBuf,
    /// When and how much to lease.
    pub refill: Refill,
    /// The sequences that are made where they are missing.
    pub sequences: Vec<NewSequence>,
    /// What is bounded.
    pub limits: Limits,
    /// How the server ends.
    pub shutdown: Shutdown,
    /// What is logged, and how.
    pub log: Log,
}

/// 1 to 2^32 - 1, the range of the column that records it.
pub type Step = Number<1, 4_294_967_295>;

/// The largest id of a sequence where nothing else is set: 2^53 - 1, the last whole number that a JSON reader with
/// floating point numbers (JavaScript's) tells from its neighbours.
pub const DEFAULT_MAX_ID: u64 = (1 << 53) - 1;

/// The largest that a sequence's largest id can be: 2^63 - 2.
pub const LARGEST_MAX_ID: u64 = MAX_END - 1;

/// The most bytes of a sequence's description.
pub const MOST_DESCRIPTION_BYTES: usize = 255;

/// The most sequences that a configuration declares; any number can be made by `seqsvr sequence create`.
pub const MOST_DECLARED: usize = 1_000;

/// A sequence that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSequence {
    /// Its name.
    pub name: SequenceName,
    /// The smallest block, in ids.
    pub step: Step,
    /// The first id, from 1 to `max_id`. One that was deleted and is created again never begins below where it was.
    pub first_id: u64,
    /// The largest id (inclusive), up to [`LARGEST_MAX_ID`].
    pub max_id: u64,
    /// For people; at most [`MOST_DESCRIPTION_BYTES`] bytes.
    pub description: String,
}

impl NewSequence {
    /// Where nothing else is said: the first id is 1, that of `default` is `step + 1`, as on the seed's table.
    pub fn new(name: SequenceName, step: Step) -> Self {
        let first_id = if name.is_default() { step.get() + 1 } else { 1 };
        Self { name, step, first_id, max_id: DEFAULT_MAX_ID, description: String::new() }
    }

    /// What no single value can be checked for.
    pub fn check(&self) -> Result<(), String> {
        if self.first_id > self.max_id {
            return Err(format!("the first id {} is above the largest one, {}", self.first_id, self.max_id));
        }
        check_description(&self.description)
    }
}

/// Checks the length of a sequence's description.
pub fn check_description(description: &str) -> Result<(), String> {
    match description.len() {
        0..=MOST_DESCRIPTION_BYTES => Ok(()),
        bytes => Err(format!("the description has {bytes} bytes: at most {MOST_DESCRIPTION_BYTES} are kept")),
    }
}

impl Declared {
    fn sequence(self, name: SequenceName, default_step: Step) -> Result<NewSequence, String> {
        let mut new = NewSequence::new(name, self.step.unwrap_or(default_step));
        new.first_id = self.first_id.map_or(new.first_id, Id::get);
        new.max_id = self.max_id.map_or(new.max_id, Id::get);
        new.description = self.description.unwrap_or_default();
        new.check().map_err(|what| format!("sequences.{}: {what}", new.name))?;
        Ok(new)
    }
}

/// The selected store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Store {
    /// A SQLite file in `data_dir`.
    Embedded,
    /// A MySQL or MariaDB server.
    MySql(Box<MySql>),
}

/// The `refill:` section.
#[derive(Clone, Debug)]
pub struct Refill {
    /// How much of the current segment is used when the next block is asked for.
    pub threshold: Fraction,
    /// How long the ids in memory should last at the current rate.
    pub runway: Span<0, { 24 * 3_600_000 }>,
    /// The most ids that one lease asks for, and that are held.
    pub max_block: Number<1, 1_000_000_000>,
}

impl Default for Refill {
    fn default() -> Self {
        Self { threshold: Fraction(0.5), runway: Span::of_millis(60_000), max_block: Number::of(10_000_000) }
    }
}

/// The `limits:` section.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How long a request waits for ids when none are in memory.
    pub wait: Span<0, 60_000>,
    /// How many requests may wait so at once.
    pub waiters: Number<0, 1_000_000>,
    /// The most ids of one answer (`?count=N`).
    pub batch: Number<1, 1_000_000>,
    /// The most ids of one answer in ranges (`?count=N&ranges`).
    pub range: Number<1, 1_000_000_000>,
    /// The most connections at once.
    pub connections: Number<1, 1_000_000>,
    /// How long a connection stays open without a request.
    pub keep_alive: Span<1_000, 3_600_000>,
    /// How long a request may take, from its first byte to its answer's last. If twice `wait` is longer, it may take that.
    pub request: Span<1_000, 3_600_000>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            wait: Span::of_millis(500),
            waiters: Number::of(10_000),
            batch: Number::of(10_000),
            range: Number::of(1_000_000),
            connections: Number::of(25_000),
            keep_alive: Span::of_millis(75_000),
            request: Span::of_millis(75_000),
        }
    }
}

/// The `shutdown:` section.
#[derive(Clone, Debug)]
pub struct Shutdown {
    /// How long it goes on serving while `/readyz` already says 503, for load balancers to notice.
    pub lead: Span<0, 600_000>,
    /// How long requests in flight may take after that.
    pub grace: Span<0, 600_000>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { lead: Span::of_millis(0), grace: Span::of_millis(10_000) }
    }
}

/// The `log:` section.
#[derive(Clone, Copy, Debug, Default)]
pub struct Log {
    /// What is left out.
    pub level: LogLevel,
    /// For people or for machines.
    pub format: LogFormat,
}

/// Where the settings come from.
#[derive(Debug, Default)]
pub struct Sources {
    /// `--config`. If it is `None`, the file that [`FILE_VARIABLE`] names is read, or the first one of [`DEFAULT_FILES`], or none
    /// with `embedded`.
    pub file: Option<PathBuf>,
    /// `--embedded`.
    pub embedded: bool,
    /// The environment's variables; those that don't begin with [`ENVIRONMENT_PREFIX`] are passed over.
    pub environment: Vec<(String, String)>,
}

/// Reads a whole file: the settings themselves, or one that they name.
pub type ReadFile<'a> = dyn Fn(&Path) -> io::Result<String> + 'a;

impl Config {
    /// The sequence that `/new` uses, as it is made on a new store.
    pub fn default_sequence(&self) -> NewSequence {
        let declared = self.sequences.iter().find(|new| new.name.is_default());
        declared.cloned().unwrap_or_else(|| NewSequence::new(SequenceName::default(), self.step))
    }

    /// Reads and checks the settings.
    pub fn load(sources: &Sources) -> Result<(Self, Origins), ConfigError> {
        Self::load_with(sources, &|file| std::fs::read_to_string(file))
    }

    /// As [`load`](Self::load), with the text of each file from `read`.
    pub fn load_with(sources: &Sources, read: &ReadFile<'_>) -> Result<(Self, Origins), ConfigError> {
        let variables = Variables::read(&sources.environment)?;
        let (place, text) = find_file(sources, &variables, read)?;
        let mut file = Typed::read(&place, &text)?;
        let origins = Origins::new(&place, &text, &variables);
        let is_mysql = chosen_store(&place, &file, &variables, sources.embedded)? == StoreName::Mysql;
        if let (Some(under), Some(over)) = (&mut file.mysql, &variables.typed.mysql) {
            under.give_way(over);
        }
        let typed = variables.typed.over(file);
        let store = if is_mysql {
            let mysql = MySql::new(typed.mysql.unwrap_or_default(), read);
            Store::MySql(Box::new(mysql.map_err(|(key, what)| origins.error(key, what))?))
        } else {
            Store::Embedded
        };
        let data_dir = typed.data_dir.unwrap_or_else(|| "data".into());
        if data_dir.as_os_str().is_empty() {
            return Err(origins.error("data_dir", "it is empty. Name a folder, or leave the key out"));
        }
        let step = typed.step.unwrap_or(Step::of(100));
        let declared = typed.sequences.unwrap_or_default();
        if declared.len() > MOST_DECLARED {
            let what = format!(
                "{} are more than the {MOST_DECLARED} that a configuration may declare. Make the others by `seqsvr sequence create`",
                declared.len()
            );
            return Err(origins.error("sequences", what));
        }
        let sequences = declared
            .into_iter()
            .map(|(name, declared)| declared.unwrap_or_default().sequence(name, step))
            .collect::<Result<_, _>>()
            .map_err(|what| ConfigError::new(&place, what))?;
        let (refill, limits) = (typed.refill.unwrap_or_default(), typed.limits.unwrap_or_default());
        let (shutdown, log) = (typed.shutdown.unwrap_or_default(), typed.log.unwrap_or_default());
        let config = Self {
            port: typed.port.unwrap_or(Listen::all(8000)),
            step,
            store,
            data_dir,
            refill: refill.finish(),
            sequences,
            limits: limits.finish(),
            shutdown: shutdown.finish(),
            log: Log { level: log.level.unwrap_or_default(), format: log.format.unwrap_or_default() },
        };
        Ok((config, origins))
    }
}

/// The file's place for people, and its text; that of the environment, and nothing, where there is no file and none is needed.
fn find_file(sources: &Sources, variables: &Variables, read: &ReadFile<'_>) -> Result<(String, String), ConfigError> {
    if let Some(file) = sources.file.as_deref().or(variables.file.as_deref()) {
        return read_file(file, read)?.ok_or_else(|| {
            let of_variable =
                if sources.file.is_none() { format!(" ({FILE_VARIABLE} names it)") } else { String::new() };
            let what = format!(
                "there is no such file{of_variable}. Name another with --config FILE, or try the server with --embedded"
            );
            ConfigError::new(file.display().to_string(), what)
        });
    }
    if sources.embedded {
        return Ok(("--embedded".to_owned(), String::new()));
    }
    for file in DEFAULT_FILES {
        if let Some(found) = read_file(Path::new(file), read)? {
            return Ok(found);
        }
    }
    if variables.chosen()?.is_some() {
        return Ok(("the environment".to_owned(), String::new()));
    }
    let what = format!(
        "there is no such file, and no {}. Name one with --config FILE or {FILE_VARIABLE}, choose the store by variables \
         (SEQSVR_STORE=embedded; or SEQSVR_MYSQL__HOST, SEQSVR_MYSQL__USER and SEQSVR_MYSQL__DATABASE), or try the server with --embedded",
        DEFAULT_FILES[1]
    );
    Err(ConfigError::new(DEFAULT_FILES[0], what))
}

/// The place and the text of `file`; `None` if there is none.
fn read_file(file: &Path, read: &ReadFile<'_>) -> Result<Option<(String, String)>, ConfigError> {
    let place = file.display().to_string();
    match read(file) {
        Ok(text) => Ok(Some((place, text))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ConfigError::new(place, format!("it can't be read: {error}"))),
    }
}

/// The store that the file or, over it, the variables choose.
fn chosen_store(place: &str, file: &Typed, variables: &Variables, is_embedded: bool) -> Result<StoreName, ConfigError> {
    let of_variables = variables.chosen()?;
    let of_file = file.chosen();
    let two = |place: &str| {
        ConfigError::new(
            place,
            "two stores are chosen, MySQL and the embedded one ('store: embedded' or --embedded). Keep the one that has your \
             sequences and remove the other",
        )
    };
    if of_file == Err(()) && of_variables.is_none() {
        return Err(two(place));
    }
    let chosen = of_variables.map(|(store, _)| store).or(of_file.ok().flatten());
    match (chosen, is_embedded) {
        (Some(StoreName::Mysql), true) => Err(two(of_variables.map_or(place, |(_, variable)| variable))),
        (Some(StoreName::Mysql), false) => Ok(StoreName::Mysql),
        (Some(StoreName::Embedded), _) | (None, true) => match variables.of_mysql() {
            // They change what is not used.
            Some(variable) => Err(ConfigError::new(
                variable,
                "the embedded store is chosen. To lease from MySQL set SEQSVR_MYSQL__HOST, SEQSVR_MYSQL__USER and \
                 SEQSVR_MYSQL__DATABASE, or SEQSVR_STORE=mysql; otherwise remove this variable",
            )),
            None => Ok(StoreName::Embedded),
        },
        (None, false) => Err(ConfigError::new(
            variables.of_mysql().unwrap_or(place),
            "no store is chosen, and it is never guessed. Add a 'mysql:' section (user, password, host, database) to lease from \
             MySQL, or the line 'store: embedded' to keep the counter in data_dir. As variables: SEQSVR_MYSQL__HOST, \
             SEQSVR_MYSQL__USER and SEQSVR_MYSQL__DATABASE, or SEQSVR_STORE=embedded",
        )),
    }
}

#[cfg(test)]
mod tests;
