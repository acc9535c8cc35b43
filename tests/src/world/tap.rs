//! Between the node and its devices: counts each call that changes something, keeps the moment before it, and lets calls fail.
//!
//! ```text
//!   node ──▶ TapDisk ──before each change──▶ Recorder: Off, All (a CutPoint for each), At(n) (one CutPoint)
//!              │     ──then──▶ Faults: ENOSPC, EIO instead of the call, which does nothing then
//!              └──▶ MemDisk
//! ```
//!
//! A power cut *at* a call finds the devices as they are before it; a cut in the middle of it is a cut before the next
//! one, because nothing of a call is durable before a sync. Calls that only read are no moments of their own: the
//! devices are then as they are before the next change.
//!
//! Deliberately absent: the cut itself. A cut point is a copy of everything outside the node, and whoever has it lets
//! the power come back on it as often as he likes.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use holdfast_persist::disk::{DirEntry, Disk, DiskLock, Metadata, Space};
use holdfast_persist::{MemDisk, PersistLayout};

use super::Survival;
use super::faults::{FaultKind, INJECTED};
use super::ground::{Ground, SharedGround};
use super::storage::identity;

/// Everything outside the node, as it was before one call.
#[derive(Debug, Clone)]
pub struct CutPoint {
    /// The number of the call that was not made; the first is 1.
    pub call: u64,
    pub what: String,
    pub disk: MemDisk,
    pub ground: Ground,
}

impl CutPoint {
    /// The ground after a cut at this moment, when the power is back. Faults have stopped: the link is there.
    pub fn after_cut(&self, survival: Survival) -> SharedGround {
        let mut ground = self.ground.clone();
        ground.power_cycle();
        ground.orders.is_away = false;
        ground.note(format_args!(
            "power cut before call {}: {}; un-synced writes: {survival:?}",
            self.call, self.what
        ));
        Arc::new(Mutex::new(ground))
    }
}

/// What becomes of the moments before calls.
#[derive(Debug, Default)]
pub enum Recorder {
    #[default]
    Off,
    All(Vec<CutPoint>),
    /// The call with this number, once.
    At(u64, Option<Box<CutPoint>>),
}

#[derive(Debug)]
struct State {
    calls: u64,
    recorder: Recorder,
}

/// Clones are the same tap.
#[derive(Debug, Clone)]
pub struct Tap {
    pub disk: MemDisk,
    ground: Arc<Mutex<Ground>>,
    state: Arc<Mutex<State>>,
    reserve: PathBuf,
}

impl Tap {
    pub fn new(disk: MemDisk, ground: Arc<Mutex<Ground>>, recorder: Recorder) -> Self {
        let state = State { calls: 0, recorder };
        let reserve = PersistLayout::new("/persist").reserve_file();
        Tap { disk, ground, state: Arc::new(Mutex::new(state)), reserve }
    }

    pub fn record(&self, recorder: Recorder) {
        self.state().recorder = recorder;
    }

    pub fn taken(&self) -> Recorder {
        std::mem::take(&mut self.state().recorder)
    }

    /// True once the call that was waited for was reached.
    pub fn has_cut(&self) -> bool {
        matches!(self.state().recorder, Recorder::At(_, Some(_)))
    }

    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// To be called before each change of a device, with nothing of the ground locked. An error is an injected one, and
    /// the call is not to be made.
    pub fn before(&self, verb: &str, object: &dyn std::fmt::Display) -> io::Result<()> {
        self.moment(verb, object);
        let mut ground = super::ground::locked(&self.ground);
        ground.faults.device_calls += 1;
        if !ground.faults.is_armed() {
            return Ok(());
        }
        let takes_room = !verb.starts_with("remove") && verb != "sync directory";
        let error = if ground.faults.strikes_call(FaultKind::NoSpace, takes_room) {
            io::Error::new(
                io::ErrorKind::StorageFull,
                format!("cannot {verb} {object}: no space left on device {INJECTED}"),
            )
        } else if ground.faults.strikes(FaultKind::Io) {
            io::Error::other(format!("cannot {verb} {object}: input/output error {INJECTED}"))
        } else {
            return Ok(());
        };
        ground.note(format_args!("FAULT {error}"));
        Err(error)
    }

    /// A moment of its own that no device fault can strike.
    pub fn moment(&self, verb: &str, object: &dyn std::fmt::Display) {
        let mut state = self.state();
        state.calls += 1;
        let call = state.calls;
        if super::ground::locked(&self.ground).is_traced {
            super::ground::locked(&self.ground).tell([format!("call {call}: {verb} {object}")]);
        }
        let point = |ground: &Mutex<Ground>, disk: &MemDisk| CutPoint {
            call,
            what: format!("{verb} {object}"),
            disk: disk.fork(),
            ground: super::ground::locked(ground).clone(),
        };
        match &mut state.recorder {
            Recorder::Off => {}
            Recorder::All(points) => points.push(point(&self.ground, &self.disk)),
            Recorder::At(wanted, taken) if *wanted == call => {
                *taken = Some(Box::new(point(&self.ground, &self.disk)));
            }
            Recorder::At(..) => {}
        }
    }

    /// To be called before each look at a device.
    fn before_look(&self, verb: &str, path: &Path) -> io::Result<()> {
        let mut ground = super::ground::locked(&self.ground);
        if !ground.faults.strikes(FaultKind::ReadIo) {
            return Ok(());
        }
        let text = format!("cannot {verb} {}: input/output error {INJECTED}", path.display());
        ground.note(format_args!("FAULT {text}"));
        Err(io::Error::other(text))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn change(&self, verb: &str, path: &Path) -> io::Result<()> {
        self.before(verb, &path.display())
    }

    /// The reference model hears of each file that loses its name.
    fn unnamed(&self, path: &Path) {
        let volume = identity(path);
        let directory = path.parent().unwrap_or(path);
        let is_another = |other: &PathBuf| other != path && identity(other) == volume;
        let is_raw = path.extension().is_some_and(|extension| extension == "raw");
        let is_left = is_raw && volume_files(&self.disk, directory).iter().any(is_another);
        let mut ground = super::ground::locked(&self.ground);
        if is_left { ground.incarnation_removed(path) } else { ground.file_removed(&volume) }
    }

    /// What is removed from a full disk makes room if it is the ballast.
    fn removed(&self, path: &Path) {
        self.unnamed(path);
        if path.file_name() == self.reserve.file_name() {
            super::ground::locked(&self.ground).faults.room_is_made();
        }
    }
}

/// The disk as the node sees it.
#[derive(Debug, Clone)]
pub struct TapDisk(pub Tap);

impl Disk for TapDisk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.0.before_look("read", path)?;
        self.0.disk.read(path)
    }

    fn read_at(&self, path: &Path, offset_bytes: u64, len_bytes: usize) -> io::Result<Vec<u8>> {
        self.0.before_look("read", path)?;
        self.0.disk.read_at(path, offset_bytes, len_bytes)
    }

    fn create_new(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        self.0.change("create", path)?;
        self.0.disk.create_new(path, bytes, mode)
    }

    fn write_at(&self, path: &Path, offset_bytes: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.change("write", path)?;
        self.0.disk.write_at(path, offset_bytes, bytes)
    }

    fn truncate(&self, path: &Path, size_bytes: u64) -> io::Result<()> {
        self.0.change("truncate", path)?;
        self.0.disk.truncate(path, size_bytes)
    }

    fn overwrite(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.0.change("overwrite", path)?;
        self.0.disk.overwrite(path, bytes)
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        self.0.change("sync file", path)?;
        self.0.disk.sync_file(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.0.change("sync directory", path)?;
        self.0.disk.sync_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.change("rename", from)?;
        self.0.disk.rename(from, to)?;
        self.0.unnamed(from);
        Ok(())
    }

    fn exchange(&self, from: &Path, to: &Path) -> io::Result<bool> {
        self.0.change("exchange", from)?;
        self.0.disk.exchange(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.0.change("remove", path)?;
        self.0.disk.remove_file(path)?;
        self.0.removed(path);
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.0.change("remove directory", path)?;
        self.0.disk.remove_dir(path)
    }

    fn create_dir(&self, path: &Path, mode: u32) -> io::Result<()> {
        self.0.change("create directory", path)?;
        self.0.disk.create_dir(path, mode)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.0.before_look("list", path)?;
        self.0.disk.list(path)
    }

    fn metadata(&self, path: &Path) -> io::Result<Option<Metadata>> {
        self.0.before_look("look at", path)?;
        self.0.disk.metadata(path)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        self.0.before_look("measure space at", path)?;
        let space = self.0.disk.space(path)?;
        let is_full = super::ground::locked(&self.0.ground).faults.is_found_full();
        Ok(if is_full { Space { free_bytes: 0, ..space } } else { space })
    }

    fn lock_exclusive(&self, path: &Path) -> io::Result<DiskLock> {
        self.0.disk.lock_exclusive(path)
    }
}

/// The volume files below a persist directory, by path.
pub fn volume_files(disk: &MemDisk, directory: &Path) -> Vec<PathBuf> {
    let listed = disk.list(directory).unwrap_or_default();
    listed.iter().filter(|entry| entry.is_file()).map(|entry| directory.join(&entry.name)).collect()
}
