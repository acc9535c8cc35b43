//! The edits a scenario can make, each the YAML form of a word of [`DeviceConfig`].
//!
//! ```yaml
//! - add_datastore: { datastore: store }           # the controller's own /files, unless `address` says else
//! - add_content_tree: { content: v1, datastore: store, url: v1.qcow2, format: qcow2, sha256: ... }
//! - add_volume: { volume: root, content: v1 }      # without `content` it is blank and wants `size_bytes`
//! - add_app: { app: db, name: database, memory_kib: 131072, volumes: [root] }
//! - change_app: { app: db, vcpus: 2 }              # what is not said stays; `volumes` is the whole list
//! - request_snapshot: { app: db, snapshot: s1, type: app_update }
//! - replace_volume: { volume: root, content: v2 }  # a new generation, and a purge of whoever has it
//! - bump_version: db
//! - roll_back: { app: db, snapshot: s1 }
//! ```
//!
//! Nothing here is refused but an edit of what is not there: a scenario may well send nonsense on purpose.

use holdfast_agents::wire::config::{Format, SnapshotType};
use serde::Deserialize;

use super::{Names, words};
use crate::controller::{AppEdit, DeviceConfig, UnknownObject};

/// One change of the device's configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Edit {
    AddDatastore {
        datastore: String,
        /// `http://host:port`; the controller's own when absent.
        address: Option<String>,
        #[serde(default = "own_files")]
        path: String,
    },
    AddContentTree {
        content: String,
        datastore: String,
        url: String,
        #[serde(deserialize_with = "words::format")]
        format: Format,
        #[serde(default)]
        sha256: String,
        #[serde(default)]
        max_size_bytes: u64,
    },
    AddVolume {
        volume: String,
        content: Option<String>,
        #[serde(default)]
        size_bytes: u64,
        #[serde(default)]
        read_only: bool,
        #[serde(default)]
        clear_text: bool,
    },
    AddApp(AppWords),
    ChangeApp(AppWords),
    RemoveApp(String),
    RemoveVolume(String),
    RemoveContentTree(String),
    RemoveDatastore(String),
    RegenerateVolume(String),
    ReplaceVolume {
        volume: String,
        content: String,
    },
    RequestSnapshot {
        app: String,
        snapshot: String,
        #[serde(rename = "type", deserialize_with = "words::snapshot_type")]
        kind: SnapshotType,
    },
    DropSnapshot {
        app: String,
        snapshot: String,
    },
    RollBack {
        app: String,
        snapshot: String,
    },
    BumpVersion(String),
    Restart(String),
    Purge(String),
}

/// What is said of an application. What is not said stays as it is.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppWords {
    app: String,
    name: Option<String>,
    #[serde(default, deserialize_with = "words::optional_text")]
    version: Option<String>,
    activate: Option<bool>,
    kernel: Option<String>,
    ramdisk: Option<String>,
    cmdline: Option<String>,
    memory_kib: Option<u32>,
    vcpus: Option<u32>,
    max_snapshots: Option<u32>,
    ha_state: Option<String>,
    tags: Option<Vec<String>>,
    /// In the guest's order, each with the generation the configuration lists for it.
    volumes: Option<Vec<String>>,
}

fn own_files() -> String {
    "files".into()
}

impl Edit {
    /// Makes the change. `controller` is the address that a datastore without one gets.
    pub fn apply(
        &self,
        config: &mut DeviceConfig,
        names: &Names,
        controller: &str,
    ) -> Result<(), UnknownObject> {
        match self {
            Edit::AddDatastore { datastore, address, path } => {
                config.add_datastore(names.id(datastore), address.as_deref().unwrap_or(controller), path);
            }
            Edit::AddContentTree { content, datastore, url, format, sha256, max_size_bytes } => {
                config
                    .add_content_tree(names.id(content), names.id(datastore), url, *format)
                    .sha256(sha256)
                    .max_size_bytes(*max_size_bytes);
            }
            Edit::AddVolume { volume, content, size_bytes, read_only, clear_text } => {
                let id = names.id(volume);
                let added = match content {
                    Some(content) => config.add_download_volume(id, names.id(content), *size_bytes),
                    None => config.add_blank_volume(id, *size_bytes),
                };
                let added = added.name(volume);
                let added = if *read_only { added.read_only() } else { added };
                if *clear_text {
                    added.clear_text();
                }
            }
            Edit::AddApp(said) => {
                config.add_app(names.id(&said.app), said.name.as_deref().unwrap_or(&said.app));
                said.apply(config, names)?;
            }
            Edit::ChangeApp(said) => said.apply(config, names)?,
            Edit::RemoveApp(app) => config.remove_app(names.id(app)),
            Edit::RemoveVolume(volume) => config.remove_volume(names.id(volume)),
            Edit::RemoveContentTree(content) => config.remove_content_tree(names.id(content)),
            Edit::RemoveDatastore(datastore) => config.remove_datastore(names.id(datastore)),
            Edit::RegenerateVolume(volume) => drop(config.regenerate_volume(names.id(volume))?),
            Edit::ReplaceVolume { volume, content } => {
                config.replace_volume(names.id(volume), names.id(content))?;
            }
            Edit::RequestSnapshot { app, snapshot, kind } => {
                config.try_app(names.id(app))?.request_snapshot(names.id(snapshot), *kind);
            }
            Edit::DropSnapshot { app, snapshot } => {
                config.try_app(names.id(app))?.drop_snapshot(names.id(snapshot));
            }
            Edit::RollBack { app, snapshot } => {
                config.try_app(names.id(app))?.roll_back(names.id(snapshot));
            }
            Edit::BumpVersion(app) => drop(config.try_app(names.id(app))?.bump_version()),
            Edit::Restart(app) => drop(config.try_app(names.id(app))?.restart()),
            Edit::Purge(app) => drop(config.try_app(names.id(app))?.purge()),
        }
        Ok(())
    }

    /// The change in a few words, for the timeline.
    pub fn in_words(&self) -> String {
        match self {
            Edit::AddDatastore { datastore, .. } => format!("add datastore {datastore}"),
            Edit::AddContentTree { content, .. } => format!("add content {content}"),
            Edit::AddVolume { volume, .. } => format!("add volume {volume}"),
            Edit::AddApp(said) => format!("add app {}", said.app),
            Edit::ChangeApp(said) => format!("change app {}", said.app),
            Edit::RemoveApp(app) => format!("remove app {app}"),
            Edit::RemoveVolume(volume) => format!("remove volume {volume}"),
            Edit::RemoveContentTree(content) => format!("remove content {content}"),
            Edit::RemoveDatastore(datastore) => format!("remove datastore {datastore}"),
            Edit::RegenerateVolume(volume) => format!("regenerate volume {volume}"),
            Edit::ReplaceVolume { volume, content } => format!("replace volume {volume} by {content}"),
            Edit::RequestSnapshot { app, snapshot, .. } => format!("request snapshot {snapshot} of {app}"),
            Edit::DropSnapshot { app, snapshot } => format!("drop snapshot {snapshot} of {app}"),
            Edit::RollBack { app, snapshot } => format!("roll {app} back to {snapshot}"),
            Edit::BumpVersion(app) => format!("next version of {app}"),
            Edit::Restart(app) => format!("restart {app}"),
            Edit::Purge(app) => format!("purge {app}"),
        }
    }
}

impl AppWords {
    fn apply(&self, config: &mut DeviceConfig, names: &Names) -> Result<(), UnknownObject> {
        let id = names.id(&self.app);
        if let Some(volumes) = &self.volumes {
            attach_exactly(config, id, volumes, names)?;
        }
        let mut app = config.try_app(id)?;
        app = said(app, self.name.as_deref(), AppEdit::name);
        app = said(app, self.version.as_deref(), AppEdit::version);
        app = said(app, self.activate, AppEdit::activate);
        app = said(app, self.kernel.as_deref(), AppEdit::kernel);
        app = said(app, self.ramdisk.as_deref(), AppEdit::ramdisk);
        app = said(app, self.cmdline.as_deref(), AppEdit::cmdline);
        app = said(app, self.memory_kib, AppEdit::memory_kib);
        app = said(app, self.vcpus, AppEdit::vcpus);
        app = said(app, self.max_snapshots, AppEdit::max_snapshots);
        app = said(app, self.ha_state.as_deref(), AppEdit::ha_state);
        if let Some(tags) = &self.tags {
            app.message_mut().holdfast.get_or_insert_default().tags = tags.clone();
        }
        Ok(())
    }
}

/// Makes an edit if its word was said.
fn said<'a, T>(
    app: AppEdit<'a>,
    word: Option<T>,
    edit: impl FnOnce(AppEdit<'a>, T) -> AppEdit<'a>,
) -> AppEdit<'a> {
    match word {
        Some(word) => edit(app, word),
        None => app,
    }
}

fn attach_exactly(
    config: &mut DeviceConfig,
    app: &str,
    volumes: &[String],
    names: &Names,
) -> Result<(), UnknownObject> {
    let listed = config.message().volumes.clone();
    let mut edit = config.try_app(app)?;
    edit.message_mut().volume_ref_list.clear();
    for id in volumes.iter().map(|volume| names.id(volume)) {
        let generation =
            listed.iter().find(|listed| listed.uuid == id).map_or(1, |listed| listed.generation_count);
        edit = edit.volume(id, generation);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::json;
    use serde_json::json;

    fn edited(config: &mut DeviceConfig, yaml: &str) -> Result<(), UnknownObject> {
        let edits: serde_json::Value = serde_yaml_ng::from_str(yaml).unwrap();
        let edits: Vec<Edit> = serde_json::from_value(edits).unwrap();
        edits.iter().try_for_each(|edit| edit.apply(config, &Names::default(), "http://me"))
    }

    #[test]
    fn a_story_of_edits_makes_the_configuration_it_tells() {
        let mut config = DeviceConfig::new("dev");
        let story = "
- add_datastore: { datastore: store }
- add_content_tree: { content: v1, datastore: store, url: v1.qcow2, format: qcow2, sha256: ab }
- add_volume: { volume: root, content: v1 }
- add_app: { app: db, name: database, memory_kib: 1024, volumes: [root] }
- request_snapshot: { app: db, snapshot: s1, type: app_update }
- replace_volume: { volume: root, content: v2 }
- bump_version: db
- change_app: { app: db, vcpus: 2, volumes: [root, data], max_snapshots: 3 }
- roll_back: { app: db, snapshot: s1 }
";
        edited(&mut config, story).unwrap();
        assert_eq!(
            json::to_value(config.message()),
            json!({
                "id": { "uuid": "dev", "version": "1" },
                "datastores": [{ "id": "store", "dType": "DsHttp", "fqdn": "http://me", "dpath": "files" }],
                "contentInfo": [{
                    "uuid": "v1", "URL": "v1.qcow2", "iformat": "QCOW2", "sha256": "ab",
                    "displayName": "v1.qcow2", "dsIdsList": ["store"]
                }],
                "volumes": [{
                    "uuid": "root", "displayName": "root", "generationCount": "2",
                    "origin": { "type": "VCOT_DOWNLOAD", "downloadContentTreeID": "v2" }
                }],
                "apps": [{
                    "uuidandversion": { "uuid": "db", "version": "2" },
                    "displayname": "database",
                    "activate": true,
                    "fixedresources": {
                        "memory": 1024, "maxmem": 1024, "vcpus": 2, "maxcpus": 2, "virtualizationMode": "HVM"
                    },
                    "purge": { "counter": 1 },
                    "volumeRefList": [
                        { "uuid": "root", "generationCount": "2" },
                        { "uuid": "data", "generationCount": "1" }
                    ],
                    "snapshot": {
                        "activeSnapshot": "s1", "rollbackCmd": { "counter": 1 }, "maxSnapshots": 3,
                        "snapshots": [{ "id": "s1", "type": "SNAPSHOT_TYPE_APP_UPDATE" }]
                    }
                }]
            })
        );
    }

    #[test]
    fn an_edit_of_what_is_not_there_says_so() {
        let error = edited(&mut DeviceConfig::new("dev"), "- restart: db").unwrap_err();
        assert_eq!(error.to_string(), "the configuration holds no application db");
    }
}
