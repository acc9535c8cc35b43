//! Is there ZFS under the persist directory, and which dataset?
//!
//! ```text
//!   /proc/self/mountinfo:  26 1 0:23 / /persist rw … - zfs tank/persist rw,…
//!                                      mount point      type  dataset
//! ```
//!
//! The longest mount point above the directory is the file system it is on; of several mounts on one point the last counts.

#![allow(clippy::disallowed_methods, reason = "reads the kernel's table of mounts, once at the start")]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::zfs::{Dataset, InvalidDataset};

const MOUNTS: &str = "/proc/self/mountinfo";

/// The file system under the persist directory cannot be told, or not be used.
#[derive(Debug, thiserror::Error)]
pub enum DetectError {
    #[error("cannot read {}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("the file system under {} cannot be used", persist.display())]
    Name { persist: PathBuf, source: InvalidDataset },
}

/// The dataset that the directory is on; `None` if it is on another file system. The directory must be there.
pub fn detect(persist: &Path) -> Result<Option<Dataset>, DetectError> {
    let unreadable = |path: &Path| {
        let path = path.to_path_buf();
        move |source| DetectError::Unreadable { path, source }
    };
    let place = std::fs::canonicalize(persist).map_err(unreadable(persist))?;
    let mounts = std::fs::read_to_string(MOUNTS).map_err(unreadable(Path::new(MOUNTS)))?;
    dataset_at(&mounts, &place).map_err(|source| DetectError::Name { persist: persist.to_path_buf(), source })
}

fn dataset_at(mounts: &str, place: &Path) -> Result<Option<Dataset>, InvalidDataset> {
    let mut best: Option<Mount> = None;
    for mount in mounts.lines().filter_map(Mount::parse).filter(|mount| place.starts_with(&mount.point)) {
        let depth = |mount: &Mount| mount.point.components().count();
        if best.as_ref().is_none_or(|best| depth(&mount) >= depth(best)) {
            best = Some(mount);
        }
    }
    match best {
        Some(Mount { kind, source, .. }) if kind == "zfs" => Dataset::parse(&source).map(Some),
        _ => Ok(None),
    }
}

struct Mount {
    point: PathBuf,
    kind: String,
    source: String,
}

impl Mount {
    fn parse(line: &str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let point = before.split(' ').nth(4)?;
        let mut after = after.split(' ');
        let (kind, source) = (after.next()?.to_owned(), after.next()?);
        let point = PathBuf::from(OsString::from_vec(unescaped(point)));
        Some(Mount { point, kind, source: String::from_utf8(unescaped(source)).ok()? })
    }
}

/// The kernel writes blanks, tabs, line ends and backslashes as `\040` and the like.
fn unescaped(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes.get(at + 1..at + 4).filter(|_| bytes[at] == b'\\');
        let number = octal.and_then(|digits| std::str::from_utf8(digits).ok());
        match number.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(byte);
                at += 4;
            }
            None => {
                plain.push(bytes[at]);
                at += 1;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
        22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
        23 22 0:30 / /persist rw - zfs tank/persist rw,xattr\n\
        24 23 0:31 / /persist/vault rw - zfs tank/persist/vault rw,xattr\n\
        25 22 0:32 / /my\\040persist rw shared:2 master:1 - zfs tank/my\\040own rw\n\
        26 22 0:33 / /twice rw - zfs tank/first rw\n\
        27 22 0:34 / /twice rw - tmpfs none rw\n\
        nonsense\n";

    fn found(place: &str) -> Option<String> {
        let dataset = dataset_at(MOUNTS, Path::new(place)).expect("a good name");
        dataset.map(|dataset| dataset.to_string())
    }

    #[test]
    fn the_longest_mount_point_above_the_directory_counts() {
        assert_eq!(found("/persist").as_deref(), Some("tank/persist"));
        assert_eq!(found("/persist/sub/dir").as_deref(), Some("tank/persist"));
        assert_eq!(found("/persist/vault").as_deref(), Some("tank/persist/vault"));
        assert_eq!(found("/persistent"), None);
        assert_eq!(found("/var"), None);
        assert_eq!(found("/twice/x"), None, "the later mount covers the first");
    }

    #[test]
    fn a_dataset_whose_name_we_do_not_use_is_named() {
        let refused = dataset_at(MOUNTS, Path::new("/my persist/x")).expect_err("a blank in it");
        assert_eq!(refused.text, "tank/my own");
    }

    #[test]
    fn this_machine_can_be_asked() {
        detect(Path::new("/proc")).expect("told");
        assert!(matches!(detect(Path::new("/no/such/place")), Err(DetectError::Unreadable { .. })));
    }
}
