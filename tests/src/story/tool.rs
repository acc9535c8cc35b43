//! A switch that makes chosen calls of the real `qemu-img` fail as a broken disk would.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use holdfast_volumehandlers::ToolError;

use crate::hooked_tool::{Hook, Step};

/// The faults that are set; clones are the same ones.
#[derive(Debug, Clone, Default)]
pub struct ToolFaults(Arc<Mutex<Vec<Fault>>>);

#[derive(Debug)]
struct Fault {
    step: Step,
    /// Part of the image's file name.
    image: String,
    /// How often it still fires.
    left: usize,
    fired: usize,
}

impl ToolFaults {
    /// From now on this fails with an input/output error, on images whose name holds this text.
    pub fn break_on(&self, step: Step, image: impl ToString) {
        self.break_times(usize::MAX, step, image);
    }

    /// The same, so many times; then the disk is well again.
    pub fn break_times(&self, times: usize, step: Step, image: impl ToString) {
        let fault = Fault { step, image: image.to_string(), left: times, fired: 0 };
        self.0.lock().expect("no holder panics").push(fault);
    }

    /// Nothing fails any more. Returns how often something did: a fault that never fired proves nothing.
    pub fn mend(&self) -> usize {
        self.0.lock().expect("no holder panics").drain(..).map(|fault| fault.fired).sum()
    }
}

impl Hook for ToolFaults {
    fn before(&self, step: Step, image: &Path) -> Result<(), ToolError> {
        let name =
            image.file_name().map(|name| PathBuf::from(name).display().to_string()).unwrap_or_default();
        let mut faults = self.0.lock().expect("no holder panics");
        match faults.iter_mut().find(|fault| fault.step == step && name.contains(&fault.image)) {
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
