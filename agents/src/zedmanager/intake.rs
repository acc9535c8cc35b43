//! What the agent hears, remembered: the last value of every topic, the inventory of the start, and which applications
//! that may move. Decides nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_pubsub::Change;
use holdfast_types::*;

use super::inventory::{self, Scan, ScannedSnapshot};
use super::{App, Event, Start, Zedmanager};
use crate::runtime::{Ctx, TimerKey};

/// More operations than an application has in its life.
const LOST_NUMBERS: u64 = 1_000_000;

/// Records that the disk does not give, or temporaries that it does not let go of, are waited for through so many scans: for 15 s,
/// as nothing is decided before.
const SCANS_AT_MOST: u32 = 4;
const SCAN_AGAIN_AFTER: Duration = Duration::from_secs(5);

impl Zedmanager {
    /// Remembers what the event says and names the applications it may move.
    pub(super) fn take_in(&mut self, event: Event, cx: &mut Ctx<Self>) -> Vec<AppId> {
        match event {
            Event::AppConfig(Change::Restarted(_)) => {
                self.config_complete = true;
                self.all_apps()
            }
            Event::Snapshot(Change::Restarted(_)) => {
                self.storage_known = true;
                self.may_be_stale.extend(&self.directories);
                self.all_apps()
            }
            Event::Domain(Change::Restarted(_)) => {
                self.domains_known = true;
                self.all_apps()
            }
            Event::AppConfig(change) => match change.value().map(|config| config.app()) {
                Some(app) => {
                    self.receive(app, change.current().cloned());
                    vec![app]
                }
                None => Vec::new(),
            },
            Event::VolumeRef(change) => {
                let status = change.keep_in(&mut self.volume_refs);
                status.map(|status| status.key.app).into_iter().collect()
            }
            Event::Snapshot(change) => match self.hear_storage(&change) {
                // Its record could not be read, so storage cannot tell whose it is: whoever has it knows.
                Some(status) if status.app.0.is_nil() => {
                    self.all_apps().into_iter().chain([status.app]).collect()
                }
                Some(status) => vec![status.app],
                None => Vec::new(),
            },
            Event::Preflight(change) => {
                let status = change.keep_in(&mut self.preflight);
                // An answer that is gone moves nobody.
                let moves = status.filter(|_| !matches!(change, Change::Deleted(_)));
                moves.map(|status| status.app).into_iter().collect()
            }
            Event::Domain(change) => {
                let status = change.keep_in(&mut self.domains);
                status.map(|status| status.app).into_iter().collect()
            }
            Event::Scanned(scan) => self.take_scan(scan, cx),
            Event::ScanAgain => {
                cx.job(inventory::ScanSnapshots);
                Vec::new()
            }
            Event::StartDelayOver(app) => {
                if let Some(app) = self.apps.get_mut(&app) {
                    app.start = Start::Free;
                }
                vec![app]
            }
            Event::Local(order) => self.hear_order(order, cx),
            // What waited for space goes on.
            Event::ModeChanged => self.all_apps(),
        }
    }

    fn hear_storage(&mut self, change: &Change<VolumesSnapshotStatus>) -> Option<Arc<VolumesSnapshotStatus>> {
        if let Change::Deleted(status) = change {
            self.may_be_stale.insert(status.snapshot);
        }
        change.keep_in(&mut self.storage).cloned()
    }

    fn all_apps(&self) -> Vec<AppId> {
        self.apps.keys().copied().collect()
    }

    pub(super) fn receive(&mut self, id: AppId, config: Option<Arc<AppInstanceConfig>>) {
        if !self.scanned {
            self.early.remove(&id);
            self.early.extend(config.map(|config| (id, config)));
            return;
        }
        match (self.apps.get_mut(&id), config) {
            (Some(app), config) => app.received = config.map(|config| app.shared(config)),
            (None, Some(config)) => {
                let mut app = App::new(new_state(&config, self.lost_rows.contains_key(&id)));
                app.received = Some(config);
                self.apps.insert(id, app);
            }
            (None, None) => {}
        }
    }

    /// A disk that fails for a moment must not make failed snapshots of whole ones (seed 1000008206). For records there is an end to
    /// it, and what cannot be read then is damaged; which snapshots there are has to be known.
    fn take_scan(&mut self, scan: Result<Scan, String>, cx: &mut Ctx<Self>) -> Vec<AppId> {
        let why = match scan {
            Err(error) => format!("the snapshots cannot be listed: {error}"),
            Ok(scan) => {
                self.incomplete_scans += u32::from(!scan.failures.is_empty());
                match scan.failures.first() {
                    Some(failure) if self.incomplete_scans < SCANS_AT_MOST => {
                        format!("records of snapshots cannot be read or swept yet: {failure}")
                    }
                    _ => return self.take_inventory(scan, cx),
                }
            }
        };
        tracing::error!(why, "nothing is decided before the snapshots are known");
        let error = ErrorReport::new(format!("nothing is started or changed: {why}"), cx.now());
        self.standstill = Some(error.retry("tried again every 5 s").or_known(self.standstill.take()));
        cx.timer(TimerKey::new("scan"), SCAN_AGAIN_AFTER, Event::ScanAgain);
        self.apps.keys().chain(self.early.keys()).copied().collect()
    }

    /// The start's inventory is here: rows and records are put side by side ([003] G9, H3), then everything moves.
    fn take_inventory(&mut self, scan: Scan, cx: &mut Ctx<Self>) -> Vec<AppId> {
        self.scanned = true;
        self.standstill = None;
        for app in self.apps.values_mut() {
            inventory::presume_whole(&mut app.state);
        }
        for (name, why) in &scan.unreadable {
            tracing::warn!(directory = name, why, "left alone: not a snapshot's directory");
        }
        for scanned in scan.snapshots {
            self.add_directory(scanned.id);
            self.place(scanned, cx);
        }
        for app in self.apps.values_mut() {
            inventory::mark_incomplete(&mut app.state, &self.saved, &self.directories, cx.now());
        }
        self.skip_lost_numbers();
        for (id, config) in std::mem::take(&mut self.early) {
            // The first configuration an application without a row ever sees sets the rollback baseline ([003] A4),
            // also when its snapshots were found without a row.
            let is_lost = self.lost_rows.contains_key(&id);
            let app = self.apps.entry(id).or_insert_with(|| App::new(new_state(&config, is_lost)));
            if app.written.is_none() {
                app.state.rollback_counter = config.snapshot.rollback.counter;
            }
            app.received = Some(app.shared(config));
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

    /// Operation numbers never come again: beyond those of the snapshots that are left, the lost row knew others, and
    /// storage may still have an intent with one of them.
    fn skip_lost_numbers(&mut self) {
        for app in self.apps.values_mut() {
            if app.written.is_none() && self.lost_rows.contains_key(&app.state.app) {
                app.state.last_operation.0 += LOST_NUMBERS;
            }
        }
    }

    /// Files one scanned snapshot with its application.
    fn place(&mut self, scanned: ScannedSnapshot, cx: &mut Ctx<Self>) {
        let id = scanned.id;
        let mut app = self.apps.values_mut().find(|app| app.state.snapshots.contains_key(&id));
        let orphan = match &mut app {
            Some(app) => {
                inventory::compare(&mut app.state, &scanned, cx.now());
                None
            }
            None => inventory::orphan(&scanned, cx.now()),
        };
        if let Ok(config) = scanned.config {
            let config = Arc::new(config);
            self.saved.insert(id, app.map_or(Arc::clone(&config), |app| app.shared(config)));
        }
        if let Some(instance) = orphan {
            let app = self.apps.entry(instance.app).or_insert_with(|| App::new(bare_state(instance.app)));
            inventory::adopt(&mut app.state, instance);
        }
    }
}

fn new_state(config: &AppInstanceConfig, is_lost: bool) -> AppInstanceState {
    // [003] A4: the first configuration sets the baseline without acting.
    AppInstanceState {
        rollback_counter: config.snapshot.rollback.counter,
        last_operation: OperationNumber(if is_lost { LOST_NUMBERS } else { 0 }),
        ..bare_state(config.app())
    }
}

/// The row of an application of which nothing is known.
pub(super) fn bare_state(app: AppId) -> AppInstanceState {
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
        controlled_by: None,
        last_rollback: None,
        installed_at: None,
        last_local: None,
        downtimes: BTreeMap::new(),
    }
}
