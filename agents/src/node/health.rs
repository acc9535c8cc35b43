//! What the node says about itself, to the API and to the service manager.

#![allow(
    clippy::disallowed_methods,
    reason = "what the kernel says of this process is not on the node's disk"
)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use holdfast_persist::Disk;
use holdfast_types::Timestamp;
use sd_notify::NotifyState;

use crate::api::NodeProbe;
use crate::api::documents::{AgentDocument, NodeDocument, NodeFacts};
use crate::runtime::{ModeCell, NodeMode};
use crate::settings::Settings;

use super::counted_disk::CountedDisk;

/// Where the node is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Starting,
    Ready,
    Stopping,
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Stage::Starting => "starting",
            Stage::Ready => "ready",
            Stage::Stopping => "stopping",
        }
    }
}

/// What the supervising task last found, and what never changes. Asked from any thread.
#[derive(Debug)]
pub struct Health {
    settings: Settings,
    accelerator: String,
    storage: String,
    started_at: Timestamp,
    mode: Arc<ModeCell>,
    disk: Arc<CountedDisk>,
    agents: Vec<&'static str>,
    found: Mutex<Found>,
    synced: AtomicBool,
}

#[derive(Debug)]
struct Found {
    stage: Stage,
    stuck: Vec<&'static str>,
}

impl Health {
    pub fn new(
        settings: &Settings,
        (accelerator, storage): (String, String),
        started_at: Timestamp,
        mode: Arc<ModeCell>,
        disk: Arc<CountedDisk>,
        agents: Vec<&'static str>,
    ) -> Self {
        let found = Mutex::new(Found { stage: Stage::Starting, stuck: Vec::new() });
        let settings = settings.clone();
        let synced = AtomicBool::new(false);
        Health { settings, accelerator, storage, started_at, mode, disk, agents, found, synced }
    }

    pub fn enter(&self, stage: Stage) {
        if stage == Stage::Ready {
            self.synced.store(true, Ordering::Relaxed);
        }
        self.lock().stage = stage;
    }

    pub fn found_stuck(&self, stuck: Vec<&'static str>) {
        self.lock().stuck = stuck;
    }

    fn lock(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl NodeProbe for Health {
    fn facts(&self) -> NodeFacts {
        let found = self.lock();
        let synced = self.synced.load(Ordering::Relaxed);
        let agent = |name: &&'static str| AgentDocument {
            name: name.to_string(),
            synced,
            answers: !found.stuck.contains(name),
        };
        let (mode, mode_reason) = mode_words(&self.mode.get());
        let space = self.disk.space(&self.settings.persist).ok();
        NodeFacts {
            device: self.settings.device,
            version: env!("CARGO_PKG_VERSION").to_string(),
            stage: found.stage.name().to_string(),
            mode: mode.to_string(),
            mode_reason,
            started_at: self.started_at,
            process_id: std::process::id(),
            controller: self.settings.controller.clone(),
            persist: self.settings.persist.display().to_string(),
            accelerator: self.accelerator.clone(),
            storage: self.storage.clone(),
            agents: self.agents.iter().map(agent).collect(),
            space_free_bytes: space.map(|it| it.free_bytes),
            space_total_bytes: space.map(|it| it.total_bytes),
            resident_memory_bytes: resident_memory_bytes(),
            durable_writes: self.disk.durable_writes(),
        }
    }
}

fn mode_words(mode: &NodeMode) -> (&'static str, Option<String>) {
    match mode {
        NodeMode::Normal => ("normal", None),
        NodeMode::NoSpace => ("no-space", Some("the disk is full: new operations are refused".to_string())),
        NodeMode::ReadOnly { reason } => ("read-only", Some(reason.clone())),
    }
}

fn resident_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// One sentence for `systemctl status`.
pub fn words(node: &NodeDocument) -> String {
    let facts = &node.facts;
    if facts.stage != "ready" {
        return facts.stage.clone();
    }
    let mut parts = Vec::new();
    if let Some(reason) = &facts.mode_reason {
        parts.push(format!("{}: {reason}", facts.mode));
    }
    let stuck: Vec<&str> = facts.agents.iter().filter(|it| !it.answers).map(|it| it.name.as_str()).collect();
    if !stuck.is_empty() {
        parts.push(format!("no answer from {}", stuck.join(", ")));
    }
    let apps: u64 = node.apps.values().sum();
    let running = node.apps.get("RUNNING").copied().unwrap_or(0);
    parts.push(format!("{running} of {apps} applications running"));
    if node.operations_running > 0 {
        parts.push(format!("{} operations", node.operations_running));
    }
    if node.controller_reachable == Some(false) {
        parts.push("controller not in order".to_string());
    }
    parts.join("; ")
}

/// Talks to the service manager; without one it says nothing.
#[derive(Debug, Default)]
pub struct Notifier {
    last_words: String,
}

impl Notifier {
    /// How often the watchdog wants to hear: a third of its patience.
    pub fn interval() -> Option<Duration> {
        sd_notify::watchdog_enabled().map(|patience| patience / 3)
    }

    pub fn ready(&mut self) {
        tell(&[NotifyState::Ready]);
    }

    pub fn alive(&mut self) {
        tell(&[NotifyState::Watchdog]);
    }

    pub fn stopping(&mut self) {
        tell(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
    }

    /// Only when it is another sentence than the last.
    pub fn status(&mut self, words: String) {
        if words != self.last_words {
            tell(&[NotifyState::Status(&words)]);
            self.last_words = words;
        }
    }
}

fn tell(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}
