//! The values that the configuration is made of. Each checks itself while it is read, so that the error names the
//! file, the line and the key, and nothing behind this module meets a value that is not allowed.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

/// A text that is never shown: not in a log, not in an error, not by `Debug`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
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
        /// serde's own errors show the value; these don't.
        struct NeverShown;

        impl Visitor<'_> for NeverShown {
            type Value = Secret;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text in quotes")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Secret, E> {
                Ok(Secret(text.to_owned()))
            }
            fn visit_unit<E: de::Error>(self) -> Result<Secret, E> {
                Ok(Secret::default())
            }
            fn visit_bool<E: de::Error>(self, _: bool) -> Result<Secret, E> {
                Err(E::custom("put the value in quotes: as it stands, YAML takes it for a true/false"))
            }
            fn visit_u64<E: de::Error>(self, _: u64) -> Result<Secret, E> {
                Err(E::custom("put the value in quotes: as it stands, YAML takes it for a number"))
            }
            fn visit_i64<E: de::Error>(self, _: i64) -> Result<Secret, E> {
                self.visit_u64(0)
            }
            fn visit_f64<E: de::Error>(self, _: f64) -> Result<Secret, E> {
                self.visit_u64(0)
            }
        }

        deserializer.deserialize_any(NeverShown)
    }
}

/// Where to listen: `':8000'` is every address of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "TextOrNumber")]
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
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected ':8000' or 'host:8000'")]
enum TextOrNumber {
    Number(i64),
    Text(String),
}

impl TryFrom<TextOrNumber> for Listen {
    type Error = String;
    fn try_from(typed: TextOrNumber) -> Result<Self, String> {
        let typed = match typed {
            TextOrNumber::Number(number) => format!(":{number}"),
            TextOrNumber::Text(text) => text,
        };
        let (host, port) = typed.rsplit_once(':').unwrap_or(("", &typed));
        let port = port.parse().map_err(|_| {
            format!("'{typed}' is not a port: write ':8000' or 'host:8000', with a port from 0 to 65535")
        })?;
        Ok(Self { host: host_name(host), port })
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
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
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

impl TryFrom<String> for DatabaseHost {
    type Error = String;
    fn try_from(typed: String) -> Result<Self, String> {
        const ALLOWED: &str = "write 'tcp(host:3306)', 'host:3306' or 'unix(/path/of/mysqld.sock)'";
        if let Some(path) = typed.strip_prefix("unix(").and_then(|rest| rest.strip_suffix(')')) {
            return if path.starts_with('/') {
                Ok(Self::Unix(path.into()))
            } else {
                Err(format!("'{typed}' has no absolute path: {ALLOWED}"))
            };
        }
        let address = typed.strip_prefix("tcp(").and_then(|rest| rest.strip_suffix(')')).unwrap_or(&typed);
        // An IPv6 address without a port has colons of its own, and brackets around them.
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().map_err(|_| format!("'{typed}' has no port from 1 to 65535: {ALLOWED}"))?)
            }
            _ => (address, 3306),
        };
        match host_name(host) {
            Some(host) if port != 0 && !host.contains(['(', ')', '/', ' ']) => Ok(Self::Tcp { host, port }),
            _ => Err(format!("'{typed}' is not an address: {ALLOWED}")),
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

/// A whole number from `MIN` to `MAX`, both inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "i128")]
pub struct Number<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> Number<MIN, MAX> {
    /// For defaults: a constant outside of the bounds does not compile.
    pub const fn of(number: u64) -> Self {
        assert!(MIN <= number && number <= MAX);
        Self(number)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl<const MIN: u64, const MAX: u64> TryFrom<i128> for Number<MIN, MAX> {
    type Error = String;
    fn try_from(typed: i128) -> Result<Self, String> {
        match u64::try_from(typed) {
            Ok(number) if (MIN..=MAX).contains(&number) => Ok(Self(number)),
            _ => Err(format!("{typed} is not allowed: write a whole number from {MIN} to {MAX}")),
        }
    }
}

/// A duration with its unit, from `MIN_MS` to `MAX_MS` milliseconds, both inclusive.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "DurationText")]
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

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a duration with its unit, such as 500ms, 75s or 2m")]
enum DurationText {
    Text(String),
    Number(f64),
}

impl<const MIN_MS: u64, const MAX_MS: u64> TryFrom<DurationText> for Span<MIN_MS, MAX_MS> {
    type Error = String;
    fn try_from(typed: DurationText) -> Result<Self, String> {
        let text = match typed {
            DurationText::Text(text) => text,
            DurationText::Number(number) => {
                return Err(format!("{number} has no unit: write 500ms, 75s or 2m"));
            }
        };
        let (min, max) = (Duration::from_millis(MIN_MS), Duration::from_millis(MAX_MS));
        match humantime::parse_duration(&text) {
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
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(try_from = "f64")]
pub struct Fraction(pub(super) f64);

impl Fraction {
    /// The fraction.
    pub const fn get(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for Fraction {
    type Error = String;
    fn try_from(typed: f64) -> Result<Self, String> {
        if (0.0..=1.0).contains(&typed) {
            Ok(Self(typed))
        } else {
            Err(format!("{typed} is not allowed: write a fraction from 0.0 to 1.0"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(typed: &str) -> Result<String, String> {
        DatabaseHost::try_from(typed.to_owned()).map(|host| host.to_string())
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
        for typed in
            ["", "tcp()", "unix(mysqld.sock)", "unix()", "db:0", "db:port", "db:70000", "tcp(db:3306", "/run/x"]
        {
            assert!(host(typed).is_err(), "{typed}");
        }
    }

    #[test]
    fn listen_takes_what_the_seed_took() {
        let listen = |typed: &str| Listen::try_from(TextOrNumber::Text(typed.to_owned()));
        assert_eq!(listen(":8000"), Ok(Listen::all(8000)));
        assert_eq!(listen("8000"), Ok(Listen::all(8000)));
        assert_eq!(listen("[::1]:80").unwrap().host.as_deref(), Some("::1"));
        assert_eq!(listen("localhost:80").unwrap().to_string(), "localhost:80");
        for typed in ["", ":", ":80x", ":65536", "localhost"] {
            assert!(listen(typed).is_err(), "{typed}");
        }
        assert!(Listen::try_from(TextOrNumber::Number(-1)).is_err());
    }

    #[test]
    fn a_secret_is_never_shown() {
        let shown = format!("{:?}", Secret("hunter2".into()));
        assert!(!shown.contains("hunter2"));
        let error = serde_yaml::from_str::<Secret>("20012001").unwrap_err().to_string();
        assert!(error.contains("quotes") && !error.contains("2001"), "{error}");
    }
}
