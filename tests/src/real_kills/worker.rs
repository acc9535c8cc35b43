//! The process that is killed: a whole node on a persist directory, at the order of its standard input.
//!
//! ```text
//!   in:  "orders"  the orders file has changed        out: "settled <hash>"  those orders are carried out and reported
//!        "back"    the controller is there again           "rests <hash>"    the same of what is in force, the
//!        "why"     what is missing?                                          controller being away
//!        the end   end                                     "missing <what>"
//!                                                          "begins <step>", "ended <step>"  of qemu-img
//! ```
//!
//! A worker that is given the orders from before as well starts with its controller away: whether the newest orders
//! are in force then is a matter of what the killed one had saved. Either way it must come to rest.
//!
//! Controller and guests are simulated in this process and die with it, like everything in a box whose plug is pulled.
//! A guest writes nothing by itself: the rig writes for it, while the node rests.

#![allow(clippy::disallowed_methods, reason = "it drives a node in real time")]

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use holdfast_agents::domainmgr;
use holdfast_agents::domainmgr::simulated_vmm::SimulatedVmm;
use holdfast_agents::node;
use holdfast_agents::node::agents::{AgentSettings, Seams, agents};
use holdfast_agents::runtime::Services;
use holdfast_agents::volumemgr::fetcher::HttpFetcher;
use holdfast_agents::wire::config::{ConfigRequest, ConfigResponse};
use holdfast_agents::wire::info::z_info_msg::InfoContent;
use holdfast_agents::wire::info::{ZInfoApp, ZInfoMsg};
use holdfast_agents::wire::link::{ControllerLink, Fetched, LinkError, read_config};
use holdfast_persist::{PersistLayout, RealDisk};
use holdfast_types::{DeviceId, DeviceStatus};
use holdfast_volumehandlers::Backing;
use holdfast_volumehandlers::qcow2::QemuImg;
use prost::Message;

use super::settled::{Report, settled};
use super::telling_tool::Telling;
use super::{APP, DEVICE};
use crate::hooked_tool::HookedTool;
use crate::real_machine::open_services;

const POLL_INTERVAL: Duration = Duration::from_millis(10);
const LOOK_EVERY: Duration = Duration::from_millis(3);

/// Runs until the standard input ends, or the node fails.
pub fn run(persist: &Path, orders: &Path, before: Option<&Path>) -> anyhow::Result<()> {
    let link = Arc::new(FileLink::open(orders, before.is_some())?);
    let before = before.map(read_orders).transpose()?;
    let hypervisor = SimulatedVmm::new();
    let said = listen();
    let runtime = node::runtime()?;
    runtime.block_on(async {
        let services = services(persist)?;
        let seams = Seams {
            controller: link.clone(),
            fetcher: Arc::new(HttpFetcher::new()),
            images: Arc::new(HookedTool { tool: QemuImg::new(), hook: Telling }),
            backing: Backing::Files,
            hypervisor: Arc::new(hypervisor.clone()),
        };
        let domains =
            domainmgr::Settings { accelerator: "simulated".to_owned(), ..domainmgr::Settings::default() };
        let settings = AgentSettings { device: DeviceId(DEVICE), poll_interval: POLL_INTERVAL, domains };
        let mut node = agents(&services, &seams, &settings).start()?;
        let mut told = String::new();
        loop {
            // Doubles as the pause between two looks.
            if let Ok(fatal) = tokio::time::timeout(LOOK_EVERY, node.failed()).await {
                return Err(anyhow::Error::new(fatal).context("the node failed"));
            }
            let order = said.try_recv();
            if order == Err(TryRecvError::Disconnected) {
                std::process::exit(0);
            }
            match order.as_deref() {
                Ok("orders") => link.read()?,
                Ok("back") => link.is_away.store(false, Ordering::SeqCst),
                _ => {}
            }
            let line = match is_done(&services, &link, before.as_ref(), hypervisor.running(APP).is_some())? {
                Ok(line) if line != told => line,
                Err(what) if order.as_deref() == Ok("why") => format!("missing {what}"),
                _ => continue,
            };
            tell(&line)?;
            told = line;
        }
    })
}

/// What to tell, or what is missing.
fn is_done(
    services: &Services,
    link: &FileLink,
    before: Option<&ConfigResponse>,
    guest_runs: bool,
) -> anyhow::Result<Result<String, String>> {
    let newest = link.response()?;
    let judge = |response: &ConfigResponse, report: Report<'_>| {
        settled(services, &response.config.clone().unwrap_or_default(), report, guest_runs)
    };
    if !link.is_away.load(Ordering::SeqCst) {
        let done = judge(&newest, Report::Newest(link.report().as_ref()));
        return Ok(done.map(|()| format!("settled {}", newest.config_hash)));
    }
    let in_force = services.bus.rows::<DeviceStatus>().first().map(|status| status.config_hash.clone());
    let known = [Some(&newest), before].into_iter().flatten();
    let Some(response) = known.into_iter().find(|response| Some(&response.config_hash) == in_force.as_ref())
    else {
        return Ok(Err(format!("the configuration {in_force:?} is in force")));
    };
    Ok(judge(response, Report::Away).map(|()| format!("rests {}", response.config_hash)))
}

fn services(persist: &Path) -> anyhow::Result<Services> {
    let layout = PersistLayout::new(persist);
    layout.prepare(&RealDisk)?;
    // Held until the process is gone.
    std::mem::forget(layout.lock(&RealDisk)?);
    open_services(layout, None).context("no room for the reserve")
}

/// Lines of the standard input; the end of it closes the channel.
fn listen() -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// One line to the supervisor.
pub(super) fn tell(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// A controller whose configuration lies in a file, in the wire's bytes.
#[derive(Debug)]
struct FileLink {
    path: PathBuf,
    body: Mutex<Vec<u8>>,
    report: Mutex<Option<ZInfoApp>>,
    is_away: AtomicBool,
}

fn read_orders(path: &Path) -> anyhow::Result<ConfigResponse> {
    let body = std::fs::read(path).with_context(|| path.display().to_string())?;
    Ok(ConfigResponse::decode(body.as_slice())?)
}

impl FileLink {
    fn open(path: &Path, is_away: bool) -> anyhow::Result<FileLink> {
        let link = FileLink {
            path: path.to_path_buf(),
            body: Mutex::default(),
            report: Mutex::default(),
            is_away: AtomicBool::new(is_away),
        };
        link.read()?;
        Ok(link)
    }

    /// Whoever is away cannot be reached.
    fn reach(&self) -> Result<(), LinkError> {
        if !self.is_away.load(Ordering::SeqCst) {
            return Ok(());
        }
        let url = self.path.display().to_string();
        Err(LinkError::Unreachable { url, source: std::io::ErrorKind::ConnectionRefused.into() })
    }

    fn read(&self) -> anyhow::Result<()> {
        let body = std::fs::read(&self.path).with_context(|| self.path.display().to_string())?;
        *held(&self.body) = body;
        Ok(())
    }

    fn response(&self) -> anyhow::Result<ConfigResponse> {
        Ok(ConfigResponse::decode(held(&self.body).as_slice())?)
    }

    fn report(&self) -> Option<ZInfoApp> {
        held(&self.report).clone()
    }
}

impl ControllerLink for FileLink {
    fn fetch_config(&self, request: &ConfigRequest) -> Result<Fetched, LinkError> {
        self.reach()?;
        let body = held(&self.body).clone();
        Ok(read_config(request, body))
    }

    fn post_info(&self, message: &ZInfoMsg) -> Result<(), LinkError> {
        self.reach()?;
        if let Some(InfoContent::Ainfo(app)) = &message.info_content {
            *held(&self.report) = Some(app.clone());
        }
        Ok(())
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
