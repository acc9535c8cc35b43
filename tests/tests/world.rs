//! The fast part of the World: the power is cut at every device call of many workloads, and nothing may be broken.
//!
//! `make soak` does the same for hours. A violation found there is kept here under the name of what went wrong.

use holdfast_tests::world::explore::{Bases, Depth, Outcome, Second, Show, explore, explore_seed};
use holdfast_tests::world::workload::{Op, SETTINGS, Workload, every};

const ONE_CUT: Depth = Depth { coins: 1, second: Second::No };
const TWO_CUTS: Depth = Depth { coins: 0, second: Second::Too };

fn bases() -> Bases {
    Bases::new().expect("applications can be deployed")
}

fn workload(setting: usize, ops: &[Op]) -> Workload {
    Workload { setting: SETTINGS[setting], ops: ops.to_vec(), is_hasty: false }
}

fn expect_kept(outcome: &Outcome) {
    if let Some(failure) = outcome.failures.first() {
        panic!(
            "{} violations; the first: {}\n{}",
            outcome.failures.len(),
            failure.story,
            failure.violation.what
        );
    }
    assert!(outcome.cuts > 0, "nothing was cut");
}

#[test]
fn the_power_may_go_at_every_call_of_every_single_operation() {
    let bases = bases();
    let mut cuts = 0;
    for workload in every(1) {
        let outcome = explore(&bases, &workload, ONE_CUT, Show::Nothing);
        expect_kept(&outcome);
        cuts += outcome.cuts;
    }
    eprintln!("{cuts} cuts");
}

#[test]
fn the_power_may_go_again_at_every_call_of_the_recovery() {
    let bases = bases();
    for op in [Op::SnapshotByUpdate, Op::RollBack] {
        expect_kept(&explore(&bases, &workload(0, &[op]), TWO_CUTS, Show::Nothing));
    }
}

#[test]
fn the_power_may_go_while_one_order_follows_another() {
    let bases = bases();
    // A prime stride meets every operation in both places.
    for workload in every(2).iter().skip(24).step_by(13) {
        let outcome = explore(&bases, workload, Depth { coins: 0, second: Second::No }, Show::Nothing);
        assert!(outcome.failures.is_empty(), "{:?}", outcome.failures.first());
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let bases = bases();
    let hash =
        |seed| explore_seed(&bases, seed, Depth { coins: 0, second: Second::No }, Show::Nothing).trace_hash;
    assert_eq!(hash(1_000_001), hash(1_000_001));
    assert_ne!(hash(1_000_001), hash(1_000_002));
}

// ---- what the World found, by name ---------------------------------------------------------------------------

/// zedmanager took volumemgr's answer from before the cut for a snapshot, while volumemgr, whom nobody asked any more
/// until the guest was confirmed down, deleted what the answer was about.
#[test]
fn what_was_cut_before_the_power_went_is_claimed_before_it_is_counted_on() {
    let bases = bases();
    for op in [Op::SnapshotByUpdate, Op::SnapshotNow] {
        expect_kept(&explore(&bases, &workload(1, &[op]), ONE_CUT, Show::Nothing));
    }
}

/// Two snapshots were cut by one operation while the maximum was one less: the first was trimmed in the middle, kept
/// again, and trimmed again; the node failed at every start.
#[test]
fn what_an_operation_has_just_cut_is_not_trimmed_under_it() {
    expect_kept(&explore_seed(&bases(), 1_000_096, ONE_CUT, Show::Nothing));
}
