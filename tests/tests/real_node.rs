//! The real thing, end to end: the `holdfast node` process, real QEMU, real `qemu-img`, the controller's wire.
//!
//! The story is the demonstration's; every check in it is against the guest's console, the images, or the reports.

use holdfast_tests::demo::{self, Options, Outcome};

#[test]
fn a_real_guest_lives_through_snapshot_update_rollbacks_a_kill_and_deletion() {
    let options = match Options::for_test() {
        Ok(options) => options,
        Err(reason) => {
            eprintln!("skipped: {reason}");
            return;
        }
    };
    let Outcome { passed, failed } = demo::run(&options);
    assert!(failed == 0 && passed > 30, "{passed} checks passed, {failed} failed");
}
