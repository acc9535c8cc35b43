//! What a qcow2 image says of itself, read without a process: a look costs microseconds in the place of a start of qemu-img,
//! and a guest is down while it is looked at.
//!
//! ```text
//!   header ─▶ flawed: refused ─▶ needs another file: told, nothing more read ─▶ [Exclusive: nobody writes] ─▶ snapshots
//! ```
//!
//! **Who writes.** QEMU and qemu-img hold a lock (`F_OFD_SETLK`) on one byte of the image for each thing they do to it, at
//! 100 and the thing's number: 1 is writing, 3 is changing the size (QEMU, "disk image file locking" and its `file-posix`
//! driver), and one at 200 and the number for each that nobody else may do. A lock on either of these two is somebody who writes. A
//! look locks nothing: what comes after it locks for itself.
//!
//! **A look while somebody writes** ([`Access::Shared`]) may find the table of snapshots moved between header and table. It is taken
//! again then, a few times.

#![allow(clippy::disallowed_methods, reason = "part of the ImageTool seam: it looks at real images")]

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Deref;
use std::path::Path;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use super::header::{self, Qcow2Header};
use super::qemu_img::{not_an_image, unreadable_file};
use crate::error::ToolError;
use crate::tool::{Access, ImageInfo, ImageSnapshot};

/// The bytes whose locks say that the image is written to, or that its size is changed.
const WRITING: [i64; 2] = [101, 103];
/// And those that say that nobody else may do so.
const REFUSING_WRITERS: [i64; 2] = [201, 203];
const LOOKS: usize = 5;

/// As [`crate::ImageTool::info`].
pub(super) fn at_qcow2(image: &Path, access: Access) -> Result<ImageInfo, ToolError> {
    let mut header = sound_header(image)?;
    if header.backing_file.is_some() || header.external_data_file {
        return Ok(told(header, Vec::new()));
    }
    if access == Access::Exclusive && is_written(image).map_err(unreadable_file)? {
        return Err(in_use());
    }
    for _ in 1..LOOKS {
        let found = header::snapshots(image, &header);
        let after = sound_header(image)?;
        if after.same_snapshots(&header) {
            return listed(after, found);
        }
        header = after;
    }
    let found = header::snapshots(image, &header);
    listed(header, found)
}

fn listed(header: Qcow2Header, found: io::Result<Vec<ImageSnapshot>>) -> Result<ImageInfo, ToolError> {
    match found {
        Ok(snapshots) => Ok(told(header, snapshots)),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(not_an_image("its table of snapshots makes no sense"))
        }
        Err(error) => Err(unreadable_file(error)),
    }
}

fn told(header: Qcow2Header, snapshots: Vec<ImageSnapshot>) -> ImageInfo {
    ImageInfo {
        virtual_size_bytes: header.virtual_size_bytes,
        allocated_bytes: header.allocated_bytes,
        backing_file: header.backing_file,
        external_data_file: header.external_data_file,
        encrypted: header.encrypted,
        marked_corrupt: header.marked_corrupt,
        snapshots,
    }
}

fn sound_header(image: &Path) -> Result<Qcow2Header, ToolError> {
    match header::read_qcow2(image).map_err(unreadable_file)? {
        Some(Qcow2Header { flaw: Some(flaw), .. }) => Err(not_an_image(flaw)),
        Some(header) => Ok(header),
        None => Err(not_an_image("it has no qcow2 header")),
    }
}

/// The image, open for reading and writing, and kept from everybody else who writes as QEMU keeps it: whoever comes finds it locked.
#[derive(Debug)]
pub(super) struct Held(File);

impl Held {
    pub fn new(image: &Path) -> Result<Self, ToolError> {
        let file = OpenOptions::new().read(true).write(true).open(image).map_err(unreadable_file)?;
        let held = Held(file);
        held.set(libc::F_RDLCK).map_err(unreadable_file)?;
        // Two who come at once both see the other one.
        match is_locked_by_another(&held.0, held_bytes()) {
            Ok(false) => Ok(held),
            Ok(true) => Err(in_use()),
            Err(error) => Err(unreadable_file(error)),
        }
    }

    fn set(&self, kind: libc::c_int) -> io::Result<()> {
        held_bytes().try_for_each(|byte| {
            fcntl(&self.0, FcntlArg::F_OFD_SETLK(&one_byte(byte, kind)))?;
            Ok(())
        })
    }
}

impl Deref for Held {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

impl Drop for Held {
    /// A process that is just being started has the file open as well, for a moment longer.
    fn drop(&mut self) {
        let _ = self.set(libc::F_UNLCK);
    }
}

fn held_bytes() -> impl Iterator<Item = i64> {
    WRITING.into_iter().chain(REFUSING_WRITERS)
}

fn in_use() -> ToolError {
    ToolError::Locked { stderr: "another process has it open for writing".to_owned() }
}

/// Whether any other process (or any other opening of it in this one) holds the image for writing.
fn is_written(image: &Path) -> io::Result<bool> {
    is_locked_by_another(&File::open(image)?, WRITING.into_iter())
}

fn is_locked_by_another(file: &File, bytes: impl Iterator<Item = i64>) -> io::Result<bool> {
    for byte in bytes {
        // Asks which lock would keep this one from being taken; the kernel answers in the same place.
        let mut lock = one_byte(byte, libc::F_WRLCK);
        fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock))?;
        if lock.l_type != libc::F_UNLCK as libc::c_short {
            return Ok(true);
        }
    }
    Ok(false)
}

fn one_byte(byte: i64, kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Command, Stdio};

    use holdfast_types::Format;

    use super::*;
    use crate::qcow2::QemuImg;
    use crate::testing::tool_is_missing;

    fn qemu_img(arguments: &[&str], image: &Path) {
        let status = Command::new("qemu-img").args(arguments).arg(image).stdout(Stdio::null()).status();
        assert!(status.expect("qemu-img runs").success(), "{arguments:?}");
    }

    fn grow(image: &Path) {
        let status = Command::new("qemu-img").args(["resize", "-q"]).arg(image).arg("48M").status();
        assert!(status.expect("qemu-img runs").success());
    }

    /// Every kind of qcow2 that there is, with no snapshot, one, and several of different sizes and one name.
    #[test]
    fn a_look_finds_what_the_tool_finds() {
        if tool_is_missing() {
            return;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let image = folder.path().join("volume.qcow2");
        let kinds = [
            "compat=1.1",
            "compat=0.10",
            "cluster_size=512",
            "cluster_size=2M",
            "extended_l2=on",
            "lazy_refcounts=on",
            "preallocation=metadata",
            "refcount_bits=1",
        ];
        for kind in kinds {
            let create = ["create", "-q", "-f", "qcow2", "-o", kind];
            let status = Command::new("qemu-img").args(create).arg(&image).arg("32M").status();
            assert!(status.expect("qemu-img runs").success(), "{kind}");
            expect_the_same(&image, kind);
            // One bit counts one reference: no snapshot fits.
            if kind == "refcount_bits=1" {
                continue;
            }
            qemu_img(&["snapshot", "-c", "holdfast-first"], &image);
            expect_the_same(&image, kind);
            // The oldest kind cannot grow beside a snapshot.
            if kind != "compat=0.10" {
                grow(&image);
            }
            qemu_img(&["snapshot", "-c", "holdfast-first"], &image);
            qemu_img(&["snapshot", "-c", "another, with a longer name"], &image);
            expect_the_same(&image, kind);
            qemu_img(&["snapshot", "-d", "holdfast-first"], &image);
            expect_the_same(&image, kind);
        }
    }

    fn expect_the_same(image: &Path, kind: &str) {
        for access in [Access::Exclusive, Access::Shared] {
            let mut looked = at_qcow2(image, access).expect("looked");
            let told = QemuImg::new().told_by_tool(image, Format::Qcow2, access).expect("told");
            // The tool prints no sizes; the last snapshot is of the image's own.
            assert!(looked.snapshots.iter().all(|one| one.size_bytes.is_some()), "{kind}: {looked:?}");
            let last = looked.snapshots.last().map_or(Some(looked.virtual_size_bytes), |one| one.size_bytes);
            assert_eq!(last, Some(looked.virtual_size_bytes), "{kind}");
            looked.snapshots.iter_mut().for_each(|one| one.size_bytes = None);
            assert_eq!(looked, told, "{kind}, {access:?}");
        }
    }

    #[test]
    fn who_writes_to_an_image_is_seen_and_who_reads_is_not() {
        if tool_is_missing() {
            return;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let image = folder.path().join("volume.qcow2");
        qemu_img(&["create", "-q", "-f", "qcow2", "-o", "size=1M"], &image);
        for (flags, writes) in [(vec!["-r"], false), (vec![], true)] {
            let mut holder = Command::new("qemu-io")
                .args(&flags)
                .args(["-f", "qcow2"])
                .arg(&image)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("qemu-io runs");
            // Its answer comes when the image is open.
            let (mut orders, said) =
                (holder.stdin.take().expect("piped"), holder.stdout.take().expect("piped"));
            writeln!(orders, "length").expect("taken");
            let mut line = String::new();
            BufReader::new(said).read_line(&mut line).expect("told");
            let looked = at_qcow2(&image, Access::Exclusive);
            assert_eq!(matches!(looked, Err(ToolError::Locked { .. })), writes, "{flags:?}: {looked:?}");
            assert!(at_qcow2(&image, Access::Shared).is_ok(), "{flags:?}");
            // QEMU's readers let nobody write either.
            assert!(matches!(Held::new(&image), Err(ToolError::Locked { .. })), "{flags:?}");
            drop(orders);
            holder.wait().expect("it ends with its orders");
        }
    }

    #[test]
    fn an_image_that_is_held_is_opened_by_nobody_who_writes() {
        if tool_is_missing() {
            return;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let image = folder.path().join("volume.qcow2");
        qemu_img(&["create", "-q", "-f", "qcow2", "-o", "size=1M"], &image);
        let opens = |flags: &[&str]| {
            let mut order = Command::new("qemu-io");
            order.args(flags).args(["-f", "qcow2", "-c", "length"]).arg(&image);
            order.output().expect("qemu-io runs").status.success()
        };
        let first = Held::new(&image).expect("held");
        assert!(matches!(Held::new(&image), Err(ToolError::Locked { .. })), "by one at a time");
        assert!(!opens(&[]), "QEMU finds it locked");
        assert!(matches!(at_qcow2(&image, Access::Exclusive), Err(ToolError::Locked { .. })));
        drop(first);
        assert!(opens(&[]));
        assert!(Held::new(&image).is_ok());
    }

    #[test]
    fn what_is_no_image_is_told_from_what_is_not_there() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), [0; 200]).expect("written");
        let looked = at_qcow2(file.path(), Access::Shared);
        assert!(matches!(looked, Err(ToolError::NotAnImage { .. })), "{looked:?}");
        let missing = at_qcow2(Path::new("/no/such/image"), Access::Shared);
        assert!(matches!(missing, Err(ToolError::Missing { .. })), "{missing:?}");
    }

    /// Seen in the header, and nothing behind it is read: the table of snapshots that it names is not there.
    #[test]
    fn an_image_that_needs_another_file_is_told_as_that() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let mut header = vec![0; 200];
        header[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        (header[23], header[63], header[71], header[79]) = (16, 9, 190, 4);
        std::fs::write(file.path(), &header).expect("written");
        assert!(at_qcow2(file.path(), Access::Shared).expect("told").external_data_file);
        header[79] = 0;
        std::fs::write(file.path(), &header).expect("written");
        let looked = at_qcow2(file.path(), Access::Shared);
        assert!(matches!(looked, Err(ToolError::NotAnImage { .. })), "{looked:?}");
    }
}
