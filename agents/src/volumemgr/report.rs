//! What others see of volumes: `VolumeStatus` for every known volume, `VolumeRefStatus` for every reference.
//!
//! Composed anew, for the volumes an event concerns, from rows and what jobs said; publishing an equal value is silent.

use std::sync::Arc;

use holdfast_types::{
    ContentTreeId, EntityKind, ErrorReport, IntentStage, SnapshotAction, SwState, VolumeKey, VolumeRecord,
    VolumeRefKey, VolumeRefStatus, VolumeStage, VolumeStatus, first_incarnation,
};

use crate::runtime::Ctx;

use super::Volumemgr;
use super::concerns::Concerns;
use super::contents::ContentState;
use super::download::Progress as DownloadProgress;
use super::fate::{Fate, fate};
use super::holds::Holds;
use super::plan;
use super::steps::{self, Progress, VolumeStep};
use super::volumes::{Doing, VolumeState, Work};

impl Volumemgr {
    pub(super) fn publish_statuses(&mut self, holds: &Holds, cx: &mut Ctx<Self>) {
        self.publish_volumes(holds, cx);
        self.publish_references(holds, cx);
    }

    /// As long as what is stored cannot be looked at: these volumes say so. References do not, for what waits for a volume is to
    /// go on waiting.
    pub(super) fn publish_standstill(&mut self, concerns: &Concerns, cx: &mut Ctx<Self>) {
        if self.standstill.is_some() {
            let holds = self.holds(concerns, cx);
            self.publish_volumes(&holds, cx);
        }
    }

    fn publish_volumes(&mut self, holds: &Holds, cx: &mut Ctx<Self>) {
        let known = self.known_volumes(holds, cx);
        for key in &known {
            let status = self.volume_status(*key, holds, cx);
            cx.publish(status);
        }
        let shown = holds.concerns().ranges().into_iter().flat_map(|range| cx.keys_in::<VolumeStatus>(range));
        let gone: Vec<VolumeKey> = shown.filter(|key| !known.contains(key)).copied().collect();
        gone.iter().for_each(|key| cx.unpublish::<VolumeStatus>(key));
    }

    fn publish_references(&mut self, holds: &Holds, cx: &mut Ctx<Self>) {
        let references = holds.references();
        for key in &references {
            if let Some(volume) = cx.get::<VolumeStatus>(&key.volume) {
                cx.publish(reference_status(*key, &volume));
            }
        }
        let shown = cx.keys_in::<VolumeRefStatus>(..).filter(|key| holds.are_about(&key.volume.volume));
        let gone: Vec<VolumeRefKey> = shown.filter(|key| !references.contains(key)).copied().collect();
        gone.iter().for_each(|key| cx.unpublish::<VolumeRefStatus>(key));
    }

    fn volume_status(&self, key: VolumeKey, holds: &Holds, cx: &Ctx<Self>) -> VolumeStatus {
        let row = cx.get::<VolumeRecord>(&key);
        let row = row.as_deref();
        let listed = self.inputs.volumes.get(&key).map(Arc::as_ref);
        let config = listed.or(row.map(|row| &row.config));
        let state = self.volumes.get(&key);
        let facts = state.and_then(|state| state.facts);
        let (stage, progress) = match self.stage(row, state) {
            // Its content is on its way from one to the other.
            (SwState::CreatedVolume, _) if self.is_under_rollback(&key, holds) => (SwState::Initial, 0),
            (SwState::CreatedVolume, _) if self.is_being_cloned(&key, holds) => {
                (SwState::CreatedVolume, state.map_or(0, |state| state.percent))
            }
            stage => stage,
        };
        VolumeStatus {
            key,
            display_name: config.map(|config| config.display_name.clone()).unwrap_or_default(),
            state: stage,
            progress,
            format: row.map(|row| row.format),
            // As it was made: a volume that takes no part in snapshots must not become writable behind them.
            read_only: row.map(|row| &row.config).or(config).is_some_and(|config| config.read_only),
            size_bytes: facts
                .map(|facts| facts.virtual_size_bytes)
                .or(row.map(|row| row.size_bytes))
                .unwrap_or_default(),
            allocated_bytes: facts.map(|facts| facts.allocated_bytes).unwrap_or_default(),
            file_location: row.map(|row| row.file_location.clone()).unwrap_or_default(),
            incarnation: row.map_or_else(first_incarnation, |row| row.incarnation),
            used_by: holds.users(&key),
            held_by: holds.holders(&key),
            error: self.error(key, holds, row, state, cx),
        }
    }

    /// The state and the per cent of the step under way.
    fn stage(&self, row: Option<&VolumeRecord>, state: Option<&VolumeState>) -> (SwState, u8) {
        let Some(row) = row else { return (SwState::Initial, 0) };
        let checked = state.is_some_and(|state| state.facts.is_some());
        match row.stage {
            VolumeStage::Created if checked => (SwState::CreatedVolume, 100),
            // Not yet looked at in this process: it may be missing or damaged.
            VolumeStage::Created | VolumeStage::Destroying => (SwState::Initial, 0),
            VolumeStage::Creating => {
                let making = state.filter(|state| state.work == Work::Doing(Doing::Creating));
                match (making, plan::content_tree_of(&row.config)) {
                    (Some(state), _) => (SwState::CreatingVolume, state.percent),
                    (None, Some(tree)) => self.download_stage(&tree),
                    (None, None) => (SwState::Initial, 0),
                }
            }
        }
    }

    fn download_stage(&self, tree: &ContentTreeId) -> (SwState, u8) {
        match self.contents.get(tree) {
            Some(ContentState::Fetching { progress, .. }) => match progress {
                DownloadProgress::Fetching { percent } => (SwState::DownloadStarted, *percent),
                DownloadProgress::Verifying { percent } => (SwState::Verifying, *percent),
            },
            Some(ContentState::Ready(_)) => (SwState::Verified, 100),
            _ => (SwState::Initial, 0),
        }
    }

    fn error(
        &self,
        key: VolumeKey,
        holds: &Holds,
        row: Option<&VolumeRecord>,
        state: Option<&VolumeState>,
        cx: &Ctx<Self>,
    ) -> Option<ErrorReport> {
        let standstill = self.standstill.as_ref().map(|trouble| trouble.error.clone());
        standstill
            .map(|error| error.about(EntityKind::Volume, key.volume))
            .or_else(|| self.half_reverted(&key, holds))
            .or_else(|| state.and_then(VolumeState::trouble).cloned())
            .or_else(|| self.content_error(key, row?))
            .or_else(|| self.unknown(key, holds, cx))
            .or_else(|| self.lost_rows.get(&key).cloned())
    }

    /// A volume that cannot be put back after a failed rollback: nobody may start a guest on it.
    fn half_reverted(&self, key: &VolumeKey, holds: &Holds) -> Option<ErrorReport> {
        holds.intents(key).iter().find_map(|intent| {
            let undoing = intent.action == SnapshotAction::Rollback && intent.stage == IntentStage::Undoing;
            match self.snapshots.get(&intent.snapshot)?.progress.get(&key.volume)? {
                Progress::Failed { error, .. } if undoing => Some(ErrorReport {
                    summary: format!("volume {key} cannot be put back: {}", error.summary),
                    retry_condition: "tried again with growing delay".into(),
                    ..error.clone()
                }),
                _ => None,
            }
        })
    }

    /// A rollback that nobody asks for any more, because zedmanager's row was lost: it is finished, and until then no
    /// guest may be given the volume. Where it is asked for, zedmanager keeps the guest down itself.
    fn is_under_rollback(&self, key: &VolumeKey, holds: &Holds) -> bool {
        holds.intents(key).iter().any(|intent| {
            let asked = self.inputs.requests.get(&intent.snapshot);
            let is_open = intent.action == SnapshotAction::Rollback && intent.stage < IntentStage::CleaningUp;
            is_open && asked.is_none_or(|asked| asked.action != SnapshotAction::Rollback)
        })
    }

    /// A clone is being made that will take its place ([004] M2); how far it is shows as the volume's progress.
    fn is_being_cloned(&self, key: &VolumeKey, holds: &Holds) -> bool {
        holds.intents(key).iter().any(|intent| {
            let step = steps::volume_step(intent, &key.volume);
            let state = self.snapshots.get(&intent.snapshot);
            let progress = state.and_then(|state| state.progress.get(&key.volume));
            step == Some(VolumeStep::MakeClone) && progress == Some(&Progress::Running)
        })
    }

    fn content_error(&self, key: VolumeKey, row: &VolumeRecord) -> Option<ErrorReport> {
        let tree = plan::content_tree_of(&row.config).filter(|_| row.stage == VolumeStage::Creating)?;
        match self.contents.get(&tree) {
            Some(ContentState::Failed(trouble)) => {
                Some(trouble.error.clone().about(EntityKind::Volume, key.volume))
            }
            _ => None,
        }
    }

    fn unknown(&self, key: VolumeKey, holds: &Holds, cx: &Ctx<Self>) -> Option<ErrorReport> {
        // The time of an error must not change with every look: the last one is kept.
        let known_since = || {
            let last = cx.get::<VolumeStatus>(&key).and_then(|status| status.error.clone());
            last.map_or_else(|| cx.now(), |error| error.time)
        };
        let reason = match fate(&self.situation(&key, holds, cx)) {
            Fate::Unknown => format!("volume {key} is not known: the controller never configured it"),
            Fate::Nothing if holds.is_held(&key) && self.everybody_has_spoken() => {
                format!("volume {key} is lost, and snapshots of it with it")
            }
            _ => return None,
        };
        Some(ErrorReport::new(reason, known_since()).about(EntityKind::Volume, key.volume))
    }
}

fn reference_status(key: VolumeRefKey, volume: &VolumeStatus) -> VolumeRefStatus {
    VolumeRefStatus {
        key,
        state: volume.state,
        progress: volume.progress,
        file_location: volume.file_location.clone(),
        format: volume.format,
        read_only: volume.read_only,
        error: volume.error.clone(),
    }
}
