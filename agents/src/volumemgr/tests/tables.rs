//! Tables of single decisions: what the stories pass by on their way, found by mutation (docs/testing.md).

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_pubsub::DamagedRow;
use holdfast_volumehandlers::{SnapshotMeta, SnapshotName};

use super::*;
use crate::volumemgr::answer::{about_whole, blank, cut_status};
use crate::volumemgr::holds::Holds;
use crate::volumemgr::inventory::{is_of, lost_rows};
use crate::volumemgr::request::{Stored, Verdict, Volumes, deletion, judge, made, resolved};
use crate::volumemgr::steps::VolumeStep;

/// Rows of volumes 1 and 2, each in generations 3 and 4; generation 4 is still being made.
struct TwoVolumes;

impl Volumes for TwoVolumes {
    fn record(&self, key: &VolumeKey) -> Option<VolumeRecord> {
        let stage = match key.generation {
            Generation(3) => VolumeStage::Created,
            Generation(4) => VolumeStage::Creating,
            _ => return None,
        };
        Some(VolumeRecord {
            config: super::blank(*key),
            handler: "qcow2".into(),
            format: Format::Qcow2,
            file_location: format!("/volumes/{key}.qcow2"),
            stage,
            size_bytes: MIB,
            sha256: String::new(),
            incarnation: 1,
        })
    }

    fn generations(&self, volume: &VolumeId) -> Vec<VolumeKey> {
        [3, 4].map(|generation| VolumeKey { volume: *volume, generation: Generation(generation) }).into()
    }
}

fn status(meta: BTreeMap<VolumeId, VolumeSnapshotMeta>) -> VolumesSnapshotStatus {
    VolumesSnapshotStatus {
        snapshot: snapshot(1),
        meta,
        time_created: Some(noon()),
        app: app(1),
        ref_count: 0,
        result_of: SnapshotAction::Create,
        operation: OperationNumber(5),
        error: None,
    }
}

#[test]
fn a_volume_counts_once_it_is_made() {
    assert!(made(&key(1, 3), &TwoVolumes).is_ok());
    assert!(made(&key(1, 4), &TwoVolumes).expect_err("not yet").contains("not made yet"));
    assert!(made(&key(1, 5), &TwoVolumes).expect_err("never").contains("missing"));
}

/// A record of EVE's tells no generation: each volume's own hint counts, else the oldest there is.
#[test]
fn a_hint_speaks_for_its_own_volume_only() {
    let eve = |n| (volume(n), VolumeSnapshotMeta::Eve("theirs".into()));
    let record = status([eve(1), eve(2)].into());
    let found = resolved(&record, &[key(2, 4)], &TwoVolumes);
    let generations: Vec<Generation> = found.values().map(|meta| meta.generation).collect();
    assert_eq!(generations, [Generation(3), Generation(4)]);
}

/// [003] H3: what was made is never made again in another's place; what was not made is begun.
#[test]
fn a_request_for_what_was_made_is_refused_where_storage_has_no_record() {
    let mut request = VolumesSnapshotConfig {
        snapshot: snapshot(1),
        action: SnapshotAction::Create,
        volumes: vec![key(1, 3)],
        app: app(1),
        operation: OperationNumber(5),
        made: true,
        consent: Consent::default(),
        revert: None,
    };
    let judged = judge(&request, &Stored::Nothing, None, &TwoVolumes, noon());
    assert!(matches!(judged, Verdict::Refuse(why) if why.contains("no record")));
    request.made = false;
    assert!(matches!(judge(&request, &Stored::Nothing, None, &TwoVolumes, noon()), Verdict::Begin(_)));
    request.action = SnapshotAction::Rollback;
    let judged = judge(&request, &Stored::Nothing, None, &TwoVolumes, noon());
    assert!(matches!(judged, Verdict::Refuse(why) if why.contains("not known")));
}

/// [003] H3: where the record is damaged nothing is made in its place, unless it never was made: then it is what is left
/// under an id that is asked for again. What may be another application's is left alone.
#[test]
fn what_looks_damaged_gives_way_only_to_what_was_not_made_yet() {
    let asked = |made| VolumesSnapshotConfig {
        snapshot: snapshot(1),
        action: SnapshotAction::Create,
        volumes: vec![key(1, 3)],
        app: app(1),
        operation: OperationNumber(5),
        made,
        consent: Consent::default(),
        revert: None,
    };
    let damaged = |app| Stored::Damaged { reason: "it is gone".into(), app, remains: BTreeMap::new() };
    let judged = |made, app| judge(&asked(made), &damaged(app), None, &TwoVolumes, noon());
    assert_eq!(judged(false, Some(app(1))), Verdict::DeleteFirst);
    for (made, owner) in [(true, Some(app(1))), (false, Some(app(2))), (false, None)] {
        assert!(matches!(judged(made, owner), Verdict::Refuse(why) if why.contains("damaged")));
    }
    let rollback = VolumesSnapshotConfig { action: SnapshotAction::Rollback, ..asked(false) };
    let judged = judge(&rollback, &damaged(Some(app(1))), None, &TwoVolumes, noon());
    assert!(matches!(judged, Verdict::Refuse(_)));
}

#[test]
fn a_deletion_takes_over_what_an_unfinished_intent_made() {
    let unfinished = intent(SnapshotAction::Create, IntentStage::Preparing, &[1, 2]);
    let taken = deletion(snapshot(1), &Stored::Nothing, Some(&unfinished), &TwoVolumes, noon());
    assert_eq!((taken.app, taken.operation), (unfinished.app, unfinished.operation));
    assert_eq!(taken.volumes, unfinished.volumes);
}

#[test]
fn an_answer_shows_what_is_stored_to_its_own_application_only() {
    let recorded = RecordedMeta {
        handler: "qcow2".into(),
        generation: Generation(3),
        storage_name: "holdfast-a".into(),
        size_bytes: 7,
    };
    let meta = [(volume(1), VolumeSnapshotMeta::Recorded(recorded))].into();
    let stored = Stored::Whole(status(meta).into());
    let own = blank(snapshot(1), app(1), &stored);
    assert_eq!((own.meta.len(), own.time_created, own.operation), (1, Some(noon()), OperationNumber(5)));
    let other = blank(snapshot(1), app(2), &stored);
    assert_eq!((other.meta.len(), other.time_created, other.operation), (0, None, OperationNumber(0)));
}

/// The size is the one the volume had when it was cut, the time that of the last cut.
#[test]
fn a_record_keeps_what_storage_said_of_the_cut() {
    let preparing = intent(SnapshotAction::Create, IntentStage::Preparing, &[1, 2]);
    let at = |seconds| noon() + Duration::from_secs(seconds);
    let name = SnapshotName::choose(&snapshot(1), &noon());
    let cut =
        |seconds| SnapshotMeta { name: name.clone(), id: "1".into(), created_at: at(seconds), size_bytes: 9 };
    let record = cut_status(&preparing, &[(volume(1), cut(2)), (volume(2), cut(1))].into(), at(5));
    assert_eq!(record.time_created, Some(at(2)));
    for meta in record.meta.values() {
        assert!(matches!(meta, VolumeSnapshotMeta::Recorded(meta) if meta.size_bytes == 9), "{meta:?}");
    }
    assert_eq!(cut_status(&preparing, &BTreeMap::new(), at(5)).time_created, Some(at(5)));
}

#[test]
fn a_failure_names_the_snapshot_the_action_and_the_way_out() {
    let told = |action, retry: &str| {
        let failure = ErrorReport::new("no room", noon()).retry(retry);
        about_whole(&intent(action, IntentStage::Undoing, &[1]), failure)
    };
    let back = told(SnapshotAction::Rollback, "space");
    assert_eq!(back.summary, format!("rollback to snapshot {} failed: no room", snapshot(1)));
    assert_eq!(back.retry_condition, "can be asked for again");
    let cut = told(SnapshotAction::Create, "");
    assert_eq!(cut.summary, format!("creation of snapshot {} failed: no room", snapshot(1)));
    assert_eq!(cut.retry_condition, "can be asked for again when the cause is removed");
}

/// [003] B9: also while nothing but the intent knows of it.
#[test]
fn an_intent_holds_its_volumes() {
    let mut holds = Holds::default();
    holds.held_by_intent(&intent(SnapshotAction::Delete, IntentStage::CleaningUp, &[1]).into());
    assert!(holds.is_held(&key(1, 0)) && !holds.is_held(&key(1, 1)) && !holds.is_held(&key(2, 0)));
    assert_eq!(holds.held_volumes().collect::<Vec<_>>(), [key(1, 0)]);
}

/// I7: only what bears our mark and this id is ever collected.
#[test]
fn a_name_is_of_a_snapshot_if_this_node_chose_it_for_that() {
    let ours = format!("{}-op5", SnapshotName::choose(&snapshot(1), &noon()));
    assert!(is_of(&ours, snapshot(1)) && !is_of(&ours, snapshot(2)));
    assert!(!is_of(&format!("nightly-{}", snapshot(1)), snapshot(1)), "somebody else's");
}

#[test]
fn a_lost_row_is_told_of_the_volume_it_was_of() {
    let row = |topic, key: &str| DamagedRow { topic, key: key.to_owned(), reason: "empty".to_owned() };
    let damaged = [
        row(VolumeRecord::NAME, &key(1, 3).to_string()),
        row(VolumeRecord::NAME, "no volume"),
        row(SnapshotIntent::NAME, &key(2, 3).to_string()),
    ];
    let lost = lost_rows(&damaged, noon());
    assert_eq!(lost.keys().collect::<Vec<_>>(), [&key(1, 3)]);
    assert!(lost[&key(1, 3)].summary.contains("in quarantine: empty"));
}

/// Jobs of one volume are told apart by the names of their steps.
#[test]
fn every_step_has_a_name_of_its_own() {
    use VolumeStep::*;
    let steps = [
        CutSnapshot,
        CutSafety,
        ApplySnapshot,
        ApplySafety,
        DropSnapshot,
        DropSafety,
        DeleteAll,
        MakeClone,
        Repoint,
        DropClone,
        DropReplaced,
    ];
    let names: std::collections::BTreeSet<&str> = steps.iter().map(|step| step.name()).collect();
    assert_eq!(names.len(), steps.len());
}
