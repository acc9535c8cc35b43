//! Where the power can go: between any two jobs of what a node is at, and at any disk call within them.

use super::*;

/// Tells a story of a node that was asked for something, once for every number of jobs after which the power may go; the last
/// time all of them were done. `check` gets the node as it is then, and where that was.
pub(super) fn wherever_it_is_cut(asked: impl Fn() -> Node, check: impl Fn(Node, &str)) {
    for jobs_done in 0.. {
        let mut node = asked();
        let was_cut = run_some(&mut node, jobs_done);
        check(node, &format!("cut after {jobs_done} jobs"));
        if !was_cut {
            break;
        }
    }
}

/// The same inside jobs: the disk stops at its n-th call after `begun` and everything after it fails; what was not synced is
/// lost. The last time it was not met.
pub(super) fn whichever_disk_call_is_the_last(
    begun: impl Fn() -> Node,
    ask: impl Fn(&mut Node),
    check: impl Fn(Node, &str),
) {
    for call in 1.. {
        let mut node = begun();
        node.bench.disk.cut_power_at(call);
        ask(&mut node);
        let finished = run_until_dark(&mut node);
        check(node, &format!("cut at call {call}"));
        if finished {
            break;
        }
    }
}

/// The node after the cut, told by zedagent and zedmanager what they know: the volumes, and that the request still stands.
pub(super) fn restarted_with(
    node: Node,
    tell_volumes: impl FnOnce(&mut Node),
    request: &VolumesSnapshotConfig,
) -> Node {
    let mut node = node.cut_power();
    node.start();
    tell_volumes(&mut node);
    node.bench.publish(request.clone());
    node.everybody_speaks();
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
