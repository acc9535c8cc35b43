//! The controller as the World needs it: what is ordered, remembered well enough to judge by, and the newest reports.
//!
//! Orders are edited in the domain's words ([`DeviceConfig`]) and travel as the real wire's bytes, so that zedagent's
//! border is the real one. Unlike [`ControllerCore`](crate::controller::ControllerCore) it is a value that costs little
//! to copy: a copy of it is part of every moment that can be gone back to.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use holdfast_agents::wire::config::{ConfigRequest, ConfigResponse};
use holdfast_agents::wire::info::z_info_msg::InfoContent;
use holdfast_agents::wire::info::{ZInfoApp, ZInfoMsg};
use holdfast_agents::wire::link::{ControllerLink, Fetched, LinkError, read_config};
use holdfast_types::{SnapshotId, VolumeKey};
use prost::Message;
use uuid::Uuid;

use super::ground::{Ground, locked};
use crate::controller::{DeviceConfig, config_hash};

/// A rollback that was ordered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RollbackOrder {
    pub app: Uuid,
    pub counter: u32,
    pub snapshot: SnapshotId,
}

/// What the controller wants, all it ever ordered that matters later, and what it heard.
#[derive(Debug, Clone, Default)]
pub struct Orders {
    pub config: Arc<DeviceConfig>,
    body: Arc<Vec<u8>>,
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
        self.body = Arc::new(response.encode_to_vec());
        self.config = Arc::new(config);
        self.edits += 1;
        self.remember();
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

impl ControllerLink for WorldLink {
    fn fetch_config(&self, request: &ConfigRequest) -> Result<Fetched, LinkError> {
        let ground = locked(&self.0);
        if ground.orders.is_away {
            return Err(nobody_there());
        }
        let body = ground.orders.body.to_vec();
        drop(ground);
        Ok(read_config(request, body))
    }

    fn post_info(&self, message: &ZInfoMsg) -> Result<(), LinkError> {
        let mut ground = locked(&self.0);
        if ground.orders.is_away {
            return Err(nobody_there());
        }
        if let Some(InfoContent::Ainfo(app)) = &message.info_content {
            ground.note(format_args!(
                "reported {} version {} state {}",
                app.app_id, app.app_version, app.state
            ));
            ground.orders.reports.insert(app.app_id.clone(), Arc::new(app.clone()));
        }
        Ok(())
    }
}
