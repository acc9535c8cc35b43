//! What people see: who did what when, and each check with what was compared.
//!
//! ```text
//!    12.3s  guest       found disk=vdb role=data boots=1 payload=none
//!    12.3s  check   ok  the guest found the old data: console says boots=1 payload=none
//! ```
//!
//! Lines go to standard output as they happen. Nothing here decides anything.

use std::fmt::Debug;
use std::time::Instant;

use super::Outcome;

/// Who did something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actor {
    Controller,
    Node,
    Guest,
    /// The story itself, pulling plugs.
    Hand,
    /// Somebody at a terminal, asking the node.
    Shell,
}

impl Actor {
    fn name(self) -> &'static str {
        match self {
            Actor::Controller => "controller",
            Actor::Node => "node",
            Actor::Guest => "guest",
            Actor::Hand => "demo",
            Actor::Shell => "shell",
        }
    }

    fn colour(self) -> &'static str {
        match self {
            Actor::Controller => "36",
            Actor::Node => "34",
            Actor::Guest => "35",
            Actor::Hand => "33",
            Actor::Shell => "2",
        }
    }
}

/// A check that did not hold. It has been printed and counted.
#[derive(Debug, thiserror::Error)]
#[error("a check failed")]
pub struct CheckFailed;

#[derive(Debug)]
pub struct Timeline {
    start: Instant,
    colour: bool,
    passed: usize,
    failed: usize,
}

impl Timeline {
    pub fn new(colour: bool) -> Self {
        Timeline { start: Instant::now(), colour, passed: 0, failed: 0 }
    }

    pub fn outcome(&self) -> Outcome {
        Outcome { passed: self.passed, failed: self.failed }
    }

    /// A new chapter.
    pub fn chapter(&self, title: &str) {
        println!("\n{}", self.paint("1", title));
    }

    /// Something happened.
    pub fn say(&self, actor: Actor, what: &str) {
        let name = self.paint(actor.colour(), &format!("{:10}", actor.name()));
        for (at, line) in what.lines().enumerate() {
            match at {
                0 => println!("{}  {name}  {line}", self.elapsed()),
                _ => println!("{:9}  {:10}  {line}", "", ""),
            }
        }
    }

    /// Holds if what the witness shows is what is expected.
    pub fn check_equal<T: PartialEq + Debug>(
        &mut self,
        what: &str,
        witness: &str,
        found: T,
        expected: T,
    ) -> Result<(), CheckFailed> {
        let holds = found == expected;
        let shows = format!("{witness}: {}", plain(&found));
        let expected = format!("expected {}", plain(&expected));
        self.check(what, &shows, holds, &expected)
    }

    /// Holds if it `holds`; `shows` is what was looked at, `expected` is said if it does not.
    pub fn check(&mut self, what: &str, shows: &str, holds: bool, expected: &str) -> Result<(), CheckFailed> {
        let elapsed = self.elapsed();
        if holds {
            self.passed += 1;
            println!("{elapsed}  {} {what}", self.paint("32", "check   ok "));
            println!("{:9}  {:10}  {}", "", "", self.paint("2", &format!("({shows})")));
            return Ok(());
        }
        self.failed += 1;
        println!("{elapsed}  {} {what}", self.paint("1;31", "check  FAILED"));
        println!("{:9}  {:10}  ({shows}; {expected})", "", "");
        Err(CheckFailed)
    }

    /// The story cannot go on. Counts as a failure, unless it is a check that has been counted.
    pub fn broke_off(&mut self, error: &anyhow::Error) {
        if error.is::<CheckFailed>() {
            return;
        }
        self.failed += 1;
        println!("{}  {} {error:#}", self.elapsed(), self.paint("1;31", "FAILED    "));
    }

    /// Text as it is, for logs.
    pub fn quote(&self, title: &str, text: &str) {
        println!("\n---- {title} ----\n{}", text.trim_end());
    }

    fn elapsed(&self) -> String {
        format!("{:8.1}s", self.start.elapsed().as_secs_f64())
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Debug output without the quotes of a bare text.
fn plain(value: &impl Debug) -> String {
    let text = format!("{value:?}");
    match text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(inner) if !inner.contains('"') => inner.to_owned(),
        _ => text,
    }
}
