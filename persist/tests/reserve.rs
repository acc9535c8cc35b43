//! A full disk: the step under way finishes on the reserve, deleting works, and the reserve comes back.

#![allow(clippy::disallowed_methods, reason = "it looks at a real file system")]

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use holdfast_persist::record::{load, store};
use holdfast_persist::{
    Disk, MemDisk, PersistLayout, RealDisk, Reserve, ReserveState, RowStore, with_reserve,
};
use holdfast_types::{Field, Record, Shape};

const BALLAST_BYTES: u64 = 10_000;

struct Node {
    disk: MemDisk,
    layout: PersistLayout,
    reserve: Arc<Reserve>,
    rows: RowStore,
}

#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Note {
    text: String,
}

impl Record for Note {
    const NAME: &'static str = "note";
    const SHAPE: Shape = Shape::Struct(&[Field::mandatory("text")]);
}

/// A node whose disk has room for the ballast, twice over, and then some.
fn node() -> Node {
    let disk = MemDisk::with_capacity(4 * BALLAST_BYTES);
    let layout = PersistLayout::new("/persist");
    layout.prepare(&disk).unwrap();
    start(disk, layout)
}

fn start(disk: MemDisk, layout: PersistLayout) -> Node {
    let reserve = Arc::new(Reserve::with_size(&layout, BALLAST_BYTES));
    reserve.ensure(&disk).unwrap();
    let rows =
        RowStore::new(Arc::new(disk.clone()), &layout, "zedmanager").with_reserve(Arc::clone(&reserve));
    Node { disk, layout, reserve, rows }
}

impl Node {
    /// Somebody else takes all that is left.
    fn fill_up(&self) {
        let free_bytes = self.disk.space(Path::new("/")).unwrap().free_bytes;
        self.disk.write_at(Path::new("/filler"), 0, &vec![1; free_bytes as usize]).unwrap();
        self.disk.sync_file(Path::new("/filler")).unwrap();
        self.disk.sync_dir(Path::new("/")).unwrap();
    }

    fn make_room(&self) {
        self.disk.remove_file(Path::new("/filler")).unwrap();
        self.disk.sync_dir(Path::new("/")).unwrap();
    }
}

#[test]
fn the_reserve_is_really_there_and_survives_a_power_cut() {
    let node = node();
    assert!(!node.reserve.is_spent());
    node.disk.crash();
    let bytes = node.disk.read(&node.layout.reserve_file()).unwrap();
    assert_eq!(bytes.len() as u64, BALLAST_BYTES);
    assert!(!start(node.disk, node.layout).reserve.is_spent());
}

#[test]
fn a_row_on_a_full_disk_is_written_and_new_operations_are_refused() {
    let node = node();
    node.rows.put("Operation", "db", b"old").unwrap();
    node.fill_up();
    node.rows.put("Operation", "db", &[7; 500]).unwrap();
    assert!(node.reserve.is_spent());
    node.disk.crash();
    assert_eq!(node.rows.load("Operation").unwrap()[0].bytes, [7; 500]);
}

#[test]
fn deleting_needs_no_reserve() {
    let node = node();
    node.rows.put("Operation", "db", b"x").unwrap();
    node.fill_up();
    node.rows.delete("Operation", "db").unwrap();
    assert!(!node.reserve.is_spent());
}

#[test]
fn when_the_reserve_is_not_enough_the_row_stays_old_and_the_error_says_why() {
    let node = node();
    node.rows.put("Operation", "db", b"old").unwrap();
    node.fill_up();
    let error = node.rows.put("Operation", "db", &vec![7; BALLAST_BYTES as usize + 500]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    assert!(error.to_string().contains("db.json"), "{error}");
    assert_eq!(node.rows.load("Operation").unwrap()[0].bytes, b"old");
}

#[test]
fn the_reserve_has_its_size_also_when_that_is_no_whole_number_of_chunks() {
    let disk = MemDisk::new();
    let layout = PersistLayout::new("/persist");
    layout.prepare(&disk).unwrap();
    let size_bytes = (1 << 20) + 4321;
    let reserve = Reserve::with_size(&layout, size_bytes);
    assert_eq!(reserve.ensure(&disk).unwrap(), ReserveState::Held);
    assert_eq!(disk.metadata(reserve.path()).unwrap().unwrap().size_bytes, size_bytes);
    // Found whole, it is not written again.
    let calls = disk.call_count();
    assert_eq!(Reserve::with_size(&layout, size_bytes).ensure(&disk).unwrap(), ReserveState::Held);
    assert_eq!(disk.call_count(), calls + 1, "one look");
}

#[test]
fn another_error_leaves_the_reserve_alone() {
    let node = node();
    node.disk.fail_at(3, ErrorKind::Other);
    node.rows.put("Operation", "db", b"x").unwrap_err();
    assert!(!node.reserve.is_spent());
    let missing = || load::<Note>(&node.disk, &node.layout.last_config_file());
    with_reserve(&node.disk, &node.reserve, missing).unwrap_err();
    assert!(!node.reserve.is_spent(), "a record that is not there asks for no room");
}

#[test]
fn the_reserve_never_takes_the_last_of_the_room() {
    for (free_bytes, expected) in [
        (BALLAST_BYTES + BALLAST_BYTES / 2, ReserveState::Spent),
        (2 * BALLAST_BYTES - 1, ReserveState::Spent),
        (2 * BALLAST_BYTES, ReserveState::Held),
        (2 * BALLAST_BYTES + 1, ReserveState::Held),
    ] {
        let disk = MemDisk::new();
        let layout = PersistLayout::new("/persist");
        layout.prepare(&disk).unwrap();
        let space = disk.space(Path::new("/")).unwrap();
        disk.set_capacity(space.total_bytes - space.free_bytes + free_bytes);
        let reserve = Reserve::with_size(&layout, BALLAST_BYTES);
        assert_eq!(reserve.ensure(&disk).unwrap(), expected, "{free_bytes} bytes free");
    }
}

#[test]
fn the_reserve_comes_back_when_there_is_room_again_and_not_before() {
    let node = node();
    node.fill_up();
    node.rows.put("Operation", "db", b"x").unwrap();
    assert_eq!(node.reserve.try_restore(&node.disk).unwrap(), ReserveState::Spent);
    assert!(node.reserve.is_spent());
    node.make_room();
    assert_eq!(node.reserve.try_restore(&node.disk).unwrap(), ReserveState::Held);
    assert!(!node.reserve.is_spent());
    let calls = node.disk.call_count();
    assert_eq!(node.reserve.try_restore(&node.disk).unwrap(), ReserveState::Held);
    assert_eq!(node.disk.call_count(), calls, "asking while it is held costs nothing");
}

#[test]
fn a_node_that_starts_on_a_full_disk_comes_up_with_the_reserve_spent() {
    let node = node();
    node.fill_up();
    node.rows.put("Operation", "db", b"x").unwrap();
    node.disk.crash();
    node.layout.prepare(&node.disk).unwrap();
    let node = start(node.disk, node.layout);
    assert!(node.reserve.is_spent());
    node.rows.delete("Operation", "db").unwrap();
}

#[test]
fn wherever_the_power_is_cut_making_the_reserve_it_is_whole_or_made_again() {
    for cut in 1.. {
        let disk = MemDisk::with_capacity(4 * BALLAST_BYTES);
        let layout = PersistLayout::new("/persist");
        layout.prepare(&disk).unwrap();
        disk.cut_power_at(cut);
        let finished = Reserve::with_size(&layout, BALLAST_BYTES).ensure(&disk).is_ok();
        disk.crash();
        let node = start(disk, layout);
        assert!(!node.reserve.is_spent());
        assert_eq!(node.disk.read(&node.layout.reserve_file()).unwrap().len() as u64, BALLAST_BYTES);
        if finished {
            return;
        }
    }
}

#[test]
fn records_can_use_the_reserve_too() {
    let node = node();
    let path = node.layout.checkpoint_dir().join("note.json");
    let note = Note { text: "n".repeat(100) };
    let write = || store(&node.disk, &path, &note);
    assert!(!with_reserve(&node.disk, &node.reserve, write).unwrap().reserve_used);
    node.fill_up();
    assert!(with_reserve(&node.disk, &node.reserve, write).unwrap().reserve_used);
}

#[test]
fn on_a_real_disk_the_default_reserve_takes_real_room() {
    let dir = tempfile::tempdir().unwrap();
    let layout = PersistLayout::new(dir.path().join("persist"));
    layout.prepare(&RealDisk).unwrap();
    let reserve = Reserve::new(&layout);
    if reserve.ensure(&RealDisk).unwrap() == ReserveState::Spent {
        eprintln!("skipped: no room for the reserve on {}", dir.path().display());
        return;
    }
    let blocks = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(layout.reserve_file()).unwrap());
    assert!(blocks * 512 >= 8 << 20, "only {blocks} blocks");
    assert!(reserve.release(&RealDisk).unwrap());
    assert!(!reserve.release(&RealDisk).unwrap());
    assert!(reserve.is_spent());
}

/// A real file system of this size; unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(size_bytes: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={size_bytes}");
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(dir.path())
            .output();
        mounted.is_ok_and(|done| done.status.success()).then_some(SmallDisk(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0.path()).output();
    }
}

#[test]
fn on_a_real_full_disk_the_row_is_written_and_the_reserve_comes_back() {
    let Some(small) = SmallDisk::mount(4 << 20) else {
        eprintln!("skipped: no small file system can be mounted here");
        return;
    };
    let layout = PersistLayout::new(small.0.path().join("persist"));
    layout.prepare(&RealDisk).unwrap();
    let reserve = Arc::new(Reserve::with_size(&layout, 1 << 20));
    assert_eq!(reserve.ensure(&RealDisk).unwrap(), ReserveState::Held);
    let rows = RowStore::new(Arc::new(RealDisk), &layout, "zedmanager").with_reserve(Arc::clone(&reserve));
    rows.put("Operation", "db", b"old").unwrap();

    let filler = layout.downloads_dir().join("filler");
    let error = RealDisk.write_at(&filler, 0, &vec![1; 8 << 20]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    layout.prepare(&RealDisk).unwrap();
    rows.put("Operation", "db", &[7; 5000]).unwrap();
    assert!(reserve.is_spent());
    assert_eq!(rows.load("Operation").unwrap()[0].bytes, [7; 5000]);
    assert_eq!(reserve.try_restore(&RealDisk).unwrap(), ReserveState::Spent);

    RealDisk.remove_file(&filler).unwrap();
    assert_eq!(reserve.try_restore(&RealDisk).unwrap(), ReserveState::Held);
}
