//! The decision table of guarded rollback ([000] L1–L6): its cases, and what is expected of each. `tests/decision.rs` tells it of
//! nodes on fake storage and keeps the texts in `golden/decision/`, `tests/stories/pool_decision.rs` of a node on real ZFS.

use std::path::PathBuf;

/// High-availability states; the last one nobody knows.
pub const STATES: [&str; 6] = ["started", "stopped", "disabled", "ignored", "", "paused"];

/// One thing that is put in the way; the volume's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// The application has a newer snapshot, on both volumes.
    Managed,
    Unmanaged(u8),
    /// Of the target.
    Clone(u8),
    /// On the newest snapshot there is.
    Hold(u8),
    /// A bookmark of a newer snapshot that is gone: the kind that this node cannot name.
    Unknown(u8),
}

use Put::*;

/// Holds are on newer snapshots, so there is none without one of those.
pub const BLOCKERS: [(&str, &[Put]); 13] = [
    ("none", &[]),
    ("managed", &[Managed]),
    ("unmanaged", &[Unmanaged(2)]),
    ("unmanaged on both volumes", &[Unmanaged(1), Unmanaged(1), Unmanaged(2)]),
    ("clone", &[Clone(1)]),
    ("hold on unmanaged", &[Unmanaged(1), Hold(1)]),
    ("hold on managed", &[Managed, Hold(2)]),
    ("unknown", &[Unknown(1)]),
    ("unknown and unmanaged", &[Unknown(1), Unmanaged(2)]),
    ("managed and unmanaged", &[Managed, Unmanaged(2)]),
    ("unmanaged and clone", &[Unmanaged(2), Clone(1)]),
    ("unmanaged on one, held on the other", &[Unmanaged(1), Unmanaged(2), Hold(2)]),
    ("all of them", &[Managed, Unmanaged(1), Unmanaged(2), Clone(1), Hold(1), Unknown(2)]),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Before anything is looked at: there is no operation.
    Refused,
    /// By the check, before the guest is stopped.
    Blocked,
    Done,
}

/// The seed's flow chart, a second time. On images newer snapshots block nothing.
pub fn expected(state: &str, puts: &[Put], has_tag: bool, newer_block: bool) -> Expected {
    let firm = puts.iter().any(|put| matches!(put, Managed | Clone(_) | Hold(_) | Unknown(_)));
    match state {
        "ignored" | "" if !newer_block || puts.is_empty() => Expected::Done,
        "ignored" | "" if firm => Expected::Blocked,
        "ignored" | "" if has_tag => Expected::Done,
        "ignored" | "" => Expected::Blocked,
        _ => Expected::Refused,
    }
}

/// What a case is called in the golden file.
pub fn title(name: &str, has_tag: bool) -> String {
    format!("in the way: {name}; {}", if has_tag { "force_rollback" } else { "no tag" })
}

/// The file with the outcomes of this state's cases.
pub fn golden_file(backend: &str, state: &str) -> PathBuf {
    let state = if state.is_empty() { "not-set" } else { state };
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("golden/decision/{backend}-{state}.txt"))
}

/// What it holds of ZFS volumes, for whoever runs where the file is not.
pub fn golden_of_zvols(state: &str) -> &'static str {
    match state {
        "started" => include_str!("../golden/decision/zvol-started.txt"),
        "stopped" => include_str!("../golden/decision/zvol-stopped.txt"),
        "disabled" => include_str!("../golden/decision/zvol-disabled.txt"),
        "ignored" => include_str!("../golden/decision/zvol-ignored.txt"),
        "paused" => include_str!("../golden/decision/zvol-paused.txt"),
        "" => include_str!("../golden/decision/zvol-not-set.txt"),
        other => panic!("no such state in the table: {other}"),
    }
}

/// How a case stands in the file.
pub fn entry(title: &str, outcome: &str) -> String {
    format!("{title}\n  {outcome}\n\n")
}

/// What a rollback that went through is told as.
pub fn done(gone: &[String]) -> String {
    if gone.is_empty() {
        "done; nothing is destroyed".to_owned()
    } else {
        format!("done; destroyed: {}", gone.join(", "))
    }
}

/// How a refusal is told.
pub fn refused(expected: Expected, text: &str) -> String {
    match expected {
        Expected::Refused => format!("refused before anything is looked at\n  {text}"),
        Expected::Blocked | Expected::Done => format!("blocked by the check\n  {text}"),
    }
}
