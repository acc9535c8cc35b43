//! A node with many applications is soon back: in steps that grow as its applications do, and on real files.
//!
//! The figure for 100 applications with 8 snapshots each is the binary `recovery`'s, in `docs/reliability.md`.

use std::time::Duration;

use holdfast_tests::recovery::big_node::Size;
use holdfast_tests::recovery::on_disk::{lay_out, recover};
use holdfast_volumehandlers::qcow2::QemuImg;

const SNAPSHOTS_EACH: u32 = 8;
/// For a build without optimization, beside other tests.
const AT_MOST: Duration = Duration::from_secs(10);

#[test]
fn recovery_takes_steps_and_time_by_the_number_of_applications() {
    let [small, large] = [10, 20].map(|apps| Size { apps, snapshots_each: SNAPSHOTS_EACH });
    let steps = |size: Size| {
        let point = size.deployed().expect("no fault");
        (size.recovery_steps(&point).expect("it comes back"), point)
    };
    let ((few, _), (many, point)) = (steps(small), steps(large));
    eprintln!("{few} steps for {small:?}, {many} for {large:?}");
    assert!(many <= 2 * few, "the steps grow faster than the applications: {few}, {many}");

    if let Err(error) = QemuImg::new().version() {
        eprintln!("skipped on real files: {error}");
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    lay_out(&point, directory.path()).expect("laid out");
    let recovered = recover(&point, large, directory.path()).expect("it comes back");
    eprintln!("{recovered:?} on real files");
    assert!(recovered.complete <= AT_MOST, "{recovered:?}");
}
