//! A rollback that destroys what was agreed to, with the power cut at every call to the disk: the agreed snapshots go and all
//! volumes are back, or nothing has happened; never one without the other (L7, I7, [003] K2).

use std::collections::BTreeSet;
use std::path::PathBuf;

use holdfast_persist::mem_disk::Fate;
use holdfast_types::volume::Format;
use holdfast_types::{Consent, VolumeId};
use holdfast_volumehandlers::testing::{FakePoolFixture, Fixture, Operator, PoolFixture, dataset_of};
use holdfast_volumehandlers::{
    Ensured, GroupMember, HandlerCx, SnapshotName, Source, VolumeError, VolumeHandler, VolumeSpec,
};

const CX: fn() -> HandlerCx<'static> = HandlerCx::unattended;

fn target() -> SnapshotName {
    SnapshotName::parse("holdfast-old").expect("a good name")
}

/// Three volumes with snapshot `old`; somebody else has cut newer ones on two of them, and all contents are newer still.
fn prepared() -> (FakePoolFixture, Vec<PathBuf>) {
    let fixture = FakePoolFixture::new();
    let handler = fixture.handler();
    let volumes: Vec<PathBuf> = ["one", "two", "three"].map(|label| fixture.place(label)).into();
    for volume in &volumes {
        let source = Source::Blank { size_bytes: 8 << 20 };
        let (location, format) = (volume.clone(), Format::Raw);
        let spec = VolumeSpec { location, format, source, max_size_bytes: 0, read_only: false };
        handler.create(&spec, &CX()).expect("created");
        fixture.write(volume, 1, 1);
        handler.create_snapshot(volume, &target(), &CX()).expect("cut");
        fixture.write(volume, 1, 2);
    }
    for (volume, name) in [(0, "daily"), (0, "weekly"), (2, "daily")] {
        fixture.operate(Operator::Snapshot { of: &dataset_of(&volumes[volume]), name });
    }
    for volume in &volumes {
        fixture.write(volume, 1, 3);
        fixture.zfs().flush(&dataset_of(volume)).expect("the guest flushed");
    }
    (fixture, volumes)
}

/// With all agreed to that is seen in the way.
fn agreed(handler: &dyn VolumeHandler, volumes: &[PathBuf]) -> Vec<GroupMember> {
    let member = |volume: &PathBuf| {
        let seen = handler.blockers(volume, &target(), &BTreeSet::new()).expect("looked");
        let id = VolumeId(uuid::Uuid::nil());
        let agreed = Consent::to_unmanaged([(id, &seen[..])]).on(id);
        GroupMember { agreed, ..GroupMember::new(volume, &target()) }
    };
    volumes.iter().map(member).collect()
}

fn roll_back(fixture: &FakePoolFixture, group: &[GroupMember]) -> Result<Ensured<()>, VolumeError> {
    let handler = fixture.handler();
    handler.group().expect("group verbs").rollback_to_snapshots(group, "rollback-7", &CX())
}

fn state(fixture: &FakePoolFixture, volumes: &[PathBuf]) -> Vec<(String, Vec<String>)> {
    let handler = fixture.handler();
    let look = |volume: &PathBuf| {
        let snapshots = handler.list_snapshots(volume).expect("listed");
        (fixture.content(volume), snapshots.into_iter().map(|found| found.name).collect())
    };
    volumes.iter().map(look).collect()
}

#[test]
fn what_was_agreed_to_goes_with_the_rollback_or_not_at_all() {
    let (fixture, volumes) = prepared();
    let (before, group) = (state(&fixture, &volumes), agreed(&*fixture.handler(), &volumes));
    assert_eq!(group.iter().map(|member| member.agreed.len()).collect::<Vec<_>>(), [2, 0, 1]);
    let begun = fixture.mem_disk().call_count();
    roll_back(&fixture, &group).expect("nothing in the way");
    let calls = fixture.mem_disk().call_count() - begun;
    let after = state(&fixture, &volumes);
    assert!(after.iter().all(|(_, names)| names == &["holdfast-old"]), "{after:?}");

    let mut seen = BTreeSet::new();
    for (call, fate) in (1..=calls).flat_map(|call| [(call, Fate::Lost), (call, Fate::Kept)]) {
        let (fixture, volumes) = prepared();
        fixture.mem_disk().cut_power_at(call);
        roll_back(&fixture, &group).expect_err("the power is gone");
        fixture.mem_disk().crash_with(&mut |_| fate);
        fixture.crash();
        let left = state(&fixture, &volumes);
        assert!(left == before || left == after, "cut at call {call} of {calls}: {left:?}");
        seen.insert(left == after);
        // Nobody heard the answer: asked again with the same consent, three times.
        for _ in 0..3 {
            roll_back(&fixture, &group).expect("done again");
            fixture.crash();
            assert_eq!(state(&fixture, &volumes), after, "durable, cut at call {call}");
        }
    }
    assert_eq!(seen.len(), 2, "the cuts come before the deed and behind it");
}

/// What somebody makes after the power is back, under the very name that was agreed to, stops what had not happened, and stays
/// with what had.
#[test]
fn a_new_snapshot_of_an_agreed_name_is_another_one_after_a_cut_too() {
    let (fixture, volumes) = prepared();
    let group = agreed(&*fixture.handler(), &volumes);
    let begun = fixture.mem_disk().call_count();
    roll_back(&fixture, &group).expect("nothing in the way");
    let calls = fixture.mem_disk().call_count() - begun;
    for call in 1..=calls {
        let (fixture, volumes) = prepared();
        fixture.mem_disk().cut_power_at(call);
        roll_back(&fixture, &group).expect_err("the power is gone");
        fixture.crash();
        let daily = Operator::Snapshot { of: &dataset_of(&volumes[2]), name: "daily" };
        let names = |fixture: &FakePoolFixture| state(fixture, &volumes)[2].1.clone();
        let has_happened = !names(&fixture).contains(&"daily".to_owned());
        if !has_happened {
            fixture.operate(Operator::DestroySnapshot { of: &dataset_of(&volumes[2]), name: "daily" });
        }
        fixture.operate(daily);
        let now = state(&fixture, &volumes);
        match roll_back(&fixture, &group) {
            Ok(done) => assert!(has_happened && done == Ensured::Unchanged(()), "cut at call {call}"),
            Err(error) => {
                assert!(!has_happened && matches!(error, VolumeError::Blocked { .. }), "{call}: {error}");
            }
        }
        assert_eq!(state(&fixture, &volumes), now, "cut at call {call}");
    }
}
