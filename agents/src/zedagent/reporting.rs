//! What there is to tell the controller, and the line on which it goes: the part of zedagent that turns statuses and
//! refusals into reports.
//!
//! In: changes of statuses, the refusals of the configuration in force, ends of sendings. Out: jobs, timers, and
//! the account of what was refused. What a report says is `report.rs`; when it is sent is `outbox.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use holdfast_pubsub::{Change, Topic};
use holdfast_types::{AppInstanceStatus, DeviceId, ErrorReport, Severity, Timestamp, VolumeStatus};

use super::jobs::ZedagentJob;
use super::outbox::Outbox;
use super::refusal::{ObjectKind, Refusal};
use super::report::{self, Refused, ReportObject, joined};
use super::{Event, Zedagent};
use crate::runtime::{Ctx, TimerKey};

#[derive(Debug)]
pub(super) struct Reporting {
    device: DeviceId,
    pub outbox: Outbox,
    apps: BTreeMap<ReportObject, Arc<AppInstanceStatus>>,
    volumes: BTreeMap<ReportObject, Arc<VolumeStatus>>,
    /// By kind, id and generation.
    refused: BTreeMap<(ObjectKind, String, i64), Refused>,
    /// The last report that was not taken, until all are.
    error: Option<ErrorReport>,
}

impl Reporting {
    pub fn new(device: DeviceId, first_retry: Duration, longest_retry: Duration) -> Self {
        Reporting {
            device,
            outbox: Outbox::new(first_retry, longest_retry),
            apps: BTreeMap::new(),
            volumes: BTreeMap::new(),
            refused: BTreeMap::new(),
            error: None,
        }
    }

    pub fn app_changed(&mut self, change: &Change<AppInstanceStatus>, now: Timestamp) {
        if let Some(status) = change.value() {
            let object = ReportObject::app(status.key());
            keep(&mut self.apps, &object, change);
            self.refresh(object, now);
        }
    }

    pub fn volume_changed(&mut self, change: &Change<VolumeStatus>, now: Timestamp) {
        if let Some(status) = change.value() {
            let object = ReportObject::volume(status.key);
            keep(&mut self.volumes, &object, change);
            self.refresh(object, now);
        }
    }

    /// The refusals of the configuration in force, in place of those before. One that only goes on keeps its time.
    pub fn set_refused(&mut self, refusals: &[Refusal], now: Timestamp) {
        let mut next = BTreeMap::new();
        for refusal in refusals {
            let key = (refusal.kind, refusal.id.clone(), refusal.generation);
            let fresh = Refused { name: refusal.name.clone(), error: refusal.report(now) };
            let known = self.refused.get(&key).filter(|known| known.error.summary == fresh.error.summary);
            if known.is_none() {
                tracing::warn!("{refusal}");
            }
            next.insert(key, known.cloned().unwrap_or(fresh));
        }
        let before = std::mem::replace(&mut self.refused, next);
        let concerned: BTreeSet<_> = before.keys().chain(self.refused.keys()).filter_map(object_of).collect();
        concerned.into_iter().for_each(|object| self.refresh(object, now));
    }

    /// As `DeviceStatus` shows them: by id, whatever the kind.
    pub fn refused_by_id(&self) -> BTreeMap<String, ErrorReport> {
        let mut by_id = BTreeMap::new();
        for ((_, id, _), refused) in &self.refused {
            if let Some(both) = joined(by_id.get(id), Some(&refused.error)) {
                by_id.insert(id.clone(), both);
            }
        }
        by_id
    }

    /// Refusals of objects that EVE's API has no report with an error for.
    pub fn refused_parts(&self) -> Option<ErrorReport> {
        let parts = self.refused.iter().filter(|(key, _)| object_of(key).is_none());
        parts.fold(None, |both, (_, refused)| joined(both.as_ref(), Some(&refused.error)))
    }

    pub fn error(&self) -> Option<&ErrorReport> {
        self.error.as_ref()
    }

    pub fn handle_end(
        &mut self,
        object: ReportObject,
        number: u64,
        result: Result<(), String>,
        cx: &mut Ctx<Zedagent>,
    ) {
        match result {
            Ok(()) => self.outbox.taken(&object, number),
            Err(reason) => self.wait(object, number, &reason, cx),
        }
        if !self.outbox.has_failures() {
            self.error = None;
        }
    }

    fn wait(&mut self, object: ReportObject, number: u64, reason: &str, cx: &mut Ctx<Zedagent>) {
        let Some(delay) = self.outbox.not_taken(&object, number) else { return };
        tracing::debug!(%object, reason, ?delay, "a report was not taken");
        let summary = format!("the controller does not take the report about {object}: {reason}");
        let report = ErrorReport::new(summary, cx.now())
            .severity(Severity::Warning)
            .retry("sent again by itself, until it is taken");
        super::note(&mut self.error, report);
        let timer = TimerKey::new(format_args!("report {object}"));
        cx.timer(timer, delay, Event::ReportRetryDue(object));
    }

    pub fn send_due(&mut self, cx: &mut Ctx<Zedagent>) {
        for due in self.outbox.start_due() {
            let message = Box::new(report::message(self.device, due.content, due.made_at));
            cx.job(ZedagentJob::SendReport { object: due.object, number: due.number, message });
        }
    }

    /// Brings the report about the object up to what is known of it.
    fn refresh(&mut self, object: ReportObject, now: Timestamp) {
        let content = match &object {
            ReportObject::Device => return,
            ReportObject::App(id) => {
                let refused = self.refused.get(&(ObjectKind::App, id.clone(), 0));
                let status = self.apps.get(&object);
                (refused.is_some() || status.is_some())
                    .then(|| report::app(id, status.map(Arc::as_ref), refused))
            }
            ReportObject::Volume { id, generation } => {
                let refused = self.refused.get(&(ObjectKind::Volume, id.clone(), *generation));
                let status = self.volumes.get(&object);
                (refused.is_some() || status.is_some())
                    .then(|| report::volume(id, *generation, status.map(Arc::as_ref), refused))
            }
        };
        match content {
            Some(content) => self.outbox.update(object, content, now),
            None => self.outbox.finish(object, now),
        }
    }
}

fn keep<T>(known: &mut BTreeMap<ReportObject, Arc<T>>, object: &ReportObject, change: &Change<T>) {
    match change.current() {
        Some(status) => known.insert(object.clone(), Arc::clone(status)),
        None => known.remove(object),
    };
}

/// The report that carries this refusal; none for content trees and datastores.
fn object_of(refused: &(ObjectKind, String, i64)) -> Option<ReportObject> {
    match refused {
        (ObjectKind::App, id, _) => Some(ReportObject::App(id.clone())),
        (ObjectKind::Volume, id, generation) => {
            Some(ReportObject::Volume { id: id.clone(), generation: *generation })
        }
        (ObjectKind::ContentTree | ObjectKind::Datastore, ..) => None,
    }
}
