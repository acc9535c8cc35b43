//! Domains: the virtual machines domainmgr runs for zedmanager.

use serde::{Deserialize, Serialize};

use crate::app::VmConfig;
use crate::error::{ErrorReport, Timestamp};
use crate::ids::{AppId, VolumeKey};
use crate::topic::{Durability, Topic};
use crate::volume::Format;

/// One disk of a guest, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DiskConfig {
    #[serde(flatten)]
    pub volume: VolumeKey,
    pub file_location: String,
    pub format: Format,
    pub read_only: bool,
}

/// The domain zedmanager wants; the key is the application's id. Un-publishing it asks for the domain to be
/// stopped and forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DomainConfig {
    pub app: AppId,
    pub display_name: String,
    /// Grows whenever `activate` changes or the domain must be another one: a status answers exactly this number.
    pub number: u64,
    pub activate: bool,
    pub resources: VmConfig,
    pub disks: Vec<DiskConfig>,
}

impl Topic for DomainConfig {
    const NAME: &'static str = "DomainConfig";
    const DURABILITY: Durability = Durability::Volatile;
    type Key = AppId;

    fn key(&self) -> AppId {
        self.app
    }
}

/// What a domain is, told apart as architecture section 2 wants it. In every state but `Booting`, `Running`,
/// `Halting` and `Unknown` the QEMU process is known to be gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DomainState {
    NeverStarted,
    Booting,
    Running,
    /// Asked to shut down; its process still lives.
    Halting,
    /// Its process ended cleanly.
    Halted,
    /// Its process ended on its own, not cleanly.
    Crashed,
    /// It could not be started.
    Failed,
    /// Whether it runs cannot be found out at the moment.
    Unknown,
}

impl DomainState {
    /// True when no process can be touching the disks.
    pub fn is_down(self) -> bool {
        matches!(
            self,
            DomainState::NeverStarted | DomainState::Halted | DomainState::Crashed | DomainState::Failed
        )
    }
}

/// A domain as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DomainStatus {
    pub app: AppId,
    /// The config's number this status answers. `is_down` counts as confirmed only with the number of a config
    /// whose `activate` is false: otherwise a restart may be on its way.
    pub number: u64,
    pub state: DomainState,
    pub process_id: Option<u32>,
    pub boot_time: Option<Timestamp>,
    /// `kvm` or `tcg`.
    pub accelerator: String,
    pub console_log: String,
    /// Unplanned ends since the last ordered start.
    pub crash_count: u32,
    pub error: Option<ErrorReport>,
}

impl Topic for DomainStatus {
    const NAME: &'static str = "DomainStatus";
    const DURABILITY: Durability = Durability::Volatile;
    type Key = AppId;

    fn key(&self) -> AppId {
        self.app
    }
}
