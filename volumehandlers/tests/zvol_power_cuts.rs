//! The power is cut at every single call to the disk in every step on a pool's volumes, alone and in groups. Afterwards each volume
//! is before or after, all volumes of a group alike, and the step done again finishes ([003] K2, I1).

use std::collections::BTreeSet;
use std::path::PathBuf;

use holdfast_types::volume::Format;
use holdfast_volumehandlers::testing::{FakePoolFixture, Fixture};
use holdfast_volumehandlers::{
    Ensured, GroupMember, HandlerCx, SnapshotName, Source, VolumeError, VolumeHandler, VolumeSpec,
};

const SIZE_BYTES: u64 = 8 << 20;
const CX: fn() -> HandlerCx<'static> = HandlerCx::unattended;

fn name(text: &str) -> SnapshotName {
    SnapshotName::parse(&format!("holdfast-{text}")).expect("a good name")
}

fn blank(fixture: &FakePoolFixture, label: &str) -> VolumeSpec {
    VolumeSpec {
        location: fixture.place(label),
        format: Format::Raw,
        source: Source::Blank { size_bytes: SIZE_BYTES },
        max_size_bytes: 0,
        read_only: false,
    }
}

/// Three volumes with snapshot `old`, durable, and newer content in force.
fn prepared() -> (FakePoolFixture, Vec<PathBuf>) {
    let fixture = FakePoolFixture::new();
    let handler = fixture.handler();
    let mut volumes = Vec::new();
    for label in ["one", "two", "three"] {
        let spec = blank(&fixture, label);
        handler.create(&spec, &CX()).expect("created");
        fixture.write(&spec.location, 1, 1);
        volumes.push(spec.location);
    }
    let group = handler.group().expect("group verbs");
    group.create_snapshots(&members(&volumes, "old"), &CX()).expect("cut");
    for volume in &volumes {
        fixture.write(volume, 1, 9);
        let dataset = holdfast_volumehandlers::testing::dataset_of(volume);
        holdfast_volumehandlers::zvol::Zfs::flush(fixture.fake_zfs(), &dataset).expect("the guest flushed");
    }
    (fixture, volumes)
}

fn members(volumes: &[PathBuf], snapshot: &str) -> Vec<GroupMember> {
    volumes.iter().map(|volume| GroupMember::new(volume, &name(snapshot))).collect()
}

/// Content and names of snapshots, of each volume that is there.
fn state(fixture: &FakePoolFixture, volumes: &[PathBuf]) -> Vec<Option<(String, Vec<String>)>> {
    let handler = fixture.handler();
    let look = |volume: &PathBuf| {
        handler.facts(volume).ok()?;
        let snapshots = handler.list_snapshots(volume).expect("listed");
        Some((fixture.content(volume), snapshots.into_iter().map(|found| found.name).collect()))
    };
    volumes.iter().map(look).collect()
}

type Step = fn(&dyn VolumeHandler, &[PathBuf]) -> Result<(), VolumeError>;

/// Cuts the power at each call of the step in turn: before the redo all is before or after, after it all is after, for good.
fn at_every_call(step: Step) {
    let (fixture, volumes) = prepared();
    let before = state(&fixture, &volumes);
    let begun = fixture.mem_disk().call_count();
    step(&*fixture.handler(), &volumes).expect("nothing in the way");
    let calls = fixture.mem_disk().call_count() - begun;
    let after = state(&fixture, &volumes);
    assert_ne!(before, after);
    for call in 1..=calls {
        for kept in [false, true] {
            let (fixture, volumes) = prepared();
            fixture.mem_disk().cut_power_at(call);
            step(&*fixture.handler(), &volumes).expect_err("the power is gone");
            crash(&fixture, kept);
            let left = state(&fixture, &volumes);
            assert!(left == before || left == after, "cut at call {call} of {calls}: {left:?}");
            step(&*fixture.handler(), &volumes).expect("done again");
            fixture.crash();
            assert_eq!(state(&fixture, &volumes), after, "durable, cut at call {call}");
        }
    }
}

/// What was not synced is lost, or it has reached the disk all the same.
fn crash(fixture: &FakePoolFixture, kept: bool) {
    if kept {
        fixture.mem_disk().crash_with(&mut |_| holdfast_persist::mem_disk::Fate::Kept);
    }
    fixture.crash();
}

#[test]
fn a_group_is_cut_whole_or_not_at_all() {
    at_every_call(|handler, volumes| {
        let group = handler.group().expect("group verbs");
        group.create_snapshots(&members(volumes, "new"), &CX()).map(drop)
    });
}

#[test]
fn a_group_is_rolled_back_whole_or_not_at_all() {
    at_every_call(|handler, volumes| {
        let group = handler.group().expect("group verbs");
        group.rollback_to_snapshots(&members(volumes, "old"), "rollback-7", &CX()).map(drop)
    });
}

#[test]
fn a_group_is_deleted_whole_or_not_at_all() {
    at_every_call(|handler, volumes| {
        let group = handler.group().expect("group verbs");
        group.delete_snapshots(&members(volumes, "old"), &CX()).map(drop)
    });
}

#[test]
fn one_volume_alone_is_before_or_after() {
    let steps: [Step; 3] = [
        |handler, volumes| handler.create_snapshot(&volumes[0], &name("new"), &CX()).map(drop),
        |handler, volumes| {
            handler.rollback_to_snapshot(&volumes[0], &name("old"), &BTreeSet::new(), &CX()).map(drop)
        },
        |handler, volumes| handler.delete_snapshot(&volumes[0], &name("old"), &CX()).map(drop),
    ];
    steps.into_iter().for_each(at_every_call);
}

/// I6: whether it happened is in the pool itself, so that a redo never reverts what a guest wrote since.
#[test]
fn a_rollback_that_happened_is_never_done_again() {
    let (fixture, volumes) = prepared();
    let group = members(&volumes, "old");
    let roll_back = |fixture: &FakePoolFixture| {
        let handler = fixture.handler();
        handler.group().expect("group verbs").rollback_to_snapshots(&group, "rollback-7", &CX())
    };
    assert_eq!(roll_back(&fixture).expect("rolled back"), Ensured::Changed(()));
    fixture.crash();
    for volume in &volumes {
        fixture.write(volume, 2, 5);
    }
    let written = state(&fixture, &volumes);
    assert_eq!(roll_back(&fixture).expect("done already"), Ensured::Unchanged(()));
    assert_eq!(state(&fixture, &volumes), written);
}

#[test]
fn a_creation_that_was_cut_leaves_no_volume_or_a_whole_one() {
    for source in [None, Some(Format::Qcow2), Some(Format::Raw)] {
        let story = |call: Option<usize>| {
            let fixture = FakePoolFixture::new();
            let mut spec = blank(&fixture, "db");
            if let Some(format) = source {
                let path = fixture.source("image", format, 1 << 20, 5);
                fixture.disk().sync_file(&path).expect("synced");
                fixture.disk().sync_dir(fixture.sources()).expect("synced");
                spec.source = Source::Image { path, format };
                spec.max_size_bytes = SIZE_BYTES;
            }
            let begun = fixture.mem_disk().call_count();
            if let Some(call) = call {
                fixture.mem_disk().cut_power_at(call);
            }
            let made = fixture.handler().create(&spec, &CX());
            assert_eq!(made.is_err(), call.is_some(), "{made:?}");
            (fixture.mem_disk().call_count() - begun, fixture, spec)
        };
        let (calls, whole, spec) = story(None);
        let wanted = whole.content(&spec.location);
        let mut unfinished = 0;
        for call in 1..=calls {
            let (_, fixture, spec) = story(Some(call));
            crash(&fixture, call % 2 == 0);
            let found = fixture.handler().inventory(fixture.directory()).expect("listed");
            unfinished += found.iter().filter(|found| found.unfinished).count();
            if found.iter().any(|found| !found.unfinished) {
                assert_eq!(fixture.content(&spec.location), wanted, "whole, cut at call {call}");
            }
            fixture.handler().create(&spec, &CX()).expect("made at last");
            fixture.crash();
            assert_eq!(fixture.content(&spec.location), wanted, "durable, cut at call {call}");
            let found = fixture.handler().inventory(fixture.directory()).expect("listed");
            assert!(found.len() == 1 && !found[0].unfinished, "{found:?}");
        }
        assert!(unfinished > 0, "a cut leaves half a volume, or this test tells nothing");
    }
}

#[test]
fn a_destruction_that_was_cut_is_finished_by_the_next() {
    let (fixture, volumes) = prepared();
    let begun = fixture.mem_disk().call_count();
    fixture.handler().destroy(&volumes[0], &CX()).expect("destroyed");
    let calls = fixture.mem_disk().call_count() - begun;
    for call in 1..=calls {
        let (fixture, volumes) = prepared();
        fixture.mem_disk().cut_power_at(call);
        fixture.handler().destroy(&volumes[0], &CX()).expect_err("the power is gone");
        fixture.crash();
        fixture.handler().destroy(&volumes[0], &CX()).expect("done again");
        fixture.crash();
        let left = state(&fixture, &volumes);
        assert!(left[0].is_none() && left[1].is_some() && left[2].is_some(), "the others stay (I15)");
    }
}
