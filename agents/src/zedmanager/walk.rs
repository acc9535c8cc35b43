//! A [`Walk`] takes the machine step by step: it answers for volumemgr and domainmgr by hand, and what the machine decides
//! is written down as it goes. The stories are in `walks.rs` and beside it.

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_types::*;

use super::carry_out::carry_out;
use super::machine::*;
use super::testing::*;

#[derive(Clone)]
pub(super) struct Walk {
    pub(super) state: AppInstanceState,
    pub(super) received: Option<Arc<AppInstanceConfig>>,
    pub(super) removed: bool,
    pub(super) guest: Guest,
    pub(super) broken: BTreeMap<VolumeKey, ErrorReport>,
    pub(super) storage: BTreeMap<SnapshotId, Arc<VolumesSnapshotStatus>>,
    pub(super) preflight: BTreeMap<SnapshotId, Arc<SnapshotPreflightStatus>>,
    pub(super) saved: BTreeMap<SnapshotId, Arc<AppInstanceConfig>>,
    pub(super) admission: Admission,
    pub(super) local: Option<LocalAppSettings>,
    pub(super) steps: Vec<String>,
}

impl Walk {
    /// Version 1 installed and running, nothing asked for.
    pub(super) fn installed() -> Self {
        let mut state = empty_state();
        state.applied = Some(config("1").into());
        Walk {
            state,
            received: Some(config("1").into()),
            removed: false,
            guest: Guest::Up,
            broken: BTreeMap::new(),
            storage: BTreeMap::new(),
            preflight: BTreeMap::new(),
            saved: BTreeMap::new(),
            admission: Admission::All,
            local: None,
            steps: Vec::new(),
        }
    }

    /// As `installed`, with snapshot 1 of version 1 available and version 2 in force.
    pub(super) fn upgraded() -> Self {
        let mut walk = Walk::installed();
        walk.state.snapshots = state_with("a1").snapshots;
        let mut next = config("2");
        next.volumes[0].generation = Generation(1);
        next.snapshot = listed(&[1]);
        walk.state.applied = Some(next.clone().into());
        walk.received = Some(next.into());
        walk.saved.insert(snapshot_id(1), config("1").into());
        walk.storage
            .insert(snapshot_id(1), answer(1, SnapshotAction::Create, OperationNumber(1), None).into());
        walk
    }

    /// Decides and carries out until the machine waits.
    pub(super) fn go(&mut self) -> WaitingFor {
        for _ in 0..50 {
            let Walk { state, .. } = self;
            let mut state = state.clone();
            let volumes = self.volumes();
            let facts = Facts {
                now: time(50),
                received: self.received.as_ref(),
                removed: self.removed,
                storage_known: true,
                guest: self.guest,
                volumes: &volumes,
                storage: &self.storage,
                preflight: &self.preflight,
                saved: &self.saved,
                admission: self.admission,
                guard: self.received.as_ref().map(|config| effective(&config.guard, self.local.as_ref())),
            };
            absorb(&mut state, &facts);
            let decision = decide(&state, &facts);
            if let Decision::Wait(why) = decision {
                self.state = state;
                return why;
            }
            self.steps.push(word(&decision));
            let forget = decision == Decision::ForgetApp;
            let writes = carry_out(&mut state, decision, &facts);
            self.state = state;
            for write in writes {
                if let Write::SaveConfig(id, config) = write {
                    self.saved.insert(id, config);
                }
            }
            if forget {
                return WaitingFor::Nothing;
            }
        }
        panic!("does not settle: {:?}", self.steps);
    }

    fn volumes(&self) -> BTreeMap<VolumeKey, Readiness> {
        let keys = self.received.iter().chain(&self.state.applied).flat_map(|config| config.volume_keys());
        let next = self.state.operation.iter().filter_map(|operation| operation.next.as_ref());
        keys.chain(next.flat_map(|config| config.volume_keys()))
            .map(|key| {
                let broken = self.broken.get(&key).cloned().map(Readiness::Broken);
                (key, broken.unwrap_or(Readiness::Ready))
            })
            .collect()
    }

    pub(super) fn number(&self) -> OperationNumber {
        self.state.last_operation
    }

    pub(super) fn pass_preflight(&mut self, n: u8, refusal: Option<&str>) {
        let status = SnapshotPreflightStatus {
            snapshot: snapshot_id(n),
            app: app_id(),
            operation: self.number(),
            refusal: refusal.map(|text| ErrorReport::new(text, time(1))),
            blockers: Blockers::new(),
            space: BTreeMap::new(),
            cloned: Default::default(),
        };
        self.preflight.insert(snapshot_id(n), status.into());
    }

    pub(super) fn storage_answers(&mut self, n: u8, action: SnapshotAction, error: Option<&str>) {
        self.storage.insert(snapshot_id(n), answer(n, action, self.number(), error).into());
    }

    pub(super) fn edit(&mut self, edit: impl FnOnce(&mut AppInstanceConfig)) {
        edit(Arc::make_mut(self.received.as_mut().expect("configured")));
    }

    pub(super) fn take_steps(&mut self) -> Vec<String> {
        std::mem::take(&mut self.steps)
    }
}

pub(super) fn answer(
    n: u8,
    action: SnapshotAction,
    operation: OperationNumber,
    error: Option<&str>,
) -> VolumesSnapshotStatus {
    VolumesSnapshotStatus {
        snapshot: snapshot_id(n),
        meta: BTreeMap::new(),
        time_created: Some(time(i64::from(n))),
        app: app_id(),
        ref_count: 0,
        result_of: action,
        operation,
        error: error.map(|text| ErrorReport::new(text, time(1))),
    }
}

pub(super) fn listed(ids: &[u8]) -> SnapshotConfig {
    let snapshots = ids.iter().map(|n| desc(*n, SnapshotType::AppUpdate)).collect();
    SnapshotConfig { max_snapshots: 3, snapshots, ..SnapshotConfig::default() }
}

pub(super) fn word(decision: &Decision) -> String {
    match decision {
        Decision::Begin(plan) => format!("begin {:?}", plan.kind),
        Decision::Enter(phase) => format!("{phase:?}"),
        Decision::ApplyInPlace(_) => "apply in place".to_owned(),
        Decision::KeepSnapshot(..) => "keep".to_owned(),
        Decision::ForgetSnapshot(_) => "forget".to_owned(),
        Decision::Fail(error) => format!("fail: {error}"),
        Decision::RefuseRollback { why, .. } => format!("refuse: {why}"),
        other => format!("{other:?}").split(['(', '{']).next().unwrap_or_default().trim().to_owned(),
    }
}
