//! A test bench for one agent: the real cell and bus, a disk in memory, time and jobs in the test's hand.
//!
//! ```text
//!   bench.publish(config)  ─▶ agent ─▶ bench.row::<Status>(&key)
//!   bench.job(|job| ...)   ◀─ job       bench.end_job(|job| ..., event) or bench.run_jobs()
//!   bench.advance(by)      ─▶ timers    bench.cut_power(agent, env): a new node on what the disk kept
//! ```
//!
//! The topics that the agent reads are published by the bench, under the name "bench"; those that are persistent
//! keep their rows as they would under their owner.

use std::any::{Any, TypeId};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use holdfast_persist::{MemDisk, PersistLayout};
use holdfast_pubsub::{Bus, Publication, Topic};

use super::agent::Agent;
use super::cell::{AgentCell, Driver, Fatal, Step};
use super::commit::Commits;
use super::jobs::{JobInfo, JobLimits, JobRun};
use super::poster::Poster;
use super::seams::{ManualClock, SeededEntropy};
use super::services::{Outside, Services};
use super::step_executor::{StepCommits, StepExecutor};

/// Steps after which an agent that is still busy is taken to go round in circles.
const MAX_STEPS: usize = 100_000;

pub struct Bench<A: Agent> {
    pub disk: MemDisk,
    pub layout: PersistLayout,
    pub clock: ManualClock,
    pub executor: Arc<StepExecutor>,
    pub services: Services,
    pub cell: AgentCell<A>,
    publications: BTreeMap<TypeId, Box<dyn Any>>,
}

impl<A: Agent> Bench<A> {
    /// The agent is wired and has not started: what is published before [`Bench::start`] exists when it does.
    pub fn new(agent: A, env: A::Env) -> Self {
        Bench::on(MemDisk::new(), ManualClock::default(), agent, env)
    }

    /// On a disk that holds something, made the way [`Bench::new`] does.
    pub fn on(disk: MemDisk, clock: ManualClock, agent: A, env: A::Env) -> Self {
        Bench::with(disk, clock, None, Commits::WithinTheStep, agent, env)
    }

    /// A node whose commits are made beside the agent's steps, when the test says so.
    pub fn committing(disk: MemDisk, commits: &Arc<StepCommits>, agent: A, env: A::Env) -> Self {
        let commits = Commits::Beside(commits.clone());
        Bench::with(disk, ManualClock::default(), None, commits, agent, env)
    }

    /// A node that may change nothing, for this reason.
    pub fn read_only(disk: MemDisk, reason: &str, agent: A, env: A::Env) -> Self {
        let read_only = Some(reason.to_string());
        Bench::with(disk, ManualClock::default(), read_only, Commits::WithinTheStep, agent, env)
    }

    fn with(
        disk: MemDisk,
        clock: ManualClock,
        read_only: Option<String>,
        commits: Commits,
        agent: A,
        env: A::Env,
    ) -> Self {
        let layout = PersistLayout::new("/persist");
        layout.prepare(&disk).expect("the bench's disk takes a persist directory");
        let executor = StepExecutor::new();
        let services = Services::open(Outside {
            disk: Arc::new(disk.clone()),
            layout: layout.clone(),
            clock: Arc::new(clock.clone()),
            entropy: Arc::new(SeededEntropy::new(1)),
            executor: executor.clone(),
            limits: JobLimits::for_cores(2),
            commits,
            reserve_size_bytes: 4096,
            read_only,
        })
        .expect("the bench's disk works");
        let cell = AgentCell::new(agent, env, &services).expect("the agent's topics are free and load");
        Bench { disk, layout, clock, executor, services, cell, publications: BTreeMap::new() }
    }

    /// Starts the agent and lets it handle what there is.
    pub fn start(&mut self) {
        self.try_start().expect("the agent starts");
    }

    pub fn try_start(&mut self) -> Result<(), Fatal> {
        self.cell.start()?;
        self.try_settle()
    }

    /// Steps until nothing waits; runs no job and moves no time.
    pub fn settle(&mut self) {
        self.try_settle().expect("the agent settles");
    }

    pub fn try_settle(&mut self) -> Result<(), Fatal> {
        for _ in 0..MAX_STEPS {
            if self.cell.step()? == Step::Idle {
                return Ok(());
            }
        }
        panic!("{} is still busy after {MAX_STEPS} steps", A::NAME);
    }

    /// Publishes a row of a topic that the agent reads, without letting it step.
    pub fn publish_only<T: Topic>(&mut self, value: T) {
        self.publication::<T>().publish(value).expect("the bench publishes");
    }

    /// Publishes a row of a topic that the agent reads, and settles.
    pub fn publish<T: Topic>(&mut self, value: T) {
        self.publish_only(value);
        self.settle();
    }

    pub fn unpublish<T: Topic>(&mut self, key: &T::Key) {
        self.publication::<T>().unpublish(key).expect("the bench unpublishes");
        self.settle();
    }

    pub fn signal_restarted<T: Topic>(&mut self) {
        self.publication::<T>().signal_restarted();
        self.settle();
    }

    /// An event from outside the bus.
    pub fn post(&mut self, event: A::Event) {
        self.poster().post(event);
        self.settle();
    }

    pub fn poster(&self) -> Poster<A::Event> {
        self.cell.poster()
    }

    pub fn bus(&self) -> &Bus {
        &self.services.bus
    }

    /// A row as the agent's readers see it.
    pub fn row<T: Topic>(&self, key: &T::Key) -> Option<T> {
        self.services.bus.get::<T>(key).map(|row| (*row).clone())
    }

    pub fn rows<T: Topic>(&self) -> Vec<T> {
        self.services.bus.rows::<T>().iter().map(|row| (**row).clone()).collect()
    }

    /// Jobs that were started and wait for the test, oldest first.
    pub fn jobs(&self) -> Vec<A::Job> {
        let mut jobs = Vec::new();
        self.executor.look(|run| jobs.extend(run.job::<A::Job>().cloned()));
        jobs
    }

    pub fn job_infos(&self) -> Vec<JobInfo> {
        self.executor.started()
    }

    /// Ends the oldest started job that is wanted with this event, without running it, and settles.
    pub fn end_job(&mut self, wanted: impl Fn(&A::Job) -> bool, event: A::Event) {
        self.take_job(wanted).finish_with(event);
        self.settle();
    }

    /// Runs the oldest started job that is wanted, here, and settles.
    pub fn run_job(&mut self, wanted: impl Fn(&A::Job) -> bool) {
        self.take_job(wanted).run();
        self.settle();
    }

    /// Runs jobs, and those that follow from them, until none is left.
    pub fn run_jobs(&mut self) {
        for _ in 0..MAX_STEPS {
            match self.executor.take(0) {
                Some(run) => run.run(),
                None => return,
            }
            self.settle();
        }
        panic!("{} still has jobs after {MAX_STEPS}", A::NAME);
    }

    /// Lets time pass, stopping at each timer on the way.
    pub fn advance(&mut self, by: Duration) {
        use super::seams::Clock;
        let end = self.clock.elapsed().saturating_add(by);
        while let Some(at) = self.cell.next_timer().filter(|at| *at <= end) {
            self.clock.advance(at.saturating_sub(self.clock.elapsed()));
            self.settle();
        }
        self.clock.advance(end.saturating_sub(self.clock.elapsed()));
        self.settle();
    }

    /// The power goes: what was not synced is lost, what ran is gone. A new agent on what is left, not started.
    pub fn cut_power(self, agent: A, env: A::Env) -> Self {
        self.disk.crash();
        Bench::on(self.disk, self.clock, agent, env)
    }

    /// A file as text, if it is there.
    pub fn file(&self, path: &Path) -> Option<String> {
        let bytes = self.services.disk.read(path).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn take_job(&self, wanted: impl Fn(&A::Job) -> bool) -> JobRun {
        let taken = self.executor.take_where(|run| run.job::<A::Job>().is_some_and(&wanted));
        taken.unwrap_or_else(|| panic!("no such job was started; there are {:?}", self.jobs()))
    }

    fn publication<T: Topic>(&mut self) -> &mut Publication<T> {
        let bus = &self.services.bus;
        let publication = self.publications.entry(TypeId::of::<T>()).or_insert_with(|| {
            Box::new(bus.publication::<T>("bench").expect("the agent does not own what it is told"))
        });
        publication.downcast_mut().expect("kept by its type")
    }
}

impl<A: Agent> fmt::Debug for Bench<A> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Bench").field("cell", &self.cell).finish_non_exhaustive()
    }
}
