//! The ballast: a file kept in the persist directory only to be given up when the disk is full.
//!
//! ```text
//!            ensure: written, synced                 a durable write finds no space
//!   Spent ──────────────────────────────▶ Held ──────────────────────────────────────▶ Spent
//!     ▲     (free space ≥ 2 × ballast)            (ballast removed, the write tried once more)   │
//!     └──────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! A full disk must not end in a restart loop (architecture section 4): the step under way finishes on the
//! ballast's room, [`Reserve::is_spent`] tells the node to refuse new operations, and deleting goes on as ever.
//! The ballast comes back only when there is twice its size free, so that it does not take the last of the room.
//!
//! The ballast is filled with noise, not zeros: a file system that compresses (ZFS, btrfs) stores zeros as
//! nothing, and giving up nothing frees nothing. The noise is the same every time; nothing here draws numbers.
//!
//! Deliberately absent: deciding what is refused meanwhile.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use crate::crashsafe;
use crate::disk::{Disk, is_no_space};
use crate::layout::PersistLayout;
use crate::record::RecordError;

/// Room for thousands of rows and records: far more than the steps that can be under way when the disk fills.
pub const RESERVE_SIZE_BYTES: u64 = 8 << 20;
const CHUNK_BYTES: u64 = 1 << 20;

/// The node's one ballast file, shared by all that write durably.
#[derive(Debug)]
pub struct Reserve {
    path: PathBuf,
    size_bytes: u64,
    spent: AtomicBool,
    /// Held while the file is made or removed.
    changing: Mutex<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReserveState {
    /// The ballast is there, whole.
    Held,
    /// It is gone and there is no room to bring it back: new operations are refused.
    Spent,
}

/// The result of a write, and whether it needed the reserve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written<T> {
    pub value: T,
    pub reserve_used: bool,
}

/// Errors that may mean that there is no room.
pub trait MayBeNoSpace {
    fn is_no_space(&self) -> bool;
}

impl MayBeNoSpace for io::Error {
    fn is_no_space(&self) -> bool {
        is_no_space(self)
    }
}

impl MayBeNoSpace for RecordError {
    fn is_no_space(&self) -> bool {
        RecordError::is_no_space(self)
    }
}

impl Reserve {
    /// Spent until [`Reserve::ensure`] has seen or made the file.
    pub fn new(layout: &PersistLayout) -> Self {
        Reserve::with_size(layout, RESERVE_SIZE_BYTES)
    }

    pub fn with_size(layout: &PersistLayout, size_bytes: u64) -> Self {
        let (spent, changing) = (AtomicBool::new(true), Mutex::default());
        Reserve { path: layout.reserve_file(), size_bytes, spent, changing }
    }

    /// Makes the ballast exist, durably, if there is room; for the start of the node. A full disk is not an
    /// error here: the answer is `Spent`. A cut in the middle leaves a short file, which counts as none.
    pub fn ensure(&self, disk: &dyn Disk) -> io::Result<ReserveState> {
        let _changing = self.begin_change();
        if self.is_whole(disk)? {
            self.spent.store(false, Ordering::SeqCst);
            return Ok(ReserveState::Held);
        }
        self.spent.store(true, Ordering::SeqCst);
        self.remake(disk)
    }

    /// Brings the ballast back when there is space again. Cheap while it is held; meant to be called now and
    /// then, and after a deletion.
    pub fn try_restore(&self, disk: &dyn Disk) -> io::Result<ReserveState> {
        if self.is_spent() { self.ensure(disk) } else { Ok(ReserveState::Held) }
    }

    /// Gives the ballast up. From here on [`Reserve::is_spent`] is true, also if the removal fails. Says whether
    /// there was anything to give.
    pub fn release(&self, disk: &dyn Disk) -> io::Result<bool> {
        let _changing = self.begin_change();
        self.spent.store(true, Ordering::SeqCst);
        let was_there = disk.metadata(&self.path)?.is_some();
        // Synced, because some file systems give freed blocks out again only after the removal is committed.
        crashsafe::remove_durable(disk, &self.path)?;
        Ok(was_there)
    }

    /// True from the first write that needed the reserve until the ballast is back.
    pub fn is_spent(&self) -> bool {
        self.spent.load(Ordering::SeqCst)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn remake(&self, disk: &dyn Disk) -> io::Result<ReserveState> {
        crashsafe::remove_durable(disk, &self.path)?;
        let dir = self.path.parent().unwrap_or(Path::new("/"));
        if disk.space(dir)?.free_bytes < self.size_bytes.saturating_mul(2) {
            return Ok(ReserveState::Spent);
        }
        match self.fill(disk, dir) {
            Ok(()) => {
                self.spent.store(false, Ordering::SeqCst);
                Ok(ReserveState::Held)
            }
            Err(error) => {
                // What was written so far is room somebody else needs more.
                crashsafe::remove_durable(disk, &self.path)?;
                if is_no_space(&error) { Ok(ReserveState::Spent) } else { Err(error) }
            }
        }
    }

    fn fill(&self, disk: &dyn Disk, dir: &Path) -> io::Result<()> {
        let mut noise = Noise::new();
        let mut at_bytes = 0;
        while at_bytes < self.size_bytes {
            let chunk = noise.take((self.size_bytes - at_bytes).min(CHUNK_BYTES) as usize);
            disk.write_at(&self.path, at_bytes, &chunk)?;
            at_bytes += chunk.len() as u64;
        }
        disk.sync_file(&self.path)?;
        disk.sync_dir(dir)
    }

    fn is_whole(&self, disk: &dyn Disk) -> io::Result<bool> {
        Ok(disk.metadata(&self.path)?.is_some_and(|found| found.size_bytes == self.size_bytes))
    }

    fn begin_change(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Runs the write; if it finds no space, gives the reserve up and runs it once more. The write must be safe to
/// run twice, which every durable replace is. The second failure is the caller's.
///
/// The second run comes also when the ballast was gone already: another may have released it this moment.
pub fn with_reserve<T, E: MayBeNoSpace>(
    disk: &dyn Disk,
    reserve: &Reserve,
    mut write: impl FnMut() -> Result<T, E>,
) -> Result<Written<T>, E> {
    match write() {
        Err(error) if error.is_no_space() => {
            tracing::warn!(reserve = %reserve.path().display(), "no space left: giving up the reserve");
            if let Err(error) = reserve.release(disk) {
                tracing::error!(%error, "the reserve cannot be given up");
            }
            write().map(|value| Written { value, reserve_used: true })
        }
        written => written.map(|value| Written { value, reserve_used: false }),
    }
}

/// A stream no compressor can shrink (xorshift64).
struct Noise(u64);

impl Noise {
    fn new() -> Self {
        Noise(0x9E37_79B9_7F4A_7C15)
    }

    fn take(&mut self, len_bytes: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len_bytes + 8);
        while bytes.len() < len_bytes {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            bytes.extend_from_slice(&self.0.to_le_bytes());
        }
        bytes.truncate(len_bytes);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// xorshift64 as published, computed apart from this code: a change could make the noise compressible.
    #[test]
    fn the_noise_is_that_of_the_generator_it_names() {
        let expected = [0xDC1B_77AE_0BF3_4DAD, 0x64F0_EEB9_026E_6076, 0x7B07_CE91_E590_6136];
        let bytes: Vec<u8> = expected.iter().flat_map(|number: &u64| number.to_le_bytes()).collect();
        let mut noise = Noise::new();
        assert_eq!([noise.take(8), noise.take(8), noise.take(7)].concat(), bytes[..23]);
    }
}
