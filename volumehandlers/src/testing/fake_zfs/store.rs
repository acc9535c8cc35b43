//! How a fake pool lies on a disk that may lose or tear what was not synced.
//!
//! ```text
//!   "holdfast fake pool\n" record record record … zeros      record: the whole pool (records.rs)
//! ```
//!
//! A transaction group is a record and a sync: after a cut it happened or it did not. A guest's write is a record
//! without a sync, which the next sync makes durable, whoever asked for it. The file has its room in advance, as a pool
//! has its disks: what only frees space works on a full disk, too. When it is used up, the last record moves to a new
//! file that takes the old one's place.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use holdfast_persist::crashsafe;
use holdfast_persist::disk::{Disk, is_no_space};

use super::super::records::{Last, Mark, last_of, record};
use super::pool::Pool;
use crate::zvol::ZfsError;

const MAGIC: &[u8] = b"holdfast fake pool\n";
const AREA_BYTES: usize = 64 << 10;

/// A pool's file.
#[derive(Debug)]
pub(super) struct Store {
    disk: Arc<dyn Disk>,
    file: PathBuf,
    pool: String,
    /// Where the newest record began when last seen; only makes the next look shorter.
    newest_at: Mutex<Option<usize>>,
    is_doubtful: AtomicBool,
}

/// A pool as read, and the place for its next record.
#[derive(Debug, Clone)]
pub(super) struct Loaded {
    pub pool: Pool,
    next_at: usize,
    newest: Mark,
    area_end: usize,
}

impl Store {
    pub fn new(disk: Arc<dyn Disk>, file: &Path, pool: &str) -> Self {
        Store {
            disk,
            file: file.to_path_buf(),
            pool: pool.to_owned(),
            newest_at: Mutex::new(None),
            is_doubtful: AtomicBool::new(false),
        }
    }

    pub fn free_bytes(&self) -> Result<u64, ZfsError> {
        self.disk.space(&self.file).map(|space| space.free_bytes).map_err(|error| self.failed(error))
    }

    /// Makes the pool, durably, in place of what is there.
    pub fn create(&self, pool: &Pool) -> Result<(), ZfsError> {
        self.forget();
        crashsafe::durable_replace(&*self.disk, &self.file, &fresh(&record(pool, Mark::FIRST).0))
            .map_err(|error| self.failed(error))
    }

    /// After a power cut the newest record may have been torn.
    pub fn forget(&self) {
        *self.newest_at.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = None;
    }

    pub fn load(&self) -> Result<Loaded, ZfsError> {
        self.make_sure()?;
        let known = *self.newest_at.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(begin) = known
            && let Some(loaded) = self.load_from(begin)?
        {
            return Ok(loaded);
        }
        let torn = || ZfsError::Failed { what: format!("reading {}", self.pool), said: "no pool".to_owned() };
        self.load_from(MAGIC.len())?.ok_or_else(torn)
    }

    fn load_from(&self, begin: usize) -> Result<Option<Loaded>, ZfsError> {
        let bytes = self.disk.read_at(&self.file, begin as u64, usize::MAX).map_err(|e| self.failed(e))?;
        let Some(last) = last_of(&bytes) else { return Ok(None) };
        let Last { state: pool, begin: newest_at, end, mark: newest } = last;
        *self.newest_at.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(begin + newest_at);
        Ok(Some(Loaded { pool, next_at: begin + end, newest, area_end: begin + bytes.len() }))
    }

    /// A transaction group: durable after `Ok`, and not there after an error.
    pub fn commit(&self, mut loaded: Loaded) -> Result<(), ZfsError> {
        loaded.pool.txg += 1;
        let (at, length) = match self.append(&loaded)? {
            Some(place) => place,
            None => return Ok(()),
        };
        self.sync().inspect_err(|_| {
            // Taken back; with the power gone, nobody looks.
            if self.disk.write_at(&self.file, at, &vec![0; length]).is_err() {
                self.doubt();
            }
        })
    }

    /// Nobody knows whether the last transaction group is durable: as with a pool that was suspended, nothing is seen of it
    /// before it is.
    pub fn doubt(&self) {
        self.is_doubtful.store(true, Ordering::Relaxed);
    }

    fn make_sure(&self) -> Result<(), ZfsError> {
        if self.is_doubtful.load(Ordering::Relaxed) {
            self.sync()?;
            self.is_doubtful.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    /// A guest's write: there for whoever looks, durable with the next sync.
    pub fn write(&self, loaded: Loaded) -> Result<(), ZfsError> {
        self.append(&loaded).map(drop)
    }

    /// Where the record is, with its length; `None` if it went to a new file and is durable.
    fn append(&self, loaded: &Loaded) -> Result<Option<(u64, usize)>, ZfsError> {
        let (bytes, _) = record(&loaded.pool, loaded.newest);
        let at = loaded.next_at as u64;
        if loaded.next_at + bytes.len() <= loaded.area_end {
            let written = self.disk.write_at(&self.file, at, &bytes);
            return written.map(|()| Some((at, bytes.len()))).map_err(|error| self.failed(error));
        }
        self.forget();
        let replaced = crashsafe::durable_replace(&*self.disk, &self.file, &fresh(&bytes));
        replaced.map(|()| None).map_err(|error| self.failed(error))
    }

    pub fn sync(&self) -> Result<(), ZfsError> {
        self.disk.sync_file(&self.file).map_err(|error| self.failed(error))
    }

    fn failed(&self, error: io::Error) -> ZfsError {
        let pool = self.pool.clone();
        match error.kind() {
            io::ErrorKind::NotFound => ZfsError::NoPool { pool },
            _ if is_no_space(&error) => ZfsError::NoSpace { object: pool },
            _ => ZfsError::Failed { what: format!("a call to the disk of {pool}"), said: error.to_string() },
        }
    }
}

/// A file that begins with this record, and has room for more like it.
fn fresh(record: &[u8]) -> Vec<u8> {
    let mut bytes = [MAGIC, record].concat();
    bytes.resize(bytes.len() + AREA_BYTES + 8 * record.len(), 0);
    bytes
}
