//! holdfast-persist: everything that must outlive a power cut goes through here.
//!
//! ```text
//!   record.rs   rows.rs   quarantine.rs   reserve.rs      what is kept: records, bus rows, damaged files, ballast
//!     seal.rs      │            │             │             a checksum on each record and row
//!        └─────────┴────────────┴─────────────┘
//!                       crashsafe.rs                      how it is kept: old or new, nothing between
//!                           │
//!                        disk.rs                          the seam: every file call of the node
//!                   ┌───────┴────────┐
//!              real_disk.rs      mem_disk.rs              the kernel, or memory that forgets what was not synced
//! ```
//!
//! `layout.rs` knows every path under the persist directory and is the only place that does.
//!
//! Nothing here reads the clock, draws random numbers or knows an agent.

pub mod crashsafe;
pub mod disk;
pub mod layout;
mod mandatory;
pub mod mem_disk;
pub mod quarantine;
pub mod real_disk;
pub mod record;
pub mod reserve;
pub mod rows;
pub mod seal;

pub use disk::{Disk, DiskLock, EntryKind, Space};
pub use layout::PersistLayout;
pub use mem_disk::MemDisk;
pub use real_disk::RealDisk;
pub use record::RecordError;
pub use reserve::{Reserve, ReserveState, with_reserve};
pub use rows::{LoadedRow, RowStore};
