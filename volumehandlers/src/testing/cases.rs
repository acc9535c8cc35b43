//! The stories of the suite. Volumes are of 8 MiB; each story has names of its own, so that all share one
//! directory.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use holdfast_types::volume::Format;

use super::conformance::{Fixture, Kind};
use crate::context::HandlerCx;
use crate::error::VolumeError;
use crate::handler::{Action, Ensured, Preflight, Source, VolumeSpec};
use crate::name::SnapshotName;

pub(super) type Case = fn(&dyn Fixture);

pub(super) const ALL: &[(&str, Case)] = &[
    ("a blank volume is made once", a_blank_volume_is_made_once),
    ("an image becomes a volume, grown and never shrunk", an_image_becomes_a_volume),
    ("an image that needs another file is refused", an_image_that_needs_another_file_is_refused),
    ("remains of an unfinished creation are replaced", remains_are_replaced),
    ("a snapshot is cut once, however often it is asked for", a_snapshot_is_cut_once),
    ("a rollback brings the content back, again and again", a_rollback_brings_the_content_back),
    ("three volumes roll back together", three_volumes_roll_back),
    ("a size that changed since the cut goes back too", a_changed_size_goes_back),
    ("deleting what is not there is a success", deleting_the_missing_is_a_success),
    ("a name that looks like an id misleads nobody", a_name_like_an_id_misleads_nobody),
    ("a destroyed volume is gone", a_destroyed_volume_is_gone),
];

pub(super) const SIZE_BYTES: u64 = 4 << 20;

pub(super) fn unattended() -> HandlerCx<'static> {
    HandlerCx::unattended()
}

pub(super) fn name(text: &str) -> SnapshotName {
    SnapshotName::parse(&format!("holdfast-{text}")).expect("a good name")
}

pub(super) fn blank(fixture: &dyn Fixture, location: &Path) -> VolumeSpec {
    VolumeSpec {
        location: location.to_path_buf(),
        format: fixture.stored_as(),
        source: Source::Blank { size_bytes: SIZE_BYTES },
        max_size_bytes: 0,
        read_only: false,
    }
}

pub(super) fn from_image(
    fixture: &dyn Fixture,
    location: &Path,
    path: &Path,
    format: Format,
    max_size_bytes: u64,
) -> VolumeSpec {
    let source = Source::Image { path: path.to_path_buf(), format };
    VolumeSpec { source, max_size_bytes, ..blank(fixture, location) }
}

/// A blank volume with a guest's writing on it.
pub(super) fn volume(fixture: &dyn Fixture, file_name: &str) -> PathBuf {
    let location = fixture.place(file_name);
    fixture.handler().create(&blank(fixture, &location), &unattended()).expect("created");
    fixture.write(&location, 1, 0x11);
    location
}

pub(super) fn cut(fixture: &dyn Fixture, volume: &Path, snapshot: &str) {
    let cut = fixture.handler().create_snapshot(volume, &name(snapshot), &unattended());
    assert!(cut.expect("cut").is_changed());
    fixture.assert_sound(volume);
}

pub(super) fn roll_back(fixture: &dyn Fixture, volume: &Path, snapshot: &str) {
    let back =
        fixture.handler().rollback_to_snapshot(volume, &name(snapshot), &BTreeSet::new(), &unattended());
    assert!(back.expect("rolled back").is_changed());
    fixture.assert_sound(volume);
}

pub(super) fn delete(fixture: &dyn Fixture, volume: &Path, snapshot: &str) -> bool {
    let gone = fixture.handler().delete_snapshot(volume, &name(snapshot), &unattended());
    gone.expect("deleted").is_changed()
}

pub(super) fn names(fixture: &dyn Fixture, volume: &Path) -> Vec<String> {
    let found = fixture.handler().list_snapshots(volume).expect("listed");
    found.into_iter().map(|snapshot| snapshot.name).collect()
}

pub(super) fn quiet(action: Action) -> Preflight {
    Preflight { action, guest_may_run: false }
}

fn a_blank_volume_is_made_once(fixture: &dyn Fixture) {
    let location = fixture.place("blank");
    let handler = fixture.handler();
    let made = handler.create(&blank(fixture, &location), &unattended()).expect("created");
    assert!(made.is_changed());
    assert_eq!(made.into_inner().virtual_size_bytes, SIZE_BYTES);
    fixture.write(&location, 2, 0x22);
    let written = fixture.content(&location);
    for _ in 0..3 {
        assert!(!handler.create(&blank(fixture, &location), &unattended()).expect("there").is_changed());
    }
    assert_eq!(fixture.content(&location), written);
    let larger = VolumeSpec { max_size_bytes: 2 * SIZE_BYTES, ..blank(fixture, &location) };
    let other = handler.create(&larger, &unattended());
    assert!(matches!(other, Err(VolumeError::Different { .. })), "{other:?}");
    fixture.assert_sound(&location);
}

fn an_image_becomes_a_volume(fixture: &dyn Fixture) {
    let handler = fixture.handler();
    let mut contents = Vec::new();
    for format in [Format::Qcow2, Format::Raw, Format::Vmdk, Format::Vhdx] {
        let source = fixture.source(&format!("image.{}", format.name()), format, SIZE_BYTES, 0x33);
        let location = fixture.place(&format!("from-{}", format.name()));
        let spec = from_image(fixture, &location, &source, format, 2 * SIZE_BYTES);
        let made = handler.create(&spec, &unattended()).expect("created");
        assert_eq!(made.into_inner().virtual_size_bytes, 2 * SIZE_BYTES, "grown from {format:?}");
        assert!(!handler.create(&spec, &unattended()).expect("there").is_changed());
        fixture.assert_sound(&location);
        if format != Format::Raw {
            contents.push(fixture.content(&location));
        }

        let small = from_image(fixture, &fixture.place("small"), &source, format, SIZE_BYTES / 2);
        let refused = handler.create(&small, &unattended()).expect_err("too small").to_string();
        assert!(refused.contains("4194304") && refused.contains("2097152"), "names both sizes: {refused}");
        assert!(!handler.destroy(&small.location, &unattended()).expect("nothing").is_changed());
    }
    assert!(contents.windows(2).all(|pair| pair[0] == pair[1]), "{contents:?}");
}

fn an_image_that_needs_another_file_is_refused(fixture: &dyn Fixture) {
    let source = fixture.backed_source("backed.img");
    let location = fixture.place("backed");
    let spec = from_image(fixture, &location, &source, Format::Qcow2, 0);
    let refused = fixture.handler().create(&spec, &unattended()).expect_err("refused");
    assert!(matches!(refused, VolumeError::Unusable { .. }) && !refused.is_transient(), "{refused}");
    assert!(refused.to_string().contains("/etc/shadow"), "{refused}");

    let junk = fixture.sources().join("junk.img");
    fixture.disk().create_new(&junk, b"not an image at all", 0o600).expect("written");
    for format in [Format::Qcow2, Format::Vmdk, Format::Vhdx] {
        let refused =
            fixture.handler().create(&from_image(fixture, &location, &junk, format, 0), &unattended());
        assert!(matches!(refused, Err(VolumeError::Unusable { .. })), "{refused:?}");
    }
    assert!(
        fixture
            .handler()
            .inventory(fixture.directory())
            .expect("listed")
            .iter()
            .all(|found| { found.location != location })
    );
}

fn remains_are_replaced(fixture: &dyn Fixture) {
    let location = fixture.place("remains");
    fixture.leave_remains(&location);
    let handler = fixture.handler();
    let found = handler.inventory(fixture.directory()).expect("listed");
    let found: Vec<_> = found.iter().filter(|found| found.location == location).collect();
    assert!(found.len() == 1 && found[0].unfinished, "{found:?}");

    assert!(handler.create(&blank(fixture, &location), &unattended()).expect("created").is_changed());
    assert!(!fixture.has_remains(&location));
    let found = handler.inventory(fixture.directory()).expect("listed");
    let found: Vec<_> = found.iter().filter(|found| found.location == location).collect();
    assert!(found.len() == 1 && !found[0].unfinished, "{found:?}");

    let unwanted = fixture.place("remains-unwanted");
    fixture.leave_remains(&unwanted);
    assert!(handler.destroy(&unwanted, &unattended()).expect("destroyed").is_changed());
    assert!(!fixture.has_remains(&unwanted));
    if fixture.kind() == Kind::ImageFiles {
        fixture.leave_remains(&location);
        assert!(handler.repair(&location, &unattended()).expect("repaired").into_inner().removed_temporary);
    }
}

fn a_snapshot_is_cut_once(fixture: &dyn Fixture) {
    let location = volume(fixture, "once");
    let handler = fixture.handler();
    handler.preflight(&location, &quiet(Action::CreateSnapshot)).expect("possible");
    let first = handler.create_snapshot(&location, &name("s"), &unattended()).expect("cut");
    assert!(first.is_changed());
    let first = first.into_inner();
    assert_eq!(first.size_bytes, SIZE_BYTES);
    for _ in 0..3 {
        let again = fixture.handler().create_snapshot(&location, &name("s"), &unattended());
        assert_eq!(again.expect("there"), Ensured::Unchanged(first.clone()));
        fixture.assert_sound(&location);
    }
    assert_eq!(names(fixture, &location), ["holdfast-s"]);
    let foreign = SnapshotName::parse("s").expect("a name");
    let refused = handler.create_snapshot(&location, &foreign, &unattended());
    assert!(matches!(refused, Err(VolumeError::Name { .. })), "{refused:?}");
}

fn a_rollback_brings_the_content_back(fixture: &dyn Fixture) {
    let location = volume(fixture, "back");
    let before = fixture.content(&location);
    cut(fixture, &location, "before");
    fixture.write(&location, 1, 0x99);
    fixture.write(&location, 3, 0x55);
    let after = fixture.content(&location);
    cut(fixture, &location, "after");
    assert_ne!(before, after);

    if fixture.handler().capabilities().newer_snapshots_block {
        // [003] K4, [000] L5: the refusal names what is in the way, and touches nothing.
        let refused = fixture.handler().rollback_to_snapshot(
            &location,
            &name("before"),
            &BTreeSet::new(),
            &unattended(),
        );
        let refused = refused.expect_err("a newer one is in the way").to_string();
        assert!(refused.contains("holdfast-after"), "{refused}");
        assert_eq!(fixture.content(&location), after);
        assert!(delete(fixture, &location, "after"));
        for _ in 0..2 {
            roll_back(fixture, &location, "before");
            assert_eq!(fixture.content(&location), before);
            fixture.write(&location, 3, 0x77);
            assert_ne!(fixture.content(&location), before);
        }
        return assert_eq!(names(fixture, &location), ["holdfast-before"]);
    }
    let blockers = |snapshot| fixture.handler().blockers(&location, &name(snapshot), &BTreeSet::new());
    assert_eq!(blockers("before").expect("looked"), [], "[000] L4");
    assert!(matches!(blockers("never"), Err(VolumeError::NoSuchSnapshot { .. })));
    // [003] C7: the snapshot is unchanged by it, and newer ones stay.
    for _ in 0..2 {
        roll_back(fixture, &location, "before");
        roll_back(fixture, &location, "before");
        assert_eq!(fixture.content(&location), before);
        fixture.write(&location, 3, 0x77);
        roll_back(fixture, &location, "after");
        assert_eq!(fixture.content(&location), after);
    }
    assert_eq!(names(fixture, &location), ["holdfast-before", "holdfast-after"]);
    assert!(delete(fixture, &location, "before"));
    assert_eq!(fixture.content(&location), after, "a deletion leaves the content alone");
    fixture.assert_sound(&location);
}

fn three_volumes_roll_back(fixture: &dyn Fixture) {
    let volumes: Vec<PathBuf> = ["one", "two", "three"].iter().map(|n| volume(fixture, n)).collect();
    let mut before = Vec::new();
    for (at, location) in volumes.iter().enumerate() {
        fixture.write(location, 2, at as u8 + 1);
        before.push(fixture.content(location));
        cut(fixture, location, "all");
        fixture.write(location, 2, 0xee);
    }
    for (location, before) in volumes.iter().zip(&before) {
        roll_back(fixture, location, "all");
        assert_eq!(&fixture.content(location), before);
    }
}

fn a_changed_size_goes_back(fixture: &dyn Fixture) {
    let location = volume(fixture, "resized");
    let small = fixture.content(&location);
    cut(fixture, &location, "small");
    fixture.resize(&location, 2 * SIZE_BYTES);
    fixture.write(&location, 6, 0x12);
    let large = fixture.content(&location);
    let handler = fixture.handler();
    let blocked = handler.capabilities().newer_snapshots_block;
    if !blocked {
        cut(fixture, &location, "large");
    }

    let facts = handler
        .rollback_to_snapshot(&location, &name("small"), &BTreeSet::new(), &unattended())
        .expect("back");
    assert_eq!(facts.into_inner().virtual_size_bytes, SIZE_BYTES, "[003] J3");
    assert_eq!(fixture.content(&location), small);
    fixture.assert_sound(&location);
    if blocked {
        fixture.resize(&location, 2 * SIZE_BYTES);
        fixture.write(&location, 6, 0x12);
        return assert_eq!(fixture.content(&location), large, "it can grow again");
    }
    let facts = handler
        .rollback_to_snapshot(&location, &name("large"), &BTreeSet::new(), &unattended())
        .expect("forth");
    assert_eq!(facts.into_inner().virtual_size_bytes, 2 * SIZE_BYTES);
    assert_eq!(fixture.content(&location), large);
    fixture.assert_sound(&location);
    let sizes: Vec<_> = handler.list_snapshots(&location).expect("listed");
    let sizes: Vec<_> = sizes.iter().map(|snapshot| snapshot.size_bytes).collect();
    assert_eq!(sizes, [Some(SIZE_BYTES), Some(2 * SIZE_BYTES)]);
}

fn deleting_the_missing_is_a_success(fixture: &dyn Fixture) {
    let location = volume(fixture, "missing");
    assert!(!delete(fixture, &location, "never"));
    cut(fixture, &location, "s");
    assert!(delete(fixture, &location, "s"));
    assert!(!delete(fixture, &location, "s"));
    fixture.assert_sound(&location);
    assert!(!delete(fixture, &fixture.place("no-volume"), "s"));

    let handler = fixture.handler();
    let back = handler.rollback_to_snapshot(&location, &name("s"), &BTreeSet::new(), &unattended());
    assert!(matches!(back, Err(VolumeError::NoSuchSnapshot { .. })), "{back:?}");
    let asked = handler.preflight(&location, &quiet(Action::rollback(&name("s"))));
    assert!(matches!(asked, Err(VolumeError::NoSuchSnapshot { .. })), "{asked:?}");
    let asked = handler.preflight(&fixture.place("no-volume"), &quiet(Action::CreateSnapshot));
    assert!(matches!(asked, Err(VolumeError::Missing { .. })), "{asked:?}");
}

fn a_name_like_an_id_misleads_nobody(fixture: &dyn Fixture) {
    let location = volume(fixture, "ids");
    fixture.strangers_snapshot(&location, "2");
    fixture.write(&location, 1, 0x99);
    let ours = fixture.content(&location);
    cut(fixture, &location, "s");
    fixture.write(&location, 1, 0xaa);
    roll_back(fixture, &location, "s");
    assert_eq!(fixture.content(&location), ours);
    assert!(delete(fixture, &location, "s"));
    assert_eq!(names(fixture, &location), ["2"], "the stranger's stays");
}

fn a_destroyed_volume_is_gone(fixture: &dyn Fixture) {
    let location = volume(fixture, "gone");
    cut(fixture, &location, "s");
    let handler = fixture.handler();
    assert!(handler.destroy(&location, &unattended()).expect("destroyed").is_changed());
    assert!(!handler.destroy(&location, &unattended()).expect("gone").is_changed());
    assert!(handler.inventory(fixture.directory()).expect("listed").iter().all(|f| f.location != location));
    assert!(handler.inventory(&fixture.directory().join("no-such-directory")).expect("none").is_empty());
    volume(fixture, "gone");
    assert!(names(fixture, &location).is_empty(), "a new one begins afresh");
}
