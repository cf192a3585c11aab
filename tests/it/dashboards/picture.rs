//! The dashboard, drawn from the answers to its queries: each panel in its place, roughly as Grafana draws it.

// Pixels are whole numbers.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss
)]

use std::error::Error;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use serde_json::Value;

use super::dashboard::{Answer, Dashboard, text};

/// In pixels: of the grid's columns and rows, and of what stands around a plot.
const COLUMN: i32 = 50;
const ROW: i32 = 27;
const COLUMNS: i32 = 24;
const GAP: i32 = 6;
const HEAD: i32 = 26;
const AXIS: i32 = 56;
const LINE: i32 = 16;
/// How wide a letter of the legend is, about.
const LETTER: i32 = 7;
/// The most series that a legend names, the largest ones.
const NAMED: usize = 8;

const FONT: &str = "sans-serif";
const PAPER: RGBColor = RGBColor(244, 245, 247);
const INK: RGBColor = RGBColor(36, 41, 46);
const FAINT: RGBColor = RGBColor(222, 225, 229);
const GOOD: RGBColor = RGBColor(56, 142, 60);
const BAD: RGBColor = RGBColor(198, 40, 40);
const COLOURS: [RGBColor; 8] = [
    RGBColor(33, 102, 172),
    RGBColor(230, 126, 34),
    RGBColor(56, 142, 60),
    RGBColor(142, 68, 173),
    RGBColor(198, 40, 40),
    RGBColor(0, 151, 167),
    RGBColor(121, 85, 72),
    RGBColor(194, 24, 91),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn Error>>;

/// A line with its name.
struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

impl Line {
    fn largest(&self) -> f64 {
        self.points.iter().map(|(_, value)| *value).filter(|value| value.is_finite()).fold(0.0, f64::max)
    }
}

/// Draws all panels with their `answers` over the time `during` into the SVG file at `path`.
pub fn draw(dashboard: &Dashboard, answers: &[Answer<'_>], during: (f64, f64), path: &Path) -> Drawn {
    let bottom = dashboard.panels().iter().map(|panel| grid(panel, "y") + grid(panel, "h")).max().unwrap_or(0);
    let size = ((COLUMNS * COLUMN + GAP) as u32, (bottom * ROW + GAP) as u32);
    let root = SVGBackend::new(path, size).into_drawing_area();
    root.fill(&PAPER)?;
    for panel in dashboard.panels() {
        let (left, top) = (grid(panel, "x") * COLUMN + GAP, grid(panel, "y") * ROW + GAP);
        let (width, height) = (grid(panel, "w") * COLUMN - GAP, grid(panel, "h") * ROW - GAP);
        let frame = root.clone().shrink((left, top), (width, height));
        let is_row = panel["type"] == "row";
        if !is_row {
            frame.fill(&WHITE)?;
        }
        let title = TextStyle::from((FONT, 15, FontStyle::Bold).into_font()).color(&INK);
        frame.draw(&Text::new(text(&panel["title"]).to_owned(), (8, 6), title))?;
        let unit = text(&panel["fieldConfig"]["defaults"]["unit"]);
        let lines: Vec<Line> =
            answers.iter().filter(|answer| answer.panel["id"] == panel["id"]).flat_map(lines).collect();
        match text(&panel["type"]) {
            "row" => {}
            "stat" => draw_stat(&frame, panel, unit, &lines)?,
            "heatmap" => draw_heatmap(&frame, &lines, during)?,
            _ => draw_lines(&frame, panel, unit, lines, during)?,
        }
    }
    root.present()?;
    Ok(())
}

fn grid(panel: &Value, key: &str) -> i32 {
    panel["gridPos"][key].as_i64().and_then(|place| i32::try_from(place).ok()).unwrap_or(0)
}

fn lines(answer: &Answer<'_>) -> Vec<Line> {
    let series = answer.series.as_deref().unwrap_or_default();
    series.iter().map(|one| Line { name: answer.legend(one), points: one.points.clone() }).collect()
}

fn style(size: i32, colour: &RGBColor, horizontal: HPos) -> TextStyle<'_> {
    TextStyle::from((FONT, size).into_font()).color(colour).pos(Pos::new(horizontal, VPos::Center))
}

/// The last value of each line; by its name and colour where the panel has one for it.
fn draw_stat(area: &Area<'_>, panel: &Value, unit: &str, lines: &[Line]) -> Drawn {
    let (width, height) = size(area);
    let step = (height - HEAD) / lines.len().max(1) as i32;
    for (line, number) in lines.iter().zip(0..) {
        let value =
            line.points.iter().rev().map(|(_, value)| *value).find(|value| value.is_finite()).unwrap_or(f64::NAN);
        let middle = HEAD + step * number + step / 2;
        let named = &panel["fieldConfig"]["defaults"]["mappings"][0]["options"][format!("{value}")];
        if named.is_object() {
            let colour = if text(&named["color"]) == "red" { BAD } else { GOOD };
            let words = format!("{}   {}", text(&named["text"]), line.name);
            area.draw(&Text::new(words, (width / 2, middle), style(15, &colour, HPos::Center)))?;
        } else {
            area.draw(&Text::new(written(value, unit), (width / 2, middle), style(32, &COLOURS[0], HPos::Center)))?;
        }
    }
    Ok(())
}

fn draw_lines(area: &Area<'_>, panel: &Value, unit: &str, mut lines: Vec<Line>, during: (f64, f64)) -> Drawn {
    // Those that are 0 all the time are not worth a name.
    lines.retain(|line| line.largest() > 0.0);
    lines.sort_by(|a, b| b.largest().total_cmp(&a.largest()));
    lines.truncate(NAMED);
    let (width, height) = size(area);
    let legend = places(&lines, width - 16);
    let rows = legend.last().map_or(0, |(_, row)| row + 1);
    let plot = Plot { left: AXIS, top: HEAD + 4, right: width - 12, bottom: height - LINE * (rows + 1) - 8, during };
    let is_log = panel["fieldConfig"]["defaults"]["custom"]["scaleDistribution"]["type"] == "symlog";
    let scaled = |value: f64| if is_log { (1.0 + value).log10() } else { value };
    let largest = lines.iter().map(Line::largest).fold(0.0, f64::max);
    let ticks = if is_log { powers(largest) } else { round_steps(largest) };
    let top = ticks.last().copied().unwrap_or(1.0).max(largest);
    let height_of = |value: f64| plot.bottom - (scaled(value) / scaled(top) * f64::from(plot.bottom - plot.top)) as i32;
    plot.draw_times(area)?;
    for tick in ticks {
        let y = height_of(tick);
        area.draw(&PathElement::new([(plot.left, y), (plot.right, y)], FAINT))?;
        area.draw(&Text::new(written(tick, unit), (plot.left - 6, y), style(12, &INK, HPos::Right)))?;
    }
    for ((line, colour), (x, row)) in lines.iter().zip(COLOURS.iter().cycle()).zip(legend) {
        // Where there is no number, the line has a gap.
        for part in line.points.split(|(_, value)| !value.is_finite()) {
            let pixels: Vec<_> = part.iter().map(|&(time, value)| (plot.at(time), height_of(value))).collect();
            match pixels[..] {
                [] => {}
                [one] => area.draw(&Circle::new(one, 2, colour.filled()))?,
                _ => area.draw(&PathElement::new(pixels, colour.stroke_width(2)))?,
            }
        }
        let y = plot.bottom + LINE * (row + 1) + 14;
        area.draw(&Rectangle::new([(x + 8, y - 2), (x + 18, y + 1)], colour.filled()))?;
        area.draw(&Text::new(line.name.clone(), (x + 22, y), style(12, &INK, HPos::Left)))?;
    }
    Ok(())
}

/// The lines are the buckets' counts, each with those below it: a cell's is what it has more than the one below.
fn draw_heatmap(area: &Area<'_>, buckets: &[Line], during: (f64, f64)) -> Drawn {
    let mut buckets: Vec<(f64, &Line)> =
        buckets.iter().filter_map(|line| Some((line.name.parse().ok()?, line))).collect();
    buckets.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let (width, height) = size(area);
    let plot = Plot { left: AXIS, top: HEAD + 4, right: width - 12, bottom: height - LINE - 8, during };
    plot.draw_times(area)?;
    let below = |number: usize, time: f64| {
        let points = number.checked_sub(1).map(|below| &buckets[below].1.points);
        points.and_then(|points| points.iter().find(|(at, _)| *at == time)).map_or(0.0, |(_, count)| *count)
    };
    let mut cells = Vec::new();
    for (number, (_, line)) in buckets.iter().enumerate() {
        let more = line.points.iter().map(|&(time, count)| (number, time, count - below(number, time)));
        cells.extend(more.filter(|(_, _, count)| *count > 1e-6));
    }
    let largest = cells.iter().map(|(_, _, count)| *count).fold(f64::MIN_POSITIVE, f64::max);
    let row = f64::from(plot.bottom - plot.top) / buckets.len().max(1) as f64;
    let edge = |number: usize| plot.bottom - (row * number as f64) as i32;
    for (number, time, count) in cells {
        // Few are to be seen beside many.
        let strength = 0.15 + 0.85 * (count / largest).sqrt();
        let corners = [(plot.at(time - 1.0), edge(number + 1) + 1), (plot.at(time) - 1, edge(number) - 1)];
        area.draw(&Rectangle::new(corners, COLOURS[1].mix(strength).filled()))?;
    }
    for (number, (bound, _)) in buckets.iter().enumerate().filter(|(_, (bound, _))| bound.is_finite()).step_by(2) {
        area.draw(&Text::new(written(*bound, "s"), (plot.left - 6, edge(number + 1)), style(12, &INK, HPos::Right)))?;
    }
    Ok(())
}

/// Where a plot is, in pixels, and the time that it spans.
struct Plot {
    left: i32,
    top: i32,
    right: i32,
    bottom: i32,
    during: (f64, f64),
}

impl Plot {
    fn at(&self, time: f64) -> i32 {
        let (from, to) = self.during;
        self.left + ((time - from) / (to - from) * f64::from(self.right - self.left)) as i32
    }

    /// The seconds since the beginning, below the plot.
    fn draw_times(&self, area: &Area<'_>) -> Drawn {
        let (from, to) = self.during;
        for seconds in round_steps(to - from) {
            let x = self.at(from + seconds);
            area.draw(&PathElement::new([(x, self.top), (x, self.bottom)], FAINT))?;
            let words = format!("{seconds} s");
            area.draw(&Text::new(words, (x, self.bottom + 9), style(12, &INK, HPos::Center)))?;
        }
        Ok(())
    }
}

fn size(area: &Area<'_>) -> (i32, i32) {
    let (width, height) = area.dim_in_pixel();
    (width as i32, height as i32)
}

/// Where each name of the legend begins, and in which row of it.
fn places(lines: &[Line], width: i32) -> Vec<(i32, i32)> {
    let (mut x, mut row) = (0, 0);
    let place = |line: &Line| {
        let wide = 34 + LETTER * line.name.chars().count() as i32;
        if x > 0 && x + wide > width {
            (x, row) = (0, row + 1);
        }
        x += wide;
        (x - wide, row)
    };
    lines.iter().map(place).collect()
}

/// From 0 in round steps up to `largest`, four or so.
fn round_steps(largest: f64) -> Vec<f64> {
    if largest <= 0.0 {
        return vec![0.0, 1.0];
    }
    let magnitude = 10_f64.powf((largest / 4.0).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|digit| digit * magnitude).find(|step| largest / step <= 4.5);
    let step = step.unwrap_or(largest);
    (0..=4).map(|number| f64::from(number) * step).take_while(|tick| *tick <= largest).collect()
}

/// 0, and each power of ten from 1 up to `largest`.
fn powers(largest: f64) -> Vec<f64> {
    let each = (0..=9).map(|number| 10_f64.powi(number)).take_while(|tick| *tick <= largest);
    [0.0].into_iter().chain(each).collect()
}

/// A value as Grafana writes it in such a unit, about.
fn written(value: f64, unit: &str) -> String {
    let short = |value: f64, unit: &str| {
        let digits = (value - value.round()).abs() > 1e-9 && value.abs() < 100.0;
        if digits { format!("{value:.2}{unit}") } else { format!("{value:.0}{unit}") }
    };
    match (unit, value) {
        (_, value) if value.is_nan() => "-".to_owned(),
        (_, 0.0) => "0".to_owned(),
        ("s", day) if day >= 86_400.0 => short(day / 86_400.0, " d"),
        ("s", minutes) if minutes >= 600.0 => short(minutes / 60.0, " min"),
        ("s", little) if little < 1.0 => format!("{} ms", (little * 1e4).round() / 10.0),
        ("s", seconds) => short(seconds, " s"),
        ("percentunit", part) if part < 0.0001 => format!("{:.1e} %", part * 100.0),
        ("percentunit", part) => short(part * 100.0, " %"),
        ("bytes", bytes) => short((bytes / f64::from(1 << 20) * 10.0).round() / 10.0, " MiB"),
        (_, large) if large >= 1e6 => short(large / 1e6, " M"),
        (_, large) if large >= 1e3 => short(large / 1e3, " k"),
        ("reqps" | "ops", rate) => short(rate, "/s"),
        (_, plain) => short(plain, ""),
    }
}
