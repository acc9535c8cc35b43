//! Durability in one place: after a power cut a file is exactly what it was or exactly what it became.
//!
//! ```text
//!   replace:  create temporary ─▶ sync it ─▶ rename over the file ─▶ sync the directory
//!               cut here: old        cut here: old     cut here: old or new      after: new
//! ```
//!
//! A file that is replaced often costs less if the old one is kept to be written over ([`exchange_unsynced`]): nothing is created,
//! allocated or freed then.
//!
//! ```text
//!   exchange: overwrite spare ─▶ sync it ─▶ exchange its name and the file's ─▶ sync the directory ─▶ the old file is the spare
//!               cut here: old      old            cut here: old or new             after: new
//! ```
//!
//! Why each step is there:
//!
//! * The content goes to a *temporary* in the same directory, because a rename is atomic only within one file
//!   system, and the old file must stay whole until the new one is.
//! * The temporary is synced *before* the rename. Without it a file system may write the name before the data,
//!   and a cut leaves an empty file under the right name.
//! * The directory is synced *after* the rename, because until then the new name lives in memory only. A caller
//!   that went on (told the controller, started a guest) could find the old file after the cut.
//! * A new directory is a name in its parent, so the parent is synced too ([`ensure_dir`]), and before anything
//!   is put inside: a durable file in a directory that was lost is lost.
//! * After a failed sync the temporary is thrown away and the content is written to a new one. Syncing the same
//!   file again proves nothing: the kernel may have dropped the dirty pages when it reported the error.
//! * A *spare* is what has the temporary's name after an exchange. It may be written over only once the directory is synced:
//!   until then a cut can give the file's name back to it. It is written over where it lies, so whoever wants to keep the old
//!   content copies the file; a hard link to it is the same file.
//!
//! The temporary's name is made from the file's, so the same run makes the same calls (the simulation compares
//! traces). Hence the one rule for callers: *one writer at a time per path*. In the node that holds because a
//! path has one owner and the persist directory is locked by one node.
//!
//! Deliberately absent: knowledge of what the bytes mean, and any retry.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::disk::{DirEntry, Disk, EntryKind, named};

/// Saved configurations can hold secrets (architecture section 7): nobody but the node reads its files.
pub const FILE_MODE: u32 = 0o600;
pub const DIRECTORY_MODE: u32 = 0o700;

/// Begins the name of every temporary and spare: files that mean nothing.
pub const TEMPORARY_PREFIX: &str = ".tmp~";

/// Makes `path` hold exactly `bytes`, durably, mode 0600.
///
/// The directory must be there. After `Ok` the new content survives a cut. After an error, or a cut in the
/// middle, the file is whole, either old or new (new only if the rename was done, so the last sync failed or was
/// cut off); a temporary may be left, which the next replace or [`sweep_temporaries`] removes.
pub fn durable_replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = temporary_for(path)?;
    write_temporary(disk, &temporary, bytes)
        .and_then(|()| disk.rename(&temporary, path))
        .inspect_err(|_| discard(disk, &temporary))?;
    disk.sync_dir(parent_of(path)?)
}

/// [`durable_replace`] without its last step, for a file that is replaced often: whoever calls syncs the directory, once for many
/// files. Until then a cut leaves the old file or the new one, each whole. True if the old file now has the temporary's name; once
/// the directory is synced, and only then, it is a spare, and the next call may say so and write over it.
pub fn exchange_unsynced(disk: &dyn Disk, path: &Path, bytes: &[u8], has_spare: bool) -> io::Result<bool> {
    let temporary = temporary_for(path)?;
    let written = match has_spare {
        true => disk.overwrite(&temporary, bytes).and_then(|()| disk.sync_file(&temporary)),
        false => write_temporary(disk, &temporary, bytes),
    };
    written
        .and_then(|()| match is_own_file(disk, path) && disk.exchange(&temporary, path)? {
            true => Ok(true),
            false => disk.rename(&temporary, path).map(|()| false),
        })
        .inspect_err(|_| discard(disk, &temporary))
}

/// Anything else that somebody has put there is replaced, and never written over.
fn is_own_file(disk: &dyn Disk, path: &Path) -> bool {
    let found = disk.metadata(path).ok().flatten();
    found.is_some_and(|found| found.kind == EntryKind::File && found.mode == FILE_MODE)
}

/// Makes the directory exist, durably, with all its missing ancestors, each mode 0700.
///
/// The deepest ancestor found has its name synced too: it may have been created by a process that died before
/// it could. Anything above is durable already, because nothing is put into a directory before its own name is.
/// A cut in the middle leaves some of the ancestors; calling again finishes.
pub fn ensure_dir(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    let mut missing = Vec::new();
    let mut at = path;
    while disk.metadata(at)?.is_none() {
        missing.push(at);
        at = parent_of(at)?;
    }
    ensure_child_dir(disk, at)?;
    missing.into_iter().rev().try_for_each(|dir| ensure_child_dir(disk, dir))
}

/// Makes many directories exist, durably, each mode 0700; a parent comes before its children in the list. Each
/// distinct parent is synced once. A cut in the middle may leave a directory whose name is not durable: call
/// again before anything is put inside.
pub fn ensure_dirs(disk: &dyn Disk, paths: &[PathBuf]) -> io::Result<()> {
    let mut parents = BTreeSet::new();
    for path in paths {
        create_if_missing(disk, path)?;
        parents.insert(parent_of(path)?);
    }
    parents.into_iter().try_for_each(|parent| disk.sync_dir(parent))
}

/// Makes the file not exist, durably; one that is missing already is fine. After an error or a cut it may be
/// back; calling again finishes.
pub fn remove_durable(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    missing_is_fine(disk.remove_file(path))?;
    // Synced also when nothing was there: the one who removed it may have died before this line.
    missing_is_fine(disk.sync_dir(parent_of(path)?))
}

/// Makes the file or directory with all its content not exist, durably; one that is missing already is fine.
/// Symlinks are removed, not followed. A cut in the middle leaves a part of the tree; calling again finishes.
pub fn remove_tree(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    let parent = parent_of(path)?;
    match disk.metadata(path)? {
        Some(found) if found.kind == EntryKind::Directory => remove_content(disk, path)?,
        Some(_) => missing_is_fine(disk.remove_file(path))?,
        None => {}
    }
    missing_is_fine(disk.sync_dir(parent))
}

/// Removes temporaries that a cut left in this directory (not below it) and says how many. A missing directory
/// has none. Not synced: one that comes back is swept next time. On a read-only file system they stay: nobody takes them
/// for anything else.
pub fn sweep_temporaries(disk: &dyn Disk, dir: &Path) -> io::Result<usize> {
    let entries = match disk.list(dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(0),
        listed => listed?,
    };
    let stale: Vec<DirEntry> =
        entries.into_iter().filter(|entry| entry.is_file() && is_temporary(&entry.name)).collect();
    for entry in &stale {
        tracing::debug!(directory = %dir.display(), name = ?entry.name, "removing a temporary that was cut off");
        match missing_is_fine(disk.remove_file(&dir.join(&entry.name))) {
            Err(error) if error.kind() == ErrorKind::ReadOnlyFilesystem => return Ok(0),
            removed => removed?,
        }
    }
    Ok(stale.len())
}

/// Removes the temporary that a cut left of a replace of this one file, or its spare, where others may be replacing its
/// neighbours. Not synced: one that comes back is swept next time.
pub fn sweep_temporary_of(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    let temporary = temporary_for(path)?;
    match disk.metadata(&temporary)? {
        Some(_) => missing_is_fine(disk.remove_file(&temporary)),
        None => Ok(()),
    }
}

/// True for names that only temporaries and spares have.
pub fn is_temporary(name: &OsStr) -> bool {
    of_temporary(name).is_some()
}

/// The name of the file that this is a temporary or spare of.
pub fn of_temporary(name: &OsStr) -> Option<&OsStr> {
    name.as_bytes().strip_prefix(TEMPORARY_PREFIX.as_bytes()).map(OsStr::from_bytes)
}

fn temporary_for(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| named("replace", path, ErrorKind::InvalidInput.into()))?;
    let mut temporary = OsString::from(TEMPORARY_PREFIX);
    temporary.push(name);
    Ok(path.with_file_name(temporary))
}

fn write_temporary(disk: &dyn Disk, temporary: &Path, bytes: &[u8]) -> io::Result<()> {
    match disk.create_new(temporary, bytes, FILE_MODE) {
        // Left by a cut. Never written over: it could have another mode, or be something else than a file.
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            disk.remove_file(temporary)?;
            disk.create_new(temporary, bytes, FILE_MODE)?;
        }
        created => created?,
    }
    disk.sync_file(temporary)
}

/// Best effort: frees the room at once (it matters on a full disk); what stays is swept later.
fn discard(disk: &dyn Disk, temporary: &Path) {
    if let Err(error) = missing_is_fine(disk.remove_file(temporary)) {
        tracing::debug!(%error, "temporary left behind");
    }
}

fn ensure_child_dir(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    create_if_missing(disk, path)?;
    match path.parent() {
        Some(_) => disk.sync_dir(parent_of(path)?),
        // The root of the file system has no name that could be lost.
        None => Ok(()),
    }
}

fn create_if_missing(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.metadata(path)? {
        Some(found) if found.kind == EntryKind::Directory => Ok(()),
        Some(found) if found.kind == EntryKind::Symlink => disk.list(path).map(drop),
        Some(_) => Err(named("use as a directory", path, ErrorKind::NotADirectory.into())),
        None => match disk.create_dir(path, DIRECTORY_MODE) {
            // Another thread was faster; only a directory can be listed.
            Err(taken) if taken.kind() == ErrorKind::AlreadyExists => disk.list(path).map(drop),
            made => made,
        },
    }
}

fn remove_content(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    for entry in disk.list(dir)? {
        let path = dir.join(&entry.name);
        match entry.kind {
            EntryKind::Directory => remove_content(disk, &path)?,
            _ => missing_is_fine(disk.remove_file(&path))?,
        }
    }
    missing_is_fine(disk.remove_dir(dir))
}

fn missing_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn parent_of(path: &Path) -> io::Result<&Path> {
    match path.parent() {
        Some(parent) if parent == Path::new("") => Ok(Path::new(".")),
        Some(parent) => Ok(parent),
        None => Err(named("find the directory of", path, ErrorKind::InvalidInput.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_lies_in_the_working_directory() {
        assert_eq!(parent_of(Path::new("record.json")).expect("a directory"), Path::new("."));
        assert_eq!(parent_of(Path::new("/persist/record.json")).expect("a directory"), Path::new("/persist"));
        assert_eq!(parent_of(Path::new("/")).expect_err("none").kind(), ErrorKind::InvalidInput);
    }
}
