//! Applications: what the controller wants (`AppInstanceConfig`) and what is (`AppInstanceStatus`).
//!
//! `AppInstanceConfig` is also the record `appInstanceConfig.json` of a snapshot, so its JSON uses EVE's names.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{ErrorReport, Timestamp};
use crate::guard::{AppGuard, EffectiveGuard};
use crate::ids::{AppId, Generation, SnapshotId, VolumeId, VolumeKey};
use crate::operation::Operation;
use crate::shape::{Field, Record, Shape};
use crate::snapshot::{SnapshotDesc, SnapshotInstanceStatus};
use crate::topic::{Durability, Topic};

/// An application's id with the version of its configuration, which the controller chooses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UuidAndVersion {
    #[serde(rename = "UUID")]
    pub id: AppId,
    #[serde(rename = "Version", default)]
    pub version: String,
}

/// A counter that orders something to be done once each time it grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct OpsCommand {
    #[serde(rename = "Counter", default)]
    pub counter: u32,
}

/// How the guest's processor is virtualised, with EVE's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "i32", into = "i32")]
pub enum VirtualizationMode {
    #[default]
    Pv,
    Hvm,
    /// One this node makes no difference for.
    Other(i32),
}

impl From<i32> for VirtualizationMode {
    fn from(number: i32) -> Self {
        match number {
            0 => VirtualizationMode::Pv,
            1 => VirtualizationMode::Hvm,
            other => VirtualizationMode::Other(other),
        }
    }
}

impl From<VirtualizationMode> for i32 {
    fn from(mode: VirtualizationMode) -> i32 {
        match mode {
            VirtualizationMode::Pv => 0,
            VirtualizationMode::Hvm => 1,
            VirtualizationMode::Other(other) => other,
        }
    }
}

/// The virtual machine's resources.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct VmConfig {
    /// Path of a kernel on the node for a direct kernel boot; empty for a boot from the first disk.
    pub kernel: String,
    /// Path of an initial RAM disk; only with a kernel.
    pub ramdisk: String,
    /// Memory in KiB.
    #[serde(rename = "Memory")]
    pub memory_kib: u32,
    #[serde(rename = "VCpus")]
    pub vcpus: u32,
    /// The kernel command line.
    pub extra_args: String,
    pub virtualization_mode: VirtualizationMode,
    pub disable_logs: bool,
}

/// One volume an application uses. The order in the list is the order of the guest's disks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppVolumeRef {
    #[serde(rename = "VolumeID")]
    pub volume: VolumeId,
    #[serde(rename = "GenerationCounter", default = "generation_zero")]
    pub generation: Generation,
    #[serde(rename = "MountDir", default)]
    pub mount_dir: String,
}

fn generation_zero() -> Generation {
    Generation(0)
}

impl AppVolumeRef {
    pub fn key(&self) -> VolumeKey {
        VolumeKey { volume: self.volume, generation: self.generation }
    }
}

/// The controller's wishes about an application's snapshots ([003] A1). The list is declarative.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SnapshotConfig {
    #[serde(rename = "ActiveSnapshot", default, with = "empty_is_none")]
    pub active: Option<SnapshotId>,
    #[serde(rename = "MaxSnapshots", default)]
    pub max_snapshots: u32,
    #[serde(rename = "RollbackCmd", default)]
    pub rollback: OpsCommand,
    #[serde(rename = "Snapshots", default, deserialize_with = "null_is_default")]
    pub snapshots: Vec<SnapshotDesc>,
}

impl SnapshotConfig {
    /// Whether the controller lists it.
    pub fn names(&self, snapshot: SnapshotId) -> bool {
        self.snapshots.iter().any(|desc| desc.id == snapshot)
    }
}

/// cloud-init user data, possibly with secrets: stored in files of mode 0600 only, and never logged. Its `Debug`
/// form, and so that of everything it is in, says only how long it is.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UserData(pub String);

impl fmt::Debug for UserData {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "<{} bytes of user data>", self.0.len())
    }
}

impl From<&str> for UserData {
    fn from(text: &str) -> Self {
        UserData(text.to_owned())
    }
}

/// An application as the controller wants it; the key is the application's id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppInstanceConfig {
    #[serde(rename = "UUIDandVersion")]
    pub id_and_version: UuidAndVersion,
    #[serde(rename = "DisplayName", default)]
    pub display_name: String,
    #[serde(rename = "FixedResources", default)]
    pub resources: VmConfig,
    #[serde(rename = "Activate", default)]
    pub activate: bool,
    #[serde(rename = "VolumeRefConfigList", default, deserialize_with = "null_is_default")]
    pub volumes: Vec<AppVolumeRef>,
    /// Adapters the guest is given, by name; a change of them is an update ([003] A3).
    #[serde(rename = "IoAdapterList", default, deserialize_with = "null_is_default")]
    pub adapters: Vec<IoAdapter>,
    #[serde(rename = "RestartCmd", default)]
    pub restart: OpsCommand,
    #[serde(rename = "PurgeCmd", default)]
    pub purge: OpsCommand,
    #[serde(rename = "pubsub-large-CloudInitUserData", default)]
    pub user_data: Option<UserData>,
    #[serde(rename = "CloudInitVersion", default)]
    pub cloud_init_version: u32,
    /// Seconds to wait before the guest's first start after a boot of the node.
    #[serde(rename = "StartDelaySeconds", default)]
    pub start_delay_seconds: u32,
    #[serde(rename = "Snapshot", default)]
    pub snapshot: SnapshotConfig,
    /// Holdfast's own: what guards it against a rollback ([000] L1, L6). What a snapshot holds of it is never obeyed.
    #[serde(rename = "HoldfastGuard", default, skip_serializing_if = "AppGuard::is_default")]
    pub guard: AppGuard,
}

/// A port or device handed to the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoAdapter {
    #[serde(rename = "Type", default)]
    pub kind: i32,
    #[serde(rename = "Name", default)]
    pub name: String,
}

impl AppInstanceConfig {
    pub fn app(&self) -> AppId {
        self.id_and_version.id
    }

    pub fn version(&self) -> &str {
        &self.id_and_version.version
    }

    pub fn volume_keys(&self) -> Vec<VolumeKey> {
        self.volumes.iter().map(AppVolumeRef::key).collect()
    }
}

impl Topic for AppInstanceConfig {
    const NAME: &'static str = "AppInstanceConfig";
    const DURABILITY: Durability = Durability::Volatile;
    type Key = AppId;

    fn key(&self) -> AppId {
        self.app()
    }
}

/// What a rollback needs of a stored configuration: who it is of, and its volumes ([003] H1).
impl Record for AppInstanceConfig {
    const NAME: &'static str = "AppInstanceConfig";
    const SHAPE: Shape = Shape::Struct(&[
        Field::mandatory("UUIDandVersion").of(&UUID_AND_VERSION),
        Field::mandatory("FixedResources"),
        Field::optional("VolumeRefConfigList")
            .of(&Shape::List(&Shape::Struct(&[Field::mandatory("VolumeID")]))),
    ]);
}

pub(crate) const UUID_AND_VERSION: Shape =
    Shape::Struct(&[Field::mandatory("UUID"), Field::mandatory("Version")]);

/// The state of an application or a volume, with EVE's names and wire numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SwState {
    Initial = 1,
    DownloadStarted = 2,
    Downloaded = 3,
    Delivered = 4,
    Installed = 5,
    Booting = 6,
    Running = 7,
    Halting = 8,
    Halted = 9,
    Restarting = 10,
    Purging = 11,
    CreatingVolume = 14,
    CreatedVolume = 15,
    Verifying = 16,
    Verified = 17,
    Loading = 18,
    Loaded = 19,
    Error = 21,
    StartDelayed = 22,
}

impl SwState {
    pub fn number(self) -> i32 {
        self as i32
    }

    /// The name people know, as on the wire without its prefix.
    pub fn name(self) -> &'static str {
        match self {
            SwState::Initial => "INITIAL",
            SwState::DownloadStarted => "DOWNLOAD_STARTED",
            SwState::Downloaded => "DOWNLOADED",
            SwState::Delivered => "DELIVERED",
            SwState::Installed => "INSTALLED",
            SwState::Booting => "BOOTING",
            SwState::Running => "RUNNING",
            SwState::Halting => "HALTING",
            SwState::Halted => "HALTED",
            SwState::Restarting => "RESTARTING",
            SwState::Purging => "PURGING",
            SwState::CreatingVolume => "CREATING_VOLUME",
            SwState::CreatedVolume => "CREATED_VOLUME",
            SwState::Verifying => "VERIFYING",
            SwState::Verified => "VERIFIED",
            SwState::Loading => "LOADING",
            SwState::Loaded => "LOADED",
            SwState::Error => "ERROR",
            SwState::StartDelayed => "START_DELAYED",
        }
    }
}

/// A snapshot that is reported to the controller ([003] A6): an available one, or one that failed.
pub type ReportedSnapshot = SnapshotInstanceStatus;

/// The snapshots of one application, as zedmanager sees them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SnapshottingStatus {
    pub max_snapshots: u32,
    /// Wanted, and not yet cut.
    pub requested_snapshots: Vec<SnapshotDesc>,
    /// Whole and usable.
    pub available_snapshots: Vec<SnapshotInstanceStatus>,
    /// Not usable, or not to be got rid of; reported with their error.
    pub failed_snapshots: Vec<SnapshotInstanceStatus>,
    /// Dropped by the controller or by the maximum; their data goes when the guest is down ([003] D1).
    pub snapshots_to_be_deleted: Vec<SnapshotDesc>,
    /// Given up because of the maximum and remembered until the controller drops them ([003] E2).
    pub trimmed_snapshots: Vec<SnapshotId>,
    pub active_snapshot: Option<SnapshotId>,
    pub rollback_in_progress: bool,
}

/// An application as it is; the key is the application's id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppInstanceStatus {
    /// The version in force: after a rollback the snapshot's, once the volumes are back ([003] A6).
    #[serde(rename = "UUIDandVersion")]
    pub id_and_version: UuidAndVersion,
    #[serde(rename = "DisplayName")]
    pub display_name: String,
    #[serde(rename = "State")]
    pub state: SwState,
    /// True while the guest is wanted running.
    #[serde(rename = "Activated")]
    pub activate: bool,
    #[serde(rename = "VolumeRefList")]
    pub volumes: Vec<VolumeKey>,
    #[serde(rename = "BootTime")]
    pub boot_time: Option<Timestamp>,
    #[serde(rename = "Errors")]
    pub errors: Vec<ErrorReport>,
    #[serde(rename = "Operation")]
    pub operation: Option<Operation>,
    #[serde(rename = "SnapStatus")]
    pub snapshots: SnapshottingStatus,
    /// The guard in effect, local settings included.
    #[serde(rename = "HoldfastGuard", default)]
    pub guard: EffectiveGuard,
    /// The last local order that was taken in, since the start of the process: its effect is durable.
    #[serde(rename = "LocalOrder", default)]
    pub local_order: u64,
}

impl Topic for AppInstanceStatus {
    const NAME: &'static str = "AppInstanceStatus";
    const DURABILITY: Durability = Durability::Volatile;
    type Key = AppId;

    fn key(&self) -> AppId {
        self.id_and_version.id
    }
}

/// EVE keeps "no snapshot" as an empty string.
pub(crate) mod empty_is_none {
    use serde::{Deserialize, Deserializer, Serializer};
    use std::fmt::Display;
    use std::str::FromStr;

    pub fn serialize<T: Display, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.collect_str(value),
            None => serializer.serialize_str(""),
        }
    }

    pub fn deserialize<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
    where
        T: FromStr,
        T::Err: Display,
        D: Deserializer<'de>,
    {
        let text = Option::<String>::deserialize(deserializer)?.unwrap_or_default();
        if text.is_empty() {
            return Ok(None);
        }
        text.parse().map(Some).map_err(serde::de::Error::custom)
    }
}

/// Go writes an empty slice or map as null.
pub(crate) fn null_is_default<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Default + Deserialize<'de>,
    D: serde::Deserializer<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_data_is_a_plain_string_in_json_and_no_debug_form_shows_it() {
        let data = UserData::from("password: hunter2");
        assert_eq!(serde_json::to_string(&data).unwrap(), "\"password: hunter2\"");
        assert_eq!(serde_json::from_str::<UserData>("\"password: hunter2\"").unwrap(), data);
        assert_eq!(format!("{:?}", Some(data)), "Some(<17 bytes of user data>)");
    }
}
