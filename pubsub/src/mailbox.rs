//! One receiver for many topics and for posted events, in the order in which things happened.
//!
//! ```text
//!   publications ──▶ source per topic ─┐ ticket
//!                                      ├──▶ the line ──▶ try_recv, recv
//!   posters ── post, post_latest ──────┘
//! ```
//!
//! A change that melts into one that waits keeps that one's place; everything else goes to the end. Posted events
//! are never melted, except those posted with [`Poster::post_latest`] under one key.
//!
//! Dropping the mailbox unsubscribes it everywhere: publications and posters hold it weakly.

use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::task::{Context, Poll, Waker};

use holdfast_types::Topic;

use crate::bus::Bus;
use crate::change::Change;
use crate::line::{Line, Place};
use crate::source::{AnySource, Source, Wrap};
use crate::topic::Link;

/// Receives events of type `E`. One receiver; subscribe and post from anywhere.
pub struct Mailbox<E> {
    shared: Arc<Shared<E>>,
}

/// A mailbox for one topic.
pub type Subscription<T> = Mailbox<Change<T>>;

/// Puts events into a mailbox, from any thread; cheap to clone, harmless when the mailbox is gone.
pub struct Poster<E> {
    shared: Weak<Shared<E>>,
}

pub(crate) struct Shared<E> {
    queue: Mutex<Queue<E>>,
}

struct Queue<E> {
    line: Line<Ticket<E>>,
    sources: Vec<Box<dyn AnySource<E>>>,
    latest: BTreeMap<String, Place>,
    waker: Option<Waker>,
}

pub(crate) enum Ticket<E> {
    Posted(E),
    Latest {
        key: String,
        event: E,
    },
    /// The oldest entry of this source.
    Source(usize),
}

impl<E: Send + 'static> Mailbox<E> {
    pub fn new() -> Self {
        let queue = Queue { line: Line::new(), sources: Vec::new(), latest: BTreeMap::new(), waker: None };
        Mailbox { shared: Arc::new(Shared { queue: Mutex::new(queue) }) }
    }

    /// From here on this mailbox is told of every change of the topic, wrapped into its own event: first
    /// `Created` for each row that exists now, in the order of keys, then `Synced`, then `Restarted(n)` if the
    /// publisher has said so before. The topic need not have a publisher yet; it then has no rows.
    ///
    /// `wrap` runs when the event is received, and must not touch the bus.
    pub fn subscribe<T: Topic>(&self, bus: &Bus, wrap: impl Fn(Change<T>) -> E + Send + 'static) {
        bus.topic::<T>().link(|rows, restarted| {
            let waker;
            let source = {
                let mut queue = self.shared.lock();
                let number = queue.sources.len();
                let mut source = Source::<T, E>::new(number, Box::new(wrap) as Wrap<T, E>);
                source.add_existing(rows, &mut queue.line);
                source.add_synced(&mut queue.line);
                if restarted > 0 {
                    source.add_restarted(restarted, &mut queue.line);
                }
                queue.sources.push(Box::new(source));
                waker = queue.waker.take();
                number
            };
            wake(waker);
            Box::new(MailboxLink { shared: Arc::downgrade(&self.shared), source })
        });
    }

    /// Puts an event at the end of the line.
    pub fn post(&self, event: E) {
        self.shared.post(Ticket::Posted(event));
    }

    pub fn poster(&self) -> Poster<E> {
        Poster { shared: Arc::downgrade(&self.shared) }
    }

    /// The oldest event, if there is any.
    pub fn try_recv(&self) -> Option<E> {
        self.shared.lock().take()
    }

    /// Waits for the next event. One task at a time: a second one takes the wake-up from the first.
    pub async fn recv(&self) -> E {
        poll_fn(|context| self.poll_recv(context)).await
    }

    pub fn poll_recv(&self, context: &mut Context<'_>) -> Poll<E> {
        let mut queue = self.shared.lock();
        match queue.take() {
            Some(event) => Poll::Ready(event),
            None => {
                queue.wait(context.waker());
                Poll::Pending
            }
        }
    }

    /// Ready when an event waits; takes nothing.
    pub fn poll_ready(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut queue = self.shared.lock();
        if queue.line.len() > 0 {
            return Poll::Ready(());
        }
        queue.wait(context.waker());
        Poll::Pending
    }

    /// Events that wait: at most one per live key and topic, the markers, and what was posted.
    pub fn len(&self) -> usize {
        self.shared.lock().line.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T: Topic> Subscription<T> {
    /// A mailbox of its own for this topic.
    pub fn of(bus: &Bus) -> Self {
        let mailbox = Mailbox::new();
        mailbox.subscribe::<T>(bus, |change| change);
        mailbox
    }
}

impl<E: Send + 'static> Poster<E> {
    /// Puts an event at the end of the line; false when the mailbox is gone.
    pub fn post(&self, event: E) -> bool {
        self.shared.upgrade().map(|shared| shared.post(Ticket::Posted(event))).is_some()
    }

    /// As [`Poster::post`], but an event under the same key that still waits is replaced in its place: for
    /// progress, where only the newest counts.
    pub fn post_latest(&self, key: &str, event: E) -> bool {
        self.shared.upgrade().map(|shared| shared.post_latest(key, event)).is_some()
    }
}

impl<E> Shared<E> {
    fn lock(&self) -> MutexGuard<'_, Queue<E>> {
        // A panic under this lock can only come from a subscriber's `wrap`; the line itself is whole.
        self.queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn post(&self, ticket: Ticket<E>) {
        let waker = {
            let mut queue = self.lock();
            queue.line.push_back(ticket);
            queue.waker.take()
        };
        wake(waker);
    }

    fn post_latest(&self, key: &str, event: E) {
        let waker = {
            let mut queue = self.lock();
            let ticket = Ticket::Latest { key: key.to_string(), event };
            match queue.latest.get(key).copied() {
                Some(place) => *queue.line.get_mut(place) = ticket,
                None => {
                    let place = queue.line.push_back(ticket);
                    queue.latest.insert(key.to_string(), place);
                }
            }
            queue.waker.take()
        };
        wake(waker);
    }
}

impl<E> Queue<E> {
    fn take(&mut self) -> Option<E> {
        match self.line.pop_front()? {
            Ticket::Posted(event) => Some(event),
            Ticket::Latest { key, event } => {
                self.latest.remove(&key);
                Some(event)
            }
            Ticket::Source(number) => self.sources[number].take(),
        }
    }

    fn wait(&mut self, waker: &Waker) {
        match &mut self.waker {
            Some(waiting) => waiting.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }
}

/// How a topic reaches one of its subscribers.
struct MailboxLink<E> {
    shared: Weak<Shared<E>>,
    source: usize,
}

impl<E: Send + 'static> MailboxLink<E> {
    /// False when the mailbox is gone.
    fn with_source<T: Topic>(&self, act: impl FnOnce(&mut Source<T, E>, &mut Line<Ticket<E>>)) -> bool {
        let Some(shared) = self.shared.upgrade() else { return false };
        let waker = {
            let mut queue = shared.lock();
            let Queue { line, sources, waker, .. } = &mut *queue;
            let source = sources[self.source].as_any_mut().downcast_mut::<Source<T, E>>();
            act(source.expect("the link was made for this topic"), line);
            waker.take()
        };
        wake(waker);
        true
    }
}

impl<T: Topic, E: Send + 'static> Link<T> for MailboxLink<E> {
    fn row(&self, key: &T::Key, change: Change<T>) -> bool {
        self.with_source(|source, line| source.add_row(key, change, line))
    }

    fn restarted(&self, times: u32) -> bool {
        self.with_source::<T>(|source, line| source.add_restarted(times, line))
    }

    fn is_alive(&self) -> bool {
        self.shared.strong_count() > 0
    }
}

/// Outside of the queue's lock: the one who is woken may come for it at once.
fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl<E: Send + 'static> Default for Mailbox<E> {
    fn default() -> Self {
        Mailbox::new()
    }
}

impl<E> fmt::Debug for Mailbox<E> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Mailbox").field("len", &self.shared.lock().line.len()).finish_non_exhaustive()
    }
}

impl<E> Clone for Poster<E> {
    fn clone(&self) -> Self {
        Poster { shared: Weak::clone(&self.shared) }
    }
}

impl<E> fmt::Debug for Poster<E> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Poster").finish_non_exhaustive()
    }
}
