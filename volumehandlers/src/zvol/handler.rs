//! [`VolumeHandler`] for ZFS volumes ([003] K).
//!
//! ```text
//!   create                 nothing ─▶ zvol, "filling" ─▶ content written, flushed ─▶ "whole"
//!                          "filling" is what a crash left: it goes, and all begins again
//!   destroy                nobody has it open ─▶ no snapshot but ours ─▶ those go at once ─▶ the volume goes
//!   one snapshot's verbs   a group of one (group.rs)
//! ```
//!
//! **What a crash leaves.** Each arrow is one transaction group of the pool, so nothing is ever between two states. What was
//! written to a volume that is "filling" may be there in part, and nobody takes it for a volume.
//!
//! **What is never destroyed**: a snapshot whose name this node has not chosen and whose end nobody agreed to, one that is held, one that has clones, and a
//! volume without our mark ([000] L, I7). Each refusal names what stands in the way.
//!
//! Deliberately absent: growing a volume, and reservations (a volume takes what is written to it).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_types::volume::Format;
use holdfast_types::{AgreedSnapshot, Blocker};

use super::caught::Guarded;
use super::in_the_way::Going;
use super::zfs::{Dataset, NewZvol, STATE_PROPERTY, Zfs, ZfsError, Zvol};
use super::{NAME, in_the_way};
use crate::context::HandlerCx;
use crate::error::VolumeError;
use crate::handler::{
    Action, Capabilities, Ensured, FoundSnapshot, FoundVolume, GroupMember, Parameters, Preflight, Repaired,
    SnapshotMeta, Source, Space, VolumeFacts, VolumeGroup, VolumeHandler, VolumeSpec, sufficient,
};
use crate::name::SnapshotName;
use crate::qcow2::inspect;
use crate::tool::ImageTool;

/// EVE's. A volume's size is a multiple of it.
const BLOCK_SIZE_BYTES: u64 = 16 << 10;

/// What any step on metadata may have to allocate, with room to spare.
const METADATA_RESERVE_BYTES: u64 = 4 << 20;

/// The values of [`STATE_PROPERTY`].
const FILLING: &str = "filling";
const WHOLE: &str = "whole";

/// [`VolumeHandler`] for volumes of a pool.
#[derive(Debug, Clone)]
pub struct ZvolHandler {
    pub(super) zfs: Arc<dyn Zfs>,
    tool: Arc<dyn ImageTool>,
    root: Dataset,
}

impl ZvolHandler {
    /// Touches nothing that is not below `root`.
    pub fn new(zfs: Arc<dyn Zfs>, tool: Arc<dyn ImageTool>, root: Dataset) -> Self {
        ZvolHandler { zfs: Arc::new(Guarded::new(zfs)), tool, root }
    }

    /// The dataset of a device, if it may be one of our volumes.
    pub(super) fn dataset(&self, volume: &Path) -> Result<Dataset, VolumeError> {
        let unusable = |reason| VolumeError::Unusable { image: volume.to_path_buf(), reason };
        let dataset = Dataset::of_device(volume).map_err(|error| unusable(error.to_string()))?;
        let below = dataset.as_str().strip_prefix(self.root.as_str());
        match below.is_some_and(|rest| rest.starts_with('/')) {
            true => Ok(dataset),
            false => Err(unusable(format!("it is not below the dataset {}", self.root))),
        }
    }

    /// The volume, known to be ours and whole.
    pub(super) fn whole(&self, volume: &Path) -> Result<Zvol, VolumeError> {
        let dataset = self.dataset(volume)?;
        let found = self
            .zfs
            .volume(&dataset)
            .map_err(|error| VolumeError::from_zfs(volume, "looking at the volume", error))?;
        match found.state.as_deref() {
            Some(WHOLE) => Ok(found),
            Some(_) => Err(VolumeError::Corrupt {
                volume: volume.to_path_buf(),
                reason: "its first content was not written to its end".to_owned(),
            }),
            None => Err(not_ours(volume)),
        }
    }

    /// K6: the handler itself refuses what somebody uses.
    pub(super) fn refuse_used(&self, volume: &Path, dataset: &Dataset) -> Result<(), VolumeError> {
        let user = self
            .zfs
            .user_of(dataset)
            .map_err(|error| VolumeError::from_zfs(volume, "looking for users of the volume", error))?;
        match user {
            Some(user) => Err(VolumeError::InUse { volume: volume.to_path_buf(), user }),
            None => Ok(()),
        }
    }

    pub(super) fn need_room(&self, volume: &Path, needed_bytes: u64) -> Result<Space, VolumeError> {
        // Quotas may be set anywhere above it.
        let room = self
            .zfs
            .room(&self.dataset(volume)?)
            .map_err(|error| VolumeError::from_zfs(volume, "looking at the pool", error))?;
        sufficient(Space { needed_bytes, free_bytes: room.available_bytes }, volume)
    }

    pub(super) fn need_metadata_room(&self, volume: &Path) -> Result<Space, VolumeError> {
        self.need_room(volume, METADATA_RESERVE_BYTES)
    }

    /// The size to be made, and the space its first content needs.
    fn measured(&self, spec: &VolumeSpec) -> Result<(u64, u64), VolumeError> {
        match &spec.source {
            Source::Blank { size_bytes } => Ok(((*size_bytes).max(spec.max_size_bytes), 0)),
            Source::Image { path, format } => {
                let source = inspect(self.tool.as_ref(), path, *format)?;
                let (image_size_bytes, max_size_bytes) = (source.virtual_size_bytes, spec.max_size_bytes);
                if max_size_bytes != 0 && image_size_bytes > max_size_bytes {
                    let volume = spec.location.clone();
                    return Err(VolumeError::TooSmall { volume, image_size_bytes, max_size_bytes });
                }
                Ok((image_size_bytes.max(max_size_bytes), source.allocated_bytes))
            }
        }
    }

    fn build(&self, spec: &VolumeSpec, dataset: &Dataset, cx: &HandlerCx<'_>) -> Result<(), VolumeError> {
        let (size_bytes, content_bytes) = self.measured(spec)?;
        self.need_room(&spec.location, content_bytes + METADATA_RESERVE_BYTES)?;
        let new = NewZvol {
            size_bytes: size_bytes.next_multiple_of(BLOCK_SIZE_BYTES),
            block_size_bytes: BLOCK_SIZE_BYTES,
            properties: vec![
                ("compression".to_owned(), "zstd".to_owned()),
                // The partitions in it are the guest's: the host looks for none, and makes no devices of them.
                ("volmode".to_owned(), "dev".to_owned()),
                (STATE_PROPERTY.to_owned(), FILLING.to_owned()),
            ],
        };
        let failed = |error| VolumeError::from_zfs(&spec.location, "creation", error);
        self.zfs.create_volume(dataset, &new, cx).map_err(failed)?;
        if let Source::Image { path, format } = &spec.source {
            self.tool
                .write_device((path, *format), &spec.location, cx)
                .map_err(|error| VolumeError::from_tool(&spec.location, "creation", error))?;
        }
        self.zfs.flush(dataset).map_err(failed)?;
        self.zfs.set_property(dataset, STATE_PROPERTY, WHOLE).map_err(failed)
    }

    /// The remains of a creation go; the creation's own error is what counts.
    fn tidy_after(&self, dataset: &Dataset) {
        match self.zfs.destroy_volume(dataset, &HandlerCx::unattended()) {
            Ok(()) | Err(ZfsError::Missing { .. }) => {}
            Err(error) => {
                tracing::warn!(%dataset, %error, "an unfinished volume is left until it is made again")
            }
        }
    }
}

impl VolumeHandler for ZvolHandler {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            snapshot: true,
            revert_in_place: true,
            atomic_group: true,
            newer_snapshots_block: true,
        }
    }

    fn create(&self, spec: &VolumeSpec, cx: &HandlerCx<'_>) -> Result<Ensured<VolumeFacts>, VolumeError> {
        let dataset = self.dataset(&spec.location)?;
        let failed = |error| VolumeError::from_zfs(&spec.location, "creation", error);
        match self.zfs.volume(&dataset) {
            Ok(found) if found.state.as_deref() == Some(WHOLE) => {
                return confirmed(spec, &found).map(Ensured::Unchanged);
            }
            Ok(found) if found.state.is_some() => {
                self.refuse_used(&spec.location, &dataset)?;
                self.zfs.destroy_volume(&dataset, cx).map_err(failed)?;
            }
            Ok(_) => return Err(not_ours(&spec.location)),
            Err(ZfsError::Missing { .. }) => {}
            Err(error) => return Err(failed(error)),
        }
        if let Err(error) = self.build(spec, &dataset, cx) {
            self.tidy_after(&dataset);
            return Err(error);
        }
        tracing::info!(%dataset, "volume made");
        self.facts(&spec.location).map(Ensured::Changed)
    }

    fn destroy(&self, volume: &Path, cx: &HandlerCx<'_>) -> Result<Ensured<()>, VolumeError> {
        let dataset = self.dataset(volume)?;
        let failed = |error| VolumeError::from_zfs(volume, "destruction", error);
        match self.zfs.volume(&dataset) {
            Ok(found) if found.state.is_none() => return Err(not_ours(volume)),
            Ok(_) => {}
            Err(ZfsError::Missing { .. }) => return Ok(Ensured::Unchanged(())),
            Err(error) => return Err(failed(error)),
        }
        self.refuse_used(volume, &dataset)?;
        let snapshots = self.zfs.snapshots(&dataset).map_err(failed)?;
        in_the_way::refuse_kept(volume, &snapshots)?;
        in_the_way::refuse_foreign(volume, &snapshots)?;
        let ours = snapshots.iter().map(|found| self.snapshot_of(volume, &in_the_way::named(volume, found)?));
        let ours = ours.collect::<Result<Vec<_>, VolumeError>>()?;
        if !ours.is_empty() {
            self.zfs.destroy_snapshots(&ours, cx).map_err(failed)?;
        }
        self.zfs.destroy_volume(&dataset, cx).map_err(failed)?;
        tracing::info!(%dataset, snapshots = ours.len(), "volume destroyed");
        Ok(Ensured::Changed(()))
    }

    fn inventory(&self, directory: &Path) -> Result<Vec<FoundVolume>, VolumeError> {
        let parent = self.dataset(directory)?;
        let listed = self
            .zfs
            .volumes(&parent)
            .map_err(|error| VolumeError::from_zfs(directory, "listing volumes", error))?;
        let found = listed.into_iter().filter_map(|zvol| {
            let Some(state) = zvol.state else {
                tracing::warn!(dataset = %zvol.dataset, "a ZFS volume that this node has not made, left alone");
                return None;
            };
            Some(FoundVolume {
                location: zvol.dataset.device(),
                format: Format::Raw,
                unfinished: state != WHOLE,
                file_size_bytes: zvol.size_bytes,
            })
        });
        Ok(found.collect())
    }

    fn facts(&self, volume: &Path) -> Result<VolumeFacts, VolumeError> {
        self.whole(volume).map(|zvol| facts_of(&zvol))
    }

    fn preflight(&self, volume: &Path, preflight: &Preflight) -> Result<Space, VolumeError> {
        let dataset = self.whole(volume)?.dataset;
        if !preflight.guest_may_run {
            self.refuse_used(volume, &dataset)?;
        }
        match &preflight.action {
            Action::CreateSnapshot => drop(self.listed(volume, &dataset)?),
            Action::Rollback { to, leaving, agreed } => {
                let (snapshots, bookmarks) = self.found(volume, &dataset)?;
                in_the_way::of_rollback(volume, (&snapshots, &bookmarks), to, Going { leaving, agreed })?;
            }
            Action::DeleteSnapshot { name } => {
                let snapshots = self.listed(volume, &dataset)?;
                let one: Vec<_> = snapshots.into_iter().filter(|one| one.name == name.as_str()).collect();
                in_the_way::refuse_kept(volume, &one)?;
            }
            Action::Clone { .. } => return Err(no_clone(volume)),
        }
        sufficient(self.space(volume, &preflight.action)?, volume)
    }

    /// What is free is so for this volume: quotas are counted.
    fn space(&self, volume: &Path, action: &Action) -> Result<Space, VolumeError> {
        let needed_bytes = match action {
            Action::CreateSnapshot | Action::Rollback { .. } => METADATA_RESERVE_BYTES,
            // ZFS keeps room for that.
            Action::DeleteSnapshot { .. } => 0,
            Action::Clone { .. } => return Err(no_clone(volume)),
        };
        let room = self.zfs.room(&self.dataset(volume)?);
        let room = room.map_err(|error| VolumeError::from_zfs(volume, "looking at the pool", error))?;
        Ok(Space { needed_bytes, free_bytes: room.available_bytes })
    }

    fn blockers(
        &self,
        volume: &Path,
        to: &SnapshotName,
        leaving: &BTreeSet<SnapshotName>,
    ) -> Result<Vec<Blocker>, VolumeError> {
        let dataset = self.whole(volume)?.dataset;
        let (snapshots, bookmarks) = self.found(volume, &dataset)?;
        let going = Going { leaving, agreed: &BTreeSet::new() };
        in_the_way::blockers(volume, (&snapshots, &bookmarks), to, going)
    }

    fn create_snapshot(
        &self,
        volume: &Path,
        name: &SnapshotName,
        cx: &HandlerCx<'_>,
    ) -> Result<Ensured<SnapshotMeta>, VolumeError> {
        let made = self.create_snapshots(&[GroupMember::new(volume, name)], cx)?;
        let is_changed = made.is_changed();
        let meta = made.into_inner().into_iter().next();
        let meta = meta.ok_or_else(|| VolumeError::NotConfirmed {
            volume: volume.to_path_buf(),
            what: format!("snapshot {name} is not listed after it was cut"),
        })?;
        Ok(if is_changed { Ensured::Changed(meta) } else { Ensured::Unchanged(meta) })
    }

    fn rollback_to_snapshot(
        &self,
        volume: &Path,
        name: &SnapshotName,
        agreed: &BTreeSet<AgreedSnapshot>,
        cx: &HandlerCx<'_>,
    ) -> Result<Ensured<VolumeFacts>, VolumeError> {
        let member = GroupMember { agreed: agreed.clone(), ..GroupMember::new(volume, name) };
        self.revert(&[member], name.as_str(), cx)?;
        self.facts(volume).map(Ensured::Changed)
    }

    fn delete_snapshot(
        &self,
        volume: &Path,
        name: &SnapshotName,
        cx: &HandlerCx<'_>,
    ) -> Result<Ensured<()>, VolumeError> {
        self.delete_snapshots(&[GroupMember::new(volume, name)], cx)
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
        let dataset = self.dataset(volume)?;
        let found = self.listed(volume, &dataset)?.into_iter().map(|found| FoundSnapshot {
            name: found.name,
            id: found.guid.to_string(),
            created_at: found.created_at,
            size_bytes: Some(found.size_bytes),
            vm_state_size_bytes: 0,
        });
        Ok(found.collect())
    }

    fn group(&self) -> Option<&dyn VolumeGroup> {
        Some(self)
    }

    /// Nothing is ever half done, and nothing leaks.
    fn repair(&self, volume: &Path, _cx: &HandlerCx<'_>) -> Result<Ensured<Repaired>, VolumeError> {
        self.whole(volume).map(|_| Ensured::Unchanged(Repaired::default()))
    }
}

fn no_clone(volume: &Path) -> VolumeError {
    VolumeError::Unsupported {
        volume: volume.to_path_buf(),
        format: Format::Raw,
        what: "a clone of a snapshot",
    }
}

fn facts_of(zvol: &Zvol) -> VolumeFacts {
    VolumeFacts { virtual_size_bytes: zvol.size_bytes, allocated_bytes: zvol.used_bytes }
}

fn not_ours(volume: &Path) -> VolumeError {
    let reason = "it is a ZFS volume that this node has not made".to_owned();
    VolumeError::Different { volume: PathBuf::from(volume), reason }
}

/// The volume is there and whole; it must also be what is asked for.
fn confirmed(spec: &VolumeSpec, found: &Zvol) -> Result<VolumeFacts, VolumeError> {
    let wanted = match spec.source {
        Source::Blank { size_bytes } => size_bytes.max(spec.max_size_bytes),
        Source::Image { .. } => spec.max_size_bytes,
    };
    if wanted != 0 && wanted.next_multiple_of(BLOCK_SIZE_BYTES) != found.size_bytes {
        let reason = format!("it has {} bytes and not {wanted}", found.size_bytes);
        return Err(VolumeError::Different { volume: spec.location.clone(), reason });
    }
    Ok(facts_of(found))
}
