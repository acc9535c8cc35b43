//! The suite on the fake tool and on the real one: what the simulation believes about qemu-img is true.

use holdfast_volumehandlers::testing::{FakeFixture, RealFixture, run};

#[test]
fn the_fake_keeps_the_rules() {
    run(&FakeFixture::new());
}

#[test]
fn qemu_img_keeps_the_rules() {
    match RealFixture::new() {
        Ok(fixture) => run(&fixture),
        Err(reason) => eprintln!("skipped: {reason}"),
    }
}
