//! The guard in every phase of a rollback ([000] L1, L2, L7, L9), and local settings on the bench.

use std::sync::Arc;

use holdfast_persist::layout::PersistLayout;
use holdfast_persist::mem_disk::MemDisk;
use holdfast_types::*;

use super::machine::*;
use super::testing::*;
use super::walk::Walk;
use super::{Env, Event, LocalOrder, Zedmanager};
use crate::runtime::ManualClock;
use crate::runtime::bench::Bench;

const ALL: [&str; 6] = ["started", "stopped", "disabled", "ignored", "", "paused"];

fn order_rollback(walk: &mut Walk, counter: u32) {
    walk.edit(|config| {
        config.snapshot.active = Some(snapshot_id(1));
        config.snapshot.rollback.counter = counter;
    });
}

fn guarded_by(walk: &mut Walk, state: &str) {
    walk.edit(|config| config.guard.ha_state = Guard::read(state));
}

fn allows(state: &str) -> bool {
    matches!(state, "ignored" | "")
}

fn failure(walk: &Walk) -> String {
    walk.state.last_failure.as_ref().map(|failure| failure.error.summary.clone()).unwrap_or_default()
}

/// A rollback that waits in this phase.
fn rolling_back(phase: Phase) -> Walk {
    let mut walk = Walk::upgraded();
    order_rollback(&mut walk, 1);
    walk.go();
    if phase > Phase::CheckingStorage {
        walk.pass_preflight(1, None);
        walk.go();
    }
    if phase > Phase::StoppingGuest {
        walk.guest = Guest::ConfirmedDown;
        walk.go();
    }
    assert_eq!(walk.state.operation.as_ref().map(|operation| operation.phase), Some(phase));
    walk.take_steps();
    walk
}

/// [000] L1, L2, [003] A4: refused before the snapshot, storage or the guest is looked at; the counter is used up.
#[test]
fn a_guarded_application_is_not_rolled_back_and_nothing_is_looked_at() {
    for state in ALL {
        let mut walk = Walk::upgraded();
        walk.go();
        walk.take_steps();
        // Of a snapshot that nobody knows it would be said that it is unknown.
        order_rollback(&mut walk, 1);
        walk.edit(|config| config.snapshot.active = Some(snapshot_id(9)));
        guarded_by(&mut walk, state);
        walk.go();
        let steps = walk.take_steps();
        assert_eq!(walk.state.rollback_counter, 1, "{state:?}: used up");
        if allows(state) {
            assert!(steps[0].contains("it is unknown here"), "{state:?}: {steps:?}");
            continue;
        }
        assert!(steps[0].starts_with("refuse: Rollback blocked: app:"), "{state:?}: {steps:?}");
        assert!(steps[0].contains("--ha-state ignored") && failure(&walk).contains(state), "{steps:?}");
        assert_eq!(steps[1..], ["apply in place"], "{state:?}: no operation");
        guarded_by(&mut walk, "ignored");
        walk.go();
        assert!(!walk.take_steps().iter().any(|step| step.starts_with("begin")), "once, and not later");
    }
}

/// [000] L1: looked at again up to the first volume; then the rollback is finished, whatever is set.
#[test]
fn a_guard_that_comes_meanwhile_stops_the_rollback_until_volumes_are_touched() {
    for phase in [Phase::CheckingStorage, Phase::StoppingGuest] {
        for state in ALL {
            let mut walk = rolling_back(phase);
            guarded_by(&mut walk, state);
            walk.go();
            let steps = walk.take_steps();
            if allows(state) {
                assert!(steps.is_empty() && walk.state.operation.is_some(), "{phase:?} {state:?}: {steps:?}");
                continue;
            }
            assert!(steps[0].starts_with("fail: Rollback blocked"), "{phase:?} {state:?}: {steps:?}");
            assert_eq!(walk.state.applied.as_ref().map(|config| config.version()), Some("2"));
            let error = walk.state.last_failure.as_ref().map(|failure| failure.error.clone()).expect("told");
            assert_eq!(error.retry_condition, "a higher rollback counter");
        }
    }
    let mut walk = rolling_back(Phase::RevertingVolumes);
    guarded_by(&mut walk, "started");
    assert_eq!(walk.go(), WaitingFor::Reverts, "what is being reverted is finished");
    walk.storage_answers(1, SnapshotAction::Rollback, None);
    walk.go();
    assert_eq!(walk.state.applied.as_ref().map(|config| config.version()), Some("1"));
}

/// The guard comes while storage is at a deletion that the guest's stop was used for: the deletion is waited for.
#[test]
fn a_guard_that_comes_during_deletions_stops_the_rollback_behind_them() {
    let mut walk = rolling_back(Phase::StoppingGuest);
    let dropped = state_with("d2").snapshots.remove(&snapshot_id(2)).expect("made");
    walk.state.snapshots.insert(snapshot_id(2), dropped);
    let gone = VolumesSnapshotStatus::clone(&walk.storage[&snapshot_id(1)]);
    walk.storage.insert(snapshot_id(2), VolumesSnapshotStatus { snapshot: snapshot_id(2), ..gone }.into());
    walk.guest = Guest::ConfirmedDown;
    assert_eq!(walk.go(), WaitingFor::Deletions);
    guarded_by(&mut walk, "started");
    assert_eq!(walk.go(), WaitingFor::Deletions);
    walk.storage.remove(&snapshot_id(2));
    walk.take_steps();
    walk.go();
    let steps = walk.take_steps();
    assert_eq!(steps[0], "forget");
    assert!(steps[1].starts_with("fail: Rollback blocked"), "{steps:?}");
}

/// After a start in the middle: nobody knows the guard before the configuration is here, so nothing is touched.
#[test]
fn nothing_is_reverted_before_the_configuration_has_come() {
    let mut walk = rolling_back(Phase::StoppingGuest);
    let received = walk.received.take();
    walk.guest = Guest::ConfirmedDown;
    assert_eq!(walk.go(), WaitingFor::Guard);
    assert_eq!(walk.take_steps(), ["DeletingSnapshots"]);
    walk.received = received;
    assert_eq!(walk.go(), WaitingFor::Reverts);
}

/// [000] L9: the state from before manual control, kept with the operation and after it.
#[test]
fn the_state_from_before_is_kept_with_the_rollback() {
    let mut walk = Walk::upgraded();
    guarded_by(&mut walk, "started");
    walk.go();
    guarded_by(&mut walk, "ignored");
    order_rollback(&mut walk, 1);
    walk.go();
    let record = walk.state.operation.as_ref().and_then(|operation| operation.guard.clone()).expect("kept");
    assert_eq!(record.controlled_by, Some(HaState::Started));
    assert_eq!(record.effective.ha_state, Guard::Managed(HaState::Ignored));
    walk.pass_preflight(1, None);
    walk.go();
    walk.guest = Guest::ConfirmedDown;
    walk.go();
    walk.storage_answers(1, SnapshotAction::Rollback, None);
    walk.go();
    let done = walk.state.last_rollback.clone().expect("kept");
    assert_eq!((done.guard, done.snapshot), (record, snapshot_id(1)));
    assert_eq!(
        walk.state.applied.as_ref().map(|config| config.guard.ha_state.clone()),
        Some(Guard::Managed(HaState::Ignored)),
        "C2: today's, not the snapshot's"
    );
}

// ---- local settings, on the bench --------------------------------------------------------------------------------

fn layout() -> PersistLayout {
    PersistLayout::new("/persist")
}

fn agent(disk: &MemDisk) -> (Zedmanager, Env) {
    (Zedmanager::new(layout()), Env { disk: Arc::new(disk.clone()), layout: layout() })
}

struct Node {
    bench: Bench<Zedmanager>,
    disk: MemDisk,
}

impl Node {
    fn started() -> Self {
        let disk = MemDisk::new();
        layout().prepare(&disk).expect("an empty disk");
        let (zedmanager, env) = agent(&disk);
        Node { bench: Bench::on(disk.clone(), ManualClock::new(time(0)), zedmanager, env), disk }.begun()
    }

    fn begun(mut self) -> Self {
        self.bench.start();
        self.bench.settle();
        self.bench.run_jobs();
        self.bench.publish(AppInstanceConfig {
            guard: AppGuard { ha_state: Guard::Managed(HaState::Started), ..AppGuard::default() },
            ..config("1")
        });
        self.bench.signal_restarted::<AppInstanceConfig>();
        self.bench.signal_restarted::<VolumesSnapshotStatus>();
        self.bench.signal_restarted::<DomainStatus>();
        self.bench.settle();
        self
    }

    fn cut_power(self) -> Self {
        let Node { bench, disk } = self;
        let (zedmanager, env) = agent(&disk);
        Node { bench: bench.cut_power(zedmanager, env), disk }.begun()
    }

    fn set(&mut self, change: LocalChange) {
        self.bench.cell.poster().post(Event::Local(LocalOrder {
            app: app_id(),
            number: 1,
            what: LocalAsk::Set(change),
        }));
        self.bench.settle();
    }

    fn status(&self) -> AppInstanceStatus {
        self.bench.row::<AppInstanceStatus>(&app_id()).expect("reported")
    }
}

fn ignored() -> LocalChange {
    LocalChange { ha_state: Some(HaChoice::State(HaState::Ignored)), ..LocalChange::default() }
}

fn force() -> LocalChange {
    LocalChange { tags: [FORCE_ROLLBACK.to_owned()].into(), ..LocalChange::default() }
}

#[test]
fn what_is_set_locally_outlives_a_power_cut_and_can_be_taken_back() {
    let mut node = Node::started();
    assert_eq!(node.status().guard.ha_state, Guard::Managed(HaState::Started));
    node.set(ignored());
    node.set(force());
    let mut node = node.cut_power();
    let guard = node.status().guard;
    assert_eq!((guard.ha_state, guard.ha_state_is_local), (Guard::Managed(HaState::Ignored), true));
    assert!(guard.tags.contains(FORCE_ROLLBACK));
    node.set(LocalChange {
        ha_state: Some(HaChoice::Controller),
        untags: [FORCE_ROLLBACK.to_owned()].into(),
        ..LocalChange::default()
    });
    let guard = node.status().guard;
    assert_eq!((guard.ha_state, guard.tags.len()), (Guard::Managed(HaState::Started), 0));
    assert!(node.bench.row::<LocalAppSettings>(&app_id()).is_none(), "nothing is left");
}

/// [000] L6: said as long as it is set, and once.
#[test]
fn a_tag_that_is_still_set_is_told_in_every_report() {
    let mut node = Node::started();
    assert!(node.status().errors.is_empty());
    node.set(force());
    let reminder = node.status().errors;
    assert_eq!(reminder.len(), 1);
    assert_eq!(reminder[0].severity, Severity::Notice);
    assert!(reminder[0].summary.contains(FORCE_ROLLBACK) && reminder[0].summary.contains("--untag"));
    node.bench.clock.advance(std::time::Duration::from_secs(60));
    node.set(ignored());
    assert_eq!(node.status().errors[0], reminder[0], "the same, with its time");
}

/// [000] L1: a row that cannot be read is no leave, after the next start neither.
#[test]
fn damaged_local_settings_guard_until_somebody_says_what_holds() {
    let mut node = Node::started();
    node.set(ignored());
    let file = layout().row_file("zedmanager", LocalAppSettings::NAME, &app_id());
    holdfast_persist::crashsafe::durable_replace(&node.disk, &file, b"{").expect("damaged");
    for _ in 0..2 {
        node = node.cut_power();
        let guard = node.status().guard;
        assert!(matches!(guard.ha_state, Guard::Unreadable(_)), "{guard:?}");
    }
    node.set(LocalChange { ha_state: Some(HaChoice::Controller), ..LocalChange::default() });
    assert_eq!(node.cut_power().status().guard.ha_state, Guard::Managed(HaState::Started));
}

#[test]
fn local_settings_go_with_their_application_and_never_come_without_it() {
    let mut node = Node::started();
    node.set(ignored());
    node.bench.unpublish::<AppInstanceConfig>(&app_id());
    node.bench.settle();
    for _ in 0..10 {
        if let Some(order) = node.bench.row::<DomainConfig>(&app_id()) {
            node.bench.publish(DomainStatus {
                app: app_id(),
                number: order.number,
                state: DomainState::Halted,
                process_id: None,
                boot_time: None,
                accelerator: String::new(),
                console_log: String::new(),
                crash_count: 0,
                error: None,
            });
            node.bench.settle();
        }
    }
    assert!(node.bench.row::<AppInstanceStatus>(&app_id()).is_none(), "deleted");
    assert!(node.bench.row::<LocalAppSettings>(&app_id()).is_none());
    node.set(ignored());
    assert!(node.bench.row::<LocalAppSettings>(&app_id()).is_none());
}

/// Rows of the release before: no guard and no order on the node anywhere in them.
#[test]
fn rows_and_records_from_before_the_guard_are_read() {
    let mut state = state_with("a1");
    state.applied = Some(config("1").into());
    state.operation = Some(rollback_operation(1, Phase::StoppingGuest));
    let text = serde_json::to_string(&state).expect("plain data");
    assert!(
        ["Guard", "ControlledBy", "Local", "Downtimes", "StoppedAt"].iter().all(|new| !text.contains(new)),
        "as the release before wrote it: {text}"
    );
    assert_eq!(serde_json::from_str::<AppInstanceState>(&text).expect("read"), state);
}

// ---- what stands in the way ---------------------------------------------------------------------------------------

fn volume(n: u8) -> VolumeId {
    volume_ref(n, 0).volume
}

fn seen(walk: &mut Walk, blockers: &[(u8, BlockerKind, &str)]) {
    walk.pass_preflight(1, None);
    let status = Arc::make_mut(walk.preflight.get_mut(&snapshot_id(1)).expect("answered"));
    for (n, kind, name) in blockers {
        status.blockers.entry(volume(*n)).or_default().push(Blocker::snapshot(*kind, *name, "7"));
    }
}

fn order_of(walk: &Walk) -> (SnapshotAction, Consent) {
    let state = &walk.state;
    let volumes = Default::default();
    let facts = Facts {
        now: time(50),
        received: walk.received.as_ref(),
        removed: false,
        storage_known: true,
        guest: walk.guest,
        volumes: &volumes,
        storage: &walk.storage,
        preflight: &walk.preflight,
        saved: &walk.saved,
        admission: Admission::All,
        guard: None,
    };
    let orders = super::desired::snapshot_configs(state, &facts);
    let order = orders.into_iter().find(|order| order.snapshot == snapshot_id(1)).expect("claimed");
    (order.action, order.consent)
}

/// [000] L4, L5, L7: all volumes at once, before the guest is stopped.
#[test]
fn what_stands_in_the_way_of_one_volume_fails_the_rollback_before_the_guest_is_stopped() {
    let mut walk = rolling_back(Phase::CheckingStorage);
    seen(&mut walk, &[(2, BlockerKind::Unmanaged, "daily")]);
    walk.go();
    let steps = walk.take_steps();
    assert_eq!(steps[1..], ["apply in place"], "no other phase: {steps:?}");
    assert!(steps[0].contains("daily") && steps[0].contains("--tag force_rollback"), "{steps:?}");
    let error = &walk.state.last_failure.as_ref().expect("told").error;
    assert!(error.entities.iter().any(|entity| entity.id == volume(2).to_string()), "{error:?}");
    assert!(!error.entities.iter().any(|entity| entity.id == volume(1).to_string()), "{error:?}");
}

/// [000] L6, L7: with the tag, what was seen goes with the order to storage, and nothing else.
#[test]
fn what_was_seen_and_agreed_to_goes_with_the_order() {
    let mut walk = rolling_back(Phase::CheckingStorage);
    walk.edit(|config| config.guard.tags = [FORCE_ROLLBACK.to_owned()].into());
    seen(&mut walk, &[(2, BlockerKind::Unmanaged, "daily")]);
    walk.go();
    let agreed = AgreedSnapshot { name: "daily".into(), id: "7".into() };
    let consent = Consent { volumes: [(volume(2), [agreed].into())].into() };
    assert_eq!(order_of(&walk), (SnapshotAction::Create, Consent::default()), "not before its time");
    walk.guest = Guest::ConfirmedDown;
    assert_eq!(walk.go(), WaitingFor::Reverts);
    assert_eq!(order_of(&walk), (SnapshotAction::Rollback, consent.clone()));
    let row = serde_json::to_string(&walk.state).expect("plain data");
    assert_eq!(serde_json::from_str::<AppInstanceState>(&row).expect("read"), walk.state, "it is durable");
    walk.storage_answers(1, SnapshotAction::Rollback, None);
    walk.go();
    assert_eq!(walk.state.last_rollback.as_ref().map(|done| &done.consent), Some(&consent));
}

/// [000] L6: who takes the tag away before anything was destroyed has taken the consent back.
#[test]
fn a_tag_that_is_taken_away_stops_the_rollback_only_where_something_was_agreed_to() {
    for (blockers, stops) in [(&[(2, BlockerKind::Unmanaged, "daily")][..], true), (&[], false)] {
        let mut walk = rolling_back(Phase::CheckingStorage);
        walk.edit(|config| config.guard.tags = [FORCE_ROLLBACK.to_owned()].into());
        seen(&mut walk, blockers);
        assert_eq!(walk.go(), WaitingFor::GuestDown);
        walk.take_steps();
        walk.edit(|config| config.guard.tags.clear());
        walk.go();
        let steps = walk.take_steps();
        assert_eq!(steps.first().is_some_and(|step| step.contains("was taken away")), stops, "{steps:?}");
    }
}

/// [000] L7, C6: storage found something that was not there before; the old version starts again.
#[test]
fn what_has_come_since_the_check_fails_the_rollback() {
    let mut walk = rolling_back(Phase::RevertingVolumes);
    walk.storage_answers(1, SnapshotAction::Rollback, Some("late: that was not there when it was checked"));
    assert_eq!(walk.go(), WaitingFor::Nothing);
    assert!(failure(&walk).contains("late"));
    assert_eq!(walk.state.applied.as_ref().map(|config| config.version()), Some("2"));
}
