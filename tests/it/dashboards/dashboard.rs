//! The dashboard as Grafana reads it: its variables, and its panels' queries with the variables replaced.

use std::fs;
use std::time::Duration;

use serde_json::Value;

use crate::support::prometheus::{Prometheus, SCRAPE_INTERVAL, Series};

/// What Grafana makes of a time range that is shorter than it has pixels: `$__interval` is the data source's scrape interval,
/// `$__rate_interval` the larger of `$__interval` + scrape interval and 4 scrape intervals.
const STEP: Duration = SCRAPE_INTERVAL;
const RATE_INTERVAL: &str = "4s";

/// A file of this repository.
pub fn file(path: &str) -> String {
    fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR")))
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A dashboard's JSON.
pub struct Dashboard(pub Value);

/// A variable, and what of it is chosen, as it is written into queries.
pub type Chosen = (String, String);

/// What a query was answered.
#[derive(Debug)]
pub struct Answer<'a> {
    pub panel: &'a Value,
    /// The query, as the dashboard has it.
    pub target: &'a Value,
    pub series: Result<Vec<Series>, String>,
}

impl Dashboard {
    pub fn read() -> Self {
        Self(serde_json::from_str(&file("grafana/seqsvr.json")).expect("it is JSON"))
    }

    /// All panels, and the titles of rows among them.
    pub fn panels(&self) -> &[Value] {
        self.0["panels"].as_array().expect("panels")
    }

    /// The values that can be chosen of each variable, "All" being chosen of those before it.
    pub fn variables(&self, prometheus: &Prometheus) -> Result<Vec<(String, Vec<String>)>, String> {
        let (mut found, mut chosen) = (Vec::new(), Vec::new());
        for variable in self.0["templating"]["list"].as_array().expect("variables") {
            let name = text(&variable["name"]);
            if text(&variable["type"]) == "datasource" {
                continue; // this Prometheus
            }
            let query = replaced(text(&variable["query"]["query"]), &chosen)?;
            let arguments = query.strip_prefix("label_values(").and_then(|query| query.strip_suffix(')'));
            let (selector, label) =
                arguments.and_then(|both| both.rsplit_once(", ")).ok_or_else(|| format!("${name}: {query}?"))?;
            let values = prometheus.label_values(selector, label).map_err(|error| format!("${name}: {error}"))?;
            if values.is_empty() {
                return Err(format!("${name} has no values: {query}"));
            }
            let all = variable["allValue"].as_str().map_or_else(|| choice(&values), str::to_owned);
            chosen.push((name.to_owned(), all));
            found.push((name.to_owned(), values));
        }
        Ok(found)
    }

    /// Asks all queries of all panels over the time from `from` to `to`. A query for now alone is asked so too: now may just have
    /// missed a scrape.
    pub fn ask(&self, prometheus: &Prometheus, chosen: &[Chosen], (from, to): (f64, f64)) -> Vec<Answer<'_>> {
        let one = |target: &Value| {
            let query = replaced(text(&target["expr"]), chosen)?;
            prometheus.query_range(&query, from, to, STEP)
        };
        let panels = self.panels().iter().filter(|panel| panel["type"] != "row");
        panels
            .flat_map(|panel| {
                let targets = panel["targets"].as_array().map_or(&[][..], Vec::as_slice);
                targets.iter().map(move |target| (panel, target))
            })
            .map(|(panel, target)| Answer { panel, target, series: one(target) })
            .collect()
    }
}

impl Answer<'_> {
    pub fn title(&self) -> &str {
        text(&self.panel["title"])
    }

    /// What is wrong with it: it failed, or there is nothing to see, or nothing above 0 where `is_error`.
    pub fn fault(&self, is_error: bool) -> Option<&'static str> {
        let Ok(series) = &self.series else { return Some("failed") };
        let mut values = series.iter().flat_map(|one| &one.points).map(|(_, value)| *value);
        // Quantiles of nothing are no number.
        match (is_error, values.clone().any(f64::is_finite)) {
            (_, false) => Some("no samples"),
            (true, true) if !values.any(|value| value > 0.0) => Some("nothing above 0"),
            _ => None,
        }
    }

    /// A series' name by the query's `legendFormat`.
    pub fn legend(&self, series: &Series) -> String {
        let format = text(&self.target["legendFormat"]).to_owned();
        series.labels.iter().fold(format, |legend, (name, value)| legend.replace(&format!("{{{{{name}}}}}"), value))
    }
}

/// The values of a variable, as Grafana writes them into a query: escaped as in a regular expression, and that as in a string.
pub fn choice(values: &[String]) -> String {
    let escape = |value: &String| -> String {
        let each = value.chars().map(|letter| match letter {
            '\\' => r"\\\\".to_owned(),
            special if "$^*{}[]+?.()|'".contains(special) => format!(r"\\{special}"),
            plain => plain.to_string(),
        });
        each.collect()
    };
    match values {
        [one] => escape(one),
        several => format!("({})", several.iter().map(escape).collect::<Vec<_>>().join("|")),
    }
}

/// The text at `value`; none is the empty one.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn replaced(query: &str, chosen: &[Chosen]) -> Result<String, String> {
    let mut query = query.replace("$__rate_interval", RATE_INTERVAL);
    for (name, value) in chosen {
        query = query.replace(&format!("${name}"), value);
    }
    if query.contains('$') { Err(format!("a variable of no name that is known: {query}")) } else { Ok(query) }
}

#[test]
fn chosen_values_are_written_as_grafana_does() {
    let values = |values: &[&str]| choice(&values.iter().map(ToString::to_string).collect::<Vec<_>>());
    assert_eq!(values(&["orders"]), "orders");
    assert_eq!(values(&["orders", "a.b"]), r"(orders|a\\.b)");
    assert_eq!(values(&["(others)"]), r"\\(others\\)");
    assert_eq!(RATE_INTERVAL, format!("{}s", 4 * SCRAPE_INTERVAL.as_secs()));
}
