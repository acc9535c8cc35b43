//! `soak-real`: kills whole nodes on real files, with the real `qemu-img`, and says whether one promise was ever broken.
//!
//! `soak-real worker PERSIST ORDERS` is the node that is killed; see `real_kills/mod.rs`.

#![allow(clippy::disallowed_methods, reason = "it measures real time and drives real processes")]

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use holdfast_tests::real_kills::place::FileSystem;
use holdfast_tests::real_kills::tally::Tally;
use holdfast_tests::real_kills::{group, lane, worker};

/// Kills whole nodes with SIGKILL while they create, roll back to and delete snapshots, and checks what becomes of them
#[derive(Debug, Parser)]
#[command(name = "soak-real", version)]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    /// Stop after this many kills that hit something
    #[arg(long, default_value_t = 2000)]
    kills: u64,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many nodes are killed side by side; 0 for two per core, since most of the time they wait for the disk
    #[arg(long, default_value_t = 0)]
    lanes: u64,
    /// Below it the persist directories are made; it must be on a real file system
    #[arg(long, default_value = "/var/tmp")]
    directory: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// The node that is killed
    #[command(hide = true)]
    Worker {
        persist: PathBuf,
        orders: PathBuf,
        /// Given, the controller is away at first, and these orders are the ones from before
        before: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.role {
        Some(Role::Worker { persist, orders, before }) => work(persist, orders, before.as_deref()),
        None => soak(&arguments),
    };
    done.unwrap_or_else(|error| {
        eprintln!("soak-real: {error:#}");
        ExitCode::FAILURE
    })
}

fn work(persist: &Path, orders: &Path, before: Option<&Path>) -> anyhow::Result<ExitCode> {
    let lines = tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false);
    let _ = lines.with_max_level(tracing::Level::INFO).try_init();
    worker::run(persist, orders, before).map(|()| ExitCode::SUCCESS)
}

fn soak(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    for tool in ["qemu-img", "qemu-io"] {
        Command::new(tool).arg("--version").output().with_context(|| format!("{tool} is needed"))?;
    }
    let base = base(&arguments.directory)?;
    group::become_reaper()?;
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let lanes = if arguments.lanes == 0 { 2 * cores } else { arguments.lanes };
    let program = std::env::current_exe()?;
    let (tally, failures) = (Tally::new(arguments.kills), Mutex::new(Vec::new()));
    let started = Instant::now();
    std::thread::scope(|scope| {
        for lane in 0..lanes {
            let (program, base, tally, failures) = (&program, &base, &tally, &failures);
            scope.spawn(move || {
                if let Err(error) = lane::run(program, base, arguments.seed, lane, tally) {
                    failures.lock().expect("no holder panics").push(error);
                }
            });
        }
    });
    let seconds = started.elapsed().as_secs_f64();
    let violations = tally.violations();
    violations.iter().for_each(|what| eprintln!("violation: {what}"));
    let failures = failures.into_inner().expect("no holder panics");
    failures.iter().for_each(|error| eprintln!("soak-real: {error:#}"));
    println!("{}", tally.summary());
    println!("kills={} violations={} seconds={seconds:.1}", tally.kills(), violations.len());
    if !violations.is_empty() || !failures.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    std::fs::remove_dir_all(&base).with_context(|| base.display().to_string())?;
    Ok(ExitCode::SUCCESS)
}

/// A fresh directory on a real file system.
fn base(below: &Path) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(below).with_context(|| below.display().to_string())?;
    let below = below.canonicalize()?;
    let file_system = FileSystem::of(&below)?;
    let name = file_system.name();
    if file_system.is_memory() {
        bail!("{} is on {name}, which is memory: give --directory on a real file system", below.display());
    }
    let base = below.join(format!("holdfast-soak-real-{}", std::process::id()));
    std::fs::create_dir(&base).with_context(|| base.display().to_string())?;
    let remark = if file_system.is_ext4() { "" } else { ", which is not ext4" };
    println!("persist directories: {} on {name}{remark}", base.display());
    Ok(base)
}
