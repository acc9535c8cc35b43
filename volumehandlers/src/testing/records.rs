//! States appended to a file, for fakes whose disk may lose or tear what was not synced.
//!
//! ```text
//!   magic record record record …      record: length, checksum, a whole state as JSON
//! ```
//!
//! Each change appends a record; the last whole one counts, and a torn tail is as if it had never been written.
//! So an un-synced change is there or not there after a cut, whatever the disk does to the bytes.
//!
//! A simulation reads the same records over and over: each thread remembers what the bytes of recent ones mean.

use std::any::Any;
use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::Hasher;
use std::rc::Rc;

use serde::Serialize;
use serde::de::DeserializeOwned;

const RECORD_HEAD_BYTES: usize = 26;
const REMEMBERED_AT_MOST: usize = 2_000;

/// What can be a record: a value with a JSON form.
pub(super) trait State: Clone + Serialize + DeserializeOwned + 'static {}

impl<T: Clone + Serialize + DeserializeOwned + 'static> State for T {}

/// One state, ready to be appended.
pub(super) fn record<T: State>(state: &T) -> Vec<u8> {
    let json = serde_json::to_vec(state).expect("a fake's state has a JSON form");
    let sum = checksum(&json);
    let mut bytes = format!("{:08x} {sum:016x} ", json.len()).into_bytes();
    bytes.extend_from_slice(&json);
    remember(sum, json, Rc::new(state.clone()));
    bytes
}

/// The last whole record's state, where that record begins and where it ends; `None` without a whole one.
pub(super) fn last_of<T: State>(bytes: &[u8]) -> Option<(T, usize, usize)> {
    let mut end = 0;
    let mut last = None;
    while let Some(found) = first_record(&bytes[end..]) {
        last = Some((found, end));
        end += RECORD_HEAD_BYTES + found.1.len();
    }
    let (found, begin) = last?;
    Some((state_of(found)?, begin, end))
}

/// Good enough to tell a torn record from a whole one; the same in every process.
pub(super) fn checksum(bytes: &[u8]) -> u64 {
    let mut hasher = rustc_hash::FxHasher::default();
    hasher.write(bytes);
    hasher.finish()
}

/// A whole record's checksum and JSON.
type Found<'a> = (u64, &'a [u8]);

fn first_record(bytes: &[u8]) -> Option<Found<'_>> {
    let head = std::str::from_utf8(bytes.get(..RECORD_HEAD_BYTES)?).ok()?;
    let length = usize::from_str_radix(head.get(..8)?, 16).ok()?;
    let sum = u64::from_str_radix(head.get(9..25)?, 16).ok()?;
    let json = bytes.get(RECORD_HEAD_BYTES..RECORD_HEAD_BYTES + length)?;
    (is_known((sum, json)) || checksum(json) == sum).then_some((sum, json))
}

fn state_of<T: State>((sum, json): Found<'_>) -> Option<T> {
    let known = KNOWN.with_borrow(|known| {
        let (bytes, state) = known.get(&sum)?;
        state.downcast_ref::<T>().filter(|_| bytes == json).cloned()
    });
    if known.is_some() {
        return known;
    }
    let state: T = serde_json::from_slice(json).ok()?;
    remember(sum, json.to_vec(), Rc::new(state.clone()));
    Some(state)
}

/// The JSON of a record, and what it says.
type Known = (Vec<u8>, Rc<dyn Any>);

thread_local! {
    /// By checksum.
    static KNOWN: RefCell<HashMap<u64, Known, rustc_hash::FxBuildHasher>> = RefCell::default();
}

fn is_known((sum, json): Found<'_>) -> bool {
    KNOWN.with_borrow(|known| known.get(&sum).is_some_and(|(bytes, _)| bytes == json))
}

fn remember(sum: u64, json: Vec<u8>, state: Rc<dyn Any>) {
    KNOWN.with_borrow_mut(|known| {
        if known.len() >= REMEMBERED_AT_MOST {
            known.clear();
        }
        known.insert(sum, (json, state));
    });
}
