//! Whoever else has a hand on the node's storage: operators, scheduled snapshots, backup tools ([000] L3).
//!
//! ```text
//!   snapshot, hold, clone ─▶ the pool, durable at once ─▶ remembered here ─▶ I7: still there, unless a consent named it
//!   leave                 ─▶ all of it is taken away again
//! ```
//!
//! What they do happens between two steps of the node and is in every moment that is kept afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use holdfast_persist::disk::Disk;
use holdfast_types::{AppInstanceState, Consent, EffectiveGuard, FORCE_ROLLBACK, Phase, Timestamp};
use holdfast_volumehandlers::SnapshotName;
use holdfast_volumehandlers::placement::is_device;
use holdfast_volumehandlers::testing::{FakeSnapshot, FakeZfs};
use holdfast_volumehandlers::zvol::Dataset;
use holdfast_volumehandlers::zvol::zfs::SnapshotOf;

use super::World;
use super::ground::{Ground, locked};
use super::storage::{raw_pool, raw_tool};

/// What they have made, and not taken away.
#[derive(Debug, Clone, Default)]
pub struct Strangers {
    /// Names of their snapshots, by volume.
    pub snapshots: BTreeMap<PathBuf, BTreeSet<String>>,
    /// Holds: the volume, the snapshot, the tag.
    pub holds: BTreeSet<(PathBuf, String, String)>,
    /// Bookmarks: the volume, the name.
    pub bookmarks: BTreeSet<(PathBuf, String)>,
    /// Datasets.
    pub clones: BTreeSet<String>,
    /// Somebody did something some time: it may have kept the node from what it wanted.
    pub have_been: bool,
    last: u32,
}

impl Strangers {
    /// True while something of theirs keeps a snapshot of the node's from being deleted, or a volume from being destroyed.
    pub fn are_about(&self) -> bool {
        !(self.holds.is_empty()
            && self.bookmarks.is_empty()
            && self.clones.is_empty()
            && self.snapshots.values().all(BTreeSet::is_empty))
    }

    pub fn on(&self, volume: &Path) -> BTreeSet<String> {
        self.snapshots.get(volume).cloned().unwrap_or_default()
    }
}

impl Ground {
    /// What they keep, the node cannot delete, and what they make blocks it: a failure that is told is excused.
    fn strangers_come(&mut self) {
        self.strangers.last += 1;
        self.strangers.have_been = true;
        self.faults.has_impaired = true;
    }

    /// I7: a volume of ZFS does not go with what is a stranger's; an image takes with it what was put into it.
    pub fn volume_goes(&mut self, path: &Path) {
        let theirs = self.strangers.snapshots.remove(path).unwrap_or_default();
        if is_device(path) && !theirs.is_empty() {
            self.violated("I7", format_args!("{} goes with the strangers' {theirs:?}", path.display()));
        }
    }

    /// I8, I7: a rollback comes to the volumes. `guard` is what zedmanager decided by, where that is known.
    pub fn rollback_enters(
        &mut self,
        row: &AppInstanceState,
        guard: impl FnOnce() -> Option<EffectiveGuard>,
    ) {
        let app = row.app.0;
        let reverting = row.operation.as_ref().filter(|operation| operation.phase == Phase::RevertingVolumes);
        let Some((operation, target)) = reverting.and_then(|op| Some((op, op.rollback.as_ref()?))) else {
            self.reverting.remove(&app);
            return;
        };
        if self.reverting.insert(app, operation.number) == Some(operation.number) {
            return;
        }
        let Some(guard) = guard() else { return };
        self.guards_judged += 1;
        if let Some(why) = guard.refusal(row.app) {
            self.violated("I8", format_args!("operation {} reverts volumes: {why}", operation.number));
        }
        let consent = target.consent.clone().unwrap_or_default();
        if !consent.is_empty() && !guard.has_tag(FORCE_ROLLBACK) {
            self.violated("I7", format_args!("operation {} destroys without the tag", operation.number));
        }
        let ours = consent.volumes.values().flatten().find(|one| one.name.starts_with("holdfast-"));
        if let Some(ours) = ours {
            self.violated("I7", format_args!("operation {} destroys {}", operation.number, ours.name));
        }
    }

    /// I7: a rollback that is done destroyed what it had the consent to, and that is all that may be missing now.
    pub fn consented(
        &mut self,
        consent: &Consent,
        path_of: &dyn Fn(&holdfast_types::VolumeId) -> Vec<PathBuf>,
    ) {
        for (volume, agreed) in &consent.volumes {
            for path in path_of(volume) {
                for one in agreed {
                    let gone =
                        self.strangers.snapshots.get_mut(&path).is_some_and(|names| names.remove(&one.name));
                    if gone {
                        self.note(format_args!("{} of {} was agreed to", one.name, path.display()));
                    }
                }
            }
        }
    }
}

impl World {
    fn pool(&self) -> Option<FakeZfs> {
        raw_pool(&self.tap.disk)
    }

    /// A snapshot by somebody else; returns its name.
    pub fn stranger_snapshots(&mut self, volume: &Path) -> String {
        let name = {
            let mut ground = locked(&self.ground);
            ground.strangers_come();
            let name = format!("daily-{}", ground.strangers.last);
            ground.strangers.snapshots.entry(volume.to_path_buf()).or_default().insert(name.clone());
            ground.note(format_args!("a stranger makes {name} on {}", volume.display()));
            name
        };
        if is_device(volume) {
            let pool = self.pool().expect("a device lies on a pool");
            pool.foreign_snapshot(&dataset(volume), &name).expect("a new name on a volume that is there");
        } else {
            let edited = raw_tool(&self.tap.disk).edit(volume, |image| {
                let snapshot = FakeSnapshot {
                    id: format!("9{}", image.snapshots.len()),
                    name: name.clone(),
                    created_at: Timestamp::default(),
                    size_bytes: image.virtual_size_bytes,
                    blocks: image.blocks.clone(),
                };
                image.snapshots.push(snapshot);
            });
            edited.expect("an image that is there");
            self.tap.disk.sync_file(volume).expect("the World's disk does not fail by itself");
        }
        name
    }

    /// Somebody holds a snapshot, whoever made it. ZFS only.
    pub fn stranger_holds(&mut self, volume: &Path, snapshot: &str) {
        let pool = self.pool().expect("a device lies on a pool");
        pool.hold(&snapshot_of(volume, snapshot), "backup").expect("a snapshot that is there");
        let mut ground = locked(&self.ground);
        ground.strangers_come();
        ground.strangers.holds.insert((volume.to_path_buf(), snapshot.to_owned(), "backup".to_owned()));
        ground.note(format_args!("a stranger holds {snapshot} of {}", volume.display()));
    }

    /// Somebody keeps a bookmark of a snapshot that is gone, as a replication does. ZFS only.
    pub fn stranger_bookmarks(&mut self, volume: &Path) {
        let name = self.stranger_snapshots(volume);
        let pool = self.pool().expect("a device lies on a pool");
        pool.bookmark(&snapshot_of(volume, &name), &name).expect("a new name");
        pool.remove_snapshot(&snapshot_of(volume, &name)).expect("their own");
        let mut ground = locked(&self.ground);
        ground.strangers.snapshots.entry(volume.to_path_buf()).or_default().remove(&name);
        ground.strangers.bookmarks.insert((volume.to_path_buf(), name));
    }

    /// Somebody clones a snapshot, whoever made it. ZFS only.
    pub fn stranger_clones(&mut self, volume: &Path, snapshot: &str) {
        let mut ground = locked(&self.ground);
        ground.strangers_come();
        let clone = format!("persist/clone-{}", ground.strangers.last);
        ground.strangers.clones.insert(clone.clone());
        ground.note(format_args!("a stranger clones {snapshot} of {} as {clone}", volume.display()));
        drop(ground);
        let pool = self.pool().expect("a device lies on a pool");
        let cloned = pool.clone_snapshot(&snapshot_of(volume, snapshot), &named(&clone));
        cloned.expect("a snapshot that is there");
    }

    /// All that strangers made is taken away by them.
    pub fn strangers_leave(&mut self) {
        let strangers = std::mem::take(&mut locked(&self.ground).strangers);
        if !strangers.are_about() {
            locked(&self.ground).strangers = strangers;
            return;
        }
        locked(&self.ground).strangers =
            Strangers { last: strangers.last, have_been: true, ..Strangers::default() };
        locked(&self.ground).note(format_args!("the strangers leave"));
        if let Some(pool) = self.pool() {
            for (volume, snapshot, tag) in &strangers.holds {
                // It may have gone with what it was on, once it was let go otherwise.
                drop(pool.release(&snapshot_of(volume, snapshot), tag));
            }
            for (volume, name) in &strangers.bookmarks {
                // It goes with its volume.
                drop(pool.remove_bookmark(&dataset(volume), name));
            }
            for clone in &strangers.clones {
                pool.remove_dataset(&named(clone)).expect("their own");
            }
        }
        for (volume, names) in &strangers.snapshots {
            for name in names {
                if is_device(volume) {
                    let pool = self.pool().expect("a device lies on a pool");
                    drop(pool.remove_snapshot(&snapshot_of(volume, name)));
                } else {
                    let gone = |image: &mut holdfast_volumehandlers::testing::FakeImage| {
                        image.snapshots.retain(|snapshot| snapshot.name != *name);
                    };
                    if raw_tool(&self.tap.disk).edit(volume, gone).is_ok() {
                        self.tap.disk.sync_file(volume).expect("the World's disk does not fail by itself");
                    }
                }
            }
        }
    }
}

fn dataset(volume: &Path) -> Dataset {
    Dataset::of_device(volume).expect("a device of the World")
}

fn named(dataset: &str) -> Dataset {
    Dataset::parse(dataset).expect("a plain name")
}

fn snapshot_of(volume: &Path, name: &str) -> SnapshotOf {
    SnapshotOf { dataset: dataset(volume), name: SnapshotName::parse(name).expect("a plain name") }
}
