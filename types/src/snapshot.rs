//! Snapshots: the exchange between zedmanager and volumemgr, and the two records a snapshot consists of beside
//! its application's configuration ([003] "Snapshot Data Structures").

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::app::{UUID_AND_VERSION, UuidAndVersion, null_is_default};
use crate::blocker::Consent;
use crate::error::{ErrorReport, Timestamp, optional_error, zero_is_none};
use crate::ids::{AppId, Generation, OperationNumber, SnapshotId, VolumeId, VolumeKey};
use crate::judgement::Blockers;
use crate::plan::{Space, VolumeRevert};
use crate::shape::{Field, Record, Shape};
use crate::topic::{Durability, Topic};

/// What makes a snapshot be taken ([003] A2), with EVE's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "i32", into = "i32")]
pub enum SnapshotType {
    /// Never taken.
    Unspecified,
    /// At the application's next update, before the new version starts.
    AppUpdate,
    /// Now; a running guest is stopped and started again.
    Immediate,
}

impl From<SnapshotType> for i32 {
    fn from(kind: SnapshotType) -> i32 {
        match kind {
            SnapshotType::Unspecified => 0,
            SnapshotType::AppUpdate => 1,
            SnapshotType::Immediate => 2,
        }
    }
}

impl TryFrom<i32> for SnapshotType {
    type Error = String;

    fn try_from(number: i32) -> Result<Self, String> {
        match number {
            0 => Ok(SnapshotType::Unspecified),
            1 => Ok(SnapshotType::AppUpdate),
            2 => Ok(SnapshotType::Immediate),
            other => Err(format!("unknown snapshot type {other}")),
        }
    }
}

/// A snapshot's id and type: all that is known of one that was only asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotDesc {
    #[serde(rename = "SnapshotID")]
    pub id: SnapshotId,
    #[serde(rename = "SnapshotType")]
    pub kind: SnapshotType,
}

/// The record `snapshotInstanceStatus.json`: a snapshot as the controller will hear of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotInstanceStatus {
    #[serde(rename = "Snapshot")]
    pub snapshot: SnapshotDesc,
    #[serde(rename = "Reported", default)]
    pub reported: bool,
    /// When its update or its order came.
    #[serde(rename = "TimeTriggered", default, deserialize_with = "zero_is_none")]
    pub time_triggered: Option<Timestamp>,
    /// When it was cut, UTC ([003] B8).
    #[serde(rename = "TimeCreated", default, deserialize_with = "zero_is_none")]
    pub time_created: Option<Timestamp>,
    #[serde(rename = "AppInstanceID")]
    pub app: AppId,
    /// The version of the configuration it holds.
    #[serde(rename = "ConfigVersion")]
    pub config_version: UuidAndVersion,
    /// The last failure about it; cleared by the next success of the same operation ([003] A6).
    #[serde(rename = "Error", default, with = "optional_error")]
    pub error: Option<ErrorReport>,
    /// The operation that cut it; orders snapshots whatever the clock did. Zero in records that EVE wrote.
    #[serde(rename = "OperationNumber", default)]
    pub operation: OperationNumber,
    /// Made by an order on the node itself: the controller never listed it when it was cut.
    #[serde(rename = "HoldfastLocal", default, skip_serializing_if = "is_false")]
    pub local: bool,
}

fn is_false(flag: &bool) -> bool {
    !*flag
}

impl Record for SnapshotInstanceStatus {
    const NAME: &'static str = "SnapshotInstanceStatus";
    const SHAPE: Shape = Shape::Struct(&[
        Field::mandatory("Snapshot").of(&SNAPSHOT_DESC),
        Field::mandatory("AppInstanceID"),
        Field::mandatory("ConfigVersion").of(&UUID_AND_VERSION),
    ]);
}

const SNAPSHOT_DESC: Shape =
    Shape::Struct(&[Field::mandatory("SnapshotID"), Field::mandatory("SnapshotType")]);

/// What zedmanager asks of volumemgr, with EVE's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "i32", into = "i32")]
pub enum SnapshotAction {
    Unspecified,
    Create,
    Rollback,
    /// Asked for by un-publishing the config ([003] D2). In a config: now, because the guest is down; what could not be
    /// deleted before is tried again, and a failure is answered by the operation's number.
    Delete,
}

impl From<SnapshotAction> for i32 {
    fn from(action: SnapshotAction) -> i32 {
        match action {
            SnapshotAction::Unspecified => 0,
            SnapshotAction::Create => 1,
            SnapshotAction::Rollback => 2,
            SnapshotAction::Delete => 3,
        }
    }
}

impl TryFrom<i32> for SnapshotAction {
    type Error = String;

    fn try_from(number: i32) -> Result<Self, String> {
        match number {
            0 => Ok(SnapshotAction::Unspecified),
            1 => Ok(SnapshotAction::Create),
            2 => Ok(SnapshotAction::Rollback),
            3 => Ok(SnapshotAction::Delete),
            other => Err(format!("unknown snapshot action {other}")),
        }
    }
}

/// zedmanager's request about one snapshot; the key is the snapshot's id. Un-publishing it asks for deletion.
///
/// An action is published only while the guest is confirmed down: it is leave to touch storage. Without one
/// (`Unspecified`) it only claims what there is of the snapshot: nothing is begun and nothing deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumesSnapshotConfig {
    #[serde(rename = "SnapshotID")]
    pub snapshot: SnapshotId,
    #[serde(rename = "Action")]
    pub action: SnapshotAction,
    /// The application's volumes at the cut; for a rollback those of the snapshot.
    #[serde(rename = "VolumeIDs")]
    pub volumes: Vec<VolumeKey>,
    #[serde(rename = "AppUUID")]
    pub app: AppId,
    #[serde(rename = "OperationNumber")]
    pub operation: OperationNumber,
    /// True when it was cut before, by that operation: it is kept, and never made again should storage have lost
    /// it. It would be a snapshot of another day under the old name.
    #[serde(rename = "Made", default)]
    pub made: bool,
    /// What a rollback may destroy, and nothing else ([000] L7).
    #[serde(rename = "Consent", default, skip_serializing_if = "Consent::is_empty")]
    pub consent: Consent,
    /// For a rollback: of this volume only.
    #[serde(rename = "Revert", default, skip_serializing_if = "Option::is_none")]
    pub revert: Option<VolumeRevert>,
}

impl Topic for VolumesSnapshotConfig {
    const NAME: &'static str = "VolumesSnapshotConfig";
    const DURABILITY: Durability = Durability::Volatile;
    type Key = SnapshotId;

    fn key(&self) -> SnapshotId {
        self.snapshot
    }
}

/// How one volume takes part in a snapshot, by volume id in [`VolumesSnapshotStatus::meta`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum VolumeSnapshotMeta {
    Recorded(RecordedMeta),
    /// EVE's record: the name of the snapshot within the image, of whatever generation the volume has.
    Eve(String),
}

impl VolumeSnapshotMeta {
    /// The snapshot's name on storage.
    pub fn storage_name(&self) -> &str {
        match self {
            VolumeSnapshotMeta::Recorded(meta) => &meta.storage_name,
            VolumeSnapshotMeta::Eve(name) => name,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RecordedMeta {
    /// The handler that made it: `qcow2`, `zvol`, or `read-only` for a volume that is recorded as unchanged.
    pub handler: String,
    #[serde(rename = "GenerationCounter")]
    pub generation: Generation,
    /// The snapshot's name on storage, chosen once, in the intent. Empty for a read-only volume.
    pub storage_name: String,
    /// The volume's size for the guest when it was cut, in bytes.
    #[serde(default)]
    pub size_bytes: u64,
}

/// volumemgr's answer, and the record `volumesSnapshotStatus.json`; the key is the snapshot's id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumesSnapshotStatus {
    #[serde(rename = "SnapshotID")]
    pub snapshot: SnapshotId,
    #[serde(rename = "VolumeSnapshotMeta", deserialize_with = "null_is_default")]
    pub meta: BTreeMap<VolumeId, VolumeSnapshotMeta>,
    /// When storage cut it, UTC.
    #[serde(rename = "TimeCreated", default, deserialize_with = "zero_is_none")]
    pub time_created: Option<Timestamp>,
    #[serde(rename = "AppUUID")]
    pub app: AppId,
    /// EVE's counter that makes an equal status differ; the operation number does that here. Kept for EVE.
    #[serde(rename = "RefCount", default)]
    pub ref_count: i64,
    #[serde(rename = "ResultOfAction", default = "unspecified")]
    pub result_of: SnapshotAction,
    /// The request this answers. In the record: the operation that made the snapshot.
    #[serde(rename = "OperationNumber", default)]
    pub operation: OperationNumber,
    /// The error of the action, in EVE's flattened form.
    #[serde(flatten, with = "optional_error")]
    pub error: Option<ErrorReport>,
}

fn unspecified() -> SnapshotAction {
    SnapshotAction::Unspecified
}

impl VolumesSnapshotStatus {
    /// The volumes in the snapshot. A volume from EVE's record has no generation of its own there.
    pub fn volume_keys(&self) -> Vec<VolumeKey> {
        self.meta
            .iter()
            .filter_map(|(volume, meta)| match meta {
                VolumeSnapshotMeta::Recorded(meta) => {
                    Some(VolumeKey { volume: *volume, generation: meta.generation })
                }
                VolumeSnapshotMeta::Eve(_) => None,
            })
            .collect()
    }
}

impl Topic for VolumesSnapshotStatus {
    const NAME: &'static str = "VolumesSnapshotStatus";
    const DURABILITY: Durability = Durability::Volatile;
    type Key = SnapshotId;

    fn key(&self) -> SnapshotId {
        self.snapshot
    }
}

impl Record for VolumesSnapshotStatus {
    const NAME: &'static str = "VolumesSnapshotStatus";
    const SHAPE: Shape = Shape::Struct(&[
        Field::mandatory("SnapshotID"),
        Field::mandatory("VolumeSnapshotMeta").of(&Shape::Map(&Shape::Any)),
        Field::mandatory("AppUUID"),
    ]);
}

/// zedmanager's question before it stops a guest: would this action be possible? ([003] B3, C1) Keyed by snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotPreflightConfig {
    pub snapshot: SnapshotId,
    pub app: AppId,
    pub action: SnapshotAction,
    pub volumes: Vec<VolumeKey>,
    pub operation: OperationNumber,
    /// Snapshots of the application that will be deleted before, with the guest down: they stand in no rollback's way.
    pub leaving: Vec<SnapshotId>,
    /// Of a rollback: of this volume only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revert: Option<VolumeRevert>,
}

impl Topic for SnapshotPreflightConfig {
    const NAME: &'static str = "SnapshotPreflightConfig";
    const DURABILITY: Durability = Durability::Volatile;
    type Key = SnapshotId;

    fn key(&self) -> SnapshotId {
        self.snapshot
    }
}

/// volumemgr's answer to a [`SnapshotPreflightConfig`]; nothing was touched to find it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotPreflightStatus {
    pub snapshot: SnapshotId,
    pub app: AppId,
    pub operation: OperationNumber,
    /// None: go ahead. Otherwise why not, naming each volume that refused.
    pub refusal: Option<ErrorReport>,
    /// Of a rollback: what stands in its way. That is judged by who asked ([000] L4); it is no refusal yet.
    #[serde(default)]
    pub blockers: Blockers,
    /// What it needs and what is free, by volume, where storage could tell ([000] L8).
    #[serde(default)]
    pub space: BTreeMap<VolumeId, Space>,
    /// Of a rollback: volumes that cannot be reverted in place, so that a clone will take their places ([004] M2).
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub cloned: BTreeSet<VolumeId>,
}

impl Topic for SnapshotPreflightStatus {
    const NAME: &'static str = "SnapshotPreflightStatus";
    const DURABILITY: Durability = Durability::Volatile;
    type Key = SnapshotId;

    fn key(&self) -> SnapshotId {
        self.snapshot
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::{AppInstanceConfig, VirtualizationMode};

    const APP: &str = "6f1d2c1e-0c1b-4a53-9d0e-5b7a1f3c9adb";
    const SNAPSHOT: &str = "6f1d2c1e-0c1b-4a53-9d0e-5b7a1f3c9a51";
    const VOLUME: &str = "6f1d2c1e-0c1b-4a53-9d0e-5b7a1f3c9ada";

    /// A record as Go writes EVE's struct: every field there, zero times, empty error.
    #[test]
    fn eves_descriptor_of_a_snapshot_is_read() {
        let text = format!(
            r#"{{"Snapshot": {{"SnapshotID": "{SNAPSHOT}", "SnapshotType": 1}}, "Reported": true,
                "TimeTriggered": "0001-01-01T00:00:00Z", "TimeCreated": "2023-05-04T10:11:12.5Z",
                "AppInstanceID": "{APP}", "ConfigVersion": {{"UUID": "{APP}", "Version": "3"}},
                "Error": {{"Error": "", "ErrorTime": "0001-01-01T00:00:00Z", "ErrorSeverity": 0,
                           "ErrorEntities": null, "ErrorRetryCondition": ""}}}}"#
        );
        let read: SnapshotInstanceStatus = serde_json::from_str(&text).expect("EVE's record");
        assert_eq!((read.time_triggered, &read.error), (None, &None));
        assert!(read.time_created.is_some());
        assert_eq!(read.operation, OperationNumber(0));
    }

    /// Here the error's fields stand in the record itself, as Go's embedded structs do, and a volume's part is the
    /// name of the snapshot in its image.
    #[test]
    fn eves_record_of_the_volumes_is_read() {
        let text = format!(
            r#"{{"SnapshotID": "{SNAPSHOT}", "VolumeSnapshotMeta": {{"{VOLUME}": "{SNAPSHOT}"}},
                "TimeCreated": "2023-05-04T10:11:12Z", "AppUUID": "{APP}", "RefCount": 1, "ResultOfAction": 1,
                "ErrorSourceType": "", "Error": "", "ErrorTime": "0001-01-01T00:00:00Z", "ErrorSeverity": 0,
                "ErrorEntities": null, "ErrorRetryCondition": ""}}"#
        );
        let read: VolumesSnapshotStatus = serde_json::from_str(&text).expect("EVE's record");
        assert_eq!(read.meta.values().next(), Some(&VolumeSnapshotMeta::Eve(SNAPSHOT.to_owned())));
        assert_eq!(read.error, None);
    }

    #[test]
    fn eves_configuration_is_read_and_unknown_fields_do_not_matter() {
        let text = format!(
            r#"{{"UUIDandVersion": {{"UUID": "{APP}", "Version": "3"}}, "DisplayName": "db", "Errors": null,
                "FixedResources": {{"Kernel": "", "Memory": 524288, "MaxMem": 0, "VCpus": 2, "VirtualizationMode": 1,
                                   "EnableVnc": false}},
                "VolumeRefConfigList": [{{"VolumeID": "{VOLUME}", "GenerationCounter": 2, "RefCount": 1}}],
                "Activate": true, "IoAdapterList": null, "RestartCmd": {{"Counter": 4, "ApplyTime": ""}},
                "Snapshot": {{"ActiveSnapshot": "", "MaxSnapshots": 1, "RollbackCmd": {{"Counter": 0, "ApplyTime": ""}},
                             "Snapshots": null}}}}"#
        );
        let read: AppInstanceConfig = serde_json::from_str(&text).expect("EVE's configuration");
        assert_eq!(read.resources.virtualization_mode, VirtualizationMode::Hvm);
        assert_eq!(read.restart.counter, 4);
        assert!(read.snapshot.snapshots.is_empty() && read.adapters.is_empty());
        let ours = serde_json::to_value(&read).expect("plain data");
        assert_eq!(ours["FixedResources"]["VirtualizationMode"], 1, "a number, as EVE reads it");
    }
}
