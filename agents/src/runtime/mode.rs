//! What the node may do at the moment.
//!
//! ```text
//!   Normal ◀── the reserve is back ──▶ NoSpace        ReadOnly: chosen at start, until the process ends
//!            ── the reserve was used ─▶
//! ```
//!
//! The mode is a fact that agents judge by: in `NoSpace` they refuse new operations and go on finishing and
//! deleting; in `ReadOnly` guests run and no job may change anything, because the runtime writes nothing down
//! then (`cell.rs`). Nothing is refused here.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use holdfast_persist::Reserve;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeMode {
    Normal,
    /// The disk is full: no new operations; what runs is finished, and deleting works.
    NoSpace,
    /// The node kept failing: guests run, nothing changes.
    ReadOnly {
        reason: String,
    },
}

impl NodeMode {
    /// Whether a new operation may begin.
    pub fn accepts_operations(&self) -> bool {
        *self == NodeMode::Normal
    }
}

impl fmt::Display for NodeMode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NodeMode::Normal => formatter.write_str("normal"),
            NodeMode::NoSpace => formatter.write_str("no space left on the persist directory"),
            NodeMode::ReadOnly { reason } => write!(formatter, "read-only: {reason}"),
        }
    }
}

type Listener = Box<dyn Fn(&NodeMode) + Send>;

/// The node's one mode, shared by all agents.
pub struct ModeCell {
    read_only: Option<String>,
    reserve: Option<Arc<Reserve>>,
    told: Mutex<Told>,
}

struct Told {
    last: NodeMode,
    listeners: Vec<Listener>,
}

impl ModeCell {
    pub fn new(reserve: Option<Arc<Reserve>>, read_only: Option<String>) -> Self {
        let told = Mutex::new(Told { last: NodeMode::Normal, listeners: Vec::new() });
        let cell = ModeCell { read_only, reserve, told };
        cell.refresh();
        cell
    }

    pub fn get(&self) -> NodeMode {
        match &self.read_only {
            Some(reason) => NodeMode::ReadOnly { reason: reason.clone() },
            None if self.reserve.as_ref().is_some_and(|reserve| reserve.is_spent()) => NodeMode::NoSpace,
            None => NodeMode::Normal,
        }
    }

    /// Tells the listeners if the mode is another than they were told last.
    pub fn refresh(&self) {
        let mut told = self.lock();
        let mode = self.get();
        if told.last != mode {
            tracing::info!(from = %told.last, to = %mode, "the node's mode changed");
            told.last = mode;
            told.listeners.iter().for_each(|listener| listener(&told.last));
        }
    }

    /// `listener` hears of every change from now on; it must not call back into this cell.
    pub(super) fn on_change(&self, listener: Listener) {
        self.lock().listeners.push(listener);
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl fmt::Debug for ModeCell {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ModeCell").field("mode", &self.get()).finish_non_exhaustive()
    }
}
