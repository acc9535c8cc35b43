//! Everything that runs in the story, in one folder: controller, node, guest; and how it is watched and put away.
//!
//! ```text
//!   FOLDER/files/       images that the controller serves
//!   FOLDER/persist/     the node's persist directory
//!   FOLDER/node.log, events.jsonl, holdfast.sock
//! ```
//!
//! Nothing here runs on its own: every wait looks at all sources and tells what is new. A wait has a deadline, breaks off
//! when the node dies unexpectedly or somebody presses Ctrl-C, and says what it waited for.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use holdfast_agents::wire::info::{ZInfoApp, ZSwState};
use holdfast_persist::PersistLayout;
use serde_json::Value;
use tempfile::TempDir;

use super::Options;
use super::console::{Diary, Tail};
use super::deployment::{APP, APP_NAME, DEVICE, Orders, SNAPSHOT};
use super::node_process::{NodeProcess, NodeSettings, end_processes_of, processes_of};
use super::timeline::{Actor, Timeline};
use crate::controller::{Server, ServerSettings};
use crate::guest::{self, Guest, Line};

/// An emulated guest on a busy machine boots and stops well within this.
const PATIENCE: Duration = Duration::from_secs(90);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often the node is asked where the guest's console is, until it knows.
const ASK_EVERY: Duration = Duration::from_millis(300);
const LOG_LINES_SHOWN: usize = 60;
const CONSOLE_LINES_SHOWN: usize = 20;

pub struct Stage {
    pub controller: Server,
    pub guest: Guest,
    pub layout: PersistLayout,
    pub diary: Diary,
    node: Option<NodeProcess>,
    settings: NodeSettings,
    events: Tail,
    console: Option<Tail>,
    console_lines: Vec<String>,
    asked_at: Instant,
    heard: String,
    interrupted: Arc<AtomicBool>,
    keep: bool,
    folder: TempDir,
}

impl Stage {
    /// Gets the guest, makes the folder, starts the controller. The node is not started yet.
    pub fn set(options: &Options, timeline: &Timeline) -> anyhow::Result<Stage> {
        timeline.say(
            Actor::Hand,
            "preparing the test guest (the first time, this downloads Debian's cloud kernel)",
        );
        let guest = Guest::ensure().map_err(|reason| anyhow!("{reason}"))?;
        let folder = tempfile::Builder::new().prefix("holdfast-demo-").tempdir()?;
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir(path("files"))?;
        let serve = ServerSettings { files: Some(path("files")), ..ServerSettings::default() };
        let controller = Server::start(&serve)?;
        let settings = NodeSettings {
            holdfast: options.holdfast.clone(),
            persist: path("persist"),
            controller: controller.url(),
            device: DEVICE.to_string(),
            socket: path("holdfast.sock"),
            log: path("node.log"),
            events: path("events.jsonl"),
        };
        timeline.say(Actor::Controller, &format!("listens on {}", controller.url()));
        Ok(Stage {
            controller,
            guest,
            layout: PersistLayout::new(&settings.persist),
            diary: Diary::default(),
            node: None,
            events: Tail::new(settings.events.clone()),
            settings,
            console: None,
            console_lines: Vec::new(),
            asked_at: Instant::now(),
            heard: String::new(),
            interrupted: options.interrupted.clone(),
            keep: options.keep,
            folder,
        })
    }

    /// Puts everything away; if the story broke off, says why and shows the logs.
    pub fn clear(mut self, told: anyhow::Result<()>, timeline: &mut Timeline) {
        if let Err(error) = told {
            timeline.broke_off(&error);
            if !self.interrupted.load(Ordering::Relaxed) {
                self.show_logs(timeline);
            }
        }
        self.end_everything();
        if self.keep {
            self.folder.disable_cleanup(true);
            timeline.say(Actor::Hand, &format!("kept: {}", self.folder.path().display()));
        }
    }

    fn end_everything(&mut self) {
        self.node = None;
        end_processes_of(self.folder.path());
    }

    fn show_logs(&self, timeline: &Timeline) {
        let log = std::fs::read(&self.settings.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log).into_owned();
        timeline.quote("the end of the node's log", &last_lines(log.lines().collect(), LOG_LINES_SHOWN));
        let console = self.console_lines.iter().map(String::as_str).collect();
        timeline.quote("the end of the guest's console", &last_lines(console, CONSOLE_LINES_SHOWN));
        let left: Vec<String> = self.leftovers().iter().map(|path| path.display().to_string()).collect();
        timeline.quote("what lies in the persist directory", &left.join("\n"));
    }

    pub fn files(&self) -> PathBuf {
        self.folder.path().join("files")
    }

    pub fn orders(&self) -> Orders<'_> {
        Orders { controller: &self.controller }
    }

    // ---- the node ------------------------------------------------------------------------------------------

    /// Starts the node and waits until it says that it is ready.
    pub fn start_node(&mut self, timeline: &Timeline) -> anyhow::Result<()> {
        let node = self.settings.start()?;
        timeline.say(
            Actor::Node,
            &format!("started: process {}, persist {}", node.id(), self.settings.persist.display()),
        );
        self.node = Some(node);
        self.until(timeline, "the node to be ready", |stage| {
            let answer = stage.settings.ask(&["--json", "status"]).ok();
            let status = answer.and_then(|text| serde_json::from_str::<Value>(&text).ok());
            Ok(status.filter(|status| status["stage"] == "ready").map(drop))
        })?;
        let node = self.node.as_mut().expect("just started");
        self.settings.listen(node)
    }

    /// SIGTERM; returns the exit code.
    pub fn terminate_node(&mut self) -> anyhow::Result<Option<i32>> {
        let mut node = self.node.take().context("no node runs")?;
        Ok(node.terminate(PATIENCE)?.code())
    }

    /// Kills the node in the middle of a rollback: once volumemgr's intent says that volumes are being reverted. Looks
    /// almost without a rest, because that takes moments. Returns the stage that was hit.
    pub fn kill_node_while_it_reverts(&mut self, timeline: &Timeline) -> anyhow::Result<String> {
        let intent = self.intent_file();
        let mut node = self.node.take().context("no node runs")?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let stage = self.json(&intent).ok().and_then(|intent| Some(intent["Stage"].as_str()?.to_owned()));
            if let Some(stage) = stage.filter(|stage| stage != "Preparing") {
                node.kill()?;
                self.tell_news(timeline)?;
                return Ok(stage);
            }
            if Instant::now() >= deadline {
                self.node = Some(node);
                bail!("waited {PATIENCE:?} for a rollback to be under way, in vain");
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// What `holdfast <words>` prints.
    pub fn ask(&self, words: &[&str]) -> anyhow::Result<String> {
        self.settings.ask(words)
    }

    /// The guest's processes, as the machine has them.
    pub fn guest_processes(&self) -> Vec<u32> {
        let all = processes_of(self.folder.path());
        all.into_iter()
            .filter(|(_, program)| program.starts_with("qemu-system"))
            .map(|(pid, _)| pid)
            .collect()
    }

    /// All processes that belong to this story.
    pub fn processes(&self) -> Vec<(u32, String)> {
        processes_of(self.folder.path())
    }

    // ---- waiting -------------------------------------------------------------------------------------------

    /// Waits until `look` finds something, and tells meanwhile what happens.
    pub fn until<T>(
        &mut self,
        timeline: &Timeline,
        what: &str,
        mut look: impl FnMut(&mut Stage) -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.tell_news(timeline)?;
            if let Some(found) = look(self)? {
                return Ok(found);
            }
            if Instant::now() >= deadline {
                bail!("waited {PATIENCE:?} for {what}, in vain");
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Lets time pass, to see what does not happen.
    pub fn rest(&mut self, timeline: &Timeline, time: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.tell_news(timeline)?;
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    fn tell_news(&mut self, timeline: &Timeline) -> anyhow::Result<()> {
        if self.interrupted.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        for line in self.events.new_lines() {
            if let Some(text) = event_text(&line) {
                timeline.say(Actor::Node, &text);
            }
        }
        self.follow_console(timeline);
        self.tell_reports(timeline);
        if let Some(node) = &mut self.node
            && let Some(status) = node.ended()?
        {
            bail!("the node ended by itself: {status}");
        }
        Ok(())
    }

    fn follow_console(&mut self, timeline: &Timeline) {
        if self.console.is_none() && self.node.is_some() && self.asked_at.elapsed() >= ASK_EVERY {
            self.asked_at = Instant::now();
            self.console = self.console_path().map(Tail::new);
        }
        for line in self.console.iter_mut().flat_map(Tail::new_lines) {
            if let Some(said) = self.diary.take(&line) {
                timeline.say(Actor::Guest, said);
            }
            self.console_lines.push(line);
        }
    }

    fn console_path(&self) -> Option<PathBuf> {
        let text = self.ask(&["--json", "apps", APP_NAME]).ok()?;
        let app: Value = serde_json::from_str(&text).ok()?;
        let path = app["guest"]["console_log"].as_str().filter(|path| !path.is_empty())?;
        Some(PathBuf::from(path))
    }

    fn tell_reports(&mut self, timeline: &Timeline) {
        let heard = self.report().map(|app| report_text(&app)).unwrap_or_default();
        if heard != self.heard {
            timeline.say(Actor::Controller, &format!("hears that {heard}"));
            self.heard = heard;
        }
    }

    /// The newest report about the application.
    pub fn report(&self) -> Option<ZInfoApp> {
        self.controller.core().device(DEVICE).ok()?.app(APP).cloned()
    }

    // ---- what lies on disk ---------------------------------------------------------------------------------

    /// The file of a volume.
    pub fn volume(&self, volume: uuid::Uuid, generation: i64) -> PathBuf {
        self.layout.volume_file(true, &volume, &generation, &"qcow2")
    }

    /// Lines on a volume, or in a snapshot of it, as `key=value ...`.
    pub fn lines_on(&self, image: &Path, snapshot: Option<&str>, lines: &[Line]) -> anyhow::Result<String> {
        let content = guest::read_qcow2(image, snapshot)?;
        let word = |line: &Line| {
            let value = guest::read_line(&content, *line);
            format!("{}={}", line.key, value.as_deref().unwrap_or("none"))
        };
        Ok(lines.iter().map(word).collect::<Vec<_>>().join(" "))
    }

    /// Names of the snapshots in an image.
    pub fn snapshots_in(&self, image: &Path) -> anyhow::Result<Vec<String>> {
        let output = Command::new("qemu-img").args(["info", "-U", "--output=json"]).arg(image).output()?;
        if !output.status.success() {
            bail!("qemu-img info {}: {}", image.display(), String::from_utf8_lossy(&output.stderr).trim());
        }
        let info: Value = serde_json::from_slice(&output.stdout)?;
        let names = info["snapshots"].as_array().into_iter().flatten();
        Ok(names.filter_map(|snapshot| snapshot["name"].as_str().map(str::to_owned)).collect())
    }

    /// volumemgr's intent, there while it touches the volumes of the snapshot.
    pub fn intent_file(&self) -> PathBuf {
        self.layout.row_file("volumemgr", "SnapshotIntent", &SNAPSHOT)
    }

    /// The JSON of a file, as a person would read it.
    pub fn json(&self, path: &Path) -> anyhow::Result<Value> {
        let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// Everything in the persist directory that belongs to an application, relative to it: all but the node's own.
    pub fn leftovers(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        collect(self.layout.root(), &mut found);
        let relative = found.iter().filter_map(|path| path.strip_prefix(self.layout.root()).ok());
        relative.filter(|path| !is_the_nodes_own(path)).map(Path::to_owned).collect()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.end_everything();
    }
}

/// The lock, the reserve, the last configuration, and zedagent's rows are there with no application too.
fn is_the_nodes_own(path: &Path) -> bool {
    ["lock", "reserve", "checkpoint", "status/zedagent"].iter().any(|own| path.starts_with(own))
}

/// Files, and folders named after something (those that are not part of the fixed layout) even if empty.
fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let is_id = |name: &str| uuid::Uuid::try_parse(name).is_ok();
        if !path.is_dir() || path.file_name().and_then(|name| name.to_str()).is_some_and(is_id) {
            found.push(path.clone());
        }
        collect(&path, found);
    }
    found.sort();
}

/// An event of the node as one line, without its time: the timeline has its own.
fn event_text(line: &str) -> Option<String> {
    let event: Value = serde_json::from_str(line).ok()?;
    let text = |key: &str| event[key].as_str().unwrap_or_default();
    let arrow = match (text("from"), text("to")) {
        ("", to) => to.to_owned(),
        (from, "") => format!("{from} -> gone"),
        (from, to) => format!("{from} -> {to}"),
    };
    let what = match (text("subject"), text("kind")) {
        // The node's own configuration: from nowhere, from its disk, or from the controller.
        (_, "controller") => "configuration".to_owned(),
        (subject, kind) => format!("{subject} {kind}"),
    };
    let parts = [what, arrow, text("detail").to_owned()];
    let told: Vec<String> = parts.into_iter().filter(|part| !part.trim().is_empty()).collect();
    Some(told.join(": "))
}

fn report_text(app: &ZInfoApp) -> String {
    if app.state() == ZSwState::Invalid {
        return format!("{APP_NAME} is gone");
    }
    let mut text = format!("{} is {}", app.app_name, app.state().as_str_name());
    if !app.app_version.is_empty() {
        text.push_str(&format!(", version {}", app.app_version));
    }
    for snapshot in &app.snapshots {
        let state = match &snapshot.snap_err {
            Some(error) => format!("failed: {}", error.description),
            None => format!("available, of version {}", snapshot.config_version),
        };
        text.push_str(&format!("; snapshot {state}"));
    }
    for error in &app.app_err {
        text.push_str(&format!("; error: {}", error.description));
    }
    text
}

fn last_lines(lines: Vec<&str>, count: usize) -> String {
    lines[lines.len().saturating_sub(count)..].join("\n")
}
