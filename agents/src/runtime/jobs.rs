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
//! Deliberately absent: killing. A job asks whether it should stop, and its tools have deadlines of their own.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::agent::{Agent, Backend, Job, JobId};
use super::cell::panic_text;
use super::poster::{Incoming, Poster};
use super::seams::{Clock, Timestamp};

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
    queued: VecDeque<Queued>,
    running: BTreeMap<Key, Running>,
    is_stopping: bool,
}

type Key = (&'static str, JobId);

struct Queued {
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
    job: Box<dyn Any + Send>,
    body: Body,
}

/// Given the run, or the event that a test says it ended with; returns how to deliver the end.
type Body = Box<dyn FnOnce(&RunTicket, Option<Box<dyn Any + Send>>) -> Delivery + Send>;
type Delivery = Box<dyn FnOnce() + Send>;

struct RunTicket {
    started_at: Duration,
    cancelled: Arc<AtomicBool>,
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
            state.queued.push_back(Queued { info, cancelled: Arc::default(), work });
            self.take_ready(&mut state)
        };
        self.execute_all(ready);
        true
    }

    pub(super) fn cancel(&self, agent: &'static str, id: &JobId) {
        let state = self.lock();
        let queued = state.queued.iter().filter(|queued| queued.info.agent == agent && queued.info.id == *id);
        let running = state.running.get(&(agent, id.clone()));
        let flags = queued.map(|queued| &queued.cancelled).chain(running.map(|running| &running.cancelled));
        flags.for_each(|flag| flag.store(true, Ordering::SeqCst));
    }

    /// Delivers the end under the lock: until the agent can know of it, the job counts as running.
    fn finished(self: &Arc<Self>, info: &JobInfo, deliver: Delivery) {
        let ready = {
            let mut state = self.lock();
            state.running.remove(&(info.agent, info.id.clone()));
            deliver();
            self.take_ready(&mut state)
        };
        self.execute_all(ready);
    }

    /// Takes every job that may run out of the queue, oldest first. A job whose object has an older one waiting
    /// or running stays.
    fn take_ready(self: &Arc<Self>, state: &mut State) -> Vec<JobRun> {
        let mut ready = Vec::new();
        let mut waiting_objects = BTreeSet::new();
        let mut at = 0;
        while at < state.queued.len() && !state.is_stopping {
            let info = &state.queued[at].info;
            let object = (info.agent, info.object.clone());
            if waiting_objects.contains(&object) || !self.has_room(state, info) {
                waiting_objects.insert(object);
                at += 1;
                continue;
            }
            let queued = state.queued.remove(at).expect("the index is within the queue");
            ready.push(self.begin(state, queued));
        }
        ready
    }

    fn has_room(&self, state: &State, info: &JobInfo) -> bool {
        let mut of_backend = 0;
        for running in state.running.values() {
            if running.info.agent == info.agent && running.info.object == info.object {
                return false;
            }
            of_backend += usize::from(running.info.backend == info.backend);
        }
        of_backend < self.limits.of(info.backend)
    }

    fn begin(self: &Arc<Self>, state: &mut State, queued: Queued) -> JobRun {
        let Queued { info, cancelled, work } = queued;
        let started_at = self.clock.elapsed();
        let running = Running { info: info.clone(), started_at, cancelled: Arc::clone(&cancelled) };
        state.running.insert((info.agent, info.id.clone()), running);
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
        self.running.contains_key(&(info.agent, info.id.clone()))
            || self.queued.iter().any(|queued| queued.info.agent == info.agent && queued.info.id == info.id)
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

/// Makes the typed job into something the scheduler can hold.
pub(super) fn work_of<A: Agent>(
    job: A::Job,
    env: Arc<A::Env>,
    clock: Arc<dyn Clock>,
    poster: Poster<A::Event>,
) -> (JobInfo, Work) {
    let info = JobInfo {
        agent: A::NAME,
        id: job.id(),
        object: job.object(),
        backend: job.backend(),
        deadline: job.deadline(),
    };
    let (id, deadline) = (info.id.clone(), info.deadline);
    let kept = Box::new(job.clone());
    let body: Body = Box::new(move |ticket, given| {
        let incoming = match given {
            Some(event) => Incoming::Event(*event.downcast().expect("an event of the job's agent")),
            None => {
                let deadline_at = deadline.map(|deadline| ticket.started_at.saturating_add(deadline));
                let cancelled = Arc::clone(&ticket.cancelled);
                let cx = JobContext { id, clock, poster: poster.clone(), cancelled, deadline_at };
                run_guarded::<A>(job, &env, &cx)
            }
        };
        Box::new(move || {
            // Nobody there any more: the node is going down, and the job is issued again at the next start.
            poster.inner.post(incoming);
        })
    });
    (info, Work { job: kept, body })
}

fn run_guarded<A: Agent>(job: A::Job, env: &A::Env, cx: &JobContext<A::Event>) -> Incoming<A::Event> {
    let copy = job.clone();
    match catch_unwind(AssertUnwindSafe(|| A::run_job(job, env, cx))) {
        Ok(event) => Incoming::Event(event),
        Err(panic) => {
            let message = panic_text(&*panic);
            tracing::error!(agent = A::NAME, job = %cx.id, message, "a job panicked");
            match A::job_panicked(&copy, &message) {
                Some(event) => Incoming::Event(event),
                None => Incoming::JobPanicked { job: cx.id.to_string(), message },
            }
        }
    }
}

/// What a job sees while it runs.
pub struct JobContext<E> {
    id: JobId,
    clock: Arc<dyn Clock>,
    poster: Poster<E>,
    cancelled: Arc<AtomicBool>,
    deadline_at: Option<Duration>,
}

impl<E: Send + 'static> JobContext<E> {
    /// For a test that calls a job's code directly: never cancelled, no deadline, events go nowhere.
    pub fn detached(clock: Arc<dyn Clock>) -> Self {
        let poster = Poster { inner: holdfast_pubsub::Mailbox::new().poster() };
        JobContext { id: JobId::new("detached"), clock, poster, cancelled: Arc::default(), deadline_at: None }
    }

    pub fn id(&self) -> &JobId {
        &self.id
    }

    /// Tells the agent how far it is; an earlier progress of this job that still waits is replaced.
    pub fn progress(&self, event: E) {
        self.poster.post_latest(&self.id.0, event);
    }

    pub fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    /// `None` if it has no deadline; zero when it has passed.
    pub fn deadline_left(&self) -> Option<Duration> {
        self.deadline_at.map(|at| at.saturating_sub(self.clock.elapsed()))
    }

    /// Cancelled, or past its deadline.
    pub fn should_stop(&self) -> bool {
        self.cancelled() || self.deadline_left().is_some_and(|left| left.is_zero())
    }

    /// The cancel flag, for a tool that watches it itself.
    pub fn cancel_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.cancelled)
    }

    /// The wall clock: `create_time` of what the job makes ([003] B8).
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// By the monotonic clock.
    pub fn elapsed(&self) -> Duration {
        self.clock.elapsed()
    }

    /// For events after the job's end, as from a watcher it has started.
    pub fn poster(&self) -> Poster<E> {
        self.poster.clone()
    }
}

impl<E> fmt::Debug for JobContext<E> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("JobContext")
            .field("id", &self.id)
            .field("deadline_at", &self.deadline_at)
            .finish_non_exhaustive()
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
