//! Trying again: what failed, how often, and when next. Pure.

use std::time::Duration;

use holdfast_types::{ErrorReport, Timestamp};

const LONGEST_DELAY: Duration = Duration::from_secs(300);

/// How long to wait after so many failures in a row: 1 s, 2 s, 4 s, ... up to five minutes.
pub fn delay(tries: u32) -> Duration {
    let doublings = tries.saturating_sub(1).min(16);
    Duration::from_secs(1 << doublings).min(LONGEST_DELAY)
}

/// Why a job did not do its work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Outermost first, joined by `: `.
    pub summary: String,
    /// When it makes sense to try again, in words. `None`: only another configuration or a person helps.
    pub retry_condition: Option<&'static str>,
}

impl Failure {
    pub fn permanent(summary: impl Into<String>) -> Self {
        Failure { summary: summary.into(), retry_condition: None }
    }

    pub fn passing(summary: impl Into<String>) -> Self {
        Failure { summary: summary.into(), retry_condition: Some("tried again with growing delay") }
    }

    pub fn is_permanent(&self) -> bool {
        self.retry_condition.is_none()
    }

    pub fn report(&self, time: Timestamp) -> ErrorReport {
        ErrorReport::new(&self.summary, time).retry(self.retry_condition.unwrap_or_default())
    }
}

/// Something that failed and may be tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub error: ErrorReport,
    pub tries: u32,
    pub permanent: bool,
}

impl Trouble {
    /// The failure that comes after `before`.
    pub fn after(before: u32, failure: &Failure, error: ErrorReport) -> Self {
        Trouble { error, tries: before + 1, permanent: failure.is_permanent() }
    }

    /// The same, of what has no error of its own.
    pub fn again(before: Option<Trouble>, failure: &Failure, now: Timestamp) -> Self {
        let tries = before.as_ref().map_or(0, |before| before.tries);
        Trouble::after(tries, failure, failure.report(now).or_known(before.map(|before| before.error)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_grows_and_stays_bounded() {
        let seconds: Vec<u64> = [1, 2, 3, 8, 9, 10, 1000].map(|tries| delay(tries).as_secs()).into();
        assert_eq!(seconds, [1, 2, 4, 128, 256, 300, 300]);
    }
}
