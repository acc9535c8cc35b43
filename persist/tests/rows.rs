//! Rows of persistent topics: durable when reported, whole wherever the power is cut.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use holdfast_persist::layout::MAX_COMPONENT_BYTES;
use holdfast_persist::rows::RowChange;
use holdfast_persist::{Disk, MemDisk, PersistLayout, RealDisk, RowStore};

fn store_on(disk: &MemDisk) -> RowStore {
    RowStore::new(Arc::new(disk.clone()), &PersistLayout::new("/persist"), "zedmanager")
}

fn prepared() -> MemDisk {
    let disk = MemDisk::new();
    PersistLayout::new("/persist").prepare(&disk).unwrap();
    disk
}

fn rows(store: &RowStore, topic: &str) -> Vec<(String, Vec<u8>)> {
    store.load(topic).unwrap().into_iter().map(|row| (row.key, row.bytes)).collect()
}

#[test]
fn rows_come_back_sorted_after_a_power_cut() {
    let disk = prepared();
    let store = store_on(&disk);
    store.put("Operation", "b", b"2").unwrap();
    store.put("Operation", "a", b"1").unwrap();
    store.put("Operation", "a", b"3").unwrap();
    store.put("Counter", "vol#7/x", b"4").unwrap();
    disk.crash();
    let store = store_on(&disk);
    assert_eq!(rows(&store, "Operation"), [("a".into(), b"3".to_vec()), ("b".into(), b"2".to_vec())]);
    assert_eq!(rows(&store, "Counter"), [("vol#7/x".into(), b"4".to_vec())]);
    assert_eq!(rows(&store, "Never"), []);
    assert_eq!(store.load("Operation").unwrap()[0].path, store.path_of("Operation", "a"));
}

#[test]
fn a_deleted_row_stays_deleted() {
    let disk = prepared();
    let store = store_on(&disk);
    store.put("Operation", "a", b"1").unwrap();
    store.delete("Operation", "a").unwrap();
    store.delete("Operation", "a").unwrap();
    store.delete("Never", "a").unwrap();
    disk.crash();
    assert_eq!(rows(&store_on(&disk), "Operation"), []);
}

#[test]
fn wherever_a_group_is_cut_each_row_is_whole_and_the_group_can_be_applied_again() {
    let group = [
        RowChange::Put { topic: "Operation", key: "a", bytes: b"new" },
        RowChange::Put { topic: "Counter", key: "a", bytes: b"7" },
        RowChange::Delete { topic: "Operation", key: "gone" },
    ];
    let fresh = || {
        let disk = prepared();
        let store = store_on(&disk);
        store.put_all(&[("Operation", "a", b"old"), ("Operation", "gone", b"x")]).unwrap();
        disk
    };
    for cut in 1.. {
        let disk = fresh();
        disk.cut_power_at(cut);
        let finished = store_on(&disk).apply(&group).is_ok();
        disk.crash();
        let store = store_on(&disk);
        let found = rows(&store, "Operation");
        assert!(found[0].1 == b"old" || found[0].1 == b"new", "cut {cut}: {found:?}");
        store.apply(&group).unwrap();
        disk.crash();
        let store = store_on(&disk);
        assert_eq!(rows(&store, "Operation"), [("a".into(), b"new".to_vec())]);
        assert_eq!(rows(&store, "Counter"), [("a".into(), b"7".to_vec())]);
        if finished {
            return;
        }
    }
}

#[test]
fn a_group_syncs_each_directory_once() {
    let disk = prepared();
    let store = store_on(&disk);
    store.put_all(&[("A", "1", b"x"), ("B", "1", b"x")]).unwrap();
    let before = disk.call_count();
    store.put_all(&[("A", "1", b"y"), ("B", "1", b"y"), ("A", "2", b"y"), ("B", "2", b"y")]).unwrap();
    let synced: Vec<String> = disk.calls()[before..]
        .iter()
        .filter(|call| call.verb == "sync directory")
        .map(|call| call.path.display().to_string())
        .collect();
    assert_eq!(synced, ["/persist/status/zedmanager/A", "/persist/status/zedmanager/B"]);
    // Four rows of create, sync, rename, and the two directories.
    assert_eq!(disk.call_count() - before, 4 * 3 + 2);
}

#[test]
fn strange_files_are_left_alone_and_temporaries_go() {
    let disk = prepared();
    let store = store_on(&disk);
    store.put("Operation", "a", b"1").unwrap();
    let dir = Path::new("/persist/status/zedmanager/Operation");
    disk.create_new(&dir.join("README"), b"", 0o600).unwrap();
    disk.create_new(&dir.join("a b.json"), b"", 0o600).unwrap();
    disk.create_new(&dir.join(".tmp~b.json"), b"half", 0o600).unwrap();
    disk.create_dir(&dir.join("c.json"), 0o700).unwrap();
    assert_eq!(rows(&store, "Operation"), [("a".into(), b"1".to_vec())]);
    let names: Vec<_> = disk.list(dir).unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, ["README", "a b.json", "a.json", "c.json"]);
}

#[test]
fn a_key_too_long_for_a_file_name_is_refused_by_name() {
    let store = store_on(&prepared());
    let error = store.put("Operation", &"k".repeat(300), b"").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidFilename);
}

#[test]
fn rows_work_on_a_real_disk() {
    let dir = tempfile::tempdir().unwrap();
    let layout = PersistLayout::new(dir.path().join("persist"));
    layout.prepare(&RealDisk).unwrap();
    let store = RowStore::new(Arc::new(RealDisk), &layout, "volumemgr");
    store.put("Volume", "v1#0", b"{}").unwrap();
    store.put("Volume", "v1#1", b"{ }").unwrap();
    store.delete("Volume", "v1#0").unwrap();
    assert_eq!(rows(&store, "Volume"), [("v1#1".into(), b"{ }".to_vec())]);
}

/// An earlier process ended between a row's rename and the sync of its directory.
#[test]
fn a_row_that_was_loaded_survives_a_cut() {
    let disk = prepared();
    let store = store_on(&disk);
    store.put("Topic", "a", b"old").unwrap();
    let path = store.path_of("Topic", "a");
    let unsynced = path.with_file_name("unsynced");
    disk.create_new(&unsynced, b"new", 0o600).unwrap();
    disk.sync_file(&unsynced).unwrap();
    disk.rename(&unsynced, &path).unwrap();
    assert_eq!(store.load("Topic").unwrap()[0].bytes, b"new");
    disk.crash();
    assert_eq!(store.load("Topic").unwrap()[0].bytes, b"new");
}

#[test]
fn a_call_that_fails_is_never_passed_over() {
    let disk = prepared();
    let store = store_on(&disk);
    store.put("Operation", "db", b"x").unwrap();
    let before = disk.call_count();
    store.load("Operation").unwrap();
    for call in 1..=disk.call_count() - before {
        disk.fail_at(call, ErrorKind::PermissionDenied);
        assert_eq!(store.load("Operation").unwrap_err().kind(), ErrorKind::PermissionDenied, "call {call}");
    }
    disk.fail_at(1, ErrorKind::PermissionDenied);
    assert_eq!(store.delete("Operation", "db").unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert_eq!(rows(&store, "Operation").len(), 1, "it is still there");
}

#[test]
fn the_longest_key_is_taken() {
    let store = store_on(&prepared());
    store.put("Operation", &"k".repeat(MAX_COMPONENT_BYTES), b"x").unwrap();
    store.put("Operation", &"k".repeat(MAX_COMPONENT_BYTES + 1), b"x").unwrap_err();
    assert_eq!(rows(&store, "Operation").len(), 1);
}
