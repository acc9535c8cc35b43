//! Small values for the table tests of this agent: ids from a number, rows from a few words.

use holdfast_types::*;
use uuid::Uuid;

use super::intake::bare_state;

pub fn app_id() -> AppId {
    AppId(Uuid::from_u128(0xa0))
}

pub fn snapshot_id(n: u8) -> SnapshotId {
    SnapshotId(Uuid::from_u128(0x500 + u128::from(n)))
}

pub fn time(seconds: i64) -> Timestamp {
    Timestamp::from_timestamp(1_700_000_000 + seconds, 0).expect("in range")
}

pub fn volume_ref(n: u8, generation: i64) -> AppVolumeRef {
    AppVolumeRef {
        volume: VolumeId(Uuid::from_u128(0x700 + u128::from(n))),
        generation: Generation(generation),
        mount_dir: String::new(),
    }
}

/// An active application with two volumes.
pub fn config(version: &str) -> AppInstanceConfig {
    AppInstanceConfig {
        id_and_version: UuidAndVersion { id: app_id(), version: version.to_owned() },
        display_name: "db".to_owned(),
        resources: VmConfig { memory_kib: 65_536, vcpus: 1, ..VmConfig::default() },
        activate: true,
        volumes: vec![volume_ref(1, 0), volume_ref(2, 0)],
        adapters: Vec::new(),
        restart: OpsCommand::default(),
        purge: OpsCommand::default(),
        user_data: None,
        cloud_init_version: 0,
        start_delay_seconds: 0,
        snapshot: SnapshotConfig::default(),
        guard: AppGuard::default(),
    }
}

pub fn desc(n: u8, kind: SnapshotType) -> SnapshotDesc {
    SnapshotDesc { id: snapshot_id(n), kind }
}

pub fn instance(n: u8) -> SnapshotInstanceStatus {
    SnapshotInstanceStatus {
        snapshot: desc(n, SnapshotType::AppUpdate),
        reported: false,
        time_triggered: Some(time(0)),
        time_created: Some(time(i64::from(n))),
        app: app_id(),
        config_version: UuidAndVersion { id: app_id(), version: "1".to_owned() },
        error: None,
        operation: OperationNumber(u64::from(n)),
        local: false,
    }
}

pub fn empty_state() -> AppInstanceState {
    AppInstanceState { last_operation: OperationNumber(100), ..bare_state(app_id()) }
}

/// Snapshots from words: `a1` available, `r2` requested, `f3` failed, `d4` being deleted, `t5` trimmed.
pub fn state_with(words: &str) -> AppInstanceState {
    let mut state = empty_state();
    for word in words.split_whitespace() {
        let n: u8 = word[1..].parse().expect("a number");
        state.last_sequence += 1;
        let snapshot = match &word[..1] {
            "a" => SnapshotState::Available(instance(n)),
            "r" => SnapshotState::Requested,
            "f" => SnapshotState::Failed(instance(n)),
            "d" => {
                SnapshotState::Deleting { instance: instance(n), since: time(0), asked: false, error: None }
            }
            "t" => SnapshotState::Trimmed,
            other => panic!("no such word: {other}"),
        };
        let entry = SnapshotEntry {
            desc: desc(n, SnapshotType::AppUpdate),
            state: snapshot,
            sequence: state.last_sequence,
            trimmed: false,
            local: false,
        };
        state.snapshots.insert(snapshot_id(n), entry);
    }
    state
}

pub fn operation(kind: OperationKind, phase: Phase) -> Operation {
    Operation {
        number: OperationNumber(101),
        kind,
        phase,
        started_at: time(0),
        next: None,
        version_before: Some("1".to_owned()),
        version_after: None,
        snapshots: Vec::new(),
        rollback: None,
        volumes: Vec::new(),
        guard: None,
        guest_stopped_at: None,
        local: None,
        revert: None,
    }
}

pub fn rollback_operation(n: u8, phase: Phase) -> Operation {
    let target = RollbackTarget {
        snapshot: snapshot_id(n),
        counter: 1,
        received_version: "2".to_owned(),
        consent: None,
    };
    Operation {
        rollback: Some(target),
        next: Some(config("1").into()),
        ..operation(OperationKind::Rollback, phase)
    }
}
