//! Jobs: slow work off the event loop, one at a time per object, bounded per backend.
//!
//! ```text
//!   submit ─▶ queued ── object free, backend has room ─▶ running ── exactly once ─▶ event in the agent's mailbox
//!               │  cancel: the flag is set, the job still ends with its event
//!               └─ the same id while queued or running: nothing happens
//! ```
//!
//! The scheduler decides what may run and is synchronous; *where* it runs is the executor's: the blocking pool in
//! a node, the simulation's hand in the World. One scheduler serves all agents of a node, since they share disks.
//!
//! A node with a thousand applications queues thousands of jobs when it starts, so nothing here walks the queue: what may
//! run is in a set of its own, per backend, by number of arrival.
//!
//! Deliberately absent: killing. A job asks whether it should stop, and its tools have deadlines of their own.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::agent::{Backend, JobId};
use super::seams::Clock;

/// Runs jobs. `execute` must not run the job before it returns: the caller may hold the agent's event.
pub trait JobExecutor: Send + Sync + fmt::Debug {
    fn execute(&self, run: JobRun);
}

/// How many jobs may run at once, per backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobLimits {
    pub storage: usize,
    pub network: usize,
    pub hypervisor: usize,
    pub controller: usize,
}

impl JobLimits {
    /// Storage jobs are processes that read and write: two per core keep disks busy while one waits.
    pub fn for_cores(cores: usize) -> Self {
        JobLimits { storage: (2 * cores).max(2), network: 4, hypervisor: 8, controller: 4 }
    }

    /// So many jobs may run at once altogether.
    pub fn total(&self) -> usize {
        use Backend::{Controller, Hypervisor, Network, Storage};
        [Storage, Network, Hypervisor, Controller].into_iter().map(|backend| self.of(backend)).sum()
    }

    fn of(&self, backend: Backend) -> usize {
        let limit = match backend {
            Backend::Storage => self.storage,
            Backend::Network => self.network,
            Backend::Hypervisor => self.hypervisor,
            Backend::Controller => self.controller,
        };
        limit.max(1)
    }
}

impl Default for JobLimits {
    fn default() -> Self {
        JobLimits::for_cores(std::thread::available_parallelism().map_or(2, usize::from))
    }
}

/// What is known of a job without its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobInfo {
    pub agent: &'static str,
    pub id: JobId,
    pub object: String,
    pub backend: Backend,
    pub deadline: Option<Duration>,
}

/// A job that runs now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningJob {
    pub info: JobInfo,
    /// By the monotonic clock.
    pub started_at: Duration,
    pub cancelled: bool,
}

/// Decides which jobs run. Shared by all agents of a node.
pub struct JobScheduler {
    clock: Arc<dyn Clock>,
    executor: Arc<dyn JobExecutor>,
    limits: JobLimits,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// In the order of their numbers, which is that of their arrival.
    queued: VecDeque<Queued>,
    numbers: FxHashMap<Key, u64>,
    last_number: u64,
    objects: FxHashMap<Object, Busy>,
    backends: BTreeMap<Backend, Load>,
    running: BTreeMap<Key, Running>,
    is_stopping: bool,
}

type Key = (&'static str, JobId);
type Object = (&'static str, String);

/// An object that some job is about.
#[derive(Default)]
struct Busy {
    is_running: bool,
    /// The numbers of those that wait, oldest first.
    waiting: VecDeque<u64>,
}

#[derive(Default)]
struct Load {
    running_count: usize,
    /// Those whose object is free: they wait for room here and for nothing else.
    ready: BTreeSet<u64>,
}

struct Queued {
    number: u64,
    info: JobInfo,
    cancelled: Arc<AtomicBool>,
    work: Work,
}

struct Running {
    info: JobInfo,
    started_at: Duration,
    cancelled: Arc<AtomicBool>,
}

/// The typed part of a job, behind closures.
pub(super) struct Work {
    pub(super) job: Box<dyn Any + Send>,
    pub(super) body: Body,
}

/// Given the run, or the event that a test says it ended with; returns how to deliver the end.
pub(super) type Body = Box<dyn FnOnce(&RunTicket, Option<Box<dyn Any + Send>>) -> Delivery + Send>;
pub(super) type Delivery = Box<dyn FnOnce() + Send>;

pub(super) struct RunTicket {
    pub(super) started_at: Duration,
    pub(super) cancelled: Arc<AtomicBool>,
}

/// A job that may run now. Dropping it without running it is only for a node that is going down.
#[must_use]
pub struct JobRun {
    scheduler: Arc<JobScheduler>,
    info: JobInfo,
    ticket: RunTicket,
    work: Work,
}

impl JobScheduler {
    pub fn new(clock: Arc<dyn Clock>, executor: Arc<dyn JobExecutor>, limits: JobLimits) -> Arc<Self> {
        Arc::new(JobScheduler { clock, executor, limits, state: Mutex::default() })
    }

    /// From now on nothing is started; what runs goes on, what waits stays where it is.
    pub fn stop_starting(&self) {
        self.lock().is_stopping = true;
    }

    /// Asks everything that runs to end early.
    pub fn cancel_all(&self) {
        self.lock().running.values().for_each(|running| running.cancelled.store(true, Ordering::SeqCst));
    }

    /// What runs now, sorted by agent and id.
    pub fn running(&self) -> Vec<RunningJob> {
        let describe = |running: &Running| RunningJob {
            info: running.info.clone(),
            started_at: running.started_at,
            cancelled: running.cancelled.load(Ordering::SeqCst),
        };
        self.lock().running.values().map(describe).collect()
    }

    /// What waits for its turn, oldest first.
    pub fn queued(&self) -> Vec<JobInfo> {
        self.lock().queued.iter().map(|queued| queued.info.clone()).collect()
    }

    /// Queues the job and starts what can start. False if it is queued or running already.
    pub(super) fn submit(self: &Arc<Self>, info: JobInfo, work: Work) -> bool {
        let ready = {
            let mut state = self.lock();
            if state.knows(&info) {
                tracing::debug!(agent = info.agent, job = %info.id, "the same job waits or runs already");
                return false;
            }
            state.queue(info, work);
            self.take_ready(&mut state)
        };
        self.execute_all(ready);
        true
    }

    pub(super) fn cancel(&self, agent: &'static str, id: &JobId) {
        let state = self.lock();
        let key = (agent, id.clone());
        let queued = state.numbers.get(&key).map(|number| &state.numbered(*number).cancelled);
        let running = state.running.get(&key).map(|running| &running.cancelled);
        let flags = queued.into_iter().chain(running);
        flags.for_each(|flag| flag.store(true, Ordering::SeqCst));
    }

    /// Delivers the end under the lock: until the agent can know of it, the job counts as running.
    fn finished(self: &Arc<Self>, info: &JobInfo, deliver: Delivery) {
        let ready = {
            let mut state = self.lock();
            state.ended(info);
            deliver();
            self.take_ready(&mut state)
        };
        self.execute_all(ready);
    }

    /// Takes every job that may run out of the queue, oldest first. A job whose object has an older one waiting
    /// or running stays.
    fn take_ready(self: &Arc<Self>, state: &mut State) -> Vec<JobRun> {
        let mut ready = Vec::new();
        while let Some(queued) = state.take_oldest_ready(&self.limits) {
            ready.push(self.begin(state, queued));
        }
        ready
    }

    fn begin(self: &Arc<Self>, state: &mut State, queued: Queued) -> JobRun {
        let Queued { info, cancelled, work, .. } = queued;
        let started_at = self.clock.elapsed();
        let running = Running { info: info.clone(), started_at, cancelled: Arc::clone(&cancelled) };
        state.running.insert(info.key(), running);
        JobRun { scheduler: Arc::clone(self), info, ticket: RunTicket { started_at, cancelled }, work }
    }

    fn execute_all(&self, ready: Vec<JobRun>) {
        for run in ready {
            tracing::debug!(agent = run.info.agent, job = %run.info.id, object = run.info.object, "job starts");
            self.executor.execute(run);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl State {
    fn knows(&self, info: &JobInfo) -> bool {
        let key = info.key();
        self.running.contains_key(&key) || self.numbers.contains_key(&key)
    }

    fn queue(&mut self, info: JobInfo, work: Work) {
        self.last_number += 1;
        let number = self.last_number;
        self.numbers.insert(info.key(), number);
        let object = self.objects.entry(info.object()).or_default();
        object.waiting.push_back(number);
        if object.next() == Some(number) {
            self.backends.entry(info.backend).or_default().ready.insert(number);
        }
        self.queued.push_back(Queued { number, info, cancelled: Arc::default(), work });
    }

    fn place_of(&self, number: u64) -> usize {
        self.queued.binary_search_by_key(&number, |queued| queued.number).expect("it is queued")
    }

    fn numbered(&self, number: u64) -> &Queued {
        &self.queued[self.place_of(number)]
    }

    /// Its object and its backend count it as running from here on.
    fn take_oldest_ready(&mut self, limits: &JobLimits) -> Option<Queued> {
        if self.is_stopping {
            return None;
        }
        let with_room = |(backend, load): &(&Backend, &Load)| load.running_count < limits.of(**backend);
        let oldest = self.backends.iter().filter(with_room).filter_map(|(_, load)| load.ready.first());
        let number = *oldest.min()?;
        let queued = self.queued.remove(self.place_of(number))?;
        self.numbers.remove(&queued.info.key());
        let object = self.objects.get_mut(&queued.info.object()).expect("its job was queued");
        object.waiting.pop_front();
        object.is_running = true;
        let load = self.backends.get_mut(&queued.info.backend).expect("its job was queued");
        load.ready.remove(&number);
        load.running_count += 1;
        Some(queued)
    }

    fn ended(&mut self, info: &JobInfo) {
        self.running.remove(&info.key());
        if let Some(load) = self.backends.get_mut(&info.backend) {
            load.running_count -= 1;
        }
        let name = info.object();
        let Some(object) = self.objects.get_mut(&name) else { return };
        object.is_running = false;
        match object.next() {
            Some(next) => {
                let backend = self.numbered(next).info.backend;
                self.backends.entry(backend).or_default().ready.insert(next);
            }
            None => drop(self.objects.remove(&name)),
        }
    }
}

impl Busy {
    /// The number of the job that the object is free for.
    fn next(&self) -> Option<u64> {
        if self.is_running { None } else { self.waiting.front().copied() }
    }
}

impl JobInfo {
    fn key(&self) -> Key {
        (self.agent, self.id.clone())
    }

    fn object(&self) -> Object {
        (self.agent, self.object.clone())
    }
}

impl JobRun {
    pub fn info(&self) -> &JobInfo {
        &self.info
    }

    /// The job itself, if it is of this agent's type.
    pub fn job<J: 'static>(&self) -> Option<&J> {
        self.work.job.downcast_ref()
    }

    pub fn is_cancelled(&self) -> bool {
        self.ticket.cancelled.load(Ordering::SeqCst)
    }

    /// Does the work, here and now, and delivers its end. A panic inside is delivered as such.
    pub fn run(self) {
        self.end(None);
    }

    /// Ends the job with this event without doing the work: for tests that play the world's part.
    ///
    /// # Panics
    /// If the event is not of the agent's type.
    pub fn finish_with<E: Send + 'static>(self, event: E) {
        self.end(Some(Box::new(event)));
    }

    fn end(self, event: Option<Box<dyn Any + Send>>) {
        let JobRun { scheduler, info, ticket, work } = self;
        let deliver = (work.body)(&ticket, event);
        scheduler.finished(&info, deliver);
    }
}

impl fmt::Debug for JobScheduler {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        formatter
            .debug_struct("JobScheduler")
            .field("queued", &state.queued.len())
            .field("running", &state.running.keys())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for JobRun {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("JobRun").field("info", &self.info).finish_non_exhaustive()
    }
}
