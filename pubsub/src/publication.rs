//! The publishing end of a topic.
//!
//! ```text
//!   stage(value) ─▶ Staged::Persistent(row) ── the caller makes it durable ──▶ show_next(): visible to subscribers
//!                └▶ Staged::Volatile ─────────────────────────────────────────▶ show_next()
//!   publish(value) = all of it at once, for one value
//! ```
//!
//! Staging apart from showing lets a step of many changes become durable first and visible after, whatever the
//! topics. What is staged is what [`Publication::get`] answers: the publisher sees its own last word.

use std::borrow::Borrow;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::ops::RangeBounds;
use std::sync::Arc;

use holdfast_persist::rows::{LoadedRow, RowChange};
use holdfast_persist::seal::{self, Seal};
use holdfast_types::{Durability, Topic};

use crate::backing::RowBacking;
use crate::bus::BusError;
use crate::topic::TopicCell;

/// Rows without a number have this one. A row of a later format goes to quarantine whole, and its release finds it there:
/// left in place, the next value of its key would be written over it ([003] H2).
const ROW_FORMAT: u64 = 1;

/// The right to publish a topic. There is one per topic and bus.
pub struct Publication<T: Topic> {
    topic: Arc<TopicCell<T>>,
    /// Only for persistent topics.
    backing: Option<Arc<dyn RowBacking>>,
    owner: &'static str,
    staged: VecDeque<Step<T>>,
    /// The rows as the publisher left them, those included that are not shown yet.
    rows: BTreeMap<T::Key, Arc<T>>,
    damaged: Vec<DamagedRow>,
}

enum Step<T: Topic> {
    Put(Arc<T>),
    Remove(T::Key),
    Restart,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// The row was like that already; nobody is told.
    Unchanged,
    Changed,
}

/// What has to happen before a staged change may be shown.
#[derive(Debug, PartialEq, Eq)]
pub enum Staged {
    /// Nothing was staged: the row is like that already.
    Unchanged,
    /// Show it when its turn comes.
    Volatile,
    /// Make this durable, then show it.
    Persistent(RowImage),
}

/// A row as its file is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowImage {
    pub topic: &'static str,
    pub key: String,
    /// `None`: the row is to go.
    pub bytes: Option<Vec<u8>>,
}

/// A row on disk that could not be understood; it is in quarantine now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedRow {
    pub topic: &'static str,
    pub key: String,
    pub reason: String,
}

/// Why a value was not published. The row is as it was, on the bus and, after a restart, on disk old or new.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error("the row {key} of {topic} cannot be written as JSON")]
    Serialize { topic: &'static str, key: String, source: serde_json::Error },
    #[error("the row {key} of {topic} cannot be made durable")]
    Store { topic: &'static str, key: String, source: io::Error },
}

impl<T: Topic> Publication<T> {
    pub(crate) fn open(
        topic: Arc<TopicCell<T>>,
        backing: Option<Arc<dyn RowBacking>>,
        owner: &'static str,
    ) -> Result<Self, BusError> {
        let backing = backing.filter(|_| T::DURABILITY == Durability::Persistent);
        let (staged, rows) = (VecDeque::new(), BTreeMap::new());
        let mut publication = Publication { topic, backing, owner, staged, rows, damaged: Vec::new() };
        publication.load()?;
        Ok(publication)
    }

    /// Publishes the value under its key. Equal to the last one: nobody is told. A persistent row is durable
    /// before anybody is told. After an error nobody was told, and a cut or restart may show the old row or the
    /// new one.
    pub fn publish(&mut self, value: T) -> Result<Published, PublishError> {
        self.assert_nothing_staged();
        let key = value.key();
        if self.is_like(&key, &value) {
            return Ok(Published::Unchanged);
        }
        self.make_durable(self.image(&key, &value)?)?;
        let value = Arc::new(value);
        self.rows.insert(key, Arc::clone(&value));
        self.topic.put(value);
        Ok(Published::Changed)
    }

    /// Takes the row away; one that is missing already is fine. As durable as [`Publication::publish`].
    pub fn unpublish(&mut self, key: &T::Key) -> Result<Published, PublishError> {
        self.assert_nothing_staged();
        if !self.rows.contains_key(key) {
            return Ok(Published::Unchanged);
        }
        self.make_durable(self.removal(key))?;
        self.rows.remove(key);
        self.topic.remove(key);
        Ok(Published::Changed)
    }

    /// Says: my set of rows is complete, I have (again) started. Whoever subscribes later is told too.
    pub fn signal_restarted(&mut self) {
        self.assert_nothing_staged();
        self.topic.restart();
    }

    /// The row as this publisher last left it, staged changes included.
    pub fn get(&self, key: &T::Key) -> Option<Arc<T>> {
        self.rows.get(key).cloned()
    }

    /// All rows, staged changes included, in the order of keys.
    pub fn rows(&self) -> Vec<Arc<T>> {
        self.rows.values().cloned().collect()
    }

    /// [`Publication::rows`], to be looked at without a share in each.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.rows.values().map(Arc::as_ref)
    }

    /// The keys in a range, staged changes included, in their order; no row is looked at.
    pub fn keys_in(&self, range: impl RangeBounds<T::Key>) -> impl Iterator<Item = &T::Key> {
        self.rows.range(range).map(|(key, _)| key)
    }

    /// Rows that were found damaged when this topic was loaded.
    pub fn damaged(&self) -> &[DamagedRow] {
        &self.damaged
    }

    pub fn owner(&self) -> &'static str {
        self.owner
    }

    /// First half of [`Publication::publish`]: nobody is told yet.
    pub fn stage(&mut self, value: impl Into<Arc<T>> + Borrow<T>) -> Result<Staged, PublishError> {
        let key = value.borrow().key();
        if self.is_like(&key, value.borrow()) {
            return Ok(Staged::Unchanged);
        }
        let value = value.into();
        let staged = Staged::of(self.image(&key, &value)?);
        self.rows.insert(key, Arc::clone(&value));
        self.staged.push_back(Step::Put(value));
        Ok(staged)
    }

    /// First half of [`Publication::unpublish`]: nobody is told yet.
    pub fn stage_removal(&mut self, key: &T::Key) -> Staged {
        if self.rows.remove(key).is_none() {
            return Staged::Unchanged;
        }
        self.staged.push_back(Step::Remove(key.clone()));
        Staged::of(self.removal(key))
    }

    /// First half of [`Publication::signal_restarted`].
    pub fn stage_restarted(&mut self) {
        self.staged.push_back(Step::Restart);
    }

    /// Second half: shows the oldest staged change to subscribers. The caller has made it durable. False when
    /// nothing is staged.
    pub fn show_next(&mut self) -> bool {
        match self.staged.pop_front() {
            Some(Step::Put(value)) => self.topic.put(value),
            Some(Step::Remove(key)) => self.topic.remove(&key),
            Some(Step::Restart) => self.topic.restart(),
            None => return false,
        }
        true
    }

    fn is_like(&self, key: &T::Key, value: &T) -> bool {
        self.rows.get(key).is_some_and(|row| **row == *value)
    }

    /// The row as its file is to be; `None` where there is no file.
    fn image(&self, key: &T::Key, value: &T) -> Result<Option<RowImage>, PublishError> {
        if self.backing.is_none() {
            return Ok(None);
        }
        let key = key.to_string();
        match serde_json::to_vec_pretty(value) {
            Ok(text) => Ok(Some(RowImage { topic: T::NAME, key, bytes: Some(seal::seal(&text)) })),
            Err(source) => Err(PublishError::Serialize { topic: T::NAME, key, source }),
        }
    }

    fn removal(&self, key: &T::Key) -> Option<RowImage> {
        let row = || RowImage { topic: T::NAME, key: key.to_string(), bytes: None };
        self.backing.as_ref().map(|_| row())
    }

    fn make_durable(&self, row: Option<RowImage>) -> Result<(), PublishError> {
        let (Some(backing), Some(row)) = (&self.backing, row) else { return Ok(()) };
        let stored = backing.apply(self.owner, &[row.as_change()]);
        stored.map_err(|source| PublishError::Store { topic: row.topic, key: row.key, source })
    }

    fn assert_nothing_staged(&self) {
        assert!(self.staged.is_empty(), "{} published amid a staged step", T::NAME);
    }

    fn load(&mut self) -> Result<(), BusError> {
        let Some(backing) = self.backing.clone() else { return Ok(()) };
        let owner = self.owner;
        let loaded = backing.load(owner, T::NAME);
        let rows = loaded.map_err(|source| BusError::Load { topic: T::NAME, owner, source })?;
        for row in rows {
            match parse::<T>(&row) {
                Ok(value) => {
                    let value = Arc::new(value);
                    self.rows.insert(value.key(), Arc::clone(&value));
                    self.topic.put(value);
                }
                Err(reason) => self.set_aside(&*backing, row, reason)?,
            }
        }
        Ok(())
    }

    fn set_aside(
        &mut self,
        backing: &dyn RowBacking,
        row: LoadedRow,
        reason: String,
    ) -> Result<(), BusError> {
        let (topic, owner) = (T::NAME, self.owner);
        match backing.quarantine(&row.path, &reason) {
            // It stays where it is: nothing will be written over it either.
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {}
            Err(source) => return Err(BusError::Quarantine { topic, owner, key: row.key, source }),
            Ok(_) => {}
        }
        self.damaged.push(DamagedRow { topic, key: row.key, reason });
        Ok(())
    }
}

impl Staged {
    fn of(row: Option<RowImage>) -> Self {
        row.map_or(Staged::Volatile, Staged::Persistent)
    }
}

impl RowImage {
    pub fn as_change(&self) -> RowChange<'_> {
        let (topic, key) = (self.topic, self.key.as_str());
        match &self.bytes {
            Some(bytes) => RowChange::Put { topic, key, bytes },
            None => RowChange::Delete { topic, key },
        }
    }
}

fn parse<T: Topic>(row: &LoadedRow) -> Result<T, String> {
    #[derive(serde::Deserialize)]
    struct Format {
        #[serde(rename = "FormatVersion")]
        version: Option<u64>,
    }
    let Format { version } = serde_json::from_slice(&row.bytes).map_err(|error| error.to_string())?;
    if let Some(version) = version.filter(|version| *version > ROW_FORMAT) {
        return Err(format!("the row has format {version}, this release knows up to {ROW_FORMAT}"));
    }
    if seal::check(&row.bytes) == Seal::Wrong {
        return Err("the row does not match its checksum".to_owned());
    }
    let value: T = serde_json::from_slice(&row.bytes).map_err(|error| error.to_string())?;
    let key = value.key().to_string();
    if key == row.key { Ok(value) } else { Err(format!("the row says that its key is {key}")) }
}

impl<T: Topic> fmt::Debug for Publication<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Publication")
            .field("topic", &T::NAME)
            .field("owner", &self.owner)
            .field("staged", &self.staged.len())
            .finish_non_exhaustive()
    }
}
