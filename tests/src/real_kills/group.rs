//! A worker with all processes it starts: one process group, killed as one, and waited for until nothing of it is left.
//!
//! ```text
//!   spawn ──▶ running ──freeze──▶ frozen ──thaw──▶ running
//!                └──────────────────┴── kill ──▶ every member reaped
//! ```
//!
//! The supervisor must be the subreaper of what its workers leave behind ([`become_reaper`]): a `qemu-img` whose worker
//! is gone then ends here, and `kill` returns when the last of them has let go of its files.

#![allow(clippy::disallowed_methods, reason = "it drives real processes")]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, set_child_subreaper, waitpgid};

/// What processes of dead workers leave behind becomes this process's to reap.
pub fn become_reaper() -> io::Result<()> {
    set_child_subreaper(Some(rustix::process::getpid())).map_err(io::Error::from)
}

#[derive(Debug)]
pub struct Group {
    leader: Pid,
    orders: ChildStdin,
    answers: ChildStdout,
    unread: Vec<u8>,
    is_gone: bool,
}

/// What a worker said, or did not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    Line(String),
    /// Not within the time.
    Nothing,
    /// It has ended by itself.
    Ended,
}

impl Group {
    /// Starts the program as the leader of a group of its own. Its standard error goes to `log`.
    pub fn spawn(program: &Path, arguments: &[&Path], log: File) -> io::Result<Group> {
        let mut child = Command::new(program)
            .args(arguments)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (orders, answers) = pipes.ok_or_else(|| io::Error::other("a worker without pipes"))?;
        Ok(Group { leader: Pid::from_child(&child), orders, answers, unread: Vec::new(), is_gone: false })
    }

    /// One line to the worker. That it has ended shows when it is listened to.
    pub fn say(&mut self, line: &str) {
        let _ = self.orders.write_all(format!("{line}\n").as_bytes());
    }

    /// The next line, waited for until then.
    pub fn hear(&mut self, until: Instant) -> io::Result<Heard> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                return Ok(Heard::Line(String::from_utf8_lossy(&line[..end]).into_owned()));
            }
            let left = until.saturating_duration_since(Instant::now());
            match poll(
                &mut [PollFd::from_borrowed_fd(self.answers.as_fd(), PollFlags::IN)],
                Some(&timespec(left)),
            ) {
                Ok(0) => return Ok(Heard::Nothing),
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            let mut buffer = [0; 4096];
            match self.answers.read(&mut buffer)? {
                0 => return Ok(Heard::Ended),
                read => self.unread.extend_from_slice(&buffer[..read]),
            }
        }
    }

    /// Stops the group where it stands. Afterwards the worker runs no more; for one at rest that is all there is.
    pub fn freeze(&self) -> io::Result<()> {
        for _ in 0..100 {
            if self.try_freeze(Duration::from_millis(100))? {
                return Ok(());
            }
            self.thaw()?;
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(io::Error::other("the worker does not stop"))
    }

    /// The same, for one that is at work. False if it did not stop in time: a worker that is just starting a tool
    /// waits for the new process, which may be stopped already.
    pub fn try_freeze(&self, within: Duration) -> io::Result<bool> {
        kill_process_group(self.leader, Signal::STOP)?;
        let deadline = Instant::now() + within;
        loop {
            match rustix::process::waitpid(Some(self.leader), WaitOptions::UNTRACED | WaitOptions::NOHANG)? {
                Some((_, status)) if status.stopped() => return Ok(true),
                Some(_) => return Err(io::Error::other("the worker ended by itself")),
                None if Instant::now() > deadline => return Ok(false),
                None => std::thread::sleep(Duration::from_micros(200)),
            }
        }
    }

    pub fn thaw(&self) -> io::Result<()> {
        kill_process_group(self.leader, Signal::CONT).map_err(io::Error::from)
    }

    /// The arguments of the tools that run for the worker.
    pub fn tools(&self) -> Vec<Vec<String>> {
        let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let leader = self.leader.as_raw_nonzero().get();
        pids.filter(|pid| *pid != leader && group_of(*pid) == Some(leader)).filter_map(arguments_of).collect()
    }

    /// SIGKILL to every member. Afterwards none is left, and with them their locks and open files.
    pub fn kill(mut self) -> io::Result<()> {
        self.end()
    }

    fn end(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.is_gone, true) {
            return Ok(());
        }
        loop {
            // Again in each round: a worker that was about to start one more tool did so before it died.
            match kill_process_group(self.leader, Signal::KILL) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
            match waitpgid(self.leader, WaitOptions::empty()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::CHILD) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("the group of process {} may still run: {error}", self.leader.as_raw_nonzero());
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs() as i64, tv_nsec: duration.subsec_nanos().into() }
}

/// The process's group; none if it is gone.
fn group_of(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before may hold anything; what follows its last bracket is: state, parent, group.
    stat.rsplit_once(')')?.1.split_whitespace().nth(2)?.parse().ok()
}

fn arguments_of(pid: i32) -> Option<Vec<String>> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let parts = line.split(|byte| *byte == 0).filter(|part| !part.is_empty());
    let arguments: Vec<String> = parts.map(|part| String::from_utf8_lossy(part).into_owned()).collect();
    (!arguments.is_empty()).then_some(arguments)
}
