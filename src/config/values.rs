//! The values that the configuration is made of. Each checks itself while it is read, so that the error names the
//! file, the line and the key, and nothing behind this module meets a value that is not allowed.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};

use super::LARGEST_MAX_ID;

/// One value as YAML reads it, before it is known what it means.
enum Scalar<'a> {
    Text(&'a str),
    Whole(i128),
    Float(f64),
    Flag(bool),
    /// Nothing, or `null` or `~`.
    Nothing,
}

/// A value that checks itself. Each can be read from a text too, for that is what environment variables are.
trait FromScalar: Sized {
    /// What is allowed.
    const EXPECTED: &'static str;
    fn from_scalar(typed: Scalar<'_>) -> Result<Self, String>;
}

/// Checks the value while serde reads it: only then does the error get the line and the key.
struct ScalarVisitor<T>(std::marker::PhantomData<T>);

impl<T: FromScalar> Visitor<'_> for ScalarVisitor<T> {
    type Value = T;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }
    fn visit_str<E: de::Error>(self, typed: &str) -> Result<T, E> {
        T::from_scalar(Scalar::Text(typed)).map_err(E::custom)
    }
    fn visit_u64<E: de::Error>(self, typed: u64) -> Result<T, E> {
        T::from_scalar(Scalar::Whole(typed.into())).map_err(E::custom)
    }
    fn visit_i64<E: de::Error>(self, typed: i64) -> Result<T, E> {
        T::from_scalar(Scalar::Whole(typed.into())).map_err(E::custom)
    }
    // Past 64 bits no value of ours is allowed, and serde's own error would show it.
    fn visit_i128<E: de::Error>(self, typed: i128) -> Result<T, E> {
        T::from_scalar(Scalar::Whole(typed)).map_err(E::custom)
    }
    fn visit_u128<E: de::Error>(self, _: u128) -> Result<T, E> {
        T::from_scalar(Scalar::Whole(i128::MAX)).map_err(E::custom)
    }
    fn visit_f64<E: de::Error>(self, typed: f64) -> Result<T, E> {
        T::from_scalar(Scalar::Float(typed)).map_err(E::custom)
    }
    fn visit_bool<E: de::Error>(self, typed: bool) -> Result<T, E> {
        T::from_scalar(Scalar::Flag(typed)).map_err(E::custom)
    }
    fn visit_unit<E: de::Error>(self) -> Result<T, E> {
        T::from_scalar(Scalar::Nothing).map_err(E::custom)
    }
}

macro_rules! deserialize_by_scalar {
    ($type:ty $(, const $($bound:ident),+)?) => {
        impl<'de $(, $(const $bound: u64),+)?> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(ScalarVisitor(std::marker::PhantomData))
            }
        }
    };
}

deserialize_by_scalar!(Listen);
deserialize_by_scalar!(DatabaseHost);
deserialize_by_scalar!(Number<MIN, MAX>, const MIN, MAX);
deserialize_by_scalar!(Span<MIN_MS, MAX_MS>, const MIN_MS, MAX_MS);
deserialize_by_scalar!(Fraction);
deserialize_by_scalar!(Flag);

/// `true` or `false`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flag(pub bool);

impl FromScalar for Flag {
    const EXPECTED: &'static str = "true or false";
    fn from_scalar(typed: Scalar<'_>) -> Result<Self, String> {
        match typed {
            Scalar::Flag(typed) => Ok(Self(typed)),
            Scalar::Text("true") => Ok(Self(true)),
            Scalar::Text("false") => Ok(Self(false)),
            _ => Err(format!("write {}", Self::EXPECTED)),
        }
    }
}

/// A text that is never shown: not in a log, not in an error, not by `Debug`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret `text`.
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The text itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "(empty)" } else { "(set)" })
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let read = deserializer.deserialize_any(ScalarVisitor(std::marker::PhantomData));
        // A tag (`!!int hunter2`) fails before the visitor is asked, with an error that shows the text.
        read.map_err(|error: D::Error| match error.to_string() {
            ours if ours.contains("in quotes") => error,
            _ => de::Error::custom("put the password in quotes, without a tag"),
        })
    }
}

impl FromScalar for Secret {
    const EXPECTED: &'static str = "a text in quotes";
    fn from_scalar(typed: Scalar<'_>) -> Result<Self, String> {
        match typed {
            Scalar::Text(text) => Ok(Self(text.to_owned())),
            Scalar::Nothing => Ok(Self::default()),
            // Without the value, which serde's own errors show.
            _ => Err("put the value in quotes: as it stands, YAML does not take it for a text".to_owned()),
        }
    }
}

/// A value that is one of some words, in upper or lower case.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident, $expected:literal { $($(#[$word_meta:meta])* $variant:ident = $word:literal $(| $alias:literal)*),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$word_meta])* $variant,)+
        }

        impl FromScalar for $name {
            const EXPECTED: &'static str = $expected;
            fn from_scalar(typed: Scalar<'_>) -> Result<Self, String> {
                let Scalar::Text(typed) = typed else { return Err(format!("write {}", Self::EXPECTED)) };
                match typed.to_lowercase().as_str() {
                    $($word $(| $alias)* => Ok(Self::$variant),)+
                    _ => {
                        let typed: String = typed.chars().take(32).collect();
                        Err(format!("'{typed}' is not allowed: write {}", Self::EXPECTED))
                    }
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$variant => $word,)+
                })
            }
        }

        deserialize_by_scalar!($name);
    };
}

words!(
    /// Where the blocks come from.
    StoreName, "embedded or mysql" {
        /// A SQLite file in `data_dir`.
        Embedded = "embedded",
        /// The `mysql:` section.
        Mysql = "mysql",
    }
);

words!(
    /// The names and meanings of MySQL's own `--ssl-mode`. `VERIFY_CA` is left out: mysql_async 0.37 can't do it with rustls
    /// (it looks for another text in the error than rustls has), and `PREFERRED` gives way without a word.
    SslMode, "disabled, required or verify_identity" {
        /// Not encrypted.
        Disabled = "disabled",
        /// Encrypted; the server's certificate is not checked.
        Required = "required",
        /// Encrypted, by a certificate that an authority of `ssl_ca` signed for the host that was asked for.
        VerifyIdentity = "verify_identity",
    }
);

words!(
    /// The least severe level that is logged.
    LogLevel, "error, warn, info, debug or trace" {
        /// Errors alone.
        Error = "error",
        /// And warnings.
        Warn = "warn" | "warning",
        /// And starts, ends, and that a fault is over.
        Info = "info",
        /// And each lease.
        Debug = "debug",
        /// All.
        Trace = "trace",
    }
);

words!(
    /// How a line of the log looks.
    LogFormat, "text or json" {
        /// For people.
        Text = "text",
        /// An object a line.
        Json = "json",
    }
);

#[allow(clippy::derivable_impls)] // by the macro
impl Default for SslMode {
    fn default() -> Self {
        Self::Disabled
    }
}

#[allow(clippy::derivable_impls)]
impl Default for LogLevel {
    fn default() -> Self {
        Self::Info
    }
}

#[allow(clippy::derivable_impls)]
impl Default for LogFormat {
    fn default() -> Self {
        Self::Text
    }
}

/// An id, from 1 to [`LARGEST_MAX_ID`].
pub type Id = Number<1, LARGEST_MAX_ID>;

/// Where to listen: `':8000'` is every address of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// A host name or address without brackets; `None` for all addresses.
    pub host: Option<String>,
    /// 0 lets the system choose a free one.
    pub port: u16,
}

impl Listen {
    /// As it was typed, with the seed's leading colon where no host is named.
    pub const fn all(port: u16) -> Self {
        Self { host: None, port }
    }

    /// The one host to listen on; `None` where it is all addresses, by `:8000`, `0.0.0.0:8000` or `[::]:8000`.
    pub fn named_host(&self) -> Option<&str> {
        let is_named = |host: &&str| !host.parse().is_ok_and(|address: IpAddr| address.is_unspecified());
        self.host.as_deref().filter(is_named)
    }

    /// A host and port that this machine can connect to.
    #[must_use]
    pub fn reachable(&self) -> Self {
        Self { host: Some(self.named_host().unwrap_or("localhost").to_owned()), port: self.port }
    }
}

impl FromScalar for Listen {
    const EXPECTED: &'static str = "':8000' or 'host:8000'";
    fn from_scalar(typed: Scalar<'_>) -> Result<Self, String> {
        let typed = match typed {
            Scalar::Whole(number) => format!(":{number}"),
            Scalar::Text(text) => text.to_owned(),
            _ => return Err(format!("this is not a port: write {}", Self::EXPECTED)),
        };
        let (host, port) = typed.rsplit_once(':').unwrap_or(("", &typed));
        match (host_name(host), port.parse()) {
            (host, Ok(port)) if !host.as_ref().is_some_and(|host| host.contains(['[', ']'])) => Ok(Self { host, port }),
            _ => Err(format!("'{typed}' is not a port: write ':8000' or 'host:8000', with a port from 0 to 65535")),
        }
    }
}

fn host_name(typed: &str) -> Option<String> {
    let bare = typed.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(typed);
    (!bare.is_empty()).then(|| bare.to_owned())
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Some(host) if host.contains(':') => write!(f, "[{host}]:{}", self.port),
            Some(host) => write!(f, "{host}:{}", self.port),
            None => write!(f, ":{}", self.port),
        }
    }
}

/// Where the database is: `tcp(host:port)`, `unix(/path)` or `host:port`, as the Go driver writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatabaseHost {
    /// Over TCP; the port is 3306 where none was typed.
    Tcp {
        /// A host name or address without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// Over a Unix socket.
    Unix(PathBuf),
}

impl FromScalar for DatabaseHost {
    const EXPECTED: &'static str = "'tcp(host:3306)', 'host:3306' or 'unix(/path/of/mysqld.sock)'";
    fn from_scalar(typed: Scalar<'_>) -> Result<Self, String> {
        let allowed = format!("write {}", Self::EXPECTED);
        let Scalar::Text(typed) = typed else { return Err(format!("this is not an address: {allowed}")) };
        // Not shown in errors: people put a whole DSN here, with the password in it.
        if typed.contains('@') || typed.contains("://") {
            return Err(format!("user, password and database have keys of their own; for the host alone {allowed}"));
        }
        if let Some(path) = typed.strip_prefix("unix(").and_then(|rest| rest.strip_suffix(')')) {
            return if path.starts_with('/') {
                Ok(Self::Unix(path.into()))
            } else {
                Err(format!("the path must be absolute: {allowed}"))
            };
        }
        let address = typed.strip_prefix("tcp(").and_then(|rest| rest.strip_suffix(')')).unwrap_or(typed);
        // An IPv6 address without a port has colons of its own, and brackets around them.
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().map_err(|_| format!("the port must be from 1 to 65535: {allowed}"))?)
            }
            _ => (address, 3306),
        };
        match host_name(host) {
            Some(host) if port != 0 && !host.contains(['(', ')', '[', ']', '/', ' ']) => Ok(Self::Tcp { host, port }),
            _ => Err(format!("this is not an address: {allowed}")),
        }
    }
}

impl fmt::Display for DatabaseHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp([{host}]:{port})"),
            Self::Tcp { host, port } => write!(f, "tcp({host}:{port})"),
            Self::Unix(path) => write!(f, "unix({})", path.display()),
        }
    }
}

/// The hosts of a database, in the order of preference: one or more, none of them twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseHosts(Vec<DatabaseHost>);

/// As many nodes as MySQL's Group Replication has at most.
const MOST_HOSTS: usize = 9;

impl DatabaseHosts {
    /// All of them; there is a first one.
    pub fn all(&self) -> &[DatabaseHost] {
        &self.0
    }

    fn of(hosts: Vec<DatabaseHost>) -> Result<Self, String> {
        if let Some(twice) = hosts.iter().enumerate().find_map(|(n, host)| hosts[..n].contains(host).then_some(host)) {
            return Err(format!("{twice} is named twice: name each host once"));
        }
        match hosts.len() {
            0 => Err(format!("there is no host: write {}, or a list of them", DatabaseHost::EXPECTED)),
            1..=MOST_HOSTS => Ok(Self(hosts)),
            many => Err(format!("{many} hosts are more than {MOST_HOSTS}")),
        }
    }
}

/// One host, several with commas between (for an environment variable), or a list.
impl<'de> Deserialize<'de> for DatabaseHosts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Hosts;

        impl<'de> Visitor<'de> for Hosts {
            type Value = DatabaseHosts;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}, or a list of them", DatabaseHost::EXPECTED)
            }
            fn visit_str<E: de::Error>(self, typed: &str) -> Result<DatabaseHosts, E> {
                let hosts = typed.split(',').map(|host| DatabaseHost::from_scalar(Scalar::Text(host.trim())));
                hosts.collect::<Result<_, _>>().and_then(DatabaseHosts::of).map_err(E::custom)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut typed: A) -> Result<DatabaseHosts, A::Error> {
                let mut hosts = Vec::new();
                while let Some(host) = typed.next_element()? {
                    hosts.push(host);
                }
                DatabaseHosts::of(hosts).map_err(de::Error::custom)
            }
        }

        deserializer.deserialize_any(Hosts)
    }
}

impl fmt::Display for DatabaseHosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&hosts.join(", "))
    }
}

/// A whole number from `MIN` to `MAX`, both inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> Number<MIN, MAX> {
    /// For defaults: a constant outside of the bounds does not compile.
    pub const fn of(number: u64) -> Self {
        assert!(MIN <= number && number <= MAX);
        Self(number)
    }

    /// `number`, where it lies within the bounds.
    pub const fn new(number: u64) -> Option<Self> {
        if MIN <= number && number <= MAX { Some(Self(number)) } else { None }
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl<const MIN: u64, const MAX: u64> FromScalar for Number<MIN, MAX> {
    const EXPECTED: &'static str = "a whole number";
    fn from_scalar(typed: Scalar<'_>) -> Result<Self, String> {
        let (shown, number) = match typed {
            Scalar::Whole(number) => (number.to_string(), u64::try_from(number).ok()),
            Scalar::Text(text) => (format!("'{text}'"), text.parse().ok()),
            // `1e7`: as a number it would be shown in digits, as if those were wrong.
            Scalar::Float(_) => ("a number with a point or an exponent".to_owned(), None),
            Scalar::Flag(_) | Scalar::Nothing => ("this".to_owned(), None),
        };
        match number {
            Some(number) if (MIN..=MAX).contains(&number) => Ok(Self(number)),
            _ => Err(format!("{shown} is not allowed: write a whole number from {MIN} to {MAX}")),
        }
    }
}

/// A duration with its unit, from `MIN_MS` to `MAX_MS` milliseconds, both inclusive.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Span<const MIN_MS: u64, const MAX_MS: u64>(Duration);

impl<const MIN_MS: u64, const MAX_MS: u64> Span<MIN_MS, MAX_MS> {
    /// For defaults: a constant outside of the bounds does not compile.
    pub const fn of_millis(millis: u64) -> Self {
        assert!(MIN_MS <= millis && millis <= MAX_MS);
        Self(Duration::from_millis(millis))
    }

    /// The duration.
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl<const MIN_MS: u64, const MAX_MS: u64> fmt::Debug for Span<MIN_MS, MAX_MS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", humantime::format_duration(self.0))
    }
}

impl<const MIN_MS: u64, const MAX_MS: u64> FromScalar for Span<MIN_MS, MAX_MS> {
    const EXPECTED: &'static str = "a duration with its unit, such as 500ms, 75s or 2m";
    fn from_scalar(typed: Scalar<'_>) -> Result<Self, String> {
        let text = match typed {
            Scalar::Text(text) => text,
            Scalar::Whole(number) => return Err(format!("{number} has no unit: write 500ms, 75s or 2m")),
            _ => return Err("this is not a duration: write 500ms, 75s or 2m".to_owned()),
        };
        let (min, max) = (Duration::from_millis(MIN_MS), Duration::from_millis(MAX_MS));
        match humantime::parse_duration(text) {
            Ok(duration) if (min..=max).contains(&duration) => Ok(Self(duration)),
            Ok(_) => Err(format!(
                "'{text}' is not allowed: write a duration from {} to {}",
                humantime::format_duration(min),
                humantime::format_duration(max)
            )),
            Err(error) => Err(format!("'{text}' is not a duration ({error}): write 500ms, 75s or 2m")),
        }
    }
}

/// A fraction, from 0.0 to 1.0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fraction(pub(super) f64);

impl Fraction {
    /// The fraction.
    pub const fn get(self) -> f64 {
        self.0
    }
}

impl FromScalar for Fraction {
    const EXPECTED: &'static str = "a fraction from 0.0 to 1.0";
    fn from_scalar(typed: Scalar<'_>) -> Result<Self, String> {
        let (shown, fraction) = match typed {
            Scalar::Float(number) => (number.to_string(), Some(number)),
            Scalar::Whole(number @ 0..=1) => (number.to_string(), Some(if number == 0 { 0.0 } else { 1.0 })),
            Scalar::Whole(number) => (number.to_string(), None),
            Scalar::Text(text) => (format!("'{text}'"), text.parse().ok()),
            Scalar::Flag(_) | Scalar::Nothing => ("this".to_owned(), None),
        };
        match fraction {
            Some(fraction) if (0.0..=1.0).contains(&fraction) => Ok(Self(fraction)),
            _ => Err(format!("{shown} is not allowed: write {}", Self::EXPECTED)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(typed: &str) -> Result<String, String> {
        DatabaseHost::from_scalar(Scalar::Text(typed)).map(|host| host.to_string())
    }

    #[test]
    fn database_hosts_are_written_as_the_go_driver_does() {
        for (typed, meant) in [
            ("tcp(localhost:3306)", "tcp(localhost:3306)"),
            ("tcp(db)", "tcp(db:3306)"),
            ("10.0.0.5:3307", "tcp(10.0.0.5:3307)"),
            ("db.example", "tcp(db.example:3306)"),
            ("tcp([::1]:3307)", "tcp([::1]:3307)"),
            ("[::1]", "tcp([::1]:3306)"),
            ("unix(/run/mysqld/mysqld.sock)", "unix(/run/mysqld/mysqld.sock)"),
        ] {
            assert_eq!(host(typed).as_deref(), Ok(meant), "{typed}");
        }
        for typed in [
            "",
            "tcp()",
            "unix(mysqld.sock)",
            "unix()",
            "db:0",
            "db:port",
            "db:70000",
            "tcp(db:3306",
            "/run/x",
            "[[::1]]:1",
        ] {
            assert!(host(typed).is_err(), "{typed}");
        }
    }

    #[test]
    fn a_whole_dsn_is_refused_without_being_shown() {
        let dsn = host("root:hunter2@tcp(localhost:3306)/sequence").unwrap_err();
        assert!(dsn.contains("keys of their own") && !dsn.contains("hunter2"), "{dsn}");
    }

    #[test]
    fn listen_takes_what_the_seed_took() {
        let listen = |typed: &str| Listen::from_scalar(Scalar::Text(typed));
        assert_eq!(listen(":8000"), Ok(Listen::all(8000)));
        assert_eq!(listen("8000"), Ok(Listen::all(8000)));
        assert_eq!(listen("[::1]:80").unwrap().host.as_deref(), Some("::1"));
        assert_eq!(listen("localhost:80").unwrap().to_string(), "localhost:80");
        for typed in ["", ":", ":80x", ":65536", "localhost", "[[::1]]:80", "[::1:80"] {
            assert!(listen(typed).is_err(), "{typed}");
        }
        assert!(Listen::from_scalar(Scalar::Whole(-1)).is_err());
    }

    #[test]
    fn a_secret_is_never_shown() {
        let shown = format!("{:?}", Secret("hunter2".into()));
        assert!(!shown.contains("hunter2"));
        for number in
            ["20012001", "-20012001", "2001.5", "20012001200120012001", "-200120012001200120012001200120012001"]
        {
            let error = serde_yaml::from_str::<Secret>(number).unwrap_err().to_string();
            assert!(error.contains("quotes") && !error.contains("2001"), "{error}");
            for tag in ["!!int", "!!float", "!!bool", "!!null", "!x"] {
                let error = serde_yaml::from_str::<Secret>(&format!("{tag} hunter{number}")).unwrap_err().to_string();
                assert!(error.contains("quotes") && !error.contains("2001"), "{error}");
            }
        }
    }
}
