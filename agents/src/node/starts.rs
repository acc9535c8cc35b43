//! Starts that failed: a node that keeps failing comes up read-only (architecture section 4).
//!
//! ```text
//!   start ─▶ noted ──a healthy minute, or a stop in order──▶ forgotten
//!              └─ ended otherwise ─ three that failed within ten minutes ─▶ the next start is read-only
//! ```
//!
//! A start failed if it did not become ready, if the node ended it by itself, or if an agent did not answer when the
//! watchdog ended it. A node that was well and was killed did not fail: that says nothing about the node.
//!
//! Noted in a file beside the socket, in the runtime directory: the disk that makes the node fail may be the persist
//! directory's, and after a boot of the machine everything is tried anew. A file that cannot be read or written is
//! worth a warning: the rule must not become a reason to fail.

use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_persist::{Disk, crashsafe};
use holdfast_types::Timestamp;
use serde::{Deserialize, Serialize};

const WITHIN: Duration = Duration::from_secs(600);
/// A node that lives this long after it was ready is well.
pub const HEALTHY_AFTER: Duration = Duration::from_secs(60);
/// More are of no use to anybody.
const NOTED_MAX: usize = 20;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    pub at: Timestamp,
    pub ready: bool,
    /// Why it ended by itself, or is about to be ended.
    pub failure: Option<String>,
}

impl Start {
    fn has_failed(&self) -> bool {
        !self.ready || self.failure.is_some()
    }
}

/// The starts noted so far, and where.
#[derive(Debug)]
pub struct Starts<'a> {
    disk: &'a dyn Disk,
    file: PathBuf,
    noted: Vec<Start>,
}

/// Why the node is to change nothing, if the starts before this one say so.
pub fn verdict(earlier: &[Start], now: Timestamp, limit: u32) -> Option<String> {
    let recent = |start: &Start| (now - start.at).to_std().is_ok_and(|age| age <= WITHIN);
    let failed: Vec<&Start> = earlier.iter().filter(|start| start.has_failed() && recent(start)).collect();
    if limit == 0 || failed.len() < limit as usize {
        return None;
    }
    let last = failed
        .iter()
        .rev()
        .find_map(|start| start.failure.as_deref())
        .unwrap_or("it ended before it was ready");
    Some(format!("{} starts failed within {} minutes, the last: {last}", failed.len(), WITHIN.as_secs() / 60))
}

impl<'a> Starts<'a> {
    /// Reads what is noted beside this socket.
    pub fn load(disk: &'a dyn Disk, socket: &Path) -> Self {
        let mut name = socket.as_os_str().to_os_string();
        name.push(".starts");
        let file = PathBuf::from(name);
        let noted = read(disk, &file);
        Starts { disk, file, noted }
    }

    /// Judges the earlier starts, then notes this one.
    pub fn begin(&mut self, now: Timestamp, limit: u32) -> Option<String> {
        let verdict = verdict(&self.noted, now, limit);
        self.noted.push(Start { at: now, ready: false, failure: None });
        let surplus = self.noted.len().saturating_sub(NOTED_MAX);
        self.noted.drain(..surplus);
        self.save();
        verdict
    }

    /// It became ready.
    pub fn ready(&mut self) {
        self.note(|this| this.ready = true);
    }

    /// Notes why this start ends, or is about to.
    pub fn failed(&mut self, failure: String) {
        self.note(|this| this.failure = Some(failure));
    }

    /// It was not the end.
    pub fn recovered(&mut self) {
        self.note(|this| this.failure = None);
    }

    /// All is well: nothing is held against the next start.
    pub fn forget(&mut self) {
        self.noted.clear();
        if let Err(error) = crashsafe::remove_durable(self.disk, &self.file) {
            tracing::warn!(%error, "the noted starts cannot be forgotten");
        }
    }

    fn note(&mut self, change: impl FnOnce(&mut Start)) {
        let Some(this) = self.noted.last_mut() else { return };
        let before = this.clone();
        change(this);
        if *this != before {
            self.save();
        }
    }

    fn save(&self) {
        let written = serde_json::to_vec(&self.noted)
            .map_err(std::io::Error::from)
            .and_then(|bytes| crashsafe::durable_replace(self.disk, &self.file, &bytes));
        if let Err(error) = written {
            tracing::warn!(%error, "this start cannot be noted");
        }
    }
}

fn read(disk: &dyn Disk, file: &Path) -> Vec<Start> {
    let bytes = match disk.read(file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            tracing::warn!(%error, "the noted starts cannot be read");
            return Vec::new();
        }
    };
    serde_json::from_slice(&bytes).unwrap_or_else(|error| {
        tracing::warn!(%error, file = %file.display(), "the noted starts cannot be understood");
        Vec::new()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_persist::MemDisk;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_timestamp(1_700_000_000 + seconds, 0).unwrap()
    }

    fn socket() -> &'static Path {
        Path::new("/run/h.sock")
    }

    /// A start at each of these seconds, none of which ends in order; what the last one comes up as.
    fn verdict_of(limit: u32, seconds: &[i64]) -> Option<String> {
        let disk = MemDisk::new();
        disk.create_dir(Path::new("/run"), 0o700).unwrap();
        let mut last = None;
        for second in seconds {
            let mut starts = Starts::load(&disk, socket());
            last = starts.begin(at(*second), limit);
            starts.failed(format!("no luck at {second}"));
        }
        last
    }

    #[test]
    fn the_fourth_start_after_three_failed_ones_is_read_only() {
        assert_eq!(verdict_of(3, &[0]), None);
        assert_eq!(verdict_of(3, &[0, 5, 10]), None);
        assert_eq!(
            verdict_of(3, &[0, 5, 10, 15]).as_deref(),
            Some("3 starts failed within 10 minutes, the last: no luck at 10")
        );
        assert_eq!(verdict_of(3, &[0, 5, 10, 611]), None, "too long ago");
        assert_eq!(verdict_of(3, &[1000, 1001, 1002, 0]), None, "the clock went back");
        assert_eq!(verdict_of(0, &[0, 1, 2, 3, 4, 5]), None, "switched off");
        assert!(verdict_of(1, &[0, 1]).is_some());
    }

    #[test]
    fn a_node_that_was_well_and_was_killed_did_not_fail() {
        let disk = MemDisk::new();
        disk.create_dir(Path::new("/run"), 0o700).unwrap();
        for second in 0..10 {
            let mut starts = Starts::load(&disk, socket());
            assert_eq!(starts.begin(at(second), 3), None);
            starts.ready();
            starts.failed("no answer from volumemgr".into());
            starts.recovered();
        }
    }

    #[test]
    fn a_healthy_minute_clears_the_slate() {
        let disk = MemDisk::new();
        disk.create_dir(Path::new("/run"), 0o700).unwrap();
        for second in 0..3 {
            Starts::load(&disk, socket()).begin(at(second), 3);
        }
        Starts::load(&disk, socket()).forget();
        assert_eq!(Starts::load(&disk, socket()).begin(at(4), 3), None);
    }

    #[test]
    fn the_rule_never_makes_a_start_fail() {
        let disk = MemDisk::new();
        // No directory: nothing can be noted.
        let mut starts = Starts::load(&disk, socket());
        assert_eq!(starts.begin(at(0), 3), None);
        starts.failed("x".into());
        starts.forget();
        disk.create_dir(Path::new("/run"), 0o700).unwrap();
        disk.create_new(Path::new("/run/h.sock.starts"), b"{", 0o600).unwrap();
        assert_eq!(Starts::load(&disk, socket()).begin(at(0), 3), None);
    }
}
