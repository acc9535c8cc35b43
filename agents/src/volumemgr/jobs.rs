//! The slow work, as data, and how it is done over the seams.
//!
//! ```text
//!   TakeInventory   Fetch  RemoveDownload   Check  Create  Destroy   Step            Preflight
//!   (once)          per content tree        per volume, one at a time                per question, reads only
//! ```
//!
//! Every job may run again after a crash, from its beginning; each is idempotent because what it calls is.
//! Time limits are the handlers' and the fetcher's, which know the size of the work.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use holdfast_persist::{Disk, PersistLayout};
use holdfast_types::{
    ContentTreeId, Format, OperationNumber, SnapshotId, SnapshotPreflightConfig, VolumeId, VolumeKey,
    VolumeRecord, error_chain,
};
use holdfast_volumehandlers::{
    Action, HandlerCx, Preflight, Registry, SnapshotMeta, SnapshotName, Source, ToolError, VolumeError,
    VolumeFacts, VolumeHandler, VolumeSpec,
};

use crate::runtime::{Backend, Job, JobContext, JobId};

use super::Event;
use super::download::{Content, Download, Progress};
use super::fetcher::Fetcher;
use super::inventory::{self, Look};
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

/// One step of an intent on one volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepOrder {
    pub snapshot: SnapshotId,
    pub operation: OperationNumber,
    pub step: VolumeStep,
    pub place: Place,
    pub storage_name: String,
    pub safety_name: Option<String>,
    /// A crash may have interrupted it: what leaked is repaired afterwards ([003] J4).
    pub redo: bool,
}

/// A pre-flight of the volumes that were not refused already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreflightOrder {
    pub question: SnapshotPreflightConfig,
    /// With the storage name for a rollback; none for a volume that is only looked for.
    pub volumes: Vec<(Place, Asked)>,
    pub refusals: BTreeMap<VolumeId, String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    Create,
    Rollback {
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
                order.place.key,
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
            VolumeJob::Step(order) => format!("volume {}", order.place.key),
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

/// Does the job; the event is its one end.
pub fn run(job: VolumeJob, env: &Env, cx: &JobContext<Event>) -> Event {
    match job {
        VolumeJob::TakeInventory { records } => {
            let Env { disk, layout, registry, .. } = env;
            let look = Look { disk: &**disk, layout, registry, records: &records };
            Event::InventoryTaken(look.take().map_err(|error| Failure::passing(error_chain(&error))))
        }
        VolumeJob::Fetch(content) => fetch(content, env, cx),
        VolumeJob::RemoveDownload(content_tree) => {
            let removed = download(env, cx, content_tree, |download| download.remove(&content_tree));
            let result = removed.map_err(|error| Failure::passing(error_chain(&error)));
            Event::DownloadRemoved { content_tree, result }
        }
        VolumeJob::Check(place) => {
            let result = on_handler(env, &place, |handler| handler.facts(&place.location));
            Event::Checked { key: place.key, result }
        }
        VolumeJob::Create { place, source, max_size_bytes, read_only, afresh } => {
            let spec = VolumeSpec {
                location: place.location.clone(),
                format: place.format,
                source,
                max_size_bytes,
                read_only,
            };
            let result = on_handler(env, &place, |handler| create(handler, &spec, afresh, place.key, cx));
            Event::Made { key: place.key, result }
        }
        VolumeJob::Destroy(place) => {
            let result = on_handler(env, &place, |handler| {
                with_cx(cx, |_| (), |handler_cx| handler.destroy(&place.location, handler_cx)).map(drop)
            });
            Event::Destroyed { key: place.key, result }
        }
        VolumeJob::Step(order) => {
            let result = on_handler(env, &order.place, |handler| step(handler, &order, cx));
            let StepOrder { snapshot, operation, step, place, .. } = order;
            Event::Stepped { snapshot, operation, step, volume: place.key.volume, result }
        }
        VolumeJob::Preflight(order) => preflight(order, env),
    }
}

fn fetch(content: Content, env: &Env, cx: &JobContext<Event>) -> Event {
    let content_tree = content.content_tree;
    let fetched = download(env, cx, content_tree, |download| download.ensure(&content));
    let result = fetched
        .map_err(|error| Failure { summary: error_chain(&error), retry_condition: error.retry_condition() });
    Event::Fetched { content_tree, result }
}

fn download<T>(
    env: &Env,
    cx: &JobContext<Event>,
    content_tree: ContentTreeId,
    work: impl FnOnce(&Download<'_>) -> T,
) -> T {
    work(&Download {
        disk: &*env.disk,
        layout: &env.layout,
        fetcher: &*env.fetcher,
        is_cancelled: &|| cx.should_stop(),
        report: &|progress: Progress| cx.progress(Event::FetchProgress { content_tree, progress }),
    })
}

fn create(
    handler: &dyn VolumeHandler,
    spec: &VolumeSpec,
    afresh: bool,
    key: VolumeKey,
    cx: &JobContext<Event>,
) -> Result<VolumeFacts, VolumeError> {
    let report = |percent| cx.progress(Event::MakeProgress { key, percent });
    with_cx(cx, report, |handler_cx| {
        if afresh {
            handler.destroy(&spec.location, handler_cx)?;
        }
        Ok(handler.create(spec, handler_cx)?.into_inner())
    })
}

/// One step. All of them may be done again.
fn step(
    handler: &dyn VolumeHandler,
    order: &StepOrder,
    cx: &JobContext<Event>,
) -> Result<Option<SnapshotMeta>, VolumeError> {
    let volume = &order.place.location;
    with_cx(
        cx,
        |_| (),
        |handler_cx| {
            let done = match order.step {
                VolumeStep::CutSnapshot => {
                    Some(handler.create_snapshot(volume, &name(order)?, handler_cx)?.into_inner())
                }
                VolumeStep::CutSafety => {
                    Some(handler.create_snapshot(volume, &safety(order)?, handler_cx)?.into_inner())
                }
                VolumeStep::ApplySnapshot => {
                    handler.rollback_to_snapshot(volume, &name(order)?, handler_cx)?;
                    None
                }
                VolumeStep::ApplySafety => {
                    put_back(handler, order, handler_cx)?;
                    None
                }
                VolumeStep::DropSnapshot => {
                    handler.delete_snapshot(volume, &name(order)?, handler_cx)?;
                    None
                }
                VolumeStep::DropSafety => {
                    handler.delete_snapshot(volume, &safety(order)?, handler_cx)?;
                    None
                }
                VolumeStep::DeleteAll => {
                    delete_all(handler, order, handler_cx)?;
                    None
                }
            };
            if order.redo {
                repair(handler, order, handler_cx)?;
            }
            Ok(done)
        },
    )
}

/// Without its safety snapshot the volume is back already: it is dropped only when all are.
fn put_back(
    handler: &dyn VolumeHandler,
    order: &StepOrder,
    handler_cx: &HandlerCx<'_>,
) -> Result<(), VolumeError> {
    match handler.rollback_to_snapshot(&order.place.location, &safety(order)?, handler_cx) {
        Ok(_) | Err(VolumeError::NoSuchSnapshot { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The snapshot, its safety snapshot, and whatever else this node named after it.
fn delete_all(
    handler: &dyn VolumeHandler,
    order: &StepOrder,
    handler_cx: &HandlerCx<'_>,
) -> Result<(), VolumeError> {
    let volume = &order.place.location;
    handler.delete_snapshot(volume, &name(order)?, handler_cx)?;
    if order.safety_name.is_some() {
        handler.delete_snapshot(volume, &safety(order)?, handler_cx)?;
    }
    let left = match handler.list_snapshots(volume) {
        Err(VolumeError::Missing { .. }) => Vec::new(),
        left => left?,
    };
    for found in left.iter().filter(|found| inventory::is_of(&found.name, order.snapshot)) {
        handler.delete_snapshot(volume, &parsed(volume, &found.name)?, handler_cx)?;
    }
    Ok(())
}

fn repair(
    handler: &dyn VolumeHandler,
    order: &StepOrder,
    handler_cx: &HandlerCx<'_>,
) -> Result<(), VolumeError> {
    match handler.repair(&order.place.location, handler_cx) {
        Ok(repaired) if repaired.is_changed() => {
            let volume = order.place.key;
            tracing::warn!(%volume, repaired = ?repaired.into_inner(), "repaired after an interrupted step");
            Ok(())
        }
        Ok(_) | Err(VolumeError::Missing { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

fn preflight(order: PreflightOrder, env: &Env) -> Event {
    let PreflightOrder { question, volumes, mut refusals } = order;
    for (place, asked) in &volumes {
        if let Err(refusal) = on_handler(env, place, |handler| ask(handler, &place.location, asked)) {
            refusals.insert(place.key.volume, refusal.summary);
        }
    }
    Event::Preflighted { question, refusals }
}

fn ask(handler: &dyn VolumeHandler, volume: &Path, asked: &Asked) -> Result<(), VolumeError> {
    let action = match asked {
        Asked::Create => Action::CreateSnapshot,
        Asked::Rollback { storage_name } => Action::Rollback { to: parsed(volume, storage_name)? },
        Asked::Present => return handler.facts(volume).map(drop),
    };
    let quiet = Preflight { action, guest_may_run: false };
    match handler.preflight(volume, &quiet) {
        // Most likely by our own guest, which is still running. Whether it is anybody else's shows at the cut.
        Err(VolumeError::Locked { .. }) => {
            handler.preflight(volume, &Preflight { guest_may_run: true, ..quiet })
        }
        answer => answer,
    }
}

fn name(order: &StepOrder) -> Result<SnapshotName, VolumeError> {
    parsed(&order.place.location, &order.storage_name)
}

fn safety(order: &StepOrder) -> Result<SnapshotName, VolumeError> {
    parsed(&order.place.location, order.safety_name.as_deref().unwrap_or_default())
}

fn parsed(volume: &Path, name: &str) -> Result<SnapshotName, VolumeError> {
    SnapshotName::parse(name).map_err(|source| VolumeError::Name { volume: volume.to_path_buf(), source })
}

fn on_handler<T>(
    env: &Env,
    place: &Place,
    work: impl FnOnce(&dyn VolumeHandler) -> Result<T, VolumeError>,
) -> Result<T, Failure> {
    let handler = env.registry.handler_for(&place.location, place.format);
    handler.and_then(|handler| work(&*handler)).map_err(|error| failure(&error))
}

fn with_cx<T>(
    cx: &JobContext<Event>,
    report: impl Fn(u8) + Sync,
    work: impl FnOnce(&HandlerCx<'_>) -> T,
) -> T {
    work(&HandlerCx::new(&|| cx.should_stop(), &report))
}

fn failure(error: &VolumeError) -> Failure {
    let retry_condition = match error {
        VolumeError::Locked { .. } => Some("tried again when nothing else uses the volume"),
        VolumeError::NoSpace { .. } => {
            Some("tried again with growing delay; free space on the persist directory")
        }
        VolumeError::Tool { source: ToolError::NotInstalled { .. }, .. } => {
            Some("tried again with growing delay; install the program")
        }
        error if error.is_transient() => Some("tried again with growing delay"),
        _ => None,
    };
    Failure { summary: error_chain(error), retry_condition }
}
