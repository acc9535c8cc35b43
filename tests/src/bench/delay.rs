//! How long an agent's next event waits behind other applications' work.
//!
//! ```text
//!   100 applications, all of them snapshotting and restarting again and again, one on a disk whose syncs take 200 ms
//!   meanwhile: a sign of life is asked of each agent through its mailbox ─▶ answered          the delay of an event
//!              a tag is set on an application, in turn ─▶ durable, and shown by zedmanager     the delay of its effect
//! ```
//!
//! What an event has come to is shown when it is durable, and behind what the agent handled before: that is the second figure. It has
//! no goal.
//!
//! Storage costs nothing here (the images are the stand-in's), so that what is measured is the agents and their commits, and
//! not how two cores are shared with a hundred `qemu-img`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use holdfast_agents::runtime::Pulse;
use holdfast_agents::zedmanager::LocalOrder;
use holdfast_types::{AppId, LocalAsk, LocalChange, SwState};
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
const TAG_EVERY: Duration = Duration::from_millis(20);
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

/// In milliseconds, while all applications work.
struct Delays {
    /// Of every agent's event loop.
    events: Vec<f64>,
    /// Of what zedmanager shows.
    effects: Vec<f64>,
}

fn under_load(rig: &Rig, orders: &mut Orders, time: Duration) -> anyhow::Result<Delays> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let probes: Vec<_> =
            rig.node.pulses().iter().map(|pulse| scope.spawn(|| probe(rig, &**pulse, &stop))).collect();
        let (first, stop) = (u64::from(orders.version) << 32, &stop);
        let tags = scope.spawn(move || set_tags(rig, first, stop));
        let worked = work(rig, orders, time);
        stop.store(true, Ordering::SeqCst);
        let events = probes.into_iter().flat_map(|probe| probe.join().expect("no probe panics")).collect();
        let effects = tags.join().expect("whoever sets tags does not panic");
        worked.map(|()| Delays { events, effects })
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

/// And taken away again, on every application but the slow one, in turn; numbers of orders grow.
fn set_tags(rig: &Rig, first: u64, stop: &AtomicBool) -> Vec<f64> {
    let (mut delays, others) = (Vec::new(), u64::from(APPS - 1));
    for number in first.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let app = app(1 + ((number - first) % others) as u32);
        let tag = [format!("load {first}")].into();
        let change = match ((number - first) / others).is_multiple_of(2) {
            true => LocalChange { tags: tag, ..LocalChange::default() },
            false => LocalChange { untags: tag, ..LocalChange::default() },
        };
        let what = LocalAsk::Set(change);
        let asked = Instant::now();
        rig.local_orders.give(LocalOrder { app: AppId(app), number, what });
        while rig.app(app).is_some_and(|app| app.local_order < number) {
            std::thread::sleep(LOOK_EVERY);
        }
        delays.push(asked.elapsed().as_secs_f64() * 1e3);
        std::thread::sleep(TAG_EVERY);
    }
    delays
}

/// A probe that waits asks nobody meanwhile: what it would have asked then, and how long that would have waited, is put in.
/// Without it a loop that stands still for ten seconds would count as one bad sample among thousands.
fn as_if_asked_steadily(delays: &[f64], every: Duration) -> Vec<f64> {
    let every = every.as_secs_f64() * 1e3;
    let with_missed = |delay: &f64| {
        std::iter::successors(Some(*delay), |left| Some(left - every).filter(|left| *left > 0.0))
    };
    delays.iter().flat_map(with_missed).collect()
}

fn told(which: &str, delays: &Delays) -> Vec<Figure> {
    let figures = |what: &str, delays: &[f64], every| {
        let delays = sorted(&as_if_asked_steadily(delays, every));
        let (least, most) = (delays[0], delays[delays.len() - 1]);
        [("p99", 0.99), ("most", 1.0)].map(|(part, quantile_part)| {
            let name = format!("delay of an {what}, {APPS} apps, {which}: {part}");
            Figure::with_spread(&name, "ms", quantile(&delays, quantile_part), [least, most])
        })
    };
    let [p99, most] = figures("event", &delays.events, ASK_EVERY);
    let events = [p99.at_most(P99_AT_MOST_MS), most.at_most(MOST_AT_MOST_MS)];
    events.into_iter().chain(figures("effect", &delays.effects, TAG_EVERY)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_asked_while_a_probe_waited_counts() {
        assert_eq!(as_if_asked_steadily(&[1.0, 7.0], ASK_EVERY), [1.0, 7.0, 4.0, 1.0]);
        let steady = vec![0.1; 990];
        let events: Vec<f64> = steady.into_iter().chain([10_000.0]).collect();
        assert!(
            told("x", &Delays { events, effects: vec![1.0] })[0].value > 2.0,
            "three quarters of the time nobody would have been answered"
        );
    }
}
