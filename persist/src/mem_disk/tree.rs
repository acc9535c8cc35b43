//! What [`MemDisk`](super::MemDisk) holds: inodes, each with what is live and what would survive a cut.
//!
//! Errors have the kinds the kernel gives. Nothing here logs, counts beyond the fuses, or locks.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};

use super::Call;
use crate::disk::{DirEntry, EntryKind, Metadata};

pub(super) type InodeId = u64;
pub(super) const ROOT: InodeId = 0;

#[derive(Debug)]
pub(super) struct State {
    pub inodes: BTreeMap<InodeId, Inode>,
    pub next_inode: InodeId,
    pub capacity_bytes: u64,
    pub calls: Vec<Call>,
    pub fuses: Vec<Fuse>,
    pub locks: BTreeMap<PathBuf, u64>,
    pub next_lock: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Inode {
    pub mode: u32,
    pub body: Body,
}

#[derive(Debug, Clone)]
pub(super) enum Body {
    File { live: Vec<u8>, durable: Vec<u8> },
    Directory { live: BTreeMap<OsString, InodeId>, durable: BTreeMap<OsString, InodeId> },
}

/// Makes the call with this number (counted from the first call ever) fail, or that one and all after it.
#[derive(Debug)]
pub(super) struct Fuse {
    pub at_call: usize,
    pub kind: ErrorKind,
    pub and_all_after: bool,
}

impl State {
    pub(super) fn new_inode(&mut self, mode: u32, body: Body) -> InodeId {
        let id = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(id, Inode { mode, body });
        id
    }

    pub(super) fn blown_fuse(&mut self) -> Option<ErrorKind> {
        let this_call = self.calls.len();
        self.fuses
            .iter()
            .find(|fuse| fuse.at_call == this_call || (fuse.and_all_after && fuse.at_call < this_call))
            .map(|fuse| fuse.kind)
    }

    /// The inode at this path, `None` if only its last name is missing.
    pub(super) fn find(&self, path: &Path) -> io::Result<Option<InodeId>> {
        let mut at = ROOT;
        let mut names = names(path)?.into_iter().peekable();
        while let Some(name) = names.next() {
            let Body::Directory { live, .. } = &self.inodes[&at].body else {
                return Err(ErrorKind::NotADirectory.into());
            };
            match live.get(&name) {
                Some(id) => at = *id,
                None if names.peek().is_none() => return Ok(None),
                None => return Err(ErrorKind::NotFound.into()),
            }
        }
        Ok(Some(at))
    }

    pub(super) fn existing(&mut self, path: &Path) -> io::Result<&mut Inode> {
        let id = self.find(path)?.ok_or(ErrorKind::NotFound)?;
        Ok(self.inodes.get_mut(&id).expect("a name always leads to an inode"))
    }

    pub(super) fn file(&mut self, path: &Path) -> io::Result<&mut Vec<u8>> {
        match &mut self.existing(path)?.body {
            Body::File { live, .. } => Ok(live),
            Body::Directory { .. } => Err(ErrorKind::IsADirectory.into()),
        }
    }

    pub(super) fn directory(&mut self, path: &Path) -> io::Result<&mut BTreeMap<OsString, InodeId>> {
        match &mut self.existing(path)?.body {
            Body::Directory { live, .. } => Ok(live),
            Body::File { .. } => Err(ErrorKind::NotADirectory.into()),
        }
    }

    pub(super) fn link_new(&mut self, path: &Path, mode: u32, body: Body) -> io::Result<()> {
        if self.find(path)?.is_some() {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let (dir, name) = split(path)?;
        let id = self.new_inode(mode, body);
        self.directory(&dir)?.insert(name, id);
        Ok(())
    }

    pub(super) fn unlink(&mut self, path: &Path) -> io::Result<()> {
        let (dir, name) = split(path)?;
        self.directory(&dir)?.remove(&name);
        Ok(())
    }

    /// Writes what fits; a full disk leaves a torn write behind, as real ones do.
    pub(super) fn write(&mut self, path: &Path, offset: usize, bytes: &[u8]) -> io::Result<()> {
        let free_bytes = usize_of(self.capacity_bytes.saturating_sub(self.used_bytes()))?;
        let live = self.file(path)?;
        let fits_until = live.len().saturating_add(free_bytes);
        let end = offset.saturating_add(bytes.len());
        let written = end.min(fits_until).saturating_sub(offset);
        if live.len() < offset + written {
            live.resize(offset + written, 0);
        }
        live[offset..offset + written].copy_from_slice(&bytes[..written]);
        if written < bytes.len() { Err(ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    pub(super) fn check_replaceable(&self, moved: InodeId, replaced: InodeId) -> io::Result<()> {
        match (&self.inodes[&moved].body, &self.inodes[&replaced].body) {
            (Body::File { .. }, Body::File { .. }) => Ok(()),
            (Body::File { .. }, Body::Directory { .. }) => Err(ErrorKind::IsADirectory.into()),
            (Body::Directory { .. }, Body::File { .. }) => Err(ErrorKind::NotADirectory.into()),
            (Body::Directory { .. }, Body::Directory { live, .. }) if live.is_empty() => Ok(()),
            (Body::Directory { .. }, Body::Directory { .. }) => Err(ErrorKind::DirectoryNotEmpty.into()),
        }
    }

    pub(super) fn entry(&self, name: OsString, id: InodeId) -> DirEntry {
        let Metadata { kind, size_bytes, .. } = self.inodes[&id].metadata();
        DirEntry { name, kind, size_bytes }
    }

    pub(super) fn used_bytes(&self) -> u64 {
        self.used_bytes_below(ROOT)
    }

    /// Only what a name leads to counts: a removed file's room is free at once.
    pub(super) fn used_bytes_below(&self, id: InodeId) -> u64 {
        match &self.inodes[&id].body {
            Body::File { live, .. } => live.len() as u64,
            Body::Directory { live, .. } => live.values().map(|child| self.used_bytes_below(*child)).sum(),
        }
    }

    pub(super) fn collect_files(&self, id: InodeId, path: &Path, found: &mut Vec<PathBuf>) {
        match &self.inodes[&id].body {
            Body::File { .. } => found.push(path.to_path_buf()),
            Body::Directory { live, .. } => {
                live.iter().for_each(|(name, child)| self.collect_files(*child, &path.join(name), found));
            }
        }
    }

    pub(super) fn copy_durable(
        &self,
        id: InodeId,
        kept: &mut BTreeMap<InodeId, Inode>,
        next_inode: &mut InodeId,
    ) -> InodeId {
        let copy_id = *next_inode;
        *next_inode += 1;
        let original = &self.inodes[&id];
        let body = match &original.body {
            Body::File { durable, .. } => Body::File { live: durable.clone(), durable: durable.clone() },
            Body::Directory { durable, .. } => {
                let names: BTreeMap<OsString, InodeId> = durable
                    .iter()
                    .map(|(name, child)| (name.clone(), self.copy_durable(*child, kept, next_inode)))
                    .collect();
                Body::Directory { live: names.clone(), durable: names }
            }
        };
        kept.insert(copy_id, Inode { mode: original.mode, body });
        copy_id
    }
}

impl Inode {
    pub(super) fn metadata(&self) -> Metadata {
        match &self.body {
            Body::File { live, .. } => {
                Metadata { kind: EntryKind::File, size_bytes: live.len() as u64, mode: self.mode }
            }
            Body::Directory { .. } => Metadata { kind: EntryKind::Directory, size_bytes: 0, mode: self.mode },
        }
    }
}

impl Body {
    pub(super) fn empty_directory() -> Self {
        Body::Directory { live: BTreeMap::new(), durable: BTreeMap::new() }
    }
}

/// The names from the root down. A relative path is taken from the root; `..` is refused.
fn names(path: &Path) -> io::Result<Vec<OsString>> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(Ok(name.to_os_string())),
            Component::RootDir | Component::CurDir => None,
            Component::ParentDir | Component::Prefix(_) => Some(Err(ErrorKind::InvalidInput.into())),
        })
        .collect()
}

pub(super) fn split(path: &Path) -> io::Result<(PathBuf, OsString)> {
    let name = path.file_name().map(OsStr::to_os_string).ok_or(ErrorKind::InvalidInput)?;
    Ok((path.parent().unwrap_or(Path::new("/")).to_path_buf(), name))
}

pub(super) fn usize_of(bytes: u64) -> io::Result<usize> {
    usize::try_from(bytes).map_err(|_| ErrorKind::FileTooLarge.into())
}
