//! The image tool of the World: the fake one, that may fail by itself before it has done anything.
//!
//! Errors of the disk below come from the tap; here it is the program that ends badly, or is given up when its time is up.

use std::path::Path;
use std::time::Duration;

use holdfast_agents::volumemgr::steps::FORWARD_TRIES;
use holdfast_volumehandlers::ToolError;

use super::faults::{FaultKind, INJECTED};
use super::ground::{SharedGround, locked};
use crate::hooked_tool::{Hook, Step};

/// What may strike at a step of the tool, as the ground's faults say.
#[derive(Debug, Clone)]
pub struct ToolFaults(pub SharedGround);

impl Hook for ToolFaults {
    #[inline]
    fn before(&self, step: Step, image: &Path) -> Result<(), ToolError> {
        let mut ground = locked(&self.0);
        let is_apply = step == Step::SnapshotApply;
        if !(is_apply && ground.faults.refuses(image)) {
            if !ground.faults.strikes(FaultKind::Tool) {
                return Ok(());
            }
            // For good, so that all volumes go back: by itself that would be rare.
            if is_apply {
                ground.faults.refuse(image, FORWARD_TRIES - 1);
            }
        }
        let step = traced(step);
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

/// The step as a trace has it: in the program's words.
fn traced(step: Step) -> &'static str {
    match step {
        Step::Create => "create",
        Step::Convert => "convert",
        Step::WriteDevice => "convert to a device",
        Step::Resize => "resize",
        Step::Info => "info",
        Step::Check | Step::Mend => "check",
        Step::SnapshotCreate => "snapshot -c",
        Step::SnapshotApply => "snapshot -a",
        Step::SnapshotDelete => "snapshot -d",
        Step::KeepTables => "keep tables",
        Step::PutBackTables => "put tables back",
        Step::DiscardFreed => "discard what is free",
    }
}
