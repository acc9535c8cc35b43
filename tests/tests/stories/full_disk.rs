//! A full disk: what is new is refused with its reason, deleting works, nothing is lost, and no restart loops.

use holdfast_tests::story::*;

/// Version 2 runs, snapshot 1 holds version 1, and the disk is full.
fn full() -> Option<Story> {
    let story = Story::begin_on_small_disk(24)?.upgraded_by_restart();
    story.small_disk.as_ref().expect("on a small disk").fill();
    Some(story)
}

#[test]
fn a_full_disk_refuses_the_update_and_space_lets_it_go_on() {
    let Some(mut story) = full() else { return };
    story.request(2);
    story.update_by_restart("3");
    story.expect_app_error("no space");
    story.expect_undisturbed();
    story.expect_available(1, "1");

    // A start on a full disk is a start like any other.
    let starts = story.guest_starts();
    story.restart_service();
    story.expect_app_error("no space");
    story.expect_available(1, "1");
    assert_eq!((story.guest_starts(), story.version()), (starts, "2".to_owned()));

    story.small_disk.as_ref().expect("on a small disk").empty();
    story.expect_running("3");
    story.expect_available(2, "2");
    story.expect_no_app_error();
    story.expect_content(DATA, 1, b'a');
}

/// An application can be stopped, and its snapshot deleted, whatever its update waits for.
#[test]
fn on_a_full_disk_a_snapshot_can_be_deleted() {
    let Some(story) = full() else { return };
    story.update_by_restart("3");
    story.expect_app_error("no space");
    story.drop_snapshot(1);
    story.expect_unreported(1);
    story.activate(false);
    story.expect_halted("2");
    story.expect_gone(1);
    story.expect_content(DATA, 1, b'a');
}

#[test]
fn on_a_full_disk_an_application_can_be_deleted() {
    let Some(story) = full() else { return };
    story.remove_app();
    story.expect_nothing_left();
}
