//! What domainmgr has done off the event loop, over the [`Vmm`] seam.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use holdfast_persist::crashsafe;
use holdfast_persist::disk::Disk as FileSeam;
use holdfast_persist::layout::PersistLayout;
use holdfast_types::{AppId, DomainConfig, Format, error_chain};

use super::Event;
use super::vmm::{Boot, Disk, DiskFormat, Domain, DomainExit, Presence, VmSpec, Vmm, VmmError, Wait};
use crate::runtime::{Backend, Job, JobContext, JobId};

/// QEMU answers within moments; a node that swaps may need longer.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// After SIGKILL a process goes within moments, unless it hangs in a device; then there is nothing but to wait.
const KILL_DEADLINE: Duration = Duration::from_secs(30);

/// Long enough that a guest which is shutting down is not pressed at every turn.
const PRESS_AGAIN_AFTER: Duration = Duration::from_secs(3);

/// A look at a volume, a pre-flight's for one, locks it for moments; QEMU then dies at its start. It is tried again.
const LOCKED_AT_MOST: Duration = Duration::from_secs(5);
const LOCKED_TRY_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// Whether a process is left of a failed start is asked again after this, until there is an answer.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Two of these are kept per guest. A guest can still fill the disk within one run: it is looked at between runs.
const CONSOLE_LOG_AT_MOST_BYTES: u64 = 4 << 20;

/// The seams of this agent's jobs.
#[derive(Debug)]
pub struct Env {
    pub vmm: Arc<dyn Vmm>,
    pub disk: Arc<dyn FileSeam>,
    pub layout: PersistLayout,
}

#[derive(Debug, Clone)]
pub enum DomainJob {
    /// What runs already, at the start of the node.
    List,
    Start(Box<DomainConfig>),
    Stop {
        domain: Domain,
        patience: Duration,
    },
    Watch(Domain),
    /// Again, at one whose traces could not be read.
    Look(AppId),
    Forget(AppId),
}

impl Job for DomainJob {
    fn id(&self) -> JobId {
        JobId::new(match self {
            DomainJob::List => "list domains".to_owned(),
            DomainJob::Start(config) => format!("start {} {}", config.app, config.number),
            DomainJob::Stop { domain, .. } => format!("stop {} {}", domain.app, domain.pid),
            DomainJob::Watch(domain) => format!("watch {} {}", domain.app, domain.pid),
            DomainJob::Look(app) => format!("look {app}"),
            DomainJob::Forget(app) => format!("forget {app}"),
        })
    }

    fn object(&self) -> String {
        match self {
            DomainJob::List => "domains".to_owned(),
            DomainJob::Start(config) => config.app.to_string(),
            DomainJob::Stop { domain, .. } | DomainJob::Watch(domain) => domain.app.to_string(),
            DomainJob::Look(app) | DomainJob::Forget(app) => app.to_string(),
        }
    }

    fn backend(&self) -> Backend {
        Backend::Hypervisor
    }

    fn deadline(&self) -> Option<Duration> {
        match self {
            DomainJob::Start(_) => Some(START_DEADLINE),
            DomainJob::Stop { patience, .. } => Some(*patience + KILL_DEADLINE),
            DomainJob::List | DomainJob::Watch(_) | DomainJob::Look(_) | DomainJob::Forget(_) => None,
        }
    }
}

/// What became of an order to stop.
#[derive(Debug, Clone, PartialEq)]
pub enum Stopped {
    /// The process is gone.
    Gone,
    /// The process is gone, but only by force: the guest did not listen.
    Forced,
    /// The process may still be there.
    NotGone(String),
}

pub fn run(job: DomainJob, env: &Env, cx: &JobContext<Event>) -> Event {
    let vmm = env.vmm.as_ref();
    match job {
        DomainJob::List => Event::Listed(list(env)),
        DomainJob::Start(config) => {
            let result = start(&config, env, cx);
            Event::Started { app: config.app, number: config.number, result }
        }
        DomainJob::Stop { domain, patience } => {
            let result = stop(vmm, &domain, patience, cx);
            Event::Stopped { app: AppId(domain.app), result }
        }
        DomainJob::Watch(domain) => watch(vmm, domain, cx),
        DomainJob::Look(app) => Event::Looked { app, presence: look(vmm, app) },
        DomainJob::Forget(app) => Event::Forgotten { app, result: forget(env, app) },
    }
}

/// What runs or ended, and directories of which nothing else is left: they are nobody's once the wishes are known.
fn list(env: &Env) -> Result<BTreeMap<AppId, Presence>, String> {
    let found = env.vmm.list().map_err(|error| error_chain(&error))?;
    let mut found: BTreeMap<AppId, Presence> =
        found.into_iter().map(|(app, presence)| (AppId(app), presence)).collect();
    let directories = env.disk.list(&env.layout.domains_dir()).map_err(|error| error.to_string())?;
    for app in directories.iter().filter_map(|entry| entry.name.to_str()?.parse().ok()) {
        found.entry(app).or_insert(Presence::Absent);
    }
    Ok(found)
}

fn look(vmm: &dyn Vmm, app: AppId) -> Presence {
    vmm.presence(app.0).unwrap_or_else(|error| Presence::Unknown(error_chain(&error)))
}

/// Afterwards QEMU answers, or no process of this domain is left.
fn start(config: &DomainConfig, env: &Env, cx: &JobContext<Event>) -> Result<Domain, String> {
    let spec = spec(config, &env.layout)?;
    let directory = env.layout.domain_dir(&config.app);
    crashsafe::ensure_dir(env.disk.as_ref(), &directory).map_err(|error| error.to_string())?;
    turn_console_log_over(env.disk.as_ref(), &spec.console_log).map_err(|error| error.to_string())?;
    let vmm = env.vmm.as_ref();
    start_unlocked(&spec, vmm, cx).or_else(|error| what_is_left(config.app, &error, vmm, cx))
}

/// After a failed start: the domain that runs all the same (the same order, issued again after a crash of the node), or
/// the error. A domain whose start failed counts as down, and then its disks are touched ([003] B2); so the start is not
/// over until it is known that nothing is left of it.
fn what_is_left(
    app: AppId,
    error: &VmmError,
    vmm: &dyn Vmm,
    cx: &JobContext<Event>,
) -> Result<Domain, String> {
    loop {
        match look(vmm, app) {
            Presence::Running { domain, .. } => return Ok(domain),
            Presence::Absent | Presence::Ended(_) => return Err(error_chain(error)),
            // The node stops. At its next start it looks first, before anything is touched.
            Presence::Unknown(_) if cx.cancelled() => return Err(error_chain(error)),
            Presence::Unknown(unknown) => {
                let error = error_chain(error);
                tracing::error!(%app, error, unknown, "not started, and it is not known whether a process is left");
                rest(LOOK_AGAIN_AFTER);
            }
        }
    }
}

fn start_unlocked(spec: &VmSpec, vmm: &dyn Vmm, cx: &JobContext<Event>) -> Result<Domain, VmmError> {
    let cancelled = || cx.cancelled();
    let start = || vmm.start(spec, &Wait { at_most: START_DEADLINE, cancelled: &cancelled });
    for _ in 0..LOCKED_AT_MOST.as_millis() / LOCKED_TRY_AGAIN_AFTER.as_millis() {
        match start() {
            Err(VmmError::DiedAtStart { message, .. }) if is_lock(&message) && !cx.cancelled() => {
                tracing::info!(app = %spec.app, "a volume is locked by somebody; the start is tried again");
                rest(LOCKED_TRY_AGAIN_AFTER);
            }
            other => return other,
        }
    }
    start()
}

/// QEMU's words when another process has the image open.
fn is_lock(message: &str) -> bool {
    message.contains("Failed to get \"") && message.contains("lock")
}

#[allow(clippy::disallowed_methods, reason = "in a job, for a moment that is much shorter than its deadline")]
fn rest(time: Duration) {
    std::thread::sleep(time);
}

fn spec(config: &DomainConfig, layout: &PersistLayout) -> Result<VmSpec, String> {
    let resources = &config.resources;
    let boot = if resources.kernel.is_empty() {
        Boot::Disk
    } else {
        let ramdisk = (!resources.ramdisk.is_empty()).then(|| PathBuf::from(&resources.ramdisk));
        Boot::Kernel {
            kernel: PathBuf::from(&resources.kernel),
            ramdisk,
            cmdline: resources.extra_args.clone(),
        }
    };
    let disks = config.disks.iter().map(|disk| {
        let format = match disk.format {
            Format::Qcow2 => DiskFormat::Qcow2,
            Format::Raw | Format::Iso => DiskFormat::Raw,
            Format::Vmdk => DiskFormat::Vmdk,
            Format::Vhdx => DiskFormat::Vhdx,
            Format::Container => return Err(format!("volume {} is a container and no disk", disk.volume)),
        };
        Ok(Disk { path: PathBuf::from(&disk.file_location), format, read_only: disk.read_only })
    });
    Ok(VmSpec {
        app: config.app.0,
        name: config.display_name.clone(),
        memory_kib: u64::from(resources.memory_kib),
        vcpus: resources.vcpus,
        boot,
        disks: disks.collect::<Result<_, String>>()?,
        console_log: console_log(layout, config.app),
    })
}

pub fn console_log(layout: &PersistLayout, app: AppId) -> PathBuf {
    layout.domain_dir(&app).join("console.log")
}

/// A guest's console is appended to from start to start, so that a crash can be read about; once it is large, a new
/// log is begun and the one before is kept.
fn turn_console_log_over(disk: &dyn FileSeam, log: &Path) -> std::io::Result<()> {
    match disk.metadata(log)? {
        Some(found) if found.size_bytes > CONSOLE_LOG_AT_MOST_BYTES => {
            disk.rename(log, &log.with_extension("log.old"))
        }
        _ => Ok(()),
    }
}

/// ACPI first, then, when the guest's patience is used up, force ([003] B2). Done only when the process is gone.
fn stop(vmm: &dyn Vmm, domain: &Domain, patience: Duration, cx: &JobContext<Event>) -> Stopped {
    match ask_to_shut_down(vmm, domain, patience, cx) {
        Ok(true) => return Stopped::Gone,
        Ok(false) if cx.cancelled() => return Stopped::NotGone("given up because the node stops".to_owned()),
        Ok(false) => {}
        // A QEMU that does not listen is no reason to leave it running.
        Err(error) => tracing::warn!(app = %domain.app, error, "cannot be asked to shut down"),
    }
    if let Err(error) = vmm.kill(domain) {
        return Stopped::NotGone(error_chain(&error));
    }
    match vmm.wait_gone(domain, &Wait::at_most(KILL_DEADLINE)) {
        Ok(Some(_)) => Stopped::Forced,
        Ok(None) => Stopped::NotGone("killed, and still there".to_owned()),
        Err(error) => Stopped::NotGone(error_chain(&error)),
    }
}

/// Presses the power button, and again now and then: a guest that is still booting hears none. True: it is gone.
fn ask_to_shut_down(
    vmm: &dyn Vmm,
    domain: &Domain,
    patience: Duration,
    cx: &JobContext<Event>,
) -> Result<bool, String> {
    let cancelled = || cx.cancelled();
    let mut left = patience;
    loop {
        vmm.request_shutdown(domain).map_err(|error| error_chain(&error))?;
        let at_most = left.min(PRESS_AGAIN_AFTER);
        let gone = vmm.wait_gone(domain, &Wait { at_most, cancelled: &cancelled });
        if gone.map_err(|error| error_chain(&error))?.is_some() {
            return Ok(true);
        }
        left -= at_most;
        if left.is_zero() || cx.cancelled() {
            return Ok(false);
        }
    }
}

/// Ends at once; the end of the process arrives later, as an event of its own.
fn watch(vmm: &dyn Vmm, domain: Domain, cx: &JobContext<Event>) -> Event {
    let poster = cx.poster();
    let watched = domain.clone();
    let on_exit = Box::new(move |exit: DomainExit| {
        poster.post(Event::Exited { domain: watched, exit });
    });
    let result = vmm.watch(&domain, on_exit).map_err(|error| error_chain(&error));
    Event::Watching { domain, result }
}

/// Removes the traces and the domain's directory, console log included.
fn forget(env: &Env, app: AppId) -> Result<(), String> {
    env.vmm.forget(app.0).map_err(|error| error_chain(&error))?;
    crashsafe::remove_tree(env.disk.as_ref(), &env.layout.domain_dir(&app)).map_err(|error| error.to_string())
}
