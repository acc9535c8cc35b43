//! The slow work, as data, and how it is done over the seams.
//!
//! ```text
//!   TakeInventory   Fetch  RemoveDownload   Check  Create  Destroy   Step            Preflight
//!   (once)          per content tree        per volume, one at a time                per question, reads only
//! ```
//!
//! Every job may run again after a crash, from its beginning; each is idempotent because what it calls is.
//! Time limits are the handlers' and the fetcher's, which know the size of the work.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use holdfast_persist::{Disk, PersistLayout};
use holdfast_types::{
    AgreedSnapshot, ContentTreeId, Format, OperationNumber, SnapshotId, SnapshotIntent,
    SnapshotPreflightConfig, VolumeId, VolumeKey, VolumeRecord,
};
use holdfast_volumehandlers::{Parameters, Registry, Source};

use crate::runtime::{Backend, Job, JobId};

use super::download::Content;
use super::fetcher::Fetcher;
use super::retry::Failure;
use super::steps::VolumeStep;

/// The seams.
#[derive(Debug, Clone)]
pub struct Env {
    pub disk: Arc<dyn Disk>,
    pub layout: PersistLayout,
    pub fetcher: Arc<dyn Fetcher>,
    pub registry: Registry,
}

/// What volumemgr has done off the event loop.
#[derive(Debug, Clone, PartialEq)]
pub enum VolumeJob {
    TakeInventory {
        records: Vec<VolumeRecord>,
        intents: Vec<SnapshotIntent>,
    },
    Fetch(Content),
    RemoveDownload(ContentTreeId),
    /// What a volume is now, or what is wrong with it.
    Check(Place),
    /// `afresh`: an earlier process may have left a volume of this name, which goes first.
    Create {
        place: Place,
        source: Source,
        max_size_bytes: u64,
        read_only: bool,
        afresh: bool,
    },
    Destroy(Place),
    Step(StepOrder),
    Preflight(PreflightOrder),
}

/// A volume, and where and as what it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub key: VolumeKey,
    pub location: PathBuf,
    pub format: Format,
}

impl Place {
    pub fn of(record: &VolumeRecord) -> Self {
        let location = PathBuf::from(&record.file_location);
        Place { key: record.config.key, location, format: record.format }
    }
}

/// One step of an intent on one volume, or on a group of volumes that their backend changes all at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepOrder {
    pub snapshot: SnapshotId,
    pub operation: OperationNumber,
    pub step: VolumeStep,
    /// Never empty; several only where the handler has group verbs.
    pub volumes: Vec<StepVolume>,
    /// A crash may have interrupted it: what leaked is repaired afterwards ([003] J4).
    pub redo: bool,
    /// An operator's wishes to the handler ([004] M5).
    pub parameters: Parameters,
}

/// A volume that takes part in a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepVolume {
    pub place: Place,
    pub storage_name: String,
    pub safety_name: Option<String>,
    /// For a rollback: the newer snapshots that may be destroyed, and no other.
    pub agreed: BTreeSet<AgreedSnapshot>,
    /// Where a clone of the volume is or goes; for a deletion, the incarnation that is not in force.
    pub other: Option<PathBuf>,
}

/// Why a step did not happen, and the volume that stood in the way, where it was one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepFailure {
    pub volume: Option<VolumeId>,
    pub failure: Failure,
    /// It may have happened all the same: it must be asked again until storage knows.
    pub is_uncertain: bool,
}

impl StepOrder {
    fn keys(&self) -> String {
        let keys: Vec<String> = self.volumes.iter().map(|volume| volume.place.key.to_string()).collect();
        keys.join("+")
    }
}

/// A pre-flight of the volumes that were not refused already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreflightOrder {
    pub question: Arc<SnapshotPreflightConfig>,
    /// With the storage name for a rollback; none for a volume that is only looked for.
    pub volumes: Vec<(Place, Asked)>,
    pub refusals: BTreeMap<VolumeId, String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    Create,
    Rollback {
        storage_name: String,
        /// Names of snapshots that are going before the rollback.
        leaving: Vec<String>,
        parameters: Parameters,
    },
    /// Only what it needs: nothing keeps a snapshot from being given up.
    Delete {
        storage_name: String,
    },
    /// A read-only volume has to be there, and nothing else ([003] B3).
    Present,
}

impl Job for VolumeJob {
    fn id(&self) -> JobId {
        match self {
            VolumeJob::TakeInventory { .. } => JobId::new("inventory"),
            VolumeJob::Fetch(content) => fetch_id(&content.content_tree),
            VolumeJob::RemoveDownload(tree) => JobId::new(format_args!("remove-download {tree}")),
            VolumeJob::Check(place) => JobId::new(format_args!("check {}", place.key)),
            VolumeJob::Create { place, .. } => create_id(&place.key),
            VolumeJob::Destroy(place) => JobId::new(format_args!("destroy {}", place.key)),
            VolumeJob::Step(order) => JobId::new(format_args!(
                "{} {} {} op{}",
                order.step.name(),
                order.keys(),
                order.snapshot,
                order.operation
            )),
            VolumeJob::Preflight(order) => JobId::new(format_args!(
                "preflight {} op{}",
                order.question.snapshot, order.question.operation
            )),
        }
    }

    fn object(&self) -> String {
        match self {
            VolumeJob::TakeInventory { .. } => "inventory".into(),
            VolumeJob::Fetch(Content { content_tree, .. }) | VolumeJob::RemoveDownload(content_tree) => {
                format!("content {content_tree}")
            }
            VolumeJob::Check(place) | VolumeJob::Create { place, .. } | VolumeJob::Destroy(place) => {
                format!("volume {}", place.key)
            }
            VolumeJob::Step(order) => format!("volume {}", order.keys()),
            VolumeJob::Preflight(order) => format!("preflight {}", order.question.snapshot),
        }
    }

    fn backend(&self) -> Backend {
        match self {
            VolumeJob::Fetch(_) => Backend::Network,
            _ => Backend::Storage,
        }
    }

    fn deadline(&self) -> Option<Duration> {
        const SLOWEST_BYTES_PER_SECOND: u64 = 64 * 1024;
        match self {
            VolumeJob::Fetch(content) if content.max_size_bytes > 0 => {
                Some(Duration::from_secs(600 + content.max_size_bytes / SLOWEST_BYTES_PER_SECOND))
            }
            _ => None,
        }
    }
}

pub fn fetch_id(tree: &ContentTreeId) -> JobId {
    JobId::new(format_args!("fetch {tree}"))
}

pub fn create_id(key: &VolumeKey) -> JobId {
    JobId::new(format_args!("create {key}"))
}
