//! The hypervisor of the World: processes are rows in a table, and a guest reads and writes its volumes.
//!
//! Whenever a guest starts, it tells the reference model what it found on its volumes, and writes one new mark to all
//! of them, durably, before anything else happens. It keeps its images locked while it runs. Nothing waits: a guest
//! that is asked to go down is gone at once, or (a fault) does not listen and is found running when time is up.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use holdfast_agents::domainmgr::vmm::{Domain, DomainExit, OnExit, Presence, VmSpec, Vmm, VmmError, Wait};
use holdfast_volumehandlers::testing::{Blocks, FakeImageTool, HeldImage};
use uuid::Uuid;

use super::faults::{FaultKind, INJECTED};
use super::ground::{Ground, Machine, Mark, locked};
use super::storage::{flush, identity, raw_tool};
use super::tap::Tap;

/// Versions are told apart by the memory they ask for.
pub const MEMORY_BASE_KIB: u64 = 100_000;
/// A mark stands in several blocks, so that a torn write shows.
const MARKED_BLOCKS: std::ops::RangeInclusive<u64> = 1..=4;

/// One node's view of the hypervisor: watches and locks end with it, the table does not.
pub struct WorldVmm {
    ground: Arc<Mutex<Ground>>,
    tap: Tap,
    /// The tool that the handlers use: holds must be seen by it.
    tool: FakeImageTool,
    watchers: Mutex<BTreeMap<u32, Vec<OnExit>>>,
    holds: Mutex<BTreeMap<u32, Vec<HeldImage>>>,
}

impl fmt::Debug for WorldVmm {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("WorldVmm").finish_non_exhaustive()
    }
}

/// What blocks a volume with this mark has.
pub fn marked(mark: Mark) -> Blocks {
    match mark {
        0 => Blocks::new(),
        mark => MARKED_BLOCKS.map(|block| (block, format!("mark {mark}"))).collect(),
    }
}

/// The mark in these blocks; `None` if nobody ever wrote this.
pub fn mark_in(blocks: &Blocks) -> Option<Mark> {
    let mark = match blocks.get(MARKED_BLOCKS.start()) {
        None => 0,
        Some(text) => text.strip_prefix("mark ")?.parse().ok()?,
    };
    (*blocks == marked(mark)).then_some(mark)
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl WorldVmm {
    pub fn new(ground: Arc<Mutex<Ground>>, tap: Tap, tool: FakeImageTool) -> Self {
        let vmm = WorldVmm { ground, tap, tool, watchers: Mutex::default(), holds: Mutex::default() };
        // Guests that outlived the service keep their images.
        let running: Vec<Machine> = locked(&vmm.ground)
            .machines
            .values()
            .filter(|machine| machine.ended.is_none())
            .cloned()
            .collect();
        for machine in running {
            vmm.hold(&machine.domain, &machine.spec);
        }
        vmm
    }

    fn hold(&self, domain: &Domain, spec: &VmSpec) {
        let images = spec.disks.iter().map(|disk| self.tool.hold(&disk.path)).collect();
        held(&self.holds).insert(domain.pid, images);
    }

    /// The guest ends, and whoever watches is told.
    pub fn end(&self, app: Uuid, exit: DomainExit) {
        let pid = {
            let mut ground = locked(&self.ground);
            let Some(machine) = ground.machines.get_mut(&app).filter(|machine| machine.ended.is_none())
            else {
                return;
            };
            machine.ended = Some(exit);
            let pid = machine.domain.pid;
            ground.note(format_args!("guest {app} ends {exit:?}"));
            pid
        };
        held(&self.holds).remove(&pid);
        for watcher in held(&self.watchers).remove(&pid).unwrap_or_default() {
            watcher(exit);
        }
    }

    /// The guest's life up to its first write: looks at all volumes, tells the model, and marks them.
    fn run_guest(&self, spec: &VmSpec) -> Result<(), VmmError> {
        let unusable =
            |problem: String| VmmError::Unusable { app: spec.app, name: spec.name.clone(), problem };
        let paths: Vec<PathBuf> = spec.disks.iter().map(|disk| disk.path.clone()).collect();
        let mut found = BTreeMap::new();
        for path in &paths {
            let blocks = self.raw_tool().content(path).map_err(|error| unusable(error.to_string()))?;
            found.insert(identity(path), mark_in(&blocks));
        }
        let mut ground = locked(&self.ground);
        let version = spec.memory_kib.saturating_sub(MEMORY_BASE_KIB);
        ground.guest_starts(spec.app, version, &found);
        let mark = ground.guest_writes(paths.iter().map(|path| identity(path)));
        drop(ground);
        for path in &paths {
            self.write_mark(path, mark);
        }
        Ok(())
    }

    /// The guest's own calls are no calls of the node.
    fn raw_tool(&self) -> FakeImageTool {
        raw_tool(&self.tap.disk)
    }

    fn write_mark(&self, path: &Path, mark: Mark) {
        let written = self.raw_tool().edit(path, |image| image.blocks = marked(mark));
        written.expect("a guest's image can be written");
        flush(&self.tap.disk, path).expect("and flushed");
    }

    fn exit_of(&self, domain: &Domain) -> Option<DomainExit> {
        match locked(&self.ground).machines.get(&domain.app) {
            Some(machine) if machine.domain == *domain => machine.ended,
            _ => Some(DomainExit::Killed),
        }
    }

    /// Nothing of the guest has run.
    fn refuse_start(&self, spec: &VmSpec) -> Result<(), VmmError> {
        let mut ground = locked(&self.ground);
        let (app, name) = (spec.app, spec.name.clone());
        let error = if ground.faults.strikes(FaultKind::GuestRefuses) {
            VmmError::DiedAtStart { app, name, message: format!("no memory left {INJECTED}") }
        } else if ground.faults.strikes(FaultKind::GuestHangs) {
            VmmError::StartTooSlow { app, name, after: Duration::from_secs(60) }
        } else {
            return Ok(());
        };
        ground.note(format_args!("FAULT {error}"));
        Err(error)
    }

    /// Some guest that runs dies, if there is one.
    pub fn one_dies(&self) -> bool {
        let running = |machine: &&Machine| machine.ended.is_none();
        let app = locked(&self.ground).machines.values().find(running).map(|machine| machine.spec.app);
        app.map(|app| self.end(app, DomainExit::Killed)).is_some()
    }

    fn stop(&self, domain: &Domain, exit: DomainExit) {
        if self.exit_of(domain).is_none() {
            self.end(domain.app, exit);
        }
    }
}

fn presence_of(machine: Option<&Machine>) -> Presence {
    match machine {
        None => Presence::Absent,
        Some(Machine { ended: Some(exit), .. }) => Presence::Ended(*exit),
        Some(machine) => Presence::Running { domain: machine.domain.clone(), answers: true },
    }
}

impl Vmm for WorldVmm {
    fn start(&self, spec: &VmSpec, _wait: &Wait<'_>) -> Result<Domain, VmmError> {
        let failed = |error: std::io::Error| VmmError::Unusable {
            app: spec.app,
            name: spec.name.clone(),
            problem: error.to_string(),
        };
        self.tap.before("start guest", &spec.app).map_err(failed)?;
        if let Some(machine) = locked(&self.ground).running(spec.app) {
            return Err(VmmError::AlreadyRunning { app: spec.app, pid: machine.domain.pid });
        }
        self.refuse_start(spec)?;
        self.run_guest(spec)?;
        let mut ground = locked(&self.ground);
        let dies = ground.faults.strikes(FaultKind::GuestDiesAtStart);
        ground.last_pid += 1;
        let pid = ground.last_pid;
        let domain = Domain { app: spec.app, pid, started_ticks: u64::from(pid) };
        let machine = Machine { spec: spec.clone(), domain: domain.clone(), ended: None };
        ground.machines.insert(spec.app, machine);
        drop(ground);
        self.hold(&domain, spec);
        if dies {
            self.end(spec.app, DomainExit::Killed);
        }
        Ok(domain)
    }

    fn presence(&self, app: Uuid) -> Result<Presence, VmmError> {
        Ok(presence_of(locked(&self.ground).machines.get(&app)))
    }

    fn list(&self) -> Result<BTreeMap<Uuid, Presence>, VmmError> {
        let ground = locked(&self.ground);
        Ok(ground.machines.iter().map(|(app, machine)| (*app, presence_of(Some(machine)))).collect())
    }

    fn request_shutdown(&self, domain: &Domain) -> Result<(), VmmError> {
        self.tap.moment("shut down guest", &domain.app);
        if locked(&self.ground).faults.strikes(FaultKind::GuestDeaf) {
            locked(&self.ground).note(format_args!("FAULT guest {} ignores the power button", domain.app));
            return Ok(());
        }
        self.stop(domain, DomainExit::Stopped);
        Ok(())
    }

    fn kill(&self, domain: &Domain) -> Result<(), VmmError> {
        self.tap.moment("kill guest", &domain.app);
        self.stop(domain, DomainExit::Killed);
        Ok(())
    }

    fn wait_gone(&self, domain: &Domain, _wait: &Wait<'_>) -> Result<Option<DomainExit>, VmmError> {
        Ok(self.exit_of(domain))
    }

    fn watch(&self, domain: &Domain, on_exit: OnExit) -> Result<(), VmmError> {
        match self.exit_of(domain) {
            Some(exit) => on_exit(exit),
            None => held(&self.watchers).entry(domain.pid).or_default().push(on_exit),
        }
        Ok(())
    }

    fn forget(&self, app: Uuid) -> Result<(), VmmError> {
        self.tap.moment("forget guest", &app);
        let mut ground = locked(&self.ground);
        if let Some(machine) = ground.running(app) {
            return Err(VmmError::AlreadyRunning { app, pid: machine.domain.pid });
        }
        ground.machines.remove(&app);
        Ok(())
    }
}
