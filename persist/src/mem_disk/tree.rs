//! What [`MemDisk`](super::MemDisk) holds: inodes, each with what is live and what would survive a cut.
//!
//! Errors have the kinds the kernel gives. Nothing here logs, counts beyond the fuses, or locks.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::hash::Hasher;
use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::{Call, Fate, Unsynced};
use crate::disk::{DirEntry, EntryKind, Metadata};

pub(super) type InodeId = u64;
pub(super) const ROOT: InodeId = 0;

#[derive(Debug)]
pub(super) struct State {
    pub inodes: BTreeMap<InodeId, Inode>,
    pub next_inode: InodeId,
    pub capacity_bytes: u64,
    pub exchanges_names: bool,
    /// Of all files that have a name: a removed file's room is free at once. Counted as files change.
    pub used_bytes: u64,
    pub call_count: usize,
    /// Forks keep none.
    pub log: Option<Vec<Call>>,
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
    File {
        live: Arc<Content>,
        durable: Arc<Content>,
    },
    /// `ties`: names that un-synced renames and exchanges within the directory bind together.
    Directory {
        live: Arc<Names>,
        durable: Arc<Names>,
        ties: Vec<(OsString, OsString)>,
    },
}

/// A file's bytes, shared between disks until one changes them.
#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    bytes: Vec<u8>,
    /// Made when it is first asked for: many disks hold the same content.
    hash: OnceLock<u64>,
}

pub(super) type Names = BTreeMap<OsString, InodeId>;

/// Makes the call with this number (counted from the first call ever) fail, or that one and all after it.
#[derive(Debug)]
pub(super) struct Fuse {
    pub at_call: usize,
    pub kind: ErrorKind,
    pub and_all_after: bool,
}

/// The disk after a cut, while it is being made.
pub(super) struct Survivors<'a> {
    pub kept: BTreeMap<InodeId, Inode>,
    pub next_inode: InodeId,
    pub used_bytes: u64,
    pub fate: &'a mut dyn FnMut(Unsynced<'_>) -> Fate,
}

impl State {
    pub(super) fn new_inode(&mut self, mode: u32, body: Body) -> InodeId {
        let id = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(id, Inode { mode, body });
        id
    }

    pub(super) fn blown_fuse(&mut self) -> Option<ErrorKind> {
        let this_call = self.call_count;
        self.fuses
            .iter()
            .find(|fuse| fuse.at_call == this_call || (fuse.and_all_after && fuse.at_call < this_call))
            .map(|fuse| fuse.kind)
    }

    /// The inode at this path, `None` if only its last name is missing.
    pub(super) fn find(&self, path: &Path) -> io::Result<Option<InodeId>> {
        let mut at = Some(ROOT);
        for component in path.components() {
            let name = match component {
                Component::Normal(name) => name,
                // A relative path is taken from the root.
                Component::RootDir | Component::CurDir => continue,
                Component::ParentDir | Component::Prefix(_) => return Err(ErrorKind::InvalidInput.into()),
            };
            let parent = at.ok_or(ErrorKind::NotFound)?;
            let Body::Directory { live, .. } = &self.inodes[&parent].body else {
                return Err(ErrorKind::NotADirectory.into());
            };
            at = live.get(name).copied();
        }
        Ok(at)
    }

    pub(super) fn existing(&mut self, path: &Path) -> io::Result<&mut Inode> {
        let id = self.find(path)?.ok_or(ErrorKind::NotFound)?;
        Ok(self.inodes.get_mut(&id).expect("a name always leads to an inode"))
    }

    fn found(&self, path: &Path) -> io::Result<&Inode> {
        let id = self.find(path)?.ok_or(ErrorKind::NotFound)?;
        Ok(&self.inodes[&id])
    }

    pub(super) fn content(&self, path: &Path) -> io::Result<&[u8]> {
        match &self.found(path)?.body {
            Body::File { live, .. } => Ok(&live.bytes),
            Body::Directory { .. } => Err(ErrorKind::IsADirectory.into()),
        }
    }

    pub(super) fn names_in(&self, path: &Path) -> io::Result<&Names> {
        match &self.found(path)?.body {
            Body::Directory { live, .. } => Ok(live),
            Body::File { .. } => Err(ErrorKind::NotADirectory.into()),
        }
    }

    /// To be changed.
    pub(super) fn file(&mut self, path: &Path) -> io::Result<&mut Vec<u8>> {
        match &mut self.existing(path)?.body {
            Body::File { live, .. } => Ok(Arc::make_mut(live).make_mut()),
            Body::Directory { .. } => Err(ErrorKind::IsADirectory.into()),
        }
    }

    /// To be changed.
    pub(super) fn directory(&mut self, path: &Path) -> io::Result<&mut Names> {
        match &mut self.existing(path)?.body {
            Body::Directory { live, .. } => Ok(Arc::make_mut(live)),
            Body::File { .. } => Err(ErrorKind::NotADirectory.into()),
        }
    }

    /// A rename or an exchange within this directory binds the two names together until the directory is synced.
    pub(super) fn tie(&mut self, directory: &Path, from: &OsStr, to: &OsStr) -> io::Result<()> {
        match &mut self.existing(directory)?.body {
            Body::Directory { ties, .. } => ties.push((from.to_owned(), to.to_owned())),
            Body::File { .. } => return Err(ErrorKind::NotADirectory.into()),
        }
        Ok(())
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
        let removed = self.directory(&dir)?.remove(&name);
        removed.into_iter().for_each(|id| self.unnamed(id));
        Ok(())
    }

    /// It has lost its only name; its room is free.
    pub(super) fn unnamed(&mut self, id: InodeId) {
        self.used_bytes -= self.inodes[&id].metadata().size_bytes;
    }

    /// A file gets this length, with zeros where it had nothing.
    pub(super) fn resize(&mut self, path: &Path, len: usize) -> io::Result<()> {
        let live = self.file(path)?;
        let len_before = live.len();
        live.resize(len, 0);
        self.used_bytes = self.used_bytes + len as u64 - len_before as u64;
        Ok(())
    }

    /// Writes what fits; a full disk leaves a torn write behind, as real ones do.
    pub(super) fn write(&mut self, path: &Path, offset: usize, bytes: &[u8]) -> io::Result<()> {
        let free_bytes = usize_of(self.free_bytes())?;
        let live = self.file(path)?;
        let len_before = live.len();
        let fits_until = len_before.saturating_add(free_bytes);
        let end = offset.saturating_add(bytes.len());
        let written = end.min(fits_until).saturating_sub(offset);
        if len_before < offset + written {
            live.resize(offset + written, 0);
        }
        live[offset..offset + written].copy_from_slice(&bytes[..written]);
        self.used_bytes += (offset + written).saturating_sub(len_before) as u64;
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

    pub(super) fn free_bytes(&self) -> u64 {
        self.capacity_bytes.saturating_sub(self.used_bytes)
    }

    pub(super) fn collect_files(&self, id: InodeId, path: &Path, found: &mut Vec<PathBuf>) {
        match &self.inodes[&id].body {
            Body::File { .. } => found.push(path.to_path_buf()),
            Body::Directory { live, .. } => {
                live.iter().for_each(|(name, child)| self.collect_files(*child, &path.join(name), found));
            }
        }
    }

    /// Keeps what survives of this inode and of all below it. Two names of one inode, which a half-done rename leaves,
    /// become two inodes: the second gets a number of its own.
    pub(super) fn survive<'a>(
        &'a self,
        id: InodeId,
        path: &mut Vec<&'a OsStr>,
        after: &mut Survivors<'_>,
    ) -> InodeId {
        let kept_id = if after.kept.contains_key(&id) { after.new_inode() } else { id };
        let original = &self.inodes[&id];
        let body = match &original.body {
            Body::File { live, durable } => {
                let content = surviving_content(live, durable, path, after);
                after.used_bytes += content.bytes.len() as u64;
                Body::File { live: Arc::clone(&content), durable: content }
            }
            Body::Directory { live, durable, ties } => {
                let names = surviving_names(live, durable, ties, path, after);
                let names = self.survive_below(live, durable, names, path, after);
                Body::Directory { live: Arc::clone(&names), durable: names, ties: Vec::new() }
            }
        };
        after.kept.insert(kept_id, Inode { mode: original.mode, body });
        kept_id
    }

    /// All that these names lead to; `live` and `durable` hold the names for longer than `names` does.
    fn survive_below<'a>(
        &'a self,
        live: &'a Names,
        durable: &'a Names,
        names: Arc<Names>,
        path: &mut Vec<&'a OsStr>,
        after: &mut Survivors<'_>,
    ) -> Arc<Names> {
        let mut moved = Vec::new();
        for (name, child) in names.iter() {
            let known = live.get_key_value(name).or_else(|| durable.get_key_value(name));
            let (lasting, _) = known.expect("what survives was live or durable");
            path.push(lasting);
            let kept = self.survive(*child, path, after);
            path.pop();
            if kept != *child {
                moved.push((name.clone(), kept));
            }
        }
        if moved.is_empty() {
            return names;
        }
        let mut names = (*names).clone();
        names.extend(moved);
        Arc::new(names)
    }

    pub(super) fn hash_below(&self, id: InodeId, hasher: &mut impl Hasher) {
        match &self.inodes[&id].body {
            Body::File { live, .. } => {
                hasher.write_u64(live.hash());
            }
            Body::Directory { live, .. } => {
                hasher.write_usize(live.len());
                for (name, child) in live.iter() {
                    hasher.write(name.as_encoded_bytes());
                    hasher.write_u8(0);
                    self.hash_below(*child, hasher);
                }
            }
        }
    }
}

impl Content {
    fn make_mut(&mut self) -> &mut Vec<u8> {
        self.hash.take();
        &mut self.bytes
    }

    fn hash(&self) -> u64 {
        *self.hash.get_or_init(|| {
            // Without keys: the same in every process.
            let mut hasher = rustc_hash::FxHasher::default();
            hasher.write_usize(self.bytes.len());
            hasher.write(&self.bytes);
            hasher.finish()
        })
    }
}

impl<'a> Survivors<'a> {
    /// What a cut leaves of all there is.
    pub(super) fn of(state: &State, fate: &'a mut dyn FnMut(Unsynced<'_>) -> Fate) -> Self {
        let mut survivors =
            Survivors { kept: BTreeMap::new(), next_inode: state.next_inode, used_bytes: 0, fate };
        state.survive(ROOT, &mut vec![Path::new("/").as_os_str()], &mut survivors);
        survivors
    }

    fn new_inode(&mut self) -> InodeId {
        self.next_inode += 1;
        self.next_inode - 1
    }
}

fn surviving_content(
    live: &Arc<Content>,
    durable: &Arc<Content>,
    path: &[&OsStr],
    after: &mut Survivors<'_>,
) -> Arc<Content> {
    if Arc::ptr_eq(live, durable) || live.bytes == durable.bytes {
        return Arc::clone(durable);
    }
    match (after.fate)(Unsynced::Content { path: &joined(path) }) {
        Fate::Lost => Arc::clone(durable),
        Fate::Kept => Arc::clone(live),
        Fate::Torn { sector_bytes, kept_sectors } => {
            let bytes = torn(&live.bytes, &durable.bytes, sector_bytes.max(1), kept_sectors);
            Arc::new(Content { bytes, hash: OnceLock::new() })
        }
    }
}

fn joined(path: &[&OsStr]) -> PathBuf {
    path.iter().collect()
}

/// The length is the new one; a lost sector has its old bytes, or zeros where there were none.
fn torn(live: &[u8], durable: &[u8], sector_bytes: usize, kept_sectors: u64) -> Vec<u8> {
    let mut mixed = live.to_vec();
    for (number, sector) in mixed.chunks_mut(sector_bytes).enumerate() {
        if kept_sectors >> (number % 64) & 1 == 1 {
            continue;
        }
        let start = number * sector_bytes;
        for (at, byte) in sector.iter_mut().enumerate() {
            *byte = durable.get(start + at).copied().unwrap_or(0);
        }
    }
    mixed
}

fn surviving_names(
    live: &Arc<Names>,
    durable: &Arc<Names>,
    ties: &[(OsString, OsString)],
    path: &[&OsStr],
    after: &mut Survivors<'_>,
) -> Arc<Names> {
    if Arc::ptr_eq(live, durable) || live == durable {
        return Arc::clone(durable);
    }
    let directory = joined(path);
    let mut names = (**durable).clone();
    for group in changed_groups(live, durable, ties) {
        if (after.fate)(Unsynced::Names { directory: &directory, names: &group }) == Fate::Lost {
            continue;
        }
        for name in group {
            match live.get(&name) {
                Some(id) => names.insert(name, *id),
                None => names.remove(&name),
            };
        }
    }
    Arc::new(names)
}

/// The names that differ, those that renames bind together in one group.
fn changed_groups(live: &Names, durable: &Names, ties: &[(OsString, OsString)]) -> Vec<Vec<OsString>> {
    let all: std::collections::BTreeSet<&OsString> = live.keys().chain(durable.keys()).collect();
    let changed = all.into_iter().filter(|name| live.get(*name) != durable.get(*name));
    let mut groups: Vec<Vec<OsString>> = changed.map(|name| vec![name.clone()]).collect();
    for (from, to) in ties {
        let at = |groups: &[Vec<OsString>], name| groups.iter().position(|group| group.contains(name));
        if let (Some(first), Some(second)) = (at(&groups, from), at(&groups, to))
            && first != second
        {
            let moved = groups.remove(first.max(second));
            groups[first.min(second)].extend(moved);
        }
    }
    groups
}

impl Inode {
    pub(super) fn metadata(&self) -> Metadata {
        match &self.body {
            Body::File { live, .. } => {
                Metadata { kind: EntryKind::File, size_bytes: live.bytes.len() as u64, mode: self.mode }
            }
            Body::Directory { .. } => Metadata { kind: EntryKind::Directory, size_bytes: 0, mode: self.mode },
        }
    }
}

impl Body {
    pub(super) fn empty_directory() -> Self {
        let names = Arc::<Names>::default();
        Body::Directory { live: Arc::clone(&names), durable: names, ties: Vec::new() }
    }

    pub(super) fn empty_file() -> Self {
        let content = Arc::<Content>::default();
        Body::File { live: Arc::clone(&content), durable: content }
    }
}

pub(super) fn split(path: &Path) -> io::Result<(PathBuf, OsString)> {
    let name = path.file_name().map(OsStr::to_os_string).ok_or(ErrorKind::InvalidInput)?;
    Ok((path.parent().unwrap_or(Path::new("/")).to_path_buf(), name))
}

pub(super) fn usize_of(bytes: u64) -> io::Result<usize> {
    usize::try_from(bytes).map_err(|_| ErrorKind::FileTooLarge.into())
}
