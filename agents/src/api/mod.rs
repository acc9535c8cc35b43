//! What a node tells those who ask: an HTTP API over a Unix socket, and nothing that changes anything.
//!
//! ```text
//!   bus ──Seen──▶ view.rs ──▶ describe.rs ──▶ documents.rs ──▶ server.rs ──▶ socket.rs ──▶ clients
//!                    └─Transition─▶ events.rs ─▶ hub.rs ────────────┘
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
//! Errors are `{"error": "..."}` with 400 (bad query), 404 (no such thing) or 405 (not a GET).
//!
//! The documents are made field by field from statuses: a configuration, which can hold cloud-init secrets, has no
//! way into them. Deliberately absent: any write, any file of the node, any agent.

pub mod describe;
pub mod documents;
pub mod events;
pub mod hub;
pub mod metrics;
pub mod server;
pub mod socket;
pub mod view;

pub use documents::NodeFacts;
pub use server::{Api, NodeProbe};
pub use socket::{ApiSocket, SocketError};
pub use view::{Seen, View};
