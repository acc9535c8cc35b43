//! A running node: a task for each agent, the blocking pool for jobs, health, and a graceful stop.
//!
//! ```text
//!   NodeBuilder.agent(a).agent(b) ── start ─▶ RunningNode ── stop(grace) ─▶ Ok
//!                                    every agent: start, then step, sleep until an event or a timer
//!                                        │ Fatal
//!                                        └─▶ RunningNode::failed: the process is to exit, non-zero
//! ```
//!
//! An agent is a task that computes and never waits for a disk: its commits and jobs are made on the blocking pool, so that no
//! slow disk delays an event, another agent, the API or the watchdog. As a task it is woken without waking a thread: who
//! hears of a step runs next on the same worker. Agents have workers of their own: one that does not come to an end of a step
//! may take the timers of the others with it, and must not take the API and the watchdog, which say so. The list of agents is
//! one line per agent, in the binary.
//!
//! Deliberately absent: guests. Nothing here stops one, so a restart of the service leaves them running.

#![allow(clippy::disallowed_methods, reason = "this drives the agents: their tasks and the blocking pool")]

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use holdfast_pubsub::BusError;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinHandle};

use super::agent::Agent;
use super::cell::{AgentCell, Driver, Fatal, Pulse, Step, panic_text};
use super::commit::{CommitExecutor, CommitRun};
use super::jobs::{JobExecutor, JobRun};
use super::poster::Poster;
use super::services::Services;

/// How often the node looks whether it is synced, idle, or has space again.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const CHECK_SPACE_EVERY: Duration = Duration::from_secs(5);
/// After the grace, how long cancelled jobs may take to notice.
const CANCEL_GRACE: Duration = Duration::from_secs(2);
/// Enough for agents to compute beside each other.
const AGENT_WORKERS: usize = 2;
/// A sleeping agent wakes this often at least, should a wake-up ever be missed.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// Runs jobs and commits on tokio's blocking pool. Jobs are bounded by their limits, commits by one for each agent.
#[derive(Debug, Clone)]
pub struct BlockingPool {
    handle: Handle,
}

impl BlockingPool {
    /// Must be called within a tokio runtime.
    pub fn new() -> Arc<Self> {
        Arc::new(BlockingPool { handle: Handle::current() })
    }
}

impl JobExecutor for BlockingPool {
    fn execute(&self, run: JobRun) {
        drop(self.handle.spawn_blocking(move || run.run()));
    }
}

impl CommitExecutor for BlockingPool {
    fn execute(&self, run: CommitRun) {
        drop(self.handle.spawn_blocking(move || run.run()));
    }
}

/// Collects the agents of a node.
pub struct NodeBuilder {
    services: Services,
    drivers: Vec<Box<dyn Driver>>,
    refused: Option<BusError>,
}

impl NodeBuilder {
    pub fn new(services: &Services) -> Self {
        NodeBuilder { services: services.clone(), drivers: Vec::new(), refused: None }
    }

    /// Wires the agent: its topics are taken and its rows loaded; the first refusal is kept for the end.
    pub fn agent<A: Agent>(mut self, agent: A, env: A::Env) -> Self {
        match AgentCell::new(agent, env, &self.services) {
            Ok(cell) => self.drivers.push(Box::new(cell)),
            Err(error) => drop(self.refused.get_or_insert(error)),
        }
        self
    }

    /// As [`NodeBuilder::agent`], for an agent that hears from outside the bus: `poster` is told how to reach it.
    pub fn agent_heard_through<A: Agent>(
        mut self,
        agent: A,
        env: A::Env,
        poster: &mut Option<Poster<A::Event>>,
    ) -> Self {
        match AgentCell::new(agent, env, &self.services) {
            Ok(cell) => {
                *poster = Some(cell.poster());
                self.drivers.push(Box::new(cell));
            }
            Err(error) => drop(self.refused.get_or_insert(error)),
        }
        self
    }

    /// The wired agents, in the order added: for whoever drives them himself.
    pub fn drivers(self) -> Result<Vec<Box<dyn Driver>>, BusError> {
        match self.refused {
            Some(refused) => Err(refused),
            None => Ok(self.drivers),
        }
    }

    /// Starts every agent as a task, on workers that are the agents'. Must be called within a tokio runtime, for all else.
    pub fn start(self) -> Result<RunningNode, BusError> {
        let services = self.services.clone();
        let drivers = self.drivers()?;
        let (failed, failures) = mpsc::unbounded_channel();
        let (stop, stopping) = watch::channel(());
        let pulses = drivers.iter().map(|driver| driver.pulse()).collect();
        let workers = Workers::start();
        let agents = drivers
            .into_iter()
            .map(|driver| workers.spawn_agent(driver, &services, stopping.clone(), failed.clone()))
            .collect();
        let space = Handle::current().spawn(watch_space(services.clone()));
        Ok(RunningNode { services, pulses, agents, failures, stop, space, workers })
    }
}

/// The agents at work. Dropped, they end after the steps they are at; jobs go on.
pub struct RunningNode {
    services: Services,
    pulses: Vec<Arc<dyn Pulse>>,
    agents: Vec<AgentTask>,
    failures: mpsc::UnboundedReceiver<Fatal>,
    /// When it is gone, they end after the step they are at.
    stop: watch::Sender<()>,
    space: JoinHandle<()>,
    workers: Workers,
}

struct AgentTask {
    name: &'static str,
    handle: JoinHandle<()>,
}

/// How a stop went.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Stopped {
    /// Jobs that were still running when the time was up ("agent job"). They are taken up again at the next start.
    pub unfinished_jobs: Vec<String>,
    /// Agents that did not come to an end.
    pub stuck_agents: Vec<&'static str>,
}

impl RunningNode {
    /// Returns once every agent has handled everything that existed when it started.
    pub async fn synced(&self) {
        while !self.is_synced() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    pub fn is_synced(&self) -> bool {
        self.pulses.iter().all(|pulse| pulse.is_synced())
    }

    /// Each agent's health.
    pub fn pulses(&self) -> &[Arc<dyn Pulse>] {
        &self.pulses
    }

    /// The agents that have owed an answer for longer than this. Asks all of them again: to be called
    /// regularly, more often than `limit`.
    pub fn stuck_agents(&self, limit: Duration) -> Vec<&'static str> {
        let elapsed = self.services.clock.elapsed();
        let stuck = self.pulses.iter().filter(|pulse| pulse.waiting_for_answer(elapsed) > limit);
        stuck.map(|pulse| pulse.name()).collect()
    }

    /// Returns when an agent cannot go on; the process is to exit, non-zero, with the reason.
    pub async fn failed(&mut self) -> Fatal {
        match self.failures.recv().await {
            Some(fatal) => fatal,
            // Every agent has ended without an error: only after a stop.
            None => std::future::pending().await,
        }
    }

    /// Starts no further job, waits up to `grace` for those that run and for what their ends lead to, then asks
    /// the rest to end early, and ends the agents. Whatever is unfinished is in a durable row and is taken up
    /// again at the next start.
    pub async fn stop(self, grace: Duration) -> Stopped {
        self.services.jobs.stop_starting();
        if !self.jobs_ended_within(grace).await {
            self.services.jobs.cancel_all();
            self.jobs_ended_within(CANCEL_GRACE).await;
        }
        self.answered_within(CANCEL_GRACE).await;
        let running = self.services.jobs.running();
        let unfinished_jobs =
            running.iter().map(|job| format!("{} {}", job.info.agent, job.info.id)).collect();
        self.space.abort();
        drop(self.stop);
        let stuck_agents = ended_within(CANCEL_GRACE, self.agents).await;
        drop(self.workers);
        Stopped { unfinished_jobs, stuck_agents }
    }

    async fn jobs_ended_within(&self, limit: Duration) -> bool {
        let ended = async {
            while !self.services.jobs.running().is_empty() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::time::timeout(limit, ended).await.is_ok()
    }

    /// Behind the last job's end stands an answer that every agent owes: when it comes, the end was handled; and what came of
    /// it is durable before the process ends.
    async fn answered_within(&self, limit: Duration) {
        let answered = async {
            // The first round may meet an answer asked for earlier.
            for _ in 0..2 {
                for pulse in &self.pulses {
                    pulse.waiting_for_answer(self.services.clock.elapsed());
                }
                while self.pulses.iter().any(|pulse| !pulse.has_answered() || !pulse.has_committed()) {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            }
        };
        // Too late is told as a stuck agent.
        drop(tokio::time::timeout(limit, answered).await);
    }
}

/// Those that have not ended by then.
async fn ended_within(limit: Duration, agents: Vec<AgentTask>) -> Vec<&'static str> {
    let mut stuck = Vec::new();
    let until = tokio::time::Instant::now() + limit;
    for agent in agents {
        if tokio::time::timeout_at(until, agent.handle).await.is_err() {
            stuck.push(agent.name);
        }
    }
    stuck
}

async fn watch_space(services: Services) {
    loop {
        tokio::time::sleep(CHECK_SPACE_EVERY).await;
        let services = services.clone();
        // The reserve is written here: not on a thread that others wait for.
        drop(tokio::task::spawn_blocking(move || services.check_space()).await);
    }
}

/// The agents' threads. Dropped, they end with the steps they are at, and nobody waits for that.
struct Workers(Option<Runtime>);

impl Workers {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(AGENT_WORKERS)
            .thread_name("agents")
            .enable_time()
            .build();
        Workers(Some(runtime.expect("the machine has room for the agents' threads")))
    }

    fn spawn_agent(
        &self,
        driver: Box<dyn Driver>,
        services: &Services,
        stopping: watch::Receiver<()>,
        failed: mpsc::UnboundedSender<Fatal>,
    ) -> AgentTask {
        let name = driver.name();
        let runtime = self.0.as_ref().expect("it is there until it is dropped");
        let driving = runtime.spawn(drive(driver, services.clone(), stopping));
        let handle = runtime.spawn(async move {
            if let Err(fatal) = driving.await.unwrap_or_else(|error| panicked(name, error)) {
                tracing::error!(agent = name, error = &fatal as &dyn std::error::Error, "cannot go on");
                // Without a receiver the process is ending anyway.
                drop(failed.send(fatal));
            }
        });
        AgentTask { name, handle }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Where it did not panic, the runtime is going down.
fn panicked(agent: &'static str, error: JoinError) -> Result<(), Fatal> {
    match error.try_into_panic() {
        Ok(panic) => Err(Fatal::AgentPanicked { agent, message: panic_text(&*panic) }),
        Err(_) => Ok(()),
    }
}

async fn drive(
    mut driver: Box<dyn Driver>,
    services: Services,
    mut stopping: watch::Receiver<()>,
) -> Result<(), Fatal> {
    driver.start()?;
    // An error says that the other end is gone: stop.
    while stopping.has_changed().is_ok() {
        match driver.step()? {
            // Whom the step has woken comes before the next step.
            Step::Handled => tokio::task::yield_now().await,
            Step::Idle => sleep(&mut *driver, &services, &mut stopping).await,
        }
    }
    Ok(())
}

/// Until an event arrives, a timer is due, or the node stops.
async fn sleep(driver: &mut dyn Driver, services: &Services, stopping: &mut watch::Receiver<()>) {
    let until_timer = driver.next_timer().map(|at| at.saturating_sub(services.clock.elapsed()));
    let longest = until_timer.unwrap_or(LONGEST_SLEEP).min(LONGEST_SLEEP);
    tokio::select! {
        () = poll_fn(move |context| driver.poll_ready(context)) => {}
        () = tokio::time::sleep(longest) => {}
        _ = stopping.changed() => {}
    }
}

impl fmt::Debug for NodeBuilder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.drivers.iter().map(|driver| driver.name()).collect();
        formatter.debug_struct("NodeBuilder").field("agents", &names).finish_non_exhaustive()
    }
}

impl fmt::Debug for RunningNode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.pulses.iter().map(|pulse| pulse.name()).collect();
        formatter.debug_struct("RunningNode").field("agents", &names).finish_non_exhaustive()
    }
}
