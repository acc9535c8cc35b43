//! How an intent ends: what is recorded, what goes, and who is told.
//!
//! ```text
//!   all done ─▶ record ─▶ intent gone ─▶ status          what is durable goes before what is told
//!   tidying does not succeed ─▶ answered early           it goes on, and nobody is kept waiting for it ([003] D2)
//! ```
//!
//! Deliberately absent: what an intent does next, which is `steps.rs` and `snapshots.rs`; and how statuses are put together
//! (`answer.rs`).

use std::sync::Arc;

use holdfast_persist::record;
use holdfast_types::{
    ErrorReport, IntentStage, SnapshotAction, SnapshotId, SnapshotIntent, VolumeKey, VolumesSnapshotStatus,
};

use super::Volumemgr;
use super::answer::{about_whole, blank, cut_status};
use super::request::Stored;
use super::retry::Failure;
use crate::runtime::Ctx;

impl Volumemgr {
    /// All is done. What is durable goes before what is told.
    pub(super) fn finish(&mut self, intent: &SnapshotIntent, cx: &mut Ctx<Self>) {
        self.cancel_step_timers(intent, cx);
        self.measure_again(intent);
        let is_cut = intent.action == SnapshotAction::Create && intent.stage == IntentStage::Preparing;
        if is_cut {
            self.record_cut(intent, cx);
        }
        if intent.action == SnapshotAction::Delete {
            self.deleted(intent.snapshot, cx);
        }
        if intent.action == SnapshotAction::Rollback {
            cx.publish(SnapshotIntent { stage: IntentStage::Answered, ..intent.clone() });
        } else {
            cx.unpublish::<SnapshotIntent>(&intent.snapshot);
        }
        let state = self.snapshots.entry(intent.snapshot).or_default();
        if !state.answered && !is_cut && intent.action != SnapshotAction::Delete {
            self.answer(intent, cx);
        }
        let state = self.snapshots.entry(intent.snapshot).or_default();
        state.begin();
        state.answered = intent.action == SnapshotAction::Rollback;
    }

    fn record_cut(&mut self, intent: &SnapshotIntent, cx: &mut Ctx<Self>) {
        let state = self.snapshots.entry(intent.snapshot).or_default();
        let status = Arc::new(cut_status(intent, &state.cut, cx.now()));
        let path = self.layout.volumes_snapshot_status_file(&intent.snapshot);
        let bytes = record::render(&path, &*status).expect("a record made here is whole");
        cx.write_record(path, bytes);
        tracing::info!(snapshot = %intent.snapshot, operation = %intent.operation, "snapshot cut and recorded");
        state.last_answer = None;
        self.store(intent.snapshot, Stored::Whole(Arc::clone(&status)));
        cx.publish_shared(status);
    }

    /// Storage has confirmed it. If the id is asked for again, its old record must not be found by a later start;
    /// otherwise the record goes with its directory, which is zedmanager's to remove ([003] D3).
    fn deleted(&mut self, snapshot: SnapshotId, cx: &mut Ctx<Self>) {
        tracing::info!(%snapshot, "snapshot gone from storage");
        if self.inputs.requests.contains_key(&snapshot) {
            cx.remove_file(self.layout.volumes_snapshot_status_file(&snapshot));
        }
        // The last answer stays: a number that was answered does not act again.
        self.store(snapshot, Stored::Nothing);
        cx.unpublish::<VolumesSnapshotStatus>(&snapshot);
    }

    /// What snapshots take is counted with their volumes ([003] B9, F3).
    pub(super) fn measure_again(&mut self, intent: &SnapshotIntent) {
        for (volume, meta) in &intent.volumes {
            self.wants_check(VolumeKey { volume: *volume, generation: meta.generation });
        }
    }

    /// Tells the result of a rollback, or the failure of a create.
    pub(super) fn answer(&mut self, intent: &SnapshotIntent, cx: &mut Ctx<Self>) {
        let state = self.snapshots.entry(intent.snapshot).or_default();
        let answer = VolumesSnapshotStatus {
            result_of: intent.action,
            operation: intent.operation,
            error: intent.failure.clone().map(|failure| about_whole(intent, failure)),
            ..blank(intent.snapshot, intent.app, &state.stored)
        };
        tracing::info!(
            snapshot = %intent.snapshot, action = ?intent.action, operation = %intent.operation,
            failed = answer.error.is_some(), "snapshot action answered"
        );
        self.tell(answer, cx);
    }

    /// It is kept, too: who asks again for the same hears the same.
    pub(super) fn tell(&mut self, answer: VolumesSnapshotStatus, cx: &mut Ctx<Self>) {
        let answer = Arc::new(answer);
        self.snapshots.entry(answer.snapshot).or_default().last_answer = Some(Arc::clone(&answer));
        cx.publish_shared(answer);
    }

    /// What is left is tidying, and it does not succeed: nobody is kept waiting for it.
    pub(super) fn answer_early(
        &mut self,
        intent: &SnapshotIntent,
        leftover: ErrorReport,
        cx: &mut Ctx<Self>,
    ) {
        let state = self.snapshots.entry(intent.snapshot).or_default();
        if intent.action == SnapshotAction::Delete {
            self.deletion_failed(intent, leftover, cx);
        } else if !state.answered {
            tracing::warn!(snapshot = %intent.snapshot, error = leftover.summary, "tidying goes on later");
            self.measure_again(intent);
            self.answer(intent, cx);
        }
        self.snapshots.entry(intent.snapshot).or_default().answered = true;
    }

    /// The status stays published with the error ([003] D2), and with the time the error was first seen.
    fn deletion_failed(&mut self, intent: &SnapshotIntent, leftover: ErrorReport, cx: &mut Ctx<Self>) {
        let state = self.snapshots.entry(intent.snapshot).or_default();
        let error = ErrorReport {
            summary: format!("snapshot {} cannot be deleted: {}", intent.snapshot, leftover.summary),
            retry_condition: "tried again with growing delay".into(),
            ..leftover
        };
        let told = cx.get::<VolumesSnapshotStatus>(&intent.snapshot).and_then(|status| status.error.clone());
        let error = told.filter(|told| told.summary == error.summary).unwrap_or(error);
        let blank = blank(intent.snapshot, intent.app, &state.stored);
        let asked_by = self.inputs.deletions.get(&intent.snapshot);
        cx.publish(VolumesSnapshotStatus {
            result_of: SnapshotAction::Delete,
            operation: asked_by.copied().unwrap_or(blank.operation),
            error: Some(error),
            ..blank
        });
    }

    /// A new request while the tidying of the last one does not succeed is told so ([003] I17).
    pub(super) fn refuse_behind_answered(&mut self, intent: &SnapshotIntent, cx: &mut Ctx<Self>) {
        let Some(state) = self.snapshots.get(&intent.snapshot).filter(|state| state.answered) else { return };
        let request = self.inputs.requests.get(&intent.snapshot).cloned();
        let Some(request) = request.filter(|request| request.action != SnapshotAction::Unspecified) else {
            return;
        };
        let is_answered = |answer: &Arc<VolumesSnapshotStatus>| {
            answer.operation == request.operation && answer.result_of == request.action
        };
        let is_made = matches!(&state.stored, Stored::Whole(record) if record.operation == request.operation);
        if !is_made && !state.last_answer.as_ref().is_some_and(is_answered) {
            let failure = Failure::passing(format!(
                "snapshot {}: what operation {} left on storage cannot be removed yet",
                request.snapshot, intent.operation
            ));
            self.refuse(&request, failure, cx);
        }
    }
}
