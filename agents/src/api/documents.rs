//! The JSON documents of the API. Stable: fields are added, never renamed; times are UTC, sizes in bytes.
//!
//! They are read back by the command line, so every one of them is `Deserialize` too.

use std::collections::BTreeMap;

use holdfast_types::{
    AppId, BlockerKind, DeviceId, ErrorReport, Generation, OperationNumber, SnapshotId, Timestamp, VolumeId,
    VolumeKey,
};
use serde::{Deserialize, Serialize};

/// What only the node itself can say; the rest of [`NodeDocument`] comes from the bus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    pub device: DeviceId,
    pub version: String,
    /// `starting`, `ready` or `stopping`.
    pub stage: String,
    /// `normal`, `no-space`, or `read-only` after starts that failed.
    pub mode: String,
    /// Why it is not normal.
    pub mode_reason: Option<String>,
    pub started_at: Timestamp,
    pub process_id: u32,
    pub controller: String,
    pub persist: String,
    pub accelerator: String,
    /// What volumes are stored on, and how it is driven.
    pub storage: String,
    pub agents: Vec<AgentDocument>,
    pub space_free_bytes: Option<u64>,
    pub space_total_bytes: Option<u64>,
    pub resident_memory_bytes: Option<u64>,
    /// Steps made durable since the start.
    pub durable_writes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentDocument {
    pub name: String,
    /// It has been told all that existed when it started.
    pub synced: bool,
    /// It took its last event in time.
    pub answers: bool,
}

/// `/v1/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeDocument {
    #[serde(flatten)]
    pub facts: NodeFacts,
    /// True or false once the controller was tried; null before.
    pub controller_reachable: Option<bool>,
    pub controller_error: Option<ErrorDocument>,
    /// `none`, `saved` or `controller`.
    pub config_source: String,
    pub config_hash: String,
    pub config_received_at: Option<Timestamp>,
    /// What was refused at the border, by the id the controller used.
    pub refused: BTreeMap<String, String>,
    pub reports_pending: u32,
    /// Applications by state.
    pub apps: BTreeMap<String, u64>,
    pub apps_with_errors: u64,
    pub operations_running: u64,
    /// Snapshots by state.
    pub snapshots: BTreeMap<String, u64>,
    pub volumes: u64,
    pub volumes_allocated_bytes: u64,
}

/// One of `/v1/apps`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppDocument {
    pub id: AppId,
    pub name: String,
    /// The version in force.
    pub version: String,
    pub state: String,
    /// True while its guest is wanted running.
    pub activated: bool,
    pub boot_time: Option<Timestamp>,
    pub guest: Option<GuestDocument>,
    pub volumes: Vec<VolumeKeyDocument>,
    pub operation: Option<OperationDocument>,
    pub snapshots_max: u32,
    pub snapshot_active: Option<SnapshotId>,
    pub snapshots: Vec<SnapshotDocument>,
    pub errors: Vec<ErrorDocument>,
    pub guard: GuardDocument,
}

/// What guards an application against a rollback, local settings included.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GuardDocument {
    /// `started`, `stopped`, `disabled`, `ignored`, `not set` or `unreadable ("...")`.
    pub ha_state: String,
    /// True where it was set on the node.
    pub ha_state_is_local: bool,
    /// While it is `ignored`: who had it under control before.
    pub controlled_by_before: Option<String>,
    pub tags: Vec<String>,
    /// Of `tags`, those set on the node.
    pub local_tags: Vec<String>,
    /// The controller's tags that were taken away on the node.
    pub removed_tags: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestDocument {
    pub state: String,
    pub process_id: Option<u32>,
    pub accelerator: String,
    pub console_log: String,
    pub crashes: u32,
    pub error: Option<ErrorDocument>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeKeyDocument {
    pub id: VolumeId,
    pub generation: Generation,
}

impl From<VolumeKey> for VolumeKeyDocument {
    fn from(key: VolumeKey) -> Self {
        VolumeKeyDocument { id: key.volume, generation: key.generation }
    }
}

/// One of `/v1/snapshots`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotDocument {
    pub id: SnapshotId,
    pub app: AppId,
    pub app_name: String,
    /// `app-update`, `immediate` or `unspecified`.
    pub kind: String,
    /// `requested`, `cutting`, `available`, `failed`, `deleting` or `trimmed`.
    pub state: String,
    /// The version of the configuration in it.
    pub version: Option<String>,
    pub created_at: Option<Timestamp>,
    /// Ordered on the node, and not listed by the controller since.
    #[serde(default)]
    pub is_local: bool,
    /// The operation that cut it, once there was one.
    pub operation: Option<OperationNumber>,
    /// What storage holds of it.
    pub volumes: Vec<SnapshotVolumeDocument>,
    pub error: Option<ErrorDocument>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotVolumeDocument {
    pub id: VolumeId,
    /// Null in records that EVE wrote.
    pub generation: Option<Generation>,
    pub handler: Option<String>,
    pub storage_name: String,
    pub size_bytes: Option<u64>,
}

/// One of `/v1/volumes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeDocument {
    pub id: VolumeId,
    pub generation: Generation,
    pub name: String,
    pub state: String,
    pub progress_percent: u8,
    pub format: Option<String>,
    pub read_only: bool,
    /// The guest's size.
    pub size_bytes: u64,
    /// What it takes on storage, snapshots included.
    pub allocated_bytes: u64,
    pub file: String,
    /// 1 for the volume as it was made, one more for each clone that took its place in a rollback; the id stays.
    #[serde(default = "holdfast_types::first_incarnation")]
    pub incarnation: u64,
    /// Names of the applications that use it, ids for those without one.
    pub used_by: Vec<String>,
    pub held_by: Vec<SnapshotId>,
    pub error: Option<ErrorDocument>,
}

/// One of `/v1/operations`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationDocument {
    pub app: AppId,
    pub app_name: String,
    pub number: OperationNumber,
    /// `install`, `update`, `snapshot`, `rollback`, `revert-volume`, `delete-snapshots` or `delete-app`.
    pub kind: String,
    /// Ordered on the node and not by the controller.
    #[serde(default)]
    pub is_local: bool,
    /// `running`, `done` or `failed`.
    pub state: String,
    /// While it runs, what it is at; afterwards, what it was at last.
    pub phase: String,
    pub started_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    pub version_before: Option<String>,
    pub version_after: Option<String>,
    pub snapshots: Vec<SnapshotId>,
    pub rollback_to: Option<SnapshotId>,
    pub volumes: Vec<VolumeKeyDocument>,
    /// Of the volumes being prepared, or being cloned for a rollback; null where nothing can be measured.
    pub progress_percent: Option<u8>,
    pub error: Option<ErrorDocument>,
}

/// What an order would do; the answer of `/v1/apps/{app}/plans`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanDocument {
    pub app: AppId,
    pub app_name: String,
    /// `rollback`, `create-snapshot`, `delete-snapshot` or `revert-volume`.
    pub action: String,
    /// The one it is about; a new one will have this id.
    pub snapshot: SnapshotId,
    /// In words, in order; empty where it would be refused.
    pub steps: Vec<String>,
    /// Everything in a rollback's way, also what can be agreed to.
    pub blockers: Vec<BlockerDocument>,
    pub space: Vec<SpaceDocument>,
    /// In words.
    pub downtime: String,
    /// The last one of its kind; 0 where the guest is not stopped, null where none was measured.
    pub downtime_milliseconds: Option<u64>,
    /// Why it would not be done.
    pub refusal: Option<String>,
    /// What to repeat to agree; null where it would be refused.
    pub digest: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockerDocument {
    pub volume: VolumeId,
    /// `managed`, `unmanaged`, `clone`, `hold` or `unknown`.
    pub kind: BlockerKind,
    pub name: String,
    /// True where carrying the plan out destroys it.
    pub is_destroyed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpaceDocument {
    pub volume: VolumeId,
    /// At most.
    pub needed_bytes: u64,
    pub free_bytes: u64,
}

/// What has become of an order; the answer of `/v1/apps/{app}/orders`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderDocument {
    pub app: AppId,
    pub app_name: String,
    pub action: String,
    pub snapshot: SnapshotId,
    pub digest: String,
    /// The operation that does it; null for a deletion, whose data goes when the guest is down next.
    pub operation: Option<OperationNumber>,
    /// `running`, `done`, `failed`, or `taken-in` for a deletion.
    pub state: String,
    /// It was taken in before, by an order with the same digest.
    pub is_repeated: bool,
    pub error: Option<ErrorDocument>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDocument {
    pub message: String,
    pub time: Timestamp,
    /// `notice`, `warning` or `error`.
    pub severity: String,
    /// When it makes sense to try again; empty when nothing but a person helps.
    pub retry: String,
}

impl From<&ErrorReport> for ErrorDocument {
    fn from(report: &ErrorReport) -> Self {
        let severity = match report.severity {
            holdfast_types::Severity::Notice => "notice",
            holdfast_types::Severity::Warning => "warning",
            holdfast_types::Severity::Error => "error",
        };
        ErrorDocument {
            message: report.summary.clone(),
            time: report.time,
            severity: severity.to_string(),
            retry: report.retry_condition.clone(),
        }
    }
}

/// One line of `/v1/events`. A gap in `sequence` means that this reader was too slow and missed some.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventDocument {
    /// Grows by one from the node's start.
    pub sequence: u64,
    pub time: Timestamp,
    #[serde(flatten)]
    pub transition: Transition,
}

/// A change of something's state, without the time at which it was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    pub kind: EventKind,
    pub app: Option<AppId>,
    /// What it is about, for people: a name where there is one.
    pub subject: String,
    pub from: Option<String>,
    pub to: Option<String>,
    /// What went wrong, or what else is to be known.
    pub detail: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    AppState,
    AppVersion,
    AppError,
    GuestState,
    OperationStarted,
    OperationPhase,
    OperationDone,
    OperationFailed,
    SnapshotState,
    VolumeState,
    Controller,
    Refused,
}

impl EventKind {
    pub fn name(self) -> &'static str {
        match self {
            EventKind::AppState => "app-state",
            EventKind::AppVersion => "app-version",
            EventKind::AppError => "app-error",
            EventKind::GuestState => "guest-state",
            EventKind::OperationStarted => "operation-started",
            EventKind::OperationPhase => "operation-phase",
            EventKind::OperationDone => "operation-done",
            EventKind::OperationFailed => "operation-failed",
            EventKind::SnapshotState => "snapshot-state",
            EventKind::VolumeState => "volume-state",
            EventKind::Controller => "controller",
            EventKind::Refused => "refused",
        }
    }
}

/// The body of every answer that is not 200.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    pub error: String,
}
