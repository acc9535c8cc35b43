//! Who keeps a volume alive. Pure: computed anew from what is published and known, never stored.
//!
//! ```text
//!   VolumeRefConfig ──────────── used by an application ──┐
//!   VolumesSnapshotStatus ─┐                              ├─▶ the volume stays
//!   SnapshotIntent ────────┼──── held by a snapshot ──────┘
//!   VolumesSnapshotConfig ─┘
//! ```
//!
//! A snapshot holds its own reference on every volume in it ([003] B9), from the moment it is asked for until
//! storage has confirmed its deletion. Where EVE's record tells no generation, all generations of that volume
//! are held: too much kept is repaired by deleting, too little is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Concerns;
use holdfast_types::{
    AppId, SnapshotAction, SnapshotId, SnapshotIntent, VolumeId, VolumeKey, VolumeRefKey, VolumeSnapshotMeta,
    VolumesSnapshotConfig, VolumesSnapshotStatus,
};

/// Users and holders, by volume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holds {
    /// Of other volumes nothing is known here, and nothing may be asked.
    about: Concerns,
    used_by: BTreeMap<VolumeKey, BTreeSet<AppId>>,
    held_by: BTreeMap<VolumeKey, BTreeSet<SnapshotId>>,
    /// From records that tell no generation.
    held_by_id: BTreeMap<VolumeId, BTreeSet<SnapshotId>>,
    /// The intents at work on each volume.
    intents: BTreeMap<VolumeKey, Vec<Arc<SnapshotIntent>>>,
}

impl Holds {
    pub fn about(concerns: Concerns) -> Self {
        Holds { about: concerns, ..Self::default() }
    }

    /// What they are about.
    pub fn concerns(&self) -> &Concerns {
        &self.about
    }

    pub fn are_about(&self, volume: &VolumeId) -> bool {
        self.about.includes(volume)
    }

    pub fn used(&mut self, reference: &VolumeRefKey) {
        if self.are_about(&reference.volume.volume) {
            self.used_by.entry(reference.volume).or_default().insert(reference.app);
        }
    }

    pub fn held(&mut self, volume: VolumeKey, snapshot: SnapshotId) {
        if self.are_about(&volume.volume) {
            self.held_by.entry(volume).or_default().insert(snapshot);
        }
    }

    /// A snapshot that storage holds, by its record.
    pub fn held_by_record(&mut self, status: &VolumesSnapshotStatus) {
        for (volume, meta) in &status.meta {
            match meta {
                VolumeSnapshotMeta::Recorded(meta) => {
                    self.held(VolumeKey { volume: *volume, generation: meta.generation }, status.snapshot)
                }
                VolumeSnapshotMeta::Eve(_) if !self.are_about(volume) => {}
                VolumeSnapshotMeta::Eve(_) => {
                    self.held_by_id.entry(*volume).or_default().insert(status.snapshot);
                }
            }
        }
    }

    /// A snapshot being made, applied or deleted.
    pub fn held_by_intent(&mut self, intent: &Arc<SnapshotIntent>) {
        for (volume, meta) in &intent.volumes {
            if !self.are_about(volume) {
                continue;
            }
            let key = VolumeKey { volume: *volume, generation: meta.generation };
            self.held(key, intent.snapshot);
            self.intents.entry(key).or_default().push(Arc::clone(intent));
        }
    }

    /// A snapshot that is asked for; its intent may not be written yet.
    pub fn held_by_request(&mut self, request: &VolumesSnapshotConfig) {
        if request.action == SnapshotAction::Create {
            request.volumes.iter().for_each(|volume| self.held(*volume, request.snapshot));
        }
    }

    fn of<'a, T>(&self, all: &'a BTreeMap<VolumeKey, T>, volume: &VolumeKey) -> Option<&'a T> {
        debug_assert!(self.are_about(&volume.volume), "{volume} is not what these holds are about");
        all.get(volume)
    }

    pub fn is_used(&self, volume: &VolumeKey) -> bool {
        self.of(&self.used_by, volume).is_some()
    }

    pub fn is_held(&self, volume: &VolumeKey) -> bool {
        self.of(&self.held_by, volume).is_some() || self.held_by_id.contains_key(&volume.volume)
    }

    pub fn used_volumes(&self) -> impl Iterator<Item = VolumeKey> + '_ {
        self.used_by.keys().copied()
    }

    /// Every use by an application, in the order of applications.
    pub fn references(&self) -> BTreeSet<VolumeRefKey> {
        let used = self.used_by.iter();
        used.flat_map(|(volume, apps)| apps.iter().map(|app| VolumeRefKey { app: *app, volume: *volume }))
            .collect()
    }

    /// The volumes that a snapshot holds by id and generation.
    pub fn held_volumes(&self) -> impl Iterator<Item = VolumeKey> + '_ {
        self.held_by.keys().copied()
    }

    /// True when an application uses the volume in another generation than this one ([003] F2).
    pub fn is_used_in_another_generation(&self, volume: &VolumeKey) -> bool {
        self.used_by.range(VolumeKey::all_of(volume.volume)).any(|(used, _)| used != volume)
    }

    /// What is at work on the volume, in this generation.
    pub fn intents(&self, volume: &VolumeKey) -> &[Arc<SnapshotIntent>] {
        self.of(&self.intents, volume).map_or(&[], Vec::as_slice)
    }

    pub fn users(&self, volume: &VolumeKey) -> Vec<AppId> {
        self.of(&self.used_by, volume).into_iter().flatten().copied().collect()
    }

    pub fn holders(&self, volume: &VolumeKey) -> Vec<SnapshotId> {
        let exact = self.of(&self.held_by, volume).into_iter().flatten();
        let by_id = self.held_by_id.get(&volume.volume).into_iter().flatten();
        exact.chain(by_id).copied().collect::<BTreeSet<_>>().into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volumemgr::testing::{app, key, snapshot, volume};
    use holdfast_types::{Generation, OperationNumber, RecordedMeta};
    use std::collections::BTreeMap;

    fn record(meta: VolumeSnapshotMeta) -> VolumesSnapshotStatus {
        VolumesSnapshotStatus {
            snapshot: snapshot(1),
            meta: BTreeMap::from([(volume(1), meta)]),
            time_created: None,
            app: app(1),
            ref_count: 0,
            result_of: SnapshotAction::Create,
            operation: OperationNumber(1),
            error: None,
        }
    }

    #[test]
    fn a_snapshot_holds_exactly_the_generation_it_was_cut_from() {
        let mut holds = Holds::default();
        holds.held_by_record(&record(VolumeSnapshotMeta::Recorded(RecordedMeta {
            handler: "qcow2".into(),
            generation: Generation(1),
            storage_name: "s".into(),
            size_bytes: 0,
        })));
        assert!(holds.is_held(&key(1, 1)) && !holds.is_held(&key(1, 2)));
        assert_eq!(holds.holders(&key(1, 1)), [snapshot(1)]);
    }

    #[test]
    fn a_record_of_eve_holds_every_generation_because_it_names_none() {
        let mut holds = Holds::default();
        holds.held_by_record(&record(VolumeSnapshotMeta::Eve("name".into())));
        assert!(holds.is_held(&key(1, 1)) && holds.is_held(&key(1, 2)) && !holds.is_held(&key(2, 1)));
    }

    #[test]
    fn only_a_request_to_create_holds_volumes() {
        let request = |action| VolumesSnapshotConfig {
            snapshot: snapshot(1),
            action,
            volumes: vec![key(1, 0)],
            app: app(1),
            operation: OperationNumber(1),
            made: false,
            consent: Default::default(),
            revert: None,
        };
        let mut holds = Holds::default();
        holds.held_by_request(&request(SnapshotAction::Rollback));
        assert!(!holds.is_held(&key(1, 0)));
        holds.held_by_request(&request(SnapshotAction::Create));
        assert!(holds.is_held(&key(1, 0)));
    }

    #[test]
    fn use_in_another_generation_is_told_apart() {
        let mut holds = Holds::default();
        holds.used(&VolumeRefKey { app: app(1), volume: key(1, 1) });
        assert!(holds.is_used(&key(1, 1)) && !holds.is_used(&key(1, 2)));
        assert!(holds.is_used_in_another_generation(&key(1, 2)));
        assert!(!holds.is_used_in_another_generation(&key(1, 1)));
        assert_eq!(holds.users(&key(1, 1)), [app(1)]);
    }
}
