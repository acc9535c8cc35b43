//! What stands in the way of a rollback, of a deletion, of a destruction ([000] L3-L5, [003] K5). Pure.
//!
//! Newer is what storage made later, by its transaction group, whatever the clocks said. Until an operator can consent to
//! more, nothing newer is ever destroyed: it blocks, and is named by its kind.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use super::zfs::ZfsSnapshot;
use crate::error::VolumeError;
use crate::name::SnapshotName;

/// What a thing in the way is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BlockerKind {
    /// A newer snapshot with a name of this node's.
    Managed,
    /// A newer snapshot that somebody else made.
    Unmanaged,
    /// A dataset cloned from the target or from a newer snapshot.
    Clone,
    /// A hold on a newer snapshot.
    Hold,
}

/// One thing in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocker {
    pub kind: BlockerKind,
    /// The snapshot's name, the clone's dataset, or the hold's tag and its snapshot.
    pub name: String,
}

impl fmt::Display for BlockerKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            BlockerKind::Managed => "newer snapshots of this node",
            BlockerKind::Unmanaged => "newer snapshots not made by this node",
            BlockerKind::Clone => "clones",
            BlockerKind::Hold => "holds",
        })
    }
}

/// By kind, with count and names: `newer snapshots not made by this node: 1 (before-work); clones: 1 (p/c)`.
pub fn told(blockers: &[Blocker]) -> String {
    let kinds = [BlockerKind::Managed, BlockerKind::Unmanaged, BlockerKind::Clone, BlockerKind::Hold];
    let parts = kinds.iter().filter_map(|kind| {
        let names: Vec<&str> =
            blockers.iter().filter(|one| one.kind == *kind).map(|one| one.name.as_str()).collect();
        (!names.is_empty()).then(|| format!("{kind}: {} ({})", names.len(), names.join(", ")))
    });
    parts.collect::<Vec<_>>().join("; ")
}

/// Refuses a rollback that something newer, or a clone, stands in the way of. `leaving` will be gone by then, unless it
/// cannot be destroyed.
pub(super) fn of_rollback(
    volume: &Path,
    snapshots: &[ZfsSnapshot],
    to: &SnapshotName,
    leaving: &BTreeSet<SnapshotName>,
) -> Result<(), VolumeError> {
    let Some(target) = snapshots.iter().find(|one| one.name == to.as_str()) else {
        return Err(VolumeError::NoSuchSnapshot { volume: volume.to_path_buf(), name: to.to_string() });
    };
    let is_leaving = |one: &ZfsSnapshot| {
        one.holds.is_empty() && one.clones.is_empty() && leaving.iter().any(|name| name.as_str() == one.name)
    };
    let is_newer = |one: &&ZfsSnapshot| {
        (one.created_in, one.guid) > (target.created_in, target.guid) && !is_leaving(one)
    };
    let mut blockers: Vec<Blocker> =
        target.clones.iter().map(|clone| Blocker { kind: BlockerKind::Clone, name: clone.clone() }).collect();
    for one in snapshots.iter().filter(|one| one.name != target.name).filter(is_newer) {
        let kind = if is_ours(one) { BlockerKind::Managed } else { BlockerKind::Unmanaged };
        blockers.push(Blocker { kind, name: one.name.clone() });
        blockers
            .extend(one.clones.iter().map(|clone| Blocker { kind: BlockerKind::Clone, name: clone.clone() }));
        blockers.extend(
            one.holds
                .iter()
                .map(|tag| Blocker { kind: BlockerKind::Hold, name: format!("{tag} on {}", one.name) }),
        );
    }
    if blockers.is_empty() {
        return Ok(());
    }
    Err(VolumeError::Blocked { volume: volume.to_path_buf(), snapshot: to.to_string(), blockers })
}

/// Refuses the end of a snapshot that ZFS would not let go ([003] K5): each hold and each clone is named.
pub(super) fn refuse_kept(volume: &Path, snapshots: &[ZfsSnapshot]) -> Result<(), VolumeError> {
    match snapshots.iter().find(|one| !one.holds.is_empty() || !one.clones.is_empty()) {
        None => Ok(()),
        Some(kept) => Err(VolumeError::Kept {
            volume: volume.to_path_buf(),
            snapshot: kept.name.clone(),
            holds: kept.holds.clone(),
            clones: kept.clones.clone(),
        }),
    }
}

/// Refuses the end of a volume with snapshots that somebody else made (I7).
pub(super) fn refuse_foreign(volume: &Path, snapshots: &[ZfsSnapshot]) -> Result<(), VolumeError> {
    let foreign: Vec<String> =
        snapshots.iter().filter(|one| !is_ours(one)).map(|one| one.name.clone()).collect();
    match foreign.is_empty() {
        true => Ok(()),
        false => Err(VolumeError::ForeignSnapshots { volume: volume.to_path_buf(), names: foreign }),
    }
}

pub(super) fn named(volume: &Path, found: &ZfsSnapshot) -> Result<SnapshotName, VolumeError> {
    SnapshotName::parse(&found.name)
        .map_err(|source| VolumeError::Name { volume: volume.to_path_buf(), source })
}

fn is_ours(found: &ZfsSnapshot) -> bool {
    SnapshotName::parse(&found.name).is_ok_and(|name| name.is_ours())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, created_in: u64) -> ZfsSnapshot {
        ZfsSnapshot {
            name: name.to_owned(),
            guid: 1000 - created_in,
            created_in,
            created_at: Default::default(),
            size_bytes: 0,
            holds: Vec::new(),
            clones: Vec::new(),
        }
    }

    fn name(text: &str) -> SnapshotName {
        SnapshotName::parse(text).expect("a name")
    }

    fn refusal(snapshots: &[ZfsSnapshot], to: &str, leaving: &[&str]) -> Option<String> {
        let leaving = leaving.iter().map(|text| name(text)).collect();
        let refused = of_rollback(Path::new("/dev/zvol/p/v"), snapshots, &name(to), &leaving);
        refused.err().map(|error| error.to_string())
    }

    /// [000] L3: newer by transaction group; older ones and the target stand in nobody's way.
    #[test]
    fn only_what_is_newer_blocks_and_is_named_by_its_kind() {
        let mut snapshots =
            vec![found("holdfast-a", 1), found("holdfast-b", 2), found("daily", 3), found("holdfast-c", 4)];
        assert_eq!(refusal(&snapshots, "holdfast-c", &[]), None);
        let refused = refusal(&snapshots, "holdfast-b", &[]).expect("blocked");
        assert!(refused.contains("newer snapshots of this node: 1 (holdfast-c)"), "{refused}");
        assert!(refused.contains("newer snapshots not made by this node: 1 (daily)"), "{refused}");
        snapshots[2].holds.push("backup".into());
        snapshots[1].clones.push("p/clone".into());
        let refused = refusal(&snapshots, "holdfast-b", &[]).expect("blocked");
        assert!(
            refused.contains("clones: 1 (p/clone)") && refused.contains("holds: 1 (backup on daily)"),
            "{refused}"
        );
        assert!(refusal(&snapshots, "holdfast-z", &[]).expect("missing").contains("holdfast-z"));
    }

    #[test]
    fn what_is_leaving_blocks_only_if_it_cannot_leave() {
        let mut snapshots = vec![found("holdfast-a", 1), found("holdfast-b", 2)];
        assert_eq!(refusal(&snapshots, "holdfast-a", &["holdfast-b"]), None);
        snapshots[1].holds.push("backup".into());
        assert!(refusal(&snapshots, "holdfast-a", &["holdfast-b"]).is_some());
    }

    #[test]
    fn holds_clones_and_strangers_are_named_before_anything_goes() {
        let volume = Path::new("/dev/zvol/p/v");
        let mut snapshots = vec![found("holdfast-a", 1), found("daily", 2)];
        assert!(refuse_kept(volume, &snapshots).is_ok());
        let foreign = refuse_foreign(volume, &snapshots).expect_err("refused").to_string();
        assert!(foreign.contains("daily") && !foreign.contains("holdfast-a"), "{foreign}");
        snapshots[0].holds.push("backup".into());
        snapshots[0].clones.push("p/clone".into());
        let kept = refuse_kept(volume, &snapshots).expect_err("refused").to_string();
        assert!(kept.contains("backup") && kept.contains("p/clone") && kept.contains("holdfast-a"), "{kept}");
    }
}
