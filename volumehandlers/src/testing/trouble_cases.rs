//! The stories of the suite in which something is in the way: a user, a cancel, a full disk.

use holdfast_types::volume::Format;
use std::collections::BTreeSet;

use super::cases::{
    Case, SIZE_BYTES, blank, cut, delete, from_image, name, names, quiet, roll_back, unattended, volume,
};
use super::conformance::{Fixture, Kind};
use crate::context::HandlerCx;
use crate::error::VolumeError;
use crate::handler::{Action, Preflight};

pub(super) const ALL: &[(&str, Case)] = &[
    ("a volume in use is left alone", a_volume_in_use_is_left_alone),
    ("a cancelled step can be done again", a_cancelled_step_can_be_done_again),
    ("a full disk refuses and leaves all as it was", a_full_disk_refuses),
];

fn a_volume_in_use_is_left_alone(fixture: &dyn Fixture) {
    let location = volume(fixture, "in-use");
    cut(fixture, &location, "s");
    let content = fixture.content(&location);
    let handler = fixture.handler();
    let held = fixture.hold(&location);
    let locked = |error: VolumeError| {
        let in_use = matches!(error, VolumeError::Locked { .. } | VolumeError::InUse { .. });
        assert!(in_use && error.is_transient(), "{error}");
    };
    locked(handler.create_snapshot(&location, &name("t"), &unattended()).expect_err("in use"));
    locked(
        handler
            .rollback_to_snapshot(&location, &name("s"), &BTreeSet::new(), &unattended())
            .expect_err("in use"),
    );
    locked(handler.destroy(&location, &unattended()).expect_err("in use"));
    locked(handler.preflight(&location, &quiet(Action::CreateSnapshot)).expect_err("in use"));
    if fixture.kind() == Kind::ImageFiles {
        // Both write to the file that the guest writes to.
        locked(handler.delete_snapshot(&location, &name("s"), &unattended()).expect_err("in use"));
        locked(handler.repair(&location, &unattended()).expect_err("in use"));
    }
    // [003] B3: our own guest still runs when the question is asked.
    let running = Preflight { action: Action::CreateSnapshot, guest_may_run: true };
    handler.preflight(&location, &running).expect("possible once the guest is down");
    assert_eq!(handler.facts(&location).expect("looked").virtual_size_bytes, SIZE_BYTES);
    assert_eq!(names(fixture, &location), ["holdfast-s"]);
    drop(held);
    assert_eq!(fixture.content(&location), content);
    assert!(handler.delete_snapshot(&location, &name("s"), &unattended()).expect("deleted").is_changed());
}

fn a_cancelled_step_can_be_done_again(fixture: &dyn Fixture) {
    let location = volume(fixture, "cancelled");
    let content = fixture.content(&location);
    let cancelled = HandlerCx::new(&|| true, &|_| ());
    let handler = fixture.handler();
    let stopped = handler.create_snapshot(&location, &name("s"), &cancelled);
    assert!(matches!(stopped, Err(VolumeError::Cancelled { .. })), "{stopped:?}");
    cut(fixture, &location, "s");
    let stopped = handler.rollback_to_snapshot(&location, &name("s"), &BTreeSet::new(), &cancelled);
    assert!(matches!(stopped, Err(VolumeError::Cancelled { .. })), "{stopped:?}");
    roll_back(fixture, &location, "s");
    assert_eq!(fixture.content(&location), content);

    let new = fixture.place("cancelled-new");
    let source = fixture.source("cancelled.img", Format::Qcow2, SIZE_BYTES, 1);
    let spec = from_image(fixture, &new, &source, Format::Qcow2, 0);
    let stopped = handler.create(&spec, &cancelled);
    assert!(matches!(stopped, Err(VolumeError::Cancelled { .. })), "{stopped:?}");
    assert!(!fixture.has_remains(&new), "cleaned up");
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
    let handler = small.handler();
    let space = |action: &Action| handler.space(&location, action).expect("measured");
    let back = Action::rollback(&name("s"));
    for action in [&Action::CreateSnapshot, &back] {
        let space = space(action);
        assert!(space.needed_bytes > 0 && space.free_bytes >= space.needed_bytes, "{action:?}: {space:?}");
        handler.preflight(&location, &quiet(action.clone())).expect("room enough");
    }
    let clone = handler.space(&location, &Action::Clone { from: name("s") });
    let in_place = handler.capabilities().revert_in_place;
    assert_eq!(matches!(clone, Err(VolumeError::Unsupported { .. })), in_place, "{clone:?}");
    small.fill_up();
    let state = small.fingerprint(&location);
    let refused = handler.create_snapshot(&location, &name("t"), &unattended()).expect_err("full");
    assert!(matches!(refused, VolumeError::NoSpace { .. }) && refused.is_transient(), "{refused}");
    for action in [Action::CreateSnapshot, back] {
        let (space, refused) = (space(&action), handler.preflight(&location, &quiet(action)));
        assert!(space.free_bytes < space.needed_bytes, "{space:?}");
        assert!(
            matches!(refused, Err(VolumeError::NoSpace { .. })),
            "before the guest is stopped: {refused:?}"
        );
    }
    let deletion = Action::DeleteSnapshot { name: name("s") };
    assert_eq!(space(&deletion).needed_bytes, 0);
    handler.preflight(&location, &quiet(deletion)).expect("needs no room");
    let spec = blank(small.as_ref(), &small.place("more"));
    let created = handler.create(&spec, &unattended()).expect_err("full");
    let no_room = matches!(created, VolumeError::OutOfSpace { .. } | VolumeError::NoSpace { .. });
    assert!(no_room && created.is_transient(), "{created}");
    assert!(!small.has_remains(&spec.location));
    assert!(small.fingerprint(&location) == state, "a refusal touches nothing (I16)");

    // Storage itself runs into it: content and snapshots are as before.
    small.run_out_of_room(&location, "holdfast-t");
    assert_eq!(names(small.as_ref(), &location), ["holdfast-s"]);
    assert_eq!(small.content(&location), content);
    small.release_reserve();
    assert!(delete(small.as_ref(), &location, "s"), "a full storage lets go all the same");
    assert_eq!(small.content(&location), content);
}
