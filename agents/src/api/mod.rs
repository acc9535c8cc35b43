//! What a node tells those who ask, and the few orders it takes: an HTTP API over a Unix socket.
//!
//! ```text
//!   bus ──Seen──▶ view.rs ──▶ describe.rs ──▶ documents.rs ──▶ server.rs ──▶ socket.rs ──▶ clients
//!                    └─Transition─▶ events.rs ─▶ hub.rs ────────────┤
//!   zedmanager ◀── LocalOrder ── orders.rs ◀────────────────────────┘
//! ```
//!
//! | GET | answers with |
//! |---|---|
//! | `/v1/status` | the node: mode, controller, agents, totals |
//! | `/v1/apps`, `/v1/apps/{id or name}` | applications |
//! | `/v1/snapshots[?app=]` | snapshots in every state, oldest request first |
//! | `/v1/volumes[?app=]` | volumes, with who uses and who holds them |
//! | `/v1/operations[?app=]` | what runs, and what ended lately |
//! | `/v1/events[?recent=N][&app=]` | JSON lines, first up to N past events, then live until the node stops |
//! | `/metrics` | Prometheus text |
//!
//! | POST | does |
//! |---|---|
//! | `/v1/apps/{id or name}/settings` | `{"ha_state": ..., "tags": [...], "untags": [...]}` set locally; answers with the application when that is durable |
//! | `/v1/apps/{id or name}/plans` | `{"action": "rollback", "snapshot": ...}`, `{"action": "create-snapshot"}` or `{"action": "delete-snapshot", "snapshot": ...}`: what it would do; nothing is done |
//! | `/v1/apps/{id or name}/orders` | the same with the plan's `"digest"`: is done if the plan is still the same; answers when that is durable. With the digest of the order taken in last, with what has come of it |
//!
//! Errors are `{"error": "..."}` with 400 (bad query), 404 (no such thing) 405 (another method), 409 (refused, with the
//! reason; nothing was changed) or 504 (not confirmed in time).
//!
//! The documents are made field by field from statuses: a configuration, which can hold cloud-init secrets, has no
//! way into them. Deliberately absent: any decision; an order is checked in form, handed to zedmanager, and
//! answered when zedmanager's status says that it was taken in.

pub mod describe;
pub mod documents;
pub mod events;
pub mod hub;
pub mod metrics;
pub mod orders;
pub mod server;
pub mod socket;
pub mod view;

pub use documents::NodeFacts;
pub use server::{Api, NodeProbe};
pub use socket::{ApiSocket, SocketError};
pub use view::{Seen, View};
