//! The suites on pools: on the fake one everywhere, and on a real one, once for each way to speak to it, where there is one
//! (`make zfs-test` runs this in a guest with real OpenZFS). What the simulation believes about ZFS is true.

#![allow(clippy::disallowed_methods, reason = "the test rig on a real pool")]

use std::process::Command;
use std::sync::Arc;

use holdfast_volumehandlers::HandlerCx;
use holdfast_volumehandlers::testing::{
    FakePoolFixture, POOL_VARIABLE, RealPoolFixture, run_on_pool, snapshot_of,
};
use holdfast_volumehandlers::zvol::zfs::{NewZvol, STATE_PROPERTY};
use holdfast_volumehandlers::zvol::{CommandZfs, Dataset, Zfs, ZfsError};

const CX: fn() -> HandlerCx<'static> = HandlerCx::unattended;

/// True where a pool is named; prints why not.
fn there_is_a_pool() -> bool {
    let named = std::env::var_os(POOL_VARIABLE).is_some();
    if !named {
        eprintln!("skipped: {POOL_VARIABLE} names no pool (make zfs-test runs this where there is one)");
    }
    named
}

fn on_a_real_pool(name: &'static str, zfs: impl FnOnce() -> Arc<dyn Zfs>) {
    if there_is_a_pool() {
        let fixture = RealPoolFixture::new(name, zfs()).expect("a file system of its own in the pool");
        run_on_pool(&fixture);
    }
}

fn run(program: &str, words: &[&str]) {
    let output = Command::new(program).args(words).output().expect("the program runs");
    assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A pool of its own on a file, imported read-only; exported at the end.
struct ReadOnlyPool {
    name: &'static str,
    _file: tempfile::NamedTempFile,
}

impl ReadOnlyPool {
    /// With these volumes; the first has a snapshot.
    fn new(name: &'static str, volumes: [&Dataset; 2]) -> Self {
        // Not below the pool that the tests' temporary files lie on: that may be slow, and is no place for a pool.
        let file = tempfile::NamedTempFile::new_in("/tmp").expect("a temporary file");
        file.as_file().set_len(128 << 20).expect("sized");
        let path = file.path().to_str().expect("a plain path").to_owned();
        run("zpool", &["create", "-O", "mountpoint=none", name, &path]);
        let properties = vec![(STATE_PROPERTY.to_owned(), "whole".to_owned())];
        let new = NewZvol { size_bytes: 1 << 20, block_size_bytes: 16 << 10, properties };
        for volume in volumes {
            CommandZfs::new().create_volume(volume, &new, &CX()).expect("made");
        }
        run("zfs", &["snapshot", &format!("{}@holdfast-s", volumes[0])]);
        run("zpool", &["export", name]);
        run("zpool", &["import", "-o", "readonly=on", "-d", &path, name]);
        ReadOnlyPool { name, _file: file }
    }
}

impl Drop for ReadOnlyPool {
    fn drop(&mut self) {
        let _ = Command::new("zpool").args(["export", self.name]).status();
    }
}

fn a_read_only_pool_says_so(name: &'static str, zfs: &dyn Zfs) {
    let volume = Dataset::parse(&format!("{name}/vault/volumes/a.1")).expect("a name");
    let bare = Dataset::parse(&format!("{name}/vault/volumes/c.1")).expect("a name");
    let _pool = ReadOnlyPool::new(name, [&volume, &bare]);
    let snapshot = [snapshot_of(&volume.device(), "holdfast-s")];
    let new_one = [snapshot_of(&volume.device(), "holdfast-t")];
    let beside = Dataset::parse(&format!("{name}/vault/volumes/b.1")).expect("a name");
    let new = NewZvol { size_bytes: 1 << 20, block_size_bytes: 16 << 10, properties: Vec::new() };
    assert_eq!(zfs.volume(&volume).expect("can be looked at").state.as_deref(), Some("whole"));
    assert_eq!(zfs.volumes(&Dataset::parse(&format!("{name}/none")).expect("a name")), Ok(Vec::new()));
    let refused = [
        zfs.room(&volume).map(drop),
        // A channel program, and the kernel runs none there.
        zfs.snapshots(&volume).map(drop),
        zfs.set_property(&volume, STATE_PROPERTY, "filling"),
        zfs.create_volume(&beside, &new, &CX()),
        zfs.destroy_volume(&bare, &CX()),
        zfs.snapshot(&new_one, &CX()),
        zfs.rollback(&snapshot, &[], "token", &CX()),
        zfs.destroy_snapshots(&snapshot, &CX()),
    ];
    let wanted = Err(ZfsError::ReadOnly { pool: name.to_owned() });
    let others: Vec<_> = refused.iter().enumerate().filter(|(_, one)| **one != wanted).collect();
    assert!(others.is_empty(), "{others:?}");
}

#[test]
fn a_read_only_pool_says_so_by_the_zfs_command() {
    if there_is_a_pool() {
        a_read_only_pool_says_so("readonly-c", &CommandZfs::new());
    }
}

#[cfg(feature = "libzetta")]
#[test]
fn a_read_only_pool_says_so_by_libzetta() {
    if there_is_a_pool() {
        let zfs = holdfast_volumehandlers::zvol::LibzettaZfs::new().expect("the module is loaded");
        a_read_only_pool_says_so("readonly-l", &zfs);
    }
}

#[test]
fn the_fake_pool_keeps_the_rules() {
    run_on_pool(&FakePoolFixture::new());
}

#[test]
fn the_zfs_command_keeps_the_rules() {
    on_a_real_pool("zfs command", || Arc::new(CommandZfs::new()));
}

#[cfg(feature = "libzetta")]
#[test]
fn libzetta_keeps_the_rules() {
    use holdfast_volumehandlers::zvol::LibzettaZfs;
    on_a_real_pool("libzetta", || Arc::new(LibzettaZfs::new().expect("the module is loaded")));
}
