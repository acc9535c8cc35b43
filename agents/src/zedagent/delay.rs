//! How long to wait before the next try.

use std::time::Duration;

/// Twice as long after each failure in a row, up to the longest.
pub fn growing(first: Duration, longest: Duration, failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(31);
    first.saturating_mul(1 << doublings).min(longest)
}

/// Up to a tenth more or less, so that a thousand nodes that lost their controller together do not come back together.
pub fn jittered(delay: Duration, random: u64) -> Duration {
    let per_cent = 90 + u32::try_from(random % 21).unwrap_or(10);
    delay.saturating_mul(per_cent) / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_doubles_up_to_the_longest() {
        let delay = |failures| growing(Duration::from_secs(1), Duration::from_secs(10), failures).as_secs();
        assert_eq!([0, 1, 2, 3, 4, 5, u32::MAX].map(delay), [1, 1, 2, 4, 8, 10, 10]);
    }

    #[test]
    fn jitter_stays_within_a_tenth() {
        for random in 0..100 {
            let delay = jittered(Duration::from_secs(10), random);
            assert!((9000..=11000).contains(&delay.as_millis()), "{delay:?}");
        }
    }
}
