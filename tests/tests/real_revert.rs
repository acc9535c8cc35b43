//! `holdfast volume revert` ([004] M7) with the real programs: the `holdfast node` process, its command line, `qemu-img`. The
//! application is halted all the while, so no guest is needed.

#![allow(clippy::disallowed_methods, reason = "a test drives real processes, and waits for them")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use holdfast_agents::wire::config::{Format, SnapshotType};
use holdfast_tests::controller::server::Server;
use holdfast_tests::demo::holdfast_beside_us;
use holdfast_tests::demo::node_process::{NodeProcess, NodeSettings};
use tempfile::TempDir;
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(60);
const DEVICE: Uuid = Uuid::from_u128(0xd000_0000_0000_4000_8000_0000_0000_0001);
const APP: Uuid = Uuid::from_u128(0xa000_0000_0000_4000_8000_0000_0000_0001);
const IMAGE: Uuid = Uuid::from_u128(0xb000_0000_0000_4000_8000_0000_0000_0001);
const DISK: Uuid = Uuid::from_u128(0xb000_0000_0000_4000_8000_0000_0000_0002);
const STORE: Uuid = Uuid::from_u128(0xe000_0000_0000_4000_8000_0000_0000_0001);
const RAW: Uuid = Uuid::from_u128(0xf000_0000_0000_4000_8000_0000_0000_0001);
const SNAPSHOT: Uuid = Uuid::from_u128(0xc000_0000_0000_4000_8000_0000_0000_0001);

struct Stand {
    folder: TempDir,
    settings: NodeSettings,
    controller: Server,
    node: Option<NodeProcess>,
}

impl Stand {
    fn begin() -> Result<Stand, String> {
        let holdfast = holdfast_beside_us()
            .ok_or("the program `holdfast` is not built (`cargo test --workspace` builds it)")?;
        for tool in ["qemu-img", "qemu-io"] {
            Command::new(tool).arg("--version").output().map_err(|_| format!("{tool} is not installed"))?;
        }
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let files = folder.path().join("files");
        fs::create_dir(&files).expect("a folder for the datastore");
        fs::write(files.join("disk.raw"), vec![b'r'; 1 << 20]).expect("a raw image");
        let controller = Server::for_test(Some(&files));
        let at = |name: &str| folder.path().join(name);
        let settings = NodeSettings {
            holdfast,
            persist: at("persist"),
            controller: controller.url(),
            device: DEVICE.to_string(),
            socket: at("socket"),
            log: at("log"),
            events: at("events"),
        };
        let mut stand = Stand { folder, settings, controller, node: None };
        stand.deploy();
        stand.start();
        Ok(stand)
    }

    /// A halted application on an image and a raw disk.
    fn deploy(&self) {
        let store = self.controller.address().to_string();
        let edited = self.controller.edit_config(DEVICE, |device| {
            device.add_datastore(STORE, &store, "files");
            device.add_content_tree(RAW, STORE, "disk.raw", Format::Raw);
            device.add_blank_volume(IMAGE, 16 << 20).name("image");
            device.add_download_volume(DISK, RAW, 0).name("disk");
            let app = device.add_app(APP, "db").version("1").memory_kib(65_536).max_snapshots(3);
            app.volume(IMAGE, 1).volume(DISK, 1).activate(false);
        });
        edited.expect("the simulator keeps it");
    }

    fn start(&mut self) {
        self.node = Some(self.settings.start().expect("it runs"));
        self.until("the volumes", |stand| {
            let told = stand.ask(&["volumes", "--json"]).unwrap_or_default();
            told.matches("CREATED_VOLUME").count() == 2
        });
    }

    /// What `holdfast` prints, or what is wrong.
    fn ask(&self, words: &[&str]) -> Result<String, String> {
        self.settings.ask(words).map_err(|error| error.to_string())
    }

    fn until(&self, what: &str, check: impl Fn(&Stand) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !check(self) {
            let log = || fs::read_to_string(&self.settings.log).unwrap_or_default();
            assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {what}; the node's log:\n{}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn edit(&self, edit: impl FnOnce(&mut holdfast_tests::controller::DeviceConfig)) {
        self.controller.edit_config(DEVICE, edit).expect("the simulator keeps it");
    }

    fn json(&self, words: &[&str]) -> serde_json::Value {
        let text = self.ask(words).unwrap_or_else(|error| panic!("{error}"));
        serde_json::from_str(&text).expect("JSON")
    }

    /// The volume as the node tells it.
    fn volume(&self, id: Uuid) -> serde_json::Value {
        let volumes = self.json(&["volumes", "--json"]);
        let all = volumes.as_array().expect("a list").clone();
        all.into_iter().find(|volume| volume["id"] == id.to_string()).expect("told")
    }

    fn file(&self, id: Uuid) -> PathBuf {
        PathBuf::from(self.volume(id)["file"].as_str().expect("a path"))
    }

    fn revert(&self, words: &[&str]) -> Result<String, String> {
        let (snapshot, verb) = (SNAPSHOT.to_string(), ["volume", "revert"]);
        self.ask(&[&verb[..], &[&snapshot], words].concat())
    }

    /// Agrees to the plan by its digest, and waits until it is done.
    fn agree(&self, words: &[&str]) -> String {
        let snapshot = SNAPSHOT.to_string();
        let asked = [&["--json", "volume", "revert", &snapshot, "--dry-run"], words].concat();
        let plan = self.json(&asked);
        let digest = plan["digest"].as_str().unwrap_or_else(|| panic!("refused: {plan}")).to_owned();
        let taken = self.revert(&[words, &["--yes", &digest]].concat()).expect("taken in");
        self.until("the revert", |stand| {
            let again = stand.revert(&[words, &["--yes", &digest, "--json"]].concat());
            again.is_ok_and(|told| told.contains("\"state\":\"done\""))
        });
        taken
    }
}

fn write_image(path: &Path, content: u8) {
    let order = format!("write -P {content} 0 64k");
    let done =
        Command::new("qemu-io").args(["-f", "qcow2", "-c", &order]).arg(path).output().expect("it runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

fn image_holds(path: &Path, content: u8) -> bool {
    let order = format!("read -P {content} 0 64k");
    let done =
        Command::new("qemu-io").args(["-f", "qcow2", "-c", &order]).arg(path).output().expect("it runs");
    done.status.success() && !String::from_utf8_lossy(&done.stdout).contains("verification failed")
}

/// [004] M1, M2, M4, M5, M7: a raw disk and an image of one application, each by itself.
#[test]
fn one_volume_is_given_back_from_the_command_line() {
    let stand = match Stand::begin() {
        Ok(stand) => stand,
        Err(reason) => return eprintln!("skipped: {reason}"),
    };
    write_image(&stand.file(IMAGE), 1);
    stand.edit(|device| {
        device.app(APP).request_snapshot(SNAPSHOT, SnapshotType::Immediate);
    });
    stand.until("the snapshot", |stand| {
        stand.ask(&["snapshots", "--json"]).is_ok_and(|told| told.contains("\"state\":\"available\""))
    });
    write_image(&stand.file(IMAGE), 2);
    let disk_before = stand.file(DISK);
    fs::write(&disk_before, vec![b'x'; 1 << 20]).expect("a halted guest's disk");
    let image_inode = fs::metadata(stand.file(IMAGE)).expect("there").ino();

    let refused = stand.revert(&["--dry-run"]).expect("a plan");
    assert!(refused.contains("holds 2 volumes: say which one"), "{refused}");
    let unknown = stand.revert(&["--volume", &DISK.to_string(), "--param", "speed=high", "--dry-run"]);
    let unknown = unknown.expect("a plan");
    assert!(unknown.contains("the parameter speed is refused"), "M5: {unknown}");
    assert_eq!(fs::read(&disk_before).expect("untouched")[0], b'x');

    let disk = ["--volume", &DISK.to_string()];
    let plan = stand.revert(&[&disk[..], &["--dry-run"]].concat()).expect("a plan");
    println!("$ holdfast volume revert {SNAPSHOT} --volume {DISK} --dry-run\n{plan}");
    assert!(
        plan.contains(&format!("put a clone of snapshot {SNAPSHOT} in the place of volume {DISK}#1")),
        "{plan}"
    );
    println!("{}", stand.agree(&disk));
    println!("{}", stand.ask(&["volumes"]).expect("told"));
    println!("{}", stand.ask(&["operations"]).expect("told"));
    let told = stand.volume(DISK);
    assert_eq!((told["incarnation"].as_u64(), told["generation"].as_i64()), (Some(2), Some(1)), "{told}");
    assert!(stand.file(DISK).to_string_lossy().ends_with("#1.i2.raw") && !disk_before.exists());
    assert!(fs::read(stand.file(DISK)).expect("read").iter().all(|byte| *byte == b'r'));
    assert!(image_holds(&stand.file(IMAGE), 2), "M4: the other volume is not touched");

    let image = ["--volume", &IMAGE.to_string()];
    let plan = stand.revert(&[&image[..], &["--dry-run"]].concat()).expect("a plan");
    assert!(plan.contains(&format!("revert volume {IMAGE}#1 to snapshot {SNAPSHOT}")), "{plan}");
    stand.agree(&image);
    assert!(image_holds(&stand.file(IMAGE), 1));
    assert_eq!(fs::metadata(stand.file(IMAGE)).expect("there").ino(), image_inode, "M1: in place");
    assert_eq!(stand.volume(IMAGE)["incarnation"].as_u64(), Some(1));
    assert!(stand.json(&["apps", "db", "--json"])["version"] == "1", "no configuration changes");
}

/// [004] M1: SIGKILL at any moment of a revert; the next start goes on with it.
#[test]
fn a_revert_goes_on_after_the_node_was_killed() {
    let mut stand = match Stand::begin() {
        Ok(stand) => stand,
        Err(reason) => return eprintln!("skipped: {reason}"),
    };
    stand.edit(|device| {
        device.app(APP).request_snapshot(SNAPSHOT, SnapshotType::Immediate);
    });
    stand.until("the snapshot", |stand| {
        stand.ask(&["snapshots", "--json"]).is_ok_and(|told| told.contains("\"state\":\"available\""))
    });
    let disk = ["--volume", &DISK.to_string()];
    for round in 0..8_u64 {
        fs::write(stand.file(DISK), vec![b'x'; 1 << 20]).expect("a halted guest's disk");
        let snapshot = SNAPSHOT.to_string();
        let plan = stand.json(&[&["--json", "volume", "revert", &snapshot, "--dry-run"], &disk[..]].concat());
        let digest = plan["digest"].as_str().expect("not refused").to_owned();
        let order = [&disk[..], &["--yes", &digest, "--json"]].concat();
        stand.revert(&order).expect("taken in: durable from here on");
        std::thread::sleep(Duration::from_millis(4 * round));
        stand.node.as_mut().expect("running").kill().expect("killed");
        stand.start();
        stand.until("the revert", |stand| {
            stand.revert(&order).is_ok_and(|told| told.contains("\"state\":\"done\""))
        });
        assert!(fs::read(stand.file(DISK)).expect("read").iter().all(|byte| *byte == b'r'), "round {round}");
        let folder = stand.folder.path().join("persist/vault/volumes");
        let names: Vec<String> = fs::read_dir(folder)
            .expect("there")
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| name.contains(&DISK.to_string()))
            .collect();
        assert_eq!(names.len(), 2, "the disk and its snapshot, round {round}: {names:?}");
    }
}
