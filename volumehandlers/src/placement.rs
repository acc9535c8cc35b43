//! Where a volume is put and as what. Pure: the volume and its content's format in, a place out.
//!
//! ```text
//!   content's format           on files                                 on ZFS
//!   qcow2, vmdk, vhdx, blank   <id>#<generation>.qcow2   handler qcow2   <root>/{vault,clear}/volumes/<id>.<generation>
//!   raw                        <id>#<generation>.raw     handler file    the same                          handler zvol
//!   iso                        <id>#<generation>.iso     handler file    a file all the same
//!   container                  a file that no handler takes: refused by name
//! ```
//!
//! The names are EVE's, so that either finds the other's volumes. A clone that takes a volume's place ([004] M2) lies beside it, as
//! `<id>#<generation>.i<incarnation>.raw`, which EVE does not know.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use holdfast_persist::PersistLayout;
use holdfast_types::volume::Format;

use crate::zvol::zfs::{DEVICES, Dataset, InvalidDataset};
use crate::{qcow2, zvol};

/// What the file system under the persist directory offers, as plain data.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Placement {
    /// Files, whatever the file system.
    #[default]
    Files,
    /// ZFS volumes below this dataset.
    Zfs { root: Dataset },
}

/// A volume's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    pub location: PathBuf,
    /// As what it lies there.
    pub format: Format,
    /// The name in records of who stores it.
    pub handler: &'static str,
}

impl Placement {
    /// The place of a volume with content of this format; `None` for a blank volume's content.
    pub fn place(
        &self,
        layout: &PersistLayout,
        encrypted: bool,
        (volume, generation): (&impl Display, &impl Display),
        content: Option<Format>,
    ) -> Result<Placed, InvalidDataset> {
        match (self, content) {
            (
                Placement::Zfs { root },
                None | Some(Format::Raw | Format::Qcow2 | Format::Vmdk | Format::Vhdx),
            ) => {
                let dataset = parent(root, encrypted)?.child(&format!("{volume}.{generation}"))?;
                Ok(Placed { location: dataset.device(), format: Format::Raw, handler: zvol::NAME })
            }
            (_, content) => {
                let format = stored_format(content);
                let location = layout.volume_file(encrypted, volume, generation, &format.name());
                let handler = handler_name(&location, format);
                Ok(Placed { location, format, handler })
            }
        }
    }

    /// The directories in which volumes of this kind lie, files and devices.
    pub fn directories(&self, layout: &PersistLayout, encrypted: bool) -> Vec<PathBuf> {
        let mut directories = vec![layout.volumes_dir(encrypted)];
        if let Placement::Zfs { root } = self {
            directories.extend(parent(root, encrypted).map(|parent| parent.device()));
        }
        directories
    }
}

/// EVE's datasets: what is encrypted lies in the vault.
fn parent(root: &Dataset, encrypted: bool) -> Result<Dataset, InvalidDataset> {
    root.child(if encrypted { "vault" } else { "clear" })?.child("volumes")
}

/// The name in records of who stores this.
pub fn handler_name(location: &Path, format: Format) -> &'static str {
    match format {
        _ if is_device(location) => zvol::NAME,
        Format::Qcow2 => qcow2::NAME,
        _ => crate::file::NAME,
    }
}

/// True for the device of a ZFS volume.
pub fn is_device(location: &Path) -> bool {
    location.starts_with(DEVICES)
}

/// The id and the generation in a volume's name, as written; `None` for a name of another kind.
pub fn name_parts(location: &Path) -> Option<(&str, &str)> {
    let name = location.file_name()?.to_str()?;
    if is_device(location) {
        return name.rsplit_once('.');
    }
    let (stem, _incarnation) = incarnation_in(location)?;
    stem.split_once('#')
}

/// Which incarnation of its volume lies there: 1, unless the name tells another.
pub fn incarnation(location: &Path) -> u64 {
    incarnation_in(location).map_or(FIRST, |(_, incarnation)| incarnation)
}

/// Where another incarnation of the volume lies. Only of a file: nothing else is reverted by cloning.
pub fn with_incarnation(location: &Path, incarnation: u64) -> PathBuf {
    let Some((stem, _)) = incarnation_in(location) else { return location.to_path_buf() };
    let format = location.extension().and_then(|format| format.to_str()).unwrap_or_default();
    location.with_file_name(match incarnation {
        FIRST => format!("{stem}.{format}"),
        _ => format!("{stem}.{MARK}{incarnation}.{format}"),
    })
}

const FIRST: u64 = 1;
const MARK: char = 'i';

/// A file's name without incarnation and format, and the incarnation.
fn incarnation_in(location: &Path) -> Option<(&str, u64)> {
    let (stem, _format) = location.file_name()?.to_str()?.rsplit_once('.')?;
    let marked = stem.rsplit_once('.').and_then(|(stem, marked)| {
        let incarnation: u64 = marked.strip_prefix(MARK)?.parse().ok()?;
        // Only as it is written here: another spelling would be a second place for the same.
        (incarnation > FIRST && marked == format!("{MARK}{incarnation}")).then_some((stem, incarnation))
    });
    Some(marked.unwrap_or((stem, FIRST)))
}

/// True if volumes of this handler are reverted in place, as it says itself ([`crate::Capabilities::revert_in_place`]).
/// Known without asking it, so that it can be decided before anything is done.
pub fn reverts_in_place(handler: &str) -> bool {
    handler != crate::file::NAME
}

/// What content of this format is stored as in a file; `None` for a blank volume's content. Containers are no volumes
/// here, and that is said by [`crate::Registry::handler_for`].
pub fn stored_format(content: Option<Format>) -> Format {
    match content {
        None | Some(Format::Qcow2 | Format::Vmdk | Format::Vhdx) => Format::Qcow2,
        Some(plain @ (Format::Raw | Format::Iso | Format::Container)) => plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(placement: &Placement, content: Option<Format>) -> (String, Format, &'static str) {
        let layout = PersistLayout::new("/persist");
        let placed = placement.place(&layout, true, (&"v", &3), content).expect("a place");
        (placed.location.display().to_string(), placed.format, placed.handler)
    }

    /// [003] K, J5: an ISO image on a ZFS node stays a file.
    #[test]
    fn the_content_and_the_file_system_say_where_a_volume_goes() {
        let zfs = Placement::Zfs { root: Dataset::parse("persist").expect("a name") };
        let device = ("/dev/zvol/persist/vault/volumes/v.3".to_owned(), Format::Raw, "zvol");
        for content in [None, Some(Format::Qcow2), Some(Format::Vmdk), Some(Format::Vhdx), Some(Format::Raw)]
        {
            assert_eq!(place(&zfs, content), device, "{content:?}");
        }
        let iso = ("/persist/vault/volumes/v#3.iso".to_owned(), Format::Iso, "file");
        assert_eq!(place(&zfs, Some(Format::Iso)), iso);
        assert_eq!(place(&Placement::Files, Some(Format::Iso)), iso);
        let image = ("/persist/vault/volumes/v#3.qcow2".to_owned(), Format::Qcow2, "qcow2");
        assert_eq!(place(&Placement::Files, None), image);
        assert_eq!(place(&Placement::Files, Some(Format::Raw)).2, "file");
    }

    #[test]
    fn a_volume_is_known_by_its_name_on_either() {
        for (location, parts) in [
            ("/persist/vault/volumes/a-b#3.qcow2", Some(("a-b", "3"))),
            ("/dev/zvol/p/vault/volumes/a-b.3", Some(("a-b", "3"))),
            ("/persist/vault/volumes/readme", None),
            ("/dev/zvol/p/vault/volumes/swap", None),
        ] {
            assert_eq!(name_parts(Path::new(location)), parts, "{location}");
        }
    }

    /// [004] M2: what a clone of a clone is called depends on its number only, and it stays the same volume.
    #[test]
    fn a_volumes_incarnations_lie_beside_each_other() {
        let first = Path::new("/persist/vault/volumes/a-b#3.raw");
        let third = Path::new("/persist/vault/volumes/a-b#3.i3.raw");
        assert_eq!(with_incarnation(first, 3), third);
        assert_eq!(with_incarnation(third, 3), third);
        assert_eq!(with_incarnation(third, 1), first);
        assert_eq!((incarnation(first), incarnation(third)), (1, 3));
        assert_eq!(name_parts(third), Some(("a-b", "3")));
        for other in ["a-b#3.i1.raw", "a-b#3.i03.raw", "a-b#3.i.raw", "a-b#3.x2.raw"] {
            assert_eq!(incarnation(Path::new(other)), 1, "{other}");
        }
    }

    #[test]
    fn a_root_whose_names_would_be_too_long_is_refused() {
        let root = Dataset::parse(&"r".repeat(250)).expect("a name");
        let placed = Placement::Zfs { root }.place(&PersistLayout::new("/p"), true, (&"v", &3), None);
        assert!(placed.is_err());
    }
}
