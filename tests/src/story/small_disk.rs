//! A persist directory that holds only so much, to be filled to the brim.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A tmpfs on the persist directory; dropping it takes it away.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// `Err` says why there can be none here: mounting is root's.
    pub(super) fn mount(path: &Path, size_mib: u32) -> Result<SmallDisk, String> {
        std::fs::create_dir(path).map_err(|error| error.to_string())?;
        let size = format!("size={size_mib}m,mode=0700");
        let output =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "holdfast-story"]).arg(path).output();
        match output {
            Ok(output) if output.status.success() => Ok(SmallDisk { path: path.to_path_buf() }),
            Ok(output) => Err(format!("no tmpfs: {}", String::from_utf8_lossy(&output.stderr).trim())),
            Err(error) => Err(format!("mount: {error}")),
        }
    }

    /// Takes all the room that is left.
    pub fn fill(&self) {
        let mut file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.filler())
            .expect("a directory entry takes no room");
        while file.write_all(&[0x5a; 4096]).is_ok() {}
    }

    pub fn empty(&self) {
        std::fs::remove_file(self.filler()).expect("filled before");
    }

    fn filler(&self) -> PathBuf {
        self.path.join("somebody-elses-file")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a job that was left behind may still be in there.
        let unmounted = Command::new("umount").arg("-l").arg(&self.path).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} is still mounted", self.path.display());
        }
    }
}
