//! States appended to a file, for fakes whose disk may lose or tear what was not synced.
//!
//! ```text
//!   magic record record record …      record: length, the mark of the one before, its own mark, a whole state as JSON
//! ```
//!
//! Each change appends a record; the last whole one counts, and a torn tail is as if it had never been written.
//! So an un-synced change is there or not there after a cut, whatever the disk does to the bytes. A record counts only
//! behind the one it was written behind: of two that were not synced, a cut may lose the first and keep the second, and
//! what is written in the first one's place later must not bring the second one back.
//!
//! A simulation reads the same records over and over: each thread remembers what the bytes of recent ones mean.

use std::any::Any;
use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::Hasher;
use std::rc::Rc;

use serde::Serialize;
use serde::de::DeserializeOwned;

const RECORD_HEAD_BYTES: usize = 43;
const REMEMBERED_AT_MOST: usize = 2_000;

/// What can be a record: a value with a JSON form.
pub(super) trait State: Clone + Serialize + DeserializeOwned + 'static {}

impl<T: Clone + Serialize + DeserializeOwned + 'static> State for T {}

/// Tells a record from every other: a checksum of its content and of the mark before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Mark(u64);

impl Mark {
    /// Of the record that stands first.
    pub const FIRST: Mark = Mark(0);

    fn after(self, json: &[u8]) -> Mark {
        let mut hasher = rustc_hash::FxHasher::default();
        hasher.write_u64(self.0);
        hasher.write(json);
        Mark(hasher.finish())
    }
}

/// One state, ready to be appended behind the record with this mark; and its own mark.
pub(super) fn record<T: State>(state: &T, before: Mark) -> (Vec<u8>, Mark) {
    let json = serde_json::to_vec(state).expect("a fake's state has a JSON form");
    let mark = before.after(&json);
    let mut bytes = format!("{:08x} {:016x} {:016x} ", json.len(), before.0, mark.0).into_bytes();
    bytes.extend_from_slice(&json);
    remember(mark, json, Rc::new(state.clone()));
    (bytes, mark)
}

/// The last whole record.
#[derive(Debug)]
pub(super) struct Last<T> {
    pub state: T,
    pub begin: usize,
    pub end: usize,
    pub mark: Mark,
}

/// The last whole record; `None` without one. The bytes may begin with any record of the file.
pub(super) fn last_of<T: State>(bytes: &[u8]) -> Option<Last<T>> {
    let mut end = 0;
    let mut last: Option<(Found<'_>, usize)> = None;
    while let Some(found) = first_record(&bytes[end..])
        && last.is_none_or(|(before, _)| found.before == before.mark)
    {
        last = Some((found, end));
        end += RECORD_HEAD_BYTES + found.json.len();
    }
    let (found, begin) = last?;
    Some(Last { state: state_of(found)?, begin, end, mark: found.mark })
}

/// Good enough to tell a torn record from a whole one; the same in every process.
pub(super) fn checksum(bytes: &[u8]) -> u64 {
    let mut hasher = rustc_hash::FxHasher::default();
    hasher.write(bytes);
    hasher.finish()
}

/// A whole record as it lies there.
#[derive(Clone, Copy)]
struct Found<'a> {
    before: Mark,
    mark: Mark,
    json: &'a [u8],
}

fn first_record(bytes: &[u8]) -> Option<Found<'_>> {
    let head = std::str::from_utf8(bytes.get(..RECORD_HEAD_BYTES)?).ok()?;
    let length = usize::from_str_radix(head.get(..8)?, 16).ok()?;
    let before = Mark(u64::from_str_radix(head.get(9..25)?, 16).ok()?);
    let mark = Mark(u64::from_str_radix(head.get(26..42)?, 16).ok()?);
    let json = bytes.get(RECORD_HEAD_BYTES..RECORD_HEAD_BYTES + length)?;
    (before.after(json) == mark).then_some(Found { before, mark, json })
}

fn state_of<T: State>(found: Found<'_>) -> Option<T> {
    let known = KNOWN.with_borrow(|known| {
        let (bytes, state) = known.get(&found.mark)?;
        state.downcast_ref::<T>().filter(|_| bytes == found.json).cloned()
    });
    if known.is_some() {
        return known;
    }
    let state: T = serde_json::from_slice(found.json).ok()?;
    remember(found.mark, found.json.to_vec(), Rc::new(state.clone()));
    Some(state)
}

/// The JSON of a record, and what it says.
type Known = (Vec<u8>, Rc<dyn Any>);

thread_local! {
    static KNOWN: RefCell<HashMap<Mark, Known, rustc_hash::FxBuildHasher>> = RefCell::default();
}

fn remember(mark: Mark, json: Vec<u8>, state: Rc<dyn Any>) {
    KNOWN.with_borrow_mut(|known| {
        if known.len() >= REMEMBERED_AT_MOST {
            known.clear();
        }
        known.insert(mark, (json, state));
    });
}
