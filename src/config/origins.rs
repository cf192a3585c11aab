//! Where each value comes from.

use std::collections::BTreeMap;
use std::fmt::Display;

use serde_yaml::Value;

use super::ConfigError;
use super::environment::Variables;

/// Which keys are set, and by what.
#[derive(Clone, Debug)]
pub struct Origins {
    /// The file, or what stands for it in errors.
    place: String,
    /// By the key (`mysql.host`): the variable, or the file.
    set: BTreeMap<String, String>,
}

impl Origins {
    /// Of the file `text` at `place`, and of the variables over it.
    pub(super) fn new(place: &str, text: &str, variables: &Variables) -> Self {
        let mut set = BTreeMap::new();
        // It was read before; what a `Value` can't have has no keys of ours either.
        let tree = serde_yaml::from_str(text).unwrap_or_default();
        note_keys("", &tree, &mut |key| drop(set.insert(key, place.to_owned())));
        set.extend(variables.names.iter().cloned());
        Self { place: place.to_owned(), set }
    }

    /// The variable or the file that sets `key`; `None` if it has its default.
    pub fn of(&self, key: &str) -> Option<&str> {
        self.set.get(key).map(String::as_str)
    }

    /// The file, or what stands for it.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// That the value of `key` is wrong, where it is set.
    pub(super) fn error(&self, key: &str, what: impl Display) -> ConfigError {
        match self.of(key) {
            Some(variable) if variable != self.place => ConfigError::new(variable, what),
            _ => ConfigError::new(&self.place, format!("{key}: {what}")),
        }
    }
}

/// Tells `note` of each key below `tree`, which is at `path`.
fn note_keys(path: &str, tree: &Value, note: &mut impl FnMut(String)) {
    let Value::Mapping(mapping) = tree else {
        note(path.to_owned());
        return;
    };
    for (key, value) in mapping {
        let key = match key {
            Value::String(key) => key.clone(),
            other => serde_yaml::to_string(other).unwrap_or_default().trim().to_owned(),
        };
        note_keys(&if path.is_empty() { key } else { format!("{path}.{key}") }, value, note);
    }
}
