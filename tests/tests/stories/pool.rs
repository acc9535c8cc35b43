//! The node with its persist directory on a pool, told on real OpenZFS: `make zfs-test` runs these in its guest.

use holdfast_agents::settings::ZfsChoice;
use holdfast_tests::story::*;

/// Version 1 runs on two ZFS volumes, by this way to speak to ZFS; the data holds `a`.
fn deployed(zfs: ZfsChoice) -> Option<Story> {
    let story = Story::begin_on_pool(zfs)?.with_app();
    for volume in [IMAGE, DATA] {
        let device = story.image(volume, 1);
        assert!(device.starts_with("/dev/zvol") && device.exists(), "{}", device.display());
    }
    Some(story)
}

/// Version 2 runs with data `b`; snapshot 1 holds version 1 with data `a`.
fn upgraded() -> Option<Story> {
    let story = deployed(ZfsChoice::Auto)?;
    story.request(1);
    story.update_image(2);
    story.expect_running("2");
    story.expect_available(1, "1");
    story.guest_writes(DATA, 1, b'b');
    Some(story)
}

/// By the library, if it is compiled in.
#[test]
fn the_long_chain_on_a_pool() {
    let Some(story) = deployed(ZfsChoice::Auto) else { return };
    super::chain::tell(story);
}

#[test]
fn the_long_chain_on_a_pool_by_the_zfs_command() {
    let Some(story) = deployed(ZfsChoice::Command) else { return };
    super::chain::tell(story);
}

/// A node that was moved from files to a pool: the data volume stays an image, each new version of the image is a ZFS volume.
/// Both go back together.
#[test]
fn the_long_chain_with_an_image_and_a_zfs_volume() {
    let Some(mut story) = Story::begin_on_pool(ZfsChoice::Off).map(Story::with_app) else { return };
    story.move_to(ZfsChoice::Auto);
    story.update_image(2);
    story.expect_running("2");
    story.expect_no_volume(IMAGE, 1);
    let kinds = [story.image(IMAGE, 2), story.image(DATA, 1)].map(|place| place.starts_with("/dev/zvol"));
    assert_eq!(kinds, [true, false]);

    story.request(1);
    story.update_by_restart("3");
    story.expect_running("3");
    story.expect_available(1, "2");
    story.guest_writes(IMAGE, 2, b'x');
    story.guest_writes(DATA, 1, b'b');
    story.reboot();
    story.expect_running("3");
    for _ in 0..2 {
        let starts = story.guest_starts();
        story.roll_back(1);
        story.until("the rollback", || story.guest_starts() > starts);
        story.expect_running("2");
        story.expect_content(IMAGE, 2, b'2');
        story.expect_content(DATA, 1, b'a');
        story.guest_writes(IMAGE, 2, b'y');
        story.guest_writes(DATA, 1, b'c');
    }
    story.drop_snapshot(1);
    story.activate(false);
    story.expect_halted("2");
    story.expect_gone(1);
    story.remove_app();
    story.expect_nothing_left();
}

/// [000] L, K5: what is not ours is named, nothing of it is destroyed, and the application goes on as it was. Once the operator
/// has taken it away, the same rollback goes through.
#[test]
fn what_stands_in_the_way_of_a_rollback_is_named_and_the_application_goes_on() {
    let Some(story) = upgraded() else { return };
    let device = story.image(DATA, 1);
    let pool = story.pool.as_ref().expect("on a pool");
    let (make, take_away): (&[&[&str]], &[&[&str]]) = (
        &[&["snapshot", "%@daily"], &["hold", "backup", "%@daily"]],
        &[&["release", "backup", "%@daily"], &["destroy", "%@daily"]],
    );
    make.iter().for_each(|words| pool.operate(&device, words));
    let starts = story.guest_starts();
    story.roll_back(1);
    story.expect_app_error("daily");
    story.expect_app_error(&DATA.to_string());
    story.expect_undisturbed();
    story.expect_running("2");
    assert_eq!(story.guest_starts(), starts, "the guest was left alone (I16)");
    story.expect_failed(1, "daily");
    story.expect_content(DATA, 1, b'b');
    story.expect_content(IMAGE, 2, b'2');

    take_away.iter().for_each(|words| pool.operate(&device, words));
    story.roll_back(1);
    story.expect_running("1");
    story.expect_content(DATA, 1, b'a');
    story.expect_no_app_error();
}
