//! The figures, drawn: a bar for each contestant, and a line from the smallest to the largest of its rounds.

use std::error::Error;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::support::figures::Spread;

/// Bars of one figure, in one box.
pub struct Panel {
    pub title: String,
    pub unit: &'static str,
    pub bars: Vec<(String, Spread)>,
}

/// In pixels.
const WIDTH: u32 = 1180;
const MARGIN: i32 = 20;
const COLUMNS: usize = 2;
const NAMES: i32 = 140;
const VALUES: i32 = 90;
const TITLE: i32 = 50;
const BAR: i32 = 18;
const BAR_STEP: i32 = 28;
const GAP: i32 = 26;

const FONT: &str = "sans-serif";

const OURS: RGBColor = RGBColor(33, 102, 172);
const THEIRS: RGBColor = RGBColor(170, 178, 188);
const INK: RGBColor = RGBColor(30, 30, 30);

/// Draws the panels, two side by side, into the file at `path`.
pub fn draw(panels: &[Panel], path: &str) -> Result<(), Box<dyn Error>> {
    let rows: Vec<&[Panel]> = panels.chunks(COLUMNS).collect();
    let heights: Vec<i32> = rows.iter().map(|row| row.iter().map(height).max().unwrap_or(0)).collect();
    let total = 2 * MARGIN + heights.iter().sum::<i32>();
    let root = SVGBackend::new(path, (WIDTH, u32::try_from(total)?)).into_drawing_area();
    root.fill(&WHITE)?;
    let width = (i32::try_from(WIDTH)? - 2 * MARGIN) / 2;
    let mut top = MARGIN;
    for (row, height) in rows.iter().zip(heights) {
        let mut left = MARGIN;
        for panel in *row {
            draw_panel(&root, panel, (left, top), width - GAP)?;
            left += width;
        }
        top += height;
    }
    root.present()?;
    Ok(())
}

fn height(panel: &Panel) -> i32 {
    TITLE + BAR_STEP * i32::try_from(panel.bars.len()).unwrap_or(0) + GAP
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw_panel(area: &Area<'_>, panel: &Panel, (left, top): (i32, i32), width: i32) -> Result<(), Box<dyn Error>> {
    let text = |size: i32, horizontal: HPos| {
        TextStyle::from((FONT, size).into_font()).color(&INK).pos(Pos::new(horizontal, VPos::Center))
    };
    let title = TextStyle::from((FONT, 19, FontStyle::Bold).into_font()).color(&INK);
    area.draw(&Text::new(panel.title.clone(), (left, top), title))?;
    area.draw(&Text::new(panel.unit, (left, top + 28), text(15, HPos::Left)))?;
    let largest = panel.bars.iter().map(|(_, spread)| spread.max).fold(f64::MIN_POSITIVE, f64::max);
    let room = f64::from(width - NAMES - VALUES);
    let at = |value: f64| left + NAMES + (value / largest * room).round() as i32;
    for (number, (name, spread)) in (0..).zip(&panel.bars) {
        let middle = top + TITLE + BAR_STEP * number + BAR / 2;
        let colour = if name.starts_with("seqsvr") { OURS } else { THEIRS };
        area.draw(&Text::new(name.clone(), (left + NAMES - 8, middle), text(16, HPos::Right)))?;
        let bar = [(at(0.0), middle - BAR / 2), (at(spread.median), middle + BAR / 2)];
        area.draw(&Rectangle::new(bar, colour.filled()))?;
        // From the smallest to the largest round.
        let line = INK.stroke_width(1);
        area.draw(&PathElement::new([(at(spread.min), middle), (at(spread.max), middle)], line))?;
        for end in [spread.min, spread.max] {
            area.draw(&PathElement::new([(at(end), middle - 4), (at(end), middle + 4)], line))?;
        }
        area.draw(&Text::new(label(spread.median), (at(spread.max) + 8, middle), text(16, HPos::Left)))?;
    }
    Ok(())
}

fn label(value: f64) -> String {
    match value {
        large if large >= 1e6 => format!("{:.2} million", large / 1e6),
        large if large >= 1e3 => format!("{:.1} k", large / 1e3),
        small => format!("{small:.2}"),
    }
}
