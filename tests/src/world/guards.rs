//! By which guard a rollback was decided (I8).
//!
//! Within a step, what zedmanager decides is seen at once, and the bus has the guard it was decided by. Where commits are made
//! beside the steps, zedmanager may hear of another guard before what it decided is seen: then it is not judged.

use std::sync::Arc;

use holdfast_types::{
    AppId, AppInstanceConfig, AppInstanceState, EffectiveGuard, LocalAppSettings, effective,
};

use super::World;

/// What the guard of one application comes from.
type Sources = (Arc<AppInstanceConfig>, Option<Arc<LocalAppSettings>>);

/// By what zedmanager decided all that it shows now; none where it may have known something else.
#[derive(Debug, Default)]
pub struct GuardsKnown(Option<Vec<Sources>>);

impl World {
    /// After a step of zedmanager's. `was_durable`: before it, all that it had decided was seen.
    pub(super) fn zedmanager_has_stepped(&mut self, has_events: bool, was_durable: bool) {
        let bus = &self.services.bus;
        // The row tells of a rollback long before it comes to the volumes.
        let is_rolling = |row: &&Arc<AppInstanceState>| {
            row.operation.as_ref().is_some_and(|operation| operation.rollback.is_some())
        };
        let rolling = self.rows_seen.iter().filter(is_rolling).map(|row| row.app);
        let now = rolling.filter_map(|app| Some((bus.get(&app)?, bus.get(&app)))).collect();
        let is_known = !has_events && (was_durable || self.guards.0.as_ref() == Some(&now));
        self.guards = GuardsKnown(is_known.then_some(now));
    }

    pub(super) fn guard_of(&self, app: AppId) -> Option<EffectiveGuard> {
        let (config, local) = self.guards.0.iter().flatten().find(|(config, _)| config.app() == app)?;
        Some(effective(&config.guard, local.as_deref()))
    }
}
