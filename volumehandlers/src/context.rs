//! What a caller tells a running step, and hears from it.

use std::fmt;
use std::time::Duration;

/// Given to every step that may take long.
#[derive(Clone, Copy)]
pub struct HandlerCx<'a> {
    is_cancelled: &'a (dyn Fn() -> bool + Sync),
    report_progress: &'a (dyn Fn(u8) + Sync),
    step_limit: Option<Duration>,
}

impl HandlerCx<'static> {
    /// Never cancelled, nobody listening, limits as the tools choose them.
    pub fn unattended() -> Self {
        HandlerCx { is_cancelled: &|| false, report_progress: &|_| (), step_limit: None }
    }
}

impl<'a> HandlerCx<'a> {
    /// `is_cancelled` is asked often, from the thread of the step; `report_progress` hears per cent, growing.
    pub fn new(
        is_cancelled: &'a (dyn Fn() -> bool + Sync),
        report_progress: &'a (dyn Fn(u8) + Sync),
    ) -> HandlerCx<'a> {
        HandlerCx { is_cancelled, report_progress, step_limit: None }
    }

    /// The longest that one process or one copy may take, in place of the limit that grows with the image.
    pub fn with_step_limit(mut self, limit: Duration) -> Self {
        self.step_limit = Some(limit);
        self
    }

    pub fn cancelled(&self) -> bool {
        (self.is_cancelled)()
    }

    pub fn progress(&self, percent: u8) {
        (self.report_progress)(percent.min(100));
    }

    pub fn step_limit(&self) -> Option<Duration> {
        self.step_limit
    }
}

impl fmt::Debug for HandlerCx<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("HandlerCx")
            .field("cancelled", &self.cancelled())
            .field("step_limit", &self.step_limit)
            .finish_non_exhaustive()
    }
}
