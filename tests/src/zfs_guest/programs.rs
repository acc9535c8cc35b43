//! The disk of programs: what runs in the inner machine, with the libraries that `ldd` names.
//!
//! It is an ext4 image that mke2fs fills from a directory, so that nobody has to mount anything. The inner machine reads
//! only the parts it needs, and must not write to it. Binaries are stripped on the way: debug information is most of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use super::ZfsGuest;

/// Room beside the files, for the file system's own tables.
const SPARE_BYTES: u64 = 32 * 1024 * 1024;

/// A directory that becomes the disk.
#[derive(Debug)]
pub struct Programs {
    directory: PathBuf,
}

impl Programs {
    /// In a directory of its own, which need not be there yet. The guest's tools are there from the beginning.
    pub fn new(directory: PathBuf, guest: &ZfsGuest) -> anyhow::Result<Programs> {
        fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        let parts = [guest.tools.join("bin"), guest.tools.join("lib")];
        let [bin, lib] = parts.each_ref().map(|part| part.as_os_str());
        run("cp", &["-a".as_ref(), bin, lib, directory.as_os_str()])?;
        Ok(Programs { directory })
    }

    /// Under `/programs/bin/<name>`, with its libraries under `/programs/lib`.
    pub fn add(&self, binary: &Path, name: &str) -> anyhow::Result<()> {
        let place = self.directory.join("bin").join(name);
        fs::copy(binary, &place).with_context(|| binary.display().to_string())?;
        run("strip", &["--strip-debug".as_ref(), place.as_ref()])?;
        for library in libraries(binary)? {
            let name = library.file_name().context("a library without a name")?;
            fs::copy(&library, self.directory.join("lib").join(name))
                .with_context(|| library.display().to_string())?;
        }
        Ok(())
    }

    /// What the inner machine runs, by its shell. Its exit code is the machine's last word.
    pub fn set_main(&self, script: &str) -> anyhow::Result<()> {
        Ok(fs::write(self.directory.join("main"), script)?)
    }

    /// Makes the image.
    pub fn write_disk(&self, image: &Path) -> anyhow::Result<()> {
        let size_bytes = SPARE_BYTES + size_below(&self.directory)? * 5 / 4;
        fs::File::create(image)?.set_len(size_bytes)?;
        let flags = ["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d"];
        let mut words: Vec<&std::ffi::OsStr> = flags.iter().map(AsRef::as_ref).collect();
        words.extend([self.directory.as_os_str(), image.as_os_str()]);
        run("/sbin/mke2fs", &words)
    }
}

/// The libraries a program is linked to, as this machine has them. The loader itself has a fixed place in the initramfs.
fn libraries(binary: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(binary).output().context("ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if let Some(line) = text.lines().find(|line| line.contains("not found")) {
        bail!("{}: {}", binary.display(), line.trim());
    }
    let found = text.lines().filter_map(|line| line.split_once("=> ")?.1.split(' ').next());
    Ok(found.filter(|path| path.starts_with('/')).map(PathBuf::from).collect())
}

fn size_below(directory: &Path) -> anyhow::Result<u64> {
    let mut total_bytes = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        total_bytes += if metadata.is_dir() { size_below(&entry.path())? } else { metadata.len() };
    }
    Ok(total_bytes)
}

fn run(program: &str, words: &[&std::ffi::OsStr]) -> anyhow::Result<()> {
    let output = Command::new(program).args(words).output().with_context(|| program.to_owned())?;
    if !output.status.success() {
        bail!("{program} ends with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
