//! When to kill, and what was waited for.

use std::time::Duration;

use holdfast_agents::runtime::Entropy;

use super::tally::Tally;

/// How long things take, before any of them was measured.
const GUESSED_ORDER: Duration = Duration::from_millis(300);
pub const GUESSED_STEP: Duration = Duration::from_millis(20);
/// The name under which the steps' durations are kept.
pub const STEP: &str = "qemu-img step";

/// When to kill.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Moment {
    Never,
    After(Duration),
    /// After this share of the time that a step usually takes, from its beginning on.
    InStep {
        number: u64,
        share: f64,
    },
    /// Once there is nothing to do any more.
    Settled,
}

impl Moment {
    /// Evenly over the time that `what` usually takes; or evenly over one of its steps that change an image.
    pub fn draw(chance: &dyn Entropy, tally: &Tally, what: &str, steps: u64) -> Moment {
        let share = (chance.next_u64() % 1_000_000) as f64 / 1_000_000.0;
        if steps == 0 || chance.next_u64().is_multiple_of(2) {
            return Moment::After(tally.typical(what, GUESSED_ORDER).mul_f64(share));
        }
        Moment::InStep { number: 1 + chance.next_u64() % steps, share }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    Settled,
    Moment,
}

/// `snapshot -c`, `check -r leaks`, …: what is told of a tool.
pub fn tool_name(arguments: &[String]) -> String {
    let verb = arguments.get(1).map_or("", String::as_str);
    match (verb, arguments.get(2)) {
        ("snapshot", Some(flag)) => format!("{verb} {flag}"),
        ("check", _) if arguments.iter().any(|argument| argument == "leaks") => "check -r leaks".to_owned(),
        _ => verb.to_owned(),
    }
}
