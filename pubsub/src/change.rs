//! What a subscriber is told, and how changes that it has not seen yet melt into one.
//!
//! | not seen yet      | then            | seen instead of both |
//! |-------------------|-----------------|----------------------|
//! | Created(a)        | Modified(→b)    | Created(b)           |
//! | Created(a)        | Deleted         | nothing              |
//! | Modified(o→a)     | Modified(→b)    | Modified(o→b)        |
//! | Modified(o→a)     | Deleted(a)      | Deleted(a)           |
//! | Deleted(o)        | Created(b)      | Modified(o→b), also when they are equal |
//!
//! The last line is why a delete followed by a create is never hidden: a subscriber that must treat it as a new
//! life of the key compares what tells lives apart (an operation number, a generation).

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_types::Topic;

/// One piece of news about a topic. Values are shared with the publisher and with all subscribers.
#[derive(Debug, PartialEq)]
pub enum Change<T> {
    Created(Arc<T>),
    Modified {
        /// What this subscriber was told last.
        old: Arc<T>,
        new: Arc<T>,
    },
    /// With the last value the row had.
    Deleted(Arc<T>),
    /// All that existed at the time of subscribing has been told.
    Synced,
    /// The publisher says, for the n-th time, that it has started over and its set of rows is complete; what it
    /// published before that has been told.
    Restarted(u32),
}

impl<T> Change<T> {
    /// The row's value after this change; for a deleted row its last one.
    pub fn value(&self) -> Option<&Arc<T>> {
        match self {
            Change::Created(value) | Change::Modified { new: value, .. } | Change::Deleted(value) => {
                Some(value)
            }
            Change::Synced | Change::Restarted(_) => None,
        }
    }

    /// The value the row has now; `None` if it has none, or this is not about a row.
    pub fn current(&self) -> Option<&Arc<T>> {
        match self {
            Change::Created(value) | Change::Modified { new: value, .. } => Some(value),
            Change::Deleted(_) | Change::Synced | Change::Restarted(_) => None,
        }
    }

    /// This change and the next one of the same key, as one; `None` if together they are nothing.
    pub(crate) fn followed_by(self, next: Change<T>) -> Option<Change<T>> {
        match (self, next) {
            (Change::Created(_), Change::Modified { new, .. }) => Some(Change::Created(new)),
            (Change::Created(_), Change::Deleted(_)) => None,
            (Change::Modified { old, .. }, Change::Modified { new, .. }) => {
                Some(Change::Modified { old, new })
            }
            (Change::Modified { .. }, Change::Deleted(last)) => Some(Change::Deleted(last)),
            (Change::Deleted(old), Change::Created(new)) => Some(Change::Modified { old, new }),
            // A publication never says these: a row is created only when missing and modified only when there.
            (_, next) => {
                debug_assert!(false, "changes of one key out of order");
                Some(next)
            }
        }
    }
}

impl<T: Topic> Change<T> {
    /// Takes the change into the rows that a reader remembers. The value it tells of, which of a deleted row is its last;
    /// `None` if this is not about a row.
    pub fn keep_in(&self, rows: &mut BTreeMap<T::Key, Arc<T>>) -> Option<&Arc<T>> {
        let value = self.value()?;
        match self.current() {
            Some(new) => drop(rows.insert(new.key(), Arc::clone(new))),
            None => drop(rows.remove(&value.key())),
        }
        Some(value)
    }
}

/// By hand: `T` itself need not be `Clone`, it is shared.
impl<T> Clone for Change<T> {
    fn clone(&self) -> Self {
        match self {
            Change::Created(value) => Change::Created(Arc::clone(value)),
            Change::Modified { old, new } => Change::Modified { old: Arc::clone(old), new: Arc::clone(new) },
            Change::Deleted(value) => Change::Deleted(Arc::clone(value)),
            Change::Synced => Change::Synced,
            Change::Restarted(times) => Change::Restarted(*times),
        }
    }
}
