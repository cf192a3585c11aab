//! A private Prometheus of one test: the system's program on its own folder and a free port of 127.0.0.1.
//!
//! It scrapes every second, as the job `seqsvr`, and evaluates its rules as often. It never outlives the test process.

// Every test file that has this module compiles it anew, and few use all of it.
#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::process::{free_port, guarded, log_to, path_arg, spawn, system_program, tail};

/// How often it scrapes.
pub const SCRAPE_INTERVAL: Duration = Duration::from_secs(1);

/// How long it may take until it is ready, and to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// An alert fires, or is over, within this; on an idle machine it takes some seconds.
const ALERT_PATIENCE: Duration = Duration::from_secs(120);

/// The pause between two looks at whether it is ready, or at what fires.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// How many free ports are tried: another process may bind one before it does.
const PORT_TRIES: u32 = 10;

/// What one is to do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scraping<'a> {
    /// The servers' ports on 127.0.0.1; the label `instance` is `127.0.0.1:PORT`.
    pub targets: &'a [u16],
    /// A file of rules, as its text; none where it is empty.
    pub rules: &'a str,
    /// A metric, and the name that it is stored under in place of its own.
    pub renamed: Option<(&'a str, &'a str)>,
}

/// A running Prometheus; killed, and its data deleted, when dropped.
pub struct Prometheus {
    port: u16,
    child: Child,
    // Last, so that the folder goes after everything else.
    _folder: TempDir,
}

/// An alert's name and severity.
pub type Alert = (String, String);

/// One series of an answer.
#[derive(Clone, Debug)]
pub struct Series {
    pub labels: BTreeMap<String, String>,
    /// When, in seconds since 1970, and how much.
    pub points: Vec<(f64, f64)>,
}

impl Series {
    /// The label's value, or nothing, as Prometheus has it.
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

/// Seconds since 1970, as Prometheus counts.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is set").as_secs_f64()
}

impl Prometheus {
    /// Starts one, and waits until it is ready.
    ///
    /// # Panics
    /// When it is not installed or does not start, say as a rule is wrong; the message then has the end of its log.
    pub fn start(scraping: &Scraping<'_>) -> Self {
        let folder = tempfile::Builder::new().prefix("seqsvr-prometheus-").tempdir().expect("a temporary folder");
        fs::write(folder.path().join("rules.yml"), scraping.rules).expect("they are written");
        // JSON is YAML.
        fs::write(folder.path().join("prometheus.yml"), scraping.configuration().to_string()).expect("it is written");
        let log = folder.path().join("log");
        for _ in 0..PORT_TRIES {
            let port = free_port();
            let mut command = guarded(system_program("prometheus"));
            command
                .arg(path_arg("--config.file=", &folder.path().join("prometheus.yml")))
                .arg(path_arg("--storage.tsdb.path=", &folder.path().join("data")))
                .arg(format!("--web.listen-address=127.0.0.1:{port}"));
            log_to(&mut command, &log);
            let mut child = spawn(command).expect("can't start prometheus");
            let text = || fs::read_to_string(&log).unwrap_or_default();
            let until = Instant::now() + PATIENCE;
            loop {
                if get(port, "/-/ready").is_ok_and(|(status, _)| status == 200) {
                    return Self { port, child, _folder: folder };
                }
                if let Some(status) = child.try_wait().expect("a child can be waited for") {
                    assert!(text().contains("address already in use"), "prometheus {status}:\n{}", tail(&text()));
                    break;
                }
                if Instant::now() > until {
                    end(&mut child);
                    panic!("prometheus is not ready within {PATIENCE:?}:\n{}", tail(&text()));
                }
                thread::sleep(POLL_INTERVAL);
            }
        }
        panic!("{PORT_TRIES} free ports in turn were taken before prometheus could bind them");
    }

    /// Asks for the values of now.
    pub fn query(&self, expression: &str) -> Result<Vec<Series>, String> {
        self.api("query", &[("query", expression)]).and_then(|data| series_in(&data))
    }

    /// Asks for the values between two times, in seconds since 1970, one each `step`.
    pub fn query_range(&self, expression: &str, from: f64, to: f64, step: Duration) -> Result<Vec<Series>, String> {
        let [from, to, step] = [from, to, step.as_secs_f64()].map(|seconds| format!("{seconds:.3}"));
        let parameters = [("query", expression), ("start", &*from), ("end", &*to), ("step", &*step)];
        self.api("query_range", &parameters).and_then(|data| series_in(&data))
    }

    /// The values of a label among the series of `selector`, in their order.
    pub fn label_values(&self, selector: &str, label: &str) -> Result<Vec<String>, String> {
        let data = self.api(&format!("label/{label}/values"), &[("match[]", selector)])?;
        let values = data.as_array().ok_or_else(|| format!("no values in {data}"))?;
        Ok(values.iter().filter_map(Value::as_str).map(str::to_owned).collect())
    }

    /// How often it has scraped, successfully or not.
    pub fn scrapes(&self) -> f64 {
        let found = self.query("sum(count_over_time(up[1h]))").expect("it is answered");
        found.first().map_or(0.0, |one| one.points[0].1)
    }

    /// The alerts that fire; their texts must be complete.
    pub fn firing(&self) -> BTreeSet<Alert> {
        let data = self.api("alerts", &[]).expect("it tells its alerts");
        let all = data["alerts"].as_array().expect("a list").iter();
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        all.filter(|alert| alert["state"] == "firing")
            .map(|alert| {
                for what in ["summary", "description"] {
                    let what = text(&alert["annotations"][what]);
                    let is_complete = !["{{", "no value", "error expanding"].iter().any(|wrong| what.contains(wrong));
                    assert!(is_complete, "{what}");
                }
                (text(&alert["labels"]["alertname"]), text(&alert["labels"]["severity"]))
            })
            .collect()
    }

    /// The alerts that have fired since its start: it records each evaluation that finds one firing.
    pub fn fired(&self) -> BTreeSet<Alert> {
        let found = self.query(r#"last_over_time(ALERTS{alertstate="firing"}[1h])"#).expect("it is answered");
        found.iter().map(|one| (one.label("alertname").to_owned(), one.label("severity").to_owned())).collect()
    }

    /// Does `step` again and again until `is_so` of what fires.
    pub fn wait(&self, what: &str, mut step: impl FnMut(), is_so: impl Fn(&BTreeSet<Alert>) -> bool) {
        let until = Instant::now() + ALERT_PATIENCE;
        loop {
            step();
            let firing = self.firing();
            if is_so(&firing) {
                return;
            }
            assert!(Instant::now() < until, "not within {ALERT_PATIENCE:?}: {what}; there fire {firing:?}");
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// The `data` of an answer of its HTTP API, or what it says is wrong.
    pub fn api(&self, endpoint: &str, parameters: &[(&str, &str)]) -> Result<Value, String> {
        let query: Vec<String> =
            parameters.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
        let path = format!("/api/v1/{endpoint}?{}", query.join("&"));
        let (_, body) = get(self.port, &path).map_err(|error| format!("no answer to {path}: {error}"))?;
        let mut answer: Value = serde_json::from_str(&body).map_err(|error| format!("{error} in {body}"))?;
        match answer["status"].as_str() {
            Some("success") => Ok(answer["data"].take()),
            _ => Err(answer["error"].to_string()),
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

impl Scraping<'_> {
    fn configuration(&self) -> Value {
        let targets: Vec<String> = self.targets.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let renaming = self.renamed.map(|(from, to)| {
            json!({"source_labels": ["__name__"], "regex": from, "target_label": "__name__", "replacement": to})
        });
        let interval = format!("{}s", SCRAPE_INTERVAL.as_secs());
        json!({
            "global": {"scrape_interval": interval, "evaluation_interval": interval},
            "rule_files": ["rules.yml"],
            "scrape_configs": [{
                "job_name": "seqsvr",
                "static_configs": [{"targets": targets}],
                "metric_relabel_configs": renaming.into_iter().collect::<Vec<_>>(),
            }],
        })
    }
}

fn end(child: &mut Child) {
    // It fails for a process that has ended, which is all that is wanted.
    let _ = child.kill();
    let _ = child.wait();
}

/// Status and body. By HTTP/1.0, for then the answer ends with the connection and comes in one piece.
fn get(port: u16, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let parts = answer.split_once("\r\n\r\n");
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    match (status, parts) {
        (Some(status), Some((_, body))) => Ok((status, body.to_owned())),
        _ => Err(std::io::ErrorKind::UnexpectedEof.into()),
    }
}

fn encoded(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(encode).collect()
}

fn series_in(data: &Value) -> Result<Vec<Series>, String> {
    let odd = || format!("no series in {data}");
    let one = |series: &Value| {
        let labels = series["metric"].as_object()?.iter();
        let labels = labels.map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())));
        // "value" is that of now, "values" are those of a range.
        let points = series["values"].as_array().cloned().unwrap_or_else(|| vec![series["value"].clone()]);
        let points = points.iter().map(|point| Some((point[0].as_f64()?, point[1].as_str()?.parse().ok()?)));
        Some(Series { labels: labels.collect::<Option<_>>()?, points: points.collect::<Option<_>>()? })
    };
    data["result"].as_array().ok_or_else(odd)?.iter().map(|series| one(series).ok_or_else(odd)).collect()
}
