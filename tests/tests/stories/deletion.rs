//! [003] D: deleting snapshots and applications.

use holdfast_tests::story::*;

fn with_snapshot() -> Option<Story> {
    let story = Story::deployed()?;
    story.request(1);
    story.update_image(2);
    story.expect_running("2");
    story.expect_available(1, "1");
    Some(story)
}

/// D1: the report drops it at once; the data goes when the guest is down for another reason.
#[test]
fn under_a_running_guest_the_data_goes_at_the_next_stop() {
    let Some(story) = with_snapshot() else { return };
    story.drop_snapshot(1);
    story.expect_unreported(1);
    story.expect_undisturbed();
    assert!(story.image(IMAGE, 1).exists(), "still there: deleting never stops an application");
    story.activate(false);
    story.expect_halted("2");
    story.expect_gone(1);
    story.expect_no_volume(IMAGE, 1);
}

#[test]
fn of_a_stopped_application_the_data_goes_at_once() {
    let Some(story) = with_snapshot() else { return };
    story.activate(false);
    story.expect_halted("2");
    story.drop_snapshot(1);
    story.expect_gone(1);
    story.expect_no_volume(IMAGE, 1);
}

/// D3, G7 (!): at the start after a boot, before the application starts.
#[test]
fn a_deletion_that_is_due_is_done_at_boot() {
    let Some(mut story) = with_snapshot() else { return };
    story.drop_snapshot(1);
    story.expect_unreported(1);
    story.reboot();
    story.expect_gone(1);
    story.expect_no_volume(IMAGE, 1);
    story.expect_running("2");
}

/// D2 (!): an error that lasts shows up on the snapshot again, and the deletion is done when it can be.
#[test]
fn a_deletion_that_fails_is_reported_and_done_later() {
    let Some(story) = with_snapshot() else { return };
    story.activate(false);
    story.expect_halted("2");
    story.tool.break_on(Step::SnapshotDelete, DATA);
    story.drop_snapshot(1);
    story.expect_failed(1, "Input/output error");
    assert!(story.tool.mend() > 0, "the fault fired");
    story.expect_unreported(1);
    story.expect_gone(1);
}

/// D4 (!): after a rollback, with a snapshot there and a kept volume about.
#[test]
fn an_application_deleted_after_a_rollback_leaves_nothing() {
    let Some(story) = with_snapshot() else { return };
    story.roll_back(1);
    story.expect_running("1");
    story.remove_app();
    story.expect_nothing_left();
}

/// D4: while its update runs.
#[test]
fn an_application_deleted_in_the_middle_of_an_update_leaves_nothing() {
    let Some(story) = Story::deployed() else { return };
    story.request(1);
    story.update_image(2);
    story.until("the update to begin", || story.guest_starts() > 1 || story.image(IMAGE, 2).exists());
    story.remove_app();
    story.expect_nothing_left();
}

/// I15: the neighbour does not notice.
#[test]
fn deleting_one_application_leaves_the_other_alone() {
    let Some(story) = with_snapshot() else { return };
    story.edit(|device| {
        device.add_blank_volume(OTHER_DATA, 4 << 20);
        device.add_app(OTHER_APP, "other").volume(OTHER_DATA, 1);
    });
    story.expect_of(OTHER_APP, "RUNNING", |app| app.state == 7);
    story.guest_writes(OTHER_DATA, 1, b'o');
    story.remove_app();
    story.expect_no_volume(DATA, 1);
    story.expect_content(OTHER_DATA, 1, b'o');
    assert_eq!(story.hypervisor.starts(OTHER_APP), 1);
}

/// A volume that is still listed stays, with what is in it, for whoever comes next.
#[test]
fn a_volume_that_is_still_listed_outlives_its_application() {
    let Some(story) = with_snapshot() else { return };
    story.guest_writes(DATA, 1, b'd');
    story.remove_app_alone();
    story.expect_gone(1);
    story.expect_no_volume(IMAGE, 1);
    story.expect_content(DATA, 1, b'd');
    story.expect_content(IMAGE, 2, b'2');
    story.edit(|device| {
        device.add_app(APP, "db again").version("7").volume(IMAGE, 2).volume(DATA, 1);
    });
    story.expect_running("7");
    story.expect_content(DATA, 1, b'd');
    story.remove_app();
    story.expect_nothing_left();
}
