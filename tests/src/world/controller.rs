//! The controller as the World needs it: what is ordered, remembered well enough to judge by, and the newest reports.
//!
//! Orders are edited in the domain's words ([`DeviceConfig`]) and travel as the real wire's bytes, so that zedagent's
//! border is the real one. Unlike [`ControllerCore`](crate::controller::ControllerCore) it is a value that costs little
//! to copy: a copy of it is part of every moment that can be gone back to.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};

use holdfast_agents::wire::config::{ConfigRequest, ConfigResponse};
use holdfast_agents::wire::info::z_info_msg::InfoContent;
use holdfast_agents::wire::info::{ZInfoApp, ZInfoMsg};
use holdfast_agents::wire::link::{ControllerLink, Fetched, LinkError, read_config};
use holdfast_types::{SnapshotId, VolumeKey};
use prost::Message;
use uuid::Uuid;

use super::faults::FaultKind;
use super::ground::{Ground, locked};
use crate::controller::{DeviceConfig, config_hash};

/// A rollback that was ordered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RollbackOrder {
    pub app: Uuid,
    pub counter: u32,
    pub snapshot: SnapshotId,
}

/// A configuration that was sent, and what it orders that the model has to know when it comes again.
#[derive(Debug, Clone, Default)]
pub struct Sent {
    body: Vec<u8>,
    pub snapshots: BTreeSet<SnapshotId>,
    /// Applications with their versions.
    pub versions: BTreeSet<(Uuid, u64)>,
}

/// What the controller wants, all it ever ordered that matters later, and what it heard.
#[derive(Debug, Clone, Default)]
pub struct Orders {
    pub config: Arc<DeviceConfig>,
    /// All that was ever sent, the newest last.
    pub sent: Arc<Vec<Arc<Sent>>>,
    /// How often the configuration was edited.
    pub edits: u64,
    pub rollbacks: Vec<RollbackOrder>,
    /// The volumes of each version of each application.
    volumes: BTreeMap<(Uuid, u64), Vec<VolumeKey>>,
    pub last_snapshot: u8,
    pub is_away: bool,
    pub reports: BTreeMap<String, Arc<ZInfoApp>>,
}

impl Orders {
    /// Changes the configuration; the node hears of it when it asks next.
    pub fn edit(&mut self, edit: impl FnOnce(&mut DeviceConfig)) {
        let mut config = (*self.config).clone();
        edit(&mut config);
        let response = ConfigResponse {
            config_hash: config_hash(config.message()),
            config: Some(config.message().clone()),
        };
        self.config = Arc::new(config);
        self.edits += 1;
        self.remember();
        let apps = &self.config.message().apps;
        let ids: Vec<Uuid> =
            apps.iter().filter_map(|app| app.uuidandversion.as_ref()?.uuid.parse().ok()).collect();
        let sent = Sent {
            body: response.encode_to_vec(),
            snapshots: ids.iter().flat_map(|app| self.listed(*app)).collect(),
            versions: ids.iter().filter_map(|app| Some((*app, self.version(*app)?))).collect(),
        };
        Arc::make_mut(&mut self.sent).push(Arc::new(sent));
    }

    fn remember(&mut self) {
        for app in &self.config.message().apps {
            let Some(id) = &app.uuidandversion else { continue };
            let (Ok(uuid), Ok(version)) = (id.uuid.parse::<Uuid>(), id.version.parse::<u64>()) else {
                continue;
            };
            let volumes = app.volume_ref_list.iter().filter_map(|volume| {
                Some(VolumeKey::new(
                    holdfast_types::VolumeId(volume.uuid.parse().ok()?),
                    volume.generation_count,
                ))
            });
            self.volumes.entry((uuid, version)).or_insert_with(|| volumes.collect());
            let Some(section) = &app.snapshot else { continue };
            let counter = section.rollback_cmd.as_ref().map_or(0, |order| order.counter);
            let known = self.rollbacks.iter().any(|order| order.app == uuid && order.counter == counter);
            if counter > 0
                && !known
                && let Ok(snapshot) = section.active_snapshot.parse::<Uuid>()
            {
                self.rollbacks.push(RollbackOrder { app: uuid, counter, snapshot: SnapshotId(snapshot) });
            }
        }
    }

    /// The application as it is listed now.
    pub fn app(&self, app: Uuid) -> Option<&holdfast_agents::wire::config::AppInstanceConfig> {
        let id = app.to_string();
        let named = |config: &&holdfast_agents::wire::config::AppInstanceConfig| {
            config.uuidandversion.as_ref().is_some_and(|found| found.uuid == id)
        };
        self.config.message().apps.iter().find(named)
    }

    /// Snapshots listed for an application, in the list's order.
    pub fn listed(&self, app: Uuid) -> Vec<SnapshotId> {
        let section = self.app(app).and_then(|app| app.snapshot.as_ref());
        let ids = section.into_iter().flat_map(|section| &section.snapshots);
        ids.filter_map(|desc| desc.id.parse().ok().map(SnapshotId)).collect()
    }

    /// True while some application lists the snapshot.
    pub fn names(&self, snapshot: SnapshotId) -> bool {
        let id = snapshot.to_string();
        self.config.message().apps.iter().any(|app| {
            app.snapshot.as_ref().is_some_and(|section| section.snapshots.iter().any(|desc| desc.id == id))
        })
    }

    pub fn volumes_of(&self, app: Uuid, version: u64) -> Vec<VolumeKey> {
        self.volumes.get(&(app, version)).cloned().unwrap_or_default()
    }

    pub fn version(&self, app: Uuid) -> Option<u64> {
        self.app(app)?.uuidandversion.as_ref()?.version.parse().ok()
    }
}

/// The link, as the node holds it.
#[derive(Debug, Clone)]
pub struct WorldLink(pub Arc<Mutex<Ground>>);

fn nobody_there() -> LinkError {
    let source = io::Error::new(io::ErrorKind::ConnectionRefused, "connection refused");
    LinkError::Unreachable { url: "http://controller.world".into(), source }
}

/// The whole link is down, or this one call is struck.
fn is_away(ground: &mut Ground) -> bool {
    if ground.orders.is_away {
        ground.faults.has_fired(FaultKind::LinkLoss);
        return true;
    }
    ground.faults.strikes(FaultKind::LinkLoss)
}

/// The one before the newest, or in turn the one before that.
fn stale(ground: &mut Ground) -> Vec<u8> {
    let sent = Arc::clone(&ground.orders.sent);
    let age = 1 + (ground.faults.count_of(FaultKind::Stale) as usize + 1) % 2;
    let chosen = &sent[sent.len().saturating_sub(1 + age)];
    ground.stale_arrives(chosen);
    chosen.body.clone()
}

fn under_another_hash(body: &[u8], number: u64) -> Vec<u8> {
    let mut response = ConfigResponse::decode(body).expect("it was encoded here");
    response.config_hash = format!("{} again {number}", response.config_hash);
    response.encode_to_vec()
}

impl ControllerLink for WorldLink {
    fn fetch_config(&self, request: &ConfigRequest) -> Result<Fetched, LinkError> {
        let mut ground = locked(&self.0);
        if is_away(&mut ground) {
            return Err(nobody_there());
        }
        let Some(newest) = ground.orders.sent.last().cloned() else { return Err(nobody_there()) };
        let body = if ground.faults.strikes(FaultKind::Stale) {
            stale(&mut ground)
        } else if ground.faults.strikes(FaultKind::Duplicate) {
            let number = ground.faults.count_of(FaultKind::Duplicate);
            ground.note(format_args!("the same configuration arrives under another hash"));
            under_another_hash(&newest.body, number)
        } else {
            newest.body.clone()
        };
        drop(ground);
        Ok(read_config(request, body))
    }

    fn post_info(&self, message: &ZInfoMsg) -> Result<(), LinkError> {
        let mut ground = locked(&self.0);
        if is_away(&mut ground) {
            return Err(nobody_there());
        }
        let is_lost = ground.faults.strikes(FaultKind::LostReply);
        if let Some(InfoContent::Ainfo(app)) = &message.info_content {
            ground.note(format_args!(
                "reported {} version {} state {}",
                app.app_id, app.app_version, app.state
            ));
            ground.orders.reports.insert(app.app_id.clone(), Arc::new(app.clone()));
        }
        if is_lost { Err(nobody_there()) } else { Ok(()) }
    }
}
