//! Orders on the node itself, on the bench ([000] L7, L8): a plan changes nothing, what is agreed to is done once, and
//! whoever asks again is told.

use std::collections::BTreeMap;
use std::path::PathBuf;

use holdfast_persist::disk::Disk;
use holdfast_types::*;

use super::agent_tests::{Node, layout};
use super::testing::*;
use super::{Event, LocalOrder, inventory};

/// The bench's node with somebody before it.
pub(super) struct Story {
    pub(super) node: Node,
    asked: u64,
    /// What storage finds in the way of a rollback.
    pub(super) in_the_way: Blockers,
    pub(super) refusal: Option<&'static str>,
}

impl Story {
    /// Version 2 in force and running, with snapshot 1 of version 1; the controller wants `wanted`.
    pub(super) fn upgraded() -> Self {
        Story { node: Node::upgraded(), asked: 0, in_the_way: Blockers::new(), refusal: None }
    }

    pub(super) fn ask(&mut self, what: LocalAsk) -> PlanAnswer {
        self.asked += 1;
        let order = LocalOrder { app: app_id(), number: self.asked, what };
        self.node.bench.cell.poster().post(Event::Local(order));
        self.node.bench.settle();
        self.storage_looks();
        let answer = self.node.bench.row::<AppPlan>(&app_id()).expect("answered");
        assert_eq!(answer.number, self.asked, "the answer to this question");
        answer.answer.clone()
    }

    pub(super) fn plan(&mut self, action: LocalAction) -> Plan {
        match self.ask(LocalAsk::Plan(action)) {
            PlanAnswer::Planned(plan) => *plan,
            other => panic!("no plan: {other:?}"),
        }
    }

    pub(super) fn carry_out(&mut self, action: LocalAction, digest: &str) -> PlanAnswer {
        self.ask(LocalAsk::Do { action, digest: digest.to_owned() })
    }

    /// Agrees to whatever the plan is.
    pub(super) fn agree(&mut self, action: LocalAction) -> LocalOutcome {
        let digest = self.plan(action.clone()).digest.expect("not refused");
        match self.carry_out(action, &digest) {
            PlanAnswer::TakenIn { outcome, before: false } => outcome,
            other => panic!("not taken in: {other:?}"),
        }
    }

    /// volumemgr answers what it is asked, a plan's question like any other.
    pub(super) fn storage_looks(&mut self) {
        for question in self.node.bench.rows::<SnapshotPreflightConfig>() {
            let space = Space { needed_bytes: 4096, free_bytes: 1 << 30 };
            let blockers = match question.action {
                SnapshotAction::Rollback => self.in_the_way.clone(),
                _ => Blockers::new(),
            };
            self.node.bench.publish(SnapshotPreflightStatus {
                snapshot: question.snapshot,
                app: question.app,
                operation: question.operation,
                refusal: self.refusal.map(|text| ErrorReport::new(text, time(1))),
                blockers,
                space: question.volumes.iter().map(|key| (key.volume, space)).collect(),
                cloned: Default::default(),
            });
        }
        self.node.bench.settle();
    }

    /// Everybody does as told, until nothing is left to do.
    pub(super) fn run(&mut self) {
        for _ in 0..6 {
            self.node.volumes_are_there();
            self.storage_looks();
            self.storage_forgets();
            self.node.domain_obeys();
            self.node.storage_does_as_asked();
        }
    }

    /// What nobody asks for any more is deleted while the guest is down.
    pub(super) fn storage_forgets(&mut self) {
        let asked: Vec<SnapshotId> =
            self.node.bench.rows::<VolumesSnapshotConfig>().iter().map(|it| it.snapshot).collect();
        let is_down = !self.node.wants_guest();
        for status in self.node.bench.rows::<VolumesSnapshotStatus>() {
            if is_down && !asked.contains(&status.snapshot) {
                self.node.bench.unpublish::<VolumesSnapshotStatus>(&status.snapshot);
            }
        }
        self.node.bench.settle();
    }

    pub(super) fn cut_power(self) -> Self {
        let Story { node, asked, in_the_way, refusal } = self;
        let wanted = node.bench.row::<AppInstanceConfig>(&app_id()).expect("wanted");
        Story { node: node.cut_power(&wanted), asked, in_the_way, refusal }
    }

    pub(super) fn controller_wants(&mut self, edit: impl FnOnce(&mut AppInstanceConfig)) {
        let wanted = self.node.bench.row::<AppInstanceConfig>(&app_id()).expect("wanted");
        let mut wanted = AppInstanceConfig::clone(&wanted);
        edit(&mut wanted);
        self.node.bench.publish(wanted);
        self.node.bench.settle();
    }

    pub(super) fn row(&self) -> AppInstanceState {
        AppInstanceState::clone(&self.node.bench.row::<AppInstanceState>(&app_id()).expect("a row"))
    }

    /// Every file under the persist directory.
    pub(super) fn durable(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let disk = &self.node.disk;
        disk.all_files().into_iter().map(|path| (path.clone(), disk.read(&path).expect("listed"))).collect()
    }

    pub(super) fn version(&self) -> String {
        self.node.status().id_and_version.version
    }
}

fn back() -> LocalAction {
    LocalAction::Rollback { snapshot: snapshot_id(1) }
}

fn stranger(name: &str) -> Blockers {
    let found = Blocker::snapshot(BlockerKind::Unmanaged, name, "7");
    [(volume_ref(2, 0).volume, vec![found])].into()
}

/// [000] L8: asked while a guest runs, and not a byte is another one afterwards.
#[test]
fn a_plan_lists_what_would_be_done_and_changes_nothing() {
    let mut story = Story::upgraded();
    let before = story.durable();
    let plan = story.plan(back());
    let (first, second) = (volume_ref(1, 0).key(), volume_ref(2, 0).key());
    let snapshot = snapshot_id(1);
    assert_eq!(
        plan.steps,
        [
            "check every volume again".to_owned(),
            "stop the guest".to_owned(),
            format!("revert volume {first} to snapshot {snapshot}"),
            format!("revert volume {second} to snapshot {snapshot}"),
            "put version 1 in force in the place of version 2; the controller's version 2 is not obeyed until it sends \
             another"
                .to_owned(),
            "start the guest".to_owned(),
        ]
    );
    assert_eq!((plan.refusal, plan.blockers.len(), plan.space.len()), (None, 0, 2));
    assert_eq!(plan.downtime, Downtime::NotMeasured, "of this kind there was none yet");

    let new = story.plan(LocalAction::CreateSnapshot);
    let gone = story.plan(LocalAction::DeleteSnapshot { snapshot });
    assert_eq!(gone.downtime, Downtime::None);
    assert!(gone.steps[0].contains("until it is taken off the list"), "{:?}", gone.steps);
    let digests = [plan.digest, new.digest, gone.digest].map(|digest| digest.expect("not refused"));
    assert!(digests[0] != digests[1] && digests[1] != digests[2], "{digests:?}");

    assert_eq!(story.durable(), before);
    assert!(story.node.wants_guest());
    assert!(story.node.bench.rows::<SnapshotPreflightConfig>().is_empty(), "nothing is asked any more");
}

/// [000] L7, L8: the same machinery; the controller's counter is not touched and its version is superseded ([003] C5).
#[test]
fn a_rollback_that_was_agreed_to_is_done_once_and_who_asks_again_is_told() {
    let mut story = Story::upgraded();
    let digest = story.plan(back()).digest.expect("not refused");
    let counter = story.row().rollback_counter;
    let PlanAnswer::TakenIn { outcome, before: false } = story.carry_out(back(), &digest) else {
        panic!("not taken in")
    };
    let operation = story.row().operation.expect("begun with the same write");
    assert_eq!((operation.kind, Some(operation.number)), (OperationKind::Rollback, outcome.operation));
    let again = story.carry_out(back(), &digest);
    assert!(
        matches!(again, PlanAnswer::TakenIn { before: true, ref outcome } if outcome.is_running),
        "{again:?}"
    );
    story.node.bench.clock.advance(std::time::Duration::from_millis(100));
    story.run();
    assert_eq!((story.version().as_str(), story.row().rollback_counter), ("1", counter));
    assert_eq!(story.row().superseded_version.as_deref(), Some("2"));
    let again = story.carry_out(back(), &digest);
    let PlanAnswer::TakenIn { outcome: done, before: true } = again else { panic!("{again:?}") };
    assert_eq!((done.is_running, done.operation, done.error), (false, outcome.operation, None));
    assert!(story.row().operation.is_none(), "not done twice");
    story.controller_wants(|config| config.id_and_version.version = "3".into());
    story.run();
    assert_eq!(story.version(), "3", "another version of the controller is obeyed");
}

/// [000] L7: no consent is used for anything but what was shown.
#[test]
fn a_digest_of_something_else_or_of_yesterday_is_refused_and_nothing_changes() {
    let mut story = Story::upgraded();
    story.controller_wants(|config| config.snapshot.max_snapshots = 2);
    let stale = story.plan(back()).digest.expect("not refused");
    story.agree(LocalAction::CreateSnapshot);
    story.run();
    let before = story.durable();
    for (action, digest) in [
        (back(), stale.as_str()),
        (back(), ""),
        (back(), "0123456789abcdef"),
        (LocalAction::CreateSnapshot, stale.as_str()),
        (LocalAction::DeleteSnapshot { snapshot: snapshot_id(1) }, stale.as_str()),
        (LocalAction::Rollback { snapshot: snapshot_id(9) }, stale.as_str()),
    ] {
        let answer = story.carry_out(action.clone(), digest);
        let PlanAnswer::Refused(why) = answer else { panic!("{action:?}: {answer:?}") };
        assert!(why.contains("look at the plan again") || why.contains("unknown here"), "{why}");
    }
    assert_eq!(story.durable(), before);
    assert!(story.node.wants_guest());
}

/// [000] L1: the guard first, and storage is not even asked.
#[test]
fn the_guard_refuses_a_plan_like_a_rollback() {
    let mut story = Story::upgraded();
    let digest = story.plan(back()).digest.expect("not refused");
    story.controller_wants(|config| config.guard.ha_state = Guard::Managed(HaState::Started));
    let plan = story.plan(back());
    assert!(plan.refusal.expect("refused").starts_with("Rollback blocked: app:"));
    assert_eq!((plan.digest, plan.steps.len(), plan.space.len()), (None, 0, 0));
    let answer = story.carry_out(back(), &digest);
    assert!(matches!(&answer, PlanAnswer::Refused(why) if why.contains("--ha-state ignored")), "{answer:?}");
    assert_eq!(story.plan(LocalAction::CreateSnapshot).refusal, None, "it guards rollbacks");
}

/// [000] L4, L5: what the operation would be refused for, the plan is.
#[test]
fn what_stands_in_the_way_is_planned_for_only_with_the_tag() {
    let mut story = Story::upgraded();
    story.in_the_way = stranger("daily");
    let plan = story.plan(back());
    let refusal = plan.refusal.expect("refused");
    assert!(refusal.contains("daily") && refusal.contains("--tag force_rollback"), "{refusal}");
    assert_eq!(plan.blockers, stranger("daily"));

    story.controller_wants(|config| config.guard.tags = [FORCE_ROLLBACK.to_owned()].into());
    let plan = story.plan(back());
    assert!(
        plan.steps.iter().any(|step| step.contains("destroy") && step.contains("daily")),
        "{:?}",
        plan.steps
    );
    assert!(!plan.destroys.is_empty());

    // [000] L7: another one came between the plan and the order.
    let digest = plan.digest.expect("not refused");
    story.in_the_way = stranger("weekly");
    assert!(matches!(story.carry_out(back(), &digest), PlanAnswer::Refused(_)));
    story.in_the_way = stranger("daily");
    assert!(matches!(story.carry_out(back(), &digest), PlanAnswer::TakenIn { before: false, .. }));
}

/// [000] L8: nothing is taken in before the snapshots are known; what was taken in stands in the row, and is told.
#[test]
fn a_node_that_stands_still_tells_of_the_last_order_and_takes_in_no_other() {
    let mut story = Story::upgraded();
    let done = story.agree(back());
    let mut story = Story { node: story.node.cut_power_and_not_begun(), ..Story::upgraded() };
    story.node.bench.start();
    story.node.disk.fail_at(1, std::io::ErrorKind::Other);
    story.node.bench.run_jobs();
    let before = story.durable();
    let again = story.carry_out(back(), &done.digest);
    let PlanAnswer::TakenIn { outcome, before: true } = again else { panic!("{again:?}") };
    assert_eq!((outcome.action, outcome.digest), (back(), done.digest.clone()));
    for what in [
        LocalAsk::Do { action: LocalAction::CreateSnapshot, digest: done.digest },
        LocalAsk::Plan(back()),
        LocalAsk::Set(LocalChange { tags: ["x".to_owned()].into(), ..LocalChange::default() }),
    ] {
        let answer = story.ask(what);
        let PlanAnswer::Refused(why) = answer else { panic!("{answer:?}") };
        assert!(why.starts_with("nothing is started or changed"), "{why}");
    }
    assert_eq!(story.durable(), before);
}

/// [000] L7: one that came between the order and the operation's own look.
#[test]
fn what_has_come_since_it_was_agreed_to_fails_the_rollback_before_the_guest_is_stopped() {
    let mut story = Story::upgraded();
    story.controller_wants(|config| config.guard.tags = [FORCE_ROLLBACK.to_owned()].into());
    let digest = story.plan(back()).digest.expect("not refused");
    story.asked += 1;
    let what = LocalAsk::Do { action: back(), digest };
    let order = LocalOrder { app: app_id(), number: story.asked, what };
    story.node.bench.cell.poster().post(Event::Local(order));
    story.node.bench.settle();
    story.node.preflight_passes();
    assert!(story.row().operation.is_some(), "taken in");
    story.in_the_way = stranger("daily");
    story.storage_looks();
    let outcome = story.row().last_local.expect("told");
    assert!(outcome.error.expect("failed").summary.contains("not what was agreed to any more"));
    assert!(story.node.wants_guest() && story.row().operation.is_none());
    assert!(story.row().last_failure.is_some(), "the controller is told as well");
}

/// A snapshot nobody but the node knows: reported, counted, and kept until somebody gives it up.
#[test]
fn a_local_snapshot_stays_though_it_is_not_listed_and_counts_in_the_maximum() {
    let mut story = Story::upgraded();
    story.controller_wants(|config| config.snapshot.max_snapshots = 2);
    let plan = story.plan(LocalAction::CreateSnapshot);
    let outcome = story.agree(LocalAction::CreateSnapshot);
    assert_eq!(outcome.snapshot, plan.snapshot, "as the plan told");
    story.run();
    let local = plan.snapshot;
    let reported = |story: &Story| -> Vec<SnapshotId> {
        story.node.status().snapshots.available_snapshots.iter().map(|it| it.snapshot.id).collect()
    };
    assert_eq!(reported(&story), [snapshot_id(1), local]);
    story.controller_wants(|config| config.display_name = "other".into());
    story.run();
    let mut story = story.cut_power();
    story.run();
    assert_eq!(reported(&story), [snapshot_id(1), local], "also after a start");
    assert_eq!(story.row().downtimes.len(), 1, "measured");

    let plan = story.plan(LocalAction::CreateSnapshot);
    assert!(matches!(plan.downtime, Downtime::Last { .. }), "{:?}", plan.downtime);
    let goes = format!("give up snapshot {}, because the maximum is 2", snapshot_id(1));
    assert!(plan.steps.contains(&goes), "{:?}", plan.steps);
    story.agree(LocalAction::CreateSnapshot);
    story.run();
    assert_eq!(reported(&story), [local, plan.snapshot]);
    assert!(matches!(story.row().snapshots[&snapshot_id(1)].state, SnapshotState::Trimmed), "it is listed");

    // The controller takes one over by listing it, and then its list is what counts.
    story.controller_wants(|config| {
        config.snapshot.snapshots.push(SnapshotDesc { id: local, kind: SnapshotType::Immediate });
    });
    story.controller_wants(|config| config.snapshot.snapshots.retain(|desc| desc.id != local));
    story.node.domain_obeys();
    assert!(matches!(story.row().snapshots[&local].state, SnapshotState::Deleting { .. }));
}

/// [003] H3: its own record says that it is nobody's but the node's, also where the row is lost.
#[test]
fn a_local_snapshot_is_known_as_one_without_its_row() {
    let mut story = Story::upgraded();
    story.controller_wants(|config| config.snapshot.max_snapshots = 3);
    let local = story.agree(LocalAction::CreateSnapshot).snapshot;
    story.run();
    let SnapshotState::Available(instance) = story.row().snapshots[&local].state.clone() else {
        panic!("not cut")
    };
    let file = layout().snapshot_instance_status_file(&local);
    assert!(story.node.bench.file(&file).expect("its record").contains("HoldfastLocal"));
    let mut found = empty_state();
    inventory::adopt(&mut found, instance);
    super::list::reconcile(&mut found, &SnapshotConfig::default(), time(1));
    assert!(matches!(found.snapshots[&local].state, SnapshotState::Available(_)));
}

#[test]
fn a_snapshot_that_could_not_be_cut_leaves_nothing_but_the_answer() {
    let mut story = Story::upgraded();
    story.refusal = Some("volume x needs 4096 bytes of free space, 0 are free");
    let plan = story.plan(LocalAction::CreateSnapshot);
    assert!(plan.refusal.expect("refused").contains("0 are free"));
    story.refusal = None;
    let digest = story.plan(LocalAction::CreateSnapshot).digest.expect("not refused");
    story.asked += 1;
    let what = LocalAsk::Do { action: LocalAction::CreateSnapshot, digest: digest.clone() };
    let order = LocalOrder { app: app_id(), number: story.asked, what };
    story.node.bench.cell.poster().post(Event::Local(order));
    story.node.bench.settle();
    story.node.preflight_passes();
    story.refusal = Some("volume x needs 4096 bytes of free space, 0 are free");
    story.storage_looks();
    let row = story.row();
    assert!(row.operation.is_none() && story.node.wants_guest(), "refused before the guest was stopped");
    assert_eq!(row.snapshots.keys().copied().collect::<Vec<_>>(), [snapshot_id(1)]);
    let again = story.carry_out(LocalAction::CreateSnapshot, &digest);
    let PlanAnswer::TakenIn { outcome, before: true } = again else { panic!("{again:?}") };
    assert!(outcome.error.expect("told").summary.contains("0 are free"));
}

/// [003] D1: its data waits for the guest; one that is listed stays gone.
#[test]
fn a_local_deletion_waits_for_the_guest_and_one_that_is_listed_stays_gone() {
    let mut story = Story::upgraded();
    story.controller_wants(|config| config.snapshot.max_snapshots = 2);
    let local = story.agree(LocalAction::CreateSnapshot).snapshot;
    story.run();
    for id in [snapshot_id(1), local] {
        let delete = LocalAction::DeleteSnapshot { snapshot: id };
        let digest = story.plan(delete.clone()).digest.expect("not refused");
        let answer = story.carry_out(delete.clone(), &digest);
        assert!(matches!(&answer, PlanAnswer::TakenIn { outcome, .. } if outcome.operation.is_none()));
        assert!(matches!(story.row().snapshots[&id].state, SnapshotState::Deleting { asked: false, .. }));
        let again = story.carry_out(delete.clone(), &digest);
        assert!(matches!(again, PlanAnswer::TakenIn { before: true, .. }), "{again:?}");
        assert!(story.plan(delete.clone()).refusal.expect("twice").contains("being deleted"));
    }
    assert!(story.node.wants_guest(), "no downtime for it");
    let mut story = story.cut_power();
    story.controller_wants(|config| config.restart.counter += 1);
    story.run();
    assert!(matches!(story.row().snapshots[&snapshot_id(1)].state, SnapshotState::Trimmed));
    assert!(!story.row().snapshots.contains_key(&local));
}

/// G2-G5: cut at each stage, the rollback goes on, and its order is known by its digest.
#[test]
fn a_local_rollback_goes_on_after_a_power_cut_at_any_stage() {
    for stage in 0..5 {
        let mut story = Story::upgraded();
        let digest = story.plan(back()).digest.expect("not refused");
        story.carry_out(back(), &digest);
        let steps: [fn(&mut Node); 4] =
            [Node::preflight_passes, Node::domain_obeys, Node::storage_does_as_asked, Node::domain_obeys];
        steps[..stage].iter().for_each(|step| step(&mut story.node));
        let mut story = story.cut_power();
        let again = story.carry_out(back(), &digest);
        assert!(matches!(again, PlanAnswer::TakenIn { before: true, .. }), "stage {stage}: {again:?}");
        story.run();
        assert_eq!(story.version(), "1", "stage {stage}");
        let number = story.row().last_operation;
        let outcome = story.row().last_local.expect("known");
        assert_eq!((outcome.operation, outcome.is_running), (Some(number), false), "stage {stage}");
    }
}

/// While something runs nothing else is planned, and an order is refused whatever its digest.
#[test]
fn an_order_waits_for_no_operation() {
    let mut story = Story::upgraded();
    let digest = story.plan(LocalAction::CreateSnapshot).digest.expect("not refused");
    story.controller_wants(|config| config.restart.counter += 1);
    assert!(story.row().operation.is_some());
    let plan = story.plan(LocalAction::CreateSnapshot);
    assert!(plan.refusal.expect("refused").contains("is not over"));
    assert!(matches!(story.carry_out(LocalAction::CreateSnapshot, &digest), PlanAnswer::Refused(_)));
    assert!(matches!(story.plan(back()).refusal, Some(why) if why.contains("is not over")));
}

/// What cannot be meant is told, each with its reason.
#[test]
fn an_order_about_nothing_is_refused_with_its_reason() {
    let mut story = Story::upgraded();
    story.controller_wants(|config| {
        config.snapshot.max_snapshots = 3;
        config.snapshot.snapshots.push(desc(2, SnapshotType::AppUpdate));
    });
    let nine = snapshot_id(9);
    for (action, reason) in [
        (LocalAction::Rollback { snapshot: nine }, "unknown here"),
        (LocalAction::DeleteSnapshot { snapshot: nine }, "unknown here"),
        (LocalAction::Rollback { snapshot: snapshot_id(2) }, "not taken yet"),
        (LocalAction::DeleteSnapshot { snapshot: snapshot_id(2) }, "not taken yet"),
    ] {
        let why = story.plan(action.clone()).refusal.expect("refused");
        assert!(why.contains(reason), "{action:?}: {why}");
    }
}

// ---- full texts ---------------------------------------------------------------------------------------------------

/// Every kind of plan as a person reads it, in one file (`UPDATE_GOLDEN=1` writes it anew).
#[test]
#[allow(clippy::disallowed_methods, reason = "the golden file is a real one")]
fn plans_read_as_they_should() {
    let mut texts = String::new();
    let mut tell = |title: &str, story: &mut Story, action: LocalAction| {
        let plan = story.plan(action);
        let document = crate::api::describe::plan(&crate::api::View::default(), app_id(), &plan);
        texts.push_str(&format!("## {title}\n\n{}\n", crate::cli::tables::plan(&document)));
    };
    let delete = |n| LocalAction::DeleteSnapshot { snapshot: snapshot_id(n) };

    let mut story = Story::upgraded();
    tell("a rollback", &mut story, back());
    tell("a snapshot, and the maximum is one", &mut story, LocalAction::CreateSnapshot);
    tell("a deletion of a snapshot that is listed", &mut story, delete(1));
    tell("a rollback to what nobody knows", &mut story, LocalAction::Rollback { snapshot: snapshot_id(9) });
    tell("a deletion of what nobody knows", &mut story, delete(9));

    story.in_the_way = stranger("daily");
    tell("somebody's snapshot in the way", &mut story, back());
    story.controller_wants(|config| config.guard.tags = [FORCE_ROLLBACK.to_owned()].into());
    tell("the same with the tag", &mut story, back());
    let clone = Blocker::other(BlockerKind::Clone, "tank/copy");
    story.in_the_way = [(volume_ref(1, 0).volume, vec![clone])].into();
    tell("a clone in the way", &mut story, back());
    story.in_the_way = Blockers::new();

    story.controller_wants(|config| config.guard.ha_state = Guard::Managed(HaState::Started));
    tell("a guard", &mut story, back());
    story.controller_wants(|config| config.guard = AppGuard::default());

    story.refusal =
        Some("1 volume cannot be rolled back: volume /v needs 8388608 bytes of free space, 4096 are free");
    tell("no space", &mut story, back());
    story.refusal = None;

    story.controller_wants(|config| config.restart.counter += 1);
    tell("while an operation runs", &mut story, back());
    story.run();
    story.node.bench.clock.advance(std::time::Duration::from_secs(1));
    story.controller_wants(|config| {
        config.activate = false;
        config.snapshot.max_snapshots = 0;
    });
    story.run();
    tell("a rollback of a stopped application", &mut story, back());
    tell("a snapshot of a stopped application, without a maximum", &mut story, LocalAction::CreateSnapshot);
    tell("a deletion while the guest is down", &mut story, delete(1));

    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/plans.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(file, &texts).expect("written");
    }
    let golden = std::fs::read_to_string(file).unwrap_or_default();
    assert!(golden == texts, "{file} differs (UPDATE_GOLDEN=1 writes it anew):\n{texts}");
}
