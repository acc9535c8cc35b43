//! What an image file says of itself in its header and, for qcow2, in its table of snapshots.
//!
//! A downloaded image is not trusted: a qcow2 header or a VMDK descriptor can name any file of the host as its
//! backing file, its data file or an extent, and a tool would open it. The headers are read here, so that such
//! an image is refused without being opened by anything else.
//!
//! Numbers are big-endian in qcow2 and little-endian in VMDK. Source: QEMU's description of the formats.

#![allow(clippy::disallowed_methods, reason = "part of the ImageTool seam: it reads what qemu-img wrote")]

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use chrono::DateTime;

use crate::tool::ImageSnapshot;

pub(super) const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";
const VMDK_SPARSE_MAGIC: [u8; 4] = *b"KDMV";
pub(super) const HEADER_BYTES: usize = 104;
/// QEMU's own bound.
const MOST_SNAPSHOTS: u32 = 65536;
const LONGEST_BACKING_NAME_BYTES: u32 = 1023;
pub(super) const INCOMPATIBLE_DIRTY: u64 = 1;
pub(super) const INCOMPATIBLE_CORRUPT: u64 = 1 << 1;
pub(super) const INCOMPATIBLE_DATA_FILE: u64 = 1 << 2;
const INCOMPATIBLE_WIDE_TABLES: u64 = 1 << 4;
/// Dirty, corrupt, data file, compression type, wide tables.
pub(super) const INCOMPATIBLE_KNOWN: u64 = 0b1_1111;
/// QEMU's own bounds: clusters of 512 bytes to 2 MiB.
pub(super) const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
const MOST_EXTRA_BYTES: usize = 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Qcow2Header {
    pub virtual_size_bytes: u64,
    pub backing_file: Option<String>,
    pub external_data_file: bool,
    pub encrypted: bool,
    pub marked_corrupt: bool,
    /// Why nobody can use it, whatever else it says.
    pub flaw: Option<&'static str>,
    /// What the file takes on its file system, and not its length.
    pub allocated_bytes: u64,
    snapshot_count: u32,
    snapshots_offset: u64,
}

impl Qcow2Header {
    /// The table of snapshots is where the other says, with as many in it.
    pub fn same_snapshots(&self, other: &Qcow2Header) -> bool {
        (self.snapshot_count, self.snapshots_offset) == (other.snapshot_count, other.snapshots_offset)
    }
}

/// Reads the header; `None` if the file is not qcow2.
pub(crate) fn read_qcow2(path: &Path) -> io::Result<Option<Qcow2Header>> {
    let file = File::open(path)?;
    let mut bytes = [0; HEADER_BYTES];
    let read = read_up_to(&file, &mut bytes)?;
    // Version 2 has 72 bytes and no feature bits; what follows them there is not read.
    if read < 72 || bytes[..4] != QCOW2_MAGIC {
        return Ok(None);
    }
    let features = if u32_at(&bytes, 4) >= 3 { u64_at(&bytes, 72) } else { 0 };
    let found = file.metadata()?;
    Ok(Some(Qcow2Header {
        virtual_size_bytes: u64_at(&bytes, 24),
        backing_file: backing_file(&file, u64_at(&bytes, 8), u32_at(&bytes, 16))?,
        external_data_file: features & INCOMPATIBLE_DATA_FILE != 0,
        encrypted: u32_at(&bytes, 32) != 0,
        marked_corrupt: features & INCOMPATIBLE_CORRUPT != 0,
        flaw: flaw_of_qcow2(&bytes, features, found.len()),
        allocated_bytes: found.blocks() * 512,
        snapshot_count: u32_at(&bytes, 60),
        snapshots_offset: u64_at(&bytes, 64),
    }))
}

/// Where the table of tables ends and that of reference counts begins, whichever is later.
fn tables_end_bytes(header: &[u8]) -> u64 {
    let (l1_entries, l1_offset) = (u64::from(u32_at(header, 36)), u64_at(header, 40));
    let l1_end = if l1_entries == 0 { 0 } else { l1_offset.saturating_add(l1_entries * 8) };
    l1_end.max(u64_at(header, 48))
}

fn flaw_of_qcow2(header: &[u8], features: u64, length_bytes: u64) -> Option<&'static str> {
    if !(2..=3).contains(&u32_at(header, 4)) || features & !INCOMPATIBLE_KNOWN != 0 {
        return Some("it is of a kind of qcow2 that is not known here");
    }
    // QEMU reads zeros behind the end, and finds an empty disk without an error.
    if tables_end_bytes(header) > length_bytes {
        return Some("it is cut short: its tables lie behind its end");
    }
    if u32_at(header, 60) > MOST_SNAPSHOTS {
        return Some("it has more snapshots than there can be");
    }
    let cluster_bits = u32_at(header, 20);
    if !CLUSTER_BITS.contains(&cluster_bits) {
        return Some("its clusters are of no size that there is");
    }
    let wide = features & INCOMPATIBLE_WIDE_TABLES != 0;
    let entries_of_a_table = (1_u64 << cluster_bits) / if wide { 16 } else { 8 };
    let mapped_by_a_table = entries_of_a_table << cluster_bits;
    let needed = u64_at(header, 24).div_ceil(mapped_by_a_table);
    (needed > u64::from(u32_at(header, 36))).then_some("its table of tables is too small for its size")
}

/// The snapshots in the order of the table, which is that of making. A table that ends too early or makes no sense is an
/// error of the kind `InvalidData`: an image that QEMU would not open either.
pub(crate) fn snapshots(path: &Path, header: &Qcow2Header) -> io::Result<Vec<ImageSnapshot>> {
    let entries = snapshots_in(&File::open(path)?, header.snapshot_count, header.snapshots_offset)?;
    Ok(entries.into_iter().map(|entry| entry.snapshot).collect())
}

/// A snapshot with the place of its table of tables (L1).
#[derive(Debug)]
pub(super) struct SnapshotEntry {
    pub snapshot: ImageSnapshot,
    pub l1_offset: u64,
    pub l1_entries: u32,
}

/// As [`snapshots`].
pub(super) fn snapshots_in(mut image: &File, count: u32, offset: u64) -> io::Result<Vec<SnapshotEntry>> {
    image.seek(SeekFrom::Start(offset))?;
    let mut table = io::BufReader::new(image);
    (0..count)
        .map(|_| {
            read_snapshot(&mut table).map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => io::ErrorKind::InvalidData.into(),
                _ => error,
            })
        })
        .collect()
}

/// Why qemu-img must not open this VMDK file; `None` if it may.
pub(crate) fn flaw_of_vmdk(path: &Path) -> io::Result<Option<&'static str>> {
    let mut bytes = [0; 20];
    let read = read_up_to(&File::open(path)?, &mut bytes)?;
    if read < bytes.len() || bytes[..4] != VMDK_SPARSE_MAGIC {
        return Ok(Some("only VMDK images in one sparse file are taken: a descriptor could name any file"));
    }
    let capacity_sectors = u64::from_le_bytes(array_at(&bytes, 12));
    Ok((capacity_sectors == 0).then_some("it is a VMDK descriptor, which could name any file"))
}

/// One entry of the table: fixed part, extra data (the size is its second number), id, name, padding to 8 bytes.
/// The last entry's padding may be missing where the file ends.
fn read_snapshot(table: &mut impl Read) -> io::Result<SnapshotEntry> {
    let mut fixed = [0; 40];
    table.read_exact(&mut fixed)?;
    let id_bytes = usize::from(u16::from_be_bytes(array_at(&fixed, 12)));
    let name_bytes = usize::from(u16::from_be_bytes(array_at(&fixed, 14)));
    let extra_bytes = u32_at(&fixed, 36) as usize;
    if extra_bytes > MOST_EXTRA_BYTES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let whole = fixed.len() + extra_bytes + id_bytes + name_bytes;
    let mut rest = vec![0; whole - fixed.len()];
    table.read_exact(&mut rest)?;
    io::copy(&mut table.take((whole.next_multiple_of(8) - whole) as u64), &mut io::sink())?;
    let (extra, texts) = rest.split_at(extra_bytes);
    let (id, name) = texts.split_at(id_bytes);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let created_at = DateTime::from_timestamp(i64::from(u32_at(&fixed, 16)), u32_at(&fixed, 20));
    let vm_state_in_short = u64::from(u32_at(&fixed, 32));
    let snapshot = ImageSnapshot {
        id: text(id),
        name: text(name),
        created_at: created_at.unwrap_or_default(),
        size_bytes: (extra_bytes >= 16).then(|| u64_at(extra, 8)),
        vm_state_size_bytes: if extra_bytes >= 8 { u64_at(extra, 0) } else { vm_state_in_short },
    };
    Ok(SnapshotEntry { snapshot, l1_offset: u64_at(&fixed, 0), l1_entries: u32_at(&fixed, 8) })
}

fn backing_file(file: &File, offset: u64, len_bytes: u32) -> io::Result<Option<String>> {
    if offset == 0 {
        return Ok(None);
    }
    let mut name = vec![0; len_bytes.min(LONGEST_BACKING_NAME_BYTES) as usize];
    let read = file.read_at(&mut name, offset)?;
    Ok(Some(String::from_utf8_lossy(&name[..read]).into_owned()))
}

fn read_up_to(mut file: &File, bytes: &mut [u8]) -> io::Result<usize> {
    let mut read = 0;
    while read < bytes.len() {
        match file.read(&mut bytes[read..])? {
            0 => break,
            more => read += more,
        }
    }
    Ok(read)
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array_at(bytes, at))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(array_at(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_of(bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), bytes).expect("written");
        file
    }

    fn qcow2(edit: impl FnOnce(&mut Vec<u8>)) -> tempfile::NamedTempFile {
        let mut bytes = vec![0; 200];
        bytes[..4].copy_from_slice(&QCOW2_MAGIC);
        bytes[7] = 3;
        bytes[23] = 16;
        edit(&mut bytes);
        file_of(&bytes)
    }

    #[test]
    fn a_header_that_names_other_files_is_seen_without_opening_them() {
        let backed = qcow2(|bytes| {
            bytes[15] = 110;
            bytes[19] = 11;
            bytes[110..121].copy_from_slice(b"/etc/shadow");
        });
        let header = read_qcow2(backed.path()).expect("read").expect("qcow2");
        assert_eq!(header.backing_file.as_deref(), Some("/etc/shadow"));
        let data = qcow2(|bytes| bytes[79] = 4);
        assert!(read_qcow2(data.path()).expect("read").expect("qcow2").external_data_file);
    }

    fn flaw(edit: impl FnOnce(&mut Vec<u8>)) -> Option<&'static str> {
        read_qcow2(qcow2(edit).path()).expect("read").expect("qcow2").flaw
    }

    #[test]
    fn a_file_that_ends_before_its_tables_is_cut_short() {
        let with_tables_at = |l1_offset: u8, reference_counts_offset: u8| {
            flaw(|bytes| {
                bytes[39] = 2;
                bytes[47] = l1_offset;
                bytes[55] = reference_counts_offset;
            })
            .is_some_and(|flaw| flaw.contains("cut short"))
        };
        assert!(!with_tables_at(184, 104), "just fits");
        assert!(with_tables_at(185, 104));
        assert!(with_tables_at(104, 201));
    }

    #[test]
    fn what_nobody_can_use_is_said_to_be_so() {
        assert_eq!(flaw(|_| ()), None);
        let sized = |size_mib: u64, l1_entries: u8, wide: u8| {
            flaw(|bytes| {
                bytes[24..32].copy_from_slice(&(size_mib << 20).to_be_bytes());
                bytes[39] = l1_entries;
                bytes[79] = wide;
            })
        };
        // Of clusters of 64 KiB, one table maps 512 MiB, and half of that where entries are wide.
        assert_eq!((sized(512, 1, 0), sized(1024, 2, 0), sized(256, 1, 16)), (None, None, None));
        assert!(sized(513, 1, 0).is_some() && sized(257, 1, 16).is_some());
        assert!(flaw(|bytes| bytes[23] = 8).is_some() && flaw(|bytes| bytes[23] = 22).is_some());
        assert!(flaw(|bytes| bytes[23] = 9).is_none() && flaw(|bytes| bytes[23] = 21).is_none());
        assert!(flaw(|bytes| bytes[7] = 4).is_some() && flaw(|bytes| bytes[7] = 1).is_some());
        assert!(flaw(|bytes| bytes[79] = 32).is_some(), "a feature of the future");
        assert!(flaw(|bytes| bytes[61] = 2).is_some(), "too many snapshots");
    }

    #[test]
    fn files_too_short_or_of_another_kind_are_not_qcow2() {
        for bytes in [&b""[..], b"QFI\xfb", &[0; 200]] {
            assert_eq!(read_qcow2(file_of(bytes).path()).expect("read"), None);
        }
    }

    #[test]
    fn each_mark_of_a_header_is_read_from_its_own_bit() {
        let marks = |edit: fn(&mut Vec<u8>)| {
            let header = read_qcow2(qcow2(edit).path()).expect("read").expect("qcow2");
            (header.marked_corrupt, header.external_data_file, header.encrypted)
        };
        assert_eq!(marks(|_| ()), (false, false, false));
        assert_eq!(marks(|bytes| bytes[79] = 2), (true, false, false));
        assert_eq!(marks(|bytes| bytes[79] = 4), (false, true, false));
        assert_eq!(marks(|bytes| bytes[35] = 1), (false, false, true));
        // Version 2 knows no such bits: what lies there means something else.
        let version_2 = |bytes: &mut Vec<u8>| (bytes[7], bytes[79]) = (2, 6);
        assert_eq!(marks(version_2), (false, false, false));
    }

    #[test]
    fn a_vmdk_that_ends_within_its_first_numbers_is_refused() {
        let mut short = b"KDMV".to_vec();
        short.resize(12, 0);
        short.push(8);
        assert!(flaw_of_vmdk(file_of(&short).path()).expect("read").is_some());
    }

    #[test]
    fn a_vmdk_descriptor_is_refused() {
        let text = b"# Disk DescriptorFile\nRW 1 FLAT \"/etc/shadow\" 0\n";
        assert!(flaw_of_vmdk(file_of(text).path()).expect("read").is_some());
        let mut hidden = b"KDMV".to_vec();
        hidden.resize(64, 0);
        assert!(flaw_of_vmdk(file_of(&hidden).path()).expect("read").is_some());
        hidden[12] = 8;
        assert!(flaw_of_vmdk(file_of(&hidden).path()).expect("read").is_none());
    }

    /// One entry as QEMU writes it, padded to eight bytes unless it is the last.
    fn entry(id: &str, name: &str, extra: &[u64], is_last: bool) -> Vec<u8> {
        let mut bytes = vec![0; 40];
        bytes[13] = id.len() as u8;
        bytes[15] = name.len() as u8;
        bytes[36..40].copy_from_slice(&(8 * extra.len() as u32).to_be_bytes());
        bytes.extend(extra.iter().flat_map(|number| number.to_be_bytes()));
        bytes.extend(id.bytes().chain(name.bytes()));
        if !is_last {
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        }
        bytes
    }

    fn snapshots_in(table: &[Vec<u8>]) -> io::Result<Vec<ImageSnapshot>> {
        let image = qcow2(|bytes| {
            bytes[63] = table.len() as u8;
            bytes[71] = 200;
            bytes.extend(table.concat());
        });
        let header = read_qcow2(image.path()).expect("read").expect("qcow2");
        snapshots(image.path(), &header)
    }

    /// Entries of every length, so that one read too far or too short loses all behind it.
    #[test]
    fn every_entry_of_the_table_is_read_from_its_place() {
        let most = [[0, 500].as_slice(), &[0; 126]].concat();
        let table = [
            entry("1", "first", &[0, 100], false),
            entry("12", "the second, of another length", &[9, 200, 7], false),
            entry("3", "from before sizes were kept", &[], false),
            entry("4", "with all the extra data there may be", &most, false),
            entry("5", "last", &[0, 300], true),
        ];
        let found = snapshots_in(&table).expect("read");
        let told: Vec<_> = found.iter().map(|one| (one.id.as_str(), one.size_bytes)).collect();
        assert_eq!(
            told,
            [("1", Some(100)), ("12", Some(200)), ("3", None), ("4", Some(500)), ("5", Some(300))]
        );
        assert_eq!(
            (found[1].name.as_str(), found[1].vm_state_size_bytes),
            ("the second, of another length", 9)
        );
        let too_much = [entry("1", "a", &[0, 100], false), entry("2", "b", &[0; 129], true)];
        assert_eq!(
            snapshots_in(&too_much).expect_err("beyond all bounds").kind(),
            io::ErrorKind::InvalidData
        );
    }

    #[test]
    fn the_numbers_of_an_entry_are_read_from_their_places() {
        let mut one = entry("1", "a", &[], true);
        one[16..20].copy_from_slice(&1_700_000_000_u32.to_be_bytes());
        one[20..24].copy_from_slice(&5_u32.to_be_bytes());
        one[32..36].copy_from_slice(&7_u32.to_be_bytes());
        let found = snapshots_in(&[one]).expect("read").remove(0);
        assert_eq!(Some(found.created_at), DateTime::from_timestamp(1_700_000_000, 5));
        assert_eq!(found.vm_state_size_bytes, 7, "from before it was kept in the extra data");
    }

    #[test]
    fn a_snapshot_table_that_ends_early_is_no_table() {
        let cut = [entry("1", "a", &[0, 100], false), vec![0; 30]];
        assert_eq!(snapshots_in(&cut).expect_err("half an entry").kind(), io::ErrorKind::InvalidData);
    }
}
