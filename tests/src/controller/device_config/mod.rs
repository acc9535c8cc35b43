//! Editing a device's configuration in domain words.
//!
//! ```
//! use holdfast_agents::wire::config::SnapshotType;
//! use holdfast_tests::controller::DeviceConfig;
//! use uuid::Uuid;
//!
//! const DB: Uuid = Uuid::from_u128(0xdb);
//! const DISK: Uuid = Uuid::from_u128(0xd1);
//! const S1: Uuid = Uuid::from_u128(0x51);
//!
//! let mut config = DeviceConfig::new(Uuid::from_u128(0xd));
//! config.add_blank_volume(DISK, 64 << 20);
//! config.add_app(DB, "db").memory_kib(131_072).volume(DISK, 1);
//! config.app(DB).request_snapshot(S1, SnapshotType::AppUpdate);
//! config.app(DB).bump_version().restart();
//! config.app(DB).roll_back(S1);
//! ```
//!
//! Nothing is checked here beyond "is there such an object": ids are anything that prints, so that a test can send
//! `../x` as one. What the words cannot say is said on [`DeviceConfig::message_mut`]. An edit changes this value
//! only; it is the controller that makes it known.

mod app_edit;

use std::fmt::Display;

use holdfast_agents::wire::config::*;

pub use app_edit::AppEdit;

/// A size that a small guest boots with.
const DEFAULT_MEMORY_KIB: u32 = 128 * 1024;

/// A device's configuration, being edited.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DeviceConfig {
    message: EdgeDevConfig,
}

/// An edit of something that the configuration does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the configuration holds no {kind} {id}")]
pub struct UnknownObject {
    pub kind: &'static str,
    pub id: String,
}

impl DeviceConfig {
    /// A device with nothing on it.
    pub fn new(device: impl Display) -> Self {
        let id = UuiDandVersion { uuid: device.to_string(), version: "1".into() };
        DeviceConfig { message: EdgeDevConfig { id: Some(id), ..Default::default() } }
    }

    pub fn message(&self) -> &EdgeDevConfig {
        &self.message
    }

    /// For what the words of this file cannot say.
    pub fn message_mut(&mut self) -> &mut EdgeDevConfig {
        &mut self.message
    }

    pub fn into_message(self) -> EdgeDevConfig {
        self.message
    }

    // ---- applications ------------------------------------------------------------------------------------

    /// Adds an application, or starts an existing one afresh: version 1, activated, 128 MiB, one processor.
    pub fn add_app(&mut self, app: impl Display, name: &str) -> AppEdit<'_> {
        self.remove_app(&app);
        let resources = VmConfig {
            memory: DEFAULT_MEMORY_KIB,
            maxmem: DEFAULT_MEMORY_KIB,
            vcpus: 1,
            maxcpus: 1,
            virtualization_mode: VmMode::Hvm as i32,
            ..Default::default()
        };
        self.message.apps.push(AppInstanceConfig {
            uuidandversion: Some(UuiDandVersion { uuid: app.to_string(), version: "1".into() }),
            displayname: name.into(),
            fixedresources: Some(resources),
            activate: true,
            ..Default::default()
        });
        AppEdit { app: self.message.apps.last_mut().expect("just added") }
    }

    /// An application to be edited.
    ///
    /// # Panics
    /// When there is none of this id. See [`DeviceConfig::try_app`].
    pub fn app(&mut self, app: impl Display) -> AppEdit<'_> {
        self.try_app(app).unwrap_or_else(|error| panic!("{error}"))
    }

    pub fn try_app(&mut self, app: impl Display) -> Result<AppEdit<'_>, UnknownObject> {
        let id = app.to_string();
        match self.message.apps.iter_mut().find(|app| id_of(app) == id) {
            Some(app) => Ok(AppEdit { app }),
            None => Err(UnknownObject { kind: "application", id }),
        }
    }

    /// Drops an application; without it this changes nothing. Its volumes stay until they are removed too.
    pub fn remove_app(&mut self, app: impl Display) {
        let id = app.to_string();
        self.message.apps.retain(|app| id_of(app) != id);
    }

    // ---- volumes -----------------------------------------------------------------------------------------

    /// Adds an empty volume of generation 1.
    pub fn add_blank_volume(&mut self, volume: impl Display, size_bytes: u64) -> VolumeEdit<'_> {
        let origin = VolumeContentOrigin {
            r#type: VolumeContentOriginType::VcotBlank as i32,
            download_content_tree_id: String::new(),
        };
        self.add_volume(volume, origin, size_bytes)
    }

    /// Adds a volume of generation 1 with the content of a content tree. Size 0 means as large as the content.
    pub fn add_download_volume(
        &mut self,
        volume: impl Display,
        content_tree: impl Display,
        size_bytes: u64,
    ) -> VolumeEdit<'_> {
        self.add_volume(volume, downloaded_from(content_tree), size_bytes)
    }

    fn add_volume(
        &mut self,
        volume: impl Display,
        origin: VolumeContentOrigin,
        size_bytes: u64,
    ) -> VolumeEdit<'_> {
        self.remove_volume(&volume);
        self.message.volumes.push(Volume {
            uuid: volume.to_string(),
            origin: Some(origin),
            generation_count: 1,
            maxsizebytes: i64::try_from(size_bytes).unwrap_or(i64::MAX),
            ..Default::default()
        });
        VolumeEdit { volume: self.message.volumes.last_mut().expect("just added") }
    }

    /// A volume to be edited.
    ///
    /// # Panics
    /// When there is none of this id. See [`DeviceConfig::try_volume`].
    pub fn volume(&mut self, volume: impl Display) -> VolumeEdit<'_> {
        self.try_volume(volume).unwrap_or_else(|error| panic!("{error}"))
    }

    pub fn try_volume(&mut self, volume: impl Display) -> Result<VolumeEdit<'_>, UnknownObject> {
        let id = volume.to_string();
        match self.message.volumes.iter_mut().find(|volume| volume.uuid == id) {
            Some(volume) => Ok(VolumeEdit { volume }),
            None => Err(UnknownObject { kind: "volume", id }),
        }
    }

    /// Drops a volume from the list; applications that refer to it still do.
    pub fn remove_volume(&mut self, volume: impl Display) {
        let id = volume.to_string();
        self.message.volumes.retain(|volume| volume.uuid != id);
    }

    /// Wants the volume afresh from its origin: one generation on, in the list and wherever it is referred to. The
    /// applications concerned are purged ([003] F1). Returns the new generation.
    pub fn regenerate_volume(&mut self, volume: impl Display) -> Result<i64, UnknownObject> {
        let id = volume.to_string();
        let edited = self.try_volume(&id)?.volume;
        edited.generation_count += 1;
        let generation = edited.generation_count;
        for app in &mut self.message.apps {
            let mut concerned = false;
            for reference in app.volume_ref_list.iter_mut().filter(|reference| reference.uuid == id) {
                reference.generation_count = generation;
                concerned = true;
            }
            if concerned {
                AppEdit { app }.purge();
            }
        }
        Ok(generation)
    }

    /// Wants other content in the volume: a new origin and a new generation. Returns the new generation.
    pub fn replace_volume(
        &mut self,
        volume: impl Display,
        content_tree: impl Display,
    ) -> Result<i64, UnknownObject> {
        self.try_volume(&volume)?.volume.origin = Some(downloaded_from(content_tree));
        self.regenerate_volume(volume)
    }

    // ---- content -----------------------------------------------------------------------------------------

    /// Adds a content tree: `url` is the name below the datastore's path.
    pub fn add_content_tree(
        &mut self,
        content: impl Display,
        datastore: impl Display,
        url: &str,
        format: Format,
    ) -> ContentEdit<'_> {
        self.remove_content_tree(&content);
        self.message.content_info.push(ContentTree {
            uuid: content.to_string(),
            url: url.into(),
            iformat: format as i32,
            display_name: url.into(),
            ds_ids_list: vec![datastore.to_string()],
            ..Default::default()
        });
        ContentEdit { content: self.message.content_info.last_mut().expect("just added") }
    }

    pub fn remove_content_tree(&mut self, content: impl Display) {
        let id = content.to_string();
        self.message.content_info.retain(|content| content.uuid != id);
    }

    /// Adds an HTTP datastore: `address` is `http://host:port`, `path` what comes before each content's name.
    pub fn add_datastore(&mut self, datastore: impl Display, address: &str, path: &str) {
        self.remove_datastore(&datastore);
        self.message.datastores.push(DatastoreConfig {
            id: datastore.to_string(),
            d_type: DsType::DsHttp as i32,
            fqdn: address.into(),
            dpath: path.into(),
            ..Default::default()
        });
    }

    pub fn remove_datastore(&mut self, datastore: impl Display) {
        let id = datastore.to_string();
        self.message.datastores.retain(|datastore| datastore.id != id);
    }
}

impl From<EdgeDevConfig> for DeviceConfig {
    fn from(message: EdgeDevConfig) -> Self {
        DeviceConfig { message }
    }
}

impl From<DeviceConfig> for EdgeDevConfig {
    fn from(config: DeviceConfig) -> Self {
        config.message
    }
}

/// One volume, being edited.
#[derive(Debug)]
pub struct VolumeEdit<'a> {
    volume: &'a mut Volume,
}

impl VolumeEdit<'_> {
    pub fn name(self, name: &str) -> Self {
        self.volume.display_name = name.into();
        self
    }

    /// The generation in the list only; see [`DeviceConfig::regenerate_volume`].
    pub fn generation(self, generation: i64) -> Self {
        self.volume.generation_count = generation;
        self
    }

    pub fn size_bytes(self, size_bytes: u64) -> Self {
        self.volume.maxsizebytes = i64::try_from(size_bytes).unwrap_or(i64::MAX);
        self
    }

    pub fn read_only(self) -> Self {
        self.volume.readonly = true;
        self
    }

    /// Kept outside the encrypted part of the persist directory.
    pub fn clear_text(self) -> Self {
        self.volume.clear_text = true;
        self
    }
}

/// One content tree, being edited.
#[derive(Debug)]
pub struct ContentEdit<'a> {
    content: &'a mut ContentTree,
}

impl ContentEdit<'_> {
    /// In hexadecimal.
    pub fn sha256(self, digest: &str) -> Self {
        self.content.sha256 = digest.into();
        self
    }

    pub fn max_size_bytes(self, max_size_bytes: u64) -> Self {
        self.content.max_size_bytes = max_size_bytes;
        self
    }

    pub fn name(self, name: &str) -> Self {
        self.content.display_name = name.into();
        self
    }

    /// One more datastore, tried after those before it.
    pub fn datastore(self, datastore: impl Display) -> Self {
        self.content.ds_ids_list.push(datastore.to_string());
        self
    }
}

fn id_of(app: &AppInstanceConfig) -> &str {
    app.uuidandversion.as_ref().map_or("", |id| &id.uuid)
}

fn downloaded_from(content_tree: impl Display) -> VolumeContentOrigin {
    VolumeContentOrigin {
        r#type: VolumeContentOriginType::VcotDownload as i32,
        download_content_tree_id: content_tree.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::json;
    use serde_json::json;

    #[test]
    fn a_deployment_reads_like_one() {
        let mut config = DeviceConfig::new("dev");
        config.add_datastore("store", "http://h:1", "files");
        config.add_content_tree("img", "store", "v1.qcow2", Format::Qcow2).sha256("ab").max_size_bytes(9);
        config.add_download_volume("root", "img", 0);
        config.add_blank_volume("data", 7).clear_text();
        config
            .add_app("db", "database")
            .kernel("/k")
            .cmdline("quiet")
            .memory_kib(4096)
            .vcpus(2)
            .volume("root", 1)
            .volume("data", 1);

        assert_eq!(
            json::to_value(config.message()),
            json!({
                "id": { "uuid": "dev", "version": "1" },
                "datastores": [{ "id": "store", "dType": "DsHttp", "fqdn": "http://h:1", "dpath": "files" }],
                "contentInfo": [{
                    "uuid": "img", "URL": "v1.qcow2", "iformat": "QCOW2", "sha256": "ab",
                    "maxSizeBytes": "9", "displayName": "v1.qcow2", "dsIdsList": ["store"]
                }],
                "volumes": [
                    { "uuid": "root", "generationCount": "1",
                      "origin": { "type": "VCOT_DOWNLOAD", "downloadContentTreeID": "img" } },
                    { "uuid": "data", "generationCount": "1", "maxsizebytes": "7", "clearText": true,
                      "origin": { "type": "VCOT_BLANK" } }
                ],
                "apps": [{
                    "uuidandversion": { "uuid": "db", "version": "1" },
                    "displayname": "database",
                    "activate": true,
                    "fixedresources": {
                        "kernel": "/k", "extraargs": "quiet", "memory": 4096, "maxmem": 4096,
                        "vcpus": 2, "maxcpus": 2, "virtualizationMode": "HVM"
                    },
                    "volumeRefList": [
                        { "uuid": "root", "generationCount": "1" },
                        { "uuid": "data", "generationCount": "1" }
                    ]
                }]
            })
        );
    }

    #[test]
    fn a_rollback_names_its_snapshot_and_raises_the_counter_each_time() {
        let mut config = DeviceConfig::new("dev");
        config.add_app("db", "db").request_snapshot("s1", SnapshotType::AppUpdate);
        config.app("db").roll_back("s1").roll_back("s1");
        assert_eq!(config.app("db").rollback_counter(), 2);
        let section = config.app("db").message_mut().snapshot.clone().unwrap();
        assert_eq!((section.active_snapshot.as_str(), section.max_snapshots), ("s1", 1));

        config.app("db").drop_snapshot("s1");
        assert!(config.app("db").message_mut().snapshot.as_ref().unwrap().snapshots.is_empty());
    }

    #[test]
    fn a_replaced_volume_moves_on_everywhere_and_purges_its_application() {
        let mut config = DeviceConfig::new("dev");
        config.add_download_volume("root", "v1", 0);
        config.add_app("db", "db").volume("root", 1);
        config.add_app("web", "web");
        assert_eq!(config.replace_volume("root", "v2"), Ok(2));

        let message = config.message();
        assert_eq!(message.volumes[0].generation_count, 2);
        assert_eq!(message.apps[0].volume_ref_list[0].generation_count, 2);
        assert_eq!(message.apps[0].purge.as_ref().unwrap().counter, 1);
        assert_eq!(message.apps[1].purge, None);
    }

    #[test]
    fn versions_count_on() {
        let mut config = DeviceConfig::new("dev");
        config.add_app("db", "db").bump_version().bump_version();
        assert_eq!(config.message().apps[0].uuidandversion.as_ref().unwrap().version, "3");
        config.app("db").version("1.0").bump_version();
        assert_eq!(config.message().apps[0].uuidandversion.as_ref().unwrap().version, "1.0.1");
    }

    #[test]
    fn editing_what_is_not_there_says_what_is_missing() {
        let mut config = DeviceConfig::new("dev");
        let error = config.try_app("db").unwrap_err();
        assert_eq!(error.to_string(), "the configuration holds no application db");
        let error = config.regenerate_volume("root").unwrap_err();
        assert_eq!(error.to_string(), "the configuration holds no volume root");
    }
}
