//! [003] G: restarts of the service and of the node.

use holdfast_agents::domainmgr::vmm::DomainExit;
use holdfast_tests::story::*;

/// G8 (!): a restart of the service never touches a running guest.
#[test]
fn a_restart_of_the_service_leaves_guests_running() {
    let Some(mut story) = Story::deployed() else { return };
    story.request(1);
    story.update_image(2);
    story.expect_running("2");
    let starts = story.guest_starts();
    for _ in 0..2 {
        story.restart_service();
        story.expect_running("2");
        story.expect_available(1, "1");
        story.expect_undisturbed();
    }
    assert_eq!(story.guest_starts(), starts);
}

/// G1: a request is remembered.
#[test]
fn a_request_survives_a_reboot() {
    let Some(mut story) = Story::deployed() else { return };
    story.request(1);
    story.expect_undisturbed();
    story.reboot();
    story.expect_running("1");
    story.update_by_restart("2");
    story.expect_available(1, "1");
}

/// The node boots and runs with the controller away.
#[test]
fn a_reboot_without_a_controller_brings_the_applications_up() {
    let Some(mut story) = Story::deployed() else { return };
    story.controller.faults().offline = true;
    let starts = story.guest_starts();
    story.reboot();
    story.until("the guest to start", || story.guest_starts() > starts);
    story.controller.faults().offline = false;
    story.expect_running("1");
    story.expect_content(DATA, 1, b'a');
}

/// G9, H3 (!): a damaged record is that snapshot's failure, can be deleted, and harms nobody else.
#[test]
fn a_damaged_record_is_a_failed_snapshot_and_nothing_more() {
    let Some(mut story) = Story::deployed() else { return };
    for (n, version) in [(1, "2"), (2, "3")] {
        story.request(n);
        story.update_by_restart(version);
        story.expect_running(version);
    }
    for file in ["snapshotInstanceStatus.json", "volumesSnapshotStatus.json"] {
        story.stop();
        let record = story.persist().join("snapshots").join(snapshot(1).to_string()).join(file);
        let whole = std::fs::read(&record).expect("written");
        std::fs::write(&record, &whole[..whole.len() / 2]).expect("writable");
        story.start();
        story.expect_failed(1, file);
        story.expect_available(2, "2");
        story.expect_running("3");
        story.stop();
        std::fs::write(&record, whole).expect("writable");
        story.start();
        story.expect_running("3");
    }
}

/// A node that keeps failing comes up read-only: guests run, nothing changes, and the report says why.
#[test]
fn a_read_only_node_runs_its_guests_and_changes_nothing() {
    let Some(mut story) = Story::deployed() else { return };
    story.request(1);
    story.update_by_restart("2");
    story.expect_running("2");
    // Due, and to be done when the guest is down: an update that waits for an image, and a deletion.
    story.drop_snapshot(1);
    story.publish_file(3, b"no image");
    story.order_image(3);
    story.expect_app_error("qcow2");
    story.expect_unreported(1);
    story.stop();
    let before = story.stored();

    story.start_read_only("told so");
    story.expect_app_error("read-only: told so");
    story.expect_running("2");
    story.hypervisor.end(APP, DomainExit::Killed);
    story.until("the guest to be started again", || story.guest_starts() == 3);
    story.roll_back(1);
    story.activate(false);
    story.expect_undisturbed();
    story.stop();
    assert_eq!(story.stored(), before);

    story.start();
    story.expect_halted("2");
    story.expect_gone(1);
}
