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
use crate::runtime::{Agent, NodeBuilder, Services};
use crate::volumemgr::fetcher::Fetcher;
use crate::volumemgr::{self, Volumemgr};
use crate::wire::link::ControllerLink;
use crate::zedagent::{self, Zedagent, ZedagentEnv};
use crate::zedmanager::{self, Zedmanager};

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

/// All agents of a node, ready to be started.
pub fn agents(services: &Services, seams: &Seams, settings: &AgentSettings) -> NodeBuilder {
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
        registry: Registry::new(&seams.backing, Arc::clone(disk), Arc::clone(&seams.images)),
    };
    let domainmgr_env =
        domainmgr::Env { vmm: Arc::clone(&seams.hypervisor), disk: Arc::clone(disk), layout: layout.clone() };
    NodeBuilder::new(services)
        .agent(Zedagent::new(zedagent_settings, layout.clone()), zedagent_env)
        .agent(Zedmanager::new(layout.clone()), zedmanager_env)
        .agent(Volumemgr::new(layout.clone(), seams.backing.placement()), volumemgr_env)
        .agent(Domainmgr::new(settings.domains.clone(), layout.clone()), domainmgr_env)
}
