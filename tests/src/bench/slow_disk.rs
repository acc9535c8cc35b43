//! The machine's disk, except that to make durable what belongs to one application takes longer.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use holdfast_persist::disk::{DirEntry, Metadata};
use holdfast_persist::{Disk, DiskLock, RealDisk, Space};

/// Clones are the same disk.
#[derive(Debug, Clone)]
pub struct SlowDisk {
    disk: RealDisk,
    /// A path is slow that holds one of these texts.
    slow_names: Arc<[String]>,
    delay_ms: Arc<AtomicU64>,
    delayed: Arc<AtomicU64>,
}

impl SlowDisk {
    /// As fast as the machine's own until [`SlowDisk::delay`] is called.
    pub fn new(slow_names: Vec<String>) -> SlowDisk {
        let zero = || Arc::new(AtomicU64::new(0));
        SlowDisk { disk: RealDisk, slow_names: slow_names.into(), delay_ms: zero(), delayed: zero() }
    }

    /// From now on each sync of a slow name takes so much longer.
    pub fn delay(&self, delay: Duration) {
        self.delay_ms.store(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// How many syncs were delayed: a delay that never came proves nothing.
    pub fn delayed(&self) -> u64 {
        self.delayed.load(Ordering::SeqCst)
    }

    fn linger(&self, path: &Path) {
        let delay_ms = self.delay_ms.load(Ordering::SeqCst);
        let name = path.to_string_lossy();
        if delay_ms > 0 && self.slow_names.iter().any(|slow| name.contains(slow.as_str())) {
            self.delayed.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(delay_ms));
        }
    }
}

impl Disk for SlowDisk {
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
        self.linger(path);
        self.disk.sync_file(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.linger(path);
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
