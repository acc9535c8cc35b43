//! The suite's fixture of the fake image tool on a disk in memory. Also handy for tests that cut its power.

use std::any::Any;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chrono::DateTime;
use holdfast_persist::{Disk, MemDisk};
use holdfast_types::volume::Format;

use super::conformance::{Fixture, Kind};
use super::fake::FakeImageTool;
use super::fake_image::{Blocks, FakeImage, image_bytes};
use super::image_files;
use crate::handler::VolumeHandler;
use crate::qcow2::Qcow2Handler;
use crate::tool::ImageTool;

/// A disk in memory with the directory `/volumes`, and a tool on it.
#[derive(Debug)]
pub struct FakeFixture {
    disk: MemDisk,
    tool: FakeImageTool,
    directory: PathBuf,
}

impl FakeFixture {
    pub fn new() -> Self {
        let disk = MemDisk::new();
        let directory = PathBuf::from("/volumes");
        disk.create_dir(&directory, 0o700).expect("a new directory");
        disk.sync_dir(Path::new("/")).expect("a durable one");
        let tool = FakeImageTool::new(Arc::new(disk.clone()));
        tool.set_now(DateTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600));
        FakeFixture { disk, tool, directory }
    }

    pub fn mem_disk(&self) -> &MemDisk {
        &self.disk
    }

    pub fn fake_tool(&self) -> &FakeImageTool {
        &self.tool
    }

    fn edit(&self, volume: &Path, change: impl FnOnce(&mut FakeImage)) {
        self.tool.edit(volume, change).expect("the image can be edited");
    }
}

impl Default for FakeFixture {
    fn default() -> Self {
        FakeFixture::new()
    }
}

impl Fixture for FakeFixture {
    fn name(&self) -> &'static str {
        "fake image tool"
    }

    fn handler(&self) -> Arc<dyn VolumeHandler> {
        Arc::new(Qcow2Handler::new(self.disk(), self.tool()))
    }

    fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(self.disk.clone())
    }

    fn tool(&self) -> Arc<dyn ImageTool> {
        Arc::new(self.tool.clone())
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
        self.tool.write(volume, mebibyte, &format!("{pattern}")).expect("the guest writes");
    }

    fn content(&self, volume: &Path) -> String {
        let image = self.tool.image(volume).expect("the image can be read");
        format!("{} bytes: {:?}", image.virtual_size_bytes, image.blocks)
    }

    fn hold(&self, volume: &Path) -> Box<dyn Any> {
        Box::new(self.tool.hold(volume))
    }

    fn damage(&self, volume: &Path) {
        self.edit(volume, |image| image.corruptions = 1);
    }

    fn leak(&self, volume: &Path) {
        self.edit(volume, |image| image.leaks += 1);
    }

    fn source(&self, file_name: &str, format: Format, size_bytes: u64, pattern: u8) -> PathBuf {
        let path = self.directory.join(file_name);
        write_source(&self.disk, &path, format, size_bytes, pattern);
        path
    }

    fn backed_source(&self, file_name: &str) -> PathBuf {
        let path = self.source(file_name, Format::Qcow2, 8 << 20, 1);
        self.edit(&path, |image| image.backing_file = Some("/etc/shadow".to_owned()));
        path
    }

    fn nearly_full(&self) -> Option<Box<dyn Fixture>> {
        Some(Box::new(FakeFixture::new()))
    }

    fn fill_up(&self) {
        self.disk.set_capacity(0);
    }

    /// Every change of a fake image is a record at its end.
    fn release_reserve(&self) {
        self.disk.set_capacity(1 << 30);
    }
}

/// A downloaded image whose first 64 KiB are this pattern.
pub(super) fn write_source(disk: &MemDisk, path: &Path, format: Format, size_bytes: u64, pattern: u8) {
    let bytes = match format {
        Format::Raw | Format::Iso => {
            let mut bytes = vec![0; size_bytes as usize];
            bytes[..1 << 16].fill(pattern);
            bytes
        }
        _ => image_bytes(&FakeImage::new(format, size_bytes, Blocks::from([(0, format!("{pattern}"))]))),
    };
    disk.create_new(path, &bytes, 0o600).expect("a new file");
}
