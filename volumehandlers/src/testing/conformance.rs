//! One suite for every handler that can snapshot: whatever passes it may be used by volumemgr.
//!
//! A fixture brings a handler with its storage, and the hands to do what happens behind a handler's back: a guest
//! writes, a stranger holds the image, a snapshot gets a twin. The cases are in `cases.rs`; each tells one story,
//! and after each step the volume must be sound ([003] J4).

use std::any::Any;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_persist::Disk;
use holdfast_types::volume::Format;

use super::cases;
use crate::handler::VolumeHandler;
use crate::tool::ImageTool;

/// Storage to run the suite on. Methods panic when the storage does not do what the story needs.
pub trait Fixture: Debug {
    fn name(&self) -> &'static str;

    /// A new handler on the same storage, as after a restart.
    fn handler(&self) -> Arc<dyn VolumeHandler>;

    fn disk(&self) -> Arc<dyn Disk>;

    fn tool(&self) -> Arc<dyn ImageTool>;

    /// Where volumes and sources lie; empty at the start.
    fn directory(&self) -> &Path;

    /// A guest fills this mebibyte of its disk.
    fn write(&self, volume: &Path, mebibyte: u64, pattern: u8);

    /// All a guest can read, size included, as a text that is equal only for equal content.
    fn content(&self, volume: &Path) -> String;

    /// Another process has the image open for writing until this is dropped.
    fn hold(&self, volume: &Path) -> Box<dyn Any>;

    /// Damages the metadata beyond what can be mended without guessing.
    fn damage(&self, volume: &Path);

    /// Makes one cluster belong to nobody.
    fn leak(&self, volume: &Path);

    /// A downloaded image whose first 64 KiB are this pattern.
    fn source(&self, file_name: &str, format: Format, size_bytes: u64, pattern: u8) -> PathBuf;

    /// A qcow2 image that names a backing file.
    fn backed_source(&self, file_name: &str) -> PathBuf;

    /// The same kind of storage, small; `None` if this machine cannot give one.
    fn nearly_full(&self) -> Option<Box<dyn Fixture>>;

    /// Leaves no room at all on it.
    fn fill_up(&self);
}

/// Runs every case, printing its name; a failed one panics.
pub fn run(fixture: &dyn Fixture) {
    for (name, case) in cases::ALL {
        eprintln!("{}: {name}", fixture.name());
        case(fixture);
    }
}
