//! The controller: what a node is told and what it answered.
//!
//! ```text
//!   ControllerCore   devices, their configuration and reports     pure: no I/O, no clock
//!   DeviceConfig     editing a configuration in domain words      pure
//!   json             the messages as JSON, both ways              pure
//!   server, store    HTTP, and the state on disk
//!   scenario, play   a scenario file, played against a controller
//! ```
//!
//! The core is the same code in the `controller-sim` program, in tests, and in the simulation: whoever drives it
//! says when things happen. It believes whatever a device reports; judging reports is the tests' business.

pub mod admin;
mod device_config;
mod faults;
mod files;
pub mod json;
pub mod play;
mod routes;
pub mod scenario;
pub mod server;
mod store;

use std::collections::{BTreeMap, VecDeque};
use std::fmt::{self, Write as _};

use holdfast_agents::wire::config::{ConfigRequest, ConfigResponse, EdgeDevConfig};
use holdfast_agents::wire::info::z_info_msg::InfoContent;
use holdfast_agents::wire::info::{ZInfoApp, ZInfoDevice, ZInfoMsg, ZInfoSnapshot, ZInfoVolume};
use prost::Message;
use sha2::{Digest, Sha256};
use uuid::Uuid;

pub use device_config::{AppEdit, ContentEdit, DeviceConfig, UnknownObject, VolumeEdit};
pub use faults::{Download, Faults};
pub use server::{Overdue, Server, ServerSettings, StartError};
pub use store::StoreError;

/// How many reports of one device are kept; the oldest go first. A report is under a KiB, and a soak run of a
/// night makes more of them than anyone reads.
pub const REPORTS_KEPT: usize = 20_000;

/// All devices of one controller.
#[derive(Debug, Clone, Default)]
pub struct ControllerCore {
    devices: BTreeMap<Uuid, Device>,
}

/// One device: what it is to be, and what it said.
#[derive(Debug, Clone, Default)]
pub struct Device {
    config: EdgeDevConfig,
    hash: String,
    reports: VecDeque<ZInfoMsg>,
    latest: BTreeMap<ObjectKey, ZInfoMsg>,
    reports_total: u64,
}

/// What a report is about. The ids are as the device said them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectKey {
    Device,
    App(String),
    /// A volume is known by id and generation ([003] F3).
    Volume(String, i64),
    ContentTree(String),
    /// A report without content.
    Nothing,
}

/// The answer to a device that asks for its configuration.
// One exists per question, for a moment.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, PartialEq)]
pub enum ConfigAnswer {
    /// The device has the newest.
    NotModified,
    Config(ConfigResponse),
    UnknownDevice,
}

/// A device that no configuration was ever set for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no device {0} is known here; give it a configuration first")]
pub struct UnknownDevice(pub Uuid);

impl ControllerCore {
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the device known, if it is new, and changes what it is to be. Its reports stay.
    pub fn set_config(&mut self, device: Uuid, config: EdgeDevConfig) {
        let known = self.devices.entry(device).or_default();
        known.hash = config_hash(&config);
        known.config = config;
    }

    /// The configuration as set last.
    pub fn config(&self, device: Uuid) -> Result<&EdgeDevConfig, UnknownDevice> {
        Ok(&self.device(device)?.config)
    }

    /// Answers a device's question.
    pub fn config_for(&self, device: Uuid, request: &ConfigRequest) -> ConfigAnswer {
        match self.devices.get(&device) {
            None => ConfigAnswer::UnknownDevice,
            Some(known) if known.hash == request.config_hash => ConfigAnswer::NotModified,
            Some(known) => ConfigAnswer::Config(ConfigResponse {
                config: Some(known.config.clone()),
                config_hash: known.hash.clone(),
            }),
        }
    }

    /// Takes a report, in the order of the calls.
    pub fn record_info(&mut self, device: Uuid, message: ZInfoMsg) -> Result<(), UnknownDevice> {
        let known = self.devices.get_mut(&device).ok_or(UnknownDevice(device))?;
        known.latest.insert(object_of(&message), message.clone());
        known.reports.push_back(message);
        known.reports_total += 1;
        if known.reports.len() > REPORTS_KEPT {
            known.reports.pop_front();
        }
        Ok(())
    }

    /// The reports that are kept, oldest first.
    pub fn info(&self, device: Uuid) -> Result<&VecDeque<ZInfoMsg>, UnknownDevice> {
        Ok(&self.device(device)?.reports)
    }

    /// The newest report of each object.
    pub fn latest(&self, device: Uuid) -> Result<&BTreeMap<ObjectKey, ZInfoMsg>, UnknownDevice> {
        Ok(&self.device(device)?.latest)
    }

    pub fn device(&self, device: Uuid) -> Result<&Device, UnknownDevice> {
        self.devices.get(&device).ok_or(UnknownDevice(device))
    }

    pub fn devices(&self) -> impl Iterator<Item = (Uuid, &Device)> {
        self.devices.iter().map(|(id, device)| (*id, device))
    }
}

impl Device {
    pub fn config(&self) -> &EdgeDevConfig {
        &self.config
    }

    /// The hash that the device is to name once it has this configuration.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Oldest first.
    pub fn reports(&self) -> &VecDeque<ZInfoMsg> {
        &self.reports
    }

    /// How many reports ever came, those no longer kept included.
    pub fn reports_total(&self) -> u64 {
        self.reports_total
    }

    pub fn latest(&self) -> &BTreeMap<ObjectKey, ZInfoMsg> {
        &self.latest
    }

    /// The newest report about one application.
    pub fn app(&self, app: impl fmt::Display) -> Option<&ZInfoApp> {
        match self.latest.get(&ObjectKey::App(app.to_string()))?.info_content.as_ref()? {
            InfoContent::Ainfo(report) => Some(report),
            _ => None,
        }
    }

    /// The newest report about one generation of a volume.
    pub fn volume(&self, volume: impl fmt::Display, generation: i64) -> Option<&ZInfoVolume> {
        match self.latest.get(&ObjectKey::Volume(volume.to_string(), generation))?.info_content.as_ref()? {
            InfoContent::Vinfo(report) => Some(report),
            _ => None,
        }
    }

    /// The newest report of the device about itself.
    pub fn own_report(&self) -> Option<&ZInfoDevice> {
        match self.latest.get(&ObjectKey::Device)?.info_content.as_ref()? {
            InfoContent::Dinfo(report) => Some(report),
            _ => None,
        }
    }

    /// One snapshot in the newest report about an application.
    pub fn snapshot(&self, app: impl fmt::Display, snapshot: impl fmt::Display) -> Option<&ZInfoSnapshot> {
        let wanted = snapshot.to_string();
        self.app(app)?.snapshots.iter().find(|found| found.id == wanted)
    }
}

/// What a report is about.
pub fn object_of(message: &ZInfoMsg) -> ObjectKey {
    match &message.info_content {
        Some(InfoContent::Dinfo(_)) => ObjectKey::Device,
        Some(InfoContent::Ainfo(app)) => ObjectKey::App(app.app_id.clone()),
        Some(InfoContent::Vinfo(volume)) => ObjectKey::Volume(volume.uuid.clone(), volume.generation_count),
        Some(InfoContent::Cinfo(content)) => ObjectKey::ContentTree(content.uuid.clone()),
        None => ObjectKey::Nothing,
    }
}

/// Equal configurations have equal hashes: protobuf as prost writes it is deterministic without maps.
pub fn config_hash(config: &EdgeDevConfig) -> String {
    Sha256::digest(config.encode_to_vec()).iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string does not fail");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_agents::wire::info::ZSwState;

    const DEVICE: Uuid = Uuid::from_u128(0xd);

    fn named(name: &str) -> EdgeDevConfig {
        EdgeDevConfig { device_name: name.into(), ..Default::default() }
    }

    fn holding(hash: &str) -> ConfigRequest {
        ConfigRequest { config_hash: hash.into(), ..Default::default() }
    }

    fn app_report(app: &str, state: ZSwState) -> ZInfoMsg {
        let report = ZInfoApp { app_id: app.into(), state: state as i32, ..Default::default() };
        ZInfoMsg { info_content: Some(InfoContent::Ainfo(report)), ..Default::default() }
    }

    #[test]
    fn a_device_is_told_only_what_it_does_not_have() {
        let mut core = ControllerCore::new();
        assert_eq!(core.config_for(DEVICE, &holding("")), ConfigAnswer::UnknownDevice);

        core.set_config(DEVICE, named("one"));
        let ConfigAnswer::Config(first) = core.config_for(DEVICE, &holding("")) else { panic!("not told") };
        assert_eq!(first.config, Some(named("one")));
        assert_eq!(core.config_for(DEVICE, &holding(&first.config_hash)), ConfigAnswer::NotModified);

        core.set_config(DEVICE, named("two"));
        let ConfigAnswer::Config(second) = core.config_for(DEVICE, &holding(&first.config_hash)) else {
            panic!("not told of the change")
        };
        assert_ne!(first.config_hash, second.config_hash);

        core.set_config(DEVICE, named("one"));
        assert_eq!(core.config_for(DEVICE, &holding(&first.config_hash)), ConfigAnswer::NotModified);
    }

    #[test]
    fn reports_keep_their_order_and_the_newest_of_each_object_is_at_hand() {
        let mut core = ControllerCore::new();
        let report = app_report("a", ZSwState::Booting);
        assert_eq!(core.record_info(DEVICE, report.clone()), Err(UnknownDevice(DEVICE)));

        core.set_config(DEVICE, named("one"));
        let later = app_report("a", ZSwState::Running);
        let other = app_report("b", ZSwState::Halted);
        for message in [&report, &other, &later] {
            core.record_info(DEVICE, message.clone()).unwrap();
        }

        assert_eq!(core.info(DEVICE).unwrap(), &VecDeque::from([report, other, later]));
        let device = core.device(DEVICE).unwrap();
        assert_eq!(device.latest().len(), 2);
        assert_eq!(device.app("a").unwrap().state(), ZSwState::Running);
        assert_eq!(device.app("b").unwrap().state(), ZSwState::Halted);
    }

    #[test]
    fn the_reports_kept_are_bounded_and_the_newest_survive() {
        let mut core = ControllerCore::new();
        core.set_config(DEVICE, named("one"));
        for number in 0..REPORTS_KEPT + 5 {
            core.record_info(DEVICE, app_report(&(number % 7).to_string(), ZSwState::Running)).unwrap();
        }
        let device = core.device(DEVICE).unwrap();
        assert_eq!(device.reports().len(), REPORTS_KEPT);
        assert_eq!(device.reports_total(), REPORTS_KEPT as u64 + 5);
        assert_eq!(device.latest().len(), 7);
    }
}
