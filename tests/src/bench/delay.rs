//! How long an agent's next event waits behind other applications' work.
//!
//! ```text
//!   100 applications, all of them snapshotting and restarting again and again, one on a disk whose syncs take 200 ms
//!   meanwhile, every few milliseconds: a sign of life is asked of each agent through its mailbox ─▶ answered: the delay
//! ```
//!
//! Storage costs nothing here (the images are the stand-in's), so that what is measured is the agents and their commits, and
//! not how two cores are shared with a hundred `qemu-img`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use holdfast_agents::runtime::Pulse;
use holdfast_types::SwState;
use holdfast_volumehandlers::testing::FakeImageTool;
use uuid::Uuid;

use super::figures::{Figure, quantile, sorted};
use super::rig::Rig;
use super::slow_disk::SlowDisk;
use crate::controller::DeviceConfig;
use crate::story::SnapshotType;

const APPS: u32 = 100;
/// The one on the slow disk.
const SLOW: u32 = 0;
const SYNC_DELAY: Duration = Duration::from_millis(200);
const ASK_EVERY: Duration = Duration::from_millis(3);
const LOOK_EVERY: Duration = Duration::from_micros(50);
const SNAPSHOTS_KEPT: u32 = 2;
const P99_AT_MOST_MS: f64 = 2.0;
const MOST_AT_MOST_MS: f64 = 20.0;

/// Twice for about so long: with all on one disk, and with one application on a slow one.
pub fn measure(below: &Path, time: Duration) -> anyhow::Result<Vec<Figure>> {
    let disk = SlowDisk::new(vec![app(SLOW).to_string(), volume(SLOW).to_string()]);
    let images = FakeImageTool::new(Arc::new(disk.clone()));
    let rig = Rig::begin(below, Arc::new(disk.clone()), Arc::new(images))?;
    rig.edit(|device| (0..APPS).for_each(|n| deploy(device, n)))?;
    rig.until("every application running", || (0..APPS).all(|n| is_running(&rig, n, "1")))?;
    let mut orders = Orders { version: 1 };
    let alike = under_load(&rig, &mut orders, time)?;
    disk.delay(SYNC_DELAY);
    let one_slow = under_load(&rig, &mut orders, time)?;
    ensure!(disk.delayed() > 0, "the slow disk was never written to");
    disk.delay(Duration::ZERO);
    rig.stop();
    let mut figures = told("all on one disk", &alike);
    figures.extend(told("one on a slow disk", &one_slow));
    Ok(figures)
}

fn app(n: u32) -> Uuid {
    Uuid::from_u128(0xa300_0000_0000_4000_8000_0000_0000_0000 + u128::from(n))
}

fn volume(n: u32) -> Uuid {
    Uuid::from_u128(0xb300_0000_0000_4000_8000_0000_0000_0000 + u128::from(n))
}

fn snapshot(n: u32, version: u32) -> Uuid {
    let low = u128::from(n) << 32 | u128::from(version);
    Uuid::from_u128(0xc300_0000_0000_4000_8000_0000_0000_0000 + low)
}

fn deploy(device: &mut DeviceConfig, n: u32) {
    device.add_blank_volume(volume(n), 1 << 20).name(&format!("volume {n}"));
    let edit = device.add_app(app(n), &format!("app {n}")).version("1").memory_kib(65_536);
    edit.volume(volume(n), 1).max_snapshots(SNAPSHOTS_KEPT);
}

fn is_running(rig: &Rig, n: u32, version: &str) -> bool {
    rig.app(app(n)).is_some_and(|app| {
        app.state == SwState::Running && app.operation.is_none() && app.id_and_version.version == version
    })
}

struct Orders {
    version: u32,
}

impl Orders {
    /// Every application is updated with a snapshot, and its oldest one is given up.
    fn next(&mut self, rig: &Rig) -> anyhow::Result<String> {
        self.version += 1;
        let version = self.version;
        rig.edit(|device| {
            for n in 0..APPS {
                let mut edit = device.app(app(n)).version(&version.to_string()).restart();
                if version > SNAPSHOTS_KEPT + 1 {
                    edit = edit.drop_snapshot(snapshot(n, version - SNAPSHOTS_KEPT));
                }
                edit.request_snapshot(snapshot(n, version), SnapshotType::AppUpdate);
            }
        })?;
        Ok(version.to_string())
    }
}

/// Delays in milliseconds of every agent's event loop while all applications work.
fn under_load(rig: &Rig, orders: &mut Orders, time: Duration) -> anyhow::Result<Vec<f64>> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let probes: Vec<_> =
            rig.node.pulses().iter().map(|pulse| scope.spawn(|| probe(rig, &**pulse, &stop))).collect();
        let worked = work(rig, orders, time);
        stop.store(true, Ordering::SeqCst);
        let delays: Vec<f64> =
            probes.into_iter().flat_map(|probe| probe.join().expect("no probe panics")).collect();
        worked.map(|()| delays)
    })
}

/// Everyone but the slow one has to come to the end of an order before the next.
fn work(rig: &Rig, orders: &mut Orders, time: Duration) -> anyhow::Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < time {
        let version = orders.next(rig)?;
        let behind = || (0..APPS).find(|n| *n != SLOW && !is_running(rig, *n, &version));
        rig.until("the others updated", || behind().is_none())
            .with_context(|| format!("{:#?}", behind().and_then(|n| rig.app(app(n)))))?;
    }
    Ok(())
}

fn probe(rig: &Rig, pulse: &dyn Pulse, stop: &AtomicBool) -> Vec<f64> {
    let mut delays = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        let asked = Instant::now();
        pulse.waiting_for_answer(rig.elapsed());
        while !pulse.has_answered() {
            std::thread::sleep(LOOK_EVERY);
        }
        delays.push(asked.elapsed().as_secs_f64() * 1e3);
        std::thread::sleep(ASK_EVERY);
    }
    delays
}

/// A probe that waits asks nobody meanwhile: what it would have asked then, and how long that would have waited, is put in.
/// Without it a loop that stands still for ten seconds would count as one bad sample among thousands.
fn as_if_asked_steadily(delays: &[f64]) -> Vec<f64> {
    let every = ASK_EVERY.as_secs_f64() * 1e3;
    let with_missed = |delay: &f64| {
        std::iter::successors(Some(*delay), |left| Some(left - every).filter(|left| *left > 0.0))
    };
    delays.iter().flat_map(with_missed).collect()
}

fn told(which: &str, delays: &[f64]) -> Vec<Figure> {
    let delays = sorted(&as_if_asked_steadily(delays));
    let (least, most) = (delays[0], delays[delays.len() - 1]);
    let figure = |name: &str, part: f64, limit: f64| {
        let name = format!("delay of an event, {APPS} apps, {which}: {name}");
        Figure::with_spread(&name, "ms", quantile(&delays, part), [least, most]).at_most(limit)
    };
    vec![figure("p99", 0.99, P99_AT_MOST_MS), figure("most", 1.0, MOST_AT_MOST_MS)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_asked_while_a_probe_waited_counts() {
        assert_eq!(as_if_asked_steadily(&[1.0, 7.0]), [1.0, 7.0, 4.0, 1.0]);
        let steady = vec![0.1; 990];
        let one_standstill: Vec<f64> = steady.into_iter().chain([10_000.0]).collect();
        assert!(
            told("x", &one_standstill)[0].value > 2.0,
            "three quarters of the time nobody would have been answered"
        );
    }
}
