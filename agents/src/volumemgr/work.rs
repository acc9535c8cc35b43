//! How the jobs of `jobs.rs` are done, over the seams. Nothing here knows a row or a topic.
//!
//! A failure is a value in the job's event, with its words and whether time alone may help.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use holdfast_types::{
    AgreedSnapshot, Blocker, BlockerKind, ContentTreeId, SnapshotId, Space, VolumeId, VolumeKey, error_chain,
};
use holdfast_volumehandlers::{
    Action, GroupMember, HandlerCx, Preflight, SnapshotMeta, SnapshotName, ToolError, VolumeError,
    VolumeFacts, VolumeGroup, VolumeHandler, VolumeSpec,
};

use crate::runtime::JobContext;

use super::Event;
use super::download::{Content, Download, Progress};
use super::inventory::{self, Look};
use super::jobs::{Asked, Env, Place, PreflightOrder, StepFailure, StepOrder, StepVolume, VolumeJob};
use super::preflight::Seen;
use super::retry::Failure;
use super::steps::VolumeStep;

/// Does the job; the event is its one end.
pub fn run(job: VolumeJob, env: &Env, cx: &JobContext<Event>) -> Event {
    match job {
        VolumeJob::TakeInventory { records, intents } => {
            let taken = Look::new(env, &records, &intents).take();
            Event::InventoryTaken(taken.map_err(|error| Failure::passing(error_chain(&error))))
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
            let result = step(&order, env, cx).map_err(|error| step_failure(&order, &error));
            let StepOrder { snapshot, operation, step, volumes, .. } = order;
            let volumes = volumes.iter().map(|volume| volume.place.key.volume).collect();
            Event::Stepped { snapshot, operation, step, volumes, result }
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

type Cut = BTreeMap<VolumeId, SnapshotMeta>;

/// One step. All of them may be done again.
fn step(order: &StepOrder, env: &Env, cx: &JobContext<Event>) -> Result<Cut, VolumeError> {
    let Some(StepVolume { place, .. }) = order.volumes.first() else { return Ok(Cut::new()) };
    let handler = env.registry.handler_for(&place.location, place.format)?;
    if order.step.is_forward() {
        // [004] M5: before anything is done.
        order
            .volumes
            .iter()
            .try_for_each(|on| handler.check_parameters(&on.place.location, &order.parameters))?;
    }
    let (key, is_told) = (place.key, order.step == VolumeStep::MakeClone);
    let report = |percent| {
        if is_told {
            cx.progress(Event::MakeProgress { key, percent });
        }
    };
    with_cx(cx, report, |handler_cx| match handler.group() {
        Some(group) => group_step(&*handler, group, order, handler_cx),
        None => order.volumes.iter().try_fold(Cut::new(), |mut cut, volume| {
            if let Some(meta) = single_step(&*handler, order, volume, handler_cx)? {
                cut.insert(volume.place.key.volume, meta);
            }
            Ok(cut)
        }),
    })
}

fn single_step(
    handler: &dyn VolumeHandler,
    order: &StepOrder,
    on: &StepVolume,
    handler_cx: &HandlerCx<'_>,
) -> Result<Option<SnapshotMeta>, VolumeError> {
    let volume = &on.place.location;
    let done = match order.step {
        VolumeStep::CutSnapshot => {
            Some(handler.create_snapshot(volume, &name(on)?, handler_cx)?.into_inner())
        }
        VolumeStep::CutSafety => {
            handler.create_safety_snapshot(volume, &safety(on)?, &name(on)?, handler_cx)?;
            None
        }
        VolumeStep::ApplySnapshot => {
            if order.redo {
                begin_again(handler, on, handler_cx)?;
            }
            handler.rollback_to_snapshot(volume, &name(on)?, &on.agreed, handler_cx)?;
            None
        }
        VolumeStep::ApplySafety => {
            put_back(handler, on, handler_cx)?;
            None
        }
        VolumeStep::DropSnapshot => {
            handler.delete_snapshot(volume, &name(on)?, handler_cx)?;
            None
        }
        VolumeStep::DropSafety => {
            handler.drop_safety_snapshot(volume, &safety(on)?, handler_cx)?;
            None
        }
        VolumeStep::DeleteAll => {
            delete_all(handler, order.snapshot, on, handler_cx)?;
            None
        }
        VolumeStep::MakeClone => {
            make_clone(handler, order, on, handler_cx)?;
            None
        }
        VolumeStep::Repoint => {
            if let Some(fresh) = &on.other {
                handler.adopt_snapshots(volume, fresh)?;
            }
            None
        }
        VolumeStep::DropClone | VolumeStep::DropReplaced => {
            handler.destroy(volume, handler_cx)?;
            None
        }
    };
    if order.redo {
        repair(handler, order.step, &on.place, handler_cx)?;
    }
    Ok(done)
}

/// The step on all volumes at once. Nothing of it can be half done, so there is nothing to repair.
fn group_step(
    handler: &dyn VolumeHandler,
    group: &dyn VolumeGroup,
    order: &StepOrder,
    handler_cx: &HandlerCx<'_>,
) -> Result<Cut, VolumeError> {
    let member = |on: &StepVolume, name| GroupMember {
        volume: on.place.location.clone(),
        name,
        agreed: on.agreed.clone(),
    };
    let members = order.volumes.iter().map(|on| Ok(member(on, name(on)?)));
    let mut members = members.collect::<Result<Vec<_>, VolumeError>>()?;
    match order.step {
        VolumeStep::CutSnapshot => {
            let metas = group.create_snapshots(&members, handler_cx)?.into_inner();
            let volumes = order.volumes.iter().map(|on| on.place.key.volume);
            return Ok(volumes.zip(metas).collect());
        }
        VolumeStep::ApplySnapshot => {
            // The operation's own: asked again after a crash, storage tells whether it has happened.
            let token = format!("{}-op{}", order.snapshot, order.operation);
            group.rollback_to_snapshots(&members, &token, handler_cx)?;
        }
        VolumeStep::DropSnapshot => drop(group.delete_snapshots(&members, handler_cx)?),
        VolumeStep::DeleteAll => {
            for on in &order.volumes {
                for found in left_of(handler, order.snapshot, &on.place.location)? {
                    members.push(member(on, found));
                }
            }
            members.sort();
            members.dedup();
            group.delete_snapshots(&members, handler_cx)?;
        }
        // A group needs no safety snapshots.
        VolumeStep::CutSafety | VolumeStep::ApplySafety | VolumeStep::DropSafety => {}
        // Nor is it ever cloned.
        VolumeStep::MakeClone | VolumeStep::Repoint | VolumeStep::DropClone | VolumeStep::DropReplaced => {}
    }
    Ok(Cut::new())
}

/// Without its safety snapshot the volume is back already: it is dropped only when all are.
fn put_back(
    handler: &dyn VolumeHandler,
    on: &StepVolume,
    handler_cx: &HandlerCx<'_>,
) -> Result<(), VolumeError> {
    match handler.rollback_to_snapshot(&on.place.location, &safety(on)?, &BTreeSet::new(), handler_cx) {
        Ok(_) | Err(VolumeError::NoSuchSnapshot { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// A rollback that may have come half-way is taken back before it is done again: what it would be done to is known then. Where it
/// cannot be taken back, it is done over what it left, which gives the snapshot's content as well ([003] J3).
fn begin_again(
    handler: &dyn VolumeHandler,
    on: &StepVolume,
    handler_cx: &HandlerCx<'_>,
) -> Result<(), VolumeError> {
    match put_back(handler, on, handler_cx) {
        Err(error) if !error.is_transient() => {
            let volume = on.place.key;
            tracing::warn!(%volume, error = error_chain(&error), "not taken back before it is rolled back again");
            Ok(())
        }
        done => done,
    }
}

/// [004] M2: only of a volume whose handler says that it cannot revert it in place, and only if nobody else uses it (M3).
fn make_clone(
    handler: &dyn VolumeHandler,
    order: &StepOrder,
    on: &StepVolume,
    handler_cx: &HandlerCx<'_>,
) -> Result<(), VolumeError> {
    let (volume, name) = (&on.place.location, name(on)?);
    let Some(fresh) = on.other.as_ref().filter(|_| !handler.capabilities().revert_in_place) else {
        let (format, what) = (on.place.format, "a clone of a volume that is reverted in place");
        return Err(VolumeError::Unsupported { volume: volume.clone(), format, what });
    };
    let action = Action::Clone { from: name.clone() };
    match handler.preflight(volume, &Preflight { action, guest_may_run: false }) {
        // Room is looked for again by the clone, which may find that it was made already.
        Ok(_) | Err(VolumeError::NoSpace { .. }) => {}
        Err(error) => return Err(error),
    }
    handler.clone_from_snapshot(volume, &name, fresh, &order.parameters, handler_cx).map(drop)
}

/// What another incarnation has of the volume's snapshots is the volume's, and the incarnation goes.
fn drop_incarnation(
    handler: &dyn VolumeHandler,
    volume: &Path,
    other: &Path,
    handler_cx: &HandlerCx<'_>,
) -> Result<(), VolumeError> {
    handler.adopt_snapshots(other, volume)?;
    handler.destroy(other, handler_cx).map(drop)
}

/// The snapshot, its safety snapshot, and whatever else this node named after it.
fn delete_all(
    handler: &dyn VolumeHandler,
    snapshot: SnapshotId,
    on: &StepVolume,
    handler_cx: &HandlerCx<'_>,
) -> Result<(), VolumeError> {
    let volume = &on.place.location;
    if let Some(other) = &on.other {
        drop_incarnation(handler, volume, other, handler_cx)?;
    }
    handler.delete_snapshot(volume, &name(on)?, handler_cx)?;
    if on.safety_name.is_some() {
        handler.delete_snapshot(volume, &safety(on)?, handler_cx)?;
    }
    for left in left_of(handler, snapshot, volume)? {
        handler.delete_snapshot(volume, &left, handler_cx)?;
    }
    Ok(())
}

/// What storage still has that this node named after the snapshot.
fn left_of(
    handler: &dyn VolumeHandler,
    snapshot: SnapshotId,
    volume: &Path,
) -> Result<Vec<SnapshotName>, VolumeError> {
    let left = match handler.list_snapshots(volume) {
        Err(VolumeError::Missing { .. }) => Vec::new(),
        left => left?,
    };
    let ours = left.iter().filter(|found| inventory::is_of(&found.name, snapshot));
    ours.map(|found| parsed(volume, &found.name)).collect()
}

fn repair(
    handler: &dyn VolumeHandler,
    step: VolumeStep,
    place: &Place,
    handler_cx: &HandlerCx<'_>,
) -> Result<(), VolumeError> {
    match handler.repair(&place.location, handler_cx) {
        Ok(repaired) if repaired.is_changed() => {
            let volume = place.key;
            tracing::warn!(%volume, repaired = ?repaired.into_inner(), "repaired after an interrupted step");
            Ok(())
        }
        Ok(_) | Err(VolumeError::Missing { .. }) => Ok(()),
        // What is damaged for good keeps nothing from being tidied.
        Err(error) if !step.is_forward() && !error.is_transient() => {
            tracing::warn!(volume = %place.key, error = error_chain(&error), "not repaired");
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn step_failure(order: &StepOrder, error: &VolumeError) -> StepFailure {
    let named = order.volumes.iter().find(|on| on.place.location == error.volume());
    let mut failure = failure(error);
    if matches!(error, VolumeError::Blocked { .. }) && order.step == VolumeStep::ApplySnapshot {
        // [000] L7.
        failure
            .summary
            .push_str("; that was not there when the rollback was checked, and nothing was destroyed");
    }
    StepFailure {
        volume: named.map(|on| on.place.key.volume),
        failure,
        is_uncertain: matches!(error, VolumeError::Unknown { .. }),
    }
}

fn preflight(order: PreflightOrder, env: &Env) -> Event {
    let PreflightOrder { question, volumes, refusals } = order;
    let mut seen = Seen { refusals, ..Seen::default() };
    for (place, asked) in &volumes {
        let volume = place.key.volume;
        match on_handler(env, place, |handler| ask(handler, &place.location, asked)) {
            Ok((blockers, space)) => {
                seen.add(place, blockers, space);
                let is_cloned = |handler: &dyn VolumeHandler| Ok(!handler.capabilities().revert_in_place);
                if matches!(asked, Asked::Rollback { .. }) && on_handler(env, place, is_cloned) == Ok(true) {
                    seen.cloned.insert(volume);
                }
            }
            // [000] L8: a damaged one can be given up as well.
            Err(_) if matches!(asked, Asked::Delete { .. }) => {}
            Err(refusal) => drop(seen.refusals.insert(volume, refusal.summary)),
        }
    }
    seen.refuse_crowded();
    Event::Preflighted { question, seen }
}

/// What stands in the way, which others judge, and the space needed; an error where it cannot be done whatever they say.
fn ask(
    handler: &dyn VolumeHandler,
    volume: &Path,
    asked: &Asked,
) -> Result<(Vec<Blocker>, Option<Space>), VolumeError> {
    let mut seen = Vec::new();
    let action = match asked {
        Asked::Create => Action::CreateSnapshot,
        Asked::Rollback { storage_name, leaving, parameters } => {
            // [004] M5.
            handler.check_parameters(volume, parameters)?;
            let to = parsed(volume, storage_name)?;
            // What no name can be made of was never taken for one of ours.
            let leaving = leaving.iter().filter_map(|name| SnapshotName::parse(name).ok()).collect();
            seen = handler.blockers(volume, &to, &leaving)?;
            match handler.capabilities().revert_in_place {
                true => Action::Rollback { to, leaving, agreed: agreed_to(&seen) },
                // [004] M2: a clone takes its place.
                false => Action::Clone { from: to },
            }
        }
        Asked::Delete { storage_name } => {
            let name = parsed(volume, storage_name)?;
            let space = handler.space(volume, &Action::DeleteSnapshot { name })?;
            return Ok((seen, Some(space)));
        }
        Asked::Present => return handler.facts(volume).map(|_| (seen, None)),
    };
    let quiet = Preflight { action, guest_may_run: false };
    let answer = match handler.preflight(volume, &quiet) {
        // Most likely by our own guest, which is still running. Whether it is anybody else's shows at the cut.
        Err(VolumeError::Locked { .. } | VolumeError::InUse { .. }) => {
            handler.preflight(volume, &Preflight { guest_may_run: true, ..quiet })
        }
        answer => answer,
    };
    match answer {
        Ok(space) => Ok((seen, Some(space))),
        // Those that no tag bypasses, and what has come since the look: all are told.
        Err(VolumeError::Blocked { blockers, .. }) => {
            let fresh: Vec<Blocker> = blockers.into_iter().filter(|one| !seen.contains(one)).collect();
            seen.extend(fresh);
            Ok((seen, None))
        }
        Err(error) => Err(error),
    }
}

/// As if the tag were set: the rest of the pre-flight is of interest, whatever is agreed to later.
fn agreed_to(seen: &[Blocker]) -> BTreeSet<AgreedSnapshot> {
    let unmanaged = seen.iter().filter(|one| one.kind == BlockerKind::Unmanaged);
    unmanaged.map(|one| AgreedSnapshot { name: one.name.clone(), id: one.id.clone() }).collect()
}

fn name(on: &StepVolume) -> Result<SnapshotName, VolumeError> {
    parsed(&on.place.location, &on.storage_name)
}

fn safety(on: &StepVolume) -> Result<SnapshotName, VolumeError> {
    parsed(&on.place.location, on.safety_name.as_deref().unwrap_or_default())
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
        VolumeError::Locked { .. } | VolumeError::InUse { .. } => {
            Some("tried again when nothing else uses the volume")
        }
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
