//! What a changed configuration means, and what a rollback takes from where.
//!
//! Plain functions from values to values: nothing here knows the bus, the clock or the disk. Changes are always
//! judged against the configuration last *applied*, never last received ([003] A5).

use std::sync::Arc;

use holdfast_types::AppInstanceConfig;

/// What applying a configuration needs ([003] A3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Nothing differs.
    None,
    /// Only what can change under a running guest: name, version, activation, snapshot section, start delay, guard.
    InPlace,
    /// The guest must be restarted: resources, adapters, user data, or a restart or purge was ordered.
    Restart,
    /// Volumes are added, removed, replaced or regenerated.
    Purge,
}

/// How far `wanted` is from what is `applied`.
pub fn classify(applied: &AppInstanceConfig, wanted: &AppInstanceConfig) -> Change {
    if applied == wanted {
        return Change::None;
    }
    if applied.volumes != wanted.volumes {
        return Change::Purge;
    }
    let restart = applied.resources != wanted.resources
        || applied.adapters != wanted.adapters
        || applied.user_data != wanted.user_data
        || applied.cloud_init_version != wanted.cloud_init_version
        || applied.restart != wanted.restart
        || applied.purge != wanted.purge;
    if restart { Change::Restart } else { Change::InPlace }
}

/// The configuration a rollback restores ([003] C2). This is the table of sources, field by field: the
/// destructuring makes a new field a compile error here until its source was decided.
pub fn fix_up(snapshot: &AppInstanceConfig, current: &AppInstanceConfig) -> AppInstanceConfig {
    let AppInstanceConfig {
        id_and_version,
        display_name,
        resources,
        activate: _,
        volumes,
        adapters,
        restart: _,
        purge: _,
        user_data,
        cloud_init_version,
        start_delay_seconds,
        snapshot: _,
        guard: _,
    } = snapshot.clone();
    AppInstanceConfig {
        // From the snapshot.
        id_and_version,
        display_name,
        resources,
        volumes,
        adapters,
        user_data,
        cloud_init_version,
        start_delay_seconds,
        // From the current configuration: an old counter would order what was long done, an old list would
        // delete or ask for snapshots, and whether the guest shall run is decided today. So is what guards it.
        activate: current.activate,
        restart: current.restart,
        purge: current.purge,
        snapshot: current.snapshot.clone(),
        guard: current.guard.clone(),
    }
}

/// What the controller wants in effect. After a rollback its version from before is not obeyed as a whole,
/// because it would undo the rollback; only what a rollback takes from the current configuration is ([003] C5).
pub fn in_effect(
    received: &Arc<AppInstanceConfig>,
    applied: Option<&AppInstanceConfig>,
    superseded_version: Option<&str>,
) -> Arc<AppInstanceConfig> {
    match applied {
        Some(applied) if superseded_version == Some(received.version()) => {
            Arc::new(fix_up(applied, received))
        }
        _ => Arc::clone(received),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zedmanager::testing::*;
    use holdfast_types::{Guard, HaState, IoAdapter, OpsCommand};

    #[test]
    fn every_field_is_classified() {
        type Edit = fn(&mut AppInstanceConfig);
        let table: &[(&str, Edit, Change)] = &[
            ("nothing", |_| {}, Change::None),
            ("version", |c| c.id_and_version.version = "2".into(), Change::InPlace),
            ("name", |c| c.display_name = "other".into(), Change::InPlace),
            ("activation", |c| c.activate = false, Change::InPlace),
            ("maximum", |c| c.snapshot.max_snapshots = 7, Change::InPlace),
            ("guard", |c| c.guard.ha_state = Guard::Managed(HaState::Started), Change::InPlace),
            ("tags", |c| c.guard.tags = ["x".into()].into(), Change::InPlace),
            ("start delay", |c| c.start_delay_seconds = 7, Change::InPlace),
            ("memory", |c| c.resources.memory_kib = 7, Change::Restart),
            ("vcpus", |c| c.resources.vcpus = 7, Change::Restart),
            ("kernel", |c| c.resources.kernel = "/other".into(), Change::Restart),
            ("adapters", |c| c.adapters.push(IoAdapter { kind: 1, name: "eth0".into() }), Change::Restart),
            ("user data", |c| c.user_data = Some("#cloud-config".into()), Change::Restart),
            ("cloud-init version", |c| c.cloud_init_version = 7, Change::Restart),
            ("restart counter", |c| c.restart = OpsCommand { counter: 1 }, Change::Restart),
            ("purge counter", |c| c.purge = OpsCommand { counter: 1 }, Change::Restart),
            ("volume removed", |c| drop(c.volumes.pop()), Change::Purge),
            ("volume added", |c| c.volumes.push(volume_ref(9, 0)), Change::Purge),
            ("volume regenerated", |c| c.volumes[0].generation.0 += 1, Change::Purge),
            ("volumes reordered", |c| c.volumes.reverse(), Change::Purge),
        ];
        for (what, edit, expected) in table {
            let applied = config("1");
            let mut wanted = applied.clone();
            edit(&mut wanted);
            assert_eq!(classify(&applied, &wanted), *expected, "{what}");
        }
    }

    /// [003] C2, field by field.
    #[test]
    fn a_restored_configuration_takes_each_field_from_its_source() {
        let snapshot = config("1");
        let mut current = config("2");
        current.display_name = "renamed".into();
        current.resources.memory_kib = 1;
        current.activate = false;
        current.volumes.clear();
        current.adapters.push(IoAdapter { kind: 1, name: "eth0".into() });
        current.restart.counter = 4;
        current.purge.counter = 5;
        current.user_data = Some("new".into());
        current.cloud_init_version = 9;
        current.start_delay_seconds = 9;
        current.snapshot.max_snapshots = 9;
        current.snapshot.rollback.counter = 3;
        current.guard.ha_state = Guard::Managed(HaState::Ignored);

        let restored = fix_up(&snapshot, &current);

        let mut expected = snapshot.clone();
        expected.activate = false;
        expected.restart.counter = 4;
        expected.purge.counter = 5;
        expected.snapshot = current.snapshot.clone();
        expected.guard = current.guard.clone();
        assert_eq!(restored, expected);
    }

    #[test]
    fn a_superseded_version_is_obeyed_only_in_what_a_rollback_takes_from_it() {
        let applied = config("1");
        let mut received = config("2");
        received.volumes.clear();
        received.restart.counter = 1;
        let received = Arc::new(received);

        let held_back = in_effect(&received, Some(&applied), Some("2"));
        assert_eq!(held_back.volumes, applied.volumes);
        assert_eq!(held_back.restart.counter, 1);
        assert_eq!(in_effect(&received, Some(&applied), Some("1")), received, "a new version is obeyed");
        assert_eq!(in_effect(&received, Some(&applied), None), received);
    }
}
