//! Whose snapshot is it? An id belongs to one application ([003] A8).
//!
//! ```text
//!   listed by one application                              ─▶ its own
//!   listed by several, one of which listed it before       ─▶ stays with that one, the others are refused
//!   listed by several, none of which listed it before      ─▶ all of them are refused
//!   the active snapshot of one, listed only by another one ─▶ the one is refused, the other keeps it
//! ```
//!
//! All conflicts seen at once are settled at once, so that the order of the list decides nothing. A refused application
//! goes back to its last good configuration, which may list an id that another one has just taken: so it is looked at
//! again until nothing changes. Each round refuses at least one more application, and no two last good
//! configurations claim one id, because they were in force together: it ends, and without a conflict.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_types::{AppId, AppInstanceConfig, SnapshotId};

use super::parse::{Judged, Objects};
use super::refusal::Reason;
use crate::wire::config as wire;

type Apps = Judged<wire::AppInstanceConfig>;

/// Refuses applications until every snapshot is one application's.
pub(super) fn settle(mut apps: Apps, previous: &Objects<wire::AppInstanceConfig>) -> Apps {
    let mut refused = apps.kept_keys.clone();
    loop {
        let conflicts = conflicts(&apps, &refused, previous);
        if conflicts.is_empty() {
            return apps;
        }
        refused.extend(conflicts.keys());
        let taken_back: Vec<_> = conflicts
            .into_iter()
            .filter_map(|(app, reason)| Some((apps.in_force.remove(&app)?, reason)))
            .collect();
        for (passed, reason) in taken_back {
            apps.refuse(&passed.wire, reason, previous);
        }
    }
}

/// The applications to refuse next; none that is refused already.
fn conflicts(
    apps: &Apps,
    refused: &BTreeSet<AppId>,
    previous: &Objects<wire::AppInstanceConfig>,
) -> BTreeMap<AppId, Reason> {
    let claims = claims(apps);
    let owned_before = |app: &AppId, snapshot: &SnapshotId| {
        previous.get(app).is_some_and(|before| lists(&before.config, snapshot))
    };
    let judge = |app: AppId, config: &AppInstanceConfig| {
        let listed = config.snapshot.snapshots.iter().map(|listed| listed.id);
        listed
            .filter_map(|snapshot| judge_claim(app, snapshot, others(&claims, app, snapshot), owned_before))
            .chain(judge_active(app, config, &claims))
            .next()
    };
    let fresh = apps.in_force.iter().filter(|(app, _)| !refused.contains(app));
    fresh.filter_map(|(app, passed)| Some((*app, judge(*app, &passed.config)?))).collect()
}

fn claims(apps: &Apps) -> BTreeMap<SnapshotId, BTreeSet<AppId>> {
    let mut claims: BTreeMap<SnapshotId, BTreeSet<AppId>> = BTreeMap::new();
    for (app, passed) in &apps.in_force {
        for listed in &passed.config.snapshot.snapshots {
            claims.entry(listed.id).or_default().insert(*app);
        }
    }
    claims
}

fn others(claims: &BTreeMap<SnapshotId, BTreeSet<AppId>>, app: AppId, snapshot: SnapshotId) -> Vec<AppId> {
    claims.get(&snapshot).into_iter().flatten().copied().filter(|other| *other != app).collect()
}

fn judge_claim(
    app: AppId,
    snapshot: SnapshotId,
    others: Vec<AppId>,
    owned_before: impl Fn(&AppId, &SnapshotId) -> bool,
) -> Option<Reason> {
    if others.is_empty() || owned_before(&app, &snapshot) {
        return None;
    }
    match others.iter().find(|other| owned_before(other, &snapshot)) {
        Some(owner) => Some(Reason::SnapshotOfAnotherApp { snapshot, owner: *owner }),
        None => Some(Reason::SnapshotClaimedTwice { snapshot, others }),
    }
}

fn judge_active(
    app: AppId,
    config: &AppInstanceConfig,
    claims: &BTreeMap<SnapshotId, BTreeSet<AppId>>,
) -> Option<Reason> {
    let snapshot = config.snapshot.active.filter(|active| !lists(config, active))?;
    let owner = others(claims, app, snapshot).first().copied()?;
    Some(Reason::SnapshotOfAnotherApp { snapshot, owner })
}

fn lists(config: &AppInstanceConfig, snapshot: &SnapshotId) -> bool {
    config.snapshot.snapshots.iter().any(|listed| listed.id == *snapshot)
}
