//! One volume back to a snapshot, ordered on the node ([004] M): what is meant, and what it would do.
//!
//! ```text
//!   snapshot, volume? ─▶ guard ─▶ snapshot whole? ─▶ which volume? ─▶ guest halted? (M3) ─▶ pre-flight ─▶ plan
//!                           └──────────┴──────────────────┴───────────────┴── refused: says why, and what to do
//! ```
//!
//! Carried out as an operation like a rollback, with the same guard and the same judgement on blockers, of one volume and without
//! a configuration: nothing is a version back. Pure, like the rest of planning.

use std::collections::BTreeMap;

use holdfast_types::*;

use super::machine::{Facts, Guest, NewOperation, rollback_to};
use super::planning::{Draft, How, Planned, Wish, let_through};

/// What is wanted, as far as it can be told without storage, or why it cannot be.
pub(super) fn revert(
    state: &AppInstanceState,
    facts: &Facts<'_>,
    snapshot: SnapshotId,
    volume: Option<VolumeId>,
    parameters: &BTreeMap<String, String>,
    (received, applied): (&AppInstanceConfig, &AppInstanceConfig),
) -> Result<Wish, String> {
    let_through(state, facts)?;
    let whole = rollback_to(state, snapshot, state.rollback_counter, received, facts)?;
    let key = meant(facts, snapshot, volume)?;
    halted(state, facts, key, applied)?;
    let revert = VolumeRevert { volume: key.volume, parameters: parameters.clone() };
    Ok(Wish::Revert(Box::new(NewOperation {
        rollback: whole.rollback,
        volumes: vec![key],
        revert: Some(revert),
        ..NewOperation::new(OperationKind::RevertVolume)
    })))
}

/// [004] M1, M6: a volume that the snapshot holds something of, by the snapshot's own record.
fn meant(facts: &Facts<'_>, snapshot: SnapshotId, volume: Option<VolumeId>) -> Result<VolumeKey, String> {
    let saved = facts.saved.get(&snapshot).map(|config| config.volume_keys()).unwrap_or_default();
    let metas = facts.storage.get(&snapshot).into_iter().flat_map(|status| &status.meta);
    let held: Vec<VolumeKey> = metas
        .filter_map(|(id, meta)| match meta {
            // A read-only volume is recorded without a snapshot of it.
            VolumeSnapshotMeta::Recorded(meta) if meta.storage_name.is_empty() => None,
            VolumeSnapshotMeta::Recorded(meta) => {
                Some(VolumeKey { volume: *id, generation: meta.generation })
            }
            VolumeSnapshotMeta::Eve(_) => saved.iter().find(|key| key.volume == *id).copied(),
        })
        .collect();
    let told = || held.iter().map(|key| key.volume.to_string()).collect::<Vec<_>>().join(", ");
    match (volume, &held[..]) {
        (Some(wanted), _) => held.iter().find(|key| key.volume == wanted).copied().ok_or_else(|| match held
            .is_empty()
        {
            true => format!("snapshot {snapshot} holds nothing of volume {wanted}, nor of any other"),
            false => format!("snapshot {snapshot} holds nothing of volume {wanted}; it holds: {}", told()),
        }),
        (None, [only]) => Ok(*only),
        (None, []) => Err(format!("snapshot {snapshot} holds nothing of any volume")),
        (None, several) => Err(format!(
            "snapshot {snapshot} holds {} volumes: say which one is to be reverted, with --volume: {}",
            several.len(),
            told()
        )),
    }
}

/// [004] M3: no guest is stopped for this, because nobody said that it may be.
fn halted(
    state: &AppInstanceState,
    facts: &Facts<'_>,
    key: VolumeKey,
    applied: &AppInstanceConfig,
) -> Result<(), String> {
    let is_down = matches!(facts.guest, Guest::Down | Guest::ConfirmedDown);
    if is_down && !applied.activate {
        return Ok(());
    }
    let how = if applied.volume_keys().contains(&key) { "is attached to" } else { "belongs to" };
    Err(format!(
        "volume {key} {how} app:{} ({}), which is not halted: deactivate the application at the controller, wait until it is \
         HALTED, and order this again; nothing was changed",
        state.app, applied.display_name
    ))
}

impl Draft {
    pub(super) fn revert(
        mut self,
        state: &AppInstanceState,
        facts: &Facts<'_>,
        operation: NewOperation,
        applied: &AppInstanceConfig,
    ) -> Planned {
        if let Err(why) = self.judge_blockers(state, facts) {
            return self.refused(why);
        }
        self.step("check the volume again");
        self.delete_what_is_due(state);
        self.revert_volumes(&operation.volumes);
        let further: Vec<String> = operation.volumes.iter().map(VolumeKey::to_string).collect();
        self.agreed(state, applied.version(), &further, |local| {
            How::Begin(Box::new(NewOperation { local: Some(local), ..operation }))
        })
    }
}
