//! The durable part of a step, carried out in the order staged.
//!
//! Each change is durable before the next begins, so that a crash leaves a prefix: an agent that stages its
//! commit point last has its commit point last. No space is met with the reserve; anything else is fatal.
//!
//! ```text
//!   Commits::WithinTheStep    handle ─▶ commit ─▶ visible                                   the agent waits for the disk
//!   Commits::Beside           handle ─▶ CommitRun ─▶ Incoming::Committed ─▶ visible         it goes on with other events
//! ```
//!
//! The steps of one agent are committed in their order either way, one after the other.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use holdfast_persist::{Disk, PersistLayout, Reserve, crashsafe, quarantine, with_reserve};
use holdfast_pubsub::{Bus, RowImage};

use super::cell::panic_text;
use super::context::Durable;
use super::mode::ModeCell;

/// Where steps are made durable.
#[derive(Debug, Clone)]
pub enum Commits {
    /// In the agent's own step, before the next event: for tests, which look at the disk after each step.
    WithinTheStep,
    /// Elsewhere, so that no event waits for another's commit.
    Beside(Arc<dyn CommitExecutor>),
}

/// Carries commits out: threads in the node, the schedule's choice in the simulation.
pub trait CommitExecutor: Send + Sync + fmt::Debug {
    /// Must not block. An agent has one run under way at most.
    fn execute(&self, run: CommitRun);
}

/// Steps of one agent that are to become durable, in order. Dropped, the rest of them never does, and the agent never
/// shows it: as after a crash.
pub struct CommitRun {
    pub(super) committer: Committer,
    pub(super) mode: Arc<ModeCell>,
    pub(super) steps: VecDeque<Vec<Durable>>,
    /// Tells the agent; false when it is gone.
    pub(super) tell: Box<dyn Fn(Result<(), NotDurable>) -> bool + Send>,
}

impl CommitRun {
    pub fn agent(&self) -> &'static str {
        self.committer.owner
    }

    /// Makes the next step durable, and tells the agent. False when there is nothing more to do.
    pub fn step(&mut self) -> bool {
        let Some(changes) = self.steps.pop_front() else { return false };
        let committed = catch_unwind(AssertUnwindSafe(|| self.committer.commit(&changes)));
        let committed = committed.unwrap_or_else(|panic| Err(NotDurable::after(&*panic)));
        let is_durable = committed.is_ok();
        if is_durable {
            self.mode.refresh();
        }
        (self.tell)(committed) && is_durable && !self.steps.is_empty()
    }

    pub fn run(mut self) {
        while self.step() {}
    }
}

#[derive(Debug, Clone)]
pub(super) struct Committer {
    pub(super) owner: &'static str,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) layout: PersistLayout,
    pub(super) bus: Bus,
    pub(super) reserve: Option<Arc<Reserve>>,
}

/// What could not be made durable, and why.
#[derive(Debug)]
pub(super) struct NotDurable {
    pub(super) what: String,
    pub(super) source: io::Error,
}

impl NotDurable {
    fn after(panic: &(dyn Any + Send)) -> Self {
        NotDurable { what: "a step".to_owned(), source: io::Error::other(panic_text(panic)) }
    }
}

impl Committer {
    /// Everything, in order; stops at the first failure with the changes before it done.
    pub(super) fn commit(&self, changes: &[Durable]) -> Result<(), NotDurable> {
        changes.iter().try_for_each(|change| {
            self.make(change).map_err(|source| NotDurable { what: change.to_string(), source })
        })
    }

    fn make(&self, change: &Durable) -> io::Result<()> {
        match change {
            Durable::Row(row) => self.row(row),
            Durable::Record { path, bytes } => self.with_room(|| self.record(path, bytes)),
            Durable::RemoveFile(path) => self.with_room(|| crashsafe::remove_durable(&*self.disk, path)),
            Durable::RemoveTree(path) => self.with_room(|| crashsafe::remove_tree(&*self.disk, path)),
            Durable::Quarantine { path, reason } => self.with_room(|| self.move_aside(path, reason)),
        }
    }

    /// The bus's backing meets a full disk itself.
    fn row(&self, row: &RowImage) -> io::Result<()> {
        match self.bus.backing() {
            Some(backing) => backing.apply(self.owner, &[row.as_change()]),
            None => Ok(()),
        }
    }

    fn record(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        if let Some(directory) = path.parent() {
            crashsafe::ensure_dir(&*self.disk, directory)?;
        }
        crashsafe::durable_replace(&*self.disk, path, bytes)
    }

    fn move_aside(&self, path: &Path, reason: &str) -> io::Result<()> {
        match quarantine::quarantine(&*self.disk, &self.layout, path, reason) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), reason, "nothing left to move to quarantine");
                Ok(())
            }
            moved => moved.map(drop),
        }
    }

    fn with_room(&self, mut write: impl FnMut() -> io::Result<()>) -> io::Result<()> {
        match &self.reserve {
            Some(reserve) => with_reserve(&*self.disk, reserve, write).map(|written| written.value),
            None => write(),
        }
    }
}

impl fmt::Display for Durable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Durable::Row(row) => write!(formatter, "the row {} of {}", row.key, row.topic),
            Durable::Record { path, .. } => write!(formatter, "the record {}", path.display()),
            Durable::RemoveFile(path) => write!(formatter, "the removal of {}", path.display()),
            Durable::RemoveTree(path) => write!(formatter, "the removal of all in {}", path.display()),
            Durable::Quarantine { path, .. } => write!(formatter, "the quarantine of {}", path.display()),
        }
    }
}

impl fmt::Debug for CommitRun {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("CommitRun")
            .field("agent", &self.agent())
            .field("steps", &self.steps)
            .finish_non_exhaustive()
    }
}
