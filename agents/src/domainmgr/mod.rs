//! domainmgr owns running domains: starts and stops QEMU and says truthfully whether a guest is down.
//!
//! ```text
//!  DomainConfig ──▶ ┌────────────────┐ ──▶ DomainStatus
//!  process ended ──▶│ facts ▶ decide │ ──▶ jobs over the Vmm seam: list, start, stop, watch, forget
//!  jobs, timers ───▶└────────────────┘
//! ```
//!
//! The state diagram is in [`decide`]. At the start of the node the running domains are listed and taken over as they
//! are: a restart of the service never touches a guest ([003] G8). `DomainStatus.number` is the number of the config it
//! answers; a down state that answers `activate: false` means that no process is there and none will be started.
//!
//! A domain that ends although it is wanted is started again, after a delay that doubles from try to try and starts over
//! after ten healthy minutes: nobody is there to press a button. That holds for a crash, for a failed start, and for a
//! guest that powers itself off.
//!
//! Deliberately absent: which disks, which version, whether to run at all. That is zedmanager's.

pub mod decide;
mod jobs;
pub mod simulated_vmm;
#[cfg(test)]
mod tests;
pub mod vmm;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_persist::layout::PersistLayout;
use holdfast_pubsub::Change;
use holdfast_types::*;

use crate::runtime::{Agent, Ctx, JobContext, Lane, NodeMode, TimerKey, Wiring};
use decide::{Decision, Doing, End, Facts, Process};
pub use jobs::{DomainJob, Env, Stopped};
use vmm::{Domain, DomainExit, Presence};

/// What can be set.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `kvm` or `tcg`, for the status.
    pub accelerator: String,
    /// How long a guest may take to shut down before it is killed.
    pub shutdown_patience: Duration,
    /// The wait before the first start after an unplanned end, and before every try after a failed stop.
    pub first_delay: Duration,
    pub longest_delay: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            accelerator: "tcg".to_owned(),
            shutdown_patience: Duration::from_secs(60),
            first_delay: Duration::from_secs(1),
            longest_delay: Duration::from_secs(300),
        }
    }
}

/// A domain that ran this long is healthy: what went wrong before counts no more.
const HEALTHY_AFTER: Duration = Duration::from_secs(600);
const WATCH_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// Traces that cannot be read are looked at again after this.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub enum Event {
    Config(Change<DomainConfig>),
    Listed(Result<BTreeMap<AppId, Presence>, String>),
    Started { app: AppId, number: u64, result: Result<Domain, String> },
    Stopped { app: AppId, result: Stopped },
    Exited { domain: Domain, exit: DomainExit },
    Watching { domain: Domain, result: Result<(), String> },
    WatchAgain(Domain),
    LookAgain(AppId),
    Looked { app: AppId, presence: Presence },
    Forgotten { app: AppId, result: Result<(), String> },
    RestIsOver(AppId),
    Healthy(AppId),
    ListAgain,
}

#[derive(Debug)]
struct Guest {
    wanted: Option<Arc<DomainConfig>>,
    /// Its config was withdrawn: nobody's for certain, whether or not zedmanager has told all it wants.
    withdrawn: bool,
    process: Process,
    doing: Option<Doing>,
    resting: bool,
    /// Unplanned ends and failed tries since it was last healthy or ordered anew.
    failures: u32,
    crash_count: u32,
    boot_time: Option<Timestamp>,
    /// What the last stop or the last unplanned end has to say.
    notice: Option<ErrorReport>,
}

impl Guest {
    fn new() -> Self {
        Guest {
            wanted: None,
            withdrawn: false,
            process: Process::Gone(End::NeverStarted),
            doing: None,
            resting: false,
            failures: 0,
            crash_count: 0,
            boot_time: None,
            notice: None,
        }
    }
}

#[derive(Debug)]
pub struct Domainmgr {
    settings: Settings,
    layout: PersistLayout,
    guests: BTreeMap<AppId, Guest>,
    listed: bool,
    wishes_known: bool,
}

impl Domainmgr {
    pub fn new(settings: Settings, layout: PersistLayout) -> Self {
        Domainmgr { settings, layout, guests: BTreeMap::new(), listed: false, wishes_known: false }
    }
}

impl Agent for Domainmgr {
    const NAME: &'static str = "domainmgr";
    type Event = Event;
    type Job = DomainJob;
    type Env = Env;

    fn wire(w: &mut Wiring<Self>) {
        w.reads::<DomainConfig>(Event::Config);
        w.owns::<DomainStatus>();
    }

    fn start(&mut self, cx: &mut Ctx<Self>) {
        cx.job(DomainJob::List);
    }

    fn lane(event: &Event) -> Lane {
        match event {
            Event::Config(Change::Created(config) | Change::Deleted(config)) => Lane::object(config.app),
            Event::Config(Change::Modified { new, .. }) => Lane::object(new.app),
            Event::Config(Change::Synced | Change::Restarted(_)) | Event::Listed(_) | Event::ListAgain => {
                Lane::Agent
            }
            Event::Started { app, .. }
            | Event::Stopped { app, .. }
            | Event::Forgotten { app, .. }
            | Event::Looked { app, .. }
            | Event::LookAgain(app)
            | Event::RestIsOver(app)
            | Event::Healthy(app) => Lane::object(app),
            Event::Exited { domain, .. } | Event::Watching { domain, .. } | Event::WatchAgain(domain) => {
                Lane::object(domain.app)
            }
        }
    }

    fn handle(&mut self, event: Event, cx: &mut Ctx<Self>) {
        let concerned = self.take_in(event, cx);
        if self.listed {
            for app in concerned {
                self.settle(app, cx);
            }
        }
    }

    fn run_job(job: DomainJob, env: &Env, cx: &JobContext<Event>) -> Event {
        jobs::run(job, env, cx)
    }
}

impl Domainmgr {
    /// Remembers what the event says and names the domains it may move.
    fn take_in(&mut self, event: Event, cx: &mut Ctx<Self>) -> Vec<AppId> {
        match event {
            Event::Config(change) => self.take_wish(change),
            Event::Listed(Ok(found)) => self.take_over(found, cx),
            Event::Listed(Err(error)) => {
                tracing::error!(
                    error,
                    "cannot list the running domains; nothing is started before that is known"
                );
                cx.timer(
                    TimerKey::new("list"),
                    self.settings.longest_delay.min(Duration::from_secs(5)),
                    Event::ListAgain,
                );
                Vec::new()
            }
            Event::ListAgain => {
                cx.job(DomainJob::List);
                Vec::new()
            }
            Event::Started { app, number, result } => {
                self.started(app, number, result, cx);
                vec![app]
            }
            Event::Stopped { app, result } => {
                self.stopped(app, result, cx);
                vec![app]
            }
            Event::Exited { domain, exit } => {
                let app = AppId(domain.app);
                self.exited(&domain, exit, cx);
                vec![app]
            }
            Event::Watching { domain, result } => {
                self.watching(domain, result, cx);
                Vec::new()
            }
            Event::WatchAgain(domain) => {
                if self.is_alive(&domain) {
                    cx.job(DomainJob::Watch(domain));
                }
                Vec::new()
            }
            Event::Forgotten { app, result } => {
                self.forgotten(app, result, cx);
                vec![app]
            }
            Event::LookAgain(app) => {
                cx.job(DomainJob::Look(app));
                Vec::new()
            }
            Event::Looked { app, presence } => {
                self.found(app, presence, cx);
                vec![app]
            }
            Event::RestIsOver(app) => {
                if let Some(guest) = self.guests.get_mut(&app) {
                    guest.resting = false;
                }
                vec![app]
            }
            Event::Healthy(app) => {
                if let Some(guest) = self.guests.get_mut(&app) {
                    guest.failures = 0;
                    guest.notice = None;
                }
                vec![app]
            }
        }
    }

    fn take_wish(&mut self, change: Change<DomainConfig>) -> Vec<AppId> {
        match change {
            Change::Created(config) | Change::Modified { new: config, .. } => {
                let app = config.app;
                let guest = self.guests.entry(app).or_insert_with(Guest::new);
                if guest.wanted.as_ref().map(|wanted| wanted.activate) != Some(config.activate) {
                    // A new order: nothing that went wrong under the old one holds it up.
                    guest.resting = false;
                    guest.failures = 0;
                    guest.crash_count = 0;
                    if !config.activate && matches!(guest.process, Process::Gone(_)) {
                        // It says that the guest is started again, and it will not be.
                        guest.notice = None;
                    }
                }
                guest.wanted = Some(config);
                guest.withdrawn = false;
                vec![app]
            }
            Change::Deleted(config) => {
                if let Some(guest) = self.guests.get_mut(&config.app) {
                    guest.wanted = None;
                    guest.withdrawn = true;
                    guest.resting = false;
                }
                vec![config.app]
            }
            Change::Restarted(_) => {
                self.wishes_known = true;
                self.guests.keys().copied().collect()
            }
            Change::Synced => Vec::new(),
        }
    }

    /// The inventory of the start: what runs goes on running and is watched from now on ([003] G8).
    fn take_over(&mut self, found: BTreeMap<AppId, Presence>, cx: &mut Ctx<Self>) -> Vec<AppId> {
        self.listed = true;
        for (app, presence) in found {
            self.found(app, presence, cx);
            if !matches!(self.guests.get(&app).map(|guest| &guest.process), Some(Process::Gone(_))) {
                // Said before the topic's Restarted: whoever hears that knows all that runs or may run.
                self.publish_status(app, cx);
            }
        }
        cx.signal_restarted::<DomainStatus>();
        self.guests.keys().copied().collect()
    }

    /// What was there before this node. A guest whose traces cannot be read waits alone until they can ([003] G9):
    /// a second one on its disks would destroy them.
    fn found(&mut self, app: AppId, presence: Presence, cx: &mut Ctx<Self>) {
        let guest = self.guests.entry(app).or_insert_with(Guest::new);
        let known = guest.notice.take_if(|_| guest.process == Process::Unknown);
        guest.process = match presence {
            Presence::Running { domain, answers } => {
                tracing::info!(%app, pid = domain.pid, answers, "domain found running and taken over");
                cx.job(DomainJob::Watch(domain.clone()));
                Process::Alive(domain)
            }
            // However it ended: a cut of the power kills every guest, and that is no crash of theirs.
            Presence::Ended(_) => Process::Gone(End::Halted),
            Presence::Absent => Process::Gone(End::NeverStarted),
            Presence::Unknown(why) => {
                tracing::error!(%app, why, "whether the domain runs cannot be found out; it is looked at again");
                let text = format!("whether the guest runs cannot be found out: {why}");
                let error = ErrorReport::new(text, cx.now()).about(EntityKind::AppInstance, app);
                // One that is only said again keeps its time.
                let known = known.filter(|known| known.summary == error.summary);
                guest.notice = Some(known.unwrap_or(error.retry("looked at again by itself")));
                cx.timer(TimerKey::new(format!("look {app}")), LOOK_AGAIN_AFTER, Event::LookAgain(app));
                Process::Unknown
            }
        };
    }

    fn started(&mut self, app: AppId, number: u64, result: Result<Domain, String>, cx: &mut Ctx<Self>) {
        let Some(guest) = self.guests.get_mut(&app) else { return };
        guest.doing = None;
        match result {
            Ok(domain) => {
                tracing::info!(%app, number, pid = domain.pid, "domain runs");
                guest.boot_time = Some(cx.now());
                cx.job(DomainJob::Watch(domain.clone()));
                cx.timer(TimerKey::new(format!("healthy {app}")), HEALTHY_AFTER, Event::Healthy(app));
                guest.process = Process::Alive(domain);
            }
            Err(why) => {
                tracing::warn!(%app, number, why, "domain not started");
                let error = ErrorReport::new(why, cx.now()).about(EntityKind::AppInstance, app);
                guest.process = Process::Gone(End::Failed(error));
                self.rest(app, cx);
            }
        }
    }

    fn stopped(&mut self, app: AppId, result: Stopped, cx: &mut Ctx<Self>) {
        let Some(guest) = self.guests.get_mut(&app) else { return };
        guest.doing = None;
        match result {
            Stopped::Gone => {
                tracing::info!(%app, "domain halted");
                guest.process = Process::Gone(End::Halted);
                guest.notice = None;
            }
            Stopped::Forced => {
                let seconds = self.settings.shutdown_patience.as_secs();
                let text = format!("the guest did not shut down within {seconds} s and was killed");
                tracing::warn!(%app, text);
                guest.process = Process::Gone(End::Halted);
                guest.notice = Some(ErrorReport::new(text, cx.now()).severity(Severity::Warning));
            }
            Stopped::NotGone(why) => {
                tracing::error!(%app, why, "domain not stopped");
                guest.notice =
                    Some(ErrorReport::new(format!("the guest cannot be stopped: {why}"), cx.now()));
                self.rest(app, cx);
            }
        }
    }

    /// An end that nobody watches for would go unnoticed, and the guest stay down: so watching is tried until it works.
    fn watching(&self, domain: Domain, result: Result<(), String>, cx: &mut Ctx<Self>) {
        let Err(error) = result else { return };
        tracing::error!(app = %domain.app, error, "the domain cannot be watched; it is tried again");
        let key = TimerKey::new(format!("watch {}", domain.app));
        cx.timer(key, WATCH_AGAIN_AFTER, Event::WatchAgain(domain));
    }

    fn is_alive(&self, domain: &Domain) -> bool {
        let guest = self.guests.get(&AppId(domain.app));
        guest.is_some_and(|guest| matches!(&guest.process, Process::Alive(alive) if alive == domain))
    }

    /// A process ended; whether it was told to shows in what is under way.
    fn exited(&mut self, domain: &Domain, exit: DomainExit, cx: &mut Ctx<Self>) {
        let app = AppId(domain.app);
        let Some(guest) = self.guests.get_mut(&app) else { return };
        if guest.process != Process::Alive(domain.clone()) || guest.doing == Some(Doing::Stopping) {
            return;
        }
        let wanted = guest.wanted.as_ref().is_some_and(|wanted| wanted.activate);
        guest.process = match exit {
            DomainExit::Stopped => Process::Gone(End::Halted),
            DomainExit::Killed => Process::Gone(End::Crashed),
        };
        if !wanted {
            guest.notice = None;
            return;
        }
        guest.crash_count += 1;
        let text = match exit {
            DomainExit::Stopped => "the guest powered itself off; it is started again",
            DomainExit::Killed => "the guest's process was killed or crashed; it is started again",
        };
        tracing::warn!(%app, count = guest.crash_count, text);
        guest.notice = Some(ErrorReport::new(text, cx.now()).severity(Severity::Warning));
        self.rest(app, cx);
    }

    fn forgotten(&mut self, app: AppId, result: Result<(), String>, cx: &mut Ctx<Self>) {
        let Some(guest) = self.guests.get_mut(&app) else { return };
        guest.doing = None;
        match result {
            Ok(()) if guest.wanted.is_none() => {
                tracing::info!(%app, "domain forgotten");
                self.guests.remove(&app);
                cx.unpublish::<DomainStatus>(&app);
            }
            Ok(()) => guest.process = Process::Gone(End::NeverStarted),
            Err(why) => {
                tracing::warn!(%app, why, "the domain's traces are not removed yet");
                self.rest(app, cx);
            }
        }
    }

    /// The next try waits, twice as long from try to try.
    fn rest(&mut self, app: AppId, cx: &mut Ctx<Self>) {
        let Some(guest) = self.guests.get_mut(&app) else { return };
        let doubled = self.settings.first_delay.saturating_mul(1 << guest.failures.min(16));
        guest.failures += 1;
        guest.resting = true;
        let delay = doubled.min(self.settings.longest_delay);
        cx.cancel_timer(&TimerKey::new(format!("healthy {app}")));
        cx.timer(TimerKey::new(format!("rest {app}")), delay, Event::RestIsOver(app));
    }

    fn settle(&mut self, app: AppId, cx: &mut Ctx<Self>) {
        let Some(guest) = self.guests.get_mut(&app) else { return };
        let facts = Facts {
            wanted: guest.wanted.as_deref(),
            wishes_known: self.wishes_known || guest.withdrawn,
            process: &guest.process,
            doing: guest.doing,
            resting: guest.resting,
            read_only: matches!(cx.mode(), NodeMode::ReadOnly { .. }),
        };
        match (decide::decide(&facts), &guest.process, &guest.wanted) {
            (Decision::Start, _, Some(config)) => {
                cx.job(DomainJob::Start(Box::new((**config).clone())));
                guest.doing = Some(Doing::Starting);
                guest.notice = None;
            }
            // A stop or a forgetting that failed is tried again after its rest.
            (Decision::Stop, Process::Alive(domain), _) if !guest.resting => {
                let patience = self.settings.shutdown_patience;
                cx.job(DomainJob::Stop { domain: domain.clone(), patience });
                guest.doing = Some(Doing::Stopping);
            }
            (Decision::Forget, _, _) if !guest.resting => {
                cx.job(DomainJob::Forget(app));
                guest.doing = Some(Doing::Forgetting);
            }
            _ => {}
        }
        self.publish_status(app, cx);
    }

    fn publish_status(&self, app: AppId, cx: &mut Ctx<Self>) {
        let Some(guest) = self.guests.get(&app) else { return };
        let failed = match &guest.process {
            Process::Gone(End::Failed(error)) => Some(error.clone()),
            _ => None,
        };
        let process_id = match &guest.process {
            Process::Alive(domain) => Some(domain.pid),
            Process::Gone(_) | Process::Unknown => None,
        };
        cx.publish(DomainStatus {
            app,
            number: guest.wanted.as_ref().map_or(0, |wanted| wanted.number),
            state: decide::state(&guest.process, guest.doing),
            process_id,
            boot_time: guest.boot_time,
            accelerator: self.settings.accelerator.clone(),
            console_log: jobs::console_log(&self.layout, app).display().to_string(),
            crash_count: guest.crash_count,
            error: failed.or_else(|| guest.notice.clone()),
        });
    }
}
