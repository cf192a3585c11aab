//! What holds for every configuration: its bounds where it loads, and that no secret is shown where it does not.

use std::io;
use std::path::Path;

use seqsvr::config::{
    Config, LARGEST_MAX_ID, MOST_DECLARED, MOST_DESCRIPTION_BYTES, MySql, NewSequence, Refill, Sources, SslMode, Store,
};
use serde_json::json;
use serde_yaml::Value;

/// Where one of these stands for the password, it is never shown: a text, and what YAML takes for a number.
const SECRETS: [&str; 2] = ["hunter2", "20012001"];

/// `input` is the file. Its comments that begin with this are variables of the environment, or `--embedded`.
const VARIABLE: &str = "#$ ";

/// Reads `input`, without the file system.
pub fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let typed = || text.lines().filter_map(|line| line.strip_prefix(VARIABLE));
    let environment: Vec<_> =
        typed().filter_map(|line| line.split_once('=')).map(|(name, value)| (name.into(), value.into())).collect();
    let embedded = typed().any(|line| line == "--embedded");
    let loaded = load(text, embedded, environment.clone());
    let shown = match &loaded {
        Ok(config) => format!("{config:?}"),
        Err(error) => error.clone(),
    };
    for secret in SECRETS.into_iter().filter(|secret| shown.contains(secret)) {
        assert!(!is_only_the_password(secret, text, &environment), "the password is shown: {shown}");
    }
    if let Ok(config) = loaded {
        check_bounds(&config);
        let again = load(&rendered(&config), false, Vec::new()).expect("what was read can be written and read again");
        assert_eq!(format!("{again:?}"), shown);
        assert_eq!(again.store, config.store, "Debug does not show the password");
    }
}

fn load(text: &str, embedded: bool, environment: Vec<(String, String)>) -> Result<Config, String> {
    let sources = Sources { file: Some("config.yml".into()), embedded, environment };
    let read = |file: &Path| match file.to_str() {
        Some("config.yml") => Ok(text.to_owned()),
        Some("/secret") => Ok("hunter2\n".to_owned()),
        Some("/ca.pem") => Ok("-----BEGIN CERTIFICATE-----".to_owned()),
        Some("/own.key") => Ok("-----BEGIN PRIVATE KEY-----".to_owned()),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    };
    Config::load_with(&sources, &read).map(|(config, _)| config).map_err(|error| error.to_string())
}

/// Whether `secret` stands for the password, or for a whole DSN with one, and nowhere else; `false` where that can't be
/// said.
fn is_only_the_password(secret: &str, text: &str, environment: &[(String, String)]) -> bool {
    // With YAML's own tags (`!!int x`) a text may fail to be read as what it is; with others it is only text.
    let Ok(mut file) = serde_yaml::from_str::<Value>(&text.replace("!!", "!x")) else { return false };
    match file.get_mut("mysql") {
        Some(Value::Mapping(section)) => {
            section.remove("password");
            if section.get("host").and_then(Value::as_str).is_some_and(|host| host.contains('@')) {
                section.remove("host");
            }
        }
        Some(other) if other.is_string() => *other = Value::Null,
        _ => {}
    }
    let is_meant = |name: &str, value: &str| match name {
        "SEQSVR_MYSQL" | "SEQSVR_MYSQL__PASSWORD" | "SEQSVR_MYSQL__PASSWORD_FILE" => true,
        "SEQSVR_MYSQL__HOST" => value.contains('@'),
        _ => !value.contains(secret),
    };
    // A variable's name is shown in lower case too, as a key.
    let is_only_meant =
        |(name, value): &(String, String)| !name.to_lowercase().contains(secret) && is_meant(name, value);
    !shows(&file, secret) && environment.iter().all(is_only_meant)
}

fn shows(value: &Value, secret: &str) -> bool {
    match value {
        Value::Null | Value::Bool(_) => false,
        // As the file has it, and as serde's errors do.
        Value::Number(number) => {
            number.to_string().contains(secret)
                || number.as_f64().is_some_and(|float| float.to_string().contains(secret))
        }
        Value::String(text) => text.contains(secret),
        Value::Sequence(values) => values.iter().any(|value| shows(value, secret)),
        Value::Mapping(mapping) => mapping.iter().any(|(key, value)| shows(key, secret) || shows(value, secret)),
        Value::Tagged(tagged) => tagged.tag.to_string().contains(secret) || shows(&tagged.value, secret),
    }
}

/// The bounds that the types promise, and those between values.
fn check_bounds(config: &Config) {
    let Config { step, refill: Refill { threshold, runway, max_block }, limits, shutdown, .. } = config;
    let millis = |duration: std::time::Duration| u64::try_from(duration.as_millis()).expect("at most a day");
    for (what, value, bounds) in [
        ("step", step.get(), 1..=u64::from(u32::MAX)),
        ("refill.runway", millis(runway.get()), 0..=86_400_000),
        ("refill.max_block", max_block.get(), 1..=1_000_000_000),
        ("limits.wait", millis(limits.wait.get()), 0..=60_000),
        ("limits.waiters", limits.waiters.get(), 0..=1_000_000),
        ("limits.batch", limits.batch.get(), 1..=1_000_000),
        ("limits.range", limits.range.get(), 1..=1_000_000_000),
        ("limits.connections", limits.connections.get(), 1..=1_000_000),
        ("limits.keep_alive", millis(limits.keep_alive.get()), 1_000..=3_600_000),
        ("limits.request", millis(limits.request.get()), 1_000..=3_600_000),
        ("shutdown.lead", millis(shutdown.lead.get()), 0..=600_000),
        ("shutdown.grace", millis(shutdown.grace.get()), 0..=600_000),
    ] {
        assert!(bounds.contains(&value), "{what} is {value}");
    }
    assert!((0.0..=1.0).contains(&threshold.get()), "refill.threshold is {threshold:?}");
    assert!(!config.data_dir.as_os_str().is_empty());
    assert!(config.sequences.len() <= MOST_DECLARED);
    assert!(config.sequences.is_sorted_by(|a, b| a.name < b.name), "a sequence is declared twice");
    for new in config.sequences.iter().chain([&config.default_sequence()]) {
        assert!(1 <= new.first_id && new.first_id <= new.max_id && new.max_id <= LARGEST_MAX_ID, "{new:?}");
        assert!(new.description.len() <= MOST_DESCRIPTION_BYTES);
    }
    if let Store::MySql(mysql) = &config.store {
        let MySql { user, host, database, ssl_mode, ssl_ca, ssl_cert, ssl_key, .. } = &**mysql;
        assert!(!user.is_empty() && !database.is_empty());
        assert!(ssl_ca.is_none() || *ssl_mode == SslMode::VerifyIdentity);
        assert!(ssl_cert.is_some() == ssl_key.is_some() && (ssl_key.is_none() || *ssl_mode != SslMode::Disabled));
        let hosts = host.all();
        assert!((1..=9).contains(&hosts.len()));
        assert!((1..hosts.len()).all(|n| !hosts[..n].contains(&hosts[n])), "a host is named twice");
    }
}

/// The file that says the same: JSON is YAML.
fn rendered(config: &Config) -> String {
    let Config { port, step, store, data_dir, refill, sequences, limits, shutdown, log } = config;
    let shown = |value: &dyn std::fmt::Debug| format!("{value:?}");
    let declared = sequences.iter().map(|new| {
        let NewSequence { name, step, first_id, max_id, description } = new;
        let values = json!({"step": step.get(), "first_id": first_id, "max_id": max_id, "description": description});
        (name.to_string(), values)
    });
    let mut file = json!({
        "port": port.to_string(),
        "step": step.get(),
        "data_dir": data_dir,
        "refill": {
            "threshold": refill.threshold.get(),
            "runway": shown(&refill.runway),
            "max_block": refill.max_block.get(),
        },
        "sequences": declared.collect::<serde_json::Map<_, _>>(),
        "limits": {
            "wait": shown(&limits.wait),
            "waiters": limits.waiters.get(),
            "batch": limits.batch.get(),
            "range": limits.range.get(),
            "connections": limits.connections.get(),
            "keep_alive": shown(&limits.keep_alive),
            "request": shown(&limits.request),
        },
        "shutdown": {"lead": shown(&shutdown.lead), "grace": shown(&shutdown.grace)},
        "log": {"level": shown(&log.level).to_lowercase(), "format": shown(&log.format).to_lowercase()},
    });
    match store {
        Store::Embedded => file["store"] = json!("embedded"),
        Store::MySql(mysql) => {
            let MySql {
                user,
                password,
                password_file,
                host,
                database,
                ssl_mode,
                ssl_ca,
                ssl_cert,
                ssl_key,
                failover_skip,
                require_durable,
            } = &**mysql;
            let ssl_mode = match ssl_mode {
                SslMode::Disabled => "disabled",
                SslMode::Required => "required",
                SslMode::VerifyIdentity => "verify_identity",
            };
            let host: Vec<String> = host.all().iter().map(ToString::to_string).collect();
            file["mysql"] = json!({
                "user": user, "host": host, "database": database, "ssl_mode": ssl_mode,
                "ssl_ca": ssl_ca, "ssl_cert": ssl_cert, "ssl_key": ssl_key, "failover_skip": failover_skip.get(), "require_durable": require_durable.0,
            });
            match password_file {
                Some(secret) => file["mysql"]["password_file"] = json!(secret),
                None => file["mysql"]["password"] = json!(password.expose()),
            }
        }
    }
    // YAML takes fewer characters as they are.
    let escaped = |c: char| if matches!(c, ' '..='~') { c.to_string() } else { format!("\\U{:08x}", u32::from(c)) };
    file.to_string().chars().map(escaped).collect()
}
