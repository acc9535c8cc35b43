//! Volumes as ZFS volumes, with all of an application's volumes cut and rolled back in one transaction group ([003] K).
//!
//! ```text
//!   handler.rs, group.rs (ZvolHandler: what is refused, in which order) ── in_the_way.rs (blockers, holds, clones)
//!        ▼
//!   zfs.rs (the seam) ◀── command/    CommandZfs: the `zfs` and `zpool` commands
//!                     ◀── libzetta.rs LibzettaZfs: the library, and the commands for what it lacks (feature `libzetta`)
//!                            both: programs/ (channel programs), device.rs (the block device)
//!   detect.rs         is the persist directory on ZFS?
//! ```

mod caught;
mod command;
mod detect;
pub(crate) mod device;
mod group;
mod handler;
mod in_the_way;
#[cfg(feature = "libzetta")]
mod libzetta;
mod programs;
pub mod zfs;

pub use caught::caught;
pub use command::CommandZfs;
pub use detect::{DetectError, detect};
pub use handler::ZvolHandler;
#[cfg(feature = "libzetta")]
pub use libzetta::LibzettaZfs;
pub use zfs::{Dataset, Zfs, ZfsError};

/// The handler's name in records.
pub const NAME: &str = "zvol";
