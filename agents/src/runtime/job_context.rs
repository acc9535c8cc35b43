//! A job while it runs: what it sees, and how its end becomes an event, panics included.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::agent::{Agent, Job, JobId};
use super::cell::panic_text;
use super::jobs::{Body, JobInfo, Work};
use super::poster::{Incoming, Poster};
use super::seams::{Clock, Timestamp};

/// What a job sees while it runs.
pub struct JobContext<E> {
    id: JobId,
    clock: Arc<dyn Clock>,
    poster: Poster<E>,
    cancelled: Arc<AtomicBool>,
    deadline_at: Option<Duration>,
}

impl<E: Send + 'static> JobContext<E> {
    /// For a test that calls a job's code directly: never cancelled, no deadline, events go nowhere.
    pub fn detached(clock: Arc<dyn Clock>) -> Self {
        let poster = Poster { inner: holdfast_pubsub::Mailbox::new().poster() };
        JobContext { id: JobId::new("detached"), clock, poster, cancelled: Arc::default(), deadline_at: None }
    }

    pub fn id(&self) -> &JobId {
        &self.id
    }

    /// Tells the agent how far it is; an earlier progress of this job that still waits is replaced.
    pub fn progress(&self, event: E) {
        self.poster.post_latest(&self.id.0, event);
    }

    pub fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    /// `None` if it has no deadline; zero when it has passed.
    pub fn deadline_left(&self) -> Option<Duration> {
        self.deadline_at.map(|at| at.saturating_sub(self.clock.elapsed()))
    }

    /// Cancelled, or past its deadline.
    pub fn should_stop(&self) -> bool {
        self.cancelled() || self.deadline_left().is_some_and(|left| left.is_zero())
    }

    /// The cancel flag, for a tool that watches it itself.
    pub fn cancel_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.cancelled)
    }

    /// The wall clock: `create_time` of what the job makes ([003] B8).
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// By the monotonic clock.
    pub fn elapsed(&self) -> Duration {
        self.clock.elapsed()
    }

    /// For events after the job's end, as from a watcher it has started.
    pub fn poster(&self) -> Poster<E> {
        self.poster.clone()
    }
}

impl<E> fmt::Debug for JobContext<E> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("JobContext")
            .field("id", &self.id)
            .field("deadline_at", &self.deadline_at)
            .finish_non_exhaustive()
    }
}

/// Makes the typed job into something the scheduler can hold.
pub(super) fn work_of<A: Agent>(
    job: A::Job,
    env: Arc<A::Env>,
    clock: Arc<dyn Clock>,
    poster: Poster<A::Event>,
) -> (JobInfo, Work) {
    let info = JobInfo {
        agent: A::NAME,
        id: job.id(),
        object: job.object(),
        backend: job.backend(),
        deadline: job.deadline(),
    };
    let (id, deadline) = (info.id.clone(), info.deadline);
    let kept = Box::new(job.clone());
    let body: Body = Box::new(move |ticket, given| {
        let incoming = match given {
            Some(event) => Incoming::Event(*event.downcast().expect("an event of the job's agent")),
            None => {
                let deadline_at = deadline.map(|deadline| ticket.started_at.saturating_add(deadline));
                let cancelled = Arc::clone(&ticket.cancelled);
                let cx = JobContext { id, clock, poster: poster.clone(), cancelled, deadline_at };
                run_guarded::<A>(job, &env, &cx)
            }
        };
        Box::new(move || {
            // Nobody there any more: the node is going down, and the job is issued again at the next start.
            poster.inner.post(incoming);
        })
    });
    (info, Work { job: kept, body })
}

fn run_guarded<A: Agent>(job: A::Job, env: &A::Env, cx: &JobContext<A::Event>) -> Incoming<A::Event> {
    let copy = job.clone();
    match catch_unwind(AssertUnwindSafe(|| A::run_job(job, env, cx))) {
        Ok(event) => Incoming::Event(event),
        Err(panic) => {
            let message = panic_text(&*panic);
            tracing::error!(agent = A::NAME, job = %cx.id, message, "a job panicked");
            match A::job_panicked(&copy, &message) {
                Some(event) => Incoming::Event(event),
                None => Incoming::JobPanicked { job: cx.id.to_string(), message },
            }
        }
    }
}
