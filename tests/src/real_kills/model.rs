//! What must be there once an order is carried out: the contents of volumes and snapshots, and the version in force.
//!
//! Nothing but kills goes wrong here, and the controller stays with what it ordered, so there is one answer.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_agents::runtime::Entropy;
use serde::{Deserialize, Serialize};

use super::content::{BLOCK_BYTES, Content, Write};
use super::orders::Order;

const MIB: u64 = 1 << 20;
const SIZES_BYTES: [u64; 6] = [MIB, 3 * MIB, 8 * MIB + 512 * 1024, 16 * MIB, 32 * MIB, 64 * MIB];
const MOST_BLOCKS_PER_WRITE: u64 = 24;
const MOST_WRITES: u64 = 4;
/// Writes begin in one of so many places, far apart: an image stays small enough to be hashed after every kill.
const PLACES: u64 = 16;

/// A snapshot: the contents of all volumes at one moment, and the version in force then.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cut {
    pub version: u32,
    pub contents: Vec<Content>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Model {
    pub volume_bytes: Vec<u64>,
    pub live: Vec<Content>,
    pub cuts: BTreeMap<u32, Cut>,
    /// Snapshots on the controller's list.
    pub listed: BTreeSet<u32>,
    /// Snapshots that were there before the order and are to stay: at no moment may one be lost (I3).
    pub promised: BTreeSet<u32>,
    pub last_snapshot: u32,
    /// The controller's newest version, and the one in force.
    pub version: u32,
    pub in_force: u32,
    /// The application is gone, with all it had.
    pub is_deleted: bool,
}

impl Model {
    /// One to three blank volumes of various sizes.
    pub fn draw(chance: &dyn Entropy) -> Model {
        let volumes = 1 + chance.next_u64() % 3;
        let size = |_| SIZES_BYTES[(chance.next_u64() % SIZES_BYTES.len() as u64) as usize];
        let volume_bytes: Vec<u64> = (0..volumes).map(size).collect();
        Model {
            live: vec![Content::default(); volume_bytes.len()],
            volume_bytes,
            cuts: BTreeMap::new(),
            listed: BTreeSet::new(),
            promised: BTreeSet::new(),
            last_snapshot: 0,
            version: 1,
            in_force: 1,
            is_deleted: false,
        }
    }

    /// From now on the model says what is there once the order is carried out.
    pub fn give(&mut self, order: Order) {
        self.promised = self.listed.clone();
        match order {
            Order::SnapshotNow(n) | Order::SnapshotByUpdate(n) => {
                self.cuts.insert(n, Cut { version: self.in_force, contents: self.live.clone() });
                self.listed.insert(n);
                self.last_snapshot = n;
                if matches!(order, Order::SnapshotByUpdate(_)) {
                    self.version += 1;
                    self.in_force = self.version;
                }
            }
            Order::RollBack(n) => {
                let cut = &self.cuts[&n];
                self.live = cut.contents.clone();
                self.in_force = cut.version;
            }
            Order::Delete(n) | Order::DeleteLater(n) => {
                self.listed.remove(&n);
                self.promised.remove(&n);
            }
            // Whatever is still there of it is promised to nobody.
            Order::DeleteApp => {
                self.listed.clear();
                self.promised.clear();
                self.live.clear();
                self.is_deleted = true;
            }
        }
    }

    /// What the guest writes next, per volume. The first block always changes.
    pub fn draw_writes(&mut self, chance: &dyn Entropy) -> Vec<Vec<Write>> {
        let mut all = Vec::new();
        for (size_bytes, live) in self.volume_bytes.iter().zip(&mut self.live) {
            let total = size_bytes / BLOCK_BYTES;
            let mut writes = vec![Write { first: 0, blocks: 1, fill: chance.next_u64() as u8 }];
            for _ in 0..=chance.next_u64() % MOST_WRITES {
                let blocks = 1 + chance.next_u64() % MOST_BLOCKS_PER_WRITE;
                let place = chance.next_u64() % PLACES * (total / PLACES);
                let first = (place + chance.next_u64() % 4).min(total - blocks);
                writes.push(Write { first, blocks, fill: chance.next_u64() as u8 });
            }
            writes.iter().for_each(|write| live.write(*write));
            // Now, so that snapshots of it know it as well.
            live.digest();
            all.push(writes);
        }
        all
    }
}
