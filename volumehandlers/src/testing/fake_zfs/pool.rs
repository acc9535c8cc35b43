//! What a pool is: datasets, volumes with their content, snapshots. Pure; `store.rs` puts it on a disk.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_types::error::Timestamp;
use serde::{Deserialize, Serialize};

use super::super::fake_image::Blocks;
use crate::zvol::zfs::{REVERTED_PROPERTY, STATE_PROPERTY, ZfsSnapshot, Zvol};
use crate::zvol::{Dataset, ZfsError};

/// What a block of content takes in the pool.
pub const BLOCK_BYTES: u64 = 16 << 10;

/// All there is in a pool; one record of it is one transaction group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    pub name: String,
    /// The number of the transaction group.
    pub txg: u64,
    pub next_guid: u64,
    /// By name; a dataset's parent is in here too.
    pub datasets: BTreeMap<String, FakeDataset>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FakeDataset {
    pub properties: BTreeMap<String, String>,
    pub quota_bytes: Option<u64>,
    /// `None`: a file system.
    pub volume: Option<FakeZvol>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FakeZvol {
    pub size_bytes: u64,
    pub blocks: Blocks,
    /// Oldest first.
    pub snapshots: Vec<FakeZfsSnapshot>,
    /// Name, and the transaction group of its snapshot.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub bookmarks: BTreeMap<String, u64>,
    /// `dataset@snapshot` if it is a clone.
    pub origin: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FakeZfsSnapshot {
    pub name: String,
    pub guid: u64,
    pub created_in: u64,
    pub created_at: Timestamp,
    pub size_bytes: u64,
    pub blocks: Blocks,
    pub holds: BTreeSet<String>,
}

impl Pool {
    /// With the file system `root` in it, and those above.
    pub fn new(root: &Dataset) -> Self {
        let name = root.pool().to_owned();
        let mut pool = Pool { name, txg: 4, next_guid: 1_000_003, datasets: BTreeMap::new() };
        for ancestor in ancestors_of(root.as_str()).chain([root.as_str()]) {
            pool.datasets.insert(ancestor.to_owned(), FakeDataset::default());
        }
        pool
    }

    pub fn volume(&self, dataset: &Dataset) -> Result<&FakeZvol, ZfsError> {
        let found = self.datasets.get(dataset.as_str()).and_then(|found| found.volume.as_ref());
        found.ok_or_else(|| missing(dataset))
    }

    pub fn volume_mut(&mut self, dataset: &Dataset) -> Result<&mut FakeZvol, ZfsError> {
        let found = self.datasets.get_mut(dataset.as_str()).and_then(|found| found.volume.as_mut());
        found.ok_or_else(|| missing(dataset))
    }

    pub fn snapshot_mut(&mut self, dataset: &Dataset, name: &str) -> Result<&mut FakeZfsSnapshot, ZfsError> {
        let object = format!("{dataset}@{name}");
        let volume = self.volume_mut(dataset)?;
        let found = volume.snapshots.iter_mut().find(|snapshot| snapshot.name == name);
        found.ok_or(ZfsError::Missing { object })
    }

    /// Cuts a snapshot in the transaction group that is being made.
    pub fn cut(&mut self, dataset: &Dataset, name: &str, now: Timestamp) -> Result<(), ZfsError> {
        let (guid, created_in) = (self.next_guid, self.txg + 1);
        let volume = self.volume_mut(dataset)?;
        if volume.snapshots.iter().any(|snapshot| snapshot.name == name) {
            return Err(ZfsError::Exists { object: format!("{dataset}@{name}") });
        }
        volume.snapshots.push(FakeZfsSnapshot {
            name: name.to_owned(),
            guid,
            created_in,
            created_at: now,
            size_bytes: volume.size_bytes,
            blocks: volume.blocks.clone(),
            holds: BTreeSet::new(),
        });
        self.next_guid += 7;
        Ok(())
    }

    pub fn clones_of(&self, dataset: &Dataset, name: &str) -> Vec<String> {
        let origin = format!("{dataset}@{name}");
        let is_clone = |found: &FakeDataset| {
            found.volume.as_ref().is_some_and(|volume| volume.origin.as_deref() == Some(&origin))
        };
        let clones = self.datasets.iter().filter(|(_, found)| is_clone(found));
        clones.map(|(name, _)| name.clone()).collect()
    }

    pub fn listed_volume(&self, dataset: &Dataset) -> Result<Zvol, ZfsError> {
        let volume = self.volume(dataset)?;
        let properties = &self.datasets[dataset.as_str()].properties;
        Ok(Zvol {
            dataset: dataset.clone(),
            size_bytes: volume.size_bytes,
            used_bytes: volume.used_bytes(),
            state: properties.get(STATE_PROPERTY).cloned(),
            reverted: properties.get(REVERTED_PROPERTY).cloned(),
        })
    }

    pub fn listed_snapshots(&self, dataset: &Dataset) -> Result<Vec<ZfsSnapshot>, ZfsError> {
        let listed = |snapshot: &FakeZfsSnapshot| ZfsSnapshot {
            name: snapshot.name.clone(),
            guid: snapshot.guid,
            created_in: snapshot.created_in,
            created_at: snapshot.created_at,
            size_bytes: snapshot.size_bytes,
            holds: snapshot.holds.iter().cloned().collect(),
            clones: self.clones_of(dataset, &snapshot.name),
        };
        Ok(self.volume(dataset)?.snapshots.iter().map(listed).collect())
    }

    /// What the quotas leave for this dataset; `u64::MAX` without any.
    pub fn left_by_quotas(&self, dataset: &str) -> u64 {
        let left = |name: &str| {
            let quota_bytes = self.datasets.get(name)?.quota_bytes?;
            Some(quota_bytes.saturating_sub(self.used_below(name)))
        };
        ancestors_of(dataset).chain([dataset]).filter_map(left).min().unwrap_or(u64::MAX)
    }

    fn used_below(&self, name: &str) -> u64 {
        let below = format!("{name}/");
        let inside = self.datasets.iter().filter(|(other, _)| *other == name || other.starts_with(&below));
        inside.filter_map(|(_, found)| found.volume.as_ref()).map(FakeZvol::used_bytes).sum()
    }
}

impl FakeZvol {
    /// Each block that the volume or one of its snapshots holds, once.
    pub fn used_bytes(&self) -> u64 {
        let mut held: BTreeSet<(&u64, &String)> = self.blocks.iter().collect();
        for snapshot in &self.snapshots {
            held.extend(&snapshot.blocks);
        }
        held.len() as u64 * BLOCK_BYTES
    }
}

/// `a/b/c` has `a` and `a/b`.
pub(super) fn ancestors_of(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices('/').map(|(at, _)| &name[..at])
}

pub(super) fn missing(dataset: &Dataset) -> ZfsError {
    ZfsError::Missing { object: dataset.to_string() }
}
