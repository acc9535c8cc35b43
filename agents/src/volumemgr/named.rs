//! Which snapshots name a volume, by what is asked of them or by what is stored of them.
//!
//! ```text
//!   VolumesSnapshotConfig ─┐
//!                          ├─▶ with_names ─▶ volume ─▶ the snapshots that name it ─▶ holds
//!   what is stored ────────┘
//! ```
//!
//! An event concerns few volumes, and a node may have thousands of snapshots: those that have nothing to do with it are not
//! looked at. Intents are not in here, for there are only as many as are at work.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_types::{SnapshotId, VolumeId};

use super::request::Stored;
use super::{Concerns, Volumemgr};

/// The index.
#[derive(Debug, Default)]
pub struct Named {
    by_volume: BTreeMap<VolumeId, BTreeSet<SnapshotId>>,
}

impl Named {
    fn change(&mut self, snapshot: SnapshotId, before: &BTreeSet<VolumeId>, now: &BTreeSet<VolumeId>) {
        for volume in before.difference(now) {
            if let Some(naming) = self.by_volume.get_mut(volume) {
                naming.remove(&snapshot);
                if naming.is_empty() {
                    self.by_volume.remove(volume);
                }
            }
        }
        for volume in now.difference(before) {
            self.by_volume.entry(*volume).or_default().insert(snapshot);
        }
    }
}

impl Volumemgr {
    /// What is asked of a snapshot, or stored of it, changes in here and nowhere else. (To begin with one of which nothing is
    /// stored, and to forget it, changes neither.)
    pub(super) fn with_names(&mut self, snapshot: SnapshotId, change: impl FnOnce(&mut Self)) {
        let before = self.named_by(&snapshot);
        change(self);
        let now = self.named_by(&snapshot);
        self.named.change(snapshot, &before, &now);
    }

    pub(super) fn store(&mut self, snapshot: SnapshotId, stored: Stored) {
        self.with_names(snapshot, |this| this.snapshots.entry(snapshot).or_default().stored = stored);
    }

    pub(super) fn named_by(&self, snapshot: &SnapshotId) -> BTreeSet<VolumeId> {
        let mut volumes: BTreeSet<VolumeId> = match self.snapshots.get(snapshot).map(|state| &state.stored) {
            Some(Stored::Whole(record)) => record.meta.keys().copied().collect(),
            Some(Stored::Damaged { remains, .. }) => remains.keys().copied().collect(),
            Some(Stored::Nothing) | None => BTreeSet::new(),
        };
        let asked = self.inputs.requests.get(snapshot);
        volumes.extend(asked.iter().flat_map(|request| request.volumes.iter().map(|key| key.volume)));
        volumes
    }

    /// Every snapshot that is known, those included that name nothing any more.
    pub(super) fn all_snapshots(&self) -> BTreeSet<SnapshotId> {
        self.snapshots.keys().chain(self.inputs.requests.keys()).copied().collect()
    }

    /// The snapshots that may name a volume of these.
    pub(super) fn naming(&self, concerns: &Concerns) -> BTreeSet<SnapshotId> {
        match concerns {
            Concerns::All => self.all_snapshots(),
            Concerns::These { volumes, .. } => {
                let naming = volumes.iter().filter_map(|volume| self.named.by_volume.get(volume));
                naming.flatten().copied().collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volumemgr::testing::{snapshot, volume};

    #[test]
    fn a_volume_that_is_no_longer_named_is_forgotten() {
        let volumes = |numbers: &[u8]| numbers.iter().map(|n| volume(*n)).collect::<BTreeSet<_>>();
        let mut named = Named::default();
        named.change(snapshot(1), &volumes(&[]), &volumes(&[1, 2]));
        named.change(snapshot(2), &volumes(&[]), &volumes(&[2]));
        named.change(snapshot(1), &volumes(&[1, 2]), &volumes(&[2, 3]));
        let naming = [(2, vec![1, 2]), (3, vec![1])];
        let naming = naming.map(|(n, of)| (volume(n), of.into_iter().map(snapshot).collect()));
        assert_eq!(named.by_volume, BTreeMap::from(naming));
    }
}
