//! What zedmanager is told of a snapshot: statuses made from what is stored and what an intent came to. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_types::{
    AppId, EntityKind, ErrorReport, OperationNumber, RecordedMeta, SnapshotAction, SnapshotId,
    SnapshotIntent, Timestamp, VolumeId, VolumeSnapshotMeta, VolumesSnapshotStatus,
};
use holdfast_volumehandlers::SnapshotMeta;

use super::request::Stored;

/// The status a snapshot has without any request.
pub(super) fn status_of(
    snapshot: SnapshotId,
    stored: &Stored,
    now: Timestamp,
) -> Option<Arc<VolumesSnapshotStatus>> {
    match stored {
        Stored::Nothing => None,
        Stored::Whole(record) => Some(Arc::clone(record)),
        Stored::Damaged { reason, app, .. } => {
            let app = app.unwrap_or(AppId(uuid::Uuid::nil()));
            let error = ErrorReport::new(format!("snapshot {snapshot} is damaged: {reason}"), now)
                .about(EntityKind::AppInstance, app);
            Some(Arc::new(VolumesSnapshotStatus { error: Some(error), ..blank(snapshot, app, stored) }))
        }
    }
}

/// What is stored, without a result.
pub(super) fn blank(snapshot: SnapshotId, app: AppId, stored: &Stored) -> VolumesSnapshotStatus {
    let (meta, time_created, ref_count, operation) = match stored {
        Stored::Whole(record) if record.app == app => {
            (record.meta.clone(), record.time_created, record.ref_count, record.operation)
        }
        _ => (BTreeMap::new(), None, 0, OperationNumber::default()),
    };
    VolumesSnapshotStatus {
        snapshot,
        meta,
        time_created,
        app,
        ref_count,
        result_of: SnapshotAction::Unspecified,
        operation,
        error: None,
    }
}

/// The record of a snapshot whose volumes are all cut.
pub(super) fn cut_status(
    intent: &SnapshotIntent,
    cut: &BTreeMap<VolumeId, SnapshotMeta>,
    now: Timestamp,
) -> VolumesSnapshotStatus {
    let recorded = |(volume, meta): (&VolumeId, &RecordedMeta)| {
        let size_bytes = cut.get(volume).map_or(meta.size_bytes, |cut| cut.size_bytes);
        (*volume, VolumeSnapshotMeta::Recorded(RecordedMeta { size_bytes, ..meta.clone() }))
    };
    VolumesSnapshotStatus {
        snapshot: intent.snapshot,
        meta: intent.volumes.iter().map(recorded).collect(),
        time_created: Some(cut.values().map(|cut| cut.created_at).max().unwrap_or(now)),
        app: intent.app,
        ref_count: 0,
        result_of: SnapshotAction::Create,
        operation: intent.operation,
        error: None,
    }
}

/// The failure of one volume as the failure of the whole.
pub(super) fn about_whole(intent: &SnapshotIntent, failure: ErrorReport) -> ErrorReport {
    let what = match intent.action {
        SnapshotAction::Rollback => "rollback to",
        _ => "creation of",
    };
    let retry_condition = if failure.retry_condition.is_empty() {
        "can be asked for again when the cause is removed"
    } else {
        "can be asked for again"
    };
    ErrorReport {
        summary: format!("{what} snapshot {} failed: {}", intent.snapshot, failure.summary),
        retry_condition: retry_condition.into(),
        ..failure
    }
    .about(EntityKind::AppInstance, intent.app)
}
