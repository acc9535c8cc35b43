//! The documents, made from a view. Pure; lists are in a fixed order.

use std::collections::BTreeMap;

use holdfast_types::{
    AgreedSnapshot, AppId, AppInstanceStatus, Blocker, BlockerKind, ConfigSource, DomainState, DomainStatus,
    Downtime, EffectiveGuard, ErrorReport, Guard, HaState, LocalOutcome, Operation, OperationKind, Phase,
    Plan, SnapshotEntry, SnapshotId, SnapshotInstanceStatus, SnapshotState, SnapshotType, SwState,
    VolumeSnapshotMeta, VolumeStatus,
};

use super::documents::*;
use super::view::{Ended, View};

pub fn node(view: &View, facts: NodeFacts) -> NodeDocument {
    let device = view.device.as_deref();
    let volumes = view.volumes.values();
    NodeDocument {
        controller_reachable: device.and_then(|device| match (&device.controller_error, device.source) {
            (Some(_), _) => Some(false),
            (None, ConfigSource::Controller) => Some(true),
            (None, _) => None,
        }),
        controller_error: device.and_then(|it| it.controller_error.as_ref()).map(ErrorDocument::from),
        config_source: config_source_name(device.map_or(ConfigSource::None, |it| it.source)).to_string(),
        config_hash: device.map(|it| it.config_hash.clone()).unwrap_or_default(),
        config_received_at: device.and_then(|it| it.config_received_at),
        refused: device.map(|it| summaries(&it.refused)).unwrap_or_default(),
        reports_pending: device.map_or(0, |it| it.pending_reports),
        apps: counted(view.apps.values().map(|it| it.state.name())),
        apps_with_errors: view.apps.values().filter(|it| !it.errors.is_empty()).count() as u64,
        operations_running: view.states.values().filter(|it| it.operation.is_some()).count() as u64,
        snapshots: counted(entries(view).map(|(_, entry)| snapshot_state_name(&entry.state))),
        volumes: view.volumes.len() as u64,
        volumes_allocated_bytes: volumes.map(|it| it.allocated_bytes).sum(),
        facts,
    }
}

pub fn apps(view: &View) -> Vec<AppDocument> {
    view.apps.keys().filter_map(|app| self::app(view, *app)).collect()
}

pub fn app(view: &View, app: AppId) -> Option<AppDocument> {
    let status = view.apps.get(&app)?;
    let operation = view.states.get(&app).and_then(|it| it.operation.as_ref());
    Some(AppDocument {
        id: app,
        name: view.name_of(app),
        version: status.id_and_version.version.clone(),
        state: status.state.name().to_string(),
        activated: status.activate,
        boot_time: status.boot_time,
        guest: view.guests.get(&app).map(|it| guest(it)),
        volumes: status.volumes.iter().copied().map(VolumeKeyDocument::from).collect(),
        operation: operation.map(|it| running(view, app, it)),
        snapshots_max: status.snapshots.max_snapshots,
        snapshot_active: status.snapshots.active_snapshot,
        snapshots: snapshots(view, Some(app)),
        errors: status.errors.iter().map(ErrorDocument::from).collect(),
        guard: guard(status, view.states.get(&app).and_then(|it| it.controlled_by)),
    })
}

fn guard(status: &AppInstanceStatus, controlled_by: Option<HaState>) -> GuardDocument {
    let EffectiveGuard { ha_state, ha_state_is_local, tags, local_tags, removed_tags } = status.guard.clone();
    let is_manual = ha_state == Guard::Managed(HaState::Ignored);
    GuardDocument {
        ha_state: ha_state.to_string(),
        ha_state_is_local,
        controlled_by_before: controlled_by.filter(|_| is_manual).map(|state| state.to_string()),
        tags: tags.into_iter().collect(),
        local_tags: local_tags.into_iter().collect(),
        removed_tags: removed_tags.into_iter().collect(),
    }
}

/// Snapshots, of one application or of all, in the order in which they were asked for.
pub fn snapshots(view: &View, of: Option<AppId>) -> Vec<SnapshotDocument> {
    let mut found: Vec<_> = entries(view).filter(|(app, _)| of.is_none_or(|only| only == *app)).collect();
    found.sort_by_key(|(app, entry)| (*app, entry.sequence));
    found.into_iter().map(|(app, entry)| snapshot(view, app, entry)).collect()
}

/// Volumes: all, or those that one application uses or that its snapshots hold.
pub fn volumes(view: &View, of: Option<AppId>) -> Vec<VolumeDocument> {
    let held: Vec<SnapshotId> = of
        .and_then(|app| view.states.get(&app))
        .map(|state| state.snapshots.keys().copied().collect())
        .unwrap_or_default();
    let concerns = |it: &VolumeStatus, app: AppId| {
        it.used_by.contains(&app) || it.held_by.iter().any(|snapshot| held.contains(snapshot))
    };
    let found = view.volumes.values().filter(|it| of.is_none_or(|app| concerns(it, app)));
    found.map(|it| volume(view, it)).collect()
}

/// What runs, then what ended lately, newest last.
pub fn operations(view: &View, of: Option<AppId>) -> Vec<OperationDocument> {
    let concerns = |app: AppId| of.is_none_or(|only| only == app);
    let ended = view.ended.iter().filter(|it| concerns(it.app)).map(self::ended);
    let running = view.states.values().filter(|it| concerns(it.app)).filter_map(|state| {
        state.operation.as_ref().map(|operation| self::running(view, state.app, operation))
    });
    ended.chain(running).collect()
}

fn entries(view: &View) -> impl Iterator<Item = (AppId, &SnapshotEntry)> {
    view.states.values().flat_map(|state| state.snapshots.values().map(|entry| (state.app, entry)))
}

fn guest(status: &DomainStatus) -> GuestDocument {
    GuestDocument {
        state: guest_state_name(status.state).to_string(),
        process_id: status.process_id,
        accelerator: status.accelerator.clone(),
        console_log: status.console_log.clone(),
        crashes: status.crash_count,
        error: status.error.as_ref().map(ErrorDocument::from),
    }
}

fn snapshot(view: &View, app: AppId, entry: &SnapshotEntry) -> SnapshotDocument {
    let (instance, error) = match &entry.state {
        SnapshotState::Requested | SnapshotState::Cutting { .. } | SnapshotState::Trimmed => (None, None),
        SnapshotState::Available(it) | SnapshotState::Failed(it) => (Some(it), it.error.as_ref()),
        SnapshotState::Deleting { instance, error, .. } => (Some(instance), error.as_ref()),
    };
    let cutting = match entry.state {
        SnapshotState::Cutting { operation } => Some(operation),
        _ => None,
    };
    SnapshotDocument {
        id: entry.desc.id,
        app,
        app_name: view.name_of(app),
        kind: snapshot_kind_name(entry.desc.kind).to_string(),
        state: snapshot_state_name(&entry.state).to_string(),
        version: instance.map(version_in),
        created_at: instance.and_then(|it| it.time_created),
        is_local: entry.local,
        operation: cutting.or_else(|| instance.map(|it| it.operation)),
        volumes: snapshot_volumes(view, entry.desc.id),
        error: error.map(ErrorDocument::from),
    }
}

fn version_in(instance: &SnapshotInstanceStatus) -> String {
    instance.config_version.version.clone()
}

fn snapshot_volumes(view: &View, snapshot: SnapshotId) -> Vec<SnapshotVolumeDocument> {
    let Some(status) = view.storage.get(&snapshot) else { return Vec::new() };
    let described = status.meta.iter().map(|(id, meta)| match meta {
        VolumeSnapshotMeta::Recorded(meta) => SnapshotVolumeDocument {
            id: *id,
            generation: Some(meta.generation),
            handler: Some(meta.handler.clone()),
            storage_name: meta.storage_name.clone(),
            size_bytes: Some(meta.size_bytes),
        },
        VolumeSnapshotMeta::Eve(name) => SnapshotVolumeDocument {
            id: *id,
            generation: None,
            handler: None,
            storage_name: name.clone(),
            size_bytes: None,
        },
    });
    described.collect()
}

fn volume(view: &View, status: &VolumeStatus) -> VolumeDocument {
    VolumeDocument {
        id: status.key.volume,
        generation: status.key.generation,
        name: status.display_name.clone(),
        state: status.state.name().to_string(),
        progress_percent: status.progress,
        format: status.format.map(|it| it.name().to_string()),
        read_only: status.read_only,
        size_bytes: status.size_bytes,
        allocated_bytes: status.allocated_bytes,
        file: status.file_location.clone(),
        incarnation: status.incarnation,
        used_by: status.used_by.iter().map(|app| view.name_of(*app)).collect(),
        held_by: status.held_by.clone(),
        error: status.error.as_ref().map(ErrorDocument::from),
    }
}

fn running(view: &View, app: AppId, operation: &Operation) -> OperationDocument {
    OperationDocument {
        progress_percent: progress(view, operation),
        ..operation_document(app, view.name_of(app), operation, "running")
    }
}

fn ended(ended: &Ended) -> OperationDocument {
    let state = if ended.error.is_some() { "failed" } else { "done" };
    OperationDocument {
        ended_at: Some(ended.ended_at),
        error: ended.error.as_ref().map(ErrorDocument::from),
        ..operation_document(ended.app, ended.app_name.clone(), &ended.operation, state)
    }
}

fn operation_document(app: AppId, app_name: String, operation: &Operation, state: &str) -> OperationDocument {
    OperationDocument {
        app,
        app_name,
        number: operation.number,
        kind: kind_name(operation.kind).to_string(),
        is_local: operation.local.is_some(),
        state: state.to_string(),
        phase: phase_name(operation.phase).to_string(),
        started_at: operation.started_at,
        ended_at: None,
        version_before: operation.version_before.clone(),
        version_after: operation.version_after.clone(),
        snapshots: operation.snapshots.iter().map(|it| it.id).collect(),
        rollback_to: operation.rollback.as_ref().map(|it| it.snapshot),
        volumes: operation.volumes.iter().copied().map(VolumeKeyDocument::from).collect(),
        progress_percent: None,
        error: None,
    }
}

/// Per cent of the volumes that the next configuration waits for, or of the clones that are made for a rollback ([004] M2); all
/// else is short and not measured.
fn progress(view: &View, operation: &Operation) -> Option<u8> {
    match operation.phase {
        Phase::PreparingVolumes => {}
        Phase::RevertingVolumes => return clone_progress(view, operation),
        _ => return None,
    }
    let keys = operation.next.as_ref().map(|config| config.volume_keys())?;
    let done = |key| match view.volumes.get(key) {
        Some(volume) if volume.state == SwState::CreatedVolume => 100,
        Some(volume) => u64::from(volume.progress),
        None => 0,
    };
    let total: u64 = keys.iter().map(done).sum();
    (!keys.is_empty()).then(|| (total / keys.len() as u64).min(100) as u8)
}

/// None while nothing is being cloned, or where all of it is.
fn clone_progress(view: &View, operation: &Operation) -> Option<u8> {
    let volumes = operation.volumes.iter().filter_map(|key| view.volumes.get(key));
    let cloned = volumes.filter(|it| it.state == SwState::CreatedVolume && it.progress < 100);
    let percents: Vec<u64> = cloned.map(|it| u64::from(it.progress)).collect();
    let total: u64 = percents.iter().sum();
    total.checked_div(percents.len() as u64).and_then(|mean| u8::try_from(mean).ok())
}

pub fn plan(view: &View, app: AppId, plan: &Plan) -> PlanDocument {
    let blockers = plan.blockers.iter().flat_map(|(volume, blockers)| {
        let destroyed = plan.destroys.on(*volume);
        let is_destroyed = move |one: &Blocker| {
            let agreed = AgreedSnapshot { name: one.name.clone(), id: one.id.clone() };
            one.kind == BlockerKind::Unmanaged && destroyed.contains(&agreed)
        };
        blockers.iter().map(move |one| BlockerDocument {
            volume: *volume,
            kind: one.kind,
            name: one.name.clone(),
            is_destroyed: is_destroyed(one),
        })
    });
    let space = plan.space.iter().map(|(volume, space)| SpaceDocument {
        volume: *volume,
        needed_bytes: space.needed_bytes,
        free_bytes: space.free_bytes,
    });
    PlanDocument {
        app,
        app_name: view.name_of(app),
        action: plan.action.name().to_string(),
        snapshot: plan.snapshot,
        steps: plan.steps.clone(),
        blockers: blockers.collect(),
        space: space.collect(),
        downtime: plan.downtime.to_string(),
        downtime_milliseconds: match plan.downtime {
            Downtime::None => Some(0),
            Downtime::NotMeasured => None,
            Downtime::Last { milliseconds } => Some(milliseconds),
        },
        refusal: plan.refusal.clone(),
        digest: plan.digest.clone(),
    }
}

pub fn order(view: &View, app: AppId, outcome: &LocalOutcome, is_repeated: bool) -> OrderDocument {
    let state = match outcome {
        LocalOutcome { operation: None, .. } => "taken-in",
        LocalOutcome { is_running: true, .. } => "running",
        LocalOutcome { error: Some(_), .. } => "failed",
        _ => "done",
    };
    OrderDocument {
        app,
        app_name: view.name_of(app),
        action: outcome.action.name().to_string(),
        snapshot: outcome.snapshot,
        digest: outcome.digest.clone(),
        operation: outcome.operation,
        state: state.to_string(),
        is_repeated,
        error: outcome.error.as_ref().map(ErrorDocument::from),
    }
}

fn counted<'a>(names: impl Iterator<Item = &'a str>) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for name in names {
        *counts.entry(name.to_string()).or_default() += 1;
    }
    counts
}

fn summaries(errors: &BTreeMap<String, ErrorReport>) -> BTreeMap<String, String> {
    errors.iter().map(|(id, error)| (id.clone(), error.summary.clone())).collect()
}

/// A volume for people: its name if it has one, and its generation.
pub fn volume_label(volume: &VolumeStatus) -> String {
    match volume.display_name.as_str() {
        "" => volume.key.to_string(),
        name => format!("{name}#{}", volume.key.generation),
    }
}

pub fn config_source_name(source: ConfigSource) -> &'static str {
    match source {
        ConfigSource::None => "none",
        ConfigSource::Saved => "saved",
        ConfigSource::Controller => "controller",
    }
}

pub fn guest_state_name(state: DomainState) -> &'static str {
    match state {
        DomainState::NeverStarted => "never-started",
        DomainState::Booting => "booting",
        DomainState::Running => "running",
        DomainState::Halting => "halting",
        DomainState::Halted => "halted",
        DomainState::Crashed => "crashed",
        DomainState::Failed => "failed",
        DomainState::Unknown => "unknown",
    }
}

pub fn snapshot_kind_name(kind: SnapshotType) -> &'static str {
    match kind {
        SnapshotType::Unspecified => "unspecified",
        SnapshotType::AppUpdate => "app-update",
        SnapshotType::Immediate => "immediate",
    }
}

pub fn snapshot_state_name(state: &SnapshotState) -> &'static str {
    match state {
        SnapshotState::Requested => "requested",
        SnapshotState::Cutting { .. } => "cutting",
        SnapshotState::Available(_) => "available",
        SnapshotState::Failed(_) => "failed",
        SnapshotState::Deleting { .. } => "deleting",
        SnapshotState::Trimmed => "trimmed",
    }
}

pub fn kind_name(kind: OperationKind) -> &'static str {
    match kind {
        OperationKind::Install => "install",
        OperationKind::Update => "update",
        OperationKind::Snapshot => "snapshot",
        OperationKind::Rollback => "rollback",
        OperationKind::RevertVolume => "revert-volume",
        OperationKind::DeleteSnapshots => "delete-snapshots",
        OperationKind::DeleteApp => "delete-app",
    }
}

pub fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::PreparingVolumes => "preparing-volumes",
        Phase::CheckingStorage => "checking-storage",
        Phase::StoppingGuest => "stopping-guest",
        Phase::DeletingSnapshots => "deleting-snapshots",
        Phase::CuttingSnapshots => "cutting-snapshots",
        Phase::RevertingVolumes => "reverting-volumes",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use holdfast_types::{Format, VolumeId, VolumeKey};
    use uuid::Uuid;

    use super::*;

    fn key(number: u128) -> VolumeKey {
        VolumeKey::new(VolumeId(Uuid::from_u128(number)), 1)
    }

    fn volume_at(number: u128, progress: u8) -> (VolumeKey, Arc<VolumeStatus>) {
        let status = VolumeStatus {
            key: key(number),
            display_name: String::new(),
            state: SwState::CreatedVolume,
            progress,
            format: Some(Format::Raw),
            read_only: false,
            size_bytes: 1,
            allocated_bytes: 1,
            file_location: String::new(),
            incarnation: 1,
            used_by: Vec::new(),
            held_by: Vec::new(),
            error: None,
        };
        (key(number), Arc::new(status))
    }

    /// [004] M2: how far a clone is shows on the operation that waits for it, whatever the volumes beside it are at.
    #[test]
    fn the_progress_of_clones_is_the_operations() {
        let operation =
            crate::zedmanager::testing::operation(OperationKind::Rollback, Phase::RevertingVolumes);
        let operation = Operation { volumes: vec![key(1), key(2), key(3)], ..operation };
        let of = |volumes: [u8; 3]| {
            let statuses = volumes.into_iter().zip(1..).map(|(progress, number)| volume_at(number, progress));
            let mut view = View::default();
            view.volumes.extend(statuses);
            progress(&view, &operation)
        };
        assert_eq!(of([100, 30, 50]), Some(40), "the first is reverted in place");
        assert_eq!(of([100, 0, 100]), Some(0));
        assert_eq!(of([100, 100, 100]), None);
    }
}
