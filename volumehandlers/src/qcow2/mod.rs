//! Volumes as qcow2 files, with snapshots inside the image ([003] J1-J4).
//!
//! ```text
//!   create_snapshot       list ─▶ none of that name ─▶ -c ─▶ sync ─▶ listed once
//!                              ─▶ one: it is the first try's ─▶ sync
//!                              ─▶ several: none was ever acknowledged ─▶ -d each ─▶ -c …
//!   rollback_to_snapshot  list ─▶ exactly one ─▶ -a by id ─▶ sync ─▶ size is the snapshot's
//!   delete_snapshot       list ─▶ while listed: -d ─▶ list again ─▶ sync
//!   create_safety_…       sync ─▶ the tables that -a will change copied to <volume>~<name>, synced, renamed, synced
//!                              ─▶ not known which, or no room for them: as create_snapshot
//!   … rolled back to      the tables written back ─▶ sync
//!   … dropped             what -a freed given back to the file system ─▶ <volume>~<name> removed, synced
//!   repair                check ─▶ leaks ─▶ check -r leaks ─▶ check … ─▶ clean, or damaged
//! ```
//!
//! **What a crash inside qemu-img leaves.** `-c` counts references first and writes the snapshot table last: cut
//! off, the snapshot is not there and some clusters are counted too often. `-d` takes the entry out of the table
//! first: cut off, the snapshot is gone and its clusters leak. `-a` counts the snapshot's references, then
//! overwrites the active table in place, then counts the old ones down: cut off, the active content may be
//! neither, no cluster in use has lost its count, and the same `-a` again gives the snapshot's content. So leaks
//! (and the "copied" flags that follow from wrong counts) are all there is to mend.
//!
//! **Safety snapshots** ([`VolumeHandler::create_safety_snapshot`]) are copies of tables where they can be (`kept.rs`, `tables.rs`): a
//! rollback is one run of qemu-img then and not three, and one walk through the image's tables in the place of three. The image is synced
//! before its tables are copied, so that after a power cut they lead to nothing that was lost with it. As long as there is such a copy,
//! nothing else may change the image: no leaks are mended, and what fails is not tidied after.
//!
//! **Why the file is synced after qemu-img did.** It flushes when it closes the image but its exit status does
//! not tell whether that last flush succeeded; and the names of new files are never its business. A second sync
//! through `Disk` reports what the first could not, and the simulation sees it.
//!
//! **Size.** `-a` sets the image's size to the snapshot's (tried: 7.2, both directions), so an image that grew
//! since the cut is handled: the facts come back with the size in force. It is compared with the size in the
//! snapshot's table entry all the same.
//!
//! Deliberately absent: snapshots of a running guest (that is QMP's), and backing files.

mod header;
mod kept;
mod limit;
mod look;
mod populate;
mod qemu_img;
mod tables;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_persist::Disk;
use holdfast_types::volume::Format;
use holdfast_types::{AgreedSnapshot, Blocker, error_chain};

use crate::beside::{self, SnapshotFile};
use crate::context::HandlerCx;
use crate::error::{ToolError, VolumeError};
use crate::handler::{
    Action, Capabilities, Ensured, FoundSnapshot, FoundVolume, Parameters, Preflight, Repaired, SnapshotMeta,
    Space, VolumeFacts, VolumeHandler, VolumeSpec,
};
use crate::name::{InvalidName, SnapshotName};
use crate::staging::Staging;
use crate::tool::{Access, CheckReport, ImageInfo, ImageSnapshot, ImageTool, Mend};

pub(crate) use populate::inspect;
pub use qemu_img::QemuImg;

/// The handler's name in records.
pub const NAME: &str = "qcow2";

/// Each round mends what the one before made visible: counts first, then the flags that follow from them.
const MOST_MENDING_ROUNDS: usize = 4;

/// What any step on metadata may have to allocate: a table cluster, reference blocks, and room to spare.
const METADATA_RESERVE_BYTES: u64 = 4 << 20;

/// [`VolumeHandler`] for qcow2 files.
#[derive(Debug, Clone)]
pub struct Qcow2Handler {
    staging: Staging,
    tool: Arc<dyn ImageTool>,
}

impl Qcow2Handler {
    pub fn new(disk: Arc<dyn Disk>, tool: Arc<dyn ImageTool>) -> Self {
        Qcow2Handler { staging: Staging::new(disk), tool }
    }

    fn info(&self, volume: &Path, access: Access) -> Result<ImageInfo, VolumeError> {
        self.tool
            .info(volume, Format::Qcow2, access)
            .map_err(|e| VolumeError::from_tool(volume, "looking into the image", e))
    }

    /// The image, known to stand on its own and not to be marked as damaged.
    fn sound_info(&self, volume: &Path, access: Access) -> Result<ImageInfo, VolumeError> {
        let info = self.info(volume, access)?;
        refuse_flaws(volume, &info)?;
        Ok(info)
    }

    fn check(&self, volume: &Path, mend: Mend, cx: &HandlerCx<'_>) -> Result<CheckReport, VolumeError> {
        self.tool.check(volume, mend, cx).map_err(|e| VolumeError::from_tool(volume, "checking the image", e))
    }

    /// Frees leaks until there are none or nothing gets better. Says how many were freed.
    fn mend_leaks(&self, volume: &Path, cx: &HandlerCx<'_>) -> Result<u64, VolumeError> {
        let mut freed = 0;
        let mut report = self.check(volume, Mend::Nothing, cx)?;
        for _ in 0..MOST_MENDING_ROUNDS {
            if report.is_clean() {
                break;
            }
            freed += match self.check(volume, Mend::Leaks, cx) {
                Ok(mended) => mended.leaks_fixed,
                // The tool gives up on what is damaged badly; the count from before says so better.
                Err(VolumeError::Tool { .. }) if report.is_damaged() => break,
                Err(error) => return Err(error),
            };
            report = self.check(volume, Mend::Nothing, cx)?;
        }
        match report.is_clean() {
            true => Ok(freed),
            false => Err(damaged(volume, &report)),
        }
    }

    /// After a failed step: what it leaked is freed if that is possible; the step's own error is what counts.
    fn tidy_after(&self, volume: &Path, error: ToolError, step: &'static str) -> VolumeError {
        if !matches!(error, ToolError::Cancelled | ToolError::Locked { .. } | ToolError::NotInstalled { .. })
            && let Err(untidy) = self.mend_leaks(volume, &HandlerCx::unattended())
        {
            tracing::warn!(volume = %volume.display(), step, error = %untidy, "leaks may be left until the next repair");
        }
        VolumeError::from_tool(volume, step, error)
    }

    /// Removes every snapshot of that name, and confirms it by listing.
    fn remove_all_named(
        &self,
        volume: &Path,
        name: &SnapshotName,
        mut info: ImageInfo,
        cx: &HandlerCx<'_>,
    ) -> Result<(), VolumeError> {
        for _ in 0..named(&info, name).count() {
            self.tool
                .snapshot_delete(volume, name.as_str(), cx)
                .map_err(|e| self.tidy_after(volume, e, "deleting a snapshot"))?;
            info = self.info(volume, Access::Exclusive)?;
            if named(&info, name).count() == 0 {
                return Ok(());
            }
        }
        let what = format!("snapshot {name} is still listed after it was deleted");
        Err(VolumeError::NotConfirmed { volume: volume.to_path_buf(), what })
    }

    /// The copy of tables that stands for the safety snapshot of that name, if there is one. A name that no file can have has none.
    fn kept(&self, volume: &Path, name: &SnapshotName) -> Result<Option<PathBuf>, VolumeError> {
        let Ok(place) = beside::place_of(volume, name) else { return Ok(None) };
        Ok(self.staging.exists_at(volume, &place)?.then_some(place))
    }

    /// False where the tables cannot be told or do not fit.
    fn keep_tables(
        &self,
        volume: &Path,
        place: &Path,
        to: &ImageSnapshot,
        cx: &HandlerCx<'_>,
    ) -> Result<bool, VolumeError> {
        self.staging.sync(volume)?;
        let room = self.staging.space_for(volume, METADATA_RESERVE_BYTES)?;
        let most_bytes = room.free_bytes.saturating_sub(room.needed_bytes);
        self.staging.build_if(volume, place, |temporary| {
            match self.tool.keep_tables(volume, &to.id, temporary, most_bytes, cx) {
                Err(ToolError::NoSpace { .. }) => Ok(false),
                kept => kept.map_err(|e| VolumeError::from_tool(volume, "copying the image's tables", e)),
            }
        })
    }

    /// Also when it is not there: whoever removed it may have died before it was durable.
    fn remove_kept(&self, volume: &Path, name: &SnapshotName) -> Result<(), VolumeError> {
        match beside::place_of(volume, name) {
            Ok(place) if name.is_safety() => self.staging.remove_at(volume, &place),
            _ => Ok(()),
        }
    }

    fn put_back(
        &self,
        volume: &Path,
        kept: &Path,
        cx: &HandlerCx<'_>,
    ) -> Result<Ensured<VolumeFacts>, VolumeError> {
        self.tool
            .put_back_tables(volume, kept, cx)
            .map_err(|e| VolumeError::from_tool(volume, "putting the image's tables back", e))?;
        self.staging.sync(volume)?;
        let info = self.sound_info(volume, Access::Exclusive)?;
        tracing::info!(volume = %volume.display(), kept = %kept.display(), "tables put back");
        Ok(Ensured::Changed(facts_of(&info)))
    }

    fn cut(
        &self,
        volume: &Path,
        name: &SnapshotName,
        cx: &HandlerCx<'_>,
    ) -> Result<SnapshotMeta, VolumeError> {
        self.tool
            .snapshot_create(volume, name.as_str(), cx)
            .map_err(|e| self.tidy_after(volume, e, "cutting a snapshot"))?;
        self.staging.sync(volume)?;
        let info = self.info(volume, Access::Exclusive)?;
        match only_named(volume, &info, name) {
            Ok(found) => Ok(meta_of(found, name, &info)),
            Err(_) => Err(VolumeError::NotConfirmed {
                volume: volume.to_path_buf(),
                what: format!("snapshot {name} is not listed after it was cut"),
            }),
        }
    }
}

impl VolumeHandler for Qcow2Handler {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            snapshot: true,
            revert_in_place: true,
            atomic_group: false,
            newer_snapshots_block: false,
        }
    }

    fn create(&self, spec: &VolumeSpec, cx: &HandlerCx<'_>) -> Result<Ensured<VolumeFacts>, VolumeError> {
        populate::create(&self.staging, self.tool.as_ref(), spec, cx)
    }

    fn destroy(&self, volume: &Path, _cx: &HandlerCx<'_>) -> Result<Ensured<()>, VolumeError> {
        let unfinished = self.staging.remove_temporary(volume)?;
        let there = self.staging.exists(volume)?;
        if there && let Err(locked @ VolumeError::Locked { .. }) = self.info(volume, Access::Exclusive) {
            return Err(locked);
        }
        // Before the volume: alone they would be nobody's.
        for one in beside::of(&self.staging, volume)? {
            self.staging.remove_at(volume, &one.path)?;
        }
        // Also when it is not there: whoever removed it may have died before it was durable.
        self.staging.remove(volume)?;
        Ok(if there || unfinished { Ensured::Changed(()) } else { Ensured::Unchanged(()) })
    }

    fn inventory(&self, directory: &Path) -> Result<Vec<FoundVolume>, VolumeError> {
        self.staging.inventory(directory, &[Format::Qcow2])
    }

    fn facts(&self, volume: &Path) -> Result<VolumeFacts, VolumeError> {
        self.info(volume, Access::Shared).map(|info| facts_of(&info))
    }

    fn preflight(&self, volume: &Path, preflight: &Preflight) -> Result<Space, VolumeError> {
        let access = if preflight.guest_may_run { Access::Shared } else { Access::Exclusive };
        let info = self.sound_info(volume, access)?;
        if !preflight.guest_may_run {
            let report = self.check(volume, Mend::Nothing, &HandlerCx::unattended())?;
            if report.is_damaged() {
                return Err(damaged(volume, &report));
            }
        }
        if let Action::Rollback { to, .. } = &preflight.action {
            only_named(volume, &info, to)?;
        }
        self.staging.need_space(volume, needed_bytes(volume, &info, &preflight.action)?)
    }

    fn space(&self, volume: &Path, action: &Action) -> Result<Space, VolumeError> {
        let info = self.info(volume, Access::Shared)?;
        self.staging.space_for(volume, needed_bytes(volume, &info, action)?)
    }

    /// Never any: an older snapshot is applied while the newer stay ([000] L4).
    fn blockers(
        &self,
        volume: &Path,
        to: &SnapshotName,
        _leaving: &BTreeSet<SnapshotName>,
    ) -> Result<Vec<Blocker>, VolumeError> {
        only_named(volume, &self.info(volume, Access::Shared)?, to).map(|_| Vec::new())
    }

    fn create_snapshot(
        &self,
        volume: &Path,
        name: &SnapshotName,
        cx: &HandlerCx<'_>,
    ) -> Result<Ensured<SnapshotMeta>, VolumeError> {
        refuse_foreign(volume, name)?;
        let info = self.sound_info(volume, Access::Exclusive)?;
        let found: Vec<&ImageSnapshot> = named(&info, name).collect();
        if let [found] = found[..] {
            self.staging.sync(volume)?;
            return Ok(Ensured::Unchanged(meta_of(found, name, &info)));
        }
        self.staging.need_space(volume, metadata_bytes(&info))?;
        if found.len() > 1 {
            // The caller asks because it has acknowledged none of them; which was cut when cannot be known.
            tracing::warn!(volume = %volume.display(), %name, "several snapshots of one name: cutting afresh");
            self.remove_all_named(volume, name, info, cx)?;
        }
        let meta = self.cut(volume, name, cx)?;
        tracing::info!(volume = %volume.display(), %name, id = %meta.id, "snapshot cut");
        Ok(Ensured::Changed(meta))
    }

    fn create_safety_snapshot(
        &self,
        volume: &Path,
        name: &SnapshotName,
        to: &SnapshotName,
        cx: &HandlerCx<'_>,
    ) -> Result<(), VolumeError> {
        refuse_foreign(volume, name)?;
        let info = self.sound_info(volume, Access::Exclusive)?;
        let target = only_named(volume, &info, to)?;
        let place = beside::place_of(volume, name)?;
        // Of an earlier try, and not what this one falls back to.
        if self.staging.exists_at(volume, &place)? {
            self.staging.remove_at(volume, &place)?;
        }
        // One that an earlier try has cut inside stays the one.
        if named(&info, name).count() == 0 && self.keep_tables(volume, &place, target, cx)? {
            tracing::info!(volume = %volume.display(), %name, "tables kept");
            return Ok(());
        }
        self.create_snapshot(volume, name, cx).map(drop)
    }

    fn drop_safety_snapshot(
        &self,
        volume: &Path,
        name: &SnapshotName,
        cx: &HandlerCx<'_>,
    ) -> Result<(), VolumeError> {
        let is_there = self.staging.exists(volume)?;
        if let Some(kept) = self.kept(volume, name)?
            && is_there
            && let Err(error) = self.tool.discard_freed(volume, &kept, cx)
        {
            // The copy goes all the same: the guest may run again before it could be tried again, and what is free stays the image's.
            tracing::warn!(volume = %volume.display(), error = error_chain(&error), "nothing is given back");
        }
        self.remove_kept(volume, name)?;
        if is_there && named(&self.info(volume, Access::Shared)?, name).count() > 0 {
            self.delete_snapshot(volume, name, cx)?;
        }
        Ok(())
    }

    fn rollback_to_snapshot(
        &self,
        volume: &Path,
        name: &SnapshotName,
        _agreed: &BTreeSet<AgreedSnapshot>,
        cx: &HandlerCx<'_>,
    ) -> Result<Ensured<VolumeFacts>, VolumeError> {
        // Whatever else the image says of itself, for it may be half written. One inside was cut later: by an earlier release.
        if let Some(kept) = self.kept(volume, name)?
            && named(&self.info(volume, Access::Exclusive)?, name).count() == 0
        {
            return self.put_back(volume, &kept, cx);
        }
        let info = self.sound_info(volume, Access::Exclusive)?;
        let target = only_named(volume, &info, name)?;
        // By id: among names, another's id could come first.
        self.tool
            .snapshot_apply(volume, &target.id, cx)
            .map_err(|e| VolumeError::from_tool(volume, "applying a snapshot", e))?;
        self.staging.sync(volume)?;
        let after = self.info(volume, Access::Exclusive)?;
        confirm_size(volume, target, &after)?;
        tracing::info!(volume = %volume.display(), %name, id = %target.id, "rolled back");
        Ok(Ensured::Changed(facts_of(&after)))
    }

    fn delete_snapshot(
        &self,
        volume: &Path,
        name: &SnapshotName,
        cx: &HandlerCx<'_>,
    ) -> Result<Ensured<()>, VolumeError> {
        let mut there = self.kept(volume, name)?.is_some();
        if self.staging.exists(volume)? {
            let info = self.info(volume, Access::Exclusive)?;
            if named(&info, name).count() > 0 {
                self.remove_all_named(volume, name, info, cx)?;
                there = true;
            }
            self.staging.sync(volume)?;
        }
        self.remove_kept(volume, name)?;
        if !there {
            return Ok(Ensured::Unchanged(()));
        }
        tracing::info!(volume = %volume.display(), %name, "snapshot deleted");
        Ok(Ensured::Changed(()))
    }

    /// A rollback is done in place.
    fn clone_from_snapshot(
        &self,
        volume: &Path,
        _name: &SnapshotName,
        _to: &Path,
        _parameters: &Parameters,
        _cx: &HandlerCx<'_>,
    ) -> Result<Ensured<VolumeFacts>, VolumeError> {
        Err(no_clone(volume))
    }

    fn adopt_snapshots(&self, from: &Path, _to: &Path) -> Result<Ensured<()>, VolumeError> {
        Err(no_clone(from))
    }

    fn list_snapshots(&self, volume: &Path) -> Result<Vec<FoundSnapshot>, VolumeError> {
        let info = self.info(volume, Access::Shared)?;
        let kept = beside::of(&self.staging, volume)?;
        let kept = kept.iter().filter(|one| !one.unfinished).map(SnapshotFile::found);
        // Its file's length says nothing of the guest's size.
        let kept = kept.map(|found| FoundSnapshot { size_bytes: None, ..found });
        Ok(info.snapshots.into_iter().map(found_of).chain(kept).collect())
    }

    fn repair(&self, volume: &Path, cx: &HandlerCx<'_>) -> Result<Ensured<Repaired>, VolumeError> {
        let removed_temporary = self.staging.remove_temporary(volume)?;
        refuse_flaws(volume, &self.info(volume, Access::Exclusive)?)?;
        // As long as tables may be put back, what leaks now may be in use then.
        let may_be_put_back = beside::of(&self.staging, volume)?.iter().any(|one| !one.unfinished);
        let leaked_clusters = if may_be_put_back { 0 } else { self.mend_leaks(volume, cx)? };
        self.staging.sync(volume)?;
        let repaired = Repaired { leaked_clusters, removed_temporary };
        if repaired == Repaired::default() {
            return Ok(Ensured::Unchanged(repaired));
        }
        tracing::warn!(volume = %volume.display(), leaked_clusters, removed_temporary, "repaired");
        Ok(Ensured::Changed(repaired))
    }
}

fn named<'a>(info: &'a ImageInfo, name: &'a SnapshotName) -> impl Iterator<Item = &'a ImageSnapshot> {
    info.snapshots.iter().filter(move |snapshot| snapshot.name == name.as_str())
}

/// The one snapshot of that name; none or several are refused, since guessing could lose data.
fn only_named<'a>(
    volume: &Path,
    info: &'a ImageInfo,
    name: &'a SnapshotName,
) -> Result<&'a ImageSnapshot, VolumeError> {
    let found: Vec<&ImageSnapshot> = named(info, name).collect();
    match found[..] {
        [only] => Ok(only),
        [] => Err(VolumeError::NoSuchSnapshot { volume: volume.to_path_buf(), name: name.to_string() }),
        _ => Err(VolumeError::AmbiguousSnapshot {
            volume: volume.to_path_buf(),
            name: name.to_string(),
            count: found.len(),
        }),
    }
}

fn refuse_foreign(volume: &Path, name: &SnapshotName) -> Result<(), VolumeError> {
    if name.is_ours() {
        return Ok(());
    }
    let source = InvalidName { text: name.to_string(), reason: "it does not begin with holdfast-" };
    Err(VolumeError::Name { volume: volume.to_path_buf(), source })
}

fn refuse_flaws(volume: &Path, info: &ImageInfo) -> Result<(), VolumeError> {
    if let Some(reason) = flaw_of(info) {
        return Err(VolumeError::Unusable { image: volume.to_path_buf(), reason });
    }
    if info.marked_corrupt {
        let reason = "it bears the mark of a damaged image".to_owned();
        return Err(VolumeError::Corrupt { volume: volume.to_path_buf(), reason });
    }
    Ok(())
}

/// Why an image is not one that stands on its own.
fn flaw_of(info: &ImageInfo) -> Option<String> {
    if let Some(backing) = &info.backing_file {
        Some(format!("it needs the backing file {backing}"))
    } else if info.external_data_file {
        Some("its data lie in another file".to_owned())
    } else if info.encrypted {
        Some("it is encrypted".to_owned())
    } else {
        None
    }
}

fn damaged(volume: &Path, report: &CheckReport) -> VolumeError {
    let CheckReport { corruptions, check_errors, leaks, .. } = report;
    let reason = format!(
        "the check counts {corruptions} corruptions, {check_errors} errors while checking, {leaks} leaks"
    );
    VolumeError::Corrupt { volume: volume.to_path_buf(), reason }
}

fn confirm_size(volume: &Path, target: &ImageSnapshot, after: &ImageInfo) -> Result<(), VolumeError> {
    match target.size_bytes {
        Some(size_bytes) if size_bytes != after.virtual_size_bytes => Err(VolumeError::NotConfirmed {
            volume: volume.to_path_buf(),
            what: format!(
                "it has {} bytes after the rollback to snapshot {} of {size_bytes} bytes",
                after.virtual_size_bytes, target.name
            ),
        }),
        _ => Ok(()),
    }
}

fn needed_bytes(volume: &Path, info: &ImageInfo, action: &Action) -> Result<u64, VolumeError> {
    match action {
        Action::CreateSnapshot => Ok(metadata_bytes(info)),
        // The safety snapshot comes first.
        Action::Rollback { .. } => Ok(2 * metadata_bytes(info)),
        Action::DeleteSnapshot { .. } => Ok(0),
        Action::Clone { .. } => Err(no_clone(volume)),
    }
}

fn no_clone(volume: &Path) -> VolumeError {
    VolumeError::Unsupported {
        volume: volume.to_path_buf(),
        format: Format::Qcow2,
        what: "a clone of a snapshot",
    }
}

/// A copy of the active table (8 bytes per 512 MiB, rounded up generously) and the reserve.
fn metadata_bytes(info: &ImageInfo) -> u64 {
    METADATA_RESERVE_BYTES + info.virtual_size_bytes.div_ceil(64 << 20) * 8
}

fn facts_of(info: &ImageInfo) -> VolumeFacts {
    VolumeFacts { virtual_size_bytes: info.virtual_size_bytes, allocated_bytes: info.allocated_bytes }
}

fn meta_of(found: &ImageSnapshot, name: &SnapshotName, info: &ImageInfo) -> SnapshotMeta {
    SnapshotMeta {
        name: name.clone(),
        id: found.id.clone(),
        created_at: found.created_at,
        size_bytes: found.size_bytes.unwrap_or(info.virtual_size_bytes),
    }
}

fn found_of(snapshot: ImageSnapshot) -> FoundSnapshot {
    FoundSnapshot {
        name: snapshot.name,
        id: snapshot.id,
        created_at: snapshot.created_at,
        size_bytes: snapshot.size_bytes,
        vm_state_size_bytes: snapshot.vm_state_size_bytes,
    }
}
