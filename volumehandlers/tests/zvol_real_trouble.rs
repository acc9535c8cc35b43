//! Real pools in trouble: read-only, suspended, and a kernel without the module. What the fake pool says in
//! `zvol_trouble.rs` is what ZFS says (`make zfs-test` runs this in a guest with real OpenZFS).

#![allow(clippy::disallowed_methods, reason = "the test rig on a real pool")]

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use holdfast_volumehandlers::HandlerCx;
use holdfast_volumehandlers::testing::{POOL_VARIABLE, snapshot_of};
use holdfast_volumehandlers::zvol::zfs::{NewZvol, STATE_PROPERTY};
use holdfast_volumehandlers::zvol::{CommandZfs, Dataset, Zfs, ZfsError};

const CX: fn() -> HandlerCx<'static> = HandlerCx::unattended;
const PATIENCE: Duration = Duration::from_secs(30);

/// True where a pool is named, because there pools of one's own can be made; prints why not.
fn there_is_a_pool() -> bool {
    let named = std::env::var_os(POOL_VARIABLE).is_some();
    if !named {
        eprintln!("skipped: {POOL_VARIABLE} names no pool (make zfs-test runs this where there is one)");
    }
    named
}

fn run(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output().expect("the program runs");
    assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("plain text")
}

fn dataset(name: &str) -> Dataset {
    Dataset::parse(name).expect("a name")
}

fn new() -> NewZvol {
    let properties = vec![(STATE_PROPERTY.to_owned(), "whole".to_owned())];
    NewZvol { size_bytes: 1 << 20, block_size_bytes: 16 << 10, properties }
}

/// A pool of its own on a file in a small file system, with a volume that has a snapshot and a bare one; gone at the end.
struct OwnPool {
    name: &'static str,
    directory: PathBuf,
    volume: Dataset,
    bare: Dataset,
    waiting: Option<Child>,
}

impl OwnPool {
    fn new(name: &'static str) -> Self {
        // Not below the pool that the tests' temporary files lie on: that may be slow, and is no place for a pool.
        let directory = PathBuf::from(format!("/tmp/{name}"));
        std::fs::create_dir(&directory).expect("a directory");
        let volume = dataset(&format!("{name}/vault/volumes/a.1"));
        let bare = dataset(&format!("{name}/vault/volumes/c.1"));
        let pool = OwnPool { name, directory, volume, bare, waiting: None };
        run("mount", &["-t", "tmpfs", "-o", "size=96m", "none", &pool.path("")]);
        let file = pool.path("pool");
        run("truncate", &["-s", "256M", &file]);
        run("zpool", &["create", "-O", "mountpoint=none", name, &file]);
        for volume in [&pool.volume, &pool.bare] {
            CommandZfs::new().create_volume(volume, &new(), &CX()).expect("made");
        }
        run("zfs", &["snapshot", &format!("{}@holdfast-s", pool.volume)]);
        pool
    }

    fn path(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    fn make_read_only(&self) {
        run("zpool", &["export", self.name]);
        run("zpool", &["import", "-o", "readonly=on", "-d", &self.path("pool"), self.name]);
    }

    /// The disk below it takes nothing new any more: whoever then changes something waits in the kernel until it does.
    fn suspend(&mut self) {
        let filler = std::fs::File::create(self.path("filler")).expect("made");
        let mut filler = std::io::BufWriter::new(filler);
        while std::io::Write::write_all(&mut filler, &[0x5a; 4096]).is_ok() {}
        let change = ["set", "test:some=thing", self.name];
        self.waiting = Some(Command::new("zfs").args(change).spawn().expect("the program runs"));
        let deadline = Instant::now() + PATIENCE;
        while run("zpool", &["get", "-H", "-o", "value", "health", self.name]).trim() != "SUSPENDED" {
            assert!(Instant::now() < deadline, "the pool is not suspended");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// There is room again.
    fn resume(&mut self) {
        std::fs::remove_file(self.path("filler")).expect("made before");
        run("zpool", &["clear", self.name]);
        self.waiting.take().expect("suspended").wait().expect("it comes to its end");
    }

    /// What every change comes to.
    fn changes(&self, zfs: &dyn Zfs) -> Vec<Result<(), ZfsError>> {
        let snapshot = [snapshot_of(&self.volume.device(), "holdfast-s")];
        let new_one = [snapshot_of(&self.volume.device(), "holdfast-t")];
        let beside = dataset(&format!("{}/vault/volumes/b.1", self.name));
        vec![
            zfs.room(&self.volume).map(drop),
            zfs.set_property(&self.volume, STATE_PROPERTY, "filling"),
            zfs.create_volume(&beside, &new(), &CX()),
            zfs.destroy_volume(&self.bare, &CX()),
            zfs.snapshot(&new_one, &CX()),
            zfs.rollback(&snapshot, &[], "token", &CX()),
            zfs.destroy_snapshots(&snapshot, &CX()),
            // A channel program, and the kernel runs none there.
            zfs.snapshots(&self.volume).map(drop),
        ]
    }

    fn expect_changes(&self, zfs: &dyn Zfs, wanted: &ZfsError) {
        let changes = self.changes(zfs);
        let others: Vec<_> =
            changes.iter().enumerate().filter(|(_, one)| one.as_ref() != Err(wanted)).collect();
        assert!(others.is_empty(), "{others:?}");
    }
}

impl Drop for OwnPool {
    fn drop(&mut self) {
        // Of a pool that is suspended still nothing can be taken away; the guest ends with it.
        if self.waiting.is_none() {
            let _ = Command::new("zpool").args(["destroy", "-f", self.name]).status();
            let _ = Command::new("umount").arg("-l").arg(&self.directory).status();
        }
    }
}

fn a_read_only_pool_says_so(name: &'static str, zfs: &dyn Zfs) {
    let pool = OwnPool::new(name);
    pool.make_read_only();
    assert_eq!(zfs.volume(&pool.volume).expect("can be looked at").state.as_deref(), Some("whole"));
    assert_eq!(zfs.volumes(&dataset(&format!("{name}/none"))), Ok(Vec::new()));
    pool.expect_changes(zfs, &ZfsError::ReadOnly { pool: name.to_owned() });
}

fn a_suspended_pool_says_so(name: &'static str, zfs: &dyn Zfs) {
    let mut pool = OwnPool::new(name);
    pool.suspend();
    let started = Instant::now();
    pool.expect_changes(zfs, &ZfsError::Suspended { pool: name.to_owned() });
    assert!(started.elapsed() < PATIENCE, "nobody waits for the disk");
    pool.resume();
    // Everything is as it was, and works.
    let names: Vec<String> =
        zfs.snapshots(&pool.volume).expect("listed").into_iter().map(|one| one.name).collect();
    assert_eq!(names, ["holdfast-s"]);
    let snapshot = [snapshot_of(&pool.volume.device(), "holdfast-s")];
    zfs.rollback(&snapshot, &[], "token", &CX()).expect("rolled back");
    assert_eq!(zfs.volume(&pool.volume).expect("looked").reverted.as_deref(), Some("token"));
    zfs.destroy_volume(&pool.bare, &CX()).expect("there, and gone");
}

#[test]
fn a_read_only_pool_says_so_by_the_zfs_command() {
    if there_is_a_pool() {
        a_read_only_pool_says_so("readonly-c", &CommandZfs::new());
    }
}

#[test]
fn a_suspended_pool_says_so_by_the_zfs_command() {
    if there_is_a_pool() {
        a_suspended_pool_says_so("suspended-c", &CommandZfs::new());
    }
}

#[cfg(feature = "libzetta")]
fn libzetta() -> holdfast_volumehandlers::zvol::LibzettaZfs {
    holdfast_volumehandlers::zvol::LibzettaZfs::new().expect("the module is loaded")
}

#[cfg(feature = "libzetta")]
#[test]
fn a_read_only_pool_says_so_by_libzetta() {
    if there_is_a_pool() {
        a_read_only_pool_says_so("readonly-l", &libzetta());
    }
}

#[cfg(feature = "libzetta")]
#[test]
fn a_suspended_pool_says_so_by_libzetta() {
    if there_is_a_pool() {
        a_suspended_pool_says_so("suspended-l", &libzetta());
    }
}

/// The real programs where neither `/dev/zfs` nor `/sys/module/zfs` is to be seen, as on a kernel without the module.
#[test]
fn without_the_module_the_zfs_command_says_so() {
    if !there_is_a_pool() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let hidden = |program: &str| {
        let place = directory.path().join(program);
        let hide = "mount -t tmpfs none /sys && mount -t tmpfs none /dev";
        let script =
            format!("#!/bin/sh\nexec unshare -m sh -c '{hide} && exec {program} \"$@\"' sh \"$@\"\n");
        std::fs::write(&place, script).expect("written");
        std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o755)).expect("set");
        place
    };
    let zfs = CommandZfs::at(hidden("zfs"), hidden("zpool"));
    let volume = dataset("tank/vault/volumes/a.1");
    let snapshot = [snapshot_of(&volume.device(), "holdfast-s")];
    for (step, refused) in [
        zfs.room(&volume).map(drop),
        zfs.volumes(&dataset("tank/vault/volumes")).map(drop),
        zfs.volume(&volume).map(drop),
        zfs.snapshots(&volume).map(drop),
        zfs.set_property(&volume, STATE_PROPERTY, "filling"),
        zfs.create_volume(&volume, &new(), &CX()),
        zfs.destroy_volume(&volume, &CX()),
        zfs.snapshot(&snapshot, &CX()),
        zfs.rollback(&snapshot, &[], "token", &CX()),
        zfs.destroy_snapshots(&snapshot, &CX()),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(refused, Err(ZfsError::NotLoaded), "step {step}");
    }
}
