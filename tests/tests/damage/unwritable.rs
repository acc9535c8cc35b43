//! A persist directory that takes no writes when the node starts: read-only, or full. The real `holdfast node` on a tmpfs.
//!
//! It comes up, says why nothing changes, and acts again when it can: on a disk with room again by itself, on a file system
//! that was mounted for writing again in a new process, which the service manager starts.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use holdfast_tests::demo::holdfast_beside_us;
use holdfast_tests::demo::node_process::{NodeProcess, NodeSettings};
use holdfast_tests::world::workload::APP;
use serde_json::Value;

const WITHIN: Duration = Duration::from_secs(60);

/// A tmpfs and what a node needs to run on it; dropping it takes the tmpfs away.
struct Stage {
    settings: NodeSettings,
    _directory: tempfile::TempDir,
}

impl Stage {
    /// A node has run on it once. None, with the reason printed, where this machine lacks something.
    fn set_up() -> Option<Stage> {
        let skipped = |why: &str| {
            eprintln!("skipped: {why}");
            None
        };
        let Some(holdfast) = holdfast_beside_us() else {
            return skipped("the program `holdfast` is not built (`cargo test --workspace` builds it)");
        };
        let directory = tempfile::tempdir().expect("a directory");
        let persist = directory.path().join("persist");
        std::fs::create_dir(&persist).expect("a directory");
        let mount = ["-t", "tmpfs", "-o", "size=24m,mode=0700", "holdfast-damage"];
        if !ran(Command::new("mount").args(mount).arg(&persist)) {
            return skipped("no tmpfs can be mounted: that is root's");
        }
        let settings = NodeSettings {
            holdfast,
            persist,
            controller: "http://127.0.0.1:9".to_owned(),
            device: "6f1d2c1e-0c1b-4a53-9d0e-5b7a1f3c9a51".to_owned(),
            socket: directory.path().join("socket"),
            log: directory.path().join("log"),
            events: directory.path().join("events"),
        };
        let stage = Stage { settings, _directory: directory };
        let mut node = stage.start();
        stage.expect_mode("normal");
        node.terminate(WITHIN).expect("it ends");
        Some(stage)
    }

    fn start(&self) -> NodeProcess {
        self.settings.start().expect("it can be run")
    }

    fn remount(&self, how: &str) {
        assert!(ran(Command::new("mount").args(["-o", how]).arg(&self.settings.persist)), "remounted {how}");
    }

    /// The node is ready and in this mode; returns why.
    fn expect_mode(&self, mode: &str) -> String {
        let begun = Instant::now();
        loop {
            let status = self.settings.ask(&["--json", "status"]).unwrap_or_default();
            let status: Value = serde_json::from_str(&status).unwrap_or_default();
            if status["stage"] == "ready" && status["mode"] == mode {
                return status["mode_reason"].as_str().unwrap_or_default().to_owned();
            }
            let log = || std::fs::read_to_string(&self.settings.log).unwrap_or_default();
            assert!(begun.elapsed() < WITHIN, "not {mode}: {status}\n{}", log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn row(&self) -> PathBuf {
        self.settings.persist.join(format!("status/zedmanager/AppInstanceState/{APP}.json"))
    }

    /// A row that is damaged, and the rest of a write that was cut off.
    fn damage_a_row(&self) {
        let directory = self.row().parent().map(Path::to_path_buf).expect("in a directory");
        std::fs::create_dir_all(&directory).expect("made");
        std::fs::write(self.row(), b"{\"App\": ").expect("written");
        std::fs::write(directory.join(".tmp~cut-off"), b"{").expect("written");
    }

    fn quarantined(&self) -> PathBuf {
        self.settings.persist.join(format!("quarantine/status+zedmanager+AppInstanceState+{APP}.json"))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        ran(Command::new("umount").arg("-l").arg(&self.settings.persist));
    }
}

fn ran(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

#[test]
fn a_node_on_a_read_only_directory_comes_up_and_starts_over_when_it_can_write() {
    let Some(stage) = Stage::set_up() else { return };
    stage.damage_a_row();
    stage.remount("remount,ro");
    let mut node = stage.start();
    let why = stage.expect_mode("read-only");
    assert!(why.contains("ead-only file system"), "{why}");
    assert!(stage.row().exists(), "nothing was moved");

    stage.remount("remount,rw");
    let begun = Instant::now();
    let ended = loop {
        if let Some(ended) = node.ended().expect("it is ours") {
            break ended;
        }
        assert!(begun.elapsed() < WITHIN, "it does not start over");
        std::thread::sleep(Duration::from_millis(100));
    };
    assert_eq!(ended.code(), Some(1), "the service manager starts it again");
    let mut node = stage.start();
    stage.expect_mode("normal");
    assert!(stage.quarantined().exists() && !stage.row().exists());
    node.terminate(WITHIN).expect("it ends");
}

#[test]
fn a_node_on_a_full_disk_comes_up_and_goes_on_when_there_is_room() {
    let Some(stage) = Stage::set_up() else { return };
    stage.damage_a_row();
    let persist = &stage.settings.persist;
    std::fs::remove_file(persist.join("reserve")).expect("it was made");
    let filler = persist.join("somebody-elses-file");
    let filled = std::fs::File::create(&filler)
        .map(|mut file| while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {});
    filled.expect("a directory entry takes no room");

    let mut node = stage.start();
    let why = stage.expect_mode("no-space");
    assert!(why.contains("full"), "{why}");
    assert!(stage.quarantined().exists() && !stage.row().exists(), "moved aside without room for the reason");

    std::fs::remove_file(&filler).expect("it is ours");
    stage.expect_mode("normal");
    assert_eq!(node.ended().expect("it is ours"), None, "by itself");
    node.terminate(WITHIN).expect("it ends");
}
