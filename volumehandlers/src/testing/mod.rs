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
mod fake_told;
pub mod fake_zfs;
pub mod real;
mod records;

pub use conformance::{Fixture, run};
pub use fake::{FakeImageTool, Verb};
pub use fake_device::HeldImage;
pub use fake_fixture::FakeFixture;
pub use fake_image::{Blocks, FakeImage, FakeSnapshot, image_bytes};
pub use fake_zfs::{FakeZfs, FakeZvol, OpenDevice, Pool, ZfsVerb};
pub use real::RealFixture;
