//! What the API knows: the newest row of each topic it reads, and the operations that ended lately.
//!
//! ```text
//!   Seen (one change of one topic) ──apply(now)──▶ rows replaced, ended operations remembered ──▶ transitions
//! ```
//!
//! Operations and snapshots are read from [`AppInstanceState`]: one row holds an operation and the failure that
//! ended it, so the two are never seen apart. Nothing here reads the clock, waits or does I/O.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use holdfast_pubsub::{Bus, Change, Mailbox};
use holdfast_types::{
    AppId, AppInstanceState, AppInstanceStatus, AppPlan, DeviceStatus, DomainStatus, ErrorReport, Operation,
    SnapshotId, Timestamp, Topic, VolumeKey, VolumeStatus, VolumesSnapshotStatus,
};

use super::documents::Transition;
use super::events;

/// How many ended operations are remembered over all applications.
const ENDED_MAX: usize = 50;

/// Beyond this, names of applications that are gone are forgotten.
const NAMES_MAX: usize = 1000;

/// A change on the bus, of one of the topics the API reads.
#[derive(Debug, Clone)]
pub enum Seen {
    App(Change<AppInstanceStatus>),
    AppState(Change<AppInstanceState>),
    Guest(Change<DomainStatus>),
    Volume(Change<VolumeStatus>),
    Storage(Change<VolumesSnapshotStatus>),
    Device(Change<DeviceStatus>),
    Plan(Change<AppPlan>),
}

impl Seen {
    /// A mailbox that is told of all of them.
    pub fn subscribe(bus: &Bus) -> Mailbox<Seen> {
        let mailbox = Mailbox::new();
        // Names first, so that what follows can be told by name.
        mailbox.subscribe(bus, Seen::App);
        mailbox.subscribe(bus, Seen::AppState);
        mailbox.subscribe(bus, Seen::Guest);
        mailbox.subscribe(bus, Seen::Volume);
        mailbox.subscribe(bus, Seen::Storage);
        mailbox.subscribe(bus, Seen::Device);
        mailbox.subscribe(bus, Seen::Plan);
        mailbox
    }
}

/// An operation that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    pub app: AppId,
    /// The name as it was: the application may be gone.
    pub app_name: String,
    pub operation: Operation,
    pub ended_at: Timestamp,
    pub error: Option<ErrorReport>,
}

#[derive(Debug, Default)]
pub struct View {
    pub apps: BTreeMap<AppId, Arc<AppInstanceStatus>>,
    pub states: BTreeMap<AppId, Arc<AppInstanceState>>,
    pub guests: BTreeMap<AppId, Arc<DomainStatus>>,
    pub volumes: BTreeMap<VolumeKey, Arc<VolumeStatus>>,
    pub storage: BTreeMap<SnapshotId, Arc<VolumesSnapshotStatus>>,
    pub device: Option<Arc<DeviceStatus>>,
    /// The last answer about each application; nothing of it is shown but to who asked.
    pub plans: BTreeMap<AppId, Arc<AppPlan>>,
    /// Oldest first.
    pub ended: VecDeque<Ended>,
    /// What people call each application; kept when it is gone, since guests and volumes go after it.
    names: BTreeMap<AppId, String>,
    pub operations_done_total: u64,
    pub operations_failed_total: u64,
}

impl View {
    /// Takes one change in and says which transitions it was.
    pub fn apply(&mut self, seen: Seen, now: Timestamp) -> Vec<Transition> {
        match seen {
            Seen::App(change) => {
                if let Some(status) = change.value() {
                    self.learn(status.key(), &status.display_name);
                }
                let (old, new) = replace(&mut self.apps, &change);
                events::of_app(old.as_deref(), new.as_deref())
            }
            Seen::AppState(change) => self.apply_state(change, now),
            Seen::Guest(change) => {
                let (old, new) = replace(&mut self.guests, &change);
                events::of_guest(|app| self.name_of(app), old.as_deref(), new.as_deref())
            }
            Seen::Volume(change) => {
                let (old, new) = replace(&mut self.volumes, &change);
                events::of_volume(old.as_deref(), new.as_deref())
            }
            Seen::Storage(change) => {
                replace(&mut self.storage, &change);
                Vec::new()
            }
            Seen::Device(change) => self.apply_device(change),
            Seen::Plan(change) => {
                replace(&mut self.plans, &change);
                Vec::new()
            }
        }
    }

    /// What people call the application.
    pub fn name_of(&self, app: AppId) -> String {
        self.names.get(&app).cloned().unwrap_or_else(|| app.to_string())
    }

    /// An application by its id, or by a name that only it has.
    pub fn find_app(&self, id_or_name: &str) -> Option<AppId> {
        if let Ok(id) = id_or_name.parse::<AppId>() {
            return (self.apps.contains_key(&id) || self.states.contains_key(&id)).then_some(id);
        }
        let mut named = self.apps.values().filter(|status| status.display_name == id_or_name);
        match (named.next(), named.next()) {
            (Some(only), None) => Some(only.key()),
            _ => None,
        }
    }

    fn learn(&mut self, app: AppId, name: &str) {
        if name.is_empty() {
            return;
        }
        self.names.insert(app, name.to_string());
        if self.names.len() > NAMES_MAX {
            let (apps, states) = (&self.apps, &self.states);
            self.names
                .retain(|known, _| *known == app || apps.contains_key(known) || states.contains_key(known));
        }
    }

    fn apply_state(&mut self, change: Change<AppInstanceState>, now: Timestamp) -> Vec<Transition> {
        let Some(state) = change.value() else { return Vec::new() };
        let app = state.app;
        let next = state.operation.as_ref().and_then(|operation| operation.next.as_ref());
        if let Some(config) = next.or(state.applied.as_ref()) {
            self.learn(app, &config.display_name);
        }
        let name = self.name_of(app);
        let (old, new) = replace(&mut self.states, &change);
        if let Some(ended) = ended(&name, old.as_deref(), new.as_deref(), now) {
            self.remember(ended);
        }
        events::of_state(&name, old.as_deref(), new.as_deref())
    }

    fn remember(&mut self, ended: Ended) {
        match ended.error {
            Some(_) => self.operations_failed_total += 1,
            None => self.operations_done_total += 1,
        }
        if self.ended.len() == ENDED_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back(ended);
    }

    fn apply_device(&mut self, change: Change<DeviceStatus>) -> Vec<Transition> {
        if change.value().is_none() {
            return Vec::new();
        }
        let old = std::mem::replace(&mut self.device, change.current().cloned());
        events::of_device(old.as_deref(), self.device.as_deref())
    }
}

/// The operation that this change of a row ended, if it did.
fn ended(
    name: &str,
    old: Option<&AppInstanceState>,
    new: Option<&AppInstanceState>,
    now: Timestamp,
) -> Option<Ended> {
    let old = old?;
    let operation = old.operation.clone()?;
    let goes_on = new.and_then(|new| new.operation.as_ref()).is_some_and(|it| it.number == operation.number);
    (!goes_on).then(|| Ended {
        app: old.app,
        app_name: name.to_string(),
        error: events::failure_of(operation.number, new).cloned(),
        operation,
        ended_at: now,
    })
}

/// The row before and after this change, by what this view knew, not by what the change says: both are the same
/// unless a change was seen twice.
fn replace<T: Topic>(
    rows: &mut BTreeMap<T::Key, Arc<T>>,
    change: &Change<T>,
) -> (Option<Arc<T>>, Option<Arc<T>>) {
    let Some(key) = change.value().map(|value| value.key()) else { return (None, None) };
    let new = change.current().cloned();
    let old = match &new {
        Some(value) => rows.insert(key, Arc::clone(value)),
        None => rows.remove(&key),
    };
    (old, new)
}
