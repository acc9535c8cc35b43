//! Names of snapshots on storage ([003] J2).
//!
//! ```text
//!   ours:     holdfast-<UTC time>-<snapshot id>     chosen once, in the intent
//!   foreign:  anything a record of EVE's or an operator made that is not all digits
//! ```
//!
//! qemu-img looks a name up among the ids first, and ids are digits: a name of digits only could mean another
//! snapshot than the one named, so there is no such [`SnapshotName`].

use std::fmt;

use chrono::NaiveDateTime;
use holdfast_types::error::Timestamp;

/// Begins every name that this node chooses.
pub const PREFIX: &str = "holdfast-";

/// Follows the prefix in the name of a safety snapshot.
const SAFETY: &str = "safety-";
/// UTC.
const TIME_FORMAT: &str = "%Y%m%dT%H%M%SZ";

/// QEMU keeps 255 bytes of a name and would cut a longer one silently.
pub const LONGEST_BYTES: usize = 255;

/// The name of a snapshot inside a volume, safe to be handed to a tool.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotName(String);

/// Why a text is no snapshot name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" cannot be used as the name of a snapshot: {reason}")]
pub struct InvalidName {
    pub text: String,
    pub reason: &'static str,
}

impl SnapshotName {
    /// A new name: `of` is what it belongs to (the snapshot's id), `at` the moment it was chosen.
    pub fn choose(of: &impl fmt::Display, at: &Timestamp) -> Self {
        SnapshotName(format!("{PREFIX}{}-{of}", at.format(TIME_FORMAT)))
    }

    /// True for a name that [`SnapshotName::choose_safety`] gives.
    pub fn is_safety(&self) -> bool {
        self.0.strip_prefix(PREFIX).is_some_and(|rest| rest.starts_with(SAFETY))
    }

    /// The same for the safety snapshot of a rollback.
    pub fn choose_safety(of: &impl fmt::Display, at: &Timestamp) -> Self {
        SnapshotName(format!("{PREFIX}{SAFETY}{}-{of}", at.format(TIME_FORMAT)))
    }

    /// A name read from a record.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        match flaw_of(text) {
            Some(reason) => Err(InvalidName { text: text.to_owned(), reason }),
            None => Ok(SnapshotName(text.to_owned())),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The moment in a name that this node has chosen.
    pub fn chosen_at(&self) -> Option<Timestamp> {
        let rest = self.0.strip_prefix(PREFIX)?;
        let (time, _) = rest.strip_prefix(SAFETY).unwrap_or(rest).split_once('-')?;
        NaiveDateTime::parse_from_str(time, TIME_FORMAT).ok().map(|time| time.and_utc())
    }

    /// True if this node may have chosen it.
    pub fn is_ours(&self) -> bool {
        self.0.starts_with(PREFIX)
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

fn flaw_of(text: &str) -> Option<&'static str> {
    if text.is_empty() {
        Some("it is empty")
    } else if text.len() > LONGEST_BYTES {
        Some("it is longer than 255 bytes")
    } else if text.bytes().all(|byte| byte.is_ascii_digit()) {
        Some("it is all digits and could be taken for the id of another")
    } else if text.starts_with('-') {
        Some("it begins like an option")
    } else if text.chars().any(char::is_control) {
        Some("it holds a control character")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chosen_name_says_whose_when_and_what() {
        let at = "2026-01-02T03:04:05Z".parse().expect("a time");
        let name = SnapshotName::choose(&"11111111-2222-3333-4444-555555555555", &at);
        assert_eq!(name.as_str(), "holdfast-20260102T030405Z-11111111-2222-3333-4444-555555555555");
        assert!(name.is_ours() && SnapshotName::parse(name.as_str()).is_ok());
        let safety = SnapshotName::choose_safety(&"11111111-2222-3333-4444-555555555555", &at);
        assert_ne!(safety, name);
        assert!(safety.is_safety() && !name.is_safety());
        assert_eq!((name.chosen_at(), safety.chosen_at()), (Some(at), Some(at)));
        for text in ["daily", "holdfast-s", "holdfast-x-y", "holdfast-99999999T000000Z-y"] {
            assert_eq!(SnapshotName::parse(text).expect("a name").chosen_at(), None, "{text}");
        }
    }

    #[test]
    fn names_that_a_tool_would_misread_are_refused() {
        for text in ["", "7", "0123", "-d", "a\nb", &"x".repeat(256)] {
            assert!(SnapshotName::parse(text).is_err(), "{text:?}");
        }
        for text in ["before upgrade", "7a", "ünï", "a/b"] {
            assert!(SnapshotName::parse(text).is_ok(), "{text:?}");
        }
    }
}
