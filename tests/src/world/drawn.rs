//! Workloads beyond the enumeration, drawn by seed: operations at any moment, steps in any order, and faults.
//!
//! ```text
//!   seed ─▶ setting, schedule ─▶ (operation, some steps, the link comes and goes) × 3..8 ─▶ faults stop ─▶ settled ─▶ the controller
//!     └──▶ faults of each kind, by a coin                                          reacts to failures ─▶ every snapshot rolled back to
//! ```
//!
//! Seeds from `GUARD_SEEDS` on draw guards, tags and strangers as well (`meddling.rs`), those from `LOCAL_SEEDS` on plans and
//! orders on the node besides (`locals.rs`). Where commits are made beside the agents' steps, it is drawn when.
//! Of five seeds the fourth keeps no tables. Seeds that are multiples of four draw no faults; those that leave five of eight stop and
//! start the application as well. Every moment up to where faults stop is a power cut, as everywhere.

use std::collections::{BTreeSet, VecDeque};

use holdfast_agents::runtime::{Entropy, SeededEntropy};
use holdfast_types::{LocalAction, SnapshotId, SnapshotState};

use super::explore::{Bases, Depth, Failure, Outcome, Show, finish, settings_of, trace_of};
use super::faults::{FaultKind, KINDS};
use super::ground::locked;
use super::locals::{LOCAL_SEEDS, REVERT_SEEDS, operate, revert};
use super::meddling::{GUARD_SEEDS, meddle, open_up};
use super::tap::Recorder;
use super::workload::{APP, OPS, Op};
use super::{Schedule, Survival, Violation, World};

/// Explores the workload of a seed.
pub fn explore_seed(bases: &Bases, seed: u64, depth: Depth, show: Show) -> Outcome {
    let mut outcome = Outcome::default();
    let story = format!("seed {seed}");
    match drawn(bases, seed, show) {
        Ok(mut world) => {
            finish(&mut world, &story, depth, show, &mut outcome);
            if outcome.failures.is_empty()
                && let Err(violation) = afterwards(&mut world, seed >= GUARD_SEEDS)
            {
                let story = format!("{story}, at the end");
                outcome.failures.push(Failure { story, violation, trace: trace_of(&world) });
            }
            outcome.count(&world.ground);
        }
        Err((violation, trace)) => outcome.failures.push(Failure { story, violation, trace }),
    }
    outcome
}

/// A long workload of a seed, up to where faults have stopped.
fn drawn(bases: &Bases, seed: u64, show: Show) -> Result<World, (Violation, Vec<String>)> {
    let chance = SeededEntropy::new(seed);
    let settings = settings_of(seed);
    let setting = settings[(chance.next_u64() % settings.len() as u64) as usize];
    let mut base = bases.of(setting).clone();
    base.ground.is_traced = show != Show::Nothing;
    base.ground.keeps_no_tables = seed % 5 == 3;
    let faults = SeededEntropy::new(seed.rotate_left(17) ^ 0x000F_A017);
    let has_faults = !seed.is_multiple_of(4);
    let (is_guarded, strange) = (seed >= GUARD_SEEDS, SeededEntropy::new(seed.rotate_left(29) ^ 0x57A6));
    let (is_operated, local) = (seed >= LOCAL_SEEDS, SeededEntropy::new(seed.rotate_left(41) ^ 0x10CA));
    if has_faults && faults.next_u64().is_multiple_of(2) {
        base.ground.reserve_size_bytes = RESERVE_BYTES;
    }
    let schedule = Schedule::Drawn(SeededEntropy::new(chance.next_u64()));
    let mut world = World::after_cut(&base, Survival::Lost, Recorder::Off, schedule)
        .map_err(|violation| (violation, Vec::new()))?;
    let result = (|world: &mut World| {
        world.settle()?;
        world.tap.record(Recorder::All(Vec::new()));
        if has_faults {
            plan(world, &faults);
        }
        for _ in 0..3 + chance.next_u64() % 6 {
            if seed % 8 == 5 && faults.next_u64().is_multiple_of(3) {
                switch(world);
            }
            if is_guarded {
                for _ in 0..strange.next_u64() % 3 {
                    meddle(world, &strange);
                }
            }
            if is_operated && !local.next_u64().is_multiple_of(3) {
                operate(world, &local)?;
            }
            if seed >= REVERT_SEEDS && local.next_u64().is_multiple_of(2) {
                revert(world, &local)?;
            }
            order(world, &chance)?;
            for _ in 0..chance.next_u64() % 60 {
                if !world.step()? {
                    world.pass_time();
                }
            }
        }
        world.order(|orders| orders.is_away = false);
        locked(&world.ground).faults.stop();
        world.settle()
    })(&mut world);
    match result {
        Ok(()) => Ok(world),
        Err(violation) => Err((violation, trace_of(&world))),
    }
}

/// Small, for it is written anew with every boot that lost it.
pub const RESERVE_BYTES: u64 = 4096;

fn order(world: &mut World, chance: &SeededEntropy) -> Result<(), Violation> {
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
        0 => return super::explore_faults::rest(world),
        1 => {}
        2 => world.order(|orders| orders.is_away = true),
        _ => drop(world.pass_time()),
    }
    Ok(())
}

/// An application that runs is to stop, one that is stopped is to run.
fn switch(world: &mut World) {
    let Some(runs) = locked(&world.ground).orders.app(APP).map(|app| app.activate) else { return };
    world.order(|orders| {
        orders.edit(|device| {
            device.app(APP).activate(!runs);
        });
    });
    locked(&world.ground).note(format_args!("the controller orders activate: {}", !runs));
}

/// Each kind with a probability of one in four, somewhere in the run, once or for a while.
fn plan(world: &World, chance: &SeededEntropy) {
    let mut ground = locked(&world.ground);
    ground.faults.is_lasting = chance.next_u64().is_multiple_of(4);
    for kind in KINDS {
        if !chance.next_u64().is_multiple_of(4) {
            continue;
        }
        for _ in 0..1 + chance.next_u64() % 2 {
            let (within, longest) = reach(kind);
            let is_single = chance.next_u64().is_multiple_of(2);
            let length = if is_single { 1 } else { 1 + chance.next_u64() % longest };
            let after = chance.next_u64() % within;
            ground.faults.plan(kind, after, length);
            ground.note(format_args!("planned: {kind} after {after}, {length} times"));
        }
    }
}

/// Within how many opportunities a run of usual length has, and for how many at most.
fn reach(kind: FaultKind) -> (u64, u64) {
    match kind {
        FaultKind::NoSpace | FaultKind::Io => (400, 40),
        FaultKind::ReadIo => (150, 8),
        FaultKind::Tool => (30, 8),
        FaultKind::GuestRefuses
        | FaultKind::GuestHangs
        | FaultKind::GuestDiesAtStart
        | FaultKind::GuestDeaf => (5, 3),
        FaultKind::GuestDies | FaultKind::ClockJump | FaultKind::ServiceRestart => (300, 3),
        FaultKind::Duplicate | FaultKind::Stale | FaultKind::LinkLoss => (10, 3),
        FaultKind::LostReply => (20, 4),
    }
}

/// Everything has settled: the controller reacts to what failed, the service is started again, and each snapshot that is
/// there really rolls back (I4); the guests look.
fn afterwards(world: &mut World, is_guarded: bool) -> Result<(), Violation> {
    if is_guarded {
        open_up(world)?;
    }
    super::explore_faults::react(world)?;
    world.restart()?;
    world.settle()?;
    if locked(&world.ground).orders.app(APP).is_some_and(|app| !app.activate) {
        switch(world);
    }
    let (mut known, mut waiting) = (BTreeSet::new(), VecDeque::new());
    let mut refused_in_a_row = 0;
    loop {
        // One that could not be cut before may be cut meanwhile, and then stands in the way of the others.
        for id in available(world).into_iter().rev() {
            if known.insert(id) {
                waiting.push_front(id);
                refused_in_a_row = 0;
            }
        }
        let Some(id) = waiting.pop_front() else { return Ok(()) };
        let Some(is_done) = roll_back_to(world, id)? else { continue };
        let newer_block = locked(&world.ground).storage.newer_snapshots_block();
        if !is_done && newer_block && refused_in_a_row < waiting.len() {
            // Of those cut in one operation, storage knows which came later.
            waiting.push_back(id);
            refused_in_a_row += 1;
            continue;
        }
        refused_in_a_row = 0;
        if !is_done {
            return Err(Violation {
                what: format!("I4: snapshot {id} is available and was not rolled back to"),
            });
        }
        if newer_block {
            give_up(world, id)?;
        }
    }
}

/// By whoever knows of it: the controller, or somebody on the node. None: nobody does any more.
fn roll_back_to(world: &mut World, id: SnapshotId) -> Result<Option<bool>, Violation> {
    if !locked(&world.ground).orders.names(id) {
        let is_local = locked(&world.ground).locals.made.contains(&id);
        return match is_local {
            true => world.do_locally(LocalAction::Rollback { snapshot: id }).map(Some),
            false => Ok(None),
        };
    }
    world.order(|orders| {
        orders.edit(|device| {
            device.app(APP).roll_back(id);
        });
    });
    locked(&world.ground).note(format_args!("the controller orders a rollback to {id}"));
    let acted = |world: &World| locked(&world.ground).past.get(&APP).map_or(0, |past| past.acted_counter);
    let before = acted(world);
    world.settle()?;
    Ok(Some(acted(world) > before))
}

fn give_up(world: &mut World, id: SnapshotId) -> Result<(), Violation> {
    if !locked(&world.ground).orders.names(id) {
        return match world.do_locally(LocalAction::DeleteSnapshot { snapshot: id })? {
            true => Ok(()),
            false => Err(Violation { what: format!("L8: snapshot {id} cannot be given up on the node") }),
        };
    }
    world.order(|orders| {
        orders.edit(|device| {
            device.app(APP).drop_snapshot(id);
        });
    });
    world.settle()
}

/// Newest cut first: on ZFS a newer one stands in the way of an older one.
fn available(world: &World) -> Vec<holdfast_types::SnapshotId> {
    let rows = world.rows::<holdfast_types::AppInstanceState>();
    let row = rows.iter().find(|row| row.app.0 == APP);
    let snapshots = row.into_iter().flat_map(|row| &row.snapshots);
    let mut cut: Vec<_> = snapshots
        .filter_map(|(id, entry)| match &entry.state {
            SnapshotState::Available(instance) => Some((instance.operation, *id)),
            _ => None,
        })
        .collect();
    cut.sort();
    cut.into_iter().rev().map(|(_, id)| id).collect()
}
