//! The rows of persistent topics: one small file each, one directory per topic (architecture section 7).
//!
//! ```text
//!   apply([Put a, Put b, Delete c])
//!      ├─ make the topic directories that are missing       (once per directory and process)
//!      ├─ write and sync each temporary, exchange it for the row; remove   (in the order given)
//!      └─ sync each distinct directory once                  after this: durable; what was exchanged is a spare
//! ```
//!
//! A row that was replaced has its last file beside it as a spare, which the next change writes over (`crashsafe.rs`). Only
//! this process's own spares are written over; those of an earlier one go with the next change of the row.
//!
//! A row is atomic; several are not: a cut before `apply` returns may keep any of them. A step whose rows belong
//! together therefore ends with a single row in a call of its own, the commit point.
//!
//! Rows are bytes here. Deliberately absent: JSON, what a key means, and who may write which topic.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::crashsafe;
use crate::disk::{DirEntry, Disk, named};
use crate::layout::{MAX_COMPONENT_BYTES, PersistLayout, component, from_component};
use crate::reserve::{Reserve, with_reserve};

/// One agent's persistent rows.
#[derive(Debug)]
pub struct RowStore {
    disk: Arc<dyn Disk>,
    layout: PersistLayout,
    agent: String,
    reserve: Option<Arc<Reserve>>,
    /// Directories whose names this process has made durable; they are not looked at again.
    ready_dirs: Mutex<BTreeSet<PathBuf>>,
    /// What this process knows to lie beside a row.
    beside: Mutex<BTreeMap<PathBuf, Beside>>,
}

/// A file that bears the name of a row's temporary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beside {
    /// It was the row's, and no cut can make it that again.
    Spare,
    /// Whether a cut could is not known: it goes before anything is written, or with the row.
    Stale,
}

/// A row found on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedRow {
    pub key: String,
    pub path: PathBuf,
    pub bytes: Vec<u8>,
}

/// One change of a row. `topic` and `key` are text; the key may hold anything, it is made into a safe name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowChange<'a> {
    Put { topic: &'a str, key: &'a str, bytes: &'a [u8] },
    Delete { topic: &'a str, key: &'a str },
}

impl RowStore {
    /// Touches nothing: directories come with the first row.
    pub fn new(disk: Arc<dyn Disk>, layout: &PersistLayout, agent: &str) -> Self {
        let agent = agent.to_string();
        let (ready_dirs, beside) = Default::default();
        RowStore { disk, layout: layout.clone(), agent, reserve: None, ready_dirs, beside }
    }

    /// A change that finds no space gives this reserve up and is tried once more; the reserve is spent then.
    pub fn with_reserve(self, reserve: Arc<Reserve>) -> Self {
        RowStore { reserve: Some(reserve), ..self }
    }

    /// Durable when `Ok`. After an error or a cut the row is whole, old or new.
    pub fn put(&self, topic: &str, key: &str, bytes: &[u8]) -> io::Result<()> {
        self.apply(&[RowChange::Put { topic, key, bytes }])
    }

    /// Durable when `Ok`; a row that is missing already is fine. After an error or a cut it may be back.
    pub fn delete(&self, topic: &str, key: &str) -> io::Result<()> {
        self.apply(&[RowChange::Delete { topic, key }])
    }

    /// [`RowStore::apply`] for `(topic, key, bytes)`.
    pub fn put_all(&self, rows: &[(&str, &str, &[u8])]) -> io::Result<()> {
        let changes: Vec<RowChange<'_>> =
            rows.iter().map(|&(topic, key, bytes)| RowChange::Put { topic, key, bytes }).collect();
        self.apply(&changes)
    }

    /// All changes, in order, durable when `Ok`. Each distinct directory is synced once, at the end. After an
    /// error or a cut each row is whole, and any of them may be old or new; applying again finishes.
    pub fn apply(&self, changes: &[RowChange<'_>]) -> io::Result<()> {
        match &self.reserve {
            Some(reserve) => with_reserve(&*self.disk, reserve, || self.apply_once(changes)).map(drop),
            None => self.apply_once(changes),
        }
    }

    /// Every row of the topic, sorted by key. Temporaries that a cut left of rows that are not there are removed; other
    /// strange files are left alone with a warning. A row whose file cannot be read fails the whole load: that is an I/O error,
    /// not damage.
    ///
    /// What is found is durable when `Ok`: an earlier process may have ended between a row's rename and the sync of its
    /// directory, and nobody may act on a row that a cut could still take back.
    pub fn load(&self, topic: &str) -> io::Result<Vec<LoadedRow>> {
        let dir = self.layout.topic_dir(&self.agent, topic);
        let entries = match self.disk.list(&dir) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            listed => listed?,
        };
        self.see_to_temporaries(&dir, &entries)?;
        self.disk.sync_dir(&dir)?;
        let mut rows = Vec::new();
        for entry in entries.into_iter().filter(|entry| !crashsafe::is_temporary(&entry.name)) {
            let path = dir.join(&entry.name);
            match entry.text().and_then(key_of).filter(|_| entry.is_file()) {
                Some(key) => rows.push(LoadedRow { key, bytes: self.disk.read(&path)?, path }),
                None => tracing::warn!(path = %path.display(), "not a row, left alone"),
            }
        }
        rows.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(rows)
    }

    /// Where the row is kept, for messages and for quarantine.
    pub fn path_of(&self, topic: &str, key: &str) -> PathBuf {
        self.layout.row_file(&self.agent, topic, &key)
    }

    /// What lies beside a row goes with its next change, for a node that is read-only changes nothing. What belongs to no row
    /// goes now.
    fn see_to_temporaries(&self, dir: &Path, entries: &[DirEntry]) -> io::Result<()> {
        self.beside().retain(|row, _| row.parent() != Some(dir));
        for entry in entries.iter().filter(|entry| entry.is_file()) {
            let Some(name) = crashsafe::of_temporary(&entry.name) else { continue };
            let row = dir.join(name);
            // They come sorted by name.
            if entries.binary_search_by(|entry| entry.name.as_os_str().cmp(name)).is_ok() {
                self.beside().insert(row, Beside::Stale);
                continue;
            }
            match crashsafe::sweep_temporary_of(&*self.disk, &row) {
                Err(error) if error.kind() == ErrorKind::ReadOnlyFilesystem => return Ok(()),
                swept => swept?,
            }
        }
        Ok(())
    }

    fn apply_once(&self, changes: &[RowChange<'_>]) -> io::Result<()> {
        let (mut dirs, mut exchanged) = (BTreeSet::new(), BTreeSet::new());
        let applied = changes
            .iter()
            .try_for_each(|change| self.apply_unsynced(change, &mut dirs, &mut exchanged))
            .and_then(|()| dirs.iter().try_for_each(|dir| self.disk.sync_dir(dir)));
        if applied.is_ok() {
            let mut beside = self.beside();
            for row in exchanged {
                // Unless it was deleted after that.
                beside.entry(row).and_modify(|stale| *stale = Beside::Spare);
            }
        }
        applied
    }

    /// Adds the directory that has to be synced for it, if any, and the row if the file it had has become its spare by then.
    fn apply_unsynced(
        &self,
        change: &RowChange<'_>,
        dirs: &mut BTreeSet<PathBuf>,
        exchanged: &mut BTreeSet<PathBuf>,
    ) -> io::Result<()> {
        let (RowChange::Put { topic, key, .. } | RowChange::Delete { topic, key }) = *change;
        let (dir, path) = self.place_of(topic, key)?;
        match *change {
            RowChange::Put { bytes, .. } => {
                self.ensure_ready(&dir)?;
                let beside = self.beside().insert(path.clone(), Beside::Stale);
                let has_spare = beside == Some(Beside::Spare);
                if crashsafe::exchange_unsynced(&*self.disk, &path, bytes, has_spare)? {
                    exchanged.insert(path);
                } else {
                    self.beside().remove(&path);
                }
                dirs.insert(dir);
            }
            RowChange::Delete { .. } => {
                if self.beside().contains_key(&path) {
                    crashsafe::sweep_temporary_of(&*self.disk, &path)?;
                    self.beside().remove(&path);
                }
                self.remove_unsynced(&path)?;
                // Without its directory the row is gone, and the directory's name was durable or never there.
                if self.disk.metadata(&dir)?.is_some() {
                    dirs.insert(dir);
                }
            }
        }
        Ok(())
    }

    fn remove_unsynced(&self, path: &Path) -> io::Result<()> {
        match self.disk.remove_file(path) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    fn place_of(&self, topic: &str, key: &str) -> io::Result<(PathBuf, PathBuf)> {
        let path = self.path_of(topic, key);
        if component(&key).len() > MAX_COMPONENT_BYTES {
            return Err(named("name a row", &path, ErrorKind::InvalidFilename.into()));
        }
        Ok((self.layout.topic_dir(&self.agent, topic), path))
    }

    fn ensure_ready(&self, dir: &Path) -> io::Result<()> {
        if self.ready_dirs().contains(dir) {
            return Ok(());
        }
        crashsafe::ensure_dir(&*self.disk, dir)?;
        self.ready_dirs().insert(dir.to_path_buf());
        Ok(())
    }

    fn ready_dirs(&self) -> MutexGuard<'_, BTreeSet<PathBuf>> {
        self.ready_dirs.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn beside(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Beside>> {
        self.beside.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// The row whose spare a file of this name is, as long as that row is there.
pub fn row_of_spare(layout: &PersistLayout, path: &Path) -> Option<PathBuf> {
    let row = path.with_file_name(crashsafe::of_temporary(path.file_name()?)?);
    row.starts_with(layout.status_root()).then_some(row)
}

fn key_of(name: &str) -> Option<String> {
    from_component(name.strip_suffix(".json")?)
}
