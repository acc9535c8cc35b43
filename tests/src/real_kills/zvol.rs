//! Reads ZFS volumes: what each shows, and what its snapshots hold.
//!
//! Snapshots are read through their own devices, which the pool must show (`snapdev=visible`). The `zfs` command says what
//! there is; nothing of the node's own code is asked.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::image::{Image, Inner, read_raw};

pub const DEVICES: &str = "/dev/zvol";
/// udev makes the links to devices a moment after ZFS has made them.
const LINKED_WITHIN: Duration = Duration::from_secs(5);

/// The volume of this dataset, and its snapshots.
pub fn read(dataset: &str) -> io::Result<Image> {
    let words = ["list", "-H", "-t", "snapshot", "-o", "name", "-s", "creation", "-d", "1", dataset];
    let mut snapshots = Vec::new();
    for line in ask("zfs", &words)?.lines() {
        let name = line.rsplit('@').next().unwrap_or_default().to_owned();
        snapshots.push(Inner { name, digest: read_raw(&linked(line)?)? });
    }
    Ok(Image { active: read_raw(&linked(dataset)?)?, snapshots })
}

/// All ZFS volumes below a dataset.
pub fn list(root: &str) -> io::Result<BTreeSet<String>> {
    let names = ask("zfs", &["list", "-H", "-t", "volume", "-o", "name", "-r", root])?;
    Ok(names.lines().map(str::to_owned).collect())
}

/// J4: the pool has found no error in what it has read.
pub fn expect_healthy(root: &str) -> Result<(), String> {
    let pool = root.split('/').next().unwrap_or_default();
    let status = ask("zpool", &["status", "-x", pool]).map_err(|error| format!("J4: {error}"))?;
    if status.contains("is healthy") { Ok(()) } else { Err(format!("J4: {status}")) }
}

/// The device of a volume or of a snapshot, once it is there.
fn linked(name: &str) -> io::Result<PathBuf> {
    let device = Path::new(DEVICES).join(name);
    let deadline = Instant::now() + LINKED_WITHIN;
    while !device.exists() {
        if Instant::now() > deadline {
            return Err(io::Error::other(format!("there is no {}", device.display())));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(device)
}

/// What the program prints; what it complains of is the error.
pub fn ask(program: &str, words: &[&str]) -> io::Result<String> {
    let output = Command::new(program).args(words).output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("{program} {}: {}", words.join(" "), said.trim())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
