//! Environment variables: `SEQSVR_MYSQL__PASSWORD` is `mysql.password`.

use std::path::PathBuf;

use serde_yaml::Value;

use super::typed::Typed;
use super::values::StoreName;
use super::{ConfigError, ENVIRONMENT_PREFIX, FILE_VARIABLE};

/// The variables that set something.
pub(super) struct Variables {
    /// What they set.
    pub(super) typed: Typed,
    /// The file that [`FILE_VARIABLE`] names.
    pub(super) file: Option<PathBuf>,
    /// Each one's key (`mysql.host`) and name, in the order of the names.
    pub(super) names: Vec<(String, String)>,
}

/// The keys of `mysql:` without which there is no server to lease from.
const OF_A_SERVER: [&str; 3] = ["mysql.host", "mysql.user", "mysql.database"];

impl Variables {
    /// Reads those of ours in `environment`.
    pub(super) fn read(environment: &[(String, String)]) -> Result<Self, ConfigError> {
        let mut ours: Vec<&(String, String)> = environment
            .iter()
            .filter(|(variable, text)| variable.starts_with(ENVIRONMENT_PREFIX) && !is_injected(variable, text))
            .collect();
        // The order of the environment is not defined; errors should not depend on it.
        ours.sort_unstable();
        let mut variables = Self { typed: Typed::default(), file: None, names: Vec::new() };
        for (variable, text) in ours {
            if variable == FILE_VARIABLE {
                variables.file = Some(text.into()).filter(|_| !text.is_empty());
                continue;
            }
            let keys: Vec<String> = variable[ENVIRONMENT_PREFIX.len()..].split("__").map(str::to_lowercase).collect();
            if keys.len() > 1 && keys[0] == "sequences" {
                let what = "sequences can't be declared by variables, for upper and lower case differ in their names: write them \
                            into the file";
                return Err(ConfigError::new(variable, what));
            }
            if let Some((_, twice)) = variables.names.iter().find(|(key, _)| *key == keys.join(".")) {
                return Err(ConfigError::new(variable, format!("{twice} sets the same key: keep one of the two")));
            }
            let tree = keys.iter().rev().fold(Value::String(text.clone()), |value, key| {
                Value::Mapping([(Value::String(key.clone()), value)].into_iter().collect())
            });
            let typed: Typed = serde_yaml::from_value(tree).map_err(|error| ConfigError::new(variable, error))?;
            variables.typed = typed.over(variables.typed);
            variables.names.push((keys.join("."), variable.clone()));
        }
        Ok(variables)
    }

    fn name_of(&self, wanted: impl Fn(&str) -> bool) -> Option<&str> {
        self.names.iter().find(|(key, _)| wanted(key)).map(|(_, variable)| variable.as_str())
    }

    /// The store that they choose, and the variable that does: `SEQSVR_STORE`, or all that a server takes.
    pub(super) fn chosen(&self) -> Result<Option<(StoreName, &str)>, ConfigError> {
        let of_store = self.typed.store.zip(self.name_of(|key| key == "store"));
        if let (Some((StoreName::Embedded, _)), Some(variable)) = (of_store, self.of_mysql()) {
            let what = "two stores are chosen: SEQSVR_STORE says embedded. Remove one of the two variables";
            return Err(ConfigError::new(variable, what));
        }
        let is_server = OF_A_SERVER.into_iter().all(|wanted| self.name_of(|key| key == wanted).is_some());
        Ok(of_store.or_else(|| self.of_mysql().filter(|_| is_server).map(|variable| (StoreName::Mysql, variable))))
    }

    /// A variable that sets a key of `mysql:`.
    pub(super) fn of_mysql(&self) -> Option<&str> {
        self.name_of(|key| key.starts_with("mysql."))
    }
}

/// Whether a platform has set `variable` by itself, for a service or a container whose name begins with `seqsvr`.
///
/// Kubernetes sets `SEQSVR_SERVICE_HOST`, `_SERVICE_PORT`, `_SERVICE_PORT_HTTP`, `_PORT`, `_PORT_8000_TCP`, `_PORT_8000_TCP_PROTO`,
/// `_PORT` and `_ADDR` of a service `seqsvr`, and `SEQSVR_DB_...` of `seqsvr-db`
/// (kubernetes.io/docs/concepts/services-networking/service, "Environment variables"). Docker's links set `_NAME` and `_ENV_...` besides.
fn is_injected(variable: &str, text: &str) -> bool {
    // Ours have two underscores between a section and its key, and no platform sets such a name.
    if variable.contains("__") {
        return false;
    }
    let words: Vec<&str> = variable.split('_').collect();
    let is_port = |words: &[&str]| match words {
        ["PORT", number, protocol, rest @ ..] => {
            number.parse::<u16>().is_ok()
                && matches!(*protocol, "TCP" | "UDP" | "SCTP")
                && matches!(rest, [] | ["PROTO" | "PORT" | "ADDR"])
        }
        ["PORT"] => text.contains("://"),
        _ => false,
    };
    (1..words.len()).any(|after| match &words[after..] {
        ["SERVICE", "HOST"] | ["SERVICE", "PORT", ..] | ["ENV", _, ..] => true,
        ["NAME"] => text.starts_with('/'),
        words => is_port(words),
    })
}
