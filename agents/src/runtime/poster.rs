//! The agent's mailbox as the runtime sees it: the agent's own events, and a few that only the runtime reads.

use std::fmt;

use holdfast_pubsub as pubsub;

use super::commit::NotDurable;

/// What stands in an agent's mailbox.
#[derive(Debug)]
pub(super) enum Incoming<E> {
    Event(E),
    /// Behind everything that existed when the agent subscribed: who has handled this is synced.
    Synced,
    /// Who answers this is alive.
    Ping(u64),
    /// The oldest step that was given away to be committed is durable, or cannot be.
    Committed(Result<(), NotDurable>),
    /// A job panicked and its agent has no event for that.
    JobPanicked {
        job: String,
        message: String,
    },
}

/// Sends events to an agent from anywhere (a watcher's callback, a connection); cheap to clone, and harmless
/// when the agent is gone.
pub struct Poster<E> {
    pub(super) inner: pubsub::Poster<Incoming<E>>,
}

impl<E: Send + 'static> Poster<E> {
    /// False when the agent is gone.
    pub fn post(&self, event: E) -> bool {
        self.inner.post(Incoming::Event(event))
    }

    /// An event under the same key that still waits is replaced in its place: for progress.
    pub fn post_latest(&self, key: &str, event: E) -> bool {
        self.inner.post_latest(key, Incoming::Event(event))
    }
}

impl<E> Clone for Poster<E> {
    fn clone(&self) -> Self {
        Poster { inner: self.inner.clone() }
    }
}

impl<E> fmt::Debug for Poster<E> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Poster").finish_non_exhaustive()
    }
}
