//! Whether a rollback may go on past what stands in its way, and what it is told if not ([000] L4, L5, L6).
//!
//! ```text
//!   any blockers? ──no──▶ go
//!        │ yes
//!   any managed, clone, hold or unknown? ──yes──▶ blocked: each kind with its way out
//!        │ no: only unmanaged
//!   force_rollback set? ──no──▶ blocked: what would be destroyed, and how to agree to it
//!        │ yes
//!        └──▶ go, with consent to exactly these
//! ```
//!
//! The guard comes before all this ([`EffectiveGuard::refusal`](crate::EffectiveGuard::refusal)). Pure.

use std::collections::BTreeMap;

use crate::blocker::{Blocker, BlockerKind, Consent, told};
use crate::guard::FORCE_ROLLBACK;
use crate::ids::{AppId, SnapshotId, VolumeId};

/// What stands in the way on each volume; a volume without anything may be left out.
pub type Blockers = BTreeMap<VolumeId, Vec<Blocker>>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// Nothing but these, which were seen, may be destroyed.
    Go(Consent),
    /// The text of the refusal.
    Blocked(String),
}

/// [000] L4, over all volumes of the application at once.
pub fn judge_rollback(app: AppId, target: SnapshotId, seen: &Blockers, has_tag: bool) -> Judgement {
    let has = |kind| seen.values().flatten().any(|blocker: &Blocker| blocker.kind == kind);
    let is_unmanaged_only = !FIRM.into_iter().any(|(kind, _)| has(kind));
    if is_unmanaged_only && (has_tag || !has(BlockerKind::Unmanaged)) {
        return Judgement::Go(Consent::to_unmanaged(seen.iter().map(|(volume, all)| (*volume, &all[..]))));
    }
    let mut text =
        format!("Rollback blocked: app:{app} cannot be rolled back to snapshot {target}: {}.", listed(seen));
    for (kind, way_out) in FIRM {
        if has(kind) {
            text.push(' ');
            text.push_str(way_out);
        }
    }
    if is_unmanaged_only {
        text.push_str(&format!(
            " The rollback would destroy {}, for good. Back up what is needed first. To agree \
             to that, set the tag {FORCE_ROLLBACK} and order the rollback again. At the controller: tags \
             \"{FORCE_ROLLBACK}\". On the node: holdfast app set {app} --tag {FORCE_ROLLBACK}",
            the_unmanaged(seen)
        ));
    } else if has(BlockerKind::Unmanaged) {
        text.push_str(&format!(" With that out of the way it would still destroy {}.", the_unmanaged(seen)));
    }
    Judgement::Blocked(text)
}

/// What no tag bypasses, each with what there is to do.
const FIRM: [(BlockerKind, &str); 4] = [
    (
        BlockerKind::Managed,
        "Snapshots of this node are given up at the controller: take them off the application's list, with the same \
         order or before it.",
    ),
    (BlockerKind::Clone, "Clones need the snapshots they were made from: remove them first."),
    (BlockerKind::Hold, "Held snapshots are kept by whoever holds them: have the holds released first."),
    (
        BlockerKind::Unknown,
        "What is unknown may be what somebody needs: look at it on the storage and take it away first.",
    ),
];

/// `on volume <id>: <kinds, counts, names>`, volume by volume.
fn listed(seen: &Blockers) -> String {
    let blocked = seen.iter().filter(|(_, blockers)| !blockers.is_empty());
    let parts = blocked.map(|(volume, blockers)| format!("on volume {volume}: {}", told(blockers)));
    parts.collect::<Vec<_>>().join(", and ")
}

fn the_unmanaged(seen: &Blockers) -> String {
    let count = seen.values().flatten().filter(|one| one.kind == BlockerKind::Unmanaged).count();
    match count {
        1 => "1 snapshot that this node did not make".to_owned(),
        count => format!("{count} snapshots that this node did not make"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn judge(blockers: &[(BlockerKind, &str)], has_tag: bool) -> Judgement {
        let all = blockers.iter().map(|(kind, name)| Blocker::snapshot(*kind, *name, "1")).collect();
        let seen = [(VolumeId(Uuid::from_u128(7)), all)].into();
        judge_rollback(AppId(Uuid::from_u128(1)), SnapshotId(Uuid::from_u128(2)), &seen, has_tag)
    }

    fn refused(blockers: &[(BlockerKind, &str)], has_tag: bool) -> String {
        match judge(blockers, has_tag) {
            Judgement::Blocked(text) => text,
            Judgement::Go(consent) => panic!("went on with {consent:?}"),
        }
    }

    /// The seed's flow chart, edge by edge.
    #[test]
    fn only_strangers_snapshots_and_only_with_the_tag() {
        use BlockerKind::*;
        assert_eq!(judge(&[], false), Judgement::Go(Consent::default()));
        assert_eq!(judge(&[], true), Judgement::Go(Consent::default()));
        let text = refused(&[(Unmanaged, "daily"), (Unmanaged, "weekly")], false);
        assert!(text.contains("2 (daily, weekly)") && text.contains("--tag force_rollback"), "{text}");
        assert!(text.contains("would destroy 2 snapshots"), "{text}");
        let Judgement::Go(consent) = judge(&[(Unmanaged, "daily")], true) else { panic!("agreed to") };
        assert_eq!(consent.volumes.values().flatten().count(), 1);
        for kind in [Managed, Clone, Hold, Unknown] {
            for tag in [false, true] {
                let text = refused(&[(kind, "x"), (Unmanaged, "daily")], tag);
                assert!(!text.contains(FORCE_ROLLBACK), "the tag does not help: {text}");
                assert!(text.contains("1 (x)") && text.contains("1 (daily)"), "every one is named: {text}");
            }
        }
    }
}
