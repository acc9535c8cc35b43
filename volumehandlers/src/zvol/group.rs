//! The verbs for all volumes of an application at once: one transaction group each ([003] K2).
//!
//! ```text
//!   create     all there ─▶ unchanged.  some ─▶ those go ─▶ all are cut.  none ─▶ all are cut ─▶ listed
//!   rollback   all bear the token ─▶ unchanged.  nobody uses them, nothing newer but what is agreed to
//!              ─▶ that goes, and all are reverted, with the token
//!   delete     none held, none cloned ─▶ all that are there go ─▶ none is listed
//! ```
//!
//! A crash leaves all of a group before the verb or after it. So a rollback can be asked again: the token tells whether it
//! has happened, and whoever gets an error knows that nothing was reverted.

use std::collections::BTreeSet;
use std::path::Path;

use super::handler::ZvolHandler;
use super::in_the_way::{self, Going};
use super::zfs::{AgreedOf, Bookmark, Dataset, SnapshotOf, ZfsError, ZfsSnapshot};
use crate::context::HandlerCx;
use crate::error::VolumeError;
use crate::handler::{Ensured, GroupMember, SnapshotMeta, VolumeGroup};
use crate::name::{InvalidName, SnapshotName};

impl VolumeGroup for ZvolHandler {
    fn create_snapshots(
        &self,
        group: &[GroupMember],
        cx: &HandlerCx<'_>,
    ) -> Result<Ensured<Vec<SnapshotMeta>>, VolumeError> {
        let mut wanted = Vec::new();
        let mut found = Vec::new();
        for member in group {
            refuse_foreign_name(&member.volume, &member.name)?;
            let dataset = self.whole(&member.volume)?.dataset;
            self.refuse_used(&member.volume, &dataset)?;
            let one = self.snapshot_of(&member.volume, &member.name)?;
            if self.find(member, &dataset)?.is_some() {
                found.push(one.clone());
            }
            wanted.push(one);
        }
        if found.len() == wanted.len() {
            return self.metas(group).map(Ensured::Unchanged);
        }
        if let Some(first) = group.first() {
            self.need_metadata_room(&first.volume)?;
        }
        if !found.is_empty() {
            tracing::warn!(
                found = found.len(),
                wanted = wanted.len(),
                "a group is there in part: cutting afresh"
            );
            self.zfs
                .destroy_snapshots(&found, cx)
                .map_err(|error| of_group(group, "cutting snapshots", error))?;
        }
        self.zfs.snapshot(&wanted, cx).map_err(|error| of_group(group, "cutting snapshots", error))?;
        let metas = self.metas(group)?;
        for (one, meta) in wanted.iter().zip(&metas) {
            tracing::info!(dataset = %one.dataset, name = %one.name, at = %meta.created_at, "snapshot cut");
        }
        Ok(Ensured::Changed(metas))
    }

    fn rollback_to_snapshots(
        &self,
        group: &[GroupMember],
        token: &str,
        cx: &HandlerCx<'_>,
    ) -> Result<Ensured<()>, VolumeError> {
        if self.has_happened(group, token)? {
            return Ok(Ensured::Unchanged(()));
        }
        match self.revert(group, token, cx) {
            Ok(()) => Ok(Ensured::Changed(())),
            // An error may have come after the deed, or on the way back to us.
            Err(error) => match self.has_happened(group, token)? {
                true => Ok(Ensured::Changed(())),
                false => Err(error),
            },
        }
    }

    fn delete_snapshots(
        &self,
        group: &[GroupMember],
        cx: &HandlerCx<'_>,
    ) -> Result<Ensured<()>, VolumeError> {
        let mut there = Vec::new();
        for member in group {
            let dataset = self.dataset(&member.volume)?;
            let Some(found) = self.find(member, &dataset)? else { continue };
            in_the_way::refuse_kept(&member.volume, &[found])?;
            there.push(self.snapshot_of(&member.volume, &member.name)?);
        }
        if there.is_empty() {
            return Ok(Ensured::Unchanged(()));
        }
        self.zfs
            .destroy_snapshots(&there, cx)
            .map_err(|error| of_group(group, "deleting snapshots", error))?;
        for member in group {
            let dataset = self.dataset(&member.volume)?;
            if self.find(member, &dataset)?.is_some() {
                let what = format!("snapshot {} is still listed after it was deleted", member.name);
                return Err(VolumeError::NotConfirmed { volume: member.volume.clone(), what });
            }
        }
        for one in &there {
            tracing::info!(dataset = %one.dataset, name = %one.name, "snapshot deleted");
        }
        Ok(Ensured::Changed(()))
    }
}

impl ZvolHandler {
    /// Do all of them bear the token? If that cannot be told, nobody may take the rollback for one that has not happened.
    fn has_happened(&self, group: &[GroupMember], token: &str) -> Result<bool, VolumeError> {
        let mut all_bear_it = true;
        for member in group {
            let found = self.whole(&member.volume).map_err(|error| match error.is_transient() {
                true => VolumeError::Unknown {
                    volume: member.volume.clone(),
                    step: "the rollback",
                    source: Box::new(error),
                },
                false => error,
            })?;
            all_bear_it &= found.reverted.as_deref() == Some(token);
        }
        Ok(all_bear_it)
    }

    /// Reverts all of them, whatever happened before.
    pub(super) fn revert(
        &self,
        group: &[GroupMember],
        token: &str,
        cx: &HandlerCx<'_>,
    ) -> Result<(), VolumeError> {
        let (mut targets, mut agreed) = (Vec::new(), Vec::new());
        for member in group {
            let dataset = self.whole(&member.volume)?.dataset;
            self.refuse_used(&member.volume, &dataset)?;
            let snapshots = self.refuse_blocked(member, &dataset)?;
            let going =
                in_the_way::agreed_and_there(&member.volume, &snapshots, &member.name, &member.agreed)?;
            agreed.extend(going.into_iter().map(|one| AgreedOf {
                dataset: dataset.clone(),
                name: one.name.clone(),
                guid: one.guid,
            }));
            targets.push(self.snapshot_of(&member.volume, &member.name)?);
        }
        if let Err(error) = self.zfs.rollback(&targets, &agreed, token, cx) {
            // Something came in between the look and the deed, and stopped it: it is named like the rest.
            for (member, target) in group.iter().zip(&targets) {
                self.refuse_blocked(member, &target.dataset)?;
            }
            return Err(of_group(group, "rolling back", error));
        }
        for one in &agreed {
            tracing::warn!(dataset = %one.dataset, name = one.name, guid = one.guid, "destroyed for a rollback, as agreed");
        }
        for target in &targets {
            tracing::info!(dataset = %target.dataset, name = %target.name, token, "rolled back");
        }
        Ok(())
    }

    /// Returns the snapshots looked at.
    fn refuse_blocked(
        &self,
        member: &GroupMember,
        dataset: &Dataset,
    ) -> Result<Vec<ZfsSnapshot>, VolumeError> {
        let (snapshots, bookmarks) = self.found(&member.volume, dataset)?;
        let going = Going { leaving: &BTreeSet::new(), agreed: &member.agreed };
        in_the_way::of_rollback(&member.volume, (&snapshots, &bookmarks), &member.name, going)?;
        Ok(snapshots)
    }

    /// Everything on the volume that may stand in a rollback's way.
    pub(super) fn found(
        &self,
        volume: &Path,
        dataset: &Dataset,
    ) -> Result<(Vec<ZfsSnapshot>, Vec<Bookmark>), VolumeError> {
        let snapshots = self.listed(volume, dataset)?;
        let bookmarks = self.zfs.bookmarks(dataset);
        Ok((snapshots, bookmarks.map_err(|e| VolumeError::from_zfs(volume, "listing bookmarks", e))?))
    }

    pub(super) fn listed(&self, volume: &Path, dataset: &Dataset) -> Result<Vec<ZfsSnapshot>, VolumeError> {
        self.zfs.snapshots(dataset).map_err(|error| VolumeError::from_zfs(volume, "listing snapshots", error))
    }

    /// The member's snapshot; none where its volume is none.
    fn find(&self, member: &GroupMember, dataset: &Dataset) -> Result<Option<ZfsSnapshot>, VolumeError> {
        match self.listed(&member.volume, dataset) {
            Err(VolumeError::Missing { .. }) => Ok(None),
            listed => Ok(listed?.into_iter().find(|found| found.name == member.name.as_str())),
        }
    }

    fn metas(&self, group: &[GroupMember]) -> Result<Vec<SnapshotMeta>, VolumeError> {
        let metas = group.iter().map(|member| {
            let dataset = self.dataset(&member.volume)?;
            let found = self.find(member, &dataset)?.ok_or_else(|| VolumeError::NotConfirmed {
                volume: member.volume.clone(),
                what: format!("snapshot {} is not listed after it was cut", member.name),
            })?;
            Ok(SnapshotMeta {
                name: member.name.clone(),
                id: found.guid.to_string(),
                created_at: found.created_at,
                size_bytes: found.size_bytes,
            })
        });
        metas.collect()
    }

    /// The snapshot as ZFS names it, if it can.
    pub(super) fn snapshot_of(&self, volume: &Path, name: &SnapshotName) -> Result<SnapshotOf, VolumeError> {
        let dataset = self.dataset(volume)?;
        SnapshotOf::new(dataset, name.clone())
            .map_err(|source| VolumeError::Name { volume: volume.to_path_buf(), source })
    }
}

/// An error of the whole group, told of the volume that it names, or else of the first.
fn of_group(group: &[GroupMember], step: &'static str, error: ZfsError) -> VolumeError {
    let text = error.to_string();
    let is_named = |member: &&GroupMember| {
        Dataset::of_device(&member.volume).is_ok_and(|dataset| text.contains(dataset.as_str()))
    };
    let named = group.iter().find(is_named).or(group.first());
    let volume = named.map(|member| member.volume.clone()).unwrap_or_default();
    VolumeError::from_zfs(&volume, step, error)
}

fn refuse_foreign_name(volume: &Path, name: &SnapshotName) -> Result<(), VolumeError> {
    if name.is_ours() {
        return Ok(());
    }
    let source = InvalidName { text: name.to_string(), reason: "it does not begin with holdfast-" };
    Err(VolumeError::Name { volume: volume.to_path_buf(), source })
}
