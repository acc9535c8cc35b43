//! A word to the supervisor before and after each step of the real `qemu-img` that changes an image.
//!
//! Most of an operation's time goes into looking and syncing. A kill by the clock alone would rarely meet the few
//! milliseconds in which `qemu-img` writes its tables, so some kills wait for such a word.

use std::path::Path;

use holdfast_volumehandlers::ToolError;

use super::worker::tell;
use crate::hooked_tool::{Hook, Step};

/// Begins the line that is told before, and the one after.
pub const BEGINS: &str = "begins ";
pub const ENDED: &str = "ended ";

#[derive(Debug)]
pub struct Telling;

impl Hook for Telling {
    fn before(&self, step: Step, _image: &Path) -> Result<(), ToolError> {
        say(BEGINS, step);
        Ok(())
    }

    fn after(&self, step: Step) {
        say(ENDED, step);
    }
}

fn say(what: &str, step: Step) {
    let verb = match step {
        Step::Mend => "mend",
        Step::SnapshotCreate => "cut",
        Step::SnapshotApply => "apply",
        Step::SnapshotDelete => "delete",
        Step::KeepTables => "keep",
        Step::PutBackTables => "put-back",
        Step::DiscardFreed => "discard",
        Step::Create | Step::Convert | Step::WriteDevice | Step::Resize | Step::Info | Step::Check => return,
    };
    // Nobody to tell: the supervisor is gone, and this process soon is.
    drop(tell(&format!("{what}{verb}")));
}
