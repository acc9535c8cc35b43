//! The stories that only image files can tell: their metadata can be damaged, leak, and name two snapshots alike.

use std::collections::BTreeSet;

use super::cases::{Case, blank, cut, delete, name, names, quiet, unattended, volume};
use super::conformance::Fixture;
use crate::error::VolumeError;
use crate::handler::Action;

pub(super) const ALL: &[(&str, Case)] = &[
    ("a twin made behind our back is never guessed", a_twin_is_never_guessed),
    ("a damaged volume is refused and not touched", a_damaged_volume_is_refused),
    ("leaks are freed and counted", leaks_are_freed),
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
