//! The name of a sequence.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::de::{self, Deserializer};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

/// The sequence that `/new` uses.
pub const DEFAULT_SEQUENCE: &str = "default";

/// The name of a sequence: 1 to 128 of `A-Z a-z 0-9 . _ : -`, case-sensitive. So it can stand in SQL and in an address as
/// it is. `.` and `..` are none: clients take them out of a path (RFC 3986, section 5.2.4).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceName(Arc<str>);

impl SequenceName {
    /// The name as a text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is the one that `/new` uses.
    pub fn is_default(&self) -> bool {
        &*self.0 == DEFAULT_SEQUENCE
    }
}

/// A map of names is asked by texts, without making a name of each.
impl Borrow<str> for SequenceName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Default for SequenceName {
    fn default() -> Self {
        Self(DEFAULT_SEQUENCE.into())
    }
}

impl FromStr for SequenceName {
    type Err = &'static str;
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let allowed = |c: u8| c.is_ascii_alphanumeric() || b"._:-".contains(&c);
        match name {
            "." | ".." => Err("a sequence can't be called . or .., which clients take out of an address"),
            _ if (1..=128).contains(&name.len()) && name.bytes().all(allowed) => Ok(Self(name.into())),
            _ => Err("a sequence's name has 1 to 128 characters out of A-Z a-z 0-9 . _ : -"),
        }
    }
}

impl Serialize for SequenceName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SequenceName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl fmt::Display for SequenceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["default", "a", "...", ".a", "Orders.eu-1:x_2", &"x".repeat(128)] {
            assert_eq!(good.parse::<SequenceName>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "a b", "a/b", "é", "a\0", "a'b", &"x".repeat(129)] {
            assert!(bad.parse::<SequenceName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_map_finds_a_name_by_its_text() {
        let map = HashMap::from([(SequenceName::default(), 1)]);
        assert_eq!(map.get("default"), Some(&1));
    }
}
