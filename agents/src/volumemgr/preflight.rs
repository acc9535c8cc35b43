//! zedmanager's questions before it stops a guest: would all volumes take part? ([003] B3, C1) Touches nothing.
//!
//! What rows and records tell is refused here; the rest is asked of the handlers, by one job for all volumes. A
//! refusal names every volume that refuses. What stands in the way of a rollback is only told, by volume: zedmanager judges it
//! ([000] L4). So is what each volume needs and what is free ([000] L8); too little is a refusal.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use holdfast_types::{
    Blocker, Blockers, EntityKind, ErrorReport, SnapshotAction, SnapshotId, SnapshotPreflightConfig,
    SnapshotPreflightStatus, Space, VolumeId, VolumeKey,
};
use holdfast_volumehandlers::placement::is_device;

use crate::runtime::Ctx;

use super::Volumemgr;
use super::jobs::{Asked, Place, PreflightOrder, VolumeJob};
use super::request::{Stored, Volumes, is_read_only, linked, made, resolved, reverted};
use super::volumes::Rows;

/// What a look at storage has found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    pub refusals: BTreeMap<VolumeId, String>,
    pub blockers: Blockers,
    pub space: BTreeMap<VolumeId, (Place, Space)>,
    /// Those that would be reverted by a clone.
    pub cloned: BTreeSet<VolumeId>,
}

impl Seen {
    pub fn add(&mut self, place: &Place, blockers: Vec<Blocker>, space: Option<Space>) {
        let volume = place.key.volume;
        if !blockers.is_empty() {
            self.blockers.insert(volume, blockers);
        }
        if let Some(space) = space {
            self.space.insert(volume, (place.clone(), space));
        }
    }

    /// Each fits alone, and all together do not: they draw on the same room.
    pub fn refuse_crowded(&mut self) {
        for in_pool in [false, true] {
            let of_one = || self.space.values().filter(|(place, _)| is_device(&place.location) == in_pool);
            let needed_bytes: u64 = of_one().map(|(_, space)| space.needed_bytes).sum();
            // A quota may leave one of them less.
            let free_bytes = of_one().map(|(_, space)| space.free_bytes).max().unwrap_or(u64::MAX);
            if of_one().count() < 2 || needed_bytes <= free_bytes {
                continue;
            }
            let told: Vec<(VolumeId, String)> = of_one()
                .map(|(place, space)| {
                    let text = format!(
                        "volume {} needs {} bytes of free space, and all volumes together {needed_bytes}; \
                         {free_bytes} are free",
                        place.location.display(),
                        space.needed_bytes
                    );
                    (place.key.volume, text)
                })
                .collect();
            for (volume, text) in told {
                self.refusals.entry(volume).or_insert(text);
            }
        }
    }
}

impl Volumemgr {
    pub(super) fn settle_questions(&mut self, cx: &mut Ctx<Self>) {
        for status in cx.rows::<SnapshotPreflightStatus>() {
            if !self.inputs.questions.contains_key(&status.snapshot) {
                cx.unpublish::<SnapshotPreflightStatus>(&status.snapshot);
            }
        }
        let questions: Vec<Arc<SnapshotPreflightConfig>> = self.inputs.questions.values().cloned().collect();
        for question in questions {
            let answered = cx.get::<SnapshotPreflightStatus>(&question.snapshot);
            let is_answered = answered.is_some_and(|status| status.operation == question.operation);
            let is_looked_at = self.asked.get(&question.snapshot) == Some(&question);
            if !is_answered && !is_looked_at && !self.waits_for_adoption(question.snapshot, &question.volumes)
            {
                self.ask(question, cx);
            }
        }
    }

    fn ask(&mut self, question: Arc<SnapshotPreflightConfig>, cx: &mut Ctx<Self>) {
        match self.volumes_asked_about(&question, cx) {
            Ok(order) if order.volumes.is_empty() => {
                let seen = Seen { refusals: order.refusals, ..Seen::default() };
                self.preflighted(question, seen, cx)
            }
            Ok(order) => {
                self.asked.insert(question.snapshot, question);
                cx.job(VolumeJob::Preflight(order));
            }
            Err(reason) => {
                let refusal = ErrorReport::new(reason, cx.now()).about(EntityKind::AppInstance, question.app);
                publish(&question, Some(refusal), Seen::default(), cx);
            }
        }
    }

    fn volumes_asked_about(
        &self,
        question: &Arc<SnapshotPreflightConfig>,
        cx: &Ctx<Self>,
    ) -> Result<PreflightOrder, String> {
        let asked = match question.action {
            SnapshotAction::Rollback => self.asked_for_rollback(question, cx)?,
            SnapshotAction::Delete => self.asked_for_deletion(question, cx),
            _ => question.volumes.iter().map(|key| (*key, Asked::Create)).collect(),
        };
        let mut order =
            PreflightOrder { question: Arc::clone(question), volumes: Vec::new(), refusals: BTreeMap::new() };
        for (key, asked) in asked {
            match made(&key, &Rows(cx)) {
                Ok(record) if is_read_only(&record) => {
                    order.volumes.push((Place::of(&record), Asked::Present));
                }
                Ok(record) => order.volumes.push((Place::of(&record), asked)),
                Err(reason) => drop(order.refusals.insert(key.volume, reason)),
            }
        }
        Ok(order)
    }

    fn asked_for_rollback(
        &self,
        question: &SnapshotPreflightConfig,
        cx: &Ctx<Self>,
    ) -> Result<Vec<(VolumeKey, Asked)>, String> {
        let snapshot = question.snapshot;
        let record = match self.snapshots.get(&snapshot).map(|state| &state.stored) {
            Some(Stored::Whole(record)) if record.app == question.app => record,
            Some(Stored::Whole(record)) => {
                return Err(format!("snapshot {snapshot} belongs to application {}", record.app));
            }
            Some(Stored::Damaged { reason, .. }) => {
                return Err(format!("snapshot {snapshot} is damaged: {reason}"));
            }
            Some(Stored::Nothing) | None => {
                return Err(format!("snapshot {snapshot} is not known to storage"));
            }
        };
        let revert = question.revert.as_ref();
        let volumes = reverted(record, revert, &question.volumes, &Rows(cx))?;
        let mut asked = Vec::new();
        for (volume, meta) in volumes {
            let key = VolumeKey { volume, generation: meta.generation };
            if let Some(row) = Rows(cx).record(&key).filter(|row| !is_read_only(row)) {
                linked(&row, &meta).map_err(|reason| format!("snapshot {snapshot}: {reason}"))?;
            }
            let leaving = self.names_on(volume, &question.leaving);
            let parameters = revert.map(|revert| revert.parameters.clone()).unwrap_or_default();
            asked.push((key, Asked::Rollback { storage_name: meta.storage_name, leaving, parameters }));
        }
        Ok(asked)
    }

    /// The volumes that hold something of the snapshot and are there.
    fn asked_for_deletion(
        &self,
        question: &SnapshotPreflightConfig,
        cx: &Ctx<Self>,
    ) -> Vec<(VolumeKey, Asked)> {
        let Some(Stored::Whole(record)) = self.snapshots.get(&question.snapshot).map(|state| &state.stored)
        else {
            return Vec::new();
        };
        let volumes = resolved(record, &question.volumes, &Rows(cx)).into_iter();
        let asked = volumes.map(|(volume, meta)| {
            let key = VolumeKey { volume, generation: meta.generation };
            (key, Asked::Delete { storage_name: meta.storage_name })
        });
        asked.filter(|(key, _)| made(key, &Rows(cx)).is_ok()).collect()
    }

    /// What these snapshots are named on the volume.
    fn names_on(&self, volume: VolumeId, snapshots: &[SnapshotId]) -> Vec<String> {
        let metas = snapshots.iter().filter_map(|id| match &self.snapshots.get(id)?.stored {
            Stored::Whole(record) => record.meta.get(&volume).map(|meta| meta.storage_name().to_owned()),
            Stored::Damaged { remains, .. } => remains.get(&volume).map(|meta| meta.storage_name.clone()),
            Stored::Nothing => None,
        });
        metas.collect()
    }

    pub(super) fn preflighted(
        &mut self,
        question: Arc<SnapshotPreflightConfig>,
        seen: Seen,
        cx: &mut Ctx<Self>,
    ) {
        self.asked.remove(&question.snapshot);
        if self.inputs.questions.get(&question.snapshot) != Some(&question) {
            return;
        }
        let refusal = refusal(&question, &seen.refusals, cx);
        if let Some(refusal) = &refusal {
            tracing::info!(snapshot = %question.snapshot, refusal = refusal.summary, "pre-flight refused");
        }
        publish(&question, refusal, seen, cx);
    }
}

fn refusal(
    question: &SnapshotPreflightConfig,
    refusals: &BTreeMap<VolumeId, String>,
    cx: &Ctx<Volumemgr>,
) -> Option<ErrorReport> {
    if refusals.is_empty() {
        return None;
    }
    let what = match question.action {
        SnapshotAction::Rollback => "rolled back",
        SnapshotAction::Delete => "freed of a snapshot",
        _ => "snapshotted",
    };
    let reasons: Vec<&str> = refusals.values().map(String::as_str).collect();
    let summary = format!("{} cannot be {what}: {}", count(refusals.len()), reasons.join("; "));
    let report = ErrorReport::new(summary, cx.now())
        .about(EntityKind::AppInstance, question.app)
        .retry("can be asked for again when the cause is removed");
    Some(refusals.keys().fold(report, |report, volume| report.about(EntityKind::Volume, volume)))
}

fn count(volumes: usize) -> String {
    if volumes == 1 { "1 volume".into() } else { format!("{volumes} volumes") }
}

fn publish(
    question: &SnapshotPreflightConfig,
    refusal: Option<ErrorReport>,
    seen: Seen,
    cx: &mut Ctx<Volumemgr>,
) {
    let SnapshotPreflightConfig { snapshot, app, operation, .. } = *question;
    let Seen { blockers, space, cloned, .. } = seen;
    let space = space.into_iter().map(|(volume, (_, space))| (volume, space)).collect();
    cx.publish(SnapshotPreflightStatus { snapshot, app, operation, refusal, blockers, space, cloned });
}
