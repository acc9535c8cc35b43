//! Volumes: their fates carried out. Says in rows what is being done, has jobs do it, and tries again.
//!
//! The row comes first: `Creating` before anything is fetched or made, `Destroying` before anything is removed;
//! it goes only when storage has confirmed that the volume is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use holdfast_types::{
    ErrorReport, SnapshotId, SnapshotIntent, VolumeConfig, VolumeId, VolumeKey, VolumeRecord, VolumeStage,
};
use holdfast_volumehandlers::{Source, VolumeFacts};

use crate::runtime::{Ctx, NodeMode};

use super::contents::ContentState;
use super::fate::{Fate, Situation, fate};
use super::holds::Holds;
use super::jobs::{Place, VolumeJob, create_id};
use super::request::{Stored, Volumes};
use super::retry::{Failure, Trouble};
use super::{Again, Concerns, Volumemgr, may_change, no_more_tries, plan};

/// What is known of a volume beside its row.
#[derive(Debug, Clone, Default)]
pub(super) struct VolumeState {
    pub(super) work: Work,
    /// From the last check; none until it was checked in this process.
    pub(super) facts: Option<VolumeFacts>,
    /// Its size or what it takes on storage may have changed.
    pub(super) wants_check: bool,
    pub(super) percent: u8,
    /// An earlier process may have left something under its name.
    pub(super) remains: bool,
    pub(super) tries: u32,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(super) enum Work {
    #[default]
    Idle,
    Doing(Doing),
    Failed {
        doing: Doing,
        trouble: Trouble,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    Checking,
    /// A file without a row is looked at before a row is given to it.
    Adopting,
    Creating,
    Destroying,
}

impl VolumeState {
    pub(super) fn from_before(remains: bool) -> Self {
        VolumeState { remains, ..Self::default() }
    }

    pub(super) fn is_being_made(&self) -> bool {
        self.work == Work::Doing(Doing::Creating)
    }

    pub(super) fn trouble(&self) -> Option<&ErrorReport> {
        match &self.work {
            Work::Failed { trouble, .. } => Some(&trouble.error),
            _ => None,
        }
    }

    /// Whether this can be begun: nothing runs, and it has not failed just now. A failure at something else no
    /// longer matters.
    fn can_begin(&self, doing: Doing) -> bool {
        match &self.work {
            Work::Idle => true,
            Work::Doing(_) => false,
            Work::Failed { doing: failed, .. } => *failed != doing,
        }
    }
}

/// The rows, for pure functions that ask about volumes.
pub(super) struct Rows<'a>(pub(super) &'a Ctx<Volumemgr>);

impl Volumes for Rows<'_> {
    fn record(&self, key: &VolumeKey) -> Option<VolumeRecord> {
        self.0.get::<VolumeRecord>(key).map(|row| (*row).clone())
    }

    fn generations(&self, volume: &VolumeId) -> Vec<VolumeKey> {
        self.0.keys_in::<VolumeRecord>(VolumeKey::all_of(*volume)).copied().collect()
    }
}

/// The rows, for the judge of requests, who may choose a place for a clone.
pub(super) struct RowsAndOrphans<'a> {
    pub(super) rows: Rows<'a>,
    /// See [`super::inventory::Inventory::orphans`].
    pub(super) orphans: &'a BTreeMap<VolumeKey, u64>,
}

impl Volumes for RowsAndOrphans<'_> {
    fn record(&self, key: &VolumeKey) -> Option<VolumeRecord> {
        self.rows.record(key)
    }

    fn generations(&self, volume: &VolumeId) -> Vec<VolumeKey> {
        self.rows.generations(volume)
    }

    /// What another intent has begun, or has not tidied yet, is not taken for this one's.
    fn fresh_incarnation(&self, record: &VolumeRecord) -> u64 {
        let volume = &record.config.key.volume;
        let intents = self.rows.0.rows::<SnapshotIntent>();
        let begun = intents.iter().filter_map(|intent| Some(intent.clones.get(volume)?.incarnation));
        let left = self.orphans.get(&record.config.key).copied();
        begun.chain(left).fold(record.incarnation, u64::max) + 1
    }
}

impl Volumemgr {
    pub(super) fn settle_volumes(&mut self, holds: &Holds, cx: &mut Ctx<Self>) {
        if !may_change(cx) {
            self.check_made(holds, cx);
            return;
        }
        for key in self.known_volumes(holds, cx) {
            match fate(&self.situation(&key, holds, cx)) {
                Fate::Create => self.create(key, cx),
                Fate::Keep => self.check(key, cx),
                Fate::Destroy => self.destroy(key, cx),
                Fate::Unknown | Fate::Nothing => self.forget(key, cx),
            }
        }
    }

    pub(super) fn holds(&self, concerns: &Concerns, cx: &Ctx<Self>) -> Holds {
        let holds = self.held_by(self.naming(concerns), concerns, cx);
        debug_assert_eq!(holds, self.held_by(self.all_snapshots(), concerns, cx), "one is not named");
        holds
    }

    fn held_by(&self, snapshots: BTreeSet<SnapshotId>, concerns: &Concerns, cx: &Ctx<Self>) -> Holds {
        let mut holds = Holds::about(concerns.clone());
        self.inputs.references.keys().for_each(|reference| holds.used(reference));
        cx.rows::<SnapshotIntent>().iter().for_each(|intent| holds.held_by_intent(intent));
        for snapshot in snapshots {
            if let Some(request) = self.inputs.requests.get(&snapshot) {
                holds.held_by_request(request);
            }
            match self.snapshots.get(&snapshot).map(|state| &state.stored) {
                None | Some(Stored::Nothing) => {}
                Some(Stored::Whole(record)) => holds.held_by_record(record),
                Some(Stored::Damaged { remains, .. }) => remains.iter().for_each(|(volume, meta)| {
                    holds.held(VolumeKey { volume: *volume, generation: meta.generation }, snapshot);
                }),
            }
        }
        holds
    }

    /// Of those that the holds are about: every volume that has a row, is listed, referred to, or held.
    pub(super) fn known_volumes(&self, holds: &Holds, cx: &Ctx<Self>) -> BTreeSet<VolumeKey> {
        let mut known: BTreeSet<VolumeKey> = holds.used_volumes().chain(holds.held_volumes()).collect();
        for range in holds.concerns().ranges() {
            known.extend(cx.keys_in::<VolumeRecord>(range.clone()));
            known.extend(self.inputs.volumes.range(range).map(|(key, _)| key));
        }
        known
    }

    pub(super) fn situation(&self, key: &VolumeKey, holds: &Holds, cx: &Ctx<Self>) -> Situation {
        let row = cx.get::<VolumeRecord>(key);
        let listed = self.inputs.volumes.contains_key(key);
        Situation {
            stage: row.as_ref().map(|row| row.stage),
            configured: listed || row.is_some() || self.strays.contains_key(key),
            listed,
            found: self.strays.contains_key(key),
            used: holds.is_used(key),
            held: holds.is_held(key),
            used_in_another_generation: holds.is_used_in_another_generation(key),
            everybody_has_spoken: self.everybody_has_spoken(),
        }
    }

    fn check_made(&mut self, holds: &Holds, cx: &mut Ctx<Self>) {
        for row in cx.rows::<VolumeRecord>() {
            if row.stage == VolumeStage::Created && holds.are_about(&row.config.key.volume) {
                self.check(row.config.key, cx);
            }
        }
    }

    fn check(&mut self, key: VolumeKey, cx: &mut Ctx<Self>) {
        let Some(row) = cx.get::<VolumeRecord>(&key) else { return };
        let state = self.volumes.entry(key).or_default();
        if (state.facts.is_none() || state.wants_check) && state.can_begin(Doing::Checking) {
            state.wants_check = false;
            state.work = Work::Doing(Doing::Checking);
            cx.job(VolumeJob::Check(Place::of(&row)));
        }
    }

    fn create(&mut self, key: VolumeKey, cx: &mut Ctx<Self>) {
        let state = self.volumes.entry(key).or_default();
        if !state.can_begin(Doing::Creating) {
            return;
        }
        let row = cx.get::<VolumeRecord>(&key);
        if row.is_none() && self.strays.contains_key(&key) {
            self.adopt(key, cx);
            return;
        }
        let listed = self.inputs.volumes.get(&key).map(Arc::as_ref);
        let config = listed.or(row.as_deref().map(|row| &row.config)).cloned();
        let Some(config) = config else { return };
        match self.plan(&config) {
            Ok(None) => {}
            Ok(Some(record)) => match row {
                // Configured otherwise since it was begun: what was begun goes first.
                Some(row) if row.file_location != record.file_location => self.destroy(key, cx),
                _ => self.make(record, cx),
            },
            Err(failure) => self.volume_failed(key, Doing::Creating, &failure, cx),
        }
    }

    /// `None`: its content tree is not told yet.
    fn plan(&self, config: &VolumeConfig) -> Result<Option<VolumeRecord>, Failure> {
        let Some(tree) = plan::content_tree_of(config) else {
            return plan::new_record(config, None, &self.layout, &self.placement).map(Some);
        };
        match self.inputs.content_trees.get(&tree) {
            Some(content) => plan::new_record(config, Some(content), &self.layout, &self.placement).map(Some),
            None if !self.inputs.contents_complete => Ok(None),
            None => Err(Failure::permanent(format!(
                "content tree {tree} of volume {} is not configured",
                config.key
            ))),
        }
    }

    /// The row, and once the content is there, the job.
    fn make(&mut self, record: VolumeRecord, cx: &mut Ctx<Self>) {
        let key = record.config.key;
        if cx.get::<VolumeRecord>(&key).is_none() && cx.mode() == NodeMode::NoSpace {
            let failure = Failure::passing(format!("volume {key} cannot be made: no space left"));
            return self.volume_failed(key, Doing::Creating, &failure, cx);
        }
        cx.publish(record.clone());
        let Some(source) = self.source(&record.config) else { return };
        let state = self.volumes.entry(key).or_default();
        state.work = Work::Doing(Doing::Creating);
        state.percent = 0;
        cx.job(VolumeJob::Create {
            place: Place::of(&record),
            source,
            max_size_bytes: record.config.max_size_bytes,
            read_only: record.config.read_only,
            afresh: state.remains,
        });
    }

    fn source(&self, config: &VolumeConfig) -> Option<Source> {
        let Some(tree) = plan::content_tree_of(config) else {
            return Some(Source::Blank { size_bytes: config.max_size_bytes });
        };
        match (self.contents.get(&tree), self.inputs.content_trees.get(&tree)) {
            (Some(ContentState::Ready(fetched)), Some(content)) if !self.is_other_content(&tree) => {
                Some(Source::Image { path: fetched.path.clone(), format: content.format })
            }
            _ => None,
        }
    }

    /// A whole volume lies there without a row: its row was lost. It may hold what nobody has anywhere else.
    fn adopt(&mut self, key: VolumeKey, cx: &mut Ctx<Self>) {
        let Some(stray) = self.strays.get(&key) else { return };
        let state = self.volumes.entry(key).or_default();
        if state.can_begin(Doing::Adopting) {
            tracing::warn!(volume = %key, file = stray.file_location, "a volume without a row is adopted");
            state.work = Work::Doing(Doing::Adopting);
            let location = PathBuf::from(&stray.file_location);
            cx.job(VolumeJob::Check(Place { key, location, format: stray.format }));
        }
    }

    /// Its row was lost and its file is there: it is no missing volume, it will be here soon. Not if it cannot be read.
    pub(super) fn is_being_adopted(&self, key: &VolumeKey) -> bool {
        let failed = |state: &VolumeState| matches!(state.work, Work::Failed { doing: Doing::Adopting, .. });
        self.strays.contains_key(key) && !self.volumes.get(key).is_some_and(failed)
    }

    fn destroy(&mut self, key: VolumeKey, cx: &mut Ctx<Self>) {
        let Some(row) = cx.get::<VolumeRecord>(&key) else { return };
        let state = self.volumes.entry(key).or_default();
        match &state.work {
            Work::Doing(Doing::Destroying) => return,
            Work::Failed { doing: Doing::Destroying, .. } => return,
            // It ends soon, and its end is no longer heard; the destruction waits for it.
            Work::Doing(Doing::Creating) => cx.cancel_job(&create_id(&key)),
            _ => no_more_tries(cx, Again::Volume(key)),
        }
        tracing::info!(volume = %key, "volume goes");
        state.work = Work::Doing(Doing::Destroying);
        let place = Place::of(&row);
        cx.publish(VolumeRecord { stage: VolumeStage::Destroying, ..(*row).clone() });
        cx.job(VolumeJob::Destroy(place));
    }

    fn forget(&mut self, key: VolumeKey, cx: &mut Ctx<Self>) {
        if cx.get::<VolumeRecord>(&key).is_none()
            && self.volumes.get(&key).is_some_and(|state| !matches!(state.work, Work::Doing(_)))
        {
            no_more_tries(cx, Again::Volume(key));
            self.volumes.remove(&key);
        }
    }

    /// Configured anew: what failed is due at once.
    pub(super) fn forgive_volume(&mut self, key: &VolumeKey, cx: &mut Ctx<Self>) {
        no_more_tries(cx, Again::Volume(*key));
        self.volume_due(*key);
    }

    /// Content or datastores are configured anew: volumes that could not be made are due at once.
    pub(super) fn forgive_unmade(&mut self, cx: &mut Ctx<Self>) {
        let failed = |state: &VolumeState| matches!(state.work, Work::Failed { doing: Doing::Creating, .. });
        let keys: Vec<VolumeKey> =
            self.volumes.iter().filter(|(_, state)| failed(state)).map(|(key, _)| *key).collect();
        keys.iter().for_each(|key| self.forgive_volume(key, cx));
    }

    /// What the volume takes on storage has changed.
    pub(super) fn wants_check(&mut self, key: VolumeKey) {
        if let Some(state) = self.volumes.get_mut(&key) {
            state.wants_check = true;
        }
    }
}
