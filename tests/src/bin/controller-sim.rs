//! `controller-sim`: a controller to try Holdfast with.
//!
//! In: the command line, a state folder, scenario files. Out: the device API and the admin endpoints over HTTP, or
//! a timeline. Exit status 0 when all went well, 1 when something failed, 2 for a wrong command line. What it does
//! is in the library; here are the words.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use holdfast_tests::controller::admin::Admin;
use holdfast_tests::controller::play;
use holdfast_tests::controller::scenario::Scenario;
use holdfast_tests::controller::{Server, ServerSettings, json};
use uuid::Uuid;

const DEFAULT_LISTEN: &str = "127.0.0.1:8870";
const DEFAULT_CONTROLLER: &str = "http://127.0.0.1:8870";

/// A controller for Holdfast nodes: serves their configuration, takes their reports, plays scenarios
#[derive(Debug, Parser)]
#[command(name = "controller-sim", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the controller until it is told to stop (SIGINT, SIGTERM)
    Serve {
        /// Where to listen, HOST:PORT; port 0 takes a free one
        #[arg(long, value_name = "ADDR", default_value = DEFAULT_LISTEN)]
        listen: String,
        /// Keep configurations and reports in this folder
        #[arg(long, value_name = "DIR")]
        state: PathBuf,
        /// Serve this folder's files under /files/, as content for datastores
        #[arg(long, value_name = "DIR")]
        files: Option<PathBuf>,
    },
    /// Play a scenario: push configurations, wait for reports, check them
    Play {
        scenario: PathBuf,
        /// The controller to play against, in place of the scenario's own choice
        #[arg(long, value_name = "URL")]
        controller: Option<String>,
        /// Play on after a failed step
        #[arg(long)]
        keep_going: bool,
    },
    /// Read or set a device's configuration at a running controller
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Print a device's reports, one JSON line each
    Info {
        device: Uuid,
        /// Only the newest report of each object
        #[arg(long)]
        latest: bool,
        #[command(flatten)]
        at: At,
    },
    /// List the devices a running controller knows
    Devices {
        #[command(flatten)]
        at: At,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the configuration as JSON
    Get {
        device: Uuid,
        #[command(flatten)]
        at: At,
    },
    /// Set the configuration from a JSON file
    Set {
        device: Uuid,
        /// The file; `-` reads the standard input
        file: PathBuf,
        #[command(flatten)]
        at: At,
    },
}

#[derive(Debug, clap::Args)]
struct At {
    /// The running controller's address
    #[arg(long, value_name = "URL", env = "HOLDFAST_CONTROLLER", default_value = DEFAULT_CONTROLLER)]
    controller: String,
}

impl At {
    fn admin(&self) -> Admin {
        Admin::new(&self.controller)
    }
}

fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("controller-sim: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve { listen, state, files } => {
            serve(ServerSettings { listen, state: Some(state), files })?
        }
        Command::Play { scenario, controller, keep_going } => {
            return play_file(&scenario, controller.as_deref(), keep_going);
        }
        Command::Config { command: ConfigCommand::Get { device, at } } => {
            let config = at.admin().config(device)?;
            let config = config.with_context(|| format!("the controller knows no device {device}"))?;
            print(&(json::to_text(&config) + "\n"))?;
        }
        Command::Config { command: ConfigCommand::Set { device, file, at } } => {
            at.admin().set_config_text(device, read(&file)?)?;
        }
        Command::Info { device, latest, at } => print(&at.admin().info_lines(device, latest)?)?,
        Command::Devices { at } => print(&at.admin().devices()?)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Serves until a signal. The address line on the standard output says that it answers.
fn serve(settings: ServerSettings) -> anyhow::Result<()> {
    // The signals are caught before the line is out: whoever reads it may send one at once.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _context = runtime.enter();
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let server = Server::start(&settings)?;
    print(&format!("controller-sim: listening on {}\n", server.url()))?;
    runtime.block_on(async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    });
    server.stop();
    Ok(())
}

fn play_file(path: &Path, controller: Option<&str>, keep_going: bool) -> anyhow::Result<ExitCode> {
    let text = read(path)?;
    let scenario = Scenario::read(&text, |name| std::env::var(name).ok());
    let scenario = scenario.with_context(|| format!("cannot play {}", path.display()))?;
    let tally = play::play(&scenario, controller, keep_going, &mut io::stdout())?;
    Ok(if tally.all_passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn read(path: &Path) -> anyhow::Result<String> {
    if path == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).context("cannot read the standard input")?;
        return Ok(text);
    }
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}
