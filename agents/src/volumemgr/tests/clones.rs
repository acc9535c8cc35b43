//! Raw volumes, which cannot be reverted in place: a clone of the snapshot takes the volume's place ([004] M2), beside images
//! that are reverted in place and are never cloned (M4). The power is cut everywhere.

use super::cuts::*;
use super::*;
use crate::volumemgr::steps::VolumeStep;
use SnapshotAction::{Create, Rollback};

pub(super) const IMAGE: VolumeKey =
    VolumeKey { volume: VolumeId(uuid::Uuid::from_u128(0x11 << 96 | 1)), generation: Generation(0) };
pub(super) const DISK: VolumeKey =
    VolumeKey { volume: VolumeId(uuid::Uuid::from_u128(0x11 << 96 | 2)), generation: Generation(0) };

pub(super) fn both() -> Vec<VolumeKey> {
    vec![IMAGE, DISK]
}

/// Volume 1 is an image, volume 2 a raw disk; both are written to.
pub(super) fn mixed() -> Node {
    let mut node = Node::with_volumes(1);
    let raw = FakeImage::new(Format::Raw, MIB, Blocks::new());
    node.store.put("http://store1/files/1.qcow2", image_bytes(&raw));
    tell_raw(&mut node);
    node.refer(DISK);
    write(&node, "first");
    node
}

pub(super) fn tell_raw(node: &mut Node) {
    node.bench.publish(http_store(1));
    node.bench.publish(ContentTreeConfig { format: Format::Raw, ..tree(1, "") });
    node.configure(downloaded(DISK, 1));
}

pub(super) fn snapshotted() -> Node {
    let mut node = mixed();
    node.request(Create, 1, &both());
    node.expect_success(Create, 1);
    write(&node, "second");
    node
}

pub(super) fn row(node: &Node, key: VolumeKey) -> VolumeRecord {
    node.bench.row::<VolumeRecord>(&key).expect("a row")
}

pub(super) fn place(node: &Node, key: VolumeKey) -> PathBuf {
    PathBuf::from(row(node, key).file_location)
}

pub(super) fn write_to(node: &Node, key: VolumeKey, text: &str) {
    let path = place(node, key);
    node.tool.write(&path, 0, text).expect("the volume is there");
    node.bench.disk.sync_file(&path).expect("synced");
}

pub(super) fn write(node: &Node, text: &str) {
    both().iter().for_each(|key| write_to(node, *key, text));
}

pub(super) fn read(node: &Node, key: VolumeKey) -> String {
    let blocks = node.tool.content(&place(node, key)).expect("the volume is there");
    blocks.get(&0).cloned().unwrap_or_default()
}

#[track_caller]
pub(super) fn expect_content(node: &Node, text: &str, story: &str) {
    assert_eq!([read(node, IMAGE), read(node, DISK)], [text, text], "{story}");
}

/// Everything that lies beside the raw disk and is the raw disk's, the disk itself included.
pub(super) fn files_of_disk(node: &Node) -> Vec<String> {
    let directory = node.bench.layout.volumes_dir(true);
    let mark = format!("{}#", DISK.volume);
    let entries = node.bench.disk.list(&directory).expect("listed");
    let names = entries.iter().filter_map(|entry| entry.text()).filter(|name| name.contains(&mark));
    names.map(str::to_owned).collect()
}

/// One incarnation, with so many snapshots, and nothing else.
#[track_caller]
pub(super) fn expect_one_incarnation(node: &Node, snapshots: usize, story: &str) {
    let here = place(node, DISK).file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
    let files = files_of_disk(node);
    assert!(files.contains(&here), "{story}: {files:?}");
    assert!(files.iter().all(|name| name.starts_with(&here)), "{story}: {files:?}");
    assert_eq!(files.len(), 1 + snapshots, "{story}: {files:?}");
    assert_eq!(node.intents(), [], "{story}");
}

/// The image is where it was, and no clone of it was ever made.
#[track_caller]
pub(super) fn expect_in_place(node: &Node, story: &str) {
    assert_eq!(place(node, IMAGE), node.path(IMAGE), "M4: {story}");
    assert_eq!(row(node, IMAGE).incarnation, 1, "M4: {story}");
    node.expect_tidy(&[IMAGE]);
}

#[test]
fn a_raw_volume_is_cut_as_a_file_beside_it_and_reverted_by_a_clone_under_its_own_key() {
    let mut node = snapshotted();
    let before = place(&node, DISK);
    node.request(Rollback, 2, &both());
    node.expect_success(Rollback, 2);
    expect_content(&node, "first", "rolled back");
    expect_in_place(&node, "rolled back");
    expect_one_incarnation(&node, 1, "rolled back");
    let row = row(&node, DISK);
    assert_eq!((row.config.key, row.incarnation, row.handler.as_str()), (DISK, 2, "file"), "I11");
    assert!(row.file_location.ends_with(&format!("{}#0.i2.raw", DISK.volume)), "{}", row.file_location);
    assert!(!node.is_there(&before));
    let status = node.volume(DISK).expect("a status");
    assert_eq!((status.incarnation, &status.file_location), (2, &row.file_location));
    assert_eq!(node.reference(DISK).file_location, row.file_location, "the next guest gets the clone");
    assert_eq!(node.record().expect("the record").operation, OperationNumber(1), "C7");
}

/// [004] M1: and the snapshot is never used up.
#[test]
fn rolled_back_to_again_and_again_it_is_the_same_each_time() {
    let mut node = snapshotted();
    for operation in 2..7 {
        write(&node, &format!("of operation {operation}"));
        node.request(Rollback, operation, &both());
        node.expect_success(Rollback, operation);
        expect_content(&node, "first", "each time");
        expect_one_incarnation(&node, 1, "each time");
        assert_eq!(row(&node, DISK).incarnation, operation);
    }
}

/// [004] M2: siblings belong to the clone afterwards: they can be rolled back to, and deleted.
#[test]
fn siblings_older_and_newer_than_the_target_go_on_with_the_clone() {
    let mut node = snapshotted();
    let other = |action, operation| VolumesSnapshotConfig {
        snapshot: snapshot(2),
        ..request(action, operation, &both())
    };
    node.bench.publish(other(Create, 2));
    node.settle();
    write(&node, "third");
    node.request(Rollback, 3, &both());
    node.expect_success(Rollback, 3);
    expect_content(&node, "first", "the older");
    expect_one_incarnation(&node, 2, "the older");
    node.bench.publish(other(Rollback, 4));
    node.settle();
    let answer: VolumesSnapshotStatus = node.bench.row(&snapshot(2)).expect("an answer");
    assert_eq!((answer.operation, answer.error), (OperationNumber(4), None));
    expect_content(&node, "second", "the newer");
    expect_one_incarnation(&node, 2, "the newer");
    assert_eq!(row(&node, DISK).incarnation, 3);
    node.withdraw();
    assert_eq!(node.answer(), None);
    expect_one_incarnation(&node, 1, "one deleted");
    node.bench.unpublish::<VolumesSnapshotConfig>(&snapshot(2));
    node.settle();
    expect_one_incarnation(&node, 0, "both deleted");
    expect_content(&node, "second", "and the volume is as it was");
}

/// [004] M2: a real error never falls back, and undoes the clone.
#[test]
fn an_image_that_cannot_be_reverted_is_not_cloned_and_the_clone_of_the_disk_goes() {
    let mut node = snapshotted();
    let before = place(&node, DISK);
    (0..3).for_each(|_| node.tool.fail_next(Verb::SnapshotApply, passing()));
    node.request(Rollback, 2, &both());
    node.wait(Duration::from_secs(20));
    assert!(node.expect_failure(Rollback, 2).summary.contains(&IMAGE.volume.to_string()));
    expect_content(&node, "second", "undone");
    expect_in_place(&node, "undone");
    expect_one_incarnation(&node, 1, "undone");
    assert_eq!((place(&node, DISK), row(&node, DISK).incarnation), (before, 1), "never in force");
    node.request(Rollback, 3, &both());
    node.expect_success(Rollback, 3);
    expect_content(&node, "first", "the next time");
}

#[test]
fn a_clone_that_cannot_be_made_leaves_everything_as_it_was() {
    let mut node = snapshotted();
    // A stranger keeps the disk open ([004] M3).
    let held = node.tool.hold(&place(&node, DISK));
    node.request(Rollback, 2, &both());
    node.wait(Duration::from_secs(10));
    let error = node.expect_failure(Rollback, 2);
    assert!(error.summary.contains("in use") && error.summary.contains(&DISK.volume.to_string()), "{error}");
    expect_content(&node, "second", "refused");
    expect_in_place(&node, "refused");
    expect_one_incarnation(&node, 1, "refused");
    drop(held);
    node.request(Rollback, 3, &both());
    node.expect_success(Rollback, 3);
}

/// [003] C4.
#[test]
fn a_disk_attached_later_is_kept() {
    let mut node = snapshotted();
    let later = key(3, 0);
    node.configure(blank(later));
    node.refer(later);
    node.guest_writes(later, "later");
    let before = node.bench.disk.read(&node.path(later)).expect("bytes");
    node.request(Rollback, 2, &both());
    node.expect_success(Rollback, 2);
    assert_eq!(node.bench.disk.read(&node.path(later)).expect("bytes"), before);
}

/// How far a clone is shows on the volume, as a download's does.
#[test]
fn the_progress_of_a_clone_is_the_volumes() {
    let mut node = snapshotted();
    node.bench.publish(request(Rollback, 2, &both()));
    assert_eq!(node.volume(DISK).expect("a status").progress, 0);
    node.bench.post(crate::volumemgr::Event::MakeProgress { key: DISK, percent: 37 });
    node.bench.settle();
    let status = node.volume(DISK).expect("a status");
    assert_eq!((status.state, status.progress), (SwState::CreatedVolume, 37));
    assert_eq!(node.reference(DISK).state, SwState::CreatedVolume, "it is there, and in force");
    node.settle();
    assert_eq!(node.volume(DISK).expect("a status").progress, 100);
}

/// [004] M3: nobody looks for snapshots on either incarnation while they are on their way.
#[test]
fn a_sibling_deleted_in_the_middle_is_deleted_where_it_is_then() {
    let mut node = snapshotted();
    node.bench.publish(VolumesSnapshotConfig { snapshot: snapshot(2), ..request(Create, 2, &both()) });
    node.settle();
    node.bench.publish(request(Rollback, 3, &both()));
    while node.intents().iter().all(|intent| intent.stage != IntentStage::Repointing) {
        node.bench.run_job(|_: &VolumeJob| true);
    }
    node.bench.unpublish::<VolumesSnapshotConfig>(&snapshot(2));
    assert!(!node.bench.jobs().iter().any(|job| is_step(VolumeStep::DeleteAll, 2)(job)), "it waits");
    node.settle();
    node.expect_success(Rollback, 3);
    expect_content(&node, "first", "rolled back");
    expect_one_incarnation(&node, 1, "the sibling is gone");
}

pub(super) fn restarted(node: Node, request: &VolumesSnapshotConfig) -> Node {
    restarted_with(node, tell_both, request)
}

fn tell_both(node: &mut Node) {
    tell_raw(node);
    node.bench.publish(blank(IMAGE));
    for key in both() {
        node.bench.publish(VolumeRefConfig { key: reference(key) });
    }
}

/// A node that holds a snapshot, at the request.
pub(super) fn asked(request: &VolumesSnapshotConfig) -> Node {
    let mut node = snapshotted();
    node.bench.publish(request.clone());
    node
}

#[track_caller]
fn expect_reverted(node: &Node, story: &str) {
    node.expect_success(Rollback, 2);
    expect_content(node, "first", story);
    expect_in_place(node, story);
    expect_one_incarnation(node, 1, story);
    assert_eq!(row(node, DISK).incarnation, 2, "{story}: made once");
}

#[test]
fn a_rollback_by_a_clone_is_finished_wherever_it_was_cut() {
    let request = request(Rollback, 2, &both());
    wherever_it_is_cut(|| asked(&request), |node, story| expect_reverted(&restarted(node, &request), story));
}

#[test]
fn a_rollback_by_a_clone_is_finished_whichever_disk_call_was_the_last() {
    let request = request(Rollback, 2, &both());
    whichever_disk_call_is_the_last(
        snapshotted,
        |node| node.bench.publish_only(request.clone()),
        |node, story| expect_reverted(&restarted(node, &request), story),
    );
}

#[test]
fn an_undone_rollback_with_a_clone_is_undone_wherever_it_was_cut() {
    let request = request(Rollback, 2, &both());
    // The image has lost the snapshot: it cannot be applied there.
    let begun = || {
        let mut node = snapshotted();
        node.lose_snapshots(&node.path(IMAGE));
        node.bench.publish(request.clone());
        node
    };
    wherever_it_is_cut(begun, |node, story| {
        let node = restarted(node, &request);
        node.expect_failure(Rollback, 2);
        expect_content(&node, "second", story);
        expect_in_place(&node, story);
        expect_one_incarnation(&node, 1, story);
        assert_eq!(row(&node, DISK).incarnation, 1, "{story}");
    });
}

/// [003] D4.
#[test]
fn an_application_deleted_anywhere_in_a_rollback_leaves_no_incarnation() {
    let request = request(Rollback, 2, &both());
    wherever_it_is_cut(
        || asked(&request),
        |mut node, story| {
            node.bench.unpublish::<VolumesSnapshotConfig>(&snapshot(1));
            for key in both() {
                node.bench.unpublish::<VolumeRefConfig>(&reference(key));
                node.bench.unpublish::<VolumeConfig>(&key);
            }
            node.settle();
            assert_eq!(node.answer(), None, "deleted, not {story}");
            assert_eq!(files_of_disk(&node), Vec::<String>::new(), "deleted, not {story}");
            assert_eq!((node.bench.rows::<VolumeRecord>(), node.intents()), (vec![], vec![]));
        },
    );
}

/// A row in quarantine: what an intent says of the incarnations counts, whichever of them are there.
#[test]
fn the_row_of_a_volume_that_is_being_cloned_may_be_lost_anywhere() {
    let request = request(Rollback, 2, &both());
    wherever_it_is_cut(
        || asked(&request),
        |node, story| {
            lose_row(&node, VolumeRecord::NAME, &DISK.to_string());
            let node = restarted(node, &request);
            node.expect_success(Rollback, 2);
            expect_content(&node, "first", story);
            expect_one_incarnation(&node, 1, story);
            assert_eq!(row(&node, DISK).incarnation, 2, "{story}");
        },
    );
}

/// What was replaced cannot go, because a stranger has it open: the answer is given, the snapshot is given up, and then the row
/// is lost. The intent is a deletion's by then; the snapshots tell which incarnation is in force.
#[test]
fn the_row_may_be_lost_when_a_deletion_has_taken_a_rollback_over() {
    let mut node = snapshotted();
    let old = place(&node, DISK);
    node.bench.publish(request(Rollback, 2, &both()));
    while node.intents().iter().all(|intent| intent.stage != IntentStage::Repointing) {
        node.bench.run_job(|_: &VolumeJob| true);
    }
    let held = node.tool.hold(&old);
    node.wait(Duration::from_secs(30));
    node.expect_success(Rollback, 2);
    assert_eq!(row(&node, DISK).incarnation, 2);
    assert!(node.is_there(&old), "it is kept open");
    write(&node, "third");
    node.bench.unpublish::<VolumesSnapshotConfig>(&snapshot(1));
    assert_eq!(node.intents()[0].action, SnapshotAction::Delete);
    lose_row(&node, VolumeRecord::NAME, &DISK.to_string());
    drop(held);
    let mut node = node.cut_power();
    node.start();
    tell_both(&mut node);
    node.everybody_speaks();
    node.wait(Duration::from_secs(5));
    expect_content(&node, "third", "nothing older came back");
    expect_one_incarnation(&node, 0, "the snapshot is gone");
    assert_eq!(row(&node, DISK).incarnation, 2);
}

/// The intent is lost: what its row of the volume says is in force, what it had begun beside it goes, and no snapshot does.
#[test]
fn the_intent_of_a_clone_may_be_lost_anywhere() {
    let request = request(Rollback, 2, &both());
    wherever_it_is_cut(
        || asked(&request),
        |node, story| {
            lose_row(&node, SnapshotIntent::NAME, &snapshot(1).to_string());
            let node = restarted(node, &request);
            // Asked again with its number, it is done again.
            node.expect_success(Rollback, 2);
            expect_content(&node, "first", story);
            expect_one_incarnation(&node, 1, story);
        },
    );
}

/// The row's file is torn, and found so by the next start.
fn lose_row(node: &Node, topic: &str, key: &str) {
    let path = node.bench.layout.row_file("volumemgr", topic, &key);
    if node.is_there(&path) {
        node.tear(&path, 10);
    }
}
