//! `zfs-test`: runs tests on real OpenZFS, inside a guest, and says how they went.
//!
//! Builds the guest (once) and the tests it is told of, boots, passes on what they say, and ends non-zero if one fails. On a
//! machine where OpenZFS's modules cannot be built it says why it skips, and ends well; `--required` makes that a failure.

#![allow(clippy::disallowed_methods, reason = "it measures real time and drives real processes")]

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Parser;
use holdfast_tests::zfs_guest::ZfsGuest;
use holdfast_tests::zfs_guest::trial::{self, Trial};

/// Test binaries that mean something on ZFS: ZFS volumes by each way to speak to ZFS, and the qcow2 suite with its images on a ZFS
/// file system.
const TESTS: [&str; 2] = ["zvol_real", "conformance"];

/// Runs tests on real OpenZFS, inside a guest
#[derive(Debug, Parser)]
#[command(name = "zfs-test", version)]
struct Arguments {
    /// Of all in the workspace, the test targets to run
    #[arg(long = "test", default_values_t = TESTS.map(String::from))]
    tests: Vec<String>,
    /// Goes to cargo: features the tests are built with
    #[arg(long)]
    features: Option<String>,
    /// How long the guest may take, in seconds; alone on a machine it needs a quarter of that
    #[arg(long, default_value_t = 800)]
    seconds: u64,
    /// `tcg`, or `kvm` where that is known to work
    #[arg(long, default_value = "tcg")]
    accelerator: String,
    /// Fail where the guest cannot be built, in place of skipping
    #[arg(long)]
    required: bool,
    /// Goes to each test binary. What tests fakes needs no guest
    #[arg(last = true, default_values_t = ["--skip", "the_fake"].map(String::from))]
    test_arguments: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("zfs-test: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let guest = match ZfsGuest::ensure() {
        Ok(guest) => guest,
        Err(why) => return skip(arguments, &why.to_string()),
    };
    if let Err(why) = &guest.zfs {
        return skip(arguments, why);
    }
    let trials = build(arguments)?;
    let scratch = tempfile::tempdir()?;
    let started = Instant::now();
    let within = Duration::from_secs(arguments.seconds);
    let codes = trial::run(&guest, &trials, scratch.path(), &arguments.accelerator, within, |line| {
        println!("{line}");
    })?;
    let code_of = |trial: &Trial| codes.get(&trial.name).copied();
    let failed: Vec<&str> =
        trials.iter().filter(|trial| code_of(trial) != Some(0)).map(|trial| trial.name.as_str()).collect();
    println!(
        "zfs-test: binaries={} failed={} seconds={:.1}",
        trials.len(),
        failed.len(),
        started.elapsed().as_secs_f64()
    );
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    bail!("failed, or not come to an end: {}", failed.join(", "))
}

fn skip(arguments: &Arguments, why: &str) -> anyhow::Result<ExitCode> {
    if arguments.required {
        bail!("there is no guest with OpenZFS: {why}");
    }
    println!("zfs-test: skipped: {why}");
    Ok(ExitCode::SUCCESS)
}

/// Has cargo build the tests, with the features of the whole workspace, so that nothing is built twice.
fn build(arguments: &Arguments) -> anyhow::Result<Vec<Trial>> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["test", "--workspace", "--no-run", "--message-format=json-render-diagnostics"]);
    if let Some(features) = &arguments.features {
        cargo.args(["--features", features]);
    }
    for test in &arguments.tests {
        cargo.args(["--test", test]);
    }
    let output =
        cargo.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("cargo cannot be run")?;
    if !output.status.success() {
        bail!("cargo ends with {}", output.status);
    }
    let messages = String::from_utf8(output.stdout)?;
    let mut built: Vec<Trial> = messages.lines().filter_map(|line| executable(line, arguments)).collect();
    built.sort_by_key(|trial| arguments.tests.iter().position(|name| *name == trial.name));
    if built.is_empty() {
        bail!("cargo built none of {}", arguments.tests.join(", "));
    }
    Ok(built)
}

/// A test's executable, if this line of cargo's is about one.
fn executable(line: &str, arguments: &Arguments) -> Option<Trial> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let name = message["target"]["name"].as_str()?.to_owned();
    let is_wanted = message["profile"]["test"] == true && arguments.tests.contains(&name);
    let binary = PathBuf::from(message["executable"].as_str().filter(|_| is_wanted)?);
    Some(Trial { name, binary, arguments: arguments.test_arguments.join(" ") })
}
