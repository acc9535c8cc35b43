//! Plays a scenario against a controller, and tells how it went as a timeline.
//!
//! ```text
//!   say ────▶ a line               push, edit ─▶ PUT the configuration
//!   wait ───▶ sleep                expect ─────▶ poll the newest reports until they fit (within), and go on fitting (stays)
//! ```
//!
//! A step passes or fails with a reason; a `say` is a caption and counts as neither. The story ends at the first failure, unless it is told to keep going:
//! what comes after was written for what did not happen. The player talks to the controller over HTTP only, so it
//! plays the same against one in another process.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::Context;
use holdfast_agents::wire::config::EdgeDevConfig;
use uuid::Uuid;

use super::admin::Admin;
use super::scenario::{Edit, Expect, Scenario, Step, Where};
use super::{ControllerCore, DeviceConfig, Server, ServerSettings};

const POLL_PAUSE: Duration = Duration::from_millis(100);

/// How a story went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub passed: usize,
    pub failed: usize,
    /// After a failure that ended the story.
    pub not_played: usize,
}

impl Tally {
    pub fn all_passed(&self) -> bool {
        self.failed == 0
    }

    /// The last line of a play.
    pub fn in_words(&self) -> String {
        let rest =
            if self.not_played == 0 { String::new() } else { format!(", {} not played", self.not_played) };
        format!("play: {} steps passed, {} failed{rest}", self.passed, self.failed)
    }
}

/// A story on its way.
struct Play<'a> {
    scenario: &'a Scenario,
    admin: Admin,
    timeline: &'a mut dyn Write,
    started: Instant,
}

/// Plays the scenario, against `controller` if one is named, else against the scenario's own choice. Writes the
/// timeline, with the tally as its last line. An error means that it could not be played at all.
pub fn play(
    scenario: &Scenario,
    controller: Option<&str>,
    keep_going: bool,
    timeline: &mut dyn Write,
) -> anyhow::Result<Tally> {
    let (url, own) = find_controller(scenario, controller)?;
    let play = Play { scenario, admin: Admin::new(&url), timeline, started: Instant::now() };
    let tally = play.run(own.is_some(), keep_going)?;
    if let Some(own) = own {
        own.stop();
    }
    Ok(tally)
}

/// The address to talk to, and the controller itself if it is the story's own.
fn find_controller(
    scenario: &Scenario,
    controller: Option<&str>,
) -> anyhow::Result<(String, Option<Server>)> {
    match (controller, &scenario.controller) {
        (Some(url), _) => Ok((url.to_owned(), None)),
        (None, Where::At(url)) => Ok((url.clone(), None)),
        (None, Where::Start(start)) => {
            let mut settings = ServerSettings {
                state: start.state.clone(),
                files: start.files.clone(),
                ..Default::default()
            };
            if let Some(listen) = &start.listen {
                settings.listen = listen.clone();
            }
            let server = Server::start(&settings).context("cannot start the scenario's controller")?;
            Ok((server.url(), Some(server)))
        }
    }
}

impl Play<'_> {
    fn run(mut self, own_controller: bool, keep_going: bool) -> anyhow::Result<Tally> {
        let title = &self.scenario.title;
        writeln!(self.timeline, "play: {title}")?;
        if own_controller {
            let (url, device) = (self.admin.url(), self.scenario.device);
            writeln!(self.timeline, "controller at {url}, for a node with --device {device}")?;
        }
        let mut tally = Tally::default();
        let mut number = 0;
        for step in &self.scenario.steps {
            let over = tally.failed > 0 && !keep_going;
            match step {
                Step::Say(_) if over => {}
                Step::Say(text) => writeln!(self.timeline, "           — {text}")?,
                _ if over => tally.not_played += 1,
                _ => {
                    number += 1;
                    let passed = self.step(number, step)?;
                    tally.passed += usize::from(passed);
                    tally.failed += usize::from(!passed);
                }
            }
        }
        writeln!(self.timeline, "{}", tally.in_words())?;
        Ok(tally)
    }

    /// Plays one step and tells of it; false when it failed.
    fn step(&mut self, number: usize, step: &Step) -> anyhow::Result<bool> {
        let words = in_words(step);
        let outcome = self.perform(step);
        let at_seconds = self.started.elapsed().as_secs_f64();
        let (mark, reason) = match &outcome {
            Ok(()) => ("ok  ", String::new()),
            Err(error) => ("FAIL", format!("\n{:26}{error:#}", "")),
        };
        writeln!(self.timeline, "[{at_seconds:7.1}s] {mark} {number:3}. {words}{reason}")?;
        self.timeline.flush()?;
        Ok(outcome.is_ok())
    }

    fn perform(&self, step: &Step) -> anyhow::Result<()> {
        match step {
            Step::Say(_) => Ok(()),
            Step::Wait(pause) => {
                std::thread::sleep(*pause);
                Ok(())
            }
            Step::Push(config) => self.push(config),
            Step::Edit(edits) => self.edit(edits),
            Step::Expect(expect) => self.expect(expect),
        }
    }

    fn device(&self) -> Uuid {
        self.scenario.device
    }

    fn push(&self, config: &EdgeDevConfig) -> anyhow::Result<()> {
        self.admin.set_config(self.device(), config)
    }

    /// Several edits are one push: the node sees all of them or none.
    fn edit(&self, edits: &[Edit]) -> anyhow::Result<()> {
        let current = self.admin.config(self.device())?;
        let mut config = current.map_or_else(|| DeviceConfig::new(self.device()), DeviceConfig::from);
        for edit in edits {
            edit.apply(&mut config, &self.scenario.names, self.admin.url())?;
        }
        self.push(config.message())
    }

    fn expect(&self, expect: &Expect) -> anyhow::Result<()> {
        let deadline = Instant::now() + expect.within;
        while let Err(reason) = self.look(expect) {
            if Instant::now() >= deadline {
                return Err(reason.context(format!("not within {:?}", expect.within)));
            }
            std::thread::sleep(POLL_PAUSE);
        }
        let until = Instant::now() + expect.stays;
        while Instant::now() < until {
            std::thread::sleep(POLL_PAUSE);
            self.look(expect).context("it did not stay so")?;
        }
        Ok(())
    }

    /// Compares once. The reports go through a core of the player's own, which knows how to look things up.
    fn look(&self, expect: &Expect) -> anyhow::Result<()> {
        let mut core = ControllerCore::new();
        core.set_config(self.device(), self.admin.config(self.device())?.unwrap_or_default());
        for report in self.admin.latest(self.device())? {
            core.record_info(self.device(), report)?;
        }
        let verdict = expect.check(core.device(self.device())?, &self.scenario.names);
        verdict.map_err(|mismatch| anyhow::anyhow!("{mismatch}"))
    }
}

fn in_words(step: &Step) -> String {
    match step {
        Step::Say(text) => text.clone(),
        Step::Push(config) => format!("push: {} apps, {} volumes", config.apps.len(), config.volumes.len()),
        Step::Edit(edits) => {
            format!("edit: {}", edits.iter().map(Edit::in_words).collect::<Vec<_>>().join(", "))
        }
        Step::Expect(expect) => format!("expect {}", expect.in_words()),
        Step::Wait(pause) => format!("wait {pause:?}"),
    }
}
