//! What one transaction group for eight volumes saves over eight: measured on a real pool, printed for `docs/performance.md`.
//!
//! `zfs-test --test zvol_measured -- --ignored --nocapture`, in the guest with real OpenZFS.

#![allow(clippy::disallowed_methods, reason = "it measures real time")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_volumehandlers::testing::{Fixture, PoolFixture, RealPoolFixture, dataset_of, snapshot_of};
use holdfast_volumehandlers::zvol::zfs::{NewZvol, SnapshotOf};
use holdfast_volumehandlers::zvol::{CommandZfs, Zfs};
use holdfast_volumehandlers::{HandlerCx, zvol};

const VOLUMES: usize = 8;
const ROUNDS: usize = 9;
const CX: fn() -> HandlerCx<'static> = HandlerCx::unattended;

/// Median, least and most, in milliseconds.
fn told(mut times: Vec<Duration>) -> String {
    times.sort();
    let milliseconds = |time: &Duration| time.as_secs_f64() * 1000.0;
    let (least, most) = (milliseconds(&times[0]), milliseconds(&times[times.len() - 1]));
    format!(
        "{:8.1} ms  ({least:.1} to {most:.1}, {} rounds)",
        milliseconds(&times[times.len() / 2]),
        times.len()
    )
}

fn timed(work: impl FnOnce() -> Result<(), zvol::ZfsError>) -> Duration {
    let started = Instant::now();
    work().expect("nothing in the way");
    started.elapsed()
}

fn measure(name: &'static str, zfs: Arc<dyn Zfs>) {
    let fixture = RealPoolFixture::new(name, zfs).expect("a pool");
    let zfs = fixture.zfs();
    let places: Vec<_> = (0..VOLUMES).map(|at| fixture.place(&format!("measured-{at}"))).collect();
    for place in &places {
        let new = NewZvol { size_bytes: 8 << 20, block_size_bytes: 16 << 10, properties: Vec::new() };
        zfs.create_volume(&dataset_of(place), &new, &CX()).expect("made");
    }
    let (mut cut_together, mut cut_alone) = (Vec::new(), Vec::new());
    let (mut back_together, mut back_alone) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        for together in [true, false] {
            let snapshot = format!("holdfast-{round}-{together}");
            let group: Vec<SnapshotOf> = places.iter().map(|place| snapshot_of(place, &snapshot)).collect();
            let write = || places.iter().for_each(|place| fixture.write(place, 1, round as u8 + 1));
            let alone = |step: &dyn Fn(&[SnapshotOf]) -> Result<(), zvol::ZfsError>| {
                group.iter().try_for_each(|member| step(std::slice::from_ref(member)))
            };
            let cut = |members: &[SnapshotOf]| zfs.snapshot(members, &CX());
            let back = |members: &[SnapshotOf]| zfs.rollback(members, &[], &snapshot, &CX());
            write();
            if together {
                cut_together.push(timed(|| cut(&group)));
                write();
                back_together.push(timed(|| back(&group)));
            } else {
                cut_alone.push(timed(|| alone(&cut)));
                write();
                back_alone.push(timed(|| alone(&back)));
            }
            zfs.destroy_snapshots(&group, &CX()).expect("gone");
        }
    }
    for (what, times) in [
        ("snapshot, one call for 8", cut_together),
        ("snapshot, 8 calls", cut_alone),
        ("rollback, one call for 8", back_together),
        ("rollback, 8 calls", back_alone),
    ] {
        println!("measured: {name:<12} {what:<26} {}", told(times));
    }
}

#[test]
#[ignore = "it measures; a machine that does other things tells little"]
fn how_long_eight_volumes_take() {
    if std::env::var_os(holdfast_volumehandlers::testing::POOL_VARIABLE).is_none() {
        return eprintln!("skipped: no pool is named for this");
    }
    measure("zfs command", Arc::new(CommandZfs::new()));
    #[cfg(feature = "libzetta")]
    measure("libzetta", Arc::new(zvol::LibzettaZfs::new().expect("the module is loaded")));
}
