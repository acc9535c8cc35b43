//! A node that starts with much to look after: how long until it is ready, and how much memory it keeps.
//!
//! ```text
//!   the World deploys and snapshots ─▶ laid out as real files and images (crate::recovery)
//!        └─▶ a process of its own (`bench node`), several times ─▶ READY=1: every agent is synced ─▶ at rest: what is resident
//! ```
//!
//! Guests are simulated: a hundred of QEMU would measure QEMU. Files are in the page cache.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use holdfast_agents::domainmgr::simulated_vmm::SimulatedVmm;
use holdfast_agents::domainmgr::vmm::Accel;
use holdfast_agents::node;
use holdfast_agents::settings::{LogFormat, Settings, ZfsChoice};
use holdfast_types::DeviceId;
use holdfast_volumehandlers::qcow2::QemuImg;

use super::figures::Figure;
use super::node_process::{self, NodeProcess};
use crate::recovery::big_node::Size;
use crate::recovery::on_disk::lay_out;
use crate::world::DEVICE;

const SNAPSHOTS_EACH: u32 = 8;
const RESERVE_BYTES: u64 = 64 * 1024;
/// It has come to rest when it used less than a hundredth of a core for so long.
const REST: Duration = Duration::from_secs(3);
const AT_REST_BELOW: f64 = 0.01;
const READY_AT_MOST: Duration = Duration::from_secs(60);
const AT_REST_AT_MOST: Duration = Duration::from_secs(180);
/// Nobody listens there: the node goes by the configuration it has kept.
const NO_CONTROLLER: &str = "http://127.0.0.1:9";

/// A size, and what it is held to.
#[derive(Debug)]
pub struct Load {
    apps: u32,
    ready_at_most_s: f64,
    resident_at_most_mib: f64,
}

pub const HUNDRED: Load = Load { apps: 100, ready_at_most_s: 0.5, resident_at_most_mib: 32.0 };
pub const THOUSAND: Load = Load { apps: 1000, ready_at_most_s: 3.0, resident_at_most_mib: 96.0 };

pub fn measure(below: &Path, load: &Load, rounds: usize) -> anyhow::Result<Vec<Figure>> {
    QemuImg::new().version().context("qemu-img")?;
    let folder = tempfile::tempdir_in(below)?;
    let size = Size { apps: load.apps, snapshots_each: SNAPSHOTS_EACH };
    let point = size.deployed().map_err(|violation| anyhow::anyhow!(violation.what))?;
    lay_out(&point, &folder.path().join("persist"))?;
    let (mut starts, mut resident) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let mut node = start(folder.path())?;
        starts.push(node.until_ready(READY_AT_MOST)?.as_secs_f64());
        come_to_rest(&mut node)?;
        resident.push(node_process::resident_mib(node.pid())?);
    }
    let what = format!("{} apps × {SNAPSHOTS_EACH} snapshots", load.apps);
    Ok(vec![
        Figure::new(&format!("start until ready, {what}"), "s", &starts).at_most(load.ready_at_most_s),
        Figure::new(&format!("resident, {what}"), "MiB", &resident).at_most(load.resident_at_most_mib),
    ])
}

fn start(folder: &Path) -> anyhow::Result<NodeProcess> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("node").arg(folder.join("persist"));
    node_process::start_command(command, folder)
}

/// Every volume was looked at and every guest started: then nothing is left to do.
fn come_to_rest(node: &mut NodeProcess) -> anyhow::Result<()> {
    let deadline = Instant::now() + AT_REST_AT_MOST;
    loop {
        let before = node_process::cpu_seconds(node.pid())?;
        std::thread::sleep(REST);
        node.must_live()?;
        let used = node_process::cpu_seconds(node.pid())? - before;
        if used / REST.as_secs_f64() < AT_REST_BELOW {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("a node does not come to rest within {AT_REST_AT_MOST:?}");
        }
    }
}

/// What the process of its own does: it is the service, but for its guests.
pub fn run_node(persist: PathBuf) -> anyhow::Result<()> {
    let settings = Settings {
        socket: persist.with_file_name("holdfast.sock"),
        persist,
        controller: NO_CONTROLLER.to_owned(),
        device: DeviceId(DEVICE),
        accelerator: Accel::Tcg,
        zfs: ZfsChoice::Off,
        poll_interval: Duration::from_secs(10),
        guest_shutdown: Duration::from_secs(60),
        drain: Duration::from_secs(1),
        reserve_bytes: RESERVE_BYTES,
        max_failed_starts: 0,
        log: "warn".to_owned(),
        log_format: LogFormat::Text,
    };
    node::run_on(settings, Some(Arc::new(SimulatedVmm::new()))).context("the node")
}
