//! The inner machine, seen from the host: a guest with real OpenZFS in which our own programs run.
//!
//! ```text
//!   tests/zfsguest/build.sh ──▶ vmlinuz, base.img, zfs.img ─┐
//!   our binaries, ldd's libraries, `main` ──▶ disk of programs ─┴─▶ machine: QEMU under TCG ──▶ lines of its console
//! ```
//!
//! The other guest (`guest.rs`) is what Holdfast's applications run in the tests; this one is the node itself. It has no
//! installed system: an initramfs mounts the disk of programs, runs `main` from it, and powers off. What `main` says is the
//! result. A machine that cannot build OpenZFS's modules still gets the guest without them; [`ZfsGuest::zfs`] says why.

pub mod machine;
pub mod programs;
pub mod trial;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::guest::{SkipReason, target_dir};

/// A kernel, and what its initramfs is put together from.
#[derive(Debug, Clone)]
pub struct ZfsGuest {
    pub kernel: PathBuf,
    base: PathBuf,
    /// `bin` and `lib` of what every disk of programs has.
    pub tools: PathBuf,
    /// The modules and tools, or why there are none.
    pub zfs: Result<PathBuf, String>,
}

impl ZfsGuest {
    /// The guest, built on first use and kept in the target directory: minutes the first time, then milliseconds. What the
    /// build says is passed on, because somebody waits for it.
    pub fn ensure() -> Result<Self, SkipReason> {
        let out = target_dir().join("zfsguest");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("zfsguest/build.sh");
        let built = Command::new(&script)
            .arg(&out)
            .stdin(Stdio::null())
            .status()
            .map_err(|error| SkipReason(format!("{} cannot be run: {error}", script.display())))?;
        if !built.success() {
            return Err(SkipReason(format!("{} ends with {built}, see above", script.display())));
        }
        let zfs = match fs::read_to_string(out.join("zfs.missing")) {
            Ok(why) => Err(why.trim().to_owned()),
            Err(_) => Ok(out.join("zfs.img")),
        };
        Ok(ZfsGuest {
            kernel: out.join("vmlinuz"),
            base: out.join("base.img"),
            tools: out.join("tools"),
            zfs,
        })
    }

    /// Writes the initramfs, with OpenZFS's part behind it if that is wanted: a kernel unpacks one archive after the other.
    pub fn write_initramfs(&self, path: &Path, with_zfs: bool) -> anyhow::Result<()> {
        let mut image = fs::read(&self.base)?;
        if let (true, Ok(zfs)) = (with_zfs, &self.zfs) {
            image.extend(fs::read(zfs)?);
        }
        Ok(fs::write(path, image)?)
    }
}
