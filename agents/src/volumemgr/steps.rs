//! The next step of a snapshot intent. Pure: the durable row and what each volume has said in, a step out.
//!
//! ```text
//!   Create     Preparing ──all cut──────────────────────────────▶ record, answer
//!              Preparing ──one failed──▶ Undoing ──all removed──▶ answer with the failure            [003] B5
//!
//!   Rollback   Preparing ──all safe──▶ Applying ──all applied──▶ Committing ──group reverted──▶ Repointing ──▶ CleaningUp
//!                  │                      │                          │                               all dropped └──▶ answer
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
//! A volume whose handler cannot revert it in place is cloned from the snapshot ([004] M2), and only such a one: `Preparing` makes
//! the clone, which touches nothing that is in force, and to enter `Repointing` is to put all clones in force, in one write of
//! the intent's row. What follows cannot fail for good: the snapshots are given to the clone and the volume's row is pointed
//! at it, and `CleaningUp` destroys what was replaced. Before that one write, a failure destroys the clones.
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
const ROLLBACK_STAGES: [IntentStage; 5] = [
    IntentStage::Preparing,
    IntentStage::Applying,
    IntentStage::Committing,
    IntentStage::Repointing,
    IntentStage::CleaningUp,
];

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
    /// The snapshot and, where an intent left one, its safety snapshot; or whichever incarnation of it is not in force.
    DeleteAll,
    /// A fresh incarnation of the volume, with the snapshot's content.
    MakeClone,
    /// The snapshots are given to the clone, which is in force already.
    Repoint,
    /// The clone of a rollback that failed.
    DropClone,
    /// What the clone has replaced.
    DropReplaced,
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
            VolumeStep::MakeClone => "clone-snapshot",
            VolumeStep::Repoint => "repoint",
            VolumeStep::DropClone => "drop-clone",
            VolumeStep::DropReplaced => "drop-replaced",
        }
    }

    /// A step towards the goal, which may fail for good; the others only put back or tidy up.
    pub fn is_forward(self) -> bool {
        use VolumeStep::{ApplySnapshot, CutSafety, CutSnapshot, MakeClone};
        matches!(self, CutSnapshot | CutSafety | ApplySnapshot | MakeClone)
    }

    fn is_tidying(self) -> bool {
        use VolumeStep::{DeleteAll, DropClone, DropReplaced, DropSafety, DropSnapshot};
        matches!(self, DropSnapshot | DropSafety | DeleteAll | DropClone | DropReplaced)
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

/// What this intent's stage does to one of its volumes; nothing to a read-only one, and nothing where another stage is its turn.
pub fn volume_step(intent: &SnapshotIntent, volume: &VolumeId) -> Option<VolumeStep> {
    step_in(intent, intent.stage, volume)
}

fn step_in(intent: &SnapshotIntent, stage: IntentStage, volume: &VolumeId) -> Option<VolumeStep> {
    let meta = intent.volumes.get(volume).filter(|meta| meta.handler != READ_ONLY)?;
    match (intent.action, stage) {
        (SnapshotAction::Create, IntentStage::Preparing) => Some(VolumeStep::CutSnapshot),
        (SnapshotAction::Create, _) => Some(VolumeStep::DropSnapshot),
        (SnapshotAction::Rollback, _) if is_grouped(meta) => {
            (stage == IntentStage::Committing).then_some(VolumeStep::ApplySnapshot)
        }
        (SnapshotAction::Rollback, _) if intent.clones.contains_key(volume) => {
            clone_step(stage, intent.failure.is_some())
        }
        (SnapshotAction::Rollback, IntentStage::Preparing) => Some(VolumeStep::CutSafety),
        (SnapshotAction::Rollback, IntentStage::Applying) => Some(VolumeStep::ApplySnapshot),
        (SnapshotAction::Rollback, IntentStage::Committing | IntentStage::Repointing) => None,
        (SnapshotAction::Rollback, IntentStage::Undoing) => Some(VolumeStep::ApplySafety),
        (SnapshotAction::Rollback, IntentStage::CleaningUp | IntentStage::Answered) => {
            Some(VolumeStep::DropSafety)
        }
        (SnapshotAction::Delete | SnapshotAction::Unspecified, _) => Some(VolumeStep::DeleteAll),
    }
}

fn clone_step(stage: IntentStage, has_failed: bool) -> Option<VolumeStep> {
    match stage {
        IntentStage::Preparing => Some(VolumeStep::MakeClone),
        IntentStage::Applying | IntentStage::Committing => None,
        IntentStage::Repointing => Some(VolumeStep::Repoint),
        // First of all to make room for putting the others back.
        IntentStage::Undoing => Some(VolumeStep::DropClone),
        IntentStage::CleaningUp | IntentStage::Answered if has_failed => Some(VolumeStep::DropClone),
        IntentStage::CleaningUp | IntentStage::Answered => Some(VolumeStep::DropReplaced),
    }
}

/// True for a volume whose backend does a step on all volumes at once.
pub fn is_grouped(meta: &RecordedMeta) -> bool {
    meta.handler == zvol::NAME
}

/// True for a rollback whose volumes are kept as they were before it.
pub fn may_be_undone(intent: &SnapshotIntent) -> bool {
    use IntentStage::{Applying, Committing, Preparing, Undoing};
    intent.action == SnapshotAction::Rollback
        && matches!(intent.stage, Preparing | Applying | Committing | Undoing)
}

/// Where an intent begins: with the first stage that has something to do.
pub fn first_stage(intent: &SnapshotIntent) -> IntentStage {
    match intent.action {
        SnapshotAction::Rollback => next_busy(intent, &ROLLBACK_STAGES).unwrap_or(IntentStage::Preparing),
        _ => intent.stage,
    }
}

fn next_busy(intent: &SnapshotIntent, stages: &[IntentStage]) -> Option<IntentStage> {
    let is_busy =
        |stage: &IntentStage| intent.volumes.keys().any(|volume| step_in(intent, *stage, volume).is_some());
    stages.iter().copied().find(is_busy)
}

/// Decides. `progress` holds what the volumes said in this stage; a volume that is not in it is due.
pub fn next(intent: &SnapshotIntent, progress: &BTreeMap<VolumeId, Progress>) -> Next {
    let of = |volume: &VolumeId| progress.get(volume).unwrap_or(&Progress::Due);
    let due = intent.volumes.keys().filter_map(|volume| Some((*volume, volume_step(intent, volume)?)));
    let steps: BTreeMap<VolumeId, VolumeStep> = due.collect();
    let volumes: Vec<VolumeId> = steps.keys().copied().collect();

    if steps.iter().all(|(volume, step)| is_enough(intent, *step, of(volume))) {
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

/// A clone that cannot be dropped keeps nothing from being put back: it is tried again when that is done.
fn is_enough(intent: &SnapshotIntent, step: VolumeStep, progress: &Progress) -> bool {
    let is_undoing = intent.action == SnapshotAction::Rollback && intent.stage == IntentStage::Undoing;
    match progress {
        Progress::Done => true,
        Progress::Failed { tries, .. } => is_undoing && step.is_tidying() && *tries >= TIDY_TRIES,
        Progress::Due | Progress::Running => false,
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
    use holdfast_types::Replacement;
    use holdfast_volumehandlers::file;

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

    /// Volume 1 is an image, 2 a ZFS volume, 3 a raw disk, which is cloned.
    fn with_clone(stage: IntentStage) -> SnapshotIntent {
        let mut intent = intent(SnapshotAction::Rollback, stage, &[1, 2, 3]);
        intent.volumes.get_mut(&volume(2)).expect("a volume").handler = zvol::NAME.into();
        intent.volumes.get_mut(&volume(3)).expect("a volume").handler = file::NAME.into();
        let replacement = Replacement {
            incarnation: 2,
            old_location: "/v/3#0.raw".into(),
            fresh_location: "/v/3#0.i2.raw".into(),
        };
        intent.clones.insert(volume(3), replacement);
        intent
    }

    /// [004] M2, M4: what each stage does to each kind of volume, and where it leads.
    #[test]
    fn clones_come_into_force_when_everything_else_has_happened() {
        use IntentStage::{Answered, Applying, CleaningUp, Committing, Preparing, Repointing, Undoing};
        use VolumeStep::{
            ApplySafety, ApplySnapshot, CutSafety, DropClone, DropReplaced, DropSafety, MakeClone, Repoint,
        };
        let failed = Some(ErrorReport::new("no", noon()));
        let table = [
            (Preparing, None, [Some(CutSafety), None, Some(MakeClone)], Some(Applying)),
            (Applying, None, [Some(ApplySnapshot), None, None], Some(Committing)),
            (Committing, None, [None, Some(ApplySnapshot), None], Some(Repointing)),
            (Repointing, None, [None, None, Some(Repoint)], Some(CleaningUp)),
            (CleaningUp, None, [Some(DropSafety), None, Some(DropReplaced)], None),
            (Undoing, failed.clone(), [Some(ApplySafety), None, Some(DropClone)], Some(CleaningUp)),
            (CleaningUp, failed.clone(), [Some(DropSafety), None, Some(DropClone)], None),
            (Answered, None, [Some(DropSafety), None, Some(DropReplaced)], None),
        ];
        for (stage, failure, steps, next_stage) in table {
            let intent = SnapshotIntent { failure, ..with_clone(stage) };
            let found = [1, 2, 3].map(|n| volume_step(&intent, &volume(n)));
            assert_eq!(found, steps, "{stage:?}");
            let entered = match next(&intent, &done(&[1, 2, 3])) {
                Next::Enter { stage, .. } => Some(stage),
                Next::Finish => None,
                other => panic!("{stage:?}: {other:?}"),
            };
            assert_eq!(entered, next_stage, "{stage:?}");
        }
    }

    #[test]
    fn a_clone_alone_is_made_put_in_force_and_tidied_after() {
        use IntentStage::{CleaningUp, Preparing, Repointing};
        let alone = |stage| {
            let mut intent = with_clone(stage);
            intent.volumes.retain(|id, _| *id == volume(3));
            intent
        };
        assert_eq!(first_stage(&alone(Preparing)), Preparing);
        assert_eq!(entered(next(&alone(Preparing), &done(&[3]))), (Repointing, false));
        assert_eq!(entered(next(&alone(Repointing), &done(&[3]))), (CleaningUp, false));
        assert_eq!(next(&alone(CleaningUp), &done(&[3])), Next::Finish);
    }

    /// Entering `Repointing` was the commit: there is no way back, and no answer before it is done.
    #[test]
    fn what_is_in_force_is_never_given_up() {
        let repointing = with_clone(IntentStage::Repointing);
        let progress = BTreeMap::from([(volume(3), failed(1000, true))]);
        assert_eq!(next(&repointing, &progress), Next::Wait);
    }

    #[test]
    fn a_clone_that_cannot_be_made_turns_every_other_back_and_what_was_made_goes() {
        let preparing = with_clone(IntentStage::Preparing);
        let mut progress = done(&[1]);
        progress.insert(volume(3), failed(1, true));
        assert_eq!(entered(next(&preparing, &progress)), (IntentStage::CleaningUp, true));
    }

    #[test]
    fn a_clone_that_cannot_be_dropped_keeps_nothing_from_being_put_back() {
        let mut undoing = with_clone(IntentStage::Undoing);
        undoing.failure = Some(ErrorReport::new("why", noon()));
        let mut progress = BTreeMap::from([(volume(3), failed(TIDY_TRIES, true))]);
        assert_eq!(next(&undoing, &progress), Next::Start(vec![volume(1)]));
        progress.insert(volume(1), failed(1000, true));
        assert_eq!(next(&undoing, &progress), Next::Wait, "the image is not back yet");
        progress.insert(volume(1), Progress::Done);
        assert_eq!(entered(next(&undoing, &progress)), (IntentStage::CleaningUp, true));
        undoing.stage = IntentStage::CleaningUp;
        assert!(
            matches!(next(&undoing, &progress), Next::Answer { .. }),
            "and is tried again behind the answer"
        );
    }
}
