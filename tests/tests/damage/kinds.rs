//! What can happen to a file while nobody looks.

use std::path::{Path, PathBuf};

use holdfast_persist::{Disk, MemDisk};

/// One damage to one file, or to two that change places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    pub path: PathBuf,
    pub kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Truncated {
        to_bytes: usize,
    },
    Zeroed,
    Flipped {
        byte: usize,
        bit: u8,
    },
    Newer,
    /// Holds what is in this file of the same kind: another application's, another volume's.
    HasContentOf(PathBuf),
    SwappedWith(PathBuf),
}

/// Every damage to this file; `others` are the files it could be mistaken for. So many of its bits are flipped, each in a
/// damage of its own.
pub fn every(disk: &MemDisk, path: &Path, others: &[PathBuf], flips: usize) -> Vec<Damage> {
    let length = disk.read(path).expect("it is there").len();
    let mut kinds = vec![Kind::Zeroed];
    // A row without its last brace, without its last field, half of it, its first byte, nothing.
    let mut cuts = vec![0, 1, length / 4, length / 2, length.saturating_sub(20), length.saturating_sub(1)];
    cuts.extend(length.checked_sub(2));
    cuts.dedup();
    kinds.extend(cuts.into_iter().map(|to_bytes| Kind::Truncated { to_bytes }));
    // A prime stride meets names, values and brackets.
    let places = (0..flips).map(|n| (n * length / flips + n * 7) % length.max(1));
    kinds.extend(places.enumerate().map(|(n, byte)| Kind::Flipped { byte, bit: [0, 4, 2, 7][n % 4] }));
    kinds.push(Kind::Newer);
    for other in others.iter().filter(|other| is_alike(path, other)) {
        kinds.push(Kind::HasContentOf(other.clone()));
        kinds.push(Kind::SwappedWith(other.clone()));
    }
    kinds.into_iter().map(|kind| Damage { path: path.to_path_buf(), kind }).collect()
}

/// The same record of another snapshot, or a row of the same topic.
fn is_alike(path: &Path, other: &Path) -> bool {
    let kind = |path: &Path| -> Option<PathBuf> {
        match path.starts_with("/persist/snapshots") {
            true => Some(PathBuf::from(path.file_name()?)),
            false => path.parent().map(Path::to_path_buf),
        }
    };
    path != other && kind(path) == kind(other)
}

impl Damage {
    /// Does it. False if the file is afterwards as it was.
    pub fn inflict(&self, disk: &MemDisk) -> bool {
        let before = disk.read(&self.path).expect("it is there");
        let after = match &self.kind {
            Kind::Truncated { to_bytes } => before[..*to_bytes].to_vec(),
            Kind::Zeroed => vec![0; before.len()],
            Kind::Flipped { byte, bit } => {
                let mut after = before.clone();
                after[*byte] ^= 1 << bit;
                after
            }
            Kind::Newer => match newer(&before) {
                Some(after) => after,
                None => return false,
            },
            Kind::HasContentOf(other) => disk.read(other).expect("it is there"),
            Kind::SwappedWith(other) => {
                let theirs = disk.read(other).expect("it is there");
                put(disk, other, &before);
                theirs
            }
        };
        put(disk, &self.path, &after);
        before != after
    }
}

/// As a later release would write it: with its number, and with fields that this release does not know.
fn newer(bytes: &[u8]) -> Option<Vec<u8>> {
    let serde_json::Value::Object(mut fields) = serde_json::from_slice(bytes).ok()? else { return None };
    fields.remove("Checksum");
    fields.insert("FormatVersion".into(), 99.into());
    fields.insert("OfTomorrow".into(), serde_json::json!({"What": [1, 2, 3]}));
    serde_json::to_vec(&fields).ok()
}

fn put(disk: &MemDisk, path: &Path, bytes: &[u8]) {
    disk.truncate(path, 0).expect("it is there");
    disk.write_at(path, 0, bytes).expect("there is room");
    disk.sync_file(path).expect("it is there");
}
