//! [003] C: rolling back.

use holdfast_agents::volumemgr::steps::FORWARD_TRIES;
use holdfast_tests::story::*;

/// Version 2 runs with data `b`; snapshot 1 holds version 1 with data `a`.
fn upgraded() -> Option<Story> {
    let story = Story::deployed()?;
    story.request(1);
    story.update_image(2);
    story.expect_running("2");
    story.expect_available(1, "1");
    story.guest_writes(DATA, 1, b'b');
    Some(story)
}

/// C4, C5, C7, F2, A4 (!): image and data come back together, and the same snapshot can be named again.
#[test]
fn the_same_snapshot_can_be_rolled_back_to_twice() {
    let Some(story) = upgraded() else { return };
    story.roll_back(1);
    story.expect_running("1");
    story.expect_content(IMAGE, 1, b'1');
    story.expect_content(DATA, 1, b'a');
    story.expect_available(1, "1");

    // The guest goes on writing on both; the snapshot does not change with them.
    story.guest_writes(DATA, 1, b'c');
    story.guest_writes(IMAGE, 1, b'x');
    let starts = story.guest_starts();
    story.roll_back(1);
    story.until("the second rollback", || story.guest_starts() > starts);
    story.expect_running("1");
    story.expect_content(IMAGE, 1, b'1');
    story.expect_content(DATA, 1, b'a');
}

/// C5: a controller that has not caught up does not undo the rollback; a new version is obeyed.
#[test]
fn the_newer_content_is_held_back_until_a_new_version_comes() {
    let Some(mut story) = upgraded() else { return };
    story.roll_back(1);
    story.expect_running("1");
    story.expect_undisturbed();
    story.restart_service();
    story.expect_undisturbed();
    assert_eq!(story.version(), "1");
    story.edit(|device| {
        device.app(APP).version("3");
    });
    story.expect_running("3");
    story.expect_content(IMAGE, 2, b'2');
}

/// C5: also if the list of volumes did not change.
#[test]
fn volumes_that_did_not_change_are_reverted_too() {
    let Some(story) = Story::deployed() else { return };
    story.request(1);
    story.update_by_restart("2");
    story.expect_available(1, "1");
    story.expect_running("2");
    story.guest_writes(DATA, 1, b'b');
    story.roll_back(1);
    story.expect_running("1");
    story.expect_content(DATA, 1, b'a');
}

/// C4: a volume attached later is detached, and not destroyed.
#[test]
fn a_volume_attached_later_is_detached_and_kept() {
    let Some(story) = Story::deployed() else { return };
    story.request(1);
    story.edit(|device| {
        device.add_blank_volume(EXTRA, 4 << 20);
        device.app(APP).volume(EXTRA, 1).version("2");
    });
    story.expect_running("2");
    story.guest_writes(EXTRA, 1, b'e');
    story.roll_back(1);
    story.expect_running("1");
    story.expect_app("only the snapshot's volumes", |app| app.volume_refs.len() == 2);
    story.expect_content(EXTRA, 1, b'e');
}

/// K4's counterpart on qcow2: any of them, the newer ones stay (L4).
#[test]
fn the_oldest_of_three_can_be_rolled_back_to() {
    let Some(story) = Story::deployed() else { return };
    for (n, version, content) in [(1, "2", b'b'), (2, "3", b'c'), (3, "4", b'd')] {
        story.request(n);
        story.update_by_restart(version);
        story.expect_running(version);
        story.guest_writes(DATA, 1, content);
    }
    story.roll_back(1);
    story.expect_running("1");
    story.expect_content(DATA, 1, b'a');
    story.roll_back(3);
    story.expect_running("3");
    story.expect_content(DATA, 1, b'c');
}

/// C6 (!): one volume fails for good; every volume is where it was, the guest runs as before, and a higher counter
/// is obeyed at once.
#[test]
fn a_second_volume_that_fails_leaves_everything_as_it_was() {
    let Some(story) = upgraded() else { return };
    // As often as volumemgr tries; what puts the content back is then let through.
    story.tool.break_times(FORWARD_TRIES as usize, Step::SnapshotApply, DATA);
    story.roll_back(1);
    story.expect_failed(1, "Input/output error");
    story.expect_running("2");
    assert!(story.tool.mend() > 0, "the fault fired");
    story.expect_content(DATA, 1, b'b');
    story.expect_content(IMAGE, 2, b'2');
    story.roll_back(1);
    story.expect_running("1");
    story.expect_content(DATA, 1, b'a');
    story.expect_available(1, "1");
    story.expect_no_app_error();
}

/// A4: each counter value acts exactly once, also across restarts and when the config is delivered again.
#[test]
fn a_counter_acts_once_also_across_restarts() {
    let Some(mut story) = upgraded() else { return };
    story.roll_back(1);
    story.expect_running("1");
    story.guest_writes(DATA, 1, b'z');
    let starts = story.guest_starts();
    story.reboot();
    // The last report is from before the boot and says that it runs.
    story.until("the start after the boot", || story.guest_starts() == starts + 1);
    story.expect_running("1");
    story.expect_undisturbed();
    story.expect_content(DATA, 1, b'z');
}

/// A8: to an unknown id, refused on that application; nothing else happens.
#[test]
fn a_rollback_to_an_unknown_snapshot_is_refused_by_name() {
    let Some(story) = upgraded() else { return };
    story.edit(|device| {
        let mut app = device.app(APP).roll_back(snapshot(1));
        app.message_mut().snapshot.get_or_insert_default().active_snapshot = snapshot(9).to_string();
    });
    story.expect_app_error(&snapshot(9).to_string());
    story.expect_undisturbed();
    assert_eq!(story.version(), "2");
    story.expect_content(DATA, 1, b'b');
}

/// A4: what is delivered again, or older than what was acted on, does nothing.
#[test]
fn a_counter_that_comes_again_or_is_older_does_nothing() {
    let Some(story) = upgraded() else { return };
    story.roll_back(1);
    story.expect_running("1");
    story.roll_back(1);
    story.until("the second rollback", || story.guest_starts() == 4);
    story.expect_running("1");
    story.guest_writes(DATA, 1, b'z');
    for counter in [2, 1, 0, 2] {
        story.edit(|device| {
            let mut app = device.app(APP);
            let section = app.message_mut().snapshot.get_or_insert_default();
            section.rollback_cmd.get_or_insert_default().counter = counter;
        });
        story.expect_undisturbed();
    }
    story.expect_content(DATA, 1, b'z');
    story.expect_no_app_error();
}

/// The guest takes its time to go down, so that the controller gets a word in.
fn rolling_back() -> Option<Story> {
    let story = upgraded()?;
    story.guest_habits(Habits { ignores_power_button: true, ..Habits::default() });
    story.roll_back(1);
    story.expect_under_way();
    Some(story)
}

/// A request is remembered over the rollback, and taken at the next update.
#[test]
fn a_snapshot_asked_for_while_a_rollback_runs_waits_for_the_next_update() {
    let Some(story) = rolling_back() else { return };
    story.request(2);
    story.expect_running("1");
    story.expect_content(DATA, 1, b'a');
    story.expect_unreported(2);
    story.update_image(3);
    story.expect_running("3");
    story.expect_available(2, "1");
    story.expect_available(1, "1");
}

/// C8 (!): the target is safe until the rollback is done; then it is dropped as was asked.
#[test]
fn a_target_that_is_dropped_while_its_rollback_runs_is_deleted_after_it() {
    let Some(story) = rolling_back() else { return };
    story.drop_snapshot(1);
    story.expect_running("1");
    story.expect_content(IMAGE, 1, b'1');
    story.expect_content(DATA, 1, b'a');
    story.expect_unreported(1);
    story.activate(false);
    story.expect_halted("1");
    story.expect_gone(1);
    story.expect_content(DATA, 1, b'a');
    story.expect_content(IMAGE, 1, b'1');
}

/// C8: safe from the maximum too.
#[test]
fn a_target_over_the_maximum_is_given_up_only_after_its_rollback() {
    let Some(story) = rolling_back() else { return };
    story.edit(|device| {
        let app = device.app(APP).max_snapshots(1);
        app.request_snapshot(snapshot(2), SnapshotType::AppUpdate);
    });
    story.expect_running("1");
    story.expect_content(DATA, 1, b'a');
}

/// C6 (!): a higher counter that comes while the rollback fails is obeyed after it.
#[test]
fn a_higher_counter_during_a_failing_rollback_is_obeyed() {
    let Some(story) = upgraded() else { return };
    story.guest_habits(Habits { ignores_power_button: true, ..Habits::default() });
    story.tool.break_times(FORWARD_TRIES as usize, Step::SnapshotApply, DATA);
    story.roll_back(1);
    story.expect_under_way();
    story.roll_back(1);
    story.expect_running("1");
    assert!(story.tool.mend() > 0, "the fault fired");
    story.expect_content(IMAGE, 1, b'1');
    story.expect_content(DATA, 1, b'a');
    story.expect_available(1, "1");
    story.expect_no_app_error();
}

/// C6 (!): so is a newer configuration.
#[test]
fn a_newer_version_during_a_failing_rollback_is_obeyed() {
    let Some(story) = upgraded() else { return };
    story.guest_habits(Habits { ignores_power_button: true, ..Habits::default() });
    story.tool.break_times(FORWARD_TRIES as usize, Step::SnapshotApply, DATA);
    story.roll_back(1);
    story.expect_under_way();
    story.update_image(3);
    story.expect_running("3");
    assert!(story.tool.mend() > 0, "the fault fired");
    story.expect_content(DATA, 1, b'b');
    story.expect_content(IMAGE, 3, b'3');
}

/// F1, F2: the generation that was rolled back from is gone, so its number means the new content when it comes again.
#[test]
fn a_new_purge_may_use_the_generation_that_was_rolled_back_from() {
    let Some(story) = upgraded() else { return };
    story.roll_back(1);
    story.expect_running("1");
    story.expect_no_volume(IMAGE, 2);
    story.publish_image(3);
    story.edit(|device| {
        // Generation 2 once more, of another image.
        device.volume(IMAGE).generation(1);
        device.replace_volume(IMAGE, content_tree(3)).expect("listed");
        device.app(APP).version("3");
    });
    story.expect_running("3");
    story.expect_content(IMAGE, 2, b'3');
    story.expect_content(DATA, 1, b'a');
    story.roll_back(1);
    story.expect_running("1");
    story.expect_content(IMAGE, 1, b'1');
}

/// Two snapshots of one moment are two snapshots.
#[test]
fn two_snapshots_of_one_update_can_each_be_rolled_back_to() {
    let Some(story) = Story::deployed() else { return };
    story.request(1);
    story.request(2);
    story.update_image(2);
    story.expect_running("2");
    story.expect_available(1, "1");
    story.expect_available(2, "1");
    assert_eq!(story.guest_starts(), 2, "the guest went down once");
    story.guest_writes(DATA, 1, b'b');
    story.roll_back(2);
    story.expect_running("1");
    story.expect_content(DATA, 1, b'a');
    story.guest_writes(DATA, 1, b'c');
    story.roll_back(1);
    story.until("the second rollback", || story.guest_starts() == 4);
    story.expect_running("1");
    story.expect_content(IMAGE, 1, b'1');
    story.expect_content(DATA, 1, b'a');
    story.drop_snapshot(2);
    story.activate(false);
    story.expect_halted("1");
    story.expect_gone(2);
    story.expect_available(1, "1");
}

/// An application that does not run is rolled back, and stays down.
#[test]
fn an_application_that_does_not_run_is_rolled_back_and_stays_down() {
    let Some(story) = upgraded() else { return };
    story.activate(false);
    story.expect_halted("2");
    story.roll_back(1);
    story.expect_halted("1");
    story.expect_content(IMAGE, 1, b'1');
    story.expect_content(DATA, 1, b'a');
    assert_eq!(story.guest_starts(), 2);
}

/// D4: in the middle of a rollback.
#[test]
fn an_application_deleted_while_a_rollback_runs_leaves_nothing() {
    let Some(story) = rolling_back() else { return };
    story.remove_app();
    story.expect_nothing_left();
}
