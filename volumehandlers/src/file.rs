//! Volumes as plain files, raw disks and ISO images, which cannot hold snapshots inside ([003] J5).
//!
//! A read-only one never blocks the snapshot of its application: the caller records it as unchanged ([003] B3).
//! A writable one refuses the snapshot by name, before anything was touched; unless it was told to keep snapshots as files
//! ([`FileHandler::with_snapshot_files`]):
//!
//! ```text
//!   create_snapshot       <volume> ── shared or copied, synced, renamed, synced ──▶ <volume>~<name>
//!   rollback_to_snapshot  not supported: whoever killed it in the middle could not tell old bytes from new
//!   clone_from_snapshot   <volume>~<name> ── in the same way ──▶ a fresh volume
//!   adopt_snapshots       <volume>~<name> … ── renamed ──▶ <fresh volume>~<name> …
//!   delete_snapshot       removed, synced
//! ```
//!
//! **What a crash leaves**: a file under a volume's or a snapshot's name is whole, always; a temporary means nothing, and goes
//! with the next try, with [`VolumeHandler::repair`] and with the volume. Renamed snapshots are on either volume.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use holdfast_persist::Disk;
use holdfast_types::volume::Format;
use holdfast_types::{AgreedSnapshot, Blocker};

use crate::beside::{self, SnapshotFile};
use crate::context::HandlerCx;
use crate::error::VolumeError;
use crate::handler::{
    Action, Capabilities, Ensured, FoundSnapshot, FoundVolume, Parameters, Preflight, Repaired, SnapshotMeta,
    Source, Space, VolumeFacts, VolumeHandler, VolumeSpec, sufficient,
};
use crate::name::SnapshotName;
use crate::staging::{CloneMethod, METHOD, Staging};
use crate::tool::{Access, ImageTool};

/// The handler's name in records.
pub const NAME: &str = "file";

/// What making a file takes beside its bytes, with room to spare.
const METADATA_RESERVE_BYTES: u64 = 1 << 20;

/// [`VolumeHandler`] for files whose bytes are the disk's.
#[derive(Debug, Clone)]
pub struct FileHandler {
    staging: Staging,
    tool: Arc<dyn ImageTool>,
    format: Format,
    keeps_snapshots: bool,
}

impl FileHandler {
    /// `format` is raw or ISO; the tool tells whether a file is in use.
    pub fn new(disk: Arc<dyn Disk>, tool: Arc<dyn ImageTool>, format: Format) -> Self {
        FileHandler { staging: Staging::new(disk), tool, format, keeps_snapshots: false }
    }

    /// Snapshots are files beside the volume. For raw disks only: what is read-only needs none.
    pub fn with_snapshot_files(self) -> Self {
        FileHandler { keeps_snapshots: self.format == Format::Raw, ..self }
    }

    fn need_snapshots(&self, volume: &Path, what: &'static str) -> Result<(), VolumeError> {
        match self.keeps_snapshots {
            true => Ok(()),
            false => Err(self.unsupported(volume, what)),
        }
    }

    /// Finished and unfinished ones, also where none are made any more. Only a raw disk has any.
    fn snapshots(&self, volume: &Path) -> Result<Vec<SnapshotFile>, VolumeError> {
        match self.format {
            Format::Raw => beside::of(&self.staging, volume),
            _ => Ok(Vec::new()),
        }
    }

    /// The finished snapshot of that name.
    fn snapshot(&self, volume: &Path, name: &SnapshotName) -> Result<SnapshotFile, VolumeError> {
        let all = self.snapshots(volume)?;
        let found = all.into_iter().find(|one| one.name == *name && !one.unfinished);
        found.ok_or_else(|| VolumeError::NoSuchSnapshot {
            volume: volume.to_path_buf(),
            name: name.to_string(),
        })
    }

    /// Fills `place` with the bytes of `from`, durably and whole, or leaves it missing.
    fn duplicate(
        &self,
        volume: &Path,
        (from, place): (&Path, &Path),
        method: CloneMethod,
        cx: &HandlerCx<'_>,
    ) -> Result<(), VolumeError> {
        self.staging
            .build_at(volume, place, |temporary| self.staging.clone_file(volume, from, temporary, method, cx))
    }

    /// What the file takes on storage.
    fn allocated_bytes(&self, volume: &Path, file: &Path) -> Result<u64, VolumeError> {
        let info = self.tool.info(file, self.format, Access::Shared);
        let info = info.map_err(|e| VolumeError::from_tool(volume, "looking at the file", e))?;
        Ok(info.allocated_bytes)
    }

    /// What is left of tries to make snapshots. True if there was any.
    fn remove_temporaries(&self, volume: &Path) -> Result<bool, VolumeError> {
        let all = self.snapshots(volume)?;
        let unfinished = all.iter().filter(|one| one.unfinished);
        unfinished
            .map(|one| self.staging.remove_temporary_at(volume, &one.path))
            .try_fold(false, |any, one| Ok(any | one?))
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
            snapshot: self.keeps_snapshots,
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
        let mut unfinished = self.staging.remove_temporary(volume)?;
        let there = self.staging.exists(volume)?;
        if there && let Err(locked @ VolumeError::Locked { .. }) = self.facts_with(volume, Access::Exclusive)
        {
            return Err(locked);
        }
        // Before the volume: a snapshot alone would be nobody's.
        for one in self.snapshots(volume)? {
            unfinished = true;
            self.staging.remove_at(volume, &one.path)?;
        }
        self.staging.remove(volume)?;
        Ok(if there || unfinished { Ensured::Changed(()) } else { Ensured::Unchanged(()) })
    }

    fn inventory(&self, directory: &Path) -> Result<Vec<FoundVolume>, VolumeError> {
        self.staging.inventory(directory, &[self.format])
    }

    fn facts(&self, volume: &Path) -> Result<VolumeFacts, VolumeError> {
        let mut facts = self.facts_with(volume, Access::Shared)?;
        for one in self.snapshots(volume)?.iter().filter(|one| !one.unfinished) {
            facts.allocated_bytes += self.allocated_bytes(volume, &one.path)?;
        }
        Ok(facts)
    }

    fn preflight(&self, volume: &Path, preflight: &Preflight) -> Result<Space, VolumeError> {
        let space = self.space(volume, &preflight.action)?;
        let reads_nothing_of_it = matches!(preflight.action, Action::DeleteSnapshot { .. });
        if !preflight.guest_may_run && !reads_nothing_of_it {
            self.facts_with(volume, Access::Exclusive)?;
        }
        sufficient(space, volume)
    }

    /// As if every byte had to be copied: whether the file system shares them shows when it is asked to.
    fn space(&self, volume: &Path, action: &Action) -> Result<Space, VolumeError> {
        let needed_bytes = match action {
            Action::CreateSnapshot => {
                self.need_snapshots(volume, "a snapshot")?;
                self.allocated_bytes(volume, volume)? + METADATA_RESERVE_BYTES
            }
            Action::Rollback { .. } => return Err(self.unsupported(volume, "a rollback")),
            Action::DeleteSnapshot { .. } => 0,
            Action::Clone { from } => {
                self.need_snapshots(volume, "a clone of a snapshot")?;
                let snapshot = self.snapshot(volume, from)?;
                self.allocated_bytes(volume, &snapshot.path)? + METADATA_RESERVE_BYTES
            }
        };
        self.staging.space_for(volume, needed_bytes)
    }

    /// Nothing is rolled back in place, so nothing can stand in the way of that; newer snapshots stay with the clone.
    fn blockers(
        &self,
        volume: &Path,
        to: &SnapshotName,
        _leaving: &BTreeSet<SnapshotName>,
    ) -> Result<Vec<Blocker>, VolumeError> {
        self.need_snapshots(volume, "a rollback")?;
        self.snapshot(volume, to).map(|_| Vec::new())
    }

    fn create_snapshot(
        &self,
        volume: &Path,
        name: &SnapshotName,
        cx: &HandlerCx<'_>,
    ) -> Result<Ensured<SnapshotMeta>, VolumeError> {
        self.need_snapshots(volume, "a snapshot")?;
        let place = beside::place_of(volume, name)?;
        self.facts_with(volume, Access::Exclusive)?;
        match self.snapshot(volume, name) {
            Ok(found) => {
                self.staging.settle_at(volume, &place)?;
                return Ok(Ensured::Unchanged(found.meta()));
            }
            Err(VolumeError::NoSuchSnapshot { .. }) => {}
            Err(error) => return Err(error),
        }
        sufficient(self.space(volume, &Action::CreateSnapshot)?, volume)?;
        self.duplicate(volume, (volume, &place), CloneMethod::Auto, cx)?;
        let made = self.snapshot(volume, name)?;
        tracing::info!(volume = %volume.display(), %name, "snapshot cut");
        Ok(Ensured::Changed(made.meta()))
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

    /// Also of a volume that keeps no snapshots, and of one that is in use: nobody but a clone reads them.
    fn delete_snapshot(
        &self,
        volume: &Path,
        name: &SnapshotName,
        _cx: &HandlerCx<'_>,
    ) -> Result<Ensured<()>, VolumeError> {
        // A name that none can have has none.
        let Ok(place) = beside::place_of(volume, name) else { return Ok(Ensured::Unchanged(())) };
        if self.format != Format::Raw {
            return Ok(Ensured::Unchanged(()));
        }
        let there = self.snapshots(volume)?.iter().any(|one| one.name == *name);
        // Also when it is not there: whoever removed it may have died before it was durable.
        self.staging.remove_at(volume, &place)?;
        if !there {
            return Ok(Ensured::Unchanged(()));
        }
        tracing::info!(volume = %volume.display(), %name, "snapshot deleted");
        Ok(Ensured::Changed(()))
    }

    fn clone_from_snapshot(
        &self,
        volume: &Path,
        name: &SnapshotName,
        to: &Path,
        parameters: &Parameters,
        cx: &HandlerCx<'_>,
    ) -> Result<Ensured<VolumeFacts>, VolumeError> {
        self.need_snapshots(volume, "a clone of a snapshot")?;
        let method = method_of(volume, parameters)?;
        let snapshot = self.snapshot(volume, name)?;
        if self.staging.exists(to)? {
            let facts = self.facts_with(to, Access::Shared)?;
            let (found, wanted) = (self.length(to)?, snapshot.size_bytes);
            if found != wanted {
                let reason = format!("it has {found} bytes and not the snapshot's {wanted}");
                return Err(VolumeError::Different { volume: to.to_path_buf(), reason });
            }
            self.staging.settle(to)?;
            return Ok(Ensured::Unchanged(facts));
        }
        if method != CloneMethod::Reflink {
            sufficient(self.space(volume, &Action::Clone { from: name.clone() })?, volume)?;
        }
        self.duplicate(volume, (&snapshot.path, to), method, cx)?;
        tracing::info!(volume = %volume.display(), %name, to = %to.display(), "cloned");
        self.facts_with(to, Access::Shared).map(Ensured::Changed)
    }

    fn adopt_snapshots(&self, from: &Path, to: &Path) -> Result<Ensured<()>, VolumeError> {
        self.need_snapshots(from, "giving snapshots to another volume")?;
        let given = self.snapshots(from)?;
        for one in &given {
            if one.unfinished {
                self.staging.remove_temporary_at(from, &one.path)?;
                continue;
            }
            let place = beside::place_of(to, &one.name)?;
            let renamed = self.staging.disk().rename(&one.path, &place);
            renamed.map_err(|e| VolumeError::from_io(from, "giving its snapshots to another volume", e))?;
        }
        // Also when all were there already: whoever renamed them may have died before it was durable.
        self.staging.settle_names(from)?;
        Ok(if given.is_empty() { Ensured::Unchanged(()) } else { Ensured::Changed(()) })
    }

    fn check_parameters(&self, volume: &Path, parameters: &Parameters) -> Result<(), VolumeError> {
        method_of(volume, parameters).map(drop)
    }

    fn list_snapshots(&self, volume: &Path) -> Result<Vec<FoundSnapshot>, VolumeError> {
        let all = self.snapshots(volume)?;
        Ok(all.iter().filter(|one| !one.unfinished).map(SnapshotFile::found).collect())
    }

    fn repair(&self, volume: &Path, _cx: &HandlerCx<'_>) -> Result<Ensured<Repaired>, VolumeError> {
        let removed_temporary = self.remove_temporaries(volume)? | self.staging.remove_temporary(volume)?;
        if !self.staging.exists(volume)? {
            return Err(VolumeError::Missing { volume: volume.to_path_buf() });
        }
        let repaired = Repaired { removed_temporary, ..Repaired::default() };
        Ok(if removed_temporary { Ensured::Changed(repaired) } else { Ensured::Unchanged(repaired) })
    }
}

/// [004] M5.
fn method_of(volume: &Path, parameters: &Parameters) -> Result<CloneMethod, VolumeError> {
    let refused = |key: &str, reason: String| {
        Err(VolumeError::Parameter { volume: volume.to_path_buf(), key: key.to_owned(), reason })
    };
    if let Some(key) = parameters.keys().find(|key| *key != METHOD) {
        return refused(key, format!("the only one known to the handler {NAME} is {METHOD}"));
    }
    match parameters.get(METHOD).map(String::as_str) {
        None | Some("auto") => Ok(CloneMethod::Auto),
        Some("reflink") => Ok(CloneMethod::Reflink),
        Some("copy") => Ok(CloneMethod::Copy),
        Some(other) => refused(METHOD, format!("it can be auto, reflink or copy, and not \"{other}\"")),
    }
}
