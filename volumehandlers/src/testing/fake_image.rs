//! What a fake image is, and how it lies on a disk that may lose or tear what was not synced.
//!
//! ```text
//!   "holdfast fake image\n" record record record …      record: the whole image (records.rs)
//! ```
//!
//! Changes that are half by nature (a torn rollback, a leak) are records of their own.

use std::collections::BTreeMap;

use holdfast_types::error::Timestamp;
use holdfast_types::volume::Format;
use serde::{Deserialize, Serialize};

use super::records::{Last, Mark, checksum, last_of, record};

/// What a guest sees: text by block number; what is not there is zeros. Tests compare it as a value.
pub type Blocks = BTreeMap<u64, String>;

const MAGIC: &[u8] = b"holdfast fake image\n";

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
    /// By anybody but a rollback and a check: from one number to the next, tables have moved.
    pub changes: u64,
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
            changes: 0,
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
    bytes.extend(record(image, Mark::FIRST).0);
    bytes
}

/// Where the next record goes, and behind which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct End {
    pub at: u64,
    pub mark: Mark,
}

/// The image in these bytes and the end of its last whole record; `None` if they are no fake image.
pub(super) fn decode(bytes: &[u8]) -> Option<(FakeImage, End)> {
    let Last { state, end, mark, .. } = last_of(bytes.strip_prefix(MAGIC)?)?;
    Some((state, End { at: (MAGIC.len() + end) as u64, mark }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An image of two records, and where each ends.
    fn two(first: &FakeImage, second: &FakeImage) -> (Vec<u8>, [End; 2]) {
        let mut bytes = image_bytes(first);
        let (_, end_of_first) = decode(&bytes).expect("an image");
        let (more, mark) = record(second, end_of_first.mark);
        bytes.extend(more);
        let end_of_second = End { at: bytes.len() as u64, mark };
        (bytes, [end_of_first, end_of_second])
    }

    #[test]
    fn a_torn_tail_is_as_if_it_had_never_been_written() {
        let first = FakeImage::new(Format::Qcow2, 512, Blocks::new());
        let second = FakeImage { leaks: 7, ..first.clone() };
        let (bytes, [end_of_first, end_of_second]) = two(&first, &second);
        let first_bytes = usize::try_from(end_of_first.at).expect("small");
        assert_eq!(decode(&bytes), Some((second, end_of_second)));
        for cut in first_bytes..bytes.len() {
            assert_eq!(decode(&bytes[..cut]), Some((first.clone(), end_of_first)), "cut at {cut}");
        }
        let mut zeroed = bytes.clone();
        zeroed[first_bytes..].fill(0);
        assert_eq!(decode(&zeroed), Some((first, end_of_first)));
    }

    /// A cut lost the second record and kept the third; a guest's write took the second one's place, was as long, and was
    /// undone by the third, which had not been there. The World's seed 11977.
    #[test]
    fn what_is_written_in_a_lost_records_place_does_not_bring_the_next_one_back() {
        let first = FakeImage::new(Format::Qcow2, 512, Blocks::new());
        let half = FakeImage { leaks: 1, ..first.clone() };
        let (mut bytes, [end_of_first, end_of_half]) = two(&first, &half);
        bytes.extend(record(&first, end_of_half.mark).0);
        let guest = FakeImage { leaks: 2, ..first.clone() };
        let (written, mark) = record(&guest, end_of_first.mark);
        let place = usize::try_from(end_of_first.at).expect("small");
        bytes[place..place + written.len()].copy_from_slice(&written);
        assert_eq!(decode(&bytes), Some((guest, End { at: end_of_half.at, mark })));
    }
}
