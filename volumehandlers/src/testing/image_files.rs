//! What the fixtures of image files have in common: everything that goes through the disk and the tool.

use std::path::Path;

use holdfast_types::volume::Format;

use super::conformance::Fixture;
use super::records::checksum;
use crate::context::HandlerCx;
use crate::staging::temporary_of;
use crate::tool::{Access, Mend};

fn unattended() -> HandlerCx<'static> {
    HandlerCx::unattended()
}

pub(super) fn assert_sound(fixture: &dyn Fixture, volume: &Path) {
    let report = fixture.tool().check(volume, Mend::Nothing, &unattended()).expect("checked");
    assert!(report.is_clean(), "[003] J4: {report:?}");
}

pub(super) fn fingerprint(fixture: &dyn Fixture, volume: &Path) -> String {
    let bytes = fixture.disk().read(volume).expect("read");
    format!("{} bytes: {:016x}", bytes.len(), checksum(&bytes))
}

pub(super) fn leave_remains(fixture: &dyn Fixture, volume: &Path) {
    fixture.disk().create_new(&temporary_of(volume), b"half an image", 0o600).expect("written");
}

pub(super) fn has_remains(fixture: &dyn Fixture, volume: &Path) -> bool {
    fixture.disk().metadata(&temporary_of(volume)).expect("looked").is_some()
}

pub(super) fn resize(fixture: &dyn Fixture, volume: &Path, size_bytes: u64) {
    fixture.tool().resize(volume, Format::Qcow2, size_bytes, &unattended()).expect("resized");
}

pub(super) fn strangers_snapshot(fixture: &dyn Fixture, volume: &Path, name: &str) {
    fixture.tool().snapshot_create(volume, name, &unattended()).expect("qemu takes any name, twins too");
}

pub(super) fn run_out_of_room(fixture: &dyn Fixture, volume: &Path, name: &str) {
    fixture.tool().snapshot_create(volume, name, &unattended()).expect_err("no room");
    let info = fixture.tool().info(volume, Format::Qcow2, Access::Exclusive).expect("looked");
    assert!(!info.marked_corrupt);
}
