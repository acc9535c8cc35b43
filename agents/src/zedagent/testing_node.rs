//! zedagent on the bench, and a controller in the test's hand: what the stories are told with.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast_persist::{MemDisk, PersistLayout};
use holdfast_pubsub::{Change, Mailbox};
use holdfast_types::*;
use prost::Message;

use super::jobs::ZedagentEnv;
use super::testing::*;
use super::{Settings, Zedagent};
use crate::runtime::{Bench, ManualClock};
use crate::wire::config::{ConfigRequest, ConfigResponse, EdgeDevConfig};
use crate::wire::info::{ZInfoApp, ZInfoDevice, ZInfoMsg, ZInfoVolume, z_info_msg::InfoContent};
use crate::wire::link::read_config;
use crate::wire::{ControllerLink, Fetched, LinkError};

/// A controller as the test wants it.
#[derive(Debug, Default)]
pub(super) struct Controller {
    pub(super) state: Mutex<ControllerState>,
}

#[derive(Debug, Default)]
pub(super) struct ControllerState {
    pub(super) is_away: bool,
    /// The body of the next answers.
    pub(super) body: Vec<u8>,
    pub(super) asked_with: Vec<String>,
    pub(super) refused_apps: BTreeSet<String>,
    pub(super) reports: Vec<ZInfoMsg>,
}

impl Controller {
    pub(super) fn edit<R>(&self, edit: impl FnOnce(&mut ControllerState) -> R) -> R {
        edit(&mut self.state.lock().unwrap())
    }

    pub(super) fn send(&self, config: EdgeDevConfig, hash: &str) {
        let response = ConfigResponse { config: Some(config), config_hash: hash.into() };
        self.send_bytes(&response.encode_to_vec());
    }

    pub(super) fn send_bytes(&self, body: &[u8]) {
        self.edit(|state| state.body = body.to_vec());
    }

    pub(super) fn go_away(&self) {
        self.edit(|state| state.is_away = true);
    }

    pub(super) fn come_back(&self) {
        self.edit(|state| state.is_away = false);
    }

    pub(super) fn app_reports(&self, app: &str) -> Vec<ZInfoApp> {
        let reports = self.edit(|state| state.reports.clone());
        let of_app = |content| match content {
            InfoContent::Ainfo(report) if report.app_id == app => Some(report),
            _ => None,
        };
        reports.into_iter().filter_map(|message| message.info_content.and_then(of_app)).collect()
    }

    pub(super) fn volume_reports(&self) -> Vec<ZInfoVolume> {
        let reports = self.edit(|state| state.reports.clone());
        let volume = |content| if let InfoContent::Vinfo(report) = content { Some(report) } else { None };
        reports.into_iter().filter_map(|message| message.info_content.and_then(volume)).collect()
    }

    pub(super) fn own_report(&self) -> ZInfoDevice {
        let reports = self.edit(|state| state.reports.clone());
        let own = |content| if let InfoContent::Dinfo(report) = content { Some(report) } else { None };
        reports.into_iter().filter_map(|message| message.info_content.and_then(own)).next_back().unwrap()
    }
}

pub(super) fn nobody_there() -> LinkError {
    let source = io::Error::new(io::ErrorKind::ConnectionRefused, "connection refused");
    LinkError::Unreachable { url: "http://controller.example/config".into(), source }
}

impl ControllerLink for Controller {
    fn fetch_config(&self, request: &ConfigRequest) -> Result<Fetched, LinkError> {
        self.edit(|state| {
            state.asked_with.push(request.config_hash.clone());
            if state.is_away { Err(nobody_there()) } else { Ok(read_config(request, state.body.clone())) }
        })
    }

    fn post_info(&self, message: &ZInfoMsg) -> Result<(), LinkError> {
        self.edit(|state| {
            if state.is_away {
                return Err(nobody_there());
            }
            if let Some(InfoContent::Ainfo(app)) = &message.info_content
                && state.refused_apps.contains(&app.app_id)
            {
                let url = "http://controller.example/info".into();
                return Err(LinkError::Status { url, status: 500, excerpt: "no".into() });
            }
            state.reports.push(message.clone());
            Ok(())
        })
    }
}

pub(super) struct Node {
    pub(super) bench: Bench<Zedagent>,
    pub(super) controller: Arc<Controller>,
    /// What the readers of the applications' configuration see.
    pub(super) apps: Mailbox<Change<AppInstanceConfig>>,
}

pub(super) const A_POLL: Duration = Duration::from_secs(12);

impl Node {
    pub(super) fn new(controller: Arc<Controller>) -> Self {
        Node::on(MemDisk::new(), controller)
    }

    pub(super) fn on(disk: MemDisk, controller: Arc<Controller>) -> Self {
        let (agent, env) = parts(&disk, &controller);
        Node::from(Bench::on(disk, ManualClock::default(), agent, env), controller)
    }

    pub(super) fn from(bench: Bench<Zedagent>, controller: Arc<Controller>) -> Self {
        let apps = Mailbox::new();
        apps.subscribe::<AppInstanceConfig>(bench.bus(), |change| change);
        Node { bench, controller, apps }
    }

    pub(super) fn start(mut self) -> Self {
        self.bench.start();
        self.bench.run_jobs();
        self
    }

    pub(super) fn cut_power(self) -> Self {
        let (agent, env) = parts(&self.bench.disk, &self.controller);
        Node::from(self.bench.cut_power(agent, env), self.controller)
    }

    /// The process ends and is started again: the disk forgets nothing, and what was not synced still is not.
    pub(super) fn killed(self) -> Self {
        let (agent, env) = parts(&self.bench.disk, &self.controller);
        Node::from(Bench::on(self.bench.disk, self.bench.clock, agent, env), self.controller)
    }

    /// The service gave up changing anything and starts once more on this node's disk.
    pub(super) fn come_up_read_only(self, reason: &str) -> Self {
        let (agent, env) = parts(&self.bench.disk, &self.controller);
        let bench = Bench::read_only(self.bench.disk, reason, agent, env);
        Node::from(bench, self.controller)
    }

    /// Time passes, and what is to be done in it is done.
    pub(super) fn pass(&mut self, time: Duration) {
        let mut left = time;
        while !left.is_zero() {
            let step = left.min(Duration::from_millis(500));
            self.bench.advance(step);
            self.bench.run_jobs();
            left -= step;
        }
    }

    pub(super) fn versions(&self) -> Vec<(AppId, String)> {
        let rows = self.bench.rows::<AppInstanceConfig>();
        rows.iter().map(|config| (config.app(), config.version().to_owned())).collect()
    }

    pub(super) fn expect_versions(&self, expected: &[(&str, &str)]) {
        let expected: Vec<_> = expected.iter().map(|(app, version)| (id(app), version.to_string())).collect();
        assert_eq!(self.versions(), expected);
    }

    pub(super) fn status(&self) -> DeviceStatus {
        self.bench.row::<DeviceStatus>(&device()).unwrap()
    }

    pub(super) fn error(&self) -> String {
        self.status().controller_error.map(|error| error.summary).unwrap_or_default()
    }

    /// What the readers were told since the last look: rows as `+version`, `~version`, `-version`, then `!` for Restarted.
    pub(super) fn told(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        while let Some(change) = self.apps.try_recv() {
            told.push(match change {
                Change::Created(config) => format!("+{}", config.version()),
                Change::Modified { new, .. } => format!("~{}", new.version()),
                Change::Deleted(config) => format!("-{}", config.version()),
                Change::Restarted(_) => "!".into(),
                Change::Synced => continue,
            });
        }
        told
    }

    pub(super) fn publish_status(&mut self, app: &str, version: &str, state: SwState) {
        self.bench.publish(AppInstanceStatus {
            id_and_version: UuidAndVersion { id: id(app), version: version.into() },
            display_name: "db".into(),
            state,
            activate: true,
            volumes: Vec::new(),
            boot_time: None,
            errors: Vec::new(),
            operation: None,
            snapshots: SnapshottingStatus::default(),
            guard: EffectiveGuard::default(),
            local_order: 0,
        });
    }

    pub(super) fn saved(&self) -> Option<Vec<u8>> {
        self.bench.services.disk.read(&self.bench.layout.last_config_file()).ok()
    }
}

pub(super) fn parts(disk: &MemDisk, controller: &Arc<Controller>) -> (Zedagent, ZedagentEnv) {
    let layout = PersistLayout::new("/persist");
    let env = ZedagentEnv {
        link: Arc::clone(controller) as Arc<dyn ControllerLink>,
        disk: Arc::new(disk.clone()),
        layout: layout.clone(),
    };
    (Zedagent::new(Settings::new(device()), layout), env)
}

pub(super) fn controller_with(config: EdgeDevConfig) -> Arc<Controller> {
    let controller = Arc::new(Controller::default());
    controller.send(config, "h1");
    controller
}
