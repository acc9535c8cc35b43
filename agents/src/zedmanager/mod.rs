//! zedmanager owns the life of each application. It decides; it never touches storage.
//!
//! ```text
//!  AppInstanceConfig ─┐                                    ┌─▶ VolumeRefConfig
//!  VolumeRefStatus ───┤   ┌──────────┐  ┌───────────────┐  ├─▶ VolumesSnapshotConfig, SnapshotPreflightConfig
//!  VolumesSnapshot- ──┼──▶│  facts   │─▶│ absorb, decide│──┼─▶ DomainConfig
//!    Status, Preflight│   │ per app  │  │ carry_out     │  ├─▶ AppInstanceStatus
//!  DomainStatus ──────┤   └──────────┘  └───────────────┘  └─▶ AppInstanceState (row), snapshots/<id>/ (records)
//!  Scanned (job) ─────┘
//! ```
//!
//! Every event settles the application it is about: [`machine::decide`] and [`machine::carry_out`] are called until
//! the machine waits, then the records, the row and what [`desired`] and [`status`] say are left in the context, in
//! this order: records first, then the one row that is the commit point, then what others see.
//!
//! What is deliberately absent: any knowledge of how volumes are stored, and any memory that is not in the row, in
//! the records or on the bus. The row comes back after a restart, and the same functions go on from it.

#[cfg(test)]
mod agent_tests;
pub mod change;
pub mod desired;
mod inventory;
pub mod list;
pub mod machine;
pub mod status;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod walks;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use holdfast_persist::disk::Disk;
use holdfast_persist::layout::PersistLayout;
use holdfast_persist::record;
use holdfast_pubsub::Change;
use holdfast_types::*;

use crate::runtime::{Agent, Ctx, JobContext, Lane, NodeMode, TimerKey, Wiring};
use desired::Domain;
use inventory::{Scan, ScannedSnapshot};
use machine::{Admission, Decision, Facts, Guest, Readiness, WaitingFor, Write};

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
    Scanned(Scan),
    StartDelayOver(AppId),
    ModeChanged,
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
    written: Option<AppInstanceState>,
    received: Option<Arc<AppInstanceConfig>>,
    start: Start,
    /// The last number given to a `DomainConfig`.
    domain_number: u64,
    waiting: WaitingFor,
}

/// The delay before a guest's first start after a boot of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    NotYet,
    Delayed,
    Free,
}

impl App {
    fn new(state: AppInstanceState) -> Self {
        App {
            state,
            written: None,
            received: None,
            start: Start::NotYet,
            domain_number: 0,
            waiting: WaitingFor::Nothing,
        }
    }
}

#[derive(Debug)]
pub struct Zedmanager {
    layout: PersistLayout,
    apps: BTreeMap<AppId, App>,
    volume_refs: BTreeMap<VolumeRefKey, Arc<VolumeRefStatus>>,
    storage: BTreeMap<SnapshotId, VolumesSnapshotStatus>,
    preflight: BTreeMap<SnapshotId, SnapshotPreflightStatus>,
    domains: BTreeMap<AppId, Arc<DomainStatus>>,
    /// Configurations set aside for snapshots, as far as they can be read.
    saved: BTreeMap<SnapshotId, AppInstanceConfig>,
    /// Snapshot directories that exist under `snapshots/`.
    directories: BTreeSet<SnapshotId>,
    /// Configurations that came before the inventory was done.
    early: BTreeMap<AppId, Arc<AppInstanceConfig>>,
    scanned: bool,
    config_complete: bool,
    storage_known: bool,
    domains_known: bool,
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
            early: BTreeMap::new(),
            scanned: false,
            config_complete: false,
            storage_known: false,
            domains_known: false,
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
        w.owns::<AppInstanceStatus>();
        w.owns::<VolumeRefConfig>();
        w.owns::<VolumesSnapshotConfig>();
        w.owns::<SnapshotPreflightConfig>();
        w.owns::<DomainConfig>();
    }

    fn start(&mut self, cx: &mut Ctx<Self>) {
        for row in cx.rows::<AppInstanceState>() {
            let mut app = App::new((*row).clone());
            app.written = Some((*row).clone());
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
            Event::StartDelayOver(app) => Lane::object(app),
            Event::Scanned(_) | Event::ModeChanged => Lane::Agent,
        }
    }

    fn handle(&mut self, event: Event, cx: &mut Ctx<Self>) {
        let concerned = self.take_in(event, cx);
        if !self.scanned {
            // Before the inventory nothing may be decided: a snapshot not yet found would look deleted.
            return;
        }
        for app in concerned {
            self.settle(app, cx);
        }
        self.complete_domain_wishes(cx);
    }

    fn run_job(_job: Self::Job, env: &Env, _cx: &JobContext<Event>) -> Event {
        Event::Scanned(inventory::scan(env.disk.as_ref(), &env.layout))
    }

    fn mode_changed(_mode: &NodeMode) -> Option<Event> {
        Some(Event::ModeChanged)
    }
}

fn object_lane<T>(change: &Change<T>, app: fn(&T) -> AppId) -> Lane {
    match change {
        Change::Created(value) | Change::Deleted(value) => Lane::object(app(value)),
        Change::Modified { new, .. } => Lane::object(app(new)),
        Change::Synced | Change::Restarted(_) => Lane::Agent,
    }
}

/// The value a key has after a change, or the key's last value and nothing.
fn after<T: Topic>(change: &Change<T>) -> Option<(T::Key, Option<Arc<T>>)> {
    match change {
        Change::Created(new) | Change::Modified { new, .. } => Some((new.key(), Some(new.clone()))),
        Change::Deleted(last) => Some((last.key(), None)),
        Change::Synced | Change::Restarted(_) => None,
    }
}

fn keep<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}

impl Zedmanager {
    /// Remembers what the event says and names the applications it may move.
    fn take_in(&mut self, event: Event, cx: &mut Ctx<Self>) -> Vec<AppId> {
        match event {
            Event::AppConfig(Change::Restarted(_)) => {
                self.config_complete = true;
                self.all_apps()
            }
            Event::Snapshot(Change::Restarted(_)) => {
                self.storage_known = true;
                self.all_apps()
            }
            Event::Domain(Change::Restarted(_)) => {
                self.domains_known = true;
                self.all_apps()
            }
            Event::AppConfig(change) => match after(&change) {
                Some((app, config)) => {
                    self.receive(app, config);
                    vec![app]
                }
                None => Vec::new(),
            },
            Event::VolumeRef(change) => after(&change)
                .map(|(key, status)| {
                    keep(&mut self.volume_refs, key, status);
                    key.app
                })
                .into_iter()
                .collect(),
            Event::Snapshot(change) => match &change {
                Change::Created(status) | Change::Modified { new: status, .. } => {
                    self.storage.insert(status.snapshot, (**status).clone());
                    vec![status.app]
                }
                Change::Deleted(status) => {
                    self.storage.remove(&status.snapshot);
                    vec![status.app]
                }
                Change::Synced | Change::Restarted(_) => Vec::new(),
            },
            Event::Preflight(change) => match &change {
                Change::Created(status) | Change::Modified { new: status, .. } => {
                    self.preflight.insert(status.snapshot, (**status).clone());
                    vec![status.app]
                }
                Change::Deleted(status) => {
                    self.preflight.remove(&status.snapshot);
                    Vec::new()
                }
                Change::Synced | Change::Restarted(_) => Vec::new(),
            },
            Event::Domain(change) => after(&change)
                .map(|(app, status)| {
                    keep(&mut self.domains, app, status);
                    app
                })
                .into_iter()
                .collect(),
            Event::Scanned(scan) => self.take_inventory(scan, cx),
            Event::StartDelayOver(app) => {
                if let Some(app) = self.apps.get_mut(&app) {
                    app.start = Start::Free;
                }
                vec![app]
            }
            // What waited for space goes on.
            Event::ModeChanged => self.all_apps(),
        }
    }

    fn all_apps(&self) -> Vec<AppId> {
        self.apps.keys().copied().collect()
    }

    fn receive(&mut self, id: AppId, config: Option<Arc<AppInstanceConfig>>) {
        if !self.scanned {
            keep(&mut self.early, id, config);
            return;
        }
        match (self.apps.get_mut(&id), config) {
            (Some(app), config) => app.received = config,
            (None, Some(config)) => {
                let mut app = App::new(new_state(&config));
                app.received = Some(config);
                self.apps.insert(id, app);
            }
            (None, None) => {}
        }
    }

    /// The start's inventory is here: rows and records are put side by side ([003] G9, H3), then everything moves.
    fn take_inventory(&mut self, scan: Scan, cx: &mut Ctx<Self>) -> Vec<AppId> {
        self.scanned = true;
        for app in self.apps.values_mut() {
            inventory::presume_whole(&mut app.state);
        }
        for (name, why) in &scan.unreadable {
            tracing::warn!(directory = name, why, "left alone: not a snapshot's directory");
        }
        for scanned in scan.snapshots {
            self.directories.insert(scanned.id);
            self.place(scanned, cx);
        }
        for app in self.apps.values_mut() {
            inventory::mark_incomplete(&mut app.state, &self.saved, &self.directories, cx.now());
        }
        for (id, config) in std::mem::take(&mut self.early) {
            // The first configuration an application without a row ever sees sets the rollback baseline ([003] A4),
            // also when its snapshots were found without a row.
            let app = self.apps.entry(id).or_insert_with(|| App::new(new_state(&config)));
            if app.written.is_none() {
                app.state.rollback_counter = config.snapshot.rollback.counter;
            }
            app.received = Some(config);
        }
        let apps = self.all_apps();
        for app in &apps {
            self.publish_wishes(*app, cx);
        }
        cx.signal_restarted::<VolumeRefConfig>();
        cx.signal_restarted::<VolumesSnapshotConfig>();
        cx.signal_restarted::<SnapshotPreflightConfig>();
        apps
    }

    /// Files one scanned snapshot with its application.
    fn place(&mut self, scanned: ScannedSnapshot, cx: &mut Ctx<Self>) {
        let id = scanned.id;
        if let Some(app) = self.apps.values_mut().find(|app| app.state.snapshots.contains_key(&id)) {
            inventory::compare(&mut app.state, &scanned, cx.now());
        } else if let Some(instance) = inventory::orphan(&scanned, cx.now()) {
            let app = self.apps.entry(instance.app).or_insert_with(|| App::new(bare_state(instance.app)));
            inventory::adopt(&mut app.state, instance);
        }
        if let Ok(config) = scanned.config {
            self.saved.insert(id, config);
        }
    }

    /// Moves one application as far as it can go, then leaves everything that follows in the context.
    fn settle(&mut self, id: AppId, cx: &mut Ctx<Self>) {
        let Some(mut app) = self.apps.remove(&id) else { return };
        let forgotten = self.run_machine(&mut app, cx);
        self.apps.insert(id, app);
        self.remove_stale_directories(id, cx);
        if forgotten {
            self.forget(id, cx);
            return;
        }
        self.write_row(id, cx);
        self.arm_start_delay(id, cx);
        self.publish_wishes(id, cx);
        self.publish_status(id, cx);
    }

    /// Returns true when the application is gone.
    fn run_machine(&mut self, app: &mut App, cx: &mut Ctx<Self>) -> bool {
        let volumes = self.readiness(app);
        for _ in 0..STEPS_AT_MOST {
            let facts = self.facts(app, &volumes, cx);
            let mut state = app.state.clone();
            machine::absorb(&mut state, &facts);
            let decision = machine::decide(&state, &facts);
            if facts.admission == Admission::Nothing {
                // Nothing can be written down, so the row stays as it is, and an operation where it is.
                app.waiting = machine::waits_for_admission(&app.state, decision);
                return false;
            }
            if let Decision::Wait(why) = decision {
                app.state = state;
                app.waiting = why;
                return false;
            }
            log_transition(&state, &decision);
            let forgotten = decision == Decision::ForgetApp;
            let writes = machine::carry_out(&mut state, decision, &facts);
            app.state = state;
            for write in writes {
                self.write(write, cx);
            }
            if forgotten {
                return true;
            }
        }
        unreachable!("application {} runs in a circle", app.state.app)
    }

    fn removed(&self, app: &App) -> bool {
        app.received.is_none() && self.config_complete
    }

    fn facts<'a>(
        &'a self,
        app: &'a App,
        volumes: &'a BTreeMap<VolumeKey, Readiness>,
        cx: &Ctx<Self>,
    ) -> Facts<'a> {
        Facts {
            now: cx.now(),
            received: app.received.as_deref(),
            removed: self.removed(app),
            storage_known: self.storage_known,
            guest: self.guest(app, cx),
            volumes,
            storage: &self.storage,
            preflight: &self.preflight,
            saved: &self.saved,
            admission: admission(cx),
        }
    }

    /// What domainmgr's last word means for the order that stands on the bus.
    fn guest(&self, app: &App, cx: &Ctx<Self>) -> Guest {
        let status = self.domains.get(&app.state.app);
        let order = cx.get::<DomainConfig>(&app.state.app);
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
    fn readiness(&self, app: &App) -> BTreeMap<VolumeKey, Readiness> {
        let refs = self.volume_refs.values().filter(|status| status.key.app == app.state.app);
        refs.map(|status| {
            let readiness = match &status.error {
                Some(error) => Readiness::Broken(error.clone()),
                None if status.state == SwState::CreatedVolume => Readiness::Ready,
                None => Readiness::Pending,
            };
            (status.key.volume, readiness)
        })
        .collect()
    }

    fn write(&mut self, write: Write, cx: &mut Ctx<Self>) {
        match write {
            Write::SaveConfig(id, config) => {
                let path = self.layout.app_config_file(&id);
                match record::render(&path, config.as_ref()) {
                    Ok(bytes) => cx.write_record(path, bytes),
                    Err(error) => tracing::error!(%id, %error, "a configuration that cannot be written down"),
                }
                self.directories.insert(id);
                self.saved.insert(id, *config);
            }
            Write::SaveInstance(instance) => {
                let id = instance.snapshot.id;
                let path = self.layout.snapshot_instance_status_file(&id);
                match record::render(&path, instance.as_ref()) {
                    Ok(bytes) => cx.write_record(path, bytes),
                    Err(error) => tracing::error!(%id, %error, "a descriptor that cannot be written down"),
                }
                self.directories.insert(id);
            }
        }
    }

    /// The three files and the directory of a snapshot go last, here ([003] D3): when no row names it any more
    /// and storage has let go of it.
    fn remove_stale_directories(&mut self, settled: AppId, cx: &mut Ctx<Self>) {
        let stale: Vec<SnapshotId> = self
            .directories
            .iter()
            .copied()
            .filter(|id| !self.apps.values().any(|app| has_directory(&app.state, *id)))
            .filter(|id| self.storage_known && !self.storage.contains_key(id))
            .collect();
        for id in stale {
            tracing::info!(app = %settled, snapshot = %id, "snapshot's files removed");
            cx.remove_tree(self.layout.snapshot_dir(&id));
            self.directories.remove(&id);
            self.saved.remove(&id);
        }
    }

    fn write_row(&mut self, id: AppId, cx: &mut Ctx<Self>) {
        let Some(app) = self.apps.get_mut(&id) else { return };
        if app.written.as_ref() != Some(&app.state) {
            cx.publish(app.state.clone());
            app.written = Some(app.state.clone());
        }
    }

    /// The start delay counts from the first moment the guest could start after a boot of the node; a guest that
    /// runs already has none ([003] G8).
    fn arm_start_delay(&mut self, id: AppId, cx: &mut Ctx<Self>) {
        let running = self.domains.get(&id).is_some_and(|domain| !domain.state.is_down());
        let Some(app) = self.apps.get_mut(&id) else { return };
        if app.start != Start::NotYet || !self.domains_known {
            return;
        }
        let Some(applied) = &app.state.applied else { return };
        if running || applied.start_delay_seconds == 0 {
            app.start = Start::Free;
            return;
        }
        app.start = Start::Delayed;
        let delay = Duration::from_secs(u64::from(applied.start_delay_seconds));
        cx.timer(start_delay_timer(id), delay, Event::StartDelayOver(id));
    }

    /// Publishes what the row says should stand on the bus, and un-publishes the rest.
    fn publish_wishes(&mut self, id: AppId, cx: &mut Ctx<Self>) {
        let Some(app) = self.apps.get(&id) else { return };
        let volumes = self.readiness(app);
        let facts = self.facts(app, &volumes, cx);
        let refs = desired::volume_refs(&app.state);
        let snapshots = desired::snapshot_configs(&app.state, &facts);
        let preflights = desired::preflights(&app.state);
        let held_back = app.start != Start::Free;
        let domain = desired::domain(&app.state, &facts, held_back, |key| {
            self.volume_refs.get(key).map(|status| (**status).clone())
        });
        replace(cx, refs.into_iter().map(|key| VolumeRefConfig { key }).collect(), |row| row.key.app == id);
        replace(cx, snapshots, |row: &VolumesSnapshotConfig| row.app == id);
        replace(cx, preflights, |row: &SnapshotPreflightConfig| row.app == id);
        if let Domain::Wanted(config) = domain {
            self.publish_domain(id, *config, cx);
        }
    }

    /// Tells domainmgr, once, that a domain without a config is nobody's. Not before each application of the rows
    /// has its config: the ones whose volumes are not known yet would look unwanted, and be stopped ([003] G8).
    fn complete_domain_wishes(&mut self, cx: &mut Ctx<Self>) {
        let has_wish =
            |app: &App| app.state.applied.is_none() || cx.get::<DomainConfig>(&app.state.app).is_some();
        if !self.domains_wished && self.apps.values().all(has_wish) {
            self.domains_wished = true;
            cx.signal_restarted::<DomainConfig>();
        }
    }

    /// Gives the wish its number: the old one if nothing differs, else the next. It is above every number answered so
    /// far: an answer to an application of the same id that was deleted must not count for this one.
    fn publish_domain(&mut self, id: AppId, mut config: DomainConfig, cx: &mut Ctx<Self>) {
        let Some(app) = self.apps.get_mut(&id) else { return };
        config.number = app.domain_number;
        if cx.get::<DomainConfig>(&id).as_deref() == Some(&config) {
            return;
        }
        let answered = self.domains.get(&id).map_or(0, |status| status.number);
        app.domain_number = app.domain_number.max(answered) + 1;
        config.number = app.domain_number;
        cx.publish(config);
    }

    fn publish_status(&mut self, id: AppId, cx: &mut Ctx<Self>) {
        let Some(app) = self.apps.get(&id) else { return };
        let shown = app.state.applied.as_ref().or(app.received.as_deref());
        let keys = shown.map(AppInstanceConfig::volume_keys).unwrap_or_default();
        // The next configuration's volumes count too: an update that waits for a download says why.
        let next = app.state.operation.iter().filter_map(|operation| operation.next.as_ref());
        let next: Vec<VolumeKey> = next.flat_map(AppInstanceConfig::volume_keys).collect();
        let failed = next.iter().filter(|key| !keys.contains(key)).filter(|key| {
            self.volume_refs
                .get(&VolumeRefKey { app: id, volume: **key })
                .is_some_and(|status| status.error.is_some())
        });
        let volumes = keys
            .iter()
            .chain(failed)
            .filter_map(|volume| self.volume_refs.get(&VolumeRefKey { app: id, volume: *volume }))
            .map(Arc::as_ref)
            .collect();
        let sources = status::Sources {
            received: app.received.as_deref(),
            removed: self.removed(app),
            domain: self.domains.get(&id).map(Arc::as_ref),
            volumes,
            start_delayed: app.start == Start::Delayed,
            blocked: (app.waiting == WaitingFor::Admission).then(|| blocked(cx)),
        };
        let status = status::build(&app.state, &sources);
        cx.publish(status);
    }

    /// The application is gone: nothing of it is left on the bus or on disk.
    fn forget(&mut self, id: AppId, cx: &mut Ctx<Self>) {
        let received = self.apps.remove(&id).and_then(|app| app.received);
        replace::<VolumesSnapshotConfig>(cx, Vec::new(), |row| row.app == id);
        replace::<SnapshotPreflightConfig>(cx, Vec::new(), |row| row.app == id);
        replace::<VolumeRefConfig>(cx, Vec::new(), |row| row.key.app == id);
        cx.cancel_timer(&start_delay_timer(id));
        cx.unpublish::<DomainConfig>(&id);
        cx.unpublish::<AppInstanceStatus>(&id);
        cx.unpublish::<AppInstanceState>(&id);
        if let Some(config) = received {
            // Listed again while it was being deleted: a new application.
            self.receive(id, Some(config));
            self.settle(id, cx);
        }
    }
}

/// True while the row says that a directory under `snapshots/` belongs to this snapshot.
fn has_directory(state: &AppInstanceState, id: SnapshotId) -> bool {
    let in_operation = state
        .operation
        .as_ref()
        .is_some_and(|operation| operation.snapshots.iter().any(|desc| desc.id == id));
    let by_entry = state.snapshots.get(&id).is_some_and(|entry| match &entry.state {
        SnapshotState::Available(_) | SnapshotState::Cutting { .. } | SnapshotState::Deleting { .. } => true,
        SnapshotState::Failed(instance) => instance.time_created.is_some(),
        SnapshotState::Requested | SnapshotState::Trimmed => false,
    });
    in_operation || by_entry
}

/// Publishes these values and un-publishes the other rows of the same owner.
fn replace<T: Topic>(cx: &mut Ctx<Zedmanager>, values: Vec<T>, own: impl Fn(&T) -> bool) {
    let keys: BTreeSet<T::Key> = values.iter().map(Topic::key).collect();
    let gone: Vec<T::Key> = cx
        .rows::<T>()
        .iter()
        .filter(|row| own(row))
        .map(|row| row.key())
        .filter(|key| !keys.contains(key))
        .collect();
    for key in gone {
        cx.unpublish::<T>(&key);
    }
    for value in values {
        cx.publish(value);
    }
}

fn start_delay_timer(id: AppId) -> TimerKey {
    TimerKey(format!("start-delay {id}"))
}

fn new_state(config: &AppInstanceConfig) -> AppInstanceState {
    // [003] A4: the first configuration sets the baseline without acting.
    AppInstanceState { rollback_counter: config.snapshot.rollback.counter, ..bare_state(config.app()) }
}

fn bare_state(app: AppId) -> AppInstanceState {
    AppInstanceState {
        app,
        applied: None,
        operation: None,
        last_operation: OperationNumber(0),
        rollback_counter: 0,
        last_sequence: 0,
        snapshots: BTreeMap::new(),
        superseded_version: None,
        waiting: None,
        last_failure: None,
    }
}

fn admission(cx: &Ctx<Zedmanager>) -> Admission {
    match cx.mode() {
        NodeMode::Normal => Admission::All,
        NodeMode::NoSpace => Admission::OnlyDeletions,
        NodeMode::ReadOnly { .. } => Admission::Nothing,
    }
}

fn blocked(cx: &Ctx<Zedmanager>) -> ErrorReport {
    match cx.mode() {
        NodeMode::ReadOnly { reason } => {
            ErrorReport::new(format!("the node is read-only: {reason}"), cx.now())
                .retry("a healthy start of the node")
        }
        _ => ErrorReport::new(
            "there is no space left under the persist directory; only deletions are done",
            cx.now(),
        )
        .retry("space under the persist directory"),
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
        Decision::ApplyInPlace(_) | Decision::Wait(_) => {}
    }
}
