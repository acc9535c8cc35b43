//! zedagent's slow work: reading the saved configuration, asking the controller, telling the controller.
//!
//! Each call is made once and its end is a value; when to try again is the agent's to say. Asking again, telling again
//! and reading again are always right, so any of them may be cut off anywhere.

use std::fmt;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use holdfast_persist::{Disk, PersistLayout, crashsafe};
use holdfast_types::error_chain;

use super::checkpoint::{self, Checkpoint};
use super::report::ReportObject;
use crate::runtime::{Backend, Job, JobId};
use crate::wire::config::{ConfigRequest, ConfigResponse};
use crate::wire::info::ZInfoMsg;
use crate::wire::{ControllerLink, Fetched};

/// What the jobs work on.
#[derive(Debug, Clone)]
pub struct ZedagentEnv {
    pub link: Arc<dyn ControllerLink>,
    pub disk: Arc<dyn Disk>,
    pub layout: PersistLayout,
}

#[derive(Debug, Clone)]
pub enum ZedagentJob {
    ReadCheckpoint,
    /// Questions are numbered: an answer is to the question of its number. `sweeps`: there may be remains of a
    /// configuration that was cut off while it was saved.
    AskConfig {
        question: u64,
        config_hash: String,
        sweeps: bool,
    },
    /// `number` is the outbox's.
    SendReport {
        object: ReportObject,
        number: u64,
        message: Box<ZInfoMsg>,
    },
}

impl Job for ZedagentJob {
    fn id(&self) -> JobId {
        match self {
            ZedagentJob::ReadCheckpoint => JobId::new("read the saved configuration"),
            ZedagentJob::AskConfig { question, .. } => {
                JobId::new(format_args!("ask for the configuration, {question}"))
            }
            ZedagentJob::SendReport { object, number, .. } => {
                JobId::new(format_args!("report {object}, {number}"))
            }
        }
    }

    fn object(&self) -> String {
        match self {
            ZedagentJob::ReadCheckpoint | ZedagentJob::AskConfig { .. } => "configuration".to_owned(),
            ZedagentJob::SendReport { object, .. } => format!("report of {object}"),
        }
    }

    fn backend(&self) -> Backend {
        match self {
            ZedagentJob::ReadCheckpoint => Backend::Storage,
            ZedagentJob::AskConfig { .. } | ZedagentJob::SendReport { .. } => Backend::Controller,
        }
    }

    /// The link has its own, per connection and per call.
    fn deadline(&self) -> Option<Duration> {
        None
    }
}

/// What the saved configuration was found to be.
#[derive(Debug)]
pub enum CheckpointRead {
    /// There never was one.
    Missing,
    Found(Box<Checkpoint>),
    /// A note that an earlier one was lost, and why.
    Lost(String),
    /// To be moved aside.
    Damaged(String),
    /// The disk did not give it; it may be whole.
    Unreadable(String),
}

/// What the controller answered.
#[derive(Debug)]
pub enum Answer {
    Unchanged,
    Config(Received),
    /// Not a configuration ([003] A9).
    Undecodable(String),
    /// No answer, or a refusal.
    Failed(String),
}

/// A configuration as it came. Its `Debug` form hides it: it may hold secrets.
pub struct Received {
    pub raw: Vec<u8>,
    pub response: Box<ConfigResponse>,
}

impl fmt::Debug for Received {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Received")
            .field("size_bytes", &self.raw.len())
            .field("config_hash", &self.response.config_hash)
            .finish_non_exhaustive()
    }
}

/// Removes what is left of a configuration that was cut off while it was saved; says why, if something may be left all the same,
/// and then it is to be tried again: with the controller away, or having gone back to what is saved, nothing would ever be
/// written over it, and it may hold secrets. On a read-only file system it stays until a start that may write. Changes nothing else.
///
/// A temporary that is still being written looks the same, so it is for jobs during which nothing is saved: the reading of
/// the saved configuration and a question. They start when what came before them is durable, and what comes next is saved
/// upon their end.
pub fn sweep_remains(env: &ZedagentEnv) -> Option<String> {
    let swept = crashsafe::sweep_temporaries(&*env.disk, &env.layout.checkpoint_dir());
    swept.err().map(|error| error_chain(&error))
}

/// Reads the saved configuration.
///
/// What is found is durable: an earlier process may have ended between the rename and the sync of the directory, and nobody
/// may act on a configuration that a cut could still take back. A snapshot made on its word would be dropped on the older
/// one's (I3).
pub fn read_checkpoint(env: &ZedagentEnv) -> CheckpointRead {
    let found = env.disk.read(&env.layout.last_config_file());
    let bytes = match found {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return CheckpointRead::Missing,
        Err(error) => return CheckpointRead::Unreadable(error_chain(&error)),
    };
    match env.disk.sync_dir(&env.layout.checkpoint_dir()) {
        Err(error) if error.kind() != ErrorKind::ReadOnlyFilesystem => {
            return CheckpointRead::Unreadable(error_chain(&error));
        }
        Ok(()) | Err(_) => {}
    }
    match checkpoint::read(&bytes) {
        Ok(Checkpoint { response, lost: Some(reason), .. }) if response.config.is_none() => {
            CheckpointRead::Lost(reason)
        }
        Ok(checkpoint) => CheckpointRead::Found(Box::new(checkpoint)),
        Err(damage) => CheckpointRead::Damaged(error_chain(&damage)),
    }
}

/// Blocks up to the link's deadline; changes nothing on either side.
pub fn ask_config(env: &ZedagentEnv, config_hash: String) -> Answer {
    let request = ConfigRequest { config_hash, ..Default::default() };
    match env.link.fetch_config(&request) {
        Ok(Fetched::Unchanged) => Answer::Unchanged,
        Ok(Fetched::Config { raw, response }) => {
            Answer::Config(Received { raw, response: Box::new(response) })
        }
        Ok(Fetched::Undecodable { error, .. }) => Answer::Undecodable(error_chain(&error)),
        Err(error) => Answer::Failed(error_chain(&error)),
    }
}

/// Blocks up to the link's deadline. After an error the controller may have the report all the same.
pub fn send_report(env: &ZedagentEnv, message: &ZInfoMsg) -> Result<(), String> {
    env.link.post_info(message).map_err(|error| error_chain(&error))
}
