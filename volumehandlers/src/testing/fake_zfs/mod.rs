//! [`Zfs`] in memory, or rather on any `Disk`, with the rules of the real one:
//!
//! * a change is one transaction group: durable and whole, or not there; it takes along what guests wrote before it;
//! * what a guest wrote and nobody flushed may be lost in a power cut;
//! * no snapshot goes that has a hold or a clone, no volume that has snapshots or is open;
//! * a rollback goes to the newest snapshot only, and not under an open device;
//! * names end at 255 bytes, quotas are kept, a full pool still lets go of what is deleted;
//! * a pool that is suspended answers nothing, one that is read-only changes nothing.
//!
//! Power cuts and I/O errors come from the disk below it; [`FakeZfs::fail_next`] and [`FakeZfs::panic_next`] make the
//! next call itself fail, or panic as a library may. Deliberately absent: time limits, and several pools.

mod pool;
mod store;
mod verbs;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use holdfast_persist::Disk;
use holdfast_types::error::Timestamp;

use self::pool::missing;
use self::store::{Loaded, Store};
use crate::zvol::zfs::SnapshotOf;
use crate::zvol::{Dataset, ZfsError};

pub use pool::{BLOCK_BYTES, FakeDataset, FakeZfsSnapshot, FakeZvol, Pool};

/// Clones share the pool, open devices, orders to fail and the clock.
#[derive(Clone)]
pub struct FakeZfs {
    root: Dataset,
    store: Arc<Store>,
    state: Arc<Mutex<Volatile>>,
}

/// The calls, to order one to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ZfsVerb {
    Room,
    Volumes,
    Volume,
    CreateVolume,
    SetProperty,
    DestroyVolume,
    Flush,
    UserOf,
    Snapshots,
    Bookmarks,
    Snapshot,
    Rollback,
    DestroySnapshots,
}

/// What no power cut survives, and what a test ordered.
#[derive(Default)]
struct Volatile {
    open: BTreeMap<Dataset, Vec<String>>,
    orders: BTreeMap<ZfsVerb, VecDeque<Order>>,
    trouble: Option<ZfsError>,
    now: Timestamp,
}

enum Order {
    Fail(ZfsError),
    Panic(String),
}

/// Keeps a device open until dropped or until the power is cut.
pub struct OpenDevice {
    state: Arc<Mutex<Volatile>>,
    dataset: Dataset,
    user: String,
}

impl fmt::Debug for OpenDevice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("OpenDevice").field("dataset", &self.dataset).finish_non_exhaustive()
    }
}

impl Drop for OpenDevice {
    fn drop(&mut self) {
        let mut state = self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(users) = state.open.get_mut(&self.dataset) {
            if let Some(at) = users.iter().position(|user| *user == self.user) {
                users.remove(at);
            }
            if users.is_empty() {
                state.open.remove(&self.dataset);
            }
        }
    }
}

impl fmt::Debug for FakeZfs {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("FakeZfs").field("store", &self.store).finish_non_exhaustive()
    }
}

impl FakeZfs {
    /// The pool of `root` in this file; touches nothing. Without the file there is no pool.
    pub fn new(disk: Arc<dyn Disk>, file: &Path, root: &Dataset) -> Self {
        let store = Arc::new(Store::new(disk, file, root.pool()));
        FakeZfs { root: root.clone(), store, state: Arc::default() }
    }

    /// Makes the pool with its root dataset, durably.
    pub fn make_pool(&self) -> Result<(), ZfsError> {
        self.store.create(&Pool::new(&self.root))
    }

    pub fn root(&self) -> &Dataset {
        &self.root
    }

    /// What snapshots are dated with; starts at 1970 and stands still between calls of this.
    pub fn set_now(&self, now: Timestamp) {
        self.lock_state().now = now;
    }

    /// The next call of this kind fails so, before it has done anything. Several orders queue up.
    pub fn fail_next(&self, verb: ZfsVerb, error: ZfsError) {
        self.lock_state().orders.entry(verb).or_default().push_back(Order::Fail(error));
    }

    /// The next call of this kind panics, before it has done anything.
    pub fn panic_next(&self, verb: ZfsVerb, said: &str) {
        self.lock_state().orders.entry(verb).or_default().push_back(Order::Panic(said.to_owned()));
    }

    /// Until this is taken back with `None`, every call fails so; with [`ZfsError::ReadOnly`], every change, and lists
    /// of snapshots, which are channel programs.
    pub fn set_trouble(&self, trouble: Option<ZfsError>) {
        self.lock_state().trouble = trouble;
    }

    /// The device is open until the guard is dropped.
    pub fn open(&self, dataset: &Dataset, user: &str) -> OpenDevice {
        self.lock_state().open.entry(dataset.clone()).or_default().push(user.to_owned());
        OpenDevice { state: Arc::clone(&self.state), dataset: dataset.clone(), user: user.to_owned() }
    }

    /// No process survives a power cut: all devices are closed, and the pool is read anew.
    pub fn forget_opens(&self) {
        self.lock_state().open.clear();
        self.store.forget();
    }

    /// Before the pool is looked at again, what was written last becomes durable: whoever wrote it may have died before that.
    pub fn doubt(&self) {
        self.store.doubt();
    }

    /// All of the pool as it is now.
    pub fn pool(&self) -> Result<Pool, ZfsError> {
        self.store.load().map(|loaded| loaded.pool)
    }

    /// The volume as it is now, with what guests wrote and nobody flushed.
    pub fn device(&self, dataset: &Dataset) -> Result<FakeZvol, ZfsError> {
        self.pool()?.volume(dataset).cloned()
    }

    /// A guest's write; lost in a cut unless flushed.
    pub fn write(&self, dataset: &Dataset, block: u64, text: &str) -> Result<(), ZfsError> {
        self.edit(dataset, |volume| {
            volume.blocks.insert(block, text.to_owned());
        })
    }

    /// Any change of a volume behind the handler's back. Not flushed.
    pub fn edit(&self, dataset: &Dataset, change: impl FnOnce(&mut FakeZvol)) -> Result<(), ZfsError> {
        let before = self.store.load()?;
        let mut after = before.clone();
        change(after.pool.volume_mut(dataset)?);
        let used = |loaded: &Loaded| loaded.pool.volume(dataset).map(FakeZvol::used_bytes);
        let more_bytes = used(&after)?.saturating_sub(used(&before)?);
        if more_bytes > 0 {
            self.need_room(&before, dataset, more_bytes)?;
        }
        self.store.write(after)
    }

    /// An operator's `zfs hold`.
    pub fn hold(&self, snapshot: &SnapshotOf, tag: &str) -> Result<(), ZfsError> {
        self.operate(|pool, _| {
            let found = pool.snapshot_mut(&snapshot.dataset, snapshot.name.as_str())?;
            found.holds.insert(tag.to_owned());
            Ok(())
        })
    }

    /// An operator's `zfs release`.
    pub fn release(&self, snapshot: &SnapshotOf, tag: &str) -> Result<(), ZfsError> {
        self.operate(|pool, _| {
            let found = pool.snapshot_mut(&snapshot.dataset, snapshot.name.as_str())?;
            found.holds.remove(tag);
            Ok(())
        })
    }

    /// An operator's `zfs clone`.
    pub fn clone_snapshot(&self, snapshot: &SnapshotOf, clone: &Dataset) -> Result<(), ZfsError> {
        self.operate(|pool, _| {
            let found = pool.snapshot_mut(&snapshot.dataset, snapshot.name.as_str())?.clone();
            let volume = FakeZvol {
                size_bytes: found.size_bytes,
                blocks: found.blocks,
                snapshots: Vec::new(),
                bookmarks: Default::default(),
                origin: Some(snapshot.to_string()),
            };
            let dataset = FakeDataset { volume: Some(volume), ..FakeDataset::default() };
            pool.datasets.insert(clone.to_string(), dataset);
            Ok(())
        })
    }

    /// An operator's `zfs destroy` of a clone or of any other dataset without children.
    pub fn remove_dataset(&self, dataset: &Dataset) -> Result<(), ZfsError> {
        self.operate(|pool, _| {
            pool.datasets.remove(dataset.as_str()).map(drop).ok_or_else(|| missing(dataset))
        })
    }

    /// An operator's `zfs destroy` of a snapshot that nothing keeps.
    pub fn remove_snapshot(&self, snapshot: &SnapshotOf) -> Result<(), ZfsError> {
        self.operate(|pool, _| {
            pool.snapshot_mut(&snapshot.dataset, snapshot.name.as_str())?;
            let volume = pool.volume_mut(&snapshot.dataset)?;
            volume.snapshots.retain(|other| other.name != snapshot.name.as_str());
            Ok(())
        })
    }

    /// An operator's `zfs bookmark`.
    pub fn bookmark(&self, snapshot: &SnapshotOf, name: &str) -> Result<(), ZfsError> {
        self.operate(|pool, _| {
            let made_in = pool.snapshot_mut(&snapshot.dataset, snapshot.name.as_str())?.created_in;
            pool.volume_mut(&snapshot.dataset)?.bookmarks.insert(name.to_owned(), made_in);
            Ok(())
        })
    }

    /// An operator's `zfs destroy` of a bookmark.
    pub fn remove_bookmark(&self, dataset: &Dataset, name: &str) -> Result<(), ZfsError> {
        self.operate(|pool, _| {
            pool.volume_mut(dataset)?.bookmarks.remove(name).map(drop).ok_or_else(|| missing(dataset))
        })
    }

    /// An operator's `zfs create -V`.
    pub fn make_dataset(&self, dataset: &Dataset, size_bytes: u64) -> Result<(), ZfsError> {
        self.operate(|pool, _| {
            let volume = FakeZvol {
                size_bytes,
                blocks: Default::default(),
                snapshots: Vec::new(),
                bookmarks: Default::default(),
                origin: None,
            };
            let made = FakeDataset { volume: Some(volume), ..FakeDataset::default() };
            pool.datasets.insert(dataset.to_string(), made);
            Ok(())
        })
    }

    /// An operator's `zfs snapshot`, by any name.
    pub fn foreign_snapshot(&self, dataset: &Dataset, name: &str) -> Result<(), ZfsError> {
        self.operate(|pool, now| pool.cut(dataset, name, now))
    }

    /// An operator's `zfs set`, of a user property.
    pub fn set_foreign_property(&self, dataset: &Dataset, name: &str, value: &str) -> Result<(), ZfsError> {
        self.operate(|pool, _| {
            let found = pool.datasets.get_mut(dataset.as_str()).ok_or_else(|| missing(dataset))?;
            found.properties.insert(name.to_owned(), value.to_owned());
            Ok(())
        })
    }

    /// An operator's `zfs set quota`; `None` takes it away.
    pub fn set_quota(&self, dataset: &Dataset, quota_bytes: Option<u64>) -> Result<(), ZfsError> {
        self.operate(|pool, _| {
            let found = pool.datasets.get_mut(dataset.as_str()).ok_or_else(|| missing(dataset))?;
            found.quota_bytes = quota_bytes;
            Ok(())
        })
    }

    fn operate(
        &self,
        change: impl FnOnce(&mut Pool, Timestamp) -> Result<(), ZfsError>,
    ) -> Result<(), ZfsError> {
        let mut loaded = self.store.load()?;
        let now = self.lock_state().now;
        change(&mut loaded.pool, now)?;
        self.store.commit(loaded)
    }

    /// Quotas first: they are what an operator chose.
    fn need_room(&self, loaded: &Loaded, dataset: &Dataset, more_bytes: u64) -> Result<(), ZfsError> {
        let object = dataset.to_string();
        if loaded.pool.left_by_quotas(dataset.as_str()) < more_bytes {
            return Err(ZfsError::Quota { object });
        }
        match self.store.free_bytes()? {
            free_bytes if free_bytes >= more_bytes => Ok(()),
            _ => Err(ZfsError::NoSpace { object }),
        }
    }

    fn lock_state(&self) -> MutexGuard<'_, Volatile> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
