//! `deploy/prometheus/alerts.yml`: by promtool, against the runbook, and fired and cleared by faults of the built server.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_yaml::Value;

use crate::support::server::Setup;

mod live;

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(project(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The rules with each of `times` in place of another.
pub fn hurried(times: &[(&str, &str)]) -> String {
    let rules = read("deploy/prometheus/alerts.yml");
    times.iter().fold(rules, |rules, (from, to)| {
        assert!(rules.contains(from), "no {from}");
        rules.replace(from, to)
    })
}

/// Runs promtool with `input`: whether all is right, and what it says.
fn promtool(arguments: &[&str], folder: &Path, input: &str) -> (bool, String) {
    let mut child = Command::new("promtool")
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool starts: scripts/test-deps.sh installs it");
    child.stdin.take().expect("it is piped").write_all(input.as_bytes()).expect("it reads its input");
    let output = child.wait_with_output().expect("its output");
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// An alert of the file.
#[derive(Debug)]
struct Alert {
    name: String,
    severity: String,
    annotations: Vec<(String, String)>,
}

fn alerts() -> Vec<Alert> {
    let rules: Value = serde_yaml::from_str(&read("deploy/prometheus/alerts.yml")).expect("YAML");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let rules = rules["groups"][0]["rules"].as_sequence().expect("rules").iter();
    rules
        .filter(|rule| rule.get("alert").is_some())
        .map(|rule| Alert {
            name: text(&rule["alert"]),
            severity: text(&rule["labels"]["severity"]),
            annotations: rule["annotations"]
                .as_mapping()
                .expect("annotations")
                .iter()
                .map(|(name, what)| (text(name), text(what)))
                .collect(),
        })
        .collect()
}

#[test]
fn promtool_accepts_the_rules_and_their_tests_and_who_reads_them() {
    let folder = project("deploy/prometheus");
    for arguments in
        [["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"], ["check", "config", "prometheus.yml"]]
    {
        let (is_right, said) = promtool(&arguments, &folder, "");
        assert!(is_right, "{arguments:?}: {said}");
    }
}

#[test]
fn the_tests_of_the_rules_notice_when_one_is_changed() {
    let rules = read("deploy/prometheus/alerts.yml");
    let all_tests: Value = serde_yaml::from_str(&read("deploy/prometheus/alerts_test.yml")).expect("YAML");
    let folder = tempfile::tempdir().unwrap();
    let mut unnoticed = Vec::new();
    for (from, to) in [
        ("absent(up", "absent(down"),
        ("max by (job) (seqsvr_ready) == 0\n        for: 1m", "max by (job) (seqsvr_ready) == 0\n        for: 2m"),
        ("ok|exhausted", "ok"),
        ("regressed|not_fenced", "regressed|not_fenced|fenced"),
        ("not_fenced|two_writers", "not_fenced"),
        ("< 900", "< 901"),
        ("< 30", "< 29"),
        ("2 * 86400", "4 * 86400"),
        ("> 0.01", "> 0.011"),
    ] {
        let changed = rules.replacen(from, to, 1);
        assert_ne!(changed, rules, "'{from}' is not in the rules");
        // The tests of the alert that was changed: all of them take seconds.
        let place = rules.find(from).expect("it is there");
        let mut tests = all_tests.clone();
        // What is recorded for the alerts is before all of them.
        if let Some((_, alert)) = rules[..place].rsplit_once("- alert: ") {
            let alert = format!("\"{}\"", alert.lines().next().expect("its name"));
            let groups = tests["tests"].as_sequence_mut().expect("tests");
            groups.retain(|test| serde_yaml::to_string(test).expect("YAML").contains(&alert));
            assert!(!groups.is_empty(), "no test has {alert}");
        }
        fs::write(folder.path().join("alerts_test.yml"), serde_yaml::to_string(&tests).expect("YAML")).unwrap();
        fs::write(folder.path().join("alerts.yml"), changed).unwrap();
        if promtool(&["test", "rules", "alerts_test.yml"], folder.path(), "").0 {
            unnoticed.push((from, to));
        }
    }
    assert!(unnoticed.is_empty(), "no test notices: {unnoticed:#?}");
}

#[test]
fn every_alert_says_what_to_do_and_where_to_read_on() {
    let runbook = read("docs/runbook.md");
    let sections: Vec<(&str, &str)> =
        runbook.split("\n## ").skip(1).map(|section| section.split_once('\n').expect("a heading and text")).collect();
    let alerts = alerts();
    for Alert { name, severity, annotations, .. } in &alerts {
        assert!(["critical", "warning"].contains(&severity.as_str()), "{name}: {severity}");
        let annotation = |wanted: &str| {
            let found = annotations.iter().find(|(name, _)| name == wanted);
            found.map_or_else(|| panic!("{name} has no {wanted}"), |(_, what)| what.as_str())
        };
        assert!(!annotation("summary").is_empty() && annotation("description").contains("First "), "{name}");
        assert_eq!(annotation("runbook_url"), format!("docs/runbook.md#{}", name.to_lowercase()));
        let section = sections.iter().find(|(heading, _)| heading == name).map(|(_, section)| section);
        let section = section.unwrap_or_else(|| panic!("the runbook has no section {name}"));
        for part in ["**What it means.**", "**How bad.**", "**Look at**", "**Do**", "**It is over**"] {
            assert!(section.contains(part), "{name}: no {part}");
        }
    }
    for (heading, _) in sections {
        assert!(alerts.iter().any(|alert| alert.name == heading), "the runbook has {heading}, the rules have not");
    }
}

#[test]
fn the_metrics_are_well_formed_and_have_what_the_alerts_ask_for() {
    let setup = Setup::embedded().patient();
    let server = setup.start();
    for path in ["/new", "/new?count=1000", "/new/unknown", "/new?count=0", "/readyz"] {
        server.get(path);
    }
    let metrics = server.get("/metrics").body;
    let (is_right, said) = promtool(&["check", "metrics"], Path::new("."), &metrics);
    assert!(is_right && said.is_empty(), "{said}");

    let runbook = read("docs/runbook.md");
    let rules = read("deploy/prometheus/alerts.yml");
    let exprs: String = rules.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    let words = |text: &str| -> BTreeSet<String> {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
        words.filter(|word| word.starts_with("seqsvr_") && !word.ends_with('_')).map(str::to_owned).collect()
    };
    let mut names = words(&exprs);
    assert!(names.len() > 4, "{names:?}");
    names.extend(words(&runbook));
    // For grep -E: seqsvr_(runway_seconds|waiters).
    for (choice, _) in runbook.split("seqsvr_(").skip(1).filter_map(|rest| rest.split_once(')')) {
        names.extend(choice.split('|').map(|name| format!("seqsvr_{name}")));
    }
    // A table, and what the rules themselves record.
    names.retain(|name| !["seqsvr_meta", "seqsvr_sequence"].contains(&name.as_str()));
    for name in names {
        assert!(metrics.contains(&format!("# TYPE {name} ")), "no metric {name}");
    }
    for outcome in ["ok", "exhausted", "regressed", "not_fenced"] {
        assert!(exprs.contains(outcome), "{outcome}");
        assert!(metrics.contains(&format!("outcome=\"{outcome}\"")), "no outcome {outcome}");
    }
    for route in ["/new", "/new/{sequence}"] {
        assert!(metrics.contains(&format!("route=\"{route}\"")), "no route {route}");
    }
}
