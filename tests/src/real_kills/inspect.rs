//! Looks at a persist directory while no node runs on it, and says what is wrong there.
//!
//! Nothing here asks an agent. The rows and records are read as what they are: files. What the images hold is compared
//! with the model by hash.
//!
//! | when | function | what |
//! |---|---|---|
//! | right after a kill | [`under_way`] | what was being done, so that every kill says what it hit |
//! | right after a kill | [`expect_promises`] | I3: snapshots that were there are whole, whatever was being done |
//! | settled | [`expect_contents`] | I1, I2, I4, J4: contents by hash, version, `qemu-img check` |
//! | settled | [`expect_no_orphans`] | I5: one file and one inner snapshot per record, and nothing else |

#![allow(clippy::disallowed_methods, reason = "it looks at real files")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use holdfast_persist::PersistLayout;
use holdfast_persist::crashsafe::TEMPORARY_PREFIX;
use holdfast_persist::rows::row_of_spare;
use holdfast_types::{
    AppInstanceConfig, AppInstanceState, Operation, OperationKind, Phase, SnapshotAction, SnapshotId,
    SnapshotInstanceStatus, SnapshotIntent, SnapshotState, Topic, VolumeId, VolumeKey, VolumeRecord,
    VolumeSnapshotMeta, VolumesSnapshotStatus,
};
use serde::de::DeserializeOwned;

use super::image::{self, Image};
use super::model::{Cut, Model};
use super::tally::Hit;
use super::{APP, snapshot, volume, zvol};
use crate::ensure;

/// What is wrong.
type Wrong = Result<(), String>;

/// A persist directory with one application.
#[derive(Debug)]
pub struct Persist {
    pub layout: PersistLayout,
    /// Where `qemu-img convert` may write.
    pub scratch: PathBuf,
    pub volumes: Volumes,
    /// A guest's own write was cut off: QEMU counts a cluster before it uses it, so one may be counted that nobody uses.
    pub may_leak: bool,
}

/// What volumes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Volumes {
    /// qcow2 images below the persist directory.
    Images,
    /// ZFS volumes below this dataset.
    Zvols(String),
}

impl Persist {
    /// The image's file, or the ZFS volume's device.
    pub fn image(&self, at: usize) -> PathBuf {
        match &self.volumes {
            Volumes::Images => self.layout.volume_file(true, &volume(at + 1), &1, &"qcow2"),
            Volumes::Zvols(_) => Path::new(zvol::DEVICES).join(self.zvol(at)),
        }
    }

    /// The ZFS volume's dataset.
    fn zvol(&self, at: usize) -> String {
        match &self.volumes {
            Volumes::Images => String::new(),
            Volumes::Zvols(root) => format!("{root}/vault/volumes/{}.1", volume(at + 1)),
        }
    }

    fn row_file(&self) -> PathBuf {
        self.layout.row_file("zedmanager", AppInstanceState::NAME, &APP)
    }

    fn row(&self) -> Result<AppInstanceState, String> {
        json(&self.row_file())
    }

    fn intents(&self) -> Result<Vec<SnapshotIntent>, String> {
        let directory = self.layout.topic_dir("volumemgr", SnapshotIntent::NAME);
        let names = names_in(&directory)?;
        names
            .iter()
            .filter(|name| !name.starts_with(TEMPORARY_PREFIX))
            .map(|name| json(&directory.join(name)))
            .collect()
    }
}

/// What the node was at, and how far.
pub fn under_way(persist: &Persist) -> Result<(Hit, String), String> {
    let intents = persist.intents()?;
    // Only the deletion of the application takes its row away; volumes may go after it.
    if !persist.row_file().exists() {
        let mut volumes = names_in(&persist.layout.topic_dir("volumemgr", VolumeRecord::NAME))?;
        volumes.retain(|name| !name.starts_with(TEMPORARY_PREFIX));
        let hit = if volumes.is_empty() { Hit::Idle } else { Hit::DeleteApp };
        return Ok((hit, "no row".to_owned()));
    }
    let row = persist.row()?;
    let deletes_app = |operation: &&Operation| operation.kind == OperationKind::DeleteApp;
    if let Some(operation) = row.operation.as_ref().filter(deletes_app) {
        return Ok((Hit::DeleteApp, format!("delete app {:?}", operation.phase)));
    }
    if let Some(intent) = intents.first() {
        let hit = match intent.action {
            SnapshotAction::Create => Hit::Create,
            SnapshotAction::Rollback => Hit::Rollback,
            SnapshotAction::Delete | SnapshotAction::Unspecified => Hit::Delete,
        };
        return Ok((hit, format!("{} {:?}", hit.name(), intent.stage)));
    }
    if let Some(operation) = &row.operation {
        let hit = match operation.kind {
            OperationKind::Rollback => Hit::Rollback,
            OperationKind::DeleteSnapshots => Hit::Delete,
            _ if operation.phase == Phase::DeletingSnapshots => Hit::Delete,
            _ if !operation.snapshots.is_empty() => Hit::Create,
            // A restart is only ever ordered to have a deletion done.
            OperationKind::Update if is_any_deleting(&row) => Hit::Delete,
            _ => Hit::Other,
        };
        return Ok((hit, format!("{} {:?}", hit.name(), operation.phase)));
    }
    let asked = |state: &SnapshotState| matches!(state, SnapshotState::Deleting { asked: true, .. });
    if row.snapshots.values().any(|entry| asked(&entry.state)) {
        return Ok((Hit::Delete, "delete asked".to_owned()));
    }
    Ok((Hit::Idle, "nothing".to_owned()))
}

fn is_any_deleting(row: &AppInstanceState) -> bool {
    row.snapshots.values().any(|entry| matches!(entry.state, SnapshotState::Deleting { .. }))
}

/// I3: at any moment, every snapshot that was available and is to stay has its records and its content.
pub fn expect_promises(persist: &Persist, model: &Model) -> Wrong {
    if model.promised.is_empty() {
        return Ok(());
    }
    let row = persist.row()?;
    let images = read_images(persist, model)?;
    for n in &model.promised {
        let entry = row.snapshots.get(&SnapshotId(snapshot(*n)));
        let state = entry.map(|entry| &entry.state);
        ensure!(
            matches!(state, Some(SnapshotState::Available(_))),
            "I3: snapshot {n} was available and is {state:?}"
        );
        expect_cut(persist, *n, &model.cuts[n], &images)?;
    }
    Ok(())
}

/// I1, I2, I4, J4: what is in force, what every volume and every listed snapshot holds, and the health of the images.
/// With `ask_qemu`, `qemu-img convert` must find the same contents.
pub fn expect_contents(persist: &Persist, model: &Model, rollback_counter: u32, ask_qemu: bool) -> Wrong {
    if model.is_deleted {
        return Ok(());
    }
    let row = persist.row()?;
    let version = row.applied.as_deref().map_or("", AppInstanceConfig::version);
    ensure!(
        version == model.in_force.to_string(),
        "I2: version {version} is in force and not {}",
        model.in_force
    );
    ensure!(
        row.rollback_counter == rollback_counter,
        "I6: rollback {} was acted on, {rollback_counter} was ordered",
        row.rollback_counter
    );
    match &persist.volumes {
        Volumes::Images => {
            (0..model.live.len()).try_for_each(|at| expect_healthy(&persist.image(at), persist.may_leak))?
        }
        Volumes::Zvols(root) => zvol::expect_healthy(root)?,
    }
    let images = read_images(persist, model)?;
    for (at, (image, live)) in images.iter().zip(&model.live).enumerate() {
        let path = persist.image(at);
        ensure!(image.active == live.digest(), "I1: {} {}", path.display(), told(image, model, at));
    }
    for n in &model.listed {
        expect_cut(persist, *n, &model.cuts[n], &images)?;
    }
    if ask_qemu { expect_same_by_qemu(persist, &images) } else { Ok(()) }
}

/// What the image shows instead, in the model's words.
fn told(image: &Image, model: &Model, at: usize) -> String {
    let shows = |content: &super::content::Content| content.digest() == image.active;
    match model.cuts.iter().find(|(_, cut)| shows(&cut.contents[at])) {
        Some((n, _)) => format!("shows what snapshot {n} holds"),
        None => "shows what was never there".to_owned(),
    }
}

/// The three records of a snapshot, and its content in every image.
fn expect_cut(persist: &Persist, n: u32, cut: &Cut, images: &[Image]) -> Wrong {
    let (layout, id) = (&persist.layout, snapshot(n));
    let config: AppInstanceConfig = json(&layout.app_config_file(&id))?;
    ensure!(
        config.version() == cut.version.to_string(),
        "I4: snapshot {n} was cut of version {} and keeps the configuration of {}",
        cut.version,
        config.version()
    );
    let _: SnapshotInstanceStatus = json(&layout.snapshot_instance_status_file(&id))?;
    let names = storage_names(&json(&layout.volumes_snapshot_status_file(&id))?);
    for (at, image) in images.iter().enumerate() {
        let name = names
            .get(&VolumeId(volume(at + 1)))
            .ok_or(format!("I4: snapshot {n} lacks volume {}", at + 1))?;
        let digests: Vec<&str> = image
            .snapshots
            .iter()
            .filter(|inner| inner.name == *name)
            .map(|inner| inner.digest.as_str())
            .collect();
        ensure!(digests.len() == 1, "I3: volume {} has {} snapshots {name}", at + 1, digests.len());
        ensure!(
            digests[0] == cut.contents[at].digest(),
            "I4: snapshot {n} of volume {} holds something else",
            at + 1
        );
    }
    Ok(())
}

fn storage_names(status: &VolumesSnapshotStatus) -> BTreeMap<VolumeId, String> {
    let named = status.meta.iter().map(|(volume, meta)| match meta {
        VolumeSnapshotMeta::Recorded(meta) => (*volume, meta.storage_name.clone()),
        VolumeSnapshotMeta::Eve(name) => (*volume, name.clone()),
    });
    named.collect()
}

fn read_images(persist: &Persist, model: &Model) -> Result<Vec<Image>, String> {
    let read = |at| {
        let path = persist.image(at);
        let image = match &persist.volumes {
            Volumes::Images => image::read(&path),
            Volumes::Zvols(_) => zvol::read(&persist.zvol(at)),
        };
        image.map_err(|error| format!("I1: {}: {error}", path.display()))
    };
    (0..model.live.len()).map(read).collect()
}

/// J4. Exit 0 is: no errors, no leaks; 3 is: leaks, and nothing else.
fn expect_healthy(image: &Path, may_leak: bool) -> Wrong {
    let output = Command::new("qemu-img")
        .args(["check", "-f", "qcow2"])
        .arg(image)
        .output()
        .map_err(|error| format!("qemu-img check: {error}"))?;
    ensure!(
        output.status.success() || may_leak && output.status.code() == Some(3),
        "J4: {}: qemu-img check ends with {}: {}{}",
        image.display(),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn expect_same_by_qemu(persist: &Persist, images: &[Image]) -> Wrong {
    for (at, image) in images.iter().enumerate() {
        let path = persist.image(at);
        let ask = |name: Option<&str>| {
            image::read_with_qemu(&path, name, &persist.scratch)
                .map_err(|error| format!("{}: {error}", path.display()))
        };
        ensure!(ask(None)? == image.active, "I1: qemu-img reads {} otherwise", path.display());
        if let Some(inner) = image.snapshots.last() {
            let name = &inner.name;
            ensure!(
                ask(Some(name))? == inner.digest,
                "I4: qemu-img reads {name} of {} otherwise",
                path.display()
            );
        }
    }
    Ok(())
}

/// I5: under the persist directory is what rows and records name, and nothing else; within the images as well.
pub fn expect_no_orphans(persist: &Persist, model: &Model) -> Wrong {
    let layout = &persist.layout;
    let mut known = BTreeSet::from([layout.lock_file(), layout.reserve_file(), layout.last_config_file()]);
    let mut inner: BTreeMap<VolumeId, BTreeSet<String>> = BTreeMap::new();
    if !model.is_deleted {
        known.extend([persist.row_file(), layout.domain_dir(&APP)]);
        named_by_row(persist, &mut known, &mut inner)?;
    }
    for at in 0..model.live.len() {
        let key = VolumeKey::new(VolumeId(volume(at + 1)), 1);
        known.insert(layout.row_file("volumemgr", VolumeRecord::NAME, &key));
        if persist.volumes == Volumes::Images {
            known.insert(persist.image(at));
        }
    }
    if let Volumes::Zvols(root) = &persist.volumes {
        let wanted: BTreeSet<String> = (0..model.live.len()).map(|at| persist.zvol(at)).collect();
        let found = zvol::list(root).map_err(|error| format!("I5: {error}"))?;
        ensure!(found == wanted, "I5: the pool holds the volumes {found:?} and not {wanted:?}");
    }
    for path in everything_under(layout.root())? {
        let is_place = path.is_dir() && is_fixed_place(layout, &path);
        let is_spare = row_of_spare(layout, &path).is_some_and(|row| row.is_file());
        ensure!(
            is_place || is_spare || known.remove(&path) || path.is_dir() && known.contains(&path),
            "I5: {} is nobody's",
            path.display()
        );
    }
    ensure!(known.is_empty(), "I5: missing is {known:?}");
    for (at, image) in read_images(persist, model)?.iter().enumerate() {
        let named = inner.remove(&VolumeId(volume(at + 1))).unwrap_or_default();
        let found: Vec<&str> = image.snapshots.iter().map(|inner| inner.name.as_str()).collect();
        ensure!(
            found.len() == named.len() && found.iter().all(|name| named.contains(*name)),
            "I5: volume {} has the snapshots {found:?}, records name {named:?}",
            at + 1
        );
    }
    Ok(())
}

/// What the application's row and its snapshots' records name: files, and snapshots within images.
fn named_by_row(
    persist: &Persist,
    known: &mut BTreeSet<PathBuf>,
    inner: &mut BTreeMap<VolumeId, BTreeSet<String>>,
) -> Wrong {
    let (layout, row) = (&persist.layout, persist.row()?);
    for (id, entry) in &row.snapshots {
        // Settled, so it is whole, or waits whole for the guest to go down ([003] D1).
        ensure!(
            matches!(entry.state, SnapshotState::Available(_) | SnapshotState::Deleting { asked: false, .. }),
            "I17: snapshot {id} is {:?}",
            entry.state
        );
        let status = layout.volumes_snapshot_status_file(id);
        for (volume, name) in storage_names(&json(&status)?) {
            inner.entry(volume).or_default().insert(name);
        }
        known.extend([status, layout.app_config_file(id), layout.snapshot_instance_status_file(id)]);
        known.insert(layout.snapshot_dir(id));
    }
    Ok(())
}

/// Directories that are there whether or not something is in them.
fn is_fixed_place(layout: &PersistLayout, path: &Path) -> bool {
    let fixed = [
        layout.checkpoint_dir(),
        layout.snapshots_dir(),
        layout.quarantine_dir(),
        layout.downloads_dir(),
        layout.domains_dir(),
        layout.run_dir(),
        layout.root().join("vault"),
        layout.volumes_dir(true),
        layout.root().join("clear"),
        layout.volumes_dir(false),
        layout.status_root(),
        layout.status_dir("zedmanager"),
        layout.status_dir("volumemgr"),
        layout.topic_dir("zedmanager", AppInstanceState::NAME),
        layout.topic_dir("volumemgr", VolumeRecord::NAME),
        layout.topic_dir("volumemgr", SnapshotIntent::NAME),
    ];
    fixed.iter().any(|place| place == path)
}

fn everything_under(directory: &Path) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    for name in names_in(directory)? {
        let path = directory.join(name);
        if path.is_dir() {
            found.extend(everything_under(&path)?);
        }
        found.push(path);
    }
    Ok(found)
}

/// Sorted; none if the directory is missing.
fn names_in(directory: &Path) -> Result<Vec<String>, String> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| format!("{}: {error}", directory.display()))?,
    };
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    Ok(names)
}

fn json<T: DeserializeOwned>(path: &Path) -> Result<T, String> {
    let bytes = std::fs::read(path).map_err(|error| format!("G4: {}: {error}", path.display()))?;
    serde_json::from_slice(&bytes).map_err(|error| format!("G4: {}: {error}", path.display()))
}
