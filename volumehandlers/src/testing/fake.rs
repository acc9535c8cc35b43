//! [`ImageTool`] in memory, or rather on any `Disk`, with the rules of the real one:
//!
//! * a second snapshot of the same name is accepted; what is applied is looked up among ids first;
//! * an image that is held (a guest runs on it) is locked to everything but a shared look;
//! * a snapshot is made and deleted in two steps, and a cut between them leaks;
//! * a rollback is done in place, and a cut in the middle leaves content that is neither;
//! * kept tables give back what was there before the rollback, and a mess if anything else came between;
//! * nothing is durable before the file is synced, except what the real tool syncs in the middle of its work.
//!
//! Power cuts and I/O errors come from the disk below it; [`FakeImageTool::fail_next`] makes the tool itself fail.
//! Plain files (raw, ISO) are seen as they are, devices below `/dev/zvol` as the attached [`FakeZfs`] has them. Deliberately absent: time limits, and cancelling in the middle.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use holdfast_persist::Disk;
use holdfast_types::error::Timestamp;
use holdfast_types::volume::Format;

use super::fake_device::{HeldImage, Holds};
use super::fake_image::{Blocks, End, FakeImage, FakeSnapshot, decode, image_bytes};
use super::fake_told::{failed, listed, not_found, refused};
use super::fake_zfs::FakeZfs;
use super::records::{Mark, record};
use crate::context::HandlerCx;
use crate::error::ToolError;
use crate::tool::{Access, CheckReport, ImageInfo, ImageTool, Mend};

/// Clones share holds, orders to fail and the clock.
#[derive(Clone)]
pub struct FakeImageTool {
    disk: Arc<dyn Disk>,
    pub(super) zfs: Option<FakeZfs>,
    holds: Holds,
    state: Arc<Mutex<State>>,
}

/// The tool's steps, to order one to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    Create,
    Convert,
    WriteDevice,
    Resize,
    Info,
    Check,
    SnapshotCreate,
    SnapshotApply,
    SnapshotDelete,
    KeepTables,
    PutBackTables,
    DiscardFreed,
}

#[derive(Default)]
struct State {
    failures: BTreeMap<Verb, VecDeque<ToolError>>,
    now: Timestamp,
    knows_no_tables: bool,
}

impl fmt::Debug for FakeImageTool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("FakeImageTool").field("disk", &self.disk).finish_non_exhaustive()
    }
}

impl FakeImageTool {
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        FakeImageTool { disk, zfs: None, holds: Holds::default(), state: Arc::default() }
    }

    /// Serves devices below `/dev/zvol` as well; the clock and power cuts reach the pool through here.
    pub fn with_zfs(self, zfs: FakeZfs) -> Self {
        FakeImageTool { zfs: Some(zfs), ..self }
    }

    /// What snapshots are dated with; starts at 1970 and stands still between calls of this.
    pub fn set_now(&self, now: Timestamp) {
        self.lock_state().now = now;
        if let Some(zfs) = &self.zfs {
            zfs.set_now(now);
        }
    }

    /// The next call of this step fails so, before it has done anything. Several orders queue up.
    pub fn fail_next(&self, verb: Verb, error: ToolError) {
        self.lock_state().failures.entry(verb).or_default().push_back(error);
    }

    /// From now on no tables are kept, as if all images were of a kind that is not known so well.
    pub fn keep_no_tables(&self) {
        self.lock_state().knows_no_tables = true;
    }

    /// The image, or the device, is in use until the guard is dropped.
    pub fn hold(&self, image: &Path) -> HeldImage {
        self.holds.take(image, self.open_device(image))
    }

    /// No process survives a power cut: all holds are gone.
    pub fn forget_holds(&self) {
        self.holds.forget();
        if let Some(zfs) = &self.zfs {
            zfs.forget_opens();
        }
    }

    /// The image as it is now.
    pub fn image(&self, image: &Path) -> Result<FakeImage, ToolError> {
        self.load(image).map(|(image, _)| image)
    }

    /// What a guest would read.
    pub fn content(&self, image: &Path) -> Result<Blocks, ToolError> {
        self.image(image).map(|image| image.blocks)
    }

    /// A guest's write; lost in a cut unless the file is synced. Holds do not matter to it.
    pub fn write(&self, image: &Path, block: u64, text: &str) -> Result<(), ToolError> {
        self.edit(image, |state| {
            state.blocks.insert(block, text.to_owned());
            state.changes += 1;
        })
    }

    /// Any change behind the handler's back, damage included. Not synced.
    pub fn edit(&self, image: &Path, change: impl FnOnce(&mut FakeImage)) -> Result<(), ToolError> {
        if self.is_device(image) {
            return self.edit_device(image, change);
        }
        let (mut state, end) = self.load(image)?;
        change(&mut state);
        self.append(image, end, &state).map(drop)
    }

    fn lock_state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn begin(&self, verb: Verb, cx: &HandlerCx<'_>) -> Result<(), ToolError> {
        if cx.cancelled() {
            return Err(ToolError::Cancelled);
        }
        match self.lock_state().failures.get_mut(&verb).and_then(VecDeque::pop_front) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn refuse_held(&self, image: &Path) -> Result<(), ToolError> {
        match self.holds.is_held(image) {
            true => Err(ToolError::Locked { stderr: format!("{} is held", image.display()) }),
            false => Ok(()),
        }
    }

    /// The image, and where the next record goes.
    fn load(&self, image: &Path) -> Result<(FakeImage, End), ToolError> {
        if self.is_device(image) {
            let (state, used_bytes) = self.load_device(image)?;
            return Ok((state, End { at: used_bytes, mark: Mark::FIRST }));
        }
        let bytes = self.disk.read(image).map_err(failed)?;
        let plain = || (FakeImage::from_plain(&bytes), End { at: bytes.len() as u64, mark: Mark::FIRST });
        Ok(decode(&bytes).unwrap_or_else(plain))
    }

    fn load_qcow2(&self, image: &Path) -> Result<(FakeImage, End), ToolError> {
        let (state, end) = self.load(image)?;
        match state.format {
            Format::Qcow2 => Ok((state, end)),
            _ => Err(ToolError::NotAnImage { stderr: format!("{} is not in qcow2 format", image.display()) }),
        }
    }

    /// Returns where the record after this one goes.
    fn append(&self, image: &Path, end: End, state: &FakeImage) -> Result<End, ToolError> {
        let (bytes, mark) = record(state, end.mark);
        self.disk.write_at(image, end.at, &bytes).map_err(failed)?;
        Ok(End { at: end.at + bytes.len() as u64, mark })
    }

    /// Two records with the real tool's barrier between them: a cut leaves the image before the first, with the
    /// first, or with both.
    fn in_two_steps(
        &self,
        image: &Path,
        end: End,
        half: &FakeImage,
        whole: &FakeImage,
    ) -> Result<(), ToolError> {
        let end = self.append(image, end, half)?;
        self.disk.sync_file(image).map_err(failed)?;
        self.append(image, end, whole).map(drop)
    }

    fn kept_tables(&self, from: &Path) -> Result<FakeImage, ToolError> {
        let bytes = self.disk.read(from).map_err(failed)?;
        let damaged = || ToolError::NotAnImage { stderr: format!("{} is damaged", from.display()) };
        decode(&bytes).map(|(kept, _)| kept).ok_or_else(damaged)
    }

    fn replace(&self, image: &Path, state: &FakeImage) -> Result<(), ToolError> {
        if self.is_device(image) {
            return Err(refused(format!(
                "{} is a device, and no new file can take its place",
                image.display()
            )));
        }
        if self.disk.metadata(image).map_err(failed)?.is_some() {
            self.disk.truncate(image, 0).map_err(failed)?;
        }
        self.disk.write_at(image, 0, &image_bytes(state)).map_err(failed)
    }
}

impl ImageTool for FakeImageTool {
    fn create(
        &self,
        image: &Path,
        format: Format,
        size_bytes: u64,
        cx: &HandlerCx<'_>,
    ) -> Result<(), ToolError> {
        self.begin(Verb::Create, cx)?;
        self.refuse_held(image)?;
        self.replace(image, &FakeImage::new(format, size_bytes, Blocks::new()))
    }

    fn convert(
        &self,
        from: (&Path, Format),
        to: (&Path, Format),
        cx: &HandlerCx<'_>,
    ) -> Result<(), ToolError> {
        self.begin(Verb::Convert, cx)?;
        self.refuse_held(to.0)?;
        let source = self.image(from.0)?;
        self.replace(to.0, &FakeImage::new(to.1, source.virtual_size_bytes, source.blocks))?;
        cx.progress(100);
        Ok(())
    }

    fn write_device(
        &self,
        from: (&Path, Format),
        device: &Path,
        cx: &HandlerCx<'_>,
    ) -> Result<(), ToolError> {
        self.begin(Verb::WriteDevice, cx)?;
        self.refuse_held(device)?;
        let source = self.image(from.0)?;
        self.fill_device(device, &source.blocks, source.virtual_size_bytes)?;
        cx.progress(100);
        Ok(())
    }

    fn resize(
        &self,
        image: &Path,
        _format: Format,
        size_bytes: u64,
        cx: &HandlerCx<'_>,
    ) -> Result<(), ToolError> {
        self.begin(Verb::Resize, cx)?;
        self.refuse_held(image)?;
        self.edit(image, |state| {
            state.virtual_size_bytes = size_bytes;
            state.changes += 1;
        })
    }

    fn info(&self, image: &Path, format: Format, access: Access) -> Result<ImageInfo, ToolError> {
        self.begin(Verb::Info, &HandlerCx::unattended())?;
        if access == Access::Exclusive {
            self.refuse_held(image)?;
        }
        let (mut state, end) = self.load(image)?;
        if self.is_device(image) {
            state.snapshots.clear();
        }
        if !matches!(format, Format::Raw | Format::Iso) && state.format != format {
            let stderr = format!("{} is not in {} format", image.display(), format.name());
            return Err(ToolError::NotAnImage { stderr });
        }
        Ok(ImageInfo {
            virtual_size_bytes: state.virtual_size_bytes,
            allocated_bytes: end.at,
            backing_file: state.backing_file,
            marked_corrupt: state.marked_corrupt,
            snapshots: state.snapshots.into_iter().map(listed).collect(),
            ..ImageInfo::default()
        })
    }

    fn check(&self, image: &Path, mend: Mend, cx: &HandlerCx<'_>) -> Result<CheckReport, ToolError> {
        self.begin(Verb::Check, cx)?;
        self.refuse_held(image)?;
        let (mut state, end) = self.load_qcow2(image)?;
        let mut report =
            CheckReport { leaks: state.leaks, corruptions: state.corruptions, ..CheckReport::default() };
        if mend == Mend::Leaks && state.leaks > 0 {
            report.leaks_fixed = std::mem::take(&mut report.leaks);
            state.leaks = 0;
            self.append(image, end, &state)?;
        }
        Ok(report)
    }

    fn snapshot_create(&self, image: &Path, name: &str, cx: &HandlerCx<'_>) -> Result<(), ToolError> {
        self.begin(Verb::SnapshotCreate, cx)?;
        self.refuse_held(image)?;
        let (before, end) = self.load_qcow2(image)?;
        let mut counted = before.clone();
        counted.leaks += 1;
        let mut whole = before;
        whole.changes += 1;
        whole.snapshots.push(FakeSnapshot {
            id: whole.next_id(),
            name: name.to_owned(),
            created_at: self.lock_state().now,
            size_bytes: whole.virtual_size_bytes,
            blocks: whole.blocks.clone(),
        });
        self.in_two_steps(image, end, &counted, &whole)
    }

    fn snapshot_apply(&self, image: &Path, id_or_name: &str, cx: &HandlerCx<'_>) -> Result<(), ToolError> {
        self.begin(Verb::SnapshotApply, cx)?;
        self.refuse_held(image)?;
        let (before, end) = self.load_qcow2(image)?;
        let target = before.find(id_or_name).cloned().ok_or_else(|| not_found(id_or_name))?;
        let mut whole = before.clone();
        whole.virtual_size_bytes = target.size_bytes;
        whole.blocks = target.blocks;
        let mut half = before;
        half.virtual_size_bytes = whole.virtual_size_bytes;
        half.blocks = torn(&half.blocks, &whole.blocks);
        half.leaks += 1;
        self.in_two_steps(image, end, &half, &whole)
    }

    fn snapshot_delete(&self, image: &Path, name: &str, cx: &HandlerCx<'_>) -> Result<(), ToolError> {
        self.begin(Verb::SnapshotDelete, cx)?;
        self.refuse_held(image)?;
        let (mut whole, end) = self.load_qcow2(image)?;
        let at = whole.snapshots.iter().position(|snapshot| snapshot.name == name);
        whole.snapshots.remove(at.ok_or_else(|| not_found(name))?);
        whole.changes += 1;
        let mut unlisted = whole.clone();
        unlisted.leaks += 1;
        self.in_two_steps(image, end, &unlisted, &whole)
    }

    fn keep_tables(
        &self,
        image: &Path,
        id: &str,
        into: &Path,
        most_bytes: u64,
        cx: &HandlerCx<'_>,
    ) -> Result<bool, ToolError> {
        self.begin(Verb::KeepTables, cx)?;
        self.refuse_held(image)?;
        let (now, _) = self.load_qcow2(image)?;
        let bytes = image_bytes(&now);
        let is_of_size = |one: &FakeSnapshot| one.id == id && one.size_bytes == now.virtual_size_bytes;
        let is_known = now.snapshots.iter().any(is_of_size) && !self.lock_state().knows_no_tables;
        if !is_known || bytes.len() as u64 > most_bytes {
            return Ok(false);
        }
        self.disk.write_at(into, 0, &bytes).map_err(failed)?;
        Ok(true)
    }

    fn put_back_tables(&self, image: &Path, from: &Path, cx: &HandlerCx<'_>) -> Result<(), ToolError> {
        self.begin(Verb::PutBackTables, cx)?;
        self.refuse_held(image)?;
        let (now, end) = self.load_qcow2(image)?;
        let mut kept = self.kept_tables(from)?;
        let mut half = now.clone();
        half.blocks = torn(&now.blocks, &kept.blocks);
        if now.changes != kept.changes {
            // Its tables lead to what is something else's by now.
            kept.blocks = half.blocks.clone();
        }
        self.in_two_steps(image, end, &half, &kept)
    }

    fn discard_freed(&self, image: &Path, since: &Path, cx: &HandlerCx<'_>) -> Result<(), ToolError> {
        self.begin(Verb::DiscardFreed, cx)?;
        self.refuse_held(image)?;
        self.kept_tables(since)?;
        // Nothing that a guest or a check would see; but no way back any more.
        self.edit(image, |state| state.changes += 1)
    }
}

/// Content that is neither: every other block is the new one, and a mark that no guest ever writes.
fn torn(before: &Blocks, after: &Blocks) -> Blocks {
    let mut mixed = before.clone();
    mixed.extend(after.iter().step_by(2).map(|(block, text)| (*block, text.clone())));
    mixed.insert(u64::MAX, "torn rollback".to_owned());
    mixed
}
