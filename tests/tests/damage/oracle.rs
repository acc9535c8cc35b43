//! What a node on a damaged disk must come to, whatever the damage.
//!
//! ```text
//!   before the damage ─▶ Before ──────────────┐
//!   boot, let time pass ─▶ World ─────────────┴─▶ up, neighbour untouched, nothing lost, nothing foreign touched, told
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_agents::wire::info::ZInfoApp;
use holdfast_persist::seal::{self, Seal};
use holdfast_persist::{Disk, MemDisk, crashsafe};
use holdfast_tests::ensure;
use holdfast_tests::world::ground::{Ground, Past, locked};
use holdfast_tests::world::guests::{MEMORY_BASE_KIB, mark_in};
use holdfast_tests::world::tap::{CutPoint, volume_files};
use holdfast_tests::world::workload::{APP, BYSTANDER};
use holdfast_tests::world::{Violation, World};
use holdfast_types::{AppInstanceState, SnapshotId, SnapshotState};
use holdfast_volumehandlers::testing::{Blocks, FakeSnapshot};
use uuid::Uuid;

use crate::fixture::{FOREIGN, boot, layout, owner_of, tool};

/// So many timers fire before the node is judged: more than the retries of anything that may succeed.
const TIMERS: usize = 12;

/// What there was before the damage, by what must be kept of it.
#[derive(Debug)]
pub struct Before {
    pub rows: BTreeMap<Uuid, Arc<AppInstanceState>>,
    /// The snapshots in each image, by name, with their content.
    images: BTreeMap<PathBuf, BTreeMap<String, Blocks>>,
}

/// Remembers what the undamaged node comes to from this moment, and what is stored before it does.
pub fn before(point: &CutPoint) -> Before {
    let mut world = boot(point, &point.disk).expect("undamaged");
    pass_time(&mut world, &BTreeSet::new()).expect("undamaged");
    Before { rows: rows(&world), images: images(&point.disk) }
}

fn rows(world: &World) -> BTreeMap<Uuid, Arc<AppInstanceState>> {
    world.rows::<AppInstanceState>().into_iter().map(|row| (row.app.0, row)).collect()
}

fn images(disk: &MemDisk) -> BTreeMap<PathBuf, BTreeMap<String, Blocks>> {
    let tool = tool(disk);
    let files = volume_files(disk, &layout().volumes_dir(true)).into_iter();
    let images = files.filter_map(|path| Some((path.clone(), tool.image(&path).ok()?)));
    let named = |snapshot: FakeSnapshot| (snapshot.name, snapshot.blocks);
    images.map(|(path, image)| (path, image.snapshots.into_iter().map(named).collect())).collect()
}

/// Everything that can happen soon happens. That the snapshots of `ended` are given up is no violation.
pub fn pass_time(world: &mut World, ended: &BTreeSet<SnapshotId>) -> Result<(), Violation> {
    run(world, ended)?;
    for _ in 0..TIMERS {
        if !world.pass_time() {
            break;
        }
        run(world, ended)?;
    }
    Ok(())
}

fn run(world: &mut World, ended: &BTreeSet<SnapshotId>) -> Result<(), Violation> {
    // Each of them is given up at most once, and may be called available again.
    for _ in 0..=2 * ended.len() {
        let Err(violation) = world.run() else { return Ok(()) };
        let about = |invariant: &str| {
            ended.iter().any(|id| violation.what.starts_with(&format!("{invariant}: snapshot {id} ")))
        };
        if !(about("I3") || about("I14")) {
            return Err(violation);
        }
        locked(&world.ground).violations.clear();
    }
    world.run()
}

/// Boots on the damaged disk, where `ended` are the snapshots that the damage may have ended.
pub fn recover(
    point: &CutPoint,
    disk: &MemDisk,
    ended: &BTreeSet<SnapshotId>,
    is_alone: bool,
) -> Result<World, String> {
    let mut point = point.clone();
    point.ground.orders.is_away = is_alone;
    point.ground.orders.reports.clear();
    forget_rollbacks_that_are_lost(&mut point.ground, disk);
    let mut world = boot(&point, disk).map_err(|violation| violation.what)?;
    pass_time(&mut world, ended).map_err(|violation| violation.what)?;
    Ok(world)
}

/// A rollback whose row is damaged before any volume was touched is forgotten; once storage has begun, it is finished.
fn forget_rollbacks_that_are_lost(ground: &mut Ground, disk: &MemDisk) {
    let tool = tool(disk);
    let layout = layout();
    for (app, past) in &mut ground.past {
        let row = layout.row_file("zedmanager", "AppInstanceState", app);
        let is_whole = disk.read(&row).is_ok_and(|bytes| seal::check(&bytes) == Seal::Right);
        let mut intents = disk.list(&layout.topic_dir("volumemgr", "SnapshotIntent")).unwrap_or_default();
        intents.retain(|entry| !crashsafe::is_temporary(&entry.name));
        let is_reverted = ground.cuts.values().filter(|cut| cut.app == *app).any(|cut| {
            let holds =
                |path: &Path, mark| tool.content(path).is_ok_and(|blocks| mark_in(&blocks) == Some(mark));
            cut.marks.iter().all(|(path, mark)| holds(path, *mark))
        });
        if !is_whole && intents.is_empty() && !is_reverted {
            let mut forgotten = Past::default();
            (forgotten.version, forgotten.acted_counter) = (past.version, past.acted_counter);
            (forgotten.starts, forgotten.restored) = (past.starts, past.restored);
            *past = forgotten;
        }
    }
}

/// I15, G9: an application that has nothing to do with the damage is as it would be without.
pub fn untouched(world: &World, before: &Before, app: Uuid) -> Result<(), String> {
    let rows = rows(world);
    let row = rows.get(&app);
    let Some(wanted) = before.rows.get(&app) else {
        ensure!(row.is_none(), "D4: {app} is deleted, and has the row {row:?}");
        return Ok(());
    };
    ensure!(row == Some(wanted), "I15: the row of {app} is {row:?}, and was to be {wanted:?}");
    runs(world, app)?;
    let available: BTreeSet<String> = available(wanted).map(|id| id.to_string()).collect();
    if locked(&world.ground).orders.is_away {
        return Ok(());
    }
    let report = report(world, app)?;
    ensure!(report.app_err.is_empty(), "I15: {app} is reported with {:?}", report.app_err);
    let whole = report.snapshots.iter().filter(|snapshot| snapshot.snap_err.is_none());
    let whole: BTreeSet<String> = whole.map(|snapshot| snapshot.id.clone()).collect();
    ensure!(whole == available, "I15: {app} has the snapshots {available:?}, and {whole:?} are reported");
    Ok(())
}

/// Its guest runs, in the version that is in force.
pub fn runs(world: &World, app: Uuid) -> Result<(), String> {
    let rows = rows(world);
    let row = rows.get(&app).ok_or_else(|| format!("{app} has no row"))?;
    let applied = row.applied.as_ref().ok_or_else(|| format!("{app}: nothing is in force"))?;
    let ground = locked(&world.ground);
    let machine = ground.running(app).ok_or_else(|| format!("I10: the guest of {app} is down; {row:?}"))?;
    let version = machine.spec.memory_kib.saturating_sub(MEMORY_BASE_KIB);
    ensure!(
        applied.version() == version.to_string(),
        "I2: {version} runs, {} is in force",
        applied.version()
    );
    Ok(())
}

pub fn available(row: &AppInstanceState) -> impl Iterator<Item = SnapshotId> + '_ {
    let is_available = |state: &SnapshotState| matches!(state, SnapshotState::Available(_));
    row.snapshots.iter().filter(move |(_, entry)| is_available(&entry.state)).map(|(id, _)| *id)
}

pub fn report(world: &World, app: Uuid) -> Result<ZInfoApp, String> {
    let report = locked(&world.ground).orders.reports.get(&app.to_string()).cloned();
    report.map(|report| (*report).clone()).ok_or_else(|| format!("{app} is not reported"))
}

/// I3, I7: no volume and no snapshot in one is gone, and what the snapshots hold is what they held.
pub fn nothing_lost(world: &World, before: &Before) -> Result<(), String> {
    let now = images(&world.tap.disk);
    for (path, snapshots) in &before.images {
        let found = now.get(path).ok_or_else(|| format!("I7: {} is gone", path.display()))?;
        for (name, blocks) in snapshots {
            let kept = found.get(name);
            ensure!(kept.is_some(), "I7: {} no longer has {name}", path.display());
            ensure!(kept == Some(blocks), "I4: {name} in {} holds something else", path.display());
        }
    }
    Ok(())
}

/// The foreign files are there, byte for byte.
pub fn foreign_untouched(world: &World, files: &[PathBuf]) -> Result<(), String> {
    for path in files {
        let found = world.tap.disk.read(path);
        ensure!(found.is_ok_and(|bytes| bytes == FOREIGN), "I7: {} was touched", path.display());
    }
    Ok(())
}

/// H3: the damaged bytes are where they were, or in quarantine with the reason.
pub fn kept(world: &World, path: &Path, bytes: &[u8]) -> Result<(), String> {
    let disk = &world.tap.disk;
    if disk.read(path).is_ok_and(|found| found == bytes) {
        return Ok(());
    }
    let quarantined =
        holdfast_persist::quarantine::list(disk, &layout()).map_err(|error| error.to_string())?;
    let found = quarantined.iter().find(|file| disk.read(&file.path).is_ok_and(|found| found == bytes));
    let file = found.ok_or_else(|| format!("H3: {} was dropped", path.display()))?;
    ensure!(!file.reason.is_empty(), "H3: {} is in quarantine without a reason", path.display());
    ensure!(file.original.as_deref() == Some(path), "H3: {:?} was {:?}", file.path, file.original);
    Ok(())
}

/// The applications that this file says nothing about.
pub fn neighbours(path: &Path) -> Vec<Uuid> {
    [APP, BYSTANDER].into_iter().filter(|app| owner_of(path) != Some(*app)).collect()
}

/// The snapshot whose directory or row this is.
pub fn snapshot_of(path: &Path) -> Option<SnapshotId> {
    let parts = path.components().filter_map(|part| part.as_os_str().to_str());
    parts.filter_map(|part| part.strip_suffix(".json").unwrap_or(part).parse::<SnapshotId>().ok()).next_back()
}
