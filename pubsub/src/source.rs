//! One topic as one subscriber sees it: the changes it has not taken yet, at most one per key.
//!
//! Every entry has a ticket in the mailbox's line, and the tickets of a source stand there in the order of its
//! entries; so whoever takes a ticket of this source takes its oldest entry.

use std::any::Any;
use std::collections::{BTreeMap, btree_map};
use std::fmt;
use std::hint::black_box;
use std::sync::Arc;

use holdfast_types::Topic;

use crate::change::Change;
use crate::line::{Line, Place};
use crate::mailbox::Ticket;

/// As many rows as wait for memory together: of 16, 32 and 64 the quickest for 100,000 rows.
const FETCHED_AT_ONCE: usize = 32;

/// Turns a change of the topic into the subscriber's own event.
pub(crate) type Wrap<T, E> = Box<dyn Fn(Change<T>) -> E + Send>;

/// A source whose topic the mailbox does not know.
pub(crate) trait AnySource<E>: Send {
    fn take(&mut self) -> Option<E>;
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

pub(crate) struct Source<T: Topic, E> {
    number: usize,
    entries: Line<Entry<T>>,
    by_key: BTreeMap<T::Key, Place>,
    /// Where a `Restarted` waits.
    restarted: Option<Place>,
    wrap: Wrap<T, E>,
    /// How many of the oldest entries [`fetch`] has seen, at most: some of them may have gone, or been replaced.
    fetched: usize,
}

struct Entry<T: Topic> {
    /// `None` for markers.
    key: Option<T::Key>,
    change: Change<T>,
    ticket: Place,
}

impl<T: Topic, E> Source<T, E> {
    pub(crate) fn new(number: usize, wrap: Wrap<T, E>) -> Self {
        Source { number, entries: Line::new(), by_key: BTreeMap::new(), restarted: None, wrap, fetched: 0 }
    }

    /// All rows there are, as created. Before anything else is added: keys in order make a map at once.
    pub(crate) fn add_existing(&mut self, rows: &BTreeMap<T::Key, Arc<T>>, line: &mut Line<Ticket<E>>) {
        self.entries.reserve(rows.len());
        line.reserve(rows.len());
        let rows: Vec<_> = rows.iter().collect();
        let mut created = Vec::with_capacity(rows.len());
        for rows in rows.chunks(FETCHED_AT_ONCE) {
            fetch(rows.iter().map(|(_, value)| *value));
            for &(key, value) in rows {
                let change = Change::Created(Arc::clone(value));
                let ticket = line.push_back(Ticket::Source(self.number));
                let entry = Entry { key: Some(key.clone()), change, ticket };
                created.push((key.clone(), self.entries.push_back(entry)));
            }
        }
        self.by_key = created.into_iter().collect();
    }

    /// A change of a row: it takes its place at the end, or melts into the one that waits already.
    pub(crate) fn add_row(&mut self, key: &T::Key, change: Change<T>, line: &mut Line<Ticket<E>>) {
        let place = match self.by_key.entry(key.clone()) {
            btree_map::Entry::Occupied(waiting) => *waiting.get(),
            btree_map::Entry::Vacant(free) => {
                let ticket = line.push_back(Ticket::Source(self.number));
                let key = Some(key.clone());
                free.insert(self.entries.push_back(Entry { key, change, ticket }));
                return;
            }
        };
        let entry = self.entries.get_mut(place);
        let waiting = std::mem::replace(&mut entry.change, Change::Synced);
        match waiting.followed_by(change) {
            Some(both) => entry.change = both,
            None => {
                line.remove(entry.ticket);
                self.entries.remove(place);
                self.by_key.remove(key);
            }
        }
    }

    pub(crate) fn add_synced(&mut self, line: &mut Line<Ticket<E>>) {
        self.append_marker(Change::Synced, line);
    }

    /// At most one waits, the newest, and it stands behind everything published before it.
    pub(crate) fn add_restarted(&mut self, times: u32, line: &mut Line<Ticket<E>>) {
        if let Some(earlier) = self.restarted.take() {
            line.remove(self.entries.remove(earlier).ticket);
        }
        self.restarted = Some(self.append_marker(Change::Restarted(times), line));
    }

    fn fetch_oldest(&mut self) {
        let oldest = self.entries.iter().take(FETCHED_AT_ONCE);
        fetch(oldest.filter_map(|entry| entry.change.value()));
        self.fetched = FETCHED_AT_ONCE;
    }

    fn append_marker(&mut self, marker: Change<T>, line: &mut Line<Ticket<E>>) -> Place {
        let ticket = line.push_back(Ticket::Source(self.number));
        self.entries.push_back(Entry { key: None, change: marker, ticket })
    }
}

impl<T: Topic, E: 'static> AnySource<E> for Source<T, E> {
    fn take(&mut self) -> Option<E> {
        if self.fetched == 0 && self.entries.len() >= FETCHED_AT_ONCE {
            self.fetch_oldest();
        }
        self.fetched = self.fetched.saturating_sub(1);
        let entry = self.entries.pop_front()?;
        match (&entry.key, &entry.change) {
            (Some(key), _) => drop(self.by_key.remove(key)),
            (None, Change::Restarted(_)) => self.restarted = None,
            (None, _) => {}
        }
        Some((self.wrap)(entry.change))
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

/// Brings rows into the processor's caches before they are shared or let go of. Either changes a count in the row, and such
/// changes are made one after the other: of a hundred thousand rows, which lie in memory, each would wait for memory by
/// itself. Reads wait together.
fn fetch<'a, T: 'a>(rows: impl Iterator<Item = &'a Arc<T>>) {
    black_box(rows.map(Arc::strong_count).sum::<usize>());
}

impl<T: Topic, E> fmt::Debug for Source<T, E> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Source").field("topic", &T::NAME).finish_non_exhaustive()
    }
}
