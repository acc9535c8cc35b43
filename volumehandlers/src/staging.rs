//! How a volume file comes to be: built beside its place, then put there whole; and how it goes.
//!
//! ```text
//!   (nothing) ──▶ .tmp~name, being built ──sync, rename, sync dir──▶ name
//!        ▲                │ error or crash: left or removed           │
//!        └────────────────┴───────────────── destroy ─────────────────┘
//! ```
//!
//! So a file with a volume's name is whole, always, and a temporary means nothing, always. Its name is made from
//! the volume's, so that the next try finds and replaces it; the prefix is the one all of persist uses.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_persist::Disk;
use holdfast_persist::crashsafe::{self, FILE_MODE, TEMPORARY_PREFIX};
use holdfast_types::volume::Format;

use crate::context::HandlerCx;
use crate::error::VolumeError;
use crate::handler::FoundVolume;

const COPY_CHUNK_BYTES: usize = 1 << 20;

/// The file calls that all file-backed handlers share.
#[derive(Debug, Clone)]
pub(crate) struct Staging {
    disk: Arc<dyn Disk>,
}

impl Staging {
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        Staging { disk }
    }

    pub fn disk(&self) -> &dyn Disk {
        self.disk.as_ref()
    }

    pub fn exists(&self, volume: &Path) -> Result<bool, VolumeError> {
        let found = self.disk.metadata(volume).map_err(|e| VolumeError::from_io(volume, "looking", e))?;
        match found {
            Some(found) if found.kind == holdfast_persist::EntryKind::File => Ok(true),
            Some(_) => Err(VolumeError::Different {
                volume: volume.to_path_buf(),
                reason: "it is not a regular file".to_owned(),
            }),
            None => Ok(false),
        }
    }

    /// Builds the volume's file with `build` (given the temporary's path, an empty file of mode 0600) and puts it
    /// in its place, durably. After an error nothing has the volume's name, and the temporary is gone if that
    /// was possible; after a crash either the temporary is left or the whole volume is there.
    pub fn build(
        &self,
        volume: &Path,
        build: impl FnOnce(&Path) -> Result<(), VolumeError>,
    ) -> Result<(), VolumeError> {
        let temporary = temporary_of(volume);
        self.remove_temporary(volume)?;
        let placed = self
            .disk
            .create_new(&temporary, b"", FILE_MODE)
            .map_err(|e| VolumeError::from_io(volume, "creation", e))
            .and_then(|()| build(&temporary))
            .and_then(|()| self.place(&temporary, volume));
        if placed.is_err() {
            // Frees the room at once; if it fails too, the next try or a sweep does it.
            let _ = self.disk.remove_file(&temporary);
        }
        placed
    }

    fn place(&self, temporary: &Path, volume: &Path) -> Result<(), VolumeError> {
        self.disk
            .sync_file(temporary)
            .and_then(|()| self.disk.rename(temporary, volume))
            .and_then(|()| self.disk.sync_dir(directory_of(volume)))
            .map_err(|e| VolumeError::from_io(volume, "putting it in its place", e))
    }

    /// Makes what was found under the volume's name durable: who renamed it may have died before the sync.
    pub fn settle(&self, volume: &Path) -> Result<(), VolumeError> {
        self.sync(volume)?;
        self.disk
            .sync_dir(directory_of(volume))
            .map_err(|e| VolumeError::from_io(volume, "making its name durable", e))
    }

    pub fn sync(&self, volume: &Path) -> Result<(), VolumeError> {
        self.disk.sync_file(volume).map_err(|e| VolumeError::from_io(volume, "making it durable", e))
    }

    /// True if there was one. Not durable: one that comes back is removed next time.
    pub fn remove_temporary(&self, volume: &Path) -> Result<bool, VolumeError> {
        match self.disk.remove_file(&temporary_of(volume)) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(VolumeError::from_io(volume, "removing an unfinished try", e)),
        }
    }

    /// Makes the file and its temporary not exist, durably.
    pub fn remove(&self, volume: &Path) -> Result<(), VolumeError> {
        self.remove_temporary(volume)?;
        crashsafe::remove_durable(self.disk(), volume)
            .map_err(|e| VolumeError::from_io(volume, "destruction", e))
    }

    /// Refuses early what would run out of room late.
    pub fn need_space(&self, volume: &Path, needed_bytes: u64) -> Result<(), VolumeError> {
        let space = self
            .disk
            .space(directory_of(volume))
            .map_err(|e| VolumeError::from_io(volume, "measuring free space", e))?;
        if space.free_bytes >= needed_bytes {
            return Ok(());
        }
        let volume = volume.to_path_buf();
        Err(VolumeError::NoSpace { volume, needed_bytes, free_bytes: space.free_bytes })
    }

    /// Copies a file's bytes into `to` (an empty file), leaving out zeros, so that what is sparse stays sparse.
    pub fn copy_sparse(
        &self,
        volume: &Path,
        from: &Path,
        to: &Path,
        cx: &HandlerCx<'_>,
    ) -> Result<(), VolumeError> {
        let fail = |e| VolumeError::from_io(volume, "copying the image", e);
        let missing = || VolumeError::Missing { volume: from.to_path_buf() };
        let length = self.disk.metadata(from).map_err(fail)?.ok_or_else(missing)?.size_bytes;
        let mut offset = 0;
        while offset < length {
            if cx.cancelled() {
                return Err(VolumeError::Cancelled {
                    volume: volume.to_path_buf(),
                    step: "copying the image",
                });
            }
            let bytes = self.disk.read_at(from, offset, COPY_CHUNK_BYTES).map_err(fail)?;
            if bytes.is_empty() {
                break;
            }
            if bytes.iter().any(|byte| *byte != 0) {
                self.disk.write_at(to, offset, &bytes).map_err(fail)?;
            }
            offset += bytes.len() as u64;
            cx.progress((offset.saturating_mul(100) / length).min(100) as u8);
        }
        self.disk.truncate(to, length).map_err(fail)
    }

    /// Volumes of these formats in the directory, with unfinished ones, sorted by location.
    pub fn inventory(&self, directory: &Path, formats: &[Format]) -> Result<Vec<FoundVolume>, VolumeError> {
        let entries = match self.disk.list(directory) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            listed => listed.map_err(|e| VolumeError::from_io(directory, "listing", e))?,
        };
        let mut found: Vec<FoundVolume> = entries
            .iter()
            .filter(|entry| entry.is_file())
            .filter_map(|entry| {
                let name = entry.text()?;
                let unfinished = name.starts_with(TEMPORARY_PREFIX);
                let location = directory.join(name.strip_prefix(TEMPORARY_PREFIX).unwrap_or(name));
                let format = *formats.iter().find(|format| has_extension(&location, **format))?;
                Some(FoundVolume { location, format, unfinished, file_size_bytes: entry.size_bytes })
            })
            .collect();
        found.sort_by(|a, b| a.location.cmp(&b.location).then(a.unfinished.cmp(&b.unfinished)));
        Ok(found)
    }
}

pub(crate) fn temporary_of(volume: &Path) -> PathBuf {
    let mut name = OsString::from(TEMPORARY_PREFIX);
    name.push(volume.file_name().unwrap_or_default());
    volume.with_file_name(name)
}

fn directory_of(volume: &Path) -> &Path {
    match volume.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

fn has_extension(path: &Path, format: Format) -> bool {
    path.extension().is_some_and(|extension| extension == format.name())
}
