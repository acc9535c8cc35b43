//! The World: a whole node on a simulated machine whose power can be cut between any two device calls.
//!
//! ```text
//!              orders, reports                  start, stop                    files, images
//!   ┌ Ground ─ controller ───┐        ┌───────── guests ─────────┐        ┌──── MemDisk ─────────────┐
//!   │          model         │◀──tap──│  marks on their volumes  │◀──tap──│  synced and un-synced    │
//!   └────────────────────────┘        └──────────────────────────┘        └──────────────────────────┘
//!                    ▲                              ▲                                  ▲
//!                    └────── zedagent · zedmanager · volumemgr · domainmgr, bus, persist, handlers: the real ones
//! ```
//!
//! One thread, one seed, no real time. A step lets one agent handle one event, or runs one job, or lets time jump to the
//! next timer. After each step the invariants are checked (`ground.rs`), and once everything is done the node must be
//! exactly what the controller wants, in a bounded number of steps (`check.rs`).
//!
//! A moment (`tap.rs`) is a copy of all that is outside the node. Cutting the power means to go on from such a copy, with
//! the un-synced writes kept, lost or torn (`Survival`), guests dead, and a new node booted on it. So a workload runs once,
//! and each of its moments is a cut (`explore.rs`).
//!
//! Deliberately absent: anything that knows how an agent works inside, except for the rows that are its promises.

pub mod check;
pub mod controller;
pub mod diff;
pub mod drawn;
pub mod explore;
pub mod explore_faults;
pub mod faults;
pub mod ground;
mod guards;
pub mod guests;
pub mod locals;
pub mod meddling;
pub mod storage;
pub mod strangers;
pub mod tap;
pub mod tool;
pub mod workload;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast_agents::domainmgr;
use holdfast_agents::node::agents::{AgentSettings, LocalOrders, Seams, agents_and_orders};

use holdfast_agents::runtime::{
    Agent, Clock, Commits, Driver, Entropy, JobLimits, ManualClock, Outside, SeededEntropy, Services, Step,
    StepCommits, StepExecutor,
};
use holdfast_agents::volumemgr::testing::MemFetcher;
use holdfast_agents::zedmanager::{LocalOrder, Zedmanager};
use holdfast_persist::mem_disk::{Fate, MemDisk};
use holdfast_persist::{Disk, PersistLayout};
use holdfast_types::{
    AppId, AppInstanceState, AppPlan, DeviceId, LocalAsk, LocalChange, Topic, VolumesSnapshotStatus,
    error_chain,
};
use uuid::Uuid;

use crate::hooked_tool::HookedTool;
use controller::{Orders, WorldLink};
use diff::Seen;
use faults::{FaultKind, INJECTED};
use ground::{Ground, SharedGround, locked};
use guards::GuardsKnown;
use guests::WorldVmm;
use storage::Storage;
use tap::{CutPoint, Recorder, Tap, TapDisk};
use tool::ToolFaults;
use workload::Op;

pub const DEVICE: Uuid = Uuid::from_u128(0xd000_0000_0000_4000_8000_0000_0000_0001);
const POLL_INTERVAL: Duration = Duration::from_secs(10);
/// Between two timers a node does at most this; the longest workload needs a few hundred, the start of a thousand applications
/// some forty thousand.
const BUSY_AT_MOST: usize = 100_000;
/// So many timers may fire before everything is done. The longest waits are retries, and without faults there are none.
const TIMERS_AT_MOST: usize = 60;
/// The same after faults: some retries wait five minutes, and the controller is asked meanwhile.
const TIMERS_AFTER_FAULTS_AT_MOST: usize = 600;
/// So many may fire before strangers who keep something from being done lose their patience.
const TIMERS_WITH_STRANGERS: usize = 12;

/// What becomes of un-synced writes in a cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Survival {
    Lost,
    Kept,
    /// Each of them by a coin: kept, lost, or torn at 512 or 4096 bytes and out of order.
    Coin(u64),
}

impl Survival {
    /// The disk as it is when the power is gone and back.
    pub fn after_cut(self, disk: &MemDisk) -> Left {
        let chance = match self {
            Survival::Coin(seed) => SeededEntropy::new(seed),
            Survival::Lost | Survival::Kept => SeededEntropy::new(0),
        };
        let mut was_synced = true;
        let disk = disk.fork_after_cut(&mut |_| {
            was_synced = false;
            match self {
                Survival::Lost => Fate::Lost,
                Survival::Kept => Fate::Kept,
                Survival::Coin(_) => match chance.next_u64() % 4 {
                    0 => Fate::Lost,
                    1 => Fate::Kept,
                    2 => Fate::Torn { sector_bytes: 512, kept_sectors: chance.next_u64() },
                    _ => Fate::Torn { sector_bytes: 4096, kept_sectors: chance.next_u64() },
                },
            }
        });
        Left { disk, was_synced }
    }
}

/// What a cut has left.
#[derive(Debug, Clone)]
pub struct Left {
    pub disk: MemDisk,
    /// There was nothing that could have been lost.
    pub was_synced: bool,
}

/// In which order things happen that could happen in several.
#[derive(Debug, Clone)]
pub enum Schedule {
    /// Events before jobs, in the order of their start; and nothing is made durable beside the agents' steps while anything else
    /// can happen.
    Fixed,
    Drawn(SeededEntropy),
}

/// Why a run ended that should not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub what: String,
}

/// A node on its machine.
pub struct World {
    pub ground: SharedGround,
    pub tap: Tap,
    pub layout: PersistLayout,
    services: Services,
    clock: ManualClock,
    executor: Arc<StepExecutor>,
    commits: Arc<StepCommits>,
    drivers: Vec<Box<dyn Driver>>,
    local_orders: LocalOrders,
    pub hypervisor: Arc<WorldVmm>,
    schedule: Schedule,
    rows_seen: Vec<Arc<AppInstanceState>>,
    guards: GuardsKnown,
    /// Only in traced worlds: the disk as it was before the step.
    files_seen: Option<Seen>,
    pub steps: u64,
}

impl std::fmt::Debug for World {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("World").field("steps", &self.steps).finish_non_exhaustive()
    }
}

impl Drop for World {
    /// Jobs hold their scheduler, which holds them.
    fn drop(&mut self) {
        while self.executor.take(0).is_some() {}
    }
}

impl World {
    /// A machine with an empty disk and a controller that wants what `edit` says.
    pub fn begin(storage: Storage, edit: impl FnOnce(&mut Orders)) -> Result<World, Violation> {
        let mut ground = Ground { storage, ..Ground::default() };
        edit(&mut ground.orders);
        let disk = MemDisk::new();
        if storage == Storage::Zvols {
            // The persist directory lies on ZFS, which exchanges no names before OpenZFS 2.2.
            disk.exchange_no_names();
        }
        storage::make_pool(storage, &disk);
        World::boot(disk, ground, Recorder::Off, Schedule::Fixed)
    }

    /// The power comes back at this moment.
    pub fn after_cut(
        point: &CutPoint,
        survival: Survival,
        recorder: Recorder,
        schedule: Schedule,
    ) -> Result<World, Violation> {
        let left = survival.after_cut(&point.disk);
        World::boot_on(left.disk, point.after_cut(survival), recorder, schedule)
    }

    /// The node's process was killed at this moment and is started again: guests live on, the disk forgets nothing.
    pub fn after_kill(point: &CutPoint, recorder: Recorder, schedule: Schedule) -> Result<World, Violation> {
        let mut ground = point.ground.clone();
        ground.faults.has_fired(FaultKind::ServiceRestart);
        ground.note(format_args!("node killed before call {}: {}", point.call, point.what));
        World::boot(point.disk.fork(), ground, recorder, schedule)
    }

    /// A node comes up on what there is.
    pub fn boot(
        disk: MemDisk,
        ground: Ground,
        recorder: Recorder,
        schedule: Schedule,
    ) -> Result<World, Violation> {
        World::boot_on(disk, Arc::new(Mutex::new(ground)), recorder, schedule)
    }

    /// As [`World::boot`], with a ground that can be looked at whatever becomes of the node.
    pub fn boot_on(
        disk: MemDisk,
        ground: SharedGround,
        recorder: Recorder,
        schedule: Schedule,
    ) -> Result<World, Violation> {
        World::start(Tap::new(disk, Arc::clone(&ground), recorder), ground, schedule)
    }

    /// The service manager starts a node that injected faults ended again; faults end some time.
    fn start(tap: Tap, ground: SharedGround, schedule: Schedule) -> Result<World, Violation> {
        loop {
            match World::start_once(tap.clone(), Arc::clone(&ground), schedule.clone()) {
                Err(Violation { what }) if what.contains(INJECTED) => {
                    locked(&ground).note(format_args!("the node ends at its start: {what}"));
                }
                started => return started,
            }
        }
    }

    /// The node's process dies between two steps and is started again on the same machine.
    pub fn restart(&mut self) -> Result<(), Violation> {
        locked(&self.ground).note(format_args!("the node is started again"));
        let steps = self.steps;
        *self = World::start(self.tap.clone(), Arc::clone(&self.ground), self.schedule.clone())?;
        self.steps = steps;
        Ok(())
    }

    fn start_once(tap: Tap, ground: SharedGround, schedule: Schedule) -> Result<World, Violation> {
        let seen_disk: Arc<dyn Disk> = Arc::new(TapDisk(tap.clone()));
        let layout = PersistLayout::new("/persist");
        let failed = |what: &dyn std::error::Error| Violation {
            what: format!("I17: the node does not come up: {}", error_chain(what)),
        };
        layout.prepare(&*seen_disk).map_err(|error| failed(&error))?;
        let clock = ManualClock::default();
        let executor = StepExecutor::new();
        let step_commits = StepCommits::new();
        let reserve_size_bytes = locked(&ground).reserve_size_bytes;
        let commits = match locked(&ground).commits_beside {
            true => Commits::Beside(step_commits.clone()),
            false => Commits::WithinTheStep,
        };
        let services = Services::open(Outside {
            disk: Arc::clone(&seen_disk),
            layout: layout.clone(),
            clock: Arc::new(clock.clone()),
            entropy: Arc::new(SeededEntropy::new(1)),
            executor: executor.clone(),
            limits: JobLimits::for_cores(2),
            commits,
            reserve_size_bytes,
            read_only: None,
        })
        .map_err(|error| failed(&error))?;
        let stored_on = locked(&ground).storage;
        let (tool, backing) = stored_on.seams(seen_disk, &ground);
        if locked(&ground).keeps_no_tables {
            tool.keep_no_tables();
        }
        let fetcher = MemFetcher::new();
        fetcher.put(storage::RAW_URL, storage::raw_content());
        let hypervisor = Arc::new(WorldVmm::new(Arc::clone(&ground), tap.clone(), tool.clone()));
        let seams = Seams {
            controller: Arc::new(WorldLink(Arc::clone(&ground))),
            fetcher: Arc::new(fetcher),
            images: Arc::new(HookedTool { tool, hook: ToolFaults(Arc::clone(&ground)) }),
            backing,
            hypervisor: hypervisor.clone(),
        };
        let domains =
            domainmgr::Settings { accelerator: "world".to_owned(), ..domainmgr::Settings::default() };
        let settings = AgentSettings { device: DeviceId(DEVICE), poll_interval: POLL_INTERVAL, domains };
        let (builder, local_orders) = agents_and_orders(&services, &seams, &settings);
        let drivers = builder.drivers().map_err(|error| failed(&error))?;
        let files_seen = locked(&ground).is_traced.then(|| Seen::of(&tap.disk));
        let mut world = World {
            ground,
            tap,
            layout,
            services,
            clock,
            executor,
            commits: step_commits,
            drivers,
            local_orders,
            hypervisor,
            schedule,
            rows_seen: Vec::new(),
            guards: GuardsKnown::default(),
            files_seen,
            steps: 0,
        };
        for number in 0..world.drivers.len() {
            world.drivers[number].start().map_err(|error| failed(&error))?;
            world.judge()?;
        }
        Ok(world)
    }

    /// The controller changes its mind; the node hears of it when it asks next.
    pub fn order(&mut self, edit: impl FnOnce(&mut Orders)) {
        edit(&mut locked(&self.ground).orders);
    }

    /// Somebody on the node sets what guards an application.
    pub fn set_locally(&mut self, app: Uuid, change: LocalChange) {
        locked(&self.ground).note(format_args!("set locally: {change:?}"));
        self.local_orders.give(LocalOrder {
            app: AppId(app),
            number: self.steps + 1,
            what: LocalAsk::Set(change),
        });
    }

    /// One event, one job, or one step of a commit, if there is one. False when only time can move anything.
    pub fn step(&mut self) -> Result<bool, Violation> {
        if locked(&self.ground).faults.is_armed() {
            self.faults_between_steps()?;
        }
        let mut ready = self.drivers.iter().enumerate().filter(|(_, driver)| driver.has_events());
        let commits = self.commits.count();
        match &self.schedule {
            Schedule::Fixed => match ready.next() {
                Some((number, _)) => self.step_agent(number)?,
                None if self.executor.started_count() > 0 => self.run_job(0),
                None if commits > 0 => self.run_commit(0),
                None => return Ok(false),
            },
            Schedule::Drawn(chance) => {
                let ready: Vec<usize> = ready.map(|(number, _)| number).collect();
                let choices = ready.len() + commits + self.executor.started_count();
                if choices == 0 {
                    return Ok(false);
                }
                let choice = (chance.next_u64() % choices as u64) as usize;
                match ready.get(choice) {
                    Some(number) => self.step_agent(*number)?,
                    None if choice < ready.len() + commits => self.run_commit(choice - ready.len()),
                    None => self.run_job(choice - ready.len() - commits),
                }
            }
        }
        self.steps += 1;
        self.judge()?;
        Ok(true)
    }

    fn step_agent(&mut self, number: usize) -> Result<(), Violation> {
        let driver = &mut self.drivers[number];
        let was_durable = driver.pulse().has_committed();
        let mut ground = locked(&self.ground);
        ground.note(format_args!("{} handles", driver.name()));
        ground.handled_early += u64::from(self.commits.count() > 0);
        drop(ground);
        // As the node does: a panic ends the process, and here it is told with its story.
        let stepped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| driver.step()));
        let Ok(stepped) = stepped else {
            return Err(Violation { what: format!("I17: {} panics", driver.name()) });
        };
        if driver.name() == Zedmanager::NAME {
            let has_events = driver.has_events();
            self.zedmanager_has_stepped(has_events, was_durable);
        }
        match stepped {
            Ok(Step::Handled | Step::Idle) => Ok(()),
            Err(fatal) => {
                let what = format!("I17: the node fails: {}", error_chain(&fatal));
                if what.contains(INJECTED) { self.restart() } else { Err(Violation { what }) }
            }
        }
    }

    fn faults_between_steps(&mut self) -> Result<(), Violation> {
        let mut ground = locked(&self.ground);
        if ground.faults.strikes(FaultKind::ClockJump) {
            let is_odd = ground.faults.count_of(FaultKind::ClockJump) % 2 == 1;
            let by = if is_odd { chrono::TimeDelta::days(40) } else { chrono::TimeDelta::days(-80) };
            self.clock.set_now(self.clock.now() + by);
            ground.note(format_args!("FAULT the clock jumps by {} days", by.num_days()));
        }
        let is_up = ground.machines.values().any(|machine| machine.ended.is_none());
        let dies = is_up && ground.faults.strikes(FaultKind::GuestDies);
        let restarts = ground.faults.strikes(FaultKind::ServiceRestart);
        drop(ground);
        if dies {
            self.hypervisor.one_dies();
        }
        if restarts { self.restart() } else { Ok(()) }
    }

    fn run_commit(&mut self, number: usize) {
        locked(&self.ground).note(format_args!("commit {number} goes on"));
        self.commits.step(number);
    }

    fn run_job(&mut self, number: usize) {
        let Some(run) = self.executor.take(number) else { return };
        locked(&self.ground).note(format_args!("{} runs {}", run.info().agent, run.info().id));
        run.run();
    }

    /// Everything that can happen now happens, or the power is cut on the way.
    pub fn run(&mut self) -> Result<(), Violation> {
        for _ in 0..BUSY_AT_MOST {
            if self.tap.has_cut() || !self.step()? {
                return Ok(());
            }
        }
        Err(Violation { what: format!("I17: still busy after {BUSY_AT_MOST} steps") })
    }

    /// Time jumps to the next timer; false if there is none.
    pub fn pass_time(&mut self) -> bool {
        let Some(at) = self.drivers.iter().filter_map(|driver| driver.next_timer()).min() else {
            return false;
        };
        self.clock.advance(at.saturating_sub(self.clock.elapsed()));
        self.services.check_space();
        true
    }

    /// Runs until the node is what the controller wants, or the power is cut on the way.
    pub fn settle(&mut self) -> Result<(), Violation> {
        self.bear_with_strangers()?;
        let mut missing = String::new();
        let at_most = if self.has_faults() { TIMERS_AFTER_FAULTS_AT_MOST } else { TIMERS_AT_MOST };
        for _ in 0..at_most {
            self.run()?;
            if self.tap.has_cut() {
                return Ok(());
            }
            match check::settled(self) {
                Ok(()) => return Ok(()),
                Err(what) => missing = what,
            }
            if !self.pass_time() {
                break;
            }
        }
        Err(Violation { what: format!("not settled after {at_most} timers: {missing}") })
    }

    /// As [`World::settle`]; and what could not be deleted while its guest was down goes when it is down next ([003] D1): the
    /// controller orders one restart, and nothing more is needed.
    pub fn settle_and_tidy(&mut self) -> Result<(), Violation> {
        self.settle()?;
        let left = check::deletions_left(self);
        if left.is_empty() || self.tap.has_cut() {
            return Ok(());
        }
        locked(&self.ground).faults.stop();
        self.order(|orders| {
            orders.is_away = false;
            Op::Restart.order(orders);
        });
        locked(&self.ground).note(format_args!("the controller orders Restart, for {left:?} is left"));
        for _ in 0..TIMERS_AT_MOST {
            // An update that waits hides that the restart was not heard of yet.
            self.settle()?;
            if self.tap.has_cut() || check::deletions_left(self).is_disjoint(&left) {
                return Ok(());
            }
            self.pass_time();
        }
        Err(Violation { what: format!("D1: of {left:?} something was not deleted while the guest was down") })
    }

    /// While strangers are about some things cannot be done; they may be settled all the same, or the strangers leave.
    fn bear_with_strangers(&mut self) -> Result<(), Violation> {
        for _ in 0..TIMERS_WITH_STRANGERS {
            if !locked(&self.ground).strangers.are_about() || self.tap.has_cut() {
                return Ok(());
            }
            self.run()?;
            if check::settled(self).is_ok() {
                return Ok(());
            }
            if !self.pass_time() {
                break;
            }
        }
        self.strangers_leave();
        Ok(())
    }

    fn has_faults(&self) -> bool {
        let ground = locked(&self.ground);
        ground.strangers.have_been || ground.faults.is_armed() || !ground.faults.fired().is_empty()
    }

    /// This moment, as a cut before the next call.
    pub fn moment(&self) -> CutPoint {
        CutPoint {
            call: self.tap.calls() + 1,
            what: "nothing in particular".to_owned(),
            disk: self.tap.disk.fork(),
            ground: locked(&self.ground).clone(),
        }
    }

    /// The trace tells what the step changed on the disk.
    fn tell_changes(&mut self) {
        let Some(before) = &self.files_seen else { return };
        let after = Seen::of(&self.tap.disk);
        locked(&self.ground).tell(before.changes(&after));
        self.files_seen = Some(after);
    }

    /// The invariants that hold at any time.
    fn judge(&mut self) -> Result<(), Violation> {
        self.tell_changes();
        let rows = self.services.bus.rows::<AppInstanceState>();
        if !same_rows(&rows, &self.rows_seen) {
            self.judge_rows(&rows);
            self.rows_seen = rows;
        }
        let mut ground = locked(&self.ground);
        for answer in self.services.bus.rows::<AppPlan>() {
            ground.local_order_confirmed(&answer);
        }
        match ground.violations.first() {
            Some(what) => Err(Violation { what: what.clone() }),
            None => Ok(()),
        }
    }

    fn judge_rows(&self, rows: &[Arc<AppInstanceState>]) {
        let mut ground = locked(&self.ground);
        for row in rows {
            if !row_of(&self.rows_seen, row.app).is_some_and(|seen| Arc::ptr_eq(seen, row)) {
                let answers = || self.services.bus.rows::<VolumesSnapshotStatus>();
                ground.another_life(row);
                ground.row_changed(row, &self.layout, &answers);
                ground.rollback_enters(row, || self.guard_of(row.app));
                ground.local_order_moves(row);
            }
        }
        for gone in self.rows_seen.iter().filter(|seen| row_of(rows, seen.app).is_none()) {
            ground.local_orders_end(gone.app.0);
            ground.application_ends(gone.app.0);
        }
    }

    pub fn rows<T: Topic>(&self) -> Vec<Arc<T>> {
        self.services.bus.rows::<T>()
    }
}

fn same_rows(rows: &[Arc<AppInstanceState>], others: &[Arc<AppInstanceState>]) -> bool {
    rows.len() == others.len() && rows.iter().zip(others).all(|(row, other)| Arc::ptr_eq(row, other))
}

/// `rows` are in the order of their keys, as the bus gives them.
fn row_of(rows: &[Arc<AppInstanceState>], app: AppId) -> Option<&Arc<AppInstanceState>> {
    rows.binary_search_by_key(&app, |row| row.app).ok().map(|place| &rows[place])
}
