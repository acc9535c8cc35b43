//! What can go wrong with a volume. Every error carries the volume, and says by its variant what would help.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_persist::disk::is_no_space;
use holdfast_types::blocker::{self, Blocker};
use holdfast_types::volume::Format;

use crate::name::InvalidName;
use crate::zvol::{Dataset, ZfsError};

/// A step on one volume that did not happen, or did not happen wholly; every step can be called again.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// [003] J5: refused by name; there is no default that succeeds.
    #[error("volume {}: {what} is not supported for format {}", volume.display(), format.name())]
    Unsupported { volume: PathBuf, format: Format, what: &'static str },

    #[error("volume {} is missing", volume.display())]
    Missing { volume: PathBuf },

    /// Another process has the image open.
    #[error("volume {} is in use by another process", volume.display())]
    Locked { volume: PathBuf },

    /// Somebody has the device open, or has mounted it.
    #[error("volume {} is in use by {user}", volume.display())]
    InUse { volume: PathBuf, user: String },

    /// [000] L5: everything in the way, by kind.
    #[error(
        "volume {} cannot be rolled back to snapshot {snapshot}: {}",
        volume.display(),
        blocker::told(blockers)
    )]
    Blocked { volume: PathBuf, snapshot: String, blockers: Vec<Blocker> },

    /// [003] K5: storage does not let it go.
    #[error(
        "volume {}: snapshot {snapshot} cannot be destroyed: held by [{}], cloned as [{}]",
        volume.display(),
        holds.join(", "),
        clones.join(", ")
    )]
    Kept { volume: PathBuf, snapshot: String, holds: Vec<String>, clones: Vec<String> },

    #[error(
        "volume {} has snapshots that were not made by this node, and stays with them: {}",
        volume.display(),
        names.join(", ")
    )]
    ForeignSnapshots { volume: PathBuf, names: Vec<String> },

    #[error("volume {}: {step} failed", volume.display())]
    Zfs { volume: PathBuf, step: &'static str, source: Box<ZfsError> },

    /// Whether the step has happened cannot be told now: the storage that knows does not answer.
    #[error("volume {}: it is not known yet whether {step} has happened", volume.display())]
    Unknown { volume: PathBuf, step: &'static str, source: Box<VolumeError> },

    #[error("volume {} is damaged: {reason}", volume.display())]
    Corrupt { volume: PathBuf, reason: String },

    /// The file is not what it has to be: wrong format, encrypted, needs another file.
    #[error("image {} cannot be used: {reason}", image.display())]
    Unusable { image: PathBuf, reason: String },

    /// A volume never shrinks below its image.
    #[error(
        "volume {}: the image's {image_size_bytes} bytes do not fit in the {max_size_bytes} bytes configured",
        volume.display()
    )]
    TooSmall { volume: PathBuf, image_size_bytes: u64, max_size_bytes: u64 },

    /// Something is at the volume's place that is not the volume asked for.
    #[error("volume {} is there already, but {reason}", volume.display())]
    Different { volume: PathBuf, reason: String },

    #[error("volume {} has no snapshot {name}", volume.display())]
    NoSuchSnapshot { volume: PathBuf, name: String },

    /// qemu accepts several snapshots of one name; which one is meant is not guessed.
    #[error("volume {} has {count} snapshots named {name}", volume.display())]
    AmbiguousSnapshot { volume: PathBuf, name: String, count: usize },

    #[error("volume {}", volume.display())]
    Name { volume: PathBuf, source: InvalidName },

    /// [004] M5: of a parameter that an operator gave.
    #[error("volume {}: the parameter {key} is refused: {reason}", volume.display())]
    Parameter { volume: PathBuf, key: String, reason: String },

    /// The tool reported success, and storage shows something else.
    #[error("volume {}: {what}", volume.display())]
    NotConfirmed { volume: PathBuf, what: String },

    #[error(
        "volume {} needs {needed_bytes} bytes of free space, {free_bytes} are free",
        volume.display()
    )]
    NoSpace { volume: PathBuf, needed_bytes: u64, free_bytes: u64 },

    /// A step ran out of room; what it had begun was undone as far as the tool can.
    #[error("volume {}: no space left for {step}", volume.display())]
    OutOfSpace { volume: PathBuf, step: &'static str },

    #[error("volume {}: {step} was cancelled", volume.display())]
    Cancelled { volume: PathBuf, step: &'static str },

    #[error("volume {}: {step} took longer than {} seconds", volume.display(), limit.as_secs())]
    TimedOut { volume: PathBuf, step: &'static str, limit: Duration },

    #[error("volume {}: {step} failed", volume.display())]
    Tool { volume: PathBuf, step: &'static str, source: ToolError },

    #[error("volume {}: {step} failed", volume.display())]
    Io { volume: PathBuf, step: &'static str, source: io::Error },
}

/// A tool that could not be run, or that said no.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    #[error("the program {} is not installed", program.display())]
    NotInstalled { program: PathBuf },

    #[error("the program {} cannot be run", program.display())]
    CannotRun { program: PathBuf, source: io::Error },

    /// `stderr` is an excerpt, its last lines.
    #[error("{program} ended with {status}: {stderr}")]
    Failed { program: String, status: String, stderr: String },

    /// The image is held by another process.
    #[error("the image is locked: {stderr}")]
    Locked { stderr: String },

    #[error("no space left: {stderr}")]
    NoSpace { stderr: String },

    #[error("there is no such file: {stderr}")]
    Missing { stderr: String },

    /// The file is not an image of the format it should have.
    #[error("not an image of this format: {stderr}")]
    NotAnImage { stderr: String },

    #[error("stopped on request")]
    Cancelled,

    #[error("stopped after {} seconds", limit.as_secs())]
    TimedOut { limit: Duration },

    #[error("{program} answered what cannot be read: {reason}")]
    Unreadable { program: String, reason: String },

    /// Of what is done to an image without a program.
    #[error("{what}")]
    Io { what: &'static str, source: io::Error },
}

impl ToolError {
    /// A file call's error.
    pub fn from_io(what: &'static str, source: io::Error) -> Self {
        if is_no_space(&source) {
            return ToolError::NoSpace { stderr: format!("{what}: {source}") };
        }
        match source.kind() {
            io::ErrorKind::NotFound => ToolError::Missing { stderr: format!("{what}: {source}") },
            _ => ToolError::Io { what, source },
        }
    }
}

impl VolumeError {
    /// A tool's error during a step on this volume, as what it means for the volume.
    pub fn from_tool(volume: &Path, step: &'static str, error: ToolError) -> Self {
        let volume = volume.to_path_buf();
        match error {
            ToolError::Locked { .. } => VolumeError::Locked { volume },
            ToolError::NoSpace { .. } => VolumeError::OutOfSpace { volume, step },
            ToolError::Missing { .. } => VolumeError::Missing { volume },
            ToolError::NotAnImage { stderr } => VolumeError::Corrupt { volume, reason: stderr },
            ToolError::Cancelled => VolumeError::Cancelled { volume, step },
            ToolError::TimedOut { limit } => VolumeError::TimedOut { volume, step, limit },
            source => VolumeError::Tool { volume, step, source },
        }
    }

    /// ZFS's error during a step on this volume, as what it means for the volume.
    pub fn from_zfs(volume: &Path, step: &'static str, error: ZfsError) -> Self {
        let is_it = |object: &str| Dataset::of_device(volume).is_ok_and(|dataset| dataset.as_str() == object);
        let volume = volume.to_path_buf();
        match error {
            ZfsError::Missing { object } if is_it(&object) => VolumeError::Missing { volume },
            ZfsError::Busy { user, .. } => VolumeError::InUse { volume, user },
            ZfsError::NoSpace { .. } => VolumeError::OutOfSpace { volume, step },
            ZfsError::Cancelled => VolumeError::Cancelled { volume, step },
            ZfsError::TimedOut { seconds } => {
                VolumeError::TimedOut { volume, step, limit: Duration::from_secs(seconds) }
            }
            source => VolumeError::Zfs { volume, step, source: Box::new(source) },
        }
    }

    /// A file call's error during a step on this volume.
    pub fn from_io(volume: &Path, step: &'static str, source: io::Error) -> Self {
        let volume = volume.to_path_buf();
        if is_no_space(&source) {
            VolumeError::OutOfSpace { volume, step }
        } else {
            VolumeError::Io { volume, step, source }
        }
    }

    /// The volume (or the source image) it is about.
    pub fn volume(&self) -> &Path {
        match self {
            VolumeError::Unsupported { volume, .. }
            | VolumeError::Missing { volume }
            | VolumeError::Locked { volume }
            | VolumeError::InUse { volume, .. }
            | VolumeError::Blocked { volume, .. }
            | VolumeError::Kept { volume, .. }
            | VolumeError::ForeignSnapshots { volume, .. }
            | VolumeError::Zfs { volume, .. }
            | VolumeError::Unknown { volume, .. }
            | VolumeError::Corrupt { volume, .. }
            | VolumeError::Unusable { image: volume, .. }
            | VolumeError::TooSmall { volume, .. }
            | VolumeError::Different { volume, .. }
            | VolumeError::NoSuchSnapshot { volume, .. }
            | VolumeError::AmbiguousSnapshot { volume, .. }
            | VolumeError::Name { volume, .. }
            | VolumeError::Parameter { volume, .. }
            | VolumeError::NotConfirmed { volume, .. }
            | VolumeError::NoSpace { volume, .. }
            | VolumeError::OutOfSpace { volume, .. }
            | VolumeError::Cancelled { volume, .. }
            | VolumeError::TimedOut { volume, .. }
            | VolumeError::Tool { volume, .. }
            | VolumeError::Io { volume, .. } => volume,
        }
    }

    /// True if the same call may succeed later with nobody's help but time's: a lock goes, space comes free.
    pub fn is_transient(&self) -> bool {
        match self {
            VolumeError::Locked { .. }
            | VolumeError::InUse { .. }
            | VolumeError::Unknown { .. }
            // Somebody else can take these away.
            | VolumeError::Kept { .. }
            | VolumeError::ForeignSnapshots { .. }
            | VolumeError::NoSpace { .. }
            | VolumeError::OutOfSpace { .. }
            | VolumeError::Cancelled { .. }
            | VolumeError::TimedOut { .. }
            | VolumeError::NotConfirmed { .. }
            | VolumeError::Io { .. } => true,
            // A tool that ran and failed for no known reason may have met a passing I/O error.
            VolumeError::Tool { source, .. } => {
                matches!(source, ToolError::CannotRun { .. } | ToolError::Failed { .. } | ToolError::Io { .. })
            }
            VolumeError::Zfs { source, .. } => source.is_transient(),
            VolumeError::Unsupported { .. }
            | VolumeError::Missing { .. }
            | VolumeError::Blocked { .. }
            | VolumeError::Corrupt { .. }
            | VolumeError::Unusable { .. }
            | VolumeError::TooSmall { .. }
            | VolumeError::Different { .. }
            | VolumeError::NoSuchSnapshot { .. }
            | VolumeError::AmbiguousSnapshot { .. }
            | VolumeError::Name { .. }
            | VolumeError::Parameter { .. } => false,
        }
    }
}
