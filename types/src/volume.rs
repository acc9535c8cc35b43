//! Volumes, what they are made from, and who uses them.

use serde::{Deserialize, Serialize};

use crate::app::SwState;
use crate::blocker::Consent;
use crate::error::{ErrorReport, Severity, Timestamp};
use crate::ids::{
    AppId, ContentTreeId, DatastoreId, OperationNumber, SnapshotId, VolumeId, VolumeKey, VolumeRefKey,
};
use crate::snapshot::{RecordedMeta, SnapshotAction};
use crate::topic::{Durability, Topic};
use std::collections::BTreeMap;

/// Format of an image, with the wire's numbers for content and the file extension on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Raw,
    Qcow2,
    Vmdk,
    Vhdx,
    Container,
    Iso,
}

impl Format {
    pub fn from_wire(number: i32) -> Option<Self> {
        match number {
            1 => Some(Format::Raw),
            3 => Some(Format::Qcow2),
            5 => Some(Format::Vmdk),
            7 => Some(Format::Vhdx),
            8 => Some(Format::Container),
            9 => Some(Format::Iso),
            _ => None,
        }
    }

    /// qemu's name of the format, which is also the extension of a volume's file.
    pub fn name(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
            Format::Vmdk => "vmdk",
            Format::Vhdx => "vhdx",
            Format::Container => "container",
            Format::Iso => "iso",
        }
    }
}

/// Where a volume's first content comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeOrigin {
    Blank,
    Download { content_tree: ContentTreeId },
}

/// A volume the controller wants; the key is id and generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct VolumeConfig {
    #[serde(flatten)]
    pub key: VolumeKey,
    pub origin: VolumeOrigin,
    /// Size for the guest in bytes; 0 for a downloaded volume means the image's own size.
    pub max_size_bytes: u64,
    pub read_only: bool,
    /// False: under `vault/`, true: under `clear/`.
    pub clear_text: bool,
    pub display_name: String,
}

impl Topic for VolumeConfig {
    const NAME: &'static str = "VolumeConfig";
    const DURABILITY: Durability = Durability::Volatile;
    type Key = VolumeKey;

    fn key(&self) -> VolumeKey {
        self.key
    }
}

/// Content that volumes are created from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContentTreeConfig {
    pub content_tree: ContentTreeId,
    /// Tried in this order.
    pub datastores: Vec<DatastoreId>,
    pub relative_url: String,
    pub format: Format,
    /// 64 lower-case hex digits, or empty when the controller gave none.
    pub sha256: String,
    /// The most that is fetched, in bytes; 0 means no limit was given.
    pub max_download_size_bytes: u64,
    pub display_name: String,
}

impl Topic for ContentTreeConfig {
    const NAME: &'static str = "ContentTreeConfig";
    const DURABILITY: Durability = Durability::Volatile;
    type Key = ContentTreeId;

    fn key(&self) -> ContentTreeId {
        self.content_tree
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DatastoreKind {
    Http,
    Https,
    /// Any kind this node cannot fetch from, with the wire's number.
    Unsupported(i32),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DatastoreConfig {
    pub datastore: DatastoreId,
    pub kind: DatastoreKind,
    /// Host, with port and optionally scheme.
    pub fqdn: String,
    pub path: String,
}

impl Topic for DatastoreConfig {
    const NAME: &'static str = "DatastoreConfig";
    const DURABILITY: Durability = Durability::Volatile;
    type Key = DatastoreId;

    fn key(&self) -> DatastoreId {
        self.datastore
    }
}

/// A volume as it is. Published for every volume configured, referred to, or held by a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct VolumeStatus {
    #[serde(flatten)]
    pub key: VolumeKey,
    pub display_name: String,
    pub state: SwState,
    /// Per cent of the step under way.
    pub progress: u8,
    pub format: Option<Format>,
    pub read_only: bool,
    /// The guest's size, in bytes.
    pub size_bytes: u64,
    /// What it takes on storage, snapshots in it included ([003] B9, F3), in bytes.
    pub allocated_bytes: u64,
    pub file_location: String,
    /// See [`VolumeRecord::incarnation`].
    #[serde(default = "first_incarnation", skip_serializing_if = "is_first_incarnation")]
    pub incarnation: u64,
    /// Applications that use it, and snapshots that hold it.
    pub used_by: Vec<AppId>,
    pub held_by: Vec<SnapshotId>,
    pub error: Option<ErrorReport>,
}

impl Topic for VolumeStatus {
    const NAME: &'static str = "VolumeStatus";
    const DURABILITY: Durability = Durability::Volatile;
    type Key = VolumeKey;

    fn key(&self) -> VolumeKey {
        self.key
    }
}

/// zedmanager's reference on a volume for one application: as long as it stands, the volume is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct VolumeRefConfig {
    #[serde(flatten)]
    pub key: VolumeRefKey,
}

impl Topic for VolumeRefConfig {
    const NAME: &'static str = "VolumeRefConfig";
    const DURABILITY: Durability = Durability::Volatile;
    type Key = VolumeRefKey;

    fn key(&self) -> VolumeRefKey {
        self.key
    }
}

/// volumemgr's answer to a reference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct VolumeRefStatus {
    #[serde(flatten)]
    pub key: VolumeRefKey,
    /// `CreatedVolume` when it can be given to a guest.
    pub state: SwState,
    pub progress: u8,
    pub file_location: String,
    pub format: Option<Format>,
    pub read_only: bool,
    pub error: Option<ErrorReport>,
}

impl VolumeRefStatus {
    /// Why it cannot be given to a guest. A warning is no reason.
    pub fn hindrance(&self) -> Option<&ErrorReport> {
        self.error.as_ref().filter(|error| error.severity == Severity::Error)
    }
}

impl Topic for VolumeRefStatus {
    const NAME: &'static str = "VolumeRefStatus";
    const DURABILITY: Durability = Durability::Volatile;
    type Key = VolumeRefKey;

    fn key(&self) -> VolumeRefKey {
        self.key
    }
}

/// volumemgr's own row for a volume it made or is making: what it needs without the controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct VolumeRecord {
    /// As configured when it was made.
    pub config: VolumeConfig,
    pub handler: String,
    pub format: Format,
    pub file_location: String,
    pub stage: VolumeStage,
    pub size_bytes: u64,
    /// The digest of the content it was made from, if any.
    pub sha256: String,
    /// 1 for the volume as it was made, one more for each clone that took its place ([004] M2). Ids and generations are the
    /// controller's and stay; what a revert by cloning makes afresh is this, and the location with it.
    #[serde(default = "first_incarnation", skip_serializing_if = "is_first_incarnation")]
    pub incarnation: u64,
}

/// What a volume is as long as no clone has taken its place.
pub fn first_incarnation() -> u64 {
    1
}

fn is_first_incarnation(incarnation: &u64) -> bool {
    *incarnation == first_incarnation()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeStage {
    /// Remains of a try may lie about; made afresh after a crash.
    Creating,
    Created,
    /// Decided to go; gone for sure only when the row is gone.
    Destroying,
}

impl Topic for VolumeRecord {
    const NAME: &'static str = "VolumeRecord";
    const DURABILITY: Durability = Durability::Persistent;
    type Key = VolumeKey;

    fn key(&self) -> VolumeKey {
        self.config.key
    }
}

/// volumemgr's intent: durable before the first mutation, gone after the last (architecture section 5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SnapshotIntent {
    pub snapshot: SnapshotId,
    pub app: AppId,
    pub operation: OperationNumber,
    pub action: SnapshotAction,
    pub stage: IntentStage,
    pub started_at: Timestamp,
    /// Per volume, the storage names chosen once, so that a redo finds what the first try made.
    pub volumes: BTreeMap<VolumeId, RecordedMeta>,
    /// For a rollback: the safety snapshot's name on each volume that is reverted in place.
    pub safety_names: BTreeMap<VolumeId, String>,
    /// Why it is being undone, once it is.
    pub failure: Option<ErrorReport>,
    /// For a rollback: what it may destroy. Kept here, so that a redo destroys nothing that came later ([000] L7).
    #[serde(default, skip_serializing_if = "Consent::is_empty")]
    pub consent: Consent,
    /// For a rollback: the volumes that cannot be reverted in place, and what takes their places ([004] M2). Chosen once, so
    /// that a redo finds what the first try made.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub clones: BTreeMap<VolumeId, Replacement>,
    /// For a rollback: an operator's wishes to the handlers ([004] M5).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, String>,
}

/// A volume's next incarnation: a clone of the snapshot, in force once the intent has come to `Repointing`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Replacement {
    pub incarnation: u64,
    /// Where the one in force lies when the intent begins.
    pub old_location: String,
    pub fresh_location: String,
}

/// How far an intent is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum IntentStage {
    /// Create: snapshots are being made. Rollback: safety snapshots are being made, and clones of the snapshot for volumes
    /// that cannot be reverted in place.
    Preparing,
    /// Rollback: volumes are being reverted; every volume that is reverted by itself has its safety snapshot.
    Applying,
    /// Rollback: the volumes that can only be reverted together are, in one step of storage, after all others were.
    Committing,
    /// Rollback: the clones are in force, by this very row; snapshots and records are being pointed at them.
    Repointing,
    /// What was made or reverted is being put back.
    Undoing,
    /// Rollback: done, only what is left over is to go: safety snapshots, and of each clone and what it replaced the one that is
    /// not in force. Delete: under way.
    CleaningUp,
    /// Rollback: all is done, and the answer, which is the intent's failure or success, may not have been heard yet.
    Answered,
}

impl Topic for SnapshotIntent {
    const NAME: &'static str = "SnapshotIntent";
    const DURABILITY: Durability = Durability::Persistent;
    type Key = SnapshotId;

    fn key(&self) -> SnapshotId {
        self.snapshot
    }
}
