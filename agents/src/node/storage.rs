//! What this node stores its volumes on: ZFS volumes where the persist directory lies on ZFS, files elsewhere.
//!
//! Looks once, at the start. A pool that is away or a `zfs` command that is missing later is an error of the volumes it
//! concerns, and not of the node.

use std::path::Path;
use std::sync::Arc;

use holdfast_types::error_chain;
use holdfast_volumehandlers::Backing;
use holdfast_volumehandlers::zvol::{self, CommandZfs, Zfs};

use crate::settings::ZfsChoice;

/// What was chosen, and why, in words for the log and the status.
#[derive(Debug, Clone)]
pub struct Storage {
    pub backing: Backing,
    pub why: String,
}

/// Chooses by the file system under the persist directory.
pub fn choose(persist: &Path, choice: ZfsChoice) -> Storage {
    let files = |why: String| Storage { backing: Backing::Files, why: format!("files: {why}") };
    if choice == ZfsChoice::Off {
        return files("ZFS is off by the configuration".into());
    }
    match zvol::detect(persist) {
        Ok(None) => files(format!("{} is not on ZFS", persist.display())),
        Err(error) => {
            files(format!("what {} lies on cannot be told: {}", persist.display(), error_chain(&error)))
        }
        Ok(Some(root)) => {
            let (zfs, how) = driver(choice);
            let why = match zfs.room(&root) {
                Ok(_) => format!("zfs: volumes below {root}, {how}"),
                Err(error) => {
                    format!("zfs: volumes below {root}, {how}; not usable now: {}", error_chain(&error))
                }
            };
            Storage { backing: Backing::Zfs { zfs, root }, why }
        }
    }
}

#[cfg(feature = "libzetta")]
fn driver(choice: ZfsChoice) -> (Arc<dyn Zfs>, String) {
    if choice == ZfsChoice::Command {
        return by_command();
    }
    match zvol::LibzettaZfs::new() {
        Ok(library) => (Arc::new(library), "by libzetta".into()),
        Err(error) => {
            let (zfs, how) = by_command();
            (zfs, format!("{how}, because libzetta cannot be used: {}", error_chain(&error)))
        }
    }
}

#[cfg(not(feature = "libzetta"))]
fn driver(_: ZfsChoice) -> (Arc<dyn Zfs>, String) {
    by_command()
}

fn by_command() -> (Arc<dyn Zfs>, String) {
    (Arc::new(CommandZfs::new()), "by the zfs command".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node without ZFS starts and says so.
    #[test]
    fn a_directory_that_is_not_on_zfs_keeps_its_volumes_in_files() {
        let here = tempfile::tempdir().expect("a directory");
        let chosen = choose(here.path(), ZfsChoice::Auto);
        assert!(
            matches!(chosen.backing, Backing::Files) && chosen.why.contains("is not on ZFS"),
            "{}",
            chosen.why
        );
        assert!(choose(here.path(), ZfsChoice::Off).why.contains("off by the configuration"));
        let nowhere = choose(&here.path().join("nowhere"), ZfsChoice::Auto).why;
        assert!(nowhere.contains("cannot be told"), "{nowhere}");
    }
}
