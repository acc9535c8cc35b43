//! Plans and orders on the node, end to end ([000] L7, L8): the `holdfast node` process and the `holdfast` command, real QEMU,
//! real `qemu-img`.

use holdfast_tests::demo::{self, Options, Outcome};

#[test]
fn a_real_guest_is_rolled_back_and_snapshotted_by_whoever_stands_before_the_node() {
    let options = match Options::for_test() {
        Ok(options) => options,
        Err(reason) => {
            eprintln!("skipped: {reason}");
            return;
        }
    };
    let Outcome { passed, failed } = demo::run_local_orders(&options);
    assert!(failed == 0 && passed > 20, "{passed} checks passed, {failed} failed");
}
