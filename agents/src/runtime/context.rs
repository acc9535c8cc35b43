//! What an agent sees while it handles an event, and where it leaves its effects.
//!
//! ```text
//!   handle(event, cx) ── effects ──▶ timers
//!                            └─────▶ 1 durable, in the order staged ─▶ 2 visible ─▶ 3 jobs       step by step, in order
//! ```
//!
//! Nothing here does anything: `cell.rs` carries the effects out when `handle` has returned. The next event may be handled before
//! they have come about; nobody but the agent itself sees anything of them until then.

use std::any::{Any, TypeId};
use std::borrow::Borrow;
use std::fmt;
use std::ops::RangeBounds;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use holdfast_pubsub::{DamagedRow, Publication, PublishError, RowImage, Staged, Topic};
use uuid::Uuid;

use super::agent::{Agent, JobId, TimerKey};
use super::mode::{ModeCell, NodeMode};
use super::seams::{Clock, Entropy, Timestamp};

/// The context of one agent. Effects happen after `handle`, in the order of the file's head; a crash leaves a
/// prefix of the durable ones, in the order staged over all steps, and nothing of what comes after them.
pub struct Ctx<A: Agent> {
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    mode: Arc<ModeCell>,
    owned: Vec<Owned>,
    damaged: Vec<DamagedRow>,
    pub(super) effects: Effects<A>,
}

/// What is left to be done.
pub(super) struct Effects<A: Agent> {
    pub(super) durable: Vec<Durable>,
    /// Which owned topic shows its next staged change, in order.
    pub(super) visible: Vec<usize>,
    pub(super) jobs: Vec<JobOrder<A::Job>>,
    pub(super) timers: Vec<TimerOrder<A::Event>>,
    /// A value that cannot be written down: a broken promise of its type.
    pub(super) broken: Option<PublishError>,
}

#[derive(Debug)]
pub(super) enum Durable {
    Row(RowImage),
    Record { path: PathBuf, bytes: Vec<u8> },
    RemoveFile(PathBuf),
    RemoveTree(PathBuf),
    Quarantine { path: PathBuf, reason: String },
}

pub(super) enum JobOrder<J> {
    Start(J),
    Cancel(JobId),
}

pub(super) enum TimerOrder<E> {
    Set { key: TimerKey, after: Duration, event: E },
    Cancel(TimerKey),
}

/// A topic that the agent publishes.
pub(super) struct Owned {
    pub(super) topic: TypeId,
    pub(super) publication: Box<dyn AnyPublication>,
}

pub(super) trait AnyPublication: Send {
    fn show_next(&mut self) -> bool;
    fn as_any(&self) -> &dyn Any;
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

impl<T: Topic> AnyPublication for Publication<T> {
    fn show_next(&mut self) -> bool {
        Publication::show_next(self)
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

impl<A: Agent> Ctx<A> {
    pub(super) fn new(
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        mode: Arc<ModeCell>,
        owned: Vec<Owned>,
        damaged: Vec<DamagedRow>,
    ) -> Self {
        Ctx { clock, entropy, mode, owned, damaged, effects: Effects::none() }
    }

    /// The wall clock: for records and reports, never for order or waiting.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Time since the start of the node; never goes back.
    pub fn elapsed(&self) -> Duration {
        self.clock.elapsed()
    }

    pub fn random_u64(&mut self) -> u64 {
        self.entropy.next_u64()
    }

    pub fn random_uuid(&mut self) -> Uuid {
        self.entropy.next_uuid()
    }

    pub fn mode(&self) -> NodeMode {
        self.mode.get()
    }

    /// Publishes the value; equal to the last one, it is silent. A persistent row is durable before anybody sees
    /// it. [`Ctx::get`] answers it at once.
    ///
    /// # Panics
    /// If the agent does not own the topic: it must say so in `wire`.
    pub fn publish<T: Topic>(&mut self, value: T) {
        self.publish_any::<T>(value);
    }

    /// [`Ctx::publish`] of a value that the agent keeps as well.
    pub fn publish_shared<T: Topic>(&mut self, value: Arc<T>) {
        self.publish_any::<T>(value);
    }

    fn publish_any<T: Topic>(&mut self, value: impl Into<Arc<T>> + Borrow<T>) {
        let (number, publication) = self.publication_mut::<T>();
        match publication.stage(value) {
            Ok(staged) => self.take_staged(number, staged),
            Err(error) => drop(self.effects.broken.get_or_insert(error)),
        }
    }

    /// Takes the row away, if it is there.
    pub fn unpublish<T: Topic>(&mut self, key: &T::Key) {
        let (number, publication) = self.publication_mut::<T>();
        let staged = publication.stage_removal(key);
        self.take_staged(number, staged);
    }

    /// Tells the topic's readers: my set of rows is complete, I have started over. They hear it behind
    /// everything published before.
    pub fn signal_restarted<T: Topic>(&mut self) {
        let (number, publication) = self.publication_mut::<T>();
        publication.stage_restarted();
        self.effects.visible.push(number);
    }

    /// A row of a topic of its own, as last published, this step included.
    pub fn get<T: Topic>(&self, key: &T::Key) -> Option<Arc<T>> {
        self.publication::<T>().get(key)
    }

    /// All rows of a topic of its own, this step included, in the order of keys. In `start`: those that came back.
    pub fn rows<T: Topic>(&self) -> Vec<Arc<T>> {
        self.publication::<T>().rows()
    }

    /// [`Ctx::rows`], to be looked at and no more.
    pub fn iter<T: Topic>(&self) -> impl Iterator<Item = &T> {
        self.publication::<T>().iter()
    }

    /// The keys in a range, of a topic of its own, this step included, in their order.
    pub fn keys_in<T: Topic>(&self, range: impl RangeBounds<T::Key>) -> impl Iterator<Item = &T::Key> {
        self.publication::<T>().keys_in(range)
    }

    /// Rows of its own topics that were damaged on disk; they are in quarantine ([003] G9).
    pub fn damaged_rows(&self) -> &[DamagedRow] {
        &self.damaged
    }

    /// Replaces the file durably, mode 0600, making its directory if it is missing. A crash leaves the old file
    /// or the new one, whole.
    pub fn write_record(&mut self, path: impl Into<PathBuf>, bytes: impl Into<Vec<u8>>) {
        let (path, bytes) = (path.into(), bytes.into());
        self.effects.durable.push(Durable::Record { path, bytes });
    }

    /// Removes the file durably; one that is missing already is fine.
    pub fn remove_file(&mut self, path: impl Into<PathBuf>) {
        self.effects.durable.push(Durable::RemoveFile(path.into()));
    }

    /// Removes the directory and all in it durably; one that is missing already is fine. A crash may leave a part.
    pub fn remove_tree(&mut self, path: impl Into<PathBuf>) {
        self.effects.durable.push(Durable::RemoveTree(path.into()));
    }

    /// Moves a damaged file aside, with the reason ([003] H3). One that is gone already is fine.
    pub fn quarantine(&mut self, path: impl Into<PathBuf>, reason: impl Into<String>) {
        let (path, reason) = (path.into(), reason.into());
        self.effects.durable.push(Durable::Quarantine { path, reason });
    }

    /// Starts the job, when its object and its backend have room. One with this id that waits or runs already is
    /// this job: nothing is started twice.
    pub fn job(&mut self, job: A::Job) {
        self.effects.jobs.push(JobOrder::Start(job));
    }

    /// Asks the job to end early; it still ends with its event. One that does not run is fine.
    pub fn cancel_job(&mut self, id: &JobId) {
        self.effects.jobs.push(JobOrder::Cancel(id.clone()));
    }

    /// The event arrives after this time. A timer of the same key is replaced.
    pub fn timer(&mut self, key: TimerKey, after: Duration, event: A::Event) {
        self.effects.timers.push(TimerOrder::Set { key, after, event });
    }

    /// The timer's event will not arrive.
    pub fn cancel_timer(&mut self, key: &TimerKey) {
        self.effects.timers.push(TimerOrder::Cancel(key.clone()));
    }

    /// How many effects this step has so far: for an agent that makes sure it has done all there is to do.
    #[cfg(debug_assertions)]
    pub fn staged(&self) -> usize {
        let Effects { durable, visible, jobs, timers, broken } = &self.effects;
        durable.len() + visible.len() + jobs.len() + timers.len() + usize::from(broken.is_some())
    }

    pub(super) fn take_effects(&mut self) -> Effects<A> {
        std::mem::replace(&mut self.effects, Effects::none())
    }

    pub(super) fn show_next(&mut self, number: usize) {
        self.owned[number].publication.show_next();
    }

    fn take_staged(&mut self, number: usize, staged: Staged) {
        match staged {
            Staged::Unchanged => return,
            Staged::Volatile => {}
            Staged::Persistent(row) => self.effects.durable.push(Durable::Row(row)),
        }
        self.effects.visible.push(number);
    }

    fn publication_mut<T: Topic>(&mut self) -> (usize, &mut Publication<T>) {
        let number = self.number_of::<T>();
        let publication = self.owned[number].publication.as_any_mut().downcast_mut();
        (number, publication.expect("found by its type"))
    }

    fn publication<T: Topic>(&self) -> &Publication<T> {
        let publication = self.owned[self.number_of::<T>()].publication.as_any().downcast_ref();
        publication.expect("found by its type")
    }

    fn number_of<T: Topic>(&self) -> usize {
        let topic = TypeId::of::<T>();
        let found = self.owned.iter().position(|owned| owned.topic == topic);
        found.unwrap_or_else(|| panic!("{} does not say in wire() that it owns {}", A::NAME, T::NAME))
    }
}

impl<A: Agent> Effects<A> {
    fn none() -> Self {
        let (durable, visible) = (Vec::new(), Vec::new());
        Effects { durable, visible, jobs: Vec::new(), timers: Vec::new(), broken: None }
    }
}

impl<A: Agent> fmt::Debug for Ctx<A> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Ctx")
            .field("agent", &A::NAME)
            .field("mode", &self.mode)
            .field("durable", &self.effects.durable)
            .finish_non_exhaustive()
    }
}
