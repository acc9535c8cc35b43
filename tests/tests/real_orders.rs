//! Plans and orders on the node, end to end ([000] L7, L8): the `holdfast node` process and the `holdfast` command, real QEMU,
//! real `qemu-img`.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use holdfast_tests::demo::{self, Options, Outcome};
use holdfast_tests::guest::Guest;

#[test]
fn a_real_guest_is_rolled_back_and_snapshotted_by_whoever_stands_before_the_node() {
    if let Err(reason) = Guest::ensure() {
        eprintln!("skipped: {reason}");
        return;
    }
    let Some(holdfast) = demo::holdfast_beside_us() else {
        eprintln!("skipped: the program `holdfast` is not built (`cargo test --workspace` builds it)");
        return;
    };
    let interrupted = Arc::new(AtomicBool::new(false));
    let outcome = demo::run_local_orders(&Options { holdfast, colour: false, keep: false, interrupted });
    let Outcome { passed, failed } = outcome;
    assert!(failed == 0 && passed > 20, "{passed} checks passed, {failed} failed");
}
