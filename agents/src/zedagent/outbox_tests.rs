//! The outbox, told as stories of one or two applications.

use std::time::Duration;

use super::outbox::{MAX_SENDING, Outbox, Sending};
use super::report::{ReportObject, gone};
use super::testing::at;
use crate::wire::info::{ZInfoApp, z_info_msg::InfoContent};

fn outbox() -> Outbox {
    Outbox::new(Duration::from_secs(1), Duration::from_secs(60))
}

fn app(id: &str) -> ReportObject {
    ReportObject::App(id.into())
}

fn version(id: &str, version: &str) -> InfoContent {
    InfoContent::Ainfo(ZInfoApp { app_id: id.into(), app_version: version.into(), ..Default::default() })
}

fn update(outbox: &mut Outbox, id: &str, content: &str) {
    outbox.update(app(id), version(id, content), at(0));
}

fn sent(sending: &Sending) -> (String, String) {
    match &sending.content {
        InfoContent::Ainfo(report) => (report.app_id.clone(), report.app_version.clone()),
        other => panic!("not an application's report: {other:?}"),
    }
}

fn only(outbox: &mut Outbox) -> Sending {
    let mut due = outbox.start_due();
    assert_eq!(due.len(), 1, "{due:?}");
    due.remove(0)
}

#[test]
fn a_report_is_sent_once_and_not_again_while_nothing_changes() {
    let mut outbox = outbox();
    update(&mut outbox, "a", "1");
    let sending = only(&mut outbox);
    update(&mut outbox, "a", "1");
    assert_eq!(outbox.pending(), 1);
    outbox.taken(&sending.object, sending.number);
    update(&mut outbox, "a", "1");
    assert_eq!((outbox.start_due().len(), outbox.pending()), (0, 0));
}

#[test]
fn what_changes_while_one_is_under_way_is_sent_after_it_and_only_the_newest() {
    let mut outbox = outbox();
    update(&mut outbox, "a", "1");
    let first = only(&mut outbox);
    update(&mut outbox, "a", "2");
    update(&mut outbox, "a", "3");
    assert!(outbox.start_due().is_empty(), "one at a time per object");
    outbox.taken(&first.object, first.number);
    assert_eq!(sent(&only(&mut outbox)).1, "3");
}

#[test]
fn a_report_that_is_not_taken_waits_longer_each_time_and_then_goes_as_it_is_by_then() {
    let mut outbox = outbox();
    update(&mut outbox, "a", "1");
    let mut delays = Vec::new();
    for _ in 0..8 {
        let sending = only(&mut outbox);
        delays.extend(outbox.not_taken(&sending.object, sending.number));
        assert!(outbox.start_due().is_empty() && outbox.has_failures());
        outbox.retry(&app("a"));
    }
    assert_eq!(delays.iter().map(Duration::as_secs).collect::<Vec<_>>(), [1, 2, 4, 8, 16, 32, 60, 60]);

    update(&mut outbox, "a", "2");
    let sending = only(&mut outbox);
    assert_eq!(sent(&sending).1, "2");
    outbox.taken(&sending.object, sending.number);
    assert!(!outbox.has_failures() && outbox.pending() == 0);
}

#[test]
fn a_change_does_not_shorten_the_wait_but_hearing_the_controller_does() {
    let mut outbox = outbox();
    for id in ["a", "b"] {
        update(&mut outbox, id, "1");
        let sending = only(&mut outbox);
        outbox.not_taken(&sending.object, sending.number);
    }
    update(&mut outbox, "a", "2");
    assert!(outbox.start_due().is_empty());
    outbox.retry_all();
    let again: Vec<_> = outbox.start_due().iter().map(sent).collect();
    assert_eq!(again, [("a".into(), "2".into()), ("b".into(), "1".into())]);
}

#[test]
fn few_are_sent_at_once_and_nobody_is_passed_over() {
    let mut outbox = outbox();
    for id in ["c", "a", "d", "b"] {
        update(&mut outbox, id, "1");
    }
    let mut order = Vec::new();
    let mut sending = Vec::new();
    for _ in 0..4 {
        sending.extend(outbox.start_due());
        assert_eq!(sending.len(), MAX_SENDING);
        let first = sending.remove(0);
        order.push(sent(&first).0);
        // One that changes all the time goes behind those who wait.
        update(&mut outbox, &sent(&first).0, "2");
        outbox.taken(&first.object, first.number);
    }
    assert_eq!(order, ["c", "a", "d", "b"]);
}

#[test]
fn the_end_of_an_object_is_told_and_then_it_is_forgotten() {
    let mut outbox = outbox();
    outbox.finish(app("never"), at(0));
    assert_eq!(outbox.pending(), 0, "one that was never reported needs no farewell");

    update(&mut outbox, "a", "1");
    let first = only(&mut outbox);
    outbox.finish(app("a"), at(1));
    outbox.taken(&first.object, first.number);
    let last = only(&mut outbox);
    assert_eq!((last.content.clone(), last.made_at), (gone(&app("a")), at(1)));
    outbox.taken(&last.object, last.number);

    update(&mut outbox, "a", "1");
    assert_eq!(sent(&only(&mut outbox)).1, "1", "a new life is reported from the start");
}

#[test]
fn an_object_that_comes_back_before_its_end_was_told_is_just_changed() {
    let mut outbox = outbox();
    update(&mut outbox, "a", "1");
    let first = only(&mut outbox);
    outbox.finish(app("a"), at(1));
    update(&mut outbox, "a", "2");
    outbox.taken(&first.object, first.number);
    let second = only(&mut outbox);
    assert_eq!(sent(&second).1, "2");
    outbox.taken(&second.object, second.number);
    update(&mut outbox, "a", "2");
    assert!(outbox.start_due().is_empty(), "it is remembered");
}

#[test]
fn an_end_that_is_old_news_changes_nothing() {
    let mut outbox = outbox();
    update(&mut outbox, "a", "1");
    let sending = only(&mut outbox);
    outbox.taken(&sending.object, sending.number + 1);
    outbox.taken(&app("b"), 1);
    assert_eq!(outbox.not_taken(&sending.object, 0), None);
    assert_eq!(outbox.pending(), 1);
}
