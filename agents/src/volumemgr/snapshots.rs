//! Snapshots: requests and intents carried out.
//!
//! ```text
//!   VolumesSnapshotConfig ── judged (request.rs) ──▶ intent row ── driven (steps.rs) ──▶ record, row gone, status
//!   un-published, or Delete ──────────────────────▶ intent row ── driven ─────────────▶ row gone, status gone
//! ```
//!
//! How an intent ends and who is told is in `ending.rs`. The intent is durable before the first job of it starts, and every stage before the jobs of that stage. The
//! record `volumesSnapshotStatus.json` is durable before the intent goes, and both before anybody is told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use holdfast_pubsub::Change;
use holdfast_types::{
    EntityKind, ErrorReport, Format, IntentStage, OperationNumber, SnapshotAction, SnapshotId,
    SnapshotIntent, VolumeId, VolumeKey, VolumeRecord, VolumeSnapshotMeta, VolumeStage,
    VolumesSnapshotConfig, VolumesSnapshotStatus,
};
use holdfast_volumehandlers::SnapshotMeta;

use crate::runtime::{Ctx, NodeMode};

use super::answer::{blank, status_of};
use super::incarnations::{location_of_clone_step, other_incarnation, point_at_what_is_in_force};
use super::jobs::{Place, StepFailure, StepOrder, StepVolume, VolumeJob};
use super::request::{Stored, Verdict, deletion, judge};
use super::retry::Failure;
use super::steps::{self, Next, Progress, VolumeStep};
use super::volumes::{Rows, RowsAndOrphans};
use super::{Again, Concerns, Volumemgr, again_after, may_change, no_more_tries};

/// An intent has few stages; who goes through more in one event goes in a circle.
const STEPS_AT_MOST: usize = 32;

/// What is known of a snapshot beside its intent.
#[derive(Debug, Clone, Default)]
pub(super) struct SnapshotState {
    pub(super) stored: Stored,
    /// The last answer that is not simply what is stored.
    pub(super) last_answer: Option<Arc<VolumesSnapshotStatus>>,
    /// What the volumes said in the intent's stage.
    pub(super) progress: BTreeMap<VolumeId, Progress>,
    pub(super) tries: BTreeMap<VolumeId, u32>,
    pub(super) cut: BTreeMap<VolumeId, SnapshotMeta>,
    /// The intent is answered, and only tidying is left of it.
    pub(super) answered: bool,
    /// A step may have been broken off in the middle: by a crash of an earlier process, or by its own failure.
    redo: bool,
}

/// Where a step finds its volume, or what it comes to without one.
enum Reach {
    Place(Place),
    Wait,
    Nothing,
    Missing(ErrorReport),
}

/// The volumes that a step changes all at once; they go together or not at all.
#[derive(Default)]
struct Group {
    step: Option<VolumeStep>,
    places: Vec<Place>,
    waits: bool,
}

impl SnapshotState {
    pub(super) fn from_before() -> Self {
        SnapshotState { redo: true, ..Self::default() }
    }

    fn enter_stage(&mut self) {
        self.progress.clear();
        self.tries.clear();
    }

    pub(super) fn begin(&mut self) {
        self.enter_stage();
        self.cut.clear();
        self.answered = false;
        self.redo = false;
    }
}

impl Volumemgr {
    /// The inventory's findings are published as they are: what was made when, and what is damaged and why.
    pub(super) fn snapshots_found(&mut self, found: BTreeMap<SnapshotId, Stored>, cx: &mut Ctx<Self>) {
        for (snapshot, stored) in found {
            if let Some(status) = status_of(snapshot, &stored, cx.now()) {
                cx.publish_shared(status);
            }
            self.store(snapshot, stored);
        }
    }

    pub(super) fn settle_snapshots(&mut self, concerns: &Concerns, cx: &mut Ctx<Self>) {
        if !may_change(cx) {
            return;
        }
        let concerned: BTreeSet<SnapshotId> = match concerns {
            Concerns::These { snapshots, .. } => snapshots.clone(),
            Concerns::All => self.all_snapshots(),
        };
        // What one of them ends, another may have waited for.
        let mut has_moved = true;
        while has_moved {
            has_moved = false;
            for snapshot in &concerned {
                has_moved |= self.settle_snapshot(*snapshot, cx);
            }
        }
    }

    /// True when anything was done.
    fn settle_snapshot(&mut self, snapshot: SnapshotId, cx: &mut Ctx<Self>) -> bool {
        for step in 0..STEPS_AT_MOST {
            let moved = match cx.get::<SnapshotIntent>(&snapshot) {
                Some(intent) => self.drive(&intent, cx),
                None => self.begin(snapshot, cx),
            };
            if !moved {
                return step > 0;
            }
        }
        panic!("snapshot {snapshot} does not settle");
    }

    /// No intent: is there anything to begin? True when something was begun.
    fn begin(&mut self, snapshot: SnapshotId, cx: &mut Ctx<Self>) -> bool {
        match self.inputs.requests.get(&snapshot).cloned() {
            Some(request) => self.answer_or_begin(&request, cx),
            None if self.inputs.requests_complete => self.delete_or_forget(snapshot, cx),
            None => false,
        }
    }

    fn answer_or_begin(&mut self, request: &VolumesSnapshotConfig, cx: &mut Ctx<Self>) -> bool {
        if self.waits_for_adoption(request.snapshot, &request.volumes) {
            return false;
        }
        let state = self.snapshots.entry(request.snapshot).or_default();
        let volumes = RowsAndOrphans { rows: Rows(cx), orphans: &self.orphans };
        let verdict = judge(request, &state.stored, state.last_answer.as_deref(), &volumes, cx.now());
        match verdict {
            Verdict::AsRecorded => {
                if let Stored::Whole(record) = &state.stored {
                    cx.publish_shared(Arc::clone(record));
                }
                false
            }
            Verdict::AsAnswered => {
                if let Some(answer) = &state.last_answer {
                    cx.publish_shared(Arc::clone(answer));
                }
                false
            }
            Verdict::Keep => false,
            Verdict::Refuse(reason) => {
                self.refuse(request, Failure::permanent(reason), cx);
                false
            }
            Verdict::Begin(_) if cx.mode() == NodeMode::NoSpace => {
                let reason = format!("snapshot {}: no space left on the persist directory", request.snapshot);
                let retry_condition = Some("can be asked for again when there is space");
                self.refuse(request, Failure { summary: reason, retry_condition }, cx);
                false
            }
            Verdict::Begin(intent) => {
                state.begin();
                tracing::info!(
                    snapshot = %intent.snapshot, action = ?intent.action, operation = %intent.operation,
                    volumes = intent.volumes.len(), "snapshot action begins"
                );
                cx.publish(*intent);
                true
            }
            Verdict::DeleteFirst => {
                state.begin();
                let intent = deletion(request.snapshot, &state.stored, None, &Rows(cx), cx.now());
                tracing::warn!(snapshot = %request.snapshot, "what is left of an earlier making goes first");
                cx.publish(intent);
                true
            }
        }
    }

    /// A volume whose row was lost is refused nothing before it is taken in again ([003] G9).
    pub(super) fn waits_for_adoption(&self, snapshot: SnapshotId, asked: &[VolumeKey]) -> bool {
        let stored = self.snapshots.get(&snapshot).map(|state| &state.stored);
        let recorded = match stored {
            Some(Stored::Whole(record)) => record.meta.iter().filter_map(key_of).collect(),
            _ => Vec::new(),
        };
        asked.iter().chain(&recorded).any(|key| self.is_being_adopted(key))
    }

    pub(super) fn refuse(&mut self, request: &VolumesSnapshotConfig, failure: Failure, cx: &mut Ctx<Self>) {
        let error = failure.report(cx.now()).about(EntityKind::AppInstance, request.app);
        tracing::warn!(snapshot = %request.snapshot, error = error.summary, "snapshot request refused");
        let state = self.snapshots.entry(request.snapshot).or_default();
        let answer = VolumesSnapshotStatus {
            result_of: request.action,
            operation: request.operation,
            error: Some(error),
            ..blank(request.snapshot, request.app, &state.stored)
        };
        self.tell(answer, cx);
    }

    /// Nobody asks for the snapshot, and everybody who could has spoken ([003] D2).
    fn delete_or_forget(&mut self, snapshot: SnapshotId, cx: &mut Ctx<Self>) -> bool {
        let Some(state) = self.snapshots.get_mut(&snapshot) else { return false };
        if state.stored == Stored::Nothing {
            self.snapshots.remove(&snapshot);
            cx.unpublish::<VolumesSnapshotStatus>(&snapshot);
            return false;
        }
        state.begin();
        let intent = deletion(snapshot, &state.stored, None, &Rows(cx), cx.now());
        tracing::info!(%snapshot, volumes = intent.volumes.len(), "snapshot deletion begins");
        cx.publish(intent);
        true
    }

    /// One step of an intent; true when there may be another at once.
    fn drive(&mut self, intent: &SnapshotIntent, cx: &mut Ctx<Self>) -> bool {
        if intent.stage == IntentStage::Answered {
            return self.keep_answer(intent, cx);
        }
        if self.is_to_be_abandoned(intent) {
            self.abandon(intent, cx);
            return true;
        }
        let state = self.snapshots.entry(intent.snapshot).or_default();
        if is_recorded(intent, &state.stored) && state.progress.is_empty() {
            // The record is what makes a cut one. To cut again would be to touch volumes whose guest may be on its way.
            cx.unpublish::<SnapshotIntent>(&intent.snapshot);
            self.measure_again(intent);
            return true;
        }
        match steps::next(intent, &state.progress) {
            Next::Start(volumes) => self.start_steps(intent, &volumes, cx),
            Next::Wait => false,
            Next::Enter { stage, failure } => {
                tracing::info!(snapshot = %intent.snapshot, action = ?intent.action, ?stage, "stage entered");
                self.cancel_step_timers(intent, cx);
                self.snapshots.entry(intent.snapshot).or_default().enter_stage();
                cx.publish(SnapshotIntent { stage, failure, ..intent.clone() });
                true
            }
            Next::Finish => {
                self.finish(intent, cx);
                true
            }
            Next::Answer { leftover } => {
                self.answer_early(intent, leftover, cx);
                self.refuse_behind_answered(intent, cx);
                false
            }
        }
    }

    /// Answers until something else is asked for; then the intent goes. True when it went.
    fn keep_answer(&mut self, intent: &SnapshotIntent, cx: &mut Ctx<Self>) -> bool {
        let asked = self.inputs.requests.get(&intent.snapshot);
        let is_same = |asked: &VolumesSnapshotConfig| {
            asked.action == intent.action && asked.operation == intent.operation
        };
        let state = self.snapshots.entry(intent.snapshot).or_default();
        match asked {
            Some(asked) if is_same(asked) => {
                if !std::mem::replace(&mut state.answered, true) {
                    self.answer(intent, cx);
                }
                false
            }
            // The operation is not over, and waits for the guest.
            Some(asked)
                if asked.action == SnapshotAction::Unspecified && asked.operation == intent.operation =>
            {
                false
            }
            None if !self.inputs.requests_complete => false,
            Some(_) | None => {
                state.begin();
                cx.unpublish::<SnapshotIntent>(&intent.snapshot);
                true
            }
        }
    }

    /// The application gives the snapshot up in the middle. A rollback is finished first, or put back, unless it
    /// can be neither ([003] D4): half of it would be left otherwise.
    fn is_to_be_abandoned(&self, intent: &SnapshotIntent) -> bool {
        let wanted = self.inputs.requests.contains_key(&intent.snapshot) || !self.inputs.requests_complete;
        let Some(state) = self.snapshots.get(&intent.snapshot) else { return false };
        let running = state.progress.values().any(|progress| *progress == Progress::Running);
        if wanted || running || intent.action == SnapshotAction::Delete {
            return false;
        }
        let stuck = state.tries.values().any(|tries| *tries >= steps::TIDY_TRIES);
        intent.action == SnapshotAction::Create || state.answered || stuck
    }

    fn abandon(&mut self, intent: &SnapshotIntent, cx: &mut Ctx<Self>) {
        tracing::info!(snapshot = %intent.snapshot, action = ?intent.action, "given up: everything of it goes");
        self.cancel_step_timers(intent, cx);
        let state = self.snapshots.entry(intent.snapshot).or_default();
        let deletion = deletion(intent.snapshot, &state.stored, Some(intent), &Rows(cx), cx.now());
        let redo = state.redo;
        state.begin();
        state.redo = redo;
        cx.publish(deletion);
    }

    /// Starts what can be started; true when some volume turned out to need nothing, or to be beyond help.
    fn start_steps(&mut self, intent: &SnapshotIntent, due: &[VolumeId], cx: &mut Ctx<Self>) -> bool {
        let mut has_moved = false;
        let mut group = Group::default();
        for volume in due {
            let Some(meta) = intent.volumes.get(volume) else { continue };
            let Some(step) = steps::volume_step(intent, volume) else { continue };
            if matches!(step, VolumeStep::DropReplaced | VolumeStep::DropClone) {
                // What is in force is the intent's to say, also where the row was lost and its volume taken in again.
                point_at_what_is_in_force(intent, volume, cx);
            }
            let progress = match self.reach(intent, *volume, step, cx) {
                Reach::Place(place) if steps::is_grouped(meta) => {
                    group.step = Some(step);
                    group.places.push(place);
                    continue;
                }
                Reach::Place(place) => {
                    self.order_step(intent, step, vec![place], cx);
                    continue;
                }
                Reach::Wait => {
                    group.waits |= steps::is_grouped(meta);
                    continue;
                }
                Reach::Nothing => Progress::Done,
                Reach::Missing(error) => {
                    group.waits |= steps::is_grouped(meta);
                    Progress::Failed { error, tries: 1, permanent: true }
                }
            };
            self.snapshots.entry(intent.snapshot).or_default().progress.insert(*volume, progress);
            has_moved = true;
        }
        if let Some(step) = group.step.filter(|_| !group.waits) {
            self.order_step(intent, step, group.places, cx);
        }
        has_moved
    }

    fn order_step(
        &mut self,
        intent: &SnapshotIntent,
        step: VolumeStep,
        places: Vec<Place>,
        cx: &mut Ctx<Self>,
    ) {
        let state = self.snapshots.entry(intent.snapshot).or_default();
        let mut volumes = Vec::with_capacity(places.len());
        for place in places {
            let volume = place.key.volume;
            state.progress.insert(volume, Progress::Running);
            if step == VolumeStep::MakeClone
                && let Some(state) = self.volumes.get_mut(&place.key)
            {
                state.percent = 0;
            }
            let storage_name = intent.volumes.get(&volume).map(|meta| meta.storage_name.clone());
            let safety_name = intent.safety_names.get(&volume).cloned();
            let storage_name = storage_name.unwrap_or_default();
            let agreed = intent.consent.on(volume);
            let other = other_incarnation(intent, step, &place);
            volumes.push(StepVolume { place, storage_name, safety_name, agreed, other });
        }
        cx.job(VolumeJob::Step(StepOrder {
            snapshot: intent.snapshot,
            operation: intent.operation,
            step,
            volumes,
            redo: state.redo,
            parameters: intent.parameters.clone(),
        }));
    }

    /// Where a step finds its volume.
    fn reach(&self, intent: &SnapshotIntent, volume: VolumeId, step: VolumeStep, cx: &Ctx<Self>) -> Reach {
        let Some(meta) = intent.volumes.get(&volume) else { return Reach::Nothing };
        let key = VolumeKey { volume, generation: meta.generation };
        if self.is_kept_from(intent, key, step, cx) {
            return Reach::Wait;
        }
        if let Some(location) = location_of_clone_step(intent, &volume, step) {
            let location = location.into();
            return Reach::Place(Place { key, location, format: Format::Raw });
        }
        let row = cx.get::<VolumeRecord>(&key).filter(|row| row.stage != VolumeStage::Destroying);
        match row {
            Some(row) => Reach::Place(Place::of(&row)),
            // Its row was lost, and it is there: the step waits until it is taken in again.
            None if self.is_being_adopted(&key) => Reach::Wait,
            // What cannot be read is not back where it was.
            None if step == VolumeStep::ApplySafety && self.strays.contains_key(&key) => Reach::Wait,
            // The snapshot went with its volume; and what is not there needs nothing put back.
            None if !step.is_forward() => Reach::Nothing,
            None => {
                let error = ErrorReport::new(format!("volume {key} is missing"), cx.now());
                Reach::Missing(error.about(EntityKind::Volume, volume))
            }
        }
    }

    /// Where one snapshot's step waits for another's on the same volume:
    ///
    /// * a rollback that may have to be undone finds what it left: nobody else comes to it before it is over (steps ordered earlier on
    ///   one volume are done earlier); of two, the first goes on;
    /// * while snapshots go from one incarnation to another, nobody else looks for them on either ([004] M3); and they do not go
    ///   before whoever is at it has ended, or the volume's own row is there.
    fn is_kept_from(
        &self,
        intent: &SnapshotIntent,
        key: VolumeKey,
        step: VolumeStep,
        cx: &Ctx<Self>,
    ) -> bool {
        let is_other = |other: &SnapshotIntent| {
            other.snapshot != intent.snapshot
                && other.volumes.get(&key.volume).is_some_and(|meta| meta.generation == key.generation)
        };
        let is_repoint = step == VolumeStep::Repoint;
        let may_be_undone =
            |one: &SnapshotIntent| one.safety_names.contains_key(&key.volume) && steps::may_be_undone(one);
        let progress_of = |one: &SnapshotIntent| self.snapshots.get(&one.snapshot)?.progress.get(&key.volume);
        // Clocks are set: what has been begun comes before what was ordered first.
        let order = |one: &SnapshotIntent| {
            let is_due = progress_of(one).is_none_or(|progress| *progress == Progress::Due);
            (one.stage == IntentStage::Preparing && is_due, one.started_at, one.snapshot)
        };
        let keeps_it = |other: &SnapshotIntent| {
            let is_reverting =
                may_be_undone(other) && (!may_be_undone(intent) || order(other) < order(intent));
            let is_repointing =
                other.stage == IntentStage::Repointing && other.clones.contains_key(&key.volume);
            is_reverting || (is_repointing && !is_repoint)
        };
        let is_at_it = |other: &SnapshotIntent| progress_of(other) == Some(&Progress::Running);
        let mut others = cx.iter::<SnapshotIntent>().filter(|other| is_other(other));
        others.any(|other| keeps_it(other) || (is_repoint && is_at_it(other)))
            || (is_repoint && self.is_being_adopted(&key))
    }

    pub(super) fn stepped(
        &mut self,
        (snapshot, operation): (SnapshotId, OperationNumber),
        step: VolumeStep,
        volumes: &[VolumeId],
        result: Result<BTreeMap<VolumeId, SnapshotMeta>, StepFailure>,
        cx: &mut Ctx<Self>,
    ) {
        let Some(intent) = cx.get::<SnapshotIntent>(&snapshot) else { return };
        let Some(state) = self.snapshots.get_mut(&snapshot) else { return };
        let is_of_stage = |volume: &VolumeId| steps::volume_step(&intent, volume) == Some(step);
        if intent.operation != operation || !volumes.iter().all(is_of_stage) {
            return;
        }
        match result {
            Ok(cut) => {
                if step == VolumeStep::CutSnapshot {
                    state.cut.extend(cut);
                }
                for volume in volumes {
                    state.progress.insert(*volume, Progress::Done);
                    state.tries.remove(volume);
                    if step == VolumeStep::Repoint {
                        point_at_what_is_in_force(&intent, volume, cx);
                    }
                }
            }
            Err(StepFailure { volume: named, failure, is_uncertain }) => {
                // It may have stopped half-way, and leave behind what a crash would ([003] J4).
                state.redo = true;
                let permanent = failure.is_permanent();
                let about: &[VolumeId] = named.as_ref().map_or(volumes, std::slice::from_ref);
                let report = failure.report(cx.now());
                let error =
                    about.iter().fold(report, |report, volume| report.about(EntityKind::Volume, volume));
                let mut most_tries = 0;
                for volume in volumes {
                    let tries = state.tries.entry(*volume).or_default();
                    *tries += 1;
                    most_tries = most_tries.max(*tries);
                    // What may have happened is not given up: it would be called undone.
                    let counted = if is_uncertain { (*tries).min(steps::FORWARD_TRIES - 1) } else { *tries };
                    let (error, tries) = (error.clone(), counted);
                    state.progress.insert(*volume, Progress::Failed { error, tries, permanent });
                }
                let error_text = &error.summary;
                tracing::warn!(%snapshot, step = step.name(), tries = most_tries, error = error_text, "step failed");
                // One timer wakes a group.
                if let Some(first) = volumes.first() {
                    again_after(cx, Again::Step(snapshot, *first), most_tries);
                }
            }
        }
    }

    /// Volumes that act as a group are due together.
    pub(super) fn step_due(&mut self, snapshot: SnapshotId, volume: VolumeId, cx: &Ctx<Self>) {
        let Some(state) = self.snapshots.get_mut(&snapshot) else { return };
        let intent = cx.get::<SnapshotIntent>(&snapshot);
        let grouped = |volume: &VolumeId| {
            let meta = intent.as_ref().and_then(|intent| intent.volumes.get(volume));
            meta.is_some_and(steps::is_grouped)
        };
        let with_group = grouped(&volume);
        for (one, progress) in &mut state.progress {
            let is_due = *one == volume || (with_group && grouped(one));
            if is_due && matches!(progress, Progress::Failed { .. }) {
                *progress = Progress::Due;
            }
        }
    }

    /// Takes in what is asked of a snapshot. To be told to delete says what an un-published request says, and that now is the
    /// time: the guest is down, and somebody waits for the answer ([003] D1).
    pub(super) fn hear_request(&mut self, change: Change<VolumesSnapshotConfig>, cx: &mut Ctx<Self>) {
        let Some(snapshot) = change.value().map(|request| request.snapshot) else { return };
        let before = self.inputs.deletions.remove(&snapshot);
        let asked = change.current().map(|request| (request.action, request.operation));
        if let Some((SnapshotAction::Delete, operation)) = asked {
            self.with_names(snapshot, |this| drop(this.inputs.requests.remove(&snapshot)));
            self.inputs.deletions.insert(snapshot, operation);
            return self.deletion_is_due(snapshot, cx);
        }
        self.with_names(snapshot, |this| {
            change.keep_in(&mut this.inputs.requests);
        });
        // Otherwise the downtime is over, and who retries goes on as before.
        if asked.is_some() || before.is_none() {
            self.request_changed(snapshot);
        }
    }

    /// What of a deletion has failed is tried at once, and as often as at first before it is answered.
    fn deletion_is_due(&mut self, snapshot: SnapshotId, cx: &mut Ctx<Self>) {
        match cx.get::<SnapshotIntent>(&snapshot) {
            Some(intent) if intent.action == SnapshotAction::Delete => {
                self.cancel_step_timers(&intent, cx);
                let state = self.snapshots.entry(snapshot).or_default();
                state.tries.clear();
                make_due(&mut state.progress);
            }
            _ => self.request_changed(snapshot),
        }
    }

    /// Something else is asked for: tidying that did not succeed is due at once, for the guest may be down now.
    pub(super) fn request_changed(&mut self, snapshot: SnapshotId) {
        let Some(state) = self.snapshots.get_mut(&snapshot).filter(|state| state.answered) else { return };
        state.tries.clear();
        make_due(&mut state.progress);
    }

    pub(super) fn cancel_step_timers(&self, intent: &SnapshotIntent, cx: &mut Ctx<Self>) {
        for volume in intent.volumes.keys() {
            no_more_tries(cx, Again::Step(intent.snapshot, *volume));
        }
    }
}

fn make_due(progress: &mut BTreeMap<VolumeId, Progress>) {
    for progress in progress.values_mut() {
        if matches!(progress, Progress::Failed { .. }) {
            *progress = Progress::Due;
        }
    }
}

fn key_of((volume, meta): (&VolumeId, &VolumeSnapshotMeta)) -> Option<VolumeKey> {
    match meta {
        VolumeSnapshotMeta::Recorded(meta) => {
            Some(VolumeKey { volume: *volume, generation: meta.generation })
        }
        VolumeSnapshotMeta::Eve(_) => None,
    }
}

/// The cut this intent is about is on record: an earlier process died between the record and the intent's end.
fn is_recorded(intent: &SnapshotIntent, stored: &Stored) -> bool {
    intent.action == SnapshotAction::Create
        && intent.stage == IntentStage::Preparing
        && matches!(stored, Stored::Whole(record) if record.operation == intent.operation && record.app == intent.app)
}
