//! A disk that counts what it makes durable, for the metrics; otherwise the disk it stands for.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use holdfast_persist::disk::{DirEntry, Metadata};
use holdfast_persist::{Disk, DiskLock, Space};

#[derive(Debug)]
pub struct CountedDisk {
    disk: Arc<dyn Disk>,
    durable_writes: AtomicU64,
}

impl CountedDisk {
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        CountedDisk { disk, durable_writes: AtomicU64::new(0) }
    }

    /// Files whose content was made durable.
    pub fn durable_writes(&self) -> u64 {
        self.durable_writes.load(Ordering::Relaxed)
    }
}

impl Disk for CountedDisk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.disk.read(path)
    }
    fn read_at(&self, path: &Path, offset_bytes: u64, len_bytes: usize) -> io::Result<Vec<u8>> {
        self.disk.read_at(path, offset_bytes, len_bytes)
    }
    fn create_new(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        self.disk.create_new(path, bytes, mode)
    }
    fn write_at(&self, path: &Path, offset_bytes: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk.write_at(path, offset_bytes, bytes)
    }
    fn share_content(&self, from: &Path, to: &Path) -> io::Result<bool> {
        self.disk.share_content(from, to)
    }
    fn next_data(&self, path: &Path, from_bytes: u64) -> io::Result<Option<Range<u64>>> {
        self.disk.next_data(path, from_bytes)
    }
    fn truncate(&self, path: &Path, size_bytes: u64) -> io::Result<()> {
        self.disk.truncate(path, size_bytes)
    }
    fn overwrite(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.disk.overwrite(path, bytes)
    }
    fn sync_file(&self, path: &Path) -> io::Result<()> {
        self.disk.sync_file(path)?;
        self.durable_writes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.sync_dir(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn exchange(&self, from: &Path, to: &Path) -> io::Result<bool> {
        self.disk.exchange(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_file(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_dir(path)
    }
    fn create_dir(&self, path: &Path, mode: u32) -> io::Result<()> {
        self.disk.create_dir(path, mode)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.disk.list(path)
    }
    fn metadata(&self, path: &Path) -> io::Result<Option<Metadata>> {
        self.disk.metadata(path)
    }
    fn space(&self, path: &Path) -> io::Result<Space> {
        self.disk.space(path)
    }
    fn lock_exclusive(&self, path: &Path) -> io::Result<DiskLock> {
        self.disk.lock_exclusive(path)
    }
}
