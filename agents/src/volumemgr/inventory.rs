//! What disk and storage really hold, looked at once at the start.
//!
//! ```text
//!   snapshots/*/volumesSnapshotStatus.json ──▶ Whole, or Damaged with its reason      ([003] H3)
//!   volumes named like ours, without a row ──▶ strays: never overwritten, never removed
//!   downloads/*                            ──▶ leftovers, resumed or removed
//! ```
//!
//! Changes nothing but this: unfinished temporaries in the volume directories are swept, and an incarnation of a volume that
//! neither its row nor an intent knows ([004] M2: the intent was lost) gives its snapshots to the one in force, and goes.
//!
//! Nothing found damaged fails the inventory ([003] G9); only a directory that cannot be listed does. A volume that
//! cannot be asked for what is left of a snapshot makes the findings uncertain: the look is taken again some times.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;

use holdfast_persist::disk::{Disk, EntryKind};
use holdfast_persist::{PersistLayout, RecordError, crashsafe, record};
use holdfast_pubsub::DamagedRow;
use holdfast_types::{
    AppId, ContentTreeId, EntityKind, ErrorReport, Format, Generation, Record, RecordedMeta, Replacement,
    Severity, SnapshotAction, SnapshotId, SnapshotInstanceStatus, SnapshotIntent, Timestamp, Topic, VolumeId,
    VolumeKey, VolumeRecord, VolumeSnapshotMeta, VolumeStage, VolumesSnapshotStatus, error_chain,
};
use holdfast_volumehandlers::{FoundVolume, HandlerCx, Registry, SnapshotName, placement};

use super::download;
use super::incarnations::clones_are_in_force;
use super::jobs::Env;
use super::request::Stored;
use super::steps::READ_ONLY;

/// The findings.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Inventory {
    pub snapshots: BTreeMap<SnapshotId, Stored>,
    pub strays: BTreeMap<VolumeKey, Stray>,
    /// Incarnations that should have gone and could not: the highest number of each volume's.
    pub orphans: BTreeMap<VolumeKey, u64>,
    pub downloads: BTreeSet<ContentTreeId>,
    /// The disk did not give a snapshot's record, which may be whole; or a record is damaged, and some volume could not be asked for
    /// the snapshot, so that it may have more than was found.
    pub is_uncertain: bool,
}

/// A volume file that no row knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stray {
    pub file_location: String,
    pub format: Format,
}

/// The look.
#[derive(Debug)]
pub struct Look<'a> {
    disk: &'a dyn Disk,
    layout: &'a PersistLayout,
    registry: &'a Registry,
    records: &'a [VolumeRecord],
    intents: &'a [SnapshotIntent],
    is_uncertain: Cell<bool>,
}

impl<'a> Look<'a> {
    pub fn new(env: &'a Env, records: &'a [VolumeRecord], intents: &'a [SnapshotIntent]) -> Self {
        let Env { disk, layout, registry, .. } = env;
        Look { disk: &**disk, layout, registry, records, intents, is_uncertain: Cell::new(false) }
    }

    pub fn take(&self) -> io::Result<Inventory> {
        // First what is in force: snapshots are looked for on it.
        let (strays, orphans) = self.strays()?;
        let (snapshots, downloads) = (self.snapshots()?, self.downloads()?);
        let is_uncertain = self.is_uncertain.get();
        Ok(Inventory { snapshots, strays, orphans, downloads, is_uncertain })
    }

    fn snapshots(&self) -> io::Result<BTreeMap<SnapshotId, Stored>> {
        let mut found = BTreeMap::new();
        for entry in self.disk.list(&self.layout.snapshots_dir())? {
            let id = entry.text().and_then(|name| name.parse::<SnapshotId>().ok());
            match id.filter(|_| entry.kind == EntryKind::Directory) {
                Some(id) => {
                    crashsafe::sweep_temporary_of(self.disk, &self.layout.volumes_snapshot_status_file(&id))?;
                    // An earlier process may have ended before it could: a record that is counted on is durable (I3).
                    self.disk.sync_dir(&self.layout.snapshots_dir().join(&entry.name))?;
                    drop(self.snapshot(id).map(|stored| found.insert(id, stored)));
                }
                None => tracing::warn!(name = ?entry.name, "not the directory of a snapshot, left alone"),
            }
        }
        Ok(found)
    }

    /// `None` for a snapshot that volumemgr has not recorded, which is rightly so until all volumes are cut.
    fn snapshot(&self, id: SnapshotId) -> Option<Stored> {
        let path = self.layout.volumes_snapshot_status_file(&id);
        match self.load::<VolumesSnapshotStatus>(&path) {
            Ok(status) if status.snapshot == id => Some(match broken_link(&status) {
                None => Stored::Whole(Arc::new(self.with_generations(status))),
                Some(flaw) => self.damaged(id, format!("{}: {flaw}", path.display())),
            }),
            Ok(status) => {
                Some(self.damaged(id, format!("{} is the record of {}", path.display(), status.snapshot)))
            }
            Err(RecordError::NotFound { .. }) if !self.was_cut(id) => None,
            Err(error) => Some(self.damaged(id, error_chain(&error))),
        }
    }

    /// zedmanager records the time of the cut only after volumemgr has recorded the cut.
    fn was_cut(&self, id: SnapshotId) -> bool {
        let path = self.layout.snapshot_instance_status_file(&id);
        self.load::<SnapshotInstanceStatus>(&path).is_ok_and(|instance| instance.time_created.is_some())
    }

    fn load<T: Record>(&self, path: &Path) -> Result<T, RecordError> {
        record::load(self.disk, path).inspect_err(|error| {
            if matches!(error, RecordError::Io { .. }) {
                self.is_uncertain.set(true);
            }
        })
    }

    fn damaged(&self, id: SnapshotId, reason: String) -> Stored {
        tracing::warn!(snapshot = %id, reason, "the record of a snapshot is damaged");
        Stored::Damaged { reason, app: self.app_of(id), remains: self.remains(id) }
    }

    /// Whose it is, from whatever of the snapshot's files still tells it.
    fn app_of(&self, id: SnapshotId) -> Option<AppId> {
        let field = |path: &Path, name: &str| -> Option<AppId> {
            let value: serde_json::Value = serde_json::from_slice(&self.disk.read(path).ok()?).ok()?;
            value.get(name)?.as_str()?.parse().ok()
        };
        field(&self.layout.volumes_snapshot_status_file(&id), "AppUUID")
            .or_else(|| field(&self.layout.snapshot_instance_status_file(&id), "AppInstanceID"))
    }

    /// Without a record, a snapshot is found on storage by its id in our names.
    fn remains(&self, id: SnapshotId) -> BTreeMap<VolumeId, RecordedMeta> {
        let mut remains = BTreeMap::new();
        for row in self.made() {
            if let Some(name) = self.names(row).into_iter().find(|name| is_of(name, id)) {
                remains.insert(row.config.key.volume, meta(row, name));
            }
        }
        remains
    }

    /// EVE's record names no generation: it is the one whose volume has the snapshot.
    fn with_generations(&self, mut status: VolumesSnapshotStatus) -> VolumesSnapshotStatus {
        for (volume, entry) in &mut status.meta {
            if let VolumeSnapshotMeta::Eve(name) = entry {
                let mut holders = self
                    .made()
                    .filter(|row| row.config.key.volume == *volume && self.names(row).contains(name));
                if let (Some(row), None) = (holders.next(), holders.next()) {
                    *entry = VolumeSnapshotMeta::Recorded(meta(row, name.clone()));
                }
            }
        }
        status
    }

    fn made(&self) -> impl Iterator<Item = &VolumeRecord> {
        self.records.iter().filter(|row| row.stage == VolumeStage::Created)
    }

    /// A volume that cannot be asked has none, as far as is known; its own check will say what is wrong with it.
    fn names(&self, row: &VolumeRecord) -> Vec<String> {
        // While they go from one incarnation to the next, they are on either.
        let clones = self.clones_of(&row.config.key).map(|(_, clone)| clone);
        let others = clones.flat_map(|clone| [&clone.old_location, &clone.fresh_location]);
        let locations: BTreeSet<&String> = others.chain([&row.file_location]).collect();
        locations.into_iter().flat_map(|location| self.names_at(row, Path::new(location))).collect()
    }

    fn names_at(&self, row: &VolumeRecord, path: &Path) -> Vec<String> {
        let listed = self
            .registry
            .handler_for(path, row.format)
            .and_then(|handler| handler.list_snapshots(path))
            .inspect_err(|error| {
                tracing::warn!(volume = %row.config.key, error = error_chain(error), "no list");
                if error.is_transient() {
                    self.is_uncertain.set(true);
                }
            });
        listed.into_iter().flatten().map(|found| found.name).collect()
    }

    /// The clones that intents make of the volume.
    fn clones_of(&self, key: &VolumeKey) -> impl Iterator<Item = (&SnapshotIntent, &Replacement)> {
        self.intents.iter().filter_map(|intent| {
            let meta = intent.volumes.get(&key.volume)?;
            let clone = intent.clones.get(&key.volume)?;
            (meta.generation == key.generation).then_some((intent, clone))
        })
    }

    fn strays(&self) -> io::Result<(BTreeMap<VolumeKey, Stray>, BTreeMap<VolumeKey, u64>)> {
        let known: BTreeSet<&str> = self.records.iter().map(|row| row.file_location.as_str()).collect();
        let rows: BTreeMap<VolumeKey, &VolumeRecord> =
            self.records.iter().map(|row| (row.config.key, row)).collect();
        let (mut strays, mut orphans) = (BTreeMap::new(), BTreeMap::new());
        for encrypted in [true, false] {
            crashsafe::sweep_temporaries(self.disk, &self.layout.volumes_dir(encrypted))?;
            for found in self.found(encrypted)? {
                let file_location = found.location.display().to_string();
                if found.unfinished || known.contains(file_location.as_str()) {
                    continue;
                }
                let Some(key) = key_of(&found.location) else {
                    tracing::warn!(file = file_location, "not the file of a volume, left alone");
                    continue;
                };
                match rows.get(&key) {
                    Some(row) if is_incarnation(&found.location, row) => {
                        if !self.is_gone(&key, row, &found.location) {
                            let number = placement::incarnation(&found.location);
                            let highest = orphans.entry(key).or_default();
                            *highest = number.max(*highest);
                        }
                    }
                    // Of another kind, or elsewhere: as if it were nobody's.
                    _ => {
                        tracing::warn!(file = file_location, "a volume file that no row knows, left alone");
                        let stray = Stray { file_location, format: found.format };
                        let better = match strays.remove(&key) {
                            Some(other) => self.in_force(&key, other, stray),
                            None => stray,
                        };
                        strays.insert(key, better);
                    }
                }
            }
        }
        Ok((strays, orphans))
    }

    fn found(&self, encrypted: bool) -> io::Result<Vec<FoundVolume>> {
        let mut all = Vec::new();
        for directory in self.registry.placement().directories(self.layout, encrypted) {
            all.extend(self.registry.inventory(&directory).map_err(io::Error::other)?);
        }
        Ok(all)
    }

    /// An incarnation that is not the row's: an intent's business, or nobody's any more. True when nothing of it is left.
    fn is_gone(&self, key: &VolumeKey, row: &VolumeRecord, location: &Path) -> bool {
        let is_at = |clone: &Replacement| {
            [&clone.old_location, &clone.fresh_location].iter().any(|at| Path::new(at) == location)
        };
        let is_claimed = self.clones_of(key).any(|(_, clone)| is_at(clone));
        if is_claimed || row.stage != VolumeStage::Created {
            return false;
        }
        tracing::warn!(volume = %key, file = %location.display(), "an incarnation that is not in force goes");
        let gone = self.registry.handler_for(location, row.format).and_then(|handler| {
            handler.adopt_snapshots(location, row.file_location.as_ref())?;
            handler.destroy(location, &HandlerCx::unattended())
        });
        gone.inspect_err(|error| tracing::warn!(volume = %key, error = error_chain(error), "it stays"))
            .is_ok()
    }

    /// Of two incarnations of a volume whose row was lost: what a rollback's intent says; else the one that has the snapshots,
    /// which go from one to the next only when that is in force; else the older, which was in force for sure.
    fn in_force(&self, key: &VolumeKey, one: Stray, other: Stray) -> Stray {
        let [older, newer] = {
            let mut both = [one, other];
            both.sort_by_key(|stray| placement::incarnation(stray.file_location.as_ref()));
            both
        };
        // A deletion that took a rollback over no longer tells how far that was; the snapshots do.
        let is_rollback = |(intent, _): &(&SnapshotIntent, _)| intent.action == SnapshotAction::Rollback;
        let is_newer = match self.clones_of(key).find(is_rollback) {
            Some((intent, clone)) => {
                clones_are_in_force(intent) && clone.fresh_location == newer.file_location
            }
            None => {
                let path = Path::new(&newer.file_location);
                let handler = self.registry.handler_for(path, newer.format);
                let listed = handler.and_then(|handler| handler.list_snapshots(path));
                listed.is_ok_and(|names| !names.is_empty())
            }
        };
        if is_newer { newer } else { older }
    }

    fn downloads(&self) -> io::Result<BTreeSet<ContentTreeId>> {
        let entries = self.disk.list(&self.layout.downloads_dir())?;
        Ok(entries.iter().filter_map(|entry| download::content_tree_of(entry.text()?)).collect())
    }
}

/// [004] M6: the link from a snapshot to each of its volumes, as far as the record alone tells; that the volume is stored by
/// whom it says, and has the snapshot, is looked at when it is used. EVE's record has another kind of name.
fn broken_link(record: &VolumesSnapshotStatus) -> Option<String> {
    record.meta.iter().find_map(|(volume, meta)| {
        let VolumeSnapshotMeta::Recorded(meta) = meta else { return None };
        if meta.handler == READ_ONLY {
            return None;
        }
        let flaw = SnapshotName::parse(&meta.storage_name).err()?;
        Some(format!("its link to volume {volume} is broken: {flaw}"))
    })
}

/// True if this node chose the name for this snapshot.
pub fn is_of(name: &str, snapshot: SnapshotId) -> bool {
    SnapshotName::parse(name).is_ok_and(|name| name.is_ours()) && name.contains(&snapshot.to_string())
}

fn meta(row: &VolumeRecord, storage_name: String) -> RecordedMeta {
    RecordedMeta {
        handler: row.handler.clone(),
        generation: row.config.key.generation,
        storage_name,
        size_bytes: 0,
    }
}

/// Rows of volumes that are in quarantine, and what to say of them. The volume is taken in again from its file, once it is
/// known to be used, held or listed.
pub fn lost_rows(damaged: &[DamagedRow], now: Timestamp) -> BTreeMap<VolumeKey, ErrorReport> {
    let mut lost = BTreeMap::new();
    for row in damaged {
        tracing::error!(topic = row.topic, key = row.key, reason = row.reason, "damaged row");
        if let Some(key) =
            row.key.split_once('#').and_then(key_from).filter(|_| row.topic == VolumeRecord::NAME)
        {
            let text = format!("volume {key}: its row was damaged and is in quarantine: {}", row.reason);
            let error = ErrorReport::new(text, now).severity(Severity::Warning);
            lost.insert(key, error.about(EntityKind::Volume, key.volume));
        }
    }
    lost
}

/// True if the location is another incarnation's of the row's volume.
fn is_incarnation(location: &Path, row: &VolumeRecord) -> bool {
    let of_row = Path::new(&row.file_location);
    !placement::is_device(of_row)
        && placement::with_incarnation(of_row, placement::incarnation(location)) == location
}

fn key_of(location: &Path) -> Option<VolumeKey> {
    key_from(placement::name_parts(location)?)
}

fn key_from((volume, generation): (&str, &str)) -> Option<VolumeKey> {
    Some(VolumeKey { volume: volume.parse().ok()?, generation: Generation(generation.parse().ok()?) })
}
