//! [003] B: creating snapshots.

use holdfast_tests::story::*;

/// B1–B7, F1: two volumes, one replaced by the purge and one kept.
#[test]
fn an_update_by_purge_takes_the_snapshot_of_both_volumes_first() {
    let Some(story) = Story::deployed() else { return };
    story.request(1);
    story.expect_undisturbed();
    story.expect_unreported(1);

    story.update_image(2);
    story.expect_running("2");
    story.expect_available(1, "1");
    assert_eq!(story.guest_starts(), 2, "one stop, one start");
    story.expect_content(IMAGE, 2, b'2');
    story.expect_content(IMAGE, 1, b'1');
    story.expect_content(DATA, 1, b'a');
}

/// F1: without a snapshot the replaced generation goes when nothing refers to it.
#[test]
fn without_a_snapshot_a_purge_leaves_nothing_of_the_old_generation() {
    let Some(story) = Story::deployed() else { return };
    story.update_image(2);
    story.expect_running("2");
    story.expect_no_volume(IMAGE, 1);
}

/// A3 (!): a restart is an update too.
#[test]
fn an_update_by_restart_alone_takes_the_snapshot() {
    let Some(story) = Story::deployed() else { return };
    story.request(1);
    story.update_by_restart("2");
    story.expect_running("2");
    story.expect_available(1, "1");
}

/// A2: now, with the guest stopped and started again.
#[test]
fn an_immediate_snapshot_is_taken_at_once() {
    let Some(story) = Story::deployed() else { return };
    story.edit(|device| {
        device.app(APP).request_snapshot(snapshot(1), SnapshotType::Immediate);
    });
    story.expect_available(1, "1");
    story.expect_running("1");
    assert_eq!(story.guest_starts(), 2);
}

/// A3: also for an application whose guest is not running.
#[test]
fn an_application_that_does_not_run_is_snapshotted_at_its_update() {
    let Some(story) = Story::deployed() else { return };
    story.activate(false);
    story.expect_halted("1");
    story.request(1);
    story.update_image(2);
    story.expect_available(1, "1");
    story.expect_halted("2");
    assert_eq!(story.guest_starts(), 1, "never started for it");
}

/// B3 (!): a read-only volume is recorded as unchanged and blocks nothing.
#[test]
fn a_read_only_iso_does_not_block_the_snapshot() {
    let Some(story) = Story::deployed() else { return };
    story.serve_file("tools.iso", &[0x11; 8192]);
    let tree = uuid::Uuid::from_u128(0x1234_0000_0000_4000_8000_0000_0000_0001);
    story.edit(|device| {
        device.add_content_tree(tree, STORE, "tools.iso", Format::Iso);
        device.add_download_volume(EXTRA, tree, 0).read_only();
        device.app(APP).volume(EXTRA, 1).version("2");
    });
    story.expect_running("2");
    story.request(1);
    story.update_by_restart("3");
    story.expect_available(1, "2");
    story.roll_back(1);
    story.expect_running("2");
}

/// B5: all volumes or none; what was made on the first is removed again.
#[test]
fn a_second_volume_that_fails_undoes_the_first() {
    let Some(story) = Story::deployed() else { return };
    story.tool.break_on(Step::SnapshotCreate, DATA);
    story.request(1);
    story.update_image(2);
    story.expect_failed(1, "Input/output error");
    story.expect_running("1");
    assert!(story.tool.mend() > 0, "the fault fired");
    story.expect_gone(1);
    story.expect_content(IMAGE, 1, b'1');
    story.expect_content(DATA, 1, b'a');

    // Anything new from the controller is another try, with the snapshot.
    story.edit(|device| {
        device.app(APP).version("2b");
    });
    story.expect_running("2b");
    story.expect_available(1, "1");
}

/// A7 (!): dropped before it was taken; asking again is a new request.
#[test]
fn a_request_that_is_dropped_leaves_nothing_behind() {
    let Some(story) = Story::deployed() else { return };
    story.request(1);
    story.expect_undisturbed();
    story.drop_snapshot(1);
    story.expect_undisturbed();
    story.update_by_restart("2");
    story.expect_running("2");
    story.expect_unreported(1);
    story.expect_gone(1);
    story.request(1);
    story.update_by_restart("3");
    story.expect_available(1, "2");
}
