//! Draws what the storage tool costs: `docs/qcow2-cost.svg`.
//!
//! ```text
//!   ┌ title, caption ─────────────────────────────┐   one panel per operation, all on the same scales
//!   │ create     │ apply       │ delete           │   milliseconds against GiB, both logarithmic
//!   │ ⌶ ⌶ ⌶      │             │                  │   a line per number of snapshots; bars from the least to the most
//!   └─────────────────────────────────────────────┘   the dotted line: qemu-img started for nothing
//! ```
//!
//! Text stays text in the file. The file is replaced in one step. Deliberately absent: measuring.

#![allow(clippy::disallowed_methods, reason = "it writes a document")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, anyhow, ensure};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::qcow2_cost::{Costs, Operation, Point};

const SIZE_PIXELS: (u32, u32) = (1080, 500);
const HEAD_PIXELS: u32 = 92;
const INK: RGBColor = RGBColor(40, 44, 52);
const FAINT: RGBColor = RGBColor(110, 116, 128);
const GRID: RGBColor = RGBColor(228, 231, 236);
/// Told apart in grey, and by people who see red and green as one.
const LINES: [RGBColor; 5] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 102, 153),
    RGBColor(90, 90, 90),
];
/// Lines of one size stand beside each other by this factor, or their bars would hide each other.
const BESIDE: f64 = 1.11;
const FONT: &str = "sans-serif";

type Panel<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Writes the drawing. `caption` says on what machine and with what tool it was measured.
pub fn draw(costs: &Costs, caption: &str, path: &Path) -> anyhow::Result<()> {
    ensure!(!costs.points.is_empty(), "there is nothing to draw");
    let text = svg(costs, caption).map_err(|error| anyhow!("the plot cannot be drawn: {error}"))?;
    let unfinished = path.with_extension("svg.new");
    fs::write(&unfinished, text).with_context(|| format!("cannot write {}", unfinished.display()))?;
    fs::rename(&unfinished, path).with_context(|| format!("cannot write {}", path.display()))
}

type Drawn<T> = Result<T, Box<dyn std::error::Error>>;

fn svg(costs: &Costs, caption: &str) -> Drawn<String> {
    let mut text = String::new();
    {
        let all = SVGBackend::with_string(&mut text, SIZE_PIXELS).into_drawing_area();
        all.fill(&WHITE)?;
        let (head, panels) = all.split_vertically(HEAD_PIXELS);
        draw_head(&head, costs, caption)?;
        for (operation, panel) in Operation::ALL.into_iter().zip(panels.split_evenly((1, 3))) {
            draw_panel(&panel, costs, operation)?;
        }
        all.present()?;
    }
    Ok(text)
}

/// Title, caption, and what each line is.
fn draw_head(head: &Panel<'_>, costs: &Costs, caption: &str) -> Drawn<()> {
    let left = Pos::new(HPos::Left, VPos::Center);
    let style = |size: i32, colour: &RGBColor| (FONT, size).into_font().color(colour).pos(left);
    head.draw(&Text::new("qemu-img snapshots in fully mapped images", (20, 22), style(24, &INK)))?;
    head.draw(&Text::new(caption.to_owned(), (20, 46), style(15, &FAINT)))?;
    head.draw(&Text::new("already in the image:", (20, 72), style(16, &INK)))?;
    let mut x = 180;
    for (line, snapshots) in numbers_of_snapshots(costs).into_iter().enumerate() {
        let colour = LINES[line % LINES.len()];
        head.draw(&PathElement::new(vec![(x, 72), (x + 28, 72)], colour.stroke_width(2)))?;
        head.draw(&Circle::new((x + 14, 72), 4, colour.filled()))?;
        let words = match snapshots {
            0 => "no snapshot".to_owned(),
            1 => "1 snapshot".to_owned(),
            more => format!("{more} snapshots"),
        };
        head.draw(&Text::new(words, (x + 36, 72), style(16, &INK)))?;
        x += 146;
    }
    for dash in 0..5 {
        let from = x + dash * 6;
        head.draw(&PathElement::new(vec![(from, 72), (from + 3, 72)], FAINT.stroke_width(1)))?;
    }
    head.draw(&Text::new("qemu-img without an image", (x + 36, 72), style(16, &INK)))?;
    Ok(())
}

fn draw_panel(panel: &Panel<'_>, costs: &Costs, operation: Operation) -> Drawn<()> {
    let sizes: BTreeSet<u64> = costs.points.iter().map(|point| point.size_gib).collect();
    let sizes: Vec<f64> = sizes.into_iter().map(|size_gib| size_gib as f64).collect();
    let wide = (sizes[0] / 1.7, sizes[sizes.len() - 1] * 1.7);
    let least = costs.points.iter().map(|point| point.least_ms).fold(costs.floor.value, f64::min);
    let most = costs.points.iter().map(|point| point.most_ms).fold(costs.floor.value, f64::max);
    let mut chart = ChartBuilder::on(panel)
        .caption(operation.to_string(), (FONT, 20).into_font().color(&INK))
        .margin_left(10)
        .margin_right(14)
        .margin_bottom(10)
        .x_label_area_size(46)
        .y_label_area_size(58)
        .build_cartesian_2d(
            (wide.0..wide.1).log_scale().with_key_points(sizes.clone()),
            (least / 1.25..most * 1.25).log_scale().with_key_points(ticks(least / 1.25, most * 1.25)),
        )?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(FAINT)
        .label_style((FONT, 15).into_font().color(&INK))
        .axis_desc_style((FONT, 15).into_font().color(&INK))
        .x_desc("size of the disk, GiB")
        .y_desc("time of one call, ms")
        .x_label_formatter(&|size_gib| format!("{size_gib:.0}"))
        .y_label_formatter(&|time_ms| format!("{time_ms:.0}"))
        .draw()?;
    let floor = DashedLineSeries::new(
        [(wide.0, costs.floor.value), (wide.1, costs.floor.value)],
        3,
        3,
        FAINT.stroke_width(1),
    );
    chart.draw_series(floor)?;
    let lines = numbers_of_snapshots(costs);
    for (line, (_, points)) in lines_of(costs, operation).into_iter().enumerate() {
        let colour = LINES[line % LINES.len()];
        let beside = BESIDE.powf(line as f64 - (lines.len() - 1) as f64 / 2.0);
        let at = |point: &Point| point.size_gib as f64 * beside;
        let medians: Vec<(f64, f64)> = points.iter().map(|point| (at(point), point.median_ms)).collect();
        chart.draw_series(points.iter().map(|point| {
            ErrorBar::new_vertical(
                at(point),
                point.least_ms,
                point.median_ms,
                point.most_ms,
                colour.stroke_width(1),
                6,
            )
        }))?;
        chart.draw_series(LineSeries::new(medians.iter().copied(), colour.stroke_width(2)))?;
        chart.draw_series(medians.into_iter().map(|median| Circle::new(median, 4, colour.filled())))?;
    }
    Ok(())
}

fn numbers_of_snapshots(costs: &Costs) -> BTreeSet<usize> {
    costs.points.iter().map(|point| point.snapshots).collect()
}

/// The points of an operation by number of snapshots, each line in order of size.
fn lines_of(costs: &Costs, operation: Operation) -> BTreeMap<usize, Vec<&Point>> {
    let mut lines: BTreeMap<usize, Vec<&Point>> = BTreeMap::new();
    for point in costs.points.iter().filter(|point| point.operation == operation) {
        lines.entry(point.snapshots).or_default().push(point);
    }
    lines.values_mut().for_each(|points| points.sort_by_key(|point| point.size_gib));
    lines
}

/// 1, 2, 5, 10, 20 ... within the bounds.
fn ticks(least: f64, most: f64) -> Vec<f64> {
    let decades = (0..6).map(|exponent| 10f64.powi(exponent));
    let all = decades.flat_map(|decade| [decade, 2.0 * decade, 5.0 * decade]);
    all.filter(|tick| (least..=most).contains(tick)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::figures::Figure;
    use super::*;

    fn costs() -> Costs {
        let mut points = Vec::new();
        for operation in Operation::ALL {
            for snapshots in [0, 1, 16, 64] {
                for size_gib in [1, 16, 128] {
                    let median_ms = 8.0 + size_gib as f64 * 0.6 + snapshots as f64 * 0.1;
                    let (least_ms, most_ms) = (median_ms * 0.9, median_ms * 1.4);
                    points.push(Point { operation, size_gib, snapshots, median_ms, least_ms, most_ms });
                }
            }
        }
        Costs { tool: "qemu-img".to_owned(), rounds: 3, floor: Figure::new("floor", "ms", &[5.0]), points }
    }

    #[test]
    fn a_drawing_says_all_in_text_and_has_a_mark_for_each_point() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("plot.svg");
        draw(&costs(), "on a machine & with a tool", &path).expect("drawn");
        let svg = fs::read_to_string(&path).expect("written");
        for words in [
            "on a machine &amp; with a tool",
            "snapshot create",
            "snapshot apply",
            "snapshot delete",
            "64 snapshots",
            "size of the disk, GiB",
            "time of one call, ms",
        ] {
            assert!(svg.contains(words), "{words} is missing");
        }
        // Each point, the three knobs of its bar are lines; and one mark per line in the legend.
        assert!(svg.matches("<circle").count() >= 36 + 4);
        assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 1, "nothing unfinished is left");
    }

    #[test]
    fn nothing_measured_is_nothing_drawn() {
        let nothing = Costs { points: Vec::new(), ..costs() };
        assert!(draw(&nothing, "", Path::new("/nowhere/plot.svg")).is_err());
    }

    #[test]
    fn ticks_are_round_and_within() {
        assert_eq!(ticks(4.0, 60.0), [5.0, 10.0, 20.0, 50.0]);
    }
}
