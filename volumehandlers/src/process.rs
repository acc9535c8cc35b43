//! One process per step ([003] J1): started without a shell, watched, and always reaped.
//!
//! ```text
//!   spawn ──▶ wait on its pidfd ──▶ ended: status, stdout, stderr's tail
//!                 │  every 100 ms: cancelled? over the limit?
//!                 └──────────────▶ SIGKILL ──▶ reaped ──▶ Cancelled | TimedOut
//! ```
//!
//! Killed at once and without asking: the tool has no cleaner way to end in the middle, and what it leaves is
//! what a power cut leaves, which every caller must mend anyway.
//!
//! If this process itself dies, the tool runs on to its end; the image's lock keeps the next node off it until
//! then.

#![allow(clippy::disallowed_methods, reason = "part of the seams to tools: it watches a real process")]

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::context::HandlerCx;
use crate::error::ToolError;

/// More than the longest `info` of an image with thousands of snapshots; what is beyond is read and dropped.
const STDOUT_LIMIT_BYTES: usize = 16 << 20;
/// What is kept of an error text, from its end.
const STDERR_LIMIT_BYTES: usize = 2 << 10;
const LOOK_UP: Duration = Duration::from_millis(100);

/// A process that ran to its end, whatever its status.
#[derive(Debug)]
pub(crate) struct Ended {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

/// Runs the program to its end. Percentages it prints (`(12.34/100%)`) go to `cx`.
///
/// After any return the process is gone. Killed if `cx` is cancelled or `limit` is over.
pub(crate) fn run(
    program: &Path,
    arguments: &[OsString],
    limit: Duration,
    cx: &HandlerCx<'_>,
) -> Result<Ended, ToolError> {
    run_with_input(program, arguments, b"", limit, cx)
}

/// The same, with something to read: no more than a pipe holds at once (64 KiB), so that nobody waits for anybody.
pub(crate) fn run_with_input(
    program: &Path,
    arguments: &[OsString],
    input: &[u8],
    limit: Duration,
    cx: &HandlerCx<'_>,
) -> Result<Ended, ToolError> {
    if cx.cancelled() {
        return Err(ToolError::Cancelled);
    }
    let mut child = spawn(program, arguments, input)?;
    let percent = AtomicU8::new(0);
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        let stdout = scope.spawn(|| drain(stdout, |bytes| note_percent(bytes, &percent)).kept_front());
        let stderr = scope.spawn(|| drain(stderr, |_| ()).kept_tail());
        let waited = wait(&mut child, limit, cx, &percent);
        if waited.is_err() {
            end_now(&mut child);
        }
        let stdout = stdout.join().unwrap_or_default();
        let stderr = stderr.join().unwrap_or_default();
        Ok(Ended { status: waited?, stdout, stderr })
    })
    .map_err(|error| match error {
        Stopped::Tool(error) => error,
        Stopped::Io(source) => ToolError::CannotRun { program: program.to_path_buf(), source },
    })
}

enum Stopped {
    Tool(ToolError),
    Io(std::io::Error),
}

fn spawn(program: &Path, arguments: &[OsString], input: &[u8]) -> Result<Child, ToolError> {
    let mut child = Command::new(program)
        .args(arguments)
        // Error texts are looked at, so they must not be translated.
        .env("LC_ALL", "C")
        .stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => ToolError::NotInstalled { program: program.to_path_buf() },
            _ => ToolError::CannotRun { program: program.to_path_buf(), source },
        })?;
    if let Some(mut stdin) = child.stdin.take() {
        // A process that ends without reading says why by itself.
        let _ = stdin.write_all(input);
    }
    Ok(child)
}

fn wait(
    child: &mut Child,
    limit: Duration,
    cx: &HandlerCx<'_>,
    percent: &AtomicU8,
) -> Result<ExitStatus, Stopped> {
    let limit = cx.step_limit().unwrap_or(limit);
    let started = Instant::now();
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).map_err(|e| Stopped::Io(e.into()))?;
    let mut told = 0;
    loop {
        let readable = PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN);
        match poll(&mut [readable], Some(&until_look_up(limit.saturating_sub(started.elapsed())))) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return child.wait().map_err(Stopped::Io),
            Err(error) => return Err(Stopped::Io(error.into())),
        }
        let now = percent.load(Ordering::Relaxed);
        if now > told {
            told = now;
            cx.progress(now);
        }
        if cx.cancelled() {
            return Err(Stopped::Tool(ToolError::Cancelled));
        }
        if started.elapsed() >= limit {
            return Err(Stopped::Tool(ToolError::TimedOut { limit }));
        }
    }
}

/// The next look-up, or the limit if that comes first.
fn until_look_up(left: Duration) -> Timespec {
    let pause = left.min(LOOK_UP);
    Timespec { tv_sec: 0, tv_nsec: pause.subsec_nanos().into() }
}

/// Errors mean that it has ended already.
fn end_now(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

#[derive(Default)]
struct Drained {
    front: Vec<u8>,
    tail: Vec<u8>,
}

impl Drained {
    fn kept_front(self) -> Vec<u8> {
        self.front
    }

    fn kept_tail(self) -> String {
        String::from_utf8_lossy(&self.tail).trim().to_owned()
    }
}

/// Reads to the end, so that the process never waits for us, and keeps no more than the limits.
fn drain(pipe: Option<impl Read>, mut seen: impl FnMut(&[u8])) -> Drained {
    let mut drained = Drained::default();
    let Some(mut pipe) = pipe else { return drained };
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = pipe.read(&mut buffer) {
        let bytes = &buffer[..read];
        seen(bytes);
        let room = STDOUT_LIMIT_BYTES.saturating_sub(drained.front.len());
        drained.front.extend_from_slice(&bytes[..read.min(room)]);
        drained.tail.extend_from_slice(bytes);
        let surplus = drained.tail.len().saturating_sub(STDERR_LIMIT_BYTES);
        drained.tail.drain(..surplus);
    }
    drained
}

/// Finds the last `(<number>/100%)` in what was printed. One that is cut in two is missed: the next comes soon.
fn note_percent(bytes: &[u8], percent: &AtomicU8) {
    let text = String::from_utf8_lossy(bytes);
    let Some((before, _)) = text.rsplit_once("/100%)") else { return };
    let Some((_, number)) = before.rsplit_once('(') else { return };
    if let Ok(number) = number.trim().parse::<f64>() {
        percent.store(number.clamp(0.0, 100.0) as u8, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration, cx: &HandlerCx<'_>) -> Result<Ended, ToolError> {
        run(Path::new("/bin/sh"), &["-c".into(), script.into()], limit, cx)
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn output_and_status_come_back() {
        let ended = shell("echo out; echo bad >&2; exit 3", MINUTE, &HandlerCx::unattended()).expect("ran");
        assert_eq!((ended.stdout.as_slice(), ended.stderr.as_str()), (b"out\n".as_slice(), "bad"));
        assert_eq!(ended.status.code(), Some(3));
    }

    #[test]
    fn input_is_read_to_its_end() {
        let (program, minute) = (Path::new("/bin/cat"), MINUTE);
        let ended = run_with_input(program, &[], b"a program", minute, &HandlerCx::unattended());
        assert_eq!(ended.expect("ran").stdout, b"a program");
        let deaf =
            run_with_input(Path::new("/bin/true"), &[], &[b'x'; 60_000], minute, &HandlerCx::unattended());
        assert!(deaf.expect("ran").status.success());
    }

    #[test]
    fn much_output_neither_blocks_nor_piles_up() {
        let script = "yes | head -c 300000 >&2; echo the end >&2";
        let ended = shell(script, MINUTE, &HandlerCx::unattended()).expect("ran");
        assert!(ended.stderr.len() <= STDERR_LIMIT_BYTES && ended.stderr.ends_with("the end"));
    }

    #[test]
    fn a_cancelled_and_an_overdue_process_are_gone_afterwards() {
        let started = Instant::now();
        let limit = Duration::from_millis(150);
        let overdue = shell("exec sleep 600", limit, &HandlerCx::unattended());
        assert!(matches!(overdue, Err(ToolError::TimedOut { .. })), "{overdue:?}");
        let cancel = || started.elapsed() > Duration::from_millis(400);
        let cancelled = shell("exec sleep 600", MINUTE, &HandlerCx::new(&cancel, &|_| ()));
        assert!(matches!(cancelled, Err(ToolError::Cancelled)), "{cancelled:?}");
        assert!(started.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn progress_is_told_once_for_each_step_forward() {
        let told = std::sync::Mutex::new(Vec::new());
        let tell = |percent| told.lock().expect("not poisoned").push(percent);
        let script = "for p in 10 10 50; do echo \"($p.00/100%)\"; sleep 0.4; done";
        shell(script, MINUTE, &HandlerCx::new(&|| false, &tell)).expect("ran");
        assert_eq!(*told.lock().expect("not poisoned"), [10, 50]);
    }

    #[test]
    fn a_missing_program_is_named() {
        let missing = run(Path::new("/no/such/tool"), &[], MINUTE, &HandlerCx::unattended());
        assert_eq!(missing.expect_err("missing").to_string(), "the program /no/such/tool is not installed");
    }

    #[test]
    fn percentages_are_found_in_what_is_printed() {
        let percent = AtomicU8::new(0);
        note_percent(b"    (3.12/100%)\r    (41.70/100%)\r", &percent);
        assert_eq!(percent.load(Ordering::Relaxed), 41);
    }
}
