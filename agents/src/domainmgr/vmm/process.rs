//! Processes known for certain: a pid alone may be another process's by now.
//!
//! A hypervisor's process is identified by the command line it carries (its own pid file's path is in it), and remembered
//! by pid and start time. Every act on it goes through a pidfd that was opened first and checked afterwards, so that a
//! signal never hits a stranger. A zombie counts as gone: its memory, files and locks are released.

#![allow(clippy::disallowed_methods, reason = "part of the Vmm seam: it reads /proc and waits")]

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::Wait;

/// How often a wait looks whether it has been cancelled.
const SLICE: Duration = Duration::from_millis(50);

/// A handle on one process, dead or alive, that can never come to mean another.
#[derive(Debug)]
pub(super) struct Process {
    pidfd: OwnedFd,
}

impl Process {
    /// The process with this pid and start time; `None` if there is none (any more).
    pub(super) fn open(pid: u32, started_ticks: u64) -> io::Result<Option<Self>> {
        let Some(process) = Self::open_any(pid)? else { return Ok(None) };
        Ok((start_ticks(pid) == Some(started_ticks)).then_some(process))
    }

    fn open_any(pid: u32) -> io::Result<Option<Self>> {
        let Some(raw) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        match pidfd_open(raw, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Some(Self { pidfd })),
            // EINVAL: the number is now a thread's of another process.
            Err(Errno::SRCH | Errno::INVAL) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    pub(super) fn is_gone(&self) -> io::Result<bool> {
        self.gone_within(Duration::ZERO)
    }

    /// Waits; `false` means time is up or the wait was cancelled.
    pub(super) fn wait_gone(&self, wait: &Wait<'_>) -> io::Result<bool> {
        let end = Instant::now() + wait.at_most;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if self.gone_within(left.min(SLICE))? {
                return Ok(true);
            }
            if left.is_zero() || (wait.cancelled)() {
                return Ok(false);
            }
        }
    }

    /// Orders SIGKILL; no error if the process is gone.
    pub(super) fn kill(&self) -> io::Result<()> {
        match pidfd_send_signal(&self.pidfd, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// A descriptor that polls readable once the process is gone.
    pub(super) fn into_pidfd(self) -> OwnedFd {
        self.pidfd
    }

    fn gone_within(&self, at_most: Duration) -> io::Result<bool> {
        let mut fds = [PollFd::from_borrowed_fd(self.pidfd.as_fd(), PollFlags::IN)];
        let timeout = Timespec::try_from(at_most).expect("a slice of a wait fits");
        match poll(&mut fds, Some(&timeout)) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::INTR) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// The start time of the process with this pid, if it is alive and carries `argument` followed by `value` on its command line.
pub(super) fn identify(pid: u32, argument: &str, value: &Path) -> Option<u64> {
    let before = start_ticks(pid)?;
    let command_line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<&[u8]> = command_line.split(|byte| *byte == 0).collect();
    let value = value.as_os_str().as_encoded_bytes();
    let carries = words.windows(2).any(|pair| pair[0] == argument.as_bytes() && pair[1] == value);
    // The same start time before and after: both reads were of one process.
    (carries && start_ticks(pid) == Some(before)).then_some(before)
}

/// Every living process that carries `argument` followed by `value`, with its start time.
pub(super) fn find_all(argument: &str, value: &Path) -> io::Result<Vec<(u32, u64)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Some(started_ticks) = identify(pid, argument, value) {
            found.push((pid, started_ticks));
        }
    }
    Ok(found)
}

/// Field 22 of `/proc/PID/stat`, in clock ticks since boot. The command's name (field 2) may hold blanks and brackets.
fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = &stat[stat.rfind(')')? + 1..];
    after_name.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_process_is_known_by_pid_and_start_time_and_a_zombie_is_gone() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep runs");
        let ticks = start_ticks(child.id()).expect("it is alive");
        // For a moment after its start a process has no command line of its own yet.
        let end = Instant::now() + Duration::from_secs(5);
        while identify(child.id(), "sleep", Path::new("60")).is_none() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(
            Process::open(child.id(), ticks + 1).expect("opens").is_none(),
            "another start time is another process"
        );

        let process = Process::open(child.id(), ticks).expect("opens").expect("it is alive");
        assert!(!process.is_gone().expect("polls"));
        assert_eq!(identify(child.id(), "sleep", Path::new("60")), Some(ticks));
        assert_eq!(identify(child.id(), "sleep", Path::new("6")), None);
        assert!(find_all("sleep", Path::new("60")).expect("scans").contains(&(child.id(), ticks)));

        process.kill().expect("kills");
        assert!(
            process.wait_gone(&Wait::at_most(Duration::from_secs(5))).expect("polls"),
            "not reaped, yet gone"
        );
        process.kill().expect("killing what is gone is no error");
        child.wait().expect("reaps");
        assert!(Process::open(child.id(), ticks).expect("opens").is_none());
    }

    #[test]
    fn a_wait_ends_at_its_deadline_or_when_cancelled() {
        let mut child = Command::new("sleep").arg("61").spawn().expect("sleep runs");
        let process = Process::open_any(child.id()).expect("opens").expect("it is alive");
        assert!(!process.wait_gone(&Wait::at_most(Duration::from_millis(20))).expect("polls"));
        let cancelled = Wait { at_most: Duration::from_secs(60), cancelled: &|| true };
        assert!(!process.wait_gone(&cancelled).expect("polls"));
        child.kill().expect("kills");
        child.wait().expect("reaps");
    }
}
