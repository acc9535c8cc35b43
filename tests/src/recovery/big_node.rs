//! A node with many applications, made in the World, and the steps of its recovery.

use holdfast_agents::wire::config::SnapshotType;
use holdfast_types::{AppInstanceState, SnapshotState};
use uuid::Uuid;

use crate::controller::DeviceConfig;
use crate::world::guests::MEMORY_BASE_KIB;
use crate::world::storage::Storage;
use crate::world::tap::{CutPoint, Recorder};
use crate::world::{DEVICE, Schedule, Survival, Violation, World};

const VOLUME_BYTES: u64 = 16 << 20;

/// So many applications of one volume, each with so many snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub apps: u32,
    pub snapshots_each: u32,
}

pub fn app(n: u32) -> Uuid {
    Uuid::from_u128(0xa100_0000_0000_4000_8000_0000_0000_0000 + u128::from(n))
}

fn volume(n: u32) -> Uuid {
    Uuid::from_u128(0xb100_0000_0000_4000_8000_0000_0000_0000 + u128::from(n))
}

fn snapshot(app: u32, number: u32) -> Uuid {
    let low = u128::from(app) << 16 | u128::from(number);
    Uuid::from_u128(0xc100_0000_0000_4000_8000_0000_0000_0000 + low)
}

impl Size {
    /// Everything is deployed and every snapshot cut; then the power goes.
    pub fn deployed(self) -> Result<CutPoint, Violation> {
        let mut world = World::begin(Storage::Images, |orders| {
            orders.edit(|device| {
                *device = DeviceConfig::new(DEVICE);
                (0..self.apps).for_each(|n| self.deploy(device, n));
            });
        })?;
        world.settle()?;
        for number in 1..=self.snapshots_each {
            world.order(|orders| {
                orders.edit(|device| {
                    for n in 0..self.apps {
                        device.app(app(n)).request_snapshot(snapshot(n, number), SnapshotType::Immediate);
                    }
                });
            });
            world.settle()?;
        }
        Ok(world.moment())
    }

    fn deploy(self, device: &mut DeviceConfig, n: u32) {
        let memory_kib = u32::try_from(MEMORY_BASE_KIB + 1).expect("small");
        device.add_blank_volume(volume(n), VOLUME_BYTES).name(&format!("volume {n}"));
        let edit = device.add_app(app(n), &format!("app {n}")).version("1").memory_kib(memory_kib);
        edit.max_snapshots(self.snapshots_each).volume(volume(n), 1);
    }

    /// Boots after the cut and runs until only time could move anything. Returns the steps it took.
    pub fn recovery_steps(self, point: &CutPoint) -> Result<u64, Violation> {
        let mut world = World::after_cut(point, Survival::Lost, Recorder::Off, Schedule::Fixed)?;
        world.run()?;
        let rows = world.rows::<AppInstanceState>();
        let available = |row: &AppInstanceState| {
            let is_available = |state: &SnapshotState| matches!(state, SnapshotState::Available(_));
            row.snapshots.values().filter(|entry| is_available(&entry.state)).count()
        };
        let snapshots: usize = rows.iter().map(|row| available(row)).sum();
        let ground = crate::world::ground::locked(&world.ground);
        let running = (0..self.apps).filter(|n| ground.running(app(*n)).is_some()).count();
        let wanted = (self.apps as usize, (self.apps * self.snapshots_each) as usize);
        if (running, snapshots) != wanted {
            let what =
                format!("I17: {running} guests and {snapshots} snapshots are back, and not {wanted:?}");
            return Err(Violation { what });
        }
        Ok(world.steps)
    }
}
