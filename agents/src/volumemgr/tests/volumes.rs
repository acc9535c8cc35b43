//! Volumes: made, kept, lost, found, destroyed.

use super::*;
use crate::volumemgr::jobs::VolumeJob;

#[test]
fn a_blank_volume_is_made_when_the_controller_lists_it_and_used_where_it_lies() {
    let mut node = Node::new();
    node.configure(blank(key(1, 0)));
    let status = node.volume(key(1, 0)).expect("a status");
    assert_eq!((status.state, status.size_bytes, status.error), (SwState::CreatedVolume, MIB, None));
    assert_eq!(status.file_location, node.path(key(1, 0)).display().to_string());
    node.refer(key(1, 0));
    let reference = node.reference(key(1, 0));
    assert_eq!((reference.state, reference.format), (SwState::CreatedVolume, Some(Format::Qcow2)));
    assert_eq!(node.volume(key(1, 0)).expect("a status").used_by, [app(1)]);
}

#[test]
fn the_row_comes_before_anything_is_made() {
    let mut node = Node::new();
    node.bench.publish(blank(key(1, 0)));
    let rows: Vec<VolumeRecord> = node.bench.rows();
    assert_eq!(rows[0].stage, VolumeStage::Creating);
    assert!(!node.is_there(&node.path(key(1, 0))));
    let mut node = node.cut_power();
    node.start();
    node.bench.publish(blank(key(1, 0)));
    node.everybody_speaks();
    assert_eq!(node.volume(key(1, 0)).expect("a status").state, SwState::CreatedVolume);
}

#[test]
fn one_download_serves_several_volumes_and_goes_when_all_are_made() {
    let mut node = Node::new();
    let (bytes, sha256) = image("version 1");
    node.store.put("http://store1/files/1.qcow2", bytes);
    node.bench.publish(http_store(1));
    node.bench.publish(tree(1, &sha256));
    node.bench.publish(downloaded(key(1, 0), 1));
    node.bench.publish(downloaded(key(2, 0), 1));
    assert_eq!(node.volume(key(1, 0)).expect("a status").state, SwState::DownloadStarted);
    node.settle();
    for n in [1, 2] {
        assert_eq!(node.guest_reads(key(n, 0)), "version 1");
        assert_eq!(node.volume(key(n, 0)).expect("a status").state, SwState::CreatedVolume);
    }
    assert_eq!(node.store.openings().len(), 1);
    assert_eq!(node.bench.disk.list(&node.bench.layout.downloads_dir()).expect("listed"), []);
}

#[test]
fn a_wrong_digest_stands_on_the_volume_and_its_reference_and_a_corrected_one_is_taken_at_once() {
    let mut node = Node::new();
    let (bytes, sha256) = image("version 1");
    node.store.put("http://store1/files/1.qcow2", bytes);
    node.bench.publish(http_store(1));
    node.bench.publish(tree(1, &"ab".repeat(32)));
    node.configure(downloaded(key(1, 0), 1));
    node.refer(key(1, 0));
    let error = node.volume_error(key(1, 0));
    assert!(error.summary.contains(&"ab".repeat(32)) && error.summary.contains(&sha256), "{error}");
    let about: Vec<EntityKind> = error.entities.iter().map(|entity| entity.kind).collect();
    assert_eq!(about, [EntityKind::ContentTree, EntityKind::Volume]);
    assert!(!error.retry_condition.is_empty());
    assert_eq!(node.reference(key(1, 0)).error, Some(error));
    node.bench.publish(tree(1, &sha256));
    node.settle();
    assert_eq!(node.volume(key(1, 0)).expect("a status").error, None);
    assert_eq!(node.guest_reads(key(1, 0)), "version 1");
}

#[test]
fn a_datastore_that_is_away_is_tried_again_with_growing_delay() {
    let mut node = Node::new();
    let (bytes, sha256) = image("version 1");
    node.store.put("http://store1/files/1.qcow2", bytes);
    node.store.set_down(true);
    node.bench.publish(http_store(1));
    node.bench.publish(tree(1, &sha256));
    node.configure(downloaded(key(1, 0), 1));
    node.wait(Duration::from_secs(60));
    let tries = node.store.openings().len();
    assert!((5..=7).contains(&tries), "{tries} tries in a minute");
    assert!(node.volume_error(key(1, 0)).summary.contains("connection refused"));
    node.store.set_down(false);
    node.wait(Duration::from_secs(64));
    assert_eq!(node.volume(key(1, 0)).expect("a status").state, SwState::CreatedVolume);
}

#[test]
fn what_cannot_be_fetched_or_made_is_refused_by_name() {
    let mut node = Node::new();
    node.bench.publish(DatastoreConfig { kind: DatastoreKind::Https, ..http_store(1) });
    node.bench.publish(tree(1, ""));
    node.configure(downloaded(key(1, 0), 1));
    assert!(node.volume_error(key(1, 0)).summary.contains("https"));
    node.bench.publish(ContentTreeConfig { format: Format::Container, ..tree(2, "") });
    node.configure(downloaded(key(2, 0), 2));
    assert!(node.volume_error(key(2, 0)).summary.contains("container"));
    node.configure(downloaded(key(3, 0), 9));
    assert!(node.volume_error(key(3, 0)).summary.contains(&content_tree(9).to_string()));
    node.refer(key(4, 0));
    let unknown = node.reference(key(4, 0)).error.expect("an unknown volume");
    assert!(unknown.summary.contains(&key(4, 0).to_string()), "{unknown}");
    assert_eq!(unknown.retry_condition, "");
}

#[test]
fn a_volume_goes_only_when_nobody_wants_it_and_everybody_has_spoken() {
    let mut node = Node::with_volumes(1).cut_power();
    node.start();
    node.bench.signal_restarted::<VolumeConfig>();
    node.bench.signal_restarted::<VolumesSnapshotConfig>();
    node.settle();
    assert!(node.is_there(&node.path(key(1, 0))), "zedmanager has not spoken");
    node.bench.signal_restarted::<VolumeRefConfig>();
    node.settle();
    assert!(!node.is_there(&node.path(key(1, 0))));
    assert_eq!(node.bench.rows::<VolumeRecord>(), []);
    assert_eq!(node.volume(key(1, 0)), None);
}

#[test]
fn a_volume_in_use_by_a_stranger_is_destroyed_when_it_is_let_go() {
    let mut node = Node::with_volumes(1);
    let held = node.hold(key(1, 0));
    node.unrefer(key(1, 0));
    node.bench.unpublish::<VolumeConfig>(&key(1, 0));
    node.settle();
    assert!(node.volume_error(key(1, 0)).summary.contains("in use"));
    drop(held);
    node.wait(Duration::from_secs(5));
    assert_eq!(node.volume(key(1, 0)), None);
}

#[test]
fn a_generation_that_nobody_uses_goes_while_another_is_used_and_is_made_again_when_used() {
    let mut node = Node::with_volumes(1);
    node.configure(blank(key(1, 1)));
    assert!(!node.is_there(&node.path(key(1, 1))), "not made before it is used [003] F2");
    node.refer(key(1, 1));
    node.unrefer(key(1, 0));
    assert!(!node.is_there(&node.path(key(1, 0))), "listed, and superseded");
    assert!(node.is_there(&node.path(key(1, 1))));
    node.refer(key(1, 0));
    assert!(node.is_there(&node.path(key(1, 0))), "made again");
    assert_eq!(node.guest_reads(key(1, 0)), "");
}

#[test]
fn a_missing_file_harms_its_own_volume_only_and_is_noticed_when_it_is_back() {
    let node = Node::with_volumes(2);
    let bytes = node.bench.disk.read(&node.path(key(1, 0))).expect("the file");
    node.bench.disk.remove_file(&node.path(key(1, 0))).expect("removed behind our back");
    node.bench.disk.sync_dir(&node.bench.layout.volumes_dir(true)).expect("durably");
    let mut node = node.cut_power();
    node.start();
    for n in [1, 2] {
        node.bench.publish(blank(key(n, 0)));
        node.refer(key(n, 0));
    }
    node.everybody_speaks();
    assert!(node.volume_error(key(1, 0)).summary.contains("missing"));
    assert_eq!(node.reference(key(2, 0)).state, SwState::CreatedVolume);
    assert_eq!(node.reference(key(2, 0)).error, None);
    node.bench.disk.create_new(&node.path(key(1, 0)), &bytes, 0o600).expect("put back");
    node.wait(Duration::from_secs(300));
    assert_eq!(node.reference(key(1, 0)).error, None);
}

/// The controller is not left without a word, and an operation that waits for the volume is not ended by it.
#[test]
fn every_volume_says_why_nothing_happens_while_what_is_stored_cannot_be_listed() {
    let mut node = Node::with_volumes(1).cut_power();
    node.bench.start();
    node.bench.publish(blank(key(2, 0)));
    node.bench.publish(VolumeRefConfig { key: reference(key(1, 0)) });
    let began = node.bench.clock.now();
    for look in 0..4 {
        node.bench.disk.fail_at(1, std::io::ErrorKind::Other);
        node.settle();
        for n in [1, 2] {
            let status = node.volume(key(n, 0)).expect("a status");
            let error = status.error.expect("an error");
            let summary = "nothing is made, changed or removed: cannot list /persist";
            assert!(error.summary.starts_with(summary), "look {look}: {error}");
            assert_eq!((status.state, error.time), (SwState::Initial, began), "look {look}");
        }
        assert_eq!(node.bench.rows::<VolumeRefStatus>(), [], "look {look}");
        node.bench.advance(Duration::from_secs(8));
    }
    node.everybody_speaks();
    for n in [1, 2] {
        let status = node.volume(key(n, 0)).expect("a status");
        assert_eq!((status.state, status.error), (SwState::CreatedVolume, None));
    }
    assert_eq!(node.reference(key(1, 0)).error, None);
    assert_eq!(node.guest_reads(key(1, 0)), "first");
}

#[test]
fn a_volume_whose_row_was_lost_is_adopted_with_its_content_and_never_overwritten() {
    let node = Node::with_volumes(1);
    let row = node.bench.layout.row_file("volumemgr", "VolumeRecord", &key(1, 0));
    holdfast_persist::crashsafe::remove_durable(&node.bench.disk, &row).expect("the row is lost");
    let mut node = node.cut_power();
    node.start();
    node.everybody_speaks();
    assert!(node.is_there(&node.path(key(1, 0))), "named by nobody: left alone");
    node.configure(blank(key(1, 0)));
    assert_eq!(node.volume(key(1, 0)).expect("a status").state, SwState::CreatedVolume);
    assert_eq!(node.guest_reads(key(1, 0)), "first");
}

#[test]
fn a_volume_no_longer_wanted_while_it_is_fetched_leaves_nothing() {
    let mut node = Node::new();
    let (bytes, sha256) = image("version 1");
    node.store.put("http://store1/files/1.qcow2", bytes);
    node.bench.publish(http_store(1));
    node.bench.publish(tree(1, &sha256));
    node.bench.publish(downloaded(key(1, 0), 1));
    node.bench.unpublish::<VolumeConfig>(&key(1, 0));
    node.settle();
    assert_eq!(node.bench.rows::<VolumeRecord>(), []);
    assert_eq!(node.bench.disk.list(&node.bench.layout.downloads_dir()).expect("listed"), []);
}

#[test]
fn the_power_may_be_cut_anywhere_while_a_volume_is_made() {
    let (bytes, sha256) = image("version 1");
    for jobs_run in 0..4 {
        let mut node = Node::new();
        node.store.put("http://store1/files/1.qcow2", bytes.clone());
        let tell = |node: &mut Node| {
            node.bench.publish(http_store(1));
            node.bench.publish(tree(1, &sha256));
            node.bench.publish(downloaded(key(1, 0), 1));
        };
        tell(&mut node);
        for _ in 0..jobs_run {
            if !node.bench.jobs().is_empty() {
                node.bench.run_job(|_: &VolumeJob| true);
            }
        }
        let mut node = node.cut_power();
        node.start();
        tell(&mut node);
        node.everybody_speaks();
        assert_eq!(node.guest_reads(key(1, 0)), "version 1", "after {jobs_run} jobs");
        assert_eq!(node.volume(key(1, 0)).expect("a status").error, None);
        assert_eq!(node.bench.disk.list(&node.bench.layout.downloads_dir()).expect("listed"), []);
    }
}
