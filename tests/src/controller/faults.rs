//! What can go wrong at the controller's end, as switches for tests.
//!
//! A switch stays until it is set back, except a broken download, which happens once. Nothing here acts: the
//! server looks at the switches.

use std::collections::BTreeMap;
use std::time::Duration;

/// The switches; all off by default.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Connections are accepted and dropped at once, as if the controller were gone.
    pub offline: bool,
    /// Every call of the device API is refused with this status.
    pub status: Option<u16>,
    /// Sent with status 200 in place of every configuration.
    pub config_body: Option<Vec<u8>>,
    /// The next download of this path breaks after so many bytes of the body.
    pub break_downloads_after_bytes: BTreeMap<String, u64>,
    /// How long the server rests after each chunk of a download (64 KiB).
    pub chunk_pause: Duration,
}

impl Faults {
    /// Breaks the next download of `path` (as below `/files/`) after so many bytes.
    pub fn break_download(&mut self, path: &str, after_bytes: u64) {
        self.break_downloads_after_bytes.insert(path.to_owned(), after_bytes);
    }
}

/// One download that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    pub path: String,
    /// The first byte sent; not 0 when the node went on from where it had stopped.
    pub from_bytes: u64,
    pub status: u16,
}
