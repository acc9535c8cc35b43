//! The long chain of the plan: S1, roll back, delete S1, S2, restart, roll back to S2, delete S2.

use holdfast_tests::story::*;

#[test]
fn the_long_chain() {
    let Some(story) = Story::deployed() else { return };
    tell(story);
}

/// On whatever volumes the application is deployed.
pub fn tell(mut story: Story) {
    story.request(1);
    story.update_image(2);
    story.expect_running("2");
    story.expect_available(1, "1");
    story.guest_writes(DATA, 1, b'b');

    story.roll_back(1);
    story.expect_running("1");
    story.expect_content(DATA, 1, b'a');

    story.drop_snapshot(1);
    story.expect_unreported(1);
    story.request(2);
    story.update_image(3);
    story.expect_running("3");
    story.expect_gone(1);
    story.expect_available(2, "1");
    story.guest_writes(DATA, 1, b'c');

    story.reboot();
    story.expect_running("3");
    story.expect_available(2, "1");
    story.expect_content(DATA, 1, b'c');

    story.roll_back(2);
    story.expect_running("1");
    story.expect_content(DATA, 1, b'a');
    story.expect_content(IMAGE, 1, b'1');

    story.drop_snapshot(2);
    story.activate(false);
    story.expect_halted("1");
    story.expect_gone(2);
    story.remove_app();
    story.expect_nothing_left();
}
