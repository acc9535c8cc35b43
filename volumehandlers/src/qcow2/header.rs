//! What has to be known of an image file before any tool is let near it, and what qemu-img does not tell.
//!
//! A downloaded image is not trusted: a qcow2 header or a VMDK descriptor can name any file of the host as its
//! backing file, its data file or an extent, and a tool would open it. The headers are read here, so that such
//! an image is refused without being opened by anything else. The sizes of snapshots are read as well: qemu-img
//! prints none.
//!
//! Numbers are big-endian in qcow2 and little-endian in VMDK. Source: QEMU's description of the formats.

#![allow(clippy::disallowed_methods, reason = "part of the ImageTool seam: it reads what qemu-img wrote")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";
const VMDK_SPARSE_MAGIC: [u8; 4] = *b"KDMV";
const HEADER_BYTES: usize = 104;
/// QEMU's own bound.
const MOST_SNAPSHOTS: u32 = 65536;
const LONGEST_BACKING_NAME_BYTES: u32 = 1023;
const INCOMPATIBLE_CORRUPT: u64 = 1 << 1;
const INCOMPATIBLE_DATA_FILE: u64 = 1 << 2;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Qcow2Header {
    pub virtual_size_bytes: u64,
    pub backing_file: Option<String>,
    pub external_data_file: bool,
    pub encrypted: bool,
    pub marked_corrupt: bool,
    /// The file ends before its own tables do. QEMU reads zeros there, and finds an empty disk without an error.
    pub cut_short: bool,
    snapshot_count: u32,
    snapshots_offset: u64,
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
    Ok(Some(Qcow2Header {
        virtual_size_bytes: u64_at(&bytes, 24),
        backing_file: backing_file(&file, u64_at(&bytes, 8), u32_at(&bytes, 16))?,
        external_data_file: features & INCOMPATIBLE_DATA_FILE != 0,
        encrypted: u32_at(&bytes, 32) != 0,
        marked_corrupt: features & INCOMPATIBLE_CORRUPT != 0,
        cut_short: tables_end_bytes(&bytes) > file.metadata()?.len(),
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

/// The guest's size of each snapshot, by id, of those that keep it. A table that ends too early gives fewer.
pub(crate) fn snapshot_sizes(path: &Path, header: &Qcow2Header) -> BTreeMap<String, u64> {
    let mut sizes = BTreeMap::new();
    let Ok(mut file) = File::open(path) else { return sizes };
    if file.seek(SeekFrom::Start(header.snapshots_offset)).is_err() {
        return sizes;
    }
    let mut table = io::BufReader::new(file);
    for _ in 0..header.snapshot_count.min(MOST_SNAPSHOTS) {
        match read_snapshot(&mut table) {
            Ok((id, Some(size_bytes))) => drop(sizes.insert(id, size_bytes)),
            Ok((_, None)) => {}
            Err(_) => break,
        }
    }
    sizes
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
fn read_snapshot(table: &mut impl Read) -> io::Result<(String, Option<u64>)> {
    let mut fixed = [0; 40];
    table.read_exact(&mut fixed)?;
    let id_bytes = usize::from(u16::from_be_bytes(array_at(&fixed, 12)));
    let name_bytes = usize::from(u16::from_be_bytes(array_at(&fixed, 14)));
    let extra_bytes = u32_at(&fixed, 36) as usize;
    if extra_bytes > 1024 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let whole = fixed.len() + extra_bytes + id_bytes + name_bytes;
    let mut rest = vec![0; whole - fixed.len()];
    table.read_exact(&mut rest)?;
    io::copy(&mut table.take((whole.next_multiple_of(8) - whole) as u64), &mut io::sink())?;
    let size_bytes = (extra_bytes >= 16).then(|| u64_at(&rest, 8));
    let id = String::from_utf8_lossy(&rest[extra_bytes..extra_bytes + id_bytes]).into_owned();
    Ok((id, size_bytes))
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

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
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

    #[test]
    fn a_file_that_ends_before_its_tables_is_cut_short() {
        let with_tables_at = |l1_offset: u8, reference_counts_offset: u8| {
            let file = qcow2(|bytes| {
                bytes[39] = 2;
                bytes[47] = l1_offset;
                bytes[55] = reference_counts_offset;
            });
            read_qcow2(file.path()).expect("read").expect("qcow2").cut_short
        };
        assert!(!with_tables_at(184, 104), "just fits");
        assert!(with_tables_at(185, 104));
        assert!(with_tables_at(104, 201));
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

    fn sizes_in(table: &[Vec<u8>]) -> BTreeMap<String, u64> {
        let image = qcow2(|bytes| {
            bytes[63] = table.len() as u8;
            bytes[71] = 200;
            bytes.extend(table.concat());
        });
        let header = read_qcow2(image.path()).expect("read").expect("qcow2");
        snapshot_sizes(image.path(), &header)
    }

    /// Entries of every length, so that one read too far or too short loses all behind it.
    #[test]
    fn every_entry_of_the_table_is_read_from_its_place() {
        let most = [[0, 500].as_slice(), &[0; 126]].concat();
        let table = [
            entry("1", "first", &[0, 100], false),
            entry("12", "the second, of another length", &[0, 200, 7], false),
            entry("3", "from before sizes were kept", &[], false),
            entry("4", "with all the extra data there may be", &most, false),
            entry("5", "last", &[0, 300], true),
        ];
        let expected = [("1", 100), ("12", 200), ("4", 500), ("5", 300)];
        assert_eq!(sizes_in(&table), expected.map(|(id, size_bytes)| (id.to_owned(), size_bytes)).into());
        let too_much = [entry("1", "a", &[0, 100], false), entry("2", "b", &[0; 129], true)];
        assert_eq!(sizes_in(&too_much), [("1".to_owned(), 100)].into(), "extra data beyond all bounds");
    }

    #[test]
    fn a_snapshot_table_that_ends_early_does_no_harm() {
        let cut = qcow2(|bytes| {
            bytes[63] = 200;
            bytes[71] = 150;
        });
        let header = read_qcow2(cut.path()).expect("read").expect("qcow2");
        assert!(snapshot_sizes(cut.path(), &header).len() <= 1);
    }
}
