//! The suite on the fake tool and on the real one: what the simulation believes about qemu-img is true.

use holdfast_types::volume::Format;
use holdfast_volumehandlers::HandlerCx;
use holdfast_volumehandlers::testing::{FakeFixture, Fixture, RealFixture, run};

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

/// A device is a file of a fixed size to the tool: what lies behind the image's end stays as it is.
#[test]
fn qemu_img_writes_onto_what_holds_zeros() {
    let fixture = match RealFixture::new() {
        Ok(fixture) => fixture,
        Err(reason) => return eprintln!("skipped: {reason}"),
    };
    let (image, device) =
        (fixture.source("image.qcow2", Format::Qcow2, 1 << 20, 0x33), fixture.directory().join("device"));
    fixture.disk().create_new(&device, b"", 0o600).expect("made");
    fixture.disk().truncate(&device, 2 << 20).expect("sized");
    let told = std::sync::Mutex::new(Vec::new());
    let tell = |percent| told.lock().expect("not poisoned").push(percent);
    let cx = HandlerCx::new(&|| false, &tell);
    fixture.tool().write_device((&image, Format::Qcow2), &device, &cx).expect("written");
    let bytes = fixture.disk().read(&device).expect("read");
    assert_eq!(bytes.len(), 2 << 20, "its size is its own");
    assert!(
        bytes[..1 << 16].iter().all(|byte| *byte == 0x33) && bytes[1 << 16..].iter().all(|byte| *byte == 0)
    );
}
