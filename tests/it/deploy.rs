//! What is in deploy/ and must fit the binary: its configurations, and the time that it is given to end. The rest of those
//! files is checked by `make deploy-check`.

use std::path::PathBuf;
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

/// How long a server with this configuration may take to end.
fn end(config: &str) -> Duration {
    let shutdown = &yaml(config)["shutdown"];
    let time = |key: &str, default: &str| humantime::parse_duration(shutdown[key].as_str().unwrap_or(default)).unwrap();
    time("lead", "0s") + time("grace", "10s") + LAST_STEPS
}

#[test]
fn the_configurations_are_right() {
    for config in ["deploy/seqsvr.yml", "deploy/kubernetes/config.yml"] {
        let setup = Setup::new("");
        let password = setup.folder().join("password");
        std::fs::write(&password, "secret\n").unwrap();
        let setup = setup.env("SEQSVR_MYSQL__PASSWORD_FILE", password.to_str().unwrap());
        let (code, said) = setup.run(&["--config", file(config).to_str().unwrap(), "check"]);
        assert_eq!(code, 0, "{config}: {said}");
        assert!(said.contains("tcp(mysql:3306), database sequence, user seqsvr, password (set)"), "{said}");
    }
}

#[test]
fn nothing_kills_it_before_it_has_ended() {
    let pod = &yaml("deploy/kubernetes/statefulset.yaml")["spec"]["template"]["spec"];
    let seconds = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
    assert!(Duration::from_secs(seconds) > end("deploy/kubernetes/config.yml"), "Kubernetes: {seconds} s");

    let compose = yaml("deploy/compose.yaml");
    let grace = compose["services"]["seqsvr"]["stop_grace_period"].as_str().unwrap();
    assert!(humantime::parse_duration(grace).unwrap() > end("deploy/seqsvr.yml"), "Compose: {grace}");

    let unit = text("deploy/seqsvr.service");
    let seconds = unit.lines().find_map(|line| line.strip_prefix("TimeoutStopSec=")).unwrap();
    assert!(Duration::from_secs(seconds.parse().unwrap()) > end("config.yml"), "systemd: {seconds} s");
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
    let pod = &yaml("deploy/kubernetes/statefulset.yaml")["spec"]["template"]["spec"];
    assert_eq!(pod["enableServiceLinks"].as_bool(), Some(false));
    // Why:
    let (code, said) = Setup::embedded().env("SEQSVR_MORE_SERVICE_HOST", "10.0.0.1").run(&["check"]);
    assert_eq!(code, 78, "{said}");
    assert!(said.contains("SEQSVR_MORE_SERVICE_HOST"), "{said}");
}
