//! When a worker may say that it is done: everything ordered is carried out and reported.
//!
//! It asks the bus, since only the node knows when it is at rest. What it did is not believed: the supervisor looks at
//! the files itself.

use std::collections::BTreeSet;

use holdfast_agents::runtime::Services;
use holdfast_agents::wire::config::{AppInstanceConfig, EdgeDevConfig, InstanceOpsCmd};
use holdfast_agents::wire::info::ZInfoApp;
use holdfast_types::{AppInstanceState, SnapshotIntent, SnapshotState, VolumeRecord};

use crate::ensure;

const RUNNING: i32 = 7;

/// What the controller heard.
#[derive(Debug, Clone, Copy)]
pub enum Report<'a> {
    Newest(Option<&'a ZInfoApp>),
    /// It is away and hears nothing.
    Away,
}

/// `Err` says what is still to come.
pub fn settled(
    services: &Services,
    config: &EdgeDevConfig,
    report: Report<'_>,
    guest_runs: bool,
) -> Result<(), String> {
    let rows = services.bus.rows::<AppInstanceState>();
    let intents = services.bus.rows::<SnapshotIntent>();
    ensure!(intents.is_empty(), "an intent is open: {:?}", intents.first());
    let Some(wanted) = config.apps.first() else {
        ensure!(rows.is_empty(), "the deleted application has a row");
        ensure!(services.bus.rows::<VolumeRecord>().is_empty(), "the deleted application has volumes");
        ensure!(!guest_runs, "the guest of the deleted application runs");
        return Ok(());
    };
    let row = rows.first().ok_or("the application has no row")?;
    carried_out(row, wanted)?;
    snapshots(row, wanted, guest_runs)?;
    ensure!(guest_runs, "the guest is down");
    match report {
        Report::Newest(report) => reported(row, wanted, report.ok_or("nothing was reported")?),
        Report::Away => Ok(()),
    }
}

fn counter(command: Option<&InstanceOpsCmd>) -> u32 {
    command.map_or(0, |command| command.counter)
}

fn carried_out(row: &AppInstanceState, wanted: &AppInstanceConfig) -> Result<(), String> {
    ensure!(
        row.operation.is_none(),
        "an operation runs: {:?}",
        row.operation.as_ref().map(|operation| (operation.kind, operation.phase))
    );
    ensure!(
        row.waiting.is_none(),
        "an update waits: {:?}",
        row.waiting.as_ref().map(|waiting| &waiting.error.summary)
    );
    let applied = row.applied.as_ref().ok_or("nothing is applied")?;
    let version = wanted.uuidandversion.as_ref().map_or("", |id| id.version.as_str());
    let is_newest = applied.version() == version || row.superseded_version.as_deref() == Some(version);
    ensure!(is_newest, "version {} is in force and not {version}", applied.version());
    ensure!(applied.restart.counter == counter(wanted.restart.as_ref()), "a restart is due");
    let rollback = wanted.snapshot.as_ref().and_then(|section| section.rollback_cmd.as_ref());
    ensure!(row.rollback_counter == counter(rollback), "a rollback is due");
    Ok(())
}

fn snapshots(row: &AppInstanceState, wanted: &AppInstanceConfig, guest_runs: bool) -> Result<(), String> {
    let listed = listed(wanted);
    for id in &listed {
        let entry = row.snapshots.iter().find(|(known, _)| known.to_string() == *id);
        let state = entry.map(|(_, entry)| &entry.state);
        let is_well = matches!(state, Some(SnapshotState::Available(instance)) if instance.error.is_none());
        ensure!(is_well, "snapshot {id} is listed and {state:?}");
    }
    for (id, entry) in row.snapshots.iter().filter(|(id, _)| !listed.contains(&id.to_string())) {
        // [003] D1: the data go at the next moment the guest is down.
        let waits = matches!(&entry.state, SnapshotState::Deleting { asked: false, error: None, .. });
        ensure!(waits && guest_runs, "snapshot {id} is dropped and {:?}", entry.state);
    }
    Ok(())
}

fn reported(row: &AppInstanceState, wanted: &AppInstanceConfig, report: &ZInfoApp) -> Result<(), String> {
    let version = row.applied.as_ref().map_or("", |applied| applied.version());
    ensure!(report.state == RUNNING, "state {} is reported", report.state);
    ensure!(report.app_version == version, "version {} is reported and not {version}", report.app_version);
    ensure!(report.app_err.is_empty(), "an error is reported: {:?}", report.app_err);
    let reported: BTreeSet<String> = report.snapshots.iter().map(|snapshot| snapshot.id.clone()).collect();
    ensure!(reported == listed(wanted), "snapshots {reported:?} are reported");
    Ok(())
}

fn listed(wanted: &AppInstanceConfig) -> BTreeSet<String> {
    let section = wanted.snapshot.iter();
    section.flat_map(|section| &section.snapshots).map(|snapshot| snapshot.id.clone()).collect()
}
