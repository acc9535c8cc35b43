//! How a qcow2 volume gets its first content.
//!
//! ```text
//!   Blank                     ─▶ create
//!   qcow2 without snapshots   ─▶ copy the file, leaks mended ─┐
//!   qcow2 with snapshots      ─▶ convert (leaves them behind) ├─▶ grow to the configured size ─▶ check ─▶ place
//!   raw, vmdk, vhdx           ─▶ convert ─────────────────────┘
//! ```
//!
//! The source was downloaded: what it says of itself is looked at before anything opens it in earnest.

use std::path::Path;

use holdfast_types::volume::Format;

use super::{flaw_of, refuse_flaws};
use crate::context::HandlerCx;
use crate::error::{ToolError, VolumeError};
use crate::handler::{Ensured, Source, VolumeFacts, VolumeSpec};
use crate::staging::Staging;
use crate::tool::{Access, ImageInfo, ImageTool, Mend};

const STEP: &str = "creation";

/// See [`crate::VolumeHandler::create`].
pub(super) fn create(
    staging: &Staging,
    tool: &dyn ImageTool,
    spec: &VolumeSpec,
    cx: &HandlerCx<'_>,
) -> Result<Ensured<VolumeFacts>, VolumeError> {
    let plan = Plan { staging, tool, spec, cx };
    if staging.exists(&spec.location)? {
        return plan.confirm().map(Ensured::Unchanged);
    }
    plan.build()?;
    plan.facts().map(Ensured::Changed)
}

struct Plan<'a> {
    staging: &'a Staging,
    tool: &'a dyn ImageTool,
    spec: &'a VolumeSpec,
    cx: &'a HandlerCx<'a>,
}

impl Plan<'_> {
    /// The file is there, so it is whole; it must also be what is asked for.
    fn confirm(&self) -> Result<VolumeFacts, VolumeError> {
        let volume = &self.spec.location;
        let info = self.info()?;
        refuse_flaws(volume, &info)?;
        let wanted = match self.spec.source {
            Source::Blank { size_bytes } => size_bytes.max(self.spec.max_size_bytes),
            Source::Image { .. } => self.spec.max_size_bytes,
        };
        if wanted != 0 && rounded(wanted) != info.virtual_size_bytes {
            let reason = format!("it has {} bytes and not {wanted}", info.virtual_size_bytes);
            return Err(VolumeError::Different { volume: volume.clone(), reason });
        }
        self.staging.settle(volume)?;
        self.facts()
    }

    fn build(&self) -> Result<(), VolumeError> {
        match &self.spec.source {
            Source::Blank { size_bytes } => {
                let size_bytes = rounded((*size_bytes).max(self.spec.max_size_bytes));
                self.staging.build(&self.spec.location, |temporary| {
                    self.step(self.tool.create(temporary, Format::Qcow2, size_bytes, self.cx))
                })
            }
            Source::Image { path, format } => self.build_from(path, *format),
        }
    }

    fn build_from(&self, image: &Path, format: Format) -> Result<(), VolumeError> {
        let source = inspect(self.tool, image, format)?;
        self.refuse_too_small(&source)?;
        self.staging.need_space(&self.spec.location, source.allocated_bytes)?;
        self.staging.build(&self.spec.location, |temporary| {
            if format == Format::Qcow2 && source.snapshots.is_empty() {
                self.staging.copy_sparse(&self.spec.location, image, temporary, self.cx)?;
                self.mend_copy(image, temporary)?;
            } else {
                self.step(self.tool.convert((image, format), (temporary, Format::Qcow2), self.cx))?;
            }
            self.grow(temporary, &source)
        })
    }

    /// Checked on the copy: the source may be shared with another volume's creation.
    fn mend_copy(&self, image: &Path, temporary: &Path) -> Result<(), VolumeError> {
        let report = self.step(self.tool.check(temporary, Mend::Nothing, self.cx))?;
        if report.is_clean() {
            return Ok(());
        }
        self.step(self.tool.check(temporary, Mend::Leaks, self.cx))?;
        let report = self.step(self.tool.check(temporary, Mend::Nothing, self.cx))?;
        if report.is_clean() {
            return Ok(());
        }
        let reason = format!("its check counts {} corruptions", report.corruptions + report.check_errors);
        Err(VolumeError::Unusable { image: image.to_path_buf(), reason })
    }

    fn refuse_too_small(&self, source: &ImageInfo) -> Result<(), VolumeError> {
        let max_size_bytes = self.spec.max_size_bytes;
        if max_size_bytes == 0 || source.virtual_size_bytes <= rounded(max_size_bytes) {
            return Ok(());
        }
        Err(VolumeError::TooSmall {
            volume: self.spec.location.clone(),
            image_size_bytes: source.virtual_size_bytes,
            max_size_bytes,
        })
    }

    fn grow(&self, temporary: &Path, source: &ImageInfo) -> Result<(), VolumeError> {
        let size_bytes = rounded(self.spec.max_size_bytes);
        if size_bytes <= source.virtual_size_bytes {
            return Ok(());
        }
        self.step(self.tool.resize(temporary, Format::Qcow2, size_bytes, self.cx))
    }

    fn info(&self) -> Result<ImageInfo, VolumeError> {
        self.step(self.tool.info(&self.spec.location, Format::Qcow2, Access::Shared))
    }

    fn facts(&self) -> Result<VolumeFacts, VolumeError> {
        self.info().map(|info| super::facts_of(&info))
    }

    fn step<T>(&self, done: Result<T, ToolError>) -> Result<T, VolumeError> {
        done.map_err(|error| VolumeError::from_tool(&self.spec.location, STEP, error))
    }
}

/// What an image says of itself, if it stands on its own and is not damaged.
pub(crate) fn inspect(tool: &dyn ImageTool, image: &Path, format: Format) -> Result<ImageInfo, VolumeError> {
    let unusable = |reason| VolumeError::Unusable { image: image.to_path_buf(), reason };
    let source = tool.info(image, format, Access::Shared).map_err(|error| match error {
        ToolError::NotAnImage { stderr } => {
            unusable(format!("it is not in the format {}: {stderr}", format.name()))
        }
        other => VolumeError::from_tool(image, STEP, other),
    })?;
    match flaw_of(&source) {
        Some(reason) => Err(unusable(reason)),
        None if source.marked_corrupt => Err(unusable("it bears the mark of a damaged image".to_owned())),
        None => Ok(source),
    }
}

/// Disks have whole sectors.
fn rounded(size_bytes: u64) -> u64 {
    size_bytes.div_ceil(512).saturating_mul(512)
}
