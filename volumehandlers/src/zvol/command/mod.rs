//! [`Zfs`] by the `zfs` and `zpool` commands, OpenZFS 2.1 and newer.
//!
//! ```text
//!   zfs create -s -V … -o …      zfs set     zfs destroy     zfs snapshot a@s b@s      zfs get -H -p     zpool get -H -p
//!   zfs program -j POOL - …      programs/: rollback, destruction and listing of snapshots
//!   device.rs                    the block device: is it there, who has it open, flush
//! ```
//!
//! No shell; names are arguments, and programs are constants. Error texts (in the C locale) are sorted into kinds in `errors.rs`.
//! A command that is killed, cancelled or overdue, leaves its transaction group done or not: the kernel goes on alone.
//!
//! Deliberately absent: retries, and anything that remembers a call.

mod errors;
mod parse;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::errors::sort_error;
use super::device;
use super::programs::{self, INSTRUCTIONS_AT_MOST, MEMORY_AT_MOST_BYTES, Program};
use super::zfs::{
    AgreedOf, Bookmark, Dataset, LONGEST_NAME_BYTES, NewZvol, REVERTED_PROPERTY, Room, STATE_PROPERTY,
    SnapshotOf, Zfs, ZfsError, ZfsSnapshot, Zvol,
};
use crate::context::HandlerCx;
use crate::error::ToolError;
use crate::process::{self, Ended};

/// A look needs no transaction group, only a pool that answers.
const LOOK_LIMIT: Duration = Duration::from_secs(60);
/// A transaction group takes seconds; on a slow disk with much unwritten data, minutes.
const CHANGE_LIMIT: Duration = Duration::from_secs(300);

/// The programs of OpenZFS.
#[derive(Debug, Clone)]
pub struct CommandZfs {
    zfs: PathBuf,
    zpool: PathBuf,
}

impl CommandZfs {
    /// As found by `PATH`.
    pub fn new() -> Self {
        CommandZfs::at("zfs", "zpool")
    }

    pub fn at(zfs: impl Into<PathBuf>, zpool: impl Into<PathBuf>) -> Self {
        CommandZfs { zfs: zfs.into(), zpool: zpool.into() }
    }

    /// `object` is what the command is about, for its error.
    fn zfs(
        &self,
        arguments: &[&str],
        object: &str,
        limit: Duration,
        cx: &HandlerCx<'_>,
    ) -> Result<String, ZfsError> {
        self.run(&self.zfs, arguments, b"", object, limit, cx)
    }

    fn run(
        &self,
        program: &Path,
        arguments: &[&str],
        input: &[u8],
        object: &str,
        limit: Duration,
        cx: &HandlerCx<'_>,
    ) -> Result<String, ZfsError> {
        tracing::debug!(program = %program.display(), ?arguments, "running");
        let what = || format!("{} {}", program.display(), arguments.first().unwrap_or(&""));
        let words: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        let ended = process::run_with_input(program, &words, input, limit, cx)
            .map_err(|error| not_run(what(), error))?;
        let Ended { status, stdout, stderr } = ended;
        if !status.success() {
            return Err(sort_error(&what(), object, &stderr));
        }
        String::from_utf8(stdout)
            .map_err(|_| ZfsError::Unreadable { what: what(), reason: "it is no text".to_owned() })
    }

    fn run_program(&self, program: &Program, pool: &str, cx: &HandlerCx<'_>) -> Result<String, ZfsError> {
        let (instructions, memory) = (INSTRUCTIONS_AT_MOST.to_string(), MEMORY_AT_MOST_BYTES.to_string());
        let mut words = vec!["program", if program.changes { "-j" } else { "-jn" }];
        words.extend(["-t", &instructions, "-m", &memory, pool, "-"]);
        words.extend(program.arguments.iter().map(String::as_str));
        let limit = if program.changes { CHANGE_LIMIT } else { LOOK_LIMIT };
        let answer = self.run(&self.zfs, &words, program.text.as_bytes(), pool, limit, cx)?;
        parse::program_answer(program.what, &answer)
    }

    /// Refuses a pool that is away, suspended or read-only.
    pub(super) fn check_pool(&self, pool: &str) -> Result<(), ZfsError> {
        let words = ["get", "-H", "-p", "-o", "property,value", "health,readonly", pool];
        let cx = HandlerCx::unattended();
        let answer = self.run(&self.zpool, &words, b"", pool, LOOK_LIMIT, &cx)?;
        parse::pool_state(pool, &answer)
    }

    fn exists(&self, dataset: &str) -> Result<bool, ZfsError> {
        let cx = HandlerCx::unattended();
        match self.zfs(&["list", "-H", "-o", "name", dataset], dataset, LOOK_LIMIT, &cx) {
            Ok(_) => Ok(true),
            Err(ZfsError::Missing { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The datasets above this one, without mount points: nothing of them covers a directory.
    fn create_parents(&self, dataset: &Dataset, cx: &HandlerCx<'_>) -> Result<(), ZfsError> {
        let name = dataset.as_str();
        let above: Vec<&str> = name.match_indices('/').map(|(at, _)| &name[..at]).collect();
        let mut missing = Vec::new();
        for parent in above.into_iter().rev() {
            if self.exists(parent)? {
                break;
            }
            missing.push(parent);
        }
        if missing.last() == Some(&dataset.pool()) {
            return Err(ZfsError::NoPool { pool: dataset.pool().to_owned() });
        }
        for parent in missing.into_iter().rev() {
            let words = ["create", "-o", "canmount=off", "-o", "mountpoint=none", parent];
            match self.zfs(&words, parent, CHANGE_LIMIT, cx) {
                // Another volume's creation came first.
                Ok(_) | Err(ZfsError::Exists { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn properties(&self, target: &str, depth: &str) -> Result<Vec<Zvol>, ZfsError> {
        let wanted = format!("volsize,used,{STATE_PROPERTY},{REVERTED_PROPERTY}");
        let words =
            ["get", "-H", "-p", "-t", "volume", "-d", depth, "-o", "name,property,value,source", &wanted];
        let words: Vec<&str> = words.into_iter().chain([target]).collect();
        let answer = self.zfs(&words, target, LOOK_LIMIT, &HandlerCx::unattended())?;
        parse::volumes(&answer)
    }

    /// For a rollback that destroys: the bookmarks of its volumes. The kernel itself looks at them only when that has happened.
    pub(super) fn marks(
        &self,
        group: &[SnapshotOf],
        agreed: &[AgreedOf],
    ) -> Result<Vec<(Dataset, Bookmark)>, ZfsError> {
        let mut marks = Vec::new();
        for SnapshotOf { dataset, .. } in group {
            if agreed.iter().any(|one| one.dataset == *dataset) {
                marks.extend(self.bookmarks(dataset)?.into_iter().map(|mark| (dataset.clone(), mark)));
            }
        }
        Ok(marks)
    }

    /// Who or what keeps a snapshot, where the kernel says only that something does.
    pub(super) fn with_names(&self, error: ZfsError, snapshots: impl Fn(&Dataset) -> Found) -> ZfsError {
        let object = match &error {
            ZfsError::Held { object, tags } if tags.is_empty() => object.clone(),
            ZfsError::HasClones { object, clones } if clones.is_empty() => object.clone(),
            _ => return error,
        };
        let Some((dataset, name)) = object.split_once('@') else { return error };
        let found = Dataset::parse(dataset).ok().and_then(|dataset| snapshots(&dataset).ok());
        match found.and_then(|found| found.into_iter().find(|snapshot| snapshot.name == name)) {
            Some(found) if !found.clones.is_empty() => ZfsError::HasClones { object, clones: found.clones },
            Some(found) if !found.holds.is_empty() => ZfsError::Held { object, tags: found.holds },
            _ => ZfsError::Busy { object, user: "something reads it, a send for example".to_owned() },
        }
    }
}

type Found = Result<Vec<ZfsSnapshot>, ZfsError>;

impl Default for CommandZfs {
    fn default() -> Self {
        CommandZfs::new()
    }
}

impl Zfs for CommandZfs {
    fn room(&self, dataset: &Dataset) -> Result<Room, ZfsError> {
        self.check_pool(dataset.pool())?;
        let mut target = dataset.as_str();
        loop {
            let words = ["get", "-H", "-p", "-o", "value", "available", target];
            match self.zfs(&words, target, LOOK_LIMIT, &HandlerCx::unattended()) {
                Ok(answer) => return parse::available(&answer),
                // Not made yet: there is as much room as above it.
                Err(ZfsError::Missing { object }) => match target.rsplit_once('/') {
                    Some((parent, _)) => target = parent,
                    None => return Err(ZfsError::Missing { object }),
                },
                Err(error) => return Err(error),
            }
        }
    }

    fn volumes(&self, parent: &Dataset) -> Result<Vec<Zvol>, ZfsError> {
        match self.properties(parent.as_str(), "1") {
            Ok(volumes) => Ok(volumes.into_iter().filter(|volume| volume.dataset != *parent).collect()),
            // No parent, or no pool?
            Err(ZfsError::Missing { .. }) => {
                self.check_pool(parent.pool()).map(|()| Vec::new()).or_else(readable)
            }
            Err(error) => Err(error),
        }
    }

    fn volume(&self, dataset: &Dataset) -> Result<Zvol, ZfsError> {
        let missing = || ZfsError::Missing { object: dataset.to_string() };
        match self.properties(dataset.as_str(), "0") {
            Ok(found) => found.into_iter().next().ok_or_else(missing),
            Err(ZfsError::Missing { .. }) => {
                self.check_pool(dataset.pool()).or_else(readable)?;
                Err(missing())
            }
            Err(error) => Err(error),
        }
    }

    fn create_volume(&self, dataset: &Dataset, new: &NewZvol, cx: &HandlerCx<'_>) -> Result<(), ZfsError> {
        let (size, block) = (new.size_bytes.to_string(), new.block_size_bytes.to_string());
        let properties: Vec<String> =
            new.properties.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut words = vec!["create", "-s", "-V", &size, "-b", &block];
        for property in &properties {
            words.extend(["-o", property]);
        }
        words.push(dataset.as_str());
        let create = || self.zfs(&words, dataset.as_str(), CHANGE_LIMIT, cx);
        let made = match create() {
            // What is above it is missing, as it is for the first volume of a node.
            Err(ZfsError::Missing { .. }) => self.create_parents(dataset, cx).and_then(|()| create()),
            made => made,
        };
        made.map_err(|error| errors::with_value(error, &properties))?;
        device::wait_for(dataset, cx)
    }

    fn set_property(&self, dataset: &Dataset, property: &str, value: &str) -> Result<(), ZfsError> {
        let setting = format!("{property}={value}");
        self.zfs(
            &["set", &setting, dataset.as_str()],
            dataset.as_str(),
            CHANGE_LIMIT,
            &HandlerCx::unattended(),
        )
        .map(drop)
        .map_err(|error| errors::with_value(error, &[setting]))
    }

    fn destroy_volume(&self, dataset: &Dataset, cx: &HandlerCx<'_>) -> Result<(), ZfsError> {
        let destroyed = self.zfs(&["destroy", dataset.as_str()], dataset.as_str(), CHANGE_LIMIT, cx);
        destroyed.map(drop).map_err(|error| device::with_user(error, dataset))
    }

    fn flush(&self, dataset: &Dataset) -> Result<(), ZfsError> {
        device::flush(dataset)
    }

    fn user_of(&self, dataset: &Dataset) -> Result<Option<String>, ZfsError> {
        device::user_of(dataset)
    }

    fn snapshots(&self, dataset: &Dataset) -> Result<Vec<ZfsSnapshot>, ZfsError> {
        let program = Program::list(dataset);
        let answer = self.run_program(&program, dataset.pool(), &HandlerCx::unattended())?;
        programs::read_list(program.what, &answer)
    }

    fn bookmarks(&self, dataset: &Dataset) -> Result<Vec<Bookmark>, ZfsError> {
        let words =
            ["list", "-H", "-p", "-t", "bookmark", "-d", "1", "-o", "name,createtxg", dataset.as_str()];
        let answer = self.zfs(&words, dataset.as_str(), LOOK_LIMIT, &HandlerCx::unattended())?;
        parse::bookmarks(&answer)
    }

    fn snapshot(&self, group: &[SnapshotOf], cx: &HandlerCx<'_>) -> Result<(), ZfsError> {
        let Some(first) = group.first() else { return Ok(()) };
        refuse_long(group)?;
        let names: Vec<String> = group.iter().map(SnapshotOf::to_string).collect();
        let words: Vec<&str> = ["snapshot"].into_iter().chain(names.iter().map(String::as_str)).collect();
        self.zfs(&words, first.dataset.as_str(), CHANGE_LIMIT, cx).map(drop)
    }

    fn rollback(
        &self,
        group: &[SnapshotOf],
        agreed: &[AgreedOf],
        token: &str,
        cx: &HandlerCx<'_>,
    ) -> Result<(), ZfsError> {
        let Some(first) = group.first() else { return Ok(()) };
        let marks = self.marks(group, agreed)?;
        let program = Program::rollback(group, agreed, &marks, token);
        let answer = self.run_program(&program, first.dataset.pool(), cx)?;
        let done = programs::read_done(program.what, &answer);
        let done = done.map_err(|error| device::with_users(error, group));
        done.map_err(|error| self.with_names(error, |dataset| self.snapshots(dataset)))
    }

    fn destroy_snapshots(&self, group: &[SnapshotOf], cx: &HandlerCx<'_>) -> Result<(), ZfsError> {
        let Some(first) = group.first() else { return Ok(()) };
        let program = Program::destroy(group);
        let answer = self.run_program(&program, first.dataset.pool(), cx)?;
        let done = programs::read_done(program.what, &answer);
        done.map_err(|error| self.with_names(error, |dataset| self.snapshots(dataset)))
    }
}

/// A pool that is only read-only can be looked at.
fn readable<T: Default>(error: ZfsError) -> Result<T, ZfsError> {
    match error {
        ZfsError::ReadOnly { .. } => Ok(T::default()),
        error => Err(error),
    }
}

pub(super) fn refuse_long(group: &[SnapshotOf]) -> Result<(), ZfsError> {
    match group.iter().map(SnapshotOf::to_string).find(|name| name.len() > LONGEST_NAME_BYTES) {
        Some(object) => Err(ZfsError::NameTooLong { object }),
        None => Ok(()),
    }
}

fn not_run(what: String, error: ToolError) -> ZfsError {
    match error {
        ToolError::NotInstalled { program } => {
            ZfsError::NotInstalled { program: program.display().to_string() }
        }
        ToolError::Cancelled => ZfsError::Cancelled,
        ToolError::TimedOut { limit } => ZfsError::TimedOut { seconds: limit.as_secs() },
        other => ZfsError::Failed { what, said: holdfast_types::error_chain(&other) },
    }
}
