//! The same node on a real file system, with real images: its recovery on the real clock.
//!
//! The World's files are copied, with the paths in them changed and sealed anew; each image is made by `qemu-img`, with
//! the snapshots that the World's image has.

#![allow(clippy::disallowed_methods, reason = "lays out real files and looks at the real clock")]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use holdfast_agents::domainmgr;
use holdfast_agents::domainmgr::simulated_vmm::SimulatedVmm;
use holdfast_agents::node;
use holdfast_agents::node::agents::{AgentSettings, Seams, agents};
use holdfast_agents::runtime::{RunningNode, Services};
use holdfast_agents::volumemgr::testing::MemFetcher;
use holdfast_persist::{Disk, PersistLayout, RealDisk, seal};
use holdfast_types::{AppInstanceStatus, DeviceId, Format, SwState};
use holdfast_volumehandlers::qcow2::QemuImg;
use holdfast_volumehandlers::testing::{FakeImage, FakeImageTool};
use holdfast_volumehandlers::{Backing, HandlerCx, ImageTool};
use serde_json::Value;

use super::big_node::Size;
use crate::real_machine::open_services;
use crate::world::DEVICE;
use crate::world::controller::WorldLink;
use crate::world::tap::CutPoint;

const WORLD_ROOT: &str = "/persist";
const POLL_INTERVAL: Duration = Duration::from_secs(10);
const RECOVERED_AT_MOST: Duration = Duration::from_secs(120);
const STOP_GRACE: Duration = Duration::from_secs(10);

/// How long it took, from the first look at the persist directory.
#[derive(Debug, Clone, Copy)]
pub struct Recovery {
    /// Every agent has seen all there was: the node says that it is ready.
    pub ready: Duration,
    /// Every snapshot is known to be whole, every volume was looked at, every guest is started.
    pub complete: Duration,
}

/// Lays the moment's disk out below `root`.
pub fn lay_out(point: &CutPoint, root: &Path) -> anyhow::Result<()> {
    let layout = PersistLayout::new(root);
    layout.prepare(&RealDisk)?;
    let tool = FakeImageTool::new(Arc::new(point.disk.clone()));
    let mut images = Vec::new();
    for path in point.disk.all_files() {
        let place = root.join(path.strip_prefix(WORLD_ROOT).context("outside the persist directory")?);
        if let Ok(image) = tool.image(&path)
            && image.format == Format::Qcow2
        {
            images.push((place, image));
            continue;
        }
        std::fs::create_dir_all(place.parent().context("a file in a directory")?)?;
        let bytes = point.disk.read(&path)?;
        let is_json = path.extension().is_some_and(|extension| extension == "json");
        std::fs::write(&place, if is_json { moved(&bytes, root)? } else { bytes })?;
    }
    make_images(&images)
}

/// A record with its paths below the new root.
fn moved(bytes: &[u8], root: &Path) -> anyhow::Result<Vec<u8>> {
    let mut value: Value = serde_json::from_slice(bytes)?;
    let fields = value.as_object_mut().context("a record is an object")?;
    fields.remove(seal::SEAL_FIELD);
    move_paths(&mut value, root);
    Ok(seal::seal(&serde_json::to_vec_pretty(&value)?))
}

fn move_paths(value: &mut Value, root: &Path) {
    match value {
        Value::String(text) => {
            if let Some(below) = text.strip_prefix("/persist/") {
                *text = root.join(below).display().to_string();
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| move_paths(value, root)),
        Value::Object(fields) => fields.values_mut().for_each(|value| move_paths(value, root)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Two at a time, as there are cores.
fn make_images(images: &[(PathBuf, FakeImage)]) -> anyhow::Result<()> {
    let made: Vec<anyhow::Result<()>> = std::thread::scope(|scope| {
        let half = images.len().div_ceil(2).max(1);
        let make = |images: &[(PathBuf, FakeImage)]| {
            images.iter().try_for_each(|(path, image)| make_image(path, image))
        };
        let threads: Vec<_> = images.chunks(half).map(|images| scope.spawn(move || make(images))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    made.into_iter().collect()
}

fn make_image(path: &Path, image: &FakeImage) -> anyhow::Result<()> {
    let (tool, cx) = (QemuImg::new(), HandlerCx::unattended());
    tool.create(path, Format::Qcow2, image.virtual_size_bytes, &cx)?;
    image.snapshots.iter().try_for_each(|snapshot| Ok(tool.snapshot_create(path, &snapshot.name, &cx)?))
}

/// Starts a node on what is below `root` and waits until it is back.
pub fn recover(point: &CutPoint, size: Size, root: &Path) -> anyhow::Result<Recovery> {
    let runtime = node::runtime()?;
    let recovered = runtime.block_on(async {
        let begun = Instant::now();
        let (services, node) = start(point, root)?;
        let recovered = watch(begun, size, &services, &node).await;
        node.stop(STOP_GRACE).await;
        recovered
    });
    runtime.shutdown_timeout(STOP_GRACE);
    recovered
}

fn start(point: &CutPoint, root: &Path) -> anyhow::Result<(Services, RunningNode)> {
    let layout = PersistLayout::new(root);
    layout.prepare(&RealDisk)?;
    let services = open_services(layout, None)?;
    let seams = Seams {
        controller: Arc::new(WorldLink(Arc::new(Mutex::new(point.ground.clone())))),
        fetcher: Arc::new(MemFetcher::new()),
        images: Arc::new(QemuImg::new()),
        backing: Backing::Files,
        hypervisor: Arc::new(SimulatedVmm::new()),
    };
    let domains =
        domainmgr::Settings { accelerator: "simulated".to_owned(), ..domainmgr::Settings::default() };
    let settings = AgentSettings { device: DeviceId(DEVICE), poll_interval: POLL_INTERVAL, domains };
    let node = agents(&services, &seams, &settings).start()?;
    Ok((services, node))
}

async fn watch(
    begun: Instant,
    size: Size,
    services: &Services,
    node: &RunningNode,
) -> anyhow::Result<Recovery> {
    let mut ready = None;
    loop {
        let elapsed = begun.elapsed();
        if node.is_synced() {
            ready.get_or_insert(elapsed);
        }
        if let Some(ready) = ready
            && is_complete(size, services)
        {
            return Ok(Recovery { ready, complete: elapsed });
        }
        if elapsed > RECOVERED_AT_MOST {
            bail!("not recovered within {RECOVERED_AT_MOST:?}");
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn is_complete(size: Size, services: &Services) -> bool {
    let apps = services.bus.rows::<AppInstanceStatus>();
    let is_back = |status: &AppInstanceStatus| {
        status.state == SwState::Running
            && status.errors.is_empty()
            && status.snapshots.available_snapshots.len() == size.snapshots_each as usize
    };
    apps.len() == size.apps as usize && apps.iter().all(|status| is_back(status))
}

/// The middle one of several runs, and how far they lie apart.
pub fn median(mut runs: Vec<Duration>) -> anyhow::Result<(Duration, Duration, Duration)> {
    ensure!(!runs.is_empty(), "nothing was measured");
    runs.sort_unstable();
    Ok((runs[runs.len() / 2], runs[0], runs[runs.len() - 1]))
}
