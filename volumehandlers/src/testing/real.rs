//! The suite's fixture of real qemu-img and a real directory.
//!
//! qemu-io plays the guest (it writes, and holds the image as QEMU does). Damage and leaks are made in the image's
//! reference counts, found by the qcow2 header. A small file system to fill up is a tmpfs, which needs root.

#![allow(clippy::disallowed_methods, reason = "the test rig on a real disk")]

use std::any::Any;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_persist::{Disk, RealDisk};
use holdfast_types::volume::Format;

use super::conformance::{Fixture, Kind};
use super::image_files;
use crate::context::HandlerCx;
use crate::error::ToolError;
use crate::handler::VolumeHandler;
use crate::qcow2::{Qcow2Handler, QemuImg};
use crate::tool::{Access, ImageTool, qemu_format};

const DEADLINE: Duration = Duration::from_secs(30);
const SMALL_FILE_SYSTEM: &str = "size=12m";
/// Clusters of a new image: the suite's volumes map far fewer, and write from the first mebibyte on.
const UNUSED_CLUSTER: u64 = 900;

/// A temporary directory, removed with all in it at the end.
#[derive(Debug)]
pub struct RealFixture {
    directory: PathBuf,
    mounted: bool,
    _root: tempfile::TempDir,
}

/// True, and said to be so, where qemu-img is not installed.
pub fn tool_is_missing() -> bool {
    let missing = QemuImg::new().version().err();
    missing.inspect(|error| eprintln!("skipped: {error}")).is_some()
}

impl RealFixture {
    /// Or the reason why this machine cannot run it.
    pub fn new() -> Result<Self, String> {
        let version = QemuImg::new().version().map_err(|error| error.to_string())?;
        Command::new("qemu-io")
            .arg("--version")
            .output()
            .map_err(|error| format!("qemu-io cannot be run: {error}"))?;
        eprintln!("{version}");
        let root = tempfile::tempdir().map_err(|error| format!("no temporary directory: {error}"))?;
        Ok(RealFixture { directory: root.path().to_path_buf(), mounted: false, _root: root })
    }

    fn on_small_file_system() -> Option<Self> {
        let root = tempfile::tempdir().ok()?;
        let directory = root.path().join("small");
        fs::create_dir(&directory).ok()?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", SMALL_FILE_SYSTEM, "none"])
            .arg(&directory)
            .output()
            .is_ok_and(|output| output.status.success());
        mounted.then_some(RealFixture { directory, mounted: true, _root: root })
    }

    /// Sets the reference count of a cluster, which lies in the first block of counts, 16 bits each.
    fn set_count(&self, volume: &Path, cluster: u64, count: u16) {
        let file = OpenOptions::new().read(true).write(true).open(volume).expect("opened");
        let table = u64_at(&file, 48);
        let block = u64_at(&file, table);
        file.write_all_at(&count.to_be_bytes(), block + 2 * cluster).expect("written");
    }
}

impl Drop for RealFixture {
    fn drop(&mut self) {
        if self.mounted {
            let _ = Command::new("umount").arg(&self.directory).output();
        }
    }
}

impl Fixture for RealFixture {
    fn name(&self) -> &'static str {
        "qemu-img"
    }

    fn handler(&self) -> Arc<dyn VolumeHandler> {
        Arc::new(Qcow2Handler::new(self.disk(), self.tool()))
    }

    fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(RealDisk)
    }

    fn tool(&self) -> Arc<dyn ImageTool> {
        Arc::new(QemuImg::new())
    }

    fn kind(&self) -> Kind {
        Kind::ImageFiles
    }

    fn directory(&self) -> &Path {
        &self.directory
    }

    fn sources(&self) -> &Path {
        &self.directory
    }

    fn place(&self, label: &str) -> PathBuf {
        self.directory.join(format!("{label}#0.qcow2"))
    }

    fn stored_as(&self) -> Format {
        Format::Qcow2
    }

    fn assert_sound(&self, volume: &Path) {
        image_files::assert_sound(self, volume);
    }

    fn fingerprint(&self, volume: &Path) -> String {
        image_files::fingerprint(self, volume)
    }

    fn leave_remains(&self, volume: &Path) {
        image_files::leave_remains(self, volume);
    }

    fn has_remains(&self, volume: &Path) -> bool {
        image_files::has_remains(self, volume)
    }

    fn resize(&self, volume: &Path, size_bytes: u64) {
        image_files::resize(self, volume, size_bytes);
    }

    fn strangers_snapshot(&self, volume: &Path, name: &str) {
        image_files::strangers_snapshot(self, volume, name);
    }

    fn run_out_of_room(&self, volume: &Path, name: &str) {
        image_files::run_out_of_room(self, volume, name);
    }

    fn write(&self, volume: &Path, mebibyte: u64, pattern: u8) {
        write_pattern(volume, Format::Qcow2, mebibyte << 20, 1 << 20, pattern);
    }

    fn content(&self, volume: &Path) -> String {
        let plain = tempfile::NamedTempFile::new().expect("a temporary file");
        let info = self.tool().info(volume, Format::Qcow2, Access::Shared).expect("looked");
        let cx = HandlerCx::unattended();
        let to = (plain.path(), Format::Raw);
        self.tool().convert((volume, Format::Qcow2), to, &cx).expect("converted");
        let bytes = fs::read(plain.path()).expect("read");
        format!("{} bytes: {:016x}", info.virtual_size_bytes, digest(&bytes))
    }

    fn hold(&self, volume: &Path) -> Box<dyn Any> {
        let locked = || {
            let looked = self.tool().info(volume, Format::Qcow2, Access::Exclusive);
            matches!(looked, Err(ToolError::Locked { .. }))
        };
        let started = Instant::now();
        let mut holder = HeldByProcess(spawn_holder(volume));
        while !locked() {
            assert!(started.elapsed() < DEADLINE, "the image is still not held after {DEADLINE:?}");
            std::thread::sleep(Duration::from_millis(50));
            // The look takes the lock for a moment, too; the holder ends if it comes just then.
            if holder.0.try_wait().expect("waited").is_some() {
                holder = HeldByProcess(spawn_holder(volume));
            }
        }
        Box::new(holder)
    }

    fn damage(&self, volume: &Path) {
        // The header's own cluster counts as unused now.
        self.set_count(volume, 0, 0);
    }

    fn leak(&self, volume: &Path) {
        let file = OpenOptions::new().write(true).open(volume).expect("opened");
        file.set_len((UNUSED_CLUSTER + 1) << 16).expect("extended");
        self.set_count(volume, UNUSED_CLUSTER, 1);
    }

    fn source(&self, file_name: &str, format: Format, size_bytes: u64, pattern: u8) -> PathBuf {
        let path = self.directory.join(file_name);
        let cx = HandlerCx::unattended();
        self.tool().create(&path, format, size_bytes, &cx).expect("created");
        write_pattern(&path, format, 0, 1 << 16, pattern);
        path
    }

    fn backed_source(&self, file_name: &str) -> PathBuf {
        let path = self.directory.join(file_name);
        write_backed_source(&path);
        path
    }

    fn nearly_full(&self) -> Option<Box<dyn Fixture>> {
        RealFixture::on_small_file_system().map(|fixture| Box::new(fixture) as Box<dyn Fixture>)
    }

    fn fill_up(&self) {
        let ballast = self.directory.join("ballast");
        let mut offset = 0;
        while RealDisk.write_at(&ballast, offset, &[1; 4096]).is_ok() {
            offset += 4096;
        }
    }
}

struct HeldByProcess(Child);

impl Drop for HeldByProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(super) fn write_pattern(image: &Path, format: Format, offset: u64, length: u64, pattern: u8) {
    let order = format!("write -P {pattern} {offset} {length}");
    let written = Command::new("qemu-io").args(["-f", qemu_format(format), "-c", &order]).arg(image).output();
    expect_success(written);
}

/// FNV-1a by words; disks are whole sectors, so no byte is left over.
fn digest(bytes: &[u8]) -> u64 {
    bytes.as_chunks::<8>().0.iter().fold(0xcbf2_9ce4_8422_2325, |sum, word| {
        (sum ^ u64::from_le_bytes(*word)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

pub(super) fn expect_success(output: std::io::Result<Output>) {
    let output = output.expect("the program runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// An image that names a backing file.
pub(super) fn write_backed_source(path: &Path) {
    let created = Command::new("qemu-img")
        .args(["create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", "/etc/shadow"])
        .arg(path)
        .arg("8M")
        .output();
    expect_success(created);
}

fn spawn_holder(volume: &Path) -> Child {
    Command::new("qemu-io")
        .args(["-f", "qcow2", "-c", "sleep 600000"])
        .arg(volume)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("qemu-io runs")
}

fn u64_at(file: &fs::File, offset: u64) -> u64 {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, offset).expect("read");
    u64::from_be_bytes(bytes)
}
