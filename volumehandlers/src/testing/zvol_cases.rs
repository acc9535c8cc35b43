//! The stories of volumes in a pool: groups, what stands in the way, and what is never destroyed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::cases::{SIZE_BYTES, blank, delete, name, names, quiet, unattended, volume};
use super::pools::{Operator, PoolFixture, dataset_of};
use super::seam_cases::Case;
use holdfast_types::{AgreedSnapshot, BlockerKind, Consent, VolumeId};

use crate::error::VolumeError;
use crate::handler::{Action, Ensured, GroupMember, VolumeGroup, VolumeHandler};

pub(super) const ALL: &[(&str, Case)] = &[
    ("a group rolls back together, once for each token", a_group_rolls_back_together),
    ("a group that is there in part is cut afresh", a_group_in_part_is_cut_afresh),
    ("one member in the way stops the whole group", one_member_stops_the_group),
    ("exactly what was agreed to goes with a rollback", what_was_agreed_to_goes),
    ("what is ours is never agreed to", what_is_ours_is_never_agreed_to),
    ("what came after the look stops the rollback", what_came_after_the_look_stops_it),
    ("a group is deleted whole, or not at all", a_group_is_deleted_whole),
    ("snapshots that are leaving do not block, if they can leave", what_is_leaving_does_not_block),
    ("what is not ours is never destroyed", what_is_not_ours_is_never_destroyed),
    ("a volume of a stranger's is left alone", a_strangers_volume_is_left_alone),
    ("names that are too long are refused on their volume", long_names_are_refused),
    ("snapshots count in what a volume takes", snapshots_count),
];

fn group_of(handler: &dyn VolumeHandler) -> &dyn VolumeGroup {
    handler.group().expect("a pool has group verbs")
}

fn volumes(fixture: &dyn PoolFixture, labels: [&str; 3]) -> [PathBuf; 3] {
    labels.map(|label| volume(fixture, label))
}

fn members(volumes: &[PathBuf], snapshot: &str) -> Vec<GroupMember> {
    volumes.iter().map(|volume| GroupMember::new(volume, &name(snapshot))).collect()
}

fn contents(fixture: &dyn PoolFixture, volumes: &[PathBuf]) -> Vec<String> {
    volumes.iter().map(|volume| fixture.content(volume)).collect()
}

fn write_all(fixture: &dyn PoolFixture, volumes: &[PathBuf], pattern: u8) {
    for volume in volumes {
        fixture.write(volume, 3, pattern);
    }
}

fn cut_all(fixture: &dyn PoolFixture, volumes: &[PathBuf], snapshot: &str) {
    let handler = fixture.handler();
    let cut = group_of(&*handler).create_snapshots(&members(volumes, snapshot), &unattended());
    assert!(cut.expect("cut").is_changed());
}

fn a_group_rolls_back_together(fixture: &dyn PoolFixture) {
    let volumes = volumes(fixture, ["group-1", "group-2", "group-3"]);
    let (handler, group) = (fixture.handler(), members(&volumes, "s"));
    let verbs = group_of(&*handler);
    let before = contents(fixture, &volumes);
    let cut = verbs.create_snapshots(&group, &unattended()).expect("cut");
    assert!(cut.is_changed() && cut.clone().into_inner().len() == 3);
    let again = verbs.create_snapshots(&group, &unattended()).expect("there");
    assert_eq!(again, Ensured::Unchanged(cut.into_inner()));
    let made_in = volumes
        .each_ref()
        .map(|volume| fixture.zfs().snapshots(&dataset_of(volume)).expect("listed")[0].created_in);
    assert!(made_in.iter().all(|one| *one == made_in[0]), "[003] K2: {made_in:?}");

    for token in ["rollback-7", "rollback-8"] {
        write_all(fixture, &volumes, 0x33);
        let back = verbs.rollback_to_snapshots(&group, token, &unattended()).expect("rolled back");
        assert_eq!(back, Ensured::Changed(()));
        assert_eq!(contents(fixture, &volumes), before);
        write_all(fixture, &volumes, 0x44);
        let after = contents(fixture, &volumes);
        let again = fixture.handler();
        let again = group_of(&*again).rollback_to_snapshots(&group, token, &unattended());
        assert_eq!(again.expect("done already"), Ensured::Unchanged(()), "a token acts once (I6)");
        assert_eq!(contents(fixture, &volumes), after);
    }
    verbs.create_snapshots(&[], &unattended()).expect("nothing to do");
    verbs.delete_snapshots(&[], &unattended()).expect("nothing to do");
}

fn a_group_in_part_is_cut_afresh(fixture: &dyn PoolFixture) {
    let volumes = volumes(fixture, ["part-1", "part-2", "part-3"]);
    let handler = fixture.handler();
    handler.create_snapshot(&volumes[1], &name("s"), &unattended()).expect("cut alone");
    write_all(fixture, &volumes, 0x55);
    let wanted = contents(fixture, &volumes);
    cut_all(fixture, &volumes, "s");
    write_all(fixture, &volumes, 0x66);
    let group = members(&volumes, "s");
    group_of(&*handler).rollback_to_snapshots(&group, "token", &unattended()).expect("rolled back");
    assert_eq!(contents(fixture, &volumes), wanted, "all of one moment");
}

/// L7, I16: all are checked before the first is touched.
fn one_member_stops_the_group(fixture: &dyn PoolFixture) {
    let volumes = volumes(fixture, ["stop-1", "stop-2", "stop-3"]);
    cut_all(fixture, &volumes, "s");
    write_all(fixture, &volumes, 0x33);
    let blocked = dataset_of(&volumes[1]);
    fixture.operate(Operator::Snapshot { of: &blocked, name: "before-work" });
    let (handler, group) = (fixture.handler(), members(&volumes, "s"));
    let before: Vec<String> = volumes.iter().map(|volume| fixture.fingerprint(volume)).collect();
    let refused = group_of(&*handler).rollback_to_snapshots(&group, "token", &unattended());
    let refused = refused.expect_err("a stranger's snapshot is newer");
    assert!(matches!(refused, VolumeError::Blocked { .. }) && !refused.is_transient(), "{refused}");
    assert_eq!(refused.volume(), volumes[1]);
    assert!(refused.to_string().contains("before-work"), "[000] L5: {refused}");

    let held = fixture.hold(&volumes[2]);
    fixture.operate(Operator::DestroySnapshot { of: &blocked, name: "before-work" });
    let refused = group_of(&*handler).rollback_to_snapshots(&group, "token", &unattended());
    let refused = refused.expect_err("somebody has it open");
    assert!(matches!(refused, VolumeError::InUse { .. }) && refused.is_transient(), "[003] K6: {refused}");
    assert_eq!(refused.volume(), volumes[2]);
    let refused = group_of(&*handler).create_snapshots(&members(&volumes, "t"), &unattended());
    assert_eq!(refused.expect_err("open").volume(), volumes[2]);
    drop(held);
    let after: Vec<String> = volumes.iter().map(|volume| fixture.fingerprint(volume)).collect();
    let without_work = |one: &String| !one.contains("before-work");
    assert!(after.iter().all(without_work) && after[0] == before[0] && after[2] == before[2]);
    group_of(&*handler).rollback_to_snapshots(&group, "token", &unattended()).expect("free now");
}

/// All unmanaged snapshots in each volume's way, as an operator would agree to them.
fn agreed_on(fixture: &dyn PoolFixture, volumes: &[PathBuf], snapshot: &str) -> Vec<GroupMember> {
    let handler = fixture.handler();
    let member = |volume: &PathBuf| {
        let blockers = handler.blockers(volume, &name(snapshot), &BTreeSet::new()).expect("looked");
        let id = VolumeId(uuid::Uuid::nil());
        let agreed = Consent::to_unmanaged([(id, &blockers[..])]).on(id);
        GroupMember { agreed, ..GroupMember::new(volume, &name(snapshot)) }
    };
    volumes.iter().map(member).collect()
}

fn kinds_in_the_way(fixture: &dyn PoolFixture, volume: &Path, snapshot: &str) -> Vec<(BlockerKind, String)> {
    let blockers = fixture.handler().blockers(volume, &name(snapshot), &BTreeSet::new()).expect("looked");
    blockers.into_iter().map(|one| (one.kind, one.name)).collect()
}

/// [000] L4, L7; [003] K2.
fn what_was_agreed_to_goes(fixture: &dyn PoolFixture) {
    let volumes = volumes(fixture, ["agreed-1", "agreed-2", "agreed-3"]);
    let before = contents(fixture, &volumes);
    let datasets = volumes.each_ref().map(|volume| dataset_of(volume));
    fixture.operate(Operator::Snapshot { of: &datasets[0], name: "older" });
    cut_all(fixture, &volumes, "s");
    write_all(fixture, &volumes, 0x33);
    // ZFS names may be all digits, and begin like an option.
    for foreign in ["daily", "20260102"] {
        fixture.operate(Operator::Snapshot { of: &datasets[0], name: foreign });
        write_all(fixture, &volumes, 0x44);
    }
    fixture.operate(Operator::Snapshot { of: &datasets[2], name: "-rf" });
    let unmanaged = |name: &str| (BlockerKind::Unmanaged, name.to_owned());
    assert_eq!(kinds_in_the_way(fixture, &volumes[0], "s"), [unmanaged("daily"), unmanaged("20260102")]);
    assert_eq!(kinds_in_the_way(fixture, &volumes[1], "s"), []);

    let (handler, group) = (fixture.handler(), agreed_on(fixture, &volumes, "s"));
    assert_eq!(group.iter().map(|member| member.agreed.len()).collect::<Vec<_>>(), [2, 0, 1]);
    for member in &group {
        let action =
            Action::Rollback { to: name("s"), leaving: BTreeSet::new(), agreed: member.agreed.clone() };
        handler.preflight(&member.volume, &quiet(action)).expect("nothing else is in the way");
    }
    let back = group_of(&*handler).rollback_to_snapshots(&group, "token", &unattended());
    assert_eq!(back.expect("rolled back"), Ensured::Changed(()));
    assert_eq!(contents(fixture, &volumes), before);
    assert_eq!(names(fixture, &volumes[0]), ["older", "holdfast-s"], "what is older stays");
    assert_eq!(names(fixture, &volumes[2]), ["holdfast-s"]);

    write_all(fixture, &volumes, 0x55);
    fixture.operate(Operator::Snapshot { of: &datasets[0], name: "daily" });
    let after = contents(fixture, &volumes);
    let again = group_of(&*handler).rollback_to_snapshots(&group, "token", &unattended());
    assert_eq!(again.expect("done already"), Ensured::Unchanged(()), "a token acts once (I6)");
    assert_eq!((contents(fixture, &volumes), names(fixture, &volumes[0]).len()), (after, 3));
    let another = group_of(&*handler).rollback_to_snapshots(&group, "another", &unattended());
    assert!(matches!(another, Err(VolumeError::Blocked { .. })), "the new one of that name: {another:?}");
    let alone = agreed_on(fixture, &volumes[..1], "s").remove(0).agreed;
    handler.rollback_to_snapshot(&volumes[0], &name("s"), &alone, &unattended()).expect("rolled back");
    assert_eq!(names(fixture, &volumes[0]), ["older", "holdfast-s"]);
}

/// L7, I7, I16: what is done is exactly what was agreed to, or nothing.
fn what_came_after_the_look_stops_it(fixture: &dyn PoolFixture) {
    let volumes = volumes(fixture, ["late-1", "late-2", "late-3"]);
    let before = contents(fixture, &volumes);
    cut_all(fixture, &volumes, "s");
    write_all(fixture, &volumes, 0x33);
    let datasets = volumes.each_ref().map(|volume| dataset_of(volume));
    for dataset in &datasets {
        fixture.operate(Operator::Snapshot { of: dataset, name: "daily" });
    }
    let (handler, group) = (fixture.handler(), agreed_on(fixture, &volumes, "s"));
    let stopped_by = |what: &str| {
        let now: Vec<String> = volumes.iter().map(|volume| fixture.fingerprint(volume)).collect();
        let refused = group_of(&*handler).rollback_to_snapshots(&group, "token", &unattended());
        let refused = refused.expect_err(what);
        assert!(matches!(refused, VolumeError::Blocked { .. }), "{what}: {refused}");
        assert_eq!(refused.volume(), volumes[2], "{what}: {refused}");
        assert!(refused.to_string().contains(what), "{what}: {refused}");
        let after: Vec<String> = volumes.iter().map(|volume| fixture.fingerprint(volume)).collect();
        assert_eq!(after, now, "{what}: nothing has changed");
    };
    let last = &datasets[2];
    fixture.operate(Operator::Snapshot { of: last, name: "weekly" });
    stopped_by("weekly");
    fixture.operate(Operator::DestroySnapshot { of: last, name: "weekly" });
    fixture.operate(Operator::Hold { of: last, name: "daily", tag: "backup" });
    stopped_by("backup on daily");
    fixture.operate(Operator::Release { of: last, name: "daily", tag: "backup" });
    let clone = fixture.root().child("late-clone").expect("a name");
    fixture.operate(Operator::Clone { of: last, name: "daily", to: &clone });
    stopped_by("late-clone");
    fixture.operate(Operator::Destroy(&clone));
    fixture.operate(Operator::Bookmark { of: last, name: "daily", mark: "sent" });
    stopped_by("unknown: 1 (bookmark sent)");
    fixture.operate(Operator::DestroyBookmark { of: last, mark: "sent" });
    handler.create_snapshot(&volumes[2], &name("t"), &unattended()).expect("cut");
    stopped_by("holdfast-t");
    assert!(delete(fixture, &volumes[2], "t"));
    fixture.operate(Operator::DestroySnapshot { of: last, name: "daily" });
    fixture.operate(Operator::Snapshot { of: last, name: "daily" });
    stopped_by("daily");

    fixture.operate(Operator::DestroySnapshot { of: last, name: "daily" });
    let back = group_of(&*handler).rollback_to_snapshots(&group, "token", &unattended());
    assert_eq!(back.expect("one that is gone already is fine"), Ensured::Changed(()));
    assert_eq!(contents(fixture, &volumes), before);
    assert!(volumes.iter().all(|volume| names(fixture, volume) == ["holdfast-s"]));
}

/// L6: this node's own are never agreed to, by whoever.
fn what_is_ours_is_never_agreed_to(fixture: &dyn PoolFixture) {
    let location = volume(fixture, "agreed-ours");
    let handler = fixture.handler();
    for snapshot in ["old", "new"] {
        handler.create_snapshot(&location, &name(snapshot), &unattended()).expect("cut");
    }
    let found = handler.list_snapshots(&location).expect("listed").remove(1);
    let agreed = BTreeSet::from([AgreedSnapshot { name: found.name, id: found.id }]);
    let refused = handler.rollback_to_snapshot(&location, &name("old"), &agreed, &unattended());
    assert!(matches!(refused, Err(VolumeError::Blocked { .. })), "{refused:?}");
    assert_eq!(names(fixture, &location), ["holdfast-old", "holdfast-new"]);
}

fn a_group_is_deleted_whole(fixture: &dyn PoolFixture) {
    let volumes = volumes(fixture, ["gone-1", "gone-2", "gone-3"]);
    cut_all(fixture, &volumes, "s");
    let (handler, group) = (fixture.handler(), members(&volumes, "s"));
    let held = dataset_of(&volumes[1]);
    fixture.operate(Operator::Hold { of: &held, name: "holdfast-s", tag: "backup" });
    let refused = group_of(&*handler).delete_snapshots(&group, &unattended()).expect_err("held");
    assert!(matches!(refused, VolumeError::Kept { .. }), "{refused}");
    assert!(refused.to_string().contains("backup"), "[003] K5: {refused}");
    assert_eq!(refused.volume(), volumes[1]);
    assert!(volumes.iter().all(|volume| names(fixture, volume) == ["holdfast-s"]), "none has gone");

    fixture.operate(Operator::Release { of: &held, name: "holdfast-s", tag: "backup" });
    let gone = group_of(&*handler).delete_snapshots(&group, &unattended()).expect("free now");
    assert_eq!(gone, Ensured::Changed(()));
    assert!(volumes.iter().all(|volume| names(fixture, volume).is_empty()));
    let again = group_of(&*handler).delete_snapshots(&group, &unattended()).expect("gone");
    assert_eq!(again, Ensured::Unchanged(()));
}

fn what_is_leaving_does_not_block(fixture: &dyn PoolFixture) {
    let location = volume(fixture, "leaving");
    let handler = fixture.handler();
    for snapshot in ["old", "new"] {
        handler.create_snapshot(&location, &name(snapshot), &unattended()).expect("cut");
    }
    let ask = |leaving: &[&str]| {
        let leaving: BTreeSet<_> = leaving.iter().map(|snapshot| name(snapshot)).collect();
        handler.preflight(
            &location,
            &quiet(Action::Rollback { to: name("old"), leaving, agreed: BTreeSet::new() }),
        )
    };
    let refused = ask(&[]).expect_err("a newer one").to_string();
    assert!(refused.contains("holdfast-new"), "{refused}");
    ask(&["new"]).expect("it will be gone");
    let dataset = dataset_of(&location);
    fixture.operate(Operator::Hold { of: &dataset, name: "holdfast-new", tag: "backup" });
    let refused = ask(&["new"]).expect_err("it cannot leave").to_string();
    assert!(refused.contains("backup"), "{refused}");
    fixture.operate(Operator::Release { of: &dataset, name: "holdfast-new", tag: "backup" });
}

/// I7, [000] L: no hold, no clone and no snapshot of a stranger's goes with a volume of ours.
fn what_is_not_ours_is_never_destroyed(fixture: &dyn PoolFixture) {
    let location = volume(fixture, "needed");
    let (handler, dataset) = (fixture.handler(), dataset_of(&location));
    handler.create_snapshot(&location, &name("s"), &unattended()).expect("cut");
    let refused = |what: &str| {
        let refused = handler.destroy(&location, &unattended()).expect_err("something is in the way");
        assert!(refused.to_string().contains(what), "{what}: {refused}");
        assert_eq!(refused.volume(), location);
        assert!(names(fixture, &location).contains(&"holdfast-s".to_owned()), "nothing has gone");
    };
    fixture.operate(Operator::Snapshot { of: &dataset, name: "daily" });
    refused("daily");
    fixture.operate(Operator::DestroySnapshot { of: &dataset, name: "daily" });
    fixture.operate(Operator::Hold { of: &dataset, name: "holdfast-s", tag: "backup" });
    refused("backup");
    fixture.operate(Operator::Release { of: &dataset, name: "holdfast-s", tag: "backup" });
    let clone = fixture.root().child("a-clone").expect("a name");
    fixture.operate(Operator::Clone { of: &dataset, name: "holdfast-s", to: &clone });
    refused("a-clone");
    // [000] L3: a clone of the target stands in the way of a rollback, too.
    let blocked = handler.rollback_to_snapshot(&location, &name("s"), &BTreeSet::new(), &unattended());
    assert!(matches!(blocked, Err(VolumeError::Blocked { .. })), "{blocked:?}");
    let kept = handler.delete_snapshot(&location, &name("s"), &unattended());
    assert!(matches!(kept, Err(VolumeError::Kept { .. })), "{kept:?}");
    fixture.operate(Operator::Destroy(&clone));
    assert!(handler.destroy(&location, &unattended()).expect("free now").is_changed());
}

fn a_strangers_volume_is_left_alone(fixture: &dyn PoolFixture) {
    let ours = volume(fixture, "beside");
    let theirs = fixture.place("theirs");
    let dataset = dataset_of(&theirs);
    fixture.operate(Operator::Create { dataset: &dataset, size_bytes: SIZE_BYTES });
    let handler = fixture.handler();
    for refused in [
        handler.create(&blank(fixture, &theirs), &unattended()).map(drop),
        handler.destroy(&theirs, &unattended()).map(drop),
        handler.create_snapshot(&theirs, &name("s"), &unattended()).map(drop),
        handler.facts(&theirs).map(drop),
    ] {
        assert!(matches!(refused, Err(VolumeError::Different { .. })), "{refused:?}");
    }
    let found = handler.inventory(fixture.directory()).expect("listed");
    assert!(found.iter().any(|found| found.location == ours));
    assert!(found.iter().all(|found| found.location != theirs));
    let outside = Path::new("/dev/zvol/another-pool/volumes/a.1");
    let refused = handler.destroy(outside, &unattended());
    assert!(matches!(refused, Err(VolumeError::Unusable { .. })), "not below our root: {refused:?}");
    fixture.operate(Operator::Destroy(&dataset));
}

fn long_names_are_refused(fixture: &dyn PoolFixture) {
    let location = volume(fixture, "long");
    let handler = fixture.handler();
    let long = name(&"x".repeat(230));
    let refused = handler.create_snapshot(&location, &long, &unattended()).expect_err("too long");
    assert_eq!(refused.volume(), location);
    assert!(!refused.is_transient() && names(fixture, &location).is_empty(), "{refused}");
    assert!(!delete(fixture, &location, &"x".repeat(230)), "there cannot be one");
    let nowhere = fixture.directory().join("x".repeat(250));
    let refused = handler.create(&blank(fixture, &nowhere), &unattended()).expect_err("too long");
    assert_eq!(refused.volume(), nowhere);
    assert!(!refused.is_transient(), "{refused}");
}

fn snapshots_count(fixture: &dyn PoolFixture) {
    let location = volume(fixture, "counted");
    let handler = fixture.handler();
    handler.create_snapshot(&location, &name("s"), &unattended()).expect("cut");
    let before = handler.facts(&location).expect("looked").allocated_bytes;
    // Other bytes for the same place: the old ones stay for the snapshot.
    fixture.write(&location, 1, 0x99);
    handler.create_snapshot(&location, &name("t"), &unattended()).expect("cut");
    let after = handler.facts(&location).expect("looked").allocated_bytes;
    assert!(after > before, "{before} and then {after}");
}
