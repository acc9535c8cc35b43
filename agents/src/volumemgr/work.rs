//! How the jobs of `jobs.rs` are done, over the seams. Nothing here knows a row or a topic.
//!
//! A failure is a value in the job's event, with its words and whether time alone may help.

use std::collections::BTreeSet;
use std::path::Path;

use holdfast_types::{ContentTreeId, VolumeKey, error_chain};
use holdfast_volumehandlers::{
    Action, HandlerCx, Preflight, SnapshotMeta, SnapshotName, ToolError, VolumeError, VolumeFacts,
    VolumeHandler, VolumeSpec,
};

use crate::runtime::JobContext;

use super::Event;
use super::download::{Content, Download, Progress};
use super::inventory::{self, Look};
use super::jobs::{Asked, Env, Place, PreflightOrder, StepOrder, VolumeJob};
use super::retry::Failure;
use super::steps::VolumeStep;

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
        // What is damaged for good keeps nothing from being tidied.
        Err(error) if !order.step.is_forward() && !error.is_transient() => {
            tracing::warn!(volume = %order.place.key, error = error_chain(&error), "not repaired");
            Ok(())
        }
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
        Asked::Rollback { storage_name } => {
            Action::Rollback { to: parsed(volume, storage_name)?, leaving: BTreeSet::new() }
        }
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
