//! Guards, tags and strangers at any moment of a drawn workload ([000] L1, L6, L7; I7, I8).
//!
//! ```text
//!   seed ≥ GUARD_SEEDS ─▶ between orders: a state, a tag, by the controller or on the node; a stranger's snapshot, hold, clone
//!                                          or bookmark; strangers leave ─▶ ... ─▶ before the end all is opened up again
//! ```

use std::path::PathBuf;

use holdfast_agents::runtime::{Entropy, SeededEntropy};
use holdfast_types::{FORCE_ROLLBACK, HaChoice, HaState, LocalAppSettings, LocalChange};
use holdfast_volumehandlers::placement::is_device;

use super::ground::locked;
use super::storage::{devices, is_of_raw_disk, raw_tool};
use super::tap::volume_files;
use super::workload::APP;
use super::{Violation, World};

/// Seeds from here on draw guards and strangers as well; those below are as they were.
pub const GUARD_SEEDS: u64 = 2_000_000_000;

/// Seeds from here on are of nodes with raw disks, and draw guards and strangers like those above.
pub const RAW_SEEDS: u64 = 3_000_000_000;

/// `ignored` is what a rollback needs, so it comes more often.
const STATES: [&str; 8] = ["started", "stopped", "disabled", "ignored", "ignored", "", "", "paused"];

/// One thing that somebody else than the workload does.
pub fn meddle(world: &mut World, chance: &SeededEntropy) {
    match chance.next_u64() % 10 {
        0 | 1 => {
            let state = drawn(chance, &STATES);
            controller_sets(world, &format!("state \"{state}\""), |app| app.ha_state(state));
        }
        2 => controller_sets(world, "the tag", |app| app.tag(FORCE_ROLLBACK)),
        3 => controller_sets(world, "no tag", |app| app.untag(FORCE_ROLLBACK)),
        4 | 5 => {
            let change = local_change(chance);
            world.set_locally(APP, change);
        }
        6 | 7 => {
            if let Some(volume) = drawn_volume(world, chance) {
                world.stranger_snapshots(&volume);
            }
        }
        8 => strange_pool(world, chance),
        _ => world.strangers_leave(),
    }
}

fn strange_pool(world: &mut World, chance: &SeededEntropy) {
    let Some(volume) = drawn_volume(world, chance).filter(|volume| is_device(volume)) else { return };
    let image = raw_tool(&world.tap.disk).image(&volume).expect("it is listed");
    let names: Vec<String> = image.snapshots.into_iter().map(|snapshot| snapshot.name).collect();
    if names.is_empty() {
        return;
    }
    let name = &names[(chance.next_u64() % names.len() as u64) as usize];
    match chance.next_u64() % 3 {
        0 => world.stranger_holds(&volume, name),
        1 => world.stranger_clones(&volume, name),
        _ => world.stranger_bookmarks(&volume),
    }
}

fn local_change(chance: &SeededEntropy) -> LocalChange {
    let tag = || [FORCE_ROLLBACK.to_owned()].into();
    match chance.next_u64() % 5 {
        0 => LocalChange { tags: tag(), ..LocalChange::default() },
        1 => LocalChange { untags: tag(), ..LocalChange::default() },
        2 => LocalChange { ha_state: Some(HaChoice::Controller), ..LocalChange::default() },
        _ => {
            let state = HaState::ALL[(chance.next_u64() % 4) as usize];
            LocalChange { ha_state: Some(HaChoice::State(state)), ..LocalChange::default() }
        }
    }
}

fn controller_sets(
    world: &mut World,
    what: &str,
    edit: impl FnOnce(crate::controller::AppEdit<'_>) -> crate::controller::AppEdit<'_>,
) {
    locked(&world.ground).note(format_args!("the controller sets {what}"));
    world.order(|orders| {
        if orders.app(APP).is_some() {
            orders.edit(|device| {
                edit(device.app(APP));
            });
        }
    });
}

/// Nothing guards any more and nobody else is there: what is left must work.
pub fn open_up(world: &mut World) -> Result<(), Violation> {
    world.strangers_leave();
    controller_sets(world, "nothing", |app| app.ha_state("").untag(FORCE_ROLLBACK));
    if world.rows::<LocalAppSettings>().iter().any(|settings| settings.app.0 == APP) {
        let change = LocalChange {
            ha_state: Some(HaChoice::Controller),
            untags: [FORCE_ROLLBACK.to_owned()].into(),
            ..LocalChange::default()
        };
        world.set_locally(APP, change);
    }
    // Taken in before anything else happens: a word said to a process that dies is lost, as on a real node.
    world.run()?;
    world.settle()
}

fn drawn_volume(world: &World, chance: &SeededEntropy) -> Option<PathBuf> {
    let files = volume_files(&world.tap.disk, &world.layout.volumes_dir(true));
    // What is being made or removed is nobody's to touch.
    let tool = raw_tool(&world.tap.disk);
    // A raw disk has no room for anybody's snapshot, and what lies beside it is no volume.
    let whole = |path: &PathBuf| !is_of_raw_disk(path) && tool.image(path).is_ok();
    let all: Vec<PathBuf> = files.into_iter().chain(devices(&world.tap.disk)).filter(whole).collect();
    let number = chance.next_u64().checked_rem(all.len() as u64)?;
    all.into_iter().nth(usize::try_from(number).ok()?)
}

fn drawn<'a>(chance: &SeededEntropy, of: &[&'a str]) -> &'a str {
    of[(chance.next_u64() % of.len() as u64) as usize]
}
