//! An image tool with a hook before and after each step: what fails on purpose, tells or counts writes only its hook.
//!
//! ```text
//!   handler ──▶ HookedTool ── before ──▶ hook: may fail the step, which then does nothing
//!                   ├──────── the step ─▶ the tool, real or fake
//!                   └──────── after ───▶ hook: however the step ended
//! ```
//!
//! Deliberately absent: results changed afterwards. Who wants another answer wants another tool.

use std::fmt::Debug;
use std::path::Path;

use holdfast_types::Format;
use holdfast_volumehandlers::tool::{Access, CheckReport, ImageInfo, Mend};
use holdfast_volumehandlers::{HandlerCx, ImageTool, ToolError};

/// What the tool is asked for. A check that mends changes the image, so it is a step of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Create,
    Convert,
    WriteDevice,
    Resize,
    Info,
    Check,
    Mend,
    SnapshotCreate,
    SnapshotApply,
    SnapshotDelete,
    KeepTables,
    PutBackTables,
    DiscardFreed,
}

pub trait Hook: Send + Sync + Debug {
    /// The step has not begun; an error is its result, and it never does. `image` is the one that would be written.
    fn before(&self, step: Step, image: &Path) -> Result<(), ToolError>;

    /// The step is over, done or failed. Not called where `before` failed.
    fn after(&self, _step: Step) {}
}

#[derive(Debug)]
pub struct HookedTool<Tool, Hooked> {
    pub tool: Tool,
    pub hook: Hooked,
}

impl<Tool: ImageTool, Hooked: Hook> HookedTool<Tool, Hooked> {
    // Each step of the World comes by here.
    #[inline]
    fn around<T>(
        &self,
        step: Step,
        image: &Path,
        run: impl FnOnce(&Tool) -> Result<T, ToolError>,
    ) -> Result<T, ToolError> {
        self.hook.before(step, image)?;
        let done = run(&self.tool);
        self.hook.after(step);
        done
    }
}

impl<Tool: ImageTool, Hooked: Hook> ImageTool for HookedTool<Tool, Hooked> {
    fn create(
        &self,
        image: &Path,
        format: Format,
        size_bytes: u64,
        cx: &HandlerCx<'_>,
    ) -> Result<(), ToolError> {
        self.around(Step::Create, image, |tool| tool.create(image, format, size_bytes, cx))
    }

    fn convert(
        &self,
        from: (&Path, Format),
        to: (&Path, Format),
        cx: &HandlerCx<'_>,
    ) -> Result<(), ToolError> {
        self.around(Step::Convert, to.0, |tool| tool.convert(from, to, cx))
    }

    fn write_device(
        &self,
        from: (&Path, Format),
        device: &Path,
        cx: &HandlerCx<'_>,
    ) -> Result<(), ToolError> {
        self.around(Step::WriteDevice, device, |tool| tool.write_device(from, device, cx))
    }

    fn resize(
        &self,
        image: &Path,
        format: Format,
        size_bytes: u64,
        cx: &HandlerCx<'_>,
    ) -> Result<(), ToolError> {
        self.around(Step::Resize, image, |tool| tool.resize(image, format, size_bytes, cx))
    }

    fn info(&self, image: &Path, format: Format, access: Access) -> Result<ImageInfo, ToolError> {
        self.around(Step::Info, image, |tool| tool.info(image, format, access))
    }

    fn check(&self, image: &Path, mend: Mend, cx: &HandlerCx<'_>) -> Result<CheckReport, ToolError> {
        let step = match mend {
            Mend::Nothing => Step::Check,
            Mend::Leaks => Step::Mend,
        };
        self.around(step, image, |tool| tool.check(image, mend, cx))
    }

    fn snapshot_create(&self, image: &Path, name: &str, cx: &HandlerCx<'_>) -> Result<(), ToolError> {
        self.around(Step::SnapshotCreate, image, |tool| tool.snapshot_create(image, name, cx))
    }

    fn snapshot_apply(&self, image: &Path, id_or_name: &str, cx: &HandlerCx<'_>) -> Result<(), ToolError> {
        self.around(Step::SnapshotApply, image, |tool| tool.snapshot_apply(image, id_or_name, cx))
    }

    fn snapshot_delete(&self, image: &Path, name: &str, cx: &HandlerCx<'_>) -> Result<(), ToolError> {
        self.around(Step::SnapshotDelete, image, |tool| tool.snapshot_delete(image, name, cx))
    }

    fn keep_tables(
        &self,
        image: &Path,
        id: &str,
        into: &Path,
        most_bytes: u64,
        cx: &HandlerCx<'_>,
    ) -> Result<bool, ToolError> {
        self.around(Step::KeepTables, image, |tool| tool.keep_tables(image, id, into, most_bytes, cx))
    }

    fn put_back_tables(&self, image: &Path, from: &Path, cx: &HandlerCx<'_>) -> Result<(), ToolError> {
        self.around(Step::PutBackTables, image, |tool| tool.put_back_tables(image, from, cx))
    }

    fn discard_freed(&self, image: &Path, since: &Path, cx: &HandlerCx<'_>) -> Result<(), ToolError> {
        self.around(Step::DiscardFreed, image, |tool| tool.discard_freed(image, since, cx))
    }
}
