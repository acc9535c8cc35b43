//! A simulated hypervisor: processes that are only rows in a table, for scenarios and for the simulation.
//!
//! It keeps the seam's rules: one domain per application, gone means gone, a domain outlives the `Vmm` that started it
//! (clones share the table), and a cut of the power leaves traces of a killed one. Per application a guest can be told
//! to ignore the power button, to die at its start, to refuse to be watched, or to end by itself. The guest writes nothing: what stands on the
//! disks is the story's own.

#![allow(clippy::disallowed_methods, reason = "a seam: waits like a hypervisor")]

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Instant;

use holdfast_types::error_chain;
use uuid::Uuid;

use super::vmm::{Domain, DomainExit, OnExit, Presence, VmSpec, Vmm, VmmError, Wait};

/// How often a wait looks whether it was cancelled.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_millis(5);

#[derive(Debug, Clone, Default)]
pub struct SimulatedVmm {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    table: Mutex<Table>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Table {
    machines: BTreeMap<Uuid, Machine>,
    habits: BTreeMap<Uuid, Habits>,
    last_pid: u32,
    starts: BTreeMap<Uuid, usize>,
}

struct Machine {
    spec: VmSpec,
    domain: Domain,
    ended: Option<DomainExit>,
    watchers: Vec<OnExit>,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine")
            .field("domain", &self.domain)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

/// How one application's guest behaves.
#[derive(Debug, Clone, Default)]
pub struct Habits {
    pub ignores_power_button: bool,
    /// What QEMU says when it dies at its start.
    pub dies_at_start: Option<String>,
    /// What dies at its start leaves a process all the same, as one that hangs in a device.
    pub outlives_failed_start: bool,
    /// So many watches are refused.
    pub refused_watches: u32,
    /// So many looks find traces that cannot be read.
    pub refused_looks: u32,
}

impl SimulatedVmm {
    pub fn new() -> Self {
        SimulatedVmm::default()
    }

    pub fn set_habits(&self, app: Uuid, habits: Habits) {
        self.table().habits.insert(app, habits);
    }

    /// How often the application's guest was started.
    pub fn starts(&self, app: Uuid) -> usize {
        self.table().starts.get(&app).copied().unwrap_or(0)
    }

    /// What the application's guest runs on; none while it is down.
    pub fn running(&self, app: Uuid) -> Option<VmSpec> {
        let table = self.table();
        table.machines.get(&app).filter(|machine| machine.ended.is_none()).map(|machine| machine.spec.clone())
    }

    /// The guest ends without having been told to.
    pub fn end(&self, app: Uuid, exit: DomainExit) {
        let watchers = self.table().end(app, exit);
        self.tell(watchers, exit);
    }

    /// The node's power is cut: every guest is gone, and nobody who watched is told.
    pub fn power_cycle(&self) {
        let mut table = self.table();
        for machine in table.machines.values_mut() {
            machine.watchers.clear();
            machine.ended.get_or_insert(DomainExit::Killed);
        }
        self.shared.changed.notify_all();
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.shared.table.lock().expect("no holder panics")
    }

    /// Outside the lock: a watcher may call back.
    fn tell(&self, watchers: Vec<OnExit>, exit: DomainExit) {
        self.shared.changed.notify_all();
        for watcher in watchers {
            watcher(exit);
        }
    }
}

impl Table {
    fn end(&mut self, app: Uuid, exit: DomainExit) -> Vec<OnExit> {
        match self.machines.get_mut(&app) {
            Some(machine) if machine.ended.is_none() => {
                machine.ended = Some(exit);
                std::mem::take(&mut machine.watchers)
            }
            _ => Vec::new(),
        }
    }

    fn make(&mut self, spec: &VmSpec) -> Domain {
        self.last_pid += 1;
        let domain = Domain { app: spec.app, pid: self.last_pid, started_ticks: u64::from(self.last_pid) };
        let machine =
            Machine { spec: spec.clone(), domain: domain.clone(), ended: None, watchers: Vec::new() };
        self.machines.insert(spec.app, machine);
        domain
    }

    fn presence(&self, app: Uuid) -> Presence {
        match self.machines.get(&app) {
            None => Presence::Absent,
            Some(Machine { ended: Some(exit), .. }) => Presence::Ended(*exit),
            Some(machine) => Presence::Running { domain: machine.domain.clone(), answers: true },
        }
    }

    /// What a look from outside finds.
    fn look(&mut self, app: Uuid) -> Result<Presence, VmmError> {
        let refused = self.habits.get_mut(&app).map(|habits| &mut habits.refused_looks);
        if let Some(refused) = refused.filter(|refused| **refused > 0) {
            *refused -= 1;
            let source = std::io::ErrorKind::PermissionDenied.into();
            return Err(VmmError::Files { action: "read", path: app.to_string().into(), source });
        }
        Ok(self.presence(app))
    }

    /// How this very process ended; one that is not the latest is long gone.
    fn exit_of(&self, domain: &Domain) -> Option<DomainExit> {
        match self.machines.get(&domain.app) {
            Some(machine) if machine.domain == *domain => machine.ended,
            _ => Some(DomainExit::Killed),
        }
    }
}

impl Vmm for SimulatedVmm {
    fn start(&self, spec: &VmSpec, _wait: &Wait<'_>) -> Result<Domain, VmmError> {
        let mut table = self.table();
        if let Presence::Running { domain, .. } = table.presence(spec.app) {
            return Err(VmmError::AlreadyRunning { app: spec.app, pid: domain.pid });
        }
        let habits = table.habits.get(&spec.app).cloned().unwrap_or_default();
        let died = habits.dies_at_start.map(|message| VmmError::DiedAtStart {
            app: spec.app,
            name: spec.name.clone(),
            message,
        });
        if let Some(died) = died {
            if habits.outlives_failed_start {
                table.make(spec);
            }
            return Err(died);
        }
        let domain = table.make(spec);
        *table.starts.entry(spec.app).or_default() += 1;
        Ok(domain)
    }

    fn presence(&self, app: Uuid) -> Result<Presence, VmmError> {
        self.table().look(app)
    }

    fn list(&self) -> Result<BTreeMap<Uuid, Presence>, VmmError> {
        let mut table = self.table();
        let apps: Vec<Uuid> = table.machines.keys().copied().collect();
        let unknown = |error: VmmError| Presence::Unknown(error_chain(&error));
        Ok(apps.into_iter().map(|app| (app, table.look(app).unwrap_or_else(unknown))).collect())
    }

    fn request_shutdown(&self, domain: &Domain) -> Result<(), VmmError> {
        let mut table = self.table();
        let ignores = table.habits.get(&domain.app).is_some_and(|habits| habits.ignores_power_button);
        if ignores || table.exit_of(domain).is_some() {
            return Ok(());
        }
        let watchers = table.end(domain.app, DomainExit::Stopped);
        drop(table);
        self.tell(watchers, DomainExit::Stopped);
        Ok(())
    }

    fn kill(&self, domain: &Domain) -> Result<(), VmmError> {
        let mut table = self.table();
        if table.exit_of(domain).is_none() {
            let watchers = table.end(domain.app, DomainExit::Killed);
            drop(table);
            self.tell(watchers, DomainExit::Killed);
        }
        Ok(())
    }

    fn wait_gone(&self, domain: &Domain, wait: &Wait<'_>) -> Result<Option<DomainExit>, VmmError> {
        let deadline = Instant::now() + wait.at_most;
        let mut table = self.table();
        loop {
            if let Some(exit) = table.exit_of(domain) {
                return Ok(Some(exit));
            }
            if Instant::now() >= deadline || (wait.cancelled)() {
                return Ok(None);
            }
            table = self.shared.changed.wait_timeout(table, LOOK_EVERY).expect("no holder panics").0;
        }
    }

    fn watch(&self, domain: &Domain, on_exit: OnExit) -> Result<(), VmmError> {
        let mut table = self.table();
        let refused = table.habits.get_mut(&domain.app).map(|habits| &mut habits.refused_watches);
        if let Some(refused) = refused.filter(|refused| **refused > 0) {
            *refused -= 1;
            let source = std::io::ErrorKind::OutOfMemory.into();
            return Err(VmmError::Process { pid: domain.pid, action: "watch it", source });
        }
        match table.exit_of(domain) {
            Some(exit) => {
                drop(table);
                on_exit(exit);
            }
            None => {
                table.machines.get_mut(&domain.app).expect("it has not ended").watchers.push(on_exit);
            }
        }
        Ok(())
    }

    fn forget(&self, app: Uuid) -> Result<(), VmmError> {
        let mut table = self.table();
        if let Presence::Running { domain, .. } = table.presence(app) {
            return Err(VmmError::AlreadyRunning { app, pid: domain.pid });
        }
        table.machines.remove(&app);
        Ok(())
    }
}
