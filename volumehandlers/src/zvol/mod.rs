//! Volumes as ZFS volumes, with all of an application's volumes cut and rolled back in one transaction group ([003] K).

pub mod zfs;

pub use zfs::{Dataset, Zfs, ZfsError};
