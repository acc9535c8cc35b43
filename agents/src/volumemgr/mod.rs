//! volumemgr owns volumes and their snapshots: its decisions as plain functions, and its downloads.

pub mod download;
pub mod fate;
pub mod fetcher;
pub mod holds;
pub mod inventory;
pub mod plan;
pub mod request;
pub mod retry;
pub mod steps;
pub mod testing;
