//! What is on the disk whose power goes: ext4 with qcow2 images, or a pool with ZFS volumes.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};
use clap::ValueEnum;

use crate::real_kills::inspect::Volumes;
use crate::real_kills::model::Model;
use crate::real_kills::orders::Order;

const DISK_BYTES: u64 = 1 << 30;
const LARGEST_ZVOL_BYTES: u64 = 2 << 20;
const POOL: &str = "tank";
/// The dataset that the persist directory lies on.
const ROOT: &str = "tank/node";

/// For `init`: this is the first boot of its disk.
pub const FRESH: &str = "inner.fresh=1";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Storage {
    Ext4,
    Zfs,
}

impl Storage {
    pub fn name(self) -> &'static str {
        match self {
            Storage::Ext4 => "ext4",
            Storage::Zfs => "zfs",
        }
    }

    pub fn volumes(self) -> Volumes {
        match self {
            Storage::Ext4 => Volumes::Images,
            Storage::Zfs => Volumes::Zvols(ROOT.to_owned()),
        }
    }

    /// A disk for a new rig. A pool is made by the machine itself, at its first boot: this one has no ZFS. It gets a
    /// partition, because on a whole disk zpool would make some of its own, and wait for udev to name them.
    pub fn make_disk(self, path: &Path) -> anyhow::Result<()> {
        let disk = std::fs::File::create(path)?;
        disk.set_len(DISK_BYTES)?;
        if self == Storage::Zfs {
            return Ok(disk.write_all_at(&partition_table(), 0)?);
        }
        let mut mke2fs = Command::new("/sbin/mke2fs");
        let output = mke2fs.args(["-q", "-F", "-t", "ext4"]).arg(path).output().context("mke2fs")?;
        if !output.status.success() {
            bail!("mke2fs: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// What the machine runs before the node, so that the persist directory can be on `/data`. A pool that was in use when the
    /// power went is imported by force: there is no other machine that could have it.
    pub fn mount_script(self) -> String {
        match self {
            Storage::Ext4 => "mount -t ext4 /dev/vdb /data\n".to_owned(),
            Storage::Zfs => format!(
                "if grep -q {FRESH} /proc/cmdline; then\n\
                 zpool create -f -o cachefile=none -O mountpoint=none -O snapdev=visible {POOL} /dev/vdb1\n\
                 zfs create -o mountpoint=/data {ROOT}\n\
                 else\n\
                 zpool import -f -d /dev/vdb1 -o cachefile=none {POOL}\n\
                 fi\n\
                 udevadm trigger --subsystem-match=block && udevadm settle\n"
            ),
        }
    }

    /// A volume's size. Nobody tells the warden where a ZFS volume is empty: it reads all of it, of each snapshot as well.
    pub fn fit_size(self, size_bytes: u64) -> u64 {
        match self {
            Storage::Ext4 => size_bytes,
            Storage::Zfs => size_bytes.min(LARGEST_ZVOL_BYTES),
        }
    }

    /// Something this storage can do: a ZFS volume goes back to its newest snapshot only (K4).
    pub fn fit(self, order: Order, model: &Model) -> Order {
        match (self, order, model.listed.last()) {
            (Storage::Zfs, Order::RollBack(_), Some(newest)) => Order::RollBack(*newest),
            _ => order,
        }
    }
}

/// A master boot record with one partition that takes the whole disk from its second mebibyte on.
fn partition_table() -> [u8; 512] {
    const FIRST_SECTOR: u32 = 2048;
    const SOLARIS_ZFS: u8 = 0xbf;
    let sectors = (DISK_BYTES / 512) as u32 - FIRST_SECTOR;
    let mut table = [0; 512];
    let entry = &mut table[446..462];
    entry[4] = SOLARIS_ZFS;
    entry[8..12].copy_from_slice(&FIRST_SECTOR.to_le_bytes());
    entry[12..16].copy_from_slice(&sectors.to_le_bytes());
    table[510..].copy_from_slice(&[0x55, 0xaa]);
    table
}
