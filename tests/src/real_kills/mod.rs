//! Real kills: a whole node on a real directory with the real `qemu-img`, ended by SIGKILL at random moments.
//!
//! ```text
//!   soak-real ── lane 0 ──▶ rig: orders, model ──spawn, freeze, kill──▶ worker (process group): agents, persist ──▶ qemu-img
//!             ├─ lane 1 …            │                                                │                               │
//!             └─ lane n …            └──── looks at files while nothing runs ◀─────── persist directory ◀─────────────┘
//! ```
//!
//! A *worker* is this program once more: the four agents, the bus, `persist`, the handlers, `qemu-img`; only the
//! hypervisor's guests and the controller's link are simulated, and both end with it, as in a power cut. A *rig* is
//! one persist directory with one application of one to three volumes. It gives one order at a time and knows exactly
//! what must be there afterwards. While an order is carried out, or while a killed one is being recovered from, the
//! whole group is killed: the node and every `qemu-img` that runs for it.
//!
//! ```text
//!   settled ──order──▶ carrying out ──done──▶ settled        after a kill: every promised snapshot is still whole (I3)
//!                          │ SIGKILL                         settled: contents by hash (I1, I2, I4), `qemu-img check`
//!                          ▼                                          (J4), one file and one snapshot per record (I5)
//!                      recovering ──done──▶ settled      (one in five: first by itself, the controller being away)
//!                          └─ SIGKILL ─▶ recovering
//! ```
//!
//! What SIGKILL cannot show: the page cache survives it, so a missing fsync goes unseen. That is the World's business,
//! and a real power cut's. What it does show is the real `qemu-img` cut off between any two of its writes.
//!
//! Seeds fix the orders, the sizes, the writes and the share of a duration after which to kill; the moments themselves
//! are the machine's.

pub mod content;
pub mod group;
pub mod image;
pub mod inspect;
pub mod lane;
pub mod model;
pub mod moment;
pub mod orders;
pub mod place;
pub mod rig;
pub mod settled;
pub mod tally;
pub mod telling_tool;
pub mod worker;
pub mod zvol;

use uuid::Uuid;

pub const DEVICE: Uuid = Uuid::from_u128(0xd000_0000_0000_4000_8000_0000_0000_0003);
pub const APP: Uuid = Uuid::from_u128(0xa000_0000_0000_4000_8000_0000_0000_0003);

/// Volume `n` of the application, from 1 on.
pub fn volume(n: usize) -> Uuid {
    Uuid::from_u128(0xb000_0000_0000_4000_8000_0000_0000_0000 + n as u128)
}

/// Snapshot `n` of a rig, from 1 on.
pub fn snapshot(n: u32) -> Uuid {
    Uuid::from_u128(0xc000_0000_0000_4000_8000_0000_0000_0000 + u128::from(n))
}
