//! The node as a process: `holdfast node`, started, stopped, killed, and asked with `holdfast` itself.
//!
//! It leads a process group of its own, so that a Ctrl-C at the terminal reaches the demonstration only. Guests are no
//! children of it; [`processes_of`] finds them by the persist directory on their command line.

use std::fs::{self, File, OpenOptions};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

const ANSWER_WITHIN: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What a node is started with.
#[derive(Debug, Clone)]
pub struct NodeSettings {
    pub holdfast: PathBuf,
    pub persist: PathBuf,
    pub controller: String,
    pub device: String,
    pub socket: PathBuf,
    /// Where the node's log and its events go, one behind the other for all its starts.
    pub log: PathBuf,
    pub events: PathBuf,
}

/// A running node, and the `holdfast events` that listens to it.
#[derive(Debug)]
pub struct NodeProcess {
    child: Child,
    listener: Option<Child>,
}

impl NodeSettings {
    /// Starts the node. It is not ready yet when this returns.
    pub fn start(&self) -> anyhow::Result<NodeProcess> {
        let child = self
            .command()
            .args(["node", "--accel", "auto", "--poll-interval", "200ms", "--guest-shutdown", "15s"])
            .args(["--controller", &self.controller, "--device", &self.device])
            .arg("--persist")
            .arg(&self.persist)
            .stdout(append(&self.log)?)
            .stderr(append(&self.log)?)
            .spawn()
            .with_context(|| format!("cannot run {}", self.holdfast.display()))?;
        Ok(NodeProcess { child, listener: None })
    }

    /// Listens to the node's events from now on.
    pub fn listen(&self, node: &mut NodeProcess) -> anyhow::Result<()> {
        let mut command = self.command();
        command.args(["--json", "events", "--recent", "100"]);
        let listener = command.stdout(append(&self.events)?).stderr(Stdio::null()).spawn();
        node.listener = Some(listener.context("cannot listen to the node's events")?);
        Ok(())
    }

    /// What `holdfast <words>` prints. An error if it fails, or does not end in time.
    pub fn ask(&self, words: &[&str]) -> anyhow::Result<String> {
        let mut child = self.command().args(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        if wait(&mut child, ANSWER_WITHIN)?.is_none() {
            child.kill()?;
            bail!("`holdfast {}` did not end within {ANSWER_WITHIN:?}", words.join(" "));
        }
        // Answers are short: they fit into the pipe, so nobody had to read meanwhile.
        let output = child.wait_with_output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("`holdfast {}` failed ({}): {}", words.join(" "), output.status, said.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Nothing of this machine's configuration or environment has a say.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.holdfast);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("HOLDFAST_") {
                command.env_remove(name);
            }
        }
        command.args(["--config", "/dev/null", "--socket"]).arg(&self.socket);
        command.stdin(Stdio::null()).process_group(0);
        command
    }
}

impl NodeProcess {
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// SIGKILL: no code of the node runs after this. Returns when it is gone.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        let ended = self.child.wait()?;
        self.stop_listening();
        match ended.signal() {
            Some(_) => Ok(()),
            None => bail!("the node had ended by itself: {ended}"),
        }
    }

    /// SIGTERM, as a service manager stops it. Returns how it ended.
    pub fn terminate(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).context("cannot send SIGTERM to the node")?;
        let ended = wait(&mut self.child, within)?;
        self.stop_listening();
        ended.with_context(|| format!("the node did not end within {within:?} of SIGTERM"))
    }

    fn stop_listening(&mut self) {
        if let Some(mut listener) = self.listener.take() {
            // It ends by itself with the node; whatever happens first, it is reaped.
            let _ = wait(&mut listener, Duration::from_secs(1));
            let _ = listener.kill();
            let _ = listener.wait();
        }
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.stop_listening();
    }
}

/// Waits for a child; none when time is up.
fn wait(child: &mut Child, within: Duration) -> anyhow::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn append(path: &Path) -> anyhow::Result<File> {
    let opened = OpenOptions::new().create(true).append(true).open(path);
    opened.with_context(|| format!("cannot write {}", path.display()))
}

/// Every living process but this one that has `folder` on its command line: pid and program.
pub fn processes_of(folder: &Path) -> Vec<(u32, String)> {
    let folder = folder.to_string_lossy().into_owned();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let found = entries.flatten().filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        // A zombie's command line is empty: it is found no more.
        let command_line = fs::read(entry.path().join("cmdline")).ok()?;
        let text = String::from_utf8_lossy(&command_line);
        let ours = pid != std::process::id() && text.contains(&folder);
        let program = Path::new(text.split('\0').next()?).file_name()?.to_string_lossy().into_owned();
        ours.then_some((pid, program))
    });
    found.collect()
}

/// Ends every process of this folder. Afterwards there is none, as far as can be seen.
pub fn end_processes_of(folder: &Path) {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let left = processes_of(folder);
        if left.is_empty() || Instant::now() >= deadline {
            return;
        }
        for (pid, _) in left {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        std::thread::sleep(LOOK_EVERY);
    }
}
