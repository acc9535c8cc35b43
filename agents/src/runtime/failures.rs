//! The node's failures in a row, so that one that keeps failing comes up read-only instead of going round for ever.
//!
//! ```text
//!   start: verdict() ── fewer than LIMIT ─▶ normal        fatal end: record(why)
//!                    └─ LIMIT or more ────▶ read-only     healthy for HEALTHY_AFTER, or stopped: clear()
//! ```
//!
//! Only ends that a node brought upon itself count; a power cut says nothing about the node. A read-only node that
//! stays healthy clears the count too, so its next start tries again.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use holdfast_persist::{Disk, PersistLayout, RowStore};
use serde::{Deserialize, Serialize};

use super::cell::Fatal;
use super::seams::Timestamp;

/// Failures in a row after which the node comes up read-only: enough for a fault that passes, and with the service
/// manager's delay between starts a matter of a minute.
pub const LIMIT: u32 = 5;
/// This long without a failure and the ones before do not count any more.
pub const HEALTHY_AFTER: Duration = Duration::from_secs(60);

const OWNER: &str = "node";
const TOPIC: &str = "Failures";
const KEY: &str = "in-a-row";

/// The record of failures, kept in the persist directory.
#[derive(Debug)]
pub struct FailureLog {
    rows: RowStore,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Failures {
    in_a_row: u32,
    last_reason: String,
    last_at: Timestamp,
}

impl FailureLog {
    pub fn new(disk: Arc<dyn Disk>, layout: &PersistLayout) -> Self {
        FailureLog { rows: RowStore::new(disk, layout, OWNER) }
    }

    /// Why the node is to come up read-only, if so. A record that cannot be understood counts as none.
    pub fn verdict(&self) -> io::Result<Option<String>> {
        let failures = self.load()?.filter(|failures| failures.in_a_row >= LIMIT);
        Ok(failures.map(|failures| {
            let Failures { in_a_row, last_reason, last_at } = failures;
            let at = last_at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
            format!("the node failed {in_a_row} times in a row, last at {at}: {last_reason}")
        }))
    }

    /// Counts one more failure, durably. After an error it may be uncounted: the disk that failed the node may
    /// fail this too.
    pub fn record(&self, fatal: &Fatal, at: Timestamp) -> io::Result<()> {
        let before = self.load()?.map_or(0, |failures| failures.in_a_row);
        let failures =
            Failures { in_a_row: before.saturating_add(1), last_reason: reason_of(fatal), last_at: at };
        let bytes = serde_json::to_vec_pretty(&failures).map_err(io::Error::other)?;
        self.rows.put(TOPIC, KEY, &bytes)
    }

    /// Forgets all failures, durably.
    pub fn clear(&self) -> io::Result<()> {
        match self.load()? {
            Some(_) => self.rows.delete(TOPIC, KEY),
            None => Ok(()),
        }
    }

    fn load(&self) -> io::Result<Option<Failures>> {
        let row = self.rows.load(TOPIC)?.into_iter().find(|row| row.key == KEY);
        Ok(row.and_then(|row| serde_json::from_slice(&row.bytes).ok()))
    }
}

/// The error and its causes, in one line.
fn reason_of(fatal: &Fatal) -> String {
    let first: &dyn std::error::Error = fatal;
    let causes = std::iter::successors(Some(first), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use holdfast_persist::MemDisk;

    use super::*;

    #[test]
    fn a_node_that_keeps_failing_is_read_only_until_it_was_healthy() {
        let disk = MemDisk::new();
        let layout = PersistLayout::new("/persist");
        layout.prepare(&disk).unwrap();
        let log = || FailureLog::new(Arc::new(disk.clone()), &layout);
        let fatal = Fatal::NotDurable {
            agent: "toy",
            what: "the row a of Note".into(),
            source: io::Error::other("input/output error"),
        };
        for _ in 0..LIMIT {
            assert_eq!(log().verdict().unwrap(), None);
            log().record(&fatal, Timestamp::default()).unwrap();
            disk.crash();
        }
        assert_eq!(
            log().verdict().unwrap().unwrap(),
            "the node failed 5 times in a row, last at 1970-01-01T00:00:00Z: \
             toy cannot make the row a of Note durable: input/output error"
        );
        log().clear().unwrap();
        disk.crash();
        assert_eq!(log().verdict().unwrap(), None);
    }
}
