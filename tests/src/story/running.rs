//! The real node's agents, in this process.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use holdfast_agents::domainmgr;
use holdfast_agents::domainmgr::simulated_vmm::SimulatedVmm;
use holdfast_agents::node::agents::{AgentSettings, Seams, agents};
use holdfast_agents::node::storage;
use holdfast_agents::runtime::{RunningNode, Services};
use holdfast_agents::settings::ZfsChoice;
use holdfast_agents::volumemgr::fetcher::HttpFetcher;
use holdfast_agents::wire::link::HttpLink;
use holdfast_persist::{PersistLayout, RealDisk};
use holdfast_types::DeviceId;
use holdfast_volumehandlers::qcow2::QemuImg;
use tokio::runtime::Runtime;
use uuid::Uuid;

use super::tool::ToolFaults;
use crate::hooked_tool::HookedTool;
use crate::real_machine::open_services;

const POLL_INTERVAL: Duration = Duration::from_millis(100);
const START_AT_MOST: Duration = Duration::from_secs(20);
const STOP_GRACE: Duration = Duration::from_secs(10);

/// The service's settings, as far as they differ between stories.
#[derive(Debug)]
pub struct Told {
    pub zfs: ZfsChoice,
    /// As after too many starts that failed, for this reason.
    pub read_only: Option<String>,
}

#[derive(Debug)]
pub struct Running {
    runtime: Runtime,
    node: RunningNode,
}

impl Running {
    /// Returns when every agent is synced.
    pub fn start(
        persist: &Path,
        device: Uuid,
        controller: &str,
        hypervisor: SimulatedVmm,
        tool_faults: ToolFaults,
        told: Told,
    ) -> Running {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("threads for a node");
        let node = runtime.block_on(async {
            let services = services(persist, told.read_only);
            let seams = Seams {
                controller: Arc::new(HttpLink::new(controller, device).expect("the simulator's address")),
                fetcher: Arc::new(HttpFetcher::new()),
                images: Arc::new(HookedTool { tool: QemuImg::new(), hook: tool_faults }),
                backing: storage::choose(persist, told.zfs).backing,
                hypervisor: Arc::new(hypervisor),
            };
            let domains = domainmgr::Settings {
                accelerator: "simulated".to_owned(),
                shutdown_patience: Duration::from_millis(500),
                ..domainmgr::Settings::default()
            };
            let settings = AgentSettings { device: DeviceId(device), poll_interval: POLL_INTERVAL, domains };
            let node = agents(&services, &seams, &settings).start().expect("every topic has one owner");
            tokio::time::timeout(START_AT_MOST, node.synced()).await.expect("synced in time");
            node
        });
        Running { runtime, node }
    }

    /// As at SIGTERM: what runs is finished or parked, guests go on.
    pub fn stop(self) {
        let Running { runtime, node } = self;
        runtime.block_on(node.stop(STOP_GRACE));
        runtime.shutdown_timeout(STOP_GRACE);
    }
}

fn services(persist: &Path, read_only: Option<String>) -> Services {
    let layout = PersistLayout::new(persist);
    layout.prepare(&RealDisk).expect("a persist directory");
    open_services(layout, read_only).expect("room for the reserve")
}
