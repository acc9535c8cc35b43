//! What the jobs on volumes came to: rows go on, troubles are remembered and tried again.

use holdfast_types::{EntityKind, VolumeConfig, VolumeKey, VolumeOrigin, VolumeRecord, VolumeStage};
use holdfast_volumehandlers::VolumeFacts;
use holdfast_volumehandlers::placement::{self, handler_name};

use crate::runtime::Ctx;

use super::contents::ContentState;
use super::retry::{Failure, Trouble};
use super::volumes::{Doing, VolumeState, Work};
use super::{Again, Volumemgr, again_after, plan};

impl Volumemgr {
    pub(super) fn checked(
        &mut self,
        key: VolumeKey,
        result: Result<VolumeFacts, Failure>,
        cx: &mut Ctx<Self>,
    ) {
        let Some(state) = self.volumes.get_mut(&key) else { return };
        let doing = match state.work {
            Work::Doing(doing @ (Doing::Checking | Doing::Adopting)) => doing,
            _ => return,
        };
        match result {
            Ok(facts) => {
                state.has_succeeded(facts);
                match doing {
                    Doing::Adopting => self.adopted(key, facts, cx),
                    _ => remember_size(key, facts, cx),
                }
            }
            Err(failure) => {
                // The file may come back, or be put back: looked at again now and then, whatever was wrong.
                let failure = Failure { retry_condition: Some(looked_at_again(&failure)), ..failure };
                self.volume_failed(key, doing, &failure, cx);
            }
        }
    }

    fn adopted(&mut self, key: VolumeKey, facts: VolumeFacts, cx: &mut Ctx<Self>) {
        let (Some(stray), Some(config)) = (self.strays.remove(&key), self.config_for_adoption(&key)) else {
            return;
        };
        cx.publish(VolumeRecord {
            config,
            handler: handler_name(stray.file_location.as_ref(), stray.format).into(),
            format: stray.format,
            incarnation: placement::incarnation(stray.file_location.as_ref()),
            file_location: stray.file_location,
            stage: VolumeStage::Created,
            size_bytes: facts.virtual_size_bytes,
            sha256: String::new(),
        });
    }

    /// As configured; a volume that is only referred to is taken for a blank one of its size.
    fn config_for_adoption(&self, key: &VolumeKey) -> Option<VolumeConfig> {
        let listed = self.inputs.volumes.get(key).map(|config| VolumeConfig::clone(config));
        listed.or_else(|| {
            Some(VolumeConfig {
                key: *key,
                origin: VolumeOrigin::Blank,
                max_size_bytes: self.volumes.get(key)?.facts?.virtual_size_bytes,
                read_only: false,
                clear_text: false,
                display_name: String::new(),
            })
        })
    }

    pub(super) fn make_progressed(&mut self, key: VolumeKey, percent: u8) {
        if let Some(state) = self.volumes.get_mut(&key) {
            state.percent = percent;
        }
    }

    pub(super) fn made(&mut self, key: VolumeKey, result: Result<VolumeFacts, Failure>, cx: &mut Ctx<Self>) {
        let Some(state) = self.volumes.get_mut(&key) else { return };
        if state.work != Work::Doing(Doing::Creating) {
            return;
        }
        let Some(row) = cx.get::<VolumeRecord>(&key) else { return };
        match result {
            Ok(facts) => {
                state.has_succeeded(facts);
                state.remains = false;
                tracing::info!(volume = %key, size_bytes = facts.virtual_size_bytes, "volume made");
                let size_bytes = facts.virtual_size_bytes;
                cx.publish(VolumeRecord { stage: VolumeStage::Created, size_bytes, ..(*row).clone() });
            }
            Err(failure) => {
                // The image itself may be what is wrong: it is verified again before the next try.
                if let Some(tree) = plan::content_tree_of(&row.config)
                    && matches!(self.contents.get(&tree), Some(ContentState::Ready(_)))
                {
                    let replaced = self.is_other_content(&tree);
                    self.contents.insert(tree, ContentState::Leftover);
                    if replaced {
                        // It was configured anew meanwhile: what was wrong with the old content does not matter.
                        return self.volume_idle(key);
                    }
                }
                self.volume_failed(key, Doing::Creating, &failure, cx);
            }
        }
    }

    pub(super) fn destroyed(&mut self, key: VolumeKey, result: Result<(), Failure>, cx: &mut Ctx<Self>) {
        match result {
            Ok(()) => {
                tracing::info!(volume = %key, "volume gone");
                cx.unpublish::<VolumeRecord>(&key);
                self.volumes.remove(&key);
            }
            // Whatever was wrong: what is to go is tried until it is gone.
            Err(failure) => {
                let failure = Failure { retry_condition: Some(looked_at_again(&failure)), ..failure };
                self.volume_failed(key, Doing::Destroying, &failure, cx);
            }
        }
    }

    pub(super) fn volume_failed(
        &mut self,
        key: VolumeKey,
        doing: Doing,
        failure: &Failure,
        cx: &mut Ctx<Self>,
    ) {
        let error = failure.report(cx.now()).about(EntityKind::Volume, key.volume);
        tracing::warn!(volume = %key, error = error.summary, "volume in trouble");
        let state = self.volumes.entry(key).or_default();
        let trouble = Trouble::after(state.tries, failure, error);
        state.tries = trouble.tries;
        if !trouble.permanent {
            again_after(cx, Again::Volume(key), trouble.tries);
        }
        state.work = Work::Failed { doing, trouble };
    }

    fn volume_idle(&mut self, key: VolumeKey) {
        if let Some(state) = self.volumes.get_mut(&key) {
            state.work = Work::Idle;
        }
    }

    pub(super) fn volume_due(&mut self, key: VolumeKey) {
        if let Some(state) = self.volumes.get_mut(&key)
            && matches!(state.work, Work::Failed { .. })
        {
            state.work = Work::Idle;
        }
    }
}

impl VolumeState {
    pub(super) fn has_succeeded(&mut self, facts: VolumeFacts) {
        self.facts = Some(facts);
        self.work = Work::Idle;
        self.tries = 0;
    }
}

/// A rollback may have changed the size ([003] J3).
fn remember_size(key: VolumeKey, facts: VolumeFacts, cx: &mut Ctx<Volumemgr>) {
    if let Some(row) = cx.get::<VolumeRecord>(&key) {
        cx.publish(VolumeRecord { size_bytes: facts.virtual_size_bytes, ..(*row).clone() });
    }
}

fn looked_at_again(failure: &Failure) -> &'static str {
    failure.retry_condition.unwrap_or("looked at again with growing delay")
}
