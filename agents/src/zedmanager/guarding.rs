//! What guards each application, from the controller's word and the local one ([000] L1, L6, L9), and what is told of it.
//!
//! ```text
//!   AppInstanceConfig.guard ──┐
//!   LocalAppSettings (row) ───┴─ effective ─▶ Facts.guard, AppInstanceStatus.guard ─▶ notices
//! ```
//!
//! Local settings are rows of their own: one that is damaged puts only its own application on its guard.

use holdfast_types::*;

use super::{App, Zedmanager};
use crate::runtime::{Ctx, NodeMode};

impl Zedmanager {
    /// The guard in effect. None: the application's configuration has not come yet, so nobody knows.
    pub(super) fn guard(
        &self,
        state: &AppInstanceState,
        received: Option<&AppInstanceConfig>,
    ) -> Option<EffectiveGuard> {
        let controller = match received {
            Some(received) => &received.guard,
            // The controller has dropped the application: what it said last is as good as anything.
            None if self.removed(received) => &state.applied.as_ref()?.guard,
            None => return None,
        };
        Some(effective(controller, self.local.get(&state.app)))
    }

    /// The rows come back; in the place of one that is damaged stands, durably, that it was lost: it must not turn into
    /// "nothing set" with the next start.
    pub(super) fn load_local_settings(&mut self, cx: &mut Ctx<Self>) {
        let damaged = cx.damaged_rows().iter().filter(|row| row.topic == LocalAppSettings::NAME);
        let lost: Vec<LocalAppSettings> = damaged
            .filter_map(|row| {
                let reason = format!("its local settings were damaged: {}", row.reason);
                Some(LocalAppSettings::lost(row.key.parse().ok()?, reason))
            })
            .collect();
        lost.into_iter().for_each(|settings| cx.publish(settings));
        let rows = cx.rows::<LocalAppSettings>().into_iter();
        self.local = rows.map(|row| (row.app, LocalAppSettings::clone(&row))).collect();
    }

    /// Takes a local change in, durably. One for an application that is not here, or on a node that may write nothing, is
    /// dropped: who asked finds that it has no effect.
    pub(super) fn set_locally(
        &mut self,
        id: AppId,
        number: u64,
        change: &LocalChange,
        cx: &mut Ctx<Self>,
    ) -> Vec<AppId> {
        let Some(app) = self.apps.get_mut(&id) else {
            tracing::warn!(app = %id, "a local setting for an unknown application");
            return Vec::new();
        };
        if matches!(cx.mode(), NodeMode::ReadOnly { .. }) {
            return Vec::new();
        }
        app.local_order = number;
        let controller = app.received.as_ref().map(|config| config.guard.clone()).unwrap_or_default();
        let mut settings = self.local.remove(&id).unwrap_or_else(|| LocalAppSettings::none(id));
        settings.apply(change, &controller);
        tracing::info!(app = %id, ?change, "set locally");
        if settings.is_empty() {
            cx.unpublish::<LocalAppSettings>(&id);
        } else {
            cx.publish(settings.clone());
            self.local.insert(id, settings);
        }
        vec![id]
    }

    pub(super) fn update_notices(&mut self, id: AppId, now: Timestamp) {
        let Some(app) = self.apps.get(&id) else { return };
        let fresh = self
            .guard(&app.state, app.received.as_deref())
            .map(|guard| notices(app, &guard, now))
            .unwrap_or_default();
        let Some(app) = self.apps.get_mut(&id) else { return };
        let known = std::mem::take(&mut app.notices);
        let keep_time = |notice: ErrorReport| {
            known.iter().find(|before| before.summary == notice.summary).cloned().unwrap_or(notice)
        };
        app.notices = fresh.into_iter().map(keep_time).collect();
    }
}

fn notices(app: &App, guard: &EffectiveGuard, now: Timestamp) -> Vec<ErrorReport> {
    let id = app.state.app;
    let notice = |severity, summary: String| {
        ErrorReport::new(summary, now).severity(severity).about(EntityKind::AppInstance, id)
    };
    let unreadable = match &guard.ha_state {
        Guard::Unreadable(text) => Some(notice(
            Severity::Warning,
            format!(
                "the High Availability state of app:{id} cannot be read (\"{text}\"): until it is started, stopped, \
                 disabled, ignored or empty, no rollback is done"
            ),
        )),
        _ => None,
    };
    let refused = app.received.iter().flat_map(|config| &config.guard.refused_tags).map(|tag| {
        let bad = BadTag { text: tag.clone() };
        notice(Severity::Error, format!("a tag of app:{id} is left out: {bad}"))
    });
    // [000] L6: it is not used up.
    let reminder = guard.has_tag(FORCE_ROLLBACK).then(|| {
        notice(
            Severity::Notice,
            format!(
                "app:{id} has the tag {FORCE_ROLLBACK}: its next rollback destroys newer snapshots that this node does \
                 not know. Take the tag away when it is not needed any more: holdfast app set {id} --untag \
                 {FORCE_ROLLBACK}"
            ),
        )
    });
    // [000] L9.
    let restore = app.state.last_rollback.as_ref().zip(app.state.controlled_by).and_then(|(done, before)| {
        (guard.ha_state == Guard::Managed(HaState::Ignored)).then(|| {
            notice(
                Severity::Notice,
                format!(
                    "app:{id} was rolled back (operation {}) and is still under manual control; its High Availability \
                     state was {before} before: set it back at the controller, or holdfast app set {id} --ha-state \
                     {}",
                    done.number,
                    if guard.ha_state_is_local { "controller".to_owned() } else { before.to_string() }
                ),
            )
        })
    });
    unreadable.into_iter().chain(refused).chain(reminder).chain(restore).collect()
}
