//! The agents of a node, one line each, and the seams their jobs work on.
//!
//! The service gives them QEMU, `qemu-img` and HTTP; stories and the simulation give them what they like. The agents
//! are the same.

use std::sync::Arc;
use std::time::Duration;

use holdfast_types::DeviceId;
use holdfast_volumehandlers::{Backing, ImageTool, Registry};

use crate::domainmgr::vmm::Vmm;
use crate::domainmgr::{self, Domainmgr};
use crate::runtime::{Agent, NodeBuilder, Poster, Services};
use crate::volumemgr::fetcher::Fetcher;
use crate::volumemgr::{self, Volumemgr};
use crate::wire::link::ControllerLink;
use crate::zedagent::{self, Zedagent, ZedagentEnv};
use crate::zedmanager::{self, LocalOrder, Zedmanager};

/// Their names, for the report on the node's health.
pub const AGENTS: [&str; 4] = [Zedagent::NAME, Zedmanager::NAME, Volumemgr::NAME, Domainmgr::NAME];

/// The outside world, at the lowest level.
#[derive(Debug, Clone)]
pub struct Seams {
    pub controller: Arc<dyn ControllerLink>,
    pub fetcher: Arc<dyn Fetcher>,
    pub images: Arc<dyn ImageTool>,
    /// What volumes are stored on.
    pub backing: Backing,
    pub hypervisor: Arc<dyn Vmm>,
}

/// What can be set about the agents.
#[derive(Debug, Clone)]
pub struct AgentSettings {
    pub device: DeviceId,
    pub poll_interval: Duration,
    pub domains: domainmgr::Settings,
}

/// The way of local orders to the one who carries them out.
#[derive(Debug, Clone, Default)]
pub struct LocalOrders(Option<Poster<zedmanager::Event>>);

impl LocalOrders {
    /// False when nobody is there to take it.
    pub fn give(&self, order: LocalOrder) -> bool {
        self.0.as_ref().is_some_and(|poster| poster.post(zedmanager::Event::Local(order)))
    }
}

/// All agents of a node, ready to be started.
pub fn agents(services: &Services, seams: &Seams, settings: &AgentSettings) -> NodeBuilder {
    agents_and_orders(services, seams, settings).0
}

/// The same, for a node that takes local orders.
pub fn agents_and_orders(
    services: &Services,
    seams: &Seams,
    settings: &AgentSettings,
) -> (NodeBuilder, LocalOrders) {
    let (disk, layout) = (&services.disk, &services.layout);
    let zedagent_settings = zedagent::Settings {
        poll_interval: settings.poll_interval,
        ..zedagent::Settings::new(settings.device)
    };
    let zedagent_env =
        ZedagentEnv { link: Arc::clone(&seams.controller), disk: Arc::clone(disk), layout: layout.clone() };
    let zedmanager_env = zedmanager::Env { disk: Arc::clone(disk), layout: layout.clone() };
    let volumemgr_env = volumemgr::Env {
        disk: Arc::clone(disk),
        layout: layout.clone(),
        fetcher: Arc::clone(&seams.fetcher),
        // volumemgr reverts by cloning what cannot be reverted in place.
        registry: Registry::new(&seams.backing, Arc::clone(disk), Arc::clone(&seams.images))
            .with_raw_snapshots(Arc::clone(disk), Arc::clone(&seams.images)),
    };
    let domainmgr_env =
        domainmgr::Env { vmm: Arc::clone(&seams.hypervisor), disk: Arc::clone(disk), layout: layout.clone() };
    let mut orders = LocalOrders::default();
    let builder = NodeBuilder::new(services)
        .agent(Zedagent::new(zedagent_settings, layout.clone()), zedagent_env)
        .agent_heard_through(Zedmanager::new(layout.clone()), zedmanager_env, &mut orders.0)
        .agent(Volumemgr::new(layout.clone(), seams.backing.placement()), volumemgr_env)
        .agent(Domainmgr::new(settings.domains.clone(), layout.clone()), domainmgr_env);
    (builder, orders)
}
