//! What is printed: tables, and the bounds with what was measured.

use std::fmt::Display;

pub use crate::support::figures::{Spread, short};

/// A bound and whether it was kept.
pub struct Bound {
    pub name: String,
    pub measured: String,
    pub allowed: String,
    pub is_kept: bool,
}

impl Bound {
    pub fn at_most(name: impl Into<String>, measured: f64, bound: f64, unit: &str) -> Self {
        Self::new(name, measured, "<=", bound, unit, measured <= bound)
    }

    pub fn at_least(name: impl Into<String>, measured: f64, bound: f64, unit: &str) -> Self {
        Self::new(name, measured, ">=", bound, unit, measured >= bound)
    }

    pub fn none(name: impl Into<String>, count: u64) -> Self {
        Self { name: name.into(), measured: count.to_string(), allowed: "0".into(), is_kept: count == 0 }
    }

    /// That ids were answered, and none again.
    pub fn no_repeats(scenario: &str, ids: &mut super::load::Ids) -> Self {
        let repeats = ids.repeats();
        println!("\n{} ids in all, {repeats} repeats", ids.len());
        let bound = Self::none(format!("{scenario}: repeats among {} ids", ids.len()), repeats as u64);
        Self { is_kept: bound.is_kept && ids.len() > 0, ..bound }
    }

    fn new(name: impl Into<String>, measured: f64, relation: &str, bound: f64, unit: &str, is_kept: bool) -> Self {
        let text = |number| format!("{} {unit}", short(number)).trim_end().to_owned();
        Self { name: name.into(), measured: text(measured), allowed: format!("{relation} {}", text(bound)), is_kept }
    }
}

/// A table in plain text: the first column on the left, the others on the right.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(head: &[&str]) -> Self {
        Self { rows: vec![head.iter().map(ToString::to_string).collect()] }
    }

    pub fn row(&mut self, cells: &[&dyn Display]) {
        self.rows.push(cells.iter().map(ToString::to_string).collect());
    }

    pub fn print(&self) {
        let columns = self.rows[0].len();
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        println!();
        for row in &self.rows {
            let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
                if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
            });
            println!("{}", cells.collect::<Vec<_>>().join("  ").trim_end());
        }
    }
}

/// The heading of a scenario.
pub fn heading(name: &str, what: &str) {
    println!("\n=== {name}: {what}");
}
