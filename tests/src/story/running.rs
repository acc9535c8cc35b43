//! The real node's agents, in this process.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use holdfast_agents::domainmgr;
use holdfast_agents::domainmgr::simulated_vmm::SimulatedVmm;
use holdfast_agents::node;
use holdfast_agents::node::agents::{AgentSettings, LocalOrders, Seams, agents_and_orders};
use holdfast_agents::node::storage;
use holdfast_agents::runtime::{RunningNode, Services};
use holdfast_agents::settings::ZfsChoice;
use holdfast_agents::volumemgr::fetcher::HttpFetcher;
use holdfast_agents::wire::link::HttpLink;
use holdfast_agents::zedmanager::LocalOrder;
use holdfast_persist::{PersistLayout, RealDisk};
use holdfast_pubsub::Bus;
use holdfast_types::{AppId, AppPlan, DeviceId, LocalAsk, PlanAnswer};
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
    bus: Bus,
    orders: LocalOrders,
    asked: AtomicU64,
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
        let runtime = node::runtime().expect("threads for a node");
        let (node, bus, orders) = runtime.block_on(async {
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
            let bus = services.bus.clone();
            let (builder, orders) = agents_and_orders(&services, &seams, &settings);
            let node = builder.start().expect("every topic has one owner");
            tokio::time::timeout(START_AT_MOST, node.synced()).await.expect("synced in time");
            (node, bus, orders)
        });
        Running { runtime, node, bus, orders, asked: AtomicU64::new(0) }
    }

    /// Asks as somebody on the node does; the answer comes with [`Running::answer`].
    pub fn ask(&self, app: Uuid, what: LocalAsk) -> u64 {
        let number = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        assert!(self.orders.give(LocalOrder { app: AppId(app), number, what }), "zedmanager is there");
        number
    }

    pub fn answer(&self, app: Uuid, number: u64) -> Option<PlanAnswer> {
        let answer = self.bus.get::<AppPlan>(&AppId(app))?;
        (answer.number == number).then(|| answer.answer.clone())
    }

    /// As at SIGTERM: what runs is finished or parked, guests go on.
    pub fn stop(self) {
        let Running { runtime, node, .. } = self;
        runtime.block_on(node.stop(STOP_GRACE));
        runtime.shutdown_timeout(STOP_GRACE);
    }
}

fn services(persist: &Path, read_only: Option<String>) -> Services {
    let layout = PersistLayout::new(persist);
    layout.prepare(&RealDisk).expect("a persist directory");
    open_services(layout, read_only).expect("room for the reserve")
}
