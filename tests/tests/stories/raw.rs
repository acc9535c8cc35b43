//! [004] M2: a raw disk beside an image, with real qemu-img on a real file system. The image is reverted in place, the disk by
//! a clone of the snapshot, and the application, the controller and the other snapshots notice nothing.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use holdfast_tests::story::*;

const MIB: usize = 1 << 20;
/// Version `n` of what the raw disk is made from.
const RAW_TREE: u8 = 9;

/// Version 1 runs on an image and a data image, both as ever, and on a raw disk that holds `r`.
fn deployed() -> Option<Story> {
    Story::deployed().map(with_raw)
}

fn with_raw(story: Story) -> Story {
    story.serve_file("disk.raw", &vec![b'0'; 4 * MIB]);
    story.edit(|device| {
        device
            .add_content_tree(content_tree(RAW_TREE), STORE, "disk.raw", Format::Raw)
            .max_size_bytes(8 << 20);
        device.add_download_volume(EXTRA, content_tree(RAW_TREE), 64 << 20).name("disk");
        device.app(APP).volume(EXTRA, 1).version("2");
    });
    story.expect_running("2");
    story.guest_writes(EXTRA, 1, b'r');
    story
}

fn update(story: &Story, n: u8, version: &str) {
    story.request(n);
    story.update_by_restart(version);
    story.expect_running(version);
    story.expect_available(n, &(version.parse::<u8>().expect("a number") - 1).to_string());
}

fn roll_back(story: &Story, n: u8, version: &str) {
    let starts = story.guest_starts();
    story.roll_back(n);
    story.until("the rollback", || story.guest_starts() > starts);
    story.expect_running(version);
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).expect("it is there").ino()
}

/// One file holds the disk, and so many lie beside it as its snapshots.
fn expect_files(story: &Story, incarnation: &str, snapshots: usize) {
    let disk = story.image(EXTRA, 1);
    let name = disk.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
    assert!(name.ends_with(incarnation), "{name}");
    story.until("the one that was replaced to go", || story.incarnations(EXTRA, 1).len() == 1);
    let folder = fs::read_dir(disk.parent().expect("a folder")).expect("it is there");
    let names: Vec<String> =
        folder.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let of_disk = names.iter().filter(|other| other.starts_with(&format!("{name}~holdfast-")));
    assert_eq!(of_disk.count(), snapshots, "{names:?}");
    assert!(!names.iter().any(|other| other.starts_with(".tmp~")), "{names:?}");
}

#[test]
fn a_raw_disk_goes_back_by_a_clone_and_an_image_beside_it_in_place() {
    let Some(mut story) = deployed() else { return };
    update(&story, 1, "3");
    let image = inode(&story.image(DATA, 1));
    for (volume, content) in [(DATA, b'b'), (EXTRA, b's')] {
        story.guest_writes(volume, 1, content);
    }
    update(&story, 2, "4");
    story.guest_writes(EXTRA, 1, b't');
    expect_files(&story, "#1.raw", 2);

    roll_back(&story, 1, "2");
    story.expect_content(DATA, 1, b'a');
    story.expect_content(EXTRA, 1, b'r');
    expect_files(&story, "#1.i2.raw", 2);
    assert_eq!(inode(&story.image(DATA, 1)), image, "M4: never cloned");

    // A sibling, newer than what was rolled back to, and after a reboot.
    story.reboot();
    story.expect_running("2");
    roll_back(&story, 2, "3");
    story.expect_content(DATA, 1, b'b');
    story.expect_content(EXTRA, 1, b's');
    expect_files(&story, "#1.i3.raw", 2);
    assert_eq!(inode(&story.image(DATA, 1)), image, "M4: never cloned");

    story.drop_snapshot(1);
    story.drop_snapshot(2);
    story.activate(false);
    story.expect_halted("3");
    story.expect_gone(1);
    story.expect_gone(2);
    expect_files(&story, "#1.i3.raw", 0);
    story.remove_app();
    story.expect_nothing_left();
}

/// B3, I16: the snapshot of a raw disk is a copy, and there is no room for it: refused by name before any downtime, and the
/// update waits; without the snapshot it goes on.
#[test]
fn a_raw_disk_for_whose_copy_there_is_no_room_refuses_the_snapshot_without_downtime() {
    let Some(story) = Story::begin_on_small_disk(64).map(Story::with_app) else { return };
    let story = with_raw(story);
    let disk = fs::OpenOptions::new().write(true).open(story.image(EXTRA, 1)).expect("the disk");
    disk.write_all_at(&vec![1; 36 * MIB], 0).expect("a guest writes a lot");
    disk.sync_all().expect("and flushes");
    let starts = story.guest_starts();
    story.request(1);
    story.update_by_restart("3");
    story.expect_failed(1, "bytes of free space");
    story.expect_failed(1, &EXTRA.to_string());
    story.expect_running("2");
    assert_eq!(story.guest_starts(), starts, "a refusal costs no downtime");
    expect_files(&story, "#1.raw", 0);

    // Dropping the snapshot lets the update go on.
    story.drop_snapshot(1);
    story.expect_running("3");
    story.expect_no_app_error();
    story.expect_gone(1);
}

/// The image cannot be reverted: that is an error and no reason to clone it, and the clone of the disk is never in force.
#[test]
fn an_error_of_the_image_leaves_the_raw_disk_as_it_was() {
    let Some(story) = deployed() else { return };
    update(&story, 1, "3");
    story.guest_writes(DATA, 1, b'b');
    story.guest_writes(EXTRA, 1, b's');
    let disk = inode(&story.image(EXTRA, 1));
    story.tool.break_times(
        holdfast_agents::volumemgr::steps::FORWARD_TRIES as usize,
        Step::SnapshotApply,
        DATA,
    );
    story.roll_back(1);
    story.expect_failed(1, "Input/output error");
    story.expect_running("3");
    assert!(story.tool.mend() > 0, "the fault fired");
    story.expect_content(DATA, 1, b'b');
    story.expect_content(EXTRA, 1, b's');
    expect_files(&story, "#1.raw", 1);
    assert_eq!(inode(&story.image(EXTRA, 1)), disk, "it was never replaced");
    roll_back(&story, 1, "2");
    story.expect_content(EXTRA, 1, b'r');
}
