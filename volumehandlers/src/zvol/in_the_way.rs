//! What stands in the way of a rollback, of a deletion, of a destruction ([000] L3-L5, [003] K5). Pure.
//!
//! Newer is what storage made later, by its transaction group, whatever the clocks said. It blocks, and is named by its kind,
//! unless an operator has agreed to its end: to that snapshot, by its name and guid.

use std::collections::BTreeSet;
use std::path::Path;

use holdfast_types::{AgreedSnapshot, Blocker, BlockerKind};

use super::zfs::{Bookmark, ZfsSnapshot};
use crate::error::VolumeError;
use crate::name::SnapshotName;

/// What may go before a rollback or with it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Going<'a> {
    /// Will be gone by then, unless it cannot be destroyed.
    pub leaving: &'a BTreeSet<SnapshotName>,
    /// May be destroyed by the rollback.
    pub agreed: &'a BTreeSet<AgreedSnapshot>,
}

/// Everything that a rollback would meet ([000] L3), oldest first; that which is going only where it cannot go.
pub(super) fn blockers(
    volume: &Path,
    (snapshots, bookmarks): (&[ZfsSnapshot], &[Bookmark]),
    to: &SnapshotName,
    going: Going<'_>,
) -> Result<Vec<Blocker>, VolumeError> {
    let target = target_of(volume, snapshots, to)?;
    let clones = |of: &ZfsSnapshot| {
        of.clones.iter().map(|clone| Blocker::other(BlockerKind::Clone, clone)).collect::<Vec<_>>()
    };
    let mut blockers = clones(target);
    for one in newer(snapshots, target) {
        if !is_kept(one) && (is_leaving(one, going.leaving) || is_agreed(one, going.agreed)) {
            continue;
        }
        let kind = if is_ours(one) { BlockerKind::Managed } else { BlockerKind::Unmanaged };
        blockers.push(Blocker::snapshot(kind, &one.name, one.guid.to_string()));
        blockers.extend(clones(one));
        let holds = one.holds.iter().map(|tag| format!("{tag} on {}", one.name));
        blockers.extend(holds.map(|hold| Blocker::other(BlockerKind::Hold, hold)));
    }
    // Nobody here makes or removes one, and ZFS rolls back past none.
    let newer_marks = bookmarks.iter().filter(|mark| mark.created_in > target.created_in);
    blockers.extend(
        newer_marks.map(|mark| Blocker::other(BlockerKind::Unknown, format!("bookmark {}", mark.name))),
    );
    Ok(blockers)
}

/// Refuses a rollback that something newer, or a clone, stands in the way of.
pub(super) fn of_rollback(
    volume: &Path,
    found: (&[ZfsSnapshot], &[Bookmark]),
    to: &SnapshotName,
    going: Going<'_>,
) -> Result<(), VolumeError> {
    let blockers = blockers(volume, found, to, going)?;
    match blockers.is_empty() {
        true => Ok(()),
        false => {
            Err(VolumeError::Blocked { volume: volume.to_path_buf(), snapshot: to.to_string(), blockers })
        }
    }
}

/// What a rollback has to destroy: of the agreed snapshots those that are there, and newer than the target.
pub(super) fn agreed_and_there<'a>(
    volume: &Path,
    snapshots: &'a [ZfsSnapshot],
    to: &SnapshotName,
    agreed: &BTreeSet<AgreedSnapshot>,
) -> Result<Vec<&'a ZfsSnapshot>, VolumeError> {
    let target = target_of(volume, snapshots, to)?;
    Ok(newer(snapshots, target).filter(|one| is_agreed(one, agreed)).collect())
}

fn target_of<'a>(
    volume: &Path,
    snapshots: &'a [ZfsSnapshot],
    to: &SnapshotName,
) -> Result<&'a ZfsSnapshot, VolumeError> {
    let target = snapshots.iter().find(|one| one.name == to.as_str());
    target.ok_or_else(|| VolumeError::NoSuchSnapshot { volume: volume.to_path_buf(), name: to.to_string() })
}

/// By transaction group; ZFS cuts one snapshot of a volume in each.
fn newer<'a>(
    snapshots: &'a [ZfsSnapshot],
    target: &ZfsSnapshot,
) -> impl Iterator<Item = &'a ZfsSnapshot> + use<'a> {
    let made_at = (target.created_in, target.guid);
    snapshots.iter().filter(move |one| (one.created_in, one.guid) > made_at)
}

fn is_kept(one: &ZfsSnapshot) -> bool {
    !one.holds.is_empty() || !one.clones.is_empty()
}

fn is_leaving(one: &ZfsSnapshot, leaving: &BTreeSet<SnapshotName>) -> bool {
    leaving.iter().any(|name| name.as_str() == one.name)
}

/// Never one of this node's, whatever was agreed to (L6).
fn is_agreed(one: &ZfsSnapshot, agreed: &BTreeSet<AgreedSnapshot>) -> bool {
    !is_ours(one) && agreed.contains(&AgreedSnapshot { name: one.name.clone(), id: one.guid.to_string() })
}

/// Refuses the end of a snapshot that ZFS would not let go ([003] K5): each hold and each clone is named.
pub(super) fn refuse_kept(volume: &Path, snapshots: &[ZfsSnapshot]) -> Result<(), VolumeError> {
    match snapshots.iter().find(|one| is_kept(one)) {
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
        let going = Going { leaving: &leaving, agreed: &BTreeSet::new() };
        let refused = of_rollback(Path::new("/dev/zvol/p/v"), (snapshots, &[]), &name(to), going);
        refused.err().map(|error| error.to_string())
    }

    fn agreed(snapshots: &[&ZfsSnapshot]) -> BTreeSet<AgreedSnapshot> {
        let one = |one: &&ZfsSnapshot| AgreedSnapshot { name: one.name.clone(), id: one.guid.to_string() };
        snapshots.iter().map(one).collect()
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

    /// L6, L7: exactly what was seen, and never what is kept, replaced, or this node's own.
    #[test]
    fn what_was_agreed_to_blocks_no_more_and_nothing_else_goes_with_it() {
        let volume = Path::new("/dev/zvol/p/v");
        let all = [found("holdfast-a", 1), found("daily", 2), found("holdfast-b", 3), found("weekly", 4)];
        let everything = agreed(&all.iter().collect::<Vec<_>>());
        let ask = |snapshots: &[ZfsSnapshot], to: &str| {
            let going = Going { leaving: &BTreeSet::new(), agreed: &everything };
            let kinds = |one: Blocker| (one.kind, one.name);
            let blockers = blockers(volume, (snapshots, &[]), &name(to), going).expect("looked");
            blockers.into_iter().map(kinds).collect::<Vec<_>>()
        };
        let ours = (BlockerKind::Managed, "holdfast-b".to_owned());
        assert_eq!(ask(&all, "holdfast-a"), [ours]);
        assert_eq!(ask(&all, "holdfast-b"), []);
        let going = agreed_and_there(volume, &all, &name("holdfast-b"), &everything).expect("looked");
        assert_eq!(going, [&all[3]], "daily is older, and stays");

        let mut other = all.clone();
        other[3].guid = 5;
        assert_eq!(ask(&other, "holdfast-b"), [(BlockerKind::Unmanaged, "weekly".to_owned())]);
        other[3].guid = all[3].guid;
        other[3].holds.push("backup".into());
        let hold = (BlockerKind::Hold, "backup on weekly".to_owned());
        assert_eq!(ask(&other, "holdfast-b"), [(BlockerKind::Unmanaged, "weekly".to_owned()), hold]);
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
