//! Configurations for tests, in short words.

use chrono::DateTime;
use holdfast_types::{DeviceId, Timestamp};
use std::fmt::Debug;
use std::str::FromStr;

use crate::wire::config::*;

pub const DEVICE: &str = "dddddddd-0000-4000-8000-000000000001";
pub const APP_A: &str = "aaaaaaaa-0000-4000-8000-000000000001";
pub const APP_B: &str = "bbbbbbbb-0000-4000-8000-000000000001";
pub const S1: &str = "55555555-0000-4000-8000-000000000001";
pub const S2: &str = "55555555-0000-4000-8000-000000000002";
pub const V1: &str = "77777777-0000-4000-8000-000000000001";
pub const V2: &str = "77777777-0000-4000-8000-000000000002";
pub const TREE: &str = "cccccccc-0000-4000-8000-000000000001";
pub const STORE: &str = "eeeeeeee-0000-4000-8000-000000000001";

pub fn id<T: FromStr<Err: Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

pub fn device() -> DeviceId {
    id(DEVICE)
}

/// So many seconds into the tests' time.
pub fn at(seconds: i64) -> Timestamp {
    DateTime::from_timestamp(1_767_225_600 + seconds, 0).unwrap()
}

pub fn config(apps: impl IntoIterator<Item = AppInstanceConfig>) -> EdgeDevConfig {
    EdgeDevConfig {
        id: Some(UuiDandVersion { uuid: DEVICE.into(), version: "1".into() }),
        apps: apps.into_iter().collect(),
        ..Default::default()
    }
}

pub fn app(app: &str, version: &str) -> AppInstanceConfig {
    AppInstanceConfig {
        uuidandversion: Some(UuiDandVersion { uuid: app.into(), version: version.into() }),
        displayname: app[..1].into(),
        activate: true,
        ..Default::default()
    }
}

pub fn with_snapshots(mut app: AppInstanceConfig, ids: &[&str]) -> AppInstanceConfig {
    let listed = ids.iter().map(|id| SnapshotDesc { id: (*id).into(), r#type: 1 });
    app.snapshot.get_or_insert_default().snapshots.extend(listed);
    app
}

pub fn with_volume(mut app: AppInstanceConfig, volume: &str, generation_count: i64) -> AppInstanceConfig {
    app.volume_ref_list.push(VolumeRef { uuid: volume.into(), generation_count, ..Default::default() });
    app
}

pub fn blank_volume(uuid: &str, generation_count: i64) -> Volume {
    Volume {
        uuid: uuid.into(),
        generation_count,
        origin: Some(VolumeContentOrigin { r#type: 1, ..Default::default() }),
        maxsizebytes: 1 << 20,
        display_name: "data".into(),
        ..Default::default()
    }
}

pub fn content_tree(uuid: &str) -> ContentTree {
    ContentTree {
        uuid: uuid.into(),
        url: "image.qcow2".into(),
        iformat: Format::Qcow2 as i32,
        sha256: "AB".repeat(32),
        ds_ids_list: vec![STORE.into()],
        ..Default::default()
    }
}

pub fn datastore(id: &str) -> DatastoreConfig {
    DatastoreConfig { id: id.into(), d_type: 1, fqdn: "http://store.example".into(), ..Default::default() }
}
