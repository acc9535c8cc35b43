//! The node with its persist directory on a pool, told on real OpenZFS: `make zfs-test` runs these in its guest.

use holdfast_agents::settings::ZfsChoice;
use holdfast_agents::wire::info::ErrorInfo;
use holdfast_tests::story::*;
use holdfast_types::{LocalAction, SnapshotId, VolumeId};

/// A state of the report.
const RUNNING: i32 = 7;

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

/// Something is in the way of the rollback to snapshot 1: the error says so and names the volume, and the application goes on
/// as it was, guest and content (I16).
fn expect_refused(story: &Story, words: &str) {
    let starts = story.guest_starts();
    expect_as_it_was(story, words);
    assert_eq!(story.guest_starts(), starts, "{words}: the guest was left alone");
}

fn expect_as_it_was(story: &Story, words: &str) {
    story.roll_back(1);
    story.expect_app("the volume and what is in its way", |app| {
        let told = |error: &&ErrorInfo| {
            error.description.contains(words) && error.description.contains(&DATA.to_string())
        };
        app.state == RUNNING && app.app_version == "2" && app.app_err.iter().find(told).is_some()
    });
    story.expect_undisturbed();
    story.expect_failed(1, words);
    story.expect_content(DATA, 1, b'b');
    story.expect_content(IMAGE, 2, b'2');
}

/// [000] L, K5, K6: what somebody else made or uses is named, and nothing of it is destroyed. Once it is taken away, the
/// same rollback goes through.
#[test]
fn what_stands_in_the_way_of_a_rollback_is_named_and_the_application_goes_on() {
    let Some(story) = upgraded() else { return };
    let device = story.image(DATA, 1);
    let pool = story.pool.as_ref().expect("on a pool");
    let zfs = |words: &[&str]| pool.operate(&device, words);

    zfs(&["snapshot", "%@daily"]);
    zfs(&["hold", "backup", "%@daily"]);
    expect_refused(&story, "1 (daily); holds: 1 (backup on daily)");
    zfs(&["release", "backup", "%@daily"]);
    zfs(&["destroy", "%@daily"]);

    let ours = pool.snapshots(&device).pop().expect("the one of snapshot 1");
    zfs(&["clone", &format!("%@{ours}"), "%-copy"]);
    expect_refused(&story, "-copy");
    zfs(&["destroy", "%-copy"]);

    let held = std::fs::File::open(&device).expect("the device");
    // Only with the guest down can be seen that somebody else has the device open, too: it is started again as it was.
    expect_as_it_was(&story, &format!("process {}", std::process::id()));
    drop(held);

    story.roll_back(1);
    story.expect_running("1");
    story.expect_content(DATA, 1, b'a');
    story.expect_no_app_error();
}

/// [004] M1, M3, M5: the data alone goes back, in place, any number of times; the image beside it is left alone. Not under a
/// running guest, not for a wish that nobody knows, and not past what somebody else made.
#[test]
fn one_volume_goes_back_by_itself_on_a_pool() {
    let Some(story) = upgraded() else { return };
    let wish = |key: &str| LocalAction::RevertVolume {
        snapshot: SnapshotId(snapshot(1)),
        volume: Some(VolumeId(DATA)),
        parameters: [(key.to_owned(), "1".to_owned())]
            .into_iter()
            .filter(|(key, _)| !key.is_empty())
            .collect(),
    };
    let expect_refused = |action: LocalAction, words: &str| {
        let refusal = story.plan(action).refusal.expect(words);
        assert!(refusal.contains(words), "{refusal}");
    };
    expect_refused(wish(""), "halted");
    story.activate(false);
    story.expect_halted("2");
    expect_refused(wish("speed"), "speed");

    let device = story.image(DATA, 1);
    let pool = story.pool.as_ref().expect("on a pool");
    pool.operate(&device, &["snapshot", "%@daily"]);
    expect_refused(wish(""), "1 (daily)");
    pool.operate(&device, &["destroy", "%@daily"]);

    let is_volume = |line: &&str| !line.contains('@');
    let volumes = |listed: &str| listed.lines().filter(is_volume).map(str::to_owned).collect::<Vec<_>>();
    let before = pool.listed();
    for content in *b"bcd" {
        story.guest_writes(DATA, 1, content);
        let order = story.order(wish(""));
        story.expect_done(&order);
        story.expect_content(DATA, 1, b'a');
        story.expect_content(IMAGE, 2, b'2');
        assert_eq!(volumes(&pool.listed()), volumes(&before), "the same volumes, by their guids");
    }
    story.activate(true);
    story.expect_running("2");
    story.expect_no_app_error();
}

/// I16: an update whose snapshot finds no room leaves the application as it is, and says why; with room the next one goes through.
#[test]
fn a_quota_that_is_reached_refuses_the_update_and_the_application_goes_on() {
    let Some(story) = deployed(ZfsChoice::Auto) else { return };
    let pool = story.pool.as_ref().expect("on a pool");
    pool.limit_volumes(true);
    story.request(1);
    story.update_by_restart("2");
    let words = format!("{DATA}.1 needs 4194304 bytes of free space, 0 are free");
    story.expect_app_error(&words);
    story.expect_failed(1, &words);
    story.expect_undisturbed();
    story.expect_running("1");
    story.expect_content(DATA, 1, b'a');

    pool.limit_volumes(false);
    story.request(2);
    story.update_by_restart("3");
    story.expect_running("3");
    story.expect_available(2, "1");
    story.expect_content(DATA, 1, b'a');
}
