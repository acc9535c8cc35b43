//! Persistent topics: durable before visible, back after a restart, damaged rows set aside.

mod common;

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use common::*;
use holdfast_persist::{Disk, MemDisk, PersistLayout, Reserve, quarantine};
use holdfast_pubsub::{Bus, Change, DiskRows, Publication, PublishError, Staged, Subscription};

fn layout() -> PersistLayout {
    PersistLayout::new("/persist")
}

fn prepared() -> MemDisk {
    let disk = MemDisk::new();
    layout().prepare(&disk).unwrap();
    disk
}

fn bus_on(disk: &MemDisk) -> Bus {
    Bus::new(Some(Arc::new(DiskRows::new(Arc::new(disk.clone()), &layout(), None))))
}

fn counters(bus: &Bus) -> Publication<Counter> {
    bus.publication("clerk").unwrap()
}

fn counter(number: u64, count: i64) -> Counter {
    Counter { number, count }
}

#[test]
fn rows_come_back_as_created_after_a_power_cut() {
    let disk = prepared();
    let mut before = counters(&bus_on(&disk));
    before.publish(counter(1, 10)).unwrap();
    before.publish(counter(2, 20)).unwrap();
    before.publish(counter(2, 21)).unwrap();
    before.publish(counter(3, 30)).unwrap();
    before.unpublish(&3).unwrap();
    disk.crash();

    let bus = bus_on(&disk);
    let early = Subscription::<Counter>::of(&bus);
    let after = counters(&bus);
    assert_eq!(
        after.rows().iter().map(|row| (**row).clone()).collect::<Vec<_>>(),
        [counter(1, 10), counter(2, 21)]
    );
    let told = [Change::Created(Arc::new(counter(1, 10))), Change::Created(Arc::new(counter(2, 21)))];
    let [one, two] = told;
    assert_eq!(drain(&early), [Change::Synced, one.clone(), two.clone()]);
    assert_eq!(drain(&Subscription::of(&bus)), [one, two, Change::Synced]);
    assert_eq!(after.damaged(), []);
}

#[test]
fn rows_are_files_that_a_person_can_read() {
    let disk = prepared();
    counters(&bus_on(&disk)).publish(counter(1, 10)).unwrap();
    let bytes = disk.read(Path::new("/persist/status/clerk/Counter/1.json")).unwrap();
    assert_eq!(
        String::from_utf8(bytes).unwrap(),
        "{\n  \"number\": 1,\n  \"count\": 10,\n  \"Checksum\": \"crc32:57769c64\"\n}"
    );
}

/// [003] G9, H2: a changed value and a later format go to quarantine, whole; the others live.
#[test]
fn a_row_that_is_not_what_was_written_goes_to_quarantine() {
    let disk = prepared();
    let mut before = counters(&bus_on(&disk));
    for number in 1..=3 {
        before.publish(counter(number, 10)).unwrap();
    }
    let path = |number: u64| format!("/persist/status/clerk/Counter/{number}.json");
    disk.write_at(Path::new(&path(1)), "{\n  \"number\": 1,\n  \"count\": ".len() as u64, b"3").unwrap();
    disk.remove_file(Path::new(&path(2))).unwrap();
    let later = br#"{"FormatVersion": 2, "number": 2, "count": 10}"#;
    disk.create_new(Path::new(&path(2)), later, 0o600).unwrap();

    let after = counters(&bus_on(&disk));
    assert_eq!(after.rows().iter().map(|row| (**row).clone()).collect::<Vec<_>>(), [counter(3, 10)]);
    let reasons: Vec<(&str, &str)> =
        after.damaged().iter().map(|row| (row.key.as_str(), row.reason.as_str())).collect();
    assert_eq!(
        reasons,
        [
            ("1", "the row does not match its checksum"),
            ("2", "the row has format 2, this release knows up to 1")
        ]
    );
    let quarantined = disk.read(Path::new("/persist/quarantine/status+clerk+Counter+2.json")).unwrap();
    assert_eq!(quarantined, later);
}

#[test]
fn what_a_subscriber_saw_is_there_after_a_cut_at_any_call() {
    let calls = |disk: &MemDisk| disk.call_count();
    let whole = prepared();
    let set_up = calls(&whole);
    counters(&bus_on(&whole)).publish(counter(1, 10)).unwrap();
    for cut in 1..=calls(&whole) - set_up {
        let disk = prepared();
        disk.cut_power_at(cut);
        let bus = bus_on(&disk);
        let subscription = Subscription::<Counter>::of(&bus);
        let published =
            bus.publication::<Counter>("clerk").map(|mut counters| counters.publish(counter(1, 10)).is_ok());
        let seen = drain(&subscription).len() > 1;
        assert_eq!(seen, published.unwrap_or(false), "cut at {cut}: told exactly when it said so");
        disk.crash();
        let survived = counters(&bus_on(&disk)).get(&1).is_some();
        assert!(survived || !seen, "cut at {cut}: seen and lost");
    }
}

#[test]
fn nobody_is_told_of_a_row_that_could_not_be_made_durable() {
    let disk = prepared();
    let bus = bus_on(&disk);
    let mut counters = counters(&bus);
    counters.publish(counter(1, 10)).unwrap();
    let subscription = Subscription::<Counter>::of(&bus);
    drain(&subscription);

    disk.fail_at(1, ErrorKind::Other);
    let failed = counters.publish(counter(1, 11)).unwrap_err();
    assert!(matches!(failed, PublishError::Store { topic: "Counter", .. }));
    assert_eq!(failed.to_string(), "the row 1 of Counter cannot be made durable");
    assert_eq!(drain(&subscription), []);
    assert_eq!(counters.get(&1).as_deref(), Some(&counter(1, 10)));

    counters.publish(counter(1, 11)).unwrap();
    assert_eq!(drain(&subscription).len(), 1);
}

#[test]
fn a_staged_change_is_known_to_its_publisher_and_to_nobody_else_until_shown() {
    let disk = prepared();
    let bus = bus_on(&disk);
    let mut counters = counters(&bus);
    counters.publish(counter(1, 10)).unwrap();
    let Staged::Persistent(row) = counters.stage(counter(1, 11)).unwrap() else { panic!("must be stored") };
    assert_eq!((row.topic, row.key.as_str()), ("Counter", "1"));
    assert_eq!(counters.stage(counter(1, 11)).unwrap(), Staged::Unchanged, "equal to what is staged");
    assert!(matches!(counters.stage_removal(&1), Staged::Persistent(gone) if gone.bytes.is_none()));
    assert_eq!((counters.get(&1), counters.rows().len()), (None, 0));
    assert_eq!(bus.get::<Counter>(&1).as_deref(), Some(&counter(1, 10)));

    assert!(counters.show_next());
    assert_eq!(bus.get::<Counter>(&1).as_deref(), Some(&counter(1, 11)));
    assert!(counters.show_next());
    assert_eq!(bus.get::<Counter>(&1), None);
    assert!(!counters.show_next());
}

#[test]
fn a_damaged_row_is_set_aside_with_its_reason_and_the_others_live() {
    let disk = prepared();
    let mut before = counters(&bus_on(&disk));
    for number in 1..=3 {
        before.publish(counter(number, 0)).unwrap();
    }
    let damaged = layout().row_file("clerk", "Counter", &2);
    disk.truncate(&damaged, 5).unwrap();
    let misplaced = layout().row_file("clerk", "Counter", &3);
    disk.rename(&misplaced, &layout().row_file("clerk", "Counter", &4)).unwrap();

    let after = counters(&bus_on(&disk));
    assert_eq!(after.rows().iter().map(|row| row.number).collect::<Vec<_>>(), [1]);
    let [broken, misplaced] = after.damaged() else { panic!("two are damaged: {:?}", after.damaged()) };
    assert_eq!((broken.topic, broken.key.as_str()), ("Counter", "2"));
    assert!(broken.reason.starts_with("EOF while parsing"), "{}", broken.reason);
    assert_eq!(misplaced.key, "4");
    assert_eq!(misplaced.reason, "the row says that its key is 3");
    let set_aside = quarantine::list(&disk, &layout()).unwrap();
    assert_eq!(set_aside.len(), 2);
    assert_eq!(set_aside[0].original.as_deref(), Some(damaged.as_path()));
    assert_eq!(counters(&bus_on(&disk)).damaged(), [], "they are out of the way now");
}

#[test]
fn a_full_disk_is_met_with_the_reserve() {
    let disk = prepared();
    let reserve = Arc::new(Reserve::with_size(&layout(), 4096));
    reserve.ensure(&disk).unwrap();
    let rows = DiskRows::new(Arc::new(disk.clone()), &layout(), Some(Arc::clone(&reserve)));
    let bus = Bus::new(Some(Arc::new(rows)));
    let mut counters = counters(&bus);
    // Ten bytes are left: room comes only from the ballast.
    disk.set_capacity(4096 + 10);
    counters.publish(counter(1, 10)).unwrap();
    assert!(reserve.is_spent());
    assert_eq!(bus.get::<Counter>(&1).as_deref(), Some(&counter(1, 10)));
}

#[test]
fn volatile_topics_never_touch_the_disk() {
    let disk = prepared();
    let bus = bus_on(&disk);
    let before = disk.call_count();
    lamps(&bus).publish(lamp("hall", 1)).unwrap();
    assert_eq!(disk.call_count(), before);
}
