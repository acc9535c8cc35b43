//! holdfast-volumehandlers: what can be done to a volume, whatever it is stored as.
//!
//! ```text
//!   volumemgr ──▶ registry.rs ──▶ dyn VolumeHandler          handler.rs: the trait and its values
//!                 placement.rs      ├─ zvol/   ZvolHandler  ──▶ Zfs (zvol/zfs.rs)   ──▶ libzetta, zfs
//!                                   ├─ qcow2/  Qcow2Handler ──▶ ImageTool (tool.rs) ──▶ qemu-img
//!                                   └─ file.rs FileHandler                └───────────▶ Disk (holdfast-persist)
//! ```
//!
//! A new backend is a folder here, one arm of the `match` in `registry.rs`, and a fixture for the suite in
//! `testing/conformance.rs`.
//!
//! Everything is synchronous and idempotent, and is called off the event loop. Nothing here knows a topic, an
//! agent or an application: volumes are known by where they are. Nothing here reads the wall clock.

mod beside;
pub mod context;
pub mod error;
pub mod file;
pub mod handler;
pub mod name;
pub mod placement;
mod process;
pub mod qcow2;
pub mod registry;
mod staging;
pub mod testing;
pub mod tool;
pub mod zvol;

pub use context::HandlerCx;
pub use error::{ToolError, VolumeError};
pub use handler::{
    Action, Capabilities, Ensured, FoundSnapshot, FoundVolume, GroupMember, Parameters, Preflight, Repaired,
    SnapshotMeta, Source, Space, VolumeFacts, VolumeGroup, VolumeHandler, VolumeSpec,
};
pub use name::SnapshotName;
pub use placement::{Placed, Placement, stored_format};
pub use registry::{Backing, Registry};
pub use tool::ImageTool;
