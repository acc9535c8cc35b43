//! What the controller reads, in its own JSON form: golden texts.

use std::sync::LazyLock;

use holdfast_types::*;
use prost::Name;
use prost_reflect::{DescriptorPool, DynamicMessage};

use super::refusal::{ObjectKind, Reason, Refusal};
use super::report::{self, OwnState, Refused, ReportObject};
use super::testing::*;
use crate::wire::DESCRIPTORS;
use crate::wire::info::{ZInfoMsg, z_info_msg::InfoContent};

static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS).expect("the build made these descriptors"));

/// Compares the whole message with a text; the message's own head is checked here and left out of the texts.
fn expect_json(content: InfoContent, golden: &str) {
    let message = report::message(device(), content, at(60));
    let descriptor = POOL.get_message_by_name(&ZInfoMsg::full_name()).unwrap();
    let mut dynamic = DynamicMessage::new(descriptor);
    dynamic.transcode_from(&message).unwrap();
    let mut json = serde_json::to_value(&dynamic).unwrap();
    let head = json.as_object_mut().unwrap();
    assert_eq!(head.remove("devId").unwrap(), DEVICE);
    assert_eq!(head.remove("atTimeStamp").unwrap(), "2026-01-01T00:01:00Z");
    let golden: serde_json::Value = serde_json::from_str(golden).unwrap();
    assert_eq!(json, golden, "\n{json:#}");
}

fn status() -> AppInstanceStatus {
    AppInstanceStatus {
        id_and_version: UuidAndVersion { id: id(APP_A), version: "7".into() },
        display_name: "db".into(),
        state: SwState::Running,
        activate: true,
        volumes: vec![VolumeKey::new(id(V1), 2), VolumeKey::new(id(V2), 0)],
        boot_time: Some(at(5)),
        errors: Vec::new(),
        operation: None,
        snapshots: SnapshottingStatus::default(),
        guard: EffectiveGuard::default(),
        local_order: 0,
    }
}

fn snapshot(snapshot: &str, kind: SnapshotType, error: Option<ErrorReport>) -> SnapshotInstanceStatus {
    SnapshotInstanceStatus {
        snapshot: SnapshotDesc { id: id(snapshot), kind },
        reported: false,
        time_triggered: Some(at(1)),
        time_created: error.is_none().then(|| at(2)),
        app: id(APP_A),
        config_version: UuidAndVersion { id: id(APP_A), version: "6".into() },
        error,
        operation: OperationNumber(3),
        local: false,
    }
}

fn refusal(kind: ObjectKind, text: &str) -> Refused {
    let refusal = Refusal {
        kind,
        id: text.into(),
        generation: 0,
        name: "db".into(),
        reason: Reason::ListedTwice,
        keeps_last_good: true,
    };
    Refused { name: refusal.name.clone(), error: refusal.report(at(3)) }
}

/// [003] A6
#[test]
fn an_application_with_an_available_and_a_failed_snapshot() {
    let mut status = status();
    let failure =
        ErrorReport::new("volume 77777777-0000-4000-8000-000000000002#0 cannot be snapshotted", at(4))
            .about(EntityKind::Volume, V2)
            .retry("with the next update");
    status.snapshots.available_snapshots = vec![snapshot(S1, SnapshotType::AppUpdate, None)];
    status.snapshots.failed_snapshots = vec![snapshot(S2, SnapshotType::Immediate, Some(failure))];
    status.snapshots.requested_snapshots = vec![SnapshotDesc { id: id(V1), kind: SnapshotType::AppUpdate }];
    expect_json(
        report::app(APP_A, Some(&status), None),
        r#"{
            "ztype": "ZiApp",
            "ainfo": {
                "AppID": "aaaaaaaa-0000-4000-8000-000000000001",
                "appVersion": "7",
                "AppName": "db",
                "bootTime": "2026-01-01T00:00:05Z",
                "state": "RUNNING",
                "volumeRefs": [
                    "77777777-0000-4000-8000-000000000001",
                    "77777777-0000-4000-8000-000000000002"
                ],
                "snapshots": [
                    {
                        "id": "55555555-0000-4000-8000-000000000001",
                        "configId": "aaaaaaaa-0000-4000-8000-000000000001",
                        "configVersion": "6",
                        "createTime": "2026-01-01T00:00:02Z",
                        "type": "SNAPSHOT_TYPE_APP_UPDATE"
                    },
                    {
                        "id": "55555555-0000-4000-8000-000000000002",
                        "configId": "aaaaaaaa-0000-4000-8000-000000000001",
                        "configVersion": "6",
                        "type": "SNAPSHOT_TYPE_IMMEDIATE",
                        "snapErr": {
                            "description": "volume 77777777-0000-4000-8000-000000000002#0 cannot be snapshotted",
                            "timestamp": "2026-01-01T00:00:04Z",
                            "severity": "SEVERITY_ERROR",
                            "entities": [
                                { "entity": "ENTITY_VOLUME", "entityId": "77777777-0000-4000-8000-000000000002" }
                            ],
                            "retryCondition": "with the next update"
                        }
                    }
                ]
            }
        }"#,
    );
}

/// [003] A8: it runs on as it was, and says why it is not as it should be.
#[test]
fn a_running_application_whose_new_configuration_is_refused() {
    let mut status = status();
    status.volumes.clear();
    status.errors.push(ErrorReport::new("the guest is slow", at(1)).severity(Severity::Notice));
    expect_json(
        report::app(APP_A, Some(&status), Some(&refusal(ObjectKind::App, APP_A))),
        r#"{
            "ztype": "ZiApp",
            "ainfo": {
                "AppID": "aaaaaaaa-0000-4000-8000-000000000001",
                "appVersion": "7",
                "AppName": "db",
                "bootTime": "2026-01-01T00:00:05Z",
                "state": "RUNNING",
                "appErr": [
                    {
                        "description": "the application \"aaaaaaaa-0000-4000-8000-000000000001\" (db) is refused: it is listed more than once; its last good configuration stays in force",
                        "timestamp": "2026-01-01T00:00:03Z",
                        "severity": "SEVERITY_ERROR",
                        "entities": [
                            { "entity": "ENTITY_APP_INSTANCE", "entityId": "aaaaaaaa-0000-4000-8000-000000000001" }
                        ],
                        "retryCondition": "when the controller sends a corrected configuration of it"
                    },
                    {
                        "description": "the guest is slow",
                        "timestamp": "2026-01-01T00:00:01Z",
                        "severity": "SEVERITY_NOTICE"
                    }
                ]
            }
        }"#,
    );
}

#[test]
fn an_application_that_was_refused_from_the_beginning() {
    let InfoContent::Ainfo(report) = report::app("../x", None, Some(&refusal(ObjectKind::App, "../x")))
    else {
        panic!("not an application's report");
    };
    assert_eq!((report.app_id.as_str(), report.app_name.as_str()), ("../x", "db"));
    assert_eq!((report.state, report.app_err.len()), (SwState::Error.number(), 1));
}

fn volume_status() -> VolumeStatus {
    VolumeStatus {
        key: VolumeKey::new(id(V1), 2),
        display_name: "data".into(),
        state: SwState::DownloadStarted,
        progress: 40,
        format: Some(Format::Qcow2),
        read_only: false,
        size_bytes: 1 << 30,
        allocated_bytes: 1 << 20,
        file_location: "/persist/vault/volumes/x".into(),
        incarnation: 1,
        used_by: Vec::new(),
        held_by: Vec::new(),
        error: Some(ErrorReport::new("connection lost", at(4)).severity(Severity::Warning)),
    }
}

#[test]
fn a_volume_on_its_way_that_is_also_refused() {
    let refused = refusal(ObjectKind::Volume, V1);
    expect_json(
        report::volume(V1, 2, Some(&volume_status()), Some(&refused)),
        r#"{
            "ztype": "ZiVolume",
            "vinfo": {
                "uuid": "77777777-0000-4000-8000-000000000001",
                "displayName": "data",
                "state": "DOWNLOAD_STARTED",
                "progressPercentage": 40,
                "volumeErr": {
                    "description": "the volume \"77777777-0000-4000-8000-000000000001\" (db) is refused: it is listed more than once; its last good configuration stays in force; connection lost",
                    "timestamp": "2026-01-01T00:00:03Z",
                    "severity": "SEVERITY_ERROR",
                    "entities": [
                        { "entity": "ENTITY_VOLUME", "entityId": "77777777-0000-4000-8000-000000000001" }
                    ],
                    "retryCondition": "when the controller sends a corrected configuration of it"
                },
                "generationCount": "2"
            }
        }"#,
    );
}

#[test]
fn the_device_about_itself() {
    let own = OwnState { config_error: None, config_hash: "h1".into(), mode: "normal" };
    let release = env!("CARGO_PKG_VERSION");
    expect_json(
        report::device(&own),
        &format!(
            r#"{{
                "ztype": "ZiDevice",
                "dinfo": {{
                    "apiCapability": "API_CAPABILITY_VOLUME_SNAPSHOTS_IMMEDIATE",
                    "holdfast": {{ "configHash": "h1", "state": "normal", "release": "{release}" }}
                }}
            }}"#
        ),
    );
}

#[test]
fn the_last_words_name_the_object_and_nothing_else() {
    expect_json(
        report::gone(&ReportObject::app(id(APP_A))),
        r#"{ "ztype": "ZiApp", "ainfo": { "AppID": "aaaaaaaa-0000-4000-8000-000000000001" } }"#,
    );
    expect_json(
        report::gone(&ReportObject::volume(VolumeKey::new(id(V1), 2))),
        r#"{ "ztype": "ZiVolume",
             "vinfo": { "uuid": "77777777-0000-4000-8000-000000000001", "generationCount": "2" } }"#,
    );
}

#[test]
fn every_state_has_a_name_on_the_wire() {
    use SwState::*;
    let states = [
        Initial,
        DownloadStarted,
        Downloaded,
        Delivered,
        Installed,
        Booting,
        Running,
        Halting,
        Halted,
        Restarting,
        Purging,
        CreatingVolume,
        CreatedVolume,
        Verifying,
        Verified,
        Loading,
        Loaded,
        Error,
        StartDelayed,
    ];
    for state in states {
        let wire = crate::wire::info::ZSwState::try_from(state.number()).unwrap();
        assert_eq!(wire.as_str_name(), state.name());
    }
}
