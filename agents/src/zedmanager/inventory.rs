//! What lies under `snapshots/` when the node starts, and how it is put beside the rows.
//!
//! [`scan`] runs as a job; it reads, and sweeps what a cut left. The rest is pure. A record that cannot be read makes a failed snapshot
//! with the reason, which can be deleted ([003] H3); it harms no other application ([003] G9). A snapshot whose
//! row is lost is taken in again from its own records.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use holdfast_persist::disk::{Disk, EntryKind};
use holdfast_persist::layout::PersistLayout;
use holdfast_persist::{RecordError, crashsafe, record};
use holdfast_pubsub::DamagedRow;
use holdfast_types::*;

use crate::runtime::{Backend, Job, JobId};

/// The job: one per start, and again while the disk fails.
#[derive(Debug, Clone, Copy)]
pub struct ScanSnapshots;

impl Job for ScanSnapshots {
    fn id(&self) -> JobId {
        JobId("scan snapshots".to_owned())
    }

    fn object(&self) -> String {
        "snapshots".to_owned()
    }

    fn backend(&self) -> Backend {
        Backend::Storage
    }

    fn deadline(&self) -> Option<Duration> {
        None
    }
}

/// One directory whose name is an id.
#[derive(Debug)]
pub struct ScannedSnapshot {
    pub id: SnapshotId,
    pub config: Result<AppInstanceConfig, String>,
    pub instance: Result<SnapshotInstanceStatus, String>,
    /// There is an instance record, whole or not: the snapshot was cut.
    pub is_cut: bool,
    /// Whose it is, from whatever of its three files still tells it.
    pub app: Option<AppId>,
}

#[derive(Debug, Default)]
pub struct Scan {
    pub snapshots: Vec<ScannedSnapshot>,
    /// Names that are no ids, and why they are left alone.
    pub unreadable: Vec<(String, String)>,
    /// What the disk did not give, or did not let go of: another scan may see more.
    pub failures: Vec<String>,
}

/// Reads both of zedmanager's records of every snapshot, and removes what a cut left of replacing them. Nothing is written
/// to them before this has ended. An error says that it is not even known which snapshots there are.
pub fn scan(disk: &dyn Disk, layout: &PersistLayout) -> io::Result<Scan> {
    let mut scan = Scan::default();
    for entry in disk.list(&layout.snapshots_dir())? {
        let name = entry.name.to_string_lossy().into_owned();
        match name.parse::<SnapshotId>() {
            Ok(id) if entry.kind == EntryKind::Directory => {
                let found = scan_one(disk, layout, id, &mut scan.failures);
                scan.snapshots.push(found);
            }
            Ok(_) => scan.unreadable.push((name, "not a directory".to_owned())),
            Err(error) => scan.unreadable.push((name, error.to_string())),
        }
    }
    Ok(scan)
}

fn scan_one(
    disk: &dyn Disk,
    layout: &PersistLayout,
    id: SnapshotId,
    failures: &mut Vec<String>,
) -> ScannedSnapshot {
    let records = [layout.app_config_file(&id), layout.snapshot_instance_status_file(&id)];
    let swept = records.iter().filter_map(|record| crashsafe::sweep_temporary_of(disk, record).err());
    failures.extend(swept.map(|error| error_chain(&error)));
    let config = record::load::<AppInstanceConfig>(disk, &layout.app_config_file(&id));
    let instance = record::load::<SnapshotInstanceStatus>(disk, &layout.snapshot_instance_status_file(&id));
    let unread = [config.as_ref().err(), instance.as_ref().err()].into_iter().flatten();
    let unread = unread.filter(|error| matches!(error, RecordError::Io { .. }));
    failures.extend(unread.map(|error| error_chain(error)));
    let recorded = || record::load::<VolumesSnapshotStatus>(disk, &layout.volumes_snapshot_status_file(&id));
    // A record of another snapshot says nothing about this one.
    let app = instance.as_ref().ok().filter(|found| found.snapshot.id == id).map(|found| found.app);
    let app = app.or_else(|| recorded().ok().filter(|found| found.snapshot == id).map(|found| found.app));
    ScannedSnapshot {
        id,
        is_cut: !matches!(instance, Err(RecordError::NotFound { .. })),
        app: app.or_else(|| config.as_ref().ok().map(AppInstanceConfig::app)),
        config: config.map_err(|error| error_chain(&error)),
        instance: instance.map_err(|error| error_chain(&error)),
    }
}

/// Rows that are in quarantine, by application, and what to say of them. The application is installed as the controller
/// wants it now, its snapshots are taken in from their own records, and its rollback counter counts as acted on.
pub fn lost_rows(damaged: &[DamagedRow], now: Timestamp) -> BTreeMap<AppId, ErrorReport> {
    let lost = damaged.iter().filter_map(|row| {
        let app: AppId = row.key.parse().ok()?;
        tracing::error!(%app, reason = row.reason, "the row of an application was damaged");
        let text = format!("application {app}: its row was damaged and is in quarantine: {}", row.reason);
        let error = ErrorReport::new(format!("{text}; an update or rollback that ran is forgotten"), now);
        Some((app, error.severity(Severity::Warning).about(EntityKind::AppInstance, app)))
    });
    lost.collect()
}

/// Damage is judged afresh at each start: a record that was brought back makes its snapshot whole again.
pub fn presume_whole(state: &mut AppInstanceState) {
    for entry in state.snapshots.values_mut() {
        if let SnapshotState::Failed(instance) = &entry.state
            && instance.time_created.is_some()
        {
            let instance = SnapshotInstanceStatus { error: None, ..instance.clone() };
            entry.state = SnapshotState::Available(instance);
        }
    }
}

/// A snapshot the row knows: its records must be there, be its own, and agree.
pub fn compare(state: &mut AppInstanceState, scanned: &ScannedSnapshot, now: Timestamp) {
    let app = state.app;
    let Some(entry) = state.snapshots.get_mut(&scanned.id) else { return };
    let SnapshotState::Available(instance) = &entry.state else { return };
    let problem = problem(scanned, app, instance);
    if let Some(why) = problem {
        entry.state = SnapshotState::Failed(damaged(instance.clone(), why, now));
    }
}

fn problem(scanned: &ScannedSnapshot, app: AppId, known: &SnapshotInstanceStatus) -> Option<String> {
    let config = match &scanned.config {
        Ok(config) => config,
        Err(error) => return Some(error.clone()),
    };
    let stored = match &scanned.instance {
        Ok(stored) => stored,
        Err(error) => return Some(error.clone()),
    };
    if config.app() != app || stored.app != app {
        return Some("its records are of another application".to_owned());
    }
    if stored.snapshot.id != known.snapshot.id || stored.operation != known.operation {
        return Some("its records are of another snapshot".to_owned());
    }
    if config.id_and_version != stored.config_version {
        return Some(format!(
            "its configuration is of version {} and not {}",
            config.version(),
            stored.config_version.version
        ));
    }
    None
}

fn damaged(mut instance: SnapshotInstanceStatus, why: String, now: Timestamp) -> SnapshotInstanceStatus {
    // A snapshot that was never cut has no time; one that is damaged was cut, and keeps some.
    instance.time_created = instance.time_created.or(Some(now));
    instance.error = Some(
        ErrorReport::new(format!("snapshot {} is damaged: {why}", instance.snapshot.id), now)
            .about(EntityKind::AppInstance, instance.app)
            .retry("deleting it and asking for a new one"),
    );
    instance
}

/// A snapshot no row knows: whole enough to be taken in again by its own application? None for the remains of one
/// that was never finished; they are removed.
pub fn orphan(scanned: &ScannedSnapshot, now: Timestamp) -> Option<SnapshotInstanceStatus> {
    let instance = match &scanned.instance {
        Ok(instance) if instance.snapshot.id == scanned.id => instance,
        // It was cut, and its descriptor can no longer be read: kept until somebody deletes it ([003] H3).
        Ok(_) => return unreadable(scanned, "its records are of another snapshot", now),
        Err(why) => return unreadable(scanned, why, now),
    };
    let problem = problem(scanned, instance.app, instance);
    Some(match problem {
        Some(why) => damaged(instance.clone(), why, now),
        None => instance.clone(),
    })
}

/// What is left of a descriptor that cannot be read: whose it is, if anything tells it.
fn unreadable(scanned: &ScannedSnapshot, why: &str, now: Timestamp) -> Option<SnapshotInstanceStatus> {
    let app = scanned.app.filter(|_| scanned.is_cut)?;
    let version = scanned.config.as_ref().map(|config| config.id_and_version.clone());
    let instance = SnapshotInstanceStatus {
        snapshot: SnapshotDesc { id: scanned.id, kind: SnapshotType::Immediate },
        reported: false,
        time_triggered: None,
        time_created: None,
        app,
        config_version: version.unwrap_or(UuidAndVersion { id: app, version: String::new() }),
        error: None,
        operation: OperationNumber(0),
        local: false,
    };
    Some(damaged(instance, why.to_owned(), now))
}

/// Takes a snapshot without a row into its application's row.
pub fn adopt(state: &mut AppInstanceState, instance: SnapshotInstanceStatus) {
    state.last_sequence += 1;
    state.last_operation = state.last_operation.max(instance.operation);
    let entry = SnapshotEntry {
        desc: instance.snapshot,
        sequence: state.last_sequence,
        trimmed: false,
        local: instance.local,
        state: match instance.error {
            Some(_) => SnapshotState::Failed(instance.clone()),
            None => SnapshotState::Available(instance.clone()),
        },
    };
    state.snapshots.insert(instance.snapshot.id, entry);
}

/// Snapshots the row calls available whose directory is gone.
pub fn mark_incomplete(
    state: &mut AppInstanceState,
    saved: &BTreeMap<SnapshotId, Arc<AppInstanceConfig>>,
    directories: &BTreeSet<SnapshotId>,
    now: Timestamp,
) {
    for (id, entry) in &mut state.snapshots {
        if let SnapshotState::Available(instance) = &entry.state
            && !(directories.contains(id) && saved.contains_key(id))
        {
            let instance = damaged(instance.clone(), "its records are missing".to_owned(), now);
            entry.state = SnapshotState::Failed(instance);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zedmanager::testing::*;

    fn whole(n: u8) -> ScannedSnapshot {
        let (config, instance) = (config("1"), instance(n));
        let app = Some(instance.app);
        ScannedSnapshot { id: snapshot_id(n), config: Ok(config), instance: Ok(instance), is_cut: true, app }
    }

    /// [003] H3: each kind of damage makes that snapshot, and no other, a failed one with its reason.
    #[test]
    fn damage_is_named_on_the_snapshot() {
        type Edit = fn(&mut ScannedSnapshot);
        let table: &[(Edit, Option<&str>)] = &[
            (|_| {}, None),
            (|s| s.config = Err("appInstanceConfig.json is empty".into()), Some("is empty")),
            (|s| s.instance = Err("snapshotInstanceStatus.json: missing X".into()), Some("missing X")),
            (|s| s.config.as_mut().unwrap().id_and_version.version = "9".into(), Some("version 9")),
            (|s| s.instance.as_mut().unwrap().operation = OperationNumber(99), Some("another snapshot")),
            (
                |s| s.instance.as_mut().unwrap().app = AppId(uuid::Uuid::from_u128(1)),
                Some("another application"),
            ),
        ];
        for (edit, expected) in table {
            let mut state = state_with("a1 a2");
            let mut scanned = whole(1);
            edit(&mut scanned);
            compare(&mut state, &scanned, time(1));
            compare(&mut state, &whole(2), time(1));
            assert!(matches!(state.snapshots[&snapshot_id(2)].state, SnapshotState::Available(_)));
            match (&state.snapshots[&snapshot_id(1)].state, expected) {
                (SnapshotState::Available(_), None) => {}
                (SnapshotState::Failed(instance), Some(text)) => {
                    let error = instance.error.as_ref().expect("says why");
                    assert!(error.summary.contains(text), "{error}");
                }
                (state, expected) => panic!("{state:?} where {expected:?} was expected"),
            }
        }
    }

    #[test]
    fn a_snapshot_without_a_row_is_taken_in_again_and_remains_are_not() {
        let mut state = empty_state();
        adopt(&mut state, orphan(&whole(1), time(1)).expect("whole"));
        assert!(matches!(state.snapshots[&snapshot_id(1)].state, SnapshotState::Available(_)));
        let mut unfinished = whole(2);
        (unfinished.instance, unfinished.is_cut) = (Err("no such file".into()), false);
        assert!(orphan(&unfinished, time(1)).is_none());
        let mut swapped = whole(3);
        swapped.id = snapshot_id(4);
        let mut unreadable = whole(4);
        unreadable.instance = Err("it is empty".into());
        for scanned in [&swapped, &unreadable] {
            let mut state = empty_state();
            adopt(&mut state, orphan(scanned, time(1)).expect("it was cut"));
            assert!(
                matches!(state.snapshots[&snapshot_id(4)].state, SnapshotState::Failed(_)),
                "{scanned:?}"
            );
        }
        unreadable.app = None;
        assert!(orphan(&unreadable, time(1)).is_none(), "nobody's");
    }

    #[test]
    fn an_available_snapshot_without_records_is_a_failed_one() {
        let mut state = state_with("a1");
        mark_incomplete(&mut state, &BTreeMap::new(), &BTreeSet::new(), time(1));
        assert!(matches!(state.snapshots[&snapshot_id(1)].state, SnapshotState::Failed(_)));
    }
}
