//! volumemgr on a bench: the real agent and handlers, an image tool and a datastore in memory, a disk that loses
//! what was not synced. zedagent and zedmanager are played by the test.

mod clones;
mod crashes;
mod cuts;
mod reverts;
mod snapshots;
mod tables;
mod volumes;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use holdfast_persist::{Disk, MemDisk, PersistLayout, record};
use holdfast_types::*;
use holdfast_volumehandlers::registry::{Backing, Registry};
use holdfast_volumehandlers::testing::{Blocks, FakeImage, FakeImageTool, HeldImage, image_bytes};
use holdfast_volumehandlers::{Placement, ToolError, testing};

pub(super) use testing::Verb;

use super::jobs::VolumeJob;
use super::testing::*;
use super::{Env, Volumemgr};
use crate::runtime::{Bench, Clock, ManualClock};

pub(super) const MIB: u64 = 1 << 20;

pub(super) struct Node {
    pub bench: Bench<Volumemgr>,
    pub tool: FakeImageTool,
    pub store: MemFetcher,
}

impl Node {
    /// A node on an empty disk, started, with zedagent and zedmanager having said all they know: nothing.
    pub fn new() -> Self {
        let mut node = Self::unstarted(MemDisk::new(), ManualClock::default(), MemFetcher::new());
        node.start();
        node.everybody_speaks();
        node
    }

    fn unstarted(disk: MemDisk, clock: ManualClock, store: MemFetcher) -> Self {
        let tool = FakeImageTool::new(Arc::new(disk.clone()));
        tool.set_now(clock.now());
        let layout = PersistLayout::new("/persist");
        let env = Env {
            disk: Arc::new(disk.clone()),
            layout: layout.clone(),
            fetcher: Arc::new(store.clone()),
            registry: Registry::new(&Backing::Files, Arc::new(disk.clone()), Arc::new(tool.clone()))
                .with_raw_snapshots(Arc::new(disk.clone()), Arc::new(tool.clone())),
        };
        let bench = Bench::on(disk, clock, Volumemgr::new(layout, Placement::Files), env);
        Node { bench, tool, store }
    }

    /// Starts the agent; its inventory is taken.
    pub fn start(&mut self) {
        self.bench.start();
        self.bench.run_jobs();
    }

    /// The power goes; a new node on what the disk kept, not started.
    pub fn cut_power(self) -> Self {
        self.bench.disk.crash();
        Self::unstarted(self.bench.disk.clone(), self.bench.clock.clone(), self.store)
    }

    pub fn everybody_speaks(&mut self) {
        self.bench.signal_restarted::<VolumeConfig>();
        self.bench.signal_restarted::<ContentTreeConfig>();
        self.bench.signal_restarted::<VolumeRefConfig>();
        self.bench.signal_restarted::<VolumesSnapshotConfig>();
        self.settle();
    }

    /// Jobs run and short delays pass until nothing happens any more.
    pub fn settle(&mut self) {
        self.bench.run_jobs();
    }

    /// Settles over this time, so that what failed is tried again.
    pub fn wait(&mut self, time: Duration) {
        let end = self.bench.clock.elapsed() + time;
        while self.bench.clock.elapsed() < end {
            self.bench.advance(Duration::from_secs(1));
            self.bench.run_jobs();
        }
    }

    pub fn configure(&mut self, config: VolumeConfig) {
        self.bench.publish(config);
        self.settle();
    }

    pub fn refer(&mut self, key: VolumeKey) {
        self.bench.publish(VolumeRefConfig { key: reference(key) });
        self.settle();
    }

    pub fn unrefer(&mut self, key: VolumeKey) {
        self.bench.unpublish::<VolumeRefConfig>(&reference(key));
        self.settle();
    }

    /// Blank volumes 1, 2, ... in generation 0, made and in use, with content of their own.
    pub fn with_volumes(count: u8) -> Self {
        let mut node = Node::new();
        for n in 1..=count {
            node.configure(blank(key(n, 0)));
            node.refer(key(n, 0));
            node.guest_writes(key(n, 0), "first");
        }
        node
    }

    pub fn path(&self, key: VolumeKey) -> PathBuf {
        self.bench.layout.volume_file(true, &key.volume, &key.generation, &"qcow2")
    }

    /// A guest's write, synced.
    pub fn guest_writes(&self, key: VolumeKey, text: &str) {
        self.tool.write(&self.path(key), 0, text).expect("the volume is there");
        self.bench.disk.sync_file(&self.path(key)).expect("synced");
    }

    pub fn guest_reads(&self, key: VolumeKey) -> String {
        let blocks = self.tool.content(&self.path(key)).expect("the volume is there");
        blocks.get(&0).cloned().unwrap_or_default()
    }

    pub fn hold(&self, key: VolumeKey) -> HeldImage {
        self.tool.hold(&self.path(key))
    }

    /// Somebody takes every snapshot out of the image.
    pub fn lose_snapshots(&self, image: &Path) {
        self.tool.edit(image, |image| image.snapshots.clear()).expect("removed behind our back");
        self.bench.disk.sync_file(image).expect("synced");
    }

    /// A record's file is torn after so many bytes, durably.
    pub fn tear(&self, path: &Path, kept_bytes: u64) {
        self.bench.disk.truncate(path, kept_bytes).expect("torn");
        self.bench.disk.sync_file(path).expect("durably");
    }

    pub fn snapshots_in(&self, key: VolumeKey) -> Vec<String> {
        let image = self.tool.image(&self.path(key)).expect("the volume is there");
        image.snapshots.into_iter().map(|snapshot| snapshot.name).collect()
    }

    pub fn request(&mut self, action: SnapshotAction, operation: u64, volumes: &[VolumeKey]) {
        self.bench.publish(request(action, operation, volumes));
        self.settle();
    }

    pub fn withdraw(&mut self) {
        self.bench.unpublish::<VolumesSnapshotConfig>(&snapshot(1));
        self.settle();
    }

    pub fn answer(&self) -> Option<VolumesSnapshotStatus> {
        self.bench.row::<VolumesSnapshotStatus>(&snapshot(1))
    }

    /// The answer to this very request, which must be a success.
    #[track_caller]
    pub fn expect_success(&self, action: SnapshotAction, operation: u64) -> VolumesSnapshotStatus {
        let answer = self.answer().expect("an answer");
        assert_eq!((answer.result_of, answer.operation), (action, OperationNumber(operation)));
        assert_eq!(answer.error, None);
        answer
    }

    /// The answer to this very request, which must be a failure.
    #[track_caller]
    pub fn expect_failure(&self, action: SnapshotAction, operation: u64) -> ErrorReport {
        let answer = self.answer().expect("an answer");
        assert_eq!((answer.result_of, answer.operation), (action, OperationNumber(operation)), "{answer:?}");
        answer.error.expect("an error")
    }

    pub fn volume(&self, key: VolumeKey) -> Option<VolumeStatus> {
        self.bench.row::<VolumeStatus>(&key)
    }

    #[track_caller]
    pub fn volume_error(&self, key: VolumeKey) -> ErrorReport {
        self.volume(key).expect("a status").error.expect("an error")
    }

    pub fn reference(&self, key: VolumeKey) -> VolumeRefStatus {
        self.bench.row::<VolumeRefStatus>(&reference(key)).expect("an answer to the reference")
    }

    pub fn is_there(&self, path: &Path) -> bool {
        self.bench.disk.metadata(path).expect("a look").is_some()
    }

    pub fn record(&self) -> Option<VolumesSnapshotStatus> {
        let path = self.bench.layout.volumes_snapshot_status_file(&snapshot(1));
        record::load(&self.bench.disk, &path).ok()
    }

    /// Those with something left to do: an answer that is kept is none.
    pub fn intents(&self) -> Vec<SnapshotIntent> {
        let mut intents: Vec<SnapshotIntent> = self.bench.rows();
        intents.retain(|intent| intent.stage != IntentStage::Answered);
        intents
    }

    /// Nothing is half done: no intent, no safety snapshot, inside the image or beside it.
    #[track_caller]
    pub fn expect_tidy(&self, volumes: &[VolumeKey]) {
        assert_eq!(self.intents(), []);
        for key in volumes {
            let safeties = self.snapshots_in(*key).into_iter().filter(|name| name.contains("safety"));
            assert_eq!(safeties.collect::<Vec<_>>(), Vec::<String>::new(), "on {key}");
            let path = self.path(*key);
            let directory = self.bench.disk.list(path.parent().expect("a directory")).expect("listed");
            let beside =
                directory.iter().filter_map(|entry| entry.text()).filter(|name| name.contains("safety"));
            assert_eq!(beside.collect::<Vec<_>>(), Vec::<&str>::new(), "beside {key}");
        }
    }
}

pub(super) fn reference(key: VolumeKey) -> VolumeRefKey {
    VolumeRefKey { app: app(1), volume: key }
}

pub(super) fn blank(key: VolumeKey) -> VolumeConfig {
    VolumeConfig {
        key,
        origin: VolumeOrigin::Blank,
        max_size_bytes: MIB,
        read_only: false,
        clear_text: false,
        display_name: "data".into(),
    }
}

/// Volume `n` from content tree `n`.
pub(super) fn downloaded(key: VolumeKey, n: u8) -> VolumeConfig {
    VolumeConfig {
        origin: VolumeOrigin::Download { content_tree: content_tree(n) },
        max_size_bytes: 0,
        ..blank(key)
    }
}

pub(super) fn request(
    action: SnapshotAction,
    operation: u64,
    volumes: &[VolumeKey],
) -> VolumesSnapshotConfig {
    VolumesSnapshotConfig {
        snapshot: snapshot(1),
        action,
        volumes: volumes.to_vec(),
        app: app(1),
        operation: OperationNumber(operation),
        made: false,
        consent: Consent::default(),
        revert: None,
    }
}

/// A qcow2 image for download, and its digest.
pub(super) fn image(text: &str) -> (Vec<u8>, String) {
    use sha2::{Digest, Sha256};
    let bytes = image_bytes(&FakeImage::new(Format::Qcow2, MIB, Blocks::from([(0, text.into())])));
    let digest = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    (bytes, digest)
}

pub(super) fn passing() -> ToolError {
    ToolError::Failed {
        program: "qemu-img".into(),
        status: "exit status: 1".into(),
        stderr: "I/O error".into(),
    }
}

pub(super) fn is_step(step: super::steps::VolumeStep, n: u8) -> impl Fn(&VolumeJob) -> bool {
    move |job| matches!(job, VolumeJob::Step(order) if order.step == step && order.volumes[0].place.key.volume == volume(n))
}
