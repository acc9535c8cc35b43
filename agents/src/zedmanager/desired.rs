//! What the row says should stand on the bus: references, snapshot requests, pre-flights, the domain.
//!
//! Pure functions of the row and the facts; the agent publishes what differs from what it published before.

use std::collections::BTreeSet;

use holdfast_types::{
    AppInstanceConfig, AppInstanceState, Consent, DiskConfig, DomainConfig, Operation, OperationNumber,
    Phase, SnapshotAction, SnapshotId, SnapshotInstanceStatus, SnapshotPreflightConfig, SnapshotState,
    VolumeKey, VolumeRefKey, VolumeRefStatus, VolumeRevert, VolumesSnapshotConfig, VolumesSnapshotStatus,
};

use super::list;
use super::machine::{Facts, Guest};
use super::phases::checked_snapshots;

/// Volumes of the configuration in force and of the one being applied.
pub fn volume_refs(state: &AppInstanceState) -> BTreeSet<VolumeRefKey> {
    let next = state.operation.as_ref().and_then(|operation| operation.next.as_ref());
    let configs = state.applied.iter().chain(next);
    let keys = configs.flat_map(|config| config.volume_keys());
    keys.map(|volume| VolumeRefKey { app: state.app, volume }).collect()
}

/// One request per snapshot that is to exist. What is not in here, volumemgr deletes; what it is to delete now, while the
/// guest is down, it is told in so many words.
pub fn snapshot_configs(state: &AppInstanceState, facts: &Facts<'_>) -> Vec<VolumesSnapshotConfig> {
    let mut requests = kept_or_made(state, facts);
    requests.extend(deletions(state, facts));
    requests
}

/// [003] D1, D2: all that storage has and nobody keeps, also what could not be deleted in an earlier downtime or came of a
/// snapshot that failed. Follows from the row's phase alone: after a restart it is asked again, by the same number.
fn deletions(state: &AppInstanceState, facts: &Facts<'_>) -> Vec<VolumesSnapshotConfig> {
    let is_due = |operation: &&Operation| {
        operation.phase == Phase::DeletingSnapshots && facts.guest == Guest::ConfirmedDown
    };
    let Some(operation) = state.operation.as_ref().filter(is_due).filter(|_| facts.storage_known) else {
        return Vec::new();
    };
    let request = |status: &VolumesSnapshotStatus| VolumesSnapshotConfig {
        snapshot: status.snapshot,
        action: SnapshotAction::Delete,
        volumes: Vec::new(),
        app: state.app,
        operation: operation.number,
        made: true,
        consent: Consent::default(),
        revert: None,
    };
    list::remains(state, facts.storage).map(request).collect()
}

fn kept_or_made(state: &AppInstanceState, facts: &Facts<'_>) -> Vec<VolumesSnapshotConfig> {
    state
        .snapshots
        .iter()
        .filter_map(|(id, entry)| {
            let made = !matches!(entry.state, SnapshotState::Cutting { .. });
            let (action, operation, volumes) = match &entry.state {
                SnapshotState::Available(instance) => kept(state, facts, *id, instance)?,
                // By whom it was made can no longer be read: it is claimed, and no more.
                SnapshotState::Failed(instance) if instance.time_created.is_some() && is_lost(instance) => {
                    (SnapshotAction::Unspecified, instance.operation, Vec::new())
                }
                SnapshotState::Failed(instance) if instance.time_created.is_some() => {
                    kept(state, facts, *id, instance)?
                }
                SnapshotState::Deleting { instance, asked: false, .. } => kept(state, facts, *id, instance)?,
                SnapshotState::Cutting { .. } => cut(state, facts, *id)?,
                SnapshotState::Requested
                | SnapshotState::Failed(_)
                | SnapshotState::Deleting { .. }
                | SnapshotState::Trimmed => return None,
            };
            let consent = consent_for(state, *id, action);
            let revert = revert_for(state, action);
            Some(VolumesSnapshotConfig {
                snapshot: *id,
                action,
                volumes,
                app: state.app,
                operation,
                made,
                consent,
                revert,
            })
        })
        .collect()
}

/// [000] L7: goes with the order to roll back, and with no other.
fn consent_for(state: &AppInstanceState, id: SnapshotId, action: SnapshotAction) -> Consent {
    let target = state.operation.as_ref().and_then(|operation| operation.rollback.as_ref());
    let agreed = target.filter(|target| target.snapshot == id && action == SnapshotAction::Rollback);
    agreed.and_then(|target| target.consent.clone()).unwrap_or_default()
}

/// [004] M: which volume a rollback is of, unless it is of all.
fn revert_for(state: &AppInstanceState, action: SnapshotAction) -> Option<VolumeRevert> {
    let operation = state.operation.as_ref().filter(|_| action == SnapshotAction::Rollback)?;
    operation.revert.clone()
}

fn is_lost(instance: &SnapshotInstanceStatus) -> bool {
    instance.operation == OperationNumber(0)
}

type Request = (SnapshotAction, OperationNumber, Vec<VolumeKey>);

/// A snapshot that exists: as it was made, unless it is being rolled back to with the guest down.
fn kept(
    state: &AppInstanceState,
    facts: &Facts<'_>,
    id: SnapshotId,
    instance: &SnapshotInstanceStatus,
) -> Option<Request> {
    if let Some(operation) = &state.operation
        && operation.phase == Phase::RevertingVolumes
        && operation.rollback.as_ref().is_some_and(|target| target.snapshot == id)
    {
        // Until the guest is confirmed down again after a restart, the operation only says that it is not over: the
        // answer to it is kept.
        let action = match facts.guest {
            Guest::ConfirmedDown => SnapshotAction::Rollback,
            _ => SnapshotAction::Unspecified,
        };
        return Some((action, operation.number, operation.volumes.clone()));
    }
    let saved = facts.saved.get(&id).map(|config| config.volume_keys());
    let stored = || facts.storage.get(&id).map(|status| status.volume_keys());
    let volumes = saved.or_else(stored).unwrap_or_default();
    Some((SnapshotAction::Create, instance.operation, volumes))
}

/// A snapshot that is being made: asked for only while the guest is confirmed down. Until that is confirmed again
/// after a restart, what an earlier process has cut is only claimed: unclaimed, volumemgr would delete it while its
/// answer, still on the bus, is taken here for a snapshot.
fn cut(state: &AppInstanceState, facts: &Facts<'_>, id: SnapshotId) -> Option<Request> {
    let operation = state.operation.as_ref()?;
    let cutting =
        operation.phase == Phase::CuttingSnapshots && operation.snapshots.iter().any(|desc| desc.id == id);
    let action = match facts.guest {
        Guest::ConfirmedDown => SnapshotAction::Create,
        _ => SnapshotAction::Unspecified,
    };
    cutting.then(|| (action, operation.number, operation.volumes.clone()))
}

/// The questions of the pre-flight, while they are being asked.
pub fn preflights(state: &AppInstanceState) -> Vec<SnapshotPreflightConfig> {
    let Some(operation) = &state.operation else { return Vec::new() };
    if operation.phase != Phase::CheckingStorage {
        return Vec::new();
    }
    let action = if operation.rollback.is_some() { SnapshotAction::Rollback } else { SnapshotAction::Create };
    let leaving = list::leaving(state);
    let question = |snapshot| SnapshotPreflightConfig {
        snapshot,
        app: state.app,
        action,
        volumes: operation.volumes.clone(),
        operation: operation.number,
        leaving: leaving.clone(),
        revert: operation.revert.clone(),
    };
    checked_snapshots(operation).into_iter().map(question).collect()
}

/// The wish for the domain, before it gets its number.
#[derive(Debug, Clone, PartialEq)]
pub enum Domain {
    /// Leave on the bus what stands there: it is not known yet what would be right.
    Unchanged,
    Wanted(Box<DomainConfig>),
}

/// Whether the guest is to run, and on which disks ([003] B7, C5: never before the operation is over).
pub fn domain<'a>(
    state: &AppInstanceState,
    facts: &Facts<'_>,
    start_held_back: bool,
    refs: impl Fn(&VolumeRefKey) -> Option<&'a VolumeRefStatus>,
) -> Domain {
    let stopping = state.operation.as_ref().is_some_and(needs_guest_down);
    let Some(applied) = &state.applied else {
        return if stopping { wanted(state, None, Vec::new()) } else { Domain::Unchanged };
    };
    if stopping || !applied.activate {
        return wanted(state, Some(applied), Vec::new());
    }
    if start_held_back || !facts.storage_known || facts.guest == Guest::Unknown {
        return Domain::Unchanged;
    }
    let disks = applied.volumes.iter().map(|volume| {
        let status = refs(&VolumeRefKey { app: state.app, volume: volume.key() })?;
        let ready = status.hindrance().is_none() && status.state == holdfast_types::SwState::CreatedVolume;
        let format = status.format.filter(|_| ready)?;
        Some(DiskConfig {
            volume: volume.key(),
            file_location: status.file_location.clone(),
            format,
            read_only: status.read_only,
        })
    });
    match disks.collect::<Option<Vec<_>>>() {
        Some(disks) => {
            let Domain::Wanted(mut config) = wanted(state, Some(applied), disks) else { unreachable!() };
            config.activate = true;
            Domain::Wanted(config)
        }
        None => Domain::Unchanged,
    }
}

pub fn needs_guest_down(operation: &Operation) -> bool {
    operation.phase >= Phase::StoppingGuest
}

fn wanted(state: &AppInstanceState, applied: Option<&AppInstanceConfig>, disks: Vec<DiskConfig>) -> Domain {
    Domain::Wanted(Box::new(DomainConfig {
        app: state.app,
        display_name: applied.map(|config| config.display_name.clone()).unwrap_or_default(),
        number: 0,
        activate: false,
        resources: applied.map(|config| config.resources.clone()).unwrap_or_default(),
        disks,
    }))
}
