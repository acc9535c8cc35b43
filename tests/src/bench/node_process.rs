//! `holdfast node` as a child, for measuring: started from a clean environment, timed until it is ready, and looked at
//! from outside through /proc.
//!
//! ```text
//!   start ─▶ child ─ NOTIFY_SOCKET ─▶ READY=1, noted with its moment ─▶ until_ready
//!              └── /proc/<pid>: stat, smaps_rollup, task/*/status ──▶ cpu_seconds, resident_mib, wake_ups
//! ```
//!
//! It is told to the child as a service manager would be told, so nobody polls the node while it starts, and nothing of
//! the watching wakes it afterwards.
//!
//! Deliberately absent: guests (a node for measuring is given none to boot), and any look through the node's API.

#![allow(clippy::disallowed_methods, reason = "it measures real time")]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use uuid::Uuid;

const LISTEN_FOR: Duration = Duration::from_millis(200);
const LOG_BYTES_SHOWN: usize = 1500;

/// What a measured node is started with.
#[derive(Debug, Clone)]
pub struct NodeSettings {
    pub holdfast: PathBuf,
    /// The persist directory. The log, the API's socket and the notify socket are put beside it.
    pub persist: PathBuf,
    pub controller: String,
    pub device: Uuid,
    /// Further flags of `holdfast node`; without any, every other setting has its default.
    pub flags: Vec<OsString>,
}

/// A running node. Dropping it kills it; its guests, if it has any, are not touched.
#[derive(Debug)]
pub struct NodeProcess {
    child: Child,
    started: Instant,
    log: PathBuf,
    ready: Receiver<Instant>,
    hear_on: Arc<AtomicBool>,
    listener: Option<JoinHandle<()>>,
}

/// Starts the node, on TCG, so that it boots no guest to try KVM. It is not ready yet when this returns.
pub fn start(settings: &NodeSettings) -> anyhow::Result<NodeProcess> {
    let folder = settings.persist.parent().context("the persist directory has no parent")?;
    let mut command = Command::new(&settings.holdfast);
    command.args(["--config", "/dev/null", "--socket"]).arg(folder.join("holdfast.sock"));
    command.args(["node", "--accel", "tcg", "--controller", &settings.controller]);
    command.args(["--device", &settings.device.to_string(), "--persist"]).arg(&settings.persist);
    command.args(&settings.flags);
    start_command(command, folder)
}

/// The same for any program that is a node. Its log and the notify socket are put into `folder`.
pub fn start_command(mut command: Command, folder: &Path) -> anyhow::Result<NodeProcess> {
    let (notify, log) = (folder.join("notify.sock"), folder.join("node.log"));
    remove_if_there(&notify)?;
    let socket = UnixDatagram::bind(&notify).with_context(|| format!("cannot bind {}", notify.display()))?;
    socket.set_read_timeout(Some(LISTEN_FOR))?;
    let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    // Nothing of this machine's configuration or environment has a say.
    command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    command.env("NOTIFY_SOCKET", &notify);
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    // A Ctrl-C at the terminal is for the measuring process, which then drops this one.
    command.process_group(0);
    let started = Instant::now();
    let child = command.spawn().with_context(|| format!("cannot run {}", command.get_program().display()))?;
    let (told, ready) = channel();
    let hear_on = Arc::new(AtomicBool::new(true));
    let hears = Arc::clone(&hear_on);
    // To its end: a node whose words nobody takes away would wait at its watchdog's socket.
    let listener = std::thread::spawn(move || {
        let mut words = [0; 4096];
        while hears.load(Ordering::Relaxed) {
            let Ok(length) = socket.recv(&mut words) else { continue };
            if words[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
                // Nobody waits for it any more: the node is about to be ended.
                let _ = told.send(Instant::now());
            }
        }
    });
    Ok(NodeProcess { child, started, log, ready, hear_on, listener: Some(listener) })
}

impl NodeProcess {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until every agent is synced. Returns how long that was after the start of the process.
    pub fn until_ready(&mut self, within: Duration) -> anyhow::Result<Duration> {
        let deadline = self.started + within;
        loop {
            match self.ready.recv_timeout(LISTEN_FOR) {
                Ok(moment) => return Ok(moment.duration_since(self.started)),
                Err(RecvTimeoutError::Disconnected) => bail!("nobody listens to the node any more"),
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.must_live()?;
            if Instant::now() >= deadline {
                bail!("the node was not ready within {within:?}; its log ends: {}", self.end_of_log());
            }
        }
    }

    /// An error, with the end of its log, if the node has ended.
    pub fn must_live(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("the node has ended ({status}); its log ends: {}", self.end_of_log()),
            None => Ok(()),
        }
    }

    fn end_of_log(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(LOG_BYTES_SHOWN)..]).trim().to_owned()
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        // Whatever fails here: it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.hear_on.store(false, Ordering::Relaxed);
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

/// Memory that is the process's at this moment, shared pages of its program included (`Rss` of smaps_rollup).
pub fn resident_mib(pid: u32) -> anyhow::Result<f64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let kib = field(&path, "Rss:")?;
    Ok(kib as f64 / 1024.0)
}

/// Processor time of all its threads so far, those that have ended included. To the clock tick, mostly 10 ms.
pub fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let text = read(&path)?;
    // The name, in parentheses, may hold anything; utime and stime are the 12th and 13th behind it.
    let behind = text.rsplit_once(')').with_context(|| format!("{path} holds no name"))?.1;
    let numbers: Vec<u64> = behind.split_whitespace().skip(11).take(2).flat_map(str::parse).collect();
    let [user, system] = numbers[..] else { bail!("{path} holds no times") };
    Ok((user + system) as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// How often a thread was put on a processor anew, by thread.
pub type WakeUps = BTreeMap<u32, Thread>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thread {
    pub name: String,
    /// Context switches since it began, voluntary and not: each is followed by a wake-up.
    pub switches: u64,
}

/// The living threads with their context switches so far.
pub fn wake_ups(pid: u32) -> anyhow::Result<WakeUps> {
    let folder = format!("/proc/{pid}/task");
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))?;
    let mut threads = WakeUps::new();
    for entry in entries {
        let Some(thread) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let path = format!("{folder}/{thread}/status");
        // It may have ended since the folder was listed.
        let (Ok(willing), Ok(forced)) =
            (field(&path, "voluntary_ctxt_switches:"), field(&path, "nonvoluntary_ctxt_switches:"))
        else {
            continue;
        };
        let name = read(&format!("{folder}/{thread}/comm")).unwrap_or_default().trim().to_owned();
        threads.insert(thread, Thread { name, switches: willing + forced });
    }
    Ok(threads)
}

/// The wake-ups between two looks, by thread name. What a thread did that is gone by the second look is not in it.
pub fn woken_between(before: &WakeUps, after: &WakeUps) -> BTreeMap<String, u64> {
    let mut woken = BTreeMap::new();
    for (thread, now) in after {
        let then = before.get(thread).map_or(0, |was| was.switches);
        *woken.entry(now.name.clone()).or_insert(0) += now.switches.saturating_sub(then);
    }
    woken
}

fn field(path: &str, name: &str) -> anyhow::Result<u64> {
    let text = read(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.with_context(|| format!("{path} has no number behind {name}"))
}

fn read(path: &str) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {path}"))
}

fn remove_if_there(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_seen_at_work_and_at_rest() {
        let pid = std::process::id();
        let (cpu_before, woken_before) = (cpu_seconds(pid).expect("stat"), wake_ups(pid).expect("status"));
        let until = Instant::now() + Duration::from_millis(60);
        while Instant::now() < until {
            std::hint::black_box(0);
        }
        (0..20).for_each(|_| std::thread::sleep(Duration::from_millis(1)));
        let woken = woken_between(&woken_before, &wake_ups(pid).expect("status"));
        assert!(cpu_seconds(pid).expect("stat") > cpu_before, "it worked for 60 ms");
        assert!(woken.values().sum::<u64>() >= 20, "it slept twenty times: {woken:?}");
        let resident = resident_mib(pid).expect("smaps_rollup");
        assert!(resident > 0.5 && resident < 100_000.0, "{resident} MiB");
    }

    #[test]
    fn a_node_that_cannot_start_says_why_in_the_words_of_its_log() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let settings = |holdfast: &str| NodeSettings {
            holdfast: holdfast.into(),
            persist: folder.path().join("persist"),
            controller: "http://127.0.0.1:1".to_owned(),
            device: Uuid::from_u128(1),
            flags: Vec::new(),
        };
        let error = start(&settings("/nowhere/holdfast")).expect_err("there is no such program");
        assert!(format!("{error:#}").contains("/nowhere/holdfast"), "{error:#}");
        let mut node = start(&settings("/bin/ls")).expect("ls takes no such flags, but it runs");
        let error = node.until_ready(Duration::from_secs(20)).expect_err("it ends");
        assert!(format!("{error:#}").contains("unrecognized option"), "{error:#}");
    }
}
