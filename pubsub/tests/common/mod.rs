//! The topics of the bus's tests, and short ways to say what was received.
#![allow(dead_code, reason = "each test file uses its part")]

use std::sync::Arc;

use holdfast_pubsub::{Bus, Change, Durability, Mailbox, Publication, Subscription, Topic};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lamp {
    pub name: String,
    pub level: i64,
}

impl Topic for Lamp {
    const NAME: &'static str = "Lamp";
    const DURABILITY: Durability = Durability::Volatile;
    type Key = String;
    fn key(&self) -> String {
        self.name.clone()
    }
}

/// Its key is a number, and its rows outlive the process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Counter {
    pub number: u64,
    pub count: i64,
}

impl Topic for Counter {
    const NAME: &'static str = "Counter";
    const DURABILITY: Durability = Durability::Persistent;
    type Key = u64;
    fn key(&self) -> u64 {
        self.number
    }
}

pub fn lamp(name: &str, level: i64) -> Lamp {
    Lamp { name: name.to_string(), level }
}

pub fn lamps(bus: &Bus) -> Publication<Lamp> {
    bus.publication("electrician").unwrap()
}

pub fn created(name: &str, level: i64) -> Change<Lamp> {
    Change::Created(Arc::new(lamp(name, level)))
}

pub fn modified(name: &str, old: i64, new: i64) -> Change<Lamp> {
    Change::Modified { old: Arc::new(lamp(name, old)), new: Arc::new(lamp(name, new)) }
}

pub fn deleted(name: &str, last: i64) -> Change<Lamp> {
    Change::Deleted(Arc::new(lamp(name, last)))
}

/// Everything that waits.
pub fn drain<E: Send + 'static>(mailbox: &Mailbox<E>) -> Vec<E> {
    std::iter::from_fn(|| mailbox.try_recv()).collect()
}

/// A subscriber that has seen what existed.
pub fn caught_up(bus: &Bus) -> Subscription<Lamp> {
    let subscription = Subscription::of(bus);
    drain(&subscription);
    subscription
}
