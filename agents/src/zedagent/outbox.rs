//! Reports on their way to the controller: the newest per object, one at a time per object, until delivered.
//!
//! ```text
//!                update                  its turn                 taken
//!   Delivered ──────────▶ Queued ───────────────▶ Sending ───────────────────▶ Delivered (or forgotten, if the last)
//!                            ▲                     │   │  changed meanwhile
//!                            │   the delay is over │   └──────────▶ Queued
//!                            └────── Waiting ◀─────┘ not taken
//! ```
//!
//! While a report waits or is being sent, a newer one of the same object only replaces the content: what is behind is
//! never longer than the list of objects, however long the controller is away. Few are sent at once
//! ([`MAX_SENDING`]), so that asking for the configuration always finds a free line.
//!
//! Nothing here sends, waits or reads the clock: it says what to send and how long to wait.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_types::Timestamp;

use super::delay::growing;
use super::report::{ReportObject, gone};
use crate::wire::info::z_info_msg::InfoContent;

/// Two, because one controller that is slow to take one report should not hold up all others, and more would only
/// crowd out the question for the configuration.
pub const MAX_SENDING: usize = 2;

#[derive(Debug, Clone, PartialEq)]
pub struct Outbox {
    entries: BTreeMap<ReportObject, Entry>,
    first_retry: Duration,
    longest_retry: Duration,
    /// Grows with each turn and each sending, for ever.
    number: u64,
}

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    content: InfoContent,
    made_at: Timestamp,
    /// The object is no more: forgotten once this is delivered.
    is_last: bool,
    failures: u32,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    /// In the order of turns.
    Queued {
        turn: u64,
    },
    Sending {
        number: u64,
        is_changed: bool,
    },
    Waiting,
    Delivered,
}

/// One report to be sent now. Its end is told with [`Outbox::taken`] or [`Outbox::not_taken`].
#[derive(Debug, Clone, PartialEq)]
pub struct Sending {
    pub object: ReportObject,
    pub number: u64,
    pub content: InfoContent,
    pub made_at: Timestamp,
}

impl Outbox {
    pub fn new(first_retry: Duration, longest_retry: Duration) -> Self {
        Outbox { entries: BTreeMap::new(), first_retry, longest_retry, number: 0 }
    }

    /// The object is this now. Told again, nothing happens.
    pub fn update(&mut self, object: ReportObject, content: InfoContent, now: Timestamp) {
        self.put(object, content, false, now);
    }

    /// The object is no more. One that was never reported needs no farewell.
    pub fn finish(&mut self, object: ReportObject, now: Timestamp) {
        if self.entries.contains_key(&object) {
            let content = gone(&object);
            self.put(object, content, true, now);
        }
    }

    fn put(&mut self, object: ReportObject, content: InfoContent, is_last: bool, now: Timestamp) {
        let turn = self.next_number();
        let Some(entry) = self.entries.get_mut(&object) else {
            let state = State::Queued { turn };
            self.entries.insert(object, Entry { content, made_at: now, is_last, failures: 0, state });
            return;
        };
        entry.is_last = is_last;
        if entry.content == content {
            return;
        }
        entry.content = content;
        entry.made_at = now;
        entry.state = match entry.state {
            State::Delivered => State::Queued { turn },
            State::Sending { number, .. } => State::Sending { number, is_changed: true },
            unsent @ (State::Queued { .. } | State::Waiting) => unsent,
        };
    }

    /// What to send now, first come first served.
    pub fn start_due(&mut self) -> Vec<Sending> {
        let mut due = Vec::new();
        while self.sending_count() < MAX_SENDING {
            let Some(object) = self.next_in_turn() else { break };
            let number = self.next_number();
            if let Some(entry) = self.entries.get_mut(&object) {
                entry.state = State::Sending { number, is_changed: false };
                let (content, made_at) = (entry.content.clone(), entry.made_at);
                due.push(Sending { object, number, content, made_at });
            }
        }
        due
    }

    /// The controller has it.
    pub fn taken(&mut self, object: &ReportObject, number: u64) {
        let turn = self.next_number();
        let Some(entry) = self.sending_mut(object, number) else { return };
        entry.failures = 0;
        match entry.state {
            State::Sending { is_changed: true, .. } => entry.state = State::Queued { turn },
            _ if entry.is_last => drop(self.entries.remove(object)),
            _ => entry.state = State::Delivered,
        }
    }

    /// The controller may not have it. Answers how long to wait before [`Outbox::retry`]; `None` if this is old news.
    pub fn not_taken(&mut self, object: &ReportObject, number: u64) -> Option<Duration> {
        let (first, longest) = (self.first_retry, self.longest_retry);
        let entry = self.sending_mut(object, number)?;
        entry.state = State::Waiting;
        entry.failures = entry.failures.saturating_add(1);
        Some(growing(first, longest, entry.failures))
    }

    /// The delay of this object is over.
    pub fn retry(&mut self, object: &ReportObject) {
        let turn = self.next_number();
        if let Some(entry) = self.entries.get_mut(object).filter(|entry| entry.state == State::Waiting) {
            entry.state = State::Queued { turn };
        }
    }

    /// The controller has been heard again: nothing needs to wait any longer.
    pub fn retry_all(&mut self) {
        let waiting = self.entries.iter().filter(|(_, entry)| entry.state == State::Waiting);
        for object in waiting.map(|(object, _)| object.clone()).collect::<Vec<_>>() {
            self.retry(&object);
        }
    }

    /// How many objects the controller does not know the newest of.
    pub fn pending(&self) -> u32 {
        let pending = self.entries.values().filter(|entry| entry.state != State::Delivered).count();
        u32::try_from(pending).unwrap_or(u32::MAX)
    }

    /// True while a report was not taken and waits to be sent again.
    pub fn has_failures(&self) -> bool {
        self.entries.values().any(|entry| entry.failures > 0)
    }

    fn sending_count(&self) -> usize {
        self.entries.values().filter(|entry| matches!(entry.state, State::Sending { .. })).count()
    }

    fn next_in_turn(&self) -> Option<ReportObject> {
        let queued = self.entries.iter().filter_map(|(object, entry)| match entry.state {
            State::Queued { turn } => Some((turn, object)),
            _ => None,
        });
        queued.min().map(|(_, object)| object.clone())
    }

    fn sending_mut(&mut self, object: &ReportObject, wanted: u64) -> Option<&mut Entry> {
        let is_wanted =
            |entry: &&mut Entry| matches!(entry.state, State::Sending { number, .. } if number == wanted);
        self.entries.get_mut(object).filter(is_wanted)
    }

    fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }
}
