//! The stories of the seam to ZFS itself: what the fake believes about it is true of the real thing.

use super::pools::{Operator, PoolFixture, dataset_of};
use super::real_pool::snapshot_of;
use crate::context::HandlerCx;
use crate::zvol::zfs::{
    AgreedOf, Bookmark, NewZvol, REVERTED_PROPERTY, STATE_PROPERTY, SnapshotOf, ZfsSnapshot,
};
use crate::zvol::{Dataset, ZfsError};

pub(super) type Case = fn(&dyn PoolFixture);

pub(super) const ALL: &[(&str, Case)] = &[
    ("a volume is made once, with the datasets above it", a_volume_is_made_once),
    ("a group is cut and reverted in one transaction group", a_group_is_one_transaction_group),
    ("what is in the way is named, and nothing happens", what_is_in_the_way_is_named),
    ("only what is agreed to by name and guid goes with a rollback", only_what_is_agreed_to_goes),
    ("a newer bookmark stops a rollback", a_newer_bookmark_stops_a_rollback),
    ("a snapshot that something needs is kept", a_needed_snapshot_is_kept),
    ("an open device is busy", an_open_device_is_busy),
    ("wrong wishes are refused by name", wrong_wishes_are_refused),
];

const SIZE_BYTES: u64 = 4 << 20;

fn unattended() -> HandlerCx<'static> {
    HandlerCx::unattended()
}

fn new() -> NewZvol {
    let properties = vec![
        ("volmode".to_owned(), "dev".to_owned()),
        ("compression".to_owned(), "lz4".to_owned()),
        (STATE_PROPERTY.to_owned(), "whole".to_owned()),
    ];
    NewZvol { size_bytes: SIZE_BYTES, block_size_bytes: 16 << 10, properties }
}

/// A volume with a guest's writing on it.
fn made(fixture: &dyn PoolFixture, label: &str) -> Dataset {
    let place = fixture.place(label);
    fixture.zfs().create_volume(&dataset_of(&place), &new(), &unattended()).expect("made");
    fixture.write(&place, 1, 0x11);
    dataset_of(&place)
}

fn at(dataset: &Dataset, name: &str) -> SnapshotOf {
    snapshot_of(&dataset.device(), name)
}

fn content(fixture: &dyn PoolFixture, dataset: &Dataset) -> String {
    fixture.content(&dataset.device())
}

fn a_volume_is_made_once(fixture: &dyn PoolFixture) {
    let zfs = fixture.zfs();
    let parent = fixture.root().child("clear/volumes").expect("a name");
    assert_eq!(zfs.volumes(&parent), Ok(Vec::new()), "no parent, no volumes");
    assert!(zfs.room(&parent).expect("looked").available_bytes > 0, "as much as above it");
    let (b, a) = (parent.child("b.1").expect("a name"), parent.child("a.1").expect("a name"));
    assert_eq!(zfs.volume(&a), Err(ZfsError::Missing { object: a.to_string() }));
    assert_eq!(zfs.snapshots(&a), Err(ZfsError::Missing { object: a.to_string() }));
    for dataset in [&b, &a] {
        zfs.create_volume(dataset, &new(), &unattended()).expect("made");
        let again = zfs.create_volume(dataset, &new(), &unattended());
        assert_eq!(again, Err(ZfsError::Exists { object: dataset.to_string() }));
    }
    let found = zfs.volumes(&parent).expect("listed");
    assert_eq!(found.iter().map(|volume| &volume.dataset).collect::<Vec<_>>(), [&a, &b], "by name");
    assert_eq!((found[0].size_bytes, found[0].state.as_deref()), (SIZE_BYTES, Some("whole")));
    assert_eq!(found[0].reverted, None);

    zfs.set_property(&a, REVERTED_PROPERTY, "token").expect("set");
    assert_eq!(zfs.volume(&a).expect("there").reverted.as_deref(), Some("token"));
    zfs.flush(&a).expect("flushed");
    for dataset in [&a, &b] {
        zfs.destroy_volume(dataset, &unattended()).expect("gone");
        let again = zfs.destroy_volume(dataset, &unattended());
        assert_eq!(again, Err(ZfsError::Missing { object: dataset.to_string() }));
    }
}

fn a_group_is_one_transaction_group(fixture: &dyn PoolFixture) {
    let zfs = fixture.zfs();
    let volumes = ["seam-1", "seam-2", "seam-3"].map(|label| made(fixture, label));
    let group: Vec<SnapshotOf> = volumes.iter().map(|volume| at(volume, "s")).collect();
    let before = volumes.each_ref().map(|volume| content(fixture, volume));
    zfs.snapshot(&group, &unattended()).expect("cut");
    let listed = volumes.each_ref().map(|volume| zfs.snapshots(volume).expect("listed"));
    let first = &listed[0][0];
    assert!(listed.iter().all(|one| one.len() == 1 && one[0].created_in == first.created_in), "{listed:?}");
    assert_eq!((first.name.as_str(), first.size_bytes), ("s", SIZE_BYTES));
    assert!(first.holds.is_empty() && first.clones.is_empty());

    for token in ["one", "two"] {
        for volume in &volumes {
            fixture.write(&volume.device(), 2, 0x22);
        }
        zfs.rollback(&group, &[], token, &unattended()).expect("rolled back");
        assert_eq!(volumes.each_ref().map(|volume| content(fixture, volume)), before);
        for volume in &volumes {
            assert_eq!(zfs.volume(volume).expect("there").reverted.as_deref(), Some(token));
        }
    }
    zfs.destroy_snapshots(&group, &unattended()).expect("gone");
    zfs.destroy_snapshots(&group, &unattended()).expect("missing ones are passed over");
    assert!(volumes.iter().all(|volume| zfs.snapshots(volume) == Ok(Vec::new())));
}

fn what_is_in_the_way_is_named(fixture: &dyn PoolFixture) {
    let zfs = fixture.zfs();
    let (free, blocked) = (made(fixture, "seam-free"), made(fixture, "seam-blocked"));
    let both = [at(&free, "s"), at(&blocked, "s")];
    zfs.snapshot(&both, &unattended()).expect("cut");
    fixture.operate(Operator::Snapshot { of: &blocked, name: "daily" });
    fixture.operate(Operator::Snapshot { of: &blocked, name: "weekly" });
    for volume in [&free, &blocked] {
        fixture.write(&volume.device(), 2, 0x22);
    }
    let now = [&free, &blocked].map(|volume| content(fixture, volume));

    let newer = vec!["daily".to_owned(), "weekly".to_owned()];
    let refused = zfs.rollback(&both, &[], "token", &unattended());
    assert_eq!(refused, Err(ZfsError::Newer { object: both[1].to_string(), newer }));
    let missing = [at(&free, "s"), at(&blocked, "never")];
    let refused = zfs.rollback(&missing, &[], "token", &unattended());
    assert_eq!(refused, Err(ZfsError::Missing { object: missing[1].to_string() }));
    assert_eq!([&free, &blocked].map(|volume| content(fixture, volume)), now, "all or nothing");
    assert_eq!(zfs.volume(&free).expect("there").reverted, None);

    let exists = [at(&free, "daily"), at(&blocked, "daily")];
    let refused = zfs.snapshot(&exists, &unattended());
    assert_eq!(refused, Err(ZfsError::Exists { object: exists[1].to_string() }));
    assert_eq!(zfs.snapshots(&free).expect("listed").len(), 1, "all or nothing");
    let refused = zfs.destroy_volume(&free, &unattended());
    assert_eq!(refused, Err(ZfsError::HasSnapshots { object: free.to_string() }));
    let nowhere = at(&dataset_of(&fixture.place("seam-nowhere")), "s");
    let refused = zfs.snapshot(std::slice::from_ref(&nowhere), &unattended());
    assert_eq!(refused, Err(ZfsError::Missing { object: nowhere.dataset.to_string() }));
    zfs.destroy_snapshots(&[nowhere], &unattended()).expect("missing ones are passed over");
}

fn only_what_is_agreed_to_goes(fixture: &dyn PoolFixture) {
    let zfs = fixture.zfs();
    let (free, held) = (made(fixture, "seam-agreed"), made(fixture, "seam-agreed-held"));
    let both = [at(&free, "s"), at(&held, "s")];
    for volume in [&free, &held] {
        fixture.operate(Operator::Snapshot { of: volume, name: "older" });
    }
    zfs.snapshot(&both, &unattended()).expect("cut");
    let before = [&free, &held].map(|volume| content(fixture, volume));
    for volume in [&free, &held] {
        fixture.write(&volume.device(), 2, 0x22);
        fixture.operate(Operator::Snapshot { of: volume, name: "newer" });
    }
    fixture.operate(Operator::Hold { of: &held, name: "newer", tag: "backup" });
    let agreed = |volume: &Dataset| {
        let found = zfs.snapshots(volume).expect("listed").into_iter();
        let one =
            |found: ZfsSnapshot| AgreedOf { dataset: volume.clone(), name: found.name, guid: found.guid };
        found.map(one).collect::<Vec<_>>()
    };
    let all = [agreed(&free), agreed(&held)].concat();
    let refused = zfs.rollback(&both, &all, "token", &unattended());
    let (object, tags) = (at(&held, "newer").to_string(), vec!["backup".to_owned()]);
    assert_eq!(refused, Err(ZfsError::Held { object, tags }));
    let mut another = all.clone();
    another.iter_mut().filter(|one| one.name == "newer").for_each(|one| one.guid ^= 1);
    let refused = zfs.rollback(&both, &another, "token", &unattended());
    assert!(matches!(&refused, Err(ZfsError::Newer { newer, .. }) if newer == &["newer"]), "{refused:?}");
    assert!([&free, &held].iter().all(|volume| agreed(volume).len() == 3), "all or nothing");

    fixture.operate(Operator::Release { of: &held, name: "newer", tag: "backup" });
    zfs.rollback(&both, &all, "token", &unattended()).expect("rolled back");
    for (volume, before) in [&free, &held].into_iter().zip(before) {
        let left: Vec<String> = agreed(volume).into_iter().map(|one| one.name).collect();
        assert_eq!((content(fixture, volume), left), (before, vec!["older".to_owned(), "s".to_owned()]));
    }
}

/// ZFS rolls back past no bookmark, and finds that out only when the newer snapshots are gone: so it is looked at before.
fn a_newer_bookmark_stops_a_rollback(fixture: &dyn PoolFixture) {
    let zfs = fixture.zfs();
    let (free, marked) = (made(fixture, "seam-unmarked"), made(fixture, "seam-marked"));
    let both = [at(&free, "s"), at(&marked, "s")];
    assert_eq!(zfs.bookmarks(&marked), Ok(Vec::new()));
    fixture.operate(Operator::Snapshot { of: &marked, name: "first" });
    zfs.snapshot(&both, &unattended()).expect("cut");
    for (name, mark) in [("s", "of-target"), ("first", "older")] {
        fixture.operate(Operator::Bookmark { of: &marked, name, mark });
    }
    let names = |found: Vec<Bookmark>| found.into_iter().map(|mark| mark.name).collect::<Vec<_>>();
    assert_eq!(zfs.bookmarks(&marked).map(names).expect("listed"), ["older", "of-target"]);
    zfs.rollback(&both, &[], "token", &unattended()).expect("these are not newer");
    for volume in [&free, &marked] {
        fixture.write(&volume.device(), 2, 0x22);
        fixture.operate(Operator::Snapshot { of: volume, name: "daily" });
    }
    fixture.operate(Operator::Bookmark { of: &marked, name: "daily", mark: "newer" });
    let agreed = [&free, &marked].map(|volume| {
        let found = zfs.snapshots(volume).expect("listed").pop().expect("daily");
        AgreedOf { dataset: volume.clone(), name: found.name, guid: found.guid }
    });
    let now = [&free, &marked].map(|volume| content(fixture, volume));
    let refused = zfs.rollback(&both, &agreed, "token", &unattended());
    let newer = vec![format!("{marked}#newer")];
    assert_eq!(refused, Err(ZfsError::Newer { object: both[1].to_string(), newer }));
    let last = |volume: &Dataset| zfs.snapshots(volume).expect("listed").pop().expect("one").name;
    assert_eq!([last(&free), last(&marked)], ["daily", "daily"], "all or nothing");
    assert_eq!([&free, &marked].map(|volume| content(fixture, volume)), now);
    for volume in [&free, &marked] {
        fixture.operate(Operator::DestroySnapshot { of: volume, name: "daily" });
    }
    let refused = zfs.rollback(&both, &[], "token", &unattended());
    assert_eq!(refused, Err(ZfsError::Exists { object: marked.to_string() }));
    fixture.operate(Operator::DestroyBookmark { of: &marked, mark: "newer" });
    zfs.rollback(&both, &agreed, "token", &unattended()).expect("rolled back");
    assert_eq!(zfs.bookmarks(&marked).map(names).expect("listed"), ["older", "of-target"]);
}

fn a_needed_snapshot_is_kept(fixture: &dyn PoolFixture) {
    let zfs = fixture.zfs();
    let (free, kept) = (made(fixture, "seam-gone"), made(fixture, "seam-kept"));
    let both = [at(&free, "s"), at(&kept, "s")];
    zfs.snapshot(&both, &unattended()).expect("cut");
    fixture.operate(Operator::Hold { of: &kept, name: "s", tag: "backup" });
    let object = both[1].to_string();
    let tags = vec!["backup".to_owned()];
    let refused = zfs.destroy_snapshots(&both, &unattended());
    assert_eq!(refused, Err(ZfsError::Held { object: object.clone(), tags: tags.clone() }));
    assert_eq!(zfs.snapshots(&kept).expect("listed")[0].holds, tags);
    fixture.operate(Operator::Release { of: &kept, name: "s", tag: "backup" });

    let clone = fixture.root().child("seam-clone").expect("a name");
    fixture.operate(Operator::Clone { of: &kept, name: "s", to: &clone });
    let clones = vec![clone.to_string()];
    let refused = zfs.destroy_snapshots(&both, &unattended());
    assert_eq!(refused, Err(ZfsError::HasClones { object, clones: clones.clone() }));
    assert_eq!(zfs.snapshots(&kept).expect("listed")[0].clones, clones);
    assert_eq!(zfs.volume(&clone).expect("there").state, None, "it is nobody's volume");
    assert_eq!(zfs.snapshots(&free).expect("listed").len(), 1, "all or nothing");
    zfs.rollback(&both, &[], "token", &unattended()).expect("a clone of the target harms nobody");

    fixture.operate(Operator::Destroy(&clone));
    zfs.destroy_snapshots(&both, &unattended()).expect("gone");
    zfs.destroy_volume(&kept, &unattended()).expect("gone");
}

fn an_open_device_is_busy(fixture: &dyn PoolFixture) {
    let zfs = fixture.zfs();
    let (free, open) = (made(fixture, "seam-closed"), made(fixture, "seam-open"));
    let both = [at(&free, "s"), at(&open, "s")];
    zfs.snapshot(&both, &unattended()).expect("cut");
    fixture.write(&free.device(), 2, 0x22);
    let now = content(fixture, &free);
    assert_eq!(zfs.user_of(&open), Ok(None));
    let held = fixture.hold(&open.device());
    let user = zfs.user_of(&open).expect("looked").expect("somebody");
    assert!(user.contains("process "), "{user}");
    let refused = zfs.rollback(&both, &[], "token", &unattended());
    assert!(
        matches!(&refused, Err(ZfsError::Busy { object, user: named }) if *object == open.to_string() && *named == user),
        "{refused:?}"
    );
    assert_eq!(content(fixture, &free), now, "all or nothing");
    zfs.destroy_snapshots(&[both[1].clone()], &unattended()).expect("needs nobody to close it");
    let refused = zfs.destroy_volume(&open, &unattended());
    assert!(matches!(&refused, Err(ZfsError::Busy { user: named, .. }) if *named == user), "{refused:?}");
    drop(held);
    assert_eq!(zfs.user_of(&open), Ok(None));
    zfs.destroy_volume(&open, &unattended()).expect("gone");
}

fn wrong_wishes_are_refused(fixture: &dyn PoolFixture) {
    let zfs = fixture.zfs();
    let place = dataset_of(&fixture.place("seam-wrong"));
    let odd = |property: &str, value: &str| {
        let properties = vec![(property.to_owned(), value.to_owned())];
        zfs.create_volume(&place, &NewZvol { properties, ..new() }, &unattended())
    };
    for (property, value) in [("compression", "rubbish"), ("no-such-property", "x")] {
        match odd(property, value) {
            Err(ZfsError::BadProperty { object, property: named, value: given, .. }) => {
                assert_eq!((object, named.as_str(), given.as_str()), (place.to_string(), property, value));
            }
            other => panic!("{property}={value}: {other:?}"),
        }
    }
    assert_eq!(zfs.volume(&place), Err(ZfsError::Missing { object: place.to_string() }));

    let volume = made(fixture, "seam-names");
    let long = at(&volume, &"x".repeat(240));
    let refused = zfs.snapshot(std::slice::from_ref(&long), &unattended());
    assert_eq!(refused, Err(ZfsError::NameTooLong { object: long.to_string() }));
    let stopped = zfs.snapshot(&[at(&volume, "s")], &HandlerCx::new(&|| true, &|_| ()));
    assert_eq!(stopped, Err(ZfsError::Cancelled));
    let elsewhere = Dataset::parse("no-such-pool/vault/volumes/a.1").expect("a name");
    for refused in [zfs.volume(&elsewhere).map(drop), zfs.room(&elsewhere).map(drop)] {
        assert_eq!(refused, Err(ZfsError::NoPool { pool: "no-such-pool".to_owned() }));
    }
    let refused = zfs.create_volume(&elsewhere, &new(), &unattended());
    assert_eq!(refused, Err(ZfsError::NoPool { pool: "no-such-pool".to_owned() }));
    assert!(matches!(zfs.volumes(&elsewhere), Err(ZfsError::NoPool { .. })));
}
