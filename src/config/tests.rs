//! The configuration as a table: what works, and what each mistake is told.

use super::mysql::check_pem;
use super::*;

const SEED: &str = "#app\nport: ':8000'\n\n#service\nstep: 100\n\n#db\nmysql:\n  user: 'root'\n  password: ''\n  \
                    host: 'tcp(localhost:3306)'\n  database: 'sequence'\n";

fn load(text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.yml");
    std::fs::write(&file, text).unwrap();
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let loaded = Config::load(&Sources { file: Some(file), embedded: false, environment });
    loaded.map(|(config, _)| config).map_err(|error| error.to_string())
}

/// Without a file that is named: of `files` those are there that are looked for.
fn found(files: &[(&str, &str)], environment: &[(&str, &str)]) -> Result<(Config, Origins), String> {
    let read = |wanted: &Path| {
        let text = files.iter().find(|(file, _)| Path::new(file) == wanted).map(|(_, text)| (*text).to_owned());
        text.ok_or_else(|| io::ErrorKind::NotFound.into())
    };
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let sources = Sources { environment, ..Sources::default() };
    Config::load_with(&sources, &read).map_err(|error| error.to_string())
}

#[test]
fn the_seeds_file_works_as_it_is() {
    let config = load(SEED, &[]).unwrap();
    assert_eq!((config.port, config.step.get()), (Listen::all(8000), 100));
    let Store::MySql(mysql) = config.store else { panic!("not MySQL") };
    assert_eq!((mysql.user.as_str(), mysql.password.expose(), mysql.database.as_str()), ("root", "", "sequence"));
    assert_eq!(mysql.host.to_string(), "tcp(localhost:3306)");
}

#[test]
fn the_shipped_file_says_the_defaults() {
    let shipped = include_str!("../../config.yml");
    let (shipped, bare) = (load(shipped, &[]).unwrap(), load("store: embedded", &[]).unwrap());
    assert_eq!(format!("{shipped:?}"), format!("{bare:?}"));
    let mysql: String = include_str!("../../config.yml")
        .lines()
        .filter(|line| !line.starts_with("store:"))
        .map(|line| line.strip_prefix("#!").unwrap_or(line).to_owned() + "\n")
        .collect();
    assert_eq!(load(&mysql, &[]).unwrap().store, load(SEED, &[]).unwrap().store, "the commented section is the seed's");
}

#[test]
fn a_mistake_names_the_place_and_what_is_allowed() {
    for (text, wanted) in [
        ("", "no store is chosen"),
        ("mysql:\n", "no store is chosen"),
        (&*format!("{SEED}store: embedded\n"), "two stores are chosen"),
        ("store: sqlite", "store: 'sqlite' is not allowed: write embedded or mysql"),
        ("store: mysql", "mysql.user: it is missing"),
        ("log: {level: loud}", "log.level: 'loud' is not allowed: write error, warn, info, debug or trace"),
        ("steps: 5\nstore: embedded", "line 1"),
        ("port: 1\nstore: embedded\n\nport: 2", "line 4"),
        ("store: embedded\nsteps: 5", "unknown field `steps`, expected one of `port`, `step`"),
        ("store: embedded\nsteps: 5", "line 2"),
        ("store: embedded\nstep: 0", "step: 0 is not allowed: write a whole number from 1 to 4294967295 at line 2"),
        ("store: embedded\nstep: -1", "-1 is not allowed"),
        ("store: embedded\nstep: many", "step: 'many' is not allowed"),
        ("store: embedded\nport: ':80000'", "port: ':80000' is not a port"),
        ("store: embedded\nrefill:\n  runway: 60", "refill.runway: 60 has no unit"),
        ("store: embedded\nrefill:\n  runway: 60 sheep", "is not a duration"),
        ("store: embedded\nrefill:\n  runway: 25h", "from 0s to 1day"),
        ("store: embedded\nrefill:\n  threshold: 1.5", "refill.threshold: 1.5 is not allowed"),
        ("store: embedded\nlimits: {batch: 0}", "limits.batch: 0 is not allowed"),
        ("store: embedded\nrefill: {max_block: 1e7}", "refill.max_block: a number with a point or an exponent is not"),
        (
            "mysql: {user: u, host: 'mysql://h:3306/d', database: d}",
            "mysql.host: user, password and database have keys",
        ),
        ("mysql: {user: u, host: h, database: d, password: x, password_file: /y}", "keep one of the two"),
        ("mysql: {user: u, host: 'unix(x)', database: d}", "mysql.host: the path must be absolute"),
        ("mysql: {user: u, database: d}", "mysql.host: it is missing"),
        ("mysql: {user: u, host: h, database: d, password: 123}", "mysql.password: put the value in quotes"),
        ("mysql:\n  user: u\n  host: h\n  database: d\n  password: !!int hunter2", "put the password in quotes"),
        ("store: embedded\nsequences: {'a b': {}}", "a sequence's name has 1 to 128 characters"),
        ("store: embedded\nsequences: {a: {stepp: 1}}", "unknown field `stepp`"),
        ("store: embedded\nsequences: {a: {step: 0}}", "0 is not allowed"),
        ("store: embedded\nsequences: {a: {max_id: 9223372036854775807}}", "from 1 to 9223372036854775806"),
        (
            "store: embedded\nsequences: {a: {first_id: 9, max_id: 8}}",
            "sequences.a: the first id 9 is above the largest",
        ),
        ("store: embedded\nsequences: [a]", "sequences: invalid type: sequence, expected a map"),
        ("store: [", "line 1"),
        ("mysql: 'root:hunter2@tcp(h:1)/d'", "write a section with the keys user, password"),
        ("mysql: {user: u, host: h, database: ''}", "mysql.database: it is empty"),
        ("mysql: {user: '', host: h, database: d}", "mysql.user: it is empty"),
        ("mysql: {user: u, host: h, database: d, ssl_ca: /x}", "mysql.ssl_ca: nothing is checked with it"),
        (
            "mysql: {user: u, host: h, database: d, ssl_mode: verify_identity, ssl_ca: /no/such}",
            "mysql.ssl_ca: '/no/such' can't be read",
        ),
        (
            "mysql: {user: u, host: h, database: d, ssl_mode: verify_identity, ssl_ca: Cargo.toml}",
            "mysql.ssl_ca: 'Cargo.toml' has no certificate",
        ),
        ("mysql: {user: u, host: h, database: d, ssl_cert: /x}", "mysql.ssl_cert: it needs mysql.ssl_key too"),
        ("mysql: {user: u, host: h, database: d, ssl_key: /x}", "mysql.ssl_key: it needs mysql.ssl_cert too"),
        ("mysql: {user: u, host: h, database: d, ssl_cert: /x, ssl_key: /y}", "mysql.ssl_cert: nothing is encrypted"),
        (
            "mysql: {user: u, host: h, database: d, ssl_mode: required, ssl_cert: /no/such, ssl_key: /y}",
            "mysql.ssl_cert: '/no/such' can't be read",
        ),
        ("mysql: {user: u, host: 'root:hunter2', database: d}", "mysql.host: the port must be from 1 to 65535"),
        (
            "mysql: {user: u, host: [a, 'root:hunter2@b'], database: d}",
            "mysql.host[1]: user, password and database have",
        ),
        ("mysql: {user: u, host: 'a,root:hunter2@b', database: d}", "mysql.host: user, password and database have"),
        ("mysql: {user: u, host: [], database: d}", "mysql.host: there is no host"),
        ("mysql: {user: u, host: 'a,', database: d}", "mysql.host: this is not an address"),
        ("mysql: {user: u, host: [a, 'tcp(a:3306)'], database: d}", "mysql.host: tcp(a:3306) is named twice"),
        ("mysql: {user: u, host: [a, b, c, d, e, f, g, h, i, j], database: d}", "mysql.host: 10 hosts are more than 9"),
        ("mysql: {user: u, host: 3306, database: d}", "a list of them"),
        ("store: embedded\ndata_dir: ''", "data_dir: it is empty"),
    ] {
        let error = load(text, &[]).unwrap_err();
        assert!(error.contains(wanted) && error.contains("config.yml"), "{text:?} said: {error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn hosts_are_one_or_several() {
    for (typed, meant) in [
        ("'db'", "tcp(db:3306)"),
        ("['db1:1', 'unix(/x/y)', 'tcp([::1]:2)']", "tcp(db1:1), unix(/x/y), tcp([::1]:2)"),
        ("'tcp(db1), db2:1'", "tcp(db1:3306), tcp(db2:1)"),
    ] {
        let text = format!("mysql: {{user: u, database: d, host: {typed}}}");
        let Store::MySql(mysql) = load(&text, &[]).unwrap().store else { panic!("not MySQL") };
        assert_eq!(mysql.host.to_string(), meant);
    }
    let Store::MySql(mysql) = load(SEED, &[("SEQSVR_MYSQL__HOST", "db1,db2")]).unwrap().store else {
        panic!("not MySQL")
    };
    assert_eq!(mysql.host.to_string(), "tcp(db1:3306), tcp(db2:3306)");
}

#[test]
fn a_key_in_pem_form_is_told_from_what_is_none() {
    for (text, wanted) in [
        ("-----BEGIN PRIVATE KEY-----\nhunter2", Ok(())),
        ("-----BEGIN EC PRIVATE KEY-----\r\nhunter2", Ok(())),
        (
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nhunter2",
            Err("is encrypted by a password, which can't be given here"),
        ),
        ("-----BEGIN CERTIFICATE-----\nhunter2", Err("has no private key in PEM form")),
        ("", Err("has no private key in PEM form")),
    ] {
        let checked = check_pem(Path::new("key"), "PRIVATE KEY", &|_| Ok(text.to_owned()));
        assert_eq!(checked, wanted.map_err(ToOwned::to_owned), "{text}");
    }
}

#[test]
fn the_environment_overrides_every_kind_of_key() {
    let config = load(
        SEED,
        &[
            ("PATH", "/bin"),
            ("SEQSVR_PORT", "127.0.0.1:9000"),
            ("SEQSVR_STEP", "7"),
            ("SEQSVR_MYSQL__PASSWORD", "12345"),
            ("SEQSVR_REFILL__RUNWAY", "5s"),
            ("SEQSVR_REFILL__THRESHOLD", "0.25"),
            ("SEQSVR_LOG__FORMAT", "json"),
        ],
    )
    .unwrap();
    assert_eq!((config.port.to_string().as_str(), config.step.get()), ("127.0.0.1:9000", 7));
    assert_eq!(config.refill.runway.get().as_secs(), 5);
    assert!((config.refill.threshold.get() - 0.25).abs() < f64::EPSILON);
    assert_eq!(config.log.format, LogFormat::Json);
    let Store::MySql(mysql) = config.store else { panic!("not MySQL") };
    assert_eq!(mysql.password.expose(), "12345");
}

#[test]
fn a_whole_section_can_come_from_the_environment() {
    let config = load(
        "step: 5",
        &[("SEQSVR_MYSQL__USER", "u"), ("SEQSVR_MYSQL__HOST", "db:1"), ("SEQSVR_MYSQL__DATABASE", "d")],
    )
    .unwrap();
    assert!(matches!(config.store, Store::MySql(_)));
}

#[test]
fn a_mistake_in_the_environment_names_the_variable() {
    for (name, value, wanted) in [
        ("SEQSVR_STEP", "0", "SEQSVR_STEP: '0' is not allowed"),
        ("SEQSVR_STEPS", "1", "SEQSVR_STEPS: unknown field `steps`"),
        ("SEQSVR_LIMITS__WAIT", "5", "SEQSVR_LIMITS__WAIT: '5' is not a duration"),
        ("SEQSVR_STORE", "redis", "SEQSVR_STORE: 'redis' is not allowed"),
        ("SEQSVR_MYSQL__SSL_CA", "/x", "SEQSVR_MYSQL__SSL_CA: nothing is checked with it"),
        ("SEQSVR_MYSQL__USER", "", "SEQSVR_MYSQL__USER: it is empty"),
        ("SEQSVR_DATA_DIR", "", "SEQSVR_DATA_DIR: it is empty"),
        ("SEQSVR_MYSQL__PASSWORD_FILE", "/no/such/file", "the file that it names can't be read"),
        ("SEQSVR_MYSQL__PASSWORD_FILE", "hunter2", "the file that it names can't be read"),
    ] {
        let error = load(SEED, &[(name, value)]).unwrap_err();
        assert!(error.contains(wanted), "{name}={value} said: {error}");
    }
    let twice = load(SEED, &[("SEQSVR_STEP", "1"), ("SEQSVR_step", "2")]).unwrap_err();
    assert!(twice.contains("sets the same key"), "{twice}");
    let key = [
        ("SEQSVR_MYSQL__SSL_MODE", "required"),
        ("SEQSVR_MYSQL__SSL_KEY", "-----BEGIN hunter2"),
        ("SEQSVR_MYSQL__SSL_CERT", "-----BEGIN hunter2"),
    ];
    let error = load(SEED, &key).unwrap_err();
    assert!(error.contains("(not a path)") && !error.contains("hunter2"), "{error}");
    let error = load("store: embedded", &[("SEQSVR_MYSQL__PASSWORD", "hunter2")]).unwrap_err();
    assert!(
        error.starts_with("SEQSVR_MYSQL__PASSWORD: the embedded store is chosen") && !error.contains("hunter2"),
        "{error}"
    );
    let error = load("mysql: {user: u, database: d}", &[("SEQSVR_STEP", "1")]).unwrap_err();
    assert!(error.contains("config.yml") && error.contains("mysql.host: it is missing"), "{error}");
}

#[test]
fn a_secret_can_come_from_a_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "hunter2\n").unwrap();
    let path = file.path().to_str().unwrap();
    let config = load(SEED, &[("SEQSVR_MYSQL__PASSWORD_FILE", path)]).unwrap();
    let Store::MySql(mysql) = &config.store else { panic!("not MySQL") };
    assert_eq!(mysql.password.expose(), "hunter2");
    assert!(!format!("{config:?}").contains("hunter2"));
    let both = load(SEED, &[("SEQSVR_MYSQL__PASSWORD_FILE", path), ("SEQSVR_MYSQL__PASSWORD", "x")]);
    assert!(both.unwrap_err().contains("keep one of the two"));
    let over = "mysql: {user: u, host: h, database: d, password: old}";
    let Store::MySql(mysql) = load(over, &[("SEQSVR_MYSQL__PASSWORD_FILE", path)]).unwrap().store else {
        panic!("not MySQL")
    };
    assert_eq!(mysql.password().expose(), "hunter2", "a variable counts more than the file");
    std::fs::write(file.path(), "rotated\r\n").unwrap();
    assert_eq!(mysql.password().expose(), "rotated");
    drop(file);
    assert_eq!(mysql.password().expose(), "hunter2", "the last one that was read");
}

#[test]
fn variables_that_platforms_inject_are_passed_over() {
    for (name, value) in [
        ("SEQSVR_PORT", "tcp://10.0.0.7:8000"),
        ("SEQSVR_SERVICE_HOST", "10.0.0.7"),
        ("SEQSVR_SERVICE_PORT", "8000"),
        ("SEQSVR_SERVICE_PORT_HTTP", "8000"),
        ("SEQSVR_PORT_8000_TCP", "tcp://10.0.0.7:8000"),
        ("SEQSVR_PORT_8000_TCP_ADDR", "10.0.0.7"),
        ("SEQSVR_PORT_8000_UDP_PROTO", "udp"),
        // Of services that are called seqsvr-mysql and seqsvr-2.
        ("SEQSVR_MYSQL_PORT", "tcp://10.0.0.8:3306"),
        ("SEQSVR_MYSQL_SERVICE_HOST", "10.0.0.8"),
        ("SEQSVR_MYSQL_PORT_3306_TCP_PORT", "3306"),
        ("SEQSVR_2_SERVICE_PORT_METRICS", "9000"),
        // Links of Docker.
        ("SEQSVR_NAME", "/web/seqsvr"),
        ("SEQSVR_1_NAME", "/web/seqsvr_1"),
        ("SEQSVR_ENV_PATH", "/bin"),
    ] {
        assert_eq!(load(SEED, &[(name, value)]).map(|config| config.port), Ok(Listen::all(8000)), "{name}");
    }
    for (name, value) in [
        ("SEQSVR_PORTS", "1"),
        ("SEQSVR_MYSQL_PASSWORD", "hunter2"),
        ("SEQSVR_NAME", "ids"),
        ("SEQSVR_SERVICE", "ids"),
        ("SEQSVR_MYSQL__PORT", "tcp://10.0.0.8:3306"),
        ("SEQSVR_LIMIT__WAIT", "1s"),
        ("SEQSVR_MYSQL__SERVICE_HOST", "db"),
    ] {
        let error = load(SEED, &[(name, value)]).unwrap_err();
        assert!(error.starts_with(&format!("{name}: ")) && !error.contains("hunter2"), "{error}");
    }
}

const SERVER: [(&str, &str); 3] =
    [("SEQSVR_MYSQL__USER", "u"), ("SEQSVR_MYSQL__HOST", "db:1"), ("SEQSVR_MYSQL__DATABASE", "d")];

#[test]
fn variables_alone_choose_the_store() {
    assert_eq!(found(&[], &[("SEQSVR_STORE", "embedded")]).unwrap().0.store, Store::Embedded);
    assert!(matches!(found(&[], &SERVER).unwrap().0.store, Store::MySql(_)));
    for environment in [&[][..], &SERVER[..2], &[("SEQSVR_STEP", "5")]] {
        let error = found(&[], environment).unwrap_err();
        assert!(error.starts_with("config.yml: there is no such file, and no /etc/seqsvr/config.yml"), "{error}");
    }
    let error = found(&[], &[("SEQSVR_STORE", "mysql"), ("SEQSVR_MYSQL__HOST", "db")]).unwrap_err();
    assert!(error.starts_with("the environment: mysql.user: it is missing"), "{error}");
}

#[test]
fn variables_choose_another_store_than_the_file() {
    let file = [("config.yml", "store: embedded\nstep: 7")];
    let (config, origins) = found(&file, &SERVER).unwrap();
    assert!(matches!(config.store, Store::MySql(_)) && config.step.get() == 7);
    assert_eq!(origins.of("mysql.host"), Some("SEQSVR_MYSQL__HOST"));
    let file = [("config.yml", SEED)];
    assert_eq!(found(&file, &[("SEQSVR_STORE", "EMBEDDED")]).unwrap().0.store, Store::Embedded);
    assert!(matches!(found(&file, &[("SEQSVR_STORE", "mysql")]).unwrap().0.store, Store::MySql(_)));
    // A section of the file that lacks what variables have.
    let part = [("config.yml", "mysql: {user: u, database: d}")];
    let Store::MySql(mysql) = found(&part, &SERVER[1..2]).unwrap().0.store else { panic!("not MySQL") };
    assert_eq!((mysql.user.as_str(), mysql.host.to_string().as_str()), ("u", "tcp(db:1)"));
    let both = [&[("SEQSVR_STORE", "embedded")], &SERVER[..]].concat();
    assert!(found(&file, &both).unwrap_err().starts_with("SEQSVR_MYSQL__DATABASE: two stores are chosen"));
    let sources = Sources {
        embedded: true,
        environment: SERVER.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        ..Sources::default()
    };
    assert!(Config::load(&sources).unwrap_err().to_string().contains("two stores are chosen"));
}

#[test]
fn the_file_is_looked_for() {
    let (own, system) =
        (("config.yml", "store: embedded\nstep: 1"), ("/etc/seqsvr/config.yml", "store: embedded\nstep: 2"));
    let step = |files: &[(&str, &str)], environment: &[(&str, &str)]| {
        found(files, environment).map(|(config, origins)| (config.step.get(), origins.place().to_owned()))
    };
    assert_eq!(step(&[own, system], &[]), Ok((1, "config.yml".to_owned())));
    assert_eq!(step(&[system], &[]), Ok((2, "/etc/seqsvr/config.yml".to_owned())));
    let named = ("/x/ids.yml", "store: embedded\nstep: 3");
    assert_eq!(step(&[own, named], &[("SEQSVR_CONFIG", "/x/ids.yml")]), Ok((3, "/x/ids.yml".to_owned())));
    let error = step(&[own], &[("SEQSVR_CONFIG", "/x/ids.yml")]).unwrap_err();
    assert!(error.starts_with("/x/ids.yml: there is no such file (SEQSVR_CONFIG names it)"), "{error}");
}

/// Whatever YAML takes a value for, variables beside the file change nothing about it.
#[test]
fn a_file_is_read_alike_with_and_without_variables() {
    for text in [
        "mysql: {user: 123, host: h, database: 2024}",
        "mysql: {user: 0x1F, host: h, database: on}",
        "mysql: {user: null, host: h, database: d}",
        "mysql: {user: u, host: h, database: 1e3, password: '0123'}",
        "mysql: {user: u, host: h, database: d, password: 0123}",
        "mysql: {user: !!str 5, host: h, database: d}",
        "mysql: &m {user: u, host: h, database: d}\nstep: 0x10",
        "store: embedded\ndata_dir: 5",
        "store: embedded\nstep: 1_000",
        "store: embedded\nstep: '7'",
        "store: embedded\nsequences: {1: {}, 2.5: {}, true: {description: 5}}",
        "store: embedded\nstep: 18446744073709551616",
        "store: embedded\nstep: 7\nstep: 8",
        "store: !!str embedded",
        "store: embedded\nlog: {level: WARNING, format: Json}",
    ] {
        let without = load(text, &[]).map(|config| format!("{config:?}"));
        let with = load(text, &[("SEQSVR_SHUTDOWN__GRACE", "10s")]).map(|config| format!("{config:?}"));
        let verdict = |loaded: Result<String, String>| {
            loaded.map_err(|error| error.split_once("config.yml").unwrap().1.to_owned())
        };
        assert_eq!(verdict(with), verdict(without), "{text}");
    }
}

#[test]
fn every_key_of_the_shipped_file_is_among_the_settings() {
    let shipped = include_str!("../../config.yml").lines().filter(|line| !line.starts_with("store:"));
    // Those that are commented out, too, but for names of sequences.
    let uncommented =
        shipped.map(|line| line.strip_prefix("#!").unwrap_or(line)).map(|line| match line.strip_prefix("#   ") {
            Some(key) if key.starts_with(|c: char| c.is_ascii_lowercase()) => format!("  {key}"),
            _ => line.to_owned(),
        });
    let text: String = uncommented.map(|line| line + "\n").collect();
    let tree: serde_yaml::Value = serde_yaml::from_str(&text).unwrap();
    let mut keys: Vec<String> = Vec::new();
    for (key, value) in tree.as_mapping().unwrap() {
        let key = key.as_str().unwrap();
        match value.as_mapping() {
            Some(section) => keys.extend(section.keys().map(|inner| format!("{key}.{}", inner.as_str().unwrap()))),
            None => keys.push(key.to_owned()),
        }
    }
    let secret = tempfile::NamedTempFile::new().unwrap();
    let by_file = [("SEQSVR_MYSQL__PASSWORD_FILE", secret.path().to_str().unwrap())];
    let settings = [&[][..], &by_file].map(|environment| load(SEED, environment).unwrap().settings());
    let settings: Vec<String> = settings.into_iter().flatten().map(|(key, _)| key).collect();
    let missing: Vec<_> = keys.iter().filter(|key| !settings.contains(key)).collect();
    assert!(missing.is_empty() && keys.len() > 25, "{missing:?} of {keys:?}");
}

#[test]
fn settings_say_where_they_come_from_and_no_secret() {
    let file = [("config.yml", "step: 7\nmysql: {user: u, host: h, database: d, password: hunter2}")];
    let (config, origins) = found(&file, &[("SEQSVR_LIMITS__WAIT", "1s")]).unwrap();
    let settings = config.settings();
    let value = |key: &str| settings.iter().find(|(found, _)| found == key).map(|(_, value)| value.as_str());
    assert_eq!((value("step"), origins.of("step")), (Some("7"), Some("config.yml")));
    assert_eq!((value("limits.wait"), origins.of("limits.wait")), (Some("1s"), Some("SEQSVR_LIMITS__WAIT")));
    assert_eq!((value("refill.runway"), origins.of("refill.runway")), (Some("1m"), None));
    assert_eq!((value("mysql.password"), origins.of("mysql.password")), (Some("(set)"), Some("config.yml")));
    assert!(!format!("{settings:?} {origins:?}").contains("hunter2"));
}

#[test]
fn without_a_file_the_embedded_store_must_be_asked_for() {
    let sources = Sources { embedded: true, ..Sources::default() };
    assert_eq!(Config::load(&sources).unwrap().0.store, Store::Embedded);
    let missing = Sources { file: Some("no-such.yml".into()), ..Sources::default() };
    assert!(Config::load(&missing).unwrap_err().to_string().starts_with("no-such.yml: there is no such file"));
}

#[test]
fn sequences_are_declared_with_their_own_or_the_common_values() {
    let text = "step: 7\nstore: embedded\nsequences:\n  users:\n  orders: {step: 1000, first_id: 5, description: 'o'}\n  \
                default: {}\n";
    let error = load(text, &[("SEQSVR_SEQUENCES__USERS__STEP", "3")]).unwrap_err();
    assert!(error.contains("can't be declared by variables"), "{error}");
    let config = load(text, &[]).unwrap();
    let found: Vec<_> = config
        .sequences
        .iter()
        .map(|new| (new.name.as_str(), new.step.get(), new.first_id, &*new.description))
        .collect();
    assert_eq!(found, [("default", 7, 8, ""), ("orders", 1_000, 5, "o"), ("users", 7, 1, "")]);
    assert_eq!(config.default_sequence().first_id, 8);
    let long = format!("store: embedded\nsequences: {{a: {{description: '{}'}}}}", "x".repeat(256));
    assert!(load(&long, &[]).unwrap_err().contains("at most 255"));
    let many: Vec<String> = (0..=MOST_DECLARED).map(|n| format!("  s{n}: {{}}")).collect();
    assert!(
        load(&format!("store: embedded\nsequences:\n{}", many.join("\n")), &[]).unwrap_err().contains("1001 are more")
    );
}
