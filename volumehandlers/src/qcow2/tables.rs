//! Where the tables of a qcow2 image lie that applying one of its snapshots changes, and which clusters are not counted any more.
//!
//! ```text
//!   header ─▶ table of counts ─▶ blocks of counts
//!          ─▶ active table (L1) ─▶ its tables of clusters (L2)          all of these are ranges of the file
//!          ─▶ snapshot ─▶ its L1 ─▶ its L2s
//! ```
//!
//! `qemu-img snapshot -a` counts what the snapshot refers to, writes the snapshot's L1 over the active one, counts down what that
//! one had referred to, and sets the "copied" flags in the L1s and L2s of both (QEMU's `qcow2_snapshot_goto`). As long as both have
//! one size and the snapshot's L1 is no longer than the active one, it allocates nothing: then these ranges are all that it
//! writes to, and what it frees keeps its bytes if discards are not passed on. Where that is not known to be so, there is no
//! answer (`None`).
//!
//! Numbers are big-endian. Source: QEMU's description of the format (`docs/interop/qcow2.txt`).

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::header::{
    CLUSTER_BITS, HEADER_BYTES, INCOMPATIBLE_CORRUPT, INCOMPATIBLE_DATA_FILE, INCOMPATIBLE_DIRTY,
    INCOMPATIBLE_KNOWN, QCOW2_MAGIC, SnapshotEntry, snapshots_in, u32_at, u64_at,
};

const ENTRY_BYTES: u64 = 8;
/// The bits of an entry that are an offset.
const L1_OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COUNTS_OFFSET: u64 = 0xffff_ffff_ffff_fe00;
/// Another compression and wide tables change nothing of where tables lie, and a table is one cluster all the same.
const FEATURES: u64 = INCOMPATIBLE_KNOWN & !INCOMPATIBLE_DATA_FILE;
/// It was not closed, or somebody found it damaged: its counts may be wrong.
const UNSETTLED: u64 = INCOMPATIBLE_DIRTY | INCOMPATIBLE_CORRUPT;
/// Counts of whole bytes: 8 to 64 bits.
const COUNT_ORDERS: std::ops::RangeInclusive<u32> = 3..=6;
/// QEMU's own bounds.
const LONGEST_L1_BYTES: u64 = 32 << 20;
const LONGEST_TABLE_OF_COUNTS_BYTES: u64 = 8 << 20;

/// What leads to the tables of an image whose tables are understood.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    cluster_bytes: u64,
    size_bytes: u64,
    l1: Range<u64>,
    table_of_counts: Range<u64>,
    bytes_of_count: u64,
    snapshots: (u32, u64),
    pub length_bytes: u64,
    /// Its counts are right, as far as it knows itself.
    pub is_settled: bool,
}

impl Layout {
    /// `None` for an image that is not of a kind whose changes are known, or that is in no state for them.
    pub fn read(image: &File) -> io::Result<Option<Self>> {
        let length_bytes = image.metadata()?.len();
        let mut header = [0; HEADER_BYTES];
        if length_bytes < HEADER_BYTES as u64 {
            return Ok(None);
        }
        image.read_exact_at(&mut header, 0)?;
        let version = u32_at(&header, 4);
        // Version 2 has no feature bits, and counts of 16 bits.
        let (features, autoclear, count_order) = match version {
            3 => (u64_at(&header, 72), u64_at(&header, 88), u32_at(&header, 96)),
            _ => (0, 0, 4),
        };
        let cluster_bits = u32_at(&header, 20);
        let is_known = header.starts_with(&QCOW2_MAGIC)
            && matches!(version, 2 | 3)
            && features & !FEATURES == 0
            // Bitmaps, which QEMU takes in when it opens the image and writes anew when it closes it.
            && autoclear == 0
            && COUNT_ORDERS.contains(&count_order)
            && CLUSTER_BITS.contains(&cluster_bits);
        if !is_known {
            return Ok(None);
        }
        let cluster_bytes = 1 << cluster_bits;
        let counts_bytes = u64::from(u32_at(&header, 56)) * cluster_bytes;
        let l1_bytes = u64::from(u32_at(&header, 36)) * ENTRY_BYTES;
        let layout = Layout {
            cluster_bytes,
            size_bytes: u64_at(&header, 24),
            l1: range(u64_at(&header, 40), l1_bytes),
            table_of_counts: range(u64_at(&header, 48), counts_bytes),
            bytes_of_count: 1 << (count_order - 3),
            snapshots: (u32_at(&header, 60), u64_at(&header, 64)),
            length_bytes,
            is_settled: features & UNSETTLED == 0,
        };
        let is_sound = l1_bytes <= LONGEST_L1_BYTES
            && counts_bytes <= LONGEST_TABLE_OF_COUNTS_BYTES
            && layout.is_in_place(&layout.l1)
            && layout.is_in_place(&layout.table_of_counts);
        Ok(is_sound.then_some(layout))
    }

    /// The ranges that applying the snapshot of this id may write to, in order and apart from each other.
    pub fn changed_by_apply(&self, image: &File, id: &str) -> io::Result<Option<Vec<Range<u64>>>> {
        let (count, offset) = self.snapshots;
        let entries = snapshots_in(image, count, offset)?;
        let Some(SnapshotEntry { snapshot, l1_offset, l1_entries }) =
            entries.into_iter().find(|entry| entry.snapshot.id == id)
        else {
            return Ok(None);
        };
        let l1 = range(l1_offset, u64::from(l1_entries) * ENTRY_BYTES);
        let is_plain = snapshot.size_bytes == Some(self.size_bytes)
            && length(&l1) <= length(&self.l1)
            && self.is_in_place(&l1);
        if !is_plain {
            return Ok(None);
        }
        let mut ranges = vec![0..self.cluster_bytes.min(self.length_bytes), self.table_of_counts.clone()];
        let tables = [(&self.table_of_counts, COUNTS_OFFSET), (&self.l1, L1_OFFSET), (&l1, L1_OFFSET)];
        for (table, mask) in tables {
            ranges.push(table.clone());
            for at in entries_of(image, table)?.into_iter().map(|entry| entry & mask).filter(|at| *at != 0) {
                let named = range(at, self.cluster_bytes);
                if !self.is_in_place(&named) {
                    return Ok(None);
                }
                ranges.push(named);
            }
        }
        Ok(Some(merged(ranges)))
    }

    /// Where the blocks of counts begin, each with its number.
    pub fn blocks_of_counts(&self, image: &File) -> io::Result<BTreeMap<u64, u64>> {
        let entries = entries_of(image, &self.table_of_counts)?.into_iter().zip(0..);
        Ok(entries
            .map(|(entry, number)| (entry & COUNTS_OFFSET, number))
            .filter(|(at, _)| *at != 0)
            .collect())
    }

    /// The clusters that were counted and are not, by a part of a block of counts as it was and as it is.
    pub fn uncounted<'a>(
        &self,
        (block, within_bytes): (u64, u64),
        before: &'a [u8],
        now: &'a [u8],
    ) -> impl Iterator<Item = Range<u64>> + 'a {
        let (cluster_bytes, width) = (self.cluster_bytes, self.bytes_of_count as usize);
        let first = block * (cluster_bytes / self.bytes_of_count) + within_bytes / self.bytes_of_count;
        let counts = before.chunks_exact(width).zip(now.chunks_exact(width)).zip(first..);
        let is_none = |count: &[u8]| count.iter().all(|byte| *byte == 0);
        counts
            .filter(move |((before, now), _)| !is_none(before) && is_none(now))
            .map(move |(_, cluster)| range(cluster.saturating_mul(cluster_bytes), cluster_bytes))
    }

    /// For each count the larger one of two.
    pub fn larger_counts(&self, one: &[u8], other: &[u8]) -> Vec<u8> {
        let width = self.bytes_of_count as usize;
        // Big-endian: bytes compare as numbers do.
        let pairs = one.chunks(width).zip(other.chunks(width));
        pairs.flat_map(|(one, other)| one.max(other)).copied().collect()
    }

    pub fn cluster_bytes(&self) -> u64 {
        self.cluster_bytes
    }

    /// At the border of a cluster, and within the file.
    fn is_in_place(&self, range: &Range<u64>) -> bool {
        range.start.is_multiple_of(self.cluster_bytes) && range.end <= self.length_bytes
    }
}

/// The same bytes in as few ranges as possible, in order.
fn merged(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for next in ranges.into_iter().filter(|range| !range.is_empty()) {
        match merged.last_mut() {
            Some(last) if next.start <= last.end => last.end = last.end.max(next.end),
            _ => merged.push(next),
        }
    }
    merged
}

fn range(offset: u64, bytes: u64) -> Range<u64> {
    offset..offset.saturating_add(bytes)
}

fn length(range: &Range<u64>) -> u64 {
    range.end - range.start
}

fn entries_of(image: &File, table: &Range<u64>) -> io::Result<Vec<u64>> {
    let mut bytes = vec![0; length(table) as usize];
    image.read_exact_at(&mut bytes, table.start)?;
    Ok(bytes.chunks_exact(ENTRY_BYTES as usize).map(|entry| u64_at(entry, 0)).collect())
}
