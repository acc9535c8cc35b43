//! What stands in an image, written and read with qemu's own tools, or on a device, read as it is: one byte that fills the
//! first part.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};

use holdfast_volumehandlers::placement::is_device;
use sha2::{Digest, Sha256};

use super::pool_disk;

/// How much of an image a guest's write fills.
pub const CONTENT_BYTES: u64 = 256 * 1024;

/// Why stories cannot be told here, if so.
pub fn missing_tool() -> Option<String> {
    ["qemu-img", "qemu-io"]
        .into_iter()
        .find(|tool| Command::new(tool).arg("--version").output().is_err())
        .map(|tool| format!("{tool} is not installed"))
}

/// Makes a qcow2 image.
pub fn make_image(path: &Path, size_bytes: u64, content: u8) {
    run(Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(path).arg(size_bytes.to_string()));
    write(path, content);
}

pub fn make_overlay(path: &Path, size_bytes: u64, backing: &Path) {
    let size = size_bytes.to_string();
    run(Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
        .arg(backing)
        .arg(path)
        .arg(size));
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// True where the bytes of the disk are those of the file.
fn is_plain(path: &Path) -> bool {
    is_device(path) || path.extension().is_some_and(|extension| extension == "raw")
}

pub fn write(path: &Path, content: u8) {
    let format = if is_plain(path) { "raw" } else { "qcow2" };
    let order = format!("write -P {content} 0 {CONTENT_BYTES}");
    run(Command::new("qemu-io").args(["-f", format, "-c", &order, "-c", "flush"]).arg(path));
}

/// The byte that fills the image's first part; None when it is not one byte throughout.
pub fn read(path: &Path) -> Option<u8> {
    let bytes = if is_plain(path) { read_device(path) } else { read_image(path) };
    let first = *bytes.first()?;
    bytes.iter().all(|byte| *byte == first).then_some(first)
}

fn read_device(path: &Path) -> Vec<u8> {
    let mut bytes = vec![0; CONTENT_BYTES as usize];
    let device = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    device.read_exact_at(&mut bytes, 0).expect("a device of that size");
    bytes
}

fn read_image(path: &Path) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let raw = folder.path().join("raw");
    let mut from = std::ffi::OsString::from("if=");
    from.push(path);
    let mut to = std::ffi::OsString::from("of=");
    to.push(&raw);
    let count = format!("count={}", CONTENT_BYTES / 4096);
    run(Command::new("qemu-img")
        .args(["dd", "-f", "qcow2", "-O", "raw", "bs=4096", &count])
        .arg(from)
        .arg(to));
    std::fs::read(raw).expect("just made")
}

/// `qemu-img check` finds nothing ([003] J4). A pool looks after its devices itself.
pub fn expect_healthy(path: &Path) {
    if is_plain(path) {
        return;
    }
    run(Command::new("qemu-img").args(["check", "-q"]).arg(path));
}

/// Names of the snapshots within the image; none in one that is just being removed.
pub fn snapshots(path: &Path) -> Vec<String> {
    if is_device(path) {
        return pool_disk::snapshots(path);
    }
    let output = Command::new("qemu-img").args(["info", "-U", "--output=json"]).arg(path).output();
    let output = output.expect("qemu-img was there before");
    if !path.exists() {
        return Vec::new();
    }
    assert!(output.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&output.stderr));
    let info: serde_json::Value = serde_json::from_slice(&output.stdout).expect("qemu-img prints JSON");
    let list = info["snapshots"].as_array().cloned().unwrap_or_default();
    list.iter().filter_map(|snapshot| snapshot["name"].as_str().map(str::to_owned)).collect()
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}
