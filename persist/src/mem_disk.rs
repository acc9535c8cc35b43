//! [`Disk`] in memory, which forgets at [`MemDisk::crash`] whatever was not synced.
//!
//! ```text
//!   write, truncate ──▶ live bytes ───sync_file──▶ durable bytes       (per file)
//!   create, rename, exchange, remove ──▶ live names ───sync_dir──▶ durable names (per directory)
//!   crash: live := durable, from the root down
//!   crash_with: whoever calls says for each un-synced thing whether it is kept, lost or torn
//! ```
//!
//! [`MemDisk::crash`] is the most forgetful disk that the seam allows: a file whose name was synced and whose content
//! was not comes back empty. A rename into another directory may come back under both names (only the new directory
//! synced) or under none (only the old one synced): sync the new directory first. What is written over in place under a name
//! that an un-synced exchange gave is lost to the other name too, as on a real disk: there it is the same file.
//!
//! Calls are counted and logged; a fuse makes one of them fail, or one and all after it (the power is gone).
//! Errors have the kinds the kernel gives; the conformance suite in `tests/` runs on both. A [`MemDisk::fork`] costs
//! no copy of content, so that a simulation can keep the disk of every moment.
//!
//! Deliberately absent: chance. Which un-synced writes survive is for the simulation to draw.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::hash::Hasher;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use self::tree::{Body, Fuse, Inode, InodeId, ROOT, State, Survivors, split, usize_of};
use crate::disk::{DirEntry, Disk, DiskLock, Metadata, Space, named};

mod tree;

const UNLIMITED_BYTES: u64 = 1 << 40;

/// A disk in memory. Clones share the same disk, as two processes share one.
#[derive(Clone)]
pub struct MemDisk {
    state: Arc<Mutex<State>>,
}

/// One call made to the disk, for assertions and traces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub verb: &'static str,
    pub path: PathBuf,
}

impl fmt::Display for Call {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.verb, self.path.display())
    }
}

/// Something that was not synced when the power went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsynced<'a> {
    /// The content of a file.
    Content { path: &'a Path },
    /// Names in a directory. Those that renames tie together share one fate.
    Names { directory: &'a Path, names: &'a [OsString] },
}

/// What becomes of something that was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Lost,
    Kept,
    /// Of a file's content, sector `i` is kept if bit `i % 64` is set: torn and out of order. Names are kept.
    Torn {
        sector_bytes: usize,
        kept_sectors: u64,
    },
}

impl MemDisk {
    /// An empty disk: just `/`, with room for a tebibyte.
    pub fn new() -> Self {
        MemDisk::with_capacity(UNLIMITED_BYTES)
    }

    /// An empty disk that is full once its files hold this many bytes.
    pub fn with_capacity(capacity_bytes: u64) -> Self {
        let mut state = State {
            inodes: BTreeMap::new(),
            next_inode: ROOT,
            capacity_bytes,
            exchanges_names: true,
            used_bytes: 0,
            call_count: 0,
            log: Some(Vec::new()),
            fuses: Vec::new(),
            locks: BTreeMap::new(),
            next_lock: 0,
        };
        state.new_inode(0o755, Body::empty_directory());
        MemDisk { state: Arc::new(Mutex::new(state)) }
    }

    /// The `n`-th call from now on (the next one is 1) fails with this kind and does nothing.
    pub fn fail_at(&self, n: usize, kind: ErrorKind) {
        self.set_fuse(n, kind, false);
    }

    /// The `n`-th call from now on and all after it fail and do nothing, until [`MemDisk::crash`].
    pub fn cut_power_at(&self, n: usize) {
        self.set_fuse(n, ErrorKind::BrokenPipe, true);
    }

    /// The power is gone and back: all that was not synced is lost, locks are free, fuses are reset.
    pub fn crash(&self) {
        self.crash_with(&mut |_| Fate::Lost);
    }

    /// The power is gone and back, and of what was not synced survives what the caller says; locks are free, fuses
    /// are reset. Asked in the order of paths, directories before what is in them.
    pub fn crash_with(&self, fate: &mut dyn FnMut(Unsynced<'_>) -> Fate) {
        let mut state = self.lock_state();
        let Survivors { kept, next_inode, used_bytes, .. } = Survivors::of(&state, fate);
        state.inodes = kept;
        state.next_inode = next_inode;
        state.used_bytes = used_bytes;
        state.locks.clear();
        state.fuses.clear();
    }

    /// Another disk that is now as this one is, un-synced writes included; from here on they differ. It counts its
    /// calls but does not log them, and has no locks and fuses. Content is shared until one of them changes it.
    pub fn fork(&self) -> MemDisk {
        let state = self.lock_state();
        MemDisk::another(&state, state.inodes.clone(), state.next_inode, state.used_bytes)
    }

    /// A fork on which [`MemDisk::crash_with`] was called; this one goes on.
    pub fn fork_after_cut(&self, fate: &mut dyn FnMut(Unsynced<'_>) -> Fate) -> MemDisk {
        let state = self.lock_state();
        let Survivors { kept, next_inode, used_bytes, .. } = Survivors::of(&state, fate);
        MemDisk::another(&state, kept, next_inode, used_bytes)
    }

    fn another(
        state: &State,
        inodes: BTreeMap<InodeId, Inode>,
        next_inode: InodeId,
        used_bytes: u64,
    ) -> MemDisk {
        let state = State {
            inodes,
            next_inode,
            capacity_bytes: state.capacity_bytes,
            exchanges_names: state.exchanges_names,
            used_bytes,
            call_count: 0,
            log: None,
            fuses: Vec::new(),
            locks: BTreeMap::new(),
            next_lock: state.next_lock,
        };
        MemDisk { state: Arc::new(Mutex::new(state)) }
    }

    /// Equal for disks that hold the same names with the same live content. Not a counted call.
    pub fn fingerprint(&self) -> u64 {
        // Without keys: the same in every process.
        let mut hasher = rustc_hash::FxHasher::default();
        self.lock_state().hash_below(ROOT, &mut hasher);
        hasher.finish()
    }

    /// Changes the room on the disk; files that are there stay.
    pub fn set_capacity(&self, capacity_bytes: u64) {
        self.lock_state().capacity_bytes = capacity_bytes;
    }

    /// From now on it exchanges no names, as file systems that cannot. So do its forks.
    pub fn exchange_no_names(&self) {
        self.lock_state().exchanges_names = false;
    }

    /// Every call so far, failed ones too; nothing on a fork.
    pub fn calls(&self) -> Vec<Call> {
        self.lock_state().log.clone().unwrap_or_default()
    }

    pub fn call_count(&self) -> usize {
        self.lock_state().call_count
    }

    /// The paths of all files and symlinks that are there now, sorted. Not a counted call.
    pub fn all_files(&self) -> Vec<PathBuf> {
        let state = self.lock_state();
        let mut found = Vec::new();
        state.collect_files(ROOT, Path::new("/"), &mut found);
        found
    }

    fn set_fuse(&self, n: usize, kind: ErrorKind, and_all_after: bool) {
        let mut state = self.lock_state();
        let at_call = state.call_count + n;
        state.fuses.push(Fuse { at_call, kind, and_all_after });
    }

    fn lock_state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Logs the call, lets a fuse blow, then does it.
    fn call<T>(
        &self,
        verb: &'static str,
        path: &Path,
        act: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.lock_state();
        state.call_count += 1;
        if let Some(log) = &mut state.log {
            log.push(Call { verb, path: path.to_path_buf() });
        }
        match state.blown_fuse() {
            Some(kind) => Err(io::Error::new(kind, format!("{kind} (injected)"))),
            None => act(&mut state),
        }
        .map_err(|e| named(verb, path, e))
    }
}

impl Default for MemDisk {
    fn default() -> Self {
        MemDisk::new()
    }
}

impl fmt::Debug for MemDisk {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("MemDisk").field("calls", &self.call_count()).finish_non_exhaustive()
    }
}

impl Disk for MemDisk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.call("read", path, |state| Ok(state.content(path)?.to_vec()))
    }

    fn read_at(&self, path: &Path, offset_bytes: u64, len_bytes: usize) -> io::Result<Vec<u8>> {
        self.call("read", path, |state| {
            let bytes = state.content(path)?;
            let start = usize::try_from(offset_bytes).unwrap_or(usize::MAX).min(bytes.len());
            let end = start.saturating_add(len_bytes).min(bytes.len());
            Ok(bytes[start..end].to_vec())
        })
    }

    fn create_new(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        self.call("create", path, |state| {
            state.link_new(path, mode, Body::empty_file())?;
            state.write(path, 0, bytes)
        })
    }

    fn write_at(&self, path: &Path, offset_bytes: u64, bytes: &[u8]) -> io::Result<()> {
        self.call("write", path, |state| {
            if state.find(path)?.is_none() {
                state.link_new(path, 0o600, Body::empty_file())?;
            }
            state.write(path, usize_of(offset_bytes)?, bytes)
        })
    }

    fn truncate(&self, path: &Path, size_bytes: u64) -> io::Result<()> {
        self.call("truncate", path, |state| {
            // A hole needs no room, as on a real file system; here it is held as zeros and counted later.
            state.resize(path, usize_of(size_bytes)?)
        })
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        self.call("sync file", path, |state| match &mut state.existing(path)?.body {
            Body::File { live, durable } => {
                durable.clone_from(live);
                Ok(())
            }
            Body::Directory { .. } => Err(ErrorKind::IsADirectory.into()),
        })
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.call("sync directory", path, |state| match &mut state.existing(path)?.body {
            Body::Directory { live, durable, ties } => {
                durable.clone_from(live);
                ties.clear();
                Ok(())
            }
            Body::File { .. } => Err(ErrorKind::NotADirectory.into()),
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call("rename", from, |state| {
            let moved = state.find(from)?.ok_or(ErrorKind::NotFound)?;
            if to.starts_with(from) && to != from {
                return Err(ErrorKind::InvalidInput.into());
            }
            let replaced = state.find(to)?;
            if let Some(replaced) = replaced {
                state.check_replaceable(moved, replaced)?;
            }
            let (to_dir, to_name) = split(to)?;
            let (from_dir, from_name) = split(from)?;
            if from_dir == to_dir {
                state.tie(&to_dir, &from_name, &to_name)?;
            }
            state.directory(&to_dir)?.insert(to_name, moved);
            if from != to {
                state.directory(&from_dir)?.remove(&from_name);
                replaced.into_iter().for_each(|replaced| state.unnamed(replaced));
            }
            Ok(())
        })
    }

    fn exchange(&self, from: &Path, to: &Path) -> io::Result<bool> {
        self.call("exchange", from, |state| {
            let here = state.find(from)?.ok_or(ErrorKind::NotFound)?;
            let there = state.find(to)?.ok_or(ErrorKind::NotFound)?;
            let (dir, from_name) = split(from)?;
            let (to_dir, to_name) = split(to)?;
            if dir != to_dir || !state.exchanges_names {
                return Ok(false);
            }
            state.tie(&dir, &from_name, &to_name)?;
            let names = state.directory(&dir)?;
            names.insert(from_name, there);
            names.insert(to_name, here);
            Ok(true)
        })
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.call("remove", path, |state| {
            state.content(path)?;
            state.unlink(path)
        })
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.call("remove directory", path, |state| {
            if !state.names_in(path)?.is_empty() {
                return Err(ErrorKind::DirectoryNotEmpty.into());
            }
            state.unlink(path)
        })
    }

    fn create_dir(&self, path: &Path, mode: u32) -> io::Result<()> {
        self.call("create directory", path, |state| {
            state.link_new(path, mode, Body::empty_directory())?;
            Ok(())
        })
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.call("list", path, |state| {
            let names = state.names_in(path)?;
            Ok(names.iter().map(|(name, id)| state.entry(name.clone(), *id)).collect())
        })
    }

    fn metadata(&self, path: &Path) -> io::Result<Option<Metadata>> {
        self.call("look at", path, |state| match state.find(path) {
            Ok(Some(id)) => Ok(Some(state.inodes[&id].metadata())),
            Ok(None) => Ok(None),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        })
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        self.call("measure space at", path, |state| {
            state.existing(path)?;
            Ok(Space { free_bytes: state.free_bytes(), total_bytes: state.capacity_bytes })
        })
    }

    fn lock_exclusive(&self, path: &Path) -> io::Result<DiskLock> {
        let number = self.call("lock", path, |state| {
            if state.find(path)?.is_none() {
                state.link_new(path, 0o600, Body::empty_file())?;
            }
            if state.locks.contains_key(path) {
                return Err(ErrorKind::WouldBlock.into());
            }
            state.next_lock += 1;
            let number = state.next_lock;
            state.locks.insert(path.to_path_buf(), number);
            Ok(number)
        })?;
        let held = HeldLock { state: Arc::clone(&self.state), path: path.to_path_buf(), number };
        Ok(DiskLock::new(path, held))
    }
}

/// Lets go when dropped, unless a crash already did and another has the lock since.
struct HeldLock {
    state: Arc<Mutex<State>>,
    path: PathBuf,
    number: u64,
}

impl Drop for HeldLock {
    fn drop(&mut self) {
        let mut state = self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if state.locks.get(&self.path) == Some(&self.number) {
            state.locks.remove(&self.path);
        }
    }
}
