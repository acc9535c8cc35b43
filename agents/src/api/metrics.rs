//! `/metrics`: Prometheus text, from the same document as `/v1/status`, so that the two never disagree.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};

use super::documents::NodeDocument;
use super::view::View;

/// Every state has a line also at zero, so that a graph does not lose it.
const APP_STATES: [&str; 8] =
    ["INITIAL", "INSTALLED", "BOOTING", "RUNNING", "HALTING", "HALTED", "PURGING", "ERROR"];
const SNAPSHOT_STATES: [&str; 6] = ["requested", "cutting", "available", "failed", "deleting", "trimmed"];

pub fn render(node: &NodeDocument, view: &View, events_total: u64) -> String {
    let facts = &node.facts;
    let mut page = Page::default();
    page.one("holdfast_up", "gauge", "1 once every agent is synced.", u8::from(facts.stage == "ready"));
    let read_only = u8::from(facts.mode == "read-only");
    page.one("holdfast_read_only", "gauge", "1 while the node changes nothing.", read_only);
    let no_space = u8::from(facts.mode == "no-space");
    page.one("holdfast_no_space", "gauge", "1 while new operations are refused for want of space.", no_space);
    let started = facts.started_at.timestamp();
    page.one("holdfast_start_time_seconds", "gauge", "When the node started, Unix time.", started);
    let answers = facts.agents.iter().map(|it| (it.name.as_str(), u8::from(it.answers)));
    page.many(
        "holdfast_agent_answers",
        "gauge",
        "1 while the agent takes its events in time.",
        "agent",
        answers,
    );

    let reachable = u8::from(node.controller_reachable == Some(true));
    page.one("holdfast_controller_reachable", "gauge", "1 while the controller answers.", reachable);
    page.one("holdfast_reports_pending", "gauge", "Reports not yet delivered.", node.reports_pending);
    page.one("holdfast_objects_refused", "gauge", "Objects refused at the border.", node.refused.len());

    let apps = with_zeros(&APP_STATES, &node.apps);
    page.many("holdfast_apps", "gauge", "Applications by state.", "state", apps);
    page.one("holdfast_apps_with_errors", "gauge", "Applications with an error.", node.apps_with_errors);
    let running = node.operations_running;
    page.one("holdfast_operations_running", "gauge", "Operations that run now.", running);
    let total = [("done", view.operations_done_total), ("failed", view.operations_failed_total)];
    let help = "Operations that ended since the start, by result.";
    page.many("holdfast_operations_total", "counter", help, "result", total);

    let snapshots = with_zeros(&SNAPSHOT_STATES, &node.snapshots);
    page.many("holdfast_snapshots", "gauge", "Snapshots by state.", "state", snapshots);
    page.one("holdfast_volumes", "gauge", "Volumes, in all generations.", node.volumes);
    let allocated = node.volumes_allocated_bytes;
    page.one("holdfast_volumes_allocated_bytes", "gauge", "What volumes take on storage.", allocated);
    let crashes: u64 = view.guests.values().map(|it| u64::from(it.crash_count)).sum();
    page.one("holdfast_guest_crashes", "gauge", "Unplanned ends of guests since their last order.", crashes);

    let writes = facts.durable_writes;
    page.one("holdfast_durable_writes_total", "counter", "Steps made durable since the start.", writes);
    page.one("holdfast_events_total", "counter", "State transitions since the start.", events_total);
    page.maybe("holdfast_persist_free_bytes", "Room under the persist directory.", facts.space_free_bytes);
    page.maybe("holdfast_persist_size_bytes", "Size of its file system.", facts.space_total_bytes);
    page.maybe("process_resident_memory_bytes", "Memory of the node.", facts.resident_memory_bytes);
    page.text
}

fn with_zeros<'a>(
    states: &'a [&'a str],
    counts: &'a BTreeMap<String, u64>,
) -> impl Iterator<Item = (&'a str, u64)> {
    let mut all: BTreeMap<&str, u64> = states.iter().map(|state| (*state, 0)).collect();
    all.extend(counts.iter().map(|(state, count)| (state.as_str(), *count)));
    all.into_iter()
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing into a String cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.head(name, kind, help);
        let _ = writeln!(self.text, "{name} {value}");
    }

    fn maybe(&mut self, name: &str, help: &str, value: Option<u64>) {
        if let Some(value) = value {
            self.one(name, "gauge", help, value);
        }
    }

    /// Label values are names of ours: states and agents, which need no escaping.
    fn many<'a, V: Display>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'a str, V)>,
    ) {
        self.head(name, kind, help);
        for (of, value) in values {
            let _ = writeln!(self.text, "{name}{{{label}=\"{of}\"}} {value}");
        }
    }
}
