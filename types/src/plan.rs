//! What somebody on the node may order for an application, and the plan they are shown before ([000] L7, L8).
//!
//! ```text
//!   LocalAsk::Plan ─▶ Plan {steps, blockers, space, downtime, refusal, digest} ─▶ a person, or a script
//!                                                                 │ agrees by repeating the digest
//!   LocalAsk::Do {action, digest} ─▶ planned again ─ same digest ─▶ one row write ─▶ an operation like any other
//!                                               └─ another one ──▶ refused, nothing changed
//! ```
//!
//! A digest stands for what was agreed to: the action, its target, what would be destroyed or given up, the versions before and
//! after, and the application's last operation, so that no consent can be used twice. What it does not stand for may change
//! in between: free space, the last measured downtime, whether the guest runs.
//!
//! Pure values; deliberately absent: how a plan is made, which is zedmanager's.

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::blocker::Consent;
use crate::error::{ErrorReport, Timestamp};
use crate::guard::LocalChange;
use crate::ids::{AppId, OperationNumber, SnapshotId, VolumeId};
use crate::judgement::Blockers;
use crate::topic::{Durability, Topic};

/// What a step needs on storage, and what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Space {
    /// At most; a rollback's includes the safety snapshot that is cut before it.
    pub needed_bytes: u64,
    pub free_bytes: u64,
}

impl Space {
    pub fn is_enough(self) -> bool {
        self.free_bytes >= self.needed_bytes
    }
}

/// What can be ordered on the node itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case", deny_unknown_fields)]
pub enum LocalAction {
    /// The application as it was in the snapshot, configuration and all volumes.
    Rollback { snapshot: SnapshotId },
    /// A snapshot now, of all volumes.
    CreateSnapshot,
    /// The snapshot is given up; its data goes when the guest is down next.
    DeleteSnapshot { snapshot: SnapshotId },
    /// One volume of a stopped application as it was in the snapshot ([004] M1); without one, the only one that can be meant.
    RevertVolume {
        snapshot: SnapshotId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        volume: Option<VolumeId>,
        /// An operator's wishes to the volume's handler, which knows what it takes (M5).
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        parameters: BTreeMap<String, String>,
    },
}

/// Of a rollback that reverts one volume and changes nothing else ([004] M).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct VolumeRevert {
    pub volume: VolumeId,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, String>,
}

impl LocalAction {
    pub fn name(&self) -> &'static str {
        match self {
            LocalAction::Rollback { .. } => "rollback",
            LocalAction::CreateSnapshot => "create-snapshot",
            LocalAction::DeleteSnapshot { .. } => "delete-snapshot",
            LocalAction::RevertVolume { .. } => "revert-volume",
        }
    }

    /// The snapshot it names.
    pub fn target(&self) -> Option<SnapshotId> {
        match self {
            LocalAction::Rollback { snapshot }
            | LocalAction::DeleteSnapshot { snapshot }
            | LocalAction::RevertVolume { snapshot, .. } => Some(*snapshot),
            LocalAction::CreateSnapshot => None,
        }
    }
}

impl fmt::Display for LocalAction {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LocalAction::Rollback { snapshot } => write!(formatter, "roll back to snapshot {snapshot}"),
            LocalAction::CreateSnapshot => formatter.write_str("create a snapshot"),
            LocalAction::DeleteSnapshot { snapshot } => write!(formatter, "delete snapshot {snapshot}"),
            LocalAction::RevertVolume { snapshot, volume, parameters } => {
                match volume {
                    Some(volume) => write!(formatter, "revert volume {volume} to snapshot {snapshot}")?,
                    None => write!(formatter, "revert the volume of snapshot {snapshot}")?,
                }
                parameters.iter().try_for_each(|(key, value)| write!(formatter, " {key}={value}"))
            }
        }
    }
}

/// What the node is asked by somebody who stands before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalAsk {
    /// Set what guards the application.
    Set(LocalChange),
    /// Tell what would be done; nothing is.
    Plan(LocalAction),
    /// Do what was planned, if it is still what was agreed to.
    Do { action: LocalAction, digest: String },
}

/// For how long the guest would be down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Downtime {
    /// It is not stopped for this.
    None,
    /// It is, and it was never measured here how long that takes.
    NotMeasured,
    /// The last one of the same kind took so long.
    Last { milliseconds: u64 },
}

impl fmt::Display for Downtime {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Downtime::None => formatter.write_str("none"),
            Downtime::NotMeasured => formatter.write_str("not measured yet"),
            Downtime::Last { milliseconds } => {
                write!(
                    formatter,
                    "about {}.{} s, as last time",
                    milliseconds / 1000,
                    milliseconds % 1000 / 100
                )
            }
        }
    }
}

/// What an action would do ([000] L8). Making it changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Plan {
    pub action: LocalAction,
    /// The snapshot it is about; that of a creation will have this id.
    pub snapshot: SnapshotId,
    /// In words, in order.
    pub steps: Vec<String>,
    /// Of a rollback: everything that stands in its way, whether it can be agreed to or not.
    pub blockers: Blockers,
    /// What would be destroyed beside what the steps revert and delete.
    pub destroys: Consent,
    /// By volume, where storage could tell.
    pub space: BTreeMap<VolumeId, Space>,
    pub downtime: Downtime,
    /// Why it would not be done.
    pub refusal: Option<String>,
    /// What to repeat to agree; none for what would be refused.
    pub digest: Option<String>,
}

/// 16 hexadecimal digits of these lines, in this order.
pub fn digest_of<'a>(lines: impl IntoIterator<Item = &'a str>) -> String {
    let mut hasher = Sha256::new();
    for line in lines {
        // The length keeps two lines from looking like one.
        hasher.update(format!("{} {line}\n", line.len()));
    }
    hasher.finalize().iter().take(8).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// By whose order a snapshot is made on the node itself: the id that it will have. The same as long as no operation has begun
/// since, so that a plan can tell it and a retry finds it.
pub fn local_snapshot_id(app: AppId, installed_at: Option<Timestamp>, number: OperationNumber) -> SnapshotId {
    let life = installed_at.map_or(0, |time| time.timestamp_micros());
    SnapshotId(uuid::Uuid::new_v5(&app.0, format!("snapshot of operation {number} since {life}").as_bytes()))
}

/// A local order, kept with the operation that carries it out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct LocalOrigin {
    pub action: LocalAction,
    pub digest: String,
    /// What the plan said would be destroyed; nothing else is.
    #[serde(default, skip_serializing_if = "Consent::is_empty")]
    pub agreed: Consent,
}

/// The last local order that was taken in, and what has come of it: who asks again with the same digest is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct LocalOutcome {
    pub action: LocalAction,
    pub digest: String,
    /// The snapshot it is about.
    pub snapshot: SnapshotId,
    /// The operation that carried it out. None for a deletion, which waits for whatever stops the guest next.
    pub operation: Option<OperationNumber>,
    /// It is not over yet.
    #[serde(default)]
    pub is_running: bool,
    /// Why it was undone.
    #[serde(default)]
    pub error: Option<ErrorReport>,
}

/// zedmanager's answer to the last [`LocalAsk`] about a plan; the key is the application's id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AppPlan {
    pub app: AppId,
    /// The order's number, as it was given.
    pub number: u64,
    pub answer: PlanAnswer,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PlanAnswer {
    Planned(Box<Plan>),
    /// Taken in, now or by an order with the same digest before: its effect is durable.
    TakenIn {
        outcome: LocalOutcome,
        before: bool,
    },
    /// Nothing was changed.
    Refused(String),
}

impl Topic for AppPlan {
    const NAME: &'static str = "AppPlan";
    const DURABILITY: Durability = Durability::Volatile;
    type Key = AppId;

    fn key(&self) -> AppId {
        self.app
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn app() -> AppId {
        AppId(Uuid::from_u128(0xa0))
    }

    #[test]
    fn an_action_is_read_as_it_is_written_and_nothing_else_is() {
        let snapshot = SnapshotId(Uuid::from_u128(5));
        for action in [
            LocalAction::Rollback { snapshot },
            LocalAction::CreateSnapshot,
            LocalAction::DeleteSnapshot { snapshot },
            LocalAction::RevertVolume { snapshot, volume: None, parameters: BTreeMap::new() },
            LocalAction::RevertVolume {
                snapshot,
                volume: Some(VolumeId(Uuid::from_u128(6))),
                parameters: [("copy-method".to_owned(), "copy".to_owned())].into(),
            },
        ] {
            let text = serde_json::to_string(&action).expect("plain data");
            assert!(text.contains(action.name()), "{text}");
            assert_eq!(serde_json::from_str::<LocalAction>(&text).expect("read"), action);
        }
        for wrong in [r#"{"action": "rollback"}"#, r#"{"action": "reboot"}"#, "{}"] {
            assert!(serde_json::from_str::<LocalAction>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_digest_differs_where_a_line_does() {
        let of = |lines: &[&str]| digest_of(lines.iter().copied());
        assert_eq!(of(&["a", "b"]), of(&["a", "b"]));
        assert_eq!(of(&["a", "b"]).len(), 16);
        for other in [&["a"][..], &["b", "a"], &["a\nb"], &["ab"], &["a", "b", ""]] {
            assert_ne!(of(&["a", "b"]), of(other), "{other:?}");
        }
    }

    #[test]
    fn a_local_snapshots_id_is_that_of_one_operation_of_one_application() {
        let then = Timestamp::from_timestamp(1_700_000_000, 0);
        let id = local_snapshot_id(app(), then, OperationNumber(7));
        assert_eq!(id, local_snapshot_id(app(), then, OperationNumber(7)));
        assert_ne!(id, local_snapshot_id(app(), then, OperationNumber(8)));
        assert_ne!(id, local_snapshot_id(app(), None, OperationNumber(7)), "installed again: another life");
        assert_ne!(id, local_snapshot_id(AppId(Uuid::from_u128(1)), then, OperationNumber(7)));
        assert_eq!(id.to_string().parse::<SnapshotId>().expect("an id"), id);
    }

    #[test]
    fn a_downtime_is_told_in_seconds() {
        let told: Vec<String> =
            [Downtime::None, Downtime::NotMeasured, Downtime::Last { milliseconds: 3290 }]
                .map(|it| it.to_string())
                .into();
        assert_eq!(told, ["none", "not measured yet", "about 3.2 s, as last time"]);
    }
}
