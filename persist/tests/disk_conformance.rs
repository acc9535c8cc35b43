//! One suite for every [`Disk`]: the fake enforces the kernel's rules, or tests on it prove nothing.

use std::io::ErrorKind;
use std::path::Path;

use holdfast_persist::mem_disk::Fate;
use holdfast_persist::{Disk, EntryKind, MemDisk, RealDisk};

#[test]
fn the_real_disk_conforms() {
    let dir = tempfile::tempdir().unwrap();
    check_all(&RealDisk, dir.path());
}

#[test]
fn the_disk_in_memory_conforms() {
    let disk = MemDisk::new();
    disk.create_dir(Path::new("/root"), 0o700).unwrap();
    check_all(&disk, Path::new("/root"));
}

/// What is used is counted as files change; it must be what there is.
#[test]
fn the_room_on_a_disk_in_memory_is_what_its_files_leave() {
    let disk = MemDisk::with_capacity(10_000);
    let dir = Path::new("/dir");
    let [a, b, c] = ["a", "b", "c"].map(|name| dir.join(name));
    let check = |files_bytes: u64, when: &str| {
        let lengths = disk.all_files().into_iter().map(|file| disk.read(&file).unwrap().len() as u64);
        assert_eq!(lengths.sum::<u64>(), files_bytes, "{when}");
        let free_bytes = disk.space(Path::new("/")).unwrap().free_bytes;
        assert_eq!(free_bytes, 10_000 - files_bytes, "{when}");
    };
    disk.create_dir(dir, 0o700).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk.create_new(&a, &[1; 3_000], 0o600).unwrap();
    disk.write_at(&b, 1_000, &[2; 500]).unwrap();
    check(4_500, "created");
    disk.write_at(&a, 2_900, &[3; 200]).unwrap();
    disk.write_at(&a, 0, &[3; 10]).unwrap();
    disk.truncate(&b, 700).unwrap();
    check(3_800, "longer and shorter");
    disk.sync_file(&a).unwrap();
    disk.sync_dir(dir).unwrap();
    disk.rename(&b, &b).unwrap();
    disk.rename(&b, &a).unwrap();
    check(700, "one replaced by the other");
    assert_eq!(kind(disk.write_at(&c, 0, &[4; 20_000])), ErrorKind::StorageFull);
    check(10_000, "full");
    let cut = disk.fork();
    disk.remove_file(&c).unwrap();
    disk.create_dir(&c, 0o700).unwrap();
    disk.remove_dir(&c).unwrap();
    check(700, "removed");
    disk.crash();
    check(3_100, "after a cut: the first one is as it was synced, the second was not");
    cut.crash_with(&mut |_| Fate::Kept);
    assert_eq!(cut.space(dir).unwrap().free_bytes, 0, "a fork counts as well, and so does what survives");
}

/// A cut's disk is made without cutting the one that goes on; and it is told apart by what is in it.
#[test]
fn a_fork_after_a_cut_is_what_a_cut_leaves() {
    let disk = MemDisk::new();
    let file = Path::new("/file");
    disk.create_new(file, &[1; 10], 0o600).unwrap();
    disk.sync_file(file).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    let synced = disk.fingerprint();
    disk.write_at(file, 5, &[2; 10]).unwrap();
    disk.rename(file, Path::new("/other")).unwrap();
    let written = disk.fingerprint();
    assert_ne!(synced, written);
    for fate in [Fate::Lost, Fate::Kept, Fate::Torn { sector_bytes: 8, kept_sectors: 2 }] {
        let mut asked = 0;
        let left = disk.fork_after_cut(&mut |_| {
            asked += 1;
            fate
        });
        let cut = disk.fork();
        cut.crash_with(&mut |_| fate);
        assert_eq!((left.fingerprint(), asked), (cut.fingerprint(), 2), "{fate:?}");
        assert_eq!(left.space(Path::new("/")).unwrap(), cut.space(Path::new("/")).unwrap(), "{fate:?}");
        let is_known = [synced, written].contains(&left.fingerprint());
        assert_eq!(is_known, !matches!(fate, Fate::Torn { .. }), "{fate:?}");
    }
    assert_eq!(disk.fingerprint(), written, "it goes on");
}

fn check_all(disk: &dyn Disk, root: &Path) {
    type Check = fn(&dyn Disk, &Path);
    let checks: [(&str, Check); 13] = [
        ("create", creating_a_file_is_exclusive),
        ("offsets", reading_and_writing_at_offsets),
        ("truncate", truncating_cuts_and_extends),
        ("missing", what_is_missing_is_not_found),
        ("kinds", files_are_not_directories),
        ("rename", renaming_replaces_files_only),
        ("exchange", exchanging_swaps_two_files),
        ("overwrite", overwriting_leaves_nothing_of_what_was_there),
        ("remove", removing),
        ("list", listing_is_sorted),
        ("data", data_is_found_and_nothing_of_it_is_passed_over),
        ("share", shared_content_is_equal_and_then_apart),
        ("lock", a_lock_is_exclusive_until_dropped),
    ];
    for (name, check) in checks {
        let dir = root.join(name);
        disk.create_dir(&dir, 0o700).unwrap();
        check(disk, &dir);
    }
    let space = disk.space(root).unwrap();
    assert!(space.free_bytes <= space.total_bytes && space.total_bytes > 0);
}

fn kind<T: std::fmt::Debug>(result: std::io::Result<T>) -> ErrorKind {
    result.expect_err("must fail").kind()
}

fn creating_a_file_is_exclusive(disk: &dyn Disk, dir: &Path) {
    let file = dir.join("a");
    disk.create_new(&file, b"one", 0o600).unwrap();
    assert_eq!(kind(disk.create_new(&file, b"two", 0o600)), ErrorKind::AlreadyExists);
    assert_eq!(disk.read(&file).unwrap(), b"one");
    let found = disk.metadata(&file).unwrap().unwrap();
    assert_eq!((found.kind, found.size_bytes, found.mode), (EntryKind::File, 3, 0o600));
    disk.sync_file(&file).unwrap();
    disk.sync_dir(dir).unwrap();
}

fn reading_and_writing_at_offsets(disk: &dyn Disk, dir: &Path) {
    let file = dir.join("a");
    disk.write_at(&file, 2, b"cd").unwrap();
    assert_eq!(disk.read(&file).unwrap(), b"\0\0cd");
    disk.write_at(&file, 0, b"ab").unwrap();
    disk.write_at(&file, 4, b"ef").unwrap();
    assert_eq!(disk.read_at(&file, 1, 3).unwrap(), b"bcd");
    assert_eq!(disk.read_at(&file, 4, 100).unwrap(), b"ef");
    assert_eq!(disk.read_at(&file, 100, 1).unwrap(), b"");
    assert_eq!(disk.metadata(&file).unwrap().unwrap().mode, 0o600);
    disk.write_at(&dir.join("empty"), 0, b"").unwrap();
    assert_eq!(disk.read(&dir.join("empty")).unwrap(), b"");
}

fn truncating_cuts_and_extends(disk: &dyn Disk, dir: &Path) {
    let file = dir.join("a");
    disk.create_new(&file, b"abc", 0o600).unwrap();
    disk.truncate(&file, 1).unwrap();
    disk.truncate(&file, 3).unwrap();
    assert_eq!(disk.read(&file).unwrap(), b"a\0\0");
    assert_eq!(kind(disk.truncate(&dir.join("missing"), 0)), ErrorKind::NotFound);
}

/// What lies between the ranges is zeros; how much of the zeros is told as data is the file system's business.
fn data_is_found_and_nothing_of_it_is_passed_over(disk: &dyn Disk, dir: &Path) {
    let file = dir.join("sparse");
    let (size_bytes, written) = (8 << 20, [(1_u64 << 20, b'a'), (5 << 20, b'b')]);
    for (offset, byte) in written {
        disk.write_at(&file, offset, &[byte; 5000]).unwrap();
    }
    disk.truncate(&file, size_bytes).unwrap();
    let (mut found, mut offset) = (Vec::new(), 0);
    while offset < size_bytes
        && let Some(data) = disk.next_data(&file, offset).unwrap()
    {
        assert!(data.start >= offset && data.end > data.start, "{data:?} behind {offset}");
        offset = data.end;
        found.push(data);
    }
    for (at, _) in written {
        assert!(found.iter().any(|data| data.start <= at && data.end >= at + 5000), "{at}: {found:?}");
    }
    assert_eq!(disk.read(&file).unwrap().len() as u64, size_bytes, "a look changes nothing");
    assert_eq!(kind(disk.read_at(&dir.join("missing"), 0, 1)), ErrorKind::NotFound);
}

fn shared_content_is_equal_and_then_apart(disk: &dyn Disk, dir: &Path) {
    let (from, to) = (dir.join("from"), dir.join("to"));
    disk.create_new(&from, &[b'a'; 10_000], 0o600).unwrap();
    disk.create_new(&to, b"", 0o600).unwrap();
    if !disk.share_content(&from, &to).unwrap() {
        eprintln!("{disk:?} shares nothing at {}", dir.display());
        return assert_eq!(disk.read(&to).unwrap(), b"", "untouched");
    }
    assert_eq!(disk.read(&to).unwrap(), [b'a'; 10_000]);
    disk.write_at(&to, 0, b"b").unwrap();
    assert_eq!(disk.read_at(&from, 0, 1).unwrap(), b"a");
}

fn what_is_missing_is_not_found(disk: &dyn Disk, dir: &Path) {
    let gone = dir.join("gone");
    assert_eq!(disk.metadata(&gone).unwrap(), None);
    assert_eq!(disk.metadata(&gone.join("below")).unwrap(), None);
    let below = gone.join("below");
    assert_eq!(kind(disk.read(&gone)), ErrorKind::NotFound);
    assert_eq!(kind(disk.read_at(&gone, 0, 1)), ErrorKind::NotFound);
    assert_eq!(kind(disk.create_new(&below, b"", 0o600)), ErrorKind::NotFound);
    assert_eq!(kind(disk.write_at(&below, 0, b"")), ErrorKind::NotFound);
    assert_eq!(kind(disk.create_dir(&below, 0o700)), ErrorKind::NotFound);
    assert_eq!(kind(disk.sync_file(&gone)), ErrorKind::NotFound);
    assert_eq!(kind(disk.sync_dir(&gone)), ErrorKind::NotFound);
    assert_eq!(kind(disk.rename(&gone, &dir.join("other"))), ErrorKind::NotFound);
    assert_eq!(kind(disk.remove_file(&gone)), ErrorKind::NotFound);
    assert_eq!(kind(disk.remove_dir(&gone)), ErrorKind::NotFound);
    assert_eq!(kind(disk.list(&gone)), ErrorKind::NotFound);
    assert_eq!(kind(disk.space(&gone)), ErrorKind::NotFound);
    let text = disk.read(&gone).unwrap_err().to_string();
    assert!(text.starts_with(&format!("cannot read {}: ", gone.display())), "{text}");
}

fn files_are_not_directories(disk: &dyn Disk, dir: &Path) {
    let file = dir.join("file");
    disk.create_new(&file, b"", 0o600).unwrap();
    assert_eq!(kind(disk.list(&file)), ErrorKind::NotADirectory);
    assert_eq!(kind(disk.sync_dir(&file)), ErrorKind::NotADirectory);
    assert_eq!(kind(disk.remove_dir(&file)), ErrorKind::NotADirectory);
    assert_eq!(kind(disk.create_new(&file.join("x"), b"", 0o600)), ErrorKind::NotADirectory);
    assert_eq!(kind(disk.read(dir)), ErrorKind::IsADirectory);
    assert_eq!(kind(disk.write_at(dir, 0, b"x")), ErrorKind::IsADirectory);
    assert_eq!(kind(disk.create_dir(&file, 0o700)), ErrorKind::AlreadyExists);
    assert_eq!(disk.metadata(dir).unwrap().unwrap().kind, EntryKind::Directory);
}

fn renaming_replaces_files_only(disk: &dyn Disk, dir: &Path) {
    let (a, b, sub) = (dir.join("a"), dir.join("b"), dir.join("sub"));
    disk.create_new(&a, b"new", 0o600).unwrap();
    disk.create_new(&b, b"old", 0o600).unwrap();
    disk.create_dir(&sub, 0o700).unwrap();
    disk.rename(&a, &b).unwrap();
    assert_eq!(disk.read(&b).unwrap(), b"new");
    assert_eq!(disk.metadata(&a).unwrap(), None);
    disk.rename(&b, &b).unwrap();
    assert_eq!(kind(disk.rename(&b, &sub)), ErrorKind::IsADirectory);
    assert_eq!(kind(disk.rename(&sub, &b)), ErrorKind::NotADirectory);
    assert_eq!(kind(disk.rename(&sub, &sub.join("inside"))), ErrorKind::InvalidInput);
    disk.rename(&b, &sub.join("b")).unwrap();
    disk.rename(&sub, &dir.join("moved")).unwrap();
    assert_eq!(disk.read(&dir.join("moved/b")).unwrap(), b"new");
    assert_eq!(kind(disk.rename(&dir.join("moved/b"), &dir.join("missing/b"))), ErrorKind::NotFound);
}

fn exchanging_swaps_two_files(disk: &dyn Disk, dir: &Path) {
    let [a, b, missing] = ["a", "b", "missing"].map(|name| dir.join(name));
    disk.create_new(&a, b"of a", 0o600).unwrap();
    assert_eq!(kind(disk.exchange(&a, &missing)), ErrorKind::NotFound);
    assert_eq!(kind(disk.exchange(&missing, &a)), ErrorKind::NotFound);
    disk.create_new(&b, b"of b", 0o600).unwrap();
    let contents = || [&a, &b].map(|path| disk.read(path).unwrap());
    match disk.exchange(&a, &b).unwrap() {
        true => assert_eq!(contents(), [b"of b", b"of a"]),
        false => {
            assert!(!must_exchange(dir), "{} is of a file system that exchanges names", dir.display());
            assert_eq!(contents(), [b"of a", b"of b"]);
        }
    }
}

/// ext4 and a file system in memory do, and so does the disk in memory, where the directory is not.
fn must_exchange(dir: &Path) -> bool {
    const EXT4_MAGIC: i64 = 0xEF53;
    const TMPFS_MAGIC: i64 = 0x0102_1994;
    rustix::fs::statfs(dir).map_or(true, |found| [EXT4_MAGIC, TMPFS_MAGIC].contains(&found.f_type))
}

fn overwriting_leaves_nothing_of_what_was_there(disk: &dyn Disk, dir: &Path) {
    let file = dir.join("file");
    for content in [&b"first"[..], b"longer than that", b"short", b"equal", b""] {
        disk.overwrite(&file, content).unwrap();
        assert_eq!(disk.read(&file).unwrap(), content);
    }
    assert_eq!(disk.metadata(&file).unwrap().unwrap().mode, 0o600);
}

fn removing(disk: &dyn Disk, dir: &Path) {
    let (sub, file) = (dir.join("sub"), dir.join("sub/file"));
    disk.create_dir(&sub, 0o700).unwrap();
    disk.create_new(&file, b"", 0o600).unwrap();
    assert_eq!(kind(disk.remove_dir(&sub)), ErrorKind::DirectoryNotEmpty);
    assert_eq!(kind(disk.remove_file(&sub)), ErrorKind::IsADirectory);
    disk.remove_file(&file).unwrap();
    disk.remove_dir(&sub).unwrap();
    assert_eq!(disk.metadata(&sub).unwrap(), None);
}

fn listing_is_sorted(disk: &dyn Disk, dir: &Path) {
    disk.create_new(&dir.join("b"), b"12", 0o600).unwrap();
    disk.create_dir(&dir.join("c"), 0o700).unwrap();
    disk.create_new(&dir.join("a"), b"1", 0o600).unwrap();
    let found: Vec<_> = disk
        .list(dir)
        .unwrap()
        .into_iter()
        .map(|entry| (entry.text().unwrap().to_string(), entry.kind, entry.size_bytes))
        .collect();
    let expected = [("a", EntryKind::File, 1), ("b", EntryKind::File, 2), ("c", EntryKind::Directory, 0)];
    assert_eq!(found, expected.map(|(name, kind, size)| (name.to_string(), kind, size)));
}

fn a_lock_is_exclusive_until_dropped(disk: &dyn Disk, dir: &Path) {
    let file = dir.join("lock");
    let held = disk.lock_exclusive(&file).unwrap();
    assert_eq!(kind(disk.lock_exclusive(&file)), ErrorKind::WouldBlock);
    drop(held);
    disk.lock_exclusive(&file).unwrap();
}
