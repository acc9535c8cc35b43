//! The controller's snapshot list against what is known: requests, cancellations, deletions, the maximum.
//!
//! ```text
//!            named            cut                  dropped, or over the maximum          storage confirms
//!  (absent) ───────▶ Requested ───▶ Available ───────────────────────────▶ Deleting ───────────▶ (absent) or Trimmed
//!                      │   │ failed                                                              by the maximum
//!              dropped │   └──────▶ Failed ── dropped ──▶ (absent)
//!                      ▼
//!                   (absent)      Requested ── over the maximum ──▶ Trimmed ── dropped ──▶ (absent)
//! ```
//!
//! A snapshot that was ordered on the node ([000] L8) stays although it is not listed, counts in the maximum, and is the
//! controller's like any other from the moment it is listed.
//!
//! Pure: [`reconcile`] edits the row it is given and says nothing to anybody. Running it twice changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_types::{
    AppInstanceState, Operation, Phase, SnapshotConfig, SnapshotDesc, SnapshotEntry, SnapshotId,
    SnapshotInstanceStatus, SnapshotState, SnapshotType, Timestamp, VolumesSnapshotStatus,
};

/// Brings the row's snapshots in line with what the controller lists ([003] A1, A7, D1, E1–E4).
pub fn reconcile(state: &mut AppInstanceState, wanted: &SnapshotConfig, now: Timestamp) {
    drop_unlisted(state, wanted, now);
    take_over(state, wanted);
    add_requests(state, wanted);
    enforce_maximum(state, wanted.max_snapshots, now);
}

/// Everything is to go, because the application goes ([003] D4).
pub fn drop_all(state: &mut AppInstanceState, now: Timestamp) {
    let all: Vec<SnapshotId> = state.snapshots.keys().copied().collect();
    all.into_iter().for_each(|id| drop_one(state, id, now));
}

/// A snapshot that is ordered on the node itself.
pub fn add_local(state: &mut AppInstanceState, desc: SnapshotDesc) {
    state.last_sequence += 1;
    let entry = SnapshotEntry {
        desc,
        state: SnapshotState::Requested,
        sequence: state.last_sequence,
        trimmed: false,
        local: true,
    };
    state.snapshots.insert(desc.id, entry);
}

/// A deletion that is ordered on the node itself: one that is listed stays gone until the controller drops its id.
pub fn give_up(state: &mut AppInstanceState, id: SnapshotId, is_listed: bool, now: Timestamp) {
    drop_one(state, id, now);
    if let Some(entry) = state.snapshots.get_mut(&id) {
        entry.trimmed = is_listed;
    }
}

/// What the controller lists is the controller's.
fn take_over(state: &mut AppInstanceState, wanted: &SnapshotConfig) {
    for (id, entry) in &mut state.snapshots {
        entry.local &= !wanted.names(*id);
    }
}

fn drop_unlisted(state: &mut AppInstanceState, wanted: &SnapshotConfig, now: Timestamp) {
    let unlisted: Vec<SnapshotId> = state
        .snapshots
        .keys()
        .copied()
        .filter(|id| !wanted.names(*id))
        .filter(|id| !is_kept_locally(&state.snapshots[id]))
        .collect();
    for id in unlisted {
        drop_one(state, id, now);
    }
}

/// Ordered on the node, and not given up since.
fn is_kept_locally(entry: &SnapshotEntry) -> bool {
    entry.local && !matches!(entry.state, SnapshotState::Trimmed)
}

fn drop_one(state: &mut AppInstanceState, id: SnapshotId, now: Timestamp) {
    if is_rollback_target(state.operation.as_ref(), id) || is_being_cut(state.operation.as_ref(), id) {
        // [003] C8: its turn comes when the operation is over.
        return;
    }
    let Some(entry) = state.snapshots.get_mut(&id) else { return };
    match &entry.state {
        SnapshotState::Requested | SnapshotState::Cutting { .. } => {
            // [003] A7: cancelled before it was cut; nothing is left behind.
            cancel_in_operation(state.operation.as_mut(), id);
            state.snapshots.remove(&id);
        }
        SnapshotState::Trimmed => {
            state.snapshots.remove(&id);
        }
        SnapshotState::Available(instance) | SnapshotState::Failed(instance) => {
            entry.state = deleting(instance.clone(), now);
            entry.trimmed = false;
        }
        SnapshotState::Deleting { .. } => entry.trimmed = false,
    }
}

fn add_requests(state: &mut AppInstanceState, wanted: &SnapshotConfig) {
    for desc in &wanted.snapshots {
        // [003] A2: an unspecified type is never taken.
        if desc.kind == SnapshotType::Unspecified || state.snapshots.contains_key(&desc.id) {
            continue;
        }
        state.last_sequence += 1;
        let entry = SnapshotEntry {
            desc: *desc,
            state: SnapshotState::Requested,
            sequence: state.last_sequence,
            trimmed: false,
            local: false,
        };
        state.snapshots.insert(desc.id, entry);
    }
}

/// [003] E1: total = available + requested, new ones included, less those to be deleted. Over the limit go the
/// oldest available, then the latest requests, then those prepared and not yet cut. A maximum of 0 is the wire's
/// "not given" and sets no limit.
fn enforce_maximum(state: &mut AppInstanceState, maximum: u32, now: Timestamp) {
    if maximum == 0 {
        return;
    }
    let maximum = maximum as usize;
    while live_count(state) > maximum {
        if let Some(id) = oldest_available(state) {
            let entry = state.snapshots.get_mut(&id).expect("just found");
            let SnapshotState::Available(instance) = &entry.state else {
                unreachable!("just found as available")
            };
            entry.state = deleting(instance.clone(), now);
            entry.trimmed = true;
        } else if let Some(id) = latest_request(state, false).or_else(|| latest_request(state, true)) {
            cancel_in_operation(state.operation.as_mut(), id);
            state.snapshots.get_mut(&id).expect("just found").state = SnapshotState::Trimmed;
        } else {
            // What is left is being cut or rolled back to: its turn comes later (C8).
            return;
        }
    }
}

fn deleting(instance: SnapshotInstanceStatus, since: Timestamp) -> SnapshotState {
    SnapshotState::Deleting { instance, since, asked: false, error: None }
}

fn live_count(state: &AppInstanceState) -> usize {
    let live = |entry: &&SnapshotEntry| {
        matches!(
            entry.state,
            SnapshotState::Requested | SnapshotState::Cutting { .. } | SnapshotState::Available(_)
        )
    };
    state.snapshots.values().filter(live).count()
}

fn oldest_available(state: &AppInstanceState) -> Option<SnapshotId> {
    state
        .snapshots
        .iter()
        .filter_map(|(id, entry)| match &entry.state {
            SnapshotState::Available(instance) => Some(((instance.operation, entry.sequence), *id)),
            _ => None,
        })
        .filter(|(_, id)| !is_rollback_target(state.operation.as_ref(), *id))
        // Cut a moment ago by the running operation, which still counts on it.
        .filter(|(_, id)| !is_being_cut(state.operation.as_ref(), *id))
        .min()
        .map(|(_, id)| id)
}

fn latest_request(state: &AppInstanceState, prepared: bool) -> Option<SnapshotId> {
    state
        .snapshots
        .iter()
        .filter(|(_, entry)| matches!(entry.state, SnapshotState::Requested))
        .filter(|(id, _)| is_in_operation(state.operation.as_ref(), **id) == prepared)
        .filter(|(id, _)| !is_being_cut(state.operation.as_ref(), **id))
        .max_by_key(|(_, entry)| entry.sequence)
        .map(|(id, _)| *id)
}

fn is_rollback_target(operation: Option<&Operation>, id: SnapshotId) -> bool {
    operation.and_then(|operation| operation.rollback.as_ref()).is_some_and(|target| target.snapshot == id)
}

fn is_in_operation(operation: Option<&Operation>, id: SnapshotId) -> bool {
    operation.is_some_and(|operation| operation.snapshots.iter().any(|desc| desc.id == id))
}

fn is_being_cut(operation: Option<&Operation>, id: SnapshotId) -> bool {
    is_in_operation(operation, id)
        && operation.is_some_and(|operation| operation.phase >= Phase::CuttingSnapshots)
}

fn cancel_in_operation(operation: Option<&mut Operation>, id: SnapshotId) {
    if let Some(operation) = operation {
        operation.snapshots.retain(|desc: &SnapshotDesc| desc.id != id);
    }
}

/// Snapshots to be cut at the next update, in the order they were asked for. An update takes the waiting
/// IMMEDIATE ones with it: the guest goes down only once.
pub fn waiting_for_update(state: &AppInstanceState) -> Vec<SnapshotDesc> {
    waiting(state, |_| true)
}

/// Snapshots to be cut now ([003] A2).
pub fn waiting_for_now(state: &AppInstanceState) -> Vec<SnapshotDesc> {
    waiting(state, |kind| kind == SnapshotType::Immediate)
}

fn waiting(state: &AppInstanceState, wanted: fn(SnapshotType) -> bool) -> Vec<SnapshotDesc> {
    let mut entries: Vec<&SnapshotEntry> = state
        .snapshots
        .values()
        .filter(|entry| matches!(entry.state, SnapshotState::Requested) && wanted(entry.desc.kind))
        .collect();
    entries.sort_by_key(|entry| entry.sequence);
    entries.iter().map(|entry| entry.desc).collect()
}

/// Snapshots that are going: they stand in no rollback's way.
pub fn leaving(state: &AppInstanceState) -> Vec<SnapshotId> {
    let is_leaving = |entry: &SnapshotEntry| matches!(entry.state, SnapshotState::Deleting { .. });
    state.snapshots.iter().filter(|(_, entry)| is_leaving(entry)).map(|(id, _)| *id).collect()
}

/// Snapshots due for deletion that storage was not yet asked to delete.
pub fn deletions_due(state: &AppInstanceState) -> bool {
    state.snapshots.values().any(|entry| matches!(entry.state, SnapshotState::Deleting { asked: false, .. }))
}

/// What storage has of this application and the row does not keep: what is being deleted, what is left of a snapshot that could
/// not be cut, and what the row has forgotten. Where storage cannot tell whose it is, the row knows.
pub fn remains<'a>(
    state: &'a AppInstanceState,
    storage: &'a BTreeMap<SnapshotId, Arc<VolumesSnapshotStatus>>,
) -> impl Iterator<Item = &'a VolumesSnapshotStatus> {
    storage.values().map(Arc::as_ref).filter(|status| {
        let entry = state.snapshots.get(&status.snapshot);
        let is_ours = status.app == state.app || (status.app.0.is_nil() && entry.is_some());
        is_ours && !entry.is_some_and(|entry| is_kept(&entry.state))
    })
}

fn is_kept(state: &SnapshotState) -> bool {
    match state {
        SnapshotState::Available(_) | SnapshotState::Cutting { .. } => true,
        SnapshotState::Deleting { asked, .. } => !asked,
        SnapshotState::Failed(instance) => instance.time_created.is_some(),
        SnapshotState::Requested | SnapshotState::Trimmed => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zedmanager::testing::*;
    use holdfast_types::OperationKind;

    fn listed(ids: &[u8], maximum: u32) -> SnapshotConfig {
        SnapshotConfig {
            max_snapshots: maximum,
            snapshots: ids.iter().map(|id| desc(*id, SnapshotType::AppUpdate)).collect(),
            ..SnapshotConfig::default()
        }
    }

    /// The row's snapshots as a word each, in the order of their ids.
    fn words(state: &AppInstanceState) -> String {
        let word = |entry: &SnapshotEntry| match entry.state {
            SnapshotState::Requested => "requested",
            SnapshotState::Cutting { .. } => "cutting",
            SnapshotState::Available(_) => "available",
            SnapshotState::Failed(_) => "failed",
            SnapshotState::Deleting { .. } => "deleting",
            SnapshotState::Trimmed => "trimmed",
        };
        state.snapshots.values().map(word).collect::<Vec<_>>().join(" ")
    }

    /// [003] A1, A7, D1, E1–E4: what is known, what is listed, the maximum, what becomes of it.
    #[test]
    fn the_list_is_declarative_and_the_maximum_holds() {
        let table: &[(&str, &[u8], u32, &str)] = &[
            ("", &[1], 1, "requested"),
            ("", &[1, 2], 0, "requested requested"),
            ("r1", &[], 1, ""),
            ("a1", &[], 1, "deleting"),
            ("f1", &[], 1, "deleting"),
            ("a1 r2", &[1, 2], 2, "available requested"),
            // The oldest available goes first, then the latest request.
            ("a1 r2", &[1, 2], 1, "deleting requested"),
            ("a1 a2 a3", &[1, 2, 3], 1, "deleting deleting available"),
            ("a1 a2 a3", &[1, 2, 3], 2, "deleting available available"),
            ("r1 r2 r3", &[1, 2, 3], 1, "requested trimmed trimmed"),
            // One listed away makes room: nothing is counted twice.
            ("a1 r2", &[2], 1, "deleting requested"),
            ("a1 a2 r3", &[2, 3], 2, "deleting available requested"),
            // Trimmed stays gone until it is dropped.
            ("t1 a2", &[1, 2], 1, "trimmed available"),
            ("t1 a2", &[1, 2], 2, "trimmed available"),
            ("t1 a2", &[2], 1, "available"),
            // Asked for again while still being deleted: a new request once the old one is gone.
            ("d1", &[1], 1, "deleting"),
        ];
        for (known, wanted, maximum, expected) in table {
            let mut state = state_with(known);
            reconcile(&mut state, &listed(wanted, *maximum), time(9));
            assert_eq!(words(&state), *expected, "{known} listed {wanted:?} of {maximum}");
            let once = state.clone();
            reconcile(&mut state, &listed(wanted, *maximum), time(10));
            assert_eq!(state, once, "a second time changes nothing: {known}");
        }
    }

    #[test]
    fn an_unspecified_type_is_never_taken_and_disturbs_no_other() {
        let mut state = state_with("");
        let mut wanted = listed(&[2], 5);
        wanted.snapshots.insert(0, desc(1, SnapshotType::Unspecified));
        reconcile(&mut state, &wanted, time(1));
        assert_eq!(state.snapshots.keys().copied().collect::<Vec<_>>(), vec![snapshot_id(2)]);
    }

    /// Two are cut by one operation, the first is there, and the maximum is one: trimmed now, it would be kept and
    /// trimmed again for ever.
    #[test]
    fn what_the_running_operation_has_just_cut_is_trimmed_only_when_it_is_over() {
        let mut state = state_with("a1 r2");
        let mut cutting = operation(OperationKind::Update, Phase::CuttingSnapshots);
        cutting.snapshots = vec![desc(1, SnapshotType::AppUpdate), desc(2, SnapshotType::AppUpdate)];
        state.snapshots.get_mut(&snapshot_id(2)).expect("known").state =
            SnapshotState::Cutting { operation: cutting.number };
        state.operation = Some(cutting);
        reconcile(&mut state, &listed(&[1, 2], 1), time(1));
        assert_eq!(words(&state), "available cutting");
        state.operation = None;
        reconcile(&mut state, &listed(&[1, 2], 1), time(1));
        assert_eq!(words(&state), "deleting cutting");
    }

    #[test]
    fn a_rollback_target_is_safe_from_the_list_and_from_the_maximum() {
        let mut state = state_with("a1 a2");
        state.operation = Some(rollback_operation(1, Phase::StoppingGuest));
        reconcile(&mut state, &listed(&[2], 1), time(1));
        assert_eq!(words(&state), "available deleting", "C8: the other one goes instead");
        state.operation = None;
        reconcile(&mut state, &listed(&[2], 1), time(2));
        assert_eq!(words(&state), "deleting deleting");
    }

    #[test]
    fn a_snapshot_is_cancelled_out_of_an_operation_until_it_is_being_cut() {
        for (phase, expected) in [(Phase::StoppingGuest, ""), (Phase::CuttingSnapshots, "cutting")] {
            let mut state = state_with("");
            reconcile(&mut state, &listed(&[1], 1), time(1));
            let mut operation = operation(OperationKind::Update, phase);
            operation.snapshots = vec![desc(1, SnapshotType::AppUpdate)];
            if phase == Phase::CuttingSnapshots {
                state.snapshots.get_mut(&snapshot_id(1)).expect("listed").state =
                    SnapshotState::Cutting { operation: operation.number };
            }
            state.operation = Some(operation);
            reconcile(&mut state, &listed(&[], 1), time(2));
            assert_eq!(words(&state), expected);
        }
    }

    /// [003] E1: prepared ones are given up only after all other requests.
    #[test]
    fn prepared_snapshots_are_given_up_last() {
        let mut state = state_with("r1 r2 r3");
        let mut running = operation(OperationKind::Update, Phase::CheckingStorage);
        running.snapshots = vec![desc(3, SnapshotType::AppUpdate)];
        state.operation = Some(running);
        reconcile(&mut state, &listed(&[1, 2, 3], 1), time(1));
        assert_eq!(words(&state), "trimmed trimmed requested");
    }
}
