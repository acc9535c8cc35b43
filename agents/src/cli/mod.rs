//! The `holdfast` command: what can be asked of it, and what its exit code means.
//!
//! ```text
//!   arguments ──args.rs──▶ Command ─┬─ node ─▶ settings ─▶ node.rs, until it is told to stop
//!                                   └─ query, order ─▶ client.rs ─▶ the node's socket ─▶ tables.rs, or the JSON as it came
//! ```
//!
//! Everything a person reads is made by pure functions of documents in `tables.rs`, and kept as golden transcripts.

pub mod act;
pub mod args;
pub mod client;
pub mod follow;
pub mod query;
pub mod tables;
pub mod watch;

use std::io::Write;
use std::process::ExitCode;

use holdfast_types::error_chain;

use crate::node;
use crate::settings::{Layers, Settings, SettingsError};
use args::{Command, Invocation};
use client::ClientError;

/// Why the command ends other than well; the exit codes are promised in `--help`.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Node(#[from] node::NodeError),
    #[error("cannot print")]
    Print(#[from] std::io::Error),
    /// The question was answered; the answer is that something failed.
    #[error("{0}")]
    Failed(String),
}

impl CommandError {
    pub fn exit_code(&self) -> u8 {
        match self {
            CommandError::Settings(_) => 2,
            CommandError::Client(ClientError::NotReachable { .. } | ClientError::Ended { .. }) => 3,
            CommandError::Client(ClientError::NotFound { .. }) => 4,
            CommandError::Client(_)
            | CommandError::Node(_)
            | CommandError::Print(_)
            | CommandError::Failed(_) => 1,
        }
    }

    /// Whoever read our output has gone: nobody is left to be told.
    fn is_broken_pipe(&self) -> bool {
        matches!(self, CommandError::Print(error) if error.kind() == std::io::ErrorKind::BrokenPipe)
    }
}

/// Does what the command line says. Everything goes through here, errors included.
pub fn main() -> ExitCode {
    // Prints help or a usage error itself, and exits with 0 or 2.
    let invocation = args::parse();
    match run(invocation) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "holdfast: {}", error_chain(&error));
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(invocation: Invocation) -> Result<(), CommandError> {
    let variable = |name: &str| std::env::var(name).ok();
    match invocation.command {
        Command::Node(arguments) => {
            let layers = Layers::gather(arguments.values(invocation.socket), invocation.config, variable)?;
            Ok(node::run(Settings::resolve(&layers)?)?)
        }
        Command::Query(question) => {
            let flags = args::socket_value(invocation.socket);
            let layers = Layers::gather_for_client(flags, invocation.config, variable)?;
            query::run(&crate::settings::resolve_socket(&layers)?, &question)
        }
        Command::Order { json, order } => {
            let flags = args::socket_value(invocation.socket);
            let layers = Layers::gather_for_client(flags, invocation.config, variable)?;
            query::order(&crate::settings::resolve_socket(&layers)?, &order, json)
        }
    }
}
