//! Running the binary, and the one place that knows how.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub const DEADLINE: Duration = Duration::from_secs(20);

/// The command with nothing from the environment or the machine's own configuration in it.
pub fn holdfast(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HOLDFAST_")) {
        command.env_remove(name);
    }
    command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC").env("HOLDFAST_CONFIG", "/dev/null");
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs it to its end. What it prints fits into a pipe.
pub fn run(command: &mut Command) -> Ran {
    let mut running = Running(command.spawn().expect("the binary can be run"));
    let mut out = String::new();
    let mut pipe = running.0.stdout.take().expect("standard output is a pipe");
    let (code, err) = running.ended();
    pipe.read_to_string(&mut out).expect("the command prints UTF-8");
    Ran { code: code.expect("the command ends by itself"), out, err }
}

pub fn ask(socket: &Path, arguments: &[&str]) -> Ran {
    run(holdfast(arguments).arg("--socket").arg(socket))
}

#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// Waits, with a deadline, until this holds.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A process that does not outlive its test.
pub struct Running(pub Child);

impl Running {
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.0.id().to_string()).status();
        assert!(sent.expect("kill can be run").success());
    }

    /// Its exit code and what it wrote to standard error, once it has ended.
    pub fn ended(mut self) -> (Option<i32>, String) {
        let mut status = None;
        until("the process ends", || {
            status = self.0.try_wait().expect("it can be waited for");
            status.is_some()
        });
        let mut err = String::new();
        let pipe = self.0.stderr.as_mut().expect("standard error is a pipe");
        pipe.read_to_string(&mut err).expect("it logs UTF-8");
        (status.and_then(|status| status.code()), err)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
