//! A damaged file is moved aside with its reason, never dropped, wherever the power is cut.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use holdfast_persist::crashsafe::{durable_replace, ensure_dir, remove_tree};
use holdfast_persist::layout::MAX_COMPONENT_BYTES;
use holdfast_persist::quarantine::{Quarantined, list, quarantine};
use holdfast_persist::{Disk, MemDisk, PersistLayout, RealDisk};

fn layout() -> PersistLayout {
    PersistLayout::new("/persist")
}

fn damaged() -> PathBuf {
    layout().volumes_snapshot_status_file(&"s1")
}

fn disk_with_damage(content: &[u8]) -> MemDisk {
    let disk = MemDisk::new();
    layout().prepare(&disk).unwrap();
    put_damage(&disk, content);
    disk
}

fn put_damage(disk: &dyn Disk, content: &[u8]) {
    ensure_dir(disk, damaged().parent().unwrap()).unwrap();
    durable_replace(disk, &damaged(), content).unwrap();
}

#[test]
fn the_file_and_its_reason_are_found_after_a_power_cut() {
    let disk = disk_with_damage(b"{ half");
    let place = quarantine(&disk, &layout(), &damaged(), "cut off at line 1").unwrap();
    disk.crash();
    assert_eq!(place, Path::new("/persist/quarantine/snapshots+s1+volumesSnapshotStatus.json"));
    assert_eq!(disk.read(&place).unwrap(), b"{ half");
    assert_eq!(disk.metadata(&damaged()).unwrap(), None);
    let expected =
        Quarantined { path: place, original: Some(damaged()), reason: "cut off at line 1".to_string() };
    assert_eq!(list(&disk, &layout()).unwrap(), [expected]);
}

#[test]
fn a_second_damage_gets_a_name_of_its_own() {
    let disk = disk_with_damage(b"first");
    quarantine(&disk, &layout(), &damaged(), "one").unwrap();
    put_damage(&disk, b"second");
    let second = quarantine(&disk, &layout(), &damaged(), "two").unwrap();
    assert_eq!(second, Path::new("/persist/quarantine/snapshots+s1+volumesSnapshotStatus.json.1"));
    let found: Vec<_> = list(&disk, &layout())
        .unwrap()
        .into_iter()
        .map(|entry| (disk.read(&entry.path).unwrap(), entry.reason))
        .collect();
    assert_eq!(found, [(b"first".to_vec(), "one".to_string()), (b"second".to_vec(), "two".to_string())]);
}

#[test]
fn wherever_the_power_is_cut_the_file_is_somewhere_and_the_next_call_finishes() {
    for cut in 1.. {
        let disk = disk_with_damage(b"damage");
        disk.cut_power_at(cut);
        let finished = quarantine(&disk, &layout(), &damaged(), "why").is_ok();
        disk.crash();
        let copies =
            disk.all_files().into_iter().filter(|path| disk.read(path).unwrap() == b"damage").count();
        assert!(copies > 0, "cut {cut} dropped the file");
        quarantine(&disk, &layout(), &damaged(), "why").unwrap();
        disk.crash();
        let found = list(&disk, &layout()).unwrap();
        assert_eq!(found.len(), 1, "cut {cut}: {found:?}");
        assert_eq!(disk.read(&found[0].path).unwrap(), b"damage");
        assert_eq!((found[0].original.clone(), found[0].reason.as_str()), (Some(damaged()), "why"));
        assert_eq!(disk.metadata(&damaged()).unwrap(), None);
        if finished {
            return;
        }
    }
}

#[test]
fn when_a_call_fails_and_the_process_lives_the_next_call_finishes() {
    for call in 1..12 {
        let disk = disk_with_damage(b"damage");
        disk.fail_at(call, ErrorKind::Other);
        let _ = quarantine(&disk, &layout(), &damaged(), "why");
        let place = quarantine(&disk, &layout(), &damaged(), "why")
            .or_else(|_| quarantine(&disk, &layout(), &damaged(), "why"))
            .unwrap();
        disk.crash();
        assert_eq!(disk.read(&place).unwrap(), b"damage", "call {call}");
        assert_eq!(list(&disk, &layout()).unwrap().len(), 1, "call {call}");
    }
}

#[test]
fn a_file_that_never_was_is_not_found() {
    let disk = MemDisk::new();
    layout().prepare(&disk).unwrap();
    let error = quarantine(&disk, &layout(), &damaged(), "why").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("volumesSnapshotStatus.json"), "{error}");
    assert_eq!(list(&disk, &layout()).unwrap(), []);
}

#[test]
fn a_full_disk_keeps_no_damaged_file_in_place() {
    let disk = disk_with_damage(b"damage");
    disk.set_capacity(0);
    let place = quarantine(&disk, &layout(), &damaged(), "why").unwrap();
    assert_eq!(disk.read(&place).unwrap(), b"damage");
    assert_eq!(list(&disk, &layout()).unwrap()[0].reason, "");
}

#[test]
fn it_works_on_a_real_disk() {
    let dir = tempfile::tempdir().unwrap();
    let layout = PersistLayout::new(dir.path().join("persist"));
    layout.prepare(&RealDisk).unwrap();
    let file = layout.last_config_file();
    durable_replace(&RealDisk, &file, b"junk").unwrap();
    let place = quarantine(&RealDisk, &layout, &file, "does not decode").unwrap();
    assert_eq!(quarantine(&RealDisk, &layout, &file, "does not decode").unwrap(), place);
    assert_eq!(RealDisk.read(&place).unwrap(), b"junk");
    assert_eq!(list(&RealDisk, &layout).unwrap()[0].reason, "does not decode");
}

#[test]
fn a_call_that_fails_is_never_passed_over() {
    let whole = disk_with_damage(b"damage");
    let before = whole.call_count();
    quarantine(&whole, &layout(), &damaged(), "why").unwrap();
    let calls = whole.call_count() - before;
    for call in 1..=calls {
        let disk = disk_with_damage(b"damage");
        disk.fail_at(call, ErrorKind::PermissionDenied);
        let error = quarantine(&disk, &layout(), &damaged(), "why").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "call {call}");
    }
    let before = whole.call_count();
    list(&whole, &layout()).unwrap();
    for call in 1..=whole.call_count() - before {
        whole.fail_at(call, ErrorKind::PermissionDenied);
        assert_eq!(list(&whole, &layout()).unwrap_err().kind(), ErrorKind::PermissionDenied, "call {call}");
    }
}

#[test]
fn a_file_whose_directory_went_after_it_was_moved_is_found_again() {
    let disk = disk_with_damage(b"damage");
    let place = quarantine(&disk, &layout(), &damaged(), "why").unwrap();
    remove_tree(&disk, damaged().parent().unwrap()).unwrap();
    assert_eq!(quarantine(&disk, &layout(), &damaged(), "why").unwrap(), place);
}

#[test]
fn a_directory_that_bears_the_name_already_is_gone_around() {
    let disk = disk_with_damage(b"");
    let taken = layout().quarantine_dir().join("snapshots+s1+volumesSnapshotStatus.json");
    ensure_dir(&disk, &taken).unwrap();
    let place = quarantine(&disk, &layout(), &damaged(), "empty").unwrap();
    assert_eq!(place, taken.with_extension("json.1"));
    assert_eq!(disk.read(&place).unwrap(), b"");
}

/// File systems take 255 bytes, and the reason's name is longer than the file's.
#[test]
fn a_name_is_cut_at_its_front_so_that_the_reason_fits_beside_it() {
    let disk = MemDisk::new();
    layout().prepare(&disk).unwrap();
    let file = layout().row_file("zedmanager", "AppInstanceState", &"k".repeat(220));
    ensure_dir(&disk, file.parent().unwrap()).unwrap();
    durable_replace(&disk, &file, b"damage").unwrap();
    let place = quarantine(&disk, &layout(), &file, "why").unwrap();
    let name = place.file_name().unwrap().to_str().unwrap();
    assert_eq!(name.len(), MAX_COMPONENT_BYTES - 20);
    assert!(name.ends_with("kkk.json"), "{name}");
}

#[test]
fn a_quarantine_that_was_never_made_is_empty() {
    assert_eq!(list(&MemDisk::new(), &layout()).unwrap(), []);
}
