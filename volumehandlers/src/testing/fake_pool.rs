//! The suite's fixture of a fake pool on a disk in memory. Also handy for tests that cut its power.

use std::any::Any;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chrono::DateTime;
use holdfast_persist::{Disk, MemDisk};
use holdfast_types::volume::Format;

use super::conformance::{Fixture, Kind};
use super::fake::FakeImageTool;
use super::fake_fixture;
use super::fake_zfs::FakeZfs;
use super::pools::{self, Operator, PoolFixture, dataset_of};
use crate::handler::VolumeHandler;
use crate::name::SnapshotName;
use crate::tool::ImageTool;
use crate::zvol::zfs::SnapshotOf;
use crate::zvol::{Dataset, Zfs, ZvolHandler};

const REMAINS_BYTES: u64 = 1 << 20;

/// A disk in memory with a pool, whose root is `persist`, and the directory `/sources`.
#[derive(Debug)]
pub struct FakePoolFixture {
    disk: MemDisk,
    zfs: FakeZfs,
    tool: FakeImageTool,
    root: Dataset,
    directory: PathBuf,
    sources: PathBuf,
}

impl FakePoolFixture {
    pub fn new() -> Self {
        let disk = MemDisk::new();
        let sources = PathBuf::from("/sources");
        disk.create_dir(&sources, 0o700).expect("a new directory");
        disk.sync_dir(Path::new("/")).expect("a durable one");
        let root = Dataset::parse("persist").expect("a good name");
        let zfs = FakeZfs::new(Arc::new(disk.clone()), Path::new("/pool"), &root);
        zfs.make_pool().expect("a new pool");
        let tool = FakeImageTool::new(Arc::new(disk.clone())).with_zfs(zfs.clone());
        tool.set_now(DateTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600));
        let directory = root.child("vault/volumes").expect("a good name").device();
        FakePoolFixture { disk, zfs, tool, root, directory, sources }
    }

    pub fn mem_disk(&self) -> &MemDisk {
        &self.disk
    }

    pub fn fake_zfs(&self) -> &FakeZfs {
        &self.zfs
    }

    pub fn fake_tool(&self) -> &FakeImageTool {
        &self.tool
    }

    /// The power goes and comes back: what was not durable is lost, and nobody has anything open.
    pub fn crash(&self) {
        self.disk.crash();
        self.tool.forget_holds();
    }
}

impl Default for FakePoolFixture {
    fn default() -> Self {
        FakePoolFixture::new()
    }
}

impl Fixture for FakePoolFixture {
    fn name(&self) -> &'static str {
        "fake pool"
    }

    fn handler(&self) -> Arc<dyn VolumeHandler> {
        Arc::new(ZvolHandler::new(self.zfs(), self.tool(), self.root.clone()))
    }

    fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(self.disk.clone())
    }

    fn tool(&self) -> Arc<dyn ImageTool> {
        Arc::new(self.tool.clone())
    }

    fn kind(&self) -> Kind {
        Kind::Devices
    }

    fn directory(&self) -> &Path {
        &self.directory
    }

    fn sources(&self) -> &Path {
        &self.sources
    }

    fn place(&self, label: &str) -> PathBuf {
        pools::place(&self.directory, label)
    }

    fn stored_as(&self) -> Format {
        Format::Raw
    }

    fn assert_sound(&self, volume: &Path) {
        self.zfs.device(&dataset_of(volume)).expect("the pool and the volume can be read");
    }

    fn fingerprint(&self, volume: &Path) -> String {
        format!("{:?}", self.zfs.device(&dataset_of(volume)).expect("there"))
    }

    fn leave_remains(&self, volume: &Path) {
        pools::leave_remains(&self.zfs, volume, REMAINS_BYTES);
    }

    fn has_remains(&self, volume: &Path) -> bool {
        pools::has_remains(&self.zfs, volume)
    }

    fn resize(&self, volume: &Path, size_bytes: u64) {
        self.operate(Operator::Resize { dataset: &dataset_of(volume), size_bytes });
    }

    fn strangers_snapshot(&self, volume: &Path, name: &str) {
        self.operate(Operator::Snapshot { of: &dataset_of(volume), name });
    }

    fn write(&self, volume: &Path, mebibyte: u64, pattern: u8) {
        self.tool.write(volume, mebibyte, &format!("{pattern}")).expect("the guest writes");
    }

    fn content(&self, volume: &Path) -> String {
        let image = self.tool.image(volume).expect("the device can be read");
        format!("{} bytes: {:?}", image.virtual_size_bytes, image.blocks)
    }

    fn hold(&self, volume: &Path) -> Box<dyn Any> {
        Box::new(self.tool.hold(volume))
    }

    fn source(&self, file_name: &str, format: Format, size_bytes: u64, pattern: u8) -> PathBuf {
        let path = self.sources.join(file_name);
        fake_fixture::write_source(&self.disk, &path, format, size_bytes, pattern);
        path
    }

    fn backed_source(&self, file_name: &str) -> PathBuf {
        let path = self.source(file_name, Format::Qcow2, 8 << 20, 1);
        let backed = self.tool.edit(&path, |image| image.backing_file = Some("/etc/shadow".to_owned()));
        backed.expect("the image can be edited");
        path
    }

    fn nearly_full(&self) -> Option<Box<dyn Fixture>> {
        Some(Box::new(FakePoolFixture::new()))
    }

    fn fill_up(&self) {
        self.disk.set_capacity(0);
    }

    fn run_out_of_room(&self, volume: &Path, name: &str) {
        let name = SnapshotName::parse(name).expect("a good name");
        let snapshot = SnapshotOf { dataset: dataset_of(volume), name };
        let refused = self.zfs.snapshot(&[snapshot], &crate::HandlerCx::unattended());
        refused.expect_err("no room");
    }
}

impl PoolFixture for FakePoolFixture {
    fn zfs(&self) -> Arc<dyn Zfs> {
        Arc::new(self.zfs.clone())
    }

    fn root(&self) -> &Dataset {
        &self.root
    }

    fn operate(&self, act: Operator<'_>) {
        let at = |of: &Dataset, name: &str| SnapshotOf {
            dataset: of.clone(),
            name: SnapshotName::parse(name).expect("a good name"),
        };
        let done = match act {
            Operator::Snapshot { of, name } => self.zfs.foreign_snapshot(of, name),
            Operator::Hold { of, name, tag } => self.zfs.hold(&at(of, name), tag),
            Operator::Release { of, name, tag } => self.zfs.release(&at(of, name), tag),
            Operator::DestroySnapshot { of, name } => self.zfs.remove_snapshot(&at(of, name)),
            Operator::Clone { of, name, to } => self.zfs.clone_snapshot(&at(of, name), to),
            Operator::Bookmark { of, name, mark } => self.zfs.bookmark(&at(of, name), mark),
            Operator::DestroyBookmark { of, mark } => self.zfs.remove_bookmark(of, mark),
            Operator::Create { dataset, size_bytes } => self.zfs.make_dataset(dataset, size_bytes),
            Operator::Destroy(dataset) => self.zfs.remove_dataset(dataset),
            Operator::Resize { dataset, size_bytes } => {
                self.zfs.edit(dataset, |volume| volume.size_bytes = size_bytes)
            }
            Operator::Quota { dataset, bytes } => self.zfs.set_quota(dataset, bytes),
        };
        done.expect("the operator may");
    }
}
