//! The scenario player and the `controller-sim` program, with a stand-in for a node that does as it is told.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use holdfast_agents::wire::config::{AppInstanceConfig, ConfigRequest, ConfigResponse};
use holdfast_agents::wire::info::z_info_msg::InfoContent;
use holdfast_agents::wire::info::{
    HoldfastDeviceExtension, ZInfoApp, ZInfoDevice, ZInfoMsg, ZInfoSnapshot, ZInfoTypes, ZSwState,
};
use holdfast_agents::wire::{ControllerLink, Fetched, HttpLink};
use holdfast_tests::controller::Server;
use holdfast_tests::controller::play::{Tally, play};
use holdfast_tests::controller::scenario::Scenario;
use uuid::Uuid;

const DEVICE: Uuid = Uuid::from_u128(0x6f1d2c1e_0c1b_4a53_9d0e_5b7a1f3c9a01);
const EXAMPLE: &str = include_str!("../scenarios/snapshot-and-rollback.yaml");

/// Plays a node without having one: whatever it is told, it reports as done.
struct ObedientNode {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl ObedientNode {
    fn start(controller: &str) -> ObedientNode {
        let link = HttpLink::new(controller, DEVICE).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut memory = Memory::default();
            while !stopped.load(Ordering::Relaxed) {
                if let Ok(Fetched::Config { response, .. }) = link.fetch_config(&memory.in_hand()) {
                    memory.obey(response).iter().for_each(|report| link.post_info(report).unwrap());
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        ObedientNode { stop, thread: Some(thread) }
    }
}

impl Drop for ObedientNode {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}

/// What the stand-in remembers: per application its version, restarts and rollbacks, and its snapshots' versions.
#[derive(Default)]
struct Memory {
    hash: String,
    apps: BTreeMap<String, AppMemory>,
}

#[derive(Default, Clone)]
struct AppMemory {
    version: String,
    rollbacks: u32,
    snapshots: BTreeMap<String, String>,
}

impl Memory {
    fn in_hand(&self) -> ConfigRequest {
        ConfigRequest { config_hash: self.hash.clone(), ..Default::default() }
    }

    fn obey(&mut self, response: ConfigResponse) -> Vec<ZInfoMsg> {
        self.hash = response.config_hash;
        let apps = response.config.unwrap_or_default().apps;
        let before = std::mem::take(&mut self.apps);
        let mut reports = Vec::new();
        for app in &apps {
            let id = app.uuidandversion.clone().unwrap().uuid;
            let after = before.get(&id).cloned().unwrap_or_default().obey(app);
            reports.push(after.report(&id));
            self.apps.insert(id, after);
        }
        let gone = before.keys().filter(|id| !self.apps.contains_key(*id));
        reports.extend(gone.map(|id| report(ZInfoTypes::ZiApp, InfoContent::Ainfo(deleted(id)))));
        let own = HoldfastDeviceExtension { config_hash: self.hash.clone(), ..Default::default() };
        let own = ZInfoDevice { holdfast: Some(own), ..Default::default() };
        reports.push(report(ZInfoTypes::ZiDevice, InfoContent::Dinfo(own)));
        reports
    }
}

impl AppMemory {
    fn obey(mut self, app: &AppInstanceConfig) -> AppMemory {
        let wanted = app.snapshot.clone().unwrap_or_default();
        let version = app.uuidandversion.clone().unwrap().version;
        self.snapshots.retain(|id, _| wanted.snapshots.iter().any(|snapshot| snapshot.id == *id));
        let rollbacks = wanted.rollback_cmd.map_or(0, |order| order.counter);
        if rollbacks > self.rollbacks {
            self.version = self.snapshots[&wanted.active_snapshot].clone();
        } else if rollbacks == 0 && version != self.version {
            for snapshot in wanted.snapshots {
                self.snapshots.entry(snapshot.id).or_insert_with(|| self.version.clone());
            }
            self.version = version;
        }
        self.rollbacks = rollbacks;
        self
    }

    fn report(&self, id: &str) -> ZInfoMsg {
        let snapshots =
            self.snapshots.keys().map(|id| ZInfoSnapshot { id: id.clone(), ..Default::default() });
        let app = ZInfoApp {
            app_id: id.into(),
            app_version: self.version.clone(),
            state: ZSwState::Running as i32,
            snapshots: snapshots.collect(),
            ..Default::default()
        };
        report(ZInfoTypes::ZiApp, InfoContent::Ainfo(app))
    }
}

fn deleted(id: &str) -> ZInfoApp {
    ZInfoApp { app_id: id.into(), ..Default::default() }
}

fn report(ztype: ZInfoTypes, content: InfoContent) -> ZInfoMsg {
    ZInfoMsg { ztype: ztype as i32, info_content: Some(content), ..Default::default() }
}

fn variable(name: &str) -> Option<String> {
    name.starts_with("HOLDFAST_").then(|| format!("/{name}"))
}

#[test]
fn the_example_scenario_plays_to_its_end() {
    let server = Server::for_test(None);
    let _node = ObedientNode::start(&server.url());
    let scenario = Scenario::read(EXAMPLE, variable).unwrap();
    let mut timeline = Vec::new();
    let tally = play(&scenario, Some(&server.url()), false, &mut timeline).unwrap();
    let timeline = String::from_utf8(timeline).unwrap();
    assert!(tally.all_passed(), "{timeline}");
    assert_eq!(tally, Tally { passed: 13, failed: 0, not_played: 0 });
    assert!(timeline.ends_with("play: 13 steps passed, 0 failed\n"), "{timeline}");
}

#[test]
fn a_story_ends_at_the_step_that_fails_and_says_why() {
    let story = "
title: nobody answers
device: 6f1d2c1e-0c1b-4a53-9d0e-5b7a1f3c9a01
names: { db: 6f1d2c1e-0c1b-4a53-9d0e-5b7a1f3c9adb }
steps:
  - edit: { add_app: { app: db } }
  - expect: { app: db, state: RUNNING, within: 100ms }
  - edit: { restart: web }
  - wait: 1ms
";
    let scenario = Scenario::read(story, variable).unwrap();
    let told = |keep_going| {
        let mut timeline = Vec::new();
        let tally = play(&scenario, None, keep_going, &mut timeline).unwrap();
        (tally, String::from_utf8(timeline).unwrap())
    };

    let (tally, timeline) = told(false);
    assert_eq!(tally, Tally { passed: 1, failed: 1, not_played: 2 });
    assert!(timeline.contains("FAIL   2. expect app db: RUNNING\n"), "{timeline}");
    assert!(timeline.contains("not within 100ms: nothing is reported about db\n"), "{timeline}");
    assert!(timeline.ends_with("play: 1 steps passed, 1 failed, 2 not played\n"), "{timeline}");

    let (tally, timeline) = told(true);
    assert_eq!(tally, Tally { passed: 2, failed: 2, not_played: 0 });
    assert!(timeline.contains("the configuration holds no application web\n"), "{timeline}");
}

// ---- the program -----------------------------------------------------------------------------------------

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_controller-sim"));
    command.env_remove("HOLDFAST_CONTROLLER").env("RUST_LOG", "warn");
    command
}

/// A `controller-sim serve`, ended by SIGTERM.
struct Serving {
    child: Child,
    url: String,
}

impl Serving {
    fn start(state: &Path) -> Serving {
        let mut command = program();
        command.args(["serve", "--listen", "127.0.0.1:0", "--state"]).arg(state).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().strip_prefix("controller-sim: listening on ").unwrap().to_owned();
        Serving { child, url }
    }

    /// Ends it as a service manager does; the exit status.
    fn terminate(mut self) -> i32 {
        let process = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match self.child.try_wait().unwrap() {
                Some(status) => return status.code().unwrap(),
                None => assert!(Instant::now() < deadline, "it does not end"),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ran(command: &mut Command) -> (i32, String, String) {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_program_serves_plays_and_shows() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let serving = Serving::start(&state);
    let device = DEVICE.to_string();

    let config = folder.path().join("config.json");
    std::fs::write(&config, "{\"deviceName\": \"edge\"}").unwrap();
    let at = ["--controller", serving.url.as_str()];
    let (code, _, said) = ran(program().args(["config", "set", &device]).arg(&config).args(at));
    assert_eq!((code, said.as_str()), (0, ""));
    let (code, shown, _) = ran(program().args(["config", "get", &device]).args(at));
    assert_eq!((code, shown.as_str()), (0, "{\n  \"deviceName\": \"edge\"\n}\n"));
    std::fs::write(&config, "{\"name\": \"edge\"}").unwrap();
    let (code, _, said) = ran(program().args(["config", "set", &device]).arg(&config).args(at));
    assert_eq!(code, 1);
    assert!(
        said.ends_with("answered with status 400: EdgeDevConfig.name: there is no such field\n"),
        "{said}"
    );

    let node = ObedientNode::start(&serving.url);
    let scenario = folder.path().join("example.yaml");
    std::fs::write(&scenario, EXAMPLE).unwrap();
    let (code, timeline, said) = ran(program()
        .arg("play")
        .arg(&scenario)
        .args(at)
        .env("HOLDFAST_KERNEL", "/k")
        .env("HOLDFAST_RAMDISK", "/r"));
    assert_eq!(code, 0, "{timeline}{said}");
    assert_eq!(timeline.lines().last(), Some("play: 13 steps passed, 0 failed"));
    drop(node);

    let (_, all, _) = ran(program().args(["info", &device]).args(at));
    let (_, latest, _) = ran(program().args(["info", &device, "--latest"]).args(at));
    assert!(all.lines().count() > latest.lines().count());
    assert_eq!(serving.terminate(), 0);

    let again = Serving::start(&state);
    let (_, remembered, _) = ran(program().args(["info", &device, "--controller", &again.url]));
    assert_eq!(remembered, all);
}

#[test]
fn a_port_in_use_a_missing_file_and_an_absent_controller_are_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let (code, _, said) = ran(program().args(["serve", "--listen", &address, "--state"]).arg(folder.path()));
    assert_eq!(code, 1);
    assert!(
        said.starts_with(&format!("controller-sim: cannot listen on {address}: Address already in use")),
        "{said}"
    );

    let (code, _, said) = ran(program().args(["play", "/no/such.yaml"]));
    assert_eq!(code, 1);
    assert!(said.starts_with("controller-sim: cannot read /no/such.yaml: No such file"), "{said}");

    drop(taken);
    let (code, _, said) = ran(program().args(["devices", "--controller", &format!("http://{address}")]));
    assert_eq!(code, 1);
    assert!(said.starts_with("controller-sim: cannot reach the controller at http://"), "{said}");

    let mut scenario = tempfile::NamedTempFile::new().unwrap();
    scenario.write_all(EXAMPLE.as_bytes()).unwrap();
    let (code, _, said) = ran(program().arg("play").arg(scenario.path()).env_remove("HOLDFAST_KERNEL"));
    assert_eq!(code, 1);
    assert!(said.ends_with("the scenario mentions ${HOLDFAST_KERNEL}, which is not set\n"), "{said}");

    assert_eq!(ran(program().args(["serve", "--nonsense"])).0, 2);
}
