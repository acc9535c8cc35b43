//! Snapshots of raw disks, which are files beside them, and volumes cloned from them ([004] M2): on a disk in memory, whose power
//! is cut at every call, and on a real one with qemu-img.

#![allow(clippy::disallowed_methods, reason = "the test rig on a real disk")]

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::Mutex;

use holdfast_persist::disk::{DirEntry, Disk, DiskLock, Metadata, Space as DiskSpace};
use holdfast_persist::{MemDisk, RealDisk};
use holdfast_types::volume::Format;
use holdfast_volumehandlers::file::FileHandler;
use holdfast_volumehandlers::qcow2::QemuImg;
use holdfast_volumehandlers::testing::{FakeFixture, Fixture, RealFixture};
use holdfast_volumehandlers::{
    Action, Backing, Ensured, HandlerCx, Parameters, Preflight, Registry, SnapshotName, Source, VolumeError,
    VolumeHandler, VolumeSpec, placement,
};

const MIB: u64 = 1 << 20;
const SIZE_BYTES: u64 = 2 * MIB;
static ZEROS: [u8; SIZE_BYTES as usize] = [0; SIZE_BYTES as usize];
const CX: fn() -> HandlerCx<'static> = HandlerCx::unattended;

fn name(text: &str) -> SnapshotName {
    SnapshotName::parse(&format!("holdfast-{text}")).expect("a good name")
}

fn handler(fixture: &dyn Fixture) -> FileHandler {
    FileHandler::new(fixture.disk(), fixture.tool(), Format::Raw).with_snapshot_files()
}

fn at(fixture: &dyn Fixture, label: &str) -> PathBuf {
    fixture.directory().join(format!("{label}#0.raw"))
}

fn blank(location: &Path, size_bytes: u64) -> VolumeSpec {
    let source = Source::Blank { size_bytes };
    VolumeSpec {
        location: location.to_path_buf(),
        format: Format::Raw,
        source,
        max_size_bytes: 0,
        read_only: false,
    }
}

/// A guest writes, and flushes.
fn write(disk: &dyn Disk, volume: &Path, mebibyte: u64, pattern: u8) {
    disk.write_at(volume, mebibyte * MIB, &[pattern; 4096]).expect("written");
    disk.sync_file(volume).expect("flushed");
}

/// A volume `v` with snapshots `old` and `new`, and content newer than both.
fn prepared(fixture: &dyn Fixture) -> (FileHandler, PathBuf) {
    let (handler, volume) = (handler(fixture), at(fixture, "v"));
    handler.create(&blank(&volume, SIZE_BYTES), &CX()).expect("created");
    for (pattern, snapshot) in [(1, "old"), (2, "new")] {
        write(&*fixture.disk(), &volume, 1, pattern);
        assert!(handler.create_snapshot(&volume, &name(snapshot), &CX()).expect("cut").is_changed());
    }
    write(&*fixture.disk(), &volume, 1, 3);
    (handler, volume)
}

fn names(handler: &dyn VolumeHandler, volume: &Path) -> Vec<String> {
    handler.list_snapshots(volume).expect("listed").into_iter().map(|found| found.name).collect()
}

fn pattern_of(disk: &dyn Disk, volume: &Path) -> u8 {
    let bytes = disk.read(volume).expect("read");
    assert_eq!(bytes.len() as u64, SIZE_BYTES);
    let written = &bytes[MIB as usize..MIB as usize + 4096];
    assert!(*written == [written[0]; 4096], "whole");
    let (before, after) = (&bytes[..MIB as usize], &bytes[MIB as usize + 4096..]);
    assert!(*before == ZEROS[..before.len()] && *after == ZEROS[..after.len()]);
    written[0]
}

fn plain() -> Parameters {
    Parameters::new()
}

fn method(value: &str) -> Parameters {
    Parameters::from([("copy-method".to_owned(), value.to_owned())])
}

/// The whole way of a revert by cloning: nothing of it touches the volume before it is replaced.
fn a_volume_is_reverted_by_a_clone_and_keeps_its_snapshots(fixture: &dyn Fixture) {
    let ((handler, volume), disk) = (prepared(fixture), fixture.disk());
    assert!(handler.capabilities().snapshot && !handler.capabilities().revert_in_place);
    assert_eq!(
        names(&handler, &volume),
        ["holdfast-new", "holdfast-old"],
        "their names tell no times: by name"
    );
    let again = handler.create_snapshot(&volume, &name("old"), &CX()).expect("there");
    assert!(!again.is_changed());
    assert_eq!(again.into_inner().size_bytes, SIZE_BYTES);
    assert_eq!(handler.blockers(&volume, &name("old"), &BTreeSet::new()).expect("looked"), []);
    let refused = handler.rollback_to_snapshot(&volume, &name("old"), &BTreeSet::new(), &CX());
    assert!(matches!(refused, Err(VolumeError::Unsupported { .. })), "[004] M2: {refused:?}");
    let asked = Preflight { action: Action::rollback(&name("old")), guest_may_run: false };
    assert!(matches!(handler.preflight(&volume, &asked), Err(VolumeError::Unsupported { .. })));

    let fresh = at(fixture, "fresh");
    let asked = Preflight { action: Action::Clone { from: name("old") }, guest_may_run: true };
    handler.preflight(&volume, &asked).expect("possible");
    let made = handler.clone_from_snapshot(&volume, &name("old"), &fresh, &plain(), &CX()).expect("cloned");
    assert!(made.is_changed());
    assert_eq!(made.into_inner().virtual_size_bytes, SIZE_BYTES);
    let again = handler.clone_from_snapshot(&volume, &name("old"), &fresh, &plain(), &CX()).expect("there");
    assert!(!again.is_changed());
    assert_eq!((pattern_of(&*disk, &fresh), pattern_of(&*disk, &volume)), (1, 3));

    assert_eq!(handler.adopt_snapshots(&volume, &fresh).expect("given"), Ensured::Changed(()));
    assert_eq!(handler.adopt_snapshots(&volume, &fresh).expect("given"), Ensured::Unchanged(()));
    assert!(names(&handler, &volume).is_empty());
    assert!(handler.destroy(&volume, &CX()).expect("destroyed").is_changed());
    assert_eq!(names(&handler, &fresh), ["holdfast-new", "holdfast-old"]);
    let other = at(fixture, "other");
    handler.clone_from_snapshot(&fresh, &name("new"), &other, &plain(), &CX()).expect("cloned");
    assert_eq!((pattern_of(&*disk, &other), pattern_of(&*disk, &fresh)), (2, 1));
    for _ in 0..2 {
        handler.delete_snapshot(&fresh, &name("old"), &CX()).expect("deleted");
    }
    assert_eq!(names(&handler, &fresh), ["holdfast-new"]);
    for volume in [&fresh, &other] {
        handler.destroy(volume, &CX()).expect("destroyed");
    }
    assert!(disk.list(fixture.directory()).expect("listed").is_empty(), "nothing is left of it");
}

#[test]
fn a_revert_by_cloning_on_a_disk_in_memory() {
    a_volume_is_reverted_by_a_clone_and_keeps_its_snapshots(&FakeFixture::new());
}

#[test]
fn a_revert_by_cloning_on_a_real_disk() {
    match RealFixture::new() {
        Ok(fixture) => a_volume_is_reverted_by_a_clone_and_keeps_its_snapshots(&fixture),
        Err(reason) => eprintln!("skipped: {reason}"),
    }
}

/// [004] M2: what is decided by a handler's name is what the handler says.
#[test]
fn which_volumes_are_reverted_in_place_is_known_by_their_handlers_names() {
    let fixture = FakeFixture::new();
    let registry = Registry::new(&Backing::Files, fixture.disk(), fixture.tool())
        .with_raw_snapshots(fixture.disk(), fixture.tool());
    for format in [Format::Qcow2, Format::Raw] {
        let place = fixture.directory().join(format!("v#0.{}", format.name()));
        let handler = registry.handler_for(&place, format).expect("a handler");
        let in_place = handler.capabilities().revert_in_place;
        assert_eq!(placement::reverts_in_place(handler.name()), in_place, "{format:?}");
    }
    assert!(placement::reverts_in_place(holdfast_volumehandlers::zvol::NAME));
}

/// [003] B8: the time is the one that the intent chose.
#[test]
fn snapshots_are_listed_in_the_order_of_their_times() {
    let fixture = FakeFixture::new();
    let (handler, volume) = (handler(&fixture), at(&fixture, "v"));
    handler.create(&blank(&volume, MIB), &CX()).expect("created");
    let times = ["2026-01-02T03:04:05Z", "2025-12-31T23:59:59Z"].map(|text| text.parse().expect("a time"));
    let chosen = [SnapshotName::choose(&"b", &times[0]), SnapshotName::choose_safety(&"a", &times[1])];
    for (name, time) in chosen.iter().zip(times) {
        let meta = handler.create_snapshot(&volume, name, &CX()).expect("cut").into_inner();
        assert_eq!(meta.created_at, time);
    }
    assert_eq!(names(&handler, &volume), [chosen[1].as_str(), chosen[0].as_str()]);
}

/// Holes are neither read nor written, and somebody hears how far it is.
#[test]
fn a_sparse_disk_stays_sparse() {
    let fixture = match RealFixture::new() {
        Ok(fixture) => fixture,
        Err(reason) => return eprintln!("skipped: {reason}"),
    };
    let (handler, volume, fresh) = (handler(&fixture), at(&fixture, "v"), at(&fixture, "fresh"));
    handler.create(&blank(&volume, 64 << 30), &CX()).expect("created");
    for mebibyte in [0, 1000, 65_535] {
        write(&RealDisk, &volume, mebibyte, 7);
    }
    let heard = Mutex::new(Vec::new());
    let hear = |percent| heard.lock().expect("nobody panicked").push(percent);
    let cx = HandlerCx::new(&|| false, &hear);
    handler.create_snapshot(&volume, &name("s"), &cx).expect("cut: 64 GiB would take minutes");
    handler.clone_from_snapshot(&volume, &name("s"), &fresh, &method("copy"), &cx).expect("cloned");
    let facts = handler.facts(&fresh).expect("looked");
    assert_eq!(facts.virtual_size_bytes, 64 << 30);
    assert!(facts.allocated_bytes < 16 * MIB, "{facts:?}");
    for mebibyte in [0, 1000, 65_535] {
        assert_eq!(RealDisk.read_at(&fresh, mebibyte * MIB, 4096).expect("read"), [7; 4096]);
    }
    assert_eq!(heard.lock().expect("nobody panicked").last(), Some(&100));
}

#[test]
fn what_is_in_use_too_large_or_wrongly_named_is_refused_before_anything_is_made() {
    let fixture = FakeFixture::new();
    let (handler, volume) = prepared(&fixture);
    let before = fixture.mem_disk().fingerprint();
    let held = fixture.hold(&volume);
    let refused = handler.create_snapshot(&volume, &name("s"), &CX());
    assert!(matches!(refused, Err(VolumeError::Locked { .. })), "{refused:?}");
    let quiet = |guest_may_run| Preflight { action: Action::CreateSnapshot, guest_may_run };
    let cloned = |guest_may_run| Preflight { action: Action::Clone { from: name("old") }, guest_may_run };
    for asked in [&quiet as &dyn Fn(bool) -> Preflight, &cloned] {
        assert!(matches!(handler.preflight(&volume, &asked(false)), Err(VolumeError::Locked { .. })));
        handler.preflight(&volume, &asked(true)).expect("our own guest");
    }
    drop(held);

    for bad in ["daily", "holdfast-a/b", "holdfast-a.raw", &format!("holdfast-{}", "x".repeat(240))] {
        let bad = SnapshotName::parse(bad).expect("a name");
        let refused = handler.create_snapshot(&volume, &bad, &CX());
        assert!(matches!(refused, Err(VolumeError::Name { .. })), "{refused:?}");
        assert!(!handler.delete_snapshot(&volume, &bad, &CX()).expect("there is none").is_changed());
    }
    let fresh = at(&fixture, "fresh");
    let clone = |snapshot, parameters: &Parameters| {
        let refused = handler.clone_from_snapshot(&volume, &name(snapshot), &fresh, parameters, &CX());
        refused.expect_err("refused")
    };
    assert!(matches!(clone("never", &plain()), VolumeError::NoSuchSnapshot { .. }));
    let unknown = Parameters::from([("speed".to_owned(), "high".to_owned())]);
    for (parameters, told) in [(&unknown, "copy-method"), (&method("fast"), "\"fast\"")] {
        let refused = clone("old", parameters);
        assert!(matches!(refused, VolumeError::Parameter { .. }) && !refused.is_transient());
        assert!(refused.to_string().contains(told), "[004] M5: {refused}");
        assert!(handler.check_parameters(&volume, parameters).is_err());
    }
    let refused = clone("old", &method("reflink")).to_string();
    assert!(refused.contains("cannot share"), "{refused}");
    handler.check_parameters(&volume, &method("reflink")).expect("a good wish");
    assert_eq!(fixture.mem_disk().fingerprint(), before, "nothing has changed");

    handler.create(&blank(&fresh, MIB), &CX()).expect("created");
    assert!(matches!(clone("old", &plain()), VolumeError::Different { .. }), "somebody else's");
}

#[test]
fn a_full_disk_takes_no_copy_and_lets_go_of_snapshots() {
    let fixture = FakeFixture::new();
    let (handler, volume) = prepared(&fixture);
    fixture.fill_up();
    let before = fixture.mem_disk().fingerprint();
    for action in [Action::CreateSnapshot, Action::Clone { from: name("old") }] {
        let space = handler.space(&volume, &action).expect("measured");
        assert!(space.needed_bytes > SIZE_BYTES && space.free_bytes == 0, "{space:?}");
        let refused = handler.preflight(&volume, &Preflight { action, guest_may_run: false });
        assert!(matches!(refused, Err(VolumeError::NoSpace { .. })), "{refused:?}");
    }
    let refused = handler.create_snapshot(&volume, &name("s"), &CX());
    assert!(matches!(refused, Err(VolumeError::NoSpace { .. })), "{refused:?}");
    let fresh = at(&fixture, "fresh");
    let refused = handler.clone_from_snapshot(&volume, &name("old"), &fresh, &plain(), &CX());
    assert!(matches!(refused, Err(VolumeError::NoSpace { .. })), "{refused:?}");
    assert_eq!(fixture.mem_disk().fingerprint(), before, "nothing has changed");
    let action = Action::DeleteSnapshot { name: name("old") };
    assert_eq!(handler.space(&volume, &action).expect("measured").needed_bytes, 0);
    handler.preflight(&volume, &Preflight { action, guest_may_run: false }).expect("needs no room");
    assert!(handler.delete_snapshot(&volume, &name("old"), &CX()).expect("deleted").is_changed());
}

#[test]
fn a_cancelled_copy_leaves_nothing() {
    let fixture = FakeFixture::new();
    let (handler, volume) = prepared(&fixture);
    let before = fixture.mem_disk().all_files();
    let stopped = handler.create_snapshot(&volume, &name("s"), &HandlerCx::new(&|| true, &|_| ()));
    assert!(matches!(stopped, Err(VolumeError::Cancelled { .. })), "{stopped:?}");
    assert_eq!(fixture.mem_disk().all_files(), before);
}

/// I7: only what bears this node's mark, and this volume's name.
#[test]
fn what_lies_beside_a_volume_is_nobodys_snapshot() {
    let fixture = FakeFixture::new();
    let (handler, volume) = prepared(&fixture);
    let beside = [
        "v#0.raw~daily",
        "v#0.raw.holdfast-x",
        "w#0.raw~holdfast-x",
        "notes~holdfast-x",
        "v#0.rawer~holdfast-x",
    ];
    for file in beside {
        fixture.disk().create_new(&fixture.directory().join(file), b"theirs", 0o600).expect("written");
    }
    assert_eq!(names(&handler, &volume).len(), 2);
    let registry = Registry::new(&Backing::Files, fixture.disk(), fixture.tool());
    let found = registry.inventory(fixture.directory()).expect("listed");
    assert!(found.len() == 1 && found[0].location == volume, "a snapshot is no volume: {found:?}");
    handler.destroy(&volume, &CX()).expect("destroyed");
    let left: Vec<String> = fixture
        .disk()
        .list(fixture.directory())
        .expect("listed")
        .iter()
        .filter_map(|entry| entry.text().map(str::to_owned))
        .collect();
    let mut beside = beside.to_vec();
    beside.sort_unstable();
    assert_eq!(left, beside);
}

type Step = fn(&FileHandler, &FakeFixture, &Path) -> Result<(), VolumeError>;

const CUT: Step = |handler, _, volume| handler.create_snapshot(volume, &name("s"), &CX()).map(drop);
const CLONE: Step = |handler, fixture, volume| {
    handler.clone_from_snapshot(volume, &name("old"), &at(fixture, "fresh"), &plain(), &CX()).map(drop)
};
const GIVE: Step =
    |handler, fixture, volume| handler.adopt_snapshots(volume, &at(fixture, "fresh")).map(drop);
const DELETE: Step = |handler, _, volume| handler.delete_snapshot(volume, &name("old"), &CX()).map(drop);
const DESTROY: Step = |handler, _, volume| handler.destroy(volume, &CX()).map(drop);

/// Everything that is there now, with what it holds; temporaries apart.
fn seen(fixture: &FakeFixture) -> Vec<(PathBuf, u8)> {
    let files = fixture.mem_disk().all_files();
    let real = files.into_iter().filter(|path| !path.to_string_lossy().contains(".tmp~"));
    real.map(|path| (path.clone(), pattern_of(fixture.mem_disk(), &path))).collect()
}

/// The power goes at each call of each step; what is there is whole, at any time, and the step done again ends where it ends
/// without a cut, durably, with nothing left over. The same where one call fails.
#[test]
fn each_step_ends_where_it_should_wherever_the_power_goes() {
    for (what, step) in
        [("cut", CUT), ("clone", CLONE), ("give", GIVE), ("delete", DELETE), ("destroy", DESTROY)]
    {
        let whole = FakeFixture::new();
        let (handler, volume) = prepared(&whole);
        let (before, begun) = (seen(&whole), whole.mem_disk().call_count());
        step(&handler, &whole, &volume).expect("nothing in the way");
        let calls = whole.mem_disk().call_count() - begun;
        whole.mem_disk().crash();
        let after = seen(&whole);
        assert!(after != before && calls > 2, "{what}: {calls} calls");
        for (call, power) in (1..=calls).flat_map(|call| [(call, true), (call, false)]) {
            let fixture = FakeFixture::new();
            let (handler, volume) = prepared(&fixture);
            match power {
                true => fixture.mem_disk().cut_power_at(call),
                false => fixture.mem_disk().fail_at(call, io::ErrorKind::Other),
            }
            let done = step(&handler, &fixture, &volume);
            let when = format!("{what}, call {call} of {calls}, power {power}");
            assert!(done.is_err() || !power, "{when}");
            fixture.mem_disk().crash();
            if done.is_ok() {
                assert_eq!(seen(&fixture), after, "what was said to be done is durable: {when}");
            }
            // What is seen is whole (`seen` looks), and nothing was ever lost of what the step does not remove.
            let left = seen(&fixture);
            let kept = |one: &(PathBuf, u8)| !after.contains(one) || left.contains(one);
            assert!(what == "give" || before.iter().all(kept), "{when}: {left:?}");
            step(&handler, &fixture, &volume).expect("done again");
            if what != "destroy" {
                handler.repair(&volume, &CX()).expect("repaired");
            }
            fixture.mem_disk().crash();
            assert_eq!(seen(&fixture), after, "{when}");
            let all = fixture.mem_disk().all_files();
            assert_eq!(all.len(), after.len(), "{when}: {all:?}");
        }
    }
}

/// A disk whose files can share what they hold: one call, however much that is.
#[derive(Debug)]
struct SharingDisk(MemDisk);

impl Disk for SharingDisk {
    fn share_content(&self, from: &Path, to: &Path) -> io::Result<bool> {
        let bytes = self.0.read(from)?;
        self.0.write_at(to, 0, &bytes).map(|()| true)
    }

    fn next_data(&self, path: &Path, _: u64) -> io::Result<Option<Range<u64>>> {
        panic!("{} is shared, and not copied", path.display())
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.0.read(path)
    }
    fn read_at(&self, path: &Path, offset_bytes: u64, len_bytes: usize) -> io::Result<Vec<u8>> {
        self.0.read_at(path, offset_bytes, len_bytes)
    }
    fn create_new(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        self.0.create_new(path, bytes, mode)
    }
    fn write_at(&self, path: &Path, offset_bytes: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(path, offset_bytes, bytes)
    }
    fn truncate(&self, path: &Path, size_bytes: u64) -> io::Result<()> {
        self.0.truncate(path, size_bytes)
    }
    fn overwrite(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.0.overwrite(path, bytes)
    }
    fn sync_file(&self, path: &Path) -> io::Result<()> {
        self.0.sync_file(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.0.sync_dir(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn exchange(&self, from: &Path, to: &Path) -> io::Result<bool> {
        self.0.exchange(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.0.remove_file(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.0.remove_dir(path)
    }
    fn create_dir(&self, path: &Path, mode: u32) -> io::Result<()> {
        self.0.create_dir(path, mode)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.0.list(path)
    }
    fn metadata(&self, path: &Path) -> io::Result<Option<Metadata>> {
        self.0.metadata(path)
    }
    fn space(&self, path: &Path) -> io::Result<DiskSpace> {
        self.0.space(path)
    }
    fn lock_exclusive(&self, path: &Path) -> io::Result<DiskLock> {
        self.0.lock_exclusive(path)
    }
}

#[test]
fn where_files_can_share_what_they_hold_nothing_is_copied() {
    let fixture = FakeFixture::new();
    let sharing: Arc<dyn Disk> = Arc::new(SharingDisk(fixture.mem_disk().clone()));
    let handler = FileHandler::new(sharing, fixture.tool(), Format::Raw).with_snapshot_files();
    let (volume, fresh) = (at(&fixture, "v"), at(&fixture, "fresh"));
    handler.create(&blank(&volume, SIZE_BYTES), &CX()).expect("created");
    write(fixture.mem_disk(), &volume, 1, 5);
    handler.create_snapshot(&volume, &name("s"), &CX()).expect("cut");
    let fast = method("reflink");
    handler.clone_from_snapshot(&volume, &name("s"), &fresh, &fast, &CX()).expect("cloned");
    fixture.mem_disk().crash();
    assert_eq!(pattern_of(fixture.mem_disk(), &fresh), 5, "durable");
}

/// An XFS in a file, unmounted at the end.
#[derive(Debug)]
struct Xfs {
    place: PathBuf,
    _root: tempfile::TempDir,
}

impl Xfs {
    /// Or the reason why this machine has none.
    fn new() -> Result<Self, String> {
        let root = tempfile::tempdir().map_err(|error| format!("no temporary directory: {error}"))?;
        let (image, place) = (root.path().join("image"), root.path().join("xfs"));
        let file = std::fs::File::create(&image).and_then(|file| file.set_len(400 * MIB));
        file.and_then(|()| std::fs::create_dir(&place)).map_err(|error| error.to_string())?;
        let run = |program: &str, words: &[&std::ffi::OsStr]| match Command::new(program).args(words).output()
        {
            Ok(done) if done.status.success() => Ok(()),
            Ok(done) => Err(format!("{program}: {}", String::from_utf8_lossy(&done.stderr).trim())),
            Err(error) => Err(format!("{program}: {error}")),
        };
        run("mkfs.xfs", &["-q".as_ref(), image.as_ref()])?;
        run("mount", &["-o".as_ref(), "loop".as_ref(), image.as_ref(), place.as_ref()])?;
        Ok(Xfs { place, _root: root })
    }
}

impl Drop for Xfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.place).output();
    }
}

#[test]
fn xfs_shares_what_a_snapshot_and_a_clone_hold() {
    let xfs = match (QemuImg::new().version(), Xfs::new()) {
        (Ok(_), Ok(xfs)) => xfs,
        (Err(error), _) => return eprintln!("skipped: {error}"),
        (_, Err(reason)) => return eprintln!("skipped: {reason}"),
    };
    let handler =
        FileHandler::new(Arc::new(RealDisk), Arc::new(QemuImg::new()), Format::Raw).with_snapshot_files();
    let (volume, fresh) = (xfs.place.join("v#0.raw"), xfs.place.join("fresh#0.raw"));
    handler.create(&blank(&volume, 128 * MIB), &CX()).expect("created");
    for mebibyte in 0..64 {
        RealDisk.write_at(&volume, mebibyte * MIB, &[7; MIB as usize]).expect("written");
    }
    RealDisk.sync_file(&volume).expect("flushed");
    let free_bytes = || RealDisk.space(&xfs.place).expect("measured").free_bytes;
    let before = free_bytes();
    handler.create_snapshot(&volume, &name("s"), &CX()).expect("cut");
    handler.clone_from_snapshot(&volume, &name("s"), &fresh, &method("reflink"), &CX()).expect("cloned");
    let taken_bytes = before.saturating_sub(free_bytes());
    assert!(taken_bytes < 8 * MIB, "128 MiB are shared, and {taken_bytes} bytes were taken");

    write(&RealDisk, &volume, 3, 9);
    let read = |file: &Path| RealDisk.read_at(file, 3 * MIB, 1).expect("read")[0];
    assert_eq!((read(&volume), read(&fresh)), (9, 7));
    let copy = xfs.place.join("copy#0.raw");
    handler.clone_from_snapshot(&volume, &name("s"), &copy, &method("copy"), &CX()).expect("copied");
    let taken_bytes = before.saturating_sub(free_bytes());
    assert!(taken_bytes > 60 * MIB, "it has bytes of its own: {taken_bytes}");
    assert_eq!(read(&copy), 7);
}
