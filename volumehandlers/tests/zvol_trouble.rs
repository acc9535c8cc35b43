//! A pool in trouble: each kind is a clear error on the right volume, says whether time may help, and leaves everything as it was.

use holdfast_types::error_chain;
use holdfast_types::volume::Format;
use holdfast_volumehandlers::testing::{
    FakePoolFixture, Fixture, Operator, PoolFixture, ZfsVerb, dataset_of,
};
use holdfast_volumehandlers::zvol::{CommandZfs, Dataset, Zfs, ZfsError};
use holdfast_volumehandlers::{
    Action, GroupMember, HandlerCx, Preflight, SnapshotName, Source, VolumeError, VolumeSpec,
};
use std::collections::BTreeSet;

const CX: fn() -> HandlerCx<'static> = HandlerCx::unattended;

fn name(text: &str) -> SnapshotName {
    SnapshotName::parse(&format!("holdfast-{text}")).expect("a good name")
}

fn blank(fixture: &FakePoolFixture, label: &str) -> VolumeSpec {
    VolumeSpec {
        location: fixture.place(label),
        format: Format::Raw,
        source: Source::Blank { size_bytes: 8 << 20 },
        max_size_bytes: 0,
        read_only: false,
    }
}

/// Two volumes with a snapshot `s` each.
fn prepared() -> (FakePoolFixture, Vec<GroupMember>) {
    let fixture = FakePoolFixture::new();
    let handler = fixture.handler();
    let group: Vec<GroupMember> = ["one", "two"]
        .iter()
        .map(|label| {
            let spec = blank(&fixture, label);
            handler.create(&spec, &CX()).expect("created");
            GroupMember::new(&spec.location, &name("s"))
        })
        .collect();
    handler.group().expect("group verbs").create_snapshots(&group, &CX()).expect("cut");
    for member in &group {
        fixture.write(&member.volume, 1, 7);
    }
    (fixture, group)
}

/// Everything that can be asked for fails with these words, and changes nothing.
fn everything_fails(fixture: &FakePoolFixture, group: &[GroupMember], words: &str) {
    let before = fixture.fake_zfs().pool().expect("read");
    let (handler, volume) = (fixture.handler(), &group[0].volume);
    let verbs = handler.group().expect("group verbs");
    let others: Vec<GroupMember> =
        group.iter().map(|member| GroupMember { name: name("t"), ..member.clone() }).collect();
    let errors = [
        handler.create(&blank(fixture, "new"), &CX()).map(drop),
        handler.destroy(volume, &CX()).map(drop),
        handler.create_snapshot(volume, &name("t"), &CX()).map(drop),
        handler.rollback_to_snapshot(volume, &name("s"), &BTreeSet::new(), &CX()).map(drop),
        handler.delete_snapshot(volume, &name("s"), &CX()).map(drop),
        handler
            .preflight(volume, &Preflight { action: Action::CreateSnapshot, guest_may_run: false })
            .map(drop),
        verbs.create_snapshots(&others, &CX()).map(drop),
        verbs.rollback_to_snapshots(group, "token", &CX()).map(drop),
        verbs.delete_snapshots(group, &CX()).map(drop),
    ];
    for (at, error) in errors.into_iter().enumerate() {
        let error = error.expect_err("the pool is in trouble");
        let told = error_chain(&error);
        assert!(told.contains(words), "step {at}: {told}");
        assert!(error.volume().starts_with("/dev/zvol/persist"), "step {at}: {told}");
    }
    assert_eq!(fixture.fake_zfs().pool().expect("read"), before, "as it was");
}

#[test]
fn a_pool_in_trouble_is_told_and_everything_stays_as_it_was() {
    let pool = || "persist".to_owned();
    for (trouble, words) in [
        (ZfsError::NoPool { pool: pool() }, "there is no pool persist"),
        (ZfsError::Suspended { pool: pool() }, "suspended"),
        (ZfsError::ReadOnly { pool: pool() }, "read-only"),
        (ZfsError::NotLoaded, "kernel module is not loaded"),
        (ZfsError::NotInstalled { program: "zfs".to_owned() }, "the program zfs is not installed"),
        (ZfsError::TimedOut { seconds: 300 }, "longer than 300 seconds"),
    ] {
        let (fixture, group) = prepared();
        fixture.fake_zfs().set_trouble(Some(trouble));
        everything_fails(&fixture, &group, words);
        fixture.fake_zfs().set_trouble(None);
        let handler = fixture.handler();
        let verbs = handler.group().expect("group verbs");
        verbs.rollback_to_snapshots(&group, "token", &CX()).expect("the pool is well again");
    }
}

/// A panic of the library ends a step, not the node.
#[test]
fn a_library_that_panics_fails_the_step_and_nothing_else() {
    let (fixture, group) = prepared();
    let handler = fixture.handler();
    let verbs = handler.group().expect("group verbs");
    let before = fixture.fake_zfs().pool().expect("read");
    for verb in [ZfsVerb::Volume, ZfsVerb::UserOf, ZfsVerb::Snapshots, ZfsVerb::Rollback] {
        fixture.fake_zfs().panic_next(verb, "unknown property value");
        let failed = verbs.rollback_to_snapshots(&group, "token", &CX()).expect_err("it panicked");
        let told = error_chain(&failed);
        assert!(told.contains("panicked") && told.contains("unknown property value"), "{verb:?}: {told}");
        assert!(failed.is_transient(), "{told}");
    }
    assert_eq!(fixture.fake_zfs().pool().expect("read"), before);
    verbs.rollback_to_snapshots(&group, "token", &CX()).expect("only once");
}

#[test]
fn what_fails_in_the_last_step_is_told_on_the_right_volume() {
    let (fixture, group) = prepared();
    let handler = fixture.handler();
    let verbs = handler.group().expect("group verbs");
    let second = dataset_of(&group[1].volume).to_string();
    for (verb, error) in [
        (ZfsVerb::Rollback, ZfsError::Busy { object: second.clone(), user: "process 9 (dd)".to_owned() }),
        (ZfsVerb::Rollback, ZfsError::Quota { object: second.clone() }),
        (ZfsVerb::Rollback, ZfsError::NoSpace { object: second.clone() }),
    ] {
        fixture.fake_zfs().fail_next(verb, error);
        let failed = verbs.rollback_to_snapshots(&group, "token", &CX()).expect_err("ordered");
        assert_eq!(failed.volume(), group[1].volume, "{failed}");
    }
}

#[test]
fn a_quota_is_reached() {
    for above in ["", "vault", "vault/volumes"] {
        quota_is_reached(above);
    }
}

/// On a dataset above the volumes.
fn quota_is_reached(above: &str) {
    let (fixture, group) = prepared();
    let dataset = match above {
        "" => fixture.root().clone(),
        below => fixture.root().child(below).expect("a name"),
    };
    fixture.operate(Operator::Quota { dataset: &dataset, bytes: Some(1) });
    let handler = fixture.handler();
    for error in [
        handler.create(&blank(&fixture, "new"), &CX()).map(drop),
        handler.create_snapshot(&group[0].volume, &name("t"), &CX()).map(drop),
    ] {
        let error = error.expect_err("no room");
        assert!(matches!(error, VolumeError::NoSpace { .. }) && error.is_transient(), "{error}");
    }
    handler.delete_snapshot(&group[0].volume, &name("s"), &CX()).expect("always possible");
}

/// On a machine without ZFS, as most build machines are, the real backend says what is missing.
#[test]
fn without_zfs_the_command_backend_says_so() {
    let dataset = Dataset::parse("persist/vault/volumes/a.1").expect("a name");
    let zfs = CommandZfs::at("/no/such/zfs", "/no/such/zpool");
    let missing = |result: Result<(), ZfsError>| {
        assert!(matches!(result, Err(ZfsError::NotInstalled { .. })), "{result:?}");
    };
    missing(zfs.room(&dataset).map(drop));
    missing(zfs.volume(&dataset).map(drop));
    missing(zfs.snapshots(&dataset).map(drop));
    missing(zfs.destroy_volume(&dataset, &CX()));
}
