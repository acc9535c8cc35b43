//! One suite for every handler that can snapshot: whatever passes it may be used by volumemgr.
//!
//! A fixture brings a handler with its storage, and the hands to do what happens behind a handler's back: a guest
//! writes, a stranger holds the image, a snapshot gets a twin. The cases are in `cases.rs`, `trouble_cases.rs` and, for volumes
//! that are image files, `image_cases.rs`; each tells one story,
//! and after each step the volume must be sound ([003] J4).

use std::any::Any;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_persist::Disk;
use holdfast_types::volume::Format;

use super::{cases, image_cases, trouble_cases};
use crate::handler::VolumeHandler;
use crate::tool::ImageTool;

/// What volumes are; some stories are of one kind only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    ImageFiles,
    Devices,
}

/// Storage to run the suite on. Methods panic when the storage does not do what the story needs.
pub trait Fixture: Debug {
    fn name(&self) -> &'static str;

    /// A new handler on the same storage, as after a restart.
    fn handler(&self) -> Arc<dyn VolumeHandler>;

    fn disk(&self) -> Arc<dyn Disk>;

    fn tool(&self) -> Arc<dyn ImageTool>;

    fn kind(&self) -> Kind;

    /// Where volumes lie; none at the start.
    fn directory(&self) -> &Path;

    /// Where sources lie: a directory of files.
    fn sources(&self) -> &Path;

    /// Where the volume of this label is, or would be.
    fn place(&self, label: &str) -> PathBuf;

    /// What volumes are stored as.
    fn stored_as(&self) -> Format;

    /// [003] J4: panics if storage finds anything wrong with the volume.
    fn assert_sound(&self, volume: &Path);

    /// All that storage holds of the volume, as a text that is equal only if not a bit has changed.
    fn fingerprint(&self, volume: &Path) -> String;

    /// What a creation leaves that was cut off.
    fn leave_remains(&self, volume: &Path);

    fn has_remains(&self, volume: &Path) -> bool;

    /// Behind the handler's back.
    fn resize(&self, volume: &Path, size_bytes: u64);

    /// Somebody else cuts a snapshot, by any name.
    fn strangers_snapshot(&self, volume: &Path, name: &str);

    /// A guest fills this mebibyte of its disk.
    fn write(&self, volume: &Path, mebibyte: u64, pattern: u8);

    /// All a guest can read, size included, as a text that is equal only for equal content.
    fn content(&self, volume: &Path) -> String;

    /// Another process has the image open for writing until this is dropped.
    fn hold(&self, volume: &Path) -> Box<dyn Any>;

    /// For image files: damages the metadata beyond what can be mended without guessing.
    fn damage(&self, volume: &Path) {
        panic!("{} is no image file", volume.display());
    }

    /// For image files: makes one cluster belong to nobody.
    fn leak(&self, volume: &Path) {
        panic!("{} is no image file", volume.display());
    }

    /// A downloaded image whose first 64 KiB are this pattern.
    fn source(&self, file_name: &str, format: Format, size_bytes: u64, pattern: u8) -> PathBuf;

    /// A qcow2 image that names a backing file.
    fn backed_source(&self, file_name: &str) -> PathBuf;

    /// The same kind of storage, small; `None` if this machine cannot give one.
    fn nearly_full(&self) -> Option<Box<dyn Fixture>>;

    /// Leaves no room at all on it.
    fn fill_up(&self);

    /// After [`Fixture::fill_up`]: gives back the little that a deletion may take before it frees more. Nothing, where it takes
    /// none.
    fn release_reserve(&self) {}

    /// Without a handler that looks first, on a full storage: tries to cut this snapshot, and is refused.
    fn run_out_of_room(&self, volume: &Path, name: &str);
}

/// Runs every case, printing its name; a failed one panics.
pub fn run(fixture: &dyn Fixture) {
    let of_this_kind = match fixture.kind() {
        Kind::ImageFiles => image_cases::ALL,
        Kind::Devices => &[],
    };
    for (name, case) in cases::ALL.iter().chain(trouble_cases::ALL).chain(of_this_kind) {
        eprintln!("{}: {name}", fixture.name());
        case(fixture);
    }
}
