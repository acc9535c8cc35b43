//! volumemgr owns volumes and their snapshots. It is the only caller of volume handlers.
//!
//! ```text
//!   VolumeConfig, ContentTreeConfig, ─┐                       ┌─▶ VolumeStatus, VolumeRefStatus
//!     DatastoreConfig                 │   ┌───────────────┐   ├─▶ VolumesSnapshotStatus
//!   VolumeRefConfig ──────────────────┼──▶│    settle     │───┼─▶ SnapshotPreflightStatus
//!   VolumesSnapshotConfig ────────────┤   └───▲───────┬───┘   ├─▶ VolumeRecord, SnapshotIntent (rows)
//!   SnapshotPreflightConfig ──────────┘       └─ jobs ┘       └─▶ snapshots/<id>/volumesSnapshotStatus.json
//! ```
//!
//! Level-triggered: an event only notes what is new, then everything it concerns is settled: each snapshot and each volume
//! is compared with what is wanted, and the next thing is done. The rows say how far each is; after a restart the same
//! code goes on from them, once the inventory of disk and storage is taken.
//!
//! ```text
//!   first:  concerns.rs
//!   pure:   fate.rs, holds.rs, plan.rs (volumes)   request.rs, steps.rs, answer.rs (snapshots)   retry.rs
//!   agent:  volumes.rs, outcomes.rs, contents.rs   snapshots.rs, ending.rs, incarnations.rs, preflight.rs   report.rs
//!   jobs:   jobs.rs (as data), work.rs (as done)   inventory.rs (at the start)                   download.rs, fetcher.rs
//! ```
//!
//! Deliberately absent: any opinion on when a guest may be stopped or a snapshot taken (zedmanager's), and any
//! memory that is neither in a row, in a record, nor on the bus, but for what a job said last.

mod answer;
mod concerns;
mod contents;
pub mod download;
mod ending;
pub mod fate;
pub mod fetcher;
pub mod holds;
mod incarnations;
pub mod inventory;
pub mod jobs;
mod named;
mod outcomes;
pub mod plan;
mod preflight;
mod report;
pub mod request;
pub mod retry;
mod snapshots;
pub mod steps;
pub mod testing;
#[cfg(test)]
mod tests;
mod volumes;
mod work;

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_persist::PersistLayout;
use holdfast_pubsub::Change;
use holdfast_types::{
    ContentTreeConfig, ContentTreeId, DatastoreConfig, DatastoreId, ErrorReport, OperationNumber, SnapshotId,
    SnapshotIntent, SnapshotPreflightConfig, SnapshotPreflightStatus, VolumeConfig, VolumeId, VolumeKey,
    VolumeRecord, VolumeRefConfig, VolumeRefKey, VolumeRefStatus, VolumeStage, VolumeStatus,
    VolumesSnapshotConfig, VolumesSnapshotStatus,
};
use holdfast_volumehandlers::{Placement, SnapshotMeta, VolumeFacts};

use crate::runtime::{Agent, Ctx, JobContext, Lane, NodeMode, TimerKey, Wiring};

pub use concerns::Concerns;
use contents::ContentState;
use download::Fetched;
use inventory::{Inventory, Stray};
pub use jobs::Env;
use jobs::{StepFailure, VolumeJob};
use named::Named;
use preflight::Seen;
use retry::{Failure, Trouble};
use snapshots::SnapshotState;
use steps::VolumeStep;
use volumes::VolumeState;

/// A disk that does not give a record, or a volume that cannot be asked what is left of a damaged snapshot, is asked again so many
/// times: for 15 s, as nothing is served before.
const UNCERTAIN_LOOKS_AT_MOST: u32 = 4;

/// What volumemgr hears: its topics, the ends of its jobs, its timers.
#[derive(Debug)]
pub enum Event {
    Volume(Change<VolumeConfig>),
    ContentTree(Change<ContentTreeConfig>),
    Datastore(Change<DatastoreConfig>),
    Reference(Change<VolumeRefConfig>),
    Request(Change<VolumesSnapshotConfig>),
    Question(Change<SnapshotPreflightConfig>),
    ModeChanged,
    TryAgain(Again),
    InventoryTaken(Result<Inventory, Failure>),
    FetchProgress {
        content_tree: ContentTreeId,
        progress: download::Progress,
    },
    Fetched {
        content_tree: ContentTreeId,
        result: Result<Fetched, Failure>,
    },
    DownloadRemoved {
        content_tree: ContentTreeId,
        result: Result<(), Failure>,
    },
    Checked {
        key: VolumeKey,
        result: Result<VolumeFacts, Failure>,
    },
    MakeProgress {
        key: VolumeKey,
        percent: u8,
    },
    Made {
        key: VolumeKey,
        result: Result<VolumeFacts, Failure>,
    },
    Destroyed {
        key: VolumeKey,
        result: Result<(), Failure>,
    },
    Stepped {
        snapshot: SnapshotId,
        operation: OperationNumber,
        step: VolumeStep,
        volumes: Vec<VolumeId>,
        /// What was cut, where the step cuts.
        result: Result<BTreeMap<VolumeId, SnapshotMeta>, StepFailure>,
    },
    Preflighted {
        question: Arc<SnapshotPreflightConfig>,
        seen: Seen,
    },
}

/// What is tried again when its delay is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    Inventory,
    Content(ContentTreeId),
    Volume(VolumeKey),
    Step(SnapshotId, VolumeId),
}

/// The last value of every row it reads, and which sets are known to be complete.
#[derive(Debug, Default)]
struct Inputs {
    volumes: BTreeMap<VolumeKey, Arc<VolumeConfig>>,
    content_trees: BTreeMap<ContentTreeId, Arc<ContentTreeConfig>>,
    datastores: BTreeMap<DatastoreId, Arc<DatastoreConfig>>,
    references: BTreeMap<VolumeRefKey, Arc<VolumeRefConfig>>,
    requests: BTreeMap<SnapshotId, Arc<VolumesSnapshotConfig>>,
    /// What is to be deleted now, and the operation that asks. To everything else it is as if the request were un-published.
    deletions: BTreeMap<SnapshotId, OperationNumber>,
    questions: BTreeMap<SnapshotId, Arc<SnapshotPreflightConfig>>,
    volumes_complete: bool,
    contents_complete: bool,
    references_complete: bool,
    requests_complete: bool,
}

/// The agent.
#[derive(Debug)]
pub struct Volumemgr {
    layout: PersistLayout,
    placement: Placement,
    inputs: Inputs,
    /// Nothing is decided before it is taken.
    inventory_taken: bool,
    /// Why it could not be taken yet, and how often.
    standstill: Option<Trouble>,
    uncertain_looks: u32,
    strays: BTreeMap<VolumeKey, Stray>,
    /// Incarnations that could not be removed, by their highest number.
    orphans: BTreeMap<VolumeKey, u64>,
    /// Volumes whose row was lost, and what to say of it as long as this process runs ([003] H3).
    lost_rows: BTreeMap<VolumeKey, ErrorReport>,
    volumes: BTreeMap<VolumeKey, VolumeState>,
    contents: BTreeMap<ContentTreeId, ContentState>,
    snapshots: BTreeMap<SnapshotId, SnapshotState>,
    named: Named,
    /// Questions that storage is being asked.
    asked: BTreeMap<SnapshotId, Arc<SnapshotPreflightConfig>>,
}

impl Volumemgr {
    pub fn new(layout: PersistLayout, placement: Placement) -> Self {
        Volumemgr {
            layout,
            placement,
            inputs: Inputs::default(),
            inventory_taken: false,
            standstill: None,
            uncertain_looks: 0,
            strays: BTreeMap::new(),
            orphans: BTreeMap::new(),
            lost_rows: BTreeMap::new(),
            volumes: BTreeMap::new(),
            contents: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            named: Named::default(),
            asked: BTreeMap::new(),
        }
    }
}

impl Agent for Volumemgr {
    const NAME: &'static str = "volumemgr";
    type Event = Event;
    type Job = VolumeJob;
    type Env = Env;

    fn wire(wiring: &mut Wiring<Self>) {
        wiring.reads::<VolumeConfig>(Event::Volume);
        wiring.reads::<ContentTreeConfig>(Event::ContentTree);
        wiring.reads::<DatastoreConfig>(Event::Datastore);
        wiring.reads::<VolumeRefConfig>(Event::Reference);
        wiring.reads::<VolumesSnapshotConfig>(Event::Request);
        wiring.reads::<SnapshotPreflightConfig>(Event::Question);
        wiring.owns::<VolumeStatus>();
        wiring.owns::<VolumeRefStatus>();
        wiring.owns::<VolumesSnapshotStatus>();
        wiring.owns::<SnapshotPreflightStatus>();
        wiring.owns::<VolumeRecord>();
        wiring.owns::<SnapshotIntent>();
    }

    fn start(&mut self, cx: &mut Ctx<Self>) {
        self.lost_rows = inventory::lost_rows(cx.damaged_rows(), cx.now());
        for row in cx.rows::<VolumeRecord>() {
            let remains = row.stage == VolumeStage::Creating;
            self.volumes.insert(row.config.key, VolumeState::from_before(remains));
        }
        for row in cx.rows::<SnapshotIntent>() {
            self.snapshots.insert(row.snapshot, SnapshotState::from_before());
        }
        self.take_inventory(cx);
    }

    fn lane(event: &Event) -> Lane {
        match event {
            Event::Checked { key, .. }
            | Event::MakeProgress { key, .. }
            | Event::Made { key, .. }
            | Event::Destroyed { key, .. } => Lane::object(key),
            Event::Stepped { snapshot, .. } => Lane::object(snapshot),
            _ => Lane::Agent,
        }
    }

    fn handle(&mut self, event: Event, cx: &mut Ctx<Self>) {
        let is_start = matches!(event, Event::InventoryTaken(Ok(_)));
        // What waits for a volume that is taken in again hears of it from nobody else.
        let mut concerns = if self.strays.is_empty() { Concerns::of(&event) } else { Concerns::All };
        self.note(event, cx);
        if !self.inventory_taken {
            return self.publish_standstill(&concerns, cx);
        }
        self.follow(&mut concerns, cx);
        self.settle(&concerns, cx);
        #[cfg(debug_assertions)]
        self.assert_settled(&concerns, cx);
        if is_start {
            cx.signal_restarted::<VolumeStatus>();
            cx.signal_restarted::<VolumeRefStatus>();
            cx.signal_restarted::<VolumesSnapshotStatus>();
        }
    }

    fn run_job(job: VolumeJob, env: &Env, cx: &JobContext<Event>) -> Event {
        work::run(job, env, cx)
    }

    fn mode_changed(_mode: &NodeMode) -> Option<Event> {
        Some(Event::ModeChanged)
    }
}

impl Volumemgr {
    /// Snapshots before volumes: what a finished intent holds no longer may go in the same step.
    fn settle(&mut self, concerns: &Concerns, cx: &mut Ctx<Self>) {
        self.settle_snapshots(concerns, cx);
        let holds = self.holds(concerns, cx);
        self.settle_volumes(&holds, cx);
        self.settle_contents(cx);
        self.settle_questions(cx);
        self.publish_statuses(&holds, cx);
    }

    /// Remembers what the event says; decides nothing.
    fn note(&mut self, event: Event, cx: &mut Ctx<Self>) {
        let inputs = &mut self.inputs;
        match event {
            Event::Volume(change) => {
                inputs.volumes_complete |= matches!(change, Change::Restarted(_));
                if let Some(config) = change.keep_in(&mut inputs.volumes) {
                    self.forgive_volume(&config.key, cx);
                }
            }
            Event::ContentTree(change) => {
                inputs.contents_complete |= matches!(change, Change::Restarted(_));
                if change.keep_in(&mut inputs.content_trees).is_some() {
                    self.forgive_contents(cx);
                }
            }
            Event::Datastore(change) => {
                if change.keep_in(&mut inputs.datastores).is_some() {
                    self.forgive_contents(cx);
                }
            }
            Event::Reference(change) => {
                inputs.references_complete |= matches!(change, Change::Restarted(_));
                change.keep_in(&mut inputs.references);
            }
            Event::Request(change) => {
                inputs.requests_complete |= matches!(change, Change::Restarted(_));
                self.hear_request(change, cx);
            }
            Event::Question(change) => drop(change.keep_in(&mut inputs.questions)),
            Event::ModeChanged => {}
            Event::TryAgain(again) => self.try_again(again, cx),
            Event::InventoryTaken(result) => self.inventory_taken(result, cx),
            Event::FetchProgress { content_tree, progress } => self.fetch_progressed(content_tree, progress),
            Event::Fetched { content_tree, result } => self.fetched(content_tree, result, cx),
            Event::DownloadRemoved { content_tree, result } => self.download_removed(content_tree, result),
            Event::Checked { key, result } => self.checked(key, result, cx),
            Event::MakeProgress { key, percent } => self.make_progressed(key, percent),
            Event::Made { key, result } => self.made(key, result, cx),
            Event::Destroyed { key, result } => self.destroyed(key, result, cx),
            Event::Stepped { snapshot, operation, step, volumes, result } => {
                self.stepped((snapshot, operation), step, &volumes, result, cx);
            }
            Event::Preflighted { question, seen } => self.preflighted(question, seen, cx),
        }
    }

    fn try_again(&mut self, again: Again, cx: &mut Ctx<Self>) {
        match again {
            Again::Inventory => self.take_inventory(cx),
            Again::Content(tree) => self.content_due(tree),
            Again::Volume(key) => self.volume_due(key),
            Again::Step(snapshot, volume) => self.step_due(snapshot, volume, cx),
        }
    }

    fn take_inventory(&mut self, cx: &mut Ctx<Self>) {
        let records = cx.rows::<VolumeRecord>().iter().map(|row| (**row).clone()).collect();
        let intents = cx.rows::<SnapshotIntent>().iter().map(|row| (**row).clone()).collect();
        cx.job(VolumeJob::TakeInventory { records, intents });
    }

    fn inventory_taken(&mut self, result: Result<Inventory, Failure>, cx: &mut Ctx<Self>) {
        match result {
            Ok(Inventory { is_uncertain: true, .. }) if self.uncertain_looks < UNCERTAIN_LOOKS_AT_MOST => {
                // A whole snapshot would be called damaged; and what is left of a damaged one would stay in a volume for ever, once
                // its deletion is confirmed.
                self.uncertain_looks += 1;
                self.stand_still(
                    &Failure::passing("records of snapshots, or volumes, cannot be read yet"),
                    cx,
                );
                again_after(cx, Again::Inventory, self.uncertain_looks);
            }
            Ok(Inventory { snapshots, strays, orphans, downloads, .. }) => {
                self.inventory_taken = true;
                self.standstill = None;
                (self.strays, self.orphans) = (strays, orphans);
                self.contents.extend(downloads.into_iter().map(|tree| (tree, ContentState::Leftover)));
                self.snapshots_found(snapshots, cx);
            }
            Err(failure) => {
                tracing::error!(error = failure.summary, "volumemgr cannot look at what is stored");
                let tries = self.stand_still(&failure, cx);
                again_after(cx, Again::Inventory, tries);
            }
        }
    }

    /// One cause keeps its time. Returns how often it has stood still.
    fn stand_still(&mut self, failure: &Failure, cx: &Ctx<Self>) -> u32 {
        let summary = format!("nothing is made, changed or removed: {}", failure.summary);
        let trouble =
            Trouble::again(self.standstill.take(), &Failure { summary, ..failure.clone() }, cx.now());
        self.standstill.insert(trouble).tries
    }

    /// Everyone who could want a volume or a snapshot has said so: only now may anything go.
    fn everybody_has_spoken(&self) -> bool {
        let inputs = &self.inputs;
        self.inventory_taken
            && inputs.volumes_complete
            && inputs.references_complete
            && inputs.requests_complete
    }
}

/// Nothing is made, changed or removed on a node that came up read-only.
fn may_change(cx: &Ctx<Volumemgr>) -> bool {
    !matches!(cx.mode(), NodeMode::ReadOnly { .. })
}

fn again_after(cx: &mut Ctx<Volumemgr>, again: Again, tries: u32) {
    cx.timer(timer_key(&again), retry::delay(tries), Event::TryAgain(again));
}

fn no_more_tries(cx: &mut Ctx<Volumemgr>, again: Again) {
    cx.cancel_timer(&timer_key(&again));
}

fn timer_key(again: &Again) -> TimerKey {
    match again {
        Again::Inventory => TimerKey::new("inventory"),
        Again::Content(tree) => TimerKey::new(format_args!("content {tree}")),
        Again::Volume(key) => TimerKey::new(format_args!("volume {key}")),
        Again::Step(snapshot, volume) => TimerKey::new(format_args!("step {snapshot} {volume}")),
    }
}
