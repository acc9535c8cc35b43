//! The next step of a snapshot intent. Pure: the durable row and what each volume has said in, a step out.
//!
//! ```text
//!   Create     Preparing ──all cut──────────────────────────────▶ record, answer
//!              Preparing ──one failed──▶ Undoing ──all removed──▶ answer with the failure            [003] B5
//!
//!   Rollback   Preparing ──all safe──▶ Applying ──all applied──▶ Committing ──group reverted──▶ CleaningUp
//!                  │                      │                          │                    └─all dropped──▶ answer
//!                  │                      └─one failed─▶ Undoing ◀───┴─failed
//!                  │                                        └─all back──▶ CleaningUp ──▶ answer with the failure
//!                  └──one failed──▶ CleaningUp ──▶ answer with the failure                           [003] C6
//!
//!   Delete     CleaningUp ──all gone──▶ un-publish                                                   [003] D2
//! ```
//!
//! Volumes of a backend with group verbs (ZFS) act as one: one job, one step of storage, all or none ([003] K2). A rollback
//! reverts them last and needs no safety snapshots of them: either that step has happened, and then everything has, or it has
//! not, and the others go back. A stage in which no volume has anything done to it is passed over.
//!
//! The answer to a rollback is kept (`Answered`) until something else is asked for: the one who asked may die before he
//! has written it down, and asks again. What was reverted must not be tried again then, and fail.
//!
//! The stage is durable, what the volumes have said is not: after a restart the stage is driven again on every
//! volume, and each step is idempotent. `Undoing` of a rollback applies a safety snapshot where one is found;
//! where none is found any more, that volume is back already, for `Applying` begins only when all have theirs
//! and they are dropped only in `CleaningUp`.
//!
//! What only tidies up (dropping safety snapshots, removing what a failed create made) does not keep an
//! application waiting for ever: after some tries the answer is given and the tidying goes on behind it. What
//! puts a volume's content back is never given up.

use std::collections::BTreeMap;

use holdfast_types::{ErrorReport, IntentStage, RecordedMeta, SnapshotAction, SnapshotIntent, VolumeId};
use holdfast_volumehandlers::zvol;

/// The handler name of a volume that is recorded as unchanged ([003] B3).
pub const READ_ONLY: &str = "read-only";

/// A rollback's stages in their order, while nothing fails.
const ROLLBACK_STAGES: [IntentStage; 4] =
    [IntentStage::Preparing, IntentStage::Applying, IntentStage::Committing, IntentStage::CleaningUp];

/// Tries of a forward step before it counts as failed for good.
pub const FORWARD_TRIES: u32 = 3;
/// Tries of tidying before the answer is given all the same.
pub const TIDY_TRIES: u32 = 3;

/// What is to be done on each volume in a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum VolumeStep {
    CutSnapshot,
    CutSafety,
    ApplySnapshot,
    ApplySafety,
    /// The snapshot made by a create that is being undone.
    DropSnapshot,
    DropSafety,
    /// The snapshot and, where an intent left one, its safety snapshot.
    DeleteAll,
}

impl VolumeStep {
    /// In words, for job names and messages.
    pub fn name(self) -> &'static str {
        match self {
            VolumeStep::CutSnapshot => "cut-snapshot",
            VolumeStep::CutSafety => "cut-safety",
            VolumeStep::ApplySnapshot => "apply-snapshot",
            VolumeStep::ApplySafety => "apply-safety",
            VolumeStep::DropSnapshot => "drop-snapshot",
            VolumeStep::DropSafety => "drop-safety",
            VolumeStep::DeleteAll => "delete-snapshot",
        }
    }

    /// A step towards the goal, which may fail for good; the others only put back or tidy up.
    pub fn is_forward(self) -> bool {
        matches!(self, VolumeStep::CutSnapshot | VolumeStep::CutSafety | VolumeStep::ApplySnapshot)
    }

    fn is_tidying(self) -> bool {
        matches!(self, VolumeStep::DropSnapshot | VolumeStep::DropSafety | VolumeStep::DeleteAll)
    }
}

/// How far one volume is in the stage.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Progress {
    #[default]
    Due,
    Running,
    Done,
    /// Tried; due again when its timer says so, unless it is permanent.
    Failed {
        error: ErrorReport,
        tries: u32,
        permanent: bool,
    },
}

/// What to do next about an intent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Start these volumes' steps.
    Start(Vec<VolumeId>),
    /// A job or a timer will bring us back.
    Wait,
    /// Write the row with this stage (and failure), then go on.
    Enter { stage: IntentStage, failure: Option<ErrorReport> },
    /// All is done: the answer is the intent's failure or success, and the row goes.
    Finish,
    /// Answer now; what is left to tidy is tried again behind it.
    Answer { leftover: ErrorReport },
}

/// What this intent's stage does to a volume; nothing to a read-only one, and nothing where another stage is its turn.
pub fn volume_step(intent: &SnapshotIntent, meta: &RecordedMeta) -> Option<VolumeStep> {
    step_in(intent.stage, intent.action, meta)
}

fn step_in(stage: IntentStage, action: SnapshotAction, meta: &RecordedMeta) -> Option<VolumeStep> {
    if meta.handler == READ_ONLY {
        return None;
    }
    match (action, stage) {
        (SnapshotAction::Create, IntentStage::Preparing) => Some(VolumeStep::CutSnapshot),
        (SnapshotAction::Create, _) => Some(VolumeStep::DropSnapshot),
        (SnapshotAction::Rollback, _) if is_grouped(meta) => {
            (stage == IntentStage::Committing).then_some(VolumeStep::ApplySnapshot)
        }
        (SnapshotAction::Rollback, IntentStage::Preparing) => Some(VolumeStep::CutSafety),
        (SnapshotAction::Rollback, IntentStage::Applying) => Some(VolumeStep::ApplySnapshot),
        (SnapshotAction::Rollback, IntentStage::Committing) => None,
        (SnapshotAction::Rollback, IntentStage::Undoing) => Some(VolumeStep::ApplySafety),
        (SnapshotAction::Rollback, IntentStage::CleaningUp | IntentStage::Answered) => {
            Some(VolumeStep::DropSafety)
        }
        (SnapshotAction::Delete | SnapshotAction::Unspecified, _) => Some(VolumeStep::DeleteAll),
    }
}

/// True for a volume whose backend does a step on all volumes at once.
pub fn is_grouped(meta: &RecordedMeta) -> bool {
    meta.handler == zvol::NAME
}

/// Where an intent begins: with the first stage that has something to do.
pub fn first_stage(intent: &SnapshotIntent) -> IntentStage {
    match intent.action {
        SnapshotAction::Rollback => next_busy(intent, &ROLLBACK_STAGES).unwrap_or(IntentStage::Preparing),
        _ => intent.stage,
    }
}

fn next_busy(intent: &SnapshotIntent, stages: &[IntentStage]) -> Option<IntentStage> {
    let is_busy = |stage: &IntentStage| {
        intent.volumes.values().any(|meta| step_in(*stage, intent.action, meta).is_some())
    };
    stages.iter().copied().find(is_busy)
}

/// Decides. `progress` holds what the volumes said in this stage; a volume that is not in it is due.
pub fn next(intent: &SnapshotIntent, progress: &BTreeMap<VolumeId, Progress>) -> Next {
    let of = |volume: &VolumeId| progress.get(volume).unwrap_or(&Progress::Due);
    let steps: BTreeMap<VolumeId, VolumeStep> = intent
        .volumes
        .iter()
        .filter_map(|(volume, meta)| Some((*volume, volume_step(intent, meta)?)))
        .collect();
    let volumes: Vec<VolumeId> = steps.keys().copied().collect();

    if volumes.iter().all(|volume| *of(volume) == Progress::Done) {
        return after_all_done(intent);
    }
    if let Some(failure) = steps.iter().find_map(|(volume, step)| failed_for_good(*step, of(volume))) {
        return match volumes.iter().any(|volume| *of(volume) == Progress::Running) {
            true => Next::Wait,
            false => give_up(intent, failure),
        };
    }
    let due: Vec<VolumeId> = volumes.iter().copied().filter(|volume| *of(volume) == Progress::Due).collect();
    if !due.is_empty() {
        return Next::Start(due);
    }
    match leftover(steps.iter().map(|(volume, step)| (*step, of(volume)))) {
        Some(leftover) => Next::Answer { leftover },
        None => Next::Wait,
    }
}

fn after_all_done(intent: &SnapshotIntent) -> Next {
    let later: &[IntentStage] = match (intent.action, intent.stage) {
        (SnapshotAction::Rollback, IntentStage::Undoing) => &[IntentStage::CleaningUp],
        (SnapshotAction::Rollback, stage) => {
            let at = ROLLBACK_STAGES.iter().position(|one| *one == stage);
            at.map_or(&[], |at| &ROLLBACK_STAGES[at + 1..])
        }
        _ => &[],
    };
    match next_busy(intent, later) {
        Some(stage) => Next::Enter { stage, failure: intent.failure.clone() },
        None => Next::Finish,
    }
}

fn give_up(intent: &SnapshotIntent, failure: ErrorReport) -> Next {
    let stage = match (intent.action, intent.stage) {
        // Nothing was reverted: there is nothing to put back, only safety snapshots to drop.
        (SnapshotAction::Rollback, IntentStage::Preparing) => IntentStage::CleaningUp,
        _ => IntentStage::Undoing,
    };
    Next::Enter { stage, failure: Some(failure) }
}

fn failed_for_good(step: VolumeStep, progress: &Progress) -> Option<ErrorReport> {
    match progress {
        Progress::Failed { error, tries, permanent }
            if step.is_forward() && (*permanent || *tries >= FORWARD_TRIES) =>
        {
            Some(error.clone())
        }
        _ => None,
    }
}

/// The first error left, once every volume is done or has been tried often enough.
fn leftover<'a>(mut all: impl Iterator<Item = (VolumeStep, &'a Progress)>) -> Option<ErrorReport> {
    all.try_fold(None, |first: Option<ErrorReport>, (step, progress)| match progress {
        Progress::Done => Ok(first),
        Progress::Failed { error, tries, .. } if step.is_tidying() && *tries >= TIDY_TRIES => {
            Ok(first.or_else(|| Some(error.clone())))
        }
        _ => Err(()),
    })
    .unwrap_or(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volumemgr::testing::{intent, noon, volume};

    fn done(volumes: &[u8]) -> BTreeMap<VolumeId, Progress> {
        volumes.iter().map(|n| (volume(*n), Progress::Done)).collect()
    }

    fn failed(tries: u32, permanent: bool) -> Progress {
        Progress::Failed { error: ErrorReport::new("no", noon()), tries, permanent }
    }

    fn entered(next: Next) -> (IntentStage, bool) {
        match next {
            Next::Enter { stage, failure } => (stage, failure.is_some()),
            other => panic!("expected a stage to be entered, not {other:?}"),
        }
    }

    #[test]
    fn the_way_through_when_nothing_fails() {
        use IntentStage::{Applying, CleaningUp, Preparing};
        let create = intent(SnapshotAction::Create, Preparing, &[1, 2]);
        assert_eq!(next(&create, &done(&[])), Next::Start(vec![volume(1), volume(2)]));
        assert_eq!(next(&create, &done(&[1])), Next::Start(vec![volume(2)]));
        assert_eq!(next(&create, &done(&[1, 2])), Next::Finish);

        let rollback = |stage| intent(SnapshotAction::Rollback, stage, &[1, 2]);
        assert_eq!(entered(next(&rollback(Preparing), &done(&[1, 2]))), (Applying, false));
        assert_eq!(entered(next(&rollback(Applying), &done(&[1, 2]))), (CleaningUp, false));
        assert_eq!(next(&rollback(CleaningUp), &done(&[1, 2])), Next::Finish);

        let delete = intent(SnapshotAction::Delete, CleaningUp, &[1]);
        assert_eq!(next(&delete, &done(&[])), Next::Start(vec![volume(1)]));
        assert_eq!(next(&delete, &done(&[1])), Next::Finish);
    }

    #[test]
    fn a_volume_that_fails_for_good_turns_every_other_back() {
        use IntentStage::{Applying, CleaningUp, Preparing, Undoing};
        let cases = [
            (SnapshotAction::Create, Preparing, Undoing),
            (SnapshotAction::Rollback, Preparing, CleaningUp),
            (SnapshotAction::Rollback, Applying, Undoing),
        ];
        for (action, stage, expected) in cases {
            let intent = intent(action, stage, &[1, 2]);
            let mut progress = done(&[1]);
            progress.insert(volume(2), failed(1, false));
            assert_eq!(next(&intent, &progress), Next::Wait, "{action:?} {stage:?} is tried again first");
            progress.insert(volume(2), failed(1, true));
            assert_eq!(entered(next(&intent, &progress)), (expected, true), "{action:?} {stage:?}");
            progress.insert(volume(2), failed(FORWARD_TRIES, false));
            assert_eq!(entered(next(&intent, &progress)), (expected, true), "{action:?} {stage:?}");
        }
    }

    #[test]
    fn nothing_is_undone_while_a_step_still_runs_and_nothing_is_started_any_more() {
        let create = intent(SnapshotAction::Create, IntentStage::Preparing, &[1, 2, 3]);
        let mut progress = BTreeMap::from([(volume(1), Progress::Running), (volume(2), failed(1, true))]);
        assert_eq!(next(&create, &progress), Next::Wait);
        progress.insert(volume(1), Progress::Done);
        assert_eq!(entered(next(&create, &progress)), (IntentStage::Undoing, true));
    }

    #[test]
    fn putting_content_back_is_never_given_up() {
        let undoing = intent(SnapshotAction::Rollback, IntentStage::Undoing, &[1, 2]);
        let mut progress = done(&[1]);
        progress.insert(volume(2), failed(1000, true));
        assert_eq!(next(&undoing, &progress), Next::Wait);
        progress.insert(volume(2), Progress::Done);
        let mut undoing = undoing;
        undoing.failure = Some(ErrorReport::new("why", noon()));
        assert_eq!(entered(next(&undoing, &progress)), (IntentStage::CleaningUp, true));
    }

    #[test]
    fn tidying_does_not_keep_the_application_waiting() {
        for (action, stage) in [
            (SnapshotAction::Create, IntentStage::Undoing),
            (SnapshotAction::Rollback, IntentStage::CleaningUp),
            (SnapshotAction::Delete, IntentStage::CleaningUp),
        ] {
            let intent = intent(action, stage, &[1, 2]);
            let mut progress = done(&[1]);
            progress.insert(volume(2), failed(TIDY_TRIES - 1, true));
            assert_eq!(next(&intent, &progress), Next::Wait, "{action:?}");
            progress.insert(volume(2), failed(TIDY_TRIES, false));
            assert!(matches!(next(&intent, &progress), Next::Answer { .. }), "{action:?}");
            progress.insert(volume(1), Progress::Running);
            assert_eq!(next(&intent, &progress), Next::Wait, "{action:?}");
        }
    }

    #[test]
    fn a_read_only_volume_has_nothing_done_to_it() {
        let mut create = intent(SnapshotAction::Create, IntentStage::Preparing, &[1, 2]);
        create.volumes.get_mut(&volume(1)).expect("volume 1").handler = READ_ONLY.into();
        assert_eq!(next(&create, &BTreeMap::new()), Next::Start(vec![volume(2)]));
        create.volumes.get_mut(&volume(2)).expect("volume 2").handler = READ_ONLY.into();
        assert_eq!(next(&create, &BTreeMap::new()), Next::Finish);
    }

    /// Volume 1 is an image, 2 and 3 are ZFS volumes.
    fn mixed(action: SnapshotAction, stage: IntentStage) -> SnapshotIntent {
        let mut intent = intent(action, stage, &[1, 2, 3]);
        for grouped in [2, 3] {
            intent.volumes.get_mut(&volume(grouped)).expect("a volume").handler = zvol::NAME.into();
        }
        intent
    }

    /// [003] K2: the group is reverted when all others have been, so that its one step decides.
    #[test]
    fn a_group_is_reverted_last_and_needs_no_safety_snapshots() {
        use IntentStage::{Applying, CleaningUp, Committing, Preparing};
        let rollback = |stage| mixed(SnapshotAction::Rollback, stage);
        assert_eq!(next(&rollback(Preparing), &done(&[])), Next::Start(vec![volume(1)]));
        assert_eq!(entered(next(&rollback(Preparing), &done(&[1]))), (Applying, false));
        assert_eq!(next(&rollback(Applying), &done(&[])), Next::Start(vec![volume(1)]));
        assert_eq!(entered(next(&rollback(Applying), &done(&[1]))), (Committing, false));
        assert_eq!(next(&rollback(Committing), &done(&[])), Next::Start(vec![volume(2), volume(3)]));
        assert_eq!(entered(next(&rollback(Committing), &done(&[2, 3]))), (CleaningUp, false));
        assert_eq!(next(&rollback(CleaningUp), &done(&[])), Next::Start(vec![volume(1)]));
        assert_eq!(next(&rollback(CleaningUp), &done(&[1])), Next::Finish);
    }

    #[test]
    fn a_group_that_cannot_be_reverted_turns_the_others_back_and_is_not_touched() {
        use IntentStage::{CleaningUp, Committing, Undoing};
        let mut progress = BTreeMap::from([(volume(2), failed(1, true)), (volume(3), failed(1, true))]);
        let committing = mixed(SnapshotAction::Rollback, Committing);
        assert_eq!(entered(next(&committing, &progress)), (Undoing, true));
        let undoing = mixed(SnapshotAction::Rollback, Undoing);
        progress.clear();
        assert_eq!(next(&undoing, &progress), Next::Start(vec![volume(1)]));
        assert_eq!(entered(next(&undoing, &done(&[1]))), (CleaningUp, false));
    }

    #[test]
    fn stages_with_nothing_to_do_are_passed_over() {
        let mut rollback = mixed(SnapshotAction::Rollback, IntentStage::Preparing);
        assert_eq!(first_stage(&rollback), IntentStage::Preparing);
        rollback.volumes.remove(&volume(1));
        assert_eq!(first_stage(&rollback), IntentStage::Committing);
        rollback.stage = IntentStage::Committing;
        assert_eq!(next(&rollback, &done(&[2, 3])), Next::Finish);
        rollback.stage = IntentStage::Undoing;
        assert_eq!(next(&rollback, &done(&[])), Next::Finish);
    }

    #[test]
    fn a_group_is_cut_and_deleted_with_the_others() {
        let all = vec![volume(1), volume(2), volume(3)];
        for (action, stage) in [
            (SnapshotAction::Create, IntentStage::Preparing),
            (SnapshotAction::Create, IntentStage::Undoing),
            (SnapshotAction::Delete, IntentStage::CleaningUp),
        ] {
            assert_eq!(next(&mixed(action, stage), &done(&[])), Next::Start(all.clone()), "{action:?}");
            assert_eq!(next(&mixed(action, stage), &done(&[1, 2, 3])), Next::Finish, "{action:?}");
        }
    }
}
