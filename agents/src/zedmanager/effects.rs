//! What follows from the row: records and files, the row itself, and what stands on the bus.
//!
//! [`desired`] and [`status`] say what it should be; here it is put beside what is there, and only what differs goes out.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use holdfast_persist::record;
use holdfast_types::*;

use super::desired::{self, Domain};
use super::intake::bare_state;
use super::machine::{WaitingFor, Write};
use super::{App, Event, Start, Zedmanager, status};
use crate::runtime::{Ctx, NodeMode, TimerKey};

impl Zedmanager {
    pub(super) fn write(&mut self, write: Write, cx: &mut Ctx<Self>) {
        match write {
            Write::SaveConfig(id, config) => {
                let path = self.layout.app_config_file(&id);
                match record::render(&path, config.as_ref()) {
                    Ok(bytes) => cx.write_record(path, bytes),
                    Err(error) => tracing::error!(%id, %error, "a configuration that cannot be written down"),
                }
                self.add_directory(id);
                self.saved.insert(id, config);
            }
            Write::SaveInstance(instance) => {
                let id = instance.snapshot.id;
                let path = self.layout.snapshot_instance_status_file(&id);
                match record::render(&path, instance.as_ref()) {
                    Ok(bytes) => cx.write_record(path, bytes),
                    Err(error) => tracing::error!(%id, %error, "a descriptor that cannot be written down"),
                }
                self.add_directory(id);
            }
        }
    }

    pub(super) fn add_directory(&mut self, id: SnapshotId) {
        self.directories.insert(id);
        self.may_be_stale.insert(id);
    }

    /// The three files and the directory of a snapshot go last, here ([003] D3): when no row names it any more
    /// and storage has let go of it.
    pub(super) fn remove_stale_directories(&mut self, cx: &mut Ctx<Self>) {
        if !self.storage_known {
            return;
        }
        // Most events change nothing of this, and a node may have thousands of directories.
        let mut stale = std::mem::take(&mut self.may_be_stale);
        stale.retain(|id| self.is_stale(id));
        for id in stale {
            tracing::info!(snapshot = %id, "snapshot's files removed");
            cx.remove_tree(self.layout.snapshot_dir(&id));
            self.directories.remove(&id);
            self.saved.remove(&id);
        }
        debug_assert!(
            !self.directories.iter().any(|id| self.is_stale(id)),
            "a directory that nothing was said of"
        );
    }

    fn is_stale(&self, id: &SnapshotId) -> bool {
        let is_owned = || self.apps.values().any(|app| owns_directory(&app.state, id));
        self.directories.contains(id) && !self.storage.contains_key(id) && !is_owned()
    }

    pub(super) fn write_row(&mut self, id: AppId, cx: &mut Ctx<Self>) {
        let Some(app) = self.apps.get_mut(&id) else { return };
        cx.publish(app.state.clone());
        app.written = cx.get::<AppInstanceState>(&id);
    }

    /// The start delay counts from the first moment the guest could start after a boot of the node; a guest that
    /// runs already has none ([003] G8).
    pub(super) fn arm_start_delay(&mut self, id: AppId, cx: &mut Ctx<Self>) {
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
    pub(super) fn publish_wishes(&mut self, id: AppId, cx: &mut Ctx<Self>) {
        let Some(app) = self.apps.get(&id) else { return };
        let volumes = self.readiness(id);
        let facts = self.facts(&app.state, app.received.as_ref(), &volumes, cx);
        let refs = desired::volume_refs(&app.state);
        let snapshots = desired::snapshot_configs(&app.state, &facts);
        // A plan is asked about only while no operation runs.
        let preflights = desired::preflights(&app.state).into_iter().chain(app.question.clone()).collect();
        let held_back = app.start != Start::Free;
        let domain =
            desired::domain(&app.state, &facts, held_back, |key| self.volume_refs.get(key).map(Arc::as_ref));
        let refs = refs.into_iter().map(|key| VolumeRefConfig { key }).collect();
        if let Some(app) = self.apps.get_mut(&id) {
            let wishes = &mut app.wishes;
            replace(cx, &mut wishes.refs, refs, |row| row.key.app == id);
            replace(cx, &mut wishes.snapshots, snapshots, |row| row.app == id);
            replace(cx, &mut wishes.preflights, preflights, |row| row.app == id);
        }
        if let Domain::Wanted(config) = domain {
            self.publish_domain(id, *config, cx);
        }
    }

    /// Tells domainmgr, once, that a domain without a config is nobody's. Not before each application of the rows
    /// has its config: the ones whose volumes are not known yet would look unwanted, and be stopped ([003] G8).
    pub(super) fn complete_domain_wishes(&mut self, cx: &mut Ctx<Self>) {
        let has_wish =
            |app: &App| app.state.applied.is_none() || cx.get::<DomainConfig>(&app.state.app).is_some();
        if !self.domains_wished && self.apps.values().all(|app| has_wish(app)) {
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

    pub(super) fn publish_status(&mut self, id: AppId, cx: &mut Ctx<Self>) {
        self.update_notices(id, cx.now());
        let Some(app) = self.apps.get(&id) else { return };
        let status = self.status(app, app.received.as_deref(), cx);
        cx.publish(status);
    }

    /// As long as there is no inventory: what is known of these applications, and why nothing happens to them.
    pub(super) fn publish_standstill(&mut self, concerned: Vec<AppId>, cx: &mut Ctx<Self>) {
        if self.standstill.is_none() {
            return;
        }
        for id in concerned {
            let received = self.early.get(&id).map(Arc::as_ref);
            let status = match (self.apps.get(&id), received) {
                (Some(app), _) => self.status(app, received, cx),
                (None, Some(_)) => self.status(&App::new(bare_state(id)), received, cx),
                (None, None) => {
                    cx.unpublish::<AppInstanceStatus>(&id);
                    continue;
                }
            };
            cx.publish(status);
        }
    }

    fn status(&self, app: &App, received: Option<&AppInstanceConfig>, cx: &Ctx<Self>) -> AppInstanceStatus {
        let id = app.state.app;
        let shown = app.state.applied.as_deref().or(received);
        let keys = shown.map(AppInstanceConfig::volume_keys).unwrap_or_default();
        // The next configuration's volumes count too: an update that waits for a download says why.
        let next = app.state.operation.iter().filter_map(|operation| operation.next.as_ref());
        let next: Vec<VolumeKey> = next.flat_map(|config| config.volume_keys()).collect();
        let failed = next.iter().filter(|key| !keys.contains(key)).filter(|key| {
            self.volume_refs
                .get(&VolumeRefKey { app: id, volume: **key })
                .is_some_and(|status| status.hindrance().is_some())
        });
        let volumes = keys
            .iter()
            .chain(failed)
            .filter_map(|volume| self.volume_refs.get(&VolumeRefKey { app: id, volume: *volume }))
            .map(Arc::as_ref)
            .collect();
        let sources = status::Sources {
            received,
            removed: self.removed(received),
            domain: self.domains.get(&id).map(Arc::as_ref),
            volumes,
            start_delayed: app.start == Start::Delayed,
            blocked: self.blocked(app, cx),
            lost_row: self.lost_rows.get(&id).cloned(),
            guard: self.guard(&app.state, received).unwrap_or_default(),
            notices: app.notices.clone(),
            local_order: app.local_order,
        };
        status::build(&app.state, &sources)
    }

    fn blocked(&self, app: &App, cx: &Ctx<Self>) -> Option<ErrorReport> {
        let by_mode = || (app.waiting == WaitingFor::Admission).then(|| blocked_by_mode(cx));
        self.standstill.clone().or_else(by_mode)
    }

    /// The application is gone: nothing of it is left on the bus or on disk.
    pub(super) fn forget(&mut self, id: AppId, cx: &mut Ctx<Self>) {
        let Some(app) = self.apps.remove(&id) else { return };
        self.may_be_stale.extend(with_directory(&app.state));
        let App { received, mut wishes, .. } = *app;
        replace::<VolumesSnapshotConfig>(cx, &mut wishes.snapshots, Vec::new(), |row| row.app == id);
        replace::<SnapshotPreflightConfig>(cx, &mut wishes.preflights, Vec::new(), |row| row.app == id);
        replace::<VolumeRefConfig>(cx, &mut wishes.refs, Vec::new(), |row| row.key.app == id);
        cx.cancel_timer(&start_delay_timer(id));
        cx.unpublish::<DomainConfig>(&id);
        cx.unpublish::<AppInstanceStatus>(&id);
        cx.unpublish::<AppPlan>(&id);
        // Before the row: cut in between, the application is forgotten again.
        cx.unpublish::<LocalAppSettings>(&id);
        self.local.remove(&id);
        cx.unpublish::<AppInstanceState>(&id);
        self.lost_rows.remove(&id);
        if let Some(config) = received {
            // Listed again while it was being deleted: a new application.
            self.receive(id, Some(config));
            self.settle(id, cx);
        }
    }
}

/// The snapshots of which the row says that a directory under `snapshots/` belongs to them.
pub(super) fn with_directory(state: &AppInstanceState) -> impl Iterator<Item = SnapshotId> + '_ {
    let by_entry = state.snapshots.iter().filter(|(_, entry)| needs_directory(entry)).map(|(id, _)| *id);
    in_operation(state).chain(by_entry)
}

/// Whether it is one of [`with_directory`].
pub(super) fn owns_directory(state: &AppInstanceState, id: &SnapshotId) -> bool {
    state.snapshots.get(id).is_some_and(needs_directory) || in_operation(state).any(|other| other == *id)
}

fn in_operation(state: &AppInstanceState) -> impl Iterator<Item = SnapshotId> + '_ {
    state.operation.iter().flat_map(|operation| &operation.snapshots).map(|desc| desc.id)
}

fn needs_directory(entry: &SnapshotEntry) -> bool {
    match &entry.state {
        SnapshotState::Available(_) | SnapshotState::Cutting { .. } | SnapshotState::Deleting { .. } => true,
        SnapshotState::Failed(instance) => instance.time_created.is_some(),
        SnapshotState::Requested | SnapshotState::Trimmed => false,
    }
}

/// Publishes these values, and un-publishes what stands there of before, unless another application has taken the key over.
fn replace<T: Topic>(
    cx: &mut Ctx<Zedmanager>,
    standing: &mut BTreeSet<T::Key>,
    values: Vec<T>,
    is_own: impl Fn(&T) -> bool,
) {
    let before = std::mem::replace(standing, values.iter().map(Topic::key).collect());
    for gone in before.difference(standing) {
        if cx.get::<T>(gone).is_some_and(|row| is_own(&row)) {
            cx.unpublish::<T>(gone);
        }
    }
    for value in values {
        cx.publish(value);
    }
}

fn start_delay_timer(id: AppId) -> TimerKey {
    TimerKey(format!("start-delay {id}"))
}

fn blocked_by_mode(cx: &Ctx<Zedmanager>) -> ErrorReport {
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
