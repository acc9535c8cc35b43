//! The seam to ZFS: one method is one thing that happens as a whole, so that a simulation can cut the power between any two.
//!
//! What an implementation promises, and no more:
//!
//! * what changes the pool returned `Ok` after its transaction group was on stable storage; one method is one
//!   transaction group at most, and a power cut in it leaves the pool before it or after it, never between;
//! * what returned an error has changed nothing, except where "nobody knows" is the error itself
//!   ([`ZfsError::TimedOut`], [`ZfsError::Cancelled`]): then it is before or after;
//! * what a guest wrote to a device is as durable as it made it: a flush counts, nothing else does;
//! * names are built by [`Dataset`] and [`crate::SnapshotName`] and travel as arguments, through no shell and into no
//!   program text.
//!
//! Two implementations over real ZFS (the `zfs` command; libzetta and, for what it lacks, the command) and a strict fake.

use std::fmt;
use std::fmt::Debug;
use std::path::{Path, PathBuf};

use holdfast_types::error::Timestamp;

use crate::context::HandlerCx;
use crate::name::{InvalidName, SnapshotName};

/// Where ZFS has the devices of its volumes.
pub const DEVICES: &str = "/dev/zvol";

/// ZFS's limit for the name of a dataset, and for dataset, `@` and snapshot together (`ZFS_MAX_DATASET_NAME_LEN`, with its
/// ending zero).
pub const LONGEST_NAME_BYTES: usize = 255;

/// A user property of our volumes: `filling` while the first content is written, then `whole`.
pub const STATE_PROPERTY: &str = "holdfast:state";
/// A user property of our volumes: the token of the last rollback, set in the rollback's own transaction group.
pub const REVERTED_PROPERTY: &str = "holdfast:reverted";

/// The name of a dataset, safe to be handed to ZFS: components of letters, digits, `-`, `_`, `.` and `:`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dataset(String);

/// Why a text is no name of a dataset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" cannot be used as the name of a dataset: {reason}")]
pub struct InvalidDataset {
    pub text: String,
    pub reason: &'static str,
}

impl Dataset {
    pub fn parse(text: &str) -> Result<Self, InvalidDataset> {
        match flaw_of(text) {
            Some(reason) => Err(InvalidDataset { text: text.to_owned(), reason }),
            None => Ok(Dataset(text.to_owned())),
        }
    }

    /// The dataset of a device below [`DEVICES`].
    pub fn of_device(device: &Path) -> Result<Self, InvalidDataset> {
        let inside = device.strip_prefix(DEVICES).ok().and_then(Path::to_str);
        match inside {
            Some(text) => Dataset::parse(text),
            None => Err(InvalidDataset {
                text: device.display().to_string(),
                reason: "it is not below /dev/zvol",
            }),
        }
    }

    pub fn child(&self, name: &str) -> Result<Self, InvalidDataset> {
        Dataset::parse(&format!("{}/{name}", self.0))
    }

    /// Where a guest finds the volume of this name.
    pub fn device(&self) -> PathBuf {
        Path::new(DEVICES).join(&self.0)
    }

    pub fn pool(&self) -> &str {
        self.0.split('/').next().unwrap_or_default()
    }

    /// The last component.
    pub fn base_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Dataset {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

fn flaw_of(text: &str) -> Option<&'static str> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte);
    if text.len() > LONGEST_NAME_BYTES {
        Some("it is longer than 255 bytes")
    } else if text.split('/').any(str::is_empty) {
        Some("it has an empty component")
    } else if !text.bytes().all(is_allowed) {
        Some("it holds a character that ZFS does not allow")
    } else if text.split('/').any(|part| part == "." || part == ".." || part.starts_with('-')) {
        Some("a component could be taken for something else")
    } else {
        None
    }
}

/// A snapshot of a volume: `dataset@name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotOf {
    pub dataset: Dataset,
    pub name: SnapshotName,
}

impl SnapshotOf {
    /// Refuses a name that ZFS would not take.
    pub fn new(dataset: Dataset, name: SnapshotName) -> Result<Self, InvalidName> {
        let text = name.as_str();
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.: ".contains(&byte);
        let reason = if !text.bytes().all(is_allowed) {
            "it holds a character that ZFS does not allow"
        } else if dataset.as_str().len() + 1 + text.len() > LONGEST_NAME_BYTES {
            "together with its volume's it is longer than 255 bytes"
        } else {
            return Ok(SnapshotOf { dataset, name });
        };
        Err(InvalidName { text: text.to_owned(), reason })
    }
}

impl fmt::Display for SnapshotOf {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}@{}", self.dataset, self.name)
    }
}

/// A snapshot that a rollback may destroy: this one, and no other of its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AgreedOf {
    pub dataset: Dataset,
    pub name: String,
    pub guid: u64,
}

/// The pool a dataset lies in, and the room for that dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    /// What may still be written below this dataset, quotas counted, in bytes.
    pub available_bytes: u64,
}

/// A volume to be made. It takes no space before it is written to (no reservation).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewZvol {
    /// A multiple of the block size.
    pub size_bytes: u64,
    pub block_size_bytes: u64,
    /// Name and value, in order; among them [`STATE_PROPERTY`].
    pub properties: Vec<(String, String)>,
}

/// A volume as ZFS lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zvol {
    pub dataset: Dataset,
    pub size_bytes: u64,
    /// All it takes in the pool: its data, its snapshots, its reservation.
    pub used_bytes: u64,
    /// [`STATE_PROPERTY`], if it was set on this volume.
    pub state: Option<String>,
    /// [`REVERTED_PROPERTY`], if it was set on this volume.
    pub reverted: Option<String>,
}

/// A snapshot as ZFS lists it. The name is as found and may be one that no [`SnapshotName`] can hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZfsSnapshot {
    pub name: String,
    /// ZFS's own id of it, never used again in its pool.
    pub guid: u64,
    /// The transaction group it was made in: what is newer has a greater one ([000] L3).
    pub created_in: u64,
    pub created_at: Timestamp,
    /// The volume's size when it was cut.
    pub size_bytes: u64,
    /// The tags of holds on it; it cannot be destroyed while there is one.
    pub holds: Vec<String>,
    /// Datasets cloned from it; it cannot be destroyed while there is one.
    pub clones: Vec<String>,
}

/// A bookmark of a volume: what ZFS remembers of a snapshot, for sending. ZFS rolls no volume back past one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bookmark {
    /// The transaction group that its snapshot was made in.
    pub created_in: u64,
    /// Behind the `#`.
    pub name: String,
}

/// Lists and changes volumes and their snapshots.
pub trait Zfs: Send + Sync + Debug {
    /// Can anything be done there, and how much room is there? A pool that is away, suspended or read-only is an error.
    fn room(&self, dataset: &Dataset) -> Result<Room, ZfsError>;

    /// All volumes right below `parent`, in the order of their names. No such parent: none.
    fn volumes(&self, parent: &Dataset) -> Result<Vec<Zvol>, ZfsError>;

    /// The volume; [`ZfsError::Missing`] if there is none of that name.
    fn volume(&self, dataset: &Dataset) -> Result<Zvol, ZfsError>;

    /// Makes the volume, and the datasets above it where they are missing (without mount points). Returns once its device
    /// is there. [`ZfsError::Exists`] if there is something of that name.
    fn create_volume(&self, dataset: &Dataset, new: &NewZvol, cx: &HandlerCx<'_>) -> Result<(), ZfsError>;

    /// Sets a user property.
    fn set_property(&self, dataset: &Dataset, property: &str, value: &str) -> Result<(), ZfsError>;

    /// Destroys the volume, which must have no snapshots left ([`ZfsError::HasSnapshots`]) and not be open
    /// ([`ZfsError::Busy`]). Missing is an error.
    fn destroy_volume(&self, dataset: &Dataset, cx: &HandlerCx<'_>) -> Result<(), ZfsError>;

    /// Makes durable what was written to the device and not flushed.
    fn flush(&self, dataset: &Dataset) -> Result<(), ZfsError>;

    /// Who has the device open or mounted, as far as can be seen from here: a text for people, for example
    /// `process 4711 (qemu-system-x86)`.
    fn user_of(&self, dataset: &Dataset) -> Result<Option<String>, ZfsError>;

    /// The volume's snapshots in the order of their making (transaction group, then guid). Not on a read-only pool: the kernel runs no
    /// channel program there.
    fn snapshots(&self, dataset: &Dataset) -> Result<Vec<ZfsSnapshot>, ZfsError>;

    /// The volume's bookmarks in the order of their snapshots' making.
    fn bookmarks(&self, dataset: &Dataset) -> Result<Vec<Bookmark>, ZfsError>;

    /// Cuts all of these in one transaction group, or none. All datasets are in one pool and named once.
    /// [`ZfsError::Exists`] if one of them is there.
    fn snapshot(&self, group: &[SnapshotOf], cx: &HandlerCx<'_>) -> Result<(), ZfsError>;

    /// Makes the content of all these volumes their snapshots' and sets [`REVERTED_PROPERTY`] of each to `token`, in one
    /// transaction group, or does nothing. Checks first, in the same transaction group: each snapshot is there
    /// ([`ZfsError::Missing`]), and nothing newer stands in the way ([`ZfsError::Newer`]) but what is agreed to, which nothing
    /// keeps ([`ZfsError::Held`], [`ZfsError::HasClones`]), and no newer bookmark ([`ZfsError::Exists`], [`ZfsError::Newer`]). Destroys the agreed snapshots that are newer, and nothing else.
    fn rollback(
        &self,
        group: &[SnapshotOf],
        agreed: &[AgreedOf],
        token: &str,
        cx: &HandlerCx<'_>,
    ) -> Result<(), ZfsError>;

    /// Destroys all of these in one transaction group, or none. Missing ones are passed over.
    /// [`ZfsError::Held`] or [`ZfsError::HasClones`] if one of them cannot be destroyed.
    fn destroy_snapshots(&self, group: &[SnapshotOf], cx: &HandlerCx<'_>) -> Result<(), ZfsError>;
}

/// What ZFS refused, or could not do. `object` is the pool, dataset or snapshot it is about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ZfsError {
    #[error("the program {program} is not installed")]
    NotInstalled { program: String },
    #[error("ZFS is not there: the kernel module is not loaded")]
    NotLoaded,
    #[error("there is no pool {pool}")]
    NoPool { pool: String },
    #[error("the pool {pool} is suspended after I/O errors")]
    Suspended { pool: String },
    #[error("the pool {pool} is read-only")]
    ReadOnly { pool: String },
    #[error("{object} does not exist")]
    Missing { object: String },
    #[error("{object} exists already")]
    Exists { object: String },
    #[error("{object} is busy: {user}")]
    Busy { object: String, user: String },
    #[error("{object} has snapshots")]
    HasSnapshots { object: String },
    /// Newest last.
    #[error("{object} is not the newest snapshot; newer: {}", newer.join(", "))]
    Newer { object: String, newer: Vec<String> },
    #[error("{object} is held: {}", tags.join(", "))]
    Held { object: String, tags: Vec<String> },
    #[error("{object} has clones: {}", clones.join(", "))]
    HasClones { object: String, clones: Vec<String> },
    #[error("the name {object} is too long for ZFS")]
    NameTooLong { object: String },
    #[error("no space left in the pool for {object}")]
    NoSpace { object: String },
    #[error("the quota for {object} is reached")]
    Quota { object: String },
    #[error("{object}: {property} cannot be {value}: {reason}")]
    BadProperty { object: String, property: String, value: String, reason: String },
    /// `said` is an excerpt of what the tool printed, or the library's error.
    #[error("{what} failed: {said}")]
    Failed { what: String, said: String },
    /// A bug in a library, kept from ending the node.
    #[error("{what}: the library panicked: {said}")]
    Panicked { what: String, said: String },
    #[error("{what} answered what cannot be read: {reason}")]
    Unreadable { what: String, reason: String },
    #[error("stopped on request")]
    Cancelled,
    #[error("stopped after {seconds} seconds")]
    TimedOut { seconds: u64 },
}

impl ZfsError {
    /// True if the same call may succeed later: a pool comes back, somebody lets go, space comes free.
    pub fn is_transient(&self) -> bool {
        match self {
            ZfsError::NotInstalled { .. }
            | ZfsError::NotLoaded
            | ZfsError::NoPool { .. }
            | ZfsError::Suspended { .. }
            | ZfsError::ReadOnly { .. }
            | ZfsError::Busy { .. }
            | ZfsError::HasSnapshots { .. }
            | ZfsError::Held { .. }
            | ZfsError::HasClones { .. }
            | ZfsError::NoSpace { .. }
            | ZfsError::Quota { .. }
            | ZfsError::Failed { .. }
            | ZfsError::Panicked { .. }
            | ZfsError::Cancelled
            | ZfsError::TimedOut { .. } => true,
            ZfsError::Missing { .. }
            | ZfsError::Exists { .. }
            | ZfsError::Newer { .. }
            | ZfsError::NameTooLong { .. }
            | ZfsError::BadProperty { .. }
            | ZfsError::Unreadable { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_zfs_or_a_reader_would_take_for_something_else_are_refused() {
        let long = "p/".to_owned() + &"x".repeat(254);
        for text in
            ["", "/p", "p/", "p//x", "p/x y", "p/x@s", "p/x#b", "p/-rf", "p/..", "p/$(x)", "p/\u{fc}", &long]
        {
            assert!(Dataset::parse(text).is_err(), "{text:?}");
        }
        for text in ["persist", "persist/vault/volumes/11111111-2222-3333-4444-555555555555.1", "p/a_b:c"] {
            assert!(Dataset::parse(text).is_ok(), "{text:?}");
        }
    }

    #[test]
    fn a_snapshot_that_zfs_could_not_name_is_refused() {
        let dataset = Dataset::parse("p/v").expect("a name");
        let of = |text: &str| SnapshotOf::new(dataset.clone(), SnapshotName::parse(text).expect("a name"));
        assert_eq!(of("holdfast-a").expect("a snapshot").to_string(), "p/v@holdfast-a");
        assert!(of("a@b").is_err() && of("a/b").is_err() && of(&"x".repeat(252)).is_err());
    }

    #[test]
    fn a_device_and_its_dataset_belong_together() {
        let dataset = Dataset::parse("persist/vault/volumes/a.1").expect("a name");
        assert_eq!(dataset.device(), Path::new("/dev/zvol/persist/vault/volumes/a.1"));
        assert_eq!(Dataset::of_device(&dataset.device()), Ok(dataset.clone()));
        assert_eq!((dataset.pool(), dataset.base_name()), ("persist", "a.1"));
        assert!(Dataset::of_device(Path::new("/persist/vault/volumes/a#1.qcow2")).is_err());
        assert!(Dataset::of_device(Path::new("/dev/zvol/../sda")).is_err());
    }
}
