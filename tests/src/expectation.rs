//! What every checker here is written with: a condition, and words for when it does not hold.

/// Returns these words as an error from the function it stands in, unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($what:tt)*) => {
        if !$condition {
            return Err(format!($($what)*));
        }
    };
}
