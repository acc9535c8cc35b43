//! One rig after the other, until there are enough kills or something is broken.

#![allow(clippy::disallowed_methods, reason = "it makes and removes real directories")]

use std::path::Path;

use anyhow::Context;

use super::rig::{Rig, Trouble};
use super::tally::Tally;

/// Then the rig is taken down, and another with other volumes takes its place.
const ORDERS_PER_RIG: usize = 30;

/// Runs a lane below this directory. What broke a promise stays there, and is told to the tally.
pub fn run(program: &Path, base: &Path, seed: u64, lane: u64, tally: &Tally) -> anyhow::Result<()> {
    for number in 0.. {
        if tally.is_over() {
            break;
        }
        let directory = base.join(format!("lane-{lane}-rig-{number}"));
        std::fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        let rig_seed = seed.wrapping_mul(1_000_003).wrapping_add(lane * 10_007 + number);
        let mut rig = Rig::new(program, directory.clone(), rig_seed, tally);
        match rig.live(ORDERS_PER_RIG).and_then(|()| rig.end()) {
            Ok(()) => std::fs::remove_dir_all(&directory).with_context(|| directory.display().to_string())?,
            Err(Trouble::Violation(what)) => {
                tally.violated(format!(
                    "seed {seed}, lane {lane}, rig {number}: {what}\n  at {}\n  kill {} of all\n  kept: {}",
                    rig.story,
                    tally.kills(),
                    directory.display()
                ));
            }
            Err(Trouble::Machine(error)) => {
                tally.stop();
                return Err(error.context(format!("lane {lane}, rig {number}, {}", rig.story)));
            }
        }
    }
    Ok(())
}
