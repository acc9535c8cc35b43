//! One persist directory with one application, and a life full of kills.
//!
//! ```text
//!   deploy ──▶ order ──▶ run ─┬─ settled in time ────────────────────────▶ look ──▶ guest writes ──▶ order …
//!                             └─ killed ──▶ look ──▶ run ─┬─ settled ─────▶ look ──┘
//!                                            ▲            └─ killed ─┐
//!                                            └───────────────────────┘
//! ```

#![allow(clippy::disallowed_methods, reason = "it drives real processes in real time")]

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use holdfast_agents::runtime::{Entropy, SeededEntropy};
use holdfast_persist::PersistLayout;

use super::content::{BLOCK_BYTES, Write};
use super::group::{Group, Heard};
use super::inspect::{self, Persist, Volumes};
use super::model::Model;
use super::moment::{GUESSED_STEP, Moment, STEP, Waited, tool_name};
use super::orders::{Controller, Order};
use super::tally::{Hit, Tally};
use super::telling_tool::{BEGINS, ENDED};

/// Longer than any retry of the node; whoever is not settled by then never will be (I17).
const SETTLED_WITHIN: Duration = Duration::from_secs(90);
/// What a settled node may still be tidying away, after the last answer.
const TIDIED_WITHIN: Duration = Duration::from_secs(5);
/// One of so many orders is let alone, so that it is known how long orders take.
const UNDISTURBED_EVERY: u64 = 16;
/// Out of a hundred recoveries so many are killed as well.
const KILLED_AGAIN_PERCENT: u64 = 35;
/// Out of a hundred recoveries so many find the controller away at first.
const ALONE_PERCENT: u64 = 20;
/// One of so many looks asks `qemu-img convert` too.
const ASK_QEMU_EVERY: u64 = 16;
/// What has not stopped by then goes on until it is killed.
const LOOK_WITHIN: Duration = Duration::from_millis(20);
const RECOVERY: &str = "recovery";

/// What ended a rig.
#[derive(Debug)]
pub enum Trouble {
    /// A promise was broken.
    Violation(String),
    /// The machine would not do what the run needs.
    Machine(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Trouble {
    fn from(error: E) -> Self {
        Trouble::Machine(error.into())
    }
}

fn violation(what: impl Into<String>) -> Trouble {
    Trouble::Violation(what.into())
}

pub struct Rig<'a> {
    program: &'a Path,
    tally: &'a Tally,
    directory: PathBuf,
    chance: SeededEntropy,
    persist: Persist,
    model: Model,
    controller: Controller,
    /// The same before the order that is being carried out.
    before: (Model, Controller),
    /// Where the node came to rest, its controller being away.
    rested_before: bool,
    /// What is going on, for the report of a violation.
    pub story: String,
    kills: u64,
}

impl std::fmt::Debug for Rig<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Rig").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl<'a> Rig<'a> {
    /// The directory must be there, and is the rig's own.
    pub fn new(program: &'a Path, directory: PathBuf, seed: u64, tally: &'a Tally) -> Rig<'a> {
        let chance = SeededEntropy::new(seed);
        let model = Model::draw(&chance);
        let controller = Controller::deploying(&model.volume_bytes);
        let layout = PersistLayout::new(directory.join("persist"));
        let scratch = directory.join("scratch.raw");
        let persist = Persist { layout, scratch, volumes: Volumes::Images, may_leak: false };
        let before = (model.clone(), controller.clone());
        Rig {
            program,
            tally,
            directory,
            chance,
            persist,
            model,
            controller,
            before,
            rested_before: false,
            story: String::new(),
            kills: 0,
        }
    }

    /// What is left, for whoever wants to look closer: the directory, what must be in it, the rollback ordered last.
    pub fn into_parts(self) -> (Persist, Model, u32) {
        (self.persist, self.model, self.controller.rollback_counter)
    }

    /// Deploys the application and lives through so many orders.
    pub fn live(&mut self, orders: usize) -> Result<(), Trouble> {
        self.story = format!("deployment on volumes of {:?} bytes", self.model.volume_bytes);
        self.publish()?;
        let mut worker = self.start(None)?;
        self.expect_settled(&mut worker)?;
        worker = self.look_and_write(worker)?;
        for number in 1..=orders {
            if self.tally.is_over() {
                break;
            }
            let order = Order::draw(&self.model, &self.chance);
            worker = self.carry_out(number, order, worker)?;
        }
        worker.kill().map_err(Trouble::from)
    }

    /// The application is deleted, and nothing of it is left. Only after [`Rig::live`].
    pub fn end(&mut self) -> Result<(), Trouble> {
        let mut worker = self.start(None)?;
        self.expect_settled(&mut worker)?;
        worker = self.carry_out(0, Order::DeleteApp, worker)?;
        worker.kill().map_err(Trouble::from)
    }

    /// One order, with the kills that belong to it.
    fn carry_out(&mut self, number: usize, order: Order, mut worker: Group) -> Result<Group, Trouble> {
        self.story = format!("order {number}: {order:?}");
        self.before = (self.model.clone(), self.controller.clone());
        self.model.give(order);
        self.controller.give(order, self.model.version);
        self.publish()?;
        let what = format!("{} of {}", order.name(), self.model.volume_bytes.len());
        let began = Instant::now();
        worker.say("orders");
        let moment = match order {
            // Nothing is done before the guest is down, so it is brought down.
            Order::DeleteLater(_) => Moment::Settled,
            _ if self.chance.next_u64().is_multiple_of(UNDISTURBED_EVERY) => Moment::Never,
            _ => Moment::draw(&self.chance, self.tally, &what, self.steps_of(order)),
        };
        let was_disturbed = match self.wait(&mut worker, moment)? {
            Waited::Settled => {
                if moment == Moment::Never {
                    self.tally.took(&what, began.elapsed());
                }
                false
            }
            Waited::Moment => {
                self.kill(worker, false)?;
                worker = self.recover(order, moment == Moment::Settled)?;
                true
            }
        };
        self.tally.ordered(was_disturbed);
        self.look_and_write(worker)
    }

    /// Starts workers until one settles. The first is killed as well, if that is asked for.
    fn recover(&mut self, order: Order, mut again: bool) -> Result<Group, Trouble> {
        loop {
            let began = Instant::now();
            let is_alone = self.chance.next_u64() % 100 < ALONE_PERCENT;
            let mut worker = self.start(is_alone.then_some(self.before_file()))?;
            again |= self.chance.next_u64() % 100 < KILLED_AGAIN_PERCENT;
            let moment = match again {
                true => Moment::draw(&self.chance, self.tally, RECOVERY, self.steps_of(order)),
                false => Moment::Never,
            };
            match self.wait(&mut worker, moment)? {
                Waited::Settled => {
                    if is_alone {
                        worker = self.look_alone(worker)?;
                    }
                    if !again && !is_alone {
                        self.tally.took(RECOVERY, began.elapsed());
                    }
                    return Ok(worker);
                }
                Waited::Moment => self.kill(worker, true)?,
            }
            again = false;
        }
    }

    /// On all volumes together.
    fn steps_of(&self, order: Order) -> u64 {
        order.steps() * self.model.volume_bytes.len() as u64
    }

    /// The node has come to rest by itself: what is in force is carried out, be it from before the order or after.
    /// Then the controller is back.
    fn look_alone(&mut self, mut worker: Group) -> Result<Group, Trouble> {
        let (model, controller) = match self.rested_before {
            true => (&self.before.0, &self.before.1),
            false => (&self.model, &self.controller),
        };
        self.tally.rested_alone(self.rested_before);
        self.story += &format!("; rests alone, before the order: {}", self.rested_before);
        self.look(&worker, model, controller.rollback_counter)?;
        worker.say("back");
        self.expect_settled(&mut worker)?;
        Ok(worker)
    }

    fn kill(&mut self, worker: Group, recovering: bool) -> Result<(), Trouble> {
        // A frozen system call is finished first, a killed one may not be: so only every other time.
        let look = self.chance.next_u64().is_multiple_of(2);
        let mut tools = None;
        if look {
            worker.try_freeze(LOOK_WITHIN).map_err(|error| violation(format!("I17: {error}")))?;
            tools = Some(worker.tools().iter().map(|arguments| tool_name(arguments)).collect::<Vec<_>>());
        }
        worker.kill()?;
        let (hit, phase) = inspect::under_way(&self.persist).map_err(Trouble::Violation)?;
        if hit == Hit::Idle && !recovering {
            self.tally.give_back();
        } else {
            self.kills += 1;
        }
        self.tally.killed(hit, &phase, recovering, tools.as_deref());
        let during = if recovering { " in recovery" } else { "" };
        self.story += &format!("; kill {}{during}: {phase}, {tools:?}", self.kills);
        inspect::expect_promises(&self.persist, &self.model).map_err(Trouble::Violation)
    }

    /// Everything is looked at while the worker is frozen, and the guest writes.
    fn look_and_write(&mut self, worker: Group) -> Result<Group, Trouble> {
        self.look(&worker, &self.model, self.controller.rollback_counter)?;
        if !self.model.is_deleted {
            worker.freeze().map_err(|error| violation(format!("I17: {error}")))?;
            self.write()?;
            worker.thaw()?;
        }
        Ok(worker)
    }

    fn look(&self, worker: &Group, model: &Model, rollback_counter: u32) -> Result<(), Trouble> {
        let deadline = Instant::now() + TIDIED_WITHIN;
        worker.freeze().map_err(|error| violation(format!("I17: {error}")))?;
        let ask_qemu = self.chance.next_u64().is_multiple_of(ASK_QEMU_EVERY);
        inspect::expect_contents(&self.persist, model, rollback_counter, ask_qemu)
            .map_err(Trouble::Violation)?;
        while let Err(what) = inspect::expect_no_orphans(&self.persist, model) {
            if Instant::now() > deadline {
                return Err(violation(what));
            }
            worker.thaw()?;
            std::thread::sleep(Duration::from_millis(20));
            worker.freeze().map_err(|error| violation(format!("I17: {error}")))?;
        }
        worker.thaw().map_err(Trouble::from)
    }

    /// What the guest writes, by one `qemu-io` for all volumes.
    fn write(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new("qemu-io");
        for (at, writes) in self.model.draw_writes(&self.chance).iter().enumerate() {
            let path = self.persist.image(at);
            command.args(["-c", &format!("open -o driver=qcow2,cache.no-flush=on {}", path.display())]);
            for Write { first, blocks, fill } in writes {
                let (at, length) = (first * BLOCK_BYTES, blocks * BLOCK_BYTES);
                command.args(["-c", &format!("write -q -P {fill} {at} {length}")]);
            }
            command.args(["-c", "close"]);
        }
        let output = command.output().context("qemu-io")?;
        // It goes on after a failed command, and says so on its standard output.
        if !output.status.success() || !output.stdout.is_empty() || !output.stderr.is_empty() {
            bail!(
                "qemu-io: {}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(())
    }

    /// With the orders from before, the controller is away at first.
    fn start(&self, before: Option<PathBuf>) -> anyhow::Result<Group> {
        let log: File =
            OpenOptions::new().create(true).append(true).open(self.directory.join("worker.log"))?;
        let (persist, orders) = (self.persist.layout.root(), self.orders_file());
        let mut arguments = vec![Path::new("worker"), persist, &orders];
        arguments.extend(before.as_deref());
        Ok(Group::spawn(self.program, &arguments, log)?)
    }

    fn publish(&self) -> anyhow::Result<()> {
        let path = self.orders_file();
        let next = path.with_extension("next");
        std::fs::write(self.before_file(), self.before.1.body())?;
        std::fs::write(&next, self.controller.body())?;
        Ok(std::fs::rename(next, path)?)
    }

    fn before_file(&self) -> PathBuf {
        self.directory.join("orders-before")
    }

    fn orders_file(&self) -> PathBuf {
        self.directory.join("orders")
    }

    fn expect_settled(&mut self, worker: &mut Group) -> Result<(), Trouble> {
        self.wait(worker, Moment::Never).map(drop)
    }

    /// Until the worker has settled on the newest orders, or the moment has come and a kill is to be had.
    fn wait(&mut self, worker: &mut Group, moment: Moment) -> Result<Waited, Trouble> {
        let began = Instant::now();
        let settled = format!("settled {}", self.controller.hash());
        let rests_before = format!("rests {}", self.before.1.hash());
        let rests_after = format!("rests {}", self.controller.hash());
        let mut due = if let Moment::After(after) = moment { Some(began + after) } else { None };
        let (mut steps, mut step_began) = (0, began);
        loop {
            match worker.hear(due.unwrap_or(began + SETTLED_WITHIN))? {
                Heard::Line(line) if line == settled => {
                    let is_due = moment == Moment::Settled && self.tally.take_kill();
                    return Ok(if is_due { Waited::Moment } else { Waited::Settled });
                }
                Heard::Line(line) if line == rests_before || line == rests_after => {
                    self.rested_before = line == rests_before;
                    return Ok(Waited::Settled);
                }
                Heard::Line(line) if line.starts_with(BEGINS) => {
                    steps += 1;
                    step_began = Instant::now();
                    if let Moment::InStep { number, share } = moment
                        && number == steps
                    {
                        due = Some(step_began + self.tally.typical(STEP, GUESSED_STEP).mul_f64(share));
                    }
                }
                Heard::Line(line) if line.starts_with(ENDED) => self.tally.took(STEP, step_began.elapsed()),
                Heard::Line(_) => {}
                Heard::Ended => return Err(violation("I17: the node ended by itself, see worker.log")),
                Heard::Nothing if due.take().is_some() => {
                    if self.tally.take_kill() {
                        return Ok(Waited::Moment);
                    }
                }
                Heard::Nothing => return Err(violation(self.why_not_settled(worker)?)),
            }
        }
    }

    fn why_not_settled(&self, worker: &mut Group) -> anyhow::Result<String> {
        worker.say("why");
        let heard = worker.hear(Instant::now() + Duration::from_secs(2))?;
        Ok(format!("I17: not settled after {SETTLED_WITHIN:?}: {heard:?}"))
    }
}
