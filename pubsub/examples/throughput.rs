//! How fast the bus is: one publisher, one subscriber, 64 keys; in one thread (every change is handled) and in two
//! (a subscriber that lags sees fewer, melted changes). `cargo run --release -p holdfast-pubsub --example throughput`

#![allow(clippy::disallowed_methods, reason = "it measures real time")]

use std::time::Instant;

use holdfast_pubsub::{Bus, Change, Durability, Mailbox, Topic};
use serde::{Deserialize, Serialize};

const KEYS: u64 = 64;
const ROUNDS: u64 = 50_000;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Reading {
    sensor: u64,
    value: u64,
}

impl Topic for Reading {
    const NAME: &'static str = "Reading";
    const DURABILITY: Durability = Durability::Volatile;
    type Key = u64;
    fn key(&self) -> u64 {
        self.sensor
    }
}

fn main() {
    report("one thread, one at a time", one_thread(1));
    report("one thread, 64 at a time", one_thread(KEYS));
    report("two threads", two_threads());
}

fn report(name: &str, (published, handled, seconds): (u64, u64, f64)) {
    let rate = published as f64 / seconds / 1e6;
    println!("{name}: {published} published, {handled} handled, {rate:.2} million published per second");
}

fn one_thread(batch: u64) -> (u64, u64, f64) {
    let bus = Bus::new(None);
    let mut readings = bus.publication::<Reading>("sensor").expect("nobody else publishes");
    let mailbox: Mailbox<Change<Reading>> = Mailbox::new();
    mailbox.subscribe::<Reading>(&bus, |change| change);
    let (start, mut handled) = (Instant::now(), 0);
    for number in 0..KEYS * ROUNDS {
        let reading = Reading { sensor: number % KEYS, value: number };
        readings.publish(reading).expect("volatile topics cannot fail");
        if number % batch == batch - 1 {
            handled += std::iter::from_fn(|| mailbox.try_recv()).count() as u64;
        }
    }
    (KEYS * ROUNDS, handled, start.elapsed().as_secs_f64())
}

fn two_threads() -> (u64, u64, f64) {
    let bus = Bus::new(None);
    let mut readings = bus.publication::<Reading>("sensor").expect("nobody else publishes");
    let mailbox: Mailbox<Change<Reading>> = Mailbox::new();
    mailbox.subscribe::<Reading>(&bus, |change| change);
    let start = Instant::now();
    let reader = std::thread::spawn(move || {
        let (mut handled, mut finished) = (0, 0);
        while finished < KEYS {
            match mailbox.try_recv() {
                Some(change) => {
                    handled += 1;
                    finished += u64::from(change.value().is_some_and(|r| r.value >= KEYS * (ROUNDS - 1)));
                }
                None => std::hint::spin_loop(),
            }
        }
        handled
    });
    for number in 0..KEYS * ROUNDS {
        let reading = Reading { sensor: number % KEYS, value: number };
        readings.publish(reading).expect("volatile topics cannot fail");
    }
    let handled = reader.join().expect("the reader ends");
    (KEYS * ROUNDS, handled, start.elapsed().as_secs_f64())
}
