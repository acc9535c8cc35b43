//! Two applications at work, and the moments of their life at which the machine is damaged.
//!
//! ```text
//!   db          volumes 1 and 2, version 3: snapshot 1 of version 1, snapshot 2 before version 2, volume 1 purged
//!               for version 3 (its old generation is kept for the snapshots), snapshot 3 of version 3
//!   bystander   volume 9, version 1: snapshots 51 and 52
//! ```

use std::path::PathBuf;
use std::sync::Arc;

use holdfast_agents::wire::config::SnapshotType;
use holdfast_persist::rows::row_of_spare;
use holdfast_persist::{Disk, MemDisk, PersistLayout};
use holdfast_tests::controller::DeviceConfig;
use holdfast_tests::world::guests::MEMORY_BASE_KIB;
use holdfast_tests::world::storage::Storage;
use holdfast_tests::world::tap::{CutPoint, Recorder};
use holdfast_tests::world::workload::{APP, BYSTANDER, Op, snapshot, volume};
use holdfast_tests::world::{DEVICE, Schedule, Survival, World};
use uuid::Uuid;

const VOLUME_BYTES: u64 = 16 << 20;
pub const FOREIGN: &[u8] = b"somebody else's";

pub fn layout() -> PersistLayout {
    PersistLayout::new("/persist")
}

/// Both applications run, each with its snapshots, and nothing is under way.
pub fn at_rest() -> CutPoint {
    let mut world = deployed();
    for op in [Op::SnapshotNow, Op::SnapshotByUpdate, Op::Purge, Op::SnapshotNow] {
        order(&mut world, op);
        world.settle().expect("no fault yet");
    }
    for n in [51, 52] {
        world.order(|orders| {
            orders.edit(|device| {
                device.app(BYSTANDER).request_snapshot(snapshot(n), SnapshotType::Immediate);
            });
        });
        world.settle().expect("no fault yet");
    }
    cut(&world.moment())
}

/// The same, after db was rolled back to its newest snapshot.
pub fn rolled_back() -> CutPoint {
    let mut world = resumed(&at_rest());
    order(&mut world, Op::RollBack);
    world.settle().expect("no fault yet");
    cut(&world.moment())
}

/// Every moment of an operation of db at which something durable changed, from the first to the last.
pub fn moments_of(op: Op) -> Vec<CutPoint> {
    let mut world = resumed(&at_rest());
    world.settle().expect("no fault yet");
    order(&mut world, op);
    world.tap.record(Recorder::All(Vec::new()));
    world.settle().expect("no fault yet");
    let Recorder::All(points) = world.tap.taken() else { unreachable!("asked for all") };
    let mut seen = std::collections::BTreeSet::new();
    points.iter().map(cut).filter(|point| seen.insert(point.disk.fingerprint())).collect()
}

/// The power is gone, and with it what was not synced.
fn cut(point: &CutPoint) -> CutPoint {
    let point = CutPoint { disk: point.disk.fork(), ..point.clone() };
    point.disk.crash();
    point
}

fn resumed(point: &CutPoint) -> World {
    World::after_cut(point, Survival::Lost, Recorder::Off, Schedule::Fixed).expect("the node comes up")
}

fn order(world: &mut World, op: Op) {
    world.order(|orders| assert!(op.order(orders), "{op:?} can be ordered"));
}

fn deployed() -> World {
    let memory_kib = u32::try_from(MEMORY_BASE_KIB + 1).expect("small");
    let deploy = |device: &mut DeviceConfig| {
        for n in [1, 2, 9] {
            device.add_blank_volume(volume(n), VOLUME_BYTES).name(&format!("volume {n}"));
        }
        let db = device.add_app(APP, "db").version("1").memory_kib(memory_kib).max_snapshots(8);
        db.volume(volume(1), 1).volume(volume(2), 1);
        let bystander = device.add_app(BYSTANDER, "bystander").version("1").memory_kib(memory_kib);
        bystander.max_snapshots(8).volume(volume(9), 1);
    };
    let mut world = World::begin(Storage::Images, |orders| {
        orders.edit(|device| {
            *device = DeviceConfig::new(DEVICE);
            deploy(device);
        });
    })
    .expect("an empty machine");
    world.settle().expect("no fault yet");
    world
}

/// Every file that a node reads back as something it wrote: records, rows, the saved configuration.
pub fn records(disk: &MemDisk) -> Vec<PathBuf> {
    let layout = layout();
    let places = [layout.snapshots_dir(), layout.status_root(), layout.checkpoint_dir()];
    let files = disk.all_files().into_iter();
    let is_ours = |path: &PathBuf| {
        disk.read(path).is_ok_and(|bytes| bytes != FOREIGN) && row_of_spare(&layout, path).is_none()
    };
    files.filter(|path| places.iter().any(|place| path.starts_with(place))).filter(is_ours).collect()
}

/// Whose record a file is; none for the device's own.
pub fn owner_of(path: &std::path::Path) -> Option<Uuid> {
    let text = path.to_string_lossy();
    let mine = |ids: &[Uuid]| ids.iter().any(|id| text.contains(&id.to_string()));
    let db = [APP, volume(1), volume(2)].into_iter().chain((1..=20).map(snapshot)).collect::<Vec<_>>();
    let bystander = [BYSTANDER, volume(9), snapshot(51), snapshot(52)];
    match (mine(&db), mine(&bystander)) {
        (true, false) => Some(APP),
        (false, true) => Some(BYSTANDER),
        _ => None,
    }
}

/// Things that are not ours, put where ours are: nothing may touch them.
pub fn put_foreign_things(disk: &MemDisk) -> Vec<PathBuf> {
    let layout = layout();
    let directories = [
        layout.snapshots_dir().join("not-an-id"),
        layout.snapshots_dir().join("6f1d2c1e-0c1b-4a53-9d0e"),
        layout.snapshots_dir().join("..6f1d2c1e-0c1b-4a53-9d0e-5b7a1f3c9a51"),
        layout.status_root().join("somebody"),
        layout.topic_dir("zedmanager", "AppInstanceState").join("a-directory.json"),
        layout.topic_dir("volumemgr", "VolumeRecord").join("x"),
        layout.volumes_dir(true).join("a-directory#1.qcow2"),
        layout.domains_dir().join("not-an-id"),
        layout.downloads_dir().join("a-directory"),
        layout.root().join("somebody-elses"),
    ];
    let mut files: Vec<PathBuf> = directories.iter().map(|directory| directory.join("precious")).collect();
    for directory in directories {
        disk.create_dir(&directory, 0o700).expect("no such directory yet");
    }
    files.extend([
        layout.snapshots_dir().join("a-file"),
        layout.snapshots_dir().join(snapshot(200).to_string()),
        layout.topic_dir("zedmanager", "AppInstanceState").join("README"),
        layout.topic_dir("volumemgr", "VolumeRecord").join("%zz.json"),
        layout.volumes_dir(true).join("by-hand.qcow2"),
        layout.volumes_dir(true).join("notes.txt"),
        layout.volumes_dir(false).join(format!("{}#7.qcow2", volume(200))),
        layout.downloads_dir().join("kept-by-hand"),
        layout.quarantine_dir().join("from-last-year"),
    ]);
    for file in &files {
        disk.create_new(file, FOREIGN, 0o600).expect("no such file yet");
    }
    sync_all(disk);
    files
}

/// What is there is durable: what was done to the disk before the boot is no write of the node's.
pub fn sync_all(disk: &MemDisk) {
    fn below(disk: &MemDisk, directory: &std::path::Path) {
        for entry in disk.list(directory).expect("it is there") {
            let path = directory.join(&entry.name);
            match entry.is_file() {
                true => disk.sync_file(&path).expect("it is there"),
                false => below(disk, &path),
            }
        }
        disk.sync_dir(directory).expect("it is there");
    }
    below(disk, std::path::Path::new("/persist"));
}

/// A node on this disk, with everything outside as it was at this moment.
pub fn boot(point: &CutPoint, disk: &MemDisk) -> Result<World, holdfast_tests::world::Violation> {
    let mut ground = point.ground.clone();
    ground.power_cycle();
    World::boot(disk.fork(), ground, Recorder::Off, Schedule::Fixed)
}

/// The image tool on this disk, beside the node's own.
pub fn tool(disk: &MemDisk) -> holdfast_volumehandlers::testing::FakeImageTool {
    holdfast_volumehandlers::testing::FakeImageTool::new(Arc::new(disk.clone()))
}
