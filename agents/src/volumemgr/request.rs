//! What a snapshot request comes to. Pure: the request, what storage holds, and the volumes in; a verdict out.
//!
//! | storage has             | Create, number of the making | Create, another number | Rollback             |
//! |-------------------------|------------------------------|------------------------|----------------------|
//! | a whole record          | as recorded                  | remains go first (B6); | begin                |
//! |                         |                              | refused if made before |                      |
//! | the record of another app | refused                    | refused                | refused              |
//! | a damaged record        | refused, says why; of the    | as there               | refused, says why    |
//! |                         | same application and not     |                        |                      |
//! |                         | made before: remains go first |                       |                      |
//! | nothing                 | refused: it was made before  | begin                  | refused: unknown     |
//!
//! A request that was answered before (the same action and number) gets the same answer: a number acts once.
//!
//! zedmanager repeats the request of every snapshot it knows after a restart, with the number of its making and
//! whether or not the guest runs, and marks it as made. Hence the two careful lines: what was made is never made
//! again, and where the record is damaged nothing is made in its place; it would be a snapshot of another day
//! under the old name. What was not made yet was promised to nobody: if an id is asked for again, zedmanager's record of the
//! deleted snapshot may outlive volumemgr's, which looks like damage.

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_types::{
    AppId, Consent, Format, IntentStage, RecordedMeta, Replacement, SnapshotAction, SnapshotId,
    SnapshotIntent, Timestamp, VolumeId, VolumeKey, VolumeRecord, VolumeRevert, VolumeSnapshotMeta,
    VolumeStage, VolumesSnapshotConfig, VolumesSnapshotStatus,
};
use holdfast_volumehandlers::{SnapshotName, placement};

use super::steps::{self, READ_ONLY};

/// What storage holds under a snapshot's id, as far as its record tells.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Stored {
    #[default]
    Nothing,
    Whole(Arc<VolumesSnapshotStatus>),
    /// [003] H3: shown with its reason, and can be deleted.
    Damaged {
        reason: String,
        app: Option<AppId>,
        remains: BTreeMap<VolumeId, RecordedMeta>,
    },
}

/// The rows of volumes, as the judge looks at them.
pub trait Volumes {
    fn record(&self, key: &VolumeKey) -> Option<VolumeRecord>;
    /// Generations of this volume that have a row, in order.
    fn generations(&self, volume: &VolumeId) -> Vec<VolumeKey>;

    /// The number of a clone that is to take the volume's place: one that nothing on storage bears.
    fn fresh_incarnation(&self, record: &VolumeRecord) -> u64 {
        record.incarnation + 1
    }
}

/// What is to be done about a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// There already: the record is the answer.
    AsRecorded,
    /// Answered already: the same answer again.
    AsAnswered,
    Begin(Box<SnapshotIntent>),
    /// Claimed and no more: what is there stays, and nothing is begun.
    Keep,
    /// What is there is not what is asked for: it is deleted, and then the request is looked at again.
    DeleteFirst,
    Refuse(String),
}

/// Decides.
pub fn judge(
    request: &VolumesSnapshotConfig,
    stored: &Stored,
    last_answer: Option<&VolumesSnapshotStatus>,
    volumes: &impl Volumes,
    now: Timestamp,
) -> Verdict {
    let answers = |answer: &&VolumesSnapshotStatus| {
        answer.operation == request.operation && answer.result_of == request.action
    };
    if last_answer.is_some_and(|answer| answers(&answer)) {
        return Verdict::AsAnswered;
    }
    match (stored, request.action) {
        (_, SnapshotAction::Unspecified) => Verdict::Keep,
        (Stored::Whole(record), _) if record.app != request.app => Verdict::Refuse(format!(
            "snapshot {} belongs to application {}, not to {}",
            request.snapshot, record.app, request.app
        )),
        (Stored::Whole(record), _) if record.operation == request.operation => Verdict::AsRecorded,
        (Stored::Whole(record), SnapshotAction::Rollback) => begin_rollback(request, record, volumes, now),
        (Stored::Whole(record), SnapshotAction::Create) if request.made => Verdict::Refuse(format!(
            "snapshot {} was made by operation {}, and is asked for as that of operation {}",
            request.snapshot, record.operation, request.operation
        )),
        (Stored::Whole(_), SnapshotAction::Create) => Verdict::DeleteFirst,
        (Stored::Damaged { app: Some(app), .. }, SnapshotAction::Create)
            if !request.made && *app == request.app =>
        {
            Verdict::DeleteFirst
        }
        (Stored::Damaged { reason, .. }, _) => {
            Verdict::Refuse(format!("snapshot {} is damaged: {reason}", request.snapshot))
        }
        (Stored::Nothing, SnapshotAction::Create) if request.made => {
            Verdict::Refuse(format!("storage has no record of snapshot {}", request.snapshot))
        }
        (Stored::Nothing, SnapshotAction::Create) => begin_create(request, volumes, now),
        (Stored::Nothing, SnapshotAction::Rollback) => {
            Verdict::Refuse(format!("snapshot {} is not known to storage", request.snapshot))
        }
        (_, SnapshotAction::Delete) => Verdict::Refuse(format!(
            "snapshot {}: an action of this kind cannot be asked for",
            request.snapshot
        )),
    }
}

/// The intent that deletes all there is of a snapshot; `unfinished` is an intent that it takes the place of.
pub fn deletion(
    snapshot: SnapshotId,
    stored: &Stored,
    unfinished: Option<&SnapshotIntent>,
    volumes: &impl Volumes,
    now: Timestamp,
) -> SnapshotIntent {
    let mut intent = SnapshotIntent {
        snapshot,
        app: AppId(uuid::Uuid::nil()),
        operation: Default::default(),
        action: SnapshotAction::Delete,
        stage: IntentStage::CleaningUp,
        started_at: now,
        volumes: BTreeMap::new(),
        safety_names: BTreeMap::new(),
        failure: None,
        consent: Consent::default(),
        clones: BTreeMap::new(),
        parameters: BTreeMap::new(),
    };
    match stored {
        Stored::Nothing => {}
        Stored::Whole(record) => {
            (intent.app, intent.operation) = (record.app, record.operation);
            intent.volumes = resolved(record, &[], volumes);
        }
        Stored::Damaged { app, remains, .. } => {
            intent.app = app.unwrap_or(intent.app);
            intent.volumes = remains.clone();
        }
    }
    if let Some(unfinished) = unfinished {
        (intent.app, intent.operation) = (unfinished.app, unfinished.operation);
        intent.volumes.extend(unfinished.volumes.clone());
        intent.safety_names = unfinished.safety_names.clone();
        intent.clones = unfinished.clones.clone();
    }
    intent
}

/// The record's volumes with their generations. Where EVE's record tells none, it is the request's, or else the
/// oldest there is.
pub fn resolved(
    record: &VolumesSnapshotStatus,
    hints: &[VolumeKey],
    volumes: &impl Volumes,
) -> BTreeMap<VolumeId, RecordedMeta> {
    let mut all = BTreeMap::new();
    for (volume, meta) in &record.meta {
        match meta {
            VolumeSnapshotMeta::Recorded(meta) => drop(all.insert(*volume, meta.clone())),
            VolumeSnapshotMeta::Eve(name) => {
                let hinted = hints.iter().find(|key| key.volume == *volume).copied();
                if let Some(key) = hinted.or_else(|| volumes.generations(volume).first().copied()) {
                    let handler = volumes.record(&key).map_or_else(|| "qcow2".into(), |row| row.handler);
                    let (generation, storage_name) = (key.generation, name.clone());
                    all.insert(*volume, RecordedMeta { handler, generation, storage_name, size_bytes: 0 });
                }
            }
        }
    }
    all
}

/// True for a volume that needs no snapshot ([003] B3).
pub fn is_read_only(record: &VolumeRecord) -> bool {
    record.config.read_only || record.format == Format::Iso
}

fn begin_create(request: &VolumesSnapshotConfig, volumes: &impl Volumes, now: Timestamp) -> Verdict {
    let mut intent = intent_of(request, now);
    let name = named(SnapshotName::choose(&request.snapshot, &now), request);
    for key in &request.volumes {
        let record = match made(key, volumes) {
            Ok(record) => record,
            Err(reason) => return Verdict::Refuse(reason),
        };
        let meta = match is_read_only(&record) {
            true => RecordedMeta {
                handler: READ_ONLY.into(),
                generation: key.generation,
                storage_name: String::new(),
                size_bytes: record.size_bytes,
            },
            false => RecordedMeta {
                handler: record.handler,
                generation: key.generation,
                storage_name: name.clone(),
                size_bytes: record.size_bytes,
            },
        };
        if intent.volumes.insert(key.volume, meta).is_some() {
            return Verdict::Refuse(format!("volume {} is named twice", key.volume));
        }
    }
    Verdict::Begin(Box::new(intent))
}

fn begin_rollback(
    request: &VolumesSnapshotConfig,
    record: &VolumesSnapshotStatus,
    volumes: &impl Volumes,
    now: Timestamp,
) -> Verdict {
    let mut intent = intent_of(request, now);
    intent.volumes = match reverted(record, request.revert.as_ref(), &request.volumes, volumes) {
        Ok(reverted) => reverted,
        Err(reason) => return Verdict::Refuse(reason),
    };
    if let Some(revert) = &request.revert {
        intent.parameters = revert.parameters.clone();
    }
    let safety = named(SnapshotName::choose_safety(&request.snapshot, &now), request);
    for (volume, meta) in &intent.volumes {
        let key = VolumeKey { volume: *volume, generation: meta.generation };
        let row = match made(&key, volumes) {
            Ok(row) => row,
            Err(reason) => return Verdict::Refuse(reason),
        };
        if meta.handler == READ_ONLY {
            continue;
        }
        if let Err(reason) = linked(&row, meta) {
            return Verdict::Refuse(format!("snapshot {}: {reason}", request.snapshot));
        }
        if !placement::reverts_in_place(&meta.handler) {
            intent.clones.insert(*volume, replacement(&row, volumes));
        } else if !steps::is_grouped(meta) {
            intent.safety_names.insert(*volume, safety.clone());
        }
    }
    intent.stage = steps::first_stage(&intent);
    Verdict::Begin(Box::new(intent))
}

/// The record's volumes that a rollback is of: all of them, or the one that is named ([004] M).
pub fn reverted(
    record: &VolumesSnapshotStatus,
    revert: Option<&VolumeRevert>,
    hints: &[VolumeKey],
    volumes: &impl Volumes,
) -> Result<BTreeMap<VolumeId, RecordedMeta>, String> {
    let snapshot = record.snapshot;
    let mut reverted = resolved(record, hints, volumes);
    let is_meant = |volume: &VolumeId| revert.is_none_or(|revert| revert.volume == *volume);
    if let Some(lost) = record.meta.keys().find(|volume| is_meant(volume) && !reverted.contains_key(volume)) {
        return Err(format!("volume {lost} of snapshot {snapshot} is missing"));
    }
    reverted.retain(|volume, _| is_meant(volume));
    match revert {
        Some(VolumeRevert { volume, .. }) if reverted.is_empty() => {
            Err(format!("snapshot {snapshot} holds nothing of volume {volume}"))
        }
        Some(VolumeRevert { volume, .. }) if reverted.values().any(|meta| meta.handler == READ_ONLY) => {
            Err(format!("volume {volume} is read-only: there is nothing to revert"))
        }
        _ => Ok(reverted),
    }
}

/// [004] M6: what the record says of the volume is so. A broken link is told, never guessed.
pub fn linked(row: &VolumeRecord, meta: &RecordedMeta) -> Result<(), String> {
    let key = row.config.key;
    if row.handler != meta.handler {
        return Err(format!(
            "volume {key} was cut by the handler {}, and is now {}'s",
            meta.handler, row.handler
        ));
    }
    match SnapshotName::parse(&meta.storage_name) {
        Ok(_) => Ok(()),
        Err(flaw) => Err(format!("volume {key}: {flaw}")),
    }
}

/// [004] M2: the clone that takes the volume's place.
fn replacement(row: &VolumeRecord, volumes: &impl Volumes) -> Replacement {
    let incarnation = volumes.fresh_incarnation(row);
    let fresh = placement::with_incarnation(row.file_location.as_ref(), incarnation);
    Replacement {
        incarnation,
        old_location: row.file_location.clone(),
        fresh_location: fresh.display().to_string(),
    }
}

fn intent_of(request: &VolumesSnapshotConfig, now: Timestamp) -> SnapshotIntent {
    SnapshotIntent {
        snapshot: request.snapshot,
        app: request.app,
        operation: request.operation,
        action: request.action,
        stage: IntentStage::Preparing,
        started_at: now,
        volumes: BTreeMap::new(),
        safety_names: BTreeMap::new(),
        failure: None,
        consent: request.consent.clone(),
        clones: BTreeMap::new(),
        parameters: BTreeMap::new(),
    }
}

/// Chosen once, here: a redo finds what the first try made by it. The number makes it unique for ever.
fn named(name: SnapshotName, request: &VolumesSnapshotConfig) -> String {
    format!("{name}-op{}", request.operation)
}

/// The volume's row, if the volume is made.
pub fn made(key: &VolumeKey, volumes: &impl Volumes) -> Result<VolumeRecord, String> {
    match volumes.record(key) {
        Some(record) if record.stage == VolumeStage::Created => Ok(record),
        Some(_) => Err(format!("volume {key} is not made yet")),
        None => Err(format!("volume {key} is missing")),
    }
}
