//! zedagent speaks with the controller: configuration in, reports out.
//!
//! ```text
//!                    ┌────────────┐ found    ┌─────────┐ new, for us ┌────────┐
//!   start ─ job ────▶│ checkpoint │─────────▶│ parse   │◀────────────│ answer │◀─ job ─ every poll interval
//!                    └─────┬──────┘          └────┬────┘             └───┬────┘
//!        missing, damaged: │                      ▼                      │ unchanged, undecodable, another device's,
//!        wait for controller           record ─▶ bus ─▶ Restarted        │ nobody there: what is in force stays
//!                                                                        ▼
//!   AppInstanceStatus, VolumeStatus, refusals ─▶ report.rs ─▶ outbox.rs ─ jobs ─▶ controller      DeviceStatus
//! ```
//!
//! What is in force changes in one step: the configuration is durable as the last good one, then it is on the bus
//! (datastores, content trees, volumes, applications; removals the other way round). `Restarted` is signalled once,
//! after the first configuration that is known, saved or fetched, and never before: until then nobody may take what is
//! missing for deleted.
//!
//! Deliberately absent: judging whether a configuration can be carried out (zedmanager, volumemgr), ordering
//! configurations by time (the controller is right, whatever it sent before), and any wish of the device itself
//! (reboot, shutdown, settings), which are not spoken yet.

pub mod check;
pub mod checkpoint;
mod claims;
pub mod delay;
pub mod jobs;
pub mod outbox;
pub mod parse;
mod publish;
pub mod refusal;
pub mod report;
mod reporting;

#[cfg(test)]
mod outbox_tests;
#[cfg(test)]
mod parse_tests;
#[cfg(test)]
mod report_tests;
#[cfg(test)]
mod stories;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod testing_node;

use std::time::Duration;

use holdfast_persist::PersistLayout;
use holdfast_pubsub::Change;
use holdfast_types::{
    AppInstanceConfig, AppInstanceStatus, ConfigSource, ContentTreeConfig, DatastoreConfig, DeviceId,
    DeviceStatus, ErrorReport, Severity, Timestamp, VolumeConfig, VolumeStatus,
};

use crate::runtime::{Agent, Ctx, JobContext, NodeMode, TimerKey, Wiring};
use crate::wire::config::{ConfigResponse, EdgeDevConfig};
use checkpoint::Checkpoint;
pub use jobs::ZedagentEnv;
use jobs::{Answer, CheckpointRead, Received, ZedagentJob};
use parse::{InForce, Parsed, parse};
use refusal::{ObjectKind, shown};
use report::{OwnState, ReportObject, joined};
use reporting::Reporting;

/// What a node chooses about its controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub device: DeviceId,
    /// Between two questions for the configuration; also the longest wait after a failed one.
    pub poll_interval: Duration,
    /// After the first failure; it doubles with each one in a row.
    pub first_retry: Duration,
    /// The longest wait before a report that was not taken is sent again.
    pub longest_report_retry: Duration,
}

impl Settings {
    pub fn new(device: DeviceId) -> Self {
        Settings {
            device,
            poll_interval: Duration::from_secs(10),
            first_retry: Duration::from_secs(1),
            longest_report_retry: Duration::from_secs(60),
        }
    }
}

/// What zedagent hears.
#[derive(Debug)]
pub enum Event {
    AppStatus(Change<AppInstanceStatus>),
    VolumeStatus(Change<VolumeStatus>),
    CheckpointRead { found: CheckpointRead, remains: Option<String> },
    PollDue,
    Answered { question: u64, answer: Answer, remains: Option<String> },
    ReportEnded { object: ReportObject, number: u64, result: Result<(), String> },
    ReportRetryDue(ReportObject),
    ModeChanged,
}

#[derive(Debug)]
pub struct Zedagent {
    settings: Settings,
    layout: PersistLayout,
    in_force: InForce,
    /// The configuration in force as it came; none before the first one.
    response: Option<ConfigResponse>,
    source: ConfigSource,
    received_at: Option<Timestamp>,
    /// Why the saved configuration, which was there, could not be used. Known until nothing is missing any more.
    lost_checkpoint: Option<String>,
    /// Why something may be left of a configuration that was cut off while it was saved. Swept with each question.
    remains: Option<String>,
    has_signalled_restart: bool,
    question: u64,
    failures: u32,
    /// The controller did not answer, or refused to.
    link_error: Option<ErrorReport>,
    /// What it sent last, or what was saved, could not be taken as a whole.
    config_error: Option<ErrorReport>,
    reporting: Reporting,
}

impl Zedagent {
    pub fn new(settings: Settings, layout: PersistLayout) -> Self {
        let reporting = Reporting::new(settings.device, settings.first_retry, settings.longest_report_retry);
        Zedagent {
            settings,
            layout,
            in_force: InForce::default(),
            response: None,
            source: ConfigSource::None,
            received_at: None,
            lost_checkpoint: None,
            remains: None,
            has_signalled_restart: false,
            question: 0,
            failures: 0,
            link_error: None,
            config_error: None,
            reporting,
        }
    }
}

impl Agent for Zedagent {
    const NAME: &'static str = "zedagent";
    type Event = Event;
    type Job = ZedagentJob;
    type Env = ZedagentEnv;

    fn wire(wiring: &mut Wiring<Self>) {
        wiring.owns::<DatastoreConfig>();
        wiring.owns::<ContentTreeConfig>();
        wiring.owns::<VolumeConfig>();
        wiring.owns::<AppInstanceConfig>();
        wiring.owns::<DeviceStatus>();
        wiring.reads::<AppInstanceStatus>(Event::AppStatus);
        wiring.reads::<VolumeStatus>(Event::VolumeStatus);
    }

    fn start(&mut self, cx: &mut Ctx<Self>) {
        cx.job(ZedagentJob::ReadCheckpoint);
        self.account(cx);
    }

    fn handle(&mut self, event: Event, cx: &mut Ctx<Self>) {
        match event {
            Event::AppStatus(change) => self.reporting.app_changed(&change, cx.now()),
            Event::VolumeStatus(change) => self.reporting.volume_changed(&change, cx.now()),
            Event::CheckpointRead { found, remains } => {
                self.note_remains(remains);
                self.handle_checkpoint(found, cx);
            }
            Event::PollDue => self.ask(cx),
            Event::Answered { question, answer, remains } if question == self.question => {
                self.note_remains(remains);
                self.handle_answer(answer, cx);
            }
            Event::Answered { .. } => {}
            Event::ReportEnded { object, number, result } => {
                self.reporting.handle_end(object, number, result, cx);
            }
            Event::ReportRetryDue(object) => self.reporting.outbox.retry(&object),
            Event::ModeChanged => {}
        }
        self.account(cx);
    }

    fn run_job(job: ZedagentJob, env: &ZedagentEnv, _cx: &JobContext<Event>) -> Event {
        match job {
            ZedagentJob::ReadCheckpoint => {
                let found = jobs::read_checkpoint(env);
                Event::CheckpointRead { found, remains: jobs::sweep_remains(env) }
            }
            ZedagentJob::AskConfig { question, config_hash, sweeps } => {
                let remains = sweeps.then(|| jobs::sweep_remains(env)).flatten();
                Event::Answered { question, answer: jobs::ask_config(env, config_hash), remains }
            }
            ZedagentJob::SendReport { object, number, message } => {
                let result = jobs::send_report(env, &message);
                Event::ReportEnded { object, number, result }
            }
        }
    }

    fn mode_changed(_mode: &NodeMode) -> Option<Event> {
        Some(Event::ModeChanged)
    }
}

impl Zedagent {
    /// Whatever became of the saved configuration, the controller is asked next.
    fn handle_checkpoint(&mut self, found: CheckpointRead, cx: &mut Ctx<Self>) {
        match found {
            CheckpointRead::Missing => tracing::info!("no saved configuration: waiting for the controller"),
            CheckpointRead::Found(checkpoint) => self.restore(*checkpoint, cx),
            CheckpointRead::Lost(reason) => self.lose_checkpoint(reason, cx.now()),
            CheckpointRead::Damaged(reason) => {
                let summary = format!("the saved configuration is damaged: {reason}");
                if !matches!(cx.mode(), NodeMode::ReadOnly { .. }) {
                    cx.quarantine(self.layout.last_config_file(), reason);
                    // In its place a note that it was lost, so that the next start does not take itself for the first.
                    cx.write_record(self.layout.last_config_file(), checkpoint::render_lost(&summary));
                }
                self.lose_checkpoint(summary, cx.now());
            }
            CheckpointRead::Unreadable(reason) => {
                self.lose_checkpoint(format!("the saved configuration cannot be read: {reason}"), cx.now());
            }
        }
        self.ask(cx);
    }

    fn restore(&mut self, checkpoint: Checkpoint, cx: &mut Ctx<Self>) {
        let config = checkpoint.response.config.as_ref();
        if let Err(reason) = config.map_or(Ok(()), |config| self.check_addressee(config)) {
            return self.lose_checkpoint(format!("the saved configuration is not used: {reason}"), cx.now());
        }
        let parsed = checkpoint.parse();
        tracing::info!(hash = checkpoint.response.config_hash, "the saved configuration is in force");
        self.source = ConfigSource::Saved;
        self.received_at = checkpoint.received_at;
        self.lost_checkpoint = checkpoint.lost;
        self.put_in_force(checkpoint.response, parsed, cx);
    }

    fn lose_checkpoint(&mut self, summary: String, now: Timestamp) {
        tracing::error!("{summary}");
        self.lost_checkpoint = Some(summary.clone());
        let report = ErrorReport::new(summary, now).retry("when the controller sends a configuration");
        self.config_error = Some(report);
    }

    fn note_remains(&mut self, remains: Option<String>) {
        if let Some(reason) = remains.as_ref().filter(|reason| self.remains.as_ref() != Some(reason)) {
            tracing::warn!(reason, "the remains of a configuration that was cut off cannot be swept yet");
        }
        self.remains = remains;
    }

    fn ask(&mut self, cx: &mut Ctx<Self>) {
        self.question += 1;
        let config_hash = self.response.as_ref().map(|known| known.config_hash.clone()).unwrap_or_default();
        cx.job(ZedagentJob::AskConfig {
            question: self.question,
            config_hash,
            sweeps: self.remains.is_some(),
        });
    }

    fn handle_answer(&mut self, answer: Answer, cx: &mut Ctx<Self>) {
        let now = cx.now();
        match answer {
            Answer::Failed(reason) => return self.handle_silence(reason, cx),
            Answer::Unchanged => self.confirm(),
            Answer::Config(received) => self.handle_config(received, cx),
            Answer::Undecodable(reason) => {
                self.reject(format!("the controller's configuration cannot be read: {reason}"), now);
            }
        }
        if self.link_error.take().is_some() {
            tracing::info!("the controller is heard again");
            self.reporting.outbox.retry_all();
        }
        self.failures = 0;
        let delay = delay::jittered(self.settings.poll_interval, cx.random_u64());
        cx.timer(poll_timer(), delay, Event::PollDue);
    }

    fn handle_silence(&mut self, reason: String, cx: &mut Ctx<Self>) {
        self.failures = self.failures.saturating_add(1);
        let report = ErrorReport::new(format!("the controller does not answer: {reason}"), cx.now())
            .severity(Severity::Warning)
            .retry(format!(
                "asked again by itself, at least every {} s",
                self.settings.poll_interval.as_secs()
            ));
        if note(&mut self.link_error, report) {
            tracing::warn!(reason, "the controller does not answer");
        }
        let delay = delay::growing(self.settings.first_retry, self.settings.poll_interval, self.failures);
        let delay = delay::jittered(delay, cx.random_u64());
        cx.timer(poll_timer(), delay, Event::PollDue);
    }

    /// What is in force is what the controller has.
    fn confirm(&mut self) {
        if self.response.is_some() {
            self.source = ConfigSource::Controller;
            self.config_error = None;
        }
    }

    fn handle_config(&mut self, received: Received, cx: &mut Ctx<Self>) {
        let Received { raw, response } = received;
        if let Err(reason) = self.check_response(&response, cx) {
            return self.reject(format!("the controller's configuration is not taken: {reason}"), cx.now());
        }
        if self.response.as_ref() == Some(&*response) {
            return self.confirm();
        }
        let parsed = parse(&response.config.clone().unwrap_or_default(), &self.in_force);
        tracing::info!(hash = response.config_hash, refused = parsed.refused.len(), "a new configuration");
        if !has_lost_an_object(&parsed) {
            self.lost_checkpoint = None;
        }
        // The commit point: cut before it, the old one is in force after the restart; cut after it, the new one.
        let now = cx.now();
        let bytes = checkpoint::render(&raw, &parsed, now, self.lost_checkpoint.as_deref());
        cx.write_record(self.layout.last_config_file(), bytes);
        self.source = ConfigSource::Controller;
        self.received_at = Some(now);
        self.config_error = None;
        self.put_in_force(*response, parsed, cx);
    }

    fn check_response(&self, response: &ConfigResponse, cx: &Ctx<Self>) -> Result<(), String> {
        // An empty answer decodes, and would delete everything.
        let config = response.config.as_ref().ok_or("the answer holds none")?;
        self.check_addressee(config)?;
        match cx.mode() {
            NodeMode::ReadOnly { reason } => Err(format!("the node is read-only: {reason}")),
            NodeMode::Normal | NodeMode::NoSpace => Ok(()),
        }
    }

    fn check_addressee(&self, config: &EdgeDevConfig) -> Result<(), String> {
        let addressee = config.id.as_ref().map_or("", |pair| pair.uuid.as_str());
        if addressee.parse() == Ok(self.settings.device) {
            return Ok(());
        }
        Err(format!("it is for the device \"{}\", this is {}", shown(addressee), self.settings.device))
    }

    /// What is in force stays in force.
    fn reject(&mut self, summary: String, now: Timestamp) {
        let report = ErrorReport::new(summary, now).retry("when the controller sends another one");
        if note(&mut self.config_error, report) {
            tracing::error!(error = ?self.config_error.as_ref().map(|error| &error.summary), "configuration");
        }
    }

    fn put_in_force(&mut self, response: ConfigResponse, parsed: Parsed, cx: &mut Ctx<Self>) {
        publish::publish(&parsed.in_force, cx);
        self.reporting.set_refused(&parsed.refused, cx.now());
        self.in_force = parsed.in_force;
        self.response = Some(response);
        if self.lost_checkpoint.is_none() && !self.has_signalled_restart {
            self.has_signalled_restart = true;
            cx.signal_restarted::<DatastoreConfig>();
            cx.signal_restarted::<ContentTreeConfig>();
            cx.signal_restarted::<VolumeConfig>();
            cx.signal_restarted::<AppInstanceConfig>();
        }
    }

    /// After every event: the account of itself, and the reports that are due.
    fn account(&mut self, cx: &mut Ctx<Self>) {
        let unreported = joined(self.config_error.as_ref(), self.reporting.refused_parts().as_ref());
        let own = OwnState {
            config_error: unreported,
            config_hash: self.config_hash(),
            mode: mode_word(&cx.mode()),
        };
        self.reporting.outbox.update(ReportObject::Device, report::device(&own), cx.now());
        self.reporting.send_due(cx);
        cx.publish(DeviceStatus {
            device: self.settings.device,
            source: self.source,
            config_hash: self.config_hash(),
            config_received_at: self.received_at,
            controller_error: self.controller_error(),
            refused: self.reporting.refused_by_id(),
            pending_reports: self.reporting.outbox.pending(),
        });
    }

    fn config_hash(&self) -> String {
        self.response.as_ref().map(|known| known.config_hash.clone()).unwrap_or_default()
    }

    /// A controller that is not there takes no reports either: that is said once.
    fn controller_error(&self) -> Option<ErrorReport> {
        let link = self.link_error.as_ref().or(self.reporting.error());
        joined(link, self.config_error.as_ref())
    }
}

/// After a lost checkpoint nothing is known of a refused object's last good configuration. Before it is put right,
/// nobody may take its absence for a deletion.
fn has_lost_an_object(parsed: &Parsed) -> bool {
    let matters = |kind| matches!(kind, ObjectKind::App | ObjectKind::Volume);
    parsed.refused.iter().any(|refusal| matters(refusal.kind) && !refusal.keeps_last_good)
}

/// Keeps the time of an error that is only being said again; true when it is a new one.
fn note(place: &mut Option<ErrorReport>, report: ErrorReport) -> bool {
    let is_new = place.as_ref().is_none_or(|known| known.summary != report.summary);
    if is_new {
        *place = Some(report);
    }
    is_new
}

fn poll_timer() -> TimerKey {
    TimerKey::new("poll")
}

fn mode_word(mode: &NodeMode) -> &'static str {
    match mode {
        NodeMode::Normal => "normal",
        NodeMode::NoSpace => "no-space",
        NodeMode::ReadOnly { .. } => "read-only",
    }
}
