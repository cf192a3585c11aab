//! What is printed as it is measured, and written to `benches/RESULTS.md` at the end of a full run.

use std::fmt::{Display, Write as _};
use std::fs;
use std::thread;

use crate::bench::Bench;
use crate::servers::peers;
use crate::support::figures::{Spread, short};

/// A bound and what was measured of it.
pub struct Bound {
    pub what: String,
    pub allowed: String,
    pub measured: String,
    /// `None` where it could not be measured.
    pub is_kept: Option<bool>,
    /// By which factor the measured is from the bound, and whether less than two equal servers were from each other.
    distance: f64,
    is_close: bool,
}

impl Bound {
    pub fn at_most(what: &str, measured: Spread, bound: f64, unit: &str) -> Self {
        Self::new(what, measured, "at most", bound, unit, measured.median <= bound)
    }

    pub fn at_least(what: &str, measured: Spread, bound: f64, unit: &str) -> Self {
        Self::new(what, measured, "at least", bound, unit, measured.median >= bound)
    }

    pub fn unknown(what: &str, allowed: &str, why: &str) -> Self {
        let (what, allowed, measured) = (what.to_owned(), allowed.to_owned(), why.to_owned());
        Self { what, allowed, measured, is_kept: None, distance: f64::INFINITY, is_close: false }
    }

    /// With what two equal servers differed by.
    pub fn beside(self, aa: Option<f64>) -> Self {
        Self { is_close: aa.is_some_and(|aa| self.distance < aa), ..self }
    }

    fn new(what: &str, measured: Spread, relation: &str, bound: f64, unit: &str, is_kept: bool) -> Self {
        Self {
            what: what.to_owned(),
            allowed: format!("{relation} {}{unit}", short(bound)),
            measured: format!("{}{unit}", figure(measured)),
            is_kept: Some(is_kept),
            distance: (measured.median / bound).max(bound / measured.median),
            is_close: false,
        }
    }

    fn verdict(&self) -> &'static str {
        match (self.is_kept, self.is_close) {
            (Some(true), false) => "kept",
            (Some(true), true) => "kept, within the A/A spread",
            (Some(false), false) => "**missed**",
            (Some(false), true) => "**missed**, within the A/A spread",
            (None, _) => "not measured",
        }
    }
}

/// A figure with its spread; alone where it was measured once.
pub fn figure(spread: Spread) -> String {
    if spread.min.total_cmp(&spread.max).is_eq() { short(spread.median) } else { spread.to_string() }
}

/// Whole thousands apart, so that large figures can be read.
pub fn thousands(spread: Spread) -> String {
    let one = |number: f64| {
        let digits = format!("{number:.0}");
        let mut text = String::new();
        for (at, digit) in digits.chars().enumerate() {
            if at > 0 && (digits.len() - at).is_multiple_of(3) {
                text.push(',');
            }
            text.push(digit);
        }
        text
    };
    format!("{} ({}..{})", one(spread.median), one(spread.min), one(spread.max))
}

/// The Markdown of the scenarios so far.
#[derive(Default)]
pub struct Report {
    text: String,
}

impl Report {
    pub fn heading(&mut self, text: &str) {
        self.paragraph(&format!("## {text}"));
    }

    pub fn paragraph(&mut self, text: &str) {
        println!("\n{text}");
        let _ = write!(self.text, "\n{text}\n");
    }

    /// A table whose first column is on the left, the others on the right. It can be read as it is.
    pub fn table(&mut self, head: &[&str], rows: &[Vec<String>]) {
        let text = table(head, rows);
        println!("\n{}", text.trim_end());
        let _ = write!(self.text, "\n{text}");
    }
}

fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = head.iter().map(ToString::to_string).collect();
    let width = |column: usize| {
        let cells = rows.iter().chain([&head]).map(|row| row[column].chars().count());
        cells.max().unwrap_or(0).max(3)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |row: &[String]| {
        let cells = row.iter().zip(&widths).enumerate();
        let cells: Vec<String> = cells
            .map(
                |(column, (cell, width))| {
                    if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
                },
            )
            .collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let rule: Vec<String> = widths
        .iter()
        .enumerate()
        .map(|(column, width)| if column == 0 { "-".repeat(*width) } else { format!("{}:", "-".repeat(width - 1)) })
        .collect();
    [line(&head), line(&rule)].into_iter().chain(rows.iter().map(|row| line(row))).collect()
}

/// The bounds with what was measured.
pub fn bounds(bench: &Bench) -> String {
    let rows: Vec<Vec<String>> = bench
        .bounds
        .iter()
        .map(|bound| {
            vec![bound.what.clone(), bound.allowed.clone(), bound.measured.clone(), bound.verdict().to_owned()]
        })
        .collect();
    table(&["bound", "allowed", "measured", ""], &rows)
}

/// Whether the machine was the bench's own.
pub fn disturbance(bench: &Bench) -> String {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    bench.others().map_or_else(String::new, |others| {
        format!("While it was measured, other processes had {} of the {processors} processors.", figure(others))
    })
}

/// All of the results.
pub fn results(bench: &Bench) -> String {
    let (ids, repeats, errors) = bench.verdict();
    let absent = match bench.absent.len() {
        0 => "All peers took part.".to_owned(),
        _ => format!("Absent: {}.", bench.absent.iter().cloned().collect::<Vec<_>>().join(", ")),
    };
    format!(
        "# Results\n\n\
         Written by `make bench`, as all of this page; run it to have the figures of your machine.\n\n\
         {}\n\
         A figure is the median of the rounds, with the smallest and the largest in brackets; a ratio is of medians, with the smallest\n\
         and the largest within a round in brackets. The load generator shares the processors with what it measures, so\n\
         requests a second say as much about it; the processor time for a request says what the server spends. Figures of\n\
         one run compare with each other, not with those of other machines.\n\n\
         {} {}\n\n\
         {ids} different ids were checked: {repeats} repeats, {errors} errors.\n\n\
         ![the figures, drawn](results.svg)\n\n\
         ## Bounds\n\n\
         A bound is on the median. Where the measured is nearer to it than two equal servers were to each other in the worst round (the\n\
         A/A pairs below), another run may say otherwise.\n\n{}{}",
        machine(bench),
        disturbance(bench),
        absent,
        bounds(bench),
        bench.report.text,
    )
}

/// The machine and the versions of all that took part, as a table.
fn machine(bench: &Bench) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let line = |path: &str, name: &str| {
        let text = read(path);
        let found = text.lines().find(|line| line.starts_with(name)).and_then(|line| line.split_once(':'));
        found.map_or("unknown".to_owned(), |(_, value)| value.trim().to_owned())
    };
    let kernel = read("/proc/sys/kernel/osrelease");
    // The number alone: what follows it is a distributor's.
    let kernel = kernel.trim().split('-').next().unwrap_or_default().to_owned();
    let memory: f64 = line("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0.0);
    let mut rows = vec![
        row(&[&"processor", &line("/proc/cpuinfo", "model name")]),
        row(&[&"processors", &thread::available_parallelism().map_or(1, usize::from)]),
        row(&[&"memory", &format!("{:.0} GiB", memory / f64::from(1 << 20))]),
        row(&[&"kernel", &format!("Linux {kernel}")]),
        row(&[&"threads of the load generator", &bench.threads]),
        row(&[&"seqsvr", &env!("CARGO_PKG_VERSION")]),
    ];
    rows.extend(["actix-web", "tokio"].map(|name| row(&[&name, &locked(name)])));
    for (name, version) in peers::versions() {
        rows.push(row(&[&name, &version.unwrap_or_else(|| "not installed".to_owned())]));
    }
    table(&["", ""], &rows)
}

/// The version of a dependency that this was built with.
fn locked(name: &str) -> String {
    let lock = include_str!("../../Cargo.lock");
    let entry = lock.split("[[package]]").find(|entry| entry.contains(&format!("\nname = \"{name}\"\n")));
    let version = entry.and_then(|entry| entry.split("version = \"").nth(1)?.split('"').next());
    version.unwrap_or("unknown").to_owned()
}

/// Cells of anything that can be shown.
pub fn row(cells: &[&dyn Display]) -> Vec<String> {
    cells.iter().map(ToString::to_string).collect()
}
