//! A persist directory on a pool: a file system of its own, destroyed with all volumes below it at the end.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use holdfast_volumehandlers::testing::POOL_VARIABLE;

use crate::real_kills::zvol;

/// Mounted on the persist directory.
#[derive(Debug)]
pub struct PoolDisk {
    dataset: String,
}

impl PoolDisk {
    /// `Err` says why there can be none here: `HOLDFAST_ZFS_POOL` names the pool that stories may use.
    pub(super) fn mount(path: &Path) -> Result<PoolDisk, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let pool = std::env::var(POOL_VARIABLE).map_err(|_| {
            format!("{POOL_VARIABLE} names no pool (make zfs-test runs this where there is one)")
        })?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let disk = PoolDisk { dataset: format!("{pool}/story-{}-{number}", std::process::id()) };
        let mount_point = format!("mountpoint={}", path.display());
        zfs(&["create", "-o", &mount_point, &disk.dataset]).map_err(|error| error.to_string())?;
        Ok(disk)
    }

    /// The volume's device, whether it is there or not.
    pub fn device(&self, volume: impl std::fmt::Display, generation: i64) -> PathBuf {
        Path::new(zvol::DEVICES).join(&self.dataset).join(format!("vault/volumes/{volume}.{generation}"))
    }

    /// The devices of all volumes.
    pub fn volumes(&self) -> BTreeSet<PathBuf> {
        let names = zvol::list(&self.dataset).expect("the pool can be listed");
        names.iter().map(|name| Path::new(zvol::DEVICES).join(name)).collect()
    }

    /// What an operator does with `zfs`: `%` stands for the volume of this device.
    pub fn operate(&self, device: &Path, words: &[&str]) {
        let dataset = dataset(device);
        let words: Vec<String> = words.iter().map(|word| word.replace('%', dataset)).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        zfs(&words).expect("the pool lets the operator do it");
    }

    /// Names of the volume's snapshots, oldest first.
    pub fn snapshots(&self, device: &Path) -> Vec<String> {
        snapshots(device)
    }

    /// Name of a dataset beside the node's.
    pub fn beside(&self, name: &str) -> String {
        format!("{}/{name}", self.dataset)
    }

    /// All there is of datasets, snapshots and bookmarks, with who they are and how many hold them; a line each.
    pub fn listed(&self) -> String {
        let words = ["list", "-H", "-r", "-t", "all", "-o", "name,guid,userrefs", &self.dataset];
        zfs(&words).expect("the pool can be listed")
    }

    /// From now on volumes may take what they take, and no more; or as much as the pool has.
    pub fn limit_volumes(&self, limited: bool) {
        let vault = format!("{}/vault", self.dataset);
        // What was written is counted with the transaction group it is in.
        zfs(&["snapshot", &format!("{vault}@counted")]).expect("cut");
        zfs(&["destroy", &format!("{vault}@counted")]).expect("gone");
        let used = zfs(&["get", "-H", "-p", "-o", "value", "used", &vault]).expect("counted");
        let quota = if limited { used.trim() } else { "none" };
        zfs(&["set", &format!("quota={quota}"), &vault]).expect("set");
    }
}

impl Drop for PoolDisk {
    fn drop(&mut self) {
        // The file system with a job that was left behind still in it: whatever it leaves, the pool goes with the guest.
        if let Err(error) = zfs(&["destroy", "-R", "-f", &self.dataset]) {
            eprintln!("{} is still there: {error}", self.dataset);
        }
    }
}

/// None of a volume that is just being removed.
pub(super) fn snapshots(device: &Path) -> Vec<String> {
    let words = ["list", "-H", "-t", "snapshot", "-o", "name", "-s", "createtxg", "-d", "1", dataset(device)];
    match zvol::ask("zfs", &words) {
        Ok(names) => names.lines().filter_map(|line| Some(line.split_once('@')?.1.to_owned())).collect(),
        Err(_) if !device.exists() => Vec::new(),
        Err(error) => panic!("{error}"),
    }
}

fn dataset(device: &Path) -> &str {
    let name = device.strip_prefix(zvol::DEVICES).expect("below /dev/zvol");
    name.to_str().expect("a plain name")
}

fn zfs(words: &[&str]) -> io::Result<String> {
    zvol::ask("zfs", words)
}
