//! What an agent is to the runtime, and what a job is.

use std::any::TypeId;
use std::fmt;
use std::time::Duration;

use holdfast_pubsub::{Bus, BusError, Change, DamagedRow, Mailbox, Topic};

use super::context::{Ctx, Owned};
use super::job_context::JobContext;
use super::mode::NodeMode;
use super::poster::Incoming;

/// An agent: a state machine that owns some topics, reads others, and orders jobs.
///
/// `start` and `handle` are synchronous and pure: no clock, disk, network, randomness or task of their own. What
/// they want done they leave in the context; see [`Ctx`] for when it happens.
pub trait Agent: Sized + Send + 'static {
    /// In logs, in the owner's place on the bus, and the folder of its persistent rows.
    const NAME: &'static str;
    /// What it subscribes to, job results, timers.
    type Event: Send + fmt::Debug + 'static;
    /// Slow or fallible work, as data. [`NoJob`] for an agent that has none.
    type Job: Job;
    /// The seams that its jobs use (disk, tools, links). Never seen by `handle`.
    type Env: Send + Sync + 'static;

    /// Says which topics it reads and owns. Called once, before any agent starts.
    fn wire(wiring: &mut Wiring<Self>);

    /// The first thing it does: its persistent rows are there ([`Ctx::rows`]), nothing it reads has arrived yet.
    fn start(&mut self, cx: &mut Ctx<Self>);

    /// What the event belongs to. Applications do not wait for each other's commits; this version of the runtime
    /// has one lane and uses the answer for its logs.
    fn lane(_event: &Self::Event) -> Lane {
        Lane::Agent
    }

    fn handle(&mut self, event: Self::Event, cx: &mut Ctx<Self>);

    /// Does the job, off the event loop, and may block. Each start ends exactly once, with the event returned
    /// here. The same job may run again after a crash, so it has to be idempotent.
    fn run_job(job: Self::Job, env: &Self::Env, cx: &JobContext<Self::Event>) -> Self::Event;

    /// What a panic inside a job means. By default it is a broken promise and the process ends, non-zero.
    fn job_panicked(_job: &Self::Job, _message: &str) -> Option<Self::Event> {
        None
    }

    /// The event for a change of the node's mode, if the agent wants to be told rather than to ask.
    fn mode_changed(_mode: &NodeMode) -> Option<Self::Event> {
        None
    }
}

/// Work as data.
pub trait Job: Send + Clone + fmt::Debug + 'static {
    /// Derived from the object and the operation, so that the same job issued again is the same job.
    fn id(&self) -> JobId;
    /// Jobs of one object (of one agent) run one at a time, in the order of issue.
    fn object(&self) -> String;
    /// What it loads; bounded per backend over all agents.
    fn backend(&self) -> Backend;
    /// From the start of the run, chosen from the size of the work. The job asks for it and ends by itself.
    fn deadline(&self) -> Option<Duration>;
}

/// The job type of an agent without jobs.
#[derive(Debug, Clone)]
pub enum NoJob {}

impl Job for NoJob {
    fn id(&self) -> JobId {
        match *self {}
    }
    fn object(&self) -> String {
        match *self {}
    }
    fn backend(&self) -> Backend {
        match *self {}
    }
    fn deadline(&self) -> Option<Duration> {
        match *self {}
    }
}

/// Unique within its agent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub String);

impl JobId {
    pub fn new(id: impl fmt::Display) -> Self {
        JobId(id.to_string())
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Names a timer within its agent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimerKey(pub String);

impl TimerKey {
    pub fn new(key: impl fmt::Display) -> Self {
        TimerKey(key.to_string())
    }
}

impl fmt::Display for TimerKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// What a job loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Backend {
    Storage,
    Network,
    Hypervisor,
    Controller,
}

/// What an event belongs to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// The agent as a whole.
    Agent,
    /// An object, mostly an application.
    Object(String),
}

impl Lane {
    pub fn object(object: impl fmt::Display) -> Self {
        Lane::Object(object.to_string())
    }
}

/// Collects what an agent reads and owns.
pub struct Wiring<A: Agent> {
    bus: Bus,
    pub(super) owned: Vec<Owned>,
    pub(super) reads: Vec<Subscribe<A::Event>>,
    pub(super) damaged: Vec<DamagedRow>,
    pub(super) refused: Option<BusError>,
}

pub(super) type Subscribe<E> = Box<dyn FnOnce(&Bus, &Mailbox<Incoming<E>>) + Send>;

impl<A: Agent> Wiring<A> {
    pub(super) fn collect(bus: &Bus) -> Self {
        let bus = bus.clone();
        let mut wiring =
            Wiring { bus, owned: Vec::new(), reads: Vec::new(), damaged: Vec::new(), refused: None };
        A::wire(&mut wiring);
        wiring
    }

    /// Every change of the topic arrives as the event that `wrap` makes of it. An agent may read its own topics.
    pub fn reads<T: Topic>(&mut self, wrap: fn(Change<T>) -> A::Event) {
        self.reads.push(Box::new(move |bus, mailbox| {
            mailbox.subscribe::<T>(bus, move |change| Incoming::Event(wrap(change)));
        }));
    }

    /// This agent publishes the topic. A persistent topic's rows are loaded now.
    pub fn owns<T: Topic>(&mut self) {
        match self.bus.publication::<T>(A::NAME) {
            Ok(publication) => {
                self.damaged.extend_from_slice(publication.damaged());
                self.owned.push(Owned { topic: TypeId::of::<T>(), publication: Box::new(publication) });
            }
            Err(error) => drop(self.refused.get_or_insert(error)),
        }
    }
}

impl<A: Agent> fmt::Debug for Wiring<A> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Wiring")
            .field("agent", &A::NAME)
            .field("reads", &self.reads.len())
            .field("owns", &self.owned.len())
            .finish_non_exhaustive()
    }
}
