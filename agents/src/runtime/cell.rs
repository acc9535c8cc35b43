//! One agent with everything it needs, advanced one event at a time.
//!
//! ```text
//!   new: wire, load rows ─▶ start: subscribe, Agent::start ─▶ step, step, step ...
//!   step: a due timer or the oldest event ─▶ handle ─▶ durable ─▶ visible ─▶ jobs ─▶ timers
//! ```
//!
//! Synchronous and without threads: a thread of the node or the simulation calls `step`. A durable change that
//! fails is the end: nothing of the step becomes visible, and the process is to exit.

use std::any::Any;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use holdfast_pubsub::{BusError, Mailbox, PublishError};

use super::agent::{Agent, Subscribe, Wiring};
use super::commit::{Committer, NotDurable};
use super::context::{Ctx, Effects, JobOrder, TimerOrder};
use super::job_context::work_of;
use super::mode::NodeMode;
use super::poster::{Incoming, Poster};
use super::services::Services;
use super::timers::Timers;

/// Why the process has to end, non-zero. There is no other start than the start after a crash.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    #[error("{agent} cannot make {what} durable")]
    NotDurable { agent: &'static str, what: String, source: io::Error },
    #[error("{agent} published what cannot be written")]
    Unpublishable { agent: &'static str, source: PublishError },
    #[error("the job {job} of {agent} panicked: {message}")]
    JobPanicked { agent: &'static str, job: String, message: String },
    #[error("{agent} panicked: {message}")]
    AgentPanicked { agent: &'static str, message: String },
}

/// What a step was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing waits and no timer is due.
    Idle,
    Handled,
}

/// An agent without its type, as drivers see it.
pub trait Driver: Send {
    fn name(&self) -> &'static str;

    /// Subscribes, and lets the agent start. Once, before the first step, when all agents of the node exist.
    fn start(&mut self) -> Result<(), Fatal>;

    /// Handles at most one event, with all its effects.
    fn step(&mut self) -> Result<Step, Fatal>;

    /// When the next timer is due, by the monotonic clock.
    fn next_timer(&self) -> Option<Duration>;

    /// Whether a step would handle something now.
    fn has_events(&self) -> bool;

    /// Ready when an event waits; timers do not count.
    fn poll_ready(&self, context: &mut Context<'_>) -> Poll<()>;

    /// The agent's health, to be looked at from elsewhere.
    fn pulse(&self) -> Arc<dyn Pulse>;
}

/// An agent's health. All of it may be asked from any thread.
pub trait Pulse: Send + Sync {
    fn name(&self) -> &'static str;

    /// True once it has handled everything that existed when it started.
    fn is_synced(&self) -> bool;

    /// Asks the agent for a sign of life through its mailbox, unless one is due already, and says how long the
    /// oldest unanswered one has waited.
    fn waiting_for_answer(&self, elapsed: Duration) -> Duration;

    /// True when it owes no answer.
    fn has_answered(&self) -> bool;
}

/// The typed [`Driver`].
pub struct AgentCell<A: Agent> {
    agent: A,
    env: Arc<A::Env>,
    cx: Ctx<A>,
    services: Services,
    committer: Committer,
    mailbox: Mailbox<Incoming<A::Event>>,
    reads: Vec<Subscribe<A::Event>>,
    timers: Timers<A::Event>,
    last_was_timer: bool,
    pulse: Arc<PulseOf<A::Event>>,
}

impl<A: Agent> AgentCell<A> {
    /// Wires the agent: its topics are taken and its persistent rows loaded. Nothing runs yet.
    pub fn new(agent: A, env: A::Env, services: &Services) -> Result<Self, BusError> {
        let wiring = Wiring::<A>::collect(&services.bus);
        if let Some(refused) = wiring.refused {
            return Err(refused);
        }
        let Services { clock, entropy, mode, .. } = services.clone();
        let mailbox = Mailbox::new();
        let pulse = PulseOf::new(A::NAME, Poster { inner: mailbox.poster() });
        Ok(AgentCell {
            agent,
            env: Arc::new(env),
            cx: Ctx::new(clock, entropy, mode, wiring.owned, wiring.damaged),
            committer: Committer {
                owner: A::NAME,
                disk: Arc::clone(&services.disk),
                layout: services.layout.clone(),
                bus: services.bus.clone(),
                reserve: services.reserve.clone(),
            },
            services: services.clone(),
            mailbox,
            reads: wiring.reads,
            timers: Timers::new(),
            last_was_timer: false,
            pulse: Arc::new(pulse),
        })
    }

    /// For events from outside the bus.
    pub fn poster(&self) -> Poster<A::Event> {
        Poster { inner: self.mailbox.poster() }
    }

    /// For tests that look at the agent's own state.
    pub fn agent(&self) -> &A {
        &self.agent
    }

    /// Due timers and the mailbox take turns, so that neither starves the other.
    fn next(&mut self) -> Option<Incoming<A::Event>> {
        let turn_of_mailbox = self.last_was_timer && !self.mailbox.is_empty();
        let due = if turn_of_mailbox { None } else { self.timers.take_due(self.services.clock.elapsed()) };
        self.last_was_timer = due.is_some();
        due.map(Incoming::Event).or_else(|| self.mailbox.try_recv())
    }

    fn handle(&mut self, event: A::Event) -> Result<(), Fatal> {
        tracing::trace!(agent = A::NAME, lane = ?A::lane(&event), ?event, "event");
        self.agent.handle(event, &mut self.cx);
        self.carry_out()
    }

    fn carry_out(&mut self) -> Result<(), Fatal> {
        let Effects { durable, visible, jobs, timers, broken } = self.cx.take_effects();
        if let Some(source) = broken {
            return Err(Fatal::Unpublishable { agent: A::NAME, source });
        }
        if matches!(self.cx.mode(), NodeMode::ReadOnly { .. }) {
            // Nothing changes on disk; after the next start everything is as it was.
            durable
                .iter()
                .for_each(|change| tracing::warn!(agent = A::NAME, %change, "read-only: not written"));
        } else if !durable.is_empty() {
            let committed = self.committer.commit(&durable);
            committed.map_err(|NotDurable { what, source }| Fatal::NotDurable {
                agent: A::NAME,
                what,
                source,
            })?;
            self.services.mode.refresh();
        }
        visible.into_iter().for_each(|number| self.cx.show_next(number));
        jobs.into_iter().for_each(|order| self.order_job(order));
        timers.into_iter().for_each(|order| self.order_timer(order));
        Ok(())
    }

    fn order_job(&mut self, order: JobOrder<A::Job>) {
        match order {
            JobOrder::Start(job) => {
                let clock = Arc::clone(&self.services.clock);
                let (info, work) = work_of::<A>(job, Arc::clone(&self.env), clock, self.poster());
                self.services.jobs.submit(info, work);
            }
            JobOrder::Cancel(id) => self.services.jobs.cancel(A::NAME, &id),
        }
    }

    fn order_timer(&mut self, order: TimerOrder<A::Event>) {
        match order {
            TimerOrder::Set { key, after, event } => {
                self.timers.set(key, self.services.clock.elapsed().saturating_add(after), event);
            }
            TimerOrder::Cancel(key) => self.timers.cancel(&key),
        }
    }
}

impl<A: Agent> Driver for AgentCell<A> {
    fn name(&self) -> &'static str {
        A::NAME
    }

    fn start(&mut self) -> Result<(), Fatal> {
        for subscribe in std::mem::take(&mut self.reads) {
            subscribe(&self.services.bus, &self.mailbox);
        }
        self.mailbox.post(Incoming::Synced);
        let poster = self.poster();
        self.services.mode.on_change(Box::new(move |mode| {
            if let Some(event) = A::mode_changed(mode) {
                poster.post(event);
            }
        }));
        self.agent.start(&mut self.cx);
        self.carry_out()
    }

    fn step(&mut self) -> Result<Step, Fatal> {
        match self.next() {
            None => return Ok(Step::Idle),
            Some(Incoming::Event(event)) => self.handle(event)?,
            Some(Incoming::Synced) => {
                tracing::info!(agent = A::NAME, "synced");
                self.pulse.synced.store(true, Ordering::SeqCst);
            }
            Some(Incoming::Ping(number)) => self.pulse.answered.store(number, Ordering::SeqCst),
            Some(Incoming::JobPanicked { job, message }) => {
                return Err(Fatal::JobPanicked { agent: A::NAME, job, message });
            }
        }
        Ok(Step::Handled)
    }

    fn next_timer(&self) -> Option<Duration> {
        self.timers.next_at()
    }

    fn has_events(&self) -> bool {
        !self.mailbox.is_empty()
            || self.timers.next_at().is_some_and(|at| at <= self.services.clock.elapsed())
    }

    fn poll_ready(&self, context: &mut Context<'_>) -> Poll<()> {
        self.mailbox.poll_ready(context)
    }

    fn pulse(&self) -> Arc<dyn Pulse> {
        Arc::clone(&self.pulse) as Arc<dyn Pulse>
    }
}

/// What a panic said.
pub(super) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_string());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_string())
}

struct PulseOf<E> {
    name: &'static str,
    poster: Poster<E>,
    synced: AtomicBool,
    asked: AtomicU64,
    /// Milliseconds on the monotonic clock.
    asked_at_ms: AtomicU64,
    answered: AtomicU64,
}

impl<E> PulseOf<E> {
    fn new(name: &'static str, poster: Poster<E>) -> Self {
        let (synced, zero) = (AtomicBool::new(false), || AtomicU64::new(0));
        PulseOf { name, poster, synced, asked: zero(), asked_at_ms: zero(), answered: zero() }
    }
}

impl<E: Send + 'static> Pulse for PulseOf<E> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn is_synced(&self) -> bool {
        self.synced.load(Ordering::SeqCst)
    }

    fn waiting_for_answer(&self, elapsed: Duration) -> Duration {
        let now_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        let asked = self.asked.load(Ordering::SeqCst);
        if self.answered.load(Ordering::SeqCst) < asked {
            return Duration::from_millis(now_ms.saturating_sub(self.asked_at_ms.load(Ordering::SeqCst)));
        }
        self.asked_at_ms.store(now_ms, Ordering::SeqCst);
        self.asked.store(asked + 1, Ordering::SeqCst);
        self.poster.inner.post(Incoming::Ping(asked + 1));
        Duration::ZERO
    }

    fn has_answered(&self) -> bool {
        self.answered.load(Ordering::SeqCst) >= self.asked.load(Ordering::SeqCst)
    }
}

impl<A: Agent> fmt::Debug for AgentCell<A> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("AgentCell")
            .field("agent", &A::NAME)
            .field("events", &self.mailbox.len())
            .finish_non_exhaustive()
    }
}
