//! The power is cut between any two jobs of an action, and inside any of them; a new node finishes or undoes it.

use super::cuts::*;
use super::*;
use crate::volumemgr::steps::VolumeStep;
use SnapshotAction::{Create, Rollback};

fn both() -> Vec<VolumeKey> {
    vec![key(1, 0), key(2, 0)]
}

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
    both().iter().for_each(|key| node.guest_writes(*key, "second"));
    node
}

fn tell_both(node: &mut Node) {
    for key in both() {
        node.bench.publish(blank(key));
        node.bench.publish(VolumeRefConfig { key: reference(key) });
    }
}

fn restarted(node: Node, request: &VolumesSnapshotConfig) -> Node {
    restarted_with(node, tell_both, request)
}

/// The same, but zedmanager repeats its request only after it has said `Restarted`: it waits for the guest to be
/// confirmed down again. What was begun is given up meanwhile, and made anew.
fn restarted_late(node: Node, request: &VolumesSnapshotConfig) -> Node {
    let mut node = node.cut_power();
    node.start();
    tell_both(&mut node);
    node.everybody_speaks();
    node.bench.publish(request.clone());
    node.wait(Duration::from_secs(5));
    node
}

/// A node at the request.
fn asked(mut node: Node, request: &VolumesSnapshotConfig) -> Node {
    node.bench.publish(request.clone());
    node
}

fn expect_whole(node: &Node, content: &str, story: &str) {
    let contents: Vec<String> = both().iter().map(|key| node.guest_reads(*key)).collect();
    assert_eq!(contents, [content, content], "{story}");
    for key in both() {
        let names = node.snapshots_in(key);
        assert_eq!(names.len(), 1, "{story}: {names:?}");
        let image = node.tool.image(&node.path(key)).expect("the image");
        assert_eq!((image.leaks, image.corruptions), (0, 0), "{story}");
    }
    node.expect_tidy(&both());
}

#[test]
fn a_create_is_finished_wherever_it_was_cut() {
    let request = request(Create, 1, &both());
    for restart in [restarted, restarted_late] {
        wherever_it_is_cut(
            || asked(Node::with_volumes(2), &request),
            |node, story| {
                let node = restart(node, &request);
                let status = node.expect_success(Create, 1);
                assert_eq!(node.record(), Some(status));
                expect_whole(&node, "first", story);
            },
        );
    }
}

#[test]
fn a_rollback_is_finished_wherever_it_was_cut() {
    let request = request(Rollback, 2, &both());
    for tables in [true, false] {
        wherever_it_is_cut(
            || asked(snapshotted_with(tables), &request),
            |node, story| {
                let node = restarted(node, &request);
                node.expect_success(Rollback, 2);
                expect_whole(&node, "first", story);
            },
        );
    }
}

#[test]
fn a_rollback_is_finished_whichever_disk_call_was_the_last() {
    let request = request(Rollback, 2, &both());
    for tables in [true, false] {
        whichever_disk_call_is_the_last(
            || snapshotted_with(tables),
            |node| node.bench.publish_only(request.clone()),
            |node, story| {
                let node = restarted(node, &request);
                node.expect_success(Rollback, 2);
                expect_whole(&node, "first", story);
            },
        );
    }
}

#[test]
fn a_create_is_finished_whichever_disk_call_was_the_last() {
    let request = request(Create, 1, &both());
    whichever_disk_call_is_the_last(
        || Node::with_volumes(2),
        |node| node.bench.publish_only(request.clone()),
        |node, story| {
            let node = restarted(node, &request);
            let status = node.expect_success(Create, 1);
            assert_eq!(node.record(), Some(status));
            expect_whole(&node, "first", story);
        },
    );
}

#[test]
fn a_deletion_is_finished_whichever_disk_call_was_the_last() {
    let withdrawn = || {
        let mut node = snapshotted();
        node.bench.unpublish::<VolumesSnapshotConfig>(&snapshot(1));
        node
    };
    whichever_disk_call_is_the_last(
        withdrawn,
        |_| {},
        |node, story| {
            let mut node = node.cut_power();
            node.start();
            tell_both(&mut node);
            node.everybody_speaks();
            node.wait(Duration::from_secs(5));
            assert_eq!(node.answer(), None, "{story}");
            for key in both() {
                assert!(node.snapshots_in(key).is_empty(), "{story}");
                assert_eq!(node.guest_reads(key), "second");
                assert_eq!(node.tool.image(&node.path(key)).expect("the image").leaks, 0, "{story}");
            }
            node.expect_tidy(&both());
        },
    );
}

/// The World found it: whoever asked died before the success was written down, asked again, and the second try failed.
/// The configuration stayed as it was, on volumes that had been reverted (I1, I2).
#[test]
fn a_rollback_that_was_answered_is_not_tried_again() {
    let request = request(Rollback, 2, &both());
    let mut node = snapshotted();
    node.bench.publish(request.clone());
    node.settle();
    node.expect_success(Rollback, 2);
    node.lose_snapshots(&node.path(key(2, 0)));
    let mut node = restarted(node, &request);
    node.expect_success(Rollback, 2);
    node.expect_tidy(&both());
    node.request(Create, 1, &both());
    assert_eq!(node.bench.rows::<SnapshotIntent>(), [], "nobody asks for the answer any more");
}

/// One volume is kept by its tables, the other by a snapshot inside; then the other loses the snapshot that it is to go back to.
fn about_to_be_undone(request: &VolumesSnapshotConfig) -> Node {
    let mut node = asked(snapshotted(), request);
    node.bench.run_job(is_step(VolumeStep::CutSafety, 1));
    node.tool.keep_no_tables();
    node.bench.run_job(is_step(VolumeStep::CutSafety, 2));
    let other = node.path(key(2, 0));
    let lost = |image: &mut FakeImage| image.snapshots.retain(|one| one.name.contains("safety"));
    node.tool.edit(&other, lost).expect("removed behind our back");
    node.bench.disk.sync_file(&other).expect("synced");
    node
}

fn expect_undone(node: &Node, story: &str) {
    node.expect_failure(Rollback, 2);
    let contents: Vec<String> = both().iter().map(|key| node.guest_reads(*key)).collect();
    assert_eq!(contents, ["second", "second"], "{story}");
    node.expect_tidy(&both());
}

#[test]
fn an_undone_rollback_is_undone_wherever_it_was_cut() {
    let request = request(Rollback, 2, &both());
    wherever_it_is_cut(
        || about_to_be_undone(&request),
        |node, story| expect_undone(&restarted(node, &request), story),
    );
}

#[test]
fn an_undone_rollback_is_undone_whichever_disk_call_was_the_last() {
    let request = request(Rollback, 2, &both());
    whichever_disk_call_is_the_last(
        || about_to_be_undone(&request),
        |_| {},
        |node, story| expect_undone(&restarted(node, &request), story),
    );
}

/// zedmanager does not know yet that the guest is down, and so asks for nothing; but what was cut is its own.
#[test]
fn what_is_claimed_after_a_crash_is_kept_and_nothing_is_begun_for_it() {
    let request = request(Create, 1, &both());
    let claim = VolumesSnapshotConfig { action: SnapshotAction::Unspecified, ..request.clone() };
    wherever_it_is_cut(
        || asked(Node::with_volumes(2), &request),
        |node, story| {
            let recorded = node.record().is_some();
            let mut node = restarted(node, &claim);
            assert!(node.record().is_some() || !recorded, "{story}");
            node.bench.publish(request.clone());
            node.wait(Duration::from_secs(5));
            node.expect_success(Create, 1);
            expect_whole(&node, "first", story);
        },
    );
}
