//! Between the node and its devices: counts each call that changes something, and keeps the moment before it.
//!
//! ```text
//!   node ──▶ TapDisk ──before each change──▶ Recorder: Off, All (a CutPoint for each), At(n) (one CutPoint)
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

use holdfast_persist::MemDisk;
use holdfast_persist::disk::{DirEntry, Disk, DiskLock, Metadata, Space};

use super::Survival;
use super::ground::{Ground, SharedGround};

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
    failing: Option<Failing>,
}

/// One call that fails, with the node left alive.
#[derive(Debug, Clone, Copy)]
struct Failing {
    at_call: u64,
    kind: io::ErrorKind,
    has_fired: bool,
}

/// Clones are the same tap.
#[derive(Debug, Clone)]
pub struct Tap {
    pub disk: MemDisk,
    ground: Arc<Mutex<Ground>>,
    state: Arc<Mutex<State>>,
}

impl Tap {
    pub fn new(disk: MemDisk, ground: Arc<Mutex<Ground>>, recorder: Recorder) -> Self {
        let state = State { calls: 0, recorder, failing: None };
        Tap { disk, ground, state: Arc::new(Mutex::new(state)) }
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

    /// The `n`-th changing call from now on fails so, and does nothing.
    pub fn fail_at(&self, n: u64, kind: io::ErrorKind) {
        let mut state = self.state();
        let at_call = state.calls + n;
        state.failing = Some(Failing { at_call, kind, has_fired: false });
    }

    /// Whether the injected failure has fired.
    pub fn has_failed(&self) -> bool {
        self.state().failing.is_some_and(|failing| failing.has_fired)
    }

    /// To be called before each change of a device, with nothing of the ground locked.
    pub fn before(&self, verb: &str, object: &dyn std::fmt::Display) -> io::Result<()> {
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
        if let Some(failing) = &mut state.failing
            && failing.at_call == call
        {
            failing.has_fired = true;
            return Err(io::Error::new(
                failing.kind,
                format!("cannot {verb} {object}: {} (injected)", failing.kind),
            ));
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn change(&self, verb: &str, path: &Path) -> io::Result<()> {
        self.before(verb, &path.display())
    }

    /// The reference model hears of each file that loses its name.
    fn unnamed(&self, path: &Path) {
        super::ground::locked(&self.ground).file_removed(path);
    }
}

/// The disk as the node sees it.
#[derive(Debug, Clone)]
pub struct TapDisk(pub Tap);

impl Disk for TapDisk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.0.disk.read(path)
    }

    fn read_at(&self, path: &Path, offset_bytes: u64, len_bytes: usize) -> io::Result<Vec<u8>> {
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

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.0.change("remove", path)?;
        self.0.disk.remove_file(path)?;
        self.0.unnamed(path);
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
        self.0.disk.list(path)
    }

    fn metadata(&self, path: &Path) -> io::Result<Option<Metadata>> {
        self.0.disk.metadata(path)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        self.0.disk.space(path)
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
