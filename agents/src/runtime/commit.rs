//! The durable part of a step, carried out in the order staged.
//!
//! Each change is durable before the next begins, so that a crash leaves a prefix: an agent that stages its
//! commit point last has its commit point last. No space is met with the reserve; anything else is fatal.

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;

use holdfast_persist::{Disk, PersistLayout, Reserve, crashsafe, quarantine, with_reserve};
use holdfast_pubsub::{Bus, RowImage};

use super::context::Durable;

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
