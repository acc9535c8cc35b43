//! Where the cuts fell, and how long things take when nothing gets in their way.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::real_kills::tally::Hit;

#[derive(Debug, Default)]
pub struct Tally {
    cuts: BTreeMap<String, u64>,
    phases: BTreeMap<String, u64>,
    /// Cuts before which nothing had begun, or after which nothing was left: not counted.
    idle: u64,
    recovering: u64,
    pub orders: u64,
    durations: BTreeMap<String, Duration>,
}

impl Tally {
    /// True if the cut counts.
    pub fn cut(&mut self, hit: Hit, phase: &str, recovering: bool) -> bool {
        if hit == Hit::Idle && !recovering {
            self.idle += 1;
            return false;
        }
        self.recovering += u64::from(recovering);
        *self.cuts.entry(hit.name().to_owned()).or_default() += 1;
        *self.phases.entry(phase.to_owned()).or_default() += 1;
        true
    }

    pub fn cuts(&self) -> u64 {
        self.cuts.values().sum()
    }

    pub fn took(&mut self, what: &str, duration: Duration) {
        let known = self.durations.entry(what.to_owned()).or_insert(duration);
        *known = (*known * 3 + duration) / 4;
    }

    /// `guess` is for as long as nothing was measured.
    pub fn typical(&self, what: &str, guess: Duration) -> Duration {
        self.durations.get(what).copied().unwrap_or(guess)
    }

    /// In a few lines.
    pub fn summary(&self) -> String {
        let counts = |counts: &BTreeMap<String, u64>| {
            counts.iter().map(|(what, count)| format!("{what} {count}")).collect::<Vec<_>>().join(", ")
        };
        let durations: Vec<String> =
            self.durations.iter().map(|(what, took)| format!("{what} {:.1} s", took.as_secs_f64())).collect();
        format!(
            "cut in: {}; of these in recovery {}; not counted, for nothing was under way: {}\n\
             cut at: {}\n\
             orders: {}; undisturbed they take: {}",
            counts(&self.cuts),
            self.recovering,
            self.idle,
            counts(&self.phases),
            self.orders,
            durations.join(", ")
        )
    }
}
