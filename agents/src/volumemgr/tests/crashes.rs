//! The power is cut between any two jobs of an action, and inside any of them; a new node finishes or undoes it.

use super::*;
use SnapshotAction::{Create, Rollback};

fn both() -> Vec<VolumeKey> {
    vec![key(1, 0), key(2, 0)]
}

fn snapshotted() -> Node {
    let mut node = Node::with_volumes(2);
    node.request(Create, 1, &both());
    both().iter().for_each(|key| node.guest_writes(*key, "second"));
    node
}

/// The node after the cut, told by zedagent and zedmanager what they know: the request still stands.
fn restarted(node: Node, request: &VolumesSnapshotConfig) -> Node {
    let mut node = node.cut_power();
    node.start();
    for key in both() {
        node.bench.publish(blank(key));
        node.bench.publish(VolumeRefConfig { key: reference(key) });
    }
    node.bench.publish(request.clone());
    node.everybody_speaks();
    node.wait(Duration::from_secs(5));
    node
}

/// The same, but zedmanager repeats its request only after it has said `Restarted`: it waits for the guest to be
/// confirmed down again. What was begun is given up meanwhile, and made anew.
fn restarted_late(node: Node, request: &VolumesSnapshotConfig) -> Node {
    let mut node = node.cut_power();
    node.start();
    for key in both() {
        node.bench.publish(blank(key));
        node.bench.publish(VolumeRefConfig { key: reference(key) });
    }
    node.everybody_speaks();
    node.bench.publish(request.clone());
    node.wait(Duration::from_secs(5));
    node
}

/// Runs the request's jobs until so many are done; false when there were fewer.
fn run_some(node: &mut Node, count: usize) -> bool {
    for _ in 0..count {
        if node.bench.jobs().is_empty() {
            return false;
        }
        node.bench.run_job(|_: &VolumeJob| true);
    }
    true
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
        for jobs_done in 0.. {
            let mut node = Node::with_volumes(2);
            node.bench.publish(request.clone());
            let was_cut = run_some(&mut node, jobs_done);
            let node = restart(node, &request);
            let status = node.expect_success(Create, 1);
            assert_eq!(node.record(), Some(status));
            expect_whole(&node, "first", &format!("cut after {jobs_done} jobs"));
            if !was_cut {
                break;
            }
        }
    }
}

#[test]
fn a_rollback_is_finished_wherever_it_was_cut() {
    let request = request(Rollback, 2, &both());
    for jobs_done in 0.. {
        let mut node = snapshotted();
        node.bench.publish(request.clone());
        let was_cut = run_some(&mut node, jobs_done);
        let node = restarted(node, &request);
        node.expect_success(Rollback, 2);
        expect_whole(&node, "first", &format!("cut after {jobs_done} jobs"));
        if !was_cut {
            break;
        }
    }
}

/// Inside jobs: the disk stops at its n-th call and everything after it fails; what was not synced is lost.
#[test]
fn a_rollback_is_finished_whichever_disk_call_was_the_last() {
    let request = request(Rollback, 2, &both());
    for call in 1.. {
        let mut node = snapshotted();
        node.bench.disk.cut_power_at(call);
        node.bench.publish_only(request.clone());
        let finished = run_until_dark(&mut node);
        let node = restarted(node, &request);
        node.expect_success(Rollback, 2);
        expect_whole(&node, "first", &format!("cut at call {call}"));
        if finished {
            break;
        }
    }
}

#[test]
fn a_create_is_finished_whichever_disk_call_was_the_last() {
    let request = request(Create, 1, &both());
    for call in 1.. {
        let mut node = Node::with_volumes(2);
        node.bench.disk.cut_power_at(call);
        node.bench.publish_only(request.clone());
        let finished = run_until_dark(&mut node);
        let node = restarted(node, &request);
        let status = node.expect_success(Create, 1);
        assert_eq!(node.record(), Some(status));
        expect_whole(&node, "first", &format!("cut at call {call}"));
        if finished {
            break;
        }
    }
}

#[test]
fn a_deletion_is_finished_whichever_disk_call_was_the_last() {
    for call in 1.. {
        let mut node = snapshotted();
        node.bench.unpublish::<VolumesSnapshotConfig>(&snapshot(1));
        node.bench.disk.cut_power_at(call);
        let finished = run_until_dark(&mut node);
        let mut node = node.cut_power();
        node.start();
        for key in both() {
            node.bench.publish(blank(key));
            node.bench.publish(VolumeRefConfig { key: reference(key) });
        }
        node.everybody_speaks();
        node.wait(Duration::from_secs(5));
        assert_eq!(node.answer(), None, "cut at call {call}");
        for key in both() {
            assert!(node.snapshots_in(key).is_empty(), "cut at call {call}");
            assert_eq!(node.guest_reads(key), "second");
            assert_eq!(node.tool.image(&node.path(key)).expect("the image").leaks, 0, "cut at call {call}");
        }
        node.expect_tidy(&both());
        if finished {
            break;
        }
    }
}

/// Everything comes to its end, or the disk is dark; true for the first.
fn run_until_dark(node: &mut Node) -> bool {
    loop {
        if node.bench.try_settle().is_err() {
            return false;
        }
        match node.bench.executor.take(0) {
            Some(run) => run.run(),
            None => break,
        }
    }
    node.bench.disk.metadata(Path::new("/persist")).is_ok() && node.intents().is_empty()
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
    let path = node.path(key(2, 0));
    node.tool.edit(&path, |image| image.snapshots.clear()).expect("removed behind our back");
    node.bench.disk.sync_file(&path).expect("synced");
    let mut node = restarted(node, &request);
    node.expect_success(Rollback, 2);
    node.expect_tidy(&both());
    node.request(Create, 1, &both());
    assert_eq!(node.bench.rows::<SnapshotIntent>(), [], "nobody asks for the answer any more");
}

#[test]
fn an_undone_rollback_is_undone_wherever_it_was_cut() {
    let request = request(Rollback, 2, &both());
    for jobs_done in 0.. {
        let mut node = snapshotted();
        // Volume 2 has lost the snapshot: it cannot be applied there.
        let path = node.path(key(2, 0));
        node.tool.edit(&path, |image| image.snapshots.clear()).expect("removed behind our back");
        node.bench.disk.sync_file(&path).expect("synced");
        node.bench.publish(request.clone());
        let was_cut = run_some(&mut node, jobs_done);
        let node = restarted(node, &request);
        node.expect_failure(Rollback, 2);
        let contents: Vec<String> = both().iter().map(|key| node.guest_reads(*key)).collect();
        assert_eq!(contents, ["second", "second"], "cut after {jobs_done} jobs");
        node.expect_tidy(&both());
        if !was_cut {
            break;
        }
    }
}

/// zedmanager does not know yet that the guest is down, and so asks for nothing; but what was cut is its own.
#[test]
fn what_is_claimed_after_a_crash_is_kept_and_nothing_is_begun_for_it() {
    let asked = request(Create, 1, &both());
    let claim = VolumesSnapshotConfig { action: SnapshotAction::Unspecified, ..asked.clone() };
    for jobs_done in 0.. {
        let mut node = Node::with_volumes(2);
        node.bench.publish(asked.clone());
        let was_cut = run_some(&mut node, jobs_done);
        let recorded = node.record().is_some();
        let mut node = restarted(node, &claim);
        assert!(node.record().is_some() || !recorded, "cut after {jobs_done} jobs");
        node.bench.publish(asked.clone());
        node.wait(Duration::from_secs(5));
        node.expect_success(Create, 1);
        expect_whole(&node, "first", &format!("cut after {jobs_done} jobs"));
        if !was_cut {
            break;
        }
    }
}
