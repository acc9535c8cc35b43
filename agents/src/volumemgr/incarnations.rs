//! Which incarnation of a volume counts while a rollback replaces it by a clone ([004] M2): the intent's row says so.

use std::path::PathBuf;

use holdfast_types::{IntentStage, SnapshotAction, SnapshotIntent, VolumeId, VolumeKey, VolumeRecord};
use holdfast_volumehandlers::placement;

use super::Volumemgr;
use super::jobs::Place;
use super::steps::VolumeStep;
use crate::runtime::Ctx;

/// Whether the clones of a rollback are in force: the intent's row says so, and nothing else.
pub(super) fn clones_are_in_force(intent: &SnapshotIntent) -> bool {
    intent.action == SnapshotAction::Rollback
        && intent.failure.is_none()
        && matches!(intent.stage, IntentStage::Repointing | IntentStage::CleaningUp | IntentStage::Answered)
}

/// What a step on a clone works at, whatever the volume's row says: the intent has chosen it.
pub(super) fn location_of_clone_step<'a>(
    intent: &'a SnapshotIntent,
    volume: &VolumeId,
    step: VolumeStep,
) -> Option<&'a str> {
    let clone = intent.clones.get(volume)?;
    match step {
        VolumeStep::Repoint | VolumeStep::DropReplaced => Some(&clone.old_location),
        VolumeStep::DropClone => Some(&clone.fresh_location),
        _ => None,
    }
}

/// The clone's place; for a deletion that takes over an intent, whichever incarnation the volume's row does not name.
pub(super) fn other_incarnation(intent: &SnapshotIntent, step: VolumeStep, place: &Place) -> Option<PathBuf> {
    let clone = intent.clones.get(&place.key.volume)?;
    let (old, fresh) = (PathBuf::from(&clone.old_location), PathBuf::from(&clone.fresh_location));
    match step {
        VolumeStep::MakeClone | VolumeStep::Repoint => Some(fresh),
        VolumeStep::DeleteAll => Some(if place.location == fresh { old } else { fresh }),
        _ => None,
    }
}

/// The one row that everything refers to: configurations, records and references name the volume by its key.
pub(super) fn point_at_what_is_in_force(intent: &SnapshotIntent, volume: &VolumeId, cx: &mut Ctx<Volumemgr>) {
    let (Some(clone), Some(meta)) = (intent.clones.get(volume), intent.volumes.get(volume)) else { return };
    let key = VolumeKey { volume: *volume, generation: meta.generation };
    let location = match clones_are_in_force(intent) {
        true => &clone.fresh_location,
        false => &clone.old_location,
    };
    let Some(row) = cx.get::<VolumeRecord>(&key).filter(|row| row.file_location != *location) else { return };
    let incarnation = placement::incarnation(location.as_ref());
    tracing::info!(volume = %key, incarnation, location, "the volume's row is pointed at its incarnation in force");
    cx.publish(VolumeRecord { file_location: location.clone(), incarnation, ..(*row).clone() });
}
