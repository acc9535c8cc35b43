//! holdfast-pubsub: the typed, in-process, last-value key-value bus (architecture section 3).
//!
//! ```text
//!   publication.rs  one owner per topic: stage ─▶ durable (backing.rs) ─▶ visible
//!        │ Created, Modified, Deleted, Restarted                 change.rs
//!        ▼
//!   topic.rs        the rows, and who listens                    bus.rs: which topics there are
//!        │
//!        ▼
//!   source.rs       per subscriber and topic: what it has not seen yet, one change per key
//!   mailbox.rs      per subscriber: all its topics and posted events in one line, oldest first (line.rs)
//! ```
//!
//! The bus carries *state*, not events: publishing an equal value is silent, and a subscriber that lags sees the
//! newest value of a key in the place of the ones it missed. Its memory is bounded by live keys and never by the
//! speed of the publisher. Whoever wants a thing done twice puts an operation number into the value.
//!
//! Deliberately absent: any agent, any thread or runtime (waiting is a `Waker`), and requests with answers.

pub mod backing;
pub mod bus;
pub mod change;
mod line;
pub mod mailbox;
pub mod publication;
mod source;
mod topic;

pub use backing::{DiskRows, RowBacking};
pub use bus::{Bus, BusError};
pub use change::Change;
pub use holdfast_types::{Durability, Topic};
pub use mailbox::{Mailbox, Poster, Subscription};
pub use publication::{DamagedRow, Publication, PublishError, Published, RowImage, Staged};
