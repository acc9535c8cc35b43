//! What is said of an application: its `AppInstanceStatus`, from the row and from what the others report.

use holdfast_types::{
    AppInstanceConfig, AppInstanceState, AppInstanceStatus, DomainState, DomainStatus, EffectiveGuard,
    ErrorReport, Operation, OperationKind, Phase, SnapshotInstanceStatus, SnapshotState, SnapshottingStatus,
    SwState, UuidAndVersion, VolumeRefStatus,
};

use super::change::{self, Change};

/// What the status is made of, beside the row.
#[derive(Debug)]
pub struct Sources<'a> {
    pub received: Option<&'a AppInstanceConfig>,
    pub removed: bool,
    pub domain: Option<&'a DomainStatus>,
    /// References of the configuration in force, or being installed, in the order of its volumes.
    pub volumes: Vec<&'a VolumeRefStatus>,
    pub start_delayed: bool,
    /// Why no operation may begin, when one would.
    pub blocked: Option<ErrorReport>,
    /// Its row was found damaged at the start.
    pub lost_row: Option<ErrorReport>,
    /// The guard in effect.
    pub guard: EffectiveGuard,
    pub local_order: u64,
    /// What is to be told of the guard and the tags ([000] L6).
    pub notices: Vec<ErrorReport>,
}

pub fn build(state: &AppInstanceState, sources: &Sources<'_>) -> AppInstanceStatus {
    let applied = state.applied.as_deref();
    let shown = applied.or(sources.received);
    AppInstanceStatus {
        id_and_version: UuidAndVersion {
            id: state.app,
            // [003] A6: only ever the version in force.
            version: applied.map(|config| config.version().to_owned()).unwrap_or_default(),
        },
        display_name: shown.map(|config| config.display_name.clone()).unwrap_or_default(),
        state: sw_state(state, sources),
        activate: shown.is_some_and(|config| config.activate) && !sources.removed,
        volumes: shown.map(AppInstanceConfig::volume_keys).unwrap_or_default(),
        boot_time: sources
            .domain
            .filter(|domain| !domain.state.is_down())
            .and_then(|domain| domain.boot_time),
        errors: errors(state, sources),
        operation: state.operation.clone(),
        snapshots: snapshots(state, sources.received),
        guard: sources.guard.clone(),
        local_order: sources.local_order,
    }
}

fn sw_state(state: &AppInstanceState, sources: &Sources<'_>) -> SwState {
    let domain = sources.domain.map_or(DomainState::NeverStarted, |domain| domain.state);
    if let Some(operation) = &state.operation
        && operation.phase >= Phase::StoppingGuest
    {
        return operation_state(state, operation);
    }
    match domain {
        DomainState::Booting => return SwState::Booting,
        DomainState::Running => return SwState::Running,
        DomainState::Halting => return SwState::Halting,
        DomainState::Unknown => return SwState::Error,
        DomainState::NeverStarted | DomainState::Halted | DomainState::Crashed | DomainState::Failed => {}
    }
    let activate = state.applied.as_ref().is_some_and(|config| config.activate);
    if state.applied.is_some() && !activate {
        return SwState::Halted;
    }
    if sources.volumes.iter().any(|volume| volume.hindrance().is_some()) {
        return SwState::Error;
    }
    if let Some(volume) = sources
        .volumes
        .iter()
        .map(|volume| volume.state)
        .filter(|state| *state != SwState::CreatedVolume)
        .min()
    {
        return volume;
    }
    match domain {
        DomainState::Crashed | DomainState::Failed => SwState::Error,
        _ if sources.start_delayed => SwState::StartDelayed,
        DomainState::Halted => SwState::Halted,
        _ if state.applied.is_some() => SwState::Installed,
        _ => SwState::Initial,
    }
}

fn operation_state(state: &AppInstanceState, operation: &Operation) -> SwState {
    match operation.kind {
        OperationKind::DeleteApp => SwState::Halting,
        OperationKind::DeleteSnapshots => SwState::Halted,
        _ => match (&state.applied, &operation.next) {
            (Some(applied), Some(next)) if change::classify(applied, next) == Change::Purge => {
                SwState::Purging
            }
            _ => SwState::Restarting,
        },
    }
}

fn errors(state: &AppInstanceState, sources: &Sources<'_>) -> Vec<ErrorReport> {
    let volumes = sources.volumes.iter().filter_map(|volume| volume.error.clone());
    let domain = sources.domain.and_then(|domain| domain.error.clone());
    let waiting = state.waiting.as_ref().map(|waiting| waiting.error.clone());
    let failure = state
        .last_failure
        .as_ref()
        .filter(|failure| Some(&failure.error) != waiting.as_ref())
        .map(|failure| failure.error.clone());
    let node = sources.blocked.iter().chain(&sources.lost_row).chain(&sources.notices).cloned();
    let mut errors: Vec<ErrorReport> =
        volumes.chain(domain).chain(waiting.clone()).chain(failure).chain(node).collect();
    // One cause may reach the application on several ways; people need it once.
    let mut seen = std::collections::BTreeSet::new();
    errors.retain(|error| seen.insert(error.summary.clone()));
    errors
}

fn snapshots(state: &AppInstanceState, received: Option<&AppInstanceConfig>) -> SnapshottingStatus {
    let wanted = received.map(|config| &config.snapshot);
    let rollback = state.operation.as_ref().and_then(|operation| operation.rollback.as_ref());
    let mut status = SnapshottingStatus {
        max_snapshots: wanted.map_or(0, |wanted| wanted.max_snapshots),
        active_snapshot: rollback.map(|target| target.snapshot).or(wanted.and_then(|wanted| wanted.active)),
        rollback_in_progress: rollback.is_some(),
        ..SnapshottingStatus::default()
    };
    let mut entries: Vec<_> = state.snapshots.iter().collect();
    entries.sort_by_key(|(_, entry)| entry.sequence);
    for (id, entry) in entries {
        match &entry.state {
            SnapshotState::Requested | SnapshotState::Cutting { .. } => {
                status.requested_snapshots.push(entry.desc)
            }
            SnapshotState::Available(instance) => status.available_snapshots.push(instance.clone()),
            SnapshotState::Failed(instance) => status.failed_snapshots.push(instance.clone()),
            SnapshotState::Deleting { instance, error, .. } => {
                status.snapshots_to_be_deleted.push(entry.desc);
                if let Some(error) = error {
                    // [003] D2: not got rid of, so it shows up again.
                    let instance = SnapshotInstanceStatus { error: Some(error.clone()), ..instance.clone() };
                    status.failed_snapshots.push(instance);
                }
            }
            SnapshotState::Trimmed => status.trimmed_snapshots.push(*id),
        }
    }
    status
}
