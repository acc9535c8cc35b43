//! [`Zfs`] by libzetta: snapshots, their destruction and channel programs (rollback, lists) go to the kernel through the library,
//! without a process each; what the library lacks goes to [`CommandZfs`] ([003] K1).
//!
//! Each call of the library is guarded: its panic is an error ([`ZfsError::Panicked`]). It has no deadline and cannot be cancelled
//! once begun: the kernel ends it with the transaction group.
//!
//! Deliberately absent: the library's own listing and reading of properties, whose parser panics on values it does not know.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;

use ::libzetta::zfs::{DelegatingZfsEngine, DestroyTiming, Error, ValidationError, ZfsEngine};
use libnv::nvpair::{NvList, Value};

use super::caught::caught;
use super::command::{CommandZfs, refuse_long};
use super::device;
use super::programs::{self, INSTRUCTIONS_AT_MOST, MEMORY_AT_MOST_BYTES, Program, of_errno};
use super::zfs::{AgreedOf, Bookmark, Dataset, NewZvol, Room, SnapshotOf, Zfs, ZfsError, ZfsSnapshot, Zvol};
use crate::context::HandlerCx;

/// The library, and the commands for what it lacks.
pub struct LibzettaZfs {
    engine: DelegatingZfsEngine,
    command: CommandZfs,
}

impl fmt::Debug for LibzettaZfs {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("LibzettaZfs").field("command", &self.command).finish_non_exhaustive()
    }
}

impl LibzettaZfs {
    /// Needs the kernel's module: without it, [`ZfsError::NotLoaded`].
    pub fn new() -> Result<Self, ZfsError> {
        let engine = caught("opening ZFS", || DelegatingZfsEngine::new().map_err(not_opened))?;
        Ok(LibzettaZfs { engine, command: CommandZfs::new() })
    }

    fn run_program(&self, program: &Program, pool: &str) -> Result<String, ZfsError> {
        tracing::debug!(pool, arguments = ?program.arguments, "a channel program: {}", program.what);
        caught(program.what, || {
            let mut arguments = NvList::default();
            for (at, argument) in (1..).zip(&program.arguments) {
                let name = at.to_string();
                let given = arguments.insert_string(name.as_str(), argument.as_str());
                given.map_err(|error| failed(program.what, &error))?;
            }
            let (text, changes) = (program.text, program.changes);
            let done = self.engine.run_channel_program(
                pool,
                text,
                INSTRUCTIONS_AT_MOST,
                MEMORY_AT_MOST_BYTES,
                changes,
                arguments,
            );
            let answer = done.map_err(|error| of_library(program.what, pool, error))?;
            answer.get_string("return").map_err(|error| ZfsError::Unreadable {
                what: program.what.to_owned(),
                reason: format!("{error:?}"),
            })
        })
    }
}

impl Zfs for LibzettaZfs {
    fn room(&self, dataset: &Dataset) -> Result<Room, ZfsError> {
        self.command.room(dataset)
    }

    fn volumes(&self, parent: &Dataset) -> Result<Vec<Zvol>, ZfsError> {
        self.command.volumes(parent)
    }

    fn volume(&self, dataset: &Dataset) -> Result<Zvol, ZfsError> {
        self.command.volume(dataset)
    }

    fn create_volume(&self, dataset: &Dataset, new: &NewZvol, cx: &HandlerCx<'_>) -> Result<(), ZfsError> {
        self.command.create_volume(dataset, new, cx)
    }

    fn set_property(&self, dataset: &Dataset, property: &str, value: &str) -> Result<(), ZfsError> {
        self.command.set_property(dataset, property, value)
    }

    fn destroy_volume(&self, dataset: &Dataset, cx: &HandlerCx<'_>) -> Result<(), ZfsError> {
        self.command.destroy_volume(dataset, cx)
    }

    fn flush(&self, dataset: &Dataset) -> Result<(), ZfsError> {
        device::flush(dataset)
    }

    fn user_of(&self, dataset: &Dataset) -> Result<Option<String>, ZfsError> {
        device::user_of(dataset)
    }

    fn snapshots(&self, dataset: &Dataset) -> Result<Vec<ZfsSnapshot>, ZfsError> {
        let program = Program::list(dataset);
        let answer = self.run_program(&program, dataset.pool())?;
        programs::read_list(program.what, &answer)
    }

    fn bookmarks(&self, dataset: &Dataset) -> Result<Vec<Bookmark>, ZfsError> {
        self.command.bookmarks(dataset)
    }

    fn snapshot(&self, group: &[SnapshotOf], cx: &HandlerCx<'_>) -> Result<(), ZfsError> {
        let Some(first) = begin(group, cx)? else { return Ok(()) };
        const WHAT: &str = "cutting snapshots";
        caught(WHAT, || {
            let done = self.engine.snapshot(&paths(group), None);
            done.map_err(|error| as_cut(of_library(WHAT, first.dataset.as_str(), error)))
        })
    }

    fn rollback(
        &self,
        group: &[SnapshotOf],
        agreed: &[AgreedOf],
        token: &str,
        cx: &HandlerCx<'_>,
    ) -> Result<(), ZfsError> {
        let Some(first) = begin(group, cx)? else { return Ok(()) };
        let marks = self.command.marks(group, agreed)?;
        let program = Program::rollback(group, agreed, &marks, token);
        let answer = self.run_program(&program, first.dataset.pool())?;
        let done = programs::read_done(program.what, &answer);
        let done = done.map_err(|error| device::with_users(error, group));
        done.map_err(|error| self.command.with_names(error, |dataset| self.snapshots(dataset)))
    }

    fn destroy_snapshots(&self, group: &[SnapshotOf], cx: &HandlerCx<'_>) -> Result<(), ZfsError> {
        let Some(first) = begin(group, cx)? else { return Ok(()) };
        const WHAT: &str = "destroying snapshots";
        let done = caught(WHAT, || {
            let done = self.engine.destroy_snapshots(&paths(group), DestroyTiming::RightNow);
            done.map_err(|error| of_library(WHAT, first.dataset.as_str(), error))
        });
        done.map_err(|error| self.command.with_names(error, |dataset| self.snapshots(dataset)))
    }
}

/// The first member, unless there is none; what the library would not notice is refused.
fn begin<'a>(group: &'a [SnapshotOf], cx: &HandlerCx<'_>) -> Result<Option<&'a SnapshotOf>, ZfsError> {
    if cx.cancelled() {
        return Err(ZfsError::Cancelled);
    }
    refuse_long(group)?;
    Ok(group.first())
}

fn paths(group: &[SnapshotOf]) -> Vec<PathBuf> {
    group.iter().map(|member| PathBuf::from(member.to_string())).collect()
}

/// `object` is what the call was about; an error for one of several names that one.
fn of_library(what: &str, object: &str, error: Error) -> ZfsError {
    match error {
        Error::MultiOpError(errors) => first_of(what, object, &errors),
        Error::Io(error) => match error.raw_os_error() {
            Some(errno) => of_errno(what, object, errno),
            None => failed(what, &error),
        },
        Error::DatasetNotFound(dataset) => ZfsError::Missing { object: dataset.display().to_string() },
        Error::ChanProgInval(said) | Error::ChanProgRuntime(said) => {
            ZfsError::Failed { what: what.to_owned(), said: words_of(&said) }
        }
        Error::ValidationErrors(errors) => match errors.into_iter().next() {
            Some(ValidationError::NameTooLong(name)) => {
                ZfsError::NameTooLong { object: name.display().to_string() }
            }
            other => failed(what, &other),
        },
        other => failed(what, &other),
    }
}

/// Sorted, so that the same trouble is told the same way.
fn first_of(what: &str, object: &str, errors: &HashMap<String, Value>) -> ZfsError {
    let number = |value: &Value| match value {
        Value::Int32(errno) => Some(*errno),
        _ => None,
    };
    let first = errors.iter().filter_map(|(name, value)| Some((name, number(value)?))).min();
    match first {
        Some((name, errno)) => of_errno(what, name, errno),
        None => ZfsError::Failed { what: format!("{what} ({object})"), said: format!("{errors:?}") },
    }
}

/// While something is made, "exists" is about what is there already, and "busy" about a volume that is just then reverted.
fn as_cut(error: ZfsError) -> ZfsError {
    match error {
        ZfsError::HasClones { object, .. } => ZfsError::Exists { object },
        ZfsError::Held { object, .. } => ZfsError::Busy { object, user: "ZFS works on it".to_owned() },
        ZfsError::Missing { object } => {
            let object = object.split('@').next().unwrap_or_default().to_owned();
            ZfsError::Missing { object }
        }
        error => error,
    }
}

fn words_of(said: &HashMap<String, Value>) -> String {
    match said.get("error") {
        Some(Value::String(words)) => words.clone(),
        _ => format!("{said:?}"),
    }
}

fn not_opened(error: Error) -> ZfsError {
    match error {
        Error::LZCInitializationFailed(_) => ZfsError::NotLoaded,
        other => failed("opening ZFS", &other),
    }
}

fn failed(what: &str, error: &impl fmt::Debug) -> ZfsError {
    ZfsError::Failed { what: what.to_owned(), said: format!("{error:?}") }
}
