//! Reads a qcow2 image without qemu: what it shows, and what each snapshot within it holds.
//!
//! Starting a process for each snapshot of each image after each kill would cost more than the kill. So the tables
//! are followed here; now and then `qemu-img convert` is asked as well, and must agree.
//!
//! Read are images as `qemu-img create` makes them: clusters of 64 KiB, nothing compressed, no backing file, whole in
//! one file. Anything else is an error. Source: QEMU's description of the format.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use super::content::{CHUNK_BYTES, ChunkHash};

const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;
const READS_AS_ZERO: u64 = 1;
/// More than any rig makes; a table that says more is damaged.
const MOST_SNAPSHOTS: u32 = 64;

/// An image's digests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    pub active: String,
    pub snapshots: Vec<Inner>,
}

/// A snapshot within an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inner {
    pub name: String,
    pub digest: String,
}

/// A table of tables: the active one, or a snapshot's.
#[derive(Debug, Clone, Copy)]
struct Root {
    offset: u64,
    entries: u64,
}

/// Reads the whole image.
pub fn read(path: &Path) -> io::Result<Image> {
    let file = File::open(path)?;
    let header = bytes_at(&file, 0, 104)?;
    if header[..4] != *b"QFI\xfb" || u32_at(&header, 20) != 16 || u64_at(&header, 8) != 0 {
        return Err(damaged("not a plain qcow2 image with clusters of 64 KiB"));
    }
    let active = Root { offset: u64_at(&header, 40), entries: u32_at(&header, 36).into() };
    let mut snapshots = Vec::new();
    let count = u32_at(&header, 60);
    if count > MOST_SNAPSHOTS {
        return Err(damaged("more snapshots than anybody made"));
    }
    let mut at = u64_at(&header, 64);
    for _ in 0..count {
        let entry = bytes_at(&file, at, 40)?;
        let (id_bytes, name_bytes) = (u64::from(u16_at(&entry, 12)), u64::from(u16_at(&entry, 14)));
        let extra_bytes = u64::from(u32_at(&entry, 36));
        let name = bytes_at(&file, at + 40 + extra_bytes + id_bytes, name_bytes)?;
        let root = Root { offset: u64_at(&entry, 0), entries: u32_at(&entry, 8).into() };
        snapshots
            .push(Inner { name: String::from_utf8_lossy(&name).into_owned(), digest: digest(&file, root)? });
        at += (40 + extra_bytes + id_bytes + name_bytes).next_multiple_of(8);
    }
    Ok(Image { active: digest(&file, active)?, snapshots })
}

/// The same digest of what `qemu-img` finds: of the active content, or of the snapshot of this name.
pub fn read_with_qemu(path: &Path, snapshot: Option<&str>, scratch: &Path) -> io::Result<String> {
    let mut command = Command::new("qemu-img");
    command.args(["convert", "-f", "qcow2", "-O", "raw"]);
    if let Some(name) = snapshot {
        command.args(["-l", &format!("snapshot.name={name}")]);
    }
    let output = command.arg(path).arg(scratch).output()?;
    if !output.status.success() {
        return Err(damaged(&format!("convert: {}", String::from_utf8_lossy(&output.stderr).trim())));
    }
    let bytes = std::fs::read(scratch)?;
    std::fs::remove_file(scratch)?;
    let mut hash = ChunkHash::default();
    for (number, chunk) in bytes.chunks(CHUNK_BYTES as usize).enumerate() {
        hash.add(number as u64, chunk);
    }
    Ok(hash.finish())
}

/// The digest of a raw file or a device.
pub fn read_raw(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = ChunkHash::default();
    for number in 0.. {
        let mut chunk = Vec::new();
        if file.by_ref().take(CHUNK_BYTES).read_to_end(&mut chunk)? == 0 {
            break;
        }
        hash.add(number, &chunk);
    }
    Ok(hash.finish())
}

fn digest(file: &File, root: Root) -> io::Result<String> {
    let mut hash = ChunkHash::default();
    let table = bytes_at(file, root.offset, root.entries * 8)?;
    let entries_per_table = CHUNK_BYTES / 8;
    for number in 0..root.entries {
        let offset = u64_at(&table, number as usize * 8) & OFFSET_MASK;
        if offset == 0 {
            continue;
        }
        let second = bytes_at(file, offset, CHUNK_BYTES)?;
        for index in 0..entries_per_table {
            let entry = u64_at(&second, index as usize * 8);
            if entry & COMPRESSED != 0 {
                return Err(damaged("a compressed cluster that nobody wrote"));
            }
            if entry & OFFSET_MASK != 0 && entry & READS_AS_ZERO == 0 {
                hash.add(
                    number * entries_per_table + index,
                    &bytes_at(file, entry & OFFSET_MASK, CHUNK_BYTES)?,
                );
            }
        }
    }
    Ok(hash.finish())
}

/// What is behind the file's end reads as zeros, as qemu reads it.
fn bytes_at(file: &File, offset: u64, len_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(len_bytes).map_err(|_| damaged("a table of absurd size"))?];
    let mut read = 0;
    while read < bytes.len() {
        match file.read_at(&mut bytes[read..], offset + read as u64)? {
            0 => break,
            more => read += more,
        }
    }
    Ok(bytes)
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(array_at(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(array_at(bytes, at))
}
