//! Damaged files, moved aside with the reason and never dropped ([003] H3, G9).
//!
//! ```text
//!   reason written, durable ─▶ file moved ─▶ quarantine/ synced ─▶ old directory synced
//!     cut: still in place        cut: in one of the places, or in both; calling again finishes
//! ```
//!
//! The name in quarantine is the old path under the persist directory with `+` for `/`; a name that is taken
//! by other content gets `.1`, `.2` and so on. No clock and no chance in it: a call cut in the middle and made
//! again ends at the same name.
//!
//! Deliberately absent: judging what is damaged (`record.rs`), and emptying the quarantine, which a person does.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::crashsafe;
use crate::disk::{Disk, is_no_space, named};
use crate::layout::{MAX_COMPONENT_BYTES, PersistLayout, component};

/// Room left in a name for the number and for the reason's suffix.
const SUFFIX_BYTES: usize = 20;
/// Far more than one path can be damaged in the life of a node; who gets here is looping.
const MAX_NUMBER: usize = 10_000;
const REASON_SUFFIX: &str = ".reason.txt";

/// A file in quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    pub path: PathBuf,
    /// Where it was, if the reason file is there and says so.
    pub original: Option<PathBuf>,
    /// Why it is here; empty if there was no room to write it.
    pub reason: String,
}

/// Moves the file to the quarantine and puts the reason beside it, durably; returns where it is now.
///
/// Idempotent: after a cut, or for a file that was moved already, it ends at the same place. `NotFound` when
/// the file is neither where it was nor in quarantine. On a full disk the file is moved all the same and the
/// reason is only logged. After any other error the file is in its old place or in quarantine, whole.
pub fn quarantine(disk: &dyn Disk, layout: &PersistLayout, path: &Path, reason: &str) -> io::Result<PathBuf> {
    crashsafe::ensure_dir(disk, &layout.quarantine_dir())?;
    match disk.metadata(path)? {
        Some(_) => move_aside(disk, layout, path, reason),
        None => already_moved(disk, layout, path),
    }
}

/// Everything in quarantine, sorted by name.
pub fn list(disk: &dyn Disk, layout: &PersistLayout) -> io::Result<Vec<Quarantined>> {
    let dir = layout.quarantine_dir();
    let entries = match disk.list(&dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed?,
    };
    entries
        .into_iter()
        .filter(|entry| !crashsafe::is_temporary(&entry.name))
        .map(|entry| dir.join(entry.name))
        .filter(|path| !path.as_os_str().as_encoded_bytes().ends_with(REASON_SUFFIX.as_bytes()))
        .map(|path| read_reason(disk, path))
        .collect()
}

fn move_aside(disk: &dyn Disk, layout: &PersistLayout, path: &Path, reason: &str) -> io::Result<PathBuf> {
    let (target, is_taken) = choose_place(disk, layout, path)?;
    tracing::warn!(from = %path.display(), to = %target.display(), reason, "damaged file moved to quarantine");
    // The reason goes first: a file without one is a riddle, a reason without its file is merely early.
    write_reason(disk, &target, path, reason)?;
    if is_taken {
        // The same content is there: a cut kept both names. Its new name is made durable before the old one goes.
        disk.sync_file(&target)?;
        disk.sync_dir(&layout.quarantine_dir())?;
        crashsafe::remove_durable(disk, path)?;
    } else {
        disk.rename(path, &target)?;
        sync_both(disk, layout, path)?;
    }
    Ok(target)
}

/// The last place this path was moved to. Synced again: whoever moved it may have died before.
fn already_moved(disk: &dyn Disk, layout: &PersistLayout, path: &Path) -> io::Result<PathBuf> {
    let mut last = None;
    for number in 0..MAX_NUMBER {
        let place = place_for(layout, path, number);
        if disk.metadata(&place)?.is_none() {
            break;
        }
        last = Some(place);
    }
    let place = last.ok_or_else(|| named("quarantine", path, ErrorKind::NotFound.into()))?;
    sync_both(disk, layout, path)?;
    Ok(place)
}

/// The first place that is free, or that holds this very content already.
fn choose_place(disk: &dyn Disk, layout: &PersistLayout, path: &Path) -> io::Result<(PathBuf, bool)> {
    for number in 0..MAX_NUMBER {
        let place = place_for(layout, path, number);
        if disk.metadata(&place)?.is_none() {
            return Ok((place, false));
        }
        if same_content(disk, path, &place)? {
            return Ok((place, true));
        }
    }
    Err(named("find a free name in quarantine for", path, ErrorKind::AlreadyExists.into()))
}

fn same_content(disk: &dyn Disk, a: &Path, b: &Path) -> io::Result<bool> {
    match (disk.metadata(a)?, disk.metadata(b)?) {
        (Some(a_found), Some(b_found))
            if a_found.kind == b_found.kind
                && a_found.kind == crate::EntryKind::File
                && a_found.size_bytes == b_found.size_bytes =>
        {
            Ok(disk.read(a)? == disk.read(b)?)
        }
        _ => Ok(false),
    }
}

fn place_for(layout: &PersistLayout, path: &Path, number: usize) -> PathBuf {
    let below = path.strip_prefix(layout.root()).unwrap_or(path);
    let joined: Vec<String> = below.iter().map(|part| component(&part.to_string_lossy())).collect();
    let name = joined.join("+");
    // Names are plain ASCII by now, so any byte is a boundary; the end tells files apart better.
    let start = name.len().saturating_sub(MAX_COMPONENT_BYTES - SUFFIX_BYTES);
    let name = name[start..].trim_start_matches('.');
    layout.quarantine_dir().join(match number {
        0 => name.to_string(),
        number => format!("{name}.{number}"),
    })
}

/// The new directory first: the other way round a cut could leave the file in neither.
fn sync_both(disk: &dyn Disk, layout: &PersistLayout, path: &Path) -> io::Result<()> {
    disk.sync_dir(&layout.quarantine_dir())?;
    match disk.sync_dir(path.parent().unwrap_or(Path::new("/"))) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        synced => synced,
    }
}

fn reason_path(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_os_string();
    name.push(REASON_SUFFIX);
    PathBuf::from(name)
}

fn write_reason(disk: &dyn Disk, target: &Path, original: &Path, reason: &str) -> io::Result<()> {
    let text = format!("{}\n{reason}\n", original.display());
    match crashsafe::durable_replace(disk, &reason_path(target), text.as_bytes()) {
        Err(error) if is_no_space(&error) => {
            tracing::error!(%error, reason, "no room to write why the file is in quarantine");
            Ok(())
        }
        written => written,
    }
}

fn read_reason(disk: &dyn Disk, path: PathBuf) -> io::Result<Quarantined> {
    let text = match disk.read(&reason_path(&path)) {
        Err(e) if e.kind() == ErrorKind::NotFound => String::new(),
        read => String::from_utf8_lossy(&read?).into_owned(),
    };
    let (original, reason) = text.split_once('\n').unwrap_or(("", &text));
    let original = (!original.is_empty()).then(|| PathBuf::from(original));
    Ok(Quarantined { path, original, reason: reason.trim_end().to_string() })
}
