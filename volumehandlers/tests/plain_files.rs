//! Raw disks and ISO images: made and destroyed like all volumes, and refused by name where a snapshot is asked
//! for ([003] J5); and the registry that says which handler a volume has.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use holdfast_types::volume::Format;
use holdfast_volumehandlers::qcow2::QemuImg;
use holdfast_volumehandlers::testing::{FakeFixture, Fixture};
use holdfast_volumehandlers::{
    Action, Backing, HandlerCx, Preflight, Registry, SnapshotName, Source, ToolError, VolumeError,
    VolumeSpec, stored_format,
};

const CX: fn() -> HandlerCx<'static> = HandlerCx::unattended;

fn registry(fixture: &FakeFixture) -> Registry {
    Registry::new(&Backing::Files, fixture.disk(), fixture.tool())
}

fn spec(location: PathBuf, format: Format, source: &Path, max_size_bytes: u64) -> VolumeSpec {
    let source = Source::Image { path: source.to_path_buf(), format };
    VolumeSpec { location, format, source, max_size_bytes, read_only: format == Format::Iso }
}

#[test]
fn a_raw_disk_grows_and_an_iso_keeps_its_length() {
    let fixture = FakeFixture::new();
    for (format, length) in [(Format::Raw, 4 << 20), (Format::Iso, 1 << 20)] {
        let source = fixture.source(&format!("download-{}", format.name()), format, 1 << 20, 7);
        let location = fixture.directory().join(format!("v#0.{}", format.name()));
        let handler = registry(&fixture).handler_for(&location, format).expect("a handler");
        let spec = spec(location.clone(), format, &source, 4 << 20);
        let made = handler.create(&spec, &CX()).expect("created");
        assert!(made.is_changed());
        assert_eq!(made.into_inner().virtual_size_bytes, length);
        fixture.mem_disk().crash();
        let bytes = fixture.disk().read(&location).expect("durable");
        assert_eq!(bytes.len() as u64, length);
        assert!(bytes[..1 << 16].iter().all(|byte| *byte == 7) && bytes[1 << 16..].iter().all(|b| *b == 0));
        assert!(!handler.create(&spec, &CX()).expect("there").is_changed());
        assert_eq!(registry(&fixture).inventory(fixture.directory()).expect("listed").len(), 1);
        assert!(handler.destroy(&location, &CX()).expect("destroyed").is_changed());
        assert!(!handler.destroy(&location, &CX()).expect("gone").is_changed());
    }
}

#[test]
fn an_image_larger_than_its_volume_is_refused_with_both_sizes() {
    let fixture = FakeFixture::new();
    let source = fixture.source("content", Format::Raw, 2 << 20, 7);
    let location = fixture.directory().join("v#0.raw");
    let handler = registry(&fixture).handler_for(&location, Format::Raw).expect("a handler");
    let refused =
        handler.create(&spec(location, Format::Raw, &source, 1 << 20), &CX()).expect_err("too small");
    let text = refused.to_string();
    assert!(text.contains("2097152") && text.contains("1048576"), "{text}");
}

#[test]
fn a_snapshot_is_refused_by_name() {
    let fixture = FakeFixture::new();
    let source = fixture.source("content", Format::Raw, 1 << 20, 7);
    let location = fixture.directory().join("v#0.raw");
    let handler = registry(&fixture).handler_for(&location, Format::Raw).expect("a handler");
    handler.create(&spec(location.clone(), Format::Raw, &source, 0), &CX()).expect("created");
    assert!(!handler.capabilities().snapshot);
    let preflight = Preflight { action: Action::CreateSnapshot, guest_may_run: true };
    let refused = handler.preflight(&location, &preflight).expect_err("refused");
    assert!(matches!(refused, VolumeError::Unsupported { .. }) && !refused.is_transient());
    assert_eq!(refused.to_string(), "volume /volumes/v#0.raw: a snapshot is not supported for format raw");
    let name = SnapshotName::parse("holdfast-s").expect("a name");
    handler.create_snapshot(&location, &name, &CX()).expect_err("refused");
    handler.rollback_to_snapshot(&location, &name, &BTreeSet::new(), &CX()).expect_err("refused");
    assert!(!handler.delete_snapshot(&location, &name, &CX()).expect("there is none").is_changed());
    let held = fixture.hold(&location);
    let in_use = handler.destroy(&location, &CX());
    assert!(matches!(in_use, Err(VolumeError::Locked { .. })), "{in_use:?}");
    drop(held);
}

#[test]
fn every_format_is_stored_somehow_or_refused_by_name() {
    let fixture = FakeFixture::new();
    let volume = Path::new("/volumes/v");
    for (content, handler) in [
        (None, "qcow2"),
        (Some(Format::Qcow2), "qcow2"),
        (Some(Format::Vmdk), "qcow2"),
        (Some(Format::Vhdx), "qcow2"),
        (Some(Format::Raw), "file"),
        (Some(Format::Iso), "file"),
    ] {
        let found = registry(&fixture).handler_for(volume, stored_format(content)).expect("a handler");
        assert_eq!(found.name(), handler, "{content:?}");
    }
    let refused = registry(&fixture).handler_for(volume, stored_format(Some(Format::Container)));
    let refused = refused.expect_err("refused").to_string();
    assert_eq!(refused, "volume /volumes/v: storing a volume is not supported for format container");
}

#[test]
fn a_missing_qemu_img_is_named() {
    let missing = QemuImg::at("/no/such/qemu-img").version().expect_err("missing");
    assert!(matches!(missing, ToolError::NotInstalled { .. }));
    assert!(missing.to_string().contains("/no/such/qemu-img"), "{missing}");
}
