//! Rows of persistent topics: durable when reported, whole wherever the power is cut.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use holdfast_persist::layout::MAX_COMPONENT_BYTES;
use holdfast_persist::mem_disk::{Fate, Unsynced};
use holdfast_persist::rows::RowChange;
use holdfast_persist::{Disk, MemDisk, PersistLayout, RealDisk, RowStore};
use tempfile::TempDir;

fn store_on(disk: &MemDisk) -> RowStore {
    RowStore::new(Arc::new(disk.clone()), &PersistLayout::new("/persist"), "zedmanager")
}

fn on_a_real_disk() -> (TempDir, RowStore) {
    let dir = tempfile::tempdir().unwrap();
    let layout = PersistLayout::new(dir.path().join("persist"));
    layout.prepare(&RealDisk).unwrap();
    let store = RowStore::new(Arc::new(RealDisk), &layout, "volumemgr");
    (dir, store)
}

/// With and without the exchange of names.
fn both() -> [MemDisk; 2] {
    let disks = [prepared(), prepared()];
    disks[1].exchange_no_names();
    disks
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
    // Four rows of create, sync, look, exchange or rename, and the two directories.
    assert_eq!(disk.call_count() - before, 4 * 4 + 2);
}

/// What survives of un-synced content, and of un-synced names.
const SURVIVALS: [(Fate, Fate); 5] = [
    (Fate::Lost, Fate::Lost),
    (Fate::Kept, Fate::Lost),
    (Fate::Torn { sector_bytes: 2, kept_sectors: 0b0110 }, Fate::Lost),
    (Fate::Lost, Fate::Kept),
    (Fate::Torn { sector_bytes: 2, kept_sectors: 0b1001 }, Fate::Kept),
];

/// The file that a row had before has its name until the directory is synced: whatever fails, wherever the power is cut, and though
/// the process that exchanged them ended before it synced, nobody writes over it before.
#[test]
fn a_spare_is_written_over_only_when_no_cut_can_give_it_the_name_back() {
    let values: [&[u8]; 6] = [b"first", b"the second", b"3rd", b"the fourth", b"number 5", b"6"];
    let mut most_calls = 0;
    for fails_at in 0.. {
        let survivals = SURVIVALS.into_iter().flat_map(|survival| [(survival, 0), (survival, 1)]);
        for (cut_at, ((content, names), kind)) in
            (1..).flat_map(|cut| survivals.clone().map(move |survival| (cut, survival)))
        {
            let disk = both()[kind].clone();
            let mut store = store_on(&disk);
            store.put("Operation", "a", values[0]).unwrap();
            let before = disk.call_count();
            if fails_at > 0 {
                disk.fail_at(fails_at, ErrorKind::Other);
            }
            disk.cut_power_at(cut_at);
            let mut whole = vec![values[0]];
            for (number, value) in (1..).zip(&values[1..]) {
                // Another process goes on, on what the first has left in the memory of the machine.
                if number == 4 {
                    store = store_on(&disk);
                    if store.load("Operation").is_err() {
                        break;
                    }
                }
                match store.put("Operation", "a", value) {
                    Ok(()) => whole = vec![value],
                    Err(_) => whole.push(value),
                }
            }
            let calls = disk.call_count() - before;
            most_calls = most_calls.max(calls);
            disk.crash_with(&mut |unsynced| match unsynced {
                Unsynced::Content { .. } => content,
                Unsynced::Names { .. } => names,
            });
            let found = rows(&store_on(&disk), "Operation");
            assert!(
                found.len() == 1 && whole.contains(&&*found[0].1),
                "call {fails_at} fails, cut at {cut_at}, {content:?} {names:?}: {found:?}, not one of {whole:?}"
            );
            if calls < cut_at {
                break;
            }
        }
        if fails_at > most_calls {
            return;
        }
    }
}

/// Whatever two calls fail, and however often a row was put before.
#[test]
fn what_a_failed_change_leaves_beside_a_row_goes_with_the_row() {
    const CALLS: usize = 40;
    let mut most_calls = 0;
    for puts_before in 0..3 {
        for (first, second, kind) in (1..CALLS)
            .flat_map(|first| (0..CALLS).map(move |second| (first, second)))
            .flat_map(|(first, second)| [(first, second, 0), (first, second, 1)])
        {
            let disk = both()[kind].clone();
            let store = store_on(&disk);
            let put = |bytes| store.put_all(&[("Operation", "a", bytes), ("Operation", "b", bytes)]);
            (0..puts_before).try_for_each(|_| put(b"before")).unwrap();
            let before = disk.call_count();
            disk.fail_at(first, ErrorKind::Other);
            disk.fail_at(second, ErrorKind::Other);
            let deletion = ["a", "b"].map(|key| RowChange::Delete { topic: "Operation", key });
            // It may fail or not.
            let _ = put(b"and then");
            // Until it is done: a deletion that fails is done again.
            let tries = (0..3).take_while(|_| store.apply(&deletion).is_err()).count();
            assert!(tries < 3, "it fails for ever");
            most_calls = most_calls.max(disk.call_count() - before);
            let files: Vec<_> = disk.all_files().into_iter().filter(|file| !file.ends_with("lock")).collect();
            assert!(files.is_empty(), "{puts_before} puts, calls {first} and {second} fail: {files:?}");
        }
    }
    assert!((10..CALLS).contains(&most_calls), "{most_calls} calls were made at most");
}

/// What somebody else has put in a row's place, or has opened to others, does not become a row's file.
#[test]
fn only_a_file_of_the_nodes_own_making_becomes_a_spare() {
    let (dir, store) = on_a_real_disk();
    let put = |text: &str| store.put("Volume", "v1", text.as_bytes());
    let path = store.path_of("Volume", "v1");
    put("1").unwrap();
    RealDisk.remove_file(&path).unwrap();
    RealDisk.create_new(&path, b"1", 0o644).unwrap();
    for text in ["2", "3", "4"] {
        put(text).unwrap();
        assert_eq!(RealDisk.metadata(&path).unwrap().unwrap().mode, 0o600, "after {text}");
    }
    let outside = dir.path().join("outside");
    RealDisk.create_new(&outside, b"another's", 0o600).unwrap();
    RealDisk.remove_file(&path).unwrap();
    std::os::unix::fs::symlink(&outside, &path).unwrap();
    ["5", "6", "7"].into_iter().try_for_each(put).unwrap();
    assert_eq!(RealDisk.read(&outside).unwrap(), b"another's");
    assert_eq!(rows(&store, "Volume"), [("v1".into(), b"7".to_vec())]);
    RealDisk.remove_file(&path).unwrap();
    RealDisk.create_dir(&path, 0o700).unwrap();
    for text in ["8", "9"] {
        assert_eq!(put(text).unwrap_err().kind(), ErrorKind::IsADirectory);
    }
    RealDisk.remove_dir(&path).unwrap();
    put("10").unwrap();
    assert_eq!(rows(&store, "Volume"), [("v1".into(), b"10".to_vec())]);
}

#[test]
fn a_row_that_is_replaced_again_and_again_is_written_into_the_file_it_had_before() {
    let disk = prepared();
    let store = store_on(&disk);
    for value in [b"1", b"2"] {
        store.put("Operation", "a", value).unwrap();
    }
    let before = disk.call_count();
    store.put("Operation", "a", b"3 is longer").unwrap();
    store.put("Operation", "a", b"4").unwrap();
    let verbs: Vec<&str> = disk.calls()[before..].iter().map(|call| call.verb).collect();
    let each = ["write", "truncate", "sync file", "look at", "exchange", "sync directory"];
    assert_eq!(verbs, [each, each].concat());
    let files = || disk.all_files().into_iter().filter(|file| !file.ends_with("lock")).collect::<Vec<_>>();
    assert_eq!(files().len(), 2, "{:?}", files());

    // Those of an earlier process are nobody's to write over, and a load changes nothing.
    for deleted_after in 0..3 {
        store.put("Operation", "a", b"4").and_then(|()| store.put("Operation", "a", b"5")).unwrap();
        let store = store_on(&disk);
        assert_eq!(rows(&store, "Operation"), [("a".into(), b"5".to_vec())]);
        assert_eq!(files().len(), 2, "{:?}", files());
        for number in 0..deleted_after {
            let before = disk.call_count();
            store.put("Operation", "a", &[number]).unwrap();
            let is_new = disk.calls()[before..].iter().any(|call| call.verb == "remove");
            assert_eq!(is_new, number == 0, "put {number}");
        }
        store.delete("Operation", "a").unwrap();
        assert!(files().is_empty(), "a row that is deleted takes its spare along: {:?}", files());
    }
    let store = store_on(&disk);
    store.put_all(&[("Operation", "b", b"1")]).unwrap();
    let twice = [b"2", b"3"].map(|bytes| RowChange::Put { topic: "Operation", key: "b", bytes });
    store.apply(&[twice[0], twice[1], RowChange::Delete { topic: "Operation", key: "b" }]).unwrap();
    assert!(files().is_empty(), "{:?}", files());
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
    let (_dir, store) = on_a_real_disk();
    store.put("Volume", "v1#0", b"{}").unwrap();
    for text in ["{ }", "{\"a\": 1}", "{}", "{   }"] {
        store.put("Volume", "v1#1", text.as_bytes()).unwrap();
    }
    store.put("Volume", "v1#0", b"{ }").unwrap();
    store.delete("Volume", "v1#0").unwrap();
    assert_eq!(rows(&store, "Volume"), [("v1#1".into(), b"{   }".to_vec())]);
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
