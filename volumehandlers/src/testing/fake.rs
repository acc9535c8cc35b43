//! [`ImageTool`] in memory, or rather on any `Disk`, with the rules of the real one:
//!
//! * a second snapshot of the same name is accepted; what is applied is looked up among ids first;
//! * an image that is held (a guest runs on it) is locked to everything but a shared look;
//! * a snapshot is made and deleted in two steps, and a cut between them leaks;
//! * a rollback is done in place, and a cut in the middle leaves content that is neither;
//! * nothing is durable before the file is synced, except what the real tool syncs in the middle of its work.
//!
//! Power cuts and I/O errors come from the disk below it; [`FakeImageTool::fail_next`] makes the tool itself fail.
//! Plain files (raw, ISO) are seen as they are. Deliberately absent: time limits, and cancelling in the middle.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use holdfast_persist::Disk;
use holdfast_persist::disk::is_no_space;
use holdfast_types::error::Timestamp;
use holdfast_types::volume::Format;

use super::fake_image::{Blocks, FakeImage, FakeSnapshot, decode, image_bytes, record};
use crate::context::HandlerCx;
use crate::error::ToolError;
use crate::tool::{Access, CheckReport, ImageInfo, ImageSnapshot, ImageTool, Mend};

/// Clones share holds, orders to fail and the clock.
#[derive(Clone)]
pub struct FakeImageTool {
    disk: Arc<dyn Disk>,
    state: Arc<Mutex<State>>,
}

/// The tool's steps, to order one to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    Create,
    Convert,
    Resize,
    Info,
    Check,
    SnapshotCreate,
    SnapshotApply,
    SnapshotDelete,
}

#[derive(Default)]
struct State {
    held: BTreeMap<PathBuf, usize>,
    failures: BTreeMap<Verb, VecDeque<ToolError>>,
    now: Timestamp,
}

/// Keeps an image locked, as a running guest does, until dropped or until the power is cut.
pub struct HeldImage {
    state: Arc<Mutex<State>>,
    image: PathBuf,
}

impl fmt::Debug for HeldImage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("HeldImage").field("image", &self.image).finish_non_exhaustive()
    }
}

impl Drop for HeldImage {
    fn drop(&mut self) {
        let mut state = self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(count) = state.held.get_mut(&self.image) {
            *count -= 1;
            if *count == 0 {
                state.held.remove(&self.image);
            }
        }
    }
}

impl fmt::Debug for FakeImageTool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("FakeImageTool").field("disk", &self.disk).finish_non_exhaustive()
    }
}

impl FakeImageTool {
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        FakeImageTool { disk, state: Arc::default() }
    }

    /// What snapshots are dated with; starts at 1970 and stands still between calls of this.
    pub fn set_now(&self, now: Timestamp) {
        self.lock_state().now = now;
    }

    /// The next call of this step fails so, before it has done anything. Several orders queue up.
    pub fn fail_next(&self, verb: Verb, error: ToolError) {
        self.lock_state().failures.entry(verb).or_default().push_back(error);
    }

    /// The image is in use until the guard is dropped.
    pub fn hold(&self, image: &Path) -> HeldImage {
        *self.lock_state().held.entry(image.to_path_buf()).or_default() += 1;
        HeldImage { state: Arc::clone(&self.state), image: image.to_path_buf() }
    }

    /// No process survives a power cut: all holds are gone.
    pub fn forget_holds(&self) {
        self.lock_state().held.clear();
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
        })
    }

    /// Any change behind the handler's back, damage included. Not synced.
    pub fn edit(&self, image: &Path, change: impl FnOnce(&mut FakeImage)) -> Result<(), ToolError> {
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
        match self.lock_state().held.contains_key(image) {
            true => Err(ToolError::Locked { stderr: format!("{} is held", image.display()) }),
            false => Ok(()),
        }
    }

    /// The image, and where the next record goes.
    fn load(&self, image: &Path) -> Result<(FakeImage, u64), ToolError> {
        let bytes = self.disk.read(image).map_err(failed)?;
        Ok(decode(&bytes).unwrap_or_else(|| (FakeImage::from_plain(&bytes), bytes.len() as u64)))
    }

    fn load_qcow2(&self, image: &Path) -> Result<(FakeImage, u64), ToolError> {
        let (state, end) = self.load(image)?;
        match state.format {
            Format::Qcow2 => Ok((state, end)),
            _ => Err(ToolError::NotAnImage { stderr: format!("{} is not in qcow2 format", image.display()) }),
        }
    }

    /// Returns where the record after this one goes.
    fn append(&self, image: &Path, at: u64, state: &FakeImage) -> Result<u64, ToolError> {
        let bytes = record(state);
        self.disk.write_at(image, at, &bytes).map_err(failed)?;
        Ok(at + bytes.len() as u64)
    }

    /// Two records with the real tool's barrier between them: a cut leaves the image before the first, with the
    /// first, or with both.
    fn in_two_steps(
        &self,
        image: &Path,
        at: u64,
        half: &FakeImage,
        whole: &FakeImage,
    ) -> Result<(), ToolError> {
        let at = self.append(image, at, half)?;
        self.disk.sync_file(image).map_err(failed)?;
        self.append(image, at, whole).map(drop)
    }

    fn replace(&self, image: &Path, state: &FakeImage) -> Result<(), ToolError> {
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

    fn resize(
        &self,
        image: &Path,
        _format: Format,
        size_bytes: u64,
        cx: &HandlerCx<'_>,
    ) -> Result<(), ToolError> {
        self.begin(Verb::Resize, cx)?;
        self.refuse_held(image)?;
        self.edit(image, |state| state.virtual_size_bytes = size_bytes)
    }

    fn info(&self, image: &Path, format: Format, access: Access) -> Result<ImageInfo, ToolError> {
        self.begin(Verb::Info, &HandlerCx::unattended())?;
        if access == Access::Exclusive {
            self.refuse_held(image)?;
        }
        let (state, end) = self.load(image)?;
        if !matches!(format, Format::Raw | Format::Iso) && state.format != format {
            let stderr = format!("{} is not in {} format", image.display(), format.name());
            return Err(ToolError::NotAnImage { stderr });
        }
        Ok(ImageInfo {
            virtual_size_bytes: state.virtual_size_bytes,
            allocated_bytes: end,
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
        let mut unlisted = whole.clone();
        unlisted.leaks += 1;
        self.in_two_steps(image, end, &unlisted, &whole)
    }
}

/// Content that is neither: every other block is the new one, and a mark that no guest ever writes.
fn torn(before: &Blocks, after: &Blocks) -> Blocks {
    let mut mixed = before.clone();
    mixed.extend(after.iter().step_by(2).map(|(block, text)| (*block, text.clone())));
    mixed.insert(u64::MAX, "torn rollback".to_owned());
    mixed
}

fn listed(snapshot: FakeSnapshot) -> ImageSnapshot {
    ImageSnapshot {
        id: snapshot.id,
        name: snapshot.name,
        created_at: snapshot.created_at,
        size_bytes: Some(snapshot.size_bytes),
        vm_state_size_bytes: 0,
    }
}

fn not_found(name: &str) -> ToolError {
    refused(format!("snapshot {name} not found"))
}

fn refused(stderr: String) -> ToolError {
    ToolError::Failed { program: "fake qemu-img".to_owned(), status: "exit status: 1".to_owned(), stderr }
}

fn failed(error: std::io::Error) -> ToolError {
    match error.kind() {
        std::io::ErrorKind::NotFound => ToolError::Missing { stderr: error.to_string() },
        _ if is_no_space(&error) => ToolError::NoSpace { stderr: error.to_string() },
        _ => refused(error.to_string()),
    }
}
