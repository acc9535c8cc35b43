//! The suite's fixture of a real pool, which `HOLDFAST_ZFS_POOL` names: devices, the `zfs` command as the operator, files for sources.

#![allow(clippy::disallowed_methods, reason = "the test rig on real devices")]

use std::any::Any;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use holdfast_persist::{Disk, RealDisk};
use holdfast_types::volume::Format;

use super::conformance::{Fixture, Kind};
use super::pools::{self, Operator, PoolFixture, dataset_of};
use super::real::{expect_success, write_backed_source, write_pattern};
use super::records::checksum;
use crate::context::HandlerCx;
use crate::handler::VolumeHandler;
use crate::name::SnapshotName;
use crate::qcow2::QemuImg;
use crate::tool::ImageTool;
use crate::zvol::device;
use crate::zvol::zfs::SnapshotOf;
use crate::zvol::{Dataset, Zfs, ZvolHandler};

/// Names the pool that tests may use; they keep to datasets of their own in it.
pub const POOL_VARIABLE: &str = "HOLDFAST_ZFS_POOL";
const CHUNK_BYTES: usize = 64 << 10;
const REMAINS_BYTES: u64 = 1 << 20;

/// A file system of its own in the pool, destroyed with all in it at the end.
#[derive(Debug)]
pub struct RealPoolFixture {
    name: &'static str,
    zfs: Arc<dyn Zfs>,
    root: Dataset,
    directory: PathBuf,
    sources: tempfile::TempDir,
}

impl RealPoolFixture {
    /// Or the reason why this machine cannot run it.
    pub fn new(name: &'static str, zfs: Arc<dyn Zfs>) -> Result<Self, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let pool = std::env::var(POOL_VARIABLE).map_err(|_| {
            format!("{POOL_VARIABLE} names no pool (make zfs-test runs this where there is one)")
        })?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let root = format!("{pool}/holdfast-{}-{number}", std::process::id());
        operator(&["create", "-o", "mountpoint=none", &root]);
        let root = Dataset::parse(&root).map_err(|error| error.to_string())?;
        let directory = root.child("vault/volumes").map_err(|error| error.to_string())?.device();
        let sources = tempfile::tempdir().map_err(|error| format!("no temporary directory: {error}"))?;
        Ok(RealPoolFixture { name, zfs, root, directory, sources })
    }
}

impl Drop for RealPoolFixture {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = Command::new("zfs").args(["list", "-t", "all", "-r", self.root.as_str()]).status();
        }
        let _ = Command::new("zfs").args(["destroy", "-R", self.root.as_str()]).status();
    }
}

impl Fixture for RealPoolFixture {
    fn name(&self) -> &'static str {
        self.name
    }

    fn handler(&self) -> Arc<dyn VolumeHandler> {
        Arc::new(ZvolHandler::new(self.zfs(), self.tool(), self.root.clone()))
    }

    fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(RealDisk)
    }

    fn tool(&self) -> Arc<dyn ImageTool> {
        Arc::new(QemuImg::new())
    }

    fn kind(&self) -> Kind {
        Kind::Devices
    }

    fn directory(&self) -> &Path {
        &self.directory
    }

    fn sources(&self) -> &Path {
        self.sources.path()
    }

    fn place(&self, label: &str) -> PathBuf {
        pools::place(&self.directory, label)
    }

    fn stored_as(&self) -> Format {
        Format::Raw
    }

    fn assert_sound(&self, volume: &Path) {
        self.zfs.volume(&dataset_of(volume)).expect("the volume is there");
    }

    fn fingerprint(&self, volume: &Path) -> String {
        format!("{} {}", pools::told(&*self.zfs, volume), self.content(volume))
    }

    fn leave_remains(&self, volume: &Path) {
        pools::leave_remains(&*self.zfs, volume, REMAINS_BYTES);
        write_at(volume, 0, &[0x66; 4096]);
    }

    fn has_remains(&self, volume: &Path) -> bool {
        pools::has_remains(&*self.zfs, volume)
    }

    fn resize(&self, volume: &Path, size_bytes: u64) {
        self.operate(Operator::Resize { dataset: &dataset_of(volume), size_bytes });
    }

    fn strangers_snapshot(&self, volume: &Path, name: &str) {
        self.operate(Operator::Snapshot { of: &dataset_of(volume), name });
    }

    fn write(&self, volume: &Path, mebibyte: u64, pattern: u8) {
        write_at(volume, mebibyte << 20, &vec![pattern; 1 << 20]);
    }

    /// Read through the device, as a guest would.
    fn content(&self, volume: &Path) -> String {
        let mut bytes = Vec::new();
        open(volume).read_to_end(&mut bytes).expect("the device can be read");
        let told = bytes.chunks(CHUNK_BYTES).enumerate().filter_map(|(at, chunk)| told_of(at, chunk));
        format!("{} bytes: {}", bytes.len(), told.collect::<Vec<_>>().join(", "))
    }

    fn hold(&self, volume: &Path) -> Box<dyn Any> {
        Box::new(open(volume))
    }

    fn source(&self, file_name: &str, format: Format, size_bytes: u64, pattern: u8) -> PathBuf {
        let path = self.sources().join(file_name);
        self.tool().create(&path, format, size_bytes, &HandlerCx::unattended()).expect("created");
        write_pattern(&path, format, 0, 1 << 16, pattern);
        path
    }

    fn backed_source(&self, file_name: &str) -> PathBuf {
        let path = self.sources().join(file_name);
        write_backed_source(&path);
        path
    }

    fn nearly_full(&self) -> Option<Box<dyn Fixture>> {
        let small = RealPoolFixture::new(self.name, self.zfs()).ok()?;
        small.operate(Operator::Quota { dataset: &small.root, bytes: Some(64 << 20) });
        Some(Box::new(small))
    }

    /// What is used becomes the quota; a moment later, when it has been counted.
    fn fill_up(&self) {
        operator(&["snapshot", &format!("{}@counted", self.root)]);
        let used = operator(&["get", "-H", "-p", "-o", "value", "used", self.root.as_str()]);
        let bytes = used.trim().parse().expect("a number");
        self.operate(Operator::Quota { dataset: &self.root, bytes: Some(bytes) });
    }

    /// A snapshot takes no room of a quota; what the guest then writes does.
    fn run_out_of_room(&self, volume: &Path, _name: &str) {
        let room = self.zfs.room(&dataset_of(volume)).expect("looked");
        assert_eq!(room.available_bytes, 0);
    }
}

impl PoolFixture for RealPoolFixture {
    fn zfs(&self) -> Arc<dyn Zfs> {
        Arc::clone(&self.zfs)
    }

    fn root(&self) -> &Dataset {
        &self.root
    }

    fn operate(&self, act: Operator<'_>) {
        match act {
            Operator::Snapshot { of, name } => operator(&["snapshot", &format!("{of}@{name}")]),
            Operator::Hold { of, name, tag } => operator(&["hold", tag, &format!("{of}@{name}")]),
            Operator::Release { of, name, tag } => operator(&["release", tag, &format!("{of}@{name}")]),
            Operator::DestroySnapshot { of, name } => operator(&["destroy", &format!("{of}@{name}")]),
            Operator::Clone { of, name, to } => operator(&["clone", &format!("{of}@{name}"), to.as_str()]),
            Operator::Bookmark { of, name, mark } => {
                operator(&["bookmark", &format!("{of}@{name}"), &format!("{of}#{mark}")])
            }
            Operator::DestroyBookmark { of, mark } => operator(&["destroy", &format!("{of}#{mark}")]),
            Operator::Create { dataset, size_bytes } => {
                operator(&["create", "-s", "-V", &size_bytes.to_string(), dataset.as_str()])
            }
            Operator::Destroy(dataset) => operator(&["destroy", dataset.as_str()]),
            Operator::Resize { dataset, size_bytes } => {
                operator(&["set", &format!("volsize={size_bytes}"), dataset.as_str()])
            }
            Operator::Quota { dataset, bytes } => {
                let bytes = bytes.map_or("none".to_owned(), |bytes| bytes.to_string());
                operator(&["set", &format!("quota={bytes}"), dataset.as_str()])
            }
        };
    }
}

/// The snapshot of a volume, by a name known to be good.
pub fn snapshot_of(volume: &Path, name: &str) -> SnapshotOf {
    SnapshotOf { dataset: dataset_of(volume), name: SnapshotName::parse(name).expect("a good name") }
}

/// A chunk that is not zeros. Whole chunks are compared at once: the guest that this runs in is slow.
fn told_of(at: usize, chunk: &[u8]) -> Option<String> {
    let first = chunk[0];
    if chunk != vec![first; chunk.len()] {
        return Some(format!("{at}: {:016x}", checksum(chunk)));
    }
    (first != 0).then(|| format!("{at}: {first:#04x}"))
}

fn operator(words: &[&str]) -> String {
    let output = Command::new("zfs").args(words).output();
    let text = output.as_ref().map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let text = text.unwrap_or_default();
    expect_success(output);
    text
}

fn open(volume: &Path) -> File {
    device::open(volume, OpenOptions::new().read(true).write(true)).expect("the device can be opened")
}

fn write_at(volume: &Path, offset: u64, bytes: &[u8]) {
    let device = open(volume);
    device.write_all_at(bytes, offset).expect("written");
    device.sync_all().expect("flushed");
}
