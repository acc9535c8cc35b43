//! What a controller may ask for, and in which orders.
//!
//! A workload starts from a deployed application (`Setting`) with one snapshot, and is a list of operations, each given
//! when the one before is done, or (hasty) at once. The enumeration below is complete: every list of up to three
//! operations in every setting, except that nothing follows the deletion of the application.

use holdfast_agents::wire::config::{Format, SnapshotType};
use uuid::Uuid;

use super::controller::Orders;
use super::ground::locked;
use super::guests::MEMORY_BASE_KIB;
use super::storage::{self, Storage};
use super::{DEVICE, Violation, World};
use crate::controller::DeviceConfig;

pub const APP: Uuid = Uuid::from_u128(0xa000_0000_0000_4000_8000_0000_0000_0001);
pub const BYSTANDER: Uuid = Uuid::from_u128(0xa000_0000_0000_4000_8000_0000_0000_0002);
const STORE: Uuid = Uuid::from_u128(0xe000_0000_0000_4000_8000_0000_0000_0001);
const CONTENT: Uuid = Uuid::from_u128(0xf000_0000_0000_4000_8000_0000_0000_0001);
const VOLUME_BYTES: u64 = 16 << 20;

pub fn volume(n: u8) -> Uuid {
    Uuid::from_u128(0xb000_0000_0000_4000_8000_0000_0000_0000 + u128::from(n))
}

pub fn snapshot(n: u8) -> Uuid {
    Uuid::from_u128(0xc000_0000_0000_4000_8000_0000_0000_0000 + u128::from(n))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// A snapshot is asked for together with an update of the configuration.
    SnapshotByUpdate,
    SnapshotNow,
    /// To the newest snapshot that is listed.
    RollBack,
    /// The oldest snapshot is taken off the list.
    DeleteSnapshot,
    /// The first volume is made afresh.
    Purge,
    Restart,
    /// Another version with other resources.
    Update,
    DeleteApp,
}

pub const OPS: [Op; 8] = [
    Op::SnapshotByUpdate,
    Op::SnapshotNow,
    Op::RollBack,
    Op::DeleteSnapshot,
    Op::Purge,
    Op::Restart,
    Op::Update,
    Op::DeleteApp,
];

/// What is deployed before the first operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Setting {
    pub storage: Storage,
    pub volumes: u8,
    /// Another application runs beside.
    pub bystander: bool,
    pub max_snapshots: u32,
}

pub const ON_FILES: [Setting; 3] = [
    Setting { storage: Storage::Images, volumes: 1, bystander: false, max_snapshots: 8 },
    Setting { storage: Storage::Images, volumes: 2, bystander: false, max_snapshots: 8 },
    Setting { storage: Storage::Images, volumes: 2, bystander: true, max_snapshots: 2 },
];

pub const ON_ZFS: [Setting; 3] = [
    Setting { storage: Storage::Zvols, volumes: 1, bystander: false, max_snapshots: 8 },
    Setting { storage: Storage::Zvols, volumes: 2, bystander: true, max_snapshots: 2 },
    Setting { storage: Storage::Mixed, volumes: 2, bystander: false, max_snapshots: 8 },
];

pub const ON_RAW: [Setting; 3] = [
    Setting { storage: Storage::Raws, volumes: 1, bystander: false, max_snapshots: 8 },
    Setting { storage: Storage::Beside, volumes: 2, bystander: true, max_snapshots: 2 },
    Setting { storage: Storage::Three, volumes: 3, bystander: false, max_snapshots: 8 },
];

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Workload {
    pub setting: Setting,
    pub ops: Vec<Op>,
    /// The last two operations are given at once.
    pub is_hasty: bool,
}

/// Every workload of up to `length` operations in these settings, shorter ones first.
pub fn every(length: usize, settings: &[Setting]) -> Vec<Workload> {
    let mut lists: Vec<Vec<Op>> = vec![Vec::new()];
    let mut found = Vec::new();
    for _ in 0..length {
        let longer = |list: &Vec<Op>| OPS.map(|op| [list.as_slice(), &[op]].concat());
        lists = lists.iter().filter(|list| list.last() != Some(&Op::DeleteApp)).flat_map(longer).collect();
        for setting in settings.iter().copied() {
            for ops in &lists {
                found.push(Workload { setting, ops: ops.clone(), is_hasty: false });
                if ops.len() > 1 {
                    found.push(Workload { setting, ops: ops.clone(), is_hasty: true });
                }
            }
        }
    }
    found
}

fn to_version(device: &mut DeviceConfig, app: Uuid, version: u64) {
    let memory_kib = u32::try_from(MEMORY_BASE_KIB + version).expect("versions are small");
    device.app(app).version(&version.to_string()).memory_kib(memory_kib);
}

impl Op {
    /// Gives the order. False if there is nothing it could be about.
    pub fn order(self, orders: &mut Orders) -> bool {
        let Some(version) = orders.version(APP) else { return false };
        let listed = orders.listed(APP);
        let next = orders.last_snapshot + 1;
        match self {
            Op::SnapshotByUpdate => {
                orders.last_snapshot = next;
                orders.edit(|device| {
                    to_version(device, APP, version + 1);
                    device.app(APP).request_snapshot(snapshot(next), SnapshotType::AppUpdate);
                });
            }
            Op::SnapshotNow => {
                orders.last_snapshot = next;
                orders.edit(|device| {
                    device.app(APP).request_snapshot(snapshot(next), SnapshotType::Immediate);
                });
            }
            Op::RollBack => {
                let Some(target) = listed.last() else { return false };
                orders.edit(|device| {
                    device.app(APP).roll_back(target);
                });
            }
            Op::DeleteSnapshot => {
                let Some(target) = listed.first() else { return false };
                orders.edit(|device| {
                    device.app(APP).drop_snapshot(target);
                });
            }
            Op::Purge => orders.edit(|device| {
                to_version(device, APP, version + 1);
                device.regenerate_volume(volume(1)).expect("it is listed");
            }),
            Op::Restart => orders.edit(|device| {
                device.app(APP).restart();
            }),
            Op::Update => orders.edit(|device| to_version(device, APP, version + 1)),
            Op::DeleteApp => orders.edit(|device| {
                device.remove_app(APP);
                (1..=3).for_each(|n| device.remove_volume(volume(n)));
            }),
        }
        true
    }
}

impl Setting {
    /// The applications run, and snapshot 1 of the first is there.
    pub fn deployed(self) -> Result<World, Violation> {
        let begins_on = self.storage.before().unwrap_or(self.storage);
        let mut world = World::begin(begins_on, |orders| {
            orders.edit(|device| {
                *device = DeviceConfig::new(DEVICE);
                self.deploy(device);
            });
        })?;
        world.settle()?;
        if self.storage.before().is_some() {
            self.move_to_zfs(&mut world)?;
        }
        world.order(|orders| {
            Op::SnapshotNow.order(orders);
        });
        world.settle()?;
        Ok(world)
    }

    /// The node is put on a pool; what it has stays a file, and the last volume comes now.
    fn move_to_zfs(self, world: &mut World) -> Result<(), Violation> {
        storage::make_pool(self.storage, &world.tap.disk);
        locked(&world.ground).storage = self.storage;
        world.restart()?;
        world.order(|orders| {
            let version = orders.version(APP).expect("it is deployed") + 1;
            orders.edit(|device| {
                let last = volume(self.volumes);
                device.add_blank_volume(last, VOLUME_BYTES).name(&format!("volume {}", self.volumes));
                to_version(device, APP, version);
                device.app(APP).volume(last, 1);
            });
        });
        world.settle()
    }

    fn deploy(self, device: &mut DeviceConfig) {
        let volumes = if self.storage.before().is_some() { self.volumes - 1 } else { self.volumes };
        let memory = |version: u64| u32::try_from(MEMORY_BASE_KIB + version).expect("small");
        for n in 1..=volumes {
            let name = format!("volume {n}");
            match self.storage.is_raw(volume(n)) {
                true => device.add_download_volume(volume(n), CONTENT, 0).name(&name),
                false => device.add_blank_volume(volume(n), VOLUME_BYTES).name(&name),
            };
        }
        if self.storage.is_raw(volume(1)) {
            device.add_datastore(STORE, "store.world", "files");
            device.add_content_tree(CONTENT, STORE, "disk.raw", Format::Raw);
        }
        let mut app =
            device.add_app(APP, "db").version("1").memory_kib(memory(1)).max_snapshots(self.max_snapshots);
        for n in 1..=volumes {
            app = app.volume(volume(n), 1);
        }
        if self.bystander {
            device.add_blank_volume(volume(9), VOLUME_BYTES).name("bystander");
            device.add_app(BYSTANDER, "bystander").version("1").memory_kib(memory(1)).volume(volume(9), 1);
        }
    }
}
