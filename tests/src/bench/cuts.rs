//! How fast the simulation cuts the power: every figure about reliability is bought with it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};

use super::figures::Figure;

/// Workloads of the enumeration: the same ones each time.
const CUTS: &str = "20000";
/// What the machine that docs/performance.md names came to, with this build. To be changed there and here together.
const RECORDED: f64 = 1612.0;

/// Runs the release build's `soak` on one core. Not allowed to fall by a third unnoticed.
pub fn measure(soak: &Path, rounds: usize) -> anyhow::Result<Vec<Figure>> {
    let per_second = (0..rounds).map(|_| one_run(soak)).collect::<anyhow::Result<Vec<f64>>>()?;
    let figure = Figure::new("simulation: cuts per second and core", "/s", &per_second);
    Ok(vec![figure.compared_to("the recorded speed", RECORDED).at_least(RECORDED * 2.0 / 3.0)])
}

fn one_run(soak: &Path) -> anyhow::Result<f64> {
    let output = Command::new(soak)
        .args(["--cuts", CUTS, "--seed", "0", "--threads", "1"])
        .output()
        .with_context(|| format!("{} cannot be run", soak.display()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "a promise was broken: {said}");
    let rate = said.split("cuts_per_second=").nth(1).and_then(|rest| rest.split_whitespace().next());
    rate.and_then(|rate| rate.parse().ok()).with_context(|| format!("soak says no speed: {said}"))
}
