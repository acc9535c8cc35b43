//! The stories that only image files can tell: their metadata can be damaged, leak, and name two snapshots alike.

use std::collections::BTreeSet;
use std::path::Path;

use super::cases::{Case, SIZE_BYTES, blank, cut, delete, name, names, quiet, roll_back, unattended, volume};
use super::conformance::Fixture;
use crate::error::VolumeError;
use crate::handler::Action;

pub(super) const ALL: &[(&str, Case)] = &[
    ("a twin made behind our back is never guessed", a_twin_is_never_guessed),
    ("a damaged volume is refused and not touched", a_damaged_volume_is_refused),
    ("leaks are freed and counted", leaks_are_freed),
    ("a rollback is undone by its safety snapshot", a_rollback_is_undone),
    ("a safety snapshot goes with its volume", a_safety_snapshot_goes_with_its_volume),
];

fn a_twin_is_never_guessed(fixture: &dyn Fixture) {
    let location = volume(fixture, "twins");
    cut(fixture, &location, "s");
    fixture.write(&location, 1, 0x99);
    fixture.tool().snapshot_create(&location, "holdfast-s", &unattended()).expect("qemu accepts a twin");
    let content = fixture.content(&location);
    assert_eq!(names(fixture, &location), ["holdfast-s", "holdfast-s"]);

    let back = fixture.handler().rollback_to_snapshot(&location, &name("s"), &BTreeSet::new(), &unattended());
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

fn a_damaged_volume_is_refused(fixture: &dyn Fixture) {
    let location = volume(fixture, "damaged");
    cut(fixture, &location, "s");
    fixture.damage(&location);
    let bytes = fixture.disk().read(&location).expect("read");
    let handler = fixture.handler();
    for action in [Action::CreateSnapshot, Action::rollback(&name("s"))] {
        let refused = handler.preflight(&location, &quiet(action)).expect_err("damaged");
        assert!(matches!(refused, VolumeError::Corrupt { .. }) && !refused.is_transient(), "{refused}");
    }
    assert_eq!(fixture.disk().read(&location).expect("read"), bytes, "a refusal touches nothing (I16)");
    let refused = handler.repair(&location, &unattended());
    assert!(matches!(refused, Err(VolumeError::Corrupt { .. })), "{refused:?}");

    let junk = fixture.place("junk");
    fixture.disk().create_new(&junk, &[0x5a; 4096], 0o600).expect("written");
    for refused in [
        handler.facts(&junk).map(drop),
        handler.preflight(&junk, &quiet(Action::CreateSnapshot)).map(drop),
        handler.create_snapshot(&junk, &name("s"), &unattended()).map(drop),
        handler.create(&blank(fixture, &junk), &unattended()).map(drop),
    ] {
        assert!(matches!(refused, Err(VolumeError::Corrupt { .. })), "{refused:?}");
    }
    assert!(handler.destroy(&junk, &unattended()).expect("a damaged one can go").is_changed());
}

fn make_safe(fixture: &dyn Fixture, volume: &Path) {
    let safe = fixture.handler().create_safety_snapshot(volume, &name("safety-s"), &name("s"), &unattended());
    safe.expect("safe");
}

/// Once where the rollback changes tables only, and once where it changes the size as well.
fn a_rollback_is_undone(fixture: &dyn Fixture) {
    for (label, grows) in [("undone", false), ("undone-grown", true)] {
        let location = volume(fixture, label);
        cut(fixture, &location, "s");
        let old = fixture.content(&location);
        (1..4).for_each(|mebibyte| fixture.write(&location, mebibyte, 0x22));
        if grows {
            fixture.resize(&location, 2 * SIZE_BYTES);
        }
        let now = fixture.content(&location);
        make_safe(fixture, &location);
        // Asked again by one who does not know that it was done.
        make_safe(fixture, &location);
        assert_eq!(names(fixture, &location), ["holdfast-s", "holdfast-safety-s"]);
        for _ in 0..2 {
            roll_back(fixture, &location, "s");
            assert_eq!(fixture.content(&location), old);
            roll_back(fixture, &location, "safety-s");
            assert_eq!(fixture.content(&location), now);
        }
        roll_back(fixture, &location, "s");
        for _ in 0..2 {
            let handler = fixture.handler();
            handler.drop_safety_snapshot(&location, &name("safety-s"), &unattended()).expect("dropped");
        }
        assert_eq!(names(fixture, &location), ["holdfast-s"]);
        assert_eq!(fixture.content(&location), old);
        fixture.assert_sound(&location);
        // The guest goes on from there.
        (0..4).for_each(|mebibyte| fixture.write(&location, mebibyte, 0x33));
        fixture.assert_sound(&location);
        roll_back(fixture, &location, "s");
        assert_eq!(fixture.content(&location), old);
    }
}

fn a_safety_snapshot_goes_with_its_volume(fixture: &dyn Fixture) {
    let location = volume(fixture, "unsafe");
    cut(fixture, &location, "s");
    make_safe(fixture, &location);
    let held = fixture.hold(&location);
    let handler = fixture.handler();
    let again = handler.create_safety_snapshot(&location, &name("safety-s"), &name("s"), &unattended());
    assert!(matches!(again, Err(VolumeError::Locked { .. })), "{again:?}");
    let back = handler.rollback_to_snapshot(&location, &name("safety-s"), &BTreeSet::new(), &unattended());
    assert!(matches!(back, Err(VolumeError::Locked { .. })), "{back:?}");
    let gone = handler.delete_snapshot(&location, &name("safety-s"), &unattended());
    assert!(matches!(gone, Err(VolumeError::Locked { .. })), "{gone:?}");
    // When the rollback is over, it is in nobody's way.
    handler.drop_safety_snapshot(&location, &name("safety-s"), &unattended()).expect("dropped");
    assert_eq!(names(fixture, &location), ["holdfast-s"]);
    drop(held);
    make_safe(fixture, &location);
    assert!(delete(fixture, &location, "safety-s"));
    assert!(!delete(fixture, &location, "safety-s"));
    make_safe(fixture, &location);
    let unknown = handler.create_safety_snapshot(&location, &name("safety-t"), &name("t"), &unattended());
    assert!(matches!(unknown, Err(VolumeError::NoSuchSnapshot { .. })), "{unknown:?}");
    assert!(handler.destroy(&location, &unattended()).expect("destroyed").is_changed());
    let left: Vec<_> = fixture.disk().list(fixture.directory()).expect("listed");
    assert!(left.iter().filter_map(|entry| entry.text()).all(|name| !name.contains("unsafe")), "{left:?}");
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
    fixture.assert_sound(&location);
    assert!(!handler.repair(&location, &unattended()).expect("sound").is_changed());
    assert_eq!(fixture.content(&location), content);
    let missing = handler.repair(&fixture.place("no-volume"), &unattended());
    assert!(matches!(missing, Err(VolumeError::Missing { .. })), "{missing:?}");
}
