//! The controller over HTTP.
//!
//! ```text
//!   nodes    GET|POST /api/v2/edgedevice/ping, /api/v2/edgedevice/id/<device>/ping
//!            POST     /api/v2/edgedevice/id/<device>/config       ConfigRequest → ConfigResponse, or 304
//!            POST     /api/v2/edgedevice/id/<device>/info         ZInfoMsg → 201
//!   drivers  GET      /admin/device                               all devices, in short
//!            GET|PUT  /admin/device/<device>/config               EdgeDevConfig as JSON
//!            GET      /admin/device/<device>/info[?latest]        reports as JSON lines
//!   content  GET|HEAD /files/<path>                               with Range
//! ```
//!
//! The server runs on threads of its own, so that tests without an async runtime can hold it. A new configuration
//! is on disk before it is in the core, and in the core before it is acknowledged. Every connection serves one
//! request, so that switching the controller off acts at once. There is no access control: it listens where it is
//! told, for tests and demonstrations.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use axum::serve::Listener;
use holdfast_agents::wire::config::EdgeDevConfig;
use holdfast_agents::wire::info::ZInfoMsg;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::faults::{Download, Faults};
use super::store::{Store, StoreError};
use super::{ControllerCore, Device, DeviceConfig, UnknownDevice, json, routes};

/// How long open connections get when the server stops.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// How many downloads are remembered.
const DOWNLOADS_KEPT: usize = 10_000;

/// Where a server listens and what it keeps.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// `host:port`; port 0 takes a free one.
    pub listen: String,
    /// Where the state is kept; without it a restart forgets.
    pub state: Option<PathBuf>,
    /// The content of datastores; without it there is none.
    pub files: Option<PathBuf>,
}

impl Default for ServerSettings {
    /// A free port on the loopback, nothing kept, no files: what a test wants.
    fn default() -> Self {
        ServerSettings { listen: "127.0.0.1:0".into(), state: None, files: None }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {address}")]
    Listen {
        address: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot use the state folder")]
    State(#[from] StoreError),
    #[error("{} is not a folder of files", path.display())]
    Files { path: PathBuf },
    #[error("cannot start the server's threads")]
    Threads(#[source] io::Error),
}

/// What was waited for did not come.
#[derive(Debug, thiserror::Error)]
#[error("waited {within:?} for {what}, in vain; the newest reports:\n{newest}")]
pub struct Overdue {
    pub what: String,
    pub within: Duration,
    pub newest: String,
}

/// A running controller. Dropping it stops it.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// What the requests share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    core: Mutex<ControllerCore>,
    /// Signalled at each report and each new configuration.
    changed: Condvar,
    store: Option<Store>,
    pub(super) files: Option<PathBuf>,
    faults: Mutex<Faults>,
    downloads: Mutex<Vec<Download>>,
}

/// Why a report was not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecordError {
    #[error(transparent)]
    Unknown(#[from] UnknownDevice),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Shared {
    pub(super) fn core(&self) -> MutexGuard<'_, ControllerCore> {
        self.core.lock().expect("no holder panics")
    }

    pub(super) fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().expect("no holder panics")
    }

    pub(super) fn set_config(&self, device: Uuid, config: EdgeDevConfig) -> Result<(), StoreError> {
        let mut core = self.core();
        if let Some(store) = &self.store {
            store.save_config(device, &config)?;
        }
        core.set_config(device, config);
        self.changed.notify_all();
        Ok(())
    }

    pub(super) fn record_info(&self, device: Uuid, report: ZInfoMsg) -> Result<(), RecordError> {
        let mut core = self.core();
        core.device(device)?;
        if let Some(store) = &self.store {
            store.append_report(device, &report)?;
        }
        core.record_info(device, report)?;
        self.changed.notify_all();
        Ok(())
    }

    pub(super) fn record_download(&self, download: Download) {
        let mut downloads = self.downloads.lock().expect("no holder panics");
        if downloads.len() < DOWNLOADS_KEPT {
            downloads.push(download);
        }
    }
}

impl Server {
    /// Starts a controller. When this returns it answers.
    pub fn start(settings: &ServerSettings) -> Result<Server, StartError> {
        let listen = |source| StartError::Listen { address: settings.listen.clone(), source };
        // Bound before anything else is touched: a second simulator must not disturb the first one's state.
        let listener = std::net::TcpListener::bind(&settings.listen).map_err(listen)?;
        listener.set_nonblocking(true).map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let shared = Arc::new(open_shared(settings)?);
        let running = run(listener, shared.clone()).map_err(StartError::Threads)?;
        Ok(Server { address, shared, running: Some(running) })
    }

    /// A controller for one test, on a free port of the loopback, with files from a folder.
    ///
    /// # Panics
    /// When there is no free port, or no such folder.
    pub fn for_test(files: Option<&Path>) -> Server {
        let settings = ServerSettings { files: files.map(Path::to_owned), ..Default::default() };
        Server::start(&settings).expect("a controller on the loopback")
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address as a node takes it: `http://host:port`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The core, locked: requests wait meanwhile.
    pub fn core(&self) -> MutexGuard<'_, ControllerCore> {
        self.shared.core()
    }

    /// The switches for what can go wrong.
    pub fn faults(&self) -> MutexGuard<'_, Faults> {
        self.shared.faults()
    }

    /// Every download asked for so far, in order.
    pub fn downloads(&self) -> Vec<Download> {
        self.shared.downloads.lock().expect("no holder panics").clone()
    }

    /// Makes a configuration the device's, as an admin's PUT does.
    pub fn set_config(&self, device: Uuid, config: impl Into<EdgeDevConfig>) -> Result<(), StoreError> {
        self.shared.set_config(device, config.into())
    }

    /// Changes a device's configuration in domain words; a device that is not known yet starts with nothing.
    pub fn edit_config(&self, device: Uuid, edit: impl FnOnce(&mut DeviceConfig)) -> Result<(), StoreError> {
        let current = self.core().config(device).ok().cloned();
        let mut config = current.map_or_else(|| DeviceConfig::new(device), DeviceConfig::from);
        edit(&mut config);
        self.set_config(device, config)
    }

    /// Waits until `check` finds in the device's reports what it looks for. It is called at once and then after
    /// every report; `what` is for the error.
    pub fn wait_for<T>(
        &self,
        device: Uuid,
        what: &str,
        within: Duration,
        mut check: impl FnMut(&Device) -> Option<T>,
    ) -> Result<T, Overdue> {
        let deadline = Instant::now() + within;
        let mut core = self.core();
        loop {
            if let Some(found) = core.device(device).ok().and_then(&mut check) {
                return Ok(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Overdue { what: what.into(), within, newest: newest(&core, device) });
            }
            core = self.shared.changed.wait_timeout(core, left).expect("no holder panics").0;
        }
    }

    /// Stops listening and drops what is still connected. State on disk is complete.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let Some(running) = self.running.take() else { return };
        // The receiver is gone only when the thread has ended by itself.
        let _ = running.stop.send(());
        if running.thread.join().is_err() {
            tracing::error!("the controller's thread panicked");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

fn newest(core: &ControllerCore, device: Uuid) -> String {
    match core.latest(device) {
        Ok(latest) if latest.is_empty() => "  none".into(),
        Ok(latest) => latest.values().map(|report| format!("  {}\n", json::to_line(report))).collect(),
        Err(unknown) => format!("  {unknown}"),
    }
}

fn open_shared(settings: &ServerSettings) -> Result<Shared, StartError> {
    if let Some(path) = settings.files.as_ref().filter(|path| !path.is_dir()) {
        return Err(StartError::Files { path: path.clone() });
    }
    let (store, core) = match &settings.state {
        None => (None, ControllerCore::new()),
        Some(folder) => {
            let (store, core) = Store::open(folder)?;
            (Some(store), core)
        }
    };
    Ok(Shared { core: Mutex::new(core), store, files: settings.files.clone(), ..Default::default() })
}

fn run(listener: std::net::TcpListener, shared: Arc<Shared>) -> io::Result<Running> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let listener = runtime.block_on(async { TcpListener::from_std(listener) })?;
    let (stop, stopped) = oneshot::channel();
    let switched = Switched { listener, shared: shared.clone() };
    let serve = axum::serve(switched, routes::router(shared));
    let thread = std::thread::Builder::new().name("controller".into()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                result = serve.into_future() => if let Err(error) = result {
                    tracing::error!(%error, "the controller stopped serving");
                },
                _ = stopped => {}
            }
        });
        runtime.shutdown_timeout(STOP_PATIENCE);
    })?;
    Ok(Running { stop, thread })
}

/// Listens, and drops every connection while the controller is switched off.
struct Switched {
    listener: TcpListener,
    shared: Arc<Shared>,
}

impl Listener for Switched {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            let (stream, peer) = Listener::accept(&mut self.listener).await;
            if !self.shared.faults().offline {
                return (stream, peer);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}
