//! What stands in the way of a rollback, and what an operator has agreed to lose for it ([000] L3-L7).
//!
//! ```text
//!   storage is looked at ─▶ Blocker … ─▶ judged (L4) ─▶ Consent: exactly the unmanaged snapshots that were seen
//!                                                          ▼ kept with the operation, told by its digest
//!   storage is changed: destroys what is in the Consent and nothing else; anything else that is newer stops it (L7)
//! ```
//!
//! A snapshot is agreed to by its name and by storage's own id of it: one that somebody destroyed and made anew under the same
//! name is another one. Pure; deliberately absent: who may agree, and when.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ids::VolumeId;

/// What a thing in the way is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BlockerKind {
    /// A newer snapshot with a name of this node's.
    Managed,
    /// A newer snapshot that somebody else made. The only kind that can be agreed to.
    Unmanaged,
    /// A dataset cloned from the target or from a newer snapshot.
    Clone,
    /// A hold on a newer snapshot.
    Hold,
    /// Something that blocks and that this node cannot take away, or of which it cannot be told whether it blocks. Never
    /// taken for "nothing" (L3).
    Unknown,
}

impl BlockerKind {
    /// In the order in which they are told.
    pub const ALL: [BlockerKind; 5] = [
        BlockerKind::Managed,
        BlockerKind::Unmanaged,
        BlockerKind::Clone,
        BlockerKind::Hold,
        BlockerKind::Unknown,
    ];
}

impl fmt::Display for BlockerKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            BlockerKind::Managed => "newer snapshots of this node",
            BlockerKind::Unmanaged => "newer snapshots not made by this node",
            BlockerKind::Clone => "clones",
            BlockerKind::Hold => "holds",
            BlockerKind::Unknown => "unknown",
        })
    }
}

/// One thing in the way.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Blocker {
    pub kind: BlockerKind,
    /// The snapshot's name, the clone's dataset, the hold's tag and its snapshot, or what is known of the unknown.
    pub name: String,
    /// Storage's own id of a snapshot; empty for what is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub id: String,
}

impl Blocker {
    /// A newer snapshot.
    pub fn snapshot(kind: BlockerKind, name: impl Into<String>, id: impl Into<String>) -> Self {
        Blocker { kind, name: name.into(), id: id.into() }
    }

    /// Anything else.
    pub fn other(kind: BlockerKind, name: impl Into<String>) -> Self {
        Blocker { kind, name: name.into(), id: String::new() }
    }
}

/// By kind, with count and every name (L5): `newer snapshots not made by this node: 1 (before-work); clones: 1 (p/c)`.
pub fn told(blockers: &[Blocker]) -> String {
    let parts = BlockerKind::ALL.iter().filter_map(|kind| {
        let names: Vec<&str> =
            blockers.iter().filter(|one| one.kind == *kind).map(|one| one.name.as_str()).collect();
        (!names.is_empty()).then(|| format!("{kind}: {} ({})", names.len(), names.join(", ")))
    });
    parts.collect::<Vec<_>>().join("; ")
}

/// A snapshot that may be destroyed: this one, and no other of the same name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AgreedSnapshot {
    pub name: String,
    /// Storage's own id of it.
    pub id: String,
}

/// Exactly what a rollback may destroy: what a look at storage found, and nothing that came later (L7).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Consent {
    pub volumes: BTreeMap<VolumeId, BTreeSet<AgreedSnapshot>>,
}

impl Consent {
    /// To all unmanaged snapshots among these, and to nothing else. A volume without any is left out.
    pub fn to_unmanaged<'a>(seen: impl IntoIterator<Item = (VolumeId, &'a [Blocker])>) -> Self {
        let mut consent = Consent::default();
        for (volume, blockers) in seen {
            let unmanaged = blockers.iter().filter(|one| one.kind == BlockerKind::Unmanaged);
            let agreed = unmanaged.map(|one| AgreedSnapshot { name: one.name.clone(), id: one.id.clone() });
            let agreed: BTreeSet<AgreedSnapshot> = agreed.collect();
            if !agreed.is_empty() {
                consent.volumes.entry(volume).or_default().extend(agreed);
            }
        }
        consent
    }

    /// What may be destroyed on that volume.
    pub fn on(&self, volume: VolumeId) -> BTreeSet<AgreedSnapshot> {
        self.volumes.get(&volume).cloned().unwrap_or_default()
    }

    pub fn is_empty(&self) -> bool {
        self.volumes.values().all(BTreeSet::is_empty)
    }

    /// 16 hexadecimal digits that are equal only for an equal consent: what an operator repeats to agree.
    pub fn digest(&self) -> String {
        let mut hasher = Sha256::new();
        for (volume, agreed) in self.volumes.iter().filter(|(_, agreed)| !agreed.is_empty()) {
            hasher.update(format!("volume {volume}\n"));
            for one in agreed {
                // The lengths keep a name with strange characters from looking like another entry.
                hasher.update(format!("{} {} {} {}\n", one.name.len(), one.name, one.id.len(), one.id));
            }
        }
        hasher.finalize().iter().take(8).fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn volume(number: u128) -> VolumeId {
        VolumeId(Uuid::from_u128(number))
    }

    fn foreign(name: &str, id: &str) -> Blocker {
        Blocker::snapshot(BlockerKind::Unmanaged, name, id)
    }

    #[test]
    fn blockers_are_told_by_kind_with_count_and_every_name() {
        let blockers = [
            foreign("daily", "1"),
            Blocker::other(BlockerKind::Unknown, "bookmark b"),
            Blocker::other(BlockerKind::Clone, "p/c"),
            foreign("weekly", "2"),
            Blocker::snapshot(BlockerKind::Managed, "holdfast-x", "3"),
            Blocker::other(BlockerKind::Hold, "backup on daily"),
        ];
        assert_eq!(
            told(&blockers),
            "newer snapshots of this node: 1 (holdfast-x); newer snapshots not made by this node: 2 (daily, weekly); \
             clones: 1 (p/c); holds: 1 (backup on daily); unknown: 1 (bookmark b)"
        );
        assert_eq!(told(&[]), "");
    }

    /// L6: a consent bypasses neither this node's snapshots nor clones, holds and what is unknown.
    #[test]
    fn only_what_nobody_here_made_is_ever_agreed_to() {
        let mixed = [
            foreign("daily", "1"),
            Blocker::snapshot(BlockerKind::Managed, "holdfast-x", "3"),
            Blocker::other(BlockerKind::Clone, "p/c"),
            Blocker::other(BlockerKind::Hold, "backup on daily"),
            Blocker::other(BlockerKind::Unknown, "bookmark b"),
        ];
        let consent = Consent::to_unmanaged([(volume(1), &mixed[..]), (volume(2), &mixed[1..])]);
        let only = AgreedSnapshot { name: "daily".into(), id: "1".into() };
        assert_eq!(consent.volumes, [(volume(1), [only].into())].into());
        assert!(consent.on(volume(2)).is_empty() && !consent.is_empty());
        assert!(Consent::to_unmanaged([(volume(2), &mixed[1..])]).is_empty());
    }

    #[test]
    fn a_digest_tells_any_difference() {
        let of = |seen: &[(u128, &[Blocker])]| {
            Consent::to_unmanaged(seen.iter().map(|(number, blockers)| (volume(*number), *blockers))).digest()
        };
        let (one, two) = (foreign("a", "1"), foreign("b", "2"));
        let all = [
            of(&[]),
            of(&[(1, std::slice::from_ref(&one))]),
            of(&[(2, std::slice::from_ref(&one))]),
            of(&[(1, &[one.clone(), two.clone()])]),
            of(&[(1, std::slice::from_ref(&one)), (2, std::slice::from_ref(&two))]),
            of(&[(1, &[foreign("a", "2")])]),
            of(&[(1, &[foreign("a 1 1\n1 b", "2")])]),
        ];
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "{all:?}");
        assert!(all.iter().all(|text| text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit())));
        assert_eq!(
            of(&[(1, &[two.clone(), one.clone()])]),
            of(&[(1, &[one, two])]),
            "order is nobody's choice"
        );
    }

    #[test]
    fn a_consent_survives_its_record() {
        let consent = Consent::to_unmanaged([(volume(7), &[foreign("daily", "18446744073709551615")][..])]);
        let text = serde_json::to_string(&consent).expect("plain data");
        assert_eq!(serde_json::from_str::<Consent>(&text).expect("read"), consent);
        let blocker: Blocker = serde_json::from_str(r#"{"kind":"clone","name":"p/c"}"#).expect("read");
        assert_eq!(blocker, Blocker::other(BlockerKind::Clone, "p/c"));
    }
}
