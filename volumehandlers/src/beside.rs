//! Snapshots that are files beside their volume: of a raw disk all its bytes of one moment (`file.rs`), of a qcow2 image the tables
//! that a rollback changes (`qcow2/kept.rs`).
//!
//! ```text
//!   <volume>.raw                       the volume
//!   <volume>.raw~holdfast-…            a snapshot; nobody ever writes to it
//!   .tmp~<volume>.raw~holdfast-…       one that is being made, which means nothing
//! ```
//!
//! A file belongs to a volume only by this name, so what somebody else laid beside it is never listed and never removed. A
//! snapshot's time is the one in its name, which its intent chose; its id is its name, which is used once.
//!
//! Deliberately absent: what a snapshot is good for, and reading the wall clock.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use holdfast_persist::crashsafe::TEMPORARY_PREFIX;
use holdfast_persist::disk::DirEntry;

use crate::error::VolumeError;
use crate::handler::{FoundSnapshot, SnapshotMeta};
use crate::name::{InvalidName, SnapshotName};
use crate::staging::{Staging, directory_of};

/// Stands between a volume's file name and a snapshot's.
const MARK: &str = "~";

/// Linux's, for the name of a file.
const LONGEST_FILE_NAME_BYTES: usize = 255;

/// A file that belongs to a volume as its snapshot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SnapshotFile {
    pub name: SnapshotName,
    /// Where it is, or would be once it is finished.
    pub path: PathBuf,
    pub unfinished: bool,
    pub size_bytes: u64,
}

impl SnapshotFile {
    pub fn found(&self) -> FoundSnapshot {
        FoundSnapshot {
            name: self.name.to_string(),
            id: self.name.to_string(),
            created_at: self.name.chosen_at().unwrap_or_default(),
            size_bytes: Some(self.size_bytes),
            vm_state_size_bytes: 0,
        }
    }

    pub fn meta(&self) -> SnapshotMeta {
        let FoundSnapshot { id, created_at, .. } = self.found();
        SnapshotMeta { name: self.name.clone(), id, created_at, size_bytes: self.size_bytes }
    }
}

/// The place of a snapshot. Refuses a name that this node would not choose, or that no file can have.
pub(crate) fn place_of(volume: &Path, name: &SnapshotName) -> Result<PathBuf, VolumeError> {
    let mut file_name = volume.file_name().map(OsString::from).unwrap_or_default();
    file_name.push(MARK);
    file_name.push(name.as_str());
    let reason = if !name.is_ours() {
        "it does not begin with holdfast-"
    } else if name.as_str().contains(['/', '.']) {
        "its file would be no file of its volume, or could be taken for a volume's own"
    } else if TEMPORARY_PREFIX.len() + file_name.len() > LONGEST_FILE_NAME_BYTES {
        "together with its volume's it is too long for a file's"
    } else {
        return Ok(volume.with_file_name(file_name));
    };
    let source = InvalidName { text: name.to_string(), reason };
    Err(VolumeError::Name { volume: volume.to_path_buf(), source })
}

/// A volume's snapshots, finished or not, in the order of their times. The volume need not be there.
pub(crate) fn of(staging: &Staging, volume: &Path) -> Result<Vec<SnapshotFile>, VolumeError> {
    let directory = directory_of(volume);
    let entries = match staging.disk().list(directory) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.map_err(|e| VolumeError::from_io(volume, "listing its snapshots", e))?,
    };
    let Some(mark) = volume.file_name().and_then(|name| name.to_str()).map(|name| format!("{name}{MARK}"))
    else {
        return Ok(Vec::new());
    };
    let of_entry = |entry: &DirEntry| {
        let text = entry.text()?;
        let finished = text.strip_prefix(TEMPORARY_PREFIX).unwrap_or(text);
        let name = SnapshotName::parse(finished.strip_prefix(&mark)?).ok()?;
        name.is_ours().then_some(SnapshotFile {
            name,
            path: directory.join(finished),
            unfinished: finished != text,
            size_bytes: entry.size_bytes,
        })
    };
    let mut found: Vec<SnapshotFile> =
        entries.iter().filter(|entry| entry.is_file()).filter_map(of_entry).collect();
    found.sort_by_cached_key(|one| (one.name.chosen_at(), one.name.clone()));
    Ok(found)
}
