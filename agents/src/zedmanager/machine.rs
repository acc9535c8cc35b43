//! The life of one application: a plain function from what is known to what is to be done next.
//!
//! ```text
//!            config                       restart, purge, rollback, snapshot, deletion
//!  (absent) ───────▶ Install ──▶ settled ─────────────────────────────────────────────▶ operation
//!                                   ▲                                                       │
//!                                   └──────── Complete, Fail (undone), Abandon ◀────────────┘
//!                                   │ config gone
//!                                   ▼
//!                               DeleteApp ──▶ (absent)
//! ```
//!
//! An operation walks the phases of [`Phase`] in order and leaves out those with nothing to do. [`decide`] looks at
//! the row and at the [`Facts`] and names one [`Decision`]; `carry_out.rs` changes the row accordingly and says what
//! must be written besides. Both are called again until the decision is to wait, so that after a restart the same
//! two functions simply go on from the row. Neither reads a clock, a disk or the bus.

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_types::{
    AppInstanceConfig, AppInstanceState, Consent, EffectiveGuard, ErrorReport, FORCE_ROLLBACK,
    Guard as HaGuard, HaState, LocalOrigin, OperationKind, Phase, RollbackTarget, SnapshotAction,
    SnapshotDesc, SnapshotId, SnapshotInstanceStatus, SnapshotPreflightStatus, SnapshotState, Timestamp,
    VolumeKey, VolumeRevert, VolumesSnapshotStatus,
};

use super::change::{self, Change};
use super::list;
use super::phases::advance;

/// What domainmgr says of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guest {
    /// domainmgr has not told yet what runs.
    Unknown,
    /// A process may be touching the disks.
    Up,
    /// No process, but a start may be on its way.
    Down,
    /// No process, and none will be started: domainmgr has answered the order to stop ([003] B2).
    ConfirmedDown,
}

/// How far a volume is that the application refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    Pending,
    Ready,
    Broken(ErrorReport),
}

/// Whether new operations may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    All,
    /// No space: only what frees some.
    OnlyDeletions,
    /// Read-only: nothing.
    Nothing,
}

/// Everything outside the row that a decision depends on.
#[derive(Debug)]
pub struct Facts<'a> {
    pub now: Timestamp,
    pub received: Option<&'a Arc<AppInstanceConfig>>,
    /// The controller no longer lists the application, and its list is known to be complete.
    pub removed: bool,
    /// volumemgr has told every snapshot it has.
    pub storage_known: bool,
    pub guest: Guest,
    pub volumes: &'a BTreeMap<VolumeKey, Readiness>,
    pub storage: &'a BTreeMap<SnapshotId, Arc<VolumesSnapshotStatus>>,
    pub preflight: &'a BTreeMap<SnapshotId, Arc<SnapshotPreflightStatus>>,
    /// The configurations set aside for snapshots, as far as their files can be read.
    pub saved: &'a BTreeMap<SnapshotId, Arc<AppInstanceConfig>>,
    pub admission: Admission,
    /// What guards the application, local settings included. None: its configuration has not come yet.
    pub guard: Option<EffectiveGuard>,
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    Wait(WaitingFor),
    /// Nothing that needs the guest down differs.
    ApplyInPlace(Arc<AppInstanceConfig>),
    Begin(Box<NewOperation>),
    /// The counter is used up and nothing was touched.
    RefuseRollback {
        counter: u32,
        snapshot: Option<SnapshotId>,
        why: String,
    },
    Enter(Phase),
    /// Nothing firm stands in the rollback's way; this may be destroyed for it, and nothing else ([000] L7).
    Agree(Consent),
    /// Something else is wanted, and the guest was not stopped yet.
    Abandon,
    /// A snapshot's deletion is confirmed by storage.
    ForgetSnapshot(SnapshotId),
    DeletionFailed(SnapshotId, ErrorReport),
    /// A snapshot is cut on all volumes and recorded by volumemgr.
    KeepSnapshot(SnapshotId, Option<Timestamp>),
    Fail(ErrorReport),
    Complete,
    ForgetApp,
}

/// What the application waits for; the words are shown to people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitingFor {
    Nothing,
    Storage,
    Volumes,
    Preflight,
    GuestDown,
    Deletions,
    Cuts,
    Reverts,
    /// An update failed and waits for another configuration ([003] B5).
    Controller,
    /// What guards the application is not known before its configuration has come ([000] L1).
    Guard,
    /// The disk is full, or the node is read-only.
    Admission,
}

/// An operation that is to begin.
#[derive(Debug, Clone, PartialEq)]
pub struct NewOperation {
    pub kind: OperationKind,
    pub next: Option<Arc<AppInstanceConfig>>,
    pub snapshots: Vec<SnapshotDesc>,
    pub rollback: Option<RollbackTarget>,
    pub volumes: Vec<VolumeKey>,
    /// The order on the node itself that asks for it ([000] L8).
    pub local: Option<LocalOrigin>,
    /// The only volume that its rollback reverts ([004] M).
    pub revert: Option<VolumeRevert>,
}

/// What is to be written before the row.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// `appInstanceConfig.json` of a snapshot ([003] B1).
    SaveConfig(SnapshotId, Arc<AppInstanceConfig>),
    /// `snapshotInstanceStatus.json` of a snapshot.
    SaveInstance(Box<SnapshotInstanceStatus>),
}

/// Takes in what was received: what it says about snapshots, and whether it lifts a wait.
pub fn absorb(state: &mut AppInstanceState, facts: &Facts<'_>) {
    if facts.storage_known {
        take_in_storage_damage(state, facts);
    }
    if facts.removed {
        list::drop_all(state, facts.now);
        return;
    }
    let Some(received) = facts.received else { return };
    remember_control(state, facts);
    if state.waiting.as_ref().is_some_and(|waiting| waiting.received != *received) {
        state.waiting = None;
        ask_again_for_failed_cuts(state);
    }
    if state.operation.is_none()
        && state.superseded_version.as_deref().is_some_and(|version| version != received.version())
    {
        state.superseded_version = None;
    }
    list::reconcile(state, &received.snapshot, facts.now);
}

/// [000] L9: manual control is for the time of a rollback; who had the application before is kept, to be restored.
fn remember_control(state: &mut AppInstanceState, facts: &Facts<'_>) {
    match facts.guard.as_ref().map(|guard| &guard.ha_state) {
        Some(HaGuard::Managed(HaState::Ignored) | HaGuard::Unreadable(_)) | None => {}
        Some(HaGuard::Managed(controls)) => state.controlled_by = Some(*controls),
        Some(HaGuard::NotManaged) => state.controlled_by = None,
    }
}

/// [003] H3: a snapshot that volumemgr cannot vouch for is a failed one, with the reason.
fn take_in_storage_damage(state: &mut AppInstanceState, facts: &Facts<'_>) {
    for (id, entry) in &mut state.snapshots {
        let SnapshotState::Available(instance) = &entry.state else { continue };
        let problem = match facts.storage.get(id) {
            None => Some(ErrorReport::new(format!("storage has no record of snapshot {id}"), facts.now)),
            // A rollback or a deletion may fail and the snapshot be whole; an answer to its making may not.
            Some(status) => match status.result_of {
                SnapshotAction::Unspecified | SnapshotAction::Create => status.error.clone(),
                SnapshotAction::Rollback | SnapshotAction::Delete => None,
            },
        };
        if let Some(error) = problem {
            entry.state = SnapshotState::Failed(SnapshotInstanceStatus {
                // It was cut: only one that never was has no time.
                time_created: instance.time_created.or(Some(facts.now)),
                error: Some(error.retry("deleting it and asking for a new one")),
                ..instance.clone()
            });
        }
    }
}

/// A snapshot that could not be cut with an update is asked for again with the next one.
fn ask_again_for_failed_cuts(state: &mut AppInstanceState) {
    for entry in state.snapshots.values_mut() {
        if matches!(&entry.state, SnapshotState::Failed(instance) if instance.time_created.is_none()) {
            entry.state = SnapshotState::Requested;
        }
    }
}

/// What to do next. Total: every combination of row and facts has an answer.
pub fn decide(state: &AppInstanceState, facts: &Facts<'_>) -> Decision {
    if let Some(decision) = confirmed_deletion(state, facts) {
        return decision;
    }
    match &state.operation {
        Some(operation) => advance(state, operation, facts),
        None => choose(state, facts),
    }
}

/// Storage's answers to deletions, in whatever state the application is.
fn confirmed_deletion(state: &AppInstanceState, facts: &Facts<'_>) -> Option<Decision> {
    if !facts.storage_known {
        return None;
    }
    state.snapshots.iter().find_map(|(id, entry)| match &entry.state {
        SnapshotState::Deleting { asked: true, error, .. } => match facts.storage.get(id) {
            None => Some(Decision::ForgetSnapshot(*id)),
            Some(status) if status.result_of == SnapshotAction::Delete && status.error != *error => {
                status.error.clone().map(|error| Decision::DeletionFailed(*id, error))
            }
            Some(_) => None,
        },
        _ => None,
    })
}

/// With no operation running: is there a reason to begin one?
fn choose(state: &AppInstanceState, facts: &Facts<'_>) -> Decision {
    match choose_change(state, facts) {
        // What waits holds up nothing that is due: with a full disk, deleting is the way out.
        Decision::Wait(why) => begin_due_deletions(state, facts).unwrap_or(Decision::Wait(why)),
        decision => decision,
    }
}

fn choose_change(state: &AppInstanceState, facts: &Facts<'_>) -> Decision {
    if facts.removed {
        return begin(NewOperation::new(OperationKind::DeleteApp), facts);
    }
    let Some(received) = facts.received else { return Decision::Wait(WaitingFor::Nothing) };
    let Some(applied) = &state.applied else {
        return begin(
            NewOperation { next: Some(received.clone()), ..NewOperation::new(OperationKind::Install) },
            facts,
        );
    };
    if !facts.storage_known {
        return Decision::Wait(WaitingFor::Storage);
    }
    if received.snapshot.rollback.counter > state.rollback_counter {
        return choose_rollback(state, received, facts);
    }
    let wanted = change::in_effect(received, Some(applied), state.superseded_version.as_deref());
    if applied.activate && !wanted.activate {
        // By itself, before all else: an application can be stopped whatever its update waits for.
        return Decision::ApplyInPlace(Arc::new(AppInstanceConfig {
            activate: false,
            ..(**applied).clone()
        }));
    }
    match change::classify(applied, &wanted) {
        Change::None => {}
        Change::InPlace => return Decision::ApplyInPlace(wanted),
        Change::Restart | Change::Purge if state.waiting.is_some() => {
            // What waits holds up nothing else: the old version runs, and what is to be cut now is cut of it.
            return old_version_runs(applied, &wanted)
                .or_else(|| cut_now(state, applied, facts))
                .unwrap_or(Decision::Wait(WaitingFor::Controller));
        }
        Change::Restart | Change::Purge => {
            if let Some(deletions) = begin_due_deletions(state, facts) {
                // Not held up by volumes that the update may wait for.
                return deletions;
            }
            let plan = NewOperation {
                next: Some(wanted),
                snapshots: list::waiting_for_update(state),
                volumes: applied.volume_keys(),
                ..NewOperation::new(OperationKind::Update)
            };
            return begin(plan, facts);
        }
    }
    cut_now(state, applied, facts).unwrap_or(Decision::Wait(WaitingFor::Nothing))
}

/// The snapshots that wait for nothing, if there are any ([003] A2).
fn cut_now(state: &AppInstanceState, applied: &AppInstanceConfig, facts: &Facts<'_>) -> Option<Decision> {
    let now = list::waiting_for_now(state);
    if now.is_empty() {
        return None;
    }
    let plan = NewOperation {
        snapshots: now,
        volumes: applied.volume_keys(),
        ..NewOperation::new(OperationKind::Snapshot)
    };
    Some(begin(plan, facts))
}

/// [003] B5: while an update cannot be done the old version runs, if the application is to run at all.
pub(super) fn old_version_runs(applied: &AppInstanceConfig, wanted: &AppInstanceConfig) -> Option<Decision> {
    (wanted.activate && !applied.activate)
        .then(|| Decision::ApplyInPlace(Arc::new(AppInstanceConfig { activate: true, ..applied.clone() })))
}

/// [003] D1: deletions wait until the guest is down for another reason; one that is not running is no hindrance.
pub(super) fn begin_due_deletions(state: &AppInstanceState, facts: &Facts<'_>) -> Option<Decision> {
    let down = matches!(facts.guest, Guest::Down | Guest::ConfirmedDown);
    (facts.storage_known && down && list::deletions_due(state))
        .then(|| begin(NewOperation::new(OperationKind::DeleteSnapshots), facts))
}

/// On a node that may change nothing: whether something stands still for that reason.
pub fn waits_for_admission(state: &AppInstanceState, decision: Decision) -> WaitingFor {
    match decision {
        Decision::Wait(why) if state.operation.is_none() => why,
        _ => WaitingFor::Admission,
    }
}

fn begin(plan: NewOperation, facts: &Facts<'_>) -> Decision {
    let deletes = matches!(plan.kind, OperationKind::DeleteApp | OperationKind::DeleteSnapshots);
    match facts.admission {
        Admission::All => Decision::Begin(Box::new(plan)),
        Admission::OnlyDeletions if deletes => Decision::Begin(Box::new(plan)),
        Admission::OnlyDeletions | Admission::Nothing => Decision::Wait(WaitingFor::Admission),
    }
}

/// [003] A4, A8, C1: what can be checked without storage is checked before anything else is done.
fn choose_rollback(state: &AppInstanceState, received: &AppInstanceConfig, facts: &Facts<'_>) -> Decision {
    let counter = received.snapshot.rollback.counter;
    let refuse = |snapshot, why| Decision::RefuseRollback { counter, snapshot, why };
    // [000] L1: before anything else is looked at.
    match guarded(state, facts) {
        Guarded::No => {}
        Guarded::Yes(why) => return refuse(received.snapshot.active, why),
        Guarded::Unknown => return Decision::Wait(WaitingFor::Guard),
    }
    let Some(id) = received.snapshot.active else {
        return refuse(None, "a rollback was ordered without naming a snapshot".to_owned());
    };
    match rollback_to(state, id, counter, received, facts) {
        Ok(operation) => begin(operation, facts),
        Err(why) => refuse(state.snapshots.contains_key(&id).then_some(id), why),
    }
}

/// A rollback to that snapshot, or why there can be none.
pub(super) fn rollback_to(
    state: &AppInstanceState,
    id: SnapshotId,
    counter: u32,
    received: &AppInstanceConfig,
    facts: &Facts<'_>,
) -> Result<NewOperation, String> {
    let cannot = |why: &str| Err(format!("cannot roll back to snapshot {id}: {why}"));
    let Some(entry) = state.snapshots.get(&id) else { return cannot("it is unknown here") };
    match &entry.state {
        SnapshotState::Available(_) => {}
        SnapshotState::Requested | SnapshotState::Cutting { .. } => return cannot("it was not taken yet"),
        SnapshotState::Failed(_) => return cannot("it is not whole"),
        SnapshotState::Deleting { .. } | SnapshotState::Trimmed => {
            return cannot("it was given up or deleted");
        }
    }
    let Some(saved) = facts.saved.get(&id) else { return cannot("its configuration cannot be read") };
    Ok(NewOperation {
        next: Some(Arc::new(change::fix_up(saved, received))),
        rollback: Some(RollbackTarget {
            snapshot: id,
            counter,
            received_version: received.version().to_owned(),
            consent: None,
        }),
        volumes: saved.volume_keys(),
        ..NewOperation::new(OperationKind::Rollback)
    })
}

/// Whether the guard forbids a rollback now.
pub(super) enum Guarded {
    No,
    Yes(String),
    Unknown,
}

/// [000] L1, L6: the state, and the tag where something was agreed to for its sake.
pub(super) fn guarded(state: &AppInstanceState, facts: &Facts<'_>) -> Guarded {
    match &facts.guard {
        None => Guarded::Unknown,
        Some(guard) => {
            let refusal = guard.refusal(state.app).or_else(|| withdrawn_consent(state, guard));
            refusal.map_or(Guarded::No, Guarded::Yes)
        }
    }
}

fn withdrawn_consent(state: &AppInstanceState, guard: &EffectiveGuard) -> Option<String> {
    let consent = state.operation.as_ref()?.rollback.as_ref()?.consent.as_ref()?;
    (!consent.is_empty() && !guard.has_tag(FORCE_ROLLBACK)).then(|| {
        format!(
            "Rollback blocked: the tag {FORCE_ROLLBACK} was taken away from app:{} before any snapshot was destroyed; \
             nothing was changed",
            state.app
        )
    })
}

impl NewOperation {
    pub(super) fn new(kind: OperationKind) -> Self {
        NewOperation {
            kind,
            next: None,
            snapshots: Vec::new(),
            rollback: None,
            volumes: Vec::new(),
            local: None,
            revert: None,
        }
    }

    pub(super) fn first_phase(&self) -> Phase {
        match self.kind {
            OperationKind::Install | OperationKind::Update | OperationKind::Rollback => {
                Phase::PreparingVolumes
            }
            OperationKind::Snapshot | OperationKind::RevertVolume => Phase::CheckingStorage,
            OperationKind::DeleteSnapshots | OperationKind::DeleteApp => Phase::StoppingGuest,
        }
    }
}
