//! What one transaction group for eight volumes saves over eight: measured on a real pool, printed for `docs/performance.md`.
//!
//! `zfs-test --test zvol_measured -- --ignored --nocapture`, in the guest with real OpenZFS.

#![allow(clippy::disallowed_methods, reason = "it measures real time")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_volumehandlers::testing::{
    Fixture, POOL_VARIABLE, PoolFixture, RealPoolFixture, dataset_of, snapshot_of,
};
use holdfast_volumehandlers::zvol::zfs::{NewZvol, SnapshotOf};
use holdfast_volumehandlers::zvol::{CommandZfs, Zfs};
use holdfast_volumehandlers::{HandlerCx, zvol};

const VOLUMES: usize = 8;
const ROUNDS: usize = 9;
const CX: fn() -> HandlerCx<'static> = HandlerCx::unattended;

/// How long a step took, and in how many transaction groups the pool went on meanwhile.
#[derive(Debug, Clone, Copy)]
struct Cost {
    took: Duration,
    groups: u64,
}

/// What one way to do it cost, round by round.
#[derive(Debug, Default)]
struct Costs(Vec<Cost>);

impl Costs {
    fn median_ms(&self) -> f64 {
        self.sorted_ms()[self.0.len() / 2]
    }

    fn sorted_ms(&self) -> Vec<f64> {
        let mut times: Vec<f64> = self.0.iter().map(|cost| cost.took.as_secs_f64() * 1000.0).collect();
        times.sort_by(f64::total_cmp);
        times
    }

    fn median_groups(&self) -> u64 {
        let mut groups: Vec<u64> = self.0.iter().map(|cost| cost.groups).collect();
        groups.sort_unstable();
        groups[groups.len() / 2]
    }

    fn told(&self) -> String {
        let times = self.sorted_ms();
        let (median, least, most) = (self.median_ms(), times[0], times[times.len() - 1]);
        let groups = self.median_groups();
        format!("{median:.0} ms ({least:.0} to {most:.0}), transaction groups {groups}")
    }
}

/// The pool's transaction group that takes changes now. Only what syncs one makes it go on, and every five seconds the clock.
fn open_group() -> u64 {
    let pool = std::env::var(POOL_VARIABLE).expect("asked before");
    let history = std::fs::read_to_string(format!("/proc/spl/kstat/zfs/{pool}/txgs")).expect("a history");
    let newest = history.lines().last().and_then(|line| line.split_whitespace().next());
    newest.and_then(|number| number.parse().ok()).expect("a number")
}

fn measured(work: impl FnOnce() -> Result<(), zvol::ZfsError>) -> Cost {
    let (started, group) = (Instant::now(), open_group());
    work().expect("nothing in the way");
    Cost { took: started.elapsed(), groups: open_group() - group }
}

fn measure(name: &'static str, zfs: Arc<dyn Zfs>) {
    let fixture = RealPoolFixture::new(name, zfs).expect("a pool");
    let zfs = fixture.zfs();
    let places: Vec<_> = (0..VOLUMES).map(|at| fixture.place(&format!("measured-{at}"))).collect();
    for place in &places {
        let new = NewZvol { size_bytes: 8 << 20, block_size_bytes: 16 << 10, properties: Vec::new() };
        zfs.create_volume(&dataset_of(place), &new, &CX()).expect("made");
    }
    // Snapshots and rollbacks, each together and alone.
    let mut costs: [[Costs; 2]; 2] = Default::default();
    for round in 0..ROUNDS {
        for together in [true, false] {
            let snapshot = format!("holdfast-{round}-{together}");
            let group: Vec<SnapshotOf> = places.iter().map(|place| snapshot_of(place, &snapshot)).collect();
            let write = || places.iter().for_each(|place| fixture.write(place, 1, round as u8 + 1));
            let at_once = if together { VOLUMES } else { 1 };
            let cut = || group.chunks(at_once).try_for_each(|members| zfs.snapshot(members, &CX()));
            let back = || group.chunks(at_once).try_for_each(|it| zfs.rollback(it, &[], &snapshot, &CX()));
            write();
            costs[0][usize::from(!together)].0.push(measured(cut));
            write();
            costs[1][usize::from(!together)].0.push(measured(back));
            zfs.destroy_snapshots(&group, &CX()).expect("gone");
        }
    }
    for (what, [together, alone]) in ["snapshot", "rollback"].into_iter().zip(&costs) {
        println!("measured: {name}, {what} of {VOLUMES} in one call: {}", together.told());
        println!("measured: {name}, {what} of {VOLUMES} in {VOLUMES} calls: {}", alone.told());
        println!("measured: {name}, {what}: {:.1} times", alone.median_ms() / together.median_ms());
        assert!(together.median_groups() <= 2 && alone.median_groups() >= VOLUMES as u64, "{costs:?}");
    }
}

#[test]
#[ignore = "it measures; a machine that does other things tells little"]
fn how_long_eight_volumes_take() {
    if std::env::var_os(POOL_VARIABLE).is_none() {
        return eprintln!("skipped: no pool is named for this");
    }
    measure("zfs command", Arc::new(CommandZfs::new()));
    #[cfg(feature = "libzetta")]
    measure("libzetta", Arc::new(zvol::LibzettaZfs::new().expect("the module is loaded")));
}
