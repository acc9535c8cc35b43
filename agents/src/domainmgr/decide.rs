//! What is to be done about one domain: a plain function of what is wanted and what is.
//!
//! ```text
//!                start            QEMU answers           the process ends on its own
//!  NeverStarted ──────▶ Booting ─────────────▶ Running ───────────────────────────────▶ Halted or Crashed
//!       ▲                  │ dies                │ activate: false                        │ after a delay
//!       │                  ▼                     ▼                                        ▼
//!       │               Failed ── delay ──▶   Halting ── process gone ──▶ Halted       Booting
//!       └──── (config gone, process gone, traces removed: forgotten)
//! ```
//!
//! A domain whose traces cannot be read at the start is `Unknown` until they can; it waits alone.
//!
//! Nothing is started or stopped before the inventory of the start is in, and one job runs per domain at a time.

use holdfast_types::{DomainConfig, DomainState, ErrorReport};

use super::vmm::Domain;

/// What is known of the process.
#[derive(Debug, Clone, PartialEq)]
pub enum Process {
    /// There is none, and how the last one ended.
    Gone(End),
    Alive(Domain),
    /// Whether there is one is not known: nothing is started, stopped or forgotten.
    Unknown,
}

/// How a domain came to have no process.
#[derive(Debug, Clone, PartialEq)]
pub enum End {
    NeverStarted,
    /// Ended cleanly: told to, or by the guest itself.
    Halted,
    /// Killed or crashed, without having been told to.
    Crashed,
    Failed(ErrorReport),
}

/// The job that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    Starting,
    Stopping,
    Forgetting,
}

/// One domain, as far as a decision depends on it.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts<'a> {
    pub wanted: Option<&'a DomainConfig>,
    /// zedmanager has said all it wants: a domain without a config is nobody's.
    pub wishes_known: bool,
    pub process: &'a Process,
    pub doing: Option<Doing>,
    /// A start has to wait for its timer.
    pub resting: bool,
    /// The node may change nothing: guests run, and those that are to run are started; none is stopped.
    pub read_only: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Wait,
    Start,
    Stop,
    Forget,
}

pub fn decide(facts: &Facts<'_>) -> Decision {
    if facts.doing.is_some() {
        return Decision::Wait;
    }
    match (facts.wanted, facts.process) {
        (_, Process::Unknown) => Decision::Wait,
        (Some(wanted), Process::Gone(_)) if wanted.activate && !facts.resting => Decision::Start,
        _ if facts.read_only => Decision::Wait,
        (Some(wanted), Process::Alive(_)) if !wanted.activate => Decision::Stop,
        (Some(_), _) => Decision::Wait,
        (None, _) if !facts.wishes_known => Decision::Wait,
        (None, Process::Alive(_)) => Decision::Stop,
        (None, Process::Gone(_)) => Decision::Forget,
    }
}

/// The state to report.
pub fn state(process: &Process, doing: Option<Doing>) -> DomainState {
    match (doing, process) {
        (Some(Doing::Starting), _) => DomainState::Booting,
        (Some(Doing::Stopping), _) => DomainState::Halting,
        (_, Process::Alive(_)) => DomainState::Running,
        (_, Process::Unknown) => DomainState::Unknown,
        (_, Process::Gone(End::NeverStarted)) => DomainState::NeverStarted,
        (_, Process::Gone(End::Halted)) => DomainState::Halted,
        (_, Process::Gone(End::Crashed)) => DomainState::Crashed,
        (_, Process::Gone(End::Failed(_))) => DomainState::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_types::{AppId, VmConfig};
    use uuid::Uuid;

    fn wanted(activate: bool) -> DomainConfig {
        DomainConfig {
            app: AppId(Uuid::nil()),
            display_name: String::new(),
            number: 1,
            activate,
            resources: VmConfig::default(),
            disks: Vec::new(),
        }
    }

    /// Every combination of what is wanted, known, under way and resting.
    #[test]
    fn each_combination_has_its_decision() {
        let alive = Process::Alive(Domain { app: Uuid::nil(), pid: 1, started_ticks: 1 });
        let ends = [End::NeverStarted, End::Halted, End::Crashed];
        let (up, down) = (wanted(true), wanted(false));
        for wishes_known in [true, false] {
            for doing in [None, Some(Doing::Starting), Some(Doing::Stopping), Some(Doing::Forgetting)] {
                for (resting, read_only) in [(true, true), (true, false), (false, true), (false, false)] {
                    let decided = |wanted: Option<&DomainConfig>, process: &Process| {
                        decide(&Facts { wanted, wishes_known, process, doing, resting, read_only })
                    };
                    let free = |decision| if doing.is_some() { Decision::Wait } else { decision };
                    let allowed = |decision| if read_only { Decision::Wait } else { free(decision) };
                    let unwanted = |decision| if wishes_known { allowed(decision) } else { Decision::Wait };
                    assert_eq!(decided(Some(&up), &alive), Decision::Wait);
                    assert_eq!(decided(Some(&down), &alive), allowed(Decision::Stop));
                    assert_eq!(decided(None, &alive), unwanted(Decision::Stop));
                    for wanted in [Some(&up), Some(&down), None] {
                        assert_eq!(decided(wanted, &Process::Unknown), Decision::Wait);
                    }
                    for end in &ends {
                        let gone = Process::Gone(end.clone());
                        let start = if resting { Decision::Wait } else { Decision::Start };
                        assert_eq!(decided(Some(&up), &gone), free(start));
                        assert_eq!(decided(Some(&down), &gone), Decision::Wait);
                        assert_eq!(decided(None, &gone), unwanted(Decision::Forget));
                    }
                }
            }
        }
    }

    #[test]
    fn only_without_a_process_is_a_domain_down() {
        let alive = Process::Alive(Domain { app: Uuid::nil(), pid: 1, started_ticks: 1 });
        for doing in [None, Some(Doing::Stopping), Some(Doing::Starting)] {
            assert!(!state(&alive, doing).is_down());
        }
        assert!(!state(&Process::Gone(End::Halted), Some(Doing::Starting)).is_down());
        assert!(state(&Process::Gone(End::Crashed), None).is_down());
        assert!(!state(&Process::Unknown, None).is_down());
    }
}
