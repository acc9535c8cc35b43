//! The bus's contract as subscribers and publishers see it (architecture section 3).

mod common;

use std::collections::BTreeMap;

use common::*;
use holdfast_pubsub::{Bus, BusError, Change, Published, Subscription};

#[test]
fn a_subscriber_is_told_what_exists_in_the_order_of_keys_then_that_it_is_synced() {
    let bus = Bus::new(None);
    let mut lamps = lamps(&bus);
    lamps.publish(lamp("kitchen", 1)).unwrap();
    lamps.publish(lamp("hall", 1)).unwrap();
    lamps.publish(lamp("hall", 2)).unwrap();
    let subscription = Subscription::of(&bus);
    assert_eq!(drain(&subscription), [created("hall", 2), created("kitchen", 1), Change::Synced]);
}

#[test]
fn who_subscribes_before_there_is_a_publisher_is_synced_with_nothing_and_hears_what_comes() {
    let bus = Bus::new(None);
    let subscription = Subscription::of(&bus);
    assert_eq!(drain(&subscription), [Change::Synced]);
    lamps(&bus).publish(lamp("hall", 1)).unwrap();
    assert_eq!(drain(&subscription), [created("hall", 1)]);
}

#[test]
fn changes_come_with_the_old_value_and_the_new() {
    let bus = Bus::new(None);
    let mut lamps = lamps(&bus);
    let subscription = caught_up(&bus);
    let mut seen = Vec::new();
    lamps.publish(lamp("hall", 1)).unwrap();
    seen.extend(drain(&subscription));
    lamps.publish(lamp("hall", 2)).unwrap();
    seen.extend(drain(&subscription));
    lamps.unpublish(&"hall".into()).unwrap();
    seen.extend(drain(&subscription));
    assert_eq!(seen, [created("hall", 1), modified("hall", 1, 2), deleted("hall", 2)]);
}

#[test]
fn a_reader_that_keeps_each_change_has_the_rows_as_they_are() {
    let mut rows = BTreeMap::new();
    let mut keep = |change: Change<Lamp>| {
        let told = change.keep_in(&mut rows).map(|lamp| lamp.level);
        (told, rows.values().map(|lamp| (lamp.name.clone(), lamp.level)).collect::<Vec<_>>())
    };
    assert_eq!(keep(created("hall", 1)), (Some(1), vec![("hall".into(), 1)]));
    assert_eq!(keep(modified("hall", 1, 2)), (Some(2), vec![("hall".into(), 2)]));
    assert_eq!(keep(Change::Synced), (None, vec![("hall".into(), 2)]));
    assert_eq!(keep(deleted("hall", 2)), (Some(2), vec![]), "its last value");
    assert_eq!(keep(Change::Restarted(1)), (None, vec![]));
}

#[test]
fn the_last_value_is_there_to_be_looked_up() {
    let bus = Bus::new(None);
    let mut lamps = lamps(&bus);
    lamps.publish(lamp("hall", 1)).unwrap();
    lamps.publish(lamp("hall", 2)).unwrap();
    lamps.publish(lamp("attic", 3)).unwrap();
    assert_eq!(lamps.get(&"hall".into()).as_deref(), Some(&lamp("hall", 2)));
    assert_eq!(bus.get::<Lamp>(&"hall".into()).as_deref(), Some(&lamp("hall", 2)));
    let names: Vec<String> = bus.rows::<Lamp>().iter().map(|row| row.name.clone()).collect();
    assert_eq!(names, ["attic", "hall"]);
    lamps.unpublish(&"hall".into()).unwrap();
    assert_eq!((lamps.get(&"hall".into()), lamps.rows().len()), (None, 1));
}

#[test]
fn publishing_an_equal_value_is_silent_and_so_is_removing_what_is_not_there() {
    let bus = Bus::new(None);
    let mut lamps = lamps(&bus);
    assert_eq!(lamps.publish(lamp("hall", 1)).unwrap(), Published::Changed);
    let subscription = caught_up(&bus);
    assert_eq!(lamps.publish(lamp("hall", 1)).unwrap(), Published::Unchanged);
    assert_eq!(lamps.unpublish(&"attic".into()).unwrap(), Published::Unchanged);
    assert_eq!(drain(&subscription), []);
}

/// Steps that the subscriber has not seen yet (`None` takes the row away), and what it is told instead of them.
#[test]
fn changes_not_yet_seen_melt_into_one() {
    /// The row stood at level 0, and the subscriber knew it; or it did not exist.
    const KNOWN: bool = true;
    const NEW: bool = false;
    type Case = (bool, &'static [Option<i64>], Vec<Change<Lamp>>);
    let cases: Vec<Case> = vec![
        (NEW, &[Some(1)], vec![created("hall", 1)]),
        (NEW, &[Some(1), Some(2)], vec![created("hall", 2)]),
        (NEW, &[Some(1), None], vec![]),
        (NEW, &[Some(1), None, Some(1)], vec![created("hall", 1)]),
        (KNOWN, &[Some(1)], vec![modified("hall", 0, 1)]),
        (KNOWN, &[Some(1), Some(2)], vec![modified("hall", 0, 2)]),
        (KNOWN, &[Some(1), None], vec![deleted("hall", 1)]),
        (KNOWN, &[None], vec![deleted("hall", 0)]),
        (KNOWN, &[None, Some(1)], vec![modified("hall", 0, 1)]),
        (KNOWN, &[None, Some(0)], vec![modified("hall", 0, 0)]),
        (KNOWN, &[None, Some(1), None], vec![deleted("hall", 1)]),
    ];
    for (known, steps, expected) in cases {
        let bus = Bus::new(None);
        let mut lamps = lamps(&bus);
        if known {
            lamps.publish(lamp("hall", 0)).unwrap();
        }
        let subscription = caught_up(&bus);
        for step in steps {
            match step {
                Some(level) => lamps.publish(lamp("hall", *level)).unwrap(),
                None => lamps.unpublish(&"hall".into()).unwrap(),
            };
        }
        assert_eq!(drain(&subscription), expected, "known: {known}, then {steps:?}");
        assert!(subscription.is_empty());
    }
}

#[test]
fn a_fast_subscriber_sees_the_delete_and_the_create_apart() {
    let bus = Bus::new(None);
    let mut lamps = lamps(&bus);
    lamps.publish(lamp("hall", 1)).unwrap();
    let subscription = caught_up(&bus);
    lamps.unpublish(&"hall".into()).unwrap();
    assert_eq!(drain(&subscription), [deleted("hall", 1)]);
    lamps.publish(lamp("hall", 1)).unwrap();
    assert_eq!(drain(&subscription), [created("hall", 1)]);
}

#[test]
fn a_restart_is_heard_behind_everything_published_before_it() {
    let bus = Bus::new(None);
    let mut lamps = lamps(&bus);
    let early = caught_up(&bus);
    lamps.publish(lamp("hall", 1)).unwrap();
    lamps.signal_restarted();
    lamps.publish(lamp("attic", 1)).unwrap();
    assert_eq!(drain(&early), [created("hall", 1), Change::Restarted(1), created("attic", 1)]);
    lamps.signal_restarted();
    assert_eq!(drain(&early), [Change::Restarted(2)]);

    let late = Subscription::<Lamp>::of(&bus);
    assert_eq!(drain(&late), [created("attic", 1), created("hall", 1), Change::Synced, Change::Restarted(2)]);
}

#[test]
fn restarts_not_yet_heard_become_the_newest_and_move_behind_what_came_between() {
    let bus = Bus::new(None);
    let mut lamps = lamps(&bus);
    let subscription = caught_up(&bus);
    lamps.signal_restarted();
    lamps.publish(lamp("hall", 1)).unwrap();
    lamps.signal_restarted();
    assert_eq!(drain(&subscription), [created("hall", 1), Change::Restarted(2)]);
}

#[test]
fn the_second_who_wants_to_publish_is_told_who_does() {
    let bus = Bus::new(None);
    let first = lamps(&bus);
    let refused = bus.publication::<Lamp>("burglar").unwrap_err();
    assert!(matches!(refused, BusError::Owned { owner: "electrician", .. }));
    assert_eq!(refused.to_string(), "burglar cannot publish Lamp: it belongs to electrician");
    drop(first);
    assert!(bus.publication::<Lamp>("burglar").is_err(), "taken once, for the life of the bus");
}

#[test]
fn a_subscriber_that_lags_holds_one_entry_per_live_key() {
    let bus = Bus::new(None);
    let mut lamps = lamps(&bus);
    let lagging = caught_up(&bus);
    for round in 0..1000 {
        for key in 0..8 {
            lamps.publish(lamp(&key.to_string(), round)).unwrap();
        }
        for born_and_gone in 0..8 {
            let name = format!("short-lived {born_and_gone} in {round}");
            lamps.publish(lamp(&name, 0)).unwrap();
            lamps.unpublish(&name).unwrap();
        }
        lamps.signal_restarted();
        assert!(lagging.len() <= 9, "{} entries wait", lagging.len());
    }
    let seen = drain(&lagging);
    assert_eq!(seen[0], created("0", 999));
    assert_eq!(seen.last(), Some(&Change::Restarted(1000)));
    assert_eq!(seen.len(), 9);
}

#[test]
fn a_subscriber_that_leaves_is_forgotten_and_the_others_go_on() {
    let bus = Bus::new(None);
    let mut lamps = lamps(&bus);
    let (stays, leaves) = (caught_up(&bus), caught_up(&bus));
    assert_eq!(bus.subscriber_count::<Lamp>(), 2);
    drop(leaves);
    assert_eq!(bus.subscriber_count::<Lamp>(), 1);
    lamps.publish(lamp("hall", 1)).unwrap();
    assert_eq!(drain(&stays), [created("hall", 1)]);
}

#[test]
fn subscribers_share_the_value() {
    let bus = Bus::new(None);
    let mut lamps = lamps(&bus);
    let (one, two) = (caught_up(&bus), caught_up(&bus));
    lamps.publish(lamp("hall", 1)).unwrap();
    let (one, two) = (drain(&one), drain(&two));
    let (Some(one), Some(two)) = (one[0].value(), two[0].value()) else { panic!("both were told") };
    assert!(std::sync::Arc::ptr_eq(one, two));
}
