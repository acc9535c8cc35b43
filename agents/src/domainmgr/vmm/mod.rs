//! The seam to the hypervisor: starts, stops, watches and finds again the virtual machines of applications.
//!
//! ```text
//!            start                    request_shutdown, or the guest itself
//!  Absent ─────────▶ Running ───────────────────────────────────────────▶ Ended(Stopped)
//!    ▲                  │   kill, a crash of QEMU, power cut                  Ended(Killed)
//!    └──────────────────┴───────────── forget ────────────────────────────────┘
//! ```
//!
//! "Gone" has one meaning here: the hypervisor's process no longer exists, so nothing can touch the disks ([003] B2). An
//! answer that a guest "is shutting down" is never taken for it. Domains outlive the process that started them: another
//! `Vmm` over the same runtime directory finds them again ([003] G8).
//!
//! [`QemuVmm`] is the real thing; the simulation has its own. The trait is synchronous: callers run it in jobs, off any event
//! loop. Deliberately absent: when to restart what, and for how long to wait for a guest: that is the agent's.

mod accel;
mod command;
mod probe;
mod process;
mod qemu;
mod qmp;
mod watch;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use uuid::Uuid;

pub use accel::{Accel, Accelerator, Choice, PROBE_AT_MOST, choose_accelerator};
pub use qemu::{QemuSettings, QemuVmm};
pub use qmp::QmpError;

/// Everything a virtual machine is started from. Paths are made absolute at the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmSpec {
    /// The application; at most one domain of it runs at a time. The guest sees it as its system UUID.
    pub app: Uuid,
    /// For people, in process lists.
    pub name: String,
    pub memory_kib: u64,
    pub vcpus: u32,
    pub boot: Boot,
    /// In this order the guest sees them: the first is `vda`.
    pub disks: Vec<Disk>,
    /// What the guest writes to its first serial port is appended here. The directory must exist.
    pub console_log: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Boot {
    /// The kernel is handed to the machine directly.
    Kernel { kernel: PathBuf, ramdisk: Option<PathBuf>, cmdline: String },
    /// The firmware starts the boot sector of the first disk.
    Disk,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    pub path: PathBuf,
    pub format: DiskFormat,
    pub read_only: bool,
}

/// The image format is always stated, never guessed: a guest could write another format's header into a raw disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFormat {
    Qcow2,
    /// Plain sectors: raw images, zvols, ISO images.
    Raw,
    Vmdk,
    Vhdx,
}

/// A running (or once running) hypervisor process. `started_ticks` tells it from a later process with the same pid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    pub app: Uuid,
    pub pid: u32,
    pub started_ticks: u64,
}

/// How a domain came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DomainExit {
    /// The machine ended by itself: the guest powered off (asked to or not), or panicked.
    Stopped,
    /// The hypervisor was killed or crashed, or the power was cut, with the guest still running.
    Killed,
}

/// What there is of an application's domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// Never started here, or forgotten since.
    Absent,
    /// Its process exists. `answers` is false if it does not answer on its control socket: still running, and not to be
    /// taken for gone, but only `kill` will stop it.
    Running { domain: Domain, answers: bool },
    /// Its process is gone; the traces tell how it ended.
    Ended(DomainExit),
    /// Only in a list: its traces cannot be read, and why. It may run or not.
    Unknown(String),
}

/// For how long a call may wait, and what can end the wait earlier.
#[derive(Clone, Copy)]
pub struct Wait<'a> {
    pub at_most: Duration,
    pub cancelled: &'a dyn Fn() -> bool,
}

impl<'a> Wait<'a> {
    /// Waits for up to `at_most`, with nothing that cancels it.
    pub fn at_most(at_most: Duration) -> Wait<'static> {
        Wait { at_most, cancelled: &|| false }
    }
}

impl fmt::Debug for Wait<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wait").field("at_most", &self.at_most).finish_non_exhaustive()
    }
}

/// Called once, on a thread of the `Vmm`, when the process of a watched domain is gone. Must be quick.
pub type OnExit = Box<dyn FnOnce(DomainExit) + Send>;

/// A hypervisor. One value serves all domains of a node; calls for different applications may run at the same time,
/// calls for one application are the caller's to put in order.
pub trait Vmm: Send + Sync + fmt::Debug {
    /// Starts the domain. Afterwards its process runs on its own and answers on its control socket; the guest may still be
    /// booting. On any error no process of this domain is left. A crash in the middle leaves either nothing or a
    /// domain that [`Vmm::presence`] finds (it waits for one that is just coming up).
    fn start(&self, spec: &VmSpec, wait: &Wait<'_>) -> Result<Domain, VmmError>;

    /// What there is of the application's domain, whoever started it. Changes nothing, except that a process which never got
    /// as far as announcing itself (the node died while starting it) is ended.
    fn presence(&self, app: Uuid) -> Result<Presence, VmmError>;

    /// The same for every application of which there is a trace. One whose traces cannot be read is `Unknown` and harms
    /// none of the others ([003] G9); only a runtime directory that cannot be listed is an error.
    fn list(&self) -> Result<BTreeMap<Uuid, Presence>, VmmError>;

    /// Presses the power button (ACPI). Afterwards the guest has been asked, no more; or it was gone already. A guest that is
    /// still booting may not notice: whoever waits for it to go down presses again now and then.
    fn request_shutdown(&self, domain: &Domain) -> Result<(), VmmError>;

    /// Orders the process killed. It is gone when [`Vmm::wait_gone`] says so. No error if it is gone already.
    fn kill(&self, domain: &Domain) -> Result<(), VmmError>;

    /// Waits for the process to be gone. `None`: time is up or the wait was cancelled, and it is still there.
    fn wait_gone(&self, domain: &Domain, wait: &Wait<'_>) -> Result<Option<DomainExit>, VmmError>;

    /// Arranges for `on_exit` to be called once when the process is gone: at once if it is already. Costs nothing while
    /// nothing happens. Watching ends with this `Vmm`; a watch still open then is dropped without a call.
    fn watch(&self, domain: &Domain, on_exit: OnExit) -> Result<(), VmmError>;

    /// Removes the traces of a domain that is gone; afterwards it is `Absent`. Refused while its process runs. The console
    /// log is the caller's and stays.
    fn forget(&self, app: Uuid) -> Result<(), VmmError>;
}

#[derive(Debug, thiserror::Error)]
pub enum VmmError {
    #[error("{name} ({app}) cannot be started: {problem}")]
    Unusable { app: Uuid, name: String, problem: String },
    #[error("the hypervisor {binary} cannot be run")]
    NoHypervisor { binary: PathBuf, source: std::io::Error },
    #[error("{name} ({app}) died at its start: {message}")]
    DiedAtStart { app: Uuid, name: String, message: String },
    #[error("{name} ({app}) did not come up within {} s", after.as_secs())]
    StartTooSlow { app: Uuid, name: String, after: Duration },
    #[error("the start of {name} ({app}) was cancelled")]
    StartCancelled { app: Uuid, name: String },
    #[error("the domain of {app} runs already (process {pid})")]
    AlreadyRunning { app: Uuid, pid: u32 },
    #[error("the hypervisor of {app} (process {pid}) does not do as told")]
    Control { app: Uuid, pid: u32, source: QmpError },
    #[error("process {pid}: cannot {action}")]
    Process { pid: u32, action: &'static str, source: std::io::Error },
    #[error("cannot {action} {}", path.display())]
    Files { action: &'static str, path: PathBuf, source: std::io::Error },
}
