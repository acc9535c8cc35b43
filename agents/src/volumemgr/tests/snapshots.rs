//! Snapshots: cut, applied, deleted; what fails is undone.

use super::*;
use crate::volumemgr::jobs::StepOrder;
use crate::volumemgr::steps::{VolumeStep, may_be_undone};
use SnapshotAction::{Create, Delete, Rollback};

const BOTH: [u8; 2] = [1, 2];

fn both() -> Vec<VolumeKey> {
    BOTH.map(|n| key(n, 0)).to_vec()
}

/// Two volumes, cut as operation 1 and written to afterwards.
fn snapshotted() -> Node {
    snapshotted_with(true)
}

/// The same, where a safety snapshot is a copy of tables, or one inside the image.
fn snapshotted_with(tables: bool) -> Node {
    let mut node = Node::with_volumes(2);
    if !tables {
        node.tool.keep_no_tables();
    }
    node.request(Create, 1, &both());
    node.expect_success(Create, 1);
    both().iter().for_each(|key| node.guest_writes(*key, "second"));
    node
}

#[track_caller]
fn expect_content(node: &Node, text: &str) {
    both().iter().for_each(|key| assert_eq!(node.guest_reads(*key), text, "on {key}"));
}

#[test]
fn all_volumes_are_cut_recorded_and_answered() {
    let mut node = Node::with_volumes(2);
    node.request(Create, 7, &both());
    let status = node.expect_success(Create, 7);
    assert_eq!(node.record().as_ref(), Some(&status), "durable, and the same");
    assert_eq!(status.volume_keys(), both());
    assert!(status.time_created.is_some());
    for key in both() {
        let names = node.snapshots_in(key);
        assert!(
            names.len() == 1 && names[0].contains(&snapshot(1).to_string()) && names[0].ends_with("-op7")
        );
        assert_eq!(node.volume(key).expect("a status").held_by, [snapshot(1)]);
    }
    node.expect_tidy(&both());
}

#[test]
fn the_intent_is_durable_before_the_first_cut_and_nobody_is_told_before_the_record_is() {
    let mut node = Node::with_volumes(2);
    node.bench.publish(request(Create, 1, &both()));
    assert_eq!(node.intents()[0].stage, IntentStage::Preparing);
    assert!(node.snapshots_in(key(1, 0)).is_empty());
    node.bench.run_job(is_step(VolumeStep::CutSnapshot, 1));
    assert_eq!((node.answer(), node.record()), (None, None));
    node.bench.run_job(is_step(VolumeStep::CutSnapshot, 2));
    assert_eq!(node.record(), node.answer());
    assert!(node.record().is_some());
}

#[test]
fn if_a_later_volume_cannot_be_cut_the_earlier_ones_are_removed_again() {
    let mut node = Node::with_volumes(2);
    node.tool.edit(&node.path(key(2, 0)), |image| image.marked_corrupt = true).expect("damaged");
    node.request(Create, 1, &both());
    node.wait(Duration::from_secs(30));
    let error = node.expect_failure(Create, 1);
    assert!(error.summary.contains(&volume(2).to_string()), "{error}");
    assert!(node.snapshots_in(key(1, 0)).is_empty(), "[003] B5");
    assert_eq!(node.record(), None);
    node.withdraw();
    node.wait(Duration::from_secs(30));
    assert_eq!(node.answer(), None);
}

#[test]
fn a_passing_failure_is_tried_again_and_then_all_is_well() {
    let mut node = Node::with_volumes(2);
    node.tool.fail_next(Verb::SnapshotCreate, passing());
    node.request(Create, 1, &both());
    node.wait(Duration::from_secs(5));
    node.expect_success(Create, 1);
}

#[test]
fn a_read_only_volume_is_recorded_as_unchanged_and_blocks_nobody() {
    let mut node = Node::with_volumes(1);
    node.configure(VolumeConfig { read_only: true, ..blank(key(2, 0)) });
    node.request(Create, 1, &both());
    let status = node.expect_success(Create, 1);
    match &status.meta[&volume(2)] {
        VolumeSnapshotMeta::Recorded(meta) => assert_eq!(meta.handler, "read-only"),
        other => panic!("{other:?}"),
    }
    assert!(node.snapshots_in(key(2, 0)).is_empty());
    node.guest_writes(key(1, 0), "second");
    node.request(Rollback, 2, &both());
    node.expect_success(Rollback, 2);
    assert_eq!(node.guest_reads(key(1, 0)), "first");
    node.withdraw();
    assert_eq!(node.answer(), None);
}

#[test]
fn every_volume_goes_back_and_the_snapshot_can_be_used_again() {
    let mut node = snapshotted();
    node.request(Rollback, 2, &both());
    let status = node.expect_success(Rollback, 2);
    assert_eq!(status.volume_keys(), both());
    expect_content(&node, "first");
    node.expect_tidy(&both());
    assert_eq!(node.record().expect("the record").operation, OperationNumber(1), "unchanged [003] C7");

    both().iter().for_each(|key| node.guest_writes(*key, "third"));
    node.request(Create, 1, &both());
    node.expect_success(Create, 1);
    expect_content(&node, "third");
    node.request(Rollback, 3, &both());
    node.expect_success(Rollback, 3);
    expect_content(&node, "first");
}

#[test]
fn a_number_acts_once() {
    let mut node = snapshotted();
    node.request(Rollback, 2, &both());
    both().iter().for_each(|key| node.guest_writes(*key, "third"));
    node.request(Create, 1, &both());
    node.request(Rollback, 2, &both());
    node.expect_success(Rollback, 2);
    expect_content(&node, "third");
}

#[test]
fn if_a_volume_cannot_be_reverted_every_volume_is_where_it_was() {
    let mut node = snapshotted();
    for _ in 0..4 {
        node.bench.publish(request(Rollback, 2, &both()));
        while let Some(VolumeJob::Step(order)) = node.bench.jobs().first() {
            if order.step == VolumeStep::ApplySnapshot && order.volumes[0].place.key == key(2, 0) {
                node.tool.fail_next(Verb::SnapshotApply, passing());
            }
            node.bench.run_job(|_: &VolumeJob| true);
        }
        node.bench.advance(Duration::from_secs(4));
    }
    node.settle();
    let error = node.expect_failure(Rollback, 2);
    assert!(error.summary.contains(&volume(2).to_string()), "{error}");
    assert!(!error.retry_condition.is_empty());
    expect_content(&node, "second");
    node.expect_tidy(&both());
    assert_eq!(node.snapshots_in(key(1, 0)).len(), 1, "the snapshot itself is still there");

    node.request(Rollback, 3, &both());
    node.expect_success(Rollback, 3);
    expect_content(&node, "first");
}

#[test]
fn tidying_that_fails_keeps_nobody_waiting_and_is_done_before_the_next_action() {
    let mut node = snapshotted_with(false);
    (0..40).for_each(|_| node.tool.fail_next(Verb::SnapshotDelete, passing()));
    node.request(Rollback, 2, &both());
    node.wait(Duration::from_secs(10));
    node.expect_success(Rollback, 2);
    assert_eq!(node.intents()[0].stage, IntentStage::CleaningUp);
    node.request(Rollback, 3, &both());
    node.wait(Duration::from_secs(10));
    assert!(node.expect_failure(Rollback, 3).summary.contains("operation 2"));
    node.wait(Duration::from_secs(3600));
    node.expect_tidy(&both());
    expect_content(&node, "first");
    node.request(Rollback, 4, &both());
    node.expect_success(Rollback, 4);
}

/// The World's seed 3000000067: the disk was full when the copy of the tables was to go, and afterwards the guest had the image.
#[test]
fn what_cannot_be_given_back_keeps_no_copy_of_the_tables() {
    let mut node = snapshotted();
    (0..2).for_each(|_| node.tool.fail_next(Verb::DiscardFreed, passing()));
    node.request(Rollback, 2, &both());
    node.expect_success(Rollback, 2);
    expect_content(&node, "first");
    node.expect_tidy(&both());
}

#[test]
fn if_a_safety_snapshot_cannot_be_cut_nothing_is_touched() {
    for (tables, cutting) in [(true, Verb::KeepTables), (false, Verb::SnapshotCreate)] {
        let mut node = snapshotted_with(tables);
        // Both volumes meet failures; the third failure of one of them is for good.
        (0..6).for_each(|_| node.tool.fail_next(cutting, passing()));
        node.request(Rollback, 2, &both());
        node.wait(Duration::from_secs(10));
        node.expect_failure(Rollback, 2);
        expect_content(&node, "second");
        node.expect_tidy(&both());
    }
}

/// What a rollback is done to is known: one that may have come half-way is taken back first. Here that fails, and so it is not done.
#[test]
fn a_rollback_that_may_have_torn_is_taken_back_before_it_is_done_again() {
    let mut node = snapshotted();
    node.tool.fail_next(Verb::SnapshotApply, passing());
    node.tool.fail_next(Verb::PutBackTables, passing());
    node.tool.fail_next(Verb::PutBackTables, passing());
    node.request(Rollback, 2, &[key(1, 0), key(2, 0)]);
    node.wait(Duration::from_secs(10));
    node.expect_failure(Rollback, 2);
    expect_content(&node, "second");
    node.expect_tidy(&both());

    // With its copy damaged it cannot be, and is done over what it left ([003] J3).
    for key in both() {
        node.tool.fail_next(Verb::SnapshotApply, passing());
        let damaged = ToolError::NotAnImage { stderr: format!("the copy of {key} is damaged") };
        node.tool.fail_next(Verb::PutBackTables, damaged);
    }
    node.request(Rollback, 3, &both());
    node.wait(Duration::from_secs(10));
    node.expect_success(Rollback, 3);
    expect_content(&node, "first");
    node.expect_tidy(&both());
}

#[test]
fn a_rollback_to_an_unknown_snapshot_is_answered_and_touches_nothing() {
    let mut node = Node::with_volumes(2);
    node.request(Rollback, 5, &both());
    let error = node.expect_failure(Rollback, 5);
    assert!(
        error.summary.contains(&snapshot(1).to_string()) && error.summary.contains("not known"),
        "{error}"
    );
    expect_content(&node, "first");
    node.withdraw();
    assert_eq!(node.answer(), None);
}

#[test]
fn requests_that_name_what_is_not_there_or_not_theirs_are_refused() {
    let mut node = snapshotted();
    node.bench.publish(VolumesSnapshotConfig { app: app(2), ..request(Rollback, 2, &both()) });
    node.settle();
    assert!(node.expect_failure(Rollback, 2).summary.contains(&app(1).to_string()));
    node.request(Create, 1, &both());
    assert_eq!(node.expect_success(Create, 1).app, app(1), "the snapshot is what it was");
    node.bench.publish(VolumesSnapshotConfig {
        snapshot: snapshot(2),
        ..request(Create, 3, &[key(1, 0), key(9, 0)])
    });
    node.settle();
    let refused: VolumesSnapshotStatus = node.bench.row(&snapshot(2)).expect("an answer");
    assert!(refused.error.expect("refused").summary.contains(&key(9, 0).to_string()));
    assert_eq!(node.snapshots_in(key(1, 0)).len(), 1);
}

#[test]
fn a_deletion_is_confirmed_by_storage_before_the_status_goes() {
    let mut node = snapshotted();
    let held = node.hold(key(2, 0));
    node.withdraw();
    node.wait(Duration::from_secs(10));
    let error = node.expect_failure(Delete, 1);
    assert!(error.summary.contains(&volume(2).to_string()), "{error}");
    assert!(node.snapshots_in(key(1, 0)).is_empty(), "what can be deleted is");
    assert_eq!(node.volume(key(2, 0)).expect("a status").held_by, [snapshot(1)]);
    drop(held);
    node.wait(Duration::from_secs(60));
    assert_eq!(node.answer(), None);
    assert!(node.snapshots_in(key(2, 0)).is_empty());
    node.expect_tidy(&both());
    expect_content(&node, "second");
}

/// A second snapshot of both volumes, which is asked to go while a rollback to the first is at each of its stages: the tables by which
/// the rollback would be undone are nobody else's to change.
#[test]
fn while_a_rollback_may_be_undone_no_other_snapshot_changes_its_volumes() {
    let is_deletion =
        |job: &VolumeJob| matches!(job, VolumeJob::Step(order) if order.step == VolumeStep::DeleteAll);
    for jobs_done in 0..6 {
        let mut node = snapshotted();
        node.bench.publish(VolumesSnapshotConfig { snapshot: snapshot(2), ..request(Create, 2, &both()) });
        node.settle();
        node.bench.publish(request(Rollback, 3, &both()));
        (0..jobs_done).for_each(|_| node.bench.run_job(|_: &VolumeJob| true));
        node.bench.unpublish::<VolumesSnapshotConfig>(&snapshot(2));
        let mut deleted = 0;
        while !node.bench.jobs().is_empty() {
            let may_be_undone = node.intents().iter().any(may_be_undone);
            let deletions = node.bench.jobs().iter().filter(|job| is_deletion(job)).count();
            assert!(!may_be_undone || deletions == 0, "after {jobs_done} jobs");
            deleted += deletions;
            node.bench.run_job(|_: &VolumeJob| true);
        }
        assert!(deleted > 0, "and then it goes");
        node.expect_success(Rollback, 3);
        expect_content(&node, "first");
        node.expect_tidy(&both());
        assert_eq!(node.snapshots_in(key(1, 0)).len(), 1);
    }
}

/// Of two rollbacks on the same volumes the one that has begun goes on, whatever the clock said when they were ordered; here it stood
/// still, and the number of the other one comes first.
#[test]
fn of_two_rollbacks_the_one_that_has_begun_goes_first() {
    for jobs_done in 0..6 {
        let mut node = snapshotted();
        node.bench.publish(VolumesSnapshotConfig { snapshot: snapshot(2), ..request(Create, 2, &both()) });
        node.settle();
        both().iter().for_each(|key| node.guest_writes(*key, "third"));
        node.bench.publish(VolumesSnapshotConfig { snapshot: snapshot(2), ..request(Rollback, 3, &both()) });
        (0..jobs_done).for_each(|_| node.bench.run_job(|_: &VolumeJob| true));
        node.bench.publish(request(Rollback, 4, &both()));
        let of = |order: &StepOrder, n| order.snapshot == snapshot(n);
        while !node.bench.jobs().is_empty() {
            let second_may_be_undone =
                node.intents().iter().any(|one| one.snapshot == snapshot(2) && may_be_undone(one));
            let is_at_it =
                node.bench.jobs().iter().any(|job| matches!(job, VolumeJob::Step(order) if of(order, 1)));
            assert!(!(second_may_be_undone && is_at_it), "after {jobs_done} jobs");
            node.bench.run_job(|_: &VolumeJob| true);
        }
        node.expect_success(Rollback, 4);
        expect_content(&node, "first");
        node.expect_tidy(&both());
    }
}

/// [003] D1: retries alone meet the running guest for ever. Told that it is down, storage tries at once, and answers by the
/// number of who told it; that the telling is over changes nothing. The World's seed 13559.
#[test]
fn a_deletion_that_failed_is_tried_at_once_when_the_guest_is_down() {
    let mut node = snapshotted();
    let held = node.hold(key(2, 0));
    node.withdraw();
    node.wait(Duration::from_secs(1000));
    node.expect_failure(Delete, 1);

    node.request(Delete, 7, &[]);
    node.expect_failure(Delete, 1);
    node.wait(Duration::from_secs(4));
    let error = node.expect_failure(Delete, 7);
    assert!(error.summary.contains("in use"), "the same as before, to the one who asks now: {error}");
    node.withdraw();
    assert_eq!(node.intents().len(), 1, "nobody asks any more, and it still goes");

    node.wait(Duration::from_secs(1000));
    drop(held);
    node.request(Delete, 8, &[]);
    assert_eq!(node.answer(), None, "at once");
    assert!(node.snapshots_in(key(2, 0)).is_empty());
    node.expect_tidy(&both());
    node.withdraw();
    node.request(Delete, 9, &[]);
    assert_eq!(node.answer(), None, "there is nothing any more");
    expect_content(&node, "second");
}

/// To be told to delete is all that an un-published request says, and more: the first word of it is enough.
#[test]
fn a_snapshot_goes_when_it_is_told_to_be_deleted_also_after_a_cut() {
    let mut node = snapshotted();
    node.request(Delete, 7, &[]);
    assert_eq!(node.answer(), None);
    node.expect_tidy(&both());

    let mut node = snapshotted();
    let held = node.hold(key(2, 0));
    node.request(Delete, 7, &[]);
    node.wait(Duration::from_secs(4));
    node.expect_failure(Delete, 7);
    drop(held);
    let mut node = node.cut_power();
    node.start();
    node.bench.publish(request(Delete, 7, &[]));
    node.refer(key(2, 0));
    node.everybody_speaks();
    assert_eq!(node.answer(), None);
    node.expect_tidy(&[key(2, 0)]);
    assert!(node.snapshots_in(key(2, 0)).is_empty());
}

#[test]
fn a_volume_in_a_snapshot_is_kept_though_nobody_else_wants_it_and_goes_with_the_snapshot() {
    let mut node = snapshotted();
    node.unrefer(key(1, 0));
    node.bench.unpublish::<VolumeConfig>(&key(1, 0));
    node.settle();
    assert!(node.is_there(&node.path(key(1, 0))), "[003] B9");
    node.withdraw();
    assert!(!node.is_there(&node.path(key(1, 0))), "[003] F2");
    assert!(node.is_there(&node.path(key(2, 0))));
}

#[test]
fn the_same_id_asked_for_anew_is_made_afresh() {
    let mut node = snapshotted();
    node.request(Create, 2, &both());
    let status = node.expect_success(Create, 2);
    assert_eq!(node.record(), Some(status));
    for key in both() {
        let names = node.snapshots_in(key);
        assert!(names.len() == 1 && names[0].ends_with("-op2"), "[003] B6: {names:?}");
    }
    node.request(Rollback, 3, &both());
    expect_content(&node, "second");
}

#[test]
fn asked_for_again_after_a_restart_with_its_own_number_nothing_is_done() {
    let mut node = snapshotted().cut_power();
    node.start();
    assert_eq!(node.expect_success(Create, 1).volume_keys(), both());
    both().iter().for_each(|key| node.refer(*key));
    node.request(Create, 1, &both());
    node.everybody_speaks();
    node.expect_success(Create, 1);
    assert_eq!(node.snapshots_in(key(1, 0)).len(), 1);
    expect_content(&node, "second");
}

#[test]
fn what_nobody_asks_for_after_a_restart_is_deleted_only_when_zedmanager_has_spoken() {
    let mut node = snapshotted().cut_power();
    node.start();
    node.bench.signal_restarted::<VolumeConfig>();
    node.settle();
    assert_eq!(node.snapshots_in(key(1, 0)).len(), 1);
    both().iter().for_each(|key| node.refer(*key));
    node.everybody_speaks();
    assert_eq!(node.answer(), None);
    assert!(node.snapshots_in(key(1, 0)).is_empty());
}

#[test]
fn a_damaged_record_is_a_failed_snapshot_with_its_reason_and_can_be_deleted() {
    let node = snapshotted();
    let path = node.bench.layout.volumes_snapshot_status_file(&snapshot(1));
    node.tear(&path, 20);
    let mut node = node.cut_power();
    node.start();
    let status = node.answer().expect("listed");
    let error = status.error.clone().expect("with its reason");
    assert_eq!(status.result_of, SnapshotAction::Unspecified);
    assert!(error.summary.contains("volumesSnapshotStatus.json"), "{error}");
    both().iter().for_each(|key| node.refer(*key));
    node.request(Create, 1, &both());
    node.everybody_speaks();
    assert!(node.expect_failure(Create, 1).summary.contains("damaged"), "never made anew under the old name");
    assert_eq!(node.snapshots_in(key(1, 0)).len(), 1);
    node.request(Rollback, 2, &both());
    assert!(node.expect_failure(Rollback, 2).summary.contains("damaged"));
    expect_content(&node, "second");
    node.withdraw();
    assert_eq!(node.answer(), None);
    both().iter().for_each(|key| assert!(node.snapshots_in(*key).is_empty(), "found by its name"));
}

/// The images could not be read either when the node looked for what is left of a damaged snapshot: its deletion was
/// confirmed, and its data stayed in the volumes. The World's seed 10319.
#[test]
fn a_damaged_snapshot_is_looked_for_again_where_the_volumes_could_not_be_asked() {
    let node = snapshotted();
    let path = node.bench.layout.volumes_snapshot_status_file(&snapshot(1));
    node.tear(&path, 20);
    let mut node = node.cut_power();
    for _ in both() {
        let status = "exit status: 1".to_owned();
        let error = ToolError::Failed { program: "qemu-img".into(), status, stderr: "read error".into() };
        node.tool.fail_next(Verb::Info, error);
    }
    node.start();
    both().iter().for_each(|key| node.refer(*key));
    node.everybody_speaks();
    assert_eq!(node.answer(), None, "not known yet what there is");
    both().iter().for_each(|key| assert_eq!(node.snapshots_in(*key).len(), 1, "so it stays"));
    node.wait(Duration::from_secs(5));
    both().iter().for_each(|key| assert!(node.snapshots_in(*key).is_empty(), "found by its name"));
    assert_eq!(node.answer(), None);
}

/// Whoever can never be asked does not keep the node from its work.
#[test]
fn a_volume_that_can_never_be_asked_holds_the_node_up_for_some_seconds_only() {
    let node = snapshotted();
    let path = node.bench.layout.volumes_snapshot_status_file(&snapshot(1));
    node.tear(&path, 20);
    let mut node = node.cut_power();
    for _ in 0..100 {
        let status = "exit status: 1".to_owned();
        let error = ToolError::Failed { program: "qemu-img".into(), status, stderr: "read error".into() };
        node.tool.fail_next(Verb::Info, error);
    }
    node.start();
    node.request(Create, 1, &both());
    node.everybody_speaks();
    node.wait(Duration::from_secs(20));
    assert!(node.expect_failure(Create, 1).summary.contains("damaged"));
}

#[test]
fn a_record_that_eve_wrote_works() {
    let node = Node::with_volumes(1);
    node.tool
        .edit(&node.path(key(1, 0)), |image| {
            image.snapshots.push(holdfast_volumehandlers::testing::FakeSnapshot {
                id: "1".into(),
                name: "eve-name".into(),
                created_at: noon(),
                size_bytes: MIB,
                blocks: [(0, "eve's".to_owned())].into(),
            });
        })
        .expect("a snapshot that EVE cut");
    node.bench.disk.sync_file(&node.path(key(1, 0))).expect("synced");
    let text = format!(
        r#"{{"SnapshotID":"{}","VolumeSnapshotMeta":{{"{}":"eve-name"}},"TimeCreated":"2023-05-01T10:00:00Z",
            "AppUUID":"{}","RefCount":0,"ResultOfAction":1}}"#,
        snapshot(1),
        volume(1),
        app(1)
    );
    let path = node.bench.layout.volumes_snapshot_status_file(&snapshot(1));
    holdfast_persist::crashsafe::ensure_dir(&node.bench.disk, path.parent().expect("a directory"))
        .expect("made");
    holdfast_persist::crashsafe::durable_replace(&node.bench.disk, &path, text.as_bytes()).expect("written");
    let mut node = node.cut_power();
    node.start();
    node.refer(key(1, 0));
    node.request(Create, 0, &[key(1, 0)]);
    node.everybody_speaks();
    node.expect_success(Create, 0);
    node.request(Rollback, 1, &[key(1, 0)]);
    node.expect_success(Rollback, 1);
    assert_eq!(node.guest_reads(key(1, 0)), "eve's");
    node.withdraw();
    assert_eq!(node.answer(), None);
    assert!(node.snapshots_in(key(1, 0)).is_empty());
}

#[test]
fn a_create_given_up_in_the_middle_leaves_nothing() {
    let mut node = Node::with_volumes(2);
    node.bench.publish(request(Create, 1, &both()));
    node.bench.run_job(is_step(VolumeStep::CutSnapshot, 1));
    node.bench.unpublish::<VolumesSnapshotConfig>(&snapshot(1));
    node.settle();
    assert_eq!((node.answer(), node.record()), (None, None));
    both().iter().for_each(|key| assert!(node.snapshots_in(*key).is_empty()));
    node.expect_tidy(&both());
}

#[test]
fn an_application_deleted_in_the_middle_of_a_rollback_ends_it_cleanly() {
    let mut node = snapshotted();
    node.bench.publish(request(Rollback, 2, &both()));
    node.bench.run_job(is_step(VolumeStep::CutSafety, 1));
    node.bench.unpublish::<VolumesSnapshotConfig>(&snapshot(1));
    for key in both() {
        node.bench.unpublish::<VolumeRefConfig>(&reference(key));
        node.bench.unpublish::<VolumeConfig>(&key);
    }
    node.settle();
    assert_eq!(node.answer(), None);
    assert_eq!(node.bench.rows::<VolumeRecord>(), []);
    assert_eq!(node.intents(), []);
}

#[test]
fn a_preflight_names_every_volume_that_refuses_and_touches_nothing() {
    let mut node = snapshotted();
    let ask = |action, operation| SnapshotPreflightConfig {
        snapshot: snapshot(1),
        app: app(1),
        action,
        volumes: both(),
        operation: OperationNumber(operation),
        leaving: Vec::new(),
        revert: None,
    };
    let guest = node.hold(key(1, 0));
    node.bench.publish(ask(Rollback, 2));
    node.settle();
    let answer: SnapshotPreflightStatus = node.bench.row(&snapshot(1)).expect("an answer");
    assert_eq!(
        (answer.operation, answer.refusal),
        (OperationNumber(2), None),
        "a running guest is no refusal"
    );
    drop(guest);
    for key in both() {
        node.tool.edit(&node.path(key), |image| image.snapshots.clear()).expect("removed behind our back");
    }
    let before: Vec<_> =
        both().iter().map(|key| node.bench.disk.read(&node.path(*key)).expect("bytes")).collect();
    node.bench.publish(ask(Rollback, 3));
    node.settle();
    let answer: SnapshotPreflightStatus = node.bench.row(&snapshot(1)).expect("an answer");
    let refusal = answer.refusal.expect("refused");
    assert!(BOTH.iter().all(|n| refusal.summary.contains(&volume(*n).to_string())), "{refusal}");
    assert_eq!(refusal.entities.len(), 3, "the application and both volumes");
    let after: Vec<_> =
        both().iter().map(|key| node.bench.disk.read(&node.path(*key)).expect("bytes")).collect();
    assert_eq!(before, after);
    node.bench.unpublish::<SnapshotPreflightConfig>(&snapshot(1));
    assert_eq!(node.bench.row::<SnapshotPreflightStatus>(&snapshot(1)), None);
}

#[test]
fn what_snapshots_take_on_storage_is_counted() {
    let mut node = Node::with_volumes(1);
    node.configure(blank(key(2, 0)));
    let before = node.volume(key(1, 0)).expect("a status").allocated_bytes;
    node.request(Create, 1, &[key(1, 0)]);
    assert!(node.volume(key(1, 0)).expect("a status").allocated_bytes >= before);
    assert!(!node.bench.jobs().iter().any(|job| matches!(job, VolumeJob::Check(_))));
}

/// [000] L8: needed and free, by volume, before any guest is stopped.
#[test]
fn a_preflight_tells_the_space_and_refuses_too_little_by_volume_and_bytes() {
    let mut node = snapshotted();
    let mut ask = |action, operation: u64, free_bytes: u64| -> SnapshotPreflightStatus {
        leave_free(&node, free_bytes);
        node.bench.publish(SnapshotPreflightConfig {
            snapshot: if action == Create { snapshot(2) } else { snapshot(1) },
            app: app(1),
            action,
            volumes: both(),
            operation: OperationNumber(operation),
            leaving: Vec::new(),
            revert: None,
        });
        node.settle();
        let asked = if action == Create { snapshot(2) } else { snapshot(1) };
        let answer = node.bench.row(&asked).expect("an answer");
        node.bench.unpublish::<SnapshotPreflightConfig>(&asked);
        answer
    };
    let roomy = ask(Create, 2, 1 << 30);
    assert_eq!((roomy.refusal, roomy.space.len()), (None, 2));
    let needed = roomy.space[&volume(1)].needed_bytes;
    let back = ask(Rollback, 3, 1 << 30);
    assert_eq!(back.space[&volume(1)].needed_bytes, 2 * needed, "the safety snapshot comes first");

    for (action, operation) in [(Create, 4), (Rollback, 6)] {
        let nearly_nothing = ask(action, operation, 1000);
        let refusal = nearly_nothing.refusal.expect("refused");
        for n in BOTH {
            assert!(refusal.summary.contains(&volume(n).to_string()), "{refusal}");
        }
        assert!(refusal.summary.contains("bytes of free space"), "{refusal}");
        assert!(refusal.summary.contains("1000 are free"), "{refusal}");
    }
    // Each fits, and both do not.
    let crowded = ask(Create, 8, needed + needed / 2);
    let refusal = crowded.refusal.expect("refused");
    assert!(refusal.summary.contains(&format!("all volumes together {}", 2 * needed)), "{refusal}");
    assert_eq!(ask(Create, 9, 2 * needed).refusal, None);

    let freeing = ask(Delete, 10, 0);
    assert_eq!(freeing.refusal, None, "a full disk can always be freed");
    assert!(freeing.space.values().all(|space| space.needed_bytes == 0) && freeing.space.len() == 2);
}

fn leave_free(node: &Node, free_bytes: u64) {
    const ROOMY_BYTES: u64 = 1 << 40;
    node.bench.disk.set_capacity(ROOMY_BYTES);
    let space = node.bench.disk.space(Path::new("/persist")).expect("measured");
    node.bench.disk.set_capacity(ROOMY_BYTES - space.free_bytes + free_bytes);
}
