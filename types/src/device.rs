//! The device as a whole: where its configuration came from and what was wrong with it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{ErrorReport, Timestamp};
use crate::ids::DeviceId;
use crate::topic::{Durability, Topic};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConfigSource {
    /// No configuration was ever received.
    None,
    /// The saved one; the controller has not been heard since the start.
    Saved,
    Controller,
}

/// zedagent's account of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DeviceStatus {
    pub device: DeviceId,
    pub source: ConfigSource,
    pub config_hash: String,
    pub config_received_at: Option<Timestamp>,
    /// Why the controller cannot be reached or its last configuration was not taken; none when all is well.
    pub controller_error: Option<ErrorReport>,
    /// Objects refused at the border, by the id the controller used, with the reason ([003] A8).
    pub refused: BTreeMap<String, ErrorReport>,
    /// Reports not yet delivered.
    pub pending_reports: u32,
}

impl Topic for DeviceStatus {
    const NAME: &'static str = "DeviceStatus";
    const DURABILITY: Durability = Durability::Volatile;
    type Key = DeviceId;

    fn key(&self) -> DeviceId {
        self.device
    }
}
