//! An agent's timers: at most one per key, due by the monotonic clock.

use std::collections::BTreeMap;
use std::time::Duration;

use super::agent::TimerKey;

#[derive(Debug)]
pub(super) struct Timers<E> {
    /// By time, then by the order of setting.
    waiting: BTreeMap<Due, (TimerKey, E)>,
    by_key: BTreeMap<TimerKey, Due>,
    set_count: u64,
}

type Due = (Duration, u64);

impl<E> Timers<E> {
    pub(super) fn new() -> Self {
        Timers { waiting: BTreeMap::new(), by_key: BTreeMap::new(), set_count: 0 }
    }

    /// Replaces a timer of the same key.
    pub(super) fn set(&mut self, key: TimerKey, at: Duration, event: E) {
        self.cancel(&key);
        self.set_count += 1;
        let due = (at, self.set_count);
        self.by_key.insert(key.clone(), due);
        self.waiting.insert(due, (key, event));
    }

    pub(super) fn cancel(&mut self, key: &TimerKey) {
        if let Some(due) = self.by_key.remove(key) {
            self.waiting.remove(&due);
        }
    }

    pub(super) fn next_at(&self) -> Option<Duration> {
        self.waiting.first_key_value().map(|(due, _)| due.0)
    }

    pub(super) fn take_due(&mut self, elapsed: Duration) -> Option<E> {
        if self.next_at()? > elapsed {
            return None;
        }
        let (_, (key, event)) = self.waiting.pop_first()?;
        self.by_key.remove(&key);
        Some(event)
    }
}
