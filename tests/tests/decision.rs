//! The decision table of guarded rollback ([000] L1–L6), by whole nodes on fake storage: what comes of each case, and in
//! which words.
//!
//! ```text
//!   state × what stands in the way × tag × backend ──▶ a node, its controller, strangers ──▶ outcome, text ──▶ tests/golden/decision/
//! ```
//!
//! And what was decided holds: against whatever comes in between, any number of times over, and wherever the power goes.
//!
//! A refusal leaves storage as it was (I16) and stops no guest; what goes on destroys what it says, and nothing else (I7).
//! `UPDATE_GOLDEN=1` writes the files anew.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use holdfast_tests::decision::{self, BLOCKERS, Expected, Put, Put::*, STATES, expected};
use holdfast_tests::world::controller::Orders;
use holdfast_tests::world::ground::locked;
use holdfast_tests::world::storage::{devices, raw_tool};
use holdfast_tests::world::tap::{CutPoint, Recorder, volume_files};
use holdfast_tests::world::workload::{APP, ON_FILES, ON_ZFS, Op, Setting, snapshot, volume};
use holdfast_tests::world::{Schedule, Survival, World};
use holdfast_types::*;
use holdfast_volumehandlers::testing::FakeImage;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Backend {
    Qcow2,
    Zvol,
}

impl Backend {
    fn setting(self) -> Setting {
        let found = match self {
            Backend::Qcow2 => ON_FILES.into_iter().find(|setting| setting.volumes == 2),
            Backend::Zvol => ON_ZFS.into_iter().find(|setting| setting.volumes == 2),
        };
        found.expect("there is such a setting")
    }

    fn name(self) -> &'static str {
        match self {
            Backend::Qcow2 => "qcow2",
            Backend::Zvol => "zvol",
        }
    }

    /// Neither clones nor holds nor bookmarks are known to an image.
    fn takes(self, puts: &[Put]) -> bool {
        self == Backend::Zvol || !puts.iter().any(|put| matches!(put, Clone(_) | Hold(_) | Unknown(_)))
    }
}

/// Snapshot 1 is there, and snapshot 2 if asked for.
fn base(backend: Backend, has_newer: bool) -> CutPoint {
    let mut world = backend.setting().deployed().expect("applications can be deployed");
    if has_newer {
        world.order(|orders| {
            Op::SnapshotNow.order(orders);
        });
        world.settle().expect("a snapshot can be taken");
    }
    world.moment()
}

fn boot(base: &CutPoint) -> World {
    let world = World::after_cut(base, Survival::Kept, Recorder::Off, Schedule::Fixed);
    let mut world = world.expect("it comes up");
    world.settle().expect("it settles");
    world
}

fn place(world: &World, backend: Backend, n: u8) -> PathBuf {
    backend.setting().storage.first_place(&world.layout, &VolumeKey::new(VolumeId(volume(n)), 1))
}

fn newest(world: &World, volume: &Path) -> String {
    let image = raw_tool(&world.tap.disk).image(volume).expect("it is there");
    image.snapshots.last().expect("one at least").name.clone()
}

fn put(world: &mut World, backend: Backend, put: Put) {
    match put {
        Managed => {}
        Unmanaged(n) => {
            let volume = place(world, backend, n);
            world.stranger_snapshots(&volume);
        }
        Clone(n) => {
            let volume = place(world, backend, n);
            let image = raw_tool(&world.tap.disk).image(&volume).expect("it is there");
            let target = image.snapshots.first().expect("the target").name.clone();
            world.stranger_clones(&volume, &target);
        }
        Unknown(n) => {
            let volume = place(world, backend, n);
            world.stranger_bookmarks(&volume);
        }
        Hold(n) => {
            let volume = place(world, backend, n);
            let newest = newest(world, &volume);
            world.stranger_holds(&volume, &newest);
        }
    }
}

/// Everything on storage, whoever made it.
fn storage(world: &World) -> Vec<(PathBuf, FakeImage)> {
    let tool = raw_tool(&world.tap.disk);
    let files = volume_files(&world.tap.disk, &world.layout.volumes_dir(true));
    let all = files.into_iter().chain(devices(&world.tap.disk));
    all.map(|path| (path.clone(), tool.image(&path).expect("whole"))).collect()
}

fn row(world: &World) -> AppInstanceState {
    let rows = world.rows::<AppInstanceState>();
    (**rows.iter().find(|row| row.app.0 == APP).expect("it is installed")).clone()
}

fn names(storage: &[(PathBuf, FakeImage)]) -> BTreeSet<String> {
    let one = |(path, image): &(PathBuf, FakeImage)| {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        image.snapshots.iter().map(move |snapshot| format!("{name} {}", snapshot.name)).collect::<Vec<_>>()
    };
    storage.iter().flat_map(one).collect()
}

/// One case from the order to the end, as lines for the golden file.
fn decide(base: &CutPoint, backend: Backend, state: &str, puts: &[Put], has_tag: bool) -> String {
    let case = format!("{backend:?} {state:?} {puts:?} {has_tag}");
    let mut world = boot(base);
    puts.iter().for_each(|one| put(&mut world, backend, *one));
    let before = (storage(&world), row(&world));
    let starts = locked(&world.ground).past[&APP].starts;
    world.order(|orders| {
        orders.edit(|device| {
            let app = device.app(APP).ha_state(state).roll_back(snapshot(1));
            if has_tag {
                app.tag(FORCE_ROLLBACK);
            }
        });
    });
    world.settle().unwrap_or_else(|violation| panic!("{case}: {}", violation.what));
    let after = (storage(&world), row(&world));
    let guest_starts = locked(&world.ground).past[&APP].starts - starts;
    let operations = after.1.last_operation.0 - before.1.last_operation.0;
    let failure = after.1.last_failure.as_ref().map(|failure| failure.error.summary.clone());
    let outcome = match expected(state, puts, has_tag, backend == Backend::Zvol) {
        Expected::Done => {
            assert_eq!((failure, guest_starts), (None, 1), "{case}");
            let gone: BTreeSet<String> = names(&before.0).difference(&names(&after.0)).cloned().collect();
            let agreed = if backend == Backend::Qcow2 {
                0
            } else {
                puts.iter().filter(|put| matches!(put, Unmanaged(_))).count()
            };
            assert_eq!(gone.len(), agreed, "{case}: {gone:?}");
            assert!(gone.iter().all(|one| one.contains("daily-")), "{case}: {gone:?}");
            decision::done(&gone.into_iter().collect::<Vec<_>>())
        }
        refusal => {
            // I16, I7, and no downtime.
            assert!(before.0 == after.0, "{case}: storage was changed");
            assert_eq!(guest_starts, 0, "{case}");
            let text = failure.unwrap_or_else(|| panic!("{case}: nothing was told"));
            assert_eq!(operations, u64::from(refusal == Expected::Blocked), "{case}");
            decision::refused(refusal, &text)
        }
    };
    let reminder = locked(&world.ground).orders.reports.get(&APP.to_string()).map(|report| {
        report.app_err.iter().any(|error| error.severity == 1 && error.description.contains(FORCE_ROLLBACK))
    });
    assert_eq!(reminder, Some(has_tag), "L6: a report reminds of a tag that is set, and of no other: {case}");
    outcome
}

/// Compares with the file of this name, or writes it if `UPDATE_GOLDEN` is set.
fn expect(file: &Path, text: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(file.parent().expect("a directory")).expect("it can be made");
        std::fs::write(file, text).expect("the table can be written");
        return;
    }
    let golden = std::fs::read_to_string(file).unwrap_or_default();
    assert!(
        golden == text,
        "{} differs (UPDATE_GOLDEN=1 writes it anew)\n--- expected\n{golden}\n--- decided\n{text}",
        file.display()
    );
}

fn table(backend: Backend) {
    let bases = [base(backend, false), base(backend, true)];
    for state in STATES {
        let mut text = String::new();
        for (name, puts) in BLOCKERS.into_iter().filter(|(_, puts)| backend.takes(puts)) {
            for has_tag in [false, true] {
                let base = &bases[usize::from(puts.contains(&Managed))];
                let outcome = decide(base, backend, state, puts, has_tag);
                text.push_str(&decision::entry(&decision::title(name, has_tag), &outcome));
            }
        }
        expect(&decision::golden_file(backend.name(), state), &text);
    }
}

#[test]
fn the_table_on_zfs_volumes() {
    table(Backend::Zvol);
}

/// L4: an older snapshot can be applied and the newer stay.
#[test]
fn the_table_on_images() {
    table(Backend::Qcow2);
}

/// Strangers' snapshots on both volumes, and an order that agrees to their loss.
fn agreed() -> World {
    let mut world = boot(&base(Backend::Zvol, false));
    [Unmanaged(1), Unmanaged(1), Unmanaged(2)]
        .into_iter()
        .for_each(|one| put(&mut world, Backend::Zvol, one));
    world.order(order_with_tag);
    world
}

fn order_with_tag(orders: &mut Orders) {
    orders.edit(|device| {
        device.app(APP).untag(FORCE_ROLLBACK).tag(FORCE_ROLLBACK).roll_back(snapshot(1));
    });
}

/// What a rollback comes to, beside the content, which the reference model compares.
fn end_of(mut world: World, case: &str) -> (BTreeSet<String>, Option<DoneRollback>) {
    world.settle().unwrap_or_else(|violation| panic!("{case}: {}", violation.what));
    let row = row(&world);
    assert_eq!((row.operation, row.last_failure), (None, None), "{case}");
    assert!(world.rows::<SnapshotIntent>().is_empty(), "{case}: an intent is left");
    (names(&storage(&world)), row.last_rollback)
}

/// [000] L7, I5: also where only the answer was lost, and everything had been done.
#[test]
fn an_agreed_rollback_ends_the_same_wherever_it_is_cut_or_killed() {
    let mut whole = agreed();
    whole.tap.record(Recorder::All(vec![whole.moment()]));
    whole.settle().expect("it goes through");
    let Recorder::All(points) = whole.tap.taken() else { panic!("it was recorded") };
    let end = end_of(whole, "without a cut");
    assert!(end.0.iter().all(|name| !name.contains("daily-")), "{end:?}");
    assert!(end.1.as_ref().is_some_and(|done| !done.consent.is_empty()), "{end:?}");
    assert!(points.len() > 20, "{} moments", points.len());
    for point in &points {
        for survival in [Survival::Lost, Survival::Kept, Survival::Coin(point.call)] {
            let case = format!("cut before call {}: {}; {survival:?}", point.call, point.what);
            let world = World::after_cut(point, survival, Recorder::Off, Schedule::Fixed);
            assert_eq!(end_of(world.expect("it comes up"), &case), end, "{case}");
        }
        let case = format!("killed before call {}: {}", point.call, point.what);
        let world = World::after_kill(point, Recorder::Off, Schedule::Fixed);
        assert_eq!(end_of(world.expect("it comes up"), &case), end, "{case}");
    }
}

/// [004] M1 for a whole application: the second and the third time there is nothing left to destroy.
#[test]
fn an_agreed_rollback_can_be_ordered_three_times() {
    let mut world = agreed();
    world.settle().expect("it goes through");
    let end = names(&storage(&world));
    for number in [2, 3] {
        world.order(order_with_tag);
        world.settle().expect("it goes through again");
        let row = row(&world);
        assert_eq!((row.rollback_counter, row.last_failure), (number, None));
        assert!(row.last_rollback.is_some_and(|done| done.consent.is_empty()));
        assert_eq!(names(&storage(&world)), end);
    }
}

/// L7: what was not seen by the check is destroyed by nobody. Once storage has been asked to do it, it comes too late.
#[test]
fn what_comes_between_the_check_and_the_deed_stops_it() {
    let base = base(Backend::Zvol, false);
    let (mut agreed, mut stopped, mut too_late) = (0, 0, 0);
    for steps in 0.. {
        let mut world = boot(&base);
        put(&mut world, Backend::Zvol, Unmanaged(1));
        world.order(order_with_tag);
        for _ in 0..steps {
            let _ = world.step().expect("nothing is broken") || world.pass_time();
        }
        let is_over = row(&world).last_rollback.is_some();
        let late = world.stranger_snapshots(&place(&world, Backend::Zvol, 2));
        world.settle().unwrap_or_else(|violation| panic!("after {steps} steps: {}", violation.what));
        let (row, left) = (row(&world), names(&storage(&world)));
        let is_left = |name: &str| left.iter().any(|one| one.ends_with(name));
        let consent = row.last_rollback.map(|done| done.consent).unwrap_or_default();
        match row.last_failure {
            Some(failure) => {
                assert!(failure.error.summary.contains(&late), "after {steps} steps: {failure:?}");
                assert!(is_left(&late) && is_left("daily-1"), "after {steps} steps: {left:?}");
                stopped += 1;
            }
            // The check saw it: then it was agreed to.
            None if consent.volumes.values().flatten().any(|one| one.name == late) => {
                assert!(!is_left(&late), "after {steps} steps: {left:?}");
                agreed += 1;
            }
            None => {
                assert!(is_left(&late) && !is_left("daily-1"), "after {steps} steps: {left:?}");
                too_late += 1;
            }
        }
        if is_over {
            break;
        }
    }
    assert!(
        agreed > 0 && stopped > 0 && too_late > 0,
        "{agreed} agreed, {stopped} stopped, {too_late} too late"
    );
}
