//! A figure, what it is held to, and the two ways in which all of them are told: a table and `bench.json`.
//!
//! ```text
//!   samples ─▶ Figure::new ─▶ .compared_to(...) ─▶ .at_most / .at_least / .reported ─▶ Report ─▶ table, JSON
//! ```
//!
//! Deliberately absent: measuring, and the goals themselves, which stand beside each measurement.

use std::fmt;

use serde::Serialize;

/// One measured quantity.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    pub name: String,
    /// The median.
    pub value: f64,
    pub unit: &'static str,
    /// The least and the most.
    pub spread: [f64; 2],
    /// What was measured in the same run for comparison, and its median in the same unit.
    pub ratio_to: Option<String>,
    /// `value` divided by that median.
    pub ratio: Option<f64>,
    pub goal: Option<String>,
    /// None where there is no goal.
    pub met: Option<bool>,
}

impl Figure {
    /// The median of the samples; none of them is an error of the caller, who had nothing to tell then.
    pub fn new(name: &str, unit: &'static str, samples: &[f64]) -> Figure {
        let sorted = sorted(samples);
        let spread = [sorted[0], sorted[sorted.len() - 1]];
        Figure::with_spread(name, unit, quantile(&sorted, 0.5), spread)
    }

    /// A median and a spread that somebody else has computed, or a quantile with the least and the most of its rounds.
    pub fn with_spread(name: &str, unit: &'static str, value: f64, spread: [f64; 2]) -> Figure {
        let name = name.to_owned();
        Figure { name, value, unit, spread, ratio_to: None, ratio: None, goal: None, met: None }
    }

    pub fn compared_to(mut self, what: &str, median: f64) -> Figure {
        self.ratio_to = Some(what.to_owned());
        self.ratio = Some(self.value / median);
        self
    }

    /// The goal in words, and whether it is met. Several goals are met together.
    pub fn goal(mut self, goal: &str, met: bool) -> Figure {
        self.goal = Some(match self.goal {
            Some(other) => format!("{other}, {goal}"),
            None => goal.to_owned(),
        });
        self.met = Some(met && self.met.unwrap_or(true));
        self
    }

    pub fn at_most(self, limit: f64) -> Figure {
        let met = self.value <= limit;
        let goal = format!("≤ {} {}", short(limit), self.unit);
        self.goal(&goal, met)
    }

    pub fn at_least(self, limit: f64) -> Figure {
        let met = self.value >= limit;
        let goal = format!("≥ {} {}", short(limit), self.unit);
        self.goal(&goal, met)
    }

    /// Without anything to compare with it is not met.
    pub fn ratio_at_most(self, limit: f64) -> Figure {
        let met = self.ratio.is_some_and(|ratio| ratio <= limit);
        self.goal(&format!("≤ {} ×", short(limit)), met)
    }
}

/// What was not measured, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    pub name: String,
    pub why: String,
}

/// Everything a run has to tell.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// What it was measured on.
    pub machine: String,
    pub figures: Vec<Figure>,
    pub left_out: Vec<LeftOut>,
}

impl Report {
    /// What a measurement found, or why it found nothing.
    pub fn add(&mut self, name: &str, measured: anyhow::Result<Vec<Figure>>) {
        match measured {
            Ok(figures) => self.figures.extend(figures),
            Err(error) => self.left_out.push(LeftOut { name: name.to_owned(), why: format!("{error:#}") }),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "bench: {}", self.machine)?;
        let width = self.figures.iter().map(|figure| figure.name.chars().count()).max().unwrap_or(0);
        for figure in &self.figures {
            let spread = format!("({} to {})", short(figure.spread[0]), short(figure.spread[1]));
            write!(
                formatter,
                "{:width$}  {:>10} {:<11} {spread:<24}",
                figure.name,
                short(figure.value),
                figure.unit
            )?;
            let ratio = match (&figure.ratio, &figure.ratio_to) {
                (Some(ratio), Some(to)) => format!("{ratio:.2} × {to}"),
                _ => String::new(),
            };
            let goal = match (&figure.goal, figure.met) {
                (Some(goal), Some(true)) => format!("{goal}: met"),
                (Some(goal), _) => format!("{goal}: NOT MET"),
                (None, _) => String::new(),
            };
            writeln!(formatter, " {}", [ratio, goal].join("  ").trim())?;
        }
        for LeftOut { name, why } in &self.left_out {
            writeln!(formatter, "left out: {name}: {why}")?;
        }
        Ok(())
    }
}

/// Three digits that count.
fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

pub fn sorted(samples: &[f64]) -> Vec<f64> {
    assert!(!samples.is_empty(), "nothing was measured");
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

pub fn median(samples: &[f64]) -> f64 {
    quantile(&sorted(samples), 0.5)
}

/// The sample below which the share `part` of all lies, of samples in order.
pub fn quantile(sorted: &[f64], part: f64) -> f64 {
    let last = sorted.len() - 1;
    sorted[((last as f64 * part).round() as usize).min(last)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_the_median_and_is_held_to_all_its_goals() {
        let figure = Figure::new("wake", "µs", &[9.0, 2.0, 4.0]);
        assert_eq!((figure.value, figure.spread), (4.0, [2.0, 9.0]));
        let met = figure.clone().compared_to("a raw channel", 2.0).at_most(5.0).ratio_at_most(2.0);
        assert_eq!((met.met, met.goal.as_deref()), (Some(true), Some("≤ 5.00 µs, ≤ 2.00 ×")));
        assert_eq!(met.clone().at_most(3.0).met, Some(false));
        assert_eq!(figure.ratio_at_most(2.0).met, Some(false), "nothing to compare with");
    }

    #[test]
    fn what_was_not_measured_is_told_with_its_reason() {
        let mut report = Report::default();
        report.add("snapshot", Err(anyhow::anyhow!("qemu-img is not installed")));
        report.add("wake", Ok(vec![Figure::new("wake", "µs", &[4.0]).at_most(3.0)]));
        let text = report.to_string();
        assert!(text.contains("left out: snapshot: qemu-img is not installed"), "{text}");
        assert!(text.contains("≤ 3.00 µs: NOT MET"), "{text}");
        let json = serde_json::to_value(&report).expect("plain values");
        assert_eq!(json["figures"][0]["met"], false);
        assert_eq!(json["left_out"][0]["name"], "snapshot");
    }
}
