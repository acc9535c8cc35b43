//! Bad input at the start of a node: whatever is wrong with a file on the disk, the node comes up, only the one it
//! belongs to is harmed, and somebody is told ([003] G9, H1-H3, I15, I17).
//!
//! ```text
//!   two applications ─▶ the power goes ─▶ every record × every damage ─▶ boot, let time pass ─▶ judged (oracle.rs)
//! ```
//!
//! The agents, `persist` and the handlers are the real ones; disk, image tool and hypervisor are the World's.

mod fixture;
mod kinds;
mod oracle;
mod recovery_time;
mod told;
mod unwritable;

use std::collections::BTreeSet;
use std::path::PathBuf;

use holdfast_persist::{Disk, MemDisk};
use holdfast_tests::world::World;
use holdfast_tests::world::tap::CutPoint;
use holdfast_tests::world::workload::{APP, BYSTANDER, Op};
use holdfast_types::SnapshotId;

use fixture::{owner_of, put_foreign_things, records};
use kinds::{Damage, Kind, every};
use oracle::{Before, before, neighbours, recover, snapshot_of};

/// What went wrong, in words, by damage.
type Found = Vec<String>;

/// A node that came up on a damaged disk, and what is known of its past.
struct Case<'a> {
    damage: &'a Damage,
    before: &'a Before,
    /// The file as it was, and as it was found by the node.
    whole: Vec<u8>,
    damaged: Vec<u8>,
    world: World,
}

/// Every damage to every record of this moment, each on a disk of its own.
fn damage_everything(
    point: &CutPoint,
    flips: usize,
    judge: impl Fn(&Case<'_>) -> Result<(), String>,
) -> (usize, Found) {
    let before = before(point);
    let files = records(&point.disk);
    let (mut cases, mut found) = (0, Found::new());
    for path in &files {
        for damage in every(&point.disk, path, &files, flips) {
            let disk = point.disk.fork();
            if !damage.inflict(&disk) {
                continue;
            }
            cases += 1;
            let judged = recover(point, &disk, &ended(&damage), false).and_then(|world| {
                let read = |disk: &MemDisk| disk.read(path).expect("it is there");
                let (whole, damaged) = (read(&point.disk), read(&disk));
                judge(&Case { damage: &damage, before: &before, whole, damaged, world })
            });
            found.extend(judged.err().map(|what| format!("{damage:?}\n    {what}")));
        }
    }
    (cases, found)
}

/// The snapshots that this damage may end.
fn ended(damage: &Damage) -> BTreeSet<SnapshotId> {
    let other = match &damage.kind {
        Kind::SwappedWith(other) => snapshot_of(other),
        _ => None,
    };
    snapshot_of(&damage.path).into_iter().chain(other).collect()
}

/// [003] I15: the applications that the damage says nothing about.
fn neighbours_untouched(case: &Case<'_>) -> Result<(), String> {
    for app in neighbours(&case.damage.path) {
        let is_other_too =
            matches!(&case.damage.kind, Kind::SwappedWith(other) if owner_of(other) == Some(app));
        if !is_other_too {
            oracle::untouched(&case.world, case.before, app)?;
        }
    }
    Ok(())
}

fn expect_none(what: &str, cases: usize, found: &Found) {
    eprintln!("{what}: {cases} damages, {} violations", found.len());
    assert!(cases > 0, "nothing was damaged");
    assert!(found.is_empty(), "{} violations:\n{}", found.len(), found.join("\n"));
}

#[test]
fn any_damaged_file_harms_its_own_application_only() {
    for point in [fixture::at_rest(), fixture::rolled_back()] {
        let foreign = put_foreign_things(&point.disk);
        let (cases, found) = damage_everything(&point, 24, |case| {
            neighbours_untouched(case)?;
            oracle::nothing_lost(&case.world, case.before)?;
            oracle::foreign_untouched(&case.world, &foreign)?;
            if told::is_harmless(&case.whole, &case.damaged) {
                return Ok(());
            }
            oracle::kept(&case.world, &case.damage.path, &case.damaged)?;
            told::on_its_object(&case.world, &case.damage.path)
        });
        expect_none("at rest", cases, &found);
    }
}

/// Intents, half-made snapshots, half-reverted volumes: whatever is on the disk in the middle of an operation.
#[test]
fn any_file_may_be_damaged_in_the_middle_of_an_operation() {
    for op in [Op::SnapshotByUpdate, Op::RollBack, Op::Purge, Op::DeleteSnapshot, Op::DeleteApp] {
        let moments = fixture::moments_of(op);
        let (mut cases, mut found) = (0, Found::new());
        // A prime stride meets every phase.
        for point in moments.iter().step_by(11) {
            let (more, violations) = damage_everything(point, 2, neighbours_untouched);
            cases += more;
            found.extend(violations);
        }
        expect_none(&format!("{op:?}"), cases, &found);
    }
}

/// What one record lost, another may still tell; and what none tells is kept all the same.
#[test]
fn any_two_files_of_an_application_may_be_damaged() {
    let point = fixture::rolled_back();
    let before = before(&point);
    let files: Vec<PathBuf> =
        records(&point.disk).into_iter().filter(|path| owner_of(path) == Some(APP)).collect();
    let (mut cases, mut found) = (0, Found::new());
    for (number, first) in files.iter().enumerate() {
        for second in &files[number + 1..] {
            let disk = point.disk.fork();
            let damages = [(first, Kind::Zeroed), (second, Kind::Truncated { to_bytes: 40 })]
                .map(|(path, kind)| Damage { path: path.clone(), kind });
            assert!(damages.iter().all(|damage| damage.inflict(&disk)), "each is changed");
            let ended = damages.iter().flat_map(ended).collect();
            let judged = recover(&point, &disk, &ended, false).and_then(|world| {
                oracle::untouched(&world, &before, BYSTANDER)?;
                oracle::runs(&world, APP)?;
                oracle::nothing_lost(&world, &before)?;
                damages.iter().try_for_each(|damage| {
                    oracle::kept(&world, &damage.path, &disk.read(&damage.path).expect("it is there"))?;
                    told::on_its_object(&world, &damage.path)
                })
            });
            cases += 1;
            found.extend(
                judged.err().map(|what| format!("{:?}\n    {what} (and {})", damages[0], second.display())),
            );
        }
    }
    expect_none("two at a time", cases, &found);
}
