//! What the controller orders of a rig, and how the order stands in its configuration.

use holdfast_agents::runtime::Entropy;
use holdfast_agents::wire::config::{ConfigResponse, SnapshotType};
use prost::Message;

use super::model::Model;
use super::{APP, DEVICE, snapshot, volume};
use crate::controller::{DeviceConfig, config_hash};

/// So many snapshots are listed at most; the application's maximum is higher and never acts.
const MOST_LISTED: usize = 4;
const MAX_SNAPSHOTS: u32 = 8;
pub const MEMORY_BASE_KIB: u32 = 100_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Order {
    /// Cut now: the guest is stopped and started again ([003] A2).
    SnapshotNow(u32),
    /// Cut with an update of the configuration.
    SnapshotByUpdate(u32),
    RollBack(u32),
    /// Off the list, and a restart, so that the data go at once ([003] D1).
    Delete(u32),
    /// Off the list only: the data go when the guest is down next, which after a kill is at once ([003] G7).
    DeleteLater(u32),
    /// The application goes with all it had ([003] D4). The last order of a rig.
    DeleteApp,
}

impl Order {
    /// The next order of a rig: something that can be carried out.
    pub fn draw(model: &Model, chance: &dyn Entropy) -> Order {
        let listed: Vec<u32> = model.listed.iter().copied().collect();
        let next = model.last_snapshot + 1;
        let is_full = listed.len() >= MOST_LISTED;
        let any = |list: &[u32]| list[(chance.next_u64() % list.len() as u64) as usize];
        match chance.next_u64() % 10 {
            0..=2 if !is_full => Order::SnapshotNow(next),
            3 if !is_full => Order::SnapshotByUpdate(next),
            _ if listed.is_empty() => Order::SnapshotNow(next),
            4..=6 => Order::RollBack(any(&listed)),
            7 => Order::DeleteLater(any(&listed)),
            _ => Order::Delete(any(&listed)),
        }
    }

    /// How many times it changes each image: a rollback cuts a safety snapshot, applies, and drops it. With the
    /// application the whole files go.
    pub fn steps(self) -> u64 {
        match self {
            Order::RollBack(_) => 3,
            Order::DeleteApp => 0,
            _ => 1,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Order::SnapshotNow(_) => "create",
            Order::SnapshotByUpdate(_) => "create by update",
            Order::RollBack(_) => "rollback",
            Order::Delete(_) => "delete",
            Order::DeleteLater(_) => "delete later",
            Order::DeleteApp => "delete app",
        }
    }
}

/// The controller's side of a rig.
#[derive(Debug, Clone)]
pub struct Controller {
    config: DeviceConfig,
    volumes: usize,
    /// The rollback counter ordered last.
    pub rollback_counter: u32,
}

impl Controller {
    /// Version 1 on blank volumes of these sizes.
    pub fn deploying(volume_bytes: &[u64]) -> Controller {
        let mut config = DeviceConfig::new(DEVICE);
        for (at, size_bytes) in volume_bytes.iter().enumerate() {
            config.add_blank_volume(volume(at + 1), *size_bytes).name(&format!("volume {}", at + 1));
        }
        let mut app = config.add_app(APP, "db").version("1").memory_kib(MEMORY_BASE_KIB + 1);
        for at in 0..volume_bytes.len() {
            app = app.volume(volume(at + 1), 1);
        }
        app.max_snapshots(MAX_SNAPSHOTS);
        Controller { config, volumes: volume_bytes.len(), rollback_counter: 0 }
    }

    /// `version` is the controller's newest after the order.
    pub fn give(&mut self, order: Order, version: u32) {
        if order == Order::DeleteApp {
            self.config.remove_app(APP);
            (1..=self.volumes).for_each(|n| self.config.remove_volume(volume(n)));
            return;
        }
        let app = self.config.app(APP);
        match order {
            Order::SnapshotNow(n) => drop(app.request_snapshot(snapshot(n), SnapshotType::Immediate)),
            Order::SnapshotByUpdate(n) => drop(
                app.request_snapshot(snapshot(n), SnapshotType::AppUpdate)
                    .version(&version.to_string())
                    .memory_kib(MEMORY_BASE_KIB + version),
            ),
            Order::RollBack(n) => {
                self.rollback_counter = app.roll_back(snapshot(n)).rollback_counter();
            }
            Order::Delete(n) => drop(app.drop_snapshot(snapshot(n)).restart()),
            Order::DeleteLater(n) => drop(app.drop_snapshot(snapshot(n))),
            Order::DeleteApp => {}
        }
    }

    /// The configuration as it goes over the wire.
    pub fn body(&self) -> Vec<u8> {
        let config = self.config.message();
        ConfigResponse { config_hash: config_hash(config), config: Some(config.clone()) }.encode_to_vec()
    }

    pub fn hash(&self) -> String {
        config_hash(self.config.message())
    }
}
