//! One volume reverted by an order on the node, on the bench ([004] M): what is meant, what is refused, and that nothing else
//! changes.

use std::collections::BTreeMap;

use holdfast_types::*;

use super::planning_walks::Story;
use super::testing::*;

fn first() -> VolumeKey {
    volume_ref(1, 0).key()
}

fn second() -> VolumeKey {
    volume_ref(2, 0).key()
}

fn revert(volume: Option<VolumeKey>) -> LocalAction {
    let volume = volume.map(|key| key.volume);
    LocalAction::RevertVolume { snapshot: snapshot_id(1), volume, parameters: BTreeMap::new() }
}

/// Version 2 is in force and halted; snapshot 1 holds something of these volumes.
fn halted(held: &[VolumeKey]) -> Story {
    let mut story = Story::upgraded();
    holds(&mut story, held);
    story.controller_wants(|config| config.activate = false);
    story.run();
    holds(&mut story, held);
    story
}

/// What storage has recorded of snapshot 1.
fn holds(story: &mut Story, held: &[VolumeKey]) {
    let status = story.node.bench.row::<VolumesSnapshotStatus>(&snapshot_id(1)).expect("made");
    let meta = |key: &VolumeKey| {
        let (handler, storage_name) = ("qcow2".to_owned(), format!("holdfast-{}", key.volume));
        let meta = RecordedMeta { handler, generation: key.generation, storage_name, size_bytes: 1 };
        (key.volume, VolumeSnapshotMeta::Recorded(meta))
    };
    story.node.bench.publish(VolumesSnapshotStatus { meta: held.iter().map(meta).collect(), ..status });
    story.node.bench.settle();
}

#[track_caller]
fn expect_refused(story: &mut Story, action: LocalAction, words: &str) {
    let before = story.durable();
    let plan = story.plan(action.clone());
    let refusal = plan.refusal.expect("refused");
    assert!(refusal.contains(words), "{refusal}");
    assert_eq!((plan.digest, plan.steps.len()), (None, 0));
    assert!(
        matches!(story.carry_out(action, "0123456789abcdef"), PlanAnswer::Refused(why) if why.contains(words))
    );
    assert_eq!(story.durable(), before, "nothing has changed");
}

/// [004] M1: the one volume, by the order's own number, and nothing of the application is another one afterwards.
#[test]
fn one_volume_is_reverted_and_no_configuration_changes() {
    let mut story = halted(&[first(), second()]);
    let action = revert(Some(second()));
    let plan = story.plan(action.clone());
    assert_eq!(
        plan.steps,
        [
            "check the volume again".to_owned(),
            format!("revert volume {} to snapshot {}", second(), snapshot_id(1)),
        ]
    );
    assert_eq!((plan.downtime, plan.space.len()), (Downtime::None, 1));
    let digest = plan.digest.expect("not refused");
    let before = story.row();
    let PlanAnswer::TakenIn { outcome, before: false } = story.carry_out(action.clone(), &digest) else {
        panic!("not taken in")
    };
    let operation = story.row().operation.expect("begun with the same write");
    assert_eq!((operation.kind, operation.volumes.clone()), (OperationKind::RevertVolume, vec![second()]));
    assert!(operation.next.is_none() && operation.guard.is_some(), "[000] L9: {operation:?}");
    story.storage_looks();
    let asked: Vec<VolumesSnapshotConfig> = story.node.bench.rows();
    let only = VolumeRevert { volume: second().volume, parameters: BTreeMap::new() };
    let order = asked.iter().find(|order| order.action == SnapshotAction::Rollback).expect("ordered");
    assert_eq!((order.revert.as_ref(), &order.volumes), (Some(&only), &vec![second()]));
    story.run();
    let after = story.row();
    assert_eq!(after.operation, None);
    assert_eq!((&after.applied, &after.superseded_version), (&before.applied, &before.superseded_version));
    assert_eq!((after.rollback_counter, &after.snapshots), (before.rollback_counter, &before.snapshots));
    assert!(!story.node.wants_guest(), "it stays halted");
    let again = story.carry_out(action, &digest);
    let PlanAnswer::TakenIn { outcome: done, before: true } = again else { panic!("{again:?}") };
    assert_eq!((done.operation, done.is_running, done.error), (outcome.operation, false, None));
}

/// [004] M3.
#[test]
fn a_volume_whose_guest_is_not_halted_is_refused_and_the_guest_is_not_stopped() {
    let mut story = Story::upgraded();
    holds(&mut story, &[first(), second()]);
    expect_refused(
        &mut story,
        revert(Some(first())),
        "is not halted: deactivate the application at the controller",
    );
    assert!(story.node.wants_guest());
}

/// [004] M6: what is meant is told by the snapshot's record, or asked; never guessed.
#[test]
fn the_volume_has_to_be_one_that_the_snapshot_holds() {
    let mut story = halted(&[first(), second()]);
    expect_refused(
        &mut story,
        revert(None),
        "holds 2 volumes: say which one is to be reverted, with --volume",
    );
    let elsewhere = volume_ref(9, 0).key();
    expect_refused(&mut story, revert(Some(elsewhere)), "holds nothing of volume");
    let unknown =
        LocalAction::RevertVolume { snapshot: snapshot_id(9), volume: None, parameters: BTreeMap::new() };
    expect_refused(&mut story, unknown, "it is unknown here");
    holds(&mut story, &[first()]);
    assert!(story.plan(revert(None)).steps[1].contains(&first().to_string()), "the only one");
    holds(&mut story, &[]);
    expect_refused(&mut story, revert(None), "holds nothing of any volume");
}

/// [000] L1, L4, I8: a guard and what stands in the way count for one volume as for all.
#[test]
fn a_guarded_or_blocked_revert_is_refused() {
    let mut story = halted(&[first()]);
    let found = Blocker::snapshot(BlockerKind::Managed, "holdfast-newer", "7");
    story.in_the_way = [(first().volume, vec![found])].into();
    expect_refused(&mut story, revert(Some(first())), "holdfast-newer");
    story.in_the_way = Blockers::new();
    story.refusal = Some("the parameter speed is refused");
    expect_refused(&mut story, revert(Some(first())), "the parameter speed is refused");
    story.refusal = None;
    story.controller_wants(|config| config.guard.ha_state = Guard::Managed(HaState::Started));
    expect_refused(&mut story, revert(Some(first())), "High Availability");
}

/// A digest stands for the volume, and for the parameters.
#[test]
fn another_volume_or_another_parameter_is_another_plan() {
    let mut story = halted(&[first(), second()]);
    let with = |value: &str| LocalAction::RevertVolume {
        snapshot: snapshot_id(1),
        volume: Some(first().volume),
        parameters: [("copy-method".to_owned(), value.to_owned())].into(),
    };
    let actions = [revert(Some(first())), revert(Some(second())), with("copy"), with("reflink")];
    let digests = actions.map(|action| story.plan(action).digest.expect("not refused"));
    let different: std::collections::BTreeSet<&String> = digests.iter().collect();
    assert_eq!(different.len(), 4, "{digests:?}");
    let other = story.carry_out(with("copy"), &digests[0]);
    assert!(matches!(other, PlanAnswer::Refused(_)), "{other:?}");
}

/// [004] M1: the order is in the row, so a restart goes on with it, and waits until the guest is confirmed down again.
#[test]
fn a_restart_in_the_middle_of_a_revert_goes_on_with_it() {
    let mut story = halted(&[first()]);
    let action = revert(Some(first()));
    let digest = story.plan(action.clone()).digest.expect("not refused");
    story.carry_out(action.clone(), &digest);
    let mut story = story.cut_power();
    story.run();
    assert_eq!(story.row().operation, None);
    let again = story.carry_out(action, &digest);
    assert!(
        matches!(again, PlanAnswer::TakenIn { before: true, ref outcome } if outcome.error.is_none()),
        "{again:?}"
    );
}
