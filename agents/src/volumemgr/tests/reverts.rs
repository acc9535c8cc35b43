//! One volume back to a snapshot ([004] M): in place or by a clone, the others not touched; its parameters and its link to the
//! snapshot are looked at before anything is.

use super::clones::*;
use super::cuts::*;
use super::*;
use SnapshotAction::{Create, Rollback};

fn revert(operation: u64, of: VolumeKey, parameters: &[(&str, &str)]) -> VolumesSnapshotConfig {
    let parameters = parameters.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let revert = Some(VolumeRevert { volume: of.volume, parameters });
    VolumesSnapshotConfig { revert, ..request(Rollback, operation, &[of]) }
}

fn order(node: &mut Node, order: VolumesSnapshotConfig) {
    node.bench.publish(order);
    node.settle();
}

fn question(of: &VolumesSnapshotConfig) -> SnapshotPreflightConfig {
    SnapshotPreflightConfig {
        snapshot: of.snapshot,
        app: of.app,
        action: of.action,
        volumes: of.volumes.clone(),
        operation: of.operation,
        leaving: Vec::new(),
        revert: of.revert.clone(),
    }
}

/// The pre-flight's answer.
fn checked(node: &mut Node, of: &VolumesSnapshotConfig) -> SnapshotPreflightStatus {
    node.bench.publish(question(of));
    node.settle();
    node.bench.row(&of.snapshot).expect("an answer")
}

#[test]
fn a_volume_is_reverted_alone_in_place_or_by_a_clone() {
    for (of, contents, incarnation) in [(IMAGE, ["first", "second"], 1), (DISK, ["second", "first"], 2)] {
        let mut node = snapshotted();
        let asked = revert(2, of, &[]);
        let answer = checked(&mut node, &asked);
        assert_eq!((answer.refusal, answer.space.len()), (None, 1), "[000] L8");
        assert_eq!(answer.cloned.contains(&of.volume), of == DISK, "M2: told before it is done");
        for _ in 0..3 {
            order(&mut node, asked.clone());
            node.expect_success(Rollback, 2);
        }
        assert_eq!([read(&node, IMAGE), read(&node, DISK)], contents);
        expect_in_place(&node, "whichever it was");
        expect_one_incarnation(&node, 1, "whichever it was");
        assert_eq!(row(&node, DISK).incarnation, incarnation);
        // And the whole application afterwards.
        node.request(Rollback, 3, &both());
        node.expect_success(Rollback, 3);
        expect_content(&node, "first", "all");
    }
}

#[test]
fn a_revert_is_finished_wherever_it_was_cut() {
    for of in [IMAGE, DISK] {
        let order = if of == IMAGE { revert(2, of, &[]) } else { revert(2, of, &[("copy-method", "copy")]) };
        let other = if of == IMAGE { DISK } else { IMAGE };
        wherever_it_is_cut(
            || asked(&order),
            |node, story| {
                let node = restarted(node, &order);
                let story = &format!("{of}, {story}");
                node.expect_success(Rollback, 2);
                assert_eq!(read(&node, of), "first", "{story}");
                assert_eq!(read(&node, other), "second", "{story}");
                expect_in_place(&node, story);
                expect_one_incarnation(&node, 1, story);
            },
        );
    }
}

/// [004] M5: refused by the check and, were it not for that, by the order; and nothing has changed.
#[test]
fn parameters_reach_the_handler_and_unknown_ones_are_refused() {
    for (of, parameters, words) in [
        (DISK, [("speed", "high")], "the only one known to the handler file is copy-method"),
        (DISK, [("copy-method", "fast")], "not \"fast\""),
        (IMAGE, [("copy-method", "copy")], "the handler qcow2 knows no parameters"),
    ] {
        let mut node = snapshotted();
        let asked = revert(2, of, &parameters);
        let refusal = checked(&mut node, &asked).refusal.expect("refused");
        assert!(refusal.summary.contains(words), "{refusal}");
        order(&mut node, asked);
        assert!(node.expect_failure(Rollback, 2).summary.contains(words));
        expect_content(&node, "second", "nothing has changed");
        expect_in_place(&node, "nothing has changed");
        expect_one_incarnation(&node, 1, "nothing has changed");
    }
    let mut node = snapshotted();
    order(&mut node, revert(2, DISK, &[("copy-method", "reflink")]));
    let error = node.expect_failure(Rollback, 2);
    assert!(error.summary.contains("cannot share"), "{error}");
    expect_content(&node, "second", "nothing has changed");
    order(&mut node, revert(3, DISK, &[("copy-method", "copy")]));
    node.expect_success(Rollback, 3);
    assert_eq!(read(&node, DISK), "first");
}

#[test]
fn what_the_snapshot_does_not_hold_or_never_changes_is_refused() {
    let mut node = snapshotted();
    let later = key(3, 0);
    node.configure(blank(later));
    order(&mut node, revert(2, later, &[]));
    assert!(node.expect_failure(Rollback, 2).summary.contains("holds nothing of volume"));
    let mut node = Node::with_volumes(1);
    node.configure(VolumeConfig { read_only: true, ..blank(key(2, 0)) });
    node.request(Create, 1, &both());
    let asked = revert(2, key(2, 0), &[]);
    assert!(checked(&mut node, &asked).refusal.expect("refused").summary.contains("is read-only"));
    order(&mut node, asked);
    assert!(node.expect_failure(Rollback, 2).summary.contains("is read-only"));
}

/// [004] M6: the record says something of a volume that is not so. Told, never guessed, and nothing is touched.
#[test]
fn a_broken_link_from_a_snapshot_to_its_volume_is_told() {
    type Edit = fn(&mut RecordedMeta);
    let of_another: Edit = |meta: &mut RecordedMeta| meta.handler = "qcow2".into();
    let unnamed: Edit = |meta: &mut RecordedMeta| meta.storage_name = "-d".into();
    let broken: [(Edit, &str); 2] = [
        (of_another, "was cut by the handler qcow2, and is now file's"),
        (unnamed, "its link to volume 00000011-0000-0000-0000-000000000002 is broken"),
    ];
    for (edit, words) in broken {
        let node = snapshotted();
        let mut record = node.record().expect("a record");
        match record.meta.get_mut(&DISK.volume) {
            Some(VolumeSnapshotMeta::Recorded(meta)) => edit(meta),
            other => panic!("{other:?}"),
        }
        let path = node.bench.layout.volumes_snapshot_status_file(&snapshot(1));
        let bytes = record::render(&path, &record).expect("whole in form");
        holdfast_persist::crashsafe::durable_replace(&node.bench.disk, &path, &bytes).expect("written");
        let asked = revert(2, DISK, &[]);
        let mut node = restarted(node, &asked);
        assert!(node.expect_failure(Rollback, 2).summary.contains(words), "{:?}", node.answer());
        let refusal = checked(&mut node, &asked).refusal.expect("refused");
        assert!(refusal.summary.contains(words), "{refusal}");
        expect_content(&node, "second", words);
        expect_one_incarnation(&node, 1, words);
    }
}
