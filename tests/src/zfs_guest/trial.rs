//! A test binary, run in an inner machine of its own on a fresh pool.
//!
//! The binary is one of cargo's, so its own summary and exit code are the result; the code travels over the console as
//! `inner: test code=<n>`. The pool is a file in the machine's memory: nothing of it outlives the run. The binary finds its name in
//! `HOLDFAST_ZFS_POOL`, and its temporary files go to a file system of it.
//!
//! The machine has one processor: under TCG two of them spend on each other what the second one gains. Machines run beside
//! each other instead.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::ZfsGuest;
use super::machine::{Machine, Said};
use super::programs::Programs;

pub const POOL: &str = "tank";
const MEMORY_MIB: u32 = 3072;
const RESULT: &str = "inner: test code=";

/// One binary and how it is called.
#[derive(Debug, Clone)]
pub struct Trial {
    /// What the binary is called in the machine.
    pub name: String,
    pub binary: PathBuf,
    pub arguments: String,
}

impl Trial {
    /// Boots, runs it and passes on what the machine says, line by line. Its exit code; `None` if it did not come to its end.
    /// `scratch` need not be there yet.
    pub fn run(
        &self,
        guest: &ZfsGuest,
        scratch: &Path,
        accelerator: &str,
        deadline: Instant,
        heard: impl Fn(&str),
    ) -> anyhow::Result<Option<i32>> {
        let programs = Programs::new(scratch.join("programs"), guest)?;
        programs.add(&self.binary, &self.name)?;
        programs.set_main(&self.script(deadline.saturating_duration_since(Instant::now())))?;
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
            processors: 1,
            has_network: false,
            options: String::new(),
            accelerator: accelerator.to_owned(),
        };
        let running = machine.start()?;
        let mut code = None;
        loop {
            match running.hear(deadline) {
                Said::Line(line) => {
                    heard(&line);
                    if let Some(told) = line.strip_prefix(RESULT) {
                        code = Some(told.parse().context(line.clone())?);
                    }
                }
                Said::Off => return Ok(code),
                Said::Nothing => bail!("the inner machine of {} is not done in time", self.name),
            }
        }
    }

    /// What the inner machine runs. ZFS volumes do their reading and writing at once, and not by threads of their own: that
    /// is faster on one processor.
    fn script(&self, within: Duration) -> String {
        let Trial { name, arguments, .. } = self;
        format!(
            "set -e\n\
             echo 1 >/sys/module/zfs/parameters/zvol_request_sync\n\
             truncate -s 1G /tmp/pool.img\n\
             zpool create -O mountpoint=/{POOL} -O compression=off {POOL} /tmp/pool.img\n\
             zfs create {POOL}/tmp\n\
             export HOLDFAST_ZFS_POOL={POOL} TMPDIR=/{POOL}/tmp RUST_BACKTRACE=1\n\
             set +e\n\
             echo 'inner: begins {name} {arguments}'\n\
             timeout {} /programs/bin/{name} {arguments}\n\
             echo \"{RESULT}$?\"\n",
            within.as_secs()
        )
    }
}
