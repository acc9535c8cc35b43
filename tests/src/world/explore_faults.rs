//! Every single fault of every workload of one operation, and a killed node at every call.
//!
//! ```text
//!   Setting.deployed ─▶ ordered, one fault planned ─▶ settled ─▶ faults stop ─▶ settled ─▶ the controller reacts ─▶ settled ─▶ restart
//!                        │ strikes at the 1st, 2nd, 3rd, … opportunity, until it finds none
//!                        └ once, or for so long that an operation gives up
//! ```
//!
//! While a fault may have made an operation fail, a failure that is told is an end (`check.rs`). Then the controller reacts:
//! an update that waits gets another version, a snapshot that failed is dropped, and the application is stopped and started again; from there on nothing is excused.

use std::collections::HashSet;

use holdfast_types::{AppInstanceState, SnapshotId, SnapshotState};

use super::check;
use super::drawn::RESERVE_BYTES;
use super::explore::{Bases, Failure, Outcome, Show, trace_of};
use super::faults::FaultKind;
use super::ground::locked;
use super::tap::{CutPoint, Recorder};
use super::workload::{APP, Op, Workload};
use super::{Schedule, Survival, Violation, World};

/// What is tried at every opportunity: the kind, for how many, and the node's ballast.
#[derive(Debug, Clone, Copy)]
struct Trial {
    kind: FaultKind,
    length: u64,
    reserve_size_bytes: u64,
}

const TRIALS: [Trial; 21] = [
    trial(FaultKind::NoSpace, 1),
    trial(FaultKind::NoSpace, 24),
    Trial { reserve_size_bytes: RESERVE_BYTES, ..trial(FaultKind::NoSpace, 1) },
    Trial { reserve_size_bytes: RESERVE_BYTES, ..trial(FaultKind::NoSpace, 400) },
    trial(FaultKind::Io, 1),
    trial(FaultKind::Io, 12),
    trial(FaultKind::ReadIo, 1),
    trial(FaultKind::Tool, 1),
    trial(FaultKind::Tool, 8),
    trial(FaultKind::GuestRefuses, 1),
    trial(FaultKind::GuestRefuses, 4),
    trial(FaultKind::GuestHangs, 1),
    trial(FaultKind::GuestDiesAtStart, 1),
    trial(FaultKind::GuestDiesAtStart, 4),
    trial(FaultKind::GuestDeaf, 1),
    trial(FaultKind::GuestDeaf, 30),
    trial(FaultKind::Duplicate, 1),
    trial(FaultKind::Stale, 1),
    trial(FaultKind::LostReply, 1),
    trial(FaultKind::LinkLoss, 3),
    trial(FaultKind::GuestDies, 1),
];

/// Longer than anything waits before it tries again.
const RESTING_TIMERS: usize = 40;

const fn trial(kind: FaultKind, length: u64) -> Trial {
    Trial { kind, length, reserve_size_bytes: 0 }
}

/// Every fault at every `stride`-th opportunity of a workload of one operation, and a kill at each of its calls.
pub fn explore_single_faults(bases: &Bases, workload: &Workload, stride: u64, show: Show) -> Outcome {
    let mut outcome = Outcome::default();
    for trial in TRIALS {
        let mut after = 0;
        while run(bases, workload, trial, after, show, &mut outcome) {
            after += stride;
        }
    }
    kill_everywhere(bases, workload, stride, show, &mut outcome);
    outcome
}

fn ordered(bases: &Bases, workload: &Workload, trial: Option<Trial>, show: Show) -> Result<World, Violation> {
    let mut base = bases.of(workload.setting).clone();
    base.ground.is_traced = show != Show::Nothing;
    base.ground.reserve_size_bytes = trial.map_or(0, |trial| trial.reserve_size_bytes);
    let mut world = World::after_cut(&base, Survival::Lost, Recorder::Off, Schedule::Fixed)?;
    world.settle()?;
    let op: Op = workload.ops[0];
    world.order(|orders| {
        op.order(orders);
    });
    locked(&world.ground).note(format_args!("the controller orders {op:?}"));
    Ok(world)
}

/// False when the workload has no opportunity so late.
fn run(
    bases: &Bases,
    workload: &Workload,
    trial: Trial,
    after: u64,
    show: Show,
    outcome: &mut Outcome,
) -> bool {
    let story = || format!("{workload:?}, {trial:?} after {after}");
    let mut world = match ordered(bases, workload, Some(trial), show) {
        Ok(world) => world,
        Err(violation) => {
            outcome.failures.push(Failure { story: story(), violation, trace: Vec::new() });
            return false;
        }
    };
    locked(&world.ground).faults.plan(trial.kind, after, trial.length);
    let ended = settle_faulted(&mut world, after.is_multiple_of(2));
    let has_fired = locked(&world.ground).faults.count_of(trial.kind) > 0;
    outcome.count(&world.ground);
    outcome.fault_runs += u64::from(has_fired);
    let trace_hash = locked(&world.ground).trace_hash;
    outcome.trace_hash = outcome.trace_hash.rotate_left(1) ^ trace_hash;
    match ended {
        Ok(()) => has_fired,
        Err(violation) => {
            outcome.failures.push(Failure { story: story(), violation, trace: trace_of(&world) });
            has_fired
        }
    }
}

fn settle_faulted(world: &mut World, restarts: bool) -> Result<(), Violation> {
    rest(world)?;
    locked(&world.ground).faults.stop();
    world.settle_and_tidy()?;
    react(world)?;
    if restarts {
        world.restart()?;
        world.settle()?;
    }
    Ok(())
}

/// Until everything is as it should, or for some time where faults stand in the way.
pub fn rest(world: &mut World) -> Result<(), Violation> {
    for _ in 0..RESTING_TIMERS {
        if !locked(&world.ground).faults.is_armed() {
            return world.settle();
        }
        world.run()?;
        if check::settled(world).is_ok() || !world.pass_time() {
            break;
        }
    }
    Ok(())
}

/// The controller reacts to what failed, and nothing is excused any more.
pub fn react(world: &mut World) -> Result<(), Violation> {
    if !locked(&world.ground).faults.has_impaired {
        return Ok(());
    }
    if locked(&world.ground).faults.has_read_error {
        world.restart()?;
        world.settle()?;
        locked(&world.ground).faults.has_read_error = false;
        world.settle()?;
    }
    let rows = world.rows::<AppInstanceState>();
    if let Some(row) = rows.iter().find(|row| row.app.0 == APP) {
        let waits = row.waiting.is_some();
        let failed: Vec<SnapshotId> = row
            .snapshots
            .iter()
            .filter(|(_, entry)| matches!(entry.state, SnapshotState::Failed(_)))
            .map(|(id, _)| *id)
            .collect();
        world.order(|orders| {
            if waits {
                // Its snapshots are asked for again with it.
                Op::Update.order(orders);
            }
            orders.edit(|device| {
                for id in failed.iter().filter(|_| !waits) {
                    device.app(APP).drop_snapshot(id);
                }
            });
        });
        locked(&world.ground).note(format_args!("the controller reacts; waiting {waits}, failed {failed:?}"));
    }
    // While the guest is down, what could not be tidied is.
    activate(world, false)?;
    locked(&world.ground).faults.has_impaired = false;
    world.settle()?;
    activate(world, true)?;
    world.settle()
}

fn activate(world: &mut World, activate: bool) -> Result<(), Violation> {
    world.order(|orders| {
        if orders.app(APP).is_some() {
            orders.edit(|device| {
                device.app(APP).activate(activate);
            });
        }
    });
    world.pass_time();
    world.run()
}

/// What a node that starts at this moment could find.
fn found_at(point: &CutPoint) -> (u64, u64, u64, Vec<SnapshotId>, Vec<bool>) {
    let ground = &point.ground;
    let up = ground.machines.values().map(|machine| machine.ended.is_none()).collect();
    let promised = ground.promised.iter().copied().collect();
    (point.disk.fingerprint(), ground.orders.edits, ground.last_mark, promised, up)
}

/// Runs a workload and looks after each step, be it a message or a job: how many steps there were, and which of them left
/// something that no recorded moment before a device call has.
pub fn steps_without_a_call(bases: &Bases, workload: &Workload) -> Result<(usize, Vec<usize>), Violation> {
    let mut world = ordered(bases, workload, None, Show::Nothing)?;
    world.tap.record(Recorder::All(Vec::new()));
    let mut after_steps = Vec::new();
    loop {
        while world.step()? {
            after_steps.push(found_at(&world.moment()));
        }
        if check::settled(&world).is_ok() || !world.pass_time() {
            break;
        }
    }
    let last = found_at(&world.moment());
    let Recorder::All(points) = world.tap.taken() else { return Ok((0, Vec::new())) };
    let known: HashSet<_> = points.iter().map(found_at).chain([last]).collect();
    let others = after_steps.iter().enumerate().filter(|(_, found)| !known.contains(*found));
    Ok((after_steps.len(), others.map(|(number, _)| number).collect()))
}

/// The node's process is killed before each call, and started again on what it left behind.
fn kill_everywhere(bases: &Bases, workload: &Workload, stride: u64, show: Show, outcome: &mut Outcome) {
    let points = ordered(bases, workload, None, show).and_then(|mut world| {
        world.tap.record(Recorder::All(Vec::new()));
        world.settle()?;
        Ok(world.tap.taken())
    });
    let points = match points {
        Ok(Recorder::All(points)) => points,
        Ok(_) => return,
        Err(violation) => {
            let story = format!("{workload:?}, no fault");
            return outcome.failures.push(Failure { story, violation, trace: Vec::new() });
        }
    };
    let mut seen = HashSet::new();
    for point in points.iter().step_by(usize::try_from(stride).unwrap_or(1)) {
        let up: Vec<bool> = point.ground.machines.values().map(|machine| machine.ended.is_none()).collect();
        if seen.insert((point.disk.fingerprint(), point.ground.last_mark, up)) {
            kill(point, workload, outcome);
        }
    }
}

fn kill(point: &CutPoint, workload: &Workload, outcome: &mut Outcome) {
    let story = || format!("{workload:?}, killed at call {} ({})", point.call, point.what);
    let mut failed = |violation, trace| outcome.failures.push(Failure { story: story(), violation, trace });
    let mut world = match World::after_kill(point, Recorder::Off, Schedule::Fixed) {
        Ok(world) => world,
        Err(violation) => return failed(violation, Vec::new()),
    };
    if let Err(violation) = world.settle() {
        failed(violation, trace_of(&world));
    }
    outcome.fault_runs += 1;
    outcome.count(&world.ground);
}
