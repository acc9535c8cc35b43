//! The test guest, seen from the host: how to get it, what to boot it from, and how to read what it says and writes.
//!
//! `tests/guest/build.sh` makes it and `tests/guest/init` is what runs in it: at each boot it notes on every disk its version and
//! a count of its boots, as lines of text at fixed sectors, and says on the console what it found and what it wrote:
//!
//! ```text
//! guest: started version=1 disks=2
//! guest: found disk=vda role=image access=rw version=1 boots=none last-version=none payload=none
//! guest: wrote disk=vda role=image boots=1 last-version=1 payload=none
//! guest: ready version=1 vda-boots=1 vdb-boots=1
//! ```
//!
//! A version other than 1 also writes `payload=written-by-<version>` to its data disks. Options on the kernel command line:
//! `holdfast.ignore_shutdown=1`, `holdfast.crash_after=<s>`, `holdfast.poweroff_after=<s>`, `holdfast.reboot_after=<s>`,
//! `holdfast.write=<payload>`.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

pub const SECTOR_BYTES: usize = 512;
/// Where each line is kept on a disk, by its key.
pub const VERSION_LINE: Line = Line { sector: 0, key: "guest-version" };
pub const BOOTS_LINE: Line = Line { sector: 8, key: "boots" };
pub const LAST_VERSION_LINE: Line = Line { sector: 16, key: "last-version" };
pub const PAYLOAD_LINE: Line = Line { sector: 24, key: "payload" };

/// What the kernel must be told in any case: speak on the serial port, and nothing but what matters.
pub const KERNEL_OPTIONS: &str = "console=ttyS0 quiet";

#[derive(Debug, Clone, Copy)]
pub struct Line {
    pub sector: usize,
    pub key: &'static str,
}

/// A bootable kernel and its initramfs.
#[derive(Debug, Clone)]
pub struct Guest {
    pub kernel: PathBuf,
    pub initrd: PathBuf,
}

/// Why this machine cannot run the guest. Print it and let the test pass.
#[derive(Debug)]
pub struct SkipReason(pub String);

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Guest {
    /// The guest, built on first use and kept in the target directory. A few seconds the first time, then milliseconds.
    pub fn ensure() -> Result<Self, SkipReason> {
        for tool in ["qemu-system-x86_64", "qemu-img", "busybox", "cpio", "dpkg-deb", "apt-get"] {
            if !runs(tool, "--version") && !runs(tool, "--help") {
                return Err(SkipReason(format!(
                    "{tool} is not installed (tests/setup/install.sh installs it)"
                )));
            }
        }
        let out = target_dir().join("guest");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest/build.sh");
        let built = Command::new(&script)
            .arg(&out)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| SkipReason(format!("{} cannot be run: {error}", script.display())))?;
        if !built.status.success() {
            let said = String::from_utf8_lossy(&built.stderr).trim().to_owned();
            return Err(SkipReason(format!("the test guest cannot be built: {said}")));
        }
        Ok(Self { kernel: out.join("vmlinuz"), initrd: out.join("initrd.img") })
    }
}

/// The content of an image volume: the first disk of a guest of this version.
pub fn image_content(version: &str, size_bytes: usize) -> Vec<u8> {
    let mut content = vec![0; size_bytes];
    let line = format!("{}={version}\n", VERSION_LINE.key);
    content[..line.len()].copy_from_slice(line.as_bytes());
    content
}

/// Makes a qcow2 image that holds `content`, or a blank one of 8 MiB.
pub fn make_qcow2(path: &Path, content: Option<&[u8]>) -> anyhow::Result<()> {
    let Some(content) = content else {
        return qemu_img(&["create", "-q", "-f", "qcow2", utf8(path)?, "8M"]);
    };
    let raw = path.with_extension("raw.tmp");
    fs::write(&raw, content)?;
    // The source's format is stated: text at the start of a disk can look like some other format's header.
    let converted = qemu_img(&["convert", "-f", "raw", "-O", "qcow2", utf8(&raw)?, utf8(path)?]);
    fs::remove_file(&raw)?;
    converted
}

/// The whole content of a qcow2 image, or of one of its snapshots, as the guest would see it. Also while a guest runs on it, but
/// then it may be out of date.
pub fn read_qcow2(path: &Path, snapshot: Option<&str>) -> anyhow::Result<Vec<u8>> {
    let scratch = tempfile::tempdir()?;
    let raw = scratch.path().join("content");
    let mut words = vec!["convert", "-U", "-f", "qcow2", "-O", "raw"];
    if let Some(name) = snapshot {
        words.extend(["-l", name]);
    }
    words.extend([utf8(path)?, utf8(&raw)?]);
    qemu_img(&words)?;
    Ok(fs::read(raw)?)
}

/// The value of a line on a disk, if it is there.
pub fn read_line(content: &[u8], line: Line) -> Option<String> {
    let start = line.sector * SECTOR_BYTES;
    let text = String::from_utf8_lossy(content.get(start..start + SECTOR_BYTES)?).into_owned();
    let first = text.split(['\n', '\0']).next()?;
    Some(first.strip_prefix(line.key)?.strip_prefix('=')?.to_owned())
}

/// What the sector of [`boot_sector`] says on the serial port.
pub const BOOT_SECTOR_SAYS: &str = "HOLDFAST-BOOTSECTOR";

/// A boot sector for a disk boot: says [`BOOT_SECTOR_SAYS`] on the first serial port, then halts.
pub fn boot_sector() -> [u8; SECTOR_BYTES] {
    const CODE: [u8; 34] = [
        0xfc, // cld
        0x31, 0xc0, // xor ax, ax
        0x8e, 0xd8, // mov ds, ax
        0xbe, 0x22, 0x7c, // mov si, 7c22h: the text, just behind the code
        0xac, // next: lodsb
        0x84, 0xc0, // test al, al
        0x74, 0x12, // jz halt
        0x88, 0xc4, // mov ah, al
        0xba, 0xfd, 0x03, // mov dx, 3fdh: line status
        0xec, // full: in al, dx
        0xa8, 0x20, // test al, 20h: room for a character
        0x74, 0xfb, // jz full
        0x88, 0xe0, // mov al, ah
        0xba, 0xf8, 0x03, // mov dx, 3f8h: the first serial port
        0xee, // out dx, al
        0xeb, 0xe9, // jmp next
        0xf4, // halt: hlt
        0xeb, 0xfd, // jmp halt
    ];
    let mut sector = [0; SECTOR_BYTES];
    sector[..CODE.len()].copy_from_slice(&CODE);
    let text = format!("{BOOT_SECTOR_SAYS}\r\n");
    sector[CODE.len()..CODE.len() + text.len()].copy_from_slice(text.as_bytes());
    sector[SECTOR_BYTES - 2..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

/// The console log of a guest.
#[derive(Debug, Clone)]
pub struct Console {
    pub path: PathBuf,
}

impl Console {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// All complete lines so far; none if there is no file yet.
    pub fn lines(&self) -> Vec<String> {
        let bytes = fs::read(&self.path).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        complete.lines().map(|line| line.trim_end_matches('\r').to_owned()).collect()
    }

    /// The lines with this text in them.
    pub fn lines_with(&self, text: &str) -> Vec<String> {
        self.lines().into_iter().filter(|line| line.contains(text)).collect()
    }

    /// Waits until `count` lines hold this text (the log is appended to across boots) and gives the last of these; if
    /// time is up, the error shows the log.
    pub fn wait_for(&self, text: &str, count: usize, at_most: Duration) -> anyhow::Result<String> {
        let end = Instant::now() + at_most;
        loop {
            if let Some(line) = self.lines_with(text).into_iter().nth(count - 1) {
                return Ok(line);
            }
            if Instant::now() >= end {
                let log = self.lines().join("\n");
                bail!("the guest did not say {text:?} {count} times within {at_most:?}; its console:\n{log}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The `key=value` words of a console line.
pub fn fields(line: &str) -> BTreeMap<String, String> {
    let pairs = line.split_ascii_whitespace().filter_map(|word| word.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// Where cargo builds, and what is built once is kept.
pub fn target_dir() -> PathBuf {
    let chosen = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    chosen.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"))
}

fn runs(tool: &str, word: &str) -> bool {
    let quiet = Command::new(tool)
        .arg(word)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    quiet.is_ok_and(|status| status.success())
}

fn qemu_img(words: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("qemu-img").args(words).output().context("qemu-img cannot be run")?;
    if !output.status.success() {
        bail!("qemu-img {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn utf8(path: &Path) -> anyhow::Result<&str> {
    path.to_str().with_context(|| format!("{path:?} is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_where_they_are_written() {
        let mut content = image_content("2", 64 * SECTOR_BYTES);
        assert_eq!(read_line(&content, VERSION_LINE).as_deref(), Some("2"));
        assert_eq!(read_line(&content, BOOTS_LINE), None);
        content[8 * SECTOR_BYTES..][..8].copy_from_slice(b"boots=12");
        assert_eq!(read_line(&content, BOOTS_LINE).as_deref(), Some("12"));
    }

    #[test]
    fn a_console_line_is_taken_apart() {
        let line = fields("guest: ready version=1 vda-boots=3");
        assert_eq!((line["version"].as_str(), line["vda-boots"].as_str()), ("1", "3"));
    }
}
