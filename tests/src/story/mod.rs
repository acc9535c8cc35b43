//! A whole node in one process, told about in the domain's words.
//!
//! The node is the real one: bus, agents, persist directory on a real file system, real `qemu-img`, the controller's
//! real wire on the loopback. Only the hypervisor is simulated, and what a guest would write the story writes into the
//! image itself, as a byte that fills the first [`CONTENT_BYTES`]. On a pool (`HOLDFAST_ZFS_POOL`) volumes are devices, and
//! all this is read and written through them.
//!
//! ```text
//!   Story ──edit──▶ controller-sim ◀──HTTP── node (zedagent, zedmanager, volumemgr, domainmgr) ──▶ qemu-img, files
//!     └────────────── expects: reports, image content, what lies under the persist directory ◀────────────┘
//! ```
//!
//! Every wait has a deadline of [`PATIENCE`], and a wait that is over says what was reported last.

mod content;
mod pool_disk;
mod running;
mod small_disk;
mod tool;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use holdfast_agents::domainmgr::simulated_vmm::SimulatedVmm;
use holdfast_agents::settings::ZfsChoice;
use holdfast_agents::wire::info::{ZInfoApp, ZInfoSnapshot};
use holdfast_types::{LocalAction, LocalAsk, LocalOutcome, Plan, PlanAnswer};
use tempfile::TempDir;
use uuid::Uuid;

use crate::controller::DeviceConfig;
use crate::controller::server::Server;
pub use crate::hooked_tool::Step;
pub use content::CONTENT_BYTES;
pub use holdfast_agents::domainmgr::simulated_vmm::Habits;
pub use holdfast_agents::wire::config::{Format, SnapshotType};
pub use pool_disk::PoolDisk;
pub use running::{Running, Told};
pub use small_disk::SmallDisk;
pub use tool::ToolFaults;

/// How long anything may take before the story fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long to watch for what must *not* happen. Several polls of the node fit in.
pub const A_WHILE: Duration = Duration::from_millis(700);

const MIB: u64 = 1 << 20;

/// Fixed ids, so that a failing story reads the same each time.
pub const DEVICE: Uuid = Uuid::from_u128(0xd000_0000_0000_4000_8000_0000_0000_0001);
pub const APP: Uuid = Uuid::from_u128(0xa000_0000_0000_4000_8000_0000_0000_0001);
pub const OTHER_APP: Uuid = Uuid::from_u128(0xa000_0000_0000_4000_8000_0000_0000_0002);
pub const IMAGE: Uuid = Uuid::from_u128(0xb000_0000_0000_4000_8000_0000_0000_0001);
pub const DATA: Uuid = Uuid::from_u128(0xb000_0000_0000_4000_8000_0000_0000_0002);
pub const EXTRA: Uuid = Uuid::from_u128(0xb000_0000_0000_4000_8000_0000_0000_0003);
pub const OTHER_DATA: Uuid = Uuid::from_u128(0xb000_0000_0000_4000_8000_0000_0000_0004);
pub const STORE: Uuid = Uuid::from_u128(0xe000_0000_0000_4000_8000_0000_0000_0001);

/// Snapshot `n` of a story.
pub fn snapshot(n: u8) -> Uuid {
    Uuid::from_u128(0xc000_0000_0000_4000_8000_0000_0000_0000 + u128::from(n))
}

/// The content tree of version `n` of the image.
pub fn content_tree(n: u8) -> Uuid {
    Uuid::from_u128(0xf000_0000_0000_4000_8000_0000_0000_0000 + u128::from(n))
}

#[derive(Debug)]
pub struct Story {
    pub controller: Server,
    pub hypervisor: SimulatedVmm,
    pub tool: ToolFaults,
    /// What the persist directory is on, when that is not the machine's disk.
    pub small_disk: Option<SmallDisk>,
    pub pool: Option<PoolDisk>,
    /// What the node is told about ZFS at its next start.
    pub zfs: ZfsChoice,
    folder: TempDir,
    running: Option<Running>,
}

impl Story {
    /// A node with nothing deployed. None, with the reason printed, where the machine lacks what it takes.
    pub fn begin() -> Option<Story> {
        Story::begin_on(|_| Ok((None, None)))
    }

    /// The same, with a persist directory that holds only so much.
    pub fn begin_on_small_disk(size_mib: u32) -> Option<Story> {
        Story::begin_on(|persist| Ok((Some(SmallDisk::mount(persist, size_mib)?), None)))
    }

    /// The same, with a persist directory on a pool. The node keeps its volumes in files there as long as ZFS is `Off`.
    pub fn begin_on_pool(zfs: ZfsChoice) -> Option<Story> {
        let mut story = Story::begin_on(|persist| Ok((None, Some(PoolDisk::mount(persist)?))))?;
        story.move_to(zfs);
        Some(story)
    }

    fn begin_on(
        disk: impl FnOnce(&Path) -> Result<(Option<SmallDisk>, Option<PoolDisk>), String>,
    ) -> Option<Story> {
        if let Some(reason) = content::missing_tool() {
            eprintln!("skipped: {reason}");
            return None;
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let files = folder.path().join("files");
        std::fs::create_dir(&files).expect("a folder for the datastore");
        let (small_disk, pool) = match disk(&folder.path().join("persist")) {
            Ok(disks) => disks,
            Err(reason) => {
                eprintln!("skipped: {reason}");
                return None;
            }
        };
        let controller = Server::for_test(Some(&files));
        let mut story = Story {
            controller,
            hypervisor: SimulatedVmm::new(),
            tool: ToolFaults::default(),
            small_disk,
            pool,
            zfs: ZfsChoice::Off,
            folder,
            running: None,
        };
        story.edit(|_| {});
        story.start();
        Some(story)
    }

    /// Version 1 of the application `db`, running: an image volume whose content is `1`, and a blank data volume
    /// on which the guest has written `a`.
    pub fn deployed() -> Option<Story> {
        Some(Story::begin()?.with_app())
    }

    pub fn with_app(self) -> Story {
        self.deploy();
        self.guest_writes(DATA, 1, b'a');
        self
    }

    /// Version 2 runs, after an update that replaced nothing; snapshot 1 holds version 1, with the data `a`.
    pub fn upgraded_by_restart(self) -> Self {
        let story = self.with_app();
        story.request(1);
        story.update_by_restart("2");
        story.expect_running("2");
        story.expect_available(1, "1");
        story
    }

    pub fn deploy(&self) {
        self.publish_image(1);
        let store = self.controller.address();
        self.edit(|device| {
            device.add_datastore(STORE, &store.to_string(), "files");
            device.add_download_volume(IMAGE, content_tree(1), 0).name("image");
            device.add_blank_volume(DATA, 16 * MIB).name("data");
            let app = device.add_app(APP, "db").version("1").memory_kib(65_536);
            app.volume(IMAGE, 1).volume(DATA, 1).max_snapshots(3);
        });
        self.expect_running("1");
    }

    /// Serves an image whose content is the digit `n`, and lists its content tree.
    pub fn publish_image(&self, n: u8) {
        self.publish_file(n, &self.make_image(b'0' + n));
    }

    /// A qcow2 image with this content, as bytes.
    pub fn make_image(&self, content: u8) -> Vec<u8> {
        let path = self.folder.path().join("image.qcow2");
        content::make_image(&path, 16 * MIB, content);
        std::fs::read(path).expect("just made")
    }

    /// A qcow2 image that shows another file where it has nothing of its own.
    pub fn make_overlay_of(&self, backing: &Path) -> Vec<u8> {
        let path = self.folder.path().join("overlay.qcow2");
        content::make_overlay(&path, 16 * MIB, backing);
        std::fs::read(path).expect("just made")
    }

    /// Serves any bytes as version `n` of the image, with the sha256 they have.
    pub fn publish_file(&self, n: u8, bytes: &[u8]) {
        let name = format!("image-{n}.qcow2");
        self.serve_file(&name, bytes);
        let digest = content::sha256(bytes);
        self.edit(|device| {
            let tree = device.add_content_tree(content_tree(n), STORE, &name, Format::Qcow2);
            tree.sha256(&digest).max_size_bytes(64 * MIB);
        });
    }

    /// Puts any file where the datastore serves it.
    pub fn serve_file(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.folder.path().join("files").join(name), bytes).expect("a writable folder");
    }

    // ---- what the controller does ------------------------------------------------------------------------

    pub fn edit(&self, edit: impl FnOnce(&mut DeviceConfig)) {
        self.controller.edit_config(DEVICE, edit).expect("the simulator keeps it");
    }

    /// Asks for snapshot `n` at the next update.
    pub fn request(&self, n: u8) {
        self.edit(|device| {
            device.app(APP).request_snapshot(snapshot(n), SnapshotType::AppUpdate);
        });
    }

    /// The image is replaced by version `n` through a purge; the data volume stays.
    pub fn update_image(&self, n: u8) {
        self.publish_image(n);
        self.order_image(n);
    }

    /// The same, of an image that is served already.
    pub fn order_image(&self, n: u8) {
        self.edit(|device| {
            device.replace_volume(IMAGE, content_tree(n)).expect("the image is listed");
            device.app(APP).version(&n.to_string());
        });
    }

    /// The guest of this application behaves like this from now on.
    pub fn guest_habits(&self, habits: Habits) {
        self.hypervisor.set_habits(APP, habits);
    }

    /// An operation has stopped the guest, or is about to.
    pub fn expect_under_way(&self) {
        self.expect_app("RESTARTING or PURGING", |app| matches!(app.state, 10 | 11));
    }

    /// An update that restarts and replaces nothing.
    pub fn update_by_restart(&self, version: &str) {
        self.edit(|device| {
            device.app(APP).version(version).restart();
        });
    }

    pub fn roll_back(&self, n: u8) {
        self.edit(|device| {
            device.app(APP).roll_back(snapshot(n));
        });
    }

    pub fn drop_snapshot(&self, n: u8) {
        self.edit(|device| {
            device.app(APP).drop_snapshot(snapshot(n));
        });
    }

    pub fn activate(&self, activate: bool) {
        self.edit(|device| {
            device.app(APP).activate(activate);
        });
    }

    /// The application is listed no more; its volumes are.
    pub fn remove_app_alone(&self) {
        self.edit(|device| device.remove_app(APP));
    }

    /// The application and its volumes are listed no more.
    pub fn remove_app(&self) {
        self.edit(|device| {
            device.remove_app(APP);
            for volume in [IMAGE, DATA, EXTRA] {
                device.remove_volume(volume);
            }
        });
    }

    // ---- the node -----------------------------------------------------------------------------------------

    /// Starts the node that was stopped.
    pub fn start(&mut self) {
        self.start_as(None);
    }

    /// As after too many starts that failed, for this reason.
    pub fn start_read_only(&mut self, reason: &str) {
        self.start_as(Some(reason.to_owned()));
    }

    fn start_as(&mut self, read_only: Option<String>) {
        assert!(self.running.is_none());
        let running = Running::start(
            &self.persist(),
            DEVICE,
            &self.controller.url(),
            self.hypervisor.clone(),
            self.tool.clone(),
            Told { zfs: self.zfs, read_only },
        );
        self.running = Some(running);
    }

    /// The service is stopped and started; guests go on.
    pub fn restart_service(&mut self) {
        self.running.take().expect("running").stop();
        self.start();
    }

    /// The service is started anew with another setting for ZFS.
    pub fn move_to(&mut self, zfs: ZfsChoice) {
        self.zfs = zfs;
        self.restart_service();
    }

    /// The whole node goes down and comes up again, its guests with it.
    pub fn reboot(&mut self) {
        self.running.take().expect("running").stop();
        self.hypervisor.power_cycle();
        self.start();
    }

    pub fn stop(&mut self) {
        self.running.take().expect("running").stop();
    }

    pub fn persist(&self) -> PathBuf {
        self.folder.path().join("persist")
    }

    // ---- what the guest does ------------------------------------------------------------------------------

    pub fn guest_writes(&self, volume: Uuid, generation: i64, content: u8) {
        content::write(&self.image(volume, generation), content);
    }

    /// Where the volume is: its image; on a pool its device, unless there is an image.
    pub fn image(&self, volume: Uuid, generation: i64) -> PathBuf {
        let image = self.persist().join(format!("vault/volumes/{volume}#{generation}.qcow2"));
        if let Some(raw) = self.incarnations(volume, generation).pop() {
            return raw;
        }
        match &self.pool {
            Some(pool) if !image.exists() => pool.device(volume, generation),
            _ => image,
        }
    }

    /// The files that hold a raw volume; one, unless a clone is taking its place.
    pub fn incarnations(&self, volume: Uuid, generation: i64) -> Vec<PathBuf> {
        let mut found = Vec::new();
        collect(&self.persist().join("vault/volumes"), &mut found);
        let mark = format!("{volume}#{generation}.");
        let is_it = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name.starts_with(&mark) && name.ends_with(".raw")
        };
        found.retain(is_it);
        found
    }

    /// How often the application's guest was started, since the story began.
    pub fn guest_starts(&self) -> usize {
        self.hypervisor.starts(APP)
    }

    // ---- what is expected ---------------------------------------------------------------------------------

    pub fn expect_content(&self, volume: Uuid, generation: i64, content: u8) {
        let image = self.image(volume, generation);
        content::expect_healthy(&image);
        let found = content::read(&image);
        assert_eq!(found.map(char::from), Some(char::from(content)), "content of {}", image.display());
    }

    pub fn expect_no_volume(&self, volume: Uuid, generation: i64) {
        let image = self.image(volume, generation);
        self.until(&format!("{} to go", image.display()), || !image.exists());
    }

    pub fn expect_running(&self, version: &str) {
        self.expect_app(&format!("RUNNING with version {version}"), |app| {
            app.app_version == version && app.state == 7
        });
    }

    pub fn expect_halted(&self, version: &str) {
        self.expect_app(&format!("HALTED with version {version}"), |app| {
            app.app_version == version && app.state == 9
        });
    }

    /// Snapshot `n` is reported, of this version and without an error.
    pub fn expect_available(&self, n: u8, version: &str) {
        self.expect_snapshot(&format!("snapshot {n} available with version {version}"), n, |found| {
            found.config_version == version && found.snap_err.is_none() && found.create_time.is_some()
        });
    }

    /// Snapshot `n` is reported with an error that says this.
    pub fn expect_failed(&self, n: u8, text: &str) {
        self.expect_snapshot(&format!("snapshot {n} failed: {text}"), n, |found| {
            found.snap_err.as_ref().is_some_and(|error| error.description.contains(text))
        });
    }

    /// Snapshot `n` is reported no more.
    pub fn expect_unreported(&self, n: u8) {
        let id = snapshot(n).to_string();
        self.expect_app(&format!("snapshot {n} not reported"), |app| {
            !app.snapshots.iter().any(|s| s.id == id)
        });
    }

    /// Nothing of snapshot `n` is left: no record, no snapshot within an image.
    pub fn expect_gone(&self, n: u8) {
        let directory = self.persist().join("snapshots").join(snapshot(n).to_string());
        self.until(&format!("{} to go", directory.display()), || !directory.exists());
        for image in self.images() {
            let names = content::snapshots(&image);
            let id = snapshot(n).to_string();
            assert!(!names.iter().any(|name| name.contains(&id)), "{} holds {names:?}", image.display());
        }
    }

    /// The application reports an error that says this.
    pub fn expect_app_error(&self, text: &str) {
        self.expect_app(&format!("an error that says \"{text}\""), |app| {
            app.app_err.iter().any(|error| error.description.contains(text))
        });
    }

    pub fn expect_no_app_error(&self) {
        self.expect_app("no error", |app| app.app_err.is_empty());
    }

    pub fn expect_app(&self, what: &str, check: impl Fn(&ZInfoApp) -> bool) {
        self.expect_of(APP, what, check);
    }

    pub fn expect_of(&self, app: Uuid, what: &str, check: impl Fn(&ZInfoApp) -> bool) {
        let found = self
            .controller
            .wait_for(DEVICE, what, PATIENCE, |device| device.app(app).filter(|app| check(app)).map(|_| ()));
        if let Err(overdue) = found {
            panic!("{overdue}");
        }
    }

    fn expect_snapshot(&self, what: &str, n: u8, check: impl Fn(&ZInfoSnapshot) -> bool) {
        let found = self.controller.wait_for(DEVICE, what, PATIENCE, |device| {
            device.snapshot(APP, snapshot(n)).filter(|found| check(found)).map(|_| ())
        });
        if let Err(overdue) = found {
            panic!("{overdue}");
        }
    }

    /// The newest report's version.
    pub fn version(&self) -> String {
        let core = self.controller.core();
        let device = core.device(DEVICE).expect("known");
        device.app(APP).map(|app| app.app_version.clone()).unwrap_or_default()
    }

    /// Asks as somebody on the node does ([000] L8), and waits for the answer.
    pub fn ask(&self, what: LocalAsk) -> PlanAnswer {
        let running = self.running.as_ref().expect("running");
        let number = running.ask(APP, what);
        self.until("an answer to somebody on the node", || running.answer(APP, number).is_some());
        running.answer(APP, number).expect("just seen")
    }

    pub fn plan(&self, action: LocalAction) -> Plan {
        match self.ask(LocalAsk::Plan(action)) {
            PlanAnswer::Planned(plan) => *plan,
            other => panic!("no plan: {other:?}"),
        }
    }

    /// Agrees to the plan as it is now; panics where it would be refused.
    pub fn order(&self, action: LocalAction) -> LocalOutcome {
        let plan = self.plan(action.clone());
        let digest = plan.digest.unwrap_or_else(|| panic!("refused: {:?}", plan.refusal));
        match self.ask(LocalAsk::Do { action, digest }) {
            PlanAnswer::TakenIn { outcome, before: false } => outcome,
            other => panic!("not taken in: {other:?}"),
        }
    }

    /// Whoever asks again with the same digest is told, in the end that it was done.
    pub fn expect_done(&self, order: &LocalOutcome) {
        let again = LocalAsk::Do { action: order.action.clone(), digest: order.digest.clone() };
        self.until(&format!("{} to be over", order.action), || match self.ask(again.clone()) {
            PlanAnswer::TakenIn { outcome, before: true } => {
                assert_eq!((outcome.operation, &outcome.error), (order.operation, &None));
                !outcome.is_running
            }
            other => panic!("{other:?}"),
        });
    }

    /// The guest is not started again for a while, and the version stays.
    pub fn expect_undisturbed(&self) {
        let (starts, version) = (self.guest_starts(), self.version());
        std::thread::sleep(A_WHILE);
        assert_eq!(self.guest_starts(), starts, "the guest was started again");
        assert_eq!(self.version(), version);
    }

    /// Of the application nothing is left under the persist directory.
    pub fn expect_nothing_left(&self) {
        self.until("the persist directory to be empty of the application", || self.leftovers().is_empty());
    }

    /// Files under the persist directory that belong to an application, a volume or a snapshot.
    pub fn leftovers(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for folder in
            ["snapshots", "vault/volumes", "clear/volumes", "downloads", "quarantine", "domains", "run"]
        {
            collect(&self.persist().join(folder), &mut found);
        }
        for agent in ["zedmanager", "volumemgr"] {
            collect(&self.persist().join("status").join(agent), &mut found);
        }
        found.extend(self.pool.iter().flat_map(PoolDisk::volumes));
        found
    }

    /// Every file under the persist directory with the digest of its content.
    pub fn stored(&self) -> BTreeMap<PathBuf, String> {
        let mut found = Vec::new();
        collect(&self.persist(), &mut found);
        let digest = |path: PathBuf| {
            let bytes = std::fs::read(&path).unwrap_or_default();
            (path, content::sha256(&bytes))
        };
        found.into_iter().map(digest).collect()
    }

    /// Where all volumes are: images, and devices.
    pub fn images(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        collect(&self.persist().join("vault/volumes"), &mut found);
        found.retain(|path| path.extension().is_some_and(|extension| extension == "qcow2"));
        found.extend(self.pool.iter().flat_map(PoolDisk::volumes));
        found
    }

    pub fn until(&self, what: &str, mut check: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !check() {
            assert!(
                Instant::now() < deadline,
                "waited {PATIENCE:?} for {what}; left: {:?}",
                self.leftovers()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop();
        }
        if std::thread::panicking()
            && let Ok(device) = self.controller.core().device(DEVICE)
        {
            let newest: Vec<_> = device.latest().values().collect();
            eprintln!("newest reports: {newest:#?}\nleft: {:#?}", self.leftovers());
        }
    }
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, found);
        } else {
            found.push(path);
        }
    }
    found.sort();
}
