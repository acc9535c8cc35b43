//! One agent with everything it needs, advanced one event at a time.
//!
//! ```text
//!   new: wire, load rows ─▶ start: subscribe, Agent::start ─▶ step, step, step ...
//!   step: a due timer or the oldest event ─▶ handle ─▶ timers, and to the end of the line:
//!                                                          durable ─▶ visible ─▶ jobs       (`outgoing.rs`)
//! ```
//!
//! Synchronous and without tasks: the node's task or the simulation calls `step`. What a step leaves takes effect
//! behind all that was left before it; where commits are made elsewhere ([`Commits`]), further events are handled
//! meanwhile, and the agent's own rows answer with its last word. A durable change that fails is the end: nothing of
//! the step or of those after it becomes visible, and the process is to exit.

use std::any::Any;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use holdfast_pubsub::{BusError, Mailbox, PublishError};

use super::agent::{Agent, Subscribe, Wiring};
use super::commit::{CommitRun, Commits, Committer, NotDurable};
use super::context::{Ctx, Effects, JobOrder, TimerOrder};
use super::job_context::work_of;
use super::mode::NodeMode;
use super::outgoing::{Line, Next, Outgoing};
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

    /// Whether a step would handle something now. What is being committed elsewhere does not count.
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
    /// oldest unanswered one has waited; or the commit that is being made, if that is longer.
    fn waiting_for_answer(&self, elapsed: Duration) -> Duration;

    /// True when it owes no answer.
    fn has_answered(&self) -> bool;

    /// True when nothing that it has handled waits to be made durable.
    fn has_committed(&self) -> bool;
}

/// The typed [`Driver`].
pub struct AgentCell<A: Agent> {
    agent: A,
    env: Arc<A::Env>,
    cx: Ctx<A>,
    services: Services,
    committer: Committer,
    outgoing: Line<A::Job>,
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
            outgoing: Line::default(),
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
        let Effects { mut durable, visible, jobs, timers, broken } = self.cx.take_effects();
        if let Some(source) = broken {
            return Err(Fatal::Unpublishable { agent: A::NAME, source });
        }
        if matches!(self.cx.mode(), NodeMode::ReadOnly { .. }) {
            // Nothing changes on disk; after the next start everything is as it was.
            durable
                .drain(..)
                .for_each(|change| tracing::warn!(agent = A::NAME, %change, "read-only: not written"));
        }
        self.outgoing.push(durable, Outgoing::Step { visible, jobs });
        self.let_out()?;
        timers.into_iter().for_each(|order| self.order_timer(order));
        Ok(())
    }

    /// What is durable takes effect, up to the first step that is not; that one is committed.
    fn let_out(&mut self) -> Result<(), Fatal> {
        loop {
            match self.outgoing.next() {
                Next::Nothing => return Ok(()),
                Next::Out(outgoing) => self.take_effect(outgoing),
                Next::ToCommit => match self.services.commits.clone() {
                    Commits::WithinTheStep => {
                        let changes = self.outgoing.give_away_first();
                        self.committer.commit(&changes).map_err(not_durable::<A>)?;
                        self.services.mode.refresh();
                        self.outgoing.first_is_durable();
                    }
                    Commits::Beside(executor) => executor.execute(self.commit_run()),
                },
            }
        }
    }

    fn commit_run(&mut self) -> CommitRun {
        self.pulse.commits_since(Some(self.services.clock.elapsed()));
        let inbox = self.poster().inner;
        CommitRun {
            committer: self.committer.clone(),
            mode: Arc::clone(&self.services.mode),
            steps: self.outgoing.give_away_all(),
            tell: Box::new(move |committed| inbox.post(Incoming::Committed(committed))),
        }
    }

    fn committed(&mut self, committed: Result<(), NotDurable>) -> Result<(), Fatal> {
        committed.map_err(not_durable::<A>)?;
        self.outgoing.first_is_durable();
        self.let_out()?;
        let since = self.outgoing.is_committing().then(|| self.services.clock.elapsed());
        self.pulse.commits_since(since);
        Ok(())
    }

    fn take_effect(&mut self, outgoing: Outgoing<A::Job>) {
        match outgoing {
            Outgoing::Step { visible, jobs } => {
                visible.into_iter().for_each(|number| self.cx.show_next(number));
                jobs.into_iter().for_each(|order| self.order_job(order));
            }
            Outgoing::Synced => {
                tracing::info!(agent = A::NAME, "synced");
                self.pulse.synced.store(true, Ordering::SeqCst);
            }
        }
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
                self.outgoing.push(Vec::new(), Outgoing::Synced);
                self.let_out()?;
            }
            Some(Incoming::Committed(committed)) => self.committed(committed)?,
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

fn not_durable<A: Agent>(NotDurable { what, source }: NotDurable) -> Fatal {
    Fatal::NotDurable { agent: A::NAME, what, source }
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
    /// Milliseconds on the monotonic clock, plus one; 0 while no commit is being made.
    committing_since_ms: AtomicU64,
}

impl<E> PulseOf<E> {
    fn new(name: &'static str, poster: Poster<E>) -> Self {
        let (synced, zero) = (AtomicBool::new(false), || AtomicU64::new(0));
        PulseOf {
            name,
            poster,
            synced,
            asked: zero(),
            asked_at_ms: zero(),
            answered: zero(),
            committing_since_ms: zero(),
        }
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
        self.unanswered(elapsed).max(self.uncommitted(elapsed))
    }

    fn has_answered(&self) -> bool {
        self.answered.load(Ordering::SeqCst) >= self.asked.load(Ordering::SeqCst)
    }

    fn has_committed(&self) -> bool {
        self.committing_since_ms.load(Ordering::SeqCst) == 0
    }
}

impl<E: Send + 'static> PulseOf<E> {
    fn commits_since(&self, since: Option<Duration>) {
        let since_ms = since.map_or(0, |since| milliseconds(since).saturating_add(1));
        self.committing_since_ms.store(since_ms, Ordering::SeqCst);
    }

    fn uncommitted(&self, elapsed: Duration) -> Duration {
        match self.committing_since_ms.load(Ordering::SeqCst) {
            0 => Duration::ZERO,
            since => Duration::from_millis(milliseconds(elapsed).saturating_sub(since - 1)),
        }
    }

    fn unanswered(&self, elapsed: Duration) -> Duration {
        let now_ms = milliseconds(elapsed);
        let asked = self.asked.load(Ordering::SeqCst);
        if self.answered.load(Ordering::SeqCst) < asked {
            return Duration::from_millis(now_ms.saturating_sub(self.asked_at_ms.load(Ordering::SeqCst)));
        }
        self.asked_at_ms.store(now_ms, Ordering::SeqCst);
        self.asked.store(asked + 1, Ordering::SeqCst);
        self.poster.inner.post(Incoming::Ping(asked + 1));
        Duration::ZERO
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
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
