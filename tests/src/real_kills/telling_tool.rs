//! The real `qemu-img`, with a word to the supervisor before and after each step that changes an image.
//!
//! Most of an operation's time goes into looking and syncing. A kill by the clock alone would rarely meet the few
//! milliseconds in which `qemu-img` writes its tables, so some kills wait for such a word.

use std::path::Path;

use holdfast_types::Format;
use holdfast_volumehandlers::qcow2::QemuImg;
use holdfast_volumehandlers::tool::{Access, CheckReport, ImageInfo, Mend};
use holdfast_volumehandlers::{HandlerCx, ImageTool, ToolError};

use super::worker::tell;

/// Begins the line that is told before, and the one after.
pub const BEGINS: &str = "begins ";
pub const ENDED: &str = "ended ";

#[derive(Debug, Default)]
pub struct TellingTool {
    real: QemuImg,
}

impl TellingTool {
    fn around<T>(&self, verb: &str, step: impl FnOnce() -> T) -> T {
        // Nobody to tell: the supervisor is gone, and this process soon is.
        drop(tell(&format!("{BEGINS}{verb}")));
        let done = step();
        drop(tell(&format!("{ENDED}{verb}")));
        done
    }
}

impl ImageTool for TellingTool {
    fn create(
        &self,
        image: &Path,
        format: Format,
        size_bytes: u64,
        cx: &HandlerCx<'_>,
    ) -> Result<(), ToolError> {
        self.real.create(image, format, size_bytes, cx)
    }

    fn convert(
        &self,
        from: (&Path, Format),
        to: (&Path, Format),
        cx: &HandlerCx<'_>,
    ) -> Result<(), ToolError> {
        self.real.convert(from, to, cx)
    }

    fn resize(
        &self,
        image: &Path,
        format: Format,
        size_bytes: u64,
        cx: &HandlerCx<'_>,
    ) -> Result<(), ToolError> {
        self.real.resize(image, format, size_bytes, cx)
    }

    fn info(&self, image: &Path, format: Format, access: Access) -> Result<ImageInfo, ToolError> {
        self.real.info(image, format, access)
    }

    fn check(&self, image: &Path, mend: Mend, cx: &HandlerCx<'_>) -> Result<CheckReport, ToolError> {
        match mend {
            Mend::Nothing => self.real.check(image, mend, cx),
            Mend::Leaks => self.around("mend", || self.real.check(image, mend, cx)),
        }
    }

    fn snapshot_create(&self, image: &Path, name: &str, cx: &HandlerCx<'_>) -> Result<(), ToolError> {
        self.around("cut", || self.real.snapshot_create(image, name, cx))
    }

    fn snapshot_apply(&self, image: &Path, id_or_name: &str, cx: &HandlerCx<'_>) -> Result<(), ToolError> {
        self.around("apply", || self.real.snapshot_apply(image, id_or_name, cx))
    }

    fn snapshot_delete(&self, image: &Path, name: &str, cx: &HandlerCx<'_>) -> Result<(), ToolError> {
        self.around("delete", || self.real.snapshot_delete(image, name, cx))
    }
}
