//! Test binaries, run in the inner machine on a fresh pool.
//!
//! Each binary is one of cargo's, so its own summary and exit code are the result; they travel over the console as
//! `inner: test <name> code=<n>`. The pool is a file in the machine's memory: nothing of it outlives the run. Binaries find its name in
//! `HOLDFAST_ZFS_POOL`, and their temporary files go to a file system of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::ZfsGuest;
use super::machine::{Machine, Said};
use super::programs::Programs;

pub const POOL: &str = "tank";
const MEMORY_MIB: u32 = 3072;
const RESULT: &str = "inner: test ";

/// One binary and how it is called.
#[derive(Debug, Clone)]
pub struct Trial {
    pub name: String,
    pub binary: PathBuf,
    pub arguments: String,
}

/// Exit codes by name. A trial that did not come to its end has none.
pub type Codes = BTreeMap<String, i32>;

/// Runs the trials one after the other and passes on what the machine says, line by line. All of them have `within` together.
pub fn run(
    guest: &ZfsGuest,
    trials: &[Trial],
    scratch: &Path,
    accelerator: &str,
    within: Duration,
    mut heard: impl FnMut(&str),
) -> anyhow::Result<Codes> {
    let programs = Programs::new(scratch.join("programs"), guest)?;
    for trial in trials {
        programs.add(&trial.binary, &trial.name)?;
    }
    programs.set_main(&script(trials, within))?;
    let disk = scratch.join("programs.img");
    programs.write_disk(&disk)?;
    let initramfs = scratch.join("initramfs");
    guest.write_initramfs(&initramfs, true)?;
    let machine = Machine {
        kernel: guest.kernel.clone(),
        initramfs,
        programs: disk,
        disks: Vec::new(),
        memory_mib: MEMORY_MIB,
        processors: 2,
        has_network: false,
        options: String::new(),
        accelerator: accelerator.to_owned(),
    };
    let deadline = Instant::now() + within;
    let running = machine.start()?;
    let mut codes = Codes::new();
    loop {
        match running.hear(deadline) {
            Said::Line(line) => {
                heard(&line);
                if let Some((name, code)) =
                    line.strip_prefix(RESULT).and_then(|rest| rest.split_once(" code="))
                {
                    codes.insert(name.to_owned(), code.parse().context(line.clone())?);
                }
            }
            Said::Off => return Ok(codes),
            Said::Nothing => bail!("the inner machine is not done after {within:?}"),
        }
    }
}

/// What the inner machine runs: a pool, then each trial with what is left of the time.
fn script(trials: &[Trial], within: Duration) -> String {
    let mut script = format!(
        "set -e\n\
         truncate -s 1G /tmp/pool.img\n\
         zpool create -O mountpoint=/{POOL} -O compression=off {POOL} /tmp/pool.img\n\
         zfs create {POOL}/tmp\n\
         export HOLDFAST_ZFS_POOL={POOL} TMPDIR=/{POOL}/tmp RUST_BACKTRACE=1\n\
         set +e\n"
    );
    for Trial { name, arguments, .. } in trials {
        script += &format!(
            "echo 'inner: begins {name} {arguments}'\n\
             timeout {} /programs/bin/{name} {arguments}\n\
             echo \"{RESULT}{name} code=$?\"\n",
            within.as_secs()
        );
    }
    script
}
