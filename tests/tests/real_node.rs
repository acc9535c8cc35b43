//! The real thing, end to end: the `holdfast node` process, real QEMU, real `qemu-img`, the controller's wire.
//!
//! The story is the demonstration's; every check in it is against the guest's console, the images, or the reports.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use holdfast_tests::demo::{self, Options, Outcome};
use holdfast_tests::guest::Guest;

#[test]
fn a_real_guest_lives_through_snapshot_update_rollbacks_a_kill_and_deletion() {
    if let Err(reason) = Guest::ensure() {
        eprintln!("skipped: {reason}");
        return;
    }
    let Some(holdfast) = demo::holdfast_beside_us() else {
        eprintln!("skipped: the program `holdfast` is not built (`cargo test --workspace` builds it)");
        return;
    };
    let interrupted = Arc::new(AtomicBool::new(false));
    let outcome = demo::run(&Options { holdfast, colour: false, keep: false, interrupted });
    let Outcome { passed, failed } = outcome;
    assert!(failed == 0 && passed > 30, "{passed} checks passed, {failed} failed");
}
