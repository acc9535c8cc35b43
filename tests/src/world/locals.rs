//! Somebody at the node itself: plans, and orders by their digest, at any moment of a drawn workload ([000] L7, L8).
//!
//! ```text
//!   plan ─▶ some steps ─▶ agreed to ─▶ some steps, or the process dies ─▶ asked again with the same digest
//!                                │
//!                                ▼ the model: by whom, for what, which operation
//!   row: operation, last order ──┴─▶ nobody ordered it · done twice · said to be taken in and forgotten · failed for nothing
//! ```
//!
//! What a rollback restores and what a snapshot holds is judged as always (`ground.rs`); a local snapshot is promised like a
//! listed one, until the maximum, a local deletion or the end of the application.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_agents::runtime::{Entropy, SeededEntropy};
use holdfast_agents::zedmanager::LocalOrder;
use holdfast_types::{
    AppId, AppInstanceState, AppPlan, LocalAction, LocalAsk, LocalOrigin, LocalOutcome, OperationNumber,
    Plan, PlanAnswer, SnapshotId, SnapshotState, VolumeId,
};
use uuid::Uuid;

use super::explore::{Bases, Depth, Outcome, Show, finish, trace_of};
use super::ground::{Ground, locked};
use super::tap::Recorder;
use super::workload::{APP, Setting};
use super::{Schedule, Survival, Violation, World};

/// Seeds from here on draw orders on the node as well, besides guards and strangers: on files, on ZFS and on raw disks in turn.
pub const LOCAL_SEEDS: u64 = 4_000_000_000;

/// And from here on single volumes are reverted by such orders.
pub const REVERT_SEEDS: u64 = 5_000_000_000;

/// So begins what a node says that does nothing yet.
const STANDSTILL: &str = "nothing is started or changed";
/// So many steps an answer may take; faults may keep it from coming at all.
const STEPS_TO_AN_ANSWER: usize = 400;

/// What was ordered on the node, and what became of it.
#[derive(Debug, Clone, Default)]
pub struct Locals {
    last_number: u64,
    /// Digests that were agreed to, with their actions and in their order. What was refused is taken out again.
    agreed: BTreeMap<String, (LocalAction, u64)>,
    /// The operation that began for one.
    begun: BTreeMap<String, OperationNumber>,
    /// The last one that the node called taken in.
    confirmed: Option<(Uuid, String)>,
    /// The last operation of each application: with a smaller one it has begun another life.
    last_operation: BTreeMap<Uuid, OperationNumber>,
    /// Orders that were over when the row was looked at last.
    over: BTreeSet<String>,
    /// Snapshots that exist by such an order.
    pub made: BTreeSet<SnapshotId>,
    pub given_up: BTreeSet<SnapshotId>,
    /// What was done, by the action's name.
    pub done: BTreeMap<&'static str, u64>,
}

impl Locals {
    /// Nobody has agreed to it, unless an operation of it has begun.
    fn forget_unless_begun(&mut self, digest: &str) {
        if !self.begun.contains_key(digest) {
            self.agreed.remove(digest);
        }
    }

    /// A rollback to it was ordered on the node: it may bear the failure of that.
    pub fn aimed_at(&self, snapshot: SnapshotId) -> bool {
        self.agreed.values().any(|(action, _)| {
            matches!(action, LocalAction::Rollback { .. } | LocalAction::RevertVolume { .. })
                && action.target() == Some(snapshot)
        })
    }
}

impl Ground {
    /// Nothing but the maximum, a local deletion or the application's end takes it away.
    pub fn is_kept_locally(&self, app: Uuid, snapshot: SnapshotId) -> bool {
        self.locals.made.contains(&snapshot)
            && !self.locals.given_up.contains(&snapshot)
            && self.orders.app(app).is_some()
    }

    /// Deleted, and listed again by an older configuration, all in one step (seed 4000000654): what was ordered before is gone
    /// with it, and the clock of the World may give the same ids again.
    pub fn another_life(&mut self, row: &AppInstanceState) {
        let app = row.app.0;
        let before = self.locals.last_operation.insert(app, row.last_operation);
        if before.is_none_or(|before| before <= row.last_operation) {
            return;
        }
        self.local_orders_end(app);
        let made: Vec<SnapshotId> = self
            .locals
            .made
            .iter()
            .copied()
            .filter(|id| self.cuts.get(id).is_none_or(|cut| cut.app == app))
            .collect();
        for id in made {
            self.cuts.remove(&id);
            self.promised.remove(&id);
            self.locals.made.remove(&id);
            self.locals.given_up.remove(&id);
        }
        if app == APP {
            // Orders on the node are about this one only.
            (self.locals.begun, self.locals.over) = Default::default();
        }
    }

    /// A row of zedmanager's, as far as orders on the node are concerned.
    pub fn local_order_moves(&mut self, row: &AppInstanceState) {
        let app = row.app.0;
        if let Some(operation) = &row.operation
            && let Some(LocalOrigin { action, digest, .. }) = &operation.local
        {
            self.local_order_begins(action, digest, operation.number);
        }
        let Some(outcome) = &row.last_local else {
            if self.locals.confirmed.as_ref().is_some_and(|(of, _)| *of == app) {
                self.violated("L8", "an order was taken in and is forgotten");
            }
            return;
        };
        self.local_order_is_known(app, outcome);
        if !outcome.is_running && self.locals.over.insert(outcome.digest.clone()) {
            self.local_order_ends(row, outcome);
        }
        for (id, entry) in row.snapshots.iter().filter(|(_, entry)| entry.local) {
            if matches!(entry.state, SnapshotState::Available(_)) {
                self.locals.made.insert(*id);
            }
        }
    }

    fn local_order_begins(&mut self, action: &LocalAction, digest: &str, number: OperationNumber) {
        if self.locals.agreed.get(digest).is_none_or(|(agreed, _)| agreed != action) {
            return self.violated("L7", format_args!("operation {number}: nobody agreed to {action}"));
        }
        let first = *self.locals.begun.entry(digest.to_owned()).or_insert(number);
        if first != number {
            self.violated("L7", format_args!("{action}: done by operation {first} and by {number}"));
        }
    }

    fn local_order_is_known(&mut self, app: Uuid, outcome: &LocalOutcome) {
        let place = |digest: &str| self.locals.agreed.get(digest).map(|(_, place)| *place);
        let Some(found) = place(&outcome.digest) else {
            return self.violated("L7", format_args!("nobody agreed to {}", outcome.action));
        };
        let confirmed = self.locals.confirmed.as_ref().filter(|(of, _)| *of == app);
        if confirmed.and_then(|(_, digest)| place(digest)).is_some_and(|place| place > found) {
            self.violated("L8", "an order was taken in and an older one is in the row");
        }
    }

    fn local_order_ends(&mut self, row: &AppInstanceState, outcome: &LocalOutcome) {
        let (app, action) = (row.app.0, &outcome.action);
        if let Some(error) = &outcome.error {
            self.note(format_args!("not done on the node: {action}: {error}"));
            // A guard or a tag that was changed meanwhile stops it as it stops the controller's.
            let is_blocked = error.summary.starts_with("Rollback blocked");
            if !(self.faults.has_impaired || is_blocked || self.orders.app(app).is_none()) {
                self.violated("I17", format_args!("{action} failed for nothing: {error}"));
            }
            return;
        }
        self.note(format_args!("done on the node: {action}"));
        *self.locals.done.entry(action.name()).or_default() += 1;
        let entry = row.snapshots.get(&outcome.snapshot);
        let is_available = entry.is_some_and(|entry| matches!(entry.state, SnapshotState::Available(_)));
        match action {
            LocalAction::CreateSnapshot => {
                let is_excused = entry.is_some_and(|entry| entry.trimmed) || self.orders.app(app).is_none();
                if !is_available && !is_excused {
                    let state = entry.map(|entry| &entry.state);
                    self.violated(
                        "L8",
                        format_args!("snapshot {} was made and is {state:?}", outcome.snapshot),
                    );
                }
            }
            LocalAction::DeleteSnapshot { .. } if is_available => {
                self.violated("L8", format_args!("snapshot {} was given up and is there", outcome.snapshot));
            }
            // What it restored is looked at where all rollbacks are.
            LocalAction::DeleteSnapshot { .. }
            | LocalAction::Rollback { .. }
            | LocalAction::RevertVolume { .. } => {}
        }
    }

    /// The node says that it has taken an order in: from now on no cut takes it back.
    pub fn local_order_confirmed(&mut self, answer: &AppPlan) {
        if let PlanAnswer::TakenIn { outcome, .. } = &answer.answer {
            self.locals.confirmed = Some((answer.app.0, outcome.digest.clone()));
        }
    }

    /// The application is gone, and its row with it.
    pub fn local_orders_end(&mut self, app: Uuid) {
        if self.locals.confirmed.as_ref().is_some_and(|(of, _)| *of == app) {
            self.locals.confirmed = None;
        }
    }
}

impl World {
    fn ask(&mut self, what: LocalAsk) -> u64 {
        let mut ground = locked(&self.ground);
        ground.locals.last_number += 1;
        let number = ground.locals.last_number;
        ground.note(format_args!("asked on the node: {what:?}"));
        drop(ground);
        self.local_orders.give(LocalOrder { app: AppId(APP), number, what });
        number
    }

    /// Steps until the answer is there. None: it does not come, because of faults or because nobody is there any more.
    fn answer(&mut self, number: u64) -> Result<Option<PlanAnswer>, Violation> {
        for _ in 0..STEPS_TO_AN_ANSWER {
            let answered = self.rows::<AppPlan>().into_iter().find(|row| row.app.0 == APP);
            if let Some(answer) = answered.filter(|answer| answer.number == number) {
                return Ok(Some(answer.answer.clone()));
            }
            if self.tap.has_cut() || !self.step()? {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// What an action would do, as far as the node tells.
    pub fn plan(&mut self, action: &LocalAction) -> Result<Option<Plan>, Violation> {
        let number = self.ask(LocalAsk::Plan(action.clone()));
        match self.answer(number)? {
            Some(PlanAnswer::Planned(plan)) => Ok(Some(*plan)),
            None => Ok(None),
            // A start that cannot read all its records yet (seed 5000000017).
            Some(PlanAnswer::Refused(why)) if why.starts_with(STANDSTILL) && self.has_faults() => Ok(None),
            Some(other) => Err(Violation { what: format!("L8: a plan was asked for, and {other:?}") }),
        }
    }

    /// Agrees to a plan. The answer has not come yet.
    fn agree(&mut self, action: &LocalAction, digest: &str) -> u64 {
        let mut ground = locked(&self.ground);
        let place = ground.locals.last_number + 1;
        // It may have been agreed to before the node died, and to others since (seed 6000006043).
        ground.locals.forget_unless_begun(digest);
        ground.locals.agreed.entry(digest.to_owned()).or_insert((action.clone(), place));
        if let LocalAction::DeleteSnapshot { snapshot } = action {
            ground.locals.given_up.insert(*snapshot);
        }
        drop(ground);
        self.ask(LocalAsk::Do { action: action.clone(), digest: digest.to_owned() })
    }

    /// Agrees to a plan and waits for the answer. What was refused must not happen later.
    fn carry_out(&mut self, action: &LocalAction, digest: &str) -> Result<Option<PlanAnswer>, Violation> {
        let number = self.agree(action, digest);
        let answer = self.answer(number)?;
        if matches!(answer, Some(PlanAnswer::Refused(_))) {
            let mut ground = locked(&self.ground);
            ground.locals.forget_unless_begun(digest);
            if let LocalAction::DeleteSnapshot { snapshot } = action {
                ground.locals.given_up.remove(snapshot);
            }
        }
        Ok(answer)
    }

    /// Plans and does, with nothing in between. False if it would be refused or was undone.
    pub fn do_locally(&mut self, action: LocalAction) -> Result<bool, Violation> {
        let Some(plan) = self.plan(&action)? else { return Ok(false) };
        let Some(digest) = plan.digest else { return Ok(false) };
        if !matches!(self.carry_out(&action, &digest)?, Some(PlanAnswer::TakenIn { .. })) {
            return Ok(false);
        }
        self.settle()?;
        let outcome = self.row_of_app().and_then(|row| row.last_local.clone());
        Ok(outcome.is_some_and(|outcome| outcome.digest == digest && outcome.error.is_none()))
    }

    fn row_of_app(&self) -> Option<std::sync::Arc<AppInstanceState>> {
        self.rows::<AppInstanceState>().into_iter().find(|row| row.app.0 == APP)
    }
}

/// One thing somebody on the node does: a plan, and mostly what follows from it.
pub fn operate(world: &mut World, chance: &SeededEntropy) -> Result<(), Violation> {
    let action = drawn_action(world, chance);
    order(world, chance, &action)
}

/// The application is halted, or about to be, for one of its volumes to be given back ([004] M3), and may run again.
pub fn revert(world: &mut World, chance: &SeededEntropy) -> Result<(), Violation> {
    activate(world, false);
    some_steps(world, chance, 80)?;
    let action = drawn_revert(world, chance);
    order(world, chance, &action)?;
    some_steps(world, chance, 40)?;
    activate(world, true);
    Ok(())
}

fn activate(world: &mut World, runs: bool) {
    world.order(|orders| {
        if orders.app(APP).is_some() {
            orders.edit(|device| {
                device.app(APP).activate(runs);
            });
        }
    });
    locked(&world.ground).note(format_args!("the controller orders activate: {runs}"));
}

fn order(world: &mut World, chance: &SeededEntropy, action: &LocalAction) -> Result<(), Violation> {
    let Some(plan) = world.plan(action)? else { return Ok(()) };
    if chance.next_u64().is_multiple_of(4) {
        // A digest nobody was shown for this.
        let number =
            world.ask(LocalAsk::Do { action: action.clone(), digest: "0123456789abcdef".to_owned() });
        if let Some(answer @ PlanAnswer::TakenIn { .. }) = world.answer(number)? {
            return Err(Violation { what: format!("L7: a wrong digest, and {answer:?}") });
        }
    }
    let Some(digest) = plan.digest else { return Ok(()) };
    // It may be another plan by then.
    some_steps(world, chance, 30)?;
    let taken_in = match chance.next_u64() % 4 {
        0 => {
            // Nobody waits for the answer: the process may die under it.
            world.agree(action, &digest);
            some_steps(world, chance, 20)?;
            false
        }
        _ => matches!(world.carry_out(action, &digest)?, Some(PlanAnswer::TakenIn { .. })),
    };
    if chance.next_u64().is_multiple_of(3) {
        world.restart()?;
        some_steps(world, chance, 30)?;
    }
    if chance.next_u64().is_multiple_of(2) {
        let answer = world.carry_out(action, &digest)?;
        let is_told = matches!(answer, Some(PlanAnswer::TakenIn { before: true, .. }) | None);
        if taken_in && !is_told {
            return Err(Violation { what: format!("L8: {action} was taken in; asked again: {answer:?}") });
        }
    }
    Ok(())
}

fn some_steps(world: &mut World, chance: &SeededEntropy, at_most: u64) -> Result<(), Violation> {
    for _ in 0..chance.next_u64() % at_most {
        if !world.step()? {
            world.pass_time();
        }
    }
    Ok(())
}

/// Of a snapshot that is known, mostly, and a volume that it may hold.
fn drawn_revert(world: &World, chance: &SeededEntropy) -> LocalAction {
    let volume = match chance.next_u64() % 4 {
        0 => None,
        number => Some(VolumeId(super::workload::volume(number as u8))),
    };
    let parameters = match chance.next_u64() % 8 {
        0 => BTreeMap::from([("copy-method".to_owned(), "copy".to_owned())]),
        _ => BTreeMap::new(),
    };
    LocalAction::RevertVolume { snapshot: drawn_snapshot(world, chance), volume, parameters }
}

fn drawn_snapshot(world: &World, chance: &SeededEntropy) -> SnapshotId {
    let known: Vec<SnapshotId> =
        world.row_of_app().map(|row| row.snapshots.keys().copied().collect()).unwrap_or_default();
    let nobodys = SnapshotId(Uuid::from_u128(0xdead));
    let number = chance.next_u64().checked_rem(known.len() as u64).unwrap_or_default();
    known.get(usize::try_from(number).unwrap_or_default()).copied().unwrap_or(nobodys)
}

fn drawn_action(world: &World, chance: &SeededEntropy) -> LocalAction {
    let snapshot = drawn_snapshot(world, chance);
    match chance.next_u64() % 5 {
        0 | 1 => LocalAction::Rollback { snapshot },
        2 | 3 => LocalAction::CreateSnapshot,
        _ => LocalAction::DeleteSnapshot { snapshot },
    }
}

/// Every moment of one order on the node in one setting: the plan leaves the disk as it is, and wherever the power goes the
/// order has happened or has not.
pub fn explore_local(bases: &Bases, setting: Setting, action: LocalAction, show: Show) -> Outcome {
    let mut outcome = Outcome::default();
    let story = format!("{setting:?}, on the node: {action}");
    let mut base = bases.of(setting).clone();
    base.ground.is_traced = show != Show::Nothing;
    let begun =
        World::after_cut(&base, Survival::Lost, Recorder::Off, Schedule::Fixed).and_then(|mut world| {
            world.settle()?;
            if matches!(action, LocalAction::RevertVolume { .. }) {
                activate(&mut world, false);
                world.settle()?;
            }
            let before = world.tap.disk.fingerprint();
            let digest = world.plan(&action)?.and_then(|plan| plan.digest);
            world.run()?;
            if world.tap.disk.fingerprint() != before {
                return Err(Violation { what: "L8: a plan changed something".to_owned() });
            }
            let digest = digest.ok_or_else(|| Violation { what: "L8: refused for nothing".to_owned() })?;
            world.tap.record(Recorder::All(vec![world.moment()]));
            world.agree(&action, &digest);
            Ok(world)
        });
    match begun {
        Ok(mut world) => {
            finish(
                &mut world,
                &story,
                Depth { coins: 0, second: super::explore::Second::No },
                show,
                &mut outcome,
            );
            let done = locked(&world.ground).locals.done.get(action.name()).copied();
            if done != Some(1) && outcome.failures.is_empty() {
                let violation = Violation { what: format!("L8: it was done {done:?} times") };
                outcome.failures.push(super::explore::Failure { story, violation, trace: trace_of(&world) });
            }
        }
        Err(violation) => {
            outcome.failures.push(super::explore::Failure { story, violation, trace: Vec::new() });
        }
    }
    outcome
}
