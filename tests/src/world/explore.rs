//! From workloads to cuts: every moment of a workload is a power cut, and each is recovered from and checked.
//!
//! ```text
//!   Setting.deployed ─▶ operations but the last ─▶ the last one, recorded ─▶ CutPoint, CutPoint, …
//!                                                          │ for each, for each Survival, unless seen before
//!                                                          ▼
//!                                        boot, settle, check ──(second cuts)──▶ CutPoint, …
//! ```
//!
//! Two cuts count as one if they leave the same bytes on the disk while the outside is the same.

use std::collections::HashSet;

use holdfast_agents::runtime::{Entropy, SeededEntropy};
use holdfast_persist::MemDisk;

use super::ground::locked;
use super::tap::{CutPoint, Recorder};
use super::workload::{OPS, Op, SETTINGS, Setting, Workload};
use super::{Schedule, Survival, Violation, World};

/// How far a workload is explored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Depth {
    /// How many draws of what survives, beside all and nothing.
    pub coins: u64,
    /// Whether the power is also cut at every call of the recovery.
    pub second_cuts: bool,
}

/// A cut that was followed by something forbidden, with how to get there again.
#[derive(Debug, Clone)]
pub struct Failure {
    pub story: String,
    pub violation: Violation,
    pub trace: Vec<String>,
}

/// What an exploration came to.
#[derive(Debug, Default)]
pub struct Outcome {
    pub cuts: u64,
    /// Moments that left what another had left already.
    pub repeated: u64,
    pub failures: Vec<Failure>,
    pub trace_hash: u64,
}

/// Deployed machines to start from, one per setting: made once.
#[derive(Debug)]
pub struct Bases(Vec<(Setting, CutPoint)>);

impl Bases {
    pub fn new() -> Result<Bases, Violation> {
        let made = SETTINGS.iter().map(|setting| Ok((*setting, setting.deployed()?.moment())));
        Ok(Bases(made.collect::<Result<_, Violation>>()?))
    }

    fn of(&self, setting: Setting) -> &CutPoint {
        let found = self.0.iter().find(|(known, _)| *known == setting);
        &found.expect("every setting has a base").1
    }
}

/// The run of one workload without a cut, up to where the last operation has been ordered.
fn prepared(
    bases: &Bases,
    workload: &Workload,
    schedule: Schedule,
    is_traced: bool,
) -> Result<Option<World>, Violation> {
    let mut base = bases.of(workload.setting).clone();
    base.ground.is_traced = is_traced;
    let mut world = World::after_cut(&base, Survival::Lost, Recorder::Off, schedule)?;
    world.settle()?;
    let last = workload.ops.len() - 1;
    for (number, op) in workload.ops.iter().enumerate() {
        let mut is_ordered = true;
        world.order(|orders| is_ordered = op.order(orders));
        if !is_ordered {
            return Ok(None);
        }
        locked(&world.ground).note(format_args!("the controller orders {op:?}"));
        let at_once = workload.is_hasty && number + 1 >= last;
        if number < last && !at_once {
            world.settle()?;
        }
    }
    Ok(Some(world))
}

/// A long workload of a seed: operations at any moment, in any order of steps.
fn drawn(bases: &Bases, seed: u64, is_traced: bool) -> Result<World, (Violation, Vec<String>)> {
    let chance = SeededEntropy::new(seed);
    let setting = SETTINGS[(chance.next_u64() % SETTINGS.len() as u64) as usize];
    let mut base = bases.of(setting).clone();
    base.ground.is_traced = is_traced;
    let schedule = Schedule::Drawn(SeededEntropy::new(chance.next_u64()));
    let mut world = World::after_cut(&base, Survival::Lost, Recorder::Off, schedule)
        .map_err(|violation| (violation, Vec::new()))?;
    let result = (|world: &mut World| {
        world.settle()?;
        world.tap.record(Recorder::All(Vec::new()));
        for _ in 0..3 + chance.next_u64() % 6 {
            let op = match OPS[(chance.next_u64() % OPS.len() as u64) as usize] {
                Op::DeleteApp if !chance.next_u64().is_multiple_of(4) => Op::RollBack,
                op => op,
            };
            world.order(|orders| {
                op.order(orders);
                orders.is_away = false;
            });
            locked(&world.ground).note(format_args!("the controller orders {op:?}"));
            match chance.next_u64() % 4 {
                0 => world.settle()?,
                1 => {}
                2 => world.order(|orders| orders.is_away = true),
                _ => drop(world.pass_time()),
            }
            for _ in 0..chance.next_u64() % 60 {
                if !world.step()? {
                    world.pass_time();
                }
            }
        }
        world.order(|orders| orders.is_away = false);
        world.settle()
    })(&mut world);
    match result {
        Ok(()) => Ok(world),
        Err(violation) => Err((violation, trace_of(&world))),
    }
}

fn trace_of(world: &World) -> Vec<String> {
    locked(&world.ground).trace.clone()
}

/// Explores one workload of the enumeration.
pub fn explore(bases: &Bases, workload: &Workload, depth: Depth, is_traced: bool) -> Outcome {
    let mut outcome = Outcome::default();
    let story = format!("{workload:?}");
    let world = match prepared(bases, workload, Schedule::Fixed, is_traced) {
        Ok(None) => return outcome,
        Ok(Some(world)) => world,
        Err(violation) => {
            outcome.failures.push(Failure { story, violation, trace: Vec::new() });
            return outcome;
        }
    };
    let mut world = world;
    world.tap.record(Recorder::All(vec![world.moment()]));
    finish(&mut world, &story, depth, &mut outcome);
    outcome
}

/// Explores the workload of a seed.
pub fn explore_seed(bases: &Bases, seed: u64, depth: Depth, is_traced: bool) -> Outcome {
    let mut outcome = Outcome::default();
    let story = format!("seed {seed}");
    match drawn(bases, seed, is_traced) {
        Ok(mut world) => finish(&mut world, &story, depth, &mut outcome),
        Err((violation, trace)) => outcome.failures.push(Failure { story, violation, trace }),
    }
    outcome
}

/// Runs to the end, then goes back to every moment that was recorded.
fn finish(world: &mut World, story: &str, depth: Depth, outcome: &mut Outcome) {
    if let Err(violation) = world.settle() {
        outcome.failures.push(Failure {
            story: format!("{story}, no cut"),
            violation,
            trace: trace_of(world),
        });
    }
    let Recorder::All(mut points) = world.tap.taken() else { return };
    points.push(world.moment());
    outcome.trace_hash = locked(&world.ground).trace_hash;
    cut_everywhere(&points, story, depth, outcome);
}

fn cut_everywhere(points: &[CutPoint], story: &str, depth: Depth, outcome: &mut Outcome) {
    let mut seen = HashSet::new();
    let coins = |call: u64| (0..depth.coins).map(move |coin| Survival::Coin(call * 64 + coin));
    for point in points {
        for survival in [Survival::Lost, Survival::Kept].into_iter().chain(coins(point.call)) {
            let disk = point.disk.fork();
            survival.cut(&disk);
            let outside = (point.ground.orders.edits, point.ground.last_mark, point.ground.promised.len());
            if !seen.insert((disk.fingerprint(), outside)) {
                outcome.repeated += 1;
                continue;
            }
            outcome.cuts += 1;
            recover(point, survival, disk, story, depth, outcome);
        }
    }
}

/// Lets the power come back on what the cut left of a moment's disk.
fn recover(
    point: &CutPoint,
    survival: Survival,
    disk: MemDisk,
    story: &str,
    depth: Depth,
    outcome: &mut Outcome,
) {
    let recorder = if depth.second_cuts { Recorder::All(Vec::new()) } else { Recorder::Off };
    let story = || format!("{story}, cut at call {} ({}) {survival:?}", point.call, point.what);
    let mut world = match World::after_cut_with(point, survival, disk, recorder, Schedule::Fixed) {
        Ok(world) => world,
        Err(violation) => {
            return outcome.failures.push(Failure { story: story(), violation, trace: Vec::new() });
        }
    };
    let settled = world.settle();
    outcome.trace_hash = outcome.trace_hash.rotate_left(1) ^ locked(&world.ground).trace_hash;
    match settled {
        Err(violation) => {
            outcome.failures.push(Failure { story: story(), violation, trace: trace_of(&world) });
        }
        Ok(()) => {
            if let Recorder::All(points) = world.tap.taken()
                && depth.second_cuts
            {
                let depth = Depth { coins: 0, second_cuts: false };
                cut_everywhere(&points, &story(), depth, outcome);
            }
        }
    }
}

/// The longest workloads of the enumeration.
pub const LENGTH: usize = 3;

/// Explores the workload of this number: first the enumeration, shorter ones first and those of one operation with a
/// second cut at every call of each recovery; beyond it long ones, drawn.
pub fn explore_numbered(bases: &Bases, number: u64, is_traced: bool) -> Outcome {
    static EVERY: std::sync::LazyLock<Vec<Workload>> =
        std::sync::LazyLock::new(|| super::workload::every(LENGTH));
    match usize::try_from(number).ok().and_then(|number| EVERY.get(number)) {
        Some(workload) => {
            let depth = Depth { coins: 2, second_cuts: workload.ops.len() == 1 };
            explore(bases, workload, depth, is_traced)
        }
        None => explore_seed(bases, number, Depth { coins: 1, second_cuts: false }, is_traced),
    }
}
