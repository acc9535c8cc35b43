//! Whether the machine lets itself be measured: a busy disk or busy cores give figures of somebody else's work.

use std::os::linux::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::figures::{quantile, sorted};

const SYNCS: usize = 60;
/// A disk of its own comes to 1.2 to 3; beside another writer it was 10 and more.
const UNEVEN: f64 = 8.0;
/// How long the disk is watched while nothing is asked of it, and the part of that time it may be at work for others.
const WATCHED: Duration = Duration::from_secs(2);
const AT_WORK_AT_MOST: f64 = 0.2;
const WATCHED_AT_MOST: u32 = 10;

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
    ensure_nobody_at(below)?;
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

/// What this program has written before may still be on its way: it is waited for.
fn ensure_nobody_at(below: &Path) -> anyhow::Result<()> {
    let mut part = 0.0;
    for _ in 0..WATCHED_AT_MOST {
        let (begun, before) = (Instant::now(), at_work(below)?);
        thread::sleep(WATCHED);
        let (Some(before), Some(after)) = (before, at_work(below)?) else { return Ok(()) };
        part = after.saturating_sub(before).as_secs_f64() / begun.elapsed().as_secs_f64();
        if part <= AT_WORK_AT_MOST {
            return Ok(());
        }
    }
    bail!("the disk is busy: others keep it at work {:.0} % of the time", part * 100.0)
}

/// How long the device below the directory has been at work since the machine started; `None` for a file system that is
/// on none of its own.
fn at_work(below: &Path) -> anyhow::Result<Option<Duration>> {
    let device = std::fs::metadata(below).with_context(|| format!("no {}", below.display()))?.st_dev();
    let statistics = std::fs::read_to_string("/proc/diskstats").context("cannot read /proc/diskstats")?;
    Ok(at_work_of((rustix::fs::major(device), rustix::fs::minor(device)), &statistics))
}

/// Major and minor number come first, and the milliseconds with anything under way are the tenth figure behind the name
/// (Linux, `Documentation/admin-guide/iostats.rst`).
fn at_work_of((major, minor): (u32, u32), statistics: &str) -> Option<Duration> {
    let device = [major.to_string(), minor.to_string()];
    let mut lines = statistics.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let fields = lines.find(|fields| fields.get(..2).is_some_and(|numbers| numbers == device))?;
    fields.get(12)?.parse().ok().map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_devices_time_at_work_is_read_from_its_own_line() {
        let statistics = " 253       0 zram0 0 0 0 0 0 0 0 0 0 0 0\n 254       0 vda 40 2 33 62 61 9 32 13 0 812052 78 13 71 17 13 20 1\n";
        assert_eq!(at_work_of((254, 0), statistics), Some(Duration::from_millis(812_052)));
        assert_eq!(at_work_of((254, 1), statistics), None, "not a device of its own");
        assert_eq!(at_work_of((254, 0), " 254 0 vda 40\n"), None);
    }
}
