//! What must be true once everything is done: status equals orders, and storage equals records.
//!
//! Every function says what is missing, in the order in which it usually comes to be true, cheap looks first.
//! It reads rows and raw storage, and never asks the agents. After faults that may make an operation fail, a failure
//! that is told is an end as good as any ([003] B5, C6, I13, I17), until the controller has reacted to it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_persist::crashsafe;
use holdfast_persist::disk::{Disk, EntryKind};
use holdfast_persist::rows::row_of_spare;
use holdfast_types::{
    AppInstanceState, IntentStage, SnapshotAction, SnapshotId, SnapshotIntent, SnapshotState, SnapshotType,
    VolumeKey, VolumeRecord, VolumesSnapshotStatus,
};
use holdfast_volumehandlers::placement;
use holdfast_volumehandlers::testing::{FakeImage, FakeImageTool, FakeSnapshot};
use uuid::Uuid;

use super::World;
use super::ground::{Ground, locked};
use super::guests::{MEMORY_BASE_KIB, mark_in, marked};
use super::storage::{devices, disk_of_snapshot, identity, is_of_raw_disk, raw_tool};
use super::tap::volume_files;
use crate::ensure;

type Missing = Result<(), String>;

/// `Err` says what is not yet as it must be.
pub fn settled(world: &World) -> Missing {
    let rows: BTreeMap<Uuid, Arc<AppInstanceState>> =
        world.rows::<AppInstanceState>().into_iter().map(|row| (row.app.0, row)).collect();
    let ground = locked(&world.ground);
    let apps = &ground.orders.config.message().apps;
    let wanted: BTreeSet<Uuid> =
        apps.iter().filter_map(|app| app.uuidandversion.as_ref()?.uuid.parse().ok()).collect();
    for app in rows.keys() {
        ensure!(wanted.contains(app), "D4: application {app} is deleted and has a row");
    }
    for app in &wanted {
        let row = rows.get(app).ok_or_else(|| format!("application {app} has no row"))?;
        application(*app, row, &ground)?;
    }
    for (app, machine) in &ground.machines {
        let left = wanted.contains(app) || machine.ended.is_some();
        ensure!(left, "D4: the guest of the deleted application {app} runs");
    }
    let tidied = tidied_later(world, &ground)?;
    storage(world, &ground, &rows, &tidied)?;
    records(world, &rows, &tidied, ground.faults.has_read_error)?;
    rows.values().try_for_each(|row| reported(row, &ground))
}

/// I2, I6, I10, I17 of one application.
fn application(app: Uuid, row: &AppInstanceState, ground: &Ground) -> Missing {
    let Some(wanted) = ground.orders.app(app) else { return Ok(()) };
    ensure!(
        row.operation.is_none(),
        "I17: an operation runs: {:?}",
        row.operation.as_ref().map(|op| (op.kind, op.phase))
    );
    let waits = row.waiting.is_some();
    ensure!(
        !waits || ground.faults.has_impaired,
        "I17: an update waits: {:?}",
        row.waiting.as_ref().map(|waiting| &waiting.error)
    );
    let applied = row.applied.as_ref().ok_or("nothing is applied")?;
    let version = ground.orders.version(app).unwrap_or(0).to_string();
    match &row.superseded_version {
        // [003] B5: the old version runs and the failure is told (`reported`).
        _ if waits => {}
        Some(superseded) if *superseded == version => {
            let restored = ground.past.get(&app).map_or(0, |past| past.restored).to_string();
            ensure!(
                applied.version() == restored,
                "A6: version {} after a rollback to {restored}",
                applied.version()
            );
        }
        _ => ensure!(applied.version() == version, "version {} and not {version}", applied.version()),
    }
    let counter = |command: Option<&holdfast_agents::wire::config::InstanceOpsCmd>| {
        command.map_or(0, |command| command.counter)
    };
    ensure!(waits || applied.restart.counter == counter(wanted.restart.as_ref()), "a restart is due");
    ensure!(waits || applied.purge.counter == counter(wanted.purge.as_ref()), "a purge is due");
    let section = wanted.snapshot.clone().unwrap_or_default();
    let ordered = section.rollback_cmd.as_ref().map_or(0, |order| order.counter);
    ensure!(
        row.rollback_counter == ordered,
        "A4: rollback {ordered} was ordered, {} was acted on",
        row.rollback_counter
    );
    guest(app, row, ground, wanted.activate)?;
    snapshots(app, row, ground)
}

/// I10, I2: what runs is what is applied.
fn guest(app: Uuid, row: &AppInstanceState, ground: &Ground, activate: bool) -> Missing {
    let Some(machine) = ground.running(app) else {
        ensure!(!activate, "I10: the guest of {app} is down");
        return Ok(());
    };
    ensure!(activate, "I10: the guest of {app} runs");
    let applied = row.applied.as_ref().ok_or("nothing is applied")?;
    let version = machine.spec.memory_kib.saturating_sub(MEMORY_BASE_KIB);
    ensure!(
        applied.version() == version.to_string(),
        "I2: version {version} runs, {} is applied",
        applied.version()
    );
    let layout = holdfast_persist::PersistLayout::new("/persist");
    let disks: Vec<PathBuf> = machine.spec.disks.iter().map(|disk| identity(&disk.path)).collect();
    let volumes: Vec<PathBuf> = applied.volume_keys().iter().map(|key| ground.place(&layout, key)).collect();
    ensure!(disks == volumes, "I2: the guest runs on {disks:?}");
    Ok(())
}

/// I17: every request has ended.
fn snapshots(app: Uuid, row: &AppInstanceState, ground: &Ground) -> Missing {
    let listed = ground.orders.listed(app);
    for id in &listed {
        let entry =
            row.snapshots.get(id).ok_or_else(|| format!("I17: snapshot {id} is listed and unknown"))?;
        match &entry.state {
            SnapshotState::Available(instance) => {
                let refused = ground.orders.rollbacks.iter().any(|order| order.snapshot == *id)
                    || ground.locals.aimed_at(*id);
                ensure!(instance.error.is_none() || refused, "I17: snapshot {id}: {:?}", instance.error);
            }
            SnapshotState::Trimmed => {}
            SnapshotState::Deleting { .. } if entry.trimmed => {}
            SnapshotState::Failed(instance) if ground.faults.has_impaired && instance.error.is_some() => {}
            // An older configuration dropped it, and it was named again before its data went: a new request once they have.
            SnapshotState::Deleting { asked: false, .. }
                if ground.reordered.contains(id) && ground.running(app).is_some() => {}
            // The same, and storage could not do it while the guest was down ([003] D2).
            SnapshotState::Deleting { asked: true, error: Some(_), .. }
                if ground.reordered.contains(id)
                    && ground.faults.has_impaired
                    && ground.running(app).is_some() => {}
            // An older configuration dropped it: it is asked for again, and no update has come since.
            SnapshotState::Requested
                if entry.desc.kind == SnapshotType::AppUpdate && ground.reordered.contains(id) => {}
            // Asked for together with a rollback: the version that asked is superseded and no update comes ([003] C5).
            SnapshotState::Requested
                if entry.desc.kind == SnapshotType::AppUpdate && row.superseded_version.is_some() => {}
            state => return Err(format!("I17: snapshot {id} is listed and {state:?}")),
        }
    }
    let is_over = row.last_local.as_ref().is_none_or(|outcome| !outcome.is_running);
    ensure!(is_over, "L8: {:?} is not over", row.last_local);
    for (id, entry) in row.snapshots.iter().filter(|(id, _)| !listed.contains(id)) {
        // Ordered on the node: nobody lists it.
        let is_kept = match &entry.state {
            // Also one whose deletion was cut off before it was taken in.
            SnapshotState::Available(_) => true,
            SnapshotState::Failed(instance) => ground.faults.has_impaired && instance.time_created.is_some(),
            _ => false,
        };
        if entry.local && is_kept {
            continue;
        }
        // [003] D1: the data goes at the next moment the guest is down.
        // One that could not be deleted then is told with its error, and waits as well ([003] D2).
        let waits = match &entry.state {
            SnapshotState::Deleting { asked: false, error: None, .. } => true,
            SnapshotState::Deleting { error: Some(_), .. } => ground.faults.has_impaired,
            _ => false,
        };
        ensure!(waits && ground.running(app).is_some(), "D1: snapshot {id} is dropped and {:?}", entry.state);
    }
    Ok(())
}

/// I5: images and snapshots within them match the rows, and hold what they should.
fn storage(
    world: &World,
    ground: &Ground,
    rows: &BTreeMap<Uuid, Arc<AppInstanceState>>,
    tidied: &Tidied,
) -> Missing {
    let tool = raw_tool(&world.tap.disk);
    let statuses: BTreeMap<SnapshotId, Arc<VolumesSnapshotStatus>> =
        world.rows::<VolumesSnapshotStatus>().into_iter().map(|status| (status.snapshot, status)).collect();
    let mut held: BTreeMap<PathBuf, BTreeMap<String, SnapshotId>> = BTreeMap::new();
    let mut needed: BTreeSet<PathBuf> = BTreeSet::new();
    let mut giving_up: BTreeSet<PathBuf> = BTreeSet::new();
    for row in rows.values() {
        needed.extend(
            row.applied
                .iter()
                .flat_map(|applied| applied.volume_keys())
                .map(|key| ground.place(&world.layout, &key)),
        );
        for (id, entry) in &row.snapshots {
            let is_cut = match &entry.state {
                SnapshotState::Available(_) | SnapshotState::Deleting { .. } => true,
                // Its record could not be read: it is shown as failed until the next start.
                SnapshotState::Failed(instance) => instance.time_created.is_some(),
                _ => false,
            };
            if !is_cut {
                continue;
            }
            let status =
                statuses.get(id).ok_or_else(|| format!("I5: storage has no record of snapshot {id}"))?;
            for (volume, meta) in &status.meta {
                let holdfast_types::VolumeSnapshotMeta::Recorded(meta) = meta else { continue };
                let key = holdfast_types::VolumeKey { volume: *volume, generation: meta.generation };
                let path = ground.place(&world.layout, &key);
                match is_given_up(&entry.state) {
                    true => giving_up.insert(path.clone()),
                    false => needed.insert(path.clone()),
                };
                held.entry(path).or_default().insert(meta.storage_name.clone(), *id);
            }
        }
    }
    for id in statuses.keys() {
        ensure!(
            tidied.snapshots.contains(id) || rows.values().any(|row| row.snapshots.contains_key(id)),
            "I5: storage knows snapshot {id}, nobody else does"
        );
    }
    let listed: BTreeSet<PathBuf> = ground
        .orders
        .config
        .message()
        .volumes
        .iter()
        .filter_map(|volume| {
            let id = holdfast_types::VolumeId(volume.uuid.parse().ok()?);
            Some(ground.place(&world.layout, &holdfast_types::VolumeKey::new(id, volume.generation_count)))
        })
        .collect();
    let directory = world.layout.volumes_dir(true);
    let files = volume_files(&world.tap.disk, &directory).into_iter().chain(devices(&world.tap.disk));
    let (beside, files): (Vec<PathBuf>, Vec<PathBuf>) =
        files.partition(|path| disk_of_snapshot(path).is_some());
    let mut volumes: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
    files.into_iter().for_each(|path| volumes.entry(identity(&path)).or_default().push(path));
    for path in &needed {
        ensure!(volumes.contains_key(path), "I3: {} is needed and gone", path.display());
    }
    let is_unread = ground.faults.has_read_error && rows.values().any(|row| has_unread(row, &statuses));
    for (path, incarnations) in &volumes {
        ensure!(
            is_unread
                || [&tidied.volumes, &needed, &giving_up, &listed].iter().any(|paths| paths.contains(path)),
            "I5: {} is nobody's",
            path.display()
        );
        let place = in_force(world, path, incarnations, is_unread || tidied.volumes.contains(path))?;
        let held = held.get(path).cloned().unwrap_or_default();
        let mut image = tool.image(place).map_err(|error| format!("I1: {}: {error}", place.display()))?;
        image.snapshots.extend(snapshots_beside(&tool, place, &beside)?);
        content(path, &image, ground)?;
        if !is_unread && !tidied.volumes.contains(path) {
            snapshots_within(path, &image, ground, &held)?;
        }
    }
    for file in &beside {
        let disk = disk_of_snapshot(file).map(|(disk, _)| disk).unwrap_or_default();
        let is_known = volumes.get(&identity(&disk)).is_some_and(|places| places.contains(&disk));
        ensure!(is_known || is_unread, "I5: {} is the snapshot of nothing", file.display());
    }
    Ok(())
}

/// I11, I5: a volume is in one place, which its record says; only a raw disk may be elsewhere than it was made ([004] M2, M4).
fn in_force<'a>(
    world: &World,
    path: &Path,
    incarnations: &'a [PathBuf],
    may_be_several: bool,
) -> Result<&'a PathBuf, String> {
    let rows = world.rows::<VolumeRecord>();
    let row = rows.iter().find(|row| identity(row.file_location.as_ref()) == path);
    let place = match row {
        Some(row) => incarnations.iter().find(|place| **place == Path::new(&row.file_location)),
        None => incarnations.first(),
    };
    let told = || row.map(|row| (&row.file_location, row.incarnation));
    let place =
        place.ok_or_else(|| format!("I11: {incarnations:?} are there, the record says {:?}", told()))?;
    ensure!(is_of_raw_disk(path) || place == path, "M4: {} lies at {}", path.display(), place.display());
    ensure!(
        row.is_none_or(|row| row.incarnation == placement::incarnation(place)),
        "I11: {} is told as {:?}",
        place.display(),
        told()
    );
    ensure!(may_be_several || incarnations.len() == 1, "I5: {incarnations:?} are left of one volume");
    Ok(place)
}

/// What lies beside a raw disk as its snapshots.
fn snapshots_beside(
    tool: &FakeImageTool,
    place: &Path,
    beside: &[PathBuf],
) -> Result<Vec<FakeSnapshot>, String> {
    let mut found = Vec::new();
    for (file, (_, name)) in beside.iter().filter_map(|file| Some((file, disk_of_snapshot(file)?))) {
        if disk_of_snapshot(file).is_some_and(|(disk, _)| disk == place) {
            let image = tool.image(file).map_err(|error| format!("I4: {}: {error}", file.display()))?;
            let (created_at, size_bytes) = (Default::default(), image.virtual_size_bytes);
            found.push(FakeSnapshot { id: name.clone(), name, created_at, size_bytes, blocks: image.blocks });
        }
    }
    Ok(found)
}

/// Storage was told to delete it: a volume that held nothing else goes with it, and may be gone while the others are still
/// being seen to, or are seen to again after a restart (I12 is looked at when a volume goes).
fn is_given_up(state: &SnapshotState) -> bool {
    matches!(state, SnapshotState::Deleting { asked: true, .. })
}

/// A snapshot whose record could not be read is shown as failed, unless it is to be deleted in the next downtime anyway, and what
/// it holds is not known before the next start: until then all is kept.
fn has_unread(row: &AppInstanceState, statuses: &BTreeMap<SnapshotId, Arc<VolumesSnapshotStatus>>) -> bool {
    let is_told_damaged = |status: &Arc<VolumesSnapshotStatus>| {
        let is_of_making = matches!(status.result_of, SnapshotAction::Unspecified | SnapshotAction::Create);
        is_of_making && status.error.is_some()
    };
    row.snapshots.iter().any(|(id, entry)| match &entry.state {
        SnapshotState::Failed(instance) => instance.time_created.is_some(),
        SnapshotState::Deleting { .. } => statuses.get(id).is_some_and(is_told_damaged),
        _ => false,
    })
}

/// What is still being tidied when everything else is done.
#[derive(Default)]
struct Tidied {
    volumes: BTreeSet<PathBuf>,
    /// Those that are being deleted; of some nobody else knows any more.
    snapshots: BTreeSet<SnapshotId>,
}

/// What tidying goes on with behind its answer: it could not be done in some tries, and now the guest is up again and keeps its
/// images locked ([003] D1). Any other intent is open.
fn tidied_later(world: &World, ground: &Ground) -> Result<Tidied, String> {
    let mut tidied = Tidied::default();
    for intent in world.rows::<SnapshotIntent>() {
        let keys = intent.volumes.iter().map(|(volume, meta)| VolumeKey::new(*volume, meta.generation.0));
        let volumes: BTreeSet<PathBuf> = keys.map(|key| ground.place(&world.layout, &key)).collect();
        let is_excused = match intent.action {
            SnapshotAction::Delete => waits_for_downtime(world, ground, intent.snapshot, &volumes),
            _ => intent.stage >= IntentStage::Undoing && ground.running(intent.app.0).is_some(),
        };
        ensure!(
            is_excused && ground.faults.has_impaired,
            "an intent is open: {:?} {:?}",
            intent.action,
            intent.stage
        );
        if intent.action == SnapshotAction::Delete {
            tidied.snapshots.insert(intent.snapshot);
        }
        tidied.volumes.extend(volumes);
    }
    Ok(tidied)
}

/// A deletion that failed while the guest was down waits until it is down next, for nothing but the guest: the last try met its lock.
fn waits_for_downtime(
    world: &World,
    ground: &Ground,
    snapshot: SnapshotId,
    volumes: &BTreeSet<PathBuf>,
) -> bool {
    let mut guests = ground.machines.values().filter(|machine| machine.ended.is_none());
    let is_in_use =
        guests.any(|machine| machine.spec.disks.iter().any(|disk| volumes.contains(&identity(&disk.path))));
    let met_lock = |status: &VolumesSnapshotStatus| {
        let error = status.error.as_ref().filter(|_| status.result_of == SnapshotAction::Delete);
        error.is_some_and(|error| error.summary.contains("is in use by"))
    };
    let statuses = world.rows::<VolumesSnapshotStatus>();
    is_in_use && statuses.iter().any(|status| status.snapshot == snapshot && met_lock(status))
}

/// The snapshots whose deletion waits for a guest to be down.
pub fn deletions_left(world: &World) -> BTreeSet<SnapshotId> {
    let intents = world.rows::<SnapshotIntent>();
    let deletions = intents.iter().filter(|intent| intent.action == SnapshotAction::Delete);
    deletions.map(|intent| intent.snapshot).collect()
}

/// I1 of one image.
fn content(path: &Path, image: &FakeImage, ground: &Ground) -> Missing {
    let mark = ground.mark_of(path);
    ensure!(
        image.blocks == marked(mark),
        "I1: {} holds {:?}, and {mark} was left there",
        path.display(),
        mark_in(&image.blocks)
    );
    Ok(())
}

/// I4, I5, J4 of one image.
fn snapshots_within(
    path: &Path,
    image: &FakeImage,
    ground: &Ground,
    held: &BTreeMap<String, SnapshotId>,
) -> Missing {
    ensure!((image.leaks, image.corruptions) == (0, 0), "J4: {} leaks {}", path.display(), image.leaks);
    let theirs = ground.strangers.on(path);
    let names: Vec<&str> = image.snapshots.iter().map(|snapshot| snapshot.name.as_str()).collect();
    // I7: theirs are there as well.
    let wanted: BTreeSet<&str> = held.keys().chain(&theirs).map(String::as_str).collect();
    ensure!(
        names.len() == wanted.len() && names.iter().all(|name| wanted.contains(name)),
        "I5: {} has the snapshots {names:?}, records say {wanted:?}",
        path.display()
    );
    for snapshot in image.snapshots.iter().filter(|snapshot| !theirs.contains(&snapshot.name)) {
        let cut = ground.cuts.get(&held[&snapshot.name]);
        let wanted = cut.and_then(|cut| cut.marks.get(path)).copied();
        ensure!(
            wanted.is_none_or(|mark| snapshot.blocks == marked(mark)),
            "I4: snapshot {} in {} holds {:?} and not {wanted:?}",
            snapshot.name,
            path.display(),
            mark_in(&snapshot.blocks)
        );
    }
    Ok(())
}

/// I5: no directory, record, row or temporary is left that belongs to nothing.
fn records(
    world: &World,
    rows: &BTreeMap<Uuid, Arc<AppInstanceState>>,
    tidied: &Tidied,
    is_unread: bool,
) -> Missing {
    let disk = &world.tap.disk;
    let known: BTreeMap<String, &SnapshotState> = rows
        .values()
        .flat_map(|row| &row.snapshots)
        .map(|(id, entry)| (id.to_string(), &entry.state))
        .collect();
    for entry in disk.list(&world.layout.snapshots_dir()).map_err(|error| error.to_string())? {
        let name = entry.name.to_string_lossy().into_owned();
        // A start that could not list the directories looks again at the next one.
        ensure!(
            is_unread
                || tidied.snapshots.iter().any(|id| id.to_string() == name)
                || known.get(&name).is_some_and(|state| {
                    !matches!(state, SnapshotState::Trimmed | SnapshotState::Requested)
                }),
            "I5: the directory of snapshot {name} is left, {:?}",
            known.get(&name)
        );
    }
    for (id, _) in known.iter().filter(|(_, state)| matches!(state, SnapshotState::Available(_))) {
        let layout = &world.layout;
        for file in [
            layout.app_config_file(id),
            layout.volumes_snapshot_status_file(id),
            layout.snapshot_instance_status_file(id),
        ] {
            let found = disk.metadata(&file).map_err(|error| error.to_string())?;
            ensure!(found.is_some(), "G4: {} is missing", file.display());
        }
    }
    for entry in disk.list(&world.layout.domains_dir()).map_err(|error| error.to_string())? {
        let name = entry.name.to_string_lossy().into_owned();
        ensure!(rows.keys().any(|app| app.to_string() == name), "D4: the directory of domain {name} is left");
    }
    let quarantined = disk.list(&world.layout.quarantine_dir()).map_err(|error| error.to_string())?;
    ensure!(
        quarantined.is_empty(),
        "G9: something is in quarantine: {:?}",
        quarantined.iter().map(|entry| &entry.name).collect::<Vec<_>>()
    );
    temporaries(world, world.layout.root())
}

/// A row's spare is none.
fn temporaries(world: &World, directory: &Path) -> Missing {
    let disk = &world.tap.disk;
    for entry in disk.list(directory).map_err(|error| error.to_string())? {
        let path = directory.join(&entry.name);
        let row = row_of_spare(&world.layout, &path);
        let is_spare = row.is_some_and(|row| disk.metadata(&row).is_ok_and(|found| found.is_some()));
        ensure!(
            is_spare || !crashsafe::is_temporary(&entry.name),
            "I5: the temporary {} is left",
            path.display()
        );
        if entry.kind == EntryKind::Directory {
            temporaries(world, &path)?;
        }
    }
    Ok(())
}

/// A6: the controller was told what is.
fn reported(row: &AppInstanceState, ground: &Ground) -> Missing {
    let app = row.app.0;
    let report = ground.orders.reports.get(&app.to_string()).ok_or("nothing was reported")?;
    let version = row.applied.as_ref().map_or("", |applied| applied.version());
    ensure!(
        report.app_version == version,
        "A6: version {} is reported, {version} is in force",
        report.app_version
    );
    let state = if ground.running(app).is_some() { 7 } else { 9 };
    ensure!(report.state == state, "A6: state {} is reported, and it is {state}", report.state);
    // With an error or without: an available one may have one of a rollback, a failed one has its own.
    let errors = |id: &String| {
        report.snapshots.iter().find(|snapshot| snapshot.id == *id).map(|s| s.snap_err.is_some())
    };
    let reported: BTreeSet<String> = report.snapshots.iter().map(|snapshot| snapshot.id.clone()).collect();
    let mut due = BTreeMap::new();
    for (id, entry) in &row.snapshots {
        match &entry.state {
            SnapshotState::Available(instance) => due.insert(id.to_string(), instance.error.is_some()),
            SnapshotState::Failed(_) | SnapshotState::Deleting { error: Some(_), .. } => {
                due.insert(id.to_string(), true)
            }
            _ => None,
        };
    }
    ensure!(
        reported.iter().eq(due.keys()),
        "A6: snapshots {reported:?} are reported, available or failed are {due:?}"
    );
    for (id, has_error) in &due {
        ensure!(errors(id) == Some(*has_error), "A6: snapshot {id}: error {has_error} is reported otherwise");
    }
    ensure!(
        row.waiting.is_none() || !report.app_err.is_empty(),
        "I13: an update waits and the report does not say why"
    );
    Ok(())
}
