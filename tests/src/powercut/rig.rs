//! One disk with one application, and a life full of power cuts.
//!
//! ```text
//!   boot ──▶ promises kept? ──▶ node ──▶ settled ──order──▶ under way ──┬─ done ──▶ look ──▶ order …
//!    ▲                                                                 └─ CUT ─┐
//!    └─────────────────────────────── the same disk ◀──────────────────────────┘   (and a third of the recoveries is cut too)
//! ```

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use holdfast_agents::runtime::{Entropy, SeededEntropy};
use holdfast_agents::wire::config::ConfigResponse;
use holdfast_agents::wire::info::ZInfoApp;
use holdfast_agents::wire::info::z_info_msg::InfoContent;
use prost::Message;

use super::life::Life;
use super::lines::{FromInside, ToInside};
use super::storage::{FRESH, Storage};
use super::supervisor::{Connection, Supervisor};
use super::tally::Tally;
use crate::controller::Server;
use crate::real_kills::model::Model;
use crate::real_kills::orders::{Controller, Order};
use crate::real_kills::rig::Trouble;
use crate::real_kills::tally::Hit;
use crate::real_kills::{APP, DEVICE, snapshot};
use crate::zfs_guest::machine::{Machine, Running, Said};

/// Under TCG on a busy machine; whoever is not settled by then never will be (I17).
const SETTLED_WITHIN: Duration = Duration::from_secs(120);
const BOOTED_WITHIN: Duration = Duration::from_secs(60);
/// Between two looks of the warden at a node that is still tidying.
const LOOK_EVERY: Duration = Duration::from_millis(300);
const SLICE: Duration = Duration::from_millis(20);
/// How long things take, before any of them was measured.
const GUESSED: Duration = Duration::from_secs(3);
const RECOVERY: &str = "recovery";
/// Out of a hundred recoveries so many are cut as well.
const CUT_AGAIN_PERCENT: u64 = 35;
/// One of so many orders is let alone, so that it is known how long orders take.
const UNDISTURBED_EVERY: u64 = 8;
const CONSOLE_LINES_KEPT: usize = 300;
const RUNNING: i32 = 7;
const BOOT_TRIES: u32 = 3;
/// In the kept console, where a machine begins.
const POWER_ON: &str = "---- power on";

/// What all rigs of a run share.
#[derive(Debug)]
pub struct Ground {
    /// Its first disk of its own is the rig's.
    pub machine: Machine,
    pub supervisor: Supervisor,
    pub controller: Server,
    pub tally: Tally,
    pub storage: Storage,
    /// Stop after so many.
    pub cuts: u64,
}

#[derive(Debug)]
pub struct Rig<'a> {
    ground: &'a mut Ground,
    machine: Machine,
    chance: SeededEntropy,
    life: Life,
    controller: Controller,
    /// The power went, and nobody has counted it yet: in the middle of a guest's write, or not.
    cut_while_writing: Option<bool>,
    /// A guest's write was cut off on this disk, once.
    may_leak: bool,
    /// What is going on, and what the machine last said, for the report of a violation.
    pub story: String,
    pub console: VecDeque<String>,
}

/// A machine that is on.
#[derive(Debug)]
struct Booted {
    running: Running,
    warden: Connection,
    /// So many reports were there before it.
    reports_before: u64,
    began: Instant,
    /// When everything ordered was done as far as reports tell; looking at the files comes after.
    reported: Option<Instant>,
}

impl Booted {
    /// From now on time is measured.
    fn begin(&mut self) {
        (self.began, self.reported) = (Instant::now(), None);
    }

    fn took(&self) -> Duration {
        self.reported.unwrap_or_else(Instant::now) - self.began
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Waited {
    Settled,
    Due,
}

fn violation(what: impl Into<String>) -> Trouble {
    Trouble::Violation(what.into())
}

impl<'a> Rig<'a> {
    /// On a disk with an empty file system.
    pub fn new(ground: &'a mut Ground, disk: PathBuf, seed: u64) -> Rig<'a> {
        let chance = SeededEntropy::new(seed);
        let mut model = Model::draw(&chance);
        model
            .volume_bytes
            .iter_mut()
            .for_each(|size_bytes| *size_bytes = ground.storage.fit_size(*size_bytes));
        let controller = Controller::deploying(&model.volume_bytes);
        let mut machine = ground.machine.clone();
        // QEMU's word for: a write is done when this machine's page cache has it, which outlives QEMU. Flushes then mean nothing
        // more, and cost nothing.
        machine.disks.push(format!("file={},format=raw,cache=unsafe", disk.display()));
        let life = Life::new(model);
        let (story, console) = (String::new(), VecDeque::new());
        Rig {
            ground,
            machine,
            chance,
            life,
            controller,
            cut_while_writing: None,
            may_leak: false,
            story,
            console,
        }
    }

    /// Deploys the application, lives through so many orders, and deletes it.
    pub fn live(&mut self, orders: usize) -> Result<(), Trouble> {
        self.story = format!("deployment on volumes of {:?} bytes", self.life.model().volume_bytes);
        self.publish()?;
        self.machine.options = FRESH.to_owned();
        let mut booted = self.boot(false)?;
        self.machine.options.clear();
        self.settle(&mut booted, None)?;
        for number in 1..=orders {
            if self.is_over() {
                break;
            }
            booted = self.carry_out(number, self.draw(), booted)?;
        }
        if !self.is_over() {
            booted = self.carry_out(orders + 1, Order::DeleteApp, booted)?;
        }
        Ok(booted.running.kill()?)
    }

    fn is_over(&self) -> bool {
        self.ground.tally.cuts() >= self.ground.cuts
    }

    /// Snapshots come with updates: a guest's version then tells on which side of the cut it starts.
    fn draw(&self) -> Order {
        let drawn = Order::draw(self.life.model(), &self.chance);
        match self.ground.storage.fit(drawn, self.life.model()) {
            Order::SnapshotNow(n) => Order::SnapshotByUpdate(n),
            Order::DeleteLater(n) => Order::Delete(n),
            order => order,
        }
    }

    fn publish(&mut self) -> anyhow::Result<()> {
        let response = ConfigResponse::decode(self.controller.body().as_slice())?;
        let config = response.config.context("a configuration")?;
        Ok(self.ground.controller.set_config(DEVICE, config)?)
    }

    /// One order, with the cuts that belong to it.
    fn carry_out(&mut self, number: usize, order: Order, mut booted: Booted) -> Result<Booted, Trouble> {
        self.story = format!("order {number}: {order:?}");
        self.life.give(order);
        self.controller.give(order, self.life.model().version);
        self.publish()?;
        self.ground.tally.orders += 1;
        let is_undisturbed = self.chance.next_u64().is_multiple_of(UNDISTURBED_EVERY);
        let after = (!is_undisturbed).then(|| self.share_of(order.name()));
        booted.begin();
        if self.settle(&mut booted, after)? == Waited::Settled {
            if is_undisturbed {
                self.ground.tally.took(order.name(), booted.took());
            }
            return Ok(booted);
        }
        self.cut(booted)?;
        let mut recovering = false;
        loop {
            let mut booted = self.boot(recovering)?;
            let again = (!recovering && self.chance.next_u64() % 100 < CUT_AGAIN_PERCENT)
                .then(|| self.share_of(RECOVERY));
            recovering = true;
            booted.begin();
            match self.settle(&mut booted, again)? {
                Waited::Settled => {
                    if again.is_none() {
                        self.ground.tally.took(RECOVERY, booted.took());
                    }
                    return Ok(booted);
                }
                Waited::Due => self.cut(booted)?,
            }
        }
    }

    /// A random part of the time that this usually takes.
    fn share_of(&self, what: &str) -> Duration {
        let share = (self.chance.next_u64() % 1_000_000) as f64 / 1_000_000.0;
        self.ground.tally.typical(what, GUESSED).mul_f64(share)
    }

    fn cut(&mut self, booted: Booted) -> Result<(), Trouble> {
        booted.running.kill()?;
        let is_writing = self.life.cut();
        self.cut_while_writing = Some(is_writing);
        self.may_leak |= is_writing;
        Ok(())
    }

    /// The machine is on, what was promised is there (I3), and the node starts. The cut before counts by what the rows say
    /// was under way.
    fn boot(&mut self, recovering: bool) -> Result<Booted, Trouble> {
        let mut tries = 1;
        let (booted, hit, phase) = loop {
            match self.start()? {
                Some(started) => break started,
                None if tries == BOOT_TRIES => {
                    return Err(anyhow!("the guest's kernel does not come up").into());
                }
                None => tries += 1,
            }
        };
        let deadline = Instant::now() + BOOTED_WITHIN;
        if let Some(is_writing) = self.cut_while_writing.take() {
            let idle = hit == Hit::Idle && is_writing;
            let (hit, phase) = if idle { (Hit::Other, "guest writing".to_owned()) } else { (hit, phase) };
            self.ground.tally.cut(hit, &phase, recovering);
            self.story += &format!("; cut at {phase}");
            println!("{} cuts; {}", self.ground.tally.cuts(), self.story);
        }
        self.say(&booted, ToInside::Promises(Box::new(self.life.model().clone())));
        loop {
            match self.next(&booted, deadline)? {
                Some((_, FromInside::Verdict(Ok(())))) => break,
                Some((_, FromInside::Verdict(Err(what)))) => return Err(violation(what)),
                _ if Instant::now() > deadline => return Err(violation(self.hangs("look at its files"))),
                _ => {}
            }
        }
        self.say(&booted, ToInside::Begin);
        Ok(booted)
    }

    /// Until the warden says hello, and what it says. `None` if the kernel did not get as far as our first program: on a
    /// host that is too busy for it that happens, and nothing of ours has run.
    fn start(&mut self) -> Result<Option<(Booted, Hit, String)>, Trouble> {
        let reports_before = self.ground.controller.core().device(DEVICE)?.reports_total();
        let running = self.machine.start()?;
        let mut booted = Booted { running, warden: 0, reports_before, began: Instant::now(), reported: None };
        self.console.push_back(POWER_ON.to_owned());
        let deadline = Instant::now() + BOOTED_WITHIN;
        loop {
            match self.next(&booted, deadline)? {
                Some((connection, FromInside::Hello { hit, phase })) => {
                    booted.warden = connection;
                    return Ok(Some((booted, hit, phase)));
                }
                _ if Instant::now() <= deadline => {} // still from the machine before
                _ if self.is_ours_up() => return Err(violation(self.hangs("boot"))),
                _ => return Ok(None),
            }
        }
    }

    fn is_ours_up(&self) -> bool {
        let since_power_on = self.console.iter().rev().take_while(|line| *line != POWER_ON);
        since_power_on.into_iter().any(|line| line.starts_with("inner: "))
    }

    /// Until the order is carried out, reported, and the warden finds everything right; or until the time to cut.
    fn settle(&mut self, booted: &mut Booted, cut_after: Option<Duration>) -> Result<Waited, Trouble> {
        let deadline = Instant::now() + SETTLED_WITHIN;
        let due = cut_after.map(|after| booted.began + after);
        let mut is_looking = false;
        let mut next_look = Instant::now();
        let mut wrong = String::new();
        loop {
            let now = Instant::now();
            if due.is_some_and(|due| now >= due) {
                return Ok(Waited::Due);
            }
            if now > deadline {
                return Err(violation(format!("{}: {wrong}", self.hangs("settle"))));
            }
            if !is_looking && now >= next_look {
                match self.reported(booted) {
                    Ok(()) => {
                        booted.reported.get_or_insert(now);
                        let model = Box::new(self.life.model().clone());
                        let rollback_counter = self.controller.rollback_counter;
                        let may_leak = self.may_leak;
                        self.say(booted, ToInside::Look { model, rollback_counter, may_leak });
                        is_looking = true;
                    }
                    Err(what) => wrong = what,
                }
            }
            let until = due.map_or(now + SLICE, |due| due.min(now + SLICE));
            match self.next(booted, until)? {
                Some((_, FromInside::Verdict(Ok(())))) => return Ok(Waited::Settled),
                Some((_, FromInside::Verdict(Err(what)))) => {
                    (is_looking, wrong) = (false, what);
                    next_look = Instant::now() + LOOK_EVERY;
                }
                Some((guest, FromInside::Starting { version, found })) => {
                    let writes = self.life.starts(version, &found, &self.chance).map_err(violation)?;
                    self.ground.supervisor.say(guest, &ToInside::Mark(writes));
                }
                Some((_, FromInside::Written)) => self.life.written(),
                Some((_, FromInside::Hello { .. })) => {
                    return Err(violation("I17: the machine booted again"));
                }
                None => {}
            }
        }
    }

    /// The next message of this machine, waited for until then; and what the console says.
    fn next(&mut self, booted: &Booted, until: Instant) -> Result<Option<(Connection, FromInside)>, Trouble> {
        loop {
            match booted.running.hear(Instant::now()) {
                Said::Line(line) => {
                    self.console.push_back(line);
                    if self.console.len() > CONSOLE_LINES_KEPT {
                        self.console.pop_front();
                    }
                    continue;
                }
                Said::Off => return Err(violation("I17: the machine is off: its node ended by itself")),
                Said::Nothing => {}
            }
            let now = Instant::now();
            match self.ground.supervisor.hear(until.min(now + SLICE)) {
                // The warden is the first of a machine to connect: whoever came before it is of one that is gone.
                Some((connection, message)) if connection >= booted.warden => {
                    return Ok(Some((connection, message)));
                }
                _ if now >= until => return Ok(None),
                _ => {}
            }
        }
    }

    fn say(&self, booted: &Booted, message: ToInside) {
        self.ground.supervisor.say(booted.warden, &message);
    }

    /// What guests and the node's own report say of the order, since this machine was booted.
    fn reported(&self, booted: &Booted) -> Result<(), String> {
        if !self.life.is_done() {
            return Err("no guest is up as after the order".to_owned());
        }
        let model = self.life.model();
        if model.is_deleted {
            return Ok(());
        }
        let report = self.newest_report(booted).ok_or("nothing was reported")?;
        let listed: BTreeSet<String> = model.listed.iter().map(|n| snapshot(*n).to_string()).collect();
        let told: BTreeSet<String> = report.snapshots.iter().map(|snapshot| snapshot.id.clone()).collect();
        let is_right = report.state == RUNNING
            && report.app_version == model.in_force.to_string()
            && report.app_err.is_empty()
            && told == listed;
        if is_right { Ok(()) } else { Err(format!("I10: the newest report is {report:?}")) }
    }

    fn newest_report(&self, booted: &Booted) -> Option<ZInfoApp> {
        let core = self.ground.controller.core();
        let device = core.device(DEVICE).ok()?;
        let new = usize::try_from(device.reports_total() - booted.reports_before).ok()?;
        device.reports().iter().rev().take(new).find_map(|message| match &message.info_content {
            Some(InfoContent::Ainfo(report)) if report.app_id == APP.to_string() => Some(report.clone()),
            _ => None,
        })
    }

    fn hangs(&self, doing: &str) -> String {
        format!("I17: the machine does not {doing} in time")
    }
}
