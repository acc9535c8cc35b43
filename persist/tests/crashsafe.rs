//! The power is cut after every call: a file is old or new, a directory is there or not, and calling again
//! finishes the work.

use std::io::ErrorKind;
use std::path::Path;

use holdfast_persist::crashsafe::{
    durable_replace, ensure_dir, is_temporary, remove_durable, remove_tree, sweep_temporaries,
};
use holdfast_persist::{Disk, EntryKind, MemDisk, RealDisk};

const DIR: &str = "/persist";
const FILE: &str = "/persist/record.json";

fn disk_with_old_file() -> MemDisk {
    let disk = MemDisk::new();
    ensure_dir(&disk, Path::new(DIR)).unwrap();
    durable_replace(&disk, Path::new(FILE), b"old content").unwrap();
    disk
}

/// Runs `act` on a fresh disk once for each of its calls with the power cut there, and `after` on what is left;
/// the argument says whether `act` had come to its end.
fn cut_everywhere(
    fresh: impl Fn() -> MemDisk,
    act: impl Fn(&MemDisk) -> std::io::Result<()>,
    after: impl Fn(&MemDisk, bool),
) {
    let whole = fresh();
    let before = whole.call_count();
    act(&whole).unwrap();
    let calls = whole.call_count() - before;
    assert!(calls > 0);
    for cut in 1..=calls + 1 {
        let disk = fresh();
        disk.cut_power_at(cut);
        let finished = act(&disk).is_ok();
        assert_eq!(finished, cut > calls, "cut {cut} of {calls} went unnoticed");
        disk.crash();
        after(&disk, finished);
    }
}

#[test]
fn a_replaced_file_is_old_or_new_wherever_the_power_is_cut() {
    cut_everywhere(
        disk_with_old_file,
        |disk| durable_replace(disk, Path::new(FILE), b"new"),
        |disk, finished| {
            let content = disk.read(Path::new(FILE)).unwrap();
            assert!(content == b"new" || (content == b"old content" && !finished), "{content:?}");
            durable_replace(disk, Path::new(FILE), b"newer").unwrap();
            assert_eq!(disk.read(Path::new(FILE)).unwrap(), b"newer");
            sweep_temporaries(disk, Path::new(DIR)).unwrap();
            assert_eq!(disk.all_files(), [Path::new(FILE)]);
        },
    );
}

#[test]
fn a_first_write_is_there_whole_or_not_at_all() {
    cut_everywhere(
        || {
            let disk = MemDisk::new();
            ensure_dir(&disk, Path::new(DIR)).unwrap();
            disk
        },
        |disk| durable_replace(disk, Path::new(FILE), b"new"),
        |disk, finished| match disk.metadata(Path::new(FILE)).unwrap() {
            Some(_) => assert_eq!(disk.read(Path::new(FILE)).unwrap(), b"new"),
            None => assert!(!finished),
        },
    );
}

#[test]
fn when_any_call_fails_the_file_is_whole_and_no_room_is_lost() {
    for (kind, call) in
        [ErrorKind::StorageFull, ErrorKind::Other].into_iter().flat_map(|k| (1..=4).map(move |c| (k, c)))
    {
        let disk = disk_with_old_file();
        disk.fail_at(call, kind);
        let error = durable_replace(&disk, Path::new(FILE), b"new").unwrap_err();
        assert_eq!(error.kind(), kind);
        let content = disk.read(Path::new(FILE)).unwrap();
        assert_eq!(content, if call == 4 { &b"new"[..] } else { b"old content" });
        assert_eq!(disk.all_files(), [Path::new(FILE)], "a temporary stayed after call {call}");
    }
}

#[test]
fn a_write_torn_by_a_full_disk_leaves_the_old_file() {
    let disk = disk_with_old_file();
    disk.set_capacity(20);
    let error = durable_replace(&disk, Path::new(FILE), &[7; 100]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    assert_eq!(disk.read(Path::new(FILE)).unwrap(), b"old content");
    assert_eq!(disk.all_files(), [Path::new(FILE)]);
}

#[test]
fn a_directory_and_what_is_put_into_it_survive_once_reported() {
    let deep = Path::new("/persist/snapshots/s1");
    cut_everywhere(
        MemDisk::new,
        |disk| {
            ensure_dir(disk, deep)?;
            durable_replace(disk, &deep.join("a"), b"content")
        },
        |disk, finished| {
            assert!(!finished || disk.read(&deep.join("a")).unwrap() == b"content");
            ensure_dir(disk, deep).unwrap();
            disk.crash();
            assert_eq!(disk.metadata(deep).unwrap().unwrap().kind, EntryKind::Directory);
            assert_eq!(disk.metadata(deep).unwrap().unwrap().mode, 0o700);
        },
    );
}

#[test]
fn a_directory_left_by_a_process_that_died_is_made_durable() {
    // The process died between creating the directory and syncing its parent; the power stayed on.
    for call in 1..20 {
        let disk = MemDisk::new();
        disk.fail_at(call, ErrorKind::Other);
        let _ = ensure_dir(&disk, Path::new("/a/b/c"));
        ensure_dir(&disk, Path::new("/a/b/c/d")).unwrap_or_else(|_| {
            // The fuse was not reached in the first try.
            ensure_dir(&disk, Path::new("/a/b/c/d")).unwrap();
        });
        disk.crash();
        assert!(disk.metadata(Path::new("/a/b/c/d")).unwrap().is_some(), "lost after call {call} failed");
    }
}

#[test]
fn what_was_removed_stays_removed() {
    cut_everywhere(
        disk_with_old_file,
        |disk| remove_durable(disk, Path::new(FILE)),
        |disk, finished| {
            assert!(!finished || disk.all_files().is_empty());
            remove_durable(disk, Path::new(FILE)).unwrap();
            disk.crash();
            assert!(disk.all_files().is_empty());
        },
    );
    remove_durable(&MemDisk::new(), Path::new("/missing/dir/file")).unwrap();
}

#[test]
fn a_removal_cut_off_by_a_dying_process_is_made_durable_by_the_next() {
    let disk = disk_with_old_file();
    disk.fail_at(2, ErrorKind::Other);
    remove_durable(&disk, Path::new(FILE)).expect_err("the directory could not be synced");
    remove_durable(&disk, Path::new(FILE)).unwrap();
    disk.crash();
    assert!(disk.all_files().is_empty());
}

#[test]
fn a_tree_is_removed_and_can_be_removed_again() {
    let tree = Path::new("/persist/snapshots/s1");
    let fresh = || {
        let disk = disk_with_old_file();
        ensure_dir(&disk, &tree.join("deep")).unwrap();
        durable_replace(&disk, &tree.join("a"), b"a").unwrap();
        durable_replace(&disk, &tree.join("deep/b"), b"b").unwrap();
        disk
    };
    cut_everywhere(
        fresh,
        |disk| remove_tree(disk, tree),
        |disk, finished| {
            assert!(!finished || disk.metadata(tree).unwrap().is_none());
            remove_tree(disk, tree).unwrap();
            disk.crash();
            assert_eq!(disk.metadata(tree).unwrap(), None);
            assert_eq!(disk.all_files(), [Path::new(FILE)], "only the tree goes");
        },
    );
}

#[test]
fn on_a_real_disk_files_are_private_and_links_are_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("persist");
    let (inside, outside) = (root.join("tree"), dir.path().join("outside"));
    ensure_dir(&RealDisk, &inside).unwrap();
    durable_replace(&RealDisk, &outside, b"stays").unwrap();
    std::os::unix::fs::symlink(&outside, inside.join("link")).unwrap();
    durable_replace(&RealDisk, &inside.join("file"), b"x").unwrap();
    assert_eq!(RealDisk.metadata(&inside).unwrap().unwrap().mode, 0o700);
    assert_eq!(RealDisk.metadata(&inside.join("file")).unwrap().unwrap().mode, 0o600);
    assert_eq!(RealDisk.metadata(&inside.join("link")).unwrap().unwrap().kind, EntryKind::Symlink);

    RealDisk.create_new(&root.join(".tmp~cut"), b"half", 0o600).unwrap();
    assert!(is_temporary(".tmp~cut".as_ref()));
    assert_eq!(sweep_temporaries(&RealDisk, &root).unwrap(), 1);
    assert_eq!(sweep_temporaries(&RealDisk, &root.join("missing")).unwrap(), 0);

    remove_tree(&RealDisk, &inside).unwrap();
    assert!(RealDisk.list(&root).unwrap().is_empty());
    assert_eq!(RealDisk.read(&outside).unwrap(), b"stays");
}

#[test]
fn a_tree_that_is_a_file_or_a_link_goes_and_what_the_link_names_stays() {
    let disk = disk_with_old_file();
    remove_tree(&disk, Path::new(FILE)).unwrap();
    disk.crash();
    assert!(disk.all_files().is_empty());

    let dir = tempfile::tempdir().unwrap();
    let (link, outside) = (dir.path().join("link"), dir.path().join("outside"));
    ensure_dir(&RealDisk, &outside).unwrap();
    durable_replace(&RealDisk, &outside.join("file"), b"stays").unwrap();
    std::os::unix::fs::symlink(&outside, &link).unwrap();
    remove_tree(&RealDisk, &link).unwrap();
    assert_eq!(RealDisk.metadata(&link).unwrap(), None);
    assert_eq!(RealDisk.read(&outside.join("file")).unwrap(), b"stays");
}

#[test]
fn a_temporary_that_a_cut_left_is_no_hindrance() {
    let disk = disk_with_old_file();
    disk.create_new(Path::new("/persist/.tmp~record.json"), b"half", 0o644).unwrap();
    durable_replace(&disk, Path::new(FILE), b"new").unwrap();
    assert_eq!(disk.read(Path::new(FILE)).unwrap(), b"new");
    assert_eq!(disk.metadata(Path::new(FILE)).unwrap().unwrap().mode, 0o600);
    assert_eq!(disk.all_files(), [Path::new(FILE)]);
}

#[test]
fn a_sweep_that_cannot_look_says_so() {
    let disk = disk_with_old_file();
    disk.fail_at(1, ErrorKind::PermissionDenied);
    assert_eq!(sweep_temporaries(&disk, Path::new(DIR)).unwrap_err().kind(), ErrorKind::PermissionDenied);
}

#[test]
fn only_a_directory_or_a_link_to_one_serves_as_a_directory() {
    let disk = disk_with_old_file();
    assert_eq!(ensure_dir(&disk, Path::new(FILE)).unwrap_err().kind(), ErrorKind::NotADirectory);

    let dir = tempfile::tempdir().unwrap();
    let (real, link, astray) = (dir.path().join("real"), dir.path().join("link"), dir.path().join("astray"));
    ensure_dir(&RealDisk, &real).unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    ensure_dir(&RealDisk, &link.join("below")).unwrap();
    assert_eq!(RealDisk.metadata(&real.join("below")).unwrap().unwrap().kind, EntryKind::Directory);
    std::os::unix::fs::symlink(dir.path().join("nowhere"), &astray).unwrap();
    ensure_dir(&RealDisk, &astray).unwrap_err();
}

/// Two agents, or the two first rows of one, may need the same directory at once: whoever comes second finds it made.
#[test]
fn a_directory_may_be_made_by_many_at_once() {
    const THREADS: usize = 8;
    let tree = tempfile::tempdir().unwrap();
    for round in 0..200 {
        let directory = tree.path().join(format!("{round}/a/b"));
        let together = std::sync::Barrier::new(THREADS);
        std::thread::scope(|scope| {
            let make = || {
                together.wait();
                ensure_dir(&RealDisk, &directory)
            };
            let makers: Vec<_> = (0..THREADS).map(|_| scope.spawn(make)).collect();
            makers.into_iter().for_each(|maker| maker.join().unwrap().unwrap());
        });
        assert!(directory.is_dir());
    }
}
