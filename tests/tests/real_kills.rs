//! The short part of the real kills (`make soak-real` does the same for thousands), and the proof that what looks for
//! broken promises finds them.

#![allow(clippy::disallowed_methods, reason = "tests look at real files and run real programs")]

use std::path::{Path, PathBuf};
use std::process::Command;

use holdfast_tests::real_kills::inspect::{Persist, expect_contents, expect_no_orphans, expect_promises};
use holdfast_tests::real_kills::model::Model;
use holdfast_tests::real_kills::place::FileSystem;
use holdfast_tests::real_kills::rig::{Rig, Trouble};
use holdfast_tests::real_kills::tally::Tally;
use holdfast_tests::real_kills::{group, image};

const SOAK_REAL: &str = env!("CARGO_BIN_EXE_soak-real");
const KILLS: u64 = 20;

/// A directory on a real file system. None, with the reason printed, where the machine lacks what it takes.
fn place() -> Option<tempfile::TempDir> {
    for tool in ["qemu-img", "qemu-io"] {
        if Command::new(tool).arg("--version").output().is_err() {
            eprintln!("skipped: {tool} is not installed");
            return None;
        }
    }
    let below = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file_system = FileSystem::of(below).expect("it is there");
    if file_system.is_memory() {
        eprintln!("skipped: {} is on {}, which is memory", below.display(), file_system.name());
        return None;
    }
    Some(tempfile::tempdir_in(below).expect("a temporary folder"))
}

#[test]
fn a_killed_node_is_before_or_after_on_a_real_disk() {
    let Some(place) = place() else { return };
    let kills = KILLS.to_string();
    let output = Command::new(SOAK_REAL)
        .args(["--kills", &kills, "--seed", "3", "--lanes", "2", "--directory"])
        .arg(place.path())
        .output()
        .expect("it can be run");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    let last = out.lines().last().expect("a last line");
    assert!(last.starts_with(&format!("kills={KILLS} violations=0 seconds=")), "{out}");
    assert!(out.lines().any(|line| line.starts_with("hit: create=")), "{out}");
    let left: Vec<_> = std::fs::read_dir(place.path()).expect("readable").collect();
    assert!(left.is_empty(), "left: {left:?}");
}

#[test]
fn a_persist_directory_in_memory_is_refused() {
    let memory = Path::new("/dev/shm");
    if !FileSystem::of(memory).is_ok_and(FileSystem::is_memory) {
        eprintln!("skipped: /dev/shm is not in memory here");
        return;
    }
    let Some(_place) = place() else { return };
    let output = Command::new(SOAK_REAL).arg("--directory").arg(memory).output().expect("it can be run");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("which is memory"), "{output:?}");
}

/// A rig that has lived for a while, at rest, with two snapshots or more.
struct AtRest {
    _place: tempfile::TempDir,
    persist: Persist,
    model: Model,
    rollback_counter: u32,
}

impl AtRest {
    fn new() -> Option<AtRest> {
        let place = place()?;
        group::become_reaper().expect("it is a process's right");
        let tally = Tally::new(u64::MAX);
        for seed in 0.. {
            let directory = place.path().join(seed.to_string());
            std::fs::create_dir(&directory).expect("a folder");
            let mut rig = Rig::new(Path::new(SOAK_REAL), directory, seed, &tally);
            match rig.live(6) {
                Ok(()) => {}
                Err(Trouble::Violation(what)) => panic!("{what}, at {}", rig.story),
                Err(Trouble::Machine(error)) => panic!("{error:#}"),
            }
            let (persist, mut model, rollback_counter) = rig.into_parts();
            if model.listed.len() >= 2 {
                model.promised = model.listed.clone();
                return Some(AtRest { _place: place, persist, model, rollback_counter });
            }
        }
        None
    }

    fn judge(&self) -> Result<(), String> {
        expect_promises(&self.persist, &self.model)?;
        expect_contents(&self.persist, &self.model, self.rollback_counter, true)?;
        expect_no_orphans(&self.persist, &self.model)
    }

    fn image(&self) -> PathBuf {
        self.persist.image(0)
    }

    /// Name of the first snapshot within the first volume.
    fn inner(&self) -> String {
        image::read(&self.image()).expect("whole").snapshots[0].name.clone()
    }

    #[track_caller]
    fn expect_found(&self, words: &str) {
        let found = self.judge().expect_err("it was broken");
        assert!(found.contains(words), "{found}");
    }
}

fn run(program: &str, arguments: &[&str], image: &Path) {
    let output = Command::new(program).args(arguments).arg(image).output().expect("it can be run");
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn whatever_is_broken_is_found() {
    let Some(rest) = AtRest::new() else { return };
    let kept = std::fs::read(rest.image()).expect("readable");
    let restore = || std::fs::write(rest.image(), &kept).expect("writable");
    assert_eq!(rest.judge(), Ok(()), "nothing is broken yet");

    // One block of one volume.
    run("qemu-io", &["-f", "qcow2", "-c", "write -q -P 0x5a 4096 512"], &rest.image());
    rest.expect_found("I1: ");
    restore();

    // A volume that went back alone.
    run("qemu-img", &["snapshot", "-a", &rest.inner()], &rest.image());
    rest.expect_found("shows what snapshot");
    restore();

    // A snapshot within an image that a record names, and is gone.
    run("qemu-img", &["snapshot", "-d", &rest.inner()], &rest.image());
    rest.expect_found("I3: ");
    restore();

    // One that no record names.
    run("qemu-img", &["snapshot", "-c", "holdfast-stray"], &rest.image());
    rest.expect_found("I5: volume 1 has the snapshots");
    restore();

    // Clusters that belong to nobody: what a cut-off qemu-img leaves.
    leak_a_cluster(&rest.image());
    rest.expect_found("J4: ");
    restore();

    // A record of a snapshot is gone.
    let n = *rest.model.listed.first().expect("two are listed");
    let record = rest.persist.layout.volumes_snapshot_status_file(&holdfast_tests::real_kills::snapshot(n));
    let bytes = std::fs::read(&record).expect("readable");
    std::fs::remove_file(&record).expect("removable");
    rest.expect_found("G4: ");
    std::fs::write(&record, bytes).expect("writable");

    // Something that nothing names: a temporary, a directory of a snapshot that never was, a volume's file.
    let layout = &rest.persist.layout;
    let strays = [
        layout.snapshots_dir().join(".tmp~stray"),
        layout.volumes_dir(true).join("stray.qcow2"),
        layout.quarantine_dir().join("stray"),
        layout.topic_dir("volumemgr", "SnapshotIntent").join("stray.json"),
    ];
    for stray in strays {
        std::fs::create_dir_all(stray.parent().expect("it has one")).expect("a folder");
        std::fs::write(&stray, b"{}").expect("writable");
        rest.expect_found("I5: ");
        std::fs::remove_file(&stray).expect("removable");
    }
    assert_eq!(rest.judge(), Ok(()), "everything is as it was");
}

/// Counts a cluster as used, behind the image's last, although nothing uses it.
fn leak_a_cluster(image: &Path) {
    let mut bytes = std::fs::read(image).expect("readable");
    let cluster = bytes.len().div_ceil(65536);
    bytes.resize((cluster + 1) * 65536, 0);
    let u64_at = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let counts = u64_at(u64_at(48) as usize) as usize;
    let entry = counts + cluster * 2;
    bytes[entry..entry + 2].copy_from_slice(&1u16.to_be_bytes());
    std::fs::write(image, bytes).expect("writable");
}
