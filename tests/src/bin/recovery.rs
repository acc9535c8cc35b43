//! `recovery`: how long a node with many applications and snapshots takes to come back after a power cut, in simulation
//! steps and in seconds on real files.

use std::time::Duration;

use anyhow::ensure;
use clap::Parser;
use holdfast_tests::recovery::big_node::Size;
use holdfast_tests::recovery::on_disk::{lay_out, median, recover};
use holdfast_volumehandlers::qcow2::QemuImg;

/// Measures the recovery of a node with many applications and snapshots
#[derive(Debug, Parser)]
#[command(name = "recovery", version)]
struct Arguments {
    #[arg(long, default_value_t = 100)]
    apps: u32,
    /// Snapshots of each application
    #[arg(long, default_value_t = 8)]
    snapshots: u32,
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Fail if the median is above this many milliseconds
    #[arg(long, default_value_t = 2000)]
    at_most_ms: u64,
}

fn main() -> anyhow::Result<()> {
    let Arguments { apps, snapshots, runs, at_most_ms } = Arguments::parse();
    let size = Size { apps, snapshots_each: snapshots };
    let failed = |violation: holdfast_tests::world::Violation| anyhow::anyhow!(violation.what);
    let point = size.deployed().map_err(failed)?;
    let steps = size.recovery_steps(&point).map_err(failed)?;
    QemuImg::new().version()?;

    let directory = tempfile::tempdir()?;
    lay_out(&point, directory.path())?;
    let recovered = (0..runs).map(|_| recover(&point, size, directory.path()));
    let recovered = recovered.collect::<anyhow::Result<Vec<_>>>()?;
    let (ready, ..) = median(recovered.iter().map(|recovery| recovery.ready).collect())?;
    let (complete, fastest, slowest) = median(recovered.iter().map(|recovery| recovery.complete).collect())?;
    let seconds = |time: Duration| time.as_secs_f64();
    println!(
        "recovery: apps={apps} snapshots={} steps={steps} real_seconds={:.3} ready_seconds={:.3} spread={:.3}..{:.3} runs={runs}",
        apps * snapshots,
        seconds(complete),
        seconds(ready),
        seconds(fastest),
        seconds(slowest),
    );
    ensure!(complete <= Duration::from_millis(at_most_ms), "slower than {at_most_ms} ms");
    Ok(())
}
