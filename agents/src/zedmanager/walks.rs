//! Walks through the machine: one snapshot, one rollback, and each way out, step by step.

use holdfast_types::*;

use super::change::Change;
use super::machine::*;
use super::testing::*;
use super::walk::{Walk, answer, listed};

/// [003] A2, B1–B7: an update with a snapshot waiting, in the order the promise needs.
#[test]
fn an_update_cuts_the_waiting_snapshot_before_the_new_version_starts() {
    let mut walk = Walk::installed();
    walk.edit(|config| config.snapshot = listed(&[1]));
    assert_eq!(walk.go(), WaitingFor::Nothing);
    assert_eq!(walk.take_steps(), ["apply in place"], "asked for, and nothing happens before the update");

    walk.edit(|config| {
        config.id_and_version.version = "2".into();
        config.volumes[0].generation = Generation(1);
    });
    assert_eq!(walk.go(), WaitingFor::Preflight);
    assert_eq!(walk.take_steps(), ["begin Update", "CheckingStorage"]);
    walk.pass_preflight(1, None);
    assert_eq!(walk.go(), WaitingFor::GuestDown);
    assert_eq!(walk.saved[&snapshot_id(1)].version(), "1", "B1: set aside before the guest is stopped");
    walk.guest = Guest::Down;
    assert_eq!(walk.go(), WaitingFor::GuestDown, "down is not confirmed down");
    walk.guest = Guest::ConfirmedDown;
    assert_eq!(walk.go(), WaitingFor::Cuts);
    assert_eq!(walk.take_steps(), ["StoppingGuest", "DeletingSnapshots", "CuttingSnapshots"]);
    walk.storage.insert(snapshot_id(1), answer(1, SnapshotAction::Create, OperationNumber(7), None).into());
    assert_eq!(walk.go(), WaitingFor::Cuts, "an answer to another operation is none");
    walk.storage_answers(1, SnapshotAction::Create, None);
    assert_eq!(walk.go(), WaitingFor::Nothing);
    assert_eq!(walk.take_steps(), ["keep", "Complete"]);
    assert_eq!(walk.state.applied.as_ref().map(|config| config.version()), Some("2"));
    assert!(matches!(&walk.state.snapshots[&snapshot_id(1)].state,
        SnapshotState::Available(instance) if instance.config_version.version == "1"));
}

/// [003] H3, I3, found by the World, drawn seed 9510: a start between two cuts of one update could not read the first one's
/// records. It stays a damaged snapshot until storage vouches for it, and is not made again, nor forgotten with the update.
#[test]
fn what_an_update_has_cut_is_not_cut_again_where_its_records_cannot_be_read() {
    let mut walk = Walk::installed();
    walk.guest = Guest::ConfirmedDown;
    walk.edit(|config| {
        config.snapshot = listed(&[1, 2]);
        config.id_and_version.version = "2".into();
        config.volumes[0].generation = Generation(1);
    });
    walk.go();
    walk.pass_preflight(1, None);
    walk.pass_preflight(2, None);
    walk.go();
    walk.storage_answers(1, SnapshotAction::Create, None);
    assert_eq!(walk.go(), WaitingFor::Cuts);
    let entry = |walk: &mut Walk| walk.state.snapshots[&snapshot_id(1)].state.clone();
    let SnapshotState::Available(instance) = entry(&mut walk) else { panic!("cut") };
    let unread = SnapshotInstanceStatus { error: Some(ErrorReport::new("unread", time(1))), ..instance };
    walk.state.snapshots.get_mut(&snapshot_id(1)).unwrap().state = SnapshotState::Failed(unread.clone());
    walk.saved.remove(&snapshot_id(1));
    walk.storage.clear();

    assert_eq!(walk.go(), WaitingFor::Cuts);
    assert_eq!(entry(&mut walk), SnapshotState::Failed(unread.clone()));
    assert_eq!(walk.saved[&snapshot_id(1)].version(), "1", "B1: set aside again");
    let mut vouched = walk.clone();
    walk.storage_answers(1, SnapshotAction::Create, Some("its record is damaged"));
    assert_eq!(walk.go(), WaitingFor::Cuts);
    walk.storage_answers(2, SnapshotAction::Create, None);
    walk.go();
    assert_eq!((entry(&mut walk), walk.state.operation.is_none()), (SnapshotState::Failed(unread), true));

    vouched.storage_answers(1, SnapshotAction::Create, None);
    vouched.storage_answers(2, SnapshotAction::Create, None);
    vouched.go();
    assert!(matches!(entry(&mut vouched), SnapshotState::Available(_)));
    assert_eq!(vouched.state.applied.as_ref().map(|config| config.version()), Some("2"));
}

/// [003] A3: on a restart-only update too.
#[test]
fn a_restart_takes_the_waiting_snapshot() {
    let mut walk = Walk::installed();
    walk.edit(|config| {
        config.snapshot = listed(&[1]);
        config.restart.counter = 1;
    });
    walk.go();
    assert_eq!(walk.take_steps(), ["begin Update", "CheckingStorage"]);
}

/// [003] A2 IMMEDIATE: now, with nothing else changed.
#[test]
fn an_immediate_snapshot_is_cut_now() {
    let mut walk = Walk::installed();
    walk.edit(|config| {
        config.snapshot = listed(&[]);
        config.snapshot.snapshots = vec![desc(1, SnapshotType::Immediate)];
    });
    assert_eq!(walk.go(), WaitingFor::Preflight);
    assert_eq!(walk.take_steps(), ["apply in place", "begin Snapshot"]);
}

/// [003] C1–C5, A4: configuration only after the volumes, the counter once, the newer content held back.
#[test]
fn a_rollback_reverts_first_and_switches_after() {
    let mut walk = Walk::upgraded();
    walk.edit(|config| {
        config.snapshot.active = Some(snapshot_id(1));
        config.snapshot.rollback.counter = 1;
    });
    assert_eq!(walk.go(), WaitingFor::Preflight);
    walk.pass_preflight(1, None);
    walk.go();
    walk.guest = Guest::ConfirmedDown;
    assert_eq!(walk.go(), WaitingFor::Reverts);
    assert_eq!(walk.state.applied.as_ref().map(|config| config.version()), Some("2"), "A6: not before");
    walk.storage_answers(1, SnapshotAction::Rollback, None);
    assert_eq!(walk.go(), WaitingFor::Nothing);
    assert_eq!(
        walk.take_steps(),
        [
            "begin Rollback",
            "CheckingStorage",
            "Agree",
            "StoppingGuest",
            "DeletingSnapshots",
            "RevertingVolumes",
            "Complete"
        ]
    );
    assert_eq!(walk.state.applied.as_ref().map(|config| config.version()), Some("1"));

    walk.guest = Guest::Up;
    assert_eq!(walk.go(), WaitingFor::Nothing, "C5: version 2 does not undo it");
    assert!(walk.take_steps().is_empty());
    walk.edit(|config| config.snapshot.rollback.counter = 2);
    walk.go();
    assert!(walk.take_steps().contains(&"begin Rollback".to_owned()), "A4: the same snapshot again");
}

#[test]
fn a_new_version_after_a_rollback_is_an_update() {
    let mut walk = Walk::upgraded();
    walk.state.applied = Some(config("1").into());
    walk.state.superseded_version = Some("2".to_owned());
    walk.go();
    assert!(!walk.take_steps().iter().any(|step| step.starts_with("begin")));
    walk.edit(|config| config.id_and_version.version = "3".into());
    walk.go();
    assert_eq!(walk.take_steps()[0], "begin Update");
}

/// [003] C5 (!): the counters of the version that was rolled back from are obeyed, its volumes are not.
#[test]
fn a_restart_after_a_rollback_does_not_undo_it() {
    let mut walk = Walk::upgraded();
    walk.state.applied = Some(config("1").into());
    walk.state.superseded_version = Some("2".to_owned());
    walk.go();
    walk.take_steps();
    walk.edit(|config| config.restart.counter += 1);
    walk.go();
    assert_eq!(walk.take_steps(), ["begin Update", "StoppingGuest"]);
    walk.guest = Guest::ConfirmedDown;
    walk.go();
    assert_eq!(walk.take_steps(), ["DeletingSnapshots", "Complete"]);
    walk.guest = Guest::Up;
    assert_eq!(walk.go(), WaitingFor::Nothing);
    assert!(walk.take_steps().is_empty(), "version 2 does not come back");
    assert_eq!(walk.state.applied.as_ref().map(|config| config.version()), Some("1"));
}

/// [003] B5: refused before any downtime; the update waits and says so on the snapshot's id.
#[test]
fn a_refused_snapshot_lets_the_old_version_run_and_the_update_wait() {
    let mut walk = Walk::installed();
    walk.edit(|config| {
        config.snapshot = listed(&[1]);
        config.id_and_version.version = "2".into();
        config.resources.vcpus = 2;
    });
    walk.go();
    walk.pass_preflight(1, Some("volume is raw"));
    assert_eq!(walk.go(), WaitingFor::Controller);
    assert_eq!(walk.take_steps(), ["begin Update", "CheckingStorage", "fail: volume is raw"]);
    assert!(matches!(&walk.state.snapshots[&snapshot_id(1)].state,
        SnapshotState::Failed(instance) if instance.error.is_some()));

    // Without the snapshot the update may go on.
    walk.edit(|config| config.snapshot.snapshots.clear());
    walk.go();
    assert_eq!(walk.take_steps(), ["begin Update", "StoppingGuest"]);
}

/// [003] B5, I8: one of two snapshots could not be cut, and the guest was started while storage was cutting the other one, whose
/// remains it then kept locked. The World's seed 10758.
#[test]
fn an_update_fails_only_when_storage_is_done_with_all_its_snapshots() {
    let mut walk = Walk::installed();
    walk.edit(|config| {
        config.snapshot = listed(&[1, 2]);
        config.id_and_version.version = "2".into();
        config.resources.vcpus = 2;
    });
    walk.guest = Guest::ConfirmedDown;
    walk.go();
    walk.pass_preflight(1, None);
    walk.pass_preflight(2, None);
    assert_eq!(walk.go(), WaitingFor::Cuts);
    walk.take_steps();
    walk.storage_answers(2, SnapshotAction::Create, Some("no space left"));
    assert_eq!(walk.go(), WaitingFor::Cuts, "storage is at the first one");
    walk.storage_answers(1, SnapshotAction::Create, None);
    assert_eq!(walk.go(), WaitingFor::Controller);
    assert_eq!(walk.take_steps(), ["keep", "fail: no space left"]);
    assert!(matches!(walk.state.snapshots[&snapshot_id(1)].state, SnapshotState::Available(_)));
    assert!(matches!(walk.state.snapshots[&snapshot_id(2)].state, SnapshotState::Failed(_)));
}

/// [003] A2, B5: a snapshot for now that came in while an update failed is cut of the old version, which runs; the
/// update goes on waiting. The World's seeds 10167 and 11574.
#[test]
fn an_update_that_waits_does_not_hold_up_a_snapshot_for_now() {
    let mut walk = Walk::installed();
    walk.edit(|config| {
        config.snapshot = listed(&[1]);
        config.id_and_version.version = "2".into();
        config.resources.vcpus = 2;
    });
    walk.go();
    walk.edit(|config| {
        config.snapshot.snapshots.push(SnapshotDesc { id: snapshot_id(2), kind: SnapshotType::Immediate });
    });
    walk.state.operation.as_mut().expect("it updates").next.clone_from(&walk.received);
    walk.pass_preflight(1, Some("volume is raw"));
    assert_eq!(walk.go(), WaitingFor::Preflight);
    assert_eq!(
        walk.take_steps(),
        ["begin Update", "CheckingStorage", "fail: volume is raw", "begin Snapshot"]
    );
    walk.pass_preflight(2, None);
    assert_eq!(walk.go(), WaitingFor::GuestDown);
    walk.guest = Guest::ConfirmedDown;
    assert_eq!(walk.go(), WaitingFor::Cuts);
    walk.storage_answers(2, SnapshotAction::Create, None);
    assert_eq!(walk.go(), WaitingFor::Controller);
    let version = |n: u8| match &walk.state.snapshots[&snapshot_id(n)].state {
        SnapshotState::Available(instance) => Some(instance.config_version.version.clone()),
        _ => None,
    };
    assert_eq!((version(1), version(2)), (None, Some("1".to_owned())));
    assert!(walk.state.waiting.is_some(), "the update still waits");
}

/// [003] C6: what failed is on the snapshot, and a higher counter is obeyed at once.
#[test]
fn a_failed_rollback_leaves_the_version_in_force_and_can_be_ordered_again() {
    let mut walk = Walk::upgraded();
    walk.edit(|config| {
        config.snapshot.active = Some(snapshot_id(1));
        config.snapshot.rollback.counter = 1;
    });
    walk.go();
    walk.pass_preflight(1, None);
    walk.go();
    walk.guest = Guest::ConfirmedDown;
    walk.go();
    walk.storage_answers(1, SnapshotAction::Rollback, Some("input/output error"));
    assert_eq!(walk.go(), WaitingFor::Nothing);
    assert_eq!(walk.state.applied.as_ref().map(|config| config.version()), Some("2"));
    assert!(
        matches!(&walk.state.snapshots[&snapshot_id(1)].state,
        SnapshotState::Available(instance) if instance.error.is_some()),
        "C7: it can be used again"
    );
    walk.take_steps();
    walk.edit(|config| config.snapshot.rollback.counter = 2);
    walk.go();
    assert!(walk.take_steps().contains(&"begin Rollback".to_owned()));
}

/// [003] A8: each reason to refuse a rollback, by what is known of the snapshot.
#[test]
fn a_rollback_that_cannot_be_is_refused_once_and_by_name() {
    for (known, reason) in [
        ("", "unknown"),
        ("r1", "not taken yet"),
        ("f1", "not whole"),
        ("t1", "given up"),
        ("a1", "configuration cannot be read"),
    ] {
        let mut walk = Walk::installed();
        walk.state.snapshots = state_with(known).snapshots;
        walk.storage
            .insert(snapshot_id(1), answer(1, SnapshotAction::Create, OperationNumber(1), None).into());
        walk.edit(|config| {
            config.snapshot = listed(if known.is_empty() { &[] } else { &[1] });
            config.snapshot.active = Some(snapshot_id(1));
            config.snapshot.rollback.counter = 1;
        });
        walk.go();
        let steps = walk.take_steps();
        let refusals: Vec<_> = steps.iter().filter(|step| step.starts_with("refuse")).collect();
        assert_eq!(refusals.len(), 1, "{known}: {steps:?}");
        assert!(refusals[0].contains(reason), "{known}: {refusals:?}");
        assert!(walk.state.last_failure.is_some());
        walk.edit(|config| config.snapshot.rollback.counter = 0);
        walk.go();
        assert!(!walk.take_steps().iter().any(|step| step.contains("oll")), "a smaller value never acts");
    }
}

/// [003] H3: what volumemgr cannot vouch for is a failed snapshot, and only that one.
#[test]
fn a_snapshot_that_storage_does_not_vouch_for_is_a_failed_one() {
    let mut walk = Walk::upgraded();
    let damaged = answer(1, SnapshotAction::Unspecified, OperationNumber(0), Some("record truncated"));
    walk.storage.insert(snapshot_id(1), damaged.into());
    walk.go();
    assert!(matches!(&walk.state.snapshots[&snapshot_id(1)].state,
        SnapshotState::Failed(instance) if instance.error.as_ref().is_some_and(|e| e.summary == "record truncated")));
}

/// [003] A7: dropped while the update prepares; nothing is left of it and the update goes on without.
#[test]
fn a_request_dropped_before_the_cut_is_cancelled() {
    let mut walk = Walk::installed();
    walk.edit(|config| {
        config.snapshot = listed(&[1]);
        config.resources.vcpus = 2;
    });
    walk.go();
    walk.pass_preflight(1, None);
    assert_eq!(walk.go(), WaitingFor::GuestDown);
    walk.edit(|config| config.snapshot = listed(&[]));
    walk.guest = Guest::ConfirmedDown;
    walk.take_steps();
    assert_eq!(walk.go(), WaitingFor::Nothing);
    assert_eq!(walk.take_steps(), ["DeletingSnapshots", "Complete", "apply in place"]);
    assert!(walk.state.snapshots.is_empty());
}

/// [003] D1, D2: deleted only while the guest is down, and gone only when storage says so.
#[test]
fn a_deletion_waits_for_the_guest_and_for_storage() {
    let mut walk = Walk::upgraded();
    walk.edit(|config| config.snapshot = listed(&[]));
    assert_eq!(walk.go(), WaitingFor::Nothing, "a running guest is not stopped for it");
    walk.take_steps();
    walk.guest = Guest::Down;
    assert_eq!(walk.go(), WaitingFor::GuestDown, "it must not be started meanwhile");
    walk.guest = Guest::ConfirmedDown;
    assert_eq!(walk.go(), WaitingFor::Deletions);
    walk.storage.clear();
    assert_eq!(walk.go(), WaitingFor::Nothing);
    assert_eq!(walk.take_steps(), ["begin DeleteSnapshots", "DeletingSnapshots", "forget", "Complete"]);
    assert!(walk.state.snapshots.is_empty());
}

/// [003] D2: a deletion that fails does not keep the guest down.
#[test]
fn a_failing_deletion_is_shown_and_does_not_hold_up_the_rest() {
    let mut walk = Walk::upgraded();
    walk.edit(|config| config.snapshot = listed(&[]));
    walk.guest = Guest::ConfirmedDown;
    walk.go();
    walk.storage_answers(1, SnapshotAction::Delete, Some("busy"));
    assert_eq!(walk.go(), WaitingFor::Nothing);
    assert!(walk.state.operation.is_none());
    walk.storage.clear();
    walk.go();
    assert!(walk.state.snapshots.is_empty(), "storage did it later");
}

/// [003] D1, D2: the data goes when the guest is down next. What fails once is tried again in the next downtime, which comes for
/// another reason, and a second failure does not hold that up either. The World's seed 13559.
#[test]
fn what_could_not_be_deleted_is_tried_again_in_the_next_downtime() {
    let mut walk = Walk::upgraded();
    walk.edit(|config| config.snapshot = listed(&[]));
    walk.guest = Guest::ConfirmedDown;
    walk.go();
    walk.storage_answers(1, SnapshotAction::Delete, Some("busy"));
    walk.go();
    for time in 0..2 {
        walk.guest = Guest::Up;
        assert_eq!(walk.go(), WaitingFor::Nothing, "no guest is stopped for it: {time}");
        assert!(walk.state.operation.is_none());
        walk.edit(|config| config.restart.counter += 1);
        walk.take_steps();
        assert_eq!(walk.go(), WaitingFor::GuestDown);
        walk.guest = Guest::ConfirmedDown;
        assert_eq!(
            walk.go(),
            WaitingFor::Deletions,
            "the answer to the last one is none to this one: {time}"
        );
        assert_eq!(walk.take_steps(), ["begin Update", "StoppingGuest", "DeletingSnapshots"]);
        if time == 0 {
            walk.storage_answers(1, SnapshotAction::Delete, Some("busy"));
        } else {
            walk.storage.clear();
        }
        assert_eq!(walk.go(), WaitingFor::Nothing);
        assert_eq!(walk.take_steps().last().map(String::as_str), Some("Complete"));
    }
    assert!(walk.state.snapshots.is_empty());
}

/// [003] B5, I5: what is left of a snapshot that could not be cut, or that the row has forgotten, goes in the next downtime too.
/// The World's seeds 15994 and 16770.
#[test]
fn what_is_left_of_a_forgotten_snapshot_is_deleted_in_the_next_downtime() {
    for words in ["", "r1", "t1", "f1"] {
        let mut walk = Walk::installed();
        walk.state.snapshots = state_with(words).snapshots;
        let ids: &[u8] = if words.is_empty() { &[] } else { &[1] };
        walk.edit(|config| config.snapshot = listed(ids));
        for entry in walk.state.snapshots.values_mut() {
            if let SnapshotState::Failed(instance) = &mut entry.state {
                instance.time_created = None;
            }
        }
        walk.go();
        walk.storage.insert(
            snapshot_id(1),
            answer(1, SnapshotAction::Delete, OperationNumber(1), Some("in use")).into(),
        );
        walk.edit(|config| config.restart.counter += 1);
        walk.go();
        walk.pass_preflight(1, None);
        walk.guest = Guest::ConfirmedDown;
        assert_eq!(walk.go(), WaitingFor::Deletions, "with {words:?}");
        walk.storage.clear();
        assert_ne!(walk.go(), WaitingFor::Deletions, "with {words:?}");
    }
}

/// [003] D4: whatever state it was in; and the app is gone only when its snapshots are.
#[test]
fn a_deleted_application_ends_what_runs_and_takes_everything_with_it() {
    let mut walk = Walk::upgraded();
    walk.edit(|config| config.resources.vcpus = 4);
    walk.go();
    walk.removed = true;
    walk.received = None;
    walk.take_steps();
    assert_eq!(walk.go(), WaitingFor::GuestDown);
    walk.guest = Guest::ConfirmedDown;
    assert_eq!(walk.go(), WaitingFor::Deletions);
    walk.storage_answers(1, SnapshotAction::Delete, Some("busy"));
    assert_eq!(walk.go(), WaitingFor::Deletions, "I14: not final until storage says so");
    walk.storage.clear();
    walk.go();
    assert_eq!(walk.steps.last().map(String::as_str), Some("ForgetApp"));
}

#[test]
fn a_full_disk_admits_only_deletions() {
    let mut walk = Walk::installed();
    walk.edit(|config| config.resources.vcpus = 4);
    walk.admission = Admission::OnlyDeletions;
    assert_eq!(walk.go(), WaitingFor::Admission);
    walk.removed = true;
    assert_eq!(walk.go(), WaitingFor::GuestDown);
    walk.state.operation = None;
    walk.admission = Admission::Nothing;
    assert_eq!(walk.go(), WaitingFor::Admission);
}

/// An update whose volume does not come does not stop the guest, and a corrected configuration replaces it.
#[test]
fn an_update_that_cannot_be_prepared_is_replaced_by_the_next() {
    let mut walk = Walk::installed();
    walk.edit(|config| config.volumes[0].generation = Generation(1));
    let key = walk.received.as_ref().expect("set").volumes[0].key();
    walk.broken.insert(key, ErrorReport::new("sha256 does not match", time(1)));
    assert_eq!(walk.go(), WaitingFor::Volumes);
    walk.edit(|config| config.volumes[0].generation = Generation(0));
    assert_eq!(walk.go(), WaitingFor::Nothing);
    assert_eq!(walk.take_steps(), ["begin Update", "Abandon"]);
    assert_eq!(super::change::classify(&config("1"), walk.received.as_ref().expect("set")), Change::None);
}

/// [003] G6: after a restart in the middle, nothing is touched until the guest is confirmed down again.
#[test]
fn after_a_restart_storage_waits_for_the_guest_again() {
    let mut walk = Walk::upgraded();
    walk.state.operation = Some(rollback_operation(1, Phase::RevertingVolumes));
    for guest in [Guest::Unknown, Guest::Up, Guest::Down] {
        walk.guest = guest;
        assert_eq!(walk.go(), WaitingFor::GuestDown, "{guest:?}");
    }
    walk.guest = Guest::ConfirmedDown;
    assert_eq!(walk.go(), WaitingFor::Reverts);
}

/// [003] B5: an update that waits for a volume neither keeps the application from being stopped nor from running.
#[test]
fn an_application_can_be_stopped_and_started_while_its_update_waits() {
    let mut walk = Walk::installed();
    walk.edit(|config| {
        config.id_and_version.version = "2".to_owned();
        config.volumes[0].generation = Generation(1);
    });
    let key = walk.received.as_ref().expect("configured").volumes[0].key();
    walk.broken.insert(key, ErrorReport::new("no such image", time(1)));
    assert_eq!(walk.go(), WaitingFor::Volumes);
    walk.take_steps();
    let applied = |walk: &Walk| {
        let applied = walk.state.applied.as_ref().expect("installed");
        (applied.version().to_owned(), applied.activate)
    };

    walk.edit(|config| config.activate = false);
    assert_eq!(walk.go(), WaitingFor::Volumes);
    assert_eq!(walk.take_steps(), ["Abandon", "apply in place", "begin Update"]);
    assert_eq!(applied(&walk), ("1".to_owned(), false));

    walk.edit(|config| config.activate = true);
    assert_eq!(walk.go(), WaitingFor::Volumes);
    assert_eq!(applied(&walk), ("1".to_owned(), true), "the old version runs meanwhile");
    walk.take_steps();
    walk.broken.clear();
    assert_eq!(walk.go(), WaitingFor::GuestDown);
    assert_eq!(walk.take_steps(), ["StoppingGuest"]);
}

/// Deleting is how space comes back: it is not held up by an update that has none.
#[test]
fn a_deletion_of_a_stopped_application_is_not_held_up_by_its_update() {
    let mut walk = Walk::upgraded();
    walk.guest = Guest::ConfirmedDown;
    walk.edit(|config| {
        config.activate = false;
        config.id_and_version.version = "3".to_owned();
        config.volumes[0].generation = Generation(2);
    });
    let key = walk.received.as_ref().expect("configured").volumes[0].key();
    walk.broken.insert(key, ErrorReport::new("no space", time(1)));
    assert_eq!(walk.go(), WaitingFor::Volumes);
    walk.take_steps();
    for admission in [Admission::All, Admission::OnlyDeletions] {
        let mut walk = Walk { admission, ..walk.clone() };
        walk.edit(|config| config.snapshot = listed(&[]));
        assert_eq!(walk.go(), WaitingFor::Deletions);
        assert_eq!(walk.take_steps(), ["Abandon", "begin DeleteSnapshots", "DeletingSnapshots"]);
        walk.storage.clear();
        walk.go();
        assert_eq!(walk.take_steps()[..2], ["forget", "Complete"]);
    }
}
