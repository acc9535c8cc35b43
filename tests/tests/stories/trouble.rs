//! Guests that do not listen, a hypervisor that fails, a controller that is away.

use std::time::Duration;

use holdfast_agents::domainmgr::vmm::DomainExit;
use holdfast_tests::story::*;

fn stubborn() -> Habits {
    Habits { ignores_power_button: true, ..Habits::default() }
}

fn dies_at_start() -> Habits {
    Habits { dies_at_start: Some("could not open disk image: no luck".to_owned()), ..Habits::default() }
}

fn add_neighbour(story: &Story) {
    story.edit(|device| {
        device.add_blank_volume(OTHER_DATA, 4 << 20);
        device.add_app(OTHER_APP, "other").volume(OTHER_DATA, 1);
    });
    story.expect_of(OTHER_APP, "RUNNING", |app| app.state == 7);
}

fn neighbour_is_well(story: &Story) {
    story.expect_of(OTHER_APP, "RUNNING without an error", |app| app.state == 7 && app.app_err.is_empty());
    assert_eq!(story.hypervisor.starts(OTHER_APP), 1);
}

/// B2: by force after its time is up; the snapshot is cut only then, and is whole.
#[test]
fn a_guest_that_ignores_the_power_button_is_updated_all_the_same() {
    let Some(story) = Story::deployed() else { return };
    add_neighbour(&story);
    story.guest_habits(stubborn());
    story.request(1);
    story.update_image(2);
    story.expect_available(1, "1");
    story.expect_running("2");
    story.guest_writes(DATA, 1, b'b');
    story.roll_back(1);
    story.expect_running("1");
    story.expect_content(DATA, 1, b'a');
    neighbour_is_well(&story);
}

/// The old version is safe in its snapshot while the new one does not come up, and a rollback is obeyed.
#[test]
fn a_qemu_that_dies_at_start_is_reported_and_a_rollback_brings_the_old_version_back() {
    let Some(story) = Story::deployed() else { return };
    add_neighbour(&story);
    story.request(1);
    story.guest_habits(dies_at_start());
    story.update_image(2);
    story.expect_app_error("could not open disk image: no luck");
    story.expect_available(1, "1");
    neighbour_is_well(&story);

    story.guest_habits(Habits::default());
    story.roll_back(1);
    story.expect_running("1");
    story.expect_content(IMAGE, 1, b'1');
    story.expect_no_app_error();
    neighbour_is_well(&story);
}

/// It is tried again by itself; nobody is there to press a button.
#[test]
fn a_qemu_that_died_at_start_is_started_again() {
    let Some(story) = Story::deployed() else { return };
    story.guest_habits(dies_at_start());
    story.update_by_restart("2");
    story.expect_app_error("could not open disk image: no luck");
    assert_eq!(story.version(), "2", "in force, though it does not run");
    story.guest_habits(Habits::default());
    story.expect_running("2");
    story.expect_no_app_error();
}

/// Without a controller nothing changes, and what it said meanwhile is done when it is back.
#[test]
fn a_controller_that_is_away_for_a_while_changes_nothing() {
    let Some(story) = Story::deployed() else { return };
    story.controller.faults().offline = true;
    story.request(1);
    story.update_image(2);
    std::thread::sleep(A_WHILE);
    assert_eq!(story.guest_starts(), 1);
    story.controller.faults().offline = false;
    story.expect_running("2");
    story.expect_available(1, "1");

    story.controller.faults().status = Some(503);
    story.roll_back(1);
    std::thread::sleep(A_WHILE);
    assert_eq!(story.guest_starts(), 2);
    story.controller.faults().status = None;
    story.expect_running("1");
}

/// The delay is for a boot of the node; a restart of the service has none, and stops nothing.
#[test]
fn a_start_delay_counts_at_a_boot_of_the_node_only() {
    let Some(mut story) = Story::deployed() else { return };
    story.edit(|device| {
        device.app(APP).version("2").start_delay_seconds(2);
    });
    story.expect_running("2");
    let starts = story.guest_starts();
    story.restart_service();
    story.expect_running("2");
    assert_eq!(story.guest_starts(), starts);

    story.reboot();
    story.expect_app("START_DELAYED", |app| app.state == 22);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(story.guest_starts(), starts, "not before the delay is over");
    story.expect_running("2");
    assert_eq!(story.guest_starts(), starts + 1);
}

/// A guest that crashes is started again, also while a deletion is due; the deletion uses the moment.
#[test]
fn a_deletion_that_is_due_is_done_when_the_guest_crashes() {
    let Some(story) = Story::deployed() else { return };
    story.request(1);
    story.update_by_restart("2");
    story.expect_running("2");
    story.drop_snapshot(1);
    story.expect_unreported(1);
    story.hypervisor.end(APP, DomainExit::Killed);
    story.expect_gone(1);
    story.expect_running("2");
}
