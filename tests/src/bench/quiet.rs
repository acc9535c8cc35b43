//! Whether the machine lets itself be measured: a busy disk or busy cores give figures of somebody else's work.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, ensure};

use super::figures::{quantile, sorted};

const SYNCS: usize = 60;
/// A disk of its own comes to 1.2 to 3; beside another writer it was 10 and more.
const UNEVEN: f64 = 8.0;

/// In words: cores, load and kernel, for the head of the report.
pub fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().next().unwrap_or("unknown").to_owned();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cores} cores, load average {load} at the start, Linux {}", kernel.trim())
}

/// An error says that somebody else is at the disk below which is to be measured.
pub fn disk(below: &Path) -> anyhow::Result<()> {
    let path = below.join("quiet");
    let sync = |_| {
        let begun = Instant::now();
        let file = std::fs::File::create(&path)?;
        std::io::Write::write_all(&mut &file, b"one small record")?;
        file.sync_all()?;
        anyhow::Ok(begun.elapsed().as_secs_f64() * 1e3)
    };
    let times = (0..SYNCS).map(sync).collect::<anyhow::Result<Vec<f64>>>();
    let times =
        sorted(&times.with_context(|| format!("the disk below {} cannot be written", below.display()))?);
    let (usual, slow) = (quantile(&times, 0.5), quantile(&times, 0.9));
    ensure!(
        slow <= usual * UNEVEN,
        "the disk is busy: a small write and its sync take {usual:.2} ms, and one in ten more than {slow:.2} ms"
    );
    Ok(())
}
