//! What an order on the node would do, before anybody agrees to it ([000] L7, L8).
//!
//! ```text
//!   row, facts, action ─▶ refused by what is known here ───────────────────────────────┐
//!          │ else                                                                      ▼
//!          └─▶ Asks: a pre-flight with a number of its own ─▶ its answer ─▶ Plan, and how it would be taken in
//! ```
//!
//! Made by the same code as the operation itself: the guard, the target, the judgement on blockers, the list and its maximum.
//! Pure: nothing here changes a row, and what is taken in is taken in by `carry_out.rs`.

use std::collections::BTreeSet;

use holdfast_types::*;

use super::carry_out::carry_out;
use super::list;
use super::machine::{Admission, Decision, Facts, Guarded, NewOperation, guarded, rollback_to};
use super::reverting;

/// Questions for plans have numbers from here on: no operation takes the answer to one for its own.
const QUESTIONS_FROM: u64 = 1 << 63;

/// What somebody on the node has asked last, until it is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The order's number, as it was given.
    pub number: u64,
    pub action: LocalAction,
    /// Agreed to: to be done if the plan is still the same.
    pub digest: Option<String>,
}

impl Asked {
    fn question_number(&self) -> OperationNumber {
        OperationNumber(QUESTIONS_FROM + self.number)
    }
}

/// How far a plan is.
#[derive(Debug, Clone, PartialEq)]
pub enum Planned {
    /// volumemgr has not told yet what it has.
    Waits,
    /// Storage is asked first; nothing is touched for it.
    Asks(SnapshotPreflightConfig),
    Made(Box<Plan>, How),
}

/// How an action is taken in once it was agreed to.
#[derive(Debug, Clone, PartialEq)]
pub enum How {
    NotAtAll,
    Begin(Box<NewOperation>),
    GiveUp(SnapshotId, LocalOrigin),
}

/// The plan of what is asked, as things are now.
pub fn plan(state: &AppInstanceState, facts: &Facts<'_>, asked: &Asked) -> Planned {
    let next = local_snapshot_id(state.app, state.installed_at, state.last_operation.next());
    let mut draft = Draft::new(asked.action.clone(), asked.action.target().unwrap_or(next));
    let (received, applied) = match ready(state, facts, &asked.action) {
        Ok(configs) => configs,
        Err(why) => return draft.refused(why),
    };
    if !facts.storage_known {
        return Planned::Waits;
    }
    let wish = match &asked.action {
        LocalAction::Rollback { snapshot } => rollback(state, facts, *snapshot, received),
        LocalAction::CreateSnapshot => creation(state, facts, draft.plan.snapshot, applied),
        LocalAction::DeleteSnapshot { snapshot } => deletion(state, facts, *snapshot),
        LocalAction::RevertVolume { snapshot, volume, parameters } => {
            reverting::revert(state, facts, *snapshot, *volume, parameters, (received, applied))
        }
    };
    let wish = match wish {
        Ok(wish) => wish,
        Err(why) => return draft.refused(why),
    };
    let question = wish.question(state, draft.plan.snapshot, asked.question_number());
    let answer = facts.preflight.get(&question.snapshot);
    let Some(seen) = answer.filter(|answer| answer.operation == question.operation) else {
        return Planned::Asks(question);
    };
    draft.plan.space = seen.space.clone();
    draft.plan.blockers = seen.blockers.clone();
    draft.cloned = seen.cloned.clone();
    if let Some(refusal) = &seen.refusal {
        return draft.refused(refusal.summary.clone());
    }
    match wish {
        Wish::Rollback(operation) => draft.rollback(state, facts, *operation, applied, received),
        Wish::Revert(operation) => draft.revert(state, facts, *operation, applied),
        Wish::Creation(operation) => draft.creation(state, facts, *operation, applied, received),
        Wish::Deletion(volumes) => draft.deletion(state, facts, &volumes, applied, received),
    }
}

type Configs<'a> = (&'a AppInstanceConfig, &'a AppInstanceConfig);

/// The received and the applied configuration, unless no order can be taken in now.
fn ready<'a>(
    state: &'a AppInstanceState,
    facts: &Facts<'a>,
    action: &LocalAction,
) -> Result<Configs<'a>, String> {
    let app = state.app;
    match facts.admission {
        Admission::Nothing => return Err("the node is read-only: nothing is changed".to_owned()),
        Admission::OnlyDeletions if !matches!(action, LocalAction::DeleteSnapshot { .. }) => {
            return Err(
                "there is no space left under the persist directory: only deletions are done".to_owned()
            );
        }
        Admission::OnlyDeletions | Admission::All => {}
    }
    if facts.removed {
        return Err(format!("app:{app} is being deleted"));
    }
    if let Some(operation) = &state.operation {
        return Err(format!(
            "operation {} of app:{app} is not over (holdfast operations): ask again when it is",
            operation.number
        ));
    }
    let received =
        facts.received.ok_or_else(|| format!("the configuration of app:{app} has not come yet"))?;
    let applied = state.applied.as_ref().ok_or_else(|| format!("app:{app} is not installed yet"))?;
    Ok((received, applied))
}

/// What is wanted, as far as it can be told without storage.
pub(super) enum Wish {
    Rollback(Box<NewOperation>),
    Revert(Box<NewOperation>),
    Creation(Box<NewOperation>),
    Deletion(Vec<VolumeKey>),
}

impl Wish {
    fn question(
        &self,
        state: &AppInstanceState,
        snapshot: SnapshotId,
        number: OperationNumber,
    ) -> SnapshotPreflightConfig {
        let (action, volumes) = match self {
            Wish::Rollback(operation) | Wish::Revert(operation) => {
                (SnapshotAction::Rollback, operation.volumes.clone())
            }
            Wish::Creation(operation) => (SnapshotAction::Create, operation.volumes.clone()),
            Wish::Deletion(volumes) => (SnapshotAction::Delete, volumes.clone()),
        };
        let revert = match self {
            Wish::Revert(operation) => operation.revert.clone(),
            _ => None,
        };
        SnapshotPreflightConfig {
            snapshot,
            app: state.app,
            action,
            volumes,
            operation: number,
            leaving: list::leaving(state),
            revert,
        }
    }
}

/// [000] L1: the guard before anything else.
fn rollback(
    state: &AppInstanceState,
    facts: &Facts<'_>,
    snapshot: SnapshotId,
    received: &AppInstanceConfig,
) -> Result<Wish, String> {
    let_through(state, facts)?;
    // Without a counter: the controller's last one stays acted on.
    let operation = rollback_to(state, snapshot, state.rollback_counter, received, facts)?;
    Ok(Wish::Rollback(Box::new(operation)))
}

/// [000] L1: unless something guards the application.
pub(super) fn let_through(state: &AppInstanceState, facts: &Facts<'_>) -> Result<(), String> {
    match guarded(state, facts) {
        Guarded::No => Ok(()),
        Guarded::Yes(why) => Err(why),
        Guarded::Unknown => Err(format!("nobody knows yet what guards app:{}", state.app)),
    }
}

fn creation(
    state: &AppInstanceState,
    facts: &Facts<'_>,
    snapshot: SnapshotId,
    applied: &AppInstanceConfig,
) -> Result<Wish, String> {
    if state.snapshots.contains_key(&snapshot) || facts.storage.contains_key(&snapshot) {
        return Err(format!("there is a snapshot {snapshot} already"));
    }
    let desc = SnapshotDesc { id: snapshot, kind: SnapshotType::Immediate };
    Ok(Wish::Creation(Box::new(NewOperation {
        snapshots: vec![desc],
        volumes: applied.volume_keys(),
        ..NewOperation::new(OperationKind::Snapshot)
    })))
}

fn deletion(state: &AppInstanceState, facts: &Facts<'_>, snapshot: SnapshotId) -> Result<Wish, String> {
    let cannot = |why: &str| Err(format!("cannot delete snapshot {snapshot}: {why}"));
    match state.snapshots.get(&snapshot).map(|entry| &entry.state) {
        None => return cannot("it is unknown here"),
        Some(SnapshotState::Requested | SnapshotState::Cutting { .. }) => {
            return cannot("it was not taken yet; what was only asked for is cancelled at the controller");
        }
        Some(SnapshotState::Deleting { .. }) => return cannot("it is being deleted"),
        Some(SnapshotState::Trimmed) => return cannot("it is deleted"),
        Some(SnapshotState::Available(_) | SnapshotState::Failed(_)) => {}
    }
    let saved = facts.saved.get(&snapshot).map(|config| config.volume_keys());
    let stored = || facts.storage.get(&snapshot).map(|status| status.volume_keys());
    Ok(Wish::Deletion(saved.or_else(stored).unwrap_or_default()))
}

/// A plan in the making.
pub(super) struct Draft {
    pub(super) plan: Plan,
    /// Volumes that cannot be reverted in place ([004] M2).
    cloned: BTreeSet<VolumeId>,
}

impl Draft {
    fn new(action: LocalAction, snapshot: SnapshotId) -> Self {
        Draft {
            plan: Plan {
                action,
                snapshot,
                steps: Vec::new(),
                blockers: Blockers::new(),
                destroys: Consent::default(),
                space: Default::default(),
                downtime: Downtime::None,
                refusal: None,
                digest: None,
            },
            cloned: BTreeSet::new(),
        }
    }

    pub(super) fn refused(mut self, why: String) -> Planned {
        self.plan.refusal = Some(why);
        Planned::Made(Box::new(self.plan), How::NotAtAll)
    }

    pub(super) fn step(&mut self, text: impl Into<String>) {
        self.plan.steps.push(text.into());
    }

    fn rollback(
        mut self,
        state: &AppInstanceState,
        facts: &Facts<'_>,
        operation: NewOperation,
        applied: &AppInstanceConfig,
        received: &AppInstanceConfig,
    ) -> Planned {
        if let Err(why) = self.judge_blockers(state, facts) {
            return self.refused(why);
        }
        self.step("check every volume again");
        self.stop_the_guest(state, applied, OperationKind::Rollback);
        self.delete_what_is_due(state);
        self.revert_volumes(&operation.volumes);
        let next = operation.next.as_deref().map(AppInstanceConfig::version).unwrap_or_default().to_owned();
        self.step(format!(
            "put version {next} in force in the place of version {}; the controller's version {} is not obeyed until it \
             sends another",
            applied.version(),
            received.version()
        ));
        self.start_the_guest(operation.next.as_deref());
        self.agreed(state, &next, &[], |local| {
            How::Begin(Box::new(NewOperation { local: Some(local), ..operation }))
        })
    }

    fn creation(
        mut self,
        state: &AppInstanceState,
        facts: &Facts<'_>,
        operation: NewOperation,
        applied: &AppInstanceConfig,
        received: &AppInstanceConfig,
    ) -> Planned {
        let snapshot = self.plan.snapshot;
        let maximum = received.snapshot.max_snapshots;
        let Some(given_up) = given_up(state, facts, &operation, received, &self.plan) else {
            return self.refused(format!(
                "the maximum of {maximum} snapshots leaves no room for another of app:{}",
                state.app
            ));
        };
        self.step("check every volume again");
        self.stop_the_guest(state, applied, OperationKind::Snapshot);
        self.delete_what_is_due(state);
        for id in &given_up {
            self.step(format!("give up snapshot {id}, because the maximum is {maximum}"));
        }
        for key in self.changed(&operation.volumes) {
            self.step(format!("cut snapshot {snapshot} of volume {key}"));
        }
        self.start_the_guest(Some(applied));
        let given_up: Vec<String> = given_up.iter().map(SnapshotId::to_string).collect();
        self.agreed(state, applied.version(), &given_up, |local| {
            How::Begin(Box::new(NewOperation { local: Some(local), ..operation }))
        })
    }

    fn deletion(
        mut self,
        state: &AppInstanceState,
        facts: &Facts<'_>,
        volumes: &[VolumeKey],
        applied: &AppInstanceConfig,
        received: &AppInstanceConfig,
    ) -> Planned {
        let snapshot = self.plan.snapshot;
        self.step(match received.snapshot.names(snapshot) {
            true => format!(
                "give up snapshot {snapshot}; it stays gone although the controller lists it, until it is taken off the list"
            ),
            false => format!("give up snapshot {snapshot}"),
        });
        let runs = facts.guest == super::machine::Guest::Up || applied.activate;
        let when = if runs { "when the guest is down next" } else { "now, for the guest is down" };
        for key in volumes {
            self.step(format!("delete what volume {key} holds of it, {when}"));
        }
        self.step("delete its records, when storage has let go of it");
        self.agreed(state, applied.version(), &[], |local| How::GiveUp(snapshot, local))
    }

    /// [000] L4, L5.
    pub(super) fn judge_blockers(
        &mut self,
        state: &AppInstanceState,
        facts: &Facts<'_>,
    ) -> Result<(), String> {
        let has_tag = facts.guard.as_ref().is_some_and(|guard| guard.has_tag(FORCE_ROLLBACK));
        match judge_rollback(state.app, self.plan.snapshot, &self.plan.blockers, has_tag) {
            Judgement::Go(consent) => self.plan.destroys = consent,
            Judgement::Blocked(why) => return Err(why),
        }
        Ok(())
    }

    pub(super) fn revert_volumes(&mut self, volumes: &[VolumeKey]) {
        let snapshot = self.plan.snapshot;
        for (volume, agreed) in self.plan.destroys.clone().volumes {
            let names: Vec<String> = agreed.into_iter().map(|one| one.name).collect();
            self.step(format!(
                "destroy on volume {volume} what this node did not make: {}",
                names.join(", ")
            ));
        }
        for key in self.changed(volumes) {
            self.step(match self.cloned.contains(&key.volume) {
                false => format!("revert volume {key} to snapshot {snapshot}"),
                true => format!(
                    "put a clone of snapshot {snapshot} in the place of volume {key}, which cannot be reverted in place"
                ),
            });
        }
    }

    /// One that is read-only is only looked for, and needs nothing.
    fn changed(&self, volumes: &[VolumeKey]) -> Vec<VolumeKey> {
        volumes.iter().filter(|key| self.plan.space.contains_key(&key.volume)).copied().collect()
    }

    fn stop_the_guest(&mut self, state: &AppInstanceState, applied: &AppInstanceConfig, kind: OperationKind) {
        if !applied.activate {
            return;
        }
        self.step("stop the guest");
        self.plan.downtime = match state.downtimes.get(&kind) {
            Some(milliseconds) => Downtime::Last { milliseconds: *milliseconds },
            None => Downtime::NotMeasured,
        };
    }

    pub(super) fn delete_what_is_due(&mut self, state: &AppInstanceState) {
        for id in list::leaving(state) {
            self.step(format!("delete snapshot {id}, which was given up"));
        }
    }

    fn start_the_guest(&mut self, next: Option<&AppInstanceConfig>) {
        if next.is_some_and(|next| next.activate) {
            self.step("start the guest");
        }
    }

    /// The digest stands for everything that agreeing to the plan means.
    pub(super) fn agreed(
        mut self,
        state: &AppInstanceState,
        version_after: &str,
        further: &[String],
        how: impl FnOnce(LocalOrigin) -> How,
    ) -> Planned {
        let before = state.applied.as_deref().map(AppInstanceConfig::version).unwrap_or_default();
        let mut lines = vec![
            state.app.to_string(),
            self.plan.action.to_string(),
            self.plan.snapshot.to_string(),
            state.installed_at.map(|time| time.timestamp_micros()).unwrap_or_default().to_string(),
            state.last_operation.to_string(),
            self.plan.destroys.digest(),
            before.to_owned(),
            version_after.to_owned(),
        ];
        lines.extend(further.iter().cloned());
        let digest = digest_of(lines.iter().map(String::as_str));
        self.plan.digest = Some(digest.clone());
        let (action, agreed) = (self.plan.action.clone(), self.plan.destroys.clone());
        let origin = LocalOrigin { action, digest, agreed };
        Planned::Made(Box::new(self.plan), how(origin))
    }
}

/// What the maximum would cost if the operation began now ([003] E1). None: the new one itself would have to go.
fn given_up(
    state: &AppInstanceState,
    facts: &Facts<'_>,
    operation: &NewOperation,
    received: &AppInstanceConfig,
    plan: &Plan,
) -> Option<BTreeSet<SnapshotId>> {
    let mut trial = state.clone();
    let local =
        LocalOrigin { action: plan.action.clone(), digest: String::new(), agreed: Consent::default() };
    let begun = NewOperation { local: Some(local), ..operation.clone() };
    carry_out(&mut trial, Decision::Begin(Box::new(begun)), facts);
    list::reconcile(&mut trial, &received.snapshot, facts.now);
    let is_given_up = |entry: Option<&SnapshotEntry>| {
        !matches!(
            entry.map(|entry| &entry.state),
            Some(SnapshotState::Requested | SnapshotState::Cutting { .. } | SnapshotState::Available(_))
        )
    };
    let fits = !is_given_up(trial.snapshots.get(&plan.snapshot));
    let was_there = state.snapshots.iter().filter(|(_, entry)| !is_given_up(Some(entry)));
    let gone = was_there.map(|(id, _)| *id).filter(|id| is_given_up(trial.snapshots.get(id)));
    fits.then(|| gone.collect())
}
