//! The stories of the suite. Volumes are of 8 MiB; each story has names of its own, so that all share one
//! directory.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use holdfast_types::volume::Format;

use super::conformance::Fixture;
use crate::context::HandlerCx;
use crate::error::VolumeError;
use crate::handler::{Action, Ensured, Preflight, Source, VolumeSpec};
use crate::name::SnapshotName;
use crate::staging::temporary_of;
use crate::tool::{Access, Mend};

type Case = fn(&dyn Fixture);

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
    ("a twin made behind our back is never guessed", a_twin_is_never_guessed),
    ("a name that looks like an id misleads nobody", a_name_like_an_id_misleads_nobody),
    ("a volume in use is left alone", a_volume_in_use_is_left_alone),
    ("a damaged volume is refused and not touched", a_damaged_volume_is_refused),
    ("leaks are freed and counted", leaks_are_freed),
    ("a cancelled step can be done again", a_cancelled_step_can_be_done_again),
    ("a full disk refuses and leaves all as it was", a_full_disk_refuses),
    ("a destroyed volume is gone", a_destroyed_volume_is_gone),
];

const SIZE_BYTES: u64 = 8 << 20;

fn unattended() -> HandlerCx<'static> {
    HandlerCx::unattended()
}

fn name(text: &str) -> SnapshotName {
    SnapshotName::parse(&format!("holdfast-{text}")).expect("a good name")
}

fn place(fixture: &dyn Fixture, file_name: &str) -> PathBuf {
    fixture.directory().join(format!("{file_name}#0.qcow2"))
}

fn blank(location: &Path) -> VolumeSpec {
    VolumeSpec {
        location: location.to_path_buf(),
        format: Format::Qcow2,
        source: Source::Blank { size_bytes: SIZE_BYTES },
        max_size_bytes: 0,
        read_only: false,
    }
}

fn from_image(location: &Path, path: &Path, format: Format, max_size_bytes: u64) -> VolumeSpec {
    let source = Source::Image { path: path.to_path_buf(), format };
    VolumeSpec { source, max_size_bytes, ..blank(location) }
}

/// A blank volume with a guest's writing on it.
fn volume(fixture: &dyn Fixture, file_name: &str) -> PathBuf {
    let location = place(fixture, file_name);
    fixture.handler().create(&blank(&location), &unattended()).expect("created");
    fixture.write(&location, 1, 0x11);
    location
}

fn cut(fixture: &dyn Fixture, volume: &Path, snapshot: &str) {
    let cut = fixture.handler().create_snapshot(volume, &name(snapshot), &unattended());
    assert!(cut.expect("cut").is_changed());
    assert_sound(fixture, volume);
}

fn roll_back(fixture: &dyn Fixture, volume: &Path, snapshot: &str) {
    let back = fixture.handler().rollback_to_snapshot(volume, &name(snapshot), &unattended());
    assert!(back.expect("rolled back").is_changed());
    assert_sound(fixture, volume);
}

fn delete(fixture: &dyn Fixture, volume: &Path, snapshot: &str) -> bool {
    let gone = fixture.handler().delete_snapshot(volume, &name(snapshot), &unattended());
    gone.expect("deleted").is_changed()
}

fn assert_sound(fixture: &dyn Fixture, volume: &Path) {
    let report = fixture.tool().check(volume, Mend::Nothing, &unattended()).expect("checked");
    assert!(report.is_clean(), "[003] J4: {report:?}");
}

fn names(fixture: &dyn Fixture, volume: &Path) -> Vec<String> {
    let found = fixture.handler().list_snapshots(volume).expect("listed");
    found.into_iter().map(|snapshot| snapshot.name).collect()
}

fn quiet(action: Action) -> Preflight {
    Preflight { action, guest_may_run: false }
}

fn a_blank_volume_is_made_once(fixture: &dyn Fixture) {
    let location = place(fixture, "blank");
    let handler = fixture.handler();
    let made = handler.create(&blank(&location), &unattended()).expect("created");
    assert!(made.is_changed());
    assert_eq!(made.into_inner().virtual_size_bytes, SIZE_BYTES);
    fixture.write(&location, 2, 0x22);
    let written = fixture.content(&location);
    for _ in 0..3 {
        assert!(!handler.create(&blank(&location), &unattended()).expect("there").is_changed());
    }
    assert_eq!(fixture.content(&location), written);
    let larger = VolumeSpec { max_size_bytes: 2 * SIZE_BYTES, ..blank(&location) };
    let other = handler.create(&larger, &unattended());
    assert!(matches!(other, Err(VolumeError::Different { .. })), "{other:?}");
    assert_sound(fixture, &location);
}

fn an_image_becomes_a_volume(fixture: &dyn Fixture) {
    let handler = fixture.handler();
    let mut contents = Vec::new();
    for format in [Format::Qcow2, Format::Raw, Format::Vmdk, Format::Vhdx] {
        let source = fixture.source(&format!("image.{}", format.name()), format, SIZE_BYTES, 0x33);
        let location = place(fixture, &format!("from-{}", format.name()));
        let spec = from_image(&location, &source, format, 2 * SIZE_BYTES);
        let made = handler.create(&spec, &unattended()).expect("created");
        assert_eq!(made.into_inner().virtual_size_bytes, 2 * SIZE_BYTES, "grown from {format:?}");
        assert!(!handler.create(&spec, &unattended()).expect("there").is_changed());
        assert_sound(fixture, &location);
        if format != Format::Raw {
            contents.push(fixture.content(&location));
        }

        let small = from_image(&place(fixture, "small"), &source, format, SIZE_BYTES / 2);
        let refused = handler.create(&small, &unattended()).expect_err("too small").to_string();
        assert!(refused.contains("8388608") && refused.contains("4194304"), "names both sizes: {refused}");
        assert!(!handler.destroy(&small.location, &unattended()).expect("nothing").is_changed());
    }
    assert!(contents.windows(2).all(|pair| pair[0] == pair[1]), "{contents:?}");
}

fn an_image_that_needs_another_file_is_refused(fixture: &dyn Fixture) {
    let source = fixture.backed_source("backed.img");
    let location = place(fixture, "backed");
    let spec = from_image(&location, &source, Format::Qcow2, 0);
    let refused = fixture.handler().create(&spec, &unattended()).expect_err("refused");
    assert!(matches!(refused, VolumeError::Unusable { .. }) && !refused.is_transient(), "{refused}");
    assert!(refused.to_string().contains("/etc/shadow"), "{refused}");

    let junk = fixture.directory().join("junk.img");
    fixture.disk().create_new(&junk, b"not an image at all", 0o600).expect("written");
    for format in [Format::Qcow2, Format::Vmdk, Format::Vhdx] {
        let refused = fixture.handler().create(&from_image(&location, &junk, format, 0), &unattended());
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
    let location = place(fixture, "remains");
    let remains = temporary_of(&location);
    fixture.disk().create_new(&remains, b"half an image", 0o600).expect("written");
    let handler = fixture.handler();
    let found = handler.inventory(fixture.directory()).expect("listed");
    let found: Vec<_> = found.iter().filter(|found| found.location == location).collect();
    assert!(found.len() == 1 && found[0].unfinished, "{found:?}");

    assert!(handler.create(&blank(&location), &unattended()).expect("created").is_changed());
    assert_eq!(fixture.disk().metadata(&remains).expect("looked"), None);
    let found = handler.inventory(fixture.directory()).expect("listed");
    let found: Vec<_> = found.iter().filter(|found| found.location == location).collect();
    assert!(found.len() == 1 && !found[0].unfinished, "{found:?}");
    fixture.disk().create_new(&remains, b"half an image", 0o600).expect("written");
    assert!(handler.repair(&location, &unattended()).expect("repaired").into_inner().removed_temporary);
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
        assert_sound(fixture, &location);
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
    fixture.write(&location, 5, 0x55);
    let after = fixture.content(&location);
    cut(fixture, &location, "after");
    assert_ne!(before, after);

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
    assert_sound(fixture, &location);
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
    fixture.tool().resize(&location, Format::Qcow2, 2 * SIZE_BYTES, &unattended()).expect("grown");
    fixture.write(&location, 12, 0x12);
    let large = fixture.content(&location);
    cut(fixture, &location, "large");

    let handler = fixture.handler();
    let facts = handler.rollback_to_snapshot(&location, &name("small"), &unattended()).expect("back");
    assert_eq!(facts.into_inner().virtual_size_bytes, SIZE_BYTES, "[003] J3");
    assert_eq!(fixture.content(&location), small);
    assert_sound(fixture, &location);
    let facts = handler.rollback_to_snapshot(&location, &name("large"), &unattended()).expect("forth");
    assert_eq!(facts.into_inner().virtual_size_bytes, 2 * SIZE_BYTES);
    assert_eq!(fixture.content(&location), large);
    assert_sound(fixture, &location);
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
    assert_sound(fixture, &location);
    assert!(!delete(fixture, &place(fixture, "no-volume"), "s"));

    let handler = fixture.handler();
    let back = handler.rollback_to_snapshot(&location, &name("s"), &unattended());
    assert!(matches!(back, Err(VolumeError::NoSuchSnapshot { .. })), "{back:?}");
    let asked =
        handler.preflight(&location, &quiet(Action::Rollback { to: name("s"), leaving: BTreeSet::new() }));
    assert!(matches!(asked, Err(VolumeError::NoSuchSnapshot { .. })), "{asked:?}");
    let asked = handler.preflight(&place(fixture, "no-volume"), &quiet(Action::CreateSnapshot));
    assert!(matches!(asked, Err(VolumeError::Missing { .. })), "{asked:?}");
}

fn a_twin_is_never_guessed(fixture: &dyn Fixture) {
    let location = volume(fixture, "twins");
    cut(fixture, &location, "s");
    fixture.write(&location, 1, 0x99);
    fixture.tool().snapshot_create(&location, "holdfast-s", &unattended()).expect("qemu accepts a twin");
    let content = fixture.content(&location);
    assert_eq!(names(fixture, &location), ["holdfast-s", "holdfast-s"]);

    let back = fixture.handler().rollback_to_snapshot(&location, &name("s"), &unattended());
    assert!(matches!(back, Err(VolumeError::AmbiguousSnapshot { count: 2, .. })), "{back:?}");
    assert_eq!(fixture.content(&location), content);
    assert!(delete(fixture, &location, "s"));
    assert_eq!(names(fixture, &location), [""; 0], "both are gone");

    for _ in 0..2 {
        fixture.tool().snapshot_create(&location, "holdfast-s", &unattended()).expect("a twin");
    }
    cut(fixture, &location, "s");
    assert_eq!(names(fixture, &location), ["holdfast-s"]);
    assert_eq!(fixture.content(&location), content);
}

fn a_name_like_an_id_misleads_nobody(fixture: &dyn Fixture) {
    let location = volume(fixture, "ids");
    fixture.tool().snapshot_create(&location, "2", &unattended()).expect("a stranger's, id 1, named 2");
    fixture.write(&location, 1, 0x99);
    let ours = fixture.content(&location);
    cut(fixture, &location, "s");
    fixture.write(&location, 1, 0xaa);
    roll_back(fixture, &location, "s");
    assert_eq!(fixture.content(&location), ours);
    assert!(delete(fixture, &location, "s"));
    assert_eq!(names(fixture, &location), ["2"], "the stranger's stays");
}

fn a_volume_in_use_is_left_alone(fixture: &dyn Fixture) {
    let location = volume(fixture, "in-use");
    cut(fixture, &location, "s");
    let content = fixture.content(&location);
    let handler = fixture.handler();
    let held = fixture.hold(&location);
    let locked = |error: VolumeError| {
        assert!(matches!(error, VolumeError::Locked { .. }) && error.is_transient(), "{error}");
    };
    locked(handler.create_snapshot(&location, &name("t"), &unattended()).expect_err("in use"));
    locked(handler.rollback_to_snapshot(&location, &name("s"), &unattended()).expect_err("in use"));
    locked(handler.delete_snapshot(&location, &name("s"), &unattended()).expect_err("in use"));
    locked(handler.repair(&location, &unattended()).expect_err("in use"));
    locked(handler.destroy(&location, &unattended()).expect_err("in use"));
    locked(handler.preflight(&location, &quiet(Action::CreateSnapshot)).expect_err("in use"));
    // [003] B3: our own guest still runs when the question is asked.
    let running = Preflight { action: Action::CreateSnapshot, guest_may_run: true };
    handler.preflight(&location, &running).expect("possible once the guest is down");
    assert_eq!(handler.facts(&location).expect("looked").virtual_size_bytes, SIZE_BYTES);
    assert_eq!(names(fixture, &location), ["holdfast-s"]);
    drop(held);
    assert_eq!(fixture.content(&location), content);
    assert!(handler.delete_snapshot(&location, &name("s"), &unattended()).expect("deleted").is_changed());
}

fn a_damaged_volume_is_refused(fixture: &dyn Fixture) {
    let location = volume(fixture, "damaged");
    cut(fixture, &location, "s");
    fixture.damage(&location);
    let bytes = fixture.disk().read(&location).expect("read");
    let handler = fixture.handler();
    for action in [Action::CreateSnapshot, Action::Rollback { to: name("s"), leaving: BTreeSet::new() }] {
        let refused = handler.preflight(&location, &quiet(action)).expect_err("damaged");
        assert!(matches!(refused, VolumeError::Corrupt { .. }) && !refused.is_transient(), "{refused}");
    }
    assert_eq!(fixture.disk().read(&location).expect("read"), bytes, "a refusal touches nothing (I16)");
    let refused = handler.repair(&location, &unattended());
    assert!(matches!(refused, Err(VolumeError::Corrupt { .. })), "{refused:?}");

    let junk = place(fixture, "junk");
    fixture.disk().create_new(&junk, &[0x5a; 4096], 0o600).expect("written");
    for refused in [
        handler.facts(&junk).map(drop),
        handler.preflight(&junk, &quiet(Action::CreateSnapshot)),
        handler.create_snapshot(&junk, &name("s"), &unattended()).map(drop),
        handler.create(&blank(&junk), &unattended()).map(drop),
    ] {
        assert!(matches!(refused, Err(VolumeError::Corrupt { .. })), "{refused:?}");
    }
    assert!(handler.destroy(&junk, &unattended()).expect("a damaged one can go").is_changed());
}

fn leaks_are_freed(fixture: &dyn Fixture) {
    let location = volume(fixture, "leaky");
    cut(fixture, &location, "s");
    let content = fixture.content(&location);
    fixture.leak(&location);
    let handler = fixture.handler();
    handler.preflight(&location, &quiet(Action::CreateSnapshot)).expect("a leak harms nobody");
    let repaired = handler.repair(&location, &unattended()).expect("repaired");
    assert!(repaired.is_changed() && repaired.into_inner().leaked_clusters > 0, "{repaired:?}");
    assert_sound(fixture, &location);
    assert!(!handler.repair(&location, &unattended()).expect("sound").is_changed());
    assert_eq!(fixture.content(&location), content);
    let missing = handler.repair(&place(fixture, "no-volume"), &unattended());
    assert!(matches!(missing, Err(VolumeError::Missing { .. })), "{missing:?}");
}

fn a_cancelled_step_can_be_done_again(fixture: &dyn Fixture) {
    let location = volume(fixture, "cancelled");
    let content = fixture.content(&location);
    let cancelled = HandlerCx::new(&|| true, &|_| ());
    let handler = fixture.handler();
    let stopped = handler.create_snapshot(&location, &name("s"), &cancelled);
    assert!(matches!(stopped, Err(VolumeError::Cancelled { .. })), "{stopped:?}");
    cut(fixture, &location, "s");
    let stopped = handler.rollback_to_snapshot(&location, &name("s"), &cancelled);
    assert!(matches!(stopped, Err(VolumeError::Cancelled { .. })), "{stopped:?}");
    roll_back(fixture, &location, "s");
    assert_eq!(fixture.content(&location), content);

    let new = place(fixture, "cancelled-new");
    let source = fixture.source("cancelled.img", Format::Qcow2, SIZE_BYTES, 1);
    let spec = from_image(&new, &source, Format::Qcow2, 0);
    let stopped = handler.create(&spec, &cancelled);
    assert!(matches!(stopped, Err(VolumeError::Cancelled { .. })), "{stopped:?}");
    assert_eq!(fixture.disk().metadata(&temporary_of(&new)).expect("looked"), None, "cleaned up");
    assert!(handler.create(&spec, &unattended()).expect("created").is_changed());
}

fn a_full_disk_refuses(fixture: &dyn Fixture) {
    let Some(small) = fixture.nearly_full() else {
        return eprintln!("skipped: this machine gives no small file system to fill up");
    };
    let location = volume(small.as_ref(), "full");
    cut(small.as_ref(), &location, "s");
    small.write(&location, 1, 0x99);
    let content = small.content(&location);
    small.fill_up();
    let handler = small.handler();
    let bytes = small.disk().read(&location).expect("read");
    let refused = handler.create_snapshot(&location, &name("t"), &unattended()).expect_err("full");
    assert!(matches!(refused, VolumeError::NoSpace { .. }) && refused.is_transient(), "{refused}");
    handler.preflight(&location, &quiet(Action::CreateSnapshot)).expect_err("full");
    assert!(small.disk().read(&location).expect("read") == bytes, "a refusal touches nothing (I16)");
    let created = handler.create(&blank(&place(small.as_ref(), "more")), &unattended()).expect_err("full");
    assert!(matches!(created, VolumeError::OutOfSpace { .. }), "{created}");

    // The tool itself runs into it: content and table are as before.
    small.tool().snapshot_create(&location, "holdfast-t", &unattended()).expect_err("no room");
    assert_eq!(names(small.as_ref(), &location), ["holdfast-s"]);
    assert_eq!(small.content(&location), content);
    let info = small.tool().info(&location, Format::Qcow2, Access::Exclusive).expect("looked");
    assert!(!info.marked_corrupt);
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
