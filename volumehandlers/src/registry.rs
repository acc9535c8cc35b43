//! Which handler a volume has. The one place to add a backend to.
//!
//! ```text
//!   place (placement.rs)              handler
//!   below /dev/zvol                   ZvolHandler
//!   a file, qcow2                     Qcow2Handler
//!   a file, raw or iso                FileHandler, without snapshots unless they are wanted
//!   anything else                     refused by name
//! ```

use std::path::Path;
use std::sync::Arc;

use holdfast_persist::Disk;
use holdfast_types::volume::Format;

use crate::error::VolumeError;
use crate::file::FileHandler;
use crate::handler::{FoundVolume, VolumeHandler};
use crate::placement::{Placement, is_device};
use crate::qcow2::Qcow2Handler;
use crate::tool::ImageTool;
use crate::zvol::ZvolHandler;
use crate::zvol::zfs::{Dataset, Zfs};

/// What the node stores its volumes on.
#[derive(Debug, Clone, Default)]
pub enum Backing {
    /// Files, whatever the file system.
    #[default]
    Files,
    /// ZFS volumes below `root`, and files for what is no disk.
    Zfs { zfs: Arc<dyn Zfs>, root: Dataset },
}

impl Backing {
    /// Where volumes go.
    pub fn placement(&self) -> Placement {
        match self {
            Backing::Files => Placement::Files,
            Backing::Zfs { root, .. } => Placement::Zfs { root: root.clone() },
        }
    }
}

/// The handlers of this node; shares one disk and one tool among them.
#[derive(Debug, Clone)]
pub struct Registry {
    placement: Placement,
    qcow2: Arc<dyn VolumeHandler>,
    raw: Arc<dyn VolumeHandler>,
    iso: Arc<dyn VolumeHandler>,
    zvol: Option<Arc<dyn VolumeHandler>>,
}

impl Registry {
    pub fn new(backing: &Backing, disk: Arc<dyn Disk>, tool: Arc<dyn ImageTool>) -> Self {
        let file = |format| Arc::new(FileHandler::new(Arc::clone(&disk), Arc::clone(&tool), format));
        let zvol = match backing {
            Backing::Files => None,
            Backing::Zfs { zfs, root } => {
                let handler = ZvolHandler::new(Arc::clone(zfs), Arc::clone(&tool), root.clone());
                Some(Arc::new(handler) as Arc<dyn VolumeHandler>)
            }
        };
        Registry {
            placement: backing.placement(),
            raw: file(Format::Raw),
            iso: file(Format::Iso),
            qcow2: Arc::new(Qcow2Handler::new(disk, tool)),
            zvol,
        }
    }

    /// Raw disks get snapshots, as files beside them. For a caller that reverts by cloning: they cannot be reverted in place.
    pub fn with_raw_snapshots(mut self, disk: Arc<dyn Disk>, tool: Arc<dyn ImageTool>) -> Self {
        self.raw = Arc::new(FileHandler::new(disk, tool, Format::Raw).with_snapshot_files());
        self
    }

    /// Where volumes go.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// The handler of a volume that lies there, stored in this format.
    pub fn handler_for(&self, volume: &Path, stored: Format) -> Result<Arc<dyn VolumeHandler>, VolumeError> {
        let refused =
            |what| Err(VolumeError::Unsupported { volume: volume.to_path_buf(), format: stored, what });
        if is_device(volume) {
            return match &self.zvol {
                Some(zvol) => Ok(Arc::clone(zvol)),
                None => refused("a ZFS volume on a node without ZFS"),
            };
        }
        match stored {
            Format::Qcow2 => Ok(Arc::clone(&self.qcow2)),
            Format::Raw => Ok(Arc::clone(&self.raw)),
            Format::Iso => Ok(Arc::clone(&self.iso)),
            Format::Vmdk | Format::Vhdx | Format::Container => refused("storing a volume"),
        }
    }

    /// Everything that lies in a volume directory (of [`Placement::directories`]), of all handlers, sorted by location.
    pub fn inventory(&self, directory: &Path) -> Result<Vec<FoundVolume>, VolumeError> {
        let mut found = Vec::new();
        if is_device(directory) {
            if let Some(zvol) = &self.zvol {
                found.extend(zvol.inventory(directory)?);
            }
        } else {
            for handler in [&self.qcow2, &self.raw, &self.iso] {
                found.extend(handler.inventory(directory)?);
            }
        }
        found.sort_by(|a, b| a.location.cmp(&b.location).then(a.unfinished.cmp(&b.unfinished)));
        Ok(found)
    }
}
