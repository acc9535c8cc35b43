//! Transitions: what a row's change means to people. Pure: the row before, the row after, and what is to be told.
//!
//! A row that appears is told as a transition from nothing, one that goes as a transition to nothing. Progress is
//! not told: it is state, to be asked for.

use std::collections::BTreeSet;

use holdfast_types::{
    AppId, AppInstanceState, AppInstanceStatus, DeviceStatus, DomainStatus, ErrorReport, Operation,
    OperationNumber, SnapshotId, VolumeStatus,
};

use super::describe::{guest_state_name, kind_name, phase_name, snapshot_state_name, volume_label};
use super::documents::{EventKind, Transition};

pub fn of_app(old: Option<&AppInstanceStatus>, new: Option<&AppInstanceStatus>) -> Vec<Transition> {
    let Some(status) = new.or(old) else { return Vec::new() };
    let app = status.id_and_version.id;
    let name = if status.display_name.is_empty() { app.to_string() } else { status.display_name.clone() };
    let about = About { app: Some(app), subject: name };
    let mut told = Vec::new();
    let state = |it: &AppInstanceStatus| it.state.name().to_string();
    about.moved(EventKind::AppState, old.map(state), new.map(state), &mut told);
    if let (Some(old), Some(new)) = (old, new) {
        let version = |it: &AppInstanceStatus| {
            Some(it.id_and_version.version.clone()).filter(|version| !version.is_empty())
        };
        about.moved(EventKind::AppVersion, version(old), version(new), &mut told);
    }
    let before: BTreeSet<&str> = old.iter().flat_map(|it| summaries(&it.errors)).collect();
    for error in new.iter().flat_map(|it| summaries(&it.errors)).filter(|it| !before.contains(it)) {
        told.push(about.told(EventKind::AppError, None, None, Some(error.to_string())));
    }
    told
}

pub fn of_state(
    name: &str,
    old: Option<&AppInstanceState>,
    new: Option<&AppInstanceState>,
) -> Vec<Transition> {
    let Some(app) = new.or(old).map(|it| it.app) else { return Vec::new() };
    let about = About { app: Some(app), subject: name.to_string() };
    let mut told = Vec::new();
    operation_moved(&about, old, new, &mut told);
    snapshots_moved(&about, old, new, &mut told);
    told
}

/// The error that ended this operation, by the row after it.
pub fn failure_of(number: OperationNumber, after: Option<&AppInstanceState>) -> Option<&ErrorReport> {
    let failure = after?.last_failure.as_ref()?;
    (failure.number == number).then_some(&failure.error)
}

pub fn of_guest(
    name: impl Fn(AppId) -> String,
    old: Option<&DomainStatus>,
    new: Option<&DomainStatus>,
) -> Vec<Transition> {
    let Some(app) = new.or(old).map(|it| it.app) else { return Vec::new() };
    let state = |it: &DomainStatus| guest_state_name(it.state).to_string();
    let (from, to) = (old.map(state), new.map(state));
    if from == to {
        return Vec::new();
    }
    let about = About { app: Some(app), subject: name(app) };
    let detail = new.and_then(|it| it.error.as_ref()).map(|error| error.summary.clone());
    vec![about.told(EventKind::GuestState, from, to, detail)]
}

pub fn of_volume(old: Option<&VolumeStatus>, new: Option<&VolumeStatus>) -> Vec<Transition> {
    let Some(volume) = new.or(old) else { return Vec::new() };
    let state = |it: &VolumeStatus| it.state.name().to_string();
    let error = |it: &VolumeStatus| it.error.as_ref().map(|error| error.summary.clone());
    let (from, to) = (old.map(state), new.map(state));
    let (error_before, error_after) = (old.and_then(error), new.and_then(error));
    if from == to && (error_after.is_none() || error_before == error_after) {
        return Vec::new();
    }
    let about = About { app: None, subject: volume_label(volume) };
    vec![about.told(EventKind::VolumeState, from, to, error_after)]
}

pub fn of_device(old: Option<&DeviceStatus>, new: Option<&DeviceStatus>) -> Vec<Transition> {
    let Some(new) = new else { return Vec::new() };
    let about = About { app: None, subject: "controller".to_string() };
    let mut told = Vec::new();
    let reachable = |it: &DeviceStatus| it.controller_error.is_none();
    if old.is_none_or(|old| reachable(old) != reachable(new) || old.source != new.source) {
        let source = |it: &DeviceStatus| format!("{:?}", it.source).to_lowercase();
        let detail = new.controller_error.as_ref().map(|error| error.summary.clone());
        told.push(about.told(EventKind::Controller, old.map(source), Some(source(new)), detail));
    }
    for (id, error) in &new.refused {
        let known =
            old.and_then(|old| old.refused.get(id)).is_some_and(|known| known.summary == error.summary);
        if !known {
            let about = About { app: id.parse().ok(), subject: id.clone() };
            told.push(about.told(EventKind::Refused, None, None, Some(error.summary.clone())));
        }
    }
    told
}

fn operation_moved(
    about: &About,
    old: Option<&AppInstanceState>,
    new: Option<&AppInstanceState>,
    told: &mut Vec<Transition>,
) {
    let before = old.and_then(|it| it.operation.as_ref());
    let after = new.and_then(|it| it.operation.as_ref());
    let phase = |it: &Operation| Some(phase_name(it.phase).to_string());
    match (before, after) {
        (Some(before), Some(after)) if before.number == after.number => {
            let about = About { app: about.app, subject: format!("{} {}", about.subject, label(after)) };
            about.moved(EventKind::OperationPhase, phase(before), phase(after), told);
            return;
        }
        (Some(before), _) => {
            let failure = failure_of(before.number, new).map(|error| error.summary.clone());
            let kind = if failure.is_some() { EventKind::OperationFailed } else { EventKind::OperationDone };
            told.push(about.told(kind, None, Some(label(before)), failure));
        }
        (None, _) => {}
    }
    if let Some(after) = after {
        told.push(about.told(EventKind::OperationStarted, None, Some(label(after)), None));
    }
}

fn label(operation: &Operation) -> String {
    format!("{} {}", kind_name(operation.kind), operation.number)
}

fn snapshots_moved(
    about: &About,
    old: Option<&AppInstanceState>,
    new: Option<&AppInstanceState>,
    told: &mut Vec<Transition>,
) {
    let ids: BTreeSet<SnapshotId> =
        old.iter().chain(new.iter()).flat_map(|it| it.snapshots.keys()).copied().collect();
    for id in ids {
        let entry = |it: Option<&AppInstanceState>| {
            it.and_then(|it| it.snapshots.get(&id)).map(|entry| snapshot_state_name(&entry.state).to_string())
        };
        let about = About { app: about.app, subject: format!("{} snapshot {id}", about.subject) };
        about.moved(EventKind::SnapshotState, entry(old), entry(new), told);
    }
}

fn summaries(errors: &[ErrorReport]) -> impl Iterator<Item = &str> {
    errors.iter().map(|error| error.summary.as_str())
}

/// Whose transition it is.
struct About {
    app: Option<AppId>,
    subject: String,
}

impl About {
    fn told(
        &self,
        kind: EventKind,
        from: Option<String>,
        to: Option<String>,
        detail: Option<String>,
    ) -> Transition {
        Transition { kind, app: self.app, subject: self.subject.clone(), from, to, detail }
    }

    fn moved(&self, kind: EventKind, from: Option<String>, to: Option<String>, told: &mut Vec<Transition>) {
        if from != to {
            told.push(self.told(kind, from, to, None));
        }
    }
}
