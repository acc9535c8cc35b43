//! The node: everything put together, and the one task that watches over it (architecture section 10).
//!
//! ```text
//!   persist directory prepared, locked ─▶ socket bound ─▶ start noted ─▶ API up ─▶ agents started
//!        ─▶ all synced: READY=1 ─▶ watched: WATCHDOG=1 while every agent answers ─┬─ SIGTERM, SIGINT ─▶ drained, 0
//!                                                                               └─ Fatal ─▶ told, non-zero
//! ```
//!
//! A new agent is one line in [`agents`]. Guests are no children to be waited for: they outlive the node, and the
//! next start finds them running. There is no other start than the start after a crash.
//!
//! Deliberately absent: any decision about applications.

#![allow(
    clippy::disallowed_methods,
    reason = "the node's own tasks: the API, the watch over the agents, the probe"
)]

pub mod agents;
pub mod counted_disk;
pub mod health;
pub mod logging;
pub mod starts;
pub mod storage;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use holdfast_persist::layout::PrepareError;
use holdfast_persist::{Disk, PersistLayout, RealDisk};
use holdfast_pubsub::BusError;
use holdfast_types::error_chain;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::api::{Api, ApiSocket, Seen, SocketError};
use crate::domainmgr;
use crate::domainmgr::vmm::{Choice, QemuSettings, QemuVmm, Vmm, VmmError, choose_accelerator};
use crate::runtime::*;
use crate::settings::{LogFormat, Settings};
use crate::volumemgr::fetcher::HttpFetcher;
use crate::wire::link::{HttpLink, LinkError};
use agents::{AGENTS, AgentSettings, Seams, agents_and_orders};
use counted_disk::CountedDisk;
use health::{Health, Notifier, Stage};
use holdfast_volumehandlers::Backing;
use holdfast_volumehandlers::qcow2::QemuImg;
use starts::{HEALTHY_AFTER, Starts};

/// Two are enough: agents have workers of their own, and jobs run on the blocking pool.
const WORKER_THREADS: usize = 2;
/// Beside jobs, and a commit for each agent: looks at the disk's room, the probe for an accelerator, and threads on which one job
/// ends while the next begins.
const OTHER_BLOCKING: usize = 8;
const THREAD_NAME: &str = "holdfast";
/// How often agents are asked for a sign of life when no watchdog says how often it wants one.
const LOOK_EVERY: Duration = Duration::from_secs(10);
const SYNCED_LOOK_EVERY: Duration = Duration::from_millis(20);
/// A probe guest that has not run to its end by then counts as hanging.
const PROBE_AT_MOST: Duration = Duration::from_secs(20);
/// For answers to questions that were asked before the stop.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// Why a node does not come up, or cannot go on. The process exits non-zero.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error(transparent)]
    Persist(#[from] PrepareError),
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error("the process cannot be set up")]
    Process(#[source] io::Error),
    #[error("the reserve in {} cannot be made", persist.display())]
    Reserve { persist: PathBuf, source: io::Error },
    #[error("the controller's address cannot be used")]
    Controller(#[from] LinkError),
    #[error("the hypervisor cannot be used")]
    Hypervisor(#[source] VmmError),
    #[error("an agent cannot start")]
    Agents(#[from] BusError),
    #[error("the node cannot go on")]
    Fatal(#[from] Fatal),
    /// No failure: what was not written down while the file system was read-only is decided anew by a new process.
    #[error("the persist directory can be written again: starting over")]
    WritableAgain,
    #[error("the API has stopped answering")]
    Api(#[source] io::Error),
}

/// Runs the node until it is told to stop (`Ok`) or cannot go on. Guests are left running either way.
pub fn run(settings: Settings) -> Result<(), NodeError> {
    run_on(settings, None)
}

/// The same with its guests on another hypervisor than QEMU: for machines that are to see everything else of a node.
pub fn run_on(settings: Settings, hypervisor: Option<Arc<dyn Vmm>>) -> Result<(), NodeError> {
    logging::start(&settings);
    let runtime = runtime().map_err(NodeError::Process)?;
    let ended = runtime.block_on(serve(&settings, hypervisor));
    // Not waited for: a job that is still at it is taken up again at the next start.
    runtime.shutdown_background();
    match &ended {
        Ok(()) => tracing::info!("stopped; guests go on running"),
        // As text it is told by `cli`, in its own words; a reader of JSON gets it as JSON.
        Err(error) if settings.log_format == LogFormat::Json => {
            tracing::error!(error = error_chain(error), "the node ends");
        }
        Err(_) => {}
    }
    ended
}

/// What a node runs on, with as many threads at most as there is work for at once. Without a bound there would be hundreds: a job
/// that ends gives the next one to the pool while its own thread is still busy, and tokio starts a thread for it that finds
/// nothing to do when it is awake at last.
pub fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .max_blocking_threads(JobLimits::default().total() + AGENTS.len() + OTHER_BLOCKING)
        .thread_name(THREAD_NAME)
        .enable_all()
        .build()
}

async fn serve(settings: &Settings, hypervisor: Option<Arc<dyn Vmm>>) -> Result<(), NodeError> {
    let signals = Signals::listen().map_err(NodeError::Process)?;
    let clock = Arc::new(SystemClock::new());
    let disk = Arc::new(CountedDisk::new(Arc::new(RealDisk)));
    let layout = PersistLayout::new(&settings.persist);
    let unwritable = unwritable(&layout, &*disk)?;
    // Kept until the process is gone: after this function a job or an agent may still be in the middle of a write.
    std::mem::forget(layout.lock(&*disk)?);
    let socket = ApiSocket::bind(&settings.socket)?;

    let mut starts = Starts::load(&RealDisk, socket.path());
    let failing = starts.begin(clock.now(), settings.max_failed_starts);
    let read_only = unwritable.clone().or(failing);
    if let Some(reason) = &read_only {
        tracing::error!(reason, "read-only: guests run, nothing changes");
    }
    let ended = match assemble(settings, hypervisor, &socket, clock, disk, layout, read_only).await {
        Ok(node) => {
            Node { waits_to_write: unwritable.is_some(), ..node }
                .live(signals, &mut starts, settings.drain)
                .await
        }
        Err(error) => Err(error),
    };
    match &ended {
        Ok(()) | Err(NodeError::WritableAgain) => starts.forget(),
        Err(error) => starts.failed(error_chain(error)),
    }
    ended
}

/// Makes the persist directory ready. Why it cannot be written, if its file system is read-only: the node comes up all the
/// same, says so, and watches over its guests.
fn unwritable(layout: &PersistLayout, disk: &dyn Disk) -> Result<Option<String>, PrepareError> {
    match layout.prepare(disk) {
        Ok(()) => Ok(None),
        Err(error) if error.is_read_only() => Ok(Some(error_chain(&error))),
        Err(error) => Err(error),
    }
}

/// Everything up to agents at work.
async fn assemble(
    settings: &Settings,
    hypervisor: Option<Arc<dyn Vmm>>,
    socket: &ApiSocket,
    clock: Arc<SystemClock>,
    disk: Arc<CountedDisk>,
    layout: PersistLayout,
    read_only: Option<String>,
) -> Result<Node, NodeError> {
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        device = %settings.device,
        persist = %settings.persist.display(),
        controller = settings.controller,
        socket = %socket.path().display(),
        "starting"
    );
    let accelerator = accelerator(settings).await;
    tracing::info!(accelerator = %accelerator, "accelerator chosen");
    let pool = BlockingPool::new();
    let services = Services::open(Outside {
        disk: Arc::clone(&disk) as Arc<dyn Disk>,
        layout,
        clock: clock.clone(),
        entropy: Arc::new(SystemEntropy),
        executor: pool.clone(),
        limits: JobLimits::default(),
        commits: Commits::Beside(pool),
        reserve_size_bytes: settings.reserve_bytes,
        read_only,
    })
    .map_err(|source| NodeError::Reserve { persist: settings.persist.clone(), source })?;

    let storage = storage::choose(&settings.persist, settings.zfs);
    tracing::info!(storage = storage.why, "storage chosen");
    let told = (accelerator.to_string(), storage.why);
    let health = Health::new(settings, told, clock.now(), Arc::clone(&services.mode), disk, AGENTS.to_vec());
    let health = Arc::new(health);
    let api = Api::new(health.clone());
    let watching =
        tokio::spawn(api.clone().watch(Seen::subscribe(&services.bus), Arc::clone(&services.clock)));
    let (stop_api, stopped) = oneshot::channel::<()>();
    let listener = socket.listener().map_err(NodeError::Api)?;
    let serving = tokio::spawn(api.clone().serve(listener, async { drop(stopped.await) }));

    let hypervisor = hypervisor.map_or_else(|| qemu(&services, &accelerator), Ok)?;
    let seams = seams(settings, hypervisor, storage.backing)?;
    let (builder, orders) = agents_and_orders(&services, &seams, &agent_settings(settings, &accelerator));
    let running = builder.start()?;
    api.take_orders(move |order| orders.give(order));
    let (notifier, waits_to_write) = (Notifier::default(), false);
    Ok(Node { running, health, api, notifier, watching, serving, stop_api, services, waits_to_write })
}

/// The real outside world.
fn seams(settings: &Settings, hypervisor: Arc<dyn Vmm>, backing: Backing) -> Result<Seams, NodeError> {
    Ok(Seams {
        controller: Arc::new(HttpLink::new(&settings.controller, settings.device.0)?),
        fetcher: Arc::new(HttpFetcher::new()),
        images: Arc::new(QemuImg::new()),
        backing,
        hypervisor,
    })
}

fn qemu(services: &Services, accelerator: &Choice) -> Result<Arc<dyn Vmm>, NodeError> {
    let settings = QemuSettings {
        binary: "qemu-system-x86_64".into(),
        runtime_dir: services.layout.run_dir(),
        accelerator: accelerator.accelerator,
    };
    Ok(Arc::new(QemuVmm::new(settings).map_err(NodeError::Hypervisor)?))
}

fn agent_settings(settings: &Settings, accelerator: &Choice) -> AgentSettings {
    AgentSettings {
        device: settings.device,
        poll_interval: settings.poll_interval,
        domains: domainmgr::Settings {
            accelerator: accelerator.accelerator.as_str().to_owned(),
            shutdown_patience: settings.guest_shutdown,
            ..domainmgr::Settings::default()
        },
    }
}

/// `auto` may boot a probe guest, which takes a while.
async fn accelerator(settings: &Settings) -> Choice {
    let wanted = settings.accelerator;
    let probe = move || choose_accelerator(wanted, "qemu-system-x86_64".as_ref(), PROBE_AT_MOST);
    match tokio::task::spawn_blocking(probe).await {
        Ok(choice) => choice,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

/// A node at work.
struct Node {
    running: RunningNode,
    health: Arc<Health>,
    api: Api,
    notifier: Notifier,
    watching: JoinHandle<()>,
    serving: JoinHandle<io::Result<()>>,
    stop_api: oneshot::Sender<()>,
    services: Services,
    /// The persist directory was read-only at the start.
    waits_to_write: bool,
}

impl Node {
    async fn live(
        mut self,
        mut signals: Signals,
        starts: &mut Starts<'_>,
        drain: Duration,
    ) -> Result<(), NodeError> {
        if self.until_synced(&mut signals).await? == Ended::Synced {
            self.health.enter(Stage::Ready);
            self.notifier.ready();
            tracing::info!("ready");
            starts.ready();
            self.until_told(&mut signals, starts).await?;
        }
        self.stop(signals, drain).await;
        Ok(())
    }

    async fn until_synced(&mut self, signals: &mut Signals) -> Result<Ended, NodeError> {
        self.notifier.status("starting".to_string());
        while !self.running.is_synced() {
            tokio::select! {
                fatal = self.running.failed() => return Err(fatal.into()),
                () = signals.told() => return Ok(Ended::Told),
                () = tokio::time::sleep(SYNCED_LOOK_EVERY) => {}
            }
        }
        Ok(Ended::Synced)
    }

    /// Watches over the agents until a signal comes.
    async fn until_told(&mut self, signals: &mut Signals, starts: &mut Starts<'_>) -> Result<(), NodeError> {
        let every = Notifier::interval().unwrap_or(LOOK_EVERY);
        let mut look = tokio::time::interval(every);
        let mut healthy = Some(Box::pin(tokio::time::sleep(HEALTHY_AFTER)));
        loop {
            tokio::select! {
                fatal = self.running.failed() => return Err(fatal.into()),
                () = signals.told() => return Ok(()),
                served = &mut self.serving => return Err(NodeError::Api(api_error(served))),
                _ = look.tick() => {
                    self.look(every, starts);
                    if self.waits_to_write && self.services.layout.prepare(&*self.services.disk).is_ok() {
                        return Err(NodeError::WritableAgain);
                    }
                }
                () = async { healthy.as_mut().expect("guarded").await }, if healthy.is_some() => {
                    healthy = None;
                    starts.forget();
                }
            }
        }
    }

    /// One look at the agents. The watchdog hears of the node only if all of them answered the last look's question.
    fn look(&mut self, every: Duration, starts: &mut Starts<'_>) {
        let stuck = self.running.stuck_agents(every / 2);
        if stuck.is_empty() {
            self.notifier.alive();
            starts.recovered();
        } else {
            tracing::error!(agents = ?stuck, "no answer: the watchdog is not told that all is well");
            // Should the watchdog end the process now, this is why.
            starts.failed(format!("no answer from {}", stuck.join(", ")));
        }
        self.health.found_stuck(stuck);
        self.notifier.status(health::words(&self.api.node()));
    }

    /// Starts nothing new, and lets what runs end; a second signal cuts the waiting short.
    async fn stop(mut self, mut signals: Signals, drain: Duration) {
        self.health.enter(Stage::Stopping);
        self.notifier.stopping();
        tracing::info!(at_most = ?drain, "stopping: running work may end");
        tokio::select! {
            stopped = self.running.stop(drain) => {
                for job in &stopped.unfinished_jobs {
                    tracing::warn!(job, "not finished; it goes on after the next start");
                }
                if !stopped.stuck_agents.is_empty() {
                    tracing::warn!(agents = ?stopped.stuck_agents, "did not come to an end");
                }
            }
            () = signals.told() => tracing::warn!("told again: work is left where it is"),
        }
        self.watching.abort();
        drop(self.stop_api);
        drop(tokio::time::timeout(LAST_ANSWERS, self.serving).await);
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Synced,
    Told,
}

fn api_error(served: Result<io::Result<()>, tokio::task::JoinError>) -> io::Error {
    match served {
        Ok(Err(error)) => error,
        Ok(Ok(())) => io::Error::other("its task has ended"),
        Err(join) => io::Error::other(join),
    }
}

/// What tells a node to stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn told(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => tracing::info!("SIGTERM"),
            _ = self.interrupt.recv() => tracing::info!("SIGINT"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};

    use tokio::runtime::Handle;

    /// As one job's end starts the next.
    fn hand_over(handle: Handle, left: usize, done: Sender<()>) {
        let next = handle.clone();
        drop(handle.spawn_blocking(move || match left {
            0 => done.send(()).expect("heard"),
            _ => hand_over(next, left - 1, done),
        }));
    }

    fn threads() -> usize {
        let tasks = std::fs::read_dir("/proc/self/task").expect("a process has threads");
        let names = tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
        names.filter(|name| name.trim_end() == THREAD_NAME).count()
    }

    #[test]
    fn jobs_that_hand_over_to_each_other_need_no_more_threads_than_run_at_once() {
        let at_once = JobLimits::default().total();
        let runtime = runtime().expect("built");
        let (done, heard) = channel();
        for _ in 0..at_once {
            hand_over(runtime.handle().clone(), 2_000, done.clone());
        }
        for _ in 0..at_once {
            heard.recv_timeout(Duration::from_secs(60)).expect("all of them end");
        }
        let most = WORKER_THREADS + at_once + AGENTS.len() + OTHER_BLOCKING;
        assert!(threads() <= most, "{} threads, and {most} at most have something to do", threads());
    }
}
