//! A whole node in this process: real agents, bus, files and wire; guests that are simulated and timed.
//!
//! ```text
//!   Rig ──edit──▶ controller-sim ◀──HTTP── node ──▶ qemu-img (or a stand-in that costs nothing), the disk given
//!    └── until: looks at the node's bus itself, every millisecond: reports are not waited for
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use holdfast_agents::domainmgr;
use holdfast_agents::node;
use holdfast_agents::node::agents::{AgentSettings, LocalOrders, Seams, agents_and_orders};
use holdfast_agents::runtime::{RunningNode, Services};
use holdfast_agents::volumemgr::testing::MemFetcher;
use holdfast_agents::wire::link::HttpLink;
use holdfast_persist::{Disk, PersistLayout};
use holdfast_types::{AppId, AppInstanceStatus, DeviceId};
use holdfast_volumehandlers::{Backing, ImageTool};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use uuid::Uuid;

use super::timed_vmm::TimedVmm;
use crate::controller::DeviceConfig;
use crate::controller::server::Server;
use crate::real_machine::open_services_on;
use crate::story::DEVICE;

const POLL_INTERVAL: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(300);
const STOP_GRACE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Rig {
    pub guests: TimedVmm,
    pub node: RunningNode,
    pub local_orders: LocalOrders,
    controller: Server,
    services: Services,
    runtime: Runtime,
    folder: TempDir,
}

impl Rig {
    /// A node with nothing deployed, every agent synced. What it keeps lies in a new directory below `below`.
    pub fn begin(below: &Path, disk: Arc<dyn Disk>, images: Arc<dyn ImageTool>) -> anyhow::Result<Rig> {
        let folder = tempfile::tempdir_in(below)?;
        let layout = PersistLayout::new(folder.path().join("persist"));
        let (controller, guests) = (Server::for_test(None), TimedVmm::default());
        controller.edit_config(DEVICE, |_| {})?;
        let seams = Seams {
            controller: Arc::new(HttpLink::new(&controller.url(), DEVICE)?),
            fetcher: Arc::new(MemFetcher::new()),
            images,
            backing: Backing::Files,
            hypervisor: Arc::new(guests.clone()),
        };
        let domains =
            domainmgr::Settings { accelerator: "simulated".to_owned(), ..domainmgr::Settings::default() };
        let settings = AgentSettings { device: DeviceId(DEVICE), poll_interval: POLL_INTERVAL, domains };
        let runtime = node::runtime()?;
        let (services, node, local_orders) = runtime.block_on(async {
            layout.prepare(&*disk)?;
            let services = open_services_on(disk, layout, None)?;
            let (builder, local_orders) = agents_and_orders(&services, &seams, &settings);
            let node = builder.start()?;
            tokio::time::timeout(PATIENCE, node.synced()).await.context("not synced in time")?;
            anyhow::Ok((services, node, local_orders))
        })?;
        Ok(Rig { guests, node, local_orders, controller, services, runtime, folder })
    }

    pub fn edit(&self, edit: impl FnOnce(&mut DeviceConfig)) -> anyhow::Result<()> {
        Ok(self.controller.edit_config(DEVICE, edit)?)
    }

    pub fn app(&self, app: Uuid) -> Option<Arc<AppInstanceStatus>> {
        self.services.bus.get::<AppInstanceStatus>(&AppId(app))
    }

    /// Looks every millisecond until it is so.
    pub fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !is_so() {
            if Instant::now() > deadline {
                bail!("{what}: not within {PATIENCE:?}");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Where a blank volume's image is.
    pub fn image(&self, volume: Uuid) -> PathBuf {
        self.folder.path().join(format!("persist/vault/volumes/{volume}#1.qcow2"))
    }

    /// Room beside the persist directory, on the same file system.
    pub fn beside(&self) -> &Path {
        self.folder.path()
    }

    /// The time of the node's own clock, which its agents' health goes by.
    pub fn elapsed(&self) -> Duration {
        self.services.clock.elapsed()
    }

    pub fn stop(self) {
        let Rig { node, runtime, .. } = self;
        runtime.block_on(node.stop(STOP_GRACE));
        runtime.shutdown_timeout(STOP_GRACE);
    }
}
