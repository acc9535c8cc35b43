//! The real hypervisor: QEMU processes that stand on their own.
//!
//! ```text
//! RUNTIME_DIR/<application>/pid        written by QEMU when it is up; removed by QEMU when its machine ends, so a pid file
//!                                      without its process means that QEMU was killed
//!                          /qmp.sock   control socket
//!                          /start.log  what QEMU said while it started
//! ```
//!
//! QEMU puts itself in a session of its own (`-daemonize`) and belongs to nobody: a restart of the node does not touch it.
//! It returns to us only when the machine is set up and both files are there, which is why there is no guessing about when a
//! start has worked. Nothing here is remembered between calls but the watching thread; the truth is in `/proc`
//! and in the runtime directory, so two instances over one directory agree.

#![allow(clippy::disallowed_methods, reason = "part of the Vmm seam: it watches a real process")]

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use holdfast_types::error_chain;
use uuid::Uuid;

use super::accel::Accelerator;
use super::command::{self, PID_FILE_ARGUMENT, SOCKET_NAME};
use super::process::{self, Process};
use super::qmp::Qmp;
use super::watch::Watcher;
use super::{Domain, DomainExit, OnExit, Presence, VmSpec, Vmm, VmmError, Wait};

/// For each conversation on the control socket. A healthy QEMU answers in a millisecond; a machine under load may need more.
const QMP_WITHIN: Duration = Duration::from_secs(5);
/// Whoever only asks whether QEMU answers does not want to wait long for a no.
const PING_WITHIN: Duration = Duration::from_secs(2);
/// How long a QEMU found without a pid file is given to come up: the node was restarted while starting it.
const COMING_UP_WITHIN: Duration = Duration::from_secs(5);
/// After SIGKILL, the kernel needs moments; longer only if the process hangs in a device.
const KILLED_WITHIN: Duration = Duration::from_secs(10);
/// Of what QEMU said at its start, this much is kept for the message: its end, where the error is.
const START_LOG_EXCERPT_BYTES: usize = 2000;

#[derive(Debug, Clone)]
pub struct QemuSettings {
    /// `qemu-system-x86_64`, looked up in `PATH` if it has no slash.
    pub binary: PathBuf,
    /// Holds one directory for each domain; made if missing. Best on a tmpfs, but correct anywhere.
    pub runtime_dir: PathBuf,
    pub accelerator: Accelerator,
}

#[derive(Debug)]
pub struct QemuVmm {
    settings: QemuSettings,
    watcher: Watcher,
}

impl QemuVmm {
    /// Makes the runtime directory (0700) and starts the watching thread. Domains that are there are left as they are.
    pub fn new(settings: QemuSettings) -> Result<Self, VmmError> {
        let files = |source| VmmError::Files {
            action: "make the runtime directory",
            path: settings.runtime_dir.clone(),
            source,
        };
        private_directory().recursive(true).create(&settings.runtime_dir).map_err(files)?;
        let runtime_dir = settings.runtime_dir.canonicalize().map_err(files)?;
        let watcher = Watcher::start().map_err(files)?;
        Ok(Self { settings: QemuSettings { runtime_dir, ..settings }, watcher })
    }

    fn traces(&self, app: Uuid) -> Traces {
        Traces { app, directory: self.settings.runtime_dir.join(app.to_string()) }
    }

    fn spawn(&self, spec: &VmSpec, traces: &Traces) -> Result<Child, VmmError> {
        let unusable = |problem| VmmError::Unusable { app: spec.app, name: spec.name.clone(), problem };
        if let Some(missing) = command::files_read(spec).into_iter().find(|path| !path.exists()) {
            return Err(unusable(format!("there is no {}", missing.display())));
        }
        let words =
            command::arguments(spec, &traces.pid_file(), self.settings.accelerator).map_err(unusable)?;
        let log = File::create(traces.start_log())
            .map_err(|source| traces.files("create", traces.start_log(), source))?;
        tracing::debug!(app = %spec.app, binary = %self.settings.binary.display(), ?words, "starting the hypervisor");
        Command::new(&self.settings.binary)
            .args(words)
            .current_dir(&traces.directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|source| VmmError::NoHypervisor { binary: self.settings.binary.clone(), source })
    }

    /// From QEMU's launch to a domain that answers. On an error, what was launched may still be there.
    fn launch(&self, spec: &VmSpec, traces: &Traces, wait: &Wait<'_>) -> Result<Domain, VmmError> {
        let mut child = self.spawn(spec, traces)?;
        let status = wait_for_launcher(&mut child, wait).map_err(|stopped| match stopped {
            Stopped::TimeIsUp => {
                VmmError::StartTooSlow { app: spec.app, name: spec.name.clone(), after: wait.at_most }
            }
            Stopped::Cancelled => VmmError::StartCancelled { app: spec.app, name: spec.name.clone() },
            Stopped::Failed(source) => VmmError::Process { pid: child.id(), action: "wait for it", source },
        })?;
        let died = |message| VmmError::DiedAtStart { app: spec.app, name: spec.name.clone(), message };
        if !status.success() {
            return Err(died(traces.start_message(status)));
        }
        let domain = traces.running()?.ok_or_else(|| died("it ended as soon as it was up".into()))?;
        traces.execute(&domain, "query-status", QMP_WITHIN)?;
        Ok(domain)
    }
}

impl Vmm for QemuVmm {
    fn start(&self, spec: &VmSpec, wait: &Wait<'_>) -> Result<Domain, VmmError> {
        let traces = self.traces(spec.app);
        if let Some(domain) = traces.running()? {
            return Err(VmmError::AlreadyRunning { app: spec.app, pid: domain.pid });
        }
        // A start that was broken off by a crash of the node may have left a QEMU without a pid file.
        traces.end_stragglers()?;
        traces.make_anew()?;
        let started = self.launch(spec, &traces, wait);
        if let Err(error) = &started {
            tracing::warn!(app = %spec.app, %error, "the domain did not start");
            traces.end_stragglers()?;
            traces.remove()?;
        }
        started
    }

    fn presence(&self, app: Uuid) -> Result<Presence, VmmError> {
        let traces = self.traces(app);
        if !traces.directory.exists() {
            return Ok(Presence::Absent);
        }
        if let Some(domain) = traces.running_or_coming_up()? {
            let answers = traces.execute(&domain, "query-status", PING_WITHIN).is_ok();
            // It may have ended while it was asked.
            if !is_gone(&domain)? {
                return Ok(Presence::Running { domain, answers });
            }
        }
        Ok(Presence::Ended(traces.exit()))
    }

    fn list(&self) -> Result<BTreeMap<Uuid, Presence>, VmmError> {
        let directory = &self.settings.runtime_dir;
        let files = |source| VmmError::Files { action: "list", path: directory.clone(), source };
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(directory).map_err(files)? {
            let name = entry.map_err(files)?.file_name();
            if let Some(app) = name.to_str().and_then(|name| Uuid::parse_str(name).ok()) {
                let presence =
                    self.presence(app).unwrap_or_else(|error| Presence::Unknown(error_chain(&error)));
                found.insert(app, presence);
            }
        }
        Ok(found)
    }

    fn request_shutdown(&self, domain: &Domain) -> Result<(), VmmError> {
        if is_gone(domain)? {
            return Ok(());
        }
        let asked = self.traces(domain.app).execute(domain, "system_powerdown", QMP_WITHIN);
        match asked {
            Err(_) if is_gone(domain)? => Ok(()),
            other => other,
        }
    }

    fn kill(&self, domain: &Domain) -> Result<(), VmmError> {
        match process_of(domain)? {
            Some(process) => process.kill().map_err(|source| failed(domain, "kill it", source)),
            None => Ok(()),
        }
    }

    fn wait_gone(&self, domain: &Domain, wait: &Wait<'_>) -> Result<Option<DomainExit>, VmmError> {
        if let Some(process) = process_of(domain)?
            && !process.wait_gone(wait).map_err(|source| failed(domain, "wait for its end", source))?
        {
            return Ok(None);
        }
        Ok(Some(self.traces(domain.app).exit_of(domain.pid)))
    }

    fn watch(&self, domain: &Domain, on_exit: OnExit) -> Result<(), VmmError> {
        let (traces, pid) = (self.traces(domain.app), domain.pid);
        match process_of(domain)? {
            Some(process) => self
                .watcher
                .add(process.into_pidfd(), Box::new(move || on_exit(traces.exit_of(pid))))
                .map_err(|source| failed(domain, "watch it", source)),
            None => {
                on_exit(traces.exit_of(pid));
                Ok(())
            }
        }
    }

    fn forget(&self, app: Uuid) -> Result<(), VmmError> {
        let traces = self.traces(app);
        if let Some(domain) = traces.running()? {
            return Err(VmmError::AlreadyRunning { app, pid: domain.pid });
        }
        traces.remove()
    }
}

/// What one domain leaves in the runtime directory.
#[derive(Debug, Clone)]
struct Traces {
    app: Uuid,
    directory: PathBuf,
}

impl Traces {
    fn pid_file(&self) -> PathBuf {
        self.directory.join("pid")
    }

    fn start_log(&self) -> PathBuf {
        self.directory.join("start.log")
    }

    /// The domain, if its pid file names a living process that carries this very pid file on its command line.
    fn running(&self) -> Result<Option<Domain>, VmmError> {
        let Some(pid) = self.recorded_pid() else { return Ok(None) };
        let Some(started_ticks) = process::identify(pid, PID_FILE_ARGUMENT, &self.pid_file()) else {
            return Ok(None);
        };
        let domain = Domain { app: self.app, pid, started_ticks };
        Ok((!is_gone(&domain)?).then_some(domain))
    }

    /// The same; and if there is no pid file yet but a process that will write it, waits for that a little, then ends it.
    /// A pid file that is there and cannot be read is waited for likewise; then the one process that carries it is it.
    fn running_or_coming_up(&self) -> Result<Option<Domain>, VmmError> {
        let end = Instant::now() + COMING_UP_WITHIN;
        loop {
            if let Some(domain) = self.running()? {
                return Ok(Some(domain));
            }
            let stragglers = self.stragglers()?;
            if self.recorded_pid().is_some() || stragglers.is_empty() {
                return Ok(None);
            }
            if Instant::now() >= end {
                if let [domain] = &stragglers[..]
                    && self.pid_file().exists()
                {
                    // It came up long ago; its pid file is damaged, and the guest is not ([003] G8).
                    tracing::warn!(app = %self.app, pid = domain.pid, "the pid file names no process; this is it");
                    return Ok(Some(domain.clone()));
                }
                self.end_stragglers()?;
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn recorded_pid(&self) -> Option<u32> {
        fs::read_to_string(self.pid_file()).ok()?.trim().parse().ok()
    }

    fn exit(&self) -> DomainExit {
        if self.pid_file().exists() { DomainExit::Killed } else { DomainExit::Stopped }
    }

    /// How the process with this pid, now gone, ended: a pid file that names another belongs to a later start.
    fn exit_of(&self, pid: u32) -> DomainExit {
        if self.recorded_pid() == Some(pid) { DomainExit::Killed } else { DomainExit::Stopped }
    }

    fn stragglers(&self) -> Result<Vec<Domain>, VmmError> {
        let found = process::find_all(PID_FILE_ARGUMENT, &self.pid_file())
            .map_err(|source| self.files("look for processes in", "/proc".into(), source))?;
        Ok(found
            .into_iter()
            .map(|(pid, started_ticks)| Domain { app: self.app, pid, started_ticks })
            .collect())
    }

    /// Kills every process that was started for this domain. Afterwards there is none.
    fn end_stragglers(&self) -> Result<(), VmmError> {
        let end = Instant::now() + KILLED_WITHIN;
        loop {
            // Again and again, because a launcher may just have forked.
            let stragglers = self.stragglers()?;
            let Some(first) = stragglers.first() else { return Ok(()) };
            if Instant::now() >= end {
                return Err(failed(first, "kill it", ErrorKind::TimedOut.into()));
            }
            for straggler in &stragglers {
                if let Some(process) = process_of(straggler)? {
                    process.kill().map_err(|source| failed(straggler, "kill it", source))?;
                    let wait = Wait::at_most(end.saturating_duration_since(Instant::now()));
                    process
                        .wait_gone(&wait)
                        .map_err(|source| failed(straggler, "wait for its end", source))?;
                }
            }
        }
    }

    fn make_anew(&self) -> Result<(), VmmError> {
        self.remove()?;
        private_directory()
            .create(&self.directory)
            .map_err(|source| self.files("make", self.directory.clone(), source))
    }

    fn remove(&self) -> Result<(), VmmError> {
        match fs::remove_dir_all(&self.directory) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                Err(self.files("remove", self.directory.clone(), source))
            }
            _ => Ok(()),
        }
    }

    /// Carries out one command on the control socket.
    fn execute(&self, domain: &Domain, command: &str, within: Duration) -> Result<(), VmmError> {
        Qmp::connect(&self.directory.join(SOCKET_NAME), within)
            .and_then(|mut qmp| qmp.execute(command))
            .map(drop)
            .map_err(|source| VmmError::Control { app: domain.app, pid: domain.pid, source })
    }

    /// What QEMU said before it died, or how it ended if it said nothing.
    fn start_message(&self, status: ExitStatus) -> String {
        let said = fs::read(self.start_log()).unwrap_or_default();
        let end = &said[said.len().saturating_sub(START_LOG_EXCERPT_BYTES)..];
        let text = String::from_utf8_lossy(end).trim().to_owned();
        if text.is_empty() { format!("it said nothing ({status})") } else { text }
    }

    fn files(&self, action: &'static str, path: PathBuf, source: io::Error) -> VmmError {
        VmmError::Files { action, path, source }
    }
}

/// Why QEMU's launcher did not come to an end of its own.
enum Stopped {
    TimeIsUp,
    Cancelled,
    Failed(io::Error),
}

/// Waits for the process that was spawned: it ends when the real one stands on its own, or could not be set up. It
/// is reaped in any case, and killed first if it did not end.
fn wait_for_launcher(child: &mut Child, wait: &Wait<'_>) -> Result<ExitStatus, Stopped> {
    let end = Instant::now() + wait.at_most;
    let why = loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) if (wait.cancelled)() => break Stopped::Cancelled,
            Ok(None) if Instant::now() >= end => break Stopped::TimeIsUp,
            Ok(None) => std::thread::sleep(Duration::from_millis(10)),
            Err(error) => break Stopped::Failed(error),
        }
    };
    let _ = child.kill();
    let _ = child.wait();
    Err(why)
}

fn process_of(domain: &Domain) -> Result<Option<Process>, VmmError> {
    Process::open(domain.pid, domain.started_ticks).map_err(|source| failed(domain, "look at it", source))
}

fn is_gone(domain: &Domain) -> Result<bool, VmmError> {
    match process_of(domain)? {
        Some(process) => process.is_gone().map_err(|source| failed(domain, "look at it", source)),
        None => Ok(true),
    }
}

fn failed(domain: &Domain, action: &'static str, source: io::Error) -> VmmError {
    VmmError::Process { pid: domain.pid, action, source }
}

fn private_directory() -> DirBuilder {
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    builder
}

#[cfg(test)]
mod tests {
    use super::*;

    /// [003] G8: a guest that runs is found by the command line of its process, whatever became of its pid file.
    #[test]
    fn a_damaged_pid_file_ends_no_guest() {
        let directory = tempfile::tempdir().expect("a directory");
        let settings = QemuSettings {
            binary: "qemu-system-x86_64".into(),
            runtime_dir: directory.path().join("run"),
            accelerator: Accelerator::Tcg,
        };
        let vmm = QemuVmm::new(settings).expect("its directory can be made");
        let (app, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let traces = vmm.traces(app);
        traces.make_anew().expect("a directory");
        vmm.traces(other).make_anew().expect("a directory");
        fs::write(traces.pid_file(), b"\0\0\0\0").expect("written");
        // A process with QEMU's arguments as far as they matter.
        let mut child = Command::new("sh")
            .args(["-c", "sleep 60; true", PID_FILE_ARGUMENT])
            .arg(traces.pid_file())
            .spawn()
            .expect("sh runs");
        // The kernel lets the parent go on before the arguments can be read.
        let command_line = format!("/proc/{}/cmdline", child.id());
        let end = Instant::now() + Duration::from_secs(5);
        while fs::read(&command_line).expect("it runs").is_empty() {
            assert!(Instant::now() < end, "its arguments cannot be read");
            std::thread::sleep(Duration::from_millis(1));
        }
        let found = vmm.list().expect("the directory can be listed");
        let is_it = |presence: &Presence| matches!(presence, Presence::Running { domain, .. } if domain.pid == child.id());
        assert!(found.get(&app).is_some_and(is_it), "{found:?}");
        assert_eq!(found.get(&other), Some(&Presence::Ended(DomainExit::Stopped)));
        assert!(child.try_wait().expect("it is ours").is_none(), "it still runs");
        child.kill().expect("it is ours");
        child.wait().expect("it is ours");
    }
}
