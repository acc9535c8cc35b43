//! The suites on pools: on the fake one everywhere, and on a real one, once for each way to speak to it, where there is one
//! (`make zfs-test` runs this in a guest with real OpenZFS). What the simulation believes about ZFS is true.

#![allow(clippy::disallowed_methods, reason = "the test rig on a real pool")]

use std::sync::Arc;

use holdfast_volumehandlers::testing::{FakePoolFixture, POOL_VARIABLE, RealPoolFixture, run_on_pool};
use holdfast_volumehandlers::zvol::{CommandZfs, Zfs};

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
