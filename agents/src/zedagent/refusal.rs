//! Why something the controller sent is not taken ([003] A8).
//!
//! A refusal is about one object and about nothing else: its neighbours in the same configuration are taken. What
//! was in force of the refused object before stays in force.
//!
//! Texts from outside are shortened before they are kept: a refusal is shown, logged and reported.

use std::fmt;

use holdfast_types::{AppId, EntityKind, ErrorReport, InvalidId, SnapshotId, Timestamp, VolumeId};

/// How much of a text from outside is shown: a UUID, and enough of anything else to recognise it.
const SHOWN_CHARACTERS: usize = 64;

/// What was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectKind {
    App,
    Volume,
    ContentTree,
    Datastore,
}

impl ObjectKind {
    /// In words, for sentences.
    pub fn noun(self) -> &'static str {
        match self {
            ObjectKind::App => "application",
            ObjectKind::Volume => "volume",
            ObjectKind::ContentTree => "content tree",
            ObjectKind::Datastore => "datastore",
        }
    }

    /// EVE has no entity for a datastore.
    fn entity(self) -> Option<EntityKind> {
        match self {
            ObjectKind::App => Some(EntityKind::AppInstance),
            ObjectKind::Volume => Some(EntityKind::Volume),
            ObjectKind::ContentTree => Some(EntityKind::ContentTree),
            ObjectKind::Datastore => None,
        }
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.noun())
    }
}

/// What is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    #[error(transparent)]
    InvalidId(#[from] InvalidId),
    #[error("it is listed more than once")]
    ListedTwice,
    #[error("it lists the snapshot {snapshot} more than once")]
    SnapshotListedTwice { snapshot: SnapshotId },
    #[error("the snapshot {snapshot} belongs to the application {owner}")]
    SnapshotOfAnotherApp { snapshot: SnapshotId, owner: AppId },
    #[error("the snapshot {snapshot} is listed by the applications {} too", joined(.others))]
    SnapshotClaimedTwice { snapshot: SnapshotId, others: Vec<AppId> },
    #[error("the snapshot {snapshot} has the unknown type {number}")]
    UnknownSnapshotType { snapshot: SnapshotId, number: i32 },
    #[error("it uses the volume {volume} more than once")]
    VolumeUsedTwice { volume: VolumeId },
    #[error("the generation {generation} of the volume {volume} is negative")]
    NegativeGeneration { volume: VolumeId, generation: i64 },
    #[error("its size of {size_bytes} bytes is negative")]
    NegativeSize { size_bytes: i64 },
    #[error("it is made blank and has no size")]
    NoSize,
    #[error("its origin is missing or of the unknown type {number}")]
    UnknownOrigin { number: i32 },
    #[error("its format {number} is not one this node knows")]
    UnknownFormat { number: i32 },
    #[error("its sha256 \"{text}\" is not 64 hexadecimal digits")]
    InvalidSha256 { text: String },
    #[error("it names no datastore")]
    NoDatastore,
    #[error("it names no host")]
    NoHost,
}

fn joined(apps: &[AppId]) -> String {
    apps.iter().map(AppId::to_string).collect::<Vec<_>>().join(", ")
}

/// One object that was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub kind: ObjectKind,
    /// The id in its usual form if it is one, otherwise what the controller wrote in its place, shortened.
    pub id: String,
    /// The generation as written; 0 for all but volumes.
    pub generation: i64,
    /// What the controller calls it; may be empty.
    pub name: String,
    pub reason: Reason,
    /// True when an earlier configuration of it stays in force.
    pub keeps_last_good: bool,
}

impl Refusal {
    /// What it is about, to sort and to compare by.
    pub fn object(&self) -> (ObjectKind, &str, i64) {
        (self.kind, &self.id, self.generation)
    }

    /// As it is shown and reported.
    pub fn report(&self, time: Timestamp) -> ErrorReport {
        let report = ErrorReport::new(self.to_string(), time)
            .retry("when the controller sends a corrected configuration of it");
        match self.kind.entity() {
            Some(entity) => report.about(entity, &self.id),
            None => report,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refusal { kind, id, name, reason, keeps_last_good, .. } = self;
        write!(formatter, "the {kind} \"{id}\"")?;
        if !name.is_empty() {
            write!(formatter, " ({name})")?;
        }
        write!(formatter, " is refused: {reason}")?;
        if *keeps_last_good {
            formatter.write_str("; its last good configuration stays in force")?;
        }
        Ok(())
    }
}

/// A text from outside, cut to a length that can be shown, without control characters.
pub fn shown(text: &str) -> String {
    let plain = |character: char| if character.is_control() { ' ' } else { character };
    let mut short: String = text.chars().take(SHOWN_CHARACTERS).map(plain).collect();
    if text.chars().nth(SHOWN_CHARACTERS).is_some() {
        short.push('…');
    }
    short
}
