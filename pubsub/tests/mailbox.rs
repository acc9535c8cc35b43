//! One mailbox for many topics and posted events.

#![allow(clippy::disallowed_methods, reason = "a second thread is what is tested")]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use common::*;
use holdfast_pubsub::{Bus, Change, Mailbox};

#[derive(Debug, PartialEq)]
enum Event {
    Lamp(Change<Lamp>),
    Counter(Change<Counter>),
    Said(&'static str),
}

fn mailbox(bus: &Bus) -> Mailbox<Event> {
    let mailbox = Mailbox::new();
    mailbox.subscribe::<Lamp>(bus, Event::Lamp);
    mailbox.subscribe::<Counter>(bus, Event::Counter);
    drain(&mailbox);
    mailbox
}

fn counter(number: u64, count: i64) -> Counter {
    Counter { number, count }
}

#[test]
fn topics_and_posts_come_in_the_order_in_which_they_happened() {
    let bus = Bus::new(None);
    let (mut lamps, mut counters) = (lamps(&bus), bus.publication::<Counter>("clerk").unwrap());
    let mailbox = mailbox(&bus);
    counters.publish(counter(1, 1)).unwrap();
    lamps.publish(lamp("hall", 1)).unwrap();
    mailbox.post(Event::Said("hello"));
    lamps.publish(lamp("attic", 1)).unwrap();
    counters.publish(counter(2, 1)).unwrap();
    assert_eq!(
        drain(&mailbox),
        [
            Event::Counter(Change::Created(Arc::new(counter(1, 1)))),
            Event::Lamp(created("hall", 1)),
            Event::Said("hello"),
            Event::Lamp(created("attic", 1)),
            Event::Counter(Change::Created(Arc::new(counter(2, 1)))),
        ]
    );
}

#[test]
fn a_change_that_melts_keeps_the_earlier_place() {
    let bus = Bus::new(None);
    let mut lamps = lamps(&bus);
    let mailbox = mailbox(&bus);
    lamps.publish(lamp("hall", 1)).unwrap();
    mailbox.post(Event::Said("hello"));
    lamps.publish(lamp("hall", 2)).unwrap();
    assert_eq!(drain(&mailbox), [Event::Lamp(created("hall", 2)), Event::Said("hello")]);
}

#[test]
fn a_key_that_came_and_went_leaves_the_others_in_order() {
    let bus = Bus::new(None);
    let mut lamps = lamps(&bus);
    let mailbox = mailbox(&bus);
    lamps.publish(lamp("hall", 1)).unwrap();
    mailbox.post(Event::Said("one"));
    lamps.publish(lamp("attic", 1)).unwrap();
    mailbox.post(Event::Said("two"));
    lamps.unpublish(&"hall".into()).unwrap();
    lamps.publish(lamp("hall", 7)).unwrap();
    assert_eq!(
        drain(&mailbox),
        [
            Event::Said("one"),
            Event::Lamp(created("attic", 1)),
            Event::Said("two"),
            Event::Lamp(created("hall", 7))
        ]
    );
}

#[test]
fn posts_are_never_melted_but_the_latest_of_a_key_is() {
    let mailbox: Mailbox<Event> = Mailbox::new();
    let poster = mailbox.poster();
    poster.post(Event::Said("a"));
    poster.post_latest("progress", Event::Said("10 %"));
    poster.post(Event::Said("a"));
    poster.post_latest("progress", Event::Said("20 %"));
    let expected = [Event::Said("a"), Event::Said("20 %"), Event::Said("a")];
    assert_eq!(drain(&mailbox), expected);
    poster.post_latest("progress", Event::Said("30 %"));
    assert_eq!(drain(&mailbox), [Event::Said("30 %")]);
}

#[test]
fn a_poster_outlives_its_mailbox_harmlessly() {
    let mailbox: Mailbox<Event> = Mailbox::new();
    let poster = mailbox.poster();
    assert!(poster.post(Event::Said("hello")));
    drop(mailbox);
    assert!(!poster.post(Event::Said("anybody?")));
}

#[derive(Default)]
struct CountingWaker(AtomicUsize);

impl Wake for CountingWaker {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn who_waits_is_woken_once_by_a_change_and_once_by_a_post() {
    let bus = Bus::new(None);
    let mut lamps = lamps(&bus);
    let mailbox = mailbox(&bus);
    let count = Arc::new(CountingWaker::default());
    let waker = Waker::from(Arc::clone(&count));
    let mut context = Context::from_waker(&waker);

    assert_eq!(mailbox.poll_recv(&mut context), Poll::Pending);
    lamps.publish(lamp("hall", 1)).unwrap();
    lamps.publish(lamp("hall", 2)).unwrap();
    assert_eq!(count.0.load(Ordering::SeqCst), 1);
    assert_eq!(mailbox.poll_ready(&mut context), Poll::Ready(()));
    assert_eq!(mailbox.poll_recv(&mut context), Poll::Ready(Event::Lamp(created("hall", 2))));

    assert_eq!(mailbox.poll_ready(&mut context), Poll::Pending);
    mailbox.post(Event::Said("hello"));
    assert_eq!(count.0.load(Ordering::SeqCst), 2);
}

#[test]
fn changes_reach_another_thread_and_end_at_the_last_value() {
    let bus = Bus::new(None);
    let mut lamps = lamps(&bus);
    let mailbox = mailbox(&bus);
    let (done, finished) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut levels = std::collections::BTreeMap::new();
        while levels.values().filter(|level| **level == 2000).count() < 4 {
            match mailbox.try_recv() {
                Some(Event::Lamp(change)) => {
                    let lamp = change.value().expect("only rows are published");
                    let before = levels.insert(lamp.name.clone(), lamp.level);
                    assert!(before.is_none_or(|before| before < lamp.level), "never backwards");
                }
                Some(other) => panic!("nobody sent {other:?}"),
                None => std::thread::yield_now(),
            }
        }
        done.send(()).unwrap();
    });
    for level in 1..=2000 {
        for name in ["a", "b", "c", "d"] {
            lamps.publish(lamp(name, level)).unwrap();
        }
    }
    finished.recv_timeout(Duration::from_secs(20)).expect("the reader saw every last value");
    reader.join().unwrap();
}
