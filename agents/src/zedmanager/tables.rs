//! Tables of single decisions: what the walks pass by on their way, found by mutation (docs/testing.md).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use holdfast_persist::disk::Disk;
use holdfast_persist::layout::PersistLayout;
use holdfast_persist::mem_disk::MemDisk;
use holdfast_pubsub::DamagedRow;
use holdfast_types::*;

use super::carry_out::carry_out;
use super::desired::{self, Domain};
use super::machine::*;
use super::testing::*;
use super::{Env, Event, LocalOrder, Zedmanager, inventory, list};
use crate::runtime::ManualClock;
use crate::runtime::bench::Bench;

/// The facts, with what they borrow.
struct Given {
    received: Option<Arc<AppInstanceConfig>>,
    removed: bool,
    storage_known: bool,
    guest: Guest,
    volumes: BTreeMap<VolumeKey, Readiness>,
    storage: BTreeMap<SnapshotId, Arc<VolumesSnapshotStatus>>,
    preflight: BTreeMap<SnapshotId, Arc<SnapshotPreflightStatus>>,
    saved: BTreeMap<SnapshotId, Arc<AppInstanceConfig>>,
}

impl Given {
    /// Version 1 as wanted, its guest confirmed down, its volumes ready.
    fn calm() -> Self {
        let ready = config("1").volume_keys().into_iter().map(|key| (key, Readiness::Ready));
        Given {
            received: Some(config("1").into()),
            removed: false,
            storage_known: true,
            guest: Guest::ConfirmedDown,
            volumes: ready.collect(),
            storage: BTreeMap::new(),
            preflight: BTreeMap::new(),
            saved: BTreeMap::new(),
        }
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            now: time(50),
            received: self.received.as_ref(),
            removed: self.removed,
            storage_known: self.storage_known,
            guest: self.guest,
            volumes: &self.volumes,
            storage: &self.storage,
            preflight: &self.preflight,
            saved: &self.saved,
            admission: Admission::All,
            guard: self.received.as_ref().map(|config| effective(&config.guard, None)),
        }
    }
}

fn installed(words: &str) -> AppInstanceState {
    AppInstanceState { applied: Some(config("1").into()), ..state_with(words) }
}

fn running(state: &AppInstanceState, operation: Operation) -> AppInstanceState {
    AppInstanceState { operation: Some(operation), ..state.clone() }
}

fn entry(state: &mut AppInstanceState, n: u8) -> &mut SnapshotState {
    &mut state.snapshots.get_mut(&snapshot_id(n)).expect("known").state
}

fn plan_of(decision: Decision) -> NewOperation {
    match decision {
        Decision::Begin(plan) => *plan,
        other => panic!("an operation should begin, not {other:?}"),
    }
}

/// [003] D4: until storage is at work a removed application drops what it does; then its answer is awaited.
#[test]
fn what_a_removed_application_does_is_given_up_until_storage_is_at_work() {
    let table = [
        (Phase::PreparingVolumes, true),
        (Phase::CheckingStorage, true),
        (Phase::StoppingGuest, true),
        (Phase::DeletingSnapshots, false),
        (Phase::CuttingSnapshots, false),
        (Phase::RevertingVolumes, false),
    ];
    let given = Given { removed: true, received: None, ..Given::calm() };
    for (phase, expected) in table {
        let state = running(&installed("a1"), rollback_operation(1, phase));
        assert_eq!(decide(&state, &given.facts()) == Decision::Abandon, expected, "{phase:?}");
        let deletes = running(&installed(""), operation(OperationKind::DeleteApp, phase));
        assert_ne!(
            decide(&deletes, &given.facts()),
            Decision::Abandon,
            "the deletion itself goes on: {phase:?}"
        );
    }
}

/// Every operation names the volumes it is about: those of the version that is cut, or that comes back.
#[test]
fn an_operation_names_its_volumes() {
    let mut given = Given::calm();
    let mut two = config("2");
    two.volumes[0].generation = Generation(1);
    given.received = Some(two.clone().into());
    let update = plan_of(decide(&installed("r1"), &given.facts()));
    assert_eq!((update.kind, update.volumes), (OperationKind::Update, config("1").volume_keys()));

    let mut state = installed("r1");
    state.snapshots.get_mut(&snapshot_id(1)).expect("known").desc.kind = SnapshotType::Immediate;
    let now = plan_of(decide(&state, &Given::calm().facts()));
    assert_eq!((now.kind, now.volumes), (OperationKind::Snapshot, config("1").volume_keys()));

    let mut state = installed("a1");
    state.applied = Some(two.clone().into());
    two.snapshot.active = Some(snapshot_id(1));
    two.snapshot.rollback.counter = 1;
    given.received = Some(two.into());
    given.saved.insert(snapshot_id(1), config("1").into());
    let back = plan_of(decide(&state, &given.facts()));
    assert_eq!((back.kind, back.volumes), (OperationKind::Rollback, config("1").volume_keys()));
}

#[test]
fn an_operation_waits_for_every_volume_and_a_rollback_not_for_a_broken_one() {
    let mut given = Given::calm();
    let update = Operation {
        next: Some(config("1").into()),
        ..operation(OperationKind::Update, Phase::PreparingVolumes)
    };
    let back = rollback_operation(1, Phase::PreparingVolumes);
    let key = config("1").volume_keys()[0];
    given.volumes.insert(key, Readiness::Pending);
    for operation in [&update, &back] {
        let state = running(&installed("a1"), operation.clone());
        assert_eq!(decide(&state, &given.facts()), Decision::Wait(WaitingFor::Volumes));
    }
    let error = ErrorReport::new("gone", time(1));
    given.volumes.insert(key, Readiness::Broken(error.clone()));
    let decided = |operation| decide(&running(&installed("a1"), operation), &given.facts());
    assert_eq!(decided(update), Decision::Wait(WaitingFor::Volumes), "it may come yet");
    assert_eq!(decided(back), Decision::Fail(error), "[003] C1");
}

/// [003] C1: an answer is one to this operation, not to one before.
#[test]
fn an_old_answer_of_the_preflight_is_none() {
    let state = running(&installed("a1"), rollback_operation(1, Phase::CheckingStorage));
    let mut given = Given::calm();
    let mut status = SnapshotPreflightStatus {
        snapshot: snapshot_id(1),
        app: app_id(),
        operation: OperationNumber(100),
        refusal: None,
        blockers: Blockers::new(),
        space: BTreeMap::new(),
        cloned: Default::default(),
    };
    given.preflight.insert(snapshot_id(1), status.clone().into());
    assert_eq!(decide(&state, &given.facts()), Decision::Wait(WaitingFor::Preflight));
    status.operation = OperationNumber(101);
    given.preflight.insert(snapshot_id(1), status.into());
    assert_eq!(decide(&state, &given.facts()), Decision::Agree(Consent::default()));
}

/// Deletions interrupt an update, which begins again afterwards. An installation has no guest to be down for.
#[test]
fn an_installation_is_not_interrupted_by_deletions() {
    let mut given = Given::calm();
    given.volumes.clear();
    let preparing =
        |kind| Operation { next: Some(config("1").into()), ..operation(kind, Phase::PreparingVolumes) };
    let install = running(&state_with("d1"), preparing(OperationKind::Install));
    assert_eq!(decide(&install, &given.facts()), Decision::Wait(WaitingFor::Volumes));
    let update = running(&installed("d1"), preparing(OperationKind::Update));
    assert_eq!(decide(&update, &given.facts()), Decision::Abandon);
}

#[test]
fn only_what_stands_still_waits_for_admission() {
    let idle = installed("");
    let busy = running(&idle, operation(OperationKind::Snapshot, Phase::CheckingStorage));
    let volumes = || Decision::Wait(WaitingFor::Volumes);
    assert_eq!(waits_for_admission(&idle, volumes()), WaitingFor::Volumes);
    assert_eq!(waits_for_admission(&idle, Decision::Complete), WaitingFor::Admission);
    assert_eq!(waits_for_admission(&busy, volumes()), WaitingFor::Admission);
}

/// [003] H3: damage does not make a snapshot one that never was.
#[test]
fn a_snapshot_that_storage_lost_was_cut_all_the_same() {
    let mut state = installed("a1");
    let SnapshotState::Available(instance) = entry(&mut state, 1) else { panic!("available") };
    instance.time_created = None;
    absorb(&mut state, &Given::calm().facts());
    // The configuration lists it no more, so it is to be deleted, as what it is.
    let SnapshotState::Deleting { instance, .. } = entry(&mut state, 1) else { panic!("{state:?}") };
    assert_eq!(instance.time_created, Some(time(50)));
}

/// [003] B5: the next configuration asks again for what could not be cut, and not for what was.
#[test]
fn what_was_never_cut_is_asked_for_again_with_the_next_configuration() {
    let mut state = installed("f1 f2");
    let SnapshotState::Failed(instance) = entry(&mut state, 1) else { panic!("failed") };
    instance.time_created = None;
    let waiting = |received| Some(WaitingUpdate { received, error: ErrorReport::new("no", time(1)) });
    let mut given = Given::calm();
    let received = Arc::make_mut(given.received.as_mut().expect("configured"));
    received.snapshot.snapshots = [1, 2].map(|n| desc(n, SnapshotType::AppUpdate)).to_vec();
    state.waiting = waiting(received.clone().into());
    absorb(&mut state, &given.facts());
    assert!(matches!(entry(&mut state, 1), SnapshotState::Failed(_)) && state.waiting.is_some(), "the same");
    state.waiting = waiting(config("0").into());
    absorb(&mut state, &given.facts());
    assert_eq!(*entry(&mut state, 1), SnapshotState::Requested);
    assert!(matches!(entry(&mut state, 2), SnapshotState::Failed(_)) && state.waiting.is_none());
}

/// [003] A6: an error goes with the next success of the same operation, and with no other.
#[test]
fn a_success_clears_the_errors_of_its_own_kind() {
    let failed = |kind| {
        Some(FailedOperation { number: OperationNumber(1), kind, error: ErrorReport::new("no", time(1)) })
    };
    for (before, stays) in [(OperationKind::Rollback, false), (OperationKind::Update, true)] {
        let mut state = running(&installed("a1"), rollback_operation(1, Phase::RevertingVolumes));
        state.last_failure = failed(before);
        let SnapshotState::Available(instance) = entry(&mut state, 1) else { panic!("available") };
        instance.error = Some(ErrorReport::new("refused", time(1)));
        carry_out(&mut state, Decision::Complete, &Given::calm().facts());
        assert_eq!(state.last_failure.is_some(), stays, "{before:?}");
        assert!(
            matches!(entry(&mut state, 1), SnapshotState::Available(instance) if instance.error.is_none())
        );
    }
}

#[test]
fn snapshots_are_taken_in_the_order_they_were_asked_for() {
    let mut state = installed("");
    let wanted = SnapshotConfig {
        snapshots: [3, 1, 2].map(|n| desc(n, SnapshotType::AppUpdate)).to_vec(),
        ..SnapshotConfig::default()
    };
    list::reconcile(&mut state, &wanted, time(1));
    assert_eq!(list::waiting_for_update(&state), wanted.snapshots);
}

// ---- what stands on the bus ------------------------------------------------------------------------------------

/// One request as `id action operation made`.
fn requests(state: &AppInstanceState, given: &Given) -> Vec<String> {
    let word = |request: VolumesSnapshotConfig| {
        let n = request.snapshot.0.as_u128() - 0x500;
        let made = if request.made { "made" } else { "new" };
        format!("{n} {:?} {} {made}", request.action, request.operation.0)
    };
    desired::snapshot_configs(state, &given.facts()).into_iter().map(word).collect()
}

/// What exists is claimed by the number of its making; what is cut is asked for only when nothing can write.
#[test]
fn a_request_says_whether_the_snapshot_was_made_and_by_which_operation() {
    let mut state = installed("a1 f2 f3 d4 d5 r6 r7 t8");
    let SnapshotState::Failed(instance) = entry(&mut state, 3) else { panic!("failed") };
    instance.time_created = None;
    let SnapshotState::Deleting { asked, .. } = entry(&mut state, 5) else { panic!("deleting") };
    *asked = true;
    *entry(&mut state, 6) = SnapshotState::Cutting { operation: OperationNumber(101) };
    let mut cutting = operation(OperationKind::Update, Phase::CuttingSnapshots);
    cutting.snapshots = vec![desc(6, SnapshotType::AppUpdate)];
    let mut given = Given::calm();

    let kept = ["1 Create 1 made", "2 Create 2 made", "4 Create 4 made"];
    let with = |cut: &'static str| [&kept[..], &[cut]].concat();
    let state = running(&state, cutting.clone());
    assert_eq!(requests(&state, &given), with("6 Create 101 new"));
    for guest in [Guest::Unknown, Guest::Up, Guest::Down] {
        given.guest = guest;
        assert_eq!(requests(&state, &given), with("6 Unspecified 101 new"), "only claimed: {guest:?}");
    }
    let stopping = running(&state, Operation { phase: Phase::StoppingGuest, ..cutting.clone() });
    assert_eq!(requests(&stopping, &given), kept, "its turn has not come");
    let another = running(&state, Operation { snapshots: Vec::new(), ..cutting });
    assert_eq!(requests(&another, &given), kept, "not in this operation");
}

/// [003] D1: while an operation deletes, with the guest confirmed down, what storage has and nobody keeps is to go, by the
/// operation's number: also what the row has forgotten, and what storage cannot tell whose it is if the row knows it.
#[test]
fn what_nobody_keeps_is_asked_to_go_while_the_guest_is_down_for_an_operation() {
    let mut state = installed("a1 r2 f3 f4 d5 d6 t7");
    let SnapshotState::Failed(instance) = entry(&mut state, 4) else { panic!("failed") };
    instance.time_created = None;
    let SnapshotState::Deleting { asked, .. } = entry(&mut state, 5) else { panic!("deleting") };
    *asked = true;
    let state = running(&state, operation(OperationKind::Update, Phase::DeletingSnapshots));
    let mut given = Given::calm();
    let (nobody, another) = (AppId(uuid::Uuid::nil()), AppId(uuid::Uuid::from_u128(0xb0)));
    let told =
        [(1, app_id()), (2, app_id()), (3, app_id()), (4, nobody), (5, nobody), (6, app_id()), (7, app_id())];
    for (n, app) in told.into_iter().chain([(8, app_id()), (9, another), (10, nobody)]) {
        given.storage.insert(
            snapshot_id(n),
            VolumesSnapshotStatus {
                snapshot: snapshot_id(n),
                meta: BTreeMap::new(),
                time_created: None,
                app,
                ref_count: 0,
                result_of: SnapshotAction::Delete,
                operation: OperationNumber(100),
                error: Some(ErrorReport::new("in use", time(1))),
            }
            .into(),
        );
    }
    let kept = ["1 Create 1 made", "3 Create 3 made", "6 Create 6 made"];
    let gone = [2, 4, 5, 7, 8].map(|n| format!("{n} Delete 101 made"));
    let all: Vec<String> = kept.map(str::to_owned).into_iter().chain(gone).collect();
    assert_eq!(requests(&state, &given), all);
    for guest in [Guest::Unknown, Guest::Up, Guest::Down] {
        given.guest = guest;
        assert_eq!(requests(&state, &given), kept, "{guest:?}");
    }
    given.guest = Guest::ConfirmedDown;
    given.storage_known = false;
    assert_eq!(requests(&state, &given), kept, "not all is told yet");
    given.storage_known = true;
    for phase in [Phase::StoppingGuest, Phase::CuttingSnapshots] {
        let state = running(&state, operation(OperationKind::Update, phase));
        assert_eq!(requests(&state, &given), kept, "{phase:?}");
    }
}

/// [003] B2, C3: the order to revert goes out with the guest confirmed down, for the target and no other.
#[test]
fn only_the_target_is_rolled_back_to_and_only_with_the_guest_down() {
    let as_made = ["1 Create 1 made", "2 Create 2 made"];
    for (phase, guest, first) in [
        (Phase::RevertingVolumes, Guest::ConfirmedDown, "1 Rollback 101 made"),
        // Only claimed, so that an answer that was given already is kept.
        (Phase::RevertingVolumes, Guest::Down, "1 Unspecified 101 made"),
        (Phase::RevertingVolumes, Guest::Up, "1 Unspecified 101 made"),
        (Phase::DeletingSnapshots, Guest::ConfirmedDown, as_made[0]),
    ] {
        let state = running(&installed("a1 a2"), rollback_operation(1, phase));
        let given = Given { guest, ..Given::calm() };
        assert_eq!(requests(&state, &given), [first, as_made[1]], "{phase:?} {guest:?}");
    }
}

/// [003] B7, G8: a guest is started only when all is known; until then what stands on the bus stays.
#[test]
fn a_guest_starts_when_everything_is_known_and_ready() {
    let key = VolumeRefKey { app: app_id(), volume: volume_ref(1, 0).key() };
    let status = VolumeRefStatus {
        key,
        state: SwState::CreatedVolume,
        progress: 100,
        file_location: "/volumes/v".to_owned(),
        format: Some(Format::Qcow2),
        read_only: false,
        error: None,
    };
    let wish = |given: &Given, held_back: bool, edit: fn(&mut VolumeRefStatus)| {
        let mut status = status.clone();
        edit(&mut status);
        match desired::domain(&installed(""), &given.facts(), held_back, |_| Some(&status)) {
            Domain::Unchanged => "unchanged",
            Domain::Wanted(config) if config.activate => "start",
            Domain::Wanted(_) => "stop",
        }
    };
    let calm = Given::calm();
    assert_eq!(wish(&calm, false, |_| ()), "start");
    assert_eq!(wish(&calm, true, |_| ()), "unchanged");
    assert_eq!(wish(&Given { storage_known: false, ..Given::calm() }, false, |_| ()), "unchanged");
    assert_eq!(wish(&Given { guest: Guest::Unknown, ..Given::calm() }, false, |_| ()), "unchanged");
    assert_eq!(wish(&calm, false, |status| status.state = SwState::Loading), "unchanged");
    assert_eq!(
        wish(&calm, false, |status| status.error = Some(ErrorReport::new("torn", time(1)))),
        "unchanged"
    );
}

// ---- the inventory ---------------------------------------------------------------------------------------------

#[test]
fn a_file_that_bears_the_name_of_a_snapshot_is_left_alone() {
    let (disk, layout) = (MemDisk::new(), PersistLayout::new("/persist"));
    layout.prepare(&disk).expect("an empty disk");
    disk.create_new(&layout.snapshot_dir(&snapshot_id(1)), b"", 0o600).expect("created");
    let scan = inventory::scan(&disk, &layout).expect("nothing fails");
    assert!(scan.snapshots.is_empty());
    assert_eq!(scan.unreadable, [(snapshot_id(1).to_string(), "not a directory".to_owned())]);
}

/// A node that has started and has its configuration, but has not looked at its snapshots yet.
fn before_the_scan(disk: &MemDisk, layout: &PersistLayout) -> Bench<Zedmanager> {
    let env = Env { disk: Arc::new(disk.clone()), layout: layout.clone() };
    let agent = Zedmanager::new(layout.clone());
    let mut bench = Bench::on(disk.clone(), ManualClock::new(time(0)), agent, env);
    bench.start();
    bench.publish(config("1"));
    bench.signal_restarted::<AppInstanceConfig>();
    bench
}

#[test]
fn nothing_is_decided_before_the_snapshots_can_be_listed() {
    let (disk, layout) = (MemDisk::new(), PersistLayout::new("/persist"));
    layout.prepare(&disk).expect("an empty disk");
    let mut bench = before_the_scan(&disk, &layout);
    for scan in 0..6 {
        disk.fail_at(1, io::ErrorKind::Other);
        bench.run_jobs();
        assert_eq!(bench.rows::<AppInstanceState>().len(), 0, "scan {scan}");
        let status = bench.row::<AppInstanceStatus>(&app_id()).expect("the controller is told");
        let [error] = &status.errors[..] else { panic!("{:?}", status.errors) };
        assert!(error.summary.contains("cannot list /persist/snapshots"), "scan {scan}: {error}");
        assert_eq!((status.state, error.time), (SwState::Initial, time(0)), "scan {scan}");
        // What is in force and what guards it is not known: nothing may be ordered or set, and who tries is told.
        let what = match scan % 2 {
            0 => LocalAsk::Set(LocalChange { tags: ["x".to_owned()].into(), ..LocalChange::default() }),
            _ => LocalAsk::Plan(LocalAction::CreateSnapshot),
        };
        let number = scan + 1;
        bench.cell.poster().post(Event::Local(LocalOrder { app: app_id(), number, what }));
        bench.settle();
        let answer = bench.row::<AppPlan>(&app_id()).expect("an answer");
        assert_eq!((answer.number, answer.answer), (number, PlanAnswer::Refused(error.summary.clone())));
        bench.advance(Duration::from_secs(5));
    }
    bench.run_jobs();
    assert_eq!(bench.rows::<AppInstanceState>().len(), 1);
    assert_eq!(bench.row::<AppInstanceStatus>(&app_id()).expect("a status").errors, []);
    assert_eq!(bench.rows::<LocalAppSettings>(), []);
}

/// What is known of an application that was there before, and of one that comes meanwhile and goes again.
#[test]
fn an_application_tells_what_is_known_of_it_while_the_snapshots_cannot_be_listed() {
    let (disk, layout) = (MemDisk::new(), PersistLayout::new("/persist"));
    layout.prepare(&disk).expect("an empty disk");
    let mut bench = before_the_scan(&disk, &layout);
    bench.run_jobs();
    let before = bench.row::<AppInstanceStatus>(&app_id()).expect("a status");
    let mut bench = before_the_scan(&disk, &layout);
    disk.fail_at(1, io::ErrorKind::Other);
    bench.run_jobs();
    let status = bench.row::<AppInstanceStatus>(&app_id()).expect("a status");
    assert_eq!(status.display_name, before.display_name);
    assert_eq!(status.volumes, before.volumes);
    assert!(status.activate, "it is listed: {status:?}");
    bench.unpublish::<AppInstanceConfig>(&app_id());
    let status = bench.row::<AppInstanceStatus>(&app_id()).expect("it has a row, so it is here");
    assert!(!status.activate);
    let mut other = config("1");
    other.id_and_version.id = AppId(uuid::Uuid::from_u128(7));
    let id = other.app();
    bench.publish(other);
    assert_eq!(bench.row::<AppInstanceStatus>(&id).expect("a status").errors.len(), 1);
    bench.unpublish::<AppInstanceConfig>(&id);
    assert_eq!(bench.row::<AppInstanceStatus>(&id), None);
}

/// [003] G9: one snapshot's record does not hold up its node for ever.
#[test]
fn a_record_that_the_disk_does_not_give_is_waited_for_15_s() {
    let (disk, layout) = (MemDisk::new(), PersistLayout::new("/persist"));
    layout.prepare(&disk).expect("an empty disk");
    for directory in
        [layout.snapshot_dir(&snapshot_id(1)), layout.snapshot_instance_status_file(&snapshot_id(1))]
    {
        disk.create_dir(&directory, 0o700).expect("created");
    }
    let mut bench = before_the_scan(&disk, &layout);
    // A list that does not come is not counted: there was no record yet to be waited for.
    for _ in 0..5 {
        disk.fail_at(1, io::ErrorKind::Other);
        bench.run_jobs();
        bench.advance(Duration::from_secs(5));
    }
    for _ in 0..3 {
        bench.run_jobs();
        assert_eq!(bench.rows::<AppInstanceState>().len(), 0);
        let status = bench.row::<AppInstanceStatus>(&app_id()).expect("the controller is told");
        let error = status.errors[0].summary.clone();
        assert!(error.contains("records of snapshots cannot be read or swept yet"), "{error}");
        bench.advance(Duration::from_secs(5));
    }
    bench.run_jobs();
    assert_eq!(bench.rows::<AppInstanceState>().len(), 1);
}

/// [003] H3: damage is judged afresh at each start; what was never cut stays failed.
#[test]
fn a_snapshot_whose_records_are_back_is_whole_again() {
    let mut state = installed("f1 f2");
    let error = Some(ErrorReport::new("damaged", time(1)));
    let SnapshotState::Failed(instance) = entry(&mut state, 1) else { panic!("failed") };
    instance.error.clone_from(&error);
    let SnapshotState::Failed(instance) = entry(&mut state, 2) else { panic!("failed") };
    (instance.time_created, instance.error) = (None, error);
    inventory::presume_whole(&mut state);
    assert!(matches!(entry(&mut state, 1), SnapshotState::Available(instance) if instance.error.is_none()));
    assert!(matches!(entry(&mut state, 2), SnapshotState::Failed(instance) if instance.error.is_some()));
}

#[test]
fn of_an_available_snapshot_both_the_directory_and_the_configuration_must_be_there() {
    let (saved, directories) =
        (BTreeMap::from([(snapshot_id(1), config("1").into())]), BTreeSet::from([snapshot_id(1)]));
    for (saved, directories, whole) in [
        (saved.clone(), directories.clone(), true),
        (BTreeMap::new(), directories, false),
        (saved, BTreeSet::new(), false),
    ] {
        let mut state = installed("a1");
        inventory::mark_incomplete(&mut state, &saved, &directories, time(1));
        assert_eq!(matches!(entry(&mut state, 1), SnapshotState::Available(_)), whole);
    }
}

#[test]
fn snapshots_taken_in_again_are_numbered_in_their_order() {
    let mut state = empty_state();
    inventory::adopt(&mut state, instance(2));
    inventory::adopt(&mut state, instance(1));
    let sequence = |n| state.snapshots[&snapshot_id(n)].sequence;
    assert_eq!((sequence(2), sequence(1)), (1, 2));
}

#[test]
fn a_lost_row_is_told_of_the_application_it_was_of() {
    let row = |key: &str| DamagedRow {
        topic: AppInstanceState::NAME,
        key: key.to_owned(),
        reason: "cut off at line 1".to_owned(),
    };
    let lost = inventory::lost_rows(&[row(&app_id().to_string()), row("no id")], time(1));
    assert_eq!(lost.keys().collect::<Vec<_>>(), [&app_id()]);
    assert!(lost[&app_id()].summary.contains("cut off at line 1"));
}
