//! What the controller is told: statuses and refusals in, the messages of EVE's info API out.
//!
//! ```text
//!   AppInstanceStatus + refusal ──▶ ZInfoApp         gone: its id alone
//!   VolumeStatus + refusal      ──▶ ZInfoVolume      gone: its id and generation alone
//!   the device's own state      ──▶ ZInfoDevice
//! ```
//!
//! Plain functions: the time of a report is given, and when one is sent is `outbox.rs`.

use std::fmt;

use holdfast_types::{
    AppId, AppInstanceStatus, DeviceId, EntityKind, ErrorEntity, ErrorReport, SnapshotInstanceStatus,
    SwState, Timestamp, VolumeKey, VolumeStatus,
};
use prost_types::Timestamp as WireTime;

use crate::wire::info::{self, ZInfoMsg, z_info_msg::InfoContent};

/// What a report is about. The newest report about one replaces those before it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReportObject {
    Device,
    /// By the id in its usual form, or what the controller wrote in its place.
    App(String),
    Volume {
        id: String,
        generation: i64,
    },
}

impl ReportObject {
    pub fn app(app: AppId) -> Self {
        ReportObject::App(app.to_string())
    }

    pub fn volume(key: VolumeKey) -> Self {
        ReportObject::Volume { id: key.volume.to_string(), generation: key.generation.0 }
    }
}

impl fmt::Display for ReportObject {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReportObject::Device => formatter.write_str("the device"),
            ReportObject::App(app) => write!(formatter, "application {app}"),
            ReportObject::Volume { id, generation } => write!(formatter, "volume {id}#{generation}"),
        }
    }
}

/// An object the controller sent and this node did not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub name: String,
    pub error: ErrorReport,
}

/// An application as it is ([003] A6), its refusal first among its errors. One that is refused and is not here
/// is in the state ERROR.
pub fn app(id: &str, status: Option<&AppInstanceStatus>, refused: Option<&Refused>) -> InfoContent {
    let mut report = status.map(app_in_force).unwrap_or_else(|| info::ZInfoApp {
        app_id: id.to_owned(),
        app_name: refused.map(|refused| refused.name.clone()).unwrap_or_default(),
        state: SwState::Error.number(),
        ..Default::default()
    });
    if let Some(refused) = refused {
        report.app_err.insert(0, error(&refused.error));
    }
    InfoContent::Ainfo(report)
}

fn app_in_force(status: &AppInstanceStatus) -> info::ZInfoApp {
    let snapshots = &status.snapshots;
    let reported = snapshots.available_snapshots.iter().chain(&snapshots.failed_snapshots);
    info::ZInfoApp {
        app_id: status.id_and_version.id.to_string(),
        app_version: status.id_and_version.version.clone(),
        app_name: status.display_name.clone(),
        boot_time: status.boot_time.map(time),
        app_err: status.errors.iter().map(error).collect(),
        state: status.state.number(),
        volume_refs: status.volumes.iter().map(|key| key.volume.to_string()).collect(),
        snapshots: reported.map(snapshot).collect(),
        ..Default::default()
    }
}

fn snapshot(status: &SnapshotInstanceStatus) -> info::ZInfoSnapshot {
    info::ZInfoSnapshot {
        id: status.snapshot.id.to_string(),
        config_id: status.config_version.id.to_string(),
        config_version: status.config_version.version.clone(),
        create_time: status.time_created.map(time),
        r#type: status.snapshot.kind.into(),
        snap_err: status.error.as_ref().map(error),
    }
}

/// One generation of a volume. Its refusal and its own error share the one field there is, the refusal first.
pub fn volume(
    id: &str,
    generation: i64,
    status: Option<&VolumeStatus>,
    refused: Option<&Refused>,
) -> InfoContent {
    let failure =
        joined(refused.map(|refused| &refused.error), status.and_then(|status| status.error.as_ref()));
    let name = status.map(|status| &status.display_name).or(refused.map(|refused| &refused.name));
    InfoContent::Vinfo(info::ZInfoVolume {
        uuid: id.to_owned(),
        display_name: name.cloned().unwrap_or_default(),
        state: status.map_or(SwState::Error, |status| status.state).number(),
        progress_percentage: status.map_or(0, |status| status.progress.into()),
        volume_err: failure.as_ref().map(error),
        generation_count: generation,
    })
}

/// Two errors as one: the first, with the second's words and entities behind its own.
pub fn joined(first: Option<&ErrorReport>, second: Option<&ErrorReport>) -> Option<ErrorReport> {
    let (Some(first), Some(second)) = (first, second) else {
        return first.or(second).cloned();
    };
    let mut both = first.clone();
    both.summary = format!("{}; {}", first.summary, second.summary);
    both.severity = first.severity.max(second.severity);
    for entity in &second.entities {
        if !both.entities.contains(entity) {
            both.entities.push(entity.clone());
        }
    }
    Some(both)
}

/// The device about itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OwnState {
    /// Why the newest configuration, or a part of it that has no report of its own, is not in force ([003] A9).
    pub config_error: Option<ErrorReport>,
    /// The hash of the configuration in force.
    pub config_hash: String,
    /// `normal`, `no-space` or `read-only`.
    pub mode: &'static str,
}

pub fn device(state: &OwnState) -> InfoContent {
    InfoContent::Dinfo(info::ZInfoDevice {
        api_capability: info::ApiCapability::VolumeSnapshotsImmediate as i32,
        holdfast: Some(info::HoldfastDeviceExtension {
            config_error: state.config_error.as_ref().map(error),
            config_hash: state.config_hash.clone(),
            state: state.mode.to_owned(),
            release: env!("CARGO_PKG_VERSION").to_owned(),
        }),
    })
}

/// The last report about something that is no more: who it was, and the state INVALID.
pub fn gone(object: &ReportObject) -> InfoContent {
    match object {
        ReportObject::Device => InfoContent::Dinfo(info::ZInfoDevice::default()),
        ReportObject::App(id) => {
            InfoContent::Ainfo(info::ZInfoApp { app_id: id.clone(), ..Default::default() })
        }
        ReportObject::Volume { id, generation } => InfoContent::Vinfo(info::ZInfoVolume {
            uuid: id.clone(),
            generation_count: *generation,
            ..Default::default()
        }),
    }
}

pub fn message(device: DeviceId, content: InfoContent, made_at: Timestamp) -> ZInfoMsg {
    let kind = match &content {
        InfoContent::Dinfo(_) => info::ZInfoTypes::ZiDevice,
        InfoContent::Ainfo(_) => info::ZInfoTypes::ZiApp,
        InfoContent::Vinfo(_) => info::ZInfoTypes::ZiVolume,
        InfoContent::Cinfo(_) => info::ZInfoTypes::ZiContentTree,
    };
    ZInfoMsg {
        ztype: kind as i32,
        dev_id: device.to_string(),
        at_time_stamp: Some(time(made_at)),
        info_content: Some(content),
    }
}

fn error(report: &ErrorReport) -> info::ErrorInfo {
    info::ErrorInfo {
        description: report.summary.clone(),
        timestamp: Some(time(report.time)),
        severity: report.severity.number(),
        entities: report.entities.iter().map(entity).collect(),
        retry_condition: report.retry_condition.clone(),
    }
}

/// The numbers are EVE's. A snapshot or an operation has no entity there, so its object is the application.
fn entity(entity: &ErrorEntity) -> info::DeviceEntity {
    let kind: EntityKind = entity.kind;
    info::DeviceEntity { entity: kind.into(), entity_id: entity.id.clone(), entity_name: String::new() }
}

fn time(time: Timestamp) -> WireTime {
    let nanos = i32::try_from(time.timestamp_subsec_nanos()).unwrap_or(0);
    WireTime { seconds: time.timestamp(), nanos }
}
