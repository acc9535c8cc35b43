//! Where the persist directories lie: on a real file system, or not at all.
//!
//! What is kept in memory only would prove little of what is meant here, so tmpfs and ramfs are refused by name.

use std::io;
use std::path::Path;

const EXT4: u64 = 0xef53;
const TMPFS: u64 = 0x0102_1994;
const RAMFS: u64 = 0x8584_58f6;
const NAMES: [(u64, &str); 6] = [
    (EXT4, "ext4"),
    (TMPFS, "tmpfs"),
    (RAMFS, "ramfs"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0x794c_7630, "overlayfs"),
];

/// The file system a directory is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSystem {
    magic: u64,
}

impl FileSystem {
    pub fn of(directory: &Path) -> io::Result<FileSystem> {
        let found = rustix::fs::statfs(directory)?;
        Ok(FileSystem { magic: found.f_type as u64 })
    }

    pub fn name(self) -> String {
        let known = NAMES.iter().find(|(magic, _)| *magic == self.magic);
        known.map_or_else(|| format!("file system {:#x}", self.magic), |(_, name)| (*name).to_owned())
    }

    pub fn is_ext4(self) -> bool {
        self.magic == EXT4
    }

    pub fn is_memory(self) -> bool {
        self.magic == TMPFS || self.magic == RAMFS
    }
}
