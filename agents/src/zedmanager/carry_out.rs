//! What a decision changes in the row, and what must be durable before the row is. Pure, like the decision.

use std::sync::Arc;

use holdfast_types::{
    AppInstanceState, DoneRollback, ErrorReport, FailedOperation, GuardRecord, LocalAction, LocalOrigin,
    LocalOutcome, Operation, OperationKind, Phase, SnapshotId, SnapshotInstanceStatus, SnapshotState,
    Timestamp, UuidAndVersion, WaitingUpdate, local_snapshot_id,
};

use super::change;
use super::list;
use super::machine::{Decision, Facts, Guest, NewOperation, Write};

/// Changes the row as decided and returns what must be durable before it. `Wait` and `ForgetApp` change nothing.
pub fn carry_out(state: &mut AppInstanceState, decision: Decision, facts: &Facts<'_>) -> Vec<Write> {
    match decision {
        Decision::Wait(_) | Decision::ForgetApp => Vec::new(),
        Decision::ApplyInPlace(config) => {
            state.applied = Some(config);
            Vec::new()
        }
        Decision::Begin(plan) => {
            begin_operation(state, *plan, facts);
            Vec::new()
        }
        Decision::RefuseRollback { counter, snapshot, why } => {
            refuse_rollback(state, counter, snapshot, why, facts.now);
            Vec::new()
        }
        Decision::Enter(phase) => enter(state, phase, facts),
        Decision::Agree(consent) => {
            if let Some(target) = state.operation.as_mut().and_then(|operation| operation.rollback.as_mut()) {
                target.consent = Some(consent);
            }
            Vec::new()
        }
        Decision::Abandon => {
            if let Some(operation) = state.operation.take() {
                let error = ErrorReport::new("given up: the application is to go", facts.now);
                settle_local(state, &operation, Some(&error));
            }
            Vec::new()
        }
        Decision::ForgetSnapshot(id) => {
            forget_snapshot(state, id);
            Vec::new()
        }
        Decision::DeletionFailed(id, failure) => {
            if let Some(entry) = state.snapshots.get_mut(&id)
                && let SnapshotState::Deleting { error, .. } = &mut entry.state
            {
                *error = Some(failure);
            }
            Vec::new()
        }
        Decision::KeepSnapshot(id, created) => keep_snapshot(state, id, created),
        Decision::Fail(error) => {
            fail(state, error, facts);
            Vec::new()
        }
        Decision::Complete => {
            complete(state, facts.now);
            Vec::new()
        }
    }
}

fn begin_operation(state: &mut AppInstanceState, plan: NewOperation, facts: &Facts<'_>) {
    let phase = plan.first_phase();
    state.last_operation = state.last_operation.next();
    if plan.kind == OperationKind::Install {
        state.installed_at.get_or_insert(facts.now);
    }
    if let Some(target) = &plan.rollback {
        // [003] A4: used up in the same atomic write that begins the rollback.
        state.rollback_counter = target.counter;
    }
    if let Some(local) = &plan.local {
        if local.action == LocalAction::CreateSnapshot {
            plan.snapshots.iter().for_each(|desc| list::add_local(state, *desc));
        }
        state.last_local = Some(LocalOutcome {
            action: local.action.clone(),
            digest: local.digest.clone(),
            snapshot: local.action.target().or(plan.snapshots.first().map(|desc| desc.id)).unwrap_or_else(
                // Never: an action without a target makes a snapshot.
                || local_snapshot_id(state.app, state.installed_at, state.last_operation),
            ),
            operation: Some(state.last_operation),
            is_running: true,
            error: None,
        });
    }
    state.operation = Some(Operation {
        number: state.last_operation,
        kind: plan.kind,
        phase,
        started_at: facts.now,
        version_before: state.applied.as_ref().map(|config| config.version().to_owned()),
        version_after: plan.next.as_ref().map(|config| config.version().to_owned()),
        next: plan.next,
        snapshots: plan.snapshots,
        guard: plan.rollback.as_ref().map(|_| guard_record(state, facts)),
        rollback: plan.rollback,
        volumes: plan.volumes,
        guest_stopped_at: None,
        local: plan.local,
        revert: plan.revert,
    });
}

/// [000] L8: an order on the node to delete a snapshot is taken in; its data goes when the guest is down next ([003] D1).
pub fn give_up_locally(
    state: &mut AppInstanceState,
    snapshot: SnapshotId,
    origin: LocalOrigin,
    facts: &Facts<'_>,
) {
    let is_listed = facts.received.is_some_and(|config| config.snapshot.names(snapshot));
    list::give_up(state, snapshot, is_listed, facts.now);
    state.last_local = Some(LocalOutcome {
        action: origin.action,
        digest: origin.digest,
        snapshot,
        operation: None,
        is_running: false,
        error: None,
    });
}

/// What has come of the local order that this operation carried out.
fn settle_local(state: &mut AppInstanceState, operation: &Operation, error: Option<&ErrorReport>) {
    if operation.local.is_some()
        && let Some(outcome) = &mut state.last_local
        && outcome.operation == Some(operation.number)
    {
        outcome.is_running = false;
        outcome.error = error.cloned();
    }
}

/// [000] L8: what the next plan of this kind tells.
fn measure_downtime(state: &mut AppInstanceState, operation: &Operation, now: Timestamp) {
    let is_planned = matches!(operation.kind, OperationKind::Rollback | OperationKind::Snapshot);
    let Some(stopped_at) = operation.guest_stopped_at.filter(|_| is_planned) else { return };
    // A clock that was put back measures nothing.
    if let Ok(milliseconds) = u64::try_from((now - stopped_at).num_milliseconds()) {
        state.downtimes.insert(operation.kind, milliseconds);
    }
}

/// [000] L9.
fn guard_record(state: &AppInstanceState, facts: &Facts<'_>) -> GuardRecord {
    GuardRecord { effective: facts.guard.clone().unwrap_or_default(), controlled_by: state.controlled_by }
}

fn refuse_rollback(
    state: &mut AppInstanceState,
    counter: u32,
    snapshot: Option<SnapshotId>,
    why: String,
    now: Timestamp,
) {
    state.rollback_counter = counter;
    let error = ErrorReport::new(why, now).retry("a higher rollback counter");
    let entry = snapshot.and_then(|id| state.snapshots.get_mut(&id));
    if let Some(SnapshotState::Available(instance) | SnapshotState::Failed(instance)) =
        entry.map(|entry| &mut entry.state)
    {
        instance.error = Some(error.clone());
    }
    state.last_failure =
        Some(FailedOperation { number: state.last_operation, kind: OperationKind::Rollback, error });
}

fn enter(state: &mut AppInstanceState, phase: Phase, facts: &Facts<'_>) -> Vec<Write> {
    let Some(operation) = &mut state.operation else { return Vec::new() };
    operation.phase = phase;
    match phase {
        Phase::StoppingGuest => {
            operation.guest_stopped_at = (facts.guest == Guest::Up).then_some(facts.now);
            saved_configs(state, facts)
        }
        Phase::DeletingSnapshots => {
            ask_for_deletions(state);
            Vec::new()
        }
        Phase::CuttingSnapshots => {
            let number = operation.number;
            let cut = operation.snapshots.clone();
            for desc in cut {
                if let Some(entry) = state.snapshots.get_mut(&desc.id)
                    && !was_cut(&entry.state)
                {
                    entry.state = SnapshotState::Cutting { operation: number };
                }
            }
            // Again: a crash while the operation was being undone may have removed them already.
            saved_configs(state, facts)
        }
        Phase::PreparingVolumes | Phase::CheckingStorage | Phase::RevertingVolumes => Vec::new(),
    }
}

/// There is one, whole or shown as damaged ([003] H3): nothing that an operation still does may take its place (I3).
fn was_cut(state: &SnapshotState) -> bool {
    match state {
        SnapshotState::Available(_) => true,
        SnapshotState::Failed(instance) => instance.time_created.is_some(),
        _ => false,
    }
}

/// [003] B1: the configuration last applied is set aside, durably, before anything is stopped.
fn saved_configs(state: &AppInstanceState, facts: &Facts<'_>) -> Vec<Write> {
    let (Some(operation), Some(applied)) = (&state.operation, &state.applied) else { return Vec::new() };
    let missing = operation.snapshots.iter().filter(|desc| facts.saved.get(&desc.id) != Some(applied));
    missing.map(|desc| Write::SaveConfig(desc.id, Arc::clone(applied))).collect()
}

fn ask_for_deletions(state: &mut AppInstanceState) {
    for entry in state.snapshots.values_mut() {
        if let SnapshotState::Deleting { asked, .. } = &mut entry.state {
            *asked = true;
        }
    }
}

fn forget_snapshot(state: &mut AppInstanceState, id: SnapshotId) {
    let Some(entry) = state.snapshots.get_mut(&id) else { return };
    if entry.trimmed {
        // [003] E2: it stays gone until the controller drops its id.
        entry.state = SnapshotState::Trimmed;
    } else {
        state.snapshots.remove(&id);
    }
}

fn keep_snapshot(state: &mut AppInstanceState, id: SnapshotId, created: Option<Timestamp>) -> Vec<Write> {
    let Some(instance) = instance_of(state, id, created) else { return Vec::new() };
    if let Some(entry) = state.snapshots.get_mut(&id) {
        entry.state = SnapshotState::Available(instance.clone());
    }
    vec![Write::SaveInstance(Box::new(instance))]
}

/// The descriptor of a snapshot of what is applied, cut by the running operation.
fn instance_of(
    state: &AppInstanceState,
    id: SnapshotId,
    created: Option<Timestamp>,
) -> Option<SnapshotInstanceStatus> {
    let operation = state.operation.as_ref()?;
    let entry = state.snapshots.get(&id)?;
    let config_version = match &state.applied {
        Some(applied) => applied.id_and_version.clone(),
        None => UuidAndVersion { id: state.app, version: String::new() },
    };
    Some(SnapshotInstanceStatus {
        snapshot: entry.desc,
        reported: false,
        time_triggered: Some(operation.started_at),
        time_created: created,
        app: state.app,
        config_version,
        error: None,
        operation: operation.number,
        local: entry.local,
    })
}

/// The operation is over without effect: volumes are as they were, and the old version starts again.
fn fail(state: &mut AppInstanceState, error: ErrorReport, facts: &Facts<'_>) {
    let error = if error.retry_condition.is_empty() { error.retry("another configuration") } else { error };
    let cut: Vec<SnapshotId> =
        state.operation.iter().flat_map(|operation| &operation.snapshots).map(|desc| desc.id).collect();
    for id in cut {
        let Some(mut instance) = instance_of(state, id, None) else { continue };
        instance.error = Some(error.clone());
        let entry = state.snapshots.get_mut(&id).expect("it has an instance");
        if !was_cut(&entry.state) {
            entry.state = SnapshotState::Failed(instance);
        }
    }
    let Some(operation) = state.operation.take() else { return };
    settle_local(state, &operation, Some(&error));
    forget_uncut(state, &operation);
    if let Some(target) = &operation.rollback
        && let Some(entry) = state.snapshots.get_mut(&target.snapshot)
        && let SnapshotState::Available(instance) = &mut entry.state
    {
        instance.error = Some(error.clone());
    }
    if operation.kind == OperationKind::Update
        && let Some(received) = facts.received
    {
        // What has come in since is not what failed: it is obeyed at once ([003] C6), its snapshots asked for with it.
        let failed = operation.next.clone();
        let in_force =
            change::in_effect(received, state.applied.as_deref(), state.superseded_version.as_deref());
        let about = failed.filter(|failed| *failed != in_force).unwrap_or_else(|| received.clone());
        state.waiting = Some(WaitingUpdate { received: about, error: error.clone() });
    }
    state.last_failure = Some(FailedOperation { number: operation.number, kind: operation.kind, error });
}

fn complete(state: &mut AppInstanceState, now: Timestamp) {
    let Some(operation) = state.operation.take() else { return };
    settle_local(state, &operation, None);
    measure_downtime(state, &operation, now);
    if let Some(next) = operation.next {
        state.applied = Some(next);
    }
    match (&operation.rollback, operation.kind) {
        (Some(target), kind) => {
            // One volume alone is no other version: the controller's goes on ([004] M).
            if kind == OperationKind::Rollback {
                state.superseded_version = Some(target.received_version.clone());
                state.waiting = None;
            }
            state.last_rollback = Some(DoneRollback {
                number: operation.number,
                snapshot: target.snapshot,
                guard: operation.guard.clone().unwrap_or_default(),
                consent: target.consent.clone().unwrap_or_default(),
            });
            clear_error(state, target.snapshot);
        }
        // A superseded version stays so: this may have been a restart ordered by it ([003] C5).
        (None, OperationKind::Update) => state.waiting = None,
        (None, _) => {}
    }
    // [003] A6: an error is cleared by the next success of the same operation.
    if state.last_failure.as_ref().is_some_and(|failure| failure.kind == operation.kind) {
        state.last_failure = None;
    }
}

/// A snapshot that was ordered on the node and could not be cut: who ordered it is told, and nothing waits for another try.
fn forget_uncut(state: &mut AppInstanceState, operation: &Operation) {
    for desc in &operation.snapshots {
        let entry = state.snapshots.get(&desc.id);
        if entry.is_some_and(|entry| entry.local && !was_cut(&entry.state)) {
            state.snapshots.remove(&desc.id);
        }
    }
}

fn clear_error(state: &mut AppInstanceState, id: SnapshotId) {
    if let Some(entry) = state.snapshots.get_mut(&id)
        && let SnapshotState::Available(instance) = &mut entry.state
    {
        instance.error = None;
    }
}
