//! The image tool of the World: the fake one, that may fail by itself before it has done anything.
//!
//! Errors of the disk below come from the tap; here it is the program that ends badly, or is given up when its time is up.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast_types::Format;
use holdfast_volumehandlers::testing::FakeImageTool;
use holdfast_volumehandlers::tool::{Access, CheckReport, ImageInfo, ImageTool, Mend};
use holdfast_volumehandlers::{HandlerCx, ToolError};

use super::faults::{FaultKind, INJECTED};
use super::ground::{Ground, locked};

#[derive(Debug, Clone)]
pub struct WorldTool {
    pub inner: FakeImageTool,
    pub ground: Arc<Mutex<Ground>>,
}

impl WorldTool {
    fn before(&self, step: &str, image: &Path) -> Result<(), ToolError> {
        let mut ground = locked(&self.ground);
        if !ground.faults.strikes(FaultKind::Tool) {
            return Ok(());
        }
        ground.note(format_args!("FAULT the tool fails: {step} {}", image.display()));
        Err(match ground.faults.count_of(FaultKind::Tool) % 2 {
            0 => ToolError::TimedOut { limit: Duration::from_secs(120) },
            _ => ToolError::Failed {
                program: "fake qemu-img".to_owned(),
                status: "signal: 6".to_owned(),
                stderr: format!("{step} aborted {INJECTED}"),
            },
        })
    }
}

impl ImageTool for WorldTool {
    fn create(
        &self,
        image: &Path,
        format: Format,
        size_bytes: u64,
        cx: &HandlerCx<'_>,
    ) -> Result<(), ToolError> {
        self.before("create", image)?;
        self.inner.create(image, format, size_bytes, cx)
    }

    fn convert(
        &self,
        from: (&Path, Format),
        to: (&Path, Format),
        cx: &HandlerCx<'_>,
    ) -> Result<(), ToolError> {
        self.before("convert", to.0)?;
        self.inner.convert(from, to, cx)
    }

    fn resize(
        &self,
        image: &Path,
        format: Format,
        size_bytes: u64,
        cx: &HandlerCx<'_>,
    ) -> Result<(), ToolError> {
        self.before("resize", image)?;
        self.inner.resize(image, format, size_bytes, cx)
    }

    fn info(&self, image: &Path, format: Format, access: Access) -> Result<ImageInfo, ToolError> {
        self.before("info", image)?;
        self.inner.info(image, format, access)
    }

    fn check(&self, image: &Path, mend: Mend, cx: &HandlerCx<'_>) -> Result<CheckReport, ToolError> {
        self.before("check", image)?;
        self.inner.check(image, mend, cx)
    }

    fn snapshot_create(&self, image: &Path, name: &str, cx: &HandlerCx<'_>) -> Result<(), ToolError> {
        self.before("snapshot -c", image)?;
        self.inner.snapshot_create(image, name, cx)
    }

    fn snapshot_apply(&self, image: &Path, id_or_name: &str, cx: &HandlerCx<'_>) -> Result<(), ToolError> {
        self.before("snapshot -a", image)?;
        self.inner.snapshot_apply(image, id_or_name, cx)
    }

    fn snapshot_delete(&self, image: &Path, name: &str, cx: &HandlerCx<'_>) -> Result<(), ToolError> {
        self.before("snapshot -d", image)?;
        self.inner.snapshot_delete(image, name, cx)
    }
}
