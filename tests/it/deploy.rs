//! What is in deploy/ and must fit the binary, the image, and each other: configurations, files, paths, ports, users, and the
//! time that it is given to end. The rest of those files is checked by `make deploy-check`.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_yaml::Value;

use crate::support::server::Setup;

/// What the end may take beyond `shutdown.lead` and `shutdown.grace`: `src/app.rs`, `src/app/give_back.rs`.
const LAST_STEPS: Duration = Duration::from_secs(16);

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(file(name)).unwrap()
}

fn yaml(name: &str) -> Value {
    serde_yaml::from_str(&text(name)).unwrap()
}

/// What Compose, Kubernetes and systemd start: a container of it, or the unit's lines.
fn compose(service: &str) -> Value {
    yaml("deploy/compose.yaml")["services"][service].clone()
}

fn pod() -> Value {
    yaml("deploy/kubernetes/statefulset.yaml")["spec"]["template"]["spec"].clone()
}

fn unit(key: &str) -> String {
    let unit = text("deploy/seqsvr.service");
    let found = unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("the unit has no {key}")).to_owned()
}

/// What the last `instruction` of the Dockerfile says.
fn image(instruction: &str) -> String {
    let dockerfile = text("Dockerfile").replace("\\\n", " ");
    let said = dockerfile.lines().filter_map(|line| line.strip_prefix(instruction)?.strip_prefix(' ')).next_back();
    said.unwrap_or_else(|| panic!("the Dockerfile has no {instruction}")).trim().to_owned()
}

/// The words of a command that needs no shell: `["a", "b"]`.
fn words(command: &str) -> Vec<String> {
    serde_yaml::from_str(command).unwrap_or_else(|error| panic!("{command}: {error}"))
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_sequence().into_iter().flatten()
}

/// The entry of a list that has `name`.
fn named<'a>(entries: &'a Value, name: &str) -> &'a Value {
    list(entries).find(|entry| entry["name"] == *name).unwrap_or_else(|| panic!("no {name} in {entries:?}"))
}

/// What a service of Compose mounts: from where, and to where.
fn mounts(service: &Value) -> Vec<(String, String)> {
    let parts = |mount: &Value| {
        let mut parts = mount.as_str().expect("source:target").split(':').map(str::to_owned);
        (parts.next().unwrap(), parts.next().expect("a target"))
    };
    list(&service["volumes"]).map(parts).collect()
}

/// How long a server with this configuration may take to end.
fn end(config: &str) -> Duration {
    let shutdown = &yaml(config)["shutdown"];
    let time = |key: &str, default: &str| humantime::parse_duration(shutdown[key].as_str().unwrap_or(default)).unwrap();
    time("lead", "0s") + time("grace", "10s") + LAST_STEPS
}

#[test]
fn the_configurations_are_right() {
    let database = &[["mysql.host", "tcp(mysql:3306)"], ["mysql.database", "sequence"], ["mysql.user", "seqsvr"]][..];
    for (config, store) in [
        ("deploy/seqsvr.yml", database),
        ("deploy/kubernetes/config.yml", database),
        // The image's, and systemd's.
        ("config.yml", &[["store", "embedded"], ["data_dir", "/somewhere"]][..]),
    ] {
        let setup = Setup::new("");
        let mut command = setup.command();
        if config != "config.yml" {
            let password = setup.folder().join("password");
            std::fs::write(&password, "secret\n").unwrap();
            command.env("SEQSVR_MYSQL__PASSWORD_FILE", password);
        }
        command.env_remove("SEQSVR_PORT").env("SEQSVR_DATA_DIR", "/somewhere");
        let checked = command.arg("--config").arg(file(config)).arg("check").output().unwrap();
        let said = String::from_utf8_lossy(&[checked.stdout, checked.stderr].concat()).into_owned();
        assert!(checked.status.success(), "{config}: {said}");
        let settings: Vec<Vec<&str>> = said.lines().map(|line| line.split_whitespace().take(2).collect()).collect();
        for [key, value] in store.iter().chain(&[["port", &format!(":{}", image("EXPOSE"))]]) {
            assert!(settings.contains(&vec![*key, *value]), "{config}: no {key} {value}: {said}");
        }
    }
}

#[test]
fn nothing_kills_it_before_it_has_ended() {
    let seconds = pod()["terminationGracePeriodSeconds"].as_u64().unwrap();
    assert!(Duration::from_secs(seconds) > end("deploy/kubernetes/config.yml"), "Kubernetes: {seconds} s");

    let grace = compose("seqsvr")["stop_grace_period"].as_str().unwrap().to_owned();
    assert!(humantime::parse_duration(&grace).unwrap() > end("deploy/seqsvr.yml"), "Compose: {grace}");

    let seconds = unit("TimeoutStopSec").parse().unwrap();
    assert!(Duration::from_secs(seconds) > end("config.yml"), "systemd: {seconds} s");
}

#[test]
fn what_compose_mounts_and_builds_is_there() {
    let everything = yaml("deploy/compose.yaml");
    let mut files = 0;
    for (name, service) in everything["services"].as_mapping().unwrap() {
        for (from, to) in mounts(service) {
            if from.starts_with('.') {
                let path = file("deploy").join(&from);
                // Docker makes an empty folder of what is missing, and says nothing.
                let is_folder = !to.rsplit('/').next().unwrap().contains('.');
                assert!(path.exists() && path.is_dir() == is_folder, "{name:?} mounts {from} at {to}");
                files += 1;
            } else {
                let volumes = everything["volumes"].as_mapping().unwrap();
                assert!(volumes.contains_key(from.as_str()), "{name:?} wants the volume {from}");
            }
        }
    }
    assert_eq!(files, 4, "one of seqsvr, one of Prometheus, two of Grafana");

    let context = file("deploy").join(compose("seqsvr")["build"].as_str().unwrap());
    let ignored = text(".dockerignore");
    for line in text("Dockerfile").lines().filter(|line| line.starts_with("COPY ") && !line.contains("--from=")) {
        let mut copied: Vec<_> = line.split_whitespace().skip(1).collect();
        copied.pop();
        for source in copied {
            assert!(context.join(source).exists(), "{line}");
            assert!(!ignored.lines().any(|ignored| ignored == format!("/{source}")), "{source} is kept from the build");
        }
    }
}

#[test]
fn the_secrets_of_compose_are_made_once() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("secrets.sh");
    std::fs::copy(file("deploy/secrets.sh"), &script).unwrap();
    let run = || assert!(Command::new(&script).status().unwrap().success());
    let read = || -> Vec<(PathBuf, String)> {
        let secrets = yaml("deploy/compose.yaml")["secrets"].clone();
        let paths = secrets.as_mapping().unwrap().values().map(|one| folder.path().join(one["file"].as_str().unwrap()));
        paths.map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
    };
    run();
    let made = read();
    let different: BTreeSet<&str> = made.iter().map(|(_, secret)| secret.trim()).collect();
    assert!(different.len() == made.len() && different.iter().all(|secret| secret.len() >= 32), "{different:?}");
    for (path, _) in &made {
        let permissions = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((permissions(path), permissions(path.parent().unwrap())), (0o644, 0o700), "{}", path.display());
    }
    assert!(text(".gitignore").lines().any(|line| line == "/deploy/secrets"));
    run();
    assert_eq!(read(), made);
}

#[test]
fn the_services_of_compose_find_each_other() {
    let (seqsvr, mysql) = (yaml("deploy/seqsvr.yml")["mysql"].clone(), compose("mysql"));
    // By the name of the service; the port is MySQL's.
    assert_eq!(seqsvr["host"], "tcp(mysql:3306)");
    assert_eq!(seqsvr["user"], mysql["environment"]["MYSQL_USER"]);
    assert_eq!(seqsvr["database"], mysql["environment"]["MYSQL_DATABASE"]);

    let prometheus = yaml("deploy/prometheus/prometheus.yml");
    let targets = &prometheus["scrape_configs"][0]["static_configs"][0]["targets"];
    assert_eq!(targets[0].as_str(), Some(format!("seqsvr:{}", image("EXPOSE")).as_str()));
    let interval = prometheus["global"]["scrape_interval"].as_str();
    let source = yaml("grafana/provisioning/datasources/prometheus.yaml")["datasources"][0].clone();
    assert_eq!(source["jsonData"]["timeInterval"].as_str(), interval);
    let port = compose("prometheus")["ports"][0].as_str().unwrap().rsplit(':').next().unwrap().to_owned();
    assert_eq!(source["url"].as_str(), Some(format!("http://prometheus:{port}").as_str()));

    let provider = yaml("grafana/provisioning/dashboards/seqsvr.yaml")["providers"][0].clone();
    let dashboard = format!("{}/seqsvr.json", provider["options"]["path"].as_str().unwrap());
    let grafana = mounts(&compose("grafana"));
    assert!(grafana.contains(&("../grafana/seqsvr.json".to_owned(), dashboard)), "{grafana:?}");
}

#[test]
fn they_all_start_the_same() {
    let (port, data) = (image("EXPOSE"), image("VOLUME"));
    let start = words(&image("ENTRYPOINT"));
    let [_, _, config] = start.as_slice() else { panic!("{start:?}") };
    assert!(image("COPY config.yml") == *config && image("ENV") == format!("SEQSVR_DATA_DIR={data}"));
    assert_eq!(image("WORKDIR"), data);
    let health = words(image("HEALTHCHECK").split_once("CMD ").unwrap().1);
    assert_eq!(health, [&start[..], &["healthcheck".to_owned()]].concat(), "liveness: without --ready");
    assert_eq!(unit("ExecStart"), start.join(" "));

    let compose = compose("seqsvr");
    assert_eq!(compose["ports"][0].as_str(), Some(format!("127.0.0.1:8000:{port}").as_str()));
    assert_eq!(mounts(&compose), [("./seqsvr.yml".to_owned(), config.clone()), ("seqsvr".to_owned(), data.clone())]);
    for of_image in ["user", "entrypoint", "command", "healthcheck"] {
        assert!(compose[of_image].is_null(), "{of_image} is the image's");
    }

    let pod = pod();
    let user = ["runAsUser", "runAsGroup"].map(|key| pod["securityContext"][key].as_u64().unwrap());
    assert_eq!(format!("{}:{}", user[0], user[1]), image("USER"));
    assert_eq!(pod["securityContext"]["fsGroup"].as_u64(), Some(user[1]), "it writes {data}");
    let container = named(&pod["containers"], "seqsvr");
    assert!(container["command"].is_null() && container["args"].is_null(), "the image's");
    assert_eq!(named(&container["ports"], "http")["containerPort"].as_u64(), port.parse().ok());
    let mounted = |name: &str| named(&container["volumeMounts"], name)["mountPath"].as_str().unwrap();
    assert_eq!(mounted("data"), data);
    assert_eq!(format!("{}/config.yml", mounted("config")), *config);
    let password = &named(&container["env"], "SEQSVR_MYSQL__PASSWORD_FILE")["value"];
    assert_eq!(password.as_str(), Some(format!("{}/password", mounted("mysql")).as_str()));
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        assert_eq!(container[probe]["httpGet"]["port"], "http", "{probe}");
    }
    let template = yaml("deploy/kubernetes/statefulset.yaml")["spec"]["template"]["metadata"].clone();
    assert_eq!(template["annotations"]["prometheus.io/port"].as_str(), Some(port.as_str()));

    // What chooses pods chooses these.
    let mut choices = vec![
        yaml("deploy/kubernetes/statefulset.yaml")["spec"]["selector"]["matchLabels"].clone(),
        yaml("deploy/kubernetes/poddisruptionbudget.yaml")["spec"]["selector"]["matchLabels"].clone(),
    ];
    choices
        .extend(list(&pod["topologySpreadConstraints"]).map(|spread| spread["labelSelector"]["matchLabels"].clone()));
    for service in serde_yaml::Deserializer::from_str(&text("deploy/kubernetes/services.yaml")) {
        let service: Value = serde::Deserialize::deserialize(service).unwrap();
        assert_eq!(named(&service["spec"]["ports"], "http")["targetPort"], "http");
        choices.push(service["spec"]["selector"].clone());
    }
    assert_eq!(choices, vec![template["labels"].clone(); 6]);
}

#[test]
fn secrets_that_compose_hands_over_are_declared() {
    let compose = yaml("deploy/compose.yaml");
    let mut files = 0;
    for (name, service) in compose["services"].as_mapping().unwrap() {
        let none = Vec::new();
        let handed_over = service["secrets"].as_sequence().unwrap_or(&none);
        for secret in handed_over {
            assert!(compose["secrets"][secret].is_mapping(), "{name:?} wants {secret:?}");
        }
        for (_, value) in service["environment"].as_mapping().into_iter().flatten() {
            if let Some(secret) = value.as_str().and_then(|value| value.strip_prefix("/run/secrets/")) {
                assert!(handed_over.contains(&secret.into()), "{name:?} is not given {secret}");
                files += 1;
            }
        }
    }
    assert_eq!(files, 4, "one of seqsvr, two of MySQL, one of Grafana");
}

#[test]
fn kubernetes_variables_for_services_are_kept_from_it() {
    assert_eq!(pod()["enableServiceLinks"].as_bool(), Some(false));
    // And where they are not, they do no harm.
    let (code, said) = Setup::embedded().env("SEQSVR_MORE_SERVICE_HOST", "10.0.0.1").run(&["check"]);
    assert_eq!(code, 0, "{said}");
}
