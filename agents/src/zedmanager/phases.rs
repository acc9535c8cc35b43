//! An operation that runs, phase by phase: whether it can go on, what it waits for, and which phase is next.
//!
//! ```text
//!  PreparingVolumes ─▶ CheckingStorage ─▶ StoppingGuest ─▶ DeletingSnapshots ─▶ CuttingSnapshots ─▶ RevertingVolumes
//!  └── Abandon, Fail: nothing was touched yet ────────┘   └── the guest is confirmed down until Complete or Fail ──┘
//! ```
//!
//! A phase with nothing to do is left out. The choice of an operation is `machine.rs`'s.

use std::sync::Arc;

use holdfast_types::{
    AppId, AppInstanceState, Blockers, EntityKind, ErrorReport, FORCE_ROLLBACK, Judgement, Operation,
    OperationKind, Phase, RollbackTarget, SnapshotAction, SnapshotId, SnapshotState, Timestamp,
    VolumesSnapshotStatus, judge_rollback,
};

use super::change;
use super::list;
use super::machine::{
    Decision, Facts, Guarded, Guest, Readiness, WaitingFor, begin_due_deletions, guarded, old_version_runs,
};

/// A rollback that was begun, and the guard since: up to the first volume it stops at once, except that deletions that
/// storage is at are waited for. What is reverted is finished, whatever is set meanwhile.
fn stopped_by_guard(state: &AppInstanceState, operation: &Operation, facts: &Facts<'_>) -> Option<Decision> {
    if operation.rollback.is_none() || operation.phase > Phase::StoppingGuest {
        return None;
    }
    match guarded(state, facts) {
        Guarded::Yes(why) => Some(Decision::Fail(withdrawn(why, operation, facts))),
        Guarded::No | Guarded::Unknown => None,
    }
}

fn withdrawn(why: String, operation: &Operation, facts: &Facts<'_>) -> ErrorReport {
    ErrorReport::new(why, facts.now).retry(again(operation))
}

/// With an operation running: can it go on?
pub(super) fn advance(state: &AppInstanceState, operation: &Operation, facts: &Facts<'_>) -> Decision {
    if operation.phase < Phase::DeletingSnapshots
        && facts.removed
        && operation.kind != OperationKind::DeleteApp
    {
        return Decision::Abandon;
    }
    if operation.phase < Phase::StoppingGuest && is_outdated(state, operation, facts) {
        return Decision::Abandon;
    }
    if let Some(stop) = stopped_by_guard(state, operation, facts) {
        return stop;
    }
    if operation.phase > Phase::StoppingGuest && facts.guest != Guest::ConfirmedDown {
        // After a restart in the middle: storage is touched only when the process is gone ([003] B2).
        return Decision::Wait(WaitingFor::GuestDown);
    }
    match operation.phase {
        Phase::PreparingVolumes => prepare_volumes(state, operation, facts),
        Phase::CheckingStorage => check_storage(state, operation, facts),
        Phase::StoppingGuest if facts.guest == Guest::ConfirmedDown => leave(state, operation, facts),
        Phase::StoppingGuest => Decision::Wait(WaitingFor::GuestDown),
        Phase::DeletingSnapshots => await_deletions(state, operation, facts),
        Phase::CuttingSnapshots => await_cuts(state, operation, facts),
        Phase::RevertingVolumes => await_reverts(state, operation, facts),
    }
}

/// An installation or update whose configuration has changed again before the guest was stopped, or which waits while
/// something can be deleted.
fn is_outdated(state: &AppInstanceState, operation: &Operation, facts: &Facts<'_>) -> bool {
    if operation.kind == OperationKind::Update && begin_due_deletions(state, facts).is_some() {
        return true;
    }
    let (OperationKind::Install | OperationKind::Update, Some(received)) = (operation.kind, facts.received)
    else {
        return false;
    };
    let wanted = change::in_effect(received, state.applied.as_deref(), state.superseded_version.as_deref());
    operation.next.as_ref() != Some(&wanted)
}

fn prepare_volumes(state: &AppInstanceState, operation: &Operation, facts: &Facts<'_>) -> Decision {
    let wanted = operation.next.iter().flat_map(|config| config.volume_keys());
    let (mut pending, mut broken) = (false, None);
    for key in wanted {
        match facts.volumes.get(&key) {
            Some(Readiness::Ready) => {}
            Some(Readiness::Broken(error)) => broken = Some(error),
            Some(Readiness::Pending) | None => pending = true,
        }
    }
    match (broken, &state.applied, &operation.next) {
        // [003] C1: a rollback needs every volume there; an update can wait for a download to succeed.
        (Some(error), ..) if operation.kind == OperationKind::Rollback => Decision::Fail(error.clone()),
        (Some(_), Some(applied), Some(next)) => {
            old_version_runs(applied, next).unwrap_or(Decision::Wait(WaitingFor::Volumes))
        }
        (Some(_), ..) => Decision::Wait(WaitingFor::Volumes),
        (None, ..) if pending => Decision::Wait(WaitingFor::Volumes),
        (None, ..) => leave(state, operation, facts),
    }
}

fn check_storage(state: &AppInstanceState, operation: &Operation, facts: &Facts<'_>) -> Decision {
    for id in checked_snapshots(operation) {
        match facts.preflight.get(&id) {
            Some(status) if status.operation == operation.number => {
                if let Some(refusal) = &status.refusal {
                    return Decision::Fail(refusal.clone());
                }
                if let Some(target) = &operation.rollback
                    && let Some(decision) = judge_blockers(state, operation, target, &status.blockers, facts)
                {
                    return decision;
                }
            }
            _ => return Decision::Wait(WaitingFor::Preflight),
        }
    }
    leave(state, operation, facts)
}

/// [000] L4, L5: what the pre-flight saw in the rollback's way, judged once. None: nothing is left to be agreed to.
fn judge_blockers(
    state: &AppInstanceState,
    operation: &Operation,
    target: &RollbackTarget,
    seen: &Blockers,
    facts: &Facts<'_>,
) -> Option<Decision> {
    if target.consent.is_some() {
        return None;
    }
    let has_tag = facts.guard.as_ref().is_some_and(|guard| guard.has_tag(FORCE_ROLLBACK));
    Some(match judge_rollback(state.app, target.snapshot, seen, has_tag) {
        Judgement::Go(consent) => match &operation.local {
            Some(local) if local.agreed != consent => Decision::Fail(another_consent(state.app, facts)),
            _ => Decision::Agree(consent),
        },
        Judgement::Blocked(why) => {
            let report = ErrorReport::new(why, facts.now).about(EntityKind::AppInstance, state.app);
            let blocked = seen.iter().filter(|(_, blockers)| !blockers.is_empty());
            let report = blocked.fold(report, |report, (volume, _)| report.about(EntityKind::Volume, volume));
            Decision::Fail(report.retry(format!("{}, when nothing stands in the way", again(operation))))
        }
    })
}

/// [000] L7: a plan was agreed to, and storage looks otherwise now.
fn another_consent(app: AppId, facts: &Facts<'_>) -> ErrorReport {
    let why = format!(
        "Rollback blocked: what it would destroy is not what was agreed to any more on app:{app}; nothing was changed"
    );
    ErrorReport::new(why, facts.now)
        .about(EntityKind::AppInstance, app)
        .retry("another plan, agreed to again")
}

/// What it takes to order it once more.
fn again(operation: &Operation) -> &'static str {
    match operation.local {
        Some(_) => "another order on the node",
        None => "a higher rollback counter",
    }
}

/// The snapshots whose pre-flight is asked for: those to be cut, or the one to roll back to.
pub(super) fn checked_snapshots(operation: &Operation) -> Vec<SnapshotId> {
    let cut = operation.snapshots.iter().map(|desc| desc.id);
    cut.chain(operation.rollback.iter().map(|target| target.snapshot)).collect()
}

fn await_deletions(state: &AppInstanceState, operation: &Operation, facts: &Facts<'_>) -> Decision {
    if list::deletions_due(state) {
        // One more came in; entering the phase again asks for it.
        return Decision::Enter(Phase::DeletingSnapshots);
    }
    let deletes_app = operation.kind == OperationKind::DeleteApp;
    if !facts.storage_known && !deletes_app {
        // After a restart: what is left on storage is not told yet.
        return Decision::Wait(WaitingFor::Storage);
    }
    let unanswered = state.snapshots.values().any(|entry| match &entry.state {
        // An application is gone only when storage says so; anything else does not wait for a failing deletion.
        SnapshotState::Deleting { error, .. } => error.is_none() || deletes_app,
        _ => false,
    });
    // One that has failed before is tried again: the guest is down, and nobody knows when it will be again.
    let untried = list::remains(state, facts.storage)
        .any(|status| answer(operation, SnapshotAction::Delete, Some(status)).is_none());
    match unanswered || untried {
        true => Decision::Wait(WaitingFor::Deletions),
        false => leave(state, operation, facts),
    }
}

fn await_cuts(state: &AppInstanceState, operation: &Operation, facts: &Facts<'_>) -> Decision {
    if operation.snapshots.iter().any(|desc| facts.saved.get(&desc.id) != state.applied.as_ref()) {
        // A cut came while a failure of this operation was being carried out: its files went before the row told so.
        return Decision::Enter(Phase::CuttingSnapshots);
    }
    let (mut pending, mut failed) = (false, None);
    for desc in &operation.snapshots {
        let entry = state.snapshots.get(&desc.id).map(|entry| &entry.state);
        if matches!(entry, Some(SnapshotState::Available(_))) {
            continue;
        }
        match answer(operation, SnapshotAction::Create, facts.storage.get(&desc.id).map(Arc::as_ref)) {
            Some(Ok(created)) => return Decision::KeepSnapshot(desc.id, created),
            Some(Err(error)) => failed = failed.or(Some(error)),
            None => pending = true,
        }
    }
    match failed {
        // Also where one has failed already: the guest stays down as long as storage is at its volumes (I8).
        _ if pending => Decision::Wait(WaitingFor::Cuts),
        Some(error) => Decision::Fail(error),
        None => leave(state, operation, facts),
    }
}

fn await_reverts(state: &AppInstanceState, operation: &Operation, facts: &Facts<'_>) -> Decision {
    let target = operation.rollback.as_ref().map(|target| target.snapshot);
    let status = target.and_then(|id| facts.storage.get(&id)).map(Arc::as_ref);
    match answer(operation, SnapshotAction::Rollback, status) {
        Some(Ok(_)) => leave(state, operation, facts),
        Some(Err(error)) => Decision::Fail(error),
        None => Decision::Wait(WaitingFor::Reverts),
    }
}

/// volumemgr's answer to exactly this operation, if it has come.
fn answer(
    operation: &Operation,
    action: SnapshotAction,
    status: Option<&VolumesSnapshotStatus>,
) -> Option<Result<Option<Timestamp>, ErrorReport>> {
    let status =
        status.filter(|status| status.operation == operation.number && status.result_of == action)?;
    Some(match &status.error {
        Some(error) => Err(error.clone()),
        None => Ok(status.time_created),
    })
}

/// The operation's current phase is over: the next one with something to do, or the end.
fn leave(state: &AppInstanceState, operation: &Operation, facts: &Facts<'_>) -> Decision {
    match next_phase(operation) {
        // [000] L1: looked at again before the guest is stopped, and before the first volume is touched.
        Some(phase @ (Phase::StoppingGuest | Phase::RevertingVolumes)) if operation.rollback.is_some() => {
            match guarded(state, facts) {
                Guarded::No => Decision::Enter(phase),
                Guarded::Yes(why) => Decision::Fail(withdrawn(why, operation, facts)),
                Guarded::Unknown => Decision::Wait(WaitingFor::Guard),
            }
        }
        Some(phase) => Decision::Enter(phase),
        None if operation.kind == OperationKind::DeleteApp => Decision::ForgetApp,
        None => Decision::Complete,
    }
}

const ORDER: [Phase; 6] = [
    Phase::PreparingVolumes,
    Phase::CheckingStorage,
    Phase::StoppingGuest,
    Phase::DeletingSnapshots,
    Phase::CuttingSnapshots,
    Phase::RevertingVolumes,
];

fn next_phase(operation: &Operation) -> Option<Phase> {
    ORDER.into_iter().filter(|phase| *phase > operation.phase).find(|phase| has_work(operation, *phase))
}

fn has_work(operation: &Operation, phase: Phase) -> bool {
    let installs = operation.kind == OperationKind::Install;
    match phase {
        Phase::PreparingVolumes => operation.next.is_some(),
        Phase::CheckingStorage => !checked_snapshots(operation).is_empty(),
        Phase::StoppingGuest | Phase::DeletingSnapshots => !installs,
        Phase::CuttingSnapshots => !operation.snapshots.is_empty(),
        Phase::RevertingVolumes => operation.rollback.is_some(),
    }
}
