//! Bad input: a clear message on the right object, the rest of the node working, nothing lost.

use holdfast_tests::story::*;

fn with_neighbour() -> Option<Story> {
    let story = Story::deployed()?;
    story.edit(|device| {
        device.add_blank_volume(OTHER_DATA, 4 << 20);
        device.add_app(OTHER_APP, "other").volume(OTHER_DATA, 1);
    });
    story.expect_of(OTHER_APP, "RUNNING", |app| app.state == 7);
    Some(story)
}

fn neighbour_is_well(story: &Story) {
    story.expect_of(OTHER_APP, "RUNNING without an error", |app| app.state == 7 && app.app_err.is_empty());
    assert_eq!(story.hypervisor.starts(OTHER_APP), 1);
}

/// A8: ids that are no UUIDs, or hold `/` or `..`, are never used for anything.
#[test]
fn snapshot_ids_that_are_no_uuids_are_refused_on_their_application() {
    let Some(story) = with_neighbour() else { return };
    for bad in ["s1", "../../../../tmp/x", "a/b", ""] {
        story.edit(|device| {
            device.app(APP).request_snapshot(bad, SnapshotType::Immediate);
        });
        story.expect_app_error("UUID");
        story.expect_undisturbed();
        story.edit(|device| {
            device.app(APP).drop_snapshot(bad);
        });
        story.expect_no_app_error();
    }
    neighbour_is_well(&story);
}

#[test]
fn a_snapshot_id_listed_twice_is_refused() {
    let Some(story) = with_neighbour() else { return };
    story.request(1);
    story.request(1);
    story.expect_app_error(&snapshot(1).to_string());
    neighbour_is_well(&story);
}

/// A8: an id that belongs to another application.
#[test]
fn a_snapshot_id_of_another_application_is_refused() {
    let Some(story) = with_neighbour() else { return };
    story.request(1);
    story.update_by_restart("2");
    story.expect_available(1, "1");
    story.edit(|device| {
        device.app(OTHER_APP).request_snapshot(snapshot(1), SnapshotType::Immediate);
    });
    story.expect_of(OTHER_APP, "an error naming the snapshot", |app| {
        app.app_err.iter().any(|error| error.description.contains(&snapshot(1).to_string()))
    });
    story.expect_available(1, "1");
}

#[test]
fn an_unknown_volume_is_named() {
    let Some(story) = with_neighbour() else { return };
    story.edit(|device| {
        device.app(APP).volume(EXTRA, 1).version("2");
    });
    story.expect_app_error(&EXTRA.to_string());
    assert_eq!(story.version(), "1", "the old version runs");
    neighbour_is_well(&story);
    story.edit(|device| {
        device.add_blank_volume(EXTRA, 1 << 20);
    });
    story.expect_running("2");
}

/// A download whose digest differs is not used; the corrected one is.
#[test]
fn a_sha256_that_does_not_match_is_named_and_the_old_version_runs() {
    let Some(story) = with_neighbour() else { return };
    story.publish_image(2);
    story.serve_file("image-2.qcow2", b"something else");
    story.edit(|device| {
        let tree = uuid::Uuid::from_u128(0xf000_0000_0000_4000_8000_0000_0000_0002);
        device.replace_volume(IMAGE, tree).expect("listed");
        device.app(APP).version("2");
    });
    story.expect_app_error("sha256");
    assert_eq!(story.version(), "1");
    neighbour_is_well(&story);
    story.publish_image(2);
    story.expect_running("2");
}

/// A9: a config that does not decode leaves the last good one in force, and is reported.
#[test]
fn a_config_that_does_not_decode_changes_nothing() {
    let Some(story) = with_neighbour() else { return };
    story.controller.faults().config_body = Some(b"\xff\xffno protobuf".to_vec());
    story.edit(|device| {
        device.app(APP).version("2").restart();
    });
    story.expect_undisturbed();
    story.controller.faults().config_body = None;
    story.expect_running("2");
    neighbour_is_well(&story);
}

/// A download that breaks off is taken up again where it broke.
#[test]
fn a_broken_download_is_resumed() {
    let Some(story) = Story::deployed() else { return };
    story.publish_image(2);
    story.controller.faults().break_download("image-2.qcow2", 100_000);
    story.update_image(2);
    story.expect_running("2");
    story.expect_content(IMAGE, 2, b'2');
    let downloads = story.controller.downloads();
    assert!(downloads.iter().any(|download| download.from_bytes > 0), "{downloads:?}");
}

/// The digest is right and the content is not: said on the application, the old version runs, a good image mends it.
#[test]
fn an_image_that_is_no_qcow2_is_named_and_the_old_version_runs() {
    broken_image(|_| vec![0x5a; 300_000], "qcow2");
}

#[test]
fn a_qcow2_that_was_cut_short_is_named_and_the_old_version_runs() {
    broken_image(|story| story.make_image(b'2')[..400_000].to_vec(), "corruptions");
}

/// Of one that ends before its tables QEMU itself says nothing, and shows an empty disk.
#[test]
fn a_qcow2_without_its_tables_is_named_and_the_old_version_runs() {
    broken_image(|story| story.make_image(b'2')[..150_000].to_vec(), "cut short");
}

/// It would read a file of the node's.
#[test]
fn a_qcow2_with_a_backing_file_is_refused_and_the_old_version_runs() {
    broken_image(
        |story| {
            let secret = story.persist().join("secret");
            std::fs::write(&secret, [b's'; 4096]).expect("writable");
            story.make_overlay_of(&secret)
        },
        "backing",
    );
}

fn broken_image(bytes: impl FnOnce(&Story) -> Vec<u8>, named: &str) {
    let Some(story) = with_neighbour() else { return };
    story.request(1);
    story.publish_file(2, &bytes(&story));
    story.order_image(2);
    story.expect_app_error(named);
    story.expect_undisturbed();
    assert_eq!(story.version(), "1", "the old version runs");
    story.expect_content(IMAGE, 1, b'1');
    story.expect_content(DATA, 1, b'a');
    neighbour_is_well(&story);

    // Stopping the application and starting it again do not need the update to succeed.
    story.activate(false);
    story.expect_halted("1");
    story.activate(true);
    story.expect_running("1");

    story.publish_image(2);
    story.expect_running("2");
    story.expect_content(IMAGE, 2, b'2');
    story.expect_available(1, "1");
    story.expect_no_app_error();
    neighbour_is_well(&story);
}

/// The neighbours are judged one by one.
#[test]
fn an_application_without_an_id_is_refused_alone() {
    let Some(story) = with_neighbour() else { return };
    for bad in ["", "db", "../../etc"] {
        story.edit(|device| {
            device.add_app(bad, "bad").volume(DATA, 1);
        });
        story.update_by_restart(&format!("1 {bad}"));
        story.expect_running(&format!("1 {bad}"));
        story.edit(|device| device.remove_app(bad));
    }
    neighbour_is_well(&story);
}
