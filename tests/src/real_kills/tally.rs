//! Where the kills fell, how long things take undisturbed, and how many kills are still to come.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What the node was at when it was killed, by its own durable rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Hit {
    Create,
    Rollback,
    Delete,
    /// The whole application, with its volumes and snapshots.
    DeleteApp,
    /// Another operation of the application.
    Other,
    /// Nothing had begun yet, or everything was done. Not counted.
    Idle,
}

impl Hit {
    pub fn name(self) -> &'static str {
        match self {
            Hit::Create => "create",
            Hit::Rollback => "rollback",
            Hit::Delete => "delete",
            Hit::DeleteApp => "delete app",
            Hit::Other => "other",
            Hit::Idle => "idle",
        }
    }
}

#[derive(Debug, Default)]
struct Counts {
    /// Kills of a node that carried out an order.
    first: BTreeMap<Hit, u64>,
    /// Kills of a node that was recovering from one, by what was still open.
    again: BTreeMap<Hit, u64>,
    /// How far the operation was, by the rows.
    phases: BTreeMap<String, u64>,
    /// Kills before which the group was looked at, and what tools were running.
    looks: u64,
    tools: BTreeMap<String, u64>,
    orders: u64,
    undisturbed: u64,
    /// Recoveries with the controller away, and how many of them ended before the order.
    alone: u64,
    alone_before: u64,
    durations: BTreeMap<String, Duration>,
}

/// Shared by all lanes.
#[derive(Debug)]
pub struct Tally {
    left: AtomicU64,
    is_over: AtomicBool,
    counts: Mutex<Counts>,
    violations: Mutex<Vec<String>>,
}

impl Tally {
    pub fn new(kills: u64) -> Self {
        Tally {
            left: AtomicU64::new(kills),
            is_over: AtomicBool::new(false),
            counts: Mutex::default(),
            violations: Mutex::default(),
        }
    }

    /// Leave to kill once; false when all kills are taken.
    pub fn take_kill(&self) -> bool {
        self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
    }

    /// The kill hit nothing.
    pub fn give_back(&self) {
        self.left.fetch_add(1, Ordering::SeqCst);
    }

    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst) || self.left.load(Ordering::SeqCst) == 0
    }

    pub fn killed(&self, hit: Hit, phase: &str, recovering: bool, tools: Option<&[String]>) {
        let mut counts = held(&self.counts);
        let place = if recovering { &mut counts.again } else { &mut counts.first };
        *place.entry(hit).or_default() += 1;
        *counts.phases.entry(phase.to_owned()).or_default() += 1;
        if let Some(tools) = tools {
            counts.looks += 1;
            for tool in tools {
                *counts.tools.entry(tool.clone()).or_default() += 1;
            }
        }
    }

    pub fn ordered(&self, was_disturbed: bool) {
        let mut counts = held(&self.counts);
        counts.orders += 1;
        counts.undisturbed += u64::from(!was_disturbed);
    }

    pub fn rested_alone(&self, is_before: bool) {
        let mut counts = held(&self.counts);
        counts.alone += 1;
        counts.alone_before += u64::from(is_before);
    }

    /// How long something took with nothing in its way.
    pub fn took(&self, what: &str, duration: Duration) {
        let mut counts = held(&self.counts);
        let known = counts.durations.entry(what.to_owned()).or_insert(duration);
        *known = (*known * 7 + duration) / 8;
    }

    /// `guess` is for as long as nothing was measured.
    pub fn typical(&self, what: &str, guess: Duration) -> Duration {
        held(&self.counts).durations.get(what).copied().unwrap_or(guess)
    }

    /// Ends the run.
    pub fn violated(&self, what: String) {
        held(&self.violations).push(what);
        self.is_over.store(true, Ordering::SeqCst);
    }

    /// Ends the run without a word on why: whoever calls has the reason.
    pub fn stop(&self) {
        self.is_over.store(true, Ordering::SeqCst);
    }

    pub fn violations(&self) -> Vec<String> {
        held(&self.violations).clone()
    }

    /// Kills that hit something.
    pub fn kills(&self) -> u64 {
        let counts = held(&self.counts);
        let all = counts.first.iter().filter(|(hit, _)| **hit != Hit::Idle).chain(&counts.again);
        all.map(|(_, count)| count).sum()
    }

    /// What was hit, in a few lines.
    pub fn summary(&self) -> String {
        let counts = held(&self.counts);
        let first = |hit: Hit| counts.first.get(&hit).copied().unwrap_or(0);
        let idle = first(Hit::Idle);
        let recovery: u64 = counts.again.values().sum();
        let open: Vec<String> = counts
            .again
            .iter()
            .map(|(hit, count)| match hit {
                Hit::Idle => format!("at the start {count}"),
                hit => format!("{} {count}", hit.name()),
            })
            .collect();
        format!(
            "hit: create={} rollback={} delete={} delete-app={} other={} recovery={recovery} (not counted: idle={idle})\n\
             hit in recovery: {}\n\
             hit at: {}\n\
             seen running, {} looks: {}\n\
             recovered with the controller away: {}, of them {} to before the order\n\
             orders: {}, of them {} not disturbed; undisturbed they take: {}",
            first(Hit::Create),
            first(Hit::Rollback),
            first(Hit::Delete),
            first(Hit::DeleteApp),
            first(Hit::Other),
            open.join(", "),
            listed(&counts.phases),
            counts.looks,
            listed(&counts.tools),
            counts.alone,
            counts.alone_before,
            counts.orders,
            counts.undisturbed,
            counts
                .durations
                .iter()
                .map(|(what, took)| format!("{what} {} ms", took.as_millis()))
                .collect::<Vec<_>>()
                .join(", ")
        )
    }
}

fn listed(counts: &BTreeMap<String, u64>) -> String {
    counts.iter().map(|(what, count)| format!("{what} {count}")).collect::<Vec<_>>().join(", ")
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
