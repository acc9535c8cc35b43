//! The lowest file seam: each method is about one system call, so that a simulation can cut the power between
//! any two of them and fail any one of them.
//!
//! What an implementation promises, and no more:
//!
//! * a write, a truncation or a new file's content survives a power cut once [`Disk::sync_file`] returned;
//! * a name (created, renamed, exchanged or removed) survives once [`Disk::sync_dir`] of its directory returned;
//! * [`Disk::rename`] within one directory shows either the old or the new file, also after a cut; so does
//!   [`Disk::exchange`] under both names;
//! * without the sync, any part of it may be kept or lost, in any order.
//!
//! Every error names the call and the path, and keeps its [`io::ErrorKind`]. Paths are taken as they are: who
//! builds one from an id checks the id first (`layout.rs`).
//!
//! Deliberately absent: open handles, hard links, permissions of existing files, and anything durable by itself.

use std::any::Any;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// File calls of the node. Object-safe, synchronous; callers run it off the event loop when it may be slow.
pub trait Disk: Send + Sync + fmt::Debug {
    /// The whole file. Meant for records; large content is read with [`Disk::read_at`].
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// Up to `len_bytes` bytes from `offset_bytes`; fewer at the end of the file, none behind it.
    fn read_at(&self, path: &Path, offset_bytes: u64, len_bytes: usize) -> io::Result<Vec<u8>>;

    /// Creates the file with this content; `AlreadyExists` if the name is taken. Not durable. After a failure,
    /// a file with a part of the content may be there.
    fn create_new(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()>;

    /// Writes at an offset, creating the file (mode 0600) if missing; a gap reads as zeros. Not durable. After a
    /// failure, any part of the bytes may have been written.
    fn write_at(&self, path: &Path, offset_bytes: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes an empty file share all bytes of another, without copying them, until either is written to. Not durable. False, and
    /// nothing has changed, where the file system does not share (as any may say of itself, and this by default does).
    fn share_content(&self, from: &Path, to: &Path) -> io::Result<bool> {
        let _ = (from, to);
        Ok(false)
    }

    /// The next bytes at or behind `from_bytes` that may be anything but zeros, as far as the file system knows without
    /// reading; `None` if there are none to the file's end. By default, all that follow.
    fn next_data(&self, path: &Path, from_bytes: u64) -> io::Result<Option<Range<u64>>> {
        let _ = path;
        Ok(Some(from_bytes..u64::MAX))
    }

    /// Cuts or extends (with zeros) the file to this size. Not durable.
    fn truncate(&self, path: &Path, size_bytes: u64) -> io::Result<()>;

    /// Makes the file hold exactly these bytes, where it lies; a missing one is created (mode 0600). Not durable. After a
    /// failure, or a cut, it may hold any mix of what it held and these.
    fn overwrite(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.write_at(path, 0, bytes)?;
        self.truncate(path, bytes.len() as u64)
    }

    /// Makes the content of the file durable, not its name. After an error the content must be written anew:
    /// the kernel may have dropped the pages it could not write, and a second sync would claim success.
    fn sync_file(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in this directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Gives the file or directory a new name, replacing a file that has it. Not durable.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Gives two files in one directory each other's name. Not durable; a cut leaves both names as they were, or both exchanged.
    /// False, and nothing has changed, where the file system has no such thing (as any may say of itself, and this by default
    /// does).
    fn exchange(&self, from: &Path, to: &Path) -> io::Result<bool> {
        let _ = (from, to);
        Ok(false)
    }

    /// Removes a file or symlink (not what it points to). Not durable.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes an empty directory. Not durable.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;

    /// Creates a directory in an existing one; `AlreadyExists` if the name is taken. Not durable.
    fn create_dir(&self, path: &Path, mode: u32) -> io::Result<()>;

    /// What is in the directory, sorted by name.
    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>>;

    /// What has this name, symlinks not followed; `None` if nothing has it (also when the parent is missing).
    fn metadata(&self, path: &Path) -> io::Result<Option<Metadata>>;

    /// Room on the file system that holds this path.
    fn space(&self, path: &Path) -> io::Result<Space>;

    /// Takes the lock on this file (created if missing) for as long as the guard lives, or fails at once with
    /// `WouldBlock` when another holds it. Gone with the process, however it ends.
    fn lock_exclusive(&self, path: &Path) -> io::Result<DiskLock>;
}

/// Holds a lock taken with [`Disk::lock_exclusive`]; dropping it lets go.
pub struct DiskLock {
    path: PathBuf,
    _held: Box<dyn Any + Send + Sync>,
}

impl DiskLock {
    /// For implementations of [`Disk`]: `held` lets go of the lock when dropped.
    pub fn new(path: &Path, held: impl Any + Send + Sync) -> Self {
        DiskLock { path: path.to_path_buf(), _held: Box::new(held) }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl fmt::Debug for DiskLock {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("DiskLock").field("path", &self.path).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryKind {
    File,
    Directory,
    Symlink,
    /// A socket, a pipe, a device.
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    pub name: OsString,
    pub kind: EntryKind,
    /// Zero for anything but files.
    pub size_bytes: u64,
}

impl DirEntry {
    /// The name as text; `None` when it is not UTF-8, which no name of ours is.
    pub fn text(&self) -> Option<&str> {
        self.name.to_str()
    }

    pub fn is_file(&self) -> bool {
        self.kind == EntryKind::File
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    pub kind: EntryKind,
    /// Zero for anything but files.
    pub size_bytes: u64,
    /// Permission bits only.
    pub mode: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// What this process may still use.
    pub free_bytes: u64,
    pub total_bytes: u64,
}

/// True when the error means that there is no room: a full file system or a used-up quota.
pub fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The error with the call and the path in its text, its kind kept. It has no source: the text is whole.
pub(crate) fn named(call: &'static str, path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), CallFailed { call, path: path.to_path_buf(), cause: error })
}

#[derive(Debug)]
struct CallFailed {
    call: &'static str,
    path: PathBuf,
    cause: io::Error,
}

impl fmt::Display for CallFailed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "cannot {} {}: {}", self.call, self.path.display(), self.cause)
    }
}

impl std::error::Error for CallFailed {}
