//! Holdfast's plain data: ids, configurations, statuses, operations, error reports.
//!
//! No clock, no disk, no tokio: values that agents exchange on the bus and keep in records.

pub mod app;
pub mod blocker;
pub mod device;
pub mod domain;
pub mod error;
pub mod guard;
pub mod ids;
pub mod judgement;
pub mod operation;
pub mod plan;
pub mod shape;
pub mod snapshot;
pub mod topic;
pub mod volume;

pub use app::*;
pub use blocker::{AgreedSnapshot, Blocker, BlockerKind, Consent};
pub use device::*;
pub use domain::*;
pub use error::{EntityKind, ErrorEntity, ErrorReport, Severity, Timestamp, error_chain};
pub use guard::*;
pub use ids::*;
pub use judgement::*;
pub use operation::*;
pub use plan::*;
pub use shape::{Field, Record, Shape};
pub use snapshot::*;
pub use topic::{Durability, Topic};
pub use volume::*;
