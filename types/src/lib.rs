//! Holdfast's plain data: ids, configurations, statuses, operations, error reports.
//!
//! No clock, no disk, no tokio: values that agents exchange on the bus and keep in records.

pub mod shape;
pub mod topic;

pub use shape::{Field, Record, Shape};
pub use topic::{Durability, Topic};
