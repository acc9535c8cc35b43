//! A node that stands still: an API on a real socket, over fixed rows seen at fixed times.
//!
//! The story: `db` was installed, S1 was cut by its update to version 2, and now it is being rolled back to S1.
//! `web` has an IMMEDIATE snapshot that failed, and a volume whose content did not match. The controller is away.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use holdfast_agents::api::documents::{AgentDocument, NodeFacts};
use holdfast_agents::api::{Api, ApiSocket, NodeProbe, Seen};
use holdfast_pubsub::Change;
use holdfast_types::*;
use tempfile::TempDir;
use tokio::sync::oneshot;

pub fn id(number: u64) -> uuid::Uuid {
    format!("00000000-0000-4000-8000-{number:012}").parse().expect("a UUID")
}

pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_timestamp(1_767_268_800 + seconds, 0).expect("a time")
}

const DB: u64 = 1;
const WEB: u64 = 2;
const IMAGE: u64 = 11;
const DATA: u64 = 12;
const SITE: u64 = 13;
const S1: u64 = 21;
const S2: u64 = 22;
const S3: u64 = 23;

/// Serves until it is dropped.
pub struct StandingNode {
    pub socket: PathBuf,
    api: Api,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
    _directory: TempDir,
}

impl StandingNode {
    pub fn start() -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let socket = directory.path().join("run/h.sock");
        let api = Api::new(Arc::new(FixedFacts));
        tell_the_story(&api);
        let (stop, stopped) = oneshot::channel::<()>();
        let bound = ApiSocket::bind(&socket).expect("the socket is free");
        let served = api.clone();
        let thread = std::thread::spawn(move || serve(served, bound, stopped));
        StandingNode { socket, api, stop: Some(stop), thread: Some(thread), _directory: directory }
    }

    /// The rollback of `db` fails.
    pub fn fail_the_rollback(&self) {
        let mut rolling = operation(3, OperationKind::Rollback);
        rolling.phase = Phase::RevertingVolumes;
        let old = Arc::new(db_state(Some(rolling), &[]));
        let error = error("volume \"data\": no space left");
        let failure = FailedOperation { number: OperationNumber(3), kind: OperationKind::Rollback, error };
        let new = Arc::new(AppInstanceState { last_failure: Some(failure), ..db_state(None, &[]) });
        self.api.see(Seen::AppState(Change::Modified { old, new }), at(100));
    }

    /// From now on local settings of `db` are taken in, as zedmanager would, plans told, and orders taken in or refused.
    pub fn obey(&self) {
        let api = self.api.clone();
        self.api.take_orders(move |order| {
            let change = match order.what {
                LocalAsk::Set(change) => change,
                what => {
                    let answer = AppPlan { app: order.app, number: order.number, answer: answer(what) };
                    let api = api.clone();
                    std::thread::spawn(move || {
                        api.see(Seen::Plan(Change::Created(Arc::new(answer))), at(90))
                    });
                    return true;
                }
            };
            let mut local = LocalAppSettings::none(order.app);
            local.apply(&change, &AppGuard::default());
            let old = Arc::new(db_status(SwState::Running));
            let guard = effective(&AppGuard::default(), Some(&local));
            let new = AppInstanceStatus { guard, local_order: order.number, ..(*old).clone() };
            let api = api.clone();
            // Not in the API's own time: zedmanager has threads of its own.
            std::thread::spawn(move || {
                api.see(Seen::App(Change::Modified { old, new: Arc::new(new) }), at(90))
            });
            true
        });
    }

    /// From now on everything is refused, as zedmanager does before it knows its snapshots.
    pub fn stand_still(&self, why: &'static str) {
        let api = self.api.clone();
        self.api.take_orders(move |order| {
            let refused = PlanAnswer::Refused(why.to_owned());
            let answer = AppPlan { app: order.app, number: order.number, answer: refused };
            let api = api.clone();
            std::thread::spawn(move || api.see(Seen::Plan(Change::Created(Arc::new(answer))), at(90)));
            true
        });
    }

    pub fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the server ends in order");
        }
    }
}

impl Drop for StandingNode {
    fn drop(&mut self) {
        drop(self.stop.take());
    }
}

pub const DIGEST: &str = "5d3f0a1b9c2e4f70";

/// What zedmanager would say: a rollback to S1 with somebody's snapshot in the way, agreed to by the tag; one to S2 that a clone
/// keeps away; a snapshot; a deletion.
fn answer(what: LocalAsk) -> PlanAnswer {
    match what {
        LocalAsk::Set(_) => unreachable!("not about a plan"),
        LocalAsk::Plan(action) => PlanAnswer::Planned(Box::new(plan(action))),
        LocalAsk::Do { action, digest } if digest == DIGEST => {
            let snapshot = action.target().unwrap_or(SnapshotId(id(S3)));
            let is_deletion = matches!(action, LocalAction::DeleteSnapshot { .. });
            let operation = (!is_deletion).then_some(OperationNumber(4));
            let outcome =
                LocalOutcome { action, digest, snapshot, operation, is_running: !is_deletion, error: None };
            PlanAnswer::TakenIn { outcome, before: false }
        }
        // The order of yesterday, which failed.
        LocalAsk::Do { action, digest } if digest == "1111111111111111" => {
            let outcome = LocalOutcome {
                action,
                digest,
                snapshot: SnapshotId(id(S1)),
                operation: Some(OperationNumber(2)),
                is_running: false,
                error: Some(error("volume \"data\": no space left").retry("another order on the node")),
            };
            PlanAnswer::TakenIn { outcome, before: true }
        }
        LocalAsk::Do { action, digest } => PlanAnswer::Refused(format!(
            "to {action} is not any more what was agreed to with {digest}: look at the plan again; nothing was changed"
        )),
    }
}

fn plan(action: LocalAction) -> Plan {
    let snapshot = action.target().unwrap_or(SnapshotId(id(S3)));
    let space = Space { needed_bytes: 1 << 20, free_bytes: 3 << 30 };
    let blank = Plan {
        action: action.clone(),
        snapshot,
        steps: Vec::new(),
        blockers: Blockers::new(),
        destroys: Consent::default(),
        space: [(VolumeId(id(IMAGE)), space), (VolumeId(id(DATA)), space)].into(),
        downtime: Downtime::None,
        refusal: None,
        digest: Some(DIGEST.to_owned()),
    };
    let steps = |steps: &[&str]| steps.iter().map(|step| (*step).to_owned()).collect();
    let blocked = |kind, name: &str| -> Blockers {
        [(VolumeId(id(DATA)), vec![Blocker::snapshot(kind, name, "7")])].into()
    };
    match action {
        LocalAction::Rollback { .. } if snapshot == SnapshotId(id(S1)) => {
            let blockers = blocked(BlockerKind::Unmanaged, "before-work");
            Plan {
                steps: steps(&["check every volume again", "stop the guest", "start the guest"]),
                destroys: Consent::to_unmanaged(blockers.iter().map(|(volume, all)| (*volume, &all[..]))),
                blockers,
                downtime: Downtime::Last { milliseconds: 3250 },
                ..blank
            }
        }
        LocalAction::Rollback { .. } => Plan {
            blockers: blocked(BlockerKind::Clone, "tank/copy"),
            space: Default::default(),
            refusal: Some(
                "Rollback blocked: a clone needs the snapshot it was made from: remove it first.".into(),
            ),
            digest: None,
            ..blank
        },
        LocalAction::CreateSnapshot => Plan {
            steps: steps(&[
                "check every volume again",
                "stop the guest",
                "cut the snapshot",
                "start the guest",
            ]),
            downtime: Downtime::NotMeasured,
            ..blank
        },
        LocalAction::RevertVolume { volume: Some(volume), parameters, .. } => {
            let known = parameters.keys().find(|key| *key != "copy-method");
            let clone = format!("put a clone of snapshot {snapshot} in the place of volume {volume}#1");
            Plan {
                steps: steps(&["check the volume again", &clone]),
                space: [(volume, space)].into(),
                refusal: known
                    .map(|key| format!("1 volume cannot be rolled back: the parameter {key} is refused")),
                digest: known.is_none().then(|| DIGEST.to_owned()),
                ..blank
            }
        }
        LocalAction::RevertVolume { .. } => Plan {
            space: Default::default(),
            refusal: Some(format!("snapshot {snapshot} holds 2 volumes: say which one is to be reverted")),
            digest: None,
            ..blank
        },
        LocalAction::DeleteSnapshot { .. } => Plan {
            steps: steps(&["give up the snapshot", "delete its data, when the guest is down next"]),
            ..blank
        },
    }
}

fn serve(api: Api, socket: ApiSocket, stopped: oneshot::Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = socket.listener().expect("a listener");
        api.serve(listener, async { drop(stopped.await) }).await.expect("it serves");
    });
}

struct FixedFacts;

impl NodeProbe for FixedFacts {
    fn facts(&self) -> NodeFacts {
        let agent = |name: &str, answers| AgentDocument { name: name.into(), synced: true, answers };
        NodeFacts {
            device: DeviceId(id(99)),
            version: "0.1.0".into(),
            stage: "ready".into(),
            mode: "no-space".into(),
            mode_reason: Some("the disk is full: new operations are refused".into()),
            started_at: at(0),
            process_id: 4711,
            controller: "http://controller:8080".into(),
            persist: "/var/lib/holdfast".into(),
            accelerator: "tcg: set by the configuration".into(),
            storage: "files: /persist is not on ZFS".into(),
            agents: vec![agent("zedmanager", true), agent("volumemgr", false)],
            space_free_bytes: Some(3 << 30),
            space_total_bytes: Some(40 << 30),
            resident_memory_bytes: Some(13 << 20),
            durable_writes: 42,
        }
    }
}

fn tell_the_story(api: &Api) {
    let created = |it: AppInstanceStatus| Seen::App(Change::Created(Arc::new(it)));
    let db = db_status(SwState::Running);
    api.see(created(db.clone()), at(1));
    api.see(created(web_status()), at(2));
    let installing = db_state(Some(operation(1, OperationKind::Install)), &[]);
    let installed = db_state(None, &[(S1, SnapshotState::Requested), (S2, SnapshotState::Requested)]);
    let updating = db_state(
        Some(operation(2, OperationKind::Update)),
        &[(S1, SnapshotState::Cutting { operation: OperationNumber(2) }), (S2, SnapshotState::Requested)],
    );
    let available = SnapshotState::Available(instance(DB, S1, "1", 2, None));
    let updated = db_state(None, &[(S1, available.clone()), (S2, SnapshotState::Requested)]);
    let mut rolling = operation(3, OperationKind::Rollback);
    rolling.rollback = Some(RollbackTarget {
        snapshot: SnapshotId(id(S1)),
        counter: 1,
        received_version: "2".into(),
        consent: None,
    });
    let checking =
        db_state(Some(rolling.clone()), &[(S1, available.clone()), (S2, SnapshotState::Requested)]);
    let rolling = Operation { phase: Phase::RevertingVolumes, ..rolling };
    let reverting = db_state(Some(rolling), &[(S1, available), (S2, SnapshotState::Requested)]);
    let states = [installing, installed, updating, updated, checking, reverting];
    let mut before: Option<Arc<AppInstanceState>> = None;
    for (moment, state) in states.into_iter().enumerate() {
        let new = Arc::new(state);
        let change = match before.replace(Arc::clone(&new)) {
            None => Change::Created(new),
            Some(old) => Change::Modified { old, new },
        };
        api.see(Seen::AppState(change), at(10 * (1 + moment as i64)));
    }
    api.see(Seen::AppState(Change::Created(Arc::new(web_state(true)))), at(70));
    let (old, new) = (Arc::new(web_state(true)), Arc::new(web_state(false)));
    api.see(Seen::AppState(Change::Modified { old, new }), at(75));
    let (old, new) = (Arc::new(db), Arc::new(db_status(SwState::Halting)));
    api.see(Seen::App(Change::Modified { old, new }), at(80));
    api.see(Seen::Guest(Change::Created(Arc::new(db_guest()))), at(81));
    for volume in volumes() {
        api.see(Seen::Volume(Change::Created(Arc::new(volume))), at(82));
    }
    api.see(Seen::Storage(Change::Created(Arc::new(storage()))), at(83));
    api.see(Seen::Device(Change::Created(Arc::new(device()))), at(84));
}

fn version(app: u64, version: &str) -> UuidAndVersion {
    UuidAndVersion { id: AppId(id(app)), version: version.into() }
}

fn error(summary: &str) -> ErrorReport {
    ErrorReport::new(summary, at(60))
}

fn db_status(state: SwState) -> AppInstanceStatus {
    AppInstanceStatus {
        id_and_version: version(DB, "2"),
        display_name: "db".into(),
        state,
        activate: true,
        volumes: vec![VolumeKey::new(VolumeId(id(IMAGE)), 2), VolumeKey::new(VolumeId(id(DATA)), 1)],
        boot_time: Some(at(45)),
        errors: Vec::new(),
        operation: None,
        snapshots: SnapshottingStatus { max_snapshots: 3, ..SnapshottingStatus::default() },
        guard: EffectiveGuard::default(),
        local_order: 0,
    }
}

fn web_status() -> AppInstanceStatus {
    AppInstanceStatus {
        id_and_version: version(WEB, ""),
        display_name: "web".into(),
        state: SwState::Error,
        activate: true,
        volumes: vec![VolumeKey::new(VolumeId(id(SITE)), 1)],
        boot_time: None,
        errors: vec![error("the content of \"site\" does not match\nits sha256").retry("when it is fixed")],
        operation: None,
        snapshots: SnapshottingStatus::default(),
        guard: EffectiveGuard::default(),
        local_order: 0,
    }
}

fn config(name: &str) -> AppInstanceConfig {
    AppInstanceConfig {
        id_and_version: version(DB, "2"),
        display_name: name.into(),
        resources: VmConfig::default(),
        activate: true,
        volumes: Vec::new(),
        adapters: Vec::new(),
        restart: OpsCommand::default(),
        purge: OpsCommand::default(),
        user_data: Some("password: secret".into()),
        cloud_init_version: 0,
        start_delay_seconds: 0,
        snapshot: SnapshotConfig::default(),
        guard: AppGuard::default(),
    }
}

fn operation(number: u64, kind: OperationKind) -> Operation {
    Operation {
        number: OperationNumber(number),
        kind,
        phase: Phase::CheckingStorage,
        started_at: at(10 * number as i64),
        next: Some(config("db").into()),
        version_before: Some(format!("{}", number.max(2) - 1)),
        version_after: Some(if kind == OperationKind::Rollback { "1".into() } else { number.to_string() }),
        snapshots: Vec::new(),
        rollback: None,
        volumes: vec![VolumeKey::new(VolumeId(id(DATA)), 1)],
        guard: None,
        guest_stopped_at: None,
        local: None,
        revert: None,
    }
}

fn state(app: u64, operation: Option<Operation>, snapshots: &[(u64, SnapshotState)]) -> AppInstanceState {
    let entry = |(number, state): &(u64, SnapshotState)| {
        let desc = SnapshotDesc { id: SnapshotId(id(*number)), kind: kind_of(*number) };
        (
            desc.id,
            SnapshotEntry { desc, state: state.clone(), sequence: *number, trimmed: false, local: false },
        )
    };
    AppInstanceState {
        app: AppId(id(app)),
        applied: Some(config(if app == WEB { "web" } else { "db" }).into()),
        operation,
        last_operation: OperationNumber(3),
        rollback_counter: 0,
        last_sequence: 2,
        snapshots: snapshots.iter().map(entry).collect(),
        superseded_version: None,
        waiting: None,
        last_failure: None,
        controlled_by: None,
        last_rollback: None,
        installed_at: None,
        last_local: None,
        downtimes: BTreeMap::new(),
    }
}

fn kind_of(snapshot: u64) -> SnapshotType {
    if snapshot == S3 { SnapshotType::Immediate } else { SnapshotType::AppUpdate }
}

fn db_state(operation: Option<Operation>, snapshots: &[(u64, SnapshotState)]) -> AppInstanceState {
    state(DB, operation, snapshots)
}

fn web_state(running: bool) -> AppInstanceState {
    let why = error("volume \"site\": the image is locked by another process").retry("when it is let go");
    let failed = SnapshotState::Failed(instance(WEB, S3, "7", 1, Some(why.clone())));
    let snapshot = if running { SnapshotState::Cutting { operation: OperationNumber(1) } } else { failed };
    let failure = FailedOperation { number: OperationNumber(1), kind: OperationKind::Snapshot, error: why };
    let taking = Operation {
        phase: Phase::CuttingSnapshots,
        snapshots: vec![SnapshotDesc { id: SnapshotId(id(S3)), kind: SnapshotType::Immediate }],
        version_after: None,
        next: None,
        ..operation(1, OperationKind::Snapshot)
    };
    AppInstanceState {
        last_failure: (!running).then_some(failure),
        ..state(WEB, running.then_some(taking), &[(S3, snapshot)])
    }
}

fn instance(
    app: u64,
    snapshot: u64,
    in_version: &str,
    number: u64,
    error: Option<ErrorReport>,
) -> SnapshotInstanceStatus {
    SnapshotInstanceStatus {
        snapshot: SnapshotDesc { id: SnapshotId(id(snapshot)), kind: kind_of(snapshot) },
        reported: true,
        time_triggered: Some(at(30)),
        time_created: error.is_none().then(|| at(35)),
        app: AppId(id(app)),
        config_version: version(app, in_version),
        error,
        operation: OperationNumber(number),
        local: false,
    }
}

fn db_guest() -> DomainStatus {
    DomainStatus {
        app: AppId(id(DB)),
        number: 5,
        state: DomainState::Halting,
        process_id: Some(1234),
        boot_time: Some(at(45)),
        accelerator: "tcg".into(),
        console_log: "/var/lib/holdfast/domains/db/console.log".into(),
        crash_count: 1,
        error: None,
    }
}

fn volume(number: u64, generation: i64, name: &str) -> VolumeStatus {
    VolumeStatus {
        key: VolumeKey::new(VolumeId(id(number)), generation),
        display_name: name.into(),
        state: SwState::CreatedVolume,
        progress: 100,
        format: Some(Format::Qcow2),
        read_only: false,
        size_bytes: 8 << 30,
        allocated_bytes: 1_610_612_736,
        file_location: format!("/var/lib/holdfast/vault/volumes/{}#{generation}.qcow2", id(number)),
        incarnation: 1,
        used_by: vec![AppId(id(DB))],
        held_by: Vec::new(),
        error: None,
    }
}

fn volumes() -> Vec<VolumeStatus> {
    let s1 = SnapshotId(id(S1));
    vec![
        VolumeStatus { used_by: Vec::new(), held_by: vec![s1], ..volume(IMAGE, 1, "image") },
        volume(IMAGE, 2, "image"),
        VolumeStatus { held_by: vec![s1], ..volume(DATA, 1, "data") },
        VolumeStatus {
            state: SwState::DownloadStarted,
            progress: 37,
            format: None,
            read_only: true,
            size_bytes: 0,
            allocated_bytes: 700,
            used_by: vec![AppId(id(WEB))],
            error: Some(error("the content does not match its sha256")),
            ..volume(SITE, 1, "site")
        },
    ]
}

fn storage() -> VolumesSnapshotStatus {
    let meta = |generation: i64, name: &str| {
        VolumeSnapshotMeta::Recorded(RecordedMeta {
            handler: "qcow2".into(),
            generation: Generation(generation),
            storage_name: name.into(),
            size_bytes: 8 << 30,
        })
    };
    VolumesSnapshotStatus {
        snapshot: SnapshotId(id(S1)),
        meta: BTreeMap::from([(VolumeId(id(IMAGE)), meta(1, "hf-1")), (VolumeId(id(DATA)), meta(1, "hf-2"))]),
        time_created: Some(at(35)),
        app: AppId(id(DB)),
        ref_count: 0,
        result_of: SnapshotAction::Create,
        operation: OperationNumber(2),
        error: None,
    }
}

fn device() -> DeviceStatus {
    DeviceStatus {
        device: DeviceId(id(99)),
        source: ConfigSource::Saved,
        config_hash: "5f3a".into(),
        config_received_at: Some(at(-3600)),
        controller_error: Some(error("cannot reach http://controller:8080: connection refused")),
        refused: BTreeMap::from([("s1/../x".into(), error("snapshot id \"s1/../x\" is not a UUID"))]),
        pending_reports: 2,
    }
}
