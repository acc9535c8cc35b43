//! Where persistent rows are kept: one trait, so that the bus needs no file, and its one implementation on disk.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use holdfast_persist::reserve::with_reserve;
use holdfast_persist::rows::{LoadedRow, RowChange, RowStore};
use holdfast_persist::{Disk, PersistLayout, quarantine, reserve::Reserve};

/// Keeps the rows of persistent topics, per owner.
pub trait RowBacking: Send + Sync + fmt::Debug {
    /// All rows of the owner's topic, sorted by key.
    fn load(&self, owner: &str, topic: &str) -> io::Result<Vec<LoadedRow>>;

    /// The changes, in order; durable when `Ok`. After an error or a cut each row is whole, old or new.
    fn apply(&self, owner: &str, changes: &[RowChange<'_>]) -> io::Result<()>;

    /// Moves a row's file aside with the reason; returns where it is now.
    fn quarantine(&self, path: &Path, reason: &str) -> io::Result<PathBuf>;
}

/// Rows as files under the persist directory; a full disk is met with the reserve.
#[derive(Debug)]
pub struct DiskRows {
    disk: Arc<dyn Disk>,
    layout: PersistLayout,
    reserve: Option<Arc<Reserve>>,
    stores: Mutex<BTreeMap<String, Arc<RowStore>>>,
}

impl DiskRows {
    /// `reserve` is the node's; without one a full disk is an error like any other.
    pub fn new(disk: Arc<dyn Disk>, layout: &PersistLayout, reserve: Option<Arc<Reserve>>) -> Self {
        DiskRows { disk, layout: layout.clone(), reserve, stores: Mutex::default() }
    }

    fn store(&self, owner: &str) -> Arc<RowStore> {
        let mut stores = self.stores.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(store) = stores.get(owner) {
            return Arc::clone(store);
        }
        let store = Arc::new(RowStore::new(Arc::clone(&self.disk), &self.layout, owner));
        stores.insert(owner.to_string(), Arc::clone(&store));
        store
    }
}

impl RowBacking for DiskRows {
    fn load(&self, owner: &str, topic: &str) -> io::Result<Vec<LoadedRow>> {
        self.store(owner).load(topic)
    }

    fn apply(&self, owner: &str, changes: &[RowChange<'_>]) -> io::Result<()> {
        let store = self.store(owner);
        match &self.reserve {
            None => store.apply(changes),
            Some(reserve) => with_reserve(&*self.disk, reserve, || store.apply(changes)).map(|_| ()),
        }
    }

    fn quarantine(&self, path: &Path, reason: &str) -> io::Result<PathBuf> {
        quarantine::quarantine(&*self.disk, &self.layout, path, reason)
    }
}
