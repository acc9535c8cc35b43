//! From workloads to cuts: every moment of a workload is a power cut, and each is recovered from and checked.
//!
//! ```text
//!   Setting.deployed ─▶ operations but the last ─▶ the last one, recorded ─▶ CutPoint, CutPoint, …
//!                                                          │ for each, for each Survival, unless seen before
//!                                                          ▼
//!                                        boot, settle, check ──(second cuts)──▶ CutPoint, …
//! ```
//!
//! Two cuts of a workload count as one if they leave the same bytes on the disk while the outside is the same, be they
//! first cuts or second ones.
//!
//! Seeds are numbers: first those of the enumeration, each workload with every first cut; then the same workloads again
//! with a second cut at every call of the recovery from each first one; then those of one operation with every single
//! fault; beyond them workloads are drawn, one in sixteen with second cuts. From `LATE_SEEDS` on, all of these come again with
//! commits made beside the agents' steps, as the node makes them.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, LazyLock};

use holdfast_persist::MemDisk;

use super::diff::Seen;
pub use super::drawn::explore_seed;
use super::explore_faults::explore_single_faults;
use super::faults::Fired;
use super::ground::{SharedGround, locked};
use super::locals::LOCAL_SEEDS;
use super::meddling::{GUARD_SEEDS, RAW_SEEDS};
use super::tap::{CutPoint, Recorder};
use super::workload::{ON_FILES, ON_RAW, ON_ZFS, Setting, Workload};
use super::{Left, Schedule, Survival, Violation, World};

/// How far a workload is explored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Depth {
    /// How many draws of what survives, beside all and nothing.
    pub coins: u64,
    pub second: Second,
}

/// Whether the power is also cut at every call of each recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Second {
    No,
    Too,
    /// First cuts are recovered from, and neither counted nor checked: that was done before.
    Only,
}

/// What is remembered of the way, for somebody to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    Nothing,
    Violations,
    /// Violations, and the cut with this number; 0 is the run without a cut.
    Cut(u64),
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
    /// The cut that was asked for.
    pub shown: Option<(String, Vec<String>)>,
    /// Runs with a single fault that fired, or with a killed node.
    pub fault_runs: u64,
    pub fired: Fired,
    /// Orders on the node that were done, by name.
    pub done_locally: BTreeMap<&'static str, u64>,
    /// Events that were handled before an earlier step was durable.
    pub handled_early: u64,
    /// Rollbacks that were judged by their guard (I8).
    pub guards_judged: u64,
}

impl Outcome {
    fn failed(&mut self, story: String, violation: Violation, trace: Vec<String>) {
        self.failures.push(Failure { story, violation, trace });
    }

    /// Counts what has fired in a world that is done with.
    pub(super) fn count(&mut self, ground: &SharedGround) {
        for (kind, count) in locked(ground).faults.fired() {
            *self.fired.entry(kind).or_default() += count;
        }
        for (action, count) in &locked(ground).locals.done {
            *self.done_locally.entry(action).or_default() += count;
        }
        self.handled_early += locked(ground).handled_early;
        self.guards_judged += locked(ground).guards_judged;
    }
}

/// Deployed machines to start from, one per setting: made once.
#[derive(Debug, Clone)]
pub struct Bases(Vec<(Setting, CutPoint)>);

impl Bases {
    pub fn new() -> Result<Bases, Violation> {
        let made = ON_FILES
            .iter()
            .chain(&ON_ZFS)
            .chain(&ON_RAW)
            .map(|setting| Ok((*setting, setting.deployed()?.moment())));
        Ok(Bases(made.collect::<Result<_, Violation>>()?))
    }

    /// The same machines, on which commits are made beside the agents' steps: any event may be handled while an earlier step is
    /// not durable yet.
    pub fn with_commits_beside(&self) -> Bases {
        let mut bases = self.clone();
        bases.0.iter_mut().for_each(|(_, base)| base.ground.commits_beside = true);
        bases
    }

    pub(super) fn of(&self, setting: Setting) -> &CutPoint {
        let found = self.0.iter().find(|(known, _)| *known == setting);
        &found.expect("every setting has a base").1
    }
}

/// The run of one workload without a cut, up to where the last operation has been ordered.
fn prepared(
    bases: &Bases,
    workload: &Workload,
    schedule: Schedule,
    show: Show,
) -> Result<Option<World>, Violation> {
    let mut base = bases.of(workload.setting).clone();
    base.ground.is_traced = show != Show::Nothing;
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

pub(super) fn trace_of(world: &World) -> Vec<String> {
    locked(&world.ground).trace.clone()
}

/// Explores one workload of the enumeration.
pub fn explore(bases: &Bases, workload: &Workload, depth: Depth, show: Show) -> Outcome {
    let mut outcome = Outcome::default();
    let story = format!("{workload:?}");
    match prepared(bases, workload, Schedule::Fixed, show) {
        Ok(None) => {}
        Ok(Some(mut world)) => {
            world.tap.record(Recorder::All(vec![world.moment()]));
            finish(&mut world, &story, depth, show, &mut outcome);
        }
        Err(violation) => outcome.failed(story, violation, Vec::new()),
    }
    outcome
}

/// Runs to the end, then goes back to every moment that was recorded.
pub(super) fn finish(world: &mut World, story: &str, depth: Depth, show: Show, outcome: &mut Outcome) {
    if let Err(violation) = world.settle_and_tidy() {
        outcome.failed(format!("{story}, no cut"), violation, trace_of(world));
    }
    let Recorder::All(mut points) = world.tap.taken() else { return };
    points.push(world.moment());
    outcome.trace_hash = locked(&world.ground).trace_hash;
    if show == Show::Cut(0) {
        outcome.shown = Some((format!("{story}, no cut"), trace_of(world)));
    }
    let counted = depth.second != Second::Only;
    cut_everywhere(&points, story, depth, counted, &mut HashSet::new(), show, outcome);
}

/// What cuts have left: a disk's fingerprint, and the outside then.
type SeenLeft = HashSet<(u64, (u64, u64, usize))>;

/// `is_counted` is false for cuts that only lead to others.
fn cut_everywhere(
    points: &[CutPoint],
    story: &str,
    depth: Depth,
    is_counted: bool,
    seen: &mut SeenLeft,
    show: Show,
    outcome: &mut Outcome,
) {
    let coins = |call: u64| (0..depth.coins).map(move |coin| Survival::Coin(call * 64 + coin));
    for point in points {
        let mut survivals = [Survival::Lost, Survival::Kept].into_iter().chain(coins(point.call));
        while let Some(survival) = survivals.next() {
            let Left { disk, was_synced } = survival.after_cut(&point.disk);
            let outside = (point.ground.orders.edits, point.ground.last_mark, point.ground.promised.len());
            if seen.insert((disk.fingerprint(), outside)) {
                outcome.cuts += u64::from(is_counted);
                let cut = Cut { point, survival, disk, story };
                recover(cut, depth, seen, show, outcome);
            } else {
                outcome.repeated += u64::from(is_counted);
            }
            if was_synced {
                // The others leave the same.
                outcome.repeated += if is_counted { survivals.by_ref().count() as u64 } else { 0 };
                break;
            }
        }
    }
}

/// One cut: what the power leaves of a moment.
struct Cut<'a> {
    point: &'a CutPoint,
    survival: Survival,
    disk: MemDisk,
    /// What came before it.
    story: &'a str,
}

impl Cut<'_> {
    fn story(&self) -> String {
        let CutPoint { call, what, .. } = self.point;
        format!("{}, cut at call {call} ({what}) {:?}", self.story, self.survival)
    }
}

/// Lets the power come back.
fn recover(cut: Cut<'_>, depth: Depth, seen: &mut SeenLeft, show: Show, outcome: &mut Outcome) {
    let recorder = if depth.second == Second::No { Recorder::Off } else { Recorder::All(Vec::new()) };
    let ground = cut.point.after_cut(cut.survival);
    if show != Show::Nothing {
        locked(&ground).tell(Seen::of(&cut.point.disk).changes(&Seen::of(&cut.disk)));
    }
    let number = outcome.cuts;
    let booted = World::boot_on(cut.disk.clone(), Arc::clone(&ground), recorder, Schedule::Fixed);
    let settled = booted.and_then(|mut world| world.settle_and_tidy().map(|()| world.tap.taken()));
    outcome.count(&ground);
    outcome.trace_hash = outcome.trace_hash.rotate_left(1) ^ locked(&ground).trace_hash;
    let trace = || locked(&ground).trace.clone();
    if show == Show::Cut(number) && outcome.shown.is_none() {
        outcome.shown = Some((cut.story(), trace()));
    }
    match settled {
        Err(violation) => outcome.failed(cut.story(), violation, trace()),
        Ok(Recorder::All(points)) => {
            let depth = Depth { coins: 0, second: Second::No };
            cut_everywhere(&points, &cut.story(), depth, true, seen, show, outcome);
        }
        Ok(_) => {}
    }
}

/// The longest workloads of the enumeration.
pub const LENGTH: usize = 3;

static ON_FILES_EVERY: LazyLock<Vec<Workload>> = LazyLock::new(|| super::workload::every(LENGTH, &ON_FILES));
static ON_ZFS_EVERY: LazyLock<Vec<Workload>> = LazyLock::new(|| super::workload::every(LENGTH, &ON_ZFS));

/// Seeds from here on are of nodes on ZFS; below it, of nodes on files. Counted from here, they are in the same order.
pub const ZFS_SEEDS: u64 = 1_000_000_000;

/// Seeds from here on are of nodes that make commits beside the agents' steps: the enumeration in the same order, on files, and
/// then all that is drawn before, on any storage.
pub const LATE_SEEDS: u64 = 6_000_000_000;

/// The same, with the enumeration on ZFS.
pub const LATE_ZFS_SEEDS: u64 = 7_000_000_000;

/// What is deployed before the workload of this seed.
pub fn settings_of(seed: u64) -> &'static [Setting] {
    match seed {
        LOCAL_SEEDS.. if seed.is_multiple_of(3) => &ON_FILES,
        LOCAL_SEEDS.. if seed % 3 == 1 => &ON_ZFS,
        RAW_SEEDS.. => &ON_RAW,
        GUARD_SEEDS.. if seed.is_multiple_of(3) => &ON_FILES,
        ZFS_SEEDS.. => &ON_ZFS,
        _ => &ON_FILES,
    }
}

/// Drawn seeds that leave this of sixteen have second cuts as well. It is odd, so these have faults before the first cut.
const SECOND_CUTS_OF_16: u64 = 7;

/// How many workloads the enumeration has, on either; twice as many seeds.
pub fn enumerated() -> u64 {
    ON_FILES_EVERY.len() as u64
}

/// Explores the workload of this seed.
pub fn explore_numbered(bases: &Bases, seed: u64, show: Show) -> Outcome {
    let (every, first) = match seed {
        LATE_ZFS_SEEDS.. => (&*ON_ZFS_EVERY, LATE_ZFS_SEEDS),
        LATE_SEEDS.. => (&*ON_FILES_EVERY, LATE_SEEDS),
        ZFS_SEEDS.. => (&*ON_ZFS_EVERY, ZFS_SEEDS),
        _ => (&*ON_FILES_EVERY, 0),
    };
    let number = seed - first;
    let late = (seed >= LATE_SEEDS).then(|| bases.with_commits_beside());
    let bases = late.as_ref().unwrap_or(bases);
    let at = |number: u64| usize::try_from(number).ok().and_then(|number| every.get(number));
    let single = |number: u64| {
        let mut singles = every.iter().filter(|workload| workload.ops.len() == 1);
        usize::try_from(number).ok().and_then(|number| singles.nth(number))
    };
    if let Some(workload) = at(number) {
        explore(bases, workload, Depth { coins: 2, second: Second::No }, show)
    } else if let Some(workload) = at(number - enumerated()) {
        explore(bases, workload, Depth { coins: 0, second: Second::Only }, show)
    } else if let Some(workload) = single(number - 2 * enumerated()) {
        explore_single_faults(bases, workload, 1, show)
    } else {
        let second = if seed % 16 == SECOND_CUTS_OF_16 { Second::Too } else { Second::No };
        explore_seed(bases, seed, Depth { coins: 1, second }, show)
    }
}
