//! The bus by itself, as criterion measured it: reads what `cargo bench -p holdfast-pubsub --bench bus` has left.
//!
//! ```text
//!   <target>/criterion/bus/<bench>/new/estimates.json    the median of one iteration
//!                                      sample.json       every sample: how many iterations, how long together
//! ```
//!
//! What is missing, or was there before this run began, is an error that names the file: a figure of another day is none.
//!
//! Deliberately absent: measuring. The benches stand in `pubsub/benches/bus.rs`.

#![allow(clippy::disallowed_methods, reason = "reads what another program left")]

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::figures::Figure;

const NANOS_PER_SECOND: f64 = 1e9;
const NANOS_PER_MICRO: f64 = 1e3;
const NANOS_PER_MILLI: f64 = 1e6;

/// Changes in one iteration of `publish_and_handle`, and messages in one of `tokio_mpsc`.
const KEYS: f64 = 64.0;
const SUBSCRIBERS: f64 = 8.0;
/// What a cost may be above the line through the smaller size.
const FAN_OUT_ABOVE_LINE: f64 = 1.25;
const REPLAY_ABOVE_LINE: f64 = 1.5;

/// The bus's figures, from criterion's files below `target`, the directory cargo builds in. All of them were written
/// after `run_began`, or the answer is an error.
pub fn measure(target: &Path, run_began: SystemTime) -> anyhow::Result<Vec<Figure>> {
    let read = |bench: &str| Cost::read(&target.join("criterion/bus").join(bench).join("new"), run_began);
    Ok(vec![
        publish_and_handle(&read("publish_and_handle")?, &read("tokio_mpsc")?),
        fan_out(&read("fan_out/1")?, &read("fan_out/8")?),
        replay(&read("replay_each/10000")?, &read("replay/100000")?),
    ])
}

fn publish_and_handle(bus: &Cost, channel: &Cost) -> Figure {
    let per_second = |iteration_nanos: f64| KEYS * NANOS_PER_SECOND / iteration_nanos;
    let spread = [per_second(bus.most_nanos), per_second(bus.least_nanos)];
    let figure = Figure::with_spread(
        "bus: publish to handled, 64 keys",
        "per second",
        per_second(bus.median_nanos),
        spread,
    );
    // Costs are compared, of which these rates are the inverse.
    let ratio = bus.median_nanos / channel.median_nanos;
    let ratio_to = Some("the cost of a raw tokio mpsc".to_owned());
    Figure { ratio_to, ratio: Some(ratio), ..figure }.at_least(1_000_000.0).ratio_at_most(3.0)
}

fn fan_out(one: &Cost, eight: &Cost) -> Figure {
    let is_linear = eight.median_nanos <= one.median_nanos * SUBSCRIBERS * FAN_OUT_ABOVE_LINE;
    eight
        .figure("bus: fan-out to 8 subscribers", "µs per 1,000 keys", NANOS_PER_MICRO)
        .compared_to("1 subscriber", one.median_nanos / NANOS_PER_MICRO)
        .goal("linear: ≤ 1.25 × 8 × the cost of 1", is_linear)
}

/// Beside as many rows, and not beside the same few again and again, which would be found in the processor's caches.
fn replay(tenth: &Cost, whole: &Cost) -> Figure {
    let line = 10.0 * tenth.median_nanos / NANOS_PER_MILLI;
    whole
        .figure("bus: replay of 100,000 keys", "ms", NANOS_PER_MILLI)
        .compared_to("10 replays of 10,000 keys, of ten topics", line)
        .at_most(100.0)
        .ratio_at_most(REPLAY_ABOVE_LINE)
}

/// What one iteration took.
#[derive(Debug, PartialEq)]
struct Cost {
    median_nanos: f64,
    least_nanos: f64,
    most_nanos: f64,
}

#[derive(Deserialize)]
struct Estimates {
    median: Estimate,
}

#[derive(Deserialize)]
struct Estimate {
    point_estimate: f64,
}

#[derive(Deserialize)]
struct Sample {
    iters: Vec<f64>,
    times: Vec<f64>,
}

impl Cost {
    fn read(directory: &Path, run_began: SystemTime) -> anyhow::Result<Cost> {
        let estimates: Estimates = read_fresh(directory.join("estimates.json"), run_began)?;
        let path = directory.join("sample.json");
        let sample: Sample = read_fresh(path.clone(), run_began)?;
        let is_whole = !sample.iters.is_empty() && sample.iters.len() == sample.times.len();
        ensure!(is_whole, "{} holds no samples", path.display());
        let each = sample.times.iter().zip(&sample.iters).map(|(nanos, iterations)| nanos / iterations);
        Ok(Cost {
            median_nanos: estimates.median.point_estimate,
            least_nanos: each.clone().fold(f64::INFINITY, f64::min),
            most_nanos: each.fold(0.0, f64::max),
        })
    }

    fn figure(&self, name: &str, unit: &'static str, nanos_per_unit: f64) -> Figure {
        let spread = [self.least_nanos / nanos_per_unit, self.most_nanos / nanos_per_unit];
        Figure::with_spread(name, unit, self.median_nanos / nanos_per_unit, spread)
    }
}

fn read_fresh<T: DeserializeOwned>(path: PathBuf, run_began: SystemTime) -> anyhow::Result<T> {
    let written = std::fs::metadata(&path).and_then(|found| found.modified());
    let written = written.with_context(|| format!("criterion left no {}", path.display()))?;
    ensure!(written >= run_began, "{} is from before this run", path.display());
    let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is not what criterion writes", path.display()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const BENCHES: [(&str, f64); 6] = [
        ("publish_and_handle", 32_000.0),
        ("tokio_mpsc", 8_000.0),
        ("fan_out/1", 500_000.0),
        ("fan_out/8", 5_500_000.0),
        ("replay_each/10000", 4e6),
        ("replay/100000", 50e6),
    ];

    fn left_by_criterion() -> tempfile::TempDir {
        let target = tempfile::tempdir().expect("a directory");
        for (bench, median) in BENCHES {
            let directory = target.path().join("criterion/bus").join(bench).join("new");
            std::fs::create_dir_all(&directory).expect("room");
            let estimates = serde_json::json!({ "median": { "point_estimate": median } });
            let sample = serde_json::json!({ "iters": [1.0, 4.0], "times": [median * 2.0, median * 2.0] });
            std::fs::write(directory.join("estimates.json"), estimates.to_string()).expect("room");
            std::fs::write(directory.join("sample.json"), sample.to_string()).expect("room");
        }
        target
    }

    #[test]
    fn each_figure_says_what_was_measured_and_how_it_stands_to_its_goal() {
        let target = left_by_criterion();
        let figures = measure(target.path(), SystemTime::UNIX_EPOCH).expect("all is there");
        let told: Vec<_> = figures.iter().map(|figure| (figure.value, figure.ratio, figure.met)).collect();
        let expected = [
            (2_000_000.0, Some(4.0), Some(false)),
            (5_500.0, Some(11.0), Some(false)),
            (50.0, Some(1.25), Some(true)),
        ];
        assert_eq!(told, expected);
        assert_eq!(
            figures[0].spread,
            [1_000_000.0, 4_000_000.0],
            "the slowest sample is the least per second"
        );
        assert_eq!(figures[2].spread, [25.0, 100.0]);
    }

    #[test]
    fn what_is_of_an_earlier_run_or_missing_is_named_and_never_told_as_a_figure() {
        let target = left_by_criterion();
        let later = SystemTime::now() + Duration::from_secs(60);
        let stale = measure(target.path(), later).expect_err("written before").to_string();
        assert!(stale.contains("publish_and_handle/new/estimates.json is from before this run"), "{stale}");
        let missing = target.path().join("criterion/bus/replay/100000/new/sample.json");
        std::fs::remove_file(&missing).expect("there");
        let error = measure(target.path(), SystemTime::UNIX_EPOCH).expect_err("one is missing").to_string();
        assert!(error.contains(missing.to_str().expect("text")), "{error}");
    }
}
