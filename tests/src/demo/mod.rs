//! The demonstration: the whole story of one application on a real node with a real guest.
//!
//! ```text
//!   story ──edit──▶ controller (in this process) ◀──HTTP── `holdfast node` (a child process) ──▶ QEMU, qemu-img
//!     │                                                                                             │
//!     └──checks── what the guest said on its console · what the images hold · what the node reported ◀┘
//! ```
//!
//! `stage` holds everything that runs and puts it away again; `story` is the steps; `timeline` is what people see.
//! The same story is the program `demo` and the test `real_node`.
//!
//! Deliberately absent: any look into the node's process. What is believed is what a guest, an image, a file or a
//! report shows.

mod console;
mod deployment;
mod local_orders;
pub mod node_process;
mod stage;
mod story;
mod timeline;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::guest::Guest;
use stage::Stage;
use timeline::Timeline;

/// How the story is to be told.
#[derive(Debug, Clone)]
pub struct Options {
    /// The `holdfast` program.
    pub holdfast: PathBuf,
    pub colour: bool,
    /// Leaves the working folder for a look afterwards.
    pub keep: bool,
    /// Once true, the story breaks off and everything is put away.
    pub interrupted: Arc<AtomicBool>,
}

impl Options {
    /// To tell a story as a test; or why this machine cannot.
    pub fn for_test() -> Result<Options, String> {
        Guest::ensure().map_err(|reason| reason.to_string())?;
        let holdfast = holdfast_beside_us()
            .ok_or("the program `holdfast` is not built (`cargo test --workspace` builds it)")?;
        Ok(Options { holdfast, colour: false, keep: false, interrupted: Arc::default() })
    }
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    pub passed: usize,
    pub failed: usize,
}

/// Tells the whole story on standard output. The first thing that is not as it should be ends it, counts as failed, and is
/// followed by what the node logged last. When this returns, no process and, unless asked for, no file is left.
pub fn run(options: &Options) -> Outcome {
    told(options, story::tell)
}

/// The same for the story of somebody who stands before the node (`local_orders.rs`).
pub fn run_local_orders(options: &Options) -> Outcome {
    told(options, local_orders::tell)
}

fn told(options: &Options, tell: impl FnOnce(&mut Stage, &mut Timeline) -> anyhow::Result<()>) -> Outcome {
    let mut timeline = Timeline::new(options.colour);
    match Stage::set(options, &timeline) {
        Ok(mut stage) => {
            let told = tell(&mut stage, &mut timeline);
            stage.clear(told, &mut timeline);
        }
        Err(error) => timeline.broke_off(&error),
    }
    timeline.outcome()
}

/// The `holdfast` program that was built together with the running program: beside it, or one folder up from a test.
pub fn holdfast_beside_us() -> Option<PathBuf> {
    let us = std::env::current_exe().ok()?;
    us.ancestors().skip(1).take(2).map(|folder| folder.join("holdfast")).find(|path| path.is_file())
}
