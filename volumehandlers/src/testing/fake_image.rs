//! What a fake image is, and how it lies on a disk that may lose or tear what was not synced.
//!
//! ```text
//!   "holdfast fake image\n" record record record …      record: length, checksum, the whole image as JSON
//! ```
//!
//! Each change appends a record; the last whole one counts, and a torn tail is as if it had never been written.
//! So an un-synced change is there or not there after a cut, whatever the disk does to the bytes, and changes
//! that are half by nature (a torn rollback, a leak) are records of their own.
//!
//! A simulation reads the same records over and over: each thread remembers what the bytes of recent ones mean.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hasher;

use holdfast_types::error::Timestamp;
use holdfast_types::volume::Format;
use serde::{Deserialize, Serialize};

/// What a guest sees: text by block number; what is not there is zeros. Tests compare it as a value.
pub type Blocks = BTreeMap<u64, String>;

const MAGIC: &[u8] = b"holdfast fake image\n";
const RECORD_HEAD_BYTES: usize = 26;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FakeImage {
    pub format: Format,
    pub virtual_size_bytes: u64,
    pub blocks: Blocks,
    pub snapshots: Vec<FakeSnapshot>,
    /// Clusters that belong to nobody.
    pub leaks: u64,
    /// Damage that a check finds and cannot mend.
    pub corruptions: u64,
    pub marked_corrupt: bool,
    pub backing_file: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FakeSnapshot {
    pub id: String,
    pub name: String,
    pub created_at: Timestamp,
    pub size_bytes: u64,
    pub blocks: Blocks,
}

impl FakeImage {
    pub fn new(format: Format, virtual_size_bytes: u64, blocks: Blocks) -> Self {
        FakeImage {
            format,
            virtual_size_bytes,
            blocks,
            snapshots: Vec::new(),
            leaks: 0,
            corruptions: 0,
            marked_corrupt: false,
            backing_file: None,
        }
    }

    /// Plain bytes as an image: equal bytes give equal blocks, zeros give none.
    pub(super) fn from_plain(bytes: &[u8]) -> Self {
        let mut blocks = Blocks::new();
        if bytes.iter().any(|byte| *byte != 0) {
            blocks.insert(0, format!("bytes {:016x}", checksum(bytes)));
        }
        FakeImage::new(Format::Raw, bytes.len() as u64, blocks)
    }

    /// qemu's rule: one more than the greatest id there is.
    pub(super) fn next_id(&self) -> String {
        let greatest = self.snapshots.iter().filter_map(|s| s.id.parse::<u64>().ok()).max();
        (greatest.unwrap_or(0) + 1).to_string()
    }

    /// Ids first, names then.
    pub(super) fn find(&self, id_or_name: &str) -> Option<&FakeSnapshot> {
        let by_id = self.snapshots.iter().find(|snapshot| snapshot.id == id_or_name);
        by_id.or_else(|| self.snapshots.iter().find(|snapshot| snapshot.name == id_or_name))
    }
}

/// A fake image as a file, for a server to offer it for download.
pub fn image_bytes(image: &FakeImage) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(record(image));
    bytes
}

/// The image in these bytes and where its last whole record ends; `None` if they are no fake image.
pub(super) fn decode(bytes: &[u8]) -> Option<(FakeImage, u64)> {
    let mut rest = bytes.strip_prefix(MAGIC)?;
    let mut last = None;
    while let Some(found) = first_record(rest) {
        last = Some(found);
        rest = &rest[RECORD_HEAD_BYTES + found.1.len()..];
    }
    Some((image_of(last?)?, (bytes.len() - rest.len()) as u64))
}

pub(super) fn record(image: &FakeImage) -> Vec<u8> {
    let json = serde_json::to_vec(image).expect("a fake image has a JSON form");
    let sum = checksum(&json);
    let mut bytes = format!("{:08x} {sum:016x} ", json.len()).into_bytes();
    bytes.extend_from_slice(&json);
    remember(sum, json, image.clone());
    bytes
}

/// A whole record's checksum and JSON.
type Found<'a> = (u64, &'a [u8]);

fn first_record(bytes: &[u8]) -> Option<Found<'_>> {
    let head = std::str::from_utf8(bytes.get(..RECORD_HEAD_BYTES)?).ok()?;
    let length = usize::from_str_radix(head.get(..8)?, 16).ok()?;
    let sum = u64::from_str_radix(head.get(9..25)?, 16).ok()?;
    let json = bytes.get(RECORD_HEAD_BYTES..RECORD_HEAD_BYTES + length)?;
    (is_known((sum, json)) || checksum(json) == sum).then_some((sum, json))
}

fn image_of((sum, json): Found<'_>) -> Option<FakeImage> {
    let known = KNOWN.with_borrow(|known| {
        known.get(&sum).filter(|(bytes, _)| bytes == json).map(|(_, image)| image.clone())
    });
    if let Some(image) = known {
        return Some(image);
    }
    let image: FakeImage = serde_json::from_slice(json).ok()?;
    remember(sum, json.to_vec(), image.clone());
    Some(image)
}

const REMEMBERED_AT_MOST: usize = 2_000;

thread_local! {
    /// By checksum: the JSON of records and what it says.
    static KNOWN: RefCell<HashMap<u64, (Vec<u8>, FakeImage), rustc_hash::FxBuildHasher>> = RefCell::default();
}

fn is_known((sum, json): Found<'_>) -> bool {
    KNOWN.with_borrow(|known| known.get(&sum).is_some_and(|(bytes, _)| bytes == json))
}

fn remember(sum: u64, json: Vec<u8>, image: FakeImage) {
    KNOWN.with_borrow_mut(|known| {
        if known.len() >= REMEMBERED_AT_MOST {
            known.clear();
        }
        known.insert(sum, (json, image));
    });
}

/// Good enough to tell a torn record from a whole one; the same in every process.
pub(super) fn checksum(bytes: &[u8]) -> u64 {
    let mut hasher = rustc_hash::FxHasher::default();
    hasher.write(bytes);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_tail_is_as_if_it_had_never_been_written() {
        let first = FakeImage::new(Format::Qcow2, 512, Blocks::new());
        let second = FakeImage { leaks: 7, ..first.clone() };
        let mut bytes = image_bytes(&first);
        let end_of_first = bytes.len();
        bytes.extend(record(&second));
        assert_eq!(decode(&bytes), Some((second, bytes.len() as u64)));
        for cut in end_of_first..bytes.len() {
            assert_eq!(decode(&bytes[..cut]), Some((first.clone(), end_of_first as u64)), "cut at {cut}");
        }
        let mut zeroed = bytes.clone();
        zeroed[end_of_first..].fill(0);
        assert_eq!(decode(&zeroed), Some((first, end_of_first as u64)));
    }
}
