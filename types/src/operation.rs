//! Operations: the durable intents of zedmanager (architecture section 5).
//!
//! At most one operation runs per application, and everything zedmanager must remember of an application stands
//! in one row, [`AppInstanceState`], so that every commit point is one atomic write.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::app::AppInstanceConfig;
use crate::blocker::Consent;
use crate::error::{ErrorReport, Timestamp};
use crate::guard::{EffectiveGuard, HaState};
use crate::ids::{AppId, OperationNumber, SnapshotId, VolumeKey};
use crate::plan::{LocalOrigin, LocalOutcome, VolumeRevert};
use crate::snapshot::{SnapshotDesc, SnapshotInstanceStatus};
use crate::topic::{Durability, Topic};

/// What an operation is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum OperationKind {
    /// First installation of the application.
    Install,
    /// A changed configuration that needs the guest down; snapshots waiting for an update are taken ([003] A3).
    Update,
    /// Snapshots of type IMMEDIATE, with no change of configuration.
    Snapshot,
    /// Back to a snapshot.
    Rollback,
    /// One volume back to a snapshot, of an application that is not running ([004] M).
    RevertVolume,
    /// Deletions that are due, while the guest is down anyway ([003] D1).
    DeleteSnapshots,
    /// The application goes, with all it had ([003] D4).
    DeleteApp,
}

/// How far an operation is, in the order of the variants; each says what it waits for.
///
/// ```text
/// PreparingVolumes → CheckingStorage → StoppingGuest → DeletingSnapshots → CuttingSnapshots → RevertingVolumes → (done)
///        └──────────────┴── refused: no downtime          └── failed: undone, the old version starts again ──┘
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Phase {
    /// The next configuration's volumes are created while the guest still runs.
    PreparingVolumes,
    /// The pre-flight of all volumes ([003] B3, C1).
    CheckingStorage,
    /// Until domainmgr confirms that the process is gone.
    StoppingGuest,
    /// Deletions come before creations, so that the maximum holds ([003] B4).
    DeletingSnapshots,
    /// Until volumemgr has cut every volume.
    CuttingSnapshots,
    /// Until volumemgr has reverted every volume.
    RevertingVolumes,
}

/// One running operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Operation {
    pub number: OperationNumber,
    pub kind: OperationKind,
    pub phase: Phase,
    pub started_at: Timestamp,
    /// The configuration in force once the operation is done. None: it stays as it is (or goes, with the app).
    pub next: Option<Arc<AppInstanceConfig>>,
    /// Versions before and after, for people; the bodies are in the row's `applied` and in `next`.
    pub version_before: Option<String>,
    pub version_after: Option<String>,
    /// Snapshots to be cut, with the volumes of the configuration last applied.
    pub snapshots: Vec<SnapshotDesc>,
    /// The snapshot being rolled back to, and the counter that asked for it.
    pub rollback: Option<RollbackTarget>,
    /// Volumes concerned: those cut, or those reverted.
    pub volumes: Vec<VolumeKey>,
    /// What guarded the application when its rollback began. None in rows of older releases, and for other kinds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<GuardRecord>,
    /// When a running guest was told to stop for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_stopped_at: Option<Timestamp>,
    /// The order on the node itself that it carries out ([000] L8). None: the controller's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<LocalOrigin>,
    /// The only volume that the rollback reverts; it changes no configuration then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revert: Option<VolumeRevert>,
}

/// The guard from before a rollback: what it is to be set back to afterwards ([000] L9).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct GuardRecord {
    /// As it was when the rollback began.
    pub effective: EffectiveGuard,
    /// The state that controlled the application last, before it was put under manual control.
    pub controlled_by: Option<HaState>,
}

/// A rollback that was done, as far as somebody may need it afterwards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DoneRollback {
    pub number: OperationNumber,
    pub snapshot: SnapshotId,
    pub guard: GuardRecord,
    /// What it destroyed to get there.
    #[serde(default, skip_serializing_if = "Consent::is_empty")]
    pub consent: Consent,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RollbackTarget {
    pub snapshot: SnapshotId,
    pub counter: u32,
    /// The controller's version that asked; it must not undo the rollback afterwards ([003] C5).
    pub received_version: String,
    /// What the check saw and may be destroyed; None until it has ([000] L7).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consent: Option<Consent>,
}

/// What has become of a snapshot the controller named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SnapshotState {
    /// Waits for its trigger: the next update, or its turn.
    Requested,
    /// Being cut by this operation; not usable before it is `Available`.
    Cutting { operation: OperationNumber },
    /// Whole: all three records are durable.
    Available(SnapshotInstanceStatus),
    /// Could not be cut, or its records are damaged; holds what is known, and its error.
    Failed(SnapshotInstanceStatus),
    /// To be deleted when the guest is down. `asked`: storage was told to, and is never told otherwise again.
    /// With an error it shows up in reports again ([003] D2).
    Deleting { instance: SnapshotInstanceStatus, since: Timestamp, asked: bool, error: Option<ErrorReport> },
    /// Given up because of the maximum; stays gone until the controller drops the id ([003] E2).
    Trimmed,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SnapshotEntry {
    #[serde(flatten)]
    pub desc: SnapshotDesc,
    pub state: SnapshotState,
    /// Order in which requests came, within the application; grows for ever.
    pub sequence: u64,
    /// True once a reason to delete came from the maximum and not from the controller's list: leaves `Trimmed`.
    #[serde(default)]
    pub trimmed: bool,
    /// Made by an order on the node itself: it stays although the controller does not list it. One that the controller
    /// lists is the controller's from then on.
    #[serde(default, skip_serializing_if = "is_false")]
    pub local: bool,
}

fn is_false(flag: &bool) -> bool {
    !*flag
}

/// All that zedmanager remembers of one application. One row, one atomic write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AppInstanceState {
    pub app: AppId,
    /// The configuration last applied ([003] A5). None before the first installation is done.
    pub applied: Option<Arc<AppInstanceConfig>>,
    pub operation: Option<Operation>,
    pub last_operation: OperationNumber,
    /// The rollback counter last acted on; set by the first config ever seen without acting ([003] A4).
    pub rollback_counter: u32,
    pub last_sequence: u64,
    pub snapshots: BTreeMap<SnapshotId, SnapshotEntry>,
    /// After a rollback: the controller's version that must not undo it ([003] C5).
    pub superseded_version: Option<String>,
    /// An update that failed or was refused waits until the controller sends something else ([003] B5).
    pub waiting: Option<WaitingUpdate>,
    /// The last failed operation's error, until the next success of the same kind.
    pub last_failure: Option<FailedOperation>,
    /// The high-availability state that controlled the application last; stays while that is `ignored` ([000] L9).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controlled_by: Option<HaState>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_rollback: Option<DoneRollback>,
    /// When its installation began: an application of the same id that was deleted had another life. None in rows of older releases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installed_at: Option<Timestamp>,
    /// The last order on the node itself that was taken in ([000] L8).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_local: Option<LocalOutcome>,
    /// How long the guest was down for the last operation of a kind, in milliseconds.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub downtimes: BTreeMap<OperationKind, u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct WaitingUpdate {
    /// The configuration as received when the update failed; anything different is a new try.
    pub received: Arc<AppInstanceConfig>,
    pub error: ErrorReport,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct FailedOperation {
    pub number: OperationNumber,
    pub kind: OperationKind,
    pub error: ErrorReport,
}

impl Topic for AppInstanceState {
    const NAME: &'static str = "AppInstanceState";
    const DURABILITY: Durability = Durability::Persistent;
    type Key = AppId;

    fn key(&self) -> AppId {
        self.app
    }
}
