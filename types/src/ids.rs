//! Ids as types: an application's id cannot be passed where a volume's is meant.
//!
//! All of them are UUIDs on the wire and in records; parsing one is the border check of [003] A8, so that no
//! string from outside is ever used in a path or a storage name before it was checked.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A string that should have been a UUID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} \"{text}\" is not a UUID")]
pub struct InvalidId {
    /// What the id was meant for, in words ("snapshot id").
    pub what: &'static str,
    pub text: String,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            /// Accepts only the hyphenated form of 36 characters, in either case: the forms with braces or
            /// without hyphens would give one object two names.
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let invalid = || InvalidId { what: $what, text: text.to_owned() };
                if text.len() != 36 {
                    return Err(invalid());
                }
                Uuid::try_parse(text).map($name).map_err(|_| invalid())
            }
        }
    };
}

id!(
    /// The edge node.
    DeviceId,
    "device id"
);
id!(
    /// An application instance.
    AppId,
    "application id"
);
id!(
    /// A volume, in all its generations.
    VolumeId,
    "volume id"
);
id!(
    /// A snapshot of an application: its configuration and all its volumes.
    SnapshotId,
    "snapshot id"
);
id!(
    /// A content tree: what a volume is created from.
    ContentTreeId,
    "content tree id"
);
id!(
    /// A datastore that content is fetched from.
    DatastoreId,
    "datastore id"
);

/// Which of a volume's successive incarnations is meant: a purge makes a new one from the volume's origin ([003] F1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub i64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A volume as it is known everywhere: by id and generation ([003] F3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VolumeKey {
    #[serde(rename = "VolumeID")]
    pub volume: VolumeId,
    #[serde(rename = "GenerationCounter")]
    pub generation: Generation,
}

impl VolumeKey {
    pub fn new(volume: VolumeId, generation: i64) -> Self {
        VolumeKey { volume, generation: Generation(generation) }
    }

    /// All generations of the volume.
    pub fn all_of(volume: VolumeId) -> RangeInclusive<Self> {
        Self::new(volume, i64::MIN)..=Self::new(volume, i64::MAX)
    }
}

impl fmt::Display for VolumeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.volume, self.generation)
    }
}

/// One application's use of one volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VolumeRefKey {
    #[serde(rename = "AppUUID")]
    pub app: AppId,
    #[serde(flatten)]
    pub volume: VolumeKey,
}

impl fmt::Display for VolumeRefKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.app, self.volume)
    }
}

/// The number of an operation on one application. It grows by one per operation, for ever, so that a status
/// answers exactly one request and order never depends on a wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct OperationNumber(pub u64);

impl OperationNumber {
    pub fn next(self) -> Self {
        OperationNumber(self.0 + 1)
    }
}

impl fmt::Display for OperationNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_is_no_uuid_is_named_with_what_it_was_meant_for() {
        for text in ["", "s1", "../../etc", "a/b", "0123456789abcdef0123456789abcdef", "{0}"] {
            let error = text.parse::<SnapshotId>().expect_err("not a UUID");
            assert!(error.to_string().contains("snapshot id"), "{error}");
        }
        let id: SnapshotId = "11111111-2222-3333-4444-555555555555".parse().expect("a UUID");
        assert_eq!(id.to_string(), "11111111-2222-3333-4444-555555555555");
    }

    #[test]
    fn a_volume_key_reads_as_in_file_names() {
        let volume: VolumeId = "11111111-2222-3333-4444-555555555555".parse().expect("a UUID");
        assert_eq!(VolumeKey::new(volume, 3).to_string(), "11111111-2222-3333-4444-555555555555#3");
    }
}
