//! One run of the inner machine: a QEMU process and the lines of its console.
//!
//! ```text
//!   start ──▶ running ──lines──▶ … ──▶ its end (power off)
//!                └── kill: SIGKILL, and not back before the process is gone
//! ```
//!
//! QEMU never outlives its owner: dropping kills it, and the kernel kills it should this process die. Nothing here waits
//! without a deadline.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Instant;

use anyhow::Context;

/// What the kernel is told in any case: speak on the serial port, only of what matters, and end on a crash. Without the
/// processor's randomness the first program that wants some would wait for seconds; nobody attacks this machine. On a busy
/// host an emulated timer is too late for the kernel's check of it, which then gives the timer up and hangs. Programs that lie
/// where they lay before need no translating anew: that halves what a call of `zfs` costs.
const KERNEL_OPTIONS: &str =
    "console=ttyS0 quiet panic=-1 random.trust_cpu=on mitigations=off no_timer_check norandmaps";

/// A machine that is to be.
#[derive(Debug, Clone)]
pub struct Machine {
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
    /// `vda`, which the machine cannot write.
    pub programs: PathBuf,
    /// `vdb` and on, each as the value of QEMU's `-drive` without `if` and `id`.
    pub disks: Vec<String>,
    pub memory_mib: u32,
    pub processors: u32,
    /// QEMU's user network, where the host is 10.0.2.2.
    pub has_network: bool,
    /// For `init`, on the kernel's command line.
    pub options: String,
    /// `tcg`, or `kvm` where somebody has proved that it works.
    pub accelerator: String,
}

/// What a machine said, or did not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    Line(String),
    /// Not within the time.
    Nothing,
    /// It is off.
    Off,
}

/// A machine at work.
#[derive(Debug)]
pub struct Running {
    qemu: Child,
    lines: Receiver<String>,
}

impl Machine {
    pub fn start(&self) -> anyhow::Result<Running> {
        // The kernel kills QEMU with the thread that started it: that must be one which stays.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"]).args(self.arguments());
        let mut qemu =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("setpriv cannot be run")?;
        let console = qemu.stdout.take().context("QEMU has no standard output")?;
        Ok(Running { qemu, lines: listen(console) })
    }

    fn arguments(&self) -> Vec<String> {
        let (accelerator, processor) = match self.accelerator.as_str() {
            "tcg" => ("tcg,thread=multi", "qemu64,+rdrand"),
            other => (other, "host"),
        };
        let utf8 = |path: &Path| path.display().to_string();
        let mut arguments = words("-nodefaults -no-user-config -no-reboot -display none");
        arguments.extend(words("-chardev stdio,id=console,signal=off -serial chardev:console"));
        arguments.extend(words(&format!(
            "-accel {accelerator} -cpu {processor} -m {} -smp {}",
            self.memory_mib, self.processors
        )));
        arguments.extend(["-kernel".to_owned(), utf8(&self.kernel)]);
        arguments.extend(["-initrd".to_owned(), utf8(&self.initramfs)]);
        arguments.extend(["-append".to_owned(), format!("{KERNEL_OPTIONS} {}", self.options)]);
        let programs = format!("file={},format=raw,readonly=on", utf8(&self.programs));
        for drive in std::iter::once(&programs).chain(&self.disks) {
            arguments.extend(["-drive".to_owned(), format!("if=virtio,{drive}")]);
        }
        if self.has_network {
            arguments.extend(words("-netdev user,id=net -device virtio-net-pci,netdev=net,romfile="));
        }
        arguments
    }
}

impl Running {
    /// The next line of the console, waited for until then.
    pub fn hear(&self, until: Instant) -> Said {
        match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(line) => Said::Line(line),
            Err(RecvTimeoutError::Timeout) => Said::Nothing,
            Err(RecvTimeoutError::Disconnected) => Said::Off,
        }
    }

    /// The plug is pulled. Afterwards the process is gone, and its disks are as it left them.
    pub fn kill(mut self) -> std::io::Result<()> {
        self.end()
    }

    fn end(&mut self) -> std::io::Result<()> {
        self.qemu.kill()?;
        self.qemu.wait().map(drop)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("QEMU, process {}, may still run: {error}", self.qemu.id());
        }
    }
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

/// Lines until the console closes, without the carriage returns of a terminal.
fn listen(console: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(console);
        let mut bytes = Vec::new();
        while reader.read_until(b'\n', &mut bytes).is_ok_and(|read| read > 0) {
            let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
            bytes.clear();
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}
