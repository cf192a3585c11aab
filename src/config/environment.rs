//! The environment over the file: `SEQSVR_MYSQL__PASSWORD` is `mysql.password`.

use std::path::Path;

use serde_yaml::Value;

use super::{ConfigError, ENVIRONMENT_PREFIX, ReadFile, Typed};

/// A value of the environment: the variable, the path of its key, the text.
pub(super) struct Override {
    variable: String,
    keys: Vec<String>,
    text: String,
}

/// The only key whose value may also be in a file that `<VARIABLE>_FILE` names.
const SECRET_VARIABLE: &str = "SEQSVR_MYSQL__PASSWORD";

pub(super) fn overrides(environment: &[(String, String)], read: &ReadFile<'_>) -> Result<Vec<Override>, ConfigError> {
    let secret_file = format!("{SECRET_VARIABLE}_FILE");
    let mut found = Vec::new();
    for (variable, text) in environment {
        if is_service_link(variable, text) {
            continue;
        }
        let (variable, text) = if *variable == secret_file {
            if environment.iter().any(|(other, _)| other == SECRET_VARIABLE) {
                return Err(ConfigError::new(secret_file, format!("{SECRET_VARIABLE} is set too: keep one of them")));
            }
            // Not shown: whoever put the password itself here should not find it in the log.
            let text = read(Path::new(text)).map_err(|error| {
                ConfigError::new(&secret_file, format!("the file that it names can't be read: {error}"))
            })?;
            (SECRET_VARIABLE, text.trim_end_matches(['\r', '\n']).to_owned())
        } else {
            (variable.as_str(), text.clone())
        };
        let Some(path) = variable.strip_prefix(ENVIRONMENT_PREFIX) else { continue };
        let keys: Vec<String> = path.split("__").map(str::to_lowercase).collect();
        if keys.len() > 1 && keys[0] == "sequences" {
            let what = "sequences can't be declared by variables, for upper and lower case differ in their names: write them \
                        into the file";
            return Err(ConfigError::new(variable, what));
        }
        found.push(Override { variable: variable.to_owned(), keys, text });
    }
    // The order of the environment is not defined; errors should not depend on it.
    found.sort_by(|a, b| a.variable.cmp(&b.variable));
    Ok(found)
}

/// Kubernetes sets such variables in every pod beside a service that is named `seqsvr`: they are not meant for us.
fn is_service_link(variable: &str, text: &str) -> bool {
    variable.starts_with("SEQSVR_SERVICE_")
        || variable.starts_with("SEQSVR_PORT_")
        || (variable == "SEQSVR_PORT" && text.contains("://"))
}

/// Puts the overrides over `file` and reads the result. An error names the variable that brought it about.
pub(super) fn apply(file: Value, overrides: &[Override]) -> Result<Typed, ConfigError> {
    let mut merged = file;
    for entry in overrides {
        merged = with(merged, &entry.keys, Value::String(entry.text.clone()));
        let so_far: Result<Option<Typed>, _> = serde_yaml::from_value(merged.clone());
        match so_far {
            // A section may lack keys that a later variable brings.
            Err(error) if !error.to_string().contains("missing field") => {
                return Err(ConfigError::new(&entry.variable, error));
            }
            _ => {}
        }
    }
    let typed: Result<Option<Typed>, _> = serde_yaml::from_value(merged);
    typed.map(Option::unwrap_or_default).map_err(|error| {
        // Only the mysql: section has keys that must be there.
        let place =
            overrides.iter().find(|entry| entry.keys[0] == "mysql").map_or("the environment", |entry| &entry.variable);
        ConfigError::new(place, format!("{error} of the mysql: section, which the file does not have, or not whole"))
    })
}

/// `tree` with `value` at the path `keys`.
fn with(tree: Value, keys: &[String], value: Value) -> Value {
    let Some((key, rest)) = keys.split_first() else { return value };
    let mut mapping = match tree {
        Value::Mapping(mapping) => mapping,
        _ => serde_yaml::Mapping::new(),
    };
    let below = mapping.remove(key.as_str()).unwrap_or_default();
    mapping.insert(Value::String(key.clone()), with(below, rest, value));
    Value::Mapping(mapping)
}
