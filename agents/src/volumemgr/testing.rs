//! Values for tests, here and in the simulation: ids made from small numbers, and content without a network.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard};

use holdfast_types::{
    AppId, Consent, ContentTreeConfig, ContentTreeId, DatastoreConfig, DatastoreId, DatastoreKind, Format,
    Generation, IntentStage, OperationNumber, RecordedMeta, SnapshotAction, SnapshotId, SnapshotIntent,
    Timestamp, VolumeId, VolumeKey,
};
use uuid::Uuid;

use super::fetcher::{FetchError, Fetcher, Opened};

fn id(kind: u128, n: u8) -> Uuid {
    Uuid::from_u128((kind << 96) | u128::from(n))
}

pub fn volume(n: u8) -> VolumeId {
    VolumeId(id(0x11, n))
}

pub fn key(n: u8, generation: i64) -> VolumeKey {
    VolumeKey { volume: volume(n), generation: Generation(generation) }
}

pub fn app(n: u8) -> AppId {
    AppId(id(0xaa, n))
}

pub fn snapshot(n: u8) -> SnapshotId {
    SnapshotId(id(0x55, n))
}

pub fn content_tree(n: u8) -> ContentTreeId {
    ContentTreeId(id(0xcc, n))
}

pub fn datastore(n: u8) -> DatastoreId {
    DatastoreId(id(0xdd, n))
}

pub fn noon() -> Timestamp {
    "2026-01-02T12:00:00Z".parse().expect("a time")
}

/// An intent on generation 0 of these volumes.
pub fn intent(action: SnapshotAction, stage: IntentStage, volumes: &[u8]) -> SnapshotIntent {
    let meta = |n: &u8| RecordedMeta {
        handler: "qcow2".into(),
        generation: Generation(0),
        storage_name: format!("holdfast-{n}"),
        size_bytes: 0,
    };
    SnapshotIntent {
        snapshot: snapshot(1),
        app: app(1),
        operation: OperationNumber(1),
        action,
        stage,
        started_at: noon(),
        volumes: volumes.iter().map(|n| (volume(*n), meta(n))).collect(),
        safety_names: BTreeMap::new(),
        failure: None,
        consent: Consent::default(),
        clones: BTreeMap::new(),
        parameters: BTreeMap::new(),
    }
}

/// Content by URL, in memory. Enforces what a server does: ranges, missing content, breaks in the middle.
#[derive(Debug, Clone, Default)]
pub struct MemFetcher {
    state: Arc<Mutex<MemState>>,
}

#[derive(Debug, Default)]
struct MemState {
    content: BTreeMap<String, Vec<u8>>,
    /// The next openings break after so many bytes.
    breaks_bytes: Vec<usize>,
    refuses_ranges: BTreeSet<String>,
    is_down: bool,
    openings: Vec<(String, u64)>,
}

impl MemFetcher {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn put(&self, url: &str, content: impl Into<Vec<u8>>) {
        self.state().content.insert(url.to_owned(), content.into());
    }

    /// Each of the next openings breaks after so many bytes.
    pub fn break_after(&self, bytes: &[usize]) {
        self.state().breaks_bytes = bytes.to_vec();
    }

    /// This URL is always sent from its beginning, whatever was asked.
    pub fn refuse_ranges(&self, url: &str) {
        self.state().refuses_ranges.insert(url.to_owned());
    }

    pub fn set_down(&self, is_down: bool) {
        self.state().is_down = is_down;
    }

    /// What was opened, and from which byte.
    pub fn openings(&self) -> Vec<(String, u64)> {
        self.state().openings.clone()
    }

    fn state(&self) -> MutexGuard<'_, MemState> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Fetcher for MemFetcher {
    fn open(&self, url: &str, from_bytes: u64) -> Result<Opened, FetchError> {
        let mut state = self.state();
        state.openings.push((url.to_owned(), from_bytes));
        if state.is_down {
            return Err(FetchError::Unreachable { url: url.into(), reason: "connection refused".into() });
        }
        let content = state.content.get(url).cloned();
        let content = content.ok_or(FetchError::Refused { url: url.into(), status: 404 })?;
        let start = if state.refuses_ranges.contains(url) { 0 } else { from_bytes };
        if start > 0 && start >= content.len() as u64 {
            return Err(FetchError::NothingMore { url: url.into() });
        }
        let rest = content[start as usize..].to_vec();
        let break_after =
            if state.breaks_bytes.is_empty() { None } else { Some(state.breaks_bytes.remove(0)) };
        let body: Box<dyn Read + Send> = match break_after {
            Some(bytes) if bytes < rest.len() => {
                Box::new(io::Cursor::new(rest[..bytes].to_vec()).chain(Broken))
            }
            _ => Box::new(io::Cursor::new(rest)),
        };
        Ok(Opened { starts_at_bytes: start, total_bytes: Some(content.len() as u64), body })
    }
}

struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::ConnectionReset.into())
    }
}

/// A datastore `http://store<n>/files`.
pub fn http_store(n: u8) -> DatastoreConfig {
    DatastoreConfig {
        datastore: datastore(n),
        kind: DatastoreKind::Http,
        fqdn: format!("store{n}"),
        path: "files".into(),
    }
}

/// A qcow2 content tree in datastore 1, at `http://store1/files/<n>.qcow2`.
pub fn tree(n: u8, sha256: &str) -> ContentTreeConfig {
    ContentTreeConfig {
        content_tree: content_tree(n),
        datastores: vec![datastore(1)],
        relative_url: format!("{n}.qcow2"),
        format: Format::Qcow2,
        sha256: sha256.into(),
        max_download_size_bytes: 0,
        display_name: String::new(),
    }
}
