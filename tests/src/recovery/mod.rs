//! How long a node with many applications and snapshots takes to come back after a power cut.
//!
//! ```text
//!   big_node.rs   the World deploys them and cuts their snapshots ─▶ a moment ──┬─▶ booted in the World: steps
//!                                                                               └─▶ laid out as real files and images
//!   on_disk.rs    the real agents, `qemu-img` and file system, a simulated hypervisor ─▶ seconds
//! ```
//!
//! Recovered means: every agent has seen all there was, every snapshot is known to be whole, every volume was looked at,
//! and every guest is started.

pub mod big_node;
pub mod on_disk;
