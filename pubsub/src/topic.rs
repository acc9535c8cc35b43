//! A topic in memory: its rows, how often its publisher started over, and who listens.
//!
//! One lock per topic. It is held while a change goes to every subscriber, so all of them see the changes of a
//! topic in one order; the only lock taken under it is a mailbox's, never the other way round.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use holdfast_types::Topic;

use crate::change::Change;

/// The way to one subscriber. Each call says false when the subscriber is gone.
pub(crate) trait Link<T: Topic>: Send {
    fn row(&self, key: &T::Key, change: Change<T>) -> bool;
    fn restarted(&self, times: u32) -> bool;
    fn is_alive(&self) -> bool;
}

pub(crate) struct TopicCell<T: Topic> {
    state: Mutex<State<T>>,
}

struct State<T: Topic> {
    rows: BTreeMap<T::Key, Arc<T>>,
    restarted: u32,
    links: Vec<Box<dyn Link<T>>>,
    owner: Option<&'static str>,
}

impl<T: Topic> TopicCell<T> {
    pub(crate) fn new() -> Self {
        let state = State { rows: BTreeMap::new(), restarted: 0, links: Vec::new(), owner: None };
        TopicCell { state: Mutex::new(state) }
    }

    /// Makes this the owner for good, or says who is.
    pub(crate) fn take_ownership(&self, owner: &'static str) -> Result<(), &'static str> {
        let mut state = self.lock();
        match state.owner {
            Some(owner) => Err(owner),
            None => {
                state.owner = Some(owner);
                Ok(())
            }
        }
    }

    /// Adds a subscriber; `make` tells it what exists, while nothing can change.
    pub(crate) fn link(&self, make: impl FnOnce(&BTreeMap<T::Key, Arc<T>>, u32) -> Box<dyn Link<T>>) {
        let mut state = self.lock();
        let link = make(&state.rows, state.restarted);
        state.links.retain(|link| link.is_alive());
        state.links.push(link);
    }

    pub(crate) fn put(&self, value: Arc<T>) {
        let key = value.key();
        let mut state = self.lock();
        let State { rows, links, .. } = &mut *state;
        let change = match rows.get_mut(&key) {
            Some(row) => {
                let old = std::mem::replace(row, Arc::clone(&value));
                Change::Modified { old, new: value }
            }
            None => {
                rows.insert(key.clone(), Arc::clone(&value));
                Change::Created(value)
            }
        };
        tell(links, &key, change);
    }

    pub(crate) fn remove(&self, key: &T::Key) {
        let mut state = self.lock();
        let State { rows, links, .. } = &mut *state;
        if let Some(last) = rows.remove(key) {
            tell(links, key, Change::Deleted(last));
        }
    }

    pub(crate) fn restart(&self) {
        let mut state = self.lock();
        state.restarted = state.restarted.saturating_add(1);
        let times = state.restarted;
        state.links.retain(|link| link.restarted(times));
    }

    pub(crate) fn get(&self, key: &T::Key) -> Option<Arc<T>> {
        self.lock().rows.get(key).cloned()
    }

    pub(crate) fn rows(&self) -> Vec<Arc<T>> {
        self.lock().rows.values().cloned().collect()
    }

    pub(crate) fn subscriber_count(&self) -> usize {
        self.lock().links.iter().filter(|link| link.is_alive()).count()
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// In the order in which they came; the last one is given the change itself.
fn tell<T: Topic>(links: &mut Vec<Box<dyn Link<T>>>, key: &T::Key, change: Change<T>) {
    let Some(last) = links.pop() else { return };
    links.retain(|link| link.row(key, change.clone()));
    if last.row(key, change) {
        links.push(last);
    }
}

impl<T: Topic> fmt::Debug for TopicCell<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("TopicCell").field("topic", &T::NAME).finish_non_exhaustive()
    }
}
