//! Pools to run stories on: what they have in common, fake and real.
//!
//! A fixture brings, beside what every volume's fixture has, the seam to its pool and an operator's hands: everything that can be
//! done to a pool behind the handler's back, and that may stand in its way afterwards.

use std::path::Path;
use std::sync::Arc;

use super::conformance::Fixture;
use super::{seam_cases, zvol_cases};
use crate::zvol::zfs::{NewZvol, STATE_PROPERTY};
use crate::zvol::{Dataset, Zfs};

/// What an operator does with `zfs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator<'a> {
    Snapshot {
        of: &'a Dataset,
        name: &'a str,
    },
    DestroySnapshot {
        of: &'a Dataset,
        name: &'a str,
    },
    Hold {
        of: &'a Dataset,
        name: &'a str,
        tag: &'a str,
    },
    Release {
        of: &'a Dataset,
        name: &'a str,
        tag: &'a str,
    },
    Clone {
        of: &'a Dataset,
        name: &'a str,
        to: &'a Dataset,
    },
    /// Of a snapshot, by the name it gets.
    Bookmark {
        of: &'a Dataset,
        name: &'a str,
        mark: &'a str,
    },
    DestroyBookmark {
        of: &'a Dataset,
        mark: &'a str,
    },
    /// A volume of his own; what is above it must be there.
    Create {
        dataset: &'a Dataset,
        size_bytes: u64,
    },
    /// Of a dataset without snapshots or children.
    Destroy(&'a Dataset),
    Resize {
        dataset: &'a Dataset,
        size_bytes: u64,
    },
    /// `None`: as much as the pool has.
    Quota {
        dataset: &'a Dataset,
        bytes: Option<u64>,
    },
}

/// A pool to run stories on, with all volumes right below [`Fixture::directory`].
pub trait PoolFixture: Fixture {
    fn zfs(&self) -> Arc<dyn Zfs>;

    /// The file system that everything of the story is below.
    fn root(&self) -> &Dataset;

    /// Panics where the pool does not let him.
    fn operate(&self, act: Operator<'_>);
}

/// Runs every story on it, printing its name; a failed one panics.
pub fn run_on_pool(fixture: &dyn PoolFixture) {
    super::conformance::run(fixture);
    for (name, case) in seam_cases::ALL.iter().chain(zvol_cases::ALL) {
        eprintln!("{}: {name}", fixture.name());
        case(fixture);
    }
}

/// The dataset of a volume's place.
pub fn dataset_of(volume: &Path) -> Dataset {
    Dataset::of_device(volume).expect("a place below /dev/zvol")
}

/// A volume's name from a story's label: of the shape that is ours, and always the same.
pub(super) fn place(directory: &Path, label: &str) -> std::path::PathBuf {
    let id = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, label.as_bytes());
    directory.join(format!("{id}.0"))
}

/// What a creation leaves that was cut off: made, and not filled.
pub(super) fn leave_remains(zfs: &dyn Zfs, volume: &Path, size_bytes: u64) {
    let properties = vec![(STATE_PROPERTY.to_owned(), "filling".to_owned())];
    let new = NewZvol { size_bytes, block_size_bytes: 16 << 10, properties };
    zfs.create_volume(&dataset_of(volume), &new, &crate::HandlerCx::unattended()).expect("made");
}

/// There, and not whole.
pub(super) fn has_remains(zfs: &dyn Zfs, volume: &Path) -> bool {
    zfs.volume(&dataset_of(volume)).is_ok_and(|found| found.state.as_deref() != Some("whole"))
}

/// Everything ZFS tells of the volume and its snapshots.
pub(super) fn told(zfs: &dyn Zfs, volume: &Path) -> String {
    let dataset = dataset_of(volume);
    let found = zfs.volume(&dataset).expect("there");
    let snapshots = zfs.snapshots(&dataset).expect("listed");
    // What it takes is counted with a delay.
    format!("{} {:?} {:?} {snapshots:?}", found.size_bytes, found.state, found.reverted)
}
