//! Orders on the node ([000] L7, L8), whole nodes and real images.

use holdfast_agents::wire::info::ZInfoApp;
use holdfast_tests::story::*;
use holdfast_types::{LocalAction, SnapshotId};

fn back(n: u8) -> LocalAction {
    LocalAction::Rollback { snapshot: SnapshotId(snapshot(n)) }
}

/// [000] L8: too little space is told by the plan, with volume, need and what is free; a deletion needs none.
#[test]
fn a_full_disk_is_told_by_the_plan_and_freed_by_a_local_deletion() {
    let Some(story) = Story::begin_on_small_disk(24).map(Story::upgraded_by_restart) else { return };
    story.guest_writes(DATA, 1, b'b');
    story.small_disk.as_ref().expect("on a small disk").fill();
    for action in [LocalAction::CreateSnapshot, back(1)] {
        let refusal = story.plan(action).refusal.expect("refused");
        let by_volume = refusal.contains("bytes of free space") && refusal.contains("are free");
        assert!(by_volume || refusal.contains("no space left under the persist directory"), "{refusal}");
    }
    story.expect_undisturbed();
    let delete = LocalAction::DeleteSnapshot { snapshot: SnapshotId(snapshot(1)) };
    let plan = story.plan(delete.clone());
    assert!(plan.space.values().all(|space| space.needed_bytes == 0), "{plan:?}");
    story.order(delete);
    story.expect_unreported(1);
    story.activate(false);
    story.expect_halted("2");
    story.expect_gone(1);
    story.expect_content(DATA, 1, b'b');
}

/// The whole way, with real images: planned, done, reported, and known after a restart.
#[test]
fn a_local_rollback_and_a_local_snapshot_on_real_images() {
    let Some(mut story) = Story::begin().map(Story::upgraded_by_restart) else { return };
    story.guest_writes(DATA, 1, b'b');
    let done = story.order(back(1));
    story.expect_done(&done);
    story.expect_running("1");
    story.expect_content(DATA, 1, b'a');
    let created = story.order(LocalAction::CreateSnapshot);
    assert!(created.operation > done.operation);
    story.expect_done(&created);
    let is_reported = |app: &ZInfoApp| {
        let id = created.snapshot.to_string();
        app.snapshots.iter().any(|it| it.id == id && it.snap_err.is_none())
    };
    story.expect_app("the local snapshot", is_reported);
    story.guest_writes(DATA, 1, b'c');
    story.restart_service();
    story.expect_done(&created);
    let again = story.order(LocalAction::Rollback { snapshot: created.snapshot });
    story.expect_done(&again);
    story.expect_running("1");
    story.expect_content(DATA, 1, b'a');
    story.expect_app("the local snapshot, still", is_reported);
}
