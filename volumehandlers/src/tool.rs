//! The seam to qemu-img: one method is one process, or one passage over the image's tables, so that a simulation can cut the power
//! between any two.
//!
//! What an implementation promises, and no more:
//!
//! * a method that returned `Ok` has done its work and has flushed it as far as it could tell; whoever needs
//!   certainty syncs the file through `Disk` as well (`qcow2/mod.rs` argues why);
//! * a method that failed, or was cut, may have left a part of its work: a new image half-written, a snapshot
//!   there or not, clusters that belong to nobody, an applied snapshot torn;
//! * an image that another process has open is [`ToolError::Locked`] to all but shared looks;
//! * two snapshots of one name are accepted, and what is looked up is looked up among ids first.
//!
//! A format is always named and never guessed from content: a guest could otherwise write a header that makes
//! the host open another file.

use std::fmt::Debug;
use std::path::Path;

use holdfast_types::error::Timestamp;
use holdfast_types::volume::Format;

use crate::context::HandlerCx;
use crate::error::ToolError;

/// Makes, looks at and changes disk images.
pub trait ImageTool: Send + Sync + Debug {
    /// Makes an empty image, replacing a file that is there.
    fn create(
        &self,
        image: &Path,
        format: Format,
        size_bytes: u64,
        cx: &HandlerCx<'_>,
    ) -> Result<(), ToolError>;

    /// Writes the content of one image, without its snapshots, to a new one, replacing a file that is there.
    fn convert(
        &self,
        from: (&Path, Format),
        to: (&Path, Format),
        cx: &HandlerCx<'_>,
    ) -> Result<(), ToolError>;

    /// Writes the content of an image, without its snapshots, into a block device that is at least as large and holds
    /// nothing but zeros: zeros are not written. Not flushed; a crash in the middle leaves any part of it.
    fn write_device(&self, from: (&Path, Format), device: &Path, cx: &HandlerCx<'_>)
    -> Result<(), ToolError>;

    /// Grows the image to this size for the guest.
    fn resize(
        &self,
        image: &Path,
        format: Format,
        size_bytes: u64,
        cx: &HandlerCx<'_>,
    ) -> Result<(), ToolError>;

    /// What the image says of itself, its snapshots included. Never opens another file than this one.
    fn info(&self, image: &Path, format: Format, access: Access) -> Result<ImageInfo, ToolError>;

    /// Counts what is wrong with a qcow2 image and mends what was asked for.
    fn check(&self, image: &Path, mend: Mend, cx: &HandlerCx<'_>) -> Result<CheckReport, ToolError>;

    /// Cuts an internal snapshot; also when there is one of that name.
    fn snapshot_create(&self, image: &Path, name: &str, cx: &HandlerCx<'_>) -> Result<(), ToolError>;

    /// Overwrites the active content with a snapshot's, found by id and, failing that, by name. What it frees keeps its bytes:
    /// nothing is given back to the file system.
    fn snapshot_apply(&self, image: &Path, id_or_name: &str, cx: &HandlerCx<'_>) -> Result<(), ToolError>;

    /// Removes the first snapshot of that name.
    fn snapshot_delete(&self, image: &Path, name: &str, cx: &HandlerCx<'_>) -> Result<(), ToolError>;

    /// Copies what applying the snapshot of this id will change into a file that is there and empty, in a form of the tool's own;
    /// flushes neither. False, and nothing is copied, if that is not known of this image, or is more than `most_bytes`.
    fn keep_tables(
        &self,
        image: &Path,
        id: &str,
        into: &Path,
        most_bytes: u64,
        cx: &HandlerCx<'_>,
    ) -> Result<bool, ToolError>;

    /// Makes the image what it was at [`ImageTool::keep_tables`], however far an apply came; if nothing else has changed it since. A
    /// copy that is damaged is [`ToolError::NotAnImage`], and nothing is written by it.
    fn put_back_tables(&self, image: &Path, from: &Path, cx: &HandlerCx<'_>) -> Result<(), ToolError>;

    /// Gives back to the file system what the image has come to use no more since the copy was made. From then on that copy is good
    /// for nothing.
    fn discard_freed(&self, image: &Path, since: &Path, cx: &HandlerCx<'_>) -> Result<(), ToolError>;
}

/// Whether a look at an image may happen while another process writes to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Fails with [`ToolError::Locked`] if another process has it open for writing.
    Exclusive,
    /// Answers in any case; what is being changed may be seen half.
    Shared,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mend {
    Nothing,
    /// Frees clusters that belong to nobody, and sets flags right that follow from that. Never touches content.
    Leaks,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageInfo {
    pub virtual_size_bytes: u64,
    pub allocated_bytes: u64,
    /// A file this image needs to be whole.
    pub backing_file: Option<String>,
    /// Its data lie in another file.
    pub external_data_file: bool,
    pub encrypted: bool,
    /// The image bears the mark that QEMU found it damaged.
    pub marked_corrupt: bool,
    /// In the order of the image's table, which is the order of making.
    pub snapshots: Vec<ImageSnapshot>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSnapshot {
    pub id: String,
    pub name: String,
    pub created_at: Timestamp,
    /// The guest's size when it was cut; `None` when the image does not keep it.
    pub size_bytes: Option<u64>,
    pub vm_state_size_bytes: u64,
}

/// What is still wrong, and what was mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CheckReport {
    pub leaks: u64,
    pub corruptions: u64,
    pub check_errors: u64,
    pub leaks_fixed: u64,
    pub corruptions_fixed: u64,
}

impl CheckReport {
    pub fn is_clean(&self) -> bool {
        self.leaks == 0 && !self.is_damaged()
    }

    pub fn is_damaged(&self) -> bool {
        self.corruptions > 0 || self.check_errors > 0
    }
}

/// QEMU's name of the format as it lies on disk: an ISO image is plain bytes.
pub fn qemu_format(format: Format) -> &'static str {
    match format {
        Format::Raw | Format::Iso => "raw",
        Format::Qcow2 => "qcow2",
        Format::Vmdk => "vmdk",
        Format::Vhdx => "vhdx",
        // Never reaches a tool; QEMU answers that it knows no such format.
        Format::Container => "container",
    }
}
