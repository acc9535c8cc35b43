//! Which handler a volume has. The one place to add a backend to.
//!
//! ```text
//!   content's format ──stored_format──▶ format on disk ──handler_for──▶ handler
//!   qcow2, vmdk, vhdx, blank            qcow2                           Qcow2Handler
//!   raw                                 raw                             FileHandler, no snapshots
//!   iso                                 iso                             FileHandler, no snapshots
//!   container                           refused by name
//! ```

use std::path::Path;
use std::sync::Arc;

use holdfast_persist::Disk;
use holdfast_types::volume::Format;

use crate::error::VolumeError;
use crate::file::FileHandler;
use crate::handler::{FoundVolume, VolumeHandler};
use crate::qcow2::Qcow2Handler;
use crate::tool::ImageTool;

/// What the file system under the persist directory offers. ZFS will be the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backing {
    /// Files, whatever the file system.
    #[default]
    Files,
}

/// The handlers of this node; shares one disk and one tool among them.
#[derive(Debug, Clone)]
pub struct Registry {
    backing: Backing,
    qcow2: Arc<dyn VolumeHandler>,
    raw: Arc<dyn VolumeHandler>,
    iso: Arc<dyn VolumeHandler>,
}

impl Registry {
    pub fn new(backing: Backing, disk: Arc<dyn Disk>, tool: Arc<dyn ImageTool>) -> Self {
        let file = |format| Arc::new(FileHandler::new(Arc::clone(&disk), Arc::clone(&tool), format));
        Registry {
            backing,
            raw: file(Format::Raw),
            iso: file(Format::Iso),
            qcow2: Arc::new(Qcow2Handler::new(disk, tool)),
        }
    }

    /// The handler of a volume stored in this format. `volume` is for the error only.
    pub fn handler_for(&self, volume: &Path, stored: Format) -> Result<Arc<dyn VolumeHandler>, VolumeError> {
        match (self.backing, stored) {
            (Backing::Files, Format::Qcow2) => Ok(Arc::clone(&self.qcow2)),
            (Backing::Files, Format::Raw) => Ok(Arc::clone(&self.raw)),
            (Backing::Files, Format::Iso) => Ok(Arc::clone(&self.iso)),
            (Backing::Files, Format::Vmdk | Format::Vhdx | Format::Container) => {
                Err(VolumeError::Unsupported {
                    volume: volume.to_path_buf(),
                    format: stored,
                    what: "storing a volume",
                })
            }
        }
    }

    /// Everything that lies in a volume directory, of all handlers, sorted by location.
    pub fn inventory(&self, directory: &Path) -> Result<Vec<FoundVolume>, VolumeError> {
        let mut found = Vec::new();
        for handler in [&self.qcow2, &self.raw, &self.iso] {
            found.extend(handler.inventory(directory)?);
        }
        found.sort_by(|a, b| a.location.cmp(&b.location).then(a.unfinished.cmp(&b.unfinished)));
        Ok(found)
    }
}

/// What content of this format is stored as; `None` for a blank volume's content. Containers are no volumes
/// here, and that is said by [`Registry::handler_for`].
pub fn stored_format(content: Option<Format>) -> Format {
    match content {
        None | Some(Format::Qcow2 | Format::Vmdk | Format::Vhdx) => Format::Qcow2,
        Some(plain @ (Format::Raw | Format::Iso | Format::Container)) => plain,
    }
}
