//! [003] E: how many snapshots there may be.

use holdfast_tests::story::*;

fn take(story: &Story, n: u8, version: &str) {
    story.request(n);
    story.update_by_restart(version);
    story.expect_running(version);
}

/// E1, B4, E2: the oldest goes for the new one, before it is cut, and stays gone while it is listed.
#[test]
fn with_a_maximum_of_one_the_new_snapshot_takes_the_place_of_the_old() {
    let Some(story) = Story::deployed() else { return };
    story.edit(|device| {
        device.app(APP).max_snapshots(1);
    });
    take(&story, 1, "2");
    story.expect_available(1, "1");
    take(&story, 2, "3");
    story.expect_available(2, "2");
    story.expect_unreported(1);
    story.expect_gone(1);
    story.update_by_restart("4");
    story.expect_running("4");
    story.expect_available(2, "2");
    story.expect_unreported(1);
}

/// E4: three fit, and lowering the limit trims to the newest.
#[test]
fn a_maximum_of_three_lowered_to_one_keeps_the_newest() {
    let Some(story) = Story::deployed() else { return };
    for (n, version) in [(1, "2"), (2, "3"), (3, "4")] {
        take(&story, n, version);
    }
    for (n, version) in [(1, "1"), (2, "2"), (3, "3")] {
        story.expect_available(n, version);
    }
    story.edit(|device| {
        device.app(APP).max_snapshots(1);
    });
    story.expect_unreported(1);
    story.expect_unreported(2);
    story.expect_available(3, "3");
    story.activate(false);
    story.expect_halted("4");
    story.expect_gone(1);
    story.expect_gone(2);
    story.expect_available(3, "3");
}
