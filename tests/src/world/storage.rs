//! What the node of a World stores its volumes on, and the pool that may fail by itself before it has done anything.
//!
//! ```text
//!   Images   qcow2 files
//!   Zvols    ZFS volumes of the fake pool, which is one file on the World's disk
//!   Mixed    the node began with files and was then moved onto the pool: volume 1 as it was first made is an image, all
//!            other volumes are ZFS volumes
//!   Raws     raw disks, made from content that is downloaded
//!   Beside   volume 1 is a raw disk, the others are images
//!   Three    the node began as Beside and was then moved onto the pool: a raw disk, an image and a ZFS volume
//! ```
//!
//! A raw disk is reverted by a clone, which lies elsewhere ([004] M2). The model knows a volume by the place where it was first
//! made ([`identity`]), whichever incarnation is in force.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_persist::mem_disk::MemDisk;
use holdfast_persist::{Disk, PersistLayout};
use holdfast_types::{Format, VolumeKey};
use holdfast_volumehandlers::placement::{self, is_device};
use holdfast_volumehandlers::testing::{Blocks, FakeImage, FakeImageTool, FakeZfs, FakeZvol, image_bytes};
use holdfast_volumehandlers::zvol::zfs::{AgreedOf, Bookmark, NewZvol, Room, SnapshotOf, ZfsSnapshot, Zvol};
use holdfast_volumehandlers::zvol::{Dataset, Zfs, ZfsError};
use holdfast_volumehandlers::{Backing, HandlerCx, Placement};
use uuid::Uuid;

use super::faults::{FaultKind, INJECTED};
use super::ground::{SharedGround, locked};
use super::workload::volume;

/// The pool, on the World's disk.
const POOL_FILE: &str = "/pool";
const ROOT: &str = "persist";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Storage {
    #[default]
    Images,
    Zvols,
    Mixed,
    Raws,
    Beside,
    Three,
}

/// Where raw disks come from.
pub const RAW_URL: &str = "http://store.world/files/disk.raw";
const RAW_BYTES: u64 = 16 << 20;

impl Storage {
    /// Where a volume of the World was first made; all are encrypted.
    pub fn first_place(self, layout: &PersistLayout, key: &VolumeKey) -> PathBuf {
        let is_first = key.generation.0 == 1;
        let is_of_before = match self {
            Storage::Mixed => is_first && key.volume.0 == volume(1),
            Storage::Three => is_first && (key.volume.0 == volume(1) || key.volume.0 == volume(2)),
            _ => false,
        };
        self.place(layout, key, self.has_pool() && !is_of_before)
    }

    /// Where it is made now.
    pub fn place_now(self, layout: &PersistLayout, key: &VolumeKey) -> PathBuf {
        self.place(layout, key, self.has_pool())
    }

    fn place(self, layout: &PersistLayout, key: &VolumeKey, in_pool: bool) -> PathBuf {
        let placement = match in_pool {
            true => Placement::Zfs { root: root() },
            false => Placement::Files,
        };
        let content = self.is_raw(key.volume.0).then_some(Format::Raw);
        let placed = placement.place(layout, true, (&key.volume, &key.generation), content);
        placed.expect("the World's names are short").location
    }

    /// True for a volume that is made from a raw image.
    pub fn is_raw(self, id: Uuid) -> bool {
        match self {
            Storage::Raws => id == volume(1) || id == volume(2),
            Storage::Beside | Storage::Three => id == volume(1),
            Storage::Images | Storage::Zvols | Storage::Mixed => false,
        }
    }

    /// What the node was on before it was moved onto the pool, if it was.
    pub fn before(self) -> Option<Storage> {
        match self {
            Storage::Mixed => Some(Storage::Images),
            Storage::Three => Some(Storage::Beside),
            _ => None,
        }
    }

    fn has_pool(self) -> bool {
        matches!(self, Storage::Zvols | Storage::Mixed | Storage::Three)
    }

    /// Zvols can only be rolled back to their newest snapshot ([003] K4).
    pub fn newer_snapshots_block(self) -> bool {
        self.has_pool()
    }

    /// The pool on this disk, if there is one.
    pub fn pool(self, disk: Arc<dyn Disk>) -> Option<FakeZfs> {
        self.has_pool().then(|| FakeZfs::new(disk, Path::new(POOL_FILE), &root()))
    }

    /// What the node is given: its tool, and what it stores volumes on.
    pub fn seams(self, disk: Arc<dyn Disk>, ground: &SharedGround) -> (FakeImageTool, Backing) {
        let tool = FakeImageTool::new(Arc::clone(&disk));
        match self.pool(disk) {
            None => (tool, Backing::Files),
            Some(pool) => {
                // An earlier process may have died in the middle of a transaction group.
                pool.doubt();
                let zfs = Arc::new(WorldZfs { inner: pool.clone(), ground: Arc::clone(ground) });
                (tool.with_zfs(pool), Backing::Zfs { zfs, root: root() })
            }
        }
    }
}

/// What a raw disk is made from: nobody has written to it.
pub fn raw_content() -> Vec<u8> {
    image_bytes(&FakeImage::new(Format::Raw, RAW_BYTES, Blocks::new()))
}

/// What the model knows a volume's file by, whichever incarnation it is.
pub fn identity(path: &Path) -> PathBuf {
    if is_device(path) { path.to_path_buf() } else { placement::with_incarnation(path, 1) }
}

/// The raw disk that a file is a snapshot of.
pub fn disk_of_snapshot(path: &Path) -> Option<(PathBuf, String)> {
    let name = path.file_name()?.to_str()?;
    let (disk, snapshot) = name.split_once(".raw~")?;
    let is_whole = !disk.starts_with('.');
    is_whole.then(|| (path.with_file_name(format!("{disk}.raw")), snapshot.to_owned()))
}

/// True for the file of a raw disk, or of a snapshot of one.
pub fn is_of_raw_disk(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "raw") || disk_of_snapshot(path).is_some()
}

/// The tool of whoever is not the node: guests, and those who look.
pub fn raw_tool(disk: &MemDisk) -> FakeImageTool {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let tool = FakeImageTool::new(Arc::clone(&shared));
    match raw_pool(disk) {
        Some(pool) => tool.with_zfs(pool),
        None => tool,
    }
}

/// The pool on this disk, as whoever is not the node sees it.
pub fn raw_pool(disk: &MemDisk) -> Option<FakeZfs> {
    let there = disk.metadata(Path::new(POOL_FILE)).is_ok_and(|found| found.is_some());
    if there { Storage::Zvols.pool(Arc::new(disk.clone())) } else { None }
}

/// All ZFS volumes there are, as devices.
pub fn devices(disk: &MemDisk) -> Vec<PathBuf> {
    let pool = raw_pool(disk).and_then(|pool| pool.pool().ok());
    let datasets = pool.map(|pool| pool.datasets).unwrap_or_default();
    // A clone is whose who made it.
    let is_ours = |volume: &FakeZvol| volume.origin.is_none();
    let volumes = datasets.iter().filter(|(_, dataset)| dataset.volume.as_ref().is_some_and(is_ours));
    volumes.map(|(name, _)| Dataset::parse(name).expect("a name of the pool").device()).collect()
}

/// Makes the pool that a World with this storage needs.
pub fn make_pool(storage: Storage, disk: &MemDisk) {
    if let Some(pool) = storage.pool(Arc::new(disk.clone())) {
        pool.make_pool().expect("an empty disk takes a pool");
    }
}

/// What a guest wrote there becomes durable.
pub fn flush(disk: &MemDisk, volume: &Path) -> io::Result<()> {
    match raw_pool(disk).filter(|_| is_device(volume)) {
        None => disk.sync_file(volume),
        Some(pool) => {
            let dataset = Dataset::of_device(volume).map_err(io::Error::other)?;
            pool.flush(&dataset).map_err(io::Error::other)
        }
    }
}

fn root() -> Dataset {
    Dataset::parse(ROOT).expect("a name")
}

/// The fake pool, with faults of its own.
#[derive(Debug, Clone)]
struct WorldZfs {
    inner: FakeZfs,
    ground: SharedGround,
}

impl WorldZfs {
    fn strike(&self, what: &str, object: &dyn std::fmt::Display) -> Result<(), ZfsError> {
        let mut ground = locked(&self.ground);
        if !ground.faults.strikes(FaultKind::Tool) {
            return Ok(());
        }
        ground.note(format_args!("FAULT zfs fails: {what} {object}"));
        let (what, said) = (what.to_owned(), format!("out of luck {INJECTED}"));
        Err(match ground.faults.count_of(FaultKind::Tool) % 3 {
            0 => ZfsError::Suspended { pool: ROOT.to_owned() },
            1 => ZfsError::Panicked { what, said },
            _ => ZfsError::Failed { what, said },
        })
    }

    /// The reference model hears of a volume that is gone also if the power went while it was going.
    fn hears_of_its_end(&self, dataset: &Dataset, found: Result<Zvol, ZfsError>) -> Result<Zvol, ZfsError> {
        if let Err(ZfsError::Missing { .. }) = found {
            locked(&self.ground).file_removed(&dataset.device());
        }
        found
    }

    fn strike_group(&self, what: &str, group: &[SnapshotOf]) -> Result<(), ZfsError> {
        match group.first() {
            Some(first) => self.strike(what, first),
            None => Ok(()),
        }
    }
}

impl Zfs for WorldZfs {
    fn room(&self, dataset: &Dataset) -> Result<Room, ZfsError> {
        self.strike("look at", dataset)?;
        self.inner.room(dataset)
    }

    fn volumes(&self, parent: &Dataset) -> Result<Vec<Zvol>, ZfsError> {
        self.inner.volumes(parent)
    }

    fn volume(&self, dataset: &Dataset) -> Result<Zvol, ZfsError> {
        self.strike("get", dataset)?;
        self.hears_of_its_end(dataset, self.inner.volume(dataset))
    }

    fn create_volume(&self, dataset: &Dataset, new: &NewZvol, cx: &HandlerCx<'_>) -> Result<(), ZfsError> {
        self.strike("create", dataset)?;
        self.inner.create_volume(dataset, new, cx)
    }

    fn set_property(&self, dataset: &Dataset, property: &str, value: &str) -> Result<(), ZfsError> {
        self.strike("set", dataset)?;
        self.inner.set_property(dataset, property, value)
    }

    fn destroy_volume(&self, dataset: &Dataset, cx: &HandlerCx<'_>) -> Result<(), ZfsError> {
        self.strike("destroy", dataset)?;
        self.inner.destroy_volume(dataset, cx)?;
        locked(&self.ground).file_removed(&dataset.device());
        Ok(())
    }

    fn flush(&self, dataset: &Dataset) -> Result<(), ZfsError> {
        self.inner.flush(dataset)
    }

    fn user_of(&self, dataset: &Dataset) -> Result<Option<String>, ZfsError> {
        self.inner.user_of(dataset)
    }

    fn snapshots(&self, dataset: &Dataset) -> Result<Vec<ZfsSnapshot>, ZfsError> {
        self.strike("list", dataset)?;
        self.inner.snapshots(dataset)
    }

    fn bookmarks(&self, dataset: &Dataset) -> Result<Vec<Bookmark>, ZfsError> {
        self.inner.bookmarks(dataset)
    }

    fn snapshot(&self, group: &[SnapshotOf], cx: &HandlerCx<'_>) -> Result<(), ZfsError> {
        self.strike_group("snapshot", group)?;
        self.inner.snapshot(group, cx)
    }

    fn rollback(
        &self,
        group: &[SnapshotOf],
        agreed: &[AgreedOf],
        token: &str,
        cx: &HandlerCx<'_>,
    ) -> Result<(), ZfsError> {
        self.strike_group("rollback", group)?;
        self.inner.rollback(group, agreed, token, cx)
    }

    fn destroy_snapshots(&self, group: &[SnapshotOf], cx: &HandlerCx<'_>) -> Result<(), ZfsError> {
        self.strike_group("destroy", group)?;
        self.inner.destroy_snapshots(group, cx)
    }
}
