//! zedmanager owns the life of each application. It decides; it never touches storage.
//!
//! ```text
//!  AppInstanceConfig ─┐                                    ┌─▶ VolumeRefConfig
//!  VolumeRefStatus ───┤   ┌──────────┐  ┌───────────────┐  ├─▶ VolumesSnapshotConfig, SnapshotPreflightConfig
//!  VolumesSnapshot- ──┼──▶│  facts   │─▶│ absorb, decide│──┼─▶ DomainConfig
//!    Status, Preflight│   │ per app  │  │ carry_out     │  ├─▶ AppInstanceStatus
//!  DomainStatus ──────┤   └──────────┘  └───────────────┘  └─▶ AppInstanceState (row), snapshots/<id>/ (records)
//!  Scanned (job) ─────┤         └──────▶ planning ─────────────▶ AppPlan
//!  LocalOrder ────────┘
//! ```
//!
//! Every event settles the application it is about: [`machine::decide`] and [`carry_out::carry_out`] are called until
//! the machine waits, then the records, the row and what [`desired`] and [`status`] say are left in the context, in
//! this order: records first, then the one row that is the commit point, then what others see.
//!
//! What is deliberately absent: any knowledge of how volumes are stored, and any memory that is not in the row, in
//! the records or on the bus. The row comes back after a restart, and the same functions go on from it.

#[cfg(test)]
mod agent_tests;
mod carry_out;
pub mod change;
pub mod desired;
mod effects;
#[cfg(test)]
mod guard_walks;
mod guarding;
mod intake;
mod inventory;
pub mod list;
pub mod machine;
mod ordering;
mod phases;
pub mod planning;
#[cfg(test)]
mod planning_walks;
mod reverting;
#[cfg(test)]
mod reverting_walks;
pub mod status;
#[cfg(test)]
mod tables;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod walk;
#[cfg(test)]
mod walks;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use holdfast_persist::disk::Disk;
use holdfast_persist::layout::PersistLayout;
use holdfast_pubsub::Change;
use holdfast_types::*;

use crate::runtime::{Agent, Ctx, JobContext, Lane, NodeMode, Wiring};
use inventory::Scan;
use machine::{Admission, Decision, Facts, Guest, Readiness, WaitingFor};
use planning::Asked;

/// How often one event may move one application before it is certain that the machine runs in a circle.
/// The longest legal way, an update with every snapshot of a long list, takes a few steps per snapshot.
const STEPS_AT_MOST: usize = 10_000;

/// What zedmanager hears.
#[derive(Debug)]
pub enum Event {
    AppConfig(Change<AppInstanceConfig>),
    VolumeRef(Change<VolumeRefStatus>),
    Snapshot(Change<VolumesSnapshotStatus>),
    Preflight(Change<SnapshotPreflightStatus>),
    Domain(Change<DomainStatus>),
    Scanned(Result<Scan, String>),
    ScanAgain,
    StartDelayOver(AppId),
    ModeChanged,
    /// Somebody on the node sets what guards an application ([000] L1, L6), asks for a plan, or orders what was planned (L8).
    Local(LocalOrder),
}

/// The seams of its one job, the inventory at start.
#[derive(Debug)]
pub struct Env {
    pub disk: Arc<dyn Disk>,
    pub layout: PersistLayout,
}

/// One application, as far as it is known.
#[derive(Debug)]
struct App {
    state: AppInstanceState,
    /// The row as last written, to write it only when it differs. None: never written.
    written: Option<Arc<AppInstanceState>>,
    received: Option<Arc<AppInstanceConfig>>,
    start: Start,
    /// The last number given to a `DomainConfig`.
    domain_number: u64,
    waiting: WaitingFor,
    /// What there is to be told of its guard and its tags; one that only goes on keeps its time.
    notices: Vec<ErrorReport>,
    local_order: u64,
    /// What was asked on the node and is not answered yet.
    asked: Option<Asked>,
    /// What storage is asked for it.
    question: Option<SnapshotPreflightConfig>,
    wishes: Wishes,
}

/// What stands on the bus of one application, beside its domain. None of it outlives the process.
#[derive(Debug, Default)]
struct Wishes {
    refs: BTreeSet<VolumeRefKey>,
    snapshots: BTreeSet<SnapshotId>,
    preflights: BTreeSet<SnapshotId>,
}

/// An order from the node itself; the numbers of one process grow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalOrder {
    pub app: AppId,
    pub number: u64,
    pub what: LocalAsk,
}

/// The delay before a guest's first start after a boot of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    NotYet,
    Delayed,
    Free,
}

impl App {
    fn new(state: AppInstanceState) -> Box<Self> {
        Box::new(App {
            state,
            written: None,
            received: None,
            start: Start::NotYet,
            domain_number: 0,
            waiting: WaitingFor::Nothing,
            notices: Vec::new(),
            local_order: 0,
            asked: None,
            question: None,
            wishes: Wishes::default(),
        })
    }

    /// The same as what is in force, if it is equal: the two are compared at every event.
    fn shared(&self, config: Arc<AppInstanceConfig>) -> Arc<AppInstanceConfig> {
        self.state.applied.as_ref().filter(|applied| **applied == config).cloned().unwrap_or(config)
    }
}

#[derive(Debug)]
pub struct Zedmanager {
    layout: PersistLayout,
    /// Boxed: one is taken out and put back at each event, and is large.
    apps: BTreeMap<AppId, Box<App>>,
    volume_refs: BTreeMap<VolumeRefKey, Arc<VolumeRefStatus>>,
    storage: BTreeMap<SnapshotId, Arc<VolumesSnapshotStatus>>,
    preflight: BTreeMap<SnapshotId, Arc<SnapshotPreflightStatus>>,
    domains: BTreeMap<AppId, Arc<DomainStatus>>,
    /// Configurations set aside for snapshots, as far as they can be read.
    saved: BTreeMap<SnapshotId, Arc<AppInstanceConfig>>,
    /// Snapshot directories that exist under `snapshots/`.
    directories: BTreeSet<SnapshotId>,
    /// Those of which something was said since they were looked at for which they may have to go.
    may_be_stale: BTreeSet<SnapshotId>,
    /// Configurations that came before the inventory was done.
    early: BTreeMap<AppId, Arc<AppInstanceConfig>>,
    scanned: bool,
    /// Scans of this start that did not get all there is.
    incomplete_scans: u32,
    /// Why there is no inventory yet; nothing is decided meanwhile.
    standstill: Option<ErrorReport>,
    config_complete: bool,
    storage_known: bool,
    domains_known: bool,
    /// Applications whose row was lost, and what to say of it as long as this process runs ([003] H3).
    lost_rows: BTreeMap<AppId, ErrorReport>,
    /// What was set on the node itself ([000] L1, L6).
    local: BTreeMap<AppId, LocalAppSettings>,
    /// Every domain that is wanted stands on the bus, and domainmgr was told that this is all.
    domains_wished: bool,
}

impl Zedmanager {
    pub fn new(layout: PersistLayout) -> Self {
        Zedmanager {
            layout,
            apps: BTreeMap::new(),
            volume_refs: BTreeMap::new(),
            storage: BTreeMap::new(),
            preflight: BTreeMap::new(),
            domains: BTreeMap::new(),
            saved: BTreeMap::new(),
            directories: BTreeSet::new(),
            may_be_stale: BTreeSet::new(),
            early: BTreeMap::new(),
            scanned: false,
            incomplete_scans: 0,
            standstill: None,
            config_complete: false,
            storage_known: false,
            domains_known: false,
            lost_rows: BTreeMap::new(),
            local: BTreeMap::new(),
            domains_wished: false,
        }
    }
}

impl Agent for Zedmanager {
    const NAME: &'static str = "zedmanager";
    type Event = Event;
    type Job = inventory::ScanSnapshots;
    type Env = Env;

    fn wire(w: &mut Wiring<Self>) {
        w.reads::<AppInstanceConfig>(Event::AppConfig);
        w.reads::<VolumeRefStatus>(Event::VolumeRef);
        w.reads::<VolumesSnapshotStatus>(Event::Snapshot);
        w.reads::<SnapshotPreflightStatus>(Event::Preflight);
        w.reads::<DomainStatus>(Event::Domain);
        w.owns::<AppInstanceState>();
        w.owns::<LocalAppSettings>();
        w.owns::<AppInstanceStatus>();
        w.owns::<VolumeRefConfig>();
        w.owns::<VolumesSnapshotConfig>();
        w.owns::<SnapshotPreflightConfig>();
        w.owns::<DomainConfig>();
        w.owns::<AppPlan>();
    }

    fn start(&mut self, cx: &mut Ctx<Self>) {
        self.lost_rows = inventory::lost_rows(cx.damaged_rows(), cx.now());
        self.load_local_settings(cx);
        for row in cx.rows::<AppInstanceState>() {
            let mut app = App::new((*row).clone());
            app.written = Some(Arc::clone(&row));
            self.apps.insert(row.app, app);
        }
        cx.job(inventory::ScanSnapshots);
    }

    fn lane(event: &Event) -> Lane {
        match event {
            Event::AppConfig(change) => object_lane(change, |config| config.app()),
            Event::VolumeRef(change) => object_lane(change, |status| status.key.app),
            Event::Snapshot(change) => object_lane(change, |status| status.app),
            Event::Preflight(change) => object_lane(change, |status| status.app),
            Event::Domain(change) => object_lane(change, |status| status.app),
            Event::StartDelayOver(app) | Event::Local(LocalOrder { app, .. }) => Lane::object(app),
            Event::Scanned(_) | Event::ScanAgain | Event::ModeChanged => Lane::Agent,
        }
    }

    fn handle(&mut self, event: Event, cx: &mut Ctx<Self>) {
        let concerned = self.take_in(event, cx);
        if !self.scanned {
            // Before the inventory nothing may be decided: a snapshot not yet found would look deleted.
            return self.publish_standstill(concerned, cx);
        }
        if concerned.is_empty() {
            // Also where no application is left: what storage has let go of may be told only now.
            self.remove_stale_directories(cx);
        }
        for app in concerned {
            self.settle(app, cx);
        }
        self.complete_domain_wishes(cx);
    }

    fn run_job(_job: Self::Job, env: &Env, _cx: &JobContext<Event>) -> Event {
        let scan = inventory::scan(env.disk.as_ref(), &env.layout);
        Event::Scanned(scan.map_err(|error| error_chain(&error)))
    }

    fn mode_changed(_mode: &NodeMode) -> Option<Event> {
        Some(Event::ModeChanged)
    }
}

fn object_lane<T>(change: &Change<T>, app: fn(&T) -> AppId) -> Lane {
    let app = match change {
        Change::Created(value) | Change::Deleted(value) => app(value),
        Change::Modified { new, .. } => app(new),
        Change::Synced | Change::Restarted(_) => return Lane::Agent,
    };
    // Of nobody's, any application may be concerned.
    if app.0.is_nil() { Lane::Agent } else { Lane::object(app) }
}

impl Zedmanager {
    /// Moves one application as far as it can go, then leaves everything that follows in the context.
    fn settle(&mut self, id: AppId, cx: &mut Ctx<Self>) {
        let Some(mut app) = self.apps.remove(&id) else {
            // Storage has let go of the last of an application that is gone.
            return self.remove_stale_directories(cx);
        };
        let had: Vec<SnapshotId> = effects::with_directory(&app.state).collect();
        let mut forgotten = self.run_machine(&mut app, cx);
        if !forgotten && self.answer_asked(&mut app, cx) {
            forgotten = self.run_machine(&mut app, cx);
        }
        let is_changed = app.written.as_deref() != Some(&app.state);
        self.may_be_stale.extend(had.into_iter().filter(|id| !effects::owns_directory(&app.state, id)));
        self.apps.insert(id, app);
        self.remove_stale_directories(cx);
        if forgotten {
            self.forget(id, cx);
            return;
        }
        if is_changed {
            self.write_row(id, cx);
        }
        self.arm_start_delay(id, cx);
        self.publish_wishes(id, cx);
        self.publish_status(id, cx);
    }

    /// Returns true when the application is gone.
    fn run_machine(&mut self, app: &mut App, cx: &mut Ctx<Self>) -> bool {
        let volumes = self.readiness(app.state.app);
        let received = app.received.clone();
        for _ in 0..STEPS_AT_MOST {
            let facts = self.facts(&app.state, received.as_ref(), &volumes, cx);
            if facts.admission == Admission::Nothing {
                // Nothing can be written down, so the row stays as it is, and an operation where it is.
                let mut state = app.state.clone();
                machine::absorb(&mut state, &facts);
                app.waiting = machine::waits_for_admission(&app.state, machine::decide(&state, &facts));
                return false;
            }
            machine::absorb(&mut app.state, &facts);
            let decision = machine::decide(&app.state, &facts);
            if let Decision::Wait(why) = decision {
                app.waiting = why;
                return false;
            }
            log_transition(&app.state, &decision);
            let gone = match &decision {
                Decision::ForgetSnapshot(snapshot) => Some(*snapshot),
                _ => None,
            };
            let forgotten = decision == Decision::ForgetApp;
            let writes = carry_out::carry_out(&mut app.state, decision, &facts);
            if let Some(snapshot) = gone {
                // Also where the start could not list it: what is left of its records would be taken in again.
                self.add_directory(snapshot);
            }
            for write in writes {
                self.write(write, cx);
            }
            if forgotten {
                return true;
            }
        }
        unreachable!("application {} runs in a circle", app.state.app)
    }

    /// The controller no longer lists it.
    fn removed(&self, received: Option<&AppInstanceConfig>) -> bool {
        received.is_none() && self.config_complete
    }

    fn facts<'a>(
        &'a self,
        state: &AppInstanceState,
        received: Option<&'a Arc<AppInstanceConfig>>,
        volumes: &'a BTreeMap<VolumeKey, Readiness>,
        cx: &Ctx<Self>,
    ) -> Facts<'a> {
        Facts {
            now: cx.now(),
            received,
            removed: self.removed(received.map(Arc::as_ref)),
            storage_known: self.storage_known,
            guest: self.guest(state.app, cx),
            volumes,
            storage: &self.storage,
            preflight: &self.preflight,
            saved: &self.saved,
            admission: admission(cx),
            guard: self.guard(state, received.map(Arc::as_ref)),
        }
    }

    /// What domainmgr's last word means for the order that stands on the bus.
    fn guest(&self, app: AppId, cx: &Ctx<Self>) -> Guest {
        let status = self.domains.get(&app);
        let order = cx.get::<DomainConfig>(&app);
        match (status, order) {
            (Some(status), _) if !status.state.is_down() => Guest::Up,
            (Some(status), Some(order)) if !order.activate && status.number == order.number => {
                Guest::ConfirmedDown
            }
            // The order to start is not answered yet: the process may be there already.
            (status, Some(order))
                if order.activate && status.map(|status| status.number) != Some(order.number) =>
            {
                Guest::Up
            }
            (Some(_), _) => Guest::Down,
            (None, _) if self.domains_known => Guest::Down,
            (None, _) => Guest::Unknown,
        }
    }

    /// How far each volume is that the application refers to or may be about to.
    fn readiness(&self, app: AppId) -> BTreeMap<VolumeKey, Readiness> {
        let first = VolumeRefKey { app, volume: VolumeKey::new(VolumeId(uuid::Uuid::nil()), i64::MIN) };
        let refs = self.volume_refs.range(first..).take_while(|(key, _)| key.app == app);
        refs.map(|(key, status)| {
            let readiness = match status.hindrance() {
                Some(error) => Readiness::Broken(error.clone()),
                None if status.state == SwState::CreatedVolume => Readiness::Ready,
                None => Readiness::Pending,
            };
            (key.volume, readiness)
        })
        .collect()
    }
}

fn admission(cx: &Ctx<Zedmanager>) -> Admission {
    match cx.mode() {
        NodeMode::Normal => Admission::All,
        NodeMode::NoSpace => Admission::OnlyDeletions,
        NodeMode::ReadOnly { .. } => Admission::Nothing,
    }
}

/// One event per state transition, with ids as fields.
fn log_transition(state: &AppInstanceState, decision: &Decision) {
    let operation = state.operation.as_ref().map_or(state.last_operation, |operation| operation.number);
    let app = state.app;
    match decision {
        Decision::Begin(plan) => tracing::info!(%app, kind = ?plan.kind, "operation begins"),
        Decision::Enter(phase) => tracing::info!(%app, %operation, ?phase, "operation goes on"),
        Decision::Complete => tracing::info!(%app, %operation, "operation done"),
        Decision::Abandon => tracing::info!(%app, %operation, "operation given up for another configuration"),
        Decision::Fail(error) => tracing::warn!(%app, %operation, %error, "operation failed"),
        Decision::RefuseRollback { why, .. } => tracing::warn!(%app, why, "rollback refused"),
        Decision::KeepSnapshot(snapshot, _) => {
            tracing::info!(%app, %operation, %snapshot, "snapshot available")
        }
        Decision::ForgetSnapshot(snapshot) => tracing::info!(%app, %snapshot, "snapshot deleted"),
        Decision::DeletionFailed(snapshot, error) => {
            tracing::warn!(%app, %snapshot, %error, "snapshot not deleted");
        }
        Decision::ForgetApp => tracing::info!(%app, "application deleted"),
        Decision::Agree(consent) if consent.is_empty() => {}
        Decision::Agree(consent) => {
            let digest = consent.digest();
            tracing::warn!(%app, %operation, digest, ?consent, "newer snapshots may be destroyed, as the tag says");
        }
        Decision::ApplyInPlace(_) | Decision::Wait(_) => {}
    }
}
