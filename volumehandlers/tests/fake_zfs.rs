//! The fake pool keeps ZFS's rules, and loses in a power cut what ZFS would lose.

use std::path::Path;
use std::sync::Arc;

use holdfast_persist::{Disk, MemDisk};
use holdfast_types::volume::Format;
use holdfast_volumehandlers::testing::{FakeImageTool, FakeZfs, ZfsVerb};
use holdfast_volumehandlers::tool::{Access, ImageTool};
use holdfast_volumehandlers::zvol::zfs::{NewZvol, SnapshotOf};
use holdfast_volumehandlers::zvol::{Dataset, Zfs, ZfsError};
use holdfast_volumehandlers::{HandlerCx, SnapshotName, ToolError};

const CX: fn() -> HandlerCx<'static> = HandlerCx::unattended;
const SIZE_BYTES: u64 = 8 << 20;

fn dataset(name: &str) -> Dataset {
    Dataset::parse(&format!("persist/vault/volumes/{name}")).expect("a good name")
}

fn at(name: &str, snapshot: &str) -> SnapshotOf {
    SnapshotOf { dataset: dataset(name), name: SnapshotName::parse(snapshot).expect("a good name") }
}

fn pool() -> (MemDisk, FakeZfs) {
    let disk = MemDisk::new();
    let root = Dataset::parse("persist").expect("a good name");
    let zfs = FakeZfs::new(Arc::new(disk.clone()), Path::new("/pool"), &root);
    assert_eq!(zfs.room(&root), Err(ZfsError::NoPool { pool: "persist".to_owned() }));
    zfs.make_pool().expect("a new pool");
    (disk, zfs)
}

fn make(zfs: &FakeZfs, name: &str) {
    let properties = vec![("holdfast:state".to_owned(), "whole".to_owned())];
    let new = NewZvol { size_bytes: SIZE_BYTES, block_size_bytes: 16 << 10, properties };
    zfs.create_volume(&dataset(name), &new, &CX()).expect("made");
}

/// Two volumes with a durable write each, and snapshots `a@s` and `b@s`; then a newer write to `a`.
fn prepared() -> (MemDisk, FakeZfs) {
    let (disk, zfs) = pool();
    for name in ["a", "b"] {
        make(&zfs, name);
        zfs.write(&dataset(name), 1, "before").expect("written");
    }
    zfs.snapshot(&[at("a", "s"), at("b", "s")], &CX()).expect("cut");
    zfs.write(&dataset("a"), 1, "after").expect("written");
    zfs.flush(&dataset("a")).expect("flushed");
    (disk, zfs)
}

fn block(zfs: &FakeZfs, name: &str) -> String {
    zfs.device(&dataset(name)).expect("there").blocks.get(&1).cloned().unwrap_or_default()
}

#[test]
fn a_change_is_whole_or_not_there_wherever_the_power_goes() {
    type Step = fn(&FakeZfs) -> Result<(), ZfsError>;
    let steps: [Step; 4] = [
        |zfs| zfs.snapshot(&[at("a", "t"), at("b", "t")], &CX()),
        |zfs| zfs.rollback(&[at("a", "s"), at("b", "s")], &[], "token", &CX()),
        |zfs| zfs.destroy_snapshots(&[at("a", "s"), at("b", "s")], &CX()),
        |zfs| zfs.set_property(&dataset("a"), "holdfast:state", "filling"),
    ];
    for step in steps {
        let (disk, zfs) = prepared();
        let before = zfs.pool().expect("read");
        let begun = disk.call_count();
        step(&zfs).expect("nothing in the way");
        let (calls, after) = (disk.call_count() - begun, zfs.pool().expect("read"));
        for call in 1..=calls {
            let (disk, zfs) = prepared();
            disk.cut_power_at(call);
            step(&zfs).expect_err("the power is gone");
            disk.crash();
            zfs.forget_opens();
            assert_eq!(zfs.pool().expect("read"), before, "cut at call {call}");
            step(&zfs).expect("done again");
            disk.crash();
            zfs.forget_opens();
            assert_eq!(zfs.pool().expect("read"), after, "durable");
        }
    }
}

#[test]
fn a_failed_call_to_the_disk_changes_nothing() {
    for call in 1..5 {
        let (disk, zfs) = prepared();
        let before = zfs.pool().expect("read");
        disk.fail_at(call, std::io::ErrorKind::Other);
        if zfs.snapshot(&[at("a", "t"), at("b", "t")], &CX()).is_err() {
            assert_eq!(zfs.pool().expect("read"), before, "call {call}");
            disk.crash();
            zfs.forget_opens();
            assert_eq!(zfs.pool().expect("read"), before, "call {call}, and after a cut");
        }
    }
}

#[test]
fn what_was_not_flushed_may_be_lost_and_any_transaction_group_takes_it_along() {
    let (disk, zfs) = prepared();
    zfs.write(&dataset("a"), 1, "lost").expect("written");
    assert_eq!(block(&zfs, "a"), "lost");
    disk.crash();
    zfs.forget_opens();
    assert_eq!(block(&zfs, "a"), "after");
    zfs.write(&dataset("a"), 1, "kept").expect("written");
    zfs.set_property(&dataset("b"), "holdfast:state", "whole").expect("set");
    disk.crash();
    zfs.forget_opens();
    assert_eq!(block(&zfs, "a"), "kept");
}

#[test]
fn thousands_of_changes_outlive_many_moves_to_a_new_file() {
    let (disk, zfs) = prepared();
    for turn in 0..2_000 {
        zfs.write(&dataset("a"), 2, &format!("turn {turn}")).expect("written");
        if turn % 3 == 0 {
            zfs.flush(&dataset("a")).expect("flushed");
        }
    }
    zfs.flush(&dataset("a")).expect("flushed");
    disk.crash();
    zfs.forget_opens();
    assert_eq!(zfs.device(&dataset("a")).expect("there").blocks[&2], "turn 1999");
    let length = disk.metadata(Path::new("/pool")).expect("looked").expect("there").size_bytes;
    assert!(length < 1 << 20, "{length}");
}

#[test]
fn what_zfs_refuses_is_refused_and_changes_nothing() {
    let (_disk, zfs) = prepared();
    make(&zfs, "c");
    zfs.foreign_snapshot(&dataset("b"), "operators").expect("cut");
    zfs.hold(&at("a", "s"), "backup").expect("held");
    let before = zfs.pool().expect("read");
    let both = [at("a", "s"), at("b", "s")];

    let newer = zfs.rollback(&both, &[], "token", &CX());
    let names = vec!["operators".to_owned()];
    let object = both[1].to_string();
    assert_eq!(newer, Err(ZfsError::Newer { object, newer: names }));
    let held = zfs.destroy_snapshots(&[at("b", "s"), at("a", "s")], &CX());
    let tags = vec!["backup".to_owned()];
    assert_eq!(held, Err(ZfsError::Held { object: both[0].to_string(), tags }));
    let exists = zfs.snapshot(&[at("c", "s"), at("a", "s")], &CX());
    assert_eq!(exists, Err(ZfsError::Exists { object: both[0].to_string() }));
    let missing = zfs.rollback(&[at("a", "s"), at("c", "s")], &[], "token", &CX());
    assert_eq!(missing, Err(ZfsError::Missing { object: at("c", "s").to_string() }));
    let full = zfs.destroy_volume(&dataset("a"), &CX());
    assert_eq!(full, Err(ZfsError::HasSnapshots { object: dataset("a").to_string() }));
    let long = at("a", &"x".repeat(255));
    assert!(matches!(zfs.snapshot(&[long], &CX()), Err(ZfsError::NameTooLong { .. })));
    let twice = zfs.snapshot(&[at("a", "t"), at("a", "u")], &CX());
    assert!(matches!(twice, Err(ZfsError::Failed { .. })));
    let odd = NewZvol { size_bytes: 5000, block_size_bytes: 16 << 10, properties: Vec::new() };
    assert!(matches!(zfs.create_volume(&dataset("d"), &odd, &CX()), Err(ZfsError::BadProperty { .. })));
    assert_eq!(zfs.pool().expect("read"), before);
}

#[test]
fn an_open_device_is_busy_until_it_is_closed_or_the_power_goes() {
    let (_disk, zfs) = prepared();
    let open = zfs.open(&dataset("a"), "process 1 (qemu)");
    assert_eq!(zfs.user_of(&dataset("a")), Ok(Some("process 1 (qemu)".to_owned())));
    let busy = zfs.rollback(&[at("b", "s"), at("a", "s")], &[], "token", &CX());
    assert!(matches!(busy, Err(ZfsError::Busy { .. })), "{busy:?}");
    zfs.snapshot(&[at("a", "t")], &CX()).expect("a snapshot needs nobody to close it");
    drop(open);
    assert_eq!(zfs.user_of(&dataset("a")), Ok(None));
    let _open = zfs.open(&dataset("b"), "process 2 (qemu)");
    zfs.forget_opens();
    zfs.rollback(&[at("b", "s")], &[], "token", &CX()).expect("rolled back");
}

#[test]
fn a_clone_keeps_its_snapshot() {
    let (_disk, zfs) = prepared();
    let clone = dataset("clone");
    zfs.clone_snapshot(&at("a", "s"), &clone).expect("cloned");
    let refused = zfs.destroy_snapshots(&[at("a", "s")], &CX());
    assert!(matches!(refused, Err(ZfsError::HasClones { .. })), "{refused:?}");
    assert_eq!(zfs.snapshots(&dataset("a")).expect("listed")[0].clones, [clone.to_string()]);
    assert_eq!(zfs.volume(&clone).expect("there").state, None, "a clone bears no property of its origin");
    zfs.remove_dataset(&clone).expect("removed");
    zfs.destroy_snapshots(&[at("a", "s")], &CX()).expect("gone");
    zfs.destroy_volume(&dataset("a"), &CX()).expect("gone");
}

#[test]
fn a_full_pool_takes_nothing_and_lets_go_of_everything() {
    let (disk, zfs) = prepared();
    disk.set_capacity(0);
    assert_eq!(zfs.room(&dataset("a")).expect("looked").available_bytes, 0);
    assert!(matches!(zfs.snapshot(&[at("a", "t")], &CX()), Err(ZfsError::NoSpace { .. })));
    assert!(matches!(zfs.write(&dataset("a"), 9, "more"), Err(ZfsError::NoSpace { .. })));
    zfs.destroy_snapshots(&[at("a", "s")], &CX()).expect("gone");
    zfs.destroy_volume(&dataset("a"), &CX()).expect("gone");

    let (_disk, zfs) = prepared();
    zfs.set_quota(&Dataset::parse("persist/vault").expect("a name"), Some(4 * 16384)).expect("set");
    assert_eq!(zfs.room(&dataset("a")).expect("looked").available_bytes, 16384, "three blocks are used");
    zfs.write(&dataset("a"), 9, "the fourth").expect("written");
    assert!(matches!(zfs.write(&dataset("a"), 10, "the fifth"), Err(ZfsError::Quota { .. })));
}

#[test]
fn a_pool_in_trouble_says_so_and_a_library_may_panic() {
    let (_disk, zfs) = prepared();
    let suspended = ZfsError::Suspended { pool: "persist".to_owned() };
    zfs.set_trouble(Some(suspended.clone()));
    assert_eq!(zfs.volume(&dataset("a")), Err(suspended));
    zfs.set_trouble(Some(ZfsError::ReadOnly { pool: "persist".to_owned() }));
    zfs.volume(&dataset("a")).expect("can be looked at");
    assert!(matches!(zfs.snapshot(&[at("a", "t")], &CX()), Err(ZfsError::ReadOnly { .. })));
    zfs.set_trouble(None);
    zfs.fail_next(ZfsVerb::Snapshots, ZfsError::NotLoaded);
    assert_eq!(zfs.snapshots(&dataset("a")), Err(ZfsError::NotLoaded));
    zfs.panic_next(ZfsVerb::Snapshot, "invalid property value");
    let panicked =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| zfs.snapshot(&[at("a", "t")], &CX())));
    assert!(panicked.is_err());
    zfs.snapshot(&[at("a", "t")], &CX()).expect("only once");
}

#[test]
fn the_image_tool_serves_devices() {
    let (disk, zfs) = prepared();
    let tool = FakeImageTool::new(Arc::new(disk.clone())).with_zfs(zfs.clone());
    let device = dataset("a").device();
    let info = tool.info(&device, Format::Raw, Access::Exclusive).expect("looked");
    assert_eq!(info.virtual_size_bytes, SIZE_BYTES);
    tool.write(&device, 7, "guest").expect("written");
    assert_eq!(tool.content(&device).expect("read"), zfs.device(&dataset("a")).expect("there").blocks);

    let held = tool.hold(&device);
    assert!(zfs.user_of(&dataset("a")).expect("looked").is_some());
    let locked = tool.info(&device, Format::Raw, Access::Exclusive);
    assert!(matches!(locked, Err(ToolError::Locked { .. })));
    drop(held);
    assert_eq!(zfs.user_of(&dataset("a")), Ok(None));

    let image = Path::new("/image");
    tool.create(image, Format::Qcow2, 1 << 20, &CX()).expect("made");
    tool.write(image, 3, "content").expect("written");
    let used = tool.write_device((image, Format::Qcow2), &device, &CX());
    assert!(used.is_err(), "it does not hold zeros");
    make(&zfs, "c");
    tool.write_device((image, Format::Qcow2), &dataset("c").device(), &CX()).expect("written");
    zfs.flush(&dataset("c")).expect("flushed");
    disk.crash();
    zfs.forget_opens();
    assert_eq!(tool.content(&dataset("c").device()).expect("read")[&3], "content");
    let nowhere = tool.write_device((image, Format::Qcow2), &dataset("d").device(), &CX());
    assert!(matches!(nowhere, Err(ToolError::Missing { .. })), "{nowhere:?}");
}
