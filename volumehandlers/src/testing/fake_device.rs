//! What the fake image tool knows of who holds an image, and of devices: volumes of the attached fake pool.
//!
//! A device is plain bytes of a fixed size. A new file cannot take its place, and content is written into it as it is.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use holdfast_types::volume::Format;

use super::fake::FakeImageTool;
use super::fake_image::{Blocks, FakeImage, FakeSnapshot};
use super::fake_told::{of_device, refused};
use super::fake_zfs::{FakeZfs, FakeZfsSnapshot, OpenDevice};
use crate::error::ToolError;
use crate::zvol::Dataset;
use crate::zvol::zfs::DEVICES;

/// Who a device's user is, for people.
const GUEST: &str = "process 4711 (a fake guest)";

/// Images that are held, and how often.
#[derive(Clone, Default)]
pub(super) struct Holds(Arc<Mutex<BTreeMap<PathBuf, usize>>>);

/// Keeps an image locked, as a running guest does, until dropped or until the power is cut.
pub struct HeldImage {
    holds: Holds,
    image: PathBuf,
    _device: Option<OpenDevice>,
}

impl fmt::Debug for HeldImage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("HeldImage").field("image", &self.image).finish_non_exhaustive()
    }
}

impl Drop for HeldImage {
    fn drop(&mut self) {
        let mut held = self.holds.lock();
        if let Some(count) = held.get_mut(&self.image) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.image);
            }
        }
    }
}

impl Holds {
    pub fn take(&self, image: &Path, device: Option<OpenDevice>) -> HeldImage {
        *self.lock().entry(image.to_path_buf()).or_default() += 1;
        HeldImage { holds: self.clone(), image: image.to_path_buf(), _device: device }
    }

    pub fn is_held(&self, image: &Path) -> bool {
        self.lock().contains_key(image)
    }

    pub fn forget(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, usize>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl FakeImageTool {
    pub(super) fn is_device(&self, path: &Path) -> bool {
        self.zfs.is_some() && path.starts_with(DEVICES)
    }

    pub(super) fn open_device(&self, path: &Path) -> Option<OpenDevice> {
        let (zfs, dataset) = self.device(path).ok()?;
        Some(zfs.open(&dataset, GUEST))
    }

    /// As an image, and what it takes. The volume's snapshots are shown as if they were the image's, so that who compares
    /// contents looks at both the same way; no tool would list them.
    pub(super) fn load_device(&self, path: &Path) -> Result<(FakeImage, u64), ToolError> {
        let (zfs, dataset) = self.device(path)?;
        let volume = zfs.device(&dataset).map_err(of_device)?;
        let used_bytes = volume.used_bytes();
        let mut image = FakeImage::new(Format::Raw, volume.size_bytes, volume.blocks);
        image.snapshots = volume.snapshots.into_iter().map(shown).collect();
        Ok((image, used_bytes))
    }

    /// Only blocks can be edited. Not flushed.
    pub(super) fn edit_device(
        &self,
        path: &Path,
        change: impl FnOnce(&mut FakeImage),
    ) -> Result<(), ToolError> {
        let (mut image, _) = self.load_device(path)?;
        let size_bytes = image.virtual_size_bytes;
        change(&mut image);
        if image.virtual_size_bytes != size_bytes {
            return Err(refused(format!("{} is a device: its size is not the tool's", path.display())));
        }
        self.put_blocks(path, image.blocks)
    }

    /// In two steps, between which a cut leaves half of it; neither is flushed.
    pub(super) fn fill_device(&self, path: &Path, blocks: &Blocks, size_bytes: u64) -> Result<(), ToolError> {
        let (device, _) = self.load_device(path)?;
        if size_bytes > device.virtual_size_bytes {
            return Err(refused(format!("{} is smaller than the image", path.display())));
        }
        if !device.blocks.is_empty() {
            return Err(refused(format!("{} was said to hold zeros, and does not", path.display())));
        }
        let half = blocks.iter().step_by(2).map(|(block, text)| (*block, text.clone())).collect();
        self.put_blocks(path, half)?;
        self.put_blocks(path, blocks.clone())
    }

    fn put_blocks(&self, path: &Path, blocks: Blocks) -> Result<(), ToolError> {
        let (zfs, dataset) = self.device(path)?;
        zfs.edit(&dataset, |volume| volume.blocks = blocks).map_err(of_device)
    }

    fn device(&self, path: &Path) -> Result<(&FakeZfs, Dataset), ToolError> {
        let missing = |stderr: String| ToolError::Missing { stderr };
        let zfs = self.zfs.as_ref().ok_or_else(|| missing("there is no pool".to_owned()))?;
        let dataset = Dataset::of_device(path).map_err(|error| missing(error.to_string()))?;
        Ok((zfs, dataset))
    }
}

fn shown(snapshot: FakeZfsSnapshot) -> FakeSnapshot {
    FakeSnapshot {
        id: snapshot.guid.to_string(),
        name: snapshot.name,
        created_at: snapshot.created_at,
        size_bytes: snapshot.size_bytes,
        blocks: snapshot.blocks,
    }
}
