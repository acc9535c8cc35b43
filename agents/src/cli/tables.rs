//! What people see: documents as tables and lists. Pure; nothing depends on the terminal or on the time of day.

use std::collections::BTreeMap;

use holdfast_types::{BlockerKind, Timestamp};

use crate::api::documents::*;

const NOTHING: &str = "-";

pub fn node(node: &NodeDocument) -> String {
    let facts = &node.facts;
    let mode = match &facts.mode_reason {
        Some(reason) => format!("{}: {reason}", facts.mode),
        None => facts.mode.clone(),
    };
    let mut list = List::default();
    list.add("node", format!("{} ({mode})", facts.stage));
    list.add("device", facts.device);
    list.add("version", &facts.version);
    list.add("since", format!("{}, process {}", time(&facts.started_at), facts.process_id));
    list.add("controller", format!("{}, {}", facts.controller, reachable(node)));
    list.add("configuration", configuration(node));
    list.add("reports waiting", node.reports_pending);
    list.add("persist", format!("{}{}", facts.persist, space(facts)));
    list.add("accelerator", &facts.accelerator);
    list.add("storage", &facts.storage);
    list.add("agents", facts.agents.iter().map(agent).collect::<Vec<_>>().join(", "));
    list.add("applications", counts(&node.apps));
    list.add("with errors", node.apps_with_errors);
    list.add("operations", format!("{} running", node.operations_running));
    list.add("snapshots", counts(&node.snapshots));
    list.add("volumes", format!("{}, {}", node.volumes, size(node.volumes_allocated_bytes)));
    for (id, reason) in &node.refused {
        list.add("refused", format!("{id}: {reason}"));
    }
    list.text
}

pub fn apps(apps: &[AppDocument]) -> String {
    let rows = apps.iter().map(|app| {
        let what = match &app.operation {
            Some(operation) => format!("{} {}: {}", operation.kind, operation.number, operation.phase),
            None => app.errors.first().map_or(NOTHING.to_string(), |error| error.message.clone()),
        };
        let available = app.snapshots.iter().filter(|it| it.state == "available").count();
        vec![
            app.name.clone(),
            app.state.clone(),
            or_nothing(&app.version),
            available.to_string(),
            app.volumes.len().to_string(),
            ha_state(&app.guard),
            tags(&app.guard).join(", "),
            app.id.to_string(),
            what,
        ]
    });
    table(
        &["NAME", "STATE", "VERSION", "SNAPSHOTS", "VOLUMES", "HA STATE", "TAGS", "ID", "OPERATION OR ERROR"],
        rows,
        "no applications",
    )
}

pub fn app(app: &AppDocument) -> String {
    let mut list = List::default();
    list.add("name", &app.name);
    list.add("id", app.id);
    list.add("state", &app.state);
    list.add("version", or_nothing(&app.version));
    list.add("wanted", if app.activated { "running" } else { "down" });
    list.add("booted", optional_time(&app.boot_time));
    if let Some(guest) = &app.guest {
        list.add("guest", guest_line(guest));
        list.add("console", or_nothing(&guest.console_log));
    }
    list.add("ha state", ha_state(&app.guard));
    list.add("tags", tags(&app.guard).join(", "));
    let volumes: Vec<_> = app.volumes.iter().map(|it| format!("{}#{}", it.id, it.generation)).collect();
    list.add_all("volume", &volumes);
    if let Some(operation) = &app.operation {
        let percent = operation.progress_percent.map(|it| format!(", {it}%")).unwrap_or_default();
        list.add(
            "operation",
            format!("{} {}: {}{percent}", operation.kind, operation.number, operation.phase),
        );
    }
    let errors: Vec<_> = app.errors.iter().map(error_line).collect();
    list.add_all("error", &errors);
    list.add("snapshots", format!("{} at most", app.snapshots_max));
    if let Some(active) = &app.snapshot_active {
        list.add("active snapshot", active);
    }
    if !app.snapshots.is_empty() {
        list.text.push('\n');
        list.text.push_str(&snapshots(&app.snapshots));
    }
    list.text
}

/// What would be done, or why not.
pub fn plan(plan: &PlanDocument) -> String {
    let mut list = List::default();
    list.add("plan", format!("{} of {} ({})", plan.action, plan.app_name, plan.app));
    list.add("snapshot", plan.snapshot);
    let steps: Vec<String> =
        plan.steps.iter().enumerate().map(|(at, step)| format!("{}. {step}", at + 1)).collect();
    list.add_all("steps", &steps);
    let blockers: Vec<String> = plan
        .blockers
        .iter()
        .map(|it| {
            let end = if it.is_destroyed { " (destroyed by this plan)" } else { "" };
            format!("{}: {} on volume {}{end}", blocker_kind(it.kind), it.name, it.volume)
        })
        .collect();
    list.add_all("in the way", &blockers);
    let space: Vec<String> = plan
        .space
        .iter()
        .map(|it| {
            format!("volume {}: {} needed, {} free", it.volume, size(it.needed_bytes), size(it.free_bytes))
        })
        .collect();
    list.add_all("space", &space);
    match &plan.refusal {
        Some(refusal) => list.add("refused", refusal),
        None => {
            list.add("downtime", &plan.downtime);
            list.add("digest", plan.digest.as_deref().unwrap_or(NOTHING));
        }
    }
    list.text
}

fn blocker_kind(kind: BlockerKind) -> &'static str {
    match kind {
        BlockerKind::Managed => "newer snapshot of this node",
        BlockerKind::Unmanaged => "newer snapshot not made by this node",
        BlockerKind::Clone => "clone",
        BlockerKind::Hold => "hold",
        BlockerKind::Unknown => "unknown",
    }
}

/// What has come of an order.
pub fn order(order: &OrderDocument) -> String {
    let before = if order.is_repeated { " before, by an order with this digest" } else { "" };
    let by = match (order.operation, order.state.as_str()) {
        (None, _) => format!("yes{before}; the data goes when the guest is down next"),
        (Some(number), "running") if order.is_repeated => {
            format!("operation {number} runs, begun{before}; follow it: holdfast operations --watch")
        }
        (Some(number), "running") => {
            format!("operation {number} has begun; follow it: holdfast operations --watch")
        }
        (Some(number), "failed") => format!("operation {number} failed, begun{before}"),
        (Some(number), state) => format!("operation {number} is {state}, begun{before}"),
    };
    let mut list = List::default();
    list.add("order", format!("{} of {} ({})", order.action, order.app_name, order.app));
    list.add("snapshot", order.snapshot);
    list.add("taken in", by);
    if let Some(error) = &order.error {
        list.add("error", error_line(error));
    }
    list.text
}

/// The state in effect, who set it, and what it was before manual control.
fn ha_state(guard: &GuardDocument) -> String {
    let local = if guard.ha_state_is_local { " (local)" } else { "" };
    let before =
        guard.controlled_by_before.as_ref().map(|state| format!(", before: {state}")).unwrap_or_default();
    format!("{}{local}{before}", guard.ha_state)
}

/// Each tag in effect, and each of the controller's that was taken away here.
fn tags(guard: &GuardDocument) -> Vec<String> {
    let local = |tag: &String| if guard.local_tags.contains(tag) { " (local)" } else { "" };
    let held = guard.tags.iter().map(|tag| format!("{tag}{}", local(tag)));
    let told: Vec<_> = held.chain(guard.removed_tags.iter().map(|tag| format!("no {tag} (local)"))).collect();
    if told.is_empty() { vec![NOTHING.to_owned()] } else { told }
}

pub fn snapshots(snapshots: &[SnapshotDocument]) -> String {
    let rows = snapshots.iter().map(|it| {
        vec![
            it.id.to_string(),
            it.app_name.clone(),
            it.state.clone(),
            kind(&it.kind, it.is_local),
            it.version.clone().unwrap_or_else(|| NOTHING.into()),
            optional_time(&it.created_at),
            it.volumes.len().to_string(),
            it.error.as_ref().map_or(NOTHING.into(), error_line),
        ]
    });
    let heads = ["ID", "APP", "STATE", "TYPE", "VERSION", "CREATED", "VOLUMES", "ERROR"];
    table(&heads, rows, "no snapshots")
}

/// With a mark where it was ordered on the node.
fn kind(kind: &str, is_local: bool) -> String {
    if is_local { format!("{kind} (local)") } else { kind.to_owned() }
}

pub fn volumes(volumes: &[VolumeDocument]) -> String {
    let rows = volumes.iter().map(|it| {
        let users = if it.used_by.is_empty() { NOTHING.into() } else { it.used_by.join(",") };
        let state = match it.state.as_str() {
            "CREATED_VOLUME" => it.state.clone(),
            other => format!("{other} {}%", it.progress_percent),
        };
        let format = it.format.clone().unwrap_or_else(|| NOTHING.into());
        vec![
            or_nothing(&it.name),
            match it.incarnation {
                0 | 1 => format!("{}#{}", it.id, it.generation),
                // A clone is in force; its file is named so, too.
                clone => format!("{}#{} (i{clone})", it.id, it.generation),
            },
            state,
            if it.read_only { format!("{format} (ro)") } else { format },
            size(it.size_bytes),
            size(it.allocated_bytes),
            users,
            it.held_by.len().to_string(),
            it.error.as_ref().map_or(NOTHING.into(), error_line),
        ]
    });
    let heads =
        ["NAME", "ID#GENERATION", "STATE", "FORMAT", "SIZE", "ON DISK", "USED BY", "SNAPSHOTS", "ERROR"];
    table(&heads, rows, "no volumes")
}

pub fn operations(operations: &[OperationDocument]) -> String {
    let rows = operations.iter().map(|it| {
        let percent = it.progress_percent.map(|it| format!(" {it}%")).unwrap_or_default();
        let took = it.ended_at.map_or(NOTHING.to_string(), |end| duration(it.started_at, end));
        vec![
            it.app_name.clone(),
            it.number.to_string(),
            kind(&it.kind, it.is_local),
            it.state.clone(),
            format!("{}{percent}", it.phase),
            versions(it),
            time(&it.started_at),
            took,
            it.error.as_ref().map_or(NOTHING.into(), error_line),
        ]
    });
    let heads = ["APP", "NUMBER", "KIND", "STATE", "PHASE", "VERSION", "STARTED", "TOOK", "ERROR"];
    table(&heads, rows, "no operation runs, and none ended since the node started")
}

/// One line.
pub fn event(event: &EventDocument) -> String {
    let Transition { kind, subject, from, to, detail, .. } = &event.transition;
    let moved = match (from, to) {
        (Some(from), Some(to)) => format!("{from} -> {to}"),
        (None, Some(to)) => to.clone(),
        (Some(from), None) => format!("{from} -> gone"),
        (None, None) => String::new(),
    };
    let parts = [moved, detail.clone().unwrap_or_default()];
    let told: Vec<&str> = parts.iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
    let told = one_line(&format!("{subject}: {}", told.join(": ")));
    format!("{}  {:18} {told}\n", time(&event.time), kind.name())
}

/// A volume by its name, or else its id, and its generation.
pub fn volume_label(volume: &VolumeDocument) -> String {
    match volume.name.as_str() {
        "" => format!("{}#{}", volume.id, volume.generation),
        name => format!("{name}#{}", volume.generation),
    }
}

fn reachable(node: &NodeDocument) -> String {
    match (node.controller_reachable, &node.controller_error) {
        (Some(true), _) => "reachable".to_string(),
        (Some(false), Some(error)) => format!("not in order: {}", error.message),
        (Some(false), None) => "not reachable".to_string(),
        (None, _) => "not heard of yet".to_string(),
    }
}

fn configuration(node: &NodeDocument) -> String {
    match node.config_received_at {
        Some(at) => {
            format!("{}, received {}, hash {}", node.config_source, time(&at), or_nothing(&node.config_hash))
        }
        None => node.config_source.clone(),
    }
}

fn space(facts: &NodeFacts) -> String {
    match (facts.space_free_bytes, facts.space_total_bytes) {
        (Some(free), Some(total)) => format!(", {} free of {}", size(free), size(total)),
        _ => String::new(),
    }
}

fn agent(agent: &AgentDocument) -> String {
    let state = match (agent.synced, agent.answers) {
        (_, false) => "does not answer",
        (false, true) => "starting",
        (true, true) => "ok",
    };
    format!("{} {state}", agent.name)
}

fn guest_line(guest: &GuestDocument) -> String {
    let mut line = guest.state.clone();
    if let Some(id) = guest.process_id {
        line.push_str(&format!(", process {id} ({})", guest.accelerator));
    }
    if guest.crashes > 0 {
        line.push_str(&format!(", crashes: {}", guest.crashes));
    }
    if let Some(error) = &guest.error {
        line.push_str(&format!(", {}", error_line(error)));
    }
    line
}

fn versions(operation: &OperationDocument) -> String {
    match (&operation.version_before, &operation.version_after) {
        (Some(before), Some(after)) if before != after => format!("{before} -> {after}"),
        (_, Some(version)) | (Some(version), None) => version.clone(),
        (None, None) => NOTHING.to_string(),
    }
}

fn error_line(error: &ErrorDocument) -> String {
    match error.retry.as_str() {
        "" => error.message.clone(),
        retry => format!("{} ({retry})", error.message),
    }
}

fn counts(counts: &BTreeMap<String, u64>) -> String {
    if counts.is_empty() {
        return "none".to_string();
    }
    let parts: Vec<_> = counts.iter().map(|(state, count)| format!("{count} {state}")).collect();
    parts.join(", ")
}

fn or_nothing(text: &str) -> String {
    if text.is_empty() { NOTHING.to_string() } else { text.to_string() }
}

fn time(time: &Timestamp) -> String {
    time.format("%Y-%m-%d %H:%M:%SZ").to_string()
}

fn optional_time(at: &Option<Timestamp>) -> String {
    at.as_ref().map_or(NOTHING.to_string(), time)
}

fn duration(start: Timestamp, end: Timestamp) -> String {
    let seconds = (end - start).num_milliseconds().max(0) as f64 / 1000.0;
    match seconds {
        s if s < 60.0 => format!("{s:.1}s"),
        s => format!("{}m{:02}s", (s / 60.0) as u64, (s % 60.0) as u64),
    }
}

fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut amount = bytes as f64 / 1024.0;
    let mut unit = 0;
    while amount >= 1023.95 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    format!("{amount:.1} {}", UNITS[unit])
}

/// `name:  value` lines, aligned.
#[derive(Default)]
struct List {
    text: String,
}

impl List {
    fn add(&mut self, name: &str, value: impl std::fmt::Display) {
        let value = one_line(&value.to_string());
        self.text.push_str(&format!("{:16} {value}\n", format!("{name}:")));
    }

    /// One line each, the name on the first.
    fn add_all(&mut self, name: &str, values: &[String]) {
        for (at, value) in values.iter().enumerate() {
            match at {
                0 => self.add(name, value),
                _ => self.text.push_str(&format!("{:16} {}\n", "", one_line(value))),
            }
        }
    }
}

/// Columns as wide as their widest cell; the last one runs free.
fn table(heads: &[&str], rows: impl Iterator<Item = Vec<String>>, when_empty: &str) -> String {
    let rows: Vec<Vec<String>> = rows.map(|row| row.iter().map(|cell| one_line(cell)).collect()).collect();
    if rows.is_empty() {
        return format!("{when_empty}\n");
    }
    let head: Vec<String> = heads.iter().map(|head| head.to_string()).collect();
    let all: Vec<&Vec<String>> = std::iter::once(&head).chain(&rows).collect();
    let width = |column: usize| all.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let mut text = String::new();
    for row in all {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// An error from outside may hold line ends or escape codes: neither reaches the terminal.
fn one_line(cell: &str) -> String {
    cell.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
