//! A copy of the tables that applying a snapshot changes, from which the image is put back to the byte: what a safety snapshot is
//! for, without its three walks through the image.
//!
//! ```text
//!   "holdfast kept tables 1\n" │ length of the image │ part … part │ end, crc32 of all before it
//!                               part:  offset, bytes │ the bytes, or (bytes with the top bit set) as many zeros
//! ```
//!
//! Numbers are of 64 bits, the sum of 32, little-endian. The file is written once and synced by whoever names it; one that does not
//! match its sum, or is not of the image as it is but for an apply, is [`ToolError::NotAnImage`], and nothing is written by it.
//!
//! What it gives back is the image of the moment of the copy only as long as nothing but that apply has changed it; to mend leaks is
//! a change, too. The clusters that hold a guest's data are not copied: the apply frees some and neither overwrites nor discards any.
//! [`discard_freed`] does the latter once nobody goes back any more.

#![allow(clippy::disallowed_methods, reason = "part of the ImageTool seam: it copies parts of real images")]

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};

use super::tables::Layout;
use crate::context::HandlerCx;
use crate::error::ToolError;

const MAGIC: &[u8] = b"holdfast kept tables 1\n";
const ZEROS: u64 = 1 << 63;
const END: u64 = u64::MAX;
/// Of the header: all but the features, of which an apply may set one while it is at it.
const HEADER_BYTES: usize = 72;
/// Zeros are left out in blocks of this size.
const BLOCK_BYTES: usize = 4096;
/// At most in memory, and at most in a part that holds bytes.
const CHUNK_BYTES: usize = 128 << 10;

/// Writes the copy into an empty file. False, and nothing written, where there is no knowing what the apply would change, or the copy
/// might take more than `most_bytes`.
pub(super) fn keep(
    image: &File,
    id: &str,
    into: &Path,
    most_bytes: u64,
    cx: &HandlerCx<'_>,
) -> Result<bool, ToolError> {
    let Some(layout) = Layout::read(image).map_err(reading)?.filter(|layout| layout.is_settled) else {
        return Ok(false);
    };
    let Some(ranges) = layout.changed_by_apply(image, id).map_err(reading)? else { return Ok(false) };
    let bytes: u64 = ranges.iter().map(|range| range.end - range.start).sum();
    if bytes > most_bytes {
        return Ok(false);
    }
    let file = OpenOptions::new().write(true).open(into).map_err(copying)?;
    let mut out = Summed { inner: BufWriter::with_capacity(1 << 16, file), sum: crc32fast::Hasher::new() };
    out.put(MAGIC)?;
    out.put_number(layout.length_bytes)?;
    let mut chunk = vec![0; CHUNK_BYTES];
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            if cx.cancelled() {
                return Err(ToolError::Cancelled);
            }
            let bytes = &mut chunk[..((range.end - at) as usize).min(CHUNK_BYTES)];
            image.read_exact_at(bytes, at).map_err(reading)?;
            put_parts(&mut out, at, bytes)?;
            at += bytes.len() as u64;
        }
    }
    out.put_number(END)?;
    let sum = out.sum.finalize().to_le_bytes();
    out.inner.write_all(&sum).and_then(|()| out.inner.flush()).map_err(copying)?;
    Ok(true)
}

/// Makes the image what it was when the copy was made. Not flushed. Cut anywhere, it can be done again; and no cluster that is referred to is
/// counted too low meanwhile, so that also who gives it up half-way has nothing worse than leaks.
pub(super) fn put_back(image: &File, from: &Path, cx: &HandlerCx<'_>) -> Result<(), ToolError> {
    let length_bytes = check(image, from, cx)?;
    let Some(layout) = Layout::read(image).map_err(reading)? else {
        return Err(damaged("the image is not of a kind that it is made of"));
    };
    let blocks = layout.blocks_of_counts(image).map_err(reading)?;
    let rewrite = |wanted: &dyn Fn(bool, Piece<'_>) -> Vec<u8>| {
        let mut now = Vec::new();
        each_piece(from, layout.cluster_bytes(), cx, |at, before| {
            read_to(image, at, before.len(), &mut now)?;
            let is_count = blocks.contains_key(&(at - at % layout.cluster_bytes()));
            let wanted = wanted(is_count, Piece { before, now: &now });
            // What is so already is not written: a hole stays one, and takes no room.
            if wanted == now { Ok(()) } else { image.write_all_at(&wanted, at).map_err(writing) }
        })
    };
    // Counts that suit both what it is and what it was; then what it was; then the counts of that.
    rewrite(&|is_count, piece| match is_count {
        true => layout.larger_counts(piece.before, piece.now),
        false => piece.now.to_vec(),
    })?;
    image.sync_data().map_err(writing)?;
    rewrite(&|is_count, piece| if is_count { piece.now.to_vec() } else { piece.before.to_vec() })?;
    image.sync_data().map_err(writing)?;
    rewrite(&|_, piece| piece.before.to_vec())?;
    if image.metadata().map_err(reading)?.len() != length_bytes {
        image.set_len(length_bytes).map_err(writing)?;
    }
    Ok(())
}

/// Gives back to the file system the clusters that the copy counts and the image does not. Done again, it does no harm. Only of an image
/// whose counts are right: between an apply and putting it back they are not.
pub(super) fn discard_freed(image: &File, since: &Path, cx: &HandlerCx<'_>) -> Result<(), ToolError> {
    check(image, since, cx)?;
    let Some(layout) = Layout::read(image).map_err(reading)?.filter(|layout| layout.is_settled) else {
        return Ok(());
    };
    let blocks = layout.blocks_of_counts(image).map_err(reading)?;
    let (mut now, mut run) = (Vec::new(), 0..0);
    each_piece(since, layout.cluster_bytes(), cx, |at, before| {
        let within = at % layout.cluster_bytes();
        let Some(number) = blocks.get(&(at - within)) else { return Ok(()) };
        read_to(image, at, before.len(), &mut now)?;
        for cluster in layout.uncounted((*number, within), before, &now) {
            if cluster.start == run.end {
                run.end = cluster.end;
            } else {
                discard(image, std::mem::replace(&mut run, cluster), layout.length_bytes)?;
            }
        }
        Ok(())
    })?;
    discard(image, run, layout.length_bytes)
}

fn discard(image: &File, run: Range<u64>, length_bytes: u64) -> Result<(), ToolError> {
    let end = run.end.min(length_bytes);
    if run.start >= end {
        return Ok(());
    }
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match fallocate(image, flags, run.start, end - run.start) {
        // Where the file system cannot, the room stays the image's, and what it writes next takes it.
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
        Err(error) => Err(writing(error.into())),
    }
}

/// Nothing is done by a copy before it is known to be whole, and to be of this image as it is but for an apply: that changes neither its
/// size, nor where its tables are, nor which snapshots it has. Answers with the image's length then.
fn check(image: &File, from: &Path, cx: &HandlerCx<'_>) -> Result<u64, ToolError> {
    let mut header = [0; HEADER_BYTES];
    image.read_exact_at(&mut header, 0).map_err(reading)?;
    let mut is_of_image = false;
    let length_bytes = each_piece(from, CHUNK_BYTES as u64, cx, |at, before| {
        is_of_image |= at == 0 && before.get(..HEADER_BYTES) == Some(&header);
        Ok(())
    })?;
    match is_of_image {
        true => Ok(length_bytes),
        false => Err(damaged("it is of another image, or of this one before somebody else changed it")),
    }
}

/// A part of the image as the copy has it, and as it is.
struct Piece<'a> {
    before: &'a [u8],
    now: &'a [u8],
}

struct Summed<W> {
    inner: W,
    sum: crc32fast::Hasher,
}

impl<W: Write> Summed<W> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), ToolError> {
        self.sum.update(bytes);
        self.inner.write_all(bytes).map_err(copying)
    }

    fn put_number(&mut self, number: u64) -> Result<(), ToolError> {
        self.put(&number.to_le_bytes())
    }
}

impl<R: Read> Summed<R> {
    fn take(&mut self, bytes: &mut [u8]) -> Result<(), ToolError> {
        self.inner.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => damaged("it ends too early"),
            _ => copying(error),
        })?;
        self.sum.update(bytes);
        Ok(())
    }

    fn take_number(&mut self) -> Result<u64, ToolError> {
        let mut number = [0; 8];
        self.take(&mut number)?;
        Ok(u64::from_le_bytes(number))
    }
}

/// As parts of zeros and parts of bytes.
fn put_parts(out: &mut Summed<impl Write>, at: u64, bytes: &[u8]) -> Result<(), ToolError> {
    let is_zero = |block: &[u8]| block.iter().all(|byte| *byte == 0);
    let mut blocks = bytes.chunks(BLOCK_BYTES).peekable();
    let mut begin = 0;
    while let Some(first) = blocks.next() {
        let zero = is_zero(first);
        let mut end = begin + first.len();
        while let Some(next) = blocks.next_if(|next| is_zero(next) == zero) {
            end += next.len();
        }
        out.put_number(at + begin as u64)?;
        let length = (end - begin) as u64;
        out.put_number(if zero { length | ZEROS } else { length })?;
        if !zero {
            out.put(&bytes[begin..end])?;
        }
        begin = end;
    }
    Ok(())
}

/// Hands out all that the copy holds, in its order, in pieces none of which lies across a multiple of `border_bytes`; before it is known
/// whether the sum is right. Answers with the image's length if it is.
fn each_piece(
    from: &Path,
    border_bytes: u64,
    cx: &HandlerCx<'_>,
    mut each: impl FnMut(u64, &[u8]) -> Result<(), ToolError>,
) -> Result<u64, ToolError> {
    static ZERO: [u8; CHUNK_BYTES] = [0; CHUNK_BYTES];
    let file = File::open(from).map_err(copying)?;
    let mut kept = Summed { inner: BufReader::with_capacity(1 << 16, file), sum: crc32fast::Hasher::new() };
    let mut magic = [0; MAGIC.len()];
    kept.take(&mut magic)?;
    if magic != MAGIC {
        return Err(damaged("it does not begin as one"));
    }
    let length_bytes = kept.take_number()?;
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let mut at = kept.take_number()?;
        if at == END {
            break;
        }
        let length = kept.take_number()?;
        let (is_zero, mut left) = (length & ZEROS != 0, length & !ZEROS);
        if at.saturating_add(left) > length_bytes || (!is_zero && left > CHUNK_BYTES as u64) {
            return Err(damaged("a part of it makes no sense"));
        }
        let mut bytes: &[u8] = &ZERO;
        if !is_zero {
            let part = &mut chunk[..left as usize];
            kept.take(part)?;
            bytes = part;
        }
        while left > 0 {
            if cx.cancelled() {
                return Err(ToolError::Cancelled);
            }
            let piece = left.min(border_bytes - at % border_bytes).min(CHUNK_BYTES as u64);
            each(at, &bytes[..piece as usize])?;
            if !is_zero {
                bytes = &bytes[piece as usize..];
            }
            (at, left) = (at + piece, left - piece);
        }
    }
    let expected = kept.sum.clone().finalize();
    let mut sum = [0; 4];
    kept.take(&mut sum)?;
    match u32::from_le_bytes(sum) == expected {
        true => Ok(length_bytes),
        false => Err(damaged("it does not match its checksum")),
    }
}

fn read_to(image: &File, at: u64, bytes: usize, buffer: &mut Vec<u8>) -> Result<(), ToolError> {
    buffer.resize(bytes, 0);
    image.read_exact_at(buffer, at).map_err(reading)
}

fn damaged(why: &str) -> ToolError {
    ToolError::NotAnImage { stderr: format!("the copy of its tables is damaged: {why}") }
}

fn reading(error: io::Error) -> ToolError {
    ToolError::from_io("reading the image's tables", error)
}

fn writing(error: io::Error) -> ToolError {
    ToolError::from_io("writing the image's tables", error)
}

fn copying(error: io::Error) -> ToolError {
    ToolError::from_io("the copy of the image's tables", error)
}
