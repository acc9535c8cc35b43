//! [`Disk`] over the kernel's file systems.
//!
//! `sync_file` opens the file again and syncs it: fsync is about the inode, not about the handle that wrote, and
//! since Linux 4.17 a write-back error nobody has seen yet is reported to a handle opened after it. It is fdatasync, which
//! leaves out only what nobody needs to read the content again (times): a file written over in the same length costs no commit
//! of the file system's journal.

#![allow(clippy::disallowed_methods, reason = "this is the Disk seam")]

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{CWD, FlockOperation, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::disk::{DirEntry, Disk, DiskLock, EntryKind, Metadata, Space, named};

/// The machine's own disk. Has no state: locks live in their guards.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

const PRIVATE_FILE_MODE: u32 = 0o600;

impl Disk for RealDisk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path).map_err(|e| named("read", path, e))
    }

    fn read_at(&self, path: &Path, offset_bytes: u64, len_bytes: usize) -> io::Result<Vec<u8>> {
        read_part(path, offset_bytes, len_bytes).map_err(|e| named("read", path, e))
    }

    fn create_new(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)
            .and_then(|mut file| file.write_all(bytes))
            .map_err(|e| named("create", path, e))
    }

    fn write_at(&self, path: &Path, offset_bytes: u64, bytes: &[u8]) -> io::Result<()> {
        open_to_write(path)
            .and_then(|file| file.write_all_at(bytes, offset_bytes))
            .map_err(|e| named("write", path, e))
    }

    fn share_content(&self, from: &Path, to: &Path) -> io::Result<bool> {
        let shared = File::open(from)
            .and_then(|from| Ok((from, OpenOptions::new().write(true).open(to)?)))
            .map(|(from, to)| rustix::fs::ioctl_ficlone(&to, &from));
        match shared.map_err(|e| named("share the content of", from, e))? {
            Ok(()) => Ok(true),
            // The file system has no such thing, or not between these two.
            Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::NOSYS | Errno::INVAL | Errno::XDEV) => Ok(false),
            Err(errno) => Err(named("share the content of", from, errno.into())),
        }
    }

    fn next_data(&self, path: &Path, from_bytes: u64) -> io::Result<Option<Range<u64>>> {
        next_data_of(path, from_bytes).map_err(|e| named("look for data in", path, e))
    }

    fn truncate(&self, path: &Path, size_bytes: u64) -> io::Result<()> {
        OpenOptions::new()
            .write(true)
            .open(path)
            .and_then(|file| file.set_len(size_bytes))
            .map_err(|e| named("truncate", path, e))
    }

    fn overwrite(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        open_to_write(path)
            .and_then(|file| {
                file.write_all_at(bytes, 0)?;
                // Asked first: also a truncation to the length it has is a change that has to be made durable.
                if file.metadata()?.len() == bytes.len() as u64 {
                    Ok(())
                } else {
                    file.set_len(bytes.len() as u64)
                }
            })
            .map_err(|e| named("overwrite", path, e))
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        File::open(path).and_then(|file| file.sync_data()).map_err(|e| named("sync file", path, e))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::DIRECTORY.bits() as i32)
            .open(path)
            .and_then(|dir| dir.sync_all())
            .map_err(|e| named("sync directory", path, e))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to).map_err(|e| named("rename", from, e))
    }

    fn exchange(&self, from: &Path, to: &Path) -> io::Result<bool> {
        match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::EXCHANGE) {
            Ok(()) => Ok(true),
            // The file system has no such thing, or whoever confines this process does not let it have it.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM | Errno::XDEV) => Ok(false),
            Err(errno) => Err(named("exchange", from, errno.into())),
        }
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path).map_err(|e| named("remove", path, e))
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path).map_err(|e| named("remove directory", path, e))
    }

    fn create_dir(&self, path: &Path, mode: u32) -> io::Result<()> {
        DirBuilder::new().mode(mode).create(path).map_err(|e| named("create directory", path, e))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        list_sorted(path).map_err(|e| named("list", path, e))
    }

    fn metadata(&self, path: &Path) -> io::Result<Option<Metadata>> {
        match fs::symlink_metadata(path) {
            Ok(found) => Ok(Some(Metadata {
                kind: kind_of(found.file_type()),
                size_bytes: size_of(&found),
                mode: found.permissions().mode() & 0o7777,
            })),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(named("look at", path, e)),
        }
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let found = rustix::fs::statvfs(path).map_err(|e| named("measure space at", path, e.into()))?;
        Ok(Space {
            free_bytes: found.f_bavail.saturating_mul(found.f_frsize),
            total_bytes: found.f_blocks.saturating_mul(found.f_frsize),
        })
    }

    fn lock_exclusive(&self, path: &Path) -> io::Result<DiskLock> {
        let opened =
            OpenOptions::new().write(true).create(true).truncate(false).mode(PRIVATE_FILE_MODE).open(path);
        let file = match opened {
            // The lock is the process's, not the file system's.
            Err(e) if e.kind() == io::ErrorKind::ReadOnlyFilesystem => File::open(path),
            opened => opened,
        };
        let file = file.map_err(|e| named("open lock", path, e))?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|e| named("lock", path, e.into()))?;
        Ok(DiskLock::new(path, file))
    }
}

/// A symlink is not followed.
fn open_to_write(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(PRIVATE_FILE_MODE)
        .custom_flags(OFlags::NOFOLLOW.bits() as i32)
        .open(path)
}

fn next_data_of(path: &Path, from_bytes: u64) -> io::Result<Option<Range<u64>>> {
    let file = File::open(path)?;
    let begin = match rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(from_bytes)) {
        Ok(begin) => begin,
        Err(Errno::NXIO) => return Ok(None),
        // All of it is data, for all that is known.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some(from_bytes..u64::MAX)),
        Err(errno) => return Err(errno.into()),
    };
    let end = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(begin))?;
    Ok(Some(begin..end))
}

fn read_part(path: &Path, offset_bytes: u64, len_bytes: usize) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset_bytes))?;
    let mut bytes = Vec::new();
    file.take(len_bytes as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn list_sorted(path: &Path) -> io::Result<Vec<DirEntry>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        match entry.metadata() {
            Ok(found) => entries.push(DirEntry {
                name: entry.file_name(),
                kind: kind_of(found.file_type()),
                size_bytes: size_of(&found),
            }),
            // Removed by somebody since the directory was read: as if it had never been listed.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

fn kind_of(found: fs::FileType) -> EntryKind {
    if found.is_file() {
        EntryKind::File
    } else if found.is_dir() {
        EntryKind::Directory
    } else if found.is_symlink() {
        EntryKind::Symlink
    } else {
        EntryKind::Other
    }
}

fn size_of(found: &fs::Metadata) -> u64 {
    if found.is_file() { found.len() } else { 0 }
}
