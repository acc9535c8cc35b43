//! Events on their way from the view to those who follow them.
//!
//! The last ones are kept for late comers. Each follower has a bounded queue; one that does not read misses events
//! (its sequence numbers then have a gap) and never holds the node up.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Bytes;
use holdfast_types::{AppId, Timestamp};
use hyper::body::{Body, Frame};
use tokio::sync::mpsc;

use super::documents::{EventDocument, Transition};

const KEPT_MAX: usize = 500;
const QUEUE_MAX: usize = 1000;

#[derive(Debug, Default)]
pub struct Hub {
    /// Oldest first.
    kept: VecDeque<Arc<EventDocument>>,
    last_sequence: u64,
    followers: Vec<Follower>,
}

#[derive(Debug)]
struct Follower {
    app: Option<AppId>,
    queue: mpsc::Sender<Arc<EventDocument>>,
}

impl Hub {
    pub fn tell(&mut self, transition: Transition, now: Timestamp) {
        self.last_sequence += 1;
        let event = Arc::new(EventDocument { sequence: self.last_sequence, time: now, transition });
        self.followers.retain(|follower| follower.take(&event));
        if self.kept.len() == KEPT_MAX {
            self.kept.pop_front();
        }
        self.kept.push_back(event);
    }

    /// A stream of up to `recent` past events and then every new one, of one application or of all.
    pub fn follow(&mut self, app: Option<AppId>, recent: usize) -> EventStream {
        let (queue, events) = mpsc::channel(QUEUE_MAX);
        let follower = Follower { app, queue };
        let past: Vec<_> = self.kept.iter().filter(|event| follower.wants(event)).cloned().collect();
        for event in past.iter().skip(past.len().saturating_sub(recent.min(KEPT_MAX))) {
            follower.take(event);
        }
        self.followers.push(follower);
        EventStream { events }
    }

    /// Ends every stream: the node stops.
    pub fn close(&mut self) {
        self.followers.clear();
    }

    pub fn last_sequence(&self) -> u64 {
        self.last_sequence
    }
}

impl Follower {
    fn wants(&self, event: &EventDocument) -> bool {
        self.app.is_none() || self.app == event.transition.app
    }

    /// False when nobody follows any more.
    fn take(&self, event: &Arc<EventDocument>) -> bool {
        if !self.wants(event) {
            return !self.queue.is_closed();
        }
        let sent = self.queue.try_send(Arc::clone(event));
        !matches!(sent, Err(mpsc::error::TrySendError::Closed(_)))
    }
}

/// The body of an events answer: one JSON line per event.
#[derive(Debug)]
pub struct EventStream {
    events: mpsc::Receiver<Arc<EventDocument>>,
}

impl Body for EventStream {
    type Data = Bytes;
    type Error = serde_json::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.events.poll_recv(context).map(|event| event.map(|event| line(&event)))
    }
}

fn line(event: &EventDocument) -> Result<Frame<Bytes>, serde_json::Error> {
    let mut bytes = serde_json::to_vec(event)?;
    bytes.push(b'\n');
    Ok(Frame::data(Bytes::from(bytes)))
}
