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
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_persist::Disk;
use holdfast_persist::crashsafe::{self, FILE_MODE, TEMPORARY_PREFIX};
use holdfast_types::volume::Format;

use crate::context::HandlerCx;
use crate::error::VolumeError;
use crate::handler::{FoundVolume, Space, sufficient};

const COPY_CHUNK_BYTES: usize = 1 << 20;

/// The parameter that chooses a [`CloneMethod`] ([004] M5).
pub(crate) const METHOD: &str = "copy-method";

/// How the bytes of one file get into another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum CloneMethod {
    /// Shared where the file system can, else copied.
    #[default]
    Auto,
    /// Shared, or refused.
    Reflink,
    /// Copied, holes left out: the new file has its own bytes.
    Copy,
}

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
        self.exists_at(volume, volume)
    }

    /// The same for a file at another place; errors name the volume.
    pub fn exists_at(&self, volume: &Path, place: &Path) -> Result<bool, VolumeError> {
        let found = self.disk.metadata(place).map_err(|e| VolumeError::from_io(volume, "looking", e))?;
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
        self.build_at(volume, volume, build)
    }

    /// The same for a file at another place; errors name the volume.
    pub fn build_at(
        &self,
        volume: &Path,
        place: &Path,
        build: impl FnOnce(&Path) -> Result<(), VolumeError>,
    ) -> Result<(), VolumeError> {
        self.build_if(volume, place, |temporary| build(temporary).map(|()| true)).map(drop)
    }

    /// The same where `build` may find that there is to be no such file: then there is none under that name, or the one that was
    /// there.
    pub fn build_if(
        &self,
        volume: &Path,
        place: &Path,
        build: impl FnOnce(&Path) -> Result<bool, VolumeError>,
    ) -> Result<bool, VolumeError> {
        let temporary = temporary_of(place);
        self.remove_temporary_at(volume, place)?;
        let placed = self
            .disk
            .create_new(&temporary, b"", FILE_MODE)
            .map_err(|e| VolumeError::from_io(volume, "creation", e))
            .and_then(|()| build(&temporary))
            .and_then(
                |is_built| if is_built { self.place(&temporary, place).map(|()| true) } else { Ok(false) },
            );
        if !matches!(placed, Ok(true)) {
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
        self.settle_at(volume, volume)
    }

    /// The same for a file at another place in its directory; errors name the volume.
    pub fn settle_at(&self, volume: &Path, place: &Path) -> Result<(), VolumeError> {
        self.disk.sync_file(place).map_err(|e| VolumeError::from_io(volume, "making it durable", e))?;
        self.settle_names(volume)
    }

    /// Makes the names in the volume's directory durable.
    pub fn settle_names(&self, volume: &Path) -> Result<(), VolumeError> {
        self.disk
            .sync_dir(directory_of(volume))
            .map_err(|e| VolumeError::from_io(volume, "making its name durable", e))
    }

    pub fn sync(&self, volume: &Path) -> Result<(), VolumeError> {
        self.disk.sync_file(volume).map_err(|e| VolumeError::from_io(volume, "making it durable", e))
    }

    /// True if there was one. Not durable: one that comes back is removed next time.
    pub fn remove_temporary(&self, volume: &Path) -> Result<bool, VolumeError> {
        self.remove_temporary_at(volume, volume)
    }

    /// The same for a file at another place; errors name the volume.
    pub fn remove_temporary_at(&self, volume: &Path, place: &Path) -> Result<bool, VolumeError> {
        match self.disk.remove_file(&temporary_of(place)) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(VolumeError::from_io(volume, "removing an unfinished try", e)),
        }
    }

    /// Makes the file and its temporary not exist, durably.
    pub fn remove(&self, volume: &Path) -> Result<(), VolumeError> {
        self.remove_at(volume, volume)
    }

    /// The same for a file at another place; errors name the volume.
    pub fn remove_at(&self, volume: &Path, place: &Path) -> Result<(), VolumeError> {
        self.remove_temporary_at(volume, place)?;
        crashsafe::remove_durable(self.disk(), place)
            .map_err(|e| VolumeError::from_io(volume, "destruction", e))
    }

    /// A need, and the room where the volume lies.
    pub fn space_for(&self, volume: &Path, needed_bytes: u64) -> Result<Space, VolumeError> {
        let space = self
            .disk
            .space(directory_of(volume))
            .map_err(|e| VolumeError::from_io(volume, "measuring free space", e))?;
        Ok(Space { needed_bytes, free_bytes: space.free_bytes })
    }

    /// Refuses early what would run out of room late.
    pub fn need_space(&self, volume: &Path, needed_bytes: u64) -> Result<Space, VolumeError> {
        sufficient(self.space_for(volume, needed_bytes)?, volume)
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
        while offset < length
            && let Some(data) = self.disk.next_data(from, offset).map_err(fail)?
        {
            offset = data.start.max(offset);
            let end = data.end.min(length);
            while offset < end {
                if cx.cancelled() {
                    let step = "copying the image";
                    return Err(VolumeError::Cancelled { volume: volume.to_path_buf(), step });
                }
                let chunk_bytes = COPY_CHUNK_BYTES.min((end - offset) as usize);
                let bytes = self.disk.read_at(from, offset, chunk_bytes).map_err(fail)?;
                if bytes.is_empty() {
                    return Err(fail(io::ErrorKind::UnexpectedEof.into()));
                }
                if bytes.iter().any(|byte| *byte != 0) {
                    self.disk.write_at(to, offset, &bytes).map_err(fail)?;
                }
                offset += bytes.len() as u64;
                cx.progress((offset.saturating_mul(100) / length).min(100) as u8);
            }
        }
        cx.progress(100);
        self.disk.truncate(to, length).map_err(fail)
    }

    /// The same, by sharing the bytes where the file system can and `method` lets it.
    pub fn clone_file(
        &self,
        volume: &Path,
        from: &Path,
        to: &Path,
        method: CloneMethod,
        cx: &HandlerCx<'_>,
    ) -> Result<(), VolumeError> {
        if method != CloneMethod::Copy {
            let shared = self.disk.share_content(from, to);
            if shared.map_err(|e| VolumeError::from_io(volume, "sharing the image's content", e))? {
                cx.progress(100);
                return Ok(());
            }
            if method == CloneMethod::Reflink {
                return Err(VolumeError::Parameter {
                    volume: volume.to_path_buf(),
                    key: METHOD.to_owned(),
                    reason: "the file system cannot share what files hold".to_owned(),
                });
            }
        }
        self.copy_sparse(volume, from, to, cx)
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

pub(crate) fn directory_of(volume: &Path) -> &Path {
    match volume.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

fn has_extension(path: &Path, format: Format) -> bool {
    path.extension().is_some_and(|extension| extension == format.name())
}
