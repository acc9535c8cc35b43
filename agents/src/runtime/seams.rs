//! Time and chance as inputs: the only places where a clock is read or a random number drawn.
//!
//! Agents see them through their context, jobs through theirs; the simulation puts its own behind the traits.

#![allow(clippy::disallowed_methods, reason = "these are the Clock and Entropy seams")]

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use chrono::{DateTime, Utc};
use uuid::Uuid;

pub type Timestamp = DateTime<Utc>;

pub trait Clock: Send + Sync + fmt::Debug {
    /// The wall clock, which may jump: for records and reports, never for order and never for waiting ([003] B8).
    fn now(&self) -> Timestamp;

    /// Since the start of the node; never goes back. For timers and deadlines.
    fn elapsed(&self) -> Duration;
}

pub trait Entropy: Send + Sync + fmt::Debug {
    fn next_u64(&self) -> u64;

    fn next_uuid(&self) -> Uuid {
        uuid::Builder::from_random_bytes(both(self.next_u64(), self.next_u64())).into_uuid()
    }
}

/// The machine's clocks.
#[derive(Debug, Clone)]
pub struct SystemClock {
    started: Instant,
}

impl SystemClock {
    pub fn new() -> Self {
        SystemClock { started: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        SystemClock::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        SystemTime::now().into()
    }

    fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

/// The machine's randomness.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn next_u64(&self) -> u64 {
        // Six bits of a random UUID are fixed; folded, each of them meets a random one.
        let (high, low) = Uuid::new_v4().as_u64_pair();
        high ^ low.rotate_left(32)
    }
}

/// A clock that goes only when told; clones are the same clock.
#[derive(Debug, Clone)]
pub struct ManualClock {
    state: Arc<Mutex<(Timestamp, Duration)>>,
}

impl ManualClock {
    /// Starts at this wall-clock time.
    pub fn new(now: Timestamp) -> Self {
        ManualClock { state: Arc::new(Mutex::new((now, Duration::ZERO))) }
    }

    /// Both clocks go forward.
    pub fn advance(&self, by: Duration) {
        let mut state = self.lock();
        state.0 += by;
        state.1 += by;
    }

    /// The wall clock jumps; the other does not.
    pub fn set_now(&self, now: Timestamp) {
        self.lock().0 = now;
    }

    fn lock(&self) -> MutexGuard<'_, (Timestamp, Duration)> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Default for ManualClock {
    /// Starts at the beginning of 2026.
    fn default() -> Self {
        let start = DateTime::from_timestamp(1_767_225_600, 0);
        ManualClock::new(start.unwrap_or_default())
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.lock().0
    }

    fn elapsed(&self) -> Duration {
        self.lock().1
    }
}

/// The same numbers for the same seed (SplitMix64); clones share the stream.
#[derive(Debug, Clone)]
pub struct SeededEntropy {
    state: Arc<Mutex<u64>>,
}

impl SeededEntropy {
    pub fn new(seed: u64) -> Self {
        SeededEntropy { state: Arc::new(Mutex::new(seed)) }
    }
}

impl Entropy for SeededEntropy {
    fn next_u64(&self) -> u64 {
        let mut state = self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

fn both(high: u64, low: u64) -> [u8; 16] {
    ((u128::from(high) << 64) | u128::from(low)).to_be_bytes()
}
