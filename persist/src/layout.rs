//! Every path under the persist directory, and the only place that knows them (architecture section 7).
//!
//! ```text
//! <root>/
//!   lock                                          one node per persist directory
//!   reserve                                       ballast, given up when the disk is full
//!   checkpoint/lastconfig                         last good device configuration, as received
//!   snapshots/<SnapshotID>/                       the three files of a snapshot
//!   status/<agent>/<Topic>/<key>.json             rows of persistent topics, some with a spare (.tmp~<key>.json)
//!   quarantine/                                   damaged files, each with its reason
//!   downloads/                                    content fetched in part
//!   vault/volumes/<VolumeID>#<generation>.<format>   encrypted volumes
//!   clear/volumes/<VolumeID>#<generation>.<format>   the others
//!   domains/<app>/                                console log
//!   run/<app>/                                    control socket, process id
//! ```
//!
//! Ids reach this place checked ([003] A8). Should one slip through, it still cannot leave its directory:
//! [`component`] writes whatever is not plain as `%XX`.

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

use crate::crashsafe;
use crate::disk::{Disk, DiskLock, EntryKind};

/// Longest file name we make; file systems allow 255 bytes, and temporaries and suffixes need some.
pub const MAX_COMPONENT_BYTES: usize = 230;

/// Where everything is, from one root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PersistLayout {
    root: PathBuf,
}

/// Why the persist directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    #[error("the persist directory {} is not a directory", root.display())]
    NotADirectory { root: PathBuf },
    #[error("the persist directory {} is in use by another node", root.display())]
    InUse { root: PathBuf },
    #[error("the persist directory {} cannot be used", root.display())]
    Unusable { root: PathBuf, source: io::Error },
}

impl PrepareError {
    /// True if the directory is there and can be read, and its file system takes no writes.
    pub fn is_read_only(&self) -> bool {
        matches!(self, PrepareError::Unusable { source, .. } if source.kind() == io::ErrorKind::ReadOnlyFilesystem)
    }
}

impl PersistLayout {
    pub fn new(root: impl Into<PathBuf>) -> Self {
        PersistLayout { root: root.into() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn lock_file(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub fn reserve_file(&self) -> PathBuf {
        self.root.join("reserve")
    }

    pub fn checkpoint_dir(&self) -> PathBuf {
        self.root.join("checkpoint")
    }

    pub fn last_config_file(&self) -> PathBuf {
        self.checkpoint_dir().join("lastconfig")
    }

    pub fn snapshots_dir(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    pub fn snapshot_dir(&self, snapshot: &impl Display) -> PathBuf {
        self.snapshots_dir().join(component(snapshot))
    }

    /// The application's configuration as last applied before the snapshot; written by zedmanager.
    pub fn app_config_file(&self, snapshot: &impl Display) -> PathBuf {
        self.snapshot_dir(snapshot).join("appInstanceConfig.json")
    }

    /// What storage holds of the snapshot, per volume; written by volumemgr.
    pub fn volumes_snapshot_status_file(&self, snapshot: &impl Display) -> PathBuf {
        self.snapshot_dir(snapshot).join("volumesSnapshotStatus.json")
    }

    /// The snapshot's descriptor, times and error; written by zedmanager.
    pub fn snapshot_instance_status_file(&self, snapshot: &impl Display) -> PathBuf {
        self.snapshot_dir(snapshot).join("snapshotInstanceStatus.json")
    }

    pub fn status_root(&self) -> PathBuf {
        self.root.join("status")
    }

    pub fn status_dir(&self, agent: &str) -> PathBuf {
        self.status_root().join(component(&agent))
    }

    pub fn topic_dir(&self, agent: &str, topic: &str) -> PathBuf {
        self.status_dir(agent).join(component(&topic))
    }

    pub fn row_file(&self, agent: &str, topic: &str, key: &impl Display) -> PathBuf {
        self.topic_dir(agent, topic).join(format!("{}.json", component(key)))
    }

    pub fn quarantine_dir(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    pub fn downloads_dir(&self) -> PathBuf {
        self.root.join("downloads")
    }

    /// A download in progress, kept across restarts so that it can be resumed.
    pub fn download_file(&self, content: &impl Display) -> PathBuf {
        self.downloads_dir().join(component(content))
    }

    pub fn volumes_dir(&self, encrypted: bool) -> PathBuf {
        self.root.join(if encrypted { "vault" } else { "clear" }).join("volumes")
    }

    pub fn volume_file(
        &self,
        encrypted: bool,
        volume: &impl Display,
        generation: &impl Display,
        format: &impl Display,
    ) -> PathBuf {
        let name = format!("{}#{}.{}", component(volume), component(generation), component(format));
        self.volumes_dir(encrypted).join(name)
    }

    pub fn domains_dir(&self) -> PathBuf {
        self.root.join("domains")
    }

    /// Control sockets and process ids of running domains; the hypervisor's seam makes and empties it.
    pub fn run_dir(&self) -> PathBuf {
        self.root.join("run")
    }

    /// What a domain leaves for people: its console log. Not kept when the application goes.
    pub fn domain_dir(&self, app: &impl Display) -> PathBuf {
        self.domains_dir().join(component(app))
    }

    /// Makes the root and every fixed directory exist, durably, mode 0700, and proves that the disk takes
    /// writes. Idempotent; a cut in the middle is finished by the next call.
    ///
    /// Fails naming the path: not a directory, not readable, read-only. A *full* disk fails here only while a
    /// directory is still missing: a node that was set up comes up on it, since deleting must work.
    pub fn prepare(&self, disk: &dyn Disk) -> Result<(), PrepareError> {
        self.prepare_root(disk)?;
        crashsafe::ensure_dirs(disk, &self.fixed_dirs()).map_err(|e| self.unusable(e))?;
        // Every syncable name is durable now; whether files can be changed shows when one is opened to write.
        disk.write_at(&self.lock_file(), 0, b"").map_err(|e| self.unusable(e))
    }

    /// Takes the directory for this process, for as long as the guard lives.
    pub fn lock(&self, disk: &dyn Disk) -> Result<DiskLock, PrepareError> {
        disk.lock_exclusive(&self.lock_file()).map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => PrepareError::InUse { root: self.root.clone() },
            _ => self.unusable(e),
        })
    }

    fn prepare_root(&self, disk: &dyn Disk) -> Result<(), PrepareError> {
        match disk.metadata(&self.root).map_err(|e| self.unusable(e))? {
            // What is above the root is the owner's; it may not even be readable for us.
            Some(found) if matches!(found.kind, EntryKind::Directory | EntryKind::Symlink) => {
                disk.list(&self.root).map(drop).map_err(|e| self.unusable(e))
            }
            Some(_) => Err(PrepareError::NotADirectory { root: self.root.clone() }),
            None => crashsafe::ensure_dir(disk, &self.root).map_err(|e| self.unusable(e)),
        }
    }

    /// Parents before children.
    fn fixed_dirs(&self) -> Vec<PathBuf> {
        vec![
            self.checkpoint_dir(),
            self.snapshots_dir(),
            self.status_root(),
            self.quarantine_dir(),
            self.downloads_dir(),
            self.domains_dir(),
            self.root.join("vault"),
            self.volumes_dir(true),
            self.root.join("clear"),
            self.volumes_dir(false),
        ]
    }

    fn unusable(&self, source: io::Error) -> PrepareError {
        PrepareError::Unusable { root: self.root.clone(), source }
    }
}

/// One safe name inside a directory, from any text: letters, digits and `-_.@:+=,` stay, all else becomes
/// `%XX`, and so does a leading dot (no `..`, and never mistaken for a temporary). [`from_component`] reads it
/// back.
pub fn component(text: &impl Display) -> String {
    let text = text.to_string();
    let mut name = String::with_capacity(text.len());
    for (at, byte) in text.bytes().enumerate() {
        if is_plain(byte) && !(at == 0 && byte == b'.') {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("%{byte:02X}"));
        }
    }
    if name.is_empty() { "%".to_string() } else { name }
}

/// The text that [`component`] made this name from; `None` for names it never makes.
pub fn from_component(name: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = if name == "%" { "" } else { name };
    while let Some(first) = rest.bytes().next() {
        if first == b'%' {
            bytes.push(u8::from_str_radix(rest.get(1..3)?, 16).ok()?);
            rest = &rest[3..];
        } else {
            bytes.push(is_plain(first).then_some(first)?);
            rest = &rest[1..];
        }
    }
    let text = String::from_utf8(bytes).ok()?;
    (component(&text) == name).then_some(text)
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.@:+=,".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemDisk;

    #[test]
    fn ids_become_plain_names_and_come_back() {
        for text in ["db", "2f4c#3", "../../etc/passwd", ".hidden", "", "%41", "a/b", "é", "a\0b", "a.b"] {
            let name = component(&text);
            assert!(!name.contains('/') && !name.starts_with('.') && !name.is_empty(), "{text:?} → {name:?}");
            assert_eq!(from_component(&name).as_deref(), Some(text));
        }
        for foreign in ["a b", "%4", "%zz", "%2d", "..", "a%2Eb"] {
            assert_eq!(from_component(foreign), None, "{foreign:?}");
        }
    }

    #[test]
    fn paths_are_those_of_the_architecture() {
        let layout = PersistLayout::new("/persist");
        assert_eq!(
            layout.volumes_snapshot_status_file(&"s1"),
            Path::new("/persist/snapshots/s1/volumesSnapshotStatus.json")
        );
        assert_eq!(layout.app_config_file(&"s1"), Path::new("/persist/snapshots/s1/appInstanceConfig.json"));
        assert_eq!(
            layout.snapshot_instance_status_file(&"s1"),
            Path::new("/persist/snapshots/s1/snapshotInstanceStatus.json")
        );
        assert_eq!(
            layout.row_file("zedmanager", "Operation", &"db"),
            Path::new("/persist/status/zedmanager/Operation/db.json")
        );
        assert_eq!(
            layout.volume_file(false, &"v1", &2, &"qcow2"),
            Path::new("/persist/clear/volumes/v1#2.qcow2")
        );
        assert_eq!(layout.volumes_dir(true), Path::new("/persist/vault/volumes"));
        assert_eq!(layout.last_config_file(), Path::new("/persist/checkpoint/lastconfig"));
    }

    #[test]
    fn prepare_survives_a_cut_after_every_call() {
        let layout = PersistLayout::new("/persist");
        let whole = MemDisk::new();
        layout.prepare(&whole).unwrap();
        for cut in 1..=whole.call_count() {
            let disk = MemDisk::new();
            disk.cut_power_at(cut);
            layout.prepare(&disk).expect_err("the power was cut");
            disk.crash();
            layout.prepare(&disk).unwrap();
            disk.crash();
            for dir in layout.fixed_dirs() {
                assert!(disk.metadata(&dir).unwrap().is_some(), "cut {cut} lost {}", dir.display());
            }
        }
    }

    #[test]
    fn a_root_that_cannot_be_used_is_named() {
        let disk = MemDisk::new();
        disk.create_new(Path::new("/persist"), b"", 0o600).unwrap();
        let refused = PersistLayout::new("/persist").prepare(&disk).unwrap_err();
        assert_eq!(refused.to_string(), "the persist directory /persist is not a directory");

        let disk = MemDisk::new();
        disk.fail_at(1, io::ErrorKind::PermissionDenied);
        let refused = PersistLayout::new("/persist").prepare(&disk).unwrap_err();
        assert_eq!(refused.to_string(), "the persist directory /persist cannot be used");
    }

    #[test]
    fn a_full_disk_that_was_set_up_is_usable() {
        let layout = PersistLayout::new("/persist");
        let disk = MemDisk::new();
        layout.prepare(&disk).unwrap();
        disk.set_capacity(0);
        layout.prepare(&disk).unwrap();
    }

    #[test]
    fn the_second_node_is_told_so() {
        let layout = PersistLayout::new("/persist");
        let disk = MemDisk::new();
        layout.prepare(&disk).unwrap();
        let held = layout.lock(&disk).unwrap();
        assert!(matches!(layout.lock(&disk), Err(PrepareError::InUse { .. })));
        drop(held);
        layout.lock(&disk).unwrap();
    }
}
