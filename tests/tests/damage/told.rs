//! Who is told of a damaged file, and in which words: the object it belongs to, with the thing's name ([003] H3).

use std::path::Path;

use holdfast_tests::world::World;
use holdfast_tests::world::workload::APP;
use holdfast_types::VolumeStatus;
use serde_json::Value;
use uuid::Uuid;

use crate::fixture::owner_of;
use crate::oracle::{report, snapshot_of};

/// True if the file still says what it said: a blank for a line feed, a seal that is no longer one.
pub fn is_harmless(whole: &[u8], damaged: &[u8]) -> bool {
    let said = |bytes: &[u8]| -> Option<Value> {
        let mut value: Value = serde_json::from_str(&String::from_utf8_lossy(bytes)).ok()?;
        let fields = value.as_object_mut()?;
        fields.retain(|name, value| name != "Checksum" && !is_seal(value));
        Some(value)
    };
    match (said(whole), said(damaged)) {
        // The configurations of two snapshots of one version differ in the snapshot section, which is never restored
        // ([003] C2).
        (Some(whole), Some(damaged)) if whole["UUIDandVersion"].is_object() => {
            whole["UUIDandVersion"] == damaged["UUIDandVersion"]
                && whole["VolumeRefConfigList"] == damaged["VolumeRefConfigList"]
        }
        (whole, damaged) => whole.is_some() && whole == damaged,
    }
}

/// The last field, whatever its name has become.
fn is_seal(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.starts_with("crc32:"))
}

/// The report of the right object names the damage.
pub fn on_its_object(world: &World, path: &Path) -> Result<(), String> {
    let text = path.to_string_lossy();
    let owner = owner_of(path).unwrap_or(APP);
    if text.contains("/snapshots/") {
        let id = snapshot_of(path).ok_or("no snapshot's")?;
        return snapshot(world, owner, &id.to_string());
    }
    if text.contains("/AppInstanceState/") {
        return app(world, owner, "its row was damaged");
    }
    if text.contains("/VolumeRecord/") {
        return volume(world, path);
    }
    Ok(())
}

fn snapshot(world: &World, owner: Uuid, id: &str) -> Result<(), String> {
    let report = report(world, owner)?;
    let found = report.snapshots.iter().find(|snapshot| snapshot.id == id);
    let error = found.and_then(|snapshot| snapshot.snap_err.as_ref());
    let text = error.map(|error| error.description.as_str()).unwrap_or_default();
    match text.contains(id) && text.contains("damaged") {
        true => Ok(()),
        false => Err(format!("H3: snapshot {id} is reported as {found:?}")),
    }
}

fn app(world: &World, owner: Uuid, words: &str) -> Result<(), String> {
    let report = report(world, owner)?;
    match report.app_err.iter().any(|error| error.description.contains(words)) {
        true => Ok(()),
        false => Err(format!("H3: {owner} is reported with {:?}", report.app_err)),
    }
}

fn volume(world: &World, path: &Path) -> Result<(), String> {
    let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
    let key = name.replace("%23", "#");
    let statuses = world.rows::<VolumeStatus>();
    let status = statuses.iter().find(|status| status.key.to_string() == key);
    let error = status.and_then(|status| status.error.as_ref());
    match error.is_some_and(|error| error.summary.contains("its row was damaged")) {
        true => Ok(()),
        false => Err(format!("H3: volume {key} is reported as {status:?}")),
    }
}
