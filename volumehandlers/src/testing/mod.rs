//! For tests, here and in the packages above: an image tool in memory, and the suite that every handler and
//! every tool passes.
//!
//! ```text
//!   conformance.rs ──runs on──▶ fake.rs  FakeImageTool over any Disk (FakeFixture: over MemDisk)
//!                          └──▶ real.rs  RealFixture: qemu-img, qemu-io and a directory
//! ```
//!
//! In the library and behind no feature, because the simulation in another package uses it. Panics here are
//! failed tests.

mod cases;
pub mod conformance;
pub mod fake;
mod fake_device;
mod fake_fixture;
mod fake_image;
mod fake_pool;
mod fake_told;
pub mod fake_zfs;
mod image_cases;
mod image_files;
mod pools;
pub mod real;
mod real_pool;
mod records;
mod seam_cases;
mod trouble_cases;
mod zvol_cases;

pub use conformance::{Fixture, Kind, run};
pub use fake::{FakeImageTool, Verb};
pub use fake_device::HeldImage;
pub use fake_fixture::FakeFixture;
pub use fake_image::{Blocks, FakeImage, FakeSnapshot, image_bytes};
pub use fake_pool::FakePoolFixture;
pub use fake_zfs::{FakeZfs, FakeZvol, OpenDevice, Pool, ZfsVerb};
pub use pools::{Operator, PoolFixture, dataset_of, run_on_pool};
pub use real::{RealFixture, tool_is_missing};
pub use real_pool::{POOL_VARIABLE, RealPoolFixture, snapshot_of};
