//! Volumes as plain files, raw disks and ISO images, which cannot hold snapshots ([003] J5).
//!
//! A read-only one never blocks the snapshot of its application: the caller records it as unchanged ([003] B3).
//! A writable one refuses the snapshot by name, before anything was touched.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use holdfast_persist::Disk;
use holdfast_types::volume::Format;
use holdfast_types::{AgreedSnapshot, Blocker};

use crate::context::HandlerCx;
use crate::error::VolumeError;
use crate::handler::{
    Action, Capabilities, Ensured, FoundSnapshot, FoundVolume, Preflight, Repaired, SnapshotMeta, Source,
    VolumeFacts, VolumeHandler, VolumeSpec,
};
use crate::name::SnapshotName;
use crate::staging::Staging;
use crate::tool::{Access, ImageTool};

/// The handler's name in records.
pub const NAME: &str = "file";

/// [`VolumeHandler`] for files whose bytes are the disk's.
#[derive(Debug, Clone)]
pub struct FileHandler {
    staging: Staging,
    tool: Arc<dyn ImageTool>,
    format: Format,
}

impl FileHandler {
    /// `format` is raw or ISO; the tool tells whether a file is in use.
    pub fn new(disk: Arc<dyn Disk>, tool: Arc<dyn ImageTool>, format: Format) -> Self {
        FileHandler { staging: Staging::new(disk), tool, format }
    }

    fn unsupported(&self, volume: &Path, what: &'static str) -> VolumeError {
        VolumeError::Unsupported { volume: volume.to_path_buf(), format: self.format, what }
    }

    fn facts_with(&self, volume: &Path, access: Access) -> Result<VolumeFacts, VolumeError> {
        let info = self
            .tool
            .info(volume, self.format, access)
            .map_err(|e| VolumeError::from_tool(volume, "looking at the file", e))?;
        Ok(VolumeFacts { virtual_size_bytes: info.virtual_size_bytes, allocated_bytes: info.allocated_bytes })
    }

    fn length(&self, path: &Path) -> Result<u64, VolumeError> {
        let found =
            self.staging.disk().metadata(path).map_err(|e| VolumeError::from_io(path, "looking", e))?;
        found.map(|found| found.size_bytes).ok_or_else(|| VolumeError::Missing { volume: path.to_path_buf() })
    }

    /// The length the file has to have.
    fn wanted_length(&self, spec: &VolumeSpec) -> Result<u64, VolumeError> {
        match &spec.source {
            Source::Blank { size_bytes } => Ok((*size_bytes).max(spec.max_size_bytes)),
            Source::Image { path, format } if *format == self.format => {
                let image_size_bytes = self.length(path)?;
                let max_size_bytes = spec.max_size_bytes;
                if max_size_bytes != 0 && image_size_bytes > max_size_bytes {
                    let volume = spec.location.clone();
                    return Err(VolumeError::TooSmall { volume, image_size_bytes, max_size_bytes });
                }
                // An ISO image keeps its length: what reads it finds its end by it.
                let grows = self.format == Format::Raw;
                Ok(if grows { image_size_bytes.max(max_size_bytes) } else { image_size_bytes })
            }
            Source::Image { format, .. } => Err(VolumeError::Unsupported {
                volume: spec.location.clone(),
                format: *format,
                what: "storing it as a plain file",
            }),
        }
    }

    fn fill(&self, spec: &VolumeSpec, temporary: &Path, cx: &HandlerCx<'_>) -> Result<(), VolumeError> {
        match &spec.source {
            Source::Blank { .. } => Ok(()),
            Source::Image { path, .. } => self.staging.copy_sparse(&spec.location, path, temporary, cx),
        }
    }
}

impl VolumeHandler for FileHandler {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            snapshot: false,
            revert_in_place: false,
            atomic_group: false,
            newer_snapshots_block: false,
        }
    }

    fn create(&self, spec: &VolumeSpec, cx: &HandlerCx<'_>) -> Result<Ensured<VolumeFacts>, VolumeError> {
        let volume = &spec.location;
        if self.staging.exists(volume)? {
            self.staging.settle(volume)?;
            return self.facts(volume).map(Ensured::Unchanged);
        }
        let length = self.wanted_length(spec)?;
        self.staging.build(volume, |temporary| {
            self.fill(spec, temporary, cx)?;
            let sized = self.staging.disk().truncate(temporary, length);
            sized.map_err(|e| VolumeError::from_io(volume, "creation", e))
        })?;
        self.facts(volume).map(Ensured::Changed)
    }

    fn destroy(&self, volume: &Path, _cx: &HandlerCx<'_>) -> Result<Ensured<()>, VolumeError> {
        let unfinished = self.staging.remove_temporary(volume)?;
        let there = self.staging.exists(volume)?;
        if there && let Err(locked @ VolumeError::Locked { .. }) = self.facts_with(volume, Access::Exclusive)
        {
            return Err(locked);
        }
        self.staging.remove(volume)?;
        Ok(if there || unfinished { Ensured::Changed(()) } else { Ensured::Unchanged(()) })
    }

    fn inventory(&self, directory: &Path) -> Result<Vec<FoundVolume>, VolumeError> {
        self.staging.inventory(directory, &[self.format])
    }

    fn facts(&self, volume: &Path) -> Result<VolumeFacts, VolumeError> {
        self.facts_with(volume, Access::Shared)
    }

    fn preflight(&self, volume: &Path, preflight: &Preflight) -> Result<(), VolumeError> {
        match preflight.action {
            Action::CreateSnapshot => Err(self.unsupported(volume, "a snapshot")),
            Action::Rollback { .. } => Err(self.unsupported(volume, "a rollback")),
            Action::DeleteSnapshot { .. } => Ok(()),
        }
    }

    fn blockers(
        &self,
        volume: &Path,
        _to: &SnapshotName,
        _leaving: &BTreeSet<SnapshotName>,
    ) -> Result<Vec<Blocker>, VolumeError> {
        Err(self.unsupported(volume, "a rollback"))
    }

    fn create_snapshot(
        &self,
        volume: &Path,
        _name: &SnapshotName,
        _cx: &HandlerCx<'_>,
    ) -> Result<Ensured<SnapshotMeta>, VolumeError> {
        Err(self.unsupported(volume, "a snapshot"))
    }

    fn rollback_to_snapshot(
        &self,
        volume: &Path,
        _name: &SnapshotName,
        _agreed: &BTreeSet<AgreedSnapshot>,
        _cx: &HandlerCx<'_>,
    ) -> Result<Ensured<VolumeFacts>, VolumeError> {
        Err(self.unsupported(volume, "a rollback"))
    }

    /// There is never one.
    fn delete_snapshot(
        &self,
        _volume: &Path,
        _name: &SnapshotName,
        _cx: &HandlerCx<'_>,
    ) -> Result<Ensured<()>, VolumeError> {
        Ok(Ensured::Unchanged(()))
    }

    fn list_snapshots(&self, _volume: &Path) -> Result<Vec<FoundSnapshot>, VolumeError> {
        Ok(Vec::new())
    }

    fn repair(&self, volume: &Path, _cx: &HandlerCx<'_>) -> Result<Ensured<Repaired>, VolumeError> {
        let removed_temporary = self.staging.remove_temporary(volume)?;
        if !self.staging.exists(volume)? {
            return Err(VolumeError::Missing { volume: volume.to_path_buf() });
        }
        let repaired = Repaired { removed_temporary, ..Repaired::default() };
        Ok(if removed_temporary { Ensured::Changed(repaired) } else { Ensured::Unchanged(repaired) })
    }
}
