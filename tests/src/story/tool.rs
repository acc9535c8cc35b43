//! The real `qemu-img`, with a switch that makes chosen calls fail as a broken disk would.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use holdfast_types::Format;
use holdfast_volumehandlers::qcow2::QemuImg;
use holdfast_volumehandlers::tool::{Access, CheckReport, ImageInfo, Mend};
use holdfast_volumehandlers::{HandlerCx, ImageTool, ToolError};

/// What is done to a snapshot within an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Create,
    Apply,
    Delete,
}

#[derive(Debug)]
pub struct FailingTool {
    real: QemuImg,
    broken: Mutex<Vec<Fault>>,
}

#[derive(Debug)]
struct Fault {
    verb: Verb,
    /// Part of the image's file name.
    image: String,
    /// How often it still fires.
    left: usize,
    fired: usize,
}

impl FailingTool {
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        FailingTool { real: QemuImg::new(), broken: Mutex::new(Vec::new()) }
    }

    /// From now on this fails with an input/output error, on images whose name holds this text.
    pub fn break_on(&self, verb: Verb, image: impl ToString) {
        self.break_times(usize::MAX, verb, image);
    }

    /// The same, so many times; then the disk is well again.
    pub fn break_times(&self, times: usize, verb: Verb, image: impl ToString) {
        let fault = Fault { verb, image: image.to_string(), left: times, fired: 0 };
        self.broken.lock().expect("no holder panics").push(fault);
    }

    /// Nothing fails any more. Returns how often something did: a fault that never fired proves nothing.
    pub fn mend(&self) -> usize {
        self.broken.lock().expect("no holder panics").drain(..).map(|fault| fault.fired).sum()
    }

    fn look(&self, verb: Verb, image: &Path) -> Result<(), ToolError> {
        let name =
            image.file_name().map(|name| PathBuf::from(name).display().to_string()).unwrap_or_default();
        let mut broken = self.broken.lock().expect("no holder panics");
        match broken.iter_mut().find(|fault| fault.verb == verb && name.contains(&fault.image)) {
            Some(fault) if fault.left == 0 => Ok(()),
            Some(fault) => {
                fault.fired += 1;
                fault.left -= 1;
                Err(ToolError::Failed {
                    program: "qemu-img".into(),
                    status: "exit status: 1".into(),
                    stderr: "Input/output error (injected)".into(),
                })
            }
            None => Ok(()),
        }
    }
}

impl ImageTool for FailingTool {
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
        self.real.check(image, mend, cx)
    }

    fn snapshot_create(&self, image: &Path, name: &str, cx: &HandlerCx<'_>) -> Result<(), ToolError> {
        self.look(Verb::Create, image)?;
        self.real.snapshot_create(image, name, cx)
    }

    fn snapshot_apply(&self, image: &Path, id_or_name: &str, cx: &HandlerCx<'_>) -> Result<(), ToolError> {
        self.look(Verb::Apply, image)?;
        self.real.snapshot_apply(image, id_or_name, cx)
    }

    fn snapshot_delete(&self, image: &Path, name: &str, cx: &HandlerCx<'_>) -> Result<(), ToolError> {
        self.look(Verb::Delete, image)?;
        self.real.snapshot_delete(image, name, cx)
    }
}
