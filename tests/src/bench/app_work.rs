//! How long an application is down for a snapshot, a rollback and a deletion, beside the bare calls of `qemu-img`.
//!
//! ```text
//!   each round:  node:  snapshot with an update ─ rollback ─ deletion ─ a restart alone     (the guests' downtime)
//!                bare:  -c on each image          -a         -d                             (one call after the other)
//! ```
//!
//! The downtime counts from the guest known to be gone to the order to start it ([`super::timed_vmm`]). The bare calls are
//! made on images of the same size and content, in the same directory's file system, in the same round.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use holdfast_persist::RealDisk;
use holdfast_types::{Format, SwState};
use holdfast_volumehandlers::qcow2::QemuImg;
use holdfast_volumehandlers::{HandlerCx, ImageTool};
use uuid::Uuid;

use super::figures::{Figure, median};
use super::rig::Rig;
use crate::controller::DeviceConfig;
use crate::story::{APP, SnapshotType};

const VOLUME_BYTES: u64 = 16 << 20;
/// What is written to each image before anything is measured.
const CONTENT: &str = "write -q -P 97 0 1M";
/// What Holdfast may add to the slowest call.
const OWN_PART_MS: f64 = 10.0;
/// Volumes are independent: both cores are to be used.
const OF_CALLS_IN_A_ROW: f64 = 0.6;

/// The downtimes of 1, 2 and 8 volumes.
pub fn measure(below: &Path, rounds: usize) -> anyhow::Result<Vec<Figure>> {
    QemuImg::new().version().context("qemu-img")?;
    let mut figures = Vec::new();
    for volumes in [1, 2, 8] {
        figures.extend(Work::begin(below, volumes)?.measure(rounds)?);
    }
    Ok(figures)
}

struct Work {
    rig: Rig,
    volumes: Vec<Uuid>,
    /// As many images that no node knows of.
    bare: Vec<PathBuf>,
    version: u32,
    in_force: String,
}

/// Milliseconds, one entry per round.
#[derive(Default)]
struct Samples {
    downtime: Vec<f64>,
    slowest_call: Vec<f64>,
    calls_in_a_row: Vec<f64>,
}

impl Work {
    fn begin(below: &Path, count: usize) -> anyhow::Result<Work> {
        let rig = Rig::begin(below, Arc::new(RealDisk), Arc::new(QemuImg::new()))?;
        let volumes: Vec<Uuid> = (1..=count as u128)
            .map(|n| Uuid::from_u128(0xb200_0000_0000_4000_8000_0000_0000_0000 + n))
            .collect();
        let work = Work { bare: Vec::new(), version: 1, in_force: "1".to_owned(), rig, volumes };
        work.deploy()?;
        work.with_bare_images()
    }

    fn deploy(&self) -> anyhow::Result<()> {
        self.rig.edit(|device| {
            for volume in &self.volumes {
                device.add_blank_volume(volume, VOLUME_BYTES).name(&format!("volume {volume}"));
            }
            let mut app = device.add_app(APP, "db").version("1").memory_kib(65_536).max_snapshots(3);
            for volume in &self.volumes {
                app = app.volume(volume, 1);
            }
        })?;
        self.until_running("1")?;
        self.volumes.iter().try_for_each(|volume| fill(&self.rig.image(*volume)))
    }

    fn with_bare_images(mut self) -> anyhow::Result<Work> {
        for number in 0..self.volumes.len() {
            let image = self.rig.beside().join(format!("bare-{number}.qcow2"));
            QemuImg::new().create(&image, Format::Qcow2, VOLUME_BYTES, &HandlerCx::unattended())?;
            fill(&image)?;
            self.bare.push(image);
        }
        Ok(self)
    }

    fn measure(mut self, rounds: usize) -> anyhow::Result<Vec<Figure>> {
        let (mut snapshot, mut rollback, mut deletion) =
            (Samples::default(), Samples::default(), Samples::default());
        let mut restart = Vec::new();
        for round in 0..=rounds {
            let id = Uuid::from_u128(0xc200_0000_0000_4000_8000_0000_0000_0000 + round as u128);
            let downtimes = [
                self.update_with(|device| {
                    device.app(APP).request_snapshot(id, SnapshotType::AppUpdate);
                })?,
                self.roll_back(id)?,
                self.update_with(|device| {
                    device.app(APP).drop_snapshot(id);
                })?,
                self.update_with(|_| {})?,
            ];
            let calls = [self.bare_calls("-c")?, self.bare_calls("-a")?, self.bare_calls("-d")?];
            // The first round warms up what is cold.
            if round > 0 {
                for (samples, (downtime, calls)) in [&mut snapshot, &mut rollback, &mut deletion]
                    .into_iter()
                    .zip(downtimes.into_iter().zip(&calls))
                {
                    samples.add(downtime, calls);
                }
                restart.push(downtimes[3]);
            }
        }
        let volumes = self.volumes.len();
        self.rig.stop();
        let mut figures: Vec<Figure> =
            [("snapshot", snapshot), ("rollback", rollback), ("deletion", deletion)]
                .into_iter()
                .map(|(name, samples)| samples.figure(name, volumes))
                .collect();
        figures.push(Figure::new(&format!("downtime: restart alone, {volumes} volumes"), "ms", &restart));
        Ok(figures)
    }

    /// An update that restarts the guest and does this besides. Returns the downtime in milliseconds.
    fn update_with(&mut self, besides: impl FnOnce(&mut DeviceConfig)) -> anyhow::Result<f64> {
        self.version += 1;
        let version = self.version.to_string();
        self.rig.edit(|device| {
            besides(device);
            device.app(APP).version(&version).restart();
        })?;
        self.in_force.clone_from(&version);
        self.downtime(&version)
    }

    fn roll_back(&mut self, snapshot: Uuid) -> anyhow::Result<f64> {
        // The snapshot was taken of the version before the update that it came with.
        let version = (self.version - 1).to_string();
        self.rig.edit(|device| {
            device.app(APP).roll_back(snapshot);
        })?;
        self.downtime(&version)
    }

    /// Waits for the version to run again after one downtime, and returns that.
    fn downtime(&self, version: &str) -> anyhow::Result<f64> {
        let mut downtimes = Vec::new();
        self.rig.until("the guest's restart", || {
            downtimes.extend(self.rig.guests.take_downtimes(APP));
            !downtimes.is_empty()
        })?;
        self.until_running(version)?;
        downtimes.extend(self.rig.guests.take_downtimes(APP));
        ensure!(downtimes.len() == 1, "{} downtimes where one was expected", downtimes.len());
        Ok(milliseconds(downtimes[0]))
    }

    fn until_running(&self, version: &str) -> anyhow::Result<()> {
        self.rig.until(&format!("version {version} running"), || {
            self.rig.app(APP).is_some_and(|app| {
                app.state == SwState::Running
                    && app.operation.is_none()
                    && app.id_and_version.version == version
            })
        })
    }

    /// Milliseconds of each image's call, one after the other.
    fn bare_calls(&self, flag: &str) -> anyhow::Result<Vec<f64>> {
        self.bare.iter().map(|image| bare_call(flag, image)).collect()
    }
}

impl Samples {
    fn add(&mut self, downtime_ms: f64, calls: &[f64]) {
        self.downtime.push(downtime_ms);
        self.slowest_call.push(calls.iter().copied().fold(0.0, f64::max));
        self.calls_in_a_row.push(calls.iter().sum());
    }

    fn figure(&self, name: &str, volumes: usize) -> Figure {
        let figure = Figure::new(&format!("downtime: {name}, {volumes} volumes"), "ms", &self.downtime);
        if volumes <= 2 {
            let slowest = median(&self.slowest_call);
            let met = figure.value <= slowest + OWN_PART_MS;
            let goal = format!("≤ slowest bare call ({slowest:.1} ms) + {OWN_PART_MS} ms");
            return figure.compared_to("slowest bare call", slowest).goal(&goal, met);
        }
        let in_a_row = median(&self.calls_in_a_row);
        let met = figure.value <= in_a_row * OF_CALLS_IN_A_ROW + OWN_PART_MS;
        let goal = format!("≤ {OF_CALLS_IN_A_ROW} × the bare calls ({in_a_row:.1} ms) + {OWN_PART_MS} ms");
        figure.compared_to("the bare calls in a row", in_a_row).goal(&goal, met)
    }
}

fn bare_call(flag: &str, image: &Path) -> anyhow::Result<f64> {
    let begun = Instant::now();
    run(Command::new("qemu-img").args(["snapshot", flag, "bare"]).arg(image))?;
    Ok(milliseconds(begun.elapsed()))
}

fn fill(image: &Path) -> anyhow::Result<()> {
    run(Command::new("qemu-io").args(["-f", "qcow2", "-c", CONTENT]).arg(image))
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output =
        command.output().with_context(|| format!("{} cannot be run", command.get_program().display()))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
