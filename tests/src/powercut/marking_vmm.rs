//! Guests that are only rows in a table, but write to their volumes: one mark to each at every start.
//!
//! ```text
//!   start ──▶ what stands on each disk, as a digest ──▶ host ──▶ one block per disk ──▶ qemu-io, flushed ──▶ host ──▶ running
//! ```
//!
//! The host judges what was found, and knows of each write before it begins. A start that is cut off in the middle has
//! left on each disk the mark or not: a mark is one block.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context, bail};
use holdfast_agents::domainmgr::simulated_vmm::SimulatedVmm;
use holdfast_agents::domainmgr::vmm::{Disk, DiskFormat, Domain, DomainExit, OnExit, Presence};
use holdfast_agents::domainmgr::vmm::{VmSpec, Vmm, VmmError, Wait};
use uuid::Uuid;

use super::MEMORY_BASE_KIB;
use super::lines::{Found, FromInside, Line, ToInside};
use crate::real_kills::content::{BLOCK_BYTES, Write};
use crate::real_kills::image;

#[derive(Debug)]
pub struct MarkingVmm {
    guests: SimulatedVmm,
    host: SocketAddr,
    /// Opened at the first start: the host knows connections by their order.
    line: Mutex<Option<Line>>,
}

impl MarkingVmm {
    pub fn new(host: SocketAddr) -> MarkingVmm {
        MarkingVmm { guests: SimulatedVmm::new(), host, line: Mutex::new(None) }
    }

    /// Afterwards the mark is durable on every disk, and the host knows.
    fn mark(&self, spec: &VmSpec) -> anyhow::Result<()> {
        let mut line = self.line.lock().expect("no holder panics");
        if line.is_none() {
            *line = Some(Line::new(TcpStream::connect(self.host)?)?);
        }
        let line = line.as_mut().context("just opened")?;
        let found = spec.disks.iter().map(found).collect::<anyhow::Result<_>>()?;
        let version = u32::try_from(spec.memory_kib)?.saturating_sub(MEMORY_BASE_KIB);
        line.say(&FromInside::Starting { version, found })?;
        match line.hear()? {
            Some(ToInside::Mark(writes)) if writes.len() == spec.disks.len() => write(&spec.disks, &writes)?,
            other => bail!("the host says {other:?} and no mark"),
        }
        Ok(line.say(&FromInside::Written)?)
    }
}

fn found(disk: &Disk) -> anyhow::Result<Found> {
    let digest = match disk.format {
        DiskFormat::Qcow2 => image::read(&disk.path)?.active,
        _ => image::read_raw(&disk.path)?,
    };
    Ok(Found { path: disk.path.display().to_string(), digest })
}

/// By one `qemu-io` for all disks.
fn write(disks: &[Disk], writes: &[Write]) -> anyhow::Result<()> {
    let mut command = Command::new("qemu-io");
    for (disk, Write { first, blocks, fill }) in disks.iter().zip(writes) {
        let format = if disk.format == DiskFormat::Qcow2 { "qcow2" } else { "raw" };
        command.args(["-c", &format!("open -o driver={format} {}", disk.path.display())]);
        command.args(["-c", &format!("write -q -P {fill} {} {}", first * BLOCK_BYTES, blocks * BLOCK_BYTES)]);
        command.args(["-c", "flush", "-c", "close"]);
    }
    let output = command.output().context("qemu-io")?;
    // It goes on after a failed command, and says so on its standard output.
    if !output.status.success() || !output.stdout.is_empty() || !output.stderr.is_empty() {
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        bail!("qemu-io: {}{}", said(&output.stdout), said(&output.stderr));
    }
    Ok(())
}

impl Vmm for MarkingVmm {
    fn start(&self, spec: &VmSpec, wait: &Wait<'_>) -> Result<Domain, VmmError> {
        if let Presence::Running { domain, .. } = self.guests.presence(spec.app)? {
            return Err(VmmError::AlreadyRunning { app: spec.app, pid: domain.pid });
        }
        self.mark(spec).map_err(|error| VmmError::DiedAtStart {
            app: spec.app,
            name: spec.name.clone(),
            message: format!("{error:#}"),
        })?;
        self.guests.start(spec, wait)
    }

    fn presence(&self, app: Uuid) -> Result<Presence, VmmError> {
        self.guests.presence(app)
    }

    fn list(&self) -> Result<BTreeMap<Uuid, Presence>, VmmError> {
        self.guests.list()
    }

    fn request_shutdown(&self, domain: &Domain) -> Result<(), VmmError> {
        self.guests.request_shutdown(domain)
    }

    fn kill(&self, domain: &Domain) -> Result<(), VmmError> {
        self.guests.kill(domain)
    }

    fn wait_gone(&self, domain: &Domain, wait: &Wait<'_>) -> Result<Option<DomainExit>, VmmError> {
        self.guests.wait_gone(domain, wait)
    }

    fn watch(&self, domain: &Domain, on_exit: OnExit) -> Result<(), VmmError> {
        self.guests.watch(domain, on_exit)
    }

    fn forget(&self, app: Uuid) -> Result<(), VmmError> {
        self.guests.forget(app)
    }
}
